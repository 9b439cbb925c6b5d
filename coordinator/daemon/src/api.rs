//! The REST API: `/api/v1` with a bearer token, and `/livez`, `/readyz`, `/metrics` without. Errors are problem details.

mod history;
mod stream;

use std::sync::Arc;

use axum::extract::{self, FromRequest, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use wattle_api::Timestamp;
use wattle_api::agent::NetworkInfo;
use wattle_api::notice::{Alert, AuditAction, AuditRecord};
use wattle_api::rest::{
    LeafCreated, LeafRequest, Network, Node, PROBLEM_TYPE, Page, Problem, REVISION_HEADER,
    TokenCreated, TokenRequest, Topology, is_revision,
};
use wattle_api::token::{DEFAULT_TTL_S, TokenRecord, TokenScope};
use wattle_api::topology::{LinkEntity, PrefixEntity};
use wattle_mirror::Mirror;
use wattle_store::Store;

use crate::clock::wall;
use crate::counters::{Counters, expose};
use crate::engine::{Answer, Author, Handle, Question, Refused};
use crate::invitation::{self, Inviter};

/// Items of a page when the request does not say, and at most.
const PAGE: usize = 1000;

/// Bytes of a request's body.
const MAX_BODY: usize = 1 << 20;

/// What requests are answered from.
pub(crate) struct Api {
    pub(crate) engine: Handle,
    pub(crate) store: Store,
    pub(crate) network: NetworkInfo,
    pub(crate) inviter: Inviter,
    pub(crate) admin_hash: [u8; 32],
    pub(crate) counters: Arc<Counters>,
    pub(crate) mirror: Option<Arc<Mirror>>,
}

type Shared = State<Arc<Api>>;

/// All routes.
pub(crate) fn router(api: Arc<Api>) -> Router {
    let guarded = Router::new()
        .route("/network", get(network))
        .route("/nodes", get(nodes))
        .route("/nodes/{name}", get(node).delete(remove_node))
        .route("/links", get(links))
        .route("/prefixes", get(prefixes))
        .route("/topology", get(topology))
        .route("/tokens", get(tokens).post(create_token))
        .route("/tokens/{id}", delete(withdraw_token))
        .route("/leaves", post(create_leaf))
        .route("/alerts", get(alerts))
        .route("/mirror", get(mirror))
        .route("/events", get(history::events))
        .route("/events/stream", get(stream::events))
        .fallback(no_resource)
        .method_not_allowed_fallback(no_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&api), authorize));
    Router::new()
        .nest(wattle_api::rest::BASE, guarded)
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(no_resource)
        .method_not_allowed_fallback(no_method)
        .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}

/// A problem as a response.
#[derive(Debug)]
pub(crate) struct Failure(Box<Problem>);

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        refused.to_problem().into()
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0)).into_response();
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static(PROBLEM_TYPE),
        );
        response
    }
}

type Outcome<T> = Result<Json<T>, Failure>;

/// A JSON body whose errors are problem details too.
struct Body<T>(T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(bad(
                "body",
                rejection.status(),
                rejection.body_text(),
                "send JSON with the media type application/json; docs/api.md names the resources",
            )),
        }
    }
}

/// The query of a request, whose errors are problem details too.
struct Query<T>(T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(bad(
                "query",
                rejection.status(),
                rejection.body_text(),
                "pages take ?after=KEY&limit=NUMBER, events ?after=NUMBER or ?since=TIME (RFC 3339, UTC), the event stream ?after=NUMBER",
            )),
        }
    }
}

/// A part of the path, whose errors are problem details too.
struct Path(String);

impl<S: Send + Sync> FromRequestParts<S> for Path {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match extract::Path::<String>::from_request_parts(parts, state).await {
            Ok(extract::Path(part)) => Ok(Self(part)),
            Err(rejection) => Err(bad(
                "path",
                rejection.status(),
                rejection.body_text(),
                "write names and ids as the lists give them, other characters as %XX of UTF-8",
            )),
        }
    }
}

/// Whoever shows the administrator's token, and the revision that the request names.
impl<S: Send + Sync> FromRequestParts<S> for Author {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let named = parts.headers.get(REVISION_HEADER);
        let revision = named.map(|value| match value.to_str() {
            Ok(text) if is_revision(text) => Ok(text.to_owned()),
            Ok(_) | Err(_) => Err(bad(
                "revision",
                StatusCode::BAD_REQUEST,
                format!("the header {REVISION_HEADER} is no revision"),
                "a revision is what `git rev-parse` or `git describe` prints: 1 to 128 visible characters of ASCII",
            )),
        });
        Ok(Self {
            actor: "admin".to_owned(),
            revision: revision.transpose()?,
        })
    }
}

/// Where a page begins.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Paging {
    after: Option<String>,
    limit: Option<usize>,
}

