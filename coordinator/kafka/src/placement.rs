//! Which brokers hold the copies of a partition: in as many racks as there are copies, led where it is wanted, and moved
//! as little as that allows.

use std::collections::{BTreeMap, BTreeSet};

/// The racks of brokers, by their numbers.
pub(crate) type Racks = BTreeMap<i32, Option<String>>;

/// Where a partition's copies belong.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// Which partition; spreads leaders over the brokers.
    pub(crate) partition: i32,
    /// How many copies.
    pub(crate) copies: usize,
    /// Where the first of them should be.
    pub(crate) leader: Option<&'a str>,
}

impl Place<'_> {
    /// The brokers to hold the copies, the leader first; none if there are too few brokers, or none in the leader's rack.
    pub(crate) fn find(self, racks: &Racks, current: &[i32]) -> Option<Vec<i32>> {
        if self.copies > racks.len() || self.copies == 0 {
            return None;
        }
        if self.fits(racks, current) {
            return Some(current.to_vec());
        }
        let mut chosen = vec![self.choose_leader(racks, current)?];
        while chosen.len() < self.copies {
            chosen.push(self.choose_next(racks, current, &chosen)?);
        }
        Some(chosen)
    }

    /// Whether the copies are where they belong.
    pub(crate) fn fits(self, racks: &Racks, current: &[i32]) -> bool {
        let alive = current.iter().all(|broker| racks.contains_key(broker));
        let leader = self.leader.is_none_or(|rack| {
            current
                .first()
                .is_some_and(|first| in_rack(racks, *first, rack))
        });
        let used: BTreeSet<&str> = current
            .iter()
            .filter_map(|broker| rack_of(racks, *broker))
            .collect();
        alive && leader && current.len() == self.copies && used.len() >= self.spread(racks)
    }

    /// In how many racks the copies can be.
    fn spread(self, racks: &Racks) -> usize {
        let all: BTreeSet<&str> = racks
            .keys()
            .filter_map(|broker| rack_of(racks, *broker))
            .collect();
        // Where a broker has no rack, racks say nothing.
        if racks.values().any(Option::is_none) {
            return 0;
        }
        all.len().min(self.copies)
    }

    fn choose_leader(self, racks: &Racks, current: &[i32]) -> Option<i32> {
        let fits = |broker: &i32| {
            racks.contains_key(broker)
                && self.leader.is_none_or(|rack| in_rack(racks, *broker, rack))
        };
        let here = current.iter().copied().find(fits);
        here.or_else(|| {
            turn(
                racks.keys().copied().filter(|broker| fits(broker)),
                self.partition,
            )
        })
    }

    /// The next copy: in a rack without one if there is such a rack, where there is a copy already if possible.
    fn choose_next(self, racks: &Racks, current: &[i32], chosen: &[i32]) -> Option<i32> {
        let used: BTreeSet<&str> = chosen
            .iter()
            .filter_map(|broker| rack_of(racks, *broker))
            .collect();
        let free = |broker: &i32| racks.contains_key(broker) && !chosen.contains(broker);
        let apart = |broker: &i32| {
            free(broker) && rack_of(racks, *broker).is_none_or(|rack| !used.contains(rack))
        };
        let at = self.partition.wrapping_add(chosen.len() as i32);
        current
            .iter()
            .copied()
            .find(apart)
            .or_else(|| turn(racks.keys().copied().filter(apart), at))
            .or_else(|| current.iter().copied().find(free))
            .or_else(|| turn(racks.keys().copied().filter(free), at))
    }
}

/// The one whose turn it is.
fn turn(brokers: impl Iterator<Item = i32>, at: i32) -> Option<i32> {
    let brokers: Vec<i32> = brokers.collect();
    let count = i32::try_from(brokers.len())
        .ok()
        .filter(|count| *count > 0)?;
    brokers.get(at.rem_euclid(count) as usize).copied()
}

fn rack_of(racks: &Racks, broker: i32) -> Option<&str> {
    racks.get(&broker)?.as_deref()
}

fn in_rack(racks: &Racks, broker: i32, rack: &str) -> bool {
    rack_of(racks, broker) == Some(rack)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn racks(names: &[&str]) -> Racks {
        let named = names
            .iter()
            .map(|name| (!name.is_empty()).then(|| (*name).to_owned()));
        (1..).zip(named).collect()
    }

    fn place(partition: i32, copies: usize, leader: Option<&str>) -> Place<'_> {
        Place {
            partition,
            copies,
            leader,
        }
    }

    #[test]
    fn copies_are_in_different_racks_and_leaders_take_turns() {
        let racks = racks(&["a", "a", "b", "b", "c"]);
        let mut leaders = BTreeSet::new();
        for partition in 0..10 {
            let found = place(partition, 3, None).find(&racks, &[]).unwrap();
            let used: BTreeSet<_> = found
                .iter()
                .map(|broker| rack_of(&racks, *broker))
                .collect();
            assert_eq!(used.len(), 3, "{found:?}");
            leaders.insert(found[0]);
        }
        assert_eq!(leaders.len(), 5);
    }

    #[test]
    fn what_is_in_place_stays() {
        let racks = racks(&["a", "a", "b", "c"]);
        for current in [[2, 3, 4], [4, 2, 3]] {
            assert_eq!(
                place(0, 3, None).find(&racks, &current),
                Some(current.into())
            );
        }
        // One copy too many in rack a: only that one moves.
        assert_eq!(
            place(0, 3, None).find(&racks, &[1, 2, 3]),
            Some(vec![1, 3, 4])
        );
        // The leader's rack has a copy already: nothing moves, another leads.
        assert_eq!(
            place(0, 3, Some("c")).find(&racks, &[1, 3, 4]),
            Some(vec![4, 1, 3])
        );
    }

    #[test]
    fn what_cannot_be_is_told() {
        let racks = racks(&["a", "b"]);
        assert_eq!(place(0, 3, None).find(&racks, &[]), None);
        assert_eq!(place(0, 2, Some("z")).find(&racks, &[]), None);
    }

    #[test]
    fn without_racks_any_brokers_will_do() {
        let racks = racks(&["", "", ""]);
        assert_eq!(place(1, 2, None).find(&racks, &[]), Some(vec![2, 1]));
        assert!(place(1, 2, None).fits(&racks, &[3, 1]));
    }
}
