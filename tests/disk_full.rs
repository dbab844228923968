//! A disk that takes no more: the agent says so, keeps what it has, pulls nothing, and goes on when
//! there is room. Nothing is lost and nothing is early. The disk is a limit on the size of the
//! agent's files, set and lifted from outside while it runs.

#[path = "support/graded.rs"]
mod graded;
#[path = "support/kill.rs"]
mod kill;

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use graded::{Grade, Grades};
use kill::{Agent, Home, PATIENCE, Peers};
use sn17_miner::clock::Clock;
use sn17_miner::devnet::axon::{DevAxon, DevAxonSettings};
use sn17_miner::devnet::generator::{DevGenerator, DevGeneratorSettings};
use sn17_miner::devnet::rules::ValidatorRules;
use sn17_miner::devnet::scorer::{DevScorer, DevScorerSettings};
use sn17_miner::devnet::tasks::TaskMaker;
use sn17_miner::primitives::Uid;
use sn17_miner::wallet::HotkeyPair;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How often the disk is full in one run.
const ROUNDS: u64 = 3;

/// Longer than a lane rests between two tasks.
const QUIET: Duration = Duration::from_secs(3);

/// An axon whose pulls are counted as they arrive.
fn counted(axon: &DevAxon) -> (Router, watch::Receiver<u64>) {
    let (pulls, seen) = watch::channel(0);
    let router = axon.router().layer(from_fn(move |request: Request, next: Next| {
        if request.uri().path() == "/PullTask" {
            pulls.send_modify(|count| *count += 1);
        }
        next.run(request)
    }));
    (router, seen)
}

async fn said(agent: &mut Agent, words: &str) -> String {
    agent.line(&[words], PATIENCE).await.unwrap_or_else(|| panic!("the agent says {words:?}"))
}

async fn serve(servers: &mut JoinSet<()>, router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    servers.spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

/// Tells of each request below `path` and answers it when it is let through: so many, in the end.
fn gated(router: Router, path: &'static str) -> (Router, watch::Receiver<u64>, watch::Sender<u64>) {
    let (asked, seen) = watch::channel(0);
    let (let_through, may) = watch::channel(0);
    let router = router.layer(from_fn(move |request: Request, next: Next| {
        let (asked, mut may) = (asked.clone(), may.clone());
        async move {
            if request.uri().path().starts_with(path) {
                let mut nth = 0;
                asked.send_modify(|count| {
                    *count += 1;
                    nth = *count;
                });
                may.wait_for(|may| *may >= nth).await.unwrap();
            }
            next.run(request).await
        }
    }));
    (router, seen, let_through)
}

/// The disk fills between two candidates of one task and has room again before the second is done: it
/// is not taken for the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_on_a_full_disk_leaves_what_was_kept_before() {
    let clock = Clock::system();
    let grades = Grades::by(|nth, _| if nth == 0 { Grade::Bad } else { Grade::Good });
    let settings = DevAxonSettings {
        rules: ValidatorRules::fast(),
        judge: grades.judge(),
        ..DevAxonSettings::default()
    };
    let axon = DevAxon::new(HotkeyPair::dev("validator-0"), clock, settings, TaskMaker::new(3, 0.0));
    axon.register(Uid(3), *HotkeyPair::dev("miner").hotkey());
    let (generator, mut generated, generate) = gated(grades.generator(Duration::ZERO), "/generate");
    let (scorer, mut scored, score) = gated(grades.scorer(Duration::ZERO), "/validate");
    let mut servers = JoinSet::new();
    let peers = Peers {
        validators: vec![(axon.hotkey(), serve(&mut servers, axon.router()).await)],
        generator: serve(&mut servers, generator).await,
        scorer: serve(&mut servers, scorer).await,
    };
    let home = Home::new();
    home.configure(&peers, 1, 1);
    let agent = home.start_limitable(&["run", "--tasks", "1"]);
    let until = async |asked: &mut watch::Receiver<u64>, count: u64| {
        tokio::time::timeout(PATIENCE, asked.wait_for(|asked| *asked == count)).await.unwrap().unwrap();
    };
    generate.send_replace(1);
    until(&mut scored, 1).await;
    agent.allow_files_of("4096").await;
    score.send_replace(1);
    until(&mut generated, 2).await;
    agent.allow_files_of("unlimited").await;
    generate.send_replace(2);
    score.send_replace(2);
    assert!(agent.ended(PATIENCE).await.success());
    let rows = home.tasks();
    assert_eq!(
        (rows.len(), rows[0].outcome.as_deref(), rows[0].kept.len()),
        (1, Some("accepted"), 2),
        "{rows:?}"
    );
    assert_ne!(rows[0].kept[0], rows[0].kept[1]);
    assert_eq!(axon.report().forbidden, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_the_pulls_and_loses_nothing() {
    let clock = Clock::system();
    let rules = ValidatorRules {
        cooldown: Duration::from_secs(1),
        throttle: Duration::ZERO,
        lock: Duration::from_secs(1),
        ..ValidatorRules::fast()
    };
    let settings = DevAxonSettings { rules, ..DevAxonSettings::default() };
    let axon = DevAxon::new(HotkeyPair::dev("validator-0"), clock, settings, TaskMaker::new(3, 0.2));
    axon.register(Uid(3), *HotkeyPair::dev("miner").hotkey());
    let (axon_router, mut pulls) = counted(&axon);
    let mut servers = JoinSet::new();
    let peers = Peers {
        validators: vec![(axon.hotkey(), serve(&mut servers, axon_router).await)],
        generator: serve(&mut servers, DevGenerator::new(DevGeneratorSettings::default(), clock).router())
            .await,
        scorer: serve(&mut servers, DevScorer::new(DevScorerSettings::default(), clock).router()).await,
    };
    let home = Home::new();
    home.configure(&peers, 1, 1);

    let tasks = 3 * ROUNDS;
    let mut agent = home.start_limitable(&["run", "--tasks", &tasks.to_string()]);
    for round in 0..ROUNDS {
        said(&mut agent, "Feedback from").await;
        home.note(&format!("== full, round {round}"));
        agent.allow_files_of("4096").await;
        let alarm = said(&mut agent, "alarm=\"disk-full\"").await;
        assert!(alarm.contains("ERROR"), "{alarm}");
        // One may have left before the alarm.
        pulls.mark_unchanged();
        let early = tokio::time::timeout(QUIET, pulls.changed()).await;
        assert!(early.is_err(), "pulled with nowhere to write it down");
        assert!(agent.is_running());
        home.note("== room again");
        agent.allow_files_of("unlimited").await;
    }
    assert!(agent.ended(PATIENCE).await.success());

    let rows = home.tasks();
    assert!(rows.iter().all(|row| !row.is_open()), "{rows:?}");
    let report = axon.report();
    assert_eq!(report.forbidden, 0, "{:?}", report.events);
    assert_eq!(report.open, [], "every task is booked");
    assert_eq!(report.events["assigned"], report.events["accepted"], "{:?}", report.events);
    for booking in &report.booked {
        let row = rows.iter().find(|row| row.task_id == booking.task.as_str());
        let row = row.unwrap_or_else(|| panic!("{booking:?} is on record"));
        assert_eq!(row.outcome.as_deref(), Some("accepted"), "{row:?}");
        assert_eq!(row.attempts, 1, "no result was made twice: {row:?}");
    }
    assert_eq!(rows.len(), tasks as usize);
}
