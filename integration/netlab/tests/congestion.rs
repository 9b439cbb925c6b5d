//! A network that takes less than comes: what is sparse or urgent goes first, nothing waits for long, nothing vanishes.

use std::time::Duration;

use anyhow::Result;
use wattle_netlab::{Host, Lab, Mesh, Segment, eventually, story};

/// What the narrow link carries, and what is sent into it.
const MBIT: u32 = 20;
const FLOOD: &str = "60M";

struct Pings {
    received: u32,
    worst_ms: f64,
}

/// A hundred pings while `from` floods `to`.
fn pings_beside_a_flood(mesh: &Mesh, from: &Host, to: &Host, options: &str) -> Result<Pings> {
    let at = mesh.address(to)?;
    let script = format!(
        "iperf3 -c {at} -u -b {FLOOD} -l 1200 -t 6 >/dev/null 2>&1 & sleep 2; ping -n -c 100 -i 0.02 {options} {at}; wait"
    );
    let mut server = to.command("iperf3");
    server.args(["-s", "-1"]);
    let _server = to.spawn("iperf3", server)?;
    std::thread::sleep(Duration::from_millis(500));
    let text = from.sh(&script)?;
    let times: Vec<f64> = text
        .lines()
        .filter_map(|line| line.split("time=").nth(1)?.split(' ').next()?.parse().ok())
        .collect();
    Ok(Pings {
        received: times.len() as u32,
        worst_ms: times.iter().copied().fold(0.0, f64::max),
    })
}

/// Narrows what `host` sends into a link. The kernel's queue in front of it is deep, as most are: what lies there is past
/// every decision of the agent.
fn narrow(link: &Segment, host: &Host) -> Result<()> {
    let interface = &link.of(host)?.interface;
    host.sh(&format!(
        "tc qdisc replace dev {interface} root tbf rate {MBIT}mbit burst 64k limit 10m"
    ))?;
    Ok(())
}

/// Every packet of the device was sent or dropped by name.
fn wait_for_balance(mesh: &Mesh, host: &Host) -> Result<()> {
    let balances = eventually("the books balance", Duration::from_secs(5), || {
        let metrics = mesh.metrics(host)?;
        let dropped = metrics.sum("wattle_worker_dropped_packets_total", "from=\"tun\"");
        let taken = metrics.get("wattle_worker_tun_rx_packets_total")?;
        let sent = metrics.get("wattle_worker_sent_packets_total")?;
        Ok(taken == sent + dropped && metrics.get("wattle_worker_held_bytes")? == 0)
    });
    balances.map(drop)
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_flood_delays_nobody_else_and_is_dropped_by_name() {
    story("flood", |lab: &mut Lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let link = lab.link(&a, &b)?;
        let mut mesh = lab
            .mesh("flood", &[&a, &b])
            .setting("quic_port = \"off\"")
            .start()?;
        mesh.wait_converged(Duration::from_secs(20))?;
        narrow(&link, &a)?;
        for options in ["", "-Q 0xb8"] {
            let pings = pings_beside_a_flood(&mesh, &a, &b, options)?;
            assert_eq!(pings.received, 100, "pings were lost ({options})");
            assert!(
                pings.worst_ms < 100.0,
                "a ping took {} ms ({options})",
                pings.worst_ms
            );
        }
        let dropped = mesh.dropped(&a, "queue_full")? + mesh.dropped(&a, "queue_delay")?;
        assert!(
            dropped > 1_000,
            "{dropped} packets of the flood were dropped by the queue"
        );
        wait_for_balance(&mesh, &a)
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_relay_in_front_of_a_narrow_link_queues_for_others() {
    story("narrow", |lab: &mut Lab| {
        let [a, r, b] = lab.hosts(["a", "r", "b"])?;
        lab.link(&a, &r)?;
        let link = lab.link(&r, &b)?;
        let mesh = lab
            .mesh("narrow", &[&a, &r, &b])
            .setting("quic_port = \"off\"");
        let mut mesh = mesh.only_links(&[(&a, &r), (&r, &b)]).start()?;
        mesh.wait_converged(Duration::from_secs(20))?;
        narrow(&link, &r)?;
        let pings = pings_beside_a_flood(&mesh, &a, &b, "")?;
        assert_eq!(pings.received, 100);
        assert!(pings.worst_ms < 100.0, "a ping took {} ms", pings.worst_ms);
        let dropped = mesh.dropped(&r, "queue_full")? + mesh.dropped(&r, "queue_delay")?;
        assert!(
            dropped > 1_000,
            "{dropped} frames were dropped by the relay's queue"
        );
        Ok(())
    });
}
