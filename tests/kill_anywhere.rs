//! `kill -9` at random moments of a whole life with several hotkeys, over a development network in its
//! own process whose validators take their time, so that submissions are under way: nothing finished
//! is lost, nothing stays open, nothing is booked twice, no rule is broken.
//!
//! `scripts/campaign.sh kills` runs it at full size.

#[path = "support/kill.rs"]
mod kill;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use kill::{Agent, Home, PATIENCE, Peers, TaskRow, seed};
use sn17_miner::primitives::Hotkey;

/// Enough that some lane is always at work, although the cooldown is longer than the lock and a second:
/// only so can a restart after a submission of unknown outcome come too early.
const VALIDATORS: usize = 8;
const HOTKEYS: [&str; 2] = ["one", "another"];
const LANES: usize = VALIDATORS * HOTKEYS.len();

const COOLDOWN_S: u64 = 6;

/// A submission is scored well before the lock is over and it may go out again.
const LOCK_S: u64 = 3;
const SCORING: &str = "1500ms";

/// The event after which a kill falls, by the log; nothing: the start of the process.
const MOMENTS: [Option<&str>; 5] = [
    None,
    Some("Pulled a task"),
    Some("Total time:"),
    Some("Feedback from"),
    Some("closed without feedback"),
];

/// Longest time from that event to the kill, in milliseconds. Most of what follows an event takes a
/// few milliseconds or a few hundred.
const SPREADS: [u64; 4] = [5, 50, 250, 1_000];

struct Network {
    program: Agent,
    home: Home,
    peers: Peers,
}

impl Network {
    async fn start(seed: u64, hotkeys: &[Hotkey]) -> Self {
        let home = Home::new();
        let set_seed = format!("devnet.seed={}", seed.max(1));
        let validators = format!("devnet.validators={VALIDATORS}");
        let cooldown = format!("devnet.cooldown={COOLDOWN_S}s");
        let lock = format!("devnet.lock={LOCK_S}s");
        let scoring = format!("devnet.scoring={SCORING}");
        let hotkeys: Vec<String> = hotkeys.iter().map(Hotkey::to_ss58).collect();
        let mut args = vec!["devnet", "--fast", "--base-port", "0", "--report", "report.json"];
        for setting in [
            &*set_seed,
            &*validators,
            &*cooldown,
            &*lock,
            &*scoring,
            "devnet.throttle=0s",
            "devnet.penalty=4s",
        ] {
            args.extend(["--set", setting]);
        }
        for hotkey in &hotkeys {
            args.extend(["--register", hotkey]);
        }
        let mut program = home.start(&args);
        let line = program.line(&["\"validators\""], PATIENCE).await.expect("the network comes up");
        let described: Value = serde_json::from_str(&line).unwrap();
        let address = |url: &Value| url.as_str().unwrap().trim_start_matches("http://").parse().unwrap();
        let validators = described["validators"].as_array().unwrap().iter();
        let peers = Peers {
            validators: validators
                .map(|v| (v["hotkey"].as_str().unwrap().parse().unwrap(), address(&v["address"])))
                .collect(),
            generator: address(&described["generator"]),
            scorer: address(&described["scorer"]),
        };
        Self { program, home, peers }
    }

    async fn stop(self) -> Value {
        assert!(self.program.terminate().await.success());
        serde_json::from_slice(&std::fs::read(self.home.path().join("report.json")).unwrap()).unwrap()
    }
}

/// What the kills have shown.
#[derive(Default)]
struct Findings {
    /// Kills by the stage an open task was in.
    stages: BTreeMap<String, u32>,
    /// Submissions that were under way or unsettled at a kill: in all, and at most.
    submissions: (usize, usize),
    /// The bytes each finished task has to be booked with, by the validator's id.
    finished: BTreeMap<String, String>,
}

