//! The hand-off test of the command line against two Python workers: with real tensors and the driver's
//! figures where a GPU and PyTorch are at hand, else by what is declared and what the workers say.

#[allow(dead_code, reason = "each test file uses its own part")]
#[path = "support/program.rs"]
mod program;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use program::Program;
use serde_json::Value;

/// Importing PyTorch and filling 19 GiB takes seconds.
const PATIENCE: Duration = Duration::from_secs(120);

const ROUNDS: &str = "3";

/// Where the tensors are, and what measures them.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Device {
    Cuda,
    Nothing,
}

fn python() -> PathBuf {
    std::env::var_os("SN17_PYTHON")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python"), PathBuf::from)
}

/// An interpreter with PyTorch that sees a GPU: `SN17_TORCH_PYTHON`, else `python3`.
fn torch() -> Option<PathBuf> {
    let python = std::env::var_os("SN17_TORCH_PYTHON").map_or_else(|| "python3".into(), PathBuf::from);
    let look = "import torch, sys; sys.exit(not torch.cuda.is_available())";
    let found = Command::new(&python).args(["-c", look]).output();
    found.is_ok_and(|output| output.status.success()).then_some(python)
}

fn worker(python: &Path, arguments: &[&str], folder: &Path) -> (Program, u64) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/worker.py");
    let mut command = Command::new(python);
    command.arg(script).args(arguments);
    let mut program = Program::start(arguments[1], &mut command, folder);
    let line = program.line(PATIENCE, |line| line.starts_with('{')).expect("it says where it listens");
    let said: Value = serde_json::from_str(&line).unwrap();
    (program, said["port"].as_u64().unwrap())
}

/// Rounds of the reference case: 4.7 and 19.6 GiB on 24.
fn rehearse(python: &Path, device: Device) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let (on, probe) = match device {
        Device::Cuda => ("cuda", "nvml"),
        Device::Nothing => ("none", "ledger"),
    };
    // The driver's context comes on top of the tensors.
    let (_judge, judge) =
        worker(python, &["--role", "scorer", "--resident", "4300", "--device", on], dir.path());
    let (_main, main) =
        worker(python, &["--role", "generator", "--peak", "19500", "--device", on], dir.path());
    let config = format!(
        "[[gpus]]\nlimit = \"24576MiB\"\nprobe = \"{probe}\"\n\
         [[workers]]\nname = \"main\"\nrole = \"generator\"\nurl = \"http://127.0.0.1:{main}\"\ndialect = \"form\"\n\
         kinds = [\"text\"]\nmemory = \"none\"\nresident = \"500MiB\"\npeak = \"20070MiB\"\n\
         [[workers]]\nname = \"judge\"\nrole = \"scorer\"\nurl = \"http://127.0.0.1:{judge}\"\n\
         memory = \"three-gen\"\nresident = \"4813MiB\"\npeak = \"4813MiB\"\n"
    );
    std::fs::write(dir.path().join("config.toml"), config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sn17-miner"));
    command.args(["workers", "handoff-test", "-n", ROUNDS, "--json"]).current_dir(dir.path());
    let output = command.env("XDG_RUNTIME_DIR", dir.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", String::from_utf8_lossy(&output.stdout));
    let order: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rounds = order["rounds"].as_array().unwrap();
    assert_eq!(rounds.len().to_string(), ROUNDS);
    for round in rounds {
        assert_eq!(round["swapped"], true, "{round}");
        assert_eq!(round["score"].as_f64(), Some(0.8), "{round}");
    }
    order
}

#[test]
fn strangers_verbs_are_understood() {
    let python = python();
    if !python.exists() {
        let missing = format!("{} is no Python: run scripts/python.sh", python.display());
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}, and CI=true allows no skipping");
        eprintln!("skipped: {missing}");
        return;
    }
    rehearse(&python, Device::Nothing);
}

#[test]
fn real_tensors_take_turns_on_a_real_card() {
    let Some(python) = torch() else {
        eprintln!("skipped: no PyTorch that sees a GPU (SN17_TORCH_PYTHON names its interpreter)");
        return;
    };
    let order = rehearse(&python, Device::Cuda);
    for round in order["rounds"].as_array().unwrap() {
        let time = |key: &str| round[key].as_f64().unwrap();
        println!(
            "RESULT round {}: out and proven {:.3} s, generation {:.3} s, back, canary and score {:.3} s, least free {} MiB",
            round["number"],
            time("unload_s"),
            time("generate_s"),
            time("score_s"),
            round["least_free_mib"]
        );
    }
}
