//! Flags that are settings, among them those of the official miner, so that an existing process file
//! only changes its `script` and `interpreter` lines.

use std::path::PathBuf;

use clap::Args;

use crate::config::{ConfigErrors, Inputs, Loaded, load};

/// Settings given as flags; every command takes them.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Settings")]
pub struct LayerArgs {
    /// Configuration file (default: config.toml in the working directory, if there is one)
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Any setting, such as --set dendrite.pull_timeout=10s
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Folder of wallets
    #[arg(long = "wallet.path", visible_alias = "wallet-path", global = true, value_name = "PATH")]
    wallet_path: Option<String>,
    /// Wallet in that folder
    #[arg(long = "wallet.name", visible_alias = "wallet-name", global = true, value_name = "NAME")]
    wallet_name: Option<String>,
    /// Hotkey of that wallet
    #[arg(long = "wallet.hotkey", visible_alias = "wallet-hotkey", global = true, value_name = "NAME")]
    wallet_hotkey: Option<String>,
    /// File whose first line is the password of an encrypted hotkey
    #[arg(
        long = "wallet.password_file",
        visible_alias = "wallet-password-file",
        alias = "wallet.password-file",
        global = true,
        value_name = "FILE"
    )]
    wallet_password_file: Option<String>,
    /// Number of the subnet
    #[arg(long, global = true, value_name = "N")]
    netuid: Option<String>,
    /// Network: devnet, finney, test, archive or local
    #[arg(
        long = "subtensor.network",
        visible_alias = "subtensor-network",
        global = true,
        value_name = "NAME"
    )]
    subtensor_network: Option<String>,
    /// Base URL of the generator, dialect "form"; replaces [[workers]]
    #[arg(
        long = "generation.endpoint",
        visible_aliases = ["generation-endpoint", "generation.endpoints", "generation-endpoints"],
        global = true,
        value_name = "URL",
        num_args = 1..
    )]
    generation_endpoint: Vec<String>,
    /// error, warn, info, debug or trace
    #[arg(long = "log-level", global = true, value_name = "LEVEL")]
    log_level: Option<String>,
    /// text or json
    #[arg(long = "log-format", global = true, value_name = "FORMAT")]
    log_format: Option<String>,
    /// As --log-level info
    #[arg(long = "logging.info", alias = "logging-info", global = true, hide = true)]
    logging_info: bool,
    /// As --log-level debug
    #[arg(long = "logging.debug", alias = "logging-debug", global = true)]
    logging_debug: bool,
    /// As --log-level trace
    #[arg(long = "logging.trace", alias = "logging-trace", global = true)]
    logging_trace: bool,
    #[command(flatten)]
    idle: WithoutEffect,
}

/// Flags of the official miner that mean nothing here: this agent needs no axon and sets no weights.
#[derive(Debug, Default, Args)]
struct WithoutEffect {
    #[arg(long = "subtensor.chain_endpoint", alias = "subtensor-chain-endpoint", global = true, hide = true)]
    subtensor_chain_endpoint: Option<String>,
    #[arg(long = "subtensor._mock", alias = "subtensor--mock", global = true, hide = true)]
    subtensor_mock: bool,
    #[arg(long = "axon.port", alias = "axon-port", global = true, hide = true)]
    axon_port: Option<String>,
    #[arg(long = "axon.ip", alias = "axon-ip", global = true, hide = true)]
    axon_ip: Option<String>,
    #[arg(long = "axon.external_port", alias = "axon-external-port", global = true, hide = true)]
    axon_external_port: Option<String>,
    #[arg(long = "axon.external_ip", alias = "axon-external-ip", global = true, hide = true)]
    axon_external_ip: Option<String>,
    #[arg(long = "axon.max_workers", alias = "axon-max-workers", global = true, hide = true)]
    axon_max_workers: Option<String>,
    #[arg(long = "logging.record_log", alias = "logging-record-log", global = true, hide = true)]
    logging_record_log: bool,
    #[arg(long = "logging.logging_dir", alias = "logging-logging-dir", global = true, hide = true)]
    logging_logging_dir: Option<String>,
    #[arg(
        long = "logging.enable_third_party_loggers",
        alias = "logging-enable-third-party-loggers",
        global = true,
        hide = true
    )]
    logging_third_party: bool,
    #[arg(long = "neuron.name", alias = "neuron-name", global = true, hide = true)]
    neuron_name: Option<String>,
    #[arg(long = "neuron.sync_interval", alias = "neuron-sync-interval", global = true, hide = true)]
    neuron_sync_interval: Option<String>,
    #[arg(long = "neuron.log_info_interval", alias = "neuron-log-info-interval", global = true, hide = true)]
    neuron_log_info_interval: Option<String>,
    #[arg(
        long = "neuron.min_stake_to_set_weights",
        alias = "neuron-min-stake-to-set-weights",
        global = true,
        hide = true
    )]
    neuron_min_stake: Option<String>,
    #[arg(long = "no_prompting", alias = "no-prompting", global = true, hide = true)]
    no_prompting: bool,
    #[arg(long = "no_version_checking", alias = "no-version-checking", global = true, hide = true)]
    no_version_checking: bool,
    #[arg(long = "strict.config", hide = true)]
    strict_config: bool,
}

