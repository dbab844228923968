//! A card whose last lease has ended while its work may have not.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::arbiter::Said;
use super::worker::WorkerId;
use crate::primitives::MiB;

/// A card that rests for so long is idle: stages of one work have pauses between them.
const QUIET: Duration = Duration::from_secs(2);

/// Memory that does not move for so long belongs to no work. Only where nothing says more: many
/// workers keep what they held at work.
const STILL: Duration = Duration::from_secs(120);

/// Less is no movement.
const STILLNESS: MiB = MiB(16);

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// While nothing can be done but wait.
const LOOK_SELDOM: Duration = Duration::from_secs(1);

/// Between attempts to stop a worker that does not end.
const STOP_EVERY: Duration = Duration::from_secs(30);

/// What a look says of the worker that is watched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Glimpse {
    /// It holds no more than at rest.
    pub(super) at_rest: bool,
    /// The card computes, if the probe can tell.
    pub(super) active: Option<bool>,
    pub(super) used: MiB,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Vigil {
    pub(super) worker: WorkerId,
    pub(super) since: Instant,
    /// Whoever has the lease may still say that it is done.
    pub(super) line: Option<watch::Receiver<Said>>,
    /// Where nothing tells whether the card computes it is not idle before the work usually ends.
    usual: Instant,
    /// The same, however short the lease.
    at_last: Instant,
    /// From then on something is done about it.
    until: Instant,
    look_at: Instant,
    quiet: Option<Instant>,
    still: Option<(Instant, MiB)>,
    overdue: bool,
    stop_at: Option<Instant>,
}

impl Vigil {
    /// Watches a worker whose work usually has ended by one of two times, and whose lease may last until
    /// the other, which may be earlier.
    pub(super) fn keep(
        worker: WorkerId,
        (usual, until): (Instant, Instant),
        now: Instant,
        line: Option<watch::Receiver<Said>>,
    ) -> Self {
        Self {
            worker,
            since: now,
            line,
            usual: usual.min(until),
            at_last: usual,
            // In time to see that it rests already.
            until: until.max(now + QUIET + LOOK_SELDOM),
            look_at: now,
            quiet: None,
            still: None,
            overdue: false,
            stop_at: None,
        }
    }

    pub(super) fn look_at(&self) -> Instant {
        self.look_at
    }

    pub(super) fn is_overdue(&self) -> bool {
        self.overdue
    }

    /// Whether the work has ended if it took as long as usual.
    pub(super) fn had_its_time(&self, now: Instant) -> bool {
        now >= self.at_last
    }

    /// Takes in a look; nothing if it failed. Says whether the work has ended.
    pub(super) fn sees(&mut self, glimpse: Option<Glimpse>, now: Instant) -> bool {
        self.look_at = now + if self.overdue { LOOK_SELDOM } else { LOOK_EVERY };
        let Some(Glimpse { at_rest, active, used }) = glimpse else {
            (self.quiet, self.still) = (None, None);
            return false;
        };
        if active.map_or(at_rest, |active| !active) {
            self.quiet.get_or_insert(now);
        } else {
            self.quiet = None;
        }
        let moved = |(_, before): &(Instant, MiB)| before.0.abs_diff(used.0) > STILLNESS.0;
        if self.still.as_ref().is_none_or(moved) {
            self.still = Some((now, used));
        }
        let still = self.still.filter(|_| active.is_none()).is_some_and(|(since, _)| now - since >= STILL);
        let ended = active.is_some() || now >= self.usual;
        still || (ended && self.quiet.is_some_and(|since| now - since >= QUIET))
    }

    /// Says once that the work should have ended by now.
    pub(super) fn becomes_overdue(&mut self, now: Instant) -> bool {
        let becomes = !self.overdue && now >= self.until;
        self.overdue |= becomes;
        becomes
    }

    /// Whether to stop the worker now.
    pub(super) fn stops(&mut self, now: Instant) -> bool {
        let due = self.overdue && self.stop_at.is_none_or(|at| at <= now);
        if due {
            self.stop_at = Some(now + STOP_EVERY);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn seen(at_rest: bool, active: Option<bool>) -> Option<Glimpse> {
        Some(Glimpse { at_rest, active, used: MiB(9_000) })
    }

    /// Its memory goes up and down.
    fn breathing(at_rest: bool, ms: u64) -> Option<Glimpse> {
        Some(Glimpse { at_rest, active: None, used: MiB(9_000 + ms % 20_000) })
    }

    fn vigil() -> (Vigil, Instant) {
        let now = Instant::now();
        (Vigil::keep("w".into(), (now, now + Duration::from_secs(60)), now, None), now)
    }

    /// How long it takes to be taken as idle, looked at every 100 ms.
    fn idle_after(glimpse: impl Fn(u64) -> Option<Glimpse>) -> Option<u64> {
        let (mut vigil, start) = vigil();
        (0..3_000).map(|n| n * 100).find(|ms| vigil.sees(glimpse(*ms), start + MS(*ms)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_between_stages_is_no_rest() {
        assert_eq!(idle_after(|_| seen(true, None)), Some(2_000));
        assert_eq!(idle_after(|ms| breathing(ms % 1_500 != 0, ms)), None);
        assert_eq!(idle_after(|ms| seen(false, Some(ms < 700))), Some(2_700));
        // It rests by its memory, but the card computes.
        assert_eq!(idle_after(|_| seen(true, Some(true))), None);
        // A look that failed shows nothing.
        assert_eq!(idle_after(|ms| seen(true, None).filter(|_| ms != 1_500)), Some(3_600));
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_takes_no_memory_is_given_its_usual_time() {
        let now = Instant::now();
        let (usual, until) = (now + MS(9_000), now + MS(60_000));
        let idle = |active| {
            let mut vigil = Vigil::keep("w".into(), (usual, until), now, None);
            (0..300).map(|n| n * 100).find(|ms| vigil.sees(seen(true, active), now + MS(*ms)))
        };
        assert_eq!((idle(None), idle(Some(false))), (Some(9_000), Some(2_000)));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_that_never_moves_belongs_to_no_work() {
        assert_eq!(idle_after(|_| seen(false, None)), Some(120_000));
        let breathing =
            |ms: u64| Some(Glimpse { at_rest: false, active: None, used: MiB(9_000 + ms / 1_000) });
        assert_eq!(idle_after(breathing), None);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_overdue_once_and_stopped_now_and_then() {
        let (mut vigil, start) = vigil();
        assert!(!vigil.becomes_overdue(start + MS(59_999)) && !vigil.stops(start));
        assert!(vigil.becomes_overdue(start + MS(60_000)) && !vigil.becomes_overdue(start + MS(61_000)));
        assert!(vigil.stops(start + MS(61_000)) && !vigil.stops(start + MS(90_000)));
        assert!(vigil.stops(start + MS(91_000)) && vigil.is_overdue());
    }
}
