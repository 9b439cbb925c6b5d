//! Nothing gets lost without a name (`docs/operations.md`): the counters of real agents under real loads, and rubbish.
//! `sudo tools/test netns` runs it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use wattle_netlab::mesh::{INTERFACE, PORT};
use wattle_netlab::{Host, Mesh, Metrics, PATIENCE, eventually, story, transfer};

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn packets_in_are_packets_out_and_named_drops_at_every_stage_of_every_node() {
    story("conserved", |lab| {
        let [a, relay, c] = lab.hosts(["a", "relay", "c"])?;
        let near = lab.link(&a, &relay)?;
        let far = lab.link(&relay, &c)?;
        // The threads of the QUIC carrier have counters of their own, taken at another moment.
        let mesh = lab.mesh("conserved", &[&a, &relay, &c]);
        let mesh = mesh.setting("quic_port = \"off\"").start()?;
        mesh.wait_all_reach_all(PATIENCE)?;
        let nodes = [&a, &relay, &c];
        assert_balanced(&mesh, &nodes, "at rest")?;

        let before = mesh.metrics(&a)?;
        let to = mesh.address(&c)?;
        let arrived = transfer::udp(&a, &c, to, &[1_000; 500], None)?;
        let after = assert_balanced(&mesh, &nodes, "after 500 datagrams")?;
        assert_eq!(arrived, 500);
        let sent = after[0].get("wattle_worker_sent_packets_total")?
            - before.get("wattle_worker_sent_packets_total")?;
        assert!(
            (500..600).contains(&sent),
            "{sent}: 500, and what a host says by itself"
        );

        for (from, to) in [(&a, mesh.address(&c)?), (&c, mesh.address_v6(&a)?)] {
            let before = Losses::of(&mesh, &nodes)?;
            let flood = flood(
                &mesh,
                from,
                if from.name() == "a" { &c } else { &a },
                to,
                &nodes,
            )?;
            let lost = flood.sent - flood.received;
            let named = Losses::of(&mesh, &nodes)?.since(before);
            eprintln!("{flood:?} from {}: {named:?}", from.name());
            assert!(lost > 0, "no overload: {flood:?}");
            let told = named.total() + flood.unread;
            assert!(lost <= told, "{lost} lost of {flood:?}, named {named:?}");
            // Other packets than the flood's may be among the agents' drops, nothing else.
            assert!(
                told - lost <= named.agents,
                "{lost} lost of {flood:?}, named {named:?}"
            );
        }

        rubbish(&mesh, &a, &near.v4(&relay)?, &relay, &near.v4(&a)?)?;
        let after = assert_balanced(&mesh, &nodes, "after rubbish")?;
        for reason in [
            "malformed",
            "foreign_source",
            "too_big",
            "no_route",
            "unroutable",
        ] {
            let label = format!("from=\"tun\",reason=\"{reason}\"");
            let dropped = after[0].sum("wattle_worker_dropped_packets_total", &label);
            assert!(dropped >= 3, "{reason}: {dropped}");
        }
        for reason in ["unknown_type", "frame_unknown_key", "unknown_session"] {
            let label = format!("from=\"wire\",reason=\"{reason}\"");
            let dropped = after[0].sum("wattle_worker_dropped_packets_total", &label)
                + after[1].sum("wattle_worker_dropped_packets_total", &label);
            assert!(dropped >= 3, "{reason}: {dropped}");
        }
        let empty = after[0].sum("wattle_host_udp_unusable_packets_total", "reason=\"empty\"");
        assert_eq!(empty, 3);

        // A device that is down, and an underlay that is gone.
        let device = format!("ip link set {INTERFACE} down");
        c.sh(&device)?;
        let lost = transfer::udp(&a, &a, mesh.address(&a)?, &[10], None)?;
        assert_eq!(lost, 1, "a node still reaches itself");
        shout(&a, to, 50)?;
        let refused = eventually("the kernel refuses packets", PATIENCE, || {
            shout(&a, to, 10)?;
            let metrics = mesh.metrics(&c)?;
            Ok(metrics.get("wattle_host_tun_refused_packets_total")? >= 50)
        });
        refused?;
        assert_balanced(&mesh, &nodes, "with a device that is down")?;
        c.sh(&format!("ip link set {INTERFACE} up"))?;
        lab.unplug(&c, &relay)?;
        eventually("sends fail", PATIENCE, || {
            shout(&c, mesh.address(&a)?, 10)?;
            let metrics = mesh.metrics(&c)?;
            Ok(metrics.sum("wattle_host_udp_unsent_packets_total", "") > 0)
        })?;
        assert_balanced(&mesh, &nodes, "with an underlay that is gone")?;
        drop(far);
        Ok(())
    });
}

