//! What is planned for a cluster, from what it has and what it should have.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};

use wattle_kafka::acl::{Acl, Operation, Pattern, Resource};
use wattle_kafka::document::Document;
use wattle_kafka::item::{Change, Flag, Verdict};
use wattle_kafka::observed::{Observed, ObservedTopic, Partition, Scram};
use wattle_kafka::wanted::Impossible;
use wattle_kafka::{Plan, Wanted};

const DOCUMENT: &str = r#"
    [kafka]
    brokers = ["k:1"]
    [kafka.topics]
    partitions = 2
    replication = 2
    [desired]
    network = "home"
    [[desired.users]]
    name = "wattle"
    role = "mirror"
    password_file = "/p"
    [[desired.users]]
    name = "eyes"
    role = "reader"
"#;

#[test]
fn an_empty_cluster_gets_topics_users_and_rights() {
    let plan = Plan::between(&empty(), &wanted(DOCUMENT));
    let told = told(&plan);
    assert_eq!(
        told,
        [
            "topic wattle.home.alerts.v1",
            "topic wattle.home.audit.v1",
            "topic wattle.home.metrics.links.v1",
            "topic wattle.home.topology.dlq.v1",
            "topic wattle.home.topology.events.v1",
            "topic wattle.home.topology.progress.v1",
            "topic wattle.home.topology.snapshots.v1",
            "topic wattle.home.topology.state.v1",
            "user wattle",
            "right of User:eyes",
            "right of User:eyes",
            "right of User:eyes",
            "right of User:eyes",
            "right of User:eyes",
            "right of User:wattle",
            "right of User:wattle",
            "right of User:wattle",
            "right of User:wattle",
            "right of User:wattle",
            "right of User:wattle",
            "right of User:wattle",
            "right of User:wattle",
        ]
    );
    assert!(plan.items.iter().all(|item| item.verdict == Verdict::Free));
    let replicas = replicas_of_events(&plan);
    assert_eq!(replicas, [vec![1, 3], vec![2, 1]], "each in two racks");
}

#[test]
fn what_was_made_is_not_made_again() {
    let wanted = wanted(DOCUMENT);
    assert!(Plan::between(&made(&wanted), &wanted).is_empty());
}

#[test]
fn a_setting_that_somebody_changed_is_set_back_and_others_are_left_alone() {
    let wanted = wanted(DOCUMENT);
    let mut observed = made(&wanted);
    let events = observed.topics.get_mut(EVENTS).unwrap();
    events
        .config
        .insert("retention.bytes".into(), "1000".into());
    events.config.insert("flush.ms".into(), "7".into());
    events.own.insert("flush.ms".into());
    let plan = Plan::between(&observed, &wanted);
    let [item] = plan.items.as_slice() else {
        panic!("{plan:?}")
    };
    let Change::SetConfig { settings, .. } = &item.change else {
        panic!("{item:?}")
    };
    assert_eq!(
        settings,
        &BTreeMap::from([("retention.bytes".to_owned(), "-1".to_owned())])
    );
    assert_eq!(
        plan.notes,
        [format!(
            "topic {EVENTS}: flush.ms = 7 is set and not named here"
        )]
    );
}

#[test]
fn keeping_less_needs_a_flag() {
    let wanted = wanted(DOCUMENT);
    let mut observed = made(&wanted);
    let events = observed.topics.get_mut(EVENTS).unwrap();
    // For ever, where the document says 90 days.
    events.config.insert("retention.ms".into(), "-1".into());
    for partition in &mut events.partitions {
        partition.replicas = vec![1, 2, 3];
    }
    let plan = Plan::between(&observed, &wanted);
    assert_eq!(plan.items.len(), 2, "{plan:?}");
    assert_eq!(plan.allowed(&BTreeSet::new()).count(), 0);
    assert_eq!(plan.allowed(&[Flag::AllowDelete].into()).count(), 0);
    assert_eq!(plan.allowed(&[Flag::AllowShrink].into()).count(), 2);
}

