//! Asking a cluster what it has, and changing one thing in it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::alter_user_scram_credentials_request::{
    ScramCredentialDeletion, ScramCredentialUpsertion,
};
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse,
    AlterUserScramCredentialsRequest, AlterUserScramCredentialsResponse, BrokerId,
    CreateAclsRequest, CreateAclsResponse, CreatePartitionsRequest, CreatePartitionsResponse,
    CreateTopicsRequest, CreateTopicsResponse, DeleteAclsRequest, DeleteAclsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, DescribeAclsRequest, DescribeAclsResponse,
    DescribeConfigsRequest, DescribeConfigsResponse, DescribeUserScramCredentialsRequest,
    DescribeUserScramCredentialsResponse, ElectLeadersRequest, ElectLeadersResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, MetadataRequest,
    MetadataResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use wattle_api::secret::{SecretRef, Secrets};
use wattle_api::stream::{Kafka, Sasl};
use zeroize::Zeroizing;

use crate::acl::{Acl, Operation, Pattern, Permission, Resource};
use crate::connection::{Connection, calls, refusal};
use crate::document::User;
use crate::error::ClusterError;
use crate::observed::{Observed, ObservedTopic, Partition, Scram};
use crate::plan::Change;
use crate::scram::salted_password;
use crate::wanted::{Wanted, WantedTopic};

calls! {
    MetadataRequest => MetadataResponse, Metadata, "ask for the topics";
    DescribeConfigsRequest => DescribeConfigsResponse, DescribeConfigs, "ask for settings";
    IncrementalAlterConfigsRequest => IncrementalAlterConfigsResponse, IncrementalAlterConfigs, "change settings";
    CreateTopicsRequest => CreateTopicsResponse, CreateTopics, "create a topic";
    CreatePartitionsRequest => CreatePartitionsResponse, CreatePartitions, "add partitions";
    DeleteTopicsRequest => DeleteTopicsResponse, DeleteTopics, "delete a topic";
    DescribeAclsRequest => DescribeAclsResponse, DescribeAcls, "ask for rights";
    CreateAclsRequest => CreateAclsResponse, CreateAcls, "grant a right";
    DeleteAclsRequest => DeleteAclsResponse, DeleteAcls, "revoke a right";
    DescribeUserScramCredentialsRequest => DescribeUserScramCredentialsResponse, DescribeUserScramCredentials, "ask for users";
    AlterUserScramCredentialsRequest => AlterUserScramCredentialsResponse, AlterUserScramCredentials, "change a user";
    AlterPartitionReassignmentsRequest => AlterPartitionReassignmentsResponse, AlterPartitionReassignments, "move copies";
    ListPartitionReassignmentsRequest => ListPartitionReassignmentsResponse, ListPartitionReassignments, "ask for moves";
    ElectLeadersRequest => ElectLeadersResponse, ElectLeaders, "elect leaders";
}

/// How long the cluster may take to act, in milliseconds.
const ACT_MS: i32 = 30_000;

/// Kafka's number for topics where settings are about.
const TOPIC: i8 = 2;

/// Kafka's number for brokers where settings are about.
const BROKER: i8 = 4;

/// Kafka's number for the setting of a value by an incremental change.
const SET: i8 = 0;

/// Kafka's number for a setting that was made for the topic alone.
const MADE_FOR_TOPIC: i8 = 1;

/// Kafka's number for "any" in filters of rights.
const ANY: i8 = 1;

/// Kafka's code of a partition that is led by its first copy already.
const ELECTION_NOT_NEEDED: i16 = 84;

/// Kafka's code of a user without passwords.
const NO_SUCH_USER: i16 = 91;

/// Bytes of salt for a password.
const SALT: usize = 24;

/// A cluster that can be asked and changed.
pub struct Admin<'a, S> {
    kafka: &'a Kafka,
    secrets: &'a S,
    connection: Option<Connection>,
}

impl<'a, S: Secrets> Admin<'a, S> {
    /// Connects and logs in.
    pub fn connect(kafka: &'a Kafka, secrets: &'a S) -> Result<Self, ClusterError> {
        let connection = Some(Connection::open(kafka, secrets)?);
        Ok(Self {
            kafka,
            secrets,
            connection,
        })
    }

