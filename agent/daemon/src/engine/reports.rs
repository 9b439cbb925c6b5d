//! What operators are told: the engine's state in the shapes of the local socket.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use wattle_control::{
    ChangeReport, CoordinatorReport, ErrorCode, ExplainReport, HealthLevel, HealthLine, LinkReport,
    LinksReport, NetworkRef, NextHopReport, NodeRef, PathReport, PathRole, PeerReport, PeerState,
    PeersReport, Reply, Request, RouteReport, RouteSource, RouteView, RoutesReport, StatusReport,
    TopoLink, TopoNode, TopoReport, VersionReport, WhoamiReport,
};
use wattle_dataplane::Path;
use wattle_model::{Class, Cost, LinkState, NodeId, Prefix};
use wattle_routing::Route;
use wattle_wire::grant::{Grant, Peer};
use wattle_wire::record::LinkEntry;
use wattle_worker::{LaneStatus, LinkStatus, SessionStatus};

use super::forwarding::{self, LeftOut};
use super::paths::{Map, agreed, all_claims, apart, control_parts, policy_report};
use super::{Destination, Engine};
use crate::health;
use crate::local_api::refusal;
use crate::query::Caller;
use crate::worker_handle::WorkerReport;

/// Versions are of the whole workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Below this a node's clock or grant wants attention: a week.
const GRANT_ENDS_SOON_MS: u64 = 7 * 24 * 3_600_000;

impl Engine {
    /// Answers a question that changes nothing.
    pub(super) fn report(
        &self,
        request: &Request,
        caller: Caller,
        worker: Option<&WorkerReport>,
    ) -> Reply {
        match request {
            Request::Status {} => Reply::Status(Box::new(self.status(worker))),
            Request::Peers {} => Reply::Peers(self.peers(worker)),
            Request::Links { name } => self.links(name.as_deref(), worker),
            Request::Routes {
                view: RouteView::Rib,
                class,
            } => Reply::Routes(self.decided_routes(*class)),
            Request::Routes {
                view: RouteView::Fib,
                class,
            } => Reply::Routes(self.forwarded_routes(*class)),
            Request::Topo {} => Reply::Topo(self.topo()),
            Request::Path { dst, class } => self.along(dst, *class, |map, to, changed| {
                let report = map.path(to)?;
                let left = self.left_relays(to.node, *class, worker);
                Some(Reply::Path(PathReport {
                    changed,
                    left,
                    ..report
                }))
            }),
            Request::Explain { dst, class } => self.along(dst, *class, |map, to, changed| {
                let report = map.explain(to, self.clock.now())?;
                Some(Reply::Explain(Box::new(ExplainReport {
                    changed,
                    ..report
                })))
            }),
            Request::Whoami {} => Reply::Whoami(self.whoami(caller)),
            Request::Version {} => Reply::Version(VersionReport {
                version: VERSION.to_owned(),
            }),
            Request::Routes {
                view: RouteView::Kernel,
                ..
            }
            | Request::Ping { .. }
            | Request::Events { .. }
            | Request::Leave {}
            | Request::Drain { .. }
            | Request::Undrain {}
            | Request::Prefer { .. }
            | Request::Metrics {} => failure(
                "not answered",
                "this request is answered elsewhere".to_owned(),
            ),
        }
    }

    // --- status ----------------------------------------------------------------------------------

    fn status(&self, worker: Option<&WorkerReport>) -> StatusReport {
        let own = self.membership().own_grant();
        let links = self.link_reports(worker);
        let up = links.iter().filter(|link| link.state == LinkState::Up);
        let total = self.membership().others().count();
        let waiting_for = self.waiting_for(&links);
        let config = &self.setting.config;
        StatusReport {
            node: self.membership().node_ref(self.membership().own()),
            network: self.network(),
            addresses: own.map(|grant| grant.addresses.clone()).unwrap_or_default(),
            prefixes: self
                .membership()
                .announceable(&config.prefixes)
                .0
                .into_iter()
                .collect(),
            version: VERSION.to_owned(),
            pid: std::process::id(),
            uptime_ms: self.clock.now().since(self.started).as_millis(),
            interface: config.interface.clone(),
            mtu_bytes: config.mtu,
            listen_port: self.setting.listen_port,
            offloads: worker
                .map(|worker| worker.offloads.names())
                .unwrap_or_default(),
            workers: count(self.worker.view().loads.len()),
            workers_active: count(self.worker.view().active.load(Ordering::Relaxed)),
            ready: own.is_some(),
            converged: own.is_some() && waiting_for.is_empty(),
            waiting_for,
            coordinator: self.coordinator_report(),
            peer_set_revision: self.membership().revision(),
            peers_total: count(total),
            peers_reachable: count(
                self.membership()
                    .others()
                    .filter(|p| self.reaches(p))
                    .count(),
            ),
            links_total: count(links.len()),
            links_up: count(up.clone().count()),
            routes_total: count(self.decided_routes(Class::Latency).routes.len()),
            worst_link: up
                .max_by_key(|link| link.cost.map(|cost| cost.total_us))
                .cloned(),
            health: self.health_lines(worker),
            drain: self.drain_report(),
            preferences: self.prefer_reports(),
            load_percent: self.operations.load,
            relayed_packets: worker.map_or(0, |worker| worker.worker.counters.relayed_packets),
        }
    }

