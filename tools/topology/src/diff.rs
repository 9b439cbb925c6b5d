//! What became different between two moments, and why: the events between them, told by entity. Pure.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use wattle_api::Timestamp;
use wattle_api::topology::{Cause, Entity, EntityKey, EntityKind, TopologyEvent};

use crate::graph::Graph;

/// Name and version of the JSON document.
pub const SCHEMA: &str = "wattle.topology.diff/v1";

/// The differences between two moments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Diff {
    /// The newest event of the earlier moment.
    pub from_seq: u64,
    /// The earlier moment, if somebody named one.
    pub from: Option<Timestamp>,
    /// The newest event of the later moment.
    pub to_seq: u64,
    /// The later moment.
    pub to: Option<Timestamp>,
    /// What is different, ordered by key.
    pub changes: Vec<Change>,
    /// Entities that changed between the moments and are the same at both.
    pub unchanged: Vec<Transient>,
}

/// What became of an entity.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It was not there at the earlier moment.
    Appeared,
    /// It is not there at the later one.
    Vanished,
    /// It is there at both, but not the same.
    Changed,
}

/// One entity that is different.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// Which one.
    pub key: EntityKey,
    /// Its kind.
    pub kind: EntityKind,
    /// How people call it.
    pub label: String,
    /// What became of it.
    pub fate: Fate,
    /// Its fields that differ; empty unless it changed.
    pub fields: Vec<FieldChange>,
    /// How it was.
    pub before: Option<Entity>,
    /// How it is.
    pub after: Option<Entity>,
    /// Its events between the moments.
    #[serde(flatten)]
    pub because: Because,
}

/// One entity that changed and changed back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Transient {
    /// Which one.
    pub key: EntityKey,
    /// How people call it.
    pub label: String,
    /// Its events between the moments.
    #[serde(flatten)]
    pub because: Because,
}

/// The events that made a difference.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Because {
    /// How many there were.
    pub events: u64,
    /// How many of each cause.
    pub causes: BTreeMap<Cause, u64>,
    /// The number of the last one.
    pub last_seq: u64,
    /// The time of the last one.
    pub last_ts: Timestamp,
}

impl Because {
    fn take(&mut self, event: &TopologyEvent) {
        self.events += 1;
        *self.causes.entry(event.cause).or_default() += 1;
        if event.id.seq > self.last_seq {
            (self.last_seq, self.last_ts) = (event.id.seq, event.ts);
        }
    }
}

/// A field with another value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FieldChange {
    /// Its name in the JSON of the entity.
    pub field: String,
    /// What it was.
    pub before: Value,
    /// What it is.
    pub after: Value,
}

/// Collects the events between two moments.
#[derive(Debug, Clone)]
pub struct Differ {
    start: Graph,
    end: Graph,
    because: BTreeMap<EntityKey, Because>,
}

impl Differ {
    /// Begins at the earlier moment.
    pub fn new(start: Graph) -> Self {
        Self {
            end: start.clone(),
            start,
            because: BTreeMap::new(),
        }
    }

    /// Takes the next event up to the later moment, in order. Those before the earlier one are passed over.
    pub fn take(&mut self, event: &TopologyEvent) {
        if event.id.seq <= self.end.seq() {
            return;
        }
        self.end.apply(event);
        self.because.entry(event.key).or_default().take(event);
    }

