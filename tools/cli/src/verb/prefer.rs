//! `wattle prefer`: packets go over a neighbour that an operator names.

use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;
use wattle_control::Request;

use crate::agent;
use crate::args::PreferArgs;
use crate::failure::Outcome;
use crate::human::clean;
use crate::output::Output;
use crate::verb::answers;

/// What is preferred.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Preferred {
    /// The neighbour, as it was given; `null` takes the preference back.
    via: Option<String>,
    /// Only packets to this node, as it was given.
    destination: Option<String>,
    /// For how many seconds; `null` until it is taken back.
    for_s: Option<u64>,
    /// Whether nothing was changed, by `--dry-run`.
    dry_run: bool,
}

/// Prefers a neighbour, or takes that back.
pub(crate) fn run(socket: &Path, args: PreferArgs, output: &mut Output) -> Outcome {
    let mut client = agent::connect(socket, output)?;
    let preferred = Preferred {
        via: args.via,
        destination: args.to,
        for_s: args.for_s,
        dry_run: args.dry_run,
    };
    if !args.dry_run {
        client.order(&Request::Prefer {
            via: preferred.via.clone(),
            dst: preferred.destination.clone(),
            for_s: preferred.for_s,
        })?;
    }
    output.answer(answers::PREFER, &preferred, show)
}

fn show(preferred: &Preferred) -> String {
    let would = if preferred.dry_run { "would be: " } else { "" };
    let what = match &preferred.destination {
        Some(node) => format!("packets to {}", clean(node)),
        None => "packets".to_owned(),
    };
    let Some(via) = &preferred.via else {
        return format!("{would}{what} go the best way again");
    };
    let until = match preferred.for_s {
        Some(seconds) => format!("for {seconds} s"),
        None => "until `wattle prefer --undo`".to_owned(),
    };
    format!(
        "{would}{what} go over {} {until}, wherever it is nearer to their destination than this node",
        clean(via)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preference_says_for_what_it_holds_and_how_long() {
        let preferred = Preferred {
            via: Some("r2".into()),
            destination: Some("r3".into()),
            for_s: Some(60),
            dry_run: false,
        };
        let said = show(&preferred);
        assert!(
            said.starts_with("packets to r3 go over r2 for 60 s, wherever"),
            "{said}"
        );
        let undone = Preferred {
            via: None,
            destination: None,
            for_s: None,
            dry_run: true,
        };
        assert_eq!(show(&undone), "would be: packets go the best way again");
    }
}
