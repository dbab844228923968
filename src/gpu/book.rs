//! What an arbiter knows of the workers on its card.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::household::Settings;
use super::ledger::{Amounts, Ledger};
use super::pace::{Act, Paces};
use super::plan::{Budget, Reach, Standing, Tried, Wanted};
use super::policy::Forecast;
use super::reading::Reading;
use super::worker::{Abilities, AtStart, Residency, Stage, Tenant, WorkerId, WorkerSpec, WorkerState};
use crate::primitives::{MiB, UnixTime};

/// Amounts closer than this, or than a quarter, are the same: others allocate meanwhile, and contexts
/// differ.
const TOLERANCE: MiB = MiB(300);

/// A worker that has been where it is for so long has finished moving.
const SETTLED: Duration = Duration::from_secs(2);

/// Takes an unmeasured swap to last so long.
const USUAL_MOVE: Duration = Duration::from_secs(3);

pub(super) fn about(amount: MiB) -> MiB {
    TOLERANCE.max(MiB(amount.0 / 4))
}

/// What is known of one worker.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) spec: WorkerSpec,
    state: WorkerState,
    /// In that state.
    pub(super) since: UnixTime,
    entered: Instant,
    /// End of its last lease.
    pub(super) used: Option<Instant>,
    /// It has worked since it came or was cleaned up, so it may hold more than at rest.
    pub(super) worked: bool,
    /// What it holds on to after a cleanup, in this hand-off.
    pub(super) clings: bool,
    /// What it held once it had come in, as far as that was seen: counts once it is known to work.
    pub(super) came_with: Option<MiB>,
    /// It has done its work since it came in, or was there from the start.
    pub(super) sound: bool,
    /// Leases in a row that ended with it suspected.
    pub(super) suspected: u8,
    /// It left for another and is to come back.
    pub(super) owed: bool,
    /// Since it last came in.
    pub(super) failures: u32,
    /// Not brought in before that.
    pub(super) retry_at: Option<Instant>,
    pub(super) tried: Tried,
}

impl Entry {
    pub(super) fn state(&self) -> WorkerState {
        self.state
    }
}

/// All workers of a card. See the [module](self).
#[derive(Debug)]
pub(super) struct Book {
    pub(super) entries: BTreeMap<WorkerId, Entry>,
    /// Their order in the configuration.
    order: Vec<WorkerId>,
    pub(super) ledger: Ledger,
    pub(super) paces: Paces,
    limit: Option<MiB>,
    margin: MiB,
}

impl Book {
    pub(super) fn open(workers: Vec<WorkerSpec>, settings: &Settings, now: (UnixTime, Instant)) -> Self {
        let (limit, margin) = (settings.limit, settings.margin);
        let ledger = Ledger::declared(limit.unwrap_or(MiB(u64::MAX)), &workers);
        let order = workers.iter().map(|spec| spec.id.clone()).collect();
        let entry = |spec: WorkerSpec| {
            // Where nothing can be moved there is nothing to find out.
            let steady = !spec.abilities.is_movable() && !spec.abilities.load;
            let state = match spec.at_start {
                AtStart::Unknown if !steady => WorkerState::Unknown,
                AtStart::Unknown | AtStart::Resident => WorkerState::Resident,
                AtStart::Stopped => WorkerState::Stopped,
            };
            let entry = Entry {
                state,
                since: now.0,
                entered: now.1,
                used: None,
                worked: false,
                clings: false,
                came_with: None,
                sound: true,
                suspected: 0,
                owed: settings.restores
                    && spec.residency > Residency::OnDemand
                    && state != WorkerState::Resident,
                failures: 0,
                retry_at: None,
                tried: Tried::default(),
                spec,
            };
            (entry.spec.id.clone(), entry)
        };
        let entries = workers.into_iter().map(entry).collect();
        Self { entries, order, ledger, paces: Paces::default(), limit, margin }
    }

