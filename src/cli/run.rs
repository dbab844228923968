//! `run`: mine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::ExitStatus;
use super::layers::LayerArgs;
use super::stop::StopSignals;
use crate::app::{App, CardPeers, ChainWorld, Locks, Peers, Transports, World, card_id};
use crate::chain::{self, ChainClient};
use crate::clock::Clock;
use crate::config::{ConfigError, ConfigErrors, LogFormat, Origin, Settings, WorkerSettings, WorkerUrl};
use crate::dendrite::AxonAddress;
use crate::devnet::network::{Devnet, NetworkSettings, Served};
use crate::devnet::rules::ValidatorRules;
use crate::gpu::Tenant;
use crate::mining::{Admission, Budget, Finish, SeedSource};
use crate::net::Endpoint;
use crate::primitives::Hotkey;
use crate::telemetry::{self, Format, Sink};
use crate::wallet::{HotkeyPair, PasswordSources, Wallet, WalletSettings, is_throwaway};

#[derive(Debug, Default, Args)]
pub struct RunArgs {
    /// Stop after N tasks have ended
    #[arg(long, value_name = "N", conflicts_with = "once", value_parser = clap::value_parser!(u64).range(1..))]
    tasks: Option<u64>,
    /// Take at most one task and never wait for one; exit status 75 when every validator is cooling down
    #[arg(long)]
    once: bool,
}

impl RunArgs {
    fn budget(&self) -> Budget {
        match (self.once, self.tasks) {
            (true, _) => Budget::Once,
            (false, Some(tasks)) => Budget::Tasks(tasks),
            (false, None) => Budget::Endless,
        }
    }
}

pub fn run(layers: &LayerArgs, args: &RunArgs) -> anyhow::Result<ExitStatus> {
    let settings = layers.load()?.settings;
    let clock = Clock::system();
    start_log(&settings, Sink::Stdout, clock);
    layers.warn_of_idle_flags();
    runtime()?.block_on(mine(settings, args.budget(), clock))
}

/// Logging as the settings say.
pub fn start_log(settings: &Settings, sink: Sink, clock: Clock) {
    let format = match settings.log.format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    telemetry::start(settings.log.level, format, sink, clock);
}

/// The runtime of every command that talks to anybody.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the async runtime")
}

async fn mine(settings: Settings, budget: Budget, clock: Clock) -> anyhow::Result<ExitStatus> {
    let signals = StopSignals::listen().context("listen for signals")?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        network = settings.network.as_str(),
        "sn17-miner starts"
    );
    let mut hotkeys = Vec::new();
    for wallet in settings.wallets() {
        let pair = open_hotkey(&settings, wallet).await?;
        refuse_throwaway(&settings, pair.hotkey())?;
        tracing::info!(hotkey = %pair.hotkey(), "Mining with this hotkey");
        hotkeys.push(Arc::new(pair));
    }
    refuse_same(&settings, &hotkeys)?;
    let miners = hotkeys.iter().map(|pair| *pair.hotkey()).collect();
    let devnet = start_devnet(&settings, miners, clock).await?;
    if settings.embeds_validators() {
        banner(&settings);
    }
    warn_of_scoring(&settings);
    let data = DataDir::choose(&settings)?;
    tracing::debug!(data = %data.path().display(), "The agent's memory");
    let world = World {
        clock,
        seeds: SeedSource::from_os(),
        hotkeys,
        peers: peers(&settings, devnet.as_ref())?,
        transports: Transports::over_sockets(&settings)?,
        chain: chain(&settings, devnet.as_ref(), clock)?,
        data: data.path().to_owned(),
        // The embedded network is this process's own: nobody else can meet its key or its card.
        locks: Locks {
            hotkey: !settings.embeds_validators(),
            card: settings.generator.url != WorkerUrl::Devnet,
        },
    };
    let mut app = App::build(&settings, world).await?;
    app.open_api(&settings, data.path()).await;
    let finish = tokio::select! {
        finish = app.run(budget, signals.stop.clone()) => finish?,
        () = signals.now.cancelled() => Finish::Stopped,
    };
    if let Some(devnet) = devnet {
        stop_devnet(devnet, &signals.now).await;
    }
    Ok(match finish {
        Finish::Done => ExitStatus::Done,
        Finish::Stopped => {
            tracing::info!("Stopped");
            ExitStatus::Done
        }
        Finish::NothingDue => {
            tracing::info!("No validator has a task to give now");
            ExitStatus::TryAgain
        }
        Finish::NoSubnet => {
            tracing::warn!(
                "The chain names nobody to ask: it cannot be read, or this hotkey is not registered"
            );
            ExitStatus::Unavailable
        }
        Finish::NoGenerator => {
            tracing::warn!("Nothing can be made on any card now");
            ExitStatus::Unavailable
        }
    })
}

