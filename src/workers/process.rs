//! A worker's server as a process of ours.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::primitives::{ByteSize, MiB};

/// How a worker's server is run (`[workers.process]`).
#[derive(Clone, PartialEq)]
pub struct ProcessSettings {
    /// Program and arguments; empty if there are variants.
    pub command: Vec<String>,
    /// `None`: our own.
    pub cwd: Option<PathBuf>,
    /// Besides what every worker gets.
    pub env: BTreeMap<String, String>,
    pub start_timeout: Duration,
    pub stop_timeout: Duration,
    pub restarts_per_hour: u32,
    /// Share of the card that it is told to keep to.
    pub memory_fraction: Option<f64>,
    /// Of its log file; one older one is kept.
    pub log_limit: ByteSize,
    /// The best first; the first that fits is used.
    pub variants: Vec<Variant>,
}

/// One of several ways to run a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    pub command: Vec<String>,
    /// `None`: as the worker's own entry says.
    pub resident: Option<MiB>,
    pub peak: Option<MiB>,
}

impl std::fmt::Debug for ProcessSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values of variables may be secrets.
        f.debug_struct("ProcessSettings")
            .field("command", &self.command)
            .field("cwd", &self.cwd)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("variants", &self.variants)
            .finish_non_exhaustive()
    }
}
