//! What the fleet knows of records: each signature is judged once, by whoever meets it first, and the others take the verdict;
//! and what a record says is held once.
//!
//! A thousand nodes would else judge three million signatures for a thousand nodes' records, and hold three million records.
//! Every bit of a record counts, so a forged one is judged for itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use wattle_model::NetworkId;
use wattle_routing::lsdb::Told;
use wattle_routing::{EachTime, Verifier};
use wattle_wire::key::PublicKey;
use wattle_wire::record::{Record, RecordKey};

/// Verdicts, shared by all nodes of a fleet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verdicts(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    verdicts: HashMap<Case, bool>,
    /// The newest record of every key.
    told: HashMap<RecordKey, Arc<Told>>,
}

/// The bytes of a record, and who is said to have signed it, for which network.
type Case = (Box<[u8]>, [u8; 32], NetworkId);

impl Verifier for Verdicts {
    fn is_signed(&mut self, record: &Record, network: NetworkId, signer: &PublicKey) -> bool {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let case = (record.bytes().into(), *signer.as_bytes(), network);
        if let Some(verdict) = known().verdicts.get(&case) {
            return *verdict;
        }
        let verdict = EachTime.is_signed(record, network, signer);
        known().verdicts.insert(case, verdict);
        verdict
    }

    fn hold(&mut self, told: Told) -> Arc<Told> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = Arc::new(told);
        let newest = known.told.entry(told.record.key());
        let newest = newest.or_insert_with(|| Arc::clone(&told));
        if newest.record.seq() < told.record.seq() {
            *newest = Arc::clone(&told);
        }
        match *newest == told {
            true => Arc::clone(newest),
            false => told,
        }
    }
}
