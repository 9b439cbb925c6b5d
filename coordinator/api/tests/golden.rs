//! Recorded events of every released version are read, written back unchanged, and fit the published schema.

use serde_json::Value;
use wattle_api::topology::{Cause, TopologyEvent};

const EVENTS: &str = include_str!("golden/topology-events.v1.jsonl");
const SCHEMA: &str = include_str!("../schemas/topology-event.v1.schema.json");

#[test]
fn recorded_events_are_read_and_written_back_unchanged() {
    for line in EVENTS.lines() {
        let event: TopologyEvent = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_string(&event).unwrap(), line);
        let entity = event.after.as_ref().or(event.before.as_ref()).unwrap();
        assert_eq!(entity.key(), event.key);
        assert_eq!(event.key.kind(), event.kind);
        assert_eq!(
            (event.id.term, event.id.seq),
            (event.source.term, event.source.seq)
        );
    }
}

#[test]
fn recorded_events_fit_the_schema_and_name_every_field_in_it() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    for line in EVENTS.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        check(&schema, &schema, &event).unwrap_or_else(|why| panic!("{why} in {line}"));
    }
}

#[test]
fn the_schema_test_notices_a_missing_an_unknown_and_a_wrong_field() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let good: Value = serde_json::from_str(EVENTS.lines().next().unwrap()).unwrap();
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
fn fields_and_causes_of_later_versions_are_tolerated() {
    let line = EVENTS.lines().next().unwrap();
    let later = line
        .replace("member_added", "member_teleported")
        .replace("\"ts\"", "\"later\":{\"a\":1},\"ts\"");
    let event: TopologyEvent = serde_json::from_str(&later).unwrap();
    assert_eq!(event.cause, Cause::Unknown);
}

/// The part of JSON Schema that our schemas use; stricter in one point: a field that the schema does not name is an
/// error, so that types and schema cannot drift apart.
fn check(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        return check(
            root,
            root.pointer(&reference[1..]).ok_or("dangling $ref")?,
            value,
        );
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let fitting = choices
            .iter()
            .filter(|choice| check(root, choice, value).is_ok())
            .count();
        return if fitting == 1 {
            Ok(())
        } else {
            Err(format!("{fitting} choices fit {value}"))
        };
    }
    let fits = match schema["type"].as_str().ok_or("no type")? {
        "object" => return check_object(root, schema, value),
        "array" => {
            let items = value.as_array().ok_or("no array")?;
            return items
                .iter()
                .try_for_each(|item| check(root, &schema["items"], item));
        }
        "string" => value.is_string(),
        "integer" => value
            .as_u64()
            .is_some_and(|n| n >= schema["minimum"].as_u64().unwrap_or(0)),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => return Err(format!("type {other} is not known to this test")),
    };
    let listed = schema["enum"]
        .as_array()
        .is_none_or(|values| values.contains(value));
    if fits && listed {
        Ok(())
    } else {
        Err(format!("{value} does not fit {schema}"))
    }
}

fn check_object(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let fields = value.as_object().ok_or("no object")?;
    for name in schema["required"].as_array().ok_or("no required")? {
        let name = name.as_str().ok_or("required names")?;
        fields.get(name).ok_or(format!("{name} is missing"))?;
    }
    for (name, field) in fields {
        let property = &schema["properties"][name.as_str()];
        if property.is_null() {
            return Err(format!("{name} is not in the schema"));
        }
        check(root, property, field).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(())
}
