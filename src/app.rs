//! From settings and the outside world to a running agent.

mod journal;
mod workshop;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::{Identity, LocalApi, Orders, Process, StatusSource};
use crate::chain::{ChainClient, ChainHandle, Follower, Jitter, Link};
use crate::clock::Clock;
use crate::config::{ConfigErrors, GpuSettings, Settings};
use crate::dendrite::{AxonAddress, Dendrite};
use crate::gpu::probe::NvmlLibrary;
use crate::gpu::{Arbiter, HandoffId, HandoffLog, Household, LeaseError, OpenHandoff};
use crate::mining::{
    Admission, Budget, Finish, Member, Miner, MinerError, SeedSource, Setup, Snapshot, Subnet, Tally,
    TaskSource, ValidatorSource,
};
use crate::net::{Connections, Endpoint, NetError, Transport};
use crate::primitives::{CardId, Hotkey, Uid};
use crate::store::{LockError, ProcessLock, Store, StoreError, runtime_dir};
use crate::wallet::HotkeyPair;

pub use journal::Journal;
pub use workshop::{Purpose, Surroundings, Workshop, bench};

/// Longest wait for the driver.
const DRIVER: Duration = Duration::from_secs(2);

/// What the agent runs against. The binary assembles a real one, a test another; nothing below asks
/// which it is.
#[derive(Debug)]
pub struct World {
    pub clock: Clock,
    pub seeds: SeedSource,
    /// Those to mine with.
    pub hotkeys: Vec<Arc<HotkeyPair>>,
    pub peers: Peers,
    pub transports: Transports,
    /// The chain that names validators and knows our registration; `None` if `peers` names them.
    pub chain: Option<ChainWorld>,
    /// The data directory.
    pub data: PathBuf,
    pub locks: Locks,
}

/// The way to the chain.
pub struct ChainWorld {
    pub client: ChainClient,
    /// Spreads retries; a constant 0 in tests.
    pub jitter: Jitter,
    pub admission: Admission,
}

impl fmt::Debug for ChainWorld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChainWorld").field("client", &self.client).finish_non_exhaustive()
    }
}

/// Who is where.
#[derive(Debug, Clone)]
pub struct Peers {
    pub validators: Vec<(AxonAddress, Option<Uid>)>,
    /// At least one.
    pub cards: Vec<CardPeers>,
}

impl Peers {
    /// One card that holds a generator and perhaps a scorer together.
    pub fn on_one_card(
        validators: Vec<(AxonAddress, Option<Uid>)>,
        card: CardId,
        generator: Endpoint,
        scorer: Option<Endpoint>,
    ) -> Self {
        Self { validators, cards: vec![CardPeers { card, generator, scorer, household: None }] }
    }
}

/// A card and the workers on it.
#[derive(Debug, Clone)]
pub struct CardPeers {
    pub card: CardId,
    pub generator: Endpoint,
    pub scorer: Option<Endpoint>,
    /// How its workers give way to each other; `None`: they fit together.
    pub household: Option<Household>,
}

/// How each kind of peer is reached.
#[derive(Debug, Clone)]
pub struct Transports {
    pub pulls: Transport,
    pub submissions: Transport,
    pub generator: Transport,
    pub scorer: Transport,
}

impl Transports {
    /// Sockets, as the settings say.
    ///
    /// # Errors
    /// When the HTTP client cannot be built.
    pub fn over_sockets(settings: &Settings) -> Result<Self, NetError> {
        let connect = settings.dendrite_connect;
        let worker = |connect: Duration| Transport::http(connect, Connections::Fresh);
        Ok(Self {
            pulls: Transport::http(connect, Connections::IdleUnder(settings.dendrite_idle))?,
            submissions: Transport::http(connect, Connections::Fresh)?,
            generator: worker(settings.generator.connect_timeout)?,
            scorer: worker(settings.scorer.as_ref().map_or(connect, |scorer| scorer.connect_timeout))?,
        })
    }
}

/// Which locks keep a second process away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Locks {
    /// Two processes with one key would give each other's nonces away.
    pub hotkey: bool,
    /// Two users of one card run it out of memory.
    pub card: bool,
}

/// The agent cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Miner(#[from] MinerError),
    /// It was found out at the start only, from what is there.
    #[error(transparent)]
    Config(ConfigErrors),
}

/// A built agent, ready to run.
#[derive(Debug)]
pub struct App {
    miner: Miner,
    chain: Option<(Follower, Keeper)>,
    hotkeys: Vec<Hotkey>,
    workshop: Workshop,
    orders: Orders,
    store: Store,
    /// Given up before the locks, which keep the next agent from its name.
    api: Option<(LocalApi, StatusSource)>,
    grace: Duration,
    clock: Clock,
    _locks: Vec<ProcessLock>,
}

/// Keeps the newest metagraph, so that a start without the chain can still mine.
#[derive(Debug)]
struct Keeper {
    chain: ChainHandle,
    store: Store,
    network: &'static str,
}

