//! The cards, what measures them, and what really answers where their workers are said to be.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;

use super::Check;
use crate::clock::Clock;
use crate::config::{GpuSettings, ProbeChoice, Settings, WorkerSettings, WorkerUrl};
use crate::gpu::probe::{ByDialect, Card, Cards, NvmlLibrary, ProbeError, VramProbe};
use crate::net::{Connections, Transport};
use crate::workers::{
    Detected, Detection, MemoryControl, MemoryDialect, MemorySettings, MemoryTimeouts, Placed, WorkerRole,
    detect, find_mistakes, places,
};

/// Longest wait for the driver, and for a connection to a worker.
const QUESTION: Duration = Duration::from_secs(3);

/// Each card and each worker that is not embedded.
pub(super) async fn cards_and_workers(settings: &Settings, clock: Clock) -> Vec<Check> {
    let workers: Vec<&WorkerSettings> = settings.workers().filter(|w| w.url != WorkerUrl::Devnet).collect();
    if workers.is_empty() {
        return Vec::new();
    }
    let transport = match Transport::http(QUESTION, Connections::Fresh) {
        Ok(transport) => transport,
        Err(error) => return vec![Check::fail("worker", error.to_string(), "restart")],
    };
    let nvml = NvmlLibrary::new(None, QUESTION);
    let (listed, placed) = tokio::join!(nvml.list_cards(), look(&workers, &transport, clock));
    let mut checks = Vec::new();
    for gpu in &settings.gpus {
        checks.push(card(gpu, &listed, &nvml, settings, &placed, &transport, clock).await);
    }
    checks.extend(worker_checks(&workers, placed, &transport, clock).await);
    checks
}

/// Asks at every worker's address who is there.
async fn look(workers: &[&WorkerSettings], transport: &Transport, clock: Clock) -> Vec<Placed> {
    join_all(workers.iter().filter_map(|worker| {
        let endpoint = worker.endpoint()?.clone();
        Some(async {
            let detection = Some(detect(&endpoint, transport, &clock).await);
            Placed { name: worker.name.clone(), endpoint, expected: worker.expected(), detection }
        })
    }))
    .await
}

async fn card(
    gpu: &GpuSettings,
    listed: &Result<Cards, ProbeError>,
    nvml: &NvmlLibrary,
    settings: &Settings,
    placed: &[Placed],
    transport: &Transport,
    clock: Clock,
) -> Check {
    let here = settings.workers_on(gpu);
    let moves = here.iter().any(|worker| worker.may_move());
    let by_driver = matches!(gpu.probe, ProbeChoice::Auto | ProbeChoice::Nvml);
    let check = match listed.as_ref().map(|cards| cards.named(&gpu.uuid)) {
        Ok(Ok(card)) if by_driver => by_the_driver(card, nvml, settings, gpu).await,
        Ok(Err(error)) if by_driver => {
            Check::fail("card", error.to_string(), "correct its uuid under [[gpus]], see nvidia-smi -L")
        }
        Err(error) if gpu.probe == ProbeChoice::Nvml => {
            Check::fail("card", error.to_string(), "install the driver, or set probe to \"auto\"")
        }
        _ => without_the_driver(gpu, &here, placed, transport, clock, moves).await,
    };
    check.of(&gpu.uuid)
}

async fn by_the_driver(card: &Card, nvml: &NvmlLibrary, settings: &Settings, gpu: &GpuSettings) -> Check {
    let Card { uuid, name, total } = card;
    let problems = settings.does_not_fit(gpu, *total);
    if !problems.is_empty() {
        let advice = "unpin a worker, declare less, or use another card";
        return Check::fail("card", problems.join("; "), advice);
    }
    match nvml.card(uuid).read().await {
        Ok(reading) => {
            let free = reading.free;
            let who = if reading.processes.is_some() { ", each process's share included" } else { "" };
            Check::pass("card", format!("{name}, {uuid}: {free} free of {total}, by the driver{who}"))
        }
        Err(error) => {
            Check::fail("card", error.to_string(), "look at nvidia-smi; a lost card needs a restart")
        }
    }
}

