//! How routing's events read, and which figures the engine shows.

use std::sync::atomic::Ordering;

use wattle_control::{MetricsReport, Reply};
use wattle_model::{Class, Cost, LinkState, Measurement, NodeId};
use wattle_routing::{Cause, Event, Happening as Routing};
use wattle_wire::record::RecordKind;

use super::event_log::{Happening, ROUTE_CHANGED};
use super::{Engine, Membership};
use crate::metrics::{Kind, Snapshot};
use crate::offloads::OffloadName;
use crate::worker_handle::WorkerReport;

/// One of routing's events for the log.
pub(super) fn happening(membership: &Membership, event: &Event) -> Happening {
    let name = |node: NodeId| membership.node_ref(node).name;
    let names = |nodes: &[NodeId]| match nodes {
        [] => "nowhere".to_owned(),
        nodes => nodes
            .iter()
            .map(|node| name(*node))
            .collect::<Vec<_>>()
            .join("+"),
    };
    let told = match &event.what {
        Routing::LinkUp {
            link,
            neighbour,
            carrier,
            cost,
        } => {
            let text = format!(
                "link to {} over {carrier} is up, cost {cost}",
                name(*neighbour)
            );
            let told = Happening::new("link_up", text).link(*link);
            priced(told.node(membership.node_ref(*neighbour)), *cost)
        }
        Routing::LinkDown {
            link,
            neighbour,
            carrier,
        } => {
            let text = format!("link to {} over {carrier} is down", name(*neighbour));
            Happening::new("link_down", text)
                .link(*link)
                .node(membership.node_ref(*neighbour))
        }
        Routing::LinkCostChanged {
            link,
            neighbour,
            before,
            after,
        } => {
            let text = format!(
                "link to {} costs {after}, before {before}",
                name(*neighbour)
            );
            let told = Happening::new("link_cost_changed", text).link(*link);
            let told = told.node(membership.node_ref(*neighbour));
            let told = told.field("before_us", before.to_tell());
            in_tier(told.field("after_us", after.to_tell()), *after)
        }
        Routing::RouteChanged {
            class,
            destination,
            before,
            after,
            cost,
        } => {
            let (from, to) = (names(before), names(after));
            let whose = match class {
                Class::Latency => String::new(),
                class => format!("{class} to "),
            };
            let name = name(*destination);
            let text = format!("{whose}{name} goes via {to}, before via {from}");
            let told = Happening::new(ROUTE_CHANGED, text);
            let told = priced(told.node(membership.node_ref(*destination)), *cost);
            let told = told.field("before", from).field("after", to);
            match class {
                Class::Latency => told,
                class => told.field("class", class.to_string()),
            }
        }
        Routing::NodeJoined { node } => {
            let text = format!("{} is reachable", name(*node));
            Happening::new("node_joined", text).node(membership.node_ref(*node))
        }
        Routing::NodeLeft { node } => {
            let text = format!("{} is not reachable", name(*node));
            Happening::new("node_left", text).node(membership.node_ref(*node))
        }
        Routing::NodeRemoved { node, serial } => {
            let text = format!("{} is no longer a member", name(*node));
            let told = Happening::new("node_removed", text);
            told.node(membership.node_ref(*node))
                .field("serial", *serial)
        }
    };
    let told = told.field("cause", cause(membership, &event.cause));
    let told = match event.latency {
        Some(latency) => told.field("latency_us", latency.0),
        None => told,
    };
    told.field("trace", format!("{:016x}", event.cause.trace()))
}

fn priced(told: Happening, cost: Cost) -> Happening {
    in_tier(told.field("cost_us", cost.to_tell()), cost)
}

/// The tier, where there is one to tell of.
fn in_tier(told: Happening, cost: Cost) -> Happening {
    match cost.tiers() {
        0 => told,
        tier => told.field("tier", tier),
    }
}

