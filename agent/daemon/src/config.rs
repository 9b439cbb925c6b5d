//! `wattled.toml` and the command line's overrides, parsed straight into values that cannot be wrong.
//!
//! Every refusal names file, line and column, what was found, what is allowed. Knows nothing of the state
//! directory's other files nor of the kernel. Reference: `docs/reference/config.md`.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::{Deserializer, Error as _, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use tracing_subscriber::EnvFilter;
use wattle_model::{Class, Prefix};

use crate::offloads::OffloadName;
use crate::policy::LinkRule;
use crate::workers::Workers;

/// Where the configuration is looked for when the state directory has none.
pub const SYSTEM_CONFIG: &str = "/etc/wattle/wattled.toml";
/// Name of the configuration inside a state directory.
pub const CONFIG_FILE: &str = "wattled.toml";

/// Every setting of the agent, with its default where the file is silent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// UDP port of the WireGuard socket; 0 lets the kernel choose.
    #[serde(deserialize_with = "port")]
    pub listen_port: u16,
    /// UDP port of the QUIC socket.
    pub quic_port: QuicPort,
    /// Name of the TUN device.
    #[serde(deserialize_with = "interface")]
    pub interface: String,
    /// MTU of the TUN device.
    #[serde(deserialize_with = "mtu")]
    pub mtu: u16,
    /// Prefixes behind this node that it announces; each must be granted to it.
    pub prefixes: Vec<Prefix>,
    /// Addresses where others can dial this node, besides those of its interfaces.
    #[serde(deserialize_with = "endpoints")]
    pub endpoints: Vec<SocketAddr>,
    /// Path of the local socket.
    #[serde(deserialize_with = "absolute_path")]
    pub socket: PathBuf,
    /// Loopback address on which metrics are served over HTTP; `None` serves none.
    #[serde(deserialize_with = "loopback", skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
    /// Log level or filter directives, for example `info` or `info,wattle_routing=debug`.
    #[serde(deserialize_with = "log_filter")]
    pub log: String,
    /// Number of the kernel routing table that belongs to the agent.
    #[serde(deserialize_with = "routing_table")]
    pub routing_table: u32,
    /// Whether packets between other nodes may be relayed through this one.
    pub transit: bool,
    /// Whether packets for other nodes may travel over the fast channel; off means WireGuard's own messages.
    pub fast_channel: Switch,
    /// Whether TCP connections through this node are told how large segments may be.
    pub mss_clamp: Switch,
    /// Offloads of the kernel that are not to be used.
    pub offloads_off: Vec<OffloadName>,
    /// How many threads may carry packets.
    pub workers: Workers,
    /// The classes of traffic in which this node prices its links apart, beside those that `links` name.
    #[serde(deserialize_with = "classes")]
    pub classes: BTreeSet<Class>,
    /// What this node's links are to carry and to cost; of each setting the last rule about a link counts.
    pub links: Vec<LinkRule>,
}

/// A setting that is on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// In use.
    On,
    /// Not in use.
    Off,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen_port: 51820,
            quic_port: QuicPort::default(),
            interface: "wattle0".to_owned(),
            mtu: 1360,
            prefixes: Vec::new(),
            endpoints: Vec::new(),
            socket: PathBuf::from("/run/wattle/wattled.sock"),
            metrics: None,
            log: "info".to_owned(),
            routing_table: 5740,
            transit: true,
            fast_channel: Switch::On,
            mss_clamp: Switch::Off,
            offloads_off: Vec::new(),
            workers: Workers::default(),
            classes: BTreeSet::new(),
            links: Vec::new(),
        }
    }
}

/// Where the QUIC carrier listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuicPort {
    /// On this UDP port; 0 lets the kernel choose.
    On(u16),
    /// Nowhere: there is no QUIC carrier.
    Off,
}

impl Default for QuicPort {
    fn default() -> Self {
        Self::On(wattle_quic::DEFAULT_PORT)
    }
}

impl Serialize for QuicPort {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::On(port) => serializer.serialize_u16(*port),
            Self::Off => serializer.serialize_str("off"),
        }
    }
}

impl<'de> Deserialize<'de> for QuicPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(QuicPortVisitor)
    }
}

struct QuicPortVisitor;

