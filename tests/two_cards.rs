//! Two cards, on each a generator and a scorer that do not fit together: tasks go to both, each moves its
//! own workers, and nobody runs out of memory.

#[path = "support/dev_workers.rs"]
mod dev_workers;
#[allow(dead_code, reason = "each test file uses its own part")]
#[path = "support/program.rs"]
mod program;

use std::fmt::Write as _;
use std::process::Command;

use dev_workers::{DevCard, DevProcess, PATIENCE};
use program::Program;
use sn17_miner::devnet::card::What;

/// A card with its two workers, and what the configuration says of them.
fn card(name: &str, config: &mut String) -> (DevCard, Vec<DevProcess>) {
    let card = DevCard::new();
    let times = ["--work-time", "60ms", "--load-time", "10ms", "--unload-time", "10ms"];
    let worker = |dialect: &str, own: &[&str]| card.worker(dialect, &[own, &times].concat());
    let (maker, judge) = (format!("maker-{name}"), format!("judge-{name}"));
    let made = worker("form", &["--name", &maker, "--resident", "3000", "--peak", "20070"]);
    let judged = worker("three-gen", &["--name", &judge, "--resident", "4813", "--peak", "4813"]);
    let _ = write!(
        config,
        "[[gpus]]\nuuid = \"GPU-{name}\"\nlimit = \"24576MiB\"\nprobe = \"dialect\"\n\
         [[workers]]\nname = \"{maker}\"\nrole = \"generator\"\nurl = \"http://{}\"\ndialect = \"form\"\n\
         kinds = [\"text\"]\ngpu = \"GPU-{name}\"\nresident = \"3000MiB\"\npeak = \"20070MiB\"\n\
         [[workers]]\nname = \"{judge}\"\nrole = \"scorer\"\nurl = \"http://{}\"\ngpu = \"GPU-{name}\"\n\
         resident = \"4813MiB\"\npeak = \"4813MiB\"\n",
        made.address, judged.address
    );
    (card, vec![made, judged])
}

#[test]
fn each_card_moves_its_own_workers() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = String::from("[decide]\ncandidates = 1\n");
    let (left, _left_workers) = card("left", &mut config);
    let (right, _right_workers) = card("right", &mut config);
    std::fs::write(dir.path().join("config.toml"), config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sn17-miner"));
    command.args(["run", "--tasks", "9"]).current_dir(dir.path()).env_clear();
    command.env("HOME", dir.path()).env("XDG_RUNTIME_DIR", dir.path());
    for set in ["validators=6", "cooldown=2s", "throttle=0s", "lock=1s", "image_share=0.0"] {
        command.args(["--set", &format!("devnet.{set}")]);
    }
    let agent = Program::start("run", &mut command, dir.path());
    let ended = agent.finish(PATIENCE);
    assert_eq!(ended.status.code(), Some(0), "{:#?}", ended.lines);
    let accepted = |line: &&String| line.contains("outcome=accepted");
    assert!(ended.lines.iter().filter(accepted).count() >= 9, "{:#?}", ended.lines);
    for (name, card) in [("left", &left), ("right", &right)] {
        let asked = |what: &str| {
            let is = |asked: &What| *asked == What::Asked(what.to_owned());
            card.events().iter().filter(|event| is(&event.what)).count()
        };
        assert!(asked("POST /generate/") >= 2, "{name}: {:#?}", ended.lines);
        assert!(asked("POST /unload_models/") >= 1 && asked("POST /reload_models/") >= 1, "{name}");
        assert_eq!(card.state().refused, 0, "{name}: {:?}", card.events());
        // Whoever left is back at the end.
        let back = card.state().held_by(&format!("judge-{name}"));
        assert_eq!(back.map(|held| held.0), Some(4_813), "{name}");
    }
}
