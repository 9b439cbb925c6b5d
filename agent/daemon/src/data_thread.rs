//! The thread that owns a queue of the TUN device, UDP sockets, the first one its end of the QUIC carrier, and a data worker.
//!
//! It waits, reads until nothing is left, lets the worker judge its timers only then (so that nobody is blamed for
//! our own delay), writes, and goes back to waiting. The engine leaves orders in a mailbox and rings; what the
//! worker has to say goes into a bounded channel. No lock is taken on the way of a packet: the mailbox is opened
//! only when it was rung. Where there are several threads, each has a [`Seat`] among the others.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::mpsc;
use wattle_dataplane::{Datagrams, SendWindow, TunBatch, TxBatch};
use wattle_host::{Clock, Family, RecvBatch, Sources, Tun, UdpSockets, Wake, wait};
use wattle_model::{Endpoint, Instant, Micros};
use wattle_quic::{Incoming, Pipe};
use wattle_worker::{Command, Event, Worker};

use crate::offloads::Offloads;
use crate::seat::{Seat, Settling};
use crate::worker_handle::{Door, Duty, WorkerReport};

/// Events on their way to the engine: at most 1.2 KiB each.
pub(crate) const EVENT_QUEUE: usize = 1024;
/// The thread's name, by which the kernel's accounting is found.
pub(crate) const NAME: &str = "wattle-data";
/// Rounds of reading one source before the other has its turn.
const UDP_ROUNDS: usize = 4;
/// Packets read from the device before the sockets have their turn: each may be a super-packet of 64 KiB.
const TUN_READS: usize = 64;
/// Largest packet that the device hands out.
const SUPER_PACKET: usize = 65_536;
/// What other workers put in is taken for so many before the sockets have their turn.
const PASSED_AT_ONCE: usize = 256;
/// Bytes that are sealed at once when a full socket takes something again: what it refuses then waits in no order.
const PORTION: usize = 64 << 10;

