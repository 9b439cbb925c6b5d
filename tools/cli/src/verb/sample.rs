//! Reports that the tests of the verbs show.

use wattle_control::{
    ApartReport, ChangeReport, CoordinatorReport, CoordinatorState, CostParts, EventReport,
    ExplainReport, HealthLevel, HealthLine, HopReport, LinkReport, LinksReport, NetworkRef,
    NextHopReport, NodeRef, PathReport, PathRole, PeerReport, PeerState, PeersReport, PingReport,
    PolicyReport, Role, RouteReport, RouteSource, RoutesReport, StatusReport, TopoLink, TopoNode,
    TopoReport, WayReport, WhoamiReport,
};
use wattle_model::{Carrier, Class, LinkId, LinkState, NetworkId, NodeId, WgKey};

pub(crate) fn node(n: u64) -> NodeRef {
    NodeRef {
        id: NodeId(n),
        name: format!("r{n}"),
    }
}

fn network() -> NetworkRef {
    NetworkRef {
        id: NetworkId(0xaa),
        name: "lab".into(),
    }
}

fn cost() -> CostParts {
    let (base_us, rtt_us, jitter_us, loss_us) = (100, 12_100, 300, 600);
    let total_us = base_us + rtt_us + jitter_us + loss_us;
    CostParts {
        tier: 0,
        total_us,
        base_us,
        rtt_us,
        jitter_us,
        loss_us,
        carrier_us: 0,
        health_us: 0,
        policy_us: 0,
        held_us: 0,
    }
}

pub(crate) fn status() -> StatusReport {
    StatusReport {
        node: node(1),
        network: network(),
        addresses: vec!["10.77.0.1".parse().unwrap()],
        prefixes: vec!["192.168.9.0/24".parse().unwrap()],
        version: "0.1.0".into(),
        pid: 42,
        uptime_ms: 61_000,
        interface: "wattle0".into(),
        mtu_bytes: 1_360,
        listen_port: 51_820,
        offloads: vec!["vnet".into(), "tso".into()],
        workers: 2,
        workers_active: 1,
        ready: true,
        converged: false,
        waiting_for: vec!["r3".into()],
        coordinator: Some(CoordinatorReport {
            url: "https://c:5741".into(),
            state: CoordinatorState::Away,
            last_heard_ms: Some(12_000),
            last_error: Some("connection refused".into()),
        }),
        peer_set_revision: 4,
        peers_total: 2,
        peers_reachable: 1,
        links_total: 2,
        links_up: 1,
        routes_total: 3,
        worst_link: Some(links().links.remove(0)),
        health: vec![HealthLine {
            level: HealthLevel::Warning,
            code: "peer_unreachable".into(),
            text: "r3 is not reachable".into(),
        }],
        drain: None,
        preferences: Vec::new(),
        load_percent: 0,
        relayed_packets: 0,
    }
}

pub(crate) fn links() -> LinksReport {
    let up = LinkReport {
        link: LinkId(1),
        peer: node(2),
        carrier: Carrier::Udp4,
        endpoint: "192.0.2.2:51820".parse().ok(),
        state: LinkState::Up,
        rtt_us: Some(24_200),
        min_rtt_us: Some(24_000),
        jitter_us: Some(300),
        loss_ppm: Some(30_000),
        mtu_bytes: Some(1_360),
        cost: Some(cost()),
        policy: Some(PolicyReport {
            weight: 3.0,
            multiplier: 1.0,
            addend_us: 0,
            tier: 0,
        }),
        apart: vec![ApartReport {
            class: Class::Bulk,
            cost: CostParts {
                tier: 1,
                total_us: 12_700,
                base_us: 100,
                rtt_us: 12_000,
                loss_us: 600,
                ..CostParts::default()
            },
            policy: Some(PolicyReport {
                weight: 1.0,
                multiplier: 1.0,
                addend_us: 0,
                tier: 1,
            }),
        }],
        reason: "rtt, loss 3 %".into(),
        handshake_age_ms: Some(12_000),
        fast_channel: Some("aes-256-gcm".into()),
        rx_bytes: 1_300_000,
        tx_bytes: 4_096,
        lanes: 1,
    };
    let down = LinkReport {
        link: LinkId(2),
        peer: node(3),
        carrier: Carrier::Udp6,
        endpoint: None,
        state: LinkState::Down,
        rtt_us: None,
        min_rtt_us: None,
        jitter_us: None,
        loss_ppm: None,
        mtu_bytes: None,
        cost: None,
        policy: None,
        apart: vec![],
        reason: String::new(),
        handshake_age_ms: None,
        fast_channel: None,
        rx_bytes: 0,
        tx_bytes: 0,
        lanes: 0,
    };
    LinksReport {
        links: vec![up, down],
    }
}

