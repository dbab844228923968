//! How long to wait before asking again.

use std::time::Duration;

/// Doubling waits between a floor and a ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    min: Duration,
    max: Duration,
}

/// The two ends of a [`Backoff`] do not make sense together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a backoff needs 0 < min <= max, got {min:?} and {max:?}")]
pub struct InvalidBackoff {
    min: Duration,
    max: Duration,
}

impl Backoff {
    /// # Errors
    /// When `min` is zero or above `max`.
    pub const fn try_new(min: Duration, max: Duration) -> Result<Self, InvalidBackoff> {
        if min.is_zero() || min.as_nanos() > max.as_nanos() {
            return Err(InvalidBackoff { min, max });
        }
        Ok(Self { min, max })
    }

    /// The wait after `failures` failures in a row (1 gives the floor).
    pub fn after(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.min.saturating_mul(1 << doublings).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_ceiling() {
        let backoff = Backoff::try_new(Duration::from_secs(10), Duration::from_secs(300)).unwrap();
        let waits: Vec<_> = (0..8).map(|n| backoff.after(n).as_secs()).collect();
        assert_eq!(waits, [10, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.after(u32::MAX).as_secs(), 300);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Backoff::try_new(Duration::ZERO, Duration::from_secs(1)).is_err());
        assert!(Backoff::try_new(Duration::from_secs(2), Duration::from_secs(1)).is_err());
    }
}
