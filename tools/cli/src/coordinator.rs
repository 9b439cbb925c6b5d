//! The coordinator's REST API: which coordinator, how to be let in, requests and their refusals.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wattle_agent::state::Fingerprint;
use wattle_api::rest::{BASE, Page, Problem, REVISION_HEADER, is_revision};
use zeroize::Zeroizing;

use crate::args::CoordinatorArgs;
use crate::failure::{Exit, Failure, Outcome};
use crate::pinned::{Body, Connection};

/// Where a coordinator on this host keeps its state.
pub(crate) const DEFAULT_STATE: &str = "/var/lib/wattle-coordinator";

/// Below its state: the administrator's token, the SHA-256 of its certificate, and where it listens.
const TOKEN_FILE: &str = "admin.token";
const FINGERPRINT_FILE: &str = "fingerprint";
const NETWORK_FILE: &str = "network.json";

/// The largest answer that is kept: a page of nodes is far smaller.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// A coordinator that lets us in.
pub(crate) struct Coordinator {
    connection: Connection,
    address: String,
    token: Zeroizing<String>,
    revision: Option<String>,
}

impl Coordinator {
    /// Connects to the coordinator that the command line or the environment names, or to the one on this host.
    pub(crate) async fn connect(args: &CoordinatorArgs) -> Outcome<Self> {
        let address = match &args.coordinator {
            Some(given) => address(given),
            None => local_address(&args.coordinator_state)?,
        };
        let token = token(args)?;
        let connection = Connection::open(&address, fingerprint(args)?).await?;
        Ok(Self {
            connection,
            address,
            token,
            revision: revision(args)?,
        })
    }

    /// What stands at `path`, below the API's base.
    pub(crate) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Outcome<T> {
        let answer = self.send(Method::GET, path, None).await?;
        self.read(answer).await
    }

    /// All items of the list at `path`, page by page.
    pub(crate) async fn list<T: DeserializeOwned>(&mut self, path: &str) -> Outcome<Vec<T>> {
        let mut items = Vec::new();
        let mut after = None;
        loop {
            let query = after
                .map(|after: String| format!("?after={after}"))
                .unwrap_or_default();
            let page: Page<T> = self.get(&format!("{path}{query}")).await?;
            items.extend(page.items);
            after = page.next;
            if after.is_none() {
                return Ok(items);
            }
        }
    }

    /// Asks for something to be made at `path`.
    pub(crate) async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &impl Serialize,
    ) -> Outcome<T> {
        let body = serde_json::to_vec(body).map_err(std::io::Error::from)?;
        let answer = self.send(Method::POST, path, Some(body)).await?;
        self.read(answer).await
    }

    /// Removes what stands at `path`.
    pub(crate) async fn delete(&mut self, path: &str) -> Outcome {
        let answer = self.send(Method::DELETE, path, None).await?;
        self.body(answer).await.map(drop)
    }

    /// The body of what stands at `path`, as it comes.
    pub(crate) async fn stream(&mut self, path: &str) -> Outcome<Incoming> {
        let answer = self.send(Method::GET, path, None).await?;
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        Err(self
            .body(answer)
            .await
            .err()
            .unwrap_or_else(|| self.nonsense("an empty refusal")))
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Outcome<Response<Incoming>> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{BASE}{path}"))
            .header(HOST, &self.address)
            .header(ACCEPT, "*/*")
            .header(AUTHORIZATION, format!("Bearer {}", self.token.as_str()));
        if let Some(revision) = &self.revision {
            request = request.header(REVISION_HEADER, revision);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Body::from(body.unwrap_or_default()));
        let request = request.map_err(|error| self.nonsense(&error.to_string()))?;
        self.connection.send(request).await
    }

    async fn read<T: DeserializeOwned>(&self, answer: Response<Incoming>) -> Outcome<T> {
        let body = self.body(answer).await?;
        serde_json::from_slice(&body).map_err(|error| self.nonsense(&error.to_string()))
    }

    async fn body(&self, answer: Response<Incoming>) -> Outcome<hyper::body::Bytes> {
        let status = answer.status();
        let body = http_body_util::Limited::new(answer.into_body(), MAX_ANSWER_BYTES);
        let body = body
            .collect()
            .await
            .map_err(|error| self.nonsense(&error.to_string()))?
            .to_bytes();
        if status.is_success() {
            Ok(body)
        } else {
            Err(refusal(status, &body))
        }
    }

    fn nonsense(&self, why: &str) -> Failure {
        let what = format!(
            "the coordinator at {} does not speak this API",
            self.address
        );
        Failure::new(
            Exit::Failure,
            what,
            why,
            "compare `wattle version` with the coordinator's",
        )
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    let exit = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Exit::Permission,
        StatusCode::NOT_FOUND => Exit::NotFound,
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Exit::Usage,
        _ => Exit::Failure,
    };
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => {
            let hint = problem
                .hint
                .unwrap_or_else(|| "journalctl -u wattle-coordinator -n 50".to_owned());
            Failure::new(
                exit,
                format!("the coordinator refused: {}", problem.title),
                problem.detail,
                hint,
            )
        }
        Err(_) => Failure::new(exit, "the coordinator refused", status, "check the token"),
    }
}

