//! The whole agent beside a development chain and its validators, in process and under a paused clock.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use http_body_util::BodyExt;
use sn17_miner::app::{App, CardPeers, ChainWorld, Locks, Peers, Transports, World};
use sn17_miner::chain::{ChainClient, Settings as ChainSettings};
use sn17_miner::clock::Clock;
use sn17_miner::config::{Inputs, Settings, load};
use sn17_miner::devnet::axon::{DevAxon, DevAxonSettings};
use sn17_miner::devnet::axon_judge::AxonJudge;
use sn17_miner::devnet::chain::{DevChain, DevChainSettings, Neuron, Subnet};
use sn17_miner::devnet::generator::{DevGenerator, DevGeneratorSettings};
use sn17_miner::devnet::rules::ValidatorRules;
use sn17_miner::devnet::scorer::{DevScorer, DevScorerSettings};
use sn17_miner::devnet::tasks::TaskMaker;
use sn17_miner::mining::{Admission, Budget, Finish, SeedSource};
use sn17_miner::net::{Endpoint, Transport};
use sn17_miner::primitives::{CardId, Coldkey, Hotkey, Netuid, Rao, Uid, UnixTime};
use sn17_miner::wallet::HotkeyPair;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::hostile_world::Log;

/// 2026-01-01, and not on a whole second.
pub const START: UnixTime = UnixTime::from_millis(1_767_225_600_730);

/// What the wiring says to register the example hotkey.
pub const BTCLI: &str = "btcli subnet register --netuid 17 --wallet.name default --wallet.hotkey default --subtensor.network devnet";

pub const SELECTIVE: &str = "SubnetInfoRuntimeApi_get_selective_metagraph";

const GENERATOR: &str = "127.0.0.1:8000";
const SCORER: &str = "127.0.0.1:8001";

/// One token.
pub const TOKEN: u64 = 1_000_000_000;

pub fn us() -> Hotkey {
    *HotkeyPair::dev("miner").hotkey()
}

pub fn coldkey() -> Coldkey {
    Coldkey::from_bytes([7; 32])
}

/// Where each server is, to be changed while the agent runs, and how often each was asked.
#[derive(Clone, Default)]
struct Places(Arc<Mutex<HashMap<SocketAddr, (Router, u64)>>>);

impl Places {
    fn transport(&self) -> Transport {
        let places = self.clone();
        Transport::InProcess(Arc::new(move |request| {
            let address: SocketAddr = request.uri().authority().unwrap().as_str().parse().unwrap();
            let router = places.0.lock().unwrap().get_mut(&address).map(|(router, asked)| {
                *asked += 1;
                router.clone()
            });
            Box::pin(async move {
                let router = router.ok_or("connection refused")?;
                let response = router.oneshot(request.map(axum::body::Body::from)).await?;
                Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
            })
        }))
    }
}

/// A chain, its validators and a miner's workers.
pub struct Net {
    pub clock: Clock,
    pub chain: DevChain,
    pub axons: Vec<DevAxon>,
    pub settings: Settings,
    pub log: Log,
    pub public: bool,
    generator: DevGenerator,
    scorer: DevScorer,
    places: Places,
    data: TempDir,
    _listening: tracing::subscriber::DefaultGuard,
}

/// Address of a validator on the internet.
pub fn address(number: usize) -> SocketAddr {
    SocketAddr::from(([91, 0, 0, u8::try_from(number).unwrap() + 1], 8_091))
}

impl Net {
    /// Validators with uids from 0 and stakes of 40,000 tokens each; the miner is registered after
    /// them, on the chain and with each validator. `lines` are of a configuration file.
    pub fn new(validators: usize, lines: &str) -> Self {
        let net = Self::without_miner(validators, lines);
        net.register();
        // A change is in the next block, and finality is two more behind.
        for _ in 0..3 {
            net.chain.produce_block();
        }
        net
    }

    /// The same, with nobody registered but the validators.
    pub fn without_miner(validators: usize, lines: &str) -> Self {
        let log = Log::default();
        let listening = log.listen();
        let clock = Clock::starting_at(START);
        let places = Places::default();
        let mut subnet = Subnet::new(Netuid(17), *HotkeyPair::dev("owner").hotkey(), coldkey());
        let mut axons = Vec::new();
        for number in 0..validators {
            let seed = 17 + number as u64;
            let settings = DevAxonSettings {
                rules: ValidatorRules::default(),
                judge: AxonJudge { seed, ..AxonJudge::default() }.into(),
                scoring: Duration::from_secs(4),
                ..DevAxonSettings::default()
            };
            let key = HotkeyPair::dev(&format!("validator-{number}"));
            let axon = DevAxon::new(key, clock, settings, TaskMaker::new(seed, 0.2));
            let stake = Rao(40_000 * TOKEN);
            subnet.neurons.push(Neuron::validator(axon.hotkey(), coldkey(), address(number), stake, 1));
            axons.push(axon);
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, lines).unwrap();
        let settings = load(&Inputs { file: Some(file), ..Inputs::default() }).unwrap().settings;
        let chain = DevChain::new(DevChainSettings::new(subnet), clock);
        let generator = DevGenerator::new(
            DevGeneratorSettings { delay: Duration::from_secs(25), ..DevGeneratorSettings::default() },
            clock,
        );
        let scorer = DevScorer::new(DevScorerSettings { delay: Duration::from_secs(3) }, clock);
        let net = Self {
            clock,
            chain,
            axons,
            settings,
            log,
            public: true,
            generator,
            scorer,
            places,
            data: tempfile::tempdir().unwrap(),
            _listening: listening,
        };
        net.serve(GENERATOR.parse().unwrap(), net.generator.router());
        net.serve(SCORER.parse().unwrap(), net.scorer.router());
        for (number, axon) in net.axons.iter().enumerate() {
            net.serve(address(number), axon.router());
        }
        net
    }

