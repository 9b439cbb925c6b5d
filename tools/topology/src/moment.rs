//! Moments as people write them: `2026-11-22T03:12:00Z`, `03:12`, `-2h`, `now`, `#1042`. Pure; the caller knows the time.

use std::fmt;

use wattle_api::Timestamp;

const DAY_MS: u64 = 86_400_000;

/// A place in a network's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// After everything that happened up to this time, this very millisecond included.
    Time(Timestamp),
    /// As this event left the network.
    Event(u64),
}

/// Why a text is no moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MomentError {
    /// It is none of the forms.
    #[error(
        "`{0}` is no moment: write 2026-11-22T03:12:00Z, 2026-11-22T04:12+01:00, 03:12 (UTC, the last time it was that), \
         -2h, -1d12h, now, or #1042 for an event's number"
    )]
    Form(String),
    /// It lies before 1970.
    #[error("`{0}` lies before the beginning of time, 1970")]
    TooEarly(String),
}

impl Moment {
    /// Reads a moment; `now` is what relative ones count from.
    pub fn parse(text: &str, now: Timestamp) -> Result<Self, MomentError> {
        let text = text.trim();
        let bad = || MomentError::Form(text.to_owned());
        if text == "now" {
            return Ok(Self::Time(now));
        }
        if let Some(seq) = text.strip_prefix('#') {
            return seq.parse().map(Self::Event).map_err(|_| bad());
        }
        let millis = if let Some(span) = text.strip_prefix('-') {
            let span = span_ms(span).ok_or_else(bad)?;
            now.as_millis().checked_sub(span)
        } else if let Some((date, time)) = text.split_once(['T', 't', ' ']) {
            Some(date_time(date, time).ok_or_else(bad)?)
        } else {
            last_clock(clock_ms(text).ok_or_else(bad)?, now)
        };
        let millis = millis.ok_or_else(|| MomentError::TooEarly(text.to_owned()))?;
        Ok(Self::Time(Timestamp::from_millis(millis)))
    }

    /// Whether event `seq`, of time `ts`, comes after this moment.
    pub fn is_before(self, seq: u64, ts: Timestamp) -> bool {
        match self {
            Self::Time(time) => ts > time,
            Self::Event(last) => seq > last,
        }
    }

    /// The time, if it is one.
    pub const fn time(self) -> Option<Timestamp> {
        match self {
            Self::Time(time) => Some(time),
            Self::Event(_) => None,
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(time) => time.fmt(f),
            Self::Event(seq) => write!(f, "#{seq}"),
        }
    }
}

/// `1d12h`, `90s`, `500ms`.
fn span_ms(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut sum = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, behind) = rest.split_at(digits);
        let unit = behind
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit);
        let ms = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => DAY_MS,
            "w" => 7 * DAY_MS,
            _ => return None,
        };
        sum = sum.checked_add(number.parse::<u64>().ok()?.checked_mul(ms)?)?;
        rest = behind;
    }
    (!text.is_empty()).then_some(sum)
}

/// The time of a day as milliseconds: `03:12`, `03:12:30`, `03:12:30.5`.
fn clock_ms(text: &str) -> Option<u64> {
    let (hour, rest) = text.split_once(':')?;
    let (minute, second) = rest.split_once(':').unwrap_or((rest, "0"));
    let (second, fraction) = second.split_once('.').unwrap_or((second, "0"));
    let number = |text: &str, most: u64| {
        let plain = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        let number = if plain {
            text.parse::<u64>().ok()
        } else {
            None
        };
        number.filter(|number| *number <= most)
    };
    let plain = (1..=9).contains(&fraction.len()) && fraction.bytes().all(|b| b.is_ascii_digit());
    let millis: u64 = if plain {
        format!("{fraction:0<3}")[..3].parse().ok()?
    } else {
        return None;
    };
    let (hour, minute, second) = (number(hour, 23)?, number(minute, 59)?, number(second, 59)?);
    Some(((hour * 60 + minute) * 60 + second) * 1_000 + millis)
}

