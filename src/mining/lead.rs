//! How far a source's clock is ahead of ours, as far as its replies tell.

use std::time::Duration;

use crate::primitives::UnixTime;

/// `Date` is cut to whole seconds, and servers refresh it once a second.
const DATE_SLACK: Duration = Duration::from_secs(2);

/// In so many nanoseconds two clocks drift apart by one: 100 ppm. A quartz that nobody disciplines is
/// off by 50 ppm at most, and there is one at either end; clocks that NTP has settled stay far below.
/// What a cooldown of 300 s costs by it is 30 ms.
const DRIFT: i128 = 10_000;

/// Bounds of the lead, in nanoseconds: negative where the source's clock is behind.
///
/// "Ours" is a time that nobody sets: see [`Cooldowns`](super::Cooldowns).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lead {
    least: i128,
    most: i128,
    /// When that was so, by our time: both ends move away from there.
    at: UnixTime,
}

impl Lead {
    /// What one reply tells, sent and answered by our time, with its `Date`.
    pub(super) fn seen(date: UnixTime, sent: UnixTime, answered: UnixTime) -> Self {
        Self {
            // When the head arrived the clock showed at least `date`.
            least: date.nanos_after(answered),
            // When we sent, at most `date` and its slack.
            most: (date + DATE_SLACK).nanos_after(sent),
            at: answered,
        }
    }

    /// What this and a later reply tell together. If they contradict each other one of the clocks was
    /// set, and only the later counts.
    pub(super) fn and(self, later: Self) -> Self {
        let now = self.at(later.at);
        let (least, most) = (now.least.max(later.least), now.most.min(later.most));
        if least > most { later } else { Self { least, most, at: later.at } }
    }

    /// The bounds some time later.
    fn at(self, time: UnixTime) -> Self {
        let drift = time.nanos_after(self.at).max(0) / DRIFT + 1;
        Self { least: self.least - drift, most: self.most + drift, at: time.max(self.at) }
    }

    /// The same without what cannot be if the source's clock had not reached `end` when it replied to
    /// what was sent then; nothing if that leaves none.
    pub(super) fn before(self, end: UnixTime, sent: UnixTime) -> Option<Self> {
        let most = end.nanos_after(sent);
        (self.least < most).then_some(Self { most: self.most.min(most), ..self })
    }

    /// Least that the source's clock shows at a time of ours.
    pub(super) fn theirs(self, ours: UnixTime) -> UnixTime {
        ours.shifted(self.at(ours).least)
    }

    /// Most that the source's clock shows at a time of ours.
    pub(super) fn theirs_at_most(self, ours: UnixTime) -> UnixTime {
        ours.shifted(self.at(ours).most)
    }

    /// The time of ours at which the source's clock shows `theirs`, and none earlier.
    pub(super) fn ours(self, theirs: UnixTime) -> UnixTime {
        let sound = theirs.shifted(-self.least);
        let wait = sound.nanos_after(self.at).max(0);
        // While we wait our bound falls back: by one part of the wait, and of that again.
        sound.shifted(wait / (DRIFT - 1) + 2)
    }

    /// The least lead at a time of ours, in nanoseconds.
    pub(super) fn least(self, ours: UnixTime) -> i128 {
        self.at(ours).least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: UnixTime = UnixTime::from_secs(1_800_000_000);
    const MS: i128 = 1_000_000;

    fn after(millis: u64) -> UnixTime {
        T + Duration::from_millis(millis)
    }

    /// A reply of a clock `ahead_ms` before ours, asked at `sent_ms` and answered in 40 ms.
    fn reply(sent_ms: u64, ahead_ms: i64) -> Lead {
        let theirs = after(sent_ms + 20).shifted(i128::from(ahead_ms) * MS);
        Lead::seen(UnixTime::from_secs(theirs.as_secs()), after(sent_ms), after(sent_ms + 40))
    }

    #[test]
    fn replies_narrow_the_bounds_around_the_truth() {
        for ahead_ms in [-3_700, -1, 0, 700, 60_000] {
            let truth = i128::from(ahead_ms) * MS;
            let mut lead = reply(0, ahead_ms);
            let mut width = lead.most - lead.least;
            for reply_number in 1..20 {
                let sent = reply_number * 7_130;
                lead = lead.and(reply(sent, ahead_ms));
                assert!(lead.least <= truth && truth <= lead.most, "{lead:?} at {ahead_ms}");
                width = width.min(lead.most - lead.least);
            }
            assert!(truth - lead.least < 150 * MS, "{lead:?} at {ahead_ms}");
            assert!(width < 1_300 * MS, "{width}");
        }
    }

    #[test]
    fn a_clock_that_was_set_makes_the_later_reply_count_alone() {
        for (before, now) in [(0, 3_600_000), (0, -3_600_000), (60_000, -5_000), (0, 4_500), (0, -4_500)] {
            let later = reply(300_000, now);
            assert_eq!(reply(0, before).and(later), later, "from {before} to {now} ms");
        }
    }

    #[test]
    fn bounds_widen_with_time_and_a_wait_grows_with_them() {
        let lead = Lead { least: 0, most: 0, at: T };
        for seconds in [1_u64, 300, 86_400] {
            let end = T + Duration::from_secs(seconds);
            let due = lead.ours(end);
            assert!(lead.theirs(due) >= end, "{due} is early");
            let late = due.nanos_after(end);
            assert!((late - i128::from(seconds) * 100_000).abs() < MS, "{late} ns after {seconds} s");
        }
        // What is over was over without any wait.
        assert!(lead.ours(T - Duration::from_secs(5)) < T);
    }

    #[test]
    fn a_cooldown_that_is_not_over_bounds_their_clock() {
        let lead = Lead { least: 0, most: 1_000 * MS, at: T };
        let before = |ms: u64| lead.before(after(ms), T);
        assert_eq!(before(5_000), Some(lead));
        assert_eq!(before(400), Some(Lead { most: 400 * MS, ..lead }));
        assert_eq!(before(0), None, "they cannot have reached it already");
    }
}
