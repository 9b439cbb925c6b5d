//! The worker's state and verbs.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use wattle_dataplane::{
    Datagrams, DropReason, Drops, Forwarding, Origin, Ownership, Packet, Queue, TunBatch, TxBatch,
    VnetHeader,
};
use wattle_link::Input;
use wattle_model::{Carrier, Endpoint, Instant, Micros, NodeId, NodeIndex};
use wattle_tunnel::{Local, Shares};

use crate::barrier::Owed;
use crate::egress::Held;
use crate::event::{Counters, LinkStatus, SessionStatus};
use crate::flowlets::Flowlets;
use crate::handover::Passed;
use crate::lane::HeldBack;
use crate::peer::Peer;
use crate::random::Random;
use crate::run::Run;
use crate::table::PeerTable;
use crate::{Command, Config, Dropped, Event, Status};

/// Events that may wait for the engine. One is at most 1.2 kB (a routing message), so 2.4 MB when the engine hangs.
const MAX_EVENTS: usize = 2_048;
/// Between two ticks of sessions and of the handshake limiter.
const TICK: Micros = Micros::from_secs(1);
/// A wake-up later than this is this node's own stall, and no peer's fault.
const STALL: Micros = Micros::from_millis(3);
/// ICMP errors per second.
const ICMP_PER_SECOND: u32 = 50;
/// Longest packet that is ever sealed, with room for padding.
const SCRATCH: usize = 65_536 + 64;

/// One data worker.
#[derive(Debug)]
pub struct Worker {
    pub(crate) config: Config,
    pub(crate) local: Arc<Local>,
    pub(crate) shares: Shares,
    pub(crate) rng: Random,
    pub(crate) table: PeerTable,
    pub(crate) ownership: Ownership,
    pub(crate) forwarding: Arc<Forwarding>,
    /// Flows that stay where they were before the last change.
    pub(crate) flowlets: Flowlets,
    pub(crate) own_index: NodeIndex,
    pub(crate) fingerprint: u64,
    /// Where a packet lies while it is sealed.
    pub(crate) scratch: Vec<u8>,
    pub(crate) run: Run,
    /// What waits because the sockets take nothing.
    pub(crate) held: Queue<Held>,
    pub(crate) is_congested: bool,
    pub(crate) counters: Counters,
    pub(crate) drops: Drops,
    pub(crate) icmp_tokens: u32,
    /// Answers to barriers that are owed.
    pub(crate) owed: Vec<Owed>,
    /// For the other workers of this node.
    pub(crate) outgoing: VecDeque<(u8, Passed)>,
    /// Whether lanes may go elsewhere from here on.
    pub(crate) lanes_moved: bool,
    /// What waited for a lane and goes next.
    pub(crate) released: VecDeque<HeldBack>,
    events: VecDeque<Event>,
    deadline: Instant,
    /// Until when the links know that this node was away.
    excused: Instant,
    next_tick: Instant,
}

impl Worker {
    /// A worker that knows nobody yet.
    pub fn new(mut config: Config, now: Instant) -> Self {
        let local = Local::new(std::mem::take(&mut config.wg_private), config.cipher);
        let local = Arc::new(local.with_channel(config.channel));
        let rng = Random::new(std::mem::take(&mut config.seed));
        Self {
            config,
            local,
            shares: Shares::default(),
            rng,
            table: PeerTable::default(),
            ownership: Ownership::default(),
            forwarding: Arc::default(),
            flowlets: Flowlets::default(),
            own_index: NodeIndex::default(),
            fingerprint: 0,
            scratch: vec![0; SCRATCH],
            run: Run::default(),
            held: Queue::default(),
            is_congested: false,
            counters: Counters::default(),
            drops: Drops::default(),
            icmp_tokens: ICMP_PER_SECOND,
            owed: Vec::new(),
            outgoing: VecDeque::new(),
            lanes_moved: false,
            released: VecDeque::new(),
            events: VecDeque::new(),
            deadline: now + TICK,
            excused: now,
            next_tick: now + TICK,
        }
    }

