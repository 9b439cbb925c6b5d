//! `wattle-stream`: the topology stream under load. Writes made-up topology changes through the coordinator's real
//! database and mirror, or watches what comes out of Kafka. Prints one JSON document per line; times are Unix
//! microseconds. Killing it with -9 is part of its use.
//!
//! ```text
//! wattle-stream write   --brokers B --state DIR --events N | --more N [--rate R] [--mirror after|off] [--prefix P] …
//! wattle-stream watch   --brokers B --prefix P --until SEQ [--skip SEQ]
//! wattle-stream table   --brokers B --prefix P
//! ```
//!
//! `write`: database and mirror as the coordinator has them; ends with code 3 when another mirror took over. With
//! `--network-id` the database may be that of a coordinator, which must not run meanwhile.
//! `watch`: latency from the change to a committed read. `table`: how long a fresh reader takes for the whole state.

#![expect(clippy::print_stdout, reason = "what is printed is the result")]

mod story;
mod watch;
mod write;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

fn main() -> Result<ExitCode> {
    let arguments = Arguments::read()?;
    match arguments.verb.as_str() {
        "write" => write::run(&arguments),
        "watch" => watch::latency(&arguments),
        "table" => watch::table(&arguments),
        other => bail!("`{other}` is not write, watch or table"),
    }
}

/// A verb and its `--name value` pairs.
pub(crate) struct Arguments {
    verb: String,
    pairs: BTreeMap<String, String>,
}

impl Arguments {
    fn read() -> Result<Self> {
        let mut words = std::env::args().skip(1);
        let verb = words.next().context("which: write, watch or table?")?;
        let mut pairs = BTreeMap::new();
        while let Some(word) = words.next() {
            let name = word
                .strip_prefix("--")
                .with_context(|| format!("`{word}` is no --name"))?;
            let value = words
                .next()
                .with_context(|| format!("--{name} without a value"))?;
            pairs.insert(name.to_owned(), value);
        }
        Ok(Self { verb, pairs })
    }

    /// A value that must be there.
    pub(crate) fn text(&self, name: &str) -> Result<&str> {
        let text = self
            .pairs
            .get(name)
            .with_context(|| format!("--{name} is missing"))?;
        Ok(text)
    }

    /// A value with a default.
    pub(crate) fn or<T: FromStr>(&self, name: &str, default: T) -> Result<T> {
        match self.pairs.get(name) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .ok()
                .with_context(|| format!("--{name} {text}: not understood")),
        }
    }
}

/// Wall-clock time in microseconds: what different processes on one machine have in common.
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_micros() as u64
}
