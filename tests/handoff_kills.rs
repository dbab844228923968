//! `kill -9` of the agent in every step of a hand-off: the next one finds the card as it was left, brings
//! it to a known state, and mines on. Nobody runs out of memory meanwhile.

#[path = "support/dev_workers.rs"]
mod dev_workers;
#[path = "support/kill.rs"]
mod kill;
#[allow(dead_code, reason = "each test file uses its own part")]
#[path = "support/program.rs"]
mod program;
#[path = "support/nvml.rs"]
mod stand_in;

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use dev_workers::{CARD, DevCard, DevProcess, UUID, command};
use kill::{Agent, Home, PATIENCE};
use serde_json::Value;
use sn17_miner::devnet::card::{Event, What};
use sn17_miner::primitives::MiB;
use stand_in::StandIn;

const MAIN: [&str; 10] = [
    "--name",
    "main",
    "--resident",
    "3000",
    "--peak",
    "20070",
    "--work-time",
    "150ms",
    "--load-time",
    "50ms",
];
const JUDGE: [&str; 10] = [
    "--name",
    "judge",
    "--resident",
    "4813",
    "--peak",
    "4813",
    "--unload-time",
    "400ms",
    "--load-time",
    "400ms",
];

/// What happens on the card in one hand-off to the generator and back, in its order.
const MOMENTS: [(&str, &str); 8] = [
    ("judge", "asked POST /unload_models/"),
    ("judge", "holds 400"),
    ("main", "asked POST /generate/"),
    ("main", "holds 20070"),
    ("main", "holds 3000"),
    ("judge", "asked POST /reload_models/"),
    ("judge", "holds 4813"),
    ("judge", "asked POST /validate_txt_to_3d_ply/"),
];

/// Validators with a turn so often that some lane is always at work.
const VALIDATORS: usize = 8;
const COOLDOWN_S: u64 = 6;
const LOCK_S: u64 = 3;

fn is(event: &Event, (name, what): (&str, &str)) -> bool {
    let said = match &event.what {
        What::Asked(what) => format!("asked {what}"),
        What::Holds(amount) => format!("holds {}", amount.0),
        _ => return false,
    };
    event.name == name && said == what
}

struct Scene {
    network: Agent,
    home: Home,
    card: DevCard,
    library: StandIn,
    /// Those that somebody else than the agent runs.
    _attached: Vec<DevProcess>,
}

impl Scene {
    /// `attached`: the workers outlive their agent.
    async fn open(attached: bool) -> Option<Self> {
        let library = StandIn::new("")?;
        let card = DevCard::new();
        library.follow(&card.file());
        let home = Home::new();
        let set = [
            format!("devnet.validators={VALIDATORS}"),
            format!("devnet.cooldown={COOLDOWN_S}s"),
            format!("devnet.lock={LOCK_S}s"),
            "devnet.throttle=0s".into(),
            "devnet.image_share=0".into(),
        ];
        let mut arguments = vec!["devnet", "--fast", "--base-port", "0"];
        arguments.extend(set.iter().flat_map(|setting| ["--set", setting]));
        let mut network = home.start(&arguments);
        let line = network.line(&["\"validators\""], PATIENCE).await.expect("the network comes up");
        let described: Value = serde_json::from_str(&line).unwrap();

        let mut workers = Vec::new();
        let worker = |name: &str, dialect: &str, verbs: &str, own: &[&str], there: &mut Vec<DevProcess>| {
            let (address, process) = if attached {
                let process = card.worker(dialect, own);
                let address = process.address;
                there.push(process);
                (address, String::new())
            } else {
                let address: SocketAddr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
                let listen = address.to_string();
                let command = command(&card, dialect, &[&["--listen", &listen], own].concat());
                let words = [command.get_program()].into_iter().chain(command.get_args());
                let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
                (address, format!("[workers.process]\ncommand = {words:?}\nstop_timeout = \"300ms\"\n"))
            };
            let role = if name == "main" { "generator" } else { "scorer" };
            let kinds = if name == "main" { "dialect = \"form\"\nkinds = [\"text\"]\n" } else { "" };
            let (resident, peak) = (own[3], own[5]);
            format!(
                "[[workers]]\nname = \"{name}\"\nrole = \"{role}\"\nurl = \"http://{address}\"\n{kinds}\
                 memory = \"{verbs}\"\nresident = \"{resident}MiB\"\npeak = \"{peak}MiB\"\n{process}"
            )
        };
        let verbs = if attached { "none" } else { "process" };
        let main = worker("main", "form", verbs, &MAIN, &mut workers);
        let judge = worker("judge", "three-gen", "three-gen", &JUDGE, &mut workers);
        let mut text = format!(
            "[wallet]\npath = \"{}/wallets.example\"\n[paths]\ndata = \"{}\"\n[decide]\ncandidates = 1\n\
             [shutdown]\ngrace = \"20s\"\n\
             [rules]\ncooldown = \"{COOLDOWN_S}s\"\nlock = \"{LOCK_S}s\"\n[[gpus]]\nuuid = \"{UUID}\"\n{main}{judge}",
            env!("CARGO_MANIFEST_DIR"),
            home.data().display(),
        );
        for validator in described["validators"].as_array().unwrap() {
            let (hotkey, address) = (&validator["hotkey"], &validator["address"]);
            text += &format!("[[validators]]\nhotkey = {hotkey}\naddress = {address}\n");
        }
        std::fs::write(home.path().join("config.toml"), text).unwrap();
        Some(Self { network, home, card, library, _attached: workers })
    }

