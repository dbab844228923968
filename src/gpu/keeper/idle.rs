//! What a card's keeper does when nobody asks: bring back who left, make way ahead of time, look
//! around, and watch work that does not end.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::super::book::AtWork;
use super::super::effects::{Cause, EffectError};
use super::super::plan::Step;
use super::super::policy::{Leisure, Mode, Pastime, pastime};
use super::super::steps::Sight;
use super::super::vigil::{Glimpse, Vigil};
use super::super::worker::{Stage, Tenant, WorkerId, WorkerState};
use super::eye::ROOM;
use super::{Ask, Keeper, LeaseError, Said, Waiter};
use crate::net::Backoff;

/// Between attempts to bring in a worker that failed.
const RETRY: Backoff = match Backoff::try_new(Duration::from_secs(10), Duration::from_secs(600)) {
    Ok(backoff) => backoff,
    // Reached only while compiling the constants above.
    Err(_) => panic!("the constants make a backoff"),
};

/// Before somebody for whom there was no room is tried again.
const NO_ROOM: Duration = Duration::from_secs(10);

/// Between looks at a card that nobody uses.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// How long one waits for a card whose last lease does not end.
const OVERDUE_PATIENCE: Duration = Duration::from_secs(60);

/// Way is made so much ahead of what it usually takes: one that comes in time must not wait.
const EARLY: Duration = Duration::from_millis(100);

/// Memory reserved for work shows within this time after a stage begins.
const STAGE: Duration = Duration::from_secs(3);

impl Keeper {
    /// The holder says how far the work is.
    pub(super) async fn reached(&mut self, stage: Option<Stage>) {
        let Some((hold, stage)) = self.hold.as_ref().zip(stage) else { return };
        let Some(worker) = hold.worker.clone() else { return };
        let more = self.forecast().is_some_and(|(_, forecast)| forecast.queued_generations > 0);
        if self.settings.mode == Mode::Auto && !more && self.book.ledger.is_last_stage(&worker, &stage) {
            self.bring_back_beside(&worker, &stage).await;
        }
    }

    /// Time has passed: a lease is over, or somebody is watched.
    pub(super) async fn tick(&mut self) {
        let now = self.clock.instant();
        if let Some(hold) = self.hold.take_if(|hold| hold.ends.is_some_and(|at| at <= now)) {
            self.idle_since = now;
            if let Some(worker) = hold.worker {
                self.book.rests(&worker, now);
                let usual = self.usual_end(hold.tenant, hold.granted);
                self.vigil = Some(Vigil::keep(worker, (usual, now), now, Some(hold.line)));
            }
        }
        let eye = self.hold.as_ref().and_then(|hold| hold.eye.as_ref());
        if eye.is_some_and(|eye| eye.look_at <= now) {
            self.keep_an_eye().await;
        }
        if self.vigil.as_ref().is_some_and(|vigil| vigil.look_at() <= now) {
            self.watch_over().await;
        }
        if self.show_at().is_some_and(|at| at <= now) {
            // Only to be shown.
            drop(self.look().await);
        }
        let Some(vigil) = self.vigil.as_ref().filter(|vigil| vigil.is_overdue()) else { return };
        let (worker, since) = (vigil.worker.clone(), vigil.since);
        let tired = |waiter: &Waiter| now - waiter.asked.max(since) >= OVERDUE_PATIENCE;
        let (leave, stay) = self.queue.drain(..).partition::<VecDeque<_>, _>(tired);
        self.queue = stay;
        for waiter in leave {
            let error = LeaseError::Overdue(worker.clone());
            match waiter.ask {
                // Whoever asked may have gone.
                Ask::Lease { reply, .. } => drop(reply.send(Err(error))),
                Ask::Order { reply, .. } => drop(reply.send(Err(error))),
                Ask::Recover { .. } => self.queue.push_back(waiter),
            }
        }
    }

