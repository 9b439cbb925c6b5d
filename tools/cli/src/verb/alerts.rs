//! `wattle alerts`: what is wrong, as the coordinator knows it.

use wattle_api::notice::{Alert, Severity};

use crate::args::CoordinatorArgs;
use crate::coordinator::{Coordinator, block_on};
use crate::failure::Outcome;
use crate::human::clean;
use crate::output::Output;
use crate::table::{Columns, Mood, Side};
use crate::verb::answers;

const HEADINGS: [(&str, Side); 5] = [
    ("SEVERITY", Side::Left),
    ("ALERT", Side::Left),
    ("ABOUT", Side::Left),
    ("SINCE", Side::Left),
    ("DETAIL", Side::Left),
];

/// Shows the alerts that are raised.
pub(crate) fn run(coordinator: &CoordinatorArgs, output: &mut Output) -> Outcome {
    let alerts: Vec<Alert> = block_on(async {
        let mut coordinator = Coordinator::connect(coordinator).await?;
        coordinator.list("/alerts").await
    })?;
    let coloured = output.is_coloured();
    output.answer(answers::ALERTS, &alerts, |alerts| table(alerts, coloured))
}

fn table(alerts: &[Alert], coloured: bool) -> String {
    if alerts.is_empty() {
        return "nothing is wrong".to_owned();
    }
    let mut table = Columns::new(coloured, &HEADINGS);
    for alert in alerts {
        let (severity, mood) = match alert.severity {
            Severity::Warning => ("warning", Mood::Odd),
            Severity::Critical => ("critical", Mood::Bad),
        };
        let cells = vec![
            severity.to_owned(),
            alert.kind.as_str().to_owned(),
            alert.key.to_string(),
            alert.since.to_string(),
            clean(&alert.detail),
        ];
        table.row(cells, Some((0, mood)));
    }
    table.finish()
}
