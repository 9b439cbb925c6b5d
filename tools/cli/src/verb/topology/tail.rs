//! `tail`: events as they come. With `--snapshot` everything there is comes first, between two marks: whoever has read
//! the second one knows that nothing is missing.

use std::collections::BTreeSet;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use schemars::JsonSchema;
use serde::Serialize;
use wattle_api::Timestamp;
use wattle_api::rest::Page;
use wattle_api::stream::Kafka;
use wattle_api::topology::{Entity, EntityKey, TopologyEvent};
use wattle_model::NodeName;
use wattle_topology::{Item, Moment, Source, Start, Tail, sse};

use super::line::line;
use super::past::moment;
use super::source::{failure, kafka};
use crate::args::TailArgs;
use crate::coordinator::Coordinator;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::Output;
use crate::verb::answers;

/// An entity of a snapshot, as programs read it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Told<'a> {
    /// The newest event that the snapshot holds, or that of the entity.
    seq: u64,
    /// Its key.
    key: EntityKey,
    /// The entity.
    entity: &'a Entity,
}

/// A mark before or after a snapshot.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Mark {
    /// `snapshot-begin` or `snapshot-end`.
    mark: &'static str,
    /// The newest event that the snapshot holds, at its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    /// How many entities it has, at its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    entities: Option<u64>,
}

pub(super) async fn run(args: &TailArgs, output: &mut Output) -> Outcome {
    let since = args.since.as_deref().map(moment).transpose()?;
    let printer = Printer {
        args,
        output,
        left: args.max.unwrap_or(u64::MAX),
        told: 0,
    };
    match kafka(&args.source)? {
        Some(kafka) => from_kafka(kafka, since, printer).await,
        None => from_coordinator(since, printer).await,
    }
}

async fn from_kafka(kafka: Kafka, since: Option<Moment>, mut printer: Printer<'_>) -> Outcome {
    let source = Source::find(kafka).await.map_err(failure)?;
    let start = match since {
        Some(Moment::Time(time)) => Start::Time(Timestamp::from_millis(time.as_millis() + 1)),
        Some(Moment::Event(seq)) => Start::Seq(seq + 1),
        None if printer.args.from_start => Start::Oldest,
        None => Start::Next,
    };
    // Before the snapshot, so that nothing falls between the two.
    let mut tail = follow(&source, start, &mut printer).await?;
    let mut held = 0;
    if printer.args.snapshot {
        // All of it, of some sites too: while a site moves, its images stand where no slot map says yet.
        let graph = wattle_topology::graph(&source).await.map_err(failure)?;
        printer.begin()?;
        for (key, entity) in graph.entities() {
            let owner = graph.node(entity.owner());
            let site = owner.and_then(|node| node.site.as_ref());
            printer.told(*key, entity, site, graph.seq())?;
        }
        printer.end(graph.seq())?;
        held = graph.seq();
    }
    while printer.wants_more() {
        let Some(item) = tail.next().await else { break };
        match item.map_err(failure)? {
            Item::Event(event) if event.id.seq <= held => {}
            Item::Event(event) => printer.event(&event)?,
            Item::Missing(first, last) => {
                let are = match printer.args.site.is_empty() {
                    true => "are not in the topic",
                    false => "may be missing in a partition",
                };
                printer
                    .output
                    .warn(format!("events {first} to {last} {are}"));
            }
            Item::Joined(partitions) => {
                let told = format!("reads more partitions from here on: {}", list(&partitions));
                printer.output.note(&told);
            }
        }
    }
    Ok(())
}

/// Events of some sites come from the partitions that are theirs alone, which are told.
async fn follow(source: &Source, start: Start, printer: &mut Printer<'_>) -> Outcome<Tail> {
    let sites = &printer.args.site;
    if sites.is_empty() {
        let tail = wattle_topology::tail(source, start).await;
        return tail.map_err(failure);
    }
    let tail = wattle_topology::tail_sites(source, sites, start).await;
    let tail = tail.map_err(failure)?;
    let names: Vec<&str> = sites.iter().map(NodeName::as_str).collect();
    let (names, slots) = (names.join(", "), list(&tail.partitions()));
    printer
        .output
        .note(&format!("partitions of {names}: {slots}"));
    Ok(tail.into_events())
}

/// Partitions as people read them.
fn list(partitions: &BTreeSet<u32>) -> String {
    let numbers: Vec<String> = partitions.iter().map(ToString::to_string).collect();
    numbers.join(", ")
}

