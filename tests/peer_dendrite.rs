//! The real bittensor 9.9.0 dendrite mines at `DevAxon`, then misbehaves in every way it knows.
//!
//! Two things are shown: our axon takes what the reference sends and refuses what was changed, and
//! the reference's satisfaction is worth something (one byte changed between them and it is gone).

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sn17_miner::clock::Clock;
use sn17_miner::devnet::axon::{DevAxon, DevAxonSettings};
use sn17_miner::devnet::rules::ValidatorRules;
use sn17_miner::devnet::tasks::TaskMaker;
use sn17_miner::primitives::{Hotkey, Uid};
use sn17_miner::splat::{PlyReader, SpzEncoder};
use sn17_miner::wallet::HotkeyPair;
use support::agent::{hex, throwaway_seed};
use support::peers::{Peers, announce, report};
use support::wire::{Message, RawServer, swap_character};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Names the Python miner's key.
const MINER: &str = "dendrite.py";

const RUN: Duration = Duration::from_secs(120);

/// A validator on loopback that knows the Python miner, and what that miner works with.
struct Bench {
    peers: Peers,
    axon: DevAxon,
    address: std::net::SocketAddr,
    miner: Hotkey,
    spz: PathBuf,
    spz_sha256: [u8; 32],
    // Its server ends with it.
    _server: JoinSet<()>,
}

impl Bench {
    /// `None` without peers or vectors. Prints the seed of the tasks.
    async fn new(image_share: f64) -> Option<Self> {
        const SEED: u64 = 17;
        println!("seed {SEED}");
        let peers = Peers::find()?;
        let ply = std::fs::read(support::shared("vectors/splats/hamburger.ply")?).unwrap();
        let spz =
            SpzEncoder::default().encode(&PlyReader::default().read(&ply).unwrap()).unwrap().into_bytes();
        let spz_sha256 = Sha256::digest(&spz).into();
        let spz = peers.file("result.spz", spz);

        let miner = *HotkeyPair::from_seed(throwaway_seed(MINER)).hotkey();
        let rules = ValidatorRules {
            cooldown: Duration::from_secs(2),
            throttle: Duration::ZERO,
            penalty: Duration::from_secs(5),
            lock: Duration::from_secs(1),
            // One hamburger answers every prompt; it need not look like a red cube here.
            threshold: 0.1,
            ..ValidatorRules::default()
        };
        let settings = DevAxonSettings { rules, ..DevAxonSettings::default() };
        let key = HotkeyPair::dev("validator-0");
        let axon = DevAxon::new(key, Clock::system(), settings, TaskMaker::new(SEED, image_share));
        axon.register(Uid(3), miner);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = axon.router();
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Some(Self { peers, axon, address, miner, spz, spz_sha256, _server: server })
    }

    /// Lets the Python miner work, directly or through a proxy at `port`.
    async fn mine(&self, port: u16, arguments: &[&str]) -> (bool, Value) {
        let hotkey = self.axon.hotkey().to_ss58();
        let port = port.to_string();
        let seed = hex(&throwaway_seed(MINER));
        let spz = self.spz.to_str().unwrap();
        let given = ["--port", &port, "--hotkey", &hotkey, "--spz", spz, "--seed", &seed];
        let program = self.peers.run("dendrite.py", &[&given, arguments].concat());
        tokio::task::spawn_blocking(move || report(program, RUN)).await.unwrap()
    }

    fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.axon.ledger(|ledger| ledger.chronicle().counts().collect())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bittensor_dendrite_works_and_its_mischief_is_refused() {
    let Some(bench) = Bench::new(0.5).await else { return };
    let (content, seen) = bench.mine(bench.address.port(), &["--count", "3"]).await;
    let rounds = seen["rounds"].as_array().unwrap();
    let mischief = seen["mischief"].as_array().unwrap();
    let mut by_status = BTreeMap::<u64, usize>::new();
    for entry in mischief {
        *by_status.entry(entry["status"].as_u64().unwrap()).or_default() += 1;
    }
    announce(&format!(
        "bittensor dendrite: {} tasks accepted, {} further requests by status {by_status:?}; our axon saw {:?}",
        rounds.len(),
        mischief.len(),
        bench.counts()
    ));
    assert!(content && seen["ok"] == true, "{:#}", seen["errors"]);
    assert_eq!(seen["errors"], json!([]));

    assert_eq!(rounds.len(), 3);
    for round in rounds {
        assert_eq!(round["status"], 200, "{round:#}");
        assert_eq!(round["feedback"]["validation_failed"], false, "{round:#}");
    }
    let kinds: Vec<_> = rounds.iter().map(|round| &round["task"]["type"]).collect();
    assert!(kinds.contains(&&json!("text")) && kinds.contains(&&json!("image")), "{kinds:?}");

    // 64 bytes of the signature; nonce, uuid, hash, other axon, twice no signature, no nonce, replay: 401.
    // A good one, the wrong task and the forged submission: 200. Two unreadable signatures: 500. No task: 403.
    assert_eq!(by_status, BTreeMap::from([(200, 3), (401, 72), (403, 1), (500, 2)]), "{mischief:#?}");

    let received = bench.axon.received();
    assert_eq!(received.len(), 3);
    assert!(
        received.iter().all(|result| result.sha256 == bench.spz_sha256),
        "the bytes are those of the file"
    );
    assert!(bench.axon.ledger(|ledger| ledger.open_task(&bench.miner).is_none()));
    let wanted = BTreeMap::from([
        ("assigned", 4),
        // Each task is pulled twice; the last one also by the one good request, and after the bad ones.
        ("repeated", 5),
        ("scoring_begun", 3),
        ("accepted", 3),
        ("wrong_task", 1),
        ("malformed", 2),
        ("bad_signature", 1),
        ("submission_refused", 1),
    ]);
    assert_eq!(bench.counts(), wanted);
}

/// One task by the Python miner through a proxy that alters; gives its errors and our axon's counts.
async fn errors_after(
    alter: impl Fn(&mut Message) + Send + Sync + 'static,
) -> Option<(Vec<String>, BTreeMap<&'static str, u64>)> {
    let bench = Bench::new(0.0).await?;
    let proxy = RawServer::proxy(bench.address, alter);
    let (content, seen) = bench.mine(proxy.address().port(), &["--no-mischief"]).await;
    let errors: Vec<_> =
        seen["errors"].as_array().unwrap().iter().map(|error| error.as_str().unwrap().to_owned()).collect();
    assert_eq!((content, &seen["ok"]), (errors.is_empty(), &json!(errors.is_empty())));
    Some((errors, bench.counts()))
}

fn on(path: &'static str, alter: impl Fn(&mut Message)) -> impl Fn(&mut Message) {
    move |request| {
        if request.path() == path {
            alter(request);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unaltered_through_the_proxy_it_is_content() {
    let Some((errors, counts)) = errors_after(|_| {}).await else { return };
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!((counts["assigned"], counts["repeated"], counts["accepted"]), (1, 1, 1), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_digit_of_the_header_signature_turns_it_red() {
    let alter = on("/PullTask", |request| {
        request.alter_header("bt_header_dendrite_signature", |hex| swap_character(hex, 90));
    });
    let Some((errors, counts)) = errors_after(alter).await else { return };
    assert!(errors[0].contains("401") && errors[0].contains("Signature mismatch"), "{errors:?}");
    assert_eq!(counts, BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_nonce_turns_it_red() {
    let alter = on("/PullTask", |request| {
        request.alter_header("bt_header_dendrite_nonce", |nonce| {
            (nonce.parse::<u64>().unwrap() + 1).to_string()
        });
    });
    let Some((errors, counts)) = errors_after(alter).await else { return };
    assert!(errors[0].contains("401") && errors[0].contains("Signature mismatch"), "{errors:?}");
    assert_eq!(counts, BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_character_of_the_submission_signature_turns_it_red() {
    let alter = on("/SubmitResults", |request| {
        request.alter_field("signature", |base64| swap_character(base64, 50));
    });
    let Some((errors, counts)) = errors_after(alter).await else { return };
    assert!(errors.iter().any(|error| error.starts_with("score of a good result")), "{errors:?}");
    assert_eq!((counts.get("bad_signature"), counts.get("accepted")), (Some(&1), None), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_character_of_the_results_turns_it_red() {
    // The frame's content size: whatever it is then, it is not what the frame holds.
    let alter = on("/SubmitResults", |request| {
        request.alter_field("results", |base64| swap_character(base64, 8));
    });
    let Some((errors, counts)) = errors_after(alter).await else { return };
    assert!(errors.iter().any(|error| error.starts_with("score of a good result")), "{errors:?}");
    assert_eq!((counts.get("low"), counts.get("accepted")), (Some(&1), None), "{counts:?}");
}
