//! Worker processes under an arbiter: what it can do to them, done.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::Value;
use sn17_miner::clock::Clock;
use sn17_miner::gpu::probe::{Nvml, NvmlLibrary, ProbeError, VramProbe};
use sn17_miner::gpu::{
    EffectError, Effects, HandoffId, HandoffLog, Intent, LogError, ProcessMemory, Reading, Song, StepTaken,
    WorkerId,
};
use sn17_miner::net::Endpoint;
use sn17_miner::primitives::{MiB, Prompt, UnixTime};
use sn17_miner::splat::Spz;
use sn17_miner::store::{HandoffRecord, HandoffStep, Store, StoreError};
use sn17_miner::workers::{Claim, Judgement, MemoryControl, Scorer, ScorerSettings, VerbError, VerbReply};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::dev_workers::{CARD, DevCard, PATIENCE, UUID, change_faults, command, limits, memory, sockets};
use super::stand_in::StandIn;

/// How long one is let end by itself.
const GRACE: Duration = Duration::from_millis(300);

/// One worker's process, started again at the same address whenever it is asked for.
#[derive(Debug)]
pub struct Hand {
    dialect: &'static str,
    arguments: Vec<String>,
    pub address: SocketAddr,
    child: tokio::sync::Mutex<Option<Child>>,
    memory: Option<MemoryControl>,
    scorer: Option<Scorer>,
}

/// All that can be done to them.
#[derive(Debug)]
pub struct Crew {
    pub card: DevCard,
    hands: BTreeMap<WorkerId, Hand>,
    /// The driver's library; `None`: it cannot be built here, and the ledger itself is looked at.
    driver: Option<(StandIn, Nvml)>,
    canary: (Prompt, Spz),
}

impl Crew {
    /// Nobody is on the card yet.
    pub fn new(card: DevCard, canary: (Prompt, Spz)) -> Self {
        let driver = StandIn::new("").map(|library| {
            library.follow(&card.file());
            let probe = NvmlLibrary::new(Some(library.library()), PATIENCE).card(UUID);
            (library, probe)
        });
        Self { card, hands: BTreeMap::new(), driver, canary }
    }

    /// Starts a worker. `patience`: for its verbs, if it has any.
    pub async fn hire(
        &mut self,
        name: &str,
        dialect: &'static str,
        patience: Option<Duration>,
        arguments: &[&str],
    ) {
        let arguments: Vec<_> = ["--name", name].iter().chain(arguments).map(ToString::to_string).collect();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let (child, address) = self.run(dialect, &arguments, nowhere).await.unwrap();
        let endpoint = Endpoint::of(address);
        let scorer = (dialect == "three-gen").then(|| {
            let (name, limits) = (name.to_owned(), limits(patience.unwrap_or(PATIENCE)));
            Scorer::new(
                ScorerSettings { name, endpoint: endpoint.clone(), limits },
                sockets(),
                Clock::system(),
            )
        });
        let memory = patience.map(|patience| memory(endpoint, dialect, patience));
        let child = tokio::sync::Mutex::new(Some(child));
        self.hands.insert(name.into(), Hand { dialect, arguments, address, child, memory, scorer });
    }

    pub fn address(&self, name: &str) -> SocketAddr {
        self.hands[name].address
    }

    /// Other faults for all of them; those that have no ears at present get theirs when they are started.
    pub async fn change_faults(&self, faults: &str) {
        for hand in self.hands.values() {
            // One that is gone comes back with what it was hired with.
            let _ = change_faults(Endpoint::of(hand.address), faults).await;
        }
    }

    async fn run(
        &self,
        dialect: &str,
        arguments: &[String],
        address: SocketAddr,
    ) -> Result<(Child, SocketAddr), EffectError> {
        let failed = |error: std::io::Error| EffectError::Refused(error.to_string());
        let listen = address.to_string();
        let arguments: Vec<&str> =
            ["--listen", &listen].into_iter().chain(arguments.iter().map(String::as_str)).collect();
        let mut command = Command::from(command(&self.card, dialect, &arguments));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().map_err(failed)?;
        let out = child.stdout.take().expect("it was asked for");
        let mut lines = BufReader::new(out).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
        let line = line.map_err(|_| EffectError::TimedOut(PATIENCE))?.map_err(failed)?;
        let line = line.ok_or_else(|| EffectError::Refused("it ended before it was ready".into()))?;
        let said: Value = serde_json::from_str(&line).expect("it says where it listens");
        Ok((child, said["address"].as_str().unwrap().parse().unwrap()))
    }

    fn hand(&self, worker: &WorkerId) -> &Hand {
        &self.hands[worker]
    }

    async fn verb(
        &self,
        worker: &WorkerId,
        verb: impl AsyncFnOnce(&MemoryControl) -> Result<VerbReply, VerbError>,
    ) -> Result<(), EffectError> {
        let memory = self.hand(worker).memory.as_ref().ok_or(EffectError::Unsupported)?;
        match verb(memory).await {
            Ok(VerbReply { claim: Claim::Failed(why), .. }) => Err(EffectError::Refused(why)),
            Ok(_) => Ok(()),
            Err(VerbError::Silent(time)) => Err(EffectError::TimedOut(time)),
            Err(VerbError::Unsupported { .. }) => Err(EffectError::Unsupported),
            Err(error @ VerbError::Unreachable(_)) => Err(EffectError::Unreachable(error.to_string())),
            Err(error) => Err(EffectError::Refused(error.to_string())),
        }
    }

