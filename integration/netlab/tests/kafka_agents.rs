//! Kafka's troubles are nobody else's: a real mesh with a coordinator that mirrors to a real cluster, all in namespaces.
//! Packets flow, links stay and members come while a topic is deleted, servers are killed, a right is missing, events are
//! given up, copies are too few, disks are full, and while the coordinator itself is killed; and the stream is right
//! afterwards. `sudo tools/test kafka` runs it.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

mod disk;
mod document;
mod member;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use wattle_api::gap::{GAP_KEY, GapRecord};
use wattle_api::notice::{Alert, AlertKind, AlertState};
use wattle_model::NodeId;
use wattle_netlab::answer::{FINDINGS, json_lines, wattle_topology};
use wattle_netlab::kafka::cluster::{Cluster, Shape};
use wattle_netlab::probe::Report;
use wattle_netlab::{Coordinator, Host, Mesh, block_on, eventually, story};

use crate::disk::Disk;
use crate::document::{Document, reach, users};
use crate::member::Agent;

const PATIENCE: Duration = Duration::from_secs(120);
const EVERY: Duration = Duration::from_millis(5);
const EVENTS: &str = "wattle.lab.topology.events.v1";
const MEASUREMENTS: &str = "wattle.lab.metrics.links.v1";
const API: &str = "https://10.9.0.1:5741/api/v1";

/// The smallest limit that an outbox can have.
const MAX_EVENTS: u64 = 10_000;

/// Reports of seven links over each of three carriers, of which each takes back the one before it.
const REPORTS: u64 = MAX_EVENTS / (2 * 7 * 3) + 50;

/// Longer than links take to be missed.
const AWAY: Duration = Duration::from_secs(2);

/// What goes wrong, one after the other, and is mended. The topic goes first: what is written anew knows no older gap.
const FAULTS: [(&str, Fault); 7] = [
    ("a topic is deleted", Scene::a_topic_is_deleted),
    ("all servers are killed", Scene::all_servers_are_killed),
    ("a right is missing", Scene::a_right_is_missing),
    ("the outbox is full", Scene::the_outbox_is_full),
    ("copies are too few", Scene::copies_are_too_few),
    ("the disk is full", Scene::the_disk_is_full),
    (
        "the coordinator is killed",
        Scene::the_coordinator_is_killed,
    ),
];

type Fault = fn(&mut Scene) -> Result<()>;

#[test]
#[ignore = "needs root and a Kafka broker: run by tools/test kafka"]
fn no_packet_is_lost_whatever_happens_to_kafka_and_its_coordinator() {
    story("kafka", |lab| {
        let [a, b, hub] = lab.hosts(["a", "b", "hub"])?;
        hub.sh("ip address add 10.9.0.1/32 dev lo")?;
        for host in [&a, &b] {
            let via = lab.link(&hub, host)?.v4(&hub)?;
            host.sh(&format!("ip route add 10.9.0.1/32 via {via}"))?;
        }
        let direct = lab.link(&a, &b)?.of(&a)?.interface.clone();
        let builder = lab.mesh("kafka", &[&a, &b]);
        // Servers and coordinator are children of this thread and live in the hub's network.
        hub.inside(|| {
            let (cluster, disk) = cluster()?;
            let document = Document::of(&cluster).with(&users(&cluster, "role"));
            document.run("apply", &["--yes"], 0);
            let coordinator = coordinator(&hub, &cluster)?;
            let mut scene = Scene {
                mesh: builder.join(&coordinator)?,
                agents: [a.clone(), b.clone()],
                hub: hub.clone(),
                coordinator,
                cluster,
                document,
                disk,
                joined: 0,
            };
            scene.everything_is_in_kafka()?;

            // Java takes all the time there is when it starts: the agents, whose time is measured, come first.
            for host in [&a, &b] {
                scene.mesh.stop(host)?;
                scene.mesh.start_behind(host, &["nice", "-n", "-15"])?;
            }
            scene.mesh.wait_all_reach_all(PATIENCE)?;
            // The address of version 6 is to be there again when the link is.
            let keep = format!("net.ipv6.conf.{direct}.keep_addr_on_down=1");
            let cut = format!("sysctl -qw {keep} && ip link set dev {direct} down");
            a.sh(&cut)?;
            scene.the_alert_is(AlertState::Raised)?;
            a.sh(&format!("ip link set dev {direct} up"))?;
            scene.mesh.wait_all_reach_all(PATIENCE)?;
            scene.mesh.wait_settled(PATIENCE)?;

            scene.nothing_is_lost_by_any_fault()?;
            scene.the_alert_is(AlertState::Cleared)?;
            scene.the_stream_is_right()
        })
        .context("inside the hub")
    });
}

