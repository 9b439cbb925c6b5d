//! The Unix socket on which local programs ask the agent (`docs/protocol/local-socket.md`).
//!
//! Decides who may ask (by the kernel's word on who calls), how many at once, how long and how much; what the answers
//! are is the engine's business. The accept loop never waits for a client.

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::timeout;
use wattle_control::{
    Access, ErrorCode, ErrorReport, EventReport, MAX_REQUEST_BYTES, Reply, Request, Role, decode,
    encode,
};

use crate::ping;
use crate::query::{Caller, EngineHandle};

/// Clients served at once; each holds one request, one answer and a task.
const MAX_CLIENTS: usize = 32;
/// A client that says nothing for so long is let go.
const IDLE: Duration = Duration::from_secs(60);
/// A client that does not take its answer for so long is let go.
const PATIENCE: Duration = Duration::from_secs(5);
/// Group whose members may look.
const READ_GROUP: &str = "wattle";
/// Group whose members may change things.
const ADMIN_GROUP: &str = "wattle-admin";

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LocalApiError {
    /// Somebody answers on the socket.
    #[error(
        "another agent listens on {0}; stop it first (`systemctl stop wattled`), \
         or give this one a socket of its own with --socket"
    )]
    InUse(PathBuf),
    /// The socket cannot be made.
    #[error(
        "cannot listen on {path}: {source}; its directory must exist and be writable for the agent \
         (`RuntimeDirectory=wattle` in the unit), or choose another path with --socket"
    )]
    Bind {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The listening socket; its file is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct LocalSocket {
    listener: UnixListener,
    path: PathBuf,
    places: Arc<Semaphore>,
    turned_away: Arc<AtomicU64>,
}

impl LocalSocket {
    /// Listens on `path`: mode 0660, group `wattle` where there is one. Takes over the file of an agent that died.
    pub(crate) fn bind(path: &Path) -> Result<Self, LocalApiError> {
        let failed = |source| LocalApiError::Bind {
            path: path.to_owned(),
            source,
        };
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(LocalApiError::InUse(path.to_owned()));
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o660)).map_err(failed)?;
        let socket = Self {
            listener,
            path: path.to_owned(),
            places: Arc::new(Semaphore::new(MAX_CLIENTS)),
            turned_away: Arc::default(),
        };
        socket.open_to_readers();
        Ok(socket)
    }

    /// Members of both groups must be able to connect: the file belongs to the wider one.
    fn open_to_readers(&self) {
        let Some(gid) = group_id(READ_GROUP) else {
            return;
        };
        // The packaged service runs in that group, and its system-call filter has no chown.
        if std::fs::metadata(&self.path).is_ok_and(|file| file.gid() == gid.as_raw()) {
            return;
        }
        if let Err(error) = std::os::unix::fs::chown(&self.path, None, Some(gid.as_raw())) {
            tracing::warn!(%error, group = READ_GROUP, "cannot open the local socket to its group");
        }
    }

    /// How many clients found no place, as it grows.
    pub(crate) fn turned_away(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.turned_away)
    }

    /// Serves clients for ever.
    pub(crate) async fn serve(self, engine: EngineHandle) {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Descriptors are exhausted: pausing lets clients end.
                    tracing::warn!(%error, "cannot accept a local client");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            match Arc::clone(&self.places).try_acquire_owned() {
                Ok(place) => {
                    let engine = engine.clone();
                    tokio::spawn(async move {
                        serve_client(stream, engine).await;
                        drop(place);
                    });
                }
                Err(_) => {
                    self.turned_away.fetch_add(1, Ordering::Relaxed);
                    turn_away(&stream);
                }
            }
        }
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn turn_away(stream: &UnixStream) {
    let why = format!("{MAX_CLIENTS} clients are being served");
    let reply = refusal(ErrorCode::Busy, "not served", why, "try again in a moment");
    if let Ok(line) = encode(&Reply::Error(reply)) {
        let _ = stream.try_write(&line);
    }
}

