//! The coordinator's state directory: the network's root key, the TLS certificate, the administrator's token, and what
//! `init` was told. Everything is 0600 in a directory of 0700; what others can read is refused.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::engine::{Engine as _, general_purpose::URL_SAFE_NO_PAD};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wattle_fleet::AddressPlan;
use wattle_model::Prefix;
use wattle_store::give_to_owner_of;
use wattle_wire::key::SecretKey;

const ROOT_KEY: &str = "root.key";
const TLS_KEY: &str = "tls.key";
const TLS_CERTIFICATE: &str = "tls.crt";
const FINGERPRINT: &str = "fingerprint";
const ADMIN_TOKEN: &str = "admin.token";
const NETWORK: &str = "network.json";
const DATABASE: &str = "coordinator.db";

/// Why the state directory cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// `init` would overwrite a network.
    #[error(
        "{0} holds a network already; give another --state, or remove the directory to begin anew"
    )]
    Exists(PathBuf),
    /// `init` was not run.
    #[error(
        "{} holds no network; run `wattle-coordinator init --state {} --network NAME` first",
        .0.display(),
        .0.display()
    )]
    Missing(PathBuf),
    /// Others can read a secret.
    #[error("{path} can be read by others (mode {mode:o}); run `chmod go-rwx {path}`", path = .path.display())]
    Exposed {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The kernel refused.
    #[error("cannot {doing} {path}: {source}", path = .path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} is damaged ({why}); restore it from a backup", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The certificate cannot be made.
    #[error("cannot make the TLS certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// There is no randomness.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
}

impl From<getrandom::Error> for StateError {
    fn from(error: getrandom::Error) -> Self {
        Self::Random(error)
    }
}

/// What `init` was told, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkFile {
    /// Name of the network.
    pub(crate) name: String,
    /// IPv4 addresses of the nodes.
    pub(crate) ipv4: Option<Prefix>,
    /// IPv6 addresses of the nodes.
    pub(crate) ipv6: Option<Prefix>,
    /// Where to listen.
    pub(crate) listen: SocketAddr,
    /// `host:port` where agents find the coordinator.
    pub(crate) public_addresses: Vec<String>,
}

/// A state directory that was read.
pub(crate) struct StateDir {
    path: PathBuf,
    /// The network's trust root.
    pub(crate) root: SecretKey,
    /// The certificate that agents pin.
    pub(crate) certificate: CertificateDer<'static>,
    /// Its private key.
    pub(crate) key: PrivateKeyDer<'static>,
    /// SHA-256 of the certificate.
    pub(crate) fingerprint: [u8; 32],
    /// SHA-256 of the administrator's token: the token itself is not needed after the start.
    pub(crate) admin_hash: [u8; 32],
    /// What `init` was told.
    pub(crate) network: NetworkFile,
}

impl StateDir {
    /// Makes the directory of a new network.
    pub(crate) fn init(
        path: &Path,
        network: impl FnOnce(&SecretKey) -> NetworkFile,
    ) -> Result<Self, StateError> {
        if path.join(NETWORK).exists() {
            return Err(StateError::Exists(path.to_owned()));
        }
        make_directory(path)?;
        let root = SecretKey::from_seed(&random()?);
        let network = network(&root);
        write(
            path,
            ROOT_KEY,
            format!("{}\n", *root.to_base64()).as_bytes(),
        )?;
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
        let mut parameters = rcgen::CertificateParams::new(vec!["wattle-coordinator".to_owned()])?;
        parameters
            .distinguished_name
            .push(rcgen::DnType::CommonName, network.name.as_str());
        let certificate = parameters.self_signed(&key)?;
        write(path, TLS_KEY, key.serialize_pem().as_bytes())?;
        write(path, TLS_CERTIFICATE, certificate.pem().as_bytes())?;
        write(
            path,
            FINGERPRINT,
            format!("{}\n", hex(&Sha256::digest(certificate.der()))).as_bytes(),
        )?;
        let token = format!("wattle-admin-{}\n", URL_SAFE_NO_PAD.encode(random()?));
        write(path, ADMIN_TOKEN, token.as_bytes())?;
        // Last: a directory that names a network is complete.
        let text = serde_json::to_vec_pretty(&network)
            .map_err(|why| damaged(path.join(NETWORK), why.to_string()))?;
        write(path, NETWORK, &text)?;
        Self::open(path)
    }

