//! Signed records of link state (`docs/protocol/records.md`).
//!
//! ```text
//! version 1 | kind 1 | part 1 | reserved 1 | network 8 | origin 8 | seq 8 | lifetime 4 |
//! body length 2 | body | signature 64
//! ```
//! A record is kept and flooded byte for byte. A body is a list of fields `type 1 | length 2 | value`;
//! fields that are not known are skipped, so records may grow. The signer is the origin, except for a
//! removal, which the network's trust root signs.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wattle_model::{
    ApartCosts, Carrier, Class, Cost, Micros, NetworkId, NodeId, Ppm, Prefix, SeqNo, UnixTime,
};

use crate::DecodeError;
use crate::codec::{Reader, Writer};
use crate::key::{PublicKey, SIGNATURE_LENGTH, SecretKey};

/// Version of the format.
pub const RECORD_VERSION: u8 = 1;
/// Most bytes of a record: one fits a message between neighbours.
pub const MAX_RECORD: usize = 1100;
const FIXED_LENGTH: usize = 34;
const DOMAIN: &[u8] = b"wattle record v1";

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordKind {
    /// The origin itself: version, health, drain.
    Node,
    /// The origin's links.
    Links,
    /// The prefixes that the origin announces.
    Prefixes,
    /// The origin is removed from the network; signed by the trust root.
    Removal,
}

impl RecordKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Node, Self::Links, Self::Prefixes, Self::Removal];

    /// The kind's number on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Self::Node => 1,
            Self::Links => 2,
            Self::Prefixes => 3,
            Self::Removal => 4,
        }
    }

    pub(crate) fn from_code(code: u8) -> Result<Self, DecodeError> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.code() == code)
            .ok_or(DecodeError::Kind(code))
    }
}

/// Which record: a newer one with the same key replaces an older one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecordKey {
    /// The node that it is about, and that signed it unless it is a removal.
    pub origin: NodeId,
    /// What it is about.
    pub kind: RecordKind,
    /// Number among the origin's records of this kind, for what does not fit one.
    pub part: u8,
}

/// A record: its header parsed, its bytes as they were received. Not verified until `verify` says so.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    key: RecordKey,
    network: NetworkId,
    seq: SeqNo,
    lifetime_s: u32,
    bytes: Arc<[u8]>,
}

impl Record {
    /// Signs a body.
    pub fn sign(
        network: NetworkId,
        key: RecordKey,
        seq: SeqNo,
        lifetime_s: u32,
        body: &Body,
        signer: &SecretKey,
    ) -> Self {
        let mut writer = Writer::default();
        writer
            .u8(RECORD_VERSION)
            .u8(key.kind.code())
            .u8(key.part)
            .u8(0)
            .put(&network.to_be_bytes())
            .put(&key.origin.to_be_bytes())
            .u64(seq.0)
            .u32(lifetime_s)
            .counted(&body.to_bytes());
        let signature = signer.sign(DOMAIN, &[&writer.bytes]);
        writer.put(&signature);
        Self {
            key,
            network,
            seq,
            lifetime_s,
            bytes: writer.bytes.into(),
        }
    }

    /// Reads a record's header and checks that its body is well formed; does not check the signature.
    ///
    /// # Errors
    /// The bytes are no record, or one that is too long.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_RECORD {
            return Err(DecodeError::Trailing);
        }
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            RECORD_VERSION => {}
            version => return Err(DecodeError::Version(version)),
        }
        let kind = RecordKind::from_code(reader.u8()?)?;
        let part = reader.u8()?;
        reader.u8()?;
        let network = NetworkId(reader.u64()?);
        let origin = reader.node()?;
        let seq = reader.seq()?;
        let lifetime_s = reader.u32()?;
        let body = reader.counted()?;
        reader.bytes(SIGNATURE_LENGTH)?;
        reader.end()?;
        Body::parse(kind, body)?;
        let key = RecordKey { origin, kind, part };
        Ok(Self {
            key,
            network,
            seq,
            lifetime_s,
            bytes: bytes.into(),
        })
    }

    /// Checks that the record belongs to `network` and that `signer` signed it: the origin's key, or the
    /// trust root's for a removal.
    ///
    /// # Errors
    /// Another network, or another signer.
    pub fn verify(&self, network: NetworkId, signer: &PublicKey) -> Result<(), DecodeError> {
        if self.network != network {
            return Err(DecodeError::Network);
        }
        let (signed, signature) = self
            .bytes
            .split_last_chunk::<SIGNATURE_LENGTH>()
            .ok_or(DecodeError::Truncated)?;
        if self.key.kind != RecordKind::Removal && signer.node_id() != self.key.origin {
            return Err(DecodeError::Signature);
        }
        signer.verify(DOMAIN, &[signed], signature)
    }

    /// Which record it is.
    pub const fn key(&self) -> RecordKey {
        self.key
    }

    /// The node that it is about.
    pub const fn origin(&self) -> NodeId {
        self.key.origin
    }

    /// How new it is.
    pub const fn seq(&self) -> SeqNo {
        self.seq
    }

    /// Seconds that it is valid, counted on the receiver's clock.
    pub const fn lifetime_s(&self) -> u32 {
        self.lifetime_s
    }

    /// The record as it is flooded.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What it says.
    pub fn body(&self) -> Body {
        let body = &self.bytes[FIXED_LENGTH..self.bytes.len() - SIGNATURE_LENGTH];
        Body::parse(self.key.kind, body).expect("parse and sign admit well-formed bodies only")
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record")
            .field("key", &self.key)
            .field("seq", &self.seq)
            .finish()
    }
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// The origin itself.
    Node(NodeBody),
    /// The origin's links.
    Links(LinksBody),
    /// The prefixes that the origin announces.
    Prefixes(PrefixesBody),
    /// The origin is removed.
    Removal(RemovalBody),
}

