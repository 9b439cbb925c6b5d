//! A coordinator in a process of its own, an agent that speaks the real protocol with the real client, and a small HTTP
//! client. Everything on loopback.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step fails the test that took it"
)]

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime as TlsTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wattle_agent::coordinator::{Connection, ConnectionError};
use wattle_agent::state::Fingerprint;
use wattle_api::agent::{ErrorCode, Join, PROTOCOL, PeerSetUpdate, ToAgent, ToCoordinator};
use wattle_api::rest::Problem;
use wattle_api::token::JoinToken;
use wattle_model::{
    ApartCosts, Carrier, Cost, Micros, NetworkId, NodeId, Ppm, SeqNo, UnixTime, WgKey,
};
use wattle_wire::grant::PeerSet;
use wattle_wire::key::{PublicKey, SecretKey};
use wattle_wire::record::{Body, LinkEntry, LinksBody, Record, RecordKey, RecordKind};

/// Nothing on loopback takes longer, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A coordinator with a network of its own.
pub(crate) struct Coordinator {
    directory: TempDir,
    pub(crate) address: String,
    child: Option<Child>,
}

pub(crate) fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_wattle-coordinator"))
}

impl Coordinator {
    /// Makes a network and runs its coordinator.
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let address = format!("127.0.0.1:{port}");
        let mut coordinator = Self {
            directory,
            address,
            child: None,
        };
        let made = coordinator.init();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        coordinator.run().await;
        coordinator
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub(crate) fn init(&self) -> Output {
        let mut init = command();
        init.arg("init").arg("--state").arg(self.state());
        init.args(["--network", "lab", "--listen", &self.address])
            .output()
            .unwrap()
    }

