//! Measured round trips: ICMP echo through the mesh, answered by the destination's kernel.
//!
//! Uses the kernel's ping socket where the agent's group may (`net.ipv4.ping_group_range`, open to all under systemd),
//! else a raw one, which takes CAP_NET_RAW.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{Ipv4Tos, Ipv6TClass};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket};
use tokio::net::UdpSocket;
use tokio::time::timeout;
use wattle_control::{
    ErrorCode, ErrorReport, NodeRef, PathReport, PathRole, PingReport, Reply, Request, WayReport,
};
use wattle_model::Class;

use crate::local_api::refusal;
use crate::query::{Caller, EngineHandle};

/// Somebody to ask again and again.
pub(crate) struct Target {
    node: NodeRef,
    address: IpAddr,
    class: Class,
    relays: Vec<NodeRef>,
    socket: UdpSocket,
    nonce: [u8; 8],
}

impl Target {
    /// Finds the address to ask, and opens a socket for it.
    pub(crate) async fn new(
        dst: &str,
        path: &PathReport,
        engine: &EngineHandle,
        caller: Caller,
    ) -> Result<Self, ErrorReport> {
        let node = path.destination.clone();
        let address = match dst.parse() {
            Ok(address) => address,
            Err(_) => address_of(&node, engine, caller).await?,
        };
        let socket = open(address, path.class).map_err(|error| {
            let why = format!("the kernel gives no socket for ICMP echo: {error}");
            let next = "sysctl net.ipv4.ping_group_range=\"0 2147483647\"";
            refusal(ErrorCode::Unsupported, "no ping", why, next)
        })?;
        let mut nonce = [0; 8];
        let _ = getrandom::fill(&mut nonce);
        Ok(Self {
            node,
            address,
            class: path.class,
            relays: relays(path.ways.first()),
            socket,
            nonce,
        })
    }

    /// Asks once.
    pub(crate) async fn ping(
        &self,
        sequence: u32,
        patience: Duration,
    ) -> Result<PingReport, ErrorReport> {
        let asked = Instant::now();
        if let Err(error) = self.socket.send(&self.request(sequence)).await {
            let why = format!("cannot send to {}: {error}", self.address);
            return Err(refusal(ErrorCode::Failure, "no ping", why, "wattle status"));
        }
        let answered = timeout(patience, self.answer(sequence)).await.is_ok();
        let rtt = asked.elapsed().as_micros();
        Ok(PingReport {
            sequence,
            from: self.node.clone(),
            address: self.address,
            class: self.class,
            relays: self.relays.clone(),
            rtt_us: answered.then(|| u64::try_from(rtt).unwrap_or(u64::MAX)),
        })
    }

