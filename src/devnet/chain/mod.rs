//! A chain of one subnet, in memory: what a metagraph reader needs of subtensor, and its faults.
//!
//! Whoever reads it cannot tell it from a node by what is served: the JSON-RPC that subxt's legacy
//! backend and the Python SDK 9.9.0 send (chain/README.md), headers whose hashes are right, metadata
//! and answers made from one set of types. The same function answers [in process](DevChain::answer),
//! for tests under a paused clock, and over [WebSocket](DevChain::router).
//!
//! Blocks come with the clock, one in 12 s. A change to the subnet or the runtime is in the next
//! block and never in an earlier one. There are no transactions, no proofs and no seals: who needs
//! the chain to *do* something needs a real one.

mod blocks;
mod faults;
mod hex;
mod in_process;
mod metadata;
pub mod records;
mod rpc;
mod serve;
mod storage;
mod subnet;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use blocks::{BLOCK_TIME, BlockHash, HISTORY, Header};
pub use faults::{Fault, FaultRule, Target};
pub use metadata::{Layout, SPEC_VERSION};
pub use rpc::RpcError;
pub use serve::ChainServer;
pub use subnet::{AxonEntry, Neuron, Subnet};

use crate::clock::Clock;
use crate::primitives::{Coldkey, Hotkey, Uid, UnixTime};
use crate::wallet::HotkeyPair;
use blocks::{Block, History};
use metadata::Runtime;
use rpc::Stream;

/// What a chain starts as.
#[derive(Debug, Clone)]
pub struct DevChainSettings {
    pub subnet: Subnet,
    /// Number of the block that is the best one at the start.
    pub first_block: u32,
    /// Blocks by which the finalized one is behind the best one.
    pub finality_lag: usize,
    /// No new blocks.
    pub frozen: bool,
    /// Runtime calls that the runtime lacks, by the method's name alone (`get_selective_metagraph`).
    pub absent_calls: BTreeSet<String>,
}

impl DevChainSettings {
    /// A chain at block 1,000,000, finalized two blocks behind.
    pub fn new(subnet: Subnet) -> Self {
        Self { subnet, first_block: 1_000_000, finality_lag: 2, frozen: false, absent_calls: BTreeSet::new() }
    }
}

/// The development network's chain. Clones are one chain.
#[derive(Debug, Clone)]
pub struct DevChain(Arc<Node>);

#[derive(Debug)]
struct Node {
    clock: Clock,
    state: Mutex<State>,
    /// Told when blocks come otherwise than with the clock.
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    history: History,
    absent_calls: BTreeSet<String>,
    faults: Vec<FaultRule>,
    requests: BTreeMap<String, u64>,
    /// Cancelled to cut everybody off, and then replaced.
    connections: CancellationToken,
    reachable: bool,
}

/// A block as others may see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockInfo {
    pub number: u64,
    pub hash: BlockHash,
    /// By the chain's own clock.
    pub time: UnixTime,
    pub spec_version: u32,
}

impl From<&Arc<Block>> for BlockInfo {
    fn from(block: &Arc<Block>) -> Self {
        Self {
            number: block.number(),
            hash: block.hash,
            time: block.time,
            spec_version: block.runtime.spec_version(),
        }
    }
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Reply {
    Result(Value),
    Error(RpcError),
    /// A message that is no JSON.
    Garbage(String),
    /// The connection is gone.
    Closed,
    /// A subscription is open.
    Subscribed(Heads),
}

impl From<Result<Value, RpcError>> for Reply {
    fn from(answer: Result<Value, RpcError>) -> Self {
        match answer {
            Ok(result) => Self::Result(result),
            Err(error) => Self::Error(error),
        }
    }
}

impl DevChain {
    pub fn new(settings: DevChainSettings, clock: Clock) -> Self {
        let DevChainSettings { subnet, first_block, finality_lag, frozen, absent_calls } = settings;
        let runtime = Runtime::new(SPEC_VERSION, Layout::Recorded, &absent_calls);
        let now = clock.now();
        let mut history = History::new(first_block, finality_lag, now, subnet, runtime);
        history.freeze(frozen, now);
        Self(Arc::new(Node {
            clock,
            state: Mutex::new(State {
                history,
                absent_calls,
                faults: Vec::new(),
                requests: BTreeMap::new(),
                connections: CancellationToken::new(),
                reachable: true,
            }),
            changed: watch::Sender::new(()),
        }))
    }

