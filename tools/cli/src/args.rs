//! The command line: verbs and their arguments, with the help that people read.

mod kafka;
mod topology;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use wattle_model::{Class, NodeName, Prefix, WgKey};

pub(crate) use self::kafka::{KafkaApplyArgs, KafkaVerb, RenderArgs};
pub(crate) use self::topology::{MapArgs, StreamArgs, TailArgs, TopologyVerb};

/// Exit codes, as the help and the manual show them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failure, 2 usage, 3 daemon unreachable, 4 permission, 5 check failed, 6 time-out, 7 not found, \
8 differs from what is desired.";

/// Asks the agent on this host, the coordinator, or the topology stream.
#[derive(Debug, Parser)]
#[command(name = "wattle", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// The agent's socket
    #[arg(
        long, global = true, value_name = "PATH", env = "WATTLE_SOCKET",
        default_value = wattle_control::DEFAULT_SOCKET, hide_env_values = true
    )]
    pub(crate) socket: PathBuf,
    /// Print one JSON object per answer: {schema, generated_at, node, data, warnings}
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a network: start its coordinator's state and print the line that invites a node
    Init(InitArgs),
    /// Join a network with a token that `wattle init` or `wattle tokens create` printed
    Join(JoinArgs),
    /// Leave the network: the others forget this node, it forgets them
    Leave(LeaveArgs),
    /// Show this node at a glance, or check it
    Status(StatusArgs),
    /// Show the other nodes and how they are reached
    Peers,
    /// Show the links of this node with their measurements
    Links(LinksArgs),
    /// Show routes
    Routes(RoutesArgs),
    /// Show the mesh as this node knows it
    Topo(TopoArgs),
    /// Show the way to a node or address, hop by hop, and its backup
    Path(DestinationArgs),
    /// Measure the way to a node or address hop by hop
    Trace(TraceArgs),
    /// Measure round trips to a node or address
    Ping(PingArgs),
    /// Show why traffic goes the way it goes
    Explain(DestinationArgs),
    /// Let others go around this node: where they can, or with --hard in any case
    Drain(DrainArgs),
    /// Give transit as usual
    Undrain(UndrainArgs),
    /// Send packets over a neighbour, as long as it is nearer to their destination than this node
    Prefer(PreferArgs),
    /// Show what happened on this node
    Events(EventsArgs),
    /// Read the network's topology stream from the coordinator or from Kafka
    #[command(subcommand)]
    Topology(TopologyVerb),
    /// Compare a Kafka cluster with what it should be like, change it, or write its servers' configuration
    #[command(subcommand)]
    Kafka(KafkaVerb),
    /// Show who this node is, and what you may do here
    Whoami,
    /// Print the agent's metrics as Prometheus text
    Metrics,
    /// Make networks
    #[command(subcommand)]
    Network(NetworkVerb),
    /// Show what the coordinator knows to be wrong: nodes, links, and its mirror to Kafka
    Alerts {
        #[command(flatten)]
        coordinator: CoordinatorArgs,
    },
    /// Show or remove the nodes that the coordinator knows
    #[command(subcommand)]
    Nodes(NodesVerb),
    /// Make, list and withdraw join tokens
    #[command(subcommand)]
    Tokens(TokensVerb),
    /// Attach stock WireGuard devices to a node
    #[command(subcommand)]
    Leaves(LeavesVerb),
    /// Show the versions of this program and of the agent
    Version,
    /// Print the completion script of a shell
    Completion {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual, or write all its pages into a directory
    Man {
        /// Write `wattle.1`, `wattle-status.1`, ... there
        #[arg(long, value_name = "DIR")]
        directory: Option<PathBuf>,
    },
}

