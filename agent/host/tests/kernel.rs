//! What the kernel really does with the host's requests, each test in a fresh network namespace of its own thread.
//!
//! Needs root. Without it every test says so and proves nothing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use wattle_dataplane::vnet::{Gso, NEEDS_CSUM};
use wattle_dataplane::{TunBatch, TxBatch, VnetHeader};
use wattle_host::{
    Clock, Family, Installed, InterfaceAddress, Monitor, Netlink, Offload, Queues, RecvBatch,
    Sources, TABLE, Tun, TunError, UdpError, UdpOptions, UdpSockets, Wake, Wanted, interface_drops,
    wait,
};
use wattle_model::{Micros, Prefix};

#[test]
fn a_device_has_the_offloads_of_this_kernel_and_a_second_opener_is_told_what_to_do() {
    in_namespace(|| {
        let tun = Tun::open("wl0", Offload::TcpUdp, Queues::One).unwrap();
        assert!(
            tun.offload() >= Offload::Tcp,
            "{tun:?}: kernels since 2.6.27 have TSO"
        );
        assert_eq!(
            Tun::open("wl1", Offload::Tcp, Queues::One)
                .unwrap()
                .offload(),
            Offload::Tcp
        );
        assert_eq!(
            Tun::open("wl2", Offload::Header, Queues::One)
                .unwrap()
                .offload(),
            Offload::Header
        );
        assert_eq!(
            Tun::open("wl3", Offload::None, Queues::One)
                .unwrap()
                .offload(),
            Offload::None
        );

        let error = Tun::open("wl0", Offload::TcpUdp, Queues::One).unwrap_err();
        assert!(matches!(error, TunError::InUse(_)), "{error:?}");
        assert!(error.to_string().contains("--interface"), "{error}");
        let error = Tun::open("lo", Offload::TcpUdp, Queues::One).unwrap_err();
        assert!(matches!(error, TunError::NotTun(_)), "{error:?}");
        for bad in ["", "a name", "a/b", "sixteen-letters-x", "wl%d"] {
            assert!(
                matches!(
                    Tun::open(bad, Offload::None, Queues::One),
                    Err(TunError::Name(_))
                ),
                "{bad}"
            );
        }
        drop(tun);
        // A command that another test starts at this moment holds what was open until it runs.
        let gone_by = Instant::now() + Duration::from_secs(5);
        while ip("link").contains("wl0") {
            assert!(Instant::now() < gone_by, "the device goes with its owner");
        }
    });
}

#[test]
fn packets_for_the_mesh_come_out_of_the_device_and_answers_go_in() {
    for offload in [Offload::TcpUdp, Offload::None] {
        in_namespace(|| block_on(packets_cross(offload)));
    }
}

async fn packets_cross(offload: Offload) {
    let mut tun = Tun::open("wl0", offload, Queues::One).unwrap();
    let netlink = Netlink::connect().unwrap();
    netlink.bring_up(tun.index(), 1360).await.unwrap();
    let installed = Installed::new(netlink, tun.index(), TABLE).await.unwrap();
    installed
        .reconcile(&wanted(
            &["10.77.0.1", "fd57::1"],
            &["10.77.0.0/16", "fd57::/64"],
        ))
        .await
        .unwrap();

    // The kernel finishes a new IPv6 address on a work queue of its own.
    while !ip("-6 route show table local").contains("fd57::1") {
        std::thread::yield_now();
    }
    for (to, header) in [("10.77.3.4:9", 20), ("[fd57::9]:9", 40)] {
        let to: SocketAddr = to.parse().unwrap();
        let from = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(from).unwrap();
        socket.send_to(b"ask", to).unwrap();
        let mut buffer = vec![0; 65_536];
        let (vnet, length) = tun.read(&mut buffer).unwrap().expect("the packet is there");
        assert_eq!(length, header + 8 + 3, "nothing else was read before it");
        assert_eq!(&buffer[header + 8..length], b"ask");
        assert_eq!(
            vnet == VnetHeader::default(),
            offload == Offload::None,
            "{vnet:?}"
        );

        let mut batch = TunBatch::new(tun.coalescing());
        assert!(batch.push(VnetHeader::default(), &answer(&buffer[..length], header)));
        tun.write(&mut batch);
        assert!(batch.is_empty());
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let peer = socket.recv_from(&mut buffer).map(|(_, peer)| peer);
        let peer = peer.unwrap_or_else(|_| panic!("no answer from {to}: {:?}", tun.counters()));
        assert_eq!(peer, to);
    }
    let counters = tun.counters();
    assert_eq!(
        (counters.read_packets, counters.written_packets),
        (2, 2),
        "{counters:?}"
    );
    assert_eq!(counters.drop_refused, 0);
}

