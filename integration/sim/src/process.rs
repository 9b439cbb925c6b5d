//! What runs on a node: its links and its router, from what arrives to what they want sent.
//!
//! A process knows nothing of the others: what it does at an instant depends on what arrived there alone. So many may be at
//! work at once, and what they want is done one after the other, in the order of the nodes.

use std::collections::BTreeMap;

use wattle_link::{Input as LinkInput, Link, Output as LinkOutput, Traffic as Watched};
use wattle_model::{Carrier, Instant, LinkId, LinkState, Measurement, Micros, NodeId};
use wattle_routing::{Event, Happening, Input, Output, Router};
use wattle_wire::control::Control;

use crate::fleet::Traffic;
use crate::network::{Arrival, Datagram, EdgeNumber};

/// The first byte of a message that carries records.
pub(crate) const UPDATE: u8 = 16;

/// What dies with a node's process.
pub struct Process {
    /// Its clock reads the fleet's time plus this.
    pub(crate) offset: Micros,
    /// Its links, numbered as the edges are.
    pub links: BTreeMap<EdgeNumber, Link>,
    /// Its router.
    pub router: Router,
    /// Nobody hears of it and it hears of nobody until then.
    pub(crate) frozen_until: Instant,
    pub(crate) inbox: Vec<Arrival>,
    /// Who is at the other end of each edge, and over what.
    pub(crate) far: BTreeMap<EdgeNumber, (NodeId, Carrier)>,
}

/// The moment at which a process does something, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) now: Instant,
    /// Whether the router neither hears nor does anything: only links come up.
    pub(crate) only_links: bool,
    /// Whether all that waits is read before anything is done.
    pub(crate) reads_all: bool,
}

/// What a process wants done.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) datagrams: Vec<(EdgeNumber, Datagram)>,
    pub(crate) events: Vec<Event>,
    pub(crate) flooded: Traffic,
    pub(crate) updates: Traffic,
}

impl Outbox {
    fn send(&mut self, edge: EdgeNumber, message: Vec<u8>) {
        self.datagrams.push((edge, Datagram::Message(message)));
    }
}

impl Process {
    /// A process that begins; `router` is told of its links as they come up.
    pub(crate) fn new(
        offset: Micros,
        far: BTreeMap<EdgeNumber, (NodeId, Carrier)>,
        router: Router,
        local: Instant,
    ) -> Self {
        Self {
            offset,
            links: far.keys().map(|edge| (*edge, Link::new(local))).collect(),
            router,
            frozen_until: Instant(0),
            inbox: Vec::new(),
            far,
        }
    }

    /// Reads what arrived.
    pub(crate) fn receive(&mut self, moment: Moment, arrivals: Vec<Arrival>, outbox: &mut Outbox) {
        let mut messages = Vec::new();
        let many = arrivals.len() > 1;
        for arrival in arrivals {
            messages.extend(self.over_link(moment.now, arrival));
        }
        if many {
            // Whom a message is from counts by what is known of the links.
            self.drain_links(moment, outbox);
        }
        if !messages.is_empty() {
            self.router.handle_all(messages, moment.now + self.offset);
        }
        self.drain(moment, outbox);
    }

    /// Does what is due.
    pub(crate) fn wake(&mut self, moment: Moment, outbox: &mut Outbox) {
        let local = moment.now + self.offset;
        let late = moment.now.since(self.planned(moment.only_links));
        if late > Micros(0) {
            for link in self.links.values_mut() {
                link.handle(LinkInput::Stalled { late }, local);
            }
        }
        let inbox = std::mem::take(&mut self.inbox);
        match moment.reads_all {
            true => self.receive(moment, inbox, outbox),
            false => inbox
                .into_iter()
                .for_each(|arrival| self.receive(moment, vec![arrival], outbox)),
        }
        let links = self.links.values_mut();
        links.for_each(|link| link.handle_timeout(local));
        if !moment.only_links {
            self.router.handle_timeout(local);
        }
        self.drain(moment, outbox);
    }

    /// A user's packet leaves over an edge, if its link is in use.
    pub(crate) fn send_data(&mut self, moment: Moment, edge: EdgeNumber, outbox: &mut Outbox) {
        let Some(link) = self.links.get_mut(&edge) else {
            return;
        };
        if moment.now < self.frozen_until || !link.state().is_usable() {
            return;
        }
        let sent = LinkInput::Sent {
            datagrams: 1,
            traffic: Watched::Data,
        };
        link.handle(sent, moment.now + self.offset);
        outbox.datagrams.push((edge, Datagram::Data));
        self.drain(moment, outbox);
    }

    /// When links, or router, want to be woken, on the fleet's clock.
    pub(crate) fn planned(&self, only_links: bool) -> Instant {
        let links = self.links.values().map(Link::poll_timeout);
        let router = (!only_links).then(|| self.router.poll_timeout());
        let next = links.chain(router).min().unwrap_or(Instant::NEVER);
        if next == Instant::NEVER {
            next
        } else {
            next - self.offset
        }
    }

