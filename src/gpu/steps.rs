//! Steps of a hand-off, and their proofs.
//!
//! What a verb says counts for nothing where the card can be seen: a step is done when the memory has
//! moved by about the known amount and enough is free, looked at as soon as the verb returns and then
//! after 2, 5, 10, 20, 50, 50 ... ms. Where nothing measures the card, what the verbs say is believed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::book::about;
use super::effects::{EffectError, Song};
use super::keeper::Keeper;
use super::pace::Act;
use super::plan::Step;
use super::reading::Reading;
use super::worker::{WorkerId, WorkerState};
use crate::primitives::MiB;

/// No look at a card takes longer.
const LOOK: Duration = Duration::from_secs(2);

/// Between looks while a proof is waited for, in milliseconds; the last one repeats.
const SCHEDULE: [u64; 5] = [2, 5, 10, 20, 50];

/// How long what a verb refused to do is looked for all the same.
const REFUSED: Duration = Duration::from_millis(500);

/// How long the rest of what was freed is waited for.
pub(super) const TAIL: Duration = Duration::from_secs(1);

/// Amounts closer than this are the same one again.
const AGAIN: MiB = MiB(100);

/// What a look at the card gave.
#[derive(Debug)]
pub(super) enum Sight {
    Seen(Reading),
    /// Nothing measures it.
    Unmeasured,
    Blind(EffectError),
}

impl Sight {
    pub(super) fn reading(&self) -> Option<&Reading> {
        match self {
            Self::Seen(reading) => Some(reading),
            Self::Unmeasured | Self::Blind(_) => None,
        }
    }
}

/// Why a step was not proven.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error("{0}")]
    Effect(#[from] EffectError),
    #[error("it said it was done, and the memory did not move as it should in {0:?}")]
    Unproven(Duration),
    #[error("only {free} are free where {need} are needed")]
    NoRoom { free: MiB, need: MiB },
    #[error("it does not score what it scored before")]
    Silent,
}

/// What shows that a step was done.
#[derive(Debug, Clone, Copy)]
struct Proof<'a> {
    worker: &'a WorkerId,
    before: Option<&'a Reading>,
    outwards: bool,
    /// What the worker is believed to hold at first, and holds in the end.
    from: MiB,
    ends_at: MiB,
    /// By how much the memory of the whole card moves; `None`: nobody knows.
    moves: Option<MiB>,
    /// Free in the end.
    free: Option<MiB>,
}

/// What of a proof a look shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shown {
    moved: bool,
    /// Too little, but more than half.
    partly: bool,
    free: bool,
}

impl Keeper {
    /// Looks at the card.
    pub(super) async fn look(&mut self) -> Sight {
        let Some(effects) = self.effects.clone() else { return Sight::Unmeasured };
        let sight = match timeout(LOOK, effects.probe()).await {
            Ok(Ok(Some(reading))) => Sight::Seen(reading),
            Ok(Ok(None)) => Sight::Unmeasured,
            Ok(Err(error)) => Sight::Blind(error),
            Err(_) => Sight::Blind(EffectError::TimedOut(LOOK)),
        };
        match &sight {
            Sight::Seen(reading) => self.reading = Some(reading.clone()),
            Sight::Unmeasured => self.reading = None,
            Sight::Blind(_) => {}
        }
        self.looked_at = self.clock.instant();
        let lost = matches!(sight, Sight::Blind(EffectError::CardLost(_)));
        if lost && !self.is_lost {
            tracing::error!(alarm = "card_lost", card = %self.card, "The driver no longer knows the card");
        }
        self.is_lost = lost || (self.is_lost && matches!(sight, Sight::Blind(_)));
        sight
    }

    pub(super) async fn perform(
        &mut self,
        step: &Step,
        wanted: &WorkerId,
        goal: Option<MiB>,
    ) -> Result<(), StepError> {
        match step {
            Step::Probe => Ok(()),
            Step::Canary(_) => self.sing(step).await,
            Step::Cleanup(worker) => {
                let answer = self.call(step).await;
                if let Some(entry) = self.book.entries.get_mut(worker) {
                    (entry.clings, entry.worked) = (true, false);
                }
                if answer.is_ok()
                    && let Some(goal) = goal
                {
                    self.wait_for_room(goal, TAIL).await;
                }
                // What it did shows in the next plan.
                Ok(())
            }
            // Whatever is left of it goes before it comes anew.
            Step::Unload(worker) if worker == wanted => {
                self.clear(step, worker).await;
                Ok(())
            }
            Step::Unload(worker) | Step::Stop(worker) => self.drive_out(step, worker, goal).await,
            Step::Load(worker) | Step::Start(worker) => self.drive_in(step, worker).await,
        }
    }

