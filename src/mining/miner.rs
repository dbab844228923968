//! The loop itself: owns every lane and card, waits in one place, and is told by jobs what happened.
//!
//! A turn of the loop gives out what can be given out (`dispatch`), then waits for a job to report,
//! a timer, news from the chain or the order to stop, and takes that in (`filing`). Neither awaits,
//! so no call of a validator, worker or disk holds up another lane.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cards::{Card, CardNo, Turn};
use super::economy::Measures;
use super::guard::Guard;
use super::jobs::{self, Done, Tools};
use super::lane::{Errand, Lane, LaneNo};
use super::make::{Bench, SeedSource};
use super::prices::Prices;
use super::room::Room;
use super::snapshot::Snapshot;
use super::source::TaskSource;
use super::state::Step;
use super::subnet::{Standing, Subnet};
use super::tally::Tally;
use super::{Settings, demotion::Acceptance};
use crate::clock::{Clock, Moment};
use crate::primitives::{Hotkey, UnixTime};
use crate::store::{LaneKey, Store, StoreError};

/// How much to do before stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// Until told to stop.
    Endless,
    /// Until this many tasks have ended.
    Tasks(u64),
    /// At most one task, and no waiting for a cooldown.
    Once,
}

/// Why the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The budget is spent.
    Done,
    /// `Once`, and no lane had a task to give.
    NothingDue,
    /// `Once`, and the generator is not reachable.
    NoGenerator,
    /// `Once`, and the chain names nobody to ask: it cannot be read, or we are not registered.
    NoSubnet,
    Stopped,
}

/// The loop cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum MinerError {
    #[error("no source of tasks")]
    NoSources,
    #[error("no card to make anything with")]
    NoCards,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One of our hotkeys and where it may mine.
#[derive(Debug)]
pub struct Member {
    pub hotkey: Hotkey,
    /// Given from the start; the chain may name more.
    pub sources: Vec<TaskSource>,
    /// `None`: the sources stay as they are.
    pub subnet: Option<Subnet>,
}

/// What a miner is made of.
#[derive(Debug)]
pub struct Setup {
    pub members: Vec<Member>,
    /// The cards and the workers on each.
    pub benches: Vec<Bench>,
    pub store: Store,
    pub clock: Clock,
    pub seeds: SeedSource,
    pub settings: Settings,
}

/// A hotkey, as the loop sees it.
#[derive(Debug)]
pub(super) struct Ours {
    pub(super) hotkey: Hotkey,
    pub(super) subnet: Option<Subnet>,
    pub(super) guard: Guard,
}

impl Ours {
    /// Whether tasks may be pulled: not while the chain says that we are not registered, nor while
    /// another process seems to use the hotkey.
    pub(super) fn may_pull(&self, now: UnixTime) -> bool {
        self.standing() != Standing::NotRegistered && self.guard.paused_until(now).is_none()
    }

    pub(super) fn standing(&self) -> Standing {
        self.subnet.as_ref().map_or(Standing::Unknown, Subnet::standing)
    }
}

/// A job under way.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) handle: AbortHandle,
    pub(super) job: Job,
    pub(super) since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Job {
    Pull(LaneNo),
    Card(LaneNo, CardNo, Turn),
    Answer(LaneNo),
    /// A lane is read from the store.
    Open,
    Look(CardNo),
    Prune,
}

impl Job {
    /// Nothing is lost if it ends early.
    const fn is_chore(self) -> bool {
        matches!(self, Self::Open | Self::Look(_) | Self::Prune)
    }
}

/// A pull that takes longer gives its slot to another lane: its validator may be one that never
/// answers.
const SLOW_PULL: Duration = Duration::from_secs(3);

impl Running {
    /// When it counts as a slow pull, if it is one at all.
    pub(super) fn slow_pull(&self) -> Option<Instant> {
        matches!(self.job, Job::Pull(_)).then(|| self.since + SLOW_PULL)
    }
}

