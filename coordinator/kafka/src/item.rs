//! One difference between what a cluster has and what it should have: what is to be done about it, whether that may be
//! done, and how.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Serialize;

use crate::acl::Acl;
use crate::document::User;
use crate::observed::Scram;
use crate::wanted::WantedTopic;

/// One thing that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Item {
    /// What it is about: `topic NAME`, `user NAME`, `right of NAME`.
    pub subject: String,
    /// What is to be done.
    pub action: Action,
    /// Each difference.
    pub differences: Vec<Difference>,
    /// Whether it may be done.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// How it is done.
    #[serde(skip)]
    pub change: Change,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Something is missing.
    Create,
    /// Something is otherwise.
    Change,
    /// Something is to be gone.
    Delete,
}

/// A difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Difference {
    /// Of what.
    pub field: String,
    /// As it is; none if it is not there.
    pub found: Option<String>,
    /// As it should be; none if it should not be there.
    pub wanted: Option<String>,
}

/// Whether a change may be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// At any time.
    Free,
    /// Only with a flag, because something is lost by it.
    Guarded {
        /// The flag.
        flag: Flag,
        /// What is lost.
        why: String,
    },
    /// Not in place.
    Refused {
        /// Why, and what to do instead.
        why: String,
    },
}

/// What an operator may allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Flag {
    /// Delete topics, users and rights.
    AllowDelete,
    /// Keep less than before: shorter, fewer copies.
    AllowShrink,
}

impl Flag {
    /// As it is typed.
    pub const fn option(self) -> &'static str {
        match self {
            Self::AllowDelete => "--allow-delete",
            Self::AllowShrink => "--allow-shrink",
        }
    }
}

/// How something is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Not at all: it is refused.
    Nothing,
    /// Make a topic; with the brokers of each partition, or as the cluster likes.
    CreateTopic {
        /// Its name.
        topic: String,
        /// What it should be like.
        wanted: WantedTopic,
        /// The brokers of each partition; empty for the cluster's own choice.
        replicas: Vec<Vec<i32>>,
    },
    /// Set some settings of a topic and leave the others.
    SetConfig {
        /// Its name.
        topic: String,
        /// The settings.
        settings: BTreeMap<String, String>,
    },
    /// Give a topic more partitions.
    AddPartitions {
        /// Its name.
        topic: String,
        /// How many it is to have.
        count: u32,
    },
    /// Move copies of partitions.
    Reassign {
        /// The topic.
        topic: String,
        /// The brokers of each partition that moves.
        replicas: BTreeMap<i32, Vec<i32>>,
    },
    /// Let the first copy of partitions lead.
    ElectLeaders {
        /// The topic.
        topic: String,
        /// Its partitions.
        partitions: Vec<i32>,
    },
    /// Give a user a password.
    SetPassword(Box<User>),
    /// Give a right.
    Grant(Acl),
    /// Take a right away.
    Revoke(Acl),
    /// Delete the passwords of a user.
    DeleteUser {
        /// The user.
        user: String,
        /// Which passwords.
        kinds: Vec<Scram>,
    },
    /// Delete a topic with all that is in it.
    DeleteTopic(String),
}

impl Difference {
    pub(crate) fn new(field: &str, found: Option<String>, wanted: Option<String>) -> Self {
        Self {
            field: field.to_owned(),
            found,
            wanted,
        }
    }
}

impl Verdict {
    /// Whether it may be done with these flags.
    pub fn allows(&self, flags: &BTreeSet<Flag>) -> bool {
        match self {
            Self::Free => true,
            Self::Guarded { flag, .. } => flags.contains(flag),
            Self::Refused { .. } => false,
        }
    }

    pub(crate) fn delete(why: &str) -> Self {
        Self::Guarded {
            flag: Flag::AllowDelete,
            why: why.to_owned(),
        }
    }

    pub(crate) fn fewer_copies() -> Self {
        Self::Guarded {
            flag: Flag::AllowShrink,
            why: "fewer brokers may fail before records are lost".to_owned(),
        }
    }
}
