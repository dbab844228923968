//! What came of a stretch of time, read without the agent: as [`super::FeedbackReader`] reads, beside
//! a running one or without one.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::feedback::{ReadError, open};
use super::recall::lane_of;
use super::rollup::{ByName, HOUR, cover, each_ended};
use super::tally::{COLUMNS, Tally};
use super::tasks::{time, to_sql};
use super::{LaneKey, StoreError, blocking, schema};
use crate::primitives::UnixTime;

/// What ended from one moment to another, to the nanosecond.
#[derive(Debug, Clone, PartialEq)]
pub struct Stats {
    /// By our clock: the asked-for moment, or the pull of the first task on record if that is later.
    pub from: UnixTime,
    pub until: UnixTime,
    /// By source and hotkey; lanes without a settled task are left out.
    pub lanes: Vec<(LaneKey, Tally)>,
}

impl Stats {
    /// Reads the data directory `dir`: what ended since `since`, or ever. `now` is the end of it for
    /// rates; nothing is left out for being later.
    ///
    /// # Errors
    /// When there is no database, when it is none of ours, or when an older or newer version wrote it.
    pub async fn read(dir: &Path, since: Option<UnixTime>, now: UnixTime) -> Result<Self, ReadError> {
        let dir = dir.to_owned();
        blocking(move || Ok(read(&dir, since, now))).await?
    }

    /// Hours from the beginning to the end.
    pub fn hours(&self) -> f64 {
        self.until.saturating_since(self.from).as_secs_f64() / HOUR as f64
    }
}

fn read(dir: &Path, since: Option<UnixTime>, now: UnixTime) -> Result<Stats, ReadError> {
    let connection = open(dir)?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version < schema::TALLIES {
        return Err(ReadError::Older { dir: dir.to_owned() });
    }
    // The agent may write between two questions.
    let snapshot = connection.unchecked_transaction()?;
    let first: Option<i64> = snapshot
        .query_row(
            "SELECT pulled_at FROM tasks WHERE settled_at IS NOT NULL ORDER BY settled_at LIMIT 1",
            [],
            |row| row.get(0),
        )
        .optional()?;
    let from = since.max(first.map(time)).unwrap_or(now);

    let mut by_name = ByName::default();
    let since = since.unwrap_or(UnixTime::EPOCH);
    // No row holds a part of an hour, so the tasks of the first one are read themselves.
    let full = UnixTime::from_secs(since.as_nanos().div_ceil(1_000_000_000).next_multiple_of(HOUR));
    let condition = "WHERE t.settled_at >= ?1 AND t.settled_at < ?2";
    each_ended(&snapshot, condition, [to_sql(since.as_nanos()), to_sql(full.as_nanos())], |ended| {
        let key = (ended.source.to_owned(), ended.hotkey.to_owned());
        by_name.entry(key).or_default().add(&ended.tally);
        Ok(())
    })?;
    add_tallies(&snapshot, full, &mut by_name)?;

    let mut lanes = Vec::with_capacity(by_name.len());
    for ((source, hotkey), tally) in by_name {
        lanes.push((lane_of(&source, &hotkey)?, tally));
    }
    lanes.sort_by_key(|(lane, _)| *lane);
    Ok(Stats { from, until: now, lanes })
}

fn add_tallies(connection: &Connection, since: UnixTime, by_name: &mut ByName) -> Result<(), StoreError> {
    let mut statement = connection.prepare(&format!(
        "SELECT source, hotkey, {COLUMNS} FROM tallies WHERE span = ?1 AND start >= ?2 AND start < ?3"
    ))?;
    for period in cover(since) {
        let mut rows = statement.query(period)?;
        while let Some(row) = rows.next()? {
            by_name.entry((row.get(0)?, row.get(1)?)).or_default().add_row(row, 2)?;
        }
    }
    Ok(())
}
