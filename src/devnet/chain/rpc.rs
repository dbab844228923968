//! From a request to its answer: the methods that subxt's legacy backend and the Python SDK call
//! (chain/README.md, "Smallest set for an embedded development chain").

use std::sync::Arc;

use parity_scale_codec::{Compact, DecodeAll, Encode};
use serde_json::{Value, json};
use sp_core::crypto::AccountId32;

use super::blocks::{Block, BlockHash, History};
use super::metadata::Layout;
use super::records::{Record, View};
use super::subnet::Subnet;
use super::{hex, storage};
use crate::primitives::Netuid;

/// Why a request has no result, as JSON-RPC puts it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct RpcError {
    pub code: i32,
    pub message: String,
}

impl RpcError {
    pub(super) fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(super) fn unknown_method() -> Self {
        Self::new(-32_601, "Method not found")
    }

    fn parameters(message: impl Into<String>) -> Self {
        Self::new(-32_602, format!("Invalid params: {}", message.into()))
    }

    /// 4003 is a node's code for what its runtime or its database refuses.
    fn client(message: impl std::fmt::Display) -> Self {
        Self::new(4003, format!("Client error: {message}"))
    }

    /// As a node words it; the Python SDK looks for it.
    fn no_such_call(call: &str) -> Self {
        Self::client(format!("Execution failed: Other: Exported method {call} is not found"))
    }

    /// As the `error` member of an answer.
    pub fn to_json(&self) -> Value {
        json!({"code": self.code, "message": self.message})
    }
}

/// The methods answered with one result.
const METHODS: [&str; 10] = [
    "chain_getBlockHash",
    "chain_getFinalizedHead",
    "chain_getHead",
    "chain_getHeader",
    "rpc_methods",
    "state_call",
    "state_getMetadata",
    "state_getRuntimeVersion",
    "state_getStorage",
    "state_getStorageAt",
];

/// A stream of headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    New,
    Finalized,
}

impl Stream {
    const ALL: [Self; 2] = [Self::New, Self::Finalized];

    /// What subscribes, what a notification is called, what unsubscribes.
    pub const fn names(self) -> [&'static str; 3] {
        match self {
            Self::New => ["chain_subscribeNewHeads", "chain_newHead", "chain_unsubscribeNewHeads"],
            Self::Finalized => {
                ["chain_subscribeFinalizedHeads", "chain_finalizedHead", "chain_unsubscribeFinalizedHeads"]
            }
        }
    }

    pub fn subscribed_by(method: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| stream.names()[0] == method)
    }

    pub fn unsubscribed_by(method: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| stream.names()[2] == method)
    }
}

/// The runtime call that a request is for.
pub(super) fn runtime_call<'a>(method: &str, params: &'a Value) -> Option<&'a str> {
    if method == "state_call" { params.get(0)?.as_str() } else { None }
}

/// A request's parameters, by position. Trailing ones may be missing.
struct Params<'a>(&'a [Value]);

impl<'a> Params<'a> {
    fn new(params: &'a Value) -> Result<Self, RpcError> {
        match params {
            Value::Null => Ok(Self(&[])),
            Value::Array(values) => Ok(Self(values)),
            _ => Err(RpcError::parameters("an array is wanted")),
        }
    }

    fn get(&self, position: usize) -> Option<&'a Value> {
        self.0.get(position).filter(|value| !value.is_null())
    }

    fn text(&self, position: usize) -> Result<&'a str, RpcError> {
        self.get(position)
            .and_then(Value::as_str)
            .ok_or_else(|| RpcError::parameters(format!("a text is wanted at {position}")))
    }

    fn bytes(&self, position: usize) -> Result<Vec<u8>, RpcError> {
        hex::decode(self.text(position)?)
            .ok_or_else(|| RpcError::parameters(format!("hexadecimal is wanted at {position}")))
    }

    /// The hash of a block; `None`: the best one.
    fn block(&self, position: usize) -> Result<Option<BlockHash>, RpcError> {
        if self.get(position).is_none() {
            return Ok(None);
        }
        let bytes = self.bytes(position)?.try_into();
        let bytes = bytes.map_err(|_| RpcError::parameters(format!("a hash is wanted at {position}")))?;
        Ok(Some(BlockHash(bytes)))
    }

    /// The block whose state is asked for.
    fn state(&self, position: usize, history: &History) -> Result<Arc<Block>, RpcError> {
        let Some(hash) = self.block(position)? else { return Ok(history.head().clone()) };
        // The Python SDK looks for this wording.
        history.by_hash(&hash).cloned().ok_or_else(|| {
            RpcError::client(format!("Api called for an unknown Block: State already discarded for {hash}"))
        })
    }
}