pub(crate) fn peers() -> PeersReport {
    let direct = PeerReport {
        node: node(2),
        public_key: WgKey([2; 32]),
        addresses: vec!["10.77.0.2".parse().unwrap()],
        prefixes: vec![],
        state: PeerState::Direct,
        leaf_of: None,
        next_hop: Some(node(2)),
        hops: Some(1),
        cost_us: Some(13_100),
        rtt_us: Some(24_200),
        loss_ppm: Some(30_000),
        relayed: false,
        rx_bytes: 1_300_000,
        tx_bytes: 4_096,
        handshake_age_ms: Some(12_000),
        fast_channel: Some("aes-256-gcm".into()),
        mtu_bytes: Some(1_360),
    };
    let unreachable = PeerReport {
        node: node(3),
        addresses: vec!["10.77.0.3".parse().unwrap()],
        state: PeerState::Unreachable,
        next_hop: None,
        hops: None,
        cost_us: None,
        rtt_us: None,
        loss_ppm: None,
        rx_bytes: 0,
        tx_bytes: 0,
        handshake_age_ms: None,
        fast_channel: None,
        mtu_bytes: None,
        ..direct.clone()
    };
    let relayed = PeerReport {
        node: node(4),
        addresses: vec!["10.77.0.4".parse().unwrap()],
        state: PeerState::Relayed,
        hops: Some(2),
        cost_us: Some(26_000),
        rtt_us: Some(50_000),
        loss_ppm: Some(0),
        relayed: true,
        ..direct.clone()
    };
    let leaf = PeerReport {
        node: NodeRef {
            id: NodeId(9),
            name: "phone".into(),
        },
        addresses: vec!["10.77.1.9".parse().unwrap()],
        leaf_of: Some(node(2)),
        ..relayed.clone()
    };
    PeersReport {
        peers: vec![direct, unreachable, relayed, leaf],
    }
}

pub(crate) fn routes() -> RoutesReport {
    let hop = |n, role, weight_ppm, cost_us| NextHopReport {
        via: node(n),
        link: LinkId(n as u32),
        role,
        weight_ppm,
        cost_us: Some(cost_us),
    };
    let route = |prefix: &str, owner, source, next_hops| RouteReport {
        prefix: prefix.parse().unwrap(),
        node: Some(node(owner)),
        source,
        tier: 0,
        cost_us: None,
        next_hops,
        device: None,
        table: None,
    };
    RoutesReport {
        routes: vec![
            route("10.77.0.1", 1, RouteSource::Local, vec![]),
            route(
                "10.77.0.2",
                2,
                RouteSource::Address,
                vec![
                    hop(2, PathRole::Used, 1_000_000, 13_100),
                    hop(3, PathRole::Backup, 0, 40_000),
                ],
            ),
            route(
                "192.168.7.0/24",
                2,
                RouteSource::Announced,
                vec![
                    hop(2, PathRole::Used, 600_000, 13_100),
                    hop(3, PathRole::Used, 400_000, 14_000),
                ],
            ),
        ],
    }
}

fn hop(from: u64, to: u64) -> HopReport {
    HopReport {
        from: node(from),
        to: node(to),
        carrier: Some(Carrier::Udp4),
        cost: cost(),
        rtt_us: Some(24_200),
        loss_ppm: Some(30_000),
        suspect: false,
    }
}

