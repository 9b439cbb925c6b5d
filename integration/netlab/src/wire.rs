//! A wire with delay, jitter, loss and rate, made of two TAP devices and a thread that carries frames between them.
//!
//! netem is missing in many test kernels, and a wire without offload is also what a real underlay is: every frame is
//! a real one of at most the MTU.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;

use crate::Host;

/// Frames in flight per direction before the tail is dropped.
const QUEUE: usize = 10_000;

/// How a wire behaves, both ways.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Time that every frame takes.
    pub delay: Duration,
    /// Up to this much more, evenly distributed; frames may overtake each other.
    pub jitter: Duration,
    /// Chance in percent that a frame is lost.
    pub loss_percent: f64,
    /// Chance in percent that a frame comes twice, as from somebody who replays what he heard.
    pub duplicate_percent: f64,
    /// Chance in percent that a byte of a UDP payload over IPv4 is another, unnoticed by checksums, as from somebody
    /// who forges.
    pub forge_percent: f64,
    /// Rate in Mbit/s; `None` is without limit.
    pub mbit: Option<u32>,
}

impl Shape {
    /// A wire on which everything takes so long and nothing is lost.
    pub fn delay(delay: Duration) -> Self {
        Self {
            delay,
            jitter: Duration::ZERO,
            loss_percent: 0.0,
            duplicate_percent: 0.0,
            forge_percent: 0.0,
            mbit: None,
        }
    }
}

/// Which way along the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the first host to the second.
    Forth = 0,
    /// From the second to the first.
    Back = 1,
}

/// A running wire.
#[derive(Debug)]
pub(crate) struct Wire {
    control: Arc<Mutex<Control>>,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Clone, Copy)]
struct Control {
    shape: Shape,
    /// Loss on top of the shape's, per direction.
    loss_percent: [f64; 2],
}

impl Wire {
    pub(crate) fn new(hosts: [&Host; 2], interfaces: [&str; 2], shape: Shape) -> Result<Self> {
        let taps = [tap(hosts[0], interfaces[0])?, tap(hosts[1], interfaces[1])?];
        let control = Arc::new(Mutex::new(Control {
            shape,
            loss_percent: [0.0; 2],
        }));
        let stop = Arc::new(EventFd::new()?);
        let carrier = Carrier {
            taps,
            control: Arc::clone(&control),
            stop: Arc::clone(&stop),
            flight: BinaryHeap::new(),
            free_at: [Instant::now(); 2],
            in_flight: [0; 2],
            sequence: 0,
            random: 0x9e37_79b9_7f4a_7c15,
        };
        let thread = std::thread::Builder::new()
            .name("wire".into())
            .spawn(move || carrier.run())?;
        Ok(Self {
            control,
            stop,
            thread: Some(thread),
        })
    }

    pub(crate) fn reshape(&self, shape: Shape) {
        self.control
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .shape = shape;
    }

    pub(crate) fn lose(&self, direction: Direction, percent: f64) {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        control.loss_percent[direction as usize] = percent;
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _woken = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn tap(host: &Host, interface: &str) -> Result<tun::Device> {
    host.inside(|| {
        let mut config = tun::Configuration::default();
        config.tun_name(interface).layer(tun::Layer::L2);
        config.platform_config(|platform| {
            platform.ensure_root_privileges(false);
        });
        let tap = tun::create(&config).with_context(|| format!("making TAP device {interface}"))?;
        tap.set_nonblock()?;
        Ok(tap)
    })
}

/// A frame under way; ordered by when it is due, then by when it came.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    due: Instant,
    sequence: u64,
    direction: usize,
    frame: Vec<u8>,
}

struct Carrier {
    taps: [tun::Device; 2],
    control: Arc<Mutex<Control>>,
    stop: Arc<EventFd>,
    flight: BinaryHeap<Reverse<Flight>>,
    free_at: [Instant; 2],
    in_flight: [usize; 2],
    sequence: u64,
    random: u64,
}

impl Carrier {
    fn run(mut self) {
        let mut buffer = vec![0; 65_536];
        while self.wait() {
            let control = *self.control.lock().unwrap_or_else(PoisonError::into_inner);
            for direction in 0..2 {
                // A bounded number, so that frames which are due are not held up by those that come.
                for _ in 0..64 {
                    let Ok(length) = self.taps[direction].read(&mut buffer) else {
                        break;
                    };
                    self.accept(direction, &buffer[..length], &control);
                }
            }
            self.deliver();
        }
    }

