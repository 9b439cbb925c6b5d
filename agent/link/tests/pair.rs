//! Two ends of one link over an imagined wire: what each end concludes, and how soon.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use wattle_link::{Input, Link, Output, Traffic};
use wattle_model::{Instant, LinkState, Measurement, Micros, Ppm};

const START: Instant = Instant(1_000_000_000);

#[test]
fn a_first_link_is_up_within_a_quarter_of_a_second() {
    let mut pair = Pair::new(1);
    pair.run(250);
    assert_eq!(pair.states(), [LinkState::Up; 2]);
    let measured = pair.ends[0].link.measurement().unwrap();
    assert!((1_030..=1_042).contains(&measured.rtt.0), "{measured:?}");
    assert_eq!(measured.loss, Ppm(0));
}

#[test]
fn an_idle_link_costs_a_probe_and_a_reply_in_three_seconds_and_both_ends_ask() {
    let mut pair = Pair::new(2);
    pair.run(2_000);
    let before = pair.carried;
    pair.run(120_000);
    let carried = pair.carried - before;
    assert!((56..=80).contains(&carried), "{carried}");
    for end in &pair.ends {
        let asked = end
            .asked
            .iter()
            .filter(|at| **at > START + Micros::from_secs(2));
        assert!(asked.count() >= 10);
    }
}

#[test]
fn a_spare_link_is_asked_every_twenty_seconds_and_at_once_when_it_is_needed() {
    let mut pair = Pair::new(2);
    pair.run(2_000);
    pair.tell(Input::Spare(true));
    pair.run(5_000);
    let before = pair.carried;
    pair.run(120_000);
    let carried = pair.carried - before;
    assert!((10..=16).contains(&carried), "{carried}");
    let needed = pair.now;
    pair.tell(Input::Spare(false));
    pair.run(10);
    assert!(pair.ends.iter().any(|end| end.asked.contains(&needed)));
}

#[test]
fn an_idle_link_that_is_never_steady_is_looked_at_twice_and_then_once_a_minute() {
    let mut pair = Pair::new(2);
    pair.run(2_000);
    let began = pair.now;
    let mut looks = Vec::new();
    let mut was_watched = false;
    for _ in 0..6_000 {
        pair.tell(Input::Look);
        pair.run(100);
        let is_watched = pair.ends[0].link.is_watched(pair.now);
        if is_watched && !was_watched {
            looks.push(pair.now.since(began));
        }
        was_watched = is_watched;
    }
    assert!(looks[1] < Micros::from_secs(4), "{looks:?}");
    assert!(looks[2] > Micros::from_secs(50), "{looks:?}");
    assert!((10..=13).contains(&looks.len()), "{looks:?}");
}

#[test]
fn a_link_whose_traffic_goes_both_ways_is_asked_for_the_measurement_alone() {
    let mut pair = Pair::new(2);
    pair.stream = Some(Micros::from_millis(10));
    pair.run(3_000);
    let began = pair.now;
    pair.run(10_000);
    let asked = |end: &End| end.asked.iter().filter(|at| **at > began).count();
    let asked: usize = pair.ends.iter().map(asked).sum();
    assert!((40..=60).contains(&asked), "{asked}");
}

#[test]
fn pauses_in_the_traffic_are_no_reason_to_suspect() {
    for pause in [60, 80, 100, 130, 300, 700, 990, 1_500] {
        let mut pair = Pair::new(pause);
        pair.stream = Some(Micros::from_millis(pause));
        pair.run(10_000);
        for end in &pair.ends {
            assert_eq!(end.entered(LinkState::Suspect, START), None, "{pause} ms");
        }
    }
}

#[test]
fn a_doubted_link_is_asked_at_once_and_suspected_only_without_an_answer() {
    let mut pair = Pair::new(2);
    pair.run(2_300);
    let began = pair.now;
    pair.tell(Input::Doubt);
    pair.run(100);
    assert!(pair.ends.iter().all(|end| end.asked.contains(&began)));
    assert_eq!(pair.states(), [LinkState::Up; 2]);
    pair.loss = 100;
    let cut = pair.now;
    pair.tell(Input::Doubt);
    pair.run(20);
    let suspect = pair.ends[0].entered(LinkState::Suspect, cut).unwrap();
    assert!(suspect <= Micros::from_millis(15), "{suspect:?}");
}

