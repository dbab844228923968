//! How values spread: counts in buckets, small when stored and added up without loss.
//!
//! Below 32 every value has its own bucket, above it each power of two has sixteen. A percentile is
//! the middle of its bucket, so it is off by at most 1 / 32 of the value (3.2 %); the maximum is exact.
//!
//! Stored are the buckets that hold something, in a few bytes each. That is why the crates for this
//! are not used: thousands of histograms are read for one answer, most with a dozen values. Those of
//! `hdrhistogram` are whole tables with a header of 40 bytes each, and those of `sketches-ddsketch`
//! have no stored form of their own.

use super::StoreError;

/// Counts of values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Histogram {
    counts: Counts,
    max: u64,
}

/// Sub-buckets of a power of two, as a power of two.
const FINE: u32 = 4;

/// Buckets for every `u64`.
const BUCKETS: usize = (64 - FINE as usize + 1) << FINE;

impl Histogram {
    pub(super) fn record(&mut self, value: u64) {
        self.counts.add(bucket(value), 1);
        self.max = self.max.max(value);
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.counts.at_least(0)
    }

    /// The largest value; nothing without values.
    pub fn max(&self) -> Option<u64> {
        (self.count() > 0).then_some(self.max)
    }

    /// The least value that `share` (0 to 1) of the values do not exceed, as exact as its bucket;
    /// nothing without values.
    pub fn percentile(&self, share: f64) -> Option<u64> {
        let wanted = ((share * self.count() as f64).ceil() as u64).max(1);
        let mut seen = 0;
        let reached = self.counts.0.iter().position(|count| {
            seen = count.saturating_add(seen);
            seen >= wanted
        });
        reached.map(|bucket| middle(bucket).min(self.max))
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.counts.merge(&other.counts);
        self.max = self.max.max(other.max);
    }

    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        self.counts.encode(into);
        encode_number(self.max, into);
    }

    /// Adds what [`encode`](Self::encode) wrote, and takes it off the front of `from`.
    pub(super) fn merge_encoded(&mut self, from: &mut &[u8]) -> Result<(), StoreError> {
        self.counts.merge_encoded(from, BUCKETS)?;
        self.max = self.max.max(decode_number(from)?);
        Ok(())
    }
}

/// How often each of a row of buckets was hit. Ends with the last that was.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Counts(Vec<u64>);

impl Counts {
    pub(super) fn add(&mut self, bucket: usize, count: u64) {
        if self.0.len() <= bucket {
            self.0.resize(bucket + 1, 0);
        }
        self.0[bucket] = self.0[bucket].saturating_add(count);
    }

    /// Hits of the bucket `least` and those after it.
    pub(super) fn at_least(&self, least: usize) -> u64 {
        self.0.iter().skip(least).copied().fold(0, u64::saturating_add)
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (bucket, count) in other.hit() {
            self.add(bucket, count);
        }
    }

    fn hit(&self) -> impl Iterator<Item = (usize, u64)> {
        self.0.iter().copied().enumerate().filter(|(_, count)| *count > 0)
    }

    /// Number of buckets that were hit, then for each how many were skipped before it, and its count.
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        encode_number(self.hit().count() as u64, into);
        let mut next = 0;
        for (bucket, count) in self.hit() {
            encode_number((bucket - next) as u64, into);
            encode_number(count, into);
            next = bucket + 1;
        }
    }

    /// Adds what [`encode`](Self::encode) wrote of less than `limit` buckets, and takes it off the
    /// front of `from`.
    pub(super) fn merge_encoded(&mut self, from: &mut &[u8], limit: usize) -> Result<(), StoreError> {
        let mut next = 0_usize;
        for _ in 0..decode_number(from)? {
            let skipped = usize::try_from(decode_number(from)?).unwrap_or(usize::MAX);
            let bucket = next.saturating_add(skipped);
            if bucket >= limit {
                return Err(damaged());
            }
            self.add(bucket, decode_number(from)?);
            next = bucket + 1;
        }
        Ok(())
    }
}

fn bucket(value: u64) -> usize {
    if value < 1 << FINE {
        return value as usize;
    }
    let power = value.ilog2();
    let fine = (value >> (power - FINE)) as usize & ((1 << FINE) - 1);
    ((power - FINE + 1) as usize) << FINE | fine
}

/// The value in the middle of a bucket.
fn middle(bucket: usize) -> u64 {
    let (row, fine) = (bucket >> FINE, (bucket & ((1 << FINE) - 1)) as u64);
    if row == 0 {
        return fine;
    }
    let width = 1_u64 << (row - 1);
    ((1 << FINE) + fine) * width + (width - 1) / 2
}

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn encode_number(mut value: u64, into: &mut Vec<u8>) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

fn decode_number(from: &mut &[u8]) -> Result<u64, StoreError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = from.split_first().ok_or_else(damaged)?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(damaged())
}

fn damaged() -> StoreError {
    StoreError::corrupt("histogram", "its bytes are none")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        values.iter().for_each(|value| histogram.record(*value));
        histogram
    }

    #[test]
    fn without_values_there_is_no_percentile() {
        let empty = Histogram::default();
        assert_eq!((empty.count(), empty.max(), empty.percentile(0.5)), (0, None, None));
    }

    #[test]
    fn small_values_are_exact() {
        let histogram = of(&[31, 0, 7, 7, 12]);
        assert_eq!(histogram.percentile(0.0), Some(0));
        assert_eq!(histogram.percentile(0.5), Some(7));
        assert_eq!(histogram.percentile(0.95), Some(31));
        assert_eq!((histogram.count(), histogram.max()), (5, Some(31)));
    }

    #[test]
    fn the_ends_of_the_range_have_a_bucket() {
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(of(&[u64::MAX]).max(), Some(u64::MAX));
        assert!(of(&[u64::MAX]).percentile(1.0).unwrap() > u64::MAX / 32 * 31);
    }

    #[test]
    fn bytes_of_something_else_are_an_error() {
        for bytes in [&b""[..], &[1], &[1, 0], &[0x80; 12], &[1, 0xff, 0x7f, 1, 0]] {
            assert!(Histogram::default().merge_encoded(&mut &bytes[..]).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn a_percentile_is_off_by_a_thirty_second_at_most(values in prop::collection::vec(0..10_000_000_u64, 1..200), share in 0.0..=1.0_f64) {
            let histogram = of(&values);
            let mut sorted = values;
            sorted.sort_unstable();
            let rank = ((share * sorted.len() as f64).ceil() as usize).max(1) - 1;
            let (exact, found) = (sorted[rank] as f64, histogram.percentile(share).unwrap() as f64);
            prop_assert!((found - exact).abs() <= exact / 32.0, "{found} for {exact}");
        }

        #[test]
        fn what_is_stored_and_added_up_is_what_was_recorded(values in prop::collection::vec(any::<u64>(), 0..100), split in 0..100_usize) {
            let (first, second) = values.split_at(split.min(values.len()));
            let mut bytes = Vec::new();
            of(first).encode(&mut bytes);
            of(second).encode(&mut bytes);
            let (mut read, mut rest) = (Histogram::default(), &bytes[..]);
            read.merge_encoded(&mut rest).unwrap();
            read.merge_encoded(&mut rest).unwrap();
            prop_assert!(rest.is_empty());
            let mut merged = of(first);
            merged.merge(&of(second));
            prop_assert_eq!(&read, &of(&values));
            prop_assert_eq!(&merged, &of(&values));
        }
    }
}
