//! Takes a network back to an earlier moment by undoing events, or forward by applying them. Pure.
//!
//! The network at a moment is everything before the first event that is later than it. An event tells how its entity was
//! before, so only the events since the moment are needed, in whatever order they come.

use std::collections::BTreeMap;

use wattle_api::topology::{Entity, EntityKey, TopologyEvent};

use crate::graph::Graph;
use crate::moment::Moment;

/// Undoes events.
#[derive(Debug, Clone)]
pub struct Rewind {
    graph: Graph,
    to: Moment,
    /// How each entity was before its first event after the moment, and the number of that event.
    before: BTreeMap<EntityKey, (u64, Option<Entity>)>,
    /// Events that claim to be earlier. They count if one before them is later: a clock that was set back.
    earlier: Vec<(u64, EntityKey, Option<Entity>)>,
    /// The first event after the moment.
    first_undone: Option<u64>,
}

impl Rewind {
    /// Begins with the network after all events that will be undone.
    pub const fn new(graph: Graph, to: Moment) -> Self {
        Self {
            graph,
            to,
            before: BTreeMap::new(),
            earlier: Vec::new(),
            first_undone: None,
        }
    }

    /// Takes an event, in any order, each once or more. Those that came after the graph do no harm.
    pub fn take(&mut self, event: &TopologyEvent) {
        let seq = event.id.seq;
        if self.to.is_before(seq, event.ts) {
            self.first_undone = Some(self.first_undone.map_or(seq, |first| first.min(seq)));
            undo(&mut self.before, seq, event.key, event.before.as_ref());
        } else {
            self.earlier.push((seq, event.key, event.before.clone()));
        }
    }

    /// The first event after the moment, of those that were taken.
    pub const fn first_undone(&self) -> Option<u64> {
        self.first_undone
    }

    /// The network at the moment.
    pub fn finish(mut self) -> Graph {
        let last = self
            .first_undone
            .map_or(self.graph.seq(), |first| first - 1);
        for (seq, key, before) in &self.earlier {
            if *seq > last {
                undo(&mut self.before, *seq, *key, before.as_ref());
            }
        }
        for (key, (_, before)) in self.before {
            self.graph.set(key, before, 0);
        }
        let ts = self.to.time().or(self.graph.ts());
        self.graph.date(last.min(self.graph.seq()), ts);
        self.graph
    }
}

fn undo(
    before: &mut BTreeMap<EntityKey, (u64, Option<Entity>)>,
    seq: u64,
    key: EntityKey,
    image: Option<&Entity>,
) {
    let known = before.get(&key).map(|(known, _)| *known);
    if known.is_none_or(|known| seq < known) {
        before.insert(key, (seq, image.cloned()));
    }
}

/// Applies events up to a moment.
#[derive(Debug, Clone)]
pub struct Forward {
    graph: Graph,
    to: Moment,
    done: bool,
}

impl Forward {
    /// Begins with the network before all events that will be applied.
    pub const fn new(graph: Graph, to: Moment) -> Self {
        Self {
            graph,
            to,
            done: false,
        }
    }

    /// Takes the next event; says whether more are wanted. They must come in order; those that the graph holds already
    /// are passed over.
    pub fn take(&mut self, event: &TopologyEvent) -> bool {
        self.done |= self.to.is_before(event.id.seq, event.ts);
        if !self.done && event.id.seq > self.graph.seq() {
            self.graph.apply(event);
        }
        !self.done
    }

    /// The network at the moment, or after the last event if that is earlier.
    pub fn finish(mut self) -> Graph {
        let ts = self.to.time().or(self.graph.ts());
        self.graph.date(self.graph.seq(), ts);
        self.graph
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wattle_api::Timestamp;

    use super::*;
    use crate::graph::tests::{event, link, node};

    /// A history of links that come, change and go, made of small numbers.
    fn history(steps: &[(u64, u8)]) -> Vec<TopologyEvent> {
        let mut now = Graph::default();
        let mut events = Vec::new();
        for (seq, (pair, cost)) in (1..).zip(steps) {
            let key = link(*pair, 9, None).key();
            let before = now.entity(key).cloned();
            // Every fourth step takes the link away, if it is there.
            let after = match (cost % 4, &before) {
                (0, Some(_)) => None,
                _ => Some(link(*pair, 9, Some(seq as u32))),
            };
            let event = event(seq, before, after);
            now.apply(&event);
            events.push(event);
        }
        events
    }

    fn told(events: &[TopologyEvent], last: u64) -> Graph {
        let mut graph = Graph::default();
        for event in events.iter().take_while(|event| event.id.seq <= last) {
            graph.apply(event);
        }
        graph
    }

    fn entities(graph: &Graph) -> Vec<(EntityKey, Entity)> {
        let entities = graph.entities();
        entities
            .map(|(key, entity)| (*key, entity.clone()))
            .collect()
    }

    proptest! {
        #[test]
        fn undoing_gives_what_applying_gave_at_every_moment_in_any_order(
            steps in prop::collection::vec((1..5_u64, any::<u8>()), 1..40),
            at in any::<prop::sample::Index>(),
            shuffle in any::<prop::sample::Index>(),
        ) {
            let events = history(&steps);
            let last = at.index(events.len() + 1) as u64;
            let whole = told(&events, u64::MAX);
            for to in [Moment::Event(last), Moment::Time(Timestamp::from_millis(last * 1_000 + 999))] {
                let mut rewind = Rewind::new(whole.clone(), to);
                let turn = shuffle.index(events.len());
                for event in events[turn..].iter().rev().chain(&events[..turn]) {
                    rewind.take(event);
                    rewind.take(event);
                }
                let found = rewind.finish();
                prop_assert_eq!(found.seq(), last);
                prop_assert_eq!(entities(&found), entities(&told(&events, last)));
                let mut forward = Forward::new(Graph::default(), to);
                for event in &events {
                    if !forward.take(event) {
                        break;
                    }
                }
                let found = forward.finish();
                prop_assert_eq!(found.seq(), last);
                prop_assert_eq!(entities(&found), entities(&told(&events, last)));
            }
        }
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_tear_the_order() {
        let mut events = history(&[(1, 1), (1, 2), (2, 1), (1, 3)]);
        // The second event claims to be later than all others.
        events[1].ts = Timestamp::from_millis(99_000);
        let to = Moment::Time(Timestamp::from_millis(3_500));
        let mut rewind = Rewind::new(told(&events, 4), to);
        let mut forward = Forward::new(Graph::default(), to);
        let mut wants = true;
        for event in &events {
            rewind.take(event);
            wants = wants && forward.take(event);
        }
        let (back, ahead) = (rewind.finish(), forward.finish());
        assert_eq!((back.seq(), ahead.seq()), (1, 1));
        assert_eq!(entities(&back), entities(&told(&events, 1)));
        assert_eq!(entities(&ahead), entities(&told(&events, 1)));
    }

    #[test]
    fn nothing_to_undo_is_the_network_as_it_is() {
        let mut now = Graph::default();
        now.apply(&event(7, None, Some(node(1, "a"))));
        let at = Moment::Time(Timestamp::from_millis(9_000));
        let found = Rewind::new(now.clone(), at).finish();
        assert_eq!((found.seq(), found.ts()), (7, at.time()));
        assert_eq!(entities(&found), entities(&now));
    }
}
