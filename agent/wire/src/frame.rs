//! The relay frame (`docs/protocol/relay-frame.md`): a session message with a sealed header for relays.
//!
//! ```text
//! type 1 | version 1 | key id 1 | reserved 1 | counter 8 |
//! sealed { destination 8 | source 8 | hop limit 1 | class+priority 1 | precedence+weight 1 |
//!          detours+waypoints 1 | flow hash 4 | lane 2 | waypoint 2 | waypoint 2 | waypoint 2 } | tag 16 | payload
//! ```
//! The sealing itself belongs to whoever holds the link keys; this file knows where the bytes are.

use wattle_model::{MAX_DETOURS, MAX_WAYPOINTS, NodeId, NodeIndex, Waypoint, waypoint};

use crate::DecodeError;
use crate::codec::Reader;

/// First byte of a relay frame; WireGuard's messages begin with 1 to 4.
pub const FRAME_TYPE: u8 = 0x57;
/// Version of the format in the second byte.
pub const FRAME_VERSION: u8 = 2;
/// Bytes before the sealed part.
pub const CLEAR_LENGTH: usize = 12;
/// Bytes of the sealed part.
pub const SEALED_LENGTH: usize = 26 + 2 * MAX_WAYPOINTS;
/// Bytes of the authentication tag (AES-128-GCM).
pub const TAG_LENGTH: usize = 16;
/// Bytes of the whole header.
pub const HEADER_LENGTH: usize = CLEAR_LENGTH + SEALED_LENGTH + TAG_LENGTH;
/// Most relays that a packet may cross: as many routers as the usual IP hop limit lets it cross.
pub const MAX_HOPS: u8 = 64;
/// Fewest payload bytes: a WireGuard keepalive; its last 16 bytes are an authenticator.
pub const MIN_PAYLOAD: usize = 32;
/// Bits of the byte that tells of detours: how many waypoints there are, …
const COUNT: u8 = 0x03;
/// … how many detours the frame has begun, counted from this bit on, …
const DETOURS: u8 = 0x0c;
const ONE_DETOUR: u8 = 0x04;
/// … and which of the waypoints are reached over the link that leads straight to them.
const DIRECT: [u8; MAX_WAYPOINTS] = [0x10, 0x20, 0x40];
const _: () = assert!(
    MAX_WAYPOINTS == COUNT as usize && MAX_DETOURS == DETOURS / ONE_DETOUR,
    "every count has room, and no other has"
);

/// The part of the header that is in the clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clear {
    /// Which of the receiver's link keys sealed the header.
    pub key_id: u8,
    /// Nonce of the sealing, and what the replay window judges.
    pub counter: u64,
}

/// The sealed part of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The node whose session the payload belongs to.
    pub destination: NodeId,
    /// The node that made the payload.
    pub source: NodeId,
    /// Relays that the frame may still cross.
    pub hop_limit: u8,
    /// Traffic class (upper half) and priority (lower half).
    pub class_priority: u8,
    /// Drop precedence (upper half) and weight (lower half).
    pub precedence_weight: u8,
    /// Hash of the inner flow, so that relays keep a flow on one path.
    pub flow: u32,
    /// The destination's lane.
    pub lane: u16,
    /// Detours that the frame has begun; at most [`MAX_DETOURS`].
    pub detours: u8,
    /// Nodes to be passed first, next one first.
    pub waypoints: Waypoints,
}

/// Up to [`MAX_WAYPOINTS`] nodes to be passed on the way, next one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waypoints {
    /// How many of `stops` count.
    count: u8,
    stops: [Waypoint<NodeIndex>; MAX_WAYPOINTS],
}

const NOWHERE: Waypoint<NodeIndex> = Waypoint::new(NodeIndex(0));

impl Waypoints {
    /// No waypoints.
    pub const NONE: Self = Self {
        count: 0,
        stops: [NOWHERE; MAX_WAYPOINTS],
    };

    /// These waypoints, next one first; those that there is no room for are left out.
    pub fn of(stops: impl IntoIterator<Item = Waypoint<NodeIndex>>) -> Self {
        let mut waypoints = Self::NONE;
        for (place, stop) in waypoints.stops.iter_mut().zip(stops) {
            *place = stop;
            waypoints.count += 1;
        }
        waypoints
    }

    /// The next waypoint.
    pub fn next(&self) -> Option<Waypoint<NodeIndex>> {
        self.as_slice().first().copied()
    }

    /// What is left once the next one has been reached.
    #[must_use]
    pub fn reached(&self) -> Self {
        Self::of(self.as_slice().iter().skip(1).copied())
    }

