//! One connection with one broker: TCP, TLS, log-in, and one request after the other (Kafka protocol, "Protocol
//! Primitives", "Authentication using SASL").

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::{Buf as _, Bytes, BytesMut};
use kafka_protocol::error::ParseResponseErrorCode as _;
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader,
    SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Message, StrBytes};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use wattle_api::secret::Secrets;
use wattle_api::stream::{Kafka, Mechanism, Sasl, Tls};
use zeroize::Zeroizing;

use crate::error::ClusterError;
use crate::scram;

/// How long a broker may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a broker may take to answer; above the time that requests give the cluster to act.
const ANSWER: Duration = Duration::from_secs(40);

/// The largest answer that is read. The settings of a thousand topics are below 10 MB.
const LARGEST: usize = 64 << 20;

/// Kafka's number for topics where settings are about.
pub(crate) const TOPIC: i8 = 2;

/// Where systems keep the authorities that they trust: Debian, Fedora, Arch.
const SYSTEM_AUTHORITIES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// A request and its answer.
pub(crate) trait Call: Encodable + Message + HeaderVersion {
    /// What comes back.
    type Answer: Decodable + HeaderVersion;
    /// Its number.
    const KEY: ApiKey;
    /// What it wants, for errors.
    const DOING: &'static str;
}

/// Says which answer belongs to which request.
macro_rules! calls {
    ($($request:ty => $answer:ty, $key:ident, $doing:literal;)+) => {
        $(impl $crate::connection::Call for $request {
            type Answer = $answer;
            const KEY: kafka_protocol::messages::ApiKey = kafka_protocol::messages::ApiKey::$key;
            const DOING: &'static str = $doing;
        })+
    };
}
pub(crate) use calls;

calls! {
    ApiVersionsRequest => ApiVersionsResponse, ApiVersions, "ask what it can";
    SaslHandshakeRequest => SaslHandshakeResponse, SaslHandshake, "log in";
    SaslAuthenticateRequest => SaslAuthenticateResponse, SaslAuthenticate, "log in";
}

