//! What operators are told by a real agent, and what they may do.

use std::time::Duration;

use anyhow::Result;
use wattle_netlab::story;

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
