//! One TLS connection: the coordinator is known by its certificate's fingerprint, the agent by its identity key.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wattle_api::agent::{ALPN, ToAgent, ToCoordinator};
use wattle_api::frame;
use wattle_wire::key::SecretKey;

use crate::state::Fingerprint;

/// A coordinator that takes longer to answer is away.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no connection, or no longer one.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// Nothing answers at the address.
    #[error("cannot reach the coordinator at {address}: {source}")]
    Unreachable {
        /// `host:port`.
        address: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It took too long.
    #[error("the coordinator at {0} does not answer within {PATIENCE:?}")]
    Slow(String),
    /// The certificate is not the pinned one.
    #[error(
        "whoever answers at {address} is not our coordinator: its certificate has the fingerprint {found}, \
         expected {expected}; check the address, or join again with a fresh token if the coordinator was replaced"
    )]
    Impostor {
        /// `host:port`.
        address: String,
        /// Fingerprint of the certificate it showed.
        found: Fingerprint,
        /// Fingerprint of the coordinator.
        expected: Fingerprint,
    },
    /// TLS failed otherwise.
    #[error("the coordinator at {address} refused the connection: {source}")]
    Tls {
        /// `host:port`.
        address: String,
        /// What TLS said.
        source: io::Error,
    },
    /// Our own certificate cannot be made.
    #[error("cannot make a certificate of this node's identity: {0}")]
    Certificate(String),
    /// The connection ended.
    #[error("the coordinator closed the connection")]
    Closed,
    /// The connection broke.
    #[error("the connection to the coordinator broke: {0}")]
    Broken(#[from] io::Error),
    /// A message was not understood.
    #[error("the coordinator's message was not understood: {0}")]
    Frame(#[from] frame::FrameError),
}

/// A connection on which messages are exchanged.
pub struct Connection {
    reader: Incoming,
    writer: Outgoing,
}

/// The direction towards the agent.
pub struct Incoming<R = ReadHalf<TlsStream<TcpStream>>> {
    stream: R,
    decoder: frame::Decoder,
}

/// The direction towards the coordinator.
pub struct Outgoing<W = WriteHalf<TlsStream<TcpStream>>> {
    stream: W,
}

impl Connection {
    /// Connects to the coordinator at `address` (`host:port`).
    pub async fn open(
        address: &str,
        fingerprint: Fingerprint,
        identity: &SecretKey,
    ) -> Result<Self, ConnectionError> {
        let slow = |_| ConnectionError::Slow(address.to_owned());
        timeout(PATIENCE, Self::handshake(address, fingerprint, identity))
            .await
            .map_err(slow)?
    }

    async fn handshake(
        address: &str,
        fingerprint: Fingerprint,
        identity: &SecretKey,
    ) -> Result<Self, ConnectionError> {
        let verifier = Arc::new(PinnedCertificate::new(fingerprint));
        let config = client_config(Arc::clone(&verifier), identity)?;
        let unreachable = |source| ConnectionError::Unreachable {
            address: address.to_owned(),
            source,
        };
        let stream = TcpStream::connect(address).await.map_err(unreachable)?;
        stream.set_nodelay(true)?;
        // The name is not looked at: the pinned certificate says who it is.
        let name = ServerName::try_from("wattle-coordinator").expect("a DNS name");
        match TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
        {
            Ok(stream) => Ok(Self::over(stream)),
            Err(source) => Err(verifier.explain(address.to_owned(), source)),
        }
    }

    fn over(stream: TlsStream<TcpStream>) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self {
            reader: Incoming::over(reader),
            writer: Outgoing::over(writer),
        }
    }

    /// Sends one message.
    pub async fn send(&mut self, message: &ToCoordinator) -> Result<(), ConnectionError> {
        self.writer.send(message).await
    }

    /// The next message.
    pub async fn receive(&mut self) -> Result<ToAgent, ConnectionError> {
        self.reader.receive().await
    }

    /// The two directions, to be used at the same time.
    pub fn split(self) -> (Incoming, Outgoing) {
        (self.reader, self.writer)
    }
}

impl<R: AsyncRead + Unpin> Incoming<R> {
    pub(super) fn over(stream: R) -> Self {
        Self {
            stream,
            decoder: frame::Decoder::default(),
        }
    }

    /// The next message. May be dropped while it waits and called again: nothing is lost.
    pub async fn receive(&mut self) -> Result<ToAgent, ConnectionError> {
        loop {
            if let Some(message) = self.decoder.next_message()? {
                return Ok(message);
            }
            let mut piece = [0; 16 << 10];
            match self.stream.read(&mut piece).await {
                Ok(0) => return Err(ConnectionError::Closed),
                Ok(length) => self.decoder.push(&piece[..length]),
                // Killed before it could say goodbye.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(ConnectionError::Closed);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl<W: AsyncWrite + Unpin> Outgoing<W> {
    pub(super) const fn over(stream: W) -> Self {
        Self { stream }
    }

    /// Sends one message; a coordinator that does not take it in time is away.
    pub async fn send(&mut self, message: &ToCoordinator) -> Result<(), ConnectionError> {
        let frame = frame::encode(message)?;
        let sent = timeout(PATIENCE, async {
            self.stream.write_all(&frame).await?;
            self.stream.flush().await
        });
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "a message was not taken in time");
        Ok(sent.await.map_err(late)??)
    }
}

fn client_config(
    verifier: Arc<PinnedCertificate>,
    identity: &SecretKey,
) -> Result<ClientConfig, ConnectionError> {
    let (certificate, key) = certificate_of(identity)?;
    let other = |error: rustls::Error| ConnectionError::Certificate(error.to_string());
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(vec![certificate], key)
        .map_err(other)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// A self-signed certificate whose key is the node's identity: the key is all that the coordinator looks at.
fn certificate_of(
    identity: &SecretKey,
) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), ConnectionError> {
    let other = |error: &dyn std::fmt::Display| ConnectionError::Certificate(error.to_string());
    let pkcs8 = identity.to_pkcs8_der().map_err(|error| other(&error))?;
    let der = PrivatePkcs8KeyDer::from(pkcs8.to_vec());
    let key = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ED25519)
        .map_err(|error| other(&error))?;
    let parameters = rcgen::CertificateParams::new(vec![identity.public().node_id().to_string()])
        .map_err(|error| other(&error))?;
    let certificate = parameters
        .self_signed(&key)
        .map_err(|error| other(&error))?;
    Ok((certificate.der().clone(), PrivateKeyDer::Pkcs8(der)))
}

/// Accepts one certificate alone, whatever else it says.
#[derive(Debug)]
struct PinnedCertificate {
    expected: Fingerprint,
    /// What an impostor showed, for the error message.
    found: std::sync::Mutex<Option<Fingerprint>>,
    provider: CryptoProvider,
}

impl PinnedCertificate {
    fn new(expected: Fingerprint) -> Self {
        Self {
            expected,
            found: std::sync::Mutex::new(None),
            provider: ring::default_provider(),
        }
    }

    fn explain(&self, address: String, source: io::Error) -> ConnectionError {
        match self.found.lock().ok().and_then(|found| *found) {
            Some(found) => ConnectionError::Impostor {
                address,
                found,
                expected: self.expected,
            },
            None => ConnectionError::Tls { address, source },
        }
    }
}

impl ServerCertVerifier for PinnedCertificate {
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
        let unknown = rustls::CertificateError::UnknownIssuer;
        Err(rustls::Error::InvalidCertificate(unknown))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
