//! Numbers as people read them: short, with their unit, the same width of meaning everywhere.

use std::time::Duration;

/// What stands where nothing is known.
pub(crate) const UNKNOWN: &str = "-";

/// Microseconds: `850us`, `12.3ms`, `4.20s`.
pub(crate) fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us}us"),
        1_000..100_000 => format!("{}.{}ms", us / 1_000, us % 1_000 / 100),
        100_000..1_000_000 => format!("{}ms", us / 1_000),
        _ => format!("{}.{:02}s", us / 1_000_000, us % 1_000_000 / 10_000),
    }
}

/// Parts per million as per cent: `0%`, `0.02%`, `3.1%`, `100%`.
pub(crate) fn percent(ppm: u32) -> String {
    match ppm {
        0 => "0%".to_owned(),
        1..100 => "<0.01%".to_owned(),
        100..10_000 => format!("0.{:02}%", ppm / 100),
        10_000..100_000 => format!("{}.{}%", ppm / 10_000, ppm % 10_000 / 1_000),
        _ => format!("{}%", ppm / 10_000),
    }
}

/// Bytes: `17B`, `1.2KiB`, `305MiB`.
pub(crate) fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut whole = count;
    let mut rest = 0;
    let mut unit = "B";
    for next in units {
        if whole < 1_024 {
            break;
        }
        (whole, rest, unit) = (whole / 1_024, whole % 1_024, next);
    }
    match (unit, whole) {
        ("B", _) | (_, 100..) => format!("{whole}{unit}"),
        _ => format!("{whole}.{}{unit}", rest * 10 / 1_024),
    }
}

/// A span in its two largest units: `350ms`, `12s`, `3m04s`, `5h10m`, `9d04h`.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 if span.is_zero() => "0s".to_owned(),
        0 => format!("{}ms", span.as_millis()),
        1..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// A span in milliseconds, as [`span`].
pub(crate) fn millis(ms: u64) -> String {
    span(Duration::from_millis(ms))
}

/// What `show` makes of a value, or [`UNKNOWN`].
pub(crate) fn or_unknown<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), show)
}

/// Several things in one cell.
pub(crate) fn list<T: ToString>(items: &[T]) -> String {
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    if texts.is_empty() {
        UNKNOWN.to_owned()
    } else {
        texts.join(" ")
    }
}

/// Text from elsewhere without control characters, so that it cannot steer a terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        let times: Vec<_> = [0, 850, 1_000, 12_345, 99_999, 123_456, 4_200_000]
            .map(micros)
            .into();
        assert_eq!(
            times,
            [
                "0us", "850us", "1.0ms", "12.3ms", "99.9ms", "123ms", "4.20s"
            ]
        );
        let losses: Vec<_> = [0, 5, 250, 31_000, 1_000_000].map(percent).into();
        assert_eq!(losses, ["0%", "<0.01%", "0.02%", "3.1%", "100%"]);
        let sizes: Vec<_> = [0, 1_023, 1_024, 1_300_000, u64::MAX].map(bytes).into();
        assert_eq!(sizes, ["0B", "1023B", "1.0KiB", "1.2MiB", "15.9EiB"]);
        let spans: Vec<_> = [0, 350, 12_000, 184_000, 18_600_000, 792_000_000]
            .map(millis)
            .into();
        assert_eq!(spans, ["0s", "350ms", "12s", "3m04s", "5h10m", "9d04h"]);
    }

    #[test]
    fn text_from_elsewhere_cannot_steer_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
