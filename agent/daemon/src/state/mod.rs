//! The state directory of a node: everything that must outlive the process.
//!
//! | file | holds |
//! |---|---|
//! | `identity.key` | Ed25519 seed, base64; made on the node, never leaves it |
//! | `wireguard.key` | X25519 private key, base64 as `wg genkey` prints it |
//! | `network.json` | which network this node has joined, and whom it trusts |
//! | `peers.bin`, `peers.bin.prev` | the last two accepted signed peer sets, with checksums |
//! | `epoch` | how often the agent has started |
//! | `lock` | held by the one agent that uses the directory |
//!
//! Writes are atomic (temporary file, fsync, rename, fsync of the directory). Whatever a crash or a failing disk
//! leaves behind is survived or refused with what to do. Knows nothing of what a peer set says: it stores bytes.

mod epoch;
mod file;
mod keys;
mod network;
mod peers;

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

pub use keys::Keys;
pub use network::{CoordinatorAddress, Fingerprint, FingerprintError, Network};
pub use peers::{PeersFile, PeersFrom};

/// Where the state directory is unless told otherwise.
pub const DEFAULT_STATE: &str = "/var/lib/wattle";

/// Why the state directory cannot be used; each says what, why and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file or the directory could not be read or written.
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    Io {
        /// What was being done, as a verb.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Others than the owner may read a secret or look into the directory.
    #[error(
        "{path} is open to other users (mode {mode:04o}), so what it holds may no longer be secret; \
         if it still is, run `chmod {right:04o} {path}`",
        path = path.display()
    )]
    Exposed {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        right: u32,
    },
    /// The file belongs to another user.
    #[error(
        "{path} belongs to user {owner}, the agent runs as user {user}; \
         run `chown {user} {path}` or start the agent as its owner",
        path = path.display()
    )]
    ForeignOwner {
        /// The file or directory.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// Another agent holds the directory's lock.
    #[error(
        "another agent uses the state directory {path}; stop it first \
         (`systemctl stop wattled`), or give this one a directory of its own with --state",
        path = path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The file's content is damaged and there is no other copy.
    #[error("{path} is damaged: {reason}; {remedy}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What the operator can do.
        remedy: &'static str,
    },
    /// A member's key is gone.
    #[error(
        "{path} is missing, but this node is a member of a network and nobody would know a new key; \
         restore the file from a backup, or run `wattle leave` and join again with a fresh token",
        path = path.display()
    )]
    MissingKey {
        /// The file.
        path: PathBuf,
    },
    /// There is something already where a state directory should be made.
    #[error("{path} exists; remove it first, or choose another directory", path = path.display())]
    Exists {
        /// The file that is in the way.
        path: PathBuf,
    },
}

impl StateError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }
}

/// A state directory that this process holds alone, for as long as the value lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl StateDir {
    /// Opens the directory, making it when it is missing, and takes its lock.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        if !path.exists() {
            make_directory(path)?;
        }
        refuse_exposed_directory(path)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock(path)?,
        })
    }

    /// Makes a new state directory; refuses one that already has an identity.
    pub fn create(path: &Path) -> Result<Self, StateError> {
        let identity = path.join(keys::IDENTITY_FILE);
        if identity.exists() {
            return Err(StateError::Exists { path: identity });
        }
        Self::open(path)
    }

    /// Where the directory is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The node's keys; made and stored when there are none.
    pub fn keys(&self) -> Result<Keys, StateError> {
        Keys::load_or_create(&self.path)
    }

    /// The keys that a member was granted; never made anew.
    pub fn granted_keys(&self) -> Result<Keys, StateError> {
        Keys::load(&self.path)
    }

    /// The network this node has joined, if any.
    pub fn network(&self) -> Result<Option<Network>, StateError> {
        network::load(&self.path)
    }

    /// Stores which network this node has joined.
    pub fn store_network(&self, network: &Network) -> Result<(), StateError> {
        network::store(&self.path, network)
    }

    /// The last accepted peer set, or the one before it when that file is damaged.
    pub fn peers(&self) -> Result<PeersFile, StateError> {
        peers::load(&self.path)
    }

    /// Stores an accepted peer set; the last intact one becomes the previous copy.
    pub fn store_peers(&self, signed_set: &[u8]) -> Result<(), StateError> {
        peers::store(&self.path, signed_set)
    }

    /// Whether there is a previous copy of the peer set, intact or not.
    pub fn has_previous_peers(&self) -> bool {
        self.path.join(peers::PREVIOUS).exists()
    }

    /// Counts this start: returns a number above that of every earlier start, on disk before this returns.
    pub fn next_epoch(&self) -> Result<u32, StateError> {
        epoch::bump(&self.path)
    }

    /// Puts a file of any content into the directory, atomically, mode 0600.
    pub fn store_file(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        file::replace(&self.path, name, content)
    }

    /// Forgets the network: its description and its peer sets go, keys and epoch stay.
    pub fn forget_network(&self) -> Result<(), StateError> {
        for name in [network::FILE, peers::FILE, peers::PREVIOUS] {
            file::remove(&self.path, name)?;
        }
        Ok(())
    }
}

