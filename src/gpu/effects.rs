//! Everything that can be done to the workers of a card, and the journal of it.

use std::fmt;
use std::time::Duration;

use futures_util::future::{BoxFuture, ready};

use super::plan::Step;
use super::reading::Reading;
use super::worker::{Tenant, WorkerId};
use crate::primitives::{CardId, UnixTime};

/// The whole list of what reaches the outside world.
///
/// What a verb returns is what the worker says; several dialects say yes on failure, and no after
/// having done it (workers.md section 8). The [`Arbiter`](super::Arbiter) believes the probe.
///
/// Calls may be dropped at any await: each is given a time budget.
pub trait Effects: fmt::Debug + Send + Sync {
    /// Looks at the card. `None`: nothing measures it, what verbs say is all there is.
    fn probe(&self) -> BoxFuture<'_, Result<Option<Reading>, EffectError>>;
    /// Has a worker give its models' memory up.
    fn unload<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>>;
    /// Has it bring them back.
    fn load<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>>;
    /// Has it give cached memory back.
    fn cleanup<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>>;
    /// Starts its process and waits until it is ready.
    fn start<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>>;
    /// Ends its process and all that belong to it.
    fn stop<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>>;
    /// Has it score a splat that it once gave a score.
    fn canary<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<Song, EffectError>>;
}

/// What came of a canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Song {
    /// It scores as it did.
    Sings,
    /// All zeros, or a score far off: the scorer does not work, whatever it says.
    Silent,
    /// No splat has had a score yet; nothing can be said.
    NoneKept,
}

/// Why something was not done, as far as can be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EffectError {
    #[error("it has no such verb")]
    Unsupported,
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    #[error("it refused: {0}")]
    Refused(String),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The driver no longer knows the card.
    #[error("the card is gone: {0}")]
    CardLost(String),
}

/// Why a hand-off was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Lease(Tenant),
    /// Ahead of a lease that is expected.
    Ahead,
    /// Somebody who had left comes back.
    Restore,
    /// After a start: the state of the card was not known.
    Recovery,
    /// A lease was not given back in time.
    Overdue,
    /// A person's.
    Order,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lease(tenant) => tenant.fmt(f),
            Self::Ahead => f.write_str("ahead"),
            Self::Restore => f.write_str("restore"),
            Self::Recovery => f.write_str("recovery"),
            Self::Overdue => f.write_str("overdue"),
            Self::Order => f.write_str("order"),
        }
    }
}

/// What is about to be done, written down first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    pub card: CardId,
    /// Our clock.
    pub at: UnixTime,
    pub cause: Cause,
    /// Who is to be ready at the end.
    pub wanted: WorkerId,
    /// Who leaves for it, by the first plan.
    pub evicted: Vec<WorkerId>,
}

/// A step that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepTaken {
    pub step: Step,
    /// Our clock, at its end.
    pub at: UnixTime,
    /// With its proof.
    pub took: Duration,
    /// Whether it was proven, and why not.
    pub failure: Option<String>,
}

/// Identifies a hand-off in its journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HandoffId(pub i64);

/// A hand-off that an earlier process began and did not end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenHandoff {
    pub id: HandoffId,
    pub wanted: WorkerId,
    /// Who left for it, or was about to.
    pub evicted: Vec<WorkerId>,
}

/// The journal could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the journal of hand-offs: {0}")]
pub struct LogError(pub String);

/// Where hand-offs are written down. It survives `kill -9`.
pub trait HandoffLog: fmt::Debug + Send + Sync {
    /// Before anything is done.
    fn begin(&self, intent: Intent) -> BoxFuture<'_, Result<HandoffId, LogError>>;
    /// After each step.
    fn step(&self, id: HandoffId, step: StepTaken) -> BoxFuture<'_, Result<(), LogError>>;
    /// The wanted one is ready, and that is proven.
    fn commit(&self, id: HandoffId, at: UnixTime) -> BoxFuture<'_, Result<(), LogError>>;
    /// It is not; who left is being brought back.
    fn fail(&self, id: HandoffId, at: UnixTime, why: String) -> BoxFuture<'_, Result<(), LogError>>;
}

/// Writes nothing down: for a single task, which leaves nothing to recover but what the next start
/// sees anyway.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoLog;

impl HandoffLog for NoLog {
    fn begin(&self, _: Intent) -> BoxFuture<'_, Result<HandoffId, LogError>> {
        Box::pin(ready(Ok(HandoffId(0))))
    }
    fn step(&self, _: HandoffId, _: StepTaken) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(ready(Ok(())))
    }
    fn commit(&self, _: HandoffId, _: UnixTime) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(ready(Ok(())))
    }
    fn fail(&self, _: HandoffId, _: UnixTime, _: String) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(ready(Ok(())))
    }
}
