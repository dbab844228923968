//! `kill -9` after a result is finished and before its validator has booked it: the next start
//! submits the stored bytes, and nothing is generated twice. 20 kills, 10 while the local scorer
//! works and 10 while the validator does. Everybody but the agent lives on in this process.

#[path = "support/kill.rs"]
mod kill;

use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sn17_miner::clock::Clock;
use sn17_miner::devnet::axon::{DevAxon, DevAxonSettings};
use sn17_miner::devnet::generator::{DevGenerator, DevGeneratorSettings};
use sn17_miner::devnet::rules::ValidatorRules;
use sn17_miner::devnet::scorer::{DevScorer, DevScorerSettings};
use sn17_miner::devnet::tasks::TaskMaker;
use sn17_miner::primitives::{TaskId, Uid};
use sn17_miner::wallet::HotkeyPair;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use kill::{Agent, Home, PATIENCE, Peers, hex, seed};

/// What the agent takes for the validator's lock, which is a second: it counts from its own intent, and
/// may come late to the submission.
const LOCK_S: u64 = 2;

const KILLS: usize = 10;

/// How long local scoring and the validator's take, and so how long each window is.
const SCORING: Duration = Duration::from_millis(400);

/// What opens the window a kill falls into.
#[derive(Clone, Copy)]
enum Window {
    /// The scorer was asked.
    LocalScoring,
    /// A submission reached the validator.
    Submission,
}

struct World {
    axon: DevAxon,
    generator: DevGenerator,
    asked_to_score: watch::Receiver<u64>,
    submissions: watch::Receiver<u64>,
    peers: Peers,
    _servers: JoinSet<()>,
}

/// Counts the requests below `path` as they arrive, and serves each after `delay`.
fn counted(router: Router, path: &'static str, delay: Duration) -> (Router, watch::Receiver<u64>) {
    let (arrivals, seen) = watch::channel(0);
    let router = router.layer(from_fn(move |request: Request, next: Next| {
        let arrivals = arrivals.clone();
        async move {
            if request.uri().path().starts_with(path) {
                arrivals.send_modify(|count| *count += 1);
                tokio::time::sleep(delay).await;
            }
            next.run(request).await
        }
    }));
    (router, seen)
}

impl World {
    async fn start(seed: u64, cooldown: Duration) -> Self {
        let clock = Clock::system();
        let settings = DevAxonSettings {
            rules: ValidatorRules {
                cooldown,
                throttle: Duration::ZERO,
                penalty: Duration::from_secs(2),
                lock: Duration::from_secs(1),
                ..ValidatorRules::fast()
            },
            scoring: SCORING,
            ..DevAxonSettings::default()
        };
        let axon = DevAxon::new(HotkeyPair::dev("validator-0"), clock, settings, TaskMaker::new(seed, 0.2));
        axon.register(Uid(3), *HotkeyPair::dev("miner").hotkey());
        let generator = DevGenerator::new(DevGeneratorSettings::default(), clock);
        let scorer = DevScorer::new(DevScorerSettings::default(), clock);
        let (axon_router, submissions) = counted(axon.router(), "/SubmitResults", Duration::ZERO);
        let (scorer_router, asked_to_score) = counted(scorer.router(), "/validate", SCORING);

        let mut servers = JoinSet::new();
        let mut serve = async |router: Router| {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            servers.spawn(async move { axum::serve(listener, router).await.unwrap() });
            address
        };
        let peers = Peers {
            validators: vec![(axon.hotkey(), serve(axon_router).await)],
            generator: serve(generator.router()).await,
            scorer: serve(scorer_router).await,
        };
        Self { axon, generator, asked_to_score, submissions, peers, _servers: servers }
    }

    fn open_task(&self) -> Option<TaskId> {
        self.axon.ledger(|ledger| ledger.open_tasks().next().map(|task| task.id.clone()))
    }

    fn bookings(&self, task: &TaskId) -> usize {
        let booked = |ledger: &mut sn17_miner::devnet::ledger::ValidatorLedger| {
            ledger.chronicle().latest().filter(|event| event.kind.booked() == Some(task)).count()
        };
        self.axon.ledger(booked)
    }
}

/// What the agent says when it knows that its answer was booked.
const SETTLED: [&str; 2] = ["Feedback from", "closed without feedback"];

async fn said(agent: &mut Agent, words: &[&str]) -> String {
    agent.line(words, PATIENCE).await.unwrap_or_else(|| panic!("the agent says one of {words:?}"))
}