    /// These as a detour to the first stop of `rest`, by the rule of [`waypoint::before`].
    #[must_use]
    pub fn before(&self, rest: &Self) -> Self {
        Self::of(waypoint::before(self.as_slice(), rest.as_slice()))
    }

    fn as_slice(&self) -> &[Waypoint<NodeIndex>] {
        &self.stops[..usize::from(self.count).min(self.stops.len())]
    }

    fn read(told: u8, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = told & COUNT;
        let known = DIRECT.iter().take(usize::from(count));
        let allowed = known.fold(COUNT | DETOURS, |bits, direct| bits | direct);
        if told & !allowed != 0 {
            return Err(DecodeError::Range("waypoints"));
        }
        let mut stops = [NOWHERE; MAX_WAYPOINTS];
        for (stop, bit) in stops.iter_mut().zip(DIRECT) {
            *stop = Waypoint {
                node: NodeIndex(reader.u16()?),
                direct: told & bit != 0,
            };
        }
        Ok(Self::of(stops.into_iter().take(usize::from(count))))
    }

    fn told(&self) -> u8 {
        let stops = self.as_slice().iter().zip(DIRECT);
        stops.fold(self.count, |told, (stop, bit)| match stop.direct {
            true => told | bit,
            false => told,
        })
    }
}

impl Clear {
    /// Reads the clear part of a frame.
    ///
    /// # Errors
    /// The bytes are no relay frame of this version, or shorter than one with the smallest payload.
    pub fn parse(frame: &[u8]) -> Result<Self, DecodeError> {
        if frame.len() < HEADER_LENGTH + MIN_PAYLOAD {
            return Err(DecodeError::Truncated);
        }
        let mut reader = Reader::new(frame);
        match (reader.u8()?, reader.u8()?) {
            (FRAME_TYPE, FRAME_VERSION) => {}
            (FRAME_TYPE, version) => return Err(DecodeError::Version(version)),
            (kind, _) => return Err(DecodeError::Kind(kind)),
        }
        let key_id = reader.u8()?;
        if reader.u8()? != 0 {
            return Err(DecodeError::Range("reserved"));
        }
        Ok(Self {
            key_id,
            counter: reader.u64()?,
        })
    }

    /// The bytes of the clear part.
    pub fn to_bytes(self) -> [u8; CLEAR_LENGTH] {
        let mut bytes = [0; CLEAR_LENGTH];
        bytes[..4].copy_from_slice(&[FRAME_TYPE, FRAME_VERSION, self.key_id, 0]);
        bytes[4..].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }

    /// The nonce of the sealing: four zero bytes and the counter. A key seals in one direction only.
    pub fn nonce(self) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.counter.to_be_bytes());
        nonce
    }

    /// What is authenticated beside the header: the clear part, the payload's length and its last
    /// sixteen bytes (the session's authenticator), so that header and payload cannot be recombined.
    pub fn associated_data(self, payload: &[u8]) -> [u8; CLEAR_LENGTH + 4 + 16] {
        let mut data = [0; CLEAR_LENGTH + 4 + 16];
        data[..CLEAR_LENGTH].copy_from_slice(&self.to_bytes());
        data[CLEAR_LENGTH..CLEAR_LENGTH + 4].copy_from_slice(&(payload.len() as u32).to_be_bytes());
        let tail = &payload[payload.len().saturating_sub(16)..];
        data[CLEAR_LENGTH + 4..][..tail.len()].copy_from_slice(tail);
        data
    }
}

impl Header {
    /// Reads the opened header.
    ///
    /// # Errors
    /// A field is out of range.
    pub fn from_bytes(bytes: &[u8; SEALED_LENGTH]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let destination = reader.node()?;
        let source = reader.node()?;
        let hop_limit = reader.u8()?;
        if hop_limit > MAX_HOPS {
            return Err(DecodeError::Range("hop limit"));
        }
        let class_priority = reader.u8()?;
        let precedence_weight = reader.u8()?;
        let told = reader.u8()?;
        let flow = reader.u32()?;
        let lane = reader.u16()?;
        let waypoints = Waypoints::read(told, &mut reader)?;
        Ok(Self {
            destination,
            source,
            hop_limit,
            class_priority,
            precedence_weight,
            flow,
            lane,
            detours: (told & DETOURS) / ONE_DETOUR,
            waypoints,
        })
    }