/// Why something happened, for people.
fn cause(membership: &Membership, cause: &Cause) -> String {
    match cause {
        Cause::Record(id) => {
            let what = match id.key.kind {
                RecordKind::Node => "transit",
                RecordKind::Links => "links",
                RecordKind::Prefixes => "prefixes",
                RecordKind::Removal => "removal",
            };
            format!("{what} of {}", membership.node_ref(id.key.origin).name)
        }
        Cause::LinkLost { neighbour, carrier } => {
            let name = membership.node_ref(*neighbour).name;
            format!("lost link to {name} over {carrier}")
        }
        Cause::PeerSet => "peer set".to_owned(),
        Cause::Operator => "operator".to_owned(),
        Cause::Time => "time".to_owned(),
    }
}

impl Engine {
    /// All figures as text.
    pub(super) fn metrics(&self, worker: Option<&WorkerReport>) -> Reply {
        let mut snapshot = Snapshot::default();
        self.engine_figures(&mut snapshot);
        self.routing_figures(&mut snapshot);
        if let Some(worker) = worker {
            worker_figures(worker, &mut snapshot);
            self.crew_figures(worker, &mut snapshot);
            self.link_figures(worker, &mut snapshot);
            self.interface_figures(&mut snapshot);
        }
        Reply::Metrics(MetricsReport {
            text: snapshot.into_text(),
        })
    }

    fn crew_figures(&self, report: &WorkerReport, to: &mut Snapshot) {
        let view = self.worker.view();
        let active = view.active.load(Ordering::Relaxed);
        to.gauge(
            "wattle_worker_active_workers",
            "Workers that carry packets of the device.",
            active as u64,
        );
        to.gauge(
            "wattle_worker_open_lanes",
            "Lanes that carry packets.",
            report
                .worker
                .lanes
                .iter()
                .filter(|lane| lane.is_open)
                .count() as u64,
        );
        to.counter(
            "wattle_worker_unsettled_changes",
            "Times that further workers began before all that was sent by others had arrived.",
            view.unsettled.load(Ordering::Relaxed),
        );
        if view.loads.len() == 1 {
            return;
        }
        for (worker, load) in view.loads.iter().enumerate() {
            to.add(
                "wattle_worker_read_packets".to_owned(),
                "Reads from the device by each of several workers.",
                labelled([("worker", &worker.to_string())]),
                Kind::Counter,
                load.read_packets.load(Ordering::Relaxed),
            );
        }
    }

    fn engine_figures(&self, to: &mut Snapshot) {
        let counters = &self.counters;
        let seconds = self.clock.now().since(self.started).as_millis() / 1_000;
        to.gauge(
            "wattle_engine_uptime_seconds",
            "Since the agent started.",
            seconds,
        );
        let revision = self.membership().revision();
        to.gauge(
            "wattle_engine_peer_set_revision",
            "Revision of the peer set in use.",
            revision,
        );
        to.gauge(
            "wattle_engine_epoch_starts",
            "How often the agent has started.",
            self.setting.epoch.into(),
        );
        to.gauge(
            "wattle_engine_links_on_demand",
            "Nodes that are neighbours because there is much to carry.",
            self.membership().on_demand() as u64,
        );
        for (name, help, value) in [
            (
                "worker_events",
                "Events taken from the data thread.",
                counters.events,
            ),
            ("happenings", "Events told to operators.", self.log.count()),
            (
                "peer_sets_accepted",
                "Peer sets taken over.",
                counters.peer_sets_accepted,
            ),
            (
                "peer_sets_refused",
                "Peer sets refused.",
                counters.peer_sets_refused,
            ),
            (
                "uplink_records",
                "Records told to the coordinator.",
                counters.records_up,
            ),
            (
                "turned_away_clients",
                "Clients of the local socket that found no place.",
                self.setting.clients_turned_away.load(Ordering::Relaxed),
            ),
            (
                "uplink_dropped_messages",
                "Messages that found no room.",
                counters.uplink_dropped,
            ),
        ] {
            to.counter(format!("wattle_engine_{name}"), help, value);
        }
    }

