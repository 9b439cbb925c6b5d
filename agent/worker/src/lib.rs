//! The life of a packet: one data worker without its thread or sockets.
//!
//! Composes `link`, `tunnel` and `dataplane`. Follow a packet through `outbound`, `relay`, `inbound`.
//! A node has one or more; the first has the links, the others have `lanes` and hand it what does not go over them.
//! Batches in, batches out; the shell owns descriptors and the clock:
//!
//! ```text
//! loop { wait for TUN, UDP, command or poll_timeout();  handle_*(now, …, &mut tx, &mut tun);
//!        send tx; write tun; clear both;  while let Some(event) = poll_event() { … } }
//! ```

mod barrier;
mod channel;
mod config;
mod egress;
mod event;
mod flowlets;
mod further;
mod handover;
mod handshake;
mod inbound;
mod lane;
mod lanes;
mod leaf;
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

pub use config::{Clamp, Command, Config, PeerEntry, Peers, Place, Transit};
pub use event::{Counters, Dropped, Event, LaneStatus, LinkStatus, SessionStatus, Status};
pub use handover::Passed;
pub use wattle_tunnel::{CipherCosts, CipherKind};
pub use worker::Worker;
