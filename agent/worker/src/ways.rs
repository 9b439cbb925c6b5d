//! Whether relays forward: questions to the other end of a path, over each relay that packets are handed to
//! (`docs/protocol/path-probes.md`).
//!
//! A relay may answer every probe of its links and still lose what it is given to pass on. Only the far end can tell, so
//! it is asked as long as packets go there; a relay over which no answer comes is left for the other ways that there are.

use wattle_dataplane::{Choice, Marking, TxBatch};
use wattle_model::{Class, Instant, Micros, NodeId};
use wattle_wire::control::{self, Control};
use wattle_wire::frame::Waypoints;

use crate::Event;
use crate::inbound::{Arrival, flow_of};
use crate::outbound::Way;
use crate::path::{Exit, Hop};
use crate::table::Slot;
use crate::worker::Worker;

/// Between questions while packets go over the relay, …
const ASK: Micros = Micros::from_millis(750);
/// … after one without an answer, or twice what answers took, …
const ASK_AGAIN: Micros = Micros::from_millis(200);
/// … and so many without an answer end the trust.
const MISSES: u32 = 4;
/// A relay counts as used for this long after the last packet.
const USED_FOR: Micros = Micros::from_secs(1);
/// Between questions over a relay that is left.
const SEARCH: Micros = Micros::from_millis(500);
/// How long it has to answer until it is trusted again, doubled with every failure.
const TRUST_AFTER: Micros = Micros::from_secs(2);
const TRUST_AFTER_MOST: Micros = Micros::from_secs(300);
/// What nobody used for so long is forgotten.
const FORGOTTEN_AFTER: Micros = Micros::from_secs(60);
/// Relays that are watched at once for one destination.
const MAX_WATCHED: usize = 16;
/// Numbers with this bit are questions about a way; those without are about a size.
const WAY_BIT: u32 = 1 << 31;

/// Whether a number belongs to a question about a way.
pub(crate) fn is_about_a_way(number: u32) -> bool {
    number & WAY_BIT != 0
}

/// The relays over which packets go to one destination.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    watched: Vec<Watched>,
    next_id: u16,
}

/// One relay that packets to the destination are handed to, by class: behind it each goes its own way.
#[derive(Debug)]
struct Watched {
    class: Class,
    via: NodeId,
    waypoints: Waypoints,
    /// Why packets were handed to it last.
    choice: Choice,
    id: u16,
    seq: u16,
    used_at: Instant,
    next: Instant,
    asked_at: Instant,
    misses: u32,
    round_trip: Micros,
    failures: u32,
    left: Option<Left>,
}

/// A relay that is left.
#[derive(Debug, Clone, Copy)]
struct Left {
    /// Since when it answers again.
    answers_since: Option<Instant>,
}

/// A question to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Question {
    class: Class,
    via: NodeId,
    waypoints: Waypoints,
    choice: Choice,
    number: u32,
}

/// A relay that lost the trust, or has it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Judged {
    via: NodeId,
    forwards: bool,
}

impl Ways {
    /// A packet of a class was handed to a relay.
    fn used(
        &mut self,
        now: Instant,
        class: Class,
        via: NodeId,
        (waypoints, choice): (Waypoints, Choice),
    ) {
        let mut watched = self.watched.iter_mut();
        match watched.find(|watched| (watched.class, watched.via) == (class, via)) {
            Some(watched) => {
                if now.since(watched.used_at) >= USED_FOR {
                    watched.misses = 0;
                    watched.next = watched.next.max(now + ASK_AGAIN);
                }
                watched.used_at = now;
                watched.waypoints = waypoints;
                watched.choice = choice;
            }
            None => {
                if self.watched.len() == MAX_WATCHED {
                    self.watched.remove(0);
                }
                self.next_id = self.next_id.wrapping_add(1) & 0x7fff;
                self.watched.push(Watched {
                    class,
                    via,
                    waypoints,
                    choice,
                    id: self.next_id,
                    seq: 0,
                    used_at: now,
                    next: now + ASK_AGAIN,
                    asked_at: now,
                    misses: 0,
                    round_trip: Micros(0),
                    failures: 0,
                    left: None,
                });
            }
        }
    }

    /// Whether packets of a class leave a relay.
    pub(crate) fn is_left(&self, class: Class, via: NodeId) -> bool {
        let mut watched = self.watched.iter();
        watched
            .any(|watched| (watched.class, watched.via) == (class, via) && watched.left.is_some())
    }