    /// Uses the time while nobody wants the card.
    pub(super) async fn pass_time(&mut self) {
        if self.effects.is_none() {
            return;
        }
        let now = self.clock.instant();
        let generator = self.book.find(Tenant::Generator, None).map(|entry| entry.spec.id.clone());
        let may = self.no_way_before.is_none_or(|at| at <= now);
        let way = generator.clone().filter(|_| may).and_then(|generator| self.way_to(&generator));
        let owed = self.book.owed(now);
        let leisure = Leisure {
            mode: self.settings.mode,
            now,
            since: self.idle_since,
            forecast: self.forecast(),
            making_way: way,
            bringing_back: owed.as_ref().map(|worker| self.book.coming(worker)),
        };
        let what = match (&owed, &generator) {
            (Some(worker), _) => format!("bring {worker} back"),
            (None, Some(generator)) => format!("make way for {generator}"),
            (None, None) => String::new(),
        };
        match (pastime(&leisure), generator, owed) {
            (Pastime::MakeWay, Some(generator), _) => {
                let want = self.book.want(&generator, None);
                if let Err(error) = self.hand_off(&want, Cause::Ahead).await {
                    tracing::warn!(card = %self.card, %error, "No way could be made ahead of a generation");
                }
                self.no_way_before = Some(self.clock.instant() + NO_ROOM);
                self.look_at = Some(self.clock.instant());
            }
            (Pastime::BringBack, _, Some(worker)) => {
                self.bring_back(&worker, Cause::Restore).await;
                self.look_at = Some(self.clock.instant());
            }
            (Pastime::Wait(at), ..) => {
                self.next = at.map(|at| (at, what));
                let retry = self.book.next_retry(now);
                // Where nothing measures the card there is nothing to see.
                let look = self.reading.is_some().then(|| self.looked_at + LOOK_EVERY);
                if look.is_some_and(|at| at <= now) {
                    self.look_around().await;
                    self.look_at = Some(self.clock.instant());
                    return;
                }
                self.look_at = at.into_iter().chain(retry).chain(look).filter(|at| *at > now).min();
            }
            _ => {}
        }
    }

    /// Looks whether everybody is where they are taken to be.
    pub(super) async fn look_around(&mut self) {
        if let Sight::Seen(reading) = self.look().await {
            let now = self.now();
            self.book.take_in(&reading, None, now);
        }
    }

    /// What it takes to make the generator ready to work; `None` if it is.
    fn way_to(&self, generator: &WorkerId) -> Option<Duration> {
        let entry = self.book.entries.get(generator)?;
        if entry.spec.self_coordinating || matches!(entry.state(), WorkerState::Failed { .. }) {
            return None;
        }
        let plan = self.by_the_book(&self.book.want(generator, None))?;
        let out: Duration = plan.evicted.iter().map(|worker| self.book.leaving(worker)).sum();
        let comes = plan.steps.iter().any(|step| step.worker() == Some(generator));
        let into = if comes { self.book.coming(generator) } else { Duration::ZERO };
        (!plan.is_nothing()).then_some(out + into + EARLY)
    }

    /// Tries to bring somebody back, and again later if that fails.
    pub(in crate::gpu) async fn bring_back(&mut self, worker: &WorkerId, cause: Cause) -> Option<String> {
        let want = self.book.want_back(worker);
        let result = self.attempt(&want, cause, None).await;
        let now = self.clock.instant();
        let entry = self.book.entries.get_mut(worker)?;
        let error = match result {
            Ok(()) => {
                entry.owed = false;
                return None;
            }
            Err(error) => error,
        };
        if !matches!(entry.state(), WorkerState::Failed { .. }) {
            entry.retry_at = Some(now + NO_ROOM);
            tracing::info!(card = %self.card, %worker, %error, "A worker cannot be brought back yet");
        }
        Some(error.to_string())
    }

    /// A worker was not brought in by any means.
    pub(in crate::gpu) fn give_up_on(&mut self, worker: &WorkerId, why: &str) {
        let now = self.now();
        let Some(entry) = self.book.entries.get_mut(worker) else { return };
        entry.failures = entry.failures.saturating_add(1);
        let wait = RETRY.after(entry.failures);
        let (failures, since) = (
            entry.failures,
            match entry.state() {
                WorkerState::Failed { since } => since,
                _ => now.0,
            },
        );
        self.book.enter(worker, WorkerState::Failed { since }, now);
        if let Some(entry) = self.book.entries.get_mut(worker) {
            entry.owed = true;
            entry.retry_at = Some(now.1 + wait);
        }
        tracing::error!(
            alarm = "worker_failed", card = %self.card, %worker, failures, retry_s = wait.as_secs(), why,
            "A worker could not be brought in by any means and is tried again later"
        );
    }

    /// Whether whoever has the card has given it back, although that was not dealt with yet.
    fn holder_has_ended(&self) -> bool {
        self.hold.as_ref().is_none_or(|hold| !matches!(*hold.line.borrow(), Said::Working(_)))
    }

    /// Brings somebody back beside a worker in its last stage, once there has been room for a while.
    async fn bring_back_beside(&mut self, worker: &WorkerId, stage: &Stage) {
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

    /// Looks at a worker whose lease has ended.
    async fn watch_over(&mut self) {
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
            // Nobody can see, so the work is given its time.
            Sight::Unmeasured if vigil.line.is_none() && vigil.had_its_time(now.1) => {
                return self.end_vigil();
            }
            Sight::Blind(EffectError::CardLost(_)) => return self.end_vigil(),
            Sight::Unmeasured | Sight::Blind(_) => None,
        };
        if vigil.sees(glimpse, now.1) {
            self.end_vigil();
            // It rests, and yet it did not answer: perhaps it hangs.
            return self.book.doubt(&worker, now);
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
            let (step, was) = (Step::Stop(worker.clone()), self.book.state(&worker));
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
                    self.book.enter(&worker, was, now);
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
