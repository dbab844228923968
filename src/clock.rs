//! All time in the agent.
//!
//! Wall time comes from here and waiting goes through tokio's timers, so that a test which pauses
//! tokio's clock moves both together: minutes of cooldown cost microseconds. `clippy.toml` bans the
//! operating system's clocks everywhere else.

use std::time::Duration;

use tokio::time::Instant;

use crate::primitives::UnixTime;

/// Tells the time and waits.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Source);

#[derive(Debug, Clone, Copy)]
enum Source {
    System,
    /// Wall time `base` at the moment `start`, moving with tokio's clock.
    Based {
        base: UnixTime,
        start: Instant,
    },
}

impl Clock {
    /// The operating system's wall clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that shows `base` now and moves with tokio's clock, paused or not.
    pub fn starting_at(base: UnixTime) -> Self {
        Self(Source::Based { base, start: Instant::now() })
    }

    /// Wall time by our own clock.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the system clock")]
    pub fn now(&self) -> UnixTime {
        match self.0 {
            Source::System => UnixTime::from_system(std::time::SystemTime::now()),
            Source::Based { base, start } => base + start.elapsed(),
        }
    }

    /// Monotonic time, for measuring how long something took.
    pub fn instant(&self) -> Instant {
        Instant::now()
    }

    /// Waits until the wall clock shows `until`; returns at once if it already does.
    ///
    /// Cancel-safe. A wall clock that is set back while waiting is noticed: the wait is taken in
    /// slices and the time read again after each.
    pub async fn sleep_until(&self, until: UnixTime) {
        const SLICE: Duration = Duration::from_secs(30);
        loop {
            let left = until.saturating_since(self.now());
            if left.is_zero() {
                return;
            }
            // Timers have millisecond resolution and may not fire early.
            tokio::time::sleep(left.min(SLICE)).await;
        }
    }

    /// Waits for a stretch of time. Cancel-safe.
    pub async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wall_time_moves_with_the_paused_clock() {
        let clock = Clock::starting_at(UnixTime::from_secs(1_000));
        let started = clock.now();
        clock.sleep_until(started + Duration::from_secs(3_600)).await;
        let late = clock.now().saturating_since(started + Duration::from_secs(3_600));
        assert!(late < Duration::from_millis(2), "late by {late:?}");
        assert!(clock.now() >= started + Duration::from_secs(3_600));
    }
}
