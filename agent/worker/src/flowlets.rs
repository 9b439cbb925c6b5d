//! Flows that stay with the next hop they used when shares change, until they pause (`docs/protocol/routing.md §2`).
//!
//! A flow that jumps to a faster way amid packets overtakes itself; after a pause (it ends a *flowlet*) it does not. Flows are
//! remembered only while some may linger: from the first packet after a change on. Knows nothing of links' states: whoever finds
//! that a flow cannot stay has it [settle](Flowlets::settle).

use std::collections::BTreeMap;
use std::sync::Arc;

use wattle_dataplane::{Forwarding, Path};
use wattle_model::{Class, Instant, LinkId, Micros, NodeId};

/// A flow that sent nothing for so long may move: ways that share flows differ by a tenth of it at most.
const GAP: Micros = Micros::from_millis(50);
/// Flows that do not pause move after this.
const LONGEST: Micros = Micros::from_secs(5);
/// Flows that may linger at once, 48 bytes each; the others move.
const MAX_FLOWS: usize = 4_096;

/// What packets have in common that must not overtake each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flow {
    /// By which paths they go.
    pub(crate) class: Class,
    /// Where they go: the destination, or a waypoint.
    pub(crate) target: NodeId,
    /// The flow's hash, as every node on the way knows it.
    pub(crate) hash: u32,
    /// The hash by which this node shares.
    pub(crate) share: u32,
}

/// The flows that may linger.
#[derive(Debug, Default)]
pub(crate) struct Flowlets {
    /// The snapshot that was in use before the change, or before the first of several in a row.
    before: Arc<Forwarding>,
    changed_at: Instant,
    /// Until when a flow of which nothing is known may have been amid packets when the change came.
    unknown_until: Instant,
    /// When no flow has to be told from others any more.
    until: Instant,
    flows: BTreeMap<Flow, Known>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    seen_at: Instant,
    /// The neighbour that its last packet went to.
    via: NodeId,
    /// When it has to go where its share is, if it does not.
    lingers_until: Option<Instant>,
}

impl Known {
    fn lingers(&self, now: Instant) -> bool {
        self.lingers_until.is_some_and(|until| now < until)
    }
}

impl Flowlets {
    /// Whether any flow may linger.
    pub(crate) fn may_linger(&self, now: Instant) -> bool {
        now < self.until
    }

    /// Another snapshot is in use in place of `before`.
    pub(crate) fn changed(&mut self, now: Instant, before: Arc<Forwarding>) {
        // What sent nothing between two changes in a row is where it was before the first.
        if self.unknown_until <= now {
            self.before = before;
            // The others are where their share was.
            self.flows.retain(|_, known| known.lingers(now));
        }
        self.changed_at = now;
        self.unknown_until = now + GAP;
        self.until = self.until.max(self.unknown_until);
    }

    /// A packet of a flow goes by `path`: the link on which the flow stays, if that is not the one of its share. `via` names the
    /// neighbour at the other end of a link.
    pub(crate) fn link(
        &mut self,
        now: Instant,
        flow: Flow,
        path: &Path,
        via: impl Fn(LinkId) -> Option<NodeId>,
    ) -> Option<LinkId> {
        let owner = via(path.pick(flow.share)?)?;
        let link_to = |neighbour: NodeId| {
            let mut next = path.next_links().iter().map(|next| next.link);
            next.find(|link| neighbour != owner && via(*link) == Some(neighbour))
        };
        let longest_until = self.changed_at + LONGEST;
        if let Some(known) = self.flows.get_mut(&flow) {
            let is_amid = now.since(known.seen_at) < GAP;
            let is_over = known.lingers_until.is_some_and(|until| until <= now);
            let stays = link_to(known.via).filter(|_| is_amid && !is_over);
            known.seen_at = now;
            if stays.is_some() {
                let until = *known.lingers_until.get_or_insert(longest_until);
                self.until = self.until.max(until);
            } else {
                known.via = owner;
                known.lingers_until = None;
            }
            return stays;
        }
        if now >= self.unknown_until || self.flows.len() == MAX_FLOWS {
            return None;
        }
        let before = self.before.path(flow.class, flow.target)?;
        let via = via(before.pick(flow.share)?)?;
        let link = link_to(via);
        // One that cannot stay is remembered too: it must not come back with the next change.
        let known = Known {
            seen_at: now,
            via: if link.is_some() { via } else { owner },
            lingers_until: link.map(|_| longest_until),
        };
        self.flows.insert(flow, known);
        if link.is_some() {
            self.until = self.until.max(longest_until);
        }
        link
    }

