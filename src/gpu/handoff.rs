//! Hand-offs: intent, act, prove, commit.
//!
//! A step that is not proven leads to a new plan with the next way, never on into a card that is full.

use super::book::{AtWork, Scene};
use super::effects::{Cause, EffectError, HandoffId, Intent, LogError, StepTaken};
use super::keeper::Keeper;
use super::plan::{Budget, Plan, Reach, Step, Unplaceable, Urgency, Wanted, plan};
use super::steps::{Sight, StepError, TAIL};
use super::worker::{WorkerId, WorkerState};
use crate::primitives::MiB;

/// Plans made in one hand-off: each way of a few workers, and then some.
const ROUNDS: usize = 16;

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
        self.shown_at = None;
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
        self.next_step_begins();
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
            let (standings, budget) = self.book.situation(&scene, &want.worker);
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

    /// Whether a canary can spare the wanted one a reload.
    fn may_be_there(&self, worker: &WorkerId) -> bool {
        self.book.entries.get(worker).is_some_and(|entry| {
            entry.state() == WorkerState::Unknown && entry.spec.abilities.canary && entry.tried.into == 0
        })
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
}

/// Whether more may fit than the sums say: memory that nobody accounts for may be somebody's who goes.
fn may_be_wrong(want: &Wanted, budget: &Budget) -> bool {
    want.reach == Reach::AllButPinned && budget.looked && budget.foreign > MiB::ZERO
}

fn verbs(plan: &Plan) -> String {
    plan.steps.iter().map(Step::to_string).collect::<Vec<_>>().join(", ")
}
