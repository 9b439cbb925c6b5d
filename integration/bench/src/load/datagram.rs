//! What a numbered datagram says, and how long it is.

use std::net::SocketAddr;

use anyhow::{Result, ensure};

/// Bytes that a datagram needs for its numbers.
pub(crate) const NUMBERS: usize = 16;
/// Longest datagram that is sent or received.
pub(crate) const LARGEST: usize = 9000;

/// Which run, which flow of it, which datagram of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) run: u32,
    pub(crate) flow: u32,
    pub(crate) number: u64,
}

impl Numbers {
    pub(crate) fn write(self, payload: &mut [u8]) {
        payload[..4].copy_from_slice(&self.run.to_be_bytes());
        payload[4..8].copy_from_slice(&self.flow.to_be_bytes());
        payload[8..NUMBERS].copy_from_slice(&self.number.to_be_bytes());
    }

    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let (run, rest) = payload.split_first_chunk()?;
        let (flow, rest) = rest.split_first_chunk()?;
        let (number, _) = rest.split_first_chunk()?;
        Some(Self {
            run: u32::from_be_bytes(*run),
            flow: u32::from_be_bytes(*flow),
            number: u64::from_be_bytes(*number),
        })
    }
}

/// UDP payload of an IP packet of this size to this address.
pub(crate) fn payload_of(packet: usize, target: SocketAddr) -> Result<usize> {
    let headers = if target.is_ipv4() { 28 } else { 48 };
    let fits = (headers + NUMBERS..=LARGEST).contains(&packet);
    ensure!(
        fits,
        "a packet has {} to {LARGEST} bytes, not {packet}",
        headers + NUMBERS
    );
    Ok(packet - headers)
}
