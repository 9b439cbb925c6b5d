//! One lane at the worker that has it: whether packets of its queue go over it, wait, or go by way of the first worker
//! (`docs/protocol/lanes.md §3`).
//!
//! A lane is wished for by the first packet for its peer, dialled, tried, and takes over once everything that went by
//! way of the first worker has arrived. Knows nothing of sessions and sockets: [`Step`] says what is to be done.

use std::collections::VecDeque;
use std::net::SocketAddr;

use wattle_dataplane::VnetHeader;
use wattle_model::{Instant, Micros};

/// How long a handshake and, after it, the first answer may take.
const PATIENCE: Micros = Micros::from_secs(3);
/// Between questions while a lane is tried and while it carries packets.
const ASK: Micros = Micros::from_millis(200);
/// A lane that carries packets and answers nothing for so long is given up.
const SILENCE: Micros = Micros::from_secs(1);
/// How long packets wait for a lane to take over, beside three round trips: two busy workers have to come round.
const SWITCH: Micros = Micros::from_millis(50);
/// Pause after a failure, doubled with each further one.
const PAUSE: Micros = Micros::from_secs(1);
const LONGEST_PAUSE: Micros = Micros::from_secs(64);
/// Between words to the first worker that a lane carries packets, so that it watches the link that they go over. Less
/// than the second for which a link counts as carrying data.
const WORD: Micros = Micros::from_millis(250);
/// Packets that may wait for one lane to take over …
const MAX_HELD_PACKETS: usize = 2_048;
/// … and their bytes: a third of a second of 100 Mbit/s.
const MAX_HELD_BYTES: usize = 4 << 20;

/// A packet of the device that waits.
pub(crate) type HeldBack = (VnetHeader, Vec<u8>);

/// Where a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Over the lane.
    Lane,
    /// Nowhere yet: the lane is about to take over.
    Hold,
    /// To the first worker.
    First,
}

/// What is to be done for a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Dial the peer's worker.
    Dial,
    /// Send a barrier of this number over the lane.
    Ask(u32),
    /// Have the first worker send a barrier of this number.
    Switch(u32),
    /// What waited goes where packets go.
    Release,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    /// Not wished for, or given up.
    #[default]
    Idle,
    /// There is no session yet.
    Dialling { until: Instant },
    /// Nothing was answered over it yet.
    Trying { until: Instant },
    /// What went by way of the first worker is still under way.
    Switching { number: u32, until: Instant },
    /// It carries packets.
    Open,
}

/// A question without an answer.
#[derive(Debug, Clone, Copy)]
struct Asked {
    number: u32,
    at: Instant,
}

/// One lane.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    /// Where the first worker says that it goes.
    directed: Option<SocketAddr>,
    /// Where the peer's packets come from, if that is another port of the same host: it is behind a NAT.
    heard: Option<SocketAddr>,
    stage: Stage,
    /// Whether the session did not answer: another one is wanted.
    is_stale: bool,
    wants_dialling: bool,
    failures: u32,
    retry_at: Instant,
    numbers: u32,
    /// The oldest question of those without an answer.
    asked: Option<Asked>,
    /// The answer to this one settles the lane.
    settles_with: Option<u32>,
    next_ask: Instant,
    next_word: Instant,
    round_trip: Micros,
    has_sent: bool,
    held: VecDeque<HeldBack>,
    held_bytes: usize,
}

impl Lane {
    /// Where the lane goes.
    pub(crate) fn endpoint(&self) -> Option<SocketAddr> {
        self.heard.or(self.directed)
    }

    /// Whether it carries packets.
    pub(crate) fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Whether there is to be a handshake.
    pub(crate) fn wants_session(&self) -> bool {
        matches!(self.stage, Stage::Dialling { .. })
    }

    /// The first worker says where it goes, or that it is not to be used.
    pub(crate) fn direct(&mut self, to: Option<SocketAddr>) {
        if self.directed == to {
            return;
        }
        self.directed = to;
        self.heard = None;
        self.begin_anew();
        // Another place is another chance.
        self.is_stale = false;
    }

    /// Packets go by way of the first worker until the lane takes over again, and it may try at once.
    pub(crate) fn begin_anew(&mut self) {
        self.close();
        self.failures = 0;
        self.retry_at = Instant(0);
    }

