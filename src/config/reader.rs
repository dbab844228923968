//! Values by key, from several layers, with every mistake collected.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;
use toml::{Table, Value};

use crate::primitives::{ByteSize, MiB};

/// No card holds more.
const LARGEST_CARD: ByteSize = ByteSize::mib(4 << 20);

/// Which layer a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File(PathBuf),
    Environment(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(name) => write!(f, "--{name}"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One mistake in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} ({origin}): {problem}")]
pub struct ConfigError {
    pub key: String,
    pub origin: Origin,
    pub problem: String,
}

/// One value as it applies.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Resolved {
    pub key: String,
    pub value: String,
    pub origin: Origin,
}

/// The layers merged: key -> value and where it comes from. Tables are flattened with dots; an array
/// of tables is one value.
#[derive(Debug, Default)]
pub struct Layers(BTreeMap<String, (Value, Origin)>);

impl Layers {
    pub fn add_table(&mut self, table: &Table, origin: &Origin) {
        self.add_below("", table, origin);
    }

    fn add_below(&mut self, prefix: &str, table: &Table, origin: &Origin) {
        for (name, value) in table {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            match value {
                Value::Table(below) => self.add_below(&key, below, origin),
                value => {
                    self.0.insert(key, (value.clone(), origin.clone()));
                }
            }
        }
    }

    /// Generators at these URLs in place of all workers, as the official miner speaks to its own.
    pub fn replace_workers(&mut self, urls: &[String], origin: Origin) {
        let worker = |(number, url): (usize, &String)| {
            let mut table = Table::new();
            table.insert("name".into(), format!("generator-{number}").into());
            table.insert("role".into(), "generator".into());
            table.insert("url".into(), url.as_str().into());
            table.insert("dialect".into(), "form".into());
            table.insert("kinds".into(), vec!["text"].into());
            Value::Table(table)
        };
        let workers = urls.iter().enumerate().map(worker).collect();
        self.0.insert("workers".into(), (Value::Array(workers), origin));
    }

    /// A value written as text: TOML if it reads as TOML and the key's default is no text.
    pub fn add_text(&mut self, key: &str, text: &str, origin: Origin) {
        let is_text = matches!(self.0.get(key), Some((Value::String(_), _)) | None);
        let value = if is_text { None } else { Value::from_str(text).ok() };
        self.0.insert(key.to_owned(), (value.unwrap_or_else(|| Value::String(text.to_owned())), origin));
    }
}

/// Takes values out of the layers, one key at a time.
pub struct Reader {
    layers: Layers,
    known: Vec<String>,
    errors: Vec<ConfigError>,
    resolved: Vec<Resolved>,
}

impl Reader {
    pub fn new(layers: Layers) -> Self {
        Self { layers, known: Vec::new(), errors: Vec::new(), resolved: Vec::new() }
    }

