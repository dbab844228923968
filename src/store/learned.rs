//! What is learned besides tasks: lanes, canaries, the metagraph.

use std::sync::Arc;

use rusqlite::{OptionalExtension, Transaction, params};

use super::tasks::{from_sql, prompt_kind, score_of, time, to_sql};
use super::{Canary, Durable, LaneKey, LaneRecord, Store, StoreError};
use crate::chain::Metagraph;
use crate::primitives::{Netuid, Prompt};
use crate::splat::{MAX_PAYLOAD_BYTES, Spz};

impl Store {
    /// What is known of a lane.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn lane(&self, lane: LaneKey) -> Result<LaneRecord, StoreError> {
        self.transaction(Durable::Process, move |tx| {
            let record = tx
                .query_row(
                    "SELECT cooldown_until, clock_offset, window_count FROM lanes WHERE source = ?1 AND hotkey = ?2",
                    params![lane.source.to_string(), lane.hotkey.to_string()],
                    |row| {
                        Ok(LaneRecord {
                            cooldown_until: row.get::<_, Option<i64>>(0)?.map(time),
                            clock_offset: row.get(1)?,
                            window_count: row.get::<_, Option<i64>>(2)?.map(from_sql),
                        })
                    },
                )
                .optional()?;
            Ok(record.unwrap_or_default())
        })
        .await
    }

    /// Writes what is known of a lane.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_lane(&self, lane: LaneKey, record: LaneRecord) -> Result<(), StoreError> {
        self.transaction(Durable::Process, move |tx| put_lane(tx, lane, record)).await
    }

    /// The canary of a scorer, if one was learned.
    ///
    /// # Errors
    /// When the database fails or holds what this program never writes.
    pub async fn canary(&self, worker: &str) -> Result<Option<Canary>, StoreError> {
        let worker = worker.to_owned();
        self.transaction(Durable::Process, move |tx| {
            let row = tx
                .query_row(
                    "SELECT prompt_kind, prompt, spz, score FROM canaries WHERE worker = ?1",
                    [worker],
                    |row| {
                        Ok((
                            row.get::<_, String>(0)?,
                            row.get::<_, String>(1)?,
                            row.get::<_, Vec<u8>>(2)?,
                            row.get::<_, f64>(3)?,
                        ))
                    },
                )
                .optional()?;
            row.map(|(kind, prompt, spz, score)| {
                Ok(Canary {
                    prompt: Prompt::new(prompt_kind(&kind)?, &prompt),
                    spz: Arc::new(
                        Spz::parse(spz, MAX_PAYLOAD_BYTES).map_err(|e| StoreError::corrupt("canary", e))?,
                    ),
                    score: score_of(score)?,
                })
            })
            .transpose()
        })
        .await
    }

    /// Remembers a splat that a scorer gave a score above zero.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_canary(&self, worker: &str, canary: Canary) -> Result<(), StoreError> {
        let worker = worker.to_owned();
        self.transaction(Durable::Process, move |tx| {
            tx.execute(
                "INSERT OR REPLACE INTO canaries (worker, prompt_kind, prompt, spz, score) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    worker,
                    canary.prompt.kind().to_string(),
                    canary.prompt.as_wire(),
                    canary.spz.as_bytes(),
                    canary.score.get()
                ],
            )?;
            Ok(())
        })
        .await
    }

    /// The last metagraph kept of a subnet, if it can still be read.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn metagraph(&self, network: &str, netuid: Netuid) -> Result<Option<Metagraph>, StoreError> {
        let network = network.to_owned();
        self.transaction(Durable::Process, move |tx| {
            let kept: Option<Vec<u8>> = tx
                .query_row(
                    "SELECT snapshot FROM metagraphs WHERE network = ?1 AND netuid = ?2",
                    params![network, netuid.0],
                    |row| row.get(0),
                )
                .optional()?;
            Ok(kept.and_then(|bytes| match Metagraph::from_bytes(&bytes) {
                Ok(metagraph) => Some(metagraph),
                Err(error) => {
                    tracing::warn!(%error, "The metagraph of an earlier run cannot be used");
                    None
                }
            }))
        })
        .await
    }

    /// Keeps a metagraph in place of the one before.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn keep_metagraph(&self, network: &str, metagraph: &Metagraph) -> Result<(), StoreError> {
        let (network, netuid, bytes) = (network.to_owned(), metagraph.netuid(), metagraph.to_bytes());
        self.transaction(Durable::Process, move |tx| {
            tx.execute(
                "INSERT OR REPLACE INTO metagraphs (network, netuid, snapshot) VALUES (?1, ?2, ?3)",
                params![network, netuid.0, bytes],
            )?;
            Ok(())
        })
        .await
    }
}

pub(super) fn put_lane(tx: &Transaction<'_>, lane: LaneKey, record: LaneRecord) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO lanes (source, hotkey, cooldown_until, clock_offset, window_count) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (source, hotkey) DO UPDATE SET cooldown_until = excluded.cooldown_until,
             clock_offset = excluded.clock_offset, window_count = coalesce(excluded.window_count, window_count)",
        params![
            lane.source.to_string(),
            lane.hotkey.to_string(),
            record.cooldown_until.map(|t| to_sql(t.as_nanos())),
            record.clock_offset,
            record.window_count.map(to_sql),
        ],
    )?;
    Ok(())
}
