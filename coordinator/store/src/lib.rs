//! The coordinator's database: state and outbox in one transaction (`docs/protocol/topology.md` §3).
//!
//! Promises: an event's `seq` is dense and never given twice; an event is in the outbox exactly if the state has its
//! effect; a token is used once; a coordinator whose term is over writes nothing. Kept through `kill -9` and power
//! failure. Does not know what members, records and entities mean (`wattle_fleet` does), nor who asks.
//!
//! SQLite in WAL mode with one writer. `synchronous = FULL`: with NORMAL a power failure could take back the last
//! commits, and numbers that Kafka has seen would be given to other events. One commit is one fsync, so callers put as
//! much into a [`Change`] as they have.

mod change;
mod loss;
mod notices;
mod open;
mod outbox;
mod state;
mod tokens;

pub use change::{Change, Claim, Committed};
pub use loss::Loss;
pub use notices::{Notice, NoticeKind};
pub use open::{Store, StoreError, give_to_owner_of};
pub use outbox::{Image, OutboxRow};
pub use state::State;
pub use tokens::{TokenFound, Tokens};
