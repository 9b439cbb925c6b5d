//! What operators are told by a real agent, and what they may do.

use std::time::Duration;

use anyhow::Result;
use wattle_netlab::{eventually, story};

const PATIENCE: Duration = Duration::from_secs(15);

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_route_that_somebody_removed_from_the_kernel_is_named() {
    story("routes", |lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        lab.link(&a, &b)?;
        let mesh = lab.mesh("routes", &[&a, &b]).start()?;
        mesh.wait_all_reach_all(PATIENCE)?;
        mesh.wattle(&a, &["routes", "--diff"])?;

        let peer = mesh.address(&b)?;
        let forwarded = mesh.data(&a, &["routes", "--fib"])?;
        let listed = forwarded["routes"].as_array().into_iter().flatten();
        let to_peer = listed
            .filter(|route| route["prefix"] == format!("{peer}/32"))
            .collect::<Vec<_>>();
        assert_eq!(to_peer.len(), 1, "{forwarded}");
        assert_eq!(to_peer[0]["node"]["name"], "b", "{forwarded}");
        assert_eq!(to_peer[0]["next_hops"][0]["via"]["name"], "b");

        a.sh("ip route del 10.77.0.0/16 table 5740")?;
        let kernel = mesh.wattle(&a, &["routes", "--kernel"])?;
        assert!(!kernel.contains("10.77.0.0/16"), "{kernel}");
        assert!(
            kernel.contains("fd57:77::/64 dev wattle0 table 5740"),
            "{kernel}"
        );
        let diff = mesh.command(&a)?.args(["routes", "--diff"]).output()?;
        assert_eq!(diff.status.code(), Some(5));
        let said = String::from_utf8(diff.stdout)?;
        assert_eq!(said, format!("! {peer}/32 missing in kernel\n"));
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn what_keeps_an_announced_network_from_working_is_said_where_it_can_be_changed() {
    story("prefixes", |lab| {
        let [a, b, printer] = lab.hosts(["a", "b", "printer"])?;
        lab.link(&a, &b)?;
        lab.link(&b, &printer)?;
        b.sh("echo 0 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding")?;
        let [shared, free, of_v6] = ["10.100.1.0/24", "10.100.2.0/24", "fd01:0:0:2::/64"];
        let mesh = lab
            .mesh("prefixes", &[&a, &b])
            .announces(&b, shared)?
            .announces(&b, free)?
            .announces(&b, of_v6)?
            .start()?;

        let on_link = format!(
            "{shared} of b is not used, because it overlaps {shared} on b; give one of the two networks other addresses"
        );
        let mut health = String::new();
        eventually("a says what it leaves out", PATIENCE, || {
            health = mesh.wattle(&a, &["status"])?;
            Ok(health.contains(&on_link))
        })?;
        assert_eq!(health.matches("is not used").count(), 1, "{health}");
        assert!(!health.contains("sysctl"), "a announces nothing: {health}");

        let health = mesh.wattle(&b, &["status"])?;
        for (prefix, setting) in [
            (shared, "net.ipv4.ip_forward"),
            (free, "net.ipv4.ip_forward"),
            (of_v6, "net.ipv6.conf.all.forwarding"),
        ] {
            let line = format!(
                "{prefix} is announced, but the kernel forwards nothing to it; run `sysctl -w {setting}=1`"
            );
            assert!(health.contains(&line), "{health}");
        }
        b.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
        let health = mesh.wattle(&b, &["status"])?;
        assert!(!health.contains("sysctl"), "{health}");
        Ok(())
    });
}
