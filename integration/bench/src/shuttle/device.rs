//! The TUN device with virtio headers and segmentation offloads. The only unsafe of this program.
#![expect(
    unsafe_code,
    reason = "TUNSETIFF and TUNSETOFFLOAD exist as ioctls only"
)]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

nix::ioctl_write_ptr_bad!(tun_set_interface, libc::TUNSETIFF, libc::ifreq);
nix::ioctl_write_int_bad!(tun_set_offload, libc::TUNSETOFFLOAD);

/// TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6.
const OFFLOAD_TCP: libc::c_int = 0x01 | 0x02 | 0x04;
/// TUN_F_USO4 | TUN_F_USO6, since Linux 6.2.
const OFFLOAD_UDP: libc::c_int = 0x20 | 0x40;

/// A TUN device whose packets carry a virtio header.
pub(crate) struct Tun {
    file: File,
    udp: bool,
}

impl Tun {
    pub(crate) fn open(name: &str) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")?;
        // SAFETY: `ifreq` is plain old data for which all zeroes is a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request
            .ifr_name
            .iter_mut()
            .zip(name.as_bytes().iter().take(libc::IFNAMSIZ - 1))
        {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags =
            i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR).unwrap_or_default();
        // SAFETY: TUNSETIFF reads an `ifreq`, which lives until the call returns.
        unsafe { tun_set_interface(file.as_raw_fd(), &raw const request) }?;
        // SAFETY: TUNSETOFFLOAD takes its flags by value.
        let with_udp = unsafe { tun_set_offload(file.as_raw_fd(), OFFLOAD_TCP | OFFLOAD_UDP) };
        let udp = with_udp.is_ok();
        if !udp {
            // SAFETY: as above.
            unsafe { tun_set_offload(file.as_raw_fd(), OFFLOAD_TCP) }?;
        }
        Ok(Self { file, udp })
    }

    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        let file = self.file.try_clone()?;
        Ok(Self {
            file,
            udp: self.udp,
        })
    }

    /// Tells whether the kernel knows UDP segmentation of TUN devices.
    pub(crate) fn takes_udp_batches(&self) -> bool {
        self.udp
    }

    /// Waits until the kernel has a packet for us.
    pub(crate) fn wait(&self) {
        // A signal only makes the caller read, and wait again.
        let _woken = poll(
            &mut [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)],
            PollTimeout::NONE,
        );
    }
}

impl Read for Tun {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Write for Tun {
    fn write(&mut self, packet: &[u8]) -> io::Result<usize> {
        self.file.write(packet)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
