//! Reading feedback beside a running agent, or without one.
//!
//! A second, read-only connection: the WAL lets it read while the agent writes, neither waits for the
//! other, and nothing here can change what the agent remembers. It takes no lock of the agent's.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::types::ToSql;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row};
use serde::Serialize;

use super::{Outcome, Store, StoreError, blocking, schema};
use crate::primitives::{Hotkey, LocalId, PromptKind, Score, SourceId, TaskId, Uid, UnixTime};

/// The memory of an agent cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("no agent has remembered anything in {}: there is no {}", dir.display(), Store::FILE)]
    Absent { dir: PathBuf },
    #[error("{} is no database of this agent", path.display())]
    Foreign { path: PathBuf },
    #[error(
        "the memory in {} was written by an older version: start the agent once, which brings it up to date",
        dir.display()
    )]
    Older { dir: PathBuf },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for ReadError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Which replies to read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FeedbackFilter {
    /// Of this source only.
    pub source: Option<SourceId>,
    /// Not received earlier, by our clock.
    pub since: Option<UnixTime>,
}

/// One reply to a submission, with the task it was about.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FeedbackRow {
    /// Position in the order of arrival, from 1.
    pub row: i64,
    /// By our clock.
    pub received_at: UnixTime,
    #[serde(serialize_with = "as_text")]
    pub source: SourceId,
    /// Ours.
    pub hotkey: Hotkey,
    /// The source's uid, where it is known.
    pub uid: Option<Uid>,
    pub outcome: Outcome,
    pub validation_failed: bool,
    pub score: Score,
    pub local_score: Option<Score>,
    pub average_score: Score,
    pub window_count: u64,
    pub duel_rating: f64,
    pub reward: f64,
    /// By the source's clock.
    pub cooldown_until: Option<UnixTime>,
    /// Our own id of the task.
    #[serde(serialize_with = "as_text")]
    pub task: LocalId,
    /// The source's id of the task.
    pub task_id: TaskId,
    pub pulled_at: UnixTime,
    /// Lowest score the source accepts.
    pub threshold: Score,
    /// Generations begun.
    pub attempts: u32,
    /// Our own, for an empty answer.
    pub reason: Option<String>,
    pub prompt_kind: PromptKind,
    /// As it came from the source; nothing for an image.
    pub prompt: Option<String>,
    /// Length of the prompt as it came, in characters.
    pub prompt_chars: u64,
}

fn as_text<T: std::fmt::Display, S: serde::Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Reads feedback. Cheap to clone; all clones use one connection.
#[derive(Debug, Clone)]
pub struct FeedbackReader {
    connection: Arc<Mutex<Connection>>,
    filter: FeedbackFilter,
}

/// An image can have megabytes and is not shown, so it is not read.
const COLUMNS: &str = "f.id, f.received_at, f.source, f.hotkey, f.uid, f.outcome, f.validation_failed, f.score, \
    f.local_score, f.average_score, f.window_count, f.duel_rating, f.reward, f.cooldown_until, \
    t.id, t.task_id, t.pulled_at, t.threshold, t.attempts, t.reason, t.prompt_kind, \
    CASE WHEN t.prompt_kind = 'image' THEN NULL ELSE t.prompt END, length(t.prompt)";

const MATCHING: &str = "f.id > ?1 AND (?2 IS NULL OR f.source = ?2) AND (?3 IS NULL OR f.received_at >= ?3)";

impl FeedbackReader {
    /// Opens the database of the data directory `dir` for reading.
    ///
    /// # Errors
    /// When there is none, when it is none of ours, or when a newer version wrote it.
    pub async fn open(dir: &Path, filter: FeedbackFilter) -> Result<Self, ReadError> {
        let dir = dir.to_owned();
        let opened = blocking(move || Ok(open(&dir))).await?;
        Ok(Self { connection: Arc::new(Mutex::new(opened?)), filter })
    }

