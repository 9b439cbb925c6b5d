//! A fleet that has been running: links up and measured, every database whole.
//!
//! A thousand nodes that start at once tell each other three million records, which takes longer than all that one wants to
//! see of them afterwards. Here the links come up by themselves, then every router is made with the word of all others in
//! its database. Nothing else is skipped: signatures are judged, routes are computed.

use rand_core::RngCore as _;
use wattle_link::Input as LinkInput;
use wattle_model::{Instant, LinkId, Micros, NodeId};
use wattle_routing::{Input, Router};
use wattle_wire::control::Control;
use wattle_wire::flood::{Flood, RecordId};
use wattle_wire::record::Record;

use crate::cores;
use crate::fleet::{Fleet, NodeNumber};

/// Prices of fresh links settle in the first minute.
const LINKING: Micros = Micros::from_secs(60);
/// How long a router has had its links when its fleet begins: all are told of by then.
const TELLING: Micros = Micros::from_secs(1);

impl Fleet {
    /// Starts all nodes as if they had run for a minute and nothing happened: databases agree.
    pub fn start_in_sync(&mut self) {
        self.only_links = true;
        self.start_all();
        self.run(LINKING);
        self.only_links = false;
        let seeds = (0..self.nodes.len()).map(|_| self.rng.next_u64());
        let numbered: Vec<_> = (0..)
            .map(NodeNumber)
            .zip(seeds.collect::<Vec<_>>())
            .collect();
        let alone = Word::default();
        let words = cores::map(numbered.clone(), |(number, seed)| {
            own_records(&self.linked(number, seed, &alone))
        });
        let word = Word::of(words.into_iter().flatten());
        let routers = cores::map(numbered, |(number, seed)| {
            (number, self.linked(number, seed, &word))
        });
        for (number, router) in routers {
            if let Some(process) = &mut self.nodes[number.0].process {
                let local = self.now + process.offset;
                let fingerprint = LinkInput::Fingerprint(router.database().fingerprint());
                for link in process.links.values_mut() {
                    link.handle(fingerprint, local);
                }
                process.router = router;
            }
            self.drain(number);
        }
    }

    /// The router of a node that has had all its links for a while and got everybody's word before that.
    fn linked(&self, number: NodeNumber, seed: u64, word: &Word) -> Router {
        let Some(process) = &self.nodes[number.0].process else {
            unreachable!("all nodes were started")
        };
        let local = self.now + process.offset;
        let begin = local - TELLING;
        let mut router = self.router_of(number, seed, begin);
        router.handle_all(word.without(router.node()), begin);
        let mut heard = Vec::new();
        let mut acknowledged = Vec::new();
        for (edge, link) in &process.links {
            let (neighbour, carrier) = self.far_end(number, *edge);
            acknowledged.push(neighbour);
            heard.push(Input::Fingerprint {
                from: neighbour,
                fingerprint: word.fingerprint,
            });
            heard.push(Input::Link {
                link: LinkId(edge.0 as u32),
                neighbour,
                carrier,
                state: link.state(),
                measurement: link.measurement().unwrap_or_default(),
            });
        }
        router.handle_all(heard, begin);
        router.handle_timeout(local);
        acknowledge(&mut router, acknowledged, local);
        while router.poll_output().is_some() {}
        router
    }
}

/// The neighbours have what the router told them.
fn acknowledge(router: &mut Router, neighbours: Vec<NodeId>, local: Instant) {
    let ids: Vec<RecordId> = own_records(router).iter().map(RecordId::from).collect();
    let payload = Control::Flood(Flood::Ack(ids)).to_bytes();
    let acknowledgements = neighbours.into_iter().map(|from| Input::Message {
        from,
        payload: payload.clone(),
    });
    router.handle_all(acknowledgements, local);
}

fn own_records(router: &Router) -> Vec<Record> {
    let own = router.database().of(router.node());
    own.map(|(_, entry)| entry.record().clone()).collect()
}

/// What all nodes say.
#[derive(Default)]
struct Word {
    records: Vec<Record>,
    fingerprint: u64,
}

impl Word {
    fn of(records: impl Iterator<Item = Record>) -> Self {
        let records: Vec<_> = records.collect();
        let each = records
            .iter()
            .map(|record| RecordId::from(record).fingerprint());
        Self {
            fingerprint: each.fold(0, |all, one| all ^ one),
            records,
        }
    }

    /// For a router that has no neighbour yet: it takes signed records from elsewhere, too, and tells nobody.
    fn without(&self, node: NodeId) -> impl Iterator<Item = Input> + '_ {
        let others = self
            .records
            .iter()
            .filter(move |record| record.origin() != node);
        others.map(|record| Input::Removal(record.bytes().to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle;

    #[test]
    fn a_fleet_that_begins_in_sync_has_nothing_to_tell_and_keeps_every_promise() {
        let mut fleet = Fleet::sparse(1, 40, |_| Micros::from_millis(5));
        fleet.start_in_sync();
        assert_eq!(oracle::check(&fleet), Ok(()));
        fleet.run(Micros::from_secs(60));
        assert_eq!(fleet.flooded.datagrams, 0);
        fleet.network.edges[3].cut = [true, true];
        fleet.run(Micros::from_secs(10));
        assert_eq!(oracle::check(&fleet), Ok(()));
        fleet.network.edges[3].cut = [false, false];
        fleet.run(Micros::from_secs(20));
        assert_eq!(oracle::check(&fleet), Ok(()));
    }
}
