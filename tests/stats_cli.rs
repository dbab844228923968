//! `stats` of the real binary, on a memory written through the library.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sn17_miner::clock::Clock;
use sn17_miner::primitives::{LocalId, Prompt, Score, Seed, SourceId, TaskId, Uid, UnixTime};
use sn17_miner::splat::{Gaussian, ShDegree, Splat, Spz, SpzEncoder};
use sn17_miner::store::{
    Accepted, Answer, Delivery, FeedbackRecord, LaneKey, LaneRecord, Making, NewTask, Outcome, Settled,
    Store, Verdict,
};
use sn17_miner::wallet::HotkeyPair;

struct Memory {
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    store: Store,
    spz: Arc<Spz>,
}

/// One task that ended: at this validator, of this hotkey, so.
struct Ended<'a> {
    validator: &'a str,
    hotkey: &'a str,
    at: UnixTime,
    outcome: Outcome,
    /// Of each result: queue, hand-off, generation and local score.
    made: &'a [(u64, u64, u64, Option<f64>)],
    remote: f64,
    /// Window count, rating and reward; nothing for a task that is closed without feedback.
    said: Option<(u64, f64, f64)>,
}

fn score(value: f64) -> Score {
    Score::new(value).unwrap()
}

fn key(name: &str) -> String {
    HotkeyPair::dev(name).hotkey().to_ss58()
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Memory {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let store = runtime.block_on(Store::open(dir.path())).unwrap();
        let mut splat = Splat::new(ShDegree::Zero);
        splat.push(Gaussian {
            position: [0.0; 3],
            log_scale: [-4.0; 3],
            rotation: [1.0, 0.0, 0.0, 0.0],
            logit_opacity: 0.0,
            f_dc: [0.0; 3],
        });
        let spz = Arc::new(SpzEncoder::default().encode(&splat).unwrap());
        Self { dir, runtime, store, spz }
    }

    fn ended(&self, ended: &Ended<'_>) {
        self.runtime.block_on(self.end(ended));
    }

    async fn end(&self, ended: &Ended<'_>) {
        let Ended { at, .. } = *ended;
        let store = &self.store;
        let lane = LaneKey {
            source: SourceId::Validator(*HotkeyPair::dev(ended.validator).hotkey()),
            hotkey: *HotkeyPair::dev(ended.hotkey).hotkey(),
        };
        let new = NewTask {
            id: LocalId::new(at, u128::from(at.as_nanos())),
            lane,
            task_id: TaskId::new(&format!("task-{}", at.as_nanos())).unwrap(),
            prompt: Prompt::Text("a red cube".into()),
            threshold: score(0.6),
            throttle_s: 30,
            pulled_at: at - ms(100_000),
        };
        let Accepted::New(task) = store.accept(new).await.unwrap() else { panic!("the task is known") };
        let mut last = None;
        for (queue, handoff, generation, local) in ended.made {
            let attempt = store.begin_attempt(task.id).await.unwrap();
            let making = Making {
                attempt,
                seed: Seed::new(attempt),
                worker: "main".into(),
                queue: ms(*queue),
                handoff: ms(*handoff),
                first_byte: ms(*generation / 2),
                generation: ms(*generation),
                encoding: ms(20),
                at: at - ms(50_000),
            };
            let kept = store.keep(task.id, making, Arc::clone(&self.spz)).await.unwrap();
            let verdict = local.map_or(Verdict::Unscored, |local| Verdict::Scored(score(local)));
            let kept = store.judge(task.id, &kept, verdict, local.map(|_| ms(1_500))).await.unwrap();
            last = Some((kept, *local));
        }
        let answer = match &last {
            Some((kept, _)) if ended.outcome != Outcome::Empty => Answer::Result(kept.clone()),
            _ => Answer::Empty("below the threshold".into()),
        };
        let submission = store.intend(task.id, &answer, at).await.unwrap();
        let delivery = Delivery { sent_bytes: 100, upload: Some(ms(40)), reply: Some(ms(4_000)) };
        store.delivered(submission, delivery).await.unwrap();
        let feedback = ended.said.map(|(window_count, duel_rating, reward)| FeedbackRecord {
            uid: Some(Uid(12)),
            received_at: at,
            validation_failed: ended.outcome == Outcome::ScorerFailed,
            score: score(ended.remote),
            local_score: last.and_then(|(_, local)| local).map(score),
            average_score: score(0.5),
            window_count,
            duel_rating,
            reward,
            cooldown_until: None,
        });
        let settled = Settled { task: task.id, outcome: ended.outcome, reason: None, at, feedback };
        store.finish(settled, lane, LaneRecord::default()).await.unwrap();
    }
}