    fn reaches(&self, peer: &Peer) -> bool {
        self.router.routes().routes.contains_key(&peer.node())
    }

    fn waiting_for(&self, links: &[LinkReport]) -> Vec<String> {
        let unreachable = self
            .membership()
            .others()
            .filter(|peer| !self.reaches(peer));
        let unreachable =
            unreachable.map(|peer| format!("{} is not reachable", peer.grant.grant().name));
        let settling = links.iter().filter(|link| link.state == LinkState::Probing);
        let settling = settling.map(|link| format!("the link to {} is settling", link.peer.name));
        unreachable.chain(settling).collect()
    }

    fn coordinator_report(&self) -> Option<CoordinatorReport> {
        let address = self.setting.network.coordinator.as_ref()?;
        let heard = self.coordinator.heard;
        Some(CoordinatorReport {
            url: format!(
                "https://{}",
                address.addresses.first().map_or("", String::as_str)
            ),
            state: self.coordinator.state,
            last_heard_ms: heard.map(|at| self.clock.now().since(at).as_millis()),
            last_error: self.coordinator.error.clone(),
        })
    }

    fn health_lines(&self, worker: Option<&WorkerReport>) -> Vec<HealthLine> {
        let line = |level, code: &str, text: String| HealthLine {
            level,
            code: code.into(),
            text,
        };
        let mut lines = self.troubles.clone();
        if self.membership().own_grant().is_none() {
            let text = "this node is no member of its network; join again with a fresh token";
            lines.push(line(HealthLevel::Error, "not_a_member", text.to_owned()));
        }
        for prefix in &self.refused_prefixes {
            let text = format!("{prefix} is configured but not granted, so it is not announced");
            lines.push(line(HealthLevel::Warning, "prefix_not_granted", text));
        }
        for peer in &self.unknown_neighbours {
            // Quoted, so that nothing in it reaches a terminal raw.
            let text = format!(
                "[[links]] in the configuration names {peer:?}, which is no node of the network; correct the name, or add the node"
            );
            lines.push(line(HealthLevel::Warning, "link_peer_unknown", text));
        }
        let names = |nodes: &BTreeSet<NodeId>| {
            let names = nodes.iter().map(|node| self.membership().node_ref(*node));
            names.map(|node| node.name).collect::<Vec<_>>().join(", ")
        };
        let topology = self.router.topology();
        for left_out in forwarding::left_out(self.membership(), topology, &self.on_link) {
            let LeftOut {
                prefix,
                origins,
                near,
                interface,
            } = left_out;
            let text = format!(
                "{prefix} of {} is not used, because it overlaps {near} on {interface}; give one of the two networks other addresses",
                names(&origins)
            );
            lines.push(line(HealthLevel::Warning, "prefix_on_link", text));
        }
        let announced = self
            .membership()
            .announceable(&self.setting.config.prefixes);
        for prefix in announced.0 {
            let Some(setting) = health::forwarding_that_is_off(&prefix) else {
                continue;
            };
            let text = format!(
                "{prefix} is announced, but the kernel forwards nothing to it; run `sysctl -w {setting}=1` and keep it in /etc/sysctl.d"
            );
            lines.push(line(HealthLevel::Warning, "forwarding_off", text));
        }
        if let Some(left) = self
            .grant_left_ms()
            .filter(|left| *left < GRANT_ENDS_SOON_MS)
        {
            let text = format!("the grant of this node ends in {} hours", left / 3_600_000);
            lines.push(line(HealthLevel::Warning, "grant_ends_soon", text));
        }
        if worker.is_none() {
            let text = "the data thread does not answer".to_owned();
            lines.push(line(HealthLevel::Error, "worker_silent", text));
        }
        let isolated = self.router.routes().routes.is_empty();
        if isolated && self.membership().others().next().is_some() {
            let text = "no other node is reachable; see `wattle links` and the UDP port";
            lines.push(line(HealthLevel::Warning, "isolated", text.to_owned()));
        }
        lines
    }

