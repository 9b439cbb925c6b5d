//! What the command line prints with `--json` fits the schemas that are published, verb by verb.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use wattle_netlab::mesh::binary;
use wattle_netlab::{Coordinator, Host, Lab, Mesh, PATIENCE, published, story};

/// Verbs that print one object per line; each other prints one.
const STREAMS: [&str; 4] = ["ping", "events", "tail", "replay"];

/// The answers of verbs that need a Kafka cluster; `kafka_cluster.rs` and `kafka_reading.rs` have them.
const OF_KAFKA: [&str; 3] = [
    "wattle.kafka_apply/v1",
    "wattle.kafka_plan/v1",
    "wattle.topology_verification/v1",
];

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn what_every_verb_prints_fits_its_published_schema() {
    story("answers", |lab| {
        let (coordinator, mesh, [hub, a, b]) = network(lab)?;
        let mut printed = Printed::default();
        agents_answer(&mesh, &a, &mut printed)?;
        a_coordinator_answers(&hub, &mut printed)?;
        what_is_made_and_left_is_told(&hub, &mut printed)?;
        the_first_steps_in_one_are_one_answer(&hub, &mut printed)?;
        printed.keep(mesh.command(&b)?.args(["--json", "leave"]), 0)?;
        drop(coordinator);

        let named = published::judge(&printed.lines)?;
        let elsewhere = OF_KAFKA.map(str::to_owned);
        let all: BTreeSet<String> = named.into_iter().chain(elsewhere).collect();
        assert_eq!(all, published::names()?, "left: printed; right: published");
        Ok(())
    });
}

/// Two nodes and a coordinator on a host of its own.
fn network(lab: &mut Lab) -> Result<(Coordinator, Mesh, [Host; 3])> {
    let [hub, a, b] = lab.hosts(["hub", "a", "b"])?;
    lab.link(&a, &b)?;
    hub.sh("ip address add 10.9.0.1/32 dev lo")?;
    for host in [&a, &b] {
        let via = lab.link(&hub, host)?.v4(&hub)?;
        host.sh(&format!("ip route add 10.9.0.1/32 via {via}"))?;
    }
    let coordinator = Coordinator::start(&hub, "10.9.0.1:5741".parse()?)?;
    let mesh = lab.mesh("answers", &[&a, &b]).join(&coordinator)?;
    mesh.wait_complete(PATIENCE)?;
    Ok((coordinator, mesh, [hub, a, b]))
}

fn agents_answer(mesh: &Mesh, a: &Host, printed: &mut Printed) -> Result<()> {
    let mut ask = |line: &str, exit| {
        let mut command = mesh.command(a)?;
        printed.keep(command.arg("--json").args(line.split(' ')), exit)
    };
    for line in [
        "peers",
        "links",
        "links show b",
        "routes",
        "routes --fib",
        "routes --kernel",
        "topo",
        "path b",
        "trace b",
        "ping --count 2 --interval 10 b",
        "ping --count 1 --class bulk b",
        "explain b",
        "prefer b --for 60",
        "drain --for 60",
        "status",
        "prefer --undo",
        "undrain",
        "events",
        "whoami",
        "metrics",
        "version",
        "leave --dry-run",
    ] {
        ask(line, 0)?;
    }
    a.sh("ip route del 10.77.0.0/16 table 5740")?;
    ask("routes --diff", 5)?;
    ask("path nobody", 7)?;
    Ok(())
}

fn a_coordinator_answers(hub: &Host, printed: &mut Printed) -> Result<()> {
    let state = hub.directory().join("coordinator");
    let wattle = |line: &str| -> Result<Command> {
        let mut command = hub.command(binary("wattle")?);
        command.arg("--json").args(line.split(' '));
        command.arg("--coordinator-state").arg(&state);
        Ok(command)
    };
    let mut ask = |line: &str| printed.keep(&mut wattle(line)?, 0);
    ask("tokens create --dry-run --name c")?;
    let created = ask("tokens create --name c --announce 10.200.0.0/16 --tag lab --site fra")?;
    let id = created["data"]["id"].as_str().context("an id")?;
    ask("tokens list")?;
    ask(&format!("tokens revoke {id}"))?;
    ask("leaves add phone --host a")?;
    for line in [
        "nodes list",
        "alerts",
        "topology show",
        "topology at now",
        "topology diff #1 now",
        "topology path a b",
        "topology replay --from #1 --speed 1e9",
        "topology stats --from #1",
        "topology tail --from-start --max 3",
        "nodes remove phone",
    ] {
        ask(line)?;
    }
    printed.keep_until(&mut wattle("topology tail --snapshot")?, "snapshot-end")
}

