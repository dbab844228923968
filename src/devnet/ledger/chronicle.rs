//! The record a test asks whether something forbidden has happened.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::primitives::{Hotkey, TaskId, UnixTime};

/// One thing that happened at a validator.
#[derive(Debug, Clone, PartialEq)]
pub struct LedgerEvent {
    /// By the validator's clock.
    pub at: UnixTime,
    pub hotkey: Hotkey,
    pub kind: LedgerEventKind,
}

#[derive(Debug, Clone, PartialEq)]
pub enum LedgerEventKind {
    /// Pull of a hotkey that is not registered.
    PullRefused,
    /// Pull before the cooldown was over.
    Violation {
        early_by: Duration,
    },
    Assigned {
        task: TaskId,
    },
    /// The same task given out again.
    Repeated {
        task: TaskId,
    },
    /// Submission answered with 403.
    SubmissionRefused,
    /// Submission of another task than the open one.
    WrongTask {
        open: TaskId,
    },
    BadSignature {
        task: TaskId,
    },
    /// The signature could not be decoded: answered with 500.
    Malformed {
        task: TaskId,
    },
    Empty {
        task: TaskId,
    },
    /// A second result while the first was being scored.
    Locked {
        task: TaskId,
    },
    ScoringBegun {
        task: TaskId,
    },
    ScorerFailed {
        task: TaskId,
    },
    /// Scored, but too soon after an accepted result.
    DoubleGuard {
        task: TaskId,
    },
    Accepted {
        task: TaskId,
        score: f64,
    },
    Low {
        task: TaskId,
        score: f64,
    },
    /// The verdict just booked was on a task that had been booked before.
    BookedAgain {
        task: TaskId,
    },
}

impl LedgerEventKind {
    /// Constant name, the same for every event of the kind.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::PullRefused => "pull_refused",
            Self::Violation { .. } => "violation",
            Self::Assigned { .. } => "assigned",
            Self::Repeated { .. } => "repeated",
            Self::SubmissionRefused => "submission_refused",
            Self::WrongTask { .. } => "wrong_task",
            Self::BadSignature { .. } => "bad_signature",
            Self::Malformed { .. } => "malformed",
            Self::Empty { .. } => "empty",
            Self::Locked { .. } => "locked",
            Self::ScoringBegun { .. } => "scoring_begun",
            Self::ScorerFailed { .. } => "scorer_failed",
            Self::DoubleGuard { .. } => "double_guard",
            Self::Accepted { .. } => "accepted",
            Self::Low { .. } => "low",
            Self::BookedAgain { .. } => "booked_again",
        }
    }

    /// The task this closed, if it closed one.
    pub const fn booked(&self) -> Option<&TaskId> {
        match self {
            Self::BadSignature { task }
            | Self::Empty { task }
            | Self::ScorerFailed { task }
            | Self::Accepted { task, .. }
            | Self::Low { task, .. } => Some(task),
            _ => None,
        }
    }

    /// Whether a miner that keeps the rules never causes it.
    pub const fn is_forbidden(&self) -> bool {
        matches!(
            self,
            Self::Violation { .. }
                | Self::WrongTask { .. }
                | Self::BadSignature { .. }
                | Self::Malformed { .. }
                | Self::BookedAgain { .. }
        )
    }
}

/// Counts of all events and the latest of them.
#[derive(Debug)]
pub struct Chronicle {
    counts: BTreeMap<&'static str, u64>,
    forbidden: u64,
    kept: usize,
    latest: VecDeque<LedgerEvent>,
}

impl Chronicle {
    /// Events kept unless told otherwise; older ones are only counted.
    pub const KEPT: usize = 16_384;

    pub(super) fn keeping(kept: usize) -> Self {
        Self { counts: BTreeMap::new(), forbidden: 0, kept, latest: VecDeque::new() }
    }

    pub(super) fn add(&mut self, event: LedgerEvent) {
        *self.counts.entry(event.kind.name()).or_default() += 1;
        self.forbidden += u64::from(event.kind.is_forbidden());
        if self.kept == 0 {
            return;
        }
        if self.latest.len() == self.kept {
            self.latest.pop_front();
        }
        self.latest.push_back(event);
    }

    /// How often a kind of event happened, by its [`LedgerEventKind::name`].
    pub fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    /// All counts, by name.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.counts.iter().map(|(name, count)| (*name, *count))
    }

    /// Events that a miner which keeps the rules never causes.
    pub fn forbidden(&self) -> u64 {
        self.forbidden
    }

    /// The latest events, [`Self::KEPT`] or as many as asked for, oldest first.
    pub fn latest(&self) -> impl DoubleEndedIterator<Item = &LedgerEvent> {
        self.latest.iter()
    }
}
