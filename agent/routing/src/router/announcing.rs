//! What this node tells about itself: its links, its health, its prefixes, in records of its own.

use std::collections::BTreeMap;

use wattle_model::{Carrier, Cost, Instant, NodeId};
use wattle_wire::record::{Body, LinkEntry, NodeBody, Record};

use super::trigger::{Began, Trigger};
use super::{Link, Router};
use crate::cost::Health;
use crate::damping::{Damper, Urgency};
use crate::event::{Cause, Happening};

impl Router {
    pub(super) fn tell_links(&mut self, now: Instant) -> Option<Trigger> {
        let mut entries: Vec<LinkEntry> = Vec::new();
        for link in self.links.values().filter(|link| link.damper.is_some()) {
            entries.push(LinkEntry {
                neighbour: link.neighbour,
                carrier: link.carrier,
                cost: link.advertised(),
                apart: link.advertised_apart(),
                rtt: link.measurement.rtt,
                jitter: link.measurement.jitter,
                loss: link.measurement.loss,
            });
        }
        entries.sort_unstable_by_key(|link| (link.neighbour, link.carrier, link.cost));
        entries.dedup_by_key(|link| (link.neighbour, link.carrier));
        let before: BTreeMap<_, _> = self.reported_links().collect();
        let lost = std::mem::take(&mut self.untold);
        let records = self.origin.links(now, self.time(now), &entries, &lost);
        if records.is_empty() {
            self.pacer.dismiss();
            return None;
        }
        self.pacer.told(now, self.share());
        let trigger = records.first().map(|record| Trigger {
            cause: Cause::Record(record.into()),
            began: lost.values().min().copied().map(Began::from),
        });
        self.write(now, records);
        if let Some(trigger) = trigger {
            self.tell_difference(now, trigger, &before);
        }
        trigger
    }

    /// Links that are in this node's records for the first time, with another price, or no longer.
    fn tell_difference(
        &mut self,
        now: Instant,
        trigger: Trigger,
        before: &BTreeMap<(NodeId, Carrier), Cost>,
    ) {
        let used = self.links.iter().filter(|(_, link)| link.damper.is_some());
        let news: Vec<_> = used
            .filter_map(|(id, link)| {
                let (neighbour, after) = (link.neighbour, link.advertised());
                match before.get(&(neighbour, link.carrier)) {
                    None => Some(Happening::LinkUp {
                        link: *id,
                        neighbour,
                        carrier: link.carrier,
                        cost: after,
                    }),
                    Some(before) if *before != after => Some(Happening::LinkCostChanged {
                        link: *id,
                        neighbour,
                        before: *before,
                        after,
                    }),
                    Some(_) => None,
                }
            })
            .collect();
        let lost = self.links.iter().filter(|(_, link)| {
            let end = (link.neighbour, link.carrier);
            let is_used =
                |other: &Link| other.damper.is_some() && (other.neighbour, other.carrier) == end;
            before.contains_key(&end) && link.damper.is_none() && !self.links.values().any(is_used)
        });
        let lost: Vec<_> = lost
            .map(|(id, link)| Happening::LinkDown {
                link: *id,
                neighbour: link.neighbour,
                carrier: link.carrier,
            })
            .collect();
        for what in lost.into_iter().chain(news) {
            self.event(now, trigger, what);
        }
    }

    pub(super) fn reported_links(&self) -> impl Iterator<Item = ((NodeId, Carrier), Cost)> + '_ {
        self.database
            .of(self.node)
            .flat_map(|(_, entry)| match entry.body() {
                Body::Links(body) => body.links.as_slice(),
                Body::Node(_) | Body::Prefixes(_) | Body::Removal(_) => &[],
            })
            .map(|link| ((link.neighbour, link.carrier), link.cost))
    }

    pub(super) fn tell_node(&mut self, now: Instant) {
        let body = NodeBody {
            at: self.time(now),
            transit: self.transit.advertised(),
            version: self.version.clone(),
            quic_port: self.quic_port,
        };
        let records = self.origin.node(now, body);
        self.write(now, records);
    }

    pub(super) fn tell_prefixes(&mut self, now: Instant) {
        let records = self.origin.prefixes(now, self.time(now), &self.prefixes);
        self.write(now, records);
    }

    pub(super) fn health_changed(&mut self, now: Instant, health: Health) {
        // What an operator orders is not damped.
        let ordered = |health: &Health| (health.drained, health.bias);
        let drain_changed = ordered(&health) != ordered(&self.health);
        self.health = health;
        let cost = health.transit_cost();
        let changed = match drain_changed {
            true => {
                self.transit = Damper::new(now, cost);
                true
            }
            false => self.transit.wants(now, cost, Urgency::Normal),
        };
        if changed {
            self.tell_node(now);
        }
    }

    /// Takes this node's records into the database and tells everybody.
    pub(super) fn write(&mut self, now: Instant, records: Vec<Record>) {
        for record in records {
            self.accept(now, None, record);
        }
    }
}
