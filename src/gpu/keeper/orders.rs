//! What a card's keeper is told to do: a person's orders, and the first look after a start.

use super::super::arbiter::{LeaseError, Order, Recovery};
use super::super::book::Entry;
use super::super::effects::{Cause, EffectError, OpenHandoff};
use super::super::handoff::HandoffError;
use super::super::plan::{Reach, Step, Wanted};
use super::super::steps::Sight;
use super::super::worker::{WorkerId, WorkerState};
use super::Keeper;
use crate::primitives::MiB;

impl Keeper {
    /// Does what a person has ordered.
    pub(super) async fn obey(&mut self, order: Order) -> Result<(), LeaseError> {
        let (Order::Load(worker)
        | Order::Unload(worker)
        | Order::Cleanup(worker)
        | Order::Start(worker)
        | Order::Stop(worker)
        | Order::Restart(worker)) = order.clone()
        else {
            if self.effects.is_some() {
                self.look_around().await;
            }
            return Ok(());
        };
        let Some(entry) = self.book.entries.get(&worker).filter(|_| self.effects.is_some()) else {
            return Err(LeaseError::NoSuchWorker(worker));
        };
        let has_process = entry.spec.abilities.process;
        match order {
            Order::Unload(_) => self.unload(&worker).await?,
            Order::Start(_) if !has_process => {
                let why = format!("{}: {}", Step::Start(worker.clone()), EffectError::Unsupported);
                return Err(HandoffError::OutOfOrder { worker, why }.into());
            }
            Order::Cleanup(_) => self.alone(Step::Cleanup(worker.clone()), Cause::Order).await?,
            Order::Stop(_) | Order::Restart(_) => {
                self.alone(Step::Stop(worker.clone()), Cause::Order).await?;
            }
            Order::Look | Order::Load(_) | Order::Start(_) => {}
        }
        match order {
            Order::Load(_) | Order::Start(_) | Order::Restart(_) => {
                let want = Wanted { reach: Reach::AllButPinned, ..self.book.want_back(&worker) };
                self.hand_off(&want, Cause::Order).await?;
            }
            Order::Unload(_) | Order::Stop(_) => {
                // It was meant to.
                if let Some(entry) = self.book.entries.get_mut(&worker) {
                    entry.owed = false;
                }
            }
            Order::Look | Order::Cleanup(_) => {}
        }
        Ok(())
    }

    async fn unload(&mut self, worker: &WorkerId) -> Result<(), LeaseError> {
        let was = self.book.state(worker);
        let before = self.look().await;
        self.alone(Step::Unload(worker.clone()), Cause::Order).await?;
        let (Some(before), Sight::Seen(after)) = (before.reading(), self.look().await) else { return Ok(()) };
        // Of one of whom nothing was known a hand-off has to believe that it had gone before. A person
        // would rather hear that everything is as it was.
        let amounts = self.book.ledger.amounts(worker);
        let unmoved = before.used().saturating_sub(after.used()).0 * 2 < amounts.moves().0;
        let others = self.book.all().filter(|entry| entry.spec.id != *worker);
        let others: MiB = others.map(|entry| self.book.ledger.amounts(&entry.spec.id).resident).sum();
        let room =
            after.used().saturating_sub(others).0 * 2 >= amounts.context.saturating_add(amounts.resident).0;
        if was == WorkerState::Unknown && after.held_by(worker).is_none() && unmoved && room {
            self.book.enter(worker, WorkerState::Unknown, self.now());
            if let Some(entry) = self.book.entries.get_mut(worker) {
                // It has not left; bringing it in would be the contrary of what was ordered.
                entry.owed = false;
            }
            let why = format!(
                "it said it was done, and {} are in use as before: it held none of it, or did nothing",
                after.used()
            );
            return Err(HandoffError::OutOfOrder { worker: worker.clone(), why }.into());
        }
        Ok(())
    }

    /// Brings the card to a known state after a start.
    pub(super) async fn recover(&mut self, open: Vec<OpenHandoff>) -> Recovery {
        let now = self.now();
        for handoff in &open {
            for worker in handoff.evicted.iter().chain([&handoff.wanted]) {
                self.book.doubt(worker, now);
            }
        }
        let mut recovery = Recovery::default();
        if self.effects.is_some() {
            self.look_around().await;
            // Whether one with a canary is there is soon found out.
            let doubtful =
                |entry: &&Entry| entry.state() == WorkerState::Unknown && entry.spec.abilities.canary;
            let due = |entry: &&Entry| entry.owed || doubtful(entry);
            let expected: Vec<WorkerId> = self.book.all().filter(due).map(|e| e.spec.id.clone()).collect();
            for worker in expected {
                match self.bring_back(&worker, Cause::Recovery).await {
                    None => recovery.resident.push(worker),
                    Some(why) => recovery.missing.push((worker, why)),
                }
            }
        }
        for handoff in open {
            let why = "interrupted; the card was brought to a known state at the next start";
            if let Err(error) = self.log.fail(handoff.id, self.clock.now(), why.to_owned()).await {
                tracing::warn!(card = %self.card, %error, "A hand-off of an earlier run was not closed");
            }
        }
        recovery
    }
}
