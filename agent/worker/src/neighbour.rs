//! Messages between neighbours, and the links that carry them: probes, link keys, link state.

use std::net::SocketAddr;

use wattle_dataplane::{DropReason, TxBatch};
use wattle_link::{Input, Link, Output, Traffic};
use wattle_model::{Carrier, Endpoint, Instant, LinkId, LinkState, NodeId, Ppm};
use wattle_tunnel::Offer;
use wattle_wire::control::{self, Control, MAX_MESSAGE};
use wattle_wire::probe::Probe;

use crate::Event;
use crate::inbound::Arrival;
use crate::outbound::Way;
use crate::peer::{Kind, Port};
use crate::table::Slot;
use crate::ways::is_about_a_way;
use crate::worker::Worker;

/// Loss of one link that brings the others to the same neighbour under suspicion.
const RELATED_LOSS: Ppm = Ppm(50_000);

impl Worker {
    /// A packet that claims to be a message of the neighbour.
    pub(crate) fn neighbour_message(
        &mut self,
        now: Instant,
        slot: Slot,
        arrival: Arrival,
        packet: &[u8],
        tx: &mut TxBatch,
    ) {
        let peer = &self.table[slot];
        let is_node = matches!(peer.kind, Kind::Node);
        let message = control::unwrap(peer.entry.id, self.config.node, packet);
        let Some(message) = message.filter(|_| is_node) else {
            return self.drops.count(DropReason::ControlMalformed);
        };
        let is_neighbour = arrival.relayed.is_none();
        if is_neighbour && control::is_flood(message) && message.len() <= MAX_MESSAGE {
            self.link_heard(now, slot, arrival.from, tx);
            return self.flood(slot, arrival, message);
        }
        // Only neighbours talk about links.
        let parsed = Control::parse(message).ok();
        let Some(message) = parsed.filter(|message| is_neighbour || crosses_relays(message)) else {
            return self.drops.count(DropReason::ControlMalformed);
        };
        self.counters.control_rx_packets += 1;
        match message {
            Control::ChannelKey(_) | Control::ChannelKeyAck(_) => {
                self.authentic(now, slot, arrival, tx);
                self.channel_control(now, slot, &message, tx);
            }
            Control::SizeProbe { number } if is_about_a_way(number) => {
                self.authentic(now, slot, arrival, tx);
                self.answer_way(now, slot, arrival, number, tx);
            }
            Control::SizeProbeReply { number } if is_about_a_way(number) => {
                self.authentic(now, slot, arrival, tx);
                self.way_answered(now, slot, number);
            }
            Control::SizeProbe { number } => {
                self.authentic(now, slot, arrival, tx);
                self.answer_size(now, slot, number, tx);
            }
            Control::SizeProbeReply { number } => {
                self.authentic(now, slot, arrival, tx);
                self.table[slot].path_mtu.answered(now, number);
            }
            Control::Probe(probe) => {
                self.probed(now, slot, arrival.from, Input::Probe(probe), tx);
            }
            Control::ProbeReply(reply) => {
                self.probed(now, slot, arrival.from, Input::Reply(reply), tx);
            }
            Control::Bye => self.left(now, slot, tx),
            Control::Observed(address) => {
                self.link_heard(now, slot, arrival.from, tx);
                let peer = self.table[slot].entry.id;
                self.tell(Event::Reflexive { peer, address });
            }
            Control::Lanes(lanes) => {
                self.link_heard(now, slot, arrival.from, tx);
                self.lanes_told(now, slot, &lanes, tx);
            }
            Control::Barrier { number } => {
                self.link_heard(now, slot, arrival.from, tx);
                self.barrier(slot, arrival.from, number);
            }
            Control::BarrierReply { number } => {
                self.link_heard(now, slot, arrival.from, tx);
                match self.lane_number() {
                    Some(_) => self.lane_answered(now, slot, number),
                    None => self.end_barrier(slot, arrival.from.carrier(), number),
                }
            }
            Control::LinkKey(_)
            | Control::LinkKeyAck { .. }
            | Control::LinkKeyRequest
            | Control::Flood(_) => {
                self.link_heard(now, slot, arrival.from, tx);
                self.link_key_message(now, slot, arrival.from, &message, tx);
            }
        }
    }