async fn next(arrivals: &mut watch::Receiver<u64>) {
    arrivals.mark_unchanged();
    tokio::time::timeout(PATIENCE, arrivals.changed()).await.expect("the agent goes on").unwrap();
}

async fn ten_kills(window: Window) {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let world = World::start(seed, Duration::from_secs(1)).await;
    let mut opened = match window {
        Window::LocalScoring => world.asked_to_score.clone(),
        Window::Submission => world.submissions.clone(),
    };
    let home = Home::new();
    home.configure(&world.peers, 1, LOCK_S);

    let mut agent = home.start(&["run"]);
    let mut kills = 0;
    let mut late = 0;
    while kills < KILLS {
        next(&mut opened).await;
        let task = world.open_task().expect("the validator waits for this task");
        let files = home.results();
        let wait = Duration::from_millis(rng.random_range(0..350));
        tokio::time::sleep(wait).await;
        agent.kill().await;
        home.note(&format!("== killed {wait:?} into the window, task {task:?}"));

        // A machine under load may oversleep the window; the task is checked all the same.
        if world.bookings(&task) == 0 {
            kills += 1
        } else {
            late += 1
        }
        assert!(late <= KILLS, "most kills come too late to show anything");
        let row = home.tasks().into_iter().find(|row| row.task_id == task.as_str()).expect("it is on record");
        let name = format!("{}-{}.spz", row.id, row.attempts);
        let kept = files.get(&name).unwrap_or_else(|| panic!("{name} was kept before the kill"));
        assert_eq!(row.finished(), Some(kept), "{row:?}");

        agent = home.start(&["run"]);
        if row.is_open() {
            said(&mut agent, &SETTLED).await;
        }
        let received: Vec<_> = world.axon.received().into_iter().filter(|r| r.task == task).collect();
        assert!(!received.is_empty());
        assert!(received.iter().all(|r| hex(&r.sha256) == *kept), "the kept bytes go out: {row:?}");
        assert_eq!(world.bookings(&task), 1, "{task:?}");
        let row = home.tasks().into_iter().find(|row| row.task_id == task.as_str()).expect("it is on record");
        assert_eq!((row.attempts, row.kept.len()), (1, 1), "generated once: {row:?}");
        assert!(matches!(row.outcome.as_deref(), Some("accepted" | "settled")), "{row:?}");
    }
    agent.kill().await;
    let last = home.start(&["run", "--tasks", "2"]);
    assert!(last.ended(PATIENCE).await.success());

    let rows = home.tasks();
    assert!(rows.iter().all(|row| !row.is_open()), "{rows:?}");
    assert_eq!(world.open_task(), None);
    let begun: u64 = rows.iter().map(|row| u64::from(row.attempts)).sum();
    assert!(world.generator.counts().requests <= begun, "a generation that nothing accounts for");
    let report = world.axon.report();
    assert_eq!(report.forbidden, 0, "{:?}", report.events);
    for name in ["locked", "double_guard", "empty", "low"] {
        assert_eq!(report.events.get(name), None, "{:?}", report.events);
    }
    assert_eq!(report.events["assigned"], report.events["accepted"], "{:?}", report.events);
    println!(
        "{kills} kills between kept and booked, {late} after; {} tasks, events {:?}",
        rows.len(),
        report.events
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_kills_while_the_scorer_works() {
    ten_kills(Window::LocalScoring).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_kills_while_the_validator_scores() {
    ten_kills(Window::Submission).await;
}

/// The validator books a submission whose sender is gone; asked again it only says that nothing is
/// assigned, and names no cooldown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_after_a_doubtful_submission_does_not_shorten_the_cooldown() {
    let seed = seed();
    let mut world = World::start(seed, Duration::from_secs(6)).await;
    let home = Home::new();
    home.configure(&world.peers, 6, LOCK_S);

    let mut agent = home.start(&["run"]);
    next(&mut world.submissions).await;
    let taken = async {
        while world.axon.received().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, taken).await.expect("the validator takes the result");
    agent.kill().await;
    agent = home.start(&["run"]);
    assert!(said(&mut agent, &SETTLED).await.contains("closed without feedback"));
    agent.kill().await;
    agent = home.start(&["run"]);
    said(&mut agent, &["Pulled a task"]).await;
    agent.kill().await;

    let report = world.axon.report();
    assert_eq!(report.forbidden, 0, "{:?}", report.events);
    assert_eq!(report.events["accepted"], 1, "{:?}", report.events);
}