/// Two servers that both must have a copy, on a disk that can be filled.
fn cluster() -> Result<(Cluster, Disk)> {
    let disk = Disk::of_megabytes(160);
    let shape = Shape::secured(2).with("min.insync.replicas", "2");
    Ok((Cluster::start(shape.on(disk.directory()))?, disk))
}

fn coordinator(hub: &Host, cluster: &Cluster) -> Result<Coordinator> {
    let kafka = reach(cluster, "wattle").replace("[kafka]\n", "[kafka]\nmetrics_every_s = 1\n");
    let outbox = format!("[outbox]\nkeep_events = 1000\nmax_events = {MAX_EVENTS}\n");
    let config = hub.directory().join("coordinator.toml");
    std::fs::write(&config, outbox + &kafka)?;
    Coordinator::start_with(hub, "10.9.0.1:5741".parse()?, Some(&config))
}

/// A mesh of two, its coordinator, and where that writes.
struct Scene {
    mesh: Mesh,
    agents: [Host; 2],
    hub: Host,
    coordinator: Coordinator,
    cluster: Cluster,
    document: Document,
    disk: Disk,
    /// Members that are nothing but names.
    joined: u8,
}

impl Scene {
    fn everything_is_in_kafka(&self) -> Result<()> {
        let count = |topic: &str| -> Result<usize> { Ok(self.cluster.kcat(topic)?.len()) };
        eventually("events are in Kafka", PATIENCE, || Ok(count(EVENTS)? > 2))?;
        eventually("measurements are in Kafka", PATIENCE, || {
            Ok(count(MEASUREMENTS)? > 1)
        })?;
        eventually("the joins are in the audit trail", PATIENCE, || {
            let audit = self.cluster.kcat("wattle.lab.audit.v1")?;
            let joins = audit.iter().filter_map(|record| record.value.as_deref());
            Ok(joins.filter(|value| value.contains("node_joined")).count() == 2)
        })?;
        Ok(())
    }

    /// One stream of packets from end to end, and what happens meanwhile by name.
    fn nothing_is_lost_by_any_fault(&mut self) -> Result<()> {
        let [from, to] = self.agents.clone();
        let at = SocketAddr::new(self.mesh.address(&to)?, 7777);
        let _echo = to.echo(at)?;
        let stream = from.probe(at, EVERY)?;
        let start = Instant::now();
        stream.wait_for(200);
        let mut begins = Vec::new();
        for (name, fault) in FAULTS {
            let (began, downs) = (start.elapsed(), self.links_down()?);
            begins.push((began, name));
            fault(self).context(name)?;
            ensure!(self.links_down()? == downs, "{name}: a link went down");
            let took = start.elapsed() - began;
            eprintln!("{name}: {:.0} s", took.as_secs_f64());
        }
        stream.wait_for(200);
        none_is_lost(&stream.stop()?, &begins)
    }

    fn a_topic_is_deleted(&mut self) -> Result<()> {
        let gone = format!("[desired.remove]\ntopics = [\"{EVENTS}\"]\n");
        self.document.write(&gone);
        self.document.run("apply", &["--yes", "--allow-delete"], 0);
        self.a_member_comes()?;
        eventually("the mirror has noticed", PATIENCE, || {
            Ok(self.api("mirror")?["lost_topics"].as_u64() > Some(0))
        })?;
        self.kafka_catches_up()
    }

    fn all_servers_are_killed(&mut self) -> Result<()> {
        for server in 0..self.cluster.len() {
            self.cluster.kill(server)?;
        }
        self.a_member_comes()?;
        self.stalls_for("unreachable")?;
        self.all_servers_start()
    }