    /// The bytes to be sealed.
    pub fn to_bytes(&self) -> [u8; SEALED_LENGTH] {
        let mut bytes = [0; SEALED_LENGTH];
        bytes[..8].copy_from_slice(&self.destination.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.source.to_be_bytes());
        bytes[16..20].copy_from_slice(&[
            self.hop_limit,
            self.class_priority,
            self.precedence_weight,
            self.waypoints.told() | (self.detours.min(MAX_DETOURS) * ONE_DETOUR),
        ]);
        bytes[20..24].copy_from_slice(&self.flow.to_be_bytes());
        bytes[24..26].copy_from_slice(&self.lane.to_be_bytes());
        for (place, stop) in bytes[26..].chunks_exact_mut(2).zip(self.waypoints.stops) {
            place.copy_from_slice(&stop.node.0.to_be_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            destination: NodeId(1),
            source: NodeId(2),
            hop_limit: 16,
            class_priority: 0x12,
            precedence_weight: 0x34,
            flow: 0xdead_beef,
            lane: 7,
            detours: 2,
            waypoints: Waypoints::of([
                Waypoint::new(NodeIndex(258)),
                Waypoint::new(NodeIndex(3)),
                Waypoint::direct(NodeIndex(4)),
            ]),
        }
    }

    #[test]
    fn headers_read_as_they_were_written() {
        assert_eq!(Header::from_bytes(&header().to_bytes()), Ok(header()));
        assert_eq!(HEADER_LENGTH, 60);
    }

    #[test]
    fn the_header_has_its_golden_bytes() {
        let hex: String = header()
            .to_bytes()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(
            hex,
            "00000000000000010000000000000002101234 4bdeadbeef0007010200030004".replace(' ', "")
        );
    }

    #[test]
    fn waypoints_are_used_up_in_order() {
        let waypoints = header().waypoints;
        assert_eq!(waypoints.next(), Some(Waypoint::new(NodeIndex(258))));
        let rest = waypoints.reached();
        assert_eq!(rest.next(), Some(Waypoint::new(NodeIndex(3))));
        let rest = rest.reached();
        assert_eq!(rest.next(), Some(Waypoint::direct(NodeIndex(4))));
        assert_eq!(rest.reached(), Waypoints::NONE);
    }

    #[test]
    fn a_detour_on_the_way_to_a_waypoint_ends_at_it_once() {
        let [a, b, c, d, e] = [1, 2, 3, 4, 5].map(|index| Waypoint::new(NodeIndex(index)));
        let straight = Waypoint::direct(c.node);
        let table = [
            (vec![], vec![c, d], vec![c, d]),
            (vec![a, b], vec![], vec![a, b]),
            (vec![a], vec![c], vec![a, c]),
            (vec![a, b], vec![c], vec![a, b, c]),
            (vec![a], vec![c, d], vec![a, c, d]),
            (vec![a, b], vec![c, d], vec![a, b, c]),
            (vec![a, b, e], vec![c, d], vec![a, b, c]),
            (vec![straight], vec![c], vec![straight]),
            (vec![straight], vec![c, d], vec![straight, d]),
            (vec![a, straight], vec![c, d, e], vec![a, straight, d]),
        ]
        .map(|(detour, rest, expected)| {
            let [detour, rest, expected] = [detour, rest, expected].map(Waypoints::of);
            (detour, rest, expected)
        });
        for (detour, rest, expected) in table {
            assert_eq!(detour.before(&rest), expected, "{detour:?}, {rest:?}");
        }
    }

    #[test]
    fn fields_out_of_range_are_refused() {
        let mut bytes = header().to_bytes();
        bytes[16] = MAX_HOPS + 1;
        assert_eq!(
            Header::from_bytes(&bytes),
            Err(DecodeError::Range("hop limit"))
        );
        let mut bytes = header().to_bytes();
        // Bits without a meaning, a link to one that is not there.
        for told in [0x80, 0x83, 0x20, 0x21, 0x42] {
            bytes[16] = MAX_HOPS;
            bytes[19] = told;
            assert_eq!(
                Header::from_bytes(&bytes),
                Err(DecodeError::Range("waypoints")),
                "{told:#x}"
            );
        }
    }

    #[test]
    fn only_whole_frames_of_this_version_have_a_clear_part() {
        let clear = Clear {
            key_id: 9,
            counter: 77,
        };
        let mut frame = clear.to_bytes().to_vec();
        frame.resize(HEADER_LENGTH + MIN_PAYLOAD, 0);
        assert_eq!(Clear::parse(&frame), Ok(clear));
        for length in 0..frame.len() {
            assert_eq!(Clear::parse(&frame[..length]), Err(DecodeError::Truncated));
        }
        frame[1] = 1;
        assert_eq!(Clear::parse(&frame), Err(DecodeError::Version(1)));
        frame[0] = 4;
        assert_eq!(Clear::parse(&frame), Err(DecodeError::Kind(4)));
    }
}
