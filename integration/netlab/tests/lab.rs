//! The lab does what it says: otherwise no story told in it is worth anything.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use wattle_netlab::capture::{Capture, occurrences};
use wattle_netlab::{Host, Lab, Nat, Shape, eventually, story};

const INTERVAL: Duration = Duration::from_millis(2);

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_cut_is_silent_one_way_if_asked_and_healed_again() {
    story("cut", |lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let link = lab.link(&a, &b)?;
        for to in [link.v4(&b)?, link.v6(&b)?] {
            assert!(a.reaches(to), "{to}");
        }
        let _echo = b.echo(SocketAddr::new(link.v4(&b)?, 7))?;
        let stream = a.probe(SocketAddr::new(link.v4(&b)?, 7), INTERVAL)?;
        stream.wait_for(100);
        lab.cut(&a, &b)?;
        assert!(
            a.sh("ip link show dev b")?.contains("state UP"),
            "nobody is told"
        );
        stream.wait_for(100);
        lab.heal(&a, &b)?;
        stream.wait_for(100);
        let report = stream.stop()?;
        assert_eq!(report.outages_ms.len(), 1, "{report:?}");
        assert!((200.0..1_000.0).contains(&report.outage_ms), "{report:?}");
        assert_eq!(report.unsendable, 0, "the sender is not told: {report:?}");
        assert_eq!(report.usual_ttl(), Some(64));

        lab.cut_one_way(&b, &a)?;
        let heard = Capture::start(&b, "a")?;
        a.sh("bash -c 'printf \"into the void\" > /dev/udp/10.100.1.2/9'")?;
        eventually("the other direction works", Duration::from_secs(5), || {
            Ok(!a.reaches(link.v4(&b)?))
        })?;
        assert_eq!(occurrences(&heard.stop()?, b"into the void"), 1);
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn loss_is_within_bounds() {
    story("loss", |lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let link = lab.link(&a, &b)?;
        let to = SocketAddr::new(link.v6(&b)?, 7);
        let _echo = b.echo(to)?;
        // Neighbour discovery would be lost like the rest, and is repeated once a second only.
        let first = a.probe(to, INTERVAL)?;
        first.wait_for(20);
        assert_eq!(first.stop()?.lost, 0);
        lab.loss_one_way(&a, &b, 30.0)?;
        let stream = a.probe(to, Duration::from_millis(1))?;
        stream.wait_for(4_000);
        let report = stream.stop()?;
        let percent = report.lost as f64 * 100.0 / report.sent as f64;
        assert!(
            (26.0..34.0).contains(&percent),
            "five standard deviations around 30: {percent} of {report:?}"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_wire_delays_loses_and_can_be_cut() {
    story("wire", |lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let link = lab.wire(&a, &b, Shape::delay(Duration::from_millis(20)))?;
        let to = SocketAddr::new(link.v4(&b)?, 7);
        let _echo = b.echo(to)?;
        let stream = a.probe(to, INTERVAL)?;
        stream.wait_for(200);
        let report = stream.stop()?;
        assert_eq!(report.lost, 0, "{report:?}");
        assert!((40_000..43_000).contains(&report.rtt_us[0]), "{report:?}");

        lab.reshape(
            &a,
            &b,
            Shape {
                loss_percent: 50.0,
                ..Shape::delay(Duration::ZERO)
            },
        )?;
        let stream = a.probe(to, INTERVAL)?;
        stream.wait_for(400);
        let report = stream.stop()?;
        let percent = report.received as f64 * 100.0 / report.sent as f64;
        assert!(
            (13.0..37.0).contains(&percent),
            "a quarter survives both ways: {percent}"
        );

        lab.reshape(&a, &b, Shape::delay(Duration::ZERO))?;
        lab.cut(&a, &b)?;
        assert!(!a.reaches(link.v4(&b)?));
        lab.heal(&a, &b)?;
        assert!(a.reaches(link.v4(&b)?));
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_rate_is_a_rate() {
    story("rate", |lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let link = lab.link(&a, &b)?;
        lab.rate(&a, &b, Some(20))?;
        let mut server = b.command("iperf3");
        server.arg("-s");
        let _server = b.spawn("iperf3", server)?;
        let mut mbit = 0.0;
        eventually("iperf3 listens", Duration::from_secs(5), || {
            mbit = a.iperf3(link.v4(&b)?, Duration::from_secs(2))?;
            Ok(true)
        })?;
        assert!((12.0..22.0).contains(&mbit), "{mbit}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn behind_a_nat_one_can_ask_and_is_answered_but_not_asked() {
    story("nat", |lab| {
        let [inside, router, outside] = lab.hosts(["inside", "router", "outside"])?;
        let private = lab.link(&inside, &router)?;
        let public = lab.link(&router, &outside)?;
        lab.nat(&inside, &router, &outside, Nat::PortRestricted)?;
        outside.sh(&format!("ip route add default via {}", public.v4(&router)?))?;
        assert!(inside.reaches(public.v4(&outside)?));
        assert!(inside.reaches(public.v6(&outside)?));
        assert!(
            !outside.reaches(private.v4(&inside)?),
            "nothing gets in unasked"
        );
        let seen = Capture::start(&outside, "router")?;
        inside.sh(&format!(
            "bash -c 'printf \"who am i\" > /dev/udp/{}/9'",
            public.v4(&outside)?
        ))?;
        let capture = seen.stop()?;
        let address =
            |host: &Host, segment: &wattle_netlab::Segment| segment.of(host).unwrap().v4.octets();
        assert!(occurrences(&capture, b"who am i") > 0);
        assert!(occurrences(&capture, &address(&router, &public)) > 0);
        assert_eq!(
            occurrences(&capture, &address(&inside, &private)),
            0,
            "its address is hidden"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn all_hosts_of_a_switch_reach_each_other_until_one_is_cut_off() {
    story("switch", |lab| {
        let [a, b, c] = lab.hosts(["a", "b", "c"])?;
        let lan = lab.switch("lan", &[&a, &b, &c])?;
        assert!(a.reaches(lan.v4(&b)?) && b.reaches(lan.v6(&c)?) && c.reaches(lan.v4(&a)?));
        lab.cut(&a, &b)?;
        assert!(!a.reaches(lan.v4(&b)?));
        lab.heal(&a, &b)?;
        assert!(a.reaches(lan.v4(&b)?));
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn nothing_is_left_behind_not_even_by_a_killed_test() {
    // The killed test is this one, run again as a child that gets no chance to clean up.
    if std::env::var_os("WATTLE_NETLAB_VICTIM").is_some() {
        let mut lab = Lab::new("victim").unwrap();
        let host = lab.host("h").unwrap();
        let mut sleep = host.command("sh");
        sleep.args(["-c", "sleep 1000 & sleep 1001"]);
        let _sleep = host.spawn("sleep", sleep).unwrap();
        std::thread::sleep(Duration::from_secs(100));
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "nothing_is_left_behind_not_even_by_a_killed_test",
        ])
        .env("WATTLE_NETLAB_VICTIM", "1")
        .spawn()
        .unwrap();
    let prefix = format!("wl-{}-", victim.id());
    let namespaces = || {
        Command::new("ip")
            .args(["netns", "list"])
            .output()
            .unwrap()
            .stdout
    };
    let exists = || String::from_utf8_lossy(&namespaces()).contains(&prefix);
    let sleeps = || {
        let pids = Command::new("ip")
            .args(["netns", "pids", &format!("{prefix}0-h")])
            .output()
            .unwrap();
        String::from_utf8_lossy(&pids.stdout).lines().count()
    };
    eventually("the victim is at work", Duration::from_secs(20), || {
        Ok(sleeps() >= 3)
    })
    .unwrap();
    victim.kill().unwrap();
    victim.wait().unwrap();
    eventually("nothing is left", Duration::from_secs(20), || Ok(!exists())).unwrap();
}
