//! Bytes that are sent from one host to another and compared when they arrive: a TCP stream, UDP datagrams.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};

use crate::Host;

/// Bytes of one write and one read.
const CHUNK: usize = 64 << 10;
/// Nothing came for so long: the rest will not come.
const SILENCE: Duration = Duration::from_secs(4);

/// What arrived of a TCP stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// Bytes that arrived, all in order and intact.
    pub bytes: usize,
    /// The largest segment that the sender would send.
    pub mss: u32,
}

/// Sends a stream of so many bytes to an address of `to`; how much of it arrived before it stood still.
pub fn tcp(from: &Host, to: &Host, address: IpAddr, bytes: usize) -> Result<Delivery> {
    let listener = to.inside(|| Ok(TcpListener::bind((address, 0))?))?;
    let at = listener.local_addr()?;
    let mut sender = from.inside(|| Ok(TcpStream::connect_timeout(&at, SILENCE)?))?;
    let mss = getsockopt(&sender, sockopt::TcpMaxSeg)?;
    let (mut receiver, _) = listener.accept()?;
    receiver.set_read_timeout(Some(SILENCE))?;
    sender.set_write_timeout(Some(SILENCE))?;
    std::thread::scope(|scope| {
        // A stream that stands still is what the caller wants to know, not an error.
        scope.spawn(move || send(&mut sender, bytes));
        let bytes = receive(&mut receiver)?;
        Ok(Delivery { bytes, mss })
    })
}

fn send(stream: &mut TcpStream, bytes: usize) -> io::Result<()> {
    let mut sent = 0;
    while sent < bytes {
        let chunk: Vec<u8> = (sent..bytes.min(sent + CHUNK)).map(pattern).collect();
        stream.write_all(&chunk)?;
        sent += chunk.len();
    }
    stream.shutdown(std::net::Shutdown::Write)
}

fn receive(stream: &mut TcpStream) -> Result<usize> {
    let mut received = 0;
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = match stream.read(&mut chunk) {
            Ok(0) => return Ok(received),
            Ok(length) => length,
            Err(error) if is_silence(&error) => return Ok(received),
            Err(error) => return Err(error.into()),
        };
        for (place, byte) in (received..).zip(&chunk[..length]) {
            ensure!(
                *byte == pattern(place),
                "byte {place} of the stream is damaged"
            );
        }
        received += length;
    }
}

/// Sends datagrams of these sizes to an address of `to`; how many arrived, each as it was. With `segment`, the sender's
/// kernel is asked to cut each into datagrams of that size.
pub fn udp(
    from: &Host,
    to: &Host,
    address: IpAddr,
    sizes: &[usize],
    segment: Option<u16>,
) -> Result<usize> {
    let receiver = to.inside(|| Ok(UdpSocket::bind((address, 0))?))?;
    receiver.set_read_timeout(Some(SILENCE))?;
    let any: SocketAddr = if address.is_ipv4() {
        ([0; 4], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let sender = from.inside(|| Ok(UdpSocket::bind(any)?))?;
    sender.connect(receiver.local_addr()?)?;
    if let Some(segment) = segment {
        setsockopt(&sender, sockopt::UdpGsoSegment, &segment.into())?;
    }
    let mut expected = Vec::new();
    let mut arrived = 0;
    let mut buffer = vec![0; CHUNK];
    for (number, size) in sizes.iter().enumerate() {
        let payload: Vec<u8> = (number..number + size).map(pattern).collect();
        sender
            .send(&payload)
            .with_context(|| format!("sending {size} bytes"))?;
        let parts = payload.chunks(segment.map_or(CHUNK, usize::from));
        expected.extend(parts.map(<[u8]>::to_vec));
        // One after the other, so that no buffer on the way is too small.
        while arrived < expected.len() {
            match receiver.recv(&mut buffer) {
                Ok(length) => ensure!(
                    expected[arrived] == buffer[..length],
                    "datagram {arrived} came with {length} bytes that were not sent"
                ),
                Err(error) if is_silence(&error) => return Ok(arrived),
                Err(error) => return Err(error.into()),
            }
            arrived += 1;
        }
    }
    Ok(arrived)
}

/// The byte at a place of a stream; its period is prime, so that no lost segment goes unnoticed.
fn pattern(place: usize) -> u8 {
    (place % 251) as u8
}

fn is_silence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}
