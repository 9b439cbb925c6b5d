//! Link keys: what seals the headers of relay frames between two neighbours (`docs/protocol/relay-frame.md`).
//!
//! Each direction has keys of its own, made by the sender, offered inside the session of the two, used once the
//! receiver has acknowledged them, rolled every two minutes; the receiver keeps the one before, so nothing on the way is lost.

use std::fmt;

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use wattle_model::{Instant, Micros};
use wattle_wire::control::{Control, LinkKey};
use wattle_wire::frame::{CLEAR_LENGTH, Clear, HEADER_LENGTH, Header, SEALED_LENGTH};
use zeroize::Zeroizing;

use crate::replay::ReplayWindow;

/// How long a key seals.
const ROLL_AFTER: Micros = Micros::from_secs(120);
/// Between two offers of a key that is not acknowledged: one that was made right after a handshake may have come before its
/// end, and until there is an answer frames go to a node that restarted under keys that it has forgotten.
const OFFER_AGAIN: Micros = Micros::from_millis(50);
/// … and how far that pause grows.
const OFFER_SLOWLY: Micros = Micros::from_secs(8);
/// Least time between two requests for a key.
const REQUEST_AGAIN: Micros = Micros::from_millis(200);
/// Keys of the other end that are kept: the one in use, the one before, the one to come.
const RECEIVING_KEYS: usize = 3;

/// Fresh randomness for one key.
pub type KeyBytes = Zeroizing<[u8; 16]>;

/// The link keys shared with one neighbour.
#[derive(Default)]
pub struct LinkKeys {
    sending: Option<SendingKey>,
    offered: Option<OfferedKey>,
    /// Oldest first.
    receiving: Vec<ReceivingKey>,
    last_id: u8,
    request_after: Instant,
    /// The neighbour stopped: it is offered nothing until there is a handshake with its next life.
    is_left: bool,
}

struct SendingKey {
    id: u8,
    key: LessSafeKey,
    counter: u64,
    roll_at: Instant,
}

struct OfferedKey {
    id: u8,
    bytes: KeyBytes,
    again_at: Instant,
    pause: Micros,
}

struct ReceivingKey {
    id: u8,
    bytes: KeyBytes,
    key: LessSafeKey,
    window: ReplayWindow,
}

/// Why a relay frame was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameRefusal {
    /// No relay frame of a known version.
    Malformed,
    /// Sealed with a key that is not known: the sender is to be asked for one.
    UnknownKey,
    /// Forged, damaged, or from another neighbour.
    Unauthentic,
    /// Seen before, or too old.
    Replayed,
}

/// Whether a key is to be offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// Send this to the neighbour.
    Send(Control),
    /// Nothing is due.
    Nothing,
}

impl LinkKeys {
    /// Whether frames can be sealed.
    pub fn can_seal(&self) -> bool {
        self.sending.is_some()
    }

    /// Seals a header in front of its payload: `frame` has [`HEADER_LENGTH`] free bytes and then the payload.
    /// `false` if no key was acknowledged yet.
    #[must_use]
    pub fn seal(&mut self, header: &Header, frame: &mut [u8]) -> bool {
        let Some(sending) = &mut self.sending else {
            return false;
        };
        let Some((room, payload)) = frame.split_at_mut_checked(HEADER_LENGTH) else {
            return false;
        };
        let clear = Clear {
            key_id: sending.id,
            counter: sending.counter,
        };
        sending.counter += 1;
        let mut sealed = header.to_bytes();
        let nonce = Nonce::assume_unique_for_key(clear.nonce());
        let data = Aad::from(clear.associated_data(payload));
        let Ok(tag) = sending
            .key
            .seal_in_place_separate_tag(nonce, data, &mut sealed)
        else {
            return false;
        };
        room[..CLEAR_LENGTH].copy_from_slice(&clear.to_bytes());
        room[CLEAR_LENGTH..][..SEALED_LENGTH].copy_from_slice(&sealed);
        room[CLEAR_LENGTH + SEALED_LENGTH..].copy_from_slice(tag.as_ref());
        true
    }

