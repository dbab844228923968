//! One connection to one node.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use subxt::backend::LegacyBackend;
use subxt::config::RpcConfigFor;
use subxt::config::substrate::H256;
use subxt::rpcs::client::RpcSubscription;
use subxt::rpcs::methods::legacy::LegacyRpcMethods;
use subxt::rpcs::{RpcClient, RpcConfig};
use subxt::{ArcMetadata, OnlineClient, OnlineClientAtBlock, SubstrateConfig};
use tokio::time::{Instant, timeout, timeout_at};

use super::answers::{Answers, Place, Reading, read_metagraph};
use super::rpc::{Guard, LastFailure, shown};
use super::{ChainError, Dial, DialError, Metagraph, NodeUrl, Registration, Settings};
use crate::clock::Clock;
use crate::primitives::{Hotkey, Netuid, Uid, UnixTime};

type NodeHeader = <RpcConfigFor<SubstrateConfig> as RpcConfig>::Header;

pub(super) struct Connection {
    node: NodeUrl,
    rpc: RpcClient,
    last: LastFailure,
    client: OnlineClient<SubstrateConfig>,
    heads: RpcSubscription<NodeHeader>,
    /// Highest block the subscription has shown.
    best: u64,
    /// When it showed it.
    progress: Instant,
    spec_version: Option<u32>,
}

/// The state at the newest finalized block. Not kept: it holds on to that block's metadata.
pub(super) struct AtBlock<'a> {
    step: Step<'a>,
    at: OnlineClientAtBlock<SubstrateConfig>,
}

impl Connection {
    /// Connects, holds the node to the expected chain and subscribes to its blocks.
    pub(super) async fn open(
        dial: &dyn Dial,
        node: &NodeUrl,
        settings: &Settings,
    ) -> Result<Self, ChainError> {
        let unreachable = |reason: String| ChainError::Unreachable { node: node.clone(), reason };
        let dialled = timeout(settings.connect_timeout, dial.dial(node)).await.map_err(|_| {
            unreachable(format!("no connection within {} s", settings.connect_timeout.as_secs_f32()))
        })?;
        let inner = dialled.map_err(|error| match error {
            DialError::Unreachable(reason) => unreachable(reason),
            DialError::RateLimited(reason) => ChainError::RateLimited { node: node.clone(), reason },
        })?;
        let last = LastFailure::default();
        let rpc = RpcClient::new(Guard {
            inner,
            deadline: settings.call_deadline,
            limit: settings.reply_limit,
            last: last.clone(),
        });
        let step = Step { node, last: &last };
        let client = step.run("the genesis hash", client(&rpc, SubstrateConfig::new())).await?;
        if let Some(expected) = settings.genesis
            && client.genesis_hash() != H256(expected)
        {
            return Err(ChainError::ForeignChain {
                node: node.clone(),
                found: format!("{:?}", client.genesis_hash()),
                expected: format!("{:?}", H256(expected)),
            });
        }
        let methods = LegacyRpcMethods::<RpcConfigFor<SubstrateConfig>>::new(rpc.clone());
        let heads = step.run("the subscription to blocks", methods.chain_subscribe_new_heads()).await?;
        Ok(Self {
            node: node.clone(),
            last,
            client,
            rpc,
            heads,
            best: 0,
            progress: Instant::now(),
            spec_version: None,
        })
    }

    pub(super) const fn node(&self) -> &NodeUrl {
        &self.node
    }

    fn step(&self) -> Step<'_> {
        Step { node: &self.node, last: &self.last }
    }

    /// Waits for a block higher than any seen on this connection and returns its number. Cancel-safe.
    ///
    /// # Errors
    /// [`ChainError::Silent`] when there was none for `silence` since the last, and when the
    /// subscription ends.
    pub(super) async fn next_block(&mut self, silence: Duration) -> Result<u64, ChainError> {
        loop {
            match timeout_at(self.progress + silence, self.heads.next()).await {
                Err(_) => return Err(ChainError::Silent { node: self.node.clone(), silence }),
                Ok(None) => {
                    let reason = "the subscription to blocks ended".to_owned();
                    return Err(ChainError::Closed { node: self.node.clone(), reason });
                }
                Ok(Some(Err(error))) => {
                    return Err(ChainError::Closed { node: self.node.clone(), reason: shown(&error) });
                }
                Ok(Some(Ok(header))) if header.number > self.best => {
                    self.best = header.number;
                    self.progress = Instant::now();
                    return Ok(header.number);
                }
                // A fork's block, or one again.
                Ok(Some(Ok(_))) => {}
            }
        }
    }

    /// Goes to the newest finalized block, fetching the metadata if the runtime is new.
    pub(super) async fn at_current_block(&mut self) -> Result<AtBlock<'_>, ChainError> {
        let at = self.step().run("the current block", self.client.at_current_block()).await?;
        let spec_version = at.spec_version();
        if self.spec_version.is_some_and(|before| before != spec_version) {
            // subxt keeps the metadata of every version it met, for good.
            let config = SubstrateConfig::builder()
                .set_genesis_hash(self.client.genesis_hash())
                .set_metadata_for_spec_versions([(spec_version, at.metadata())])
                .build();
            self.client = self.step().run("the genesis hash", client(&self.rpc, config)).await?;
        }
        self.spec_version = Some(spec_version);
        Ok(AtBlock { step: self.step(), at })
    }
}

