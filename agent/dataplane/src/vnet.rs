//! The virtio-net header (virtio 1.2 §5.1.6.1, legacy length of ten bytes) in front of every packet of a TUN device
//! opened with `IFF_VNET_HDR`: how the kernel and the agent hand each other packets larger than the MTU.

/// Bytes of the header on the TUN device.
pub const VNET_HEADER_LENGTH: usize = 10;
/// Flag: the checksum at `csum_start + csum_offset` is partial (pseudo header only).
pub const NEEDS_CSUM: u8 = 1;

/// What kind of super-packet follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gso {
    /// One ordinary packet.
    #[default]
    None,
    /// TCP over IPv4, to be cut into segments.
    TcpV4,
    /// TCP over IPv6, to be cut into segments.
    TcpV6,
    /// UDP over IPv4 or IPv6, to be cut into datagrams.
    UdpL4,
}

/// The header, decoded. Zero in every field means an ordinary packet with a complete checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VnetHeader {
    /// [`NEEDS_CSUM`] or 0; other flags are not passed on.
    pub flags: u8,
    /// Kind of super-packet.
    pub gso: Gso,
    /// Bytes of all headers together (a hint; not relied on).
    pub hdr_len: u16,
    /// Payload bytes of each segment.
    pub gso_size: u16,
    /// Where the checksummed bytes begin.
    pub csum_start: u16,
    /// Where the checksum stands, counted from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// Reads the header; `None` for a kind of super-packet that was never asked for.
    pub fn from_bytes(bytes: &[u8; VNET_HEADER_LENGTH]) -> Option<Self> {
        const ECN: u8 = 0x80;
        let gso = match bytes[1] & !ECN {
            0 => Gso::None,
            1 => Gso::TcpV4,
            4 => Gso::TcpV6,
            5 => Gso::UdpL4,
            _ => return None,
        };
        let field = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Some(Self {
            flags: bytes[0] & NEEDS_CSUM,
            gso,
            hdr_len: field(2),
            gso_size: field(4),
            csum_start: field(6),
            csum_offset: field(8),
        })
    }

    /// The header as the kernel reads it.
    pub fn to_bytes(self) -> [u8; VNET_HEADER_LENGTH] {
        let gso = match self.gso {
            Gso::None => 0,
            Gso::TcpV4 => 1,
            Gso::TcpV6 => 4,
            Gso::UdpL4 => 5,
        };
        let mut bytes = [self.flags, gso, 0, 0, 0, 0, 0, 0, 0, 0];
        let fields = [
            self.hdr_len,
            self.gso_size,
            self.csum_start,
            self.csum_offset,
        ];
        for (field, slot) in fields.into_iter().zip(bytes[2..].chunks_exact_mut(2)) {
            slot.copy_from_slice(&field.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_read_as_they_were_written() {
        for gso in [Gso::None, Gso::TcpV4, Gso::TcpV6, Gso::UdpL4] {
            let header = VnetHeader {
                flags: NEEDS_CSUM,
                gso,
                hdr_len: 54,
                gso_size: 1_320,
                csum_start: 20,
                csum_offset: 16,
            };
            assert_eq!(VnetHeader::from_bytes(&header.to_bytes()), Some(header));
        }
        assert_eq!(
            VnetHeader::from_bytes(&[0, 3, 0, 0, 0, 0, 0, 0, 0, 0]),
            None
        );
    }
}
