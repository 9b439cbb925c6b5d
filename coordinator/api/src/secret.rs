//! Where a secret is: in a file, in a variable of the environment, or among the credentials that systemd hands over.
//!
//! Configuration holds such a reference, never the secret. This crate opens no file and asks no environment: whoever
//! reads hands in [`Secrets`].

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Names the directory of the credentials that systemd hands to a unit.
pub const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// What a secret's file may not allow: anything to others, more than reading to the group. The group reads because the
/// coordinator is seldom the owner: `root:wattle-coordinator`, or a systemd credential.
const FORBIDDEN: u32 = 0o037;

/// A reference to a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretRef {
    /// A file that holds it and nothing else but a line feed.
    File(PathBuf),
    /// A variable of the environment.
    Variable(String),
    /// A credential of systemd (`LoadCredential=`), by name.
    Credential(String),
}

/// How secrets are read.
pub trait Secrets {
    /// The permission bits of a file.
    fn mode(&self, path: &Path) -> io::Result<u32>;

    /// The text of a file.
    fn text(&self, path: &Path) -> io::Result<String>;

    /// A variable of the environment, if it is set.
    fn variable(&self, name: &str) -> Option<String>;
}

/// Why a secret cannot be used. `setting` is the setting that names it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Its file cannot be read.
    #[error("{setting} {path}: {source}", path = .path.display())]
    File {
        /// Which setting names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others than its owner and group may read a secret, or change it.
    #[error(
        "{setting} {path} is open to other users (mode {mode:04o}), so it may no longer be secret; run `chmod 0640 {path}` \
         with the coordinator's group as the file's, or hand it over as a systemd credential",
        path = .path.display()
    )]
    Exposed {
        /// Which setting names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The variable is not set, or empty.
    #[error(
        "{setting} names the variable {name}, which is not set: set it where the program starts"
    )]
    Variable {
        /// Which setting names it.
        setting: &'static str,
        /// The variable.
        name: String,
    },
    /// Not started by systemd, or without credentials.
    #[error(
        "{setting} names the credential {name}, but systemd handed over none: add `LoadCredential={name}:/path/to/it` to \
         the unit"
    )]
    NoCredentials {
        /// Which setting names it.
        setting: &'static str,
        /// The credential.
        name: String,
    },
}

impl SecretError {
    /// The setting that is about it.
    pub const fn setting(&self) -> &'static str {
        match self {
            Self::File { setting, .. }
            | Self::Exposed { setting, .. }
            | Self::Variable { setting, .. }
            | Self::NoCredentials { setting, .. } => setting,
        }
    }
}

impl SecretRef {
    /// The only one of three settings that is there; none if no one is, all of them if several are.
    pub fn only(
        file: Option<&Path>,
        variable: Option<&str>,
        credential: Option<&str>,
    ) -> Result<Option<Self>, Vec<Self>> {
        let file = file.map(|path| Self::File(path.to_owned()));
        let variable = variable.map(|name| Self::Variable(name.to_owned()));
        let credential = credential.map(|name| Self::Credential(name.to_owned()));
        let mut found: Vec<Self> = [file, variable, credential].into_iter().flatten().collect();
        if found.len() > 1 {
            return Err(found);
        }
        Ok(found.pop())
    }

    /// The file that holds it; none if a variable does.
    pub fn path(
        &self,
        setting: &'static str,
        secrets: &impl Secrets,
    ) -> Result<Option<PathBuf>, SecretError> {
        match self {
            Self::File(path) => Ok(Some(path.clone())),
            Self::Variable(_) => Ok(None),
            Self::Credential(name) => match secrets.variable(CREDENTIALS_DIRECTORY) {
                Some(directory) => Ok(Some(Path::new(&directory).join(name))),
                None => Err(SecretError::NoCredentials {
                    setting,
                    name: name.clone(),
                }),
            },
        }
    }