    /// What the cluster has, as far as `wanted` speaks of it.
    pub fn observe(&mut self, wanted: &Wanted) -> Result<Observed, ClusterError> {
        let mut observed = self.on(|connection| metadata(connection, wanted))?;
        self.on(|connection| settings(connection, &mut observed.topics))?;
        if wanted.topics.values().any(WantedTopic::is_tiered) {
            observed.tiered = self.can_tier(observed.brokers.keys().copied().collect())?;
        }
        observed.moving = self.on(moving)?;
        observed.acls = match self.on(rights) {
            Ok(acls) => Some(acls),
            Err(error) if error.is_without_rights() => None,
            Err(error) => return Err(error),
        };
        if !wanted.users.is_empty() || !wanted.gone_users.is_empty() {
            observed.users = self.on(users)?;
            observed.other_passwords = self.try_passwords(wanted, &observed)?;
        }
        Ok(observed)
    }

    /// Makes one change.
    pub fn make(&mut self, change: &Change) -> Result<(), ClusterError> {
        match change {
            Change::Nothing => Ok(()),
            Change::CreateTopic {
                topic,
                wanted,
                replicas,
            } => self.on(|connection| create_topic(connection, topic, wanted, replicas)),
            Change::SetConfig { topic, settings } => {
                self.on(|connection| set_config(connection, topic, settings))
            }
            Change::AddPartitions { topic, count } => {
                self.on(|connection| add_partitions(connection, topic, *count))
            }
            Change::Reassign { topic, replicas } => {
                self.on(|connection| reassign(connection, topic, replicas))
            }
            Change::ElectLeaders { topic, partitions } => {
                self.on(|connection| elect(connection, topic, partitions))
            }
            Change::SetPassword(user) => self.set_password(user),
            Change::Grant(acl) => self.on(|connection| grant(connection, acl)),
            Change::Revoke(acl) => self.on(|connection| revoke(connection, acl)),
            Change::DeleteUser { user, kinds } => {
                self.on(|connection| delete_user(connection, user, kinds))
            }
            Change::DeleteTopic(topic) => self.on(|connection| delete_topic(connection, topic)),
        }
    }

    /// Whether the brokers can move segments to remote storage. A broker tells its own settings alone, and none says which
    /// it is: all are asked for until one answers.
    fn can_tier(&mut self, brokers: Vec<i32>) -> Result<bool, ClusterError> {
        let mut answer = Ok(false);
        for broker in brokers {
            answer = self.on(|connection| can_tier(connection, broker));
            match &answer {
                Err(error) if !error.ends_connection() => {}
                Ok(_) | Err(_) => break,
            }
        }
        answer
    }

    /// Waits until no copies of `topic` are being moved; false if they still are after `patience`.
    pub fn wait_for_moves(
        &mut self,
        topic: &str,
        patience: Duration,
    ) -> Result<bool, ClusterError> {
        let end = Instant::now() + patience;
        while self.on(moving)?.contains(topic) {
            if Instant::now() >= end {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(true)
    }

    /// Asks over the connection, or over another one if that broke.
    fn on<T>(
        &mut self,
        ask: impl FnOnce(&mut Connection) -> Result<T, ClusterError>,
    ) -> Result<T, ClusterError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(self.kafka, self.secrets)?,
        };
        let answer = ask(&mut connection);
        if answer
            .as_ref()
            .err()
            .is_none_or(|error| !error.ends_connection())
        {
            self.connection = Some(connection);
        }
        answer
    }

    /// The users whose password is another than the document's. A cluster never tells a password, so it is tried.
    fn try_passwords(
        &self,
        wanted: &Wanted,
        observed: &Observed,
    ) -> Result<BTreeSet<String>, ClusterError> {
        let mut others = BTreeSet::new();
        if !self.kafka.protocol.has_sasl() {
            return Ok(others);
        }
        for (name, user) in &wanted.users {
            let kind = Scram::of(user.mechanism);
            let known = observed.users.get(name).zip(kind);
            if known.is_some_and(|(kinds, kind)| kinds.contains_key(&kind))
                && !self.lets_in(user)?
            {
                others.insert(name.clone());
            }
        }
        Ok(others)
    }