    fn grant_left_ms(&self) -> Option<u64> {
        let end = self.membership().own_grant()?.not_after;
        Some(end.0.saturating_sub(self.clock.wall().0))
    }

    // --- peers -----------------------------------------------------------------------------------

    fn peers(&self, worker: Option<&WorkerReport>) -> PeersReport {
        let sessions = worker.map(sessions_by_peer).unwrap_or_default();
        let map = self.map(Class::Latency);
        let own = self.membership().own();
        let others = self
            .membership()
            .members()
            .filter(|peer| peer.node() != own);
        let mut peers: Vec<PeerReport> = others
            .map(|peer| self.peer(peer.grant.grant(), &map, &sessions))
            .collect();
        peers.sort_by(|a, b| a.node.name.cmp(&b.node.name));
        PeersReport { peers }
    }

    fn peer(
        &self,
        grant: &Grant,
        map: &Map<'_>,
        sessions: &BTreeMap<NodeId, &SessionStatus>,
    ) -> PeerReport {
        // A leaf is reached as its host is.
        let via = grant.leaf_of().unwrap_or(grant.node);
        let route = self.router.routes().routes.get(&via);
        let session = sessions.get(&grant.node);
        let now = self.clock.now();
        let is_own_leaf = via == self.membership().own();
        let handshake = session.and_then(|session| session.handshake_at);
        let state = match route {
            _ if is_own_leaf && handshake.is_some() => PeerState::Direct,
            Some(route) if via == grant.node && is_direct(route, via) => PeerState::Direct,
            Some(_) => PeerState::Relayed,
            None => PeerState::Unreachable,
        };
        let quality = map.quality(via);
        let first = route.and_then(|route| route.next.first());
        PeerReport {
            node: self.membership().node_ref(grant.node),
            public_key: grant.wireguard,
            addresses: grant.addresses.clone(),
            prefixes: grant.prefixes.clone(),
            state,
            leaf_of: grant.leaf_of().map(|host| self.membership().node_ref(host)),
            next_hop: first.map(|next| self.membership().node_ref(next.neighbour)),
            hops: route.map(|route| route.hops + u32::from(via != grant.node)),
            cost_us: route.map(|route| route.cost.to_tell()),
            rtt_us: quality.map(|(rtt, _)| rtt),
            loss_ppm: quality.map(|(_, loss)| loss),
            relayed: state == PeerState::Relayed,
            rx_bytes: session.map_or(0, |session| session.rx_bytes),
            tx_bytes: session.map_or(0, |session| session.tx_bytes),
            handshake_age_ms: handshake.map(|at| now.since(at).as_millis()),
            fast_channel: session.and_then(|session| fast_channel(session)),
            mtu_bytes: session.map(|session| session.path_mtu),
        }
    }

    // --- links -----------------------------------------------------------------------------------

    fn links(&self, name: Option<&str>, worker: Option<&WorkerReport>) -> Reply {
        let mut links = self.link_reports(worker);
        if let Some(name) = name {
            let wanted = |link: &LinkReport| {
                link.peer.name == name
                    || link.peer.id.to_string() == name
                    || link.link.0.to_string() == name
            };
            links.retain(wanted);
            if links.is_empty() {
                return unknown(
                    "link",
                    name,
                    "no link leads to a neighbour of that name",
                    "wattle links",
                );
            }
        }
        Reply::Links(LinksReport { links })
    }

    fn link_reports(&self, worker: Option<&WorkerReport>) -> Vec<LinkReport> {
        let Some(worker) = worker else {
            return Vec::new();
        };
        let sessions = sessions_by_peer(worker);
        let mut links: Vec<LinkReport> = worker
            .worker
            .links
            .iter()
            .map(|link| LinkReport {
                lanes: lanes_beside(link, &worker.worker.lanes),
                ..self.link_report(link, sessions.get(&link.peer).copied())
            })
            .collect();
        links.sort_by(|a, b| (&a.peer.name, a.carrier).cmp(&(&b.peer.name, b.carrier)));
        links
    }

