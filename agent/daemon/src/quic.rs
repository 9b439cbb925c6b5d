//! Opening the QUIC carrier: on the configured port, else on any from which others can be dialled, else not at all.
//!
//! A node without it is a node all the same, so nothing here ends the agent; what is amiss is said once in the log and
//! for as long as it lasts by the health lines of `wattle status`.

use std::net::UdpSocket;
use std::thread::JoinHandle;

use wattle_host::{MARK, UdpError, Wake, bind_both};
use wattle_quic::{Handle, Neighbour, Options, Pipe};
use wattle_wire::frame::HEADER_LENGTH;

use crate::config::{Config, QuicPort};
use crate::state::Keys;

/// What a session adds to a packet of the overlay's MTU: message header, authenticator, padding.
const SESSION_OVERHEAD: u16 = 48;

/// The carrier as the engine has it.
#[derive(Default)]
pub(crate) struct Quic {
    running: Option<Running>,
    port: Option<u16>,
    /// What keeps others from dialling this node over QUIC, and what to do.
    pub(crate) trouble: Option<String>,
}

struct Running {
    handle: Handle,
    thread: JoinHandle<()>,
}

/// Opens the carrier as the configuration says. `wake` is rung when the pipe has something.
pub(crate) fn open(config: &Config, keys: &Keys, wake: &Wake) -> (Quic, Option<Pipe>) {
    let QuicPort::On(port) = config.quic_port else {
        return (Quic::default(), None);
    };
    let (socket, trouble) = match bind_both(port, Some(MARK)) {
        Ok(socket) => (Some(socket), None),
        Err(error) => (bind_both(0, Some(MARK)).ok(), Some(in_words(&error))),
    };
    let started = socket.map(|socket| start(socket, config, keys, wake));
    let (running, port, trouble) = match started {
        Some(Ok((port, running))) => (Some(running), port.filter(|_| trouble.is_none()), trouble),
        Some(Err(error)) => (None, None, Some(error)),
        None => (None, None, trouble),
    };
    if let Some(trouble) = &trouble {
        tracing::warn!("{trouble}");
    }
    let (running, pipe) = running.unzip();
    let quic = Quic {
        running,
        port,
        trouble,
    };
    (quic, pipe)
}

type Started = (Option<u16>, (Running, Pipe));

fn start(socket: UdpSocket, config: &Config, keys: &Keys, wake: &Wake) -> Result<Started, String> {
    let port = socket.local_addr().ok().map(|address| address.port());
    let relayed = SESSION_OVERHEAD + HEADER_LENGTH as u16;
    let options = Options {
        key: keys.identity().clone(),
        socket,
        largest_datagram: config.mtu.saturating_add(relayed),
    };
    let wake = wake.clone();
    let (handle, pipe, thread) =
        wattle_quic::start(options, move || wake.wake()).map_err(|error| {
            format!("there is no QUIC: {error}; networks that let only QUIC pass are not crossed")
        })?;
    Ok((port, (Running { handle, thread }, pipe)))
}

fn in_words(error: &UdpError) -> String {
    let what = match error {
        UdpError::InUse(port) => format!("UDP port {port} is in use by another process"),
        UdpError::Privilege(port) => {
            format!("listening on UDP port {port} is not permitted (it takes CAP_NET_BIND_SERVICE)")
        }
        other @ (UdpError::Mark | UdpError::Kernel { .. }) => other.to_string(),
    };
    format!(
        "{what}: others cannot dial this node over QUIC, it still dials them; choose another port with \
         `quic_port = …`, or `quic_port = \"off\"`"
    )
}

impl Quic {
    /// The port on which others can dial this node over QUIC.
    pub(crate) fn port(&self) -> Option<u16> {
        self.port
    }

    /// Says with whom there are to be connections.
    pub(crate) fn set_neighbours(&self, neighbours: impl FnOnce() -> Vec<Neighbour>) {
        if let Some(running) = &self.running {
            running.handle.set_neighbours(neighbours());
        }
    }

    /// Says that this host has other addresses.
    pub(crate) fn moved(&self) {
        if let Some(running) = &self.running {
            running.handle.moved();
        }
    }

    /// Ends the carrier: peers are told.
    pub(crate) fn stop(self) {
        if let Some(Running { handle, thread }) = self.running {
            drop(handle);
            if thread.join().is_err() {
                tracing::error!("The QUIC thread panicked");
            }
        }
    }
}
