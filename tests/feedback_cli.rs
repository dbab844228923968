//! `feedback` of the real binary, on a memory written through the library.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use sn17_miner::clock::Clock;
use sn17_miner::primitives::{LocalId, Prompt, Score, SourceId, TaskId, Uid, UnixTime};
use sn17_miner::store::{FeedbackRecord, LaneKey, LaneRecord, NewTask, Outcome, Settled, Store};
use sn17_miner::wallet::HotkeyPair;

/// For anything the binary is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

struct Memory {
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    store: Store,
}

fn score(value: f64) -> Score {
    Score::new(value).unwrap()
}

fn lane(validator: &str) -> LaneKey {
    LaneKey {
        source: SourceId::Validator(*HotkeyPair::dev(validator).hotkey()),
        hotkey: *HotkeyPair::dev("miner").hotkey(),
    }
}

impl Memory {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let store = runtime.block_on(Store::open(dir.path())).unwrap();
        Self { dir, runtime, store }
    }

    /// Books a task at `validator` with a reply that came at `at`.
    fn reply(
        &self,
        validator: &str,
        at: UnixTime,
        prompt: Prompt,
        outcome: Outcome,
        change: impl FnOnce(&mut FeedbackRecord),
    ) -> LocalId {
        let id = LocalId::new(at, u128::from(at.as_nanos()));
        let new = NewTask {
            id,
            lane: lane(validator),
            task_id: TaskId::new(&format!("task-{}", at.as_millis())).unwrap(),
            prompt,
            threshold: score(0.6),
            throttle_s: 30,
            pulled_at: at - Duration::from_secs(20),
        };
        let mut feedback = FeedbackRecord {
            uid: Some(Uid(12)),
            received_at: at,
            validation_failed: false,
            score: score(0.8123),
            local_score: Some(score(0.8051)),
            average_score: score(0.792),
            window_count: 31,
            duel_rating: 1534.2,
            reward: 47560.2,
            cooldown_until: Some(UnixTime::from_secs(at.as_secs() + 300)),
        };
        change(&mut feedback);
        let settled = Settled { task: id, outcome, reason: None, at, feedback: Some(feedback) };
        self.runtime.block_on(async {
            self.store.accept(new).await.unwrap();
            self.store.finish(settled, lane(validator), LaneRecord::default()).await.unwrap();
        });
        id
    }
}

fn feedback(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sn17-miner"));
    command.arg("feedback").arg("--set").arg(format!("paths.data={}", dir.display())).args(args);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SN17_") {
            command.env_remove(name);
        }
    }
    command.current_dir(dir).env("HOME", dir).stdin(Stdio::null());
    command
}

#[track_caller]
fn lines(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap().lines().map(str::to_owned).collect()
}

#[track_caller]
fn unavailable(mut command: Command, message: &str) {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{stderr}");
    assert!(output.stdout.is_empty());
    assert!(stderr.starts_with("error: ") && stderr.contains(message), "{stderr}");
}

const T: UnixTime = UnixTime::from_millis(1_763_609_288_301);

fn text(prompt: &str) -> Prompt {
    Prompt::Text(prompt.into())
}

#[test]
fn one_line_per_reply_in_the_order_of_arrival() {
    let memory = Memory::new();
    let first = memory.reply("validator-0", T, text("a red cube"), Outcome::Accepted, |_| ());
    let second = memory.reply(
        "validator-1",
        T + Duration::from_secs(1),
        Prompt::Image("iVBORw0KGgo".into()),
        Outcome::Low,
        |f| {
            f.score = Score::ZERO;
            f.local_score = None;
            f.uid = None;
        },
    );
    let third = memory.reply("validator-0", T + Duration::from_secs(2), text("x"), Outcome::Empty, |_| ());
    let fourth = memory.reply(
        "validator-0",
        T + Duration::from_secs(3),
        text("a\u{1b}[2J\n\u{202e}b"),
        Outcome::ScorerFailed,
        |f| f.validation_failed = true,
    );
    // The agent still has the file open.
    let shown = lines(&feedback(memory.dir.path(), &[]).output().unwrap());
    assert_eq!(
        shown,
        [
            format!(
                "2025-11-20T03:28:08.301Z  [12] score 0.8123 local 0.8051 average 0.7920 rating 1534.2 window  31 \
                 reward 47560.2 outcome=accepted task={} (a red cube)",
                first.short()
            ),
            format!(
                "2025-11-20T03:28:09.301Z   [?] score 0.0000 local none   average 0.7920 rating 1534.2 window  31 \
                 reward 47560.2 outcome=low task={} (image, 11 base64 characters)",
                second.short()
            ),
            format!(
                "2025-11-20T03:28:10.301Z  [12] score empty  local 0.8051 average 0.7920 rating 1534.2 window  31 \
                 reward 47560.2 outcome=empty task={} (x)",
                third.short()
            ),
            format!(
                "2025-11-20T03:28:11.301Z  [12] score failed local 0.8051 average 0.7920 rating 1534.2 window  31 \
                 reward 47560.2 outcome=scorer-failed task={} (a\\u{{1b}}[2J\\n\\u{{202e}}b)",
                fourth.short()
            ),
        ]
    );

    // And without an agent.
    let Memory { dir, store, .. } = memory;
    drop(store);
    assert_eq!(lines(&feedback(dir.path(), &[]).output().unwrap()), shown);
}

