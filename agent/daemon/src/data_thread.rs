//! The thread that owns the TUN device, the UDP sockets, its end of the QUIC carrier, and the data worker.
//!
//! It waits, reads until nothing is left, lets the worker judge its timers only then (so that nobody is blamed for
//! our own delay), writes, and goes back to waiting. The engine leaves orders in a mailbox and rings; what the
//! worker has to say goes into a bounded channel. No lock is taken on the way of a packet: the mailbox is opened
//! only when it was rung.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use wattle_dataplane::{Datagrams, Forwarding, SendWindow, TunBatch, TxBatch};
use wattle_host::{
    Clock, Family, RecvBatch, Sources, Tun, TunCounters, UdpCounters, UdpSockets, Wake, wait,
};
use wattle_model::{Endpoint, Instant, Micros};
use wattle_quic::{Incoming, Pipe};
use wattle_worker::{Command, Event, Peers, Status, Worker};

use crate::offloads::Offloads;

/// Events on their way to the engine: at most 1.2 KiB each.
pub(crate) const EVENT_QUEUE: usize = 1024;
/// The thread's name, by which the kernel's accounting is found.
pub(crate) const NAME: &str = "wattle-data";
/// Orders that wait for the worker: routing messages of at most 1,152 bytes.
const MAX_ORDERS: usize = 1024;
/// Questions for the counters that wait.
const MAX_QUESTIONS: usize = 32;
/// Rounds of reading one source before the other has its turn.
const UDP_ROUNDS: usize = 4;
/// Packets read from the device before the sockets have their turn: each may be a super-packet of 64 KiB.
const TUN_READS: usize = 64;
/// Largest packet that the device hands out.
const SUPER_PACKET: usize = 65_536;
/// Bytes that are sealed at once when a full socket takes something again: what it refuses then waits in no order.
const PORTION: usize = 64 << 10;
/// An answer about counters takes microseconds; a worker that needs longer than this hangs.
const STATUS_PATIENCE: Duration = Duration::from_secs(1);

/// Counters of the thread and its cores, taken at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct WorkerReport {
    /// The worker's own.
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

/// Orders for the worker. Snapshots replace each other: only the last one counts.
#[derive(Default)]
struct Mailbox {
    peers: Option<Arc<Peers>>,
    forwarding: Option<Arc<Forwarding>>,
    fingerprint: Option<u64>,
    orders: VecDeque<Command>,
    questions: Vec<oneshot::Sender<WorkerReport>>,
    dropped: u64,
    stop: bool,
}

/// The way to the data thread.
#[derive(Clone)]
pub(crate) struct WorkerHandle {
    mailbox: Arc<Mutex<Mailbox>>,
    wake: Wake,
}

impl WorkerHandle {
    /// A mailbox that nobody has opened yet, and the bell at its door.
    pub(crate) fn new(wake: Wake) -> Self {
        Self {
            mailbox: Arc::default(),
            wake,
        }
    }

    /// Leaves an order and rings.
    pub(crate) fn order(&self, command: Command) {
        let mut mailbox = self.open();
        match command {
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
        }
        drop(mailbox);
        self.wake.wake();
    }

    /// Asks for the counters; `None` if the worker does not answer.
    pub(crate) async fn status(&self) -> Option<WorkerReport> {
        let (question, answer) = oneshot::channel();
        {
            let mut mailbox = self.open();
            if mailbox.questions.len() >= MAX_QUESTIONS {
                return None;
            }
            mailbox.questions.push(question);
        }
        self.wake.wake();
        tokio::time::timeout(STATUS_PATIENCE, answer)
            .await
            .ok()?
            .ok()
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.open().stop = true;
        self.wake.wake();
    }

