//! Asking for a card, and having it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::effects::{EffectError, Effects, OpenHandoff};
use super::handoff::HandoffError;
use super::household::{Household, Settings};
use super::keeper::{Ask, Ears, Keeper, Waiter};
use super::policy::{Batch, Forecast, Mode, Times, batch};
use super::view::CardView;
use super::worker::{Stage, Tenant, WorkerId, WorkerState};
use crate::clock::Clock;
use crate::primitives::{CardId, UnixTime};

/// Requests that may wait to be looked at; the next ones wait to be put there, in their order.
const INBOX: usize = 64;

/// No look at a card takes longer.
const LOOK: Duration = Duration::from_secs(2);

/// What a card is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub tenant: Tenant,
    /// `None`: the first of that kind on the card.
    pub worker: Option<WorkerId>,
    /// The only stage that will be worked at; `None`: all of them.
    pub stage: Option<Stage>,
    /// How long it may be held; `None`: as the card's settings say.
    pub deadline: Option<Duration>,
}

impl From<Tenant> for Request {
    fn from(tenant: Tenant) -> Self {
        Self { tenant, worker: None, stage: None, deadline: None }
    }
}

/// How a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The worker has answered and rests.
    Done,
    /// It may still be at work: a broken connection does not stop it (workers.md section 6). Nobody
    /// gets the card before it is seen to rest.
    Unsure,
    /// It answers, but not as it should: it is looked at, and brought in anew if need be, before it is
    /// used again.
    Suspect,
}

/// What the holder of a lease says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    Working(Option<Stage>),
    /// Nobody took the lease.
    Refused,
    Ended(Ending),
}

/// A grant of a card. Dropped without [`end`](Self::end) it counts as [`Ending::Unsure`].
#[derive(Debug)]
pub struct Lease {
    /// Time from asking to the grant, without the hand-off.
    pub waited: Duration,
    /// Time spent moving others out or the worker in.
    pub handoff: Duration,
    pub tenant: Tenant,
    /// `None`: it is not among those that are moved.
    pub worker: Option<WorkerId>,
    granted: Instant,
    line: watch::Sender<Said>,
    /// Somebody has it; until then nothing can be at work for it.
    taken: bool,
}

impl Lease {
    pub(super) fn grant(
        tenant: Tenant,
        worker: Option<WorkerId>,
        [asked, picked, granted]: [Instant; 3],
    ) -> (Self, watch::Receiver<Said>) {
        let (line, heard) = watch::channel(Said::Working(None));
        let (waited, handoff) = (picked - asked, granted - picked);
        (Self { waited, handoff, tenant, worker, granted, line, taken: false }, heard)
    }

    /// Time since the grant.
    pub fn held(&self) -> Duration {
        self.granted.elapsed()
    }

    /// Says that the worker has reached a stage of its work. In the last one that it declares others
    /// may be brought back already, once there is room for them.
    pub fn entered(&self, stage: &Stage) {
        self.line.send_replace(Said::Working(Some(stage.clone())));
    }

    /// Gives the card back.
    pub fn end(self, ending: Ending) {
        self.line.send_replace(Said::Ended(ending));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let last = if self.taken { Said::Ended(Ending::Unsure) } else { Said::Refused };
        self.line.send_if_modified(|said| {
            let open = matches!(said, Said::Working(_));
            if open {
                *said = last;
            }
            open
        });
    }
}

/// Why a card was not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    #[error("no hand-off: {0}")]
    Handoff(HandoffError),
    /// Tried again by itself; asking sooner changes nothing.
    #[error("{worker} is out of order since {since}, tried again in {}s", retry_in.as_secs())]
    OutOfOrder { worker: WorkerId, since: UnixTime, retry_in: Duration },
    /// Somebody's work did not end in time.
    #[error("the card is still at work for {0}, whose lease is over")]
    Overdue(WorkerId),
    #[error("no worker {0} on this card")]
    NoSuchWorker(WorkerId),
    #[error("the card is given up")]
    Closed,
}

impl From<HandoffError> for LeaseError {
    fn from(error: HandoffError) -> Self {
        Self::Handoff(error)
    }
}

impl LeaseError {
    /// Whether asking again later has a chance while the configuration and the other users of the card
    /// stay as they are.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::Handoff(HandoffError::Unplaceable(_)) | Self::NoSuchWorker(_) | Self::Closed)
    }
}

/// What a person can have done to a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Only to see who is where.
    Look,
    Load(WorkerId),
    Unload(WorkerId),
    Cleanup(WorkerId),
    Start(WorkerId),
    Stop(WorkerId),
    Restart(WorkerId),
}

