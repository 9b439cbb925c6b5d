//! `wattle drain` and `wattle undrain`: transit goes elsewhere, and how to know that it is gone.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Serialize;
use wattle_control::{Client, DrainMode, Request};

use crate::agent;
use crate::args::{DrainArgs, UndrainArgs};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::Output;
use crate::verb::answers;

/// Between two looks at the transit, and for how long there must be none.
const LOOK: Duration = Duration::from_millis(200);
const QUIET: Duration = Duration::from_secs(1);

/// How this node gives transit.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Drained {
    /// How much transit is left; `null` for all of it.
    mode: Option<DrainMode>,
    /// For how many seconds; `null` until it is taken back.
    for_s: Option<u64>,
    /// Whether the transit has ended; `null` where that was not waited for.
    transit_is_gone: Option<bool>,
    /// Whether nothing was changed, by `--dry-run`.
    dry_run: bool,
}

/// Drains this node, and waits until its transit is gone if that is wanted.
pub(crate) fn run(socket: &Path, args: &DrainArgs, output: &mut Output) -> Outcome {
    let mut client = agent::connect(socket, output)?;
    let mode = match args.hard {
        true => DrainMode::Hard,
        false => DrainMode::Soft,
    };
    let for_s = args.for_s;
    let mut drained = Drained {
        mode: Some(mode),
        for_s,
        transit_is_gone: None,
        dry_run: args.dry_run,
    };
    if !args.dry_run {
        client.order(&Request::Drain { mode, for_s })?;
        if let Some(patience) = args.wait {
            wait(&mut client, Duration::from_secs(patience))?;
            drained.transit_is_gone = Some(true);
        }
    }
    output.answer(answers::DRAIN, &drained, show)
}

/// Ends the drain.
pub(crate) fn undo(socket: &Path, args: &UndrainArgs, output: &mut Output) -> Outcome {
    let mut client = agent::connect(socket, output)?;
    if !args.dry_run {
        client.order(&Request::Undrain {})?;
    }
    let undrained = Drained {
        mode: None,
        for_s: None,
        transit_is_gone: None,
        dry_run: args.dry_run,
    };
    output.answer(answers::UNDRAIN, &undrained, show)
}

fn wait(client: &mut Client, patience: Duration) -> Outcome {
    let began = Instant::now();
    let (mut relayed, mut since) = (client.status()?.relayed_packets, Instant::now());
    while since.elapsed() < QUIET {
        if began.elapsed() >= patience {
            let why = "it goes on relaying: there may be no other way, which only --hard cuts off";
            return Err(Failure::new(
                Exit::Timeout,
                "this node is drained, but its transit is not gone",
                why,
                "wattle metrics",
            ));
        }
        sleep(LOOK);
        let by_now = client.status()?.relayed_packets;
        if by_now != relayed {
            (relayed, since) = (by_now, Instant::now());
        }
    }
    Ok(())
}

fn show(drained: &Drained) -> String {
    let would = if drained.dry_run { "would be " } else { "" };
    let how = match drained.mode {
        None => return format!("{would}undrained: transit as usual"),
        Some(DrainMode::Soft) => "others go around this node where they can",
        Some(DrainMode::Hard) => "others go around this node, or nowhere",
    };
    let until = match drained.for_s {
        Some(seconds) => format!("for {seconds} s"),
        None => "until `wattle undrain`".to_owned(),
    };
    let gone = match drained.transit_is_gone {
        Some(true) => "; its transit is gone",
        Some(false) | None => "",
    };
    format!("{would}drained {until}: {how}{gone}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_says_for_how_long_and_what_follows() {
        let drained = Drained {
            mode: Some(DrainMode::Hard),
            for_s: Some(60),
            transit_is_gone: Some(true),
            dry_run: false,
        };
        let said = "drained for 60 s: others go around this node, or nowhere; its transit is gone";
        assert_eq!(show(&drained), said);
        let would = Drained {
            mode: Some(DrainMode::Soft),
            for_s: None,
            transit_is_gone: None,
            dry_run: true,
        };
        let said =
            "would be drained until `wattle undrain`: others go around this node where they can";
        assert_eq!(show(&would), said);
    }
}