/// The token is compared as a hash and in constant time, so the answer's delay tells nothing.
async fn authorize(State(api): Shared, request: Request, next: Next) -> Response {
    let shown = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(|token| Sha256::digest(token.trim().as_bytes()));
    match shown {
        Some(hash) if bool::from(hash.as_slice().ct_eq(&api.admin_hash)) => next.run(request).await,
        _ => {
            let problem = Problem::new(
                401,
                "unauthorized",
                "unauthorized",
                "no valid bearer token was shown",
            )
            .with_hint("the token is in the file admin.token of the coordinator's state directory");
            let mut response = Failure::from(problem).into_response();
            let scheme = header::HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
            response
        }
    }
}

async fn network(State(api): Shared) -> Json<Network> {
    Json(Network {
        id: api.network.id,
        name: api.network.name.clone(),
        ipv4: api.network.ipv4,
        ipv6: api.network.ipv6,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        term: api.store.term(),
        revision: api.engine.sets.borrow().revision(),
        last_seq: api.store.last_seq(),
        mirrored_seq: api
            .mirror
            .as_ref()
            .map(|mirror| mirror.status().mirrored_seq()),
    })
}

async fn nodes(State(api): Shared, Query(paging): Query<Paging>) -> Outcome<Page<Node>> {
    page(all_nodes(&api).await?, &paging, |node| {
        node.entity.id.to_string()
    })
}

async fn node(State(api): Shared, Path(name): Path) -> Outcome<Node> {
    let named =
        |node: &Node| node.entity.name.as_str() == name || node.entity.id.to_string() == name;
    let found = all_nodes(&api).await?.into_iter().find(named);
    found.map(Json).ok_or_else(|| {
        not_found(
            format!("there is no node {name}"),
            "see `wattle nodes list`",
        )
    })
}

