//! What operators are told by a real agent, and what they may do.

use std::process::Output;

use anyhow::Result;
use wattle_netlab::mesh::binary;
use wattle_netlab::{PATIENCE, eventually, story};

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

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn groups_decide_who_may_look_and_who_may_change() {
    story("roles", |lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        lab.link(&a, &b)?;
        std::fs::write(a.directory().join("group"), GROUPS)?;
        std::fs::write(a.directory().join("passwd"), USERS)?;
        let program = a.directory().join("wattle");
        std::fs::copy(binary("wattle")?, &program)?;
        let mut mesh = lab.mesh("roles", &[&a, &b]).create()?;
        let users = "mount --bind group /etc/group; mount --bind passwd /etc/passwd; exec \"$@\"";
        mesh.start_behind(&a, &["sh", "-euc", users, "sh"])?;
        let status = ["status", "--check", "live", "--wait", "15"];
        mesh.wattle(&a, &status)?;

        // As whom, with which groups by the process: what `status`, `whoami` and `leave` say.
        let socket = mesh.socket(&a);
        let ask = |user: [&str; 3], verb: &[&str]| -> Result<Output> {
            let [uid, gid, groups] = user;
            let mut command = a.command("setpriv");
            command.args(["--reuid", uid, "--regid", gid, groups]);
            command
                .arg(&program)
                .arg("--socket")
                .arg(&socket)
                .args(verb);
            Ok(command.output()?)
        };
        let nobody = ["61001", "61001", "--clear-groups"];
        let member = ["61002", "61002", "--groups=61100"];
        let reader = ["61003", "61100", "--clear-groups"];
        let admin = ["61004", "61200", "--groups=61100"];
        let code = |user, verb| -> Result<Option<i32>> { Ok(ask(user, verb)?.status.code()) };
        assert_eq!(code(nobody, &["status"])?, Some(4));
        // The process is in the group and may connect; what counts is what the host's files say of its user.
        assert_eq!(
            code(["61001", "61001", "--groups=61100"], &["status"])?,
            Some(4)
        );
        for (user, role) in [(member, "reader"), (reader, "reader"), (admin, "admin")] {
            let output = ask(user, &["whoami", "--json"])?;
            let said: serde_json::Value = serde_json::from_slice(&output.stdout)?;
            assert_eq!(said["data"]["caller_uid"].to_string(), user[0], "{said}");
            assert_eq!(said["data"]["caller_role"], role, "{said}");
        }
        for user in [member, reader] {
            let output = ask(user, &["leave"])?;
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(4), "{said}");
            assert!(said.contains("wattle-admin"), "{said}");
        }
        assert!(mesh.state(&a).join("network.json").exists());
        assert_eq!(code(admin, &["leave"])?, Some(0));
        assert!(!mesh.state(&a).join("network.json").exists());
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn metrics_are_scraped_over_http_and_nothing_else_is_answered() {
    story("scrape", |lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        lab.link(&a, &b)?;
        // Two links, udp4 and udp6.
        let mesh = lab.mesh("scrape", &[&a, &b]);
        let mut mesh = mesh.setting("quic_port = \"off\"").create()?;
        mesh.set(&a, "metrics = \"127.0.0.1:9586\"")?;
        mesh.start_all()?;
        mesh.wait_converged(PATIENCE)?;

        let curl = |arguments: &[&str]| {
            let status = [
                "-s",
                "--max-time",
                "5",
                "-w",
                "%{http_code} %{content_type}",
            ];
            a.run("curl", status.iter().chain(arguments))
        };
        let metrics = curl(&["http://127.0.0.1:9586/metrics"])?;
        let (text, status) = metrics.split_once("# EOF\n").unwrap_or_default();
        assert!(
            status.starts_with("200 application/openmetrics-text"),
            "{metrics}"
        );
        for line in [
            "wattle_engine_peer_set_revision 1\n",
            "wattle_engine_turned_away_clients_total 0\n",
            "wattle_routing_reachable_nodes 1\n",
            "wattle_link_up_links 2\n",
        ] {
            assert!(text.contains(line), "{line} is missing: {text}");
        }
        let known = |text: &str| -> Vec<String> {
            let types = text.lines().filter(|line| line.starts_with("# TYPE"));
            types.map(str::to_owned).collect()
        };
        assert_eq!(known(text), known(&mesh.wattle(&a, &["metrics"])?));
        assert!(curl(&["http://127.0.0.1:9586/"])?.contains("404 "));
        assert!(curl(&["-X", "POST", "http://127.0.0.1:9586/metrics"])?.contains("405 "));
        Ok(())
    });
}

/// What `/etc/group` is to the agent.
const GROUPS: &str = "root:x:0:\nwattle:x:61100:member\nwattle-admin:x:61200:\n";
/// What `/etc/passwd` is to the agent.
const USERS: &str = "root:x:0:0::/root:/bin/sh\nnobody:x:61001:61001::/:/bin/false\nmember:x:61002:61002::/:/bin/false\n";