#[test]
fn only_what_is_ours_is_added_and_removed() {
    in_namespace(|| {
        let tun = Tun::open("wl0", Offload::TcpUdp, Queues::One).unwrap();
        ip("link add dev foreign type veth peer name foreign1");
        ip("link set foreign up");
        ip("link set foreign1 up");
        ip("route add 10.9.0.0/16 dev foreign table 5740 proto static");
        ip("rule add fwmark 0x1 lookup 5740 priority 100");
        let before = snapshot();
        block_on(async {
            let netlink = Netlink::connect().unwrap();
            netlink.bring_up(tun.index(), 1360).await.unwrap();
            ip("address add 10.5.5.5/32 dev wl0");
            let installed = Installed::new(netlink, tun.index(), TABLE).await.unwrap();
            let first = wanted(
                &["10.77.0.1", "fd57::1"],
                &["10.77.0.0/16", "fd57::/64", "0.0.0.0/0"],
            );
            assert_eq!(installed.reconcile(&first).await.unwrap(), 7);
            assert_eq!(
                installed.reconcile(&first).await.unwrap(),
                0,
                "nothing is done twice"
            );
            assert!(ip("route show table 5740").contains("10.77.0.0/16 dev wl0 proto 157"));
            assert!(ip("rule").contains("not from all fwmark 0x5774 lookup 5740 proto 157"));
            assert!(
                !ip("-6 address show dev wl0").contains("fe80"),
                "no noise from the kernel"
            );

            ip("route del 10.77.0.0/16 table 5740");
            assert_eq!(installed.reconcile(&first).await.unwrap(), 1, "repaired");
            let second = wanted(&["10.77.0.1"], &["10.78.0.0/16"]);
            assert_eq!(installed.reconcile(&second).await.unwrap(), 5);
            assert!(
                ip("address show dev wl0").contains("10.5.5.5/32"),
                "a foreign address stays"
            );
            installed.remove().await.unwrap();
        });
        drop(tun);
        assert_eq!(snapshot(), before);
    });
}

#[test]
fn rules_of_a_killed_predecessor_are_removed() {
    in_namespace(|| {
        let before = ip("rule") + &ip("-6 rule");
        block_on(async {
            let tun = Tun::open("wl0", Offload::TcpUdp, Queues::One).unwrap();
            let killed = Installed::new(Netlink::connect().unwrap(), tun.index(), TABLE)
                .await
                .unwrap();
            killed.netlink().bring_up(tun.index(), 1360).await.unwrap();
            killed
                .reconcile(&wanted(&[], &["10.77.0.0/16"]))
                .await
                .unwrap();
        });
        assert_ne!(
            ip("rule") + &ip("-6 rule"),
            before,
            "the rules were left behind"
        );
        block_on(async {
            let tun = Tun::open("wl0", Offload::TcpUdp, Queues::One).unwrap();
            Installed::new(Netlink::connect().unwrap(), tun.index(), TABLE)
                .await
                .unwrap();
        });
        assert_eq!(ip("rule") + &ip("-6 rule"), before);
    });
}

/// Everything that lies in the sockets, message by message.
fn receive_all(sockets: &mut UdpSockets) -> Vec<(SocketAddr, Vec<Vec<u8>>)> {
    let mut batch = RecvBatch::new();
    let mut messages = Vec::new();
    for family in Family::ALL {
        loop {
            let count = sockets.receive(family, &mut batch);
            if count == 0 {
                break;
            }
            for index in 0..count {
                let (from, datagrams) = batch.message(index).unwrap();
                let each = datagrams.each().map(|(bytes, _)| bytes.to_vec());
                messages.push((from, each.collect()));
            }
        }
    }
    messages
}