    fn flood(&mut self, slot: Slot, arrival: Arrival, message: &[u8]) {
        let peer = &self.table[slot];
        let Some(port) = peer.port(arrival.from.carrier()) else {
            return self.drops.count(DropReason::ControlMalformed);
        };
        self.counters.control_rx_packets += 1;
        let event = Event::Control {
            from: peer.entry.id,
            link: port.id,
            payload: message.to_vec(),
        };
        self.tell(event);
    }

    fn probed(&mut self, now: Instant, slot: Slot, from: Endpoint, input: Input, tx: &mut TxBatch) {
        // What came before the probe counts before the probe, what went before the answer before the answer.
        self.flush_heard(now, tx);
        self.flush_relayed(now);
        let carrier = from.carrier();
        if let Some(port) = self.table[slot].port_mut(carrier) {
            port.link.handle(input, now);
            self.drain(now, slot, carrier, tx);
        }
    }

    fn link_key_message(
        &mut self,
        now: Instant,
        slot: Slot,
        from: Endpoint,
        message: &Control,
        tx: &mut TxBatch,
    ) {
        let keys = &mut self.table[slot].keys;
        match message {
            Control::LinkKey(link_key) => {
                let acknowledgement = keys.offered(link_key).to_bytes();
                self.send_control(now, slot, from, &acknowledgement, Traffic::Control, tx);
            }
            Control::LinkKeyAck { key_id } => {
                keys.acknowledged(now, *key_id);
                let due = keys.poll_timeout();
                self.due(now, due);
            }
            Control::LinkKeyRequest => {
                keys.requested(now);
                let due = keys.poll_timeout();
                self.due(now, due);
            }
            Control::Probe(_)
            | Control::ProbeReply(_)
            | Control::Observed(_)
            | Control::ChannelKey(_)
            | Control::ChannelKeyAck(_)
            | Control::SizeProbe { .. }
            | Control::SizeProbeReply { .. }
            | Control::Lanes(_)
            | Control::Barrier { .. }
            | Control::BarrierReply { .. }
            | Control::Bye
            | Control::Flood(_) => {}
        }
    }

    /// The neighbour stops: what it has not sent yet will not come.
    fn left(&mut self, now: Instant, slot: Slot, tx: &mut TxBatch) {
        self.flush_heard(now, tx);
        self.table[slot].keys.left();
        for carrier in Carrier::ALL {
            if let Some(port) = self.table[slot].port_mut(carrier) {
                port.link.handle(Input::Left, now);
                self.drain(now, slot, carrier, tx);
            }
        }
    }

    /// Tells all neighbours, over every link that is up, that this node stops, and says no more: whoever heard of it
    /// again would take it for back.
    pub(crate) fn say_bye(&mut self, now: Instant, tx: &mut TxBatch) {
        let bye = Control::Bye.to_bytes();
        for slot in self.table.slots() {
            for carrier in Carrier::ALL {
                let port = self.table[slot].port(carrier);
                let up = port.filter(|port| port.link.state().is_usable());
                if let Some(to) = up.and_then(|port| port.endpoint) {
                    self.send_control(now, slot, to, &bye, Traffic::Control, tx);
                }
            }
            self.table[slot].entry.adjacent = false;
            self.close_ports(now, slot);
        }
    }

    /// Offers the neighbour a link key, if one is due.
    pub(crate) fn offer_key(&mut self, now: Instant, slot: Slot, tx: &mut TxBatch) {
        let (rng, peer) = (&mut self.rng, &mut self.table[slot]);
        let reachable = peer.session.is_usable() && peer.best_port().is_some();
        if !reachable || !matches!(peer.kind, Kind::Node) {
            return;
        }
        if let Offer::Send(message) = peer.keys.handle_timeout(now, || rng.key()) {
            self.send_control_best(now, slot, &message.to_bytes(), tx);
        }
    }

    /// Sends a message over the healthiest link to the neighbour.
    pub(crate) fn send_control_best(
        &mut self,
        now: Instant,
        slot: Slot,
        message: &[u8],
        tx: &mut TxBatch,
    ) {
        if let Some(to) = self.table[slot]
            .best_port()
            .and_then(|(_, port)| port.endpoint)
        {
            self.send_control(now, slot, to, message, Traffic::Control, tx);
        }
    }