/// Whether the state directory at `path` names a network, without locking or making anything.
pub fn has_network(path: &Path) -> bool {
    path.join(network::FILE).exists()
}

fn make_directory(path: &Path) -> Result<(), StateError> {
    let mut builder = std::fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(StateError::io("make", path))
}

fn refuse_exposed_directory(path: &Path) -> Result<(), StateError> {
    let metadata = std::fs::metadata(path).map_err(StateError::io("look at", path))?;
    if !metadata.is_dir() {
        return Err(StateError::Exists {
            path: path.to_owned(),
        });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StateError::Exposed {
            path: path.to_owned(),
            mode,
            right: 0o700,
        });
    }
    file::refuse_foreign_owner(path, &metadata)
}

fn lock(directory: &Path) -> Result<Flock<File>, StateError> {
    let path = directory.join("lock");
    let file = file::open_private(&path).map_err(StateError::io("open", &path))?;
    file::give_to_owner_of(directory, &file).map_err(StateError::io("hand over", &path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => StateError::InUse {
            path: directory.to_owned(),
        },
        errno => StateError::Io {
            doing: "lock",
            path,
            source: errno.into(),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn new_directory() -> (tempfile::TempDir, PathBuf) {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        (parent, path)
    }

    #[test]
    fn a_missing_directory_is_made_private_with_keys_of_its_own() {
        let (_parent, path) = new_directory();
        let state = StateDir::open(&path).unwrap();
        let keys = state.keys().unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        for name in ["identity.key", "wireguard.key"] {
            let mode = path.join(name).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        assert_eq!(
            state.keys().unwrap().node_id(),
            keys.node_id(),
            "keys are made once"
        );
    }

    #[test]
    fn a_second_agent_is_refused_until_the_first_is_gone() {
        let (_parent, path) = new_directory();
        let first = StateDir::open(&path).unwrap();
        assert!(matches!(
            StateDir::open(&path),
            Err(StateError::InUse { .. })
        ));
        drop(first);
        assert!(StateDir::open(&path).is_ok());
    }

    #[test]
    fn keys_that_others_can_read_are_refused() {
        let (_parent, path) = new_directory();
        let state = StateDir::open(&path).unwrap();
        state.keys().unwrap();
        for (name, mode) in [("identity.key", 0o640), ("wireguard.key", 0o604)] {
            let key = path.join(name);
            std::fs::set_permissions(&key, PermissionsExt::from_mode(mode)).unwrap();
            let error = state.keys().unwrap_err();
            assert!(error.to_string().contains("chmod 0600"), "{error}");
            std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
        }
    }

    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        let (_parent, path) = new_directory();
        drop(StateDir::open(&path).unwrap());
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let error = StateDir::open(&path).unwrap_err();
        assert!(error.to_string().contains("chmod 0700"), "{error}");
    }

    #[test]
    fn a_directory_with_an_identity_is_not_created_over() {
        let (_parent, path) = new_directory();
        StateDir::create(&path).unwrap().keys().unwrap();
        assert!(matches!(
            StateDir::create(&path),
            Err(StateError::Exists { .. })
        ));
    }

    /// Run by root it is the story of `sudo wattle join`: the package made the directory for the agent's user.
    #[test]
    fn every_file_belongs_to_the_owner_of_the_directory() {
        const AGENT: u32 = 65_534;
        let (_parent, path) = new_directory();
        make_directory(&path).unwrap();
        if nix::unistd::Uid::effective().is_root() {
            std::os::unix::fs::chown(&path, Some(AGENT), Some(AGENT)).unwrap();
        }
        let directory = path.metadata().unwrap();
        let state = StateDir::open(&path).unwrap();
        state.keys().unwrap();
        state.store_network(&network::example()).unwrap();
        state.store_peers(b"one").unwrap();
        let mut seen = 0;
        for entry in std::fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap();
            let file = entry.metadata().unwrap();
            assert_eq!(file.uid(), directory.uid(), "{:?}", entry.file_name());
            seen += 1;
        }
        assert_eq!(seen, 5, "two keys, network, peer set, lock");
    }

    #[test]
    fn leaving_keeps_the_identity() {
        let (_parent, path) = new_directory();
        let state = StateDir::open(&path).unwrap();
        let before = state.keys().unwrap().node_id();
        state.store_network(&network::example()).unwrap();
        state.store_peers(b"one").unwrap();
        state.store_peers(b"two").unwrap();
        state.forget_network().unwrap();
        assert!(state.network().unwrap().is_none());
        assert!(state.peers().unwrap().signed_set.is_none());
        assert_eq!(state.keys().unwrap().node_id(), before);
    }
}
