//! Looks after one card: owns its queue and all that is known of its workers.
//!
//! Waits in one place (`wait`), for a request, the holder of the lease, a timer, a forecast or the
//! order to stop, and deals with what came. Hand-offs are made one at a time and to their end; who
//! asks meanwhile waits in the inbox. A request that nobody waits for any more is passed over.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::arbiter::{Ending, Lease, LeaseError, Order, Recovery, Request, Said, Shared};
use super::book::{Book, Entry, Scene};
use super::effects::{Cause, Effects, HandoffLog, NoLog, OpenHandoff};
use super::household::{Household, Settings};
use super::pace::{Act, Mean};
use super::plan::{Budget, Plan, Reach, Step, Urgency, Wanted, plan};
use super::policy::{Forecast, Leisure, Mode, Pastime, Turn, pastime, pick};
use super::reading::{Pressure, Reading};
use super::view::{CardView, LeaseView, MemoryView, WorkerView};
use super::vigil::Vigil;
use super::worker::{Stage, Tenant, WorkerId, WorkerState};
use crate::clock::Clock;
use crate::net::Backoff;
use crate::primitives::{CardId, MiB, UnixTime};

/// Requests taken in before they can be served; the inbox holds as many again.
const QUEUE: usize = 64;

/// Between attempts to bring in a worker that failed.
const RETRY: Backoff = match Backoff::try_new(Duration::from_secs(10), Duration::from_secs(600)) {
    Ok(backoff) => backoff,
    // Reached only while compiling the constants above.
    Err(_) => panic!("the constants make a backoff"),
};

/// Before somebody for whom there was no room is tried again.
const NO_ROOM: Duration = Duration::from_secs(10);

/// How long one waits for a card whose last lease does not end.
const OVERDUE_PATIENCE: Duration = Duration::from_secs(60);

/// What somebody wants of the card.
#[derive(Debug)]
pub(super) enum Ask {
    Lease { request: Request, reply: oneshot::Sender<Result<Lease, LeaseError>> },
    Order { order: Order, reply: oneshot::Sender<Result<(), LeaseError>> },
    Recover { open: Vec<OpenHandoff>, reply: oneshot::Sender<Recovery> },
}

/// Somebody in the queue.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) ask: Ask,
    pub(super) asked: Instant,
    pub(super) overtaken: u32,
}

impl Waiter {
    fn is_gone(&self) -> bool {
        match &self.ask {
            Ask::Lease { reply, .. } => reply.is_closed(),
            // Those are carried out whether or not somebody waits to hear.
            Ask::Order { .. } | Ask::Recover { .. } => false,
        }
    }
}

/// A lease under way.
#[derive(Debug)]
struct Hold {
    tenant: Tenant,
    worker: Option<WorkerId>,
    line: watch::Receiver<Said>,
    granted: Instant,
    since: UnixTime,
    deadline: Duration,
    /// When the deadline is over; `None` if that changes nothing, as nobody can tell what the card does.
    ends: Option<Instant>,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) card: CardId,
    pub(super) clock: Clock,
    pub(super) settings: Settings,
    /// `None`: nothing is ever moved.
    pub(super) effects: Option<Arc<dyn Effects>>,
    pub(super) log: Arc<dyn HandoffLog>,
    pub(super) book: Book,
    /// The last look at the card.
    pub(super) reading: Option<Reading>,
    pub(super) is_lost: bool,
    pub(super) last_plan: Option<String>,
    pub(super) swaps: u64,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Waiter>,
    forecast: watch::Receiver<Option<(Instant, Forecast)>>,
    stop: CancellationToken,
    queue: VecDeque<Waiter>,
    hold: Option<Hold>,
    /// The last lease has ended, but perhaps not the work.
    pub(super) vigil: Option<Vigil>,
    idle_since: Instant,
    /// When to look for something to do although nobody asks.
    look_at: Option<Instant>,
    /// Way is not made again before that.
    no_way_before: Option<Instant>,
    generation: Mean,
    scoring: Mean,
}

