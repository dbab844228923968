//! The agent as a process: how soon it asks for its first task, and how much memory it takes, idle and
//! over a large task. `cargo bench --bench agent`.
//!
//! Goals: first pull under 150 ms, under 400 ms where the chain names the validators, idle under 25 MiB resident, peak of a task of 497,664 Gaussians of
//! degree 0 under 120 MiB. Printed, never asserted: times and memory are this machine's.

mod support;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use sn17_miner::clock::Clock;
use sn17_miner::devnet::axon::{DevAxon, DevAxonSettings};
use sn17_miner::devnet::chain::{DevChain, DevChainSettings, Neuron, Subnet};
use sn17_miner::devnet::rules::ValidatorRules;
use sn17_miner::devnet::tasks::TaskMaker;
use sn17_miner::primitives::{Coldkey, Netuid, Rao, Uid};
use sn17_miner::splat::ShDegree;
use sn17_miner::wallet::HotkeyPair;
use support::{POINTS, Running, Times, agent, random_ply};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::Instant;

const STARTS: usize = 20;

/// For anything the agent is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() {
    let runtime = Runtime::new().expect("a runtime");
    first_pull(&runtime);
    first_pull_by_chain(&runtime);
    first_pull_embedded();
    idle(&runtime);
    task(&runtime);
}

struct Served {
    address: SocketAddr,
    _server: JoinSet<()>,
}

fn serve(runtime: &Runtime, router: Router) -> Served {
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let address = listener.local_addr().expect("a bound port");
    let mut server = JoinSet::new();
    server.spawn_on(async move { drop(axum::serve(listener, router).await) }, runtime.handle());
    Served { address, _server: server }
}

fn config(validator: SocketAddr, generator: SocketAddr, scorer: Option<SocketAddr>) -> String {
    let wallets = concat!(env!("CARGO_MANIFEST_DIR"), "/wallets.example");
    let hotkey = HotkeyPair::dev("validator-0");
    let scorer = scorer.map_or_else(String::new, |scorer| {
        format!("[[workers]]\nname = \"judge\"\nrole = \"scorer\"\nurl = \"http://{scorer}\"\n")
    });
    format!(
        "[wallet]\npath = \"{wallets}\"\n[paths]\ndata = \"data\"\n[[gpus]]\nuuid = \"GPU-bench\"\n\
         [[workers]]\nname = \"main\"\nrole = \"generator\"\nurl = \"http://{generator}\"\n{scorer}\
         [[validators]]\nhotkey = \"{}\"\naddress = \"{validator}\"\nuid = 0\n",
        hotkey.hotkey()
    )
}

/// From just before the process is made to its first pull at the validator's socket.
fn first_pull(runtime: &Runtime) {
    let clock = Clock::system();
    let (arrived, arrivals) = mpsc::channel();
    let validator = serve(
        runtime,
        Router::new().route(
            "/PullTask",
            post(async move || {
                arrived.send(clock.instant()).ok();
                Json(json!({"cooldown_until": 0}))
            }),
        ),
    );
    let generator = serve(runtime, Router::new().route("/health", get(async || "")));
    let config = config(validator.address, generator.address, None);
    let times = starts(&config, |running, _| {
        let arrival = arrivals.recv_timeout(PATIENCE).expect("a pull");
        drop(running);
        while arrivals.try_recv().is_ok() {}
        arrival
    });
    println!("start to first pull, new data directory{times}; goal 150 ms");
}

/// The same with an empty store, where a chain on loopback has to be read first: dialled, its metadata
/// fetched, registration and metagraph read.
fn first_pull_by_chain(runtime: &Runtime) {
    let clock = Clock::system();
    let (arrived, arrivals) = mpsc::channel();
    let pulled = post(async move || {
        arrived.send(clock.instant()).ok();
        Json(json!({"cooldown_until": 0}))
    });
    let validator = serve(runtime, Router::new().route("/PullTask", pulled));
    let generator = serve(runtime, Router::new().route("/health", get(async || "")));
    let key = |name: &str| *HotkeyPair::dev(name).hotkey();
    let coldkey = Coldkey::from_bytes([7; 32]);
    let mut subnet = Subnet::new(Netuid(17), key("owner"), coldkey);
    let stake = Rao(40_000_000_000_000);
    subnet.neurons.push(Neuron::validator(key("validator-0"), coldkey, validator.address, stake, 1));
    subnet.neurons.push(Neuron::miner(key("miner"), coldkey, 1));
    let chain = DevChain::new(DevChainSettings::new(subnet), clock);
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let node = runtime.block_on(async { chain.serve(listener) }).expect("a chain");
    let wallets = concat!(env!("CARGO_MANIFEST_DIR"), "/wallets.example");
    let config = format!(
        "[network]\nendpoints = [\"{}\"]\nallow_private_axons = true\n[wallet]\npath = \"{wallets}\"\n\
         [paths]\ndata = \"data\"\n[[gpus]]\nuuid = \"GPU-bench\"\n\
         [[workers]]\nname = \"main\"\nrole = \"generator\"\nurl = \"http://{}\"\n",
        node.url(),
        generator.address
    );
    let times = starts(&config, |running, _| {
        let arrival = arrivals.recv_timeout(PATIENCE).expect("a pull");
        drop(running);
        while arrivals.try_recv().is_ok() {}
        arrival
    });
    println!("start to first pull by the chain, empty store{times}; goal 400 ms");
    runtime.block_on(node.stop());
}