#[test]
fn a_silent_cut_under_traffic_is_suspected_in_30_ms_and_told_in_160() {
    for seed in 0..50 {
        let mut pair = Pair::new(seed);
        pair.run(1_000 + seed * 7);
        pair.stream = Some(Micros::from_millis(10));
        pair.run(2_000);
        pair.loss = 100;
        let cut = pair.now;
        pair.run(400);
        let suspect = pair.ends[0].entered(LinkState::Suspect, cut).unwrap();
        let down = pair.ends[0].entered(LinkState::Down, cut).unwrap();
        assert!(
            suspect <= Micros::from_millis(30),
            "seed {seed}: {suspect:?}"
        );
        assert!(down <= Micros::from_millis(160), "seed {seed}: {down:?}");
    }
}

#[test]
fn a_silent_cut_of_an_idle_link_is_told_within_four_seconds_and_two_thirds() {
    for seed in 0..50 {
        let mut pair = Pair::new(seed);
        pair.run(2_000 + seed * 173);
        pair.loss = 100;
        let cut = pair.now;
        pair.run(6_000);
        let down = pair.ends[0].entered(LinkState::Down, cut).unwrap();
        assert!(down <= Micros::from_millis(4_660), "seed {seed}: {down:?}");
    }
}

#[test]
fn thirty_percent_loss_is_reported_within_half_a_second_of_traffic_and_does_not_end_the_link() {
    for stream in [None, Some(Micros::from_millis(10))] {
        for seed in 0..50 {
            let mut pair = Pair::new(seed);
            pair.stream = stream;
            pair.run(5_000);
            pair.loss = 30;
            let began = pair.now;
            pair.run(60_000);
            for end in &pair.ends {
                let seen = end.measured_after(began, |measured| measured.loss >= Ppm(50_000));
                let limit = if stream.is_some() { 500 } else { 30_000 };
                let seen = seen.expect("loss is noticed");
                assert!(
                    seen <= Micros::from_millis(limit),
                    "seed {seed} {stream:?}: {seen:?}"
                );
                assert_eq!(end.entered(LinkState::Down, began), None, "seed {seed}");
            }
        }
    }
}

#[test]
fn a_stalled_process_blames_nobody() {
    let mut pair = Pair::new(3);
    pair.stream = Some(Micros::from_millis(10));
    pair.run(3_000);
    let began = pair.now;
    pair.freeze(Micros::from_secs(3));
    pair.run(1_000);
    for end in &pair.ends {
        assert_eq!(end.entered(LinkState::Suspect, began), None);
    }
}

#[test]
fn a_stall_does_not_make_a_later_cut_last_longer() {
    let mut pair = Pair::new(3);
    pair.stream = Some(Micros::from_millis(10));
    pair.run(3_000);
    pair.now = pair.now + Micros::from_secs(3);
    pair.next_data = pair.now;
    for end in &mut pair.ends {
        end.link.handle(Input::Received { datagrams: 1 }, pair.now);
        end.link.handle(
            Input::Stalled {
                late: Micros::from_secs(3),
            },
            pair.now,
        );
    }
    pair.wire.clear();
    pair.loss = 100;
    let cut = pair.now;
    pair.run(400);
    let suspect = pair.ends[0].entered(LinkState::Suspect, cut);
    assert!(
        suspect.is_some_and(|suspect| suspect <= Micros::from_millis(100)),
        "{suspect:?}"
    );
}

