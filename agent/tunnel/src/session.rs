//! One session: boringtun's `Tunn` behind guards for what it leaves to its caller.
//!
//! The guards, each with a test below or in `local`: counters that would end the replay window are dropped before they
//! are looked at; one limiter for all sessions, and a bucket for each source that has answered with its cookie; no
//! keepalive timer inside (two of them fight over rekeying); random indexes; content padded to 16 bytes; one side only
//! starts rekeying; nothing is queued inside.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::{Tunn, TunnResult};
use serde::{Deserialize, Serialize};
use wattle_model::{Checksum, Instant, Micros, WgKey};
use wattle_wire::control::{ChannelKey, ChannelKeyAck, Suite};

use crate::channel::{Channel, ChannelKeyBytes};
use crate::local::Local;
use crate::message::{CHANNEL_HEADER, DATA_OVERHEAD, MIN_BUFFER, Message};
use crate::null::{Null, NullOpened};

/// The first counter that is refused: REJECT-AFTER-MESSAGES (white paper §6.1). Near the end of the range boringtun's
/// window arithmetic overflows.
const FIRST_REFUSED_COUNTER: u64 = u64::MAX - (1 << 13);
/// When the side that starts rekeying does so: before the 120 s after which boringtun would on either side.
const REKEY_AFTER: Micros = Micros::from_secs(105);
/// Spread of rekeying, so that the sessions of a node do not rekey at once.
const REKEY_JITTER_MS: u64 = 10_000;
/// Content is padded to a multiple of this (white paper §5.4.6).
const PADDING: usize = 16;

/// Which cipher sessions use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CipherKind {
    /// WireGuard: Noise IKpsk2 by boringtun.
    Noise,
    /// No cryptography, the same message lengths and counters: for the simulator.
    Null,
}

/// Whether this side starts rekeying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rekey {
    /// This side does.
    Ours,
    /// The other end does.
    Theirs,
}

/// Why a datagram was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No message of this protocol, or content that is no packet.
    Malformed,
    /// Forged, damaged, or not for this session.
    Unauthentic,
    /// Seen before, or too old.
    Replayed,
    /// A counter so high that the session could not go on after it.
    CounterExhausted,
    /// For a key that is not, or no longer, known.
    UnknownKey,
    /// Handshakes come faster than they are answered.
    RateLimited,
    /// The caller's buffer is too short.
    NoRoom,
}

/// What became of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// What to do.
    pub outcome: Outcome,
    /// Whether a handshake was completed by it.
    pub established: bool,
}

/// What to do after a datagram was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A packet of this many bytes is in the buffer.
    Packet(usize),
    /// A message of this many bytes is in the buffer, to be sent back the way the datagram came.
    Reply(usize),
    /// Nothing; the datagram was authentic.
    Nothing,
    /// Count it.
    Refused(Refusal),
}

/// The security association with one peer.
pub struct Session {
    local: Arc<Local>,
    cipher: Cipher,
    index: u32,
    peer: WgKey,
    rekey: Rekey,
    usable: bool,
    handshake_at: Option<Instant>,
    rekey_at: Instant,
    /// Whether content was sent since the last handshake: an unused session is left to expire.
    used: bool,
    handshakes: u32,
    tx_bytes: u64,
    rx_bytes: u64,
    channel: Channel,
}

enum Cipher {
    /// Nothing was said yet. Keys take eleven kilobytes, and most of a thousand peers never speak.
    Idle,
    Noise(Box<Tunn>),
    Null(Box<Null>),
}

impl Session {
    /// A session with the holder of `peer` that has no key yet. `index` (24 bits) must be random and this node's only one.
    pub fn new(local: &Arc<Local>, peer: WgKey, index: u32, rekey: Rekey) -> Self {
        let index = index & 0x00ff_ffff;
        Self {
            local: Arc::clone(local),
            cipher: Cipher::Idle,
            index,
            peer,
            rekey,
            usable: false,
            handshake_at: None,
            rekey_at: Instant::NEVER,
            used: false,
            handshakes: 0,
            tx_bytes: 0,
            rx_bytes: 0,
            channel: Channel::default(),
        }
    }

    /// The session's index, as found by [`Message::session`].
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The peer's key.
    pub fn peer(&self) -> WgKey {
        self.peer
    }

