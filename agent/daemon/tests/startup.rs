//! Every way in which the agent does not start says what, why and what to do, and changes nothing.
//!
//! All of these end before the TUN device is opened, so no privilege is needed.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;
use wattle_agent::state::{Keys, Network, StateDir};
use wattle_model::{NodeIndex, UnixTime};
use wattle_wire::grant::{Grant, Holder, Peer, PeerSet, SignedGrant};
use wattle_wire::key::SecretKey;

#[test]
fn a_node_without_a_network_is_told_how_to_join() {
    let lab = Lab::new();
    drop(StateDir::open(&lab.state).unwrap());
    let refusal = lab.refusal(&[]);
    assert!(refusal.contains("has not joined a network"), "{refusal}");
    assert!(refusal.contains("wattle join"), "{refusal}");
}

#[test]
fn a_second_agent_on_the_same_state_directory_is_refused() {
    let lab = Lab::new();
    let _first = lab.member();
    let refusal = lab.refusal(&[]);
    assert!(
        refusal.contains("another agent uses the state directory"),
        "{refusal}"
    );
}

#[test]
fn keys_that_others_can_read_are_refused_before_anything_is_opened() {
    let lab = Lab::new();
    drop(lab.member());
    let key = lab.state.join("identity.key");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    let refusal = lab.refusal(&[]);
    assert!(refusal.contains("chmod 0600"), "{refusal}");
}

#[test]
fn a_network_without_coordinator_and_peer_set_is_refused() {
    let lab = Lab::new();
    drop(lab.member());
    std::fs::write(lab.state.join("peers.bin"), b"torn").unwrap();
    let refusal = lab.refusal(&[]);
    assert!(refusal.contains("no usable peer set"), "{refusal}");
}

#[test]
fn a_peer_set_of_another_root_is_refused() {
    let lab = Lab::new();
    let state = lab.member();
    let stranger = SecretKey::from_seed(&[8; 32]);
    let set = PeerSet::empty(stranger.public().network_id()).sign(&stranger);
    state.store_peers(&set).unwrap();
    drop(state);
    let refusal = lab.refusal(&[]);
    assert!(
        refusal.contains("the signature does not match"),
        "{refusal}"
    );
}

#[test]
fn keys_that_were_not_granted_are_refused() {
    for (file, words) in [
        ("identity.key", "is not in its network's peer set"),
        ("wireguard.key", "not the key that was granted"),
    ] {
        let lab = Lab::new();
        let state = lab.member();
        let foreign = format!("{}=\n", "A".repeat(43));
        state.store_file(file, foreign.as_bytes()).unwrap();
        drop(state);
        let refusal = lab.refusal(&[]);
        assert!(refusal.contains(words), "{file}: {refusal}");
    }
}

#[test]
fn a_members_missing_key_is_an_error_and_none_is_made_in_its_place() {
    for file in ["identity.key", "wireguard.key"] {
        let lab = Lab::new();
        drop(lab.member());
        std::fs::remove_file(lab.state.join(file)).unwrap();
        let before = listing(&lab.state);
        let refusal = lab.refusal(&[]);
        let named = format!("{file} is missing");
        assert!(refusal.contains(&named), "{refusal}");
        assert!(refusal.contains("restore the file"), "{refusal}");
        assert_eq!(listing(&lab.state), before, "{file}");
    }
}

#[test]
fn a_bad_configuration_is_refused_with_its_place_and_the_check_finds_it_too() {
    let lab = Lab::new();
    drop(lab.member());
    std::fs::write(
        lab.state.join("wattled.toml"),
        "mtu = 1360\nlisten_prot = 1\n",
    )
    .unwrap();
    for flags in [&[][..], &["--check-config"]] {
        let refusal = lab.refusal(flags);
        assert!(
            refusal.contains("wattled.toml:2:1: unknown key `listen_prot`"),
            "{refusal}"
        );
    }
    std::fs::write(lab.state.join("wattled.toml"), "mtu = 1360\n").unwrap();
    assert!(lab.start(&["--check-config"]).status.success());
    let refusal = lab.refusal(&["--check-config", "--metrics", "192.0.2.1:1"]);
    assert!(refusal.contains("loopback only"), "{refusal}");
}

#[test]
fn a_refused_start_leaves_the_state_as_it_was() {
    let lab = Lab::new();
    drop(lab.member());
    std::fs::write(lab.state.join("wattled.toml"), "mtu = 1\n").unwrap();
    let before = listing(&lab.state);
    lab.refusal(&[]);
    assert_eq!(listing(&lab.state), before);
}

/// A state directory, and an agent to start on it.
struct Lab {
    _parent: TempDir,
    state: PathBuf,
}

impl Lab {
    fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let state = parent.path().join("state");
        Self {
            _parent: parent,
            state,
        }
    }

    /// Makes the directory that of the only member of a network.
    fn member(&self) -> StateDir {
        let root = SecretKey::from_seed(&[7; 32]);
        let state = StateDir::open(&self.state).unwrap();
        let keys = state.keys().unwrap();
        state
            .store_peers(&set_of(&keys, &root).sign(&root))
            .unwrap();
        let network = Network {
            network: root.public().network_id(),
            name: "lab".to_owned(),
            root: root.public(),
            coordinator: None,
            ipv4: None,
            ipv6: None,
        };
        state.store_network(&network).unwrap();
        state
    }

    fn start(&self, flags: &[&str]) -> Output {
        let mut agent = Command::new(env!("CARGO_BIN_EXE_wattled"));
        agent
            .arg("--state")
            .arg(&self.state)
            .args(flags)
            .env_clear();
        agent.output().unwrap()
    }

    /// Starts the agent, which must end with 1 and say why on standard error.
    fn refusal(&self, flags: &[&str]) -> String {
        let output = self.start(flags);
        let words = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{words}");
        assert!(output.stdout.is_empty(), "standard output is for data");
        words
    }
}

fn set_of(keys: &Keys, root: &SecretKey) -> PeerSet {
    let mut set = PeerSet::empty(root.public().network_id());
    let grant = Grant {
        network: set.network,
        node: keys.node_id(),
        holder: Holder::Agent {
            identity: keys.identity_public(),
        },
        wireguard: keys.wireguard_public(),
        index: NodeIndex(1),
        name: "only".parse().unwrap(),
        addresses: vec![],
        prefixes: vec![],
        tags: vec![],
        site: None,
        serial: 1,
        not_after: UnixTime(u64::MAX),
    };
    let grant = SignedGrant::sign(grant, root);
    set.revision = 1;
    set.peers.insert(
        keys.node_id(),
        Peer {
            grant,
            candidates: vec![],
            neighbours: None,
        },
    );
    set
}

fn listing(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}
