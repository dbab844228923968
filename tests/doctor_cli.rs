//! `doctor` of the real binary: on the embedded network, and with something broken.

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use sn17_miner::wallet::HotkeyPair;
use support::agent::Agent;
use support::program::Program;
use tokio::net::TcpSocket;

const PATIENCE: Duration = Duration::from_secs(60);

fn miner(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sn17-miner"));
    command.args(args).current_dir(dir).env_clear().env("HOME", dir).env("XDG_RUNTIME_DIR", dir);
    command
}

fn doctor(dir: &Path, args: &[&str]) -> Output {
    miner(dir, &[&["doctor", "--json"], args].concat()).output().unwrap()
}

#[track_caller]
fn report(output: &Output, code: i32) -> Value {
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}{error}");
    serde_json::from_str(&out).unwrap()
}

/// Verdict, message and advice of the checks of this kind.
fn checks<'a>(report: &'a Value, kind: &str) -> Vec<&'a Value> {
    report["checks"].as_array().unwrap().iter().filter(|check| check["check"] == kind).collect()
}

/// The one check of this kind that is about `subject`.
#[track_caller]
fn check<'a>(report: &'a Value, kind: &str, subject: &str) -> &'a Value {
    let found = checks(report, kind);
    let about = |check: &&&Value| check["subject"].as_str().is_some_and(|text| text.contains(subject));
    found.iter().find(about).unwrap_or_else(|| panic!("{kind} of {subject} in {report:#}"))
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// An address where connections are refused: bound, so that nobody else gets it, and not listening.
struct Dead {
    address: SocketAddr,
    _socket: TcpSocket,
}

fn dead() -> Dead {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    Dead { address: socket.local_addr().unwrap(), _socket: socket }
}

#[test]
fn on_the_embedded_network_everything_passes() {
    let dir = tempfile::tempdir().unwrap();
    let report = report(&doctor(dir.path(), &[]), 0);
    assert_eq!(keys(&report), ["checks", "embedded", "network", "verdict"]);
    assert_eq!(report["embedded"], true);
    assert_eq!(report["verdict"], "pass", "{report:#}");
    let all = report["checks"].as_array().unwrap();
    for check in all {
        assert_eq!(
            keys(check),
            ["advice", "ahead_ms", "check", "latency_ms", "message", "subject", "verdict"],
            "{check}"
        );
        assert_eq!(check["verdict"], "pass", "{check}");
    }
    let order: Vec<_> = all.iter().map(|check| check["check"].as_str().unwrap()).collect();
    assert_eq!(
        order,
        [
            "config",
            "wallet",
            "spz",
            "signature",
            "disk",
            "agent",
            "endpoint",
            "registration",
            "validator",
            "validator",
            "validator",
            "clock",
            "generator",
            "scorer"
        ]
    );
    let registration = checks(&report, "registration")[0];
    assert_eq!(registration["subject"], HotkeyPair::dev("miner").hotkey().to_ss58());
    assert!(registration["message"].as_str().unwrap().contains("uid 3"));
    let ahead: Vec<i64> = serde_json::from_value(checks(&report, "clock")[0]["ahead_ms"].clone()).unwrap();
    assert!(ahead[0] <= 0 && 0 <= ahead[1], "one clock is ahead of itself by {ahead:?}");
    assert!(checks(&report, "scorer")[0]["message"].as_str().unwrap().contains("2.4.0"));

    let table = miner(dir.path(), &["doctor"]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.starts_with("Checked against an embedded development network"), "{table}");
    assert!(table.contains("14 passed, 0 warned, 0 failed"), "{table}");
}

#[tokio::test]
async fn what_is_dead_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (generator, scorer, validator) = (dead(), dead(), dead());
    let hotkey = HotkeyPair::dev("validator-0").hotkey().to_ss58();
    let config = format!(
        r#"
[[workers]]
name = "gpu-box"
role = "generator"
url = "http://{}"
dialect = "form"
[[workers]]
name = "judge"
role = "scorer"
url = "http://{}"
[[validators]]
hotkey = "{hotkey}"
address = "{}"
uid = 12
"#,
        generator.address, scorer.address, validator.address
    );
    std::fs::write(dir.path().join("config.toml"), config).unwrap();
    let data = format!("paths.data={}", dir.path().join("data").display());
    let report = report(&doctor(dir.path(), &["--set", &data]), 1);
    assert_eq!((&report["verdict"], &report["embedded"]), (&"fail".into(), &false.into()));
    for (kind, subject) in [("generator", "gpu-box"), ("scorer", "judge"), ("validator", hotkey.as_str())] {
        let check = check(&report, kind, subject);
        assert_eq!(check["verdict"], "fail", "{check}");
        assert!(check["message"].as_str().unwrap().contains("could not connect"), "{check}");
        assert!(check["advice"].is_string(), "{check}");
    }
    // There is no wallet in this directory, and nobody tells the time.
    assert_eq!(check(&report, "wallet", "readable")["verdict"], "fail");
    assert_eq!(checks(&report, "clock")[0]["verdict"], "warn");
    assert!(checks(&report, "config")[0]["message"].as_str().unwrap().contains("paths.data by --set"));
    assert!(!dir.path().join("data").exists(), "looking makes nothing");
}