fn stats(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sn17-miner"));
    command.arg("stats").arg("--set").arg(format!("paths.data={}", dir.display())).args(args);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SN17_") {
            command.env_remove(name);
        }
    }
    command.current_dir(dir).env("HOME", dir).stdin(Stdio::null());
    command
}

#[track_caller]
fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn json_of(dir: &Path, args: &[&str]) -> Value {
    let output = stats(dir, &[&["--json"], args].concat()).output().unwrap();
    serde_json::from_str(&text(&output)).unwrap()
}

#[track_caller]
fn fails(mut command: Command, code: i32, message: &str) {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty());
    assert!(stderr.contains(message), "{stderr}");
}

/// In the middle of an hour.
const T: UnixTime = UnixTime::from_secs(1_763_609_400);

const HOUR: Duration = Duration::from_secs(3_600);

/// Ten tasks: one before `T`, nine from `T` on, over three lanes and two days.
fn ten_tasks() -> Memory {
    use Outcome as O;
    let memory = Memory::new();
    let (v0, v1) = ("validator-0", "validator-1");
    let (one, two) = ("miner", "miner-2");
    let day = Duration::from_secs(86_400);
    for (validator, hotkey, after, outcome, made, remote, said) in [
        (v0, one, ms(0), O::Accepted, &[(0, 0, 10_000, Some(0.80))][..], 0.82, Some((1, 1500.0, 1500.0))),
        (v0, one, ms(1_000), O::Accepted, &[(0, 0, 12_000, Some(0.70))], 0.68, Some((2, 1510.0, 3020.0))),
        (v0, one, ms(2_000), O::Low, &[(0, 0, 14_000, Some(0.61))], 0.0, Some((2, 1490.0, 2980.0))),
        (
            v0,
            two,
            HOUR,
            O::Empty,
            &[(0, 0, 9_000, Some(0.2)), (0, 0, 9_500, Some(0.3))],
            0.0,
            Some((0, 1500.0, 0.0)),
        ),
        (v0, two, HOUR * 2, O::Accepted, &[(0, 0, 8_000, None)], 0.9, Some((1, 1520.0, 1520.0))),
        (
            v1,
            one,
            HOUR * 3,
            O::Accepted,
            &[(20_000, 5_000, 11_000, Some(0.75))],
            0.75,
            Some((7, 1600.0, 11_200.0)),
        ),
        (v1, one, day, O::ScorerFailed, &[(0, 0, 31_000, Some(0.9))], 0.0, Some((7, 1601.0, 11_207.0))),
        (v1, one, day + HOUR, O::Settled, &[(0, 0, 1_000, Some(0.9))], 0.0, None),
        (v1, one, day + HOUR * 2, O::Low, &[(0, 40_000, 10_000, Some(0.5))], 0.0, Some((6, 1590.0, 9_540.0))),
    ] {
        memory.ended(&Ended { validator, hotkey, at: T + after, outcome, made, remote, said });
    }
    let before = T - ms(1);
    let made = &[(0, 0, 99_000, Some(0.99))];
    let said = Some((9, 9.0, 9.0));
    memory.ended(&Ended {
        validator: v1,
        hotkey: two,
        at: before,
        outcome: O::Accepted,
        made,
        remote: 0.99,
        said,
    });
    memory
}

