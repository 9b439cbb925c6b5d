//! Where a packet goes on: the order in which the links towards a node are tried, and what forbids one of them
//! (`docs/protocol/relay-frame.md` §2 and §4, `docs/protocol/routing.md` §3).
//!
//! The rule of whoever sends packets, and of whoever foretells where they will go. Knows no tables and no links: callers say
//! which there are and which of them can be used. `L` names links, `N` the neighbours at their other ends, `W` nodes in waypoints.

use wattle_model::{LinkState, MAX_DETOURS, Waypoint};

use crate::drop::DropReason;

/// The states in which a link takes packets: a suspect one only where none that is up does.
pub const USABLE: [LinkState; 2] = [LinkState::Up, LinkState::Suspect];

/// Why a packet goes over a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Its flow does, or it was told to.
    First,
    /// That one is not up; another one of the path, or a link straight there, is.
    Other,
    /// None of the path's takes the packet: a detour begins.
    Backup,
}

impl Choice {
    /// How many detours begin with it.
    pub const fn detours(self) -> u8 {
        match self {
            Self::First | Self::Other => 0,
            Self::Backup => 1,
        }
    }
}

/// A link that a packet may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<'a, L, W> {
    /// Why it would.
    pub choice: Choice,
    /// The link.
    pub link: L,
    /// Nodes to be passed first, when a detour begins with it.
    pub waypoints: &'a [Waypoint<W>],
}

impl<'a, L, W> Candidate<'a, L, W> {
    /// A link that leads on without waypoints.
    pub const fn plain(choice: Choice, link: L) -> Self {
        Self {
            choice,
            link,
            waypoints: &[],
        }
    }

    /// The backup of a path, which begins `over` a neighbour, beside the path's `next` hops. Another link to one of these is no
    /// detour: the packet comes as near as over the first.
    pub fn backup<N: Copy + PartialEq>(
        link: L,
        waypoints: &'a [Waypoint<W>],
        over: N,
        next: impl IntoIterator<Item = N>,
    ) -> Self {
        let is_parallel = waypoints.is_empty() && next.into_iter().any(|next| next == over);
        Self {
            choice: match is_parallel {
                true => Choice::Other,
                false => Choice::Backup,
            },
            link,
            waypoints,
        }
    }
}

/// The links towards a node in the order in which they are tried: the one that the flow is given, the path's others, the
/// backup, those that lead straight there.
pub fn candidates<'a, L: Copy + PartialEq, W>(
    picked: Option<L>,
    next: impl IntoIterator<Item = L>,
    backup: impl IntoIterator<Item = Candidate<'a, L, W>>,
    direct: impl IntoIterator<Item = L>,
) -> impl Iterator<Item = Candidate<'a, L, W>>
where
    W: 'a,
{
    let plain = |choice| move |link| Candidate::plain(choice, link);
    let others = next.into_iter().filter(move |link| Some(*link) != picked);
    picked
        .into_iter()
        .map(plain(Choice::First))
        .chain(others.map(plain(Choice::Other)))
        .chain(backup)
        .chain(direct.into_iter().map(plain(Choice::Other)))
}

/// What lies behind a packet and bears on where it may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Past<N> {
    /// The node that it came from and may not go back to, unless a detour with waypoints begins there.
    pub avoid: Option<N>,
    /// Detours that it began.
    pub detours: u8,
}

impl<N: Copy + PartialEq> Past<N> {
    /// A packet's that begins here.
    pub const NONE: Self = Self {
        avoid: None,
        detours: 0,
    };

    /// A packet's whose next waypoint is here: the way led to it, and the way on begins here, wherever it leads.
    #[must_use]
    pub fn at_waypoint(self) -> Self {
        Self {
            avoid: None,
            ..self
        }
    }

