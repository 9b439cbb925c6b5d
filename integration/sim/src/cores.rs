//! Work of many nodes at one instant, on all processors of this machine: in which order it is done shows nowhere.
//! `WATTLE_SIM_THREADS` says on how many.

use std::panic::resume_unwind;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

/// Fewer pieces of work than this for each thread are not worth starting one.
const FEW: usize = 8;

/// What each item becomes, in the order of the items.
pub(crate) fn map<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let threads = processors().min(items.len() / FEW);
    map_on(threads, items, work)
}

fn map_on<T: Send, R: Send>(threads: usize, items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    if threads < 2 {
        return items.into_iter().map(work).collect();
    }
    let queue = Mutex::new(items.into_iter().enumerate());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let share = || {
        let mut done = Vec::new();
        while let Some((at, item)) = next() {
            done.push((at, work(item)));
        }
        done
    };
    let mut done = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(share)).collect();
        let mut done = share();
        for other in others {
            done.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

/// To ask the system takes longer than most work.
fn processors() -> usize {
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| {
        let wanted = std::env::var("WATTLE_SIM_THREADS").ok();
        let wanted = wanted.and_then(|text| text.parse().ok());
        wanted.unwrap_or_else(|| thread::available_parallelism().map_or(1, Into::into))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        // Each thread has one of the first items before any goes on.
        let threads: usize = 4;
        let all_begin = Barrier::new(threads);
        let double = |item: usize| {
            if item < threads {
                all_begin.wait();
            }
            item * 2
        };
        let doubled = map_on(threads, (0..1_000).collect(), double);
        assert_eq!(doubled, (0..1_000).map(|item| item * 2).collect::<Vec<_>>());
    }
}
