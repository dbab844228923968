//! When a lane may be asked again.
//!
//! A cooldown ends at a time of the validator's clock, known only through its `Date` headers: whole
//! seconds, rounded down, possibly lagging. Each reply bounds how far that clock is ahead of ours;
//! the least possible lead is kept, and a pull goes out only when even then the cooldown is over. So
//! no pull is early, whatever either clock shows (rules.md R9, "Pulling").

use std::time::Duration;

use crate::dendrite::Answered;
use crate::net::Backoff;
use crate::primitives::UnixTime;
use crate::store::LaneRecord;

/// Cooldown, clock and failures of one lane.
#[derive(Debug, Clone)]
pub struct Cooldowns {
    record: LaneRecord,
    /// Not before this time of our clock, whatever the cooldown says: backoff after failures.
    held_until: UnixTime,
    failures: u32,
    margin: Duration,
}

/// `Date` is cut to whole seconds, and servers refresh it once a second.
const DATE_SLACK: Duration = Duration::from_secs(2);

/// Nothing lasts longer. A `Date` further away is no clock's, and a cooldown that ends later is asked
/// about again: a reply must not close a lane for ever (rules.md knows waits of minutes, an hour for
/// hotkeys that are not registered).
const LONGEST: Duration = Duration::from_secs(86_400);

/// Wait when no `Date` was ever seen: our clock may be ahead of the validator's.
const BLIND_SLACK: Duration = Duration::from_secs(2);

impl Cooldowns {
    pub fn new(record: LaneRecord, margin: Duration) -> Self {
        Self { record, held_until: UnixTime::EPOCH, failures: 0, margin }
    }

    pub fn told(&self) -> Option<UnixTime> {
        None
    }

    /// What to write down.
    pub fn record(&self) -> LaneRecord {
        self.record
    }

    /// Learns from the clock readings of a reply.
    pub fn observe<T>(&mut self, answered: &Answered<T>) {
        let Some(date) = answered.date else { return };
        // When the head arrived the validator's clock showed at least `date`.
        let least = date.nanos_after(answered.timing.answered);
        if least.unsigned_abs() > LONGEST.as_nanos() {
            return;
        }
        // When we sent, it showed at most `date` and its slack.
        let most = (date + DATE_SLACK).nanos_after(answered.timing.sent);
        let kept = self.record.clock_offset.map(i128::from);
        let offset = match kept {
            // Bounds that no longer overlap: one of the clocks was set.
            Some(kept) if kept > most => least,
            Some(kept) => kept.max(least),
            None => least,
        };
        self.record.clock_offset =
            Some(i64::try_from(offset).unwrap_or(if offset < 0 { i64::MIN } else { i64::MAX }));
    }

    /// Takes over the end of a cooldown, by the validator's clock; one further ahead than a day is
    /// held there. Whether there is anything to wait for, `now` being our clock: if so, the lane
    /// answered sensibly and its failures are forgotten.
    pub fn cool_until(&mut self, until: UnixTime, now: UnixTime) -> bool {
        let theirs = now.shifted(i128::from(self.record.clock_offset.unwrap_or(0)));
        self.record.cooldown_until = Some(until.min(theirs + LONGEST));
        let ahead = self.cooled() > now;
        if ahead {
            self.answered();
        }
        ahead
    }

    /// The lane answered; failures are forgotten.
    pub fn answered(&mut self) {
        self.failures = 0;
        self.held_until = UnixTime::EPOCH;
    }

    /// Lets the lane rest for a time although the source named none. Unlike [`hold`](Self::hold) it is
    /// part of the record, so a restart does not cut it short.
    pub fn rest(&mut self, now: UnixTime, time: Duration) {
        let until = (now + time).shifted(i128::from(self.record.clock_offset.unwrap_or(0)));
        self.record.cooldown_until = self.record.cooldown_until.max(Some(until));
    }

    /// Shortens a cooldown that ends later than `time` from now: the source meant a state of ours that
    /// has changed.
    pub fn look_again(&mut self, now: UnixTime, time: Duration) {
        let soon = (now + time).shifted(i128::from(self.record.clock_offset.unwrap_or(0)));
        self.record.cooldown_until = self.record.cooldown_until.map(|until| until.min(soon));
    }

    /// Holds the lane for a time.
    pub fn hold(&mut self, now: UnixTime, time: Duration) {
        self.held_until = self.held_until.max(now + time);
    }

