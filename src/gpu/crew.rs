//! The workers of a card as they really are: HTTP verbs, processes, the driver.
//!
//! What a verb says is passed on as a claim; whether it is true the arbiter sees on the device. Who holds
//! how much is told only where the processes of every worker of the card are known: a worker in another
//! container would seem to hold nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::effects::{EffectError, Effects, Song};
use super::probe::{self, ProbeError, VramProbe};
use super::reading::{ProcessMemory, Reading};
use super::worker::{Abilities, WorkerId};
use crate::clock::Clock;
use crate::net::NetError;
use crate::primitives::MiB;
use crate::store::Store;
use crate::workers::{
    Claim, Judgement, Listener, Means, MemoryControl, ProcessError, ProcessStamp, ProcessTree, ScoreError,
    Scorer, Verb, VerbError, VerbReply, WorkerProcess, listener,
};

/// A canary's score may differ by so much: some scorers are not quite the same twice.
const OFF_KEY: f64 = 0.1;

/// The owner of a port is looked for again after this.
const OWNER_KEPT: Duration = Duration::from_secs(5);

/// Less of the last moments is no work: a desktop draws now and then. In percent.
const BUSY: u8 = 5;

/// A worker may hold so much beyond its share before it is told of.
const SLACK: MiB = MiB(300);

/// Workers that tell of the card must not have run for so long before the declared figures stand in for
/// them: one that is restarted loads its models before it listens, and is back by then.
const STANDS_IN_AFTER: Duration = Duration::from_secs(30);

/// What a worker can be reached by.
#[derive(Debug)]
pub struct Hand {
    pub control: MemoryControl,
    pub process: Option<WorkerProcess>,
    /// A scorer's, and where the splat lies that it once gave a score.
    pub canary: Option<(Scorer, Store)>,
    /// Of its server, if that is on this machine.
    pub port: Option<u16>,
}

impl Hand {
    /// What it can be told.
    pub fn abilities(&self) -> Abilities {
        let can = |verb| self.control.dialect().means(verb) == Means::Call;
        Abilities {
            unload: can(Verb::Unload),
            load: can(Verb::Load),
            cleanup: can(Verb::Cleanup),
            process: self.process.is_some(),
            canary: self.canary.is_some(),
        }
    }
}

/// How much of the card may be used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Share {
    pub limit: Option<MiB>,
    pub margin: MiB,
    /// The declared figures may stand in where nobody is left who tells of the card.
    pub by_ledger: bool,
}

/// Why a card is not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blindness {
    /// Those that would tell do not run, since then.
    Nobody(Instant),
    /// For so long that the declared figures stand in.
    StoodIn,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Crew {
    /// `None`: nothing measures the card.
    probe: Option<Arc<dyn VramProbe>>,
    share: Share,
    hands: BTreeMap<WorkerId, Hand>,
    clock: Clock,
    /// Who listens at the ports of those that somebody else runs.
    owners: Mutex<BTreeMap<u16, (Instant, Listener)>>,
    /// `None`: it was seen, or somebody is there who may tell.
    blindness: Mutex<Option<Blindness>>,
    /// Those that hold more than they were told to, each told of once.
    greedy: Mutex<BTreeSet<WorkerId>>,
}

impl Crew {
    pub fn new(
        probe: Option<Arc<dyn VramProbe>>,
        share: Share,
        hands: BTreeMap<WorkerId, Hand>,
        clock: Clock,
    ) -> Self {
        let (owners, blindness, greedy) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { probe, share, hands, clock, owners, blindness, greedy }
    }

    fn hand(&self, worker: &WorkerId) -> Result<&Hand, EffectError> {
        self.hands.get(worker).ok_or(EffectError::Unsupported)
    }

    async fn look(&self) -> Result<Option<Reading>, EffectError> {
        let Some(probe) = &self.probe else { return Ok(None) };
        let seen = probe.read().await;
        if self.is_stood_in(seen.as_ref().err()) {
            return Ok(None);
        }
        let seen = seen.map_err(blind)?;
        let implausible = |error: super::reading::Implausible| EffectError::Refused(error.to_string());
        let mut reading = Reading::new(seen.total, seen.free).map_err(implausible)?;
        if let Some(percent) = seen.activity {
            reading = reading.with_activity(percent >= BUSY);
        }
        if let Some(processes) = seen.processes
            && let Some(known) = self.told_apart(processes).await
        {
            reading = reading.with_processes(known);
        }
        self.mind_shares(&reading);
        Ok(Some(reading))
    }

