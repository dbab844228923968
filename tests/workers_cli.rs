//! `workers` of the real binary, beside a running agent and without one, and the orders it gives through
//! the agent's socket.

#[path = "support/dev_workers.rs"]
mod dev_workers;
#[path = "support/nvml.rs"]
mod nvml;
#[path = "support/program.rs"]
mod program;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use dev_workers::{DevCard, DevProcess, UUID};
use nvml::StandIn;
use program::{Program, miner};
use serde_json::Value;
use sn17_miner::api::{WorkersStatus, socket_path};
use sn17_miner::app::card_lock_name;
use sn17_miner::devnet::card::{CardState, Event, What};
use sn17_miner::primitives::{CardId, MiB};
use sn17_miner::store::ProcessLock;

const PATIENCE: Duration = Duration::from_secs(60);

fn workers(dir: &Path, args: &[&str]) -> Output {
    let mut all = vec!["workers"];
    all.extend(args);
    miner(dir, &all).output().unwrap()
}

fn agent(dir: &Path) -> Program {
    let mut agent = Program::start("run", &mut miner(dir, &["run"]), dir);
    agent.line(PATIENCE, |line| line.contains("Feedback from")).expect("the agent mines");
    agent
}

#[track_caller]
fn json(output: &Output, code: i32) -> Value {
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn assert_embedded_workers(status: &Value) {
    let read: WorkersStatus = serde_json::from_value(status.clone()).unwrap();
    let names: Vec<_> = read.cards[0].workers.iter().map(|worker| worker.worker.as_str()).collect();
    assert_eq!(names, ["main", "judge"]);
    assert!(read.cards[0].workers.iter().all(|worker| worker.state == "unmanaged"));
    assert!(read.cards[0].memory.is_none());
}

#[test]
fn a_running_agent_shows_its_workers_and_tests_the_hand_off() {
    let dir = tempfile::tempdir().unwrap();
    let running = agent(dir.path());
    assert_embedded_workers(&json(&workers(dir.path(), &["ps", "--json"]), 0));
    let test = json(&workers(dir.path(), &["handoff-test", "-n", "2", "--json"]), 0);
    assert_eq!(test["state"]["state"], "done");
    let rounds = test["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 2);
    for round in rounds {
        assert!(round["score"].as_f64().unwrap() > 0.6 && round["generate_s"].as_f64().unwrap() > 0.0);
        assert_eq!(round["swapped"], false);
    }
    // It was the agent that did it: its log tells of the generations.
    running.terminate();
    let ended = running.finish(PATIENCE);
    assert_eq!(ended.status.code(), Some(0));
    let made = |line: &&String| line.contains("Acquired generation lock");
    let booked = |line: &&String| line.contains("Feedback from");
    assert!(ended.lines.iter().filter(made).count() >= ended.lines.iter().filter(booked).count() + 2);
}

#[test]
fn without_an_agent_the_card_is_taken_for_as_long_as_it_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    assert_embedded_workers(&json(&workers(dir.path(), &["report", "--json"]), 0));
    let test = workers(dir.path(), &["handoff-test"]);
    assert_eq!(test.status.code(), Some(0), "{}", said(&test.stderr));
    let table = said(&test.stdout);
    assert!(table.contains("nothing had to be moved") && table.contains("passed: 1 rounds of 1"), "{table}");
    let health = json(&workers(dir.path(), &["health", "--json"]), 0);
    assert_eq!((health[0]["worker"].as_str(), health[1]["available"].as_bool()), (Some("main"), Some(true)));
}

#[test]
fn what_cannot_be_done_is_said_with_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let running = agent(dir.path());
    for args in [["unload", "flux"], ["restart", "judge"]] {
        let output = workers(dir.path(), &args);
        assert_eq!(output.status.code(), Some(1));
        let said = said(&output.stderr);
        assert!(said.contains(&format!("no worker {} here", args[1])), "{said}");
    }
    assert_eq!(workers(dir.path(), &["handoff-test", "-n", "0"]).status.code(), Some(2));
    assert_eq!(workers(dir.path(), &["health", "flux"]).status.code(), Some(1));
    drop(running);
}