    /// Whether packets can be sealed.
    pub fn is_usable(&self) -> bool {
        self.usable
    }

    /// When the last handshake was completed.
    pub fn handshake_at(&self) -> Option<Instant> {
        self.handshake_at
    }

    /// Content bytes sent and received.
    pub fn bytes(&self) -> (u64, u64) {
        (self.tx_bytes, self.rx_bytes)
    }

    /// Whether it is this side's turn to start a handshake although the session is usable.
    pub fn wants_rekey(&self, now: Instant) -> bool {
        self.usable && self.used && self.rekey == Rekey::Ours && now >= self.rekey_at
    }

    /// Writes a handshake initiation; its length, or `None` if `out` is too short.
    pub fn initiate(&mut self, now: Instant, out: &mut [u8]) -> Option<usize> {
        if out.len() < MIN_BUFFER {
            return None;
        }
        match self.awake() {
            Cipher::Idle => None,
            Cipher::Noise(tunn) => match tunn.format_handshake_initiation(out, true) {
                TunnResult::WriteToNetwork(message) => Some(message.len()),
                _ => None,
            },
            Cipher::Null(null) => null.initiate(now, out),
        }
    }

    /// Seals the first `length` bytes of `content`, padded up to `mtu` with what follows them (which is overwritten);
    /// the message's length, or `None` if the session is not usable or `out` is too short.
    pub fn seal(
        &mut self,
        content: &mut [u8],
        length: usize,
        mtu: usize,
        out: &mut [u8],
    ) -> Option<usize> {
        let padded = padded(length, mtu).min(content.len());
        if !self.usable || padded < length || out.len() < (padded + DATA_OVERHEAD).max(MIN_BUFFER) {
            return None;
        }
        content[length..padded].fill(0);
        let content = &content[..padded];
        self.used = true;
        self.tx_bytes += length as u64;
        match &mut self.cipher {
            Cipher::Noise(tunn) => match tunn.encapsulate(content, out) {
                TunnResult::WriteToNetwork(message) => Some(message.len()),
                _ => None,
            },
            Cipher::Null(null) => null.seal(content, out),
            Cipher::Idle => None,
        }
    }

    /// The cipher of the fast channel, while packets can be sealed for it.
    pub fn suite(&self) -> Option<Suite> {
        self.channel.suite().filter(|_| self.usable)
    }

    /// Seals for the fast channel in place: `message` has room for the header, `length` bytes of content, and room for
    /// padding and tag. The message's length, or `None` if there is no channel or too little room.
    pub fn seal_in_place(
        &mut self,
        message: &mut [u8],
        length: usize,
        mtu: usize,
        checksum: Checksum,
    ) -> Option<usize> {
        let padded = padded(length, mtu);
        let message = message.get_mut(..padded + DATA_OVERHEAD)?;
        message[CHANNEL_HEADER..][length..padded].fill(0);
        if !self.usable || !self.channel.seal(checksum, message) {
            return None;
        }
        self.used = true;
        self.tx_bytes += length as u64;
        Some(message.len())
    }