impl Keeper {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            let news = tokio::select! {
                () = stop.cancelled() => return,
                news = self.chain.changed() => news,
            };
            if !news {
                return;
            }
            let view = self.chain.view();
            let (Link::Up { .. }, Some(metagraph)) = (&view.link, view.metagraph) else { continue };
            if let Err(error) = self.store.keep_metagraph(self.network, &metagraph).await {
                tracing::warn!(%error, "The metagraph could not be kept");
            }
        }
    }
}

/// Brings a card to a known state before anything is made on it.
async fn recover(arbiter: &Arbiter, store: &Store) -> Result<(), StoreError> {
    let open = store.open_handoffs(arbiter.card().clone()).await?.into_iter().map(|(id, record)| {
        let evicted = record.evicted.iter().map(|worker| worker.as_str().into()).collect();
        OpenHandoff { id: HandoffId(id), wanted: record.wanted.as_str().into(), evicted }
    });
    match arbiter.recover(open.collect()).await {
        Ok(recovery) => {
            for (worker, why) in recovery.missing {
                tracing::warn!(card = %arbiter.card(), %worker, why, "A worker is not where it belongs");
            }
        }
        // Nothing is made on a card that was given up.
        Err(LeaseError::Closed) => {}
        Err(error) => tracing::warn!(card = %arbiter.card(), %error, "The card was not looked at"),
    }
    Ok(())
}

/// A card of the configuration.
pub fn card_id(gpu: &GpuSettings) -> CardId {
    CardId { host: "localhost".into(), uuid: gpu.uuid.clone() }
}

/// The locks of all cards. Blocking, for the driver's answer: there is nothing else to do yet.
///
/// # Errors
/// When another process uses one.
pub fn lock_cards(settings: &Settings) -> Result<Vec<ProcessLock>, LockError> {
    let lock = |card: CardId| {
        ProcessLock::take(&runtime_dir(), &card_lock_name(&card), &format!("card {}", card.uuid))
    };
    cards_to_lock(settings).into_iter().map(lock).collect()
}

/// The cards of the configuration by the names under which they are locked: where the driver answers by
/// its own, for one card has several in configurations (`auto`, capitals). Blocking.
pub fn cards_to_lock(settings: &Settings) -> Vec<CardId> {
    let listed = NvmlLibrary::new(None, DRIVER).list_cards_now().ok();
    let resolved = |gpu: &GpuSettings| {
        let card = card_id(gpu);
        match listed.as_ref().and_then(|listed| listed.named(&gpu.uuid).ok()) {
            Some(known) => CardId { uuid: known.uuid.clone(), ..card },
            None => card,
        }
    };
    // Two entries of one card lock each other out, as they should.
    settings.gpus.iter().map(resolved).collect()
}

/// Name of a card's lock in the runtime directory.
pub fn card_lock_name(card: &CardId) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    format!("card-{}", card.uuid.chars().map(safe).collect::<String>())
}

impl App {
    /// Takes the locks, opens the store and takes up what it remembers.
    ///
    /// # Errors
    /// When a lock is held by another process or the store cannot be used.
    pub async fn build(settings: &Settings, world: World) -> Result<Self, AppError> {
        let hotkeys: Vec<Hotkey> = world.hotkeys.iter().map(|pair| *pair.hotkey()).collect();
        let mut locks = vec![lock_data(&world.data)?];
        if world.locks.hotkey {
            for hotkey in &hotkeys {
                let (name, what) = (format!("hotkey-{hotkey}"), format!("hotkey {hotkey}"));
                locks.push(ProcessLock::take(&runtime_dir(), &name, &what)?);
            }
        }
        if world.locks.card {
            locks.extend(lock_cards(settings)?);
        }
        let store = Store::open(&world.data).await?;
        let journal: Arc<dyn HandoffLog> = Arc::new(Journal(store.clone()));
        let around = Surroundings {
            settings,
            transports: &world.transports,
            clock: world.clock,
            store: Some(&store),
            journal,
            folder: &world.data,
            purpose: Purpose::Mining,
        };
        let mut workshop = Workshop::open(world.peers.cards, &around).await?;
        let benches = std::mem::take(&mut workshop.benches);
        let mut chain = None;
        if let Some(ChainWorld { client, jitter, admission }) = world.chain {
            let network = settings.network.as_str();
            let kept = store.metagraph(network, settings.netuid).await?.map(Arc::new);
            let (follower, handle) = Follower::new(client, hotkeys.clone(), jitter, kept);
            chain = Some((follower, Keeper { chain: handle, store: store.clone(), network }, admission));
        }
        let mut names = settings.hotkeys.iter();
        let members = world
            .hotkeys
            .into_iter()
            .map(|pair| {
                let hotkey = *pair.hotkey();
                let dendrite = Arc::new(Dendrite::new(
                    pair,
                    world.clock,
                    settings.dendrite,
                    world.transports.pulls.clone(),
                    world.transports.submissions.clone(),
                ));
                let source = |(axon, uid): &(AxonAddress, Option<Uid>)| {
                    TaskSource::Validator(ValidatorSource {
                        dendrite: Arc::clone(&dendrite),
                        axon: *axon,
                        uid: *uid,
                    })
                };
                let sources = world.peers.validators.iter().map(source).collect();
                let name = names.next().unwrap_or(&settings.wallet.hotkey);
                let subnet = chain.as_ref().map(|(_, keeper, admission)| {
                    Subnet::new(
                        keeper.chain.clone(),
                        Arc::clone(&dendrite),
                        hotkeys.clone(),
                        settings.netuid,
                        admission.clone(),
                        settings.how_to_register_as(name),
                    )
                });
                Member { hotkey, sources, subnet }
            })
            .collect();
        let orders = Orders::new(benches.clone(), world.clock, world.seeds.clone(), Some(store.clone()));
        let setup = Setup {
            members,
            benches,
            store: store.clone(),
            clock: world.clock,
            seeds: world.seeds,
            settings: settings.mining.clone(),
        };
        let miner = Miner::resume(setup).await?;
        let chain = chain.map(|(follower, keeper, _)| (follower, keeper));
        Ok(Self {
            miner,
            chain,
            hotkeys,
            workshop,
            orders,
            store,
            api: None,
            grace: settings.grace,
            clock: world.clock,
            _locks: locks,
        })
    }

