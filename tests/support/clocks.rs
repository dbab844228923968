//! The real agent, with a wall clock that can be set, among validators whose clocks go right by
//! themselves: in process, under a paused clock.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use sn17_miner::app::{App, Locks, Peers, Transports, World};
use sn17_miner::clock::{Clock, Hands};
use sn17_miner::config::{Inputs, Settings, load};
use sn17_miner::dendrite::AxonAddress;
use sn17_miner::devnet::axon::{DevAxon, DevAxonSettings, Judge};
use sn17_miner::devnet::axon_judge::AxonJudge;
use sn17_miner::devnet::generator::{DevGenerator, DevGeneratorSettings};
use sn17_miner::devnet::network::in_process;
use sn17_miner::devnet::rules::ValidatorRules;
use sn17_miner::devnet::scorer::{DevScorer, DevScorerSettings};
use sn17_miner::devnet::tasks::TaskMaker;
use sn17_miner::mining::{Budget, Finish, SeedSource};
use sn17_miner::net::Endpoint;
use sn17_miner::primitives::{CardId, Uid, UnixTime};
use sn17_miner::wallet::HotkeyPair;
use tokio_util::sync::CancellationToken;

/// 2026-01-01, and not on a whole second: `Date` headers are cut.
const START: UnixTime = UnixTime::from_millis(1_767_225_600_730);

/// One way of every call to a validator.
const WAY: Duration = Duration::from_millis(40);

/// A validator with a clock of its own, and what is known of its pulls.
pub struct Validator {
    pub axon: DevAxon,
    address: SocketAddr,
    book: Arc<Mutex<Book>>,
    clock: Clock,
    ahead: i64,
}

#[derive(Debug, Default)]
struct Book {
    /// The end of the cooldown it last named with a booking.
    due: Option<UnixTime>,
    late: Vec<Duration>,
}

impl Validator {
    fn new(number: u16, ahead_ms: i64, scoring: Duration) -> Self {
        let clock = Clock::starting_at(START);
        let ahead = ahead_ms * 1_000_000;
        let seed = 17 + u64::from(number);
        let settings = DevAxonSettings {
            rules: ValidatorRules::default(),
            judge: Judge::Looking(AxonJudge { seed, ..AxonJudge::default() }),
            scoring,
            clock_ahead: ahead,
            ..DevAxonSettings::default()
        };
        let key = HotkeyPair::dev(&format!("validator-{number}"));
        let axon = DevAxon::new(key, clock, settings, TaskMaker::new(seed, 0.0));
        axon.register(Uid(100), *HotkeyPair::dev("miner").hotkey());
        let address = SocketAddr::from(([127, 0, 0, 1], 9_000 + number));
        Self { axon, address, book: Arc::default(), clock, ahead }
    }

    /// Its axon at the end of a network, with somebody who notes how late each pull is.
    fn router(&self) -> Router {
        let (book, clock, ahead) = (Arc::clone(&self.book), self.clock, self.ahead);
        self.axon.router().layer(from_fn(move |request: Request, next: Next| {
            let book = Arc::clone(&book);
            async move {
                tokio::time::sleep(WAY).await;
                let path = request.uri().path().to_owned();
                let now = clock.now().shifted(ahead.into());
                let reply = next.run(request).await;
                let reply =
                    if reply.status().is_success() { note(&book, &path, now, reply).await } else { reply };
                tokio::time::sleep(WAY).await;
                reply
            }
        }))
    }

    pub fn count(&self, event: &str) -> u64 {
        self.axon.ledger(|ledger| ledger.chronicle().count(event))
    }

    /// How late each pull that brought a task was, after the cooldown it had to wait for.
    pub fn lateness(&self) -> Vec<Duration> {
        self.book.lock().unwrap().late.clone()
    }
}