    /// Opens the header of a frame from the neighbour.
    ///
    /// # Errors
    /// Why the frame is to be dropped.
    pub fn open(&mut self, frame: &[u8]) -> Result<Header, FrameRefusal> {
        let clear = Clear::parse(frame).map_err(|_| FrameRefusal::Malformed)?;
        let receiving = self
            .receiving
            .iter_mut()
            .rev()
            .find(|key| key.id == clear.key_id);
        let receiving = receiving.ok_or(FrameRefusal::UnknownKey)?;
        if !receiving.window.accepts(clear.counter) {
            return Err(FrameRefusal::Replayed);
        }
        let (head, payload) = frame.split_at(HEADER_LENGTH);
        let mut sealed = [0; HEADER_LENGTH - CLEAR_LENGTH];
        sealed.copy_from_slice(&head[CLEAR_LENGTH..]);
        let nonce = Nonce::assume_unique_for_key(clear.nonce());
        let data = Aad::from(clear.associated_data(payload));
        let opened = receiving
            .key
            .open_in_place(nonce, data, &mut sealed)
            .map_err(|_| FrameRefusal::Unauthentic)?;
        let bytes: &[u8; SEALED_LENGTH] = opened.first_chunk().ok_or(FrameRefusal::Malformed)?;
        receiving.window.mark(clear.counter);
        Header::from_bytes(bytes).map_err(|_| FrameRefusal::Malformed)
    }

    /// The offer that is due, if one is. `fresh` makes the bytes of a key.
    pub fn handle_timeout(&mut self, now: Instant, fresh: impl FnOnce() -> KeyBytes) -> Offer {
        if now < self.poll_timeout() {
            return Offer::Nothing;
        }
        let offered = match self.offered.take() {
            Some(offered) => offered,
            None => {
                self.last_id = self.last_id.wrapping_add(1);
                OfferedKey {
                    id: self.last_id,
                    bytes: fresh(),
                    again_at: now,
                    pause: OFFER_AGAIN,
                }
            }
        };
        let key = LinkKey {
            key_id: offered.id,
            key: offered.bytes.clone(),
        };
        let pause = Micros(offered.pause.0 * 2).min(OFFER_SLOWLY);
        self.offered = Some(OfferedKey {
            again_at: now + offered.pause,
            pause,
            ..offered
        });
        Offer::Send(Control::LinkKey(key))
    }

    /// When an offer is due.
    pub fn poll_timeout(&self) -> Instant {
        match (&self.offered, &self.sending) {
            _ if self.is_left => Instant::NEVER,
            (Some(offered), _) => offered.again_at,
            (None, Some(sending)) => sending.roll_at,
            (None, None) => Instant(0),
        }
    }

    /// The neighbour has the key that was offered: it seals from here on.
    pub fn acknowledged(&mut self, now: Instant, key_id: u8) {
        if self
            .offered
            .as_ref()
            .is_none_or(|offered| offered.id != key_id)
        {
            return;
        }
        if let Some(offered) = self.offered.take()
            && let Some(key) = cipher(&offered.bytes)
        {
            self.sending = Some(SendingKey {
                id: offered.id,
                key,
                counter: 0,
                roll_at: now + ROLL_AFTER,
            });
        }
    }

    /// The neighbour offers a key; the answer to send.
    pub fn offered(&mut self, link_key: &LinkKey) -> Control {
        let known = self
            .receiving
            .iter()
            .any(|known| known.id == link_key.key_id && *known.bytes == *link_key.key);
        // An offer that comes again must not forget which counters were seen.
        if !known && let Some(key) = cipher(&link_key.key) {
            self.receiving.retain(|known| known.id != link_key.key_id);
            if self.receiving.len() == RECEIVING_KEYS {
                self.receiving.remove(0);
            }
            let window = ReplayWindow::default();
            self.receiving.push(ReceivingKey {
                id: link_key.key_id,
                bytes: link_key.key.clone(),
                key,
                window,
            });
        }
        Control::LinkKeyAck {
            key_id: link_key.key_id,
        }
    }

