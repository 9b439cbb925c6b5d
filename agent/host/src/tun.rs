//! The TUN device: opened with the offloads the kernel has, read and written in super-packets.
//!
//! Offloads are asked for from the most to the least (USO, TSO, checksum, none) and then tried out, since some
//! kernels accept the ioctl and refuse the packets (torvalds e269d79c, repaired in 89add40). Does not know what
//! packets mean.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::uio::{readv, writev};
use tun::AbstractDevice;
use wattle_dataplane::vnet::{Gso, NEEDS_CSUM, VNET_HEADER_LENGTH};
use wattle_dataplane::{Coalescing, TunBatch, VnetHeader};

// linux/if_tun.h
const TUN_F_CSUM: libc::c_uint = 0x01;
const TUN_F_TSO: libc::c_uint = 0x02 | 0x04;
const TUN_F_USO: libc::c_uint = 0x20 | 0x40;

/// What the kernel and the agent may hand each other over the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offload {
    /// Ordinary packets without a header.
    None,
    /// A virtio-net header, ordinary packets.
    Header,
    /// TCP super-packets.
    Tcp,
    /// TCP and UDP super-packets (Linux 6.2 and later).
    TcpUdp,
}

impl Offload {
    fn features(self) -> libc::c_uint {
        match self {
            Self::None | Self::Header => 0,
            Self::Tcp => TUN_F_CSUM | TUN_F_TSO,
            Self::TcpUdp => TUN_F_CSUM | TUN_F_TSO | TUN_F_USO,
        }
    }
}

/// How many queues a device may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queues {
    /// One.
    One,
    /// Several: [`Tun::another_queue`] opens them.
    Several,
}

/// Why the device could not be had.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The driver is not there.
    #[error(
        "/dev/net/tun is missing: load the driver with `modprobe tun`; in a container, pass the device in (`--device /dev/net/tun`)"
    )]
    NoDriver,
    /// The process may not make devices.
    #[error(
        "not permitted to make the TUN device {0}: run as root, or give the agent CAP_NET_ADMIN and access to /dev/net/tun"
    )]
    Privilege(String),
    /// Another process holds a device of that name.
    #[error(
        "the TUN device {0} is in use by another process, perhaps another wattled: stop it, or choose another name with `interface = \"…\"` or --interface"
    )]
    InUse(String),
    /// The name belongs to an interface that is no TUN device.
    #[error(
        "there is an interface {0} already and it is not a TUN device: choose another name with `interface = \"…\"` or --interface"
    )]
    NotTun(String),
    /// The kernel takes no such name.
    #[error("`{0}` is no name for an interface: 1 to 15 characters, no `/`, no space")]
    Name(String),
    /// Anything else.
    #[error("cannot {what} TUN device {name}: {source}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// The device.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// What happened at the device so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TunCounters {
    /// Packets read; a super-packet counts once.
    pub read_packets: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Packets written; a super-packet counts once.
    pub written_packets: u64,
    /// Packets written; the parts of a super-packet count one by one.
    pub written_parts: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Dropped since the kernel's queue was full; parts one by one.
    pub drop_queue_full: u64,
    /// Dropped since the kernel refused the packet or the device was down; parts one by one.
    pub drop_refused: u64,
    /// Reads with a header that was never asked for.
    pub drop_bad_header: u64,
}

impl TunCounters {
    /// Adds the counters of another worker's.
    pub fn add(&mut self, other: &Self) {
        let Self {
            read_packets,
            read_bytes,
            written_packets,
            written_parts,
            written_bytes,
            drop_queue_full,
            drop_refused,
            drop_bad_header,
        } = other;
        for (own, other) in [
            (&mut self.read_packets, read_packets),
            (&mut self.read_bytes, read_bytes),
            (&mut self.written_packets, written_packets),
            (&mut self.written_parts, written_parts),
            (&mut self.written_bytes, written_bytes),
            (&mut self.drop_queue_full, drop_queue_full),
            (&mut self.drop_refused, drop_refused),
            (&mut self.drop_bad_header, drop_bad_header),
        ] {
            *own += other;
        }
    }
}

/// An open TUN device. It disappears, with its addresses and routes, when this is dropped or the process dies.
pub struct Tun {
    device: tun::Device,
    name: String,
    index: u32,
    offload: Offload,
    counters: TunCounters,
}

impl std::fmt::Debug for Tun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tun")
            .field("name", &self.name)
            .field("index", &self.index)
            .field("offload", &self.offload)
            .finish_non_exhaustive()
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        #[expect(unsafe_code, reason = "the tun crate gives its descriptor as a number")]
        // SAFETY: the device owns the descriptor and closes it when dropped; the borrow cannot outlive `self`.
        let fd = unsafe { BorrowedFd::borrow_raw(self.device.as_raw_fd()) };
        fd
    }
}