    fn routing_figures(&self, to: &mut Snapshot) {
        let counters = self.router.counters();
        for (name, help, value) in [
            ("accepted_records", "Records accepted.", counters.accepted),
            (
                "duplicate_records",
                "Records that were known already.",
                counters.duplicates,
            ),
            (
                "stale_records",
                "Records older than the known ones.",
                counters.stale,
            ),
            (
                "stranger_records",
                "Records of nodes that are no members.",
                counters.strangers,
            ),
            (
                "forged_records",
                "Records with a wrong signature.",
                counters.forged,
            ),
            (
                "malformed_messages",
                "Messages that could not be read.",
                counters.malformed,
            ),
            (
                "sent_messages",
                "Messages sent to neighbours.",
                counters.sent,
            ),
            (
                "computations",
                "Shortest-path computations.",
                counters.computations,
            ),
            (
                "dropped_outputs",
                "Outputs that nobody took.",
                counters.dropped,
            ),
        ] {
            to.counter(format!("wattle_routing_{name}"), help, value);
        }
        let records = self.router.database().len() as u64;
        to.gauge("wattle_routing_database_records", "Valid records.", records);
        let reachable = self.router.routes().routes.len() as u64;
        to.gauge(
            "wattle_routing_reachable_nodes",
            "Nodes that a route leads to.",
            reachable,
        );
    }

    /// What the kernel dropped at the device, before the agent saw it or after.
    fn interface_figures(&self, to: &mut Snapshot) {
        let Some(drops) = wattle_host::interface_drops(&self.setting.config.interface) else {
            return;
        };
        to.counter(
            "wattle_host_tun_kernel_unread_packets",
            "Dropped by the kernel: the device's queue to the agent was full.",
            drops.tx_packets,
        );
        to.counter(
            "wattle_host_tun_kernel_undelivered_packets",
            "Dropped by the kernel: packets of the agent for which the network stack had no room.",
            drops.rx_packets,
        );
    }

    fn link_figures(&self, worker: &WorkerReport, to: &mut Snapshot) {
        let links = &worker.worker.links;
        let up = links
            .iter()
            .filter(|link| link.state == LinkState::Up)
            .count() as u64;
        to.gauge("wattle_link_up_links", "Links in use.", up);
        let mut each = |name: &str, help, figure: fn(&Measurement) -> u64| {
            for link in links {
                let labels = vec![
                    (
                        "peer".to_owned(),
                        self.membership().node_ref(link.peer).name,
                    ),
                    ("carrier".to_owned(), link.carrier.to_string()),
                ];
                to.add(
                    name.to_owned(),
                    help,
                    labels,
                    Kind::Gauge,
                    figure(&link.measurement),
                );
            }
        };
        each(
            "wattle_link_rtt_microseconds",
            "Smoothed round-trip time.",
            |m| m.rtt.0,
        );
        each("wattle_link_jitter_microseconds", "Jitter.", |m| m.jitter.0);
        each("wattle_link_loss_ppm", "Loss.", |m| m.loss.0.into());
    }
}

fn labelled<const N: usize>(labels: [(&str, &str); N]) -> Vec<(String, String)> {
    let owned = |(label, value): (&str, &str)| (label.to_owned(), value.to_owned());
    labels.map(owned).to_vec()
}