    /// Whether the declared figures stand in for a look that gave this.
    fn is_stood_in(&self, error: Option<&ProbeError>) -> bool {
        let mut blindness = self.blindness.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(error) = error.filter(|error| self.share.by_ledger && error.is_nobody()) else {
            if blindness.take() == Some(Blindness::StoodIn) {
                tracing::info!("A worker that tells of the card's memory runs again");
            }
            return false;
        };
        let now = self.clock.instant();
        match *blindness.get_or_insert(Blindness::Nobody(now)) {
            Blindness::StoodIn => true,
            Blindness::Nobody(since) if now - since >= STANDS_IN_AFTER => {
                *blindness = Some(Blindness::StoodIn);
                tracing::warn!(
                    %error,
                    "Nobody is left who tells of the card's memory; the declared figures stand in until somebody does"
                );
                true
            }
            Blindness::Nobody(_) => false,
        }
    }

    /// Whether the declared figures stand in.
    fn goes_by_ledger(&self) -> bool {
        let blindness = self.blindness.lock().unwrap_or_else(PoisonError::into_inner);
        *blindness == Some(Blindness::StoodIn)
    }

    /// Whose each process is; nothing unless that is known of all.
    async fn told_apart(&self, processes: Vec<probe::ProcessMemory>) -> Option<Vec<ProcessMemory>> {
        let mut trees = Vec::new();
        for (id, hand) in &self.hands {
            match &hand.process {
                Some(process) => trees.extend(process.tree().map(|tree| (id.clone(), tree))),
                None => match self.owner(hand.port?).await {
                    Listener::Tree(tree) => trees.push((id.clone(), tree)),
                    Listener::Nobody => {}
                    Listener::Hidden => return None,
                },
            }
        }
        let told = tokio::task::spawn_blocking(move || {
            let tell = |process: probe::ProcessMemory| {
                // Of a number that is nobody's here the driver speaks as of another container.
                ProcessStamp::of(process.pid)?;
                let owner = trees.iter().find(|(_, tree): &&(WorkerId, ProcessTree)| tree.holds(process.pid));
                let worker = owner.map(|(id, _)| id.clone());
                Some(ProcessMemory { pid: process.pid, used: process.used?, worker })
            };
            processes.into_iter().map(tell).collect()
        });
        told.await.ok().flatten()
    }

    async fn owner(&self, port: u16) -> Listener {
        let now = self.clock.instant();
        let kept = {
            let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
            owners.get(&port).filter(|(at, _)| now.saturating_duration_since(*at) < OWNER_KEPT).cloned()
        };
        let still_there = |owner: &Listener| match owner {
            Listener::Tree(tree) => tree.roots.iter().all(|root| root.is_alive()),
            Listener::Nobody | Listener::Hidden => true,
        };
        if let Some((_, owner)) = kept.filter(|(_, owner)| still_there(owner)) {
            return owner;
        }
        let found = tokio::task::spawn_blocking(move || listener(port)).await.unwrap_or(Listener::Hidden);
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.insert(port, (now, found.clone()));
        found
    }

    /// Tells of those that hold more than the share they were told to keep to.
    fn mind_shares(&self, reading: &Reading) {
        for (id, hand) in &self.hands {
            let fraction = hand.process.as_ref().and_then(|process| process.settings().memory_fraction);
            let Some((fraction, held)) = fraction.zip(reading.held_by(id)) else { continue };
            let share = MiB((reading.total().0 as f64 * fraction) as u64);
            let mut greedy = self.greedy.lock().unwrap_or_else(PoisonError::into_inner);
            if held > share.saturating_add(SLACK) && greedy.insert(id.clone()) {
                tracing::warn!(
                    worker = %id, %held, %share,
                    "A worker holds more than its memory_fraction: its command does not pass it on"
                );
            }
        }
    }

    async fn verb(&self, worker: &WorkerId, verb: Verb) -> Result<(), EffectError> {
        let hand = self.hand(worker)?;
        let control = &hand.control;
        let answer = match verb {
            Verb::Unload => match control.unload().await {
                // One that does not run holds nothing. Where the card is seen, that shows by itself.
                Err(VerbError::Unreachable(error))
                    if error.is_refused() && hand.process.is_none() && self.goes_by_ledger() =>
                {
                    return Ok(());
                }
                answer => answer,
            },
            Verb::Load => control.load().await,
            Verb::Cleanup => control.cleanup().await,
        };
        claimed(answer)
    }

