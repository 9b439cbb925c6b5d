//! One event of the outbox as the mirror needs it. Its text goes to Kafka as it is; what headers, keys and images need
//! is found in it without taking it apart: at a hundred thousand events a second parsing and printing would be most of
//! the work. Pure.

use std::ops::Range;

use wattle_api::Timestamp;
use wattle_model::{NodeId, NodeName};

/// An event and where its parts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) seq: u64,
    pub(crate) ts: Timestamp,
    pub(crate) site: Option<NodeName>,
    pub(crate) text: String,
    id: Range<usize>,
    kind: Range<usize>,
    key: Range<usize>,
    op: Range<usize>,
    ts_text: Range<usize>,
    before: Range<usize>,
    after: Range<usize>,
}

/// Why a text is no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}…` is no event: {what}")]
pub(crate) struct Unreadable {
    text: String,
    what: &'static str,
}

impl Event {
    pub(crate) fn read(text: String) -> Result<Self, Unreadable> {
        match Self::parts(&text) {
            Ok(parts) => Ok(Self { text, ..parts }),
            Err(what) => Err(Unreadable {
                text: text.chars().take(60).collect(),
                what,
            }),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.text[self.id.clone()]
    }

    pub(crate) fn key(&self) -> &str {
        &self.text[self.key.clone()]
    }

    pub(crate) fn ts_text(&self) -> &str {
        &self.text[self.ts_text.clone()]
    }

    /// The image that it left; `None` if the entity is gone.
    pub(crate) fn after(&self) -> Option<&str> {
        image(&self.text, &self.after)
    }

    /// The node that answers for the entity.
    pub(crate) fn owner(&self) -> Option<NodeId> {
        let image = self.after().or_else(|| image(&self.text, &self.before));
        owner(self.key(), image)
    }

    /// The `type` attribute of CloudEvents: all there are, so that none has to be made up each time.
    pub(crate) fn cloud_event_type(&self) -> &'static str {
        let (kind, op) = (&self.text[self.kind.clone()], &self.text[self.op.clone()]);
        match (kind, op) {
            ("node", "c") => "io.wattle.topology.node.c",
            ("node", "u") => "io.wattle.topology.node.u",
            ("node", _) => "io.wattle.topology.node.d",
            ("link", "c") => "io.wattle.topology.link.c",
            ("link", "u") => "io.wattle.topology.link.u",
            ("link", _) => "io.wattle.topology.link.d",
            ("prefix", "c") => "io.wattle.topology.prefix.c",
            ("prefix", "u") => "io.wattle.topology.prefix.u",
            _ => "io.wattle.topology.prefix.d",
        }
    }
}

/// The node that answers for the entity of this key; a prefix names it in its image only.
pub(crate) fn owner(key: &str, image: Option<&str>) -> Option<NodeId> {
    let (kind, rest) = key.split_once(':')?;
    match kind {
        "node" => rest.parse().ok(),
        "link" => rest.split('>').next()?.parse().ok(),
        _ => {
            let (_, origin) = members(image?).find(|(name, _)| *name == "origin")?;
            unquoted(origin)?.parse().ok()
        }
    }
}

fn image<'a>(text: &'a str, range: &Range<usize>) -> Option<&'a str> {
    Some(&text[range.clone()]).filter(|image| *image != "null")
}

impl Event {
    /// Where everything is in a text, without the text.
    fn parts(text: &str) -> Result<Self, &'static str> {
        let mut found: [Option<&str>; 8] = [None; 8];
        const NAMES: [&str; 8] = ["id", "kind", "key", "op", "before", "after", "source", "ts"];
        for (name, value) in members(text) {
            if let Some(place) = NAMES.iter().position(|known| *known == name) {
                found[place] = Some(value);
            }
        }
        let [id, kind, key, op, before, after, source, ts] = found;
        let plain = |value: Option<&str>, what| value.and_then(unquoted_within(text)).ok_or(what);
        let id = plain(id, "no id")?;
        let ts_text = plain(ts, "no ts")?;
        let (_, seq) = text[id.clone()]
            .split_once(':')
            .ok_or("its id has no seq")?;
        let (_, site) = members(source.ok_or("no source")?)
            .find(|(name, _)| *name == "site")
            .ok_or("no site")?;
        let site = unquoted(site).map(str::parse).transpose();
        Ok(Self {
            seq: seq.parse().map_err(|_| "its seq is no number")?,
            ts: text[ts_text.clone()]
                .parse()
                .map_err(|_| "its ts is no time")?,
            site: site.map_err(|_| "its site is no name")?,
            kind: plain(kind, "no kind")?,
            key: plain(key, "no key")?,
            op: plain(op, "no op")?,
            before: range_within(text, before.ok_or("no before")?),
            after: range_within(text, after.ok_or("no after")?),
            id,
            ts_text,
            text: String::new(),
        })
    }
}

