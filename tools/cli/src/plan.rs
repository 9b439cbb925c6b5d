//! `nodes.toml`: the nodes of a network without a coordinator, checked as a whole before anything is made.
//!
//! Every complaint names file, line and column. Makes no keys and writes nothing. Reference: `docs/reference/nodes.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use wattle_agent::config::{Config, ConfigError};
use wattle_api::plan::{AddressPlan, Family, is_usable};
use wattle_api::settings;
use wattle_model::{NetworkId, NodeIndex, NodeName, Prefix, WgKey};

/// A network as planned.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    /// The network.
    pub(crate) network: NetworkPlan,
    /// Its nodes; the position decides the index.
    #[serde(default, rename = "node")]
    pub(crate) nodes: Vec<NodePlan>,
    /// Its stock WireGuard devices.
    #[serde(default, rename = "leaf")]
    pub(crate) leaves: Vec<LeafPlan>,
}

/// `[network]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetworkPlan {
    /// Its name.
    pub(crate) name: NodeName,
    #[serde(default)]
    ipv4: Option<Spanned<Prefix>>,
    #[serde(default)]
    ipv6: Option<Spanned<Prefix>>,
}

/// `[[node]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodePlan {
    /// Its name.
    pub(crate) name: Spanned<NodeName>,
    /// Its addresses, instead of the plan's.
    #[serde(default)]
    addresses: Vec<Spanned<IpAddr>>,
    /// Where others dial it.
    #[serde(default)]
    endpoints: Vec<Spanned<SocketAddr>>,
    /// The port it listens on.
    #[serde(default)]
    pub(crate) listen_port: Option<u16>,
    /// What it announces.
    #[serde(default)]
    prefixes: Vec<Spanned<Prefix>>,
    /// The nodes that it has links with; all if absent.
    #[serde(default)]
    neighbours: Option<Vec<Spanned<NodeName>>>,
    /// Name of its TUN device.
    #[serde(default)]
    interface: Option<Spanned<String>>,
    /// Tags, for policy.
    #[serde(default)]
    pub(crate) tags: Vec<NodeName>,
    /// Where it stands.
    #[serde(default)]
    pub(crate) site: Option<NodeName>,
}

/// `[[leaf]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeafPlan {
    /// Its name.
    pub(crate) name: Spanned<NodeName>,
    /// The node that it is attached to.
    pub(crate) host: Spanned<NodeName>,
    /// Its WireGuard key.
    pub(crate) public_key: Spanned<WgKey>,
    /// Its addresses, instead of the plan's.
    #[serde(default)]
    addresses: Vec<Spanned<IpAddr>>,
    /// Networks behind it.
    #[serde(default)]
    prefixes: Vec<Spanned<Prefix>>,
}

/// What is wrong in the file, and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    path: PathBuf,
    line: usize,
    column: usize,
    message: String,
    excerpt: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            line,
            column,
            message,
            excerpt,
        } = self;
        writeln!(f, "{}:{line}:{column}: {message}", path.display())?;
        write!(f, "{line} | {excerpt}")
    }
}

impl std::error::Error for Complaint {}

type Found = (Range<usize>, String);

fn found<T>(at: &Spanned<T>, message: impl Into<String>) -> Found {
    (at.span(), message.into())
}

fn values<T: Clone>(spanned: &[Spanned<T>]) -> Vec<T> {
    spanned
        .iter()
        .map(|value| value.get_ref().clone())
        .collect()
}

