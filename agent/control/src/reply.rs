//! What the agent answers.

use serde::{Deserialize, Serialize};

use crate::report::{
    EventReport, ExplainReport, LinksReport, MetricsReport, PathReport, PeersReport, PingReport,
    RoutesReport, StatusReport, TopoReport, VersionReport, WhoamiReport,
};

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "data", rename_all = "snake_case")]
pub enum Reply {
    /// To `status`.
    Status(Box<StatusReport>),
    /// To `peers`.
    Peers(PeersReport),
    /// To `links`.
    Links(LinksReport),
    /// To `routes`.
    Routes(RoutesReport),
    /// To `topo`.
    Topo(TopoReport),
    /// To `path`.
    Path(PathReport),
    /// To `explain`.
    Explain(Box<ExplainReport>),
    /// One of those to `ping`.
    Ping(PingReport),
    /// One of those to `events`.
    Event(EventReport),
    /// To `whoami`.
    Whoami(WhoamiReport),
    /// To `metrics`.
    Metrics(MetricsReport),
    /// To `version`.
    Version(VersionReport),
    /// The end of a stream, or an order carried out.
    Done,
    /// The request was not answered; nothing was changed.
    Error(ErrorReport),
}

impl Reply {
    /// The name of the variant on the wire, for messages about a reply that does not fit.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Status(_) => "status",
            Self::Peers(_) => "peers",
            Self::Links(_) => "links",
            Self::Routes(_) => "routes",
            Self::Topo(_) => "topo",
            Self::Path(_) => "path",
            Self::Explain(_) => "explain",
            Self::Ping(_) => "ping",
            Self::Event(_) => "event",
            Self::Whoami(_) => "whoami",
            Self::Metrics(_) => "metrics",
            Self::Version(_) => "version",
            Self::Done => "done",
            Self::Error(_) => "error",
        }
    }
}

/// Why a request was not answered: what, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// The class, which decides the exit code of the command line.
    pub code: ErrorCode,
    /// What did not work.
    pub what: String,
    /// The reason.
    pub why: String,
    /// What to do, a command where there is one.
    pub next: String,
}

impl std::fmt::Display for ErrorReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

/// Classes of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request is not well-formed.
    Usage,
    /// No node, link or route of that name.
    NotFound,
    /// The caller may not do that.
    Permission,
    /// Too many clients, or too much asked for.
    Busy,
    /// The agent does not know how to do that.
    Unsupported,
    /// The agent gave up waiting.
    Timeout,
    /// Anything else.
    Failure,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_names_its_kind_as_the_code_does() {
        let error = Reply::Error(ErrorReport {
            code: ErrorCode::NotFound,
            what: "no node `db-9`".into(),
            why: "the peer set has no such name".into(),
            next: "wattle peers".into(),
        });
        let replies = [
            Reply::Done,
            error,
            Reply::Metrics(MetricsReport {
                text: String::new(),
            }),
            Reply::Peers(PeersReport { peers: Vec::new() }),
        ];
        for reply in replies {
            let value = serde_json::to_value(&reply).unwrap();
            assert_eq!(value["kind"], reply.kind());
            assert_eq!(serde_json::from_value::<Reply>(value).unwrap(), reply);
        }
    }
}
