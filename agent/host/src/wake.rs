//! Waking a worker that waits in `ppoll`: an eventfd shared by whoever has a command for it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};

/// A handle that wakes the thread waiting on it; clones wake the same thread.
#[derive(Debug, Clone)]
pub struct Wake(Arc<EventFd>);

impl Wake {
    /// Makes a new one; fails only when the process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(Arc::new(EventFd::from_value_and_flags(0, flags)?)))
    }

    /// Wakes the waiter, now or at its next wait. Never blocks: a full counter already means awake.
    pub fn wake(&self) {
        let _already_awake = self.0.write(1);
    }

    /// Takes back all wakes so far, so that the next wait blocks again.
    pub fn drain(&self) {
        let _was_not_woken = self.0.read();
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