    /// At most `limit` replies after the one of row `after`, oldest first.
    ///
    /// # Errors
    /// When the database fails or holds what this program never writes.
    pub async fn after(&self, after: i64, limit: u32) -> Result<Vec<FeedbackRow>, StoreError> {
        self.query(move |connection, source, since| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM feedback f JOIN tasks t ON t.id = f.task WHERE {MATCHING} ORDER BY f.id LIMIT ?4"
            ))?;
            let mut rows = statement.query((after, source, since, limit))?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(read(row)?);
            }
            Ok(found)
        })
        .await
    }

    /// The last `count` replies, oldest first.
    ///
    /// # Errors
    /// As [`after`](Self::after).
    pub async fn last(&self, count: u32) -> Result<Vec<FeedbackRow>, StoreError> {
        let before = self.before_last(count).await?;
        self.after(before, count).await
    }

    /// The row after which the last `count` replies come; 0 when there are no more than that.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn before_last(&self, count: u32) -> Result<i64, StoreError> {
        self.query(move |connection, source, since| {
            let found = connection
                .query_row(
                    &format!(
                        "SELECT f.id FROM feedback f WHERE {MATCHING} ORDER BY f.id DESC LIMIT 1 OFFSET ?4"
                    ),
                    (0, source, since, count),
                    |row| row.get(0),
                )
                .optional()?;
            Ok(found.unwrap_or(0))
        })
        .await
    }

    async fn query<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, &dyn ToSql, &dyn ToSql) -> Result<T, StoreError> + Send + 'static,
    {
        let connection = Arc::clone(&self.connection);
        let source = self.filter.source.map(|source| source.to_string());
        let since = self.filter.since.map(|since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX));
        blocking(move || {
            let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            work(&connection, &source, &since)
        })
        .await
    }
}

/// Opens for reading the database that an agent may be using.
pub(super) fn open(dir: &Path) -> Result<Connection, ReadError> {
    let path = dir.join(Store::FILE);
    if !path.exists() {
        return Err(ReadError::Absent { dir: dir.to_owned() });
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&path, flags)?;
    // The agent holds the file alone for moments only: while it recovers a log after a crash.
    connection.busy_timeout(Duration::from_secs(5))?;
    let found: i64 =
        connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(|error| match error {
            rusqlite::Error::SqliteFailure(e, _) if e.code == ErrorCode::NotADatabase => {
                ReadError::Foreign { path: path.clone() }
            }
            error => error.into(),
        })?;
    match found {
        // An agent that is just starting has made the file and not yet the tables.
        0 => Err(ReadError::Foreign { path }),
        found if found > schema::VERSION => Err(StoreError::Newer { found, known: schema::VERSION }.into()),
        _ => Ok(connection),
    }
}

fn read(row: &Row<'_>) -> Result<FeedbackRow, StoreError> {
    let text = |index: usize| row.get::<_, String>(index);
    let score = |value: f64| Score::new(value).map_err(|e| StoreError::corrupt("score", e));
    let time = |value: i64| UnixTime::from_nanos(u64::try_from(value).unwrap_or(0));
    Ok(FeedbackRow {
        row: row.get(0)?,
        received_at: time(row.get(1)?),
        source: text(2)?.parse().map_err(|e| StoreError::corrupt("source", e))?,
        hotkey: text(3)?.parse().map_err(|e| StoreError::corrupt("hotkey", e))?,
        uid: row.get::<_, Option<u16>>(4)?.map(Uid),
        outcome: text(5)?.parse()?,
        validation_failed: row.get(6)?,
        score: score(row.get(7)?)?,
        local_score: row.get::<_, Option<f64>>(8)?.map(score).transpose()?,
        average_score: score(row.get(9)?)?,
        window_count: u64::try_from(row.get::<_, i64>(10)?).unwrap_or(0),
        duel_rating: row.get(11)?,
        reward: row.get(12)?,
        cooldown_until: row.get::<_, Option<i64>>(13)?.map(time),
        task: text(14)?.parse().map_err(|e| StoreError::corrupt("task", e))?,
        task_id: TaskId::new(&text(15)?).map_err(|e| StoreError::corrupt("task id", e))?,
        pulled_at: time(row.get(16)?),
        threshold: score(row.get(17)?)?,
        attempts: row.get(18)?,
        reason: row.get(19)?,
        prompt_kind: match text(20)?.as_str() {
            "text" => PromptKind::Text,
            "image" => PromptKind::Image,
            "other" => PromptKind::Other,
            other => return Err(StoreError::corrupt("prompt kind", other)),
        },
        prompt: row.get(21)?,
        prompt_chars: u64::try_from(row.get::<_, i64>(22)?).unwrap_or(0),
    })
}
