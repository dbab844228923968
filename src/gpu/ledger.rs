//! What each worker holds: declared, and corrected by what is measured.
//!
//! A measurement moves a belief only so far in one step: readings of a whole card are off whenever
//! somebody else allocates in between, and one of them must not make room where there is none.

use std::collections::BTreeMap;

use super::worker::{Row, Stage, WorkerId, WorkerSpec};
use crate::primitives::MiB;

/// What a process keeps on the card after unloading, until measured: 300-500 MiB are usual.
pub(super) const USUAL_CONTEXT: MiB = MiB(400);

/// No context is larger; what is has not unloaded.
const LARGEST_CONTEXT: MiB = MiB(2_048);

/// A measurement may move a belief by this, or by a quarter of it.
const STEP: MiB = MiB(256);

/// What a worker is believed to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amounts {
    /// At rest with its models loaded.
    pub resident: MiB,
    /// Most it holds at work.
    pub peak: MiB,
    /// After unloading.
    pub context: MiB,
}

impl Amounts {
    /// What unloading frees and loading takes.
    pub fn moves(&self) -> MiB {
        self.resident.saturating_sub(self.context)
    }
}

#[derive(Debug, Clone)]
struct Belief {
    resident: MiB,
    context: Option<MiB>,
    /// By stage, in the order of the work.
    peaks: Vec<(Stage, MiB)>,
}

/// The amounts of all workers of a card.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// Nothing holds more.
    limit: MiB,
    beliefs: BTreeMap<WorkerId, Belief>,
}

impl Ledger {
    /// What the workers declare on a card that holds so much.
    pub fn declared<'a>(limit: MiB, workers: impl IntoIterator<Item = &'a WorkerSpec>) -> Self {
        let belief = |worker: &WorkerSpec| {
            let resident = worker.rows.iter().map(|row| row.resident).max().unwrap_or_default();
            let peaks = match &worker.rows[..] {
                [] => vec![(Stage::default(), MiB::ZERO)],
                rows => rows.iter().map(|Row { stage, peak, .. }| (stage.clone(), *peak)).collect(),
            };
            (worker.id.clone(), Belief { resident, context: None, peaks })
        };
        Self { limit, beliefs: workers.into_iter().map(belief).collect() }
    }

    /// What a worker is believed to hold; nothing of one that is not on the card.
    pub fn amounts(&self, worker: &WorkerId) -> Amounts {
        let Some(belief) = self.beliefs.get(worker) else { return Amounts::default() };
        let peak = belief.peaks.iter().map(|(_, peak)| *peak).max().unwrap_or_default();
        let context = belief.context.unwrap_or(USUAL_CONTEXT).min(belief.resident);
        Amounts { resident: belief.resident, peak: peak.max(belief.resident), context }
    }

    /// Most that a worker holds during a stage; during all its work if it declares no such stage.
    pub fn peak(&self, worker: &WorkerId, stage: Option<&Stage>) -> MiB {
        let amounts = self.amounts(worker);
        let declared = self.beliefs.get(worker).zip(stage).and_then(|(belief, stage)| {
            belief.peaks.iter().find(|(name, _)| name == stage).map(|(_, peak)| *peak)
        });
        declared.map_or(amounts.peak, |peak| peak.max(amounts.context))
    }

    /// Whether this is the last of several declared stages.
    pub fn is_last_stage(&self, worker: &WorkerId, stage: &Stage) -> bool {
        self.beliefs.get(worker).is_some_and(|belief| {
            belief.peaks.len() > 1 && belief.peaks.last().is_some_and(|(last, _)| last == stage)
        })
    }

    /// The greediest of the stages after the one that is the greediest of all; `None` if that is the
    /// last or only one.
    pub fn after_crest(&self, worker: &WorkerId) -> Option<Stage> {
        let peaks = &self.beliefs.get(worker)?.peaks;
        let most = peaks.iter().map(|(_, peak)| *peak).max()?;
        let crest = peaks.iter().rposition(|(_, peak)| *peak == most)?;
        let (stage, _) = peaks[crest + 1..].iter().max_by_key(|(_, peak)| *peak)?;
        Some(stage.clone())
    }

    /// Takes in what a worker held at rest.
    pub fn saw_resident(&mut self, worker: &WorkerId, measured: MiB) {
        let limit = self.limit;
        if let Some(belief) = self.beliefs.get_mut(worker) {
            belief.resident = corrected(belief.resident, measured, limit);
        }
    }

    /// Takes in what was left after unloading.
    pub fn saw_context(&mut self, worker: &WorkerId, measured: MiB) {
        if let Some(belief) = self.beliefs.get_mut(worker)
            && measured <= LARGEST_CONTEXT
        {
            belief.context = Some(
                belief.context.map_or(measured, |context| corrected(context, measured, LARGEST_CONTEXT)),
            );
        }
    }

    /// Takes in what a worker held at work. A peak may have gone unseen, so it is never lowered.
    pub fn saw_at_work(&mut self, worker: &WorkerId, stage: Option<&Stage>, measured: MiB) {
        let limit = self.limit;
        let Some(belief) = self.beliefs.get_mut(worker) else { return };
        // Without a stage: the greediest one.
        let found = match stage {
            Some(stage) => belief.peaks.iter_mut().find(|(name, _)| name == stage),
            None => belief.peaks.iter_mut().max_by_key(|(_, peak)| *peak),
        };
        if let Some((_, peak)) = found
            && measured > *peak
        {
            *peak = corrected(*peak, measured, limit);
        }
    }
}

