//! How long things take, and how long they may take.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::plan::Step;
use super::view::LagView;
use super::worker::WorkerId;

/// A running mean that forgets: the last ten or so make most of it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mean(Option<f64>);

impl Mean {
    const WEIGHT: f64 = 0.2;

    pub(super) fn observe(&mut self, time: Duration) {
        let time = time.as_secs_f64();
        self.0 = Some(self.0.map_or(time, |mean| mean + Self::WEIGHT * (time - mean)));
    }

    pub(super) fn get(&self) -> Option<Duration> {
        self.0.map(|seconds| Duration::from_secs_f64(seconds.clamp(0.0, 1e9)))
    }
}

/// What a card's keeper itself took of late between two steps of a hand-off.
#[derive(Debug, Clone, Default)]
pub(super) struct Lags {
    latest: VecDeque<Duration>,
    count: u64,
}

impl Lags {
    const KEPT: usize = 1_024;

    pub(super) fn observe(&mut self, time: Duration) {
        self.count += 1;
        self.latest.push_front(time);
        self.latest.truncate(Self::KEPT);
    }

    pub(super) fn view(&self) -> LagView {
        let mut sorted: Vec<Duration> = self.latest.iter().copied().collect();
        sorted.sort_unstable();
        let at = |share: f64| {
            let last = sorted.len().saturating_sub(1);
            sorted.get((share * last as f64).round() as usize).copied().unwrap_or_default()
        };
        LagView { count: self.count, p50: at(0.5), p99: at(0.99), most: at(1.0) }
    }
}

/// What can take its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Act {
    Unload,
    Load,
    Cleanup,
    Start,
    Stop,
    Canary,
    /// From a verb's answer until the memory shows it, outwards.
    Freed,
    /// And inwards.
    Filled,
}

impl Act {
    /// Budgets in seconds: before anything was measured, and the bounds of what is learned.
    const fn bounds(self) -> [u64; 3] {
        match self {
            // As long as the stored clients of these workers wait (workers.md sections 3 and 4).
            Self::Unload => [30, 3, 60],
            Self::Load => [60, 10, 180],
            Self::Cleanup => [10, 2, 30],
            Self::Start => [180, 30, 600],
            Self::Stop => [30, 5, 60],
            Self::Canary => [120, 10, 120],
            Self::Freed => [15, 1, 30],
            Self::Filled => [15, 1, 60],
        }
    }

    pub(super) const fn of(step: &Step) -> Option<Self> {
        match step {
            Step::Probe => None,
            Step::Cleanup(_) => Some(Self::Cleanup),
            Step::Unload(_) => Some(Self::Unload),
            Step::Load(_) => Some(Self::Load),
            Step::Stop(_) => Some(Self::Stop),
            Step::Start(_) => Some(Self::Start),
            Step::Canary(_) => Some(Self::Canary),
        }
    }
}

/// How one worker does one thing.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    usual: Mean,
    /// The slowest of late, forgotten bit by bit.
    slowest: Option<Duration>,
    /// Budgets overrun since it last succeeded.
    overruns: u32,
}

/// The times of all workers of a card.
#[derive(Debug, Clone, Default)]
pub(super) struct Paces(BTreeMap<(WorkerId, Act), Pace>);

impl Paces {
    /// How often the slowest of late fits into a budget.
    const SLACK: u32 = 4;

    /// How long it may take this time.
    pub(super) fn budget(&self, worker: &WorkerId, act: Act) -> Duration {
        let [first, least, most] = act.bounds().map(Duration::from_secs);
        let pace = self.0.get(&(worker.clone(), act)).copied().unwrap_or_default();
        let learned = pace.slowest.map_or(first, |slowest| (slowest * Self::SLACK).clamp(least, most));
        learned.saturating_mul(1 << pace.overruns.min(16)).min(most.max(first))
    }

    /// How long it usually takes; nothing before it was seen.
    pub(super) fn usual(&self, worker: &WorkerId, act: Act) -> Option<Duration> {
        self.0.get(&(worker.clone(), act))?.usual.get()
    }

    pub(super) fn took(&mut self, worker: &WorkerId, act: Act, time: Duration) {
        let pace = self.0.entry((worker.clone(), act)).or_default();
        pace.usual.observe(time);
        pace.overruns = 0;
        pace.slowest = Some(match pace.slowest {
            Some(slowest) if slowest > time => slowest - (slowest - time) / 8,
            _ => time,
        });
    }

    /// It took longer than its budget: the next one is twice as long.
    pub(super) fn overran(&mut self, worker: &WorkerId, act: Act) {
        self.0.entry((worker.clone(), act)).or_default().overruns += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_follow_what_was_seen_and_double_when_overrun() {
        let (mut paces, w) = (Paces::default(), WorkerId::new("w"));
        assert_eq!(paces.budget(&w, Act::Load).as_secs(), 60);
        paces.took(&w, Act::Load, Duration::from_secs(24));
        assert_eq!(paces.budget(&w, Act::Load).as_secs(), 96);
        for _ in 0..100 {
            paces.took(&w, Act::Load, Duration::from_secs(1));
        }
        assert_eq!(paces.budget(&w, Act::Load).as_secs(), 10);
        assert_eq!(paces.usual(&w, Act::Load).unwrap().as_secs(), 1);
        paces.overran(&w, Act::Load);
        paces.overran(&w, Act::Load);
        assert_eq!(paces.budget(&w, Act::Load).as_secs(), 40);
        for _ in 0..40 {
            paces.overran(&w, Act::Load);
        }
        assert_eq!(paces.budget(&w, Act::Load).as_secs(), 180);
        paces.took(&w, Act::Load, Duration::from_secs(1));
        assert_eq!(paces.budget(&w, Act::Load).as_secs(), 10);
        // Another verb, another worker.
        assert_eq!(paces.budget(&w, Act::Unload).as_secs(), 30);
    }
}
