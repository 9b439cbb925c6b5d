//! The QUIC carrier: what a UDP socket does for plain datagrams, for networks that let only QUIC pass.
//!
//! A pipe for datagrams between nodes that prove their identity keys to each other (`docs/protocol/quic.md`). It keeps
//! one connection with every neighbour; which datagram goes where, what it means and whether the way is any good is
//! not known here. The [`Pipe`] belongs to the data thread, the [`Handle`] to the engine, the endpoint to a thread of its
//! own.

mod backlog;
mod carrier;
mod connection;
mod contact;
mod identity;
mod pieces;
mod pipe;
mod socket;

pub use carrier::{DEFAULT_PORT, Handle, Neighbour, Options, QuicError, start};
pub use identity::IdentityError;
pub use pieces::{PIECE_HEADER, PIECE_TYPE};
pub use pipe::{Counters, Incoming, Pipe};
