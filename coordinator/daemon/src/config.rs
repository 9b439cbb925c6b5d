//! `coordinator.toml`: everything optional, unknown keys refused with their line and the keys that are allowed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use miette::{Diagnostic, NamedSource, SourceSpan};
use serde::Deserialize;
use wattle_api::stream::{Kafka, KafkaConfigError};
use wattle_api::token::is_host_port;

/// Events that stay readable from the coordinator itself: about 500 MB.
const KEEP_EVENTS: u64 = 1_000_000;

/// The configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Where to listen, instead of what `init` was told.
    pub(crate) listen: Option<SocketAddr>,
    /// `host:port` where agents find the coordinator, instead of what `init` was told.
    pub(crate) public_addresses: Option<Vec<String>>,
    /// The coordinator's name in events; `coordinator` if absent.
    pub(crate) name: Option<String>,
    /// What is logged, in the syntax of `RUST_LOG`.
    pub(crate) log: Option<String>,
    /// How much of the past is kept.
    pub(crate) outbox: Outbox,
    /// Where topology events are mirrored; nowhere if absent.
    pub(crate) kafka: Option<Kafka>,
}

/// How much of the past is kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Outbox {
    /// Events that stay readable; more stay while Kafka does not have them.
    pub(crate) keep_events: u64,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            keep_events: KEEP_EVENTS,
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is not TOML, or has keys or values that are not known.
    #[error("{file}:{line}:{column}: {message}")]
    Syntax {
        /// The file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong, with the allowed keys.
        message: String,
        /// The text.
        #[source_code]
        text: NamedSource<String>,
        /// Where.
        #[label("here")]
        span: SourceSpan,
    },
    /// `[kafka]` cannot work.
    #[error("{file}: {source}")]
    Kafka {
        /// The file.
        file: String,
        /// What is wrong.
        source: KafkaConfigError,
    },
    /// An address cannot be dialled.
    #[error("{file}: public_addresses: `{address}` is not host:port")]
    Address {
        /// The file.
        file: String,
        /// What was given.
        address: String,
    },
}

impl Config {
    /// Reads and checks a file.
    pub(crate) fn read(path: &Path) -> Result<Self, Box<ConfigError>> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&path.display().to_string(), &text)
    }

    fn parse(file: &str, text: &str) -> Result<Self, Box<ConfigError>> {
        let config: Self =
            toml::from_str(text).map_err(|error| Box::new(syntax(file, text, &error)))?;
        if let Some(kafka) = &config.kafka {
            kafka.check().map_err(|source| ConfigError::Kafka {
                file: file.to_owned(),
                source,
            })?;
        }
        let mut addresses = config.public_addresses.iter().flatten();
        match addresses.find(|address| !is_host_port(address)) {
            Some(address) => {
                let (file, address) = (file.to_owned(), address.clone());
                Err(Box::new(ConfigError::Address { file, address }))
            }
            None => Ok(config),
        }
    }
}

fn syntax(file: &str, text: &str, error: &toml::de::Error) -> ConfigError {
    let span = error.span().unwrap_or(0..0);
    let before = &text[..span.start.min(text.len())];
    ConfigError::Syntax {
        file: file.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before.chars().rev().take_while(|c| *c != '\n').count() + 1,
        message: error.message().to_owned(),
        text: NamedSource::new(file, text.to_owned()),
        span: span.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_a_configuration() {
        assert_eq!(Config::parse("c.toml", "").unwrap(), Config::default());
    }

    #[test]
    fn what_is_wrong_is_said_with_file_line_and_allowed_keys() {
        let cases = [
            (
                "listen = \"127.0.0.1:1\"\nlisen = 1\n",
                "c.toml:2:1: unknown field `lisen`, expected one of `listen`",
            ),
            ("listen = \"nowhere\"", "c.toml:1:10: "),
            (
                "[outbox]\nkeep = 1",
                "c.toml:2:1: unknown field `keep`, expected `keep_events`",
            ),
            ("[kafka]\nbrokers = []", "name at least one broker"),
            ("[kafka]\n", "missing field `brokers`"),
            ("public_addresses = [\"a\"]", "`a` is not host:port"),
            ("listen = ", "c.toml:1:"),
        ];
        for (text, part) in cases {
            let error = Config::parse("c.toml", text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