#[test]
fn datagrams_are_sent_on_from_where_they_were_received() {
    in_namespace(|| {
        let (mut sender, mut relay, mut receiver) = (sockets(true), sockets(true), sockets(true));
        let at =
            |sockets: &UdpSockets| SocketAddr::new("127.0.0.1".parse().unwrap(), sockets.port());
        let mut batch = TxBatch::new();
        for number in 0..40 {
            assert!(batch.push(at(&relay), &[number; 1_000]));
        }
        sender.send(&mut batch, &RecvBatch::new());
        let mut memory = RecvBatch::new();
        let count = relay.receive(Family::V4, &mut memory);
        for index in 0..count {
            let (_, datagrams) = memory.message(index).unwrap();
            for (bytes, place) in datagrams.each() {
                bytes[0] = 99;
                let place = place.unwrap();
                batch.commit_received(at(&receiver), place..place + bytes.len());
            }
        }
        assert_eq!(
            batch.transmits().len(),
            count,
            "what came together goes together"
        );
        relay.send(&mut batch, &memory);
        let received = receive_all(&mut receiver)
            .into_iter()
            .flat_map(|(_, each)| each);
        let expected = (0..40).map(|number| {
            let mut bytes = vec![number; 1_000];
            bytes[0] = 99;
            bytes
        });
        assert_eq!(received.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    });
}

#[test]
fn equal_datagrams_travel_together_and_arrive_as_they_were() {
    for segmentation in [true, false] {
        in_namespace(|| {
            let mut sender = sockets(segmentation);
            let mut receiver = sockets(segmentation);
            for ip in ["127.0.0.1", "::1"] {
                let to = SocketAddr::new(ip.parse().unwrap(), receiver.port());
                let mut batch = TxBatch::new();
                let sent: Vec<Vec<u8>> = (0..150u8)
                    .map(|i| vec![i; if i == 149 { 7 } else { 1_000 }])
                    .chain([vec![1; 20], vec![2; 30]])
                    .collect();
                for datagram in &sent {
                    assert!(batch.push(to, datagram));
                }
                sender.send(&mut batch, &RecvBatch::new());
                assert!(batch.is_empty());
                let messages = receive_all(&mut receiver);
                let from = SocketAddr::new(ip.parse().unwrap(), sender.port());
                assert!(messages.iter().all(|(sender, _)| *sender == from));
                let received = messages.iter().flat_map(|(_, datagrams)| datagrams);
                assert_eq!(received.cloned().collect::<Vec<_>>(), sent);
                assert_eq!(messages.len() < 20, segmentation, "{}", messages.len());
            }
            assert_eq!(sender.counters().sent_packets, 304);
            assert_eq!(receiver.counters().received_packets, 304);
            assert_eq!(
                sender.counters().sent_bytes,
                receiver.counters().received_bytes
            );
        });
    }
}

#[test]
fn what_cannot_be_sent_is_counted_by_kind_and_the_rest_goes_on() {
    in_namespace(|| {
        let mut sender = sockets(true);
        let mut receiver = sockets(true);
        ip("link set lo mtu 1500");
        let here = SocketAddr::new("127.0.0.1".parse().unwrap(), receiver.port());
        let mut batch = TxBatch::new();
        for _ in 0..3 {
            assert!(batch.push("192.0.2.1:9".parse::<SocketAddr>().unwrap(), &[0; 100]));
        }
        assert!(batch.push("[2001:db8::1]:9".parse::<SocketAddr>().unwrap(), &[0; 100]));
        for _ in 0..2 {
            assert!(
                batch.push(here, &[0; 1_600]),
                "over the MTU, and may not be fragmented"
            );
        }
        assert!(batch.push(here, b"still here"));
        sender.send(&mut batch, &RecvBatch::new());
        let counters = sender.counters();
        assert_eq!(counters.drop_unreachable, 4, "{counters:?}");
        assert_eq!(counters.drop_too_big, 2, "{counters:?}");
        assert_eq!(counters.sent_packets, 1, "{counters:?}");
        let messages = receive_all(&mut receiver);
        assert_eq!(messages.len(), 1);
        assert_eq!(messages[0].1, [b"still here"]);

        ip("link set lo mtu 65536");
        for _ in 0..2 {
            assert!(batch.push(here, &[7; 1_200]));
        }
        sender.send(&mut batch, &RecvBatch::new());
        assert_eq!(
            receive_all(&mut receiver).len(),
            1,
            "too big a segment did not switch segmentation off"
        );
    });
}

#[test]
fn what_the_kernel_drops_in_front_of_a_socket_and_what_says_nothing_is_counted() {
    in_namespace(|| {
        let mut receiver = sockets(false);
        let to: SocketAddr = SocketAddr::new("127.0.0.1".parse().unwrap(), receiver.port());
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(&[], to).unwrap();
        let mut batch = RecvBatch::new();
        assert_eq!(receiver.receive(Family::V4, &mut batch), 1);
        assert!(batch.message(0).is_none(), "there is nothing to look at");
        assert_eq!(receiver.counters().drop_empty, 1);
        assert_eq!(receiver.kernel_drops(), 0);
        let mut sent = 0_u64;
        while receiver.kernel_drops() < 100 {
            sender.send_to(&[7; 1_000], to).unwrap();
            sent += 1;
            assert!(sent < 1_000_000, "the buffer is never full");
        }
        while receiver.receive(Family::V4, &mut batch) > 0 {}
        let counters = receiver.counters();
        assert_eq!(sent, counters.received_packets + receiver.kernel_drops());
    });
}

#[test]
fn what_nobody_reads_from_the_device_in_time_is_a_drop_of_the_interface() {
    in_namespace(|| {
        let mut tun = Tun::open("wl0", Offload::None, Queues::One).unwrap();
        ip("address add 10.9.9.1/24 dev wl0");
        // A device that comes up would say hello over IPv6.
        std::fs::write("/proc/sys/net/ipv6/conf/wl0/disable_ipv6", "1").unwrap();
        ip("link set wl0 up txqueuelen 10");
        assert_eq!(interface_drops("wl0").unwrap().tx_packets, 0);
        let sender = UdpSocket::bind("10.9.9.1:0").unwrap();
        for _ in 0..50 {
            let _refused = sender.send_to(b"x", "10.9.9.2:9");
        }
        let mut read = 0;
        while tun.read(&mut [0; 2_000]).unwrap().is_some() {
            read += 1;
        }
        let dropped = interface_drops("wl0").unwrap().tx_packets;
        assert!(dropped > 0 && read > 0, "{read} read, {dropped} dropped");
        assert_eq!(read + dropped, 50);
        assert_eq!(interface_drops("wl1"), None);
    });
}

#[test]
fn refused_super_packets_count_part_by_part() {
    in_namespace(|| {
        let mut tun = Tun::open("wl0", Offload::TcpUdp, Queues::One).unwrap();
        let mut batch = TunBatch::new(tun.coalescing());
        let header = VnetHeader {
            flags: NEEDS_CSUM,
            gso: Gso::TcpV4,
            hdr_len: 40,
            gso_size: 100,
            csum_start: 20,
            csum_offset: 16,
        };
        assert!(batch.push(header, &[0x45; 40 + 250]));
        assert!(batch.push(VnetHeader::default(), &[0x45; 40]));
        tun.write(&mut batch);
        let counters = tun.counters();
        assert_eq!(
            counters.drop_refused,
            3 + 1,
            "the device is down: {counters:?}"
        );
        assert_eq!(counters.written_parts, 0);
    });
}

#[test]
fn a_port_in_use_is_named_with_the_setting_that_changes_it() {
    in_namespace(|| {
        let first = sockets(true);
        let options = UdpOptions {
            port: first.port(),
            mark: None,
            segmentation: true,
            coalescing: true,
        };
        let error = UdpSockets::bind(options).unwrap_err();
        assert!(matches!(error, UdpError::InUse(_)), "{error:?}");
        assert!(error.to_string().contains("listen_port"), "{error}");
    });
}

#[test]
fn waiting_ends_by_deadline_by_wake_and_by_datagram() {
    in_namespace(|| {
        let (udp, wake) = (sockets(true), Wake::new().unwrap());
        let sources = Sources {
            tun: None,
            udp: &udp,
            wake: &wake,
            full: None,
        };
        let start = Clock.now();
        let ready = wait(&sources, Some(Micros(2_500))).unwrap();
        assert!(!ready.udp_v4 && !ready.udp_v6 && !ready.wake && !ready.tun);
        assert!(Clock.now().since(start) >= Micros(2_500));

        wake.clone().wake();
        assert!(wait(&sources, None).unwrap().wake);
        wake.drain();
        assert!(!wait(&sources, Some(Micros(0))).unwrap().wake);

        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"x", ("127.0.0.1", udp.port())).unwrap();
        assert!(wait(&sources, None).unwrap().udp_v4);
    });
}