/// Answers a request. `other_subnet`: runtime calls about our subnet are answered for the next one.
///
/// # Errors
/// -32601 for a method that is not in the set, -32602 for parameters that cannot be read, 4003 for a
/// block that is not known and for what the runtime refuses.
pub(super) fn call(
    history: &History,
    method: &str,
    params: &Value,
    other_subnet: bool,
) -> Result<Value, RpcError> {
    let params = Params::new(params)?;
    let bytes = |bytes: &[u8]| Value::String(hex::encode(bytes));
    Ok(match method {
        "chain_getBlockHash" => {
            let block = match params.get(0) {
                None => Some(history.head()),
                Some(number) => history.by_number(block_number(number)?),
            };
            block.map_or(Value::Null, |block| json!(block.hash.to_string()))
        }
        "chain_getHead" => json!(history.head().hash.to_string()),
        "chain_getFinalizedHead" => json!(history.finalized().hash.to_string()),
        "chain_getHeader" => {
            let block = match params.block(0)? {
                None => Some(history.head()),
                Some(hash) => history.by_hash(&hash),
            };
            block.map_or(Value::Null, |block| block.header.to_json())
        }
        "rpc_methods" => {
            let streams = Stream::ALL.iter().flat_map(|stream| {
                let [subscribe, _, unsubscribe] = stream.names();
                [subscribe, unsubscribe]
            });
            let mut methods: Vec<&str> = METHODS.into_iter().chain(streams).collect();
            methods.sort_unstable();
            json!({ "methods": methods })
        }
        "state_call" => {
            let block = params.state(2, history)?;
            let execution = Execution { block: &block, other_subnet };
            bytes(&execution.run(params.text(0)?, &params.bytes(1)?)?)
        }
        "state_getMetadata" => {
            let block = params.state(0, history)?;
            bytes(block.runtime.metadata(14).unwrap_or_default())
        }
        "state_getRuntimeVersion" => params.state(0, history)?.runtime.version_json(),
        "state_getStorage" | "state_getStorageAt" => {
            let key = params.bytes(0)?;
            let block = params.state(1, history)?;
            storage::read(&block, &key).map_or(Value::Null, |value| bytes(&value))
        }
        _ => return Err(RpcError::unknown_method()),
    })
}

fn block_number(value: &Value) -> Result<u64, RpcError> {
    let number = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => {
            text.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok())
        }
        _ => None,
    };
    number.ok_or_else(|| RpcError::parameters("a block number is wanted"))
}

/// One runtime call at one block.
struct Execution<'a> {
    block: &'a Block,
    other_subnet: bool,
}

impl Execution<'_> {
    /// What a view of the subnet shows, if there is one with this number.
    fn look<T>(&self, netuid: u16, show: impl FnOnce(View<'_>) -> T) -> Option<T> {
        let asked = &self.block.subnet;
        if netuid != asked.netuid.0 {
            return None;
        }
        let next = Netuid(netuid.wrapping_add(1));
        let other = self.other_subnet.then(|| Subnet { netuid: next, ..Subnet::clone(asked) });
        Some(show(View {
            subnet: other.as_ref().unwrap_or(asked),
            block: self.block.number(),
            old_columns: self.block.runtime.layout == Layout::Recorded,
        }))
    }

    /// `Option` of a record, as this runtime lays it out.
    fn record<R: Record>(&self, netuid: u16, show: impl FnOnce(View<'_>) -> R) -> Vec<u8> {
        match self.look(netuid, show) {
            Some(record) => [vec![1], self.block.runtime.layout.encode(&record)].concat(),
            None => vec![0],
        }
    }

    fn run(&self, call: &str, input: &[u8]) -> Result<Vec<u8>, RpcError> {
        fn read<T: DecodeAll>(input: &[u8]) -> Result<T, RpcError> {
            T::decode_all(&mut &*input)
                .map_err(|error| RpcError::client(format!("Execution failed: Bad input data: {error}")))
        }
        let runtime = &self.block.runtime;
        if !runtime.offers(call) {
            return Err(RpcError::no_such_call(call));
        }
        Ok(match call {
            "Core_version" => read(input).map(|()| runtime.version_scale())?,
            "Metadata_metadata" => read(input).map(|()| runtime.metadata(14).unwrap_or_default().encode())?,
            "Metadata_metadata_versions" => read(input).map(|()| vec![14u32, 15].encode())?,
            "Metadata_metadata_at_version" => runtime.metadata(read(input)?).encode(),
            "AccountNonceApi_account_nonce" => read(input).map(|_: AccountId32| 0u32.encode())?,
            "NeuronInfoRuntimeApi_get_neurons_lite" => {
                let neurons = self.look(read(input)?, |view| view.neurons_lite()).unwrap_or_default();
                let mut scale = Compact(u32::try_from(neurons.len()).unwrap_or(u32::MAX)).encode();
                scale.extend(neurons.iter().flat_map(|neuron| runtime.layout.encode(neuron)));
                scale
            }
            "SubnetInfoRuntimeApi_get_metagraph" => self.record(read(input)?, |view| view.metagraph()),
            "SubnetInfoRuntimeApi_get_subnet_state" => self.record(read(input)?, |view| view.subnet_state()),
            "SubnetInfoRuntimeApi_get_selective_metagraph" => {
                let (netuid, wanted): (u16, Vec<u16>) = read(input)?;
                self.record(netuid, |view| view.selective_metagraph(&wanted))
            }
            "SubnetInfoRuntimeApi_get_selective_mechagraph" => {
                let (netuid, mechanism, wanted): (u16, u8, Vec<u16>) = read(input)?;
                // There is one mechanism, as MechanismCountCurrent says.
                if mechanism == 0 {
                    self.record(netuid, |view| view.selective_metagraph(&wanted))
                } else {
                    vec![0]
                }
            }
            _ => return Err(RpcError::no_such_call(call)),
        })
    }
}