    /// It stays away.
    fn a_right_is_missing(&mut self) -> Result<()> {
        self.document.write(&users(&self.cluster, ""));
        self.document.run("apply", &["--yes", "--allow-delete"], 0);
        self.a_member_comes()?;
        self.stalls_for("not_authorised")
    }

    /// The outbox's limit is looked at each half minute. Then the right is given back.
    fn the_outbox_is_full(&mut self) -> Result<()> {
        let written = number(&self.api("network")?, "mirrored_seq")?;
        let flood = self.a_member_comes()?;
        block_on(async {
            let mut connection = flood.hello().await?;
            for report in 1..=REPORTS {
                let links = flood.report(report, &neighbours(report));
                connection.send(&links).await?;
            }
            // The rest is on its way while the connection lives.
            eventually("more wait than may", PATIENCE, || {
                Ok(number(&self.api("network")?, "last_seq")? > written + MAX_EVENTS)
            })
        })?;
        eventually("the oldest that wait are given up", PATIENCE, || {
            let next = format!("events?limit=1&after={written}");
            let ask = self.curl("-o /dev/null -w %{http_code}", &next);
            Ok(self.hub.sh(&ask)? == "410")
        })?;
        self.a_member_comes()?;
        self.document.write(&users(&self.cluster, "role"));
        self.document.run("apply", &["--yes"], 0);
        self.kafka_catches_up()
    }

    fn copies_are_too_few(&mut self) -> Result<()> {
        self.cluster.kill(1)?;
        self.a_member_comes()?;
        self.stalls_for("too_few_in_sync")?;
        self.cluster.restart(1)?;
        self.kafka_catches_up()
    }

    fn the_disk_is_full(&mut self) -> Result<()> {
        self.disk.fill();
        let failures = self.failures_once_more_waits()?;
        eventually("nothing more reaches Kafka", PATIENCE, || {
            Ok(self.failures_once_more_waits()? > failures)
        })?;
        self.a_member_comes()?;
        self.disk.make_room();
        self.all_servers_start()
    }

    fn the_coordinator_is_killed(&mut self) -> Result<()> {
        self.coordinator.kill();
        std::thread::sleep(AWAY);
        self.coordinator.run()?;
        self.a_member_comes()?;
        self.kafka_catches_up()
    }

    fn all_servers_start(&mut self) -> Result<()> {
        for server in 0..self.cluster.len() {
            self.cluster.spawn(server)?;
        }
        self.cluster.wait_until_ready()?;
        self.kafka_catches_up()
    }

    /// The coordinator serves: somebody joins, and both agents hear of it.
    fn a_member_comes(&mut self) -> Result<Agent> {
        self.joined += 1;
        let member = Agent::join(self.joined, self.coordinator.token()?.parse()?);
        let id = member.id().to_string();
        for host in &self.agents {
            let what = format!("{} hears of another member", host.name());
            eventually(&what, PATIENCE, || {
                let peers = self.mesh.data(host, &["peers"])?;
                let mut peers = peers["peers"].as_array().into_iter().flatten();
                Ok(peers.any(|peer| peer["node"]["id"] == *id))
            })?;
        }
        Ok(member)
    }

    fn stalls_for(&self, cause: &str) -> Result<()> {
        let what = format!("Kafka is stalled: {cause}");
        eventually(&what, PATIENCE, || {
            Ok(self.api("mirror")?["stalled"]["cause"] == cause)
        })?;
        Ok(())
    }

    /// Everything that has happened so far is in Kafka, events and state.
    fn kafka_catches_up(&self) -> Result<()> {
        let last = number(&self.api("network")?, "last_seq")?;
        eventually("what waited is in Kafka", PATIENCE, || {
            Ok(self.api("network")?["mirrored_seq"].as_u64() >= Some(last))
        })?;
        Ok(())
    }

    /// Makes a token, of which the audit trail in Kafka is to tell; how often the mirror has failed.
    fn failures_once_more_waits(&self) -> Result<u64> {
        self.hub.sh(&self.curl("-f --json {}", "tokens"))?;
        number(&self.api("mirror")?, "failures")
    }

    /// How often a link went down at either end.
    fn links_down(&self) -> Result<usize> {
        let told = |host| self.mesh.wattle(host, &["--json", "events"]);
        let all = self.agents.iter().map(told).collect::<Result<String>>()?;
        Ok(all.matches("\"link_down\"").count())
    }