/// Where a lane is listed while no job works for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listed {
    Resting(Instant),
    Answer(Instant),
    /// By when its task was pulled; and since when it waits.
    Card(UnixTime, Instant),
}

/// Mines with one or several hotkeys on one or several cards.
#[derive(Debug)]
pub struct Miner {
    pub(super) tools: Arc<Tools>,
    pub(super) ours: Vec<Ours>,
    pub(super) lanes: BTreeMap<LaneNo, Lane>,
    next_lane: u32,
    pub(super) listed: HashMap<LaneNo, Listed>,
    /// Lanes that rest, by when they may be asked.
    pub(super) resting: BTreeSet<(Instant, LaneNo)>,
    /// Lanes with an answer to send, by when it may go.
    pub(super) answers: BTreeSet<(Instant, LaneNo)>,
    /// Lanes whose task wants a card, the oldest task first.
    pub(super) waiting: BTreeSet<(UnixTime, LaneNo)>,
    pub(super) cards: Vec<Card>,
    pub(super) jobs: JoinSet<Done>,
    pub(super) running: HashMap<Id, Running>,
    pub(super) pulling: u32,
    pub(super) answering: usize,
    /// Lanes being read from the store.
    pub(super) opening: usize,
    pub(super) measures: Measures,
    /// The worth of time, and when it was reckoned.
    pub(super) prices: Option<(Instant, Prices)>,
    pub(super) ended: u64,
    pub(super) stopping: Option<Instant>,
    pub(super) last_prune: UnixTime,
    pub(super) tally: Arc<Mutex<Tally>>,
    shown: watch::Sender<Option<Snapshot>>,
    last_shown: Option<Instant>,
}

/// So many tries without an end, the lock waited out between them, are no accident.
const STUCK: u32 = 3;

const PRUNE_EVERY: Duration = Duration::from_secs(3_600);

/// Between two copies of the state for whoever looks.
const SHOW_EVERY: Duration = Duration::from_millis(250);

/// No wait is longer, so that nothing is overlooked for long.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// An answer is held back for a lock or a backoff, never as long as a clock that was set back says.
const LONGEST_LOCK: Duration = Duration::from_secs(3_600);

impl Miner {
    /// Takes up what the store remembers of each source: cooldowns and open tasks. With a `subnet`
    /// the chain names further ones, and those that leave.
    ///
    /// # Errors
    /// When there is neither a source nor a subnet, no card, or the store fails.
    pub async fn resume(setup: Setup) -> Result<Self, MinerError> {
        let Setup { members, benches, store, clock, seeds, settings } = setup;
        if members.iter().all(|member| member.sources.is_empty() && member.subnet.is_none()) {
            return Err(MinerError::NoSources);
        }
        if benches.is_empty() {
            return Err(MinerError::NoCards);
        }
        let limit = settings.doppelganger_limit;
        let measures = Measures::recalled(&store, clock.now(), settings.gate_margin).await?;
        let now = clock.instant();
        let cards = benches.iter().map(|_| Card::new(now)).collect();
        let room = Room::default();
        let tools = Arc::new(Tools { benches, store, room, clock, seeds, settings });
        let mut miner = Self {
            tools,
            ours: Vec::with_capacity(members.len()),
            lanes: BTreeMap::new(),
            next_lane: 0,
            listed: HashMap::new(),
            resting: BTreeSet::new(),
            answers: BTreeSet::new(),
            waiting: BTreeSet::new(),
            cards,
            jobs: JoinSet::new(),
            running: HashMap::new(),
            pulling: 0,
            answering: 0,
            opening: 0,
            measures,
            prices: None,
            ended: 0,
            stopping: None,
            last_prune: UnixTime::EPOCH,
            tally: Arc::default(),
            shown: watch::Sender::new(None),
            last_shown: None,
        };
        for (number, Member { hotkey, sources, subnet }) in members.into_iter().enumerate() {
            miner.ours.push(Ours { hotkey, subnet, guard: Guard::new(limit) });
            for source in sources {
                let key = LaneKey { source: source.id(), hotkey };
                let lane = jobs::open(Arc::clone(&miner.tools), number, key, source).await?;
                miner.add_lane(*lane);
            }
        }
        Ok(miner)
    }

