//! One agent's connection (`docs/protocol/coordinator.md`): hello or join, then messages both ways. Decides nothing:
//! the engine does. A connection holds at most one frame each way, [`AGENT_QUEUE`] messages, and the newest peer set.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use wattle_api::agent::{
    ErrorCode, FEATURE_DELTA, Join, PROTOCOL, PeerSetUpdate, SILENCE_S, ToAgent, ToCoordinator,
};
use wattle_api::frame::{self, Decoder, FrameError};
use wattle_fleet::membership::MAX_CANDIDATES;
use wattle_fleet::peer_set::PeerSets;
use wattle_model::NodeId;
use wattle_wire::key::PublicKey;
use wattle_wire::record::Record;

use crate::counters::{Counter, Counters};
use crate::engine::{AGENT_QUEUE, Admission, Author, Connection, Handle, Question, Refused};

/// How long a stranger may take from its hello to its join.
const JOIN_WITHIN: Duration = Duration::from_secs(5);

/// An agent that does not take a message for so long is gone.
const SEND_WITHIN: Duration = Duration::from_secs(20);

/// Bytes that are read at once.
const PIECE: usize = 16 << 10;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    /// The agent closed it, or the network broke it.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The agent closed it in order.
    #[error("the agent closed it")]
    Closed,
    /// Nothing was heard for too long.
    #[error("the agent was silent for {SILENCE_S} s")]
    Silent,
    /// The bytes are no message.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A message did not fit, or the engine refused.
    #[error("{}", .0.message)]
    Refused(Refused),
    /// The engine let go, or the coordinator stops.
    #[error("the coordinator let go")]
    LetGo,
}

/// An agent whose identity the handshake proved.
pub(crate) struct Agent {
    pub(crate) identity: PublicKey,
    pub(crate) engine: Handle,
    pub(crate) counters: Arc<Counters>,
}

/// The stream with what was read of it.
struct Link {
    stream: TlsStream<TcpStream>,
    decoder: Decoder,
    piece: Vec<u8>,
}

/// A member's connection while it lasts.
struct Member {
    node: NodeId,
    connection: u64,
    /// Revision that the agent has or was sent.
    sent: u64,
    deltas: bool,
}

impl Agent {
    /// Serves the agent until it leaves or is let go.
    pub(crate) async fn serve(self, stream: TlsStream<TcpStream>, stop: CancellationToken) {
        let mut link = Link {
            stream,
            decoder: Decoder::default(),
            piece: vec![0; PIECE],
        };
        let ended = tokio::select! {
            ended = self.converse(&mut link) => ended,
            () = stop.cancelled() => Ended::LetGo,
        };
        if let Ended::Refused(refused) = &ended {
            let _ = link.send(&refused.to_message()).await;
        }
        tracing::debug!(node = %self.identity.node_id(), why = %ended, "Agent connection ended");
        let _ = timeout(SEND_WITHIN, link.stream.shutdown()).await;
    }

    async fn converse(&self, link: &mut Link) -> Ended {
        let (sender, messages) = mpsc::channel(AGENT_QUEUE);
        let mut member = match self.greet(link, sender).await {
            Ok(member) => member,
            Err(ended) => return ended,
        };
        let ended = self.attend(link, &mut member, messages).await;
        let (node, connection) = (member.node, member.connection);
        self.engine.tell(Question::Gone { node, connection }).await;
        ended.err().unwrap_or(Ended::Closed)
    }

    /// From the hello to being a member.
    async fn greet(&self, link: &mut Link, sender: mpsc::Sender<ToAgent>) -> Result<Member, Ended> {
        static CONNECTIONS: AtomicU64 = AtomicU64::new(1);
        let hello = timeout(JOIN_WITHIN, link.receive())
            .await
            .map_err(|_| Ended::Silent)??;
        let ToCoordinator::Hello {
            protocol,
            agent_version,
            revision,
            features,
            ..
        } = hello
        else {
            return Err(malformed("the first message must be a hello"));
        };
        if protocol != PROTOCOL {
            return Err(Ended::Refused(unsupported(protocol)));
        }
        let id = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        let connection = Connection {
            id,
            agent_version,
            sender,
        };
        let mut member = Member {
            node: self.identity.node_id(),
            connection: id,
            sent: revision,
            deltas: features.iter().any(|feature| feature == FEATURE_DELTA),
        };
        let (identity, asked) = (self.identity, connection.clone());
        let admission = self
            .engine
            .ask(|answer| Question::Hello {
                identity,
                connection: asked,
                answer,
            })
            .await
            .ok_or(Ended::LetGo)?
            .map_err(Ended::Refused)?;
        match admission {
            Admission::Member(network) => {
                let revision = self.engine.sets.borrow().revision();
                link.send(&ToAgent::Welcome { network, revision }).await?;
            }
            Admission::Stranger(refused) => {
                member.sent = self.join(link, connection, refused).await?;
            }
        }
        Ok(member)
    }

    /// A stranger may only join. Returns the revision that it was sent.
    async fn join(
        &self,
        link: &mut Link,
        connection: Connection,
        refused: Refused,
    ) -> Result<u64, Ended> {
        let Ok(message) = timeout(JOIN_WITHIN, link.receive()).await else {
            return Err(Ended::Refused(refused));
        };
        let ToCoordinator::Join(join) = message? else {
            return Err(Ended::Refused(refused));
        };
        let (identity, connection) = (self.identity, Some(connection));
        let joined = self
            .engine
            .ask(|answer| Question::Join {
                identity,
                join,
                connection,
                answer,
            })
            .await
            .ok_or_else(|| Ended::Refused(Refused::unavailable()))?
            .map_err(Ended::Refused)?;
        link.send(&joined).await?;
        match joined {
            ToAgent::Joined { revision, .. } => Ok(revision),
            _ => Ok(0),
        }
    }