/// Asserts that every stage of every node let out what came in, but for what it names; the figures.
fn assert_balanced(mesh: &Mesh, nodes: &[&Host], when: &str) -> Result<Vec<Metrics>> {
    let figures: Result<Vec<Metrics>> = nodes.iter().map(|node| mesh.metrics(node)).collect();
    let figures = figures?;
    for (node, metrics) in nodes.iter().zip(&figures) {
        metrics
            .balance()
            .with_context(|| format!("{} {when}", node.name()))?;
    }
    Ok(figures)
}

/// What was lost on the way by name: by agents, by the kernel in front of them and behind them, on the wire.
#[derive(Debug, Clone, Copy)]
struct Losses {
    agents: u64,
    kernel: u64,
    wire: u64,
}

impl Losses {
    fn of(mesh: &Mesh, nodes: &[&Host]) -> Result<Self> {
        let mut losses = Self {
            agents: 0,
            kernel: 0,
            wire: 0,
        };
        for node in nodes {
            let metrics = mesh.metrics(node)?;
            losses.agents += metrics.sum("wattle_worker_dropped_packets_total", "")
                + metrics.sum("wattle_host_udp_unsent_packets_total", "")
                + metrics.get("wattle_host_tun_queue_full_packets_total")?
                + metrics.get("wattle_host_tun_refused_packets_total")?;
            losses.kernel += metrics.get("wattle_host_udp_kernel_unread_packets_total")?
                + metrics.get("wattle_host_tun_kernel_unread_packets_total")?
                + metrics.get("wattle_host_tun_kernel_undelivered_packets_total")?;
            losses.wire += interface_drops(node)?;
        }
        Ok(losses)
    }

    fn since(self, before: Self) -> Self {
        Self {
            agents: self.agents - before.agents,
            kernel: self.kernel - before.kernel,
            wire: self.wire - before.wire,
        }
    }

    fn total(self) -> u64 {
        self.agents + self.kernel + self.wire
    }
}

/// What the kernel dropped at the interfaces of the underlay.
fn interface_drops(host: &Host) -> Result<u64> {
    let table = host.sh("cat /proc/self/net/dev")?;
    let rows = table.lines().filter_map(|line| line.split_once(':'));
    let rows = rows.filter(|(name, _)| name.trim() != INTERFACE);
    let figure = |row: &str, column| -> Result<u64> {
        let figure = row.split_whitespace().nth(column);
        Ok(figure.context("a column of /proc/net/dev")?.parse()?)
    };
    rows.map(|(_, row)| Ok(figure(row, 3)? + figure(row, 11)?))
        .sum()
}

#[derive(Debug)]
struct Flood {
    sent: u64,
    received: u64,
    /// What the receiver's own socket had no room for.
    unread: u64,
}

/// Sends as fast as a socket takes it, for two seconds, into a device with a short queue; the books are looked at
/// meanwhile.
fn flood(mesh: &Mesh, from: &Host, to: &Host, address: IpAddr, nodes: &[&Host]) -> Result<Flood> {
    from.sh(&format!("ip link set {INTERFACE} txqueuelen 20"))?;
    let receiver = to.inside(|| Ok(UdpSocket::bind((address, 0))?))?;
    receiver.set_read_timeout(Some(Duration::from_secs(1)))?;
    let at = receiver.local_addr()?;
    let any: SocketAddr = match address {
        IpAddr::V4(_) => ([0; 4], 0).into(),
        IpAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    let sender = from.inside(|| Ok(UdpSocket::bind(any)?))?;
    let ended = AtomicBool::new(false);
    let flood = std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let until = Instant::now() + Duration::from_secs(2);
            let mut sent = 0;
            while Instant::now() < until {
                sent += u64::from(sender.send_to(&[7; 1_200], at).is_ok());
            }
            ended.store(true, Ordering::Relaxed);
            sent
        });
        let receiving = scope.spawn(|| {
            let mut received = 0;
            let mut buffer = [0; 2_048];
            loop {
                match receiver.recv(&mut buffer) {
                    Ok(_) => received += 1,
                    Err(_) if ended.load(Ordering::Relaxed) => return received,
                    Err(_) => {}
                }
            }
        });
        let mut looks = 0;
        while !ended.load(Ordering::Relaxed) {
            assert_balanced(mesh, nodes, "under a flood")?;
            looks += 1;
        }
        ensure!(looks > 0, "nobody looked");
        let sent = sending
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let received = receiving
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((sent, received))
    });
    let (sent, received) = flood?;
    from.sh(&format!("ip link set {INTERFACE} txqueuelen 500"))?;
    let unread = unread(to)?;
    Ok(Flood {
        sent,
        received,
        unread,
    })
}

