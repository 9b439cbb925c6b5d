//! `replay`: plays history. On a terminal a small map of who reaches whom is drawn again with every event; elsewhere
//! events are lines with how far history is, between the first map and the last.

use std::collections::VecDeque;
use std::io::{BufRead as _, IsTerminal as _};
use std::time::Duration;

use tokio::time::Instant;
use wattle_api::Timestamp;
use wattle_api::topology::TopologyEvent;
use wattle_topology::{Graph, Moment, picture};

use super::line::{line, named};
use super::past::{Past, span, time_of};
use crate::args::StreamArgs;
use crate::failure::Outcome;
use crate::human::millis;
use crate::output::{Output, wall_clock};
use crate::verb::answers;

/// The longest pause between two events.
const LONGEST: Duration = Duration::from_secs(2);

/// What a timer can tell apart.
const STEP: Duration = Duration::from_millis(1);

/// Events below the map.
const SHOWN: usize = 10;

/// Columns of the bar that shows how far history is.
const BAR: usize = 40;

/// How fast history is played.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pace {
    /// So many times faster than it was.
    Speed(f64),
    /// One event for each time that the Enter key is pressed.
    Step,
}

pub(super) async fn run(
    span_given: (&str, &str),
    pace: Pace,
    source: &StreamArgs,
    output: &mut Output,
) -> Outcome {
    let (from, to) = span(span_given)?;
    let mut past = Past::open(source).await?;
    let graph = past.at(from).await?;
    let mut film = Film {
        begins: time_of(from, &graph),
        ends: to.time().unwrap_or_else(wall_clock),
        drawn: !output.is_json() && std::io::stdout().is_terminal(),
        recent: VecDeque::new(),
        events: 0,
    };
    let mut at = film.begins;
    let mut due = Instant::now();
    let mut events = past.events(&graph, from).await?;
    let mut now = graph;
    film.open(&now, output)?;
    while let Some(event) = events.next_until(to).await? {
        if !pace.wait(at, event.ts, &mut due).await {
            break;
        }
        at = at.max(event.ts);
        // What is gone has its name from before.
        let gone = event.after.is_none().then(|| now.label(event.key));
        now.apply(&event);
        let name = gone.unwrap_or_else(|| now.label(event.key));
        film.show(&now, &event, &name, output)?;
    }
    film.close(&now, to, output)
}

impl Pace {
    /// Waits for the next event; says whether to go on. Pauses add up in `due`: most are shorter than a timer's step.
    async fn wait(self, at: Timestamp, next: Timestamp, due: &mut Instant) -> bool {
        match self {
            Self::Speed(factor) => {
                let now = Instant::now();
                *due = now.max(*due) + pause(at, next, factor);
                if *due > now + STEP {
                    tokio::time::sleep_until(*due).await;
                }
                true
            }
            Self::Step => {
                eprint!("Enter: next event, q: end ");
                let mut answer = String::new();
                let read = std::io::stdin().lock().read_line(&mut answer);
                matches!(read, Ok(1..)) && answer.trim() != "q"
            }
        }
    }
}

fn pause(at: Timestamp, next: Timestamp, factor: f64) -> Duration {
    let passed = next.as_millis().saturating_sub(at.as_millis());
    let seconds = passed as f64 / 1_000.0 / factor;
    Duration::from_secs_f64(seconds.min(LONGEST.as_secs_f64()))
}

/// What is shown.
struct Film {
    begins: Timestamp,
    ends: Timestamp,
    /// Whether a terminal is drawn upon.
    drawn: bool,
    recent: VecDeque<String>,
    events: u64,
}

impl Film {
    fn open(&self, graph: &Graph, output: &mut Output) -> Outcome {
        if output.is_json() {
            return Ok(());
        }
        let map = picture::matrix(graph);
        if self.drawn {
            return output.text(&format!(
                "\u{1b}[H\u{1b}[J{} {}\n\n{map}",
                self.begins,
                self.bar(self.begins)
            ));
        }
        output.text(&format!(
            "{}  {} to play\n{map}",
            self.begins,
            millis(self.length())
        ))
    }

    fn show(
        &mut self,
        graph: &Graph,
        event: &TopologyEvent,
        name: &str,
        output: &mut Output,
    ) -> Outcome {
        self.events += 1;
        if output.is_json() {
            return output.answer(answers::TOPOLOGY_EVENT, event, line);
        }
        let told = named(event, name);
        if !self.drawn {
            return output.text(&format!("{:>4}%  {told}", self.percent(event.ts)));
        }
        self.recent.push_back(told);
        if self.recent.len() > SHOWN {
            self.recent.pop_front();
        }
        let recent: Vec<&str> = self.recent.iter().map(String::as_str).collect();
        let (bar, map) = (self.bar(event.ts), picture::matrix(graph));
        output.text(&format!(
            "\u{1b}[H\u{1b}[J{} {bar}\n\n{map}\n{}",
            event.ts,
            recent.join("\n")
        ))
    }

    fn close(&self, graph: &Graph, to: Moment, output: &mut Output) -> Outcome {
        if output.is_json() {
            return Ok(());
        }
        let map = if self.drawn {
            String::new()
        } else {
            picture::matrix(graph)
        };
        output.text(&format!(
            "{map}{to}: {} events, the newest is {}\n",
            self.events,
            graph.seq()
        ))
    }

    const fn length(&self) -> u64 {
        self.ends
            .as_millis()
            .saturating_sub(self.begins.as_millis())
    }

    fn percent(&self, at: Timestamp) -> u64 {
        let passed = at.as_millis().saturating_sub(self.begins.as_millis());
        (passed * 100)
            .checked_div(self.length())
            .unwrap_or(100)
            .min(100)
    }

    fn bar(&self, at: Timestamp) -> String {
        let percent = self.percent(at);
        let full = percent as usize * BAR / 100;
        format!(
            "[{}{}] {percent}%",
            "=".repeat(full),
            " ".repeat(BAR - full)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn second(n: u64) -> Timestamp {
        Timestamp::from_millis(n * 1_000)
    }

    #[test]
    fn pauses_shrink_with_speed_and_are_never_long() {
        assert_eq!(pause(second(0), second(60), 60.0), Duration::from_secs(1));
        assert_eq!(pause(second(0), second(1), 0.5), Duration::from_secs(2));
        assert_eq!(pause(second(0), second(86_400), 1.0), LONGEST);
        assert_eq!(pause(second(9), second(3), 1.0), Duration::ZERO);
    }

    #[test]
    fn the_bar_says_how_far_history_is() {
        let film = Film {
            begins: second(100),
            ends: second(200),
            drawn: true,
            recent: VecDeque::new(),
            events: 0,
        };
        assert_eq!(
            film.bar(second(150)),
            format!("[{}{}] 50%", "=".repeat(20), " ".repeat(20))
        );
        assert_eq!(
            (film.percent(second(90)), film.percent(second(999))),
            (0, 100)
        );
    }
}