impl WithoutEffect {
    /// The flags that were given.
    fn given(&self) -> Vec<&'static str> {
        let values = [
            (self.subtensor_chain_endpoint.is_some(), "subtensor.chain_endpoint"),
            (self.subtensor_mock, "subtensor._mock"),
            (self.axon_port.is_some(), "axon.port"),
            (self.axon_ip.is_some(), "axon.ip"),
            (self.axon_external_port.is_some(), "axon.external_port"),
            (self.axon_external_ip.is_some(), "axon.external_ip"),
            (self.axon_max_workers.is_some(), "axon.max_workers"),
            (self.logging_record_log, "logging.record_log"),
            (self.logging_logging_dir.is_some(), "logging.logging_dir"),
            (self.logging_third_party, "logging.enable_third_party_loggers"),
            (self.neuron_name.is_some(), "neuron.name"),
            (self.neuron_sync_interval.is_some(), "neuron.sync_interval"),
            (self.neuron_log_info_interval.is_some(), "neuron.log_info_interval"),
            (self.neuron_min_stake.is_some(), "neuron.min_stake_to_set_weights"),
            (self.no_prompting, "no_prompting"),
            (self.no_version_checking, "no_version_checking"),
        ];
        values.into_iter().filter(|(given, _)| *given).map(|(_, name)| name).collect()
    }
}

impl LayerArgs {
    /// Reads the configuration with these flags on top.
    ///
    /// # Errors
    /// Every mistake at once.
    pub fn load(&self) -> Result<Loaded, ConfigErrors> {
        let mut flags = Vec::new();
        let mut put = |key: &str, value: &Option<String>, flag: &str| {
            if let Some(value) = value {
                flags.push((key.to_owned(), value.clone(), flag.to_owned()));
            }
        };
        put("wallet.path", &self.wallet_path, "wallet.path");
        put("wallet.name", &self.wallet_name, "wallet.name");
        let hotkeys =
            self.wallet_hotkey.as_ref().map(|name| toml::Value::from(vec![name.clone()]).to_string());
        put("wallet.hotkeys", &hotkeys, "wallet.hotkey");
        put("wallet.password_file", &self.wallet_password_file, "wallet.password_file");
        put("network.netuid", &self.netuid, "netuid");
        put("network.name", &self.subtensor_network, "subtensor.network");
        for (given, level) in
            [(self.logging_info, "info"), (self.logging_debug, "debug"), (self.logging_trace, "trace")]
        {
            put("log.level", &given.then(|| level.to_owned()), "logging");
        }
        put("log.level", &self.log_level, "log-level");
        put("log.format", &self.log_format, "log-format");
        for setting in &self.set {
            let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
            put(key.trim(), &Some(value.to_owned()), "set");
        }
        let mut inputs = Inputs::of_process(self.config.clone(), flags);
        inputs.generators = self.generation_endpoint.clone();
        load(&inputs)
    }

    /// Whether any setting was given.
    pub fn has_settings(&self) -> bool {
        let Self {
            config,
            set,
            wallet_path,
            wallet_name,
            wallet_hotkey,
            wallet_password_file,
            netuid,
            subtensor_network,
            generation_endpoint,
            ..
        } = self;
        let texts =
            [wallet_path, wallet_name, wallet_hotkey, wallet_password_file, netuid, subtensor_network];
        config.is_some()
            || !set.is_empty()
            || !generation_endpoint.is_empty()
            || texts.into_iter().any(Option::is_some)
    }

    /// Says once which flags do nothing.
    pub fn warn_of_idle_flags(&self) {
        let idle = self.idle.given();
        if !idle.is_empty() {
            tracing::warn!("These flags of the official miner have no effect here: {}", idle.join(", "));
        }
    }
}
