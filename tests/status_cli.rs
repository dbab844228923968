//! `status` of the real binary, beside a running agent and without one, and the socket it goes through.

mod support;

use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use sn17_miner::api::{AskError, ListenError, LocalApi, Status, ask, socket_path};
use sn17_miner::clock::Clock;
use sn17_miner::net::NetError;
use sn17_miner::wallet::HotkeyPair;
use support::program::{Program, miner};

const PATIENCE: Duration = Duration::from_secs(60);

/// An agent on its embedded network, with three tasks behind it.
fn agent(dir: &Path) -> Program {
    let mut agent = Program::start("run", &mut miner(dir, &["run"]), dir);
    for _ in 0..3 {
        agent.line(PATIENCE, |line| line.contains("Feedback from")).expect("the agent mines");
    }
    agent
}

fn status(dir: &Path) -> Output {
    miner(dir, &["status", "--json"]).output().unwrap()
}

#[track_caller]
fn json(output: &Output, code: i32) -> Value {
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[track_caller]
fn assert_keys(status: &Value) {
    assert_eq!(
        keys(status),
        [
            "at", "cards", "chain", "economy", "ended", "feedback", "hotkeys", "lanes", "netuid", "network",
            "process", "version"
        ]
    );
    let ours = &status["hotkeys"][0];
    assert_eq!(keys(ours), ["hotkey", "paused_until", "registration"]);
    assert_eq!(keys(&ours["registration"]), ["place", "state", "uid"]);
    for card in status["cards"].as_array().unwrap() {
        assert_eq!(keys(card), ["card", "generator", "reachable", "state"]);
    }
    if !status["economy"].is_null() {
        assert_eq!(
            keys(&status["economy"]),
            [
                "accepted_per_hour",
                "calibrated",
                "card_price_per_hour",
                "gate",
                "lane_price_per_hour",
                "lanes",
                "pass",
                "saturation"
            ]
        );
    }
    assert_eq!(
        keys(&ours["registration"]["place"]),
        ["emission_rao", "immunity_blocks_left", "incentive", "neurons", "rank"]
    );
    assert_eq!(keys(&status["chain"]), ["link", "metagraph"]);
    assert_eq!(
        keys(&status["chain"]["metagraph"]),
        ["age_s", "block", "neurons", "stake_coverage", "synced_at"]
    );
    for lane in status["lanes"].as_array().unwrap() {
        assert_eq!(
            keys(lane),
            [
                "address",
                "clock_ahead_ms",
                "decision",
                "demoted",
                "due",
                "hotkey",
                "leaving",
                "task",
                "uid",
                "validator",
                "window_count"
            ]
        );
    }
    for line in status["feedback"].as_array().unwrap() {
        assert_eq!(
            keys(line),
            [
                "average_score",
                "duel_rating",
                "local_score",
                "outcome",
                "prompt",
                "prompt_kind",
                "received_at",
                "reward",
                "score",
                "task",
                "uid",
                "validation_failed",
                "validator",
                "window_count"
            ]
        );
    }
    // The wire type reads what it writes.
    let read: Status = serde_json::from_value(status.clone()).unwrap();
    assert_eq!(&serde_json::to_value(read).unwrap(), status);
}

/// What is true of this network whoever tells it.
#[track_caller]
fn assert_known(status: &Value) {
    assert_keys(status);
    let ours = &status["hotkeys"][0];
    assert_eq!(ours["hotkey"], HotkeyPair::dev("miner").hotkey().to_ss58());
    assert_eq!((&status["network"], &status["netuid"]), (&"devnet".into(), &17.into()));
    assert_eq!(
        (&ours["registration"]["state"], &ours["registration"]["uid"]),
        (&"registered".into(), &3.into())
    );
    assert_eq!(ours["registration"]["place"]["neurons"], 4);
    assert_eq!(status["chain"]["metagraph"]["stake_coverage"], 1.0);
    let lanes = status["lanes"].as_array().unwrap();
    let uids: Vec<_> = lanes.iter().map(|lane| lane["uid"].as_u64().unwrap()).collect();
    assert_eq!(uids, [0, 1, 2]);
    for (lane, name) in lanes.iter().zip(["validator-0", "validator-1", "validator-2"]) {
        assert_eq!(lane["validator"], HotkeyPair::dev(name).hotkey().to_ss58());
        assert!(lane["address"].as_str().unwrap().starts_with("127.0.0.1:"));
        assert!(lane["due"].is_string() && lane["window_count"].as_u64() >= Some(1));
    }
    let replies = status["feedback"].as_array().unwrap();
    assert!((3..=5).contains(&replies.len()));
    assert!(replies.iter().all(|reply| reply["score"].as_f64().unwrap() > 0.0));
}

#[test]
fn a_running_agent_tells_how_it_stands_and_leaves_its_memory_behind() {
    let dir = tempfile::tempdir().unwrap();
    let running = agent(dir.path());
    let socket = socket_path(&dir.path().join("data"));
    let found = std::fs::metadata(&socket).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);

    let told = json(&status(dir.path()), 0);
    assert_known(&told);
    assert!(told["process"]["pid"].is_u64() && told["process"]["started_at"].is_string());
    assert_eq!(told["chain"]["link"]["link"], "up");
    assert_eq!(told["cards"][0]["reachable"], true);
    assert_eq!(told["economy"]["lanes"], 3);
    assert!(told["ended"].as_u64().unwrap() >= 3);
    let table = text(&miner(dir.path(), &["status"]).output().unwrap());
    for part in [
        "running as process",
        "uid 3, rank 1 of 4",
        "100.0 %",
        "generator     main on card",
        "worth ",
        "last replies",
    ] {
        assert!(table.contains(part), "{part} in {table}");
    }

    // A second agent neither starts there nor takes the socket away.
    let second = miner(dir.path(), &["run"]).output().unwrap();
    assert_eq!(second.status.code(), Some(75));
    assert_eq!(json(&status(dir.path()), 0)["process"], told["process"]);

    running.terminate();
    assert_eq!(running.finish(PATIENCE).status.code(), Some(0));
    assert!(!socket.exists());
    let remembered = json(&status(dir.path()), 1);
    assert_known(&remembered);
    for gone in ["process", "economy", "ended"] {
        assert!(remembered[gone].is_null(), "{gone}");
    }
    assert_eq!(remembered["cards"], serde_json::json!([]));
    assert!(remembered["chain"]["link"].is_null());
    let table = text(&miner(dir.path(), &["status"]).output().unwrap());
    assert!(table.contains("not running") && table.contains("uid 3, rank 1 of 4"), "{table}");
}

