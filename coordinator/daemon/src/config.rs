//! `coordinator.toml`: everything optional, unknown keys refused with their line and the keys that are allowed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use miette::{Diagnostic, NamedSource, SourceSpan};
use serde::Deserialize;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use wattle_api::settings::{Complaint, text_of};
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
    /// It is not TOML, or has keys or values that cannot be.
    #[error("{file}:{line}:{column}: {message}")]
    Content {
        /// The file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong, and what is allowed.
        message: String,
        /// The text.
        #[source_code]
        text: NamedSource<String>,
        /// Where.
        #[label("here")]
        span: SourceSpan,
    },
}

impl Config {
    /// Reads and checks a file.
    pub(crate) fn read(path: &Path) -> Result<Self, Box<ConfigError>> {
        let bytes = std::fs::read(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let file = path.display().to_string();
        match text_of(&bytes) {
            Ok(text) => Self::parse(&file, text),
            Err(complaint) => {
                let text = String::from_utf8_lossy(&bytes);
                Err(Box::new(content(&file, &text, complaint)))
            }
        }
    }

    fn parse(file: &str, text: &str) -> Result<Self, Box<ConfigError>> {
        let parsed = toml::from_str(text).map_err(|error| Complaint::of_toml(text, &error));
        let checked = parsed.and_then(|config: Self| config.check(text).map(|()| config));
        checked.map_err(|complaint| Box::new(content(file, text, complaint)))
    }

    /// What the types of the settings do not say.
    fn check(&self, text: &str) -> Result<(), Complaint> {
        let mut addresses = self.public_addresses.iter().flatten();
        if let Some(address) = addresses.find(|address| !is_host_port(address)) {
            let message = format!("`{address}` is not host:port");
            return Err(Complaint::of_key(text, &["public_addresses"], message));
        }
        if let Some(log) = self.log.as_ref().filter(|log| !is_filter(log)) {
            let message = format!(
                "`{log}` is not a log filter: error, warn, info, debug or trace, or directives such as info,wattle_mirror=debug"
            );
            return Err(Complaint::of_key(text, &["log"], message));
        }
        let Some(kafka) = &self.kafka else {
            return Ok(());
        };
        kafka
            .check_for_mirror()
            .map_err(|error| kafka_complaint(text, &error))
    }
}

/// What is wrong with `[kafka]`, where it stands.
fn kafka_complaint(text: &str, error: &KafkaConfigError) -> Complaint {
    let path: Vec<&str> = ["kafka"].iter().chain(error.key()).copied().collect();
    Complaint::of_key(text, &path, error.to_string())
}

/// A filter without a level would take a word for a target's name and silence the log.
fn is_filter(text: &str) -> bool {
    let has_level = text.split(',').any(|directive| {
        let level = directive.rsplit('=').next().unwrap_or(directive);
        level.trim().parse::<LevelFilter>().is_ok()
    });
    has_level && EnvFilter::try_new(text).is_ok()
}

fn content(file: &str, text: &str, complaint: Complaint) -> ConfigError {
    let Complaint {
        line,
        column,
        message,
        span,
    } = complaint;
    ConfigError::Content {
        file: file.to_owned(),
        line,
        column,
        message,
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
            (
                "[kafka]\nbrokers = []",
                "c.toml:2:11: kafka.brokers is empty: name at least one broker",
            ),
            (
                "name = \"c\"\n[kafka]\nbrokers = [\"k:1\"]\nprotocol = \"sasl_ssl\"",
                "c.toml:4:12: kafka.protocol wants a user",
            ),
            (
                "[kafka]\nbrokers = [\"k:1\"]\n[kafka.tls]\nca_file = \"/c\"",
                "c.toml:3:8: kafka.tls is set but",
            ),
            (
                "[kafka]\nbrokers = [\"k:1\"]\n[kafka.topics]\nretention_days = 0",
                "c.toml:4:18: kafka.topics: retention_days",
            ),
            (
                "[kafka]\nbrokers = [\"k:1\"]\nsnapshot_every_s = 60",
                "c.toml:3:20: kafka.snapshot_every_s has no effect yet",
            ),
            ("[kafka]\n", "c.toml:1:1: missing field `brokers`"),
            (
                "name = \"c\"\npublic_addresses = [\"a\"]",
                "c.toml:2:20: `a` is not host:port",
            ),
            ("log = \"loud\"", "c.toml:1:7: `loud` is not a log filter"),
            ("log = \"wattle=loud\"", "c.toml:1:7: `wattle=loud` is not"),
            ("listen = ", "c.toml:1:"),
        ];
        for (text, part) in cases {
            let error = Config::parse("c.toml", text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_refused_with_their_place() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("c.toml");
        std::fs::write(&path, b"name = \"a\"\nlog = \"\xff\"").unwrap();
        let error = Config::read(&path).unwrap_err().to_string();
        assert!(
            error.contains("c.toml:2:8: this byte is not UTF-8"),
            "{error}"
        );
    }
}