    /// Tells the neighbour where it is seen.
    pub(crate) fn send_observed(&mut self, now: Instant, slot: Slot, tx: &mut TxBatch) {
        for carrier in Carrier::ALL {
            let endpoint = self.table[slot]
                .port(carrier)
                .and_then(|port| port.endpoint);
            // An address at which a QUIC connection is seen is no place where plain datagrams would arrive.
            if let Some(to @ Endpoint::Udp(address)) = endpoint {
                let message = Control::Observed(address).to_bytes();
                self.send_control(now, slot, to, &message, Traffic::Control, tx);
            }
        }
    }

    /// Sends the router's message over one link.
    pub(crate) fn send_flood(
        &mut self,
        now: Instant,
        link: LinkId,
        message: &[u8],
        tx: &mut TxBatch,
    ) {
        let found = self.table.by_link(link).and_then(|(slot, carrier)| {
            let endpoint = self.table[slot].port(carrier)?.endpoint?;
            Some((slot, endpoint))
        });
        match found {
            Some((slot, to)) => self.send_control(now, slot, to, message, Traffic::Control, tx),
            None => self.unsent(DropReason::NoEndpoint),
        }
    }

    /// Sends a message to the neighbour at `to`; probes count themselves.
    pub(crate) fn send_control(
        &mut self,
        now: Instant,
        slot: Slot,
        to: Endpoint,
        message: &[u8],
        traffic: Traffic,
        tx: &mut TxBatch,
    ) {
        if self.seal_control(slot, to, message, tx) {
            self.link_sent(now, slot, to.carrier(), 1, traffic);
        }
    }

    fn seal_control(&mut self, slot: Slot, to: Endpoint, message: &[u8], tx: &mut TxBatch) -> bool {
        let peer = self.table[slot].entry.id;
        let Some(length) = control::wrap(self.config.node, peer, message, &mut self.scratch) else {
            self.unsent(DropReason::ControlMalformed);
            return false;
        };
        if !self.table[slot].session.is_usable() {
            return false;
        }
        let way = Way::Direct {
            to,
            link: Some((slot, to.carrier())),
        };
        match self.seal(slot, way, length, tx) {
            Ok(()) => {
                self.counters.control_tx_packets += 1;
                true
            }
            Err(reason) => {
                self.unsent(reason);
                false
            }
        }
    }

    /// Does what a link wants done.
    pub(crate) fn drain(&mut self, now: Instant, slot: Slot, carrier: Carrier, tx: &mut TxBatch) {
        while let Some(output) = self.table[slot]
            .port_mut(carrier)
            .and_then(|port| port.link.poll_output())
        {
            match output {
                Output::Probe(probe) => self.send_probe(slot, carrier, probe, tx),
                Output::Reply(reply) => {
                    let endpoint = self.table[slot]
                        .port(carrier)
                        .and_then(|port| port.endpoint);
                    if let Some(to) = endpoint {
                        self.seal_control(slot, to, &Control::ProbeReply(reply).to_bytes(), tx);
                    }
                }
                Output::StateChanged { to, .. } => {
                    self.link_event(now, slot, carrier);
                    self.link_changed(now, slot, to);
                }
                Output::Measured(_) => {
                    self.link_event(now, slot, carrier);
                    self.tell_related(now, slot, carrier, tx);
                }
                Output::PeerFingerprint(fingerprint) => {
                    let peer = &self.table[slot];
                    if let Some(link) = peer.port(carrier).map(|port| port.id) {
                        let event = Event::Fingerprint {
                            from: peer.entry.id,
                            link,
                            fingerprint,
                        };
                        self.tell(event);
                    }
                }
            }
        }
        if let Some(port) = self.table[slot].port(carrier) {
            let due = port.link.poll_timeout();
            self.due(now, due);
        }
    }

