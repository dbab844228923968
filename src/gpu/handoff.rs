//! Hand-offs: intent, act, prove, commit.
//!
//! What a verb says counts for nothing where the card can be seen: a step is done when the memory has
//! moved by about the known amount and enough is free, looked at as soon as the verb returns and then
//! after 2, 5, 10, 20, 50, 50 ... ms. A step that is not proven leads to a new plan with the next way,
//! never on into a card that is full. Where nothing measures the card, what the verbs say is believed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::book::{AtWork, Scene, about};
use super::effects::{Cause, EffectError, HandoffId, Intent, LogError, Song, StepTaken};
use super::keeper::Keeper;
use super::pace::Act;
use super::plan::{Budget, Plan, Reach, Step, Unplaceable, Urgency, Wanted, plan};
use super::reading::Reading;
use super::vigil::Glimpse;
use super::worker::{Stage, WorkerId, WorkerState};
use crate::primitives::MiB;

/// No look at a card takes longer.
const LOOK: Duration = Duration::from_secs(2);

/// Between looks while a proof is waited for, in milliseconds; the last one repeats.
const SCHEDULE: [u64; 5] = [2, 5, 10, 20, 50];

/// How long what a verb refused to do is looked for all the same.
const REFUSED: Duration = Duration::from_millis(500);

/// How long the rest of what was freed is waited for.
const TAIL: Duration = Duration::from_secs(1);

/// Plans made in one hand-off: each way of a few workers, and then some.
const ROUNDS: usize = 16;

/// How long there must have been room before somebody is brought back beside one at work.
const ROOM: Duration = Duration::from_millis(300);

/// Memory reserved for work shows within this time after a stage begins.
const STAGE: Duration = Duration::from_secs(3);

/// Why a hand-off was not made. Whoever left for it was brought back, or is out of order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandoffError {
    #[error(transparent)]
    Unplaceable(#[from] Unplaceable),
    /// It did not come by any way.
    #[error("{worker} does not do what it should: {why}")]
    OutOfOrder { worker: WorkerId, why: String },
    /// Nothing is moved on a card that cannot be seen.
    #[error("the card cannot be looked at: {0}")]
    Blind(EffectError),
    #[error("it was not settled after many plans: {0}")]
    Unsettled(String),
}

/// What a look at the card gave.
#[derive(Debug)]
pub(super) enum Sight {
    Seen(Reading),
    /// Nothing measures it.
    Unmeasured,
    Blind(EffectError),
}

impl Sight {
    fn reading(&self) -> Option<&Reading> {
        match self {
            Self::Seen(reading) => Some(reading),
            Self::Unmeasured | Self::Blind(_) => None,
        }
    }
}

/// Why a step was not proven.
#[derive(Debug, thiserror::Error)]
enum StepError {
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
    /// What the worker holds in the end.
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
    /// Brings the card into the state in which the wanted one can work. If that fails, whoever left
    /// for it is brought back first.
    pub(super) async fn hand_off(&mut self, want: &Wanted, cause: Cause) -> Result<(), HandoffError> {
        let result = self.attempt(want, cause, None).await;
        if result.is_err() {
            self.bring_back_all().await;
        }
        self.teach();
        result
    }

    pub(super) async fn bring_back_all(&mut self) {
        let owed: Vec<WorkerId> = self.book.all().filter(|e| e.owed).map(|e| e.spec.id.clone()).collect();
        for _ in owed {
            let Some(worker) = self.book.owed(self.clock.instant()) else { return };
            self.bring_back(&worker, Cause::Restore).await;
            if let Some(entry) = self.book.entries.get_mut(&worker)
                && entry.owed
            {
                // Each is tried once.
                let now = self.clock.instant();
                entry.retry_at = Some(entry.retry_at.unwrap_or(now).max(now + TAIL));
            }
        }
    }

