//! Where output goes and in which form: text for people, one envelope per object for programs.

use std::io::{self, IsTerminal as _, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::Serialize;
use wattle_api::Timestamp;
use wattle_control::NodeRef;

use crate::failure::{Failure, Outcome};
use crate::verb::answers::{self, Answer};

/// What `wattle --json` prints: one object per answer, one per line for streams.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Envelope<'a, T> {
    /// Name and version of this schema.
    schema: String,
    /// When it was printed.
    generated_at: Timestamp,
    /// The node whose agent answered; `null` where none was asked.
    node: Option<&'a str>,
    /// The answer.
    data: &'a T,
    /// What to know beside the answer, a sentence each.
    warnings: &'a [String],
}

/// Whether programs or people read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Text { colour: bool },
}

/// Standard output and how to write on it.
pub(crate) struct Output {
    sink: Box<dyn Write>,
    form: Form,
    clock: fn() -> Timestamp,
    node: Option<String>,
    warnings: Vec<String>,
}

impl Output {
    /// Writes to standard output, coloured if a terminal reads and `NO_COLOR` is not set.
    pub(crate) fn to_stdout(json: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let colour = wanted && io::stdout().is_terminal();
        Self {
            sink: Box::new(io::stdout().lock()),
            form: if json {
                Form::Json
            } else {
                Form::Text { colour }
            },
            clock: wall_clock,
            node: None,
            warnings: Vec::new(),
        }
    }

    /// Names the node that the data comes from.
    pub(crate) fn name_node(&mut self, node: &NodeRef) {
        self.node = Some(node.name.clone());
    }

    /// Whether programs read.
    pub(crate) fn is_json(&self) -> bool {
        self.form == Form::Json
    }

    /// Shows everything that follows to programs.
    pub(crate) fn switch_to_json(&mut self) {
        self.form = Form::Json;
    }

    /// Whether words may be coloured.
    pub(crate) fn is_coloured(&self) -> bool {
        self.form == Form::Text { colour: true }
    }

    /// Something to know beside the data: on standard error for people, in the next envelope for programs.
    pub(crate) fn warn(&mut self, warning: impl Into<String>) {
        let warning = warning.into();
        if !self.is_json() {
            let _ = writeln!(io::stderr(), "wattle: {warning}");
        }
        self.warnings.push(warning);
    }

    /// A hint for people, on standard error.
    pub(crate) fn note(&self, note: &str) {
        if !self.is_json() {
            let _ = writeln!(io::stderr(), "{note}");
        }
    }

    /// Shows one answer: `data` in its envelope, or the text that `show` makes of it.
    pub(crate) fn answer<T: Serialize>(
        &mut self,
        answer: Answer<T>,
        data: &T,
        show: impl FnOnce(&T) -> String,
    ) -> Outcome {
        if !self.is_json() {
            return self.text(&show(data));
        }
        let envelope = self.envelope(answer, data);
        let line = serde_json::to_string(&envelope).map_err(io::Error::from)?;
        self.warnings.clear();
        self.text(&line)
    }

    /// Writes text as it is, with a line feed at its end.
    pub(crate) fn text(&mut self, text: &str) -> Outcome {
        self.sink.write_all(text.as_bytes())?;
        if !text.is_empty() && !text.ends_with('\n') {
            self.sink.write_all(b"\n")?;
        }
        Ok(self.sink.flush()?)
    }

    fn envelope<'a, T>(&'a self, answer: Answer<T>, data: &'a T) -> Envelope<'a, T> {
        Envelope {
            schema: answer.schema(),
            generated_at: (self.clock)(),
            node: self.node.as_deref(),
            data,
            warnings: &self.warnings,
        }
    }

    /// Shows a failure on standard error.
    pub(crate) fn failure(&mut self, failure: &Failure) {
        let text = match self.form {
            Form::Json => {
                let envelope = self.envelope(answers::ERROR, failure);
                serde_json::to_string(&envelope).unwrap_or_default()
            }
            Form::Text { .. } => failure_text(failure),
        };
        let _ = writeln!(io::stderr(), "{text}");
    }
}

fn failure_text(failure: &Failure) -> String {
    let Failure {
        what, why, next, ..
    } = failure;
    let mut text = format!("wattle: {what}");
    if !why.is_empty() {
        text += &format!("\n  why:  {}", why.replace('\n', "\n        "));
    }
    if !next.is_empty() {
        text += &format!("\n  next: {next}");
    }
    text
}

/// The time of the wall clock.
pub(crate) fn wall_clock() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Mutex};

    use wattle_control::MetricsReport;

    use super::*;
    use crate::failure::Exit;

    #[test]
    fn an_envelope_names_schema_time_node_data_and_warnings() {
        let (mut output, written) = captured(true);
        output.name_node(&NodeRef {
            id: wattle_model::NodeId(1),
            name: "r1".into(),
        });
        output.warn("clock is off");
        for text in ["a", "b"] {
            output
                .answer(answers::METRICS, &metrics(text), |_| unreachable!())
                .unwrap();
        }
        assert_eq!(
            written(),
            concat!(
                r#"{"schema":"wattle.metrics/v1","generated_at":"2026-11-22T22:08:00.000Z","#,
                r#""node":"r1","data":{"text":"a"},"warnings":["clock is off"]}"#,
                "\n",
                r#"{"schema":"wattle.metrics/v1","generated_at":"2026-11-22T22:08:00.000Z","#,
                r#""node":"r1","data":{"text":"b"},"warnings":[]}"#,
                "\n"
            )
        );
    }

    #[test]
    fn people_see_text_without_an_envelope() {
        let (mut output, written) = captured(false);
        output
            .answer(answers::METRICS, &metrics("a"), |data| data.text.clone())
            .unwrap();
        assert_eq!(written(), "a\n");
    }

    #[test]
    fn a_failure_says_what_why_and_next() {
        let failure = Failure::new(
            Exit::NotFound,
            "no node `x`",
            "not in\nthe set",
            "wattle peers",
        );
        assert_eq!(
            failure_text(&failure),
            "wattle: no node `x`\n  why:  not in\n        the set\n  next: wattle peers"
        );
    }

    fn metrics(text: &str) -> MetricsReport {
        let text = text.to_owned();
        MetricsReport { text }
    }

    /// An output whose text can be read, with a clock that stands.
    pub(crate) fn captured(json: bool) -> (Output, impl Fn() -> String) {
        #[derive(Clone, Default)]
        struct Shared(Arc<Mutex<Vec<u8>>>);
        impl Write for Shared {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let shared = Shared::default();
        let output = Output {
            sink: Box::new(shared.clone()),
            form: if json {
                Form::Json
            } else {
                Form::Text { colour: false }
            },
            clock: || Timestamp::from_millis(1_795_385_280_000),
            node: None,
            warnings: Vec::new(),
        };
        (output, move || {
            String::from_utf8(shared.0.lock().unwrap().clone()).unwrap()
        })
    }
}
