//! Several hotkeys in one process: they share the cards and nothing else.

#[path = "support/graded.rs"]
mod graded;
#[path = "support/hostile_world.rs"]
mod hostile_world;
#[path = "support/scene.rs"]
mod scene;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use scene::{Plan, S, Scene, Site};
use serde_json::{Value, json};
use sn17_miner::devnet::ledger::LedgerEventKind;
use sn17_miner::primitives::{Hotkey, UnixTime};
use sn17_miner::wallet::HotkeyPair;
use support::program::Program;

const FINISHES: &str = "[shutdown]\ngrace = \"10m\"\n";

/// Who called a validator, under which uuid, with which number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Caller {
    validator: usize,
    hotkey: String,
    uuid: String,
}

type Calls = Arc<Mutex<BTreeMap<Caller, Vec<u64>>>>;

/// Writes down every call of every validator.
fn listen(scene: &Scene) -> Calls {
    let calls = Calls::default();
    for validator in 0..scene.axons.len() {
        let calls = Arc::clone(&calls);
        scene.bend(Site::Validator(validator), move |asked| {
            let body: Value = serde_json::from_slice(asked.body).unwrap();
            let text = |key: &str| body["dendrite"][key].as_str().unwrap().to_owned();
            let caller = Caller { validator, hotkey: text("hotkey"), uuid: text("uuid") };
            let nonce = body["dendrite"]["nonce"].as_u64().unwrap();
            calls.lock().unwrap().entry(caller).or_default().push(nonce);
            None
        });
    }
    calls
}

fn accepted(scene: &Scene, hotkey: Hotkey) -> u64 {
    let of = |validator| {
        let events = scene.events(validator, hotkey);
        events.iter().filter(|event| matches!(event.kind, LedgerEventKind::Accepted { .. })).count() as u64
    };
    (0..scene.axons.len()).map(of).sum()
}

fn assigned(scene: &Scene, validator: usize, hotkey: Hotkey) -> Vec<UnixTime> {
    let events = scene.events(validator, hotkey);
    let assigned = events.iter().filter(|e| matches!(e.kind, LedgerEventKind::Assigned { .. }));
    assigned.map(|event| event.at).collect()
}

#[tokio::test(start_paused = true)]
async fn a_day_of_three_hotkeys_at_four_validators_with_two_cards() {
    let plan = Plan { hotkeys: 3, cards: vec![S(25); 2], lines: FINISHES, ..Plan::validators(4) };
    let scene = Scene::set(plan);
    let calls = listen(&scene);
    scene.mine_for(S(86_400)).await;
    scene.assert_settled();
    assert_eq!((scene.count("violation"), scene.count("repeated"), scene.count("pull_refused")), (0, 0, 0));

    // Each lane has its own rhythm: the others' cooldowns neither hold it up nor let it go early.
    for hotkey in scene.hotkeys.iter().map(|pair| *pair.hotkey()) {
        for validator in 0..4 {
            let pulls = assigned(&scene, validator, hotkey);
            let waits = pulls.windows(2).map(|pair| pair[1].saturating_since(pair[0]));
            let (mut most, mut sum) = (Duration::ZERO, Duration::ZERO);
            for wait in waits {
                assert!(wait >= S(300), "{wait:?}");
                (most, sum) = (most.max(wait), sum + wait);
            }
            assert!(most <= S(420), "{most:?} at {validator}");
            assert!(sum / (pulls.len() as u32) < S(312), "{sum:?} for {}", pulls.len());
        }
    }
    let each: Vec<u64> = scene.hotkeys.iter().map(|pair| accepted(&scene, *pair.hotkey())).collect();
    let (least, most) = (each.iter().min().unwrap(), each.iter().max().unwrap());
    assert!(*least >= 4 * 86_400 / 312 && most - least <= least / 50, "{each:?}");
    assert_eq!(each.iter().sum::<u64>(), scene.count("assigned"));

    // One uuid a lane, its numbers growing, and none of them anybody else's.
    let calls = calls.lock().unwrap();
    assert_eq!(calls.len(), 3 * 4, "{:?}", calls.keys().collect::<Vec<_>>());
    assert_eq!(calls.keys().map(|caller| &caller.uuid).collect::<BTreeSet<_>>().len(), 12);
    assert!(calls.values().all(|nonces| nonces.is_sorted_by(|earlier, later| earlier < later)));
}

/// Cards are the limit: whom they serve is decided by lanes, whoever's these are.
#[tokio::test(start_paused = true)]
async fn hotkeys_that_wait_for_a_card_are_served_alike() {
    let scene = Scene::set(Plan { hotkeys: 3, lines: FINISHES, ..Plan::validators(8) });
    let app = scene.agent().await;
    let tally = app.tally();
    Scene::run_for(app, S(8 * 3_600)).await;
    scene.assert_settled();
    let each: Vec<u64> = scene.hotkeys.iter().map(|pair| accepted(&scene, *pair.hotkey())).collect();
    let (least, most) = (each.iter().min().unwrap(), each.iter().max().unwrap());
    assert!(most - least <= least / 20 + 2, "{each:?}");
    assert!(each.iter().sum::<u64>() >= 8 * 3_600 / 30, "{each:?}");
    let longest = tally.lock().unwrap().longest_wait;
    assert!(longest <= S(2 * 24 * 28), "{longest:?}");
}