    /// The neighbour does not know the key that seals: a new one is due at once.
    pub fn requested(&mut self, now: Instant) {
        self.sending = None;
        if let Some(offered) = &mut self.offered {
            offered.again_at = offered.again_at.min(now + OFFER_AGAIN);
            offered.pause = OFFER_AGAIN;
        }
    }

    /// The neighbour stops: its next life knows none of the keys that it acknowledged in this one.
    pub fn left(&mut self) {
        self.sending = None;
        self.offered = None;
        self.is_left = true;
    }

    /// A frame came whose key is not known: the request to send, unless one was sent just before.
    pub fn request(&mut self, now: Instant) -> Option<Control> {
        if now < self.request_after {
            return None;
        }
        self.request_after = now + REQUEST_AGAIN;
        Some(Control::LinkKeyRequest)
    }

    /// A handshake with the neighbour was completed: it may have restarted and forgotten all keys, so a fresh one is
    /// offered at once. The one in use goes on until that is acknowledged.
    pub fn session_renewed(&mut self, now: Instant) {
        self.is_left = false;
        if let Some(sending) = &mut self.sending {
            sending.roll_at = now;
        }
        if let Some(offered) = &mut self.offered {
            offered.again_at = now;
            offered.pause = OFFER_AGAIN;
        }
    }
}

fn cipher(bytes: &[u8; 16]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_128_GCM, bytes)
        .ok()
        .map(LessSafeKey::new)
}

