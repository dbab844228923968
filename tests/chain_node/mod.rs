//! A chain node in this process: serves the recordings of subnet 1 as JSON-RPC, with faults.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::stream;
use serde_json::{Value, json};
use sn17_miner::chain::{DialError, NodeUrl};
use sn17_miner::primitives::{Hotkey, Netuid};
use subxt::ext::codec::{Compact, Encode};
use subxt::rpcs::client::{RawRpcFuture, RawRpcSubscription, RawValue};
use subxt::rpcs::{Error as RpcError, RpcClient, RpcClientT, UserError};
use tokio::time::Instant;

use crate::support;

/// The subnet of the recordings.
pub const NETUID: Netuid = Netuid(1);
pub const BLOCK_TIME: Duration = Duration::from_secs(12);
pub const GENESIS: [u8; 32] = [0x11; 32];

const UIDS: &str = "658faa385070e074c85bf6b568cf0555aab1b4e78e1ea8305462ee53b3686dc8";
const TIMESTAMP_NOW: &str = "f0c365c3cf59d671eb72da0e7a4113c49f1f0515f462cdcf84e0f1d6045dfcbb";

/// What goes wrong with a call.
#[derive(Debug, Clone)]
pub enum Fault {
    /// No answer, ever.
    Hang,
    /// A JSON-RPC error.
    Refuse(i32, &'static str),
    /// This answer instead.
    Answer(Value),
}

pub struct State {
    pub genesis: [u8; 32],
    /// Block at the start of the test.
    pub base: u64,
    pub spec_version: u32,
    pub metadata: Vec<u8>,
    pub netuid: Netuid,
    pub uids: HashMap<[u8; 32], u16>,
    pub block_time_millis: u64,
    /// By method, or by function for a runtime call.
    pub faults: HashMap<String, Fault>,
    pub answers: HashMap<String, String>,
    pub dial_error: Option<DialError>,
    /// Every connection is broken, and so is each new one.
    pub broken: bool,
    pub silent: bool,
    pub calls: BTreeMap<String, usize>,
    /// Every storage key asked for.
    pub keys: Vec<String>,
    pub dials: usize,
    pub subscriptions: usize,
}

/// Clones are the same node.
#[derive(Clone)]
pub struct Node {
    state: Arc<Mutex<State>>,
    started: Instant,
}

fn metadata(file: &str) -> Option<Vec<u8>> {
    Some(fs::read(support::shared(&format!("chain/{file}"))?).unwrap())
}

impl Node {
    /// A sound node at block 6,852,690; nothing where the recordings are missing.
    pub fn new() -> Option<Self> {
        let mut answers = HashMap::new();
        for (function, file) in [
            ("SubnetInfoRuntimeApi_get_selective_metagraph", "get_selective_mechagraph"),
            ("SubnetInfoRuntimeApi_get_selective_mechagraph", "get_selective_mechagraph"),
            ("SubnetInfoRuntimeApi_get_subnet_state", "get_subnet_state"),
            ("NeuronInfoRuntimeApi_get_neurons_lite", "get_neurons_lite"),
        ] {
            let path = support::shared(&format!("chain/recorded/{file}.json"))?;
            let recorded: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
            answers.insert(function.to_owned(), recorded["result"].as_str().unwrap().to_owned());
        }
        let state = State {
            genesis: GENESIS,
            base: 6_852_690,
            spec_version: 343,
            metadata: metadata("finney_metadata_v15.scale")?,
            netuid: NETUID,
            uids: HashMap::new(),
            block_time_millis: 1_762_787_544_000,
            faults: HashMap::new(),
            answers,
            dial_error: None,
            broken: false,
            silent: false,
            calls: BTreeMap::new(),
            keys: Vec::new(),
            dials: 0,
            subscriptions: 0,
        };
        Some(Self { state: Arc::new(Mutex::new(state)), started: Instant::now() })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn register(&self, hotkey: &Hotkey, uid: u16) {
        self.state().uids.insert(*hotkey.as_bytes(), uid);
    }

    pub fn fault(&self, method: &str, fault: Fault) {
        self.state().faults.insert(method.to_owned(), fault);
    }

    pub fn heal(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.dial_error = None;
        state.broken = false;
        state.silent = false;
    }

    /// Another runtime from the next block on.
    pub fn upgrade(&self, spec_version: u32, file: &str) {
        let mut state = self.state();
        state.spec_version = spec_version;
        state.metadata = metadata(file).unwrap();
    }

    pub fn calls(&self, method: &str) -> usize {
        self.state().calls.get(method).copied().unwrap_or_default()
    }

    pub fn block(&self) -> u64 {
        self.state().base + self.started.elapsed().as_secs() / BLOCK_TIME.as_secs()
    }

    /// Dials this node as `url`.
    pub fn dial(&self) -> Result<RpcClient, DialError> {
        let mut state = self.state();
        state.dials += 1;
        match &state.dial_error {
            Some(error) => Err(error.clone()),
            None => Ok(RpcClient::new(self.clone())),
        }
    }

    pub fn header(&self, number: u64) -> Value {
        let zero = format!("0x{}", "0".repeat(64));
        json!({
            "parentHash": hash(number.saturating_sub(1)), "number": format!("{number:#x}"), "stateRoot": zero,
            "extrinsicsRoot": zero, "digest": {"logs": []},
        })
    }

    /// The answer to one call; nothing if it hangs.
    pub fn answer(&self, method: &str, params: &Value) -> Option<Result<Value, (i32, String)>> {
        let name = match method {
            "state_call" => params[0].as_str().unwrap(),
            other => other,
        };
        let fault = {
            let mut state = self.state();
            *state.calls.entry(name.to_owned()).or_default() += 1;
            state.faults.get(name).cloned()
        };
        match fault {
            Some(Fault::Hang) => return None,
            Some(Fault::Refuse(code, message)) => return Some(Err((code, message.to_owned()))),
            Some(Fault::Answer(value)) => return Some(Ok(value)),
            None => {}
        }
        let mut state = self.state();
        Some(Ok(match method {
            "chain_getBlockHash" if params[0] == 0 => hex(&state.genesis).into(),
            "chain_getFinalizedHead" => {
                drop(state);
                hash(self.block()).into()
            }
            "chain_getHeader" => {
                let digits = params[0].as_str().unwrap().trim_start_matches("0x").trim_start_matches('0');
                self.header(u64::from_str_radix(digits, 16).unwrap())
            }
            "state_call" => match name {
                "Core_version" => hex(&runtime_version(state.spec_version)).into(),
                "Metadata_metadata_versions" => hex(&vec![u32::from(state.metadata[4])].encode()).into(),
                "Metadata_metadata_at_version" => {
                    let mut bytes = vec![1];
                    Compact(state.metadata.len() as u32).encode_to(&mut bytes);
                    bytes.extend(&state.metadata);
                    hex(&bytes).into()
                }
                function => match state.answers.get(function) {
                    Some(answer) => answer.as_str().into(),
                    None => return Some(Err((-32_601, "no such function".into()))),
                },
            },
            "state_getStorage" => {
                let key = params[0].as_str().unwrap().trim_start_matches("0x");
                state.keys.push(format!("0x{key}"));
                if key == TIMESTAMP_NOW {
                    return Some(Ok(hex(&state.block_time_millis.encode()).into()));
                }
                let rest = key.strip_prefix(UIDS).expect("only Uids is read");
                assert_eq!(rest.len(), 4 + 32 + 64, "{rest}");
                assert_eq!(rest[..4], hex(&state.netuid.0.encode())[2..]);
                let account: [u8; 32] = unhex(&rest[36..]).try_into().unwrap();
                match state.uids.get(&account) {
                    Some(uid) => hex(&uid.encode()).into(),
                    None => Value::Null,
                }
            }
            other => return Some(Err((-32_601, format!("{other} is not served")))),
        }))
    }
}

/// `RuntimeVersion`, its list of APIs empty.
fn runtime_version(spec_version: u32) -> Vec<u8> {
    let apis: Vec<([u8; 8], u32)> = Vec::new();
    ("node-subtensor", "node-subtensor", 1_u32, spec_version, 1_u32, apis, 1_u32, 1_u8).encode()
}

pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold("0x".to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn hash(number: u64) -> String {
    format!("0x{number:064x}")
}

fn raw(value: &Value) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).unwrap()
}

fn gone() -> RpcError {
    RpcError::Client("the connection is gone".into())
}

impl RpcClientT for Node {
    fn request_raw<'a>(
        &'a self,
        method: &'a str,
        params: Option<Box<RawValue>>,
    ) -> RawRpcFuture<'a, Box<RawValue>> {
        Box::pin(async move {
            if self.state().broken {
                return Err(gone());
            }
            let params = params.map_or(Value::Null, |params| serde_json::from_str(params.get()).unwrap());
            match self.answer(method, &params) {
                None => std::future::pending().await,
                Some(Ok(value)) => Ok(raw(&value)),
                Some(Err((code, message))) => Err(RpcError::User(UserError { code, message, data: None })),
            }
        })
    }

    fn subscribe_raw<'a>(
        &'a self,
        sub: &'a str,
        _: Option<Box<RawValue>>,
        _: &'a str,
    ) -> RawRpcFuture<'a, RawRpcSubscription> {
        Box::pin(async move {
            assert_eq!(sub, "chain_subscribeNewHeads");
            if self.state().broken {
                return Err(gone());
            }
            let subscription = Subscription::of(self.clone());
            let stream = stream::unfold(subscription, |subscription| async move {
                loop {
                    tokio::time::sleep(BLOCK_TIME).await;
                    let (broken, silent) = {
                        let state = subscription.0.state();
                        (state.broken, state.silent)
                    };
                    if broken {
                        return None;
                    }
                    if !silent {
                        let header = subscription.0.header(subscription.0.block());
                        return Some((Ok(raw(&header)), subscription));
                    }
                }
            });
            Ok(RawRpcSubscription { stream: Box::pin(stream), id: Some("1".into()) })
        })
    }
}

/// Counted while it lives.
struct Subscription(Node);

impl Subscription {
    fn of(node: Node) -> Self {
        node.state().subscriptions += 1;
        Self(node)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.0.state().subscriptions -= 1;
    }
}

/// A dialler for nodes by their URLs, and the URLs in order.
pub fn network(
    nodes: &[&Node],
) -> (Vec<NodeUrl>, impl Fn(&NodeUrl) -> Result<RpcClient, DialError> + Send + Sync + 'static) {
    let urls: Vec<NodeUrl> =
        (0..nodes.len()).map(|at| format!("wss://node-{at}.test").parse().unwrap()).collect();
    let nodes: HashMap<NodeUrl, Node> =
        urls.iter().cloned().zip(nodes.iter().map(|&node| node.clone())).collect();
    (urls, move |url: &NodeUrl| nodes[url].dial())
}
