//! What operators ask of this node for a while (no transit, a neighbour to be preferred), and what it asks of itself: no
//! transit until it knows the network, and none when it is about to stop.

use std::collections::BTreeMap;

use wattle_control::{DrainMode, DrainReport, PreferReport, Reply};
use wattle_model::{Instant, Micros, NodeId};
use wattle_routing::{Health, Input, Preference};
use wattle_worker::Command;

use super::event_log::Happening;
use super::{Engine, Stopping, reports};

/// What a soft drain adds to the price of transit: more than any detour costs, less than no way at all.
const SOFT_BIAS: Micros = Micros::from_secs(10);
/// A node gives transit this long after it started at the latest, …
const SYNC_MOST: Micros = Micros::from_secs(10);
/// … and earlier when for so long nothing came that it did not know.
const SYNC_QUIET: Micros = Micros::from_millis(300);
/// How long others have to find their ways around a node that stops.
const STOP_AFTER: Micros = Micros::from_millis(300);
/// How long until the next look while something is under way.
const LOOK: Micros = Micros::from_millis(50);

/// Orders that hold for a while, and the beginning and the end of the process.
#[derive(Debug)]
pub(super) struct Operations {
    /// Whether the configuration lets packets of others through (`transit`).
    relays: bool,
    drain: Option<(DrainMode, Option<Instant>)>,
    prefers: BTreeMap<Option<NodeId>, (NodeId, Option<Instant>)>,
    /// While this node does not know the network yet: when it learnt something last, and what it had accepted then.
    syncing: Option<(Instant, u64)>,
    stop_at: Option<Instant>,
    /// The worst of CPU, queues and memory pressure, in percent.
    pub(super) load: u8,
}

impl Operations {
    /// A node that has just started.
    pub(super) fn new(now: Instant, relays: bool) -> Self {
        Self {
            relays,
            drain: None,
            prefers: BTreeMap::new(),
            syncing: Some((now, 0)),
            stop_at: None,
            load: 0,
        }
    }

    /// What others are told of this node.
    pub(super) fn health(&self) -> Health {
        let mode = self.drain.map(|(mode, _)| mode);
        Health {
            load: self.load,
            bias: match mode {
                Some(DrainMode::Soft) => SOFT_BIAS,
                Some(DrainMode::Hard) | None => Micros(0),
            },
            drained: !self.relays
                || mode == Some(DrainMode::Hard)
                || self.syncing.is_some()
                || self.stop_at.is_some(),
        }
    }

    /// When there is something to look at.
    pub(super) fn poll_timeout(&self, now: Instant) -> Instant {
        if self.syncing.is_some() {
            return now + LOOK;
        }
        let drain = self.drain.and_then(|(_, until)| until);
        let prefers = self.prefers.values().filter_map(|(_, until)| *until);
        let all = drain.into_iter().chain(prefers).chain(self.stop_at);
        all.min().unwrap_or(Instant::NEVER)
    }
}

impl Engine {
    /// Ends what has lasted long enough, and tells routing what holds.
    pub(super) fn operate(&mut self) {
        let now = self.clock.now();
        let is_over = |until: Option<Instant>| until.is_some_and(|until| until <= now);
        if self
            .operations
            .drain
            .is_some_and(|(_, until)| is_over(until))
        {
            self.operations.drain = None;
            self.happened(Happening::new("undrained", "the drain has ended".into()));
        }
        let before = self.operations.prefers.len();
        self.operations
            .prefers
            .retain(|_, (_, until)| !is_over(*until));
        if self.operations.prefers.len() != before {
            self.tell_preferences();
        }
        self.learn(now);
        if is_over(self.operations.stop_at) && self.stopping == Stopping::GoesOn {
            self.stopping = Stopping::Stops;
        }
        let health = self.operations.health();
        if health != self.router.health() {
            self.router.handle(Input::Health(health), now);
        }
    }

    /// Whether this node knows the network by now.
    fn learn(&mut self, now: Instant) {
        let Some((since, known)) = self.operations.syncing else {
            return;
        };
        let accepted = self.router.counters().accepted;
        if accepted != known || accepted == 0 {
            self.operations.syncing = Some((now, accepted));
        } else if now.since(since) >= SYNC_QUIET || self.router.is_in_sync() {
            self.operations.syncing = None;
        }
        if now.since(self.started) >= SYNC_MOST {
            self.operations.syncing = None;
        }
    }

    /// Lets others go around this node before it stops; told again, it stops at once.
    pub(super) fn begin_to_stop(&mut self) {
        let neighbours = self.router.links().values();
        let up = neighbours.filter(|link| link.state.is_usable());
        let mut neighbours: Vec<NodeId> = up.map(|link| link.neighbour).collect();
        neighbours.sort_unstable();
        neighbours.dedup();
        if self.operations.stop_at.is_some() || neighbours.len() < 2 {
            self.stopping = Stopping::Stops;
            return;
        }
        self.operations.stop_at = Some(self.clock.now() + STOP_AFTER);
    }

