//! A card and who lives on it, as configured.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::effects::{Effects, HandoffLog};
use super::ledger::Ledger;
use super::plan::Sums;
use super::policy::{Batch, Mode};
use super::worker::{Residency, Stage, WorkerId, WorkerSpec};
use crate::primitives::MiB;

/// How a card is shared (`[[gpus]]`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// As much of the card as may be used; `None`: all of it, which the probe must then tell.
    pub limit: Option<MiB>,
    /// Kept free.
    pub margin: MiB,
    pub mode: Mode,
    pub batch: Batch,
    /// How long a lease may last if it does not say so itself.
    pub deadline: Duration,
    /// Who should be there is brought in although nobody asks; else only who left comes back.
    pub restores: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limit: None,
            margin: MiB(512),
            mode: Mode::default(),
            batch: Batch::default(),
            deadline: Duration::from_secs(3_600),
            restores: true,
        }
    }
}

/// What an arbiter moves, how, and where it writes that down.
#[derive(Debug, Clone)]
pub struct Household {
    pub settings: Settings,
    pub workers: Vec<WorkerSpec>,
    pub effects: Arc<dyn Effects>,
    pub log: Arc<dyn HandoffLog>,
}

/// A configuration that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HouseholdError {
    #[error("two workers on one card are called {0}")]
    SameName(WorkerId),
    #[error("{worker} would hold {resident} at rest and at most {peak} during `{stage}`")]
    PeakBelowResident { worker: WorkerId, stage: Stage, resident: MiB, peak: MiB },
    #[error("{worker} would hold {amount} on a card of {limit}")]
    LargerThanCard { worker: WorkerId, amount: MiB, limit: MiB },
    #[error("it never has room beside the pinned workers: {0}")]
    PinnedInTheWay(Sums),
}

/// Looks for what cannot work on a card that holds `limit`, so that it is said at the start and not
/// at the first lease.
///
/// # Errors
/// All mistakes.
pub fn check(limit: MiB, margin: MiB, workers: &[WorkerSpec]) -> Result<(), Vec<HouseholdError>> {
    let mut errors = Vec::new();
    let mut names = BTreeSet::new();
    for worker in workers {
        if !names.insert(&worker.id) {
            errors.push(HouseholdError::SameName(worker.id.clone()));
        }
        for row in &worker.rows {
            let (id, peak, resident) = (&worker.id, row.peak, row.resident);
            if peak > MiB::ZERO && peak < resident {
                let stage = row.stage.clone();
                errors.push(HouseholdError::PeakBelowResident { worker: id.clone(), stage, resident, peak });
            } else if peak.max(resident) > limit {
                let amount = peak.max(resident);
                errors.push(HouseholdError::LargerThanCard { worker: id.clone(), amount, limit });
            }
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let ledger = Ledger::declared(limit, workers);
    for worker in workers {
        let pinned = workers.iter().filter(|w| w.residency == Residency::Pinned && w.id != worker.id);
        let sums = Sums {
            wanted: worker.id.clone(),
            need: ledger.amounts(&worker.id).peak,
            limit,
            margin,
            foreign: MiB::ZERO,
            others: pinned.map(|w| (w.id.clone(), ledger.amounts(&w.id).resident)).collect(),
        };
        if !sums.fits() {
            errors.push(HouseholdError::PinnedInTheWay(sums));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::worker::{Abilities, AtStart, Row, Tenant};

    fn worker(name: &str, residency: Residency, resident: u64, peak: u64) -> WorkerSpec {
        let id = WorkerId::new(name);
        WorkerSpec {
            rows: vec![Row {
                worker: id.clone(),
                stage: Stage::default(),
                resident: MiB(resident),
                peak: MiB(peak),
            }],
            id,
            tenant: Tenant::Generator,
            residency,
            abilities: Abilities::default(),
            at_start: AtStart::Resident,
            self_coordinating: false,
        }
    }

    fn found(workers: &[WorkerSpec]) -> Vec<String> {
        let errors = check(MiB(24_576), MiB(512), workers).err().unwrap_or_default();
        errors.iter().map(HouseholdError::to_string).collect()
    }

    #[test]
    fn the_reference_household_is_sound() {
        let scorer = worker("scorer", Residency::OnDemand, 4_813, 4_813);
        assert!(found(&[worker("generator", Residency::OnDemand, 400, 20_070), scorer]).is_empty());
        assert!(found(&[worker("new", Residency::OnDemand, 0, 0)]).is_empty());
    }

    #[test]
    fn pinned_workers_that_never_leave_room_are_named_with_the_sum() {
        let scorer = worker("scorer", Residency::Pinned, 4_813, 4_813);
        assert_eq!(
            found(&[worker("generator", Residency::OnDemand, 400, 20_070), scorer]),
            [
                "it never has room beside the pinned workers: generator needs 20070 MiB; 24576 MiB - 512 MiB margin - 4813 MiB scorer = 19251 MiB"
            ]
        );
    }

    #[test]
    fn mistakes_are_all_named_at_once() {
        let workers = [
            worker("a", Residency::OnDemand, 5_000, 4_000),
            worker("a", Residency::OnDemand, 1, u64::MAX),
            worker("b", Residency::OnDemand, 24_577, 0),
        ];
        assert_eq!(
            found(&workers),
            [
                "a would hold 5000 MiB at rest and at most 4000 MiB during `work`",
                "two workers on one card are called a",
                "a would hold 18446744073709551615 MiB on a card of 24576 MiB",
                "b would hold 24577 MiB on a card of 24576 MiB",
            ]
        );
    }
}