/// Loads the hotkey; argon2 takes seconds, so off the async threads.
async fn open_hotkey(settings: &Settings, wallet: WalletSettings) -> anyhow::Result<HotkeyPair> {
    // The example wallet comes with a checkout, its key with the program.
    if settings.embeds_validators() && settings.uses_example_wallet() && !wallet.path.exists() {
        return Ok(HotkeyPair::dev("miner"));
    }
    let opened = tokio::task::spawn_blocking(move || Wallet::open(&wallet, &PasswordSources::of_process()));
    let wallet = opened.await.context("open the wallet")?.context("open the wallet")?;
    for warning in wallet.warnings() {
        tracing::warn!("{warning}");
    }
    Ok(wallet.into_pair())
}

fn refuse_throwaway(settings: &Settings, hotkey: &Hotkey) -> Result<(), ConfigErrors> {
    if !settings.is_public() || !is_throwaway(hotkey) {
        return Ok(());
    }
    let problem = format!("{hotkey} is an example key that everybody has: name your own wallet and hotkey");
    Err(ConfigErrors { errors: vec![ConfigError { key: "wallet".into(), origin: Origin::Default, problem }] })
}

/// Two names of one key would make two lanes that break each other's cooldowns.
fn refuse_same(settings: &Settings, hotkeys: &[Arc<HotkeyPair>]) -> Result<(), ConfigErrors> {
    let named: Vec<_> = hotkeys.iter().map(|pair| pair.hotkey()).zip(&settings.hotkeys).collect();
    let mut pairs =
        (1..).zip(&named).flat_map(|(next, one)| named.iter().skip(next).map(move |other| (one, other)));
    let Some(((_, first), (_, second))) = pairs.find(|((one, _), (other, _))| one == other) else {
        return Ok(());
    };
    let problem = format!("`{first}` and `{second}` are the same hotkey");
    let key = "wallet.hotkeys".into();
    Err(ConfigErrors { errors: vec![ConfigError { key, origin: Origin::Default, problem }] })
}

/// Starts what is embedded, if anything is.
pub async fn start_devnet(
    settings: &Settings,
    miners: Vec<Hotkey>,
    clock: Clock,
) -> anyhow::Result<Option<Served>> {
    if !settings.embeds_validators() && !settings.embeds_workers() {
        return Ok(None);
    }
    let seed = match settings.devnet.seed {
        0 => u64::from(rand::random::<u32>()) + 1,
        seed => seed,
    };
    tracing::info!(seed, "Starting the development network");
    let network = NetworkSettings {
        validators: if settings.embeds_validators() { settings.devnet.validators } else { 0 },
        rules: ValidatorRules {
            cooldown: settings.devnet.cooldown,
            throttle: settings.devnet.throttle,
            penalty: settings.devnet.penalty,
            lock: settings.devnet.lock,
            ..ValidatorRules::default()
        },
        scoring: settings.devnet.scoring,
        image_share: settings.devnet.image_share,
        seed,
        base_port: settings.devnet.base_port,
        miners,
        freeze_blocks: false,
    };
    Ok(Some(Devnet::new(&network, clock).serve().await?))
}

/// Waits for the network's servers for a moment, unless told to leave at once.
pub async fn stop_devnet(devnet: Served, now: &CancellationToken) {
    let patience = std::time::Duration::from_millis(500);
    tokio::select! {
        () = now.cancelled() => {}
        _ = tokio::time::timeout(patience, devnet.stop()) => {}
    }
}

/// How the chain is read and which validators of it are asked: by the settings, or the embedded
/// network's own. Nothing if the validators are named.
///
/// # Errors
/// When the embedded network is nowhere.
pub fn chain_settings(
    settings: &Settings,
    devnet: Option<&Served>,
) -> anyhow::Result<Option<(chain::Settings, Admission)>> {
    Ok(match (settings.chain(), devnet.and_then(Served::node_url)) {
        (Some(reading), _) => Some((reading, settings.admission.clone())),
        (None, Some(url)) if settings.embeds_validators() => {
            let node = url.parse().context("the embedded chain's URL")?;
            // Everything embedded is on loopback.
            let admission = Admission { allow_private: true, ..settings.admission.clone() };
            Some((chain::Settings::for_nodes(vec![node], settings.netuid), admission))
        }
        (None, _) => None,
    })
}