impl Tun {
    /// Creates the device with at most the given offload. It is down and without addresses:
    /// [`Netlink::bring_up`](crate::Netlink::bring_up) and [`Installed`](crate::Installed) do the rest.
    pub fn open(name: &str, at_most: Offload, queues: Queues) -> Result<Self, TunError> {
        if name.is_empty() || name.len() > 15 || name.contains(['/', ' ', '%']) {
            return Err(TunError::Name(name.to_owned()));
        }
        let with_header = at_most > Offload::None;
        let mut tun = match Self::create(name, with_header, queues) {
            // A kernel too old for the header; the name and privilege would fail again the same way.
            Err(TunError::NotTun(_)) if with_header => Self::create(name, false, queues)?,
            other => other?,
        };
        tun.device
            .set_nonblock()
            .map_err(kernel("set non-blocking", name))?;
        if tun.offload > Offload::None {
            tun.negotiate(at_most)?;
        }
        Ok(tun)
    }

    fn create(name: &str, with_header: bool, queues: Queues) -> Result<Self, TunError> {
        let mut config = tun::Configuration::default();
        if queues == Queues::Several {
            let fd = sys::open_queue(name, with_header)
                .map_err(|source| explain(tun::Error::Io(source), name))?;
            config.raw_fd(fd.into_raw_fd());
        }
        config.tun_name(name).platform_config(|platform| {
            // Addresses and state are set by netlink, not by the ioctls of this crate.
            platform.ensure_root_privileges(false).vnet_hdr(with_header);
        });
        let device = tun::create(&config).map_err(|error| explain(error, name))?;
        let index = device.tun_index().map_err(|error| explain(error, name))?;
        let offload = if with_header {
            Offload::Header
        } else {
            Offload::None
        };
        Ok(Self {
            device,
            name: name.to_owned(),
            index: index.unsigned_abs(),
            offload,
            counters: TunCounters::default(),
        })
    }

    /// Another queue of the device, which was opened for several, with the same offloads and counters of its own.
    pub fn another_queue(&self) -> Result<Self, TunError> {
        let with_header = self.offload > Offload::None;
        let mut queue = Self::create(&self.name, with_header, Queues::Several)?;
        queue
            .device
            .set_nonblock()
            .map_err(kernel("set non-blocking", &self.name))?;
        queue.offload = self.offload;
        Ok(queue)
    }

    /// Takes the best offload that the kernel both grants and, tried out, carries.
    fn negotiate(&mut self, at_most: Offload) -> Result<(), TunError> {
        sys::set_vnet_header_length(self.as_fd(), VNET_HEADER_LENGTH)
            .map_err(kernel("set the header length of", &self.name))?;
        for offload in [Offload::TcpUdp, Offload::Tcp] {
            if offload <= at_most
                && sys::set_offload(self.as_fd(), offload.features()).is_ok()
                && self.carries_super_packets()
            {
                self.offload = offload;
                return Ok(());
            }
        }
        sys::set_offload(self.as_fd(), 0).map_err(kernel("switch off offloads of", &self.name))
    }