    /// Messages both ways, whichever comes first.
    async fn attend(
        &self,
        link: &mut Link,
        member: &mut Member,
        mut messages: mpsc::Receiver<ToAgent>,
    ) -> Result<(), Ended> {
        let mut sets = self.engine.sets.clone();
        sets.mark_changed();
        loop {
            tokio::select! {
                // What the engine says first is sent first: a removal ahead of the peer set that follows from it.
                biased;
                message = messages.recv() => {
                    let message = message.ok_or(Ended::LetGo)?;
                    link.send(&message).await?;
                    if matches!(message, ToAgent::Error { code, .. } if code.is_final()) {
                        return Err(Ended::LetGo);
                    }
                }
                changed = sets.changed() => {
                    changed.map_err(|_| Ended::LetGo)?;
                    let newest = sets.borrow_and_update().clone();
                    if let Some(update) = member.update(&newest) {
                        link.send(&ToAgent::PeerSet(update)).await?;
                    }
                }
                message = link.receive() => self.heard(link, member, message?).await?,
            }
        }
    }

    async fn heard(
        &self,
        link: &mut Link,
        member: &Member,
        message: ToCoordinator,
    ) -> Result<(), Ended> {
        let node = member.node;
        let question = match message {
            ToCoordinator::Ping { nonce } => return link.send(&ToAgent::Pong { nonce }).await,
            ToCoordinator::Ack { revision } => Question::Ack { node, revision },
            ToCoordinator::Candidates { mut candidates } => {
                candidates.truncate(MAX_CANDIDATES);
                Question::Candidates { node, candidates }
            }
            ToCoordinator::Records { records } => {
                let (records, refused): (Vec<_>, Vec<_>) = records
                    .iter()
                    .map(|bytes| Record::parse(&bytes.0))
                    .partition(Result::is_ok);
                self.counters
                    .add(Counter::RecordsRefused, refused.len() as u64);
                Question::Records {
                    node,
                    records: records.into_iter().flatten().collect(),
                }
            }
            ToCoordinator::Leave => return self.leave(node).await,
            ToCoordinator::Join(join) => return self.join_again(link, join).await,
            ToCoordinator::Hello { .. } => return Err(malformed("one hello is enough")),
        };
        self.engine.tell(question).await.ok_or(Ended::LetGo)
    }

    /// A member joins only if the answer to its join was lost; it gets it once more.
    async fn join_again(&self, link: &mut Link, join: Box<Join>) -> Result<(), Ended> {
        let identity = self.identity;
        let joined = self
            .engine
            .ask(|answer| Question::Join {
                identity,
                join,
                connection: None,
                answer,
            })
            .await
            .ok_or(Ended::LetGo)?
            .map_err(Ended::Refused)?;
        link.send(&joined).await
    }

    /// The engine tells the agent that it was removed, like everybody else.
    async fn leave(&self, node: NodeId) -> Result<(), Ended> {
        self.engine
            .ask(|answer| Question::Remove {
                node: node.to_string(),
                by: Author::node(node),
                answer,
            })
            .await
            .ok_or(Ended::LetGo)?
            .map_err(Ended::Refused)
    }
}

impl Member {
    /// What brings the agent to the newest revision, if it is not there.
    fn update(&mut self, newest: &PeerSets) -> Option<PeerSetUpdate> {
        if newest.revision() == self.sent || newest.revision() == 0 {
            return None;
        }
        let update = if self.deltas {
            newest.update_from(self.sent)
        } else {
            newest.snapshot()
        };
        self.sent = newest.revision();
        Some(update)
    }
}

impl Link {
    /// The next message. Dropped while waiting it loses nothing: what was read is kept.
    async fn receive(&mut self) -> Result<ToCoordinator, Ended> {
        let silence = Duration::from_secs(SILENCE_S);
        loop {
            if let Some(message) = self.decoder.next_message()? {
                return Ok(message);
            }
            match timeout(silence, self.stream.read(&mut self.piece)).await {
                Err(_) => return Err(Ended::Silent),
                Ok(Ok(0)) => return Err(Ended::Closed),
                Ok(read) => self.decoder.push(&self.piece[..read?]),
            }
        }
    }

    async fn send(&mut self, message: &ToAgent) -> Result<(), Ended> {
        let frame = frame::encode(message)?;
        let sent = timeout(SEND_WITHIN, async {
            self.stream.write_all(&frame).await?;
            self.stream.flush().await
        });
        Ok(sent.await.map_err(|_| Ended::Silent)??)
    }
}

fn malformed(message: &str) -> Ended {
    Ended::Refused(Refused {
        code: ErrorCode::Malformed,
        status: 400,
        kind: "malformed",
        message: message.to_owned(),
        hint: "are agent and coordinator of one version?",
    })
}

fn unsupported(protocol: u16) -> Refused {
    Refused {
        code: ErrorCode::UnsupportedProtocol,
        status: 400,
        kind: "unsupported-protocol",
        message: format!("the agent speaks protocol {protocol}, this coordinator {PROTOCOL}"),
        hint: "bring agent and coordinator to one version",
    }
}
