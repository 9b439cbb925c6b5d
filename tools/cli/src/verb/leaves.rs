//! `wattle leaves`: stock WireGuard devices, attached to a node.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;
use wattle_agent::state::Keys;
use wattle_api::rest::{LeafCreated, LeafRequest, PRIVATE_KEY};
use wattle_model::{NodeName, WgKey};

use crate::args::{LeafArgs, LeavesVerb};
use crate::coordinator::{Coordinator, block_on};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::Output;
use crate::verb::answers;

/// A device that was attached.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Attached {
    /// Its name.
    name: NodeName,
    /// The node that hosts it.
    host: NodeName,
    #[serde(flatten)]
    leaf: LeafCreated,
    /// Where its settings are, if they were not printed.
    file: Option<PathBuf>,
}

/// Attaches devices.
pub(crate) fn run(verb: LeavesVerb, output: &mut Output) -> Outcome {
    match verb {
        LeavesVerb::Add(args) => add(args, output),
    }
}

fn add(args: LeafArgs, output: &mut Output) -> Outcome {
    let (public_key, private_key) = match args.public_key {
        Some(key) => (key, None),
        None => new_pair(),
    };
    let request = LeafRequest {
        name: args.name.clone(),
        host: args.host.clone(),
        public_key,
        addresses: args.address,
        prefixes: args.announce,
    };
    // Made first: a device whose settings cannot be kept is not attached.
    let target = args.output.as_deref().map(Target::make).transpose()?;
    let mut leaf: LeafCreated = block_on(async {
        let mut coordinator = Coordinator::connect(&args.coordinator).await?;
        coordinator.post("/leaves", &request).await
    })?;
    if let Some(key) = private_key {
        leaf.wg_quick = leaf.wg_quick.replace(PRIVATE_KEY, &key.to_string());
    } else {
        output.note("put the device's private key in the place of THE_KEY_OF_THIS_DEVICE");
    }
    if let Some(target) = target {
        target.fill(&leaf.wg_quick)?;
        // A secret that is in the file stands nowhere else.
        leaf.wg_quick.clear();
    }
    let attached = Attached {
        name: args.name,
        host: args.host,
        leaf,
        file: args.output.clone(),
    };
    output.answer(answers::LEAF, &attached, show)
}

/// A public key and its private key, which is kept nowhere here.
fn new_pair() -> (WgKey, Option<WgKey>) {
    let keys = Keys::generate();
    (
        keys.wireguard_public(),
        Some(WgKey(*keys.wireguard_private())),
    )
}

/// The file for a device's settings, which disappears unless it is filled.
#[derive(Debug)]
struct Target<'a> {
    path: &'a Path,
    file: File,
    filled: bool,
}

impl<'a> Target<'a> {
    fn make(path: &'a Path) -> Outcome<Self> {
        let mut options = OpenOptions::new();
        let made = options.write(true).create_new(true).mode(0o600).open(path);
        let file = made.map_err(|error| {
            let what = format!("cannot make {}", path.display());
            match error.kind() {
                ErrorKind::AlreadyExists => {
                    let why = "it exists, and may hold the key of another device";
                    Failure::new(Exit::Usage, what, why, "name another file: --output FILE")
                }
                _ => Failure::file(what, &error, "name another file: --output FILE"),
            }
        })?;
        Ok(Self {
            path,
            file,
            filled: false,
        })
    }

    fn fill(mut self, text: &str) -> Outcome {
        let written = self.file.write_all(text.as_bytes());
        written
            .and_then(|()| self.file.sync_all())
            .map_err(|error| {
                let what = format!("cannot write {}", self.path.display());
                let next = "wattle nodes remove NAME, then add the device again";
                Failure::file(what, &error, next)
            })?;
        self.filled = true;
        Ok(())
    }
}

impl Drop for Target<'_> {
    fn drop(&mut self) {
        if !self.filled {
            let _ = std::fs::remove_file(self.path);
        }
    }
}

fn show(attached: &Attached) -> String {
    match &attached.file {
        None => attached.leaf.wg_quick.clone(),
        Some(file) => format!(
            "{} is attached to {}; its settings for wg-quick are in {}",
            attached.name,
            attached.host,
            file.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_device_s_file_is_private_is_never_overwritten_and_goes_if_nothing_came_of_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("phone.conf");
        drop(Target::make(&path).unwrap());
        assert!(!path.exists());
        Target::make(&path).unwrap().fill("[Interface]\n").unwrap();
        let mode = path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(Target::make(&path).unwrap_err().exit, Exit::Usage);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[Interface]\n");
    }

    #[test]
    fn a_key_pair_that_is_made_here_belongs_together_and_is_made_anew() {
        let (public, private) = new_pair();
        let (other, _) = new_pair();
        assert_ne!(public, other);
        assert_ne!(private, Some(public));
    }
}