    /// Passes on what links and router want, until they want nothing more.
    pub(crate) fn drain(&mut self, moment: Moment, outbox: &mut Outbox) {
        loop {
            let links = self.drain_links(moment, outbox);
            let router = !moment.only_links && self.drain_router(moment, outbox);
            if !links && !router {
                break;
            }
        }
    }

    /// Tells the link what came over it; what is for the router, if it is.
    fn over_link(&mut self, now: Instant, arrival: Arrival) -> Option<Input> {
        let (from, _) = *self.far.get(&arrival.edge)?;
        let local = now + self.offset;
        let link = self.links.get_mut(&arrival.edge)?;
        let payload = match arrival.datagram {
            Datagram::Data => None,
            Datagram::Message(bytes) => match Control::parse(&bytes) {
                Ok(Control::Probe(probe)) => {
                    link.handle(LinkInput::Probe(probe), local);
                    return None;
                }
                Ok(Control::ProbeReply(reply)) => {
                    link.handle(LinkInput::Reply(reply), local);
                    return None;
                }
                Ok(_) | Err(_) => Some(bytes),
            },
        };
        link.handle(LinkInput::Received { datagrams: 1 }, local);
        payload.map(|payload| Input::Message { from, payload })
    }

    fn drain_links(&mut self, moment: Moment, outbox: &mut Outbox) -> bool {
        let mut outgoing = Vec::new();
        let mut inputs = Vec::new();
        for (edge, link) in &mut self.links {
            let (neighbour, carrier) = self.far[edge];
            while let Some(output) = link.poll_output() {
                inputs.push(match output {
                    LinkOutput::Probe(probe) => {
                        outgoing.push((*edge, Control::Probe(probe)));
                        continue;
                    }
                    LinkOutput::Reply(reply) => {
                        outgoing.push((*edge, Control::ProbeReply(reply)));
                        continue;
                    }
                    LinkOutput::PeerFingerprint(fingerprint) => Input::Fingerprint {
                        from: neighbour,
                        fingerprint,
                    },
                    LinkOutput::StateChanged { .. } | LinkOutput::Measured(_) => Input::Link {
                        link: LinkId(edge.0 as u32),
                        neighbour,
                        carrier,
                        state: link.state(),
                        measurement: link.measurement().unwrap_or_default(),
                    },
                });
            }
        }
        if moment.only_links {
            inputs.clear();
        }
        let anything = !outgoing.is_empty() || !inputs.is_empty();
        for input in inputs {
            self.router.handle(input, moment.now + self.offset);
        }
        for (edge, message) in outgoing {
            outbox.send(edge, message.to_bytes());
        }
        anything
    }

    fn drain_router(&mut self, moment: Moment, outbox: &mut Outbox) -> bool {
        let local = moment.now + self.offset;
        let mut anything = false;
        while let Some(output) = self.router.poll_output() {
            anything = true;
            match output {
                Output::Send { link, payload, .. } => {
                    let edge = EdgeNumber(link.0 as usize);
                    let Some(link) = self.links.get_mut(&edge) else {
                        continue;
                    };
                    let sent = LinkInput::Sent {
                        datagrams: 1,
                        traffic: Watched::Control,
                    };
                    link.handle(sent, local);
                    outbox.flooded.count(payload.len());
                    if payload.first() == Some(&UPDATE) {
                        outbox.updates.count(payload.len());
                    }
                    outbox.send(edge, payload);
                }
                Output::Fingerprint(fingerprint) => {
                    for link in self.links.values_mut() {
                        link.handle(LinkInput::Fingerprint(fingerprint), local);
                    }
                }
                Output::Event(event) => {
                    if let Happening::NodeRemoved { node, .. } = event.what {
                        self.drop_peer(node, local);
                    }
                    outbox.events.push(event);
                }
                Output::Routes(..) | Output::Accepted(_) | Output::Expired(_) => {}
            }
        }
        anything
    }

    /// Ends the links to a node that was removed, as the worker does.
    fn drop_peer(&mut self, peer: NodeId, local: Instant) {
        let to_peer = self.far.iter().filter(|(_, (node, _))| *node == peer);
        let dropped: Vec<_> = to_peer
            .map(|(edge, (_, carrier))| (*edge, *carrier))
            .collect();
        for (edge, _) in &dropped {
            self.links.remove(edge);
        }
        for (edge, carrier) in dropped {
            let input = Input::Link {
                link: LinkId(edge.0 as u32),
                neighbour: peer,
                carrier,
                state: LinkState::Down,
                measurement: Measurement::default(),
            };
            self.router.handle(input, local);
        }
    }
}