    /// What the loop shows of itself; nothing before its first turn.
    pub fn watch(&self) -> watch::Receiver<Option<Snapshot>> {
        self.shown.subscribe()
    }

    /// Counts of this run, kept up to date while it lasts.
    pub fn tally(&self) -> Arc<Mutex<Tally>> {
        Arc::clone(&self.tally)
    }

    /// Mines until the budget is spent or `stop` is cancelled.
    ///
    /// When told to stop nothing more is pulled. What will not be done within `settings.grace` is
    /// abandoned (its task stays open and comes back), everything else is finished. The caller bounds that by dropping the future: everything that matters is in the
    /// store at every await.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn run(&mut self, budget: Budget, stop: &CancellationToken) -> Result<Finish, MinerError> {
        loop {
            if stop.is_cancelled() && self.stopping.is_none() {
                self.begin_stop();
            }
            self.follow_subnets();
            self.prune();
            self.dispatch(budget);
            if let Some(finish) = self.finished(budget) {
                self.show(true);
                return Ok(finish);
            }
            self.show(false);
            let wait = self.until_next();
            let clock = self.tools.clock;
            let done = {
                let Self { ours, jobs, stopping, .. } = self;
                // One chain, one feed: what reaches one of ours reaches all.
                let subnet = ours.iter_mut().find_map(|ours| ours.subnet.as_mut());
                let news = async {
                    match subnet {
                        Some(subnet) => subnet.changed().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = stop.cancelled(), if stopping.is_none() => None,
                    Some(done) = jobs.join_next_with_id() => Some(done),
                    () = clock.sleep(wait) => None,
                    () = news => None,
                }
            };
            if let Some(done) = done {
                self.take(done)?;
            }
        }
    }

    /// Why the loop ends now, if it does.
    fn finished(&self, budget: Budget) -> Option<Finish> {
        match budget {
            Budget::Tasks(limit) if self.ended >= limit => return Some(Finish::Done),
            Budget::Once if self.ended >= 1 => return Some(Finish::Done),
            _ => {}
        }
        if let Some(left) = self.grace_left() {
            let at_work = self.running.values().any(|running| !running.job.is_chore());
            let in_time = self.tools.clock.instant() + left;
            let sending = self.answers.first().is_some_and(|(at, _)| *at <= in_time);
            let making = !self.waiting.is_empty() && self.makes_in_time();
            return (!at_work && !sending && !making).then_some(Finish::Stopped);
        }
        if budget == Budget::Once && self.opening == 0 && self.begun() == 0 {
            if self.cards.iter().all(Card::is_gone) {
                return Some(Finish::NoGenerator);
            }
            let asks = self
                .lanes
                .values()
                .any(|lane| !lane.leaving && self.ours[lane.member].may_pull(self.tools.clock.now()));
            if asks {
                return Some(Finish::NothingDue);
            }
            let awaited = self.ours.iter().any(|ours| {
                ours.subnet
                    .as_ref()
                    .is_some_and(|subnet| subnet.standing() == Standing::Unknown && !subnet.is_in_the_dark())
            });
            if !awaited {
                return Some(Finish::NoSubnet);
            }
        }
        None
    }

    /// No more pulls; what cannot be done in time is left, to be taken up after the next start.
    fn begin_stop(&mut self) {
        let now = self.tools.clock.instant();
        self.stopping = Some(now);
        let (making, judging) = (self.measures.making(), self.measures.judging());
        let grace = self.tools.settings.grace;
        for running in self.running.values() {
            let left = match running.job {
                Job::Open | Job::Look(_) | Job::Prune => Duration::MAX,
                // Its task may be ours already: if there is time for that one, it is answered.
                Job::Pull(_) => self.measures.candidate() + self.measures.answering(),
                Job::Card(_, _, Turn::Making) => making.saturating_sub(now - running.since),
                Job::Card(_, _, Turn::Judging) => judging.saturating_sub(now - running.since),
                Job::Answer(_) => Duration::ZERO,
            };
            if left > grace {
                running.handle.abort();
            }
        }
    }

