//! What candidates are made with: the cards of the configuration, the workers on them, their processes.
//!
//! A card whose workers have no verbs and no processes of ours is never looked at and nothing on it is
//! moved. The others are in the hands of an arbiter each; a worker that drives others by itself is left
//! alone, by its own entry or because it is known to do so.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{AppError, CardPeers, DRIVER, Transports, card_id};
use crate::clock::Clock;
use crate::config::{ConfigError, ConfigErrors, GpuSettings, Origin, ProbeChoice, Settings, WorkerSettings};
use crate::gpu::probe::{ByDialect, FirstOf, NvmlLibrary, ProbeError, VramProbe};
use crate::gpu::{
    self, Arbiter, AtStart, Crew, Hand, HandoffLog, Household, Order, Residency, Share, Tenant, WorkerId,
};
use crate::mining::{Bench, Muse};
use crate::net::Transport;
use crate::primitives::{CardId, MiB};
use crate::splat::SpzEncoder;
use crate::store::Store;
use crate::workers::{
    Detected, Detection, Enhancer, EnhancerSettings, Expected, Generator, GeneratorSettings, MemoryControl,
    MemoryDialect, MemorySettings, MemoryTimeouts, Premises, Scorer, ScorerSettings, Server, Sight,
    WorkerProcess, detect,
};

/// The arbiter has budgets of its own, learned; these only end what nobody waits for any more.
const TIMEOUTS: MemoryTimeouts = MemoryTimeouts {
    status: Duration::from_secs(5),
    cleanup: Duration::from_secs(30),
    unload: Duration::from_secs(60),
    load: Duration::from_secs(180),
};

/// What workers are reached by, and where things about them are kept.
#[derive(Debug)]
pub struct Surroundings<'a> {
    pub settings: &'a Settings,
    pub transports: &'a Transports,
    pub clock: Clock,
    /// Canaries are learned and kept there; `None`: scorers are believed.
    pub store: Option<&'a Store>,
    pub journal: Arc<dyn HandoffLog>,
    /// Logs and records of processes.
    pub folder: &'a Path,
    pub purpose: Purpose,
}

/// A process of ours, and who decides on it.
#[derive(Debug, Clone)]
struct Employed {
    tenant: Tenant,
    worker: WorkerId,
    process: WorkerProcess,
    arbiter: Arbiter,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Workshop {
    pub benches: Vec<Bench>,
    /// Of the cards on which anything is moved.
    arbiters: BTreeMap<CardId, Arbiter>,
    processes: Vec<Employed>,
}

impl Workshop {
    /// Looks at what is there and takes the cards over. Nothing is started or moved yet. For use inside
    /// a tokio runtime.
    ///
    /// # Errors
    /// When a card or its workers cannot be as they are configured.
    pub async fn open(cards: Vec<CardPeers>, around: &Surroundings<'_>) -> Result<Self, AppError> {
        let mut workshop = Self { benches: Vec::new(), arbiters: BTreeMap::new(), processes: Vec::new() };
        let mut still: BTreeMap<CardId, Arbiter> = BTreeMap::new();
        for card in &cards {
            if let Some(mut household) = card.household.clone() {
                household.log = Arc::clone(&around.journal);
                let arbiter = Arbiter::of(card.card.clone(), around.clock, household);
                workshop.arbiters.insert(card.card.clone(), arbiter);
            }
        }
        let nvml = NvmlLibrary::new(None, DRIVER);
        let mut errors = Vec::new();
        for gpu in &around.settings.gpus {
            let id = card_id(gpu);
            if workshop.arbiters.contains_key(&id) {
                continue;
            }
            match staff(gpu, &nvml, around).await {
                Ok(Some((household, processes))) => {
                    let arbiter = Arbiter::of(id.clone(), around.clock, household);
                    workshop.processes.extend(processes.into_iter().map(|(tenant, process)| Employed {
                        tenant,
                        worker: WorkerId::new(process.name()),
                        process,
                        arbiter: arbiter.clone(),
                    }));
                    workshop.arbiters.insert(id, arbiter);
                }
                Ok(None) => {}
                Err(problems) => errors.extend(problems.into_iter().map(|problem| ConfigError {
                    key: "gpus".into(),
                    origin: Origin::Default,
                    problem,
                })),
            }
        }
        if !errors.is_empty() {
            return Err(AppError::Config(ConfigErrors { errors }));
        }
        for card in cards {
            let id = card.card.clone();
            let arbiter = workshop.arbiters.get(&id).cloned().unwrap_or_else(|| {
                still.entry(id.clone()).or_insert_with(|| Arbiter::new(id, around.clock)).clone()
            });
            let Surroundings { settings, transports, clock, .. } = around;
            workshop.benches.push(furnish(settings, transports, *clock, card, arbiter, &workshop.arbiters));
        }
        Ok(workshop)
    }