    /// In the order of the configuration.
    pub(super) fn all(&self) -> impl Iterator<Item = &Entry> {
        self.order.iter().filter_map(|id| self.entries.get(id))
    }

    pub(super) fn state(&self, worker: &WorkerId) -> WorkerState {
        self.entries.get(worker).map_or(WorkerState::Unknown, |entry| entry.state)
    }

    /// The only setter of a state.
    pub(super) fn enter(&mut self, worker: &WorkerId, state: WorkerState, now: (UnixTime, Instant)) {
        let Some(entry) = self.entries.get_mut(worker) else { return };
        if entry.state != state {
            (entry.state, entry.since, entry.entered) = (state, now.0, now.1);
        }
        let came_with = entry.came_with.take_if(|_| state != WorkerState::Unknown);
        if state == WorkerState::Resident {
            (entry.owed, entry.failures, entry.retry_at) = (false, 0, None);
            if let Some(held) = came_with {
                self.ledger.saw_resident(worker, held);
            }
        }
        let Some(entry) = self.entries.get_mut(worker) else { return };
        if matches!(state, WorkerState::Unloaded | WorkerState::Stopped) {
            entry.worked = false;
        }
    }

    /// The first of a kind, or the one named.
    pub(super) fn find(&self, tenant: Tenant, worker: Option<&WorkerId>) -> Option<&Entry> {
        match worker {
            Some(worker) => self.entries.get(worker),
            None => self.all().find(|entry| entry.spec.tenant == tenant),
        }
    }

    /// A new hand-off: every way is open again, but for those after which a worker did not work.
    pub(super) fn forget_tries(&mut self) {
        for entry in self.entries.values_mut() {
            entry.tried = Tried { out: 0, into: entry.suspected.saturating_sub(1).min(2) };
            entry.clings = false;
            entry.came_with = None;
        }
    }

    /// What a worker is to come for: its work, or nothing but to be there.
    pub(super) fn want(&self, worker: &WorkerId, stage: Option<&Stage>) -> Wanted {
        Wanted { worker: worker.clone(), need: self.ledger.peak(worker, stage), reach: Reach::AllButPinned }
    }

    pub(super) fn want_back(&self, worker: &WorkerId) -> Wanted {
        let class = self.entries.get(worker).map_or(Residency::OnDemand, |entry| entry.spec.residency);
        let need = self.ledger.amounts(worker).resident;
        Wanted { worker: worker.clone(), need, reach: Reach::Below(class) }
    }

    /// As much of the card as may be used.
    pub(super) fn limit(&self, reading: Option<&Reading>) -> MiB {
        let total = reading.map_or(MiB(u64::MAX), Reading::total);
        self.limit.map_or(total, |limit| limit.min(total))
    }

    /// What is free of it.
    pub(super) fn free(&self, reading: &Reading) -> MiB {
        self.limit(Some(reading)).saturating_sub(reading.used())
    }

    /// What a worker holds by what is known of its state.
    fn believed(&self, entry: &Entry, at_work: Option<&AtWork<'_>>) -> MiB {
        let Amounts { resident, context, .. } = self.ledger.amounts(&entry.spec.id);
        if let Some(work) = at_work.filter(|work| *work.worker == entry.spec.id) {
            return self.ledger.peak(work.worker, work.stage);
        }
        match entry.state {
            WorkerState::Unloaded => context,
            WorkerState::Stopped => MiB::ZERO,
            // As much as it can be.
            _ => resident,
        }
    }

