//! Whether the link lives, and when to ask.
//!
//! Any authenticated datagram is life; probes fill the gaps. An idle link is asked every four seconds, by one end or the
//! other, a spare one every twenty; one that carries data four times a second, for the measurement's sake. Where data was
//! sent and the other end fell silent it is asked at once and again: *suspect* (local, reversible) is who does not
//! answer in time, *down* who stays silent. What failed comes back only after a probation that doubles with every flap.
//! Knows nothing of what a probe measures.

use std::collections::VecDeque;

use wattle_model::{Instant, LinkState, Micros};

/// Between probes while nothing else is sent; whoever is asked asks so much later himself.
const IDLE: Micros = Micros::from_secs(4);
/// The same on a link that is not used because another one leads to the same neighbour.
const SPARE: Micros = Micros::from_secs(20);
/// Between probes of a link that failed, to find it again.
const SEARCH: Micros = Micros::from_secs(1);
/// Between probes while data is sent, for the measurement; …
const MEASURE: Micros = Micros::from_millis(250);
/// … and on an idle link while losses are to be proven or forgiven.
const MEASURE_LOSS: Micros = Micros::from_millis(600);
/// Between probes while the measurement looks different from what it was, …
const ALERT: Micros = Micros::from_millis(40);
/// … for this long, …
const ALERT_FOR: Micros = Micros::from_millis(800);
/// … and not again within this, …
const ALERT_PAUSE: Micros = Micros::from_secs(2);
/// … on an idle link not more than twice within this: once for what begins, once for its end. It may be unsteady for ever.
const ALERT_PAUSE_IDLE: Micros = Micros::from_secs(60);
/// The same for a link that stands under suspicion because another one to the same neighbour loses packets: time for fifty.
const INQUIRY: Micros = Micros::from_millis(2_500);
/// Intervals from this on are spread.
const SPREAD_FROM: Micros = Micros::from_millis(200);
/// Between probes of a link that comes up for the first time, and in a burst.
const ACTIVE: Micros = Micros::from_millis(25);
/// Silence after which the other end is asked, once data was sent: half a beat longer than its datagrams usually are
/// apart, within these bounds, while it has a beat; …
const BEAT_SILENCE: (Micros, Micros) = (Micros::from_millis(10), Micros::from_millis(24));
/// … else this.
const SILENCE: Micros = Micros::from_millis(20);
/// Datagrams further apart than this are no beat.
const BEAT_MOST: Micros = Micros::from_millis(16);
/// Between two times of asking a silent end, or a third of what an answer may take.
const ASK_AGAIN: Micros = Micros::from_millis(4);
const ASKS: u64 = 3;
/// What the first of them may take at least to be answered.
const ANSWER_LEAST: Micros = Micros::from_millis(12);
/// A node that slept for so long more than once is on a busy machine, as the other end may be: for a while, silence means
/// less. What is added to the time that an answer may take is the second longest absence of the last …
const BUSY: Micros = Micros::from_millis(10);
const BUSY_LAST: usize = 4;
/// … within so long, …
const BUSY_FOR: Micros = Micros::from_secs(10);
/// … up to so much, and twice that before the link ends.
const BUSY_MOST: Micros = Micros::from_millis(200);
/// How long a link counts as carrying data after the last datagram.
const ACTIVE_FOR: Micros = Micros::from_secs(1);
/// How long a burst lasts after an answer was missed on an idle link, unless …
const BURST: Micros = Micros::from_secs(1);
/// … so many probes in a row are answered: then the missed one was a hiccup. Without this, nodes that share an
/// overloaded machine keep it overloaded with their bursts.
const CALM_REPLIES: u32 = 5;
/// Between probes of a suspect that carries data: a lossy link gets many chances to prove that it lives.
const SUSPECT: Micros = Micros::from_millis(5);
/// Probes of a burst, and of a suspect, within the time that an answer may take: where answers take long, asking more
/// often only adds to what makes them so. After twice as many without answers the pauses grow.
const BURST_PROBES: u32 = 4;
const SUSPECT_PROBES: u32 = 25;
/// Intervals of silence that make a suspect.
const SILENT_INTERVALS: u64 = 3;
/// Further silence that ends the link.
const DOWN_AFTER: Micros = Micros::from_millis(125);
/// Between probes on probation, at least this and a fortieth of its length, and the silence that ends it.
const PROBATION: Micros = Micros::from_millis(50);
const PROBATION_PROBES: u64 = 40;
const PROBATION_SILENCE: Micros = Micros::from_millis(500);
/// Answers that bring up a link that never failed.
const FIRST_REPLIES: u32 = 3;
/// How long a link that failed once has to behave before it is trusted, doubled with every flap.
const TRUST_AFTER: Micros = Micros::from_secs(2);
const TRUST_AFTER_MOST: Micros = Micros::from_secs(300);
/// A link that was up for this long has its flaps forgiven.
const FORGIVEN_AFTER: Micros = Micros::from_secs(300);
/// How long a neighbour that said that it stops may take to start again without being met with distrust.
const RESTART_MOST: Micros = Micros::from_secs(10);
/// How long the other end may take to answer when no round trip is known.
const UNKNOWN_PATIENCE: Micros = Micros::from_millis(300);

