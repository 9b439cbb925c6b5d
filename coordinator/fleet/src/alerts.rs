//! Alerts (`docs/protocol/topology-stream.md` §10): what is wrong, told once it has lasted, and cleared once it has been
//! well for long enough. What comes and goes too often stays raised, and says how much of it was not told.
//!
//! `observe` takes differences of the topology, `observe_mirror` how it goes with Kafka; `handle_timeout` returns what is to be told; `poll_timeout` says when.

use std::collections::BTreeMap;

use wattle_api::Timestamp;
use wattle_api::notice::{Alert, AlertKey, AlertKind, AlertState, MirrorCause, MirrorTrouble};
use wattle_api::topology::{Cause, Entity, EntityKey, LinkEntity, NodeEntity};
use wattle_model::{Instant, Micros, NetworkId, NodeId};

use crate::difference::Difference;

/// How long something must be wrong before it is told: a restart of an agent is no news.
pub const RAISE_AFTER: Micros = Micros::from_secs(5);

/// How long it must be well before that is told.
pub const CLEAR_AFTER: Micros = Micros::from_secs(30);

/// A penalty halves in this time.
const HALF_LIFE: Micros = Micros::from_secs(60);

/// What each coming adds to the penalty.
const PENALTY: u64 = 1_000;

/// More than this is flapping: the alert is not cleared.
const SUPPRESS_ABOVE: u64 = 5 * PENALTY;

/// Below this a flapping alert may be cleared.
const REUSE_BELOW: u64 = 2 * PENALTY;

/// A condition that is well, told so, and has less is forgotten.
const FORGET_BELOW: u64 = PENALTY / 8;

/// Loss that is told.
const LOSSY_PPM: u32 = 50_000;

/// Loss that is well again.
const LOSSLESS_PPM: u32 = 20_000;

/// All that is, was or may be wrong.
#[derive(Debug, Clone)]
pub struct Alerts {
    network: NetworkId,
    conditions: BTreeMap<(AlertKind, AlertKey), Condition>,
}

/// How it goes with Kafka.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MirrorHealth {
    /// What keeps the mirror from writing.
    pub stalled: Option<MirrorTrouble>,
    /// What Kafka misses for good, in words.
    pub lost: Option<String>,
}

/// One thing that is or was wrong.
#[derive(Debug, Clone)]
struct Condition {
    wrong: bool,
    /// What was told last.
    raised: bool,
    flapping: bool,
    changed: Instant,
    since: Timestamp,
    seen: Seen,
    suppressed: u64,
    penalty: u64,
    penalty_at: Instant,
}

/// What was seen of it.
#[derive(Debug, Clone, Default)]
struct Seen {
    detail: String,
    cause: Option<MirrorCause>,
}

