//! This node's links: which are in use, what they cost, over which one a neighbour is told link state.

use std::collections::BTreeMap;

use wattle_model::{
    ApartCosts, Carrier, Class, Cost, Instant, LinkId, LinkState, Measurement, Micros, NodeId, Ppm,
};

use super::Router;
use super::trigger::Trigger;
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
    pub(super) policy: LinkPolicy,
    /// What an operator wants of it in the classes that are priced apart.
    pub(super) apart: BTreeMap<Class, LinkPolicy>,
    pub(super) damper: Option<Damper>,
    /// The prices that others are told in those classes, while the link is in use.
    pub(super) dampers: BTreeMap<Class, Damper>,
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

    /// The prices that others are told in the classes that are priced apart, each in its tier.
    pub fn advertised_apart(&self) -> ApartCosts {
        let dampers = self.dampers.iter();
        dampers.fold(ApartCosts::NONE, |costs, (class, damper)| {
            costs.with(
                *class,
                damper.advertised().in_tier(self.policy(*class).tier),
            )
        })
    }

    /// The price that others are told in a class; infinite while the link is not in use.
    pub fn advertised_in(&self, class: Class) -> Cost {
        let apart = self.advertised_apart().of(class);
        apart.unwrap_or_else(|| self.advertised())
    }

    /// What an operator wants of it in a class.
    pub fn policy(&self, class: Class) -> &LinkPolicy {
        self.apart.get(&class).unwrap_or(&self.policy)
    }

    /// What the measured price is made of at the moment, in a class.
    pub fn parts(&self, class: Class) -> CostParts {
        let parts = CostParts::of(&self.measurement, self.carrier);
        match self.apart.contains_key(&class) {
            true => parts.of_class(class),
            false => parts,
        }
    }

    /// The price in a class at the moment, without the tier: the measured one as the policy has it.
    pub fn price(&self, class: Class) -> Cost {
        self.policy(class).price(self.parts(class).total())
    }

    /// When the lower price of a class that is measured counts, if it stays; `None` if none waits.
    pub fn better_from(&self, class: Class) -> Option<Instant> {
        let damper = self.dampers.get(&class).or(self.damper.as_ref())?;
        let is_lower = self.price(class) < damper.advertised();
        let due = damper.poll_timeout();
        (is_lower && due != Instant::NEVER).then_some(due)
    }

    /// What keeps its prices from changing too often.
    pub(super) fn dampers(&self) -> impl Iterator<Item = &Damper> {
        self.damper.iter().chain(self.dampers.values())
    }

    /// Begins to tell prices, or tells them anew.
    fn tell_from(&mut self, now: Instant) {
        let begin = |price| Damper::new(now, price);
        self.damper = Some(begin(self.price(Class::Latency)));
        let apart = self.apart.keys().copied();
        self.dampers = apart
            .map(|class| (class, begin(self.price(class))))
            .collect();
    }

    /// Takes in the measured prices; whether one that others are told changed.
    fn wants(&mut self, now: Instant) -> bool {
        let urgency = urgency_of(&self.measurement);
        let wanted = |class| self.price(class);
        let latency = wanted(Class::Latency);
        let apart: Vec<_> = self
            .dampers
            .keys()
            .map(|class| (*class, wanted(*class)))
            .collect();
        let mut changed = match &mut self.damper {
            Some(damper) => damper.wants(now, latency, urgency),
            None => false,
        };
        for (class, price) in apart {
            if let Some(damper) = self.dampers.get_mut(&class) {
                changed |= damper.wants(now, price, urgency);
            }
        }
        changed
    }

    /// Tells what has waited long enough; whether a price that others are told changed.
    fn retell(&mut self, now: Instant) -> bool {
        let dampers = self.damper.iter_mut().chain(self.dampers.values_mut());
        let changed = dampers.map(|damper| damper.handle_timeout(now));
        changed.fold(false, |any, changed| any | changed)
    }

    fn told(&self) -> Prices {
        (self.advertised(), self.advertised_apart())
    }
}

/// The prices that others are told.
type Prices = (Cost, ApartCosts);

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
        let (damper, dampers, suspected_at) = before.map_or_else(Default::default, |link| {
            let dampers = std::mem::take(&mut link.dampers);
            (link.damper.take(), dampers, link.suspected_at)
        });
        let was_usable = damper.is_some();
        let (policy, apart) = policies_of(&self.policies, neighbour, carrier);
        let mut link = Link {
            neighbour,
            carrier,
            state,
            measurement,
            policy,
            apart,
            damper,
            dampers,
            suspected_at: match state {
                LinkState::Suspect => suspected_at.or(Some(now)),
                LinkState::Down => suspected_at,
                LinkState::Up | LinkState::Probing => None,
            },
        };
        match (was_usable, state.is_usable()) {
            (false, true) => {
                link.tell_from(now);
                self.links.insert(id, link);
                self.notice(now, News::Joined);
            }
            (true, true) => {
                let before = link.told();
                let changed = link.wants(now);
                self.links.insert(id, link);
                if changed {
                    self.cost_changed(now, id, before);
                }
            }
            (true, false) => {
                let suspected = link.suspected_at.take().unwrap_or(now);
                self.untold.insert((neighbour, carrier), suspected);
                link.damper = None;
                link.dampers.clear();
                self.links.insert(id, link);
                self.notice(now, News::Failure);
                let told = match self.links_due() <= now {
                    true => self.tell_links(now),
                    false => None,
                };
                let trigger = Trigger {
                    cause: Cause::LinkLost { neighbour, carrier },
                    began: Some(suspected.into()),
                };
                // Whether others may be told or not, this node itself goes around at once.
                self.compute(now, told.unwrap_or(trigger));
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
        let policies = &self.policies;
        let of = |neighbour, carrier| policies_of(policies, neighbour, carrier);
        for link in self.links.values_mut() {
            let (policy, apart) = of(link.neighbour, link.carrier);
            if (link.policy, &link.apart) == (policy, &apart) {
                continue;
            }
            (link.policy, link.apart) = (policy, apart);
            changed = true;
            if link.damper.is_some() {
                link.tell_from(now);
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
                let before = link.told();
                link.retell(now).then_some((*id, before))
            })
            .collect();
        for (id, before) in changed {
            self.cost_changed(now, id, before);
        }
    }

    fn cost_changed(&mut self, now: Instant, id: LinkId, before: Prices) {
        let Some(link) = self.links.get(&id) else {
            return;
        };
        if before == link.told() {
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

/// What an operator wants of a link for latency, and in the classes that are priced apart.
fn policies_of(
    policies: &Policies,
    neighbour: NodeId,
    carrier: Carrier,
) -> (LinkPolicy, BTreeMap<Class, LinkPolicy>) {
    let of = |class| policies.of(neighbour, carrier, class);
    let apart = policies.apart.iter().filter(|class| !class.is_latency());
    (
        of(Class::Latency),
        apart.map(|class| (*class, of(*class))).collect(),
    )
}
