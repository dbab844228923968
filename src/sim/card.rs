//! A card with a generator and a scorer on it, as far as time and luck go.
//!
//! The card does one thing at a time: two calls at once take as long as one after the other, so no
//! policy gains by crowding it. What no policy may do is counted as a fault and done all the same:
//! two generations at once, and in per-task mode a generation beside the scorer or a scoring
//! without it. Where its memory is modelled ([`Handoff::Card`]) whoever wants more than is free is
//! told so, which is a fault as well, and models are moved beside the work of another.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, ready};
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::memory::{self, CONTEXT, GENERATOR, Ledger, OutOfMemory, PARTS, PEAK, SCORER, SCORER_HOLDS};
use super::scenario::{Handoff, Scenario};
use super::splats::{Quality, Splats};
use super::wire::pass;
use crate::gpu::{
    self, Abilities, AtStart, EffectError, Effects, Household, NoLog, Reading, Residency, Row, Song, Stage,
    Tenant, WorkerId, WorkerSpec,
};
use crate::net::{InProcess, ReplyBody, Transport};
use crate::primitives::MiB;

/// Whether candidates pass, in the order in which they are made: two policies under one seed meet
/// the same luck, so that comparing them is fair after few hours already.
#[derive(Debug)]
pub(super) struct Luck {
    pass: f64,
    drawn: Mutex<Drawn>,
}

#[derive(Debug)]
struct Drawn {
    rng: StdRng,
    /// A generator makes the same of the same prompt and seed again.
    known: HashMap<(String, i64), Quality>,
    order: VecDeque<(String, i64)>,
}

impl Luck {
    /// Candidates remembered: more than are ever between a candidate and its repetition.
    const KNOWN: usize = 1_024;

    pub(super) fn new(seed: u64, pass: f64) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self { pass, drawn: Mutex::new(Drawn { rng, known: HashMap::new(), order: VecDeque::new() }) }
    }

    fn draw(&self, prompt: &str, seed: i64) -> Quality {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (prompt.to_owned(), seed);
        if let Some(quality) = drawn.known.get(&key) {
            return *quality;
        }
        let quality = if drawn.rng.random::<f64>() < self.pass { Quality::Good } else { Quality::Bad };
        if drawn.order.len() == Self::KNOWN
            && let Some(oldest) = drawn.order.pop_front()
        {
            drawn.known.remove(&oldest);
        }
        drawn.known.insert(key.clone(), quality);
        drawn.order.push_back(key);
        quality
    }
}

/// What happened on a card that must not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct CardFaults {
    /// A generation was asked for while another one was under way.
    pub crowded: u64,
    /// A generation while the scorer held its part of the memory.
    pub scorer_in_the_way: u64,
    /// A scoring while the scorer was unloaded.
    pub scorer_away: u64,
    /// Somebody wanted more memory than was free.
    pub out_of_memory: u64,
}

impl CardFaults {
    pub fn total(&self) -> u64 {
        self.crowded + self.scorer_in_the_way + self.scorer_away + self.out_of_memory
    }
}

/// What a card did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct CardTally {
    pub generations: u64,
    /// Those that took longer than one alone does, from request to answer.
    pub delayed: u64,
    /// The scorer left, to come back.
    pub swaps: u64,
}

impl CardTally {
    pub(super) fn and(self, other: &Self) -> Self {
        Self {
            generations: self.generations + other.generations,
            delayed: self.delayed + other.delayed,
            swaps: self.swaps + other.swaps,
        }
    }

    pub(super) fn since(&self, earlier: &Self) -> Self {
        Self {
            generations: self.generations.saturating_sub(earlier.generations),
            delayed: self.delayed.saturating_sub(earlier.delayed),
            swaps: self.swaps.saturating_sub(earlier.swaps),
        }
    }
}

/// Clocks are exact to a millisecond.
const DELAY: Duration = Duration::from_millis(10);

