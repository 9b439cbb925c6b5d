//! Which queue of a multi-queue TUN device a packet goes to: a small program that the kernel runs for each.
//!
//! Left alone, the kernel moves a flow to the queue that last wrote a packet of it, in mid-stream. The program (a socket
//! filter in eBPF, `linux/bpf.h`) hashes addresses, protocol and ports instead, the same for both directions; fragments
//! have no ports, so theirs do not count. One program for each number of queues in use is loaded at the start, and
//! changing between them is one ioctl. Does not know who reads the queues.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// A hash's multiplier: 2^32 divided by the golden ratio.
const GOLDEN: i32 = 0x9e37_79b1_u32 as i32;
const TCP: i32 = 6;
const UDP: i32 = 17;

/// The loaded programs.
#[derive(Debug)]
pub struct Steering(BTreeMap<u32, OwnedFd>);

impl Steering {
    /// Loads a program for each number of queues, all of them powers of two. It takes CAP_BPF where the kernel asks for
    /// it (`kernel.unprivileged_bpf_disabled`).
    ///
    /// # Errors
    /// What the kernel says against it.
    pub fn load(numbers: impl IntoIterator<Item = u32>) -> io::Result<Self> {
        let loaded = numbers.into_iter().map(|queues| {
            let program: Vec<u64> = program(queues).iter().map(Instruction::encode).collect();
            Ok((queues, sys::load(&program)?))
        });
        Ok(Self(loaded.collect::<io::Result<_>>()?))
    }

    /// Spreads packets over the first `queues` queues of the device from here on.
    ///
    /// # Errors
    /// There is no program for so many, or what the kernel says against it.
    pub fn set(&self, tun: &impl AsFd, queues: u32) -> io::Result<()> {
        let program = self.0.get(&queues);
        let program = program.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        sys::steer(tun.as_fd(), program.as_fd())
    }
}

/// One register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Register(u8);

/// What loads leave.
const LOADED: Register = Register(0);
const CONTEXT: Register = Register(1);
/// Where loads look for the packet.
const PACKET: Register = Register(6);
const HASH: Register = Register(7);
const PROTOCOL: Register = Register(8);
/// Where the transport header begins.
const TRANSPORT: Register = Register(9);

/// One instruction (`linux/bpf.h`, `struct bpf_insn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    to: Register,
    from: Register,
    jump: i16,
    value: i32,
}

// Codes are class | source or size | operation.
const LOAD_BYTE: u8 = 0x30;
const LOAD_HALF: u8 = 0x28;
const LOAD_WORD: u8 = 0x20;
const LOAD_HALF_BEHIND: u8 = 0x48;
const SET: u8 = 0xb7;
const COPY: u8 = 0xbf;
const XOR: u8 = 0xaf;
const AND: u8 = 0x57;
const SHIFT_LEFT: u8 = 0x67;
const SHIFT_RIGHT: u8 = 0x77;
const MULTIPLY_32: u8 = 0x24;
const JUMP: u8 = 0x05;
const JUMP_IF: u8 = 0x15;
const JUMP_UNLESS: u8 = 0x55;
const EXIT: u8 = 0x95;

impl Instruction {
    fn encode(&self) -> u64 {
        let registers = match cfg!(target_endian = "big") {
            true => self.to.0 << 4 | self.from.0,
            false => self.from.0 << 4 | self.to.0,
        };
        let [jump, value] = [
            self.jump.to_ne_bytes().to_vec(),
            self.value.to_ne_bytes().to_vec(),
        ];
        let bytes = [vec![self.code, registers], jump, value].concat();
        u64::from_ne_bytes(bytes.try_into().expect("1 + 1 + 2 + 4 bytes"))
    }
}

