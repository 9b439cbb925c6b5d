//! Recorded values of every released version are read, written back unchanged, and fit the published schemas; and the
//! schemas themselves, those of the command line among them, only ever gain optional fields.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

mod schema;

use std::collections::BTreeSet;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use wattle_api::gap::{DeadLetter, GapRecord};
use wattle_api::measurement::LinkMetrics;
use wattle_api::notice::{Alert, AuditRecord};
use wattle_api::rest;
use wattle_api::slots::SlotMapRecord;
use wattle_api::snapshot::SnapshotRecord;
use wattle_api::stream::{ProgressRecord, Topics};
use wattle_api::topology::{Cause, Entity, TopologyEvent};

use crate::schema::{check, contract, fields};

/// A published schema, values of it, and how the type of the code reads and writes one.
struct Published {
    name: &'static str,
    schema: &'static str,
    values: &'static str,
    rewrite: fn(&str) -> String,
}

macro_rules! published {
    ($($name:literal $values:literal $type:ty,)*) => {
        [$(Published {
            name: $name,
            schema: include_str!(concat!("../../../docs/schemas/", $name, ".v1.schema.json")),
            values: include_str!(concat!("golden/", $values, ".v1.jsonl")),
            rewrite: rewrite::<$type>,
        },)*]
    };
}

const PUBLISHED: [Published; 15] = published! {
    "topology-event" "topology-events" TopologyEvent,
    "topology-state" "topology-state" Entity,
    "topology-progress" "topology-progress" ProgressRecord,
    "topology-slots" "topology-slots" SlotMapRecord,
    "topology-snapshot" "topology-snapshot" SnapshotRecord,
    "topology-gap" "topology-gap" GapRecord,
    "topology-dead-letter" "topology-dead-letter" DeadLetter,
    "metrics-links" "metrics-links" LinkMetrics,
    "alert" "alert" Alert,
    "audit" "audit" AuditRecord,
    "rest-node" "rest-node" rest::Node,
    "rest-network" "rest-network" rest::Network,
    "rest-topology" "rest-topology" rest::Topology,
    "rest-problem" "rest-problem" rest::Problem,
    "rest-leaf" "rest-leaf" rest::LeafCreated,
};

fn rewrite<T: Serialize + DeserializeOwned>(line: &str) -> String {
    let value: T = serde_json::from_str(line).unwrap_or_else(|why| panic!("{why} in {line}"));
    serde_json::to_string(&value).unwrap()
}

impl Published {
    fn schema(&self) -> Value {
        serde_json::from_str(self.schema).unwrap()
    }

    fn values(&self) -> impl Iterator<Item = Value> {
        self.values
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
    }
}

#[test]
fn recorded_values_are_read_and_written_back_unchanged() {
    for published in PUBLISHED {
        assert!(!published.values.is_empty(), "{}", published.name);
        for line in published.values.lines() {
            assert_eq!((published.rewrite)(line), line, "{}", published.name);
        }
    }
}

#[test]
fn recorded_values_fit_their_schemas() {
    for published in PUBLISHED {
        let schema = published.schema();
        for value in published.values() {
            check(&schema, &schema, &value)
                .unwrap_or_else(|why| panic!("{}: {why} in {value}", published.name));
        }
    }
}

#[test]
fn recorded_values_have_every_field_that_a_schema_names() {
    for published in PUBLISHED {
        let schema = published.schema();
        let named: BTreeSet<String> = fields(&schema).into_iter().map(|(path, _)| path).collect();
        let mut seen = BTreeSet::new();
        for value in published.values() {
            schema::seen(&value, "", &mut seen);
        }
        let unseen: Vec<_> = named
            .iter()
            .filter(|path| !schema::is_seen(path, &seen))
            .collect();
        assert!(
            unseen.is_empty(),
            "{}: no recorded value has {unseen:?}",
            published.name
        );
    }
}

/// `golden/contract.v1.txt` holds a line for each field of each released schema. A line that is gone or changed breaks
/// readers; a field that is there for the first time must be optional and gets its line. What is required inside of an
/// object that is there for the first time breaks nobody.
#[test]
fn schemas_only_ever_gain_optional_fields() {
    let released: BTreeSet<&str> = include_str!("golden/contract.v1.txt").lines().collect();
    let files = every_file().into_iter();
    let present: BTreeSet<String> = files
        .flat_map(|(name, schema)| contract(&name, &schema))
        .collect();
    let broken: Vec<_> = released
        .iter()
        .filter(|line| !present.contains(**line))
        .collect();
    assert!(
        broken.is_empty(),
        "readers of version 1 count on: {broken:#?}"
    );
    let fresh: Vec<_> = present
        .iter()
        .filter(|line| !released.contains(line.as_str()))
        .collect();
    let required = fresh
        .iter()
        .find(|line| line.ends_with("required") && has_holder(line, &released));
    assert!(required.is_none(), "must be optional: {required:?}");
    assert!(
        fresh.is_empty(),
        "add to golden/contract.v1.txt:\n{}",
        schema::lines(&fresh)
    );
}