impl Alerts {
    /// Goes on with alerts that were raised before a start. Those of entities that are well meanwhile will be cleared.
    pub fn recover<'a>(
        network: NetworkId,
        raised: impl IntoIterator<Item = Alert>,
        entity: impl Fn(EntityKey) -> Option<&'a Entity>,
        now: Instant,
    ) -> Self {
        let conditions = raised.into_iter().map(|alert| {
            let condition = Condition {
                wrong: is_wrong(alert.kind, alert.key, &entity),
                raised: true,
                flapping: false,
                changed: now,
                since: alert.since,
                seen: Seen {
                    detail: alert.detail,
                    cause: alert.cause,
                },
                suppressed: 0,
                penalty: 0,
                penalty_at: now,
            };
            ((alert.kind, alert.key), condition)
        });
        Self {
            network,
            conditions: conditions.collect(),
        }
    }

    /// Takes what changed. `is_member` says of which nodes a link may be missed.
    pub fn observe(
        &mut self,
        differences: &[Difference],
        is_member: impl Fn(NodeId) -> bool,
        now: Instant,
        wall: Timestamp,
    ) {
        for difference in differences {
            let key = AlertKey::Entity(difference.key);
            for (kind, verdict) in verdicts(difference, &is_member) {
                self.judge((kind, key), verdict, now, wall);
            }
        }
    }

    /// Takes how it goes with Kafka, as often as one likes.
    pub fn observe_mirror(&mut self, health: MirrorHealth, now: Instant, wall: Timestamp) {
        let stalled = health.stalled.map(|trouble| Seen {
            detail: trouble.detail,
            cause: Some(trouble.cause),
        });
        let lost = health.lost.map(Seen::of);
        for (kind, seen) in [
            (AlertKind::MirrorStalled, stalled),
            (AlertKind::HistoryLost, lost),
        ] {
            let verdict = seen.map_or(Verdict::Well, Verdict::Wrong);
            self.judge((kind, AlertKey::Kafka), verdict, now, wall);
        }
    }

    fn judge(
        &mut self,
        of: (AlertKind, AlertKey),
        verdict: Verdict,
        now: Instant,
        wall: Timestamp,
    ) {
        match verdict {
            Verdict::Wrong(seen) => self.wrong(of, seen, now, wall),
            Verdict::Well => self.well(of, now),
        }
    }

    fn wrong(&mut self, of: (AlertKind, AlertKey), seen: Seen, now: Instant, wall: Timestamp) {
        let condition = self.conditions.entry(of).or_insert(Condition {
            wrong: false,
            raised: false,
            flapping: false,
            changed: now,
            since: wall,
            seen: Seen::default(),
            suppressed: 0,
            penalty: 0,
            penalty_at: now,
        });
        if !condition.wrong || !condition.raised {
            // What is told is what was seen last.
            condition.seen = seen;
        }
        if condition.wrong {
            return;
        }
        condition.wrong = true;
        condition.penalty = condition.penalty(now) + PENALTY;
        condition.penalty_at = now;
        condition.flapping |= condition.penalty > SUPPRESS_ABOVE;
        condition.changed = now;
        match condition.raised {
            // It was well for too short a time to be told.
            true => condition.suppressed += 1,
            false => condition.since = wall,
        }
    }

    fn well(&mut self, of: (AlertKind, AlertKey), now: Instant) {
        let Some(condition) = self.conditions.get_mut(&of) else {
            return;
        };
        if !condition.wrong {
            return;
        }
        condition.wrong = false;
        condition.changed = now;
        if !condition.raised {
            // It was wrong for too short a time to be told.
            condition.suppressed += 1;
        }
    }

    /// When `handle_timeout` wants to be called.
    pub fn poll_timeout(&self) -> Instant {
        let due = self.conditions.values().map(Condition::due);
        due.min().unwrap_or(Instant::NEVER)
    }

    /// What is to be told. `seq` is the newest event.
    pub fn handle_timeout(&mut self, now: Instant, wall: Timestamp, seq: u64) -> Vec<Alert> {
        let mut told = Vec::new();
        for ((kind, key), condition) in &mut self.conditions {
            if condition.due() > now || condition.wrong == condition.raised {
                continue;
            }
            condition.raised = condition.wrong;
            let state = match condition.raised {
                true => AlertState::Raised,
                false => AlertState::Cleared,
            };
            told.push(Alert {
                id: format!("{}/{key}", kind.as_str()),
                kind: *kind,
                key: *key,
                state,
                severity: kind.severity(),
                detail: condition.seen.detail.clone(),
                cause: condition.seen.cause,
                since: condition.since,
                suppressed: std::mem::take(&mut condition.suppressed),
                flapping: condition.flapping,
                seq,
                network: self.network,
                ts: wall,
            });
            condition.flapping &= condition.raised;
        }
        self.conditions
            .retain(|_, condition| condition.wrong || condition.raised || condition.due() > now);
        told
    }
}

impl Condition {
    /// When it has to be looked at.
    fn due(&self) -> Instant {
        match (self.wrong, self.raised) {
            (true, false) => self.changed + RAISE_AFTER,
            (false, true) if self.flapping => {
                (self.changed + CLEAR_AFTER).max(self.penalty_below(REUSE_BELOW))
            }
            (false, true) => self.changed + CLEAR_AFTER,
            (true, true) => Instant::NEVER,
            (false, false) => self.penalty_below(FORGET_BELOW),
        }
    }

    fn penalty(&self, now: Instant) -> u64 {
        let halves = now.since(self.penalty_at).0 / HALF_LIFE.0;
        self.penalty >> halves.min(63)
    }

    /// When the penalty has halved to less than `limit`.
    fn penalty_below(&self, limit: u64) -> Instant {
        let mut halves = 0;
        while (self.penalty >> halves) >= limit {
            halves += 1;
        }
        self.penalty_at + Micros(HALF_LIFE.0 * halves)
    }
}

