//! `wattle-shuttle IFNAME LOCAL:PORT REMOTE:PORT` carries packets between a TUN device and one UDP peer.
//!
//! It has every offload that the kernel offers and nothing else: no cryptography, no routing, no handshake. What it
//! reaches is the limit that the data-plane benchmark divides by. IPv4 inside and outside. Shares no code with the
//! agent, so that a slow spot of ours cannot lower the limit. Each packet carries 32 bytes, as a WireGuard message does.

mod burst;
mod coalesce;
mod device;
mod packet;

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};

use crate::burst::Burst;
use crate::coalesce::Coalescer;
use crate::device::Tun;

/// Bytes in front of each packet: what WireGuard's type, receiver and counter take.
const HEADER: usize = 16;
/// Bytes behind each packet: what the authenticator takes.
const TAG: usize = 16;
/// Socket buffers, large enough for some full super-packets of each flow.
const SOCKET_BUFFER: usize = 7 << 20;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, local, remote] = &arguments[..] else {
        anyhow::bail!("usage: wattle-shuttle IFNAME LOCAL:PORT REMOTE:PORT");
    };
    let tun = Tun::open(name).with_context(|| {
        format!("cannot open the TUN device {name}: is this root, is there /dev/net/tun?")
    })?;
    let socket = socket(local, remote)?;
    let outbound = (tun.try_clone()?, socket.try_clone()?);
    std::thread::spawn(move || from_tun(outbound.0, &outbound.1));
    from_udp(&socket, tun)
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

/// Reads super-packets until the device has no more, then hands what was gathered to the kernel.
fn from_tun(mut tun: Tun, socket: &UdpSocket) {
    let mut buffer = vec![0; packet::VNET + packet::LARGEST];
    let mut burst = Burst::new(socket.as_raw_fd());
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

fn from_udp(socket: &UdpSocket, mut tun: Tun) -> Result<()> {
    let mut buffer = vec![0; packet::LARGEST];
    let mut coalescer = Coalescer::default();
    loop {
        let (length, segment) = burst::receive(socket.as_raw_fd(), &mut buffer)?;
        for datagram in buffer[..length].chunks_mut(segment) {
            if datagram.len() > HEADER + TAG + packet::SHORTEST {
                let end = datagram.len() - TAG;
                coalescer.push(&mut datagram[HEADER..end], |done| drop(tun.write(done)));
            }
        }
        coalescer.finish(|done| drop(tun.write(done)));
    }
}
