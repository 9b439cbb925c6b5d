//! One event as one line.

use serde::Serialize;
use wattle_api::topology::{Op, TopologyEvent};

use crate::human::clean;

/// Time, number, what happened to which entity, and why.
pub(super) fn line(event: &TopologyEvent) -> String {
    named(event, &event.key.to_string())
}

/// The same, with another name of the entity.
pub(super) fn named(event: &TopologyEvent, name: &str) -> String {
    format!(
        "{}  {:>6}  {:<7}  {}  {}",
        event.ts,
        event.id.seq,
        deed(event.op),
        clean(name),
        clean(&word(&event.cause))
    )
}

pub(super) const fn deed(op: Op) -> &'static str {
    match op {
        Op::Create => "created",
        Op::Update => "changed",
        Op::Delete => "gone",
        Op::Read => "is",
    }
}

pub(super) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}
