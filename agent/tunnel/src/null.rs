//! The simulator's cipher: the messages, lengths, counters and timeouts of WireGuard, a check sum instead of cryptography.
//!
//! Never used between real nodes: it protects nothing.

use wattle_model::{Instant, Micros, WgKey};

use crate::message::{DATA_OVERHEAD, INITIATION_LENGTH, Message, RESPONSE_LENGTH};
use crate::replay::ReplayWindow;
use crate::session::Refusal;

/// A key is not used longer than this (WireGuard white paper §6.1).
const REJECT_AFTER: Micros = Micros::from_secs(180);
const DATA_OFFSET: usize = 16;
const TAG_LENGTH: usize = 16;
/// Keys that are kept: the one in use, the one before, the one to come.
const KEYS: usize = 4;

#[derive(Debug)]
pub(crate) struct Null {
    own: WgKey,
    peer: WgKey,
    next_index: u32,
    /// Index of the initiation that was sent last.
    pending: Option<u32>,
    last_stamp: Option<u64>,
    keys: [Option<Key>; KEYS],
    current: Option<usize>,
}

#[derive(Debug)]
struct Key {
    local: u32,
    remote: u32,
    sent: u64,
    window: ReplayWindow,
    made_at: Instant,
}

/// What became of a datagram.
pub(crate) enum NullOpened {
    Packet(usize),
    Responded(usize),
    Completed,
}

impl Null {
    pub(crate) fn new(own: WgKey, peer: WgKey, index: u32) -> Self {
        let keys = [const { None }; KEYS];
        Self {
            own,
            peer,
            next_index: index << 8,
            pending: None,
            last_stamp: None,
            keys,
            current: None,
        }
    }

    pub(crate) fn is_usable(&self) -> bool {
        self.current.is_some()
    }

    pub(crate) fn initiate(&mut self, now: Instant, out: &mut [u8]) -> Option<usize> {
        let out = out.get_mut(..INITIATION_LENGTH)?;
        let index = self.fresh_index();
        self.pending = Some(index);
        out.fill(0);
        out[0] = 1;
        out[4..8].copy_from_slice(&index.to_le_bytes());
        out[8..40].copy_from_slice(&self.own.0);
        out[40..48].copy_from_slice(&now.0.to_le_bytes());
        Some(INITIATION_LENGTH)
    }

    /// The key of whoever made an initiation.
    pub(crate) fn initiator(datagram: &[u8]) -> Option<WgKey> {
        Some(WgKey(*datagram.get(8..)?.first_chunk()?))
    }

    pub(crate) fn seal(&mut self, content: &[u8], out: &mut [u8]) -> Option<usize> {
        let length = content.len() + DATA_OVERHEAD;
        let key = self.keys[self.current?].as_mut()?;
        let out = out.get_mut(..length)?;
        out[..4].copy_from_slice(&4_u32.to_le_bytes());
        out[4..8].copy_from_slice(&key.remote.to_le_bytes());
        out[8..16].copy_from_slice(&key.sent.to_le_bytes());
        key.sent += 1;
        out[DATA_OFFSET..length - TAG_LENGTH].copy_from_slice(content);
        let tag = tag(&self.own, &out[..length - TAG_LENGTH]);
        out[length - TAG_LENGTH..].copy_from_slice(&tag);
        Some(length)
    }

    pub(crate) fn open(
        &mut self,
        now: Instant,
        datagram: &[u8],
        out: &mut [u8],
    ) -> Result<NullOpened, Refusal> {
        match Message::of(datagram).ok_or(Refusal::Malformed)? {
            Message::Initiation => self.respond(now, datagram, out).map(NullOpened::Responded),
            Message::Response { receiver } => self.complete(now, receiver, datagram),
            Message::Cookie { .. } => Err(Refusal::Unauthentic),
            Message::Data { receiver, counter } => self
                .open_data(receiver, counter, datagram, out)
                .map(NullOpened::Packet),
            Message::Channel { .. } => Err(Refusal::Malformed),
        }
    }

    /// Forgets keys that are too old.
    pub(crate) fn tick(&mut self, now: Instant) {
        for (slot, key) in self.keys.iter_mut().enumerate() {
            if key
                .as_ref()
                .is_some_and(|key| now.since(key.made_at) > REJECT_AFTER)
            {
                *key = None;
                if self.current == Some(slot) {
                    self.current = None;
                }
            }
        }
    }