    /// An authentic packet of the peer came from here.
    pub(crate) fn heard_from(&mut self, from: SocketAddr) {
        if self.directed.is_some_and(|to| to.ip() == from.ip()) {
            self.heard = Some(from);
        }
    }

    /// A packet for the peer is there; `is_usable` says whether the session is.
    pub(crate) fn choose(&mut self, now: Instant, is_usable: bool) -> Choice {
        match self.stage {
            // What waited goes first, wherever it goes.
            _ if !self.held.is_empty() => Choice::Hold,
            Stage::Open if is_usable => Choice::Lane,
            Stage::Open => {
                self.fail(now);
                Choice::First
            }
            Stage::Switching { .. } => Choice::Hold,
            Stage::Dialling { .. } | Stage::Trying { .. } => Choice::First,
            Stage::Idle => {
                self.wish(now, is_usable);
                Choice::First
            }
        }
    }

    /// Packets were sent over the lane; whether the first worker is to hear of it.
    pub(crate) fn sent(&mut self, now: Instant) -> bool {
        self.has_sent = true;
        let is_due = now >= self.next_word;
        if is_due {
            self.next_word = now + WORD;
        }
        is_due
    }

    /// Keeps a copy of a packet until the lane takes over; `false` if there is no room.
    #[must_use]
    pub(crate) fn hold(&mut self, header: VnetHeader, packet: &[u8]) -> bool {
        let bytes = self.held_bytes + packet.len();
        if self.held.len() == MAX_HELD_PACKETS || bytes > MAX_HELD_BYTES {
            return false;
        }
        self.held_bytes = bytes;
        self.held.push_back((header, packet.to_vec()));
        true
    }

    /// What waited, oldest first.
    pub(crate) fn take_held(&mut self) -> VecDeque<HeldBack> {
        self.held_bytes = 0;
        std::mem::take(&mut self.held)
    }

    /// A handshake was completed.
    pub(crate) fn established(&mut self, now: Instant) {
        self.is_stale = false;
        if let Stage::Dialling { .. } = self.stage {
            self.begin_trying(now);
        }
    }

    /// The peer answered a barrier that was sent over the lane.
    pub(crate) fn answered(&mut self, now: Instant, number: u32) {
        if self.settles_with.is_some_and(|wanted| number >= wanted) {
            self.settles_with = None;
        }
        let Some(asked) = self.asked.filter(|asked| number >= asked.number) else {
            return;
        };
        self.asked = None;
        if number == asked.number {
            self.round_trip = now.since(asked.at);
        }
        if let Stage::Trying { .. } = self.stage {
            let number = self.number();
            let until = now + SWITCH + Micros(self.round_trip.0 * 3);
            self.stage = Stage::Switching { number, until };
            self.next_ask = now;
        }
    }

    /// The peer answered a barrier that the first worker sent.
    pub(crate) fn switched(&mut self, now: Instant, number: u32) {
        match self.stage {
            Stage::Switching {
                number: wanted,
                until,
            } if number == wanted && now < until => {
                self.stage = Stage::Open;
                self.failures = 0;
                self.asked = None;
                self.next_ask = now;
            }
            _ => {}
        }
    }

    /// Has the lane say when all that was sent over it has arrived.
    pub(crate) fn settle(&mut self, now: Instant) -> Option<Step> {
        if self.stage != Stage::Open || (!self.has_sent && self.asked.is_none()) {
            return None;
        }
        let step = self.ask(now);
        self.settles_with = Some(self.numbers);
        Some(step)
    }

    /// Whether all that was sent before [`Self::settle`] has arrived.
    pub(crate) fn is_settled(&self) -> bool {
        self.settles_with.is_none()
    }

    /// Does what is due; to be called until there is nothing more.
    pub(crate) fn step(&mut self, now: Instant, is_usable: bool) -> Option<Step> {
        if std::mem::take(&mut self.wants_dialling) {
            return Some(Step::Dial);
        }
        match self.stage {
            Stage::Idle => {}
            Stage::Dialling { until } if now >= until => self.fail(now),
            Stage::Dialling { .. } => {}
            Stage::Trying { until } if now >= until => {
                self.is_stale = true;
                self.fail(now);
            }
            Stage::Trying { .. } if now >= self.next_ask => return Some(self.ask(now)),
            Stage::Trying { .. } => {}
            Stage::Switching { until, .. } if now >= until => self.fail(now),
            Stage::Switching { number, .. } if now >= self.next_ask => {
                self.next_ask = Instant::NEVER;
                return Some(Step::Switch(number));
            }
            Stage::Switching { .. } => {}
            Stage::Open if !is_usable => self.fail(now),
            Stage::Open if self.silent_at() <= now => {
                self.is_stale = true;
                self.fail(now);
            }
            Stage::Open if self.wants_to_ask() && now >= self.next_ask => {
                return Some(self.ask(now));
            }
            Stage::Open => {}
        }
        self.wants_release().then_some(Step::Release)
    }