    /// Opens a message of the fast channel in place: the packet, and the state of its checksum.
    ///
    /// # Errors
    /// Why the message is to be dropped.
    pub fn open_in_place<'a>(
        &mut self,
        message: &'a mut [u8],
    ) -> Result<(Checksum, &'a mut [u8]), Refusal> {
        if !self.usable {
            return Err(Refusal::UnknownKey);
        }
        let (checksum, content) = self.channel.open(message)?;
        match inner_length(content) {
            Outcome::Packet(length) => {
                self.rx_bytes += length as u64;
                Ok((checksum, &mut content[..length]))
            }
            Outcome::Nothing | Outcome::Reply(_) | Outcome::Refused(_) => Err(Refusal::Malformed),
        }
    }

    /// A packet was sealed that the fast channel could have carried, did it exist.
    pub fn want_channel(&mut self) {
        if self.local.channel().is_some() {
            self.channel.want();
        }
    }

    /// When a key for the fast channel is to be offered.
    pub fn channel_due(&self) -> Instant {
        match self.usable {
            true => self.channel.poll_timeout(),
            false => Instant::NEVER,
        }
    }

    /// The offer that is due, to be sent inside the session. `fresh` makes the bytes of a key.
    pub fn offer_channel(
        &mut self,
        now: Instant,
        fresh: impl FnOnce() -> ChannelKeyBytes,
    ) -> Option<ChannelKey> {
        let costs = self.local.channel().filter(|_| self.usable)?;
        self.channel.handle_timeout(now, costs, fresh)
    }

    /// The other end offers a key for its packets; the answer, to be sent inside the session.
    pub fn channel_offered(&mut self, offer: &ChannelKey) -> ChannelKeyAck {
        self.channel
            .offered(self.local.channel(), self.index, offer)
    }

    /// The other end answered an offer.
    pub fn channel_acknowledged(&mut self, ack: ChannelKeyAck) {
        self.channel.acknowledged(ack);
    }

    /// Opens a datagram into `out`, which has room for it and never less than [`MIN_BUFFER`].
    pub fn open(
        &mut self,
        now: Instant,
        from: Option<IpAddr>,
        datagram: &[u8],
        out: &mut [u8],
    ) -> Opened {
        let refused = |refusal| Opened {
            outcome: Outcome::Refused(refusal),
            established: false,
        };
        let message = match Message::of(datagram) {
            None | Some(Message::Channel { .. }) => return refused(Refusal::Malformed),
            Some(message) => message,
        };
        if matches!(message, Message::Data { counter, .. } if counter >= FIRST_REFUSED_COUNTER) {
            return refused(Refusal::CounterExhausted);
        }
        if out.len() < datagram.len().max(MIN_BUFFER) {
            return refused(Refusal::NoRoom);
        }
        let was_usable = self.usable;
        let outcome = match self.awake() {
            Cipher::Idle => Outcome::Refused(Refusal::UnknownKey),
            Cipher::Noise(tunn) => open_noise(tunn, from, datagram, out),
            Cipher::Null(null) => open_null(null, now, datagram, out),
        };
        let authentic = !matches!(outcome, Outcome::Refused(_));
        if authentic && (!self.usable || !matches!(message, Message::Data { .. })) {
            self.usable = self.cipher.is_usable();
        }
        let established = authentic
            && match message {
                Message::Response { .. } => true,
                // The responder's key counts once the initiator has used it, which shows at the first key only.
                Message::Initiation => was_usable,
                Message::Data { .. } => !was_usable && self.usable,
                Message::Cookie { .. } | Message::Channel { .. } => false,
            };
        if established {
            self.established(now);
        }
        if let Outcome::Packet(length) = outcome {
            self.rx_bytes += length as u64;
        }
        Opened {
            outcome,
            established,
        }
    }

    /// Lets the session's timers run; to be called once a second. The length of a message to send, if one is due.
    pub fn tick(&mut self, now: Instant, out: &mut [u8]) -> Option<usize> {
        if out.len() < MIN_BUFFER {
            return None;
        }
        let message = match &mut self.cipher {
            Cipher::Idle => None,
            Cipher::Noise(tunn) => match tunn.update_timers(out) {
                TunnResult::WriteToNetwork(message) => Some(message.len()),
                _ => None,
            },
            Cipher::Null(null) => {
                null.tick(now);
                None
            }
        };
        self.usable = self.cipher.is_usable();
        if !self.usable {
            self.channel.forget();
        }
        message
    }

    fn awake(&mut self) -> &mut Cipher {
        if matches!(self.cipher, Cipher::Idle) {
            self.cipher = match self.local.cipher() {
                CipherKind::Noise => {
                    Cipher::Noise(Box::new(self.local.tunn(self.peer, self.index)))
                }
                CipherKind::Null => Cipher::Null(Box::new(Null::new(
                    self.local.public(),
                    self.peer,
                    self.index,
                ))),
            };
        }
        &mut self.cipher
    }

    fn established(&mut self, now: Instant) {
        self.handshakes = self.handshakes.wrapping_add(1);
        self.handshake_at = Some(now);
        self.used = false;
        self.channel.session_renewed();
        // The index is random, so this spreads sessions and successive handshakes without asking for randomness.
        let spread = u64::from(
            self.index
                .wrapping_add(self.handshakes)
                .wrapping_mul(0x9e37_79b9),
        ) % REKEY_JITTER_MS;
        self.rekey_at = now + REKEY_AFTER + Micros::from_millis(spread);
    }
}

