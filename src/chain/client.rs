//! Reading the chain through whichever node answers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;
use super::{ChainError, Dial, Metagraph, Network, NodeUrl, Registration, WebSocket};
use crate::clock::Clock;
use crate::net::Backoff;
use crate::primitives::{ByteSize, Hotkey, Netuid, UnixTime};

/// How the chain is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// In order of preference.
    pub nodes: Vec<NodeUrl>,
    /// Hash of block 0 every node must have, if known.
    pub genesis: Option<[u8; 32]>,
    pub netuid: Netuid,
    /// Between two looks at the chain.
    pub sync_interval: Duration,
    /// Between two looks, however often one is asked for.
    pub sync_floor: Duration,
    pub connect_timeout: Duration,
    /// Of each single call.
    pub call_deadline: Duration,
    /// Without a new block for this long a connection counts as dead.
    pub block_silence: Duration,
    /// Between rounds in which every node failed.
    pub backoff: Backoff,
    /// Of one answer, as it comes over the wire: hexadecimal doubles the bytes.
    pub reply_limit: ByteSize,
}

impl Settings {
    /// The defaults for a network known by name.
    pub fn for_network(network: Network, netuid: Netuid) -> Self {
        Self { genesis: network.genesis(), ..Self::for_nodes(network.nodes(), netuid) }
    }

    /// The defaults for nodes of the user's own choice. Blocks come every 12 s, so ten of them are
    /// missing before a connection counts as dead.
    pub fn for_nodes(nodes: Vec<NodeUrl>, netuid: Netuid) -> Self {
        Self {
            nodes,
            genesis: None,
            netuid,
            sync_interval: Duration::from_secs(600),
            sync_floor: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            call_deadline: Duration::from_secs(30),
            block_silence: Duration::from_secs(120),
            // The ends are in order.
            backoff: Backoff::try_new(Duration::from_secs(2), Duration::from_secs(300))
                .expect("2 s lies below 300 s"),
            reply_limit: ByteSize::mib(64),
        }
    }
}

/// Source of jitter: numbers from 0 up to, not including, 1. A constant 0 switches it off.
pub type Jitter = Box<dyn FnMut() -> f64 + Send>;

/// One look at the chain: everything from one block.
#[derive(Debug, Clone)]
pub struct Synced {
    pub metagraph: Arc<Metagraph>,
    /// Of the hotkeys asked about, in their order.
    pub registrations: Vec<(Hotkey, Registration)>,
    pub node: NodeUrl,
    pub spec_version: u32,
}

/// What a node says of itself.
#[derive(Debug, Clone)]
pub struct Probe {
    /// From dialling to the subscription.
    pub connect: Duration,
    /// From asking for the newest finalized block to its number, on the open connection; the first
    /// time with the metadata.
    pub latency: Duration,
    pub block: u64,
    pub spec_version: u32,
    /// When that block was made, by the chain's clock.
    pub block_time: Option<UnixTime>,
    /// Our clock when it was asked.
    pub asked_at: UnixTime,
}

/// Blocks a node may lie behind the highest one seen before the next node is preferred.
const BEHIND: u64 = 50;

/// Reads the chain: keeps one connection, and goes to the next node when that one fails.
pub struct ChainClient {
    settings: Settings,
    dial: Arc<dyn Dial>,
    clock: Clock,
    connection: Option<Connection>,
    /// The node that failed last: asked after all others.
    suspect: Option<usize>,
    /// Highest finalized block any node has shown.
    highest: u64,
}

impl fmt::Debug for ChainClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChainClient")
            .field("node", &self.node())
            .field("highest", &self.highest)
            .finish_non_exhaustive()
    }
}

impl ChainClient {
    pub fn new(settings: Settings, dial: Arc<dyn Dial>, clock: Clock) -> Self {
        Self { settings, dial, clock, connection: None, suspect: None, highest: 0 }
    }

    /// Over WebSockets.
    pub fn over_websocket(settings: Settings, clock: Clock) -> Self {
        let dial =
            Arc::new(WebSocket::new(settings.reply_limit, settings.connect_timeout, settings.call_deadline));
        Self::new(settings, dial, clock)
    }

    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The node connected to.
    pub fn node(&self) -> Option<&NodeUrl> {
        self.connection.as_ref().map(Connection::node)
    }

