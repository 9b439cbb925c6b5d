//! Topology events as server-sent events. With a position (`Last-Event-ID: term:seq`, or `?after=seq`): everything after
//! it. Without one, or when the past is no longer there: a snapshot between two markers, then everything after it.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{self, Stream};
use serde::Deserialize;
use tokio::sync::watch;
use wattle_api::rest::{SSE_EVENT, SSE_SNAPSHOT_BEGIN, SSE_SNAPSHOT_END, Topology};
use wattle_api::topology::{Cause, Entity, EventId, Op, Source, TopologyEvent};
use wattle_model::{NodeId, NodeName};
use wattle_store::{OutboxRow, StoreError};

use super::{Api, Failure, Query, Shared, broken, last_event_id, now, view};

/// Events that one reader holds in memory.
const CHUNK: u32 = 500;

/// So often a comment is sent, so that readers and proxies see that the stream lives.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Where a reader wants to begin.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Start {
    after: Option<u64>,
}

/// One reader.
struct Reader {
    api: Arc<Api>,
    newest: watch::Receiver<u64>,
    ready: VecDeque<Event>,
    at: u64,
}

pub(super) async fn events(
    State(api): Shared,
    Query(start): Query<Start>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    let resumed = last_event_id(&headers).and_then(|id| id.parse::<EventId>().ok());
    let wanted = resumed.map(|id| id.seq).or(start.after);
    let mut reader = Reader {
        newest: api.store.subscribe(),
        ready: VecDeque::new(),
        at: 0,
        api,
    };
    reader.begin(wanted).await?;
    let events = stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok(event), reader))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("alive")))
}

impl Reader {
    async fn begin(&mut self, wanted: Option<u64>) -> Result<(), Failure> {
        let first = self.api.store.first_seq().await.map_err(broken)?;
        match wanted {
            Some(seq) if seq + 1 >= first && seq <= self.api.store.last_seq() => self.at = seq,
            Some(_) | None => {
                let topology = view(&self.api).await?;
                self.at = topology.seq;
                self.ready = snapshot(&self.api, topology);
            }
        }
        Ok(())
    }

    /// The next event; waits until there is one. `None` ends the stream.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            self.newest
                .wait_for(|newest| *newest > self.at)
                .await
                .ok()?;
            if let Err(error) = self.read().await {
                tracing::warn!(%error, "A stream of events ends");
                return None;
            }
        }
    }

    /// If the past was trimmed away below a slow reader, its stream ends; it comes back and gets a snapshot.
    async fn read(&mut self) -> Result<(), StoreError> {
        let rows = self.api.store.outbox_after(self.at, CHUNK).await?;
        match rows.first() {
            Some(row) if row.seq == self.at + 1 => {}
            Some(_) | None => {
                let why = format!("events after {} are gone", self.at);
                return Err(StoreError::Damaged {
                    what: "stream position",
                    why,
                });
            }
        }
        self.at += rows.len() as u64;
        self.ready.extend(rows.iter().map(event));
        Ok(())
    }
}

fn event(row: &OutboxRow) -> Event {
    Event::default()
        .event(SSE_EVENT)
        .id(EventId {
            term: row.term,
            seq: row.seq,
        }
        .to_string())
        .data(&row.event)
}

/// Only the marker at the end has an id: a reader that breaks off before it begins again.
fn snapshot(api: &Api, topology: Topology) -> VecDeque<Event> {
    let id = EventId {
        term: topology.term,
        seq: topology.seq,
    };
    let marker = serde_json::json!({ "id": id, "ts": topology.ts }).to_string();
    let sites = topology
        .nodes
        .iter()
        .map(|node| (node.id, node.site.clone()));
    let sites: BTreeMap<NodeId, Option<NodeName>> = sites.collect();
    let nodes = topology.nodes.into_iter().map(Entity::Node);
    let links = topology.links.into_iter().map(Entity::Link);
    let prefixes = topology.prefixes.into_iter().map(Entity::Prefix);
    let entities = nodes.chain(links).chain(prefixes).map(|entity| {
        let site = sites.get(&entity.owner()).cloned().flatten();
        let text = serde_json::to_string(&read(api, id, site, entity));
        Event::default()
            .event(SSE_EVENT)
            .data(text.unwrap_or_default())
    });
    let begin = Event::default().event(SSE_SNAPSHOT_BEGIN).data(&marker);
    let end = Event::default()
        .event(SSE_SNAPSHOT_END)
        .id(id.to_string())
        .data(&marker);
    [begin].into_iter().chain(entities).chain([end]).collect()
}

fn read(api: &Api, id: EventId, site: Option<NodeName>, entity: Entity) -> TopologyEvent {
    let key = entity.key();
    TopologyEvent {
        id,
        kind: key.kind(),
        key,
        op: Op::Read,
        before: None,
        after: Some(entity),
        cause: Cause::Snapshot,
        source: Source {
            network: api.network.id,
            network_name: api.network.name.clone(),
            coordinator: api.inviter.coordinator.clone(),
            term: id.term,
            seq: id.seq,
            reporter: None,
            record_seq: None,
            site,
            observed_at: None,
            coalesced: 0,
        },
        ts: now(),
        omitted: None,
    }
}
