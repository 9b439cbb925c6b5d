//! Networks that let only QUIC pass: crossed without being told, left again when plain datagrams pass.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use wattle_netlab::mesh::INTERFACE;
use wattle_netlab::{Host, Lab, Mesh, PATIENCE, eventually, story};

const STREAM: Duration = Duration::from_millis(10);
/// What may be missed of a stream when a network begins to block.
const CROSSED_MS: f64 = 3_000.0;

/// The line of the configuration that makes an agent serve its figures.
const METRICS: &str = "metrics = \"127.0.0.1:9586\"";
/// WireGuard's messages, told by their type as a firewall does, and Wattle's own where they are not QUIC's.
const WIREGUARD: &str = "@th,64,8 { 1, 2, 3, 4 } counter drop
    udp sport != 443 udp dport != 443 @th,64,8 { 0x57, 0x58 } counter drop";
/// Everything that is not QUIC by its port.
const ALL_BUT_443: &str = "udp sport != 443 udp dport != 443 counter drop";

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn both_carriers_have_links_of_their_own_and_plain_datagrams_are_preferred() {
    story("quic-both", |lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        lab.link(&a, &b)?;
        let mut mesh = lab.mesh("both", &[&a, &b]).create()?;
        mesh.set(&a, METRICS)?;
        mesh.start_all()?;
        for (host, other) in [(&a, &b), (&b, &a)] {
            eventually("links over three carriers", PATIENCE, || {
                Ok(links_up(&mesh, host)? == ["quic", "udp4", "udp6"])
            })?;
            eventually("plain is used", PATIENCE, || {
                Ok(carrier_to(&mesh, host, other)?.starts_with("udp"))
            })?;
            let quic = link(&mesh, host, "quic")?;
            ensure!(quic["rtt_us"].as_u64() > Some(0), "measured: {quic}");
            ensure!(quic["cost"]["carrier_us"].as_u64() > Some(999), "{quic}");
            ensure!(
                quic["endpoint"]
                    .as_str()
                    .is_some_and(|at| at.ends_with(":443")),
                "{quic}"
            );
        }
        mesh.wait_settled(PATIENCE)?;
        let sent = metric(&a, "wattle_quic_sent_packets_total")?;
        let (there, _echo) = mesh.echo(&b)?;
        let stream = a.probe(there, STREAM)?;
        stream.wait_for(300);
        assert_eq!(stream.stop()?.lost, 0);
        // A link that only stands by is probed once a second, in each direction and with an answer.
        let idle = metric(&a, "wattle_quic_sent_packets_total")? - sent;
        ensure!(
            idle <= 60,
            "{idle} datagrams on a link that stands by for three seconds"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_network_that_begins_to_drop_wireguard_is_crossed_and_quic_is_left_when_it_stops() {
    blocked_while_running("quic-type", WIREGUARD);
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_network_that_begins_to_drop_all_udp_but_443_is_crossed_and_quic_is_left_when_it_stops() {
    blocked_while_running("quic-443", ALL_BUT_443);
}

fn blocked_while_running(name: &str, rules: &str) {
    story(name, |lab| {
        let (mesh, [a, b]) = pair(lab, name)?;
        eventually("three links", PATIENCE, || {
            Ok(links_up(&mesh, &a)?.len() == 3)
        })?;
        eventually("three links", PATIENCE, || {
            Ok(links_up(&mesh, &b)?.len() == 3)
        })?;
        eventually("plain is used", PATIENCE, || {
            Ok(carrier_to(&mesh, &a, &b)?.starts_with("udp"))
        })?;
        let (there, _echo) = mesh.echo(&b)?;
        let stream = a.probe(there, STREAM)?;
        stream.wait_for(100);
        block(&[&a, &b], rules)?;
        stream.wait_for(500);
        let report = stream.stop()?;
        eprintln!("crossed after {} ms", report.outage_ms);
        assert!(report.outage_ms <= CROSSED_MS, "{report:?}");
        assert_eq!(carrier_to(&mesh, &a, &b)?, "quic");
        assert_eq!(links_up(&mesh, &a)?, ["quic"]);

        let stream = a.probe(there, STREAM)?;
        unblock(&[&a, &b])?;
        let took = eventually("plain is used again", PATIENCE, || {
            Ok(carrier_to(&mesh, &a, &b)?.starts_with("udp"))
        })?;
        let report = stream.stop()?;
        eprintln!("left after {took:?}");
        assert!(
            report.outage_ms <= 500.0,
            "nobody was cut off for it: {report:?}"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_network_that_never_let_anything_else_pass_is_crossed_when_the_agents_start() {
    for (name, rules) in [
        ("quic-first-type", WIREGUARD),
        ("quic-first-443", ALL_BUT_443),
    ] {
        story(name, |lab| {
            let [a, b] = lab.hosts(["a", "b"])?;
            lab.link(&a, &b)?;
            block(&[&a, &b], rules)?;
            let mut mesh = lab.mesh(name, &[&a, &b]).create()?;
            mesh.start_all()?;
            let to = mesh.address(&b)?;
            let took = eventually("a reaches b", Duration::from_secs(3), || Ok(a.reaches(to)))?;
            eprintln!("crossed after {took:?}");
            assert_eq!(links_up(&mesh, &a)?, ["quic"]);
            unblock(&[&a, &b])?;
            eventually("plain is used", PATIENCE, || {
                Ok(carrier_to(&mesh, &a, &b)?.starts_with("udp"))
            })?;
            Ok(())
        });
    }
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_node_of_another_network_is_refused() {
    story("quic-stranger", |lab| {
        let [a, b, m] = lab.hosts(["a", "b", "m"])?;
        lab.switch("sw", &[&a, &b, &m])?;
        let mesh = lab.mesh("ours", &[&a, &b]);
        let ours = {
            let mut mesh = mesh.create()?;
            mesh.set(&b, METRICS)?;
            mesh.start_all()?;
            mesh.wait_converged(PATIENCE)?;
            mesh
        };
        eventually("a and b are connected", PATIENCE, || {
            Ok(links_up(&ours, &b)?.len() == 3)
        })?;
        let connected = metric(&b, "wattle_quic_connected_handshakes_total")?;
        // The stranger believes that b's address is that of a node whose key is not b's.
        let mut theirs = lab.mesh("theirs", &[&m, &b]).create()?;
        theirs.start(&m)?;
        eventually("b refuses", PATIENCE, || {
            Ok(metric(&b, "wattle_quic_refused_handshakes_total")? > 0)
        })?;
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(links_up(&theirs, &m)?, [""; 0]);
        assert_eq!(links_up(&ours, &b)?.len(), 3);
        assert_eq!(
            metric(&b, "wattle_quic_connected_handshakes_total")?,
            connected,
            "a's and no other"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn garbage_at_the_port_is_harmless() {
    story("quic-garbage", |lab| {
        let (mut mesh, [a, b]) = pair(lab, "garbage")?;
        eventually("three links", PATIENCE, || {
            Ok(links_up(&mesh, &b)?.len() == 3)
        })?;
        let pid = mesh.process(&b)?.pid();
        let memory = |host: &Host| -> Result<u64> {
            let status = host.sh(&format!("grep VmRSS /proc/{pid}/status"))?;
            let number = status.split_whitespace().nth(1).context("VmRSS")?;
            Ok(number.parse()?)
        };
        let before = memory(&b)?;
        let to = SocketAddr::new(lab.ends(&b)[0].v4.into(), 443);
        a.inside(move || throw_garbage(to))?;
        assert!(mesh.process(&b)?.is_running());
        let grown = memory(&b)?.saturating_sub(before);
        assert!(grown < 16 << 10, "{grown} KiB more");
        assert_eq!(links_up(&mesh, &b)?.len(), 3);
        block(&[&a, &b], ALL_BUT_443)?;
        let there = mesh.address(&b)?;
        eventually("QUIC still works", PATIENCE, || Ok(a.reaches(there)))?;
        Ok(())
    });
}

/// Noise, things that begin like QUIC's packets, and beginnings of handshakes without an end.
fn throw_garbage(to: SocketAddr) -> Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let mut state = 1_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize
    };
    for number in 0..20_000_usize {
        let length = random() % 1_472;
        let mut bytes: Vec<u8> = (0..length).map(|_| random() as u8).collect();
        match number % 4 {
            // A long header of version 1: an initial packet, if it is long enough.
            0 => {
                let header = [
                    0xc0, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x44, 0xb0,
                ];
                bytes.resize(1_200, 0);
                bytes[..header.len()].copy_from_slice(&header);
            }
            // An unknown version.
            1 if bytes.len() > 5 => bytes[..5].copy_from_slice(&[0xc0, 0xba, 0xbe, 0xfe, 0xed]),
            // A packet of no connection.
            2 if !bytes.is_empty() => bytes[0] = 0x40,
            _ => {}
        }
        let _refused_by_the_kernel = socket.send_to(&bytes, to);
        if number % 100 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn the_link_follows_a_node_that_moves_to_another_address() {
    story("quic-moves", |lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let segment = lab.link(&a, &b)?;
        for host in [&a, &b] {
            host.sh(&format!(
                "ip -6 address flush dev {}",
                segment.of(host)?.interface
            ))?;
        }
        block(&[&a, &b], ALL_BUT_443)?;
        let mut mesh = lab.mesh("moves", &[&a, &b]).create()?;
        mesh.start_all()?;
        let to = mesh.address(&b)?;
        eventually("a reaches b", PATIENCE, || Ok(a.reaches(to)))?;
        let (there, _echo) = mesh.echo(&b)?;
        // One of the two has dialled, the other was dialled: what is asked of them is the same.
        for (mover, other, last) in [(&a, &b, 77), (&b, &a, 78)] {
            let interface = &segment.of(mover)?.interface;
            let old = segment.v4(mover)?;
            let stream = a.probe(there, STREAM)?;
            stream.wait_for(100);
            mover.sh(&format!(
                "ip address del {old}/24 dev {interface}; ip address add 10.100.1.{last}/24 dev {interface}"
            ))?;
            stream.wait_for(500);
            let report = stream.stop()?;
            eprintln!("{} moved: outage {} ms", mover.name(), report.outage_ms);
            assert!(report.outage_ms <= CROSSED_MS, "{report:?}");
            let seen = format!("10.100.1.{last}:443");
            eventually("the new address is shown", PATIENCE, || {
                Ok(link(&mesh, other, "quic")?["endpoint"] == seen.as_str())
            })?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_taken_port_is_told_and_the_node_dials_and_without_quic_there_is_none() {
    story("quic-port", |lab| {
        let [a, b, c] = lab.hosts(["a", "b", "c"])?;
        for (one, other) in [(&a, &b), (&b, &c), (&a, &c)] {
            lab.link(one, other)?;
        }
        let _taken = a.echo("0.0.0.0:443".parse()?)?;
        let mut mesh = lab.mesh("port", &[&a, &b, &c]).create()?;
        mesh.set(&b, "quic_port = 8443")?;
        mesh.set(&c, "quic_port = \"off\"")?;
        mesh.start_all()?;
        mesh.wait_converged(PATIENCE)?;
        let log = mesh.process(&a)?.log();
        for words in ["UDP port 443 is in use", "quic_port"] {
            ensure!(log.contains(words), "{words} is missing in: {log}");
        }
        let health = mesh.wattle(&a, &["status"])?;
        ensure!(health.contains("UDP port 443 is in use"), "{health}");
        // b listens where a learns from b's record; a listens nowhere, so a has to dial.
        eventually("a has a QUIC link", Duration::from_secs(40), || {
            Ok(links_up(&mesh, &a)?.contains(&"quic".to_owned()))
        })?;
        let quic = link(&mesh, &a, "quic")?;
        assert_eq!(quic["peer"]["name"], "b");
        ensure!(
            quic["endpoint"]
                .as_str()
                .is_some_and(|at| at.ends_with(":8443")),
            "{quic}"
        );
        ensure!(
            !links_up(&mesh, &c)?.contains(&"quic".to_owned()),
            "c has QUIC switched off"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn large_packets_cross_small_paths_and_relays_in_pieces() {
    story("quic-mtu", |lab| {
        let [a, b, c] = lab.hosts(["a", "b", "c"])?;
        let near = lab.link(&a, &b)?;
        lab.link(&b, &c)?;
        block(&[&a, &b, &c], ALL_BUT_443)?;
        let mut mesh = lab
            .mesh("mtu", &[&a, &b, &c])
            .only_links(&[(&a, &b), (&b, &c)])
            .create()?;
        mesh.set(&a, METRICS)?;
        mesh.start_all()?;
        let (next, far) = (mesh.address(&b)?, mesh.address(&c)?);
        eventually("a reaches c", PATIENCE, || Ok(a.reaches(far)))?;
        // 1332 bytes of payload make a packet of the overlay's MTU; in a relay frame it exceeds an underlay of 1500.
        let whole = |to: std::net::IpAddr| {
            let ping = format!("ping -q -c 5 -i 0.2 -W 1 -M do -s 1332 {to}");
            a.sh(&ping)
                .is_ok_and(|answer| answer.contains(" 0% packet loss"))
        };
        eventually("full packets over a relay", PATIENCE, || Ok(whole(far)))?;
        ensure!(
            metric(&a, "wattle_quic_cut_packets_total")? >= 5,
            "in pieces"
        );
        for host in [&a, &b] {
            host.sh(&format!(
                "ip link set dev {} mtu 1280",
                near.of(host)?.interface
            ))?;
        }
        eventually("full packets over a path that shrank", PATIENCE, || {
            Ok(whole(next))
        })?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_slow_path_is_filled_and_its_queue_is_not() {
    story("quic-slow", |lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        lab.link(&a, &b)?;
        block(&[&a, &b], ALL_BUT_443)?;
        let mut mesh = lab.mesh("slow", &[&a, &b]).create()?;
        mesh.start_all()?;
        let to = mesh.address(&b)?;
        eventually("a reaches b", PATIENCE, || Ok(a.reaches(to)))?;
        let (there, _echo) = mesh.echo(&b)?;
        for (from, to) in [(&a, &b), (&b, &a)] {
            lab.rate(from, to, Some(20))?;
        }
        let mut server = b.command("iperf3");
        server.arg("-s");
        let _server = b.spawn("iperf3", server)?;
        std::thread::sleep(Duration::from_millis(500));
        let stream = a.probe(there, Duration::from_millis(50))?;
        let mbit = a.iperf3(there.ip(), Duration::from_secs(10))?;
        let report = stream.stop()?;
        eprintln!("{mbit:.1} of 20 Mbit/s, round trips {:?} us", report.rtt_us);
        assert!(mbit >= 12.0, "{mbit} of 20 Mbit/s");
        // The bottleneck's own queue is 50 ms; ours adds no second one worth speaking of.
        assert!(report.received > 100, "{report:?}");
        assert!(report.rtt_us[1] <= 200_000, "{report:?}");
        Ok(())
    });
}

/// Two nodes with one cable.
fn pair(lab: &mut Lab, name: &str) -> Result<(Mesh, [Host; 2])> {
    let hosts = lab.hosts(["a", "b"])?;
    let [a, b] = &hosts;
    lab.link(a, b)?;
    Ok((lab.mesh(name, &[a, b]).start()?, hosts))
}

/// Drops what these rules say where it arrives, so that no sender is told.
fn block(hosts: &[&Host], rules: &str) -> Result<()> {
    hosts.iter().try_for_each(|host| {
        // What comes out of the overlay has arrived already.
        let chain = format!(
            "type filter hook input priority 0; policy accept; iifname {INTERFACE} accept;"
        );
        host.sh(&format!(
            "nft -f - <<'END'\ntable inet block {{\n chain in {{\n {chain}\n {rules}\n }}\n}}\nEND"
        ))
        .map(drop)
    })
}

fn unblock(hosts: &[&Host]) -> Result<()> {
    hosts
        .iter()
        .try_for_each(|host| host.sh("nft delete table inet block").map(drop))
}

fn links(mesh: &Mesh, host: &Host) -> Result<Vec<Value>> {
    let answer = mesh.data(host, &["links"])?;
    Ok(answer["links"].as_array().context("links")?.clone())
}

/// The carriers of a node's links that are up, in order of their names.
fn links_up(mesh: &Mesh, host: &Host) -> Result<Vec<String>> {
    let up = links(mesh, host)?
        .into_iter()
        .filter(|link| link["state"] == "up");
    let mut carriers: Vec<String> = up
        .filter_map(|link| Some(link["carrier"].as_str()?.to_owned()))
        .collect();
    carriers.sort();
    Ok(carriers)
}

fn link(mesh: &Mesh, host: &Host, carrier: &str) -> Result<Value> {
    let found = links(mesh, host)?
        .into_iter()
        .find(|link| link["carrier"] == carrier);
    found.with_context(|| format!("no {carrier} link on {}", host.name()))
}

/// The carrier of the link that a node uses for another.
fn carrier_to(mesh: &Mesh, host: &Host, other: &Host) -> Result<String> {
    let prefix = format!("{}/32", mesh.address(other)?);
    let routes = mesh.data(host, &["routes"])?;
    let mut routes = routes["routes"].as_array().into_iter().flatten();
    let route = routes
        .find(|route| route["prefix"] == prefix.as_str())
        .with_context(|| format!("no route to {prefix}"))?;
    let mut hops = route["next_hops"].as_array().into_iter().flatten();
    let used = hops
        .find(|hop| hop["role"] == "used")
        .context("no used way")?;
    let link = links(mesh, host)?
        .into_iter()
        .find(|link| link["link"] == used["link"])
        .context("the way's link")?;
    Ok(link["carrier"].as_str().context("a carrier")?.to_owned())
}

/// A figure of the agent whose configuration has [`METRICS`].
fn metric(host: &Host, name: &str) -> Result<u64> {
    let text = host.inside(|| {
        let mut stream = TcpStream::connect("127.0.0.1:9586")?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })?;
    let start = format!("{name} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    Ok(line
        .with_context(|| format!("no {name} in {text}"))?
        .trim()
        .parse()?)
}
