//! The way to the data threads: orders and questions of the engine, duties of the crew.
//!
//! Each thread has a mailbox with a bell. It opens the mailbox only when somebody put something in, so no lock is taken on
//! the way of a packet.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use wattle_dataplane::Forwarding;
use wattle_host::{TunCounters, UdpCounters, Wake};
use wattle_worker::{Command, Peers, Status};

use crate::crew::CrewView;
use crate::offloads::Offloads;

/// Orders that wait for the worker: routing messages of at most 1,152 bytes. Eighty neighbours that are brought up to date at
/// once have some 50 each under way.
const MAX_ORDERS: usize = 4096;
/// Questions for the counters that wait.
const MAX_QUESTIONS: usize = 32;
/// An answer about counters takes microseconds; a worker that needs longer than this hangs.
const STATUS_PATIENCE: Duration = Duration::from_secs(1);
/// A thread that does not put its queue aside within this hangs.
const PAUSE_PATIENCE: Duration = Duration::from_millis(100);

/// Counters of the threads and their cores, each taken at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct WorkerReport {
    /// The workers' own, summed.
    pub(crate) worker: Status,
    /// The sockets'.
    pub(crate) udp: UdpCounters,
    /// The device's.
    pub(crate) tun: TunCounters,
    /// The QUIC carrier's, if it runs.
    pub(crate) quic: Option<wattle_quic::Counters>,
    /// Orders that found the mailbox full.
    pub(crate) orders_dropped: u64,
    /// Datagrams to be sent on that found no room while a socket was full.
    pub(crate) unkept: u64,
    /// Datagrams that the kernel dropped in front of the sockets.
    pub(crate) kernel_drops: u64,
    /// The offloads in use.
    pub(crate) offloads: Offloads,
}

impl WorkerReport {
    /// Adds what a further worker says. What only the first has stays as it is.
    fn add(&mut self, other: Self) {
        self.worker.add(other.worker);
        self.udp.add(&other.udp);
        self.tun.add(&other.tun);
        self.orders_dropped += other.orders_dropped;
        self.unkept += other.unkept;
        self.kernel_drops += other.kernel_drops;
    }
}

/// What the crew wants of a thread.
pub(crate) enum Duty {
    /// Not to read its queue of the device.
    Pause(oneshot::Sender<()>),
    /// To empty its queue once and say when all that it sent has arrived.
    Settle(oneshot::Sender<()>),
    /// To read its queue.
    Read,
}

/// Orders for the worker. Snapshots replace each other: only the last one counts.
#[derive(Default)]
pub(crate) struct Mailbox {
    pub(crate) peers: Option<Arc<Peers>>,
    pub(crate) forwarding: Option<Arc<Forwarding>>,
    pub(crate) fingerprint: Option<u64>,
    pub(crate) orders: VecDeque<Command>,
    pub(crate) questions: Vec<oneshot::Sender<WorkerReport>>,
    pub(crate) duties: Vec<Duty>,
    /// Orders that found no room, since the start.
    pub(crate) dropped: u64,
    pub(crate) stop: bool,
}

/// A mailbox at a thread's door.
#[derive(Default)]
pub(crate) struct Door {
    mailbox: Mutex<Mailbox>,
    is_rung: AtomicBool,
}

impl Door {
    /// Takes out everything, if somebody put something in.
    pub(crate) fn empty(&self) -> Option<Mailbox> {
        if !self.is_rung.swap(false, Ordering::Acquire) {
            return None;
        }
        let mut open = self.open();
        let emptied = Mailbox {
            dropped: open.dropped,
            ..Mailbox::default()
        };
        Some(std::mem::replace(&mut *open, emptied))
    }