    /// The network at the earlier moment, at the later one, and what differs. `to` is the later moment, if it has a time.
    pub fn finish(self, to: Option<Timestamp>) -> (Graph, Graph, Diff) {
        let (mut changes, mut unchanged) = (Vec::new(), Vec::new());
        for (key, because) in self.because {
            let (before, after) = (self.start.entity(key), self.end.entity(key));
            let named = if after.is_some() {
                &self.end
            } else {
                &self.start
            };
            let label = named.label(key);
            let fate = match (before, after) {
                (None, Some(_)) => Some(Fate::Appeared),
                (Some(_), None) => Some(Fate::Vanished),
                (Some(before), Some(after)) if before != after => Some(Fate::Changed),
                (None, None) | (Some(_), Some(_)) => None,
            };
            match fate {
                None => unchanged.push(Transient {
                    key,
                    label,
                    because,
                }),
                Some(fate) => changes.push(Change {
                    key,
                    kind: key.kind(),
                    label,
                    fate,
                    fields: fields(before, after),
                    before: before.cloned(),
                    after: after.cloned(),
                    because,
                }),
            }
        }
        let diff = Diff {
            from_seq: self.start.seq(),
            from: self.start.ts(),
            to_seq: self.end.seq(),
            to: to.or(self.end.ts()),
            changes,
            unchanged,
        };
        (self.start, self.end, diff)
    }
}

fn fields(before: Option<&Entity>, after: Option<&Entity>) -> Vec<FieldChange> {
    let (Some(before), Some(after)) = (before.and_then(object), after.and_then(object)) else {
        return Vec::new();
    };
    let names = before
        .keys()
        .chain(after.keys().filter(|name| !before.contains_key(*name)));
    let value = |of: &serde_json::Map<String, Value>, name: &String| {
        of.get(name).cloned().unwrap_or(Value::Null)
    };
    let pairs = names.map(|name| FieldChange {
        field: name.clone(),
        before: value(&before, name),
        after: value(&after, name),
    });
    pairs.filter(|field| field.before != field.after).collect()
}

fn object(entity: &Entity) -> Option<serde_json::Map<String, Value>> {
    match serde_json::to_value(entity) {
        Ok(Value::Object(fields)) => Some(fields),
        Ok(_) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::tests::{event, graph, link, node};

    #[test]
    fn every_fate_is_told_with_its_causes_and_what_came_back_is_told_apart() {
        let start = graph(&[
            node(1, "a"),
            node(2, "b"),
            link(1, 2, Some(700)),
            link(2, 1, Some(700)),
        ]);
        let mut differ = Differ::new(start);
        let steps = [
            (Some(link(1, 2, Some(700))), Some(link(1, 2, Some(900)))),
            (Some(link(1, 2, Some(900))), Some(link(1, 2, None))),
            (None, Some(node(3, "c"))),
            (Some(link(2, 1, Some(700))), None),
            (Some(node(2, "b")), None),
            (None, Some(node(2, "b"))),
        ];
        for (seq, (before, after)) in (5..).zip(steps) {
            differ.take(&event(seq, before, after));
        }
        differ.take(&event(3, None, Some(node(9, "old"))));
        let (_, end, diff) = differ.finish(None);
        assert_eq!((diff.from_seq, diff.to_seq, end.seq()), (4, 10, 10));
        let told: Vec<_> = diff
            .changes
            .iter()
            .map(|change| (change.label.as_str(), change.fate, change.because.events))
            .collect();
        assert_eq!(
            told,
            [
                ("c", Fate::Appeared, 1),
                ("a > b udp4", Fate::Changed, 2),
                ("b > a udp4", Fate::Vanished, 1),
            ]
        );
        let cost = &diff.changes[1].fields;
        assert_eq!(cost.len(), 1);
        assert_eq!(
            (cost[0].field.as_str(), &cost[0].before, &cost[0].after),
            ("cost_us", &Value::from(700), &Value::Null)
        );
        assert_eq!(diff.changes[1].because.causes[&Cause::LinkMeasured], 2);
        let back: Vec<_> = diff
            .unchanged
            .iter()
            .map(|t| (t.label.as_str(), t.because.events))
            .collect();
        assert_eq!(back, [("b", 2)]);
    }

    #[test]
    fn nothing_between_two_moments_is_no_difference() {
        let (start, end, diff) = Differ::new(graph(&[node(1, "a")])).finish(None);
        assert_eq!(start, end);
        assert!(diff.changes.is_empty() && diff.unchanged.is_empty());
    }
}
