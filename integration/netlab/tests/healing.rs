//! What goes wrong on real networks, and how long the mesh takes to get over it.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use wattle_netlab::{Host, Lab, Mesh, PATIENCE, Segment, eventually, story};

const STREAM: Duration = Duration::from_millis(10);
/// That a stream goes on at all; `tools/bench routing` measures how soon.
const HEALED_MS: f64 = 2_000.0;

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_link_that_is_dead_in_one_direction_is_used_in_neither() {
    story("one-way", |lab| {
        let (mesh, [a, b, _], _) = triangle(lab)?;
        let (there, _echo) = mesh.echo(&b)?;
        let stream = a.probe(there, STREAM)?;
        stream.wait_for(100);
        lab.cut_one_way(&b, &a)?;
        stream.wait_for(400);
        let report = stream.stop()?;
        // Twice the time of a cut: the end that still hears has to be told by the one that does not.
        eprintln!("outage {} ms", report.outage_ms);
        assert!(report.outage_ms <= HEALED_MS, "{report:?}");
        assert_eq!(
            report.ttl.keys().copied().collect::<Vec<_>>(),
            [63, 64],
            "{report:?}"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_flapping_link_does_not_make_traffic_flap() {
    story("flapping", |lab| {
        let (mesh, [a, b, _], _) = triangle(lab)?;
        let (there, _echo) = mesh.echo(&b)?;
        let stream = a.probe(there, STREAM)?;
        for _ in 0..8 {
            lab.cut(&a, &b)?;
            stream.wait_for(60);
            lab.heal(&a, &b)?;
            stream.wait_for(60);
        }
        let report = stream.stop()?;
        let percent = report.lost as f64 * 100.0 / report.sent as f64;
        // Eight cuts of 0.6 s would lose half; how long the first one hurts is what `tools/bench routing` measures.
        assert!(percent < 20.0, "{percent} %: {report:?}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_partition_heals() {
    story("partition", |lab| {
        let [a, b, c, d] = lab.hosts(["a", "b", "c", "d"])?;
        for (one, other) in [(&a, &b), (&b, &c), (&c, &d)] {
            lab.link(one, other)?;
        }
        let mesh = lab.mesh("partition", &[&a, &b, &c, &d]).start()?;
        let far = mesh.address(&d)?;
        assert!(a.reaches(far));
        lab.cut(&b, &c)?;
        eventually("the far side is known to be gone", PATIENCE, || {
            Ok(mesh.data(&a, &["status"])?["peers_reachable"] == 1)
        })?;
        assert!(a.reaches(mesh.address(&b)?), "this side goes on");
        lab.heal(&b, &c)?;
        eventually("both sides are one", PATIENCE, || Ok(a.reaches(far)))?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn an_agent_that_is_stopped_for_five_seconds_is_avoided_and_comes_back() {
    story("stopped", |lab| {
        let (mut mesh, [a, b, c], _) = triangle(lab)?;
        lab.cut(&a, &b)?;
        let (there, _echo) = mesh.echo(&b)?;
        eventually("a reaches b over c", PATIENCE, || Ok(a.reaches(there.ip())))?;
        lab.heal(&a, &b)?;
        all_links_up(&mesh, &a)?;
        mesh.process(&c)?.signal(Signal::SIGSTOP)?;
        std::thread::sleep(Duration::from_secs(5));
        let stream = a.probe(there, STREAM)?;
        stream.wait_for(100);
        assert_eq!(stream.stop()?.lost, 0, "nobody waits for c");
        mesh.process(&c)?.signal(Signal::SIGCONT)?;
        eventually("c is back", PATIENCE, || Ok(a.reaches(mesh.address(&c)?)))?;
        mesh.wait_converged(PATIENCE)?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn neighbours_follow_a_node_that_moves_to_another_address() {
    story("roaming", |lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let link = lab.link(&a, &b)?;
        for host in [&a, &b] {
            let interface = &link.of(host)?.interface;
            host.sh(&format!("ip -6 address flush dev {interface}"))?;
        }
        let mesh = lab.mesh("roaming", &[&a, &b]).start()?;
        let (there, _echo) = mesh.echo(&b)?;
        let stream = a.probe(there, STREAM)?;
        stream.wait_for(100);
        a.sh("ip address del 10.100.1.1/24 dev b; ip address add 10.100.1.77/24 dev b")?;
        stream.wait_for(400);
        let report = stream.stop()?;
        assert!(
            report.outage_ms <= 3_000.0 && report.received > 200,
            "{report:?}"
        );
        let links = mesh.wattle(&b, &["--json", "links"])?;
        assert!(links.contains("10.100.1.77"), "{links}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn planned_stops_of_a_relay_lose_little() {
    story("graceful", |lab| {
        let (mut mesh, [a, b, c], _) = triangle(lab)?;
        lab.cut(&a, &b)?;
        let (there, _echo) = mesh.echo(&b)?;
        eventually("a reaches b over c", PATIENCE, || Ok(a.reaches(there.ip())))?;
        lab.heal(&a, &b)?;
        all_links_up(&mesh, &a)?;
        let stream = a.probe(there, STREAM)?;
        stream.wait_for(50);
        mesh.stop(&c)?;
        stream.wait_for(100);
        let report = stream.stop()?;
        eprintln!("outage {} ms", report.outage_ms);
        assert!(report.outage_ms <= HEALED_MS, "{report:?}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn new_keys_every_two_minutes_lose_nothing() {
    story("rekey", |lab| {
        let [a, b, c] = lab.hosts(["a", "b", "c"])?;
        lab.link(&a, &b)?;
        lab.link(&b, &c)?;
        let mesh = lab.mesh("rekey", &[&a, &b, &c]).start()?;
        let (near, _echo) = mesh.echo(&b)?;
        let (far, _another) = mesh.echo(&c)?;
        let streams = [a.probe(near, STREAM)?, a.probe(far, STREAM)?];
        streams[0].wait_for(14_000);
        for stream in streams {
            let report = stream.stop()?;
            assert_eq!((report.lost, report.duplicated), (0, 0), "{report:?}");
        }
        Ok(())
    });
}

/// Waits until a node of the triangle has its links to both others up, over every carrier.
fn all_links_up(mesh: &Mesh, host: &Host) -> Result<Duration> {
    eventually("six links up", PATIENCE, || {
        Ok(mesh.data(host, &["status"])?["links_up"] == 6)
    })
}

/// Three nodes, each linked with each.
fn triangle(lab: &mut Lab) -> Result<(Mesh, [Host; 3], [Segment; 3])> {
    let hosts = lab.hosts(["a", "b", "c"])?;
    let [a, b, c] = &hosts;
    let segments = [lab.link(a, b)?, lab.link(b, c)?, lab.link(c, a)?];
    let mesh = lab.mesh("triangle", &[a, b, c]).start()?;
    Ok((mesh, hosts, segments))
}