impl AtBlock<'_> {
    pub(super) fn number(&self) -> u64 {
        self.at.block_number()
    }

    pub(super) fn spec_version(&self) -> u32 {
        self.at.spec_version()
    }

    fn metadata(&self) -> ArcMetadata {
        self.at.metadata()
    }

    /// `SubtensorModule.Uids`: it has no default, so an absent entry means "not registered".
    pub(super) async fn registration(
        &self,
        netuid: Netuid,
        hotkey: &Hotkey,
    ) -> Result<Registration, ChainError> {
        let entry = subxt::dynamic::storage::<(u16, [u8; 32]), u16>("SubtensorModule", "Uids");
        let key = (netuid.0, *hotkey.as_bytes());
        let value = self.step.run("SubtensorModule.Uids", self.at.storage().try_fetch(entry, key)).await?;
        let block = self.number();
        let Some(value) = value else { return Ok(Registration::NotRegistered { block }) };
        let uid = value
            .decode()
            .map_err(|e| ChainError::Malformed { what: "SubtensorModule.Uids".into(), reason: shown(&e) })?;
        Ok(Registration::Registered { uid: Uid(uid), block })
    }

    /// When this block was made, by the chain's clock; nothing where the runtime keeps no time.
    pub(super) async fn time(&self) -> Result<Option<UnixTime>, ChainError> {
        let has_time = self.metadata().pallet_by_name("Timestamp").is_some();
        if !has_time {
            return Ok(None);
        }
        let entry = subxt::dynamic::storage::<(), u64>("Timestamp", "Now");
        let value = self.step.run("Timestamp.Now", self.at.storage().try_fetch(entry, ())).await?;
        let millis = value
            .map(|value| value.decode())
            .transpose()
            .map_err(|e| ChainError::Malformed { what: "Timestamp.Now".into(), reason: shown(&e) })?;
        // A runtime that never set it holds the default.
        Ok(millis.filter(|&millis| millis != 0).map(UnixTime::from_millis))
    }

    /// Reads the subnet in the first way that works. The error is that of the preferred one.
    pub(super) async fn metagraph(&self, netuid: Netuid, clock: &Clock) -> Result<Metagraph, ChainError> {
        let metadata = self.metadata();
        let mut first_error = None;
        for reading in Reading::ALL.into_iter().filter(|reading| reading.is_offered(&metadata)) {
            match self.read(reading, netuid, clock).await {
                Ok(metagraph) => return Ok(metagraph),
                Err(error) if error.is_calls_fault() => {
                    tracing::debug!(?reading, %error, "This way of reading the subnet failed");
                    first_error.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(first_error.unwrap_or(ChainError::NoCall))
    }

    async fn read(&self, reading: Reading, netuid: Netuid, clock: &Clock) -> Result<Metagraph, ChainError> {
        let arguments = reading.arguments(netuid);
        let runtime = self.at.runtime_apis();
        let mut answers = Vec::with_capacity(2);
        for (api, method) in reading.calls() {
            let function = format!("{api}_{method}");
            let call = runtime.call_raw(&function, Some(&arguments));
            answers.push(self.step.run(method, call).await?);
        }
        let answers = match (reading, answers.as_slice()) {
            (Reading::Selective, [bytes]) => Answers::Selective(bytes),
            (Reading::Mechagraph, [bytes]) => Answers::Mechagraph(bytes),
            (Reading::Whole, [bytes]) => Answers::Whole(bytes),
            (Reading::LiteAndState, [lite, state]) => Answers::LiteAndState { lite, state },
            // `calls` names one call, or two for the last.
            _ => return Err(ChainError::NoCall),
        };
        let place = Place { netuid, block: self.number(), at: clock.now() };
        read_metagraph(answers, &self.metadata(), place)
    }
}

async fn client(
    rpc: &RpcClient,
    config: SubstrateConfig,
) -> Result<OnlineClient<SubstrateConfig>, subxt::error::OnlineClientError> {
    let backend = LegacyBackend::builder().build(rpc.clone());
    OnlineClient::from_backend_with_config(config, Arc::new(backend)).await
}

/// Runs calls and says what went wrong: the failed call if the last one failed, else that the answer
/// made no sense.
#[derive(Clone, Copy)]
struct Step<'a> {
    node: &'a NodeUrl,
    last: &'a LastFailure,
}

impl Step<'_> {
    async fn run<T, E: fmt::Display>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, ChainError> {
        drop(self.last.take());
        work.await.map_err(|error| match self.last.take() {
            Some(failure) => failure.at(self.node),
            None => ChainError::Malformed { what: what.to_owned(), reason: shown(&error) },
        })
    }
}