/// `host:port`, with or without a scheme in front.
pub(crate) fn address(given: &str) -> String {
    let given = given.trim_start_matches("https://").trim_end_matches('/');
    let has_port = match given.strip_prefix('[') {
        Some(v6) => !v6.ends_with(']'),
        None => given.contains(':'),
    };
    if has_port {
        given.to_owned()
    } else {
        format!("{given}:{}", wattle_api::agent::DEFAULT_PORT)
    }
}

/// Where the coordinator on this host listens, as its state says.
fn local_address(state: &Path) -> Outcome<String> {
    #[derive(serde::Deserialize)]
    struct Network {
        listen: SocketAddr,
    }
    let path = state.join(NETWORK_FILE);
    let next = "name the coordinator: --coordinator HOST:PORT";
    let text = read(&path, "where the coordinator listens", next)?;
    let network: Network = serde_json::from_str(&text).map_err(|error| {
        Failure::new(
            Exit::Failure,
            format!("{} is damaged", path.display()),
            error,
            next,
        )
    })?;
    Ok(reachable(network.listen).to_string())
}

/// Who listens everywhere is reached over the loopback.
fn reachable(mut listen: SocketAddr) -> SocketAddr {
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => listen.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => listen.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    listen
}

fn token(args: &CoordinatorArgs) -> Outcome<Zeroizing<String>> {
    if args.token_file.is_none()
        && let Ok(token) = std::env::var("WATTLE_TOKEN")
    {
        return Ok(Zeroizing::new(token.trim().to_owned()));
    }
    let path = args
        .token_file
        .clone()
        .unwrap_or_else(|| args.coordinator_state.join(TOKEN_FILE));
    let next =
        "run it as root on the coordinator's host, or give --token-file FILE or WATTLE_TOKEN";
    read(&path, "the administrator's token", next).map(Zeroizing::new)
}

/// Build servers set a variable to nothing where they have no value for it: that is none.
fn revision(args: &CoordinatorArgs) -> Outcome<Option<String>> {
    let named = || std::env::var("WATTLE_REVISION").ok();
    let Some(text) = args.revision.clone().or_else(named) else {
        return Ok(None);
    };
    match text.trim() {
        "" => Ok(None),
        text if is_revision(text) => Ok(Some(text.to_owned())),
        _ => Err(Failure::new(
            Exit::Usage,
            "the Git revision cannot be told",
            "a revision is 1 to 128 visible characters of ASCII",
            "give another --revision, or set or unset WATTLE_REVISION",
        )),
    }
}

fn fingerprint(args: &CoordinatorArgs) -> Outcome<Fingerprint> {
    if let Some(fingerprint) = args.fingerprint {
        return Ok(fingerprint);
    }
    let path: PathBuf = args.coordinator_state.join(FINGERPRINT_FILE);
    let next = "run it as root on the coordinator's host, or give --fingerprint HEX";
    let text = read(&path, "the coordinator's fingerprint", next)?;
    text.parse().map_err(|error| {
        Failure::new(
            Exit::Failure,
            format!("{} is damaged", path.display()),
            error,
            next,
        )
    })
}

fn read(path: &Path, what: &str, next: &str) -> Outcome<String> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| {
        Failure::file(
            format!("cannot read {what} in {}", path.display()),
            &error,
            next,
        )
    })?;
    Ok(text.trim().to_owned())
}

/// Runs what awaits the network; one thread is plenty.
pub(crate) fn block_on<T>(work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_given_in_any_usual_form() {
        let cases = [
            ("c.example", "c.example:5741"),
            ("https://c.example:1/", "c.example:1"),
            ("[fd00::1]", "[fd00::1]:5741"),
            ("[fd00::1]:9", "[fd00::1]:9"),
        ];
        for (given, expected) in cases {
            assert_eq!(address(given), expected);
        }
    }

    #[test]
    fn the_coordinator_on_this_host_is_found_by_its_state() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(
            local_address(state.path()).unwrap_err().exit,
            Exit::NotFound
        );
        for (listen, expected) in [
            ("0.0.0.0:5741", "127.0.0.1:5741"),
            ("[::]:1", "[::1]:1"),
            ("10.0.0.1:2", "10.0.0.1:2"),
        ] {
            let text = format!(r#"{{"name":"lab","listen":"{listen}","more":1}}"#);
            std::fs::write(state.path().join(NETWORK_FILE), text).unwrap();
            assert_eq!(local_address(state.path()).unwrap(), expected);
        }
    }

    #[test]
    fn a_refusal_keeps_detail_and_hint_and_has_the_code_of_its_status() {
        let problem = Problem::new(404, "no-node", "no such node", "no node is named x")
            .with_hint("wattle nodes list");
        let body = serde_json::to_vec(&problem).unwrap();
        let failure = refusal(StatusCode::NOT_FOUND, &body);
        assert_eq!(failure.exit, Exit::NotFound);
        assert_eq!(
            (failure.why.as_str(), failure.next.as_str()),
            ("no node is named x", "wattle nodes list")
        );
        assert_eq!(
            refusal(StatusCode::UNAUTHORIZED, b"<html>").exit,
            Exit::Permission
        );
    }
}
