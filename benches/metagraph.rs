//! From the recorded answer of a subnet with 1,024 uids to a `Metagraph`, beside bt-decode on the same
//! bytes in the same run.
//!
//! `SN17_PYTHON` names a Python with bt-decode 0.8.0; without it only our own time is shown. Fails
//! where we are less than four times as fast.

use std::env;
use std::fs;
use std::hint::black_box;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use sn17_miner::chain::{Answers, Place, Reading, read_metagraph};
use sn17_miner::primitives::{Netuid, UnixTime};
use subxt::Metadata;
use tokio::time::Instant;

const ROUNDS: usize = 100;
const WANTED: f64 = 4.0;

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

    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            let metagraph = read_metagraph(Answers::Mechagraph(black_box(&bytes)), &metadata, place);
            assert_eq!(black_box(metagraph).unwrap().len(), 1_024);
            start.elapsed()
        })
        .collect();
    times.sort();
    let ours = times[ROUNDS / 2].as_secs_f64();
    println!("metagraph of {} bytes: {:.2} ms, median of {ROUNDS}", bytes.len(), ours * 1e3);

    let Some(python) = env::var_os("SN17_PYTHON") else {
        println!("bt-decode: not run (set SN17_PYTHON)");
        return ExitCode::SUCCESS;
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
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
