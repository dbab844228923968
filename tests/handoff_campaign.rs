//! Hand-offs between real worker processes, with every fault by chance: the card never holds more than
//! it has, nobody runs out of memory, whoever left is back in the end, every request for the card is
//! answered, and every task gets its splat and its score.
//!
//! `scripts/campaign.sh handoffs` runs it at full size and measures what the coordinator itself adds.

#[path = "support/dev_crew.rs"]
mod dev_crew;
#[path = "support/dev_workers.rs"]
mod dev_workers;
#[allow(dead_code, reason = "each test file uses its own part")]
#[path = "support/program.rs"]
mod program;
#[path = "support/nvml.rs"]
mod stand_in;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dev_crew::Crewing;
use dev_workers::{CARD, DevCard, UUID, change_faults, limits, sockets};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sn17_miner::app::Journal;
use sn17_miner::clock::Clock;
use sn17_miner::devnet::card::{Event, What};
use sn17_miner::devnet::shapes;
use sn17_miner::gpu::{
    Abilities, Arbiter, AtStart, Ending, Household, LeaseError, Order, Residency, Row, Settings, Stage,
    Tenant, WorkerSpec, WorkerState,
};
use sn17_miner::net::Endpoint;
use sn17_miner::primitives::{CardId, MiB, Prompt, Seed, UnixTime};
use sn17_miner::splat::{PlyReader, Spz, SpzEncoder};
use sn17_miner::store::{Canary, Store};
use sn17_miner::workers::{
    Dialect, GenerateError, Generator, GeneratorSettings, Judgement, ScoreError, Scorer, ScorerSettings,
    WorkerProcess,
};
use stand_in::StandIn;
use tokio::task::JoinSet;

const MAIN: &str = "main";
const JUDGE: &str = "judge";
const LANES: u64 = 3;

/// What goes wrong, and how often: with each verb of the scorer one in three or so.
const JUDGE_FAULTS: &str = "lies:0.06,refuses:0.06,late:0.1,double:0.1,dies:0.04,zeros:0.05,crashes:0.5,hangs:0.003,\
                            mute:0.02,deaf:0.2,stubborn:0.3";
const MAIN_FAULTS: &str = "hangs:0.003,crashes:1,stubborn:0.3";

/// A verb, or work of a few milliseconds, that is not answered within this is not answered at all.
const VERB: Duration = Duration::from_secs(1);

/// No request for the card waits longer, whatever goes wrong: a few restarts, each with its proofs.
const LONGEST: Duration = Duration::from_secs(300);

struct Shop {
    arbiter: Arbiter,
    ledger: DevCard,
    store: Store,
    card: CardId,
    generator: Generator,
    scorer: Scorer,
    prompt: Prompt,
    addresses: Vec<Endpoint>,
    processes: Vec<WorkerProcess>,
    /// Bring back whoever dies.
    watches: JoinSet<()>,
    _library: StandIn,
    _data: tempfile::TempDir,
}

fn worker(name: &str, tenant: Tenant, resident: u64, peak: u64, abilities: Abilities) -> WorkerSpec {
    let row = Row { worker: name.into(), stage: Stage::default(), resident: MiB(resident), peak: MiB(peak) };
    WorkerSpec {
        id: name.into(),
        tenant,
        residency: Residency::OnDemand,
        rows: vec![row],
        abilities,
        at_start: AtStart::Unknown,
        self_coordinating: false,
    }
}

