//! The coordinator's decisions: who is a member with which addresses, what each node is told of the others, and what
//! the link-state database means as a topology. Pure: time is handed in, nothing is sent or stored here.
//!
//! `membership` admits and removes, `neighbours` chooses who has links with whom in a large network, `peer_set` tells
//! what changed between two revisions, `replica` holds the flooded records, `topology` turns them into ordered
//! differences that the store numbers and keeps, `alerts` says which of those somebody should know of.

pub mod alerts;
pub mod difference;
pub mod membership;
pub mod neighbours;
pub mod peer_set;
pub mod replica;
pub mod topology;

pub use alerts::{Alerts, MirrorHealth};
pub use difference::{Difference, Evidence, Stamp};
pub use membership::{Applicant, Member, Membership, Refusal};
pub use topology::{Ingest, Topology};
pub use wattle_api::plan::AddressPlan;