/// A hotkey that one validator does not know costs the others nothing.
#[tokio::test(start_paused = true)]
async fn a_hotkey_in_trouble_is_alone_in_it() {
    let scene = Scene::set(Plan { hotkeys: 2, lines: FINISHES, ..Plan::validators(3) });
    let lost = scene.hotkey(0);
    scene.axons.iter().for_each(|axon| axon.ledger(|ledger| ledger.deregister(&lost)));
    scene.mine_for(S(4 * 3_600)).await;
    scene.assert_settled();
    assert_eq!(accepted(&scene, lost), 0);
    let other = accepted(&scene, scene.hotkey(1));
    assert!(other >= 3 * 4 * 3_600 / 312, "{other}");
}

const PATIENCE: Duration = Duration::from_secs(90);

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sn17-miner"));
    command.args(args).current_dir(dir).env_clear().env("HOME", dir).env("XDG_RUNTIME_DIR", dir);
    command
}

/// A wallet `two` with a plain key for each name.
fn wallet(dir: &Path, names: &[&str]) {
    let hotkeys = dir.join("wallets/two/hotkeys");
    std::fs::create_dir_all(&hotkeys).unwrap();
    for name in names {
        let seed = [u8::try_from(name.len()).unwrap(); 32];
        let digits: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
        let address = HotkeyPair::from_seed(seed).hotkey().to_ss58();
        let key = json!({"secretSeed": format!("0x{digits}"), "ss58Address": address});
        std::fs::write(hotkeys.join(name), key.to_string()).unwrap();
        std::fs::set_permissions(hotkeys.join(name), PermissionsExt::from_mode(0o600)).unwrap();
    }
}

fn address(name: &str) -> String {
    HotkeyPair::from_seed([u8::try_from(name.len()).unwrap(); 32]).hotkey().to_ss58()
}

fn config(dir: &Path, hotkeys: &str, rest: &str) {
    let text = format!(
        "[wallet]\npath = \"{0}/wallets\"\nname = \"two\"\nhotkeys = {hotkeys}\n\
         [paths]\ndata = \"{0}/data\"\n{rest}",
        dir.display()
    );
    std::fs::write(dir.join("config.toml"), text).unwrap();
}

/// The real binary with two registered hotkeys beside a development network in another process: both
/// mine, and `status` shows both.
#[test]
fn the_program_mines_with_two_hotkeys_and_shows_both() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    wallet(dir, &["a", "bb"]);
    let (first, second) = (address("a"), address("bb"));
    let devnet = [
        "devnet",
        "--fast",
        "--base-port",
        "0",
        "--report",
        "report.json",
        "--register",
        &first,
        "--register",
        &second,
    ];
    let mut devnet = Program::start("devnet", &mut command(dir, &devnet), dir);
    let line = devnet.line(PATIENCE, |line| line.starts_with('{')).expect("it describes itself");
    let described: Value = serde_json::from_str(&line).unwrap();
    let rest = format!(
        "[network]\nname = \"devnet\"\nendpoints = [{}]\nallow_private_axons = true\n\
         [[workers]]\nname = \"g\"\nrole = \"generator\"\nurl = {}\nkinds = [\"text\", \"image\"]\n\
         dialect = \"form-image\"\n[[workers]]\nname = \"s\"\nrole = \"scorer\"\nurl = {}\n",
        described["chain"], described["generator"], described["scorer"]
    );
    config(dir, "[\"a\", \"bb\"]", &rest);
    let mut agent = Program::start("run", &mut command(dir, &["run"]), dir);
    for _ in 0..8 {
        agent.line(PATIENCE, |line| line.contains("Feedback from")).expect("it mines");
    }

    let output = command(dir, &["status", "--json"]).output().unwrap();
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    let shown: Vec<&Value> = status["hotkeys"].as_array().unwrap().iter().map(|one| &one["hotkey"]).collect();
    assert_eq!(shown, [&json!(first), &json!(second)], "{status}");
    for (member, uid) in status["hotkeys"].as_array().unwrap().iter().zip([4, 5]) {
        assert_eq!(
            (&member["registration"]["state"], &member["registration"]["uid"]),
            (&json!("registered"), &json!(uid))
        );
    }
    let lanes = status["lanes"].as_array().unwrap();
    let each: BTreeSet<_> = lanes.iter().map(|l| (l["hotkey"].as_str(), l["validator"].as_str())).collect();
    assert_eq!((lanes.len(), each.len()), (6, 6), "{status}");
    for hotkey in [&first, &second] {
        let counts = lanes.iter().filter(|lane| lane["hotkey"] == json!(hotkey));
        let accepted: u64 = counts.filter_map(|lane| lane["window_count"].as_u64()).sum();
        assert!(accepted >= 1, "{hotkey} in {status}");
    }

    agent.terminate();
    assert_eq!(agent.finish(PATIENCE).status.code(), Some(0));
    devnet.terminate();
    assert_eq!(devnet.finish(PATIENCE).status.code(), Some(0));
    let report: Value = serde_json::from_slice(&std::fs::read(dir.join("report.json")).unwrap()).unwrap();
    for validator in report["validators"].as_array().unwrap() {
        assert_eq!(
            (&validator["forbidden"], &validator["events"]["pull_refused"]),
            (&json!(0), &Value::Null)
        );
    }
}

/// A name twice, and two names of one key: either would make two lanes break each other's cooldowns.
#[test]
fn a_hotkey_named_twice_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // Their seeds are made of the length of the name.
    wallet(dir, &["ab", "ba"]);
    let refused = |hotkeys: &str, code: i32, words: &str| {
        config(dir, hotkeys, "");
        let output = command(dir, &["run", "--once"]).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(words), "{said}");
    };
    refused("[\"ab\", \"ab\"]", 64, "a hotkey is named twice");
    refused("[\"ab\", \"ba\"]", 64, "`ab` and `ba` are the same hotkey");
}
