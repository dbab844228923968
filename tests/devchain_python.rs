//! The real Python SDK 9.9.0 reads `DevChain`, and must see what it holds.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use sn17_miner::clock::Clock;
use sn17_miner::devnet::chain::{AxonEntry, DevChain, DevChainSettings, Layout, Neuron, Subnet};
use sn17_miner::primitives::{Coldkey, Hotkey, Netuid, Rao};
use sn17_miner::wallet::HotkeyPair;
use support::peers::{Peers, report};
use tokio::net::TcpListener;

/// Importing bittensor and reading the chain takes seconds, on a busy machine many.
const RUN: Duration = Duration::from_secs(120);

const FIRST_BLOCK: u32 = 4_321_000;

fn hotkey(name: &str) -> Hotkey {
    *HotkeyPair::dev(name).hotkey()
}

fn coldkey(name: &str) -> Coldkey {
    Coldkey::from_bytes(*hotkey(name).as_bytes())
}

/// Validators and miners of every kind: IPv4, IPv6, never served, stake with and without TAO.
fn subnet() -> Subnet {
    let mut subnet = Subnet::new(Netuid(17), hotkey("owner"), coldkey("owner"));
    subnet.immunity_period = 7_200;
    let validator = |name: &str, address: &str, stake| {
        let block = u64::from(FIRST_BLOCK) - 1_000;
        Neuron::validator(hotkey(name), coldkey("keeper"), address.parse().unwrap(), Rao(stake), block)
    };
    subnet.neurons = vec![
        Neuron {
            tao_stake: Rao(5_000_000_000_000),
            ..validator("v0", "127.0.0.1:17002", 58_036_810_000_000)
        },
        validator("v1", "192.222.59.109:8091", 1_000_000_000),
        validator("v2", "[2001:db8::17]:65535", 999_999_999),
        Neuron {
            incentive: 4_660,
            emission: Rao(148_012_345_678),
            active: true,
            last_update: 4_320_001,
            ..Neuron::miner(hotkey("miner"), coldkey("miner-cold"), 4_310_000)
        },
        Neuron {
            axon: Some(AxonEntry::serving("10.1.2.3:1".parse().unwrap(), 7)),
            ..Neuron::miner(hotkey("other"), coldkey("other-cold"), u64::from(FIRST_BLOCK))
        },
    ];
    subnet
}

fn settings() -> DevChainSettings {
    DevChainSettings { first_block: FIRST_BLOCK, frozen: true, ..DevChainSettings::new(subnet()) }
}

