//! What the coordinator counts, for `/metrics`. One enum of names; incremented anywhere, read by the scrape.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident => $name:literal, $help:literal;)*) => {
        /// Something that is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Counter {
            $($(#[$doc])* $variant,)*
        }

        const NAMES: &[(&str, &str)] = &[$(($name, $help),)*];
    };
}

counters! {
    /// Connections whose TLS handshake failed or took too long.
    HandshakesFailed => "wattle_coordinator_handshakes_failed_total", "TLS handshakes that failed.";
    /// Connections refused because there were too many.
    ConnectionsRefused => "wattle_coordinator_connections_refused_total", "Connections beyond the limit.";
    /// Nodes that joined.
    Joins => "wattle_coordinator_joins_total", "Nodes that joined.";
    /// Joins that were refused.
    JoinsRefused => "wattle_coordinator_joins_refused_total", "Joins that were refused.";
    /// Records that changed the replica.
    RecordsAccepted => "wattle_coordinator_records_accepted_total", "Link-state records taken in.";
    /// Records that were no news: every node reports every record.
    RecordsStale => "wattle_coordinator_records_stale_total", "Link-state records that were no news.";
    /// Records of no member, with a wrong signature, or malformed.
    RecordsRefused => "wattle_coordinator_records_refused_total", "Link-state records that were not valid.";
    /// Topology events written.
    Events => "wattle_coordinator_events_total", "Topology events written.";
    /// Transactions committed.
    Commits => "wattle_coordinator_commits_total", "Transactions committed.";
    /// Transactions that failed.
    CommitsFailed => "wattle_coordinator_commits_failed_total", "Transactions that failed.";
    /// Connections closed because the agent did not read what it was sent.
    AgentsTooSlow => "wattle_coordinator_agents_too_slow_total", "Agents that did not read their messages.";
}

/// All counters.
#[derive(Debug, Default)]
pub(crate) struct Counters([AtomicU64; NAMES.len()]);

impl Counters {
    /// One more.
    pub(crate) fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// So many more.
    pub(crate) fn add(&self, counter: Counter, amount: u64) {
        self.0[counter as usize].fetch_add(amount, Ordering::Relaxed);
    }

    /// All counters in the text format of Prometheus.
    pub(crate) fn expose(&self, out: &mut String) {
        for ((name, help), value) in NAMES.iter().zip(&self.0) {
            expose(out, name, help, "counter", value.load(Ordering::Relaxed));
        }
    }
}

/// One number in the text format of Prometheus.
pub(crate) fn expose(out: &mut String, name: &str, help: &str, kind: &str, value: u64) {
    writeln!(
        out,
        "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
    )
    .expect("writing to a string cannot fail");
}
