//! When a lane may be asked again.
//!
//! A cooldown ends at a time of the validator's clock, known only through its `Date` headers: whole
//! seconds, rounded down, possibly lagging. Each reply bounds how far that clock is ahead of ours;
//! what all of them allow is kept as an interval, and a pull goes out only when the cooldown is over
//! even by its lower end. So no pull is early, whatever either clock shows (rules.md R9, "Pulling").
//!
//! "Ours" is not the wall clock, which can be set at any moment, but the wall time of the beginning
//! moved by the monotonic clock. Setting the wall clock changes no wait; only what leaves this place
//! is told in wall time of that moment, and what the store keeps is taken up with caution, for
//! nobody knows what was done to the clock between two processes.
//!
//! Limits: a machine that slept waits the rest of its cooldowns when it wakes. After a restart a pull
//! can be early if our clock was set meanwhile to more than [`RESTART_SLACK`] ahead of the source's.
//! A source that sets its own clock back may be asked early once; its answer is taken as proof.

use std::time::Duration;

use tokio::time::Instant;

use super::lead::Lead;
use crate::clock::{Clock, Moment};
use crate::dendrite::Answered;
use crate::net::Backoff;
use crate::primitives::UnixTime;
use crate::store::LaneRecord;

/// Cooldown, clock and failures of one lane.
#[derive(Debug, Clone)]
pub struct Cooldowns {
    clock: Clock,
    /// Where our steady time begins.
    origin: Moment,
    lead: Known,
    /// By the source's clock.
    until: Option<UnixTime>,
    /// `until`, if it came from the source itself in this process's time.
    told: Option<UnixTime>,
    /// Not before this, by our steady time, although the source named no time: part of the record.
    rest_until: UnixTime,
    /// The same for backoff after failures, which is not.
    held_until: UnixTime,
    failures: u32,
    window_count: Option<u64>,
    margin: Duration,
}

/// What is known of the source's clock.
#[derive(Debug, Clone, Copy)]
enum Known {
    /// No `Date` was seen yet. The lead is taken to be `assumed`; an earlier process wrote `recorded`.
    Little { assumed: i128, recorded: Option<i64> },
    /// From all replies, and from the last one alone.
    Bounds { all: Lead, last: Lead, sent: UnixTime },
}

/// Nothing lasts longer. A `Date` further away is no clock's, and a cooldown that ends later is asked
/// about again: a reply must not close a lane for ever (rules.md knows waits of minutes, an hour for
/// hotkeys that are not registered).
const LONGEST: Duration = Duration::from_secs(86_400);

/// Our clock may be ahead of the validator's by so much when no `Date` was ever seen.
const BLIND_SLACK: Duration = Duration::from_secs(2);

/// Our clock may have been set ahead by so much since the record was written.
const RESTART_SLACK: Duration = Duration::from_secs(1);

/// C, a validator's time from task to task, by what it answered to a submission: from its
/// `cooldown_until`, when it had assigned the task, when it booked the answer and its T, all by its
/// own clock (rules.md R2, without the penalty: of an accepted or an empty answer).
///
/// Not more than C, and less by at most the second that `cooldown_until` is cut by, and by as much as
/// the two times are reckoned too late.
pub fn cooldown_from_reply(
    until: UnixTime,
    assigned: UnixTime,
    booked: UnixTime,
    throttle: Duration,
) -> Duration {
    // until = max(booked + C - T, assigned + C): neither of the two below is shorter than C, and that
    // of the end that stands is C.
    until.saturating_since(assigned).min((until + throttle).saturating_since(booked))
}

impl Cooldowns {
    /// A lane as it was left. What the record says of the clock may be from before somebody set it:
    /// a lead is not counted on, a lag is, and both with [`RESTART_SLACK`].
    pub fn new(record: LaneRecord, margin: Duration, clock: Clock) -> Self {
        let origin = clock.moment();
        let recorded =
            record.clock_offset.filter(|offset| u128::from(offset.unsigned_abs()) <= LONGEST.as_nanos());
        let assumed = match recorded {
            Some(offset) => i128::from(offset.min(0)) - nanos(RESTART_SLACK),
            None => -nanos(BLIND_SLACK),
        };
        let mut lane = Self {
            clock,
            origin,
            lead: Known::Little { assumed, recorded },
            until: None,
            told: None,
            rest_until: UnixTime::EPOCH,
            held_until: UnixTime::EPOCH,
            failures: 0,
            window_count: record.window_count,
            margin,
        };
        lane.until = record.cooldown_until.map(|until| until.min(lane.theirs_now() + LONGEST));
        lane
    }

    /// What to write down, by the wall clock of this moment.
    pub fn record(&self) -> LaneRecord {
        let moment = self.clock.moment();
        let (now, stepped) = (self.steady(moment.instant), moment.stepped_since(&self.origin));
        let clock_offset = match self.lead {
            Known::Little { recorded, .. } => recorded.map(i128::from),
            Known::Bounds { all, .. } => Some(all.least(now)),
        };
        let rest = (self.rest_until > now).then(|| self.theirs(self.rest_until));
        LaneRecord {
            cooldown_until: self.until.max(rest),
            clock_offset: clock_offset.map(|offset| held(offset - stepped)),
            window_count: self.window_count,
        }
    }

    /// Learns from the clock readings of a reply.
    pub fn observe<T>(&mut self, answered: &Answered<T>) {
        let Some(date) = answered.date else { return };
        if date.nanos_after(self.clock.now()).unsigned_abs() > LONGEST.as_nanos() {
            return;
        }
        let timing = answered.timing;
        let sent = self.steady(timing.begun);
        let last = Lead::seen(date, sent, self.steady(timing.begun + timing.first_byte));
        let all = match self.lead {
            Known::Bounds { all, .. } => all.and(last),
            Known::Little { .. } => last,
        };
        self.lead = Known::Bounds { all, last, sent };
    }

