//! `wattle events`: what happened on this node.

use std::path::Path;

use serde_json::Value;
use wattle_api::Timestamp;
use wattle_control::{EventReport, Reply, Request};

use crate::agent::{self, PATIENCE};
use crate::failure::Outcome;
use crate::human::clean;
use crate::output::Output;
use crate::verb::answers;
use crate::verb::path::why;

/// Shows the kept events and, if wanted, those to come.
pub(crate) fn run(socket: &Path, follow: bool, output: &mut Output) -> Outcome {
    let client = agent::connect(socket, output)?;
    let patience = (!follow).then_some(PATIENCE);
    let mut last = None;
    for reply in client.stream(&Request::Events { follow }, patience)? {
        if let Reply::Event(event) = reply? {
            if let Some(missed) = missed(last, event.sequence) {
                output.warn(format!("{missed} events were not kept"));
            }
            last = Some(event.sequence);
            output.answer(answers::EVENT, &event, line)?;
        }
    }
    Ok(())
}

fn missed(last: Option<u64>, sequence: u64) -> Option<u64> {
    let missed = sequence.saturating_sub(last? + 1);
    (missed > 0).then_some(missed)
}

fn line(event: &EventReport) -> String {
    let at = Timestamp::from_millis(event.at_unix_ms);
    let cause = event.fields.get("cause").and_then(Value::as_str);
    let latency = event.fields.get("latency_us").and_then(Value::as_u64);
    let why = why(cause, latency);
    format!(
        "{at}  {:<20}  {}{why}",
        clean(&event.event),
        clean(&event.text)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verb::sample;

    #[test]
    fn an_event_is_one_line_with_its_time() {
        assert_eq!(
            line(&sample::event()),
            "2026-11-22T22:08:00.000Z  link_down             link 1 to r2 (udp4): silent for 80ms"
        );
    }

    #[test]
    fn a_change_of_route_says_why_and_how_long_it_took() {
        let mut event = sample::event();
        event.fields.insert("cause".into(), "links of r4".into());
        event.fields.insert("latency_us".into(), 152_000.into());
        let line = line(&event);
        let why = "; cause: links of r4, 152ms after it began";
        assert!(line.ends_with(why), "{line}");
    }

    #[test]
    fn a_gap_in_the_sequence_is_told() {
        assert_eq!(missed(None, 7), None);
        assert_eq!(missed(Some(7), 8), None);
        assert_eq!(missed(Some(7), 11), Some(3));
    }
}
