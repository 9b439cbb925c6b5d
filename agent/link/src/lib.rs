//! Liveness and measurement of one link (`docs/protocol/probes.md`).
//!
//! A [`Link`] asks the other end of one link whether it is there, how far it is and how much gets lost on the way.
//! It knows nothing of sessions, sockets, other links or what its verdicts are used for.
//!
//! ```text
//! loop {
//!     link.handle(input, now)            // a probe, a reply, counts of other datagrams, a stall
//!     link.handle_timeout(now)           // at link.poll_timeout(), or any time before or after
//!     while let Some(output) = link.poll_output() { … }
//! }
//! ```
//! Probes and replies count themselves; [`Input::Sent`] and [`Input::Received`] are for all other authenticated datagrams.

mod liveness;
mod measure;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use wattle_model::{Instant, LinkState, Measurement, Micros, Ppm};
use wattle_wire::probe::{Probe, ProbeReply};

use crate::liveness::Liveness;
use crate::measure::{Estimators, Presence, Sample, Told};

/// Between two reports of a measurement that changed enough to matter …
const REPORT_SOON: Micros = Micros::from_millis(100);
/// … and of one that merely changed.
const REPORT_LATE: Micros = Micros::from_secs(2);
/// Outputs that may wait: the caller drains them after every verb, and one verb makes at most five.
const MAX_OUTPUTS: usize = 32;

/// What the world tells a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// The other end asks.
    Probe(Probe),
    /// The other end answers.
    Reply(ProbeReply),
    /// Authenticated datagrams, other than probes and replies, arrived on the link.
    Received {
        /// How many.
        datagrams: u64,
    },
    /// Datagrams, other than probes and replies, were sent on the link.
    Sent {
        /// How many.
        datagrams: u64,
        /// Whether somebody's data was among them, so that the link is worth watching closely.
        traffic: Traffic,
    },
    /// This node woke up later than it meant to: deadlines move, the other end is not blamed. To be told before what came
    /// in the meantime.
    Stalled {
        /// By how much.
        late: Micros,
    },
    /// The fingerprint of this node's link-state database, to be carried by probes and replies.
    Fingerprint(u64),
    /// Whether the link is spare: another one leads to the same neighbour and is used.
    Spare(bool),
    /// There is reason to think that the link is dead: the other end is to be asked at once.
    Doubt,
    /// Another link to the same neighbour, which may go through the same cable, loses so much.
    Related(Ppm),
    /// The delay of another link to the same neighbour is another than it was.
    Look,
    /// The other end was heard from another address: what was sent to the old one was lost by the move.
    Moved,
    /// The other end said that it stops: the link ends, and that is no failure.
    Left,
}

/// What kind of datagrams were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Traffic {
    /// Packets of users, own or relayed.
    Data,
    /// Handshakes, keys, link state.
    Control,
}

/// What a link wants done or known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// Send this probe.
    Probe(Probe),
    /// Send this reply.
    Reply(ProbeReply),
    /// The link is in another state.
    StateChanged {
        /// The state that ended.
        from: LinkState,
        /// The state that began.
        to: LinkState,
    },
    /// The measurement changed.
    Measured(Measurement),
    /// The other end's link-state database has another fingerprint than it had.
    PeerFingerprint(u64),
}

/// One link.
#[derive(Debug, Clone)]
pub struct Link {
    liveness: Liveness,
    estimators: Estimators,
    seq: u32,
    tx_packets: u64,
    rx_packets: u64,
    fingerprint: u64,
    peer_fingerprint: Option<u64>,
    reported: Option<(Instant, Measurement)>,
    /// When this node was back from its last absence, and how long that was.
    back: (Instant, Micros),
    outputs: VecDeque<Output>,
}

impl Link {
    /// A link that nothing is known of; its first probe is due at once.
    pub fn new(now: Instant) -> Self {
        Self {
            liveness: Liveness::new(now),
            estimators: Estimators::default(),
            seq: 0,
            tx_packets: 0,
            rx_packets: 0,
            fingerprint: 0,
            peer_fingerprint: None,
            reported: None,
            back: (Instant(0), Micros(0)),
            outputs: VecDeque::new(),
        }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, input: Input, now: Instant) {
        let before = self.state();
        match input {
            Input::Probe(probe) => self.probed(probe, now),
            Input::Reply(reply) => self.answered(&reply, now),
            Input::Received { datagrams } => {
                self.rx_packets += datagrams;
                self.liveness.talked(now);
            }
            Input::Sent { datagrams, traffic } => {
                self.tx_packets += datagrams;
                if traffic == Traffic::Data {
                    self.liveness.sent_data(now);
                }
            }
            Input::Stalled { late } => {
                self.back = (now, late);
                self.liveness.stalled(now, late);
            }
            Input::Fingerprint(fingerprint) => self.fingerprint = fingerprint,
            Input::Spare(is_spare) => self.liveness.spare(now, is_spare),
            Input::Doubt => self.liveness.doubt(now),
            Input::Related(loss) => {
                if self.estimators.suspect_loss(now, loss) {
                    self.liveness.lossy(true);
                    self.liveness.inquire(now);
                    self.report(now);
                }
            }
            Input::Look => self.liveness.alert(now),
            Input::Moved => self.liveness.moved(),
            Input::Left => self.liveness.left(now),
        }
        self.tell(before);
    }