async fn note(book: &Mutex<Book>, path: &str, now: UnixTime, reply: Response) -> Response {
    let (head, body) = reply.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let synapse: serde_json::Value = serde_json::from_slice(&body).unwrap();
    {
        let mut book = book.lock().unwrap();
        match path {
            "/SubmitResults" => book.due = synapse["cooldown_until"].as_u64().map(UnixTime::from_secs),
            _ if synapse["task"].is_object() => {
                if let Some(due) = book.due.take() {
                    book.late.push(now.saturating_since(due));
                }
            }
            _ => {}
        }
    }
    Response::from_parts(head, Body::from(body))
}

/// How long work takes.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub generation: Duration,
    pub validation: Duration,
}

impl Pace {
    /// So that no lane waits for another.
    pub const INSTANT: Self = Self { generation: Duration::ZERO, validation: Duration::ZERO };
}

pub struct Network {
    /// The agent's.
    pub clock: Clock,
    pub hands: Hands,
    pub validators: Vec<Validator>,
    pace: Pace,
    settings: Settings,
}

impl Network {
    /// Validators whose clocks are ahead of what ours shows at first.
    pub fn new(ahead_ms: &[i64], pace: Pace) -> Self {
        let (clock, hands) = Clock::adjustable(START);
        let validators =
            (0..).zip(ahead_ms).map(|(number, ahead)| Validator::new(number, *ahead, pace.validation));
        let settings = load(&Inputs::default()).unwrap().settings;
        Self { clock, hands, validators: validators.collect(), pace, settings }
    }

    /// A new process on the same data directory, mining for so long.
    pub async fn mine(&self, data: &Path, time: Duration) {
        let stop = CancellationToken::new();
        let app = self.agent(data).await;
        let (finish, ()) = tokio::join!(app.run(Budget::Endless, stop.clone()), async {
            tokio::time::sleep(time).await;
            stop.cancel();
        });
        assert_eq!(finish.unwrap(), Finish::Stopped);
    }

    async fn agent(&self, data: &Path) -> App {
        let generator = SocketAddr::from(([127, 0, 0, 1], 8_000));
        let scorer = SocketAddr::from(([127, 0, 0, 1], 8_001));
        let mut servers: HashMap<_, _> = self.validators.iter().map(|v| (v.address, v.router())).collect();
        let making = DevGeneratorSettings { delay: self.pace.generation, ..DevGeneratorSettings::default() };
        servers.insert(generator, DevGenerator::new(making, self.clock).router());
        let scoring = DevScorerSettings { delay: Duration::ZERO };
        servers.insert(scorer, DevScorer::new(scoring, self.clock).router());
        let transport = in_process(servers);
        let address = |validator: &Validator| AxonAddress {
            hotkey: validator.axon.hotkey(),
            address: validator.address,
        };
        let validators = self.validators.iter().map(address).zip((0..).map(|uid| Some(Uid(uid)))).collect();
        let world = World {
            clock: self.clock,
            seeds: SeedSource::fixed(42),
            hotkeys: vec![Arc::new(HotkeyPair::dev("miner"))],
            peers: Peers::on_one_card(
                validators,
                CardId { host: "here".into(), uuid: "0".into() },
                Endpoint::of(generator),
                Some(Endpoint::of(scorer)),
            ),
            transports: Transports {
                pulls: transport.clone(),
                submissions: transport.clone(),
                generator: transport.clone(),
                scorer: transport,
            },
            chain: None,
            data: data.to_owned(),
            locks: Locks { hotkey: false, card: false },
        };
        App::build(&self.settings, world).await.unwrap()
    }

    /// No pull was early, and nothing else happened that must not.
    #[track_caller]
    pub fn assert_clean(&self) {
        for validator in &self.validators {
            let counts: Vec<_> = validator.axon.ledger(|ledger| ledger.chronicle().counts().collect());
            let forbidden = validator.axon.ledger(|ledger| ledger.chronicle().forbidden());
            assert_eq!(forbidden, 0, "{counts:?}, its clock {} ns ahead", validator.ahead);
            assert_eq!(validator.count("violation"), 0);
        }
    }
}
