//! A stream of numbered datagrams and their echoes: what was lost, for how long, over how many hops.
//!
//! An outage is the longest run of unanswered probes, in time. The time to live with which probe and echo arrive
//! tells how many relays they crossed.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use serde::{Deserialize, Serialize};

use crate::Host;

/// Bytes of a probe: number, TTL seen by the echo, padding to what voice sends.
const PROBE: usize = 172;
/// What sockets of probes and echoes may hold.
const SOCKET_BUFFER: usize = 8 << 20;
/// How long an echo may take to count.
const PATIENCE: Duration = Duration::from_secs(1);

/// So many probes in a row make a way.
pub const KEPT: usize = 20;

/// What became of a stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Probes sent.
    pub sent: u64,
    /// Probes answered, each counted once.
    pub received: u64,
    /// Probes never answered.
    pub lost: u64,
    /// Probes the kernel would not send.
    pub unsendable: u64,
    /// Further answers to the same probe.
    pub duplicated: u64,
    /// Answers to a probe older than one answered before.
    pub reordered: u64,
    /// The longest run of unanswered probes, in milliseconds.
    pub outage_ms: f64,
    /// All runs of unanswered probes: when it began after the start of the stream, how long it was, in milliseconds.
    pub outages_ms: Vec<(f64, f64)>,
    /// The longest time in which no probe was sent, or no answer came, in milliseconds: what is more than the interval is a pause
    /// of the stream, by its own wish or because it got no processor, or an outage.
    pub pause_ms: f64,
    /// Round trips in microseconds: median, 99th percentile, longest.
    pub rtt_us: [u64; 3],
    /// With which TTL how many echoes arrived.
    pub ttl: BTreeMap<u8, u64>,
    /// With which TTL how many answered probes arrived at the other end.
    pub ttl_there: BTreeMap<u8, u64>,
    /// How often answered probes began to have another TTL, there and back: they went another way. What fewer than
    /// [`KEPT`] in a row did does not count: a suspicion, not a move.
    pub moves: [usize; 2],
}

impl Report {
    /// The TTL with which the last echoes arrived most often.
    pub fn usual_ttl(&self) -> Option<u8> {
        self.ttl
            .iter()
            .max_by_key(|(_, count)| **count)
            .map(|(ttl, _)| *ttl)
    }
}

/// A stream that is under way in a host.
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    pause_us: Arc<AtomicU64>,
    thread: JoinHandle<Result<Report>>,
}

impl Running {
    /// Waits until so many further probes were sent.
    pub fn wait_for(&self, probes: u64) {
        let goal = self.sent.load(Ordering::Relaxed) + probes;
        while self.sent.load(Ordering::Relaxed) < goal && !self.thread.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends nothing for so long.
    pub fn pause(&self, span: Duration) {
        let micros = span.as_micros() as u64;
        self.pause_us.store(micros, Ordering::Relaxed);
    }

    /// Ends the stream, waits for late echoes, and reports.
    pub fn stop(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// An echo that is under way in a host; ends when dropped.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

impl Host {
    /// Answers probes at this address of the host (which may come to the host later) until dropped.
    pub fn echo(&self, at: SocketAddr) -> Result<Echo> {
        let socket =
            self.inside(|| UdpSocket::bind(at).with_context(|| format!("echo at {at}")))?;
        hold_what_waits(&socket)?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || echo(&socket, &stop)
        });
        Ok(Echo {
            stop,
            thread: Some(thread),
        })
    }

    /// Sends a probe each `interval` until stopped.
    pub fn probe(&self, to: SocketAddr, interval: Duration) -> Result<Running> {
        let any = SocketAddr::new(
            if to.is_ipv4() {
                IpAddr::from([0; 4])
            } else {
                IpAddr::from([0; 16])
            },
            0,
        );
        let socket = self.inside(|| Ok(UdpSocket::bind(any)?))?;
        hold_what_waits(&socket)?;
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let pause_us = Arc::new(AtomicU64::new(0));
        let thread = std::thread::spawn({
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            let pause_us = Arc::clone(&pause_us);
            move || stream(&socket, to, interval, &stop, &sent, &pause_us)
        });
        Ok(Running {
            stop,
            sent,
            pause_us,
            thread,
        })
    }
}

/// Answers every probe with itself and the TTL it came with, until told to stop.
pub fn echo(socket: &UdpSocket, stop: &AtomicBool) -> Result<()> {
    ask_for_ttl(socket)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        match receive(socket, &mut buffer) {
            Ok((length, from, ttl)) if length > 8 => {
                buffer[8] = ttl.unwrap_or(0);
                let _lost = socket.send_to(&buffer[..length], from);
            }
            Ok(_) => {}
            Err(error) if is_pause(&error) => {}
            // What ICMP says of an earlier echo is no reason to stop.
            Err(_) => {}
        }
    }
    Ok(())
}

