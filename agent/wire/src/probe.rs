//! Probes (`docs/protocol/probes.md`): are you there, how far, how much gets lost.
//!
//! Both messages may grow at the end; what follows the known fields is ignored.

use serde::{Deserialize, Serialize};

use crate::DecodeError;
use crate::codec::{Reader, Writer};

/// Asks the other end of a link for a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Number of the probe on its link.
    pub seq: u32,
    /// When it was sent: microseconds on the sender's clock.
    pub sent_at: u64,
    /// Datagrams that the sender has sent on this link since it came up, this probe included.
    pub tx_packets: u64,
    /// Fingerprint of the sender's link-state database.
    pub fingerprint: u64,
}

/// Answers a probe at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReply {
    /// The probe's number.
    pub seq: u32,
    /// The probe's `sent_at`, unchanged.
    pub sent_at: u64,
    /// When the probe arrived: microseconds on the replier's clock.
    pub received_at: u64,
    /// When the reply was sent: microseconds on the replier's clock.
    pub replied_at: u64,
    /// The probe's `tx_packets`, unchanged.
    pub tx_packets: u64,
    /// Datagrams that the replier has received on this link, the probe included.
    pub rx_packets: u64,
    /// Fingerprint of the replier's link-state database.
    pub fingerprint: u64,
}

impl Probe {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            seq: reader.u32()?,
            sent_at: reader.u64()?,
            tx_packets: reader.u64()?,
            fingerprint: reader.u64()?,
        })
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer
            .u32(self.seq)
            .u64(self.sent_at)
            .u64(self.tx_packets)
            .u64(self.fingerprint);
    }
}

impl ProbeReply {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            seq: reader.u32()?,
            sent_at: reader.u64()?,
            received_at: reader.u64()?,
            replied_at: reader.u64()?,
            tx_packets: reader.u64()?,
            rx_packets: reader.u64()?,
            fingerprint: reader.u64()?,
        })
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer
            .u32(self.seq)
            .u64(self.sent_at)
            .u64(self.received_at)
            .u64(self.replied_at)
            .u64(self.tx_packets)
            .u64(self.rx_packets)
            .u64(self.fingerprint);
    }
}
