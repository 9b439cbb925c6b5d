//! Where datagrams go to and come from, whatever carries them.

use std::net::{IpAddr, SocketAddr};

use crate::{Carrier, NodeId};

/// The far end of a carrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// Plain datagrams to a UDP address; anybody may answer from there.
    Udp(SocketAddr),
    /// Inside the QUIC connection with this node, which has proved its identity.
    Quic(NodeId),
}

impl Endpoint {
    /// What carries datagrams there.
    pub const fn carrier(self) -> Carrier {
        match self {
            Self::Udp(address) => Carrier::of(address),
            Self::Quic(_) => Carrier::Quic,
        }
    }

    /// The IP address that answers for what comes from there; none where an identity does.
    pub const fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Udp(address) => Some(address.ip()),
            Self::Quic(_) => None,
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Udp(address)
    }
}