/// A node's word about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeBody {
    /// When it was written, on the origin's clock.
    pub at: UnixTime,
    /// What transit through this node adds to a path's cost; infinite: no transit.
    pub transit: Cost,
    /// Version of the software, for people.
    pub version: String,
    /// The UDP port on which it can be reached over QUIC, if it listens on one.
    pub quic_port: Option<u16>,
}

/// A node's links, as it measures them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinksBody {
    /// When it was written, on the origin's clock.
    pub at: UnixTime,
    /// How long before that the origin first suspected a link whose loss it tells; zero where it tells of none, or of one that was
    /// not suspected for a millisecond. A record has room for [`MOST_SUSPECTED`]; one that is signed anew repeats both times.
    pub suspected: Micros,
    /// The links that are up, in order of neighbour and carrier.
    pub links: Vec<LinkEntry>,
}

/// One link in the direction away from the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkEntry {
    /// The node at the other end.
    pub neighbour: NodeId,
    /// What carries it.
    pub carrier: Carrier,
    /// Its price for the origin, in the tier that the origin gave it.
    pub cost: Cost,
    /// Its prices in the classes that the origin prices apart.
    pub apart: ApartCosts,
    /// Smoothed round-trip time.
    pub rtt: Micros,
    /// Jitter.
    pub jitter: Micros,
    /// Loss in this direction.
    pub loss: Ppm,
}

/// The prefixes that a node announces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PrefixesBody {
    /// When it was written, on the origin's clock.
    pub at: UnixTime,
    /// The prefixes, in order.
    pub prefixes: Vec<Prefix>,
}

/// The end of a node's membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemovalBody {
    /// When it was signed.
    pub at: UnixTime,
    /// The removed grant's serial: grants of this node up to this serial are void.
    pub serial: u64,
}

const AT: u8 = 1;
const TRANSIT: u8 = 2;
const VERSION: u8 = 3;
const LINK: u8 = 4;
const PREFIX: u8 = 5;
const SERIAL: u8 = 6;
const QUIC_PORT: u8 = 7;
const SUSPECTED: u8 = 8;

/// The longest suspicion that a record tells: its field has milliseconds in two bytes.
pub const MOST_SUSPECTED: Micros = Micros::from_millis(u16::MAX as u64);

