//! Who judges the signatures of records. An agent does so itself; a simulation of many nodes, in which each of them would judge
//! the same signature once more, may remember what was judged.

use std::sync::Arc;

use wattle_model::NetworkId;
use wattle_wire::key::PublicKey;
use wattle_wire::record::Record;

use crate::lsdb::Told;

/// Judges signatures.
pub trait Verifier: Send + Sync {
    /// Whether `signer` signed this record for this network.
    fn is_signed(&mut self, record: &Record, network: NetworkId, signer: &PublicKey) -> bool;

    /// Holds on to what was told and believed; what many nodes believe may be held once.
    fn hold(&mut self, told: Told) -> Arc<Told> {
        Arc::new(told)
    }
}

/// Judges every signature anew.
#[derive(Debug, Clone, Copy, Default)]
pub struct EachTime;

impl Verifier for EachTime {
    fn is_signed(&mut self, record: &Record, network: NetworkId, signer: &PublicKey) -> bool {
        record.verify(network, signer).is_ok()
    }
}
