//! The transactions of the store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{OptionalExtension, Row, Transaction, params};
use sha2::{Digest, Sha256};

use super::learned::put_lane;
use super::{
    Accepted, Answer, Delivery, Durable, FailedMaking, FeedbackRecord, KeptResult, LaneKey, LaneRecord,
    Making, NewTask, OpenTask, Outcome, Settled, Stage, Store, StoreError, TaskRecord, Verdict, blocking,
    decisions, handoffs, rollup,
};
use crate::primitives::{LocalId, Prompt, PromptKind, Score, Seed, TaskId, UnixTime};
use crate::splat::{MAX_PAYLOAD_BYTES, Spz};

const TASK_COLUMNS: &str =
    "id, source, hotkey, task_id, prompt_kind, prompt, threshold, throttle_s, pulled_at, stage, attempts";

impl Store {
    /// Records an assigned task, or finds that it is on record already.
    ///
    /// A source has one open task per hotkey: if it gives another one, or the same id with another
    /// prompt, the one on record is closed as lost.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn accept(&self, new: NewTask) -> Result<Accepted, StoreError> {
        let results = self.results_dir();
        self.transaction(Durable::Process, move |tx| {
            if let Some(open) = open_task(tx, &results, new.lane)? {
                if open.task.task_id == new.task_id && open.task.prompt == new.prompt {
                    return Ok(Accepted::Known(open));
                }
                settle(tx, &open.task.id, Stage::Declined, Outcome::Lost, Some("the source gave another task"), new.pulled_at)?;
                rollup::count(tx, &open.task.id)?;
            }
            tx.execute(
                &format!("INSERT INTO tasks ({TASK_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'accepted', 0)"),
                params![
                    new.id.to_string(),
                    new.lane.source.to_string(),
                    new.lane.hotkey.to_string(),
                    new.task_id.as_str(),
                    new.prompt.kind().to_string(),
                    new.prompt.as_wire(),
                    new.threshold.get(),
                    to_sql(new.throttle_s),
                    to_sql(new.pulled_at.as_nanos()),
                ],
            )?;
            Ok(Accepted::New(TaskRecord {
                id: new.id,
                lane: new.lane,
                task_id: new.task_id,
                prompt: new.prompt,
                threshold: new.threshold,
                throttle_s: new.throttle_s,
                pulled_at: new.pulled_at,
                attempts: 0,
            }))
        })
        .await
    }

    /// The open task of a lane, with its newest result read back and checked.
    ///
    /// A result whose file is missing or damaged is dropped: the task goes on as if it had not been
    /// made.
    ///
    /// # Errors
    /// When the database fails or holds what this program never writes.
    pub async fn open_task(&self, lane: LaneKey) -> Result<Option<OpenTask>, StoreError> {
        let results = self.results_dir();
        self.transaction(Durable::Process, move |tx| open_task(tx, &results, lane)).await
    }

    /// Records that a generation begins; returns its number, from 1.
    ///
    /// # Errors
    /// When the database fails or the task is not open.
    pub async fn begin_attempt(&self, task: LocalId) -> Result<u32, StoreError> {
        self.transaction(Durable::Process, move |tx| {
            tx.query_row(
                "UPDATE tasks SET stage = 'generating', attempts = attempts + 1
                 WHERE id = ?1 AND settled_at IS NULL RETURNING attempts",
                [task.to_string()],
                |row| row.get(0),
            )
            .optional()?
            .ok_or_else(|| StoreError::NoSuchTask(task.to_string()))
        })
        .await
    }

    /// Keeps a finished result: its file appears whole or not at all, then its row.
    ///
    /// # Errors
    /// When file or database cannot be written, or the task is not open.
    pub async fn keep(&self, task: LocalId, making: Making, spz: Arc<Spz>) -> Result<KeptResult, StoreError> {
        let results = self.results_dir();
        let (name, sha256) = {
            let (results, spz) = (results.clone(), Arc::clone(&spz));
            let name = format!("{task}-{}.spz", making.attempt);
            blocking(move || {
                let sha256: [u8; 32] = Sha256::digest(spz.as_bytes()).into();
                write_whole(&results, &name, spz.as_bytes())?;
                Ok((name, sha256))
            })
            .await?
        };
        self.transaction(Durable::Process, move |tx| {
            advance(tx, &task, Stage::Kept)?;
            tx.execute(
                "INSERT INTO results (task, attempt, seed, worker, file, bytes, sha256, points, queue_ms, handoff_ms,
                                      first_byte_ms, generation_ms, encode_ms, kept_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
                params![
                    task.to_string(),
                    making.attempt,
                    making.seed.get(),
                    making.worker,
                    name,
                    to_sql(spz.as_bytes().len() as u64),
                    sha256,
                    spz.points(),
                    millis(making.queue),
                    millis(making.handoff),
                    millis(making.first_byte),
                    millis(making.generation),
                    millis(making.encoding),
                    to_sql(making.at.as_nanos()),
                ],
            )?;
            let row = tx.last_insert_rowid();
            Ok(KeptResult { row: Some(row), attempt: making.attempt, seed: making.seed, spz, verdict: None })
        })
        .await
    }

    /// Records that an attempt made nothing, for the statistics.
    ///
    /// # Errors
    /// When the database fails or the task is not on record.
    pub async fn failed(&self, task: LocalId, making: FailedMaking) -> Result<(), StoreError> {
        self.transaction(Durable::Process, move |tx| {
            let FailedMaking { attempt, spent, at } = making;
            tx.execute(
                "INSERT OR REPLACE INTO failures (task, attempt, queue_ms, handoff_ms, generation_ms, failed_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    task.to_string(),
                    attempt,
                    millis(spent.waited),
                    millis(spent.handoff),
                    millis(spent.generation),
                    to_sql(at.as_nanos()),
                ],
            )?;
            Ok(())
        })
        .await
    }

    /// Waits until a kept result would survive power loss.
    ///
    /// # Errors
    /// When the file cannot be synced.
    pub async fn sync(&self, task: LocalId, attempt: u32) -> Result<(), StoreError> {
        let results = self.results_dir();
        blocking(move || {
            let path = results.join(format!("{task}-{attempt}.spz"));
            let sync = |path: &Path| std::fs::File::open(path).and_then(|f| f.sync_all());
            sync(&path).map_err(|e| StoreError::file(&path, e))?;
            sync(&results).map_err(|e| StoreError::file(&results, e))
        })
        .await
    }

    /// Records what local judging said, and how long the scorer took, where one was asked.
    ///
    /// # Errors
    /// When the database fails or the task is not open.
    pub async fn judge(
        &self,
        task: LocalId,
        result: &KeptResult,
        verdict: Verdict,
        scoring: Option<Duration>,
    ) -> Result<KeptResult, StoreError> {
        let judged = KeptResult { verdict: Some(verdict), ..result.clone() };
        let row = result.row;
        self.transaction(Durable::Process, move |tx| {
            advance(tx, &task, Stage::Scored)?;
            let (name, score) = match verdict {
                Verdict::Scored(score) => ("scored", Some(score.get())),
                Verdict::NoVerdict => ("no-verdict", None),
                Verdict::Unscored => ("unscored", None),
            };
            tx.execute(
                "UPDATE results SET verdict = ?2, score = ?3, scoring_ms = ?4 WHERE id = ?1",
                params![row, name, score, scoring.map(millis)],
            )?;
            Ok(())
        })
        .await?;
        Ok(judged)
    }

    /// Records that an answer is about to be signed and sent. On disk before this returns.
    ///
    /// # Errors
    /// When the database fails or the task is not open.
    pub async fn intend(&self, task: LocalId, answer: &Answer, at: UnixTime) -> Result<i64, StoreError> {
        let (result, reason) = match answer {
            Answer::Result(kept) => (kept.row, None),
            Answer::Empty(reason) => (None, Some(reason.clone())),
        };
        self.transaction(Durable::Synced, move |tx| {
            advance(tx, &task, Stage::Intended)?;
            tx.execute("UPDATE tasks SET reason = ?2 WHERE id = ?1", params![task.to_string(), reason])?;
            tx.execute(
                "INSERT INTO submissions (task, result, submit_time) VALUES (?1, ?2, ?3)",
                params![task.to_string(), result, to_sql(at.as_nanos())],
            )?;
            Ok(tx.last_insert_rowid())
        })
        .await
    }

    /// Records how a submission travelled. Before [`sent`](Self::sent) or [`finish`](Self::finish):
    /// what a task took is counted when it ends.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delivered(&self, submission: i64, delivery: Delivery) -> Result<(), StoreError> {
        self.transaction(Durable::Process, move |tx| {
            tx.execute(
                "UPDATE submissions SET sent_bytes = ?2, upload_ms = ?3, reply_ms = ?4 WHERE id = ?1",
                params![
                    submission,
                    to_sql(delivery.sent_bytes),
                    delivery.upload.map(millis),
                    delivery.reply.map(millis)
                ],
            )?;
            Ok(())
        })
        .await
    }

    /// Records that a submission brought no answer that settles the task.
    ///
    /// # Errors
    /// When the database fails or the task is not open.
    pub async fn sent(&self, task: LocalId, submission: i64, error: String) -> Result<(), StoreError> {
        self.transaction(Durable::Process, move |tx| {
            advance(tx, &task, Stage::Sent)?;
            tx.execute("UPDATE submissions SET error = ?2 WHERE id = ?1", params![submission, error])?;
            Ok(())
        })
        .await
    }

    /// Closes a task, with the feedback on it and what its reply says of the lane, all at once.
    ///
    /// # Errors
    /// When the database fails or the task is not open.
    pub async fn finish(
        &self,
        settled: Settled,
        lane: LaneKey,
        record: LaneRecord,
    ) -> Result<(), StoreError> {
        self.transaction(Durable::Process, move |tx| {
            let stage = match settled.outcome {
                Outcome::Empty | Outcome::Lost => Stage::Declined,
                _ => Stage::Booked,
            };
            settle(tx, &settled.task, stage, settled.outcome, settled.reason.as_deref(), settled.at)?;
            if let Some(feedback) = &settled.feedback {
                insert_feedback(tx, &settled, feedback, lane)?;
            }
            rollup::count(tx, &settled.task)?;
            put_lane(tx, lane, record)
        })
        .await
    }

    /// Counts everything that ended anew, as opening does after tables have changed.
    ///
    /// # Errors
    /// When the database fails or holds what this program never writes.
    pub async fn recount(&self) -> Result<(), StoreError> {
        self.transaction(Durable::Process, |tx| rollup::recount(tx)).await
    }

    /// Removes the files of results whose task was settled before `before`, and files nobody knows
    /// that were last written before it: one may be about to be known, or be left of a database that
    /// was moved aside. Forgets the decisions about such tasks. Returns how many files.
    ///
    /// # Errors
    /// When the directory cannot be read or the database fails.
    pub async fn prune(&self, before: UnixTime) -> Result<usize, StoreError> {
        let results = self.results_dir();
        self.transaction(Durable::Process, move |tx| {
            decisions::prune(tx, before)?;
            handoffs::prune(tx, before)?;
            let mut is_wanted = tx.prepare(
                "SELECT settled_at IS NULL OR settled_at >= ?2
                 FROM results JOIN tasks ON tasks.id = results.task WHERE file = ?1",
            )?;
            let entries = std::fs::read_dir(&results).map_err(|e| StoreError::file(&results, e))?;
            let mut removed = 0;
            for entry in entries {
                let entry = entry.map_err(|e| StoreError::file(&results, e))?;
                let name = entry.file_name();
                let Some(name) = name.to_str() else { continue };
                let ours = name.ends_with(".spz") || name.ends_with(".tmp");
                if !ours {
                    continue;
                }
                let known: Option<bool> = is_wanted
                    .query_row(params![name, to_sql(before.as_nanos())], |row| row.get(0))
                    .optional()?;
                let wanted = match known {
                    Some(wanted) => wanted,
                    None => entry
                        .metadata()
                        .and_then(|file| file.modified())
                        .is_ok_and(|written| UnixTime::from_system(written) >= before),
                };
                if wanted {
                    continue;
                }
                std::fs::remove_file(entry.path()).map_err(|e| StoreError::file(&entry.path(), e))?;
                removed += 1;
            }
            Ok(removed)
        })
        .await
    }

    pub(super) fn results_dir(&self) -> PathBuf {
        self.dir().join("results")
    }
}

