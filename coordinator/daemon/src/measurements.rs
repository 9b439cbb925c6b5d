//! Publishes at regular times what nodes measured of their links.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use wattle_api::measurement::{LinkMeasurement, LinkMetrics};
use wattle_api::rest::Topology;
use wattle_api::topology::NodeEntity;
use wattle_mirror::Publisher;
use wattle_model::NodeId;

use crate::engine::{Handle, Question};

/// How long the last measurements may take when the coordinator stops.
const FINISH_WITHIN: Duration = Duration::from_secs(1);

/// Publishes until it is told to stop, or the engine ends.
pub(crate) async fn publish(
    publisher: Publisher,
    engine: Handle,
    config: wattle_mirror::Config,
    stop: CancellationToken,
) {
    let mut ticks = interval(Duration::from_secs(config.kafka.metrics_every_s.into()));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let publisher = Arc::new(publisher);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let Some(view) = engine.ask(|answer| Question::Topology { answer }).await else {
            break;
        };
        for metrics in measurements(view) {
            publisher.publish(&metrics);
        }
    }
    // Waits in the client, hence not here.
    let _ = tokio::task::spawn_blocking(move || publisher.flush(FINISH_WITHIN)).await;
}

/// A record for each node that has links.
fn measurements(view: Topology) -> Vec<LinkMetrics> {
    let nodes: BTreeMap<NodeId, &NodeEntity> =
        view.nodes.iter().map(|node| (node.id, node)).collect();
    let mut records: BTreeMap<NodeId, LinkMetrics> = BTreeMap::new();
    for link in view.links {
        let node = nodes.get(&link.from);
        let record = records.entry(link.from).or_insert_with(|| LinkMetrics {
            network: view.network,
            node: link.from,
            name: link.from_name.clone(),
            site: node.and_then(|node| node.site.clone()),
            links: vec![],
            ts: view.ts,
        });
        record.links.push(LinkMeasurement {
            to: link.to,
            to_name: link.to_name,
            carrier: link.carrier,
            confirmed: link.confirmed,
            cost_us: link.cost_us,
            rtt_us: link.rtt_us,
            jitter_us: link.jitter_us,
            loss_ppm: link.loss_ppm,
        });
    }
    records.into_values().collect()
}
