//! The keys, their ranges, and what must agree.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::{Table, Value};
use tracing::level_filters::LevelFilter;

use super::reader::{ConfigError, Layers, Reader, Resolved};
use super::workers::{self, GpuSettings, WorkerSettings, WorkerUrl};
use crate::chain::{self, NodeUrl};
use crate::gpu::Tenant;
use crate::mining::{Admission, Candidates, HotkeyRule, ScorerDown, UnscoredPolicy};
use crate::primitives::{ByteSize, Hotkey, MiB, Netuid, Rao, Uid};
use crate::wallet::WalletSettings;
use crate::{dendrite, mining};

/// Which network the agent mines on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Embedded in this process, or a `sn17-miner devnet` named under `[[validators]]`.
    Devnet,
    Chain(chain::Network),
}

impl Network {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Devnet => "devnet",
            Self::Chain(network) => network.name(),
        }
    }

    /// Public by name (answers.md, "Public network").
    const fn is_public(self) -> bool {
        matches!(self, Self::Chain(chain::Network::Finney | chain::Network::Test | chain::Network::Archive))
    }
}

/// A validator named in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValidatorSettings {
    pub hotkey: Hotkey,
    pub address: SocketAddr,
    pub uid: Option<Uid>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathSettings {
    /// `None`: chosen by the network, see config.toml.
    pub data: Option<PathBuf>,
    pub out: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    pub level: LevelFilter,
    pub format: LogFormat,
}

/// The embedded development network.
#[derive(Debug, Clone, PartialEq)]
pub struct DevnetSettings {
    pub validators: u16,
    pub cooldown: Duration,
    pub throttle: Duration,
    pub penalty: Duration,
    pub lock: Duration,
    /// What a validator takes to score a result.
    pub scoring: Duration,
    /// 0 to 1.
    pub image_share: f64,
    /// 0: random.
    pub seed: u64,
    /// 0: any free ports.
    pub base_port: u16,
}

/// All settings, each module's own in one field.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub network: Network,
    pub netuid: Netuid,
    /// Nodes of the chain, in order of preference; empty: those of the network.
    pub nodes: Vec<NodeUrl>,
    pub sync_interval: Duration,
    pub admission: Admission,
    /// With the first hotkey.
    pub wallet: WalletSettings,
    /// Names of all hotkeys to mine with.
    pub hotkeys: Vec<String>,
    pub paths: PathSettings,
    pub dendrite: dendrite::Settings,
    pub dendrite_connect: Duration,
    pub dendrite_idle: Duration,
    pub mining: mining::Settings,
    /// At least one.
    pub gpus: Vec<GpuSettings>,
    /// The first generator.
    pub generator: WorkerSettings,
    /// The first scorer.
    pub scorer: Option<WorkerSettings>,
    /// Further generators and scorers, and enhancers.
    pub more_workers: Vec<WorkerSettings>,
    /// A scorer is named and left out, because it is the embedded one beside a real generator.
    pub scorer_left_out: bool,
    pub zstd_level: i32,
    pub keep_ply: bool,
    pub log: LogSettings,
    pub grace: Duration,
    pub devnet: DevnetSettings,
    pub validators: Vec<ValidatorSettings>,
}

impl Settings {
    /// Whether others than this machine take part (answers.md, "Public network").
    pub fn is_public(&self) -> bool {
        self.network.is_public()
            || self.nodes.iter().any(|node| !node.is_loopback())
            || self.validators.iter().any(|v| !v.address.ip().is_loopback())
    }

