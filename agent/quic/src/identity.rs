//! TLS 1.3 between nodes: both ends show their Ed25519 identity key itself (RFC 7250), no certificates.
//!
//! Whoever dials demands one key, that of the node it means; whoever is dialled lets in the keys of its neighbours.
//! There is no resumption and no early data, so every connection proves both keys anew. See `docs/protocol/quic.md` §2.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer,
    UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName,
    ServerConfig, SignatureScheme,
};
use wattle_model::NodeId;
use wattle_wire::key::{PublicKey, SecretKey};

/// What the two ends agree to speak (RFC 7301).
const PROTOCOL: &[u8] = b"wattle/1";
/// An Ed25519 key as a `SubjectPublicKeyInfo` (RFC 8410 §4) begins with this; the key's 32 bytes follow.
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Why this node's identity cannot be used for TLS.
#[derive(Debug, thiserror::Error)]
#[error("the identity key cannot be used for TLS: {0}")]
pub struct IdentityError(String);

/// The nodes that are let in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Guests(Arc<RwLock<BTreeMap<[u8; 32], NodeId>>>);

impl Guests {
    /// Replaces them.
    pub(crate) fn set(&self, guests: impl Iterator<Item = PublicKey>) {
        let guests = guests.map(|key| (*key.as_bytes(), key.node_id())).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = guests;
    }

    /// The node whose key this is.
    fn node(&self, key: &[u8; 32]) -> Option<NodeId> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .copied()
    }

    /// The node at the other end of an accepted connection, if it still is let in.
    pub(crate) fn of(&self, connection: &quinn::Connection) -> Option<NodeId> {
        let shown = connection.peer_identity()?;
        let shown = shown.downcast_ref::<Vec<CertificateDer<'static>>>()?;
        self.node(&key_in(shown.first()?)?)
    }
}

/// What this node shows, and with what it computes.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    shown: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
}

impl Identity {
    pub(crate) fn new(key: &SecretKey) -> Result<Self, IdentityError> {
        let refused = |error: &dyn std::fmt::Display| IdentityError(error.to_string());
        let pkcs8 = key.to_pkcs8_der().map_err(|error| refused(&error))?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.to_vec()));
        let mut provider = ring::default_provider();
        // What is carried is sealed already: the cheapest cipher where there are AES instructions goes first.
        provider
            .cipher_suites
            .sort_by_key(|suite| match suite.suite() {
                CipherSuite::TLS13_AES_128_GCM_SHA256 => 0,
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => 1,
                _ => 2,
            });
        let signing = provider
            .key_provider
            .load_private_key(private)
            .map_err(|error| refused(&error))?;
        let shown = CertifiedKey::new(vec![spki(&key.public())], signing);
        Ok(Self {
            shown: Arc::new(shown),
            provider: Arc::new(provider),
        })
    }

    /// For dialling the node of this key, and nobody else.
    pub(crate) fn dials(&self, expected: &PublicKey) -> Result<QuicClientConfig, IdentityError> {
        let refused = |error: &dyn std::fmt::Display| IdentityError(error.to_string());
        let verifier = ExpectedKey {
            key: *expected.as_bytes(),
            provider: Arc::clone(&self.provider),
        };
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| refused(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                Arc::clone(&self.shown),
            )));
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        QuicClientConfig::try_from(config).map_err(|error| refused(&error))
    }

    /// For being dialled by `guests`.
    pub(crate) fn answers(&self, guests: Guests) -> Result<QuicServerConfig, IdentityError> {
        let refused = |error: &dyn std::fmt::Display| IdentityError(error.to_string());
        let verifier = KnownKeys {
            guests,
            provider: Arc::clone(&self.provider),
        };
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| refused(&error))?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(
                Arc::clone(&self.shown),
            )));
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.send_tls13_tickets = 0;
        QuicServerConfig::try_from(config).map_err(|error| refused(&error))
    }
}

/// The key inside an Ed25519 `SubjectPublicKeyInfo`; every other encoding and algorithm is refused.
fn key_in(spki: &[u8]) -> Option<[u8; 32]> {
    spki.strip_prefix(&SPKI_PREFIX)?.try_into().ok()
}

fn spki(key: &PublicKey) -> CertificateDer<'static> {
    CertificateDer::from([&SPKI_PREFIX[..], key.as_bytes()].concat())
}

const NOT_OURS: rustls::Error =
    rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);

/// Accepts one key.
#[derive(Debug)]
struct ExpectedKey {
    key: [u8; 32],
    provider: Arc<CryptoProvider>,
}

/// Accepts the keys of guests.
#[derive(Debug)]
struct KnownKeys {
    guests: Guests,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ExpectedKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match key_in(end_entity) {
            Some(key) if key == self.key => Ok(ServerCertVerified::assertion()),
            Some(_) | None => Err(NOT_OURS),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::HandshakeNotComplete)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        signed_by(message, cert, dss, &self.provider)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for KnownKeys {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match key_in(end_entity).and_then(|key| self.guests.node(&key)) {
            Some(_) => Ok(ClientCertVerified::assertion()),
            None => Err(NOT_OURS),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::HandshakeNotComplete)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        signed_by(message, cert, dss, &self.provider)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

fn signed_by(
    message: &[u8],
    cert: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
    provider: &CryptoProvider,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    verify_tls13_signature_with_raw_key(
        message,
        &SubjectPublicKeyInfoDer::from(cert.as_ref()),
        dss,
        &provider.signature_verification_algorithms,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ed25519_key_in_its_one_encoding_is_read() {
        let key = SecretKey::from_seed(&[7; 32]).public();
        let spki = spki(&key);
        assert_eq!(key_in(&spki), Some(*key.as_bytes()));
        for length in 0..spki.len() {
            assert_eq!(key_in(&spki[..length]), None);
        }
        let mut longer = spki.to_vec();
        longer.push(0);
        assert_eq!(key_in(&longer), None);
        let mut other = spki.to_vec();
        other[8] = 0x6e;
        assert_eq!(key_in(&other), None, "X25519");
    }

    #[test]
    fn guests_are_those_of_the_last_list() {
        let [one, other] = [1, 2].map(|seed| SecretKey::from_seed(&[seed; 32]).public());
        let guests = Guests::default();
        guests.set([one].into_iter());
        assert_eq!(guests.node(one.as_bytes()), Some(one.node_id()));
        guests.set([other].into_iter());
        assert_eq!(guests.node(one.as_bytes()), None);
    }
}