    /// Obeys the engine.
    pub fn handle_command(&mut self, now: Instant, command: Command, tx: &mut TxBatch) {
        match command {
            Command::SetPeers(peers) => self.set_peers(now, &peers),
            Command::SetForwarding(forwarding) => self.set_forwarding(now, forwarding),
            Command::SendControl { link, payload } => self.send_flood(now, link, &payload, tx),
            Command::SetFingerprint(fingerprint) => self.set_fingerprint(now, fingerprint),
            Command::Bye => self.say_bye(now, tx),
            Command::DropPeer(peer) => self.drop_peer(now, peer),
        }
        self.redirect_lanes();
    }

    /// Takes a packet (or super-packet) from the TUN device. The packet is changed in place.
    pub fn handle_tun(
        &mut self,
        now: Instant,
        header: VnetHeader,
        packet: &mut [u8],
        tx: &mut TxBatch,
        tun: &mut TunBatch,
    ) {
        if self.is_congested
            && let Some(ip) = Packet::parse(packet)
        {
            return self.hold_packet(now, header, packet, &ip);
        }
        self.packet_out(now, header, packet, tx, tun);
    }

    /// Sends a packet of this node's kernel.
    pub(crate) fn packet_out(
        &mut self,
        now: Instant,
        header: VnetHeader,
        packet: &mut [u8],
        tx: &mut TxBatch,
        tun: &mut TunBatch,
    ) {
        if !self.released.is_empty() {
            self.released.push_back((header, packet.to_vec()));
            return;
        }
        self.packet_on(now, header, packet, tx, tun);
    }

    /// Sends a packet of this node's kernel before everything that waits.
    pub(crate) fn packet_on(
        &mut self,
        now: Instant,
        header: VnetHeader,
        packet: &mut [u8],
        tx: &mut TxBatch,
        tun: &mut TunBatch,
    ) {
        if self.lane_number().is_some() && !self.takes_lane(now, header, packet) {
            return;
        }
        let sent = self.on_behalf_of(Origin::Tun, |worker| {
            worker.outbound(now, header, packet, tx, tun);
        });
        self.counters.sent_packets += sent;
    }

    /// Takes datagrams from the UDP sockets, or from the QUIC connection with a node.
    pub fn handle_datagrams(
        &mut self,
        now: Instant,
        from: impl Into<Endpoint>,
        datagrams: Datagrams<'_>,
        tx: &mut TxBatch,
        tun: &mut TunBatch,
    ) {
        let from = from.into();
        self.drops.set_origin(Origin::Wire);
        for (datagram, at) in datagrams.each() {
            self.inbound(now, from, datagram, at, tx, tun);
        }
        self.drops.set_origin(Origin::Agent);
        self.end_run(now, tx);
        self.redirect_lanes();
    }

    /// There is a QUIC connection with a node, whose other end is at `remote`; or there is none any longer.
    pub fn handle_connection(&mut self, now: Instant, peer: NodeId, remote: Option<SocketAddr>) {
        self.connection(now, peer, remote);
        self.lanes_moved = true;
        self.redirect_lanes();
    }

    /// This node is awake again. To be said before what came in the meantime is handled: how long that waited is no matter
    /// of the links.
    pub fn woke(&mut self, now: Instant) {
        let late = now.since(self.deadline.max(self.excused));
        if late >= STALL {
            self.excused = now;
            self.each_link(now, Input::Stalled { late });
        }
    }