#[test]
fn partitions_are_never_taken_away_and_never_added_where_a_key_has_its_place() {
    let wanted = wanted(DOCUMENT);
    for count in [1, 3] {
        let mut observed = made(&wanted);
        let events = observed.topics.get_mut(EVENTS).unwrap();
        events.partitions.resize(count, partition(&[1, 2]));
        let plan = Plan::between(&observed, &wanted);
        let refused = plan
            .items
            .iter()
            .filter(|item| matches!(item.verdict, Verdict::Refused { .. }));
        assert_eq!(refused.count(), 1, "{plan:?}");
        assert_eq!(
            plan.allowed(&[Flag::AllowDelete, Flag::AllowShrink].into())
                .count(),
            0
        );
    }
}

#[test]
fn a_topic_without_keys_gets_more_partitions_in_place() {
    let text = DOCUMENT.to_owned() + "[[desired.topics]]\nname = \"t\"\npartitions = 5\n";
    let wanted = wanted(&text);
    let mut observed = made(&wanted);
    observed.topics.get_mut("t").unwrap().partitions.truncate(2);
    let plan = Plan::between(&observed, &wanted);
    assert_eq!(
        plan.items[0].change,
        Change::AddPartitions {
            topic: "t".into(),
            count: 5
        }
    );
}

#[test]
fn rights_of_known_users_that_nobody_asked_for_are_revoked_with_a_flag_and_those_of_others_stay() {
    let wanted = wanted(DOCUMENT);
    let mut observed = made(&wanted);
    let acls = observed.acls.as_mut().unwrap();
    let extra = |who| {
        Acl::allow(
            who,
            Resource::Topic,
            "x",
            Pattern::Literal,
            Operation::Write,
        )
    };
    acls.extend([extra("User:eyes"), extra("User:stranger")]);
    let plan = Plan::between(&observed, &wanted);
    assert_eq!(plan.items.len(), 1, "{plan:?}");
    assert_eq!(plan.items[0].change, Change::Revoke(extra("User:eyes")));
    assert_eq!(plan.allowed(&BTreeSet::new()).count(), 0);
    assert_eq!(plan.allowed(&[Flag::AllowDelete].into()).count(), 1);
}

#[test]
fn a_password_that_was_changed_by_somebody_is_set_again() {
    let wanted = wanted(DOCUMENT);
    let mut observed = made(&wanted);
    observed.other_passwords.insert("wattle".into());
    let plan = Plan::between(&observed, &wanted);
    assert!(
        matches!(plan.items[0].change, Change::SetPassword(_)),
        "{plan:?}"
    );
    assert_eq!(told(&plan), ["user wattle"]);
}

#[test]
fn a_cluster_without_an_authorizer_is_told_of() {
    let wanted = wanted(DOCUMENT);
    let mut observed = made(&wanted);
    observed.acls = None;
    let plan = Plan::between(&observed, &wanted);
    assert!(
        matches!(plan.items[0].verdict, Verdict::Refused { .. }),
        "{plan:?}"
    );
}

#[test]
fn leaders_are_where_their_sites_are() {
    let text = DOCUMENT.to_owned() + "[desired.leaders]\nfra1 = \"c\"\n";
    let wanted = wanted(&text);
    let plan = Plan::between(&empty(), &wanted);
    let replicas = replicas_of_events(&plan);
    let at = wattle_api::stream::partition_of(Some("fra1"), "", 2) as usize;
    assert_eq!(replicas[at][0], 3, "broker 3 is in rack c");

    let mut observed = made(&wanted);
    observed.topics.get_mut(EVENTS).unwrap().partitions[at].leader = 1;
    let plan = Plan::between(&observed, &wanted);
    assert_eq!(
        plan.items[0].change,
        Change::ElectLeaders {
            topic: EVENTS.into(),
            partitions: vec![at as i32]
        }
    );
}