    /// Those of the cards on which anything is moved.
    pub fn arbiters(&self) -> impl Iterator<Item = &Arbiter> + Clone {
        self.arbiters.values()
    }

    /// Starts the processes of ours, card by card one after the other: scorers first, so that what is
    /// made first finds its generator there. One that does not come is an alarm, and tried again by
    /// its arbiter.
    pub async fn start(&self, stop: &CancellationToken) {
        let starting = self.arbiters.keys().map(|card| async move {
            for tenant in [Tenant::Scorer, Tenant::Enhancer, Tenant::Generator] {
                let here = self.processes.iter().filter(|p| p.arbiter.card() == card && p.tenant == tenant);
                for Employed { worker, arbiter, .. } in here {
                    if let Err(error) = arbiter.order(Order::Start(worker.clone())).await {
                        tracing::error!(alarm = "worker_down", %card, %worker, %error, "A worker did not start");
                    }
                }
            }
        });
        tokio::select! {
            () = stop.cancelled() => {}
            _ = join_all(starting) => {}
        }
    }

    /// Has processes that end by themselves brought back, as long as the tasks are kept.
    pub fn watch_over(&self, tasks: &mut JoinSet<()>) {
        for Employed { worker, process, arbiter, .. } in self.processes.clone() {
            let mut deaths = process.deaths();
            drop(process);
            tasks.spawn(async move {
                while deaths.changed().await.is_ok() {
                    let restarted = match arbiter.order(Order::Restart(worker.clone())).await {
                        // Its memory went with it, so that its end cannot be seen.
                        Err(_) => arbiter.order(Order::Start(worker.clone())).await,
                        done => done,
                    };
                    match restarted {
                        Ok(()) => tracing::info!(%worker, "A worker is back"),
                        Err(error) => tracing::warn!(%worker, %error, "A worker did not come back yet"),
                    }
                }
            });
        }
    }

