//! Several workers in real agents: flows that move between them under load, lanes that are blocked or cut.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use wattle_netlab::probe::{Echo, Report, Running};
use wattle_netlab::{Host, Mesh, PATIENCE, Process, eventually, story};

/// Between the datagrams of a numbered flow.
const STREAM: Duration = Duration::from_millis(4);
/// Numbered flows, of which each worker is to have some.
const FLOWS: usize = 12;
/// The UDP port of every agent's second worker.
const LANE_PORT: u16 = 51_821;
/// That a stream goes on at all; `tools/bench routing` measures how soon.
const HEALED_MS: f64 = 2_000.0;

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn flows_move_to_further_workers_under_load_and_none_overtakes_itself() {
    for workers in [2, 8] {
        grow_to(workers);
    }
}

fn grow_to(workers: u64) {
    story(&format!("grow{workers}"), |lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        lab.link(&a, &b)?;
        // Over one address family: flows that move between links may overtake themselves with one worker, too.
        let mesh = lab.mesh("grow", &[&a, &b]).only_ipv6();
        let setting = format!("workers = {workers}\nquic_port = \"off\"");
        let mesh = mesh.setting(&setting).start()?;
        mesh.wait_all_reach_all(PATIENCE)?;
        assert_eq!(active(&mesh, &a)?, 1);
        let (streams, _echo) = flows(&mesh, &a, &b)?;
        streams[0].wait_for(100);
        let _load = load(&mesh, (&a, &b), 5201, 12)?;
        // Which end is the limit, and how many workers it takes, is the machine's business: one end that grows is enough.
        let has_grown = |host| Ok::<_, anyhow::Error>(lanes(&mesh, host)? > 0);
        let grown = eventually("several workers of an end carry packets", PATIENCE, || {
            Ok(has_grown(&a)? || has_grown(&b)?)
        })?;
        streams[0].wait_for(500);
        for (number, report) in stop(streams)?.into_iter().enumerate() {
            let metrics = mesh.metrics(&a)?;
            let active = active(&mesh, &a)?;
            let unsettled = metrics.get("wattle_worker_unsettled_changes_total")?;
            let lost = metrics.get("wattle_worker_lost_lanes_total")?;
            eprintln!(
                "flow {number}, {active} workers after {grown:?}, {unsettled} unsettled, {lost} lanes lost: {report:?}"
            );
            assert_eq!(
                (report.duplicated, report.reordered),
                (0, 0),
                "flow {number}"
            );
            // More workers than cores keep one another waiting, and what waits for them is bounded.
            assert!(report.lost == 0 || workers > 2, "flow {number}");
        }
        eventually("the load ends and the books balance", PATIENCE, || {
            for host in [&a, &b] {
                mesh.metrics(host)?.balance()?;
            }
            Ok(true)
        })?;
        for host in [&a, &b] {
            if !has_grown(host)? {
                continue;
            }
            let metrics = mesh.metrics(host)?;
            let read = |worker: &u64| {
                metrics.sum(
                    "wattle_worker_read_packets_total",
                    &format!("worker=\"{worker}\""),
                )
            };
            let reading = (0..workers).filter(|worker| read(worker) > 200).count();
            ensure!(
                reading >= 2,
                "{reading} of the workers of {} read",
                host.name()
            );
            let over_lanes = metrics.get("wattle_worker_lane_packets_total")?;
            ensure!(over_lanes > 1_000, "{over_lanes} datagrams over lanes");
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn where_a_lanes_port_is_blocked_everything_goes_by_way_of_the_first_worker() {
    story("blocked", |lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        lab.link(&a, &b)?;
        let block = format!(
            "table inet block {{
                chain in {{ type filter hook input priority 0; policy accept; udp dport {LANE_PORT} counter drop; }}
            }}\n"
        );
        b.nft(&block)?;
        let mesh = lab.mesh("blocked", &[&a, &b]);
        let mesh = mesh.setting("workers = 2\nquic_port = \"off\"").start()?;
        mesh.wait_all_reach_all(PATIENCE)?;
        grow(&mesh, &a, &b)?;
        let (streams, _echo) = flows(&mesh, &a, &b)?;
        streams[0].wait_for(1_500);
        for report in stop(streams)? {
            assert_eq!(
                (report.lost, report.duplicated, report.reordered),
                (0, 0, 0),
                "{report:?}"
            );
        }
        let metrics = mesh.metrics(&a)?;
        assert_eq!(lanes(&mesh, &a)?, 0);
        assert!(metrics.get("wattle_worker_handed_packets_total")? > 500);
        eventually("the books balance", PATIENCE, || {
            mesh.metrics(&a)?.balance().map(|()| true)
        })?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn flows_on_lanes_get_around_a_cut_as_fast_as_others() {
    story("lane-cut", |lab| {
        let hosts = lab.hosts(["a", "b", "c"])?;
        let [a, b, c] = &hosts;
        for (one, other) in [(a, b), (b, c), (c, a)] {
            lab.link(one, other)?;
        }
        let mesh = lab.mesh("lane-cut", &[a, b, c]);
        // Lanes run beside plain links alone, and which link is the best after such a load takes a while to settle.
        let mesh = mesh.setting("workers = 2\nquic_port = \"off\"").start()?;
        mesh.wait_all_reach_all(PATIENCE)?;
        grow(&mesh, a, b)?;
        let (streams, _echo) = flows(&mesh, a, b)?;
        eventually("the flows have a lane", PATIENCE, || {
            Ok(lanes(&mesh, a)? >= 1)
        })?;
        streams[0].wait_for(250);
        lab.cut(a, b)?;
        streams[0].wait_for(1_000);
        for report in stop(streams)? {
            eprintln!("outage {} ms", report.outage_ms);
            assert!(report.outage_ms <= HEALED_MS, "{report:?}");
            let ttl: Vec<u8> = report.ttl.keys().copied().collect();
            assert_eq!(ttl, [63, 64], "{report:?}");
        }
        assert_eq!(lanes(&mesh, a)?, 0);
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn without_the_privilege_there_is_one_worker_and_the_agent_says_so() {
    story("unprivileged", |lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        lab.link(&a, &b)?;
        let mesh = lab.mesh("unprivileged", &[&a, &b]).setting("workers = 2");
        let mut mesh = mesh.create()?;
        // CAP_SYS_ADMIN stands for CAP_BPF (39), too.
        let without = ["setpriv", "--bounding-set=-sys_admin,-cap_39"];
        mesh.start_behind(&a, &without)?;
        mesh.start(&b)?;
        mesh.wait_converged(PATIENCE)?;
        mesh.wait_all_reach_all(PATIENCE)?;
        let status = mesh.wattle(&a, &["status"])?;
        ensure!(status.contains("CAP_BPF"), "{status}");
        ensure!(!mesh.wattle(&b, &["status"])?.contains("CAP_BPF"));
        let queues = |host: &Host| host.sh("ls -d /sys/class/net/wattle0/queues/rx-* | wc -l");
        let device = a.sh("ip -d link show dev wattle0")?;
        ensure!(
            !device.contains("multi_queue on"),
            "{device}: {}",
            queues(&a)?
        );
        let log = mesh.stop(&a)?;
        assert_eq!(log.matches("CAP_BPF").count(), 1, "{log}");
        Ok(())
    });
}

/// Workers of a host that carry packets.
fn active(mesh: &Mesh, host: &Host) -> Result<u64> {
    mesh.metrics(host)?.get("wattle_worker_active_workers")
}

/// Lanes of a host that carry packets.
fn lanes(mesh: &Mesh, host: &Host) -> Result<u64> {
    mesh.metrics(host)?.get("wattle_worker_open_lanes")
}

/// Loads two hosts until the first has a second worker.
fn grow(mesh: &Mesh, a: &Host, b: &Host) -> Result<()> {
    // Two pairs of programs: one alone leaves the worker idle now and then on a fast machine.
    let loads = [5201, 5202].map(|port| load(mesh, (a, b), port, 60));
    let loads: Vec<_> = loads.into_iter().collect::<Result<_>>()?;
    eventually("a second worker", PATIENCE, || Ok(active(mesh, a)? == 2))?;
    drop(loads);
    std::thread::sleep(Duration::from_millis(500));
    Ok(())
}

/// TCP in both directions for so many seconds.
fn load(mesh: &Mesh, (from, to): (&Host, &Host), port: u16, seconds: u32) -> Result<[Process; 2]> {
    let port = port.to_string();
    let mut server = to.command("iperf3");
    server.args(["-s", "-1", "-p", &port]);
    let server = to.spawn(&format!("iperf3-{port}"), server)?;
    let at = mesh.address(to)?.to_string();
    std::thread::sleep(Duration::from_millis(500));
    let mut client = from.command("iperf3");
    let seconds = seconds.to_string();
    client.args(["-c", &at, "-p", &port, "-P", "4", "--bidir", "-t", &seconds]);
    Ok([server, from.spawn(&format!("iperf3-{port}"), client)?])
}

/// Numbered flows from one host to another and back.
fn flows(mesh: &Mesh, from: &Host, to: &Host) -> Result<(Vec<Running>, Echo)> {
    let at = SocketAddr::new(mesh.address(to)?, 7);
    let echo = to.echo(at)?;
    let streams = (0..FLOWS).map(|_| from.probe(at, STREAM));
    Ok((streams.collect::<Result<_>>()?, echo))
}

fn stop(streams: Vec<Running>) -> Result<Vec<Report>> {
    let reports = std::thread::scope(|scope| {
        let stopping: Vec<_> = streams
            .into_iter()
            .map(|stream| scope.spawn(|| stream.stop()))
            .collect();
        let ended = stopping.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        ended.collect::<Result<Vec<_>>>()
    });
    reports.context("a stream failed")
}
