//! From defaults, file, environment and flags to the settings of each module.
//!
//! What the file says and what the program runs on are two types: [`load`] reads every key into
//! [`Settings`], checks what concerns several keys at once, and reports all mistakes together. The
//! shipped `config.toml` *is* the defaults, so its comments cannot drift from the program.

mod reader;
mod settings;
mod workers;

use std::path::{Path, PathBuf};

use toml::Table;

pub use reader::{ConfigError, Layers, Origin, Resolved};
pub use settings::{
    DevnetSettings, LogFormat, LogSettings, Network, PathSettings, Settings, ValidatorSettings,
};
pub use workers::{GpuSettings, ONLY_CARD, ProbeChoice, StageSettings, WorkerSettings, WorkerUrl};

/// The shipped configuration: documentation and defaults in one.
pub const DEFAULTS: &str = include_str!("../../config.toml");

/// Every mistake in a configuration.
#[derive(Debug, thiserror::Error)]
pub struct ConfigErrors {
    pub errors: Vec<ConfigError>,
}

impl std::fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in the configuration:", if self.errors.len() == 1 { "a mistake" } else { "mistakes" })?;
        for error in &self.errors {
            write!(f, "\n  {error}")?;
        }
        Ok(())
    }
}

/// Where the layers above the defaults come from.
#[derive(Debug, Default)]
pub struct Inputs {
    /// A file that must exist; without it `config.toml` in the working directory, if there is one.
    pub file: Option<PathBuf>,
    /// All of the environment; only `SN17_SECTION__KEY` concerns us.
    pub environment: Vec<(String, String)>,
    /// Key, value, name of the flag.
    pub flags: Vec<(String, String, String)>,
    /// URLs that replace the workers of the other layers by generators of dialect "form".
    pub generators: Vec<String>,
}

impl Inputs {
    /// The process's own environment.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(String, String, String)>) -> Self {
        // A variable that is no UTF-8 is not one of ours.
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self { file, environment, flags, generators: Vec::new() }
    }
}

/// The settings, and where each value comes from.
#[derive(Debug)]
pub struct Loaded {
    pub settings: Settings,
    pub resolved: Vec<Resolved>,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
}

/// Reads all layers.
///
/// # Errors
/// Every mistake at once.
pub fn load(inputs: &Inputs) -> Result<Loaded, ConfigErrors> {
    let defaults = defaults();
    let mut layers = Layers::default();
    layers.add_table(&defaults, &Origin::Default);
    let mut errors = Vec::new();

    let implied = Path::new("config.toml");
    let file = inputs.file.clone().or_else(|| implied.exists().then(|| implied.to_owned()));
    if let Some(path) = &file {
        match read_file(path) {
            Ok(table) => layers.add_table(&table, &Origin::File(path.clone())),
            Err(problem) => {
                errors.push(ConfigError { key: "file".into(), origin: Origin::File(path.clone()), problem })
            }
        }
    }
    for (name, value) in &inputs.environment {
        if let Some(key) = environment_key(name) {
            layers.add_text(&key, value, Origin::Environment(name.clone()));
        }
    }
    for (key, value, flag) in &inputs.flags {
        layers.add_text(key, value, Origin::Flag(flag.clone()));
    }

    if !inputs.generators.is_empty() {
        layers.replace_workers(&inputs.generators, Origin::Flag("generation.endpoint".into()));
    }

    let (settings, resolved, mut more) = settings::read(layers, &defaults);
    errors.append(&mut more);
    match settings {
        Some(settings) if errors.is_empty() => Ok(Loaded { settings, resolved, file }),
        _ => Err(ConfigErrors { errors }),
    }
}

fn defaults() -> Table {
    // The text is compiled in, and a test reads it.
    DEFAULTS.parse().expect("the shipped config.toml is TOML")
}

fn read_file(path: &Path) -> Result<Table, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot be read: {e}"))?;
    text.parse().map_err(|e: toml::de::Error| format!("is no TOML: {}", e.to_string().trim()))
}

