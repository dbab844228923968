//! The loop itself: waits, performs what the state machine asks for, writes down what happened.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Settings;
use super::cooldowns::Cooldowns;
use super::lane::{Lane, OpenWork};
use super::make::{Bench, SeedSource};
use super::meaning::PullMeaning;
use super::roster::{Due, Roster};
use super::snapshot::Snapshot;
use super::source::TaskSource;
use super::state::TaskState;
use super::subnet::{Standing, Subnet};
use super::work::{Progress, chain};
use crate::clock::Clock;
use crate::dendrite::CallError;
use crate::net::Backoff;
use crate::primitives::{Hotkey, Prompt, UnixTime, Untrusted};
use crate::store::{Accepted, LaneKey, LaneRecord, NewTask, Store, StoreError};

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
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a miner is made of.
#[derive(Debug)]
pub struct Setup {
    pub hotkey: Hotkey,
    /// Given from the start; the chain may name more.
    pub sources: Vec<TaskSource>,
    /// `None`: the sources stay as they are.
    pub subnet: Option<Subnet>,
    pub bench: Bench,
    pub store: Store,
    pub clock: Clock,
    pub seeds: SeedSource,
    pub settings: Settings,
}

/// Mines with one hotkey.
#[derive(Debug)]
pub struct Miner {
    pub(super) hotkey: Hotkey,
    pub(super) lanes: Vec<Lane>,
    pub(super) bench: Bench,
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) seeds: SeedSource,
    pub(super) settings: Settings,
    /// `None`: the sources are those given at the start.
    pub(super) subnet: Option<Subnet>,
    pub(super) last_prune: UnixTime,
    pub(super) ended: u64,
    pub(super) generator_reachable: bool,
    pub(super) shown: watch::Sender<Option<Snapshot>>,
}

/// Waits between pulls that brought nothing (rules.md R8).
const NOTHING: Backoff = backoff(10, 300);

/// Waits after pulls whose reply was lost: a repeated pull of an assigned task is free (rules.md R8).
const LOST_REPLY: Backoff = backoff(3, 300);

const fn backoff(min_s: u64, max_s: u64) -> Backoff {
    match Backoff::try_new(Duration::from_secs(min_s), Duration::from_secs(max_s)) {
        Ok(backoff) => backoff,
        // Reached only while compiling the constants above.
        Err(_) => panic!("the constants make a backoff"),
    }
}

/// Between two looks at a generator that is gone.
pub(super) const GENERATOR_RETRY: Duration = Duration::from_secs(5);

/// Wait at a validator that does not know us although the chain does (rules.md R8).
const UNREGISTERED_THERE: Duration = Duration::from_secs(600);

const PRUNE_EVERY: Duration = Duration::from_secs(3_600);

impl Miner {
    /// Takes up what the store remembers of each source: cooldowns and open tasks. With a `subnet`
    /// the chain names further ones, and those that leave.
    ///
    /// # Errors
    /// When there is neither a source nor a subnet, or the store fails.
    pub async fn resume(setup: Setup) -> Result<Self, MinerError> {
        let Setup { hotkey, sources, subnet, bench, store, clock, seeds, settings } = setup;
        if sources.is_empty() && subnet.is_none() {
            return Err(MinerError::NoSources);
        }
        let mut miner = Self {
            hotkey,
            lanes: Vec::with_capacity(sources.len()),
            bench,
            store,
            clock,
            seeds,
            settings,
            subnet,
            last_prune: UnixTime::EPOCH,
            ended: 0,
            generator_reachable: true,
            shown: watch::Sender::new(None),
        };
        for source in sources {
            miner.open_lane(source).await?;
        }
        Ok(miner)
    }

    /// What the loop shows of itself; nothing before its first turn.
    pub fn watch(&self) -> watch::Receiver<Option<Snapshot>> {
        self.shown.subscribe()
    }

    async fn open_lane(&mut self, source: TaskSource) -> Result<(), MinerError> {
        let key = LaneKey { source: source.id(), hotkey: self.hotkey };
        let record = self.store.lane(key).await?;
        let mut cooldowns = Cooldowns::new(record, self.settings.margin, self.clock);
        // What the source last said may be lost with the old database.
        if self.store.recovered().is_some() && record == LaneRecord::default() {
            cooldowns.rest(self.settings.cooldown);
        }
        // What has no result and no answer is pulled again: the source may have forgotten it, and
        // if not, gives the same task.
        let stored = self.store.open_task(key).await?.filter(|open| open.stage.is_past_making());
        let open = stored.map(|open| {
            let task = open.task.clone();
            let makes = |prompt: &Prompt| self.bench.generator.makes(prompt.kind());
            OpenWork { task, state: TaskState::resumed(open, makes, &self.settings) }
        });
        if let Some(open) = &open {
            tracing::info!(task = %open.task.id.short(), "Taking up an open task");
        }
        self.lanes.push(Lane { key, source, cooldowns, last_asked: UnixTime::EPOCH, open, leaving: false });
        Ok(())
    }

