//! One SQLite file: tasks, results, submissions, feedback, lanes, the journal of each task and that of
//! hand-offs.
//!
//! Every row carries (source, hotkey), so that one file serves several of either. Results lie beside
//! the database as `results/ID-N.spz`, written to a temporary name and renamed. Work goes through
//! `spawn_blocking`, one transaction a call; `kill -9` at any moment leaves either the state before
//! a call or the state after it. Power loss may cost the last result (answers.md, "Meaning").
//!
//! What a restart does with a task, by its journal state:
//!
//! | state | stored | on restart |
//! |---|---|---|
//! | `accepted`, `generating` | the task | pulled again; the validator gives the same task, or another if it forgot |
//! | `generating` | and an earlier result that passed | that one is submitted |
//! | `kept` | and a result | scored |
//! | `scored` | and its verdict | decided |
//! | `intended` | and a submission that may have left | the stored bytes are submitted again, newly signed, after the lock |
//! | `sent` | and that no answer came | the same |
//! | `booked`, `declined` | and the outcome | nothing |

mod decisions;
mod error;
mod feedback;
mod handoffs;
mod histogram;
mod learned;
mod lock;
mod recall;
mod records;
mod recovery;
mod remembered;
mod rollup;
mod schema;
mod stats;
mod tally;
mod tasks;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, Transaction, TransactionBehavior};

pub use error::StoreError;
pub use feedback::{FeedbackFilter, FeedbackReader, FeedbackRow, ReadError};
pub use handoffs::{HandoffRecord, HandoffStep, PastHandoff};
pub use histogram::Histogram;
pub use lock::{LockError, ProcessLock, runtime_dir};
pub use recall::{Acceptance, CalibrationPair, RecentAnswer, RecentDurations, RecentMaking};
pub use records::{
    Accepted, Answer, Canary, Decided, DecisionRecord, Delivery, FailedMaking, FeedbackRecord, KeptResult,
    LaneKey, LaneRecord, Making, NewTask, OpenTask, Outcome, Settled, Spent, Stage, TaskRecord, Verdict,
};
pub use remembered::{Remembered, RememberedLane, RememberedTask};
pub use stats::Stats;
pub use tally::{Latest, SLOW_MS, Slow, Tally, Times};

/// Keeps the agent's memory. Cheap to clone; all clones use one connection.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    writer: Mutex<Writer>,
    dir: PathBuf,
    recovered: Option<PathBuf>,
}

#[derive(Debug)]
struct Writer {
    connection: Connection,
    /// What its commits wait for.
    durable: Durable,
}

impl Store {
    /// Name of the database in the data directory.
    pub const FILE: &str = "agent.sqlite";

    /// Opens the store in `dir`, creating directory, file and tables as needed and bringing older
    /// tables up to date. A file that is damaged or none of ours is moved aside, see
    /// [`recovered`](Self::recovered).
    ///
    /// # Errors
    /// When the directory cannot be written, another program holds the file, or a newer one wrote it.
    pub async fn open(dir: &Path) -> Result<Self, StoreError> {
        let dir = dir.to_owned();
        blocking(move || {
            let results = dir.join("results");
            std::fs::create_dir_all(&results).map_err(|e| StoreError::file(&results, e))?;
            restrict(&dir)?;
            let (connection, recovered) = recovery::open(&dir.join(Self::FILE))?;
            let writer = Mutex::new(Writer { connection, durable: Durable::Process });
            Ok(Self { inner: Arc::new(Inner { writer, dir, recovered }) })
        })
        .await
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Where the database is that this one was begun in place of: what the agent knew is lost, except
    /// for the lanes that could still be read.
    pub fn recovered(&self) -> Option<&Path> {
        self.inner.recovered.as_deref()
    }

    /// Runs `work` in one transaction on a blocking thread. If it fails nothing has changed and the
    /// next one may succeed.
    async fn transaction<T, F>(&self, durable: Durable, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let mut writer = inner.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let Writer { connection, durable: current } = &mut *writer;
            // Before the work and not after it: what came of a commit is said by nothing else.
            if *current != durable {
                connection.pragma_update(None, "synchronous", durable.pragma())?;
                *current = durable;
            }
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        })
        .await
    }
}

/// Whether a commit waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durable {
    /// Survives `kill -9`.
    Process,
    /// Survives power loss too.
    Synced,
}

impl Durable {
    /// The value of `PRAGMA synchronous`.
    const fn pragma(self) -> &'static str {
        match self {
            Self::Process => "NORMAL",
            Self::Synced => "FULL",
        }
    }
}

async fn blocking<T, F>(work: F) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, StoreError> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(|e| StoreError::Interrupted(e.to_string()))?
}

/// The directory holds what others could resubmit: only its owner may look inside.
fn restrict(dir: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
        .map_err(|e| StoreError::file(dir, e))
}

#[cfg(test)]
mod full_disk;
#[cfg(test)]
mod tests;
