//! `wattle network create --offline`: a trust root and one ready state directory per node.
//!
//! Everything is made in a directory beside the target and renamed at the end, so there is never half a network.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;
use wattle_agent::config::{CONFIG_FILE, Config};
use wattle_agent::state::{Keys, Network, StateDir, StateError};
use wattle_api::plan::AddressPlan;
use wattle_model::{NodeId, NodeIndex, NodeName, Prefix, UnixTime, WgKey};
use wattle_wire::grant::{Grant, Holder, Peer, PeerSet, SignedGrant, leaf_id};
use wattle_wire::key::SecretKey;
use zeroize::Zeroizing;

use crate::failure::{Exit, Failure, Outcome};
use crate::human::list;
use crate::output::{Output, wall_clock};
use crate::plan::{LeafPlan, NodePlan, Plan};
use crate::table::{Columns, Side};
use crate::verb::answers;

/// Grants of a network without a coordinator, which could renew them, end with the year 9999.
const NEVER: UnixTime = UnixTime(253_402_300_799_000);

/// What was made.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Created {
    /// Where it is.
    directory: PathBuf,
    /// The network.
    network: wattle_control::NetworkRef,
    /// Where its IPv4 addresses come from.
    ipv4: Option<Prefix>,
    /// Where its IPv6 addresses come from.
    ipv6: Option<Prefix>,
    /// Its nodes.
    nodes: Vec<CreatedNode>,
    /// Its stock WireGuard devices.
    leaves: Vec<CreatedNode>,
}

/// A node or device that was made.
#[derive(Debug, Serialize, JsonSchema)]
struct CreatedNode {
    #[serde(flatten)]
    node: wattle_control::NodeRef,
    /// Its addresses inside the network.
    addresses: Vec<std::net::IpAddr>,
    /// Its state directory, or the settings of a device.
    path: PathBuf,
}

/// Makes the network that the file plans below `directory`.
pub(crate) fn create(directory: &Path, nodes: &Path, output: &mut Output) -> Outcome {
    let plan = read(nodes)?;
    check_settings(&plan)?;
    for warning in plan.warnings() {
        output.warn(warning);
    }
    refuse_existing(directory)?;
    let workshop = Workshop::beside(directory)?;
    let created = Maker::new(&plan, workshop.path.clone(), directory).make()?;
    workshop.finish(directory)?;
    output.answer(answers::NETWORK, &created, show)?;
    hint(output, directory, &created);
    Ok(())
}

fn read(path: &Path) -> Outcome<Plan> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let what = format!("cannot read {}", path.display());
        Failure::file(what, &error, "name the file with the nodes: --nodes FILE")
    })?;
    Plan::parse(&text, path).map_err(|complaint| {
        Failure::new(
            Exit::Usage,
            "the plan of the network is not valid",
            complaint,
            "correct the line and try again",
        )
    })
}

/// What is written for an agent is read as the agent will read it, before anything is made.
fn check_settings(plan: &Plan) -> Outcome {
    for node in &plan.nodes {
        let path = Path::new(node.name.get_ref().as_str()).join(CONFIG_FILE);
        Config::parse(&config(node), &path).map_err(|complaint| {
            let what = "an agent would refuse its settings";
            Failure::new(Exit::Usage, what, complaint, "correct the node in the plan")
        })?;
    }
    Ok(())
}

fn refuse_existing(directory: &Path) -> Outcome {
    let mut entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot_make(directory, &error)),
    };
    if entries.next().is_none() {
        return Ok(());
    }
    let what = format!("{} is not empty", directory.display());
    let why = "a network is made once; its keys would be lost";
    Err(Failure::new(
        Exit::Failure,
        what,
        why,
        "choose another directory: --offline DIR",
    ))
}

fn cannot_make(path: &Path, error: &std::io::Error) -> Failure {
    let what = format!("cannot make {}", path.display());
    Failure::file(
        what,
        error,
        "choose a directory that you may write: --offline DIR",
    )
}

/// A directory that disappears unless it is finished.
struct Workshop {
    path: PathBuf,
}

