//! What the replies to our probes tell about the link: round trip, jitter, loss away from this node.
//!
//! Delays are medians of three: one answer that waited for a busy host, here or there, says nothing of the link.
//!
//! Pure arithmetic over samples that are handed in; decides neither when to probe nor whether the link lives.
//! RFC 6298 §2 (smoothed round trip), RFC 3550 §6.4.1 (jitter, by its rises alone), Wilson 1927 (loss that is more than bad luck).

use std::collections::VecDeque;

use wattle_model::{Instant, Measurement, Micros, Ppm};

/// Slices of the window of the smallest round trip, and how long each is: a minute together.
const MINIMUM_SLICES: usize = 6;
const MINIMUM_SLICE: Micros = Micros::from_secs(10);
/// A round trip that no sample of so long a span falls below, and of so many samples, …
const LONGER_FOR: Micros = Micros::from_secs(2);
const LONGER_SAMPLES: usize = 16;
/// … while the link carried at most so many datagrams a second, both ways together, is no queue that its own packets make …
const UNLOADED: u64 = 400;
/// … if it is half as much again and this longer than the smallest: more than what queueing may cost a link.
const LONGER_BY: u64 = 10_000;
/// Loss is counted over at least this span …
const LOSS_SPAN: Micros = Micros::from_secs(1);
/// … and this many packets, so that one packet lost on a quiet link stays the accident it is …
const LOSS_PACKETS: u64 = 200;
/// … but over nothing older than this.
const LOSS_MEMORY: Micros = Micros::from_secs(30);
/// Fewer lost packets than this are no loss.
const LOSS_LEAST: u64 = 3;
/// Loss that begins shows in so short a span before it does in all that is remembered, …
const RECENT: Micros = Micros::from_millis(500);
/// … where fewer lost packets than this are no loss.
const RECENT_LEAST: u64 = 4;
/// So many packets of which next to none was lost end a loss, and so many of which none was.
const FORGIVING: u64 = 100;
const FORGIVING_ALL: u64 = 50;
/// A link is not suspected again for the sake of another one within this.
const ACQUITTED_FOR: Micros = Micros::from_secs(300);
/// Quantile of the normal distribution for a one-sided error of 0.5 %, and for one of 16 %.
const CONFIDENCE: f64 = 2.576;
const LIKELY: f64 = 1.0;
/// Delays are medians of so many samples.
const MEDIAN_OF: usize = 3;
/// A round trip that differs by a quarter of the smoothed one, and by so much, is a surprise.
const SURPRISE: u64 = 1_000;
/// The two clocks may run apart by one part in so many: 50 ppm of a quartz each.
const DRIFT: u64 = 10_000;

/// One answered probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Round trip without the time that the other end held the probe.
    pub(crate) round_trip: Micros,
    /// Transit time away from this node plus the unknown difference of the two clocks.
    pub(crate) transit: i64,
    /// Datagrams that this node had sent on the link, the probe included.
    pub(crate) sent: u64,
    /// Datagrams that the other end had received on the link, the probe included.
    pub(crate) received: u64,
    /// Datagrams that this node had sent and received on the link when the answer came.
    pub(crate) carried: u64,
}

/// What a sample says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// What was known.
    Same,
    /// Packets were lost, or the round trip is another: worth looking closer.
    Surprise,
}

/// All estimators of one link.
#[derive(Debug, Clone, Default)]
pub(crate) struct Estimators {
    /// The round trip as measured: what an answer may take.
    measured: Option<Smoothed>,
    /// Round trips and transit times of the last samples, and the round trip without what is out of line.
    recent: Recent,
    smoothed: Option<Smoothed>,
    minimum: VecDeque<(Instant, Micros)>,
    lately: Lately,
    transit: Option<(Instant, i64)>,
    /// Sixteen times the jitter, so that integer division loses nothing.
    jitter_scaled: u64,
    /// Away from this node, and towards it.
    loss: Loss,
    loss_here: Loss,
}

#[derive(Debug, Clone, Copy)]
struct Smoothed {
    rtt: u64,
    deviation: u64,
}

