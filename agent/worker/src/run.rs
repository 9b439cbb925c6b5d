//! What the datagrams of one run (those that one system call handed over together) have in common: looked up for the
//! first, known for the others, forgotten with the run.

use std::net::IpAddr;

use wattle_dataplane::{Packet, TxBatch};
use wattle_link::{Input, Traffic};
use wattle_model::{Carrier, Class, Endpoint, Instant, NodeId};
use wattle_wire::frame::Waypoints;

use crate::path::Hop;
use crate::table::Slot;
use crate::worker::Worker;

/// The run at hand.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// The session of the last message.
    session: Option<(u32, Slot)>,
    /// Whose packets, between which addresses, this node takes for itself.
    delivered: Option<(Slot, IpAddr, IpAddr)>,
    /// Where the last frame went.
    relayed: Option<(Course, Onward)>,
    /// What came over one link and was not told to it yet.
    heard: Option<Told>,
    /// What was relayed over one link and was not told to it yet.
    sent: Option<Told>,
}

/// What decides where a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Course {
    pub(crate) from: Slot,
    pub(crate) destination: NodeId,
    pub(crate) class: Class,
    pub(crate) flow: u32,
    pub(crate) detours: u8,
    pub(crate) waypoints: Waypoints,
}

/// Where a frame goes on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Onward {
    pub(crate) hop: Hop,
    pub(crate) waypoints: Waypoints,
}

/// Datagrams of one link.
#[derive(Debug, Clone, Copy)]
struct Told {
    slot: Slot,
    carrier: Carrier,
    datagrams: u64,
}

impl Run {
    /// The slot of a session that was looked up in this run.
    pub(crate) fn session(&self, index: u32) -> Option<Slot> {
        let (known, slot) = self.session?;
        (known == index).then_some(slot)
    }

    pub(crate) fn found_session(&mut self, index: u32, slot: Slot) {
        self.session = Some((index, slot));
    }

    /// Whether a packet of the same peer with these addresses was for this node and its sender's to send.
    pub(crate) fn delivers(&self, slot: Slot, ip: &Packet) -> bool {
        self.delivered == Some((slot, ip.source, ip.destination))
    }

    pub(crate) fn found_delivered(&mut self, slot: Slot, ip: &Packet) {
        self.delivered = Some((slot, ip.source, ip.destination));
    }

    /// Where the last frame went, if this one has the same course.
    pub(crate) fn onward(&self, course: &Course) -> Option<Onward> {
        let (known, onward) = self.relayed.as_ref()?;
        (known == course).then_some(*onward)
    }

    pub(crate) fn found_onward(&mut self, course: Course, onward: Onward) {
        self.relayed = Some((course, onward));
    }
}

impl Worker {
    /// Something authentic, beside probes, came over a link.
    pub(crate) fn link_heard(
        &mut self,
        now: Instant,
        slot: Slot,
        from: Endpoint,
        tx: &mut TxBatch,
    ) {
        let carrier = from.carrier();
        if !one_more(&mut self.run.heard, slot, carrier) {
            self.flush_heard(now, tx);
            self.run.heard = Some(Told::first(slot, carrier));
        }
    }

    /// A frame was relayed over a link.
    pub(crate) fn link_relayed(&mut self, now: Instant, slot: Slot, carrier: Carrier) {
        if !one_more(&mut self.run.sent, slot, carrier) {
            self.flush_relayed(now);
            self.run.sent = Some(Told::first(slot, carrier));
        }
    }

    /// Tells the link what was heard.
    pub(crate) fn flush_heard(&mut self, now: Instant, tx: &mut TxBatch) {
        let Some(told) = self.run.heard.take() else {
            return;
        };
        if let Some(port) = self.table[told.slot].port_mut(told.carrier) {
            let datagrams = told.datagrams;
            port.link.handle(Input::Received { datagrams }, now);
            self.drain(now, told.slot, told.carrier, tx);
        }
    }

    /// Tells the link what was relayed over it.
    pub(crate) fn flush_relayed(&mut self, now: Instant) {
        if let Some(told) = self.run.sent.take() {
            self.link_sent(now, told.slot, told.carrier, told.datagrams, Traffic::Data);
        }
    }

    /// The run is over.
    pub(crate) fn end_run(&mut self, now: Instant, tx: &mut TxBatch) {
        self.flush_heard(now, tx);
        self.flush_relayed(now);
        self.run = Run::default();
    }
}

impl Told {
    fn first(slot: Slot, carrier: Carrier) -> Self {
        Self {
            slot,
            carrier,
            datagrams: 1,
        }
    }
}

/// Counts one more datagram of the same link; `false` if what was counted is another's.
fn one_more(told: &mut Option<Told>, slot: Slot, carrier: Carrier) -> bool {
    match told {
        Some(told) if told.slot == slot && told.carrier == carrier => {
            told.datagrams += 1;
            true
        }
        _ => false,
    }
}