impl Cipher {
    /// Whether content can be sealed at once. (boringtun would queue it otherwise, out of our sight.)
    fn is_usable(&self) -> bool {
        match self {
            Self::Idle => false,
            Self::Noise(tunn) => tunn.time_since_last_handshake().is_some(),
            Self::Null(null) => null.is_usable(),
        }
    }
}

/// Bytes of a content after padding, which never exceeds the MTU.
fn padded(length: usize, mtu: usize) -> usize {
    length.next_multiple_of(PADDING).min(mtu.max(length))
}

fn open_noise(tunn: &mut Tunn, from: Option<IpAddr>, datagram: &[u8], out: &mut [u8]) -> Outcome {
    match tunn.decapsulate(from, datagram, out) {
        TunnResult::Done => Outcome::Nothing,
        TunnResult::Err(error) => Outcome::Refused(refusal(&error)),
        TunnResult::WriteToNetwork(message) => Outcome::Reply(message.len()),
        TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
            Outcome::Packet(packet.len())
        }
    }
}

fn open_null(null: &mut Null, now: Instant, datagram: &[u8], out: &mut [u8]) -> Outcome {
    match null.open(now, datagram, out) {
        Ok(NullOpened::Packet(length)) => inner_length(&out[..length]),
        Ok(NullOpened::Responded(length)) => Outcome::Reply(length),
        // As WireGuard does, the initiator shows at once that it has the key.
        Ok(NullOpened::Completed) => match null.seal(&[], out) {
            Some(length) => Outcome::Reply(length),
            None => Outcome::Nothing,
        },
        Err(refusal) => Outcome::Refused(refusal),
    }
}