    fn open(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread owns.
pub(crate) struct DataThread {
    worker: Worker,
    tun: Tun,
    udp: UdpSockets,
    quic: Option<Pipe>,
    /// What came out of the pipe and was not looked at yet.
    carried: VecDeque<Incoming>,
    wake: Wake,
    mailbox: Arc<Mutex<Mailbox>>,
    events: mpsc::Sender<Event>,
    clock: Clock,
    received: RecvBatch,
    packet: Vec<u8>,
    tx: TxBatch,
    tun_out: TunBatch,
    /// The socket whose kernel buffer is full. Meanwhile packets wait in the worker, by class and turn.
    full: Option<Family>,
    window: SendWindow,
    /// Datagrams that were to be sent on and found no room while a socket was full.
    unkept: u64,
}

impl DataThread {
    /// The thread's belongings, the way to it, and where its events come out. `wake` is what whoever fills the pipe rings.
    pub(crate) fn new(
        worker: Worker,
        tun: Tun,
        udp: UdpSockets,
        quic: Option<Pipe>,
        wake: Wake,
    ) -> (Self, WorkerHandle, mpsc::Receiver<Event>) {
        let handle = WorkerHandle::new(wake);
        let (events, events_end) = mpsc::channel(EVENT_QUEUE);
        let tun_out = TunBatch::new(tun.coalescing());
        let thread = Self {
            worker,
            tun,
            udp,
            quic,
            carried: VecDeque::new(),
            wake: handle.wake.clone(),
            mailbox: Arc::clone(&handle.mailbox),
            events,
            clock: Clock,
            received: RecvBatch::default(),
            packet: vec![0; SUPER_PACKET],
            tx: TxBatch::new(),
            tun_out,
            full: None,
            window: SendWindow::default(),
            unkept: 0,
        };
        (thread, handle, events_end)
    }

    /// Starts the thread. It ends by order, or with the error that took the device away.
    pub(crate) fn start(self) -> io::Result<JoinHandle<io::Result<()>>> {
        std::thread::Builder::new()
            .name(NAME.to_owned())
            .spawn(move || self.run())
    }

    fn run(mut self) -> io::Result<()> {
        let mut more = false;
        loop {
            let ready = wait(&self.sources(), Some(self.patience(more)))?;
            if ready.wake && self.obey() == Obeyed::Stop {
                return Ok(());
            }
            // Before a link is judged, what lies in the sockets is read, announced or not: it costs one call, a link
            // judged dead too early costs a route.
            let due = self.clock.now() >= self.worker.poll_timeout();
            if ready.writable {
                self.resume();
            }
            more = ready.tun && self.read_device()?;
            for family in Family::ALL {
                if ready.udp(family) || due {
                    more |= self.read_socket(family);
                }
            }
            self.read_connections();
            if due {
                self.worker
                    .handle_timeout(self.clock.now(), &mut self.tx, &mut self.tun_out);
                self.flush();
            }
            self.tell();
        }
    }

    fn sources(&self) -> Sources<'_> {
        Sources {
            tun: Some(&self.tun),
            udp: &self.udp,
            wake: &self.wake,
            full: self.full,
        }
    }

    /// How long there is nothing to do by ourselves.
    fn patience(&self, more: bool) -> Micros {
        match self.worker.poll_timeout() {
            _ if more => Micros(0),
            Instant::NEVER => Micros(u64::MAX),
            due => due.since(self.clock.now()),
        }
    }

    /// Carries out what lies in the mailbox.
    fn obey(&mut self) -> Obeyed {
        self.wake.drain();
        let mailbox = {
            let mut open = self.mailbox.lock().unwrap_or_else(PoisonError::into_inner);
            let dropped = open.dropped;
            let emptied = Mailbox {
                dropped,
                ..Mailbox::default()
            };
            std::mem::replace(&mut *open, emptied)
        };
        let now = self.clock.now();
        let snapshots = [
            mailbox.peers.map(Command::SetPeers),
            mailbox.forwarding.map(Command::SetForwarding),
            mailbox.fingerprint.map(Command::SetFingerprint),
        ];
        for command in snapshots.into_iter().flatten().chain(mailbox.orders) {
            self.worker.handle_command(now, command, &mut self.tx);
            if self.tx.is_nearly_full() {
                self.flush();
            }
        }
        self.flush();
        for question in mailbox.questions {
            let _ = question.send(self.report(mailbox.dropped));
        }
        if mailbox.stop {
            Obeyed::Stop
        } else {
            Obeyed::GoOn
        }
    }

    fn report(&self, orders_dropped: u64) -> WorkerReport {
        WorkerReport {
            worker: self.worker.status(),
            udp: self.udp.counters(),
            tun: self.tun.counters(),
            quic: self.quic.as_ref().map(Pipe::counters),
            orders_dropped,
            unkept: self.unkept,
            kernel_drops: self.udp.kernel_drops(),
            offloads: Offloads {
                tun: self.tun.offload(),
                gso: self.udp.has_segmentation(),
                gro: self.udp.has_coalescing(),
            },
        }
    }

    /// Reads datagrams for some rounds; whether there may be more.
    fn read_socket(&mut self, family: Family) -> bool {
        for _ in 0..UDP_ROUNDS {
            let received = self.udp.receive(family, &mut self.received);
            self.take(received);
            if received < RecvBatch::MESSAGES {
                return false;
            }
        }
        true
    }

    /// Hands the worker what one system call received. Some of it is sent on from where it lies, so all is sent before
    /// the next call.
    fn take(&mut self, received: usize) {
        let now = self.clock.now();
        for index in 0..received {
            if let Some((from, datagrams)) = self.received.message(index) {
                let (tx, tun) = (&mut self.tx, &mut self.tun_out);
                self.worker.handle_datagrams(now, from, datagrams, tx, tun);
            }
            if self.tx.is_nearly_full() || self.tun_out.is_nearly_full() {
                self.flush();
            }
        }
        self.flush();
    }

    /// Reads packets from the device; whether there may be more.
    fn read_device(&mut self) -> io::Result<bool> {
        let now = self.clock.now();
        for _ in 0..TUN_READS {
            let Some((header, length)) = self.tun.read(&mut self.packet)? else {
                self.flush();
                return Ok(false);
            };
            let packet = &mut self.packet[..length];
            self.worker
                .handle_tun(now, header, packet, &mut self.tx, &mut self.tun_out);
            if self.tx.is_nearly_full() || self.tun_out.is_nearly_full() {
                self.flush();
            }
        }
        self.flush();
        Ok(true)
    }

    /// Takes what came over QUIC connections: all of it, since the pipe holds no more than two megabytes.
    fn read_connections(&mut self) {
        let Some(quic) = &self.quic else { return };
        quic.receive(&mut self.carried);
        if self.carried.is_empty() {
            return;
        }
        let now = self.clock.now();
        while let Some(incoming) = self.carried.pop_front() {
            match incoming {
                Incoming::Datagrams {
                    from,
                    mut bytes,
                    segment,
                } => self.worker.handle_datagrams(
                    now,
                    Endpoint::Quic(from),
                    Datagrams::passing(&mut bytes, segment),
                    &mut self.tx,
                    &mut self.tun_out,
                ),
                Incoming::Connection { peer, remote } => {
                    self.worker.handle_connection(now, peer, remote);
                }
            }
            if self.tx.is_nearly_full() || self.tun_out.is_nearly_full() {
                self.flush();
            }
        }
        self.flush();
    }

    fn flush(&mut self) {
        if !self.tx.is_empty() {
            self.send();
        }
        if !self.tun_out.is_empty() {
            self.tun.write(&mut self.tun_out);
        }
    }

    /// Sends everything over its carrier; what a full socket does not take stays.
    fn send(&mut self) {
        if let Some(quic) = &self.quic {
            quic.send(&self.tx, self.received.bytes());
        }
        self.tx.clear_carried();
        if self.full.is_none() && !self.tx.is_empty() {
            let before = self.udp.counters().sent_bytes;
            self.full = self.udp.send(&mut self.tx, &self.received);
            let sent = self.udp.counters().sent_bytes - before;
            let (now, is_full) = (self.clock.now(), self.full.is_some());
            if let Some(limit) = self.window.sent(now, sent as usize, is_full) {
                self.udp.set_send_buffer(limit);
            }
            self.worker.set_congested(is_full);
        }
        if self.full.is_some() {
            self.unkept += self.tx.keep(self.received.bytes());
        }
    }

    /// The socket that was full takes something again: what it refused goes first, then what waits.
    fn resume(&mut self) {
        self.full = None;
        loop {
            self.flush();
            if self.full.is_some() {
                return;
            }
            let portion = (self.window.limit() / 2).min(PORTION);
            let (tx, tun) = (&mut self.tx, &mut self.tun_out);
            if !self.worker.release(self.clock.now(), portion, tx, tun) {
                self.worker.set_congested(false);
                return self.flush();
            }
        }
    }

    /// Hands events to the engine as far as there is room; the rest waits in the worker, which is bounded too.
    fn tell(&mut self) {
        while let Ok(room) = self.events.try_reserve() {
            match self.worker.poll_event() {
                Some(event) => room.send(event),
                None => return,
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obeyed {
    GoOn,
    Stop,
}