fn near(value: &Value, expected: f64) {
    let value = value.as_f64().unwrap();
    assert!((value - expected).abs() < 1e-9, "{value} is not {expected}");
}

#[test]
fn the_sums_of_a_period_are_exact() {
    let memory = ten_tasks();
    // The agent still has the file open.
    let report = json_of(memory.dir.path(), &["--since", &T.to_string()]);
    assert_eq!(report["from"], json!(T));
    let until: UnixTime = serde_json::from_value(report["until"].clone()).unwrap();
    let hours = until.saturating_since(T).as_secs_f64() / 3_600.0;
    assert!((report["hours"].as_f64().unwrap() - hours).abs() < 1e-6);

    let total = &report["total"];
    assert_eq!(
        total["tasks"],
        json!({"accepted": 4, "low": 2, "scorer_failed": 1, "empty": 1, "settled": 1, "lost": 0})
    );
    let exact_hours = report["hours"].as_f64().unwrap();
    near(&total["accepted_per_hour"], 4.0 / exact_hours);
    near(&total["failed_per_hour"], 3.0 / exact_hours);
    near(&total["acceptance_rate"], 4.0 / 6.0);

    let scores = &total["scores"];
    near(&scores["accepted_mean"], (0.82 + 0.68 + 0.9 + 0.75) / 4.0);
    assert_eq!(scores["compared"], 3);
    near(&scores["local_mean"], 0.75);
    near(&scores["remote_mean"], 0.75);
    near(&scores["difference_mean"], 0.0);
    // Differences of +0.02, -0.02 and 0.
    near(&scores["difference_deviation"], (0.0008_f64 / 3.0).sqrt());
    assert_eq!((&scores["passed_here"], &scores["rejected_there"]), (&json!(4), &json!(1)));
    near(&scores["rejected_there_share"], 0.25);

    assert_eq!(total["generations"], 10);
    assert_eq!(total["making"]["tasks"], 9);
    assert_eq!(total["making"]["over_30s"], 3);
    near(&total["making"]["over_30s_share"], 3.0 / 9.0);
    assert_eq!(
        total["making"]["over_30s_by_cause"],
        json!({"queue": 1, "handoff": 1, "generation": 1, "retries": 0})
    );

    let latest = &total["latest"];
    assert_eq!(latest["at"], json!(T + Duration::from_secs(86_400) + HOUR * 2));
    assert_eq!((&latest["lanes"], &latest["window_count"]), (&json!(3), &json!(2 + 1 + 6)));
    near(&latest["reward"], 2980.0 + 1520.0 + 9540.0);
    near(&latest["duel_rating"], (1490.0 + 1520.0 + 1590.0) / 3.0);

    let stages = &total["stages"];
    assert_eq!(stages["queue"], json!({"count": 10, "p50_ms": 0, "p95_ms": 19967, "max_ms": 20000}));
    assert_eq!(
        (&stages["generation"]["count"], &stages["generation"]["max_ms"]),
        (&json!(10), &json!(31_000))
    );
    let median = stages["generation"]["p50_ms"].as_f64().unwrap();
    assert!((median / 10_000.0 - 1.0).abs() < 0.032, "{median}");
    assert_eq!((&stages["scoring"]["count"], &stages["scoring"]["max_ms"]), (&json!(9), &json!(1_500)));
    assert_eq!((&stages["encoding"]["count"], &stages["encoding"]["max_ms"]), (&json!(10), &json!(20)));
    // Empty answers have no splat to upload and none to judge.
    assert_eq!((&stages["upload"]["count"], &stages["validator"]["count"]), (&json!(8), &json!(8)));
    assert_eq!(stages["validator"]["max_ms"], 4_000);
}

