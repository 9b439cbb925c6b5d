//! One connection: datagrams into it as fast as it may send, datagrams out of it as they come.

use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{ConnectionError, SendDatagramError};
use wattle_model::NodeId;

use crate::backlog;
use crate::pieces::{Cutter, Joined, Joiner, PIECE_TYPE};
use crate::pipe::{Incoming, Outgoing, Shared, Tally, count};

/// Quinn's send buffer. It drops from its front when it is full, uncounted; so it is larger than whatever
/// [`backlog::bound`] lets wait, with room for quinn's own 32 bytes per datagram.
pub(crate) const SEND_BUFFER: usize = 4 * backlog::MOST;
/// How often the rate is looked at: a few times per round trip of a fast path would be wasted.
const RATE_EVERY: Duration = Duration::from_millis(5);
/// Datagrams taken out of a connection before the data thread gets them.
const MAX_BATCH: usize = 64;
/// Bytes of one batch, as of one `UDP_GRO` message.
const MAX_BATCH_BYTES: usize = 65_000;

/// A connection that can be sent over.
#[derive(Debug)]
pub(crate) struct Sender {
    pub(crate) quinn: quinn::Connection,
    cutter: Cutter,
    /// Largest datagram, as it was known last.
    room: usize,
    bound: usize,
    bound_until: Instant,
}

impl Sender {
    pub(crate) fn new(quinn: quinn::Connection, now: Instant) -> Self {
        Self {
            room: quinn.max_datagram_size().unwrap_or(0),
            quinn,
            cutter: Cutter::default(),
            bound: 0,
            bound_until: now,
        }
    }

    /// Where the other end is.
    pub(crate) fn remote(&self) -> SocketAddr {
        canonical(self.quinn.remote_address())
    }

    /// Hands datagrams to quinn as far as they would leave in time.
    pub(crate) fn send(&mut self, now: Instant, outgoing: &Outgoing, tally: &Tally) {
        self.look(now, tally);
        let mut waiting = SEND_BUFFER.saturating_sub(self.quinn.datagram_send_buffer_space());
        let mut start = 0;
        while start < outgoing.bytes.len() {
            let end = (start + outgoing.segment).min(outgoing.bytes.len());
            let datagram = outgoing.bytes.slice(start..end);
            start = end;
            if waiting + datagram.len() > self.bound {
                count(&tally.drop_backlog, 1);
                continue;
            }
            waiting += datagram.len();
            self.send_one(&datagram, tally);
        }
    }

    fn send_one(&mut self, datagram: &Bytes, tally: &Tally) {
        let as_it_is = datagram.len() <= self.room && datagram.first() != Some(&PIECE_TYPE);
        if as_it_is {
            match self.quinn.send_datagram(datagram.clone()) {
                Ok(()) => return count(&tally.sent_packets, 1),
                // The path shrank since it was looked at.
                Err(SendDatagramError::TooLarge) => self.measure(tally),
                Err(_) => return count(&tally.drop_no_connection, 1),
            }
        }
        let Some(pieces) = self.cutter.cut(datagram, self.room) else {
            return count(&tally.drop_too_large, 1);
        };
        count(&tally.cut_packets, 1);
        for piece in pieces {
            match self.quinn.send_datagram(piece) {
                Ok(()) => {}
                Err(SendDatagramError::TooLarge) => return count(&tally.drop_too_large, 1),
                Err(_) => return count(&tally.drop_no_connection, 1),
            }
        }
        count(&tally.sent_packets, 1);
    }

    /// Learns from time to time what the path carries.
    fn look(&mut self, now: Instant, tally: &Tally) {
        if now < self.bound_until {
            return;
        }
        let path = self.quinn.stats().path;
        self.bound = backlog::bound(path.cwnd, path.rtt);
        self.bound_until = now + RATE_EVERY;
        self.measure(tally);
    }

    fn measure(&mut self, tally: &Tally) {
        let room = self.quinn.max_datagram_size().unwrap_or(0);
        if room < self.room {
            count(&tally.path_shrank, 1);
        }
        self.room = room;
    }
}

