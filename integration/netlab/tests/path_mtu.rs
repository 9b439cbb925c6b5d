//! Real packets over links that do not carry what they should. `sudo tools/test netns` runs it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use wattle_netlab::{Host, Mesh, PATIENCE, eventually, story, transfer};

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn tcp_survives_a_narrow_link_behind_a_relay_in_both_families() {
    story("narrow", |lab| {
        let [a, relay, c] = lab.hosts(["a", "relay", "c"])?;
        lab.link(&a, &relay)?;
        let far = lab.link(&relay, &c)?;
        for host in [&relay, &c] {
            let interface = &far.of(host)?.interface;
            host.sh(&format!("ip link set {interface} mtu 1420"))?;
        }
        // QUIC would carry what is too large in pieces, and so cross the link unnoticed.
        let mesh = lab.mesh("narrow", &[&a, &relay, &c]);
        let mesh = mesh.setting("quic_port = \"off\"").start()?;
        let mut server = c.command("iperf3");
        server.arg("-s");
        let _server = c.spawn("iperf3", server)?;
        for to in [mesh.address(&c)?, mesh.address_v6(&c)?] {
            let mut mbit = 0.0;
            eventually("tcp gets going", PATIENCE, || {
                mbit = a.iperf3(to, Duration::from_secs(8))?;
                Ok(mbit > 20.0)
            })?;
            eprintln!("to {to} over an underlay of 1420 bytes: {mbit:.0} Mbit/s");
        }
        let peers = mesh.data(&a, &["peers"])?;
        let found = peers["peers"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|peer| peer["node"]["name"] == "c")
            .and_then(|peer| peer["mtu_bytes"].as_u64());
        // 1420 less IPv4 or IPv6, UDP, relay header and session: at most 1300, and IPv6 needs 1280 of it.
        assert!(
            found.is_some_and(|mtu| (1_280..=1_300).contains(&mtu)),
            "{found:?}"
        );
        Ok(())
    });
}

/// A stream that needs hundreds of full segments.
const STREAM: usize = 500_000;

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_network_that_drops_icmp_behind_a_node_is_served_with_clamped_segments_and_hangs_without() {
    story("clamp", |lab| {
        let [a, router, far] = lab.hosts(["a", "router", "far"])?;
        let underlay = lab.link(&a, &router)?;
        let lan = lab.link(&router, &far)?;
        for host in [&a, &router] {
            let interface = &underlay.of(host)?.interface;
            host.sh(&format!("ip link set dev {interface} mtu 1400"))?;
        }
        let end = lan.of(&far)?;
        let gateway = lan.of(&router)?;
        router.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
        far.sh(&format!(
            "ip route add 10.77.0.0/16 via {}
             ip -6 route add fd57:77::/64 via {}
             sysctl -qw net.ipv4.tcp_mtu_probing=0
             nft add table inet deaf
             nft add chain inet deaf input '{{ type filter hook input priority 0; }}'
             nft add rule inet deaf input icmp type destination-unreachable counter drop
             nft add rule inet deaf input icmpv6 type packet-too-big counter drop",
            gateway.v4, gateway.v6
        ))?;
        let (v4, v6) = (end.v4.octets(), end.v6.segments());
        let prefixes = [
            format!("{}.{}.{}.0/24", v4[0], v4[1], v4[2]),
            format!("{:x}:{:x}:{:x}:{:x}::/64", v6[0], v6[1], v6[2], v6[3]),
        ];
        for (clamp, name) in [("off", "hangs"), ("on", "clamped")] {
            // QUIC would carry what is too large in pieces, and so cross the link unnoticed.
            let mut mesh = lab.mesh(name, &[&a, &router]);
            for prefix in &prefixes {
                mesh = mesh.announces(&router, prefix)?;
            }
            let mesh = mesh.setting("quic_port = \"off\"");
            let mut mesh = mesh.setting(&format!("mss_clamp = {clamp:?}")).start()?;
            let width = find_width(&mesh, &router, &a)?;
            for address in [mesh.address(&a)?, mesh.address_v6(&a)?] {
                eventually("a route to the far host", PATIENCE, || {
                    Ok(far.reaches(address))
                })?;
                let delivery = transfer::tcp(&far, &a, address, STREAM)?;
                eprintln!("{clamp} to {address} over {width} bytes: {delivery:?}");
                let headers = if address.is_ipv4() { 40 } else { 60 };
                let fits = delivery.mss <= width - headers;
                assert_eq!(fits, clamp == "on", "{delivery:?}");
                assert_eq!(delivery.bytes == STREAM, clamp == "on", "{delivery:?}");
            }
            let clamped = mesh
                .metrics(&router)?
                .get("wattle_worker_clamped_packets_total")?;
            assert_eq!(clamped > 0, clamp == "on", "{clamped}");
            for host in [&a, &router] {
                mesh.stop(host)?;
            }
        }
        Ok(())
    });
}

/// Lets a node find out how large a packet gets to its peer, which is less than the overlay's MTU.
fn find_width(mesh: &Mesh, node: &Host, peer: &Host) -> Result<u32> {
    let to = mesh.address(peer)?.to_string();
    let mut width = 0;
    eventually("the path's size is known", PATIENCE, || {
        for _ in 0..20 {
            let _lost = node.run("fping", ["-q", "-c", "5", "-p", "20", "-b", "1320", &to]);
        }
        let peers = mesh.data(node, &["peers"])?;
        let peers = peers["peers"].as_array().into_iter().flatten();
        let mtu = peers
            .filter(|entry| entry["node"]["name"] == peer.name())
            .find_map(|entry| entry["mtu_bytes"].as_u64());
        let before = std::mem::replace(&mut width, mtu.context("the peer has no MTU")?);
        ensure!(
            (1_280..1_360).contains(&width),
            "{width} bytes are believed to fit"
        );
        Ok(width == before)
    })?;
    Ok(u32::try_from(width)?)
}
