//! Queues between the data threads of one node: what a worker does not send itself goes to the first one.
//!
//! Bounded, in order, without locks while nobody sleeps on them; nobody ever does, a bell announces what was put in.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use wattle_host::Wake;
use wattle_worker::Passed;

/// What may wait for the first worker: a packet each, or a super-packet of 64 KiB, so 32 MiB at most.
const TO_FIRST: usize = 512;
/// What may wait for each of the others: addresses and answers of a few bytes.
const TO_FURTHER: usize = 1_024;

/// One thread's place: what is put in for it, and the ways to the others.
#[derive(Debug)]
pub(crate) struct Place {
    own: Receiver<Passed>,
    others: Vec<Neighbour>,
}

#[derive(Debug)]
struct Neighbour {
    worker: u8,
    queue: SyncSender<Passed>,
    bell: Wake,
    /// Whether something was put in since the bell was rung.
    is_waited_for: bool,
}

/// The places of as many threads as there are bells, the first worker's first.
pub(crate) fn places(bells: &[Wake]) -> Vec<Place> {
    let Some((first_bell, further)) = bells.split_first() else {
        return Vec::new();
    };
    let neighbour = |worker, queue: &SyncSender<Passed>, bell: &Wake| Neighbour {
        worker,
        queue: queue.clone(),
        bell: bell.clone(),
        is_waited_for: false,
    };
    let (to_first, own) = sync_channel(TO_FIRST);
    let mut first = Place {
        own,
        others: Vec::new(),
    };
    let mut places = Vec::new();
    for (worker, bell) in (1..).zip(further) {
        let (to_it, own) = sync_channel(TO_FURTHER);
        first.others.push(neighbour(worker, &to_it, bell));
        places.push(Place {
            own,
            others: vec![neighbour(0, &to_first, first_bell)],
        });
    }
    places.insert(0, first);
    places
}

impl Place {
    /// Takes the oldest thing that was put in.
    pub(crate) fn take(&self) -> Option<Passed> {
        self.own.try_recv().ok()
    }

    /// Puts something in for another worker; gives it back if there is no room.
    pub(crate) fn put(&mut self, worker: u8, passed: Passed) -> Result<(), Passed> {
        let found = self.others.iter_mut().find(|other| other.worker == worker);
        let Some(other) = found else {
            return Err(passed);
        };
        other.is_waited_for = true;
        other
            .queue
            .try_send(passed)
            .map_err(|refused| match refused {
                TrySendError::Full(passed) | TrySendError::Disconnected(passed) => passed,
            })
    }

    /// Rings for what was put in.
    pub(crate) fn ring(&mut self) {
        for other in &mut self.others {
            if std::mem::take(&mut other.is_waited_for) {
                other.bell.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use wattle_model::NodeId;

    use super::*;

    fn carried(peer: u64) -> Passed {
        Passed::Carried { peer: NodeId(peer) }
    }

    #[test]
    fn what_others_put_in_comes_out_in_order_and_what_finds_no_room_comes_back() {
        let bells: Vec<Wake> = (0..3).map(|_| Wake::new().unwrap()).collect();
        let mut places = places(&bells);
        for number in 0..TO_FIRST as u64 {
            let from = 1 + number as usize % 2;
            assert_eq!(places[from].put(0, carried(number)), Ok(()));
        }
        assert_eq!(places[2].put(0, carried(7)), Err(carried(7)));
        for number in 0..TO_FIRST as u64 {
            assert_eq!(places[0].take(), Some(carried(number)));
        }
        assert_eq!(places[0].take(), None);
        assert_eq!(
            places[1].put(2, carried(1)),
            Err(carried(1)),
            "only by way of the first"
        );
        assert_eq!(places[0].put(2, carried(1)), Ok(()));
        assert_eq!(
            (places[1].take(), places[2].take()),
            (None, Some(carried(1)))
        );
    }
}
