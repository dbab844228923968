//! Why tasks went the way they went.

use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::tasks::{time, to_sql};
use super::{DecisionRecord, Durable, Store, StoreError};
use crate::primitives::{LocalId, UnixTime};

/// The newest decision about the task ?1.
pub(super) const LAST: &str = "SELECT at, what, why, p, gate, lane_price, card_price FROM decisions
    WHERE task = ?1 ORDER BY id DESC LIMIT 1";

impl Store {
    /// Records a decision about a task.
    ///
    /// # Errors
    /// When the database fails or never knew the task.
    pub async fn decide(&self, task: LocalId, decision: DecisionRecord) -> Result<(), StoreError> {
        self.transaction(Durable::Process, move |tx| {
            let why: String = decision.why.chars().take(DecisionRecord::WHY_CHARS).collect();
            tx.prepare_cached(
                "INSERT INTO decisions (task, at, what, why, p, gate, lane_price, card_price)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                task.to_string(),
                to_sql(decision.at.as_nanos()),
                decision.what.as_str(),
                why,
                decision.p,
                decision.gate,
                decision.lane_price,
                decision.card_price
            ])?;
            Ok(())
        })
        .await
    }

    /// The newest decision about a task, if one was made and is still kept.
    ///
    /// # Errors
    /// When the database fails or holds what this program never writes.
    pub async fn last_decision(&self, task: LocalId) -> Result<Option<DecisionRecord>, StoreError> {
        self.transaction(Durable::Process, move |tx| {
            let found = tx
                .prepare_cached(LAST)?
                .query_row([task.to_string()], |row| Ok(read_decision(row, 0)))
                .optional()?;
            found.transpose()
        })
        .await
    }
}

/// Forgets the decisions about tasks that were settled before `before`.
pub(super) fn prune(tx: &Transaction<'_>, before: UnixTime) -> Result<usize, StoreError> {
    // The first condition lets the index leave out all that is young.
    Ok(tx.execute(
        "DELETE FROM decisions WHERE at < ?1
             AND EXISTS (SELECT 1 FROM tasks WHERE id = decisions.task AND settled_at < ?1)",
        [to_sql(before.as_nanos())],
    )?)
}

/// Reads the columns of [`LAST`], the first of them at position `from`.
pub(super) fn read_decision(row: &Row<'_>, from: usize) -> Result<DecisionRecord, StoreError> {
    Ok(DecisionRecord {
        at: time(row.get(from)?),
        what: row.get::<_, String>(from + 1)?.parse()?,
        why: row.get(from + 2)?,
        p: row.get(from + 3)?,
        gate: row.get(from + 4)?,
        lane_price: row.get(from + 5)?,
        card_price: row.get(from + 6)?,
    })
}
