//! `wattle explain`: why traffic goes this way and not another.

use std::path::Path;

use wattle_control::ExplainReport;

use crate::agent;
use crate::args::DestinationArgs;
use crate::failure::Outcome;
use crate::human::{clean, micros, millis};
use crate::output::Output;
use crate::verb::answers;
use crate::verb::links::{priced, sum};
use crate::verb::path::{change, names, of_class, way};

/// Shows why traffic to a destination goes the way it goes.
pub(crate) fn run(socket: &Path, args: DestinationArgs, output: &mut Output) -> Outcome {
    let report = agent::connect(socket, output)?.explain(args.destination, args.class)?;
    output.answer(answers::EXPLAIN, &*report, show)
}

fn show(report: &ExplainReport) -> String {
    let by = report
        .prefix
        .map(|prefix| format!(" by {prefix}"))
        .unwrap_or_default();
    let mut text = format!(
        "{}to {} ({}){by}\n",
        of_class(report.class),
        clean(&report.destination.name),
        report.destination.id
    );
    text += &way(&report.chosen);
    text += &format!("  cost: {}\n", sum(&report.cost));
    text += &match (&report.runner_up, report.margin_us) {
        (None, _) => "  runner-up: none, there is no other way\n".to_owned(),
        (Some(other), None) => format!("  runner-up: {}\n", names(other)),
        (Some(other), _) if other.tier > report.chosen.tier => format!(
            "  runner-up: {}  cost {}, a higher tier\n",
            names(other),
            priced(other.tier, other.cost_us),
        ),
        (Some(other), Some(margin)) => format!(
            "  runner-up: {}  cost {}, {} dearer\n",
            names(other),
            micros(other.cost_us.into()),
            micros(margin.into())
        ),
    };
    if let Some(hold) = report.hold_ms {
        text += &format!(
            "  the runner-up's first link got cheaper, which counts after {} of staying so\n",
            millis(hold)
        );
    }
    text += &change(report.changed.as_ref());
    for note in &report.notes {
        text += &format!("  # {}\n", clean(note));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verb::sample;

    #[test]
    fn an_explanation_adds_up_the_cost_and_names_the_runner_up() {
        insta::assert_snapshot!(show(&sample::explain()), @"
        to r3 (0000000000000003) by 10.77.0.3/32
          used 100%: r1 > r2 > r3  cost 26.2ms
            r1 > r2  udp4  rtt 24.2ms  loss 3.0%  cost 13.1ms = base 100us + rtt 12.1ms + jitter 300us + loss 600us
            r2 > r3  udp4  rtt 24.2ms  loss 3.0%  cost 13.1ms = base 100us + rtt 12.1ms + jitter 300us + loss 600us
          cost: 26.2ms = base 200us + rtt 24.2ms + jitter 600us + loss 1.2ms
          runner-up: r1 > r3  cost 40.0ms, 13.8ms dearer
          the runner-up's first link got cheaper, which counts after 5s of staying so
          last change 2026-11-22T22:08:00.000Z: r3 goes via r2, before via r4; cause: links of r4, 152ms after it began
          # r2 has no rest of its loss budget
        ");
    }

    #[test]
    fn without_another_way_it_says_so() {
        let lonely = ExplainReport {
            runner_up: None,
            margin_us: None,
            ..sample::explain()
        };
        assert!(show(&lonely).contains("runner-up: none, there is no other way"));
    }
}