/// The program that spreads packets over so many queues.
fn program(queues: u32) -> Vec<Instruction> {
    let mut to = Assembler::default();
    to.with(COPY, PACKET, CONTEXT, 0);
    to.set(HASH, 0);
    to.load(LOAD_BYTE, 0);
    to.value(SHIFT_RIGHT, LOADED, 4);
    let to_v6 = to.value(JUMP_IF, LOADED, 6);
    let to_other = to.value(JUMP_UNLESS, LOADED, 4);

    to.mix(LOAD_WORD, 12);
    to.mix(LOAD_WORD, 16);
    to.mix(LOAD_BYTE, 9);
    to.with(COPY, PROTOCOL, LOADED, 0);
    // More fragments, or an offset.
    to.load(LOAD_HALF, 6);
    to.value(AND, LOADED, 0x3fff);
    let is_fragment = to.value(JUMP_UNLESS, LOADED, 0);
    to.load(LOAD_BYTE, 0);
    to.value(AND, LOADED, 15);
    to.value(SHIFT_LEFT, LOADED, 2);
    to.with(COPY, TRANSPORT, LOADED, 0);
    let to_ports = to.value(JUMP, LOADED, 0);

    to.land(to_v6);
    for word in (8..40).step_by(4) {
        to.mix(LOAD_WORD, word);
    }
    // Fragments have a next header of their own.
    to.mix(LOAD_BYTE, 6);
    to.with(COPY, PROTOCOL, LOADED, 0);
    to.set(TRANSPORT, 40);

    to.land(to_ports);
    let is_tcp = to.value(JUMP_IF, PROTOCOL, TCP);
    let has_no_ports = to.value(JUMP_UNLESS, PROTOCOL, UDP);
    to.land(is_tcp);
    for port in [0, 2] {
        to.with(LOAD_HALF_BEHIND, LOADED, TRANSPORT, port);
        to.with(XOR, HASH, LOADED, 0);
    }

    to.land(is_fragment);
    to.land(has_no_ports);
    to.value(MULTIPLY_32, HASH, GOLDEN);
    to.value(SHIFT_RIGHT, HASH, 24);
    to.value(AND, HASH, queues.saturating_sub(1) as i32);
    to.with(COPY, LOADED, HASH, 0);
    to.value(EXIT, LOADED, 0);

    to.land(to_other);
    to.set(LOADED, 0);
    to.value(EXIT, LOADED, 0);
    to.0
}

#[derive(Debug, Default)]
struct Assembler(Vec<Instruction>);

impl Assembler {
    fn with(&mut self, code: u8, to: Register, from: Register, value: i32) -> usize {
        self.0.push(Instruction {
            code,
            to,
            from,
            jump: 0,
            value,
        });
        self.0.len() - 1
    }

    fn value(&mut self, code: u8, to: Register, value: i32) -> usize {
        self.with(code, to, Register(0), value)
    }

    fn set(&mut self, to: Register, value: i32) {
        self.value(SET, to, value);
    }

    fn load(&mut self, code: u8, at: i32) {
        self.value(code, LOADED, at);
    }

    /// Takes something of the packet into the hash.
    fn mix(&mut self, code: u8, at: i32) {
        self.load(code, at);
        self.with(XOR, HASH, LOADED, 0);
    }

    /// The jump at `from` leads to what comes next.
    fn land(&mut self, from: usize) {
        self.0[from].jump = (self.0.len() - from - 1) as i16;
    }
}

/// The system call and the ioctl that no crate here knows.
#[expect(unsafe_code, reason = "bpf(2) and an ioctl")]
mod sys {
    use std::io;
    use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

    use nix::libc;

    const BPF_PROG_LOAD: libc::c_long = 5;
    const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;