/// One request as it stands, and the status of the answer.
fn ask(dir: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(socket_path(&dir.join("data"))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _cut_off = stream.read_to_end(&mut answer);
    said(&answer).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn orders_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let running = agent(dir.path());
    let post = |body: &str| {
        let length = body.len();
        ask(
            dir.path(),
            &format!(
                "POST /v1/orders HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
            ),
        )
    };
    for (body, status) in [
        ("{", "400"),
        (r#"{"what":"explode"}"#, "422"),
        (r#"{"what":"unload","worker":"judge","force":true}"#, "422"),
        (r#"{"what":"handoff-test","rounds":0}"#, "409"),
        (r#"{"what":"handoff-test","rounds":4000000000}"#, "409"),
        (r#"{"what":"handoff-test","rounds":-1}"#, "422"),
        (&format!(r#"{{"what":"unload","worker":"{}"}}"#, "x".repeat(8_000)), "413"),
    ] {
        let answer = post(body);
        assert!(answer.contains(status), "{answer} to {}", &body[..body.len().min(60)]);
    }
    let unknown = ask(dir.path(), "GET /v1/orders/77 HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(unknown.contains("404"), "{unknown}");
    assert_embedded_workers(&json(&workers(dir.path(), &["ps", "--json"]), 0));
    drop(running);
}

/// A card on which two workers do not fit together.
struct Shared {
    card: DevCard,
    _main: DevProcess,
    _judge: DevProcess,
}

impl Shared {
    /// The workers run, and `dir/config.toml` names them.
    fn open(dir: &Path) -> Self {
        Self::with(dir, &["--work-time", "20ms"])
    }

    fn with(dir: &Path, more: &[&str]) -> Self {
        let card = DevCard::new();
        let times = ["--load-time", "10ms"];
        let worker = |dialect: &str, own: &[&str]| card.worker(dialect, &[own, &times, more].concat());
        let main = worker("form", &["--name", "main", "--resident", "3000", "--peak", "20070"]);
        let judge = worker("three-gen", &["--name", "judge", "--resident", "4813", "--peak", "4813"]);
        let config = format!(
            "[[gpus]]\nuuid = \"auto\"\nlimit = \"24576MiB\"\nprobe = \"dialect\"\n\
             [[workers]]\nname = \"main\"\nrole = \"generator\"\nurl = \"http://{}\"\ndialect = \"form\"\n\
             memory = \"none\"\nresident = \"3000MiB\"\npeak = \"20070MiB\"\n\
             [[workers]]\nname = \"judge\"\nrole = \"scorer\"\nurl = \"http://{}\"\nmemory = \"three-gen\"\n\
             resident = \"4813MiB\"\npeak = \"4813MiB\"\nresidency = \"preferred\"\n",
            main.address, judge.address
        );
        std::fs::write(dir.join("config.toml"), config).unwrap();
        Self { card, _main: main, _judge: judge }
    }

    fn held(&self, name: &str) -> MiB {
        self.card.state().held_by(name).unwrap_or_default()
    }

    #[track_caller]
    fn assert_sound(&self) {
        assert_eq!(self.card.state().refused, 0, "nobody was refused memory: {:?}", self.card.events());
    }
}

#[test]
fn workers_of_a_shared_card_are_moved_and_tested_by_the_command_itself() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::open(dir.path());
    let report = said(&workers(dir.path(), &["report"]).stdout);
    assert!(report.contains("they do not fit at once and take turns"), "{report}");

    let unloaded = workers(dir.path(), &["unload", "judge"]);
    assert_eq!(unloaded.status.code(), Some(0), "{}", said(&unloaded.stderr));
    // It was meant to, so it stays so.
    assert!(shared.held("judge") < MiB(1_000));
    let loaded = workers(dir.path(), &["load", "judge"]);
    assert_eq!(loaded.status.code(), Some(0), "{}", said(&loaded.stderr));
    assert!(said(&loaded.stderr).contains("judge resident"), "{}", said(&loaded.stderr));
    assert_eq!(shared.held("judge"), MiB(4_813));

    let test = json(&workers(dir.path(), &["handoff-test", "-n", "2", "--json"]), 0);
    for round in test["rounds"].as_array().unwrap() {
        assert_eq!((&round["swapped"], round["score"].as_f64() > Some(0.6)), (&true.into(), true), "{round}");
    }
    let health = json(&workers(dir.path(), &["health", "--json"]), 0);
    assert!(health.as_array().unwrap().iter().all(|worker| worker["available"] == true), "{health}");
    for verb in ["start", "stop", "restart"] {
        let nothing = workers(dir.path(), &[verb, "judge"]);
        assert_eq!(nothing.status.code(), Some(1), "it has no process: {}", said(&nothing.stdout));
    }
    assert_eq!(shared.held("judge"), MiB(4_813));
    shared.assert_sound();
}

#[test]
fn a_mining_agent_takes_orders_for_its_card_in_turn() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::open(dir.path());
    let running = agent(dir.path());
    let status: WorkersStatus =
        serde_json::from_value(json(&workers(dir.path(), &["ps", "--json"]), 0)).unwrap();
    let (card, judge) = status.find("judge").unwrap();
    assert_eq!((card.memory.as_ref().unwrap().total_mib, judge.role.as_str()), (MiB(24_576), "scorer"));
    let test = json(&workers(dir.path(), &["handoff-test", "-n", "3", "--json"]), 0);
    assert_eq!(test["rounds"].as_array().unwrap().len(), 3);
    let unloaded = workers(dir.path(), &["unload", "judge"]);
    assert_eq!(unloaded.status.code(), Some(0), "{}", said(&unloaded.stderr));
    // Mining goes on: the next result has it brought back.
    let mut running = running;
    running.line(PATIENCE, |line| line.contains("Feedback from")).expect("it mines on");
    running.terminate();
    assert_eq!(running.finish(PATIENCE).status.code(), Some(0));
    shared.assert_sound();
}

fn at_work(state: &CardState) -> bool {
    state.held_by("main") > Some(MiB(20_000))
}

/// Whoever is interrupted while the card is the generator's brings the scorer back, once the generator
/// has ended.
#[tokio::test]
async fn an_interrupted_command_leaves_nobody_unloaded() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::with(dir.path(), &["--work-time", "5s"]);
    let commands: [&[&str]; 2] = [&["--task", "a red cube"], &["workers", "handoff-test"]];
    for arguments in commands {
        let command = Program::start("command", &mut miner(dir.path(), arguments), dir.path());
        shared.card.until("the generator works", at_work).await;
        assert!(shared.held("judge") < MiB(1_000));
        command.terminate();
        let ended = command.finish(PATIENCE);
        assert_eq!(ended.status.code(), Some(1), "{:?}", ended.lines);
        assert_eq!(shared.held("judge"), MiB(4_813), "{arguments:?}");
    }
    shared.assert_sound();
}

#[tokio::test]
async fn a_second_signal_does_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::with(dir.path(), &["--work-time", "1h"]);
    let command = Program::start("command", &mut miner(dir.path(), &["--task", "a red cube"]), dir.path());
    shared.card.until("the generator works", at_work).await;
    command.terminate();
    let told = async {
        while !command.stderr().contains("again: leaves at once") {
            // Nothing tells of a change of the file.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("it says what a second signal does");
    command.terminate();
    assert_eq!(command.finish(PATIENCE).status.code(), Some(1));
}

fn held(shared: &Shared) -> Vec<Event> {
    let events = shared.card.events().into_iter();
    events.filter(|event| matches!(event.what, What::Holds(_))).collect()
}

#[test]
fn who_only_looks_moves_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::open(dir.path());
    let before = held(&shared);
    for look in [&["ps"][..], &["report"], &["health"], &["cleanup", "main"]] {
        workers(dir.path(), look);
    }
    assert_eq!(held(&shared), before);
}

/// A stop that comes while others are moved out begins no work.
#[tokio::test]
async fn an_interrupted_hand_off_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::with(dir.path(), &["--work-time", "1h", "--unload-time", "1s"]);
    let unloading = || {
        let asked = What::Asked("POST /unload_models/".into());
        shared.card.events().iter().filter(|event| event.what == asked).count()
    };
    for (nth, arguments) in [&["--task", "a red cube"][..], &["workers", "handoff-test"]].iter().enumerate() {
        let command = Program::start("command", &mut miner(dir.path(), arguments), dir.path());
        shared.card.until("the scorer is unloaded", |_| unloading() > nth).await;
        command.terminate();
        let ended = command.finish(PATIENCE);
        assert_eq!(ended.status.code(), Some(1), "{:?}", ended.lines);
        assert_eq!(shared.held("judge"), MiB(4_813), "{arguments:?}");
    }
    let worked = shared.card.events().into_iter().any(|event| event.what == What::Holds(MiB(20_070)));
    assert!(!worked, "nothing was generated");
}

#[test]
fn a_worker_that_only_says_it_unloads_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::with(dir.path(), &["--work-time", "20ms", "--fault", "lies"]);
    let unloaded = workers(dir.path(), &["unload", "judge"]);
    assert_eq!(unloaded.status.code(), Some(1), "{}", said(&unloaded.stdout));
    assert!(said(&unloaded.stdout).contains("in use as before"), "{}", said(&unloaded.stdout));
    let loads = |event: &Event| event.what == What::Asked("POST /reload_models/".into());
    assert!(!shared.card.events().iter().any(loads), "it was to leave");
    assert_eq!(shared.held("judge"), MiB(4_813));
}

#[test]
fn the_least_that_was_free_is_seen_while_the_generator_works() {
    let dir = tempfile::tempdir().unwrap();
    let _shared = Shared::with(dir.path(), &["--work-time", "1s"]);
    let test = json(&workers(dir.path(), &["handoff-test", "--json"]), 0);
    let least = test["rounds"][0]["least_free_mib"].as_u64().unwrap();
    assert_eq!(least, 24_576 - 20_070 - 400, "{test}");
}

/// Each answers where the other is said to be: neither is taken for the other, and what is ordered of one
/// is not done to the other.
#[test]
fn a_worker_at_the_port_of_another_is_told_of_and_told_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::open(dir.path());
    let file = dir.path().join("config.toml");
    let (main, judge) = (shared._main.address.to_string(), shared._judge.address.to_string());
    let swapped = std::fs::read_to_string(&file).unwrap();
    let swapped = swapped.replace(&main, "ELSEWHERE").replace(&judge, &main).replace("ELSEWHERE", &judge);
    let swapped = swapped.replace("\"none\"", "\"auto\"").replace("\"three-gen\"", "\"auto\"");
    std::fs::write(&file, swapped).unwrap();

    let health = json(&workers(dir.path(), &["health", "--json"]), 1);
    for (line, misfit, other) in [(0, "not as a generator", "judge"), (1, "not as a scorer", "main")] {
        assert_eq!(health[line]["available"], false, "{health}");
        let mistake = health[line]["mistake"].as_str().unwrap();
        let swap = format!("it answers where `{other}` is said to be");
        assert!(mistake.contains(misfit) && mistake.ends_with(&swap), "{mistake}");
    }
    let table = workers(dir.path(), &["health", "main"]);
    assert_eq!(table.status.code(), Some(1));
    assert!(said(&table.stdout).contains("MISPLACED    `main` is said to be at"), "{}", said(&table.stdout));

    let unloaded = workers(dir.path(), &["unload", "main"]);
    let told = said(&unloaded.stderr);
    assert_eq!(unloaded.status.code(), Some(1), "{told}");
    assert!(
        told.contains("Another server is there than the worker") && told.contains("worker_down"),
        "{told}"
    );
    assert_eq!(shared.held("judge"), MiB(4_813), "the scorer was unloaded in the name of the generator");
}

/// `auto` and a UUID may be the same card. Whoever has it keeps it, whatever the other calls it.
#[test]
fn a_card_is_locked_by_its_own_name_where_the_driver_tells() {
    let Some(driver) =
        StandIn::new(&format!("card {UUID}\nname Stand-in\ntotal 25769803776\nfree 25769803776\n"))
    else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let _shared = Shared::open(dir.path());
    let card = CardId { host: "localhost".into(), uuid: UUID.into() };
    let runtime = dir.path().join("sn17-miner");
    let held = ProcessLock::take(&runtime, &card_lock_name(&card), "the card").unwrap();
    let ask =
        |args: &[&str]| miner(dir.path(), args).env("LD_LIBRARY_PATH", driver.folder()).output().unwrap();
    let refused = ask(&["workers", "ps"]);
    assert_eq!(refused.status.code(), Some(75), "{}", said(&refused.stdout));
    assert!(said(&refused.stderr).contains(&format!("card {UUID}")), "{}", said(&refused.stderr));
    let lock = |report: &Output| {
        let report: Value = serde_json::from_slice(&report.stdout).unwrap();
        let checks = report["checks"].as_array().unwrap().clone();
        checks.into_iter().find(|check| check["check"] == "lock" && check["subject"] == "card").unwrap()
    };
    let told = lock(&ask(&["doctor", "--json"]));
    assert_eq!(told["verdict"], "warn", "{told}");
    drop(held);
    assert_eq!(ask(&["workers", "ps"]).status.code(), Some(0));
    assert_eq!(lock(&ask(&["doctor", "--json"]))["verdict"], "pass");
}