    /// Takes over the end of a cooldown, by the validator's clock; one further ahead than a day is
    /// held there. Whether there is anything to wait for: if so, the lane answered sensibly and its
    /// failures are forgotten.
    pub fn cool_until(&mut self, until: UnixTime) -> bool {
        match &mut self.lead {
            // Not over there, and over here: their clock is further back than it seemed.
            Known::Bounds { all, last, sent } => *all = all.before(until, *sent).unwrap_or(*last),
            // Without a `Date` there is only our clock, as it was at first or as it is set now.
            Known::Little { assumed, .. } => {
                let stepped = self.clock.moment().stepped_since(&self.origin);
                *assumed = (*assumed).min(stepped - nanos(BLIND_SLACK));
            }
        }
        let held = until.min(self.theirs_now() + LONGEST);
        self.until = Some(held);
        self.rest_until = UnixTime::EPOCH;
        let ahead = self.cooled() > self.now();
        self.told = (ahead && held == until).then_some(until);
        if ahead {
            self.answered();
        }
        ahead
    }

    /// The end of a cooldown that the source itself named and that we have waited for: nothing of ours
    /// prolongs it. Ask before pulling. If the reply to that pull names a later end, somebody else
    /// used our key.
    ///
    /// Nothing after a restart, after [`rest`](Self::rest) and [`look_again`](Self::look_again), and
    /// while it is not over.
    pub fn told(&self) -> Option<UnixTime> {
        self.told.filter(|_| self.cooled() <= self.now())
    }

    /// The lane answered; failures are forgotten.
    pub fn answered(&mut self) {
        self.failures = 0;
        self.held_until = UnixTime::EPOCH;
    }

    /// Lets the lane rest for a time although the source named none. Unlike [`hold`](Self::hold) it is
    /// part of the record, so a restart does not cut it short.
    pub fn rest(&mut self, time: Duration) {
        self.told = None;
        self.rest_until = self.rest_until.max(self.now() + time);
    }

    /// Shortens a cooldown that ends later than `time` from now: the source meant a state of ours that
    /// has changed.
    pub fn look_again(&mut self, time: Duration) {
        let soon = self.now() + time;
        if self.cooled() > soon {
            (self.until, self.told, self.rest_until) = (None, None, soon);
        }
    }

    /// Holds the lane for a time.
    pub fn hold(&mut self, time: Duration) {
        self.held_until = self.held_until.max(self.now() + time);
    }

    /// Holds the lane after a failure, longer with each in a row; returns for how long.
    pub fn fail(&mut self, backoff: Backoff) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let wait = backoff.after(self.failures);
        self.hold(wait);
        wait
    }

    pub fn set_window_count(&mut self, count: u64) {
        self.window_count = Some(count);
    }

    /// The first time at which a pull is certainly not early, by our wall clock as it is set now.
    pub fn due(&self) -> UnixTime {
        let moment = self.clock.moment();
        moment.wall.shifted(self.ready().nanos_after(self.steady(moment.instant)))
    }

    /// The same by the monotonic clock: it changes only when something is learned.
    pub fn due_at(&self) -> Instant {
        self.origin.instant + self.ready().saturating_since(self.origin.wall)
    }

    /// Least that the source's clock shows at a time of ours, by our wall clock as it is set now.
    pub fn theirs_at(&self, ours: UnixTime) -> UnixTime {
        let moment = self.clock.moment();
        self.theirs(self.steady(moment.instant).shifted(ours.nanos_after(moment.wall)))
    }

    /// Most that the source's clock showed at a time of ours, if both are known: replies bound it, and
    /// the time lies in this process.
    pub fn theirs_at_most(&self, ours: UnixTime) -> Option<UnixTime> {
        let Known::Bounds { all, .. } = self.lead else { return None };
        let moment = self.clock.moment();
        let steady = self.steady(moment.instant).shifted(ours.nanos_after(moment.wall));
        (steady >= self.origin.wall).then(|| all.theirs_at_most(steady))
    }

    fn ready(&self) -> UnixTime {
        self.cooled().max(self.held_until)
    }

    /// When the cooldown is over, by our steady time.
    fn cooled(&self) -> UnixTime {
        let over = self.until.map_or(UnixTime::EPOCH, |until| self.ours(until) + self.margin);
        over.max(self.rest_until)
    }

    fn ours(&self, theirs: UnixTime) -> UnixTime {
        match self.lead {
            Known::Bounds { all, .. } => all.ours(theirs),
            Known::Little { assumed, .. } => theirs.shifted(-assumed),
        }
    }

    fn theirs(&self, ours: UnixTime) -> UnixTime {
        match self.lead {
            Known::Bounds { all, .. } => all.theirs(ours),
            Known::Little { assumed, .. } => ours.shifted(assumed),
        }
    }

    fn theirs_now(&self) -> UnixTime {
        self.theirs(self.now())
    }

    fn now(&self) -> UnixTime {
        self.steady(self.clock.instant())
    }

    /// Our steady time at a moment.
    fn steady(&self, instant: Instant) -> UnixTime {
        let origin = self.origin;
        match instant.checked_duration_since(origin.instant) {
            Some(since) => origin.wall + since,
            None => origin.wall - (origin.instant - instant),
        }
    }
}

fn nanos(time: Duration) -> i128 {
    time.as_nanos() as i128
}

/// As it is stored.
fn held(offset: i128) -> i64 {
    i64::try_from(offset).unwrap_or(if offset < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests;
