//! The worker's UDP sockets: batches received with `recvmmsg` and `UDP_GRO`, sent with `sendmmsg` and `UDP_SEGMENT`.
//!
//! Nothing is allocated per batch. A datagram that the kernel will not send is dropped and counted by kind, never an
//! error: the network is allowed to lose packets, and the probes notice. Does not know what the datagrams are.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use wattle_dataplane::{Datagrams, Transmit, TxBatch};

/// Messages of one send.
const BATCH: usize = 32;
/// Messages of one receive: a megabyte when all are full, which the caches hold.
const RECV_BATCH: usize = 16;
/// Room for one received message: the largest UDP payload, or that many bytes of coalesced datagrams.
const SLOT: usize = 65_536;
/// Kernel buffer for what was received: half a second at 100 Mbit/s, a few milliseconds at 10 Gbit/s. For what is sent
/// it is as small as the network allows ([`wattle_dataplane::SendWindow`]).
const SOCKET_BUFFER: usize = 7 << 20;

/// How the sockets are to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpOptions {
    /// Port of both sockets; 0 lets the kernel choose one that is free for both.
    pub port: u16,
    /// Mark on every datagram sent, if the process may set one.
    pub mark: Option<u32>,
    /// Whether to use `UDP_SEGMENT` where the kernel has it.
    pub segmentation: bool,
    /// Whether to use `UDP_GRO` where the kernel has it.
    pub coalescing: bool,
}

/// Why there are no sockets.
#[derive(Debug, thiserror::Error)]
pub enum UdpError {
    /// The port is taken.
    #[error(
        "UDP port {0} is in use by another process: choose another with `listen_port = …` or --listen-port, or 0 for any"
    )]
    InUse(u16),
    /// The port is a privileged one.
    #[error(
        "not permitted to listen on UDP port {0}: choose one above 1023, or give the agent CAP_NET_BIND_SERVICE"
    )]
    Privilege(u16),
    /// The mark could not be set, without which the agent's own datagrams could be routed into the mesh.
    #[error("not permitted to mark datagrams: run as root or give the agent CAP_NET_ADMIN")]
    Mark,
    /// Anything else.
    #[error("cannot {what} a UDP socket: {source}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// What happened at the sockets so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UdpCounters {
    /// Datagrams received.
    pub received_packets: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Datagrams sent.
    pub sent_packets: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Not sent: the kernel's buffer was full.
    pub drop_buffer_full: u64,
    /// Not sent: no route, or the network or host is down.
    pub drop_unreachable: u64,
    /// Not sent: forbidden by a firewall or policy of this host.
    pub drop_forbidden: u64,
    /// Not sent: larger than the path carries.
    pub drop_too_big: u64,
    /// Not sent: no socket of that address family.
    pub drop_no_socket: u64,
    /// Not sent: any other reason.
    pub drop_other: u64,
    /// Received but cut, since larger than any datagram can be.
    pub drop_truncated: u64,
    /// Received without a byte in it, or without a sender.
    pub drop_empty: u64,
    /// Errors of earlier datagrams reported by the kernel at a receive.
    pub reported_errors: u64,
}

impl UdpCounters {
    /// Adds the counters of another worker's.
    pub fn add(&mut self, other: &Self) {
        let Self {
            received_packets,
            received_bytes,
            sent_packets,
            sent_bytes,
            drop_buffer_full,
            drop_unreachable,
            drop_forbidden,
            drop_too_big,
            drop_no_socket,
            drop_other,
            drop_truncated,
            drop_empty,
            reported_errors,
        } = other;
        for (own, other) in [
            (&mut self.received_packets, received_packets),
            (&mut self.received_bytes, received_bytes),
            (&mut self.sent_packets, sent_packets),
            (&mut self.sent_bytes, sent_bytes),
            (&mut self.drop_buffer_full, drop_buffer_full),
            (&mut self.drop_unreachable, drop_unreachable),
            (&mut self.drop_forbidden, drop_forbidden),
            (&mut self.drop_too_big, drop_too_big),
            (&mut self.drop_no_socket, drop_no_socket),
            (&mut self.drop_other, drop_other),
            (&mut self.drop_truncated, drop_truncated),
            (&mut self.drop_empty, drop_empty),
            (&mut self.reported_errors, reported_errors),
        ] {
            *own += other;
        }
    }
}

