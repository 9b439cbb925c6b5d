//! Joining and the coordinator's identity, against a coordinator of a few lines.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use wattle_agent::coordinator::{Connection, ConnectionError, JoinError, JoinRequest, join};
use wattle_agent::state::{Fingerprint, Keys, StateDir};
use wattle_api::agent::{ALPN, ErrorCode, Join, NetworkInfo, ToAgent, ToCoordinator};
use wattle_api::frame;
use wattle_api::token::{JoinToken, Secret};
use wattle_model::{NodeIndex, UnixTime};
use wattle_wire::grant::{Grant, Holder, Peer, PeerSet, SignedGrant};
use wattle_wire::key::SecretKey;

#[tokio::test]
async fn a_node_joins_with_a_token_and_is_complete_on_disk() {
    let lab = Lab::start(Answer::Honest).await;
    let joined = join(&lab.state, lab.request()).await.unwrap();
    assert_eq!((joined.name.as_str(), joined.others), ("newcomer", 0));
    assert_eq!(lab.state.network().unwrap().unwrap(), joined.network);
    assert!(lab.state.peers().unwrap().signed_set.is_some());
}

#[tokio::test]
async fn another_certificate_is_no_coordinator() {
    let lab = Lab::start(Answer::Honest).await;
    let keys = lab.state.keys().unwrap();
    let wrong = Fingerprint([1; 32]);
    let outcome = Connection::open(&lab.address.to_string(), wrong, keys.identity()).await;
    let Err(ConnectionError::Impostor {
        found, expected, ..
    }) = outcome
    else {
        panic!("an impostor was believed");
    };
    assert_eq!((found, expected), (lab.fingerprint, wrong));
}

#[tokio::test]
async fn nobody_listening_is_said_with_the_address() {
    let lab = Lab::start(Answer::Honest).await;
    let keys = lab.state.keys().unwrap();
    let outcome = Connection::open("127.0.0.1:1", lab.fingerprint, keys.identity()).await;
    let error = outcome.err().unwrap().to_string();
    assert!(
        error.contains("cannot reach the coordinator at 127.0.0.1:1"),
        "{error}"
    );
}

#[tokio::test]
async fn a_refused_join_stores_nothing_and_says_why() {
    let lab = Lab::start(Answer::Refuse).await;
    let error = join(&lab.state, lab.request()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the coordinator refused: the token was used; make another"
    );
    assert!(lab.state.network().unwrap().is_none());
    assert!(lab.state.peers().unwrap().signed_set.is_none());
}

#[tokio::test]
async fn a_peer_set_that_the_root_did_not_sign_is_refused() {
    let lab = Lab::start(Answer::Forge).await;
    let error = join(&lab.state, lab.request()).await.unwrap_err();
    assert!(matches!(error, JoinError::PeerSet(_)), "{error}");
    assert!(lab.state.network().unwrap().is_none());
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Honest,
    Refuse,
    Forge,
}

struct Lab {
    _directory: tempfile::TempDir,
    state: StateDir,
    address: SocketAddr,
    fingerprint: Fingerprint,
}

impl Lab {
    /// A coordinator on a loopback port that answers every join in one way.
    async fn start(answer: Answer) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(&directory.path().join("state")).unwrap();
        let certified = rcgen::generate_simple_self_signed(vec!["c".to_owned()]).unwrap();
        let certificate = certified.cert.der().clone();
        let fingerprint = Fingerprint(Sha256::digest(&certificate).into());
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.alpn_protocols = vec![ALPN.to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let identity = state.keys().unwrap();
        tokio::spawn(serve(
            listener,
            TlsAcceptor::from(Arc::new(config)),
            identity,
            answer,
        ));
        Self {
            _directory: directory,
            state,
            address,
            fingerprint,
        }
    }

    fn request(&self) -> JoinRequest {
        let token = JoinToken {
            network: root().public().network_id(),
            fingerprint: self.fingerprint.0,
            secret: Secret::new([5; 32]),
            addresses: vec![self.address.to_string()],
        };
        JoinRequest {
            token,
            name: None,
            prefixes: vec![],
            candidates: vec![],
        }
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, member: Keys, answer: Answer) {
    while let Ok((stream, _)) = listener.accept().await {
        let Ok(mut stream) = acceptor.accept(stream).await else {
            continue;
        };
        let mut decoder = frame::Decoder::default();
        let mut piece = [0; 4096];
        let asked: Join = loop {
            match decoder.next_message::<ToCoordinator>().unwrap() {
                Some(ToCoordinator::Join(join)) => break *join,
                Some(_) => {}
                None => {
                    let length = stream.read(&mut piece).await.unwrap();
                    decoder.push(&piece[..length]);
                }
            }
        };
        assert_eq!(asked.wireguard_key, member.wireguard_public());
        stream
            .write_all(&frame::encode(&reply(&member, answer)).unwrap())
            .await
            .unwrap();
        stream.flush().await.unwrap();
    }
}

fn reply(member: &Keys, answer: Answer) -> ToAgent {
    if answer == Answer::Refuse {
        return ToAgent::Error {
            code: ErrorCode::TokenUsed,
            message: "the token was used".to_owned(),
            hint: "make another".to_owned(),
        };
    }
    let root = root();
    let mut set = PeerSet::empty(root.public().network_id());
    let grant = Grant {
        network: set.network,
        node: member.node_id(),
        holder: Holder::Agent {
            identity: member.identity_public(),
        },
        wireguard: member.wireguard_public(),
        index: NodeIndex(1),
        name: "newcomer".parse().unwrap(),
        addresses: vec![],
        prefixes: vec![],
        tags: vec![],
        site: None,
        serial: 1,
        not_after: UnixTime(u64::MAX),
    };
    let signer = if answer == Answer::Forge {
        SecretKey::from_seed(&[66; 32])
    } else {
        root.clone()
    };
    let grant = SignedGrant::sign(grant, &signer);
    let bytes = grant.to_bytes();
    set.revision = 1;
    set.peers.insert(
        member.node_id(),
        Peer {
            grant,
            candidates: vec![],
            neighbours: None,
        },
    );
    let network = NetworkInfo {
        id: set.network,
        name: "lab".to_owned(),
        root_key: root.public().as_bytes().to_vec().into(),
        ipv4: None,
        ipv6: None,
        coordinators: vec!["127.0.0.1:5741".to_owned()],
        fingerprint: vec![0; 32].into(),
    };
    let peer_set = set.sign(&signer).into();
    ToAgent::Joined {
        grant: bytes.into(),
        network: Box::new(network),
        revision: 1,
        peer_set,
    }
}

fn root() -> SecretKey {
    SecretKey::from_seed(&[7; 32])
}