impl Body {
    /// Reads the body of a record of this kind.
    ///
    /// # Errors
    /// A field is truncated or out of range.
    pub fn parse(kind: RecordKind, bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut at = UnixTime(0);
        let mut suspected = Micros(0);
        let mut node = NodeBody::default();
        let (mut links, mut prefixes, mut serial) = (Vec::new(), Vec::new(), 0);
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            let field = reader.u8()?;
            let mut value = Reader::new(reader.counted()?);
            match field {
                AT => at = value.time()?,
                TRANSIT => node.transit = Cost::told(value.u32()?),
                VERSION => node.version = text(&mut value)?,
                QUIC_PORT => node.quic_port = Some(value.u16()?).filter(|port| *port != 0),
                LINK => links.extend(LinkEntry::decode(&mut value)?),
                PREFIX => prefixes.push(value.prefix()?),
                SERIAL => serial = value.u64()?,
                SUSPECTED => suspected = Micros::from_millis(value.u16()?.into()),
                _ => {}
            }
        }
        Ok(match kind {
            RecordKind::Node => Self::Node(NodeBody { at, ..node }),
            RecordKind::Links => Self::Links(LinksBody {
                at,
                suspected,
                links,
            }),
            RecordKind::Prefixes => Self::Prefixes(PrefixesBody { at, prefixes }),
            RecordKind::Removal => Self::Removal(RemovalBody { at, serial }),
        })
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        match self {
            Self::Node(NodeBody {
                at,
                transit,
                version,
                quic_port,
            }) => {
                field(&mut writer, AT, |w| w.u64(at.0));
                field(&mut writer, TRANSIT, |w| w.u32(transit.to_tell()));
                field(&mut writer, VERSION, |w| w.put(version.as_bytes()));
                if let Some(port) = quic_port {
                    field(&mut writer, QUIC_PORT, |w| w.u16(*port));
                }
            }
            Self::Links(LinksBody {
                at,
                suspected,
                links,
            }) => {
                field(&mut writer, AT, |w| w.u64(at.0));
                let millis = (*suspected).min(MOST_SUSPECTED).as_millis() as u16;
                if millis > 0 {
                    field(&mut writer, SUSPECTED, |w| w.u16(millis));
                }
                for link in links {
                    field(&mut writer, LINK, |w| link.encode(w));
                }
            }
            Self::Prefixes(PrefixesBody { at, prefixes }) => {
                field(&mut writer, AT, |w| w.u64(at.0));
                for prefix in prefixes {
                    field(&mut writer, PREFIX, |w| w.prefix(*prefix));
                }
            }
            Self::Removal(RemovalBody { at, serial }) => {
                field(&mut writer, AT, |w| w.u64(at.0));
                field(&mut writer, SERIAL, |w| w.u64(*serial));
            }
        }
        writer.bytes
    }

    /// When the body was written, on its writer's clock.
    pub const fn at(&self) -> UnixTime {
        match self {
            Self::Node(body) => body.at,
            Self::Links(body) => body.at,
            Self::Prefixes(body) => body.at,
            Self::Removal(body) => body.at,
        }
    }
}

impl LinkEntry {
    /// The tier that the origin gave the link; none is the first.
    pub fn tier(&self) -> u8 {
        tier(self.cost)
    }

    /// The price in a class.
    pub fn cost_of(&self, class: Class) -> Cost {
        self.apart.of(class).unwrap_or(self.cost)
    }

    /// Bytes that the link takes in a record.
    pub fn length(&self) -> usize {
        let mut writer = Writer::default();
        field(&mut writer, LINK, |writer| self.encode(writer));
        writer.bytes.len()
    }

    /// Reads a link; `None` if its carrier is not known here.
    fn decode(reader: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        let neighbour = reader.node()?;
        let carrier = Carrier::from_code(reader.u8()?);
        let cost = Cost::told(reader.u32()?);
        let rtt = Micros(reader.u32()?.into());
        let jitter = Micros(reader.u32()?.into());
        let loss = Ppm(reader.u32()?);
        let tier = match reader.is_empty() {
            true => 0,
            false => reader.u8()?,
        };
        let mut apart = ApartCosts::NONE;
        while !reader.is_empty() {
            let class = Class::from_code(reader.u8()?);
            let tier = reader.u8()?;
            let cost = Cost::told(reader.u32()?).in_tier(tier);
            // A class that is not known here decides nothing here.
            apart = class.map_or(apart, |class| apart.with(class, cost));
        }
        Ok(carrier.map(|carrier| Self {
            neighbour,
            carrier,
            cost: cost.in_tier(tier),
            apart,
            rtt,
            jitter,
            loss,
        }))
    }

    fn encode<'a>(&self, writer: &'a mut Writer) -> &'a mut Writer {
        let micros = |span: Micros| u32::try_from(span.0).unwrap_or(u32::MAX);
        let writer = writer
            .put(&self.neighbour.to_be_bytes())
            .u8(self.carrier.code())
            .u32(self.cost.to_tell())
            .u32(micros(self.rtt))
            .u32(micros(self.jitter))
            .u32(self.loss.0);
        if self.tier() == 0 && self.apart == ApartCosts::NONE {
            return writer;
        }
        let writer = writer.u8(self.tier());
        self.apart.iter().fold(writer, |writer, (class, cost)| {
            let writer = writer.u8(class.code()).u8(tier(cost));
            writer.u32(cost.to_tell())
        })
    }
}

/// The tier of one link.
fn tier(cost: Cost) -> u8 {
    u8::try_from(cost.tiers()).unwrap_or(u8::MAX)
}

fn field(writer: &mut Writer, kind: u8, value: impl FnOnce(&mut Writer) -> &mut Writer) {
    let mut inner = Writer::default();
    value(&mut inner);
    writer.u8(kind).counted(&inner.bytes);
}

fn text(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    let mut bytes = Vec::new();
    while !reader.is_empty() {
        bytes.push(reader.u8()?);
    }
    match String::from_utf8(bytes) {
        Ok(text) if text.len() <= 64 && !text.chars().any(char::is_control) => Ok(text),
        _ => Err(DecodeError::Range("text")),
    }
}