/// Two sockets, one per address family, on the same port.
#[derive(Debug)]
pub struct UdpSockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    counters: UdpCounters,
    port: u16,
}

#[derive(Debug)]
struct UdpSocket {
    socket: Socket,
    /// Whether `UDP_SEGMENT` works; switched off for good when the kernel or its device cannot.
    segmentation: bool,
    /// Whether the kernel hands over coalesced datagrams.
    coalescing: bool,
}

impl UdpSockets {
    /// Binds both sockets to the wildcard addresses. A host without IPv6, or without IPv4, gets the other one alone.
    pub fn bind(options: UdpOptions) -> Result<Self, UdpError> {
        // With port 0 the kernel chooses for one family and the other may be taken: try again.
        for _ in 0..16 {
            match Self::bind_once(options) {
                Err(UdpError::InUse(_)) if options.port == 0 => {}
                other => return other,
            }
        }
        Err(UdpError::InUse(0))
    }

    fn bind_once(options: UdpOptions) -> Result<Self, UdpError> {
        let v6 = UdpSocket::bind(Domain::IPV6, options.port, options)?;
        let port = v6.as_ref().map_or(options.port, UdpSocket::port);
        let v4 = UdpSocket::bind(Domain::IPV4, port, options)?;
        let port = v4.as_ref().or(v6.as_ref()).map_or(port, UdpSocket::port);
        if v4.is_none() && v6.is_none() {
            let source = io::Error::from(Errno::EAFNOSUPPORT);
            return Err(UdpError::Kernel {
                what: "open",
                source,
            });
        }
        Ok(Self {
            v4,
            v6,
            counters: UdpCounters::default(),
            port,
        })
    }

    /// The port of both.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What happened so far.
    pub fn counters(&self) -> UdpCounters {
        self.counters
    }

    /// Whether every socket sends several datagrams in one call (`UDP_SEGMENT`).
    pub fn has_segmentation(&self) -> bool {
        self.each().all(|socket| socket.segmentation)
    }

    /// Whether every socket receives several datagrams in one call (`UDP_GRO`).
    pub fn has_coalescing(&self) -> bool {
        self.each().all(|socket| socket.coalescing)
    }

    /// Datagrams that the kernel dropped in front of the sockets: their receive buffers were full, or a checksum was
    /// wrong. Each socket's count wraps at 2^32.
    pub fn kernel_drops(&self) -> u64 {
        let drops = self.each().map(|socket| sys::drops(socket.socket.as_fd()));
        drops.map(|drops| u64::from(drops.unwrap_or(0))).sum()
    }

    fn each(&self) -> impl Iterator<Item = &UdpSocket> {
        self.v4.iter().chain(&self.v6)
    }

    /// The descriptors to wait for, IPv4 first.
    pub fn descriptors(&self) -> [Option<BorrowedFd<'_>>; 2] {
        [&self.v4, &self.v6].map(|socket| socket.as_ref().map(|socket| socket.socket.as_fd()))
    }

    /// Sends the batch, in order. `received` is the memory of received datagrams, from which some are sent on. What a
    /// full socket did not take, and all behind it, stays in the batch; the family is the one to wait for.
    pub fn send(&mut self, batch: &mut TxBatch, received: &RecvBatch) -> Option<Family> {
        let mut full = None;
        let mut done = Progress::default();
        while full.is_none() && done.transmits < batch.transmits().len() {
            let rest = &batch.transmits()[done.transmits..];
            let family = Family::of(rest[0].to);
            let run = rest
                .iter()
                .take(BATCH)
                .take_while(|transmit| Family::of(transmit.to) == family)
                .count();
            let socket = match family {
                Family::V4 => &mut self.v4,
                Family::V6 => &mut self.v6,
            };
            let progress = match socket {
                Some(socket) => socket.send((batch, received), &rest[..run], &mut self.counters),
                None => {
                    let datagrams: usize = rest[..run].iter().map(Transmit::segments).sum();
                    self.counters.drop_no_socket += datagrams as u64;
                    Progress::all(run)
                }
            };
            done.transmits += progress.transmits;
            done.bytes = progress.bytes;
            full = progress.is_full.then_some(family);
        }
        batch.sent(done.transmits, done.bytes);
        full
    }

