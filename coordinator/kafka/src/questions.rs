//! What a cluster is asked: its brokers, topics, settings, rights and users.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::{
    DescribeAclsRequest, DescribeAclsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    DescribeUserScramCredentialsRequest, DescribeUserScramCredentialsResponse,
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, MetadataRequest,
    MetadataResponse,
};

use crate::acl::{Acl, Operation, Pattern, Permission, Resource};
use crate::connection::{Connection, TOPIC, calls, done, text};
use crate::error::ClusterError;
use crate::observed::{Observed, ObservedTopic, Partition, Scram};
use crate::wanted::Wanted;

calls! {
    MetadataRequest => MetadataResponse, Metadata, "ask for the topics";
    DescribeConfigsRequest => DescribeConfigsResponse, DescribeConfigs, "ask for settings";
    DescribeAclsRequest => DescribeAclsResponse, DescribeAcls, "ask for rights";
    DescribeUserScramCredentialsRequest => DescribeUserScramCredentialsResponse, DescribeUserScramCredentials, "ask for users";
    ListPartitionReassignmentsRequest => ListPartitionReassignmentsResponse, ListPartitionReassignments, "ask for moves";
}

/// How long the cluster may take to answer, in milliseconds.
const ANSWER_MS: i32 = 30_000;

/// Kafka's number for brokers where settings are about.
const BROKER: i8 = 4;

/// Kafka's number for a setting that was made for the topic alone.
const MADE_FOR_TOPIC: i8 = 1;

/// Kafka's number for "any" in filters of rights.
const ANY: i8 = 1;

/// Kafka's code of a user without passwords.
const NO_SUCH_USER: i16 = 91;

/// The brokers, and the topics that `wanted` speaks of.
pub(crate) fn metadata(
    connection: &mut Connection,
    wanted: &Wanted,
) -> Result<Observed, ClusterError> {
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

/// Adds the settings of `topics`.
pub(crate) fn settings(
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
pub(crate) fn can_tier(connection: &mut Connection, broker: i32) -> Result<bool, ClusterError> {
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

/// Topics of which copies are being moved.
pub(crate) fn moving(connection: &mut Connection) -> Result<BTreeSet<String>, ClusterError> {
    let request = ListPartitionReassignmentsRequest::default()
        .with_timeout_ms(ANSWER_MS)
        .with_topics(None);
    let answer = connection.call(&request)?;
    done(answer.error_code, answer.error_message.as_ref())?;
    Ok(answer
        .topics
        .into_iter()
        .map(|topic| topic.name.0.to_string())
        .collect())
}

/// All rights.
pub(crate) fn rights(connection: &mut Connection) -> Result<BTreeSet<Acl>, ClusterError> {
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

/// How often each kind of password of each user is hashed.
pub(crate) type Users = BTreeMap<String, BTreeMap<Scram, u32>>;

/// All users with passwords.
pub(crate) fn users(connection: &mut Connection) -> Result<Users, ClusterError> {
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
