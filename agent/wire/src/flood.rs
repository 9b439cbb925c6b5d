//! Link state between neighbours (`docs/protocol/flooding.md`): records, acknowledgements, and the
//! comparison of two databases.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wattle_model::{NodeId, SeqNo};

use crate::DecodeError;
use crate::codec::{Reader, Writer};
use crate::control::MAX_MESSAGE;
use crate::record::{Record, RecordKey, RecordKind};

/// A message about link state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flood {
    /// Records that the receiver may not have. Each is acknowledged.
    Update(Vec<Record>),
    /// The sender has these records, or newer ones.
    Ack(Vec<RecordId>),
    /// All records that the sender has with keys in a range; what the receiver has newer it sends, what
    /// it lacks it requests.
    Digest(Digest),
    /// Please send these records.
    Request(Vec<RecordKey>),
    /// What the parts of the sender's database come to; the receiver answers with digests of those that differ.
    Summary(Summary),
}

/// One version of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecordId {
    /// Which record.
    pub key: RecordKey,
    /// How new.
    pub seq: SeqNo,
}

/// The part of a database between two keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// First key of the range; `None`: from the beginning.
    pub first: Option<RecordKey>,
    /// Last key of the range, inclusive; `None`: to the end.
    pub last: Option<RecordKey>,
    /// The records in the range, in order of key.
    pub records: Vec<RecordId>,
}

/// Into how many parts a summary cuts a database: a power of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buckets {
    bits: u32,
}

impl Buckets {
    /// The most that a message holds.
    pub const MOST: Self = Self { bits: 7 };

    /// So many parts, if it is a power of two and not too many.
    pub fn new(count: usize) -> Option<Self> {
        let bits = count.checked_ilog2().filter(|_| count.is_power_of_two())?;
        (bits <= Self::MOST.bits).then_some(Self { bits })
    }

    /// How many.
    pub const fn count(self) -> usize {
        1 << self.bits
    }

    /// The part that an origin's records are in.
    fn of(self, origin: NodeId) -> usize {
        origin.0.checked_shr(64 - self.bits).unwrap_or(0) as usize
    }

    /// The smallest origin of a part.
    fn first(self, bucket: usize) -> NodeId {
        NodeId((bucket as u64).checked_shl(64 - self.bits).unwrap_or(0))
    }
}

/// For each part of a database, by the leading bits of the origins, the exclusive or of its records' fingerprints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    buckets: Buckets,
    fingerprints: Vec<u64>,
}

impl Summary {
    /// The summary of a database without records.
    pub fn empty(buckets: Buckets) -> Self {
        Self {
            buckets,
            fingerprints: vec![0; buckets.count()],
        }
    }

    /// Takes in one record.
    pub fn add(&mut self, key: RecordKey, fingerprint: u64) {
        self.fingerprints[self.buckets.of(key.origin)] ^= fingerprint;
    }

    /// Into how many parts it cuts the database.
    pub const fn buckets(&self) -> Buckets {
        self.buckets
    }

    /// One fingerprint per part, in the order of the origins.
    pub fn fingerprints(&self) -> &[u64] {
        &self.fingerprints
    }

    /// The first key that may be in a part.
    pub fn first_key(&self, bucket: usize) -> RecordKey {
        RecordKey {
            origin: self.buckets.first(bucket),
            kind: RecordKind::Node,
            part: 0,
        }
    }

