//! The past of a network, from Kafka or from its coordinator: how it was at a moment, and what happened since.

use std::collections::VecDeque;

use wattle_api::Timestamp;
use wattle_api::rest::{Page, Topology};
use wattle_api::topology::TopologyEvent;
use wattle_topology::{Graph, Item, Moment, Rewind, Source, Start, Tail, TopologyError};

use super::source::{failure, kafka};
use crate::args::StreamArgs;
use crate::coordinator::Coordinator;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::wall_clock;

/// Reads a moment from the command line. The future has not happened.
pub(super) fn moment(text: &str) -> Outcome<Moment> {
    let now = wall_clock();
    let refused = |why: String| {
        let next = "wattle topology at --help shows how moments are written";
        Failure::new(Exit::Usage, "that is no moment of the past", why, next)
    };
    let moment = Moment::parse(text, now).map_err(|error| refused(error.to_string()))?;
    match moment.time() {
        Some(time) if time > now => Err(refused(format!("{time} is in the future: it is {now}"))),
        Some(_) | None => Ok(moment),
    }
}

/// Two moments, the earlier one first.
pub(super) fn span((from, to): (&str, &str)) -> Outcome<(Moment, Moment)> {
    let (from, to) = (moment(from)?, moment(to)?);
    let turned = match (from, to) {
        (Moment::Time(from), Moment::Time(to)) => from > to,
        (Moment::Event(from), Moment::Event(to)) => from > to,
        (Moment::Time(_), Moment::Event(_)) | (Moment::Event(_), Moment::Time(_)) => false,
    };
    if turned {
        return Err(Failure::new(
            Exit::Usage,
            "the two moments are the wrong way round",
            format!("{from} comes after {to}"),
            "give the earlier one first",
        ));
    }
    Ok((from, to))
}

/// Where a network's past is read.
pub(super) enum Past {
    /// The topics of a cluster.
    Kafka(Box<Source>),
    /// The coordinator, as far back as it keeps events.
    Coordinator(Coordinator),
}

impl Past {
    /// Connects to what the command line names.
    pub(super) async fn open(source: &StreamArgs) -> Outcome<Self> {
        Ok(match kafka(source)? {
            Some(kafka) => Self::Kafka(Box::new(Source::find(kafka).await.map_err(failure)?)),
            None => Self::Coordinator(Coordinator::connect(&source.coordinator).await?),
        })
    }

    /// The network as it is.
    pub(super) async fn now(&mut self) -> Outcome<Graph> {
        match self {
            Self::Kafka(source) => wattle_topology::graph(source).await.map_err(failure),
            Self::Coordinator(coordinator) => {
                let topology: Topology = coordinator.get("/topology").await?;
                Ok(topology.into())
            }
        }
    }

    /// The network as it was.
    pub(super) async fn at(&mut self, moment: Moment) -> Outcome<Graph> {
        let graph = match self {
            Self::Kafka(source) => wattle_topology::at(source, moment).await.map_err(failure)?,
            Self::Coordinator(coordinator) => rewound(coordinator, moment).await?,
        };
        match moment {
            Moment::Event(seq) if seq > graph.seq() => Err(Failure::new(
                Exit::NotFound,
                format!("event {seq} is not there"),
                format!("the newest event is {}", graph.seq()),
                "wattle topology show says which event is the newest",
            )),
            Moment::Event(_) | Moment::Time(_) => Ok(graph),
        }
    }

    /// The events after `graph`, which is as the network was at `moment`, up to the newest one that has happened.
    pub(super) async fn events(&mut self, graph: &Graph, moment: Moment) -> Outcome<Events<'_>> {
        let seq = graph.seq();
        match self {
            Self::Kafka(source) => {
                let start = match moment {
                    Moment::Time(since) => Start::After { seq, since },
                    Moment::Event(_) => Start::Seq(seq + 1),
                };
                let newest = wattle_topology::newest(source).await.map_err(failure)?;
                let tail = wattle_topology::tail(source, start)
                    .await
                    .map_err(failure)?;
                Ok(Events::Kafka {
                    tail,
                    at: seq,
                    newest,
                })
            }
            Self::Coordinator(coordinator) => Ok(Events::Coordinator {
                coordinator,
                ready: VecDeque::new(),
                next: Some(seq.to_string()),
            }),
        }
    }
}

async fn rewound(coordinator: &mut Coordinator, moment: Moment) -> Outcome<Graph> {
    let topology: Topology = coordinator.get("/topology").await?;
    let mut rewind = Rewind::new(topology.into(), moment);
    let mut path = match moment {
        Moment::Time(time) => format!("/events?since={time}"),
        Moment::Event(seq) => format!("/events?after={seq}"),
    };
    loop {
        let page: Page<TopologyEvent> = coordinator.get(&path).await?;
        for event in &page.items {
            rewind.take(event);
        }
        match page.next {
            Some(after) => path = format!("/events?after={after}"),
            None => return Ok(rewind.finish()),
        }
    }
}

/// Events in order.
pub(super) enum Events<'a> {
    /// From the events topic, up to the event that was the newest one.
    Kafka { tail: Tail, at: u64, newest: u64 },
    /// From the coordinator, page by page.
    Coordinator {
        coordinator: &'a mut Coordinator,
        ready: VecDeque<TopologyEvent>,
        next: Option<String>,
    },
}

impl Events<'_> {
    /// The next event; `None` after the last.
    pub(super) async fn next(&mut self) -> Outcome<Option<TopologyEvent>> {
        match self {
            Self::Kafka { tail, at, newest } => {
                if at >= newest {
                    return Ok(None);
                }
                loop {
                    match tail.next().await.transpose().map_err(failure)? {
                        Some(Item::Event(event)) => {
                            *at = event.id.seq;
                            return Ok(Some(*event));
                        }
                        Some(Item::Missing(first, last)) => {
                            return Err(failure(TopologyError::Hole { first, last }));
                        }
                        Some(Item::Joined(_)) => {}
                        None => return Ok(None),
                    }
                }
            }
            Self::Coordinator {
                coordinator,
                ready,
                next,
            } => {
                while ready.is_empty() {
                    let Some(after) = next.take() else {
                        return Ok(None);
                    };
                    let path = format!("/events?after={after}");
                    let page: Page<TopologyEvent> = coordinator.get(&path).await?;
                    (*next, *ready) = (page.next, page.items.into());
                }
                Ok(ready.pop_front())
            }
        }
    }

    /// The next event that is not later than a moment.
    pub(super) async fn next_until(&mut self, to: Moment) -> Outcome<Option<TopologyEvent>> {
        let event = self.next().await?;
        Ok(event.filter(|event| !to.is_before(event.id.seq, event.ts)))
    }
}

/// The time of a moment; that of the network there, else the present, if it is an event.
pub(super) fn time_of(moment: Moment, graph: &Graph) -> Timestamp {
    moment.time().or(graph.ts()).unwrap_or_else(wall_clock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_future_and_the_wrong_order_are_usage_errors() {
        for (from, to, words) in [
            ("2999-01-01T00:00Z", "now", "in the future"),
            ("yesterday", "now", "no moment"),
            ("-1h", "-2h", "comes after"),
            ("#9", "#8", "#9 comes after #8"),
        ] {
            let failure = span((from, to)).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.why.contains(words), "{}", failure.why);
        }
        assert!(span(("-2h", "-1h")).is_ok() && span(("#8", "now")).is_ok());
    }
}