    /// Judges the silence and sends the probe that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let before = self.state();
        let probe = self
            .liveness
            .handle_timeout(now, self.estimators.patience());
        self.tell(before);
        if probe {
            self.ask(now);
        }
    }

    /// When [`Self::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Instant {
        self.liveness.poll_timeout(self.estimators.patience())
    }

    /// The next thing to do or to know.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The link's state.
    pub fn state(&self) -> LinkState {
        self.liveness.state()
    }

    /// What is known of the link's quality; `None` before the first reply.
    pub fn measurement(&self) -> Option<Measurement> {
        self.estimators.measurement()
    }

    /// The loss that this link's own packets prove.
    pub fn proven_loss(&self) -> Ppm {
        self.estimators.proven_loss()
    }

    /// Whether the link is looked at more closely because its measurement is another than it was.
    pub fn is_watched(&self, now: Instant) -> bool {
        self.liveness.is_alert(now)
    }

    /// How often the link went down since it was last trusted for long.
    pub fn failures(&self) -> u32 {
        self.liveness.failures()
    }

    /// Datagrams sent and received on the link.
    pub fn packets(&self) -> Packets {
        Packets {
            tx: self.tx_packets,
            rx: self.rx_packets,
        }
    }

    fn probed(&mut self, probe: Probe, now: Instant) {
        self.rx_packets += 1;
        self.liveness.probed(now);
        self.learn(probe.fingerprint);
        let told = self
            .estimators
            .arrived(now, probe.tx_packets, self.rx_packets);
        self.look(now, told);
        self.tx_packets += 1;
        self.output(Output::Reply(ProbeReply {
            seq: probe.seq,
            sent_at: probe.sent_at,
            received_at: now.0,
            replied_at: now.0,
            tx_packets: probe.tx_packets,
            rx_packets: self.rx_packets,
            fingerprint: self.fingerprint,
        }));
    }

    fn answered(&mut self, reply: &ProbeReply, now: Instant) {
        self.rx_packets += 1;
        self.liveness.heard(now);
        if !self.is_answer(reply, now) {
            return;
        }
        self.learn(reply.fingerprint);
        let held = reply.replied_at.saturating_sub(reply.received_at);
        let sample = Sample {
            round_trip: Micros(now.since(Instant(reply.sent_at)).0.saturating_sub(held)),
            transit: reply.received_at.wrapping_sub(reply.sent_at).cast_signed(),
            sent: reply.tx_packets,
            received: reply.rx_packets,
            carried: self.tx_packets + self.rx_packets,
        };
        let presence = self.presence(reply, &sample);
        let told = self.estimators.sample(now, sample, presence);
        self.liveness.answered(now);
        self.look(now, told);
    }

    /// A measurement came in: looks closer if it is a surprise, and tells what changed.
    fn look(&mut self, now: Instant, told: Told) {
        self.liveness.lossy(self.estimators.is_lossy());
        if told == Told::Surprise {
            self.liveness.alert(now);
        }
        self.report(now);
    }

    /// Whether this node slept while the answer was under way, for a good part of the time that it took.
    fn presence(&self, reply: &ProbeReply, sample: &Sample) -> Presence {
        let (back_at, away) = self.back;
        let overlaps = Instant(reply.sent_at) < back_at;
        match overlaps && away.0 * 4 >= sample.round_trip.0 {
            true => Presence::Away,
            false => Presence::There,
        }
    }

    /// Whether this node asked what the reply answers: its numbers come back from outside.
    fn is_answer(&self, reply: &ProbeReply, now: Instant) -> bool {
        reply.seq < self.seq && reply.sent_at <= now.0 && reply.tx_packets <= self.tx_packets
    }

    fn ask(&mut self, now: Instant) {
        self.tx_packets += 1;
        self.output(Output::Probe(Probe {
            seq: self.seq,
            sent_at: now.0,
            tx_packets: self.tx_packets,
            fingerprint: self.fingerprint,
        }));
        self.seq = self.seq.wrapping_add(1);
    }

    fn learn(&mut self, fingerprint: u64) {
        if self.peer_fingerprint.replace(fingerprint) != Some(fingerprint) {
            self.output(Output::PeerFingerprint(fingerprint));
        }
    }

    fn report(&mut self, now: Instant) {
        let Some(measurement) = self.estimators.measurement() else {
            return;
        };
        let due = self.reported.is_none_or(|(at, last)| {
            let age = now.since(at);
            (age >= REPORT_SOON && matters(&last, &measurement))
                || (age >= REPORT_LATE && last != measurement)
        });
        if due {
            self.reported = Some((now, measurement));
            self.output(Output::Measured(measurement));
        }
    }

    fn tell(&mut self, before: LinkState) {
        let after = self.state();
        if after == before {
            return;
        }
        if after == LinkState::Down {
            self.estimators.reset();
            self.reported = None;
        }
        if (before, after) == (LinkState::Probing, LinkState::Up) {
            self.estimators.passed_probation();
        }
        self.output(Output::StateChanged {
            from: before,
            to: after,
        });
    }

    fn output(&mut self, output: Output) {
        if self.outputs.len() == MAX_OUTPUTS {
            self.outputs.pop_front();
        }
        self.outputs.push_back(output);
    }
}

/// Datagrams of one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Packets {
    /// Sent.
    pub tx: u64,
    /// Received.
    pub rx: u64,
}

/// Whether routing might decide differently: a tenth and 200 µs of delay, half a percent of loss.
fn matters(last: &Measurement, next: &Measurement) -> bool {
    let moved = |last: Micros, next: Micros| {
        let change = last.0.abs_diff(next.0);
        change >= 200 && change * 10 >= last.0
    };
    moved(last.rtt, next.rtt)
        || moved(last.min_rtt, next.min_rtt)
        || moved(last.jitter, next.jitter)
        || last.loss.0.abs_diff(next.loss.0) >= 5_000
}
