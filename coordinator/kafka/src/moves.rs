//! Where the copies of a topic's partitions belong, and which of them have to move.

use std::collections::{BTreeMap, BTreeSet};

use crate::item::Difference;
use crate::observed::{Observed, ObservedTopic};
use crate::placement::Place;
use crate::wanted::WantedTopic;

impl WantedTopic {
    /// Why the cluster cannot have such a topic.
    pub(crate) fn cannot_be_in(&self, observed: &Observed) -> Option<String> {
        if self.is_tiered() && !observed.tiered {
            return Some(
                "the brokers have no remote storage: set remote.log.storage.system.enable and a plugin (wattle kafka render does)"
                    .to_owned(),
            );
        }
        let copies = usize::from(self.replication.unwrap_or(0));
        if copies > observed.brokers.len() {
            let brokers = observed.brokers.len();
            return Some(format!(
                "{copies} copies need as many brokers, and there are {brokers}"
            ));
        }
        let known = |rack: &&String| {
            observed
                .brokers
                .values()
                .any(|found| found.as_ref() == Some(*rack))
        };
        let stranger = self.leaders.values().find(|rack| !known(rack))?;
        Some(format!(
            "no broker is in rack {stranger}, which desired.leaders names"
        ))
    }

    /// The brokers of each partition; none if the number of copies is the cluster's to choose.
    pub(crate) fn replicas(&self, observed: &Observed) -> Option<Vec<Vec<i32>>> {
        let copies = usize::from(self.replication?);
        let partitions = 0..i32::try_from(self.partitions).ok()?;
        partitions
            .map(|at| self.place(at, copies).find(&observed.brokers, &[]))
            .collect()
    }

    fn place(&self, partition: i32, copies: usize) -> Place<'_> {
        let leader = self.leaders.get(&partition).map(String::as_str);
        Place {
            partition,
            copies,
            leader,
        }
    }
}

/// What has to move in a topic.
#[derive(Default)]
pub(crate) struct Moves {
    pub(crate) fewer: BTreeMap<i32, Vec<i32>>,
    pub(crate) fewer_differences: Vec<Difference>,
    pub(crate) other: BTreeMap<i32, Vec<i32>>,
    pub(crate) other_differences: Vec<Difference>,
    pub(crate) elect: Vec<i32>,
    pub(crate) elect_differences: Vec<Difference>,
    pub(crate) impossible: Option<(Difference, String)>,
    /// Brokers with copies that do not answer; they may come back, so nothing is moved away from them.
    pub(crate) away: BTreeSet<i32>,
}

impl Moves {
    pub(crate) fn between(
        found: &ObservedTopic,
        wanted: &WantedTopic,
        observed: &Observed,
    ) -> Self {
        let mut moves = Self::default();
        for (at, partition) in (0..).zip(&found.partitions) {
            let is_away = |broker: &&i32| !observed.brokers.contains_key(*broker);
            let away: Vec<i32> = partition.replicas.iter().filter(is_away).copied().collect();
            if !away.is_empty() {
                moves.away.extend(away);
                continue;
            }
            let has = partition.replicas.len();
            let copies = wanted.replication.map_or(has, usize::from);
            let place = wanted.place(at, copies);
            let field = format!("copies of partition {at}");
            let told = Some(list(&partition.replicas));
            let Some(replicas) = place.find(&observed.brokers, &partition.replicas) else {
                let difference = Difference::new(&field, told, Some(format!("{copies} copies")));
                let why = wanted.cannot_be_in(observed);
                let why = why.unwrap_or_else(|| "too few brokers are alive".to_owned());
                moves.impossible.get_or_insert((difference, why));
                continue;
            };
            if replicas != partition.replicas {
                let difference = Difference::new(&field, told, Some(list(&replicas)));
                let (all, differences) = if copies < has {
                    (&mut moves.fewer, &mut moves.fewer_differences)
                } else {
                    (&mut moves.other, &mut moves.other_differences)
                };
                all.insert(at, replicas);
                differences.push(difference);
            } else if place.leader.is_some() && partition.leader != replicas[0] {
                moves.elect.push(at);
                let (is, should) = (partition.leader.to_string(), replicas[0].to_string());
                let field = format!("leader of partition {at}");
                moves
                    .elect_differences
                    .push(Difference::new(&field, Some(is), Some(should)));
            }
        }
        moves
    }
}

fn list(brokers: &[i32]) -> String {
    let texts: Vec<String> = brokers.iter().map(ToString::to_string).collect();
    texts.join(",")
}
