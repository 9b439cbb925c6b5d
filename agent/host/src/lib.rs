//! Everything the kernel sees: the TUN device, UDP sockets, netlink, clocks, waiting.
//!
//! The only room with `unsafe`, each block naming the kernel contract it stands on. It takes no decisions:
//! which address, which route, which peer is said by its callers, and what it cannot do it reports or counts.

mod clock;
mod interfaces;
mod kernel_drops;
mod poll;
mod routes;
mod steering;
mod tun;
mod udp;
mod wake;

pub use clock::Clock;
pub use interfaces::{InterfaceAddress, Monitor, interface_name};
pub use kernel_drops::{InterfaceDrops, interface_drops};
pub use poll::{Ready, Sources, wait};
pub use routes::{Installed, MARK, Netlink, NetlinkError, PROTOCOL, TABLE, Wanted};
pub use steering::Steering;
pub use tun::{Offload, Queues, Tun, TunCounters, TunError};
pub use udp::{Family, RecvBatch, UdpCounters, UdpError, UdpOptions, UdpSockets, bind_both};
pub use wake::Wake;
