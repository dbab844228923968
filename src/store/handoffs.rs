//! The journal of hand-offs: what was about to be done to a card, and what came of it.
//!
//! A hand-off without an end was interrupted: the card may be in any state, and the next start brings
//! it to a known one before it closes the entry.

use std::time::Duration;

use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::tasks::{from_sql, time, to_sql};
use super::{Durable, Store, StoreError};
use crate::primitives::{CardId, UnixTime};

/// What is about to be done. Workers are named as in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandoffRecord {
    pub card: CardId,
    /// Our clock.
    pub at: UnixTime,
    pub cause: String,
    /// Who is to be ready at the end.
    pub wanted: String,
    /// Who leaves for it.
    pub evicted: Vec<String>,
}

/// A step that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandoffStep {
    pub verb: String,
    pub worker: Option<String>,
    /// Our clock, at its end.
    pub at: UnixTime,
    /// With its proof.
    pub took: Duration,
    /// Why it was not proven.
    pub failure: Option<String>,
}

/// A hand-off with all that is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastHandoff {
    pub id: i64,
    pub handoff: HandoffRecord,
    pub steps: Vec<HandoffStep>,
    /// Our clock; `None`: it goes on, or was interrupted.
    pub ended_at: Option<UnixTime>,
    pub failure: Option<String>,
}

/// Why something failed is kept up to so many characters: some of it is a worker's word.
const WHY_CHARS: usize = 500;

const COLUMNS: &str = "id, host, card, begun_at, cause, wanted, evicted";

impl Store {
    /// Writes down what is about to be done, before it is.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn begin_handoff(&self, handoff: HandoffRecord) -> Result<i64, StoreError> {
        self.transaction(Durable::Process, move |tx| {
            let evicted =
                serde_json::to_string(&handoff.evicted).map_err(|e| StoreError::corrupt("hand-off", e))?;
            tx.prepare_cached(
                "INSERT INTO handoffs (host, card, begun_at, cause, wanted, evicted)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                handoff.card.host,
                handoff.card.uuid,
                to_sql(handoff.at.as_nanos()),
                handoff.cause,
                handoff.wanted,
                evicted
            ])?;
            Ok(tx.last_insert_rowid())
        })
        .await
    }

    /// Adds a step to a hand-off.
    ///
    /// # Errors
    /// When the database fails or never knew the hand-off.
    pub async fn handoff_step(&self, id: i64, step: HandoffStep) -> Result<(), StoreError> {
        self.transaction(Durable::Process, move |tx| {
            let took = u64::try_from(step.took.as_millis()).unwrap_or(u64::MAX);
            tx.prepare_cached(
                "INSERT INTO handoff_steps (handoff, number, at, verb, worker, took_ms, failure)
                 VALUES (?1, (SELECT count(*) FROM handoff_steps WHERE handoff = ?1), ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                id,
                to_sql(step.at.as_nanos()),
                step.verb,
                step.worker,
                to_sql(took),
                step.failure.as_deref().map(shortened)
            ])?;
            Ok(())
        })
        .await
    }

    /// Closes a hand-off; `failure`: why the wanted one is not ready. What is closed stays as it is.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn end_handoff(
        &self,
        id: i64,
        at: UnixTime,
        failure: Option<String>,
    ) -> Result<(), StoreError> {
        self.transaction(Durable::Process, move |tx| {
            tx.prepare_cached(
                "UPDATE handoffs SET ended_at = ?2, failure = ?3 WHERE id = ?1 AND ended_at IS NULL",
            )?
            .execute(params![id, to_sql(at.as_nanos()), failure.as_deref().map(shortened)])?;
            Ok(())
        })
        .await
    }

    /// Hand-offs of a card that were not ended, the oldest first.
    ///
    /// # Errors
    /// When the database fails or holds what this program never writes.
    pub async fn open_handoffs(&self, card: CardId) -> Result<Vec<(i64, HandoffRecord)>, StoreError> {
        self.transaction(Durable::Process, move |tx| {
            let mut query = tx.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM handoffs
                 WHERE ended_at IS NULL AND host = ?1 AND card = ?2 ORDER BY id"
            ))?;
            let rows = query.query_map([card.host, card.uuid], |row| Ok(read(row)))?;
            rows.map(|row| row?).collect()
        })
        .await
    }

    /// A hand-off with its steps, if it is still kept.
    ///
    /// # Errors
    /// When the database fails or holds what this program never writes.
    pub async fn handoff(&self, id: i64) -> Result<Option<PastHandoff>, StoreError> {
        self.transaction(Durable::Process, move |tx| {
            let found = tx
                .prepare_cached(&format!("SELECT {COLUMNS}, ended_at, failure FROM handoffs WHERE id = ?1"))?
                .query_row([id], |row| Ok((read(row), row.get::<_, Option<i64>>(7)?, row.get(8)?)))
                .optional()?;
            let Some((read, ended_at, failure)) = found else { return Ok(None) };
            let (id, handoff) = read?;
            let mut query = tx.prepare_cached(
                "SELECT verb, worker, at, took_ms, failure FROM handoff_steps
                 WHERE handoff = ?1 ORDER BY number",
            )?;
            let steps = query.query_map([id], |row| {
                Ok(HandoffStep {
                    verb: row.get(0)?,
                    worker: row.get(1)?,
                    at: time(row.get(2)?),
                    took: Duration::from_millis(from_sql(row.get(3)?)),
                    failure: row.get(4)?,
                })
            })?;
            let steps = steps.collect::<Result<_, _>>()?;
            Ok(Some(PastHandoff { id, handoff, steps, ended_at: ended_at.map(time), failure }))
        })
        .await
    }
}

