//! Looks after one card: owns its queue and all that is known of its workers.
//!
//! Waits in one place (`wait`), for a request, the holder of the lease, a timer, a forecast or the
//! order to stop, and deals with what came. Hand-offs are made one at a time and to their end; who
//! asks meanwhile waits in the inbox. A request that nobody waits for any more is passed over.

mod eye;
mod idle;
mod orders;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::eye::Eye;
use super::arbiter::{Ending, Lease, LeaseError, Order, Recovery, Request, Said, Shared};
use super::book::{Book, Entry, Scene};
use super::effects::{Cause, Effects, HandoffLog, NoLog, OpenHandoff};
use super::household::{Household, Settings};
use super::pace::{Act, Lags, Mean};
use super::plan::{Budget, Plan, Urgency, Wanted, plan};
use super::policy::{Forecast, Mode, Turn, pick};
use super::reading::{Pressure, Reading};
use super::view::{CardView, LeaseView, MemoryView, NextView, WorkerView};
use super::vigil::Vigil;
use super::worker::{Stage, Tenant, WorkerId, WorkerState};
use crate::clock::Clock;
use crate::primitives::{CardId, MiB, UnixTime};

/// Requests taken in before they can be served; the inbox holds as many again.
const QUEUE: usize = 64;

/// Takes work to last so long before any was measured.
const USUAL_WORK: Duration = Duration::from_secs(30);

/// Work of which nothing was heard is given its usual time, and as much again.
const USUAL_TWICE: u32 = 2;

/// Between looks at a card at work that somebody follows.
const SHOW_EVERY: Duration = Duration::from_millis(250);

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
    eye: Option<Eye>,
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
    pub(super) looked_at: Instant,
    pub(super) is_lost: bool,
    pub(super) last_plan: Option<String>,
    /// What is done if nobody asks, and when.
    pub(super) next: Option<(Instant, String)>,
    pub(super) swaps: u64,
    /// When the card showed the end of the last step, until the next one begins.
    pub(super) shown_at: Option<Instant>,
    pub(super) lags: Lags,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Waiter>,
    forecast: watch::Receiver<Option<(Instant, Forecast)>>,
    stop: CancellationToken,
    is_given_up: bool,
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
    /// When each kind was granted the card last.
    granted_at: HashMap<Tenant, Instant>,
}

