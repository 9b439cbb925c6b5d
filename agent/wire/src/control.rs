//! Messages between neighbours (`docs/protocol/control.md`): what they are, and the IPv6 link-local UDP
//! packet that carries one inside the two nodes' session, because a WireGuard session carries IP only.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use wattle_model::NodeId;

use crate::DecodeError;
use crate::codec::{Reader, Writer};
use crate::flood::Flood;
use crate::probe::{Probe, ProbeReply};

/// UDP port of messages between neighbours, inside the session.
pub const CONTROL_PORT: u16 = 5740;
/// Bytes of the IPv6 and UDP headers around a message.
pub const ENVELOPE_LENGTH: usize = 48;
/// Most bytes of a message, size probes excepted: with all envelopes it fits an IPv6 path of 1280 bytes, unfragmented.
pub const MAX_MESSAGE: usize = 1152;

/// A message between neighbours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// Asks for a reply.
    Probe(Probe),
    /// Answers a probe.
    ProbeReply(ProbeReply),
    /// The key that will seal the headers of the relay frames which the sender sends.
    LinkKey(LinkKey),
    /// The receiver of a link key has it.
    LinkKeyAck {
        /// The key's id.
        key_id: u8,
    },
    /// A relay frame came whose key is not known: please send a link key.
    LinkKeyRequest,
    /// Where the sender sees the receiver: what others may dial, if the receiver is behind a NAT.
    Observed(SocketAddr),
    /// The key that will seal the sender's packets for the receiver on the fast channel.
    ChannelKey(ChannelKey),
    /// The receiver of a channel key has it.
    ChannelKeyAck(ChannelKeyAck),
    /// Asks whether a packet as large as the one that carries this gets through: zeros follow.
    SizeProbe {
        /// What the answer repeats.
        number: u32,
    },
    /// It got through.
    SizeProbeReply {
        /// The probe's number.
        number: u32,
    },
    /// On which ports the sender's further workers listen.
    Lanes(Lanes),
    /// Asks for an answer once everything that came before it over the same link or lane was handed to the kernel.
    Barrier {
        /// What the answer repeats.
        number: u32,
    },
    /// Everything that came before the barrier was handed to the kernel.
    BarrierReply {
        /// The barrier's number.
        number: u32,
    },
    /// The sender stops, or starts again: its links end, and that is no failure.
    Bye,
    /// Link state.
    Flood(Flood),
}

/// Most lanes of a node beside its first worker.
pub const MAX_LANES: usize = 7;

/// Where the lanes of a node end (`docs/protocol/lanes.md §2`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lanes {
    /// UDP ports of the sender's workers, the second one first; at most [`MAX_LANES`].
    pub ports: Vec<u16>,
    /// Whether the receiver is to tell its own.
    pub wants_answer: bool,
}

impl Lanes {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let wants_answer = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(DecodeError::Range("answer")),
        };
        let count = usize::from(reader.u8()?);
        if count > MAX_LANES {
            return Err(DecodeError::Range("lanes"));
        }
        let ports = (0..count).map(|_| reader.u16()).collect::<Result<_, _>>()?;
        Ok(Self {
            ports,
            wants_answer,
        })
    }

    fn encode(&self, writer: &mut Writer) {
        let ports = &self.ports[..self.ports.len().min(MAX_LANES)];
        writer.u8(self.wants_answer.into()).u8(ports.len() as u8);
        for port in ports {
            writer.u16(*port);
        }
    }
}

/// A link key on its way to the neighbour.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkKey {
    /// Its id among the sender's keys for this neighbour.
    pub key_id: u8,
    /// The AES-128 key.
    pub key: zeroize::Zeroizing<[u8; 16]>,
}

impl std::fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LinkKey {{ key_id: {}, key: [redacted] }}", self.key_id)
    }
}

/// A channel key on its way to the other end of a session (`docs/protocol/fast-channel.md §2`).
#[derive(Clone, PartialEq, Eq)]
pub struct ChannelKey {
    /// Its id among the sender's keys of this session.
    pub key_id: u8,
    /// Nanoseconds that AES-256-GCM takes the sender for a packet of 1360 bytes.
    pub aes_ns: u16,
    /// … and ChaCha20-Poly1305.
    pub chacha_ns: u16,
    /// The 256-bit key.
    pub key: zeroize::Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for ChannelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChannelKey")
            .field("key_id", &self.key_id)
            .field("aes_ns", &self.aes_ns)
            .field("chacha_ns", &self.chacha_ns)
            .finish_non_exhaustive()
    }
}