    /// The relays that are left, by the class of the packets.
    pub(crate) fn left(&self) -> impl Iterator<Item = (Class, NodeId)> + '_ {
        let left = self.watched.iter().filter(|watched| watched.left.is_some());
        left.map(|watched| (watched.class, watched.via))
    }

    /// Whether any relay is left.
    pub(crate) fn has_left(&self) -> bool {
        self.left().next().is_some()
    }

    /// The other end answered.
    fn answered(&mut self, now: Instant, number: u32) -> Option<Judged> {
        let (id, seq) = ((number >> 16) as u16 & 0x7fff, number as u16);
        let watched = self.watched.iter_mut().find(|watched| watched.id == id)?;
        if u32::from(watched.seq.wrapping_sub(seq)) > 2 * MISSES {
            return None;
        }
        watched.misses = 0;
        if seq == watched.seq {
            watched.round_trip = now.since(watched.asked_at);
        }
        let left = watched.left.as_mut()?;
        let since = *left.answers_since.get_or_insert(now);
        let doublings = watched.failures.saturating_sub(1).min(10);
        let probation = Micros(TRUST_AFTER.0 << doublings).min(TRUST_AFTER_MOST);
        if now.since(since) < probation {
            return None;
        }
        watched.left = None;
        Some(Judged {
            via: watched.via,
            forwards: true,
        })
    }

    /// Judges the silence, and asks what is due.
    fn handle_timeout(&mut self, now: Instant) -> (Vec<Question>, Vec<Judged>) {
        let (mut questions, mut judged) = (Vec::new(), Vec::new());
        self.watched
            .retain(|watched| now.since(watched.used_at) < FORGOTTEN_AFTER);
        for watched in self
            .watched
            .iter_mut()
            .filter(|watched| watched.is_asked(now))
        {
            if now < watched.next {
                continue;
            }
            if watched.misses >= MISSES {
                match &mut watched.left {
                    Some(left) => left.answers_since = None,
                    None => {
                        watched.left = Some(Left {
                            answers_since: None,
                        });
                        watched.failures = watched.failures.saturating_add(1);
                        judged.push(Judged {
                            via: watched.via,
                            forwards: false,
                        });
                    }
                }
            }
            watched.misses = watched.misses.saturating_add(1);
            watched.seq = watched.seq.wrapping_add(1);
            watched.asked_at = now;
            // As if it were not answered; the answer sets it right.
            let again = ASK_AGAIN.max(Micros(2 * watched.round_trip.0));
            watched.next = now
                + if watched.left.is_some() {
                    SEARCH
                } else {
                    again
                };
            questions.push(Question {
                class: watched.class,
                via: watched.via,
                waypoints: watched.waypoints,
                choice: watched.choice,
                number: WAY_BIT | u32::from(watched.id) << 16 | u32::from(watched.seq),
            });
        }
        (questions, judged)
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(crate) fn poll_timeout(&self, now: Instant) -> Instant {
        let asked = self.watched.iter().filter(|watched| watched.is_asked(now));
        asked
            .map(|watched| watched.next)
            .min()
            .unwrap_or(Instant::NEVER)
    }

    /// After an answer the next question has time.
    fn rest(&mut self, now: Instant, number: u32) {
        let id = (number >> 16) as u16 & 0x7fff;
        if let Some(watched) = self.watched.iter_mut().find(|watched| watched.id == id)
            && watched.left.is_none()
        {
            watched.next = now.max(watched.asked_at + ASK);
        }
    }
}

impl Watched {
    fn is_asked(&self, now: Instant) -> bool {
        self.left.is_some() || now.since(self.used_at) < USED_FOR
    }
}

impl Worker {
    /// A packet of this node was handed to a relay.
    pub(crate) fn way_used(&mut self, now: Instant, class: Class, hop: &Hop, destination: NodeId) {
        let via = self.table[hop.next].entry.id;
        if let Some(slot) = self.table.by_id(destination) {
            let ways = &mut self.table[slot].ways;
            ways.used(now, class, via, (hop.waypoints, hop.choice));
            let due = ways.poll_timeout(now);
            self.due(now, due);
        }
    }

    /// Asks the other end over the relays that packets to it are handed to.
    pub(crate) fn ask_ways(&mut self, now: Instant, slot: Slot, tx: &mut TxBatch) {
        let (questions, judged) = self.table[slot].ways.handle_timeout(now);
        for judged in judged {
            self.tell_way(now, slot, judged);
        }
        for question in questions {
            let via = self.table.by_id(question.via);
            let Some(exit) = via.and_then(|via| self.straight(via)) else {
                continue;
            };
            // A question has begun as many detours as the packets that it stands for.
            let hop = exit.hop(question.choice, question.waypoints);
            let message = Control::SizeProbe {
                number: question.number,
            };
            self.send_over(now, slot, (question.class, hop), &message, tx);
        }
    }

    /// The other end of a way is asked: the answer goes back the way that the question came.
    pub(crate) fn answer_way(
        &mut self,
        now: Instant,
        slot: Slot,
        arrival: Arrival,
        number: u32,
        tx: &mut TxBatch,
    ) {
        let back = self.table.by_endpoint(arrival.from);
        let exit = back.map(|next| Exit {
            next,
            carrier: arrival.from.carrier(),
            endpoint: arrival.from,
        });
        match exit.filter(|_| arrival.relayed.is_some()) {
            Some(exit) => {
                let message = Control::SizeProbeReply { number };
                let over = (Class::Latency, exit.plain());
                self.send_over(now, slot, over, &message, tx);
            }
            None => self.answer_size(now, slot, number, tx),
        }
    }