/// What a keeper hears from outside.
#[derive(Debug)]
pub(super) struct Ears {
    pub(super) inbox: mpsc::Receiver<Waiter>,
    pub(super) forecast: watch::Receiver<Option<(Instant, Forecast)>>,
    pub(super) stop: CancellationToken,
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
        ears: Ears,
    ) -> Self {
        let Ears { inbox, forecast, stop } = ears;
        let now = clock.moment();
        let (workers, effects, log): (_, _, Arc<dyn HandoffLog>) = match household {
            Some(Household { workers, effects, log, .. }) => (workers, Some(effects), log),
            None => (Vec::new(), None, Arc::new(NoLog)),
        };
        let book = Book::open(workers, &settings, (now.wall, now.instant));
        Self {
            card,
            clock,
            effects: effects.filter(|_| settings.mode != Mode::Off),
            settings,
            log,
            book,
            reading: None,
            looked_at: now.instant,
            is_lost: false,
            last_plan: None,
            next: None,
            swaps: 0,
            shown_at: None,
            lags: Lags::default(),
            shared,
            inbox,
            forecast,
            stop,
            is_given_up: false,
            queue: VecDeque::new(),
            hold: None,
            vigil: None,
            idle_since: now.instant,
            look_at: None,
            no_way_before: None,
            generation: Mean::default(),
            scoring: Mean::default(),
            granted_at: HashMap::new(),
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
            self.next = None;
            // Whoever asked during a hand-off is served first.
            if self.is_idle() && self.inbox.is_empty() {
                self.pass_time().await;
            }
            self.show();
        }
        self.give_up().await;
    }

    /// Nobody gets the card any more. Whoever left it comes back once the one at work has ended, unless
    /// that does not end.
    async fn give_up(&mut self) {
        self.is_given_up = true;
        self.inbox.close();
        while self.inbox.try_recv().is_ok() {}
        self.queue.clear();
        let is_overdue = |vigil: &Option<Vigil>| vigil.as_ref().is_some_and(Vigil::is_overdue);
        while !self.is_idle() && !is_overdue(&self.vigil) && self.book.all().any(|entry| entry.owed) {
            match self.wait().await {
                Event::Said(Said::Ended(ending)) => self.ended(ending),
                Event::Said(Said::Refused) => self.hold = None,
                Event::Timer => self.tick().await,
                Event::Said(Said::Working(_)) | Event::Asked(_) | Event::Forecast | Event::Stop => {}
            }
        }
        if self.is_idle() && self.effects.is_some() {
            // There is no later.
            self.book.entries.values_mut().for_each(|entry| entry.retry_at = None);
            self.bring_back_all().await;
        }
        for entry in self.book.all().filter(|entry| entry.owed && !self.settings.restores) {
            tracing::error!(card = %self.card, worker = %entry.spec.id, "A worker that left is not back: see its own log, then `workers load`");
        }
        self.show();
    }

    async fn wait(&mut self) -> Event {
        let timer = [
            self.look_at,
            self.hold.as_ref().and_then(|hold| hold.ends),
            self.hold.as_ref().and_then(|hold| hold.eye.as_ref()).map(|eye| eye.look_at),
            self.show_at(),
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
            () = self.stop.cancelled(), if !self.is_given_up => Event::Stop,
            asked = self.inbox.recv(), if !self.is_given_up && self.queue.len() < QUEUE => asked.map_or(Event::Stop, Event::Asked),
            Ok(()) = self.forecast.changed() => Event::Forecast,
            () = rings => Event::Timer,
        }
    }

    /// When the card at work is looked at for those who follow it.
    pub(super) fn show_at(&self) -> Option<Instant> {
        let followed = self.hold.is_some() && self.reading.is_some() && self.shared.view.receiver_count() > 0;
        followed.then(|| self.looked_at + SHOW_EVERY)
    }

    fn is_idle(&self) -> bool {
        self.hold.is_none() && self.vigil.is_none() && self.queue.is_empty()
    }

    pub(super) fn now(&self) -> (UnixTime, Instant) {
        let now = self.clock.moment();
        (now.wall, now.instant)
    }

    pub(super) fn forecast(&self) -> Option<(Instant, Forecast)> {
        let (at, mut forecast) = (*self.forecast.borrow())?;
        if let Some((tenant, since)) = forecast.in_hand
            && self.granted_at.get(&tenant).is_none_or(|at| *at < since)
        {
            match tenant {
                Tenant::Generator => {
                    forecast.queued_generations = forecast.queued_generations.saturating_add(1);
                    forecast.queued_scorings = 0;
                }
                Tenant::Scorer => forecast.queued_scorings = forecast.queued_scorings.saturating_add(1),
                Tenant::Enhancer => {}
            }
        }
        Some((at, forecast))
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
                    // Whoever hears of the end sees what came of it.
                    self.show();
                    // Whoever gave it may have gone.
                    drop(reply.send(done));
                }
                Ask::Recover { open, reply } => {
                    let recovery = self.recover(open).await;
                    self.show();
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
        let (standings, mut budget) = self.book.situation(&scene, &want.worker);
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
        // Nobody gets a card that is given up, though it was made ready for that.
        let ready = if self.stop.is_cancelled() { Err(LeaseError::Closed) } else { ready };
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
        self.granted_at.insert(tenant, granted);
        let eye = found.as_ref().and_then(|id| self.open_eye(id, tenant, granted));
        self.hold = Some(Hold { tenant, worker: found, line, granted, since, deadline, ends, eye });
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

    fn ended(&mut self, ending: Ending) {
        let now = self.now();
        self.idle_since = now.1;
        let Some(hold) = self.hold.take() else {
            // Too late: it is watched already, unless nothing can be seen.
            if let Some(vigil) = &mut self.vigil {
                vigil.line = None;
                if ending == Ending::Done {
                    let worker = vigil.worker.clone();
                    self.book.answered(&worker, false);
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
            Ending::Done => self.book.answered(&worker, false),
            Ending::Unsure => {
                self.book.answered(&worker, true);
                let until = ends.unwrap_or(now.1);
                let usual = self.usual_end(tenant, granted);
                self.vigil = Some(Vigil::keep(worker.clone(), (usual, until), now.1, None));
            }
            Ending::Suspect => {
                self.book.answered(&worker, true);
                self.book.doubt(&worker, now);
            }
        }
        self.book.doubt_others_of(&worker, now);
    }

    /// When work that was begun then has ended, as far as can be told without hearing of it.
    fn usual_end(&self, tenant: Tenant, granted: Instant) -> Instant {
        let measured = match tenant {
            Tenant::Generator => self.generation,
            Tenant::Scorer => self.scoring,
            Tenant::Enhancer => Mean::default(),
        };
        granted + USUAL_TWICE * measured.get().unwrap_or(USUAL_WORK)
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

    fn show(&self) {
        let held = self.book.held(self.reading.as_ref());
        let worker = |entry: &Entry| {
            let id = &entry.spec.id;
            let amounts = self.book.ledger.amounts(id);
            WorkerView {
                worker: id.clone(),
                tenant: entry.spec.tenant,
                residency: entry.spec.residency,
                abilities: entry.spec.abilities,
                state: entry.state(),
                since: entry.since,
                held: held.get(id).copied().unwrap_or_default(),
                resident: amounts.resident,
                peak: amounts.peak,
                is_owed: entry.owed,
                starts: self.effects.is_some() && entry.spec.abilities.process,
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
            next: self.next.as_ref().map(|(at, what)| {
                let (wall, now) = self.now();
                NextView { at: wall + at.saturating_duration_since(now), what: what.clone() }
            }),
            swaps: self.swaps,
            lags: self.lags.view(),
        };
        self.shared.view.send_replace(view);
    }
}
