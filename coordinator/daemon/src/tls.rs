//! TLS 1.3, the pinned certificate, and who is at the other end: an agent proves its identity key with a self-signed
//! client certificate, everybody else comes without one.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};
use wattle_api::agent::ALPN;
use wattle_wire::key::PublicKey;
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::parse_x509_certificate;

use crate::state_dir::StateDir;

/// The server's side of TLS.
pub(crate) fn server_config(state: &StateDir) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(AnyIdentity(provider.signature_verification_algorithms));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![state.certificate.clone()], state.key.clone_key())?;
    config.alpn_protocols = vec![ALPN.to_vec(), b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The identity key in a client's certificate, which the handshake proved to be held.
pub(crate) fn identity(certificates: Option<&[CertificateDer<'_>]>) -> Option<PublicKey> {
    let (_, certificate) = parse_x509_certificate(certificates?.first()?).ok()?;
    let key = certificate.public_key();
    let is_ed25519 = key.algorithm.algorithm == OID_SIG_ED25519;
    let key: &[u8; 32] = key.subject_public_key.data.as_ref().try_into().ok()?;
    is_ed25519.then(|| PublicKey::from_bytes(key).ok())?
}

/// Accepts every certificate with an Ed25519 key: whether the key is a member's is decided by the fleet.
#[derive(Debug)]
struct AnyIdentity(WebPkiSupportedAlgorithms);

impl ClientCertVerifier for AnyIdentity {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match identity(Some(std::slice::from_ref(end_entity))) {
            Some(_) => Ok(ClientCertVerified::assertion()),
            None => Err(Error::InvalidCertificate(CertificateError::BadEncoding)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