    /// What is left of the time to finish in, once told to stop.
    pub(super) fn grace_left(&self) -> Option<Duration> {
        let since = self.stopping?;
        Some(self.tools.settings.grace.saturating_sub(since.elapsed()))
    }

    /// Whether a candidate may be begun: when told to stop, only if it will be done in time.
    pub(super) fn makes_in_time(&self) -> bool {
        let needed = self.measures.candidate() + self.measures.answering();
        let can = self.cards.iter().any(|card| !card.is_gone());
        self.grace_left().is_none_or(|left| can && needed <= left)
    }

    /// Lanes that are at a task or ask for one. Not those whose answer was not settled again and
    /// again: a budget does not wait for a validator that never settles.
    pub(super) fn begun(&self) -> usize {
        let now = self.tools.clock.instant();
        let stuck = self
            .answers
            .range((now, LaneNo(u32::MAX))..)
            .filter(|(_, no)| self.lanes.get(no).is_some_and(|lane| lane.tries() >= STUCK));
        let resting = self.lanes.values().filter(|lane| matches!(lane.errand, Errand::Resting)).count();
        self.lanes.len() - resting - stuck.count()
    }

    /// How long nothing will happen by itself.
    fn until_next(&self) -> Duration {
        let now = self.tools.clock.instant();
        // Those that are due wait for a card or a permit, not for a time.
        let after = |listed: &BTreeSet<(Instant, LaneNo)>| {
            listed.range((now, LaneNo(u32::MAX))..).next().map(|(at, _)| *at)
        };
        let lane = if self.stopping.is_none() { after(&self.resting) } else { None };
        let card = (0..self.cards.len()).filter_map(|card| self.card_timer(CardNo(card), now)).min();
        let show = self.last_shown.filter(|_| self.shown.receiver_count() > 0).map(|at| at + SHOW_EVERY);
        let slow = self.running.values().filter_map(Running::slow_pull).filter(|at| *at > now).min();
        let timers = [lane, after(&self.answers), card, slow, show.filter(|at| *at > now)];
        let next = timers.into_iter().flatten().min();
        next.map_or(LONGEST_WAIT, |at| (at - now).min(LONGEST_WAIT))
    }

    /// Publishes what the loop is doing: at its end, and now and then if somebody looks.
    fn show(&mut self, last: bool) {
        let now = self.tools.clock.instant();
        let recent = self.last_shown.is_some_and(|at| now < at + SHOW_EVERY);
        if !last && (recent || self.shown.receiver_count() == 0) {
            return;
        }
        self.last_shown = Some(now);
        let snapshot = self.snapshot();
        self.shown.send_replace(Some(snapshot));
    }

    /// Takes in what the chain says: new lanes, moved axons, validators that have gone.
    fn follow_subnets(&mut self) {
        let now = self.tools.clock.now();
        for member in 0..self.ours.len() {
            let hotkey = self.ours[member].hotkey;
            let Some(sources) = self.ours[member].subnet.as_mut().and_then(|subnet| subnet.look(now)) else {
                continue;
            };
            for lane in self.lanes.values_mut().filter(|lane| lane.member == member) {
                lane.leaving = true;
            }
            for source in sources {
                let key = LaneKey { source: source.id(), hotkey };
                match self.lanes.values_mut().find(|lane| lane.key == key) {
                    Some(lane) => {
                        lane.source = source;
                        lane.leaving = false;
                    }
                    None => {
                        self.opening += 1;
                        let tools = Arc::clone(&self.tools);
                        self.spawn(Job::Open, async move {
                            Done::Opened(jobs::open(tools, member, key, source).await)
                        });
                    }
                }
            }
        }
        let gone: Vec<LaneNo> = self
            .lanes
            .iter()
            .filter(|(_, lane)| lane.leaving && matches!(lane.errand, Errand::Resting))
            .map(|(no, _)| *no)
            .collect();
        for no in gone {
            self.unlist(no);
            self.lanes.remove(&no);
        }
    }

