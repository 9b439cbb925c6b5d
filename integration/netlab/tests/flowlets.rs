//! Flows when a faster way comes in: none is reordered, and all take it in time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use wattle_netlab::probe::Report;
use wattle_netlab::{Host, Lab, Mesh, PATIENCE, Shape, eventually, story};

const EACH: Duration = Duration::from_millis(1);
const MEASURED: Duration = Duration::from_millis(500);
/// Flows of a machine that stalls as long as this may have paused for 50 ms where it matters.
const STALL_MS: f64 = 30.0;
const ATTEMPTS: usize = 6;

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_flow_takes_a_faster_way_in_its_next_pause_or_after_five_seconds_and_is_not_reordered() {
    story("flowlets", |lab| {
        let hosts = lab.hosts(["a", "b", "slow", "fast"])?;
        let [a, b, _, fast] = &hosts;
        // In the middle of a step of the prices that are told, and one step apart: within reach while prices jitter.
        let mesh = two_ways(lab, &hosts, [[20_200, 20_200], [18_200, 20_200]])?;
        let (there, _echo) = mesh.echo(b)?;
        for _ in 0..ATTEMPTS {
            if a_faster_way_comes_in(lab, &mesh, &hosts, there)? == Outcome::Judged {
                return Ok(());
            }
            lab.cut(a, fast)?;
            slow_way_is_taken(&mesh, a, b)?;
        }
        bail!("the machine was fit in none of {ATTEMPTS} attempts")
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_way_that_is_so_much_faster_that_flows_cannot_be_shared_is_taken_at_once() {
    story("faster", |lab| {
        let hosts = lab.hosts(["a", "b", "slow", "fast"])?;
        let [a, b, slow, fast] = &hosts;
        let mesh = two_ways(lab, &hosts, [[37_000, 3_000], [5_000, 5_000]])?;
        let (there, _echo) = mesh.echo(b)?;
        let flow = a.probe(there, EACH)?;
        flow.wait_for(500);
        let one = rate(a, slow)?;
        let after = come_in(lab, &mesh, &hosts)?;
        after(200);
        let flows = [rate(a, slow)? / one, rate(a, fast)? / one];
        let report = flow.stop()?;
        tell(&report);
        ensure!(flows[0] < 0.1 && flows[1] > 0.6, "{flows:?}");
        assert_eq!(report.lost, 0, "{report:?}");
        Ok(())
    });
}

/// Whether an attempt says something.
#[derive(Debug, PartialEq)]
enum Outcome {
    Judged,
    /// For want of a processor the flow paused, a link was suspected, or prices were off.
    Unfit,
}

/// A flow that pauses, one that ends and one that does neither while the faster way comes in.
fn a_faster_way_comes_in(
    lab: &mut Lab,
    mesh: &Mesh,
    hosts: &[Host; 4],
    there: SocketAddr,
) -> Result<Outcome> {
    let [a, _, slow, fast] = hosts;
    let flow = || a.probe(there, EACH);
    let (pausing, ending, lasting) = (flow()?, flow()?, flow()?);
    lasting.wait_for(500);
    let one = rate(a, slow)? / 3.0;
    let flows = || -> Result<[f64; 2]> { Ok([rate(a, slow)? / one, rate(a, fast)? / one]) };
    let before = detours(mesh, hosts)?;

    let after = come_in(lab, mesh, hosts)?;
    let (shares, changed) = (shares(mesh, hosts)?, changes(mesh, hosts)?);
    after(500);
    let amid = flows()?;
    pausing.pause(Duration::from_millis(100));
    after(2_000);
    let paused = flows()?;
    let ended = [pausing, ending].map(|flow| std::thread::spawn(|| flow.stop()));
    after(3_600);
    let alone = flows()?;
    let is_steady = shares == [2, 2] && changes(mesh, hosts)? == changed;
    after(5_500);
    let moved = flows()?;
    let lasting = lasting.stop()?;
    let ended = ended
        .into_iter()
        .map(|flow| flow.join().expect("no panic"))
        .collect::<Result<Vec<_>>>()?;

    let detours = detours(mesh, hosts)? - before;
    eprintln!("amid {amid:.2?}, paused {paused:.2?}, alone {alone:.2?}, moved {moved:.2?}");
    ended.iter().chain([&lasting]).for_each(tell);
    let dropped = hosts.iter().map(|host| dropped(mesh, host));
    let dropped = dropped.collect::<Result<Vec<_>>>()?;
    eprintln!("steady: {is_steady}, {detours} packets by detours, dropped {dropped:?}");
    if detours > 0 || lasting.pause_ms > STALL_MS || !is_steady {
        return Ok(Outcome::Unfit);
    }
    for (found, due) in [
        (amid, [3.0, 0.0]),
        (paused, [2.0, 1.0]),
        (alone, [1.0, 0.0]),
        (moved, [0.0, 1.0]),
    ] {
        let is_off = |(found, due): (f64, f64)| (found - due).abs() > 0.45;
        let is_off = found.into_iter().zip(due).any(is_off);
        ensure!(!is_off, "flows over slow and fast: {found:?}, not {due:?}");
    }
    for report in &ended {
        assert_eq!((report.lost, report.reordered), (0, 0), "{report:?}");
    }
    assert_eq!(lasting.lost, 0, "{lasting:?}");
    Ok(Outcome::Judged)
}

/// Two nodes and two relays between them, with the microseconds that the links of each take; the first link of the second is
/// cut.
fn two_ways(lab: &mut Lab, hosts: &[Host; 4], micros: [[u64; 2]; 2]) -> Result<Mesh> {
    let [a, b, slow, fast] = hosts;
    for (relay, [near, far]) in [slow, fast].into_iter().zip(micros) {
        lab.wire(a, relay, Shape::delay(Duration::from_micros(near)))?;
        lab.wire(relay, b, Shape::delay(Duration::from_micros(far)))?;
    }
    // Of 256 parts the faster way takes all but two or three.
    let mesh = lab.mesh("flowlets", &[a, b, slow, fast]);
    let mesh = mesh
        .setting("quic_port = \"off\"")
        .setting("[[links]]\npeer = \"fast\"\nweight = 100");
    let mesh = mesh.start()?;
    lab.cut(a, fast)?;
    slow_way_is_taken(&mesh, a, b)?;
    for relay in [slow, fast] {
        a.count_frames_to(relay)?;
    }
    Ok(mesh)
}

fn slow_way_is_taken(mesh: &Mesh, a: &Host, b: &Host) -> Result<()> {
    eventually("the slow way is taken", PATIENCE, || {
        Ok(first_relays(mesh, a, b)? == ["slow", "slow"])
    })?;
    mesh.wait_settled(PATIENCE)
}

/// Mends the link that is cut; waits until so many milliseconds after both ends prefer the faster way.
fn come_in(lab: &mut Lab, mesh: &Mesh, hosts: &[Host; 4]) -> Result<impl Fn(u64) + use<>> {
    let [a, b, _, fast] = hosts;
    lab.heal(a, fast)?;
    eventually("the fast way is preferred", PATIENCE, || {
        Ok(first_relays(mesh, a, b)? == ["fast", "fast"])
    })?;
    let changed = Instant::now();
    Ok(move |millis| {
        let due = changed + Duration::from_millis(millis);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    })
}

fn tell(report: &Report) {
    eprintln!(
        "{} of {} lost, {} reordered, longest pause {:.0} ms, ttl {:?} {:?}",
        report.lost, report.sent, report.reordered, report.pause_ms, report.ttl, report.ttl_there
    );
}

/// Packets that an agent dropped, for whatever reason.
fn dropped(mesh: &Mesh, host: &Host) -> Result<u64> {
    Ok(mesh
        .metrics(host)?
        .sum("wattle_worker_dropped_packets_total", ""))
}

/// Bytes of frames that a host sends to a relay in a second.
fn rate(host: &Host, relay: &Host) -> Result<f64> {
    let (began, before) = (Instant::now(), host.frames_to(relay)?);
    std::thread::sleep(MEASURED);
    Ok((host.frames_to(relay)? - before) as f64 / began.elapsed().as_secs_f64())
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

/// How many relays share the flows of two nodes, at either end.
fn shares(mesh: &Mesh, [a, b, ..]: &[Host; 4]) -> Result<[usize; 2]> {
    let used = |from: &Host, to: &Host| -> Result<usize> {
        let path = mesh.data(from, &["path", to.name()])?;
        let ways = path["ways"].as_array().context("ways")?.iter();
        Ok(ways.filter(|way| way["role"] == "used").count())
    };
    Ok([used(a, b)?, used(b, a)?])
}

/// How often the two nodes changed ways.
fn changes(mesh: &Mesh, [a, b, ..]: &[Host; 4]) -> Result<usize> {
    let of = |host: &Host| -> Result<usize> {
        let events = mesh.wattle(host, &["events"])?;
        Ok(events.matches(" goes via ").count())
    };
    Ok(of(a)? + of(b)?)
}

/// Packets that went around a suspect link.
fn detours(mesh: &Mesh, hosts: &[Host]) -> Result<u64> {
    let each = hosts.iter().map(|host| {
        mesh.metrics(host)?
            .get("wattle_worker_backup_packets_total")
    });
    each.sum()
}
