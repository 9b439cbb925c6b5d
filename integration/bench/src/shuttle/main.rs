//! `wattle-shuttle` carries packets between a TUN device and one UDP peer, with every offload that the kernel offers.
//!
//!     wattle-shuttle IFNAME LOCAL:PORT REMOTE:PORT [CIPHER]          CIPHER: none, chacha20-poly1305 or aes-256-gcm
//!     wattle-shuttle relay LOCAL:PORT REMOTE:PORT LOCAL:PORT REMOTE:PORT
//!
//! It has no routing, no handshake, no replay window; its key is a constant. What it reaches is the limit that the
//! data-plane benchmark divides by: without a cipher what the machine can carry, with one what it can carry sealed. IPv4
//! inside and outside. Shares no code with the agent, so that a slow spot of ours cannot lower the limit. Each packet
//! carries 32 bytes, as a WireGuard message does. As a relay it is the middle of a chain of two shuttles.

mod burst;
mod cipher;
mod coalesce;
mod device;
mod packet;
mod sum;

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};

use crate::burst::Burst;
use crate::cipher::Cipher;
use crate::coalesce::Coalescer;
use crate::device::Tun;

/// Bytes in front of each packet: what WireGuard's type, receiver and counter take.
const HEADER: usize = 16;
/// Bytes behind each packet: what the authenticator takes.
const TAG: usize = 16;
/// Socket buffers, large enough for some full super-packets of each flow.
const SOCKET_BUFFER: usize = 7 << 20;
const USAGE: &str = "usage: wattle-shuttle IFNAME LOCAL:PORT REMOTE:PORT [none|chacha20-poly1305|aes-256-gcm]\n       \
                     wattle-shuttle relay LOCAL:PORT REMOTE:PORT LOCAL:PORT REMOTE:PORT";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["relay", local, remote, far_local, far_remote] => {
            relay(&socket(local, remote)?, &socket(far_local, far_remote)?)
        }
        [name, local, remote] => shuttle(name, &socket(local, remote)?, "none"),
        [name, local, remote, cipher] => shuttle(name, &socket(local, remote)?, cipher),
        _ => anyhow::bail!(USAGE),
    }
}

fn socket(local: &str, remote: &str) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(local).with_context(|| format!("cannot bind {local}"))?;
    setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER)?;
    setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER)?;
    setsockopt(&socket, sockopt::UdpGroSegment, &true)?;
    socket
        .connect(remote)
        .with_context(|| format!("cannot aim at {remote}"))?;
    Ok(socket)
}

fn shuttle(name: &str, socket: &UdpSocket, cipher: &str) -> Result<()> {
    let tun = Tun::open(name).with_context(|| {
        format!("cannot open the TUN device {name}: is this root, is there /dev/net/tun?")
    })?;
    let burst = Burst::new(socket.as_raw_fd(), Cipher::named(cipher)?);
    let device = tun.try_clone()?;
    std::thread::spawn(move || from_tun(device, burst));
    from_udp(socket, tun, &Cipher::named(cipher)?)
}

/// Reads super-packets until the device has no more, then hands what was gathered to the kernel.
fn from_tun(mut tun: Tun, mut burst: Burst) {
    let mut buffer = vec![0; packet::VNET + packet::LARGEST];
    loop {
        match tun.read(&mut buffer) {
            Ok(length) => packet::cut(&mut buffer[..length], &mut burst),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                burst.send();
                tun.wait();
            }
            Err(_) => {}
        }
    }
}

fn from_udp(socket: &UdpSocket, mut tun: Tun, cipher: &Cipher) -> Result<()> {
    let mut buffer = vec![0; packet::LARGEST];
    let mut coalescer = Coalescer::new(tun.takes_udp_batches());
    loop {
        let (length, segment) = burst::receive(socket.as_raw_fd(), &mut buffer)?;
        for datagram in buffer[..length].chunks_mut(segment) {
            if datagram.len() < HEADER + TAG + packet::SHORTEST {
                continue;
            }
            if let Some(packet) = cipher.open(datagram) {
                coalescer.push(packet, |done| drop(tun.write(done)));
            }
        }
        coalescer.finish(|done| drop(tun.write(done)));
    }
}

fn relay(near: &UdpSocket, far: &UdpSocket) -> Result<()> {
    std::thread::scope(|scope| {
        let back = scope.spawn(|| forward(far, near));
        forward(near, far)?;
        back.join()
            .map_err(|_| anyhow::anyhow!("the way back ended"))?
    })
}

/// Sends each batch on as it came.
fn forward(from: &UdpSocket, to: &UdpSocket) -> Result<()> {
    let mut buffer = vec![0; packet::LARGEST];
    loop {
        let (length, segment) = burst::receive(from.as_raw_fd(), &mut buffer)?;
        burst::send(to.as_raw_fd(), &buffer[..length], segment);
    }
}