    pub(super) fn add_lane(&mut self, lane: Lane) {
        // The chain may name a source again while it is being opened.
        if self.lanes.values().any(|known| known.key == lane.key) {
            return;
        }
        let no = LaneNo(self.next_lane);
        self.next_lane += 1;
        self.lanes.insert(no, lane);
        self.relist(no);
    }

    pub(super) fn spawn(&mut self, job: Job, work: impl Future<Output = Done> + Send + 'static) {
        let handle = self.jobs.spawn(work);
        let since = self.tools.clock.instant();
        self.running.insert(handle.id(), Running { handle, job, since });
    }

    fn unlist(&mut self, no: LaneNo) {
        match self.listed.remove(&no) {
            Some(Listed::Resting(at)) => self.resting.remove(&(at, no)),
            Some(Listed::Answer(at)) => self.answers.remove(&(at, no)),
            Some(Listed::Card(at, _)) => self.waiting.remove(&(at, no)),
            None => false,
        };
    }

    /// Lists a lane by what it waits for now. Called after every change of its errand.
    pub(super) fn relist(&mut self, no: LaneNo) {
        self.unlist(no);
        let Some(lane) = self.lanes.get(&no) else { return };
        let listed = match &lane.errand {
            Errand::Resting => Listed::Resting(lane.due()),
            Errand::Open(work) => match work.state.step() {
                Step::Answer { not_before } => {
                    let Moment { wall, instant } = self.tools.clock.moment();
                    Listed::Answer(instant + not_before.saturating_since(wall).min(LONGEST_LOCK))
                }
                Step::Make | Step::Judge => Listed::Card(work.task.pulled_at, self.tools.clock.instant()),
                Step::Nothing => return,
            },
            Errand::Pulling | Errand::Making(_) | Errand::Answering(_) => return,
        };
        match listed {
            Listed::Resting(at) => self.resting.insert((at, no)),
            Listed::Answer(at) => self.answers.insert((at, no)),
            Listed::Card(at, _) => self.waiting.insert((at, no)),
        };
        self.listed.insert(no, listed);
    }

    fn prune(&mut self) {
        let now = self.tools.clock.now();
        if self.stopping.is_some() || now.saturating_since(self.last_prune) < PRUNE_EVERY {
            return;
        }
        self.last_prune = now;
        self.measures.calibrate(now);
        let tools = Arc::clone(&self.tools);
        self.spawn(Job::Prune, async move {
            Done::Pruned(tools.store.prune(now - tools.settings.keep_results).await)
        });
    }

    /// Lanes that may be asked for a task by then, for their cooldown and otherwise.
    pub(super) fn askable(&self, by: Instant) -> usize {
        let due = self.resting.range(..=(by, LaneNo(u32::MAX)));
        let now = self.tools.clock.moment();
        if !self.measures.has_demoted() && self.ours.iter().all(|ours| ours.may_pull(now.wall)) {
            return due.count();
        }
        due.filter(|(_, no)| self.lanes.get(no).is_some_and(|lane| self.may_ask(lane, now))).count()
    }

    /// Whether a lane may be asked for a task, its cooldown aside.
    pub(super) fn may_ask(&self, lane: &Lane, now: Moment) -> bool {
        if lane.leaving || !self.ours[lane.member].may_pull(now.wall) {
            return false;
        }
        // One probe per window for the floor (rules.md R9, "Which validator"); a task that is ours already
        // is answered.
        !self.measures.is_demoted(&lane.key.source)
            || lane.assigned
            || lane.last_task.is_none_or(|at| now.wall.saturating_since(at) >= Acceptance::PROBE_EVERY)
    }
}