#[test]
fn the_slot_map_and_the_racks_of_partitions_are_honoured() {
    let slots = "[[kafka.slots]]\nversion = 1\ndefault = [0]\nsites = { fra1 = [1] }\n";
    let text = DOCUMENT.to_owned() + slots + "[desired.leaders]\nfra1 = \"c\"\n";
    let mapped = wanted(&text);
    let replicas = replicas_of_events(&Plan::between(&empty(), &mapped));
    assert_eq!(replicas[1][0], 3);
    let mut observed = made(&mapped);
    observed.topics.get_mut(EVENTS).unwrap().partitions.pop();
    let plan = Plan::between(&observed, &mapped);
    assert!(
        matches!(plan.items[0].change, Change::AddPartitions { count: 2, .. }),
        "the slot map says where records are: {plan:?}"
    );

    let text = DOCUMENT.replace("replication = 2", "replication = 2\nracks = [\"b\", \"a\"]");
    let racked = wanted(&text);
    let replicas = replicas_of_events(&Plan::between(&empty(), &racked));
    assert_eq!((replicas[0][0], replicas[1][0]), (2, 1));
    let on_cluster = |wanted: &Wanted| {
        let rights = wanted.acls.iter();
        let on_cluster = rights.filter(|acl| acl.resource == Resource::Cluster);
        on_cluster
            .map(|acl| (acl.principal.clone(), acl.operation))
            .collect::<Vec<_>>()
    };
    assert_eq!(on_cluster(&mapped), []);
    let reads_racks = ("User:wattle".to_owned(), Operation::DescribeConfigs);
    assert_eq!(on_cluster(&racked), [reads_racks]);
    let text = text + slots + "[desired.leaders]\nfra1 = \"c\"\n";
    let document = Document::parse(text.as_bytes()).unwrap();
    let refused = Wanted::of(&document.desired, &document.kafka.unwrap()).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("kafka.topics.racks and fra1 share partition 1"),
        "{refused}"
    );
}

#[test]
fn nothing_moves_off_a_broker_that_is_away() {
    let wanted = wanted(DOCUMENT);
    let mut observed = made(&wanted);
    observed.brokers.remove(&2);
    let plan = Plan::between(&observed, &wanted);
    assert!(plan.is_empty(), "{plan:?}");
    assert!(
        plan.notes
            .iter()
            .all(|note| note.contains("broker 2 has copies and is away"))
    );
}

#[test]
fn history_goes_to_remote_storage_and_what_is_compacted_does_not() {
    let text = DOCUMENT.replace(
        "network = \"home\"",
        "network = \"home\"\ntiered = { local_hours = 24 }",
    );
    let wanted = wanted(&text);
    let tiered: Vec<_> = wanted
        .topics
        .iter()
        .filter(|(_, topic)| topic.is_tiered())
        .collect();
    assert!(!tiered.is_empty() && tiered.iter().all(|(_, topic)| !topic.is_compacted()));
    let mut observed = empty();
    let plan = Plan::between(&observed, &wanted);
    assert!(
        matches!(plan.items[0].verdict, Verdict::Refused { .. }),
        "brokers cannot: {plan:?}"
    );
    observed.tiered = true;
    let plan = Plan::between(&observed, &wanted);
    assert_eq!(plan.items[0].verdict, Verdict::Free);
}

#[test]
fn tiered_and_compacted_is_refused_before_anybody_is_asked() {
    let text = DOCUMENT.to_owned()
        + "[[desired.topics]]\nname = \"t\"\npartitions = 1\n\
           config = { \"cleanup.policy\" = \"compact\", \"remote.storage.enable\" = \"true\" }\n";
    let document = Document::parse(text.as_bytes()).unwrap();
    let refused = Wanted::of(&document.desired, &document.kafka.unwrap());
    assert_eq!(refused, Err(Impossible::TieredAndCompacted("t".into())));
}

