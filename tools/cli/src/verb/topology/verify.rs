//! `verify`: whether the stream in Kafka keeps its promise.

use wattle_topology::{Source, Verification};

use super::source::{failure, kafka};
use crate::args::StreamArgs;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::Output;
use crate::verb::answers;

pub(super) async fn run(source: &StreamArgs, output: &mut Output) -> Outcome {
    let Some(kafka) = kafka(source)? else {
        let why = "the coordinator's own stream is one ordered table";
        return Err(Failure::new(
            Exit::Usage,
            "there is nothing to verify",
            why,
            "wattle topology verify --kafka HOST:PORT, or --kafka-config FILE",
        ));
    };
    let source = Source::find(kafka).await.map_err(failure)?;
    let found = wattle_topology::verify(&source).await.map_err(failure)?;
    output.answer(answers::TOPOLOGY_VERIFICATION, &found, verdict)?;
    if found.is_whole() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Check,
        "the stream is not whole",
        verdict(&found),
        "journalctl -u wattle-coordinator",
    ))
}

fn verdict(found: &Verification) -> String {
    let Verification {
        first_seq,
        last_seq,
        seen,
        lost,
        duplicated,
        reordered,
        broken_links,
        broken_images,
        state_checked,
        state_wrong,
        told_missing,
        snapshots_checked,
        snapshots_wrong,
        ..
    } = found;
    let gaps = match told_missing {
        0 => String::new(),
        missing => format!("\n{missing} events were never written, as the topic says itself"),
    };
    format!(
        "events {first_seq} to {last_seq}: {seen} seen, {lost} lost, {duplicated} duplicated, {reordered} reordered, \
         {broken_links} out of chain, {broken_images} that do not begin where the one before ended\n\
         state: {state_checked} entities compared with their last event, {state_wrong} differ\n\
         snapshots: {snapshots_checked} compared with the events between them, {snapshots_wrong} differ{gaps}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_counts_every_kind_of_fault() {
        let clean = Verification {
            first_seq: 1,
            last_seq: 9,
            seen: 9,
            state_checked: 4,
            ..Verification::default()
        };
        assert_eq!(
            verdict(&clean),
            "events 1 to 9: 9 seen, 0 lost, 0 duplicated, 0 reordered, 0 out of chain, 0 that do not begin where the one \
             before ended\nstate: 4 entities compared with their last event, 0 differ\n\
             snapshots: 0 compared with the events between them, 0 differ"
        );
    }
}