    /// Holds the lane after a failure, longer with each in a row; returns for how long.
    pub fn fail(&mut self, now: UnixTime, backoff: Backoff) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let wait = backoff.after(self.failures);
        self.hold(now, wait);
        wait
    }

    pub fn set_window_count(&mut self, count: u64) {
        self.record.window_count = Some(count);
    }

    /// The first time of our clock at which a pull is certainly not early.
    pub fn due(&self) -> UnixTime {
        self.cooled().max(self.held_until)
    }

    fn cooled(&self) -> UnixTime {
        match (self.record.cooldown_until, self.record.clock_offset) {
            (None, _) => UnixTime::EPOCH,
            (Some(until), Some(offset)) => until.shifted(-i128::from(offset)) + self.margin,
            (Some(until), None) => until + self.margin + BLIND_SLACK,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Timing;

    const T: UnixTime = UnixTime::from_secs(1_800_000_000);

    /// A reply whose round trip took `trip` and whose validator's clock is ahead by `ahead` ms.
    fn reply(sent: UnixTime, trip_ms: u64, ahead_ms: i64) -> Answered<()> {
        let answered = sent + Duration::from_millis(trip_ms);
        let theirs = sent.shifted(i128::from(trip_ms) * 500_000 + i128::from(ahead_ms) * 1_000_000);
        Answered {
            reply: (),
            timing: Timing {
                sent,
                answered,
                sent_bytes: 0,
                uploaded: None,
                first_byte: Duration::from_millis(trip_ms),
                total: Duration::from_millis(trip_ms),
            },
            date: Some(UnixTime::from_secs(theirs.as_secs())),
        }
    }

    #[test]
    fn no_pull_is_early_for_any_offset() {
        for ahead_ms in [-60_000, -3_700, -1, 0, 700, 999, 60_000] {
            for fraction in [0, 1, 250, 999] {
                for trip in [1, 40, 2_500] {
                    let mut lane = Cooldowns::new(LaneRecord::default(), Duration::from_millis(100));
                    let sent = T + Duration::from_millis(fraction);
                    lane.observe(&reply(sent, trip, ahead_ms));
                    let until = T.shifted(i128::from(ahead_ms) * 1_000_000) + Duration::from_secs(300);
                    assert!(lane.cool_until(UnixTime::from_secs(until.as_secs()), sent));
                    let theirs = lane.due().shifted(i128::from(ahead_ms) * 1_000_000);
                    assert!(theirs.as_secs() >= until.as_secs(), "{ahead_ms} {fraction} {trip}");
                    let late = theirs.saturating_since(UnixTime::from_secs(until.as_secs()));
                    assert!(
                        late <= Duration::from_millis(1_100 + trip),
                        "{late:?} at {ahead_ms} {fraction} {trip}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_clock_that_was_set_is_noticed() {
        let mut lane = Cooldowns::new(LaneRecord::default(), Duration::ZERO);
        lane.observe(&reply(T, 10, 0));
        // Our clock jumps an hour ahead: theirs is now an hour behind it.
        let later = T + Duration::from_secs(3_700);
        lane.observe(&reply(later, 10, -3_600_000));
        let until = UnixTime::from_secs(later.as_secs() - 3_600 + 100);
        lane.cool_until(until, later);
        assert!(lane.due() >= until + Duration::from_secs(3_600));
    }

    #[test]
    fn a_rest_outlives_a_restart_and_shortens_no_cooldown() {
        for ahead_ms in [-60_000, 0, 60_000] {
            let mut lane = Cooldowns::new(LaneRecord::default(), Duration::ZERO);
            lane.observe(&reply(T, 10, ahead_ms));
            lane.rest(T, Duration::from_secs(300));
            let restarted = Cooldowns::new(lane.record(), Duration::ZERO);
            assert_eq!(restarted.due(), T + Duration::from_secs(300));
        }
        let mut lane = Cooldowns::new(LaneRecord::default(), Duration::ZERO);
        lane.cool_until(T + Duration::from_secs(900), T);
        lane.rest(T, Duration::from_secs(300));
        assert_eq!(lane.record().cooldown_until, Some(T + Duration::from_secs(900)));
    }

    #[test]
    fn no_cooldown_lasts_longer_than_a_day() {
        for offset in [None, Some(0), Some(-3_600_000_000_000), Some(7)] {
            let record = LaneRecord { clock_offset: offset, ..LaneRecord::default() };
            let mut lane = Cooldowns::new(record, Duration::ZERO);
            assert!(lane.cool_until(UnixTime::from_secs(u64::MAX), T));
            let wait = lane.due().saturating_since(T);
            assert!(wait >= LONGEST && wait <= LONGEST + BLIND_SLACK, "{wait:?} at {offset:?}");
        }
    }

    #[test]
    fn a_cooldown_in_the_past_changes_no_backoff() {
        let backoff = Backoff::try_new(Duration::from_secs(10), Duration::from_secs(300)).unwrap();
        let mut lane = Cooldowns::new(LaneRecord::default(), Duration::ZERO);
        for wait in [10, 20, 40] {
            assert!(!lane.cool_until(UnixTime::from_secs(1), T));
            assert_eq!(lane.fail(T, backoff).as_secs(), wait);
            assert_eq!(lane.due(), T + Duration::from_secs(wait));
        }
    }

    #[test]
    fn a_date_of_another_age_is_no_clock() {
        let mut lane = Cooldowns::new(LaneRecord::default(), Duration::ZERO);
        for date in [UnixTime::EPOCH, UnixTime::from_secs(u64::MAX)] {
            lane.observe(&Answered { date: Some(date), ..reply(T, 10, 0) });
            assert_eq!(lane.record().clock_offset, None);
        }
        lane.observe(&reply(T, 10, 5_000));
        let learned = lane.record().clock_offset;
        assert!(learned.is_some());
        lane.observe(&Answered { date: Some(UnixTime::EPOCH), ..reply(T, 10, 0) });
        assert_eq!(lane.record().clock_offset, learned);
    }

    #[test]
    fn failures_hold_a_lane_longer_and_longer() {
        let backoff = Backoff::try_new(Duration::from_secs(10), Duration::from_secs(300)).unwrap();
        let mut lane = Cooldowns::new(LaneRecord::default(), Duration::ZERO);
        assert_eq!(lane.due(), UnixTime::EPOCH);
        assert_eq!(lane.fail(T, backoff).as_secs(), 10);
        assert_eq!(lane.fail(T, backoff).as_secs(), 20);
        assert_eq!(lane.due(), T + Duration::from_secs(20));
        lane.answered();
        assert_eq!(lane.due(), UnixTime::EPOCH);
    }
}
