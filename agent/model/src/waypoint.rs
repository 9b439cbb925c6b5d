//! Stops on the way of a packet that goes around something.

use serde::{Deserialize, Serialize};

/// Most waypoints of a packet: what a relay frame has room for.
pub const MAX_WAYPOINTS: usize = 3;

/// Most detours that a packet begins; who would begin another one drops it. Where one thing failed the first leads around it.
/// Where much failed at once, backups that know nothing of each other would else hand a packet round until its hop limit.
pub const MAX_DETOURS: u8 = 3;

/// A node that packets are sent to before their destination.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Waypoint<N> {
    /// The node.
    pub node: N,
    /// Whether packets come to it over the link from the stop before it, dear as that may be, instead of by the shortest
    /// path (an adjacency segment, RFC 8402 §3.4).
    pub direct: bool,
}

impl<N> Waypoint<N> {
    /// One that is reached by the shortest path.
    pub const fn new(node: N) -> Self {
        Self {
            node,
            direct: false,
        }
    }

    /// One that is reached over the link that leads straight to it.
    pub const fn direct(node: N) -> Self {
        Self { node, direct: true }
    }

    /// The same stop by another name of its node.
    pub fn map<M>(self, name: impl FnOnce(N) -> M) -> Waypoint<M> {
        Waypoint {
            node: name(self.node),
            direct: self.direct,
        }
    }
}

/// The waypoints of a packet on `detour` to the first stop of `rest`. Where there is no room for all, the last ones are left
/// out, and the last one that is left is to find the way on.
pub fn before<'a, N: Copy + PartialEq>(
    detour: &'a [Waypoint<N>],
    rest: &'a [Waypoint<N>],
) -> impl Iterator<Item = Waypoint<N>> + 'a {
    let (first, then) = match (detour, rest) {
        ([], _) | (_, []) => (detour, rest),
        ([.., last], [to, after @ ..]) if last.node == to.node => (detour, after),
        _ => (&detour[..detour.len().min(MAX_WAYPOINTS - 1)], rest),
    };
    first.iter().chain(then).take(MAX_WAYPOINTS).copied()
}
