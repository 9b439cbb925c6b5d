//! The data threads and what the kernel gives them: queues of the device, sockets, the program that spreads packets.
//!
//! Where packets cannot be spread there is one thread, which is said once in the log and, for as long as it lasts, by the
//! health lines of `wattle status`.

use std::io;
use std::thread::JoinHandle;

use tokio::sync::mpsc;
use wattle_host::{MARK, Queues, Steering, Tun, UdpError, UdpOptions, UdpSockets, Wake};
use wattle_quic::Pipe;
use wattle_worker::{Event, Place, Worker};

use crate::config::Config;
use crate::crew::Crew;
use crate::data_thread::DataThread;
use crate::exchange;
use crate::offloads::Offloads;
use crate::seat::Seat;
use crate::startup::StartError;
use crate::worker_handle::WorkerHandle;
use crate::workers::Workers;

/// What the kernel gave.
pub(crate) struct Belongings {
    tuns: Vec<Tun>,
    sockets: Vec<UdpSockets>,
    steering: Option<Steering>,
    /// Why there is one thread although more were to be.
    pub(crate) trouble: Option<String>,
}

impl Belongings {
    /// Opens the device and the sockets for as many workers as the configuration says and the kernel allows.
    pub(crate) fn open(config: &Config) -> Result<Self, StartError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let wanted = config.workers.number(cores);
        let (steering, trouble) = match wanted {
            1 => (None, None),
            more => spread_over(more as u32),
        };
        let workers = if steering.is_some() { wanted } else { 1 };
        let allowed = Offloads::without(&config.offloads_off);
        let queues = match workers {
            1 => Queues::One,
            _ => Queues::Several,
        };
        let tun = Tun::open(&config.interface, allowed.tun, queues)?;
        let mut belongings = Self {
            sockets: vec![UdpSockets::bind(options(allowed, config.listen_port))?],
            tuns: vec![tun],
            steering,
            trouble,
        };
        if let Some(steering) = &belongings.steering
            && let Err(error) = steering.set(&belongings.tuns[0], 1)
        {
            belongings.steering = None;
            belongings.trouble = Some(in_words(&error));
        }
        if belongings.steering.is_some() {
            for worker in 1..workers {
                belongings.open_further(config, allowed, worker)?;
            }
        }
        if let Some(trouble) = &belongings.trouble {
            match config.workers {
                Workers::Number(_) => tracing::warn!("{trouble}"),
                // Nobody asked for a number: this is no trouble.
                Workers::Auto => {
                    tracing::info!("{trouble}");
                    belongings.trouble = None;
                }
            }
        }
        Ok(belongings)
    }

    fn open_further(
        &mut self,
        config: &Config,
        allowed: Offloads,
        worker: usize,
    ) -> Result<(), StartError> {
        let beside = match self.listen_port().checked_add(worker as u16) {
            Some(port) if config.listen_port != 0 => port,
            _ => 0,
        };
        // Peers are told which one it is.
        let sockets = match UdpSockets::bind(options(allowed, beside)) {
            Err(UdpError::InUse(_) | UdpError::Privilege(_)) => {
                UdpSockets::bind(options(allowed, 0))
            }
            other => other,
        };
        self.tuns.push(self.tuns[0].another_queue()?);
        self.sockets.push(sockets?);
        Ok(())
    }

    /// The device, by its first queue.
    pub(crate) fn tun(&self) -> &Tun {
        &self.tuns[0]
    }

    /// The first worker's port.
    pub(crate) fn listen_port(&self) -> u16 {
        self.sockets[0].port()
    }

    /// Ports of the further workers.
    fn lanes(&self) -> Vec<u16> {
        self.sockets[1..].iter().map(UdpSockets::port).collect()
    }

    /// One bell for each thread.
    pub(crate) fn bells(&self) -> io::Result<Vec<Wake>> {
        self.tuns.iter().map(|_| Wake::new()).collect()
    }

    /// Starts the threads. `core` makes the configuration of the worker at a place.
    pub(crate) fn start(
        self,
        bells: Vec<Wake>,
        quic: Option<Pipe>,
        core: impl Fn(Place) -> wattle_worker::Config,
    ) -> io::Result<Running> {
        let mut lanes = vec![Place::First {
            lanes: self.lanes(),
        }];
        lanes.extend((1..self.tuns.len()).map(|worker| Place::Further(worker as u8)));
        let seats = exchange::places(&bells);
        let handle = WorkerHandle::new(bells);
        let device = self.steering.map(|steering| {
            use std::os::fd::AsFd as _;
            Ok::<_, io::Error>((steering, self.tuns[0].as_fd().try_clone_to_owned()?))
        });
        let crew = device
            .transpose()?
            .map(|(steering, device)| Crew::new(steering, device, handle.clone()));
        let mut quic = quic;
        let mut threads = Vec::new();
        let mut first_events = None;
        let each = self.tuns.into_iter().zip(self.sockets);
        for (worker, ((tun, udp), (lane, seat))) in
            each.zip(lanes.into_iter().zip(seats)).enumerate()
        {
            let load = handle.view().loads[worker].clone();
            let seat = crew.as_ref().map(|_| Seat::new(seat, load, worker == 0));
            let core = Worker::new(core(lane), wattle_host::Clock.now());
            let door = handle.door(worker);
            let (thread, events) = DataThread::new(core, tun, udp, quic.take(), door, seat);
            // A further worker has nothing to tell.
            first_events.get_or_insert(events);
            let others = handle.clone();
            threads.push(thread.start(worker, move || others.stop())?);
        }
        let events = first_events.ok_or_else(|| io::Error::other("there is no worker"))?;
        Ok(Running {
            handle,
            events,
            crew,
            threads,
        })
    }
}

/// Threads that run.
pub(crate) struct Running {
    /// The way to them.
    pub(crate) handle: WorkerHandle,
    /// What the first tells.
    pub(crate) events: mpsc::Receiver<Event>,
    /// Who decides how many of them carry packets.
    pub(crate) crew: Option<Crew>,
    /// The threads.
    pub(crate) threads: Vec<JoinHandle<io::Result<()>>>,
}

/// Waits for the threads to end; why the first that failed did.
pub(crate) fn join(threads: Vec<JoinHandle<io::Result<()>>>) -> io::Result<()> {
    let ended = threads.into_iter().map(|thread| {
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    });
    let ended: Vec<_> = ended.collect();
    ended.into_iter().collect()
}

fn options(allowed: Offloads, port: u16) -> UdpOptions {
    UdpOptions {
        port,
        mark: Some(MARK),
        segmentation: allowed.gso,
        coalescing: allowed.gro,
    }
}

/// Programs for every number of workers up to `most`.
fn spread_over(most: u32) -> (Option<Steering>, Option<String>) {
    let numbers = (0..).map(|power| 1 << power);
    match Steering::load(numbers.take_while(|number| *number <= most)) {
        Ok(steering) => (Some(steering), None),
        Err(error) => (None, Some(in_words(&error))),
    }
}

fn in_words(error: &io::Error) -> String {
    format!(
        "packets cannot be spread over several workers ({error}), so one carries them all: it takes CAP_BPF and the \
         system call bpf, see docs/operations.md; or set `workers = 1`"
    )
}
