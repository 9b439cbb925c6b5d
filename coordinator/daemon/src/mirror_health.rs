//! Tells the engine how it goes with Kafka, from which its alerts follow (`docs/protocol/topology-stream.md` §10).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use wattle_api::Timestamp;
use wattle_fleet::MirrorHealth;
use wattle_mirror::Mirror;
use wattle_store::{Loss, Store};

use crate::clock::wall;
use crate::engine::{Handle, Question};

/// How often the mirror is looked at. The engine is told each time: it may have read its state back meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// For how long it is told that something was lost: long enough for a person to see it, since it happens in a moment.
const LOSS_TOLD_FOR_MS: u64 = 3_600_000;

/// Looks until it is told to stop, or the engine ends. Without a mirror there is no trouble with Kafka.
pub(crate) async fn watch(
    mirror: Option<Arc<Mirror>>,
    store: Store,
    engine: Handle,
    stop: CancellationToken,
) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let health = match &mirror {
            None => MirrorHealth::default(),
            Some(mirror) => {
                // What cannot be read stands as it was read last. Until it was, nobody knows that all is well.
                last = store.last_loss().await.ok().or(last);
                let Some(loss) = &last else { continue };
                MirrorHealth {
                    lost: loss.as_ref().and_then(|loss| told(loss, wall())),
                    stalled: mirror.status().stalled,
                }
            }
        };
        if engine.tell(Question::Mirror(health)).await.is_none() {
            break;
        }
    }
}

/// The loss in words, for as long as it is told. A clock that is set back by less than that makes it longer; by more, it is
/// told again once the clock comes near.
fn told(loss: &Loss, now: Timestamp) -> Option<String> {
    let apart = now.as_millis().abs_diff(loss.at.as_millis());
    (apart < LOSS_TOLD_FOR_MS).then(|| loss.detail.clone())
}

#[cfg(test)]
mod tests {
    use wattle_model::NetworkId;

    use super::*;

    const AT: Timestamp = Timestamp::from_millis(1_795_385_280_000);

    fn after(ms: u64) -> Timestamp {
        Timestamp::from_millis(AT.as_millis() + ms)
    }

    #[tokio::test]
    async fn a_loss_is_told_for_an_hour_though_the_coordinator_starts_anew() {
        let directory = tempfile::tempdir().unwrap();
        let start = async || {
            let path = directory.path().join("coordinator.db");
            Store::open(&path, NetworkId(7), "lab", "c").await.unwrap()
        };
        let store = start().await;
        assert_eq!(store.last_loss().await.unwrap(), None);
        for (detail, at) in [("events 5 to 7", AT), ("events 5 to 9", after(1))] {
            let detail = detail.to_owned();
            store.note_loss(&Loss { detail, at }).await.unwrap();
        }
        store.close().await;

        let store = start().await;
        let loss = store.last_loss().await.unwrap().unwrap();
        let last = Some("events 5 to 9".to_owned());
        assert_eq!(told(&loss, AT), last, "the clock was set back");
        assert_eq!(told(&loss, after(LOSS_TOLD_FOR_MS)), last);
        assert_eq!(told(&loss, after(LOSS_TOLD_FOR_MS + 1)), None);
    }
}
