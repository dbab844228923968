//! What an agent writes down of a process before it lets it run, so that the next one finds it after a
//! `kill -9`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::tree::{ProcessTree, boot};

/// A process of ours, on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// Start times count from it, and nothing outlives it.
    boot: String,
    #[serde(flatten)]
    tree: ProcessTree,
}

/// Where the record of one worker lies.
#[derive(Debug, Clone)]
pub(super) struct RecordFile(PathBuf);

impl RecordFile {
    pub(super) fn new(folder: &Path, worker: &str) -> Self {
        Self(folder.join(format!("{worker}.process")))
    }

    /// Whole or not at all.
    pub(super) fn write(&self, tree: &ProcessTree) -> io::Result<()> {
        let text = serde_json::to_vec(&Record { boot: boot(), tree: tree.clone() })?;
        let unfinished = self.0.with_extension("part");
        fs::write(&unfinished, text)?;
        fs::rename(unfinished, &self.0)
    }

    /// A process of an earlier agent, if anything of it still runs. A record that cannot be read is of
    /// no use to anybody.
    pub(super) fn orphan(&self) -> Option<ProcessTree> {
        let record: Record = serde_json::from_slice(&fs::read(&self.0).ok()?).ok()?;
        if record.boot != boot() {
            return None;
        }
        let mut tree = record.tree;
        // Its group's number is somebody else's by now if nothing of it is ours any more.
        if !tree.roots.iter().any(|root| root.is_alive()) {
            tree.group = None;
        }
        (!tree.members().is_empty()).then_some(tree)
    }

    pub(super) fn remove(&self) {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file = %self.0.display(), %error, "The record of a process stays");
            }
            _ => {}
        }
    }
}
