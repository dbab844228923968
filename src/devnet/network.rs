//! The whole network, served on loopback.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http_body_util::BodyExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::axon::{DevAxon, DevAxonSettings};
use super::axon_judge::AxonJudge;
use super::chain::{ChainServer, DevChain, DevChainSettings, Neuron, Subnet};
use super::generator::{DevGenerator, DevGeneratorSettings};
use super::rules::ValidatorRules;
use super::scorer::{DevScorer, DevScorerSettings};
use super::tasks::TaskMaker;
use crate::clock::Clock;
use crate::net::{InProcess, Transport};
use crate::primitives::{Coldkey, Hotkey, Netuid, Rao, Uid};
use crate::wallet::HotkeyPair;

/// What the network is made of.
#[derive(Debug, Clone)]
pub struct NetworkSettings {
    pub validators: u16,
    pub rules: ValidatorRules,
    /// What a validator takes to score a result, besides the work.
    pub scoring: Duration,
    /// Share of tasks with an image as prompt, 0 to 1.
    pub image_share: f64,
    /// Of tasks and scores.
    pub seed: u64,
    /// First port; 0: any that are free.
    pub base_port: u16,
    /// Who is registered, from the first uid after the validators'.
    pub miners: Vec<Hotkey>,
    /// The chain makes no new blocks.
    pub freeze_blocks: bool,
}

/// Validators, a generator and a scorer; a chain once the validators have their addresses.
#[derive(Debug, Clone)]
pub struct Devnet {
    pub axons: Vec<DevAxon>,
    pub generator: DevGenerator,
    pub scorer: DevScorer,
    clock: Clock,
    base_port: u16,
    freeze_blocks: bool,
    miners: Vec<Hotkey>,
}

/// Stake of the first validator; each further one has half a thousand less, so that all lie above
/// the least that miners ask for.
const STAKE: u64 = 40_000;

/// A server of the network could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct ListenError {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

/// The network on its sockets.
#[derive(Debug)]
pub struct Served {
    /// Hotkey, address and uid of each validator.
    pub validators: Vec<(Hotkey, SocketAddr, Uid)>,
    pub generator: SocketAddr,
    pub scorer: SocketAddr,
    /// The chain that names the validators; none where there are none.
    pub chain: Option<DevChain>,
    node: Option<ChainServer>,
    servers: JoinSet<()>,
    stop: CancellationToken,
}

impl Devnet {
    /// Builds the network; nothing listens yet.
    pub fn new(settings: &NetworkSettings, clock: Clock) -> Self {
        let axons = (0..settings.validators)
            .map(|number| {
                let seed = settings.seed.wrapping_add(u64::from(number));
                let axon_settings = DevAxonSettings {
                    rules: settings.rules,
                    judge: AxonJudge { seed, ..AxonJudge::default() }.into(),
                    scoring: settings.scoring,
                    ..DevAxonSettings::default()
                };
                let key = HotkeyPair::dev(&format!("validator-{number}"));
                let axon =
                    DevAxon::new(key, clock, axon_settings, TaskMaker::new(seed, settings.image_share));
                for (uid, miner) in (settings.validators..).zip(&settings.miners) {
                    axon.register(Uid(uid), *miner);
                }
                axon
            })
            .collect();
        Self {
            axons,
            generator: DevGenerator::new(DevGeneratorSettings::default(), clock),
            scorer: DevScorer::new(DevScorerSettings::default(), clock),
            clock,
            base_port: settings.base_port,
            freeze_blocks: settings.freeze_blocks,
            miners: settings.miners.clone(),
        }
    }

    /// The chain on which these validators serve at `addresses` and the miners are registered.
    pub fn chain(&self, addresses: &[SocketAddr]) -> DevChain {
        let coldkey = |name: &str| Coldkey::from_bytes(*HotkeyPair::dev(name).hotkey().as_bytes());
        let owner = *HotkeyPair::dev("owner").hotkey();
        let mut subnet = Subnet::new(Netuid(17), owner, coldkey("owner-coldkey"));
        let mut stake = STAKE;
        for (axon, address) in self.axons.iter().zip(addresses) {
            let rao = Rao(stake * 1_000_000_000);
            subnet.neurons.push(Neuron::validator(axon.hotkey(), coldkey("validators"), *address, rao, 1));
            stake = stake.saturating_sub(500);
        }
        for miner in &self.miners {
            subnet.neurons.push(Neuron::miner(*miner, coldkey("coldkey"), 1));
        }
        let settings = DevChainSettings { frozen: self.freeze_blocks, ..DevChainSettings::new(subnet) };
        DevChain::new(settings, self.clock)
    }

    /// Serves everything on loopback: generator and scorer on the first two ports, then the chain, then
    /// the validators.
    ///
    /// # Errors
    /// When a port is taken.
    pub async fn serve(&self) -> Result<Served, ListenError> {
        let mut servers = JoinSet::new();
        let stop = CancellationToken::new();
        let mut next = self.base_port;
        let mut start = async |router: Router, next: &mut u16| -> Result<SocketAddr, ListenError> {
            let (listener, address) = listen(next).await?;
            let stopped = stop.clone().cancelled_owned();
            servers.spawn(async move {
                if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
                    tracing::warn!(%error, "A server of the development network ended");
                }
            });
            Ok(address)
        };
        let generator = start(self.generator.router(), &mut next).await?;
        let scorer = start(self.scorer.router(), &mut next).await?;
        let node = if self.axons.is_empty() { None } else { Some(listen(&mut next).await?) };
        let mut validators = Vec::with_capacity(self.axons.len());
        for (uid, axon) in (0..).zip(&self.axons) {
            validators.push((axon.hotkey(), start(axon.router(), &mut next).await?, Uid(uid)));
        }
        let addresses: Vec<SocketAddr> = validators.iter().map(|(_, address, _)| *address).collect();
        let mut chain = None;
        let node = match node {
            Some((listener, address)) => {
                let served = self.chain(&addresses);
                chain = Some(served.clone());
                Some(served.serve(listener).map_err(|source| ListenError { address, source })?)
            }
            None => None,
        };
        Ok(Served { validators, generator, scorer, chain, node, servers, stop })
    }
}

/// Listens on loopback at `next`, which becomes the port after it, or at any free port if it is 0.
async fn listen(next: &mut u16) -> Result<(TcpListener, SocketAddr), ListenError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, *next));
    *next = if *next == 0 { 0 } else { next.saturating_add(1) };
    let failed = |source| ListenError { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

impl Served {
    /// URL of the chain's node.
    pub fn node_url(&self) -> Option<String> {
        self.node.as_ref().map(ChainServer::url)
    }

    /// Stops listening and waits for calls under way, at most as long as the caller lets it.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(node) = self.node.take() {
            node.stop().await;
        }
        while self.servers.join_next().await.is_some() {}
    }
}

/// A transport that reaches servers in this process by address, without sockets: for paused tests.
pub fn in_process(servers: HashMap<SocketAddr, Router>) -> Transport {
    let servers = Arc::new(servers);
    let serve: InProcess = Arc::new(move |request| {
        let address = request.uri().authority().and_then(|a| a.as_str().parse::<SocketAddr>().ok());
        let router = address.and_then(|address| servers.get(&address)).cloned();
        Box::pin(async move {
            let router = router.ok_or("connection refused")?;
            let response = router.oneshot(request.map(axum::body::Body::from)).await?;
            Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
        })
    });
    Transport::InProcess(serve)
}
