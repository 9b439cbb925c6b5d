//! A blocking client: connect, ask, read; every wait has an end.

use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use wattle_model::Class;

use crate::line::{LineError, MAX_REPLY_BYTES, MAX_REQUEST_BYTES, decode, encode, read_line};
use crate::{
    ErrorReport, ExplainReport, LinksReport, MetricsReport, PathReport, PeersReport, Reply,
    Request, RouteView, RoutesReport, StatusReport, TopoReport, VersionReport, WhoamiReport,
};

/// Why the agent was not asked, or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("no agent listens on {socket}")]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The socket may not be opened by this user.
    #[error("{socket} may not be opened by this user")]
    Permission {
        /// The socket.
        socket: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The agent did not answer in time.
    #[error("the agent did not answer within {}", seconds(.0))]
    Timeout(Duration),
    /// The agent ended the connection, or what it sent is not of this protocol.
    #[error("the agent does not speak this protocol: {0}")]
    Protocol(String),
    /// The agent refused.
    #[error(transparent)]
    Refused(Box<Refusal>),
}

/// The agent's refusal as an error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub ErrorReport);

fn seconds(span: &Duration) -> String {
    format!("{} s", span.as_secs_f64())
}

/// A connection to the agent.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<UnixStream>,
    timeout: Duration,
}

macro_rules! one_reply {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*) -> $report:ty = $request:expr => $variant:ident;)*) => {
        impl Client {
            $($(#[$doc])*
            pub fn $name(&mut self, $($arg: $ty),*) -> Result<$report, ClientError> {
                match self.ask(&$request)? {
                    Reply::$variant(report) => Ok(report.into()),
                    other => Err(unexpected(&other)),
                }
            })*
        }
    };
}

one_reply! {
    /// The agent at a glance.
    status() -> Box<StatusReport> = Request::Status {} => Status;
    /// Every other node of the peer set.
    peers() -> PeersReport = Request::Peers {} => Peers;
    /// The links of this node, or those to one neighbour.
    links(name: Option<String>) -> LinksReport = Request::Links { name } => Links;
    /// Routes, from one of the places where they live.
    routes(view: RouteView, class: Class) -> RoutesReport = Request::Routes { view, class } => Routes;
    /// The link-state database as a graph.
    topo() -> TopoReport = Request::Topo {} => Topo;
    /// The computed way to a destination.
    path(dst: String, class: Class) -> PathReport = Request::Path { dst, class } => Path;
    /// Why traffic to a destination goes the way it goes.
    explain(dst: String, class: Class) -> Box<ExplainReport> = Request::Explain { dst, class } => Explain;
    /// Who the agent is.
    whoami() -> WhoamiReport = Request::Whoami {} => Whoami;
    /// All metrics.
    metrics() -> MetricsReport = Request::Metrics {} => Metrics;
    /// The agent's version.
    version() -> VersionReport = Request::Version {} => Version;
}

impl Client {
    /// Connects to the agent's socket; `timeout` bounds each later wait.
    pub fn connect(socket: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket).map_err(|source| {
            let socket = socket.to_owned();
            match source.kind() {
                io::ErrorKind::PermissionDenied => ClientError::Permission { socket, source },
                _ => ClientError::Unreachable { socket, source },
            }
        })?;
        let client = Self {
            reader: BufReader::new(stream),
            timeout,
        };
        client.wait_at_most(timeout)?;
        Ok(client)
    }

    /// Asks for one reply.
    pub fn ask(&mut self, request: &Request) -> Result<Reply, ClientError> {
        self.send(request)?;
        self.receive()
    }

    /// Asks for many replies, each awaited no longer than `patience`, for ever if `None`.
    pub fn stream(
        mut self,
        request: &Request,
        patience: Option<Duration>,
    ) -> Result<Replies, ClientError> {
        self.send(request)?;
        self.reader
            .get_ref()
            .set_read_timeout(patience)
            .map_err(|e| self.failed(&e))?;
        if let Some(patience) = patience {
            self.timeout = patience;
        }
        Ok(Replies { client: Some(self) })
    }

    /// Leaves the network.
    pub fn leave(&mut self) -> Result<(), ClientError> {
        self.order(&Request::Leave {})
    }

    /// Gives an order that is answered with nothing but that it was carried out.
    pub fn order(&mut self, request: &Request) -> Result<(), ClientError> {
        match self.ask(request)? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn wait_at_most(&self, timeout: Duration) -> Result<(), ClientError> {
        let stream = self.reader.get_ref();
        stream
            .set_read_timeout(Some(timeout))
            .and_then(|()| stream.set_write_timeout(Some(timeout)))
            .map_err(|e| self.failed(&e))
    }

    fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        let line = encode(request).map_err(|e| ClientError::Protocol(e.to_string()))?;
        if line.len() > MAX_REQUEST_BYTES {
            let limit = LineError::TooLong {
                limit: MAX_REQUEST_BYTES,
            };
            return Err(ClientError::Protocol(limit.to_string()));
        }
        let sent = self.reader.get_mut().write_all(&line);
        sent.map_err(|e| self.failed(&e))
    }

    fn receive(&mut self) -> Result<Reply, ClientError> {
        let line = match read_line(&mut self.reader, MAX_REPLY_BYTES) {
            Ok(Some(line)) => line,
            Ok(None) => return Err(ClientError::Protocol("it closed the connection".into())),
            Err(LineError::Io(error)) => return Err(self.failed(&error)),
            Err(other) => return Err(ClientError::Protocol(other.to_string())),
        };
        match decode(&line).map_err(|e| ClientError::Protocol(e.to_string()))? {
            Reply::Error(report) => Err(ClientError::Refused(Box::new(Refusal(report)))),
            reply => Ok(reply),
        }
    }

    fn failed(&self, error: &io::Error) -> ClientError {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                ClientError::Timeout(self.timeout)
            }
            _ => ClientError::Protocol(error.to_string()),
        }
    }
}

