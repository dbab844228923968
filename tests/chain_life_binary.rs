//! The real binary through the life of a chain: over sockets, by the wall clock.

mod support;

use std::path::Path;
use std::time::Duration;

use sn17_miner::clock::Clock;
use sn17_miner::devnet::chain::{DevChain, Layout, Neuron};
use sn17_miner::devnet::network::{Devnet, NetworkSettings, Served};
use sn17_miner::devnet::rules::ValidatorRules;
use sn17_miner::primitives::{Coldkey, Uid};
use support::agent::Agent;
use support::program::Program;
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(60);

fn configure(folder: &Path, served: &Served) {
    let text = format!(
        r#"
[network]
name = "devnet"
endpoints = ["{node}"]
sync_interval = "1s"
allow_private_axons = true
[wallet]
path = "{folder}/wallets"
name = "test"
hotkeys = ["throwaway"]
[paths]
data = "{folder}/data"
[rules]
cooldown = "2s"
lock = "1s"
[[workers]]
name = "main"
role = "generator"
url = "http://{generator}"
[[workers]]
name = "judge"
role = "scorer"
url = "http://{scorer}"
"#,
        node = served.node_url().unwrap(),
        folder = folder.display(),
        generator = served.generator,
        scorer = served.scorer,
    );
    std::fs::write(folder.join("config.toml"), text).unwrap();
}

/// Puts what was changed into a block, and that block behind finality.
fn finalize(chain: &DevChain) {
    for _ in 0..3 {
        chain.produce_block();
    }
}

/// The next line with all of these in it.
#[track_caller]
fn wait_for(program: &mut Program, parts: &[&str]) -> String {
    let found = program.line(PATIENCE, |line| parts.iter().all(|part| line.contains(part)));
    found.unwrap_or_else(|| panic!("it ended without {parts:?}"))
}

#[test]
fn a_run_outlives_an_outage_an_upgrade_and_a_lost_registration() {
    let runtime = Runtime::new().unwrap();
    let agent = Agent::new("chain-life");
    let miner = agent.hotkey();
    let settings = NetworkSettings {
        validators: 2,
        rules: ValidatorRules {
            cooldown: Duration::from_secs(2),
            throttle: Duration::ZERO,
            lock: Duration::from_secs(1),
            ..ValidatorRules::fast()
        },
        scoring: Duration::ZERO,
        image_share: 0.2,
        seed: 17,
        base_port: 0,
        miners: vec![miner],
        freeze_blocks: false,
    };
    let net = Devnet::new(&settings, Clock::system());
    let served = runtime.block_on(net.serve()).unwrap();
    let chain = served.chain.clone().unwrap();
    configure(agent.folder(), &served);
    let count = |name: &str| -> u64 {
        net.axons.iter().map(|axon| axon.ledger(|ledger| ledger.chronicle().count(name))).sum()
    };

    let mut program = agent.run(&["--tasks", "25"]);
    wait_for(&mut program, &["This hotkey is registered on the subnet", "uid=2"]);
    wait_for(&mut program, &["Feedback from"]);

    chain.set_reachable(false);
    wait_for(&mut program, &["Cannot read the chain"]);
    for _ in 0..2 {
        wait_for(&mut program, &["Feedback from", "outcome=accepted"]);
    }

    chain.upgrade(Layout::Upgraded);
    finalize(&chain);
    chain.set_reachable(true);
    wait_for(&mut program, &["Synced with the chain", "spec_version=344"]);
    wait_for(&mut program, &["Feedback from", "outcome=accepted"]);

    assert_eq!(chain.deregister(&miner), Some(Uid(2)));
    finalize(&chain);
    let alarm = wait_for(&mut program, &["deregistered", "ERROR"]);
    let register = "btcli subnet register --netuid 17 --wallet.name test --wallet.hotkey throwaway --subtensor.network ws://127.0.0.1:";
    assert!(alarm.contains(register) && alarm.contains("alarm=") && alarm.contains("uid=2"), "{alarm}");
    // The alarm is raised between two tasks: nothing is in flight.
    let stopped = count("assigned");
    for axon in &net.axons {
        axon.ledger(|ledger| ledger.deregister(&miner));
    }
    let syncs = chain.requests("SubnetInfoRuntimeApi_get_selective_metagraph");
    let look_again = async {
        while chain.requests("SubnetInfoRuntimeApi_get_selective_metagraph") < syncs + 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, look_again).await }).unwrap();
    assert_eq!((count("assigned"), count("pull_refused")), (stopped, 0));

    let block = chain.head().number + 1;
    let uid = chain.register(Neuron::miner(miner, Coldkey::from_bytes([7; 32]), block));
    for axon in &net.axons {
        axon.register(uid, miner);
    }
    finalize(&chain);
    wait_for(&mut program, &["This hotkey is registered on the subnet", "uid=3"]);

    let ended = program.finish(PATIENCE);
    assert!(ended.status.success(), "{}", ended.status);
    let lines = |part: &str| ended.lines.iter().filter(|line| line.contains(part)).count();
    assert_eq!(lines("Feedback from"), 25);
    assert_eq!(lines("deregistered"), 1);
    assert_eq!(count("assigned"), 25);
    assert_eq!(count("accepted") + count("empty") + count("low"), 25);
    for axon in &net.axons {
        axon.ledger(|ledger| assert_eq!(ledger.open_tasks().count(), 0));
    }
    for name in ["violation", "wrong_task", "bad_signature", "malformed", "booked_again", "double_guard"] {
        assert_eq!(count(name), 0, "{name}");
    }
    runtime.block_on(served.stop());
}