#[tokio::test]
async fn a_dead_endpoint_fails_alone_and_warns_beside_a_live_one() {
    let agent = Agent::new("doctor-endpoints");
    let dir = agent.folder();
    let served = dir.join("report.json");
    let mut devnet = Program::start(
        "devnet",
        &mut miner(dir, &["devnet", "--fast", "--base-port", "0", "--report", served.to_str().unwrap()]),
        dir,
    );
    let line = devnet.line(PATIENCE, |_| true).expect("the network starts");
    let network: Value = serde_json::from_str(&line).unwrap();
    let (live, dead) = (network["chain"].as_str().unwrap(), dead());
    let dead = format!("ws://{}", dead.address);
    let wallets = dir.join("wallets");
    let wallet = ["--wallet.path", wallets.to_str().unwrap(), "--wallet.name", "test"];
    let hotkey = ["--wallet.hotkey", "throwaway", "--set", "network.allow_private_axons=true"];
    let with = |endpoints: &str| {
        let endpoints = format!("network.endpoints={endpoints}");
        let arguments = [&wallet[..], &hotkey, &["--set", &endpoints]].concat();
        report(&doctor(dir, &arguments), 1)
    };

    let alone = with(&format!("[\"{dead}\"]"));
    assert_eq!(check(&alone, "endpoint", &dead)["verdict"], "fail");
    let registration = checks(&alone, "registration")[0];
    assert_eq!(registration["verdict"], "fail");
    assert!(registration["message"].as_str().unwrap().contains("not known"), "{registration}");

    let beside = with(&format!("[\"{dead}\", \"{live}\"]"));
    assert_eq!(check(&beside, "endpoint", &dead)["verdict"], "warn");
    assert_eq!(check(&beside, "endpoint", live)["verdict"], "pass");
    // The chain is read, and does not know this key.
    let registration = check(&beside, "registration", &agent.hotkey().to_ss58());
    assert_eq!(registration["verdict"], "fail");
    let advice = registration["advice"].as_str().unwrap();
    assert!(advice.starts_with("btcli subnet register --netuid 17 --wallet.name test"), "{advice}");
    let validators = checks(&beside, "validator");
    assert_eq!(validators.len(), 3);
    assert!(validators.iter().all(|check| check["verdict"] == "pass"), "{validators:?}");
    assert_eq!(checks(&beside, "clock")[0]["verdict"], "pass");
    for kind in ["lock", "wallet"] {
        assert!(checks(&beside, kind).iter().all(|check| check["verdict"] == "pass"), "{beside:#}");
    }

    devnet.terminate();
    assert_eq!(devnet.finish(PATIENCE).status.code(), Some(0));
    let seen: Value = serde_json::from_slice(&std::fs::read(served).unwrap()).unwrap();
    for validator in seen["validators"].as_array().unwrap() {
        assert_eq!(validator["events"], serde_json::json!({}), "{validator}");
    }
}

#[test]
fn a_running_agent_and_its_locks_are_seen() {
    let dir = tempfile::tempdir().unwrap();
    let data = format!("paths.data={}", dir.path().join("data").display());
    let mut agent = Program::start("run", &mut miner(dir.path(), &["run", "--set", &data]), dir.path());
    agent.line(PATIENCE, |line| line.contains("Feedback from")).expect("it mines");
    let seen = report(&doctor(dir.path(), &["--set", &data]), 0);
    assert!(checks(&seen, "agent")[0]["message"].as_str().unwrap().starts_with("running as process"));
    assert_eq!(check(&seen, "lock", "data directory")["message"], "held by the running agent");
    agent.terminate();
    assert_eq!(agent.finish(PATIENCE).status.code(), Some(0));
    let seen = report(&doctor(dir.path(), &["--set", &data]), 0);
    assert_eq!(checks(&seen, "agent")[0]["message"], "not running");
    assert_eq!(check(&seen, "lock", "data directory")["message"], "free");
}
