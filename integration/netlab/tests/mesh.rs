//! Real agents, real devices, real packets: what the mesh promises, shown in namespaces.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use wattle_netlab::capture::{Capture, occurrences};
use wattle_netlab::mesh::{INTERFACE, PORT, binary};
use wattle_netlab::{Coordinator, Host, Lab, Mesh, Nat, PATIENCE, Shape, eventually, story};

/// What voice needs.
const STREAM: Duration = Duration::from_millis(10);
/// That a stream goes on at all; `tools/bench routing` measures how soon.
const HEALED_MS: f64 = 2_000.0;

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn two_nodes_talk_and_leave_nothing_behind_when_they_stop() {
    story("two", |lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        lab.link(&a, &b)?;
        a.sh("ip route add 10.9.0.0/16 dev b table 5740 proto static; ip rule add fwmark 0x1 lookup 5740")?;
        let before = kernel_state(&a)?;
        let mut mesh = lab.mesh("two", &[&a, &b]).start()?;
        mesh.wait_all_reach_all(PATIENCE)?;

        let mut server = b.command("iperf3");
        server.arg("-s");
        let _server = b.spawn("iperf3", server)?;
        let to = mesh.address(&b)?;
        let mut mbit = 0.0;
        eventually("iperf3 listens", PATIENCE, || {
            mbit = a.iperf3(to, Duration::from_secs(2))?;
            Ok(true)
        })?;
        assert!(mbit > 50.0, "TCP in super-packets: {mbit} Mbit/s");
        ensure!(kernel_state(&a)? != before, "the agent has set up nothing?");
        mesh.stop(&a)?;
        assert_eq!(
            kernel_state(&a)?,
            before,
            "foreign routes and rules stay, ours go"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_ring_relays_for_those_without_a_link_and_survives_a_cut() {
    story("ring", |lab| {
        let [a, b, c, d, e] = lab.hosts(["a", "b", "c", "d", "e"])?;
        for (one, other) in [(&a, &b), (&b, &c), (&c, &d), (&d, &e), (&e, &a), (&b, &e)] {
            lab.link(one, other)?;
        }
        let mesh = lab.mesh("ring", &[&a, &b, &c, &d, &e]).start()?;
        mesh.wait_all_reach_all(PATIENCE)?;
        mesh.wait_settled(PATIENCE)?;

        // One relay between or two, as measured costs say: so many less of the 64 hops that a packet begins with.
        let (there, _echo) = mesh.echo(&c)?;
        let stream = a.probe(there, STREAM)?;
        stream.wait_for(100);
        let report = stream.stop()?;
        assert_eq!(report.lost, 0, "{report:?}");
        assert!(matches!(report.usual_ttl(), Some(62 | 63)), "{report:?}");

        let (there, _echo) = mesh.echo(&b)?;
        let direct = |packets| -> Result<bool> {
            let stream = a.probe(there, STREAM)?;
            stream.wait_for(packets);
            Ok(stream.stop()?.usual_ttl() == Some(64))
        };
        // On a busy machine a way over e can measure better than the direct one for a while.
        eventually("the direct way is taken", PATIENCE, || direct(100))?;
        let stream = a.probe(there, STREAM)?;
        stream.wait_for(100);
        lab.cut(&a, &b)?;
        stream.wait_for(400);
        let report = stream.stop()?;
        assert_eq!(report.ttl.keys().next_back(), Some(&64), "{report:?}");
        assert!(report.ttl.keys().any(|ttl| *ttl < 64), "over e: {report:?}");
        eprintln!("outage {} ms", report.outage_ms);
        assert!(report.outage_ms <= HEALED_MS, "{report:?}");

        lab.heal(&a, &b)?;
        eventually("the direct way is taken again", PATIENCE, || direct(20))?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_lossy_link_is_left_within_three_seconds() {
    story("lossy", |lab| {
        let [a, b, c] = lab.hosts(["a", "b", "c"])?;
        for (one, other) in [(&a, &b), (&b, &c), (&a, &c)] {
            lab.link(one, other)?;
        }
        let mesh = lab.mesh("lossy", &[&a, &b, &c]).start()?;
        mesh.wait_settled(PATIENCE)?;
        let (there, _echo) = mesh.echo(&b)?;
        let stays = "the direct way is taken and kept";
        eventually(stays, Duration::from_secs(30), || {
            let stream = a.probe(there, STREAM)?;
            stream.wait_for(100);
            let ways: Vec<u8> = stream.stop()?.ttl.into_keys().collect();
            Ok(ways == [64])
        })?;
        // Traffic all the while: a link that carries nothing is asked once a second, and loss shows in none of it.
        let before = a.probe(there, STREAM)?;
        before.wait_for(10);
        lab.loss(&a, &b, 30.0)?;
        std::thread::sleep(Duration::from_secs(3));
        let after = a.probe(there, STREAM)?;
        after.wait_for(300);
        let report = after.stop()?;
        before.stop()?;
        assert_eq!(report.usual_ttl(), Some(63), "over c: {report:?}");
        assert!(report.lost <= 6, "{report:?}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn two_nodes_behind_nats_reach_each_other_through_a_relay() {
    for nat in [Nat::PortRestricted, Nat::Symmetric] {
        story("nats", |lab| {
            let [a, b, relay, left, right] = lab.hosts(["a", "b", "relay", "left", "right"])?;
            for (one, other) in [(&a, &left), (&left, &relay), (&b, &right), (&right, &relay)] {
                lab.link(one, other)?;
            }
            lab.nat(&a, &left, &relay, nat)?;
            lab.nat(&b, &right, &relay, nat)?;
            let mesh = lab
                .mesh("nats", &[&a, &b, &relay])
                .hidden(&a)?
                .hidden(&b)?
                .start()?;
            mesh.wait_all_reach_all(PATIENCE)
        });
    }
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_host_behind_a_node_is_reached_through_its_prefix() {
    story("subnet", |lab| {
        let [a, b, printer] = lab.hosts(["a", "b", "printer"])?;
        lab.link(&a, &b)?;
        let lan = lab.link(&b, &printer)?;
        lab.gateway(&printer, &b)?;
        let address = lan.v4(&printer)?;
        let [.., third, _] = lan.of(&printer)?.v4.octets();
        let prefix = format!("10.100.{third}.0/24");
        let mesh = lab
            .mesh("subnet", &[&a, &b])
            .announces(&b, &prefix)?
            .start()?;
        eventually("the printer answers", PATIENCE, || Ok(a.reaches(address)))?;
        assert!(printer.reaches(mesh.address(&a)?), "and asks");
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn an_underlay_of_ipv6_alone_carries_full_sized_relayed_packets() {
    story("v6", |lab| {
        let [a, b, c] = lab.hosts(["a", "b", "c"])?;
        lab.link(&a, &b)?;
        lab.link(&b, &c)?;
        for host in [&a, &b, &c] {
            for end in lab.ends(host) {
                host.sh(&format!("ip -4 address flush dev {}", end.interface))?;
            }
        }
        let mesh = lab.mesh("v6", &[&a, &b, &c]).only_ipv6().start()?;
        mesh.wait_all_reach_all(PATIENCE)?;
        let to = mesh.address(&c)?.to_string();
        // 1360 bytes with headers, which may not be cut.
        a.run("fping", ["-q", "-r", "2", "-M", "-b", "1332", &to])?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_stock_wireguard_device_reaches_a_node_two_relays_away_and_is_reached() {
    story("leaf", |lab| {
        let [phone, a, b, c, d] = lab.hosts(["phone", "a", "b", "c", "d"])?;
        let access = lab.link(&phone, &a)?;
        for (one, other) in [(&a, &b), (&b, &c), (&c, &d)] {
            lab.link(one, other)?;
        }
        let key = phone.sh("umask 077; wg genkey > phone.key; wg pubkey < phone.key")?;
        let address: IpAddr = "10.77.1.9".parse()?;
        let mesh = lab
            .mesh("leaf", &[&a, &b, &c, &d])
            .leaf("phone", &a, &key, address)
            .start()?;
        let node_key = std::fs::read(mesh.state(&a).join("wireguard.key"))?;
        std::fs::write(phone.directory().join("node.key"), node_key)?;
        let mut device = phone.command("wireguard-go");
        device
            .args(["-f", "wg0"])
            .env("WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD", "1");
        let _device = phone.spawn("wireguard-go", device)?;
        let endpoint = SocketAddr::new(access.v4(&a)?, PORT);
        let configure = format!(
            "wg set wg0 private-key phone.key peer $(wg pubkey < node.key) endpoint {endpoint} allowed-ips 10.77.0.0/16
             ip address replace {address}/32 dev wg0
             ip link set dev wg0 mtu 1360 up
             ip route replace 10.77.0.0/16 dev wg0"
        );
        eventually("wg0 is there", PATIENCE, || {
            phone.sh(&configure).map(|_| true)
        })?;

        for node in [&a, &b, &d] {
            let to = mesh.address(node)?;
            eventually("the phone is answered", PATIENCE, || Ok(phone.reaches(to)))
                .with_context(|| format!("by {}", node.name()))?;
        }
        assert!(d.reaches(address), "from two relays away");
        mesh.wait_settled(PATIENCE)?;
        let (there, _echo) = mesh.echo(&d)?;
        let stream = phone.probe(there, STREAM)?;
        stream.wait_for(100);
        let report = stream.stop()?;
        assert_eq!(report.lost, 0, "{report:?}");

        // A member without our scruples uses the address of another: its host drops that, by name.
        let (victim, to) = (mesh.address(&c)?, mesh.address(&b)?);
        phone.sh(&format!("ip address add {victim}/32 dev lo"))?;
        let before = mesh.dropped(&a, "spoofed_source")?;
        let pretend =
            ["-q", "-c", "3", "-S", &victim.to_string(), &to.to_string()].map(str::to_owned);
        let answered = phone.run("fping", &pretend);
        assert!(answered.is_err(), "{answered:?}");
        assert_eq!(mesh.dropped(&a, "spoofed_source")?, before + 3);
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_relay_sees_no_plaintext() {
    story("plaintext", |lab| {
        let [a, relay, c] = lab.hosts(["a", "relay", "c"])?;
        lab.link(&a, &relay)?;
        lab.link(&relay, &c)?;
        let mesh = lab.mesh("plaintext", &[&a, &relay, &c]).start()?;
        mesh.wait_all_reach_all(PATIENCE)?;
        let wires = [Capture::start(&relay, "a")?, Capture::start(&relay, "c")?];
        let device = Capture::start(&relay, INTERFACE)?;
        let target = Capture::start(&c, INTERFACE)?;
        let send = format!(
            "for i in $(seq 200); do printf 'the quick brown fox jumps' > /dev/udp/{}/9; done",
            mesh.address(&c)?
        );
        a.run("bash", ["-c", &send])?;
        eventually("all arrived", PATIENCE, || {
            let pcap = std::fs::read(c.directory().join(format!("{INTERFACE}.pcap")))?;
            Ok(occurrences(&pcap, b"the quick brown fox") >= 200)
        })?;
        assert!(occurrences(&target.stop()?, b"the quick brown fox") >= 200);
        assert_eq!(occurrences(&device.stop()?, b"quick brown"), 0);
        for wire in wires {
            let pcap = wire.stop()?;
            assert!(
                pcap.len() > 200 * 100,
                "the relay carried it: {} bytes",
                pcap.len()
            );
            for word in [&b"the quick"[..], b"brown", b"fox", b"jumps"] {
                assert_eq!(occurrences(&pcap, word), 0);
            }
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn tcp_runs_through_a_relay_in_both_families() {
    story("relayed-tcp", |lab| {
        let [a, relay, c] = lab.hosts(["a", "relay", "c"])?;
        lab.link(&a, &relay)?;
        lab.link(&relay, &c)?;
        let mesh = lab.mesh("relayed-tcp", &[&a, &relay, &c]).start()?;
        let mut server = c.command("iperf3");
        server.arg("-s");
        let _server = c.spawn("iperf3", server)?;
        for to in [mesh.address(&c)?, mesh.address_v6(&c)?] {
            let mut mbit = 0.0;
            eventually("iperf3 listens", PATIENCE, || {
                mbit = a.iperf3(to, Duration::from_secs(2))?;
                Ok(true)
            })?;
            eprintln!("relayed to {to}: {mbit:.0} Mbit/s");
            assert!(mbit > 50.0, "{mbit} Mbit/s to {to}");
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn replayed_and_forged_datagrams_reach_nobody() {
    story("forged", |lab| {
        let [a, relay, c] = lab.hosts(["a", "relay", "c"])?;
        let whole = Shape::delay(Duration::ZERO);
        lab.wire(&a, &relay, whole)?;
        lab.wire(&relay, &c, whole)?;
        for host in [&a, &relay, &c] {
            for end in lab.ends(host) {
                host.sh(&format!("ip -6 address flush dev {}", end.interface))?;
            }
        }
        // Every probe shall travel in plain datagrams, where it can be met.
        let mesh = lab.mesh("forged", &[&a, &relay, &c]);
        let mesh = mesh.setting("quic_port = \"off\"").start()?;
        let (there, _echo) = mesh.echo(&c)?;
        let replayed = || -> Result<[u64; 2]> {
            Ok([
                mesh.dropped(&relay, "frame_replayed")?,
                mesh.dropped(&c, "frame_replayed")?,
            ])
        };
        let forged = || -> Result<[u64; 2]> {
            Ok([
                mesh.dropped(&c, "frame_unauthentic")?,
                mesh.dropped(&c, "unauthentic")?,
            ])
        };
        assert_eq!((replayed()?, forged()?), ([0, 0], [0, 0]));
        for (one, other) in [(&a, &relay), (&relay, &c)] {
            lab.reshape(
                one,
                other,
                Shape {
                    duplicate_percent: 100.0,
                    ..whole
                },
            )?;
        }
        let stream = a.probe(there, STREAM)?;
        stream.wait_for(300);
        let report = stream.stop()?;
        assert_eq!((report.lost, report.duplicated), (0, 0), "{report:?}");
        // Every probe is a frame on either wire, and so is every answer.
        let [at_relay, at_end] = replayed()?;
        assert!(at_relay >= 600 && at_end >= 300, "{at_relay}, {at_end}");
        assert_eq!(forged()?, [0, 0]);

        let seen = Capture::start(&c, INTERFACE)?;
        lab.reshape(
            &relay,
            &c,
            Shape {
                forge_percent: 5.0,
                ..whole
            },
        )?;
        let stream = a.probe(there, STREAM)?;
        stream.wait_for(500);
        let report = stream.stop()?;
        assert!(
            report.lost > 0 && report.received > 300,
            "forged ones are lost, the rest arrives: {report:?}"
        );
        // A changed header is found by the key of the link, a changed payload by that of the session.
        let [headers, payloads] = forged()?;
        assert!(headers > 0 && payloads > 0, "{headers}, {payloads}");
        let pcap = seen.stop()?;
        let probes = occurrences(&pcap, &[0; 100]);
        assert!(probes > 0, "probes are zeros but for their number");
        assert_eq!(report.duplicated, 0, "{report:?}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_member_cannot_use_the_address_of_another() {
    story("spoofed", |lab| {
        let [a, b, c] = lab.hosts(["a", "b", "c"])?;
        let lan = lab.switch("lan", &[&a, &b, &c])?;
        let mesh = lab.mesh("spoofed", &[&a, &b, &c]).start()?;
        let (honest, victim) = (mesh.address(&a)?, mesh.address(&c)?);
        a.sh(&format!(
            "ip address add {victim}/32 dev lo; ip address add 198.51.100.1/32 dev lo"
        ))?;
        let seen = Capture::start(&b, INTERFACE)?;
        for from in [victim, "198.51.100.1".parse()?, honest] {
            let to = mesh.address(&b)?.to_string();
            let _answered = a.run("fping", ["-q", "-r", "1", "-S", &from.to_string(), &to]);
        }
        let pcap = seen.stop()?;
        let from = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => occurrences(&pcap, &ip.octets()),
            IpAddr::V6(ip) => occurrences(&pcap, &ip.octets()),
        };
        assert!(from(honest) > 0, "what is its own arrives");
        assert_eq!(from("198.51.100.1".parse()?), 0);
        assert_eq!(from(victim), 0, "{}", lan.v4(&a)?);
        // One try and one repetition for each address that is not its own; b has had nothing to drop.
        assert_eq!(mesh.dropped(&a, "foreign_source")?, 4);
        assert_eq!(mesh.dropped(&b, "spoofed_source")?, 0);
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_relay_that_dies_is_left_for_another() {
    story("relay", |lab| {
        let [a, one, other, b] = lab.hosts(["a", "one", "other", "b"])?;
        for relay in [&one, &other] {
            lab.link(&a, relay)?;
            lab.link(relay, &b)?;
        }
        let mut mesh = lab.mesh("relay", &[&a, &one, &other, &b]).start()?;
        mesh.wait_settled(PATIENCE)?;
        let (there, _echo) = mesh.echo(&b)?;
        for round in 0..2 {
            let stream = a.probe(there, STREAM)?;
            stream.wait_for(100);
            let relay = if round == 0 { &one } else { &other };
            mesh.kill(relay)?;
            stream.wait_for(300);
            mesh.start(relay)?;
            mesh.wait_converged(PATIENCE)?;
            let report = stream.stop()?;
            assert_eq!(report.usual_ttl(), Some(63), "{report:?}");
            eprintln!("outage {} ms", report.outage_ms);
            assert!(report.outage_ms <= HEALED_MS, "{report:?}");
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_killed_agent_comes_back_and_what_it_left_is_cleaned() {
    story("killed", |lab| {
        let [a, b, c] = lab.hosts(["a", "b", "c"])?;
        lab.link(&a, &b)?;
        lab.link(&b, &c)?;
        let before = kernel_state(&b)?;
        let mut mesh = lab.mesh("killed", &[&a, &b, &c]).start()?;
        for _ in 0..3 {
            mesh.kill(&b)?;
            mesh.start(&b)?;
            mesh.wait_converged(PATIENCE)?;
            mesh.wait_all_reach_all(PATIENCE)?;
        }
        assert_eq!(
            b.sh("ip rule")?.matches("lookup 5740").count(),
            1,
            "one rule, not three"
        );
        mesh.stop(&b)?;
        assert_eq!(kernel_state(&b)?, before);
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn the_whole_mesh_forms_again_within_five_seconds() {
    story("cold", |lab| {
        let (mut mesh, hosts) = six(lab)?;
        for host in &hosts {
            mesh.kill(host)?;
        }
        mesh.start_all()?;
        let took = mesh.wait_converged(PATIENCE)?;
        mesh.wait_all_reach_all(PATIENCE)?;
        assert!(took <= Duration::from_secs(5), "{took:?}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_mesh_that_joined_a_coordinator_forms_again_without_it_within_five_seconds() {
    story("reboot", |lab| {
        let hosts = six_hosts(lab)?;
        let mut coordinator = coordinator_for(lab, &hosts)?;
        let names: Vec<&Host> = hosts.iter().collect();
        let mut mesh = lab.mesh("reboot", &names).join(&coordinator)?;
        mesh.wait_complete(PATIENCE)?;
        let state = |mesh: &Mesh| -> Result<serde_json::Value> {
            Ok(mesh.data(&hosts[0], &["status"])?["coordinator"]["state"].take())
        };
        assert_eq!(state(&mesh)?, "connected");

        coordinator.kill();
        for host in &hosts {
            mesh.kill(host)?;
        }
        let began = Instant::now();
        mesh.start_all()?;
        mesh.wait_complete(PATIENCE)?;
        let took = began.elapsed();
        eprintln!("complete after {took:?}");
        assert_ne!(state(&mesh)?, "connected");
        assert!(took <= Duration::from_secs(5), "{took:?}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_second_agent_on_the_same_device_is_told_what_to_do_and_harms_nothing() {
    story("second", |lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        lab.link(&a, &b)?;
        let mesh = lab.mesh("second", &[&a, &b]).start()?;
        let second = a
            .command(binary("wattled")?)
            .args(["--listen-port", "0", "--socket"])
            .arg(a.directory().join("second.sock"))
            .arg("--state")
            .arg(copy_of(&mesh.state(&a))?)
            .output()?;
        let complaint = String::from_utf8_lossy(&second.stderr);
        assert!(!second.status.success());
        assert!(
            complaint.contains(INTERFACE) && complaint.contains("--interface"),
            "{complaint}"
        );
        assert!(a.reaches(mesh.address(&b)?), "the first goes on");
        Ok(())
    });
}

/// Six hosts in two triangles with two ways between them.
fn six_hosts(lab: &mut Lab) -> Result<[Host; 6]> {
    let hosts = lab.hosts(["a", "b", "c", "d", "e", "f"])?;
    for (one, other) in [
        (0, 1),
        (1, 2),
        (2, 0),
        (3, 4),
        (4, 5),
        (5, 3),
        (0, 3),
        (2, 5),
    ] {
        lab.link(&hosts[one], &hosts[other])?;
    }
    Ok(hosts)
}

/// A mesh of them.
fn six(lab: &mut Lab) -> Result<(Mesh, [Host; 6])> {
    let hosts = six_hosts(lab)?;
    let names: Vec<&Host> = hosts.iter().collect();
    let mesh = lab.mesh("six", &names).start()?;
    Ok((mesh, hosts))
}

/// A coordinator on a host of its own, with a link to each of the others.
fn coordinator_for(lab: &mut Lab, hosts: &[Host]) -> Result<Coordinator> {
    let hub = lab.host("hub")?;
    hub.sh("ip address add 10.9.0.1/32 dev lo")?;
    for host in hosts {
        let via = lab.link(&hub, host)?.v4(&hub)?;
        host.sh(&format!("ip route add 10.9.0.1/32 via {via}"))?;
    }
    Coordinator::start(&hub, "10.9.0.1:5741".parse()?)
}

/// Everything that an agent might have touched.
fn kernel_state(host: &Host) -> Result<String> {
    host.sh(
        "ip rule; ip -6 rule; ip -4 route show table all; ip -6 route show table all | grep -ve fe80 -e ff00 || true
         ip -brief address | sed 's/ fe80[^ ]*//g'; nft list ruleset; cat /proc/sys/net/ipv4/ip_forward",
    )
}

/// A copy of a state directory, with its modes.
fn copy_of(directory: &std::path::Path) -> Result<std::path::PathBuf> {
    let copy = directory.with_extension("copy");
    let status = Command::new("cp")
        .arg("-a")
        .arg(directory)
        .arg(&copy)
        .status()?;
    ensure!(status.success(), "cp: {status}");
    Ok(copy)
}
