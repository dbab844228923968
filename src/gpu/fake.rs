//! A card for tests: a memory ledger that answers out-of-memory like a real server, and workers on it
//! that lie, hang, die and free late, as workers.md says they do.
//!
//! It does what it is told, however foolish, and counts what must not happen.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, pending};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep};

use super::effects::{EffectError, Effects, HandoffId, HandoffLog, Intent, LogError, Song, StepTaken};
use super::reading::{ProcessMemory, Reading};
use super::worker::{Abilities, AtStart, Residency, Row, Stage, Tenant, WorkerId, WorkerSpec};
use crate::primitives::{MiB, UnixTime};

/// Nominal size of a 24 GB card.
pub(super) const CARD: MiB = MiB(24_576);

pub(super) const GENERATOR: &str = "generator";
pub(super) const SCORER: &str = "scorer";

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Says yes and does nothing.
    Lies,
    /// Says no and does nothing.
    Refuses,
    /// Says no, having done it.
    DoesAndRefuses,
    /// Does it and never answers.
    DoesAndHangs,
    /// Neither does it nor answers.
    Hangs,
    /// Does it after having answered.
    Late(Duration),
    /// Takes that long, then does it.
    Slow(Duration),
    /// Its process dies of it and takes the memory with it.
    Dies,
    /// Loads, and scores nothing but zeros from then on.
    Deaf,
    /// Loads half of it.
    Half,
}

/// Who can be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sees {
    Processes,
    Card,
    Nothing,
}

/// What must not happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Forbidden {
    /// Work that met a full card.
    pub(super) out_of_memory: u32,
    /// Two at work at once.
    pub(super) crowded: u32,
    /// Work by one that is not there.
    pub(super) absent: u32,
    /// More held than the card has.
    pub(super) overfull: u32,
}

#[derive(Debug)]
struct Worker {
    spec: WorkerSpec,
    resident: MiB,
    context: MiB,
    runs: bool,
    loaded: bool,
    deaf: bool,
    held: MiB,
    /// Freed by then.
    leaving: Vec<(Instant, MiB)>,
    /// Number of the work that it is at.
    job: Option<u64>,
}

impl Worker {
    fn settle(&mut self, now: Instant) {
        let (due, later) = self.leaving.drain(..).partition(|(at, _)| *at <= now);
        self.leaving = later;
        let due: Vec<(Instant, MiB)> = due;
        for (_, amount) in due {
            self.held = self.held.saturating_sub(amount);
        }
    }
}

#[derive(Debug)]
struct State {
    workers: BTreeMap<WorkerId, Worker>,
    foreign: MiB,
    faults: BTreeMap<(&'static str, WorkerId), VecDeque<Fault>>,
    /// Faults by chance, and how often.
    luck: Option<(StdRng, f64)>,
    probes_fail: u32,
    jobs: u64,
    forbidden: Forbidden,
    most: MiB,
    calls: Vec<String>,
    probes: u32,
}

impl State {
    fn used(&mut self) -> MiB {
        let now = Instant::now();
        let mut sum = self.foreign;
        for worker in self.workers.values_mut() {
            worker.settle(now);
            sum = sum.saturating_add(worker.held);
        }
        sum
    }

    /// A worker wants to hold so much; otherwise it is out of memory.
    fn hold(&mut self, worker: &WorkerId, amount: MiB) -> bool {
        let used = self.used();
        let held = self.workers[worker].held;
        let after = used.saturating_sub(held).saturating_add(amount);
        if after > CARD {
            return false;
        }
        self.workers.get_mut(worker).unwrap().held = amount;
        self.most = self.most.max(after);
        true
    }

