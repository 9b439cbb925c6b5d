//! Secrets as this host has them: in its files and in the environment of this process.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use wattle_api::secret::Secrets;

/// Reads files and the environment.
#[derive(Debug, Clone, Copy)]
pub struct HostSecrets;

impl Secrets for HostSecrets {
    fn mode(&self, path: &Path) -> std::io::Result<u32> {
        Ok(path.metadata()?.mode())
    }

    fn text(&self, path: &Path) -> std::io::Result<String> {
        std::fs::read_to_string(path)
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}