/// A connection that may be used.
pub(crate) struct Connection {
    stream: Stream,
    broker: String,
    next: i32,
    /// The versions of each request that the broker can.
    able: BTreeMap<i16, (i16, i16)>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Connection {
    /// Connects with the first broker that answers, and logs in.
    pub(crate) fn open(kafka: &Kafka, secrets: &impl Secrets) -> Result<Self, ClusterError> {
        kafka.check()?;
        let password = kafka
            .sasl
            .as_ref()
            .map(|sasl| sasl.read_password(secrets))
            .transpose()?;
        Self::open_as(kafka, secrets, kafka.sasl.as_ref().zip(password.as_ref()))
    }

    /// The same with a password that has been read.
    pub(crate) fn open_as(
        kafka: &Kafka,
        secrets: &impl Secrets,
        user: Option<(&Sasl, &Zeroizing<String>)>,
    ) -> Result<Self, ClusterError> {
        let tls = match kafka.protocol.has_tls() {
            true => Some(tls_config(&kafka.tls.clone().unwrap_or_default(), secrets)?),
            false => None,
        };
        let mut troubles = Vec::new();
        for broker in &kafka.brokers {
            match Self::reach(broker, tls.as_ref(), user) {
                // The next broker may answer; what one of them refuses, all refuse.
                Err(ClusterError::Unreachable(trouble)) => troubles.push(trouble),
                Err(error @ ClusterError::Broken { .. }) => troubles.push(error.to_string()),
                outcome => return outcome,
            }
        }
        Err(ClusterError::Unreachable(troubles.join("; ")))
    }

    /// Connects with one broker, asks what it can, and logs in.
    fn reach(
        broker: &str,
        tls: Option<&Arc<ClientConfig>>,
        user: Option<(&Sasl, &Zeroizing<String>)>,
    ) -> Result<Self, ClusterError> {
        let mut connection = Self::connect(broker, tls)
            .map_err(|trouble| ClusterError::Unreachable(format!("{broker}: {trouble}")))?;
        connection.greet()?;
        if let Some((sasl, password)) = user {
            connection.log_in(sasl, password)?;
        }
        Ok(connection)
    }

    /// Asks and waits for the answer, in the newest version that both sides know.
    pub(crate) fn call<C: Call>(&mut self, request: &C) -> Result<C::Answer, ClusterError> {
        let version = self.version::<C>()?;
        self.call_in(request, version)
    }

    /// The newest version of a request that both sides know.
    pub(crate) fn version<C: Call>(&self) -> Result<i16, ClusterError> {
        let (least, most) = self.able.get(&(C::KEY as i16)).copied().unwrap_or((0, -1));
        let version = most.min(C::VERSIONS.max);
        if version < least.max(C::VERSIONS.min) {
            let why = "it has no version of this request that we know; Kafka 2.7 is the oldest that has all";
            return Err(self.strange::<C>(why));
        }
        Ok(version)
    }

    fn call_in<C: Call>(&mut self, request: &C, version: i16) -> Result<C::Answer, ClusterError> {
        let correlation = self.next;
        self.next = self.next.wrapping_add(1);
        let frame = frame(request, version, correlation).map_err(|why| self.strange::<C>(&why))?;
        let mut answer = self
            .exchange(&frame)
            .map_err(|source| ClusterError::Broken {
                broker: self.broker.clone(),
                doing: C::DOING,
                source,
            })?;
        let header = ResponseHeader::decode(&mut answer, C::Answer::header_version(version));
        let header = header.map_err(|why| self.strange::<C>(&why.to_string()))?;
        if header.correlation_id != correlation {
            return Err(self.strange::<C>("this answer belongs to another request"));
        }
        C::Answer::decode(&mut answer, version).map_err(|why| self.strange::<C>(&why.to_string()))
    }

    fn exchange(&mut self, frame: &[u8]) -> io::Result<Bytes> {
        self.stream.write_all(frame)?;
        self.stream.flush()?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > LARGEST {
            let why = format!(
                "an answer of {length} bytes: is this a Kafka port, and the right protocol?"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        Ok(Bytes::from(answer))
    }

    fn connect(broker: &str, tls: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in broker.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => return Self::over(stream, broker, tls),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn over(stream: TcpStream, broker: &str, tls: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        stream.set_nodelay(true)?;
        let stream = match tls {
            None => Stream::Plain(stream),
            Some(tls) => Stream::Tls(Box::new(shake_hands(stream, broker, tls)?)),
        };
        Ok(Self {
            stream,
            broker: broker.to_owned(),
            next: 0,
            able: BTreeMap::new(),
        })
    }

    /// Asks what the broker can. Version 0 is the one that every broker understands.
    fn greet(&mut self) -> Result<(), ClusterError> {
        let answer = self.call_in(&ApiVersionsRequest::default(), 0)?;
        done(answer.error_code, None)?;
        let able = answer.api_keys.iter();
        self.able = able
            .map(|key| (key.api_key, (key.min_version, key.max_version)))
            .collect();
        Ok(())
    }

    fn log_in(&mut self, sasl: &Sasl, password: &Zeroizing<String>) -> Result<(), ClusterError> {
        let mechanism = sasl.mechanism;
        let name = StrBytes::from_static_str(mechanism.name());
        let answer = self.call(&SaslHandshakeRequest::default().with_mechanism(name))?;
        if answer.error_code != 0 {
            let offered: Vec<&str> = answer.mechanisms.iter().map(StrBytes::as_str).collect();
            let wanted = mechanism.name();
            let reason = format!("it takes {}, not {wanted}", offered.join(", "));
            return Err(self.refused(reason));
        }
        match mechanism {
            Mechanism::Plain => {
                let text = format!("\0{}\0{}", sasl.username, **password);
                self.authenticate(text).map(drop)
            }
            Mechanism::ScramSha256 | Mechanism::ScramSha512 => self.prove(sasl, password),
        }
    }

    fn prove(&mut self, sasl: &Sasl, password: &Zeroizing<String>) -> Result<(), ClusterError> {
        let nonce = nonce()?;
        let client = scram::Client::new(sasl.mechanism, &sasl.username, password.clone(), &nonce)
            .expect("both mechanisms that come here are SCRAM");
        let server_first = self.authenticate(client.first())?;
        let (last, expected) = client
            .answer(&server_first)
            .map_err(|why| self.strange::<SaslAuthenticateRequest>(why))?;
        let server_last = self.authenticate(last)?;
        // A server that does not know the password is not the one that we mean.
        if server_last.split(',').next() != Some(expected.as_str()) {
            return Err(self.refused("it does not know the password itself".to_owned()));
        }
        Ok(())
    }

    fn authenticate(&mut self, text: String) -> Result<String, ClusterError> {
        let request = SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from(text));
        let answer = self.call(&request)?;
        if answer.error_code != 0 {
            let reason = answer.error_message.map(|message| message.to_string());
            return Err(self.refused(reason.unwrap_or_else(|| "no reason given".to_owned())));
        }
        String::from_utf8(answer.auth_bytes.to_vec())
            .map_err(|_| self.strange::<SaslAuthenticateRequest>("its proof is no text"))
    }

    fn refused(&self, reason: String) -> ClusterError {
        ClusterError::Credentials {
            broker: self.broker.clone(),
            reason,
        }
    }

    fn strange<C: Call>(&self, why: &str) -> ClusterError {
        ClusterError::Protocol {
            broker: self.broker.clone(),
            doing: C::DOING,
            why: why.to_owned(),
        }
    }
}

/// What a code and a message in an answer mean; none if all is well.
fn refusal(code: i16, message: Option<&StrBytes>) -> Option<ClusterError> {
    let code = code.err()?;
    let message = message.map(ToString::to_string);
    Some(ClusterError::Refused { code, message })
}

/// What is wrong by a code and a message in an answer, if anything is.
pub(crate) fn done(code: i16, message: Option<&StrBytes>) -> Result<(), ClusterError> {
    refusal(code, message).map_or(Ok(()), Err)
}

/// Text as the protocol's messages hold it.
pub(crate) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// A request with its length and header.
fn frame<C: Call>(request: &C, version: i16, correlation: i32) -> Result<Vec<u8>, String> {
    let header = RequestHeader::default()
        .with_request_api_key(C::KEY as i16)
        .with_request_api_version(version)
        .with_correlation_id(correlation)
        .with_client_id(Some(StrBytes::from_static_str("wattle-kafka")));
    let mut body = BytesMut::new();
    header
        .encode(&mut body, C::header_version(version))
        .and_then(|()| request.encode(&mut body, version))
        .map_err(|error| error.to_string())?;
    let length = i32::try_from(body.len()).map_err(|_| "the request is too long".to_owned())?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend_from_slice(body.chunk());
    Ok(frame)
}

fn nonce() -> Result<String, ClusterError> {
    let mut bytes = [0; 18];
    getrandom::fill(&mut bytes).map_err(|error| ClusterError::Random(error.to_string()))?;
    Ok(STANDARD_NO_PAD.encode(bytes))
}

fn shake_hands(
    stream: TcpStream,
    broker: &str,
    tls: &Arc<ClientConfig>,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let host = broker.rsplit_once(':').map_or(broker, |(host, _)| host);
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    let connection = ClientConnection::new(Arc::clone(tls), name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

fn tls_config(tls: &Tls, secrets: &impl Secrets) -> Result<Arc<ClientConfig>, ClusterError> {
    let trouble = |what: &str, why: &dyn std::fmt::Display| ClusterError::Tls {
        what: what.to_owned(),
        why: why.to_string(),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| trouble("TLS", &error))?
        .with_root_certificates(authorities(tls.ca_file.as_deref())?);
    let (Some(file), Some(key)) = (&tls.certificate_file, tls.read_key(secrets)?) else {
        return Ok(Arc::new(builder.with_no_client_auth()));
    };
    let chain = certificates(file)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|error| trouble("the key of kafka.tls", &error))?;
    let config = builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| trouble("kafka.tls.certificate_file and its key", &error))?;
    Ok(Arc::new(config))
}

/// Whom to trust: the authorities of a file, or the system's.
fn authorities(file: Option<&Path>) -> Result<RootCertStore, ClusterError> {
    let system = || {
        SYSTEM_AUTHORITIES
            .iter()
            .map(Path::new)
            .find(|path| path.exists())
    };
    let Some(file) = file.or_else(system) else {
        return Err(ClusterError::Tls {
            what: "kafka.tls.ca_file".to_owned(),
            why: "is not set, and this system keeps no authorities where we look".to_owned(),
        });
    };
    let mut store = RootCertStore::empty();
    let (good, _) = store.add_parsable_certificates(certificates(file)?);
    if good == 0 {
        return Err(ClusterError::Tls {
            what: format!("kafka.tls.ca_file {}", file.display()),
            why: "has no certificate that can be used".to_owned(),
        });
    }
    Ok(store)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, ClusterError> {
    let trouble = |error: rustls_pki_types::pem::Error| ClusterError::Tls {
        what: file.display().to_string(),
        why: error.to_string(),
    };
    let found = CertificateDer::pem_file_iter(file).map_err(trouble)?;
    found.collect::<Result<_, _>>().map_err(trouble)
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
