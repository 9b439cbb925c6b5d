//! Consecutive segments of one flow put together again, so that the kernel takes them in one write: TCP in sequence, UDP of one size.

use crate::packet::{
    GSO_TCP4, GSO_UDP, LARGEST, TCP, UDP, VNET, pseudo_header, word, write_header_checksum,
};
use crate::sum::{add, fold};

const ACK_AND_PSH: u8 = 0x18;
const PSH: u8 = 0x08;
/// What every kernel with UDP segmentation takes in one write.
const MOST_DATAGRAMS: usize = 64;

/// The packet that is growing, behind room for its virtio header.
pub(crate) struct Coalescer {
    /// Whether the kernel takes several UDP datagrams in one write.
    udp: bool,
    buffer: Vec<u8>,
    /// Length of its IP and transport headers, if more may follow.
    headers: usize,
    segment: usize,
    count: usize,
    /// TCP only: the sequence number that continues it.
    next: u32,
    closed: bool,
}

impl Coalescer {
    pub(crate) fn new(udp: bool) -> Self {
        Self {
            udp,
            buffer: Vec::with_capacity(VNET + LARGEST),
            headers: 0,
            segment: 0,
            count: 0,
            next: 0,
            closed: false,
        }
    }

    /// Appends the packet to the growing one, or finishes that and starts another.
    pub(crate) fn push(&mut self, packet: &mut [u8], write: impl FnMut(&[u8])) {
        let Some(headers) = self.joinable(packet) else {
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
        self.closed = payload.len() < self.segment;
        let ip = ip_header(packet);
        if packet[9] == TCP {
            self.next = self.next.wrapping_add(payload.len() as u32);
            self.buffer[VNET + ip + 13] |= packet[ip + 13] & PSH;
            self.closed |= packet[ip + 13] & PSH != 0;
        }
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

    fn joinable(&self, packet: &[u8]) -> Option<usize> {
        match packet[9] {
            TCP => plain_tcp(packet),
            UDP if self.udp => plain_udp(packet),
            _ => None,
        }
    }

    fn replace(&mut self, packet: &[u8], headers: usize, write: impl FnMut(&[u8])) {
        self.finish(write);
        self.buffer.extend_from_slice(&[0; VNET]);
        self.buffer.extend_from_slice(packet);
        (self.headers, self.count, self.closed) = (headers, 1, false);
        self.segment = packet.len() - headers;
        if headers > 0 && packet[9] == TCP {
            let ip = ip_header(packet);
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
            && old[8..10] == packet[8..10]
            && old[1] == packet[1];
        let fits = payload <= self.segment && old.len() + payload < LARGEST;
        same_flow
            && fits
            && match packet[9] {
                TCP => self.continues_tcp(packet, ip),
                _ => self.count < MOST_DATAGRAMS,
            }
    }

    fn continues_tcp(&self, packet: &[u8], ip: usize) -> bool {
        let old = &self.buffer[VNET..];
        let same_state = old[ip + 8..ip + 12] == packet[ip + 8..ip + 12]
            && old[ip + 14..ip + 16] == packet[ip + 14..ip + 16];
        let same_options = old[ip + 20..self.headers] == packet[ip + 20..self.headers];
        same_state && same_options && sequence(packet, ip) == self.next
    }

    fn write_headers(&mut self) {
        let (vnet, packet) = self.buffer.split_at_mut(VNET);
        let (ip, length) = (ip_header(packet), packet.len());
        packet[2..4].copy_from_slice(&word(length));
        write_header_checksum(packet, ip);
        let (kind, checksum) = if packet[9] == TCP {
            (GSO_TCP4, 16)
        } else {
            packet[ip + 4..ip + 6].copy_from_slice(&word(length - ip));
            (GSO_UDP, 6)
        };
        let partial = fold(pseudo_header(packet, length - ip));
        packet[ip + checksum..ip + checksum + 2].copy_from_slice(&partial.to_ne_bytes());
        // flags: checksum wanted; kind; then header length, segment size, where the checksum starts and lies.
        vnet[0..2].copy_from_slice(&[1, kind]);
        vnet[2..4].copy_from_slice(&(self.headers as u16).to_ne_bytes());
        vnet[4..6].copy_from_slice(&(self.segment as u16).to_ne_bytes());
        vnet[6..8].copy_from_slice(&(ip as u16).to_ne_bytes());
        vnet[8..10].copy_from_slice(&(checksum as u16).to_ne_bytes());
    }
}

/// Length of the headers when the packet is an unfragmented TCP segment with payload, a right checksum and no flag but ACK and PSH.
fn plain_tcp(packet: &[u8]) -> Option<usize> {
    let ip = whole_ip(packet, 20)?;
    let headers = ip + usize::from(packet[ip + 12] >> 4) * 4;
    let plain = packet.len() > headers && packet[ip + 13] & !ACK_AND_PSH == 0;
    (plain && checksum_is_right(packet, ip)).then_some(headers)
}

/// Length of the headers when the packet is an unfragmented UDP datagram with payload and a right checksum.
fn plain_udp(packet: &[u8]) -> Option<usize> {
    let ip = whole_ip(packet, 8)?;
    let plain = packet.len() > ip + 8 && packet[ip + 4..ip + 6] == word(packet.len() - ip);
    (plain && checksum_is_right(packet, ip)).then_some(ip + 8)
}

/// Length of the IP header of an unfragmented IPv4 packet whose transport header is there.
fn whole_ip(packet: &[u8], transport: usize) -> Option<usize> {
    let ip = ip_header(packet);
    let whole = packet[2..4] == word(packet.len());
    let unfragmented = packet[6] & 0x3f == 0 && packet[7] == 0;
    let right = packet[0] >> 4 == 4 && whole && unfragmented && packet.len() >= ip + transport;
    right.then_some(ip)
}

fn checksum_is_right(packet: &[u8], ip: usize) -> bool {
    fold(add(&packet[ip..], pseudo_header(packet, packet.len() - ip))) == 0xffff
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::HEADER_SIZES;

    #[test]
    fn datagrams_of_one_flow_and_size_become_one_write_and_a_shorter_one_ends_it() {
        let mut coalescer = Coalescer::new(true);
        let mut written = Vec::new();
        for (port, length) in [(7, 100), (7, 100), (7, 60), (7, 100), (8, 100)] {
            coalescer.push(&mut datagram(port, length), |done| {
                written.push(done.to_vec());
            });
        }
        coalescer.finish(|done| written.push(done.to_vec()));
        let sizes: Vec<_> = written
            .iter()
            .map(|packet| packet.len() - VNET - HEADER_SIZES)
            .collect();
        assert_eq!(sizes, [260, 100, 100]);
        assert_eq!(written[0][1], GSO_UDP);
        assert_eq!(written[0][4..6], 100_u16.to_ne_bytes());
        assert_eq!(written[1][..VNET], [0; VNET]);
    }

    #[test]
    fn without_segmentation_in_the_kernel_each_datagram_is_a_write() {
        let mut coalescer = Coalescer::new(false);
        let mut written = 0;
        for _ in 0..3 {
            coalescer.push(&mut datagram(7, 100), |_| written += 1);
        }
        coalescer.finish(|_| written += 1);
        assert_eq!(written, 3);
    }

    /// An IPv4 UDP datagram with right checksums.
    fn datagram(port: u16, payload: usize) -> Vec<u8> {
        let mut packet = vec![0; HEADER_SIZES + payload];
        packet[0] = 0x45;
        let length = packet.len();
        packet[2..4].copy_from_slice(&word(length));
        packet[8..10].copy_from_slice(&[64, UDP]);
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        packet[20..22].copy_from_slice(&port.to_be_bytes());
        packet[24..26].copy_from_slice(&word(length - 20));
        packet[28..].fill(5);
        let sum = !fold(add(&packet[20..], pseudo_header(&packet, length - 20)));
        packet[26..28].copy_from_slice(&sum.to_ne_bytes());
        packet
    }
}
