//! Tells systemd that the agent is ready and alive: the datagram protocol of `sd_notify(3)`, nothing else of systemd.
//!
//! Without a `NOTIFY_SOCKET` (started by hand, in a test) every call does nothing.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to the service manager, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    socket: Option<UnixDatagram>,
}

impl Notifier {
    /// The manager that the environment names.
    pub(crate) fn from_environment() -> Self {
        let connected = env::var("NOTIFY_SOCKET").ok().map(|path| connect(&path));
        match connected.transpose() {
            Ok(socket) => Self { socket },
            Err(error) => {
                tracing::warn!(%error, "cannot reach the service manager named by NOTIFY_SOCKET");
                Self::default()
            }
        }
    }

    /// The agent serves.
    pub(crate) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// The agent is alive: the engine's loop has just come round.
    pub(crate) fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// The agent has begun to stop.
    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1");
    }

    fn send(&self, message: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(message.as_bytes())
        {
            tracing::debug!(%error, "the service manager did not take a message");
        }
    }
}

/// How often the manager wants to hear [`Notifier::alive`]: half of its patience.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    let patience: u64 = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    Some(Duration::from_micros(patience / 2)).filter(|interval| !interval.is_zero())
}

fn connect(path: &str) -> io::Result<UnixDatagram> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_hears_ready_and_alive() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier {
            socket: Some(connect(path.to_str().unwrap()).unwrap()),
        };
        notifier.ready("6 peers");
        notifier.alive();
        let mut heard = [0; 64];
        let length = manager.recv(&mut heard).unwrap();
        assert_eq!(&heard[..length], b"READY=1\nSTATUS=6 peers");
        let length = manager.recv(&mut heard).unwrap();
        assert_eq!(&heard[..length], b"WATCHDOG=1");
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        Notifier::default().ready("alone");
    }
}