    /// Sets how much the kernel may hold of what was handed to it, in bytes.
    pub fn set_send_buffer(&self, bytes: usize) {
        for socket in [&self.v4, &self.v6].into_iter().flatten() {
            set_send_buffer(&socket.socket, bytes);
        }
    }

    /// Receives what is there for one family, at most one batch; how many messages there are in it.
    pub fn receive(&mut self, family: Family, batch: &mut RecvBatch) -> usize {
        let socket = match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        let received = match socket {
            Some(socket) => socket.receive(batch, &mut self.counters),
            None => 0,
        };
        for message in &mut batch.received[..received] {
            self.counters.admit(message);
        }
        batch.count = received;
        received
    }
}

/// An address family of the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(_) => Self::V4,
            SocketAddr::V6(_) => Self::V6,
        }
    }
}

impl UdpSocket {
    /// `None` if the host does not have the address family.
    fn bind(domain: Domain, port: u16, options: UdpOptions) -> Result<Option<Self>, UdpError> {
        let Some(socket) = bound(domain, Families::One, port, options.mark)? else {
            return Ok(None);
        };
        never_fragment(&socket, domain);
        let segmentation =
            options.segmentation && setsockopt(&socket, sockopt::UdpGsoSegment, &0).is_ok();
        // Where it is missing, datagrams come one by one.
        let coalescing =
            options.coalescing && setsockopt(&socket, sockopt::UdpGroSegment, &true).is_ok();
        Ok(Some(Self {
            socket,
            segmentation,
            coalescing,
        }))
    }

    fn port(&self) -> u16 {
        let address = self
            .socket
            .local_addr()
            .ok()
            .and_then(|address| address.as_socket());
        address.map_or(0, |address| address.port())
    }

    /// Sends at most [`BATCH`] transmits of this socket's family.
    fn send(
        &mut self,
        batch: Memory<'_>,
        transmits: &[Transmit],
        counters: &mut UdpCounters,
    ) -> Progress {
        let mut rest = transmits;
        let full = |rest: &[Transmit], bytes| Progress {
            transmits: transmits.len() - rest.len(),
            bytes,
            is_full: true,
        };
        while !rest.is_empty() {
            if !self.segmentation && rest[0].segments() > 1 {
                if let Sent::UntilFull(bytes) = self.send_one_by_one(batch, &rest[0], counters) {
                    return full(rest, bytes);
                }
                rest = &rest[1..];
                continue;
            }
            let run = if self.segmentation {
                rest.len()
            } else {
                rest.iter()
                    .take_while(|transmit| transmit.segments() == 1)
                    .count()
            };
            match sys::sendmmsg(self.socket.as_fd(), batch, &rest[..run]) {
                Ok(sent) => {
                    for transmit in &rest[..sent] {
                        counters.sent_packets += transmit.segments() as u64;
                        counters.sent_bytes += transmit.range.len() as u64;
                    }
                    rest = &rest[sent..];
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return full(rest, 0),
                Err(Errno::EIO | Errno::EINVAL | Errno::EMSGSIZE) if rest[0].segments() > 1 => {
                    // EIO: the device cannot checksum segments. The others: no UDP_SEGMENT, or a segment over the
                    // MTU (which of the two depends on the kernel); sending one by one tells them apart.
                    match self.send_one_by_one(batch, &rest[0], counters) {
                        Sent::All => self.segmentation = false,
                        Sent::Partly => {}
                        Sent::UntilFull(bytes) => return full(rest, bytes),
                    }
                    rest = &rest[1..];
                }
                Err(errno) => {
                    counters.count(errno, rest[0].segments() as u64);
                    rest = &rest[1..];
                }
            }
        }
        Progress::all(transmits.len())
    }

    fn send_one_by_one(
        &self,
        batch: Memory<'_>,
        transmit: &Transmit,
        counters: &mut UdpCounters,
    ) -> Sent {
        let to = transmit.to.into();
        let segment = transmit.segment.max(1);
        let mut outcome = Sent::All;
        for (number, datagram) in bytes(batch, transmit).chunks(segment).enumerate() {
            match self.socket.send_to(datagram, &to) {
                Ok(length) => {
                    counters.sent_packets += 1;
                    counters.sent_bytes += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Sent::UntilFull(number * segment);
                }
                Err(error) => {
                    outcome = Sent::Partly;
                    counters.count(Errno::from_raw(error.raw_os_error().unwrap_or(0)), 1);
                }
            }
        }
        outcome
    }

    /// Fills the batch; how many messages there are.
    fn receive(&self, batch: &mut RecvBatch, counters: &mut UdpCounters) -> usize {
        match sys::recvmmsg(self.socket.as_fd(), batch) {
            Ok(received) => received,
            Err(Errno::EAGAIN | Errno::EINTR) => 0,
            Err(_) => {
                // An ICMP answer to an earlier datagram, reported here; the next receive goes on.
                counters.reported_errors += 1;
                0
            }
        }
    }
}

/// What is sent, and the memory from which some of it is sent on.
type Memory<'a> = (&'a TxBatch, &'a RecvBatch);

fn bytes<'a>((batch, received): Memory<'a>, transmit: &Transmit) -> &'a [u8] {
    batch.bytes(transmit, &received.bytes)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// Every datagram.
    All,
    /// Some were refused, and counted.
    Partly,
    /// The kernel was full after so many bytes.
    UntilFull(usize),
}