    /// Has a worker drop whatever is left of it before it is loaded anew. If it says that it did it
    /// counts as unloaded: its load must then show.
    async fn clear(&mut self, step: &Step, worker: &WorkerId) {
        let sight = self.look().await;
        let now = self.now();
        self.book.enter(worker, WorkerState::Unknown, now);
        let amounts = self.book.ledger.amounts(worker);
        let answer = self.call(step).await;
        if answer.is_err() {
            return;
        }
        let proof = Proof {
            worker,
            before: sight.reading(),
            outwards: true,
            from: amounts.resident,
            ends_at: amounts.context,
            moves: Some(amounts.moves()),
            free: None,
        };
        // If nothing was left of it, nothing shows.
        drop(self.prove(&proof, answer, Act::Freed, TAIL).await);
        let now = self.now();
        self.book.enter(worker, WorkerState::Unloaded, now);
    }

    pub(super) async fn drive_out(
        &mut self,
        step: &Step,
        worker: &WorkerId,
        goal: Option<MiB>,
    ) -> Result<(), StepError> {
        let sight = self.look().await;
        let was = self.book.state(worker);
        let held = self.book.held(sight.reading()).get(worker).copied().unwrap_or_default();
        let context = self.book.ledger.amounts(worker).context;
        let (ends_at, then) = match step {
            Step::Stop(_) => (MiB::ZERO, WorkerState::Stopped),
            _ => (context, WorkerState::Unloaded),
        };
        let now = self.now();
        self.book.enter(worker, WorkerState::Unknown, now);
        if let Some(entry) = self.book.entries.get_mut(worker) {
            entry.owed |= matches!(was, WorkerState::Resident | WorkerState::Unknown);
        }
        let proof = Proof {
            worker,
            before: sight.reading(),
            outwards: true,
            from: held,
            ends_at,
            // One that may have died holds nothing that could go.
            moves: (!matches!(was, WorkerState::Unknown | WorkerState::Failed { .. }))
                .then(|| held.saturating_sub(ends_at)),
            free: goal,
        };
        let answer = self.call(step).await;
        self.prove(&proof, answer, Act::Freed, Duration::MAX).await?;
        let now = self.now();
        self.book.enter(worker, then, now);
        Ok(())
    }

    async fn drive_in(&mut self, step: &Step, worker: &WorkerId) -> Result<(), StepError> {
        let was = self.book.state(worker);
        let resident = self.book.ledger.amounts(worker).resident;
        let sight = self.look().await;
        let held = match was {
            // Its models may have gone and may be there still, which then make room for themselves.
            WorkerState::Unknown | WorkerState::Failed { .. } => {
                sight.reading().and_then(|reading| reading.held_by(worker)).unwrap_or(resident)
            }
            _ => self.book.held(sight.reading()).get(worker).copied().unwrap_or_default(),
        };
        let need = resident.saturating_sub(held).saturating_add(self.settings.margin);
        if let Some(free) = self.wait_for_room(need, TAIL).await
            && free < need
        {
            return Err(StepError::NoRoom { free, need });
        }
        let sight = self.look().await;
        let now = self.now();
        self.book.enter(worker, WorkerState::Unknown, now);
        let known = matches!(was, WorkerState::Unloaded | WorkerState::Stopped) && resident > MiB::ZERO;
        let proof = Proof {
            worker,
            before: sight.reading(),
            outwards: false,
            from: held,
            ends_at: resident,
            moves: known.then(|| resident.saturating_sub(held)),
            free: None,
        };
        let answer = self.call(step).await;
        self.prove(&proof, answer, Act::Filled, Duration::MAX).await?;
        let now = self.now();
        if let Some(entry) = self.book.entries.get_mut(worker) {
            (entry.worked, entry.sound) = (false, false);
            // One with a canary must sing first.
            if !entry.spec.abilities.canary {
                self.book.enter(worker, WorkerState::Resident, now);
            }
        }
        Ok(())
    }