/// What ends a wait.
enum Event {
    Asked(Waiter),
    Said(Said),
    Timer,
    Forecast,
    Stop,
}

impl Keeper {
    pub(super) fn new(
        card: CardId,
        clock: Clock,
        settings: Settings,
        household: Option<Household>,
        shared: Arc<Shared>,
        (inbox, forecast, stop): (
            mpsc::Receiver<Waiter>,
            watch::Receiver<Option<(Instant, Forecast)>>,
            CancellationToken,
        ),
    ) -> Self {
        let now = clock.moment();
        let (workers, effects, log): (_, _, Arc<dyn HandoffLog>) = match household {
            Some(Household { workers, effects, log, .. }) => (workers, Some(effects), log),
            None => (Vec::new(), None, Arc::new(NoLog)),
        };
        let book = Book::open(workers, settings.limit, settings.margin, (now.wall, now.instant));
        Self {
            card,
            clock,
            effects: effects.filter(|_| settings.mode != Mode::Off),
            settings,
            log,
            book,
            reading: None,
            is_lost: false,
            last_plan: None,
            swaps: 0,
            shared,
            inbox,
            forecast,
            stop,
            queue: VecDeque::new(),
            hold: None,
            vigil: None,
            idle_since: now.instant,
            look_at: None,
            no_way_before: None,
            generation: Mean::default(),
            scoring: Mean::default(),
        }
    }

    pub(super) async fn run(mut self) {
        self.show();
        loop {
            match self.wait().await {
                Event::Asked(waiter) => self.queue.push_back(waiter),
                Event::Said(Said::Working(stage)) => self.reached(stage).await,
                Event::Said(Said::Refused) => self.hold = None,
                Event::Said(Said::Ended(ending)) => self.ended(ending),
                Event::Timer => self.tick().await,
                Event::Forecast => {}
                Event::Stop => break,
            }
            self.serve().await;
            self.look_at = None;
            if self.is_idle() {
                self.pass_time().await;
            }
            self.show();
        }
        self.inbox.close();
        self.queue.clear();
        if self.is_idle() && self.effects.is_some() {
            self.bring_back_all().await;
        }
    }