/// Name and schema of every published file, those of the command line among them.
#[expect(
    clippy::disallowed_methods,
    reason = "what is published is in files, and a file that this test does not name counts, too"
)]
fn every_file() -> Vec<(String, Value)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/schemas");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap());
    let read = files.map(|file| {
        let name = file.file_name().into_string().unwrap();
        let name = name.strip_suffix(".v1.schema.json").unwrap().to_owned();
        let text = std::fs::read(file.path()).unwrap();
        (name, serde_json::from_slice(&text).unwrap())
    });
    read.collect()
}

/// Whether the object that holds the field of a line is in the contract.
fn has_holder(line: &str, contract: &BTreeSet<&str>) -> bool {
    let mut words = line.split(' ');
    let (name, path) = (words.next().unwrap(), words.next().unwrap());
    let holder = match path.rsplit_once('/').unwrap() {
        ("", _) => format!("{name} /"),
        (object, _) => format!("{name} {object} "),
    };
    contract.iter().any(|line| line.starts_with(&holder))
}

#[test]
fn a_required_field_breaks_readers_of_the_object_that_holds_it() {
    let contract = ["e /a object optional"].into();
    for line in ["e /a/b integer required", "e /b integer required"] {
        assert!(has_holder(line, &contract), "{line}");
    }
    for line in ["e /c/b integer required", "f /b integer required"] {
        assert!(!has_holder(line, &contract), "{line}");
    }
}

#[test]
fn the_contract_notices_a_field_that_is_gone_renamed_or_of_another_type() {
    let good = PUBLISHED[0].schema();
    let before: BTreeSet<String> = contract("e", &good).into_iter().collect();
    let breaks: [fn(&mut Value); 3] = [
        |schema| drop(schema["properties"].as_object_mut().unwrap().remove("ts")),
        |schema| schema["$defs"]["link"]["properties"]["rtt_us"]["type"] = "string".into(),
        |schema| {
            schema["required"]
                .as_array_mut()
                .unwrap()
                .retain(|name| name != "op");
        },
    ];
    for (number, change) in breaks.into_iter().enumerate() {
        let mut schema = good.clone();
        change(&mut schema);
        let after: BTreeSet<String> = contract("e", &schema).into_iter().collect();
        assert!(!before.is_subset(&after), "change {number} goes unnoticed");
    }
}

#[test]
fn the_schema_test_notices_a_missing_an_unknown_and_a_wrong_field() {
    let schema = PUBLISHED[0].schema();
    let good = PUBLISHED[0].values().next().unwrap();
    for (pointer, value) in [
        ("/op", "x".into()),
        ("/source/term", 0.into()),
        ("/after/id", 1.into()),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value;
        assert!(check(&schema, &schema, &bad).is_err(), "{pointer}");
    }
    let mut bad = good.clone();
    bad.as_object_mut().unwrap().remove("ts");
    assert!(check(&schema, &schema, &bad).is_err());
    bad = good;
    bad["more"] = 1.into();
    assert!(check(&schema, &schema, &bad).is_err());
}

#[test]
fn keys_kinds_and_numbers_of_recorded_events_agree() {
    for line in PUBLISHED[0].values.lines() {
        let event: TopologyEvent = serde_json::from_str(line).unwrap();
        let entity = event.after.as_ref().or(event.before.as_ref());
        assert!(entity.map_or(event.omitted.is_some(), |entity| entity.key() == event.key));
        assert_eq!(event.key.kind(), event.kind);
        assert_eq!(
            (event.id.term, event.id.seq),
            (event.source.term, event.source.seq)
        );
    }
}

#[test]
fn fields_and_words_of_later_versions_are_tolerated() {
    let line = PUBLISHED[0].values.lines().next().unwrap();
    let later = line
        .replace("member_added", "member_teleported")
        .replace("\"ts\"", "\"later\":{\"a\":1},\"ts\"");
    let event: TopologyEvent = serde_json::from_str(&later).unwrap();
    assert_eq!(event.cause, Cause::Unknown);
    for published in &PUBLISHED {
        for mut value in published.values() {
            value["of_a_later_version"] = 1.into();
            (published.rewrite)(&value.to_string());
        }
    }
}

/// The AsyncAPI document names every topic and every schema, and nothing that is not there.
#[test]
fn the_asyncapi_document_has_every_topic_and_every_schema() {
    let document: Value =
        serde_json::from_str(include_str!("../../../docs/asyncapi.json")).unwrap();
    let addresses: BTreeSet<String> = document["channels"]
        .as_object()
        .unwrap()
        .values()
        .map(|channel| channel["address"].as_str().unwrap().to_owned())
        .collect();
    let topics = serde_json::to_value(Topics::below("{prefix}")).unwrap();
    let topics: BTreeSet<String> = topics
        .as_object()
        .unwrap()
        .values()
        .map(|topic| topic.as_str().unwrap().to_owned())
        .collect();
    assert_eq!(addresses, topics);
    let messages = document["components"]["messages"].as_object().unwrap();
    let streamed = PUBLISHED
        .iter()
        .filter(|published| !published.name.starts_with("rest-"));
    let expected: BTreeSet<String> = streamed
        .map(|published| format!("schemas/{}.v1.schema.json", published.name))
        .collect();
    let found: BTreeSet<String> = messages
        .values()
        .map(|message| message["payload"]["$ref"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(found, expected);
    for channel in document["channels"].as_object().unwrap().values() {
        for message in channel["messages"].as_object().unwrap().keys() {
            assert!(messages.contains_key(message), "{message}");
        }
    }
}
