//! Checks that events tell one story of each entity: each begins with the image that the one before it left, and the state
//! topic holds what the last one left. Remembers images as hashes, so a long history fits into memory. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use wattle_api::topology::{Entity, EntityKey, Op, TopologyEvent};

use crate::state::State;

/// How many keys of each kind of fault are named.
const EXAMPLES: usize = 10;

/// An image, or its absence.
type Image = Option<u64>;

/// What one event says of its entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Step {
    seq: u64,
    /// `None` if the event does not say, being part of a snapshot.
    before: Option<Image>,
    after: Image,
}

/// The story of each entity.
#[derive(Debug, Default)]
pub(crate) struct Images {
    stories: BTreeMap<EntityKey, Vec<Step>>,
    /// Entities of which an event was written without its images.
    unknown: BTreeSet<EntityKey>,
    /// Events that never will be there: stories may break behind the first one.
    gaps: BTreeSet<(u64, u64)>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Faults {
    /// Events whose `before` is not what the event before them left.
    pub(crate) broken: u64,
    /// The keys of some of them.
    pub(crate) broken_examples: Vec<String>,
    /// Entities of the state topic that were compared.
    pub(crate) state_checked: u64,
    /// Those that are not as their last event left them.
    pub(crate) state_wrong: u64,
    /// Some of them.
    pub(crate) state_examples: Vec<String>,
}

impl Images {
    /// Takes an event, in any order.
    pub(crate) fn take(&mut self, event: &TopologyEvent) {
        let step = Step {
            seq: event.id.seq,
            before: (event.op != Op::Read).then(|| image(event.before.as_ref())),
            after: image(event.after.as_ref()),
        };
        if event.omitted.is_some() {
            self.unknown.insert(event.key);
        }
        self.stories.entry(event.key).or_default().push(step);
    }

    /// These events will never come.
    pub(crate) fn gap(&mut self, first: u64, last: u64) {
        self.gaps.insert((first, last));
    }

    /// Looks for breaks, and compares with the state topic, which stands for the events up to `state_seq` at least.
    pub(crate) fn finish(self, state: &State, state_seq: u64) -> Faults {
        let mut faults = Faults::default();
        let torn = |from: u64, to: u64| {
            self.gaps
                .iter()
                .any(|(first, last)| from < *last && *first < to)
        };
        let known = self.stories.into_iter();
        for (key, mut steps) in known.filter(|(key, _)| !self.unknown.contains(key)) {
            steps.sort_unstable();
            steps.dedup();
            let pairs = steps.windows(2);
            let breaks = pairs.filter(|pair| {
                pair[1].before.is_some_and(|before| before != pair[0].after)
                    && !torn(pair[0].seq, pair[1].seq)
            });
            let breaks = breaks.count() as u64;
            faults.broken += breaks;
            note(&mut faults.broken_examples, breaks > 0, key);
            let Some(last) = steps.last() else { continue };
            let held = state.images.get(&key);
            let newer = held.is_some_and(|(seq, _)| *seq > last.seq);
            if newer || last.seq > state_seq || torn(last.seq, u64::MAX) {
                continue;
            }
            faults.state_checked += 1;
            let wrong = image(held.and_then(|(_, entity)| entity.as_ref())) != last.after;
            faults.state_wrong += u64::from(wrong);
            note(&mut faults.state_examples, wrong, key);
        }
        faults
    }
}

fn note(examples: &mut Vec<String>, is_fault: bool, key: EntityKey) {
    if is_fault && examples.len() < EXAMPLES {
        examples.push(key.to_string());
    }
}

fn image(entity: Option<&Entity>) -> Image {
    let text = serde_json::to_vec(entity?).ok()?;
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::tests::{event, link, node};

    fn state(images: &[(u64, EntityKey, Option<Entity>)]) -> State {
        let images = images.iter();
        State {
            images: images
                .map(|(seq, key, image)| (*key, (*seq, image.clone())))
                .collect(),
        }
    }

    fn up(cost: u32) -> Option<Entity> {
        Some(link(1, 2, Some(cost)))
    }

    #[test]
    fn a_story_without_breaks_that_the_state_ends_is_whole_in_any_order() {
        let mut images = Images::default();
        for event in [
            event(3, up(8), None),
            event(1, None, up(7)),
            event(2, up(7), up(8)),
            event(2, up(7), up(8)),
            event(4, None, Some(node(1, "a"))),
        ] {
            images.take(&event);
        }
        let key = link(1, 2, None).key();
        let state = state(&[(3, key, None), (4, node(1, "a").key(), Some(node(1, "a")))]);
        let faults = images.finish(&state, 4);
        assert_eq!(
            faults,
            Faults {
                state_checked: 2,
                ..Faults::default()
            }
        );
    }

    #[test]
    fn a_step_that_is_missing_breaks_the_story_and_an_old_image_is_wrong() {
        let mut images = Images::default();
        images.take(&event(1, None, up(7)));
        images.take(&event(3, up(8), up(9)));
        images.take(&event(4, None, Some(node(1, "a"))));
        let key = link(1, 2, None).key();
        let faults = images.finish(&state(&[(1, key, up(7))]), 4);
        assert_eq!(
            (faults.broken, faults.state_checked, faults.state_wrong),
            (1, 2, 2)
        );
        assert_eq!(faults.broken_examples, [key.to_string()]);
        assert_eq!(faults.state_examples.len(), 2);
    }

    #[test]
    fn what_the_state_topic_does_not_stand_for_yet_is_not_compared() {
        let mut images = Images::default();
        images.take(&event(5, None, up(7)));
        images.take(&event(6, None, Some(node(1, "a"))));
        let newer = state(&[(9, node(1, "a").key(), None)]);
        let faults = images.finish(&newer, 4);
        assert_eq!(faults, Faults::default());
    }
}