    /// What each worker holds, and what nobody we know does. Whatever may be another's is not taken to
    /// be the wanted one's, which it could use.
    fn holdings(
        &self,
        reading: Option<&Reading>,
        at_work: Option<&AtWork<'_>>,
        wanted: Option<&WorkerId>,
    ) -> (BTreeMap<&WorkerId, MiB>, MiB) {
        let mut held: BTreeMap<&WorkerId, MiB> = BTreeMap::new();
        for (id, entry) in &self.entries {
            let believed = self.believed(entry, at_work);
            let measured = reading.and_then(|reading| reading.held_by(id));
            let works = at_work.is_some_and(|work| work.worker == id);
            held.insert(
                id,
                match measured {
                    Some(measured) if works => measured.max(believed),
                    Some(measured) => measured,
                    None => believed,
                },
            );
        }
        let Some(reading) = reading else { return (held, MiB::ZERO) };
        let known: MiB = held.values().copied().sum();
        let mut foreign = reading.used().saturating_sub(known);
        if reading.processes().is_none() {
            // What nobody accounts for is most likely kept by those who worked, and is theirs for now
            // if a cleanup did not free it; or by one of whom nothing is known.
            let may_keep = |entry: &&Entry| match entry.state {
                WorkerState::Unloaded | WorkerState::Stopped => false,
                WorkerState::Resident => entry.worked || entry.clings,
                _ => true,
            };
            let mut keepers: Vec<&Entry> = self.entries.values().filter(may_keep).collect();
            keepers.sort_by_key(|entry| wanted == Some(&entry.spec.id));
            for entry in keepers {
                let id = &entry.spec.id;
                if let Some(held) = held.get_mut(id) {
                    let cached = foreign.min(self.ledger.amounts(id).peak.saturating_sub(*held));
                    *held = held.saturating_add(cached);
                    foreign = foreign.saturating_sub(cached);
                }
            }
        }
        (held, foreign)
    }

    /// How the workers stand, and what there is to give out.
    pub(super) fn situation(&self, scene: &Scene<'_>, wanted: &WorkerId) -> (Vec<Standing>, Budget) {
        let (held, foreign) = self.holdings(scene.reading, scene.at_work, Some(wanted));
        let standing = |entry: &Entry| {
            let id = &entry.spec.id;
            let held = held.get(id).copied().unwrap_or_default();
            let Amounts { resident, context, .. } = self.ledger.amounts(id);
            Standing {
                worker: id.clone(),
                residency: entry.spec.residency,
                state: entry.state,
                abilities: entry.spec.abilities,
                held,
                // What a cleanup left is not freed by another one.
                resident: if entry.clings { held.max(resident) } else { resident },
                context,
                in_use: scene.at_work.is_some_and(|work| work.worker == id),
                due_in: scene.due_in(entry.spec.tenant),
                idle: entry.used.map_or(Duration::MAX, |used| scene.now.saturating_duration_since(used)),
                tried: entry.tried,
            }
        };
        let budget =
            Budget { limit: self.limit(scene.reading), margin: self.margin, foreign, looked: scene.looked };
        (self.all().map(standing).collect(), budget)
    }

    /// Takes in what a probe shows of workers at rest: where those are that nobody knew of, and what
    /// they hold.
    pub(super) fn take_in(
        &mut self,
        reading: &Reading,
        at_work: Option<&WorkerId>,
        now: (UnixTime, Instant),
    ) {
        let ids: Vec<WorkerId> = self.entries.keys().filter(|id| Some(*id) != at_work).cloned().collect();
        for id in ids {
            let Some(held) = reading.held_by(&id) else { continue };
            let amounts = self.ledger.amounts(&id);
            let Some(entry) = self.entries.get(&id) else { continue };
            let settled = now.1.saturating_duration_since(entry.entered) >= SETTLED;
            let Abilities { unload, canary, .. } = entry.spec.abilities;
            // Its memory was no proof the last time.
            let proves = canary || entry.suspected < 2;
            // Less may be half of it; more may be what it worked with.
            let rests = if held < amounts.resident { canary || entry.sound } else { !entry.worked };
            // Enough to tell by it where a worker is.
            let tells = amounts.moves() > TOLERANCE;
            let loaded = held >= amounts.context.saturating_add(MiB(amounts.moves().0 / 2));
            // One with a canary must sing before it counts as there.
            let there = if canary { WorkerState::Unknown } else { WorkerState::Resident };
            let away = if unload { WorkerState::Unloaded } else { WorkerState::Unknown };
            match entry.state {
                WorkerState::Unknown if tells && (proves || !loaded) => {
                    self.enter(&id, if loaded { there } else { away }, now)
                }
                WorkerState::Unloaded if tells && settled && loaded => self.enter(&id, there, now),
                // It may have died, which its next load shows.
                WorkerState::Resident if tells && settled && !loaded => {
                    self.enter(&id, away, now);
                    if let Some(entry) = self.entries.get_mut(&id) {
                        entry.owed = true;
                    }
                }
                WorkerState::Unloaded if settled => self.ledger.saw_context(&id, held),
                WorkerState::Resident if settled && rests => self.ledger.saw_resident(&id, held),
                WorkerState::Resident => self.ledger.saw_at_work(&id, None, held),
                _ => {}
            }
        }
    }