impl Seen {
    const fn of(detail: String) -> Self {
        Self {
            detail,
            cause: None,
        }
    }
}

enum Verdict {
    Wrong(Seen),
    Well,
}

/// What a difference says of the conditions of its entity.
fn verdicts(
    difference: &Difference,
    is_member: &impl Fn(NodeId) -> bool,
) -> Vec<(AlertKind, Verdict)> {
    match (&difference.before, &difference.after) {
        (before, Some(Entity::Node(node))) => of_node(before.as_ref(), node),
        (Some(Entity::Node(_)), None) => vec![(AlertKind::NodeSilent, Verdict::Well)],
        (_, Some(Entity::Link(link))) => of_link(link),
        (Some(Entity::Link(link)), None) => of_lost_link(link, difference.cause, is_member),
        (_, Some(Entity::Prefix(_))) | (Some(Entity::Prefix(_)), None) | (None, None) => vec![],
    }
}

fn of_node(before: Option<&Entity>, node: &NodeEntity) -> Vec<(AlertKind, Verdict)> {
    let reported = matches!(before, Some(Entity::Node(before)) if before.reporting);
    match (reported, node.reporting) {
        (true, false) => {
            let detail = format!("{} does not report any more", node.name);
            vec![(AlertKind::NodeSilent, Verdict::Wrong(Seen::of(detail)))]
        }
        (_, true) => vec![(AlertKind::NodeSilent, Verdict::Well)],
        (false, false) => vec![],
    }
}

fn of_link(link: &LinkEntity) -> Vec<(AlertKind, Verdict)> {
    let mut verdicts = vec![(AlertKind::LinkLost, Verdict::Well)];
    if link.loss_ppm >= LOSSY_PPM {
        let detail = format!("{} loses {} ppm", named(link), link.loss_ppm);
        verdicts.push((AlertKind::LinkLossy, Verdict::Wrong(Seen::of(detail))));
    } else if link.loss_ppm < LOSSLESS_PPM {
        verdicts.push((AlertKind::LinkLossy, Verdict::Well));
    }
    verdicts
}

/// A link whose records ran out is missed as its silent node, and one of a removed node is not missed.
fn of_lost_link(
    link: &LinkEntity,
    cause: Cause,
    is_member: &impl Fn(NodeId) -> bool,
) -> Vec<(AlertKind, Verdict)> {
    let missed = cause == Cause::LinkWithdrawn && is_member(link.from) && is_member(link.to);
    let lost = match missed {
        true => Verdict::Wrong(Seen::of(format!("{} is reported no more", named(link)))),
        false => Verdict::Well,
    };
    vec![
        (AlertKind::LinkLost, lost),
        (AlertKind::LinkLossy, Verdict::Well),
    ]
}

fn named(link: &LinkEntity) -> String {
    let name = |name: &Option<wattle_model::NodeName>, id: NodeId| {
        name.as_ref()
            .map_or_else(|| id.to_string(), ToString::to_string)
    };
    let (from, to) = (
        name(&link.from_name, link.from),
        name(&link.to_name, link.to),
    );
    format!("the link from {from} to {to} over {}", link.carrier)
}

