//! Waiting for a worker's sources at once: TUN, UDP sockets, commands, and a deadline in microseconds.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use wattle_model::Micros;

use crate::{Family, Tun, UdpSockets, Wake};

/// What a worker waits for.
#[derive(Debug)]
pub struct Sources<'a> {
    /// The device, if there is one.
    pub tun: Option<&'a Tun>,
    /// The sockets.
    pub udp: &'a UdpSockets,
    /// Where commands are announced.
    pub wake: &'a Wake,
    /// The socket whose kernel buffer is full, if one is: waited for until it takes something again.
    pub full: Option<Family>,
}

/// Which sources have something to read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ready {
    /// The device has packets.
    pub tun: bool,
    /// The IPv4 socket has datagrams.
    pub udp_v4: bool,
    /// The IPv6 socket has datagrams.
    pub udp_v6: bool,
    /// A command was announced.
    pub wake: bool,
    /// The socket that was full takes something again.
    pub writable: bool,
}

impl Ready {
    /// Whether a socket of the family has datagrams.
    pub fn udp(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.udp_v4,
            Family::V6 => self.udp_v6,
        }
    }
}

/// Waits until a source is ready or `timeout` has passed; `None` waits for ever. A signal ends the wait early.
pub fn wait(sources: &Sources<'_>, timeout: Option<Micros>) -> io::Result<Ready> {
    let wake = sources.wake.as_fd();
    let [v4, v6] = sources.udp.descriptors();
    // A missing source is waited for as the eventfd again and its answer not looked at.
    let mut fds = [
        readable(wake),
        socket(v4.unwrap_or(wake), sources.full == Some(Family::V4)),
        socket(v6.unwrap_or(wake), sources.full == Some(Family::V6)),
        readable(sources.tun.map_or(wake, AsFd::as_fd)),
    ];
    match ppoll(&mut fds, timeout.map(timespec), None) {
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(Ready::default()),
        Err(errno) => return Err(errno.into()),
    }
    let is_ready = |fd: &PollFd<'_>| match fd.revents() {
        Some(events) => events.intersects(!PollFlags::POLLOUT),
        None => true,
    };
    let is_writable = |fd: &PollFd<'_>| {
        let events = fd.revents().unwrap_or(PollFlags::POLLOUT);
        events.intersects(PollFlags::POLLOUT | PollFlags::POLLERR)
    };
    Ok(Ready {
        wake: is_ready(&fds[0]),
        udp_v4: v4.is_some() && is_ready(&fds[1]),
        udp_v6: v6.is_some() && is_ready(&fds[2]),
        tun: sources.tun.is_some() && is_ready(&fds[3]),
        writable: match sources.full {
            Some(Family::V4) => is_writable(&fds[1]),
            Some(Family::V6) => is_writable(&fds[2]),
            None => false,
        },
    })
}

fn socket(fd: BorrowedFd<'_>, is_full: bool) -> PollFd<'_> {
    let events = match is_full {
        true => PollFlags::POLLIN | PollFlags::POLLOUT,
        false => PollFlags::POLLIN,
    };
    PollFd::new(fd, events)
}

fn readable(fd: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::new(fd, PollFlags::POLLIN)
}

fn timespec(span: Micros) -> TimeSpec {
    // A day is as good as for ever and keeps `Instant::NEVER` from overflowing the kernel's seconds.
    const DAY: u64 = 86_400_000_000;
    TimeSpec::from_duration(std::time::Duration::from_micros(span.0.min(DAY)))
}