/// Networks with and without a coordinator, nodes of them, servers.
fn what_is_made_and_left_is_told(hub: &Host, printed: &mut Printed) -> Result<()> {
    let programs = binary("wattle-coordinator")?;
    let programs = programs.parent().context("a folder")?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut ask = |line: &str| {
        let mut command = hub.command(binary("wattle")?);
        command.env("PATH", format!("{}:{path}", programs.display()));
        printed.keep(command.arg("--json").args(line.split(' ')), 0)
    };
    ask("init --state second --name second")?;
    let created = ask("tokens create --coordinator-state coordinator")?;
    let token = created["data"]["token"].as_str().context("a token")?;
    ask(&format!(
        "join {token} --state c --name c --no-start --dry-run"
    ))?;
    ask(&format!("join {token} --state c --name c --no-start"))?;
    ask("--socket none leave --state c")?;

    write(hub, "nodes.toml", NODES)?;
    ask("network create --offline third --nodes nodes.toml")?;
    write(hub, "kafka.toml", SERVERS)?;
    ask("kafka render kafka.toml --output servers").map(drop)
}

/// As on a host with systemd, whose part is played, and with directories where the packages have theirs.
fn the_first_steps_in_one_are_one_answer(hub: &Host, printed: &mut Printed) -> Result<()> {
    let programs = binary("wattle")?;
    let programs = programs.parent().context("a folder")?.display();
    let played = hub.directory().join("played");
    std::fs::create_dir_all(&played)?;
    write(hub, "played/systemctl", SYSTEMCTL)?;
    hub.sh("chmod 755 played/systemctl")?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = hub.command("sh");
    command
        .env("PATH", format!("{}:{programs}:{path}", played.display()))
        .args(["-euc", ON_A_HOST, "sh"])
        .args(["wattle", "--json", "init", "--name", "fourth"])
        .args(["--advertise", "10.9.0.1:5742", "--listen", "10.9.0.1:5742"]);
    let made = printed.keep(&mut command, 0)?;
    assert_eq!(made["schema"], "wattle.init/v1");
    assert_eq!(made["data"]["joined"], true, "{made}");
    assert!(made["data"]["token"].is_string(), "{made}");
    Ok(())
}

/// What was printed with `--json`, to be judged at once.
#[derive(Default)]
struct Printed {
    lines: String,
}

impl Printed {
    /// Runs a command that must end so; the last line that it prints on standard output, if any.
    fn keep(&mut self, command: &mut Command, exit: i32) -> Result<Value> {
        let mut words = command.get_args().filter_map(std::ffi::OsStr::to_str);
        let most = match words.any(|word| STREAMS.contains(&word)) {
            true => usize::MAX,
            false => 1,
        };
        let output = command.output()?;
        let said = String::from_utf8(output.stdout)?;
        let complaint = String::from_utf8(output.stderr)?;
        ensure!(
            output.status.code() == Some(exit) && !(said.is_empty() && complaint.is_empty()),
            "{command:?}: {}\n{said}{complaint}",
            output.status
        );
        ensure!(
            said.lines().count() <= most,
            "{command:?} prints more than one object:\n{said}"
        );
        self.lines += &said;
        self.lines += &complaint;
        let last = said.lines().last().unwrap_or("null");
        Ok(serde_json::from_str(last)?)
    }

    /// Runs a command that does not end up to the line with this mark.
    fn keep_until(&mut self, command: &mut Command, mark: &str) -> Result<()> {
        let mut process = command.stdout(Stdio::piped()).spawn()?;
        let stdout = process.stdout.take().context("it is piped")?;
        let mut found = false;
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            self.lines += &format!("{line}\n");
            if line.contains(mark) {
                found = true;
                break;
            }
        }
        process.kill()?;
        process.wait()?;
        ensure!(found, "{command:?} ended without {mark}");
        Ok(())
    }
}

fn write(host: &Host, name: impl AsRef<Path>, text: &str) -> Result<()> {
    Ok(std::fs::write(host.directory().join(name), text)?)
}

const NODES: &str = "[network]\nname = \"third\"\n[[node]]\nname = \"x\"\nendpoints = [\"192.0.2.1:51820\"]\n\
                     [[node]]\nname = \"y\"\n[[leaf]]\nname = \"z\"\nhost = \"x\"\n\
                     public_key = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\n";
const SERVERS: &str = "[kafka]\nbrokers = [\"k1:9092\"]\n[cluster]\nsecurity = \"plaintext\"\ndata_dir = \"/var/lib/kafka/{id}\"\n\
                       [[cluster.brokers]]\nid = 1\nhost = \"k1\"\nrack = \"a\"\n";

/// Mounts of its own come with the host.
const ON_A_HOST: &str =
    "mount -t tmpfs none /run; mount -t tmpfs none /var/lib; mkdir -p /run/systemd/system
    trap 'kill $(cat /run/coordinator.pid)' EXIT; \"$@\"";

/// Starts the coordinator that it is told to enable, and no agent.
const SYSTEMCTL: &str = "#!/bin/sh -eu
    case \"$*\" in *wattle-coordinator*)
        wattle-coordinator run --state /var/lib/wattle-coordinator >coordinator.log 2>&1 & echo $! >/run/coordinator.pid
    esac\n";