/// The answer to a channel key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelKeyAck {
    /// The key's id.
    pub key_id: u8,
    /// The cipher to seal with; `None` if the receiver wants no fast channel.
    pub suite: Option<Suite>,
    /// The receiver's session index, which messages are addressed with: 24 bits.
    pub receiver: u32,
}

/// A cipher of the fast channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Suite {
    /// AES-256-GCM (NIST SP 800-38D).
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439).
    #[serde(rename = "chacha20-poly1305")]
    ChaCha20Poly1305,
}

impl Suite {
    /// The cipher's name, as users see it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }
}

impl ChannelKeyAck {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let key_id = reader.u8()?;
        let suite = match reader.u8()? {
            0 => None,
            1 => Some(Suite::Aes256Gcm),
            2 => Some(Suite::ChaCha20Poly1305),
            _ => return Err(DecodeError::Range("suite")),
        };
        let receiver = reader.u32()?;
        if receiver > 0x00ff_ffff {
            return Err(DecodeError::Range("receiver"));
        }
        Ok(Self {
            key_id,
            suite,
            receiver,
        })
    }

    fn encode(self, writer: &mut Writer) {
        let suite = match self.suite {
            None => 0,
            Some(Suite::Aes256Gcm) => 1,
            Some(Suite::ChaCha20Poly1305) => 2,
        };
        writer.u8(self.key_id).u8(suite).u32(self.receiver);
    }
}

const PROBE: u8 = 1;
const PROBE_REPLY: u8 = 2;
const LINK_KEY: u8 = 3;
const LINK_KEY_ACK: u8 = 4;
const LINK_KEY_REQUEST: u8 = 5;
const OBSERVED: u8 = 6;
const CHANNEL_KEY: u8 = 7;
const CHANNEL_KEY_ACK: u8 = 8;
const SIZE_PROBE: u8 = 9;
const SIZE_PROBE_REPLY: u8 = 10;
const LANES: u8 = 11;
const BARRIER: u8 = 12;
const BARRIER_REPLY: u8 = 13;
const BYE: u8 = 14;
/// Kinds from here on are link state and belong to the router.
const FIRST_FLOOD: u8 = 16;

/// Whether a message is the router's business, judged by its first byte.
pub fn is_flood(message: &[u8]) -> bool {
    message.first().is_some_and(|kind| *kind >= FIRST_FLOOD)
}

impl Control {
    /// Reads a message.
    ///
    /// # Errors
    /// The bytes are no message that is known here.
    pub fn parse(message: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(message);
        match reader.u8()? {
            PROBE => Probe::decode(&mut reader).map(Self::Probe),
            PROBE_REPLY => ProbeReply::decode(&mut reader).map(Self::ProbeReply),
            LINK_KEY => {
                let key_id = reader.u8()?;
                let key = zeroize::Zeroizing::new(reader.array()?);
                Ok(Self::LinkKey(LinkKey { key_id, key }))
            }
            LINK_KEY_ACK => reader.u8().map(|key_id| Self::LinkKeyAck { key_id }),
            LINK_KEY_REQUEST => Ok(Self::LinkKeyRequest),
            OBSERVED => reader.socket_address().map(Self::Observed),
            CHANNEL_KEY => {
                let key_id = reader.u8()?;
                let (aes_ns, chacha_ns) = (reader.u16()?, reader.u16()?);
                let key = zeroize::Zeroizing::new(reader.array()?);
                Ok(Self::ChannelKey(ChannelKey {
                    key_id,
                    aes_ns,
                    chacha_ns,
                    key,
                }))
            }
            CHANNEL_KEY_ACK => ChannelKeyAck::decode(&mut reader).map(Self::ChannelKeyAck),
            SIZE_PROBE => reader.u32().map(|number| Self::SizeProbe { number }),
            SIZE_PROBE_REPLY => reader.u32().map(|number| Self::SizeProbeReply { number }),
            LANES => Lanes::decode(&mut reader).map(Self::Lanes),
            BARRIER => reader.u32().map(|number| Self::Barrier { number }),
            BARRIER_REPLY => reader.u32().map(|number| Self::BarrierReply { number }),
            BYE => Ok(Self::Bye),
            kind => Flood::decode(kind, &mut reader).map(Self::Flood),
        }
    }