#[test]
fn a_socket_left_behind_means_nobody_and_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    // Dropping it kills it.
    drop(agent(dir.path()));
    assert!(socket_path(&dir.path().join("data")).exists());
    assert!(json(&status(dir.path()), 1)["process"].is_null());
    // It has nothing to pull for a while.
    let mut again = Program::start("run", &mut miner(dir.path(), &["run"]), dir.path());
    again.line(PATIENCE, |line| line.contains("registered on the subnet")).expect("it starts");
    assert!(json(&status(dir.path()), 0)["process"].is_object());
}

#[test]
fn without_agent_and_memory_there_is_nothing_to_tell() {
    let dir = tempfile::tempdir().unwrap();
    let output = status(dir.path());
    assert_eq!(output.status.code(), Some(69));
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no agent has remembered anything"));
}

#[test]
fn an_agent_that_gives_no_status_is_told_from_none() {
    let dir = tempfile::tempdir().unwrap();
    drop(agent(dir.path()));
    let socket = socket_path(&dir.path().join("data"));
    std::fs::remove_file(&socket).unwrap();
    let server = answering(&socket, b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n");
    let output = status(dir.path());
    assert!(json(&output, 1)["process"].is_null());
    let warning = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(warning.contains("gives no status") && warning.contains("500"), "{warning}");
    drop(server);
}

/// Answers every connection at `path` with these bytes, for as long as the test lives.
fn answering(path: &Path, reply: &'static [u8]) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 4096];
            // A look whether anybody listens sends nothing.
            if stream.read(&mut head).is_ok_and(|read| read > 0) {
                let _asker_gone = stream.write_all(reply);
            }
        }
    })
}

#[tokio::test]
async fn an_answer_without_end_or_without_sense_is_bounded() {
    let clock = Clock::system();
    let dir = tempfile::tempdir().unwrap();
    let _server =
        answering(&socket_path(dir.path()), b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n{\"at\"");
    let error = ask(dir.path(), &clock).await.unwrap_err();
    assert!(matches!(error, AskError::Net(NetError::Broken(_) | NetError::TotalTimeout(_))), "{error}");

    let dir = tempfile::tempdir().unwrap();
    let _server = answering(&socket_path(dir.path()), b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
    assert!(matches!(ask(dir.path(), &clock).await, Err(AskError::Unreadable(_))));

    let dir = tempfile::tempdir().unwrap();
    // It takes connections and never answers.
    let _silent = UnixListener::bind(socket_path(dir.path())).unwrap();
    let error = ask(dir.path(), &clock).await.unwrap_err();
    assert!(matches!(error, AskError::Net(NetError::FirstByteTimeout(_))), "{error}");
}

#[tokio::test]
async fn only_a_dead_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = socket_path(dir.path());
    std::fs::write(&path, "somebody's notes").unwrap();
    let foreign = LocalApi::listen(dir.path()).await;
    assert!(matches!(foreign, Err(ListenError::Foreign { .. } | ListenError::Io { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"somebody's notes");
    std::fs::remove_file(&path).unwrap();

    let first = LocalApi::listen(dir.path()).await.unwrap();
    assert!(matches!(LocalApi::listen(dir.path()).await, Err(ListenError::InUse { .. })));
    drop(first);
    assert!(!path.exists());
    drop(UnixListener::bind(&path).unwrap());
    assert!(UnixStream::connect(&path).is_err() && path.exists());
    let _replaced = LocalApi::listen(dir.path()).await.unwrap();
    UnixStream::connect(&path).unwrap();

    let long = dir.path().join("d".repeat(120));
    std::fs::create_dir(&long).unwrap();
    assert!(matches!(LocalApi::listen(&long).await, Err(ListenError::TooLong { .. })));
    assert!(ask(&long, &Clock::system()).await.unwrap().is_none());
}

#[test]
fn a_data_directory_too_deep_for_a_socket_is_mined_in_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(100));
    std::fs::create_dir(&deep).unwrap();
    let mut agent = agent_once(&deep);
    let warning = agent.line(PATIENCE, |line| line.contains("cannot ask this agent")).expect("a warning");
    assert!(warning.contains("107 bytes") && warning.contains("paths.data"), "{warning}");
    assert_eq!(agent.finish(PATIENCE).status.code(), Some(0));
    assert!(json(&status(&deep), 1)["process"].is_null());
}

fn agent_once(dir: &Path) -> Program {
    Program::start("run", &mut miner(dir, &["run", "--once"]), dir)
}