/// The state machine of one link.
#[derive(Debug, Clone)]
pub(crate) struct Liveness {
    state: LinkState,
    /// When the state was entered.
    since: Instant,
    /// When probation was passed; a suspicion does not change it.
    up_since: Instant,
    last_heard: Option<Instant>,
    data_until: Instant,
    burst_until: Instant,
    /// Since when probes have gone out at the active rate.
    active_since: Instant,
    /// The oldest probe without an answer, on an idle link.
    unanswered: Option<Instant>,
    /// Probes in a row that were answered before the next was sent.
    calm: u32,
    /// Probes sent, halved with every answer: where it grows, asking does not help.
    asked: u32,
    next_probe: Instant,
    asked_at: Instant,
    replies: u32,
    failures: u32,
    /// Since when data is under way with nothing heard.
    quiet_since: Option<Instant>,
    /// When the silent end was asked for the first time, and when it is asked again.
    doubted: Option<(Instant, Instant)>,
    /// When something else than an answer came last, and how far such datagrams are apart.
    talked_at: Instant,
    beat: Micros,
    alert_until: Instant,
    alert_from: Instant,
    /// Until when alerts of the idle link have used up their pauses.
    alert_paid: Instant,
    is_spare: bool,
    is_lossy: bool,
    /// When the other end said that it stops.
    left_at: Option<Instant>,
    /// When this node was back from its last absences, and how long these were.
    absences: VecDeque<(Instant, Micros)>,
}

