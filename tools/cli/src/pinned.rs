//! HTTP over TLS 1.3 with a server that is known by the SHA-256 of its certificate, and by nothing else.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use wattle_agent::state::Fingerprint;

use crate::failure::{Exit, Failure, Outcome, gave_up};

/// A coordinator that takes longer to answer is away.
const PATIENCE: Duration = Duration::from_secs(10);

/// The body of a request.
pub(crate) type Body = http_body_util::Full<Bytes>;

/// A connection on which requests are made one after the other.
pub(crate) struct Connection {
    sender: http1::SendRequest<Body>,
    address: String,
}

impl Connection {
    /// Connects to the server at `address` (`host:port`).
    pub(crate) async fn open(address: &str, fingerprint: Fingerprint) -> Outcome<Self> {
        let opened = timeout(PATIENCE, handshake(address, fingerprint)).await;
        let sender = opened.map_err(|_| late(address))??;
        Ok(Self {
            sender,
            address: address.to_owned(),
        })
    }

    /// Makes a request; the headers of the answer are awaited, its body is not.
    pub(crate) async fn send(&mut self, request: Request<Body>) -> Outcome<Response<Incoming>> {
        let answered = timeout(PATIENCE, self.sender.send_request(request)).await;
        let answer = answered.map_err(|_| late(&self.address))?;
        answer.map_err(|error| broken(&self.address, &error))
    }
}

fn late(address: &str) -> Failure {
    gave_up(
        &format!("an answer of the coordinator at {address}"),
        PATIENCE,
        "try again",
    )
}

fn broken(address: &str, error: &dyn std::error::Error) -> Failure {
    let what = format!("the connection to the coordinator at {address} broke");
    Failure::new(Exit::Failure, what, error, "try again")
}

async fn handshake(address: &str, expected: Fingerprint) -> Outcome<http1::SendRequest<Body>> {
    let stream = TcpStream::connect(address).await.map_err(|error| {
        let what = format!("the coordinator at {address} is not reachable");
        let next = "systemctl status wattle-coordinator on its host, or name another: --coordinator HOST:PORT";
        Failure::new(Exit::Unreachable, what, error, next)
    })?;
    let verifier = Arc::new(Pinned {
        expected,
        found: Mutex::new(None),
        provider: ring::default_provider(),
    });
    let config = client_config(Arc::clone(&verifier)).map_err(|error| broken(address, &error))?;
    // The name is not looked at: the pinned certificate says who it is.
    let name = ServerName::try_from("wattle-coordinator").expect("a DNS name");
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await;
    let stream = stream.map_err(|error| verifier.explain(address, &error))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(address, &error))?;
    tokio::spawn(connection);
    Ok(sender)
}

fn client_config(verifier: Arc<Pinned>) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Accepts one certificate alone, whatever else it says.
#[derive(Debug)]
struct Pinned {
    expected: Fingerprint,
    /// What an impostor showed, for the message.
    found: Mutex<Option<Fingerprint>>,
    provider: CryptoProvider,
}

impl Pinned {
    fn explain(&self, address: &str, error: &std::io::Error) -> Failure {
        let Some(found) = self.found.lock().ok().and_then(|found| *found) else {
            return broken(address, error);
        };
        let why = format!(
            "its certificate has the fingerprint {found}, expected {}",
            self.expected
        );
        let what = format!("whoever answers at {address} is not the coordinator");
        Failure::new(
            Exit::Failure,
            what,
            why,
            "check the address and --fingerprint",
        )
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = Fingerprint(Sha256::digest(end_entity).into());
        if found == self.expected {
            return Ok(ServerCertVerified::assertion());
        }
        if let Ok(mut seen) = self.found.lock() {
            *seen = Some(found);
        }
        Err(rustls::Error::InvalidCertificate(
            rustls::CertificateError::UnknownIssuer,
        ))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