    /// Counts of the run to come.
    pub fn tally(&self) -> Arc<Mutex<Tally>> {
        self.miner.tally()
    }

    /// What the loop shows of itself, and what the chain says.
    pub fn watch(&self) -> (watch::Receiver<Option<Snapshot>>, Option<ChainHandle>) {
        (self.miner.watch(), self.chain.as_ref().map(|(_, keeper)| keeper.chain.clone()))
    }

    /// Lets this user's other programs ask while the agent runs, through a socket in the data
    /// directory. Mining needs none of it: what stands against it is told, and left at that.
    pub async fn open_api(&mut self, settings: &Settings, data: &Path) {
        let api = match LocalApi::listen(data).await {
            Ok(api) => api,
            Err(error) => {
                tracing::warn!(%error, "`status` cannot ask this agent and shows what it remembers instead");
                return;
            }
        };
        let (snapshot, chain) = self.watch();
        let identity = Identity {
            process: Process { pid: std::process::id(), started_at: self.clock.now() },
            hotkeys: self.hotkeys.clone(),
            network: settings.network.as_str(),
            netuid: settings.netuid,
            how_to_register: settings.hotkeys.iter().map(|name| settings.how_to_register_as(name)).collect(),
        };
        let source = StatusSource { identity, clock: self.clock, snapshot, chain, data: data.to_owned() };
        self.api = Some((api, source));
    }

    /// Mines until the budget is spent, or until `stop` is cancelled and the grace period after it is
    /// over.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn run(mut self, budget: Budget, stop: CancellationToken) -> Result<Finish, AppError> {
        let grace = self.grace;
        let clock = self.clock;
        let too_late = async {
            stop.cancelled().await;
            clock.sleep(grace).await;
        };
        // Ends with this function, however that ends: dropping a set aborts its tasks.
        let mut followers = JoinSet::new();
        if let Some((follower, keeper)) = self.chain.take() {
            followers.spawn(follower.run(stop.clone()));
            followers.spawn(keeper.run(stop.clone()));
        }
        // Asked until the end, while it stops too.
        let _socket = self.api.take().map(|(api, source)| {
            let (server, file) = api.into_server(source, self.orders.clone());
            followers.spawn(server);
            file
        });
        let (workshop, store, miner) = (&self.workshop, &self.store, &mut self.miner);
        let mining = async {
            for recovered in join_all(workshop.arbiters().map(|arbiter| recover(arbiter, store))).await {
                recovered?;
            }
            workshop.start(&stop).await;
            workshop.watch_over(&mut followers);
            Ok::<_, AppError>(miner.run(budget, &stop).await?)
        };
        tokio::pin!(too_late);
        let finish = tokio::select! {
            finish = mining => finish?,
            () = &mut too_late => {
                tracing::warn!(
                    grace_s = grace.as_secs_f64(),
                    "Stopped before a submission was answered; it is stored and goes out again at the next start"
                );
                return Ok(Finish::Stopped);
            }
        };
        tokio::select! {
            () = workshop.close() => {}
            () = too_late => {
                tracing::info!("Stopped before every worker was back on its card; the next start brings it back");
            }
        }
        Ok(finish)
    }
}

fn lock_data(data: &Path) -> Result<ProcessLock, LockError> {
    ProcessLock::take(data, "agent", &format!("the data directory {}", data.display()))
}
