//! A subnet with 1,024 uids, as recorded: from the answer's bytes to a `Metagraph` beside bt-decode on
//! the same bytes, and from the request to the object on loopback beside the SDK's `metagraph()` at
//! the same development chain, in the same run.
//!
//! `SN17_PYTHON` names a Python with bt-decode 0.8.0 and bittensor 9.9.0 (`scripts/python.sh`);
//! without it only our own times are shown. Fails where we are less than four times as fast as
//! bt-decode, or twenty times as the SDK.

mod support;

use std::env;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use sn17_miner::chain::{Answers, ChainClient, Metagraph, Place, Reading, Settings, read_metagraph};
use sn17_miner::clock::Clock;
use sn17_miner::devnet::chain::{AxonEntry, DevChain, DevChainSettings, Neuron, Subnet};
use sn17_miner::primitives::{Coldkey, Hotkey, Netuid, Rao, UnixTime};
use subxt::Metadata;
use support::{Times, ratio};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::time::Instant;

const ROUNDS: usize = 100;
const WANTED: f64 = 4.0;

/// Whole reads of the metagraph over loopback.
const READS: usize = 20;
const WANTED_OF_SDK: f64 = 20.0;

const PYTHON: &str = r#"
import json, sys, time
import bt_decode
metadata, recorded, type_id, rounds = sys.argv[1:]
data = open(metadata, "rb").read()
option = b"\x01" + (len(data) << 2 | 2).to_bytes(4, "little") + data
registry = bt_decode.PortableRegistry.from_metadata_v15(bt_decode.MetadataV15.decode_from_metadata_option(option))
answer = bytes.fromhex(json.load(open(recorded))["result"][2:])
times = []
for _ in range(int(rounds)):
    start = time.perf_counter()
    decoded = bt_decode.decode(f"scale_info::{type_id}", registry, answer)
    times.append(time.perf_counter() - start)
