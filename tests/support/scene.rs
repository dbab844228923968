//! The real agent, with any number of hotkeys and cards, before development validators with their real
//! books: in process and under a paused clock. What goes over the wire can be watched, and a reply be
//! lost, late or another one.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::Response;
use http_body_util::BodyExt;
use sn17_miner::app::{App, CardPeers, Locks, Peers, Transports, World};
use sn17_miner::clock::Clock;
use sn17_miner::config::{Inputs, Settings, load};
use sn17_miner::dendrite::AxonAddress;
use sn17_miner::devnet::axon::{DevAxon, DevAxonSettings, Judge};
use sn17_miner::devnet::axon_judge::AxonJudge;
use sn17_miner::devnet::generator::{DevGenerator, DevGeneratorSettings};
use sn17_miner::devnet::ledger::{DevTask, LedgerEvent, ValidatorLedger};
use sn17_miner::devnet::rules::ValidatorRules;
use sn17_miner::devnet::scorer::{DevScorer, DevScorerSettings};
use sn17_miner::devnet::tasks::TaskMaker;
use sn17_miner::mining;
use sn17_miner::mining::{Budget, Finish, SeedSource};
use sn17_miner::net::{Endpoint, Transport};
use sn17_miner::primitives::{CardId, Hotkey, Prompt, TaskId, Uid, UnixTime};
use sn17_miner::wallet::HotkeyPair;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::graded::Grades;
use crate::hostile_world::Log;

/// 2026-01-01, and not on a whole second: `Date` headers are cut.
pub const START: UnixTime = UnixTime::from_millis(1_767_225_600_730);

pub const S: fn(u64) -> Duration = Duration::from_secs;

pub const PULL: &str = "/PullTask";
pub const SUBMIT: &str = "/SubmitResults";
pub const GENERATE: &str = "/generate/";
pub const SCORE: &str = "/validate_txt_to_3d_ply/";

/// Who makes and judges results.
#[derive(Clone)]
pub enum Makers {
    /// The development network's own: splats of the prompt's words, looked at.
    Real,
    /// Results of known worth, in microseconds.
    Graded(Grades),
}

/// What is to be set up.
pub struct Plan {
    pub validators: Vec<ValidatorRules>,
    pub clocks_ahead_ms: Vec<i64>,
    pub hotkeys: u16,
    /// What a generation takes on each card.
    pub cards: Vec<Duration>,
    pub scoring: Duration,
    /// What a validator takes to score.
    pub remote_scoring: Duration,
    pub image_share: f64,
    pub makers: Makers,
    /// Validators that reject whatever they are sent.
    pub unfair: &'static [usize],
    /// All validators are said to have the same uid.
    pub one_uid: bool,
    /// Lines of the configuration file.
    pub lines: &'static str,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            validators: vec![ValidatorRules::default()],
            clocks_ahead_ms: Vec::new(),
            hotkeys: 1,
            cards: vec![S(25)],
            scoring: S(3),
            remote_scoring: S(4),
            image_share: 0.0,
            makers: Makers::Graded(Grades::all_good()),
            unfair: &[],
            one_uid: false,
            lines: "",
        }
    }
}

impl Plan {
    /// So many validators by the usual rules.
    pub fn validators(count: usize) -> Self {
        Self { validators: vec![ValidatorRules::default(); count], ..Self::default() }
    }
}

/// An end of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Site {
    Validator(usize),
    Generator(usize),
    Scorer(usize),
}

/// A request as it arrives.
pub struct Asked<'a> {
    pub path: &'a str,
    /// How often this path was asked before.
    pub nth: usize,
    pub body: &'a [u8],
}

/// What becomes of a request in place of an honest reply.
pub enum Lie {
    Say(u16, Vec<u8>),
    /// The request does not arrive, and nothing ever comes back.
    Hang,
    /// It arrives and is acted upon; the reply is lost.
    Lose,
    /// The honest reply comes so much later.
    Late(Duration),
    /// Whoever asks breaks.
    Panic,
}

