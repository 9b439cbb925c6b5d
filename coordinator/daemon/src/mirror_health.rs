//! Tells the engine how it goes with Kafka, from which its alerts follow (`docs/protocol/topology-stream.md` §10).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use wattle_fleet::MirrorHealth;
use wattle_mirror::{Mirror, Status};
use wattle_store::Store;

use crate::engine::{Handle, Question};

/// How often the mirror is looked at. The engine is told each time: it may have read its state back meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// For how long it is told that something was lost: long enough for a person to see it, since it happens in a moment.
const LOSS_TOLD_FOR: Duration = Duration::from_secs(3600);

/// Looks until it is told to stop, or the engine ends. Without a mirror there is no trouble with Kafka.
pub(crate) async fn watch(
    mirror: Option<Arc<Mirror>>,
    store: Store,
    engine: Handle,
    stop: CancellationToken,
) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut losses = Losses::default();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let health = match &mirror {
            None => MirrorHealth::default(),
            Some(mirror) => {
                // First, since events go from the outbox once they are in Kafka. What cannot be read is looked at again.
                let first = store.first_seq().await.unwrap_or(0);
                let status = mirror.status();
                MirrorHealth {
                    lost: losses.look(&status, first, Instant::now()),
                    stalled: status.stalled,
                }
            }
        };
        if engine.tell(Question::Mirror(health)).await.is_none() {
            break;
        }
    }
}

/// What Kafka misses for good, and when that was seen last.
#[derive(Debug, Default)]
struct Losses {
    gaps: u64,
    lost_topics: u64,
    last: Option<(Instant, String)>,
}

impl Losses {
    /// `first` is the oldest event of the outbox.
    fn look(&mut self, status: &Status, first: u64, now: Instant) -> Option<String> {
        if let Some(detail) = self.seen(status, first) {
            self.last = Some((now, detail));
        }
        let (at, detail) = self.last.as_ref()?;
        (now.saturating_duration_since(*at) < LOSS_TOLD_FOR).then(|| detail.clone())
    }

    fn seen(&mut self, status: &Status, first: u64) -> Option<String> {
        let gaps = status.gaps > std::mem::replace(&mut self.gaps, status.gaps);
        let topics =
            status.lost_topics > std::mem::replace(&mut self.lost_topics, status.lost_topics);
        let next = status.committed_seq + 1;
        if status.committed_seq > 0 && first > next {
            let last = first - 1;
            return Some(format!(
                "the outbox was full: events {next} to {last} will never be in Kafka"
            ));
        }
        match (gaps, topics) {
            (true, _) => Some("events are missing in Kafka: the topics say which".to_owned()),
            (false, true) => Some(
                "a topic was missing, made anew or truncated: the topology was written again, its history before is gone"
                    .to_owned(),
            ),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Duration = Duration::from_secs(100);

    fn status(committed_seq: u64, gaps: u64, lost_topics: u64) -> Status {
        let status = serde_json::json!({
            "state": "running", "brokers": [], "events_topic": "", "term": 1, "outbox_seq": 0, "lag": 0,
            "committed_at": null, "last_error": null, "last_error_at": null, "transactions": 0, "events": 0,
            "failures": 0, "fenced": 0,
            "committed_seq": committed_seq, "gaps": gaps, "lost_topics": lost_topics,
        });
        serde_json::from_value(status).expect("all that has no default is there")
    }

    #[test]
    fn events_that_the_outbox_gave_up_are_told_before_kafka_is_back_and_for_an_hour_after() {
        let began = Instant::now();
        let mut losses = Losses::default();
        assert_eq!(losses.look(&status(0, 0, 0), 50, began), None, "unknown");
        assert_eq!(losses.look(&status(99, 0, 0), 100, began), None);
        let told = losses.look(&status(99, 0, 0), 201, began);
        assert!(told.is_some_and(|said| said.contains("events 100 to 200 ")));
        let back = began + AT;
        assert!(losses.look(&status(300, 1, 0), 201, back).is_some());
        let late = back + LOSS_TOLD_FOR;
        let early = late - Duration::from_millis(1);
        assert!(losses.look(&status(900, 1, 0), 201, early).is_some());
        assert_eq!(losses.look(&status(900, 1, 0), 201, late), None);
    }

    #[test]
    fn a_topic_that_was_lost_is_told() {
        let mut losses = Losses::default();
        let told = losses.look(&status(9, 0, 1), 1, Instant::now());
        assert!(told.is_some_and(|said| said.starts_with("a topic was missing")));
    }
}