/// See the [module](self). Clones share everything.
#[derive(Debug, Clone)]
pub(super) struct Card(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    generation: Duration,
    scoring: Duration,
    unload: Duration,
    reload: Duration,
    handoff: Handoff,
    luck: Arc<Luck>,
    splats: Arc<Splats>,
    turn: Semaphore,
    state: Mutex<State>,
    /// A worker goes on when its client has gone.
    jobs: TaskTracker,
}

#[derive(Debug)]
struct State {
    scorer_resident: bool,
    generations: u32,
    busy: Duration,
    /// What goes on on the card.
    active: u32,
    busy_since: Option<Instant>,
    /// `None`: not modelled.
    memory: Option<Ledger>,
    tally: CardTally,
    faults: CardFaults,
}

/// Something goes on on a card.
struct Activity<'a>(&'a Card);

impl Drop for Activity<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.active = state.active.saturating_sub(1);
        if state.active == 0
            && let Some(since) = state.busy_since.take()
        {
            state.busy += since.elapsed();
        }
    }
}

impl Card {
    pub(super) fn new(scenario: &Scenario, luck: Arc<Luck>, splats: Arc<Splats>) -> Self {
        Self(Arc::new(Inner {
            generation: scenario.generation,
            scoring: scenario.scoring,
            unload: scenario.unload,
            reload: scenario.reload,
            handoff: scenario.handoff,
            luck,
            splats,
            turn: Semaphore::new(1),
            state: Mutex::new(State {
                scorer_resident: true,
                generations: 0,
                busy: Duration::ZERO,
                active: 0,
                busy_since: None,
                memory: match scenario.handoff {
                    Handoff::Card(card) => Some(Ledger::of(card)),
                    Handoff::Off | Handoff::PerTask => None,
                },
                tally: CardTally::default(),
                faults: CardFaults::default(),
            }),
            jobs: TaskTracker::new(),
        }))
    }

    /// For how long the card has been busy so far.
    pub(super) fn busy(&self) -> Duration {
        let state = self.state();
        state.busy + state.busy_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub(super) fn faults(&self) -> CardFaults {
        self.state().faults
    }

    pub(super) fn tally(&self) -> CardTally {
        self.state().tally
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the scorer must leave for a generation.
    pub(super) fn is_shared(&self) -> bool {
        match self.0.handoff {
            Handoff::Off => false,
            Handoff::PerTask => true,
            Handoff::Card(card) => !memory::all_fit(card),
        }
    }

    fn begin(&self) -> Activity<'_> {
        let mut state = self.state();
        state.active += 1;
        state.busy_since.get_or_insert_with(Instant::now);
        drop(state);
        Activity(self)
    }

    /// Keeps the card busy for a time, once it is free.
    async fn work(&self, time: Duration) {
        // Never closed, so there always is a turn.
        let _turn = self.0.turn.acquire().await;
        let _busy = self.begin();
        pass(time).await;
    }

    /// Models are moved.
    async fn transfer(&self, time: Duration) {
        let modelled = self.state().memory.is_some();
        if modelled {
            let _busy = self.begin();
            pass(time).await;
        } else {
            self.work(time).await;
        }
    }

    /// Takes memory, where that is modelled.
    fn hold(&self, hold: impl FnOnce(&mut Ledger) -> Result<(), OutOfMemory>) -> Result<(), OutOfMemory> {
        let mut state = self.state();
        let held = state.memory.as_mut().map_or(Ok(()), hold);
        state.faults.out_of_memory += u64::from(held.is_err());
        held
    }

    /// The scorer gives its part of the memory up.
    pub(super) async fn unload_scorer(&self) {
        if self.state().scorer_resident {
            self.transfer(self.0.unload).await;
            let mut state = self.state();
            state.scorer_resident = false;
            state.tally.swaps += 1;
            if let Some(ledger) = &mut state.memory {
                ledger.scorer_leaves();
            }
        }
    }

    /// The scorer comes back; whether it is there.
    pub(super) async fn reload_scorer(&self) -> bool {
        self.reload_scorer_in(self.0.reload).await
    }

    async fn reload_scorer_in(&self, time: Duration) -> bool {
        if !self.state().scorer_resident {
            if self.hold(|ledger| ledger.scorer_holds(SCORER_HOLDS)).is_err() {
                return false;
            }
            self.transfer(time).await;
            self.state().scorer_resident = true;
        }
        true
    }

    /// What the generator does with a request; another one waits in it meanwhile.
    pub(super) async fn generate(&self, prompt: &str, seed: i64) -> Result<Quality, OutOfMemory> {
        let asked = Instant::now();
        let per_task = self.0.handoff == Handoff::PerTask;
        {
            let mut state = self.state();
            state.faults.crowded += u64::from(state.generations > 0);
            state.faults.scorer_in_the_way += u64::from(per_task && state.scorer_resident);
            state.generations += 1;
        }
        let made = self.all_parts().await;
        let mut state = self.state();
        state.generations -= 1;
        state.tally.generations += 1;
        state.tally.delayed += u64::from(asked.elapsed() > self.0.generation + DELAY);
        drop(state);
        made?;
        Ok(self.0.luck.draw(prompt, seed))
    }

    async fn all_parts(&self) -> Result<(), OutOfMemory> {
        // Never closed, so there always is a turn.
        let _turn = self.0.turn.acquire().await;
        let _busy = self.begin();
        let began = Instant::now();
        let mut so_far = Duration::ZERO;
        let mut made = Ok(());
        for part in PARTS {
            made = self.hold(|ledger| ledger.generator_holds(part.peak));
            if made.is_err() {
                break;
            }
            so_far = (so_far + part.time(self.0.generation)).min(self.0.generation);
            tokio::time::sleep_until(began + so_far).await;
        }
        if let Some(ledger) = &mut self.state().memory {
            ledger.generator_rests();
        }
        made
    }

    /// Whether the scorer could.
    pub(super) async fn score(&self) -> bool {
        let there = {
            let mut state = self.state();
            state.faults.scorer_away += u64::from(!state.scorer_resident);
            state.scorer_resident
        };
        self.work(self.0.scoring).await;
        there
    }

    /// A move that was begun is made, whoever waits for it.
    async fn begun<T: Send + 'static>(&self, moved: impl Future<Output = T> + Send + 'static) -> Option<T> {
        // It only ends early with the runtime, and then nobody waits.
        self.0.jobs.spawn(moved).await.ok()
    }