#[test]
fn validators_and_hotkeys_are_told_apart() {
    let memory = ten_tasks();
    let report = json_of(memory.dir.path(), &["--since", &T.to_string(), "--by", "hotkey"]);
    let of = |list: &str, field: &str, name: &str| {
        let groups = report[list].as_array().unwrap();
        assert_eq!(groups.len(), 2);
        groups.iter().find(|group| group[field] == key(name)).unwrap().clone()
    };
    let first = of("validators", "validator", "validator-0");
    assert_eq!((&first["hotkey"], &first["validator_uid"]), (&Value::Null, &json!(12)));
    assert_eq!(
        (&first["tasks"]["accepted"], &first["tasks"]["low"], &first["tasks"]["empty"]),
        (&json!(3), &json!(1), &json!(1))
    );
    assert_eq!(first["latest"]["window_count"], 3);
    let second = of("validators", "validator", "validator-1");
    assert_eq!((&second["tasks"]["accepted"], &second["latest"]["lanes"]), (&json!(1), &json!(1)));

    let one = of("hotkeys", "hotkey", "miner");
    assert_eq!((&one["validator"], &one["tasks"]["accepted"]), (&Value::Null, &json!(3)));
    let two = of("hotkeys", "hotkey", "miner-2");
    assert_eq!(two["scores"]["local_mean"], Value::Null);
    near(&two["scores"]["accepted_mean"], 0.9);
    assert_eq!(two["making"]["over_30s"], 0);
}