impl Visitor<'_> for QuicPortVisitor {
    type Value = QuicPort;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a UDP port (0 = any) or \"off\"")
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<QuicPort, E> {
        let port = u16::try_from(value).map_err(|_| {
            E::custom(format!(
                "{value} is outside the range of a UDP port (0 = any): 0 to 65535; \"off\" switches QUIC off"
            ))
        });
        port.map(QuicPort::On)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<QuicPort, E> {
        match value {
            "off" => Ok(QuicPort::Off),
            other => Err(E::custom(format!(
                "{other:?} is neither a UDP port nor \"off\""
            ))),
        }
    }
}

/// Settings given on the command line, which win over the file's.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// See [`Config::interface`].
    pub interface: Option<String>,
    /// See [`Config::listen_port`].
    pub listen_port: Option<u16>,
    /// See [`Config::socket`].
    pub socket: Option<PathBuf>,
    /// See [`Config::metrics`].
    pub metrics: Option<SocketAddr>,
    /// See [`Config::log`].
    pub log: Option<String>,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The file's content is refused.
    #[error("{0}")]
    Content(Box<Complaint>),
    /// A value on the command line is refused.
    #[error("--{flag}: {reason}")]
    Flag {
        /// The flag, without its dashes.
        flag: &'static str,
        /// What is wrong and what is allowed.
        reason: String,
    },
}

/// What is wrong in a configuration file, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The file.
    pub path: PathBuf,
    /// Line, counted from one.
    pub line: usize,
    /// Column in characters, counted from one.
    pub column: usize,
    /// What was found and what is allowed.
    pub message: String,
    /// The line itself, control characters removed.
    pub excerpt: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}:{}:{}: {}",
            self.path.display(),
            self.line,
            self.column,
            self.message
        )?;
        let number = self.line.to_string();
        writeln!(f, " {number} | {}", self.excerpt)?;
        write!(
            f,
            " {:w$} | {:>c$}",
            "",
            "^",
            w = number.len(),
            c = self.column
        )
    }
}

impl Config {
    /// Reads `explicit`, else the state directory's file, else the system's, else takes the defaults.
    pub fn load(explicit: Option<&Path>, state: &Path) -> Result<Self, ConfigError> {
        if let Some(path) = explicit {
            return Self::read(path);
        }
        for path in [state.join(CONFIG_FILE), PathBuf::from(SYSTEM_CONFIG)] {
            match Self::read(&path) {
                Err(ConfigError::Read { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound => {}
                outcome => return outcome,
            }
        }
        Ok(Self::default())
    }

    /// Reads one file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read {
            path: path.to_owned(),
            source,
        };
        let bytes = std::fs::read(path).map_err(read)?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse(text, path),
            Err(error) => {
                let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
                let at = before.len()..before.len();
                Err(complain(
                    path,
                    &before,
                    at,
                    "this byte is not UTF-8 text".to_owned(),
                ))
            }
        }
    }

    /// Parses the text of the file `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let at = error.span().unwrap_or(0..0);
            complain(path, text, at, plain(error.message()))
        })
    }

    /// Puts the command line's settings over the file's.
    pub fn overridden(mut self, flags: Overrides) -> Result<Self, ConfigError> {
        let refused = |flag| move |reason| ConfigError::Flag { flag, reason };
        if let Some(name) = flags.interface {
            self.interface = checked_interface(name).map_err(refused("interface"))?;
        }
        if let Some(socket) = flags.socket {
            self.socket = checked_path(socket).map_err(refused("socket"))?;
        }
        if let Some(address) = flags.metrics {
            self.metrics = Some(checked_loopback(address).map_err(refused("metrics"))?);
        }
        if let Some(filter) = flags.log {
            self.log = checked_filter(filter).map_err(refused("log"))?;
        }
        self.listen_port = flags.listen_port.unwrap_or(self.listen_port);
        Ok(self)
    }
}

fn complain(path: &Path, text: &str, at: Range<usize>, message: String) -> ConfigError {
    let start = (0..=at.start.min(text.len()))
        .rev()
        .find(|i| text.is_char_boundary(*i))
        .unwrap_or(0);
    let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let excerpt = text[line_start..].lines().next().unwrap_or("");
    ConfigError::Content(Box::new(Complaint {
        path: path.to_owned(),
        line: text[..start].matches('\n').count() + 1,
        column: text[line_start..start].chars().count() + 1,
        message,
        excerpt: excerpt
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(160)
            .collect(),
    }))
}