    fn link_report(&self, link: &LinkStatus, session: Option<&SessionStatus>) -> LinkReport {
        let handshake = session.and_then(|session| session.handshake_at);
        let routed = self.router.links().get(&link.link);
        let advertised = routed
            .map(wattle_routing::Link::advertised)
            .filter(|cost| cost.is_finite());
        let measured = link.measurement.rtt.0 > 0;
        let cost = routed
            .zip(advertised)
            .map(|(link, cost)| control_parts(link, Class::Latency, cost));
        LinkReport {
            link: link.link,
            peer: self.membership().node_ref(link.peer),
            carrier: link.carrier,
            endpoint: link.endpoint,
            state: link.state,
            rtt_us: measured.then_some(link.measurement.rtt.0),
            min_rtt_us: measured.then_some(link.measurement.min_rtt.0),
            jitter_us: measured.then_some(link.measurement.jitter.0),
            loss_ppm: measured.then_some(link.measurement.loss.0),
            mtu_bytes: session.map(|session| session.path_mtu),
            reason: cost.map(|cost| reason(&cost, link)).unwrap_or_default(),
            cost,
            policy: routed.and_then(|link| policy_report(link.policy(Class::Latency))),
            apart: routed.map(apart).unwrap_or_default(),
            handshake_age_ms: handshake.map(|at| self.clock.now().since(at).as_millis()),
            fast_channel: session.and_then(fast_channel),
            rx_bytes: link.rx_bytes,
            tx_bytes: link.tx_bytes,
            lanes: 0,
        }
    }

    // --- routes ----------------------------------------------------------------------------------

    /// What routing and the grants say.
    fn decided_routes(&self, class: Class) -> RoutesReport {
        let own = self.membership().own();
        let announced = self.router.routes().prefixes.iter();
        let announced = announced.map(|(prefix, node)| (*prefix, (*node, RouteSource::Announced)));
        let granted = self.membership().members().flat_map(|peer| {
            let grant = peer.grant.grant();
            let source = match (grant.node == own, grant.leaf_of()) {
                (true, _) => RouteSource::Local,
                (false, Some(_)) => RouteSource::Leaf,
                (false, None) => RouteSource::Address,
            };
            let addresses = grant.addresses.iter().map(|address| Prefix::host(*address));
            // A leaf announces nothing by itself: what it was granted is reachable while its host is.
            let of_leaf = grant.prefixes.iter().filter(|_| grant.leaf_of().is_some());
            let prefixes = addresses.chain(of_leaf.copied());
            prefixes.map(move |prefix| (prefix, (grant.node, source)))
        });
        let local = self
            .membership()
            .announceable(&self.setting.config.prefixes)
            .0;
        let local = local
            .into_iter()
            .map(|prefix| (prefix, (own, RouteSource::Local)));
        let all: BTreeMap<Prefix, (NodeId, RouteSource)> =
            announced.chain(granted).chain(local).collect();
        let routes = all
            .into_iter()
            .map(|(prefix, (node, source))| self.route(prefix, node, source, class));
        RoutesReport {
            routes: routes.collect(),
        }
    }

    fn route(
        &self,
        prefix: Prefix,
        node: NodeId,
        source: RouteSource,
        class: Class,
    ) -> RouteReport {
        let via = self
            .membership()
            .grant(node)
            .and_then(Grant::leaf_of)
            .unwrap_or(node);
        let route = self.router.routes_of(class).routes.get(&via);
        RouteReport {
            prefix,
            node: Some(self.membership().node_ref(node)),
            source,
            tier: route.map_or(0, |route| route.cost.tiers()),
            cost_us: route.map(|route| route.cost.to_tell()),
            next_hops: route.map(|route| self.next_hops(route)).unwrap_or_default(),
            device: None,
            table: None,
        }
    }

    fn next_hops(&self, route: &Route) -> Vec<NextHopReport> {
        let shares: u64 = route.next.iter().map(|next| u64::from(next.weight)).sum();
        let used = route.next.iter().map(|next| NextHopReport {
            via: self.membership().node_ref(next.neighbour),
            link: next.link,
            role: PathRole::Used,
            weight_ppm: (u64::from(next.weight) * 1_000_000 / shares.max(1)) as u32,
            cost_us: Some(route.cost.to_tell()),
        });
        let backup = route.backup.as_ref().map(|backup| NextHopReport {
            via: self.membership().node_ref(backup.neighbour),
            link: backup.link,
            role: PathRole::Backup,
            weight_ppm: 0,
            cost_us: None,
        });
        used.chain(backup).collect()
    }