    pub(super) async fn sing(&mut self, step: &Step) -> Result<(), StepError> {
        let (Some(effects), Some(worker)) = (self.effects.clone(), step.worker()) else { return Ok(()) };
        self.next_step_begins();
        let budget = self.book.paces.budget(worker, Act::Canary);
        let began = self.clock.instant();
        let song = timeout(budget, effects.canary(worker)).await;
        match song {
            Ok(Ok(Song::Silent)) => return Err(StepError::Silent),
            Ok(Ok(Song::Sings)) => self.book.paces.took(worker, Act::Canary, began.elapsed()),
            Ok(Ok(Song::NoneKept)) => {
                tracing::info!(card = %self.card, %worker, "Nothing is known to score yet, so a scorer is believed");
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {
                self.book.paces.overran(worker, Act::Canary);
                return Err(EffectError::TimedOut(budget).into());
            }
        }
        let now = self.now();
        self.shown_at = Some(now.1);
        self.book.enter(worker, WorkerState::Resident, now);
        Ok(())
    }

    /// What came between a step and the next one, or the end, was ours.
    pub(super) fn next_step_begins(&mut self) {
        if let Some(at) = self.shown_at.take() {
            self.lags.observe(self.clock.instant() - at);
        }
    }

    /// Tells a worker to do something, and waits for its answer.
    pub(super) async fn call(&mut self, step: &Step) -> Result<(), EffectError> {
        let (Some(effects), Some(act)) = (self.effects.clone(), Act::of(step)) else { return Ok(()) };
        let Some(worker) = step.worker() else { return Ok(()) };
        self.next_step_begins();
        let budget = self.book.paces.budget(worker, act);
        let began = self.clock.instant();
        let effects = Arc::clone(&effects);
        let answer = timeout(budget, async {
            match step {
                Step::Unload(_) => effects.unload(worker).await,
                Step::Load(_) => effects.load(worker).await,
                Step::Cleanup(_) => effects.cleanup(worker).await,
                Step::Start(_) => effects.start(worker).await,
                Step::Stop(_) => effects.stop(worker).await,
                Step::Probe | Step::Canary(_) => Ok(()),
            }
        });
        match answer.await {
            Ok(Ok(())) => {
                self.book.paces.took(worker, act, began.elapsed());
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                self.book.paces.overran(worker, act);
                Err(EffectError::TimedOut(budget))
            }
        }
    }

    /// Looks until the step shows, or for as long as it may take.
    async fn prove(
        &mut self,
        proof: &Proof<'_>,
        answer: Result<(), EffectError>,
        act: Act,
        most: Duration,
    ) -> Result<(), StepError> {
        let began = self.clock.instant();
        let learned = self.book.paces.budget(proof.worker, act).min(most);
        let budget = match &answer {
            // It may have done it, or be about to.
            Ok(()) | Err(EffectError::TimedOut(_)) => learned,
            Err(_) => learned.min(REFUSED),
        };
        let mut moved_at: Option<Instant> = None;
        let mut waits = SCHEDULE.into_iter().chain(std::iter::repeat(SCHEDULE[SCHEDULE.len() - 1]));
        loop {
            let looked_at = self.clock.instant();
            let sight = self.look().await;
            let waited = began.elapsed();
            let shown = match &sight {
                Sight::Seen(reading) => self.shown(proof, reading, answer.is_ok()),
                Sight::Unmeasured => return answer.map_err(StepError::from),
                Sight::Blind(_) => Shown { moved: false, partly: false, free: false },
            };
            if shown.moved {
                moved_at.get_or_insert(began + waited);
            } else {
                moved_at = None;
            }
            let tail = moved_at.is_some_and(|at| at.elapsed() >= TAIL);
            if shown.moved && (shown.free || tail || waited >= budget) {
                self.book.paces.took(proof.worker, act, waited);
                self.shown_at = Some(looked_at);
                if !proof.outwards {
                    self.correct(proof, sight.reading());
                }
                return Ok(());
            }
            if waited >= budget {
                if shown.partly && shown.free && answer.is_ok() {
                    // It holds less than was declared, or keeps more, unless only half of it came.
                    let before = self.book.entries.get(proof.worker).and_then(|entry| entry.came_with);
                    self.correct(proof, sight.reading());
                    if proof.outwards || self.is_all_of_it(proof.worker, before) {
                        return Ok(());
                    }
                }
                if answer.is_ok() && most > budget {
                    self.book.paces.overran(proof.worker, act);
                }
                if let (Ok(()), Sight::Blind(error)) = (&answer, sight) {
                    return Err(error.into());
                }
                return Err(answer.err().map_or(StepError::Unproven(waited), StepError::from));
            }
            let wait = Duration::from_millis(waits.next().unwrap_or(50));
            self.clock.sleep(wait.min(budget - waited)).await;
        }
    }

    fn shown(&self, proof: &Proof<'_>, now: &Reading, answered: bool) -> Shown {
        let free = proof.free.is_none_or(|need| self.book.free(now) >= need);
        if let Some(held) = now.held_by(proof.worker) {
            let amounts = self.book.ledger.amounts(proof.worker);
            let slack = about(amounts.moves());
            let moved = match (proof.outwards, proof.ends_at) {
                (true, MiB::ZERO) => held == MiB::ZERO,
                (true, end) => held <= end.saturating_add(about(end)),
                (false, end) => held.saturating_add(slack) >= end,
            };
            let before = proof.before.and_then(|before| before.held_by(proof.worker)).unwrap_or(proof.from);
            let (by, whole) = match proof.outwards {
                true => (before.saturating_sub(held), before.saturating_sub(proof.ends_at)),
                false => (held.saturating_sub(before), proof.ends_at.saturating_sub(before)),
            };
            // A process that goes leaves nothing.
            let partly = by.0 * 2 > whole.0 && (!proof.outwards || proof.ends_at > MiB::ZERO);
            return Shown { moved, partly, free };
        }
        let (Some(before), Some(amount)) = (proof.before, proof.moves) else {
            // Nobody knows how much: what is free must do, and the worker's word.
            return Shown { moved: answered && (proof.free.is_none() || free), partly: false, free };
        };
        let by = moved(proof, before, now);
        Shown { moved: by.saturating_add(about(amount)) >= amount, partly: by.0 * 2 > amount.0, free }
    }

    /// Whether less than expected is all there is: its canary will tell, or it was as much the last time.
    fn is_all_of_it(&self, worker: &WorkerId, before: Option<MiB>) -> bool {
        let Some(entry) = self.book.entries.get(worker) else { return false };
        let again =
            entry.came_with.zip(before).is_some_and(|(now, before)| now.0.abs_diff(before.0) < AGAIN.0);
        entry.spec.abilities.canary || again
    }

    /// Takes in what a proven move tells of the worker's amounts. Without it a belief that was once
    /// lowered by a look at a card on which others moved as well would stay low.
    fn correct(&mut self, proof: &Proof<'_>, now: Option<&Reading>) {
        let Some(now) = now else { return };
        let by = proof.before.filter(|_| proof.moves.is_some()).map(|before| moved(proof, before, now));
        let held = now.held_by(proof.worker);
        if !proof.outwards {
            // What came counts once it works: half of a scorer is soon found out.
            let came_with = held.or_else(|| Some(proof.from.saturating_add(by?)));
            if let Some(entry) = self.book.entries.get_mut(proof.worker) {
                entry.came_with = came_with;
            }
        } else if let Some(held) = held {
            self.book.ledger.saw_context(proof.worker, held);
        } else if let Some(by) = by {
            self.book.ledger.saw_resident(proof.worker, proof.ends_at.saturating_add(by));
        }
    }

    /// Waits until so much is free; says what is in the end, if that can be seen.
    async fn wait_for_room(&mut self, need: MiB, within: Duration) -> Option<MiB> {
        let began = self.clock.instant();
        let mut waits = SCHEDULE.into_iter().chain(std::iter::repeat(SCHEDULE[SCHEDULE.len() - 1]));
        loop {
            let sight = self.look().await;
            let free = match &sight {
                Sight::Unmeasured => return None,
                Sight::Seen(reading) => self.book.free(reading),
                Sight::Blind(_) => MiB::ZERO,
            };
            if free >= need || began.elapsed() >= within {
                return Some(free);
            }
            self.clock.sleep(Duration::from_millis(waits.next().unwrap_or(50))).await;
        }
    }
}

/// By how much the memory of the whole card has moved the way it should.
fn moved(proof: &Proof<'_>, before: &Reading, now: &Reading) -> MiB {
    match proof.outwards {
        true => before.used().saturating_sub(now.used()),
        false => now.used().saturating_sub(before.used()),
    }
}