impl Workshop {
    fn beside(target: &Path) -> Outcome<Self> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(format!(".unfinished-{}", std::process::id()));
        let path = target.with_file_name(name);
        let mut builder = std::fs::DirBuilder::new();
        builder
            .mode(0o700)
            .recursive(true)
            .create(&path)
            .map_err(|error| cannot_make(&path, &error))?;
        Ok(Self { path })
    }

    fn finish(self, target: &Path) -> Outcome {
        std::fs::rename(&self.path, target).map_err(|error| cannot_make(target, &error))
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Makes keys, grants, the peer set and the state directories of a plan.
struct Maker<'a> {
    plan: &'a Plan,
    root: SecretKey,
    workshop: PathBuf,
    target: &'a Path,
}

/// A node in the making.
struct Member<'a> {
    plan: &'a NodePlan,
    state: StateDir,
    keys: Keys,
}

impl<'a> Maker<'a> {
    fn new(plan: &'a Plan, workshop: PathBuf, target: &'a Path) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice()).expect("a Linux kernel always has random numbers");
        Self {
            plan,
            root: SecretKey::from_seed(&seed),
            workshop,
            target,
        }
    }

    fn make(&self) -> Outcome<Created> {
        self.store_root()?;
        let members = self.plan.nodes.iter().map(|node| self.member(node));
        let members = members
            .collect::<Result<Vec<_>, _>>()
            .map_err(state_failure)?;
        let ids: BTreeMap<&NodeName, NodeId> = members
            .iter()
            .map(|member| (member.plan.name.get_ref(), member.keys.node_id()))
            .collect();
        let nodes: Vec<Peer> = members
            .iter()
            .enumerate()
            .map(|(at, member)| self.peer(at, member, &ids))
            .collect();
        let leaves = self.plan.leaves.iter().enumerate();
        let leaves: Vec<Peer> = leaves
            .map(|(at, leaf)| self.leaf(members.len() + at, leaf, &ids))
            .collect();

        let set = self.peer_set(&nodes, &leaves)?;
        for member in &members {
            self.store(member, &set).map_err(state_failure)?;
        }
        for leaf in &leaves {
            self.store_leaf(leaf, &nodes)?;
        }
        Ok(self.created(&nodes, &leaves))
    }

    fn store_root(&self) -> Outcome {
        let path = self.workshop.join("root.key");
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path);
        let text = self.root.to_base64();
        file.and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()
        })
        .map_err(|error| cannot_make(&path, &error))
    }

    fn member(&self, plan: &'a NodePlan) -> Result<Member<'a>, StateError> {
        let state = StateDir::create(&self.workshop.join(plan.name.get_ref().as_str()))?;
        let keys = state.keys()?;
        Ok(Member { plan, state, keys })
    }

    fn peer(&self, at: usize, member: &Member<'_>, ids: &BTreeMap<&NodeName, NodeId>) -> Peer {
        let Member { plan, keys, .. } = member;
        let index = Plan::index(at);
        let holder = Holder::Agent {
            identity: keys.identity_public(),
        };
        let grant = Grant {
            node: keys.node_id(),
            wireguard: keys.wireguard_public(),
            name: plan.name.get_ref().clone(),
            addresses: self
                .plan
                .addresses_of(plan.own_addresses(), index, self.network()),
            prefixes: plan.prefixes(),
            tags: plan.tags.clone(),
            site: plan.site.clone(),
            ..self.blank_grant(holder, index)
        };
        let neighbours = plan
            .neighbours()
            .map(|names| names.iter().map(|name| ids[name]).collect());
        Peer {
            grant: SignedGrant::sign(grant, &self.root),
            candidates: plan.endpoints(),
            neighbours,
        }
    }

    fn leaf(&self, at: usize, leaf: &LeafPlan, ids: &BTreeMap<&NodeName, NodeId>) -> Peer {
        let index = Plan::index(at);
        let host = ids[leaf.host.get_ref()];
        let wireguard = *leaf.public_key.get_ref();
        let grant = Grant {
            node: leaf_id(wireguard),
            wireguard,
            name: leaf.name.get_ref().clone(),
            addresses: self
                .plan
                .addresses_of(leaf.own_addresses(), index, self.network()),
            prefixes: leaf.prefixes(),
            ..self.blank_grant(Holder::Leaf { host }, index)
        };
        let grant = SignedGrant::sign(grant, &self.root);
        Peer {
            grant,
            candidates: Vec::new(),
            neighbours: Some(vec![host]),
        }
    }

    fn blank_grant(&self, holder: Holder, index: NodeIndex) -> Grant {
        Grant {
            network: self.network(),
            node: NodeId::default(),
            holder,
            wireguard: WgKey::default(),
            index,
            name: self.plan.network.name.clone(),
            addresses: Vec::new(),
            prefixes: Vec::new(),
            tags: Vec::new(),
            site: None,
            serial: 1,
            not_after: NEVER,
        }
    }

    fn network(&self) -> wattle_model::NetworkId {
        self.root.public().network_id()
    }

    fn prefixes(&self) -> AddressPlan {
        self.plan.prefixes(self.network())
    }

    fn planned(&self) -> Vec<Prefix> {
        let AddressPlan { ipv4, ipv6 } = self.prefixes();
        [ipv4, ipv6].into_iter().flatten().collect()
    }

    /// The signed set; reading it as an agent would proves that agents will take it.
    fn peer_set(&self, nodes: &[Peer], leaves: &[Peer]) -> Outcome<Vec<u8>> {
        let peers = nodes
            .iter()
            .chain(leaves)
            .map(|peer| (peer.node(), peer.clone()));
        let set = PeerSet {
            revision: 1,
            at: UnixTime(wall_clock().as_millis()),
            peers: peers.collect(),
            ..PeerSet::empty(self.network())
        };
        let signed = set.sign(&self.root);
        match PeerSet::open(&signed, &self.root.public()) {
            Ok(_) => Ok(signed),
            Err(error) => {
                let what = "the plan of the network contradicts itself";
                Err(Failure::new(
                    Exit::Usage,
                    what,
                    error,
                    "correct the plan and try again",
                ))
            }
        }
    }

    fn store(&self, member: &Member<'_>, set: &[u8]) -> Result<(), StateError> {
        let state = &member.state;
        let plan = self.prefixes();
        state.store_file(CONFIG_FILE, config(member.plan).as_bytes())?;
        state.store_peers(set)?;
        state.store_network(&Network {
            network: self.network(),
            name: self.plan.network.name.to_string(),
            root: self.root.public(),
            coordinator: None,
            ipv4: plan.ipv4,
            ipv6: plan.ipv6,
        })
    }

    /// What the device needs, in the form of `wg-quick`.
    fn store_leaf(&self, leaf: &Peer, nodes: &[Peer]) -> Outcome {
        let grant = leaf.grant.grant();
        let path = self.workshop.join(format!("{}.conf", grant.name));
        std::fs::write(&path, self.wg_quick(leaf, nodes))
            .map_err(|error| cannot_make(&path, &error))
    }

    fn wg_quick(&self, leaf: &Peer, nodes: &[Peer]) -> String {
        let grant = leaf.grant.grant();
        let host = nodes
            .iter()
            .find(|node| Some(node.node()) == grant.leaf_of());
        let host = host.expect("the host of a leaf is checked to be a node");
        let endpoint = host
            .candidates
            .first()
            .map(|endpoint| format!("Endpoint = {endpoint}\n"));
        let others = nodes.iter().flat_map(|node| node.grant.grant().owned());
        let plan: Vec<Prefix> = self.planned();
        let outside: Vec<Prefix> = others
            .filter(|own| !plan.iter().any(|plan| plan.overlaps(own)))
            .collect();
        let allowed: Vec<_> = plan
            .into_iter()
            .chain(outside)
            .map(|prefix| prefix.to_string())
            .collect();
        let addresses: Vec<_> = grant.addresses.iter().map(ToString::to_string).collect();
        format!(
            "# {name}, attached to {host}. The private key is made on the device and stays there.\n\
             [Interface]\n# PrivateKey = \nAddress = {addresses}\nMTU = {mtu}\n\n\
             [Peer]\nPublicKey = {key}\n{endpoint}AllowedIPs = {allowed}\nPersistentKeepalive = 25\n",
            name = grant.name,
            host = host.grant.grant().name,
            addresses = addresses.join(", "),
            mtu = Config::default().mtu,
            key = host.grant.grant().wireguard,
            endpoint = endpoint.unwrap_or_default(),
            allowed = allowed.join(", "),
        )
    }

    fn created(&self, nodes: &[Peer], leaves: &[Peer]) -> Created {
        let describe = |peer: &Peer, suffix: &str| {
            let grant = peer.grant.grant();
            let name = grant.name.to_string();
            let path = self.target.join(format!("{name}{suffix}"));
            let node = wattle_control::NodeRef {
                id: grant.node,
                name,
            };
            CreatedNode {
                node,
                addresses: grant.addresses.clone(),
                path,
            }
        };
        Created {
            directory: self.target.to_owned(),
            network: wattle_control::NetworkRef {
                id: self.network(),
                name: self.plan.network.name.to_string(),
            },
            ipv4: self.prefixes().ipv4,
            ipv6: self.prefixes().ipv6,
            nodes: nodes.iter().map(|node| describe(node, "")).collect(),
            leaves: leaves.iter().map(|leaf| describe(leaf, ".conf")).collect(),
        }
    }
}