    /// A flow goes where its share is from here on.
    pub(crate) fn settle(&mut self, now: Instant, flow: &Flow) {
        if let Some(known) = self.flows.get_mut(flow) {
            known.lingers_until = Some(now);
        }
    }

    /// Forgets flows that paused, and with the last of them everything.
    pub(crate) fn tidy(&mut self, now: Instant) {
        if now < self.unknown_until {
            return;
        }
        self.flows
            .retain(|_, known| now.since(known.seen_at) < GAP && known.lingers(now));
        if self.flows.is_empty() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use wattle_dataplane::NextLink;

    use super::*;

    const START: Instant = Instant(1_000_000_000);
    const TARGET: NodeId = NodeId(1);

    fn at(millis: u64) -> Instant {
        START + Micros::from_millis(millis)
    }

    /// A snapshot whose first links have all flows below the bucket named beside each.
    fn snapshot(links: &[(u32, u16)]) -> Arc<Forwarding> {
        let next = links.iter().map(|(link, weight)| NextLink {
            link: LinkId(*link),
            weight: *weight,
        });
        let path = Path::new(next.collect(), None, 2);
        Arc::new(Forwarding::new([], [(TARGET, path)]))
    }

    fn flow(share: u32) -> Flow {
        let hash = !share;
        Flow {
            class: Class::Latency,
            target: TARGET,
            hash,
            share,
        }
    }

    /// Links are numbered by their neighbours, and by a hundred more for a second link.
    fn via(link: LinkId) -> Option<NodeId> {
        Some(NodeId(u64::from(link.0 % 100)))
    }

    /// The snapshots that come in use, when, and when a flow of the first bucket sends; where it stays each time.
    fn story(snapshots: &[(u64, &[(u32, u16)])], sends: &[u64]) -> Vec<Option<u32>> {
        let mut flowlets = Flowlets::default();
        let mut changes = snapshots.iter().peekable();
        let mut current = Arc::default();
        let send = |millis: &u64| {
            while let Some((when, links)) = changes.next_if(|(when, _)| when <= millis) {
                let before = std::mem::replace(&mut current, snapshot(links));
                flowlets.changed(at(*when), before);
            }
            let now = at(*millis);
            if !flowlets.may_linger(now) {
                return None;
            }
            let link = flowlets.link(now, flow(0), current.path(Class::Latency, TARGET)?, via)?;
            Some(link.0)
        };
        sends.iter().map(send).collect()
    }

    const ONE: &[(u32, u16)] = &[(1, 1)];
    /// The flow's share is on 2, …
    const BOTH: &[(u32, u16)] = &[(2, 1), (1, 1)];
    /// … on 3.
    const THREE: &[(u32, u16)] = &[(3, 1), (2, 1), (1, 1)];
    const OTHER: &[(u32, u16)] = &[(2, 1), (3, 1)];

    #[test]
    fn a_flow_amid_packets_stays_until_it_pauses() {
        let change = [(0, ONE), (1_000, BOTH)];
        for (sends, stays) in [
            (&[1_001, 1_050, 1_099, 1_148][..], &[Some(1); 4][..]),
            // A pause ends it, and it does not come back.
            (&[1_001, 1_051, 1_060], &[Some(1), None, None]),
            // It was not amid packets when the change came, whatever it sent before.
            (&[900, 1_050, 1_060], &[None; 3]),
        ] {
            assert_eq!(story(&change, sends), stays, "{sends:?}");
        }
    }

    #[test]
    fn a_flow_without_a_pause_moves_after_five_seconds() {
        let sends: Vec<u64> = (1_000..7_000).step_by(10).collect();
        let stays = story(&[(0, ONE), (1_000, BOTH)], &sends);
        let moved_at = stays.iter().position(Option::is_none);
        assert_eq!(moved_at.map(|at| sends[at]), Some(6_000));
        assert!(stays[500..].iter().all(Option::is_none));
    }

    #[test]
    fn a_flow_stays_only_on_links_that_are_still_next() {
        for (what, changes, stays) in [
            (
                "all goes another way",
                &[(0, ONE), (1_000, OTHER)][..],
                &[None; 5][..],
            ),
            (
                "its link is next no longer, and again",
                &[(0, ONE), (1_000, BOTH), (1_015, OTHER), (1_025, BOTH)],
                &[Some(1), Some(1), None, None, None],
            ),
            (
                "its share comes back",
                &[(0, ONE), (1_000, BOTH), (1_015, ONE), (1_500, BOTH)],
                &[Some(1), Some(1), None, None, None],
            ),
            (
                "its share moves on: it stays where it is",
                &[(0, ONE), (1_000, BOTH), (1_015, THREE)],
                &[Some(1); 5],
            ),
            (
                "changes in a row between two packets",
                &[(0, ONE), (1_000, BOTH), (1_001, THREE)],
                &[Some(1); 5],
            ),
            (
                "it had to move before its link was next again",
                &[(0, ONE), (1_000, OTHER), (1_015, BOTH)],
                &[None; 5],
            ),
            (
                "it had to move, and its share moves on: it stays where it went",
                &[(0, ONE), (1_000, &[(2, 1)]), (1_015, &[(3, 1), (2, 1)])],
                &[None, None, Some(2), Some(2), Some(2)],
            ),
            ("nothing moves", &[(0, BOTH), (1_000, BOTH)], &[None; 5]),
            (
                "another link to its neighbour takes over",
                &[(0, ONE), (1_000, BOTH), (1_015, &[(2, 1), (101, 1)])],
                &[Some(1), Some(1), Some(101), Some(101), Some(101)],
            ),
        ] {
            let sends = [1_002, 1_010, 1_020, 1_030, 1_040];
            assert_eq!(story(changes, &sends), stays, "{what}");
        }
    }

    #[test]
    fn a_flow_that_settled_is_moved_by_a_later_change_only_as_any_other() {
        let changes = [(0, ONE), (1_000, BOTH), (1_500, THREE)];
        let sends = [1_001, 1_100, 1_130, 1_470, 1_501, 1_540, 1_600];
        let stays = [Some(1), None, None, None, Some(2), Some(2), None];
        assert_eq!(story(&changes, &sends), stays);
    }

    #[test]
    fn many_changes_in_a_row_hold_no_flow_longer_than_five_seconds() {
        let ways = [BOTH, THREE];
        let mut changes = vec![(0, ONE)];
        changes.extend((0..300).map(|n| (1_000 + n * 40, ways[n as usize % 2])));
        let sends: Vec<u64> = (1_000..7_000).step_by(10).collect();
        let stays = story(&changes, &sends);
        let on_one = stays.iter().filter(|link| **link == Some(1)).count();
        assert_eq!(on_one, 500);
        assert!(stays[..500].iter().all(|link| *link == Some(1)));
    }

    #[test]
    fn no_more_flows_linger_than_there_is_room_for_and_all_are_forgotten() {
        let mut flowlets = Flowlets::default();
        flowlets.changed(START, snapshot(ONE));
        let current = snapshot(BOTH);
        let path = current.path(Class::Latency, TARGET).unwrap();
        let shares = (0..2 * MAX_FLOWS as u32).map(|number| number * 256);
        let linger = shares.filter(|share| flowlets.link(at(1), flow(*share), path, via).is_some());
        assert_eq!(linger.count(), MAX_FLOWS);
        flowlets.tidy(at(30));
        assert!(flowlets.may_linger(at(30)) && flowlets.flows.len() == MAX_FLOWS);
        flowlets.tidy(at(60));
        assert!(!flowlets.may_linger(at(60)) && flowlets.flows.is_empty());
    }

    #[test]
    fn a_flow_that_has_to_leave_a_link_does_not_come_back() {
        let mut flowlets = Flowlets::default();
        flowlets.changed(START, snapshot(ONE));
        let current = snapshot(BOTH);
        let path = current.path(Class::Latency, TARGET).unwrap();
        assert_eq!(flowlets.link(at(1), flow(0), path, via), Some(LinkId(1)));
        flowlets.settle(at(1), &flow(0));
        assert_eq!(flowlets.link(at(2), flow(0), path, via), None);
    }
}
