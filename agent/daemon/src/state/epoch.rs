//! The boot counter: records of this start must look newer than those of every earlier one.

use std::path::Path;
use std::time::SystemTime;

use super::{StateError, file};

const FILE: &str = "epoch";

/// Counts one start and returns its number, on disk before it is returned.
pub(super) fn bump(directory: &Path) -> Result<u32, StateError> {
    let last = match file::read(&directory.join(FILE))? {
        None => 0,
        Some(content) => parse(&content).unwrap_or_else(|| {
            let restart = unix_seconds();
            tracing::warn!(
                restart,
                "the boot counter is damaged; counting on from the wall clock"
            );
            restart
        }),
    };
    let epoch = last.saturating_add(1);
    file::replace(directory, FILE, format!("{epoch}\n").as_bytes())?;
    Ok(epoch)
}

fn parse(content: &[u8]) -> Option<u32> {
    // A torn write may keep the first digits of a longer number: the newline says that it is whole.
    std::str::from_utf8(content)
        .ok()?
        .strip_suffix('\n')?
        .parse()
        .ok()
}

/// Seconds since 1970: beyond what any machine has been started, so no earlier epoch is reached again.
fn unix_seconds() -> u32 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.ok()
        .and_then(|span| u32::try_from(span.as_secs()).ok())
        .unwrap_or(u32::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_has_a_higher_number() {
        let directory = tempfile::tempdir().unwrap();
        let epochs: Vec<u32> = (0..3).map(|_| bump(directory.path()).unwrap()).collect();
        assert_eq!(epochs, [1, 2, 3]);
    }

    #[test]
    fn a_damaged_counter_goes_on_above_every_earlier_number() {
        for damage in ["", "12", "x\n", "99999999999\n", "-1\n", "\u{0}\n"] {
            let directory = tempfile::tempdir().unwrap();
            std::fs::write(directory.path().join(FILE), damage).unwrap();
            let first = bump(directory.path()).unwrap();
            assert!(first > 1_000_000_000, "{damage:?} -> {first}");
            assert_eq!(bump(directory.path()).unwrap(), first + 1);
        }
    }
}