/// What came of a [recovery](Arbiter::recover).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Workers that are where they belong.
    pub resident: Vec<WorkerId>,
    /// Workers that are not, and why.
    pub missing: Vec<(WorkerId, String)>,
}

/// What both sides of the inbox see.
#[derive(Debug)]
pub(super) struct Shared {
    /// What turns on this card take, as measured.
    pub(super) times: Mutex<Times>,
    pub(super) view: watch::Sender<CardView>,
}

/// Grants one card. Clones share it; the last one to go ends what it does.
#[derive(Clone)]
pub struct Arbiter {
    card: CardId,
    clock: Clock,
    mode: Mode,
    batch: Batch,
    inbox: mpsc::Sender<Waiter>,
    forecast: watch::Sender<Option<(Instant, Forecast)>>,
    shared: Arc<Shared>,
    /// `None`: nothing is ever moved.
    effects: Option<Arc<dyn Effects>>,
    stop: CancellationToken,
    keeper: Arc<Mutex<JoinSet<()>>>,
}

impl fmt::Debug for Arbiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arbiter").field("card", &self.card).finish_non_exhaustive()
    }
}

impl Arbiter {
    /// A card on which nothing is ever moved.
    ///
    /// # Panics
    /// Outside a tokio runtime, as [`of`](Self::of).
    pub fn new(card: CardId, clock: Clock) -> Self {
        let settings = Settings { mode: Mode::Off, ..Settings::default() };
        Self::build(card, clock, settings, None)
    }

    /// A card whose workers give way to each other.
    ///
    /// # Panics
    /// Outside a tokio runtime: the card is looked after by a task.
    pub fn of(card: CardId, clock: Clock, household: Household) -> Self {
        let settings = household.settings.clone();
        Self::build(card, clock, settings, Some(household))
    }

    fn build(card: CardId, clock: Clock, settings: Settings, household: Option<Household>) -> Self {
        let (inbox, asked) = mpsc::channel(INBOX);
        let (forecast, heard) = watch::channel(None);
        let view = watch::Sender::new(CardView::empty(card.clone(), clock.now()));
        let shared = Arc::new(Shared { times: Mutex::default(), view });
        let stop = CancellationToken::new();
        let (mode, batch) = (settings.mode, settings.batch);
        let effects = household.as_ref().filter(|_| mode != Mode::Off);
        let effects = effects.map(|household| Arc::clone(&household.effects));
        let ears = Ears { inbox: asked, forecast: heard, stop: stop.clone() };
        let keeper = Keeper::new(card.clone(), clock, settings, household, Arc::clone(&shared), ears);
        let mut tasks = JoinSet::new();
        tasks.spawn(keeper.run());
        let keeper = Arc::new(Mutex::new(tasks));
        Self { card, clock, mode, batch, inbox, forecast, shared, effects, stop, keeper }
    }

    pub fn card(&self) -> &CardId {
        &self.card
    }