/// `SN17_SECTION__KEY` is a setting; other `SN17_*` names are not configuration.
fn environment_key(name: &str) -> Option<String> {
    let rest = name.strip_prefix("SN17_")?;
    rest.contains("__").then(|| rest.to_ascii_lowercase().replace("__", "."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(file: &str, environment: &[(&str, &str)]) -> (Inputs, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, file).unwrap();
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        (Inputs { file: Some(path), environment, ..Inputs::default() }, dir)
    }

    fn problems(file: &str, environment: &[(&str, &str)]) -> Vec<String> {
        let (inputs, _dir) = inputs(file, environment);
        load(&inputs).unwrap_err().errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_shipped_file_is_valid_and_changes_nothing() {
        let (inputs, _dir) = inputs(DEFAULTS, &[]);
        let shipped = load(&inputs).unwrap();
        let (inputs, _dir) = self::inputs("", &[]);
        assert_eq!(shipped.settings, load(&inputs).unwrap().settings);
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let found = problems(
            "[dendrite]\npull_timeout = \"12\"\nversoin = 1\n[wallet]\nhotkeys = []\n[nonsense]\nx = 1\n[mining]\nmargin = 5\n",
            &[("SN17_LOG__LEVEL", "loud"), ("SN17_SHARED", "/x"), ("SN17_SPLAT__ZSTD", "3")],
        );
        assert_eq!(found.len(), 7, "{found:#?}");
        for key in [
            "dendrite.pull_timeout",
            "dendrite.versoin",
            "wallet.hotkeys",
            "nonsense.x",
            "mining.margin",
            "log.level (SN17_LOG__LEVEL)",
            "splat.zstd ",
        ] {
            assert!(found.iter().any(|line| line.starts_with(key)), "{key} in {found:#?}");
        }
    }

    #[test]
    fn later_layers_win_and_say_so() {
        let (mut inputs, dir) = inputs(
            "[log]\nlevel = \"warn\"\n[splat]\nzstd_level = 3\n",
            &[("SN17_LOG__LEVEL", "debug"), ("SN17_SPLAT__ZSTD_LEVEL", "5")],
        );
        inputs.flags.push(("log.level".into(), "error".into(), "log-level".into()));
        let loaded = load(&inputs).unwrap();
        assert_eq!(loaded.settings.log.level, tracing::level_filters::LevelFilter::ERROR);
        assert_eq!(loaded.settings.zstd_level, 5);
        let origin = |key: &str| loaded.resolved.iter().find(|r| r.key == key).unwrap().origin.to_string();
        assert_eq!(origin("log.level"), "--log-level");
        assert_eq!(origin("splat.zstd_level"), "SN17_SPLAT__ZSTD_LEVEL");
        assert_eq!(origin("network.name"), "default");
        drop(dir);
    }

    #[test]
    fn a_public_network_takes_no_development_workers() {
        let found = problems("[network]\nname = \"finney\"\n", &[]);
        assert!(found.iter().any(|l| l.contains("embedded generator")), "{found:#?}");
    }

    #[test]
    fn addresses_at_home_are_refused_on_a_public_network() {
        let found = |address: &str| {
            let file = format!(
                "[network]\nname = \"finney\"\n[[validators]]\naddress = \"{address}\"\n\
                 hotkey = \"5DZTNLeUPhDQ2dhS95g7gAjwGro1A7kMMnnVaTRYp7PmEHFv\"\n"
            );
            problems(&file, &[]).iter().any(|line| line.starts_with("validators"))
        };
        for home in [
            "127.0.0.1:80",
            "10.1.2.3:80",
            "192.168.0.1:80",
            "169.254.169.254:80",
            "100.64.0.1:80",
            "0.0.0.0:80",
            "255.255.255.255:80",
            "240.0.0.1:80",
            "224.0.0.1:80",
            "[::1]:80",
            "[::]:80",
            "[fe80::1]:80",
            "[fd00::1]:80",
            "[ff02::1]:80",
            "[::ffff:10.0.0.1]:80",
            "[::10.0.0.1]:80",
            "[64:ff9b::a00:1]:80",
            "[2002:7f00:1::]:80",
            "8.8.8.8:0",
            "8.8.8.8",
        ] {
            assert!(found(home), "{home}");
        }
        for public in ["8.8.8.8:80", "[2606:4700::1]:80", "[64:ff9b::808:808]:80", "[2002:808:808::]:80"] {
            assert!(!found(public), "{public}");
        }
    }

    #[test]
    fn one_generator_is_needed_and_the_development_scorer_judges_only_its_own() {
        let found = problems("workers = []\n", &[]);
        assert!(found[0].contains("one generator"), "{found:#?}");
        let (inputs, _dir) = inputs(
            "[[workers]]\nname = \"g\"\nrole = \"generator\"\nurl = \"http://127.0.0.1:8095\"\ndialect = \"form\"\nkinds = [\"text\"]\n\
             [[workers]]\nname = \"s\"\nrole = \"scorer\"\nurl = \"devnet\"\n",
            &[],
        );
        assert!(load(&inputs).unwrap().settings.scorer.is_none());
    }

    #[test]
    fn workers_are_checked_one_by_one() {
        let found = problems(
            "[[workers]]\nname = \"g\"\nrole = \"generator\"\nurl = \"https://x\"\ndialect = \"form\"\nkinds = [\"image\"]\nbody_limit = \"5\"\n",
            &[],
        );
        assert!(found.iter().any(|l| l.starts_with("workers.0.url")), "{found:#?}");
        assert!(found.iter().any(|l| l.starts_with("workers.0.body_limit")), "{found:#?}");
    }
}
