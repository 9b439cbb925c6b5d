//! What is changed in a cluster, one thing at a time.

use std::collections::BTreeMap;

use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::alter_user_scram_credentials_request::ScramCredentialDeletion;
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse,
    AlterUserScramCredentialsRequest, AlterUserScramCredentialsResponse, BrokerId,
    CreateAclsRequest, CreateAclsResponse, CreatePartitionsRequest, CreatePartitionsResponse,
    CreateTopicsRequest, CreateTopicsResponse, DeleteAclsRequest, DeleteAclsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, ElectLeadersRequest, ElectLeadersResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use crate::acl::Acl;
use crate::connection::{Connection, TOPIC, calls, done, text};
use crate::error::ClusterError;
use crate::observed::Scram;
use crate::wanted::WantedTopic;

calls! {
    IncrementalAlterConfigsRequest => IncrementalAlterConfigsResponse, IncrementalAlterConfigs, "change settings";
    CreateTopicsRequest => CreateTopicsResponse, CreateTopics, "create a topic";
    CreatePartitionsRequest => CreatePartitionsResponse, CreatePartitions, "add partitions";
    DeleteTopicsRequest => DeleteTopicsResponse, DeleteTopics, "delete a topic";
    CreateAclsRequest => CreateAclsResponse, CreateAcls, "grant a right";
    DeleteAclsRequest => DeleteAclsResponse, DeleteAcls, "revoke a right";
    AlterUserScramCredentialsRequest => AlterUserScramCredentialsResponse, AlterUserScramCredentials, "change a user";
    AlterPartitionReassignmentsRequest => AlterPartitionReassignmentsResponse, AlterPartitionReassignments, "move copies";
    ElectLeadersRequest => ElectLeadersResponse, ElectLeaders, "elect leaders";
}

/// How long the cluster may take to act, in milliseconds.
const ACT_MS: i32 = 30_000;

/// Kafka's number for the setting of a value by an incremental change.
const SET: i8 = 0;

/// Kafka's code of a partition that is led by its first copy already.
const ELECTION_NOT_NEEDED: i16 = 84;

/// Makes a topic; with `replicas` of each partition, or as the cluster likes if there are none.
pub(crate) fn create_topic(
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

/// Sets some settings of a topic and leaves the others.
pub(crate) fn set_config(
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

/// Gives a topic more partitions.
pub(crate) fn add_partitions(
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

/// Begins to move copies of partitions.
pub(crate) fn reassign(
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

/// Lets the first copy of each partition lead.
pub(crate) fn elect(
    connection: &mut Connection,
    topic: &str,
    partitions: &[i32],
) -> Result<(), ClusterError> {
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

/// Changes the passwords of users.
pub(crate) fn alter_user(
    connection: &mut Connection,
    request: &AlterUserScramCredentialsRequest,
) -> Result<(), ClusterError> {
    let answer = connection.call(request)?;
    let results = answer.results.iter();
    all(results.map(|result| (result.error_code, result.error_message.as_ref())))
}

/// Deletes the passwords of a user.
pub(crate) fn delete_user(
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

/// Gives a right.
pub(crate) fn grant(connection: &mut Connection, acl: &Acl) -> Result<(), ClusterError> {
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

/// Takes a right away.
pub(crate) fn revoke(connection: &mut Connection, acl: &Acl) -> Result<(), ClusterError> {
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

/// Deletes a topic.
pub(crate) fn delete_topic(connection: &mut Connection, topic: &str) -> Result<(), ClusterError> {
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

fn all<'m>(
    mut results: impl Iterator<Item = (i16, Option<&'m StrBytes>)>,
) -> Result<(), ClusterError> {
    results.try_for_each(|(code, message)| done(code, message))
}

fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

fn ids(brokers: &[i32]) -> Vec<BrokerId> {
    brokers.iter().copied().map(BrokerId).collect()
}