impl Plan {
    /// Reads and checks the text of the file `path`.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self, Complaint> {
        let plan: Self = toml::from_str(text).map_err(|error| {
            complain(
                text,
                path,
                (error.span().unwrap_or(0..0), error.message().to_owned()),
            )
        })?;
        plan.check().map_err(|found| complain(text, path, found))?;
        Ok(plan)
    }

    /// The prefixes that addresses are taken from: what the file says, else what every network has by default.
    pub(crate) fn prefixes(&self, network: NetworkId) -> AddressPlan {
        let default = AddressPlan::default_of(network);
        let given = |prefix: &Option<Spanned<Prefix>>| prefix.as_ref().map(|p| *p.get_ref());
        AddressPlan {
            ipv4: given(&self.network.ipv4).or(default.ipv4),
            ipv6: given(&self.network.ipv6).or(default.ipv6),
        }
    }

    /// The index of the node at `position`; leaves count on after the nodes. 0 is nobody's.
    pub(crate) fn index(position: usize) -> NodeIndex {
        NodeIndex(u16::try_from(position + 1).expect("the number of nodes is checked"))
    }

    /// The addresses of a node: its own, or one of each prefix.
    pub(crate) fn addresses_of(
        &self,
        own: &[Spanned<IpAddr>],
        index: NodeIndex,
        network: NetworkId,
    ) -> Vec<IpAddr> {
        if !own.is_empty() {
            return values(own);
        }
        self.prefixes(network).addresses(index)
    }

    /// Things that are allowed but hardly meant.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let lonely = self.nodes.iter().filter(|node| {
            let others = self.nodes.iter().filter(|other| other.name != node.name);
            let mut linked = others.filter(|other| node.may_link(other) && other.may_link(node));
            let undialable =
                |other: &NodePlan| node.endpoints.is_empty() && other.endpoints.is_empty();
            self.nodes.len() > 1 && linked.all(undialable)
        });
        lonely
            .map(|node| {
                let name = node.name.get_ref();
                format!(
                    "{name} will have no link: neither it nor any neighbour of it has endpoints"
                )
            })
            .collect()
    }

    fn check(&self) -> Result<(), Found> {
        self.check_sizes()?;
        self.check_names()?;
        self.check_endpoints()?;
        self.check_interfaces()?;
        self.check_neighbours()?;
        self.check_leaves()?;
        self.check_addresses()
    }

    fn check_sizes(&self) -> Result<(), Found> {
        if self.nodes.is_empty() {
            return Err((
                0..0,
                "there is no node; add [[node]] tables with a `name` each".to_owned(),
            ));
        }
        let members = self.nodes.len() + self.leaves.len();
        if members >= usize::from(u16::MAX) {
            return Err((
                0..0,
                format!("{members} nodes are more than a network holds (65534)"),
            ));
        }
        let checked = self.prefixes(NetworkId::default()).check(members);
        checked.map_err(|error| {
            let given = match error.family() {
                Family::Ipv4 => &self.network.ipv4,
                Family::Ipv6 => &self.network.ipv6,
            };
            let at = given.as_ref().map_or(0..0, Spanned::span);
            (at, error.to_string())
        })
    }

    fn check_names(&self) -> Result<(), Found> {
        let mut seen = BTreeSet::new();
        let nodes = self.nodes.iter().map(|node| &node.name);
        for name in nodes.chain(self.leaves.iter().map(|leaf| &leaf.name)) {
            if !seen.insert(name.get_ref()) {
                return Err(found(
                    name,
                    format!("the name {} is used twice", name.get_ref()),
                ));
            }
        }
        Ok(())
    }

    fn check_endpoints(&self) -> Result<(), Found> {
        let mut seen: BTreeMap<SocketAddr, &NodeName> = BTreeMap::new();
        for node in &self.nodes {
            for endpoint in &node.endpoints {
                let address = endpoint.get_ref();
                if address.port() == 0
                    || address.ip().is_unspecified()
                    || address.ip().is_multicast()
                {
                    let message = format!(
                        "{address} cannot be dialled; give an address and port of the node"
                    );
                    return Err(found(endpoint, message));
                }
                if let Some(first) = seen.insert(*address, node.name.get_ref()) {
                    return Err(found(
                        endpoint,
                        format!("{address} is an endpoint of {first} too"),
                    ));
                }
            }
        }
        Ok(())
    }

    /// By the agent's own rule: the name ends up in its configuration.
    fn check_interfaces(&self) -> Result<(), Found> {
        for interface in self.nodes.iter().filter_map(|node| node.interface.as_ref()) {
            let text = setting("interface", interface.get_ref());
            if let Err(ConfigError::Content(complaint)) = Config::parse(&text, Path::new("")) {
                return Err(found(interface, complaint.message.clone()));
            }
        }
        Ok(())
    }

    fn check_neighbours(&self) -> Result<(), Found> {
        let nodes: BTreeMap<_, _> = self
            .nodes
            .iter()
            .map(|node| (node.name.get_ref(), node))
            .collect();
        for node in &self.nodes {
            for neighbour in node.neighbours.iter().flatten() {
                let (name, me) = (neighbour.get_ref(), node.name.get_ref());
                let Some(other) = nodes.get(name) else {
                    return Err(found(neighbour, format!("there is no node {name}")));
                };
                if name == me {
                    return Err(found(
                        neighbour,
                        format!("{me} cannot be its own neighbour"),
                    ));
                }
                if !other.may_link(node) {
                    let message =
                        format!("{me} names {name} as neighbour, {name} does not name {me}");
                    return Err(found(neighbour, message));
                }
            }
        }
        Ok(())
    }

    fn check_leaves(&self) -> Result<(), Found> {
        let mut keys = BTreeSet::new();
        for leaf in &self.leaves {
            let host = leaf.host.get_ref();
            if !self.nodes.iter().any(|node| node.name.get_ref() == host) {
                return Err(found(&leaf.host, format!("there is no node {host}")));
            }
            if !keys.insert(*leaf.public_key.get_ref()) {
                return Err(found(&leaf.public_key, "this key is used twice"));
            }
        }
        Ok(())
    }

    /// No address twice, no prefix inside one of another node or of the plan that addresses are taken from.
    fn check_addresses(&self) -> Result<(), Found> {
        let mut claims: Vec<(Prefix, &NodeName)> = Vec::new();
        let planned = self.known_prefixes();
        for (name, addresses, prefixes) in self.claimants() {
            for address in addresses {
                if !is_usable(*address.get_ref()) {
                    let message = format!("{} cannot be the address of a node", address.get_ref());
                    return Err(found(address, message));
                }
                claim(
                    &mut claims,
                    name,
                    Prefix::host(*address.get_ref()),
                    address.span(),
                )?;
            }
            for prefix in prefixes {
                let wide = *prefix.get_ref();
                if let Some(plan) = planned.iter().find(|plan| plan.overlaps(&wide)) {
                    let message =
                        format!("{wide} overlaps {plan}, which the nodes' addresses come from");
                    return Err(found(prefix, message));
                }
                claim(&mut claims, name, wide, prefix.span())?;
            }
        }
        self.check_planned(&claims)
    }

    /// Addresses from the plan go by index; an address given by hand may stand in the way.
    fn check_planned(&self, claims: &[(Prefix, &NodeName)]) -> Result<(), Found> {
        let plan = self.known();
        for (position, (name, own, _)) in self.claimants().enumerate() {
            if !own.is_empty() {
                continue;
            }
            for address in plan.addresses(Self::index(position)) {
                if let Some((_, first)) = claims.iter().find(|(p, _)| p.contains(address)) {
                    let message =
                        format!("{} would get {address}, which {first} has", name.get_ref());
                    return Err(found(name, message));
                }
            }
        }
        Ok(())
    }

    /// The plan as far as it does not depend on the network's id, which comes with its root key.
    fn known(&self) -> AddressPlan {
        let all = self.prefixes(NetworkId::default());
        AddressPlan {
            ipv6: all.ipv6.filter(|_| self.network.ipv6.is_some()),
            ..all
        }
    }

    fn known_prefixes(&self) -> Vec<Prefix> {
        let AddressPlan { ipv4, ipv6 } = self.known();
        [ipv4, ipv6].into_iter().flatten().collect()
    }

    fn claimants(
        &self,
    ) -> impl Iterator<Item = (&Spanned<NodeName>, &[Spanned<IpAddr>], &[Spanned<Prefix>])> {
        let nodes = self
            .nodes
            .iter()
            .map(|n| (&n.name, n.addresses.as_slice(), n.prefixes.as_slice()));
        let leaves = self
            .leaves
            .iter()
            .map(|l| (&l.name, l.addresses.as_slice(), l.prefixes.as_slice()));
        nodes.chain(leaves)
    }
}