    /// Tells the neighbours that their links to this node end, and that this is no failure.
    pub(super) fn say_bye(&self) {
        self.worker.order(Command::Bye);
    }

    /// No transit, or only where there is no other way.
    pub(super) fn drain(&mut self, mode: DrainMode, for_s: Option<u64>) -> Reply {
        self.operations.drain = Some((mode, self.until(for_s)));
        let text = match mode {
            DrainMode::Soft => "drained: others go around this node where they can",
            DrainMode::Hard => "drained: others go around this node, or nowhere",
        };
        self.happened(Happening::new("drained", text.to_owned()));
        Reply::Done
    }

    /// Transit as usual.
    pub(super) fn undrain(&mut self) -> Reply {
        if self.operations.drain.take().is_some() {
            self.happened(Happening::new("undrained", "transit as usual".into()));
        }
        Reply::Done
    }

    /// Packets to a destination, or all, go over a neighbour as long as that is nearer to it.
    pub(super) fn prefer(
        &mut self,
        via: Option<&str>,
        dst: Option<&str>,
        for_s: Option<u64>,
    ) -> Reply {
        let node = |name: &str| self.membership().find(name).map(|found| found.node);
        let destination = match dst.map(|dst| node(dst).ok_or(dst)) {
            None => None,
            Some(Ok(node)) => Some(node),
            Some(Err(dst)) => return nobody(dst),
        };
        let Some(via) = via else {
            self.operations.prefers.remove(&destination);
            self.tell_preferences();
            return Reply::Done;
        };
        let Some(neighbour) = node(via) else {
            return nobody(via);
        };
        if !self
            .router
            .links()
            .values()
            .any(|link| link.neighbour == neighbour)
        {
            let why = format!("{via} is no neighbour of this node");
            return reports::failure("nothing is preferred", why);
        }
        let until = self.until(for_s);
        self.operations
            .prefers
            .insert(destination, (neighbour, until));
        self.tell_preferences();
        Reply::Done
    }

    /// The drain that holds.
    pub(super) fn drain_report(&self) -> Option<DrainReport> {
        let (mode, until) = self.operations.drain?;
        Some(DrainReport {
            mode,
            left_s: until.map(|until| self.left_s(until)),
        })
    }

    /// The preferences that hold.
    pub(super) fn prefer_reports(&self) -> Vec<PreferReport> {
        let prefers = self.operations.prefers.iter();
        let reports = prefers.map(|(destination, (via, until))| PreferReport {
            via: self.membership().node_ref(*via),
            destination: destination.map(|node| self.membership().node_ref(node)),
            left_s: until.map(|until| self.left_s(until)),
        });
        reports.collect()
    }

    fn tell_preferences(&mut self) {
        let prefers = self.operations.prefers.iter();
        let preferences = prefers.map(|(destination, (via, _))| Preference {
            destination: *destination,
            via: *via,
        });
        let input = Input::Preferences(preferences.collect());
        self.router.handle(input, self.clock.now());
    }

    fn until(&self, for_s: Option<u64>) -> Option<Instant> {
        let now = self.clock.now();
        for_s.map(|seconds| now + Micros::from_secs(seconds.min(u64::from(u32::MAX))))
    }

    fn left_s(&self, until: Instant) -> u64 {
        until.since(self.clock.now()).as_millis().div_ceil(1_000)
    }
}

fn nobody(name: &str) -> Reply {
    let why = "no node has this name, id or address";
    reports::unknown("node", name, why, "wattle peers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_gives_no_transit_before_it_knows_the_network_nor_while_it_stops_or_is_drained() {
        let mut operations = Operations::new(Instant(1), true);
        assert!(operations.health().drained);
        operations.syncing = None;
        assert_eq!(operations.health(), Health::default());
        operations.drain = Some((DrainMode::Soft, None));
        assert!(!operations.health().drained && operations.health().bias == SOFT_BIAS);
        operations.drain = Some((DrainMode::Hard, Some(Instant(7))));
        assert!(operations.health().drained && operations.health().bias == Micros(0));
        assert_eq!(operations.poll_timeout(Instant(1)), Instant(7));
        operations.drain = None;
        operations.stop_at = Some(Instant(3));
        assert!(operations.health().drained);
        assert_eq!(operations.poll_timeout(Instant(1)), Instant(3));
        let mut refuses = Operations::new(Instant(1), false);
        refuses.syncing = None;
        assert!(refuses.health().drained);
    }
}