    /// The state, with every block made that is due.
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.history.advance(self.0.clock.now());
        state
    }

    fn announce(&self) {
        self.0.changed.send_replace(());
    }

    /// The best block.
    pub fn head(&self) -> BlockInfo {
        self.state().history.head().into()
    }

    /// The finalized block.
    pub fn finalized(&self) -> BlockInfo {
        self.state().history.finalized().into()
    }

    /// The first block.
    pub fn genesis(&self) -> BlockInfo {
        self.state().history.genesis().into()
    }

    /// The subnet as the best block has it.
    pub fn subnet(&self) -> Arc<Subnet> {
        self.state().history.head().subnet.clone()
    }

    /// Changes the subnet, from the next block on. The closure must not use the chain.
    pub fn change<T>(&self, change: impl FnOnce(&mut Subnet) -> T) -> T {
        change(Arc::make_mut(&mut self.state().history.subnet))
    }

    /// Registers a neuron, from the next block on, under the next free uid.
    pub fn register(&self, neuron: Neuron) -> Uid {
        self.change(|subnet| {
            subnet.neurons.push(neuron);
            Uid(u16::try_from(subnet.neurons.len() - 1).unwrap_or(u16::MAX))
        })
    }

    /// Deregisters a hotkey, from the next block on, in the only way there is: a newcomer takes over
    /// its uid. `None`: it was not registered.
    pub fn deregister(&self, hotkey: &Hotkey) -> Option<Uid> {
        let block = self.head().number + 1;
        self.change(|subnet| {
            let uid = subnet.uid_of(hotkey)?;
            let newcomer = *HotkeyPair::dev(&format!("newcomer-{uid}-{block}")).hotkey();
            let coldkey = Coldkey::from_bytes(*newcomer.as_bytes());
            *subnet.neuron_mut(hotkey)? = Neuron::miner(newcomer, coldkey, block);
            Some(uid)
        })
    }

    /// Upgrades the runtime, from the next block on: one spec version more, and this layout.
    pub fn upgrade(&self, layout: Layout) {
        let mut state = self.state();
        let spec_version = state.history.runtime.spec_version() + 1;
        state.history.runtime = Arc::new(Runtime::new(spec_version, layout, &state.absent_calls));
    }

    /// Makes a block now, due or not.
    pub fn produce_block(&self) -> BlockInfo {
        let mut state = self.state();
        state.history.produce(self.0.clock.now());
        let head = state.history.head().into();
        drop(state);
        self.announce();
        head
    }

    /// Stops making blocks with the clock, or goes on with it.
    pub fn freeze(&self, frozen: bool) {
        self.state().history.freeze(frozen, self.0.clock.now());
        self.announce();
    }

    /// Sets the chain's own time ahead of ours, or behind, in nanoseconds; from the next block on.
    pub fn set_clock_ahead(&self, nanos: i64) {
        self.state().history.clock_ahead = nanos;
    }

    /// Adds a fault. Of several that concern a request the first one strikes.
    pub fn inject(&self, rule: FaultRule) {
        self.state().faults.push(rule);
    }

    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Cuts every connection and subscription. New ones are welcome.
    pub fn drop_connections(&self) {
        let cut = std::mem::take(&mut self.state().connections);
        cut.cancel();
    }

    /// Makes the chain unreachable, which cuts every connection, or reachable again. Its blocks go on.
    pub fn set_reachable(&self, reachable: bool) {
        self.state().reachable = reachable;
        if !reachable {
            self.drop_connections();
        }
    }

    /// How often a method was called, or a runtime call by its name; faults count.
    pub fn requests(&self, name: &str) -> u64 {
        self.state().requests.get(name).copied().unwrap_or(0)
    }

    /// Answers a request that has one result, past all faults. Parameters are an array or null.
    ///
    /// # Errors
    /// -32601 for every method but those of `rpc_methods`, and for subscriptions; -32602 for
    /// parameters that cannot be read; 4003 for a block that is not known (any more) and for what the
    /// runtime refuses.
    pub fn call(&self, method: &str, params: &Value) -> Result<Value, RpcError> {
        rpc::call(&self.state().history, method, params, false)
    }