/// Writes a file that is there whole or not at all, whenever the process ends.
fn write_whole(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let temporary = dir.join(format!("{name}.tmp"));
    let path = dir.join(name);
    let written = std::fs::write(&temporary, bytes)
        .map_err(|e| StoreError::file(&temporary, e))
        .and_then(|()| std::fs::rename(&temporary, &path).map_err(|e| StoreError::file(&path, e)));
    if written.is_err() {
        // What came of it takes room that may be what is missing.
        let _gone_or_pruned_later = std::fs::remove_file(&temporary);
    }
    written
}

fn advance(tx: &Transaction<'_>, task: &LocalId, stage: Stage) -> Result<(), StoreError> {
    let changed = tx.execute(
        "UPDATE tasks SET stage = ?2 WHERE id = ?1 AND settled_at IS NULL",
        params![task.to_string(), stage.as_str()],
    )?;
    if changed == 1 { Ok(()) } else { Err(StoreError::NoSuchTask(task.to_string())) }
}

fn settle(
    tx: &Transaction<'_>,
    task: &LocalId,
    stage: Stage,
    outcome: Outcome,
    reason: Option<&str>,
    at: UnixTime,
) -> Result<(), StoreError> {
    let changed = tx.execute(
        "UPDATE tasks SET stage = ?2, outcome = ?3, reason = coalesce(?4, reason), settled_at = ?5
         WHERE id = ?1 AND settled_at IS NULL",
        params![task.to_string(), stage.as_str(), outcome.as_str(), reason, to_sql(at.as_nanos())],
    )?;
    if changed == 1 { Ok(()) } else { Err(StoreError::NoSuchTask(task.to_string())) }
}