#[test]
fn a_compacted_topic_of_the_cluster_is_not_sent_to_remote_storage() {
    let text = DOCUMENT.to_owned()
        + "[[desired.topics]]\nname = \"t\"\npartitions = 1\nconfig = { \"remote.storage.enable\" = \"true\" }\n";
    let wanted = wanted(&text);
    let mut observed = made(&wanted);
    observed.tiered = true;
    let topic = observed.topics.get_mut("t").unwrap();
    topic.config = BTreeMap::from([
        ("cleanup.policy".into(), "compact".into()),
        ("remote.storage.enable".into(), "false".into()),
    ]);
    let plan = Plan::between(&observed, &wanted);
    assert!(
        matches!(plan.items[0].verdict, Verdict::Refused { .. }),
        "{plan:?}"
    );
}

#[test]
fn what_should_be_gone_goes_only_with_a_flag() {
    let text = DOCUMENT.to_owned()
        + "[desired.remove]\ntopics = [\"old\"]\nusers = [\"bob\", \"never\"]\n";
    let wanted = wanted(&text);
    let mut observed = made(&wanted);
    observed
        .topics
        .insert("old".into(), ObservedTopic::default());
    observed
        .users
        .insert("bob".into(), BTreeMap::from([(Scram::Sha512, 4_096)]));
    let right = Acl::allow(
        "User:bob",
        Resource::Topic,
        "x",
        Pattern::Literal,
        Operation::Read,
    );
    observed.acls.as_mut().unwrap().insert(right);
    let plan = Plan::between(&observed, &wanted);
    assert_eq!(told(&plan), ["right of User:bob", "user bob", "topic old"]);
    assert_eq!(plan.allowed(&[Flag::AllowShrink].into()).count(), 0);
    assert_eq!(plan.allowed(&[Flag::AllowDelete].into()).count(), 3);
}

const EVENTS: &str = "wattle.home.topology.events.v1";

fn wanted(text: &str) -> Wanted {
    let document = Document::parse(text.as_bytes()).unwrap();
    Wanted::of(&document.desired, &document.kafka.unwrap()).unwrap()
}

/// Three brokers in the racks a, b and c.
fn empty() -> Observed {
    let racks = ["a", "b", "c"].map(|rack| Some(rack.to_owned()));
    Observed {
        brokers: (1..).zip(racks).collect(),
        acls: Some(BTreeSet::new()),
        ..Observed::default()
    }
}

/// A cluster in which everything was made that the plan for an empty one says.
fn made(wanted: &Wanted) -> Observed {
    let mut observed = empty();
    observed.tiered = true;
    let plan = Plan::between(&observed, wanted);
    observed.tiered = false;
    for item in plan.items {
        match item.change {
            Change::CreateTopic {
                topic,
                wanted,
                replicas,
            } => {
                let chosen = (0..wanted.partitions).map(|_| vec![1]);
                let replicas = if replicas.is_empty() {
                    chosen.collect()
                } else {
                    replicas
                };
                let partitions = replicas
                    .iter()
                    .map(|replicas| partition(replicas))
                    .collect();
                let own = wanted.config.keys().cloned().collect();
                let config = wanted.config;
                observed.topics.insert(
                    topic,
                    ObservedTopic {
                        partitions,
                        config,
                        own,
                    },
                );
            }
            Change::SetPassword(user) => {
                let kinds = BTreeMap::from([(Scram::Sha512, user.iterations)]);
                observed.users.insert(user.name, kinds);
            }
            Change::Grant(acl) => {
                observed.acls.as_mut().unwrap().insert(acl);
            }
            other => panic!("{other:?} in an empty cluster"),
        }
    }
    observed
}

/// Where the events topic is to be made.
fn replicas_of_events(plan: &Plan) -> Vec<Vec<i32>> {
    let made = plan.items.iter().find_map(|item| match &item.change {
        Change::CreateTopic {
            topic, replicas, ..
        } if topic == EVENTS => Some(replicas.clone()),
        _ => None,
    });
    made.unwrap()
}

fn partition(replicas: &[i32]) -> Partition {
    Partition {
        replicas: replicas.to_vec(),
        leader: replicas[0],
    }
}

fn told(plan: &Plan) -> Vec<&str> {
    plan.items
        .iter()
        .map(|item| item.subject.as_str())
        .collect()
}