    async fn bring_up(&self, worker: &WorkerId) -> Result<(), EffectError> {
        let hand = self.hand(worker)?;
        let process = hand.process.as_ref().ok_or(EffectError::Unsupported)?;
        let room = if process.settings().variants.is_empty() { None } else { self.room().await };
        process.start(room).await.map_err(refused)?;
        // Some start with their models away. Of one that says nothing of them they are taken to be there:
        // loading twice builds a second copy in some.
        if self.can(hand, Verb::Load)
            && let Ok(memory) = hand.control.status().await
            && memory.models_loaded == Some(false)
        {
            return claimed(hand.control.load().await);
        }
        Ok(())
    }

    fn can(&self, hand: &Hand, verb: Verb) -> bool {
        hand.control.dialect().means(verb) == Means::Call
    }

    /// What may be taken of the card.
    async fn room(&self) -> Option<MiB> {
        let reading = self.look().await.ok()??;
        let limit = self.share.limit.map_or(reading.total(), |limit| limit.min(reading.total()));
        Some(limit.saturating_sub(reading.used()).saturating_sub(self.share.margin))
    }

    async fn sing(&self, worker: &WorkerId) -> Result<Song, EffectError> {
        let (scorer, store) = self.hand(worker)?.canary.as_ref().ok_or(EffectError::Unsupported)?;
        let kept = store.canary(scorer.name()).await;
        let Some(canary) = kept.map_err(|error| EffectError::Refused(format!("the store: {error}")))? else {
            return Ok(Song::NoneKept);
        };
        match scorer.score(&canary.prompt, &canary.spz).await {
            Ok((Judgement::Scored(scores), _)) => {
                let off = (scores.score.get() - canary.score.get()).abs();
                if off > OFF_KEY {
                    tracing::warn!(
                        %worker, was = %canary.score, is = %scores.score,
                        "A scorer gives its canary another score"
                    );
                    return Ok(Song::Silent);
                }
                Ok(Song::Sings)
            }
            Ok((Judgement::NoVerdict, _)) => Ok(Song::Silent),
            Err(ScoreError::Net(NetError::FirstByteTimeout(time) | NetError::TotalTimeout(time))) => {
                Err(EffectError::TimedOut(time))
            }
            Err(ScoreError::Net(error)) => Err(EffectError::Unreachable(error.to_string())),
            Err(error) => Err(EffectError::Refused(error.to_string())),
        }
    }
}

fn blind(error: ProbeError) -> EffectError {
    match error {
        ProbeError::Gone(card) => EffectError::CardLost(card),
        ProbeError::Silent(time) => EffectError::TimedOut(time),
        error => EffectError::Refused(error.to_string()),
    }
}

fn claimed(answer: Result<VerbReply, VerbError>) -> Result<(), EffectError> {
    match answer {
        Ok(VerbReply { claim: Claim::Failed(why), .. }) => Err(EffectError::Refused(why)),
        Ok(_) => Ok(()),
        Err(VerbError::Unsupported { .. }) => Err(EffectError::Unsupported),
        Err(VerbError::Silent(time)) => Err(EffectError::TimedOut(time)),
        Err(VerbError::Unreachable(error)) => Err(EffectError::Unreachable(error.to_string())),
        Err(error) => Err(EffectError::Refused(error.to_string())),
    }
}

fn refused(error: ProcessError) -> EffectError {
    EffectError::Refused(error.to_string())
}

impl Effects for Crew {
    fn probe(&self) -> BoxFuture<'_, Result<Option<Reading>, EffectError>> {
        Box::pin(self.look())
    }

    fn unload<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(self.verb(worker, Verb::Unload))
    }

    fn load<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(self.verb(worker, Verb::Load))
    }

    fn cleanup<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(self.verb(worker, Verb::Cleanup))
    }

    fn start<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(self.bring_up(worker))
    }

    fn stop<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(async move {
            let process = self.hand(worker)?.process.as_ref().ok_or(EffectError::Unsupported)?;
            process.stop().await.map_err(refused)
        })
    }

    fn canary<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<Song, EffectError>> {
        Box::pin(self.sing(worker))
    }
}

#[cfg(test)]
mod tests;
