//! What a link and a node cost: microseconds of expected one-way delivery time.
//!
//! `base + minrtt/2 + capped queueing + 2·jitter + loss penalty + the carrier's surcharge`, quantised to an eighth of an octave. The formula is the
//! protocol's (`docs/protocol/routing.md` §4): two nodes that disagree on it would still agree on every path, because
//! each uses the cost that the *record* says.

use serde::{Deserialize, Serialize};
use wattle_model::{Carrier, Class, Cost, Measurement, Micros, Ppm};

/// Price of a hop that takes no time, so that fewer hops win: what a relay takes for a packet on a busy machine, and as much
/// as the first measurement of a short link may be off.
pub const BASE: Micros = Micros(250);
/// What QUIC costs beside plain datagrams: sealing twice, waiting for a second thread, and twice what queueing can cost a
/// plain link, since the load that makes a plain link wait would weigh more on QUIC over the same network, and …
const QUIC_SURCHARGE: u64 = 10_000;
/// … this part of the propagation delay. A price that fell by less than a fifth is not told of a link that has settled (`damping`), so anything
/// smaller could leave a plain link between the same nodes looking dearer than it.
const QUIC_PROPAGATION: u64 = 4;
/// How long a lost packet is missed beyond a round trip: the usual minimum retransmission time.
const RETRANSMISSION: u64 = 200_000;
/// Loss below this is noise.
const NEGLIGIBLE_LOSS: Ppm = Ppm(1_000);
/// Loss beyond this counts as this: the penalty grows without bound towards 100 %.
const HIGHEST_LOSS: Ppm = Ppm(900_000);
/// Queueing counts up to this plus half of the propagation delay, so load feedback cannot swing a path for ever.
const QUEUEING_CAP: u64 = 5_000;
/// Load in percent from where on a node asks for less transit, and where it asks for the least.
const LOAD_KNEE: (u64, u64) = (70, 95);
/// What transit through a node at the upper end of the knee costs.
const UNWELL: u64 = 20_000;

/// The parts of a link's cost, in microseconds, as `explain` shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CostParts {
    /// Price of any hop.
    pub base: Micros,
    /// Half of the smallest round trip.
    pub propagation: Micros,
    /// Waiting in queues on one way, capped.
    pub queueing: Micros,
    /// Twice the mean deviation of the delay.
    pub jitter: Micros,
    /// Expected delay by retransmission.
    pub loss: Micros,
    /// What the carrier adds, so that the cheapest to run is used while several are equally good.
    pub carrier: Micros,
}

impl CostParts {
    /// Takes a measurement of a link over `carrier` apart.
    pub fn of(measurement: &Measurement, carrier: Carrier) -> Self {
        let minimum = measurement.min_rtt.0;
        let queueing = measurement.rtt.0.saturating_sub(minimum) / 2;
        let loss = match measurement.loss {
            loss if loss < NEGLIGIBLE_LOSS => 0,
            loss => {
                let p = u64::from(loss.min(HIGHEST_LOSS).0);
                minimum.saturating_add(RETRANSMISSION).saturating_mul(p) / (1_000_000 - p)
            }
        };
        Self {
            base: BASE,
            propagation: Micros(minimum / 2),
            queueing: Micros(queueing.min(minimum / 4 + QUEUEING_CAP)),
            jitter: Micros(measurement.jitter.0.saturating_mul(2)),
            loss: Micros(loss),
            carrier: surcharge(carrier, minimum / 2),
        }
    }

    /// The parts that count in a class; the others are zero. What waits by itself does not mind queues, and what is to be
    /// governed by operators not the time that a link takes, but nobody wants loss.
    #[must_use]
    pub fn of_class(self, class: Class) -> Self {
        match class {
            Class::Latency => self,
            Class::Bulk => Self {
                queueing: Micros(0),
                jitter: Micros(0),
                ..self
            },
            Class::Admin => Self {
                base: self.base,
                loss: self.loss,
                ..Self::default()
            },
        }
    }

    /// The sum, before quantisation.
    pub fn total(&self) -> Cost {
        let sum = [
            self.base,
            self.propagation,
            self.queueing,
            self.jitter,
            self.loss,
            self.carrier,
        ]
        .iter()
        .fold(0_u64, |sum, part| sum.saturating_add(part.0));
        Cost(sum).min(Cost::MOST)
    }
}

fn surcharge(carrier: Carrier, propagation: u64) -> Micros {
    match carrier {
        Carrier::Udp4 | Carrier::Udp6 => Micros(0),
        Carrier::Quic => Micros(QUIC_SURCHARGE + propagation / QUIC_PROPAGATION),
    }
}

