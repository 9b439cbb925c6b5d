//! The task that keeps a member connected: hello, messages both ways, keepalive, and patience when it is away.
//!
//! Between engine and task stand two bounded queues. What does not fit towards the coordinator is counted and left
//! out: once there is room again, and after each reconnection, the engine says everything anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use wattle_api::agent::{
    ErrorCode, KEEPALIVE_S, PROTOCOL, PeerSetUpdate, SILENCE_S, ToAgent, ToCoordinator,
};

use super::connection::{Incoming, Outgoing};
use super::{Connection, ConnectionError};
use crate::state::{CoordinatorAddress, Keys};

/// Messages that wait for the coordinator: each holds at most 64 records of 1,100 bytes, so 18 MiB at most.
const UP_QUEUE: usize = 256;
/// Messages that wait for the engine: each is at most a frame of 4 MiB.
const DOWN_QUEUE: usize = 4;
/// First pause between attempts; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause between attempts; a coordinator that returns is found within it.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What the coordinator's connection tells the engine.
#[derive(Debug)]
pub enum FromCoordinator {
    /// An attempt began.
    Connecting,
    /// The coordinator knows us; its newest revision for us is this.
    Connected {
        /// The newest revision of our peer set.
        revision: u64,
    },
    /// The connection ended or did not come about.
    Away(String),
    /// Something was heard.
    Heard,
    /// A signed peer set.
    PeerSet(Vec<u8>),
    /// Records to take into the database.
    Records(Vec<Vec<u8>>),
    /// The coordinator says that we are no member.
    Refused {
        /// Why, for people.
        message: String,
        /// What to do.
        hint: String,
    },
}

/// The engine's end of the connection.
pub struct Uplink {
    up: mpsc::Sender<ToCoordinator>,
    down: mpsc::Receiver<FromCoordinator>,
    revision: Arc<AtomicU64>,
    dropped: u64,
    /// Whether something was left out since everything was said.
    incomplete: bool,
}

/// The task's end of the connection.
pub struct Side {
    up: mpsc::Receiver<ToCoordinator>,
    down: mpsc::Sender<FromCoordinator>,
    revision: Arc<AtomicU64>,
}

impl Uplink {
    /// The two ends of a connection that does not exist yet.
    pub fn new(revision: u64) -> (Self, Side) {
        let (up, up_end) = mpsc::channel(UP_QUEUE);
        let (down_end, down) = mpsc::channel(DOWN_QUEUE);
        let revision = Arc::new(AtomicU64::new(revision));
        let side = Side {
            up: up_end,
            down: down_end,
            revision: Arc::clone(&revision),
        };
        (
            Self {
                up,
                down,
                revision,
                dropped: 0,
                incomplete: false,
            },
            side,
        )
    }

    /// Says something to the coordinator, if it can be said.
    pub fn say(&mut self, message: ToCoordinator) {
        if self.up.try_send(message).is_err() {
            self.dropped += 1;
            self.incomplete = true;
        }
    }

    /// Whether everything is to be said anew: something was left out, and half of the queue is free again.
    pub fn must_repeat(&self) -> bool {
        self.incomplete && self.up.capacity() >= UP_QUEUE / 2
    }

    /// Everything is about to be said.
    pub fn begin_anew(&mut self) {
        self.incomplete = false;
    }

    /// What the coordinator says next.
    pub async fn hear(&mut self) -> FromCoordinator {
        match self.down.recv().await {
            Some(message) => message,
            None => std::future::pending().await,
        }
    }