    async fn wait(&mut self) -> Event {
        let timer = [
            self.look_at,
            self.hold.as_ref().and_then(|hold| hold.ends),
            self.vigil.as_ref().map(Vigil::look_at),
        ];
        let timer = timer.into_iter().flatten().min();
        let line = match (&mut self.hold, &mut self.vigil) {
            (Some(hold), _) => Some(&mut hold.line),
            (None, Some(vigil)) => vigil.line.as_mut(),
            (None, None) => None,
        };
        let said = async {
            match line {
                // A lease says how it ends before it goes.
                Some(line) => match line.changed().await {
                    Ok(()) => line.borrow_and_update().clone(),
                    Err(_) => Said::Ended(Ending::Unsure),
                },
                None => std::future::pending().await,
            }
        };
        let rings = async {
            match timer {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // A card that was given back before the order to stop is free.
            said = said => Event::Said(said),
            () = self.stop.cancelled() => Event::Stop,
            asked = self.inbox.recv(), if self.queue.len() < QUEUE => asked.map_or(Event::Stop, Event::Asked),
            Ok(()) = self.forecast.changed() => Event::Forecast,
            () = rings => Event::Timer,
        }
    }

    fn is_idle(&self) -> bool {
        self.hold.is_none() && self.vigil.is_none() && self.queue.is_empty()
    }

    pub(super) fn now(&self) -> (UnixTime, Instant) {
        let now = self.clock.moment();
        (now.wall, now.instant)
    }

    pub(super) fn forecast(&self) -> Option<(Instant, Forecast)> {
        *self.forecast.borrow()
    }

    /// Serves whoever is to be served while the card is free.
    async fn serve(&mut self) {
        while self.hold.is_none() && self.vigil.is_none() {
            self.queue.retain(|waiter| !waiter.is_gone());
            let turns: Vec<Turn> = self.queue.iter().map(|waiter| self.turn(waiter)).collect();
            let Some(number) = pick(&turns, self.batch()) else { return };
            for waiter in self.queue.iter_mut().take(number) {
                waiter.overtaken += 1;
            }
            let Some(Waiter { ask, asked, .. }) = self.queue.remove(number) else { return };
            match ask {
                Ask::Lease { request, reply } => self.grant(request, asked, reply).await,
                Ask::Order { order, reply } => {
                    let done = self.obey(order).await;
                    // Whoever gave it may have gone.
                    drop(reply.send(done));
                }
                Ask::Recover { open, reply } => {
                    let recovery = self.recover(open).await;
                    drop(reply.send(recovery));
                }
            }
            self.idle_since = self.clock.instant();
        }
    }

    fn turn(&self, waiter: &Waiter) -> Turn {
        let Ask::Lease { request, .. } = &waiter.ask else {
            return Turn { swap: true, overtaken: waiter.overtaken, flexible: false };
        };
        let worker = self.book.find(request.tenant, request.worker.as_ref());
        let swap = worker.is_some_and(|entry| {
            let want = self.book.want(&entry.spec.id, request.stage.as_ref());
            !entry.spec.self_coordinating && self.by_the_book(&want).is_none_or(|plan| !plan.is_nothing())
        });
        Turn { swap, overtaken: waiter.overtaken, flexible: true }
    }

    fn batch(&self) -> u32 {
        if self.settings.mode != Mode::Auto {
            return 1;
        }
        let forecast = self.forecast().map(|(_, forecast)| forecast).unwrap_or_default();
        let times = *self.shared.times.lock().unwrap_or_else(PoisonError::into_inner);
        super::policy::batch(&times, &forecast, self.settings.batch)
    }

    /// What would have to be moved as far as is known without a look.
    fn by_the_book(&self, want: &Wanted) -> Option<Plan> {
        self.effects.as_ref()?;
        let scene = Scene {
            now: self.clock.instant(),
            reading: None,
            looked: true,
            at_work: None,
            forecast: self.forecast(),
        };
        let (standings, mut budget) = self.book.situation(&scene);
        budget.limit = self.book.limit(self.reading.as_ref());
        plan(&standings, want, &budget, Urgency::Usual).ok()
    }

    async fn grant(
        &mut self,
        request: Request,
        asked: Instant,
        reply: oneshot::Sender<Result<Lease, LeaseError>>,
    ) {
        let picked = self.clock.instant();
        let Request { tenant, worker, stage, deadline } = request;
        let found = self.book.find(tenant, worker.as_ref()).map(|entry| entry.spec.id.clone());
        let ready = match (&found, worker) {
            (None, Some(worker)) => Err(LeaseError::NoSuchWorker(worker)),
            (None, None) => Ok(()),
            (Some(id), _) => self.make_ready(id, tenant, stage.as_ref()).await,
        };
        if let Err(error) = ready {
            // Whoever asked may have gone.
            drop(reply.send(Err(error)));
            return;
        }
        let (since, granted) = self.now();
        if let Some(id) = &found {
            self.book.goes_to_work(id, (since, granted));
        }
        let (lease, line) = Lease::grant(tenant, found.clone(), [asked, picked, granted]);
        let deadline = deadline.unwrap_or(self.settings.deadline);
        let ends = granted.checked_add(deadline).filter(|_| self.effects.is_some() && found.is_some());
        self.hold = Some(Hold { tenant, worker: found, line, granted, since, deadline, ends });
        // If nobody takes it, it says so.
        drop(reply.send(Ok(lease)));
    }

    async fn make_ready(
        &mut self,
        worker: &WorkerId,
        tenant: Tenant,
        stage: Option<&Stage>,
    ) -> Result<(), LeaseError> {
        let now = self.clock.instant();
        let Some(entry) = self.book.entries.get(worker).filter(|_| self.effects.is_some()) else {
            return Ok(());
        };
        if let (WorkerState::Failed { since }, Some(at)) = (entry.state(), entry.retry_at)
            && at > now
        {
            return Err(LeaseError::OutOfOrder { worker: worker.clone(), since, retry_in: at - now });
        }
        if entry.spec.self_coordinating {
            return Ok(());
        }
        let want = self.book.want(worker, stage);
        self.hand_off(&want, Cause::Lease(tenant)).await?;
        Ok(())
    }

    /// The holder says how far the work is.
    async fn reached(&mut self, stage: Option<Stage>) {
        let Some((hold, stage)) = self.hold.as_ref().zip(stage) else { return };
        let Some(worker) = hold.worker.clone() else { return };
        let more = self.forecast().is_some_and(|(_, forecast)| forecast.queued_generations > 0);
        if self.settings.mode == Mode::Auto && !more && self.book.ledger.is_last_stage(&worker, &stage) {
            self.bring_back_beside(&worker, &stage).await;
        }
    }

    fn ended(&mut self, ending: Ending) {
        let now = self.now();
        self.idle_since = now.1;
        let Some(hold) = self.hold.take() else {
            // Too late: it is watched already, unless nothing can be seen.
            if let Some(vigil) = &mut self.vigil {
                vigil.line = None;
                if ending == Ending::Done || self.reading.is_none() {
                    self.end_vigil();
                }
            }
            return;
        };
        let Hold { tenant, worker, granted, ends, .. } = hold;
        if ending == Ending::Done {
            let took = now.1 - granted;
            match tenant {
                Tenant::Generator => self.generation.observe(took),
                Tenant::Scorer => self.scoring.observe(took),
                Tenant::Enhancer => {}
            }
            self.teach();
        }
        let Some(worker) = worker.filter(|_| self.effects.is_some()) else { return };
        self.book.rests(&worker, now.1);
        match ending {
            Ending::Done => {}
            Ending::Unsure => {
                let until = ends.unwrap_or(now.1);
                self.vigil = Some(Vigil::keep(worker.clone(), until, now.1, None));
            }
            Ending::Suspect => self.book.doubt(&worker, now),
        }
        self.book.doubt_others_of(&worker, now);
    }

    /// Shares what turns take.
    pub(super) fn teach(&self) {
        let generator = self.book.find(Tenant::Generator, None).map(|entry| entry.spec.id.clone());
        let swap = generator.map_or(Duration::ZERO, |generator| self.swap(&generator));
        let mut times = self.shared.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.generation = self.generation.get().unwrap_or_default();
        times.scoring = self.scoring.get().unwrap_or_default();
        times.swap = swap;
    }

    /// h: what it takes to make way for the generator and undo that; nothing if all fit, or before that
    /// was measured.
    fn swap(&self, generator: &WorkerId) -> Duration {
        let budget = Budget {
            limit: self.book.limit(self.reading.as_ref()),
            margin: self.settings.margin,
            foreign: MiB::ZERO,
            looked: true,
        };
        let want = self.book.want(generator, None);
        let plan = plan(&self.book.all_resident(), &want, &budget, Urgency::Usual);
        let both = |worker: &WorkerId| {
            let out = self.book.measured(worker, [Act::Unload, Act::Stop], Act::Freed)?;
            Some(out + self.book.measured(worker, [Act::Load, Act::Start], Act::Filled)?)
        };
        plan.map(|plan| plan.evicted.iter().filter_map(both).sum()).unwrap_or_default()
    }

    /// Time has passed: a lease is over, or somebody is watched.
    async fn tick(&mut self) {
        let now = self.clock.instant();
        if let Some(hold) = self.hold.take_if(|hold| hold.ends.is_some_and(|at| at <= now)) {
            self.idle_since = now;
            if let Some(worker) = hold.worker {
                self.book.rests(&worker, now);
                self.vigil = Some(Vigil::keep(worker, now, now, Some(hold.line)));
            }
        }
        if self.vigil.as_ref().is_some_and(|vigil| vigil.look_at() <= now) {
            self.watch_over().await;
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
    async fn pass_time(&mut self) {
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
                let retry = self.book.next_retry(now);
                self.look_at = at.into_iter().chain(retry).filter(|at| *at > now).min();
            }
            _ => {}
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
        (!plan.is_nothing()).then_some(out + into)
    }

    /// Whether whoever has the card has given it back, although that was not dealt with yet.
    pub(super) fn holder_has_ended(&self) -> bool {
        self.hold.as_ref().is_none_or(|hold| !matches!(*hold.line.borrow(), Said::Working(_)))
    }

    async fn obey(&mut self, order: Order) -> Result<(), LeaseError> {
        let (Order::Load(worker)
        | Order::Unload(worker)
        | Order::Cleanup(worker)
        | Order::Start(worker)
        | Order::Stop(worker)
        | Order::Restart(worker)) = order.clone();
        if self.effects.is_none() || !self.book.entries.contains_key(&worker) {
            return Err(LeaseError::NoSuchWorker(worker));
        }
        match order {
            Order::Unload(_) => self.alone(Step::Unload(worker.clone()), Cause::Order).await?,
            Order::Cleanup(_) => self.alone(Step::Cleanup(worker.clone()), Cause::Order).await?,
            Order::Stop(_) | Order::Restart(_) => {
                self.alone(Step::Stop(worker.clone()), Cause::Order).await?;
            }
            Order::Load(_) | Order::Start(_) => {}
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
            Order::Cleanup(_) => {}
        }
        Ok(())
    }

    /// Tries to bring somebody back, and again later if that fails.
    pub(super) async fn bring_back(&mut self, worker: &WorkerId, cause: Cause) -> Option<String> {
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
    pub(super) fn give_up_on(&mut self, worker: &WorkerId, why: &str) {
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

    async fn recover(&mut self, open: Vec<OpenHandoff>) -> Recovery {
        let now = self.now();
        for handoff in &open {
            for worker in handoff.evicted.iter().chain([&handoff.wanted]) {
                self.book.doubt(worker, now);
            }
        }
        let mut recovery = Recovery::default();
        if self.effects.is_some() {
            self.look().await;
            if let Some(reading) = &self.reading {
                self.book.take_in(reading, None, now);
            }
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

    fn show(&self) {
        let held = self.book.held(self.reading.as_ref());
        let worker = |entry: &Entry| {
            let id = &entry.spec.id;
            let amounts = self.book.ledger.amounts(id);
            WorkerView {
                worker: id.clone(),
                tenant: entry.spec.tenant,
                residency: entry.spec.residency,
                state: entry.state(),
                since: entry.since,
                held: held.get(id).copied().unwrap_or_default(),
                resident: amounts.resident,
                peak: amounts.peak,
                is_owed: entry.owed,
            }
        };
        let memory = self.reading.as_ref().map(|reading| {
            let free = self.book.free(reading);
            let next = self.queue.front().map_or(Tenant::Generator, |waiter| match &waiter.ask {
                Ask::Lease { request, .. } => request.tenant,
                Ask::Order { .. } | Ask::Recover { .. } => Tenant::Generator,
            });
            let next_fits = self.book.find(next, None).is_none_or(|entry| {
                let plan = self.by_the_book(&self.book.want(&entry.spec.id, None));
                plan.is_some_and(|plan| plan.evicted.is_empty())
            });
            let all_fit = self.book.all_fit(self.book.limit(Some(reading)));
            let pressure = Pressure::of(free, self.settings.margin, all_fit, next_fits);
            MemoryView { total: reading.total(), free: reading.free(), pressure }
        });
        let view = CardView {
            card: self.card.clone(),
            at: self.clock.now(),
            memory,
            is_lost: self.is_lost,
            workers: self.book.all().map(worker).collect(),
            lease: self.hold.as_ref().map(|hold| LeaseView {
                tenant: hold.tenant,
                worker: hold.worker.clone(),
                since: hold.since,
                deadline: hold.deadline,
            }),
            waiting: self.queue.len(),
            last_plan: self.last_plan.clone(),
            swaps: self.swaps,
        };
        self.shared.view.send_replace(view);
    }
}
