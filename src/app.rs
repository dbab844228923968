//! From settings and the outside world to a running agent.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::Settings;
use crate::dendrite::{AxonAddress, Dendrite};
use crate::gpu::Arbiter;
use crate::mining::{Bench, Budget, Finish, Miner, MinerError, SeedSource, TaskSource, ValidatorSource};
use crate::net::{Connections, Endpoint, NetError, Transport};
use crate::primitives::{CardId, Uid};
use crate::splat::SpzEncoder;
use crate::store::{LockError, ProcessLock, Store, StoreError, runtime_dir};
use crate::wallet::HotkeyPair;
use crate::workers::{Generator, GeneratorSettings, Scorer, ScorerSettings};

/// What the agent runs against. The binary assembles a real one, a test another; nothing below asks
/// which it is.
#[derive(Debug)]
pub struct World {
    pub clock: Clock,
    pub seeds: SeedSource,
    pub hotkey: Arc<HotkeyPair>,
    pub peers: Peers,
    pub transports: Transports,
    /// The data directory.
    pub data: PathBuf,
    pub locks: Locks,
}

/// Who is where.
#[derive(Debug, Clone)]
pub struct Peers {
    pub validators: Vec<(AxonAddress, Option<Uid>)>,
    pub generator: Endpoint,
    pub scorer: Option<Endpoint>,
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
}

/// A built agent, ready to run.
#[derive(Debug)]
pub struct App {
    miner: Miner,
    grace: Duration,
    clock: Clock,
    _locks: Vec<ProcessLock>,
}

/// What candidates are made with, by the settings.
pub fn bench(settings: &Settings, clock: Clock, peers: &Peers, transports: &Transports) -> Bench {
    let generator = &settings.generator;
    let generator = Generator::new(
        GeneratorSettings {
            name: generator.name.clone(),
            endpoint: peers.generator.clone(),
            dialect: generator.dialect,
            kinds: generator.kinds.clone(),
            limits: generator.limits,
        },
        transports.generator.clone(),
        clock,
    );
    let scorer = settings.scorer.as_ref().zip(peers.scorer.as_ref()).map(|(scorer, endpoint)| {
        let settings =
            ScorerSettings { name: scorer.name.clone(), endpoint: endpoint.clone(), limits: scorer.limits };
        Scorer::new(settings, transports.scorer.clone(), clock)
    });
    Bench {
        generator,
        scorer,
        arbiter: Arbiter::new(card(settings), clock),
        encoder: SpzEncoder::new(settings.zstd_level),
    }
}

/// The one card there is.
pub fn card(settings: &Settings) -> CardId {
    CardId { host: "localhost".into(), uuid: settings.card.clone() }
}

/// The lock of a card, by its name.
///
/// # Errors
/// When another process uses it.
pub fn lock_card(settings: &Settings) -> Result<ProcessLock, LockError> {
    let card = card(settings);
    let name: String =
        card.uuid.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    ProcessLock::take(&runtime_dir(), &format!("card-{name}"), &format!("card {}", card.uuid))
}

impl App {
    /// Takes the locks, opens the store and takes up what it remembers.
    ///
    /// # Errors
    /// When a lock is held by another process or the store cannot be used.
    pub async fn build(settings: &Settings, world: World) -> Result<Self, AppError> {
        let hotkey = *world.hotkey.hotkey();
        let mut locks = vec![lock_data(&world.data)?];
        if world.locks.hotkey {
            locks.push(ProcessLock::take(
                &runtime_dir(),
                &format!("hotkey-{hotkey}"),
                &format!("hotkey {hotkey}"),
            )?);
        }
        if world.locks.card {
            locks.push(lock_card(settings)?);
        }
        let store = Store::open(&world.data).await?;
        let bench = bench(settings, world.clock, &world.peers, &world.transports);
        let dendrite = Arc::new(Dendrite::new(
            world.hotkey,
            world.clock,
            settings.dendrite,
            world.transports.pulls,
            world.transports.submissions,
        ));
        let sources = world
            .peers
            .validators
            .into_iter()
            .map(|(axon, uid)| {
                TaskSource::Validator(ValidatorSource { dendrite: Arc::clone(&dendrite), axon, uid })
            })
            .collect();
        let miner =
            Miner::resume(hotkey, sources, bench, store, world.clock, world.seeds, settings.mining.clone())
                .await?;
        Ok(Self { miner, grace: settings.grace, clock: world.clock, _locks: locks })
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
        tokio::select! {
            finish = self.miner.run(budget, &stop) => Ok(finish?),
            () = too_late => {
                tracing::warn!(
                    grace_s = grace.as_secs_f64(),
                    "Stopped before a submission was answered; it is stored and goes out again at the next start"
                );
                Ok(Finish::Stopped)
            }
        }
    }
}

fn lock_data(data: &Path) -> Result<ProcessLock, LockError> {
    ProcessLock::take(data, "agent", &format!("the data directory {}", data.display()))
}
