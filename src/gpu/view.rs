//! What a card shows of itself.

use std::time::Duration;

use super::reading::Pressure;
use super::worker::{Residency, Tenant, WorkerId, WorkerState};
use crate::primitives::{CardId, MiB, UnixTime};

/// A card and its workers at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct CardView {
    pub card: CardId,
    /// Our clock.
    pub at: UnixTime,
    /// `None`: nothing measures it.
    pub memory: Option<MemoryView>,
    /// The driver no longer knows it.
    pub is_lost: bool,
    pub workers: Vec<WorkerView>,
    pub lease: Option<LeaseView>,
    pub waiting: usize,
    /// Why the last hand-off was skipped, made or refused.
    pub last_plan: Option<String>,
    /// Hand-offs that moved somebody.
    pub swaps: u64,
    pub lags: LagView,
}

/// What hand-offs cost beyond what the workers take: from the look that showed the end of a step to the
/// next verb or the end of the hand-off, the journal included. What passed before that look, up to 50 ms,
/// is not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LagView {
    /// Since the start.
    pub count: u64,
    /// Of the last thousand or so.
    pub p50: Duration,
    pub p99: Duration,
    pub most: Duration,
}

/// The memory of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryView {
    pub total: MiB,
    pub free: MiB,
    pub pressure: Pressure,
}

/// A worker of a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerView {
    pub worker: WorkerId,
    pub tenant: Tenant,
    pub residency: Residency,
    pub state: WorkerState,
    /// In that state; our clock.
    pub since: UnixTime,
    /// As the probe says, or as is believed.
    pub held: MiB,
    pub resident: MiB,
    pub peak: MiB,
    /// It left for another and is to come back.
    pub is_owed: bool,
    /// Its process can be started, so it comes when it is wanted.
    pub starts: bool,
}

/// Who has the card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseView {
    pub tenant: Tenant,
    pub worker: Option<WorkerId>,
    pub since: UnixTime,
    /// From the grant.
    pub deadline: Duration,
}

impl CardView {
    pub(super) fn empty(card: CardId, at: UnixTime) -> Self {
        Self {
            card,
            at,
            memory: None,
            is_lost: false,
            workers: Vec::new(),
            lease: None,
            waiting: 0,
            last_plan: None,
            swaps: 0,
            lags: LagView::default(),
        }
    }
}
