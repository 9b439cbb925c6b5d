//! This node's links: which are in use, what they cost, over which one a neighbour is told link state.

use wattle_model::{Carrier, Cost, Instant, LinkId, LinkState, Measurement, Micros, NodeId, Ppm};

use super::Router;
use crate::cost::CostParts;
use crate::damping::{Damper, Urgency};
use crate::event::Cause;
use crate::flooding::Adjacency;
use crate::pacing::{self, News};
use crate::policy::{LinkPolicy, Policies};

/// Loss that is told at once.
const ALARMING_LOSS: Ppm = Ppm(50_000);

/// One of this node's links, as routing sees it.
#[derive(Debug, Clone)]
pub struct Link {
    /// The node at its other end.
    pub neighbour: NodeId,
    /// What carries it.
    pub carrier: Carrier,
    /// Its state.
    pub state: LinkState,
    /// Its quality.
    pub measurement: Measurement,
    /// What an operator wants of it.
    pub policy: LinkPolicy,
    pub(super) damper: Option<Damper>,
    /// When the other end fell silent.
    pub(super) suspected_at: Option<Instant>,
}

impl Link {
    /// The price that others are told, in the link's tier; infinite while the link is not in use.
    pub fn advertised(&self) -> Cost {
        self.damper.as_ref().map_or(Cost::INFINITE, |damper| {
            damper.advertised().in_tier(self.policy.tier)
        })
    }

    /// What the measured price is made of at the moment.
    pub fn parts(&self) -> CostParts {
        CostParts::of(&self.measurement, self.carrier)
    }

    /// The price at the moment, without the tier: the measured one as the policy has it.
    pub fn price(&self) -> Cost {
        self.policy.price(self.parts().total())
    }
}

impl Router {
    pub(super) fn link_changed(
        &mut self,
        now: Instant,
        id: LinkId,
        (neighbour, carrier): (NodeId, Carrier),
        state: LinkState,
        measurement: Measurement,
    ) {
        let before = self.links.get_mut(&id);
        let (damper, suspected_at) =
            before.map_or((None, None), |link| (link.damper.take(), link.suspected_at));
        let was_usable = damper.is_some();
        let mut link = Link {
            neighbour,
            carrier,
            state,
            measurement,
            policy: self.policies.of(neighbour, carrier),
            damper,
            suspected_at: match state {
                LinkState::Suspect => suspected_at.or(Some(now)),
                LinkState::Down => suspected_at,
                LinkState::Up | LinkState::Probing => None,
            },
        };
        let wanted = link.price();
        match (was_usable, state.is_usable()) {
            (false, true) => {
                link.damper = Some(Damper::new(now, wanted));
                self.links.insert(id, link);
                self.notice(now, News::Joined);
            }
            (true, true) => {
                let before = link.advertised();
                let urgency = urgency_of(&measurement);
                let changed = link
                    .damper
                    .as_mut()
                    .is_some_and(|damper| damper.wants(now, wanted, urgency));
                self.links.insert(id, link);
                if changed {
                    self.cost_changed(now, id, before);
                }
            }
            (true, false) => {
                let suspected = link.suspected_at.take();
                self.suspected_at = Some(suspected.unwrap_or(now));
                link.damper = None;
                self.links.insert(id, link);
                self.notice(now, News::Failure);
                let cause = match self.links_due() <= now {
                    true => self.tell_links(now),
                    false => None,
                };
                // Whether others may be told or not, this node itself goes around at once.
                self.compute(now, cause.unwrap_or(Cause::Time));
                self.suspected_at = None;
            }
            (false, false) => {
                self.links.insert(id, link);
            }
        }
        self.adjust_adjacency(now, neighbour);
        if self.links_due() <= now {
            self.tell_links(now);
        }
    }

    /// What an operator orders is not damped.
    pub(super) fn policies_changed(&mut self, now: Instant, policies: Policies) {
        self.policies = policies;
        let mut changed = false;
        for link in self.links.values_mut() {
            let policy = self.policies.of(link.neighbour, link.carrier);
            if std::mem::replace(&mut link.policy, policy) == policy {
                continue;
            }
            let price = link.price();
            changed = true;
            if let Some(damper) = &mut link.damper {
                *damper = Damper::new(now, price);
            }
        }
        if changed {
            self.tell_links(now);
            self.compute_soon(now, Cause::Operator);
        }
    }

    /// When what there is to tell of links is told.
    pub(super) fn links_due(&self) -> Instant {
        self.pacer.due(self.share())
    }

    fn notice(&mut self, now: Instant, news: News) {
        let share = self.share();
        self.pacer.notice(now, news, share);
    }

    pub(super) fn share(&self) -> Micros {
        pacing::share(self.members.nodes.len(), self.origin.links_length())
    }

    pub(super) fn retell_costs(&mut self, now: Instant) {
        let changed: Vec<_> = self
            .links
            .iter_mut()
            .filter_map(|(id, link)| {
                let before = link.advertised();
                link.damper
                    .as_mut()?
                    .handle_timeout(now)
                    .then_some((*id, before))
            })
            .collect();
        for (id, before) in changed {
            self.cost_changed(now, id, before);
        }
    }

    pub(super) fn cost_changed(&mut self, now: Instant, id: LinkId, before: Cost) {
        let Some(link) = self.links.get(&id) else {
            return;
        };
        if before == link.advertised() {
            return;
        }
        let news = match urgency_of(&link.measurement) {
            Urgency::Alarm => News::Alarm,
            Urgency::Normal => News::Price,
        };
        self.notice(now, news);
    }

    /// A neighbour is told link state over its best link, as long as there is one.
    pub(super) fn adjust_adjacency(&mut self, now: Instant, neighbour: NodeId) {
        let best = self
            .links
            .iter()
            .filter(|(_, link)| link.neighbour == neighbour && link.state.is_usable())
            .min_by_key(|(id, link)| (link.state == LinkState::Suspect, link.advertised(), **id));
        let Some((link, rtt)) = best.map(|(id, link)| (*id, link.measurement.rtt)) else {
            self.adjacencies.remove(&neighbour);
            self.fingerprints.remove(&neighbour);
            return;
        };
        if !self.members.nodes.contains_key(&neighbour) {
            return;
        }
        let fingerprint = self.fingerprints.get(&neighbour).copied();
        let adjacency = self
            .adjacencies
            .entry(neighbour)
            .or_insert_with(|| Adjacency::new(now, link, rtt, fingerprint));
        adjacency.link = link;
        adjacency.rtt = rtt;
    }
}

fn urgency_of(measurement: &Measurement) -> Urgency {
    match measurement.loss >= ALARMING_LOSS {
        true => Urgency::Alarm,
        false => Urgency::Normal,
    }
}
