//! What our client adds to a pull and to a large submission, beside the Python SDK's own dendrite making
//! the same calls to the same server. `SN17_PYTHON=... cargo bench --bench calls`.
//!
//! The client's share of a call is its whole time less the server's own: from the moment the request's
//! body is in to the moment the reply is ready. Loopback is in it for both.

mod support;

use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use sn17_miner::clock::Clock;
use sn17_miner::dendrite::{AxonAddress, Dendrite, Settings, Submission};
use sn17_miner::devnet::axon::{DevAxon, DevAxonSettings};
use sn17_miner::devnet::rules::ValidatorRules;
use sn17_miner::devnet::tasks::TaskMaker;
use sn17_miner::net::{Connections, Transport};
use sn17_miner::primitives::{ByteSize, Uid};
use sn17_miner::splat::{PlyReader, ShDegree, SpzEncoder};
use sn17_miner::wallet::HotkeyPair;
use support::{POINTS, Times, random_ply, ratio};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const ROUNDS: usize = 20;

/// Time the server took for each call, in order.
#[derive(Debug, Clone, Default)]
struct ServerTimes(Arc<Mutex<Vec<Duration>>>);

impl ServerTimes {
    fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn timed(State(times): State<ServerTimes>, request: Request, next: Next) -> Response {
    let clock = Clock::system();
    let (head, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, 256 << 20).await else {
        return http::StatusCode::BAD_REQUEST.into_response();
    };
    let received = clock.instant();
    let (head, body) = next.run(Request::from_parts(head, Body::from(body))).await.into_parts();
    let body = axum::body::to_bytes(body, 256 << 20).await.unwrap_or_default();
    times.0.lock().unwrap_or_else(PoisonError::into_inner).push(received.elapsed());
    Response::from_parts(head, Body::from(body))
}

/// The calls of one client: pulls and submissions in turn, whole times.
struct Calls {
    pulls: Times,
    submissions: Times,
}

impl Calls {
    /// Takes the server's share off each call. The first round opens connections and warms up.
    fn less(calls: &[Duration], server: &[Duration]) -> Self {
        assert_eq!(calls.len(), server.len(), "every call was served once");
        let shares: Vec<Duration> =
            calls.iter().zip(server).map(|(call, server)| call.saturating_sub(*server)).collect();
        let every_other =
            |first: usize| Times::of(shares[2..].iter().skip(first).step_by(2).copied().collect());
        Self { pulls: every_other(0), submissions: every_other(1) }
    }
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(measure());
}

async fn measure() {
    let clock = Clock::system();
    let key = Arc::new(HotkeyPair::dev("miner"));
    let rules = ValidatorRules {
        cooldown: Duration::ZERO,
        throttle: Duration::ZERO,
        penalty: Duration::ZERO,
        lock: Duration::ZERO,
        threshold: 0.0,
        ..ValidatorRules::default()
    };
    let settings = DevAxonSettings { rules, ..DevAxonSettings::default() };
    let validator = DevAxon::new(HotkeyPair::dev("validator-0"), clock, settings, TaskMaker::new(17, 0.0));
    validator.register(Uid(3), *key.hotkey());
    let times = ServerTimes::default();
    let router: Router = validator.router().layer(from_fn_with_state(times.clone(), timed));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound port");
    let mut server = JoinSet::new();
    server.spawn(async move { drop(axum::serve(listener, router).await) });

    let ply = random_ply(ShDegree::Zero);
    let cloud = PlyReader::default().read(&ply).expect("our own PLY");
    let spz = SpzEncoder::new(1).encode(&cloud).expect("a sound cloud");
    println!(
        "calls, a submission of {POINTS} random Gaussians of degree 0 ({} bytes of SPZ):",
        spz.as_bytes().len()
    );

    let axon = AxonAddress { hotkey: validator.hotkey(), address };
    let ours = ours(clock, key, axon, spz.as_bytes()).await;
    let ours = Calls::less(&ours, &times.take());
    println!("  pull, our share         {}", ours.pulls);
    println!("  submission, our share   {}", ours.submissions);

    let Some(python) = std::env::var_os("SN17_PYTHON").filter(|path| !path.is_empty()) else {
        println!("  the Python SDK: not run (set SN17_PYTHON, see scripts/python.sh)");
        return;
    };
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), spz.as_bytes()).expect("write the SPZ");
    let peer = tokio::task::spawn_blocking(move || {
        Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/python/calls.py"))
            .args(["--port", &address.port().to_string(), "--hotkey", &axon.hotkey.to_string()])
            .args(["--rounds", &(ROUNDS + 1).to_string(), "--spz"])
            .arg(file.path())
            .env("SN17_SEED", miner_seed())
            .output()
    });
    let output = peer.await.expect("a thread").expect("start Python");
    let report: Value = match serde_json::from_slice(&output.stdout) {
        Ok(report) if output.status.success() => report,
        _ => {
            println!("  the Python SDK failed: {}", String::from_utf8_lossy(&output.stderr));
            return;
        }
    };
    let theirs: Vec<Duration> = report["seconds"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|seconds| Some(Duration::from_secs_f64(seconds.as_f64()?)))
        .collect();
    let theirs = Calls::less(&theirs, &times.take());
    println!("  pull, bittensor {}        {}", report["bittensor"].as_str().unwrap_or("?"), theirs.pulls);
    println!("  submission, bittensor   {}", theirs.submissions);
    println!("  pull: the SDK's share is {:.1} times ours", ratio(&theirs.pulls, &ours.pulls));
    println!(
        "  submission: the SDK's share is {:.1} times ours",
        ratio(&theirs.submissions, &ours.submissions)
    );
}

/// Of the development network's miner: blake2b-256 of its name.
fn miner_seed() -> &'static str {
    "sn17-devnet/miner"
}

async fn ours(clock: Clock, key: Arc<HotkeyPair>, axon: AxonAddress, spz: &[u8]) -> Vec<Duration> {
    let settings = Settings {
        pull_timeout: Duration::from_secs(12),
        submit_timeout: Duration::from_secs(300),
        pull_reply_limit: ByteSize::mib(32),
        submit_reply_limit: ByteSize::mib(1),
        version: 9_009_000,
    };
    let second = Duration::from_secs(1);
    let transport = |connections| Transport::http(3 * second, connections).expect("an HTTP client");
    let (pulls, submissions) = (transport(Connections::IdleUnder(4 * second)), transport(Connections::Fresh));
    let dendrite = Dendrite::new(key, clock, settings, pulls, submissions);
    let mut calls = Vec::new();
    for _ in 0..=ROUNDS {
        let started = clock.instant();
        let pulled = dendrite.pull(&axon).await.expect("a reply");
        calls.push(started.elapsed());
        let task = pulled.reply.task.expect("a task");
        let submission =
            Submission { task_id: &task.id, prompt: &task.prompt, spz: Some(spz), submit_time: clock.now() };
        let started = clock.instant();
        let reply = dendrite.submit(&axon, submission).await.expect("a reply");
        calls.push(started.elapsed());
        assert!(reply.reply.feedback.is_some(), "the submission was judged");
        // Cooldown ends are whole seconds: the next one is over for certain.
        clock.sleep(second).await;
    }
    calls
}
