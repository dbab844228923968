//! Worker servers as processes of their own, on a card in a file.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use sn17_miner::clock::Clock;
use sn17_miner::devnet::card::{CardLedger, CardState, Event, What};
use sn17_miner::net::{Call, Connections, Endpoint, Limits, Transport};
use sn17_miner::primitives::{ByteSize, MiB};
use sn17_miner::workers::{
    Dialect, Generator, GeneratorSettings, MemoryControl, MemorySettings, MemoryTimeouts, Scorer,
    ScorerSettings,
};

use super::program::Program;

pub const UUID: &str = "GPU-11111111-2222-3333-4444-555555555555";
/// A 24 GB card.
pub const CARD: MiB = MiB(24_576);
/// A process of ours starts in a moment, but the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One card, with a folder of its own.
#[derive(Debug)]
pub struct DevCard {
    folder: tempfile::TempDir,
    pub ledger: CardLedger,
}

impl DevCard {
    pub fn new() -> Self {
        Self::sized(CARD)
    }

    pub fn sized(total: MiB) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ledger = CardLedger::open(&folder.path().join("cards"), UUID, total, Clock::system()).unwrap();
        Self { folder, ledger }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn file(&self) -> PathBuf {
        self.folder().join("cards")
    }

    pub fn state(&self) -> CardState {
        self.ledger.read().unwrap()
    }

    pub fn events(&self) -> Vec<Event> {
        self.ledger.events().unwrap()
    }

    /// How often a fault of this name has struck.
    pub fn struck(&self, fault: &str) -> usize {
        let is_it = |event: &&Event| event.what == What::Fault(fault.to_owned());
        self.events().iter().filter(is_it).count()
    }

    /// Waits until the ledger shows it.
    pub async fn until(&self, what: &str, shown: impl Fn(&CardState) -> bool) -> CardState {
        let looked = async {
            loop {
                let state = self.state();
                if shown(&state) {
                    return state;
                }
                // Nothing tells of a change of the file.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let seen = tokio::time::timeout(PATIENCE, looked).await;
        seen.unwrap_or_else(|_| panic!("{what}: {:?}", self.state()))
    }

    /// Starts a worker and waits until it listens.
    pub fn worker(&self, dialect: &str, arguments: &[&str]) -> DevProcess {
        DevProcess::start(self, dialect, arguments)
    }
}

/// A worker server that runs.
pub struct DevProcess {
    pub program: Program,
    pub address: SocketAddr,
    pub pid: u32,
}

impl DevProcess {
    fn start(card: &DevCard, dialect: &str, arguments: &[&str]) -> Self {
        let mut command = command(card, dialect, arguments);
        let mut program = Program::start(dialect, &mut command, card.folder());
        let line = program.line(PATIENCE, |line| line.starts_with('{')).expect("it says where it listens");
        let said: Value = serde_json::from_str(&line).unwrap();
        let pid = said["pid"].as_u64().unwrap().try_into().unwrap();
        Self { program, address: said["address"].as_str().unwrap().parse().unwrap(), pid }
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::of(self.address)
    }

    pub fn memory(&self, dialect: &str) -> MemoryControl {
        self.memory_within(dialect, PATIENCE)
    }

    /// With so much patience for every verb.
    pub fn memory_within(&self, dialect: &str, patience: Duration) -> MemoryControl {
        memory(self.endpoint(), dialect, patience)
    }

    pub fn generator(&self, dialect: Dialect) -> Generator {
        let settings = GeneratorSettings {
            name: "main".into(),
            endpoint: self.endpoint(),
            dialect,
            kinds: dialect.kinds().iter().copied().collect(),
            limits: limits(PATIENCE),
        };
        Generator::new(settings, sockets(), Clock::system())
    }

    pub fn scorer(&self) -> Scorer {
        let settings =
            ScorerSettings { name: "judge".into(), endpoint: self.endpoint(), limits: limits(PATIENCE) };
        Scorer::new(settings, sockets(), Clock::system())
    }

    /// Other faults from now on; none: nothing goes wrong any more.
    pub async fn change_faults(&self, faults: &str) {
        change_faults(self.endpoint(), faults).await.unwrap();
    }
}

pub fn memory(endpoint: Endpoint, dialect: &str, patience: Duration) -> MemoryControl {
    let timeouts = MemoryTimeouts { status: patience, cleanup: patience, unload: patience, load: patience };
    let settings =
        MemorySettings { name: "worker".into(), endpoint, dialect: dialect.parse().unwrap(), timeouts };
    MemoryControl::new(settings, sockets(), Clock::system())
}

pub async fn change_faults(endpoint: Endpoint, faults: &str) -> Result<(), String> {
    let call = Call {
        method: http::Method::POST,
        url: endpoint.at("/devnet/faults"),
        headers: http::HeaderMap::new(),
        body: faults.to_owned().into(),
    };
    let reply = sockets().call(&Clock::system(), call, &limits(PATIENCE)).await;
    let reply = reply.map_err(|error| error.to_string())?;
    assert!(reply.status.is_success(), "{}", String::from_utf8_lossy(&reply.body));
    Ok(())
}

pub fn command(card: &DevCard, dialect: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sn17-miner"));
    command
        .args(["devnet", "worker", "--dialect", dialect, "--gaussians", "7100", "--ledger"])
        .arg(card.file())
        .args(arguments)
        .current_dir(card.folder())
        .env_clear()
        .env("HOME", card.folder());
    command
}

pub fn limits(patience: Duration) -> Limits {
    Limits { first_byte: patience, total: patience, body: ByteSize::mib(64) }
}

pub fn sockets() -> Transport {
    Transport::http(Duration::from_secs(10), Connections::Fresh).unwrap()
}
