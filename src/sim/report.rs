//! What came of a simulation.

use std::time::Duration;

use serde::Serialize;

use super::card::{CardFaults, CardTally};

/// Events in the books of all validators together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Tasks given out.
    pub pulled: u64,
    pub accepted: u64,
    /// Scored below the threshold: each cost the penalty.
    pub low: u64,
    pub empty: u64,
    pub scorer_failed: u64,
    pub bad_signature: u64,
    /// Pulls before the end of a cooldown.
    pub violations: u64,
    /// What a miner that keeps the rules never causes, violations among it.
    pub forbidden: u64,
    /// Tasks given out and not booked yet.
    pub open: u64,
}

impl Counts {
    /// Tasks the validators closed.
    pub fn booked(&self) -> u64 {
        self.accepted + self.low + self.empty + self.scorer_failed + self.bad_signature
    }
}

/// Least, mean and most of the accepted results that count at the end, over all lanes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct WindowCounts {
    pub least: u64,
    pub mean: f64,
    pub most: u64,
}

impl WindowCounts {
    pub(super) fn of(counts: &[u64]) -> Self {
        Self {
            least: counts.iter().copied().min().unwrap_or(0),
            mean: counts.iter().sum::<u64>() as f64 / counts.len().max(1) as f64,
            most: counts.iter().copied().max().unwrap_or(0),
        }
    }
}

/// What only the agent itself can tell; the reference policies do not.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AgentTally {
    pub pulls: u64,
    /// Pull minus the later of lane due and slot free, in seconds.
    pub lateness_p50_s: f64,
    pub lateness_p99_s: f64,
    pub lateness_max_s: f64,
}

/// See the [module](self). Rates and shares are of the counted time, events of the whole simulation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub policy: String,
    /// The time that was counted, in hours: less than wanted if it was interrupted.
    pub counted_h: f64,
    pub interrupted: bool,
    pub accepted_per_h: f64,
    /// Low and empty together, with whatever else was not accepted.
    pub failed_per_h: f64,
    pub empty_per_h: f64,
    /// Share of the counted time for which each card was busy.
    pub busy: Vec<f64>,
    /// Of all cards, in the counted time.
    pub cards: CardTally,
    pub window: WindowCounts,
    /// Longest time for which a lane was due and not asked, by the validators' books.
    pub longest_idle_s: f64,
    pub events: Counts,
    pub faults: CardFaults,
    pub agent: Option<AgentTally>,
    pub wall_s: f64,
    /// Of the process so far, where the system tells it.
    pub peak_rss_mib: Option<f64>,
}

impl Report {
    /// Whether no rule was broken and every task was booked exactly once.
    pub fn is_clean(&self) -> bool {
        let Counts { pulled, forbidden, open, bad_signature, .. } = self.events;
        forbidden == 0
            && open == 0
            && bad_signature == 0
            && self.events.booked() == pulled
            && self.faults.total() == 0
    }

    /// How often the scorer left, per generation.
    pub fn swaps_per_task(&self) -> f64 {
        self.cards.swaps as f64 / self.cards.generations.max(1) as f64
    }

    /// Share of the generations that took longer than they do alone, by whatever another did.
    pub fn delayed_share(&self) -> f64 {
        self.cards.delayed as f64 / self.cards.generations.max(1) as f64
    }

    /// Generations made each time the scorer was away.
    pub fn batch(&self) -> f64 {
        self.cards.generations as f64 / self.cards.swaps.max(1) as f64
    }

    /// Mean share of busy time over the cards.
    pub fn mean_busy(&self) -> f64 {
        self.busy.iter().sum::<f64>() / self.busy.len().max(1) as f64
    }
}

/// The state of things at one moment, to be counted from.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    pub(super) at: Duration,
    pub(super) counts: Counts,
    pub(super) busy: Vec<Duration>,
    pub(super) cards: CardTally,
}

impl Mark {
    /// Hours since `earlier`, and a number per hour of them.
    pub(super) fn hours_since(&self, earlier: &Self) -> f64 {
        (self.at.saturating_sub(earlier.at)).as_secs_f64() / 3_600.0
    }
}

/// Peak resident memory of this process, in MiB.
pub(super) fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1_024.0)
}