#[test]
fn json_has_every_field() {
    let memory = Memory::new();
    let long = "é".repeat(2_000);
    let id = memory.reply("validator-0", T, text(&long), Outcome::Accepted, |_| ());
    memory.reply(
        "validator-0",
        T + Duration::from_secs(1),
        Prompt::Image("iVBORw0KGgo".into()),
        Outcome::Accepted,
        |_| (),
    );
    let shown = lines(&feedback(memory.dir.path(), &["--json"]).output().unwrap());
    let rows: Vec<Value> = shown.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let expected = serde_json::json!({
        "row": 1,
        "received_at": "2025-11-20T03:28:08.301Z",
        "source": lane("validator-0").source.to_string(),
        "hotkey": lane("validator-0").hotkey.to_string(),
        "uid": 12,
        "outcome": "accepted",
        "validation_failed": false,
        "score": 0.8123,
        "local_score": 0.8051,
        "average_score": 0.792,
        "window_count": 31,
        "duel_rating": 1534.2,
        "reward": 47560.2,
        "cooldown_until": "2025-11-20T03:33:08.000Z",
        "task": id.to_string(),
        "task_id": format!("task-{}", T.as_millis()),
        "pulled_at": "2025-11-20T03:27:48.301Z",
        "threshold": 0.6,
        "attempts": 0,
        "reason": null,
        "prompt_kind": "text",
        "prompt": long,
        "prompt_chars": 2_000,
    });
    assert_eq!(rows[0], expected);
    assert_eq!((&rows[1]["prompt"], &rows[1]["prompt_chars"]), (&Value::Null, &11.into()));
}

#[test]
fn the_last_the_recent_and_one_validators_replies() {
    let memory = Memory::new();
    let now = Clock::system().now();
    for hours in (0..6).rev() {
        let validator = if hours % 2 == 0 { "validator-0" } else { "validator-1" };
        let at = now - Duration::from_secs(hours * 3_600 + 60);
        memory.reply(validator, at, text(&format!("prompt {hours}")), Outcome::Accepted, |_| ());
    }
    let validator = lane("validator-1").source.to_string().replace("validator:", "");
    let found = |args: &[&str]| {
        let shown = lines(&feedback(memory.dir.path(), args).output().unwrap());
        shown.iter().map(|line| line[line.len() - 2..line.len() - 1].to_owned()).collect::<String>()
    };
    assert_eq!(found(&[]), "543210");
    assert_eq!(found(&["--last", "2"]), "10");
    assert_eq!(found(&["--last", "0"]), "");
    assert_eq!(found(&["--last", "100"]), "543210");
    assert_eq!(found(&["--since", "4h"]), "3210");
    assert_eq!(found(&["--validator", &validator]), "531");
    assert_eq!(found(&["--source", &validator, "--last", "1"]), "1");
    assert_eq!(found(&["--source", &validator, "--since", "4h"]), "31");

    for bad in [&["--validator", "5X"][..], &["--since", "soon"], &["--last", "2", "--since", "4h"]] {
        assert_eq!(feedback(memory.dir.path(), bad).output().unwrap().status.code(), Some(2), "{bad:?}");
    }
}

#[test]
fn what_cannot_be_read_is_named_and_unavailable() {
    let dir = tempfile::tempdir().unwrap();
    unavailable(feedback(dir.path(), &[]), "there is no agent.sqlite");
    let mut nowhere = feedback(dir.path(), &["--follow"]);
    nowhere.args(["--set", "paths.data=nowhere"]);
    unavailable(nowhere, "nowhere");

    std::fs::write(
        dir.path().join("agent.sqlite"),
        "this is no database, whatever its name says\n".repeat(100),
    )
    .unwrap();
    unavailable(feedback(dir.path(), &[]), "is no database of this agent");

    std::fs::write(dir.path().join("agent.sqlite"), "").unwrap();
    unavailable(feedback(dir.path(), &[]), "is no database of this agent");

    let mut temporary = feedback(dir.path(), &[]);
    temporary.args(["--set", "paths.data="]);
    unavailable(temporary, "run --set paths.data=DIR");
}

/// A running `feedback --follow`, its lines as they come.
struct Follower {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Follower {
    fn start(dir: &Path, args: &[&str]) -> Self {
        let mut child = feedback(dir, &["--follow"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { child, lines }
    }

    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line within the time")
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Waits for the end of a process; `None` when it does not come.
fn ended(child: &mut Child) -> Option<std::process::ExitStatus> {
    let clock = Clock::system();
    let deadline = clock.now() + PATIENCE;
    while clock.now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

#[test]
fn following_shows_replies_as_they_arrive_and_ctrl_c_is_no_failure() {
    let memory = Memory::new();
    for number in 0..12 {
        memory.reply(
            "validator-0",
            T + Duration::from_secs(number),
            text(&format!("old {number}")),
            Outcome::Accepted,
            |_| (),
        );
    }
    let mut follower = Follower::start(memory.dir.path(), &[]);
    for number in 2..12 {
        assert!(follower.line().ends_with(&format!("(old {number})")));
    }
    for number in 0..3 {
        memory.reply(
            "validator-0",
            T + Duration::from_secs(100 + number),
            text(&format!("new {number}")),
            Outcome::Accepted,
            |_| (),
        );
        assert!(follower.line().ends_with(&format!("(new {number})")));
    }
    let interrupted = Command::new("kill").args(["-INT", &follower.child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let status = ended(&mut follower.child).expect("Ctrl-C ends it");
    let mut stderr = String::new();
    follower.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let memory = Memory::new();
    memory.reply("validator-0", T, text("first"), Outcome::Accepted, |_| ());
    // `feedback --follow | head -1`, with nothing more to come.
    let mut child = feedback(memory.dir.path(), &["--follow"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert!(line.ends_with("(first)\n"), "{line}");
    drop(stdout);
    let status = ended(&mut child).expect("a closed pipe ends it");
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
}