/// serde's words in the words of the configuration's reference.
fn plain(message: &str) -> String {
    let message = message.trim();
    match message.strip_prefix("unknown field ") {
        Some(rest) => match rest.split_once(", expected one of ") {
            Some((key, keys)) => format!("unknown key {key}; allowed keys: {keys}"),
            None => format!("unknown key {rest}"),
        },
        None => message.replace('\n', "; "),
    }
}

/// Takes an integer of any size, so that one outside the range is answered with the range.
fn integer_in<'de, D: Deserializer<'de>>(
    deserializer: D,
    what: &str,
    allowed: Range<i64>,
) -> Result<i64, D::Error> {
    let value = i64::deserialize(deserializer)?;
    if allowed.contains(&value) {
        return Ok(value);
    }
    let (low, high) = (allowed.start, allowed.end - 1);
    Err(D::Error::custom(format!(
        "{value} is outside the range of {what}: {low} to {high}"
    )))
}

fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let value = integer_in(deserializer, "a UDP port (0 = any)", 0..65_536)?;
    u16::try_from(value).map_err(D::Error::custom)
}

fn mtu<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    // 1280 is the least that IPv6 allows; above 9000 no underlay carries the outer packet.
    let value = integer_in(deserializer, "the MTU", 1280..9001)?;
    u16::try_from(value).map_err(D::Error::custom)
}

fn routing_table<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    // 253 to 255 are the kernel's own default, main and local tables.
    let value = integer_in(deserializer, "a routing table of our own", 256..1 << 31)?;
    u32::try_from(value).map_err(D::Error::custom)
}

fn classes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<Class>, D::Error> {
    let classes = BTreeSet::<Class>::deserialize(deserializer)?;
    match classes.contains(&Class::Latency) {
        true => Err(D::Error::custom(
            "`latency` is the class that others are priced apart from; allowed: `bulk`, `admin`",
        )),
        false => Ok(classes),
    }
}

fn interface<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    checked_interface(String::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn checked_interface(name: String) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=15).contains(&name.len()) && name.chars().all(allowed) && name != "." && name != ".." {
        return Ok(name);
    }
    Err(format!(
        "{name:?} is not an interface name: 1 to 15 characters of a-z A-Z 0-9 - _ ."
    ))
}

fn endpoints<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SocketAddr>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts
        .iter()
        .map(|text| checked_endpoint(text).map_err(D::Error::custom))
        .collect()
}

fn checked_endpoint(text: &str) -> Result<SocketAddr, String> {
    match SocketAddr::from_str(text) {
        Ok(address) if address.port() == 0 => Err(format!(
            "{text:?}: port 0 cannot be dialled; give the port that others reach"
        )),
        Ok(address) if address.ip().is_unspecified() || address.ip().is_multicast() => Err(
            format!("{text:?} cannot be dialled; give a unicast address"),
        ),
        Ok(address) => Ok(address),
        Err(_) => Err(format!(
            "{text:?} is not an address with a port, such as 192.0.2.1:51820 or [2001:db8::1]:51820"
        )),
    }
}

fn absolute_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    checked_path(PathBuf::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn checked_path(path: PathBuf) -> Result<PathBuf, String> {
    // sun_path has 108 bytes, one of them the final zero.
    match path.as_os_str().len() {
        _ if !path.is_absolute() => Err(format!("{path:?} is not an absolute path")),
        108.. => Err(format!(
            "{path:?} is too long for a Unix socket: at most 107 bytes"
        )),
        _ => Ok(path),
    }
}

fn loopback<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let example = SocketAddr::from((Ipv4Addr::LOCALHOST, 9586));
    let address = SocketAddr::from_str(&text).map_err(|_| {
        D::Error::custom(format!(
            "{text:?} is not an address with a port, such as {example}"
        ))
    })?;
    checked_loopback(address)
        .map(Some)
        .map_err(D::Error::custom)
}

fn checked_loopback(address: SocketAddr) -> Result<SocketAddr, String> {
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err(format!(
        "metrics are served on loopback only (127.0.0.1 or [::1]), not on {address}"
    ))
}