    /// A lease begins.
    pub(super) fn goes_to_work(&mut self, worker: &WorkerId, now: (UnixTime, Instant)) {
        // One that loads by itself does so now.
        self.enter(worker, WorkerState::Resident, now);
        if let Some(entry) = self.entries.get_mut(worker) {
            entry.worked = true;
        }
    }

    /// A lease has ended with the worker at rest; whether it does not do as it should.
    pub(super) fn answered(&mut self, worker: &WorkerId, suspect: bool) {
        if let Some(entry) = self.entries.get_mut(worker) {
            entry.suspected = if suspect { entry.suspected.saturating_add(1) } else { 0 };
            entry.sound |= !suspect;
        }
    }

    /// A lease has ended.
    pub(super) fn rests(&mut self, worker: &WorkerId, now: Instant) {
        if let Some(entry) = self.entries.get_mut(worker) {
            entry.used = Some(now);
        }
    }

    /// It may not be where it was, or not work: it is looked at before it is used, and soon.
    pub(super) fn doubt(&mut self, worker: &WorkerId, now: (UnixTime, Instant)) {
        let Some(entry) = self.entries.get_mut(worker) else { return };
        let Abilities { unload, load, process, canary, .. } = entry.spec.abilities;
        // Where nothing can be done there is nothing to find out.
        if (unload || load || process || canary) && !matches!(entry.state, WorkerState::Failed { .. }) {
            entry.owed = true;
            entry.retry_at = None;
            self.enter(worker, WorkerState::Unknown, now);
        }
    }

    /// One that moves others by itself has worked.
    pub(super) fn doubt_others_of(&mut self, worker: &WorkerId, now: (UnixTime, Instant)) {
        if self.entries.get(worker).is_some_and(|entry| entry.spec.self_coordinating) {
            let moved = |entry: &&Entry| entry.spec.id != *worker && entry.state == WorkerState::Resident;
            let others: Vec<WorkerId> = self.all().filter(moved).map(|entry| entry.spec.id.clone()).collect();
            for other in others {
                self.doubt(&other, now);
            }
        }
    }

    /// Who is to come back and may be tried now, the dearest first.
    pub(super) fn owed(&self, now: Instant) -> Option<WorkerId> {
        let due = |entry: &&Entry| entry.owed && entry.retry_at.is_none_or(|at| at <= now);
        // The first of the dearest: the last of the greatest, counted from behind.
        let owed: Vec<&Entry> = self.all().filter(due).collect();
        owed.into_iter().rev().max_by_key(|entry| entry.spec.residency).map(|entry| entry.spec.id.clone())
    }

    /// When somebody is to be tried again.
    pub(super) fn next_retry(&self, now: Instant) -> Option<Instant> {
        let owed = self.entries.values().filter(|entry| entry.owed);
        owed.filter_map(|entry| entry.retry_at).filter(|at| *at > now).min()
    }

    /// What each worker holds.
    pub(super) fn held(&self, reading: Option<&Reading>) -> BTreeMap<&WorkerId, MiB> {
        self.holdings(reading, None, None).0
    }

