//! Reading and writing big-endian fields. A reader never looks beyond its bytes.

use std::net::{IpAddr, SocketAddr};

use wattle_model::{NodeId, Prefix, SeqNo, UnixTime};

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside a field.
    #[error("the message ends inside a field")]
    Truncated,
    /// Bytes follow the last field.
    #[error("bytes follow the last field")]
    Trailing,
    /// The format's version is not known here.
    #[error("format version {0} is not known")]
    Version(u8),
    /// The kind of message is not known here.
    #[error("message kind {0} is not known")]
    Kind(u8),
    /// A field has a value outside its range.
    #[error("field `{0}` is out of range")]
    Range(&'static str),
    /// The signature does not match the signer's key.
    #[error("the signature does not match")]
    Signature,
    /// The message belongs to another network.
    #[error("the message belongs to another network")]
    Network,
}

/// Takes fields from the front of a byte string.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn node(&mut self) -> Result<NodeId, DecodeError> {
        self.u64().map(NodeId)
    }

    pub(crate) fn seq(&mut self) -> Result<SeqNo, DecodeError> {
        self.u64().map(SeqNo)
    }

    pub(crate) fn time(&mut self) -> Result<UnixTime, DecodeError> {
        self.u64().map(UnixTime)
    }

    /// A byte string with its length (two bytes) in front.
    pub(crate) fn counted(&mut self) -> Result<&'a [u8], DecodeError> {
        let count = self.u16()?;
        self.bytes(count.into())
    }

    pub(crate) fn address(&mut self) -> Result<IpAddr, DecodeError> {
        match self.u8()? {
            4 => self.array::<4>().map(IpAddr::from),
            6 => self.array::<16>().map(IpAddr::from),
            _ => Err(DecodeError::Range("address family")),
        }
    }

    pub(crate) fn socket_address(&mut self) -> Result<SocketAddr, DecodeError> {
        let address = self.address()?;
        Ok(SocketAddr::new(address, self.u16()?))
    }

    pub(crate) fn prefix(&mut self) -> Result<Prefix, DecodeError> {
        let address = self.address()?;
        let length = self.u8()?;
        match Prefix::new(address, length) {
            Some(prefix) if prefix.address() == address => Ok(prefix),
            _ => Err(DecodeError::Range("prefix")),
        }
    }

    /// As many items as a two-byte count in front says.
    pub(crate) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.u16()?;
        (0..count).map(|_| item(self)).collect()
    }

    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Trailing)
        }
    }
}

/// Appends fields to a byte string.
#[derive(Default)]
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.put(&[value])
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    /// A length that the format bounds by two bytes; what is longer is a caller's bug and is cut off
    /// by the count, so that the receiver refuses it instead of misreading it.
    fn count(&mut self, count: usize) -> &mut Self {
        self.u16(u16::try_from(count).unwrap_or(u16::MAX))
    }

    pub(crate) fn counted(&mut self, bytes: &[u8]) -> &mut Self {
        self.count(bytes.len()).put(bytes)
    }

    pub(crate) fn address(&mut self, address: IpAddr) -> &mut Self {
        match address {
            IpAddr::V4(v4) => self.u8(4).put(&v4.octets()),
            IpAddr::V6(v6) => self.u8(6).put(&v6.octets()),
        }
    }

    pub(crate) fn socket_address(&mut self, address: SocketAddr) -> &mut Self {
        self.address(address.ip()).u16(address.port())
    }

    pub(crate) fn prefix(&mut self, prefix: Prefix) -> &mut Self {
        self.address(prefix.address()).u8(prefix.length())
    }

    pub(crate) fn list<T>(
        &mut self,
        items: impl ExactSizeIterator<Item = T>,
        mut item: impl FnMut(&mut Self, T),
    ) -> &mut Self {
        self.count(items.len());
        for each in items {
            item(self, each);
        }
        self
    }
}