impl Smoothed {
    fn first(rtt: u64) -> Self {
        Self {
            rtt,
            deviation: rtt / 2,
        }
    }

    fn then(self, rtt: u64) -> Self {
        Self {
            deviation: (3 * self.deviation + self.rtt.abs_diff(rtt)) / 4,
            rtt: (7 * self.rtt + rtt) / 8,
        }
    }

    fn take(smoothed: &mut Option<Self>, rtt: u64) {
        *smoothed = Some(match *smoothed {
            None => Self::first(rtt),
            Some(smoothed) => smoothed.then(rtt),
        });
    }
}

/// The last three samples.
#[derive(Debug, Clone, Default)]
struct Recent {
    round_trips: VecDeque<u64>,
    transits: VecDeque<i64>,
}

impl Recent {
    /// Takes in a sample; the medians, of two the smaller ones.
    fn take(&mut self, sample: &Sample) -> (u64, i64) {
        (
            median(&mut self.round_trips, sample.round_trip.0),
            median(&mut self.transits, sample.transit),
        )
    }
}

fn median<T: Copy + Ord>(last: &mut VecDeque<T>, next: T) -> T {
    last.push_back(next);
    if last.len() > MEDIAN_OF {
        last.pop_front();
    }
    let mut ordered: Vec<T> = last.iter().copied().collect();
    ordered.sort_unstable();
    ordered[(ordered.len() - 1) / 2]
}

/// The samples of the last seconds, to tell a way that became longer from a queue.
#[derive(Debug, Clone, Default)]
struct Lately(VecDeque<Lasting>);

#[derive(Debug, Clone, Copy)]
struct Lasting {
    at: Instant,
    round_trip: Micros,
    carried: u64,
}

impl Lately {
    /// Takes in a sample; the smallest round trip of all that are kept, if the link carried too little meanwhile to make a
    /// queue of its own.
    fn take(&mut self, now: Instant, sample: &Sample) -> Option<Micros> {
        self.0.push_back(Lasting {
            at: now,
            round_trip: sample.round_trip,
            carried: sample.carried,
        });
        while self.0.len() > LONGER_SAMPLES && now.since(self.0[1].at) >= LONGER_FOR {
            self.0.pop_front();
        }
        let (first, span) = (self.0[0], now.since(self.0[0].at));
        let carried = sample.carried.saturating_sub(first.carried);
        let tells = self.0.len() >= LONGER_SAMPLES
            && span >= LONGER_FOR
            && carried.saturating_mul(1_000_000) <= UNLOADED * span.0;
        tells.then(|| self.0.iter().map(|lasting| lasting.round_trip).min())?
    }
}

/// Whether this node was there when the answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It was.
    There,
    /// It was away while the answer was under way, so that the measured delay is its own.
    Away,
}

impl Estimators {
    /// Takes in an answered probe.
    pub(crate) fn sample(&mut self, now: Instant, sample: Sample, presence: Presence) -> Told {
        let counts = presence == Presence::There || self.smoothed.is_none();
        let differs = counts
            && self.smoothed.is_some_and(|smoothed| {
                let change = smoothed.rtt.abs_diff(sample.round_trip.0);
                change >= SURPRISE && change * 4 >= smoothed.rtt
            });
        if counts {
            let (round_trip, transit) = self.recent.take(&sample);
            Smoothed::take(&mut self.measured, sample.round_trip.0);
            Smoothed::take(&mut self.smoothed, round_trip);
            self.minimum(now, &sample);
            self.transit(now, transit);
        }
        let lost = self.loss.count(now, sample.sent, sample.received);
        match differs || lost > 0 {
            true => Told::Surprise,
            false => Told::Same,
        }
    }

    /// Takes in a probe of the other end, which has sent so many datagrams of which so many came.
    pub(crate) fn arrived(&mut self, now: Instant, sent: u64, received: u64) -> Told {
        match self.loss_here.count(now, sent, received) {
            0 => Told::Same,
            _ => Told::Surprise,
        }
    }