    /// Reads one key with `parse`; a mistake is collected and gives nothing.
    pub fn read<T>(&mut self, key: &str, parse: impl FnOnce(&Value) -> Result<T, String>) -> Option<T> {
        self.known.push(key.to_owned());
        let Some((value, origin)) = self.layers.0.remove(key) else {
            self.fail(key, Origin::Default, "is missing".into());
            return None;
        };
        self.resolved.push(Resolved {
            key: key.to_owned(),
            value: show(key, &value),
            origin: origin.clone(),
        });
        match parse(&value) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.fail(key, origin, problem);
                None
            }
        }
    }

    pub fn fail(&mut self, key: &str, origin: Origin, problem: String) {
        self.errors.push(ConfigError { key: key.to_owned(), origin, problem });
    }

    /// Whether a section, or a list of tables, was read without a mistake.
    pub fn is_sound(&self, section: &str) -> bool {
        !self.errors.iter().any(|error| error.key.split('.').next() == Some(section))
    }

    /// The origin of a value already read, for mistakes that concern several.
    pub fn origin(&self, key: &str) -> Origin {
        self.resolved.iter().find(|r| r.key == key).map_or(Origin::Default, |r| r.origin.clone())
    }

    pub fn text(&mut self, key: &str) -> Option<String> {
        self.read(key, |value| value.as_str().map(str::to_owned).ok_or_else(|| expected("a text", value)))
    }

    pub fn parsed<T: FromStr<Err: fmt::Display>>(&mut self, key: &str) -> Option<T> {
        self.read(key, parse_text)
    }

    /// A path; a leading `~` is the home directory.
    pub fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.read(key, |value| {
            let text = value.as_str().ok_or_else(|| expected("a path", value))?;
            crate::wallet::expand_home(Path::new(text)).map_err(|e| e.to_string())
        })
    }

    pub fn boolean(&mut self, key: &str) -> Option<bool> {
        self.read(key, |value| value.as_bool().ok_or_else(|| expected("true or false", value)))
    }

    pub fn whole(&mut self, key: &str, min: u64, max: u64) -> Option<u64> {
        self.read(key, |value| {
            let number = value.as_integer().and_then(|n| u64::try_from(n).ok());
            number
                .filter(|n| (min..=max).contains(n))
                .ok_or_else(|| expected(&format!("a whole number from {min} to {max}"), value))
        })
    }

    pub fn fraction(&mut self, key: &str, min: f64, max: f64) -> Option<f64> {
        self.read(key, |value| {
            let number = value.as_float().or_else(|| value.as_integer().map(|n| n as f64));
            number
                .filter(|n| (min..=max).contains(n))
                .ok_or_else(|| expected(&format!("a number from {min} to {max}"), value))
        })
    }

    pub fn duration(&mut self, key: &str, min: Duration, max: Duration) -> Option<Duration> {
        self.read(key, |value| {
            let time = value.as_str().and_then(|text| humantime::parse_duration(text).ok());
            time.filter(|t| (min..=max).contains(t)).ok_or_else(|| {
                let (min, max) = (humantime::format_duration(min), humantime::format_duration(max));
                expected(&format!("a time with its unit, such as \"12s\", from {min} to {max}"), value)
            })
        })
    }

    pub fn size(&mut self, key: &str, min: ByteSize, max: ByteSize) -> Option<ByteSize> {
        self.read(key, |value| {
            let size: ByteSize = parse_text(value)?;
            if (min..=max).contains(&size) {
                Ok(size)
            } else {
                Err(expected(&format!("a size from {min} to {max}"), value))
            }
        })
    }

    /// Memory of a card, in whole MiB; "auto": not known.
    #[allow(clippy::option_option, reason = "the outer one is a mistake, as for every key")]
    pub fn memory(&mut self, key: &str) -> Option<Option<MiB>> {
        self.read(key, |value| {
            let text = value
                .as_str()
                .ok_or_else(|| expected("a size with its unit, such as \"4813MiB\", or \"auto\"", value))?;
            if text == "auto" {
                return Ok(None);
            }
            let size: ByteSize = text.parse().map_err(|e: crate::primitives::QuantityError| e.to_string())?;
            if !(ByteSize::mib(1)..=LARGEST_CARD).contains(&size) {
                return Err(expected(&format!("a size from 1MiB to {LARGEST_CARD}, or \"auto\""), value));
            }
            Ok(Some(MiB(size.0.div_ceil(1 << 20))))
        })
    }

    /// The texts below a key, by what follows it. They are not shown: some are secrets.
    pub fn hidden_texts(&mut self, key: &str) -> Option<BTreeMap<String, String>> {
        let prefix = format!("{key}.");
        self.known.push(format!("{prefix}NAME"));
        let keys: Vec<String> = self.layers.0.keys().filter(|k| k.starts_with(&prefix)).cloned().collect();
        let mut texts = BTreeMap::new();
        let mut sound = true;
        for key in keys {
            let Some((value, origin)) = self.layers.0.remove(&key) else { continue };
            let name = key[prefix.len()..].to_owned();
            let line = Resolved { key: key.clone(), value: "(not shown)".into(), origin: origin.clone() };
            self.resolved.push(line);
            let plain = !name.contains(['=', '\0']) && !name.is_empty();
            match value.as_str().filter(|text| plain && !text.contains('\0')) {
                Some(text) => drop(texts.insert(name, text.to_owned())),
                None => {
                    sound = false;
                    self.fail(&key, origin, "expected a text".into());
                }
            }
        }
        sound.then_some(texts)
    }

    /// Leaves out defaults that mean nothing for this entry; what somebody wrote stays unknown.
    pub fn pass_over(&mut self, keys: &[&str]) {
        self.layers.0.retain(|key, (_, origin)| *origin != Origin::Default || !keys.contains(&key.as_str()));
    }

    /// One of several words.
    pub fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        self.read(key, |value| {
            let found = value.as_str().and_then(|text| choices.iter().find(|(name, _)| *name == text));
            found.map(|(_, choice)| *choice).ok_or_else(|| {
                let names: Vec<String> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
                expected(&names.join(" or "), value)
            })
        })
    }

    pub fn texts(&mut self, key: &str) -> Option<Vec<String>> {
        self.read(key, |value| {
            let items = value.as_array().ok_or_else(|| expected("a list of texts", value))?;
            items
                .iter()
                .map(|item| item.as_str().map(str::to_owned).ok_or_else(|| expected("a text", item)))
                .collect()
        })
    }

    /// The entries of an array of tables, each read by `entry` from a reader of its own that has the
    /// values that `defaults` gives for it below its own.
    pub fn entries<T>(
        &mut self,
        key: &str,
        defaults: impl Fn(&Table) -> Table,
        mut entry: impl FnMut(&mut Self) -> Option<T>,
    ) -> Vec<T> {
        self.known.push(key.to_owned());
        let Some((value, origin)) = self.layers.0.remove(key) else { return Vec::new() };
        let Value::Array(items) = &value else {
            self.fail(key, origin, format!("write it as [[{key}]]"));
            return Vec::new();
        };
        let mut read = Vec::new();
        for (position, item) in items.iter().enumerate() {
            let place = format!("{key}.{position}");
            let Value::Table(table) = item else {
                self.fail(&place, origin.clone(), format!("write it as [[{key}]]"));
                continue;
            };
            let mut layers = Layers::default();
            layers.add_table(&defaults(table), &Origin::Default);
            layers.add_table(table, &origin);
            let mut below = Self::new(layers);
            let value = entry(&mut below);
            let (mut resolved, mut errors) = below.finish();
            for line in &mut resolved {
                line.key = format!("{place}.{}", line.key);
            }
            for error in &mut errors {
                error.key = format!("{place}.{}", error.key);
            }
            let failed = !errors.is_empty();
            self.resolved.append(&mut resolved);
            self.errors.append(&mut errors);
            if !failed {
                read.extend(value);
            }
        }
        read
    }

    /// Everything read, and every mistake, keys that nothing asked for included.
    pub fn finish(mut self) -> (Vec<Resolved>, Vec<ConfigError>) {
        for (key, (_, origin)) in std::mem::take(&mut self.layers.0) {
            let section = key.rsplit_once('.').map_or("", |(section, _)| section);
            let siblings: Vec<&str> = self
                .known
                .iter()
                .filter(|known| known.rsplit_once('.').map_or("", |(s, _)| s) == section)
                .map(String::as_str)
                .collect();
            let problem = if siblings.is_empty() {
                "is not a known key, nor is its section".into()
            } else {
                format!("is not a known key; there are {}", siblings.join(", "))
            };
            self.fail(&key, origin, problem);
        }
        (self.resolved, self.errors)
    }
}

fn expected(what: &str, got: &Value) -> String {
    format!("expected {what}, got {got}")
}

fn parse_text<T: FromStr<Err: fmt::Display>>(value: &Value) -> Result<T, String> {
    let text = value.as_str().ok_or_else(|| expected("a text", value))?;
    text.parse().map_err(|e: T::Err| e.to_string())
}

/// URLs may hold secrets; they are shown as host and port.
fn show(key: &str, value: &Value) -> String {
    match value.as_str() {
        Some(text) if key.rsplit('.').next() == Some("url") => {
            text.parse::<crate::net::Endpoint>().map_or_else(|_| text.to_owned(), |url| url.to_string())
        }
        _ => value.to_string(),
    }
}