    /// Runs it (again) and waits until it is ready.
    pub(crate) async fn run(&mut self) {
        let mut serve = command();
        serve
            .arg("serve")
            .arg("--state")
            .arg(self.state())
            .stderr(Stdio::piped());
        self.child = Some(serve.spawn().unwrap());
        for _ in 0..600 {
            if let Ok((200, _)) = self.try_http("GET", "/readyz", "").await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.kill();
        panic!("the coordinator is not ready");
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and what it said before it ended in order.
    pub(crate) fn terminate(&mut self) -> String {
        let mut child = self.child.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let mut log = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut log)
            .unwrap();
        assert!(child.wait().unwrap().success(), "{log}");
        log
    }

    /// A token made beside the running coordinator.
    pub(crate) fn token(&self, more: &[&str]) -> JoinToken {
        let mut create = command();
        create
            .args(["token", "create"])
            .arg("--state")
            .arg(self.state())
            .args(more);
        let output = create.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().parse().unwrap()
    }

    fn admin_token(&self) -> String {
        std::fs::read_to_string(self.state().join("admin.token"))
            .unwrap()
            .trim()
            .to_owned()
    }

    async fn https(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = TcpStream::connect(&self.address).await?;
        let name = ServerName::try_from("wattle-coordinator").unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }

    async fn request(
        &self,
        method: &str,
        path: &str,
        more: &str,
        body: &str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut stream = self.https().await?;
        let token = self.admin_token();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: c\r\nauthorization: Bearer {token}\r\n{more}\
             content-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await?;
        Ok(stream)
    }

    /// A whole answer, headers included.
    async fn answer(&self, method: &str, path: &str, body: &str) -> std::io::Result<String> {
        let mut stream = self.request(method, path, "", body).await?;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// The problem that a request is refused with; fails if it is none.
    pub(crate) async fn problem(&self, method: &str, path: &str, body: &str) -> Problem {
        let answer = self.answer(method, path, body).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains("content-type: application/problem+json"),
            "{method} {path}: {answer}"
        );
        let problem: Problem = serde_json::from_str(body).unwrap();
        let status = format!("HTTP/1.1 {} ", problem.status);
        assert!(head.starts_with(&status), "{answer}");
        problem
    }

    async fn try_http(
        &self,
        method: &str,
        path: &str,
        body: &str,
    ) -> std::io::Result<(u16, String)> {
        let answer = self.answer(method, path, body).await?;
        let status = answer
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or(0);
        Ok((
            status,
            answer
                .split_once("\r\n\r\n")
                .map(|(_, body)| body.to_owned())
                .unwrap_or_default(),
        ))
    }

    pub(crate) async fn http(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        self.try_http(method, path, body).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.http("GET", path, "").await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    pub(crate) async fn stream(&self, last_event_id: Option<&str>) -> Events {
        let resume = last_event_id
            .map(|id| format!("last-event-id: {id}\r\n"))
            .unwrap_or_default();
        let stream = self
            .request("GET", "/api/v1/events/stream", &resume, "")
            .await
            .unwrap();
        Events {
            stream: BufReader::new(stream),
        }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A reader of server-sent events.
pub(crate) struct Events {
    stream: BufReader<TlsStream<TcpStream>>,
}

/// One server-sent event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sse {
    pub(crate) name: String,
    pub(crate) id: Option<String>,
    pub(crate) data: String,
}

impl Events {
    /// The next event; comments, headers and chunk lengths are passed over.
    pub(crate) async fn next(&mut self) -> Sse {
        tokio::time::timeout(PATIENCE, self.read())
            .await
            .expect("an event in time")
    }

    async fn read(&mut self) -> Sse {
        let mut event = Sse {
            name: String::new(),
            id: None,
            data: String::new(),
        };
        loop {
            let mut line = String::new();
            assert!(
                self.stream.read_line(&mut line).await.unwrap() > 0,
                "the stream ended"
            );
            let line = line.trim_end();
            match line.split_once(": ") {
                Some(("event", name)) => event.name = name.to_owned(),
                Some(("id", id)) => event.id = Some(id.to_owned()),
                Some(("data", data)) => event.data.push_str(data),
                _ if line.is_empty() && !event.name.is_empty() => return event,
                _ => {}
            }
        }
    }

    /// The snapshot that a stream without a position begins with: its entities' keys, and the position after it.
    pub(crate) async fn snapshot(&mut self) -> (Vec<String>, String) {
        assert_eq!(self.next().await.name, "snapshot-begin");
        let mut keys = Vec::new();
        loop {
            let event = self.next().await;
            if event.name == "snapshot-end" {
                return (keys, event.id.unwrap());
            }
            assert_eq!((event.name.as_str(), event.id), ("topology", None));
            let value: Value = serde_json::from_str(&event.data).unwrap();
            assert_eq!(value["op"], "r");
            keys.push(value["key"].as_str().unwrap().to_owned());
        }
    }
}

/// A node with its keys.
#[derive(Clone)]
pub(crate) struct Agent {
    pub(crate) key: SecretKey,
    wireguard: WgKey,
    name: String,
}

/// A refusal as the agent saw it.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) ErrorCode, pub(crate) String);

/// A node that is a member and connected.
pub(crate) struct Member {
    pub(crate) agent: Agent,
    pub(crate) link: Connection,
    pub(crate) root: PublicKey,
    pub(crate) set: PeerSet,
}

impl Agent {
    pub(crate) fn new(seed: u8) -> Self {
        let key = SecretKey::from_seed(&[seed; 32]);
        Self {
            key,
            wireguard: WgKey([seed; 32]),
            name: format!("n{seed}"),
        }
    }

    pub(crate) fn named(seed: u8, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::new(seed)
        }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.key.public().node_id()
    }

    pub(crate) async fn open(&self, token: &JoinToken) -> Result<Connection, ConnectionError> {
        Connection::open(
            &token.addresses[0],
            Fingerprint(token.fingerprint),
            &self.key,
        )
        .await
    }

    pub(crate) async fn hello(&self, token: &JoinToken, revision: u64) -> Connection {
        let mut link = self.open(token).await.unwrap();
        link.send(&ToCoordinator::Hello {
            protocol: PROTOCOL,
            agent_version: "test".into(),
            revision,
            epoch: 1,
            features: vec![],
        })
        .await
        .unwrap();
        link
    }

    pub(crate) async fn join(&self, token: &JoinToken) -> Result<Member, Refused> {
        let mut link = self.hello(token, 0).await;
        let join = Join {
            token: token.to_string(),
            name: Some(self.name.parse().unwrap()),
            wireguard_key: self.wireguard,
            index: None,
            prefixes: vec![],
            candidates: vec!["192.0.2.1:51820".parse().unwrap()],
        };
        link.send(&ToCoordinator::Join(Box::new(join)))
            .await
            .unwrap();
        let mut answer = receive(&mut link).await;
        while matches!(answer, ToAgent::Welcome { .. } | ToAgent::PeerSet(_)) {
            answer = receive(&mut link).await;
        }
        match answer {
            ToAgent::Joined {
                network, peer_set, ..
            } => {
                let root = PublicKey::from_bytes(&network.root_key.to_array().unwrap()).unwrap();
                let set = PeerSet::open(&peer_set.0, &root).unwrap();
                Ok(Member {
                    agent: self.clone(),
                    link,
                    root,
                    set,
                })
            }
            ToAgent::Error { code, message, .. } => Err(Refused(code, message)),
            other => panic!("{other:?}"),
        }
    }
}

impl Member {
    /// Waits for a peer set with so many members.
    pub(crate) async fn until_peers(&mut self, count: usize) {
        while self.set.peers.len() != count {
            if let ToAgent::PeerSet(PeerSetUpdate::Snapshot { set, .. }) =
                receive(&mut self.link).await
            {
                let set = PeerSet::open(&set.0, &self.root).unwrap();
                set.may_follow(&self.set).unwrap();
                self.set = set;
            }
        }
    }

    /// Reports links to others.
    pub(crate) async fn report(&mut self, counter: u64, to: &[NodeId], rtt: u64) {
        let record = self.links(counter, to, rtt);
        let records = vec![record.bytes().into()];
        self.link
            .send(&ToCoordinator::Records { records })
            .await
            .unwrap();
    }

    pub(crate) fn links(&self, counter: u64, to: &[NodeId], rtt: u64) -> Record {
        let entry = |neighbour: &NodeId| LinkEntry {
            neighbour: *neighbour,
            carrier: Carrier::Udp4,
            cost: Cost(100),
            apart: ApartCosts::NONE,
            rtt: Micros(rtt),
            jitter: Micros(1),
            loss: Ppm(0),
        };
        let body = Body::Links(LinksBody {
            at: UnixTime(1),
            links: to.iter().map(entry).collect(),
            ..LinksBody::default()
        });
        let key = RecordKey {
            origin: self.agent.id(),
            kind: RecordKind::Links,
            part: 0,
        };
        let network: NetworkId = self.set.network;
        Record::sign(
            network,
            key,
            SeqNo(1 << 32 | counter),
            3600,
            &body,
            &self.agent.key,
        )
    }
}

pub(crate) async fn receive(link: &mut Connection) -> ToAgent {
    tokio::time::timeout(PATIENCE, link.receive())
        .await
        .expect("an answer in time")
        .unwrap()
}

/// The HTTP client looks at no certificate: the agents' client does.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: TlsTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
