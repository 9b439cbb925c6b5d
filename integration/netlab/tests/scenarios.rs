//! Links and relays that get worse without ending, and where traffic goes then.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use wattle_netlab::probe::Report;
use wattle_netlab::{Host, Lab, Mesh, PATIENCE, Shape, eventually, story};

const STREAM: Duration = Duration::from_millis(10);

/// How long prices that were measured on a busy machine may take to rest, and to be mended half a minute later.
const RESTED: Duration = Duration::from_secs(180);

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_near_link_that_loses_most_is_left_for_a_far_relay_that_loses_nothing() {
    story("near-lossy", |lab| {
        let [a, b, relay] = lab.hosts(["a", "b", "relay"])?;
        wire(lab, &a, &b, 5)?;
        wire(lab, &a, &relay, 20)?;
        wire(lab, &relay, &b, 20)?;
        let mesh = lab.mesh("near-lossy", &[&a, &b, &relay]).start()?;
        let (there, _echo) = mesh.echo(&b)?;
        lab.loss(&a, &b, 70.0)?;
        let stream = a.probe(there, STREAM)?;
        stream.wait_for(400);
        stream.stop()?;
        let after = streamed(&a, there, 400)?;
        assert_eq!(after.lost, 0, "{after:?}");
        assert_eq!(after.usual_ttl(), Some(63), "{after:?}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn two_short_links_beat_a_long_one() {
    story("triangle", |lab| {
        let [a, b, c] = lab.hosts(["a", "b", "c"])?;
        wire(lab, &a, &b, 30)?;
        wire(lab, &b, &c, 20)?;
        wire(lab, &a, &c, 60)?;
        let mesh = lab.mesh("triangle", &[&a, &b, &c]).start()?;
        let (there, _echo) = mesh.echo(&c)?;
        eventually("packets go over b", PATIENCE, || {
            Ok(way(&mesh, &a, "c")? == ["a", "b", "c"])
        })?;
        eventually("both ways", PATIENCE, || {
            let report = streamed(&a, there, 50)?;
            Ok(report.usual_ttl() == Some(63) && report.rtt_us[1] < 110_000)
        })?;
        let explained = mesh.data(&a, &["explain", "c"])?;
        let runner_up = explained["runner_up"]["hops"].as_array().context("hops")?;
        assert_eq!(runner_up.len(), 1, "{explained}");
        assert!(explained["margin_us"].as_u64() > Some(5_000), "{explained}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn links_in_a_higher_tier_carry_packets_only_while_nothing_else_leads_there() {
    story("tiers", |lab| {
        let tier = ["[[links]]", "peer = \"near\"", "tier = 1"];
        let (mesh, [a, b, _near, far]) = two_relays_over(lab, "tiers", &tier, "far", 5)?;
        let (there, _echo) = mesh.echo(&b)?;
        let explained = mesh.data(&a, &["explain", "b"])?;
        assert_eq!(explained["chosen"]["tier"], serde_json::Value::Null);
        assert_eq!(explained["runner_up"]["tier"], 2, "{explained}");
        assert!(
            explained["runner_up"]["cost_us"].as_u64() < explained["chosen"]["cost_us"].as_u64(),
            "{explained}"
        );
        lab.cut(&a, &far)?;
        eventually("what is left is taken", PATIENCE, || {
            Ok(way(&mesh, &a, "b")? == ["a", "near", "b"])
        })?;
        assert_eq!(streamed(&a, there, 100)?.lost, 0);
        lab.heal(&a, &far)?;
        let stream = a.probe(there, STREAM)?;
        eventually("it is left as soon as it may", PATIENCE, || {
            Ok(way(&mesh, &a, "b")? == ["a", "far", "b"])
        })?;
        stream.wait_for(50);
        assert_eq!(stream.stop()?.lost, 0);
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn packets_of_a_class_that_is_priced_apart_take_ways_of_their_own() {
    story("classes", |lab| {
        let apart = [
            "[[links]]",
            "class = \"bulk\"",
            "peer = \"near\"",
            "tier = 1",
        ];
        let (mesh, [a, b, near, far]) = two_relays(lab, "classes", &apart)?;
        eventually("bulk has a way of its own", PATIENCE, || {
            let path = mesh.data(&a, &["path", "--class", "bulk", "b"])?;
            Ok(path["ways"][0]["hops"][0]["to"]["name"] == "far")
        })?;
        let to = mesh.address(&b)?.to_string();
        let relayed = |relay: &Host| {
            mesh.metrics(relay)?
                .get("wattle_worker_relayed_packets_total")
        };
        let pings = |tos: &str| -> Result<bool> {
            let said = a.run(
                "ping",
                ["-n", "-q", "-c", "50", "-i", "0.02", "-Q", tos, &to],
            )?;
            Ok(said.contains(" 0% packet loss"))
        };
        let go_over = |over: &Host, beside: &Host, what: &str, send: &dyn Fn() -> Result<()>| {
            let before = [relayed(over)?, relayed(beside)?];
            send()?;
            let after = [relayed(over)?, relayed(beside)?];
            let [over, beside] = [after[0] - before[0], after[1] - before[1]];
            assert!(over >= 100 && beside <= 30, "{what}: {over} and {beside}");
            anyhow::Ok(())
        };
        // Class selector 1, lower effort, class selector 2; answers are marked as their questions.
        for (tos, over, beside) in [
            ("0", &near, &far),
            ("0x20", &far, &near),
            ("0x04", &far, &near),
            ("0x40", &near, &far),
        ] {
            go_over(over, beside, tos, &|| {
                assert!(pings(tos)?, "{tos}");
                Ok(())
            })?;
        }
        go_over(&far, &near, "trace", &|| {
            let trace = mesh.data(&a, &["trace", "--class", "bulk", "--count", "50", "b"])?;
            assert_eq!(trace["hops"][0]["node"]["name"], "far", "{trace}");
            Ok(())
        })?;
        for (class, over, beside) in [("bulk", &far, &near), ("admin", &near, &far)] {
            go_over(over, beside, class, &|| {
                let count = ["--count", "50", "--interval", "20"];
                let said =
                    mesh.wattle(&a, &[&["ping", "--class", class, "b"], &count[..]].concat())?;
                let way = format!("{class} reply from b ({to}) via {} in", over.name());
                assert_eq!(said.matches(&way).count(), 50, "{said}");
                Ok(())
            })?;
        }
        lab.cut(&a, &far)?;
        eventually(
            "a class without a way of its own loses nothing",
            PATIENCE,
            || pings("0x20"),
        )?;
        let path = mesh.data(&a, &["path", "--class", "bulk", "b"])?;
        assert_eq!(path["ways"][0]["tier"], 2, "{path}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_cost_that_rises_twentyfold_and_falls_again_moves_packets_away_and_back_once() {
    story("ramp", |lab| {
        let [a, b, relay] = lab.hosts(["a", "b", "relay"])?;
        wire(lab, &a, &b, 5)?;
        wire(lab, &a, &relay, 10)?;
        wire(lab, &relay, &b, 10)?;
        let mesh = lab.mesh("ramp", &[&a, &b, &relay]).start()?;
        mesh.wait_settled(PATIENCE)?;
        let (there, _echo) = mesh.echo(&b)?;
        let stream = a.probe(there, STREAM)?;
        let ramp = (1..=20_u32).map(|step| u64::from(step) * 5);
        for millis in ramp.clone().chain(ramp.rev()) {
            lab.reshape(&a, &b, Shape::delay(Duration::from_millis(millis)))?;
            std::thread::sleep(Duration::from_millis(300));
        }
        both_go(&mesh, &a, &b, &["a", "b"])?;
        std::thread::sleep(Duration::from_secs(10));
        let report = stream.stop()?;
        eprintln!("{:?} moves, {} lost", report.moves, report.lost);
        assert_eq!(report.moves, [2, 2], "away and back: {report:?}");
        assert!(report.lost <= 3, "{report:?}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn three_equal_relays_share_the_flows_and_a_flow_stays_on_one() {
    story("shares", |lab| {
        flows_are_shared(lab, "shares", &[], [1, 1, 1])
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn relays_of_one_price_share_the_flows_by_their_weights_and_a_flow_stays_on_one() {
    story("weights", |lab| {
        let weight = ["[[links]]", "peer = \"one\"", "weight = 3"];
        flows_are_shared(lab, "weights", &weight, [3, 1, 1])
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_relay_that_keeps_its_sessions_but_drops_what_it_forwards_is_left_within_two_seconds() {
    story("zombie", |lab| {
        let (mesh, [a, b, near, _far]) = two_relays(lab, "zombie", &["quic_port = \"off\""])?;
        let (there, _echo) = mesh.echo(&b)?;
        let stream = a.probe(there, STREAM)?;
        stream.wait_for(150);
        let links =
            || -> Result<serde_json::Value> { Ok(mesh.data(&a, &["status"])?["links_up"].take()) };
        let whole = links()?;
        // Frames leave no more, what the agent itself says does.
        near.sh(
            "nft -f - <<'END'\ntable inet zombie {\n chain out {\n type filter hook output priority 0;\n meta l4proto udp @th,64,8 0x57 drop\n }\n}\nEND",
        )?;
        let began = Instant::now();
        stream.wait_for(400);
        let report = stream.stop()?;
        eprintln!("outage {} ms", report.outage_ms);
        assert!(report.outage_ms <= 2_000.0 && report.lost > 0, "{report:?}");
        let after = streamed(&a, there, 100)?;
        assert_eq!(after.lost, 0, "{after:?}");
        assert_eq!(links()?, whole, "its links are whole");
        assert!(told(&mesh, &a, "relay_left")? >= 1);
        assert!(mesh.metrics(&a)?.get("wattle_worker_left_relays")? >= 1);
        let path = mesh.data(&a, &["path", "b"])?;
        assert_eq!(path["left"][0]["name"], "near", "{path}");
        near.sh("nft delete table inet zombie")?;
        eventually("it is trusted again", PATIENCE, || {
            Ok(told(&mesh, &a, "relay_trusted")? >= 1)
        })?;
        assert!(began.elapsed() > Duration::from_secs(2));
        assert_eq!(streamed(&a, there, 50)?.lost, 0);
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_relay_whose_process_is_frozen_is_gone_around_at_once() {
    story("frozen", |lab| {
        let (mut mesh, [a, b, near, _far]) = two_relays(lab, "frozen", &[])?;
        let (there, _echo) = mesh.echo(&b)?;
        let stream = a.probe(there, STREAM)?;
        stream.wait_for(150);
        // An eighth of a second after it froze the path is another: a busy machine may miss the moment once.
        let mut seen = false;
        for _ in 0..5 {
            mesh.process(&near)?.signal(Signal::SIGSTOP)?;
            seen = is_suspected(&mesh, &a, "near")?;
            if seen {
                break;
            }
            mesh.process(&near)?.signal(Signal::SIGCONT)?;
            both_go(&mesh, &a, &b, &["a", "near", "b"])?;
        }
        assert!(seen, "the path does not tell that its first hop is silent");
        // What lies in its sockets arrives when it wakes; what is sent in the meantime goes around.
        std::thread::sleep(Duration::from_millis(200));
        let during = streamed(&a, there, 100)?;
        assert_eq!(during.lost, 0, "{during:?}");
        assert_eq!(way(&mesh, &a, "b")?, ["a", "far", "b"]);
        mesh.process(&near)?.signal(Signal::SIGCONT)?;
        stream.wait_for(300);
        let report = stream.stop()?;
        eprintln!("outage {} ms, {report:?}", report.outage_ms);
        assert!(report.outage_ms <= 1_000.0, "{report:?}");
        assert!(
            report.lost <= 40,
            "coming back loses next to nothing: {report:?}"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_relay_whose_processor_is_taken_is_relieved_of_transit_before_it_loses_packets() {
    story("hog", |lab| {
        // Four neighbours that are preferred leave a process some ten milliseconds late: the other relay is well below.
        let (mut mesh, [a, b, near, far]) = two_relays_over(lab, "hog", &[], "near", 2)?;
        let cores = std::thread::available_parallelism()?.get();
        anyhow::ensure!(cores > 1, "the relay needs a processor of its own");
        let last = (cores - 1).to_string();
        let others = format!("0-{}", cores - 2);
        for host in [&a, &b, &far, &near] {
            let on = if host.name() == "near" {
                &last
            } else {
                &others
            };
            let pid = mesh.process(host)?.pid().to_string();
            host.run("taskset", ["-acp", on, &pid])?;
        }
        let (there, _echo) = mesh.echo(&b)?;
        let stream = a.probe(there, STREAM)?;
        stream.wait_for(150);
        let mut hogs = Vec::new();
        for number in 0..4 {
            let mut hog = near.command("taskset");
            hog.args([
                "-c",
                &last,
                "nice",
                "-n",
                "-10",
                "sh",
                "-c",
                "while :; do :; done",
            ]);
            hogs.push(near.spawn(&format!("hog{number}"), hog)?);
        }
        let took = eventually("transit goes over the other relay", PATIENCE, || {
            let ways = [way(&mesh, &a, "b")?, way(&mesh, &b, "a")?];
            Ok(ways
                .iter()
                .all(|way| way.get(1).is_some_and(|relay| relay == "far")))
        })?;
        let report = stream.stop()?;
        eprintln!("relieved after {took:?}: {report:?}");
        assert_eq!(report.lost, 0, "{report:?}");
        assert_eq!(told(&mesh, &near, "link_down")?, 0, "it is alive");
        drop(hogs);
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn nobody_is_given_up_while_the_machine_is_oversubscribed_four_times() {
    story("oversubscribed", |lab| {
        let (mesh, [a, b, near, far]) = two_relays(lab, "oversubscribed", &[])?;
        let (there, _echo) = mesh.echo(&b)?;
        let stream = a.probe(there, STREAM)?;
        stream.wait_for(100);
        let downs = |mesh: &Mesh| -> Result<usize> {
            let each = [&a, &b, &near, &far].map(|host| told(mesh, host, "link_down"));
            each.into_iter().sum()
        };
        let before = downs(&mesh)?;
        let cores = std::thread::available_parallelism()?.get();
        let mut hogs = Vec::new();
        for number in 0..4 * cores {
            let mut hog = a.command("sh");
            hog.args(["-c", "while :; do :; done"]);
            hogs.push(a.spawn(&format!("hog{number}"), hog)?);
        }
        std::thread::sleep(Duration::from_secs(20));
        drop(hogs);
        let report = stream.stop()?;
        eprintln!("{} of {} lost", report.lost, report.sent);
        assert_eq!(downs(&mesh)? - before, 0);
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_link_that_flaps_once_a_second_is_left_in_its_first_flap_until_it_rests() {
    story("flaps", |lab| {
        let (mesh, [a, b], report, lost_until_ms) = flaps(lab, "flaps", 1)?;
        // The first cut lasts half a second; packets leave within a tenth.
        assert!(lost_until_ms <= 500.0, "{report:?}");
        both_go(&mesh, &a, &b, &["a", "near", "b"])?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_link_that_flaps_five_times_a_second_is_left_in_its_first_flaps() {
    story("flaps-fast", |lab| {
        let (.., report, _) = flaps(lab, "flaps-fast", 5)?;
        // Half of the time nothing passes; who noticed each cut anew would lose 15 %.
        assert!(report.lost * 20 < report.sent, "{report:?}");
        Ok(())
    });
}

/// From rest on, the link that packets take is cut and healed so many times a second, for 12 s. Each direction moves twice at
/// most: away, and back if the link was whole for long enough. What became of a stream, and until when after the first cut
/// it lost anything, in milliseconds.
fn flaps(lab: &mut Lab, name: &str, hertz: u64) -> Result<(Mesh, [Host; 2], Report, f64)> {
    let (mesh, [a, b, near, _far]) = two_relays(lab, name, &[])?;
    let (there, _echo) = mesh.echo(&b)?;
    both_go(&mesh, &a, &b, &["a", "near", "b"])?;
    let moved = || -> Result<[usize; 2]> { Ok([moves(&mesh, &a, "b")?, moves(&mesh, &b, "a")?]) };
    let before = moved()?;
    let began = Instant::now();
    let stream = a.probe(there, STREAM)?;
    stream.wait_for(50);
    let cut_ms = began.elapsed().as_secs_f64() * 1e3;
    let half = 50 / hertz;
    for _ in 0..12 * hertz {
        lab.cut(&a, &near)?;
        stream.wait_for(half);
        lab.heal(&a, &near)?;
        stream.wait_for(half);
    }
    let after = moved()?;
    let report = stream.stop()?;
    let moved = [after[0] - before[0], after[1] - before[1]];
    let ends = report.outages_ms.iter().map(|(at, span)| at + span);
    let lost_until_ms = ends.fold(0.0, f64::max) - cut_ms;
    eprintln!(
        "{hertz} Hz: {moved:?} moves, {} of {} lost, until {lost_until_ms:.0} ms after the first cut",
        report.lost, report.sent
    );
    assert!(moved.iter().all(|moved| *moved <= 2), "{moved:?} moves");
    assert!(report.lost > 0, "it was in use: {report:?}");
    Ok((mesh, [a, b], report, lost_until_ms))
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn loss_in_one_direction_moves_both_within_two_seconds() {
    story("asymmetric", |lab| {
        let plain = ["quic_port = \"off\""];
        loss_in_one_direction(lab, "asymmetric", &plain, Duration::from_secs(2))
    });
}

/// Over the same lossy cable: the other link has to be seen through, too.
#[test]
#[ignore = "needs root: run by tools/test netns"]
fn loss_in_one_direction_moves_both_where_a_link_over_quic_stands_by() {
    story("asymmetric-quic", |lab| {
        loss_in_one_direction(lab, "asymmetric-quic", &[], Duration::from_secs(6))
    });
}

fn loss_in_one_direction(
    lab: &mut Lab,
    name: &str,
    settings: &[&str],
    limit: Duration,
) -> Result<()> {
    let (mesh, [a, b, near, _far]) = two_relays(lab, name, settings)?;
    let (there, _echo) = mesh.echo(&b)?;
    let stream = a.probe(there, STREAM)?;
    stream.wait_for(150);
    lab.loss_one_way(&near, &a, 20.0)?;
    let moved = both_go(&mesh, &a, &b, &["a", "far", "b"])?;
    stream.wait_for(300);
    let report = stream.stop()?;
    eprintln!("moved after {moved:?}, {} lost", report.lost);
    assert!(moved <= limit, "{moved:?}");
    assert_eq!(streamed(&a, there, 200)?.lost, 0);
    Ok(())
}

/// Two nodes with three relays between them that cost the same: whether flows are shared in these parts, and each takes one
/// way.
fn flows_are_shared(lab: &mut Lab, name: &str, settings: &[&str], parts: [u64; 3]) -> Result<()> {
    let [a, b] = lab.hosts(["a", "b"])?;
    let relays = lab.hosts(["one", "two", "three"])?;
    for relay in &relays {
        // In the middle of a step of the prices that are told, so that equal links have equal ones.
        for (from, to) in [(&a, relay), (relay, &b)] {
            lab.wire(from, to, Shape::delay(Duration::from_micros(10_600)))?;
        }
    }
    let [one, two, three] = &relays;
    let mut mesh = lab.mesh(name, &[&a, one, two, three, &b]);
    for setting in settings {
        mesh = mesh.setting(setting);
    }
    let mesh = mesh.start()?;
    let whole: u64 = parts.iter().sum();
    let there = mesh.address(&b)?;
    // One price, by the shares that the agent itself tells: of 256 parts each may be one off.
    let even = || -> Result<bool> {
        let path = mesh.data(&a, &["path", "b"])?;
        let ways = path["ways"].as_array().context("ways")?;
        let used = ways.iter().filter(|way| way["role"] == "used");
        let mut shares: Vec<u64> = used.filter_map(|way| way["weight_ppm"].as_u64()).collect();
        shares.sort_unstable_by(|a, b| b.cmp(a));
        let due = parts.map(|part| 1_000_000 * part / whole);
        let even = shares
            .iter()
            .zip(due)
            .all(|(share, due)| share.abs_diff(due) < 15_000);
        Ok(shares.len() == 3 && even)
    };
    eventually("three ways of one price", RESTED, even)?;
    for relay in &relays {
        a.count_frames_to(relay)?;
    }
    let sent = |relay: &Host| a.frames_to(relay);
    let counted = |send: &dyn Fn() -> Result<()>| -> Result<Vec<u64>> {
        let before: Vec<u64> = relays.iter().map(sent).collect::<Result<_>>()?;
        send()?;
        std::thread::sleep(Duration::from_millis(100));
        let after: Vec<u64> = relays.iter().map(sent).collect::<Result<_>>()?;
        Ok(after
            .iter()
            .zip(before)
            .map(|(after, before)| after - before)
            .collect())
    };
    // The first packets make the session.
    streamed(&a, SocketAddr::new(there, 9), 10)?;
    let mut shares = Vec::new();
    // Prices are measured: where one changes amid the flows, shares are others for a while.
    eventually(
        "prices that stay equal while flows are counted",
        RESTED,
        || {
            eventually("three ways of one price", RESTED, even)?;
            let flows = format!("for i in $(seq 9000); do echo > /dev/udp/{there}/9; done");
            shares = counted(&|| a.run("bash", ["-c", &flows]).map(drop))?;
            let one = shares.iter().sum::<u64>() as f64 / whole as f64;
            let off = |share: &u64, part: u64| (*share as f64 / (one * part as f64) - 1.0).abs();
            Ok(shares
                .iter()
                .zip(parts)
                .all(|(share, part)| off(share, part) <= 0.1))
        },
    )
    .with_context(|| format!("{shares:?}"))?;
    // No burst, which would hold up answers and bring the link under suspicion.
    let one_flow = counted(&|| streamed(&a, SocketAddr::new(there, 9), 300).map(drop))?;
    let most = one_flow.iter().max().context("three relays")?;
    let others = one_flow.iter().sum::<u64>() - most;
    assert!(*most > 300 * 200 && others * 10 < *most, "{one_flow:?}");
    Ok(())
}

/// Two nodes and two relays between them, the second one 10 ms farther; packets go over the first one.
fn two_relays(lab: &mut Lab, name: &str, settings: &[&str]) -> Result<(Mesh, [Host; 4])> {
    two_relays_over(lab, name, settings, "near", 5)
}

/// The same, where packets go over the relay `used` and each link of the far one takes so many milliseconds.
fn two_relays_over(
    lab: &mut Lab,
    name: &str,
    settings: &[&str],
    used: &str,
    far_ms: u64,
) -> Result<(Mesh, [Host; 4])> {
    let hosts = lab.hosts(["a", "b", "near", "far"])?;
    let [a, b, near, far] = &hosts;
    lab.link(a, near)?;
    lab.link(near, b)?;
    wire(lab, a, far, far_ms)?;
    wire(lab, far, b, far_ms)?;
    let mut mesh = lab.mesh(name, &[a, b, near, far]);
    for setting in settings {
        mesh = mesh.setting(setting);
    }
    let mesh = mesh.start()?;
    eventually("packets go over the relay meant", PATIENCE, || {
        let ways = [way(&mesh, a, "b")?, way(&mesh, b, "a")?];
        Ok(ways
            .iter()
            .all(|way| way.get(1).is_some_and(|relay| relay == used)))
    })?;
    mesh.wait_settled(PATIENCE)?;
    Ok((mesh, hosts))
}

/// A wire on which everything takes so many milliseconds.
fn wire(lab: &mut Lab, a: &Host, b: &Host, millis: u64) -> Result<()> {
    lab.wire(a, b, Shape::delay(Duration::from_millis(millis)))?;
    Ok(())
}

/// The nodes of the way that most packets take.
fn way(mesh: &Mesh, from: &Host, to: &str) -> Result<Vec<String>> {
    let path = mesh.data(from, &["path", to])?;
    let hops = path["ways"][0]["hops"].as_array().context("hops")?.iter();
    let ends = hops.filter_map(|hop| hop["to"]["name"].as_str());
    Ok([from.name()]
        .into_iter()
        .chain(ends)
        .map(str::to_owned)
        .collect())
}

/// So many probes, and what became of them.
fn streamed(from: &Host, to: SocketAddr, probes: u64) -> Result<Report> {
    let stream = from.probe(to, STREAM)?;
    stream.wait_for(probes);
    stream.stop()
}

/// Waits until packets between a and b go over these nodes in both directions; how long that took.
fn both_go(mesh: &Mesh, a: &Host, b: &Host, over: &[&str]) -> Result<Duration> {
    eventually(&format!("both go over {over:?}"), PATIENCE, || {
        let mut back = way(mesh, b, "a")?;
        back.reverse();
        Ok(way(mesh, a, "b")? == over && back == over)
    })
}

/// How often packets to a node began to go another way.
fn moves(mesh: &Mesh, host: &Host, to: &str) -> Result<usize> {
    let events = mesh.wattle(host, &["events"])?;
    let moved = format!("{to} goes via");
    Ok(events.matches(&moved).count())
}

/// Asks for the path to b without a pause until its first hop over a relay is suspected, or is another.
fn is_suspected(mesh: &Mesh, host: &Host, relay: &str) -> Result<bool> {
    let began = Instant::now();
    loop {
        let path = mesh.data(host, &["path", "b"])?;
        let first = &path["ways"][0]["hops"][0];
        if first["suspect"] == true || first["to"]["name"] != relay {
            return Ok(first["to"]["name"] == relay);
        }
        anyhow::ensure!(began.elapsed() < PATIENCE, "nobody notices: {path}");
    }
}

/// How often something of a kind happened.
fn told(mesh: &Mesh, host: &Host, kind: &str) -> Result<usize> {
    let events = mesh.wattle(host, &["--json", "events"])?;
    Ok(events.matches(&format!("\"{kind}\"")).count())
}
