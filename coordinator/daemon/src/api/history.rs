//! Topology events that have happened, page by page: everything after one of them, or after a time. With the topology as
//! it is, a reader undoes them and so sees it as it was.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use wattle_api::Timestamp;
use wattle_api::rest::Problem;
use wattle_store::OutboxRow;

use super::{Api, Failure, Query, Shared, broken};

/// Events of a page when the request does not say, and at most: about 3 MB.
const PAGE: u32 = 5_000;

/// Where a reader wants to begin: after an event, or after a time; with the oldest event that is kept if neither is given.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Span {
    after: Option<u64>,
    since: Option<Timestamp>,
    limit: Option<u32>,
}

pub(super) async fn events(
    State(api): Shared,
    Query(span): Query<Span>,
) -> Result<Response, Failure> {
    let after = begin(&api, &span).await?;
    let limit = span.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let rows = api.store.outbox_after(after, limit).await.map_err(broken)?;
    // Trimmed away since it was looked up.
    if rows.first().is_some_and(|row| row.seq != after + 1) {
        return Err(gone(&api, &format!("the events after {after}")).await?);
    }
    let more = rows
        .last()
        .is_some_and(|row| row.seq < api.store.last_seq());
    let json = [(header::CONTENT_TYPE, "application/json")];
    Ok((json, page(&rows, more)).into_response())
}

/// The event after which the page begins.
async fn begin(api: &Api, span: &Span) -> Result<u64, Failure> {
    let first = api.store.first_seq().await.map_err(broken)?;
    match (span.after, span.since) {
        (Some(_), Some(_)) => Err(Problem::new(
            422,
            "invalid",
            "invalid request",
            "after and since exclude each other",
        )
        .with_hint("give one of them")
        .into()),
        (Some(after), None) if after + 1 < first => {
            Err(gone(api, &format!("the events after {after}")).await?)
        }
        (Some(after), None) => Ok(after),
        (None, Some(since)) => match api.store.seq_at(since).await.map_err(broken)? {
            Some(seq) => Ok(seq),
            // Before the first event of all there was nothing.
            None if first == 1 => Ok(0),
            None => Err(gone(api, &format!("the events since {since}")).await?),
        },
        (None, None) => Ok(first - 1),
    }
}

/// The past that is not kept, and what is.
async fn gone(api: &Api, what: &str) -> Result<Failure, Failure> {
    let first = api.store.first_seq().await.map_err(broken)?;
    let oldest = api.store.outbox_after(first - 1, 1).await.map_err(broken)?;
    let kept = match oldest
        .first()
        .map(OutboxRow::event)
        .transpose()
        .map_err(broken)?
    {
        Some(event) => format!("the oldest one that is kept is {first}, of {}", event.ts),
        None => "none is kept".to_owned(),
    };
    let detail = format!("{what} are no longer all there: {kept}");
    Ok(Problem::new(410, "gone", "no longer kept", detail)
        .with_hint(
            "keep more: outbox.keep_events in the coordinator's configuration; or read from Kafka",
        )
        .into())
}

/// The events stand in the database as JSON and are not parsed.
fn page(rows: &[OutboxRow], more: bool) -> String {
    let events: Vec<&str> = rows.iter().map(|row| row.event.as_str()).collect();
    let next = match rows.last() {
        Some(last) if more => format!("\"{}\"", last.seq),
        Some(_) | None => "null".to_owned(),
    };
    format!("{{\"items\":[{}],\"next\":{next}}}", events.join(","))
}