#[test]
fn dialable_addresses_are_found_and_their_changes_told() {
    in_namespace(|| {
        block_on(async {
            let netlink = Netlink::connect().unwrap();
            assert!(
                netlink.dialable_addresses(None).await.unwrap().is_empty(),
                "loopback is not dialable"
            );
            let mut monitor = Monitor::subscribe().unwrap();
            ip("link add dev up0 type veth peer name up1");
            ip("link set up0 up");
            ip("link set up1 up");
            ip("address add 192.0.2.7/24 dev up0");
            ip("address add 2001:db8::7/64 dev up0 nodad");
            tokio::time::timeout(Duration::from_secs(5), monitor.changed())
                .await
                .unwrap();
            let found = netlink.dialable_addresses(None).await.unwrap();
            let addresses: Vec<IpAddr> = found.iter().map(|found| found.address).collect();
            assert_eq!(
                addresses,
                [
                    "192.0.2.7".parse::<IpAddr>().unwrap(),
                    "2001:db8::7".parse().unwrap()
                ]
            );
            let InterfaceAddress {
                interface,
                prefix_length,
                ..
            } = *found.first().unwrap();
            assert_eq!(prefix_length, 24);
            assert!(
                netlink
                    .dialable_addresses(Some(interface))
                    .await
                    .unwrap()
                    .is_empty()
            );
        });
    });
}

