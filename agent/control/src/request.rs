//! What a local program may ask the agent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wattle_model::Class;

/// A question or an order, as it stands on one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The agent at a glance.
    Status {},
    /// Every other node of the peer set.
    Peers {},
    /// The links of this node.
    Links {
        /// Only those to the neighbour of this name, node id or link number.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// Routes, from one of the places where they live.
    Routes {
        /// Which place.
        #[serde(default)]
        view: RouteView,
        /// Those of packets of this class.
        #[serde(default, skip_serializing_if = "Class::is_latency")]
        class: Class,
    },
    /// The link-state database as a graph.
    Topo {},
    /// The computed way to a destination, with its backup.
    Path {
        /// A node's name or id, or an address.
        dst: String,
        /// That of packets of this class.
        #[serde(default, skip_serializing_if = "Class::is_latency")]
        class: Class,
    },
    /// Why traffic to a destination goes the way it goes.
    Explain {
        /// A node's name or id, or an address.
        dst: String,
        /// Traffic of this class.
        #[serde(default, skip_serializing_if = "Class::is_latency")]
        class: Class,
    },
    /// Measured round trips to a destination; streams one [`crate::PingReport`] each.
    Ping {
        /// A node's name or id, or an address.
        dst: String,
        /// How many.
        #[serde(default = "one")]
        count: u32,
        /// From one to the next.
        #[serde(default = "one_second_ms")]
        interval_ms: u32,
        /// After how long a reply counts as lost.
        #[serde(default = "one_second_ms")]
        timeout_ms: u32,
        /// With packets of this class.
        #[serde(default, skip_serializing_if = "Class::is_latency")]
        class: Class,
    },
    /// What happened; streams one [`crate::EventReport`] each.
    Events {
        /// Whether to go on with what will happen after the last kept event.
        #[serde(default)]
        follow: bool,
    },
    /// Who the agent is, and who it takes the caller for.
    Whoami {},
    /// Leave the network: tell the others, forget the peer set, stop.
    Leave {},
    /// Give no transit, or only where there is no other way.
    Drain {
        /// Which of the two.
        mode: DrainMode,
        /// For so many seconds; until it is taken back if left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_s: Option<u64>,
    },
    /// Give transit as usual.
    Undrain {},
    /// Send packets over a neighbour as long as it is nearer to their destination than this node.
    Prefer {
        /// The neighbour's name or id; none takes the preference back.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        via: Option<String>,
        /// Only those to this node, by its name, id or address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dst: Option<String>,
        /// For so many seconds; until it is taken back if left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_s: Option<u64>,
    },
    /// All metrics as Prometheus text.
    Metrics {},
    /// The agent's version.
    Version {},
}

const fn one() -> u32 {
    1
}

const fn one_second_ms() -> u32 {
    1_000
}

/// How much transit a drained node gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DrainMode {
    /// Where there is no other way.
    Soft,
    /// None.
    Hard,
}

/// Where routes are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteView {
    /// What routing decided, with costs and backups.
    #[default]
    Rib,
    /// What the data worker forwards by.
    Fib,
    /// What the agent has put into the kernel.
    Kernel,
}

/// What a caller needs to be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Looking: group `wattle`.
    Read,
    /// Changing: root or group `wattle-admin`.
    Change,
}

impl Request {
    /// The right that the request takes.
    pub const fn access(&self) -> Access {
        match self {
            Self::Leave {} | Self::Drain { .. } | Self::Undrain {} | Self::Prefer { .. } => {
                Access::Change
            }
            Self::Status {}
            | Self::Peers {}
            | Self::Links { .. }
            | Self::Routes { .. }
            | Self::Topo {}
            | Self::Path { .. }
            | Self::Explain { .. }
            | Self::Ping { .. }
            | Self::Events { .. }
            | Self::Whoami {}
            | Self::Metrics {}
            | Self::Version {} => Access::Read,
        }
    }

    /// Whether the answer is many lines up to [`crate::Reply::Done`] instead of one.
    pub const fn streams(&self) -> bool {
        matches!(self, Self::Ping { .. } | Self::Events { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_short_object_named_by_its_op() {
        let path = |class| {
            let dst = "r3".into();
            serde_json::to_string(&Request::Path { dst, class }).unwrap()
        };
        assert_eq!(path(Class::Latency), r#"{"op":"path","dst":"r3"}"#);
        assert_eq!(
            path(Class::Bulk),
            r#"{"op":"path","dst":"r3","class":"bulk"}"#
        );
        assert_eq!(
            serde_json::to_string(&Request::Status {}).unwrap(),
            r#"{"op":"status"}"#
        );
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let ping: Request = serde_json::from_str(r#"{"op":"ping","dst":"r3"}"#).unwrap();
        let whole = Request::Ping {
            dst: "r3".into(),
            count: 1,
            interval_ms: 1_000,
            timeout_ms: 1_000,
            class: Class::Latency,
        };
        assert_eq!(ping, whole);
        let routes: Request = serde_json::from_str(r#"{"op":"routes"}"#).unwrap();
        assert_eq!(
            routes,
            Request::Routes {
                view: RouteView::Rib,
                class: Class::Latency,
            }
        );
    }

    #[test]
    fn unknown_ops_and_keys_are_refused() {
        assert!(serde_json::from_str::<Request>(r#"{"op":"format_disk"}"#).is_err());
        assert!(serde_json::from_str::<Request>(r#"{"op":"status","extra":1}"#).is_err());
        assert!(serde_json::from_str::<Request>(r#"{"op":"path"}"#).is_err());
    }

    #[test]
    fn leaving_draining_and_preferring_take_the_right_to_change() {
        let drain: Request = serde_json::from_str(r#"{"op":"drain","mode":"soft"}"#).unwrap();
        assert_eq!(drain.access(), Access::Change);
        assert_eq!(Request::Undrain {}.access(), Access::Change);
        let prefer: Request = serde_json::from_str(r#"{"op":"prefer","via":"r2"}"#).unwrap();
        assert_eq!(prefer.access(), Access::Change);
        assert_eq!(Request::Leave {}.access(), Access::Change);
        assert_eq!(Request::Metrics {}.access(), Access::Read);
    }
}