    /// Reads a directory that `init` made.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        if !path.join(NETWORK).exists() {
            return Err(StateError::Missing(path.to_owned()));
        }
        refuse_exposed(path)?;
        let network = read(path, NETWORK)?;
        let network = serde_json::from_str(&network)
            .map_err(|why| damaged(path.join(NETWORK), why.to_string()))?;
        let root = SecretKey::from_base64(&read(path, ROOT_KEY)?)
            .map_err(|why| damaged(path.join(ROOT_KEY), why.to_string()))?;
        let certificate = CertificateDer::from_pem_slice(read(path, TLS_CERTIFICATE)?.as_bytes())
            .map_err(|why| damaged(path.join(TLS_CERTIFICATE), why.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(read(path, TLS_KEY)?.as_bytes())
            .map_err(|why| damaged(path.join(TLS_KEY), why.to_string()))?;
        let fingerprint = Sha256::digest(&certificate).into();
        let admin_hash = Sha256::digest(read(path, ADMIN_TOKEN)?.trim().as_bytes()).into();
        Ok(Self {
            path: path.to_owned(),
            root,
            certificate,
            key,
            fingerprint,
            admin_hash,
            network,
        })
    }

    /// The database.
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// The addresses of the nodes.
    pub(crate) const fn plan(&self) -> AddressPlan {
        AddressPlan {
            ipv4: self.network.ipv4,
            ipv6: self.network.ipv6,
        }
    }
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 256 random bits.
pub(crate) fn random() -> Result<[u8; 32], StateError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

fn make_directory(path: &Path) -> Result<(), StateError> {
    let failed = |source| StateError::Io {
        doing: "make",
        path: path.to_owned(),
        source,
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed)?;
    refuse_exposed(path)
}

fn refuse_exposed(path: &Path) -> Result<(), StateError> {
    let failed = |source| StateError::Io {
        doing: "look at",
        path: path.to_owned(),
        source,
    };
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        Ok(())
    } else {
        Err(StateError::Exposed {
            path: path.to_owned(),
            mode,
        })
    }
}

fn read(directory: &Path, name: &str) -> Result<String, StateError> {
    let path = directory.join(name);
    let failed = |source| StateError::Io {
        doing: "read",
        path: path.clone(),
        source,
    };
    let text = fs::read_to_string(&path).map_err(failed)?;
    refuse_exposed(&path)?;
    Ok(text)
}

/// Written aside, flushed and renamed: a crash leaves the old file or the whole new one.
fn write(directory: &Path, name: &str, content: &[u8]) -> Result<(), StateError> {
    let path = directory.join(name);
    let aside = directory.join(format!("{name}.new"));
    let write = || {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&aside)?;
        file.write_all(content)?;
        give_to_owner_of(directory, &file)?;
        file.sync_all()?;
        fs::rename(&aside, &path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|source| StateError::Io {
        doing: "write",
        path: path.clone(),
        source,
    })
}

const fn damaged(path: PathBuf, why: String) -> StateError {
    StateError::Damaged { path, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn init(path: &Path) -> Result<StateDir, StateError> {
        StateDir::init(path, |root| {
            let plan = AddressPlan::default_of(root.public().network_id());
            NetworkFile {
                name: "lab".into(),
                ipv4: plan.ipv4,
                ipv6: plan.ipv6,
                listen: "127.0.0.1:0".parse().unwrap(),
                public_addresses: vec![],
            }
        })
    }

    #[test]
    fn a_directory_reads_back_as_it_was_made_and_is_not_made_twice() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        assert!(matches!(StateDir::open(&path), Err(StateError::Missing(_))));
        let made = init(&path).unwrap();
        let read = StateDir::open(&path).unwrap();
        assert_eq!(made.fingerprint, read.fingerprint);
        assert_eq!(made.root.public(), read.root.public());
        assert_eq!(
            fs::read_to_string(path.join(FINGERPRINT)).unwrap().trim(),
            hex(&read.fingerprint)
        );
        assert!(matches!(init(&path), Err(StateError::Exists(_))));
    }

    /// Run by root it is the story of `sudo wattle init`: the package made the directory for the coordinator's user.
    #[test]
    fn every_file_belongs_to_the_owner_of_the_directory() {
        use std::os::unix::fs::MetadataExt as _;
        const COORDINATOR: u32 = 65_534;
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        make_directory(&path).unwrap();
        if nix::unistd::Uid::effective().is_root() {
            std::os::unix::fs::chown(&path, Some(COORDINATOR), Some(COORDINATOR)).unwrap();
        }
        let owner = path.metadata().unwrap().uid();
        init(&path).unwrap();
        let mut seen = 0;
        for entry in fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap();
            let file = entry.metadata().unwrap();
            assert_eq!(file.uid(), owner, "{:?}", entry.file_name());
            seen += 1;
        }
        assert_eq!(
            seen, 6,
            "root key, TLS key and certificate, fingerprint, token, network"
        );
    }

    #[test]
    fn secrets_that_others_can_read_are_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        init(&path).unwrap();
        fs::set_permissions(path.join(ROOT_KEY), fs::Permissions::from_mode(0o640)).unwrap();
        let refusal = StateDir::open(&path).err().unwrap().to_string();
        assert!(
            refusal.contains("root.key") && refusal.contains("chmod go-rwx"),
            "{refusal}"
        );
    }

    #[test]
    fn damaged_files_are_named() {
        for name in [ROOT_KEY, TLS_KEY, TLS_CERTIFICATE, NETWORK] {
            let parent = tempfile::tempdir().unwrap();
            let path = parent.path().join("state");
            init(&path).unwrap();
            fs::write(path.join(name), "nonsense").unwrap();
            let refusal = StateDir::open(&path).err().unwrap().to_string();
            assert!(
                refusal.contains(name) && refusal.contains("damaged"),
                "{refusal}"
            );
        }
    }
}
