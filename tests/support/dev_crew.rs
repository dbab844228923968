//! Worker processes in the hands of the agent: its own verbs, processes and probe.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use sn17_miner::clock::Clock;
use sn17_miner::gpu::probe::NvmlLibrary;
use sn17_miner::gpu::{Crew, Hand, Share, WorkerId};
use sn17_miner::net::Endpoint;
use sn17_miner::primitives::ByteSize;
use sn17_miner::store::Store;
use sn17_miner::workers::{Premises, ProcessSettings, Scorer, ScorerSettings, WorkerProcess};

use super::dev_workers::{DevCard, PATIENCE, UUID, command, limits, memory, sockets};
use super::stand_in::StandIn;

/// How long one is let end by itself.
const GRACE: Duration = Duration::from_millis(300);

/// The workers of one card, before an arbiter has them.
pub struct Crewing<'a> {
    card: &'a DevCard,
    store: &'a Store,
    hands: BTreeMap<WorkerId, Hand>,
    pub processes: BTreeMap<WorkerId, WorkerProcess>,
    pub addresses: BTreeMap<WorkerId, SocketAddr>,
}

impl<'a> Crewing<'a> {
    pub fn new(card: &'a DevCard, store: &'a Store) -> Self {
        let (hands, processes, addresses) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { card, store, hands, processes, addresses }
    }

    /// A worker that is not started yet. `verbs`: its dialect of them; `patience`: for each.
    pub fn hire(&mut self, name: &str, dialect: &str, verbs: &str, patience: Duration, arguments: &[&str]) {
        let address = free_address();
        let endpoint = Endpoint::of(address);
        let listen = address.to_string();
        let own = ["--name", name, "--listen", &listen];
        let command = command(self.card, dialect, &[&own[..], arguments].concat());
        let words = [command.get_program()].into_iter().chain(command.get_args());
        let settings = ProcessSettings {
            command: words.map(|word| word.to_str().unwrap().to_owned()).collect(),
            cwd: None,
            env: BTreeMap::new(),
            start_timeout: PATIENCE,
            stop_timeout: GRACE,
            // Some of them die often.
            restarts_per_hour: 1_000,
            memory_fraction: None,
            log_limit: ByteSize::mib(1),
            variants: Vec::new(),
        };
        let control = memory(endpoint.clone(), verbs, patience);
        let folder = self.card.folder().join("workers");
        let premises =
            Premises { folder, port: address.port(), card: Some(UUID.into()), control: control.clone() };
        let process = WorkerProcess::new(name, settings, premises, Clock::system());
        let canary = (dialect == "three-gen").then(|| {
            let settings = ScorerSettings { name: name.to_owned(), endpoint, limits: limits(patience) };
            (Scorer::new(settings, sockets(), Clock::system()), self.store.clone())
        });
        let hand = Hand { control, process: Some(process.clone()), canary, port: Some(address.port()) };
        self.hands.insert(name.into(), hand);
        self.processes.insert(name.into(), process);
        self.addresses.insert(name.into(), address);
    }

    /// In the hands of the agent, which sees the card by the driver's library.
    pub fn crew(&mut self, library: &StandIn) -> Arc<Crew> {
        library.follow(&self.card.file());
        let probe = NvmlLibrary::new(Some(library.library()), PATIENCE).card(UUID);
        let hands = std::mem::take(&mut self.hands);
        Arc::new(Crew::new(Some(Arc::new(probe)), Share::default(), hands, Clock::system()))
    }
}

/// An address at which nobody listens.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