    /// When [`Self::step`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Instant {
        match self.stage {
            _ if self.wants_dialling || self.wants_release() => Instant(0),
            Stage::Idle => Instant::NEVER,
            Stage::Dialling { until } => until,
            Stage::Trying { until } | Stage::Switching { until, .. } => until.min(self.next_ask),
            Stage::Open if self.wants_to_ask() => self.next_ask.min(self.silent_at()),
            Stage::Open => self.silent_at(),
        }
    }

    fn wish(&mut self, now: Instant, is_usable: bool) {
        if self.directed.is_none() || now < self.retry_at {
            return;
        }
        if is_usable && !self.is_stale {
            return self.begin_trying(now);
        }
        self.stage = Stage::Dialling {
            until: now + PATIENCE,
        };
        self.wants_dialling = true;
    }

    fn begin_trying(&mut self, now: Instant) {
        self.asked = None;
        self.next_ask = now;
        self.stage = Stage::Trying {
            until: now + PATIENCE,
        };
    }

    fn ask(&mut self, now: Instant) -> Step {
        self.next_ask = now + ASK;
        self.has_sent = false;
        let number = self.number();
        self.asked.get_or_insert(Asked { number, at: now });
        Step::Ask(number)
    }

    /// Whoever was not answered asks again, whether packets follow or not.
    fn wants_to_ask(&self) -> bool {
        self.has_sent || self.asked.is_some()
    }

    fn wants_release(&self) -> bool {
        !self.held.is_empty() && !matches!(self.stage, Stage::Switching { .. })
    }

    fn silent_at(&self) -> Instant {
        self.asked
            .map_or(Instant::NEVER, |asked| asked.at + SILENCE)
    }

    fn number(&mut self) -> u32 {
        // The first worker has 24 bits for it.
        self.numbers = (self.numbers + 1) & 0x00ff_ffff;
        self.numbers
    }

    fn fail(&mut self, now: Instant) {
        self.close();
        self.heard = None;
        let pause = Micros(PAUSE.0 << self.failures.min(6)).min(LONGEST_PAUSE);
        self.retry_at = now + pause;
        self.failures = self.failures.saturating_add(1);
    }

    fn close(&mut self) {
        self.stage = Stage::Idle;
        self.asked = None;
        self.settles_with = None;
        self.wants_dialling = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant(1_000_000_000);

    fn to(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn after(ms: u64) -> Instant {
        START + Micros::from_millis(ms)
    }

    fn steps(lane: &mut Lane, now: Instant, is_usable: bool) -> Vec<Step> {
        std::iter::from_fn(|| lane.step(now, is_usable)).collect()
    }

    /// A lane that takes over at `after(3)`; one packet waited for it.
    fn open() -> Lane {
        let mut lane = Lane::default();
        lane.direct(Some(to(7)));
        assert_eq!(lane.choose(START, false), Choice::First);
        assert_eq!(steps(&mut lane, START, false), [Step::Dial]);
        lane.established(START);
        assert_eq!(steps(&mut lane, START, true), [Step::Ask(1)]);
        assert_eq!(lane.choose(after(1), true), Choice::First);
        lane.answered(after(1), 1);
        assert_eq!(steps(&mut lane, after(1), true), [Step::Switch(2)]);
        assert_eq!(lane.choose(after(2), true), Choice::Hold);
        assert!(lane.hold(VnetHeader::default(), &[1]));
        assert_eq!(steps(&mut lane, after(2), true), []);
        lane.switched(after(3), 2);
        assert_eq!(lane.choose(after(3), true), Choice::Hold, "one waits");
        assert_eq!(lane.step(after(3), true), Some(Step::Release));
        assert_eq!(lane.take_held().len(), 1);
        assert_eq!(lane.choose(after(3), true), Choice::Lane);
        lane
    }

    #[test]
    fn a_lane_takes_over_after_a_handshake_an_answer_and_a_barrier() {
        assert!(open().is_open());
    }

    #[test]
    fn without_an_address_nothing_is_tried() {
        let mut lane = Lane::default();
        assert_eq!(lane.choose(START, true), Choice::First);
        assert_eq!(steps(&mut lane, START, true), []);
        assert_eq!(lane.poll_timeout(), Instant::NEVER);
    }

    #[test]
    fn a_barrier_that_is_not_answered_sends_what_waited_by_way_of_the_first_worker() {
        let mut lane = Lane::default();
        lane.direct(Some(to(7)));
        lane.choose(START, true);
        steps(&mut lane, START, true);
        lane.answered(after(10), 1);
        assert_eq!(steps(&mut lane, after(10), true), [Step::Switch(2)]);
        assert!(lane.hold(VnetHeader::default(), &[1]));
        // Fifty milliseconds and three round trips of ten.
        assert_eq!(lane.poll_timeout(), after(90));
        assert_eq!(lane.step(after(90), true), Some(Step::Release));
        assert_eq!(lane.choose(after(90), true), Choice::Hold, "one waits");
        lane.switched(after(91), 2);
        assert!(!lane.is_open(), "late answers open nothing");
        assert_eq!(lane.take_held().len(), 1);
        assert_eq!(lane.choose(after(91), true), Choice::First);
        assert_eq!(lane.choose(after(1_089), true), Choice::First);
        assert_eq!(steps(&mut lane, after(1_089), true), [], "it pauses");
        assert_eq!(lane.choose(after(1_090), true), Choice::First);
        assert_eq!(steps(&mut lane, after(1_090), true), [Step::Ask(3)]);
    }

    #[test]
    fn a_lane_that_carries_packets_and_answers_nothing_is_given_up_within_a_second_and_dialled_anew()
     {
        let mut lane = open();
        let mut asked = Vec::new();
        let mut given_up = None;
        for ms in 4..3_000 {
            match lane.choose(after(ms), true) {
                Choice::Lane => drop(lane.sent(after(ms))),
                _ => {
                    given_up.get_or_insert(ms);
                }
            }
            asked.extend(steps(&mut lane, after(ms), true));
        }
        assert_eq!(given_up, Some(1_005));
        assert_eq!(asked.iter().filter(|step| **step == Step::Dial).count(), 1);
        assert!(asked.len() < 8, "{asked:?}");
    }

    #[test]
    fn an_open_lane_that_carries_nothing_asks_nothing() {
        let mut lane = open();
        assert_eq!(lane.poll_timeout(), Instant::NEVER);
        assert_eq!(steps(&mut lane, after(100_000), true), []);
        assert!(lane.is_open());
    }

    #[test]
    fn the_first_worker_closes_it_at_once_and_another_address_is_another_lane() {
        for target in [None, Some(to(8))] {
            let mut lane = open();
            lane.direct(target);
            assert_eq!(lane.choose(after(4), true), Choice::First);
            assert_eq!(lane.endpoint(), target);
        }
    }

    #[test]
    fn a_peer_behind_a_nat_is_answered_where_it_is_heard_on_the_same_host_only() {
        let mut lane = open();
        lane.heard_from(to(4_000));
        assert_eq!(lane.endpoint(), Some(to(4_000)));
        lane.heard_from(SocketAddr::from(([198, 51, 100, 1], 5)));
        assert_eq!(lane.endpoint(), Some(to(4_000)));
    }

    #[test]
    fn it_is_settled_once_all_that_was_sent_has_arrived() {
        let mut lane = open();
        assert_eq!(lane.settle(after(4)), None, "nothing was sent");
        lane.sent(after(4));
        assert_eq!(steps(&mut lane, after(4), true), [Step::Ask(3)]);
        assert_eq!(lane.settle(after(5)), Some(Step::Ask(4)));
        lane.answered(after(6), 3);
        assert!(!lane.is_settled());
        lane.answered(after(7), 4);
        assert!(lane.is_settled());
        assert_eq!(lane.settle(after(8)), None);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut lane = Lane::default();
        let kept = (0..10_000).filter(|_| lane.hold(VnetHeader::default(), &[0; 8]));
        assert_eq!(kept.count(), MAX_HELD_PACKETS);
        lane.take_held();
        let kept = (0..1_000).filter(|_| lane.hold(VnetHeader::default(), &[0; 65_000]));
        assert_eq!(kept.count(), MAX_HELD_BYTES / 65_000);
    }
}