fn worker_figures(report: &WorkerReport, to: &mut Snapshot) {
    let counters = &report.worker.counters;
    for (name, help, value) in [
        (
            "tun_rx_packets",
            "Packets read from the device, segments one by one.",
            counters.tun_rx_packets,
        ),
        (
            "tun_tx_packets",
            "Packets written to the device, before joining.",
            counters.tun_tx_packets,
        ),
        (
            "sent_packets",
            "Packets of the device that were sent.",
            counters.sent_packets,
        ),
        (
            "answer_packets",
            "ICMP errors written to the device.",
            counters.answer_packets,
        ),
        (
            "forwarded_packets",
            "Packets from or to leaves of this node that were sent on.",
            counters.forwarded_packets,
        ),
        (
            "session_rx_packets",
            "Handshakes, cookies and keepalives received.",
            counters.session_rx_packets,
        ),
        (
            "session_tx_packets",
            "Handshakes, cookies and keepalives sent.",
            counters.session_tx_packets,
        ),
        (
            "clamped_packets",
            "SYNs whose announced segment size was lowered.",
            counters.clamped_packets,
        ),
        (
            "udp_rx_packets",
            "Datagrams received.",
            counters.udp_rx_packets,
        ),
        ("udp_tx_packets", "Datagrams sent.", counters.udp_tx_packets),
        ("udp_rx_bytes", "Bytes received.", counters.udp_rx_bytes),
        ("udp_tx_bytes", "Bytes sent.", counters.udp_tx_bytes),
        (
            "relayed_packets",
            "Frames relayed for others.",
            counters.relayed_packets,
        ),
        (
            "backup_packets",
            "Packets that left over a backup.",
            counters.backup_packets,
        ),
        (
            "leaf_packets",
            "Packets from and to leaves.",
            counters.leaf_packets,
        ),
        (
            "control_rx_packets",
            "Messages of neighbours received.",
            counters.control_rx_packets,
        ),
        (
            "control_tx_packets",
            "Messages to neighbours sent.",
            counters.control_tx_packets,
        ),
        (
            "channel_rx_packets",
            "Packets received over the fast channel.",
            counters.channel_rx_packets,
        ),
        (
            "channel_tx_packets",
            "Packets sent over the fast channel.",
            counters.channel_tx_packets,
        ),
        ("handshakes", "Handshakes completed.", counters.handshakes),
        (
            "lane_packets",
            "Datagrams sent over lanes.",
            counters.lane_packets,
        ),
        (
            "handed_packets",
            "Packets of the device that further workers left to the first.",
            counters.handed_packets,
        ),
        (
            "lost_lanes",
            "Lanes given up after they had carried packets.",
            counters.lanes_lost,
        ),
    ] {
        to.counter(format!("wattle_worker_{name}"), help, value);
    }
    for dropped in &report.worker.drops {
        let labels = [
            ("from", dropped.from.name()),
            ("reason", dropped.reason.name()),
        ];
        to.add(
            "wattle_worker_dropped_packets".to_owned(),
            "Packets dropped, by origin and reason.",
            labelled(labels),
            Kind::Counter,
            dropped.packets,
        );
    }
    let sessions = &report.worker.sessions;
    to.gauge(
        "wattle_worker_waiting_packets",
        "Packets that wait for a session.",
        sessions
            .iter()
            .map(|session| u64::from(session.queued))
            .sum(),
    );
    to.gauge(
        "wattle_worker_left_relays",
        "Relays that do not pass on what is for a node, counted once for each such node.",
        sessions
            .iter()
            .map(|session| session.left_relays.len() as u64)
            .sum(),
    );
    to.gauge(
        "wattle_worker_held_bytes",
        "Bytes of packets that wait because the network takes less than comes.",
        report.worker.held_bytes,
    );
    to.counter(
        "wattle_worker_marked_packets".to_owned(),
        "Packets that were marked as having met congestion instead of being dropped.",
        report.worker.marked_packets,
    );
    let sessions = report
        .worker
        .sessions
        .iter()
        .filter(|s| s.handshake_at.is_some())
        .count();
    to.gauge(
        "wattle_worker_sessions",
        "Sessions with a handshake.",
        sessions as u64,
    );
    to.counter(
        "wattle_worker_dropped_orders",
        "Orders that found the mailbox full.",
        report.orders_dropped,
    );
    host_figures(report, to);
    if let Some(quic) = &report.quic {
        quic_figures(quic, to);
    }
}