#[test]
fn who_is_away_again_and_again_is_slower_to_blame_others_for_ten_seconds() {
    let suspected_after = |pause: u64| {
        let mut pair = Pair::new(5);
        pair.stream = Some(Micros::from_millis(10));
        pair.run(3_000);
        let late = Micros::from_millis(60);
        for _ in 0..2 {
            pair.tell(Input::Stalled { late });
            pair.run(500);
        }
        pair.run(pause);
        pair.loss = 100;
        let cut = pair.now;
        pair.run(1_000);
        let down = pair.ends[0].entered(LinkState::Down, cut).unwrap();
        (pair.ends[0].entered(LinkState::Suspect, cut).unwrap(), down)
    };
    let millis = Micros::from_millis;
    let (suspect, down) = suspected_after(0);
    assert!(
        suspect >= millis(70) && suspect <= millis(95),
        "{suspect:?}"
    );
    assert!(down.0 >= suspect.0 + 240_000, "{down:?}");
    let (suspect, _) = suspected_after(10_000);
    assert!(suspect <= millis(30), "{suspect:?}");
}

#[test]
fn a_link_that_failed_is_trusted_after_two_seconds_doubled_with_every_flap() {
    let mut pair = Pair::new(4);
    pair.stream = Some(Micros::from_millis(10));
    pair.run(1_000);
    for expected in [2_000, 4_000, 8_000] {
        pair.loss = 100;
        pair.run(2_000);
        assert_eq!(pair.states(), [LinkState::Down; 2]);
        pair.loss = 0;
        let healed = pair.now;
        pair.run(expected + 1_500);
        let up = pair.ends[0]
            .entered(LinkState::Up, healed)
            .unwrap()
            .as_millis();
        assert!(
            (expected..=expected + 1_200).contains(&up),
            "{up} of {expected}"
        );
    }
}

#[test]
fn a_delay_of_50_ms_more_is_reported_within_half_a_second() {
    let mut pair = Pair::new(5);
    pair.stream = Some(Micros::from_millis(10));
    pair.run(3_000);
    pair.delay = Micros::from_millis(50);
    let began = pair.now;
    pair.run(1_000);
    let seen = pair.ends[0].measured_after(began, |m| m.rtt >= Micros::from_millis(40));
    assert!(seen.unwrap() <= Micros::from_millis(500), "{seen:?}");
}

#[test]
fn a_forged_answer_is_not_believed() {
    let mut link = Link::new(START);
    link.handle_timeout(START);
    let Some(Output::Probe(probe)) = link.poll_output() else {
        panic!("the first probe is due")
    };
    let reply = wattle_wire::probe::ProbeReply {
        seq: probe.seq,
        sent_at: probe.sent_at,
        received_at: u64::MAX,
        replied_at: 0,
        tx_packets: probe.tx_packets,
        rx_packets: 1,
        fingerprint: 0,
    };
    for forged in [
        wattle_wire::probe::ProbeReply { seq: 7, ..reply },
        wattle_wire::probe::ProbeReply {
            sent_at: u64::MAX,
            ..reply
        },
        wattle_wire::probe::ProbeReply {
            tx_packets: 1_000,
            ..reply
        },
    ] {
        link.handle(Input::Reply(forged), START);
        assert_eq!(link.measurement(), None);
    }
    link.handle(Input::Reply(reply), START + Micros(500));
    assert_eq!(link.measurement().unwrap().rtt, Micros(500));
}

/// Two ends, a wire with a delay and a loss in percent, and perhaps a stream of data both ways.
struct Pair {
    now: Instant,
    ends: [End; 2],
    wire: BTreeMap<(Instant, u64), (usize, Datagram)>,
    delay: Micros,
    loss: u64,
    stream: Option<Micros>,
    next_data: Instant,
    carried: u64,
    rng: ChaCha8Rng,
}

struct End {
    link: Link,
    states: Vec<(Instant, LinkState)>,
    measured: Vec<(Instant, Measurement)>,
    asked: Vec<Instant>,
}

#[derive(Clone, Copy)]
enum Datagram {
    Control(Output),
    Data,
}

impl End {
    fn entered(&self, state: LinkState, after: Instant) -> Option<Micros> {
        let found = self
            .states
            .iter()
            .find(|(at, to)| *at > after && *to == state)?;
        Some(found.0.since(after))
    }

