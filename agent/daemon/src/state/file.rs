//! Private files: mode 0600, replaced atomically, refused when others can read them.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::O_NOFOLLOW;
use nix::unistd::Uid;

use super::StateError;

/// No file of a state directory is larger: a peer set of 65,536 nodes fits.
const MAX_SIZE: u64 = 64 << 20;

/// Reads a file of the directory; `None` if it is not there.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    let file = match OpenOptions::new()
        .read(true)
        .custom_flags(O_NOFOLLOW)
        .open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StateError::io("read", path)(error)),
    };
    let mut content = Vec::new();
    file.take(MAX_SIZE)
        .read_to_end(&mut content)
        .map_err(StateError::io("read", path))?;
    Ok(Some(content))
}

/// Reads a file that holds a secret; refuses it if anybody else could have.
pub(super) fn read_secret(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StateError::io("look at", path)(error)),
        Ok(metadata) => refuse_exposed(path, &metadata)?,
    }
    read(path)
}

fn refuse_exposed(path: &Path, metadata: &Metadata) -> Result<(), StateError> {
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StateError::Exposed {
            path: path.to_owned(),
            mode,
            right: 0o600,
        });
    }
    refuse_foreign_owner(path, metadata)
}

pub(super) fn refuse_foreign_owner(path: &Path, metadata: &Metadata) -> Result<(), StateError> {
    let user = Uid::effective();
    if user.is_root() || metadata.uid() == user.as_raw() {
        return Ok(());
    }
    let (owner, user) = (metadata.uid(), user.as_raw());
    Err(StateError::ForeignOwner {
        path: path.to_owned(),
        owner,
        user,
    })
}

/// Opens a file for writing, made with mode 0600 when it is missing.
pub(super) fn open_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.mode(0o600).custom_flags(O_NOFOLLOW).open(path)
}

/// Replaces `directory/name`: after this, also after a power cut, the file has the old or the new content.
pub(super) fn replace(directory: &Path, name: &str, content: &[u8]) -> Result<(), StateError> {
    let (path, temporary) = (directory.join(name), directory.join(format!(".{name}.tmp")));
    let write = || -> io::Result<()> {
        let mut file = open_private(&temporary)?;
        file.set_len(0)?;
        file.write_all(content)?;
        give_to_owner_of(directory, &file)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        sync_directory(directory)
    };
    write().map_err(StateError::io("write", &path))
}

/// Removes `directory/name`; content that is not there is removed already.
pub(super) fn remove(directory: &Path, name: &str) -> Result<(), StateError> {
    let path = directory.join(name);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StateError::io("remove", &path)(error))
        }
        _ => sync_directory(directory).map_err(StateError::io("remove", &path)),
    }
}

pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The operator's `wattle join` runs as root, the agent as the directory's owner: what root writes, it hands over.
pub(super) fn give_to_owner_of(directory: &Path, file: &File) -> io::Result<()> {
    let owner = directory.metadata()?;
    if Uid::effective().is_root() && owner.uid() != 0 {
        std::os::unix::fs::fchown(file, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}