/// Datagrams that sockets of a host had no room for, the agent's included.
fn unread(host: &Host) -> Result<u64> {
    let mut unread = 0;
    for file in ["/proc/self/net/udp", "/proc/self/net/udp6"] {
        let table = host.sh(&format!("cat {file}"))?;
        for row in table.lines().skip(1) {
            let port = format!(":{PORT:04X} ");
            let drops = row
                .split_whitespace()
                .last()
                .context("a row of /proc/net/udp")?;
            // The agent's sockets name theirs themselves.
            unread += if row.contains(&port) {
                0
            } else {
                drops.parse::<u64>()?
            };
        }
    }
    Ok(unread)
}

/// Datagrams for an address of the overlay that nobody waits for.
fn shout(from: &Host, to: IpAddr, datagrams: usize) -> Result<()> {
    from.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for _ in 0..datagrams {
            // What ICMP says of an earlier one is of no interest.
            let _refused = socket.send_to(&[7; 200], (to, 9));
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    })
}

/// What no kernel would say: packets into the device past the network stack, datagrams at both ends of a link.
fn rubbish(mesh: &Mesh, a: &Host, relay_v4: &IpAddr, relay: &Host, a_v4: &IpAddr) -> Result<()> {
    let (own, other) = (mesh.address(a)?, mesh.address(relay)?);
    let script = format!(
        r#"
import os, socket, struct
out = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
def say(packet, family=0x0800):
    out.sendto(packet, ("{INTERFACE}", family))
def ip(source, destination, payload, length=None, first=0x45, fragment=0):
    head = struct.pack("!BBHHHBBH4s4s", first, 0, 20 + len(payload) if length is None else length, 1, fragment, 64, 17, 0,
                       socket.inet_aton(source), socket.inet_aton(destination))
    return head + payload
own, other = "{own}", "{other}"
for _ in range(3):
    for length in range(1, 40):
        say(os.urandom(length))
        say(ip(own, other, b"x" * 20)[:length])
    for claimed in (0, 19, 41, 65535):
        say(ip(own, other, b"x" * 20, length=claimed))
    for first in (0x00, 0x40, 0x44, 0x4f, 0x55, 0xff):
        say(ip(own, other, b"x" * 20, first=first))
    for fragment in (0x2000, 0x00b9, 0x3fff):
        say(ip(own, other, b"x" * 20, fragment=fragment))
    say(ip("10.77.0.200", other, b"x" * 20))
    say(ip(own, "10.77.9.9", b"x" * 20))
    say(ip(own, "224.0.0.1", b"x" * 20))
    say(ip(own, own, b"x" * 20))
    say(ip(own, other, b"x" * 1400)[:1360] )
    v6 = bytes.fromhex("60000000") + struct.pack("!HBB", 800, 0, 64) + os.urandom(32) + bytes([0, 0, 1, 4, 0, 0, 0, 0]) * 100
    say(v6, 0x86dd)
    say(v6[:100], 0x86dd)
"#
    );
    a.run("python3", ["-c", &script])?;
    // The device's own MTU keeps the kernel from handing over what is too big; the agent must not rely on that.
    a.sh(&format!("ip link set {INTERFACE} mtu 1500"))?;
    let big = format!(
        "import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, 10, 3)  # IP_MTU_DISCOVER, IP_PMTUDISC_PROBE
for _ in range(5): s.sendto(b'x' * 1400, ('{other}', 9))"
    );
    a.run("python3", ["-c", &big])?;
    a.sh(&format!("ip link set {INTERFACE} mtu 1360"))?;
    for (from, to) in [(a, relay_v4), (relay, a_v4)] {
        from.inside(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            for kind in [0_u8, 1, 2, 3, 4, 5, 0x57, 0x58, 0xff] {
                for length in [1_usize, 3, 15, 16, 31, 32, 60, 92, 148, 1_400, 65_507] {
                    let mut datagram = vec![9; length];
                    datagram[0] = kind;
                    datagram
                        .iter_mut()
                        .take(4)
                        .skip(1)
                        .for_each(|reserved| *reserved = 0);
                    socket.send_to(&datagram, (*to, PORT))?;
                }
            }
            for _ in 0..3 {
                socket.send_to(&[], (*to, PORT))?;
            }
            Ok(())
        })?;
    }
    std::thread::sleep(Duration::from_millis(500));
    Ok(())
}