    fn open(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way to one thread.
#[derive(Clone)]
struct Station {
    door: Arc<Door>,
    wake: Wake,
}

impl Station {
    fn put(&self, what: impl FnOnce(&mut Mailbox)) {
        what(&mut self.door.open());
        self.door.is_rung.store(true, Ordering::Release);
        self.wake.wake();
    }

    fn order(&self, command: Command) {
        self.put(|mailbox| match command {
            Command::SetPeers(peers) => mailbox.peers = Some(peers),
            Command::SetForwarding(forwarding) => mailbox.forwarding = Some(forwarding),
            Command::SetFingerprint(fingerprint) => mailbox.fingerprint = Some(fingerprint),
            Command::SendControl { .. } if mailbox.orders.len() >= MAX_ORDERS => {
                // Flooding repeats what is not acknowledged.
                mailbox.dropped += 1;
            }
            Command::SendControl { .. } | Command::DropPeer(_) | Command::Bye => {
                mailbox.orders.push_back(command);
            }
        });
    }

    async fn status(&self) -> Option<WorkerReport> {
        let (question, answer) = oneshot::channel();
        self.put(|mailbox| {
            // A question that is dropped is answered with nothing.
            if mailbox.questions.len() < MAX_QUESTIONS {
                mailbox.questions.push(question);
            }
        });
        tokio::time::timeout(STATUS_PATIENCE, answer)
            .await
            .ok()?
            .ok()
    }
}

/// The way to the data threads.
#[derive(Clone)]
pub(crate) struct WorkerHandle {
    stations: Vec<Station>,
    view: Arc<CrewView>,
}

impl WorkerHandle {
    /// Mailboxes that nobody has opened yet, and the bells at their doors, the first worker's first.
    pub(crate) fn new(wakes: Vec<Wake>) -> Self {
        let stations: Vec<Station> = wakes
            .into_iter()
            .map(|wake| Station {
                door: Arc::default(),
                wake,
            })
            .collect();
        let view = Arc::new(CrewView::new(stations.len()));
        Self { stations, view }
    }

    /// What the crew and each thread say of themselves.
    pub(crate) fn view(&self) -> &CrewView {
        &self.view
    }

    /// A thread's door and its bell.
    pub(crate) fn door(&self, worker: usize) -> (Arc<Door>, Wake) {
        let station = &self.stations[worker];
        (Arc::clone(&station.door), station.wake.clone())
    }

    /// Leaves an order and rings: who belongs to the network and where packets go is every worker's business, the rest the
    /// first one's.
    pub(crate) fn order(&self, command: Command) {
        let Some((first, further)) = self.stations.split_first() else {
            return;
        };
        match &command {
            Command::SetPeers(_) | Command::SetForwarding(_) | Command::DropPeer(_) => {
                further
                    .iter()
                    .for_each(|station| station.order(command.clone()));
            }
            Command::SendControl { .. } | Command::SetFingerprint(_) | Command::Bye => {}
        }
        first.order(command);
    }

    /// Asks for the counters; `None` if a worker does not answer.
    pub(crate) async fn status(&self) -> Option<WorkerReport> {
        let (first, further) = self.stations.split_first()?;
        let mut report = first.status().await?;
        for station in further {
            report.add(station.status().await?);
        }
        Some(report)
    }

    /// Has a thread put its queue aside; whether it did.
    pub(crate) async fn pause(&self, worker: usize) -> bool {
        let (done, answer) = oneshot::channel();
        self.stations[worker].put(|mailbox| mailbox.duties.push(Duty::Pause(done)));
        let answer = tokio::time::timeout(PAUSE_PATIENCE, answer).await;
        matches!(answer, Ok(Ok(())))
    }

    /// Has a thread empty its queue; the answer comes when all that it sent before has arrived.
    pub(crate) fn settle(&self, worker: usize) -> oneshot::Receiver<()> {
        let (done, answer) = oneshot::channel();
        self.stations[worker].put(|mailbox| mailbox.duties.push(Duty::Settle(done)));
        answer
    }

    /// Has a thread read its queue.
    pub(crate) fn read(&self, worker: usize) {
        self.stations[worker].put(|mailbox| mailbox.duties.push(Duty::Read));
    }

    /// Ends the threads.
    pub(crate) fn stop(&self) {
        for station in &self.stations {
            station.put(|mailbox| mailbox.stop = true);
        }
    }
}