    fn agent(&self) -> Agent {
        let mut command = self.home.command(&["run"]);
        self.home.spawn(command.env("LD_LIBRARY_PATH", self.library.folder()))
    }

    /// Waits for something that was not there before.
    async fn moment(&self, moment: (&str, &str)) {
        let seen = self.card.events().len();
        let watched = async {
            while !self.card.events()[seen..].iter().any(|event| is(event, moment)) {
                // Nothing tells of a new line.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let there = tokio::time::timeout(PATIENCE, watched).await;
        assert!(there.is_ok(), "{moment:?} never comes");
    }

    /// Hand-offs without an end. Read from a copy: the next start has to recover the database.
    fn open_handoffs(&self) -> u32 {
        let copy = tempfile::tempdir().unwrap();
        for name in ["agent.sqlite", "agent.sqlite-wal"] {
            let file = self.home.data().join(name);
            if file.exists() {
                std::fs::copy(file, copy.path().join(name)).unwrap();
            }
        }
        let database = rusqlite::Connection::open(copy.path().join("agent.sqlite")).unwrap();
        let count = "SELECT count(*) FROM handoffs WHERE ended_at IS NULL";
        database.query_row(count, [], |row| row.get(0)).unwrap()
    }
}

async fn kills(attached: bool) {
    let Some(scene) = Scene::open(attached).await else { return };
    let mut interrupted = 0;
    for moment in MOMENTS {
        let mut agent = scene.agent();
        // It mines, whatever the one before it left behind.
        let mines = agent.line(&["Feedback from"], PATIENCE).await;
        assert!(mines.is_some(), "no task is done before {moment:?}");
        scene.moment(moment).await;
        agent.kill().await;
        scene.home.note(&format!("== killed at {moment:?}"));
        interrupted += scene.open_handoffs();
    }
    assert!(interrupted >= 3, "only {interrupted} hand-offs were interrupted");
    let mut agent = scene.agent();
    for _ in 0..2 {
        assert!(agent.line(&["Feedback from"], PATIENCE).await.is_some());
    }
    let both = |state: &sn17_miner::devnet::card::CardState| {
        state.held_by("main").is_some() && state.held_by("judge").is_some() && state.holders.len() == 2
    };
    scene.card.until("both workers are there, once", both).await;
    let state = scene.card.state();
    assert!(state.most <= CARD);
    assert_eq!(state.refused, 0, "somebody ran out of memory: {:?}", scene.card.events());
    agent.terminate().await;
    assert_eq!(scene.open_handoffs(), 0);
    if attached {
        let back = |state: &sn17_miner::devnet::card::CardState| {
            let there = (state.held_by("main"), state.held_by("judge"));
            there == (Some(MiB(3_000)), Some(MiB(4_813)))
        };
        scene.card.until("whoever left is back at the end", back).await;
    } else {
        assert_eq!(scene.card.state().holders, [], "what the agent has started it ends");
    }
    assert!(scene.network.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_every_step_with_workers_of_its_own() {
    kills(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_every_step_with_workers_of_somebody_else() {
    kills(true).await;
}