    /// Waits for the card. Cancelling the wait leaves the queue and nothing else: a hand-off that has
    /// begun is brought to its end.
    ///
    /// # Errors
    /// See [`LeaseError`]. Whoever left for a hand-off that failed is brought back by then.
    pub async fn lease(&self, request: impl Into<Request>) -> Result<Lease, LeaseError> {
        let request = request.into();
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::Lease { request, reply }).await.ok_or(LeaseError::Closed)?;
        let mut lease = answer.await.unwrap_or(Err(LeaseError::Closed))?;
        lease.taken = true;
        Ok(lease)
    }

    /// A request for a worker by its name, if it is among those of the card.
    pub fn request(&self, tenant: Tenant, worker: &str) -> Request {
        let view = self.shared.view.borrow();
        let found = view.workers.iter().find(|w| w.tenant == tenant && w.worker.as_str() == worker);
        Request { worker: found.map(|found| found.worker.clone()), ..Request::from(tenant) }
    }

    /// Has something done to a worker, once nobody has the card.
    ///
    /// # Errors
    /// When it cannot be proven to have been done.
    pub async fn order(&self, order: Order) -> Result<(), LeaseError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::Order { order, reply }).await.ok_or(LeaseError::Closed)?;
        answer.await.unwrap_or(Err(LeaseError::Closed))
    }

    /// Brings the card to a known state after a start: looks at it, closes what an earlier process left
    /// open in the journal, and brings back who left for that or should be there.
    ///
    /// # Errors
    /// When the card is given up meanwhile.
    pub async fn recover(&self, open: Vec<OpenHandoff>) -> Result<Recovery, LeaseError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::Recover { open, reply }).await.ok_or(LeaseError::Closed)?;
        answer.await.map_err(|_| LeaseError::Closed)
    }

    async fn ask(&self, ask: Ask) -> Option<()> {
        let waiter = Waiter { ask, asked: self.clock.instant(), overtaken: 0 };
        self.inbox.send(waiter).await.ok()
    }

    /// Says what is to come. The newest word counts.
    pub fn hint(&self, forecast: Forecast) {
        self.forecast.send_replace(Some((self.clock.instant(), forecast)));
    }

    /// Whether what is to come makes a difference to what is done with the card.
    pub fn plans_ahead(&self) -> bool {
        self.mode == Mode::Auto
    }

    /// How many generations to make before the first of them is scored: 1 unless the card is the limit
    /// and moving the scorer costs time. By the newest forecast; cheap.
    pub fn wants_batch(&self) -> u32 {
        if self.mode != Mode::Auto {
            return 1;
        }
        let forecast = self.forecast.borrow().map(|(_, forecast)| forecast).unwrap_or_default();
        batch(&self.times(), &forecast, self.batch)
    }

    /// What turns on this card take, as measured.
    pub fn times(&self) -> Times {
        *self.shared.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state of the card, as last seen.
    pub fn watch(&self) -> watch::Receiver<CardView> {
        self.shared.view.subscribe()
    }

    /// Whether a lease of this kind has a chance: nothing that it needs is out of order or overdue.
    pub fn is_usable(&self, tenant: Tenant) -> bool {
        self.obstacle(tenant).is_none()
    }

    /// What stands in the way of a lease of this kind, by what is known without a look.
    pub fn obstacle(&self, tenant: Tenant) -> Option<LeaseError> {
        let view = self.shared.view.borrow();
        if view.is_lost {
            let lost = EffectError::CardLost(self.card.uuid.clone());
            return Some(HandoffError::Blind(lost).into());
        }
        // Whoever it is, nobody else gets the card before that work ends.
        let is_overdue = |state: &WorkerState| matches!(state, WorkerState::Overdue { .. });
        if let Some(overdue) = view.workers.iter().find(|worker| is_overdue(&worker.state)) {
            return Some(LeaseError::Overdue(overdue.worker.clone()));
        }
        let mut failed = None;
        for worker in view.workers.iter().filter(|worker| worker.tenant == tenant) {
            let WorkerState::Failed { since } = worker.state else { return None };
            failed.get_or_insert((worker.worker.clone(), since));
        }
        let (worker, since) = failed?;
        let why = format!("it could not be brought in since {since} and is tried again by itself");
        Some(HandoffError::OutOfOrder { worker, why }.into())
    }

    /// Looks whether a lease that failed would still fail for that reason: what it needs is out of order,
    /// or the card cannot be seen. Moves nothing.
    ///
    /// # Errors
    /// What stands in the way.
    pub async fn check(&self, tenant: Tenant) -> Result<(), LeaseError> {
        if let Some(obstacle) = self.obstacle(tenant) {
            return Err(obstacle);
        }
        let Some(effects) = &self.effects else { return Ok(()) };
        let seen = tokio::time::timeout(LOOK, effects.probe()).await;
        match seen.unwrap_or(Err(EffectError::TimedOut(LOOK))) {
            Ok(_) => Ok(()),
            Err(error) => Err(HandoffError::Blind(error).into()),
        }
    }

    /// Whether a worker of this kind is brought in when it is wanted, however dead its port looks.
    pub fn brings(&self, tenant: Tenant) -> bool {
        let view = self.shared.view.borrow();
        view.workers.iter().any(|worker| worker.tenant == tenant && worker.starts)
    }

    /// Whether this worker is on the card and works, by the last look.
    pub fn has_resident(&self, worker: &WorkerId) -> bool {
        let view = self.shared.view.borrow();
        view.workers.iter().any(|w| w.worker == *worker && w.state == WorkerState::Resident)
    }

    /// Gives the card up: nobody gets it any more, and once it is free whoever left is brought back.
    /// Dropping the future cuts that short; the next start makes up for it.
    pub async fn close(&self) {
        self.stop.cancel();
        let mut tasks = std::mem::take(&mut *self.keeper.lock().unwrap_or_else(PoisonError::into_inner));
        while tasks.join_next().await.is_some() {}
    }
}
