//! `sn17-miner devnet`: the real binary's network, read by the real Python SDK 9.9.0.

mod support;

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use sn17_miner::wallet::HotkeyPair;
use support::peers::{Peers, report};
use support::program::Program;

/// Importing bittensor and reading the chain takes seconds, on a busy machine many.
const RUN: Duration = Duration::from_secs(120);

#[test]
fn the_sdk_reads_the_chain_of_the_devnet_command() {
    let Some(peers) = Peers::find() else { return };
    let home = tempfile::tempdir().unwrap();
    let mut devnet = Program::start(
        "devnet",
        Command::new(env!("CARGO_BIN_EXE_sn17-miner"))
            .args(["devnet", "--freeze-blocks", "--base-port", "0"])
            .current_dir(home.path())
            .env_clear()
            .env("HOME", home.path()),
        home.path(),
    );
    let line = devnet.line(RUN, |line| line.starts_with('{')).expect("it describes itself");
    let described: Value = serde_json::from_str(&line).unwrap();

    let miner = HotkeyPair::dev("miner").hotkey().to_ss58();
    let url = described["chain"].as_str().unwrap();
    let read = peers.run("chain.py", &["--url", url, "--times", "1", "--hotkey", &miner]);
    let (content, report) = report(read, RUN);
    assert!(content, "{report}");
    let seen = &report["reads"][0];
    assert_eq!(seen["registered"], json!([true]));
    assert_eq!(seen["uids"], json!([3]));

    let metagraph = &seen["metagraph"];
    let validators = described["validators"].as_array().unwrap();
    assert_eq!((validators.len(), &metagraph["n"]), (3, &json!(4)));
    for (uid, validator) in validators.iter().enumerate() {
        assert_eq!(metagraph["hotkeys"][uid], validator["hotkey"]);
        let axon = &metagraph["axons"][uid];
        let address = format!("{}:{}", axon["ip"].as_str().unwrap(), axon["port"]);
        assert_eq!(address, validator["address"].as_str().unwrap());
        assert!(metagraph["S"][uid].as_f64().unwrap() >= 1_000.0, "{metagraph}");
    }
    assert_eq!(metagraph["hotkeys"][3], json!(miner));
    devnet.terminate();
    assert_eq!(devnet.finish(RUN).status.code(), Some(0));
}