    async fn look(&self) -> Result<Option<Reading>, EffectError> {
        // Nothing but the card itself is to be believed.
        let (total, free, processes) = match &self.driver {
            Some((_, driver)) => {
                let seen = driver.read().await.map_err(|error| match error {
                    ProbeError::Gone(card) => EffectError::CardLost(card),
                    error => EffectError::Unreachable(error.to_string()),
                })?;
                let processes = seen.processes.unwrap_or_default().into_iter();
                (
                    seen.total,
                    seen.free,
                    processes.map(|p| (p.pid, p.used.unwrap_or_default())).collect::<Vec<_>>(),
                )
            }
            None => {
                let state = self.card.state();
                let processes = state.holders.iter().map(|holder| (holder.pid, holder.held)).collect();
                (CARD, state.free(), processes)
            }
        };
        let mut pids = BTreeMap::new();
        for (id, hand) in &self.hands {
            // While one is being started or stopped its process belongs to nobody.
            let pid = hand.child.try_lock().ok().and_then(|child| child.as_ref().and_then(Child::id));
            pids.extend(pid.map(|pid| (pid, id.clone())));
        }
        let process = |(pid, used): (u32, MiB)| ProcessMemory { pid, used, worker: pids.get(&pid).cloned() };
        let reading =
            Reading::new(total, free).map_err(|error| EffectError::Unreachable(error.to_string()))?;
        Ok(Some(reading.with_processes(processes.into_iter().map(process).collect())))
    }

    async fn sing(&self, worker: &WorkerId) -> Result<Song, EffectError> {
        let scorer = self.hand(worker).scorer.as_ref().ok_or(EffectError::Unsupported)?;
        match scorer.score(&self.canary.0, &self.canary.1).await {
            Ok((Judgement::Scored(scores), _)) if scores.score.get() > 0.6 => Ok(Song::Sings),
            Ok(_) => Ok(Song::Silent),
            Err(error) => Err(EffectError::Unreachable(error.to_string())),
        }
    }
}

impl Effects for Crew {
    fn probe(&self) -> BoxFuture<'_, Result<Option<Reading>, EffectError>> {
        Box::pin(self.look())
    }

    fn unload<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(self.verb(worker, async |memory| memory.unload().await))
    }

    fn load<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(self.verb(worker, async |memory| memory.load().await))
    }

    fn cleanup<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(self.verb(worker, async |memory| memory.cleanup().await))
    }

    fn start<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(async {
            let hand = self.hand(worker);
            let mut child = hand.child.lock().await;
            if child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None))) {
                return Ok(());
            }
            let (started, _) = self.run(hand.dialect, &hand.arguments, hand.address).await?;
            *child = Some(started);
            Ok(())
        })
    }

    fn stop<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(async {
            let mut child = self.hand(worker).child.lock().await;
            let Some(running) = child.as_mut() else { return Ok(()) };
            if let Some(pid) = running.id() {
                // It may have ended already.
                let _ = Command::new("sh").args(["-c", &format!("kill -TERM {pid}")]).output().await;
            }
            if tokio::time::timeout(GRACE, running.wait()).await.is_err() {
                running.kill().await.map_err(|error| EffectError::Refused(error.to_string()))?;
            }
            *child = None;
            Ok(())
        })
    }

    fn canary<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<Song, EffectError>> {
        Box::pin(self.sing(worker))
    }
}

/// The journal in a store, as the agent keeps it.
#[derive(Debug)]
pub struct Journal(pub Store);

impl HandoffLog for Journal {
    fn begin(&self, intent: Intent) -> BoxFuture<'_, Result<HandoffId, LogError>> {
        let Intent { card, at, cause, wanted, evicted } = intent;
        let evicted = evicted.iter().map(ToString::to_string).collect();
        let record =
            HandoffRecord { card, at, cause: cause.to_string(), wanted: wanted.to_string(), evicted };
        Box::pin(async { self.0.begin_handoff(record).await.map(HandoffId).map_err(log_error) })
    }

    fn step(&self, id: HandoffId, taken: StepTaken) -> BoxFuture<'_, Result<(), LogError>> {
        let StepTaken { step, at, took, failure } = taken;
        let worker = step.worker().map(ToString::to_string);
        let step = HandoffStep { verb: step.verb().to_owned(), worker, at, took, failure };
        Box::pin(async move { self.0.handoff_step(id.0, step).await.map_err(log_error) })
    }

    fn commit(&self, id: HandoffId, at: UnixTime) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move { self.0.end_handoff(id.0, at, None).await.map_err(log_error) })
    }

    fn fail(&self, id: HandoffId, at: UnixTime, why: String) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move { self.0.end_handoff(id.0, at, Some(why)).await.map_err(log_error) })
    }
}

fn log_error(error: StoreError) -> LogError {
    LogError(error.to_string())
}