    fn lets_in(&self, user: &User) -> Result<bool, ClusterError> {
        let Some(reference) = user.password() else {
            return Ok(true);
        };
        let password = read(&reference, self.secrets)?;
        let mut sasl = Sasl::in_file(&user.name, "");
        sasl.mechanism = user.mechanism;
        match Connection::open_as(self.kafka, self.secrets, Some((&sasl, password))) {
            Ok(_) => Ok(true),
            Err(ClusterError::Credentials { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn set_password(&mut self, user: &User) -> Result<(), ClusterError> {
        let (Some(reference), Some(kind)) = (user.password(), Scram::of(user.mechanism)) else {
            return Ok(());
        };
        let password = read(&reference, self.secrets)?;
        let mut salt = [0; SALT];
        getrandom::fill(&mut salt).map_err(|error| ClusterError::Tls {
            what: "cannot make a salt".to_owned(),
            why: error.to_string(),
        })?;
        let salted = salted_password(user.mechanism, &password, &salt, user.iterations);
        let salted = salted.unwrap_or_default();
        let change = ScramCredentialUpsertion::default()
            .with_name(text(&user.name))
            .with_mechanism(kind.code())
            .with_iterations(user.iterations as i32)
            .with_salt(Bytes::copy_from_slice(&salt))
            .with_salted_password(Bytes::copy_from_slice(&salted));
        let request = AlterUserScramCredentialsRequest::default().with_upsertions(vec![change]);
        self.on(|connection| alter_user(connection, &request))
    }
}

fn read(reference: &SecretRef, secrets: &impl Secrets) -> Result<Zeroizing<String>, ClusterError> {
    let setting = match reference {
        SecretRef::File(_) => "desired.users.password_file",
        SecretRef::Variable(_) => "desired.users.password_env",
        SecretRef::Credential(_) => "desired.users.password_credential",
    };
    Ok(reference.read(setting, secrets)?)
}

fn metadata(connection: &mut Connection, wanted: &Wanted) -> Result<Observed, ClusterError> {
    let answer = connection.call(&MetadataRequest::default().with_topics(None))?;
    let brokers = answer.brokers.into_iter();
    let brokers = brokers
        .map(|broker| (broker.node_id.0, broker.rack.map(|rack| rack.to_string())))
        .collect();
    let mut topics = BTreeMap::new();
    for topic in answer.topics {
        let Some(name) = topic.name.map(|name| name.0.to_string()) else {
            continue;
        };
        if !wanted.topics.contains_key(&name) && !wanted.gone_topics.contains(&name) {
            continue;
        }
        let mut partitions: Vec<_> = topic.partitions.into_iter().collect();
        partitions.sort_by_key(|partition| partition.partition_index);
        let partitions = partitions.into_iter().map(|partition| Partition {
            replicas: partition
                .replica_nodes
                .iter()
                .map(|broker| broker.0)
                .collect(),
            leader: partition.leader_id.0,
        });
        let partitions = partitions.collect();
        topics.insert(
            name,
            ObservedTopic {
                partitions,
                ..ObservedTopic::default()
            },
        );
    }
    Ok(Observed {
        brokers,
        topics,
        ..Observed::default()
    })
}

fn settings(
    connection: &mut Connection,
    topics: &mut BTreeMap<String, ObservedTopic>,
) -> Result<(), ClusterError> {
    if topics.is_empty() {
        return Ok(());
    }
    let resource = |name: &String| {
        DescribeConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(text(name))
            .with_configuration_keys(None)
    };
    let resources = topics.keys().map(resource).collect();
    let answer = connection.call(&DescribeConfigsRequest::default().with_resources(resources))?;
    for result in answer.results {
        done(result.error_code, result.error_message.as_ref())?;
        let Some(topic) = topics.get_mut(result.resource_name.as_str()) else {
            continue;
        };
        for setting in result.configs {
            let name = setting.name.to_string();
            if setting.config_source == MADE_FOR_TOPIC {
                topic.own.insert(name.clone());
            }
            let value = setting.value.map(|value| value.to_string());
            topic.config.insert(name, value.unwrap_or_default());
        }
    }
    Ok(())
}

/// Whether this broker, if it is this one, can move segments to remote storage.
fn can_tier(connection: &mut Connection, broker: i32) -> Result<bool, ClusterError> {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(BROKER)
        .with_resource_name(text(&broker.to_string()))
        .with_configuration_keys(Some(vec![text("remote.log.storage.system.enable")]));
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let answer = connection.call(&request)?;
    for result in &answer.results {
        done(result.error_code, result.error_message.as_ref())?;
    }
    let mut settings = answer.results.iter().flat_map(|result| &result.configs);
    Ok(settings.any(|setting| {
        setting
            .value
            .as_ref()
            .is_some_and(|value| value.as_str() == "true")
    }))
}

fn moving(connection: &mut Connection) -> Result<BTreeSet<String>, ClusterError> {
    let request = ListPartitionReassignmentsRequest::default()
        .with_timeout_ms(ACT_MS)
        .with_topics(None);
    let answer = connection.call(&request)?;
    done(answer.error_code, answer.error_message.as_ref())?;
    Ok(answer
        .topics
        .into_iter()
        .map(|topic| topic.name.0.to_string())
        .collect())
}

fn rights(connection: &mut Connection) -> Result<BTreeSet<Acl>, ClusterError> {
    let request = DescribeAclsRequest::default()
        .with_resource_type_filter(ANY)
        .with_pattern_type_filter(ANY)
        .with_operation(ANY)
        .with_permission_type(ANY)
        .with_resource_name_filter(None)
        .with_principal_filter(None)
        .with_host_filter(None);
    let answer = connection.call(&request)?;
    done(answer.error_code, answer.error_message.as_ref())?;
    let mut acls = BTreeSet::new();
    for resource in answer.resources {
        for acl in resource.acls {
            // Kinds that we have no word for are nobody's whom the document could name.
            let (Some(kind), Some(pattern), Some(operation), Some(permission)) = (
                Resource::of_code(resource.resource_type),
                Pattern::of_code(resource.pattern_type),
                Operation::of_code(acl.operation),
                Permission::of_code(acl.permission_type),
            ) else {
                continue;
            };
            acls.insert(Acl {
                principal: acl.principal.to_string(),
                resource: kind,
                name: resource.resource_name.to_string(),
                pattern,
                operation,
                permission,
                host: acl.host.to_string(),
            });
        }
    }
    Ok(acls)
}

type Users = BTreeMap<String, BTreeMap<Scram, u32>>;

fn users(connection: &mut Connection) -> Result<Users, ClusterError> {
    let request = DescribeUserScramCredentialsRequest::default().with_users(None);
    let answer = connection.call(&request)?;
    done(answer.error_code, answer.error_message.as_ref())?;
    let mut users = BTreeMap::new();
    for result in answer.results {
        if result.error_code == NO_SUCH_USER {
            continue;
        }
        done(result.error_code, result.error_message.as_ref())?;
        let kinds = result.credential_infos.iter().filter_map(|info| {
            let kind = Scram::of_code(info.mechanism)?;
            Some((kind, u32::try_from(info.iterations).ok()?))
        });
        users.insert(result.user.to_string(), kinds.collect());
    }
    Ok(users)
}

fn create_topic(
    connection: &mut Connection,
    name: &str,
    wanted: &WantedTopic,
    replicas: &[Vec<i32>],
) -> Result<(), ClusterError> {
    let configs = wanted.config.iter().map(|(key, value)| {
        CreatableTopicConfig::default()
            .with_name(text(key))
            .with_value(Some(text(value)))
    });
    let topic = CreatableTopic::default()
        .with_name(topic_name(name))
        .with_configs(configs.collect());
    let topic = if replicas.is_empty() {
        topic
            .with_num_partitions(wanted.partitions as i32)
            .with_replication_factor(wanted.replication.map_or(-1, |copies| copies as i16))
    } else {
        let assignments = (0..).zip(replicas).map(|(partition, brokers)| {
            CreatableReplicaAssignment::default()
                .with_partition_index(partition)
                .with_broker_ids(ids(brokers))
        });
        let assignments = assignments.collect();
        topic
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_assignments(assignments)
    };
    let request = CreateTopicsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(ACT_MS);
    let answer = connection.call(&request)?;
    let results = answer.topics.iter();
    all(results.map(|result| (result.error_code, result.error_message.as_ref())))
}

fn set_config(
    connection: &mut Connection,
    topic: &str,
    settings: &BTreeMap<String, String>,
) -> Result<(), ClusterError> {
    let configs = settings.iter().map(|(key, value)| {
        AlterableConfig::default()
            .with_name(text(key))
            .with_config_operation(SET)
            .with_value(Some(text(value)))
    });
    let resource = AlterConfigsResource::default()
        .with_resource_type(TOPIC)
        .with_resource_name(text(topic))
        .with_configs(configs.collect());
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let answer = connection.call(&request)?;
    let results = answer.responses.iter();
    all(results.map(|result| (result.error_code, result.error_message.as_ref())))
}

fn add_partitions(
    connection: &mut Connection,
    topic: &str,
    count: u32,
) -> Result<(), ClusterError> {
    let topic = CreatePartitionsTopic::default()
        .with_name(topic_name(topic))
        .with_count(count as i32)
        .with_assignments(None);
    let request = CreatePartitionsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(ACT_MS);
    let answer = connection.call(&request)?;
    let results = answer.results.iter();
    all(results.map(|result| (result.error_code, result.error_message.as_ref())))
}

fn reassign(
    connection: &mut Connection,
    topic: &str,
    replicas: &BTreeMap<i32, Vec<i32>>,
) -> Result<(), ClusterError> {
    let partitions = replicas.iter().map(|(partition, brokers)| {
        ReassignablePartition::default()
            .with_partition_index(*partition)
            .with_replicas(Some(ids(brokers)))
    });
    let topic = ReassignableTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(partitions.collect());
    let request = AlterPartitionReassignmentsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(ACT_MS);
    let answer = connection.call(&request)?;
    done(answer.error_code, answer.error_message.as_ref())?;
    let results = answer.responses.iter().flat_map(|topic| &topic.partitions);
    all(results.map(|result| (result.error_code, result.error_message.as_ref())))
}

fn elect(connection: &mut Connection, topic: &str, partitions: &[i32]) -> Result<(), ClusterError> {
    let topic = TopicPartitions::default()
        .with_topic(topic_name(topic))
        .with_partitions(partitions.to_vec());
    let request = ElectLeadersRequest::default()
        .with_topic_partitions(Some(vec![topic]))
        .with_timeout_ms(ACT_MS);
    let answer = connection.call(&request)?;
    done(answer.error_code, None)?;
    let results = answer.replica_election_results.iter();
    let results = results.flat_map(|topic| &topic.partition_result);
    let failed = results.filter(|result| result.error_code != ELECTION_NOT_NEEDED);
    all(failed.map(|result| (result.error_code, result.error_message.as_ref())))
}

fn alter_user(
    connection: &mut Connection,
    request: &AlterUserScramCredentialsRequest,
) -> Result<(), ClusterError> {
    let answer = connection.call(request)?;
    let results = answer.results.iter();
    all(results.map(|result| (result.error_code, result.error_message.as_ref())))
}

fn delete_user(
    connection: &mut Connection,
    user: &str,
    kinds: &[Scram],
) -> Result<(), ClusterError> {
    let deletions = kinds.iter().map(|kind| {
        ScramCredentialDeletion::default()
            .with_name(text(user))
            .with_mechanism(kind.code())
    });
    let request = AlterUserScramCredentialsRequest::default().with_deletions(deletions.collect());
    alter_user(connection, &request)
}

fn grant(connection: &mut Connection, acl: &Acl) -> Result<(), ClusterError> {
    let creation = AclCreation::default()
        .with_resource_type(acl.resource.code())
        .with_resource_name(text(&acl.name))
        .with_resource_pattern_type(acl.pattern.code())
        .with_principal(text(&acl.principal))
        .with_host(text(&acl.host))
        .with_operation(acl.operation.code())
        .with_permission_type(acl.permission.code());
    let answer = connection.call(&CreateAclsRequest::default().with_creations(vec![creation]))?;
    let results = answer.results.iter();
    all(results.map(|result| (result.error_code, result.error_message.as_ref())))
}

fn revoke(connection: &mut Connection, acl: &Acl) -> Result<(), ClusterError> {
    let filter = DeleteAclsFilter::default()
        .with_resource_type_filter(acl.resource.code())
        .with_resource_name_filter(Some(text(&acl.name)))
        .with_pattern_type_filter(acl.pattern.code())
        .with_principal_filter(Some(text(&acl.principal)))
        .with_host_filter(Some(text(&acl.host)))
        .with_operation(acl.operation.code())
        .with_permission_type(acl.permission.code());
    let answer = connection.call(&DeleteAclsRequest::default().with_filters(vec![filter]))?;
    let results = answer.filter_results.iter();
    all(results.map(|result| (result.error_code, result.error_message.as_ref())))
}

fn delete_topic(connection: &mut Connection, topic: &str) -> Result<(), ClusterError> {
    let name = topic_name(topic);
    let request = DeleteTopicsRequest::default().with_timeout_ms(ACT_MS);
    // Topics had no ids before version 6, and a request of either kind has one list only.
    let version = connection.version::<DeleteTopicsRequest>()?;
    let request = if version < 6 {
        request.with_topic_names(vec![name])
    } else {
        request.with_topics(vec![DeleteTopicState::default().with_name(Some(name))])
    };
    let answer = connection.call(&request)?;
    let results = answer.responses.iter();
    all(results.map(|result| (result.error_code, result.error_message.as_ref())))
}

fn done(code: i16, message: Option<&StrBytes>) -> Result<(), ClusterError> {
    refusal(code, message).map_or(Ok(()), Err)
}

fn all<'m>(
    mut results: impl Iterator<Item = (i16, Option<&'m StrBytes>)>,
) -> Result<(), ClusterError> {
    results.try_for_each(|(code, message)| done(code, message))
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

fn ids(brokers: &[i32]) -> Vec<BrokerId> {
    brokers.iter().copied().map(BrokerId).collect()
}
