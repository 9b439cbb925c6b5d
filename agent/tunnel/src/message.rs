//! A session's messages from the outside: what kind a datagram is, and which session it is for.
//!
//! (WireGuard white paper §5.4; the lengths and indexes are the same for the simulator's cipher and for the fast
//! channel, `docs/protocol/fast-channel.md §3`.)

use wattle_model::Checksum;

/// Bytes that a data message adds to its padded content, on the fast channel too.
pub const DATA_OVERHEAD: usize = 32;
/// Bytes in front of the content of a message of the fast channel.
pub const CHANNEL_HEADER: usize = 16;
/// First byte of a message of the fast channel; WireGuard's messages begin with 1 to 4, relay frames with 0x57.
pub const CHANNEL_TYPE: u8 = 0x58;
/// Room that any message may need: boringtun wants as much even for a short one.
pub const MIN_BUFFER: usize = 160;

pub(crate) const INITIATION_LENGTH: usize = 148;
pub(crate) const RESPONSE_LENGTH: usize = 92;
const COOKIE_LENGTH: usize = 64;

/// A datagram's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Somebody wants a session.
    Initiation,
    /// The answer to our initiation.
    Response {
        /// Which of our sessions it is for.
        receiver: u32,
    },
    /// The other end is under load and wants proof of our address.
    Cookie {
        /// Which of our sessions it is for.
        receiver: u32,
    },
    /// A sealed packet.
    Data {
        /// Which of our sessions it is for.
        receiver: u32,
        /// Its number.
        counter: u64,
    },
    /// A packet sealed for the fast channel.
    Channel {
        /// Which of our sessions it is for, and the key's id.
        receiver: u32,
        /// Its number.
        counter: u64,
        /// The state of the packet's checksum, once the message proves authentic.
        checksum: Checksum,
    },
}

impl Message {
    /// Tells the kind from type and length; `None` if it is no message of a session.
    pub fn of(datagram: &[u8]) -> Option<Self> {
        const COMPLETE: u32 = CHANNEL_TYPE as u32;
        const PARTIAL: u32 = COMPLETE | 1 << 8;
        let word = |at: usize| Some(u32::from_le_bytes(*datagram.get(at..)?.first_chunk()?));
        let counter = || Some(u64::from_le_bytes(*datagram.get(8..)?.first_chunk()?));
        let channel = |checksum| {
            Some(Self::Channel {
                receiver: word(4)?,
                counter: counter()?,
                checksum,
            })
        };
        match (word(0)?, datagram.len()) {
            (1, INITIATION_LENGTH) => Some(Self::Initiation),
            (2, RESPONSE_LENGTH) => Some(Self::Response { receiver: word(8)? }),
            (3, COOKIE_LENGTH) => Some(Self::Cookie { receiver: word(4)? }),
            (4, DATA_OVERHEAD..) => Some(Self::Data {
                receiver: word(4)?,
                counter: counter()?,
            }),
            (COMPLETE, DATA_OVERHEAD..) => channel(Checksum::Complete),
            (PARTIAL, DATA_OVERHEAD..) => channel(Checksum::Partial),
            _ => None,
        }
    }

    /// The index of the session that the message is for: what is left of the receiver's index without the number of
    /// the handshake. `None` for an initiation.
    pub fn session(self) -> Option<u32> {
        match self {
            Self::Initiation => None,
            Self::Response { receiver }
            | Self::Cookie { receiver }
            | Self::Data { receiver, .. }
            | Self::Channel { receiver, .. } => Some(receiver >> 8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_lengths_are_messages() {
        for (kind, length) in [
            (1_u8, 148),
            (2, 92),
            (3, 64),
            (4, 32),
            (4, 1_500),
            (CHANNEL_TYPE, 32),
        ] {
            let mut datagram = vec![0; length];
            datagram[0] = kind;
            assert!(Message::of(&datagram).is_some());
            if kind < 4 {
                assert_eq!(Message::of(&datagram[..length - 1]), None);
            }
            datagram[2] = 1;
            assert_eq!(Message::of(&datagram), None, "reserved bytes are zero");
        }
        for length in 0..32 {
            assert_eq!(Message::of(&vec![4; length]), None);
        }
    }
}
