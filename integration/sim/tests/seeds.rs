//! Many seeds, each a network that is broken and mended: every promise holds once it is quiet.

use std::sync::atomic::{AtomicU64, Ordering};

use wattle_sim::scenario::{self, Failure};

/// Seeds of one run; more with `WATTLE_SIM_SEEDS`, a single one with `WATTLE_SIM_SEED`.
const SEEDS: u64 = 250;

#[test]
fn every_seed_settles_with_equal_databases_shortest_routes_and_no_loop() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().expect("a number"))
    };
    if let Some(seed) = number("WATTLE_SIM_SEED") {
        match scenario::run(seed) {
            Ok(report) => println!("{report:#?}"),
            Err(failure) => panic!("{failure}"),
        }
        return;
    }
    let seeds = number("WATTLE_SIM_SEEDS").unwrap_or(SEEDS);
    let failures = run_all(seeds);
    let first = failures
        .iter()
        .take(3)
        .map(Failure::to_string)
        .collect::<Vec<_>>()
        .join("\n\n");
    assert!(
        failures.is_empty(),
        "{} of {seeds} seeds failed:\n{first}",
        failures.len()
    );
}

/// Seeds that once failed: two lives of one epoch gave one number to two records.
const CORPUS: [u64; 3] = [458, 988, 1_398];

#[test]
fn seeds_that_once_failed_settle() {
    let failures: Vec<_> = CORPUS
        .into_iter()
        .filter_map(|seed| scenario::run(seed).err())
        .collect();
    assert!(failures.is_empty(), "{}", failures[0]);
}

#[test]
fn the_same_seed_is_the_same_run() {
    assert_eq!(scenario::run(7), scenario::run(7));
}

fn run_all(seeds: u64) -> Vec<Failure> {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut failures = Vec::new();
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= seeds {
                            return failures;
                        }
                        failures.extend(scenario::run(seed).err());
                    }
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("no run panics"))
            .collect()
    })
}
