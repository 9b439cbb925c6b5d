//! Ids and units that every room shares. No logic beyond parsing, printing and arithmetic rules.
//!
//! Knows nothing of sockets, clocks or files. The words are those of `docs/protocol/glossary.md`.

mod checksum;
mod class;
mod cost;
mod endpoint;
mod id;
mod link;
mod mix;
mod name;
mod prefix;
mod time;
pub mod waypoint;

pub use checksum::Checksum;
pub use class::{ApartCosts, Class, UnknownClass};
pub use cost::{Cost, Micros, Ppm};
pub use endpoint::Endpoint;
pub use id::{
    Carrier, LinkId, NetworkId, NodeId, NodeIndex, ParseIdError, SeqNo, UnknownCarrier, WgKey,
};
pub use link::{LinkState, Measurement};
pub use mix::mix;
pub use name::{NameError, NodeName};
pub use prefix::{Prefix, PrefixError};
pub use time::{Instant, UnixTime};
pub use waypoint::{MAX_DETOURS, MAX_WAYPOINTS, Waypoint};