impl NodePlan {
    fn may_link(&self, other: &Self) -> bool {
        let listed = |list: &Vec<Spanned<NodeName>>| {
            list.iter()
                .any(|name| *name.get_ref() == *other.name.get_ref())
        };
        self.neighbours.as_ref().is_none_or(listed)
    }

    /// Its addresses given by hand.
    pub(crate) fn own_addresses(&self) -> &[Spanned<IpAddr>] {
        &self.addresses
    }

    /// Where others dial it.
    pub(crate) fn endpoints(&self) -> Vec<SocketAddr> {
        values(&self.endpoints)
    }

    /// Name of its TUN device.
    pub(crate) fn interface(&self) -> Option<&str> {
        self.interface.as_ref().map(|name| name.get_ref().as_str())
    }

    /// What it announces.
    pub(crate) fn prefixes(&self) -> Vec<Prefix> {
        values(&self.prefixes)
    }

    /// The nodes that it has links with; all if absent.
    pub(crate) fn neighbours(&self) -> Option<Vec<NodeName>> {
        self.neighbours.as_ref().map(|names| values(names))
    }
}

impl LeafPlan {
    /// Its addresses given by hand.
    pub(crate) fn own_addresses(&self) -> &[Spanned<IpAddr>] {
        &self.addresses
    }