    /// One transaction.
    pub(super) async fn attempt(
        &mut self,
        want: &Wanted,
        cause: Cause,
        at_work: Option<&AtWork<'_>>,
    ) -> Result<(), HandoffError> {
        self.book.forget_tries();
        let mut deal = None;
        let mut whys = Vec::new();
        let result = self.rounds(want, cause, at_work, &mut deal, &mut whys).await;
        let result = match result {
            Err(HandoffError::Unplaceable(Unplaceable::NoWay(worker))) => {
                let why =
                    if whys.is_empty() { "nothing can be done about it".into() } else { whys.join("; ") };
                self.give_up_on(&worker, &why);
                Err(HandoffError::OutOfOrder { worker, why })
            }
            Err(HandoffError::Unsettled(_)) => Err(HandoffError::Unsettled(whys.join("; "))),
            result => result,
        };
        if let Some(deal) = deal {
            self.swaps += 1;
            let at = self.clock.now();
            let written = match &result {
                Ok(()) => self.log.commit(deal, at).await,
                Err(error) => self.log.fail(deal, at, error.to_string()).await,
            };
            self.noted(written);
        }
        result
    }

    async fn rounds(
        &mut self,
        want: &Wanted,
        cause: Cause,
        at_work: Option<&AtWork<'_>>,
        deal: &mut Option<HandoffId>,
        whys: &mut Vec<String>,
    ) -> Result<(), HandoffError> {
        let mut urgency = Urgency::Usual;
        for _ in 0..ROUNDS {
            let sight = self.look().await;
            if let Sight::Blind(error @ EffectError::CardLost(_)) = sight {
                return Err(HandoffError::Blind(error));
            }
            if let Some(reading) = sight.reading() {
                let now = self.now();
                self.book.take_in(reading, at_work.map(|work| work.worker), now);
            }
            if !matches!(sight, Sight::Blind(_)) && self.may_be_there(&want.worker) {
                let step = Step::Canary(want.worker.clone());
                if let Err(error) = self.sing(&step).await {
                    whys.push(format!("{step}: {error}"));
                    self.failed_to_come(&want.worker, 0);
                }
            }
            let scene = Scene {
                now: self.clock.instant(),
                reading: sight.reading(),
                looked: !matches!(sight, Sight::Blind(_)),
                at_work,
                forecast: self.forecast(),
            };
            let (standings, budget) = self.book.situation(&scene);
            let planned = plan(&standings, want, &budget, urgency);
            self.last_plan = Some(match &planned {
                Ok(plan) if plan.is_nothing() => format!("nothing to move: {}", plan.before),
                Ok(plan) => format!("{}: {}", verbs(plan), plan.after),
                Err(error) => error.to_string(),
            });
            let made = match planned {
                Ok(made) if made.is_nothing() => return Ok(()),
                Ok(made) => made,
                Err(Unplaceable::NoRoom(_)) if urgency == Urgency::Usual && may_be_wrong(want, &budget) => {
                    urgency = Urgency::Emergency;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if let Sight::Blind(error) = sight {
                return Err(HandoffError::Blind(error));
            }
            urgency = Urgency::Usual;
            if deal.is_none() {
                *deal = self.begin(want, cause, &made).await;
            }
            let own = standings.iter().find(|standing| standing.worker == want.worker);
            let own = own.map_or(MiB::ZERO, |standing| standing.held);
            let free = want.need.saturating_sub(own).saturating_add(budget.margin);
            self.carry_out(&made, want, free, *deal, whys).await;
        }
        Err(HandoffError::Unsettled(String::new()))
    }

    /// Takes the steps of a plan up to the first that fails; that way is then closed.
    async fn carry_out(
        &mut self,
        made: &Plan,
        want: &Wanted,
        free: MiB,
        deal: Option<HandoffId>,
        whys: &mut Vec<String>,
    ) {
        let others = |step: &Step| step.worker().is_some_and(|worker| *worker != want.worker);
        let last = made.steps.iter().rposition(others).filter(|_| made.after.fits());
        for (number, step) in made.steps.iter().enumerate() {
            let began = self.clock.instant();
            let goal = (Some(number) == last).then_some(free);
            let done = self.perform(step, &want.worker, goal).await;
            let (took, failure) = (began.elapsed(), done.err().map(|error| error.to_string()));
            if let Some(deal) = deal {
                let step = step.clone();
                let taken = StepTaken { step, at: self.clock.now(), took, failure: failure.clone() };
                let written = self.log.step(deal, taken).await;
                self.noted(written);
            }
            let (Some(why), Some(worker)) = (failure, step.worker()) else { continue };
            tracing::debug!(card = %self.card, %step, why, "A step of a hand-off was not proven");
            whys.push(format!("{step}: {why}"));
            let way = made.ways.iter().find(|(id, _)| id == worker).map_or(u8::MAX, |(_, way)| *way);
            if *worker == want.worker {
                self.failed_to_come(worker, way);
            } else if let Some(entry) = self.book.entries.get_mut(worker) {
                entry.tried.out = way.saturating_add(1);
            }
            return;
        }
    }

    fn failed_to_come(&mut self, worker: &WorkerId, way: u8) {
        let now = self.now();
        self.book.enter(worker, WorkerState::Unknown, now);
        if let Some(entry) = self.book.entries.get_mut(worker) {
            entry.tried.into = way.saturating_add(1);
        }
    }

    async fn begin(&mut self, want: &Wanted, cause: Cause, made: &Plan) -> Option<HandoffId> {
        let intent = Intent {
            card: self.card.clone(),
            at: self.clock.now(),
            cause,
            wanted: want.worker.clone(),
            evicted: made.evicted.clone(),
        };
        let begun = self.log.begin(intent).await;
        match begun {
            Ok(deal) => Some(deal),
            Err(error) => {
                // A start looks at the card whatever the journal says.
                self.noted(Err(error));
                None
            }
        }
    }

    fn noted(&self, written: Result<(), LogError>) {
        if let Err(error) = written {
            tracing::warn!(card = %self.card, %error, "A hand-off was not written down");
        }
    }

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
        let lost = matches!(sight, Sight::Blind(EffectError::CardLost(_)));
        if lost && !self.is_lost {
            tracing::error!(alarm = "card_lost", card = %self.card, "The driver no longer knows the card");
        }
        self.is_lost = lost || (self.is_lost && matches!(sight, Sight::Blind(_)));
        sight
    }

    /// Whether a canary can spare the wanted one a reload.
    fn may_be_there(&self, worker: &WorkerId) -> bool {
        self.book.entries.get(worker).is_some_and(|entry| {
            entry.state() == WorkerState::Unknown && entry.spec.abilities.canary && entry.tried.into == 0
        })
    }

    async fn perform(&mut self, step: &Step, wanted: &WorkerId, goal: Option<MiB>) -> Result<(), StepError> {
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
                let now = self.now();
                self.book.enter(worker, WorkerState::Unknown, now);
                if let Err(error) = self.call(step).await {
                    tracing::debug!(card = %self.card, %step, %error, "Left as it is before it is loaded");
                }
                Ok(())
            }
            Step::Unload(worker) | Step::Stop(worker) => self.drive_out(step, worker, goal).await,
            Step::Load(worker) | Step::Start(worker) => self.drive_in(step, worker).await,
        }
    }

    async fn drive_out(
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
            ends_at,
            moves: (was != WorkerState::Unknown).then(|| held.saturating_sub(ends_at)),
            free: goal,
        };
        let answer = self.call(step).await;
        self.prove(&proof, answer, Act::Freed).await?;
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
            ends_at: resident,
            moves: known.then(|| resident.saturating_sub(held)),
            free: None,
        };
        let answer = self.call(step).await;
        self.prove(&proof, answer, Act::Filled).await?;
        let now = self.now();
        if let Some(entry) = self.book.entries.get_mut(worker) {
            entry.worked = false;
            // One with a canary must sing first.
            if !entry.spec.abilities.canary {
                self.book.enter(worker, WorkerState::Resident, now);
            }
        }
        Ok(())
    }

    async fn sing(&mut self, step: &Step) -> Result<(), StepError> {
        let (Some(effects), Some(worker)) = (self.effects.clone(), step.worker()) else { return Ok(()) };
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
        self.book.enter(worker, WorkerState::Resident, now);
        Ok(())
    }

    /// Tells a worker to do something, and waits for its answer.
    async fn call(&mut self, step: &Step) -> Result<(), EffectError> {
        let (Some(effects), Some(act)) = (self.effects.clone(), Act::of(step)) else { return Ok(()) };
        let Some(worker) = step.worker() else { return Ok(()) };
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
    ) -> Result<(), StepError> {
        let began = self.clock.instant();
        let learned = self.book.paces.budget(proof.worker, act);
        let budget = match &answer {
            // It may have done it, or be about to.
            Ok(()) | Err(EffectError::TimedOut(_)) => learned,
            Err(_) => learned.min(REFUSED),
        };
        let mut moved_at: Option<Instant> = None;
        let mut waits = SCHEDULE.into_iter().chain(std::iter::repeat(SCHEDULE[SCHEDULE.len() - 1]));
        loop {
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
                return Ok(());
            }
            if waited >= budget {
                if shown.partly && shown.free && answer.is_ok() {
                    // Less was declared to be there than is; the next looks correct that.
                    self.saw_less(proof, sight.reading());
                    return Ok(());
                }
                if answer.is_ok() {
                    self.book.paces.overran(proof.worker, act);
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
            return Shown { moved, partly: false, free };
        }
        let (Some(before), Some(amount)) = (proof.before, proof.moves) else {
            // Nobody knows how much: what is free must do, and the worker's word.
            return Shown { moved: answered && (proof.free.is_none() || free), partly: false, free };
        };
        let (from, to) =
            if proof.outwards { (before.used(), now.used()) } else { (now.used(), before.used()) };
        let by = from.saturating_sub(to);
        Shown { moved: by.saturating_add(about(amount)) >= amount, partly: by.0 * 2 >= amount.0, free }
    }

    fn saw_less(&mut self, proof: &Proof<'_>, now: Option<&Reading>) {
        let (Some(before), Some(now)) = (proof.before, now) else { return };
        let by = before.used().0.abs_diff(now.used().0);
        let context = self.book.ledger.amounts(proof.worker).context;
        self.book.ledger.saw_resident(proof.worker, context.saturating_add(MiB(by)));
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

    /// Brings somebody back beside a worker in its last stage, once there has been room for a while.
    pub(super) async fn bring_back_beside(&mut self, worker: &WorkerId, stage: &Stage) {
        let Some(owed) = self.book.owed(self.clock.instant()) else { return };
        let want = self.book.want_back(&owed);
        let began = self.clock.instant();
        let mut room_since: Option<Instant> = None;
        loop {
            let Sight::Seen(reading) = self.look().await else { return };
            let held = self.book.held(Some(&reading)).get(&owed).copied().unwrap_or_default();
            let need = want.need.saturating_sub(held).saturating_add(self.settings.margin);
            let now = self.clock.instant();
            if self.book.free(&reading) >= need {
                room_since.get_or_insert(now);
            } else {
                room_since = None;
            }
            if room_since.is_some_and(|since| now - since >= ROOM) {
                break;
            }
            if now - began >= STAGE || self.holder_has_ended() {
                return;
            }
            self.clock.sleep(Duration::from_millis(50)).await;
        }
        let at_work = AtWork { worker, stage: Some(stage) };
        if let Err(error) = self.attempt(&want, Cause::Restore, Some(&at_work)).await {
            tracing::debug!(card = %self.card, worker = %owed, %error, "Not brought back during the last stage");
        }
    }

    /// One step for its own sake, written down like any other.
    pub(super) async fn alone(&mut self, step: Step, cause: Cause) -> Result<(), HandoffError> {
        let Some(worker) = step.worker().cloned() else { return Ok(()) };
        let able = self.book.entries.get(&worker).is_some_and(|entry| {
            let abilities = entry.spec.abilities;
            match &step {
                Step::Unload(_) => abilities.unload,
                Step::Cleanup(_) => abilities.cleanup,
                Step::Stop(_) => abilities.process,
                _ => true,
            }
        });
        if !able {
            let why = format!("{step}: {}", EffectError::Unsupported);
            return Err(HandoffError::OutOfOrder { worker, why });
        }
        let evicted = vec![worker.clone()];
        let (card, at) = (self.card.clone(), self.clock.now());
        let begun = self.log.begin(Intent { card, at, cause, wanted: worker.clone(), evicted }).await;
        let deal = begun.map_err(|error| self.noted(Err(error))).ok();
        let began = self.clock.instant();
        let done = match &step {
            Step::Unload(_) | Step::Stop(_) => self.drive_out(&step, &worker, None).await,
            _ => self.call(&step).await.map_err(StepError::from),
        };
        let why = done.err().map(|error| format!("{step}: {error}"));
        if let Some(deal) = deal {
            let at = self.clock.now();
            let taken = StepTaken { step, at, took: began.elapsed(), failure: why.clone() };
            let written = self.log.step(deal, taken).await;
            self.noted(written);
            let written = match &why {
                None => self.log.commit(deal, at).await,
                Some(why) => self.log.fail(deal, at, why.clone()).await,
            };
            self.noted(written);
        }
        why.map_or(Ok(()), |why| Err(HandoffError::OutOfOrder { worker, why }))
    }

    /// Looks at a worker whose lease has ended.
    pub(super) async fn watch_over(&mut self) {
        let sight = self.look().await;
        let now = self.now();
        let Some(vigil) = &mut self.vigil else { return };
        let worker = vigil.worker.clone();
        let glimpse = match &sight {
            Sight::Seen(reading) => Some(Glimpse {
                at_rest: self.book.is_at_rest(&worker, reading),
                active: reading.is_active(),
                used: reading.used(),
            }),
            // Nobody can see, so whoever had the lease is believed.
            Sight::Unmeasured if vigil.line.is_none() => return self.end_vigil(),
            Sight::Blind(EffectError::CardLost(_)) => return self.end_vigil(),
            Sight::Unmeasured | Sight::Blind(_) => None,
        };
        if vigil.sees(glimpse, now.1) {
            return self.end_vigil();
        }
        if vigil.becomes_overdue(now.1) {
            tracing::error!(
                alarm = "lease_overdue", card = %self.card, %worker,
                "A worker is still at work although its lease is over; nobody gets the card before it ends"
            );
            self.book.enter(&worker, WorkerState::Overdue { since: now.0 }, now);
        }
        let process = self.book.entries.get(&worker).is_some_and(|entry| entry.spec.abilities.process);
        if process && vigil.stops(now.1) {
            let step = Step::Stop(worker.clone());
            match self.alone(step, Cause::Overdue).await {
                Ok(()) => {
                    tracing::warn!(card = %self.card, %worker, "A worker that did not end its work was stopped");
                    if let Some(entry) = self.book.entries.get_mut(&worker) {
                        entry.owed = true;
                    }
                    self.vigil = None;
                }
                Err(error) => {
                    tracing::warn!(card = %self.card, %worker, %error, "A worker that does not end its work could not be stopped");
                    let now = self.now();
                    self.book.enter(&worker, WorkerState::Overdue { since: now.0 }, now);
                }
            }
        }
    }

    /// The work has ended.
    pub(super) fn end_vigil(&mut self) {
        let now = self.now();
        if let Some(vigil) = self.vigil.take()
            && matches!(self.book.state(&vigil.worker), WorkerState::Overdue { .. })
        {
            self.book.enter(&vigil.worker, WorkerState::Resident, now);
        }
    }
}

/// Whether more may fit than the sums say: memory that nobody accounts for may be somebody's who goes.
fn may_be_wrong(want: &Wanted, budget: &Budget) -> bool {
    want.reach == Reach::AllButPinned && budget.looked && budget.foreign > MiB::ZERO
}

fn verbs(plan: &Plan) -> String {
    plan.steps.iter().map(Step::to_string).collect::<Vec<_>>().join(", ")
}