fn sockets(segmentation: bool) -> UdpSockets {
    let options = UdpOptions {
        port: 0,
        mark: Some(wattle_host::MARK),
        segmentation,
        coalescing: segmentation,
    };
    UdpSockets::bind(options).unwrap()
}

fn wanted(addresses: &[&str], routes: &[&str]) -> Wanted {
    let routes: BTreeSet<Prefix> = routes.iter().map(|text| text.parse().unwrap()).collect();
    Wanted {
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        routes,
    }
}

/// The UDP packet back, from there to here; without a UDP checksum over IPv4, with one over IPv6.
fn answer(packet: &[u8], header: usize) -> Vec<u8> {
    let mut back = packet.to_vec();
    let (addresses, size) = if header == 20 { (12, 4) } else { (8, 16) };
    back[addresses..addresses + size]
        .copy_from_slice(&packet[addresses + size..addresses + 2 * size]);
    back[addresses + size..addresses + 2 * size]
        .copy_from_slice(&packet[addresses..addresses + size]);
    back[header..header + 2].copy_from_slice(&packet[header + 2..header + 4]);
    back[header + 2..header + 4].copy_from_slice(&packet[header..header + 2]);
    back[header + 6..header + 8].fill(0);
    if header == 20 {
        return back; // swapping the addresses keeps the header's checksum
    }
    let mut sum = 17 + (back.len() - 40) as u32;
    for pair in back[8..].chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    back[46..48].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    back
}

fn snapshot() -> String {
    [
        "rule",
        "-6 rule",
        "route show table all",
        "-6 route show table 5740",
        "-4 address",
    ]
    .map(ip)
    .join("--\n")
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    // A table without routes does not exist; that is no failure.
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn block_on(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future);
}

/// Runs the story on a thread with a network namespace of its own, which goes when the thread ends.
fn in_namespace(story: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
                eprintln!("NOT RUN: this test needs root for a network namespace ({errno})");
                return;
            }
            ip("link set lo up");
            story();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}
