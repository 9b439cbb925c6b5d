//! Kafka's troubles are nobody else's: a real mesh with a coordinator that mirrors to a real broker, all in namespaces.
//! Packets flow while the broker is killed and comes back, while its disk is full, and while the coordinator itself is
//! killed.
//! `sudo tools/test kafka` runs it.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

mod disk;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use wattle_api::notice::{Alert, AlertKind, AlertState};
use wattle_netlab::kafka::{Access, Broker};
use wattle_netlab::probe::{Report, Running};
use wattle_netlab::{Coordinator, Host, eventually, story};

use crate::disk::Disk;

const PATIENCE: Duration = Duration::from_secs(120);
const EVERY: Duration = Duration::from_millis(5);
const EVENTS: &str = "wattle.lab.topology.events.v1";

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
        let lab = &*lab;
        // The broker is a child of this thread and lives in the hub's network.
        hub.inside(|| {
            let disk = Disk::of_megabytes(96);
            let mut broker = Broker::start_in(Access::Open, Some(&disk.directory()))?;
            let config = hub.directory().join("coordinator.toml");
            let kafka = format!(
                "[kafka]\nbrokers = [\"{}\"]\nmetrics_every_s = 1\n",
                broker.bootstrap()
            );
            std::fs::write(&config, kafka)?;
            let at: SocketAddr = "10.9.0.1:5741".parse()?;
            let coordinator = Coordinator::start_with(&hub, at, Some(&config))?;
            let mut mesh = lab.mesh("kafka", &[&a, &b]).join(&coordinator)?;
            let count = |topic: &str| -> Result<usize> { Ok(broker.kcat(topic)?.len()) };
            eventually("events are in Kafka", PATIENCE, || Ok(count(EVENTS)? > 2))?;
            eventually("measurements are in Kafka", PATIENCE, || {
                Ok(count("wattle.lab.metrics.links.v1")? > 1)
            })?;
            eventually("the joins are in the audit trail", PATIENCE, || {
                let audit = broker.kcat("wattle.lab.audit.v1")?;
                let joins = audit.iter().filter_map(|record| record.value.as_deref());
                Ok(joins.filter(|value| value.contains("node_joined")).count() == 2)
            })?;

            // Java takes all the time there is when it starts: the agents, whose time is measured, come first.
            for host in [&a, &b] {
                mesh.stop(host)?;
                mesh.start_behind(host, &["nice", "-n", "-15"])?;
            }
            mesh.wait_all_reach_all(PATIENCE)?;
            mesh.wait_settled(PATIENCE)?;
            let to = SocketAddr::new(mesh.address(&b)?, 7777);
            let _echo = b.echo(to)?;
            for _ in 0..2 {
                let report = nothing_is_lost_while(&a, to, |stream| {
                    broker.kill()?;
                    stream.wait_for(400);
                    broker.restart()
                })?;
                println!("{report:?}");
            }
            let report = nothing_is_lost_while(&a, to, |_| {
                disk.fill();
                let failures = failures_once_more_waits(&hub)?;
                eventually("nothing more reaches Kafka", PATIENCE, || {
                    Ok(failures_once_more_waits(&hub)? > failures)
                })?;
                disk.make_room();
                broker.restart()
            })?;
            println!("{report:?}");
            ensure!(
                broker.kcat(EVENTS)?.len() > 2,
                "events survived the broker's ends"
            );
            // The address of version 6 is to be there again when the link is.
            let keep = format!("net.ipv6.conf.{direct}.keep_addr_on_down=1");
            a.sh(&format!(
                "sysctl -qw {keep} && ip link set dev {direct} down"
            ))?;
            the_alert_is(&broker, AlertState::Raised)?;
            a.sh(&format!("ip link set dev {direct} up"))?;
            mesh.wait_all_reach_all(PATIENCE)?;
            mesh.wait_settled(PATIENCE)?;
            the_alert_is(&broker, AlertState::Cleared)?;
            let report = nothing_is_lost_while(&a, to, |_| {
                coordinator.kill();
                Ok(())
            })?;
            println!("{report:?}");
            Ok(())
        })
        .context("inside the hub")
    });
}

/// Sends packets before, amid and after something that must cost none.
fn nothing_is_lost_while(
    from: &Host,
    to: SocketAddr,
    fault: impl FnOnce(&Running) -> Result<()>,
) -> Result<Report> {
    let stream = from.probe(to, EVERY)?;
    stream.wait_for(200);
    fault(&stream)?;
    stream.wait_for(600);
    let report = stream.stop()?;
    ensure!(report.sent > 800, "{report:?}");
    ensure!(report.lost == 0, "packets were lost: {report:?}");
    Ok(report)
}

/// Makes a token, of which the audit trail in Kafka is to tell; how often the mirror has failed.
fn failures_once_more_waits(coordinator: &Host) -> Result<u64> {
    let api = "https://10.9.0.1:5741/api/v1";
    let curl =
        "curl -skf --max-time 10 -H \"Authorization: Bearer $(cat coordinator/admin.token)\"";
    coordinator.sh(&format!("{curl} --json {{}} {api}/tokens"))?;
    let status = coordinator.sh(&format!("{curl} {api}/mirror"))?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    status["failures"].as_u64().context("no failures")
}

/// The newest word on the lost link: an alert is told after 5 s, and cleared after half a minute.
fn the_alert_is(broker: &Broker, wanted: AlertState) -> Result<()> {
    let what = format!("the lost link's alert is {wanted:?}");
    eventually(&what, PATIENCE, || {
        let records = broker.kcat("wattle.lab.alerts.v1")?;
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