type Bend = Arc<dyn Fn(&Asked<'_>) -> Option<Lie> + Send + Sync>;

/// What has gone over the wire, and what is done to it.
#[derive(Default)]
struct Wire {
    bends: HashMap<Site, Bend>,
    /// Where nobody listens.
    closed: HashSet<Site>,
    asked: HashMap<(Site, String), usize>,
    /// Calls under way, and the most there were at once.
    present: HashMap<Site, (usize, usize)>,
}

/// Counts a call until it ends, however it ends.
struct Present(Arc<Mutex<Wire>>, Site);

impl Present {
    fn enter(wire: &Arc<Mutex<Wire>>, site: Site) -> Self {
        let mut held = wire.lock().unwrap();
        let (now, most) = held.present.entry(site).or_default();
        *now += 1;
        *most = (*most).max(*now);
        drop(held);
        Self(Arc::clone(wire), site)
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        // A request that breaks its caller is no reason to break here too.
        if let Ok(mut wire) = self.0.lock() {
            wire.present.entry(self.1).or_default().0 -= 1;
        }
    }
}

/// The honest end of a wire, behind what is done to it.
fn bent(honest: Router, site: Site, wire: &Arc<Mutex<Wire>>) -> Router {
    let wire = Arc::clone(wire);
    Router::new().fallback(move |request: Request| {
        let (honest, wire) = (honest.clone(), Arc::clone(&wire));
        async move {
            let (head, body) = request.into_parts();
            let body = to_bytes(body, 256 << 20).await.unwrap();
            let path = head.uri.path().to_owned();
            let (nth, bend) = {
                let mut wire = wire.lock().unwrap();
                let count = wire.asked.entry((site, path.clone())).or_default();
                *count += 1;
                (*count - 1, wire.bends.get(&site).cloned())
            };
            let lie = bend.and_then(|bend| bend(&Asked { path: &path, nth, body: &body }));
            // One card does both; a look at its health is no work.
            let place = if let Site::Scorer(card) = site { Site::Generator(card) } else { site };
            let _present = (path != "/health").then(|| Present::enter(&wire, place));
            let request = Request::from_parts(head, Body::from(body));
            let honest = async { honest.oneshot(request).await.unwrap_or_else(|never| match never {}) };
            match lie {
                None => honest.await,
                Some(Lie::Say(status, body)) => {
                    Response::builder().status(status).body(Body::from(body)).unwrap()
                }
                Some(Lie::Hang) => std::future::pending().await,
                Some(Lie::Lose) => {
                    honest.await;
                    std::future::pending().await
                }
                Some(Lie::Late(time)) => {
                    tokio::time::sleep(time).await;
                    honest.await
                }
                Some(Lie::Panic) => panic!("a job breaks"),
            }
        }
    })
}

/// See the [module](self).
pub struct Scene {
    pub clock: Clock,
    pub axons: Vec<DevAxon>,
    pub hotkeys: Vec<Arc<HotkeyPair>>,
    pub settings: Settings,
    pub log: Log,
    plan: Plan,
    wire: Arc<Mutex<Wire>>,
    data: TempDir,
    _listening: tracing::subscriber::DefaultGuard,
}

fn place(last: u8, number: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, last, u8::try_from(number).unwrap() + 1], 8_000))
}

/// A directory that is in memory where the system offers that: submissions wait for the disk.
pub fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

impl Scene {
    pub fn of(validators: usize) -> Self {
        Self::set(Plan::validators(validators))
    }

    pub fn set(plan: Plan) -> Self {
        let log = Log::default();
        let listening = log.listen();
        let clock = Clock::starting_at(START);
        let hotkeys: Vec<_> =
            (0..plan.hotkeys).map(|number| Arc::new(HotkeyPair::dev(&format!("miner-{number}")))).collect();
        let data = scratch();
        let file = data.path().join("c.toml");
        std::fs::write(&file, plan.lines).unwrap();
        let mut settings = load(&Inputs { file: Some(file), ..Inputs::default() }).unwrap().settings;
        // What the agent starts with is true of these validators, as it is of the network it is told of.
        let rules = plan.validators.first().copied().unwrap_or_default();
        let ValidatorRules { cooldown, throttle, penalty, lock, .. } = rules;
        settings.mining = mining::Settings { cooldown, throttle, penalty, lock, ..settings.mining };
        let axons = plan.validators.iter().enumerate().map(|(number, rules)| {
            let seed = 17 + number as u64;
            let settings = DevAxonSettings {
                rules: *rules,
                judge: match &plan.makers {
                    _ if plan.unfair.contains(&number) => Judge::Listed(Arc::new([])),
                    Makers::Real => Judge::Looking(AxonJudge { seed, ..AxonJudge::default() }),
                    Makers::Graded(grades) => grades.judge(),
                },
                scoring: plan.remote_scoring,
                clock_ahead: plan.clocks_ahead_ms.get(number).copied().unwrap_or(0) * 1_000_000,
                ..DevAxonSettings::default()
            };
            let key = HotkeyPair::dev(&format!("validator-{number}"));
            let axon = DevAxon::new(key, clock, settings, TaskMaker::new(seed, plan.image_share));
            register(&axon, &hotkeys);
            axon
        });
        let axons = axons.collect();
        let wire = Arc::default();
        Self { clock, axons, hotkeys, settings, log, plan, wire, data, _listening: listening }
    }