    /// Holds the link to lose as much as another one does, until fifty of its own packets say otherwise; `false` if it
    /// carries enough to speak for itself, or was acquitted not long ago.
    pub(crate) fn suspect_loss(&mut self, now: Instant, loss: Ppm) -> bool {
        let away = self.loss.suspect(now, loss);
        self.loss_here.suspect(now, loss) || away
    }

    /// The loss that the link's own packets prove.
    pub(crate) fn proven_loss(&self) -> Ppm {
        self.loss.proven.max(self.loss_here.proven)
    }

    /// Whether the link is held to lose packets.
    pub(crate) fn is_lossy(&self) -> bool {
        self.loss.held > Ppm(0) || self.loss_here.held > Ppm(0)
    }

    /// Forgets what belonged to a path that failed.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Starts the averages anew from the best round trip of the probation.
    ///
    /// A link's first packets wait for address resolution, after a failure for up to a second each; averages over one
    /// probe a second would hold that against the link for minutes.
    pub(crate) fn passed_probation(&mut self) {
        let Some(least) = self.measurement().map(|measurement| measurement.min_rtt.0) else {
            return;
        };
        self.measured = Some(Smoothed::first(least));
        self.smoothed = self.measured;
        self.recent = Recent::default();
        self.transit = None;
        self.jitter_scaled = 0;
    }

    /// The state of knowledge; `None` before the first sample.
    pub(crate) fn measurement(&self) -> Option<Measurement> {
        Some(Measurement {
            rtt: Micros(self.smoothed?.rtt),
            min_rtt: self.least()?,
            jitter: Micros(self.jitter_scaled / 16),
            loss: self.loss.held.max(self.loss_here.held),
        })
    }

    /// How long an answer may take before its absence means something: `srtt + 4 rttvar`.
    pub(crate) fn patience(&self) -> Option<Micros> {
        self.measured
            .map(|smoothed| Micros(smoothed.rtt + 4 * smoothed.deviation))
    }

    fn minimum(&mut self, now: Instant, sample: &Sample) {
        let rtt = sample.round_trip;
        match self.minimum.back_mut() {
            Some((since, least)) if now.since(*since) < MINIMUM_SLICE => *least = rtt.min(*least),
            _ => self.minimum.push_back((now, rtt)),
        }
        while self.minimum.len() > MINIMUM_SLICES {
            self.minimum.pop_front();
        }
        if let (Some(lately), Some(least)) = (self.lately.take(now, sample), self.least())
            && lately.0 > least.0 + least.0 / 2 + LONGER_BY
        {
            self.minimum = VecDeque::from([(now, lately)]);
        }
    }

    /// The round trip without queues.
    fn least(&self) -> Option<Micros> {
        self.minimum.iter().map(|(_, least)| *least).min()
    }

    fn transit(&mut self, now: Instant, transit: i64) {
        if let Some((at, last)) = self.transit.replace((now, transit)) {
            // What swings falls as much as it rises. A delay that falls for good is no jitter: the link got well.
            let rise = transit.saturating_sub(last).max(0).unsigned_abs();
            let rise = rise.saturating_sub(now.since(at).0 / DRIFT);
            self.jitter_scaled = (self.jitter_scaled + 2 * rise) - self.jitter_scaled / 16;
        }
    }
}

/// Exact counts of what was sent and what arrived, over a sliding window.
#[derive(Debug, Clone, Default)]
struct Loss {
    last: Option<(u64, u64)>,
    window: VecDeque<Count>,
    /// What is believed: moved by what the counts prove, so that a link which is hardly used any longer, because it
    /// loses packets, is not held to be whole for want of evidence.
    held: Ppm,
    /// What the counts of the window prove.
    proven: Ppm,
    /// When it was last suspected for the sake of another link.
    suspected: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    at: Instant,
    sent: u64,
    received: u64,
}