impl Liveness {
    /// A link that nothing has been heard on; it is probed at once.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            state: LinkState::Probing,
            since: now,
            up_since: now,
            last_heard: None,
            data_until: Instant(0),
            burst_until: Instant(0),
            active_since: now,
            unanswered: None,
            calm: 0,
            asked: 0,
            next_probe: now,
            asked_at: now,
            replies: 0,
            failures: 0,
            quiet_since: None,
            doubted: None,
            talked_at: Instant(0),
            beat: Micros(4 * BEAT_MOST.0),
            alert_until: Instant(0),
            alert_from: Instant(0),
            alert_paid: Instant(0),
            is_spare: false,
            is_lossy: false,
            left_at: None,
            absences: VecDeque::new(),
        }
    }

    /// The state.
    pub(crate) fn state(&self) -> LinkState {
        self.state
    }

    /// How often the link went down.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// An authenticated datagram came.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.last_heard = Some(now);
        self.quiet_since = None;
        self.doubted = None;
        match self.state {
            LinkState::Down => {
                let left = self.left_at.take();
                if left.is_some_and(|left| now.since(left) > RESTART_MOST) {
                    self.failures = self.failures.max(1);
                }
                self.enter(LinkState::Probing, now);
            }
            LinkState::Suspect => self.enter(LinkState::Up, now),
            LinkState::Probing | LinkState::Up => {}
        }
    }

    /// The other end said something by itself.
    pub(crate) fn talked(&mut self, now: Instant) {
        // One pause does not end a beat, but a second one does.
        let pause = now.since(self.talked_at).min(Micros(4 * BEAT_MOST.0));
        self.beat = Micros((3 * self.beat.0 + pause.0) / 4);
        self.talked_at = now;
        self.heard(now);
    }

    /// The other end asked: what it hears by that this end need not ask, too.
    pub(crate) fn probed(&mut self, now: Instant) {
        self.heard(now);
        let is_calm = now >= self.burst_until.max(self.alert_until);
        if self.state == LinkState::Up && self.unanswered.is_none() && is_calm {
            // A little sooner than the other end would again, so that both come to measure; and not put off for ever by one
            // that asks more often, which hears nothing of its own losses from answers.
            let calm = self.calm_interval(now);
            let later = now + self.spread(now, Micros(calm.0 * 7 / 8));
            let latest = self.asked_at + Micros(2 * calm.0);
            self.next_probe = self.next_probe.max(later.min(latest));
        }
    }

    /// The link is one of several to the same neighbour, and another one is used; or that one is not trusted any longer.
    pub(crate) fn spare(&mut self, now: Instant, is_spare: bool) {
        if self.is_spare && !is_spare {
            self.next_probe = self.next_probe.min(now);
        }
        self.is_spare = is_spare;
    }

    /// The other end said that it stops: no failure, and it is trusted as before if it starts again soon.
    pub(crate) fn left(&mut self, now: Instant) {
        if self.state.is_usable() {
            self.left_at = Some(now);
            self.enter(LinkState::Down, now);
        }
    }

    /// The other end moved: if the link went down, that was why.
    pub(crate) fn moved(&mut self) {
        if matches!(self.state, LinkState::Down | LinkState::Probing) {
            self.failures = self.failures.saturating_sub(1);
        }
    }

    /// Somebody has reason to think that the link is dead.
    pub(crate) fn doubt(&mut self, now: Instant) {
        if self.state == LinkState::Up && self.doubted.is_none() {
            self.quiet_since.get_or_insert(now);
            self.doubted = Some((now, now));
        }
    }

    /// The measurement looks different from what it was.
    pub(crate) fn alert(&mut self, now: Instant) {
        let is_idle = now >= self.data_until;
        // One pause ahead, as long as it may be by its spread.
        let ahead = Micros(ALERT_PAUSE_IDLE.0 / 8 * 9);
        if now < self.alert_from || is_idle && self.alert_paid > now + ahead {
            return;
        }
        self.alert_until = now + ALERT_FOR;
        // Links that share a busy machine must not be alarmed in step.
        self.alert_from = self.alert_until + self.spread(now, ALERT_PAUSE);
        if is_idle {
            self.alert_paid = self.alert_paid.max(now) + self.spread(now, ALERT_PAUSE_IDLE);
        }
        self.next_probe = self.next_probe.min(now + ALERT);
    }

    /// The link is under suspicion: it is looked at until that is proven or refuted.
    pub(crate) fn inquire(&mut self, now: Instant) {
        self.alert_until = self.alert_until.max(now + INQUIRY);
        self.next_probe = self.next_probe.min(now + ALERT);
    }

    /// Whether it is looked at more closely than usual.
    pub(crate) fn is_alert(&self, now: Instant) -> bool {
        now < self.alert_until
    }

    /// Whether losses wait for being proven or forgiven.
    pub(crate) fn lossy(&mut self, is_lossy: bool) {
        self.is_lossy = is_lossy;
    }

    /// The other end answered a probe.
    pub(crate) fn answered(&mut self, now: Instant) {
        self.asked /= 2;
        if self.unanswered.take().is_some() {
            self.calm = self.calm.saturating_add(1);
        }
        if self.calm >= CALM_REPLIES {
            self.burst_until = self.burst_until.min(now);
        }
        self.replies = self.replies.saturating_add(1);
        if self.state == LinkState::Probing && self.has_passed(now) {
            self.enter(LinkState::Up, now);
        }
    }

    /// A datagram that is worth protecting was sent.
    pub(crate) fn sent_data(&mut self, now: Instant) {
        if now >= self.active_until() {
            self.activate(now);
        }
        self.data_until = now + ACTIVE_FOR;
        self.quiet_since.get_or_insert(now);
    }

    /// This node itself was away for `span` until `now`: nobody else is blamed for it.
    pub(crate) fn stalled(&mut self, now: Instant, span: Micros) {
        if span >= BUSY {
            self.absences.truncate(BUSY_LAST - 1);
            self.absences.push_front((now, span));
        }
        for deadline in [
            &mut self.data_until,
            &mut self.burst_until,
            &mut self.next_probe,
            &mut self.alert_until,
        ] {
            *deadline = *deadline + span;
        }
        if let Some((first, again)) = &mut self.doubted {
            (*first, *again) = (*first + span, (*again + span).min(now));
        }
        // What was read from the sockets after waking up is not in the future.
        [&mut self.since, &mut self.up_since, &mut self.active_since]
            .into_iter()
            .chain(&mut self.last_heard)
            .chain(&mut self.unanswered)
            .chain(&mut self.quiet_since)
            .for_each(|past| *past = (*past + span).min(now));
    }

    /// Judges the silence; whether a probe is to be sent.
    ///
    /// `patience` is how long an answer may take by the measured round trip.
    pub(crate) fn handle_timeout(&mut self, now: Instant, patience: Option<Micros>) -> bool {
        let patience = patience.unwrap_or(UNKNOWN_PATIENCE);
        if self.missed_at(patience) <= now {
            self.burst_until = now + BURST + patience;
            self.unanswered = None;
            self.calm = 0;
            self.activate(now);
        }
        if self.silent_at(patience) <= now {
            self.fell_silent(now);
        }
        let asks = self.asks_at() <= now;
        if asks {
            let first = self.doubted.map_or(now, |(first, _)| first);
            let pause = Micros(patience.0 / ASKS).max(ASK_AGAIN);
            self.doubted = Some((first, now + pause));
        }
        if now < self.next_probe && !asks {
            return false;
        }
        if self.unanswered.is_some() {
            self.calm = 0;
        }
        self.unanswered.get_or_insert(now);
        self.asked_at = now;
        self.asked = self.asked.saturating_add(1);
        self.next_probe = now + self.spread(now, self.interval(now, patience));
        true
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(crate) fn poll_timeout(&self, patience: Option<Micros>) -> Instant {
        let patience = patience.unwrap_or(UNKNOWN_PATIENCE);
        self.next_probe
            .min(self.silent_at(patience))
            .min(self.missed_at(patience))
            .min(self.asks_at())
    }

    fn fell_silent(&mut self, now: Instant) {
        match self.state {
            LinkState::Up => self.enter(LinkState::Suspect, now),
            LinkState::Suspect => {
                let forgiven = now.since(self.up_since) >= FORGIVEN_AFTER;
                self.failures = if forgiven {
                    1
                } else {
                    self.failures.saturating_add(1)
                };
                self.enter(LinkState::Down, now);
            }
            LinkState::Probing => self.enter(LinkState::Down, now),
            LinkState::Down => {}
        }
    }

    fn enter(&mut self, state: LinkState, now: Instant) {
        if state == LinkState::Up && self.state == LinkState::Probing {
            self.up_since = now;
        }
        self.state = state;
        self.since = now;
        self.replies = 0;
        self.doubted = None;
        self.next_probe = match state {
            LinkState::Down => now + SEARCH,
            LinkState::Probing | LinkState::Suspect => now,
            LinkState::Up => now + ACTIVE,
        };
    }

    fn activate(&mut self, now: Instant) {
        self.active_since = now;
        self.next_probe = self.next_probe.min(now);
    }

    fn active_until(&self) -> Instant {
        self.data_until.max(self.burst_until)
    }

    fn interval(&self, now: Instant, patience: Micros) -> Micros {
        let within = |probes: u32, least: Micros| {
            let interval = Micros(patience.0 / u64::from(probes)).max(least);
            let excess = self.asked.saturating_sub(2 * probes) / 4;
            Micros(interval.0 << excess.min(8)).min(SEARCH)
        };
        match self.state {
            LinkState::Down => SEARCH,
            LinkState::Probing if self.failures == 0 && self.last_heard.is_some() => ACTIVE,
            LinkState::Probing => self.probation_interval(),
            LinkState::Suspect if now < self.data_until => SUSPECT,
            LinkState::Suspect => within(SUSPECT_PROBES, SUSPECT),
            LinkState::Up if now < self.burst_until => within(BURST_PROBES, ACTIVE),
            LinkState::Up if now < self.alert_until => within(BURST_PROBES, ALERT),
            LinkState::Up => self.calm_interval(now),
        }
    }

    /// Between probes of a link that nothing is wrong with.
    fn calm_interval(&self, now: Instant) -> Micros {
        match now < self.data_until {
            true => MEASURE,
            false if self.is_lossy => MEASURE_LOSS,
            false if self.is_spare => SPARE,
            false => IDLE,
        }
    }

    /// When a silent end is asked: data was sent, and nothing has been heard for longer than usual.
    fn asks_at(&self) -> Instant {
        let (LinkState::Up, Some(quiet)) = (self.state, self.quiet_since) else {
            return Instant::NEVER;
        };
        if let Some((_, again)) = self.doubted {
            return again;
        }
        match self.last_heard {
            Some(heard) if self.beat <= BEAT_MOST => {
                let (least, most) = BEAT_SILENCE;
                let silence = Micros(self.beat.0 * 3 / 2).clamp(least, most);
                quiet.max(heard + silence)
            }
            _ => quiet + SILENCE,
        }
    }

    /// Idle links drift apart by an eighth either way: probes of many that beat in step would wait for one another. What
    /// was heard last differs by microseconds from link to link, which is as good as chance.
    fn spread(&self, now: Instant, interval: Micros) -> Micros {
        if interval < SPREAD_FROM {
            return interval;
        }
        let heard = self.last_heard.unwrap_or(Instant(0));
        let chance = (heard.0 ^ now.0.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        Micros(interval.0 * 7 / 8 + chance % (interval.0 / 4))
    }

    /// When an idle link's answer is overdue.
    fn missed_at(&self, patience: Micros) -> Instant {
        match (self.state, self.unanswered) {
            (LinkState::Up, Some(asked)) => (asked + patience.max(ACTIVE)).max(self.active_until()),
            _ => Instant::NEVER,
        }
    }

    /// When silence changes the state.
    fn silent_at(&self, patience: Micros) -> Instant {
        let heard = self.last_heard.unwrap_or(Instant(0));
        match self.state {
            LinkState::Down => Instant::NEVER,
            LinkState::Probing => {
                let intervals = Micros(SILENT_INTERVALS * self.probation_interval().0);
                heard.max(self.since) + patience.max(intervals).max(PROBATION_SILENCE)
            }
            LinkState::Up if self.doubted.is_some() => {
                let asked = self.doubted.map_or(Instant::NEVER, |(first, _)| first);
                asked + patience.max(ANSWER_LEAST) + self.indulgence(asked)
            }
            LinkState::Up => {
                let intervals = Micros(SILENT_INTERVALS * ACTIVE.0);
                let silent = heard.max(self.active_since) + patience.max(intervals);
                if silent <= self.burst_until {
                    silent
                } else {
                    Instant::NEVER
                }
            }
            LinkState::Suspect => {
                let indulgence = Micros(2 * self.indulgence(self.since).0);
                self.since + patience.max(DOWN_AFTER) + indulgence
            }
        }
    }

    /// What a silence that began at `since` is forgiven because this machine is busy.
    fn indulgence(&self, since: Instant) -> Micros {
        let absences = self.absences.iter();
        let recent = absences.filter(|(at, _)| since.since(*at) < BUSY_FOR);
        let mut longest: Vec<Micros> = recent.map(|(_, span)| *span).collect();
        longest.sort_unstable();
        longest
            .iter()
            .rev()
            .nth(1)
            .map_or(Micros(0), |span| (*span).min(BUSY_MOST))
    }

    fn has_passed(&self, now: Instant) -> bool {
        match self.failures {
            0 => self.replies >= FIRST_REPLIES,
            _ => self.replies >= FIRST_REPLIES && now.since(self.since) >= self.probation(),
        }
    }

    fn probation_interval(&self) -> Micros {
        Micros(self.probation().0 / PROBATION_PROBES).clamp(PROBATION, SEARCH)
    }

    fn probation(&self) -> Micros {
        let doublings = self.failures.saturating_sub(1).min(10);
        Micros(TRUST_AFTER.0 << doublings).min(TRUST_AFTER_MOST)
    }
}