    /// Gives the cards up: who left comes back, and what we have started is ended.
    pub async fn close(&self) {
        for employed in &self.processes {
            employed.process.retire();
        }
        join_all(self.arbiters.values().map(Arbiter::close)).await;
        join_all(self.processes.iter().map(|employed| async {
            if let Err(error) = employed.process.stop().await {
                tracing::warn!(worker = %employed.worker, %error, "A worker's process was not ended");
            }
        }))
        .await;
    }
}

/// The bench of one card by itself. For use inside a tokio runtime.
pub fn bench(settings: &Settings, clock: Clock, card: &CardPeers, transports: &Transports) -> Bench {
    let arbiter = match card.household.clone() {
        Some(household) => Arbiter::of(card.card.clone(), clock, household),
        None => Arbiter::new(card.card.clone(), clock),
    };
    furnish(settings, transports, clock, card.clone(), arbiter, &BTreeMap::new())
}

/// A generator with whoever judges and enhances for it: by the worker's entry at its address, or the
/// first, as those of a test are nowhere in the configuration.
fn furnish(
    settings: &Settings,
    transports: &Transports,
    clock: Clock,
    card: CardPeers,
    arbiter: Arbiter,
    arbiters: &BTreeMap<CardId, Arbiter>,
) -> Bench {
    let mut generators = settings.workers_as(Tenant::Generator);
    let generator = generators.find(|worker| worker.endpoint() == Some(&card.generator));
    let generator = generator.unwrap_or(&settings.generator);
    let of_card = |worker: &WorkerSettings| settings.gpu_of(worker).map(card_id);
    let mut judging = arbiter.clone();
    let scorer = card.scorer.map(|endpoint| {
        let mut scorers = settings.workers_as(Tenant::Scorer);
        let named = scorers.find(|worker| worker.endpoint() == Some(&endpoint));
        if let Some(elsewhere) = named.and_then(of_card).and_then(|card| arbiters.get(&card)) {
            judging = elsewhere.clone();
        }
        (named.or(settings.scorer.as_ref()), endpoint)
    });
    let scorer = scorer.and_then(|(worker, endpoint)| {
        let worker = worker?;
        let settings = ScorerSettings { name: worker.name.clone(), endpoint, limits: worker.limits };
        Some(Scorer::new(settings, transports.scorer.clone(), clock))
    });
    let muse = settings.gpu_of(generator).and_then(|gpu| settings.enhancer_for(gpu));
    let enhancer = muse.and_then(|worker| {
        let endpoint = worker.endpoint()?.clone();
        let settings = EnhancerSettings { name: worker.name.clone(), endpoint, limits: worker.limits };
        let enhancer = Enhancer::new(settings, transports.scorer.clone(), clock);
        let arbiter = of_card(worker).and_then(|card| arbiters.get(&card)).cloned();
        Some(Muse { enhancer, arbiter })
    });
    let generator = Generator::new(
        GeneratorSettings {
            name: generator.name.clone(),
            endpoint: card.generator,
            dialect: generator.dialect,
            kinds: generator.kinds.clone(),
            limits: generator.limits,
        },
        transports.generator.clone(),
        clock,
    );
    let encoder = SpzEncoder::new(settings.zstd_level);
    Bench { generator, scorer, enhancer, arbiter, judging, encoder }
}

/// What the cards are taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be brought into order and kept so.
    Mining,
    /// To have something done, and be left as they were.
    Errand,
    /// To be looked at.
    Looking,
}

type Staffed = (Household, Vec<(Tenant, WorkerProcess)>);