impl Loss {
    /// Takes in both ends' counts; how many packets were lost since the last time.
    fn count(&mut self, now: Instant, sent: u64, received: u64) -> u64 {
        let Some((sent_before, received_before)) = self.last else {
            self.last = Some((sent, received));
            return 0;
        };
        if received < received_before || sent < sent_before {
            // One of the two began to count anew, or this message was overtaken by a later one.
            let restarted = (received < received_before && sent > sent_before)
                || (sent < sent_before / 2 && received > received_before);
            if restarted {
                self.last = Some((sent, received));
            }
            return 0;
        }
        self.last = Some((sent, received));
        let (sent, received) = (sent - sent_before, received - received_before);
        self.window.push_back(Count {
            at: now,
            sent,
            received,
        });
        self.forget(now);
        self.believe(now);
        sent.saturating_sub(received)
    }

    fn suspect(&mut self, now: Instant, loss: Ppm) -> bool {
        let recently = self
            .suspected
            .is_some_and(|at| now.since(at) < ACQUITTED_FOR);
        let whole = Sum::of(self.window.iter());
        if recently || whole.sent >= FORGIVING || self.held >= loss {
            return false;
        }
        self.suspected = Some(now);
        self.window.clear();
        self.held = loss;
        true
    }

    fn forget(&mut self, now: Instant) {
        let mut packets: u64 = self.window.iter().map(|count| count.sent).sum();
        while let Some(oldest) = self.window.front() {
            let age = now.since(oldest.at);
            let enough = age > LOSS_SPAN && packets - oldest.sent >= LOSS_PACKETS;
            if !enough && age <= LOSS_MEMORY {
                break;
            }
            packets -= oldest.sent;
            self.window.pop_front();
        }
    }

    /// Moves what is believed into what the counts leave possible.
    fn believe(&mut self, now: Instant) {
        let whole = Sum::of(self.window.iter());
        let recent = self.window.iter().rev();
        let recent = Sum::of(recent.take_while(|count| now.since(count.at) <= RECENT));
        let proven = match (whole.lost() >= LOSS_LEAST, recent.lost() >= RECENT_LEAST) {
            (_, true) => whole.least().max(recent.least()),
            (true, false) => whole.least(),
            (false, false) => Ppm(0),
        };
        let forgiven = match whole.lost() {
            0 => whole.sent >= FORGIVING_ALL,
            lost => lost < LOSS_LEAST && whole.sent >= FORGIVING,
        };
        let possible = if forgiven { Ppm(0) } else { whole.most() };
        // Every step is news to the whole network: one that does not halve the loss is not worth it.
        if possible.0 <= self.held.0 / 2 {
            self.held = possible;
        }
        self.proven = proven;
        self.held = self.held.max(proven);
    }
}

/// What was counted over a span.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    sent: u64,
    received: u64,
}

