//! What a worker's process gets to see of ours: next to nothing.
//!
//! An agent's environment holds passwords and webhook addresses; a worker is another's program that
//! prints, uploads and crashes. It starts from a short list of harmless variables, what its card needs,
//! and what is configured for it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

/// Handed on if they are set: where programs, libraries and models lie, and the language.
const ALLOWED: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "CUDA_HOME",
    "CUDA_PATH",
    "HF_HOME",
    "TORCH_HOME",
    "XDG_CACHE_HOME",
];

fn is_allowed(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| ALLOWED.contains(&name) || name.starts_with("LC_"))
}

/// What stands for `{port}` and the like.
#[derive(Debug, Clone, Default)]
pub(super) struct Values {
    pub(super) port: u16,
    pub(super) memory_fraction: Option<f64>,
    /// The driver's id of the card, if it is known.
    pub(super) card: Option<String>,
}

impl Values {
    pub(super) fn put_into(&self, text: &str) -> String {
        let fraction = self.memory_fraction.unwrap_or(1.0).to_string();
        text.replace("{port}", &self.port.to_string())
            .replace("{memory_fraction}", &fraction)
            .replace("{card}", self.card.as_deref().unwrap_or_default())
    }
}

/// The whole environment of a worker's process.
pub(super) fn environment(
    ours: impl IntoIterator<Item = (OsString, OsString)>,
    configured: &BTreeMap<String, String>,
    values: &Values,
    mark: &str,
) -> BTreeMap<OsString, OsString> {
    let mut given: BTreeMap<OsString, OsString> =
        ours.into_iter().filter(|(name, _)| is_allowed(name)).collect();
    let mut put = |name: &str, value: String| drop(given.insert(name.into(), value.into()));
    // Fragments would make room unusable that the probe shows as free.
    put("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True".to_owned());
    // Or its last words stay in a buffer.
    put("PYTHONUNBUFFERED", "1".to_owned());
    if let Some(card) = &values.card {
        // By id: indexes are another program's.
        put("CUDA_VISIBLE_DEVICES", card.clone());
    }
    if let Some(fraction) = values.memory_fraction {
        put("SN17_MEMORY_FRACTION", fraction.to_string());
    }
    for (name, value) in configured {
        put(name, values.put_into(value));
    }
    put(super::tree::MARK, mark.to_owned());
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_variables_are_handed_on() {
        let ours = [
            ("PATH", "/bin"),
            ("LC_ALL", "C"),
            ("BT_PW__HOME_X", "hunter2"),
            ("SN17_ALERTS__WEBHOOK", "https://hooks/secret"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("http_proxy", "http://user:pw@proxy"),
            ("LD_PRELOAD", "/evil.so"),
        ];
        let ours = ours.map(|(name, value)| (name.into(), value.into()));
        let configured = BTreeMap::from([
            ("PORT".to_owned(), "{port}".to_owned()),
            ("PYTORCH_CUDA_ALLOC_CONF".to_owned(), "backend:native".to_owned()),
        ]);
        let values = Values { port: 8_095, memory_fraction: Some(0.63), card: Some("GPU-1".into()) };
        let given = environment(ours, &configured, &values, "m");
        let given: Vec<String> = given
            .iter()
            .map(|(name, value)| format!("{}={}", name.to_str().unwrap(), value.to_str().unwrap()))
            .collect();
        assert_eq!(
            given,
            [
                "CUDA_VISIBLE_DEVICES=GPU-1",
                "LC_ALL=C",
                "PATH=/bin",
                "PORT=8095",
                "PYTHONUNBUFFERED=1",
                "PYTORCH_CUDA_ALLOC_CONF=backend:native",
                "SN17_MEMORY_FRACTION=0.63",
                "SN17_WORKER=m",
            ]
        );
    }
}
