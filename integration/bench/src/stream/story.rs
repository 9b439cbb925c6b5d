//! The made-up changes: links of many nodes in some sites that come, change and go. Which change has which number is
//! fixed, so a writer that was killed goes on with the same story.

use wattle_api::topology::{Cause, Entity, LinkEntity, NodeEntity};
use wattle_fleet::{Difference, Evidence};
use wattle_model::{Carrier, NodeId, NodeIndex, NodeName};

use crate::now_us;

/// A link comes, changes, and goes at the last of so many turns.
const TURNS: u64 = 8;

const LAST: u64 = TURNS - 1;

/// How large the network is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Story {
    pub(crate) nodes: u64,
    pub(crate) sites: u64,
    /// Links of each node.
    pub(crate) degree: u64,
}

impl Story {
    /// Change number `seq`, from 1: first all nodes, then links round and round. `record_seq` of the source is the time
    /// in microseconds at which it was made up, for whoever measures how long it was on its way.
    pub(crate) fn change(&self, seq: u64) -> Difference {
        let (node, round) = match seq.checked_sub(self.nodes + 1) {
            None => return self.node(seq - 1),
            Some(number) => {
                let round = number / self.nodes;
                (number % self.nodes, round)
            }
        };
        let to = (node + round % self.degree + 1) % self.nodes;
        let turn = round / self.degree;
        let image = |turn: u64, seq: u64| match turn % TURNS {
            0 => Some(self.link(node, to, 100, seq)),
            LAST => None,
            _ => Some(self.link(node, to, 200 + turn as u32, seq)),
        };
        let last = turn.checked_sub(1);
        let before = last.and_then(|last| image(last, seq - self.nodes * self.degree));
        let cause = match turn % TURNS {
            0 => Cause::LinkReported,
            LAST => Cause::LinkWithdrawn,
            _ => Cause::LinkMeasured,
        };
        let after = image(turn, seq);
        self.difference(node, before, after, cause)
    }

    fn node(&self, node: u64) -> Difference {
        let image = Entity::Node(NodeEntity {
            id: NodeId(node + 1),
            name: name(node),
            index: NodeIndex(node as u16),
            addresses: vec![std::net::Ipv4Addr::from(0x0a40_0000 + node as u32).into()],
            tags: vec![],
            site: Some(self.site(node)),
            leaf_of: None,
            reporting: true,
            agent_version: Some("0.1.0".into()),
            epoch: Some(1),
            transit_cost_us: Some(0),
        });
        self.difference(node, None, Some(image), Cause::MemberAdded)
    }

    fn link(&self, from: u64, to: u64, cost: u32, seq: u64) -> Entity {
        Entity::Link(LinkEntity {
            from: NodeId(from + 1),
            to: NodeId(to + 1),
            from_name: Some(name(from)),
            to_name: Some(name(to)),
            carrier: Carrier::Udp4,
            confirmed: true,
            tier: 0,
            cost_us: Some(cost),
            rtt_us: 1_000 + seq % 9_000,
            jitter_us: 10 + seq % 90,
            loss_ppm: 0,
        })
    }

    fn difference(
        &self,
        node: u64,
        before: Option<Entity>,
        after: Option<Entity>,
        cause: Cause,
    ) -> Difference {
        let entity = after.as_ref().or(before.as_ref());
        Difference {
            key: entity.expect("a change has an image").key(),
            before,
            after,
            cause,
            evidence: Evidence {
                reporter: Some(NodeId(node + 1)),
                record_seq: Some(now_us()),
                ..Evidence::default()
            },
            site: Some(self.site(node)),
        }
    }

    fn site(&self, node: u64) -> NodeName {
        parsed(&format!("site{}", node % self.sites))
    }
}

fn name(node: u64) -> NodeName {
    parsed(&format!("n{node}"))
}

fn parsed(text: &str) -> NodeName {
    text.parse().expect("letters and digits are a name")
}
