//! Making join tokens: the secret is drawn here, printed once, and kept as a hash.

use wattle_api::Timestamp;
use wattle_api::rest::TokenCreated;
use wattle_api::token::{JoinToken, MAX_ADDRESSES, Secret, TokenScope};
use wattle_model::NetworkId;
use wattle_store::{StoreError, Tokens};

use crate::state_dir::{StateError, random};

/// Longest life of a token: 30 days.
pub(crate) const MAX_TTL_S: u64 = 30 * 86_400;

/// What every token of this coordinator carries.
#[derive(Debug, Clone)]
pub(crate) struct Inviter {
    /// The network.
    pub(crate) network: NetworkId,
    /// SHA-256 of the certificate.
    pub(crate) fingerprint: [u8; 32],
    /// Where agents find the coordinator.
    pub(crate) addresses: Vec<String>,
    /// The coordinator's name.
    pub(crate) coordinator: String,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InviteError {
    /// There is no randomness.
    #[error(transparent)]
    Random(#[from] StateError),
    /// It cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Inviter {
    /// Makes and keeps a token.
    pub(crate) async fn invite(
        &self,
        tokens: &Tokens,
        scope: &TokenScope,
        ttl_s: u64,
        now: Timestamp,
    ) -> Result<TokenCreated, InviteError> {
        let mut addresses = self.addresses.clone();
        addresses.truncate(MAX_ADDRESSES);
        let token = JoinToken {
            network: self.network,
            fingerprint: self.fingerprint,
            secret: Secret::new(random()?),
            addresses,
        };
        let expires_at = Timestamp::from_millis(now.as_millis() + ttl_s * 1_000);
        let record = tokens
            .create(token.secret.hash(), scope, now, expires_at)
            .await?;
        Ok(TokenCreated {
            token: token.to_string(),
            record,
        })
    }
}