    /// Where each hotkey lies.
    pub fn wallets(&self) -> impl Iterator<Item = WalletSettings> + '_ {
        self.hotkeys.iter().map(|hotkey| WalletSettings { hotkey: hotkey.clone(), ..self.wallet.clone() })
    }

    /// How the chain is read; `None` when the validators are named in the configuration, or when the
    /// embedded network's own chain is to be read.
    pub fn chain(&self) -> Option<chain::Settings> {
        if !self.validators.is_empty() {
            return None;
        }
        let mut settings = match (self.network, self.nodes.is_empty()) {
            (Network::Devnet, true) => return None,
            (Network::Chain(network), true) => chain::Settings::for_network(network, self.netuid),
            (Network::Chain(network), false) => chain::Settings {
                genesis: network.genesis(),
                ..chain::Settings::for_nodes(self.nodes.clone(), self.netuid)
            },
            (Network::Devnet, false) => chain::Settings::for_nodes(self.nodes.clone(), self.netuid),
        };
        settings.sync_interval = self.sync_interval;
        Some(settings)
    }

    /// What an operator types to register the first of the configured hotkeys.
    pub fn how_to_register(&self) -> String {
        self.how_to_register_as(&self.wallet.hotkey)
    }

    /// What an operator types to register a hotkey of the configured wallet.
    pub fn how_to_register_as(&self, hotkey: &str) -> String {
        // A name that btcli knows, except for a devnet elsewhere: that has only its node's URL.
        let network = match (self.network, self.nodes.first()) {
            (Network::Devnet, Some(node)) => node.to_string(),
            _ => self.network.as_str().to_owned(),
        };
        format!(
            "btcli subnet register --netuid {} --wallet.name {} --wallet.hotkey {} --subtensor.network {}",
            self.netuid, self.wallet.name, hotkey, network
        )
    }

    /// Whether the wallet is the example one, which exists only in a checkout.
    pub fn uses_example_wallet(&self) -> bool {
        let WalletSettings { path, name, hotkey, password_file: _ } = &self.wallet;
        let only = self.hotkeys.len() == 1;
        path == Path::new("wallets.example") && name == "default" && hotkey == "default" && only
    }

    /// Whether the validators are the embedded ones.
    pub fn embeds_validators(&self) -> bool {
        self.network == Network::Devnet && self.validators.is_empty() && self.nodes.is_empty()
    }

    /// Whether any worker is the embedded one.
    pub fn embeds_workers(&self) -> bool {
        self.workers().any(|worker| worker.url == WorkerUrl::Devnet)
    }

    /// All workers, those of a role in the order of the configuration.
    pub fn workers(&self) -> impl Iterator<Item = &WorkerSettings> {
        [&self.generator].into_iter().chain(&self.scorer).chain(&self.more_workers)
    }

    /// Those of one role.
    pub fn workers_as(&self, role: Tenant) -> impl Iterator<Item = &WorkerSettings> {
        self.workers().filter(move |worker| worker.role == role)
    }

    /// The workers on a card.
    pub fn workers_on(&self, gpu: &GpuSettings) -> Vec<&WorkerSettings> {
        self.workers().filter(|worker| workers::is_on(worker, gpu, &self.gpus)).collect()
    }

    /// Who judges what is made on a card: the scorer there, or else the first of all.
    pub fn scorer_for(&self, gpu: &GpuSettings) -> Option<&WorkerSettings> {
        self.nearest(Tenant::Scorer, gpu)
    }

    /// Who rewrites the prompts for a card.
    pub fn enhancer_for(&self, gpu: &GpuSettings) -> Option<&WorkerSettings> {
        self.nearest(Tenant::Enhancer, gpu)
    }

    fn nearest(&self, role: Tenant, gpu: &GpuSettings) -> Option<&WorkerSettings> {
        let here = |worker: &&WorkerSettings| workers::is_on(worker, gpu, &self.gpus);
        self.workers_as(role).find(here).or_else(|| self.workers_as(role).next())
    }

    /// The card that a worker is on.
    pub fn gpu_of(&self, worker: &WorkerSettings) -> Option<&GpuSettings> {
        self.gpus.iter().find(|gpu| workers::is_on(worker, gpu, &self.gpus))
    }

    /// What of a card's workers can never work beside the others, on a card of this size: problems with
    /// their sums.
    pub fn does_not_fit(&self, gpu: &GpuSettings, total: MiB) -> Vec<String> {
        let limit = gpu.sharing.limit.map_or(total, |limit| limit.min(total));
        workers::does_not_fit(limit, gpu, &self.workers_on(gpu))
    }
}

const MS: fn(u64) -> Duration = Duration::from_millis;
const S: fn(u64) -> Duration = Duration::from_secs;
const DAY: u64 = 86_400;

/// Reads all keys; the settings are there only if no key was missing or wrong.
pub(super) fn read(layers: Layers, defaults: &Table) -> (Option<Settings>, Vec<Resolved>, Vec<ConfigError>) {
    let mut r = Reader::new(layers);
    let settings = keys(&mut r, defaults);
    let (resolved, errors) = r.finish();
    (settings, resolved, errors)
}

