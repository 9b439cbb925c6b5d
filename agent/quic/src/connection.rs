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
use crate::pieces::{Cutter, Joiner, PIECE_TYPE, Run};
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
        self.look(now);
        let waiting = SEND_BUFFER.saturating_sub(self.quinn.datagram_send_buffer_space());
        let room = self.bound.saturating_sub(waiting);
        let (whole, segment) = (outgoing.bytes.len(), outgoing.segment);
        let fits = match whole <= room {
            true => whole,
            false => room - room % segment,
        };
        if fits < whole {
            count(&tally.drop_backlog, (whole - fits).div_ceil(segment) as u64);
        }
        if fits == 0 {
            return;
        }
        // Whatever the path turned out to carry meanwhile: nobody but this thread learns it.
        self.measure(tally);
        let bytes = outgoing.bytes.slice(..fits);
        let sent = self.send_run(&bytes, segment, tally);
        let counter = match sent {
            Ok(()) => &tally.sent_packets,
            Err(SendDatagramError::TooLarge) => &tally.drop_too_large,
            Err(_) => &tally.drop_no_connection,
        };
        count(counter, fits.div_ceil(segment) as u64);
    }

    fn send_run(
        &mut self,
        bytes: &Bytes,
        segment: usize,
        tally: &Tally,
    ) -> Result<(), SendDatagramError> {
        let segment = segment.min(bytes.len());
        let run = Run { bytes, segment };
        if !Cutter::is_for(run, self.room) {
            let starts = (0..bytes.len()).step_by(segment);
            let each = starts.map(|at| bytes.slice(at..(at + segment).min(bytes.len())));
            return self.send_all(each);
        }
        let pieces = self.cutter.cut(run, self.room);
        let pieces = pieces.ok_or(SendDatagramError::TooLarge)?;
        if segment > self.room {
            count(&tally.cut_packets, run.datagrams().count() as u64);
        }
        self.send_all(pieces)
    }

    fn send_all(
        &self,
        mut datagrams: impl Iterator<Item = Bytes>,
    ) -> Result<(), SendDatagramError> {
        datagrams.try_for_each(|datagram| self.quinn.send_datagram(datagram))
    }

    /// Learns from time to time how fast the path is.
    fn look(&mut self, now: Instant) {
        if now < self.bound_until {
            return;
        }
        let path = self.quinn.stats().path;
        self.bound = backlog::bound(path.cwnd, path.rtt);
        self.bound_until = now + RATE_EVERY;
    }

    fn measure(&mut self, tally: &Tally) {
        let Some(room) = self.quinn.max_datagram_size() else {
            return;
        };
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
    if datagram.first() != Some(&PIECE_TYPE) {
        return batch.put(datagram);
    }
    let given_up = joiner.take(datagram, |run| {
        run.datagrams().for_each(|one| batch.put(one));
    });
    count(&batch.shared.tally.drop_pieces, given_up);
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
