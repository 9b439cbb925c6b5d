//! The lanes of a node as its first worker sees them: which ports peers tell, where lanes go, and barriers that are
//! sent on behalf of the other workers (`docs/protocol/lanes.md`).

use std::net::SocketAddr;

use wattle_dataplane::{DropReason, Past, TxBatch};
use wattle_link::Traffic;
use wattle_model::{Carrier, Class, Endpoint, Instant, NodeId};
use wattle_wire::control::{Control, Lanes};

use crate::config::Place;
use crate::handover::Passed;
use crate::path::{Envelope, Hop};
use crate::peer::Kind;
use crate::table::Slot;
use crate::worker::Worker;

/// How often ports are told to a peer that does not tell its own: one that knows no lanes never does.
const MAX_TELLINGS: u8 = 4;
/// Barriers whose answer may be waited for, per peer: one for each further worker.
const MAX_BARRIERS: usize = 8;
/// Numbers of a worker's barriers on the wire, of which the upper bits name the worker.
const NUMBER_BITS: u32 = 24;

/// What the first worker knows of a peer's lanes.
#[derive(Debug, Default)]
pub(crate) struct PeerLanes {
    /// Ports of the peer's further workers, once told.
    ports: Option<Vec<u16>>,
    tellings: u8,
    /// Where each lane goes, as the further workers were told.
    directed: Vec<Option<SocketAddr>>,
    barriers: Vec<Barrier>,
}

/// A barrier under way, one copy over each link.
#[derive(Debug)]
struct Barrier {
    worker: u8,
    number: u32,
    unanswered: Vec<Carrier>,
}

impl Worker {
    /// Tells the peer the ports of this node's lanes.
    pub(crate) fn tell_lanes(
        &mut self,
        now: Instant,
        slot: Slot,
        wants_answer: bool,
        tx: &mut TxBatch,
    ) {
        let ports = self.lane_ports().to_vec();
        let message = Control::Lanes(Lanes {
            ports,
            wants_answer,
        });
        self.send_control_best(now, slot, &message.to_bytes(), tx);
    }

    /// A handshake was completed, or a second has passed: tells the peer once more if that may help.
    pub(crate) fn ask_for_lanes(&mut self, now: Instant, slot: Slot, tx: &mut TxBatch) {
        let peer = &mut self.table[slot];
        let may_help = peer.lanes.ports.is_none() && peer.lanes.tellings < MAX_TELLINGS;
        if may_help && peer.has_usable_link() {
            peer.lanes.tellings += 1;
            self.tell_lanes(now, slot, true, tx);
        }
    }

    /// The peer told its ports.
    pub(crate) fn lanes_told(&mut self, now: Instant, slot: Slot, lanes: &Lanes, tx: &mut TxBatch) {
        if self.lane_number().is_some() {
            return;
        }
        self.table[slot].lanes.ports = Some(lanes.ports.clone());
        self.lanes_moved = true;
        if lanes.wants_answer {
            self.tell_lanes(now, slot, false, tx);
        }
    }

    /// Tells the other workers where their lanes go, where that changed.
    pub(crate) fn redirect_lanes(&mut self) {
        if !std::mem::take(&mut self.lanes_moved) {
            return;
        }
        let own = self.lane_ports().len();
        if own == 0 {
            return;
        }
        for slot in self.table.slots() {
            let told = self.table[slot].lanes.ports.as_deref().unwrap_or_default();
            let ports: Vec<u16> = told.iter().take(own).copied().collect();
            if ports.is_empty() && self.table[slot].lanes.directed.is_empty() {
                continue;
            }
            let host = self.direct_hop(slot).and_then(|hop| match hop.endpoint {
                Endpoint::Udp(address) => Some(address),
                Endpoint::Quic(_) => None,
            });
            for lane in 0..own {
                let port = ports.get(lane).filter(|port| **port != 0);
                let to = host.zip(port).map(|(mut to, port)| {
                    to.set_port(*port);
                    to
                });
                self.direct_lane(slot, lane, to);
            }
        }
    }