/// Who is on a card and what can be done to them; nothing if that is nothing.
async fn staff(
    gpu: &GpuSettings,
    nvml: &NvmlLibrary,
    around: &Surroundings<'_>,
) -> Result<Option<Staffed>, Vec<String>> {
    let workers = around.settings.workers_on(gpu);
    if !workers.iter().any(|worker| worker.may_move()) {
        return Ok(None);
    }
    let found = join_all(workers.iter().map(|worker| look_at(worker, around))).await;
    if workers
        .iter()
        .zip(&found)
        .all(|(worker, (dialect, _))| worker.process.is_none() && *dialect == MemoryDialect::Nothing)
    {
        tracing::warn!(
            card = gpu.uuid,
            "No worker of the card can be moved; they must fit beside each other"
        );
        return Ok(None);
    }
    let driver = driver(gpu, nvml).await.map_err(|problem| vec![format!("{}: {problem}", gpu.uuid)])?;
    if let Some(total) = driver.as_ref().and_then(|(_, total)| *total) {
        let problems = around.settings.does_not_fit(gpu, total);
        if !problems.is_empty() {
            return Err(problems);
        }
    }
    let total = driver.as_ref().and_then(|(_, total)| *total);
    let limit = [gpu.sharing.limit, total].into_iter().flatten().min();
    let card = driver.as_ref().map(|(uuid, _)| uuid.clone());
    let card = card.or_else(|| (gpu.uuid != crate::config::ONLY_CARD).then(|| gpu.uuid.clone()));
    let mut hands = BTreeMap::new();
    let mut specs = Vec::new();
    let mut processes = Vec::new();
    let mut controls = Vec::new();
    for (worker, (dialect, drives)) in workers.iter().zip(found) {
        let Some(endpoint) = worker.endpoint().cloned() else { continue };
        let settings = MemorySettings {
            name: worker.name.clone(),
            endpoint: endpoint.clone(),
            dialect,
            timeouts: TIMEOUTS,
        };
        let transport = transport(worker, around.transports);
        let control = MemoryControl::new(settings, transport.clone(), around.clock);
        controls.push(control.clone());
        let process = worker.process.clone().zip(worker.local_port()).map(|(settings, port)| {
            let folder = around.folder.join("workers");
            let premises = Premises { folder, port, card: card.clone(), control: control.clone() };
            WorkerProcess::new(&worker.name, settings, premises, around.clock)
        });
        if let Some(process) = &process {
            if around.purpose != Purpose::Looking
                && let Err(error) = process.end_orphan().await
            {
                tracing::error!(alarm = "worker_down", worker = worker.name, %error, "An orphan could not be ended");
            }
            processes.push((worker.role, process.clone()));
        }
        let canary = around.store.filter(|_| worker.role == Tenant::Scorer).map(|store| {
            let settings = ScorerSettings { name: worker.name.clone(), endpoint, limits: worker.limits };
            (Scorer::new(settings, transport.clone(), around.clock), store.clone())
        });
        let at_start = if process.is_some() { AtStart::Stopped } else { AtStart::Unknown };
        let hand = Hand { control, process, canary, port: worker.local_port() };
        let variant = limit.and_then(|limit| worker.variant_for(limit.saturating_sub(pinned(&workers, gpu))));
        let mut spec = worker.spec(variant, hand.abilities(), at_start);
        spec.self_coordinating |= drives;
        specs.push(spec);
        hands.insert(WorkerId::new(&worker.name), hand);
    }
    // Where the user wants to have it seen by the workers, nothing else will do.
    let by_ledger = gpu.probe == ProbeChoice::Auto && driver.is_none() && gpu.sharing.limit.is_some();
    let probe = sources(gpu, nvml, driver, controls, limit);
    if probe.is_none() && gpu.sharing.limit.is_none() {
        tracing::warn!(
            card = gpu.uuid,
            "Nothing tells how large the card is, so that nothing is moved: set its limit under [[gpus]]"
        );
    }
    let share = Share { limit: gpu.sharing.limit, margin: gpu.sharing.margin, by_ledger };
    let effects = Arc::new(Crew::new(probe, share, hands, around.clock));
    let log = Arc::clone(&around.journal);
    let settings = gpu::Settings { restores: around.purpose == Purpose::Mining, ..gpu.sharing.clone() };
    Ok(Some((Household { settings, workers: specs, effects, log }, processes)))
}

/// The margin, and what those hold that never leave.
fn pinned(workers: &[&WorkerSettings], gpu: &GpuSettings) -> MiB {
    let pinned = workers.iter().filter(|worker| worker.residency == Residency::Pinned);
    pinned.map(|worker| worker.resident).sum::<MiB>().saturating_add(gpu.sharing.margin)
}

fn transport<'a>(worker: &WorkerSettings, transports: &'a Transports) -> &'a Transport {
    match worker.role {
        Tenant::Generator => &transports.generator,
        Tenant::Scorer | Tenant::Enhancer => &transports.scorer,
    }
}