    /// Refuses a secret whose file others could have read.
    pub fn check(&self, setting: &'static str, secrets: &impl Secrets) -> Result<(), SecretError> {
        let Some(path) = self.path(setting, secrets)? else {
            return Ok(());
        };
        let mode = secrets.mode(&path).map_err(|source| SecretError::File {
            setting,
            path: path.clone(),
            source,
        })?;
        let mode = mode & 0o7777;
        if mode & FORBIDDEN == 0 {
            return Ok(());
        }
        Err(SecretError::Exposed {
            setting,
            path,
            mode,
        })
    }

    /// Reads it, without the line feed at its end. A file that others can read is refused.
    pub fn read(
        &self,
        setting: &'static str,
        secrets: &impl Secrets,
    ) -> Result<Zeroizing<String>, SecretError> {
        self.check(setting, secrets)?;
        let text = match self.path(setting, secrets)? {
            Some(path) => secrets.text(&path).map_err(|source| SecretError::File {
                setting,
                path,
                source,
            })?,
            None => self.variable_of(setting, secrets)?,
        };
        let text = Zeroizing::new(text);
        Ok(Zeroizing::new(
            text.trim_end_matches(['\r', '\n']).to_owned(),
        ))
    }

    fn variable_of(
        &self,
        setting: &'static str,
        secrets: &impl Secrets,
    ) -> Result<String, SecretError> {
        let name = match self {
            Self::Variable(name) | Self::Credential(name) => name,
            Self::File(_) => "",
        };
        let value = secrets.variable(name).filter(|value| !value.is_empty());
        value.ok_or_else(|| SecretError::Variable {
            setting,
            name: name.to_owned(),
        })
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Credential(name) => write!(f, "credential {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Files with their permission bits and texts, and variables.
    #[derive(Default)]
    struct World {
        files: BTreeMap<&'static str, (u32, &'static str)>,
        variables: BTreeMap<&'static str, &'static str>,
    }

    impl Secrets for World {
        fn mode(&self, path: &Path) -> io::Result<u32> {
            let file = self.files.get(path.to_str().unwrap());
            file.map(|file| file.0)
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        }

        fn text(&self, path: &Path) -> io::Result<String> {
            self.mode(path)?;
            Ok(self.files[path.to_str().unwrap()].1.to_owned())
        }

        fn variable(&self, name: &str) -> Option<String> {
            self.variables.get(name).map(|&value| value.to_owned())
        }
    }

    #[test]
    fn a_secret_is_read_from_wherever_it_is() {
        let world = World {
            files: [
                ("/p", (0o640, "file's\r\n")),
                ("/run/c/k", (0o400, "unit's")),
            ]
            .into(),
            variables: [(CREDENTIALS_DIRECTORY, "/run/c"), ("PW", "environment's\n")].into(),
        };
        for (reference, value) in [
            (SecretRef::File("/p".into()), "file's"),
            (SecretRef::Variable("PW".into()), "environment's"),
            (SecretRef::Credential("k".into()), "unit's"),
        ] {
            assert_eq!(*reference.read("s", &world).unwrap(), value, "{reference}");
        }
    }

    #[test]
    fn a_secret_that_is_not_there_or_not_secret_is_refused_with_a_hint() {
        let world = World {
            files: [("/open", (0o644, "x"))].into(),
            variables: [("EMPTY", "")].into(),
        };
        for (reference, words) in [
            (SecretRef::File("/open".into()), "chmod 0640 /open"),
            (SecretRef::File("/none".into()), "s /none: "),
            (
                SecretRef::Variable("PW".into()),
                "the variable PW, which is not set",
            ),
            (
                SecretRef::Variable("EMPTY".into()),
                "the variable EMPTY, which is not set",
            ),
            (SecretRef::Credential("k".into()), "LoadCredential=k:"),
        ] {
            let error = reference.read("s", &world).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn only_one_of_three_settings_may_name_a_secret() {
        assert_eq!(SecretRef::only(None, None, None), Ok(None));
        let one = SecretRef::only(None, Some("PW"), None);
        assert_eq!(one, Ok(Some(SecretRef::Variable("PW".into()))));
        let two = SecretRef::only(Some(Path::new("/p")), None, Some("k"));
        assert_eq!(two.unwrap_err().len(), 2);
    }
}