    /// Has the other workers told anew: a word may have been lost on its way to them.
    pub(crate) fn forget_directions(&mut self, slot: Slot) {
        let directed = &mut self.table[slot].lanes.directed;
        if !directed.is_empty() {
            directed.clear();
            self.lanes_moved = true;
        }
    }

    /// The way to a peer if all its packets go straight to it, over plain datagrams. A suspect link counts while there is
    /// nothing better, as it does for packets.
    pub(crate) fn direct_hop(&self, slot: Slot) -> Option<Hop> {
        let peer = &self.table[slot];
        if !matches!(peer.kind, Kind::Node) || !peer.entry.adjacent {
            return None;
        }
        let is_straight = |class| {
            let path = self.forwarding.path(class, peer.entry.id);
            path.is_some_and(|path| {
                path.next_links().iter().all(|next| {
                    let found = self.table.by_link(next.link);
                    found.is_some_and(|(to, carrier)| to == slot && carrier != Carrier::Quic)
                })
            })
        };
        let straight = Class::ALL.into_iter().all(is_straight);
        let course = (Class::Latency, self.lane_flow(slot));
        let hop = self.hop(slot, course, Envelope::Shortest, Past::NONE);
        hop.ok()
            .filter(|hop| straight && hop.next == slot && hop.carrier != Carrier::Quic)
    }

    /// Sends a barrier over every link that packets for the peer may have gone over.
    pub(crate) fn begin_barrier(
        &mut self,
        now: Instant,
        peer: NodeId,
        worker: u8,
        number: u32,
        tx: &mut TxBatch,
    ) {
        // What waits for the sockets goes first. The worker tries again.
        if self.is_congested || self.held.bytes() > 0 {
            return;
        }
        let Some(slot) = self.table.by_id(peer) else {
            return;
        };
        let ports = self.table[slot].ports.iter();
        let ways: Vec<(Carrier, Endpoint)> = ports
            .filter(|(_, port)| port.link.state().is_usable())
            .filter_map(|(carrier, port)| Some((carrier, port.endpoint?)))
            .collect();
        if ways.is_empty() {
            return;
        }
        let barriers = &mut self.table[slot].lanes.barriers;
        barriers.retain(|barrier| barrier.worker != worker);
        if barriers.len() == MAX_BARRIERS {
            return self.unsent(DropReason::QueueFull);
        }
        let number = number & ((1 << NUMBER_BITS) - 1);
        barriers.push(Barrier {
            worker,
            number,
            unanswered: ways.iter().map(|(carrier, _)| *carrier).collect(),
        });
        let number = u32::from(worker) << NUMBER_BITS | number;
        let message = Control::Barrier { number }.to_bytes();
        for (_, to) in ways {
            self.send_control(now, slot, to, &message, Traffic::Control, tx);
        }
    }

    /// A barrier that was sent on behalf of another worker was answered over one of its links.
    pub(crate) fn end_barrier(&mut self, slot: Slot, carrier: Carrier, number: u32) {
        let worker = (number >> NUMBER_BITS) as u8;
        let number = number & ((1 << NUMBER_BITS) - 1);
        let peer = self.table[slot].entry.id;
        let barriers = &mut self.table[slot].lanes.barriers;
        let Some(at) = barriers
            .iter()
            .position(|barrier| barrier.worker == worker && barrier.number == number)
        else {
            return;
        };
        barriers[at].unanswered.retain(|over| *over != carrier);
        if barriers[at].unanswered.is_empty() {
            barriers.remove(at);
            self.pass(worker, Passed::Answered { peer, number });
        }
    }

    pub(crate) fn has_lanes(&self) -> bool {
        !self.lane_ports().is_empty()
    }

    fn lane_ports(&self) -> &[u16] {
        match &self.config.place {
            Place::First { lanes } => lanes,
            Place::Further(_) => &[],
        }
    }

    fn direct_lane(&mut self, slot: Slot, lane: usize, to: Option<SocketAddr>) {
        let peer = self.table[slot].entry.id;
        let directed = &mut self.table[slot].lanes.directed;
        if directed.len() <= lane {
            directed.resize(lane + 1, None);
        } else if directed[lane] == to {
            return;
        }
        directed[lane] = to;
        self.pass(lane as u8 + 1, Passed::Lane { peer, to });
    }
}