/// Sends probes on a fixed schedule until told to stop, and reports; told to pause, it is that much later from there on.
pub fn stream(
    socket: &UdpSocket,
    to: SocketAddr,
    interval: Duration,
    stop: &AtomicBool,
    sent: &AtomicU64,
    pause_us: &AtomicU64,
) -> Result<Report> {
    ask_for_ttl(socket)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let ended = AtomicBool::new(false);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| collect(socket, start, &ended));
        let mut departures = Vec::new();
        let mut unsendable = 0;
        let mut paused = Duration::ZERO;
        while !stop.load(Ordering::Relaxed) {
            paused += Duration::from_micros(pause_us.swap(0, Ordering::Relaxed));
            let due = paused + interval * departures.len() as u32;
            std::thread::sleep(due.saturating_sub(start.elapsed()));
            let mut probe = [0; PROBE];
            probe[..8].copy_from_slice(&(departures.len() as u64).to_be_bytes());
            departures.push(start.elapsed());
            unsendable += u64::from(socket.send_to(&probe, to).is_err());
            sent.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(PATIENCE);
        ended.store(true, Ordering::Relaxed);
        let arrivals = receiver
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(judge(&departures, &arrivals, interval, unsendable))
    })
}

#[derive(Debug, Clone, Copy)]
struct Arrival {
    number: u64,
    at: Duration,
    ttl: Option<u8>,
    ttl_there: u8,
}

fn collect(socket: &UdpSocket, start: Instant, ended: &AtomicBool) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    let mut buffer = [0; 2048];
    while !ended.load(Ordering::Relaxed) {
        if let Ok((PROBE, _, ttl)) = receive(socket, &mut buffer) {
            let number = u64::from_be_bytes(std::array::from_fn(|i| buffer[i]));
            arrivals.push(Arrival {
                number,
                at: start.elapsed(),
                ttl,
                ttl_there: buffer[8],
            });
        }
    }
    arrivals
}

fn judge(
    departures: &[Duration],
    arrivals: &[Arrival],
    interval: Duration,
    unsendable: u64,
) -> Report {
    let mut report = Report {
        sent: departures.len() as u64,
        unsendable,
        ..Report::default()
    };
    let mut answered = vec![false; departures.len()];
    let mut round_trips = Vec::new();
    let mut ways = [BTreeMap::new(), BTreeMap::new()];
    let mut newest = 0;
    for arrival in arrivals {
        let number = arrival.number as usize;
        let (Some(left), Some(was_answered)) = (departures.get(number), answered.get_mut(number))
        else {
            continue;
        };
        if std::mem::replace(was_answered, true) {
            report.duplicated += 1;
            continue;
        }
        report.received += 1;
        report.reordered += u64::from(arrival.number < newest);
        newest = newest.max(arrival.number);
        round_trips.push(arrival.at.saturating_sub(*left).as_micros() as u64);
        if let Some(ttl) = arrival.ttl {
            *report.ttl.entry(ttl).or_default() += 1;
        }
        *report.ttl_there.entry(arrival.ttl_there).or_default() += 1;
        ways[0].insert(arrival.number, arrival.ttl_there);
        ways[1].extend(arrival.ttl.map(|ttl| (arrival.number, ttl)));
    }
    report.moves = ways.map(|ways| {
        let ttls: Vec<u8> = ways.into_values().collect();
        let kept = ttls.chunk_by(|a, b| a == b).filter(|run| run.len() >= KEPT);
        let mut ways: Vec<u8> = kept.map(|run| run[0]).collect();
        ways.dedup();
        ways.len().saturating_sub(1)
    });
    report.lost = report.sent - report.received;
    let mut first = 0;
    for run in answered.chunk_by(|a, b| a == b) {
        if !run[0] {
            let began = departures[first].as_secs_f64() * 1e3;
            report
                .outages_ms
                .push((began, run.len() as f64 * interval.as_secs_f64() * 1e3));
        }
        first += run.len();
    }
    report.outage_ms = report
        .outages_ms
        .iter()
        .map(|(_, span)| *span)
        .fold(0.0, f64::max);
    let came: Vec<Duration> = arrivals.iter().map(|arrival| arrival.at).collect();
    let pauses = [departures, &came].map(|times| {
        let pauses = times.windows(2).map(|two| two[1].saturating_sub(two[0]));
        pauses.max().unwrap_or_default().as_secs_f64() * 1e3
    });
    report.pause_ms = pauses[0].max(pauses[1]);
    round_trips.sort_unstable();
    let at = |share: f64| {
        let index = (round_trips.len() as f64 * share) as usize;
        round_trips
            .get(index.min(round_trips.len().saturating_sub(1)))
            .copied()
            .unwrap_or(0)
    };
    report.rtt_us = [at(0.5), at(0.99), at(1.0)];
    report
}