/// The members of an object of JSON: name and the text of the value. Ends early where it is none.
pub(crate) fn members(object: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = object.strip_prefix('{').unwrap_or_default();
    std::iter::from_fn(move || {
        let (name, after) = rest
            .trim_start_matches([',', ' ', '\n'])
            .strip_prefix('"')?
            .split_once('"')?;
        let after = after.trim_start().strip_prefix(':')?.trim_start();
        let (value, behind) = after.split_at_checked(value_length(after.as_bytes())?)?;
        rest = behind;
        Some((name, value))
    })
}

/// How many bytes the value at the beginning takes.
fn value_length(text: &[u8]) -> Option<usize> {
    let mut depth = 0_u32;
    let mut at = 0;
    loop {
        match *text.get(at)? {
            b'"' => at += string_length(&text[at..])?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' | b',' if depth == 0 => return Some(at),
            b'}' | b']' => {
                depth -= 1;
                at += 1;
            }
            _ => at += 1,
        }
        if depth == 0 && matches!(text[at - 1], b'"' | b'}' | b']') {
            return Some(at);
        }
    }
}

fn string_length(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match *text.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

/// What stands between the quotes; nothing if there are none, or an escape that would have to be resolved.
fn unquoted(value: &str) -> Option<&str> {
    let inside = value.strip_prefix('"')?.strip_suffix('"')?;
    (!inside.contains('\\')).then_some(inside)
}

fn unquoted_within(text: &str) -> impl Fn(&str) -> Option<Range<usize>> {
    move |value| unquoted(value).map(|inside| range_within(text, inside))
}

fn range_within(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.len()
}

#[cfg(test)]
mod tests {
    use wattle_api::topology::TopologyEvent;

    use super::*;

    const EVENTS: &str = include_str!("../../api/tests/golden/topology-events.v1.jsonl");

    #[test]
    fn what_is_found_is_what_parsing_finds() {
        for line in EVENTS.lines() {
            let found = Event::read(line.to_owned()).unwrap();
            let parsed: TopologyEvent = serde_json::from_str(line).unwrap();
            assert_eq!((found.seq, found.ts), (parsed.id.seq, parsed.ts));
            assert_eq!(found.id(), parsed.id.to_string());
            assert_eq!(found.key(), parsed.key.to_string());
            assert_eq!(found.ts_text(), parsed.ts.to_string());
            assert_eq!(found.site, parsed.source.site);
            assert_eq!(found.cloud_event_type(), parsed.cloud_event_type());
            let after = parsed
                .after
                .as_ref()
                .map(|after| serde_json::to_string(after).unwrap());
            assert_eq!(found.after(), after.as_deref());
            let entity = parsed.after.as_ref().or(parsed.before.as_ref());
            if let Some(entity) = entity {
                assert_eq!(found.owner(), Some(entity.owner()));
            }
        }
    }

    #[test]
    fn strings_with_quotes_and_brackets_do_not_mislead() {
        let object = r#"{"a":"x\"}],{","b":{"c":[1,{"d":"]"}]},"e":-1.5e3,"f":null,"g":[]}"#;
        let found: Vec<(&str, &str)> = members(object).collect();
        let expected = [
            ("a", r#""x\"}],{""#),
            ("b", r#"{"c":[1,{"d":"]"}]}"#),
            ("e", "-1.5e3"),
            ("f", "null"),
            ("g", "[]"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_no_event_is_told() {
        let line = EVENTS.lines().next().unwrap();
        for bad in [
            "",
            "[]",
            "{}",
            "{\"id\":\"1:1\"",
            &line[..200],
            &line.replace("1:1", "1-1"),
        ] {
            assert!(Event::read(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