async fn without_the_driver(
    gpu: &GpuSettings,
    here: &[&WorkerSettings],
    placed: &[Placed],
    transport: &Transport,
    clock: Clock,
    moves: bool,
) -> Check {
    let limit = gpu.sharing.limit;
    if gpu.probe != ProbeChoice::Ledger {
        let controls = here.iter().filter_map(|worker| {
            let placed = placed.iter().find(|placed| placed.name == worker.name)?;
            let found = placed.detection.as_ref().and_then(Detection::detected);
            let dialect = worker.memory.clone().or_else(|| found?.memory.clone())?;
            let (name, endpoint) = (worker.name.clone(), placed.endpoint.clone());
            let settings = MemorySettings { name, endpoint, dialect, timeouts: MemoryTimeouts::default() };
            Some(MemoryControl::new(settings, transport.clone(), clock))
        });
        let workers = ByDialect::new(controls.collect(), limit);
        // Where the user wants to have it seen by the workers, nothing else will do.
        let stands_in = gpu.probe == ProbeChoice::Auto && limit.is_some();
        if !workers.is_empty() {
            return match workers.read().await {
                Ok(reading) => {
                    let (free, total, basis) = (reading.free, reading.total, workers.basis());
                    Check::pass("card", format!("{free} free of {total}, by the {basis}"))
                }
                Err(error) if moves && error.is_nobody() && stands_in => Check::warn(
                    "card",
                    format!(
                        "no driver, and those of its workers who say how much is free do not run: {error}"
                    ),
                    "start them; until then the agent goes by what is declared",
                ),
                Err(error) if moves => Check::warn(
                    "card",
                    format!("no driver, and its workers do not say how much is free: {error}"),
                    "most answer nothing while they work; if none does, look at memory under [[workers]]",
                ),
                Err(_) => Check::pass("card", "not measured: no driver, and nothing is moved on it"),
            };
        }
    }
    match limit {
        _ if !moves => Check::pass("card", "not measured: no driver, and nothing is moved on it"),
        Some(limit) => Check::pass("card", format!("{limit} as declared: what workers say is believed")),
        None => Check::warn(
            "card",
            "nothing tells how large it is, so that nothing is moved",
            "set its limit under [[gpus]]",
        ),
    }
}

async fn worker_checks(
    workers: &[&WorkerSettings],
    placed: Vec<Placed>,
    transport: &Transport,
    clock: Clock,
) -> Vec<Check> {
    let mistakes = find_mistakes(&placed);
    let mut mistakes: BTreeMap<&str, String> =
        mistakes.iter().map(|mistake| (mistake.worker(), mistake.to_string())).collect();
    let mut checks = Vec::new();
    for (worker, placed) in workers.iter().zip(&placed) {
        let check = match mistakes.remove(&*worker.name) {
            Some(mistake) => Check::fail("worker", mistake, "correct its url under [[workers]]"),
            None => found(worker, placed, transport, clock).await,
        };
        checks.push(check.of(format!("{} at {}", worker.name, placed.endpoint)));
    }
    checks
}

async fn found(worker: &WorkerSettings, placed: &Placed, transport: &Transport, clock: Clock) -> Check {
    match &placed.detection {
        Some(Detection::Answers(found)) => judge(worker, found),
        Some(Detection::Busy) => Check::warn(
            "worker",
            "takes connections and says nothing: it works, or loads its models",
            "look again when it rests",
        ),
        Some(Detection::Refused(_)) if worker.process.is_some() => {
            Check::pass("worker", "does not run; the agent starts it")
        }
        Some(Detection::Refused(why)) => {
            let advice = match elsewhere(placed, transport, clock).await {
                Some(place) => format!("{place}; name that as its url, or start it"),
                None => "start it, or correct its url under [[workers]]".to_owned(),
            };
            Check::fail("worker", format!("nobody listens: {why}"), advice)
        }
        Some(Detection::SomethingElse(what)) => {
            // The official generator has no route but the one that generates.
            Check::warn("worker", what.clone(), "if it is the worker after all, nothing is wrong")
        }
        None => Check::pass("worker", "not looked at"),
    }
}