impl Sum {
    fn of<'a>(counts: impl Iterator<Item = &'a Count>) -> Self {
        counts.fold(Self::default(), |sum, count| Self {
            sent: sum.sent + count.sent,
            received: sum.received + count.received,
        })
    }

    fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    /// The loss that the counts prove.
    fn least(&self) -> Ppm {
        self.bound(-CONFIDENCE)
    }

    /// The loss that the counts leave likely.
    fn most(&self) -> Ppm {
        self.bound(LIKELY)
    }

    /// An end of the Wilson interval.
    fn bound(&self, quantile: f64) -> Ppm {
        if self.sent == 0 {
            return Ppm(if quantile < 0.0 { 0 } else { 1_000_000 });
        }
        let (n, p) = (self.sent as f64, self.lost() as f64 / self.sent as f64);
        let square = quantile * quantile;
        let spread = (p * (1.0 - p) / n + square / (4.0 * n * n)).sqrt();
        let bound = (p + square / (2.0 * n) + quantile * spread) / (1.0 + square / n);
        Ppm((bound.clamp(0.0, 1.0) * 1e6) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000)
    }

    fn sample(rtt: u64, sent: u64, received: u64) -> Sample {
        Sample {
            round_trip: Micros(rtt),
            transit: rtt as i64 / 2,
            sent,
            received,
            carried: sent + received,
        }
    }

    #[test]
    fn what_the_first_packets_waited_for_is_forgotten_after_probation() {
        let mut estimators = fed([300_000, 900_000, 900_000, 250, 200, 260]);
        assert!(estimators.measurement().unwrap().jitter > Micros(20_000));
        estimators.passed_probation();
        let measurement = estimators.measurement().unwrap();
        assert_eq!(
            (measurement.rtt, measurement.jitter),
            (Micros(200), Micros(0))
        );
    }

    fn fed(rtts: impl IntoIterator<Item = u64>) -> Estimators {
        let mut estimators = Estimators::default();
        for (step, rtt) in rtts.into_iter().enumerate() {
            let count = step as u64 + 1;
            estimators.sample(at(count * 25), sample(rtt, count, count), Presence::There);
        }
        estimators
    }

    #[test]
    fn the_round_trip_converges_and_patience_follows_its_deviation() {
        let steady = fed([10_000; 100]);
        assert_eq!(steady.measurement().unwrap().rtt, Micros(10_000));
        assert!(steady.patience().unwrap() < Micros(10_100));
        let shaky = fed((0..100).map(|step| 10_000 + step % 2 * 4_000));
        assert!(shaky.patience().unwrap() > Micros(18_000));
    }

    #[test]
    fn one_answer_that_waited_for_a_host_costs_the_link_nothing_but_patience() {
        let calm = fed([300; 20]);
        let mut hiccup = fed([300; 20].into_iter().chain([60_000]));
        let measured = hiccup.measurement().unwrap();
        assert_eq!(measured, calm.measurement().unwrap());
        assert!(hiccup.patience() > calm.patience());
        hiccup.sample(at(600), sample(300, 22, 22), Presence::There);
        assert_eq!(hiccup.measurement().unwrap(), measured);
    }

    #[test]
    fn a_longer_way_shows_with_the_second_answer() {
        let longer = fed([300; 20].into_iter().chain([50_300; 2]));
        assert!(longer.measurement().unwrap().rtt > Micros(6_000));
    }

    #[test]
    fn what_this_node_slept_through_is_no_delay_of_the_link() {
        let mut estimators = fed([300; 20]);
        let before = (estimators.measurement(), estimators.patience());
        for step in 21..30 {
            let sample = sample(40_000, step, step);
            let told = estimators.sample(at(step * 25), sample, Presence::Away);
            assert_eq!(told, Told::Same);
        }
        assert_eq!((estimators.measurement(), estimators.patience()), before);
    }

    #[test]
    fn the_minimum_is_of_the_last_minute() {
        let mut estimators = Estimators::default();
        estimators.sample(at(0), sample(100, 1, 1), Presence::There);
        for second in 1..=59 {
            let sample = sample(500, 1 + second, 1 + second);
            estimators.sample(at(second * 1_000), sample, Presence::There);
        }
        assert_eq!(estimators.measurement().unwrap().min_rtt, Micros(100));
        estimators.sample(at(60_000), sample(500, 61, 61), Presence::There);
        assert_eq!(estimators.measurement().unwrap().min_rtt, Micros(500));
    }

    /// Milliseconds until the smallest round trip follows one that grows from 10 to 60 ms, of a link that is asked each
    /// 100 ms and carries so many datagrams between two answers; `None` if not within 30 s.
    fn grown(between: u64) -> Option<u64> {
        let mut estimators = Estimators::default();
        (1..350).find_map(|step: u64| {
            let rtt = if step <= 50 { 10_000 } else { 60_000 };
            let answer = sample(rtt, step * between, step * between);
            estimators.sample(at(step * 100), answer, Presence::There);
            let least = estimators.measurement().unwrap().min_rtt;
            (least == Micros(60_000)).then(|| (step - 50) * 100)
        })
    }

    #[test]
    fn a_way_that_becomes_longer_is_no_queue_unless_the_links_own_packets_may_make_one() {
        assert_eq!(grown(1), Some(2_100));
        assert_eq!(grown(15), Some(2_100));
        assert_eq!(grown(25), None, "500 datagrams a second");
    }

    #[test]
    fn a_delay_that_comes_and_goes_leaves_the_smallest_round_trip_alone() {
        let mut estimators = Estimators::default();
        for step in 1..600_u64 {
            let rtt = if step / 15 % 2 == 0 { 10_000 } else { 60_000 };
            estimators.sample(at(step * 100), sample(rtt, step, step), Presence::There);
            assert_eq!(estimators.measurement().unwrap().min_rtt, Micros(10_000));
        }
    }

    #[test]
    fn a_delay_that_falls_for_good_is_no_jitter() {
        let jitter = |delays: Vec<u64>| fed(delays).measurement().unwrap().jitter;
        let (slow, fast) = ([50_000; 6], [400; 6]);
        assert_eq!(jitter([slow, fast].concat()), Micros(0));
        assert!(jitter([fast, slow].concat()) > Micros(2_000));
    }

    #[test]
    fn a_clock_that_runs_fast_is_no_jitter() {
        let mut estimators = Estimators::default();
        for step in 1..50 {
            let of_idle = Sample {
                transit: step * 400,
                ..sample(10_000, step as u64, step as u64)
            };
            estimators.sample(at(step as u64 * 4_000), of_idle, Presence::There);
        }
        assert_eq!(estimators.measurement().unwrap().jitter, Micros(0));
    }

    #[test]
    fn jitter_is_the_mean_deviation_of_the_transit_time() {
        let jitter = fed((0..1_000).map(|step| 10_000 + step % 2 * 2_000))
            .measurement()
            .unwrap()
            .jitter;
        assert!((950..=1_050).contains(&jitter.0), "{jitter:?}");
    }

    #[test]
    fn one_lost_packet_on_a_quiet_link_is_no_loss() {
        let mut estimators = Estimators::default();
        for second in 0..20 {
            let lost = u64::from(second > 10);
            estimators.sample(
                at(second * 1_000),
                sample(500, 2 * second, 2 * second - lost),
                Presence::There,
            );
            assert_eq!(estimators.measurement().unwrap().loss, Ppm(0));
        }
    }

    #[test]
    fn a_link_that_begins_to_lose_is_seen_within_half_a_second() {
        let mut estimators = Estimators::default();
        let mut received = 0;
        for step in 0..80 {
            received += if step < 40 {
                5
            } else {
                3 + u64::from(step % 2 == 0)
            };
            let sample = sample(500, 5 * (step + 1), received);
            estimators.sample(at(step * 25), sample, Presence::There);
            let loss = estimators.measurement().unwrap().loss;
            assert_eq!(loss == Ppm(0), step < 41, "step {step}: {loss:?}");
            assert!(step < 60 || loss > Ppm(50_000), "step {step}: {loss:?}");
        }
        assert!(estimators.measurement().unwrap().loss > Ppm(200_000));
    }

    #[test]
    fn a_link_is_suspected_with_another_until_fifty_packets_speak_for_it() {
        let mut estimators = fed([500; 10]);
        assert!(estimators.suspect_loss(at(1_000), Ppm(200_000)));
        assert_eq!(estimators.measurement().unwrap().loss, Ppm(200_000));
        assert_eq!(estimators.proven_loss(), Ppm(0));
        for step in 0..60 {
            let arrived = sample(500, 11 + step, 11 + step);
            estimators.sample(at(1_000 + step * 25), arrived, Presence::There);
            estimators.arrived(at(1_000 + step * 25), step, step);
            let loss = estimators.measurement().unwrap().loss;
            assert!(step >= 9 || loss == Ppm(200_000), "{step}: {loss:?}");
            assert!(step >= 49 || loss > Ppm(0), "{step}: {loss:?}");
        }
        assert_eq!(estimators.measurement().unwrap().loss, Ppm(0));
        assert!(!estimators.suspect_loss(at(3_000), Ppm(200_000)), "again");
    }

    #[test]
    fn overtaken_answers_and_a_restarted_peer_are_no_loss() {
        let mut estimators = Estimators::default();
        for (step, (sent, received)) in [
            (100, 100),
            (300, 300),
            (200, 200),
            (400, 400),
            (500, 5),
            (600, 105),
        ]
        .into_iter()
        .enumerate()
        {
            let sample = sample(500, sent, received);
            estimators.sample(at(step as u64 * 25), sample, Presence::There);
        }
        assert_eq!(estimators.measurement().unwrap().loss, Ppm(0));
    }
}