    /// The revision that the next hello names.
    pub fn held(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    /// Which revision the next hello names.
    pub fn holds(&self, revision: u64) {
        self.revision.store(revision, Ordering::Relaxed);
    }

    /// Messages that found no room.
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Side {
    /// What waits for the coordinator, oldest first.
    pub(crate) fn waiting(&mut self) -> Option<ToCoordinator> {
        self.up.try_recv().ok()
    }
}

/// Keeps the connection until the engine is gone.
pub async fn run(address: CoordinatorAddress, keys: Keys, epoch: u32, mut side: Side) {
    let mut pause = FIRST_PAUSE;
    for attempt in 0.. {
        let Some(at) = address
            .addresses
            .get(attempt % address.addresses.len().max(1))
        else {
            return;
        };
        if side.down.send(FromCoordinator::Connecting).await.is_err() {
            return;
        }
        let began = Instant::now();
        let opening = Connection::open(at, address.fingerprint, keys.identity());
        let opened = tokio::select! {
            opened = opening => opened,
            () = side.down.closed() => return,
        };
        let error = match opened {
            Ok(connection) => exchange(connection, epoch, &mut side).await,
            Err(error) => Some(error),
        };
        let Some(error) = error else { return };
        if side
            .down
            .send(FromCoordinator::Away(error.to_string()))
            .await
            .is_err()
        {
            return;
        }
        pause = match began.elapsed() {
            long if long > LONGEST_PAUSE => FIRST_PAUSE,
            _ => (pause * 2).min(LONGEST_PAUSE),
        };
        tokio::select! {
            () = sleep(pause.mul_f64(jitter())) => {}
            () = side.down.closed() => return,
        }
        // What was said while nobody listened is old.
        while side.waiting().is_some() {}
    }
}

/// Exchanges messages until the connection ends (`Some`) or the engine is gone (`None`).
async fn exchange(mut link: Connection, epoch: u32, side: &mut Side) -> Option<ConnectionError> {
    let hello = ToCoordinator::Hello {
        protocol: PROTOCOL,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: side.revision.load(Ordering::Relaxed),
        epoch,
        features: Vec::new(),
    };
    if let Err(error) = link.send(&hello).await {
        return Some(error);
    }
    let (incoming, outgoing) = link.split();
    converse(incoming, outgoing, side).await
}

/// What follows the hello.
async fn converse<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    mut incoming: Incoming<R>,
    mut outgoing: Outgoing<W>,
    side: &mut Side,
) -> Option<ConnectionError> {
    let mut silent_until = Instant::now() + Duration::from_secs(SILENCE_S);
    let mut pings = 0;
    // Whatever else is said: only pings are answered for certain, and who hears nothing hangs up.
    let mut ping_at = Instant::now() + Duration::from_secs(KEEPALIVE_S);
    loop {
        let outcome = tokio::select! {
            heard = incoming.receive() => {
                silent_until = Instant::now() + Duration::from_secs(SILENCE_S);
                match heard {
                    Ok(message) => {
                        if pass_on(message, side).await.is_err() {
                            return None;
                        }
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            }
            message = side.up.recv() => {
                let message = message?;
                outgoing.send(&message).await
            }
            () = sleep_until(ping_at) => {
                ping_at = Instant::now() + Duration::from_secs(KEEPALIVE_S);
                pings += 1;
                outgoing.send(&ToCoordinator::Ping { nonce: pings }).await
            }
            () = sleep_until(silent_until) => Err(ConnectionError::Closed),
        };
        if let Err(error) = outcome {
            return Some(error);
        }
    }
}

/// Hands a message to the engine; `Err` when the engine is gone.
async fn pass_on(message: ToAgent, side: &Side) -> Result<(), ()> {
    let told = match message {
        ToAgent::Welcome { revision, .. } => FromCoordinator::Connected { revision },
        ToAgent::PeerSet(PeerSetUpdate::Snapshot { set, .. }) => FromCoordinator::PeerSet(set.0),
        ToAgent::Joined { peer_set, .. } => FromCoordinator::PeerSet(peer_set.0),
        ToAgent::Records { records } => {
            FromCoordinator::Records(records.into_iter().map(|record| record.0).collect())
        }
        ToAgent::Error {
            code,
            message,
            hint,
        } => match code {
            ErrorCode::Superseded | ErrorCode::Unavailable | ErrorCode::Unknown => {
                FromCoordinator::Away(format!("{message}; {hint}"))
            }
            _ => FromCoordinator::Refused { message, hint },
        },
        // Deltas are not asked for (no feature in our hello), so none is sent.
        ToAgent::Pong { .. } | ToAgent::PeerSet(PeerSetUpdate::Delta { .. }) => {
            FromCoordinator::Heard
        }
    };
    side.down.send(told).await.map_err(|_| ())
}

/// Between 0.5 and 1.5: a thousand agents do not return in the same moment.
fn jitter() -> f64 {
    let mut random = [0; 4];
    let _ = getrandom::fill(&mut random);
    0.5 + f64::from(u32::from_be_bytes(random)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex, split};
    use wattle_api::frame;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_has_more_to_say_than_pings_still_pings_and_stays_connected() {
        let (near, far) = duplex(1 << 16);
        tokio::spawn(answer_pings(far));
        let (mut uplink, mut side) = Uplink::new(0);
        let (reader, writer) = split(near);
        let conversation = converse(Incoming::over(reader), Outgoing::over(writer), &mut side);
        let reports = async {
            for revision in 0..3 * SILENCE_S {
                uplink.say(ToCoordinator::Ack { revision });
                sleep(Duration::from_secs(1)).await;
                while uplink.down.try_recv().is_ok() {}
            }
        };
        tokio::select! {
            ended = conversation => panic!("{ended:?}"),
            () = reports => {}
        }
    }

    /// A coordinator that has nothing to say of its own.
    async fn answer_pings(mut stream: DuplexStream) {
        let (mut decoder, mut piece) = (frame::Decoder::default(), [0; 1 << 10]);
        loop {
            let length = stream.read(&mut piece).await.expect("the agent is there");
            decoder.push(&piece[..length]);
            while let Some(message) = decoder.next_message().expect("whole frames") {
                if let ToCoordinator::Ping { nonce } = message {
                    let pong = frame::encode(&ToAgent::Pong { nonce }).expect("a frame");
                    stream.write_all(&pong).await.expect("the agent is there");
                }
            }
        }
    }
}