/// How far a send came.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// Transmits that are done with, sent or refused.
    transmits: usize,
    /// Bytes of the next one that were sent.
    bytes: usize,
    /// Whether the kernel was full then.
    is_full: bool,
}

impl Progress {
    fn all(transmits: usize) -> Self {
        Self {
            transmits,
            ..Self::default()
        }
    }
}

impl UdpCounters {
    /// Counts a received message; one that is not to be looked at has no sender from here on.
    fn admit(&mut self, message: &mut Received) {
        if message.truncated {
            self.drop_truncated += 1;
            message.from = None;
        } else if message.length == 0 || message.from.is_none() {
            self.drop_empty += 1;
            message.from = None;
        } else {
            self.received_packets += message.length.div_ceil(message.segment) as u64;
            self.received_bytes += message.length as u64;
        }
    }

    fn count(&mut self, errno: Errno, datagrams: u64) {
        let counter = match errno {
            Errno::ENOBUFS | Errno::ENOMEM => &mut self.drop_buffer_full,
            Errno::ENETUNREACH
            | Errno::EHOSTUNREACH
            | Errno::ENETDOWN
            | Errno::EHOSTDOWN
            | Errno::ECONNREFUSED
            | Errno::EADDRNOTAVAIL
            | Errno::ENODEV => &mut self.drop_unreachable,
            Errno::EPERM | Errno::EACCES => &mut self.drop_forbidden,
            Errno::EMSGSIZE => &mut self.drop_too_big,
            _ => &mut self.drop_other,
        };
        *counter += datagrams;
    }
}

/// Where received messages are put; made once per worker.
pub struct RecvBatch {
    bytes: Box<[u8]>,
    received: [Received; RECV_BATCH],
    count: usize,
}

impl std::fmt::Debug for RecvBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecvBatch")
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy)]
struct Received {
    from: Option<SocketAddr>,
    length: usize,
    segment: usize,
    truncated: bool,
}

impl Default for RecvBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl RecvBatch {
    /// Most messages of one receive.
    pub const MESSAGES: usize = RECV_BATCH;

    /// Room for one batch: 1 MiB of address space, of which only touched pages become memory.
    pub fn new() -> Self {
        let nothing = Received {
            from: None,
            length: 0,
            segment: 1,
            truncated: false,
        };
        Self {
            bytes: vec![0; RECV_BATCH * SLOT].into_boxed_slice(),
            received: [nothing; RECV_BATCH],
            count: 0,
        }
    }

    /// The memory of received datagrams.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// One of the messages of the last receive: who sent it, and its datagrams; `None` if it is not to be looked at.
    pub fn message(&mut self, index: usize) -> Option<(SocketAddr, Datagrams<'_>)> {
        let message = self.received[..self.count].get(index)?;
        let at = index * SLOT;
        let datagrams = Datagrams {
            bytes: &mut self.bytes[at..at + message.length],
            segment: message.segment,
            at: Some(at),
        };
        Some((message.from?, datagrams))
    }
}