assert len(decoded["hotkeys"]) == 1024
print(sorted(times)[len(times) // 2])
"#;

fn main() -> ExitCode {
    let root = env::var_os("SN17_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let metadata_file = root.join("chain/finney_metadata_v15.scale");
    let recorded = root.join("chain/recorded/get_selective_mechagraph.json");
    if !recorded.exists() {
        println!("skipped: {} is missing (set SN17_SHARED)", recorded.display());
        return ExitCode::SUCCESS;
    }
    let metadata = Metadata::decode_from(&fs::read(&metadata_file).unwrap()).unwrap();
    let file: serde_json::Value = serde_json::from_slice(&fs::read(&recorded).unwrap()).unwrap();
    let digits = file["result"].as_str().unwrap().trim_start_matches("0x");
    let bytes: Vec<u8> =
        (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect();
    let place = Place { netuid: Netuid(1), block: 0, at: UnixTime::EPOCH };

    let decoding = decoding(&metadata, &bytes, &metadata_file, &recorded, place);
    let metagraph = read_metagraph(Answers::Mechagraph(&bytes), &metadata, place).unwrap();
    let reading = reading(&metagraph);
    if decoding && reading { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// From bytes to object; false where bt-decode is not slow enough.
fn decoding(metadata: &Metadata, bytes: &[u8], metadata_file: &Path, recorded: &Path, place: Place) -> bool {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            let metagraph = read_metagraph(Answers::Mechagraph(black_box(bytes)), metadata, place);
            assert_eq!(black_box(metagraph).unwrap().len(), 1_024);
            start.elapsed()
        })
        .collect();
    times.sort();
    let ours = times[ROUNDS / 2].as_secs_f64();
    println!("metagraph of {} bytes: {:.2} ms, median of {ROUNDS}", bytes.len(), ours * 1e3);

    let Some(python) = env::var_os("SN17_PYTHON") else {
        println!("bt-decode: not run (set SN17_PYTHON)");
        return true;
    };
    let (api, method) = Reading::Mechagraph.calls()[0];
    let api = metadata.runtime_api_trait_by_name(api).unwrap();
    let type_id = api.method_by_name(method).unwrap().output_ty();
    let output = Command::new(python)
        .args(["-c", PYTHON])
        .args([metadata_file, recorded])
        .args([type_id.to_string(), ROUNDS.to_string()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: f64 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    let ratio = theirs / ours;
    println!("bt-decode: {:.2} ms; ratio {ratio:.1}", theirs * 1e3);
    if ratio < WANTED {
        println!("slower than {WANTED} times bt-decode's speed");
        return false;
    }
    true
}

/// The recorded subnet, as the development chain serves it.
fn subnet(metagraph: &Metagraph) -> Subnet {
    let nobody = Coldkey::from_bytes([0; 32]);
    let neuron = |neuron: &sn17_miner::chain::Neuron| Neuron {
        hotkey: neuron.hotkey,
        coldkey: neuron.coldkey.unwrap_or(nobody),
        axon: neuron.axon.map(|axon| AxonEntry {
            block: axon.block,
            version: axon.version,
            ip: axon.ip,
            port: axon.port,
            ip_type: axon.ip_type,
            protocol: axon.protocol,
        }),
        alpha_stake: neuron.stake,
        tao_stake: Rao(0),
        total_stake: neuron.stake,
        validator_permit: neuron.validator_permit,
        active: neuron.active,
        incentive: neuron.incentive,
        dividends: 0,
        emission: neuron.emission,
        last_update: neuron.last_update,
        block_at_registration: neuron.block_at_registration.unwrap_or(1),
    };
    let owner = metagraph.owner_hotkey().unwrap_or(Hotkey::from_bytes([0; 32]));
    let neurons = metagraph.neurons().iter().map(neuron).collect();
    Subnet { neurons, max_uids: 1_024, ..Subnet::new(Netuid(17), owner, nobody) }
}

/// From request to object on an open connection; false where the SDK is not slow enough.
fn reading(metagraph: &Metagraph) -> bool {
    let runtime = Runtime::new().unwrap();
    let settings = DevChainSettings { frozen: true, ..DevChainSettings::new(subnet(metagraph)) };
    let chain = DevChain::new(settings, Clock::system());
    let server =
        runtime.block_on(async { chain.serve(TcpListener::bind("127.0.0.1:0").await.unwrap()) }).unwrap();
    let settings = Settings::for_nodes(vec![server.url().parse().unwrap()], Netuid(17));
    let mut client = ChainClient::over_websocket(settings, Clock::system());
    let ours = runtime.block_on(async {
        // The first one connects and fetches the metadata.
        assert_eq!(client.sync(&[]).await.unwrap().metagraph.len(), 1_024);
        let mut times = Vec::with_capacity(READS);
        for _ in 0..READS {
            let start = Instant::now();
            let synced = client.sync(&[]).await.unwrap();
            times.push(start.elapsed());
            assert_eq!(black_box(synced).metagraph.len(), 1_024);
        }
        Times::of(times)
    });
    println!("metagraph over loopback, request to object: {ours}");
    let Some(python) = env::var_os("SN17_PYTHON") else {
        println!("the SDK: not run (set SN17_PYTHON)");
        return true;
    };
    let output = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/python/metagraph.py"))
        .args(["--url", &server.url(), "--rounds", &READS.to_string()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let seconds = report["seconds"].as_array().unwrap().iter();
    let theirs = Times::of(seconds.map(|s| Duration::from_secs_f64(s.as_f64().unwrap())).collect());
    runtime.block_on(server.stop());
    let ratio = ratio(&theirs, &ours);
    println!("bittensor's metagraph():                    {theirs}; ratio {ratio:.1}");
    if ratio < WANTED_OF_SDK {
        println!("slower than {WANTED_OF_SDK} times the SDK's speed");
        return false;
    }
    true
}