    /// The first fields of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes the rest as zero.
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }

    nix::ioctl_read!(tunsetsteeringebpf, b'T', 224, libc::c_int);

    pub(super) fn load(program: &[u64]) -> io::Result<OwnedFd> {
        let load = Load {
            kind: BPF_PROG_TYPE_SOCKET_FILTER,
            count: program.len() as u32,
            instructions: program.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log: 0,
            kernel_version: 0,
            flags: 0,
        };
        // SAFETY: bpf(2) reads `size_of::<Load>()` bytes of the attribute, and the instructions and the string that it
        // points to, during the call, and keeps none of these pointers.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_PROG_LOAD,
                &raw const load,
                size_of::<Load>(),
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call returned a descriptor that nobody else has.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }

    pub(super) fn steer(tun: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut program = program.as_raw_fd();
        // SAFETY: TUNSETSTEERINGEBPF reads one int from the pointer during the call.
        unsafe { tunsetsteeringebpf(tun.as_raw_fd(), &raw mut program) }?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer: an interpreter of the few instructions in use.
    fn run(program: &[Instruction], packet: &[u8]) -> u32 {
        let mut registers = [0_u64; 10];
        let mut at = 0;
        loop {
            let Instruction {
                code,
                to,
                from,
                jump,
                value,
            } = program[at];
            let (source, target) = (registers[from.0 as usize], registers[to.0 as usize]);
            let load = |place: usize, bytes: usize| {
                let bytes = packet.get(place..place + bytes)?;
                Some(
                    bytes
                        .iter()
                        .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
                )
            };
            let place = value as usize;
            let result = match code {
                LOAD_BYTE => load(place, 1),
                LOAD_HALF => load(place, 2),
                LOAD_WORD => load(place, 4),
                LOAD_HALF_BEHIND => load(source as usize + place, 2),
                SET => Some(value as u64),
                COPY => Some(source),
                XOR => Some(target ^ source),
                AND => Some(target & value as u64),
                SHIFT_LEFT => Some(target << value),
                SHIFT_RIGHT => Some(target >> value),
                MULTIPLY_32 => Some(u64::from((target as u32).wrapping_mul(value as u32))),
                EXIT => return target as u32,
                _ => {
                    let jumps = match code {
                        JUMP => true,
                        JUMP_IF => target == value as u64,
                        JUMP_UNLESS => target != value as u64,
                        other => panic!("{other:#x}"),
                    };
                    at += if jumps { jump as usize } else { 0 };
                    Some(target)
                }
            };
            // A load beyond the packet ends the program with 0.
            let Some(result) = result else { return 0 };
            registers[to.0 as usize] = result;
            at += 1;
        }
    }

    fn v4(from: [u8; 4], to: [u8; 4], protocol: u8, fragment: u16, ports: [u16; 2]) -> Vec<u8> {
        let mut packet = vec![0; 20];
        packet[0] = 0x45;
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet[9] = protocol;
        packet[12..16].copy_from_slice(&from);
        packet[16..20].copy_from_slice(&to);
        packet.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
        packet
    }

    fn v6(from: u8, to: u8, ports: [u16; 2]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[6] = 17;
        (packet[23], packet[39]) = (from, to);
        packet.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
        packet
    }

    const A: [u8; 4] = [10, 77, 0, 1];
    const B: [u8; 4] = [10, 77, 0, 2];

    #[test]
    fn both_directions_of_a_flow_have_one_queue_and_flows_spread() {
        for queues in [2, 4, 8] {
            let program = program(queues);
            let mut counts = vec![0; queues as usize];
            for port in 0..2_000 {
                for (there, back) in [
                    (
                        v4(A, B, 6, 0x4000, [port, 443]),
                        v4(B, A, 6, 0x4000, [443, port]),
                    ),
                    (v6(1, 2, [port, 53]), v6(2, 1, [53, port])),
                ] {
                    let queue = run(&program, &there);
                    assert_eq!(queue, run(&program, &back));
                    counts[queue as usize] += 1;
                }
            }
            let fair = 4_000 / queues;
            let range = fair * 3 / 4..fair * 5 / 4;
            assert!(
                counts.iter().all(|count| range.contains(count)),
                "{counts:?}"
            );
        }
    }

    #[test]
    fn fragments_of_a_packet_stay_together() {
        let program = program(8);
        let first = run(&program, &v4(A, B, 17, 0x2000, [1, 2]));
        for ports in 0..64 {
            let later = v4(A, B, 17, 0x00b9, [ports, 77]);
            assert_eq!(run(&program, &later), first);
        }
    }

    #[test]
    fn one_queue_and_what_is_no_packet_is_the_first_queue() {
        let one = program(1);
        assert!((0..99).all(|port| run(&one, &v4(A, B, 6, 0, [port, 1])) == 0));
        let eight = program(8);
        for length in 0..22 {
            assert_eq!(run(&eight, &v4(A, B, 6, 0, [7, 1])[..length]), 0);
        }
        assert_eq!(run(&eight, &[0x15; 60]), 0);
    }
}