/// A socket on the wildcard addresses of both families (of IPv4 alone on a host without IPv6), for a carrier that reads
/// and writes it by itself.
///
/// # Errors
/// The port is taken or privileged, or the mark may not be set.
pub fn bind_both(port: u16, mark: Option<u32>) -> Result<std::net::UdpSocket, UdpError> {
    let both = bound(Domain::IPV6, Families::Both, port, mark)?;
    let socket = match both {
        Some(socket) => Some(socket),
        None => bound(Domain::IPV4, Families::One, port, mark)?,
    };
    let none = || UdpError::Kernel {
        what: "open",
        source: io::Error::from(Errno::EAFNOSUPPORT),
    };
    socket.map(std::net::UdpSocket::from).ok_or_else(none)
}

/// Whether a socket is for its own address family alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Families {
    One,
    Both,
}

/// A socket on a wildcard address; `None` if the host does not have the address family.
fn bound(
    domain: Domain,
    families: Families,
    port: u16,
    mark: Option<u32>,
) -> Result<Option<Socket>, UdpError> {
    let socket = match Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP)) {
        Ok(socket) => socket,
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => return Ok(None),
        Err(source) => {
            return Err(UdpError::Kernel {
                what: "open",
                source,
            });
        }
    };
    let any: SocketAddr = if domain == Domain::IPV6 {
        socket
            .set_only_v6(families == Families::One)
            .map_err(failed("set options of"))?;
        (Ipv6Addr::UNSPECIFIED, port).into()
    } else {
        (Ipv4Addr::UNSPECIFIED, port).into()
    };
    if let Some(mark) = mark {
        socket.set_mark(mark).map_err(|_| UdpError::Mark)?;
    }
    set_buffers(&socket);
    match socket.bind(&any.into()) {
        Ok(()) => Ok(Some(socket)),
        Err(error) => match error.raw_os_error() {
            Some(libc::EADDRINUSE) => Err(UdpError::InUse(port)),
            Some(libc::EACCES | libc::EPERM) => Err(UdpError::Privilege(port)),
            Some(libc::EADDRNOTAVAIL) if domain == Domain::IPV6 => Ok(None),
            _ => Err(UdpError::Kernel {
                what: "bind",
                source: error,
            }),
        },
    }
}

/// Sets the buffers, beyond the system's limit if the process may; a refusal leaves the default.
fn set_buffers(socket: &Socket) {
    if setsockopt(socket, sockopt::RcvBufForce, &SOCKET_BUFFER).is_err() {
        let _default = socket.set_recv_buffer_size(SOCKET_BUFFER);
    }
    set_send_buffer(socket, wattle_dataplane::window::START);
}

fn set_send_buffer(socket: &Socket, bytes: usize) {
    if setsockopt(socket, sockopt::SndBufForce, &bytes).is_err() {
        let _smaller = socket.set_send_buffer_size(bytes);
    }
}