    fn fault(&mut self, verb: &'static str, worker: &WorkerId) -> Option<Fault> {
        if let Some(fault) = self.faults.get_mut(&(verb, worker.clone())).and_then(VecDeque::pop_front) {
            return Some(fault);
        }
        let (rng, share) = self.luck.as_mut()?;
        if rng.random::<f64>() >= *share {
            return None;
        }
        let ms = Duration::from_millis(rng.random_range(1..6_000));
        let faults = [
            Fault::Lies,
            Fault::Refuses,
            Fault::DoesAndRefuses,
            Fault::DoesAndHangs,
            Fault::Hangs,
            Fault::Late(ms),
            Fault::Slow(ms),
            Fault::Dies,
            Fault::Deaf,
            Fault::Half,
        ];
        Some(faults[rng.random_range(0..faults.len())])
    }
}

/// See the [module](self). Clones share everything.
#[derive(Debug, Clone)]
pub(super) struct FakeCard {
    state: Arc<Mutex<State>>,
    sees: Sees,
}

pub(super) fn worker(name: &str, tenant: Tenant, resident: u64, peak: u64) -> WorkerSpec {
    let id = WorkerId::new(name);
    let scores = tenant == Tenant::Scorer;
    WorkerSpec {
        rows: vec![Row {
            worker: id.clone(),
            stage: Stage::default(),
            resident: MiB(resident),
            peak: MiB(peak),
        }],
        id,
        tenant,
        residency: Residency::OnDemand,
        abilities: Abilities { unload: true, load: true, cleanup: true, process: true, canary: scores },
        at_start: AtStart::Resident,
        self_coordinating: false,
    }
}

/// 19.6 and 4.7 GiB; the generator holds nothing but its context at rest.
pub(super) fn reference() -> Vec<WorkerSpec> {
    vec![worker(GENERATOR, Tenant::Generator, 400, 20_070), worker(SCORER, Tenant::Scorer, 4_813, 4_813)]
}

impl FakeCard {
    /// All workers are there and hold what they declare.
    pub(super) fn new(workers: &[WorkerSpec], sees: Sees) -> Self {
        let worker = |spec: &WorkerSpec| {
            let resident = spec.rows.iter().map(|row| row.resident).max().unwrap();
            let worker = Worker {
                resident,
                context: MiB(400).min(resident),
                runs: true,
                loaded: true,
                deaf: false,
                held: resident,
                leaving: Vec::new(),
                job: None,
                spec: spec.clone(),
            };
            (spec.id.clone(), worker)
        };
        let state = State {
            workers: workers.iter().map(worker).collect(),
            foreign: MiB::ZERO,
            faults: BTreeMap::new(),
            luck: None,
            probes_fail: 0,
            jobs: 0,
            forbidden: Forbidden::default(),
            most: MiB::ZERO,
            calls: Vec::new(),
            probes: 0,
        };
        Self { state: Arc::new(Mutex::new(state)), sees }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next calls of a verb go wrong like this.
    pub(super) fn will(&self, verb: &'static str, worker: &str, faults: &[Fault]) {
        self.state().faults.entry((verb, worker.into())).or_default().extend(faults);
    }

    /// From now on so many calls go wrong by chance; none: only what was ordered.
    pub(super) fn luck(&self, seed: u64, share: f64) {
        self.state().luck = Some((StdRng::seed_from_u64(seed), share));
    }

    pub(super) fn probes_fail(&self, times: u32) {
        self.state().probes_fail = times;
    }

    pub(super) fn set_foreign(&self, amount: u64) {
        self.state().foreign = MiB(amount);
    }

    /// What a worker really holds at rest, whatever it declares.
    pub(super) fn really_holds(&self, worker: &str, amount: u64) {
        let mut state = self.state();
        let worker = state.workers.get_mut(worker).unwrap();
        (worker.resident, worker.held) = (MiB(amount), MiB(amount));
    }

    /// Moved by somebody else.
    pub(super) fn set_loaded(&self, worker: &str, loaded: bool) {
        let mut state = self.state();
        let worker = state.workers.get_mut(worker).unwrap();
        worker.loaded = loaded;
        worker.held = if loaded { worker.resident } else { worker.context };
    }

    pub(super) fn is_loaded(&self, worker: &str) -> bool {
        let state = self.state();
        let worker = &state.workers[worker];
        worker.runs && worker.loaded && !worker.deaf
    }

    pub(super) fn forbidden(&self) -> Forbidden {
        self.state().forbidden
    }

    pub(super) fn most(&self) -> MiB {
        self.state().most
    }

    pub(super) fn probes(&self) -> u32 {
        self.state().probes
    }

    /// Verbs since the last look at them, canaries included.
    pub(super) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state().calls)
    }