/// The packet without its padding, as boringtun finds it.
fn inner_length(content: &[u8]) -> Outcome {
    let field = |at: usize| {
        content
            .get(at..at + 2)
            .map(|bytes| usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
    };
    let stated = match content.first().map(|first| first >> 4) {
        None => return Outcome::Nothing,
        Some(4) if content.len() >= 20 => field(2),
        Some(6) if content.len() >= 40 => field(4).map(|length| length + 40),
        Some(_) => None,
    };
    match stated {
        Some(length) if length <= content.len() => Outcome::Packet(length),
        _ => Outcome::Refused(Refusal::Malformed),
    }
}

pub(crate) fn refusal(error: &WireGuardError) -> Refusal {
    match error {
        WireGuardError::DestinationBufferTooSmall => Refusal::NoRoom,
        WireGuardError::IncorrectPacketLength
        | WireGuardError::WrongPacketType
        | WireGuardError::InvalidPacket => Refusal::Malformed,
        WireGuardError::UnexpectedPacket
        | WireGuardError::WrongKey
        | WireGuardError::InvalidTai64nTimestamp
        | WireGuardError::InvalidMac
        | WireGuardError::InvalidAeadTag
        | WireGuardError::LockFailed => Refusal::Unauthentic,
        WireGuardError::WrongTai64nTimestamp
        | WireGuardError::InvalidCounter
        | WireGuardError::DuplicateCounter => Refusal::Replayed,
        WireGuardError::WrongIndex
        | WireGuardError::NoCurrentSession
        | WireGuardError::ConnectionExpired => Refusal::UnknownKey,
        WireGuardError::UnderLoad => Refusal::RateLimited,
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("peer", &self.peer)
            .field("usable", &self.usable)
            .field("handshake_at", &self.handshake_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::Initiator;
    use crate::shares::Shares;

    const NOW: Instant = Instant(1_000_000);

    struct Pair {
        a: Session,
        b: Session,
        local_b: Arc<Local>,
    }

    fn pair(cipher: CipherKind) -> Pair {
        let local = |secret| Arc::new(Local::new([secret; 32], cipher));
        let (local_a, local_b) = (local(1), local(2));
        Pair {
            a: Session::new(&local_a, local_b.public(), 0x00ab_cdef, Rekey::Ours),
            b: Session::new(&local_b, local_a.public(), 0x0012_3456, Rekey::Theirs),
            local_b,
        }
    }

    fn message(length: Option<usize>, buffer: &[u8]) -> Vec<u8> {
        buffer[..length.unwrap()].to_vec()
    }

    fn reply(opened: Opened, buffer: &[u8]) -> Vec<u8> {
        match opened.outcome {
            Outcome::Reply(length) => buffer[..length].to_vec(),
            other => panic!("{other:?}"),
        }
    }

    impl Pair {
        fn handshake(&mut self, now: Instant) {
            let mut buffer = [0; 2_048];
            let initiation = message(self.a.initiate(now, &mut buffer), &buffer);
            let opened = self.b.open(now, None, &initiation, &mut buffer);
            let response = reply(opened, &buffer);
            let opened = self.a.open(now, None, &response, &mut buffer);
            assert!(opened.established);
            let keepalive = reply(opened, &buffer);
            let opened = self.b.open(now, None, &keepalive, &mut buffer);
            assert_eq!(opened.outcome, Outcome::Nothing);
            assert!(self.a.is_usable() && self.b.is_usable());
        }

        fn sealed(&mut self, packet: &[u8]) -> Vec<u8> {
            let mut content = [0xff; 2_048];
            content[..packet.len()].copy_from_slice(packet);
            let mut out = [0; 2_300];
            message(
                self.a.seal(&mut content, packet.len(), 1_360, &mut out),
                &out,
            )
        }

        fn opened(&mut self, datagram: &[u8]) -> Result<Vec<u8>, Refusal> {
            let mut out = [0; 2_300];
            match self.b.open(NOW, None, datagram, &mut out).outcome {
                Outcome::Packet(length) => Ok(out[..length].to_vec()),
                Outcome::Refused(refusal) => Err(refusal),
                other => panic!("{other:?}"),
            }
        }
    }

    fn packet(length: usize) -> Vec<u8> {
        let mut packet = vec![7; length];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        packet
    }

    fn both(test: impl Fn(Pair)) {
        for cipher in [CipherKind::Noise, CipherKind::Null] {
            let mut pair = pair(cipher);
            pair.handshake(NOW);
            test(pair);
        }
    }

    #[test]
    fn packets_arrive_as_they_were_sent_and_padded_on_the_wire() {
        both(|mut pair| {
            for length in [20, 31, 32, 1_355, 1_360] {
                let sealed = pair.sealed(&packet(length));
                assert_eq!(sealed.len(), length.next_multiple_of(16) + DATA_OVERHEAD);
                assert_eq!(Message::of(&sealed).unwrap().session(), Some(0x0012_3456));
                assert_eq!(pair.opened(&sealed), Ok(packet(length)));
            }
        });
    }

    #[test]
    fn a_datagram_is_opened_once() {
        both(|mut pair| {
            let sealed = pair.sealed(&packet(100));
            assert!(pair.opened(&sealed).is_ok());
            assert_eq!(pair.opened(&sealed), Err(Refusal::Replayed));
        });
    }

    #[test]
    fn every_flipped_byte_and_every_truncation_is_refused() {
        both(|mut pair| {
            let sealed = pair.sealed(&packet(60));
            for byte in 0..sealed.len() {
                let mut damaged = sealed.clone();
                damaged[byte] ^= 0x20;
                assert!(pair.opened(&damaged).is_err(), "byte {byte}");
                assert!(pair.opened(&sealed[..byte]).is_err(), "length {byte}");
            }
            assert!(pair.opened(&sealed).is_ok());
        });
    }

    #[test]
    fn content_that_claims_more_than_it_has_is_refused() {
        both(|mut pair| {
            let mut liar = packet(64);
            liar[2..4].copy_from_slice(&65_u16.to_be_bytes());
            let sealed = pair.sealed(&liar);
            assert_eq!(pair.opened(&sealed), Err(Refusal::Malformed));
            let sealed = pair.sealed(&[0x15; 64]);
            assert_eq!(pair.opened(&sealed), Err(Refusal::Malformed));
        });
    }

    #[test]
    fn a_counter_at_the_end_of_its_range_never_reaches_the_cipher() {
        both(|mut pair| {
            for counter in [FIRST_REFUSED_COUNTER, u64::MAX - 1, u64::MAX] {
                let mut sealed = pair.sealed(&packet(60));
                sealed[8..16].copy_from_slice(&counter.to_le_bytes());
                assert_eq!(pair.opened(&sealed), Err(Refusal::CounterExhausted));
            }
            let sealed = pair.sealed(&packet(60));
            assert!(pair.opened(&sealed).is_ok());
        });
    }

    #[test]
    fn nothing_is_queued_inside_a_session_without_a_key() {
        for cipher in [CipherKind::Noise, CipherKind::Null] {
            let mut pair = pair(cipher);
            let mut out = [0; 2_048];
            assert_eq!(pair.a.seal(&mut packet(64), 64, 1_360, &mut out), None);
        }
    }

    #[test]
    fn short_buffers_are_refused_instead_of_panicking() {
        both(|mut pair| {
            let sealed = pair.sealed(&packet(500));
            let opened = pair.b.open(NOW, None, &sealed, &mut [0; 200]);
            assert_eq!(opened.outcome, Outcome::Refused(Refusal::NoRoom));
            assert_eq!(
                pair.a.seal(&mut packet(512), 512, 1_360, &mut [0; 500]),
                None
            );
            assert_eq!(pair.a.initiate(NOW, &mut [0; 100]), None);
        });
    }

    #[test]
    fn one_side_starts_rekeying_with_jitter_and_only_a_session_in_use() {
        both(|mut pair| {
            let late = NOW + Micros::from_secs(116);
            assert!(!pair.a.wants_rekey(late), "unused");
            let _ = pair.sealed(&packet(60));
            assert!(!pair.a.wants_rekey(NOW + Micros::from_secs(104)));
            assert!(pair.a.wants_rekey(late) && !pair.b.wants_rekey(late));
            pair.handshake(late);
            assert!(!pair.a.wants_rekey(late));
        });
    }

    #[test]
    fn datagrams_of_the_key_before_are_still_opened_after_a_rekey() {
        both(|mut pair| {
            let mut now = NOW;
            for _ in 0..100 {
                let before = pair.sealed(&packet(60));
                now = now + Micros::from_secs(1);
                pair.handshake(now);
                let after = pair.sealed(&packet(61));
                assert_eq!(pair.opened(&after), Ok(packet(61)));
                assert_eq!(pair.opened(&before), Ok(packet(60)));
            }
        });
    }

    #[test]
    fn a_replayed_initiation_is_refused() {
        both(|mut pair| {
            let mut buffer = [0; 2_048];
            let later = NOW + Micros::from_secs(1);
            let initiation = message(pair.a.initiate(later, &mut buffer), &buffer);
            assert!(matches!(
                pair.b.open(later, None, &initiation, &mut buffer).outcome,
                Outcome::Reply(92)
            ));
            assert_eq!(
                pair.b.open(later, None, &initiation, &mut buffer).outcome,
                Outcome::Refused(Refusal::Replayed)
            );
        });
    }

    #[test]
    fn the_initiator_is_known_by_its_key() {
        both(|mut pair| {
            let mut buffer = [0; 2_048];
            let mut initiation = message(pair.a.initiate(NOW, &mut buffer), &buffer);
            let mut shares = Shares::default();
            assert_eq!(
                pair.local_b
                    .initiator(&mut shares, None, &initiation, &mut buffer),
                Initiator::Key(pair.b.peer())
            );
            let mut refused = |datagram: &[u8]| {
                matches!(
                    pair.local_b
                        .initiator(&mut shares, None, datagram, &mut [0; 200]),
                    Initiator::Refused(_)
                )
            };
            assert!(refused(&initiation[..147]) && refused(&[]));
            if pair.local_b.cipher() == CipherKind::Noise {
                initiation[60] ^= 1;
                assert!(refused(&initiation));
            }
        });
    }

    #[test]
    fn a_flood_of_handshakes_is_answered_with_cookies_shorter_than_the_question() {
        let mut pair = pair(CipherKind::Noise);
        let mut buffer = [0; 2_048];
        let initiation = message(pair.a.initiate(NOW, &mut buffer), &buffer);
        // Damage behind the first check sum is not noticed by the limiter: that is what a flood of copies looks like.
        let from = Some("192.0.2.1".parse().unwrap());
        let cookies = (0..PASSES_UNTIL_COOKIE + 10)
            .filter(|_| match pair.local_b.limiter_verdict(from, &initiation) {
                Some(length) => {
                    assert!(length < initiation.len());
                    true
                }
                None => false,
            })
            .count();
        assert_eq!(cookies, 10);
    }

    #[test]
    fn a_source_that_proves_its_address_is_heard_for_its_share_and_others_still_are() {
        let mut pair = pair(CipherKind::Noise);
        let from = |last: u8| Some(IpAddr::from([192, 0, 2, last]));
        let mut buffer = [0; 2_048];
        let initiation = message(pair.a.initiate(NOW, &mut buffer), &buffer);
        for _ in 0..PASSES_UNTIL_COOKIE {
            pair.local_b.limiter_verdict(from(9), &initiation);
        }
        let mut shares = Shares::default();
        for source in [from(1), from(2)] {
            let asked = message(pair.a.initiate(NOW, &mut buffer), &buffer);
            let Initiator::Cookie(length) =
                pair.local_b
                    .initiator(&mut shares, source, &asked, &mut buffer)
            else {
                panic!("no proof was asked for");
            };
            let cookie = buffer[..length].to_vec();
            pair.a.open(NOW, None, &cookie, &mut buffer);
            let verdicts: Vec<Initiator> = (0..30)
                .map(|_| {
                    let proven = message(pair.a.initiate(NOW, &mut buffer), &buffer);
                    pair.local_b
                        .initiator(&mut shares, source, &proven, &mut buffer)
                })
                .collect();
            let heard = Initiator::Key(pair.b.peer());
            assert!(verdicts[..20].iter().all(|verdict| *verdict == heard));
            let refused = Initiator::Refused(Refusal::RateLimited);
            assert!(verdicts[20..].iter().all(|verdict| *verdict == refused));
        }
    }

    #[test]
    fn handshakes_that_cross_leave_both_sides_able_to_talk() {
        both(|mut pair| {
            let mut now = NOW;
            for round in 0..50_u64 {
                now = now + Micros::from_secs(1);
                let mut buffer = [0; 2_048];
                let from_a = message(pair.a.initiate(now, &mut buffer), &buffer);
                let from_b = message(pair.b.initiate(now, &mut buffer), &buffer);
                // The answers are made, and may overtake each other.
                let opened = pair.b.open(now, None, &from_a, &mut buffer);
                let mut answers = vec![(Side::A, reply(opened, &buffer))];
                let opened = pair.a.open(now, None, &from_b, &mut buffer);
                answers.push((Side::B, reply(opened, &buffer)));
                if round % 2 == 0 {
                    answers.reverse();
                }
                for (side, answer) in answers {
                    pair.talks_both_ways(now);
                    let (to, other) = pair.sides(side);
                    let opened = to.open(now, None, &answer, &mut buffer);
                    let keepalive = reply(opened, &buffer);
                    // Every third keepalive is lost.
                    if round % 3 != 0 {
                        other.open(now, None, &keepalive, &mut buffer);
                    }
                }
                pair.talks_both_ways(now);
            }
        });
    }

    #[derive(Debug, Clone, Copy)]
    enum Side {
        A,
        B,
    }

    impl Pair {
        fn sides(&mut self, side: Side) -> (&mut Session, &mut Session) {
            match side {
                Side::A => (&mut self.a, &mut self.b),
                Side::B => (&mut self.b, &mut self.a),
            }
        }

        fn talks_both_ways(&mut self, now: Instant) {
            for side in [Side::A, Side::B, Side::A] {
                let (from, to) = self.sides(side);
                let (mut content, mut sealed, mut out) = (packet(64), [0; 200], [0; 200]);
                let length = from.seal(&mut content, 64, 1_360, &mut sealed).unwrap();
                let opened = to.open(now, None, &sealed[..length], &mut out);
                assert_eq!(opened.outcome, Outcome::Packet(64), "{side:?}");
            }
        }
    }

    /// Passes of the shared limiter before it asks for cookies.
    const PASSES_UNTIL_COOKIE: usize = 2_000;

    impl Local {
        fn limiter_verdict(&self, from: Option<IpAddr>, datagram: &[u8]) -> Option<usize> {
            match self.verify(from, datagram, &mut [0; 200]) {
                Err(TunnResult::WriteToNetwork(cookie)) => Some(cookie.len()),
                _ => None,
            }
        }
    }
}