/// Arguments of `init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Name of the network
    #[arg(long, default_value = "wattle")]
    pub(crate) name: NodeName,
    /// Where nodes reach the coordinator, `host:port`; may be given several times [default: this host's addresses]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Vec<String>,
    /// Where the coordinator listens; every address, port 5741, unless given
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<std::net::SocketAddr>,
    /// The coordinator's state directory
    #[arg(long, value_name = "DIR", default_value = crate::coordinator::DEFAULT_STATE)]
    pub(crate) state: PathBuf,
    /// Addresses of the nodes
    #[arg(long, value_name = "PREFIX")]
    pub(crate) ipv4: Option<Prefix>,
    /// Addresses of the nodes
    #[arg(long, value_name = "PREFIX")]
    pub(crate) ipv6: Option<Prefix>,
    /// Do not make this host a node of the network
    #[arg(long)]
    pub(crate) no_join: bool,
    /// Check the arguments, say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Arguments of `join`.
#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// The token, `wattle1-…`; `-` reads it from standard input
    pub(crate) token: String,
    /// The node's state directory
    #[arg(long, value_name = "DIR", default_value = wattle_agent::state::DEFAULT_STATE)]
    pub(crate) state: PathBuf,
    /// Name of this node; the host's name unless the token has one
    #[arg(long)]
    pub(crate) name: Option<NodeName>,
    /// A network behind this node to announce; may be given several times
    #[arg(long, value_name = "PREFIX")]
    pub(crate) announce: Vec<Prefix>,
    /// Do not start the agent afterwards
    #[arg(long)]
    pub(crate) no_start: bool,
    /// Check token, state and settings without asking the coordinator, say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Arguments of `leave`.
#[derive(Debug, Args)]
pub(crate) struct LeaveArgs {
    /// The node's state directory, if no agent runs
    #[arg(long, value_name = "DIR", default_value = wattle_agent::state::DEFAULT_STATE)]
    pub(crate) state: PathBuf,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Exit with 5 unless it is so
    #[arg(long, value_enum)]
    pub(crate) check: Option<Check>,
    /// Wait so long for the check to pass, then exit with 6
    #[arg(long, value_name = "SECONDS", requires = "check")]
    pub(crate) wait: Option<u64>,
}

/// What `status --check` checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Check {
    /// The agent answers
    Live,
    /// Its device, sockets and peer set are in place
    Ready,
    /// Every node is reachable and no link is settling
    Converged,
}

/// Arguments of `links`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct LinksArgs {
    /// Only those to this neighbour (name, node id or link number)
    pub(crate) neighbour: Option<String>,
    #[command(subcommand)]
    pub(crate) verb: Option<LinksVerb>,
}

/// Verbs of `links`.
#[derive(Debug, Subcommand)]
pub(crate) enum LinksVerb {
    /// Show all that is known of the links to one neighbour
    Show {
        /// Name, node id or link number
        neighbour: String,
    },
}

/// Arguments of `routes`.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct RoutesArgs {
    /// What routing decided (default)
    #[arg(long)]
    pub(crate) rib: bool,
    /// What packets are forwarded by
    #[arg(long)]
    pub(crate) fib: bool,
    /// What the agent has put into the kernel
    #[arg(long, conflicts_with = "class")]
    pub(crate) kernel: bool,
    /// Prefixes that are not in all three places; exit with 5 if there are any
    #[arg(long, conflicts_with = "class")]
    pub(crate) diff: bool,
    /// Those of packets of a class
    #[arg(long, default_value_t, value_parser = class())]
    pub(crate) class: Class,
}

/// Names of classes, for whoever completes a line.
fn class() -> impl TypedValueParser<Value = Class> {
    let names = PossibleValuesParser::new(Class::ALL.map(Class::name));
    names.try_map(|name| name.parse::<Class>())
}

/// Arguments of `topo`.
#[derive(Debug, Args)]
pub(crate) struct TopoArgs {
    /// How to show it
    #[arg(long, value_enum, default_value_t = TopoFormat::Table)]
    pub(crate) format: TopoFormat,
}

