//! A small chain, and its answers taken apart.

#![allow(dead_code, reason = "each test file uses its own part")]

use serde_json::{Value, json};
use sn17_miner::clock::Clock;
use sn17_miner::devnet::chain::{BlockHash, DevChain, DevChainSettings, Header, Neuron, Subnet};
use sn17_miner::primitives::{Coldkey, Hotkey, Netuid, Rao, UnixTime};
use sn17_miner::wallet::HotkeyPair;

pub const FIRST_BLOCK: u32 = 1_000_000;

pub fn hotkey(name: &str) -> Hotkey {
    *HotkeyPair::dev(name).hotkey()
}

pub fn coldkey(name: &str) -> Coldkey {
    Coldkey::from_bytes(*hotkey(name).as_bytes())
}

pub fn miner(name: &str) -> Neuron {
    Neuron::miner(hotkey(name), coldkey(name), 900_000)
}

pub fn subnet() -> Subnet {
    let mut subnet = Subnet::new(Netuid(17), hotkey("owner"), coldkey("owner"));
    let axon = "127.0.0.1:17002".parse().unwrap();
    subnet.neurons = vec![
        Neuron::validator(hotkey("validator"), coldkey("validator"), axon, Rao(2_000_000_000_000), 900_000),
        miner("miner"),
    ];
    subnet
}

pub fn clock() -> Clock {
    Clock::starting_at(UnixTime::from_secs(1_763_600_000))
}

pub fn chain() -> DevChain {
    DevChain::new(DevChainSettings::new(subnet()), clock())
}

pub fn hex(bytes: &[u8]) -> String {
    format!("0x{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

pub fn bytes(value: &Value) -> Vec<u8> {
    let digits = value.as_str().unwrap_or_else(|| panic!("{value}")).strip_prefix("0x").unwrap();
    let digits: Vec<_> = digits.as_bytes().chunks(2).collect();
    digits.iter().map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

pub fn runtime_call(chain: &DevChain, call: &str, input: &[u8]) -> Vec<u8> {
    bytes(&chain.call("state_call", &json!([call, hex(input)])).unwrap())
}

pub fn header(json: &Value) -> Header {
    let hash = |key: &str| bytes(&json[key]).try_into().unwrap();
    let number = json["number"].as_str().unwrap();
    Header {
        parent: BlockHash(hash("parentHash")),
        number: u32::from_str_radix(number.strip_prefix("0x").unwrap(), 16).unwrap(),
        state_root: hash("stateRoot"),
        extrinsics_root: hash("extrinsicsRoot"),
        digest: json["digest"]["logs"].as_array().unwrap().iter().map(bytes).collect(),
    }
}