impl Shop {
    /// `None` without a C compiler, for the driver's stand-in.
    async fn open(seed: u64, faults: [&str; 2]) -> Option<Self> {
        let library = StandIn::new("")?;
        let data = tempfile::tempdir().unwrap();
        let store = Store::open(data.path()).await.unwrap();
        let ledger = DevCard::new();
        let mut crewing = Crewing::new(&ledger, &store);
        let seed = seed.to_string();
        let times = ["--seed", &*seed, "--work-time", "4ms", "--load-time", "4ms", "--unload-time", "1ms"];
        let [main, judge] = faults.map(|faults| format!("--fault={faults}"));
        let sizes = ["--resident", "3000", "--peak", "20070", &main];
        crewing.hire(MAIN, "form", "process", VERB, &[&times[..], &sizes[..]].concat());
        let sizes = ["--resident", "4813", "--peak", "4813", "--late-time", "40ms", &judge];
        crewing.hire(JUDGE, "three-gen", "three-gen", VERB, &[&times[..], &sizes[..]].concat());

        let clock = Clock::system();
        let [main, judge] = [MAIN, JUDGE].map(|name| Endpoint::of(crewing.addresses[name]));
        let generator = Generator::new(
            GeneratorSettings {
                name: MAIN.into(),
                endpoint: main.clone(),
                dialect: Dialect::Form,
                kinds: Dialect::Form.kinds().iter().copied().collect(),
                limits: limits(VERB),
            },
            sockets(),
            clock,
        );
        let settings = ScorerSettings { name: JUDGE.into(), endpoint: judge.clone(), limits: limits(VERB) };
        let scorer = Scorer::new(settings, sockets(), clock);

        let card = CardId { host: "here".into(), uuid: UUID.into() };
        let process = Abilities { process: true, ..Abilities::default() };
        let verbs = Abilities { unload: true, load: true, cleanup: true, canary: true, process: true };
        let household = Household {
            settings: Settings {
                limit: Some(CARD),
                deadline: Duration::from_secs(20),
                ..Settings::default()
            },
            workers: vec![
                worker(MAIN, Tenant::Generator, 3_000, 20_070, process),
                worker(JUDGE, Tenant::Scorer, 4_813, 4_813, verbs),
            ],
            effects: crewing.crew(&library),
            log: Arc::new(Journal(store.clone())),
        };
        let arbiter = Arbiter::of(card.clone(), clock, household);
        arbiter.recover(Vec::new()).await.unwrap();
        let prompt = Prompt::Text("a red cube".into());
        let spz = SpzEncoder::default().encode(&shapes::generate("a red cube", 7, 7_100)).unwrap();
        // It may die, or say nothing, before it has said what a splat is worth.
        let score = loop {
            let started = arbiter.order(Order::Start(JUDGE.into())).await;
            if let (Ok(()), Ok((Judgement::Scored(scores), _))) = (started, scorer.score(&prompt, &spz).await)
            {
                break scores.score;
            }
            let _ = arbiter.order(Order::Restart(JUDGE.into())).await;
        };
        store.set_canary(JUDGE, Canary { prompt: prompt.clone(), spz: Arc::new(spz), score }).await.unwrap();
        arbiter.order(Order::Start(MAIN.into())).await.unwrap();

        let mut watches = JoinSet::new();
        for (worker, process) in &crewing.processes {
            let (mut deaths, arbiter, worker) = (process.deaths(), arbiter.clone(), worker.clone());
            watches.spawn(async move {
                while deaths.changed().await.is_ok() {
                    if arbiter.order(Order::Restart(worker.clone())).await.is_err() {
                        // Tried again by the arbiter.
                        let _ = arbiter.order(Order::Start(worker.clone())).await;
                    }
                }
            });
        }
        let processes = crewing.processes.into_values().collect();
        let addresses = vec![main, judge];
        Some(Self {
            arbiter,
            ledger,
            store,
            card,
            generator,
            scorer,
            prompt,
            addresses,
            processes,
            watches,
            _library: library,
            _data: data,
        })
    }

    /// Has them all work as they should.
    async fn end_faults(&self) {
        for address in &self.addresses {
            // One that is gone comes back with what it was hired with.
            let _ = change_faults(address.clone(), "").await;
        }
    }

    async fn close(&mut self) {
        self.watches.shutdown().await;
        self.arbiter.close().await;
        for process in &self.processes {
            process.retire();
            process.stop().await.unwrap();
        }
    }

    fn handoffs(&self) -> u64 {
        self.arbiter.watch().borrow().swaps
    }
}