    async fn serve(self, request: http::Request<Bytes>) -> Response<ReplyBody> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/health") => reply(StatusCode::OK, Bytes::from_static(b"{}")),
            (&Method::POST, "/generate/") => {
                let (mut prompt, mut seed) = (String::new(), 0);
                for (key, value) in form_urlencoded::parse(request.body()) {
                    match &*key {
                        "prompt" => prompt = value.into_owned(),
                        "seed" => seed = value.parse().unwrap_or(0),
                        _ => {}
                    }
                }
                match self.generate(&prompt, seed).await {
                    Ok(quality) => reply(StatusCode::OK, self.0.splats.bytes(quality)),
                    Err(OutOfMemory) => {
                        reply(StatusCode::INTERNAL_SERVER_ERROR, Bytes::from_static(b"CUDA out of memory"))
                    }
                }
            }
            (&Method::POST, "/validate_txt_to_3d_ply/") => {
                #[derive(Deserialize)]
                struct Asked<'a> {
                    #[serde(borrow)]
                    data: &'a str,
                }
                let Ok(asked) = serde_json::from_slice::<Asked<'_>>(request.body()) else {
                    return reply(StatusCode::UNPROCESSABLE_ENTITY, Bytes::new());
                };
                let quality = self.0.splats.quality(asked.data);
                let there = self.score().await;
                // Without its models it says yes and scores nothing (workers.md section 3).
                let blind = self.0.handoff != Handoff::PerTask && !there;
                let score = if blind { 0.0 } else { quality.score() };
                let answer = serde_json::json!({
                    "score": score, "iqa": score, "alignment_score": score, "ssim": score, "lpips": score,
                });
                reply(StatusCode::OK, answer.to_string().into())
            }
            _ => reply(StatusCode::NOT_FOUND, Bytes::new()),
        }
    }
}