    /// The first candidate that takes the packet, all of them in each of `passes` before the next. `offer` tells of a link in a
    /// pass the neighbour at its other end and what the caller needs to send over it, or why it cannot; nothing of one that is
    /// not to be used.
    ///
    /// # Errors
    /// No candidate takes it, and what kept the last one from it; the limit of detours if that kept any.
    pub fn choose<'a, P: Copy, L: Copy, W: 'a, H, I: Iterator<Item = Candidate<'a, L, W>>>(
        &self,
        passes: impl IntoIterator<Item = P>,
        candidates: impl Fn() -> I,
        offer: impl Fn(P, L) -> Option<(N, Result<H, DropReason>)>,
    ) -> Result<(Candidate<'a, L, W>, H), DropReason> {
        let mut reason = DropReason::NoPath;
        for pass in passes {
            for candidate in candidates() {
                let Some((neighbour, hop)) = offer(pass, candidate.link) else {
                    continue;
                };
                match self.judge(&candidate, neighbour, hop) {
                    Ok(hop) => return Ok((candidate, hop)),
                    Err(_) if reason == DropReason::DetourLimit => {}
                    Err(unfit) => reason = unfit,
                }
            }
        }
        Err(reason)
    }

    fn judge<L, W, H>(
        &self,
        candidate: &Candidate<'_, L, W>,
        neighbour: N,
        hop: Result<H, DropReason>,
    ) -> Result<H, DropReason> {
        // A detour that begins where the packet came from is no return: its waypoint leads on.
        let leads_on = !candidate.waypoints.is_empty();
        if self.avoid == Some(neighbour) && !leads_on {
            return Err(DropReason::FrameReturned);
        }
        let hop = hop?;
        match self.detours + candidate.choice.detours() {
            ..=MAX_DETOURS => Ok(hop),
            _ => Err(DropReason::DetourLimit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Choice::{Backup, First, Other};
    use super::*;

    /// Links 1 and 2 are the path's to neighbours 10 and 20, 3 is the backup to 30, 4 leads straight to the node.
    const NEXT: [u32; 2] = [1, 2];
    const AROUND: &[Waypoint<u32>] = &[Waypoint::new(7)];
    const STRAIGHT: &[Waypoint<u32>] = &[];

    type Chosen = Result<(Choice, u32), DropReason>;
    /// A packet's past, the backup's waypoints, links that are up, links that are suspect, where the packet goes.
    type Row<'a> = (
        Past<u32>,
        &'a [Waypoint<u32>],
        &'a [u32],
        &'a [u32],
        Chosen,
        &'a str,
    );

    /// Where a packet goes while these links are up and these suspect.
    fn chosen(past: Past<u32>, waypoints: &[Waypoint<u32>], up: &[u32], suspect: &[u32]) -> Chosen {
        let next = NEXT.map(|link| link * 10);
        let backup = Candidate::backup(3, waypoints, 30, next);
        let offer = |state: LinkState, link: u32| {
            let links = if state == LinkState::Up { up } else { suspect };
            links.contains(&link).then_some((link * 10, Ok(())))
        };
        let links = || candidates(Some(2), NEXT, [backup], [4]);
        let (candidate, ()) = past.choose(USABLE, links, offer)?;
        Ok((candidate.choice, candidate.link))
    }

    const fn past(avoid: u32, detours: u8) -> Past<u32> {
        Past {
            avoid: Some(avoid),
            detours,
        }
    }

    #[test]
    fn a_packet_takes_the_first_link_that_it_may() {
        let (new, last) = (Past::NONE, past(0, MAX_DETOURS));
        let (returned, limit) = (DropReason::FrameReturned, DropReason::DetourLimit);
        #[rustfmt::skip]
        let table: [Row<'_>; 18] = [
            (new, AROUND, &[1, 2, 3, 4], &[], Ok((First, 2)), "the one of its flow"),
            (new, AROUND, &[1, 3, 4], &[2], Ok((Other, 1)), "another one of the path"),
            (new, AROUND, &[3, 4], &[1, 2], Ok((Backup, 3)), "the backup before a suspect one"),
            (new, AROUND, &[4], &[1, 2], Ok((Other, 4)), "the link straight there"),
            (new, AROUND, &[], &[1, 2, 3], Ok((First, 2)), "a suspect one where none is up"),
            (new, AROUND, &[], &[], Err(DropReason::NoPath), "nothing is left"),
            (past(20, 0), AROUND, &[1, 2, 3], &[], Ok((Other, 1)), "not back: another one"),
            (past(10, 0), STRAIGHT, &[1, 3], &[], Ok((Backup, 3)), "not back: the backup"),
            (past(10, 0), STRAIGHT, &[1], &[], Err(returned), "only back"),
            (past(30, 0), STRAIGHT, &[3], &[], Err(returned), "the backup leads back"),
            (past(30, 0), AROUND, &[3], &[], Ok((Backup, 3)), "past a waypoint it may"),
            (past(30, 0).at_waypoint(), STRAIGHT, &[3], &[], Ok((Backup, 3)), "from a waypoint too"),
            (past(0, MAX_DETOURS - 1), AROUND, &[3, 4], &[], Ok((Backup, 3)), "the last detour"),
            (last, AROUND, &[1, 3], &[2], Ok((Other, 1)), "no detour at the limit"),
            (last, AROUND, &[3, 4], &[], Ok((Other, 4)), "straight there at the limit"),
            (last, AROUND, &[3], &[1], Ok((Other, 1)), "a suspect one at the limit"),
            (last, AROUND, &[3], &[], Err(limit), "one detour too many"),
            (past(10, MAX_DETOURS), AROUND, &[3], &[1], Err(limit), "which says more than that it is only back"),
        ];
        for (past, waypoints, up, suspect, expected, what) in table {
            assert_eq!(chosen(past, waypoints, up, suspect), expected, "{what}");
        }
    }

    #[test]
    fn the_other_link_to_a_next_hop_is_no_detour_unless_it_leads_elsewhere_first() {
        let choice = |waypoints, over| Candidate::backup(3, waypoints, over, [10, 20]).choice;
        assert_eq!(choice(STRAIGHT, 20), Other);
        assert_eq!(choice(STRAIGHT, 30), Backup);
        assert_eq!(choice(AROUND, 20), Backup);
        let new = [First, Other, Backup].map(Choice::detours);
        assert_eq!(new, [0, 0, 1]);
    }

    #[test]
    fn what_keeps_a_caller_from_sending_over_a_link_is_told_and_the_next_one_tried() {
        let offer = |keyless: &'static [u32]| {
            move |(), link: u32| match keyless.contains(&link) {
                true => Some((link, Err(DropReason::NoLinkKey))),
                false => Some((link, Ok(link))),
            }
        };
        let links = || candidates(Some(1), NEXT, [Candidate::backup(3, AROUND, 3, NEXT)], []);
        let new = Past::NONE;
        let over = |chosen: Result<(Candidate<'_, u32, u32>, u32), DropReason>| {
            chosen.map(|(candidate, hop)| (candidate.link, hop))
        };
        assert_eq!(over(new.choose([()], links, offer(&[1]))), Ok((2, 2)));
        let all = new.choose([()], links, offer(&[1, 2, 3]));
        assert_eq!(over(all), Err(DropReason::NoLinkKey));
    }
}
