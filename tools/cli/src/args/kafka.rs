//! The verbs of `wattle kafka` and their arguments.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Verbs of `kafka`.
#[derive(Debug, Subcommand)]
pub(crate) enum KafkaVerb {
    /// Show what differs between a cluster and its document, and what would be done
    Plan {
        #[command(flatten)]
        document: DocumentArgs,
    },
    /// Change a cluster to what its document says; what is not named there stays
    Apply(KafkaApplyArgs),
    /// Check that a cluster is as its document says; exit with 8 otherwise
    Drift {
        #[command(flatten)]
        document: DocumentArgs,
    },
    /// Write server.properties and the format script of each server of the document's cluster
    Render(RenderArgs),
}

/// Which document.
#[derive(Debug, Clone, Args)]
pub(crate) struct DocumentArgs {
    /// The document: how to reach the cluster, what should be in it, its servers
    #[arg(value_name = "FILE", default_value = "/etc/wattle/kafka.toml")]
    pub(crate) file: PathBuf,
}

/// Arguments of `kafka apply`.
#[derive(Debug, Args)]
pub(crate) struct KafkaApplyArgs {
    #[command(flatten)]
    pub(crate) document: DocumentArgs,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Delete topics and users of `desired.remove`, and rights that the document does not name
    #[arg(long)]
    pub(crate) allow_delete: bool,
    /// Keep less than before: shorter retention, fewer copies, another clean-up policy
    #[arg(long)]
    pub(crate) allow_shrink: bool,
    /// Wait so long for copies that move
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) wait: u64,
}

/// Arguments of `kafka render`.
#[derive(Debug, Args)]
pub(crate) struct RenderArgs {
    #[command(flatten)]
    pub(crate) document: DocumentArgs,
    /// Write `broker-1/server.properties`, `broker-1/format.sh`, ... there
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: PathBuf,
}
