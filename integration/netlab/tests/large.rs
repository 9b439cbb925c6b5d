//! A network of more nodes than may all be neighbours.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use wattle_netlab::{Host, Mesh, PATIENCE, eventually, story};

/// Two more than may all be neighbours.
const NODES: usize = 34;
const STREAM: Duration = Duration::from_millis(5);

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn two_nodes_with_much_to_say_to_each_other_get_a_direct_link_and_lose_nothing_by_it() {
    story("demand", |lab| {
        let hosts: Vec<Host> = (0..NODES)
            .map(|number| lab.host(&format!("n{number}")))
            .collect::<Result<_>>()?;
        let all: Vec<&Host> = hosts.iter().collect();
        lab.switch("lan", &all)?;
        let mesh = lab.mesh("demand", &all).only_ipv6();
        let mesh = mesh.setting("quic_port = \"off\"").start()?;
        let a = &hosts[0];
        let mut far = None;
        eventually("somebody is reached over a relay", PATIENCE, || {
            let relayed = hosts[1..]
                .iter()
                .map(|host| Ok((host, hops(&mesh, a, host)?)));
            let relayed: Vec<_> = relayed.collect::<Result<_>>()?;
            far = relayed
                .iter()
                .find(|(_, hops)| *hops > 1)
                .map(|found| found.0);
            Ok(far.is_some() && relayed.iter().all(|(_, hops)| *hops > 0))
        })?;
        let b = far.context("nobody")?;
        let there = SocketAddr::new(mesh.address(b)?, 7);
        let _echo = b.echo(there)?;
        let stream = a.probe(there, STREAM)?;
        for host in [a, b] {
            let other = if host.name() == a.name() { b } else { a };
            eventually("packets go directly", PATIENCE, || {
                Ok(hops(&mesh, host, other)? == 1)
            })?;
            assert_eq!(on_demand(&mesh, host)?, 1, "{}", host.name());
        }
        stream.wait_for(200);
        let report = stream.stop()?;
        eprintln!("{report:?}");
        assert_eq!(report.lost, 0, "{report:?}");
        let idle = hosts
            .iter()
            .filter(|host| ![a.name(), b.name()].contains(&host.name()));
        for host in idle {
            assert_eq!(on_demand(&mesh, host)?, 0, "{}", host.name());
        }
        Ok(())
    });
}

/// Links on the way to a node; none if there is no way.
fn hops(mesh: &Mesh, from: &Host, to: &Host) -> Result<usize> {
    let path = mesh.data(from, &["path", to.name()])?;
    Ok(path["ways"][0]["hops"].as_array().map_or(0, Vec::len))
}

/// Neighbours that a node has because there is much to carry.
fn on_demand(mesh: &Mesh, host: &Host) -> Result<u64> {
    mesh.metrics(host)?.get("wattle_engine_links_on_demand")
}