fn keys(r: &mut Reader, defaults: &Table) -> Option<Settings> {
    // Every key is read before any is missed, so that all mistakes are found.
    let network = r.choice(
        "network.name",
        &[
            ("devnet", Network::Devnet),
            ("finney", Network::Chain(chain::Network::Finney)),
            ("test", Network::Chain(chain::Network::Test)),
            ("archive", Network::Chain(chain::Network::Archive)),
            ("local", Network::Chain(chain::Network::Local)),
        ],
    );
    let nodes = r.texts("network.endpoints");
    let nodes = nodes.map(|list| parse_each::<NodeUrl>(r, "network.endpoints", &list));
    let sync_interval = r.duration("network.sync_interval", S(1), S(DAY));
    let min_stake = r.whole("network.min_stake", 0, 1_000_000_000);
    let allow = r.texts("network.allow").map(|list| parse_each::<HotkeyRule>(r, "network.allow", &list));
    let deny = r.texts("network.deny").map(|list| parse_each::<HotkeyRule>(r, "network.deny", &list));
    let netuid = r.whole("network.netuid", 0, 65_535);
    let allow_private = r.boolean("network.allow_private_axons");

    let wallet_path = r.path("wallet.path");
    let wallet_name = r.text("wallet.name");
    let hotkeys = r.texts("wallet.hotkeys");
    let password_file = r.path("wallet.password_file");
    let hotkeys = hotkeys.and_then(|names| different_hotkeys(r, names));

    let data = r.path("paths.data");
    let out = r.path("paths.out");

    let dendrite_connect = r.duration("dendrite.connect_timeout", MS(100), S(60));
    let pull_timeout = r.duration("dendrite.pull_timeout", S(1), S(300));
    let submit_timeout = r.duration("dendrite.submit_timeout", S(1), S(3_600));
    let pull_reply_limit = r.size("dendrite.pull_reply_limit", ByteSize(64 << 10), ByteSize::mib(1_024));
    let submit_reply_limit = r.size("dendrite.submit_reply_limit", ByteSize(16 << 10), ByteSize::mib(64));
    let dendrite_idle = r.duration("dendrite.idle_connection", S(0), S(4));
    let version = r.whole("dendrite.version", 7_002_000, 99_999_999);

    let cooldown = r.duration("rules.cooldown", S(1), S(DAY));
    let throttle = r.duration("rules.throttle", S(0), S(DAY));
    let penalty = r.duration("rules.penalty", S(0), S(DAY));
    let lock = r.duration("rules.lock", S(0), S(3_600));
    let margin = r.duration("mining.margin", S(0), S(60));
    let stock = r.whole("mining.stock", 0, 1);
    let max_submissions = r.whole("mining.max_submissions", 1, 256);
    let owner_hotkey = r.read("mining.owner_hotkey", |value| match value.as_str() {
        Some("") => Ok(None),
        Some(text) => text.parse::<Hotkey>().map(Some).map_err(|e| e.to_string()),
        None => Err("expected a hotkey, or \"\"".into()),
    });
    let doppelganger_limit = r.whole("mining.doppelganger_limit", 0, 1_000);
    let max_prompt_chars = r.whole("mining.max_prompt_chars", 1, 1_000_000);
    let gate_margin = r.fraction("decide.gate_margin", 0.0, 1.0);
    let max_retries = r.whole("decide.max_retries", 0, 10);
    let candidates = r.read("decide.candidates", |value| match (value.as_str(), value.as_integer()) {
        (Some("auto"), _) => Ok(Candidates::Auto),
        (None, Some(number @ 1..=16)) => Ok(Candidates::Fixed(number as u32)),
        _ => Err("expected \"auto\" or a whole number from 1 to 16".to_owned()),
    });
    let scorer_down = r.choice(
        "decide.scorer_down",
        &[("empty", ScorerDown::Empty), ("submit", ScorerDown::Submit), ("auto", ScorerDown::Auto)],
    );
    let unscored = r.choice(
        "decide.unscored",
        &[
            ("never", UnscoredPolicy::Never),
            ("auto", UnscoredPolicy::Auto),
            ("always", UnscoredPolicy::Always),
        ],
    );
    let gpus = workers::gpus(r, defaults);
    let named = r.entries("workers", |entry| workers::shipped_worker(defaults, entry), workers::worker);
    let validators_read = validators(r);

    let zstd_level = r.whole("splat.zstd_level", 1, 22);
    let keep_ply = r.boolean("splat.keep_ply");
    let keep_results = r.duration("store.keep_results", S(0), S(3_650 * DAY));
    let level = r.choice(
        "log.level",
        &[
            ("error", LevelFilter::ERROR),
            ("warn", LevelFilter::WARN),
            ("info", LevelFilter::INFO),
            ("debug", LevelFilter::DEBUG),
            ("trace", LevelFilter::TRACE),
        ],
    );
    let format = r.choice("log.format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    let grace = r.duration("shutdown.grace", S(0), S(600));
    let devnet = devnet(r);

    let crew = workers::crew(named);
    // One with a mistake in it is left out, and told of already.
    if crew.generators.is_empty() && r.is_sound("workers") {
        r.fail("workers", workers::TOGETHER, "name at least one generator".into());
    }
    let scorer_left_out = crew.scorer_left_out;
    let (mut generators, mut scorers) = (crew.generators.into_iter(), crew.scorers.into_iter());
    let (generator, scorer) = (generators.next(), scorers.next());
    let more_workers = generators.chain(scorers).chain(crew.enhancers).collect();

    let mut settings = Settings {
        network: network?,
        netuid: Netuid(u16::try_from(netuid?).ok()?),
        nodes: nodes?,
        sync_interval: sync_interval?,
        admission: Admission {
            // Tokens in the configuration, rao on the chain.
            min_stake: Rao(min_stake?.saturating_mul(1_000_000_000)),
            allow_private: allow_private?,
            allow: allow?,
            deny: deny?,
        },
        wallet: WalletSettings {
            path: wallet_path?,
            name: wallet_name?,
            hotkey: hotkeys.as_ref()?.first()?.clone(),
            password_file: password_file.filter(|path| !path.as_os_str().is_empty()),
        },
        hotkeys: hotkeys?,
        paths: PathSettings { data: data.filter(|path| !path.as_os_str().is_empty()), out: out? },
        dendrite: dendrite::Settings {
            pull_timeout: pull_timeout?,
            submit_timeout: submit_timeout?,
            pull_reply_limit: pull_reply_limit?,
            submit_reply_limit: submit_reply_limit?,
            version: i64::try_from(version?).ok()?,
        },
        dendrite_connect: dendrite_connect?,
        dendrite_idle: dendrite_idle?,
        mining: mining::Settings {
            cooldown: cooldown?,
            throttle: throttle?,
            penalty: penalty?,
            lock: lock?,
            margin: margin?,
            stock: u32::try_from(stock?).ok()?,
            max_submissions: usize::try_from(max_submissions?).ok()?,
            owner_hotkey: owner_hotkey?,
            doppelganger_limit: u32::try_from(doppelganger_limit?).ok()?,
            max_prompt_chars: usize::try_from(max_prompt_chars?).ok()?,
            gate_margin: gate_margin?,
            max_retries: u32::try_from(max_retries?).ok()?,
            candidates: candidates?,
            scorer_down: scorer_down?,
            unscored: unscored?,
            grace: grace?,
            keep_results: keep_results?,
        },
        gpus,
        generator: generator?,
        scorer,
        more_workers,
        scorer_left_out,
        zstd_level: i32::try_from(zstd_level?).ok()?,
        keep_ply: keep_ply?,
        log: LogSettings { level: level?, format: format? },
        grace: grace?,
        devnet: devnet?,
        validators: validators_read,
    };
    if settings.embeds_validators() {
        let DevnetSettings { cooldown, throttle, penalty, lock, .. } = settings.devnet;
        settings.mining = mining::Settings { cooldown, throttle, penalty, lock, ..settings.mining };
    }
    agree(r, &settings);
    Some(settings)
}

/// Rules that concern several keys.
fn agree(r: &mut Reader, settings: &Settings) {
    let sound = r.is_sound("gpus") && r.is_sound("workers");
    let mut fail = |key: &str, problem: String| {
        let origin = r.origin(key);
        r.fail(key, origin, problem);
    };
    if settings.is_public() {
        if settings.workers_as(Tenant::Generator).any(|worker| worker.url == WorkerUrl::Devnet) {
            fail(
                "workers",
                "the embedded generator makes toys: on a public network name your own (workers.url)".into(),
            );
        }
        for validator in &settings.validators {
            if !settings.admission.allow_private && !chain::is_public(validator.address.ip()) {
                fail(
                    "validators",
                    format!(
                        "{} is no address of the public internet; set network.allow_private_axons to use it all the same",
                        validator.address
                    ),
                );
            }
        }
    }
    if sound {
        let workers: Vec<&WorkerSettings> = settings.workers().collect();
        for (key, problem) in workers::mistakes(&settings.gpus, &workers) {
            fail(key, problem);
        }
    }
    let mut seen = BTreeSet::new();
    for validator in &settings.validators {
        if !seen.insert(validator.hotkey) {
            fail("validators", format!("{} is named twice", validator.hotkey));
        }
    }
}

/// One hotkey at least, and none twice: two lanes with one key would break each other's cooldowns.
fn different_hotkeys(r: &mut Reader, names: Vec<String>) -> Option<Vec<String>> {
    let different: BTreeSet<&String> = names.iter().collect();
    let problem = if names.is_empty() {
        "name at least one hotkey"
    } else if different.len() < names.len() {
        "a hotkey is named twice"
    } else {
        return Some(names);
    };
    let origin = r.origin("wallet.hotkeys");
    r.fail("wallet.hotkeys", origin, problem.into());
    None
}

/// Each text of a list; a mistake is collected and leaves its entry out.
fn parse_each<T: std::str::FromStr<Err: std::fmt::Display>>(
    r: &mut Reader,
    key: &str,
    list: &[String],
) -> Vec<T> {
    let mut parsed = Vec::with_capacity(list.len());
    for text in list {
        match text.parse() {
            Ok(value) => parsed.push(value),
            Err(problem) => {
                let origin = r.origin(key);
                r.fail(key, origin, format!("\"{text}\": {problem}"));
            }
        }
    }
    parsed
}

fn validators(r: &mut Reader) -> Vec<ValidatorSettings> {
    let mut optional = Table::new();
    optional.insert("uid".into(), Value::Integer(-1));
    r.entries(
        "validators",
        |_| optional.clone(),
        |r| {
            let hotkey = r.parsed::<Hotkey>("hotkey");
            let address = r.read("address", |value| match value.as_str().map(str::parse::<SocketAddr>) {
                Some(Ok(address)) if address.port() != 0 => Ok(address),
                _ => Err("expected IP:PORT".to_owned()),
            });
            let uid = r.read("uid", |value| match value.as_integer() {
                Some(-1) => Ok(None),
                Some(n) => {
                    u16::try_from(n).map(|n| Some(Uid(n))).map_err(|_| "expected 0 to 65535".to_owned())
                }
                None => Err("expected 0 to 65535".to_owned()),
            });
            Some(ValidatorSettings { hotkey: hotkey?, address: address?, uid: uid? })
        },
    )
}

fn devnet(r: &mut Reader) -> Option<DevnetSettings> {
    let validators = r.whole("devnet.validators", 1, 64);
    let cooldown = r.duration("devnet.cooldown", S(1), S(DAY));
    let throttle = r.duration("devnet.throttle", S(0), S(DAY));
    let penalty = r.duration("devnet.penalty", S(0), S(DAY));
    let lock = r.duration("devnet.lock", S(0), S(3_600));
    let scoring = r.duration("devnet.scoring", S(0), S(3_600));
    let image_share = r.fraction("devnet.image_share", 0.0, 1.0);
    let seed = r.whole("devnet.seed", 0, i64::MAX as u64);
    let base_port = r.whole("devnet.base_port", 0, 65_000);
    Some(DevnetSettings {
        validators: u16::try_from(validators?).ok()?,
        cooldown: cooldown?,
        throttle: throttle?,
        penalty: penalty?,
        lock: lock?,
        scoring: scoring?,
        image_share: image_share?,
        seed: seed?,
        base_port: u16::try_from(base_port?).ok()?,
    })
}