/// How `topo` shows the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TopoFormat {
    /// Nodes and links as tables
    Table,
    /// For `dot -Tsvg`
    Dot,
    /// For Markdown
    Mermaid,
    /// As with --json
    Json,
    /// A picture
    Svg,
}

/// A destination.
#[derive(Debug, Args)]
pub(crate) struct DestinationArgs {
    /// A node's name or id, or an address
    #[arg(value_name = "NODE|ADDRESS")]
    pub(crate) destination: String,
    /// Packets of which class
    #[arg(long, default_value_t, value_parser = class())]
    pub(crate) class: Class,
}

/// Arguments of `trace`.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// A node's name or id, or an address
    #[arg(value_name = "NODE|ADDRESS")]
    pub(crate) destination: String,
    /// Round trips to each node on the way
    #[arg(long, short, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) count: u32,
    /// Milliseconds after which a reply counts as lost
    #[arg(long, short = 'W', value_name = "MS", default_value_t = 1_000)]
    pub(crate) timeout: u32,
    /// Packets of which class
    #[arg(long, default_value_t, value_parser = class())]
    pub(crate) class: Class,
}

/// Arguments of `drain`.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// Give no transit at all, even where there is no other way
    #[arg(long)]
    pub(crate) hard: bool,
    /// Undrain by itself after so long
    #[arg(long = "for", value_name = "SECONDS")]
    pub(crate) for_s: Option<u64>,
    /// Wait until nothing has been relayed for a second; exit with 6 after so long
    #[arg(long, value_name = "SECONDS")]
    pub(crate) wait: Option<u64>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Arguments of `undrain`.