fn log_filter<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    checked_filter(String::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn checked_filter(filter: String) -> Result<String, String> {
    match EnvFilter::try_new(&filter) {
        Ok(_) if is_leveled(&filter) => Ok(filter),
        _ => Err(format!(
            "{filter:?} is not a log filter: error, warn, info, debug or trace, or directives such as \
             info,wattle_routing=debug"
        )),
    }
}

/// `EnvFilter` takes any word for a target's name; a filter without a level would silence the log.
fn is_leveled(filter: &str) -> bool {
    filter.split(',').any(|directive| {
        let level = directive.rsplit('=').next().unwrap_or(directive);
        tracing::level_filters::LevelFilter::from_str(level.trim()).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Input: one configuration. Output: where and why it is refused.
    fn refusal(text: &str) -> (usize, usize, String) {
        match Config::parse(text, Path::new("wattled.toml")) {
            Err(ConfigError::Content(c)) => (c.line, c.column, c.message),
            other => panic!("expected a refusal of {text:?}, got {other:?}"),
        }
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(
            Config::parse("", Path::new("x")).unwrap(),
            Config::default()
        );
    }

    #[test]
    fn a_written_configuration_reads_back() {
        let config = Config {
            prefixes: vec!["192.168.7.0/24".parse().unwrap()],
            endpoints: vec!["192.0.2.1:51820".parse().unwrap()],
            metrics: Some("127.0.0.1:9586".parse().unwrap()),
            quic_port: QuicPort::Off,
            mss_clamp: Switch::On,
            offloads_off: OffloadName::ALL.to_vec(),
            workers: Workers::Number(4),
            ..Config::default()
        };
        let text = toml::to_string(&config).unwrap();
        assert_eq!(Config::parse(&text, Path::new("x")).unwrap(), config);
    }

    #[test]
    fn an_unknown_key_is_answered_with_the_allowed_ones() {
        let (line, column, message) = refusal("mtu = 1360\nlisen_port = 1\n");
        assert_eq!((line, column), (2, 1));
        assert!(
            message.starts_with("unknown key `lisen_port`; allowed keys:"),
            "{message}"
        );
        assert!(message.contains("`listen_port`"), "{message}");
    }

    #[test]
    fn every_bad_value_is_refused_where_it_stands() {
        for (text, column, words) in [
            ("listen_port = 70000", 15, "0 to 65535"),
            ("listen_port = -1", 15, "0 to 65535"),
            ("listen_port = \"x\"", 15, "expected i64"),
            ("quic_port = 65536", 13, "0 to 65535"),
            ("quic_port = -1", 13, "\"off\" switches QUIC off"),
            ("quic_port = \"on\"", 13, "neither a UDP port nor"),
            (
                "quic_port = true",
                13,
                "expected a UDP port (0 = any) or \"off\"",
            ),
            ("workers = 3", 11, "1, 2, 4 or 8"),
            ("workers = 0", 11, "1, 2, 4 or 8"),
            ("workers = \"all\"", 11, "half of the cores"),
            ("workers = true", 11, "expected 1, 2, 4, 8 or \"auto\""),
            ("mtu = 500", 7, "1280 to 9000"),
            ("routing_table = 254", 17, "256 to"),
            ("interface = \"much-too-long-name\"", 13, "1 to 15"),
            ("interface = \"a/b\"", 13, "1 to 15"),
            ("interface = \"\"", 13, "1 to 15"),
            (
                "prefixes = [\"10.1.2.3/16\"]",
                13,
                "did you mean 10.1.0.0/16?",
            ),
            ("prefixes = [\"10.0.0.0/99\"]", 13, "not an IP prefix"),
            ("endpoints = [\"192.0.2.1\"]", 13, "with a port"),
            ("endpoints = [\"192.0.2.1:0\"]", 13, "port 0"),
            ("endpoints = [\"0.0.0.0:1\"]", 13, "unicast"),
            ("metrics = \"192.0.2.1:9586\"", 11, "loopback only"),
            ("socket = \"run/x.sock\"", 10, "absolute"),
            ("log = \"loud\"", 7, "error, warn, info"),
            ("transit = 1", 11, "boolean"),
            ("fast_channel = \"of\"", 16, "`on` or `off`"),
            ("fast_channel = true", 16, "string"),
            ("mss_clamp = \"auto\"", 13, "`on` or `off`"),
            ("offloads_off = \"tso\"", 16, "a sequence"),
            (
                "offloads_off = [\"tso\", \"lro\"]",
                24,
                "`vnet`, `tso`, `uso`, `gso`, `gro`",
            ),
        ] {
            let (line, found, message) = refusal(text);
            assert_eq!(line, 1, "{text}: {message}");
            assert!(message.contains(words), "{text}: {message}");
            assert_eq!(found, column, "{text}: {message}");
        }
    }

    #[test]
    fn every_bad_rule_about_links_is_refused_where_it_stands() {
        for (line, column, words) in [
            ("weight = 101", 10, "of a weight: 0 to 100"),
            ("weight = -0.5", 10, "of a weight: 0 to 100"),
            ("weight = 0.0001", 10, "in steps of 0.001"),
            ("weight = nan", 10, "of a weight: 0 to 100"),
            (
                "weight = \"3\"",
                10,
                "expected a weight: a number from 0 to 100",
            ),
            ("multiplier = 0", 14, "of a multiplier: 0.1 to 100"),
            ("multiplier = 0.09", 14, "of a multiplier: 0.1 to 100"),
            ("addend = 5", 10, "expected a string"),
            ("addend = \"5\"", 10, "such as \"5ms\""),
            ("addend = \"-5ms\"", 10, "such as \"5ms\""),
            ("addend = \"11s\"", 10, "at most \"10s\""),
            ("tier = 256", 8, "`256`, expected u8"),
            ("carrier = \"udp\"", 11, "`udp4`, `udp6`, `quic`"),
            ("class = \"fast\"", 9, "`latency`, `bulk`, `admin`"),
            (
                "wieght = 3",
                1,
                "unknown key `wieght`; allowed keys: `peer`, ",
            ),
        ] {
            let (at, found, message) = refusal(&format!("[[links]]\n{line}\n"));
            assert!(message.contains(words), "{line}: {message}");
            assert_eq!((at, found), (2, column), "{line}: {message}");
        }
        let (at, _, message) = refusal("mtu = 1360\n[[links]]\npeer = \"b\"\n");
        assert!(message.contains("sets nothing"), "{message}");
        assert_eq!(at, 2, "{message}");
        let (at, _, message) = refusal("mtu = 1360\nclasses = [\"bulk\", \"latency\"]\n");
        assert!(message.contains("allowed: `bulk`, `admin`"), "{message}");
        assert_eq!(at, 2, "{message}");
    }

    #[test]
    fn broken_toml_is_refused_with_its_place() {
        assert_eq!(refusal("mtu = 1360\nprefixes = [\n").0, 2);
        assert_eq!(refusal("mtu = 1360\nmtu = 1361\n").0, 2);
        assert_eq!(refusal("mtu 1360").0, 1);
    }

    #[test]
    fn invalid_utf8_is_refused_with_its_place() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"mtu = 1360\nlog = \"\xff\"\n").unwrap();
        let error = Config::read(file.path()).unwrap_err().to_string();
        assert!(error.contains(":2:8: this byte is not UTF-8"), "{error}");
    }

    #[test]
    fn the_refusal_shows_the_line_and_points_at_it() {
        let error = Config::parse("\tmtu = 5\n", Path::new("w.toml"))
            .unwrap_err()
            .to_string();
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines[1], " 1 |  mtu = 5");
        assert_eq!(lines[2].find('^'), lines[1].find('5'));
    }

    #[test]
    fn flags_win_over_the_file_and_are_checked_alike() {
        let flags = Overrides {
            listen_port: Some(0),
            ..Overrides::default()
        };
        assert_eq!(Config::default().overridden(flags).unwrap().listen_port, 0);
        let flags = Overrides {
            interface: Some("a/b".into()),
            ..Overrides::default()
        };
        let error = Config::default().overridden(flags).unwrap_err();
        assert!(error.to_string().starts_with("--interface: "));
    }

    #[test]
    fn no_garbage_panics() {
        for text in [
            "\0",
            "=",
            "[[]]",
            "mtu={}",
            "é = 1",
            "mtu = 1\u{2028}",
            "a.b.c.d = 1",
            "'",
        ] {
            let _ = refusal(text);
        }
    }
}