fn quic_figures(quic: &wattle_quic::Counters, to: &mut Snapshot) {
    for (name, help, value) in [
        (
            "sent_packets",
            "Datagrams handed to QUIC connections.",
            quic.sent_packets,
        ),
        (
            "received_packets",
            "Datagrams that QUIC connections handed over.",
            quic.received_packets,
        ),
        (
            "cut_packets",
            "Datagrams that travelled in pieces.",
            quic.cut_packets,
        ),
        (
            "path_shrank_events",
            "Times that a path carried less than before.",
            quic.path_shrank,
        ),
        (
            "connected_handshakes",
            "Handshakes that made a connection.",
            quic.connected,
        ),
        (
            "unanswered_handshakes",
            "Handshakes dialled in vain.",
            quic.unanswered_dials,
        ),
        (
            "refused_handshakes",
            "Handshakes of others that failed.",
            quic.refused_handshakes,
        ),
        (
            "dropped_handshakes",
            "Handshakes of others not begun: too many at once.",
            quic.drop_handshakes,
        ),
        (
            "migrations",
            "Times that a peer went on from another address.",
            quic.migrations,
        ),
    ] {
        to.counter(format!("wattle_quic_{name}"), help, value);
    }
    for (reason, value) in [
        ("outbox_full", quic.drop_outbox_full),
        ("no_connection", quic.drop_no_connection),
        ("backlog", quic.drop_backlog),
        ("too_large", quic.drop_too_large),
        ("pieces", quic.drop_pieces),
        ("inbox_full", quic.drop_inbox_full),
    ] {
        to.add(
            "wattle_quic_dropped_packets".to_owned(),
            "Datagrams dropped by the QUIC carrier, by reason.",
            labelled([("reason", reason)]),
            Kind::Counter,
            value,
        );
    }
}

fn host_figures(report: &WorkerReport, to: &mut Snapshot) {
    let (tun, udp) = (&report.tun, &report.udp);
    for (name, help, value) in [
        (
            "tun_read_packets",
            "Reads from the device; a super-packet counts once.",
            tun.read_packets,
        ),
        (
            "tun_written_packets",
            "Writes to the device.",
            tun.written_packets,
        ),
        (
            "tun_written_parts",
            "Packets written to the device; the parts of a super-packet count one by one.",
            tun.written_parts,
        ),
        (
            "tun_queue_full_packets",
            "Dropped: the device's queue was full; parts one by one.",
            tun.drop_queue_full,
        ),
        (
            "tun_refused_packets",
            "Dropped: the kernel refused the packet; parts one by one.",
            tun.drop_refused,
        ),
        (
            "tun_bad_header_packets",
            "Dropped: read with a header that was never asked for.",
            tun.drop_bad_header,
        ),
        (
            "udp_received_packets",
            "Datagrams received by the sockets.",
            udp.received_packets,
        ),
        (
            "udp_sent_packets",
            "Datagrams sent by the sockets.",
            udp.sent_packets,
        ),
        (
            "udp_reported_errors",
            "Errors of earlier datagrams that the kernel told of.",
            udp.reported_errors,
        ),
        (
            "udp_kernel_unread_packets",
            "Dropped by the kernel: a socket's receive buffer was full, or a checksum wrong.",
            report.kernel_drops,
        ),
    ] {
        to.counter(format!("wattle_host_{name}"), help, value);
    }
    for (reason, value) in [
        ("buffer_full", udp.drop_buffer_full),
        ("unreachable", udp.drop_unreachable),
        ("forbidden", udp.drop_forbidden),
        ("too_big", udp.drop_too_big),
        ("no_socket", udp.drop_no_socket),
        ("other", udp.drop_other),
        ("no_room", report.unkept),
    ] {
        to.add(
            "wattle_host_udp_unsent_packets".to_owned(),
            "Datagrams that the kernel would not send, by reason.",
            labelled([("reason", reason)]),
            Kind::Counter,
            value,
        );
    }
    for (reason, value) in [("truncated", udp.drop_truncated), ("empty", udp.drop_empty)] {
        to.add(
            "wattle_host_udp_unusable_packets".to_owned(),
            "Datagrams received and not looked at, by reason.",
            labelled([("reason", reason)]),
            Kind::Counter,
            value,
        );
    }
    for offload in OffloadName::ALL {
        to.add(
            "wattle_host_offload_in_use".to_owned(),
            "Whether an offload of the kernel is in use.",
            labelled([("offload", offload.name())]),
            Kind::Gauge,
            report.offloads.has(offload).into(),
        );
    }
}