    /// How the workers would stand if all were there.
    pub(super) fn all_resident(&self) -> Vec<Standing> {
        let there = |entry: &Entry| {
            let Amounts { resident, context, .. } = self.ledger.amounts(&entry.spec.id);
            Standing {
                worker: entry.spec.id.clone(),
                residency: entry.spec.residency,
                state: WorkerState::Resident,
                abilities: entry.spec.abilities,
                held: resident,
                resident,
                context,
                in_use: false,
                due_in: Duration::MAX,
                idle: Duration::MAX,
                tried: Tried::default(),
            }
        };
        self.all().map(there).collect()
    }

    /// Whether each worker could work without anybody leaving.
    pub(super) fn all_fit(&self, limit: MiB) -> bool {
        let amounts: Vec<Amounts> = self.entries.keys().map(|id| self.ledger.amounts(id)).collect();
        let resident: MiB = amounts.iter().map(|amounts| amounts.resident).sum();
        let most = amounts.iter().map(|amounts| amounts.peak.saturating_sub(amounts.resident)).max();
        let needed = resident.saturating_add(most.unwrap_or_default()).saturating_add(self.margin);
        needed <= limit
    }

    /// What a move usually takes, if it was seen: by the first of these verbs that was, with its proof.
    pub(super) fn measured(&self, worker: &WorkerId, verbs: [Act; 2], proof: Act) -> Option<Duration> {
        let verb = verbs.into_iter().find_map(|verb| self.paces.usual(worker, verb))?;
        Some(verb + self.paces.usual(worker, proof).unwrap_or_default())
    }

    /// Whether a worker that stays silent holds no more than at rest.
    pub(super) fn is_at_rest(&self, worker: &WorkerId, reading: &Reading) -> bool {
        let resident = self.ledger.amounts(worker).resident;
        if let Some(held) = reading.held_by(worker) {
            return held <= resident.saturating_add(TOLERANCE);
        }
        let known: MiB = self.entries.values().map(|entry| self.believed(entry, None)).sum();
        reading.used() <= known.saturating_add(TOLERANCE)
    }

    /// What it takes to bring a worker in, as far as is known.
    pub(super) fn coming(&self, worker: &WorkerId) -> Duration {
        self.measured(worker, [Act::Load, Act::Start], Act::Filled).unwrap_or(USUAL_MOVE)
    }

    /// What it takes to make it leave.
    pub(super) fn leaving(&self, worker: &WorkerId) -> Duration {
        self.measured(worker, [Act::Unload, Act::Stop], Act::Freed).unwrap_or(USUAL_MOVE)
    }
}

/// Who is at work while others are moved.
#[derive(Debug, Clone, Copy)]
pub(super) struct AtWork<'a> {
    pub(super) worker: &'a WorkerId,
    pub(super) stage: Option<&'a Stage>,
}

/// The moment for which a situation is drawn up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) now: Instant,
    /// `None`: by the book alone.
    pub(super) reading: Option<&'a Reading>,
    /// The card was just looked at, or cannot be.
    pub(super) looked: bool,
    pub(super) at_work: Option<&'a AtWork<'a>>,
    pub(super) forecast: Option<(Instant, Forecast)>,
}

impl Scene<'_> {
    /// When a worker of this kind is needed next, as far as is known.
    fn due_in(&self, tenant: Tenant) -> Duration {
        let Some((at, forecast)) = self.forecast else { return Duration::MAX };
        let generation = match forecast.queued_generations {
            0 => forecast.next_generation_in.map(|wait| {
                let due = at.checked_add(wait).unwrap_or(at);
                due.saturating_duration_since(self.now)
            }),
            _ => Some(Duration::ZERO),
        };
        match tenant {
            Tenant::Generator => generation.unwrap_or(Duration::MAX),
            Tenant::Scorer if forecast.queued_scorings > 0 => Duration::ZERO,
            // What is made is scored.
            Tenant::Scorer => generation.unwrap_or(Duration::MAX),
            Tenant::Enhancer => Duration::MAX,
        }
    }
}