    /// The bytes of the message.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        match self {
            Self::Probe(probe) => probe.encode(writer.u8(PROBE)),
            Self::ProbeReply(reply) => reply.encode(writer.u8(PROBE_REPLY)),
            Self::LinkKey(link_key) => {
                writer.u8(LINK_KEY).u8(link_key.key_id).put(&*link_key.key);
            }
            Self::LinkKeyAck { key_id } => {
                writer.u8(LINK_KEY_ACK).u8(*key_id);
            }
            Self::LinkKeyRequest => {
                writer.u8(LINK_KEY_REQUEST);
            }
            Self::Observed(address) => {
                writer.u8(OBSERVED).socket_address(*address);
            }
            Self::ChannelKey(channel_key) => {
                writer
                    .u8(CHANNEL_KEY)
                    .u8(channel_key.key_id)
                    .u16(channel_key.aes_ns)
                    .u16(channel_key.chacha_ns)
                    .put(&*channel_key.key);
            }
            Self::ChannelKeyAck(ack) => ack.encode(writer.u8(CHANNEL_KEY_ACK)),
            Self::SizeProbe { number } => {
                writer.u8(SIZE_PROBE).u32(*number);
            }
            Self::SizeProbeReply { number } => {
                writer.u8(SIZE_PROBE_REPLY).u32(*number);
            }
            Self::Bye => {
                writer.u8(BYE);
            }
            Self::Lanes(lanes) => lanes.encode(writer.u8(LANES)),
            Self::Barrier { number } => {
                writer.u8(BARRIER).u32(*number);
            }
            Self::BarrierReply { number } => {
                writer.u8(BARRIER_REPLY).u32(*number);
            }
            Self::Flood(flood) => flood.encode(&mut writer),
        }
        writer.bytes
    }
}

/// The link-local address that stands for a node inside sessions.
pub fn link_local(node: NodeId) -> [u8; 16] {
    let mut address = [0; 16];
    address[..2].copy_from_slice(&[0xfe, 0x80]);
    address[8..].copy_from_slice(&node.to_be_bytes());
    address
}

/// Writes the IPv6 UDP packet that carries `message` into `packet`; returns its length, or `None` if
/// `packet` is too short or the message longer than any packet.
pub fn wrap(from: NodeId, to: NodeId, message: &[u8], packet: &mut [u8]) -> Option<usize> {
    let udp_length = u16::try_from(message.len() + 8).ok()?;
    let length = ENVELOPE_LENGTH + message.len();
    let packet = packet.get_mut(..length)?;
    packet[..4].copy_from_slice(&[0x60, 0, 0, 0]);
    packet[4..6].copy_from_slice(&udp_length.to_be_bytes());
    packet[6..8].copy_from_slice(&[17, 1]);
    packet[8..24].copy_from_slice(&link_local(from));
    packet[24..40].copy_from_slice(&link_local(to));
    packet[40..42].copy_from_slice(&CONTROL_PORT.to_be_bytes());
    packet[42..44].copy_from_slice(&CONTROL_PORT.to_be_bytes());
    packet[44..46].copy_from_slice(&udp_length.to_be_bytes());
    packet[46..48].fill(0);
    packet[48..].copy_from_slice(message);
    let checksum = checksum(packet);
    packet[46..48].copy_from_slice(&checksum.to_be_bytes());
    Some(length)
}

/// The message in a decrypted packet, if the packet is a message from `from` to `to`; `None` if it is
/// anything else. Whatever claims a link-local source or destination and is `None` must be dropped.
pub fn unwrap(from: NodeId, to: NodeId, packet: &[u8]) -> Option<&[u8]> {
    let (envelope, message) = packet.split_at_checked(ENVELOPE_LENGTH)?;
    let mut expected = [0; ENVELOPE_LENGTH];
    expected[0] = 0x60;
    let udp_length = u16::try_from(message.len() + 8).ok()?;
    expected[4..6].copy_from_slice(&udp_length.to_be_bytes());
    expected[6..8].copy_from_slice(&[17, 1]);
    expected[8..24].copy_from_slice(&link_local(from));
    expected[24..40].copy_from_slice(&link_local(to));
    expected[40..42].copy_from_slice(&CONTROL_PORT.to_be_bytes());
    expected[42..44].copy_from_slice(&CONTROL_PORT.to_be_bytes());
    expected[44..46].copy_from_slice(&udp_length.to_be_bytes());
    // The session has authenticated the bytes, so the checksum says nothing further.
    (envelope[..46] == expected[..46]).then_some(message)
}

