//! Real packets over links that do not carry what they should. `sudo tools/test netns` runs it.

use std::time::Duration;

use wattle_netlab::{eventually, story};

const PATIENCE: Duration = Duration::from_secs(30);

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
        // 1420 less IPv4 or IPv6, UDP, relay header and session: at most 1302, and IPv6 needs 1280 of it.
        assert!(
            found.is_some_and(|mtu| (1_280..=1_302).contains(&mtu)),
            "{found:?}"
        );
        Ok(())
    });
}