    fn respond(&mut self, now: Instant, datagram: &[u8], out: &mut [u8]) -> Result<usize, Refusal> {
        if Self::initiator(datagram) != Some(self.peer) {
            return Err(Refusal::Unauthentic);
        }
        let word = |at: usize| datagram[at..].first_chunk().copied().unwrap_or_default();
        let stamp = u64::from_le_bytes(datagram[40..].first_chunk().copied().unwrap_or_default());
        if self.last_stamp.is_some_and(|last| stamp <= last) {
            return Err(Refusal::Replayed);
        }
        self.last_stamp = Some(stamp);
        let (local, remote) = (self.fresh_index(), u32::from_le_bytes(word(4)));
        self.keep(now, local, remote);
        let out = out.get_mut(..RESPONSE_LENGTH).ok_or(Refusal::NoRoom)?;
        out.fill(0);
        out[0] = 2;
        out[4..8].copy_from_slice(&local.to_le_bytes());
        out[8..12].copy_from_slice(&remote.to_le_bytes());
        Ok(RESPONSE_LENGTH)
    }

    fn complete(
        &mut self,
        now: Instant,
        receiver: u32,
        datagram: &[u8],
    ) -> Result<NullOpened, Refusal> {
        if self.pending != Some(receiver) {
            return Err(Refusal::Unauthentic);
        }
        self.pending = None;
        let remote = u32::from_le_bytes(datagram[4..].first_chunk().copied().unwrap_or_default());
        self.current = Some(self.keep(now, receiver, remote));
        Ok(NullOpened::Completed)
    }

    fn open_data(
        &mut self,
        receiver: u32,
        counter: u64,
        datagram: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Refusal> {
        let slot = receiver as usize % KEYS;
        let key = self.keys[slot]
            .as_mut()
            .filter(|key| key.local == receiver)
            .ok_or(Refusal::UnknownKey)?;
        if !key.window.accepts(counter) {
            return Err(Refusal::Replayed);
        }
        let (sealed, stated) = datagram.split_at(datagram.len() - TAG_LENGTH);
        if tag(&self.peer, sealed) != stated {
            return Err(Refusal::Unauthentic);
        }
        key.window.mark(counter);
        let newer = match self.current.and_then(|slot| self.keys[slot].as_ref()) {
            Some(current) => self.keys[slot]
                .as_ref()
                .is_some_and(|key| key.made_at >= current.made_at),
            None => true,
        };
        if newer {
            self.current = Some(slot);
        }
        let content = &sealed[DATA_OFFSET..];
        out.get_mut(..content.len())
            .ok_or(Refusal::NoRoom)?
            .copy_from_slice(content);
        Ok(content.len())
    }

    fn keep(&mut self, now: Instant, local: u32, remote: u32) -> usize {
        let slot = local as usize % KEYS;
        self.keys[slot] = Some(Key {
            local,
            remote,
            sent: 0,
            window: ReplayWindow::default(),
            made_at: now,
        });
        slot
    }

    fn fresh_index(&mut self) -> u32 {
        let low = (self.next_index as u8).wrapping_add(1);
        self.next_index = self.next_index & !0xff | u32::from(low);
        self.next_index
    }
}

/// A check sum of sender and content, so that damage and forgery by mistake are noticed as with a real cipher.
fn tag(sender: &WgKey, content: &[u8]) -> [u8; TAG_LENGTH] {
    let (mut low, mut high) = (0xcbf2_9ce4_8422_2325_u64, 0x9e37_79b9_7f4a_7c15_u64);
    let mut eat = |bytes: &[u8]| {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        low = (low ^ u64::from_le_bytes(word))
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(29);
        high = high.wrapping_add(low) ^ high >> 7;
    };
    sender.0.chunks(8).for_each(&mut eat);
    content.chunks(8).for_each(&mut eat);
    let mut tag = [0; TAG_LENGTH];
    tag[..8].copy_from_slice(&low.to_le_bytes());
    tag[8..].copy_from_slice(&high.to_le_bytes());
    tag
}