    /// Networks behind it.
    pub(crate) fn prefixes(&self) -> Vec<Prefix> {
        values(&self.prefixes)
    }
}

fn claim<'a>(
    claims: &mut Vec<(Prefix, &'a NodeName)>,
    name: &'a Spanned<NodeName>,
    prefix: Prefix,
    at: Range<usize>,
) -> Result<(), Found> {
    if let Some((other, first)) = claims.iter().find(|(other, _)| other.overlaps(&prefix)) {
        let message = match *other == prefix {
            true => format!("{prefix} is {first}'s already"),
            false => format!("{prefix} overlaps {other}, which is {first}'s"),
        };
        return Err((at, message));
    }
    claims.push((prefix, name.get_ref()));
    Ok(())
}

/// A line of a configuration, its value escaped.
pub(crate) fn setting(key: &str, value: &str) -> String {
    format!("{key} = {}\n", toml::Value::from(value))
}

fn complain(text: &str, path: &Path, (at, message): Found) -> Complaint {
    let complaint = settings::Complaint::at(text, at, message);
    Complaint {
        path: path.to_owned(),
        line: complaint.line,
        column: complaint.column,
        excerpt: crate::human::clean(complaint.excerpt(text)),
        message: complaint.message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: &str = "[network]\nname = \"lab\"\nipv4 = \"10.77.0.0/16\"\n";

    #[test]
    fn nodes_get_the_addresses_of_their_place_unless_they_have_their_own() {
        let plan = parse(
            "[[node]]\nname='a'\n[[node]]\nname='b'\naddresses=['10.255.0.1']\n[[leaf]]\nname='l'\nhost='a'\n\
             public_key='AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8='",
        )
        .unwrap();
        let network = NetworkId(0x0123_4567_89ab_cdef);
        let addresses = |own: &[Spanned<IpAddr>], position| {
            crate::human::list(&plan.addresses_of(own, Plan::index(position), network))
        };
        assert_eq!(
            addresses(&plan.nodes[0].addresses, 0),
            "10.77.0.1 fd57:123:4567:89ab::1"
        );
        assert_eq!(addresses(&plan.nodes[1].addresses, 1), "10.255.0.1");
        assert_eq!(
            addresses(&plan.leaves[0].addresses, 2),
            "10.77.0.3 fd57:123:4567:89ab::3"
        );
    }

    #[test]
    fn what_cannot_work_is_refused_with_line_column_and_reason() {
        let cases = [
            ("", "1:1: there is no node"),
            ("[[node]]\nname='A'", "5:6: a node name has only a-z"),
            (
                "[[node]]\nname='a'\nport=1",
                "6:1: unknown field `port`, expected one of `name`, `addresses`",
            ),
            ("[[node]]\nnames='a'", "5:1: unknown field `names`"),
            (
                "[[node]]\nname='a'\n[[node]]\nname='a'",
                "7:6: the name a is used twice",
            ),
            ("[[node]]\nname='a'\naddresses=['10.77.1']", "6:12: "),
            (
                "[[node]]\nname='a'\naddresses=['127.0.0.1']",
                "6:12: 127.0.0.1 cannot be the address",
            ),
            (
                "[[node]]\nname='a'\naddresses=['10.9.0.1']\n[[node]]\nname='b'\naddresses=['10.9.0.1']",
                "9:12: 10.9.0.1/32 is a's already",
            ),
            (
                "[[node]]\nname='a'\nprefixes=['10.1.0.0/16']\n[[node]]\nname='b'\nprefixes=['10.1.9.0/24']",
                "9:11: 10.1.9.0/24 overlaps 10.1.0.0/16, which is a's",
            ),
            (
                "[[node]]\nname='a'\nprefixes=['10.77.9.0/24']",
                "6:11: 10.77.9.0/24 overlaps 10.77.0.0/16",
            ),
            (
                "[[node]]\nname='a'\nprefixes=['10.1.0.1/16']",
                "6:11: `10.1.0.1/16` has host bits set",
            ),
            (
                "[[node]]\nname='a'\naddresses=['10.77.0.2']\n[[node]]\nname='b'",
                "8:6: b would get 10.77.0.2, which a has",
            ),
            ("[[node]]\nname='a'\nendpoints=['host:1']", "6:12: "),
            (
                "[[node]]\nname='a'\nendpoints=['0.0.0.0:1']",
                "6:12: 0.0.0.0:1 cannot be dialled",
            ),
            (
                "[[node]]\nname='a'\nendpoints=['1.2.3.4:0']",
                "6:12: 1.2.3.4:0 cannot be dialled",
            ),
            (
                "[[node]]\nname='a'\nendpoints=['1.2.3.4:1','1.2.3.4:1']",
                "6:24: 1.2.3.4:1 is an endpoint of a too",
            ),
            ("[[node]]\nname='a'\nlisten_port=70000", "6:13: "),
            (
                "[[node]]\nname='a'\ninterface='a name that is too long'",
                "6:11: \"a name that is too long\" is not an interface name: 1 to 15 characters",
            ),
            (
                "[[node]]\nname='a'\ninterface=\"w\\nmtu = 9\"",
                "6:11: \"w\\nmtu = 9\" is not an interface name",
            ),
            (
                "[[node]]\nname='a'\nneighbours=['b']",
                "6:13: there is no node b",
            ),
            (
                "[[node]]\nname='a'\nneighbours=['a']",
                "6:13: a cannot be its own neighbour",
            ),
            (
                "[[node]]\nname='a'\nneighbours=['b']\n[[node]]\nname='b'\nneighbours=[]",
                "6:13: a names b as neighbour, b does not name a",
            ),
            (
                "[[node]]\nname='a'\n[[leaf]]\nname='l'\nhost='b'\npublic_key='AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8='",
                "8:6: there is no node b",
            ),
            (
                "[[node]]\nname='a'\n[[leaf]]\nname='l'\nhost='a'\npublic_key='AAEC'",
                "9:12: expected 44 characters",
            ),
            ("[[node]]\nname='a", "5:"),
        ];
        for (text, expected) in cases {
            let complaint = parse(text).expect_err(text).to_string();
            let position = format!("nodes.toml:{expected}");
            assert!(
                complaint.starts_with(&position),
                "{text}\n-> {complaint}\nexpected {position}"
            );
        }
    }

    #[test]
    fn the_network_is_checked_too() {
        let plan = |head: &str| {
            let text =
                format!("[network]\nname='lab'\n{head}\n[[node]]\nname='a'\n[[node]]\nname='b'");
            Plan::parse(&text, Path::new("nodes.toml")).map_err(|complaint| complaint.to_string())
        };
        assert!(plan("").is_ok());
        assert!(
            plan("ipv4='fd00::/64'")
                .unwrap_err()
                .contains(":3:6: `ipv4` is an IPv4 prefix")
        );
        assert!(
            plan("ipv4='10.0.0.0/31'")
                .unwrap_err()
                .contains("too few addresses for 2 nodes")
        );
        assert!(plan("ipv4='10.0.0.0/30'\n[[node]]\nname='c'").is_err());
        assert!(plan("ipv4='10.0.0.0/29'").is_ok());
        assert!(
            plan("ipv4='127.0.0.0/16'")
                .unwrap_err()
                .contains(":3:6: 127.0.0.0/16 holds addresses that no node can have")
        );
        assert!(
            plan("ipv6='fd00::/127'")
                .unwrap_err()
                .contains("too few addresses")
        );
        assert!(
            plan("ipv8='x'")
                .unwrap_err()
                .contains("unknown field `ipv8`")
        );
    }

    #[test]
    fn a_node_that_nobody_can_dial_and_that_can_dial_nobody_is_warned_of() {
        let plan = parse(
            "[[node]]\nname='a'\n[[node]]\nname='b'\nendpoints=['1.2.3.4:1']\n[[node]]\nname='c'",
        )
        .unwrap();
        assert_eq!(plan.warnings(), Vec::<String>::new());
        let plan = parse("[[node]]\nname='a'\n[[node]]\nname='b'").unwrap();
        assert_eq!(plan.warnings().len(), 2);
    }

    #[test]
    fn every_truncation_of_a_file_is_a_complaint_or_a_plan() {
        let whole = format!(
            "{NETWORK}[[node]]\nname = \"r1\"\nendpoints = [\"10.1.1.1:51820\"]\nprefixes = [\"192.168.9.0/24\"]\n"
        );
        for cut in 0..whole.len() {
            let _ = Plan::parse(&whole[..cut], Path::new("nodes.toml"));
        }
    }

    fn parse(nodes: &str) -> Result<Plan, Complaint> {
        Plan::parse(&format!("{NETWORK}{nodes}"), Path::new("nodes.toml"))
    }
}