    /// Reads registrations and metagraph at the newest finalized block, asking each node once at
    /// most. After an error the connection is gone unless the chain itself gave the answer.
    ///
    /// # Errors
    /// The last node's, when all of them failed.
    pub async fn sync(&mut self, hotkeys: &[Hotkey]) -> Result<Synced, ChainError> {
        let mut tried = Vec::with_capacity(self.settings.nodes.len());
        loop {
            let position = match self.connected_position() {
                Some(position) => position,
                None => self.next_node(&tried).ok_or(ChainError::NoNodes)?,
            };
            tried.push(position);
            let error = match self.sync_with(position, hotkeys).await {
                Ok(synced) => return Ok(synced),
                Err(error) => error,
            };
            if !error.is_nodes_fault() {
                return Err(error);
            }
            self.leave(position);
            if self.next_node(&tried).is_none() {
                // Every node is behind what one of them once showed: that one was wrong, or the chain
                // began anew.
                if matches!(error, ChainError::Behind { .. }) {
                    self.highest = 0;
                }
                return Err(error);
            }
            tracing::debug!(%error, "Going to the next chain node");
        }
    }

    async fn sync_with(&mut self, position: usize, hotkeys: &[Hotkey]) -> Result<Synced, ChainError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let node = self.settings.nodes.get(position).ok_or(ChainError::NoNodes)?;
                let opened = Connection::open(self.dial.as_ref(), node, &self.settings).await?;
                self.connection.insert(opened)
            }
        };
        let node = connection.node().clone();
        let at = connection.at_current_block().await?;
        if at.number().saturating_add(BEHIND) < self.highest {
            return Err(ChainError::Behind { node, block: at.number(), known: self.highest });
        }
        let mut registrations = Vec::with_capacity(hotkeys.len());
        for hotkey in hotkeys {
            registrations.push((*hotkey, at.registration(self.settings.netuid, hotkey).await?));
        }
        let metagraph = at.metagraph(self.settings.netuid, &self.clock).await?;
        self.highest = self.highest.max(at.number());
        let spec_version = at.spec_version();
        Ok(Synced { metagraph: Arc::new(metagraph), registrations, node, spec_version })
    }

    /// Waits for the next block on the connection and returns its number; for ever without one.
    /// Cancel-safe.
    ///
    /// # Errors
    /// When the connection broke or went silent; it is gone then, and the next sync dials anew.
    pub async fn next_block(&mut self) -> Result<u64, ChainError> {
        let Some(connection) = &mut self.connection else { return std::future::pending().await };
        let outcome = connection.next_block(self.settings.block_silence).await;
        if outcome.is_err()
            && let Some(position) = self.connected_position()
        {
            self.leave(position);
        }
        outcome
    }

    /// Looks at one node by a connection of its own.
    ///
    /// # Errors
    /// Whatever keeps the node from being used.
    pub async fn probe(&self, node: &NodeUrl) -> Result<Probe, ChainError> {
        let asked_at = self.clock.now();
        let started = Instant::now();
        let mut connection = Connection::open(self.dial.as_ref(), node, &self.settings).await?;
        let connect = started.elapsed();
        let started = Instant::now();
        let at = connection.at_current_block().await?;
        let latency = started.elapsed();
        let block_time = at.time().await?;
        Ok(Probe {
            connect,
            latency,
            block: at.number(),
            spec_version: at.spec_version(),
            block_time,
            asked_at,
        })
    }

    fn connected_position(&self) -> Option<usize> {
        let node = self.node()?;
        self.settings.nodes.iter().position(|known| known == node)
    }

    /// The preferred node of those not tried, the suspect last.
    fn next_node(&self, tried: &[usize]) -> Option<usize> {
        (0..self.settings.nodes.len())
            .filter(|position| !tried.contains(position))
            .min_by_key(|position| (self.suspect == Some(*position), *position))
    }

    fn leave(&mut self, position: usize) {
        self.connection = None;
        self.suspect = Some(position);
    }
}
