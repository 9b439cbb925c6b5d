//! Access rights as Kafka keeps them: who may do what, on which thing, from where.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One right.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Acl {
    /// Who: `User:name`.
    pub principal: String,
    /// On what kind of thing.
    pub resource: Resource,
    /// On which one.
    pub name: String,
    /// Whether `name` is the whole name or its beginning.
    pub pattern: Pattern,
    /// What may be done.
    pub operation: Operation,
    /// Whether it is allowed or forbidden.
    pub permission: Permission,
    /// From where: an address, or `*`.
    pub host: String,
}

impl Acl {
    /// The name that the cluster itself has as a resource.
    pub const CLUSTER: &'static str = "kafka-cluster";

    /// Allows `principal` from anywhere to do `operation`.
    pub fn allow(
        principal: &str,
        resource: Resource,
        name: &str,
        pattern: Pattern,
        operation: Operation,
    ) -> Self {
        Self {
            principal: principal.to_owned(),
            resource,
            name: name.to_owned(),
            pattern,
            operation,
            permission: Permission::Allow,
            host: "*".to_owned(),
        }
    }
}

impl fmt::Display for Acl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = match self.pattern {
            Pattern::Literal => "",
            Pattern::Prefixed => "*",
        };
        let (permission, operation) = (self.permission.word(), self.operation.word());
        write!(
            f,
            "{permission} {operation} on {} {}{star}",
            self.resource.word(),
            self.name
        )?;
        if self.host != "*" {
            write!(f, " from {}", self.host)?;
        }
        Ok(())
    }
}

/// An enumeration with Kafka's numbers and our words.
macro_rules! coded {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $code:literal $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Its number in Kafka's protocol.
            pub const fn code(self) -> i8 {
                match self {
                    $(Self::$variant => $code,)+
                }
            }

            /// The one with this number in Kafka's protocol.
            pub const fn of_code(code: i8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// Its word in documents.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }
    };
}

coded! {
    /// Kinds of things that rights are about.
    Resource {
        /// A topic.
        Topic = 2 "topic",
        /// A consumer group.
        Group = 3 "group",
        /// The cluster.
        Cluster = 4 "cluster",
        /// A producer's transactions.
        TransactionalId = 5 "transactional_id",
        /// A delegation token.
        DelegationToken = 6 "delegation_token",
        /// A user, for delegation tokens.
        User = 7 "user",
    }
}

coded! {
    /// How a name is meant.
    #[derive(Default)]
    Pattern {
        /// The whole name.
        #[default]
        Literal = 3 "literal",
        /// Its beginning.
        Prefixed = 4 "prefixed",
    }
}

coded! {
    /// What may be done.
    Operation {
        /// Everything.
        All = 2 "all",
        /// Read records, be a member of a group.
        Read = 3 "read",
        /// Write records.
        Write = 4 "write",
        /// Make it.
        Create = 5 "create",
        /// Delete it.
        Delete = 6 "delete",
        /// Change it.
        Alter = 7 "alter",
        /// Know that it exists.
        Describe = 8 "describe",
        /// What brokers do to each other.
        ClusterAction = 9 "cluster_action",
        /// Read its configuration.
        DescribeConfigs = 10 "describe_configs",
        /// Change its configuration.
        AlterConfigs = 11 "alter_configs",
        /// Write without transactions but without duplicates.
        IdempotentWrite = 12 "idempotent_write",
        /// Make delegation tokens for others.
        CreateTokens = 13 "create_tokens",
        /// See the delegation tokens of others.
        DescribeTokens = 14 "describe_tokens",
        /// Take part in two-phase commits.
        TwoPhaseCommit = 15 "two_phase_commit",
    }
}

coded! {
    /// Whether something is allowed or forbidden.
    #[derive(Default)]
    Permission {
        /// Forbidden, whatever else is allowed.
        Deny = 2 "deny",
        /// Allowed.
        #[default]
        Allow = 3 "allow",
    }
}
