//! What a cluster should have, worked out from the document: its topics with the network's own, and every single right.

use std::collections::{BTreeMap, BTreeSet};

use wattle_api::stream::{Kafka, partition_of, transactional_id};
use wattle_api::topics::desired_topics;

use crate::acl::{Acl, Operation, Pattern, Resource};
use crate::document::{Desired, Role, TieredTopics, Topic, User};

/// What a cluster should have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// The topics, by name.
    pub topics: BTreeMap<String, WantedTopic>,
    /// The users with passwords, by name.
    pub users: BTreeMap<String, User>,
    /// The rights.
    pub acls: BTreeSet<Acl>,
    /// Whose rights these are; what others may do is not looked at.
    pub principals: BTreeSet<String>,
    /// Topics that should be gone.
    pub gone_topics: BTreeSet<String>,
    /// Users that should be gone.
    pub gone_users: BTreeSet<String>,
}

/// What a topic should be like.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WantedTopic {
    /// How many partitions.
    pub partitions: u32,
    /// Copies; the cluster's default if absent.
    pub replication: Option<u16>,
    /// Settings; what is not named stays as it is.
    pub config: BTreeMap<String, String>,
    /// A key's place follows from the number of partitions, so that must not change.
    pub keyed: bool,
    /// In which racks partitions should be led.
    pub leaders: BTreeMap<i32, String>,
}

/// Why a document asks for what cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// Kafka keeps compacted topics on the brokers' disks alone.
    #[error(
        "{0} is compacted and to be in remote storage, which Kafka refuses: drop `remote.storage.enable`, or use \
         `cleanup.policy = \"delete\"`"
    )]
    TieredAndCompacted(String),
    /// A topic of the network is described by hand as well.
    #[error(
        "{0} is a topic of the network: its shape follows from kafka.topics, so remove it from desired.topics"
    )]
    Twice(String),
    /// Two sites in one partition, but in different racks.
    #[error(
        "desired.leaders: {first} and {second} share partition {partition}, which cannot be led in two racks"
    )]
    TwoRacks {
        /// One site.
        first: String,
        /// The other.
        second: String,
        /// The partition.
        partition: u32,
    },
}

impl Wanted {
    /// Works out what a document asks for.
    pub fn of(desired: &Desired, kafka: &Kafka) -> Result<Self, Impossible> {
        let mut wanted = Self {
            gone_topics: desired.remove.topics.clone(),
            gone_users: desired.remove.users.clone(),
            ..Self::default()
        };
        if let Some(network) = &desired.network {
            wanted.add_network(desired, kafka, network)?;
        }
        for topic in &desired.topics {
            wanted.add_topic(topic)?;
        }
        for user in &desired.users {
            wanted.add_user(user, desired.network.as_deref(), kafka);
        }
        for rule in &desired.acls {
            wanted.principals.insert(rule.principal.clone());
            wanted
                .acls
                .extend(rule.operations.iter().map(|operation| Acl {
                    principal: rule.principal.clone(),
                    resource: rule.resource,
                    name: rule.name.clone(),
                    pattern: rule.pattern,
                    operation: *operation,
                    permission: rule.permission,
                    host: rule.host.clone(),
                }));
        }
        match wanted
            .topics
            .iter()
            .find(|(_, topic)| topic.is_tiered() && topic.is_compacted())
        {
            Some((name, _)) => Err(Impossible::TieredAndCompacted(name.clone())),
            None => Ok(wanted),
        }
    }

    /// The topics of the network.
    fn add_network(
        &mut self,
        desired: &Desired,
        kafka: &Kafka,
        network: &str,
    ) -> Result<(), Impossible> {
        let leaders = leaders(&desired.leaders, kafka)?;
        for spec in desired_topics(&kafka.topics_of(network), &kafka.topics) {
            let config = spec.config.into_iter();
            let mut topic = WantedTopic {
                partitions: spec.partitions,
                replication: spec.replication,
                config: config.map(|(key, value)| (key.to_owned(), value)).collect(),
                keyed: true,
                leaders: BTreeMap::new(),
            };
            if spec.partitions == kafka.topics.partitions {
                // A slot map says where records are, whatever the number of partitions is.
                topic.keyed = kafka.slots.newest().is_none();
                topic.leaders.clone_from(&leaders);
            }
            if let Some(tiered) = &desired.tiered {
                topic.tier(tiered);
            }
            self.topics.insert(spec.name, topic);
        }
        Ok(())
    }

    fn add_topic(&mut self, topic: &Topic) -> Result<(), Impossible> {
        let wanted = WantedTopic {
            partitions: topic.partitions,
            replication: topic.replication,
            config: topic.config.clone(),
            ..WantedTopic::default()
        };
        let keyed = wanted.is_compacted();
        match self
            .topics
            .insert(topic.name.clone(), WantedTopic { keyed, ..wanted })
        {
            Some(_) => Err(Impossible::Twice(topic.name.clone())),
            None => Ok(()),
        }
    }

