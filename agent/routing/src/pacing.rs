//! How often one node may speak of its links: the more a record costs the network, the less often.
//!
//! A record reaches every member once, so what all of them may say together is a budget of bytes for each: an origin's
//! share of it grows smaller with the network. Each kind of news has a bucket of its own that lets a few through at
//! once and then one in a share's time, so that noise in prices cannot keep a failure waiting. Whatever is told takes
//! everything else that waits along.

use std::collections::BTreeSet;

use wattle_model::{Instant, Micros, NodeId, mix};

/// Bytes a second that a node is to hear of prices from all others together while every price keeps swinging.
const BUDGET: u64 = 4_000;

/// Prices wait for up to this part of a share, and never longer than …
const PRICES_SPREAD: u64 = 16;
const PRICES_SPREAD_MOST: Micros = Micros::from_secs(2);

/// What there is to say of a link, the most pressing first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum News {
    /// It is lost.
    Failure,
    /// It loses packets.
    Alarm,
    /// It came into use.
    Joined,
    /// It has another price.
    Price,
}

impl News {
    const ALL: [Self; 4] = [Self::Failure, Self::Alarm, Self::Joined, Self::Price];

    /// How long such news is gathered after the last record.
    const fn gathered(self) -> Micros {
        match self {
            Self::Failure | Self::Alarm => Micros(0),
            Self::Joined => Micros::from_millis(100),
            Self::Price => Micros::from_millis(500),
        }
    }

    /// How many pieces pass at once.
    const fn burst(self) -> u64 {
        match self {
            Self::Failure | Self::Alarm | Self::Price => 4,
            Self::Joined => 8,
        }
    }

    /// The pause between two after that.
    fn pause(self, share: Micros) -> Micros {
        let most = Micros::from_secs(3_600);
        match self {
            // Probation bounds these already; nobody must wait for long to hear of a failure.
            Self::Failure => {
                Micros(share.0 / 16).clamp(Micros::from_millis(100), Micros::from_secs(2))
            }
            Self::Alarm => Micros(share.0 / 4).clamp(Micros::from_millis(100), most),
            Self::Joined => Micros(share.0 / 8).clamp(Micros::from_millis(100), most),
            Self::Price => share.clamp(Micros::from_millis(500), most),
        }
    }
}

/// Time between two records of an origin that keep within its share, by how many members hear of how many bytes.
pub(crate) fn share(members: usize, bytes: usize) -> Micros {
    Micros(members as u64 * bytes as u64 * 1_000_000 / BUDGET)
}

/// What waits to be told of this node's links, and when it may be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pacer {
    waiting: BTreeSet<News>,
    /// Prices are told no sooner: nodes that share a cause would else all speak at once.
    prices_from: Instant,
    spread: u64,
    told: Option<Instant>,
    /// Per kind of news, when its bucket would be full again.
    full_at: [Instant; News::ALL.len()],
}

impl Pacer {
    /// A pacer that has a place of its own among those of all nodes.
    pub(crate) fn new(node: NodeId) -> Self {
        Self {
            spread: mix(node.0),
            ..Self::default()
        }
    }

    /// There is something to tell.
    pub(crate) fn notice(&mut self, now: Instant, news: News, share: Micros) {
        let is_first = self.waiting.insert(news);
        if is_first && news == News::Price {
            let most = (share.0 / PRICES_SPREAD).min(PRICES_SPREAD_MOST.0);
            self.spread = mix(self.spread);
            self.prices_from = now + Micros(self.spread % (most + 1));
        }
    }

    /// When what waits may be told.
    pub(crate) fn due(&self, share: Micros) -> Instant {
        let due = self.waiting.iter().map(|news| self.may_tell(*news, share));
        due.min().unwrap_or(Instant::NEVER)
    }

    /// Everything was told.
    pub(crate) fn told(&mut self, now: Instant, share: Micros) {
        // Whoever may not speak yet travels with who may, at no expense.
        let spoke = self
            .waiting
            .iter()
            .find(|news| self.may_tell(**news, share) <= now);
        if let Some(news) = spoke.copied() {
            let full_at = &mut self.full_at[news as usize];
            *full_at = (*full_at).max(now) + news.pause(share);
        }
        self.waiting.clear();
        self.told = Some(now);
    }

    /// Nothing was worth a record.
    pub(crate) fn dismiss(&mut self) {
        self.waiting.clear();
    }

    fn may_tell(&self, news: News, share: Micros) -> Instant {
        let gathered = self.told.map_or(Instant(0), |told| told + news.gathered());
        let gathered = match news {
            News::Price => gathered.max(self.prices_from),
            News::Failure | News::Alarm | News::Joined => gathered,
        };
        let spare = Micros((news.burst() - 1) * news.pause(share).0);
        let full_at = self.full_at[news as usize];
        gathered.max(Instant(full_at.0.saturating_sub(spare.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARE: Micros = Micros::from_secs(16);

    /// Instants at which news that is always there is told.
    fn told(news: News, seconds: u64) -> Vec<u64> {
        let mut pacer = Pacer::default();
        let mut at = Vec::new();
        let mut now = Instant(1_000_000);
        while now < Instant(seconds * 1_000_000) {
            pacer.notice(now, news, SHARE);
            now = now.max(pacer.due(SHARE));
            pacer.told(now, SHARE);
            at.push(now.0 / 1_000);
        }
        at
    }

    #[test]
    fn prices_come_in_a_burst_and_then_once_in_a_share() {
        let at = told(News::Price, 80);
        assert!(at[3] < 6_500, "{at:?}");
        assert!(at[4] >= 17_000 && at[5] >= at[4] + 15_000, "{at:?}");
        assert_eq!(at.len(), 9, "{at:?}");
    }

    #[test]
    fn the_first_failures_pass_at_once_and_none_waits_for_prices() {
        assert_eq!(
            &told(News::Failure, 5)[..5],
            [1_000, 1_000, 1_000, 1_000, 2_000]
        );
        let mut pacer = Pacer::default();
        let mut now = Instant(1_000_000);
        for _ in 0..100 {
            pacer.notice(now, News::Price, SHARE);
            now = now.max(pacer.due(SHARE));
            pacer.told(now, SHARE);
        }
        pacer.notice(now, News::Failure, SHARE);
        assert!(pacer.due(SHARE) <= now);
    }

    #[test]
    fn what_waits_is_told_with_what_is_due_and_costs_nothing() {
        let mut pacer = Pacer::default();
        let now = Instant(1_000_000);
        for _ in 0..4 {
            pacer.notice(now, News::Price, SHARE);
            pacer.told(pacer.due(SHARE).max(now), SHARE);
        }
        pacer.notice(now, News::Price, SHARE);
        pacer.notice(now, News::Failure, SHARE);
        pacer.told(now, SHARE);
        assert_eq!(pacer.due(SHARE), Instant::NEVER);
    }

    #[test]
    fn a_share_grows_with_the_network_and_the_record() {
        assert_eq!(share(6, 330), Micros(495_000));
        assert_eq!(share(1_000, 400), Micros::from_secs(100));
    }
}