    /// A worker takes its peak; the number of its work, if it could begin.
    pub(super) fn begin(&self, name: &str, peak: u64) -> Option<u64> {
        let id = WorkerId::new(name);
        let mut state = self.state();
        let others = state.workers.values().any(|worker| worker.job.is_some());
        state.forbidden.crowded += u32::from(others);
        let worker = &state.workers[&id];
        let lazy = worker.spec.abilities.unload && !worker.spec.abilities.load;
        if !worker.runs || !(worker.loaded || lazy) || worker.deaf {
            state.forbidden.absent += 1;
            return None;
        }
        if !state.hold(&id, MiB(peak)) {
            state.forbidden.out_of_memory += 1;
            return None;
        }
        state.jobs += 1;
        let job = state.jobs;
        let worker = state.workers.get_mut(&id).unwrap();
        (worker.loaded, worker.job) = (true, Some(job));
        Some(job)
    }

    /// A work ends, unless its worker was stopped meanwhile.
    pub(super) fn end(&self, name: &str, job: u64) {
        let mut state = self.state();
        let worker = state.workers.get_mut(name).unwrap();
        if worker.job == Some(job) {
            worker.job = None;
            worker.held = worker.resident;
        }
    }

    /// What a worker does under a lease. Whether it could.
    pub(super) async fn work(&self, name: &str, peak: u64, time: Duration) -> bool {
        let Some(job) = self.begin(name, peak) else { return false };
        sleep(time).await;
        self.end(name, job);
        true
    }

    /// Does what a verb is for. `late`: the memory goes only after that.
    fn act(&self, verb: &str, id: &WorkerId, late: Duration, half: bool) -> Result<(), EffectError> {
        let mut state = self.state();
        state.used();
        let worker = state.workers.get_mut(id).unwrap();
        let (resident, context) = (worker.resident, worker.context);
        if !worker.runs && !matches!(verb, "start" | "stop") {
            return Err(EffectError::Unreachable("connection refused".into()));
        }
        let leaves = |worker: &mut Worker, to: MiB| {
            let amount = worker.held.saturating_sub(to);
            if late.is_zero() {
                worker.held = to;
            } else {
                worker.leaving.push((Instant::now() + late, amount));
            }
        };
        match verb {
            "unload" => {
                worker.loaded = false;
                leaves(worker, context);
            }
            "cleanup" => {
                let to = if worker.loaded { resident } else { context };
                if worker.held > to {
                    leaves(worker, to);
                }
            }
            "stop" => {
                (worker.runs, worker.loaded, worker.deaf, worker.job) = (false, false, false, None);
                worker.leaving.clear();
                leaves(worker, MiB::ZERO);
            }
            "load" | "start" => {
                if verb == "start" && worker.runs {
                    return Err(EffectError::Refused("address in use".into()));
                }
                // What is there already is there twice for a while.
                let now = worker.held;
                let double = if worker.loaded { now.saturating_add(resident) } else { resident.max(now) };
                if !state.hold(id, double) {
                    return Err(EffectError::Refused("CUDA out of memory".into()));
                }
                let worker = state.workers.get_mut(id).unwrap();
                (worker.runs, worker.loaded, worker.deaf) = (true, !half, false);
                worker.held = if half { MiB((resident.0 + context.0) / 2) } else { resident };
                worker.leaving.clear();
            }
            _ => unreachable!("no verb {verb}"),
        }
        if state.used() > CARD {
            state.forbidden.overfull += 1;
        }
        Ok(())
    }

    async fn call(&self, verb: &'static str, id: &WorkerId) -> Result<(), EffectError> {
        let fault = {
            let mut state = self.state();
            state.calls.push(format!("{verb} {id}"));
            state.fault(verb, id)
        };
        let usual = match verb {
            "unload" | "load" => Duration::from_millis(2_500),
            "cleanup" => Duration::from_millis(100),
            "stop" => Duration::from_secs(1),
            _ => Duration::from_secs(6),
        };
        let act = |late| self.act(verb, id, late, false);
        if fault != Some(Fault::Hangs) && fault != Some(Fault::Lies) {
            sleep(if let Some(Fault::Slow(time)) = fault { usual + time } else { usual }).await;
        }
        match fault {
            None | Some(Fault::Slow(_)) => act(Duration::ZERO),
            Some(Fault::Late(late)) => act(late),
            Some(Fault::Lies) => Ok(()),
            Some(Fault::Refuses) => Err(EffectError::Refused("500".into())),
            Some(Fault::DoesAndRefuses) => {
                act(Duration::ZERO)?;
                Err(EffectError::Refused("500".into()))
            }
            Some(Fault::DoesAndHangs) => {
                act(Duration::ZERO)?;
                pending().await
            }
            Some(Fault::Hangs) => pending().await,
            Some(Fault::Dies) => {
                self.act("stop", id, Duration::ZERO, false)?;
                Err(EffectError::Unreachable("connection reset".into()))
            }
            Some(Fault::Deaf) => {
                act(Duration::ZERO)?;
                let mut state = self.state();
                let worker = state.workers.get_mut(id).unwrap();
                worker.deaf = matches!(verb, "load" | "start") && worker.spec.abilities.canary;
                Ok(())
            }
            Some(Fault::Half) => self.act(verb, id, Duration::ZERO, true),
        }
    }
}