fn judge(worker: &WorkerSettings, found: &Detected) -> Check {
    let what = Detection::Answers(Box::new(found.clone())).to_string();
    let verbs = match (&worker.memory, &found.memory) {
        (None, None) | (Some(MemoryDialect::Nothing), _) => "nothing is asked of its memory".to_owned(),
        (None, Some(found)) => format!("memory by `{found}`, as found"),
        (Some(named), _) => format!("memory by `{named}`"),
    };
    let models = match found.health.model_loaded {
        Some(true) => ", models loaded",
        Some(false) => ", models not loaded",
        None => "",
    };
    let message = format!("{what}; {verbs}{models}");
    if !found.health.is_available() {
        let advice = "a silent fallback to the CPU is as good as away: look at its log and its CUDA";
        return Check::fail(
            "worker",
            format!("{message}; it runs without the card (gpu_enabled: false)"),
            advice,
        );
    }
    match &found.drives {
        Some(other) if !worker.self_coordinating => Check::warn(
            "worker",
            format!("{message}; it unloads {other} by itself"),
            "it is left alone; or point it at an address where nobody is, and leave that to the agent",
        ),
        _ => Check::pass("worker", message),
    }
}

/// Where else one of its kind is, by the environment and the usual ports.
async fn elsewhere(placed: &Placed, transport: &Transport, clock: Clock) -> Option<String> {
    let role: WorkerRole = placed.expected.role;
    let environment = |name: &str| std::env::var(name).ok();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let found = places(role, None, environment, Some(&host)).search(transport, &clock).await;
    let fits = |detection: &Detection| {
        detection.detected().is_some_and(|detected| detected.fits(&placed.expected).is_ok())
    };
    let found = found.into_iter().find(|found| fits(&found.detection))?;
    Some(format!("{} answers at {} ({})", found.detection, found.place.endpoint, found.place.origin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::MiB;
    use crate::wallet::Verdict;
    use crate::workers::{Dialect, Health, Server};

    fn worker() -> WorkerSettings {
        let settings = crate::config::load(&crate::config::Inputs::default()).unwrap().settings;
        WorkerSettings { memory: None, ..settings.generator }
    }

    fn detected(health: Health, drives: Option<&str>) -> Detected {
        Detected {
            server: Server::Hunyuan,
            generator: Some(Dialect::Form),
            scorer: false,
            memory: Some(MemoryDialect::Process),
            version: None,
            health,
            drives: drives.map(str::to_owned),
        }
    }

    #[test]
    fn a_fallback_to_the_cpu_is_a_failure_however_healthy() {
        let health =
            Health { status: Some("healthy".into()), gpu_enabled: Some(false), model_loaded: Some(true) };
        let check = judge(&worker(), &detected(health, None));
        assert_eq!(check.verdict, Verdict::Fail);
        assert!(check.message.contains("gpu_enabled: false"), "{}", check.message);
        let check = judge(&worker(), &detected(Health::default(), None));
        assert_eq!(check.verdict, Verdict::Pass);
        assert!(check.message.contains("memory by `process`, as found"), "{}", check.message);
    }

    #[test]
    fn one_that_drives_another_is_told_of_unless_that_is_known() {
        let found = detected(Health::default(), Some("http://127.0.0.1:10006"));
        assert_eq!(judge(&worker(), &found).verdict, Verdict::Warn);
        let declared = WorkerSettings { self_coordinating: true, ..worker() };
        assert_eq!(judge(&declared, &found).verdict, Verdict::Pass);
    }

    #[tokio::test]
    async fn on_a_card_that_nobody_measures_nothing_is_wrong_unless_something_is_moved() {
        let settings = crate::config::load(&crate::config::Inputs::default()).unwrap().settings;
        let gpu = settings.gpus[0].clone();
        let transport = Transport::http(QUESTION, Connections::Fresh).unwrap();
        let ask = |gpu: GpuSettings, moves| {
            let transport = transport.clone();
            async move { without_the_driver(&gpu, &[], &[], &transport, Clock::system(), moves).await.verdict }
        };
        assert_eq!(ask(gpu.clone(), false).await, Verdict::Pass);
        assert_eq!(ask(gpu.clone(), true).await, Verdict::Warn);
        let mut declared = gpu;
        declared.sharing.limit = Some(MiB(24_576));
        assert_eq!(ask(declared, true).await, Verdict::Pass);
    }
}