    /// The last key that may be in a part.
    pub fn last_key(&self, bucket: usize) -> RecordKey {
        let next = self.buckets.first(bucket + 1).0;
        RecordKey {
            // After the last part the numbers begin anew.
            origin: NodeId(next.wrapping_sub(1)),
            kind: RecordKind::Removal,
            part: u8::MAX,
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let fingerprints = reader.list(Reader::u64)?;
        let buckets = Buckets::new(fingerprints.len()).ok_or(DecodeError::Range("buckets"))?;
        Ok(Self {
            buckets,
            fingerprints,
        })
    }
}

const UPDATE: u8 = 16;
const ACK: u8 = 17;
const DIGEST: u8 = 18;
const REQUEST: u8 = 19;
const SUMMARY: u8 = 20;
const KEY_LENGTH: usize = 10;
const ID_LENGTH: usize = KEY_LENGTH + 8;

/// Most record ids in one `Ack` or `Digest`.
pub const MAX_IDS: usize = (MAX_MESSAGE - 5 - 2 * KEY_LENGTH) / ID_LENGTH;
/// Most record keys in one `Request`.
pub const MAX_KEYS: usize = (MAX_MESSAGE - 3) / KEY_LENGTH;
/// Bytes that records may take in one `Update`, each with two bytes of length.
pub const MAX_UPDATE: usize = MAX_MESSAGE - 3;

impl RecordId {
    /// The version's contribution to a database's fingerprint: the fingerprint is the exclusive or of all.
    pub fn fingerprint(&self) -> u64 {
        let mut writer = Writer::default();
        self.encode(&mut writer);
        let digest = Sha256::digest(&writer.bytes);
        u64::from_be_bytes(std::array::from_fn(|i| digest[i]))
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            key: decode_key(reader)?,
            seq: reader.seq()?,
        })
    }

    fn encode(&self, writer: &mut Writer) {
        encode_key(writer, self.key);
        writer.u64(self.seq.0);
    }
}

impl From<&Record> for RecordId {
    fn from(record: &Record) -> Self {
        Self {
            key: record.key(),
            seq: record.seq(),
        }
    }
}

impl Flood {
    pub(crate) fn decode(kind: u8, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let flood = match kind {
            UPDATE => Self::Update(reader.list(|r| Record::parse(r.counted()?))?),
            ACK => Self::Ack(reader.list(RecordId::decode)?),
            DIGEST => Self::Digest(Digest {
                first: decode_bound(reader)?,
                last: decode_bound(reader)?,
                records: reader.list(RecordId::decode)?,
            }),
            REQUEST => Self::Request(reader.list(decode_key)?),
            SUMMARY => Self::Summary(Summary::decode(reader)?),
            other => return Err(DecodeError::Kind(other)),
        };
        reader.end()?;
        Ok(flood)
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        match self {
            Self::Update(records) => {
                writer.u8(UPDATE).list(records.iter(), |w, record| {
                    w.counted(record.bytes());
                });
            }
            Self::Ack(ids) => {
                writer.u8(ACK).list(ids.iter(), |w, id| id.encode(w));
            }
            Self::Digest(digest) => {
                encode_bound(writer.u8(DIGEST), digest.first);
                encode_bound(writer, digest.last);
                writer.list(digest.records.iter(), |w, id| id.encode(w));
            }
            Self::Request(keys) => {
                writer
                    .u8(REQUEST)
                    .list(keys.iter(), |w, key| encode_key(w, *key));
            }
            Self::Summary(summary) => {
                let fingerprints = summary.fingerprints.iter();
                writer.u8(SUMMARY).list(fingerprints, |w, fingerprint| {
                    w.u64(*fingerprint);
                });
            }
        }
    }
}

fn decode_key(reader: &mut Reader<'_>) -> Result<RecordKey, DecodeError> {
    let origin = reader.node()?;
    let kind = RecordKind::from_code(reader.u8()?)?;
    Ok(RecordKey {
        origin,
        kind,
        part: reader.u8()?,
    })
}

fn encode_key(writer: &mut Writer, key: RecordKey) {
    writer
        .put(&key.origin.to_be_bytes())
        .u8(key.kind.code())
        .u8(key.part);
}

fn decode_bound(reader: &mut Reader<'_>) -> Result<Option<RecordKey>, DecodeError> {
    match reader.u8()? {
        0 => Ok(None),
        1 => decode_key(reader).map(Some),
        _ => Err(DecodeError::Range("bound")),
    }
}

fn encode_bound(writer: &mut Writer, bound: Option<RecordKey>) {
    match bound {
        None => {
            writer.u8(0);
        }
        Some(key) => encode_key(writer.u8(1), key),
    }
}