impl Effects for FakeCard {
    fn probe(&self) -> BoxFuture<'_, Result<Option<Reading>, EffectError>> {
        Box::pin(async {
            let mut state = self.state();
            state.probes += 1;
            if state.probes_fail > 0 {
                state.probes_fail -= 1;
                return Err(EffectError::Unreachable("no driver".into()));
            }
            let free = CARD.saturating_sub(state.used());
            let reading = Reading::new(CARD, free).unwrap();
            let process = |(pid, (id, worker)): (u32, (&WorkerId, &Worker))| ProcessMemory {
                pid,
                used: worker.held,
                worker: Some(id.clone()),
            };
            Ok(match self.sees {
                Sees::Nothing => None,
                Sees::Card => Some(reading),
                Sees::Processes => {
                    let list = (1..).zip(state.workers.iter()).map(process).collect();
                    let active = state.workers.values().any(|worker| worker.job.is_some());
                    Some(reading.with_processes(list).with_activity(active))
                }
            })
        })
    }

    fn unload<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(self.call("unload", worker))
    }
    fn load<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(self.call("load", worker))
    }
    fn cleanup<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(self.call("cleanup", worker))
    }
    fn start<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(self.call("start", worker))
    }
    fn stop<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(self.call("stop", worker))
    }
    fn canary<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<Song, EffectError>> {
        Box::pin(async move {
            let fault = {
                let mut state = self.state();
                state.calls.push(format!("canary {worker}"));
                state.fault("canary", worker)
            };
            match fault {
                Some(Fault::Hangs | Fault::DoesAndHangs) => pending().await,
                Some(Fault::Lies | Fault::Deaf) => return Ok(Song::Silent),
                Some(Fault::Refuses) => return Err(EffectError::Refused("500".into())),
                _ => sleep(Duration::from_millis(200)).await,
            }
            let state = self.state();
            let worker = &state.workers[worker];
            match () {
                () if !worker.runs => Err(EffectError::Unreachable("connection refused".into())),
                () if worker.loaded && !worker.deaf => Ok(Song::Sings),
                () => Ok(Song::Silent),
            }
        })
    }
}

/// A journal in memory.
#[derive(Debug, Clone, Default)]
pub(super) struct FakeLog(Arc<Mutex<Vec<String>>>, Duration);

impl FakeLog {
    /// One that takes so long to write a step down.
    pub(super) fn slow(time: Duration) -> Self {
        Self(Arc::default(), time)
    }

    /// What was written since the last look.
    pub(super) fn lines(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    fn write(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }
}

impl HandoffLog for FakeLog {
    fn begin(&self, intent: Intent) -> BoxFuture<'_, Result<HandoffId, LogError>> {
        Box::pin(async move {
            self.write(format!("begin {} for {} without {:?}", intent.cause, intent.wanted, intent.evicted));
            Ok(HandoffId(7))
        })
    }
    fn step(&self, _: HandoffId, step: StepTaken) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move {
            sleep(self.1).await;
            let how = step.failure.map_or("done".to_owned(), |why| why);
            self.write(format!("{}: {how}", step.step));
            Ok(())
        })
    }
    fn commit(&self, _: HandoffId, _: UnixTime) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move {
            self.write("commit".to_owned());
            Ok(())
        })
    }
    fn fail(&self, _: HandoffId, _: UnixTime, why: String) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move {
            self.write(format!("fail: {why}"));
            Ok(())
        })
    }
}
