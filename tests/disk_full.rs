//! A disk that takes no more: the agent says so, keeps what it has, pulls nothing, and goes on when
//! there is room. Nothing is lost and nothing is early. The disk is a limit on the size of the
//! agent's files, set and lifted from outside while it runs.

#[path = "support/kill.rs"]
mod kill;

use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the loop does not wait for room yet"]
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
    let mut serve = async |router: Router| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        servers.spawn(async move { axum::serve(listener, router).await.unwrap() });
        address
    };
    let peers = Peers {
        validators: vec![(axon.hotkey(), serve(axon_router).await)],
        generator: serve(DevGenerator::new(DevGeneratorSettings::default(), clock).router()).await,
        scorer: serve(DevScorer::new(DevScorerSettings::default(), clock).router()).await,
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
