//! The life of a packet: one data worker without its thread or sockets.
//!
//! Composes `link`, `tunnel` and `dataplane`. Follow a packet through `outbound`, `relay`, `inbound`.
//! Batches in, batches out; the shell owns descriptors and the clock:
//!
//! ```text
//! loop { wait for TUN, UDP, command or poll_timeout();  handle_*(now, …, &mut tx, &mut tun);
//!        send tx; write tun; clear both;  while let Some(event) = poll_event() { … } }
//! ```

mod channel;
mod config;
mod egress;
mod event;
mod handshake;
mod inbound;
mod ledger;
mod membership;
mod mss;
mod neighbour;
mod outbound;
mod path;
mod path_mtu;
mod peer;
mod random;
mod relay;
mod run;
mod table;
mod ways;
mod worker;

pub use config::{Clamp, Command, Config, PeerEntry, Peers, Transit};
pub use event::{Counters, Dropped, Event, LinkStatus, SessionStatus, Status};
pub use wattle_tunnel::{CipherCosts, CipherKind};
pub use worker::Worker;