    /// Does what is due. Received datagrams are to be handled first: what lies in the socket is no silence.
    pub fn handle_timeout(&mut self, now: Instant, tx: &mut TxBatch, tun: &mut TunBatch) {
        let _ = tun;
        if now < self.deadline {
            return;
        }
        self.woke(now);
        let slots = self.table.slots();
        let tick = now >= self.next_tick;
        if tick {
            self.next_tick = now + TICK;
            self.icmp_tokens = ICMP_PER_SECOND;
            self.local.tick();
            self.shares.refill();
            self.flowlets.tidy(now);
        }
        for slot in &slots {
            if tick {
                self.tick(now, *slot, tx);
            }
            self.dial(now, *slot, tx);
            self.offer_key(now, *slot, tx);
            self.offer_channel(now, *slot, tx);
            self.probe_size(now, *slot, tx);
            self.ask_ways(now, *slot, tx);
            if self.lane_number().is_some() {
                self.run_lane(now, *slot, tx);
            }
            for carrier in Carrier::ALL {
                if let Some(port) = self.table[*slot].port_mut(carrier) {
                    port.link.handle_timeout(now);
                    self.drain(now, *slot, carrier, tx);
                }
            }
        }
        self.redirect_lanes();
        self.deadline = self.next_deadline(now);
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Instant {
        self.deadline
    }

    /// What the engine should know, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The whole state.
    pub fn status(&self) -> Status {
        let occurred = self.drops.iter().filter(|(_, _, packets)| *packets > 0);
        Status {
            links: self.table.iter().flat_map(link_status).collect(),
            sessions: self.table.iter().map(session_status).collect(),
            lanes: self.lane_status(),
            counters: self.counters,
            held_bytes: self.held.bytes() as u64,
            marked_packets: self.held.marked(),
            drops: occurred
                .map(|(from, reason, packets)| Dropped {
                    from,
                    reason,
                    packets,
                })
                .collect(),
            spoofed: self
                .table
                .iter()
                .filter(|peer| peer.spoofed > 0)
                .map(|peer| (peer.entry.id, peer.spoofed))
                .collect(),
        }
    }

    /// Makes sure that [`Self::handle_timeout`] is called at `at`, or at once if that is past.
    pub(crate) fn due(&mut self, now: Instant, at: Instant) {
        self.deadline = self.deadline.min(at.max(now));
    }

    /// Queues an event for the engine.
    pub(crate) fn tell(&mut self, event: Event) {
        if self.lane_number().is_some() {
            // A further worker knows of links and sessions what the first knows better.
            return;
        }
        if self.events.len() == MAX_EVENTS {
            self.unsent(DropReason::EventQueueFull);
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn set_forwarding(&mut self, now: Instant, forwarding: Arc<Forwarding>) {
        let before = std::mem::replace(&mut self.forwarding, forwarding);
        // What goes over a lane has one way only.
        if self.lane_number().is_none() {
            self.flowlets.changed(now, before);
        }
        self.lanes_moved = true;
        self.dial_again(now);
    }

    fn set_fingerprint(&mut self, now: Instant, fingerprint: u64) {
        self.fingerprint = fingerprint;
        self.each_link(now, Input::Fingerprint(fingerprint));
    }

    fn each_link(&mut self, now: Instant, input: Input) {
        for slot in self.table.slots() {
            for port in self.table[slot].ports.iter_mut() {
                port.link.handle(input, now);
            }
        }
    }

    fn next_deadline(&self, now: Instant) -> Instant {
        let due = self.table.iter().map(|peer| {
            let links = peer.ports.iter().map(|(_, port)| port.link.poll_timeout());
            let keys = match peer.session.is_usable() && peer.best_port().is_some() {
                true => peer.keys.poll_timeout(),
                false => Instant::NEVER,
            };
            let size = match peer.session.is_usable() {
                true => peer.path_mtu.poll_timeout(),
                false => Instant::NEVER,
            };
            links
                .chain([size, peer.ways.poll_timeout(now)])
                .chain([peer.dialer.poll_timeout(), keys, peer.session.channel_due()])
                .chain([peer.lane.poll_timeout()])
                .min()
                .unwrap_or(Instant::NEVER)
        });
        due.fold(self.next_tick, Instant::min).max(now + Micros(1))
    }
}

fn link_status(peer: &Peer) -> impl Iterator<Item = LinkStatus> {
    peer.ports.iter().map(|(carrier, port)| {
        let packets = port.link.packets();
        LinkStatus {
            link: port.id,
            peer: peer.entry.id,
            carrier,
            endpoint: port.endpoint.and_then(|endpoint| peer.shown(endpoint)),
            state: port.link.state(),
            measurement: port.link.measurement().unwrap_or_default(),
            tx_packets: packets.tx,
            rx_packets: packets.rx,
            tx_bytes: port.tx_bytes,
            rx_bytes: port.rx_bytes,
        }
    })
}

fn session_status(peer: &Peer) -> SessionStatus {
    let (tx_bytes, rx_bytes) = peer.session.bytes();
    SessionStatus {
        peer: peer.entry.id,
        handshake_at: peer.session.handshake_at(),
        tx_bytes,
        rx_bytes,
        suite: peer.session.suite(),
        path_mtu: peer.path_mtu.mtu(),
        queued: peer.waiting.len() as u32,
        left_relays: peer.ways.left().collect(),
    }
}