    fn measured_after(
        &self,
        began: Instant,
        wanted: impl Fn(&Measurement) -> bool,
    ) -> Option<Micros> {
        let found = self
            .measured
            .iter()
            .find(|(at, measured)| *at > began && wanted(measured))?;
        Some(found.0.since(began))
    }
}

impl Pair {
    fn new(seed: u64) -> Self {
        let end = || End {
            link: Link::new(START),
            states: Vec::new(),
            measured: Vec::new(),
            asked: Vec::new(),
        };
        Self {
            now: START,
            ends: [end(), end()],
            wire: BTreeMap::new(),
            delay: Micros(500),
            loss: 0,
            stream: None,
            next_data: START,
            carried: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    fn states(&self) -> [LinkState; 2] {
        [self.ends[0].link.state(), self.ends[1].link.state()]
    }

    fn run(&mut self, millis: u64) {
        let end = self.now + Micros::from_millis(millis);
        loop {
            let arrival = self
                .wire
                .keys()
                .next()
                .map_or(Instant::NEVER, |(at, _)| *at);
            let timeout = self.ends.iter().map(|end| end.link.poll_timeout()).min();
            let data = if self.stream.is_some() {
                self.next_data
            } else {
                Instant::NEVER
            };
            let next = arrival
                .min(timeout.expect("there are two ends"))
                .min(data)
                .max(self.now);
            if next > end {
                break;
            }
            self.now = next;
            self.step();
        }
        self.now = end;
        self.next_data = self.next_data.max(end);
    }

    /// Both ends are told something.
    fn tell(&mut self, input: Input) {
        for end in 0..2 {
            self.ends[end].link.handle(input, self.now);
            self.drain(end);
        }
    }

    /// Nobody runs for `span`; datagrams wait in the sockets and are read before the timers are judged.
    fn freeze(&mut self, span: Micros) {
        self.now = self.now + span;
        self.next_data = self.now;
        for end in &mut self.ends {
            end.link.handle(Input::Stalled { late: span }, self.now);
        }
    }

    fn step(&mut self) {
        while let Some(entry) = self
            .wire
            .first_entry()
            .filter(|entry| entry.key().0 <= self.now)
        {
            let (to, datagram) = entry.remove();
            let input = match datagram {
                Datagram::Control(Output::Probe(probe)) => Input::Probe(probe),
                Datagram::Control(Output::Reply(reply)) => Input::Reply(reply),
                Datagram::Control(other) => panic!("{other:?} is no datagram"),
                Datagram::Data => Input::Received { datagrams: 1 },
            };
            self.ends[to].link.handle(input, self.now);
            self.drain(to);
        }
        if let Some(interval) = self.stream.filter(|_| self.next_data <= self.now) {
            self.next_data = self.now + interval;
            for end in 0..2 {
                let sent = Input::Sent {
                    datagrams: 1,
                    traffic: Traffic::Data,
                };
                self.ends[end].link.handle(sent, self.now);
                self.send(end, Datagram::Data);
            }
        }
        for end in 0..2 {
            self.ends[end].link.handle_timeout(self.now);
            self.drain(end);
        }
    }

    fn drain(&mut self, end: usize) {
        while let Some(output) = self.ends[end].link.poll_output() {
            match output {
                Output::Probe(_) => {
                    self.ends[end].asked.push(self.now);
                    self.send(end, Datagram::Control(output));
                }
                Output::Reply(_) => self.send(end, Datagram::Control(output)),
                Output::StateChanged { to, .. } => self.ends[end].states.push((self.now, to)),
                Output::Measured(measured) => self.ends[end].measured.push((self.now, measured)),
                Output::PeerFingerprint(_) => {}
            }
        }
    }

    fn send(&mut self, from: usize, datagram: Datagram) {
        self.carried += 1;
        // No two directions are alike to the microsecond: the ends would act in step.
        let lag = Micros(30 * from as u64 + self.carried % 7);
        if u64::from(self.rng.next_u32()) % 100 >= self.loss {
            self.wire.insert(
                (self.now + self.delay + lag, self.carried),
                (1 - from, datagram),
            );
        }
    }
}