    /// Answers any request, with the faults that concern it. Never returns where the fault is silence,
    /// until the connections are cut. Dropping the future is safe.
    pub async fn answer(&self, method: &str, params: &Value) -> Reply {
        let connections = {
            let state = self.state();
            if !state.reachable {
                return Reply::Closed;
            }
            state.connections.clone()
        };
        connections.run_until_cancelled(self.answer_connected(method, params)).await.unwrap_or(Reply::Closed)
    }

    async fn answer_connected(&self, method: &str, params: &Value) -> Reply {
        let fault = self.state().receive(method, params);
        match fault {
            Some(Fault::Drop) => return Reply::Closed,
            Some(Fault::Silence) => return std::future::pending().await,
            Some(Fault::Slow(time)) => self.0.clock.sleep(time).await,
            Some(Fault::RateLimited) => {
                return Reply::Error(RpcError::new(-32_005, "Too many requests: limit exceeded"));
            }
            Some(Fault::Broken) => return Reply::Error(RpcError::new(-32_603, "Internal error")),
            Some(Fault::Garbage) => return Reply::Garbage("\u{fffd}{\"jsonrpc\":\"2.0\",\"re".into()),
            _ => {}
        }
        let state = self.state();
        if let Some(stream) = Stream::subscribed_by(method) {
            let connections = state.connections.clone();
            drop(state);
            return Reply::Subscribed(Heads::new(self.clone(), stream, connections));
        }
        if Stream::unsubscribed_by(method).is_some() {
            return Reply::Result(Value::Bool(true));
        }
        let other_subnet = fault == Some(Fault::OtherSubnet);
        let answer = rpc::call(&state.history, method, params, other_subnet);
        answer.map(|result| if let Some(fault) = fault { fault.spoil(result) } else { result }).into()
    }
}

impl State {
    /// Counts a request and finds its fault.
    fn receive(&mut self, method: &str, params: &Value) -> Option<Fault> {
        let runtime_call = rpc::runtime_call(method, params);
        for name in [Some(method), runtime_call].into_iter().flatten() {
            // Names come from outside; a stranger's may not fill the memory.
            if self.requests.len() < 1_000 || self.requests.contains_key(name) {
                *self.requests.entry(name.to_owned()).or_default() += 1;
            }
        }
        faults::fault_of(&mut self.faults, method, runtime_call)
    }
}

/// An open subscription to headers.
#[derive(Debug)]
pub struct Heads {
    chain: DevChain,
    stream: Stream,
    connections: CancellationToken,
    changed: watch::Receiver<()>,
    /// Number of the last header given.
    given: Option<u64>,
}

impl Heads {
    fn new(chain: DevChain, stream: Stream, connections: CancellationToken) -> Self {
        let changed = chain.0.changed.subscribe();
        Self { chain, stream, connections, changed, given: None }
    }

    /// What its notifications are called.
    pub fn notification(&self) -> &'static str {
        self.stream.names()[1]
    }

    /// The next header, the present one first. `None`: the connection is gone. Cancel-safe.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if self.connections.is_cancelled() {
                return None;
            }
            self.changed.borrow_and_update();
            let due = match self.look() {
                Ok(header) => return Some(header),
                Err(due) => due,
            };
            let clock = self.chain.0.clock;
            let next_block = async {
                match due {
                    Some(due) => clock.sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.connections.cancelled() => return None,
                () = next_block => {}
                changed = self.changed.changed() => changed.ok()?,
            }
        }
    }

    /// A header not given yet, or when there may be one.
    fn look(&mut self) -> Result<Value, Option<UnixTime>> {
        let state = self.chain.state();
        let history = &state.history;
        let tip = match self.stream {
            Stream::New => history.head(),
            Stream::Finalized => history.finalized(),
        };
        let wanted = self.given.map_or(tip.number(), |given| given + 1);
        if wanted > tip.number() {
            return Err(history.due());
        }
        // A subscriber that slept through the whole history goes on with what there is.
        let block = history.by_number(wanted).unwrap_or(tip);
        self.given = Some(block.number());
        Ok(block.header.to_json())
    }
}
