//! `peers.bin`: the last accepted signed peer set, with a checksum, and the one before it.
//!
//! Layout: magic `wattleps` (8), version (u32 BE), length (u64 BE), SHA-256 of the content (32), content.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{StateError, file};

pub(super) const FILE: &str = "peers.bin";
pub(super) const PREVIOUS: &str = "peers.bin.prev";
const MAGIC: &[u8; 8] = b"wattleps";
const VERSION: u32 = 1;
const HEADER: usize = 8 + 4 + 8 + 32;

/// Which of the two copies was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeersFrom {
    /// The last accepted set.
    Latest,
    /// The set before it, because the last one's file is damaged.
    Previous,
    /// There is no usable set.
    Nowhere,
}

/// What was found on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeersFile {
    /// The bytes as they were stored, if there are any.
    pub signed_set: Option<Vec<u8>>,
    /// Which copy they come from.
    pub from: PeersFrom,
    /// What is wrong with the copies that were not used.
    pub damages: Vec<Damage>,
}

/// A copy that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

pub(super) fn load(directory: &Path) -> Result<PeersFile, StateError> {
    let mut damages = Vec::new();
    for (name, from) in [(FILE, PeersFrom::Latest), (PREVIOUS, PeersFrom::Previous)] {
        let path = directory.join(name);
        let Some(content) = file::read(&path)? else {
            continue;
        };
        match unseal(&content) {
            Ok(set) => {
                return Ok(PeersFile {
                    signed_set: Some(set.to_vec()),
                    from,
                    damages,
                });
            }
            Err(reason) => damages.push(Damage { path, reason }),
        }
    }
    Ok(PeersFile {
        signed_set: None,
        from: PeersFrom::Nowhere,
        damages,
    })
}

pub(super) fn store(directory: &Path, signed_set: &[u8]) -> Result<(), StateError> {
    let latest = directory.join(FILE);
    // A damaged file must not push out the intact copy.
    if let Some(content) = file::read(&latest)?.filter(|content| unseal(content).is_ok()) {
        file::replace(directory, PREVIOUS, &content)?;
    }
    file::replace(directory, FILE, &seal(signed_set))
}

fn seal(content: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(HEADER + content.len());
    sealed.extend_from_slice(MAGIC);
    sealed.extend_from_slice(&VERSION.to_be_bytes());
    sealed.extend_from_slice(&(content.len() as u64).to_be_bytes());
    sealed.extend_from_slice(&Sha256::digest(content));
    sealed.extend_from_slice(content);
    sealed
}

fn unseal(sealed: &[u8]) -> Result<&[u8], String> {
    if sealed.is_empty() {
        return Err("it is empty".to_owned());
    }
    let Some((header, content)) = sealed.split_at_checked(HEADER) else {
        return Err(format!(
            "it ends after {} bytes, inside its header",
            sealed.len()
        ));
    };
    if !header.starts_with(MAGIC) {
        return Err("it is no peer set of Wattle".to_owned());
    }
    let version = u32::from_be_bytes(header[8..12].try_into().expect("four bytes"));
    if version != VERSION {
        return Err(format!(
            "it has format version {version}, this agent reads {VERSION}"
        ));
    }
    let length = u64::from_be_bytes(header[12..20].try_into().expect("eight bytes"));
    if length != content.len() as u64 {
        return Err(format!(
            "it should hold {length} bytes and holds {}",
            content.len()
        ));
    }
    if Sha256::digest(content)[..] != header[20..] {
        return Err("its checksum does not match its content".to_owned());
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_stored_is_nothing_found() {
        let directory = tempfile::tempdir().unwrap();
        let found = load(directory.path()).unwrap();
        assert_eq!((found.signed_set, found.from), (None, PeersFrom::Nowhere));
    }

    #[test]
    fn the_last_set_is_read_and_the_one_before_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        store(directory.path(), b"one").unwrap();
        store(directory.path(), b"two").unwrap();
        let found = load(directory.path()).unwrap();
        assert_eq!(
            (found.signed_set.unwrap(), found.from),
            (b"two".to_vec(), PeersFrom::Latest)
        );
        std::fs::remove_file(directory.path().join(FILE)).unwrap();
        let found = load(directory.path()).unwrap();
        assert_eq!(
            (found.signed_set.unwrap(), found.from),
            (b"one".to_vec(), PeersFrom::Previous)
        );
    }

    #[test]
    fn every_truncation_falls_back_to_the_previous_set() {
        let directory = tempfile::tempdir().unwrap();
        store(directory.path(), b"one").unwrap();
        store(directory.path(), b"two").unwrap();
        let whole = std::fs::read(directory.path().join(FILE)).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(directory.path().join(FILE), &whole[..cut]).unwrap();
            let found = load(directory.path()).unwrap();
            assert_eq!(
                found.signed_set.as_deref(),
                Some(&b"one"[..]),
                "cut at {cut}"
            );
            assert_eq!((found.from, found.damages.len()), (PeersFrom::Previous, 1));
        }
    }

    #[test]
    fn every_flipped_bit_falls_back_to_the_previous_set() {
        let directory = tempfile::tempdir().unwrap();
        store(directory.path(), b"one").unwrap();
        store(directory.path(), b"two").unwrap();
        let whole = std::fs::read(directory.path().join(FILE)).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_damaged_file_does_not_push_out_the_intact_copy() {
        let directory = tempfile::tempdir().unwrap();
        store(directory.path(), b"one").unwrap();
        store(directory.path(), b"two").unwrap();
        std::fs::write(directory.path().join(FILE), b"").unwrap();
        store(directory.path(), b"three").unwrap();
        std::fs::write(directory.path().join(FILE), b"torn").unwrap();
        assert_eq!(
            load(directory.path()).unwrap().signed_set.as_deref(),
            Some(&b"one"[..])
        );
    }

    #[test]
    fn an_unknown_version_is_named() {
        let mut sealed = seal(b"x");
        sealed[11] = 9;
        assert!(unseal(&sealed).unwrap_err().contains("format version 9"));
    }
}
