//! Every byte format that Wattle speaks: relay frames, messages between neighbours, signed records,
//! grants and peer sets. Each has a parser that never panics and an encoder; nothing here decides.
//!
//! The formats are specified in `docs/protocol`; all numbers are big-endian.

mod codec;
pub mod control;
pub mod flood;
pub mod frame;
pub mod grant;
pub mod key;
pub mod probe;
pub mod record;

pub use codec::DecodeError;
