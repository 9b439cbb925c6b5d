//! This node's side of all sessions: its key, and the one limiter that all handshakes share.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use wattle_model::WgKey;
use x25519_dalek::{PublicKey, StaticSecret};

use crate::channel::CipherCosts;
use crate::message::Message;
use crate::null::Null;
use crate::session::{CipherKind, Refusal, refusal};
use crate::shares::Shares;

/// Handshake messages that are answered per second before proof of the sender's address is asked for. One costs
/// about half a millisecond, so this is half of a core.
const HANDSHAKES_PER_SECOND: u64 = 1_000;
/// An initiation passes the limiter twice: before and after its sender is identified.
const PASSES: u64 = 2;

/// The node's WireGuard key and its handshake limiter.
pub struct Local {
    private: StaticSecret,
    public: PublicKey,
    limiter: Arc<RateLimiter>,
    cipher: CipherKind,
    channel: Option<CipherCosts>,
}

/// Who made an initiation.
#[derive(Debug, PartialEq, Eq)]
pub enum Initiator {
    /// The holder of this key (which the handshake itself has yet to prove).
    Key(WgKey),
    /// Too many come: this many bytes of a cookie are to be sent back.
    Cookie(usize),
    /// Not an initiation for this node.
    Refused(Refusal),
}

impl Local {
    /// The node with this private key.
    pub fn new(private: [u8; 32], cipher: CipherKind) -> Self {
        let private = StaticSecret::from(private);
        let public = PublicKey::from(&private);
        let limiter = Arc::new(RateLimiter::new(&public, PASSES * HANDSHAKES_PER_SECOND));
        Self {
            private,
            public,
            limiter,
            cipher,
            channel: None,
        }
    }

    /// The same with the fast channel on, whose ciphers cost this node so much.
    #[must_use]
    pub fn with_channel(self, costs: Option<CipherCosts>) -> Self {
        Self {
            channel: costs,
            ..self
        }
    }

    /// What the fast channel's ciphers cost this node; `None` if it wants no fast channel.
    pub(crate) fn channel(&self) -> Option<CipherCosts> {
        self.channel
    }

    /// The node's public key.
    pub fn public(&self) -> WgKey {
        WgKey(self.public.to_bytes())
    }

    /// Which cipher sessions use.
    pub fn cipher(&self) -> CipherKind {
        self.cipher
    }

    /// Reads who made an initiation. A cookie, if one is due, is written to `out`, and is shorter than the question; who
    /// comes with one takes from its share.
    pub fn initiator(
        &self,
        shares: &mut Shares,
        from: Option<IpAddr>,
        datagram: &[u8],
        out: &mut [u8],
    ) -> Initiator {
        if Message::of(datagram) != Some(Message::Initiation) {
            return Initiator::Refused(Refusal::Malformed);
        }
        match self.cipher {
            CipherKind::Null => match Null::initiator(datagram) {
                Some(key) => Initiator::Key(key),
                None => Initiator::Refused(Refusal::Malformed),
            },
            CipherKind::Noise => self.noise_initiator(shares, from, datagram, out),
        }
    }

    /// Lets the next second's handshakes through; to be called once a second.
    pub fn tick(&self) {
        self.limiter.reset_count();
    }

    pub(crate) fn tunn(&self, peer: WgKey, index: u32) -> Tunn {
        let peer = PublicKey::from(peer.0);
        Tunn::new(
            self.private.clone(),
            peer,
            None,
            None,
            index,
            Some(Arc::clone(&self.limiter)),
        )
    }

    /// Passes a datagram through the limiter.
    pub(crate) fn verify<'a, 'b>(
        &self,
        from: Option<IpAddr>,
        datagram: &'a [u8],
        out: &'b mut [u8],
    ) -> Result<Packet<'a>, TunnResult<'b>> {
        self.limiter.verify_packet(from, datagram, out)
    }

    fn noise_initiator(
        &self,
        shares: &mut Shares,
        from: Option<IpAddr>,
        datagram: &[u8],
        out: &mut [u8],
    ) -> Initiator {
        match self.verify(None, datagram, &mut []) {
            Ok(packet) => self.identified(&packet),
            Err(TunnResult::Err(WireGuardError::UnderLoad)) => {
                self.proven_initiator(shares, from, datagram, out)
            }
            Err(TunnResult::Err(error)) => Initiator::Refused(refusal(&error)),
            Err(_) => Initiator::Refused(Refusal::Malformed),
        }
    }

    /// Under load only those are heard who show that they are answered at their address, each for its share.
    fn proven_initiator(
        &self,
        shares: &mut Shares,
        from: Option<IpAddr>,
        datagram: &[u8],
        out: &mut [u8],
    ) -> Initiator {
        let Some(address) = from else {
            return Initiator::Refused(Refusal::RateLimited);
        };
        match self.verify(from, datagram, out) {
            Ok(_) if !shares.take(address) => Initiator::Refused(Refusal::RateLimited),
            Ok(packet) => self.identified(&packet),
            Err(TunnResult::WriteToNetwork(cookie)) => Initiator::Cookie(cookie.len()),
            Err(TunnResult::Err(error)) => Initiator::Refused(refusal(&error)),
            Err(_) => Initiator::Refused(Refusal::Malformed),
        }
    }

    fn identified(&self, packet: &Packet<'_>) -> Initiator {
        let Packet::HandshakeInit(initiation) = packet else {
            return Initiator::Refused(Refusal::Malformed);
        };
        match parse_handshake_anon(&self.private, &self.public, initiation) {
            Ok(half) => Initiator::Key(WgKey(half.peer_static_public)),
            Err(error) => Initiator::Refused(refusal(&error)),
        }
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local")
            .field("public", &self.public())
            .field("cipher", &self.cipher)
            .finish_non_exhaustive()
    }
}