/// Rounds to the nearest of eight steps per octave (at most 6 % off), so that noise does not become news.
pub fn quantise(cost: Cost) -> Cost {
    let octave = cost.0.checked_ilog2().unwrap_or(0);
    if !cost.is_finite() || octave < 3 {
        return cost;
    }
    let step = 1 << (octave - 3);
    Cost((cost.0 + step / 2) / step * step).min(Cost::MOST)
}

/// How well a node is: what it knows of itself, said to all in its node record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Health {
    /// The worst of CPU, packet queues and memory pressure, in percent.
    pub load: u8,
    /// What the operator adds to the price of transit.
    pub bias: Micros,
    /// Whether the operator wants no transit at all.
    pub drained: bool,
}

impl Health {
    /// What a path pays for passing through the node: nothing below 70 % load, convex from there, infinite when drained.
    pub fn transit_cost(&self) -> Cost {
        if self.drained {
            return Cost::INFINITE;
        }
        let (low, high) = LOAD_KNEE;
        let above = u64::from(self.load).clamp(low, high) - low;
        let unwell = UNWELL * above * above / ((high - low) * (high - low));
        Cost(unwell.saturating_add(self.bias.0)).min(Cost::MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(measurement: &Measurement) -> CostParts {
        CostParts::of(measurement, Carrier::Udp4)
    }

    fn measured(rtt: u64, minimum: u64, jitter: u64, loss: u32) -> Measurement {
        Measurement {
            rtt: Micros(rtt),
            min_rtt: Micros(minimum),
            jitter: Micros(jitter),
            loss: Ppm(loss),
        }
    }

    #[test]
    fn a_quiet_link_costs_half_its_round_trip() {
        assert_eq!(parts(&measured(10_000, 10_000, 0, 0)).total(), Cost(5_250));
    }

    #[test]
    fn thirty_percent_loss_costs_more_than_any_detour_on_the_same_continent() {
        let lossy = parts(&measured(200, 200, 0, 300_000)).total();
        assert!(lossy > Cost(80_000), "{lossy}");
        assert!(parts(&measured(200, 200, 0, 1_000_000)).total().is_finite());
    }

    #[test]
    fn a_class_pays_for_what_it_minds() {
        // 1 ms of propagation, 2 ms of queueing, 1 ms of jitter, 20 % loss.
        let link = measured(6_000, 2_000, 500, 200_000);
        let all = CostParts::of(&link, Carrier::Quic);
        let loss = all.loss.0;
        for (class, total) in [
            (Class::Latency, 250 + 1_000 + 2_000 + 1_000 + loss + 10_250),
            (Class::Bulk, 250 + 1_000 + loss + 10_250),
            (Class::Admin, 250 + loss),
        ] {
            assert_eq!(all.of_class(class).total(), Cost(total), "{class}");
        }
    }

    #[test]
    fn queueing_is_capped_so_that_load_cannot_swing_a_path_for_ever() {
        let bloated = parts(&measured(1_000_000, 20_000, 0, 0));
        assert_eq!(bloated.queueing, Micros(10_000));
    }

    #[test]
    fn quic_is_dearer_than_plain_datagrams_even_where_a_better_price_is_not_told_yet() {
        for rtt in [100, 1_000, 20_000, 300_000] {
            let both = [Carrier::Udp4, Carrier::Quic]
                .map(|carrier| CostParts::of(&measured(rtt, rtt, 0, 0), carrier).total());
            // The plain link is told as dear as it may be without being corrected, the other as it is.
            let stale = quantise(Cost(both[0].0 * 5 / 4));
            assert!(stale <= quantise(both[1]), "{rtt}: {both:?}");
        }
    }

    #[test]
    fn quantisation_is_idempotent_ordered_and_close() {
        let mut last = Cost(0);
        for cost in (0..4_000_000).step_by(37).map(Cost) {
            let rounded = quantise(cost);
            assert_eq!(quantise(rounded), rounded);
            assert!(rounded >= last && rounded.0.abs_diff(cost.0) <= cost.0 / 16 + 1);
            last = rounded;
        }
        assert_eq!(quantise(Cost::INFINITE), Cost::INFINITE);
    }

    #[test]
    fn transit_grows_dearer_with_load_and_impossible_when_drained() {
        let at = |load| {
            Health {
                load,
                ..Health::default()
            }
            .transit_cost()
        };
        assert_eq!(
            (at(0), at(70), at(95), at(100)),
            (Cost(0), Cost(0), Cost(20_000), Cost(20_000))
        );
        assert!(at(80) < at(90) && at(80).0 * 2 < at(90).0);
        assert!(
            !Health {
                drained: true,
                ..Health::default()
            }
            .transit_cost()
            .is_finite()
        );
    }
}
