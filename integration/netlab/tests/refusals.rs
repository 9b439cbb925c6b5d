//! What an agent cannot work with, it says at the start: what, why, and what to do. And it leaves nothing half done.

use std::process::{Command, Output};

use anyhow::Result;
use wattle_netlab::mesh::{INTERFACE, binary};
use wattle_netlab::{Host, Lab, Mesh, story};

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn without_the_capability_or_the_driver_the_agent_says_so() {
    story("privilege", |lab| {
        let (mesh, a) = one(lab)?;
        let output = attempt(&mesh, &a, &["setpriv", "--bounding-set=-net_admin", "--"])?;
        refused(&a, &output, &["CAP_NET_ADMIN"])?;
        let hide = "mount -t tmpfs none /dev/net; exec \"$@\"";
        let output = attempt(&mesh, &a, &["unshare", "-m", "sh", "-c", hide, "sh"])?;
        refused(&a, &output, &["/dev/net/tun", "modprobe tun"])
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_port_in_use_is_named_with_the_setting_that_changes_it() {
    story("port", |lab| {
        let (mesh, a) = one(lab)?;
        let _taken = a.echo("0.0.0.0:51820".parse()?)?;
        refused(&a, &attempt(&mesh, &a, &[])?, &["51820", "listen_port"])
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn keys_that_others_may_read_are_refused() {
    story("modes", |lab| {
        let (mesh, a) = one(lab)?;
        let key = mesh.state(&a).join("identity.key");
        a.run("chmod", ["644".as_ref(), key.as_os_str()])?;
        refused(&a, &attempt(&mesh, &a, &[])?, &["identity.key", "chmod"])
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_torn_peer_set_is_replaced_by_the_one_before_or_refused_with_its_name() {
    story("torn", |lab| {
        let (mesh, a) = one(lab)?;
        let file = mesh.state(&a).join("peers.bin");
        let whole = std::fs::read(&file)?;
        for torn in [&whole[..0], &whole[..whole.len() / 2]] {
            std::fs::write(&file, torn)?;
            refused(&a, &attempt(&mesh, &a, &[])?, &["peers.bin"])?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_wrong_setting_is_refused_with_its_line() {
    story("setting", |lab| {
        let (mesh, a) = one(lab)?;
        mesh.set(&a, "listen_prot = 1")?;
        refused(
            &a,
            &attempt(&mesh, &a, &[])?,
            &["listen_prot", "listen_port"],
        )
    });
}

/// A mesh of two of which nobody runs, and its first host.
fn one(lab: &mut Lab) -> Result<(Mesh, Host)> {
    let [a, b] = lab.hosts(["a", "b"])?;
    lab.link(&a, &b)?;
    Ok((lab.mesh("one", &[&a, &b]).create()?, a))
}

/// Runs the agent, behind a wrapper if there is one, for at most ten seconds.
fn attempt(mesh: &Mesh, host: &Host, wrapper: &[&str]) -> Result<Output> {
    let mut command: Command = host.command("timeout");
    command.arg("10").args(wrapper).arg(binary("wattled")?);
    command
        .arg("--state")
        .arg(mesh.state(host))
        .arg("--socket")
        .arg(mesh.socket(host));
    Ok(command.output()?)
}

/// It ended by itself, said all these words without a panic, and left no device.
fn refused(host: &Host, output: &Output, words: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        matches!(output.status.code(), Some(1 | 2)),
        "{}: {said}",
        output.status
    );
    assert!(!said.contains("panicked"), "{said}");
    for word in words {
        assert!(said.contains(word), "no word of {word} in: {said}");
    }
    assert!(!host.sh("ip -brief link")?.contains(INTERFACE));
    Ok(())
}