    /// What the data thread was given, entry by entry; of where an entry comes from it knows nothing.
    fn forwarded_routes(&self, class: Class) -> RoutesReport {
        let decided = self.decided_routes(class).routes.into_iter();
        let sources: BTreeMap<_, _> = decided.map(|route| (route.prefix, route.source)).collect();
        let entries: BTreeMap<Prefix, NodeId> = self.forwarding.prefixes().collect();
        let routes = entries.into_iter().map(|(prefix, node)| {
            let source = sources.get(&prefix).copied();
            let path = self.forwarding.path(class, node);
            RouteReport {
                prefix,
                node: Some(self.membership().node_ref(node)),
                source: source.unwrap_or(RouteSource::Announced),
                tier: 0,
                cost_us: None,
                next_hops: path.map(|path| self.links_of(path)).unwrap_or_default(),
                device: None,
                table: None,
            }
        });
        RoutesReport {
            routes: routes.collect(),
        }
    }

    fn links_of(&self, path: &Path) -> Vec<NextHopReport> {
        let next = path.next_links();
        let shares: u64 = next.iter().map(|next| u64::from(next.weight)).sum();
        let hop = |link, role, weight: u64| {
            let neighbour = self.router.links().get(&link)?.neighbour;
            Some(NextHopReport {
                via: self.membership().node_ref(neighbour),
                link,
                role,
                weight_ppm: (weight * 1_000_000 / shares.max(1)) as u32,
                cost_us: None,
            })
        };
        let used = next
            .iter()
            .filter_map(|next| hop(next.link, PathRole::Used, next.weight.into()));
        let backup = path.backup();
        let backup = backup.and_then(|backup| hop(backup.link, PathRole::Backup, 0));
        used.chain(backup).collect()
    }

    // --- topology --------------------------------------------------------------------------------

    fn topo(&self) -> TopoReport {
        let own = self.membership().own();
        let topology = self.router.topology();
        let mut nodes: Vec<TopoNode> = self
            .membership()
            .members()
            .filter(|peer| peer.grant.grant().leaf_of().is_none())
            .map(|peer| {
                let grant = peer.grant.grant();
                let route = self.router.routes().routes.get(&grant.node);
                let announced = topology.prefixes.iter();
                let announced = announced.filter(|(_, origins)| origins.contains(&grant.node));
                TopoNode {
                    node: self.membership().node_ref(grant.node),
                    is_self: grant.node == own,
                    addresses: grant.addresses.clone(),
                    prefixes: announced.map(|(prefix, _)| *prefix).collect(),
                    site: grant.site.as_ref().map(ToString::to_string),
                    tags: grant.tags.iter().map(ToString::to_string).collect(),
                    reachable: grant.node == own || route.is_some(),
                    cost_us: if grant.node == own {
                        Some(0)
                    } else {
                        route.map(|r| r.cost.to_tell())
                    },
                }
            })
            .collect();
        nodes.sort_by(|a, b| a.node.name.cmp(&b.node.name));
        TopoReport {
            nodes,
            links: self.topo_links(),
        }
    }

    fn topo_links(&self) -> Vec<TopoLink> {
        let agreed = agreed(&self.router);
        let agreed_on = |from, link: &LinkEntry| {
            let of = (from, link.neighbour, link.carrier);
            agreed.get(&of).copied()
        };
        let mut links: Vec<TopoLink> = all_claims(&self.router)
            .into_iter()
            .map(|(from, link)| TopoLink {
                from: self.membership().node_ref(from),
                to: self.membership().node_ref(link.neighbour),
                carrier: link.carrier,
                tier: agreed_on(from, &link).map_or(0, Cost::tiers),
                cost_us: agreed_on(from, &link).map(Cost::to_tell),
                rtt_us: Some(link.rtt.0),
                jitter_us: Some(link.jitter.0),
                loss_ppm: Some(link.loss.0),
            })
            .collect();
        links.sort_by(|a, b| {
            (&a.from.name, &a.to.name, a.carrier).cmp(&(&b.from.name, &b.to.name, b.carrier))
        });
        links
    }

    // --- one destination -------------------------------------------------------------------------

