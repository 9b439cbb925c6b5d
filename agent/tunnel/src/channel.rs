//! The fast channel (`docs/protocol/fast-channel.md`): packets of a session sealed in place, with the cipher that the
//! slower end does faster.
//!
//! The keys travel inside the session, one per direction, each made by the end that seals with it; they are replaced
//! after every handshake and never outlive the session. Time, randomness and the cost of ciphers are handed in.
//!
//! Nonces: a key belongs to one direction of one session, its counter only grows, and a key that was sealed with is
//! never sealed with again once it was given up; so no nonce is used twice.

use std::fmt;

use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use wattle_model::{Checksum, Instant, Micros};
use wattle_wire::control::{ChannelKey, ChannelKeyAck, Suite};
use zeroize::Zeroizing;

use crate::message::{CHANNEL_HEADER, CHANNEL_TYPE, DATA_OVERHEAD, Message};
use crate::replay::ReplayWindow;
use crate::session::Refusal;

/// Messages that one key seals at most. With AES-GCM 2^29 packets of 1.4 kB leave an attacker an advantage of about
/// 2^-57 (RFC 9001 appendix B); WireGuard's messages go on where a key ends.
const MESSAGES: u64 = 1 << 29;
/// Between two offers of a key that is not acknowledged; doubled each time.
const OFFER_AGAIN: Micros = Micros::from_millis(500);
/// Offers per handshake: whoever answers none of them does not know the channel.
const OFFERS: u32 = 5;
/// Keys of the other end that are kept: the one in use and the one before.
const RECEIVING_KEYS: usize = 2;
const TAG: usize = DATA_OVERHEAD - CHANNEL_HEADER;
/// Bytes that the cost of a cipher is measured with: a full packet of the overlay.
const SAMPLE: usize = 1360;
/// Packets per measurement: together a few milliseconds.
const SAMPLES: u32 = 512;

/// Fresh randomness for one key.
pub type ChannelKeyBytes = Zeroizing<[u8; 32]>;

/// What the ciphers cost this node, in nanoseconds per packet of 1360 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CipherCosts {
    /// AES-256-GCM.
    pub aes_ns: u16,
    /// ChaCha20-Poly1305.
    pub chacha_ns: u16,
}

impl CipherCosts {
    /// Measures on the caller's clock, which counts nanoseconds.
    pub fn measure(mut clock: impl FnMut() -> u64) -> Self {
        let mut cost = |suite| {
            let Some(key) = cipher(suite, &[7; 32]) else {
                return u16::MAX;
            };
            let mut packet = [0; SAMPLE];
            let mut seal = |counter| {
                let nonce = nonce(counter);
                let _tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut packet);
            };
            seal(0);
            let begun = clock();
            (1..=u64::from(SAMPLES)).for_each(&mut seal);
            let each = clock().saturating_sub(begun) / u64::from(SAMPLES);
            u16::try_from(each).unwrap_or(u16::MAX)
        };
        Self {
            aes_ns: cost(Suite::Aes256Gcm),
            chacha_ns: cost(Suite::ChaCha20Poly1305),
        }
    }

    /// The cipher that the slower of two nodes does faster.
    fn suite_with(self, other: Self) -> Suite {
        let aes = self.aes_ns.max(other.aes_ns);
        let chacha = self.chacha_ns.max(other.chacha_ns);
        if aes <= chacha {
            Suite::Aes256Gcm
        } else {
            Suite::ChaCha20Poly1305
        }
    }
}

/// The fast channel of one session.
#[derive(Default)]
pub(crate) struct Channel {
    /// Whether packets were sent that the channel could have carried: without traffic no keys are exchanged.
    wanted: bool,
    /// Offers made since the last handshake.
    offers: u32,
    offered: Option<Offered>,
    sending: Option<Sending>,
    /// Oldest first.
    receiving: Vec<Receiving>,
    last_id: u8,
}

struct Offered {
    id: u8,
    bytes: ChannelKeyBytes,
    again_at: Instant,
}