#[test]
fn the_table_is_readable() {
    let memory = ten_tasks();
    let shown = text(&stats(memory.dir.path(), &["--since", &T.to_string()]).output().unwrap());
    for part in [
        "period        2025-11-20T03:30:00.000Z to ",
        "\naccepted      4, ",
        "; 66.7 % of 6 judged\n",
        ": 2 low, 1 empty\n",
        "1 where the validator's scorer failed, 1 closed unseen, 0 lost\n",
        "0.7500 here, 0.7500 there, difference +0.0000 (deviation 0.0163), of 3 accepted\n",
        "contradicted  1 of 4 that passed here were rejected there (25.0 %)\n",
        "over 30 s     3 of 9 made (33.3 %), by their longest part: queue 1, hand-off 1, generation 1, retries 0\n",
        "\n  queue            10     0.00s    19.97s    20.00s\n",
    ] {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
    let row = |shown: &str, name: &str| {
        let start: String = key(name).chars().take(15).collect();
        shown.lines().find(|line| line.contains(&start)).map(str::to_owned).unwrap()
    };
    let first = row(&shown, "validator-0");
    assert!(first.starts_with("   12  5"), "{first}");
    assert!(
        first.ends_with("    1    75.0 %  0.7500  0.7500     4500.0  1505.0      3      0.0 %"),
        "{first}"
    );
    let by_hotkey =
        text(&stats(memory.dir.path(), &["--since", &T.to_string(), "--by", "hotkey"]).output().unwrap());
    assert!(
        row(&by_hotkey, "miner-2")
            .ends_with("   100.0 %       -  0.9000     1520.0  1520.0      1      0.0 %")
    );
    assert!(!by_hotkey.contains("uid"));
}

#[test]
fn without_a_moment_it_is_the_last_day_and_all_is_all() {
    let memory = Memory::new();
    let now = Clock::system().now();
    for (ago, remote) in [(ms(60_000), 0.7), (HOUR * 23, 0.8), (HOUR * 25, 0.9), (HOUR * 24 * 100, 1.0)] {
        memory.ended(&Ended {
            validator: "validator-0",
            hotkey: "miner",
            at: now - ago,
            outcome: Outcome::Accepted,
            made: &[(0, 0, 1, None)],
            remote,
            said: Some((1, 1.0, 1.0)),
        });
    }
    let accepted = |args: &[&str]| {
        let report = json_of(memory.dir.path(), args);
        (report["total"]["tasks"]["accepted"].as_u64().unwrap(), report["hours"].as_f64().unwrap())
    };
    let (count, hours) = accepted(&[]);
    assert_eq!(count, 2);
    assert!((hours - 24.0).abs() < 0.1, "{hours}");
    assert_eq!(accepted(&["--since", "7d"]).0, 3);
    // From the first pull on, not from 1970.
    let (count, hours) = accepted(&["--since", "all"]);
    assert_eq!(count, 4);
    assert!((hours - 2_400.0).abs() < 0.2, "{hours}");
    assert_eq!(accepted(&["--since", "2000-01-01T00:00:00Z"]).0, 4);
}

#[test]
fn an_empty_period_is_no_failure() {
    let memory = ten_tasks();
    let report = json_of(memory.dir.path(), &["--since", "24h"]);
    let total = &report["total"];
    assert_eq!(total["tasks"]["accepted"], 0);
    assert_eq!(total["accepted_per_hour"], 0.0);
    assert_eq!((&total["acceptance_rate"], &total["latest"]), (&Value::Null, &Value::Null));
    assert_eq!(total["stages"]["queue"], json!({"count": 0, "p50_ms": null, "p95_ms": null, "max_ms": null}));
    assert_eq!((&report["validators"], &report["hotkeys"]), (&json!([]), &json!([])));
    let shown = text(&stats(memory.dir.path(), &[]).output().unwrap());
    assert!(shown.ends_with(" 24.0 hours\ntasks         none ended in it\n"), "{shown}");

    // Nothing at all yet.
    let fresh = Memory::new();
    let report = json_of(fresh.dir.path(), &["--since", "all"]);
    assert_eq!((&report["hours"], &report["total"]["making"]["over_30s_share"]), (&json!(0.0), &Value::Null));
}

/// Scripts read these names.
#[test]
fn the_keys_of_the_json_are_these() {
    fn keys(value: &Value, path: &str, found: &mut Vec<String>) {
        for (name, inner) in value.as_object().into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            if inner.is_object() {
                keys(inner, &path, found);
            } else {
                found.push(path);
            }
        }
    }
    let memory = ten_tasks();
    let mut found = Vec::new();
    let report = json_of(memory.dir.path(), &["--since", &T.to_string()]);
    keys(&report, "", &mut found);
    let stages = ["queue", "handoff", "generation", "encoding", "scoring", "upload", "validator"];
    let times = ["count", "p50_ms", "p95_ms", "max_ms"];
    let mut expected: Vec<String> = "from until hours validators hotkeys \
        total.validator total.validator_uid total.hotkey \
        total.tasks.accepted total.tasks.low total.tasks.scorer_failed total.tasks.empty total.tasks.settled \
        total.tasks.lost total.accepted_per_hour total.failed_per_hour total.acceptance_rate \
        total.scores.accepted_mean total.scores.compared total.scores.local_mean total.scores.remote_mean \
        total.scores.difference_mean total.scores.difference_deviation total.scores.passed_here \
        total.scores.rejected_there total.scores.rejected_there_share \
        total.latest.at total.latest.lanes total.latest.reward total.latest.duel_rating total.latest.window_count \
        total.generations total.making.tasks total.making.over_30s total.making.over_30s_share \
        total.making.over_30s_by_cause.queue total.making.over_30s_by_cause.handoff \
        total.making.over_30s_by_cause.generation total.making.over_30s_by_cause.retries"
        .split_whitespace()
        .map(str::to_owned)
        .chain(stages.iter().flat_map(|stage| times.map(|name| format!("total.stages.{stage}.{name}"))))
        .collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let (mut group, mut total) = (Vec::new(), Vec::new());
    keys(&report["validators"][0], "", &mut group);
    keys(&report["total"], "", &mut total);
    assert_eq!(group, total);
}

#[test]
fn without_a_memory_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    fails(stats(dir.path(), &[]), 69, "no agent has remembered anything");
    std::fs::write(dir.path().join(Store::FILE), b"no database at all, and long enough to look like one")
        .unwrap();
    fails(stats(dir.path(), &[]), 69, "is no database of this agent");
    let old = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/store-v2/agent.sqlite");
    std::fs::copy(old, dir.path().join(Store::FILE)).unwrap();
    fails(stats(dir.path(), &[]), 69, "written by an older version: start the agent once");
    fails(stats(dir.path(), &["--since", "yesterday"]), 2, "neither a stretch");
}