fn insert_feedback(
    tx: &Transaction<'_>,
    settled: &Settled,
    feedback: &FeedbackRecord,
    lane: LaneKey,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO feedback (task, source, hotkey, uid, received_at, outcome, validation_failed, score, local_score,
                               average_score, window_count, duel_rating, reward, cooldown_until)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        params![
            settled.task.to_string(),
            lane.source.to_string(),
            lane.hotkey.to_string(),
            feedback.uid.map(|u| u.0),
            to_sql(feedback.received_at.as_nanos()),
            settled.outcome.as_str(),
            feedback.validation_failed,
            feedback.score.get(),
            feedback.local_score.map(Score::get),
            feedback.average_score.get(),
            to_sql(feedback.window_count),
            feedback.duel_rating,
            feedback.reward,
            feedback.cooldown_until.map(|t| to_sql(t.as_nanos())),
        ],
    )?;
    Ok(())
}

fn open_task(tx: &Transaction<'_>, results: &Path, lane: LaneKey) -> Result<Option<OpenTask>, StoreError> {
    let row = tx
        .query_row(
            &format!("SELECT {TASK_COLUMNS}, reason FROM tasks WHERE source = ?1 AND hotkey = ?2 AND settled_at IS NULL"),
            params![lane.source.to_string(), lane.hotkey.to_string()],
            |row| Ok(read_task(row, lane)),
        )
        .optional()?;
    let Some(row) = row else { return Ok(None) };
    let (task, stage, reason) = row?;

    let best = best_result(tx, results, &task, None)?;
    let submission: Option<(Option<i64>, i64)> = tx
        .query_row(
            "SELECT result, submit_time FROM submissions WHERE task = ?1 ORDER BY id DESC LIMIT 1",
            [task.id.to_string()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let answer = match submission {
        Some((None, at)) => Some((Answer::Empty(reason.unwrap_or_default()), time(at))),
        Some((Some(row), at)) => {
            // Nobody knows whether the bytes that are gone were booked. An empty answer settles it
            // either way, at no penalty.
            let lost = || Answer::Empty("its result was submitted and is damaged on disk".into());
            let kept = best_result(tx, results, &task, Some(row))?;
            Some((kept.map_or_else(lost, Answer::Result), time(at)))
        }
        None => None,
    };
    let passed = |kept: &KeptResult| kept.verdict.and_then(Verdict::score) >= Some(task.threshold);
    let stage = match (stage, &best, &answer) {
        // A further candidate was being made, to choose from.
        (Stage::Generating, Some(kept), _) if passed(kept) => Stage::Scored,
        (Stage::Intended | Stage::Sent, _, Some(_)) | (Stage::Accepted | Stage::Generating, _, _) => stage,
        (Stage::Kept | Stage::Scored, Some(kept), _) if kept.verdict.is_some() => Stage::Scored,
        (Stage::Kept | Stage::Scored, Some(_), _) => Stage::Kept,
        _ => Stage::Accepted,
    };
    Ok(Some(OpenTask { task, stage, result: best, answer }))
}

fn read_task(row: &Row<'_>, lane: LaneKey) -> Result<(TaskRecord, Stage, Option<String>), StoreError> {
    let id: String = row.get(0)?;
    let kind: String = row.get(4)?;
    let prompt: String = row.get(5)?;
    let stage: String = row.get(9)?;
    let task = TaskRecord {
        id: id.parse().map_err(|e| StoreError::corrupt("task", e))?,
        lane,
        task_id: TaskId::new(&row.get::<_, String>(3)?).map_err(|e| StoreError::corrupt("task id", e))?,
        prompt: Prompt::new(prompt_kind(&kind)?, &prompt),
        threshold: score_of(row.get(6)?)?,
        throttle_s: from_sql(row.get(7)?),
        pulled_at: time(row.get(8)?),
        attempts: row.get(10)?,
    };
    Ok((task, stage.parse()?, row.get(11)?))
}

/// The result of a task with the best score that passes, else the newest; or the one of row `only`.
/// Nothing if its file is not as it was kept.
fn best_result(
    tx: &Transaction<'_>,
    results: &Path,
    task: &TaskRecord,
    only: Option<i64>,
) -> Result<Option<KeptResult>, StoreError> {
    type Stored = (i64, u32, u32, String, Vec<u8>, Option<String>, Option<f64>);
    let stored: Option<Stored> = tx
        .query_row(
            "SELECT id, attempt, seed, file, sha256, verdict, score FROM results
             WHERE task = ?1 AND (?2 IS NULL OR id = ?2)
             ORDER BY CASE WHEN score >= ?3 THEN score END DESC NULLS LAST, attempt DESC LIMIT 1",
            params![task.id.to_string(), only, task.threshold.get()],
            |row| {
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                    row.get(5)?,
                    row.get(6)?,
                ))
            },
        )
        .optional()?;
    let Some((row, attempt, seed, file, sha256, verdict, score)) = stored else { return Ok(None) };
    let read = || -> Result<Spz, StoreError> {
        let path = results.join(&file);
        let bytes = std::fs::read(&path).map_err(|e| StoreError::file(&path, e))?;
        if Sha256::digest(&bytes).as_slice() != sha256 {
            return Err(StoreError::DamagedResult {
                file: file.clone(),
                detail: "its checksum differs".into(),
            });
        }
        Spz::parse(bytes, MAX_PAYLOAD_BYTES)
            .map_err(|e| StoreError::DamagedResult { file: file.clone(), detail: e.to_string() })
    };
    let spz = match read() {
        Ok(spz) => Arc::new(spz),
        Err(error) => {
            tracing::warn!(%error, "a stored result cannot be used and is made again");
            return Ok(None);
        }
    };
    let verdict = match (verdict.as_deref(), score) {
        (Some("scored"), Some(score)) => Some(Verdict::Scored(score_of(score)?)),
        (Some("no-verdict"), _) => Some(Verdict::NoVerdict),
        (Some("unscored"), _) => Some(Verdict::Unscored),
        (None, _) => None,
        (Some(other), _) => return Err(StoreError::corrupt("verdict", other)),
    };
    Ok(Some(KeptResult { row: Some(row), attempt, seed: Seed::new(seed), spz, verdict }))
}

pub(super) fn prompt_kind(text: &str) -> Result<PromptKind, StoreError> {
    match text {
        "text" => Ok(PromptKind::Text),
        "image" => Ok(PromptKind::Image),
        "other" => Ok(PromptKind::Other),
        other => Err(StoreError::corrupt("prompt kind", other)),
    }
}

pub(super) fn score_of(value: f64) -> Result<Score, StoreError> {
    Score::new(value).map_err(|e| StoreError::corrupt("score", e))
}

/// Whole milliseconds, rounded to the nearest.
fn millis(time: Duration) -> i64 {
    i64::try_from((time.as_micros() + 500) / 1_000).unwrap_or(i64::MAX)
}

/// SQLite integers are signed; what does not fit is held at the end.
pub(super) fn to_sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn from_sql(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

pub(super) fn time(value: i64) -> UnixTime {
    UnixTime::from_nanos(from_sql(value))
}