async fn from_coordinator(since: Option<Moment>, mut printer: Printer<'_>) -> Outcome {
    let mut coordinator = Coordinator::connect(&printer.args.source.coordinator).await?;
    let after = match since {
        Some(Moment::Event(seq)) => Some(seq),
        Some(Moment::Time(time)) => before_first(&mut coordinator, time).await?,
        None => printer.args.from_start.then_some(0),
    };
    let query = after.map(|seq| format!("?after={seq}")).unwrap_or_default();
    let path = format!("/events/stream{query}");
    let mut messages = Messages::of(coordinator.stream(&path).await?);
    let mut in_snapshot = false;
    while printer.wants_more() {
        match messages.next().await? {
            None => break,
            Some(sse::Message::SnapshotBegin) => {
                in_snapshot = true;
                if printer.args.snapshot {
                    printer.begin()?;
                } else if after.is_some() {
                    let warning =
                        "the oldest events are no longer kept: beginning with the next one";
                    printer.output.warn(warning);
                }
            }
            Some(sse::Message::SnapshotEnd) => {
                in_snapshot = false;
                if printer.args.snapshot {
                    printer.end(messages.position())?;
                }
            }
            // An entity as it is, not something that happened.
            Some(sse::Message::Event(event)) if in_snapshot => {
                if let (true, Some(entity)) = (printer.args.snapshot, &event.after) {
                    printer.told(event.key, entity, event.source.site.as_ref(), event.id.seq)?;
                }
            }
            Some(sse::Message::Event(event)) => printer.event(&event)?,
        }
    }
    Ok(())
}

/// The event before the first one that is later than `time`; none if there is no later one yet.
async fn before_first(coordinator: &mut Coordinator, time: Timestamp) -> Outcome<Option<u64>> {
    let path = format!("/events?since={time}&limit=1");
    let page: Page<TopologyEvent> = coordinator.get(&path).await?;
    Ok(page.items.first().map(|event| event.id.seq - 1))
}

/// Prints what the command line wants.
struct Printer<'a> {
    args: &'a TailArgs,
    output: &'a mut Output,
    left: u64,
    told: u64,
}

impl Printer<'_> {
    const fn wants_more(&self) -> bool {
        self.left > 0
    }

    /// Whether the command line asks for such entities of such a site.
    fn wants(&self, kind: &str, site: Option<&NodeName>) -> bool {
        let (kinds, sites) = (&self.args.kind, &self.args.site);
        (kinds.is_empty() || kinds.iter().any(|wanted| wanted == kind))
            && (sites.is_empty() || site.is_some_and(|site| sites.contains(site)))
    }

    fn event(&mut self, event: &TopologyEvent) -> Outcome {
        if !self.wants(event.kind.as_str(), event.source.site.as_ref()) {
            return Ok(());
        }
        self.left -= 1;
        self.output.answer(answers::TOPOLOGY_EVENT, event, line)
    }

    fn begin(&mut self) -> Outcome {
        let mark = Mark {
            mark: "snapshot-begin",
            seq: None,
            entities: None,
        };
        self.output.answer(answers::TOPOLOGY_MARK, &mark, |_| {
            "-- a snapshot begins: everything there is".to_owned()
        })
    }

    fn told(
        &mut self,
        key: EntityKey,
        entity: &Entity,
        site: Option<&NodeName>,
        seq: u64,
    ) -> Outcome {
        if !self.wants(key.kind().as_str(), site) {
            return Ok(());
        }
        self.told += 1;
        let told = Told { seq, key, entity };
        self.output.answer(answers::TOPOLOGY_ENTITY, &told, |told| {
            format!("is  {}", told.key)
        })
    }

    fn end(&mut self, seq: u64) -> Outcome {
        let mark = Mark {
            mark: "snapshot-end",
            seq: Some(seq),
            entities: Some(self.told),
        };
        let told = self.told;
        self.output.answer(answers::TOPOLOGY_MARK, &mark, |_| {
            format!(
                "-- the snapshot is complete: {told} entities, as of event {seq}; changes follow"
            )
        })
    }
}

/// The coordinator's messages, put together from the pieces in which they come.
struct Messages {
    body: Incoming,
    decoder: sse::Decoder,
    rest: Vec<u8>,
}

impl Messages {
    fn of(body: Incoming) -> Self {
        Self {
            body,
            decoder: sse::Decoder::default(),
            rest: Vec::new(),
        }
    }

    /// The number of the last event, or of the one that the last snapshot stands for.
    fn position(&self) -> u64 {
        let id = self.decoder.last_id();
        let seq = id.and_then(|id| id.split_once(':')?.1.parse().ok());
        seq.unwrap_or(0)
    }

    async fn next(&mut self) -> Outcome<Option<sse::Message>> {
        loop {
            while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let whole: Vec<u8> = self.rest.drain(..=end).collect();
                let text = String::from_utf8_lossy(&whole[..end]);
                if let Some(message) = self.decoder.line(&text).map_err(failure)? {
                    return Ok(Some(message));
                }
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| {
                Failure::new(
                    Exit::Failure,
                    "the coordinator ended the stream",
                    error,
                    "try again",
                )
            })?;
            self.rest
                .extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        }
    }
}
