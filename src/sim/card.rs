//! A card with a generator and a scorer on it, as far as time and luck go.
//!
//! The card does one thing at a time: two calls at once take as long as one after the other, so no
//! policy gains by crowding it. What no policy may do is counted as a fault and done all the same:
//! two generations at once, and in per-task mode a generation beside the scorer or a scoring
//! without it.

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
}

impl CardFaults {
    pub fn total(&self) -> u64 {
        self.crowded + self.scorer_in_the_way + self.scorer_away
    }
}

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
    busy_since: Option<Instant>,
    faults: CardFaults,
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
                busy_since: None,
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_shared(&self) -> bool {
        self.0.handoff == Handoff::PerTask
    }

    /// Keeps the card busy for a time, once it is free.
    async fn work(&self, time: Duration) {
        // Never closed, so there always is a turn.
        let _turn = self.0.turn.acquire().await;
        self.state().busy_since = Some(Instant::now());
        pass(time).await;
        let mut state = self.state();
        if let Some(since) = state.busy_since.take() {
            state.busy += since.elapsed();
        }
    }

    /// The scorer gives its part of the memory up.
    pub(super) async fn unload_scorer(&self) {
        if self.state().scorer_resident {
            self.work(self.0.unload).await;
            self.state().scorer_resident = false;
        }
    }

    /// The scorer comes back.
    pub(super) async fn reload_scorer(&self) {
        if !self.state().scorer_resident {
            self.work(self.0.reload).await;
            self.state().scorer_resident = true;
        }
    }

    pub(super) async fn generate(&self, prompt: &str, seed: i64) -> Quality {
        {
            let mut state = self.state();
            state.faults.crowded += u64::from(state.generations > 0);
            state.faults.scorer_in_the_way += u64::from(self.is_shared() && state.scorer_resident);
            state.generations += 1;
        }
        self.work(self.0.generation).await;
        self.state().generations -= 1;
        self.0.luck.draw(prompt, seed)
    }

    pub(super) async fn score(&self) {
        {
            let mut state = self.state();
            state.faults.scorer_away += u64::from(!state.scorer_resident);
        }
        self.work(self.0.scoring).await;
    }

    /// A move that was begun is made, whoever waits for it.
    async fn begun(&self, moved: impl Future<Output = ()> + Send + 'static) {
        // It only ends early with the runtime, and then nobody waits.
        let _ended = self.0.jobs.spawn(moved).await;
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
                let quality = self.generate(&prompt, seed).await;
                reply(StatusCode::OK, self.0.splats.bytes(quality))
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
                let score = self.0.splats.quality(asked.data).score();
                self.score().await;
                let answer = serde_json::json!({
                    "score": score, "iqa": score, "alignment_score": score, "ssim": score, "lpips": score,
                });
                reply(StatusCode::OK, answer.to_string().into())
            }
            _ => reply(StatusCode::NOT_FOUND, Bytes::new()),
        }
    }
}

/// Names of the workers on a simulated card.
const GENERATOR: &str = "generator";
const SCORER: &str = "scorer";

impl Card {
    /// The reference case: 19.6 and 4.7 GiB on 24, and nothing that measures it.
    pub(super) fn household(&self) -> Household {
        let worker = |name: &str, tenant, resident, peak| {
            let worker = WorkerId::new(name);
            let rows = vec![Row { worker: worker.clone(), stage: Stage::default(), resident, peak }];
            let moves = tenant == Tenant::Scorer;
            WorkerSpec {
                id: worker,
                tenant,
                residency: Residency::OnDemand,
                rows,
                abilities: Abilities { unload: moves, load: moves, ..Abilities::default() },
                at_start: AtStart::Resident,
                self_coordinating: false,
            }
        };
        Household {
            settings: gpu::Settings { limit: Some(MiB(24_576)), ..gpu::Settings::default() },
            workers: vec![
                worker(GENERATOR, Tenant::Generator, MiB(400), MiB(20_070)),
                worker(SCORER, Tenant::Scorer, MiB(4_813), MiB(4_813)),
            ],
            effects: Arc::new(self.clone()),
            log: Arc::new(NoLog),
        }
    }
}

impl Effects for Card {
    fn probe(&self) -> BoxFuture<'_, Result<Option<Reading>, EffectError>> {
        Box::pin(ready(Ok(None)))
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
            let card = self.clone();
            self.begun(async move { card.reload_scorer().await }).await;
            Ok(())
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
        Box::pin(ready(Ok(Song::NoneKept)))
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
        tokio::join!(card.generate("a", 1), card.generate("b", 2), card.score());
        assert_eq!(began.elapsed().as_secs(), 2 * 30 + 5);
        assert_eq!(card.busy().as_secs(), 2 * 30 + 5);
        assert_eq!(card.faults(), CardFaults { crowded: 1, ..CardFaults::default() });
        card.generate("c", 3).await;
        assert_eq!(card.faults().total(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_shares_a_card_must_make_room() {
        let card = card(Handoff::PerTask);
        let began = Instant::now();
        for _ in 0..2 {
            card.unload_scorer().await;
            card.unload_scorer().await;
            card.generate("a", 1).await;
            card.reload_scorer().await;
            card.score().await;
        }
        assert_eq!(began.elapsed().as_secs(), 2 * 40);
        assert_eq!(card.faults(), CardFaults::default());
        card.generate("a", 2).await;
        assert_eq!(card.faults().scorer_in_the_way, 1);
        card.unload_scorer().await;
        card.score().await;
        assert_eq!(card.faults().scorer_away, 1);
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
