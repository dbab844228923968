//! A memory of 1,000,000 replies from 20 validators to 4 hotkeys over 90 days: how long `stats` takes, what a
//! scheduler asks at its start, and how large it all is.
//!
//! Fails where `stats` takes 100 ms or more, or a question of the scheduler 10 ms.

mod support;

use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rusqlite::{Connection, params};
use sn17_miner::clock::Clock;
use sn17_miner::primitives::{Hotkey, LocalId, Prompt, Score, SourceId, TaskId, UnixTime};
use sn17_miner::store::{
    Accepted, FeedbackRecord, LaneKey, LaneRecord, NewTask, Outcome, Settled, Stats, Store,
};
use support::Times;
use tokio::runtime::Runtime;
use tokio::time::Instant;

const REPLIES: u64 = 1_000_000;
const VALIDATORS: u64 = 20;
const HOTKEYS: u64 = 4;
const PERIOD: Duration = Duration::from_secs(90 * 86_400);
const ROUNDS: usize = 20;

const WANTED: Duration = Duration::from_millis(100);
const WANTED_OF_QUESTIONS: Duration = Duration::from_millis(10);

fn main() -> ExitCode {
    let runtime = Runtime::new().expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    drop(runtime.block_on(Store::open(dir.path())).expect("open a store"));
    let now = Clock::system().now();

    let start = Instant::now();
    fill(dir.path(), now);
    println!("{REPLIES} replies written in {:.1} s", start.elapsed().as_secs_f64());
    let store = runtime.block_on(Store::open(dir.path())).expect("open the store");
    let start = Instant::now();
    runtime.block_on(store.recount()).expect("count");
    println!("counted anew, as an older memory is once, in {:.1} s", start.elapsed().as_secs_f64());
    sizes(dir.path());

    let mut fast = true;
    for since in ["all", "24h", "7d", "45d"] {
        let times = rounds(|| run_stats(dir.path(), since));
        fast &= times.median() < WANTED;
        println!("stats --since {since:<5} as a process      {times}");
    }
    for (name, since) in [("all", None), ("24h", Some(now - Duration::from_secs(86_400)))] {
        let times = rounds(|| {
            black_box(runtime.block_on(Stats::read(dir.path(), since, now)).expect("read"));
        });
        println!("Stats::read of {name:<5} in this process   {times}");
    }
    fast &= questions(&runtime, &store, now);
    println!("a task accepted and finished             {}", finishing(&runtime, &store, now));
    if fast { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn rounds(mut work: impl FnMut()) -> Times {
    let round = || {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    Times::of(std::iter::repeat_with(round).take(ROUNDS).collect())
}

fn run_stats(dir: &Path, since: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sn17-miner"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SN17_") {
            command.env_remove(name);
        }
    }
    let data = format!("paths.data={}", dir.display());
    let status = command
        .args(["stats", "--json", "--since", since, "--set", &data])
        .current_dir(dir)
        .env("HOME", dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .expect("run the agent");
    assert!(status.success(), "{status}");
}

/// What a scheduler asks at its start; false where an answer is slow.
fn questions(runtime: &Runtime, store: &Store, now: UnixTime) -> bool {
    let days = |days: u64| now - Duration::from_secs(days * 86_400);
    let four_hours = now - Duration::from_secs(4 * 3_600);
    let lane = lane(3, 2);
    let good = Score::new(0.65).expect("a score");
    let times = [
        (
            "accepted in 4 h, every lane",
            rounds(|| {
                let found = runtime.block_on(store.accepted_since(None, four_hours)).expect("ask");
                assert_eq!(found.len() as u64, VALIDATORS * HOTKEYS);
            }),
        ),
        (
            "accepted in 4 h, one lane",
            rounds(|| {
                let found = runtime.block_on(store.accepted_since(Some(lane), four_hours)).expect("ask");
                assert_eq!(found.len(), 1);
            }),
        ),
        (
            "2,000 calibration pairs",
            rounds(|| {
                let found = runtime.block_on(store.calibration_pairs(2_000, days(30))).expect("ask");
                assert_eq!(found.len(), 2_000);
            }),
        ),
        (
            "acceptance by validator, 7 days",
            rounds(|| {
                let found = runtime.block_on(store.acceptance_by_validator(days(7), good)).expect("ask");
                assert_eq!(found.len() as u64, VALIDATORS);
            }),
        ),
        (
            "the durations of 500 tasks",
            rounds(|| {
                let found = runtime.block_on(store.recent_durations(500)).expect("ask");
                assert_eq!(found.answers.len() as u64, VALIDATORS);
            }),
        ),
    ];
    for (name, times) in &times {
        println!("{name:<40} {times}");
    }
    times.iter().all(|(_, times)| times.median() < WANTED_OF_QUESTIONS)
}

/// Accepts a task and closes it with feedback, all sums included.
fn finishing(runtime: &Runtime, store: &Store, now: UnixTime) -> Times {
    let mut number = 0;
    rounds(|| {
        number += 1;
        let new = NewTask {
            id: LocalId::new(now, number),
            lane: lane(0, 0),
            task_id: TaskId::new("one-more").expect("an id"),
            prompt: Prompt::Text("a red cube".into()),
            threshold: Score::ZERO,
            throttle_s: 30,
            pulled_at: now,
        };
        let feedback = FeedbackRecord {
            uid: None,
            received_at: now,
            validation_failed: false,
            score: Score::ZERO,
            local_score: None,
            average_score: Score::ZERO,
            window_count: 1,
            duel_rating: 1.0,
            reward: 1.0,
            cooldown_until: None,
        };
        let finish = async {
            let accepted = store.accept(new).await.expect("accept");
            let Accepted::New(task) = accepted else { panic!("{accepted:?}") };
            let settled = Settled {
                task: task.id,
                outcome: Outcome::Accepted,
                reason: None,
                at: now,
                feedback: Some(feedback),
            };
            store.finish(settled, task.lane, LaneRecord::default()).await.expect("finish");
        };
        runtime.block_on(finish);
    })
}

fn lane(validator: u64, hotkey: u64) -> LaneKey {
    LaneKey {
        source: SourceId::Validator(Hotkey::from_bytes([validator as u8 + 1; 32])),
        hotkey: Hotkey::from_bytes([hotkey as u8 + 101; 32]),
    }
}

/// Writes the tasks with results, submissions and replies, in the order in which they ended.
fn fill(dir: &Path, now: UnixTime) {
    let mut rng = StdRng::seed_from_u64(17);
    let mut connection = Connection::open(dir.join(Store::FILE)).expect("open the database");
    let transaction = connection.transaction().expect("begin");
    let mut task = transaction
        .prepare(
            "INSERT INTO tasks (id, source, hotkey, task_id, prompt_kind, prompt, threshold, throttle_s, pulled_at,
                                stage, attempts, outcome, settled_at)
             VALUES (?1, ?2, ?3, ?4, 'text', ?5, 0.6, 30, ?6, ?7, ?8, ?9, ?10)",
        )
        .expect("prepare");
    let mut result = transaction
        .prepare(
            "INSERT INTO results (task, attempt, seed, worker, file, bytes, sha256, points, generation_ms, kept_at,
                                  verdict, score, queue_ms, handoff_ms, first_byte_ms, encode_ms, scoring_ms)
             VALUES (?1, ?2, 7, 'main', ?3, 2000000, ?4, 100000, ?5, ?6, 'scored', ?7, ?8, ?9, ?5, ?10, ?11)",
        )
        .expect("prepare");
    let mut submission = transaction
        .prepare(
            "INSERT INTO submissions (task, result, submit_time, sent_bytes, upload_ms, reply_ms)
             VALUES (?1, ?2, ?3, 2700000, ?4, ?5)",
        )
        .expect("prepare");
    let mut reply = transaction
        .prepare(
            "INSERT INTO feedback (task, source, hotkey, uid, received_at, outcome, validation_failed, score,
                                   local_score, average_score, window_count, duel_rating, reward)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7, ?8, 0.78, 41, ?9, 62000.0)",
        )
        .expect("prepare");
    let lanes: Vec<(String, String)> = (0..VALIDATORS * HOTKEYS)
        .map(|number| lane(number % VALIDATORS, number / VALIDATORS))
        .map(|lane| (lane.source.to_string(), lane.hotkey.to_string()))
        .collect();
    let step = PERIOD / REPLIES as u32;
    for number in 0..REPLIES {
        let at = now - step * (REPLIES - number) as u32;
        let ago = |ms: u64| (at - Duration::from_millis(ms)).as_nanos() as i64;
        let (source, hotkey) = &lanes[number as usize % lanes.len()];
        let id = LocalId::new(at, u128::from(number)).to_string();
        let local: f64 = rng.random_range(0.55..0.95);
        let tries: u32 = if local < 0.6 { 2 } else { 1 };
        let outcome = match rng.random_range(0..100) {
            _ if local < 0.6 => Outcome::Empty,
            0..3 => Outcome::Low,
            3 => Outcome::ScorerFailed,
            _ => Outcome::Accepted,
        };
        let stage = if outcome == Outcome::Empty { "declined" } else { "booked" };
        let settled_at = at.as_nanos() as i64;
        let prompt = "a weathered bronze statue of a fox, sitting on a mossy stone";
        let task_id = format!("{number:032x}");
        task.execute(params![
            id,
            source,
            hotkey,
            task_id,
            prompt,
            ago(45_000),
            stage,
            tries,
            outcome.as_str(),
            settled_at
        ])
        .expect("insert");
        let mut row = None;
        for attempt in 1..=tries {
            let generation: u64 = rng.random_range(9_000..24_000);
            let queue: u64 = rng.random_range(0..400_u64).pow(2) / 10;
            let kept_at = ago(6_000 + u64::from(tries - attempt) * 20_000);
            let (handoff, encode, scoring) =
                (rng.random_range(0..5_000), rng.random_range(15..60), rng.random_range(900..5_000));
            let file = format!("{id}-{attempt}.spz");
            let rest = params![
                id,
                attempt,
                file,
                [7_u8; 32],
                generation as i64,
                kept_at,
                local,
                queue as i64,
                handoff,
                encode,
                scoring
            ];
            row = Some(result.insert(rest).expect("insert"));
        }
        let row = row.filter(|_| outcome != Outcome::Empty);
        let (upload, answer) = (rng.random_range(60..900), rng.random_range(800..6_000));
        submission.execute(params![id, row, ago(4_000), upload, answer]).expect("insert");
        let remote = if outcome == Outcome::Accepted { local + rng.random_range(-0.02..0.02) } else { 0.0 };
        let rating: f64 = rng.random_range(1_400.0..1_600.0);
        let uid = (number % VALIDATORS) as i64;
        reply
            .execute(params![id, source, hotkey, uid, settled_at, outcome.as_str(), remote, local, rating])
            .expect("insert");
    }
    drop((task, result, submission, reply));
    transaction.commit().expect("commit");
}

fn sizes(dir: &Path) {
    let connection = Connection::open(dir.join(Store::FILE)).expect("open the database");
    let rows: i64 =
        connection.query_row("SELECT count(*) FROM tallies", [], |row| row.get(0)).expect("count");
    let of = |table: &str| -> f64 {
        let sql = "SELECT sum(pgsize) FROM dbstat WHERE name = ?1";
        let bytes: i64 = connection.query_row(sql, [table], |row| row.get(0)).expect("ask");
        bytes as f64 / f64::from(1 << 20)
    };
    let whole: i64 = connection
        .query_row("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size", [], |row| {
            row.get(0)
        })
        .expect("ask");
    println!(
        "size {:.0} MiB, of it feedback {:.0} MiB and {rows} rows of sums {:.0} MiB",
        whole as f64 / f64::from(1 << 20),
        of("feedback"),
        of("tallies")
    );
}