/// Whether what an alert is about keeps it raised, as it is.
fn is_wrong<'a>(
    kind: AlertKind,
    key: AlertKey,
    entity: &impl Fn(EntityKey) -> Option<&'a Entity>,
) -> bool {
    let AlertKey::Entity(key) = key else {
        // Until the mirror tells otherwise.
        return true;
    };
    let is_there = |node| entity(EntityKey::Node(node)).is_some();
    match (kind, entity(key)) {
        (AlertKind::NodeSilent, Some(Entity::Node(node))) => !node.reporting,
        (AlertKind::LinkLost, None) => {
            matches!(key, EntityKey::Link(from, to, _) if is_there(from) && is_there(to))
        }
        (AlertKind::LinkLossy, Some(Entity::Link(link))) => link.loss_ppm >= LOSSLESS_PPM,
        (_, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use wattle_model::{Carrier, NodeIndex};

    use super::*;
    use crate::difference::Evidence;

    const A: NodeId = NodeId(0xa);
    const B: NodeId = NodeId(0xb);
    const WALL: Timestamp = Timestamp::from_millis(1_795_385_280_000);

    fn at(seconds: u64) -> Instant {
        Instant(1_000_000_000) + Micros::from_secs(seconds)
    }

    fn node(reporting: bool) -> Entity {
        Entity::Node(NodeEntity {
            id: A,
            name: "r1".parse().unwrap(),
            index: NodeIndex(1),
            addresses: vec![],
            tags: vec![],
            site: None,
            leaf_of: None,
            reporting,
            agent_version: None,
            epoch: None,
            transit_cost_us: None,
        })
    }

    fn link(loss_ppm: u32) -> Entity {
        Entity::Link(LinkEntity {
            from: A,
            to: B,
            from_name: None,
            to_name: None,
            carrier: Carrier::Udp4,
            confirmed: true,
            tier: 0,
            cost_us: Some(1),
            rtt_us: 1,
            jitter_us: 1,
            loss_ppm,
        })
    }

    fn difference(before: Option<Entity>, after: Option<Entity>, cause: Cause) -> Difference {
        Difference {
            key: after.as_ref().or(before.as_ref()).unwrap().key(),
            before,
            after,
            cause,
            evidence: Evidence::default(),
            site: None,
        }
    }

    struct Story(Alerts);

    impl Story {
        fn new() -> Self {
            Self(Alerts::recover(NetworkId(1), [], |_| None, at(0)))
        }

        fn see(
            &mut self,
            second: u64,
            before: Option<Entity>,
            after: Option<Entity>,
            cause: Cause,
        ) {
            let difference = difference(before, after, cause);
            self.0.observe(
                &[difference],
                |node| node == A || node == B,
                at(second),
                WALL,
            );
        }

        fn silent(&mut self, second: u64) {
            self.see(
                second,
                Some(node(true)),
                Some(node(false)),
                Cause::RecordExpired,
            );
        }

        fn reports(&mut self, second: u64) {
            self.see(
                second,
                Some(node(false)),
                Some(node(true)),
                Cause::NodeReported,
            );
        }

        fn told(&mut self, second: u64) -> Vec<(AlertState, u64, bool)> {
            let told = self.0.handle_timeout(at(second), WALL, 7).into_iter();
            told.map(|alert| (alert.state, alert.suppressed, alert.flapping))
                .collect()
        }
    }

    #[test]
    fn what_lasts_is_raised_and_cleared_once() {
        let mut story = Story::new();
        story.silent(0);
        assert_eq!(story.0.poll_timeout(), at(5));
        assert_eq!(story.told(4), []);
        assert_eq!(story.told(5), [(AlertState::Raised, 0, false)]);
        assert_eq!(story.told(100), [], "once");
        story.reports(100);
        assert_eq!(story.told(129), []);
        assert_eq!(story.told(130), [(AlertState::Cleared, 0, false)]);
    }

    #[test]
    fn what_is_short_is_not_told_but_counted() {
        let mut story = Story::new();
        story.silent(0);
        story.reports(3);
        assert_eq!(story.told(10), []);
        story.silent(20);
        assert_eq!(story.told(25), [(AlertState::Raised, 1, false)]);
    }

    #[test]
    fn what_comes_and_goes_stays_raised_and_says_how_often() {
        let mut story = Story::new();
        story.silent(0);
        assert_eq!(story.told(5).len(), 1);
        for round in 0..6 {
            story.reports(6 + round * 4);
            story.silent(8 + round * 4);
            assert_eq!(story.told(9 + round * 4), []);
        }
        story.reports(30);
        assert_eq!(story.told(61), [], "well for half a minute, but it flaps");
        let due = story.0.poll_timeout().since(at(0)).0 / 1_000_000;
        assert!((120..200).contains(&due), "{due}");
        assert_eq!(story.told(due), [(AlertState::Cleared, 6, true)]);
    }

    #[test]
    fn a_link_is_missed_when_it_is_withdrawn_and_not_when_a_node_is_removed_or_silent() {
        for (cause, missed) in [
            (Cause::LinkWithdrawn, true),
            (Cause::MemberRemoved, false),
            (Cause::RecordExpired, false),
        ] {
            let mut story = Story::new();
            story.see(0, Some(link(0)), None, cause);
            assert_eq!(story.told(5).len(), usize::from(missed), "{cause:?}");
        }
        let mut story = Story::new();
        story.see(0, Some(link(0)), None, Cause::LinkWithdrawn);
        story.see(1, None, Some(link(0)), Cause::LinkReported);
        assert_eq!(story.told(60), []);
    }

    #[test]
    fn loss_is_raised_above_one_bound_and_cleared_below_another() {
        let mut story = Story::new();
        let measured = |story: &mut Story, second, loss| {
            story.see(second, Some(link(0)), Some(link(loss)), Cause::LinkMeasured);
        };
        measured(&mut story, 0, 49_999);
        assert_eq!(story.told(10), []);
        measured(&mut story, 10, 50_000);
        assert_eq!(story.told(15), [(AlertState::Raised, 0, false)]);
        measured(&mut story, 20, 30_000);
        assert_eq!(story.told(60), [], "between the bounds nothing changes");
        measured(&mut story, 60, 19_999);
        assert_eq!(story.told(90), [(AlertState::Cleared, 0, false)]);
    }

    #[test]
    fn an_alert_that_was_raised_before_a_start_is_cleared_after_it() {
        let mut story = Story::new();
        story.silent(0);
        let raised = story.0.handle_timeout(at(5), WALL, 7);
        let well = node(true);
        let entity = |key: EntityKey| (key == well.key()).then_some(&well);
        let mut again = Story(Alerts::recover(NetworkId(1), raised, entity, at(0)));
        assert_eq!(again.told(30), [(AlertState::Cleared, 0, false)]);
    }

    #[test]
    fn a_mirror_that_stalls_is_told_with_its_last_cause_and_once() {
        let mut story = Story::new();
        let told_at = |story: &mut Story, second, cause: Option<MirrorCause>| {
            let stalled = cause.map(|cause| MirrorTrouble {
                cause,
                detail: format!("{cause:?}"),
            });
            let health = MirrorHealth {
                stalled,
                lost: None,
            };
            story.0.observe_mirror(health, at(second), WALL);
            let told = story.0.handle_timeout(at(second), WALL, 7).into_iter();
            told.map(|alert| (alert.id, alert.state, alert.cause, alert.detail))
                .collect::<Vec<_>>()
        };
        let told = |state, cause: MirrorCause| {
            let id = "mirror_stalled/kafka".to_owned();
            vec![(id, state, Some(cause), format!("{cause:?}"))]
        };
        let (away, denied) = (MirrorCause::Unreachable, MirrorCause::NotAuthorised);
        assert_eq!(told_at(&mut story, 0, Some(away)), []);
        assert_eq!(
            told_at(&mut story, 5, Some(denied)),
            told(AlertState::Raised, denied)
        );
        for second in 6..100 {
            assert_eq!(told_at(&mut story, second, Some(away)), [], "once");
        }
        for second in 100..130 {
            assert_eq!(told_at(&mut story, second, None), []);
        }
        assert_eq!(
            told_at(&mut story, 130, None),
            told(AlertState::Cleared, denied)
        );
    }

    #[test]
    fn trouble_with_kafka_lasts_over_a_start_until_the_mirror_tells_otherwise() {
        let mut story = Story::new();
        let lost = MirrorHealth {
            stalled: None,
            lost: Some("events 5 to 9".to_owned()),
        };
        story.0.observe_mirror(lost, at(0), WALL);
        let raised = story.0.handle_timeout(at(5), WALL, 7);
        assert_eq!(raised[0].kind, AlertKind::HistoryLost);
        let mut again = Story(Alerts::recover(NetworkId(1), raised, |_| None, at(0)));
        assert_eq!(again.told(600), []);
        again
            .0
            .observe_mirror(MirrorHealth::default(), at(600), WALL);
        assert_eq!(again.told(630), [(AlertState::Cleared, 0, false)]);
    }

    #[test]
    fn what_is_long_past_is_forgotten() {
        let mut story = Story::new();
        story.silent(0);
        story.reports(1);
        story.told(10);
        assert_eq!(story.0.conditions.len(), 1);
        let due = story.0.poll_timeout();
        story.0.handle_timeout(due, WALL, 7);
        assert_eq!(
            (story.0.conditions.len(), story.0.poll_timeout()),
            (0, Instant::NEVER)
        );
    }
}