    /// A probe goes where the peer was heard; while it is not heard, everywhere where it may be.
    fn send_probe(&mut self, slot: Slot, carrier: Carrier, probe: Probe, tx: &mut TxBatch) {
        let message = Control::Probe(probe).to_bytes();
        let peer = &self.table[slot];
        let heard = peer.port(carrier).and_then(|port| {
            port.endpoint
                .filter(|_| port.link.state() != LinkState::Down)
        });
        match heard {
            Some(to) => {
                self.seal_control(slot, to, &message, tx);
            }
            None => {
                for to in peer.addresses(carrier) {
                    self.seal_control(slot, to, &message, tx);
                }
            }
        }
    }

    /// A link went up or down.
    fn link_changed(&mut self, now: Instant, slot: Slot, state: LinkState) {
        self.lanes_moved = true;
        let peer = &mut self.table[slot];
        match state {
            LinkState::Up => peer.dialer.stop(),
            // The peer may have restarted and forgotten the session.
            LinkState::Down if peer.entry.adjacent && !peer.has_usable_link() => {
                peer.dialer.start(now, peer.role);
            }
            LinkState::Down | LinkState::Probing | LinkState::Suspect => {}
        }
        let due = self.table[slot].dialer.poll_timeout();
        self.due(now, due);
        self.rank_links(now, slot, state);
        if matches!(state, LinkState::Suspect | LinkState::Down) {
            self.dial_again(now);
        }
    }

    /// Of several links to a neighbour the first that is up is used, the others are spare. When one is not trusted any
    /// longer, the others, which may have gone through the same cable, are asked at once.
    fn rank_links(&mut self, now: Instant, slot: Slot, state: LinkState) {
        let mut is_spare = false;
        for port in self.table[slot].ports.iter_mut() {
            port.link.handle(Input::Spare(is_spare), now);
            if state == LinkState::Suspect {
                port.link.handle(Input::Doubt, now);
            }
            is_spare |= port.link.state() == LinkState::Up;
        }
        self.due(now, now);
    }

    /// Links to one neighbour may share a cable: what one of them suffers, the others are asked about at once.
    fn tell_related(&mut self, now: Instant, slot: Slot, carrier: Carrier, tx: &mut TxBatch) {
        let peer = &self.table[slot];
        let Some(port) = peer.port(carrier) else {
            return;
        };
        let used = peer
            .ports
            .iter()
            .find(|(_, port)| port.link.state() == LinkState::Up);
        let is_used = used.is_some_and(|(first, _)| first == carrier);
        let input = match port.link.proven_loss() {
            loss if loss >= RELATED_LOSS => Input::Related(loss),
            _ if is_used && port.link.is_watched(now) => Input::Look,
            _ => return,
        };
        for other in Carrier::ALL.into_iter().filter(|other| *other != carrier) {
            let port = self.table[slot].port_mut(other);
            if let Some(port) = port.filter(|port| port.link.state() == LinkState::Up) {
                port.link.handle(input, now);
                self.drain(now, slot, other, tx);
            }
        }
    }

    fn link_event(&mut self, now: Instant, slot: Slot, carrier: Carrier) {
        let peer = &self.table[slot];
        let Some(port) = peer.port(carrier) else {
            return;
        };
        let event = Event::Link {
            link: port.id,
            peer: peer.entry.id,
            carrier,
            endpoint: port.endpoint.and_then(|endpoint| peer.shown(endpoint)),
            state: port.link.state(),
            measurement: port.link.measurement().unwrap_or_default(),
            at: now,
        };
        self.tell(event);
    }

    /// Something was sent over a link, beside probes.
    pub(crate) fn link_sent(
        &mut self,
        now: Instant,
        slot: Slot,
        carrier: Carrier,
        datagrams: u64,
        traffic: Traffic,
    ) {
        if let Some(port) = self.table[slot].port_mut(carrier) {
            port.link.handle(Input::Sent { datagrams, traffic }, now);
            let due = port.link.poll_timeout();
            self.due(now, due);
        }
    }

    /// Counts bytes of a datagram that was sent over a link.
    pub(crate) fn count_sent_bytes(&mut self, slot: Slot, carrier: Carrier, bytes: usize) {
        if let Some(port) = self.table[slot].port_mut(carrier) {
            port.tx_bytes += bytes as u64;
        }
    }