    /// Takes in what the chain says: new lanes, moved axons, validators that have gone.
    async fn follow_subnet(&mut self) -> Result<(), MinerError> {
        let now = self.clock.now();
        let Some(sources) = self.subnet.as_mut().and_then(|subnet| subnet.look(now)) else { return Ok(()) };
        for lane in &mut self.lanes {
            lane.leaving = true;
        }
        for source in sources {
            match self.lanes.iter_mut().find(|lane| lane.key.source == source.id()) {
                Some(lane) => {
                    lane.source = source;
                    lane.leaving = false;
                }
                None => self.open_lane(source).await?,
            }
        }
        self.lanes.retain(|lane| !lane.leaving || lane.open.is_some());
        Ok(())
    }

    /// Whether tasks may be pulled: not while the chain says that we are not registered.
    fn may_pull(&self) -> bool {
        self.subnet.as_ref().is_none_or(|subnet| subnet.standing() != Standing::NotRegistered)
    }

    /// Mines until the budget is spent or `stop` is cancelled.
    ///
    /// Stopping abandons a generation (the task stays open and comes back) and lets a submission
    /// finish; the caller bounds that by dropping the future. Everything that matters is in the
    /// store at every await.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn run(&mut self, budget: Budget, stop: &CancellationToken) -> Result<Finish, MinerError> {
        loop {
            match budget {
                Budget::Tasks(limit) if self.ended >= limit => return Ok(Finish::Done),
                Budget::Once if self.ended >= 1 => return Ok(Finish::Done),
                _ => {}
            }
            if stop.is_cancelled() {
                return Ok(Finish::Stopped);
            }
            self.prune().await;
            self.follow_subnet().await?;
            self.show();
            let now = self.clock.now();
            let next = self.next_lane(budget, now);
            let position = match next {
                Some((position, due)) if due <= now => position,
                _ => {
                    if budget == Budget::Once && self.lanes.iter().all(|lane| lane.open.is_none()) {
                        if next.is_some() {
                            return Ok(Finish::NothingDue);
                        }
                        if !self.awaits_first_sync() {
                            return Ok(Finish::NoSubnet);
                        }
                    }
                    if !self.wait(next.map(|(_, due)| due), stop).await {
                        return Ok(Finish::Stopped);
                    }
                    continue;
                }
            };
            if self.lanes[position].open.is_none() {
                if budget == Budget::Once && !self.bench.generator.is_reachable().await {
                    return Ok(Finish::NoGenerator);
                }
                if !self.finds_generator(stop).await {
                    continue;
                }
                self.pull(position, stop).await?;
                self.show();
            }
            match self.work(position, stop).await? {
                Some(Progress::Ended) => self.ended += 1,
                Some(Progress::Stopped) => return Ok(Finish::Stopped),
                Some(Progress::Later) | None => {}
            }
        }
    }

    /// Waits until `due`, for news from the chain, or for the order to stop (then false).
    async fn wait(&mut self, due: Option<UnixTime>, stop: &CancellationToken) -> bool {
        let clock = self.clock;
        let subnet = &mut self.subnet;
        let news = async {
            match subnet {
                Some(subnet) => subnet.changed().await,
                None => std::future::pending().await,
            }
        };
        let time = async {
            match due {
                Some(due) => clock.sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => false,
            () = time => true,
            () = news => true,
        }
    }

    /// Whether the chain may still name somebody to ask.
    fn awaits_first_sync(&self) -> bool {
        self.subnet
            .as_ref()
            .is_some_and(|subnet| subnet.standing() == Standing::Unknown && !subnet.is_in_the_dark())
    }

    /// The lane to turn to, and when: none if nobody may be asked and nothing is open. With a single
    /// task to do, one that is open comes before all.
    fn next_lane(&self, budget: Budget, now: UnixTime) -> Option<(usize, UnixTime)> {
        let open_only =
            !self.may_pull() || budget == Budget::Once && self.lanes.iter().any(|lane| lane.open.is_some());
        let wanted: Vec<usize> = (0..self.lanes.len())
            .filter(|i| self.lanes[*i].open.is_some() || !open_only && !self.lanes[*i].leaving)
            .collect();
        let dues: Vec<Due> = wanted.iter().map(|i| self.lanes[*i].due()).collect();
        let chosen = Roster::next(&dues, now)?;
        Some((wanted[chosen], dues[chosen].at))
    }

    /// Publishes what the loop is doing.
    fn show(&self) {
        let lanes = self.lanes.iter().map(Lane::snapshot).collect();
        let standing = self.subnet.as_ref().map_or(Standing::Unknown, Subnet::standing);
        self.shown.send_replace(Some(Snapshot {
            at: self.clock.now(),
            hotkey: self.hotkey,
            standing,
            ended: self.ended,
            generator_reachable: self.generator_reachable,
            lanes,
        }));
    }

    /// Asks one lane for a task and files what it says.
    async fn pull(&mut self, position: usize, stop: &CancellationToken) -> Result<(), MinerError> {
        let lane = &mut self.lanes[position];
        lane.last_asked = self.clock.now();
        let source = lane.source.clone();
        let result = tokio::select! {
            // A pull may assign a task; the validator gives the same one again after a restart.
            () = stop.cancelled() => return Ok(()),
            result = source.pull() => result,
        };
        let now = self.clock.now();
        let validator = lane.key.source.name();
        match PullMeaning::read(result) {
            PullMeaning::Assigned { task, reply } => {
                lane.cooldowns.observe(&reply);
                lane.cooldowns.answered();
                let new = NewTask {
                    id: self.seeds.local_id(now),
                    lane: lane.key,
                    task_id: task.id,
                    prompt: task.prompt,
                    threshold: reply.reply.threshold,
                    throttle_s: reply.reply.throttle_s,
                    pulled_at: now,
                };
                let makes = |prompt: &Prompt| self.bench.generator.makes(prompt.kind());
                let (open, again) = match self.store.accept(new).await? {
                    Accepted::New(task) => {
                        let state = TaskState::new(&task, makes, &self.settings);
                        (OpenWork { task, state }, "")
                    }
                    Accepted::Known(open) => {
                        let task = open.task.clone();
                        (OpenWork { task, state: TaskState::resumed(open, makes, &self.settings) }, " again")
                    }
                };
                tracing::info!(
                    validator = %validator, task = %open.task.id.short(), kind = %open.task.prompt.kind(),
                    "Pulled a task{again} ({})", Untrusted::prompt(&open.task.prompt)
                );
                lane.open = Some(open);
            }
            PullMeaning::Cooling { until, reply } => {
                lane.cooldowns.observe(&reply);
                // A cooldown that is over and no task: as good as no answer, and no reason to ask at once.
                let wait = if lane.cooldowns.cool_until(until) {
                    lane.cooldowns.due().saturating_since(now)
                } else {
                    lane.cooldowns.fail(NOTHING)
                };
                // About an hour is what an unregistered hotkey is told (rules.md R4).
                if wait > self.settings.cooldown + Duration::from_secs(2_400) {
                    let known = self.subnet.as_ref().map(Subnet::standing);
                    if matches!(known, Some(Standing::Registered { .. })) {
                        // Its copy of the chain is older than ours; it looks again within ten minutes.
                        lane.cooldowns.look_again(UNREGISTERED_THERE);
                        if let Some(subnet) = &self.subnet {
                            subnet.doubt();
                        }
                    }
                    let wait = lane.cooldowns.due().saturating_since(now);
                    tracing::warn!(%validator, wait_s = wait.as_secs(), "The validator gives no task for long, as to a hotkey that is not registered");
                } else {
                    tracing::debug!(%validator, wait_s = wait.as_secs(), "Cooling down");
                }
                self.store.set_lane(lane.key, lane.cooldowns.record()).await?;
            }
            PullMeaning::Nothing => {
                let wait = lane.cooldowns.fail(NOTHING);
                tracing::debug!(%validator, wait_s = wait.as_secs(), "No task and no time given");
            }
            PullMeaning::MaybeAssigned(error) => {
                let wait = lane.cooldowns.fail(LOST_REPLY);
                tracing::warn!(%validator, wait_s = wait.as_secs(), error = %chain(&error), "The reply to a pull was lost, asking again");
            }
            PullMeaning::Failed(error) => {
                // As its blacklist answers a hotkey it does not know.
                if matches!(&error, CallError::Refused { status, .. } if *status == http::StatusCode::FORBIDDEN)
                    && let Some(subnet) = &self.subnet
                {
                    subnet.doubt();
                }
                let wait = lane.cooldowns.fail(NOTHING);
                tracing::warn!(%validator, wait_s = wait.as_secs(), error = %chain(&error), "The validator could not be asked");
            }
        }
        Ok(())
    }

    /// Nothing is pulled for a generator that is gone: false after a moment's wait, in which the
    /// registration or the lane may have gone too, or when told to stop.
    async fn finds_generator(&mut self, stop: &CancellationToken) -> bool {
        let reachable = tokio::select! {
            () = stop.cancelled() => return false,
            reachable = self.bench.generator.is_reachable() => reachable,
        };
        if reachable != self.generator_reachable {
            self.generator_reachable = reachable;
            self.show();
            if reachable {
                tracing::info!(worker = self.bench.generator.name(), "The generator is back");
            } else {
                tracing::warn!(
                    worker = self.bench.generator.name(), endpoint = %self.bench.generator.endpoint(),
                    "The generator is not reachable, no task is pulled: start it, or correct its url in the configuration"
                );
            }
        }
        if !reachable {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.clock.sleep(GENERATOR_RETRY) => {}
            }
        }
        reachable
    }

    async fn prune(&mut self) {
        let now = self.clock.now();
        if now.saturating_since(self.last_prune) < PRUNE_EVERY {
            return;
        }
        self.last_prune = now;
        match self.store.prune(now - self.settings.keep_results).await {
            Ok(0) => {}
            Ok(removed) => tracing::debug!(removed, "Old results removed"),
            Err(error) => tracing::warn!(%error, "Old results could not be removed"),
        }
    }
}