impl fmt::Debug for LinkKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<u8> = self.receiving.iter().map(|key| key.id).collect();
        f.debug_struct("LinkKeys")
            .field("sending", &self.sending.as_ref().map(|key| key.id))
            .field("receiving", &ids)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use wattle_model::NodeId;
    use wattle_wire::frame::Waypoints;

    use super::*;

    const NOW: Instant = Instant(1_000_000);

    fn header() -> Header {
        Header {
            destination: NodeId(1),
            source: NodeId(2),
            hop_limit: 9,
            class_priority: 0,
            precedence_weight: 0,
            flow: 5,
            lane: 0,
            detours: 0,
            waypoints: Waypoints::NONE,
        }
    }

    fn offer(keys: &mut LinkKeys, now: Instant, fill: u8) -> LinkKey {
        match keys.handle_timeout(now, || Zeroizing::new([fill; 16])) {
            Offer::Send(Control::LinkKey(key)) => key,
            other => panic!("{other:?}"),
        }
    }

    fn exchange(from: &mut LinkKeys, to: &mut LinkKeys, now: Instant, fill: u8) {
        let key = offer(from, now, fill);
        let Control::LinkKeyAck { key_id } = to.offered(&key) else {
            panic!("no acknowledgement")
        };
        from.acknowledged(now, key_id);
    }

    fn pair() -> (LinkKeys, LinkKeys) {
        let (mut a, mut b) = (LinkKeys::default(), LinkKeys::default());
        exchange(&mut a, &mut b, NOW, 7);
        (a, b)
    }

    fn frame(keys: &mut LinkKeys) -> Vec<u8> {
        let mut frame = vec![0; HEADER_LENGTH];
        frame.extend(4_u32.to_le_bytes());
        frame.extend([9; 60]);
        assert!(keys.seal(&header(), &mut frame));
        frame
    }

    #[test]
    fn nothing_is_sealed_before_the_key_is_acknowledged() {
        let mut keys = LinkKeys::default();
        let key = offer(&mut keys, NOW, 1);
        assert!(!keys.seal(&header(), &mut [0; 200]));
        keys.acknowledged(NOW, key.key_id.wrapping_add(1));
        assert!(!keys.can_seal());
        keys.acknowledged(NOW, key.key_id);
        assert!(keys.can_seal());
    }

    #[test]
    fn a_header_is_opened_once() {
        let (mut a, mut b) = pair();
        let frame = frame(&mut a);
        assert_eq!(b.open(&frame), Ok(header()));
        assert_eq!(b.open(&frame), Err(FrameRefusal::Replayed));
    }

    #[test]
    fn header_length_and_authenticator_of_the_payload_are_bound_together() {
        let (mut a, mut b) = pair();
        let frame = frame(&mut a);
        let payload_body = HEADER_LENGTH..frame.len() - 16;
        for byte in (0..frame.len()).filter(|byte| !payload_body.contains(byte)) {
            let mut damaged = frame.clone();
            damaged[byte] ^= 0x10;
            assert!(b.open(&damaged).is_err(), "byte {byte}");
        }
        for length in 0..frame.len() {
            assert!(b.open(&frame[..length]).is_err(), "length {length}");
        }
        assert_eq!(b.open(&frame), Ok(header()));
    }

    #[test]
    fn an_unknown_key_is_asked_for_but_not_in_a_flood() {
        let (mut a, _) = pair();
        let mut restarted = LinkKeys::default();
        assert_eq!(
            restarted.open(&frame(&mut a)),
            Err(FrameRefusal::UnknownKey)
        );
        assert_eq!(restarted.request(NOW), Some(Control::LinkKeyRequest));
        assert_eq!(restarted.request(NOW + Micros(1)), None);
        a.requested(NOW);
        assert!(!a.can_seal() && a.poll_timeout() <= NOW);
        exchange(&mut a, &mut restarted, NOW, 8);
        assert_eq!(restarted.open(&frame(&mut a)), Ok(header()));
    }

    #[test]
    fn to_a_neighbour_that_stopped_nothing_is_sealed_before_its_next_life_has_a_key() {
        let (mut a, b) = pair();
        let under_way = offer(&mut a, NOW + ROLL_AFTER, 8);
        a.left();
        drop(b);
        assert!(!a.can_seal());
        a.acknowledged(NOW, under_way.key_id);
        assert!(!a.can_seal(), "the former life's answer");
        assert_eq!(a.poll_timeout(), Instant::NEVER, "nobody to offer one to");
        a.session_renewed(NOW);
        let mut restarted = LinkKeys::default();
        exchange(&mut a, &mut restarted, NOW, 9);
        assert_eq!(restarted.open(&frame(&mut a)), Ok(header()));
    }

    #[test]
    fn keys_roll_with_overlap() {
        let (mut a, mut b) = pair();
        let before = frame(&mut a);
        assert_eq!(a.poll_timeout(), NOW + ROLL_AFTER);
        let later = NOW + ROLL_AFTER;
        let key = offer(&mut a, later, 9);
        let meanwhile = frame(&mut a);
        assert!(matches!(b.offered(&key), Control::LinkKeyAck { .. }));
        a.acknowledged(later, key.key_id);
        let after = frame(&mut a);
        for frame in [after, meanwhile, before] {
            assert_eq!(b.open(&frame), Ok(header()));
        }
    }

    #[test]
    fn an_offer_that_comes_again_does_not_open_the_door_to_replays() {
        let (mut a, mut b) = (LinkKeys::default(), LinkKeys::default());
        let key = offer(&mut a, NOW, 3);
        b.offered(&key);
        a.acknowledged(NOW, key.key_id);
        let frame = frame(&mut a);
        assert_eq!(b.open(&frame), Ok(header()));
        b.offered(&key);
        assert_eq!(b.open(&frame), Err(FrameRefusal::Replayed));
    }

    #[test]
    fn an_offer_is_repeated_ever_more_slowly_until_it_is_acknowledged() {
        let mut keys = LinkKeys::default();
        let first = offer(&mut keys, NOW, 1);
        let mut pauses = Vec::new();
        let mut now = NOW;
        for _ in 0..10 {
            assert_eq!(
                keys.handle_timeout(now, || unreachable!("the key is kept")),
                Offer::Nothing
            );
            let due = keys.poll_timeout();
            pauses.push(due.since(now).as_millis());
            now = due;
            assert_eq!(offer(&mut keys, now, 2), first);
        }
        assert_eq!(
            pauses,
            [50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 8_000, 8_000]
        );
    }
}