/// A worker's verbs, and whether it drives others by itself.
async fn look_at(worker: &WorkerSettings, around: &Surroundings<'_>) -> (MemoryDialect, bool) {
    let otherwise = || {
        let process = worker.process.is_some();
        worker.memory.clone().unwrap_or(if process { MemoryDialect::Process } else { MemoryDialect::Nothing })
    };
    let Some(endpoint) = worker.endpoint() else { return (MemoryDialect::Nothing, false) };
    if worker.process.is_some() {
        // It does not run yet.
        return (otherwise(), false);
    }
    let detection = detect(endpoint, transport(worker, around.transports), &around.clock).await;
    let name = &worker.name;
    match &detection {
        Detection::Answers(found) => {
            if let Some(other) = &found.drives {
                tracing::warn!(
                    worker = name,
                    drives = other,
                    "A worker moves another one by itself and is left to it; point it at nothing to have that done here"
                );
            }
            if !found.health.is_available() {
                tracing::error!(alarm = "worker_down", worker = name, "A worker runs without its card");
            }
            if let Some(misfit) = is_another(worker, found) {
                tracing::error!(
                    alarm = "worker_down", worker = name, %endpoint,
                    "Another server is there than the worker: it answers as {detection}, {misfit}; correct its url"
                );
                // Verbs that are named are the user's word for what is there.
                return (otherwise(), false);
            }
            (
                worker.memory.clone().or_else(|| found.memory.clone()).unwrap_or_else(otherwise),
                found.drives.is_some(),
            )
        }
        _ => {
            if worker.memory.is_none() {
                tracing::warn!(worker = name, found = %detection, "What verbs a worker has cannot be told; name them (memory)");
            }
            (otherwise(), false)
        }
    }
}

/// What shows that a server is not this worker, whose verbs it would be told.
fn is_another(worker: &WorkerSettings, found: &Detected) -> Option<String> {
    // Those that are known by their verbs or their health alone may make splats as well.
    let tells_little =
        matches!(found.server, Server::MemoryWorker | Server::HandoffShim | Server::HealthService);
    if tells_little && worker.role == Tenant::Generator {
        return None;
    }
    found.fits(&Expected::role(worker.expected().role)).err()
}

/// The driver's id of a card and its size; nothing where the driver is not to be asked or is not there.
/// A card that is not there is lost, and may come back.
async fn driver(gpu: &GpuSettings, nvml: &NvmlLibrary) -> Result<Option<(String, Option<MiB>)>, String> {
    if matches!(gpu.probe, ProbeChoice::Dialect | ProbeChoice::Ledger) {
        return Ok(None);
    }
    let listed = nvml.list_cards().await;
    match listed.as_ref().map(|cards| cards.named(&gpu.uuid)) {
        Ok(Ok(card)) => Ok(Some((card.uuid.clone(), Some(card.total)))),
        Ok(Err(ProbeError::Gone(uuid))) => {
            tracing::error!(alarm = "card_lost", card = uuid, "The driver does not know the card");
            Ok(Some((uuid, None)))
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) if gpu.probe == ProbeChoice::Nvml => Err(error.to_string()),
        Err(error) => {
            tracing::info!(card = gpu.uuid, %error, "The card's memory is seen without the driver");
            Ok(None)
        }
    }
}

/// What measures a card, the best first.
fn sources(
    gpu: &GpuSettings,
    nvml: &NvmlLibrary,
    driver: Option<(String, Option<MiB>)>,
    controls: Vec<MemoryControl>,
    total: Option<MiB>,
) -> Option<Arc<dyn VramProbe>> {
    let mut sources: Vec<Arc<dyn VramProbe>> = Vec::new();
    if let Some((uuid, _)) = driver {
        sources.push(Arc::new(nvml.card(&uuid)));
    }
    let seeing = matches!(gpu.probe, ProbeChoice::Auto | ProbeChoice::Dialect);
    let all_say = controls.iter().all(|control| control.dialect().sight() != Sight::Nothing);
    let one_sees = controls.iter().any(|control| control.dialect().sight() == Sight::Device);
    // A sum in which one is missing would show room where there is none.
    if seeing && (one_sees || (all_say && !controls.is_empty())) {
        sources.push(Arc::new(ByDialect::new(controls, total)));
    }
    match sources.len() {
        0 => None,
        1 => sources.pop(),
        _ => Some(Arc::new(FirstOf(sources))),
    }
}

#[cfg(test)]
mod tests;
