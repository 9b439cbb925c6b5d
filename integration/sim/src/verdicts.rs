//! What the fleet knows of signatures: each is judged once, by whoever meets it first, and the others take the verdict.
//!
//! A thousand nodes would else judge three million signatures for a thousand nodes' records. Every bit of a record counts, so
//! a forged one is judged for itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use wattle_model::NetworkId;
use wattle_routing::{EachTime, Verifier};
use wattle_wire::key::PublicKey;
use wattle_wire::record::Record;

/// Verdicts, shared by all nodes of a fleet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verdicts(Arc<Mutex<HashMap<Case, bool>>>);

/// The bytes of a record, and who is said to have signed it, for which network.
type Case = (Box<[u8]>, [u8; 32], NetworkId);

impl Verifier for Verdicts {
    fn is_signed(&mut self, record: &Record, network: NetworkId, signer: &PublicKey) -> bool {
        let mut verdicts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let case = (record.bytes().into(), *signer.as_bytes(), network);
        *verdicts
            .entry(case)
            .or_insert_with(|| EachTime.is_signed(record, network, signer))
    }
}