    /// Registers the miner on the chain and with each validator, under the next free uid.
    pub fn register(&self) -> Uid {
        let block = self.chain.head().number + 1;
        let uid = self.chain.register(Neuron::miner(us(), coldkey(), block));
        self.register_with_validators(uid);
        uid
    }

    pub fn register_with_validators(&self, uid: Uid) {
        for axon in &self.axons {
            axon.register(uid, us());
        }
    }

    pub fn deregister_with_validators(&self) {
        for axon in &self.axons {
            axon.ledger(|ledger| ledger.deregister(&us()));
        }
    }

    pub fn serve(&self, address: SocketAddr, router: Router) {
        self.places.0.lock().unwrap().insert(address, (router, 0));
    }

    pub fn close(&self, address: SocketAddr) {
        self.places.0.lock().unwrap().remove(&address);
    }

    /// Requests that came to a server since it opened.
    pub fn asked(&self, address: SocketAddr) -> u64 {
        self.places.0.lock().unwrap().get(&address).map_or(0, |(_, asked)| *asked)
    }

    pub fn reopen_generator(&self) {
        self.serve(GENERATOR.parse().unwrap(), self.generator.router());
    }

    /// A new process on the same data directory.
    pub async fn agent(&self) -> App {
        let transport = self.places.transport();
        let node = "ws://127.0.0.1:9944".parse().unwrap();
        let reading = ChainSettings {
            sync_interval: self.settings.sync_interval,
            ..ChainSettings::for_nodes(vec![node], self.settings.netuid)
        };
        let admission = Admission { allow_private: !self.public, ..self.settings.admission.clone() };
        let world = World {
            clock: self.clock,
            seeds: SeedSource::fixed(42),
            hotkeys: vec![Arc::new(HotkeyPair::dev("miner"))],
            peers: Peers {
                validators: Vec::new(),
                cards: vec![CardPeers {
                    card: CardId { host: "here".into(), uuid: "0".into() },
                    generator: Endpoint::of(GENERATOR.parse().unwrap()),
                    scorer: Some(Endpoint::of(SCORER.parse().unwrap())),
                    household: None,
                }],
            },
            transports: Transports {
                pulls: transport.clone(),
                submissions: transport.clone(),
                generator: transport.clone(),
                scorer: transport,
            },
            chain: Some(ChainWorld {
                client: ChainClient::new(reading, Arc::new(self.chain.dialler()), self.clock),
                jitter: Box::new(|| 0.0),
                admission,
            }),
            data: self.data.path().to_owned(),
            locks: Locks { hotkey: false, card: false },
        };
        App::build(&self.settings, world).await.unwrap()
    }

    /// Mines so many tasks while `story` happens; every task must end, and the story too.
    pub async fn mine(&self, tasks: u64, story: impl Future<Output = ()>) {
        let stop = CancellationToken::new();
        let (finish, ()) = tokio::join!(self.agent().await.run(Budget::Tasks(tasks), stop), story);
        assert_eq!(finish.unwrap(), Finish::Done);
    }

    /// Waits until something has happened, looking every 100 ms of the paused clock.
    #[track_caller]
    pub fn until(&self, what: &str, happened: impl Fn() -> bool) -> impl Future<Output = ()> {
        let (what, log) = (what.to_owned(), self.log.clone());
        let (clock, deadline) = (self.clock, self.clock.now() + Duration::from_secs(2 * 3_600));
        async move {
            while !happened() {
                assert!(clock.now() < deadline, "{what} did not happen in two hours: {:#?}", last(&log));
                clock.sleep(Duration::from_millis(100)).await;
            }
        }
    }

    pub async fn pass(&self, seconds: u64) {
        self.clock.sleep(Duration::from_secs(seconds)).await;
    }

    pub fn count(&self, name: &str) -> u64 {
        self.axons.iter().map(|axon| axon.ledger(|ledger| ledger.chronicle().count(name))).sum()
    }

    pub fn count_at(&self, axon: usize, name: &str) -> u64 {
        self.axons[axon].ledger(|ledger| ledger.chronicle().count(name))
    }

    /// Tasks that somebody works on, by the validators' books.
    pub fn open(&self) -> usize {
        self.axons.iter().map(|axon| axon.ledger(|ledger| ledger.open_tasks().count())).sum()
    }

    /// Nothing a miner must never do has happened, and nothing is left open: every task assigned was
    /// booked once.
    #[track_caller]
    pub fn assert_settled(&self) {
        for name in [
            "violation",
            "wrong_task",
            "bad_signature",
            "malformed",
            "booked_again",
            "double_guard",
            "locked",
        ] {
            assert_eq!(self.count(name), 0, "{name}: {:#?}", last(&self.log));
        }
        let booked = ["accepted", "empty", "low", "scorer_failed"].map(|name| self.count(name));
        assert_eq!(self.count("assigned"), booked.iter().sum::<u64>(), "{:#?}", last(&self.log));
        assert_eq!(self.open(), 0);
    }
}

fn last(log: &Log) -> Vec<String> {
    let mut lines = log.all();
    lines.split_off(lines.len().saturating_sub(40))
}
