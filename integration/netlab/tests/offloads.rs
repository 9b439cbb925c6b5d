//! The mesh without the kernel's offloads: each forbidden by setting, one refused while packets flow, a device that has
//! none. `sudo tools/test netns` runs it.

use anyhow::{Context, Result, ensure};
use wattle_netlab::{Host, Mesh, PATIENCE, eventually, story, transfer};

const STREAM: usize = 3_000_000;
/// Offloads that another one needs go with it.
const IMPLIED: [(&str, &[&str]); 5] = [
    ("vnet", &["vnet", "tso", "uso"]),
    ("tso", &["tso", "uso"]),
    ("uso", &["uso"]),
    ("gso", &["gso"]),
    ("gro", &["gro"]),
];

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn everything_works_without_each_offload_at_one_end_and_at_both() {
    story("offloads", |lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        lab.link(&a, &b)?;
        let mut mesh = lab.mesh("all", &[&a, &b]).start()?;
        mesh.wait_all_reach_all(PATIENCE)?;
        let all = in_use(&mesh, &a)?;
        ensure!(all.contains(&"gso".to_owned()), "this kernel has {all:?}");
        assert_all_works(&mesh, &a, &b, "with all offloads")?;
        for host in [&a, &b] {
            mesh.stop(host)?;
        }
        drop(mesh);
        for (name, implied) in IMPLIED {
            for without in [&[&a][..], &[&a, &b]] {
                let what = format!("without {name} at {} of two ends", without.len());
                let mesh = lab.mesh(&format!("{name}-{}", without.len()), &[&a, &b]);
                let mut mesh = mesh.create()?;
                for host in without {
                    mesh.set(host, &format!("offloads_off = [{name:?}]"))?;
                }
                mesh.start_all()?;
                mesh.wait_converged(PATIENCE)?;
                for host in [&a, &b] {
                    let forbidden = without.iter().any(|w| w.name() == host.name());
                    let left = all
                        .iter()
                        .filter(|offload| !forbidden || !implied.contains(&offload.as_str()));
                    let left: Vec<String> = left.cloned().collect();
                    assert_eq!(in_use(&mesh, host)?, left, "{what}: {}", host.name());
                    let metrics = mesh.metrics(host)?;
                    let shown = metrics.sum("wattle_host_offload_in_use", "");
                    assert_eq!(shown, left.len() as u64, "{what}");
                }
                assert_all_works(&mesh, &a, &b, &what)?;
                for host in [&a, &b] {
                    mesh.stop(host)?;
                }
            }
        }
        Ok(())
    });
}

/// A kernel that refuses a send of several datagrams, as one does whose route has an IPsec transform, or an older one
/// whose device has no checksum offload.
const REFUSING_KERNEL: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags) {
    for (unsigned i = 0; i < count; i++)
        if (messages[i].msg_hdr.msg_controllen) {
            if (i == 0) { errno = EIO; return -1; }
            count = i;
        }
    return syscall(SYS_sendmmsg, fd, messages, count, flags);
}
"#;

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn datagrams_that_the_kernel_will_not_send_together_are_sent_one_by_one_from_then_on() {
    story("refused", |lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        lab.link(&a, &b)?;
        let source = a.directory().join("refusing.c");
        std::fs::write(&source, REFUSING_KERNEL)?;
        a.run(
            "cc",
            ["-shared", "-fPIC", "-o", "refusing.so", "refusing.c"],
        )?;
        let preload = format!("LD_PRELOAD={}", a.directory().join("refusing.so").display());

        let mesh = lab
            .mesh("refused", &[&a, &b])
            .setting("quic_port = \"off\"");
        let mut mesh = mesh.create()?;
        mesh.start_behind(&a, &[&preload])?;
        mesh.start(&b)?;
        mesh.wait_converged(PATIENCE)?;
        assert_all_works(&mesh, &a, &b, "while sends are refused")?;
        let left = in_use(&mesh, &a)?;
        assert!(!left.contains(&"gso".to_owned()), "{left:?}");
        assert!(
            in_use(&mesh, &b)?.contains(&"gso".to_owned()),
            "the other end knows nothing of it"
        );
        let metrics = mesh.metrics(&a)?;
        assert_eq!(metrics.sum("wattle_host_udp_unsent_packets_total", ""), 0);
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run by tools/test netns"]
fn a_device_without_offloads_carries_the_mesh() {
    story("bare", |lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let link = lab.link(&a, &b)?;
        for host in [&a, &b] {
            let interface = &link.of(host)?.interface;
            host.sh(&format!(
                "ethtool -K {interface} tx off rx off sg off tso off gso off gro off"
            ))?;
        }
        let mesh = lab.mesh("bare", &[&a, &b]).start()?;
        assert_all_works(&mesh, &a, &b, "over a bare device")
    });
}

/// The offloads that an agent says it uses.
fn in_use(mesh: &Mesh, host: &Host) -> Result<Vec<String>> {
    let status = mesh.data(host, &["status"])?;
    Ok(serde_json::from_value(status["offloads"].clone())?)
}

/// Pings, TCP, datagrams of many sizes, datagrams that the kernel may hand over together; both ways, both families.
fn assert_all_works(mesh: &Mesh, a: &Host, b: &Host, what: &str) -> Result<()> {
    mesh.wait_all_reach_all(PATIENCE)?;
    let sizes: Vec<usize> = (1..60).chain(1_270..1_312).collect();
    for (from, to) in [(a, b), (b, a)] {
        for address in [mesh.address(to)?, mesh.address_v6(to)?] {
            let story = || format!("{what}, from {} to {address}", from.name());
            eventually("a whole stream", PATIENCE, || {
                let delivery = transfer::tcp(from, to, address, STREAM)?;
                ensure!(delivery.bytes == STREAM, "{delivery:?}");
                Ok(true)
            })
            .with_context(story)?;
            let arrived = transfer::udp(from, to, address, &sizes, None).with_context(story)?;
            assert_eq!(arrived, sizes.len(), "{}", story());
            let together = transfer::udp(from, to, address, &[12_345, 2_400, 1_201], Some(1_200));
            assert_eq!(together.with_context(story)?, 11 + 2 + 2, "{}", story());
        }
    }
    Ok(())
}