/// Forgets hand-offs that ended before `before`, with their steps.
pub(super) fn prune(tx: &Transaction<'_>, before: UnixTime) -> Result<usize, StoreError> {
    Ok(tx.execute("DELETE FROM handoffs WHERE ended_at < ?1", [to_sql(before.as_nanos())])?)
}

fn read(row: &Row<'_>) -> Result<(i64, HandoffRecord), StoreError> {
    let evicted: String = row.get(6)?;
    let handoff = HandoffRecord {
        card: CardId { host: row.get(1)?, uuid: row.get(2)? },
        at: time(row.get(3)?),
        cause: row.get(4)?,
        wanted: row.get(5)?,
        evicted: serde_json::from_str(&evicted).map_err(|e| StoreError::corrupt("hand-off", e))?,
    };
    Ok((row.get(0)?, handoff))
}

fn shortened(why: &str) -> String {
    why.chars().take(WHY_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(uuid: &str) -> CardId {
        CardId { host: "here".into(), uuid: uuid.into() }
    }

    fn handoff(card_uuid: &str, second: u64) -> HandoffRecord {
        HandoffRecord {
            card: card(card_uuid),
            at: UnixTime::from_secs(second),
            cause: "generator".into(),
            wanted: "main".into(),
            evicted: vec!["scorer".into(), "a \"name\"".into()],
        }
    }

    fn step(verb: &str, failure: Option<&str>) -> HandoffStep {
        HandoffStep {
            verb: verb.into(),
            worker: Some("scorer".into()),
            at: UnixTime::from_secs(5),
            took: Duration::from_millis(2_513),
            failure: failure.map(Into::into),
        }
    }

    #[tokio::test]
    async fn what_was_not_ended_is_found_by_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let first = store.begin_handoff(handoff("0", 1)).await.unwrap();
        let second = store.begin_handoff(handoff("0", 2)).await.unwrap();
        let elsewhere = store.begin_handoff(handoff("1", 3)).await.unwrap();
        store.end_handoff(first, UnixTime::from_secs(4), None).await.unwrap();
        drop(store);
        let store = Store::open(dir.path()).await.unwrap();
        let open = store.open_handoffs(card("0")).await.unwrap();
        assert_eq!(open, [(second, handoff("0", 2))]);
        assert_eq!(store.open_handoffs(card("1")).await.unwrap()[0].0, elsewhere);
        store.end_handoff(second, UnixTime::from_secs(9), Some("interrupted".into())).await.unwrap();
        assert!(store.open_handoffs(card("0")).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn steps_are_kept_in_their_order_and_go_with_their_hand_off() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let id = store.begin_handoff(handoff("0", 1)).await.unwrap();
        let long = "x".repeat(9_000);
        for (verb, failure) in [("unload", Some(long.as_str())), ("cleanup", None), ("unload", None)] {
            store.handoff_step(id, step(verb, failure)).await.unwrap();
        }
        store.end_handoff(id, UnixTime::from_secs(9), None).await.unwrap();
        // Closed once and for all.
        store.end_handoff(id, UnixTime::from_secs(99), Some("late".into())).await.unwrap();
        let past = store.handoff(id).await.unwrap().unwrap();
        assert_eq!((past.ended_at, past.failure), (Some(UnixTime::from_secs(9)), None));
        let verbs: Vec<&str> = past.steps.iter().map(|step| &*step.verb).collect();
        assert_eq!(verbs, ["unload", "cleanup", "unload"]);
        assert_eq!(past.steps[1], step("cleanup", None));
        assert_eq!(past.steps[0].failure.as_ref().unwrap().len(), WHY_CHARS);

        let open = store.begin_handoff(handoff("0", 1)).await.unwrap();
        store.prune(UnixTime::from_secs(9)).await.unwrap();
        assert!(store.handoff(id).await.unwrap().is_some());
        store.prune(UnixTime::from_secs(10)).await.unwrap();
        assert!(store.handoff(id).await.unwrap().is_none());
        assert!(store.handoff(open).await.unwrap().is_some(), "it was not ended");
        assert!(store.handoff_step(id, step("load", None)).await.is_err());
    }
}