async fn serve_client(stream: UnixStream, engine: EngineHandle) {
    let caller = match stream.peer_cred() {
        Ok(credentials) => caller_of(credentials.uid(), credentials.gid()),
        Err(_) => return,
    };
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    while let Some(line) = next_line(&mut reader).await {
        let outcome = match decode::<Request>(&line) {
            Err(error) => {
                let reply = Reply::Error(malformed(&error.to_string()));
                let _ = send(&mut writer, &reply).await;
                return;
            }
            Ok(request) => answer(request, caller, &engine, &mut reader, &mut writer).await,
        };
        if outcome.is_err() {
            return;
        }
    }
}

/// The next request; `None` when the client is gone, silent for too long, or asks too much.
async fn next_line(reader: &mut BufReader<OwnedReadHalf>) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    let mut limited = reader.take(MAX_REQUEST_BYTES as u64 + 1);
    let read = timeout(IDLE, limited.read_until(b'\n', &mut line)).await;
    match read {
        Ok(Ok(_)) if line.last() == Some(&b'\n') => {
            line.pop();
            Some(line)
        }
        _ => None,
    }
}

async fn answer(
    request: Request,
    caller: Option<Caller>,
    engine: &EngineHandle,
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
) -> io::Result<()> {
    let caller = match permitted(caller, &request) {
        Ok(caller) => caller,
        Err(refused) => return send(writer, &Reply::Error(refused)).await,
    };
    match request {
        Request::Events { follow } => stream_events(follow, engine, reader, writer).await,
        Request::Ping { .. } => stream_pings(request, caller, engine, writer).await,
        _ => send(writer, &engine.ask(request, caller).await).await,
    }
}

async fn stream_events(
    follow: bool,
    engine: &EngineHandle,
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
) -> io::Result<()> {
    let feed = match engine.events().await {
        Ok(feed) => feed,
        Err(refused) => return send(writer, &Reply::Error(refused)).await,
    };
    for event in feed.kept {
        send(writer, &Reply::Event(event)).await?;
    }
    if follow {
        stream_coming(feed.coming, reader, writer).await?;
    }
    send(writer, &Reply::Done).await
}

