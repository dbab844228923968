//! The real agent against the development network's validators, in process and under a paused clock:
//! hours of mining in seconds.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sn17_miner::app::{App, Locks, Peers, Transports, World};
use sn17_miner::clock::Clock;
use sn17_miner::config::{Inputs, Settings, load};
use sn17_miner::dendrite::AxonAddress;
use sn17_miner::devnet::axon::{DevAxon, DevAxonSettings};
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

/// A validator as a test wants it.
struct Wanted {
    rules: ValidatorRules,
    clock_ahead_ms: i64,
    image_share: f64,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { rules: ValidatorRules::default(), clock_ahead_ms: 0, image_share: 0.2 }
    }
}

struct Network {
    clock: Clock,
    axons: Vec<(DevAxon, SocketAddr)>,
    generator: DevGenerator,
    scorer: DevScorer,
    settings: Settings,
}

impl Network {
    fn new(wanted: Vec<Wanted>, lines: &str) -> Self {
        let clock = Clock::starting_at(START);
        let axons = wanted
            .into_iter()
            .enumerate()
            .map(|(number, wanted)| {
                let seed = 17 + number as u64;
                let settings = DevAxonSettings {
                    rules: wanted.rules,
                    judge: AxonJudge { seed, ..AxonJudge::default() }.into(),
                    scoring: Duration::from_secs(4),
                    clock_ahead: wanted.clock_ahead_ms * 1_000_000,
                    ..DevAxonSettings::default()
                };
                let key = HotkeyPair::dev(&format!("validator-{number}"));
                let axon = DevAxon::new(key, clock, settings, TaskMaker::new(seed, wanted.image_share));
                axon.register(Uid(100), *HotkeyPair::dev("miner").hotkey());
                (axon, SocketAddr::from(([127, 0, 0, 1], 9_000 + number as u16)))
            })
            .collect();
        let generator = DevGenerator::new(
            DevGeneratorSettings { delay: Duration::from_secs(25), ..DevGeneratorSettings::default() },
            clock,
        );
        let scorer = DevScorer::new(DevScorerSettings { delay: Duration::from_secs(3) }, clock);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, lines).unwrap();
        let settings = load(&Inputs { file: Some(file), ..Inputs::default() }).unwrap().settings;
        Self { clock, axons, generator, scorer, settings }
    }

    /// A new process on the same data directory.
    async fn agent(&self, data: &Path) -> App {
        let generator = SocketAddr::from(([127, 0, 0, 1], 8_000));
        let scorer = SocketAddr::from(([127, 0, 0, 1], 8_001));
        let mut servers: HashMap<_, _> =
            self.axons.iter().map(|(axon, address)| (*address, axon.router())).collect();
        servers.insert(generator, self.generator.router());
        servers.insert(scorer, self.scorer.router());
        let transport = in_process(servers);
        let validators = self
            .axons
            .iter()
            .zip(0..)
            .map(|((axon, address), uid)| {
                (AxonAddress { hotkey: axon.hotkey(), address: *address }, Some(Uid(uid)))
            })
            .collect();
        let world = World {
            clock: self.clock,
            seeds: SeedSource::fixed(42),
            hotkeys: vec![Arc::new(HotkeyPair::dev("miner"))],
            peers: Peers::on_one_card(
                validators,
                CardId { host: "here".into(), uuid: "0".into() },
                Endpoint::of(generator),
                self.settings.scorer.as_ref().map(|_| Endpoint::of(scorer)),
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

    fn count(&self, name: &str) -> u64 {
        self.axons.iter().map(|(axon, _)| axon.ledger(|ledger| ledger.chronicle().count(name))).sum()
    }

    fn open_tasks(&self) -> usize {
        let miner = *HotkeyPair::dev("miner").hotkey();
        self.axons.iter().filter(|(axon, _)| axon.ledger(|l| l.open_task(&miner).is_some())).count()
    }

    /// Nothing a miner must never do has happened.
    fn assert_clean(&self) {
        for name in [
            "violation",
            "wrong_task",
            "bad_signature",
            "malformed",
            "booked_again",
            "double_guard",
            "locked",
        ] {
            assert_eq!(self.count(name), 0, "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_day_of_mining_breaks_no_cooldown_and_leaves_nothing_open() {
    let network = Network::new((0..4).map(|_| Wanted::default()).collect(), "");
    let data = tempfile::tempdir().unwrap();
    let finish =
        network.agent(data.path()).await.run(Budget::Tasks(400), CancellationToken::new()).await.unwrap();
    assert_eq!(finish, Finish::Done);
    network.assert_clean();
    assert_eq!(network.open_tasks(), 0);
    assert_eq!(network.count("assigned"), 400);
    assert_eq!(network.count("accepted"), 400);
    // Side by side: 25 s generation, 3 s scoring, 4 s at each of four validators.
    let hours = network.clock.now().saturating_since(START).as_secs_f64() / 3_600.0;
    let period = 300.0 + 4.0 + 1.2;
    assert!(hours < 100.0 * period / 3_600.0 + 0.1, "{hours} h");
}

#[tokio::test(start_paused = true)]
async fn validators_with_other_clocks_are_never_asked_early() {
    let wanted = [-3_700, 700, 60_000]
        .into_iter()
        .map(|clock_ahead_ms| Wanted { clock_ahead_ms, ..Wanted::default() })
        .collect();
    let network = Network::new(wanted, "");
    let data = tempfile::tempdir().unwrap();
    network.agent(data.path()).await.run(Budget::Tasks(90), CancellationToken::new()).await.unwrap();
    network.assert_clean();
    assert_eq!(network.count("accepted"), 90);
}

#[tokio::test(start_paused = true)]
async fn results_below_the_threshold_are_declined_after_the_retries() {
    let rules = ValidatorRules { threshold: 0.97, ..ValidatorRules::default() };
    let network = Network::new(vec![Wanted { rules, image_share: 0.0, ..Wanted::default() }], "");
    let data = tempfile::tempdir().unwrap();
    network.agent(data.path()).await.run(Budget::Tasks(5), CancellationToken::new()).await.unwrap();
    network.assert_clean();
    assert_eq!((network.count("empty"), network.count("low"), network.count("accepted")), (5, 0, 0));
    assert_eq!(network.generator.counts().requests, 5 * 4, "three retries with a new seed each");
}

#[tokio::test(start_paused = true)]
async fn without_a_scorer_results_go_out_and_a_penalty_is_waited_out() {
    let rules = ValidatorRules { threshold: 0.97, ..ValidatorRules::default() };
    let workers = "[[workers]]\nname = \"g\"\nrole = \"generator\"\nurl = \"devnet\"\n";
    let network = Network::new(vec![Wanted { rules, ..Wanted::default() }], workers);
    let data = tempfile::tempdir().unwrap();
    network.agent(data.path()).await.run(Budget::Tasks(3), CancellationToken::new()).await.unwrap();
    for name in ["violation", "bad_signature", "booked_again"] {
        assert_eq!(network.count(name), 0, "{name}");
    }
    assert_eq!(network.count("low"), 3);
    // 900 s from each task to the next.
    assert!(network.clock.now().saturating_since(START) > Duration::from_secs(2 * 900));
}

#[tokio::test(start_paused = true)]
async fn a_kind_nobody_makes_is_declined_without_gpu_time() {
    let workers = "[[workers]]\nname = \"g\"\nrole = \"generator\"\nurl = \"devnet\"\nkinds = [\"text\"]\n";
    let network = Network::new(vec![Wanted { image_share: 1.0, ..Wanted::default() }], workers);
    let data = tempfile::tempdir().unwrap();
    network.agent(data.path()).await.run(Budget::Tasks(4), CancellationToken::new()).await.unwrap();
    network.assert_clean();
    assert_eq!(network.count("empty"), 4);
    assert_eq!(network.generator.counts().requests, 0);
}

#[tokio::test(start_paused = true)]
async fn a_restart_takes_the_open_task_up_and_keeps_the_cooldowns() {
    let network = Network::new(vec![Wanted::default(), Wanted::default()], "");
    let data = tempfile::tempdir().unwrap();
    for round in 0..40_u64 {
        // Stops somewhere in the first minutes of a cycle, a little further each time.
        let stop = CancellationToken::new();
        let app = network.agent(data.path()).await;
        let after = Duration::from_millis(1_700 * (round % 23) + 13 * round);
        let (finish, ()) = tokio::join!(app.run(Budget::Endless, stop.clone()), async {
            network.clock.sleep(after).await;
            stop.cancel();
        });
        assert_eq!(finish.unwrap(), Finish::Stopped);
    }
    // The last one goes on until everything open is settled.
    network.agent(data.path()).await.run(Budget::Tasks(6), CancellationToken::new()).await.unwrap();
    for name in ["violation", "wrong_task", "bad_signature", "booked_again"] {
        assert_eq!(network.count(name), 0, "{name}");
    }
    let answered = network.count("accepted") + network.count("empty");
    assert_eq!(network.count("assigned"), answered + network.open_tasks() as u64);
}

#[tokio::test(start_paused = true)]
async fn once_takes_one_task_and_then_finds_nothing_due() {
    let network = Network::new(vec![Wanted::default()], "");
    let data = tempfile::tempdir().unwrap();
    let once =
        async || network.agent(data.path()).await.run(Budget::Once, CancellationToken::new()).await.unwrap();
    assert_eq!(once().await, Finish::Done);
    assert_eq!(once().await, Finish::NothingDue);
    network.assert_clean();
}