fn ask_for_ttl(socket: &UdpSocket) -> Result<()> {
    if socket.local_addr()?.is_ipv4() {
        setsockopt(socket, sockopt::Ipv4RecvTtl, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv6RecvHopLimit, &true)?;
    }
    Ok(())
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, Option<u8>)> {
    let mut control = nix::cmsg_space!(i32);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::empty(),
    )?;
    let ttl = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => {
            u8::try_from(ttl).ok()
        }
        _ => None,
    });
    let from = message.address.and_then(|address| {
        let v4 = address
            .as_sockaddr_in()
            .map(|v4| SocketAddr::V4((*v4).into()));
        v4.or_else(|| {
            address
                .as_sockaddr_in6()
                .map(|v6| SocketAddr::V6((*v6).into()))
        })
    });
    let from = from.ok_or_else(|| io::Error::other("a datagram without a sender"))?;
    Ok((message.bytes, from, ttl))
}

/// Makes room for seconds of probes: a test that gets no processor for a while is no loss of the network.
fn hold_what_waits(socket: &UdpSocket) -> Result<()> {
    setsockopt(socket, sockopt::RcvBufForce, &SOCKET_BUFFER).context("a larger buffer")
}

fn is_pause(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_the_longest_run_of_unanswered_probes() {
        let interval = Duration::from_millis(10);
        let departures: Vec<Duration> = (0..10).map(|i| interval * i).collect();
        let arrival = |number: u64| Arrival {
            number,
            at: interval * number as u32 + Duration::from_micros(300),
            ttl: Some(63),
            ttl_there: 64,
        };
        let arrivals = [0, 1, 3, 2, 2, 7, 9].map(arrival);
        let report = judge(&departures, &arrivals, interval, 0);
        assert_eq!((report.sent, report.received, report.lost), (10, 6, 4));
        assert_eq!((report.duplicated, report.reordered), (1, 1));
        assert_eq!(report.outages_ms, [(40.0, 30.0), (80.0, 10.0)]);
        assert_eq!(report.outage_ms, 30.0);
        // Between the answers to 2 and to 7.
        assert_eq!(report.pause_ms, 50.0);
        assert_eq!(report.rtt_us, [300, 300, 300]);
        assert_eq!(report.usual_ttl(), Some(63));
    }

    #[test]
    fn a_way_that_a_few_probes_took_is_no_move() {
        let interval = Duration::from_millis(10);
        let departures: Vec<Duration> = (0..100).map(|i| interval * i).collect();
        let arrivals: Vec<Arrival> = (0..100)
            .map(|number| Arrival {
                number,
                at: interval * number as u32,
                ttl: Some(if number < 50 { 64 } else { 63 }),
                ttl_there: if (40..59).contains(&number) { 63 } else { 64 },
            })
            .collect();
        let report = judge(&departures, &arrivals, interval, 0);
        assert_eq!(report.moves, [0, 1]);
    }
}
