//! What happened, for operators: kept for a while, told to whoever follows.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;
use tokio::sync::broadcast;
use wattle_control::{ChangeReport, EventReport, NodeRef};
use wattle_model::{Class, LinkId, NodeId, UnixTime};

use crate::query::EventFeed;

/// Events kept; each is a few hundred bytes.
const KEPT: usize = 1024;
/// Events that a slow follower may be behind before it loses the oldest.
const FOLLOWER_QUEUE: usize = 256;

/// The event that tells of another way to a node.
pub(super) const ROUTE_CHANGED: &str = "route_changed";

/// The last events, and those who follow them.
pub(super) struct EventLog {
    kept: VecDeque<EventReport>,
    next_sequence: u64,
    followers: broadcast::Sender<EventReport>,
}

/// One event about to be logged.
pub(super) struct Happening {
    event: &'static str,
    text: String,
    node: Option<NodeRef>,
    link: Option<LinkId>,
    fields: BTreeMap<String, Value>,
}

impl Happening {
    /// An event of this kind, with one line for people.
    pub(super) fn new(event: &'static str, text: String) -> Self {
        Self {
            event,
            text,
            node: None,
            link: None,
            fields: BTreeMap::new(),
        }
    }

    /// The event is about this node.
    pub(super) fn node(mut self, node: NodeRef) -> Self {
        self.node = Some(node);
        self
    }

    /// The event is about this link.
    pub(super) fn link(mut self, link: LinkId) -> Self {
        self.link = Some(link);
        self
    }

    /// A detail for programs.
    pub(super) fn field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }
}

impl EventLog {
    /// An empty log.
    pub(super) fn new() -> Self {
        let (followers, _) = broadcast::channel(FOLLOWER_QUEUE);
        Self {
            kept: VecDeque::with_capacity(KEPT),
            next_sequence: 1,
            followers,
        }
    }

    /// Keeps an event, logs it, and tells everybody who follows.
    pub(super) fn record(&mut self, at: UnixTime, happening: Happening) {
        let Happening {
            event,
            text,
            node,
            link,
            fields,
        } = happening;
        tracing::info!(event, "{text}");
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let event = event.to_owned();
        let report = EventReport {
            sequence,
            at_unix_ms: at.0,
            event,
            node,
            link,
            text,
            fields,
        };
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(report.clone());
        let _nobody_follows = self.followers.send(report);
    }

    /// The kept events, and the ones to come.
    pub(super) fn feed(&self) -> EventFeed {
        EventFeed {
            kept: self.kept.iter().cloned().collect(),
            coming: self.followers.subscribe(),
        }
    }

    /// The last change of the way that packets of a class take to a node.
    pub(super) fn last_change(&self, class: Class, node: NodeId) -> Option<ChangeReport> {
        let is_about = |event: &EventReport| match event.fields.get("class") {
            Some(told) => told.as_str() == Some(class.name()),
            None => class.is_latency(),
        };
        let is_it = |event: &&EventReport| {
            let is_there = event.node.as_ref().is_some_and(|at| at.id == node);
            event.event == ROUTE_CHANGED && is_there && is_about(event)
        };
        let event = self.kept.iter().rev().find(is_it)?;
        let word = |name: &str| Some(event.fields.get(name)?.as_str()?.to_owned());
        Some(ChangeReport {
            at_unix_ms: event.at_unix_ms,
            text: event.text.clone(),
            cause: word("cause"),
            latency_us: event.fields.get("latency_us").and_then(Value::as_u64),
            trace: word("trace"),
        })
    }

    /// Events so far.
    pub(super) const fn count(&self) -> u64 {
        self.next_sequence - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_change_of_a_way_is_found_with_its_cause() {
        let mut log = EventLog::new();
        let node = |id| NodeRef {
            id: NodeId(id),
            name: format!("r{id}"),
        };
        for (id, latency) in [(1, 10_u64), (2, 20), (1, 30), (2, 40)] {
            let told = Happening::new(ROUTE_CHANGED, String::new()).node(node(id));
            let told = told
                .field("cause", "links of r9")
                .field("latency_us", latency);
            log.record(UnixTime(latency), told);
        }
        let of_bulk = Happening::new(ROUTE_CHANGED, String::new()).node(node(1));
        log.record(UnixTime(50), of_bulk.field("class", "bulk"));
        let change = log.last_change(Class::Latency, NodeId(1)).unwrap();
        assert_eq!((change.at_unix_ms, change.latency_us), (30, Some(30)));
        assert_eq!(change.cause.as_deref(), Some("links of r9"));
        let at = |class| {
            log.last_change(class, NodeId(1))
                .map(|change| change.at_unix_ms)
        };
        assert_eq!((at(Class::Bulk), at(Class::Admin)), (Some(50), None));
        assert_eq!(log.last_change(Class::Latency, NodeId(3)), None);
    }

    #[test]
    fn a_follower_gets_what_was_kept_and_then_what_comes_without_a_gap() {
        let mut log = EventLog::new();
        for n in 0..KEPT + 3 {
            log.record(UnixTime(n as u64), Happening::new("link_up", n.to_string()));
        }
        let mut feed = log.feed();
        assert_eq!((feed.kept.len(), feed.kept[0].sequence), (KEPT, 4));
        log.record(
            UnixTime(9),
            Happening::new("link_down", "x".into()).link(LinkId(3)),
        );
        let next = feed.coming.try_recv().unwrap();
        assert_eq!(next.sequence, feed.kept.last().unwrap().sequence + 1);
        assert_eq!(next.link, Some(LinkId(3)));
    }
}
