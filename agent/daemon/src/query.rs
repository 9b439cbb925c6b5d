//! How tasks ask the engine: a bounded queue of questions, each with the way back for its answer.

use tokio::sync::{broadcast, mpsc, oneshot};
use wattle_control::{ErrorCode, ErrorReport, EventReport, Reply, Request, Role, RouteView};

use crate::kernel::Table;
use crate::worker_handle::{WorkerHandle, WorkerReport};

/// Questions that wait for the engine. Each is a request of at most a page: 256 KiB at most.
pub(crate) const QUERY_QUEUE: usize = 64;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The user, by the socket's credentials.
    pub(crate) uid: u32,
    /// What the user may do.
    pub(crate) role: Role,
}

/// The kept events, and the ones to come.
pub(crate) struct EventFeed {
    /// Oldest first.
    pub(crate) kept: Vec<EventReport>,
    /// What happens from here on.
    pub(crate) coming: broadcast::Receiver<EventReport>,
}

/// A question to the engine.
pub(crate) enum Query {
    /// A request of the local socket that has one answer.
    Local {
        /// The request.
        request: Request,
        /// Who asks.
        caller: Caller,
        /// The counters of the data worker, taken just before.
        worker: Option<Box<WorkerReport>>,
        /// Where the answer goes.
        reply: oneshot::Sender<Reply>,
    },
    /// The event log.
    Events(oneshot::Sender<EventFeed>),
}

/// The way to the engine, and to what can be seen without it.
#[derive(Clone)]
pub(crate) struct EngineHandle {
    queries: mpsc::Sender<Query>,
    worker: WorkerHandle,
    kernel: Table,
}

impl EngineHandle {
    /// A handle that puts questions into `queries`, and asks `worker` for its counters first; `kernel` answers what
    /// is asked about it.
    pub(crate) const fn new(
        queries: mpsc::Sender<Query>,
        worker: WorkerHandle,
        kernel: Table,
    ) -> Self {
        Self {
            queries,
            worker,
            kernel,
        }
    }

    /// Asks for one answer.
    pub(crate) async fn ask(&self, request: Request, caller: Caller) -> Reply {
        let of_kernel = |view: &RouteView| *view == RouteView::Kernel;
        if matches!(&request, Request::Routes { view, .. } if of_kernel(view)) {
            return self.kernel.routes().await;
        }
        let worker = self.worker.status().await.map(Box::new);
        let (reply, answer) = oneshot::channel();
        let query = Query::Local {
            request,
            caller,
            worker,
            reply,
        };
        if self.queries.try_send(query).is_err() {
            return Reply::Error(busy());
        }
        answer.await.unwrap_or_else(|_| Reply::Error(stopping()))
    }

    /// Asks for the event log.
    pub(crate) async fn events(&self) -> Result<EventFeed, ErrorReport> {
        let (reply, answer) = oneshot::channel();
        self.queries
            .try_send(Query::Events(reply))
            .map_err(|_| busy())?;
        answer.await.map_err(|_| stopping())
    }
}

fn busy() -> ErrorReport {
    ErrorReport {
        code: ErrorCode::Busy,
        what: "the question was not taken".into(),
        why: "too many questions wait for the agent's engine".into(),
        next: "try again in a moment".into(),
    }
}

fn stopping() -> ErrorReport {
    ErrorReport {
        code: ErrorCode::Failure,
        what: "the question was not answered".into(),
        why: "the agent is stopping".into(),
        next: "systemctl status wattled".into(),
    }
}
