//! The agent's local socket: what may be asked, what is answered, and a blocking client.
//!
//! One JSON object per line in each direction. A request that [`Request::streams`] is answered by
//! any number of lines and then [`Reply::Done`]; every other one by exactly one line. A line of
//! kind `error` ends the answer. Units stand in field names: `_us` microseconds of time or cost,
//! `_ppm` parts per million, `_ms` milliseconds. Knows nothing of how the agent finds its answers
//! and nothing of how they are shown. Follows `docs/protocol/local-socket.md`.

mod client;
mod line;
mod reply;
mod report;
mod request;

pub use client::{Client, ClientError, Refusal, Replies};
pub use line::{LineError, MAX_REPLY_BYTES, MAX_REQUEST_BYTES, decode, encode, read_line};
pub use reply::{ErrorCode, ErrorReport, Reply};
pub use report::{
    ApartReport, ChangeReport, CoordinatorReport, CoordinatorState, CostParts, DrainReport,
    EventReport, ExplainReport, HealthLevel, HealthLine, HopReport, LinkReport, LinksReport,
    MetricsReport, NetworkRef, NextHopReport, NodeRef, PathReport, PathRole, PeerReport, PeerState,
    PeersReport, PingReport, PolicyReport, PreferReport, Role, RouteReport, RouteSource,
    RoutesReport, StatusReport, TopoLink, TopoNode, TopoReport, VersionReport, WayReport,
    WhoamiReport,
};
pub use request::{Access, DrainMode, Request, RouteView};

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/wattle/wattled.sock";
