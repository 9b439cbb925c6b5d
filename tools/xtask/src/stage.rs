//! A tree of files as a package will install it, with their modes, whatever the builder's umask is.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::command;

/// What a file is, which decides its mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Run by people or by dpkg.
    Program,
    /// Read by everybody.
    Data,
}

/// The tree.
pub(crate) struct Stage {
    root: PathBuf,
}

impl Stage {
    /// An empty tree; what stood there is removed.
    pub(crate) fn empty(root: PathBuf) -> Result<Self> {
        if root.exists() {
            fs::remove_dir_all(&root)
                .with_context(|| format!("cannot remove {}", root.display()))?;
        }
        let stage = Self { root };
        stage.directory("")?;
        Ok(stage)
    }

    /// Where the tree begins.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Copies a file of the builder to `target`.
    pub(crate) fn copy(&self, source: &Path, target: &str, kind: Kind) -> Result<()> {
        let content =
            fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        self.write(target, &content, kind)
    }

    /// Makes a file with this content.
    pub(crate) fn write(&self, target: &str, content: &[u8], kind: Kind) -> Result<()> {
        let path = self.path(target)?;
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        set_mode(&path, if kind == Kind::Program { 0o755 } else { 0o644 })
    }

    /// Compresses a file, as Debian wants pages and changelogs.
    pub(crate) fn compress(&self, target: &str) -> Result<()> {
        // -n leaves out name and time, so that two builds are equal.
        let path = self.path(target)?;
        command::run("gzip", &[Path::new("-9nf"), &path])
    }

    /// Removes debugging symbols.
    pub(crate) fn strip(&self, target: &str) -> Result<()> {
        let path = self.path(target)?;
        command::run(
            "strip",
            &[
                Path::new("--strip-unneeded"),
                Path::new("--remove-section=.comment"),
                &path,
            ],
        )
    }

    /// All files, relative to the root, in order.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        let mut directories = vec![self.root.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory)? {
                let path = entry?.path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    files.push(path.strip_prefix(&self.root)?.to_owned());
                }
            }
        }
        files.sort();
        Ok(files)
    }

    fn path(&self, target: &str) -> Result<PathBuf> {
        if let Some((parent, _)) = target.rsplit_once('/') {
            self.directory(parent)?;
        }
        Ok(self.root.join(target))
    }

    fn directory(&self, target: &str) -> Result<()> {
        let mut path = self.root.clone();
        for part in Path::new(target) {
            path.push(part);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
            set_mode(&path, 0o755)?;
        }
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        set_mode(&path, 0o755)
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_do_not_depend_on_the_builder() {
        let root = std::env::temp_dir().join(format!("wattle-stage-{}", std::process::id()));
        let stage = Stage::empty(root.clone()).unwrap();
        stage.write("usr/bin/a", b"", Kind::Program).unwrap();
        stage.write("etc/b", b"", Kind::Data).unwrap();
        let mode = |path: &str| root.join(path).metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(
            [mode(""), mode("usr/bin"), mode("usr/bin/a"), mode("etc/b")],
            [0o755, 0o755, 0o755, 0o644]
        );
        assert_eq!(
            stage.files().unwrap(),
            [PathBuf::from("etc/b"), PathBuf::from("usr/bin/a")]
        );
        fs::remove_dir_all(root).unwrap();
    }
}