/// What the SDK reads of `chain`, so many times over.
async fn read(peers: &Peers, chain: &DevChain, asked: &[Hotkey], times: u32) -> Vec<Value> {
    let server = chain.serve(TcpListener::bind("127.0.0.1:0").await.unwrap()).unwrap();
    let mut arguments = vec!["--url".to_owned(), server.url(), "--times".to_owned(), times.to_string()];
    for hotkey in asked {
        arguments.extend(["--hotkey".to_owned(), hotkey.to_ss58()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let program = peers.run("chain.py", &arguments);
    let ended = tokio::task::spawn_blocking(move || report(program, RUN)).await;
    server.stop().await;
    let (content, mut report) = ended.unwrap();
    assert!(content, "{report}");
    assert_eq!(report["network"], "local");
    serde_json::from_value(report["reads"].take()).unwrap()
}

/// The metagraph as `chain.py` reports it, if the SDK read `subnet` at `block`.
fn metagraph(subnet: &Subnet, block: u64) -> Value {
    let list = |of: &dyn Fn(&Neuron) -> Value| Value::Array(subnet.neurons.iter().map(of).collect());
    // The SDK shows stake and shares as float32.
    let tokens = |rao: Rao| json!(f64::from((rao.0 as f64 / 1e9) as f32));
    let share = |part: u16| json!(f64::from((f64::from(part) / 65_535.0) as f32));
    let axon = |neuron: &Neuron| {
        let serving = neuron.axon.map(|axon| (axon.address().ip().to_string(), axon));
        match serving {
            Some((ip, AxonEntry { port, ip_type, version, .. })) => {
                json!({"ip": ip, "port": port, "ip_type": ip_type, "version": version, "hotkey": neuron.hotkey})
            }
            None => {
                json!({"ip": "0.0.0.0", "port": 0, "ip_type": 0, "version": 0, "hotkey": neuron.hotkey})
            }
        }
    };
    json!({
        "block": block,
        "n": subnet.neurons.len(),
        "name": subnet.name,
        "symbol": subnet.symbol,
        "hotkeys": list(&|neuron| json!(neuron.hotkey)),
        "coldkeys": list(&|neuron| json!(neuron.coldkey)),
        "axons": list(&axon),
        "serving": list(&|neuron| json!(neuron.axon.is_some())),
        "S": list(&|neuron| tokens(neuron.total_stake)),
        "alpha_stake": list(&|neuron| tokens(neuron.alpha_stake)),
        "permit": list(&|neuron| json!(neuron.validator_permit)),
        "active": list(&|neuron| json!(neuron.active)),
        "incentive": list(&|neuron| share(neuron.incentive)),
        "emission": list(&|neuron| tokens(neuron.emission)),
        "last_update": list(&|neuron| json!(neuron.last_update)),
        "block_at_registration": list(&|neuron| json!(neuron.block_at_registration)),
        "owner_hotkey": subnet.owner_hotkey,
        "immunity_period": subnet.immunity_period,
        "selected": {
            "block": block,
            "num_uids": subnet.neurons.len(),
            "immunity_period": subnet.immunity_period,
            "owner_hotkey": subnet.owner_hotkey,
            "hotkeys": list(&|neuron| json!(neuron.hotkey)),
            "block_at_registration": list(&|neuron| json!(neuron.block_at_registration)),
            "total_stake_rao": list(&|neuron| json!(neuron.total_stake)),
            "unasked": null,
        },
        "current_block": block,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_sdk_sees_what_the_chain_holds() {
    let Some(peers) = Peers::find() else { return };
    let chain = DevChain::new(settings(), Clock::system());
    let asked = [hotkey("miner"), hotkey("stranger"), hotkey("v0")];
    let reads = read(&peers, &chain, &asked, 2).await;
    assert_eq!(reads.len(), 2);
    for seen in &reads {
        assert_eq!(seen["registered"], json!([true, false, true]));
        assert_eq!(seen["uids"], json!([3, null, 0]));
        assert_eq!(seen["spec_version"], 343);
        assert_eq!(seen["metagraph"], metagraph(&chain.subnet(), FIRST_BLOCK.into()));
    }

    // The comparison is worth something: a neuron that differs in anything is noticed.
    let changes: [fn(&mut Neuron); 7] = [
        |neuron| neuron.hotkey = hotkey("stranger"),
        |neuron| neuron.coldkey = coldkey("stranger"),
        |neuron| neuron.axon.as_mut().unwrap().port += 1,
        |neuron| neuron.axon.as_mut().unwrap().ip += 1,
        |neuron| neuron.total_stake.0 += 1,
        |neuron| neuron.validator_permit = false,
        |neuron| neuron.last_update += 1,
    ];
    for change in changes {
        let mut subnet = subnet();
        change(&mut subnet.neurons[1]);
        assert_ne!(reads[0]["metagraph"], metagraph(&subnet, FIRST_BLOCK.into()));
    }
    assert_ne!(reads[0]["metagraph"], metagraph(&subnet(), u64::from(FIRST_BLOCK) + 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_sdk_follows_a_deregistration_and_an_upgrade() {
    let Some(peers) = Peers::find() else { return };
    let chain = DevChain::new(settings(), Clock::system());
    let miner = hotkey("miner");
    assert_eq!(chain.deregister(&miner).unwrap().0, 3);
    let neuron = Neuron::miner(miner, coldkey("miner-cold"), u64::from(FIRST_BLOCK) + 1);
    assert_eq!(chain.register(neuron).0, 5);
    chain.upgrade(Layout::Upgraded);
    chain.produce_block();
    // The SDK takes the metadata of the head's parent.
    let head = chain.produce_block();

    let reads = read(&peers, &chain, &[miner], 1).await;
    assert_eq!(reads[0]["uids"], json!([5]));
    assert_eq!(reads[0]["spec_version"], 344);
    assert_ne!(chain.subnet().neurons[3].hotkey, miner);
    assert_eq!(reads[0]["metagraph"], metagraph(&chain.subnet(), head.number));
}
