//! Moments in milliseconds since 1970, as events carry them, and the clocks that are handed to whoever needs one.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::sync::atomic::{AtomicI64, Ordering};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(i64);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    #[error("expected milliseconds since 1970 or ISO 8601 (2026-01-31T10:00:00Z), received {0:?}")]
    Unreadable(String),
    #[error("time {0} lies outside the years 0001 to 9999")]
    OutOfRange(i64),
}

impl Time {
    pub const MIN: Time = Time(-62_135_596_800_000);
    pub const MAX: Time = Time(253_402_300_799_999);

    pub fn from_millis(millis: i64) -> Result<Time, TimeError> {
        let time = Time(millis);
        if time < Time::MIN || time > Time::MAX { Err(TimeError::OutOfRange(millis)) } else { Ok(time) }
    }

    pub fn millis(self) -> i64 {
        self.0
    }

    /// This moment plus `millis`, kept within the range.
    pub fn plus(self, millis: i64) -> Time {
        Time(self.0.saturating_add(millis)).clamp(Time::MIN, Time::MAX)
    }

    /// Reads a time in text: ISO 8601 (date, date-time with or without zone; no zone means UTC) or a whole
    /// number, taken as milliseconds. Guessing seconds is the importer's business, which sees a whole column.
    pub fn parse(text: &str) -> Result<Time, TimeError> {
        let text = text.trim();
        if let Ok(millis) = text.parse::<i64>() {
            return Time::from_millis(millis);
        }
        let unreadable = || TimeError::Unreadable(text.chars().take(80).collect());
        let millis = if let Ok(stamp) = text.parse::<jiff::Timestamp>() {
            stamp.as_millisecond()
        } else if let Ok(civil) = text.parse::<jiff::civil::DateTime>() {
            civil.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| unreadable())?.timestamp().as_millisecond()
        } else {
            return Err(unreadable());
        };
        Time::from_millis(millis)
    }

    /// `2026-01-31T10:00:00Z`, with milliseconds where there are any.
    pub fn to_iso(self) -> String {
        jiff::Timestamp::from_millisecond(self.0).map_or_else(|_| self.0.to_string(), |t| t.to_string())
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_i64(self.0)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Time, D::Error> {
        struct V;
        impl de::Visitor<'_> for V {
            type Value = Time;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("milliseconds since 1970 or an ISO 8601 string")
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Time, E> {
                Time::from_millis(v).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Time, E> {
                Time::from_millis(i64::try_from(v).unwrap_or(i64::MAX)).map_err(E::custom)
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Time, E> {
                if v.is_finite() && v.abs() < 9e15 {
                    Time::from_millis(v.round() as i64).map_err(E::custom)
                } else {
                    Err(E::custom(TimeError::Unreadable(v.to_string())))
                }
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Time, E> {
                Time::parse(v).map_err(E::custom)
            }
        }
        if d.is_human_readable() { d.deserialize_any(V) } else { d.deserialize_i64(V) }
    }
}

/// Where the present comes from. Only binaries make a [`SystemClock`]; everything else is handed one.
pub trait Clock: Send + Sync {
    fn now(&self) -> Time;
}

pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Time {
        Time(jiff::Timestamp::now().as_millisecond())
    }
}

/// A clock that stands still until it is moved: for tests, replays and simulations.
pub struct ManualClock(AtomicI64);

impl ManualClock {
    pub fn at(time: Time) -> ManualClock {
        ManualClock(AtomicI64::new(time.0))
    }
    pub fn set(&self, time: Time) {
        self.0.store(time.0, Ordering::SeqCst);
    }
    pub fn advance(&self, millis: i64) {
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        Time(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_forms_people_write() {
        for (text, millis) in [
            ("1700000000000", 1_700_000_000_000),
            ("2026-01-31T10:00:00Z", 1_769_853_600_000),
            ("2026-01-31T10:00:00+01:00", 1_769_850_000_000),
            ("2026-01-31 10:00:00", 1_769_853_600_000),
            ("2026-01-31", 1_769_817_600_000),
        ] {
            assert_eq!(Time::parse(text).map(Time::millis), Ok(millis), "{text}");
        }
        assert!(Time::parse("yesterday").is_err());
        assert!(Time::parse("9223372036854775807").is_err());
    }

    #[test]
    fn iso_round_trips() {
        let time = Time::from_millis(1_769_853_600_123).unwrap();
        assert_eq!(Time::parse(&time.to_iso()), Ok(time));
    }
}
