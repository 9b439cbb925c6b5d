//! Flows when a faster way comes in: none is reordered, and all take it in time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use wattle_netlab::probe::{Echo, Running};
use wattle_netlab::{Host, Lab, Mesh, PATIENCE, Shape, eventually, story};

const EACH: Duration = Duration::from_millis(1);
const MEASURED: Duration = Duration::from_millis(300);

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_flow_takes_a_faster_way_in_its_next_pause_or_after_five_seconds_and_is_not_reordered() {
    story("flowlets", |lab| {
        let hosts = lab.hosts(["a", "b", "slow", "fast"])?;
        let [a, b, slow, fast] = &hosts;
        let mesh = two_ways(lab, &hosts)?;
        let (there, _echo) = echo(&mesh, b)?;
        let flow = || a.probe(there, EACH);
        let (pausing, ending, lasting) = ([flow()?, flow()?], flow()?, flow()?);
        lasting.wait_for(500);
        let one = rate(a, slow)? / 4.0;
        let flows = |relay: &Host| -> Result<f64> { Ok(rate(a, relay)? / one) };
        let before = detours(&mesh, &hosts)?;

        lab.heal(a, fast)?;
        eventually("the fast way is preferred", PATIENCE, || {
            Ok(first_relays(&mesh, a, b)? == ["fast", "fast"])
        })?;
        let after = {
            let changed = Instant::now();
            move |millis| {
                let due = changed + Duration::from_millis(millis);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        };
        after(1_000);
        let amid = [flows(slow)?, flows(fast)?];
        for flow in &pausing {
            flow.pause(Duration::from_millis(100));
        }
        after(2_500);
        let paused = [flows(slow)?, flows(fast)?];
        let [first, second] = pausing;
        let reports = std::thread::spawn(|| [first, second, ending].map(Running::stop));
        after(4_000);
        let alone = [flows(slow)?, flows(fast)?];
        after(5_500);
        let moved = [flows(slow)?, flows(fast)?];
        let lasting = lasting.stop()?;
        let reports = reports.join().expect("reports do not panic");
        let reports = reports.into_iter().collect::<Result<Vec<_>>>()?;
        let detours = detours(&mesh, &hosts)? - before;
        eprintln!(
            "flows over slow and fast: amid {amid:.2?}, paused {paused:.2?}, alone {alone:.2?}, moved {moved:.2?}; {detours} packets by detours"
        );
        for report in reports.iter().chain([&lasting]) {
            eprintln!(
                "{} of {} lost, {} reordered, ttl {:?} {:?}",
                report.lost, report.sent, report.reordered, report.ttl, report.ttl_there
            );
        }
        for (found, due) in [
            (amid, [4.0, 0.0]),
            (paused, [2.0, 2.0]),
            (alone, [1.0, 0.0]),
            (moved, [0.0, 1.0]),
        ] {
            let is_off = |(found, due): (f64, f64)| (found - due).abs() > 0.4;
            ensure!(
                !found.into_iter().zip(due).any(is_off),
                "{found:?} instead of {due:?}"
            );
        }
        for report in &reports {
            assert_eq!((report.lost, report.reordered), (0, 0), "{report:?}");
        }
        assert_eq!(lasting.lost, 0, "{lasting:?}");
        Ok(())
    });
}

/// Two nodes and two relays between them, one of them 4 ms farther; the link to the nearer one is cut.
fn two_ways(lab: &mut Lab, hosts: &[Host; 4]) -> Result<Mesh> {
    let [a, b, slow, fast] = hosts;
    for (relay, millis) in [(slow, 20), (fast, 18)] {
        for (from, to) in [(a, relay), (relay, b)] {
            lab.wire(from, to, Shape::delay(Duration::from_millis(millis)))?;
        }
    }
    // Of 256 parts the faster way takes all but two or three.
    let mesh = lab.mesh("flowlets", &[a, b, slow, fast]);
    let mesh = mesh
        .setting("quic_port = \"off\"")
        .setting("[[links]]\npeer = \"fast\"\nweight = 100");
    let mesh = mesh.start()?;
    lab.cut(a, fast)?;
    eventually("the slow way is taken", PATIENCE, || {
        Ok(first_relays(&mesh, a, b)? == ["slow", "slow"])
    })?;
    mesh.wait_settled(PATIENCE)?;
    // Frames alone, since what agents say to each other is no flow's; in bytes, since several may leave at once.
    for relay in [slow, fast] {
        let name = relay.name();
        a.nft(&format!(
            "add table inet flows
            add counter inet flows {name}
            add chain inet flows out {{ type filter hook output priority 0; }}
            add rule inet flows out oifname {name} meta l4proto udp @th,64,8 0x57 counter name {name}"
        ))?;
    }
    Ok(mesh)
}

/// Bytes of frames that a host sends to a relay in a second.
fn rate(host: &Host, relay: &Host) -> Result<f64> {
    let sent = || -> Result<u64> {
        let listed = host.sh(&format!("nft list counter inet flows {}", relay.name()))?;
        let mut words = listed.split_whitespace();
        let count = words.by_ref().skip_while(|word| *word != "bytes").nth(1);
        Ok(count.context("no count")?.parse()?)
    };
    let (began, before) = (Instant::now(), sent()?);
    std::thread::sleep(MEASURED);
    Ok((sent()? - before) as f64 / began.elapsed().as_secs_f64())
}

/// The relays that two nodes prefer for each other.
fn first_relays(mesh: &Mesh, a: &Host, b: &Host) -> Result<[String; 2]> {
    let relay = |from: &Host, to: &Host| -> Result<String> {
        let path = mesh.data(from, &["path", to.name()])?;
        let relay = path["ways"][0]["hops"][0]["to"]["name"].as_str();
        Ok(relay.context("no relay")?.to_owned())
    };
    Ok([relay(a, b)?, relay(b, a)?])
}

/// Packets that went around a suspect link.
fn detours(mesh: &Mesh, hosts: &[Host]) -> Result<u64> {
    let each = hosts.iter().map(|host| {
        mesh.metrics(host)?
            .get("wattle_worker_backup_packets_total")
    });
    each.sum()
}

/// An echo at the overlay address of a node.
fn echo(mesh: &Mesh, host: &Host) -> Result<(SocketAddr, Echo)> {
    let at = SocketAddr::new(mesh.address(host)?, 7);
    Ok((at, host.echo(at)?))
}