    /// Writes a joined TCP packet while the device is down: the kernel looks at the header first (EINVAL if it will
    /// not have it) and at the state of the device after (EIO), so nothing ever reaches the network stack.
    fn carries_super_packets(&self) -> bool {
        let (header, packet) = self_test_packet();
        let parts = [IoSlice::new(&header), IoSlice::new(&packet)];
        matches!(writev(self.as_fd(), &parts), Ok(_) | Err(Errno::EIO))
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The device's interface index.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// What was negotiated.
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// How packets for this device are to be prepared.
    pub fn coalescing(&self) -> Coalescing {
        match self.offload {
            Offload::TcpUdp => Coalescing::WithUdp,
            Offload::Tcp => Coalescing::On,
            Offload::Header | Offload::None => Coalescing::Off,
        }
    }

    /// What happened so far.
    pub fn counters(&self) -> TunCounters {
        self.counters
    }

    /// Reads the next packet into `buffer` (64 KiB hold any); `None` when there is none. What cannot be read is
    /// counted and passed over, so an `Err` means that the device is gone.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<(VnetHeader, usize)>> {
        loop {
            let mut header = [0; VNET_HEADER_LENGTH];
            let result = if self.offload == Offload::None {
                readv(self.as_fd(), &mut [IoSliceMut::new(buffer)]).map(|n| n + VNET_HEADER_LENGTH)
            } else {
                readv(
                    self.as_fd(),
                    &mut [IoSliceMut::new(&mut header), IoSliceMut::new(buffer)],
                )
            };
            let length = match result {
                Ok(length) => length.saturating_sub(VNET_HEADER_LENGTH),
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let Some(header) = VnetHeader::from_bytes(&header).filter(|_| length > 0) else {
                self.counters.drop_bad_header += 1;
                continue;
            };
            self.counters.read_packets += 1;
            self.counters.read_bytes += length as u64;
            return Ok(Some((header, length)));
        }
    }

    /// Writes and clears the batch. What the kernel will not take is dropped and counted.
    pub fn write(&mut self, batch: &mut TunBatch) {
        let skip = if self.offload == Offload::None {
            VNET_HEADER_LENGTH
        } else {
            0
        };
        for packet in batch.packets() {
            let parts = parts(packet);
            let packet = &packet[skip..];
            match write_whole(self.as_fd(), packet) {
                Ok(length) => {
                    self.counters.written_packets += 1;
                    self.counters.written_parts += parts;
                    self.counters.written_bytes += length as u64;
                }
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => {
                    self.counters.drop_queue_full += parts;
                }
                Err(_) => self.counters.drop_refused += parts,
            }
        }
        batch.clear();
    }
}

/// How many packets one behind its header stands for.
fn parts(bytes: &[u8]) -> u64 {
    let header = bytes.first_chunk().and_then(VnetHeader::from_bytes);
    match header {
        Some(header) if header.gso != Gso::None && header.gso_size > 0 => {
            let headers = VNET_HEADER_LENGTH + usize::from(header.hdr_len);
            let payload = bytes.len().saturating_sub(headers);
            payload.div_ceil(header.gso_size.into()) as u64
        }
        _ => 1,
    }
}

fn write_whole(fd: BorrowedFd<'_>, packet: &[u8]) -> nix::Result<usize> {
    loop {
        match nix::unistd::write(fd, packet) {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// Two joined segments of a TCP flow between addresses for benchmarks (RFC 2544), which nobody routes.
fn self_test_packet() -> ([u8; VNET_HEADER_LENGTH], [u8; 140]) {
    let header = VnetHeader {
        flags: NEEDS_CSUM,
        gso: Gso::TcpV4,
        hdr_len: 40,
        gso_size: 50,
        csum_start: 20,
        csum_offset: 16,
    };
    let mut packet = [0; 140];
    packet[0] = 0x45;
    packet[3] = 140;
    packet[8..10].copy_from_slice(&[64, 6]);
    packet[12..16].copy_from_slice(&[198, 18, 0, 1]);
    packet[16..20].copy_from_slice(&[198, 18, 0, 2]);
    packet[32..34].copy_from_slice(&[0x50, 0x10]);
    (header.to_bytes(), packet)
}

fn explain(error: tun::Error, name: &str) -> TunError {
    let source = match error {
        tun::Error::Io(source) => source,
        other => io::Error::other(other.to_string()),
    };
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TunError::NoDriver,
        Some(libc::EPERM | libc::EACCES) => TunError::Privilege(name.to_owned()),
        Some(libc::EBUSY) => TunError::InUse(name.to_owned()),
        Some(libc::EINVAL) => TunError::NotTun(name.to_owned()),
        _ => TunError::Kernel {
            what: "open",
            name: name.to_owned(),
            source,
        },
    }
}

fn kernel(what: &'static str, name: &str) -> impl FnOnce(io::Error) -> TunError {
    let name = name.to_owned();
    move |source| TunError::Kernel { what, name, source }
}

/// The ioctls of linux/if_tun.h that the `tun` crate does not know, or knows for one queue only.
#[expect(unsafe_code, reason = "ioctls")]
mod sys {
    use std::os::fd::OwnedFd;

    use super::{AsRawFd, BorrowedFd, io, libc};

    nix::ioctl_write_ptr!(tunsetiff, b'T', 202, libc::c_int);

    nix::ioctl_write_ptr!(tunsetvnethdrsz, b'T', 216, libc::c_int);
    nix::ioctl_write_int_bad!(
        tunsetoffload,
        nix::request_code_write!(b'T', 208, size_of::<libc::c_uint>())
    );

    /// Opens one queue of a device that may have several; the first makes the device.
    pub(super) fn open_queue(name: &str, with_header: bool) -> io::Result<OwnedFd> {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")?;
        let header = if with_header { libc::IFF_VNET_HDR } else { 0 };
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE | header;
        // SAFETY: all fields of `ifreq` are integers or arrays and unions of them, for which zero is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // One byte less than there are, so that a zero ends the name.
        let places = libc::IFNAMSIZ - 1;
        for (place, byte) in request.ifr_name[..places].iter_mut().zip(name.bytes()) {
            *place = byte as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes one `ifreq` at the pointer during the call, which `request` is.
        unsafe { tunsetiff(file.as_raw_fd(), (&raw mut request).cast()) }?;
        Ok(file.into())
    }

    pub(super) fn set_vnet_header_length(fd: BorrowedFd<'_>, length: usize) -> io::Result<()> {
        let length = length as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads one int from the pointer during the call.
        unsafe { tunsetvnethdrsz(fd.as_raw_fd(), &raw const length) }?;
        Ok(())
    }

    pub(super) fn set_offload(fd: BorrowedFd<'_>, features: libc::c_uint) -> io::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of ours.
        unsafe { tunsetoffload(fd.as_raw_fd(), features as libc::c_int) }?;
        Ok(())
    }
}