fn state_failure(error: StateError) -> Failure {
    Failure::new(
        Exit::Failure,
        "cannot make a state directory",
        error,
        "choose another directory: --offline DIR",
    )
}

/// The node's `wattled.toml`: what the plan says of it.
fn config(plan: &NodePlan) -> String {
    let quoted = |items: Vec<String>| {
        let items: Vec<_> = items.iter().map(|item| format!("\"{item}\"")).collect();
        format!("[{}]", items.join(", "))
    };
    let endpoints: Vec<_> = plan.endpoints().iter().map(ToString::to_string).collect();
    let prefixes: Vec<_> = plan.prefixes().iter().map(ToString::to_string).collect();
    let settings = [
        (
            "interface",
            plan.interface()
                .map(|name| toml::Value::from(name).to_string()),
        ),
        ("listen_port", plan.listen_port.map(|port| port.to_string())),
        (
            "endpoints",
            (!endpoints.is_empty()).then(|| quoted(endpoints)),
        ),
        ("prefixes", (!prefixes.is_empty()).then(|| quoted(prefixes))),
    ];
    let mut text = format!("# Settings of {}.\n", plan.name.get_ref());
    for (key, value) in settings {
        if let Some(value) = value {
            text += &format!("{key} = {value}\n");
        }
    }
    text
}