/// The same as `run` does it without a configuration: the network is embedded, its chain, validators
/// and workers start in the process, and the pull is seen in the log.
fn first_pull_embedded() {
    let config = "[paths]\ndata = \"data\"\n";
    let times = starts(config, |mut running, clock| {
        let log = BufReader::new(running.0.stdout.take().expect("a pipe"));
        log.lines().map_while(Result::ok).find(|line| line.contains("Pulled a task")).expect("a pull");
        clock.instant()
    });
    println!("start to first task on the embedded network, its start included{times}; goal 400 ms");
}

/// Times from just before the process is made to what `end` says.
fn starts(config: &str, end: impl Fn(Running, Clock) -> Instant) -> Times {
    let clock = Clock::system();
    let mut times = Vec::new();
    for start in 0..=STARTS {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut command = agent(dir.path(), config);
        command.stdout(Stdio::piped());
        let started = clock.instant();
        let ended = end(Running(command.spawn().expect("start the agent")), clock);
        // The first start reads the program from disk.
        if start > 0 {
            times.push(ended - started);
        }
    }
    Times::of(times)
}

fn axon(rules: ValidatorRules) -> DevAxon {
    let settings = DevAxonSettings { rules, ..DevAxonSettings::default() };
    DevAxon::new(HotkeyPair::dev("validator-0"), Clock::system(), settings, TaskMaker::new(17, 0.0))
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// Resident memory while it waits for a cooldown to end, after one pull.
fn idle(runtime: &Runtime) {
    // The miner is not registered here, and so told to wait for an hour.
    let axon = axon(ValidatorRules::default());
    let validator = serve(runtime, axon.router());
    let generator = serve(runtime, Router::new().route("/health", get(async || "")));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut command = agent(dir.path(), &config(validator.address, generator.address, None));
    command.stdout(Stdio::null());
    let running = Running(command.spawn().expect("start the agent"));
    let pulled = || axon.ledger(|ledger| ledger.chronicle().count("pull_refused")) > 0;
    wait("the pull", pulled);
    std::thread::sleep(Duration::from_secs(3));
    println!(
        "idle: resident {:.1} MiB (of it files mapped {:.1}), peak so far {:.1} MiB; goal 25 MiB",
        mib(running.status_kib("VmRSS")),
        mib(running.status_kib("RssFile")),
        mib(running.status_kib("VmHWM"))
    );
}

fn wait(what: &str, happened: impl Fn() -> bool) {
    let clock = Clock::system();
    let deadline = clock.now() + PATIENCE;
    while !happened() {
        assert!(clock.now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Peak resident memory over one large task: generated, encoded, scored, submitted, accepted.
fn task(runtime: &Runtime) {
    let rules = ValidatorRules { threshold: 0.0, ..ValidatorRules::default() };
    let axon = axon(rules);
    axon.register(Uid(3), *HotkeyPair::dev("miner").hotkey());
    let validator = serve(runtime, axon.router());
    let ply = Bytes::from(random_ply(ShDegree::Zero));
    let bytes = ply.len();
    let generator = serve(
        runtime,
        Router::new().route("/health", get(async || "")).route("/generate/", post(async move || ply.clone())),
    );
    let verdict = json!({"score": 0.8, "iqa": 0.8, "alignment_score": 0.28, "ssim": 0.9, "lpips": 0.9});
    let scorer = serve(
        runtime,
        Router::new()
            .route("/validate_txt_to_3d_ply/", post(async move |_: Bytes| Json(verdict.clone())))
            .layer(DefaultBodyLimit::disable()),
    );
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut command = agent(dir.path(), &config(validator.address, generator.address, Some(scorer.address)));
    let mut running = Running(command.stdout(Stdio::piped()).spawn().expect("start the agent"));
    let log = BufReader::new(running.0.stdout.take().expect("a pipe"));
    for line in log.lines().map_while(Result::ok) {
        let shown: String = line.chars().skip("2025-11-20T03:27:24.010Z ".len()).take(80).collect();
        println!("  peak {:>6.1} MiB at: {shown}", mib(running.status_kib("VmHWM")));
        if line.contains("Feedback from") {
            break;
        }
    }
    println!(
        "a task of {POINTS} Gaussians of degree 0, PLY of {bytes} bytes: peak {:.1} MiB, {:.1} MiB after it; goal 120 MiB",
        mib(running.status_kib("VmHWM")),
        mib(running.status_kib("VmRSS"))
    );
    assert_eq!(axon.ledger(|ledger| ledger.chronicle().count("accepted")), 1, "the task was accepted");
}
