//! Points in wall time.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time, in nanoseconds since 1970-01-01 UTC (good until the year 2554).
///
/// Whose clock it was read from is said where a value is kept: ours and a validator's differ.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixTime(u64);

impl UnixTime {
    pub const EPOCH: Self = Self(0);

    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000_000))
    }

    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Whole seconds, rounded down.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1_000_000_000
    }

    pub const fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// Time since `earlier`, or nothing if that lies ahead.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Signed distance to `other` in nanoseconds: positive when `self` is later.
    pub const fn nanos_after(self, other: Self) -> i128 {
        self.0 as i128 - other.0 as i128
    }

    /// Shifted by a signed number of nanoseconds, held at the ends of the range.
    pub fn shifted(self, nanos: i128) -> Self {
        let moved = (i128::from(self.0)).saturating_add(nanos);
        Self(u64::try_from(moved.clamp(0, i128::from(u64::MAX))).unwrap_or(u64::MAX))
    }

    /// As the operating system's type, for formatting.
    pub fn to_system(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(self.0)
    }

    /// From the operating system's type; times before 1970 become 1970.
    pub fn from_system(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Add<Duration> for UnixTime {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for UnixTime {
    type Output = Self;
    fn sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_millis(self.to_system()).fmt(f)
    }
}

impl fmt::Debug for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// RFC 3339, UTC, milliseconds.
impl Serialize for UnixTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// As it is written, so to the millisecond.
impl<'de> Deserialize<'de> for UnixTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map(Self::from_system).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_never_leaves_the_range() {
        assert_eq!(UnixTime::EPOCH - Duration::from_secs(1), UnixTime::EPOCH);
        assert_eq!(UnixTime::from_secs(u64::MAX) + Duration::MAX, UnixTime::from_nanos(u64::MAX));
        assert_eq!(UnixTime::from_secs(5).shifted(i128::MIN), UnixTime::EPOCH);
        assert_eq!(UnixTime::from_secs(5).shifted(-2_000_000_000), UnixTime::from_secs(3));
    }

    #[test]
    fn a_time_is_read_as_it_is_written() {
        let time = UnixTime::from_millis(1_763_609_244_010);
        let text = serde_json::to_string(&time).unwrap();
        assert_eq!(serde_json::from_str::<UnixTime>(&text).unwrap(), time);
        assert!(serde_json::from_str::<UnixTime>("\"soon\"").is_err());
    }

    #[test]
    fn the_last_moment_can_be_printed() {
        assert!(UnixTime::from_nanos(u64::MAX).to_string().starts_with("2554-"));
        assert_eq!(UnixTime::from_millis(1_763_609_244_010).to_string(), "2025-11-20T03:27:24.010Z");
    }
}
