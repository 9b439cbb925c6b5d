//! The Unix socket on which local programs ask the agent (`docs/protocol/local-socket.md`).
//!
//! Decides who may ask (by the kernel's word on who calls), how many at once, how long and how much; what the answers
//! are is the engine's business. The accept loop never waits for a client.

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
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

    /// Serves clients for ever.
    pub(crate) async fn serve(self, engine: EngineHandle) {
        let places = Arc::new(Semaphore::new(MAX_CLIENTS));
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
            match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => {
                    let engine = engine.clone();
                    tokio::spawn(async move {
                        serve_client(stream, engine).await;
                        drop(place);
                    });
                }
                Err(_) => turn_away(&stream),
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
            Ok(request) => answer(request, caller, &engine, &mut writer).await,
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
    writer: &mut OwnedWriteHalf,
) -> io::Result<()> {
    let caller = match permitted(caller, &request) {
        Ok(caller) => caller,
        Err(refused) => return send(writer, &Reply::Error(refused)).await,
    };
    match request {
        Request::Events { follow } => stream_events(follow, engine, writer).await,
        Request::Ping { .. } => stream_pings(request, caller, engine, writer).await,
        _ => send(writer, &engine.ask(request, caller).await).await,
    }
}

async fn stream_events(
    follow: bool,
    engine: &EngineHandle,
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
        stream_coming(feed.coming, writer).await?;
    }
    send(writer, &Reply::Done).await
}

/// Tells events until the engine is gone.
async fn stream_coming(
    mut coming: broadcast::Receiver<EventReport>,
    writer: &mut OwnedWriteHalf,
) -> io::Result<()> {
    loop {
        match coming.recv().await {
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
    } = request
    else {
        return Ok(());
    };
    let way = match engine.ask(Request::Path { dst: dst.clone() }, caller).await {
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