/// Sets don't-fragment without believing ICMP: what the path carries is found by our own probes (RFC 8899).
fn never_fragment(socket: &Socket, domain: Domain) {
    let _fragments = if domain == Domain::IPV6 {
        sys::set_int(
            socket.as_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_PROBE,
        )
    } else {
        sys::set_int(
            socket.as_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_PROBE,
        )
    };
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> UdpError {
    move |source| UdpError::Kernel { what, source }
}

/// The two batch system calls. nix wraps them, but gives all messages of a send the same control data, while
/// every transmit has its own segment size.
#[expect(unsafe_code, reason = "batch system calls")]
mod sys {
    use std::mem::{MaybeUninit, size_of, zeroed};

    use wattle_dataplane::Transmit;

    use super::{
        AsRawFd, BATCH, BorrowedFd, Errno, Ipv4Addr, Ipv6Addr, Memory, RECV_BATCH, Received,
        RecvBatch, SLOT, SocketAddr, SocketAddrV4, SocketAddrV6, bytes, libc,
    };

    /// Room for one control message of an int, and some to spare: `CMSG_SPACE(4)` is 24.
    #[repr(C, align(8))]
    #[derive(Clone, Copy)]
    struct Control([u8; 64]);

    pub(super) fn set_int(
        fd: BorrowedFd<'_>,
        level: libc::c_int,
        option: libc::c_int,
        value: libc::c_int,
    ) -> nix::Result<()> {
        // SAFETY: setsockopt(2) reads `size_of::<c_int>()` bytes from the pointer during the call.
        let result = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        Errno::result(result).map(drop)
    }

    /// What the kernel dropped in front of a socket.
    pub(super) fn drops(fd: BorrowedFd<'_>) -> nix::Result<u32> {
        // linux/sock_diag.h: nine figures, of which the last is SK_MEMINFO_DROPS.
        const DROPS: usize = 8;
        let mut figures = [0_u32; DROPS + 1];
        let mut length = size_of_val(&figures) as libc::socklen_t;
        // SAFETY: getsockopt(2) writes at most `length` bytes through the pointer during the call, all of `figures`.
        let result = unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                figures.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        Errno::result(result).map(|_| figures[DROPS])
    }

    /// Sends the first [`BATCH`] transmits in one call; how many were taken.
    pub(super) fn sendmmsg(
        fd: BorrowedFd<'_>,
        batch: Memory<'_>,
        transmits: &[Transmit],
    ) -> nix::Result<usize> {
        let count = transmits.len().min(BATCH);
        let mut addresses = [const { MaybeUninit::<libc::sockaddr_storage>::uninit() }; BATCH];
        let mut vectors = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; BATCH];
        let mut controls = [const { MaybeUninit::<Control>::uninit() }; BATCH];
        // SAFETY: mmsghdr is plain data of libc for which all zeroes (null pointers, no lengths) is a value.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        for (i, transmit) in transmits[..count].iter().enumerate() {
            let bytes = bytes(batch, transmit);
            vectors[i] = libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            };
            let header = &mut headers[i].msg_hdr;
            header.msg_namelen = write_address(transmit.to, &mut addresses[i]);
            header.msg_name = addresses[i].as_mut_ptr().cast();
            header.msg_iov = &raw mut vectors[i];
            header.msg_iovlen = 1;
            if transmit.segments() > 1 {
                let control = controls[i].write(Control([0; 64]));
                write_segment(header, control, transmit.segment as u16);
            }
        }
        // SAFETY: sendmmsg(2) reads `count` headers and what they point at: the addresses, vectors and controls
        // above and the bytes of `batch`, all alive and unmoved until the call returns; it writes only `msg_len`.
        let result = unsafe {
            libc::sendmmsg(
                fd.as_raw_fd(),
                headers.as_mut_ptr(),
                count as libc::c_uint,
                0,
            )
        };
        Errno::result(result).map(|sent| sent as usize)
    }

    /// Attaches `UDP_SEGMENT` to a message.
    fn write_segment(header: &mut libc::msghdr, control: &mut Control, segment: u16) {
        header.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE and CMSG_LEN only calculate. CMSG_FIRSTHDR gives a pointer into `control`, which is
        // aligned for cmsghdr and has room for CMSG_SPACE(2) = 24 bytes; cmsg(3) puts the data at CMSG_DATA.
        unsafe {
            header.msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as libc::c_uint) as usize;
            let first = libc::CMSG_FIRSTHDR(header);
            (*first).cmsg_level = libc::SOL_UDP;
            (*first).cmsg_type = libc::UDP_SEGMENT;
            (*first).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as libc::c_uint) as usize;
            libc::CMSG_DATA(first)
                .cast::<u16>()
                .write_unaligned(segment);
        }
    }

    /// Receives up to [`RECV_BATCH`] messages in one call into the slots of `batch`; how many there were.
    pub(super) fn recvmmsg(fd: BorrowedFd<'_>, batch: &mut RecvBatch) -> nix::Result<usize> {
        let mut addresses = [const { MaybeUninit::<libc::sockaddr_storage>::uninit() }; RECV_BATCH];
        let mut vectors = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; RECV_BATCH];
        let mut controls = [const { MaybeUninit::<Control>::uninit() }; RECV_BATCH];
        // SAFETY: mmsghdr is plain data of libc for which all zeroes (null pointers, no lengths) is a value.
        let mut headers: [libc::mmsghdr; RECV_BATCH] = unsafe { zeroed() };
        for (i, slot) in batch.bytes.chunks_mut(SLOT).enumerate() {
            vectors[i] = libc::iovec {
                iov_base: slot.as_mut_ptr().cast(),
                iov_len: slot.len(),
            };
            let header = &mut headers[i].msg_hdr;
            header.msg_name = addresses[i].as_mut_ptr().cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut vectors[i];
            header.msg_iovlen = 1;
            header.msg_control = controls[i].as_mut_ptr().cast();
            header.msg_controllen = size_of::<Control>();
        }
        // SAFETY: recvmmsg(2) writes at most `iov_len`, `msg_namelen` and `msg_controllen` bytes through the
        // pointers of each header, which lead to the slots, addresses and controls above, all alive until it returns.
        let result = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                headers.as_mut_ptr(),
                RECV_BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let count = Errno::result(result)? as usize;
        for (i, header) in headers[..count].iter().enumerate() {
            let length = header.msg_len as usize;
            // SAFETY: the kernel filled `msg_namelen` bytes of this address and `msg_controllen` of its control.
            let (from, segment) = unsafe {
                (
                    read_address(&addresses[i], header.msg_hdr.msg_namelen),
                    read_segment(&header.msg_hdr),
                )
            };
            batch.received[i] = Received {
                from,
                length,
                segment: segment
                    .filter(|segment| *segment > 0)
                    .unwrap_or(length)
                    .max(1),
                truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            };
        }
        Ok(count)
    }

    /// The size of coalesced datagrams, if the kernel coalesced any.
    ///
    /// # Safety
    /// `header` is as recvmmsg(2) left it, its control buffer alive.
    unsafe fn read_segment(header: &libc::msghdr) -> Option<usize> {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR walk within `msg_controllen` bytes that the kernel wrote (cmsg(3));
        // UDP_GRO carries an int.
        unsafe {
            let mut next = libc::CMSG_FIRSTHDR(header);
            while !next.is_null() {
                if (*next).cmsg_level == libc::SOL_UDP && (*next).cmsg_type == libc::UDP_GRO {
                    let segment = libc::CMSG_DATA(next).cast::<libc::c_int>().read_unaligned();
                    return usize::try_from(segment).ok();
                }
                next = libc::CMSG_NXTHDR(header, next);
            }
        }
        None
    }

    fn write_address(
        address: SocketAddr,
        storage: &mut MaybeUninit<libc::sockaddr_storage>,
    ) -> libc::socklen_t {
        match address {
            SocketAddr::V4(v4) => {
                let raw = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is made to hold and be aligned for any socket address.
                unsafe { storage.as_mut_ptr().cast::<libc::sockaddr_in>().write(raw) };
                size_of::<libc::sockaddr_in>() as libc::socklen_t
            }
            SocketAddr::V6(v6) => {
                let raw = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: v6.ip().octets(),
                    },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: as above.
                unsafe { storage.as_mut_ptr().cast::<libc::sockaddr_in6>().write(raw) };
                size_of::<libc::sockaddr_in6>() as libc::socklen_t
            }
        }
    }

    /// # Safety
    /// The kernel has written `length` bytes of a socket address.
    unsafe fn read_address(
        storage: &MaybeUninit<libc::sockaddr_storage>,
        length: libc::socklen_t,
    ) -> Option<SocketAddr> {
        let raw = storage.as_ptr();
        if (length as usize) < size_of::<libc::sockaddr_in>() {
            return None;
        }
        // SAFETY: a socket address of any family begins with its family.
        let family = unsafe { raw.cast::<libc::sa_family_t>().read() };
        match libc::c_int::from(family) {
            libc::AF_INET => {
                // SAFETY: the kernel wrote a whole sockaddr_in, as family and length say.
                let v4 = unsafe { raw.cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 if length as usize >= size_of::<libc::sockaddr_in6>() => {
                // SAFETY: the kernel wrote a whole sockaddr_in6, as family and length say.
                let v6 = unsafe { raw.cast::<libc::sockaddr_in6>().read() };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                // The flow label is left out: two datagrams of one sender are from one address.
                Some(SocketAddrV6::new(ip, port, 0, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}