/// Hands on what comes over a connection until it ends.
pub(crate) async fn read(
    connection: quinn::Connection,
    from: NodeId,
    shared: Arc<Shared>,
) -> ConnectionError {
    let mut joiner = Joiner::default();
    loop {
        let first = match connection.read_datagram().await {
            Ok(first) => first,
            Err(error) => return error,
        };
        let mut batch = Batch::new(&shared, from);
        let mut next = Some(first);
        for _ in 0..MAX_BATCH {
            let Some(datagram) = next else { break };
            take(&datagram, &mut joiner, &mut batch);
            next = at_once(connection.read_datagram())
                .await
                .and_then(Result::ok);
        }
        if let Some(datagram) = next {
            take(&datagram, &mut joiner, &mut batch);
        }
        batch.flush();
    }
}

fn take(datagram: &Bytes, joiner: &mut Joiner, batch: &mut Batch<'_>) {
    let tally = &batch.shared.tally;
    if datagram.first() != Some(&PIECE_TYPE) {
        return batch.put(datagram);
    }
    match joiner.take(datagram) {
        Joined::Whole(whole) => batch.put(&whole),
        Joined::Waiting { given_up } => count(&tally.drop_pieces, given_up),
        Joined::Malformed => count(&tally.drop_pieces, 1),
    }
}

/// What a future has ready, without waiting for it.
async fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Datagrams of one node on their way to the data thread, joined as `UDP_GRO` joins them.
struct Batch<'a> {
    shared: &'a Shared,
    from: NodeId,
    bytes: Vec<u8>,
    segment: usize,
    /// Whether a shorter one came, after which there may be none.
    ended: bool,
}

impl<'a> Batch<'a> {
    fn new(shared: &'a Shared, from: NodeId) -> Self {
        Self {
            shared,
            from,
            bytes: Vec::new(),
            segment: 0,
            ended: false,
        }
    }

    fn put(&mut self, datagram: &[u8]) {
        if datagram.is_empty() {
            return;
        }
        count(&self.shared.tally.received_packets, 1);
        let fits = !self.ended
            && datagram.len() <= self.segment
            && self.bytes.len() + datagram.len() <= MAX_BATCH_BYTES;
        if !fits {
            self.flush();
            self.segment = datagram.len();
        }
        self.ended = datagram.len() < self.segment;
        self.bytes.extend_from_slice(datagram);
    }

    fn flush(&mut self) {
        if !self.bytes.is_empty() {
            self.shared.deliver(Incoming::Datagrams {
                from: self.from,
                bytes: std::mem::take(&mut self.bytes),
                segment: self.segment,
            });
        }
        self.ended = false;
    }
}

/// An IPv4 address as itself: a socket for both families shows it inside an IPv6 one.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::from((ip, address.port())),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::pipe::Pipe;

    #[test]
    fn equal_datagrams_arrive_as_one_batch_that_a_shorter_one_ends() {
        let (outbox, _) = tokio::sync::mpsc::channel(1);
        let pipe = Pipe {
            shared: Arc::new(Shared::new(|| {})),
            outbox,
        };
        let mut batch = Batch::new(&pipe.shared, NodeId(7));
        for length in [100, 100, 60, 60, 100, 0, 100] {
            batch.put(&vec![1; length]);
        }
        batch.flush();
        let mut came = VecDeque::new();
        pipe.receive(&mut came);
        let shapes: Vec<_> = came
            .iter()
            .map(|incoming| match incoming {
                Incoming::Datagrams { bytes, segment, .. } => (bytes.len(), *segment),
                Incoming::Connection { .. } => (0, 0),
            })
            .collect();
        assert_eq!(shapes, [(260, 100), (60, 60), (200, 100)]);
        assert_eq!(pipe.counters().received_packets, 6);
    }

    #[test]
    fn an_ipv4_address_is_shown_as_one() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:443".parse().unwrap();
        assert_eq!(canonical(mapped).to_string(), "192.0.2.1:443");
        let v6: SocketAddr = "[2001:db8::1]:443".parse().unwrap();
        assert_eq!(canonical(v6), v6);
    }
}
