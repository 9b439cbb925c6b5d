//! Lowering the segment size that TCP connections announce (`docs/protocol/path-mtu.md` §5).

use wattle_dataplane::{Packet, mss};
use wattle_model::Checksum;

use crate::Clamp;
use crate::table::Slot;
use crate::worker::Worker;

impl Worker {
    /// Lowers what a SYN from or to `peer` announces to what gets there whole.
    pub(crate) fn clamp_mss(
        &mut self,
        peer: Slot,
        ip: &Packet,
        packet: &mut [u8],
        checksum: Checksum,
    ) {
        let clamps = self.config.mss_clamp == Clamp::On;
        if clamps && mss::clamp(ip, packet, checksum, self.table[peer].path_mtu.mtu()) {
            self.counters.clamped_packets += 1;
        }
    }
}