/// The last time before `now` that a clock (UTC) showed this.
fn last_clock(clock: u64, now: Timestamp) -> Option<u64> {
    let today = now.as_millis() / DAY_MS * DAY_MS + clock;
    if today <= now.as_millis() {
        Some(today)
    } else {
        today.checked_sub(DAY_MS)
    }
}

/// A date and a time with its zone; UTC without one.
fn date_time(date: &str, time: &str) -> Option<u64> {
    let day: Timestamp = format!("{date}T00:00:00Z").parse().ok()?;
    let (clock, ahead) = match time.strip_suffix(['Z', 'z']) {
        Some(clock) => (clock, 0),
        None => match time.rfind(['+', '-']) {
            Some(at) => {
                let offset = i64::try_from(clock_ms(&time[at + 1..])?).ok()?;
                let sign = if time[at..].starts_with('+') { 1 } else { -1 };
                (&time[..at], sign * offset)
            }
            None => (time, 0),
        },
    };
    let millis = day.as_millis() + clock_ms(clock)?;
    millis.checked_add_signed(-ahead)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-22T22:08:00Z.
    const NOW: Timestamp = Timestamp::from_millis(1_795_385_280_000);

    fn read(text: &str) -> String {
        match Moment::parse(text, NOW) {
            Ok(moment) => moment.to_string(),
            Err(error) => panic!("{text}: {error}"),
        }
    }

    #[test]
    fn every_form_means_the_moment_that_people_mean() {
        for (text, moment) in [
            ("now", "2026-11-22T22:08:00.000Z"),
            ("#1042", "#1042"),
            ("2026-11-22T03:12:00Z", "2026-11-22T03:12:00.000Z"),
            ("2026-11-22T03:12:00.25Z", "2026-11-22T03:12:00.250Z"),
            ("2026-11-22T03:12Z", "2026-11-22T03:12:00.000Z"),
            ("2026-11-22 03:12", "2026-11-22T03:12:00.000Z"),
            ("2026-11-22T03:12:00+01:00", "2026-11-22T02:12:00.000Z"),
            ("2026-11-22T23:30-05:30", "2026-11-23T05:00:00.000Z"),
            ("03:12", "2026-11-22T03:12:00.000Z"),
            ("22:08", "2026-11-22T22:08:00.000Z"),
            ("22:09", "2026-11-21T22:09:00.000Z"),
            ("03:12:30.5", "2026-11-22T03:12:30.500Z"),
            ("-2h", "2026-11-22T20:08:00.000Z"),
            ("-1d12h", "2026-11-21T10:08:00.000Z"),
            ("-90s", "2026-11-22T22:06:30.000Z"),
            ("-1m500ms", "2026-11-22T22:06:59.500Z"),
        ] {
            assert_eq!(read(text), moment, "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_refused_with_the_forms() {
        for bad in [
            "",
            "-",
            "-2",
            "-h",
            "-2y",
            "#",
            "#x",
            "yesterday",
            "24:00",
            "3:60",
            "03:12:60",
            "003:12",
            "2026-02-29T00:00Z",
            "2026-11-22T03:12+1",
            "2026-11-22T03:12:00.Z",
            "03:12+01:00",
        ] {
            let error = Moment::parse(bad, NOW).unwrap_err().to_string();
            assert!(error.contains("-2h") && error.contains("03:12"), "{error}");
        }
        let early = Moment::parse("-99999w", NOW).unwrap_err();
        assert!(matches!(early, MomentError::TooEarly(_)));
        let overflow = "-99999999999999999999h";
        assert!(Moment::parse(overflow, NOW).is_err());
    }

    #[test]
    fn a_moment_includes_its_own_millisecond_and_its_own_event() {
        assert!(!Moment::Time(NOW).is_before(9, NOW));
        assert!(Moment::Time(NOW).is_before(9, Timestamp::from_millis(NOW.as_millis() + 1)));
        assert!(!Moment::Event(9).is_before(9, NOW) && Moment::Event(9).is_before(10, NOW));
    }
}