/// Tells events until the engine is gone, or the client is gone or has something else to ask.
async fn stream_coming(
    mut coming: broadcast::Receiver<EventReport>,
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
) -> io::Result<()> {
    loop {
        let event = tokio::select! {
            event = coming.recv() => event,
            // Where nothing happens nothing is written, so only reading shows that nobody is there any more.
            more = reader.fill_buf() => match more?.is_empty() {
                true => return Err(io::ErrorKind::UnexpectedEof.into()),
                false => return Ok(()),
            },
        };
        match event {
            Ok(event) => send(writer, &Reply::Event(event)).await?,
            // The sequence numbers show the gap.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

async fn stream_pings(
    request: Request,
    caller: Caller,
    engine: &EngineHandle,
    writer: &mut OwnedWriteHalf,
) -> io::Result<()> {
    let Request::Ping {
        dst,
        count,
        interval_ms,
        timeout_ms,
        class,
    } = request
    else {
        return Ok(());
    };
    let way = Request::Path {
        dst: dst.clone(),
        class,
    };
    let way = match engine.ask(way, caller).await {
        Reply::Path(way) => way,
        refused => return send(writer, &refused).await,
    };
    let target = match ping::Target::new(&dst, &way, engine, caller).await {
        Ok(target) => target,
        Err(refused) => return send(writer, &Reply::Error(refused)).await,
    };
    let pace = Duration::from_millis(interval_ms.clamp(10, 60_000).into());
    let patience = Duration::from_millis(timeout_ms.clamp(1, 60_000).into());
    for sequence in 1..=count.clamp(1, 10_000) {
        let began = tokio::time::Instant::now();
        match target.ping(sequence, patience).await {
            Ok(report) => send(writer, &Reply::Ping(report)).await?,
            Err(refused) => return send(writer, &Reply::Error(refused)).await,
        }
        if sequence < count {
            tokio::time::sleep_until(began + pace).await;
        }
    }
    send(writer, &Reply::Done).await
}

async fn send(writer: &mut OwnedWriteHalf, reply: &Reply) -> io::Result<()> {
    let line = encode(reply).map_err(|error| io::Error::other(error.to_string()))?;
    timeout(PATIENCE, writer.write_all(&line)).await?
}

fn permitted(caller: Option<Caller>, request: &Request) -> Result<Caller, ErrorReport> {
    let forbidden = |group: &str| {
        let why = format!("that takes root or membership in the group {group}");
        refusal(
            ErrorCode::Permission,
            "not permitted",
            why,
            "run it with sudo",
        )
    };
    let caller = caller.ok_or_else(|| forbidden(READ_GROUP))?;
    match (request.access(), caller.role) {
        (Access::Read, _) | (Access::Change, Role::Admin) => Ok(caller),
        (Access::Change, Role::Reader) => Err(forbidden(ADMIN_GROUP)),
    }
}

/// What a local user may do; `None` for nothing.
fn caller_of(uid: u32, gid: u32) -> Option<Caller> {
    let groups = groups_of(uid, gid);
    let is_member = |name| group_id(name).is_some_and(|group| groups.contains(&group));
    let is_agent = uid == Uid::effective().as_raw();
    if uid == 0 || is_agent || is_member(ADMIN_GROUP) {
        return Some(Caller {
            uid,
            role: Role::Admin,
        });
    }
    is_member(READ_GROUP).then_some(Caller {
        uid,
        role: Role::Reader,
    })
}

fn groups_of(uid: u32, gid: u32) -> Vec<Gid> {
    let primary = Gid::from_raw(gid);
    let named = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let listed = named
        .and_then(|user| std::ffi::CString::new(user.name).ok())
        .and_then(|name| getgrouplist(&name, primary).ok());
    listed.unwrap_or_else(|| vec![primary])
}

fn group_id(name: &str) -> Option<Gid> {
    Group::from_name(name).ok().flatten().map(|group| group.gid)
}

fn malformed(why: &str) -> ErrorReport {
    let next = "use a `wattle` of the agent's version: `wattle version`";
    refusal(
        ErrorCode::Usage,
        "the request was not understood",
        why.to_owned(),
        next,
    )
}

/// An error, for an answer.
pub(crate) fn refusal(code: ErrorCode, what: &str, why: String, next: &str) -> ErrorReport {
    ErrorReport {
        code,
        what: what.to_owned(),
        why,
        next: next.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, Read, Write};
    use std::os::unix::net::UnixStream as Client;

    use tokio::sync::mpsc;
    use wattle_host::{Netlink, Wake};

    use super::*;
    use crate::kernel::Table;
    use crate::query::{EventFeed, QUERY_QUEUE, Query};
    use crate::worker_handle::WorkerHandle;

    const FOLLOW: &[u8] = b"{\"op\":\"events\",\"follow\":true}\n";
    const VERSION: &[u8] = b"{\"op\":\"version\"}\n";

    #[tokio::test(flavor = "multi_thread")]
    async fn followers_that_went_away_make_room_although_nothing_happens() {
        let socket = Socket::serve();
        for _ in 0..3 {
            let followers: Vec<Client> = (0..MAX_CLIENTS).map(|_| socket.asks(FOLLOW)).collect();
            socket.eventually_follow(MAX_CLIENTS).await;
            drop(followers);
            socket.eventually_follow(0).await;
        }
        assert_eq!(answer(socket.asks(VERSION))["kind"], "version");
        assert_eq!(socket.turned_away.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_client_too_many_is_told_so_and_counted() {
        let socket = Socket::serve();
        let _followers: Vec<Client> = (0..MAX_CLIENTS).map(|_| socket.asks(FOLLOW)).collect();
        socket.eventually_follow(MAX_CLIENTS).await;
        let refused = answer(socket.asks(b""));
        assert_eq!(refused["data"]["code"], "busy", "{refused}");
        assert_eq!(socket.turned_away.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_follower_may_ask_something_else() {
        let socket = Socket::serve();
        let mut client = socket.asks(FOLLOW);
        socket.eventually_follow(1).await;
        client.write_all(VERSION).unwrap();
        let mut lines = std::io::BufReader::new(client).lines();
        assert_eq!(lines.next().unwrap().unwrap(), r#"{"kind":"done"}"#);
        assert!(lines.next().unwrap().unwrap().contains("version"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_too_long_or_no_request_ends_the_connection() {
        let socket = Socket::serve();
        let long = [
            b"{\"op\":\"",
            "v".repeat(MAX_REQUEST_BYTES).as_bytes(),
            b"\"}\n",
        ]
        .concat();
        let mut client = socket.asks(&long);
        let mut said = Vec::new();
        // The rest of the line was not read, so the kernel may say that it was reset.
        let _reset = client.read_to_end(&mut said);
        assert_eq!(said, b"");

        let mut client = socket.asks(b"{\"op\":\"format_disk\"}\n");
        let mut said = String::new();
        client.read_to_string(&mut said).unwrap();
        assert!(
            said.contains("usage") && said.lines().count() == 1,
            "{said}"
        );
    }

    #[test]
    fn who_is_in_neither_group_may_nothing_and_readers_may_look() {
        let reader = Caller {
            uid: 7,
            role: Role::Reader,
        };
        let leave = Request::Leave {};
        assert_eq!(permitted(Some(reader), &Request::Status {}), Ok(reader));
        let refused = permitted(Some(reader), &leave).unwrap_err();
        assert!(refused.why.contains(ADMIN_GROUP), "{refused}");
        let refused = permitted(None, &Request::Status {}).unwrap_err();
        assert!(refused.why.contains(READ_GROUP), "{refused}");
        let root = caller_of(0, 0).unwrap();
        assert_eq!(permitted(Some(root), &leave), Ok(root));
    }

    /// A socket in front of an engine that knows its version and an empty event log.
    struct Socket {
        directory: tempfile::TempDir,
        events: broadcast::Sender<EventReport>,
        places: Arc<Semaphore>,
        turned_away: Arc<AtomicU64>,
    }

    impl Socket {
        fn serve() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let socket = LocalSocket::bind(&directory.path().join("s")).unwrap();
            let turned_away = socket.turned_away();
            let (queries, asked) = mpsc::channel(QUERY_QUEUE);
            let table = Table::new(Netlink::connect().unwrap(), "none".to_owned(), 0, 0);
            let engine = EngineHandle::new(
                queries,
                WorkerHandle::new(vec![Wake::new().unwrap()]),
                table,
            );
            let (events, _) = broadcast::channel(1);
            let places = Arc::clone(&socket.places);
            tokio::spawn(serve_queries(asked, events.clone()));
            tokio::spawn(socket.serve(engine));
            Self {
                directory,
                events,
                places,
                turned_away,
            }
        }

        fn asks(&self, line: &[u8]) -> Client {
            let mut client = Client::connect(self.directory.path().join("s")).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.write_all(line).unwrap();
            client
        }

        async fn eventually_follow(&self, followers: usize) {
            for _ in 0..500 {
                let taken = MAX_CLIENTS - self.places.available_permits();
                if (taken, self.events.receiver_count()) == (followers, followers) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("{} follow, not {followers}", self.events.receiver_count());
        }
    }

    async fn serve_queries(
        mut asked: mpsc::Receiver<Query>,
        events: broadcast::Sender<EventReport>,
    ) {
        while let Some(query) = asked.recv().await {
            match query {
                Query::Events(reply) => {
                    let feed = EventFeed {
                        kept: Vec::new(),
                        coming: events.subscribe(),
                    };
                    let _gone = reply.send(feed);
                }
                Query::Local { reply, .. } => {
                    let version = wattle_control::VersionReport {
                        version: "0".to_owned(),
                    };
                    let _gone = reply.send(Reply::Version(version));
                }
            }
        }
    }

    fn answer(client: Client) -> serde_json::Value {
        let mut line = String::new();
        std::io::BufReader::new(client)
            .read_line(&mut line)
            .unwrap();
        serde_json::from_str(&line).unwrap()
    }
}