#[derive(Debug, Args)]
pub(crate) struct UndrainArgs {
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Arguments of `prefer`.
#[derive(Debug, Args)]
pub(crate) struct PreferArgs {
    /// The neighbour's name or id
    #[arg(value_name = "NEIGHBOUR", required_unless_present = "undo")]
    pub(crate) via: Option<String>,
    /// Only packets to this node
    #[arg(long, value_name = "NODE|ADDRESS")]
    pub(crate) to: Option<String>,
    /// Take it back by itself after so long
    #[arg(long = "for", value_name = "SECONDS", conflicts_with = "undo")]
    pub(crate) for_s: Option<u64>,
    /// Take the preference back
    #[arg(long, conflicts_with = "via")]
    pub(crate) undo: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Arguments of `ping`.
#[derive(Debug, Args)]
pub(crate) struct PingArgs {
    /// A node's name or id, or an address
    #[arg(value_name = "NODE|ADDRESS")]
    pub(crate) destination: String,
    /// How many
    #[arg(long, short, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// Milliseconds from one to the next
    #[arg(long, short, value_name = "MS", default_value_t = 1_000)]
    pub(crate) interval: u32,
    /// Milliseconds after which a reply counts as lost
    #[arg(long, short = 'W', value_name = "MS", default_value_t = 1_000)]
    pub(crate) timeout: u32,
    /// Packets of which class
    #[arg(long, default_value_t, value_parser = class())]
    pub(crate) class: Class,
}

/// Arguments of `events`.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Go on with what will happen
    #[arg(long, short)]
    pub(crate) follow: bool,
}

/// Which coordinator, and how to be let in.
#[derive(Debug, Clone, Args)]
pub(crate) struct CoordinatorArgs {
    /// The coordinator's `host:port`; by default the one on this host
    #[arg(long, value_name = "URL", env = "WATTLE_COORDINATOR")]
    pub(crate) coordinator: Option<String>,
    /// SHA-256 of the coordinator's certificate
    #[arg(long, value_name = "HEX", env = "WATTLE_FINGERPRINT")]
    pub(crate) fingerprint: Option<wattle_agent::state::Fingerprint>,
    /// File with the administrator's token; the variable WATTLE_TOKEN holds the token itself
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The Git revision that asks for a change, for the audit trail; else that of the variable WATTLE_REVISION
    #[arg(long, value_name = "REVISION")]
    pub(crate) revision: Option<String>,
    /// The coordinator's state directory, where address, fingerprint and token are found on its host
    #[arg(long, value_name = "DIR", default_value = crate::coordinator::DEFAULT_STATE)]
    pub(crate) coordinator_state: PathBuf,
}

/// Verbs of `network`.
#[derive(Debug, Subcommand)]
pub(crate) enum NetworkVerb {
    /// Make a network: with --offline one without a coordinator, ready to be copied to its nodes
    Create {
        /// Make the trust root and a state directory per node below this directory
        #[arg(long, value_name = "DIR", required = true)]
        offline: PathBuf,
        /// The nodes: see `nodes.toml` in the manual
        #[arg(long, value_name = "FILE", required = true)]
        nodes: PathBuf,
    },
}

/// Verbs of `nodes`.
#[derive(Debug, Subcommand)]
pub(crate) enum NodesVerb {
    /// Show all nodes
    List {
        #[command(flatten)]
        coordinator: CoordinatorArgs,
    },
    /// Remove a node for good: its sessions end everywhere
    Remove {
        /// Name or id
        node: String,
        /// Say what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        coordinator: CoordinatorArgs,
    },
}

/// Verbs of `tokens`.
#[derive(Debug, Subcommand)]
pub(crate) enum TokensVerb {
    /// Make a token that lets one host join, once
    Create {
        /// The name that the node gets
        #[arg(long)]
        name: Option<NodeName>,
        /// The node may announce prefixes within this one; may be given several times
        #[arg(long, value_name = "PREFIX")]
        announce: Vec<Prefix>,
        /// A tag that the node gets; may be given several times
        #[arg(long)]
        tag: Vec<NodeName>,
        /// The site that the node gets
        #[arg(long)]
        site: Option<NodeName>,
        /// For how many seconds it is good
        #[arg(long, value_name = "SECONDS")]
        ttl: Option<u64>,
        /// Ask the coordinator whether it lets us in, say what would be made, and make nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        coordinator: CoordinatorArgs,
    },
    /// Withdraw a token that is not used yet
    Revoke {
        /// The token's id, as `wattle tokens list` shows it
        id: String,
        /// Say what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        coordinator: CoordinatorArgs,
    },
    /// Show the tokens and what became of them
    List {
        #[command(flatten)]
        coordinator: CoordinatorArgs,
    },
}

/// Verbs of `leaves`.
#[derive(Debug, Subcommand)]
pub(crate) enum LeavesVerb {
    /// Attach a device and print its settings for wg-quick
    Add(LeafArgs),
}

/// Arguments of `leaves add`.
#[derive(Debug, Args)]
pub(crate) struct LeafArgs {
    /// The name that the device gets
    pub(crate) name: NodeName,
    /// The node that it is attached to, by name
    #[arg(long, value_name = "NODE")]
    pub(crate) host: NodeName,
    /// Its WireGuard public key; without one a key pair is made here, and the private key stands in the settings alone
    #[arg(long, value_name = "KEY")]
    pub(crate) public_key: Option<WgKey>,
    /// Its address, instead of free ones of the network; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) address: Vec<IpAddr>,
    /// A network behind it; may be given several times
    #[arg(long, value_name = "PREFIX")]
    pub(crate) announce: Vec<Prefix>,
    /// Write the settings to this new file, for its owner alone
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) coordinator: CoordinatorArgs,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn mistakes_on_the_command_line_are_usage_errors_with_code_2() {
        for line in [
            "wattle",
            "wattle fly",
            "wattle path",
            "wattle status --check perfect",
            "wattle status --wait 3",
            "wattle routes --fib --kernel",
            "wattle ping r3 -c 0",
            "wattle topology tail --prefix p",
            "wattle topology tail --kafka k:9092 --coordinator c:5741",
            "wattle topology tail --kafka k:9092 --kafka-config f",
            "wattle topology show --kafka-config f --coordinator c:5741",
            "wattle topology show --format png",
            "wattle topology at",
            "wattle topology diff",
            "wattle topology path a",
            "wattle topology tail --from-start --since -1h",
            "wattle topology replay --speed 0",
            "wattle leaves add phone",
            "wattle leaves add phone --host r1 --public-key short",
            "wattle tokens revoke",
            "wattle join token --name Not_A_Name",
            "wattle network create --nodes n.toml",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn global_options_stand_before_or_after_the_verb() {
        for line in [
            "wattle --json --socket /s peers",
            "wattle peers --socket /s --json",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).expect(line);
            assert!(cli.json && cli.socket.as_os_str() == "/s");
        }
    }

    /// A hint that names a verb or an option that is not there helps nobody.
    #[test]
    fn commands_that_sources_and_documents_show_can_be_typed() {
        let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut seen = 0;
        let mut complaints = Vec::new();
        for folder in ["agent", "coordinator", "tools", "docs", "README.md"] {
            for file in files_below(&top.join(folder)) {
                let text = std::fs::read_to_string(&file).unwrap();
                for (number, line) in text.lines().enumerate() {
                    for shown in shown_commands(line) {
                        seen += 1;
                        if let Err(why) = can_be_typed(shown) {
                            let (file, line) = (file.display(), number + 1);
                            complaints.push(format!("{file}:{line}: `wattle {shown}`: {why}"));
                        }
                    }
                }
            }
        }
        assert!(seen > 50, "only {seen} commands were found");
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    }

    #[test]
    fn a_command_that_cannot_be_typed_is_found_out() {
        let line = "\"see `wattle nodes fly` or `wattle tokens create --prefix P` or `wattle nodes list`\"";
        let wrong: Vec<_> = shown_commands(line)
            .into_iter()
            .filter(|shown| can_be_typed(shown).is_err())
            .collect();
        assert_eq!(wrong, ["nodes fly", "tokens create --prefix P"]);
    }

    fn files_below(path: &std::path::Path) -> Vec<PathBuf> {
        if !path.is_dir() {
            return vec![path.to_owned()];
        }
        let entries = std::fs::read_dir(path).unwrap();
        let below = entries.flat_map(|entry| files_below(&entry.unwrap().path()));
        let is_text = |file: &PathBuf| {
            let ending = file.extension().and_then(|ending| ending.to_str());
            matches!(ending, Some("rs" | "md"))
        };
        // These tests show commands that cannot be typed.
        below
            .filter(|file| is_text(file) && !file.ends_with("cli/src/args.rs"))
            .collect()
    }

    /// What stands between backticks and begins with `wattle `, without that word.
    fn shown_commands(line: &str) -> Vec<&str> {
        let quoted = line.split('`').skip(1).step_by(2);
        let commands = quoted.filter_map(|text| {
            let text = text.strip_prefix("sudo ").unwrap_or(text);
            text.strip_prefix("wattle ")
        });
        commands.collect()
    }

    fn can_be_typed(shown: &str) -> Result<(), String> {
        let mut command = Cli::command();
        command.build();
        let mut command = &command;
        for word in shown.split_whitespace() {
            if let Some(option) = word.strip_prefix("--") {
                let option = option.split('=').next().unwrap_or_default();
                let known = |arg: &clap::Arg| arg.get_long() == Some(option);
                if !command.get_arguments().any(known) {
                    return Err(format!("there is no --{option}"));
                }
                continue;
            }
            let is_verb = word.chars().all(|c| c.is_ascii_lowercase());
            if !is_verb || !command.has_subcommands() {
                continue;
            }
            match command.find_subcommand(word) {
                Some(found) => command = found,
                // `links NODE` takes a name in the place of a verb.
                None if command.get_positionals().next().is_some() => {}
                None => return Err(format!("there is no {word}")),
            }
        }
        Ok(())
    }
}
