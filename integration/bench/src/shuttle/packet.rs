//! IPv4 arithmetic: checksums, and a super-packet cut into the segments that its virtio header asks for.

use crate::burst::Burst;
use crate::sum::{add, fold};

/// Length of the virtio header in front of each packet of the TUN device.
pub(crate) const VNET: usize = 10;
/// Longest packet of the TUN device, or of one receive.
pub(crate) const LARGEST: usize = 65_536;
/// Shortest IPv4 packet.
pub(crate) const SHORTEST: usize = 20;

const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
/// A virtio header's kinds of batches: TCP segments, UDP datagrams of one size.
pub(crate) const GSO_TCP4: u8 = 1;
pub(crate) const GSO_UDP: u8 = 5;
const GSO_ECN: u8 = 0x80;
const FIN_AND_PSH: u8 = 0x09;
const CWR: u8 = 0x80;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
/// IPv4 and UDP headers without options.
#[cfg(test)]
pub(crate) const HEADER_SIZES: usize = 28;

/// Cuts one packet of the device into datagrams of the burst.
pub(crate) fn cut(buffer: &mut [u8], burst: &mut Burst) {
    if buffer.len() < VNET + SHORTEST || buffer[VNET] >> 4 != 4 {
        return;
    }
    let (vnet, packet) = buffer.split_at_mut(VNET);
    let kind = vnet[1] & !GSO_ECN;
    let header = usize::from(packet[0] & 15) * 4;
    if kind == GSO_NONE {
        if vnet[0] & NEEDS_CHECKSUM != 0 {
            write_checksum(
                packet,
                header,
                usize::from(u16::from_ne_bytes([vnet[8], vnet[9]])),
            );
        }
        burst.push(packet, &[]);
        return;
    }
    let size = usize::from(u16::from_ne_bytes([vnet[4], vnet[5]]));
    segments(packet, header, size, kind == GSO_TCP4, burst);
}

fn segments(packet: &mut [u8], ip: usize, size: usize, tcp: bool, burst: &mut Burst) {
    let transport = if tcp {
        usize::from(packet[ip + 12] >> 4) * 4
    } else {
        8
    };
    let mut head = packet[..ip + transport].to_vec();
    let whole = packet.len();
    let sequence = u32::from_be_bytes([head[ip + 4], head[ip + 5], head[ip + 6], head[ip + 7]]);
    let id = u16::from_be_bytes([head[4], head[5]]);
    let flags = if tcp { head[ip + 13] } else { 0 };
    for (number, payload) in packet[head.len()..].chunks(size).enumerate() {
        let offset = number * size;
        let last = head.len() + offset + payload.len() == whole;
        let length = head.len() + payload.len();
        head[2..4].copy_from_slice(&word(length));
        head[4..6].copy_from_slice(&id.wrapping_add(number as u16).to_be_bytes());
        write_header_checksum(&mut head, ip);
        if tcp {
            head[ip + 4..ip + 8]
                .copy_from_slice(&sequence.wrapping_add(offset as u32).to_be_bytes());
            head[ip + 13] = flags
                & if last { 0xff } else { !FIN_AND_PSH }
                & if number == 0 { 0xff } else { !CWR };
        } else {
            head[ip + 4..ip + 6].copy_from_slice(&word(8 + payload.len()));
        }
        let field = ip + if tcp { 16 } else { 6 };
        head[field..field + 2].fill(0);
        let sum = add(payload, add(&head[ip..], pseudo_header(&head, length - ip)));
        head[field..field + 2].copy_from_slice(&(!fold(sum)).to_ne_bytes());
        burst.push(&head, payload);
    }
}

fn write_checksum(packet: &mut [u8], ip: usize, offset: usize) {
    if packet.len() < ip + offset + 2 {
        return;
    }
    packet[ip + offset..ip + offset + 2].fill(0);
    let sum = !fold(add(&packet[ip..], pseudo_header(packet, packet.len() - ip)));
    packet[ip + offset..ip + offset + 2].copy_from_slice(&sum.to_ne_bytes());
}

/// Writes the checksum of the IPv4 header.
pub(crate) fn write_header_checksum(packet: &mut [u8], ip: usize) {
    packet[10..12].fill(0);
    let sum = !fold(add(&packet[..ip], 0));
    packet[10..12].copy_from_slice(&sum.to_ne_bytes());
}

/// Sums the pseudo header of a TCP or UDP packet of `length` bytes.
pub(crate) fn pseudo_header(packet: &[u8], length: usize) -> u64 {
    let [high, low] = word(length);
    add(&[0, packet[9], high, low], add(&packet[12..20], 0))
}

/// Writes a length as the wire has it; no packet here is longer than 65535.
pub(crate) fn word(length: usize) -> [u8; 2] {
    (length as u16).to_be_bytes()
}