    /// RFC 792 and RFC 4443 §4.1: type, code, checksum, identifier, sequence number, data.
    fn request(&self, sequence: u32) -> [u8; 20] {
        let mut message = [0; 20];
        message[0] = if self.address.is_ipv4() { 8 } else { 128 };
        message[4..6].copy_from_slice(&self.nonce[..2]);
        message[6..8].copy_from_slice(&(sequence as u16).to_be_bytes());
        message[8..16].copy_from_slice(&self.nonce);
        message[16..20].copy_from_slice(&sequence.to_be_bytes());
        let checksum = checksum(&message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        message
    }

    async fn answer(&self, sequence: u32) {
        let mut data = [0; 12];
        data[..8].copy_from_slice(&self.nonce);
        data[8..].copy_from_slice(&sequence.to_be_bytes());
        let mut message = [0; 128];
        loop {
            // An error is an ICMP answer to an earlier request; the wait's end is the caller's.
            let Ok(length) = self.socket.recv(&mut message).await else {
                continue;
            };
            if is_echo_of(&message[..length], self.address, &data) {
                return;
            }
        }
    }
}

/// A raw IPv4 socket hands out the IP header too.
fn is_echo_of(message: &[u8], from: IpAddr, data: &[u8]) -> bool {
    let icmp = match message.first() {
        Some(first) if from.is_ipv4() && first >> 4 == 4 => message
            .get(usize::from(first & 0xf) * 4..)
            .unwrap_or_default(),
        _ => message,
    };
    let reply = if from.is_ipv4() { 0 } else { 129 };
    icmp.first() == Some(&reply) && icmp.get(8..) == Some(data)
}

/// A code point by which packets are of a class (`docs/protocol/routing.md` §4).
const fn dscp(class: Class) -> u8 {
    match class {
        Class::Latency => 0,
        Class::Bulk => 8,
        Class::Admin => 16,
    }
}

fn open(address: IpAddr, class: Class) -> io::Result<UdpSocket> {
    let (family, protocol) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let open_as = |kind| socket(family, kind, flags, protocol);
    let descriptor = match open_as(SockType::Datagram) {
        Err(Errno::EACCES | Errno::EPERM | Errno::EPROTONOSUPPORT) => open_as(SockType::Raw)?,
        other => other?,
    };
    let traffic_class = i32::from(dscp(class)) << 2;
    match address {
        IpAddr::V4(_) => setsockopt(&descriptor, Ipv4Tos, &traffic_class)?,
        IpAddr::V6(_) => setsockopt(&descriptor, Ipv6TClass, &traffic_class)?,
    }
    // An ICMP socket has the calls of a UDP socket: connect, send, recv.
    let socket = std::net::UdpSocket::from(descriptor);
    socket.connect(SocketAddr::new(address, 0))?;
    UdpSocket::from_std(socket)
}

async fn address_of(
    node: &NodeRef,
    engine: &EngineHandle,
    caller: Caller,
) -> Result<IpAddr, ErrorReport> {
    let addresses = match engine.ask(Request::Peers {}, caller).await {
        Reply::Peers(report) => report
            .peers
            .into_iter()
            .find(|peer| peer.node.id == node.id)
            .map(|p| p.addresses),
        _ => None,
    };
    let first = addresses.and_then(|addresses| addresses.first().copied());
    first.ok_or_else(|| {
        let why = format!("{} has no address inside the network", node.name);
        refusal(ErrorCode::NotFound, "no ping", why, "wattle peers")
    })
}

fn relays(way: Option<&WayReport>) -> Vec<NodeRef> {
    let Some(way) = way.filter(|way| way.role == PathRole::Used) else {
        return Vec::new();
    };
    way.hops
        .iter()
        .skip(1)
        .map(|hop| hop.from.clone())
        .collect()
}

/// RFC 1071.
fn checksum(message: &[u8]) -> u16 {
    let words = message
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

#[cfg(test)]
mod tests {
    use wattle_dataplane::Marking;

    use super::*;

    #[test]
    fn an_echo_is_of_the_class_that_is_asked_for() {
        for class in [Class::Latency, Class::Bulk, Class::Admin] {
            assert_eq!(Marking::of_dscp(dscp(class)).class, class);
        }
    }

    #[test]
    fn an_echo_is_known_by_its_data_with_and_without_the_ip_header() {
        let from = IpAddr::from([10, 0, 0, 1]);
        let mut reply = [0_u8; 20];
        reply[8..].copy_from_slice(b"abcdefgh\0\0\0\x01");
        assert!(is_echo_of(&reply, from, b"abcdefgh\0\0\0\x01"));
        assert!(!is_echo_of(&reply, from, b"abcdefgh\0\0\0\x02"));
        let mut raw = vec![0x45; 20];
        raw.extend_from_slice(&reply);
        assert!(is_echo_of(&raw, from, b"abcdefgh\0\0\0\x01"));
        for cut in 0..raw.len() {
            assert!(!is_echo_of(&raw[..cut], from, b"abcdefgh\0\0\0\x01"));
        }
    }

    #[test]
    fn the_checksum_of_a_message_with_its_checksum_is_zero() {
        let mut message = [8, 0, 0, 0, 1, 2, 0, 9, 7, 7];
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(checksum(&message), 0);
    }
}