fn chain(settings: &Settings, devnet: Option<&Served>, clock: Clock) -> anyhow::Result<Option<ChainWorld>> {
    let Some((reading, admission)) = chain_settings(settings, devnet)? else { return Ok(None) };
    let client = ChainClient::over_websocket(reading, clock);
    Ok(Some(ChainWorld { client, jitter: Box::new(rand::random::<f64>), admission }))
}

/// Who is where: the embedded peers, or those of the settings.
pub fn peers(settings: &Settings, devnet: Option<&Served>) -> anyhow::Result<Peers> {
    let place = |worker: &WorkerSettings, embedded: fn(&Served) -> std::net::SocketAddr| match (
        &worker.url,
        devnet,
    ) {
        (WorkerUrl::At(endpoint), _) => Ok(endpoint.clone()),
        (WorkerUrl::Devnet, Some(devnet)) => Ok(Endpoint::of(embedded(devnet))),
        (WorkerUrl::Devnet, None) => anyhow::bail!("the embedded {} was not started", worker.name),
    };
    let named = settings.validators.iter();
    let validators = named.map(|v| (AxonAddress { hotkey: v.hotkey, address: v.address }, v.uid)).collect();
    let mut cards = Vec::new();
    for generator in settings.workers_as(Tenant::Generator) {
        let gpu = settings.gpu_of(generator).context("a generator is on no card")?;
        let scorer = settings.scorer_for(gpu).map(|scorer| place(scorer, |served| served.scorer));
        cards.push(CardPeers {
            card: card_id(gpu),
            generator: place(generator, |served| served.generator)?,
            scorer: scorer.transpose()?,
            household: None,
        });
    }
    Ok(Peers { validators, cards })
}

fn banner(settings: &Settings) {
    let devnet = &settings.devnet;
    let time = |time: std::time::Duration| humantime::format_duration(time).to_string();
    for line in [
        "This is the embedded DEVELOPMENT NETWORK: toy splats, made-up scores, no reward.".to_owned(),
        format!(
            "{} validators; cooldown {}, throttle {}, penalty {}, lock {}",
            devnet.validators,
            time(devnet.cooldown),
            time(devnet.throttle),
            time(devnet.penalty),
            time(devnet.lock)
        ),
        "To go live set in config.toml: network.name, wallet.path, and the url of the generator under [[workers]]".to_owned(),
        "(and a scorer of your own beside it).".to_owned(),
    ] {
        tracing::info!("{line}");
    }
}

fn warn_of_scoring(settings: &Settings) {
    if settings.scorer_left_out {
        tracing::warn!(
            "The embedded scorer judges only the embedded generator and is left out; name your own under [[workers]]"
        );
    }
    if settings.scorer.is_none() {
        tracing::warn!(
            "No scorer: results are submitted unscored, after the data check alone; a low one costs the penalty"
        );
    }
}

/// The data directory that outlives a run; none on the embedded network, unless one is named.
///
/// # Errors
/// When none is named and there is no home directory.
pub fn kept_data(settings: &Settings) -> anyhow::Result<Option<PathBuf>> {
    if let Some(path) = &settings.paths.data {
        return Ok(Some(path.clone()));
    }
    if settings.embeds_validators() {
        return Ok(None);
    }
    let dirs = directories::ProjectDirs::from("", "", "sn17-miner")
        .context("no home directory to remember anything in: set paths.data")?;
    Ok(Some(dirs.data_dir().to_owned()))
}

/// Where the agent remembers.
enum DataDir {
    Kept(PathBuf),
    /// Removed at the end.
    Temporary(tempfile::TempDir),
}

impl DataDir {
    fn choose(settings: &Settings) -> anyhow::Result<Self> {
        if let Some(kept) = kept_data(settings)? {
            return Ok(Self::Kept(kept));
        }
        let dir = tempfile::Builder::new().prefix("sn17-miner-").tempdir();
        Ok(Self::Temporary(dir.context("make a temporary data directory")?))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(dir) => dir.path(),
        }
    }
}