fn unexpected(reply: &Reply) -> ClientError {
    ClientError::Protocol(format!(
        "an answer of kind `{}` does not fit the request",
        reply.kind()
    ))
}

/// The replies of a stream; ends with the agent's `done` or the first error.
#[derive(Debug)]
pub struct Replies {
    client: Option<Client>,
}

impl Iterator for Replies {
    type Item = Result<Reply, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        let reply = self.client.as_mut()?.receive();
        if matches!(reply, Ok(Reply::Done) | Err(_)) {
            self.client = None;
        }
        match reply {
            Ok(Reply::Done) => None,
            other => Some(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread::{self, JoinHandle};

    use super::*;
    use crate::ErrorCode;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn a_question_has_its_answer_and_the_connection_serves_the_next_one() {
        let (socket, agent) = agent_that_says(&[
            r#"{"kind":"version","data":{"version":"0.1.0"}}"#,
            r#"{"kind":"metrics","data":{"text":"up 1\n"}}"#,
        ]);
        let mut client = Client::connect(&socket.path().join("s"), PATIENCE).unwrap();
        assert_eq!(client.version().unwrap().version, "0.1.0");
        assert_eq!(client.metrics().unwrap().text, "up 1\n");
        assert_eq!(
            agent.join().unwrap(),
            [r#"{"op":"version"}"#, r#"{"op":"metrics"}"#]
        );
    }

    #[test]
    fn a_refusal_keeps_what_why_and_next() {
        let (socket, _agent) = agent_that_says(&[
            r#"{"kind":"error","data":{"code":"not_found","what":"a","why":"b","next":"c"}}"#,
        ]);
        let mut client = Client::connect(&socket.path().join("s"), PATIENCE).unwrap();
        let Err(ClientError::Refused(refusal)) = client.path("db-9".into(), Class::Latency) else {
            panic!("not refused");
        };
        assert_eq!(refusal.0.code, ErrorCode::NotFound);
        assert_eq!(refusal.0.next, "c");
    }

    #[test]
    fn a_stream_ends_at_done() {
        let event =
            r#"{"kind":"event","data":{"sequence":1,"at_unix_ms":1,"event":"link_up","text":"x"}}"#;
        let (socket, _agent) =
            agent_that_says(&[&format!("{event}\n{event}\n{{\"kind\":\"done\"}}")]);
        let client = Client::connect(&socket.path().join("s"), PATIENCE).unwrap();
        let replies = client
            .stream(&Request::Events { follow: false }, Some(PATIENCE))
            .unwrap();
        assert_eq!(replies.map(Result::unwrap).count(), 2);
    }

    #[test]
    fn nobody_listening_a_silent_agent_and_nonsense_are_told_apart() {
        let empty = tempfile::tempdir().unwrap();
        let nobody = Client::connect(&empty.path().join("s"), PATIENCE);
        assert!(matches!(nobody, Err(ClientError::Unreachable { .. })));

        let _listener = UnixListener::bind(empty.path().join("silent")).unwrap();
        let patience = Duration::from_millis(20);
        let mut silent = Client::connect(&empty.path().join("silent"), patience).unwrap();
        assert!(matches!(silent.version(), Err(ClientError::Timeout(t)) if t == patience));

        for nonsense in [
            "hello",
            r#"{"kind":"done"}"#,
            r#"{"kind":"version","data":{}}"#,
        ] {
            let (socket, _agent) = agent_that_says(&[nonsense]);
            let mut client = Client::connect(&socket.path().join("s"), PATIENCE).unwrap();
            assert!(
                matches!(client.version(), Err(ClientError::Protocol(_))),
                "{nonsense}"
            );
        }
    }

    /// Answers each request line with the next of `answers`; returns the requests at the end.
    fn agent_that_says(answers: &[&str]) -> (tempfile::TempDir, JoinHandle<Vec<String>>) {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let answers: Vec<String> = answers.iter().map(|a| format!("{a}\n")).collect();
        let agent = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let mut requests = Vec::new();
            for answer in answers {
                let Some(line) = read_line(&mut reader, MAX_REQUEST_BYTES).unwrap() else {
                    break;
                };
                requests.push(String::from_utf8(line).unwrap());
                reader.get_mut().write_all(answer.as_bytes()).unwrap();
            }
            requests
        });
        (dir, agent)
    }
}