async fn remove_node(
    State(api): Shared,
    by: Author,
    Path(node): Path,
) -> Result<StatusCode, Failure> {
    decide(&api, |answer| Question::Remove { node, by, answer }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn links(State(api): Shared, Query(paging): Query<Paging>) -> Outcome<Page<LinkEntity>> {
    let key = |link: &LinkEntity| format!("{}:{}:{}", link.from, link.to, link.carrier);
    page(view(&api).await?.links, &paging, key)
}

async fn prefixes(State(api): Shared, Query(paging): Query<Paging>) -> Outcome<Page<PrefixEntity>> {
    let mut prefixes = view(&api).await?.prefixes;
    prefixes.sort_by_cached_key(|prefix| prefix.prefix.to_string());
    page(prefixes, &paging, |prefix| prefix.prefix.to_string())
}

async fn topology(State(api): Shared) -> Outcome<Topology> {
    view(&api).await.map(Json)
}

async fn tokens(State(api): Shared) -> Outcome<Page<TokenRecord>> {
    let items = api.store.tokens().list().await.map_err(broken)?;
    Ok(Json(Page { items, next: None }))
}

async fn create_token(
    State(api): Shared,
    by: Author,
    Body(request): Body<TokenRequest>,
) -> Result<(StatusCode, Json<TokenCreated>), Failure> {
    let ttl_s = request.ttl_s.unwrap_or(DEFAULT_TTL_S);
    if !(1..=invitation::MAX_TTL_S).contains(&ttl_s) {
        let detail = format!("ttl_s is 1 to {} (30 days)", invitation::MAX_TTL_S);
        return Err(Problem::new(422, "invalid", "invalid request", detail)
            .with_hint("leave it out for 600 s, or give a number in that range")
            .at("/ttl_s")
            .into());
    }
    let scope = TokenScope {
        name: request.name,
        prefixes: request.prefixes,
        tags: request.tags,
        site: request.site,
    };
    let created = api
        .inviter
        .invite(&api.store.tokens(), &scope, ttl_s, wall())
        .await
        .map_err(broken)?;
    let detail = format!("good for {ttl_s} s");
    let id = &created.record.id;
    note(&api, AuditAction::TokenCreated, by, id, detail).await?;
    Ok((StatusCode::CREATED, Json(created)))
}

async fn withdraw_token(
    State(api): Shared,
    by: Author,
    Path(id): Path,
) -> Result<StatusCode, Failure> {
    match api.store.tokens().withdraw(&id).await.map_err(broken)? {
        true => {
            note(&api, AuditAction::TokenWithdrawn, by, &id, String::new()).await?;
            Ok(StatusCode::NO_CONTENT)
        }
        false => Err(not_found(
            format!("there is no unused token {id}"),
            "see `wattle tokens list`; who used one is removed with `wattle nodes remove`",
        )),
    }
}

/// Notes in the audit trail what was done to a token.
async fn note(
    api: &Api,
    action: AuditAction,
    by: Author,
    token: &str,
    detail: String,
) -> Result<(), Failure> {
    let record = AuditRecord {
        action,
        actor: by.actor,
        subject: format!("token:{token}"),
        detail,
        revision: by.revision,
        seq: api.store.last_seq(),
        term: api.store.term(),
        network: api.network.id,
        ts: wall(),
    };
    api.store.note(&record).await.map_err(broken)
}

async fn create_leaf(
    State(api): Shared,
    by: Author,
    Body(request): Body<LeafRequest>,
) -> Result<(StatusCode, Json<LeafCreated>), Failure> {
    let request = Box::new(request);
    let created = decide(&api, |answer| Question::AddLeaf {
        request,
        by,
        answer,
    })
    .await?;
    Ok((StatusCode::CREATED, Json(created)))
}

/// The alerts that are raised.
async fn alerts(State(api): Shared, Query(paging): Query<Paging>) -> Outcome<Page<Alert>> {
    let raised = api.store.alerts().await.map_err(broken)?;
    page(raised, &paging, |alert| alert.id.clone())
}

async fn mirror(State(api): Shared) -> Outcome<wattle_mirror::Status> {
    let status = api.mirror.as_ref().map(|mirror| Json(mirror.status()));
    status.ok_or_else(|| {
        not_found(
            "no Kafka cluster is configured",
            "add [kafka] to the coordinator's configuration and restart it",
        )
    })
}

/// Ready when the engine answers and the database can be read.
async fn ready(State(api): Shared) -> Response {
    let engine = api.engine.ask(|answer| Question::Nodes { answer }).await;
    match (engine, api.store.first_seq().await) {
        (Some(_), Ok(_)) => "ok\n".into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response(),
    }
}

async fn metrics(State(api): Shared) -> Response {
    let nodes = api
        .engine
        .ask(|answer| Question::Nodes { answer })
        .await
        .unwrap_or_default();
    let connected = nodes.iter().filter(|node| node.connected).count() as u64;
    // A scrape goes without a number that cannot be had.
    let raised = api.store.alerts().await.ok();
    let mut text = String::new();
    let mut gauge = |name, help, value| expose(&mut text, name, help, "gauge", value);
    gauge("wattle_coordinator_nodes", "Members.", nodes.len() as u64);
    gauge(
        "wattle_coordinator_agents_connected",
        "Connected members.",
        connected,
    );
    gauge(
        "wattle_coordinator_term",
        "Term of this coordinator.",
        api.store.term(),
    );
    gauge(
        "wattle_coordinator_last_seq",
        "Newest topology event.",
        api.store.last_seq(),
    );
    if let Some(raised) = raised {
        let raised = raised.len() as u64;
        gauge(
            "wattle_coordinator_alerts",
            "Alerts that are raised.",
            raised,
        );
    }
    api.counters.expose(&mut text);
    for metric in api
        .mirror
        .iter()
        .flat_map(|mirror| mirror.status().metrics())
    {
        let kind = if metric.counter { "counter" } else { "gauge" };
        expose(&mut text, metric.name, metric.help, kind, metric.value);
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn all_nodes(api: &Api) -> Result<Vec<Node>, Failure> {
    api.engine
        .ask(|answer| Question::Nodes { answer })
        .await
        .ok_or_else(unavailable)
}

async fn view(api: &Api) -> Result<Topology, Failure> {
    api.engine
        .ask(|answer| Question::Topology { answer })
        .await
        .ok_or_else(unavailable)
}

async fn decide<T>(api: &Api, question: impl FnOnce(Answer<T>) -> Question) -> Result<T, Failure> {
    api.engine
        .ask(question)
        .await
        .ok_or_else(unavailable)?
        .map_err(Failure::from)
}

/// The items after the one named by `after`. They must be in the order of their keys.
fn page<T: Serialize>(
    items: Vec<T>,
    paging: &Paging,
    key: impl Fn(&T) -> String,
) -> Outcome<Page<T>> {
    let limit = paging.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let after = paging.after.as_deref().unwrap_or("");
    let mut rest = items.into_iter().filter(|item| key(item).as_str() > after);
    let items: Vec<T> = rest.by_ref().take(limit).collect();
    let more = rest.next().is_some();
    let next = if more { items.last().map(key) } else { None };
    Ok(Json(Page { items, next }))
}

async fn no_resource(uri: Uri) -> Failure {
    let detail = format!("there is no resource {}", uri.path());
    not_found(
        detail,
        "the API is below /api/v1; docs/api.md names its resources",
    )
}

async fn no_method(method: Method, uri: Uri) -> Failure {
    let detail = format!("{} does not take {method}", uri.path());
    bad(
        "method",
        StatusCode::METHOD_NOT_ALLOWED,
        detail,
        "the header Allow of this answer names the methods that it takes",
    )
}

fn not_found(detail: impl Into<String>, hint: &str) -> Failure {
    Problem::new(404, "not-found", "not found", detail)
        .with_hint(hint)
        .into()
}

fn unavailable() -> Failure {
    Refused::unavailable().into()
}

fn broken(error: impl std::fmt::Display) -> Failure {
    tracing::error!(%error, "A request failed");
    unavailable()
}

/// A request of which one part cannot be.
fn bad(part: &str, status: StatusCode, detail: String, hint: &str) -> Failure {
    let kind = format!("bad-{part}");
    Problem::new(status.as_u16(), &kind, "invalid request", detail)
        .with_hint(hint)
        .into()
}

/// `Last-Event-ID` as a browser sends it after a break.
fn last_event_id(headers: &HeaderMap) -> Option<&str> {
    headers.get("last-event-id")?.to_str().ok()
}

/// The time, for snapshots.
fn now() -> Timestamp {
    wall()
}
