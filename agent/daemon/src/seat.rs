//! One data thread's place among several: whether it reads its queue of the device, what it hands over, how busy it is.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;
use wattle_model::Instant;
use wattle_worker::{Passed, Worker};

use crate::crew::Load;
use crate::exchange::Place;

/// Packets that the kernel's queue of a device holds at most (`TUN_READQ_SIZE`, `linux/drivers/net/tun.c`), unless somebody
/// made it longer: whoever read so many has read all that was there.
const DEVICE_QUEUE: usize = 500;

/// The place.
#[derive(Debug)]
pub(crate) struct Seat {
    place: Place,
    load: Arc<Load>,
    reads_device: bool,
    busy_since: Instant,
    settle: Option<Settle>,
}

#[derive(Debug)]
struct Settle {
    done: oneshot::Sender<()>,
    left: usize,
    is_asked: bool,
}

/// How far the thread is with settling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settling {
    /// Nobody wants it to.
    No,
    /// There are packets in the queue of the device.
    Emptying,
    /// There are none that were there when it began.
    Emptied,
    /// It waits for what was sent to arrive.
    Asked,
}

impl Seat {
    /// The first worker's place reads the device, the others do not yet.
    pub(crate) fn new(place: Place, load: Arc<Load>, reads_device: bool) -> Self {
        Self {
            place,
            load,
            reads_device,
            busy_since: Instant(u64::MAX),
            settle: None,
        }
    }

    /// Whether packets of the device are read.
    pub(crate) fn reads_device(&self) -> bool {
        self.reads_device
    }

    /// They are not any longer.
    pub(crate) fn pause(&mut self) {
        self.reads_device = false;
    }

    /// They are.
    pub(crate) fn go_on_reading(&mut self) {
        self.reads_device = true;
    }

    /// The thread has nothing to do.
    pub(crate) fn rests(&mut self, now: Instant) {
        let busy = now.since(self.busy_since);
        self.load.busy_us.fetch_add(busy.0, Ordering::Relaxed);
    }

    /// It has something to do again.
    pub(crate) fn works(&mut self, now: Instant) {
        self.busy_since = now;
    }

    /// A packet of the device was read.
    pub(crate) fn read(&mut self) {
        self.load.read_packets.fetch_add(1, Ordering::Relaxed);
        if let Some(settle) = &mut self.settle {
            settle.left = settle.left.saturating_sub(1);
        }
    }

    /// There is none left.
    pub(crate) fn emptied(&mut self) {
        if let Some(settle) = &mut self.settle {
            settle.left = 0;
        }
    }

    /// Begins to settle.
    pub(crate) fn settle(&mut self, done: oneshot::Sender<()>) {
        self.settle = Some(Settle {
            done,
            left: DEVICE_QUEUE,
            is_asked: false,
        });
    }

    /// How far it is.
    pub(crate) fn settling(&self) -> Settling {
        match &self.settle {
            // Whoever waited has given up.
            Some(settle) if settle.done.is_closed() => Settling::No,
            None => Settling::No,
            Some(settle) if settle.left > 0 => Settling::Emptying,
            Some(settle) if settle.is_asked => Settling::Asked,
            Some(_) => Settling::Emptied,
        }
    }

    /// Lanes were asked whether all has arrived.
    pub(crate) fn asked(&mut self) {
        if let Some(settle) = &mut self.settle {
            settle.is_asked = true;
        }
    }

    /// All has arrived.
    pub(crate) fn settled(&mut self) {
        if self.settling() == Settling::Asked
            && let Some(settle) = self.settle.take()
        {
            // Whoever asked may be gone.
            let _gone = settle.done.send(());
        }
    }

    /// Takes what another worker put in.
    pub(crate) fn take(&self) -> Option<Passed> {
        self.place.take()
    }

    /// Puts in for others what the worker has for them.
    pub(crate) fn hand_over(&mut self, worker: &mut Worker) {
        while let Some((to, passed)) = worker.poll_passed() {
            if let Err(passed) = self.place.put(to, passed) {
                worker.refused(&passed);
            }
        }
        self.place.ring();
    }
}
