//! What an agent last knew, read without it: for showing, never for going on with.

use std::path::Path;
use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use super::feedback::{ReadError, open};
use super::{DecisionRecord, LaneKey, LaneRecord, Stage, StoreError, blocking, decisions};
use crate::chain::{Metagraph, SnapshotError};
use crate::primitives::{LocalId, Netuid, PromptKind, UnixTime};

/// The memory of one agent. Read-only and without its locks, as [`super::FeedbackReader`] is.
#[derive(Debug)]
pub struct Remembered {
    /// By source and hotkey.
    pub lanes: Vec<RememberedLane>,
    /// Of the network asked about. One that cannot be read is as good as none to the agent.
    pub metagraph: Result<Option<Metagraph>, SnapshotError>,
}

/// A lane and its open task.
#[derive(Debug, Clone)]
pub struct RememberedLane {
    pub lane: LaneKey,
    pub record: LaneRecord,
    pub task: Option<RememberedTask>,
}

/// A task that is not settled.
#[derive(Debug, Clone)]
pub struct RememberedTask {
    pub id: LocalId,
    pub kind: PromptKind,
    /// By our clock.
    pub pulled_at: UnixTime,
    pub stage: Stage,
    /// The newest about it.
    pub decision: Option<DecisionRecord>,
}

impl Remembered {
    /// Reads the data directory `dir`.
    ///
    /// # Errors
    /// When there is no database, when it is none of ours, or when a newer version wrote it.
    pub async fn read(dir: &Path, network: &str, netuid: Netuid) -> Result<Self, ReadError> {
        let (dir, network) = (dir.to_owned(), network.to_owned());
        blocking(move || Ok(read(&dir, &network, netuid))).await?
    }
}

/// Both tables name lanes: a task is accepted before anything is known of its lane.
const LANES: &str = "
WITH keys AS (
    SELECT source, hotkey FROM lanes
    UNION SELECT source, hotkey FROM tasks WHERE settled_at IS NULL
)
SELECT k.source, k.hotkey, l.cooldown_until, l.clock_offset, l.window_count,
       t.id, t.prompt_kind, t.pulled_at, t.stage
FROM keys k
LEFT JOIN lanes l ON l.source = k.source AND l.hotkey = k.hotkey
LEFT JOIN tasks t ON t.source = k.source AND t.hotkey = k.hotkey AND t.settled_at IS NULL
ORDER BY k.source, k.hotkey";

fn read(dir: &Path, network: &str, netuid: Netuid) -> Result<Remembered, ReadError> {
    let connection = open(dir)?;
    connection.busy_timeout(Duration::from_secs(2))?;
    let time = |nanos: i64| UnixTime::from_nanos(u64::try_from(nanos).unwrap_or(0));
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let mut last_decision = match version {
        ..3 => None,
        _ => Some(connection.prepare(decisions::LAST)?),
    };
    let mut lanes = Vec::new();
    let mut statement = connection.prepare(LANES)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let text = |index: usize| row.get::<_, String>(index);
        let task = match row.get::<_, Option<String>>(5)? {
            None => None,
            Some(id) => Some(RememberedTask {
                decision: match &mut last_decision {
                    None => None,
                    Some(statement) => statement
                        .query_row([&id], |row| Ok(decisions::read_decision(row, 0)))
                        .optional()?
                        .transpose()?,
                },
                id: id.parse().map_err(|e| StoreError::corrupt("task", e))?,
                kind: match text(6)?.as_str() {
                    "text" => PromptKind::Text,
                    "image" => PromptKind::Image,
                    "other" => PromptKind::Other,
                    other => return Err(StoreError::corrupt("prompt kind", other).into()),
                },
                pulled_at: time(row.get(7)?),
                stage: text(8)?.parse()?,
            }),
        };
        lanes.push(RememberedLane {
            lane: LaneKey {
                source: text(0)?.parse().map_err(|e| StoreError::corrupt("source", e))?,
                hotkey: text(1)?.parse().map_err(|e| StoreError::corrupt("hotkey", e))?,
            },
            record: LaneRecord {
                cooldown_until: row.get::<_, Option<i64>>(2)?.map(time),
                clock_offset: row.get(3)?,
                window_count: row.get::<_, Option<i64>>(4)?.map(|count| u64::try_from(count).unwrap_or(0)),
            },
            task,
        });
    }
    // A database of version 1, which only an older agent wrote, keeps no metagraph, and one of version
    // 2 no decisions.
    let kept: Option<Vec<u8>> = match version {
        ..2 => None,
        _ => connection
            .query_row(
                "SELECT snapshot FROM metagraphs WHERE network = ?1 AND netuid = ?2",
                params![network, netuid.0],
                |row| row.get(0),
            )
            .optional()?,
    };
    let metagraph = kept.map(|bytes| Metagraph::from_bytes(&bytes)).transpose();
    Ok(Remembered { lanes, metagraph })
}