/// RFC 8200 §8.1 over the whole packet, whose checksum field is zero.
fn checksum(packet: &[u8]) -> u16 {
    let pseudo_header = u32::from(packet[4]) << 8 | u32::from(packet[5]);
    let mut sum = pseudo_header + 17;
    for pair in packet[8..].chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match !(sum as u16) {
        0 => 0xffff,
        checksum => checksum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages() -> Vec<Control> {
        vec![
            Control::Probe(Probe {
                seq: 1,
                sent_at: 2,
                tx_packets: 3,
                fingerprint: 4,
            }),
            Control::ProbeReply(ProbeReply {
                seq: 1,
                sent_at: 2,
                received_at: 3,
                replied_at: 4,
                tx_packets: 5,
                rx_packets: 6,
                fingerprint: 7,
            }),
            Control::LinkKey(LinkKey {
                key_id: 9,
                key: zeroize::Zeroizing::new([3; 16]),
            }),
            Control::LinkKeyAck { key_id: 9 },
            Control::LinkKeyRequest,
            Control::Observed(SocketAddr::from(([192, 0, 2, 1], 51_820))),
            Control::Observed(SocketAddr::from((
                [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1],
                51_820,
            ))),
            Control::ChannelKey(ChannelKey {
                key_id: 1,
                aes_ns: 313,
                chacha_ns: 829,
                key: zeroize::Zeroizing::new([3; 32]),
            }),
            Control::ChannelKeyAck(ChannelKeyAck {
                key_id: 1,
                suite: Some(Suite::ChaCha20Poly1305),
                receiver: 0x00ab_cdef,
            }),
            Control::SizeProbe { number: 7 },
            Control::SizeProbeReply { number: 7 },
            Control::Lanes(Lanes {
                ports: vec![51_821, 40_000],
                wants_answer: true,
            }),
            Control::Barrier { number: 7 },
            Control::BarrierReply { number: 7 },
        ]
    }

    #[test]
    fn messages_read_as_they_were_written() {
        for message in messages() {
            assert_eq!(Control::parse(&message.to_bytes()), Ok(message));
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        for message in messages() {
            let bytes = message.to_bytes();
            for length in 0..bytes.len() {
                assert_eq!(
                    Control::parse(&bytes[..length]),
                    Err(DecodeError::Truncated)
                );
            }
        }
    }

    #[test]
    fn keys_are_not_printed() {
        let text = format!("{:?}", messages());
        assert!(!text.contains("3, 3"), "{text}");
    }

    #[test]
    fn an_unknown_suite_and_an_index_of_more_than_24_bits_are_refused() {
        let ack = messages()[8].to_bytes();
        for (at, range) in [(2, "suite"), (3, "receiver")] {
            let mut bytes = ack.clone();
            bytes[at] = 3;
            assert_eq!(Control::parse(&bytes), Err(DecodeError::Range(range)));
        }
    }

    #[test]
    fn more_lanes_than_there_can_be_and_an_unknown_wish_are_refused() {
        let mut bytes = messages()[11].to_bytes();
        bytes.resize(64, 0);
        for (at, range) in [(1, "answer"), (2, "lanes")] {
            let mut bytes = bytes.clone();
            bytes[at] = 8;
            assert_eq!(Control::parse(&bytes), Err(DecodeError::Range(range)));
        }
    }

    #[test]
    fn an_envelope_is_for_its_two_nodes_only() {
        let mut packet = [0; 256];
        let length = wrap(NodeId(1), NodeId(2), b"hello", &mut packet).unwrap();
        assert_eq!(
            unwrap(NodeId(1), NodeId(2), &packet[..length]),
            Some(&b"hello"[..])
        );
        assert_eq!(unwrap(NodeId(3), NodeId(2), &packet[..length]), None);
        assert_eq!(unwrap(NodeId(1), NodeId(3), &packet[..length]), None);
        for byte in 0..46 {
            let mut flipped = packet;
            flipped[byte] ^= 1;
            assert_eq!(
                unwrap(NodeId(1), NodeId(2), &flipped[..length]),
                None,
                "byte {byte}"
            );
        }
        for short in 0..length {
            assert_eq!(unwrap(NodeId(1), NodeId(2), &packet[..short]), None);
        }
    }

    #[test]
    fn the_udp_checksum_is_right() {
        let mut packet = [0; 256];
        let length = wrap(NodeId(1), NodeId(2), b"odd", &mut packet).unwrap();
        let stated = u16::from_be_bytes([packet[46], packet[47]]);
        packet[46..48].fill(0);
        assert_eq!(checksum(&packet[..length]), stated);
        assert_ne!(stated, 0);
    }
}
