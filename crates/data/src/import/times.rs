//! Times in columns: which unit a column is written in, found by majority, and reading one value in that unit.

use serde::{Deserialize, Serialize};
use sommelier_core::Time;

/// How a column writes its times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    Seconds,
    Millis,
    Micros,
    Nanos,
    /// ISO 8601, with or without a time of day and a zone.
    Iso,
    /// Small whole numbers that only order a user's events.
    Order,
}

impl TimeUnit {
    pub fn words(self) -> &'static str {
        match self {
            TimeUnit::Seconds => "seconds since 1970",
            TimeUnit::Millis => "milliseconds since 1970",
            TimeUnit::Micros => "microseconds since 1970",
            TimeUnit::Nanos => "nanoseconds since 1970",
            TimeUnit::Iso => "ISO 8601",
            TimeUnit::Order => "order only",
        }
    }

    /// The unit that one value looks like. Numbers are told apart by size: the units are a thousand times apart,
    /// and each range below spans the years 1973 to 5138.
    fn of(text: &str) -> Option<TimeUnit> {
        let Some(number) = number(text) else {
            return Time::parse(text).is_ok().then_some(TimeUnit::Iso);
        };
        match number {
            n if !n.is_finite() || n < 0.0 => None,
            n if n < 1e8 => Some(TimeUnit::Order),
            n if n < 1e11 => Some(TimeUnit::Seconds),
            n if n < 1e14 => Some(TimeUnit::Millis),
            n if n < 1e17 => Some(TimeUnit::Micros),
            n if n < 1e19 => Some(TimeUnit::Nanos),
            _ => None,
        }
    }

    /// The unit of most values; `None` where none can be read. A unit of real time wins over `Order` unless
    /// `Order` has the majority, so that a few zeros do not undo a column of seconds.
    pub fn majority<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<TimeUnit> {
        let mut counts = [0usize; 6];
        for value in values {
            if let Some(unit) = TimeUnit::of(value.trim()) {
                counts[unit as usize] += 1;
            }
        }
        let all = [
            TimeUnit::Seconds,
            TimeUnit::Millis,
            TimeUnit::Micros,
            TimeUnit::Nanos,
            TimeUnit::Iso,
            TimeUnit::Order,
        ];
        // Earlier wins on ties.
        let mut best: Option<TimeUnit> = None;
        for unit in all {
            if counts[unit as usize] > best.map_or(0, |b| counts[b as usize]) {
                best = Some(unit);
            }
        }
        best
    }

    /// Reads one value. The words of an error say what the column holds and what was received.
    pub fn read(self, text: &str) -> Result<Time, String> {
        let text = text.trim();
        let wrong = || {
            let shown: String = text.chars().take(40).collect();
            match TimeUnit::of(text) {
                Some(other) if other != self => format!(
                    "expected {} like most of the column, received `{shown}`, which looks like {}",
                    self.words(),
                    other.words()
                ),
                _ => format!("expected {}, received `{shown}`", self.words()),
            }
        };
        if self == TimeUnit::Iso {
            if number(text).is_some() {
                return Err(wrong());
            }
            return Time::parse(text).map_err(|_| wrong());
        }
        let (low, high, per_milli) = match self {
            // 1e7 is April 1970; below that zeros and counters live, not times.
            TimeUnit::Seconds => (1e7, 1e11, 1e-3),
            TimeUnit::Millis => (1e10, 1e14, 1.0),
            TimeUnit::Micros => (1e13, 1e17, 1e3),
            TimeUnit::Nanos => (1e16, 1e19, 1e6),
            TimeUnit::Order | TimeUnit::Iso => (0.0, 1e8, 1.0),
        };
        // Whole numbers stay whole: a double cannot hold nanoseconds.
        if let Some(whole) = whole(text) {
            if (whole as f64) < low || (whole as f64) >= high {
                return Err(wrong());
            }
            let millis = match self {
                TimeUnit::Seconds => whole * 1000,
                TimeUnit::Micros => whole / 1000,
                TimeUnit::Nanos => whole / 1_000_000,
                _ => whole,
            };
            return Time::from_millis(millis).map_err(|_| wrong());
        }
        match number(text) {
            Some(n) if n >= low && n < high => {
                Time::from_millis((n / per_milli).round() as i64).map_err(|_| wrong())
            }
            _ => Err(wrong()),
        }
    }
}

/// Digits only, at most 18 of them.
fn whole(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.is_empty() || bytes.len() > 18 {
        return None;
    }
    let mut value = 0i64;
    for &b in bytes {
        let digit = b.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + i64::from(digit);
    }
    Some(value)
}

fn number(text: &str) -> Option<f64> {
    // `inf` and `nan` parse as floats in Rust; as times they are text.
    let first = text.bytes().find(|b| !matches!(b, b'+' | b'-'))?;
    (first.is_ascii_digit() || first == b'.').then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_by_majority() {
        let most = |v: &[&str]| TimeUnit::majority(v.iter().copied());
        assert_eq!(most(&["881250949", "891717742", "0"]), Some(TimeUnit::Seconds));
        assert_eq!(most(&["1700000000000", "2026-01-31", "1700000000001"]), Some(TimeUnit::Millis));
        assert_eq!(most(&["1700000000000000"]), Some(TimeUnit::Micros));
        assert_eq!(most(&["2026-01-31 10:00:00", "2026-01-31T10:00:00Z"]), Some(TimeUnit::Iso));
        assert_eq!(most(&["1", "2", "3"]), Some(TimeUnit::Order));
        assert_eq!(most(&["soon", "", "NaN"]), None);
    }

    #[test]
    fn reads_in_the_unit_and_refuses_others() {
        assert_eq!(TimeUnit::Seconds.read("881250949").unwrap().millis(), 881_250_949_000);
        assert_eq!(TimeUnit::Seconds.read("881250949.5").unwrap().millis(), 881_250_949_500);
        assert_eq!(TimeUnit::Seconds.read("8.8125e8").unwrap().millis(), 881_250_000_000);
        assert_eq!(TimeUnit::Nanos.read("1700000000000000000").unwrap().millis(), 1_700_000_000_000);
        for (unit, bad) in [
            (TimeUnit::Seconds, "1700000000000"),
            (TimeUnit::Seconds, "2026-01-31"),
            (TimeUnit::Seconds, "nonsense"),
            (TimeUnit::Seconds, "-5"),
            (TimeUnit::Seconds, "NaN"),
            (TimeUnit::Millis, "1700000000"),
            (TimeUnit::Iso, "1700000000"),
            (TimeUnit::Iso, "31.01.2026"),
        ] {
            assert!(unit.read(bad).unwrap_err().starts_with("expected"), "{bad}");
        }
    }
}