    /// The other end of a way answered.
    pub(crate) fn way_answered(&mut self, now: Instant, slot: Slot, number: u32) {
        let ways = &mut self.table[slot].ways;
        let judged = ways.answered(now, number);
        ways.rest(now, number);
        if let Some(judged) = judged {
            self.tell_way(now, slot, judged);
        }
    }

    fn tell_way(&mut self, now: Instant, slot: Slot, judged: Judged) {
        let event = Event::Way {
            destination: self.table[slot].entry.id,
            via: judged.via,
            forwards: judged.forwards,
            at: now,
        };
        self.tell(event);
    }

    /// Sends a message to a peer through a relay of our choice.
    fn send_over(
        &mut self,
        now: Instant,
        slot: Slot,
        (class, hop): (Class, Hop),
        message: &Control,
        tx: &mut TxBatch,
    ) {
        let peer = self.table[slot].entry.id;
        if !self.table[slot].session.is_usable() || !self.table[hop.next].keys.can_seal() {
            return;
        }
        let wrapped = control::wrap(
            self.config.node,
            peer,
            &message.to_bytes(),
            &mut self.scratch,
        );
        let Some(length) = wrapped else { return };
        let marking = Marking {
            class,
            ..Marking::CONTROL
        };
        let header = self.header(slot, flow_of(peer), marking, &hop);
        let way = Way::Relayed { hop, header };
        match self.seal(slot, way, length, tx) {
            Ok(()) => {
                self.counters.control_tx_packets += 1;
                self.link_sent(now, hop.next, hop.carrier, 1, wattle_link::Traffic::Control);
            }
            Err(reason) => self.unsent(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELAY: NodeId = NodeId(7);

    fn at(millis: u64) -> Instant {
        Instant(1_000_000 + millis * 1_000)
    }

    /// Uses the relay each 10 ms from `from` to `to`; when it is left or trusted, and how many questions were asked.
    fn run(ways: &mut Ways, (from, to): (u64, u64), forwards: bool) -> (Vec<(u64, bool)>, usize) {
        let (mut told, mut asked) = (Vec::new(), 0);
        for millis in (from..to).step_by(10) {
            let over = (Waypoints::NONE, Choice::First);
            ways.used(at(millis), Class::Latency, RELAY, over);
            let (questions, judged) = ways.handle_timeout(at(millis));
            told.extend(judged.iter().map(|judged| (millis, judged.forwards)));
            asked += questions.len();
            for question in questions.iter().filter(|_| forwards) {
                let judged = ways.answered(at(millis + 1), question.number);
                ways.rest(at(millis + 1), question.number);
                told.extend(judged.iter().map(|judged| (millis, judged.forwards)));
            }
        }
        (told, asked)
    }

    #[test]
    fn a_relay_that_stops_forwarding_is_left_within_1600_ms_and_trusted_again_after_probation() {
        let mut ways = Ways::default();
        let (told, asked) = run(&mut ways, (0, 10_000), true);
        assert!(
            told.is_empty() && (12..=15).contains(&asked),
            "{told:?} {asked}"
        );
        let (told, _) = run(&mut ways, (10_000, 13_000), false);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].0 <= 11_600 && !told[0].1, "{told:?}");
        assert!(ways.is_left(Class::Latency, RELAY));
        assert!(!ways.is_left(Class::Bulk, RELAY), "that goes on otherwise");
        let (told, _) = run(&mut ways, (13_000, 17_000), true);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            (15_000..=16_500).contains(&told[0].0) && told[0].1,
            "{told:?}"
        );
        assert!(!ways.is_left(Class::Latency, RELAY));
    }

    #[test]
    fn a_relay_that_nothing_is_handed_to_is_not_asked_over_and_forgotten() {
        let mut ways = Ways::default();
        run(&mut ways, (0, 3_000), true);
        let (questions, judged) = ways.handle_timeout(at(5_000));
        assert!(questions.is_empty() && judged.is_empty());
        assert_eq!(ways.poll_timeout(at(5_000)), Instant::NEVER);
        ways.handle_timeout(at(70_000));
        assert!(ways.watched.is_empty());
    }

    #[test]
    fn answers_to_what_was_not_asked_change_nothing() {
        let mut ways = Ways::default();
        run(&mut ways, (0, 3_000), false);
        assert!(ways.is_left(Class::Latency, RELAY));
        for number in [0, WAY_BIT, WAY_BIT | 1 << 16 | 0xff00, u32::MAX] {
            ways.answered(at(9_000), number);
        }
        assert_eq!(ways.watched[0].left.unwrap().answers_since, None);
    }
}