/// A belief after one measurement. What cannot be on the card changes nothing.
fn corrected(believed: MiB, measured: MiB, limit: MiB) -> MiB {
    if measured > limit {
        return believed;
    }
    if believed == MiB::ZERO {
        return measured;
    }
    let step = STEP.max(MiB(believed.0 / 4));
    measured.clamp(believed.saturating_sub(step), believed.saturating_add(step))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::worker::{Abilities, AtStart, Residency, Tenant};

    fn worker(rows: &[(&str, u64, u64)]) -> WorkerSpec {
        let id = WorkerId::new("w");
        let row = |(stage, resident, peak): &(&str, u64, u64)| Row {
            worker: id.clone(),
            stage: Stage::new(stage),
            resident: MiB(*resident),
            peak: MiB(*peak),
        };
        WorkerSpec {
            rows: rows.iter().map(row).collect(),
            id: id.clone(),
            tenant: Tenant::Generator,
            residency: Residency::OnDemand,
            abilities: Abilities::default(),
            at_start: AtStart::Resident,
            self_coordinating: false,
        }
    }

    fn ledger(rows: &[(&str, u64, u64)]) -> Ledger {
        Ledger::declared(MiB(24_576), &[worker(rows)])
    }

    const W: fn() -> WorkerId = || WorkerId::new("w");

    #[test]
    fn a_measurement_moves_a_belief_by_a_quarter_at_most() {
        let mut ledger = ledger(&[("work", 4_813, 6_000)]);
        ledger.saw_resident(&W(), MiB(9_000));
        assert_eq!(ledger.amounts(&W()).resident, MiB(4_813 + 1_203));
        ledger.saw_resident(&W(), MiB(0));
        assert_eq!(ledger.amounts(&W()).resident, MiB(6_016 - 1_504));
        for _ in 0..20 {
            ledger.saw_resident(&W(), MiB(4_700));
        }
        assert_eq!(ledger.amounts(&W()).resident, MiB(4_700));
    }

    #[test]
    fn what_cannot_be_on_the_card_changes_nothing() {
        let mut ledger = ledger(&[("work", 4_813, 6_000)]);
        let before = ledger.amounts(&W());
        for absurd in [24_577, u64::MAX] {
            ledger.saw_resident(&W(), MiB(absurd));
            ledger.saw_at_work(&W(), None, MiB(absurd));
            ledger.saw_context(&W(), MiB(absurd));
        }
        ledger.saw_resident(&WorkerId::new("stranger"), MiB(1));
        assert_eq!(ledger.amounts(&W()), before);
        assert_eq!(ledger.amounts(&WorkerId::new("stranger")), Amounts::default());
    }

    #[test]
    fn what_is_not_declared_is_taken_as_measured() {
        let mut ledger = ledger(&[]);
        assert_eq!(ledger.amounts(&W()), Amounts::default());
        ledger.saw_resident(&W(), MiB(5_000));
        ledger.saw_at_work(&W(), None, MiB(18_000));
        ledger.saw_context(&W(), MiB(470));
        let amounts = ledger.amounts(&W());
        assert_eq!(amounts, Amounts { resident: MiB(5_000), peak: MiB(18_000), context: MiB(470) });
        assert_eq!(amounts.moves(), MiB(4_530));
    }

    #[test]
    fn stages_have_peaks_of_their_own_and_one_is_the_last() {
        let mut ledger = ledger(&[("image", 500, 10_000), ("shape", 500, 20_070), ("splat", 500, 6_000)]);
        let stage = |name: &str| Stage::new(name);
        assert_eq!(ledger.peak(&W(), None), MiB(20_070));
        assert_eq!(ledger.peak(&W(), Some(&stage("splat"))), MiB(6_000));
        assert_eq!(ledger.peak(&W(), Some(&stage("nap"))), MiB(20_070));
        assert!(ledger.is_last_stage(&W(), &stage("splat")) && !ledger.is_last_stage(&W(), &stage("shape")));
        ledger.saw_at_work(&W(), Some(&stage("splat")), MiB(7_000));
        ledger.saw_at_work(&W(), Some(&stage("splat")), MiB(2_000));
        assert_eq!(ledger.peak(&W(), Some(&stage("splat"))), MiB(7_000));
        assert!(!ledger_of_one().is_last_stage(&W(), &stage("work")));
        assert_eq!(
            (ledger.after_crest(&W()), ledger_of_one().after_crest(&W())),
            (Some(stage("splat")), None)
        );
    }

    fn ledger_of_one() -> Ledger {
        ledger(&[("work", 1, 2)])
    }
}
