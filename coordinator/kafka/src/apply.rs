//! Making the changes of a plan one by one, and telling what became of each: a change that fails holds up no other.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Serialize;
use wattle_api::secret::Secrets;

use crate::admin::Admin;
use crate::error::ClusterError;
use crate::item::{Action, Change, Flag, Item, Verdict};
use crate::plan::Plan;
use crate::wanted::Wanted;

/// What became of an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It is as it should be.
    Done,
    /// It is on its way: copies are being moved.
    UnderWay,
    /// The cluster said no.
    Failed {
        /// Why.
        why: String,
    },
    /// Not tried: a flag is missing, or it cannot be done in place.
    Left {
        /// Why.
        why: String,
    },
}

/// An item and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Report {
    /// What it is about.
    pub subject: String,
    /// What was to be done.
    pub action: Action,
    /// The settings and things in question.
    pub fields: Vec<String>,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Makes the changes that `flags` allow; calls `tell` after each item. Waits `patience` for copies that move.
pub fn apply<S: Secrets>(
    admin: &mut Admin<'_, S>,
    plan: &Plan,
    flags: &BTreeSet<Flag>,
    patience: Duration,
    mut tell: impl FnMut(&Report),
) -> Vec<Report> {
    let mut reports = Vec::new();
    for item in &plan.items {
        let report = Report {
            subject: item.subject.clone(),
            action: item.action,
            fields: item
                .differences
                .iter()
                .map(|difference| difference.field.clone())
                .collect(),
            outcome: outcome(admin, item, flags, patience),
        };
        tell(&report);
        reports.push(report);
    }
    reports
}

/// Waits until the cluster shows what was done, since brokers learn of changes one after the other. Returns what differs
/// then, or after `patience`.
pub fn settle<S: Secrets>(
    admin: &mut Admin<'_, S>,
    wanted: &Wanted,
    reports: &[Report],
    patience: Duration,
) -> Result<Plan, ClusterError> {
    let end = Instant::now() + patience;
    loop {
        let plan = Plan::between(&admin.observe(wanted)?, wanted);
        let lags = reports
            .iter()
            .any(|report| report.is_contradicted_by(&plan));
        if !lags || Instant::now() >= end {
            return Ok(plan);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

impl Report {
    /// Whether it was done, and yet the same differs.
    pub fn is_contradicted_by(&self, plan: &Plan) -> bool {
        let same = |item: &Item| {
            let mut fields = item.differences.iter().map(|difference| &difference.field);
            item.subject == self.subject && fields.any(|field| self.fields.contains(field))
        };
        self.outcome == Outcome::Done && plan.items.iter().any(same)
    }
}

fn outcome<S: Secrets>(
    admin: &mut Admin<'_, S>,
    item: &Item,
    flags: &BTreeSet<Flag>,
    patience: Duration,
) -> Outcome {
    match &item.verdict {
        Verdict::Refused { why } => return Outcome::Left { why: why.clone() },
        Verdict::Guarded { flag, why } if !flags.contains(flag) => {
            let why = format!("needs {}: {why}", flag.option());
            return Outcome::Left { why };
        }
        Verdict::Guarded { .. } | Verdict::Free => {}
    }
    if let Err(error) = admin.make(&item.change) {
        let why = error.to_string();
        return Outcome::Failed { why };
    }
    match &item.change {
        Change::Reassign { topic, replicas } => {
            let partitions: Vec<i32> = replicas.keys().copied().collect();
            finish_move(admin, topic, partitions, patience)
        }
        _ => Outcome::Done,
    }
}

/// Waits for copies to be where they belong, then lets the first of them lead.
fn finish_move<S: Secrets>(
    admin: &mut Admin<'_, S>,
    topic: &str,
    partitions: Vec<i32>,
    patience: Duration,
) -> Outcome {
    let topic = topic.to_owned();
    match admin.wait_for_moves(&topic, patience) {
        Ok(false) => Outcome::UnderWay,
        Ok(true) => match admin.make(&Change::ElectLeaders { topic, partitions }) {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Failed {
                why: error.to_string(),
            },
        },
        Err(error) => Outcome::Failed {
            why: error.to_string(),
        },
    }
}
