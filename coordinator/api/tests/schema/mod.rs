//! The part of JSON Schema that our schemas use, in one point stricter: a field that the schema does not name is an
//! error, so that types and schema cannot drift apart.

use std::collections::BTreeSet;

use serde_json::Value;

/// Whether a value fits a schema.
pub(crate) fn check(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    if let Some(target) = target(root, schema) {
        return check(root, target, value);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let tried = choices.iter().map(|choice| check(root, choice, value));
        let whys: Vec<String> = tried.filter_map(Result::err).collect();
        return match choices.len() - whys.len() {
            1 => Ok(()),
            fitting => Err(format!("{fitting} choices fit {value}: {whys:?}")),
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
            .as_i64()
            .is_some_and(|n| n >= schema["minimum"].as_i64().unwrap_or(0)),
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
    for name in schema["required"].as_array().unwrap_or(&vec![]) {
        let name = name.as_str().ok_or("required names")?;
        fields.get(name).ok_or(format!("{name} is missing"))?;
    }
    for (name, field) in fields {
        let named = &schema["properties"][name.as_str()];
        let property = if named.is_null() {
            &schema["additionalProperties"]
        } else {
            named
        };
        if property.is_null() {
            return Err(format!("{name} is not in the schema"));
        }
        check(root, property, field).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(())
}

fn target<'a>(root: &'a Value, schema: &Value) -> Option<&'a Value> {
    let pointer = schema["$ref"].as_str()?.strip_prefix('#')?;
    Some(root.pointer(pointer).expect("a $ref has its target"))
}

/// Another file that a schema refers to, whose fields have lines of their own.
fn elsewhere(schema: &Value) -> Option<&str> {
    let reference = schema["$ref"].as_str()?;
    reference.starts_with("urn:").then_some(reference)
}

fn choices(schema: &Value) -> impl Iterator<Item = &Value> {
    let lists = [&schema["oneOf"], &schema["anyOf"]].into_iter();
    lists.filter_map(Value::as_array).flatten()
}

/// Every field that a schema names: its path and `type required` or `type optional`; and `path=word` for the words that
/// stand alone where they are listed with `const`.
pub(crate) fn fields(schema: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    walk(schema, schema, "", &mut found);
    found
}

/// The fields as lines of the contract.
pub(crate) fn contract(name: &str, schema: &Value) -> Vec<String> {
    let fields = fields(schema).into_iter();
    fields
        .map(|(path, what)| format!("{name} {path} {what}"))
        .collect()
}

/// Lines below each other.
pub(crate) fn lines(lines: &[&String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn walk(root: &Value, schema: &Value, path: &str, found: &mut Vec<(String, String)>) {
    if let Some(target) = target(root, schema) {
        return walk(root, target, path, found);
    }
    if let Some(word) = schema["const"].as_str() {
        found.push((format!("{path}={word}"), "word".to_owned()));
    }
    for choice in choices(schema) {
        walk(root, choice, path, found);
    }
    if !schema["items"].is_null() {
        walk(root, &schema["items"], path, found);
    }
    let required = schema["required"].as_array();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let is_required = required.is_some_and(|names| names.contains(&Value::from(name.as_str())));
        let path = format!("{path}/{name}");
        let word = if is_required { "required" } else { "optional" };
        found.push((path.clone(), format!("{} {word}", types(root, property))));
        walk(root, property, &path, found);
    }
}

fn types(root: &Value, schema: &Value) -> String {
    if let Some(target) = target(root, schema) {
        return types(root, target);
    }
    let mut words: BTreeSet<String> = choices(schema).map(|choice| types(root, choice)).collect();
    let named = schema["type"].as_array().into_iter().flatten();
    let named = named.chain([&schema["type"]]).filter_map(Value::as_str);
    let others = [schema, &schema["items"]].into_iter().filter_map(elsewhere);
    words.extend(named.chain(others).map(str::to_owned));
    words.into_iter().collect::<Vec<_>>().join("|")
}

/// The paths of a value's fields, as [`fields`] writes them.
pub(crate) fn seen(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let path = format!("{path}/{name}");
                found.insert(path.clone());
                seen(field, &path, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| seen(item, path, found)),
        _ => {}
    }
}

/// Whether a field was seen. An event's images are the same before and after: one of both is enough.
pub(crate) fn is_seen(path: &str, seen: &BTreeSet<String>) -> bool {
    let other = match path.strip_prefix("/before/") {
        Some(rest) => format!("/after/{rest}"),
        None => path.replacen("/after/", "/before/", 1),
    };
    seen.contains(path) || seen.contains(&other)
}