    /// The newest word on the lost link: an alert is told after 5 s, and cleared after half a minute.
    fn the_alert_is(&self, wanted: AlertState) -> Result<()> {
        let what = format!("the lost link's alert is {wanted:?}");
        eventually(&what, PATIENCE, || {
            let records = self.cluster.kcat("wattle.lab.alerts.v1")?;
            let values = records.iter().filter_map(|record| record.value.as_deref());
            let alerts: Vec<Alert> = values.map(serde_json::from_str).collect::<Result<_, _>>()?;
            let lost = alerts
                .iter()
                .filter(|alert| alert.kind == AlertKind::LinkLost);
            let newest: BTreeMap<_, _> = lost.map(|alert| (&alert.id, alert.state)).collect();
            Ok(!newest.is_empty() && newest.values().all(|state| *state == wanted))
        })?;
        Ok(())
    }

    /// Every event is there once and in order but those that were given up, which are told; and measurements come.
    fn the_stream_is_right(&self) -> Result<()> {
        self.kafka_catches_up()?;
        let measured = self.cluster.kcat(MEASUREMENTS)?.len();
        eventually("another measurement is in Kafka", PATIENCE, || {
            Ok(self.cluster.kcat(MEASUREMENTS)?.len() > measured)
        })?;
        let file = self.cluster.dir().join("reader.toml");
        std::fs::write(&file, reach(&self.cluster, Shape::ADMIN))?;
        let file = file.display().to_string();
        let source = ["--json", "--prefix", "wattle.lab", "--kafka-config", &file];
        let mut verify = wattle_topology(&source.map(str::to_owned), &["verify"])?;
        let verified = json_lines(&mut verify)?.remove(0);
        for fault in FINDINGS {
            ensure!(verified["data"][fault] == 0, "{fault}: {verified}");
        }
        let gap = self.gap()?;
        let missing = gap.last_seq + 1 - gap.first_seq;
        ensure!(verified["data"]["told_missing"] == missing, "{verified}");
        Ok(())
    }

    /// The only gap that the topic tells of.
    fn gap(&self) -> Result<GapRecord> {
        let records = self.cluster.kcat(EVENTS)?;
        let gaps = records.iter().filter(|record| record.key == GAP_KEY);
        let gaps: Vec<GapRecord> = gaps
            .filter_map(|gap| gap.value.as_deref())
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        let told: BTreeSet<_> = gaps
            .iter()
            .map(|gap| (gap.first_seq, gap.last_seq))
            .collect();
        ensure!(told.len() == 1, "one gap was made: {told:?}");
        gaps.into_iter().next().context("a gap is told")
    }

    fn api(&self, path: &str) -> Result<Value> {
        let answer = self.hub.sh(&self.curl("-f", path))?;
        serde_json::from_str(&answer).with_context(|| format!("{path}: {answer}"))
    }

    /// The command that asks the coordinator.
    fn curl(&self, options: &str, path: &str) -> String {
        let token = "-H \"Authorization: Bearer $(cat coordinator/admin.token)\"";
        format!("curl -sk --max-time 10 {token} {options} \"{API}/{path}\"")
    }
}

/// What was lost is told by the fault amid which it was.
fn none_is_lost(report: &Report, begins: &[(Duration, &str)]) -> Result<()> {
    eprintln!("{report:?}");
    let amid = |at_ms: f64| {
        let mut begun = begins.iter().rev();
        let found = begun.find(|(began, _)| began.as_secs_f64() * 1e3 <= at_ms);
        found.map_or("before any fault", |(_, name)| name)
    };
    let outages = report.outages_ms.iter();
    let lost: Vec<String> = outages
        .map(|(at, span)| format!("{span:.0} ms: {}", amid(*at)))
        .collect();
    ensure!(report.lost == 0, "packets were lost: {lost:?}");
    Ok(())
}

/// Seven that no report before had.
fn neighbours(report: u64) -> Vec<NodeId> {
    (1..=7).map(|number| NodeId(report << 8 | number)).collect()
}

fn number(answer: &Value, field: &str) -> Result<u64> {
    let number = answer[field].as_u64();
    number.with_context(|| format!("no {field} in {answer}"))
}