struct Sending {
    /// The receiver's session index and the key's id, as they stand in the header.
    receiver: u32,
    suite: Suite,
    key: LessSafeKey,
    counter: u64,
}

struct Receiving {
    id: u8,
    bytes: ChannelKeyBytes,
    suite: Suite,
    key: LessSafeKey,
    window: ReplayWindow,
}

impl Channel {
    /// The cipher that seals, while there is one.
    pub(crate) fn suite(&self) -> Option<Suite> {
        self.sending.as_ref().map(|sending| sending.suite)
    }

    /// A packet was sent that the channel could have carried.
    pub(crate) fn want(&mut self) {
        self.wanted = true;
    }

    /// When an offer is due.
    pub(crate) fn poll_timeout(&self) -> Instant {
        match &self.offered {
            _ if !self.wanted || self.sending.is_some() || self.offers == OFFERS => Instant::NEVER,
            Some(offered) => offered.again_at,
            None => Instant(0),
        }
    }

    /// The offer that is due, if one is. `fresh` makes the bytes of a key.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        costs: CipherCosts,
        fresh: impl FnOnce() -> ChannelKeyBytes,
    ) -> Option<ChannelKey> {
        if now < self.poll_timeout() {
            return None;
        }
        let (id, bytes) = match self.offered.take() {
            Some(offered) => (offered.id, offered.bytes),
            None => {
                self.last_id = self.last_id.wrapping_add(1);
                (self.last_id, fresh())
            }
        };
        let again_at = now + Micros(OFFER_AGAIN.0 << self.offers);
        self.offers += 1;
        let key = bytes.clone();
        self.offered = Some(Offered {
            id,
            bytes,
            again_at,
        });
        Some(ChannelKey {
            key_id: id,
            aes_ns: costs.aes_ns,
            chacha_ns: costs.chacha_ns,
            key,
        })
    }

    /// The other end has the key that was offered (or wants none): it seals from here on.
    pub(crate) fn acknowledged(&mut self, ack: ChannelKeyAck) {
        let Some(offered) = self.offered.take_if(|offered| offered.id == ack.key_id) else {
            return;
        };
        let Some(suite) = ack.suite else {
            self.offers = OFFERS;
            return;
        };
        self.sending = cipher(suite, &offered.bytes).map(|key| Sending {
            receiver: ack.receiver << 8 | u32::from(ack.key_id),
            suite,
            key,
            counter: 0,
        });
    }

    /// The other end offers a key; the answer to send. `own` is what this end wants the channel for, if it does.
    pub(crate) fn offered(
        &mut self,
        own: Option<CipherCosts>,
        index: u32,
        offer: &ChannelKey,
    ) -> ChannelKeyAck {
        let costs = CipherCosts {
            aes_ns: offer.aes_ns,
            chacha_ns: offer.chacha_ns,
        };
        let suite = own.map(|own| own.suite_with(costs));
        if let Some(suite) = suite {
            self.receive_with(suite, offer);
        }
        ChannelKeyAck {
            key_id: offer.key_id,
            suite,
            receiver: index,
        }
    }

    fn receive_with(&mut self, suite: Suite, offer: &ChannelKey) {
        let known = self
            .receiving
            .iter()
            .any(|known| known.id == offer.key_id && *known.bytes == *offer.key);
        // An offer that comes again must not forget which counters were seen.
        if known {
            return;
        }
        let Some(key) = cipher(suite, &offer.key) else {
            return;
        };
        self.receiving.retain(|known| known.id != offer.key_id);
        if self.receiving.len() == RECEIVING_KEYS {
            self.receiving.remove(0);
        }
        self.receiving.push(Receiving {
            id: offer.key_id,
            bytes: offer.key.clone(),
            suite,
            key,
            window: ReplayWindow::default(),
        });
    }

    /// A handshake was completed: the other end may have restarted and forgotten its keys, so the session's own
    /// messages carry packets until a fresh key is acknowledged.
    pub(crate) fn session_renewed(&mut self) {
        self.sending = None;
        self.offered = None;
        self.offers = 0;
        self.wanted = false;
    }

    /// The session ended, and its keys with it.
    pub(crate) fn forget(&mut self) {
        self.session_renewed();
        self.receiving.clear();
    }

    /// Seals a message in place: room for the header, the content, room for the tag. `false` if there is no key.
    #[must_use]
    pub(crate) fn seal(&mut self, checksum: Checksum, message: &mut [u8]) -> bool {
        let Some(sending) = &mut self.sending else {
            return false;
        };
        let Some(end) = message.len().checked_sub(TAG) else {
            return false;
        };
        let Some((header, rest)) = message.split_at_mut_checked(CHANNEL_HEADER) else {
            return false;
        };
        let (content, tag_room) = rest.split_at_mut(end - CHANNEL_HEADER);
        let counter = sending.counter;
        sending.counter += 1;
        header[..4].copy_from_slice(&[CHANNEL_TYPE, flags(checksum), 0, 0]);
        header[4..8].copy_from_slice(&sending.receiver.to_le_bytes());
        header[8..].copy_from_slice(&counter.to_le_bytes());
        let sealed =
            sending
                .key
                .seal_in_place_separate_tag(nonce(counter), Aad::from(&*header), content);
        if sending.counter == MESSAGES {
            // The next offer is made at once.
            self.sending = None;
            self.offers = 0;
        }
        match sealed {
            Ok(tag) => {
                tag_room.copy_from_slice(tag.as_ref());
                true
            }
            Err(_) => false,
        }
    }

    /// Opens a message in place; the content is what lies between header and tag.
    ///
    /// # Errors
    /// Why the message is to be dropped.
    pub(crate) fn open<'a>(
        &mut self,
        message: &'a mut [u8],
    ) -> Result<(Checksum, &'a mut [u8]), Refusal> {
        let Some(Message::Channel {
            receiver,
            counter,
            checksum,
        }) = Message::of(message)
        else {
            return Err(Refusal::Malformed);
        };
        let id = receiver as u8;
        let receiving = self
            .receiving
            .iter_mut()
            .rev()
            .find(|known| known.id == id)
            .ok_or(Refusal::UnknownKey)?;
        if counter >= MESSAGES {
            return Err(Refusal::CounterExhausted);
        }
        if !receiving.window.accepts(counter) {
            return Err(Refusal::Replayed);
        }
        let (header, sealed) = message.split_at_mut(CHANNEL_HEADER);
        let content = receiving
            .key
            .open_in_place(nonce(counter), Aad::from(&*header), sealed)
            .map_err(|_| Refusal::Unauthentic)?;
        receiving.window.mark(counter);
        Ok((checksum, content))
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let receiving: Vec<_> = self
            .receiving
            .iter()
            .map(|key| (key.id, key.suite))
            .collect();
        f.debug_struct("Channel")
            .field("sending", &self.suite())
            .field("receiving", &receiving)
            .finish_non_exhaustive()
    }
}

