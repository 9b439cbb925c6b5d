//! What happens to inner packets between the TUN device and the cipher: looked at, looked up, cut, joined, counted.
//!
//! Pure: buffers in, buffers out. Knows nothing of sessions, links, sockets or clocks, and never fails on a
//! stranger's bytes: what cannot be used has a [`DropReason`].

pub mod batch;
pub mod checksum;
pub mod coalesce;
pub mod drop;
pub mod fib;
pub mod flow;
pub mod forwarding;
pub mod guard;
pub mod icmp;
pub mod marking;
pub mod mss;
pub mod onward;
pub mod packet;
pub mod queue;
pub mod segment;
pub mod vnet;
pub mod window;

pub use batch::{AppendError, Coalescing, Datagrams, Place, Transmit, TunBatch, TxBatch};
pub use drop::{DropReason, Drops, Origin};
pub use forwarding::{Backup, Forwarding, NextLink, Path};
pub use guard::Ownership;
pub use marking::{Marking, Priority};
pub use onward::{Candidate, Choice, Past};
pub use packet::Packet;
pub use queue::{MAX_BYTES as QUEUE_BYTES, Queue};
pub use vnet::VnetHeader;
pub use window::SendWindow;