impl Findings {
    fn look(&mut self, rows: &[TaskRow]) {
        let unsettled = |row: &&TaskRow| row.is_open() && matches!(row.stage.as_str(), "intended" | "sent");
        let submissions = rows.iter().filter(unsettled).count();
        self.submissions = (self.submissions.0 + submissions, self.submissions.1.max(submissions));
        let mut open: Vec<_> = rows.iter().filter(|row| row.is_open()).map(|row| row.stage.clone()).collect();
        if open.is_empty() {
            open.push("none open".into());
        }
        for stage in open {
            *self.stages.entry(stage).or_default() += 1;
        }
        for row in rows {
            if let Some(bytes) = row.finished() {
                let known = self.finished.entry(row.task_id.clone()).or_insert_with(|| bytes.clone());
                assert_eq!(known, bytes, "a finished task was made again: {row:?}");
            }
        }
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stages: Vec<_> = self.stages.iter().map(|(stage, count)| format!("{stage} {count}")).collect();
        write!(f, "{}; {} submissions at once at most", stages.join(", "), self.submissions.1)
    }
}

async fn campaign(kills: u64) {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let home = Home::new();
    let network = Network::start(seed, &home.make_keys(&HOTKEYS)).await;
    home.configure_keys(&HOTKEYS, &network.peers, COOLDOWN_S, LOCK_S);

    let mut findings = Findings::default();
    for number in 0..kills {
        let event = *MOMENTS.choose(&mut rng).unwrap();
        let spread = *SPREADS.choose(&mut rng).unwrap();
        let wait = Duration::from_millis(rng.random_range(0..=spread));
        let mut agent = home.start(&["run"]);
        if let Some(event) = event {
            // A life in which it does not happen ends anyway: any moment will do.
            agent.line(&[event], Duration::from_millis(1_500)).await;
        }
        tokio::time::sleep(wait).await;
        agent.kill().await;
        home.note(&format!("== kill {number}, {wait:?} after {event:?}"));
        findings.look(&home.tasks());
    }

    assert!(findings.submissions.0 as u64 >= kills / 2, "few submissions were under way: {findings}");

    // Each lane's turn comes at least once more, which also fetches tasks whose pull was cut off.
    let tasks = (2 * LANES).to_string();
    assert!(home.start(&["run", "--tasks", &tasks]).ended(3 * PATIENCE).await.success());
    for _ in 0..LANES {
        if home.tasks().iter().any(TaskRow::is_open) {
            assert!(home.start(&["run", "--once"]).ended(PATIENCE).await.success());
        }
    }
    let report = network.stop().await;
    let rows = home.tasks();
    findings.look(&rows);
    judge(&rows, &findings, &report);
    println!(
        "RESULT {kills} kills: {} tasks, each booked once, none lost, none open, no violation; \
         generations {}; state at the kill: {findings}",
        rows.len(),
        report["generator"]["requests"],
    );
}

fn judge(rows: &[TaskRow], findings: &Findings, report: &Value) {
    let open: Vec<_> = rows.iter().filter(|row| row.is_open()).collect();
    assert!(open.is_empty(), "{open:?}");
    let mut booked: BTreeMap<&str, u32> = BTreeMap::new();
    for validator in report["validators"].as_array().unwrap() {
        let events = &validator["events"];
        assert_eq!(validator["forbidden"], 0, "{events}");
        assert_eq!(validator["open"].as_array().unwrap().len(), 0, "{events}");
        for name in ["locked", "double_guard", "low", "empty", "scorer_failed"] {
            assert!(events[name].is_null(), "{events}");
        }
        assert_eq!(events["assigned"], events["accepted"], "{events}");
        for booking in validator["booked"].as_array().unwrap() {
            *booked.entry(booking["task"].as_str().unwrap()).or_default() += 1;
        }
        for result in validator["received"].as_array().unwrap() {
            let task = result["task"].as_str().unwrap();
            let kept = findings.finished.get(task).map(String::as_str);
            assert_eq!(result["sha256"].as_str(), kept, "other bytes than the kept ones came for {task}");
        }
    }
    assert!(booked.values().all(|times| *times == 1), "{booked:?}");
    for row in rows {
        assert!(booked.contains_key(row.task_id.as_str()), "never booked: {row:?}");
        assert!(matches!(row.outcome.as_deref(), Some("accepted" | "settled")), "{row:?}");
    }
    assert_eq!(booked.len(), rows.len(), "a booked task that the agent does not know");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_kills() {
    campaign(10).await;
}

/// `SN17_KILLS` kills, 300 if it is not set.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: scripts/campaign.sh kills"]
async fn full_size() {
    let kills = std::env::var("SN17_KILLS").map_or(300, |text| text.parse().expect("SN17_KILLS is a number"));
    campaign(kills).await;
}
