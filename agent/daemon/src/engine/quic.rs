//! With whom the QUIC carrier is to have connections, and where those may be dialled.
//!
//! Hosts are those of the peer set's candidates and those at which plain datagrams are heard; the port is what the node
//! says in its record, or the usual one as long as nothing was heard of it (`docs/protocol/quic.md` §3).

use std::net::{IpAddr, SocketAddr};

use wattle_model::{Carrier, NodeId};
use wattle_quic::Neighbour;
use wattle_wire::record::Body;

use super::Engine;

impl Engine {
    /// Tells the QUIC carrier its neighbours.
    pub(super) fn quic_neighbours(&self) {
        self.setting.quic.set_neighbours(|| {
            let peers = self.membership().worker_peers(self.clock.wall());
            let adjacent = peers.peers.iter().filter(|peer| peer.adjacent);
            let neighbours = adjacent.filter_map(|peer| {
                let identity = self.membership().grant(peer.id)?.identity()?;
                let candidates = peer.candidates.iter().map(SocketAddr::ip);
                let heard = [Carrier::Udp4, Carrier::Udp6]
                    .into_iter()
                    .filter_map(|carrier| self.heard_at.get(&(peer.id, carrier)).copied());
                Some(Neighbour {
                    identity,
                    addresses: self.quic_addresses(peer.id, candidates.chain(heard)),
                })
            });
            neighbours.collect()
        });
    }

    /// Notes where a peer is heard; a host that is in no peer set may be the only one that leads there.
    pub(super) fn heard(&mut self, peer: NodeId, carrier: Carrier, endpoint: Option<SocketAddr>) {
        let plain = endpoint.filter(|_| carrier != Carrier::Quic);
        if let Some(ip) = plain.map(|endpoint| endpoint.ip())
            && self.heard_at.insert((peer, carrier), ip) != Some(ip)
        {
            self.quic_neighbours();
        }
    }

    fn quic_addresses(&self, node: NodeId, hosts: impl Iterator<Item = IpAddr>) -> Vec<SocketAddr> {
        let said = self.router.database().of(node);
        let said = said.into_iter().find_map(|(_, entry)| match entry.body() {
            Body::Node(body) => Some(body.quic_port),
            Body::Links(_) | Body::Prefixes(_) | Body::Removal(_) => None,
        });
        let Some(port) = said.unwrap_or(Some(wattle_quic::DEFAULT_PORT)) else {
            return Vec::new();
        };
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for host in hosts {
            let address = SocketAddr::new(host, port);
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }
}