    fn along(
        &self,
        dst: &str,
        class: Class,
        answer: impl FnOnce(&Map<'_>, Destination, Option<ChangeReport>) -> Option<Reply>,
    ) -> Reply {
        let Some(found) = self.membership().find(dst) else {
            let why = "no node has this name, id or address";
            return unknown("destination", dst, why, "wattle peers");
        };
        if found.node == self.membership().own() {
            return unknown("way", dst, "that is this node itself", "wattle whoami");
        }
        let leaf_of = self.membership().grant(found.node).and_then(Grant::leaf_of);
        let to = Destination {
            node: leaf_of.unwrap_or(found.node),
            ..found
        };
        let map = self.map(class);
        let changed = self.log.last_change(class, to.node);
        answer(&map, to, changed).unwrap_or_else(|| {
            let why = "no link-state record leads there at the moment";
            unknown("route to", dst, why, "wattle links")
        })
    }

    fn map(&self, class: Class) -> Map<'_> {
        Map::new(self.membership(), &self.router, class)
    }

    /// Relays that packets of a class to a node leave, because nothing comes through.
    fn left_relays(
        &self,
        node: NodeId,
        class: Class,
        worker: Option<&WorkerReport>,
    ) -> Vec<NodeRef> {
        let sessions = worker
            .into_iter()
            .flat_map(|report| &report.worker.sessions);
        let left = sessions
            .filter(|session| session.peer == node)
            .flat_map(|session| &session.left_relays);
        let of_class = left.filter(|(of, _)| *of == class);
        let nodes: BTreeSet<NodeId> = of_class.map(|(_, via)| *via).collect();
        nodes
            .into_iter()
            .map(|via| self.membership().node_ref(via))
            .collect()
    }

    fn whoami(&self, caller: Caller) -> WhoamiReport {
        let own = self.membership().own_grant();
        WhoamiReport {
            node: self.membership().node_ref(self.membership().own()),
            network: self.network(),
            addresses: own.map(|grant| grant.addresses.clone()).unwrap_or_default(),
            identity_key: self.setting.keys.identity_public().to_string(),
            public_key: self.setting.keys.wireguard_public(),
            grant_not_after_unix_ms: own
                .map(|grant| grant.not_after.0)
                .filter(|end| *end != u64::MAX),
            caller_uid: caller.uid,
            caller_role: caller.role,
        }
    }

    fn network(&self) -> NetworkRef {
        let network = &self.setting.network;
        NetworkRef {
            id: network.network,
            name: network.name.clone(),
        }
    }
}

/// What weighs most in a price, in words.
fn reason(cost: &wattle_control::CostParts, link: &LinkStatus) -> String {
    let loss = f64::from(link.measurement.loss.0) / 10_000.0;
    let parts = [
        (cost.loss_us, format!("loss {loss:.1} %")),
        (cost.rtt_us, "rtt".to_owned()),
        (cost.jitter_us, "jitter".to_owned()),
        (cost.carrier_us, "carrier".to_owned()),
        (cost.policy_us, "policy".to_owned()),
        (
            cost.held_us,
            "held until it has been better for long enough".to_owned(),
        ),
        (cost.base_us, "hop".to_owned()),
    ];
    parts
        .into_iter()
        .max_by_key(|(part, _)| *part)
        .map(|(_, words)| words)
        .unwrap_or_default()
}

fn is_direct(route: &Route, node: NodeId) -> bool {
    route.next.iter().all(|next| next.neighbour == node)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

pub(super) fn unknown(kind: &str, word: &str, why: &str, next: &str) -> Reply {
    // What a client said comes back quoted, so that nothing in it reaches a terminal raw.
    let what = format!("no {kind} {word:?}");
    Reply::Error(refusal(ErrorCode::NotFound, &what, why.to_owned(), next))
}

/// An order that did not work out.
pub(super) fn failure(what: &str, why: String) -> Reply {
    Reply::Error(refusal(
        ErrorCode::Failure,
        what,
        why,
        "journalctl -u wattled",
    ))
}

/// How many lanes carry packets to the host at the other end of a link.
fn lanes_beside(link: &LinkStatus, lanes: &[LaneStatus]) -> u32 {
    let host = link.endpoint.map(|endpoint| endpoint.ip());
    let beside = lanes
        .iter()
        .filter(|lane| lane.is_open && lane.peer == link.peer && Some(lane.endpoint.ip()) == host);
    count(beside.count())
}

fn sessions_by_peer(report: &WorkerReport) -> BTreeMap<NodeId, &SessionStatus> {
    let sessions = report.worker.sessions.iter();
    sessions.map(|session| (session.peer, session)).collect()
}

/// The cipher of a session's fast channel, as users see it.
fn fast_channel(session: &SessionStatus) -> Option<String> {
    session.suite.map(|suite| suite.name().to_owned())
}
