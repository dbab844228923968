//! All time in the agent.
//!
//! Wall time comes from here and waiting goes through tokio's timers, so that a test which pauses
//! tokio's clock moves both together: minutes of cooldown cost microseconds. `clippy.toml` bans the
//! operating system's clocks everywhere else.
//!
//! A wall clock can be set, by its owner or by NTP; the monotonic one behind [`Clock::instant`] only
//! runs, and stands still while the machine sleeps. What must not be early is measured by the latter.

use std::sync::atomic::{AtomicI64, Ordering};
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
    /// As `Based`, and so many nanoseconds on.
    Adjustable {
        base: UnixTime,
        start: Instant,
        set_by: &'static AtomicI64,
    },
}

/// One moment by both of our clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub wall: UnixTime,
    pub instant: Instant,
}

impl Moment {
    /// Nanoseconds by which the wall clock was set ahead since `earlier`, negative if back.
    pub fn stepped_since(&self, earlier: &Self) -> i128 {
        let ran = self.instant.saturating_duration_since(earlier.instant);
        self.wall.nanos_after(earlier.wall) - ran.as_nanos() as i128
    }
}

/// Sets an [adjustable](Clock::adjustable) clock.
#[derive(Debug, Clone, Copy)]
pub struct Hands(&'static AtomicI64);

impl Hands {
    /// Sets the wall clock by so many nanoseconds, back if negative.
    pub fn turn(&self, nanos: i64) {
        self.0.fetch_add(nanos, Ordering::SeqCst);
    }
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

    /// As [`starting_at`](Self::starting_at), with hands to set it by, as NTP or an operator does. For
    /// tests: what the two share lives as long as the process.
    pub fn adjustable(base: UnixTime) -> (Self, Hands) {
        let set_by: &'static AtomicI64 = Box::leak(Box::default());
        (Self(Source::Adjustable { base, start: Instant::now(), set_by }), Hands(set_by))
    }

    /// Wall time by our own clock.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the system clock")]
    pub fn now(&self) -> UnixTime {
        match self.0 {
            Source::System => UnixTime::from_system(std::time::SystemTime::now()),
            Source::Based { base, start } => base + start.elapsed(),
            Source::Adjustable { base, start, set_by } => {
                (base + start.elapsed()).shifted(set_by.load(Ordering::SeqCst).into())
            }
        }
    }

    /// Monotonic time, for measuring how long something took.
    pub fn instant(&self) -> Instant {
        Instant::now()
    }

    /// Both clocks. What is reckoned from the one to the other comes out late rather than early: the
    /// wall clock is read last.
    pub fn moment(&self) -> Moment {
        let instant = self.instant();
        Moment { instant, wall: self.now() }
    }

    /// Waits until the wall clock shows `until`, or was set meanwhile: then it is for the caller to
    /// say what to wait for. Returns at once if it shows `until` already.
    ///
    /// Cancel-safe. The wait is taken in slices and the time read again after each.
    pub async fn sleep_until(&self, until: UnixTime) {
        const SLICE: Duration = Duration::from_secs(30);
        /// Beyond what lies between the readings of two clocks, on a busy machine too.
        const STEP: Duration = Duration::from_millis(200);
        let begun = self.moment();
        loop {
            let now = self.moment();
            let left = until.saturating_since(now.wall);
            if left.is_zero() || now.stepped_since(&begun).unsigned_abs() > STEP.as_nanos() {
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

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_ends_a_wait_for_it() {
        let start = UnixTime::from_secs(1_000_000);
        for hours in [-1, 1] {
            let (clock, hands) = Clock::adjustable(start);
            let begun = clock.moment();
            let set = async {
                clock.sleep(Duration::from_secs(50)).await;
                hands.turn(hours * 3_600_000_000_000);
            };
            tokio::join!(clock.sleep_until(start + Duration::from_secs(300)), set);
            let ended = clock.moment();
            assert_eq!(ended.stepped_since(&begun), i128::from(hours) * 3_600_000_000_000);
            let waited = ended.instant - begun.instant;
            assert!(waited <= Duration::from_secs(61), "{waited:?}");
        }
    }
}