pub(crate) fn path() -> PathReport {
    let used = WayReport {
        role: PathRole::Used,
        weight_ppm: 1_000_000,
        tier: 0,
        cost_us: 26_200,
        hops: vec![hop(1, 2), hop(2, 3)],
    };
    let unknown = HopReport {
        carrier: None,
        cost: CostParts {
            total_us: 40_000,
            ..CostParts::default()
        },
        rtt_us: None,
        loss_ppm: None,
        ..hop(1, 3)
    };
    let backup = WayReport {
        role: PathRole::Backup,
        weight_ppm: 0,
        tier: 0,
        cost_us: 40_000,
        hops: vec![unknown],
    };
    PathReport {
        destination: node(3),
        prefix: "10.77.0.3".parse().ok(),
        class: Class::Latency,
        ways: vec![used, backup],
        left: vec![],
        changed: Some(change()),
    }
}

fn change() -> ChangeReport {
    ChangeReport {
        at_unix_ms: 1_795_385_280_000,
        text: "r3 goes via r2, before via r4".into(),
        cause: Some("links of r4".into()),
        latency_us: Some(152_000),
        trace: Some("00c0ffee00c0ffee".into()),
    }
}

pub(crate) fn explain() -> ExplainReport {
    let PathReport {
        destination,
        prefix,
        class,
        mut ways,
        left: _,
        changed,
    } = path();
    let runner_up = ways.pop();
    let twice = |us: u32| us * 2;
    let one = cost();
    ExplainReport {
        destination,
        prefix,
        class,
        chosen: ways.remove(0),
        cost: CostParts {
            tier: 0,
            total_us: twice(one.total_us),
            base_us: twice(one.base_us),
            rtt_us: twice(one.rtt_us),
            jitter_us: twice(one.jitter_us),
            loss_us: twice(one.loss_us),
            carrier_us: 0,
            health_us: 0,
            policy_us: 0,
            held_us: 0,
        },
        runner_up,
        margin_us: Some(13_800),
        hold_ms: Some(5_000),
        notes: vec!["r2 has no rest of its loss budget".into()],
        changed,
    }
}

pub(crate) fn ping() -> PingReport {
    PingReport {
        sequence: 1,
        from: node(3),
        address: "10.77.0.3".parse().unwrap(),
        class: Class::Latency,
        relays: vec![node(2)],
        rtt_us: Some(48_100),
    }
}

pub(crate) fn event() -> EventReport {
    EventReport {
        sequence: 7,
        at_unix_ms: 1_795_385_280_000,
        event: "link_down".into(),
        node: Some(node(2)),
        link: Some(LinkId(1)),
        text: "link 1 to r2 (udp4): silent for 80ms".into(),
        fields: std::collections::BTreeMap::new(),
    }
}

pub(crate) fn whoami() -> WhoamiReport {
    WhoamiReport {
        node: node(1),
        network: network(),
        addresses: vec!["10.77.0.1".parse().unwrap(), "fd57::1".parse().unwrap()],
        identity_key: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".into(),
        public_key: WgKey([1; 32]),
        grant_not_after_unix_ms: Some(1_795_385_280_000),
        caller_uid: 1_000,
        caller_role: Role::Reader,
    }
}

pub(crate) fn topo() -> TopoReport {
    let topo_node = |n: u64, reachable, cost_us| TopoNode {
        node: node(n),
        is_self: n == 1,
        addresses: vec![format!("10.77.0.{n}").parse().unwrap()],
        prefixes: vec![],
        site: (n == 2).then(|| "fra1".into()),
        tags: vec![],
        reachable,
        cost_us,
    };
    let link = |from, to, cost_us, loss_ppm| TopoLink {
        from: node(from),
        to: node(to),
        carrier: Carrier::Udp4,
        tier: 0,
        cost_us,
        rtt_us: Some(24_200),
        jitter_us: Some(300),
        loss_ppm: Some(loss_ppm),
    };
    TopoReport {
        nodes: vec![
            topo_node(1, true, Some(0)),
            topo_node(2, true, Some(13_100)),
            topo_node(3, false, None),
        ],
        links: vec![
            link(1, 2, Some(13_100), 30_000),
            link(2, 1, Some(12_500), 0),
            link(2, 3, None, 1_000_000),
            link(3, 2, None, 0),
        ],
    }
}