/// What the thread owns.
pub(crate) struct DataThread {
    worker: Worker,
    tun: Tun,
    udp: UdpSockets,
    quic: Option<Pipe>,
    /// What came out of the pipe and was not looked at yet.
    carried: VecDeque<Incoming>,
    wake: Wake,
    door: Arc<Door>,
    /// The place among several threads.
    seat: Option<Seat>,
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
    /// The thread's belongings, and where its events come out. `bell` is what whoever fills the pipe rings.
    pub(crate) fn new(
        worker: Worker,
        tun: Tun,
        udp: UdpSockets,
        quic: Option<Pipe>,
        (door, bell): (Arc<Door>, Wake),
        seat: Option<Seat>,
    ) -> (Self, mpsc::Receiver<Event>) {
        let (events, events_end) = mpsc::channel(EVENT_QUEUE);
        let tun_out = TunBatch::new(tun.coalescing());
        let thread = Self {
            worker,
            tun,
            udp,
            quic,
            carried: VecDeque::new(),
            wake: bell,
            door,
            seat,
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
        (thread, events_end)
    }

    /// Starts the thread of this worker. It ends by order, or with the error that took the device away; then the others
    /// are to be stopped.
    pub(crate) fn start(
        self,
        worker: usize,
        stop_others: impl FnOnce() + Send + 'static,
    ) -> io::Result<JoinHandle<io::Result<()>>> {
        let name = match worker {
            0 => NAME.to_owned(),
            further => format!("{NAME}-{further}"),
        };
        std::thread::Builder::new().name(name).spawn(move || {
            let _guard = Last(Some(stop_others));
            self.run()
        })
    }

    fn run(mut self) -> io::Result<()> {
        let mut more = false;
        loop {
            if let Some(seat) = &mut self.seat {
                seat.rests(self.clock.now());
            }
            let ready = wait(&self.sources(), Some(self.patience(more)))?;
            let now = self.clock.now();
            self.worker.woke(now);
            if let Some(seat) = &mut self.seat {
                seat.works(now);
            }
            if ready.wake && self.answer_bell() == Obeyed::Stop {
                return Ok(());
            }
            // Before a link is judged, what lies in the sockets is read, announced or not: it costs one call, a link
            // judged dead too early costs a route.
            let due = now >= self.worker.poll_timeout();
            if ready.writable {
                self.resume();
            }
            more = (ready.tun || self.is_settling()) && self.read_device()?;
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
            if self.seat.is_some() {
                more |= self.go_on()?;
            }
            self.tell();
        }
    }

    fn sources(&self) -> Sources<'_> {
        Sources {
            tun: self.reads_device().then_some(&self.tun),
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

    /// Takes what other workers put in, and carries out what lies in the mailbox.
    fn answer_bell(&mut self) -> Obeyed {
        self.wake.drain();
        self.take_passed();
        self.obey()
    }

    fn obey(&mut self) -> Obeyed {
        let Some(mailbox) = self.door.empty() else {
            return Obeyed::GoOn;
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
        for duty in mailbox.duties {
            self.take_duty(duty);
        }
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
                if let Some(seat) = &mut self.seat {
                    seat.emptied();
                }
                return Ok(false);
            };
            if let Some(seat) = &mut self.seat {
                seat.read();
            }
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
        if self.worker.owes_answers() {
            // All packets that came before a barrier are written.
            self.worker.answer_barriers(self.clock.now(), &mut self.tx);
            self.send();
        }
        if let Some(seat) = &mut self.seat {
            seat.hand_over(&mut self.worker);
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

    // --- among several threads -------------------------------------------------------------------

    fn reads_device(&self) -> bool {
        self.seat.as_ref().is_none_or(Seat::reads_device)
    }

    /// Whether the queue of the device is to be emptied, announced or not.
    fn is_settling(&self) -> bool {
        let seat = self.seat.as_ref();
        seat.is_some_and(|seat| matches!(seat.settling(), Settling::Emptying))
    }

    /// Takes what other workers of this node put in.
    fn take_passed(&mut self) {
        let now = self.clock.now();
        for _ in 0..PASSED_AT_ONCE {
            let Some(passed) = self.seat.as_ref().and_then(Seat::take) else {
                return self.flush();
            };
            let (tx, tun) = (&mut self.tx, &mut self.tun_out);
            self.worker.handle_passed(now, passed, tx, tun);
            if self.tx.is_nearly_full() || self.tun_out.is_nearly_full() {
                self.flush();
            }
        }
        self.flush();
        // There may be more, but the sockets have their turn first.
        self.wake.wake();
    }

    fn take_duty(&mut self, duty: Duty) {
        let Some(seat) = &mut self.seat else { return };
        match duty {
            Duty::Pause(done) => {
                seat.pause();
                self.worker.close_lanes(self.clock.now());
                // Whoever asked may be gone.
                let _gone = done.send(());
            }
            Duty::Settle(done) => seat.settle(done),
            Duty::Read => seat.go_on_reading(),
        }
    }

    /// Sends what waited for lanes, and settles if that is wanted; whether there is more to do at once.
    fn go_on(&mut self) -> io::Result<bool> {
        while self.worker.has_released() {
            let (now, tx, tun) = (self.clock.now(), &mut self.tx, &mut self.tun_out);
            self.worker.resume(now, PORTION, tx, tun);
            self.flush();
        }
        let Some(seat) = &mut self.seat else {
            return Ok(false);
        };
        match seat.settling() {
            Settling::No => return Ok(false),
            Settling::Emptying => return Ok(true),
            Settling::Emptied if self.full.is_some() => {}
            Settling::Emptied => {
                self.worker.settle(self.clock.now(), &mut self.tx);
                seat.asked();
                self.flush();
            }
            Settling::Asked => {}
        }
        if let Some(seat) = &mut self.seat
            && self.worker.is_settled()
        {
            seat.settled();
        }
        Ok(false)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obeyed {
    GoOn,
    Stop,
}

/// Does something when the thread ends, by a panic too.
struct Last<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for Last<F> {
    fn drop(&mut self) {
        if let Some(act) = self.0.take() {
            act();
        }
    }
}