impl Card {
    /// How the workers give way to each other; `None`: they need not.
    pub(super) fn household(&self) -> Option<Household> {
        let (mode, limit, modelled) = match self.0.handoff {
            Handoff::Off => return None,
            // Nothing measures it.
            Handoff::PerTask => (gpu::Mode::PerTask, Some(MiB(24_576)), false),
            Handoff::Card(_) => (gpu::Mode::Auto, None, true),
        };
        let worker = |name: &str, tenant, rows: Vec<(Stage, MiB, MiB)>| {
            let worker = WorkerId::new(name);
            let row = |(stage, resident, peak)| Row { worker: worker.clone(), stage, resident, peak };
            let moves = tenant == Tenant::Scorer;
            WorkerSpec {
                tenant,
                residency: Residency::OnDemand,
                rows: rows.into_iter().map(row).collect(),
                abilities: Abilities {
                    unload: moves,
                    load: moves,
                    canary: moves && modelled,
                    ..Abilities::default()
                },
                at_start: AtStart::Resident,
                self_coordinating: false,
                id: worker,
            }
        };
        let parts = PARTS.iter().map(|part| (Stage::new(part.name), CONTEXT, part.peak));
        let generator = if modelled { parts.collect() } else { vec![(Stage::default(), CONTEXT, PEAK)] };
        let scorer = vec![(Stage::default(), SCORER_HOLDS, SCORER_HOLDS)];
        Some(Household {
            settings: gpu::Settings { limit, mode, ..gpu::Settings::default() },
            workers: vec![
                worker(GENERATOR, Tenant::Generator, generator),
                worker(SCORER, Tenant::Scorer, scorer),
            ],
            effects: Arc::new(self.clone()),
            log: Arc::new(NoLog),
        })
    }

    /// The part of coming back that a canary takes.
    fn canary_time(&self) -> Duration {
        self.0.reload / 5
    }
}

impl Effects for Card {
    fn probe(&self) -> BoxFuture<'_, Result<Option<Reading>, EffectError>> {
        let state = self.state();
        let reading = state.memory.as_ref().and_then(|ledger| ledger.reading(state.active > 0));
        Box::pin(ready(Ok(reading)))
    }

    fn unload<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(async move {
            if worker.as_str() != SCORER {
                return Err(EffectError::Unsupported);
            }
            let card = self.clone();
            self.begun(async move { card.unload_scorer().await }).await;
            Ok(())
        })
    }

    fn load<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(async move {
            if worker.as_str() != SCORER {
                return Err(EffectError::Unsupported);
            }
            let modelled = self.state().memory.is_some();
            let canary = if modelled { self.canary_time() } else { Duration::ZERO };
            let (card, time) = (self.clone(), self.0.reload.saturating_sub(canary));
            match self.begun(async move { card.reload_scorer_in(time).await }).await {
                Some(false) => Err(EffectError::Refused("CUDA out of memory".into())),
                Some(true) | None => Ok(()),
            }
        })
    }

    fn cleanup<'a>(&'a self, _: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(ready(Err(EffectError::Unsupported)))
    }

    fn start<'a>(&'a self, _: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(ready(Err(EffectError::Unsupported)))
    }

    fn stop<'a>(&'a self, _: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(ready(Err(EffectError::Unsupported)))
    }

    fn canary<'a>(&'a self, _: &'a WorkerId) -> BoxFuture<'a, Result<Song, EffectError>> {
        Box::pin(async move {
            self.transfer(self.canary_time()).await;
            Ok(if self.state().scorer_resident { Song::Sings } else { Song::Silent })
        })
    }
}

