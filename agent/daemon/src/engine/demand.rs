//! Direct links on demand: two nodes of a large network that have much to say to each other become neighbours for as long
//! as they do (`docs/protocol/routing.md` §6).
//!
//! Pure. Both ends see the same bytes and come to the same decision without a word. Knows nothing of who may be whose
//! neighbour: that is the membership's business.

use std::collections::{BTreeMap, BTreeSet};

use wattle_model::{Instant, Micros, NodeId};

/// Bytes per second, both directions together, that make a conversation worth a link: a call, a terminal in use.
const MUCH: u64 = 10_000;
/// … for so long.
const LASTING: Micros = Micros::from_secs(3);
/// Bytes per second that do not keep a link: probes make a tenth of it.
const LITTLE: u64 = 2_000;
/// How long a link that carries little is kept.
const KEPT: Micros = Micros::from_secs(300);
/// A link that did not come up within this is not tried …
const PATIENCE: Micros = Micros::from_secs(30);
/// … again before this.
const PAUSE: Micros = Micros::from_secs(600);
/// Links on demand at a time.
const MOST: usize = 16;

/// What was carried for one peer up to a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Carried {
    /// The peer.
    pub(crate) peer: NodeId,
    /// Bytes sent to it and received from it, over relays as well as directly.
    pub(crate) bytes: u64,
    /// Bytes that its links carried, for others, too.
    pub(crate) link_bytes: u64,
    /// Whether one of its links is up.
    pub(crate) is_linked: bool,
}

/// Who is to be a neighbour on demand.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    peers: BTreeMap<NodeId, Talk>,
    last_look: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Talk {
    bytes: u64,
    link_bytes: u64,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing is wanted.
    Quiet,
    /// There is much to carry since then.
    Busy { since: Instant },
    /// A link is wanted since then and has not come up.
    Trying { since: Instant },
    /// There is a link, which carried more than a little last then.
    Linked { used_at: Instant },
    /// It did not come up.
    Given { until: Instant },
}

impl Demand {
    /// Looks at what was carried since the last look; `may_link` says who may become a neighbour and is none by itself.
    /// Returns who is to be one from here on, if that changed.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        carried: impl IntoIterator<Item = Carried>,
        may_link: impl Fn(NodeId) -> bool,
    ) -> Option<BTreeSet<NodeId>> {
        let before = self.wanted();
        let span = self.last_look.map(|last| now.since(last));
        self.last_look = Some(now);
        let mut known = std::mem::take(&mut self.peers);
        for one in carried.into_iter().filter(|one| may_link(one.peer)) {
            let stage = known.remove(&one.peer).map_or(Stage::Quiet, |talk| {
                let rate = |bytes: u64, before: u64| {
                    bytes.saturating_sub(before) * 1_000_000 / span.map_or(1, |span| span.0.max(1))
                };
                let own = rate(one.bytes, talk.bytes);
                let all = own.max(rate(one.link_bytes, talk.link_bytes));
                talk.stage.after(now, own, all, one.is_linked)
            });
            let talk = Talk {
                bytes: one.bytes,
                link_bytes: one.link_bytes,
                stage,
            };
            self.peers.insert(one.peer, talk);
        }
        self.begin(now);
        let wanted = self.wanted();
        (wanted != before).then_some(wanted)
    }

    /// Tries those who have had much to carry for long enough, as far as there is room.
    fn begin(&mut self, now: Instant) {
        let mut room = MOST.saturating_sub(self.wanted().len());
        for talk in self.peers.values_mut() {
            let is_due = matches!(talk.stage, Stage::Busy { since } if now >= since + LASTING);
            if is_due && room > 0 {
                talk.stage = Stage::Trying { since: now };
                room -= 1;
            }
        }
    }

    fn wanted(&self) -> BTreeSet<NodeId> {
        let all = self.peers.iter();
        all.filter(|(_, talk)| talk.stage.wants_link())
            .map(|(peer, _)| *peer)
            .collect()
    }
}