fn flags(checksum: Checksum) -> u8 {
    match checksum {
        Checksum::Complete => 0,
        Checksum::Partial => 1,
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn cipher(suite: Suite, bytes: &[u8; 32]) -> Option<LessSafeKey> {
    let algorithm = match suite {
        Suite::Aes256Gcm => &aead::AES_256_GCM,
        Suite::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
    };
    UnboundKey::new(algorithm, bytes).ok().map(LessSafeKey::new)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const NOW: Instant = Instant(1_000_000);
    const FAST_AES: CipherCosts = CipherCosts {
        aes_ns: 300,
        chacha_ns: 800,
    };
    const NO_AES: CipherCosts = CipherCosts {
        aes_ns: 3_000,
        chacha_ns: 1_500,
    };

    fn offer(from: &mut Channel, now: Instant, fill: u8) -> ChannelKey {
        from.want();
        let fresh = || Zeroizing::new([fill; 32]);
        from.handle_timeout(now, FAST_AES, fresh).unwrap()
    }

    fn exchange(from: &mut Channel, to: &mut Channel, fill: u8) {
        let offer = offer(from, NOW, fill);
        from.acknowledged(to.offered(Some(FAST_AES), 0x0012_3456, &offer));
    }

    fn pair() -> (Channel, Channel) {
        let (mut a, mut b) = (Channel::default(), Channel::default());
        exchange(&mut a, &mut b, 7);
        (a, b)
    }

    fn sealed(channel: &mut Channel, content: &[u8]) -> Vec<u8> {
        let mut message = vec![0; CHANNEL_HEADER];
        message.extend(content);
        message.extend([0; TAG]);
        assert!(channel.seal(Checksum::Complete, &mut message));
        message
    }

    fn opened(channel: &mut Channel, message: &[u8]) -> Result<Vec<u8>, Refusal> {
        let mut message = message.to_vec();
        channel
            .open(&mut message)
            .map(|(_, content)| content.to_vec())
    }

    #[test]
    fn what_was_sealed_is_opened_once() {
        let (mut a, mut b) = pair();
        let message = sealed(&mut a, b"sixteen bytes ok");
        assert_eq!(message.len(), 16 + DATA_OVERHEAD);
        assert_eq!(opened(&mut b, &message), Ok(b"sixteen bytes ok".to_vec()));
        assert_eq!(opened(&mut b, &message), Err(Refusal::Replayed));
    }

    #[test]
    fn every_damage_is_noticed_and_changes_nothing() {
        let (mut a, mut b) = pair();
        let message = sealed(&mut a, &[5; 32]);
        for bit in 0..message.len() * 8 {
            let mut damaged = message.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(opened(&mut b, &damaged).is_err(), "bit {bit}");
        }
        for length in 0..message.len() {
            assert!(
                opened(&mut b, &message[..length]).is_err(),
                "length {length}"
            );
        }
        assert_eq!(opened(&mut b, &message), Ok(vec![5; 32]));
    }

    #[test]
    fn the_state_of_the_checksum_travels_with_the_packet() {
        let (mut a, mut b) = pair();
        for checksum in [Checksum::Complete, Checksum::Partial] {
            let mut message = [0; 64];
            assert!(a.seal(checksum, &mut message));
            assert_eq!(b.open(&mut message).map(|(found, _)| found), Ok(checksum));
        }
    }

    #[test]
    fn no_nonce_is_used_twice_under_one_key() {
        let (mut a, mut b) = (Channel::default(), Channel::default());
        let mut seen = BTreeSet::new();
        for fill in 0..4 {
            a.session_renewed();
            exchange(&mut a, &mut b, fill);
            for _ in 0..100 {
                let message = sealed(&mut a, &[0; 16]);
                // The header has the key's id and the counter.
                assert!(seen.insert(message[..CHANNEL_HEADER].to_vec()));
                assert_eq!(opened(&mut b, &message), Ok(vec![0; 16]));
            }
        }
    }

    #[test]
    fn both_directions_have_keys_of_their_own() {
        let (mut a, mut b) = pair();
        exchange(&mut b, &mut a, 9);
        let to_b = sealed(&mut a, &[1; 16]);
        let to_a = sealed(&mut b, &[1; 16]);
        assert_ne!(to_a[CHANNEL_HEADER..], to_b[CHANNEL_HEADER..]);
        assert_eq!(opened(&mut a, &to_b), Err(Refusal::Unauthentic));
        assert_eq!(opened(&mut a, &to_a), Ok(vec![1; 16]));
    }

    #[test]
    fn the_slower_end_decides() {
        for (a, b, suite) in [
            (FAST_AES, FAST_AES, Suite::Aes256Gcm),
            (FAST_AES, NO_AES, Suite::ChaCha20Poly1305),
            (NO_AES, FAST_AES, Suite::ChaCha20Poly1305),
        ] {
            let (mut from, mut to) = (Channel::default(), Channel::default());
            from.want();
            let offer = from
                .handle_timeout(NOW, a, ChannelKeyBytes::default)
                .unwrap();
            from.acknowledged(to.offered(Some(b), 1, &offer));
            assert_eq!(from.suite(), Some(suite));
            let message = sealed(&mut from, &[2; 16]);
            assert_eq!(opened(&mut to, &message), Ok(vec![2; 16]));
        }
    }

    #[test]
    fn nothing_is_offered_without_traffic_nor_to_those_who_refuse() {
        let (mut a, mut b) = (Channel::default(), Channel::default());
        assert_eq!(a.poll_timeout(), Instant::NEVER);
        let offer = offer(&mut a, NOW, 1);
        a.acknowledged(b.offered(None, 1, &offer));
        assert_eq!((a.suite(), a.poll_timeout()), (None, Instant::NEVER));
        a.session_renewed();
        a.want();
        assert!(a.poll_timeout() <= NOW);
    }

    #[test]
    fn an_offer_that_nobody_answers_is_repeated_with_the_same_key_and_then_given_up() {
        let mut channel = Channel::default();
        let first = offer(&mut channel, NOW, 1);
        let mut pauses = Vec::new();
        let mut now = NOW;
        while channel.poll_timeout() != Instant::NEVER {
            let due = channel.poll_timeout();
            pauses.push(due.since(now).as_millis());
            now = due;
            assert_eq!(offer(&mut channel, now, 2), first);
        }
        assert_eq!(pauses, [500, 1_000, 2_000, 4_000]);
    }

    #[test]
    fn an_offer_that_comes_again_does_not_open_the_door_to_replays() {
        let (mut a, mut b) = (Channel::default(), Channel::default());
        let offer = offer(&mut a, NOW, 3);
        a.acknowledged(b.offered(Some(FAST_AES), 1, &offer));
        let message = sealed(&mut a, &[0; 16]);
        assert!(opened(&mut b, &message).is_ok());
        b.offered(Some(FAST_AES), 1, &offer);
        assert_eq!(opened(&mut b, &message), Err(Refusal::Replayed));
    }

    #[test]
    fn what_is_under_way_when_keys_roll_is_still_opened_but_nothing_older() {
        let (mut a, mut b) = pair();
        let oldest = sealed(&mut a, &[1; 16]);
        a.session_renewed();
        exchange(&mut a, &mut b, 8);
        let older = sealed(&mut a, &[2; 16]);
        a.session_renewed();
        exchange(&mut a, &mut b, 9);
        assert_eq!(opened(&mut b, &older), Ok(vec![2; 16]));
        assert_eq!(opened(&mut b, &oldest), Err(Refusal::UnknownKey));
    }

    #[test]
    fn a_key_ends_before_its_cipher_weakens() {
        let (mut a, mut b) = pair();
        a.sending.as_mut().unwrap().counter = MESSAGES - 1;
        let last = sealed(&mut a, &[0; 16]);
        assert!(opened(&mut b, &last).is_ok());
        assert!(!a.seal(Checksum::Complete, &mut [0; 64]));
        assert!(a.poll_timeout() <= NOW, "a new key is offered at once");
        exchange(&mut a, &mut b, 8);
        assert!(opened(&mut b, &sealed(&mut a, &[0; 16])).is_ok());
    }

    #[test]
    fn an_acknowledgement_of_another_key_changes_nothing() {
        let mut a = Channel::default();
        let offer = offer(&mut a, NOW, 1);
        let ack = |key_id| ChannelKeyAck {
            key_id,
            suite: Some(Suite::Aes256Gcm),
            receiver: 1,
        };
        a.acknowledged(ack(offer.key_id.wrapping_add(1)));
        assert_eq!(a.suite(), None);
        a.acknowledged(ack(offer.key_id));
        let first = sealed(&mut a, &[0; 16]);
        // Were it taken twice, the counter would begin again.
        a.acknowledged(ack(offer.key_id));
        assert_ne!(sealed(&mut a, &[0; 16]), first);
    }

    #[test]
    fn keys_are_not_printed() {
        let (a, b) = pair();
        let text = format!("{a:?}{b:?}");
        assert!(!text.contains("7, 7"), "{text}");
    }
}