fn show(created: &Created) -> String {
    let mut table = Columns::new(
        false,
        &[
            ("NODE", Side::Left),
            ("ID", Side::Left),
            ("ADDRESSES", Side::Left),
            ("FILES", Side::Left),
        ],
    );
    for CreatedNode {
        node,
        addresses,
        path,
    } in created.nodes.iter().chain(&created.leaves)
    {
        let path = path.display().to_string();
        table.row(
            vec![
                node.name.clone(),
                node.id.to_string(),
                list(addresses),
                path,
            ],
            None,
        );
    }
    format!(
        "network {} ({})\n{}",
        created.network.name,
        created.network.id,
        table.finish()
    )
}

fn hint(output: &Output, directory: &Path, created: &Created) {
    let first = created
        .nodes
        .first()
        .map_or("NODE", |node| node.node.name.as_str());
    output.note(&format!(
        "Keep {0}/root.key offline: whoever has it can add nodes.\n\
         Start a node from its directory: wattled --state {0}/{first}\n\
         or copy that to /var/lib/wattle on the host and: systemctl enable --now wattled",
        directory.display()
    ));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::output::tests::captured;

    const PLAN: &str = r#"
[network]
name = "lab"
ipv4 = "10.77.0.0/16"
[[node]]
name = "r1"
addresses = ["10.255.0.1"]
endpoints = ["10.1.1.1:51820"]
listen_port = 51821
prefixes = ["192.168.9.0/24"]
neighbours = ["r2"]
interface = "wl-r1"
[[node]]
name = "r2"
[[leaf]]
name = "phone"
host = "r1"
public_key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
addresses = ["10.77.1.9"]
"#;

    #[test]
    fn every_node_gets_a_state_directory_that_the_agent_takes() {
        let home = tempfile::tempdir().unwrap();
        let target = made(home.path(), PLAN).unwrap();
        for (name, address) in [("r1", "10.255.0.1"), ("r2", "10.77.0.2")] {
            let state = StateDir::open(&target.join(name)).unwrap();
            let network = state.network().unwrap().unwrap();
            let set =
                PeerSet::open(&state.peers().unwrap().signed_set.unwrap(), &network.root).unwrap();
            let own = &set.peers[&state.keys().unwrap().node_id()];
            assert_eq!(own.grant.grant().addresses[0].to_string(), address);
            assert_eq!(
                own.grant.grant().wireguard,
                state.keys().unwrap().wireguard_public()
            );
            assert_eq!((set.peers.len(), network.coordinator), (3, None));
        }
        let config = target.join("r1").join(CONFIG_FILE);
        let config = wattle_agent::config::Config::read(&config).unwrap();
        assert_eq!(
            (config.listen_port, config.interface.as_str()),
            (51_821, "wl-r1")
        );
        assert_eq!(config.prefixes, ["192.168.9.0/24".parse().unwrap()]);
    }

    #[test]
    fn only_the_owner_can_read_the_trust_root() {
        let home = tempfile::tempdir().unwrap();
        let target = made(home.path(), PLAN).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&target.join("root.key")), 0o600);
        assert_eq!(mode(&target), 0o700);
        let key = std::fs::read_to_string(target.join("root.key")).unwrap();
        assert!(SecretKey::from_base64(key.trim()).is_ok());
    }

    #[test]
    fn the_leaf_gets_what_wg_quick_needs_but_its_private_key() {
        let home = tempfile::tempdir().unwrap();
        let target = made(home.path(), PLAN).unwrap();
        let text = std::fs::read_to_string(target.join("phone.conf")).unwrap();
        let key = StateDir::open(&target.join("r1"))
            .unwrap()
            .keys()
            .unwrap()
            .wireguard_public();
        for line in [
            "Address = 10.77.1.9",
            &format!("PublicKey = {key}"),
            "Endpoint = 10.1.1.1:51820",
            // Packets from elsewhere cross relays, whose headers take room.
            "MTU = 1360",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(text.contains("AllowedIPs = 10.77.0.0/16, fd"), "{text}");
        assert!(text.contains(", 10.255.0.1/32, 192.168.9.0/24\n"), "{text}");
    }

    #[test]
    fn a_wrong_plan_or_an_existing_network_changes_nothing() {
        let home = tempfile::tempdir().unwrap();
        let wrong = made(
            home.path(),
            "[network]\nname='lab'\n[[node]]\nname='r1'\nnam='x'",
        )
        .unwrap_err();
        assert_eq!(wrong.exit, Exit::Usage);
        assert!(
            wrong.why.contains("nodes.toml:5:1: unknown field `nam`"),
            "{}",
            wrong.why
        );
        assert_eq!(names_in(home.path()), ["nodes.toml"]);

        let target = made(home.path(), PLAN).unwrap();
        let root = std::fs::read(target.join("root.key")).unwrap();
        assert!(
            made(home.path(), PLAN)
                .unwrap_err()
                .what
                .contains("is not empty")
        );
        assert_eq!(std::fs::read(target.join("root.key")).unwrap(), root);
        assert_eq!(names_in(home.path()), ["net", "nodes.toml"]);
    }

    fn made(home: &Path, plan: &str) -> Outcome<PathBuf> {
        std::fs::write(home.join("nodes.toml"), plan).unwrap();
        let target = home.join("net");
        create(&target, &home.join("nodes.toml"), &mut captured(true).0).map(|()| target)
    }

    fn names_in(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}