#[derive(Debug, Default)]
struct Tally {
    asked: AtomicU64,
    granted: AtomicU64,
    refused: AtomicU64,
    cancelled: AtomicU64,
    begun: AtomicU64,
    booked: AtomicU64,
    silences: AtomicU64,
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

fn of(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

/// One lane: task after task, each tried until it has a splat and its score.
struct Lane<'a> {
    shop: &'a Shop,
    tally: &'a Tally,
    rng: StdRng,
    /// Whether it now and then leaves before it is served, or in the midst of the work.
    is_fickle: bool,
}

impl Lane<'_> {
    /// A grant of the card, sooner or later.
    async fn lease(&mut self, tenant: Tenant) -> sn17_miner::gpu::Lease {
        loop {
            add(&self.tally.asked);
            let leaves = self.is_fickle && self.rng.random_bool(0.03);
            let patience = if leaves { Duration::from_millis(self.rng.random_range(0..40)) } else { LONGEST };
            match tokio::time::timeout(patience, self.shop.arbiter.lease(tenant)).await {
                Ok(Ok(lease)) => {
                    add(&self.tally.granted);
                    return lease;
                }
                Ok(Err(error)) => {
                    add(&self.tally.refused);
                    assert!(error.is_retryable(), "{error}");
                    let wait = match error {
                        LeaseError::OutOfOrder { retry_in, .. } => retry_in,
                        _ => Duration::from_millis(20),
                    };
                    tokio::time::sleep(wait).await;
                }
                Err(_) => {
                    assert!(
                        leaves,
                        "{tenant}: neither granted nor refused: {:?}",
                        self.shop.arbiter.watch().borrow()
                    );
                    add(&self.tally.cancelled);
                }
            }
        }
    }

    async fn generation(&mut self) -> Spz {
        let prompt = &self.shop.prompt;
        loop {
            let lease = self.lease(Tenant::Generator).await;
            let seed = Seed::new(self.rng.random_range(0..1_000));
            let work = self.shop.generator.generate(prompt, seed);
            if self.is_fickle && self.rng.random_bool(0.005) {
                // The connection breaks off, the work goes on.
                let _ = tokio::time::timeout(Duration::from_millis(3), work).await;
                drop(lease);
                continue;
            }
            match work.await {
                Ok(made) => {
                    lease.end(Ending::Done);
                    let cloud = PlyReader::default().read(&made.body).unwrap();
                    return SpzEncoder::default().encode(&cloud).unwrap();
                }
                Err(GenerateError::Net(_)) => {
                    lease.end(Ending::Unsure);
                    add(&self.tally.silences);
                }
                Err(GenerateError::Unreachable(_)) => lease.end(Ending::Suspect),
                Err(_) => lease.end(Ending::Done),
            }
        }
    }

    /// Whether there is a score.
    async fn scoring(&mut self, splat: &Spz) -> bool {
        let lease = self.lease(Tenant::Scorer).await;
        match self.shop.scorer.score(&self.shop.prompt, splat).await {
            Ok((Judgement::Scored(scores), _)) => {
                lease.end(Ending::Done);
                assert!(scores.score.get() > 0.6);
                return true;
            }
            Err(ScoreError::Net(error)) if error.may_have_arrived() => {
                lease.end(Ending::Unsure);
                add(&self.tally.silences);
            }
            _ => lease.end(Ending::Suspect),
        }
        false
    }

    async fn task(&mut self) {
        add(&self.tally.begun);
        let splat = self.generation().await;
        while !self.scoring(&splat).await {}
        add(&self.tally.booked);
    }
}