    /// Waits for frames or until the next one is due; whether to go on.
    fn wait(&self) -> bool {
        let next = self.flight.peek().map(|Reverse(flight)| flight.due);
        let timeout =
            next.map(|due| TimeSpec::from_duration(due.saturating_duration_since(Instant::now())));
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = [
            readable(borrow(&self.taps[0])),
            readable(borrow(&self.taps[1])),
            readable(as_fd(&self.stop)),
        ];
        let _interrupted = ppoll(&mut fds, timeout, None);
        !fds[2].any().unwrap_or(false)
    }

    fn accept(&mut self, direction: usize, frame: &[u8], control: &Control) {
        let Shape {
            delay,
            jitter,
            loss_percent,
            duplicate_percent,
            forge_percent,
            mbit,
        } = control.shape;
        let lost = [loss_percent, control.loss_percent[direction]];
        if lost
            .into_iter()
            .any(|percent| self.chance() * 100.0 < percent)
            || self.in_flight[direction] >= QUEUE
        {
            return;
        }
        let now = Instant::now();
        let sent = match mbit {
            None => now,
            Some(mbit) => {
                let start = self.free_at[direction].max(now);
                if start - now > Duration::from_millis(50) {
                    return; // the queue of the slow end holds 50 ms
                }
                self.free_at[direction] =
                    start + Duration::from_nanos(frame.len() as u64 * 8_000 / u64::from(mbit));
                self.free_at[direction]
            }
        };
        let mut frame = frame.to_vec();
        if self.chance() * 100.0 < forge_percent {
            forge(&mut frame, self.random as usize);
        }
        let copies = 1 + usize::from(self.chance() * 100.0 < duplicate_percent);
        for _ in 0..copies {
            let due = sent + delay + jitter.mul_f64(self.chance());
            self.sequence += 1;
            self.in_flight[direction] += 1;
            let frame = frame.clone();
            self.flight.push(Reverse(Flight {
                due,
                sequence: self.sequence,
                direction,
                frame,
            }));
        }
    }

    fn deliver(&mut self) {
        let now = Instant::now();
        while self
            .flight
            .peek()
            .is_some_and(|Reverse(flight)| flight.due <= now)
        {
            let Some(Reverse(flight)) = self.flight.pop() else {
                return;
            };
            self.in_flight[flight.direction] -= 1;
            // An interface that is down takes nothing, as a cable that is not plugged in.
            let _taken = self.taps[1 - flight.direction].write(&flight.frame);
        }
    }

    /// A number from 0 to 1 (xorshift64*: repeatable, good enough to lose frames by).
    fn chance(&mut self) -> f64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Changes a byte of the UDP payload and takes the checksum away, which IPv4 allows. Other frames stay as they are.
fn forge(frame: &mut [u8], random: usize) {
    const PAYLOAD: usize = 14 + 20 + 8;
    let is_udp = frame.len() > PAYLOAD && frame[12..15] == [0x08, 0x00, 0x45] && frame[23] == 17;
    if is_udp {
        frame[40..42].fill(0);
        let at = PAYLOAD + random % (frame.len() - PAYLOAD);
        frame[at] ^= 1 << (random % 8);
    }
}

#[expect(unsafe_code, reason = "the tun crate gives its descriptor as a number")]
fn borrow(tap: &tun::Device) -> BorrowedFd<'_> {
    // SAFETY: the device owns the descriptor and closes it when dropped; the borrow cannot outlive it.
    unsafe { BorrowedFd::borrow_raw(tap.as_raw_fd()) }
}

fn as_fd(event: &EventFd) -> BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(event)
}