impl Stage {
    const fn wants_link(self) -> bool {
        matches!(self, Self::Trying { .. } | Self::Linked { .. })
    }

    /// The next stage after a look: `own` bytes a second to and from the peer, `all` with what its links carry for others.
    fn after(self, now: Instant, own: u64, all: u64, is_linked: bool) -> Self {
        match self {
            Self::Given { until } if now < until => self,
            Self::Quiet | Self::Given { .. } if own >= MUCH => Self::Busy { since: now },
            Self::Quiet | Self::Given { .. } => Self::Quiet,
            Self::Busy { .. } if own < MUCH => Self::Quiet,
            Self::Busy { .. } => self,
            Self::Trying { .. } if is_linked => Self::Linked { used_at: now },
            Self::Trying { since } if now >= since + PATIENCE => Self::Given { until: now + PAUSE },
            Self::Trying { .. } => self,
            Self::Linked { .. } if all >= LITTLE => Self::Linked { used_at: now },
            Self::Linked { used_at } if now >= used_at + KEPT => Self::Quiet,
            Self::Linked { .. } => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant(1_000_000_000);

    /// Input: for each second bytes of the peer, bytes that its links carry for others, whether it has one.
    /// Output: the seconds in which it became a neighbour on demand or ceased to be one.
    fn story(seconds: impl IntoIterator<Item = (u64, u64, bool)>) -> Vec<(u64, bool)> {
        let mut demand = Demand::default();
        let (mut bytes, mut link_bytes) = (0, 0);
        let mut told = Vec::new();
        for (second, (own, others, is_linked)) in (0..).zip(seconds) {
            (bytes, link_bytes) = (bytes + own, link_bytes + others);
            let carried = Carried {
                peer: NodeId(7),
                bytes,
                link_bytes,
                is_linked,
            };
            let now = START + Micros::from_secs(second);
            if let Some(wanted) = demand.look(now, [carried], |_| true) {
                told.push((second, wanted.contains(&NodeId(7))));
            }
        }
        told
    }

    fn seconds(count: usize, one: (u64, u64, bool)) -> impl Iterator<Item = (u64, u64, bool)> {
        std::iter::repeat_n(one, count)
    }

    #[test]
    fn a_conversation_of_some_seconds_gets_a_link_that_stays_until_minutes_after_it() {
        let told = story(
            seconds(6, (20_000, 0, false))
                .chain(seconds(10, (20_000, 0, true)))
                .chain(seconds(400, (0, 200, true))),
        );
        assert_eq!(told, [(4, true), (15 + 300, false)]);
    }

    #[test]
    fn a_burst_gets_none() {
        let bursts = (0..100).map(|second| (if second % 3 == 0 { 0 } else { 50_000 }, 0, false));
        assert_eq!(story(bursts), []);
    }

    #[test]
    fn a_link_that_others_use_stays() {
        let told = story(
            seconds(6, (20_000, 0, false))
                .chain(seconds(2, (20_000, 0, true)))
                .chain(seconds(1_000, (0, 5_000, true))),
        );
        assert_eq!(told, [(4, true)]);
    }

    #[test]
    fn where_none_comes_up_it_is_tried_again_much_later() {
        let told = story(seconds(1_000, (20_000, 0, false)));
        assert_eq!(told, [(4, true), (34, false), (637, true), (667, false)]);
    }

    #[test]
    fn there_are_not_many_at_a_time_and_none_where_none_may_be() {
        let mut demand = Demand::default();
        let mut most = 0;
        for second in 0..10 {
            let carried = (0..50).map(|peer| Carried {
                peer: NodeId(peer),
                bytes: second * 20_000,
                link_bytes: 0,
                is_linked: false,
            });
            let now = START + Micros::from_secs(second);
            if let Some(wanted) = demand.look(now, carried, |peer| peer.0 != 3) {
                assert!(!wanted.contains(&NodeId(3)));
                most = most.max(wanted.len());
            }
        }
        assert_eq!(most, MOST);
    }
}