    /// Counts bytes of an authentic datagram that came over a link.
    pub(crate) fn count_received_bytes(&mut self, slot: Slot, from: Endpoint, bytes: usize) {
        if let Some(port) = self.table[slot].port_mut(from.carrier()) {
            port.rx_bytes += bytes as u64;
        }
    }

    /// Where a peer is heard from is where it is answered (white paper §2.1).
    pub(crate) fn learn_endpoint(
        &mut self,
        now: Instant,
        slot: Slot,
        from: Endpoint,
        tx: &mut TxBatch,
    ) {
        if self.lane_number().is_some() {
            // The first worker says where a lane goes.
            return;
        }
        let carrier = from.carrier();
        let peer = &mut self.table[slot];
        let endpoint = match &mut peer.kind {
            Kind::Leaf(endpoint) => endpoint,
            Kind::Node => match peer.ports.at(carrier) {
                Some(port) => &mut port.endpoint,
                None => return self.open_port(now, slot, carrier, Some(from)),
            },
        };
        if *endpoint != Some(from) {
            let old = endpoint.replace(from);
            if let Some(port) = peer.port_mut(carrier) {
                port.link.handle(Input::Moved, now);
            }
            self.table.moved(slot, old, from);
            self.lanes_moved = true;
            self.link_event(now, slot, carrier);
            self.send_observed(now, slot, tx);
        }
    }

    /// A QUIC connection with a peer came, moved or went.
    pub(crate) fn connection(&mut self, now: Instant, peer: NodeId, remote: Option<SocketAddr>) {
        let Some(slot) = self.table.by_id(peer) else {
            return;
        };
        let to = Endpoint::Quic(peer);
        let peer = &mut self.table[slot];
        peer.quic = remote;
        if let Some(port) = peer.port_mut(Carrier::Quic) {
            let old = port.endpoint;
            port.endpoint = remote.map(|_| to);
            match remote {
                Some(_) => self.table.moved(slot, old, to),
                None => {
                    port.link.handle(Input::Doubt, now);
                    self.due(now, now);
                }
            }
            return self.link_event(now, slot, Carrier::Quic);
        }
        if remote.is_none() || !peer.entry.adjacent {
            return;
        }
        if peer.session.is_usable() {
            return self.open_ports(now, slot);
        }
        // Plain handshakes may have been tried in vain for long; this is a way that was not there.
        peer.dialer.restart(now, peer.role);
        let due = peer.dialer.poll_timeout();
        self.due(now, due);
    }

    /// Begins to measure a link to an adjacent peer.
    fn open_port(
        &mut self,
        now: Instant,
        slot: Slot,
        carrier: Carrier,
        endpoint: Option<Endpoint>,
    ) {
        let entry = &self.table[slot].entry;
        if !entry.adjacent {
            return;
        }
        let id = self.table.link_id(entry.id, carrier);
        let mut link = Link::new(now);
        link.handle(Input::Fingerprint(self.fingerprint), now);
        *self.table[slot].ports.at(carrier) = Some(Port {
            id,
            link,
            endpoint,
            tx_bytes: 0,
            rx_bytes: 0,
        });
        if let Some(endpoint) = endpoint {
            self.table.moved(slot, None, endpoint);
        }
        self.due(now, now);
    }

    /// Begins to measure links over every carrier on which the peer may be reached.
    pub(crate) fn open_ports(&mut self, now: Instant, slot: Slot) {
        for carrier in Carrier::ALL {
            let peer = &self.table[slot];
            if peer.port(carrier).is_none() && !peer.addresses(carrier).is_empty() {
                self.open_port(now, slot, carrier, None);
            }
        }
    }
}

/// Whether a message is about the session of two nodes, and not about a link between them.
fn crosses_relays(message: &Control) -> bool {
    match message {
        Control::ChannelKey(_)
        | Control::ChannelKeyAck(_)
        | Control::SizeProbe { .. }
        | Control::SizeProbeReply { .. } => true,
        Control::Probe(_)
        | Control::ProbeReply(_)
        | Control::Observed(_)
        | Control::LinkKey(_)
        | Control::LinkKeyAck { .. }
        | Control::LinkKeyRequest
        | Control::Lanes(_)
        | Control::Barrier { .. }
        | Control::BarrierReply { .. }
        | Control::Bye
        | Control::Flood(_) => false,
    }
}
