//! The workers on a card, as far as its memory is concerned.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use crate::primitives::{MiB, UnixTime};

/// Name of a worker, as in the configuration.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(Arc<str>);

impl WorkerId {
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for WorkerId {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl Borrow<str> for WorkerId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// What a card is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tenant {
    Generator,
    Scorer,
    /// Rewrites prompts; optional.
    Enhancer,
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Generator => "generator",
            Self::Scorer => "scorer",
            Self::Enhancer => "enhancer",
        })
    }
}

/// How dearly a worker holds on to its place, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Residency {
    /// Comes when it is wanted.
    OnDemand,
    /// Comes back as soon as there is room, at the cost of those on demand.
    Preferred,
    /// Never leaves.
    Pinned,
}

/// Part of a worker's work with a memory need of its own: `image`, `shape`, `splat`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stage(Arc<str>);

impl Stage {
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }
}

impl Default for Stage {
    /// The only one of a worker that declares none.
    fn default() -> Self {
        Self::new("work")
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a worker declares to hold. Zero: not known, to be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub worker: WorkerId,
    pub stage: Stage,
    /// At rest with its models loaded, context included.
    pub resident: MiB,
    /// Most it holds during the stage, all included.
    pub peak: MiB,
}

/// What a worker can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Abilities {
    pub unload: bool,
    /// Without it, one that can unload loads by itself when it is used.
    pub load: bool,
    /// Gives cached blocks back, not models.
    pub cleanup: bool,
    /// Its process can be stopped and started.
    pub process: bool,
    /// A stored splat of known score tells whether it scores.
    pub canary: bool,
}

impl Abilities {
    /// Whether it can be made to give its place up.
    pub const fn is_movable(self) -> bool {
        self.unload || self.process
    }
}

/// Where a worker is taken to be when the agent starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AtStart {
    /// Somebody else started it, perhaps an agent that was killed: it is looked at before it counts.
    #[default]
    Unknown,
    Resident,
    Stopped,
}

/// A worker on a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerSpec {
    pub id: WorkerId,
    pub tenant: Tenant,
    pub residency: Residency,
    /// In the order of its work; none: nothing is known.
    pub rows: Vec<Row>,
    pub abilities: Abilities,
    pub at_start: AtStart,
    /// It moves others out of its way by itself, and perhaps back (workers.md 1.4): nothing is moved
    /// for it, and those others are looked at before they are used again.
    pub self_coordinating: bool,
}

/// Where a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerState {
    /// Its models are in the card's memory.
    Resident,
    /// Its process is there and keeps a context; its models are not on the card.
    Unloaded,
    /// Its process is not there.
    Stopped,
    /// Not known: counts as loaded where room is needed, and as absent where its work is.
    Unknown,
    /// Could not be brought in by any means; tried again later.
    Failed { since: UnixTime },
    /// Its lease is over and it may still be at work: nobody gets the card.
    Overdue { since: UnixTime },
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resident => "resident",
            Self::Unloaded => "unloaded",
            Self::Stopped => "stopped",
            Self::Unknown => "unknown",
            Self::Failed { .. } => "failed",
            Self::Overdue { .. } => "overdue",
        })
    }
}