    /// Bends an end of the wire, for every agent built from now on and for those that run.
    pub fn bend(&self, site: Site, bend: impl Fn(&Asked<'_>) -> Option<Lie> + Send + Sync + 'static) {
        self.wire.lock().unwrap().bends.insert(site, Arc::new(bend));
    }

    pub fn straighten(&self, site: Site) {
        self.wire.lock().unwrap().bends.remove(&site);
    }

    /// Nobody listens there any more.
    pub fn close(&self, site: Site) {
        self.wire.lock().unwrap().closed.insert(site);
    }

    pub fn reopen(&self, site: Site) {
        self.wire.lock().unwrap().closed.remove(&site);
    }

    /// How often a path was asked.
    pub fn asked(&self, site: Site, path: &str) -> usize {
        self.wire.lock().unwrap().asked.get(&(site, path.to_owned())).copied().unwrap_or(0)
    }

    /// The most calls that were under way at once.
    pub fn crowd(&self, site: Site) -> usize {
        self.wire.lock().unwrap().present.get(&site).map_or(0, |(_, most)| *most)
    }

    pub fn hotkey(&self, number: usize) -> Hotkey {
        *self.hotkeys[number].hotkey()
    }

    /// Gives the first hotkey a task before it asks.
    pub fn assign(&self, validator: usize, id: &str, prompt: Prompt) {
        let task = DevTask { id: TaskId::new(id).unwrap(), prompt };
        let (miner, now) = (self.hotkey(0), self.clock.now());
        self.axons[validator].ledger(|ledger| ledger.pull(&miner, now, || task));
    }

    /// A validator that forgets everything, as if its state had not been saved.
    pub fn forget(&self, validator: usize) {
        let rules = self.plan.validators[validator];
        self.axons[validator].ledger(|ledger| *ledger = ValidatorLedger::new(rules));
        register(&self.axons[validator], &self.hotkeys);
    }

    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// A process with all hotkeys and cards.
    pub async fn agent(&self) -> App {
        self.agent_in(self.data.path(), 0..self.plan.cards.len()).await
    }

    /// A process with a data directory of its own and some of the cards.
    pub async fn agent_in(&self, data: &Path, cards: Range<usize>) -> App {
        App::build(&self.settings, self.world(data, cards)).await.unwrap()
    }

    /// What such a process is built against.
    pub fn world(&self, data: &Path, cards: Range<usize>) -> World {
        let mut servers = HashMap::new();
        let mut validators = Vec::new();
        for (number, axon) in self.axons.iter().enumerate() {
            let address = place(0, number);
            let site = Site::Validator(number);
            servers.insert(address, (site, bent(axon.router(), site, &self.wire)));
            let uid = Some(Uid(if self.plan.one_uid { 7 } else { number as u16 }));
            validators.push((AxonAddress { hotkey: axon.hotkey(), address }, uid));
        }
        let seed = cards.start as u64;
        let cards = cards.map(|card| {
            let (generator, scorer) = self.workers(card);
            let (making, judging) = (place(1, card), place(2, card));
            for (address, site, router) in
                [(making, Site::Generator(card), generator), (judging, Site::Scorer(card), scorer)]
            {
                servers.insert(address, (site, bent(router, site, &self.wire)));
            }
            CardPeers {
                card: CardId { host: "here".into(), uuid: card.to_string() },
                generator: Endpoint::of(making),
                scorer: self.settings.scorer.as_ref().map(|_| Endpoint::of(judging)),
                household: None,
            }
        });
        let cards = cards.collect();
        let transport = self.transport(servers);
        World {
            clock: self.clock,
            seeds: SeedSource::fixed(42 + seed),
            hotkeys: self.hotkeys.clone(),
            peers: Peers { validators, cards },
            transports: Transports {
                pulls: transport.clone(),
                submissions: transport.clone(),
                generator: transport.clone(),
                scorer: transport,
            },
            chain: None,
            data: data.to_owned(),
            locks: Locks { hotkey: false, card: false },
        }
    }

    fn transport(&self, servers: HashMap<SocketAddr, (Site, Router)>) -> Transport {
        let (servers, wire) = (Arc::new(servers), Arc::clone(&self.wire));
        Transport::InProcess(Arc::new(move |request| {
            let address = request.uri().authority().unwrap().as_str().parse::<SocketAddr>().unwrap();
            let (site, router) = servers[&address].clone();
            let open = !wire.lock().unwrap().closed.contains(&site);
            Box::pin(async move {
                if !open {
                    return Err("connection refused".into());
                }
                let response = router.oneshot(request.map(Body::from)).await?;
                Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
            })
        }))
    }

    fn workers(&self, card: usize) -> (Router, Router) {
        let delay = self.plan.cards[card];
        match &self.plan.makers {
            Makers::Real => {
                let making =
                    DevGeneratorSettings { delay, seed: card as u64, ..DevGeneratorSettings::default() };
                let judging = DevScorerSettings { delay: self.plan.scoring };
                let generator = DevGenerator::new(making, self.clock);
                (generator.router(), DevScorer::new(judging, self.clock).router())
            }
            Makers::Graded(grades) => (grades.generator(delay), grades.scorer(self.plan.scoring)),
        }
    }

    /// Mines until so many more tasks have ended; says how long it took.
    pub async fn mine(&self, tasks: u64) -> Duration {
        let began = self.clock.instant();
        let run = self.agent().await.run(Budget::Tasks(tasks), CancellationToken::new());
        let Ok(finish) = tokio::time::timeout(S(10 * 86_400), run).await else {
            panic!("the loop does not go on: {:#?}", self.last_lines());
        };
        assert_eq!(finish.unwrap(), Finish::Done);
        began.elapsed()
    }

    /// Mines for a time, and finishes what was begun as far as the grace of the settings lets it.
    pub async fn mine_for(&self, time: Duration) {
        Self::run_for(self.agent().await, time).await;
    }

    pub async fn run_for(app: App, time: Duration) {
        let stop = CancellationToken::new();
        let (finish, ()) = tokio::join!(app.run(Budget::Endless, stop.clone()), async {
            tokio::time::sleep(time).await;
            stop.cancel();
        });
        assert_eq!(finish.unwrap(), Finish::Stopped);
        // What was being written when it was dropped is written, as it is before a process ends: the
        // paused clock stands still until then.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    pub fn count(&self, event: &str) -> u64 {
        (0..self.axons.len()).map(|validator| self.count_at(validator, event)).sum()
    }

    pub fn count_at(&self, validator: usize, event: &str) -> u64 {
        self.axons[validator].ledger(|ledger| ledger.chronicle().count(event))
    }

    /// What a validator has seen of a hotkey, oldest first.
    pub fn events(&self, validator: usize, hotkey: Hotkey) -> Vec<LedgerEvent> {
        let mine = |event: &&LedgerEvent| event.hotkey == hotkey;
        self.axons[validator].ledger(|ledger| ledger.chronicle().latest().filter(mine).cloned().collect())
    }

    /// Tasks that nothing was booked on.
    pub fn open(&self) -> usize {
        self.axons.iter().map(|axon| axon.ledger(|ledger| ledger.open_tasks().count())).sum()
    }

    /// Nothing happened that a miner which keeps the rules never causes.
    #[track_caller]
    pub fn assert_lawful(&self) {
        for axon in &self.axons {
            let counts: Vec<_> = axon.ledger(|ledger| ledger.chronicle().counts().collect());
            let forbidden = axon.ledger(|ledger| ledger.chronicle().forbidden());
            assert_eq!(forbidden, 0, "{counts:?} {:#?}", self.last_lines());
        }
    }

    /// And every task that was given out is booked.
    #[track_caller]
    pub fn assert_settled(&self) {
        self.assert_lawful();
        assert_eq!(self.open(), 0, "{:#?}", self.last_lines());
        let booked = ["accepted", "empty", "low", "scorer_failed"].map(|event| self.count(event));
        assert_eq!(self.count("assigned"), booked.iter().sum::<u64>(), "{:#?}", self.last_lines());
    }

    pub fn last_lines(&self) -> Vec<String> {
        let mut lines = self.log.all();
        lines.split_off(lines.len().saturating_sub(40))
    }
}

fn register(axon: &DevAxon, hotkeys: &[Arc<HotkeyPair>]) {
    for (hotkey, uid) in hotkeys.iter().zip(100..) {
        axon.register(Uid(uid), *hotkey.hotkey());
    }
}
