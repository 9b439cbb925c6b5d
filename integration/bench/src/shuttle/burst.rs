//! Datagrams of one size gathered into one `UDP_SEGMENT` send, and the `UDP_GRO` receive that undoes it.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::RawFd;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use crate::cipher::{Cipher, header};
use crate::{HEADER, TAG};

/// What every kernel with `UDP_SEGMENT` takes in one call.
const MOST_SEGMENTS: usize = 64;
/// A UDP datagram before segmentation must stay below 64 KiB with its headers.
const MOST_BYTES: usize = 65_000;

/// Datagrams that wait for one system call: all of one size, the last may be shorter.
pub(crate) struct Burst {
    socket: RawFd,
    cipher: Cipher,
    counter: u64,
    bytes: Vec<u8>,
    segment: usize,
    count: usize,
    closed: bool,
}

impl Burst {
    pub(crate) fn new(socket: RawFd, cipher: Cipher) -> Self {
        Self {
            socket,
            cipher,
            counter: 0,
            bytes: Vec::with_capacity(MOST_BYTES + 65_536),
            segment: 0,
            count: 0,
            closed: false,
        }
    }

    /// Appends a packet given in pieces, as one datagram, sealed where it then lies.
    pub(crate) fn push(&mut self, head: &[u8], payload: &[u8]) {
        let size = HEADER + head.len() + payload.len() + TAG;
        let full = self.count == MOST_SEGMENTS || self.bytes.len() + size > MOST_BYTES;
        if self.count > 0 && (self.closed || full || size > self.segment) {
            self.send();
        }
        if self.count == 0 {
            self.segment = size;
        }
        self.closed = size < self.segment;
        self.counter += 1;
        self.bytes.extend_from_slice(&header(self.counter));
        let start = self.bytes.len();
        self.bytes.extend_from_slice(head);
        self.bytes.extend_from_slice(payload);
        let tag = self.cipher.seal(self.counter, &mut self.bytes[start..]);
        self.bytes.extend_from_slice(&tag);
        self.count += 1;
    }

    /// Hands everything to the kernel.
    pub(crate) fn send(&mut self) {
        if self.count > 0 {
            send(self.socket, &self.bytes, self.segment);
        }
        self.bytes.clear();
        self.count = 0;
        self.closed = false;
    }
}

/// Sends datagrams of `segment` bytes, the last may be shorter; what the kernel refuses is lost, as on a wire.
pub(crate) fn send(socket: RawFd, bytes: &[u8], segment: usize) {
    let size = u16::try_from(segment).unwrap_or(u16::MAX);
    let several = [ControlMessage::UdpGsoSegments(&size)];
    let control = if bytes.len() > segment {
        &several[..]
    } else {
        &[]
    };
    let _lost = sendmsg::<()>(
        socket,
        &[IoSlice::new(bytes)],
        control,
        MsgFlags::empty(),
        None,
    );
}

/// Receives one buffer and the size of the datagrams in it.
pub(crate) fn receive(socket: RawFd, buffer: &mut [u8]) -> io::Result<(usize, usize)> {
    let mut control = cmsg_space!(i32);
    let mut into = [IoSliceMut::new(buffer)];
    let message = match recvmsg::<()>(socket, &mut into, Some(&mut control), MsgFlags::empty()) {
        Ok(message) => message,
        // The other end is not up yet, or a signal came.
        Err(nix::Error::ECONNREFUSED | nix::Error::EINTR) => return Ok((0, 1)),
        Err(error) => return Err(error.into()),
    };
    let mut segment = message.bytes.max(1);
    for told in message.cmsgs()? {
        if let ControlMessageOwned::UdpGroSegments(size) = told {
            segment = usize::try_from(size).unwrap_or(segment).max(1);
        }
    }
    Ok((message.bytes, segment))
}