    fn add_user(&mut self, user: &User, network: Option<&str>, kafka: &Kafka) {
        let principal = principal(&user.name);
        if user.password().is_some() {
            self.users.insert(user.name.clone(), user.clone());
        }
        if let (Some(role), Some(network)) = (user.role, network) {
            self.acls
                .extend(rights(user, role, &principal, network, kafka));
        }
        self.principals.insert(principal);
    }
}

impl WantedTopic {
    /// Whether the newest record of each key is kept for ever.
    pub fn is_compacted(&self) -> bool {
        self.config
            .get("cleanup.policy")
            .is_some_and(|policy| policy.contains("compact"))
    }

    /// Whether old segments should go to remote storage.
    pub fn is_tiered(&self) -> bool {
        self.config
            .get(REMOTE)
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    fn tier(&mut self, tiered: &TieredTopics) {
        if self.is_compacted() {
            return;
        }
        let local = u64::from(tiered.local_hours) * HOUR_MS;
        self.config.insert(REMOTE.to_owned(), "true".to_owned());
        self.config
            .insert("local.retention.ms".to_owned(), local.to_string());
    }
}

/// The setting that sends old segments to remote storage.
pub(crate) const REMOTE: &str = "remote.storage.enable";

const HOUR_MS: u64 = 3_600_000;

/// The name that rights know a user by.
pub(crate) fn principal(user: &str) -> String {
    format!("User:{user}")
}

/// What a role may do.
fn rights(user: &User, role: Role, principal: &str, network: &str, kafka: &Kafka) -> Vec<Acl> {
    let prefix = match &kafka.topic_prefix {
        Some(prefix) => format!("{prefix}."),
        None => format!("wattle.{network}."),
    };
    let topics = |operation| {
        Acl::allow(
            principal,
            Resource::Topic,
            &prefix,
            Pattern::Prefixed,
            operation,
        )
    };
    let group = |name: &str, pattern| {
        Acl::allow(principal, Resource::Group, name, pattern, Operation::Read)
    };
    match role {
        Role::Mirror => {
            let id = transactional_id(network);
            let transactions = |operation| {
                Acl::allow(
                    principal,
                    Resource::TransactionalId,
                    &id,
                    Pattern::Literal,
                    operation,
                )
            };
            let on_topics = [
                Operation::Create,
                Operation::Describe,
                Operation::DescribeConfigs,
                Operation::Read,
                Operation::Write,
            ];
            let on_transactions = [Operation::Describe, Operation::Write];
            let all = on_topics.map(topics).into_iter();
            // Which rack a broker is in is one of its settings.
            let on_cluster = (!kafka.topics.racks.is_empty()).then(|| {
                Acl::allow(
                    principal,
                    Resource::Cluster,
                    Acl::CLUSTER,
                    Pattern::Literal,
                    Operation::DescribeConfigs,
                )
            });
            // Its consumers never join the group, but librdkafka asks for its coordinator.
            all.chain(on_transactions.map(transactions))
                .chain([group(&id, Pattern::Literal)])
                .chain(on_cluster)
                .collect()
        }
        Role::Reader => {
            let groups = user.group_prefix.as_deref().unwrap_or(&user.name);
            let on_topics = [
                Operation::Describe,
                Operation::DescribeConfigs,
                Operation::Read,
            ];
            let own = group(groups, Pattern::Prefixed);
            let of_wattle = group(READERS_GROUP, Pattern::Literal);
            on_topics
                .map(topics)
                .into_iter()
                .chain([own, of_wattle])
                .collect()
        }
    }
}

/// The group that `wattle topology` names, without ever joining it.
const READERS_GROUP: &str = "wattle-topology";

/// The racks in which partitions are led: those of `kafka.topics.racks`, and of the sites whose records are there.
fn leaders(
    sites: &BTreeMap<String, String>,
    kafka: &Kafka,
) -> Result<BTreeMap<i32, String>, Impossible> {
    let mut taken: BTreeMap<u32, (&str, &String)> = BTreeMap::new();
    for (partition, rack) in (0..).zip(&kafka.topics.racks) {
        taken.insert(partition, ("kafka.topics.racks", rack));
    }
    for (site, rack) in sites {
        for partition in partitions_of(site, kafka) {
            let (first, known) = *taken.entry(partition).or_insert((site, rack));
            if known != rack {
                let (first, second) = (first.to_owned(), site.clone());
                return Err(Impossible::TwoRacks {
                    first,
                    second,
                    partition,
                });
            }
        }
    }
    let leaders = taken.into_iter();
    Ok(leaders
        .map(|(partition, (_, rack))| (partition as i32, rack.clone()))
        .collect())
}

/// The partitions to which the records of a site go.
fn partitions_of(site: &str, kafka: &Kafka) -> Vec<u32> {
    let Some(slots) = kafka.slots.newest() else {
        return vec![partition_of(Some(site), "", kafka.topics.partitions)];
    };
    let mut named = slots.sites.iter();
    let own = named.find(|(name, _)| name.to_string() == site);
    own.map_or(&slots.default, |(_, slots)| slots).clone()
}
