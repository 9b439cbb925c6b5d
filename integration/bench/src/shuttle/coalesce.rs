//! Consecutive TCP segments of one flow put together again, so that the kernel takes them in one write.

use crate::packet::{LARGEST, TCP, VNET, add, fold, pseudo_header, word, write_header_checksum};

const ACK_AND_PSH: u8 = 0x18;
const PSH: u8 = 0x08;

/// The packet that is growing, behind room for its virtio header.
#[derive(Default)]
pub(crate) struct Coalescer {
    buffer: Vec<u8>,
    /// Length of its IP and TCP headers, if more may follow.
    headers: usize,
    segment: usize,
    count: usize,
    next: u32,
    closed: bool,
}

impl Coalescer {
    /// Appends the packet to the growing one, or finishes that and starts another.
    pub(crate) fn push(&mut self, packet: &mut [u8], write: impl FnMut(&[u8])) {
        let Some(headers) = plain_tcp(packet) else {
            self.replace(packet, 0, write);
            self.closed = true;
            return;
        };
        if !self.continues(packet, headers) {
            self.replace(packet, headers, write);
            return;
        }
        let payload = &packet[headers..];
        self.buffer.extend_from_slice(payload);
        self.count += 1;
        self.next = self.next.wrapping_add(payload.len() as u32);
        let ip = ip_header(packet);
        self.buffer[VNET + ip + 13] |= packet[ip + 13] & PSH;
        self.closed = payload.len() < self.segment || packet[ip + 13] & PSH != 0;
    }

    /// Hands the growing packet over, its header written.
    pub(crate) fn finish(&mut self, mut write: impl FnMut(&[u8])) {
        if self.buffer.is_empty() {
            return;
        }
        if self.count > 1 {
            self.write_headers();
        }
        write(&self.buffer);
        self.buffer.clear();
    }

    fn replace(&mut self, packet: &[u8], headers: usize, write: impl FnMut(&[u8])) {
        self.finish(write);
        self.buffer.extend_from_slice(&[0; VNET]);
        self.buffer.extend_from_slice(packet);
        (self.headers, self.count, self.closed) = (headers, 1, false);
        if headers > 0 {
            let ip = ip_header(packet);
            self.segment = packet.len() - headers;
            self.next = sequence(packet, ip).wrapping_add(self.segment as u32);
            self.closed = packet[ip + 13] & PSH != 0;
        }
    }

    fn continues(&self, packet: &[u8], headers: usize) -> bool {
        if self.buffer.is_empty() || self.closed || self.headers != headers {
            return false;
        }
        let (old, ip) = (&self.buffer[VNET..], ip_header(packet));
        let payload = packet.len() - headers;
        let same_flow = old[12..20] == packet[12..20]
            && old[ip..ip + 4] == packet[ip..ip + 4]
            && old[1] == packet[1];
        let same_state = old[8..10] == packet[8..10]
            && old[ip + 8..ip + 12] == packet[ip + 8..ip + 12]
            && old[ip + 14..ip + 16] == packet[ip + 14..ip + 16];
        let same_options = old[ip + 20..headers] == packet[ip + 20..headers];
        let fits = payload <= self.segment && old.len() + payload < LARGEST;
        same_flow && same_state && same_options && fits && sequence(packet, ip) == self.next
    }

    fn write_headers(&mut self) {
        let (vnet, packet) = self.buffer.split_at_mut(VNET);
        let (ip, length) = (ip_header(packet), packet.len());
        packet[2..4].copy_from_slice(&word(length));
        write_header_checksum(packet, ip);
        let partial = fold(pseudo_header(packet, length - ip));
        packet[ip + 16..ip + 18].copy_from_slice(&partial.to_ne_bytes());
        // flags: checksum wanted; kind: TCPv4; then header length, segment size, where the checksum starts and lies.
        vnet[0..2].copy_from_slice(&[1, 1]);
        vnet[2..4].copy_from_slice(&(self.headers as u16).to_ne_bytes());
        vnet[4..6].copy_from_slice(&(self.segment as u16).to_ne_bytes());
        vnet[6..8].copy_from_slice(&(ip as u16).to_ne_bytes());
        vnet[8..10].copy_from_slice(&16_u16.to_ne_bytes());
    }
}

/// Length of the headers when the packet is an unfragmented TCP segment with payload, a right checksum and no flag but ACK and PSH.
fn plain_tcp(packet: &[u8]) -> Option<usize> {
    let ip = ip_header(packet);
    let whole = packet[2..4] == word(packet.len());
    let unfragmented = packet[6] & 0x3f == 0 && packet[7] == 0;
    if packet[0] >> 4 != 4 || packet[9] != TCP || !whole || !unfragmented || packet.len() < ip + 20
    {
        return None;
    }
    let headers = ip + usize::from(packet[ip + 12] >> 4) * 4;
    let plain = packet.len() > headers && packet[ip + 13] & !ACK_AND_PSH == 0;
    let right = fold(add(&packet[ip..], pseudo_header(packet, packet.len() - ip))) == 0xffff;
    (plain && right).then_some(headers)
}

fn ip_header(packet: &[u8]) -> usize {
    usize::from(packet[0] & 15) * 4
}

fn sequence(packet: &[u8], ip: usize) -> u32 {
    u32::from_be_bytes([
        packet[ip + 4],
        packet[ip + 5],
        packet[ip + 6],
        packet[ip + 7],
    ])
}
