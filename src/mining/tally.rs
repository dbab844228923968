//! Counts of one run, for tests, simulations and `status`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// What a run has done so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Tally {
    pub pulls: u64,
    pub ended: u64,
    /// Decisions by name.
    pub decisions: BTreeMap<&'static str, u64>,
    /// From the later of "the lane is due" and "a slot is free" to the pull.
    pub lateness: Spread,
    /// Longest time from "the lane is due" to the pull.
    #[serde(rename = "longest_wait_s", serialize_with = "seconds")]
    pub longest_wait: Duration,
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// Durations in buckets of 5 %: quantiles are right to that.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Spread {
    buckets: BTreeMap<u32, u64>,
    count: u64,
    max: Duration,
}

impl Spread {
    const WIDTH: f64 = 0.048_790_164_169_432; // ln 1.05

    pub fn observe(&mut self, time: Duration) {
        let ms = time.as_secs_f64() * 1e3;
        // Up to a millisecond is one bucket.
        let bucket = if ms <= 1.0 { 0 } else { (ms.ln() / Self::WIDTH) as u32 + 1 };
        *self.buckets.entry(bucket).or_default() += 1;
        self.count += 1;
        self.max = self.max.max(time);
    }

    pub const fn max(&self) -> Duration {
        self.max
    }

    /// Upper end of the bucket below which the share `q` of all lies.
    pub fn quantile(&self, q: f64) -> Duration {
        let wanted = (self.count as f64 * q).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in &self.buckets {
            seen += count;
            if seen >= wanted {
                let ms = (f64::from(*bucket) * Self::WIDTH).exp();
                return Duration::from_secs_f64(ms / 1e3).min(self.max);
            }
        }
        self.max
    }
}

impl Serialize for Spread {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut fields = serializer.serialize_struct("Spread", 4)?;
        fields.serialize_field("count", &self.count)?;
        fields.serialize_field("p50_s", &self.quantile(0.5).as_secs_f64())?;
        fields.serialize_field("p99_s", &self.quantile(0.99).as_secs_f64())?;
        fields.serialize_field("max_s", &self.max.as_secs_f64())?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_five_percent() {
        let mut spread = Spread::default();
        assert_eq!(spread.quantile(0.99), Duration::ZERO);
        for ms in 1..=1_000 {
            spread.observe(Duration::from_millis(ms));
        }
        for (q, ms) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1_000.0)] {
            let found = spread.quantile(q).as_secs_f64() * 1e3;
            assert!((found / ms - 1.0).abs() < 0.051, "{q}: {found}");
        }
        assert_eq!(spread.max(), Duration::from_secs(1));
    }
}
