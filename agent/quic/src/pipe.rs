//! Between the data thread and the QUIC thread: two bounded queues, neither of which anybody waits for.
//!
//! | queue | from | to | bound | when full |
//! |---|---|---|---|---|
//! | outbox | data thread | QUIC thread | [`OUTBOX_SLOTS`] batches, [`OUTBOX_BYTES`] | the new batch is dropped and counted |
//! | inbox | QUIC thread | data thread | [`INBOX_BYTES`] | the new batch is dropped and counted |
//!
//! Word that a connection came or went travels in the inbox, in order with the datagrams, and is never dropped.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;
use wattle_dataplane::TxBatch;
use wattle_model::NodeId;

/// Batches under way to the QUIC thread: what a relay may send on between two looks of that thread.
pub(crate) const OUTBOX_SLOTS: usize = 512;
/// … and their bytes: 16 ms at 1 Gbit/s, longer than the thread is ever away.
const OUTBOX_BYTES: usize = 2 << 20;
/// Bytes under way to the data thread, for the same reason.
const INBOX_BYTES: usize = 2 << 20;

/// Equal datagrams for one node; the last may be shorter.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) to: NodeId,
    pub(crate) bytes: Bytes,
    pub(crate) segment: usize,
}

/// What comes out of the QUIC thread.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// Datagrams of a node, each of `segment` bytes (the last may be shorter).
    Datagrams {
        /// Who sent them.
        from: NodeId,
        /// Their bytes, one after the other.
        bytes: Vec<u8>,
        /// Bytes of each.
        segment: usize,
    },
    /// A node can be sent to, or can no longer.
    Connection {
        /// The node.
        peer: NodeId,
        /// Where it is; `None`: there is no connection with it.
        remote: Option<SocketAddr>,
    },
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What happened so far.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(crate) struct Tally {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Tally {
            pub(crate) fn read(&self) -> Counters {
                Counters { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Datagrams handed to connections, those in pieces once.
    sent_packets,
    /// Datagrams that connections handed over, joined ones once.
    received_packets,
    /// Datagrams that were larger than the path carried and travelled in pieces.
    cut_packets,
    /// Times that the path carried less than before.
    path_shrank,
    /// Handshakes that made a connection.
    connected,
    /// Handshakes that were dialled in vain.
    unanswered_dials,
    /// Handshakes of others that failed: strangers, other protocols, noise.
    refused_handshakes,
    /// Handshakes of others that were not begun because too many were under way.
    drop_handshakes,
    /// Times that a peer went on from another address.
    migrations,
    /// Datagrams dropped: the outbox was full.
    drop_outbox_full,
    /// Datagrams dropped: no connection with the node.
    drop_no_connection,
    /// Datagrams dropped: more than leaves in time waits already.
    drop_backlog,
    /// Datagrams dropped: too large for any number of pieces.
    drop_too_large,
    /// Datagrams dropped: pieces of theirs never came, or contradicted each other.
    drop_pieces,
    /// Datagrams dropped: the inbox was full.
    drop_inbox_full,
}

/// What both threads share.
pub(crate) struct Shared {
    pub(crate) tally: Tally,
    inbox: Mutex<Inbox>,
    outbox_bytes: AtomicUsize,
    wake: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct Inbox {
    queue: VecDeque<Incoming>,
    bytes: usize,
}

impl Shared {
    pub(crate) fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            tally: Tally::default(),
            inbox: Mutex::new(Inbox::default()),
            outbox_bytes: AtomicUsize::new(0),
            wake: Box::new(wake),
        }
    }

    /// Hands something to the data thread, and wakes it if it may be asleep.
    pub(crate) fn deliver(&self, incoming: Incoming) {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if let Incoming::Datagrams { bytes, segment, .. } = &incoming {
            if inbox.bytes + bytes.len() > INBOX_BYTES {
                let lost = bytes.len().div_ceil((*segment).max(1));
                return count(&self.tally.drop_inbox_full, lost as u64);
            }
            inbox.bytes += bytes.len();
        }
        inbox.queue.push_back(incoming);
        let was_empty = inbox.queue.len() == 1;
        drop(inbox);
        if was_empty {
            (self.wake)();
        }
    }

    /// A batch has left the outbox.
    pub(crate) fn taken(&self, outgoing: &Outgoing) {
        self.outbox_bytes
            .fetch_sub(outgoing.bytes.len(), Ordering::Relaxed);
    }
}

pub(crate) fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// The data thread's end. Nothing here waits.
pub struct Pipe {
    pub(crate) shared: Arc<Shared>,
    pub(crate) outbox: mpsc::Sender<Outgoing>,
}

impl Pipe {
    /// Sends what the batch holds for nodes over QUIC; `received` is the memory from which relayed datagrams are sent
    /// on. The batch is left as it is.
    pub fn send(&self, batch: &TxBatch, received: &[u8]) {
        for transmit in batch.carried() {
            let bytes = batch.bytes(transmit, received);
            let before = self
                .shared
                .outbox_bytes
                .fetch_add(bytes.len(), Ordering::Relaxed);
            let outgoing = Outgoing {
                to: transmit.to,
                bytes: Bytes::copy_from_slice(bytes),
                segment: transmit.segment.max(1),
            };
            let lost = match before + bytes.len() <= OUTBOX_BYTES {
                true => self.outbox.try_send(outgoing).is_err(),
                false => true,
            };
            if lost {
                self.shared
                    .outbox_bytes
                    .fetch_sub(bytes.len(), Ordering::Relaxed);
                count(
                    &self.shared.tally.drop_outbox_full,
                    transmit.segments() as u64,
                );
            }
        }
    }

    /// Takes everything that has come, oldest first.
    pub fn receive(&self, into: &mut VecDeque<Incoming>) {
        let mut inbox = self
            .shared
            .inbox
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        inbox.bytes = 0;
        into.append(&mut inbox.queue);
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.shared.tally.read()
    }
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipe").finish_non_exhaustive()
    }
}