fn reply(status: StatusCode, body: Bytes) -> Response<ReplyBody> {
    let body = Full::new(body).map_err(|never: Infallible| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// Reaches the worker servers of each card at its port.
pub(super) fn transport(cards: HashMap<u16, Card>) -> Transport {
    let server: InProcess = Arc::new(move |request| {
        let card = request.uri().port_u16().and_then(|port| cards.get(&port)).cloned();
        Box::pin(async move {
            let card = card.ok_or("connection refused")?;
            let jobs = card.0.jobs.clone();
            Ok(jobs.spawn(card.serve(request)).await?)
        })
    });
    Transport::InProcess(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(handoff: Handoff) -> Card {
        let scenario = Scenario { handoff, ..Scenario::default() };
        Card::new(&scenario, Arc::new(Luck::new(1, 1.0)), Arc::new(Splats::make().unwrap()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowded_card_takes_as_long_as_one_after_the_other() {
        let card = card(Handoff::Off);
        let began = Instant::now();
        let (_, _, there) = tokio::join!(card.generate("a", 1), card.generate("b", 2), card.score());
        assert!(there);
        assert_eq!(began.elapsed().as_secs(), 2 * 30 + 5);
        assert_eq!(card.busy().as_secs(), 2 * 30 + 5);
        assert_eq!(card.faults(), CardFaults { crowded: 1, ..CardFaults::default() });
        card.generate("c", 3).await.unwrap();
        assert_eq!(card.tally(), CardTally { generations: 3, delayed: 1, swaps: 0 });
        assert_eq!(card.faults().total(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_shares_a_card_must_make_room() {
        let card = card(Handoff::PerTask);
        let began = Instant::now();
        for _ in 0..2 {
            card.unload_scorer().await;
            card.unload_scorer().await;
            card.generate("a", 1).await.unwrap();
            assert!(card.reload_scorer().await);
            card.score().await;
        }
        assert_eq!(began.elapsed().as_secs(), 2 * 40);
        assert_eq!(card.faults(), CardFaults::default());
        card.generate("a", 2).await.unwrap();
        assert_eq!(card.faults().scorer_in_the_way, 1);
        card.unload_scorer().await;
        assert!(!card.score().await);
        assert_eq!((card.faults().scorer_away, card.tally().swaps), (1, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_card_whose_memory_is_modelled_refuses_what_does_not_fit() {
        let small = card(Handoff::Card(MiB(24_576)));
        assert_eq!(small.generate("a", 1).await, Err(OutOfMemory));
        assert_eq!(small.faults().out_of_memory, 1);
        small.unload_scorer().await;
        let crowd = async {
            pass(Duration::from_secs(10)).await;
            let early = small.reload_scorer().await;
            pass(Duration::from_secs(19)).await;
            (early, small.reload_scorer().await)
        };
        let (made, back) = tokio::join!(small.generate("a", 1), crowd);
        // Not beside the shape, but beside what comes after it.
        assert_eq!((made.is_ok(), back), (true, (false, true)));
        assert_eq!(small.faults(), CardFaults { out_of_memory: 2, ..CardFaults::default() });
        let large = card(Handoff::Card(MiB(32_768)));
        assert!(large.generate("a", 1).await.is_ok() && large.score().await);
        assert_eq!(large.faults(), CardFaults::default());
    }

    #[tokio::test(start_paused = true)]
    async fn a_generation_under_way_counts_as_busy() {
        let card = card(Handoff::Off);
        let half = async {
            pass(Duration::from_secs(15)).await;
            card.busy()
        };
        let (_, busy) = tokio::join!(card.generate("a", 1), half);
        assert_eq!(busy.as_secs(), 15);
    }

    #[test]
    fn luck_is_a_share_and_the_same_again() {
        let luck = Luck::new(7, 0.3);
        let good = (0..4_000).filter(|seed| luck.draw("a", *seed) == Quality::Good).count();
        assert!((1_110..=1_290).contains(&good), "{good} of 4000");
        let (last, other) = (luck.draw("a", 3_999), Luck::new(7, 0.3));
        assert!((0..50).all(|_| luck.draw("a", 3_999) == last), "a seed used again");
        let order = |luck: &Luck| (10_000..10_050).map(|seed| luck.draw("b", seed)).collect::<Vec<_>>();
        assert_eq!(order(&other), order(&Luck::new(7, 0.3)));
        assert_ne!(order(&other), order(&Luck::new(8, 0.3)));
        for (pass, quality) in [(0.0, Quality::Bad), (1.0, Quality::Good)] {
            let luck = Luck::new(1, pass);
            assert!((0..100).all(|seed| luck.draw("a", seed) == quality));
        }
    }
}