/// `count` hand-offs with faults; what came of it, in words.
async fn campaign(seed: u64, count: u64) -> Option<String> {
    let mut shop = Shop::open(seed, [MAIN_FAULTS, JUDGE_FAULTS]).await?;
    let tally = Tally::default();
    let lane = async |number: u64| {
        let rng = StdRng::seed_from_u64(seed ^ (number << 32));
        let mut lane = Lane { shop: &shop, tally: &tally, rng, is_fickle: true };
        while shop.handoffs() < count {
            lane.task().await;
        }
    };
    const { assert!(LANES == 3) };
    tokio::join!(lane(1), lane(2), lane(3));
    let handoffs = shop.handoffs();

    // Once nothing goes wrong any more whoever left comes back, or is restarted; and both can work.
    shop.end_faults().await;
    let mut last = Lane { shop: &shop, tally: &tally, rng: StdRng::seed_from_u64(seed), is_fickle: false };
    last.task().await;
    let mut view = shop.arbiter.watch();
    let back =
        view.wait_for(|view| view.workers.iter().all(|w| w.state == WorkerState::Resident && !w.is_owed));
    let back = tokio::time::timeout(LONGEST, back).await.map(|view| view.is_ok());
    assert_eq!(back, Ok(true), "{:?}", shop.arbiter.watch().borrow());
    let state = shop.ledger.state();
    assert_eq!((state.held_by(MAIN), state.held_by(JUDGE)), (Some(MiB(3_000)), Some(MiB(4_813))));

    assert!(state.most <= CARD, "{} on a card of {CARD}", state.most);
    assert_eq!(state.refused, 0, "somebody ran out of memory: {}", story(&shop.ledger.events()));
    assert_eq!(of(&tally.asked), of(&tally.granted) + of(&tally.refused) + of(&tally.cancelled));
    assert_eq!(of(&tally.begun), of(&tally.booked));
    shop.close().await;
    assert_eq!(shop.store.open_handoffs(shop.card.clone()).await.unwrap(), [], "the journal is closed");

    let events = shop.ledger.events();
    let faults = events.iter().filter(|event| matches!(event.what, What::Fault(_))).count();
    assert!(faults as u64 > count / 10, "only {faults} faults");
    Some(format!(
        "{handoffs} hand-offs, {faults} faults, {} processes, {} tasks booked, {} leases granted, {} refused, {} \
         cancelled, {} silences, most {} of {CARD}, none out of memory",
        state.starts,
        of(&tally.booked),
        of(&tally.granted),
        of(&tally.refused),
        of(&tally.cancelled),
        of(&tally.silences),
        state.most,
    ))
}

/// What led to the first out-of-memory.
fn story(events: &[Event]) -> String {
    let end = events.iter().position(|event| event.what == What::OutOfMemory).unwrap_or(events.len());
    let last = &events[end.saturating_sub(30)..events.len().min(end + 1)];
    last.iter().map(|e| format!("\n{} {} {:?}", e.at.as_nanos() / 1_000, e.name, e.what)).collect()
}

/// From when the ledger shows a change to the next order of the coordinator, journal and proof included:
/// the time of every step of `count` hand-offs in which nothing goes wrong, in order.
async fn overhead(count: u64) -> Option<Vec<Duration>> {
    let mut shop = Shop::open(1, ["deaf:0", "deaf:0"]).await?;
    let tally = Tally::default();
    let mut lane = Lane { shop: &shop, tally: &tally, rng: StdRng::seed_from_u64(1), is_fickle: false };
    // The first looks learn what there is.
    lane.task().await;
    let begun = Clock::system().now();
    let already = shop.handoffs();
    while shop.handoffs() < already + count {
        lane.task().await;
    }
    let mut changed: Option<UnixTime> = None;
    let mut steps = Vec::new();
    for event in shop.ledger.events().iter().filter(|event| event.at >= begun) {
        match &event.what {
            What::Holds(_) => changed = Some(event.at),
            What::Asked(what) if what.starts_with("POST") => {
                steps.extend(changed.take().map(|at| event.at.saturating_since(at)));
            }
            _ => {}
        }
    }
    shop.close().await;
    steps.sort();
    Some(steps)
}

fn seed() -> u64 {
    let seed = match std::env::var("SN17_SEED") {
        Ok(text) => text.parse().expect("SN17_SEED is a number"),
        Err(_) => u64::from(rand::random::<u32>()),
    };
    println!("SN17_SEED={seed}");
    seed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_handoffs_with_faults() {
    if let Some(told) = campaign(seed(), 100).await {
        println!("{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_coordinators_own_time_is_measured() {
    let Some(steps) = overhead(10).await else { return };
    assert!(steps.len() >= 20, "{steps:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "scripts/campaign.sh handoffs"]
async fn full_size() {
    let count = std::env::var("SN17_HANDOFFS").map_or(1_000, |text| text.parse().expect("a number"));
    let told = campaign(seed(), count).await.expect("a C compiler");
    let steps = overhead(count.min(300)).await.expect("a C compiler");
    let at = |share: f64| steps[((steps.len() - 1) as f64 * share) as usize];
    let (p50, p99) = (at(0.5), at(0.99));
    println!(
        "RESULT {told}; from a change on the card to the next order ({} steps): p50 {p50:.1?}, p99 {p99:.1?}",
        steps.len()
    );
    assert!(p50 < Duration::from_millis(10) && p99 < Duration::from_millis(60), "p50 {p50:?}, p99 {p99:?}");
}
