//! Keeps the tallies: what ended in each hour, day and 30 days, per source and hotkey.
//!
//! A task is counted when it ends, in the transaction that ends it. Three lengths of time, so that any
//! period is a few days of hours, a month of days, and the rest in months: its rows do not grow with
//! the number of tasks.

use std::collections::HashMap;

use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension, Params, Row, params};

use super::StoreError;
use super::tally::{COLUMNS, Latest, SLOW_MS, Tally};
use super::tasks::{from_sql, score_of, time, to_sql};
use crate::primitives::{LocalId, Uid, UnixTime};
use crate::store::Outcome;

/// Seconds of the periods that are added up, each a multiple of the one before.
const SPANS: [u64; 3] = [HOUR, 86_400, 30 * 86_400];

pub(super) const HOUR: u64 = 3_600;

/// Lanes by the texts that stand in the database: an address costs more to read than a row.
pub(super) type ByName = HashMap<(String, String), Tally>;

/// A settled task with its feedback, where there is any.
const ENDED: &str = "SELECT t.id, t.source, t.hotkey, t.settled_at, t.outcome, t.threshold,
        f.uid, f.score, f.local_score, f.window_count, f.duel_rating, f.reward
    FROM tasks t LEFT JOIN feedback f ON f.task = t.id";

const RESULTS: &str = "SELECT id, queue_ms, handoff_ms, generation_ms, encode_ms, scoring_ms, kept_at
    FROM results WHERE task = ?1 ORDER BY attempt";

const FAILURES: &str = "SELECT queue_ms, handoff_ms, generation_ms, failed_at FROM failures WHERE task = ?1";

const SUBMISSIONS: &str =
    "SELECT result, upload_ms, reply_ms FROM submissions WHERE task = ?1 AND result IS NOT NULL ORDER BY id";

/// Adds a task that has just been settled to its hour, its day and its 30 days.
pub(super) fn count(connection: &Connection, task: &LocalId) -> Result<(), StoreError> {
    let condition = "WHERE t.id = ?1 AND t.settled_at IS NOT NULL";
    each_ended(connection, condition, [task.to_string()], |ended| {
        for span in SPANS {
            let start = ended.at.as_secs() / span * span;
            let mut tally = Tally::default();
            let key = params![to_sql(span), to_sql(start), ended.source, ended.hotkey];
            let before = connection
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM tallies WHERE span = ?1 AND start = ?2 AND source = ?3 AND hotkey = ?4"
                ))?
                .query_row(key, |row| Ok(tally.add_row(row, 0)))
                .optional()?;
            if let Some(Err(error)) = before {
                // No reason not to close a task.
                tracing::warn!(%error, span, start, "Sums that cannot be read are begun anew");
                tally = Tally::default();
            }
            tally.add(&ended.tally);
            write(connection, key, &tally)?;
        }
        Ok(())
    })
}

/// Counts every settled task anew.
pub(super) fn recount(connection: &Connection) -> Result<(), StoreError> {
    connection.execute("DELETE FROM tallies", [])?;
    // Tasks come by the time they ended, so one period of each length is open at a time.
    let mut open: [(u64, ByName); 3] = Default::default();
    let close = |span: u64, start: u64, tallies: &mut ByName| {
        for ((source, hotkey), tally) in tallies.drain() {
            write(connection, params![to_sql(span), to_sql(start), source, hotkey], &tally)?;
        }
        Ok::<_, StoreError>(())
    };
    let condition = "WHERE t.settled_at IS NOT NULL ORDER BY t.settled_at";
    each_ended(connection, condition, [], |ended| {
        for (span, (start, tallies)) in SPANS.into_iter().zip(&mut open) {
            let its_start = ended.at.as_secs() / span * span;
            if its_start != *start {
                close(span, *start, tallies)?;
                *start = its_start;
            }
            let key = (ended.source.to_owned(), ended.hotkey.to_owned());
            tallies.entry(key).or_default().add(&ended.tally);
        }
        Ok(())
    })?;
    for (span, (start, tallies)) in SPANS.into_iter().zip(&mut open) {
        close(span, *start, tallies)?;
    }
    Ok(())
}

fn write(connection: &Connection, key: &[&dyn ToSql], tally: &Tally) -> Result<(), StoreError> {
    let values = vec!["?"; COLUMNS.split(',').count()].join(", ");
    let mut statement = connection.prepare_cached(&format!(
        "INSERT OR REPLACE INTO tallies (span, start, source, hotkey, {COLUMNS}) VALUES (?, ?, ?, ?, {values})"
    ))?;
    tally.write(&mut statement, key)
}

/// Rows of the table `tallies` that together hold everything since `since`, which is a full hour:
/// `(span, first start, start after the last)`.
pub(super) fn cover(since: UnixTime) -> [(i64, i64, i64); 3] {
    let [hour, day, month] = SPANS;
    let hours = since.as_secs();
    let days = hours.next_multiple_of(day);
    let months = days.next_multiple_of(month);
    let row = |span, from, to| (to_sql(span), to_sql(from), to_sql(to));
    // The last has no end: a clock that was set back has tasks ahead of it.
    [row(hour, hours, days), row(day, days, months), row(month, months, u64::MAX)]
}

/// One settled task.
pub(super) struct Ended<'a> {
    pub source: &'a str,
    pub hotkey: &'a str,
    pub at: UnixTime,
    /// Of this task alone.
    pub tally: Tally,
}

/// Reads settled tasks; `condition` and what follows it is about the task `t`.
pub(super) fn each_ended(
    connection: &Connection,
    condition: &str,
    parameters: impl Params,
    mut with: impl FnMut(Ended<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached(&format!("{ENDED} {condition}"))?;
    let mut rows = statement.query(parameters)?;
    while let Some(row) = rows.next()? {
        match read_ended(connection, row) {
            Ok(ended) => with(ended)?,
            // One row that nobody can read is no reason to know nothing of the others.
            Err(StoreError::Corrupt { what, detail }) => {
                tracing::warn!(what, detail, "A settled task cannot be read and is not counted");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn read_ended<'a>(connection: &Connection, row: &'a Row<'_>) -> Result<Ended<'a>, StoreError> {
    let text = |column: usize| -> Result<&'a str, StoreError> {
        row.get_ref(column)?.as_str().map_err(|e| StoreError::corrupt("settled task", e))
    };
    let at = time(row.get(3)?);
    let mut tally = Tally::default();
    let outcome: Outcome = text(4)?.parse()?;
    tally.count(outcome);
    if let Some(remote) = row.get::<_, Option<f64>>(7)? {
        let local = row.get::<_, Option<f64>>(8)?.map(score_of).transpose()?;
        tally.judged(outcome, score_of(row.get(5)?)?, score_of(remote)?, local);
        tally.keep_newer(Some(Latest {
            at,
            uid: row.get::<_, Option<u16>>(6)?.map(Uid),
            window_count: from_sql(row.get(9)?),
            duel_rating: row.get(10)?,
            reward: row.get(11)?,
        }));
    }
    count_times(connection, text(0)?, &mut tally)?;
    Ok(Ended { source: text(1)?, hotkey: text(2)?, at, tally })
}

/// One result on its way. What an older version did not measure is 0 here.
struct Making {
    row: i64,
    queue: u64,
    handoff: u64,
    generation: u64,
    /// The last byte was in, ms.
    done: u64,
}

impl Making {
    fn started(&self) -> u64 {
        self.done.saturating_sub(self.queue + self.handoff + self.generation)
    }
}

/// Counts what the results and submissions of one task took.
fn count_times(connection: &Connection, task: &str, tally: &mut Tally) -> Result<(), StoreError> {
    let mut makings = Vec::new();
    let times = &mut tally.times;
    let mut statement = connection.prepare_cached(RESULTS)?;
    let mut rows = statement.query([task])?;
    while let Some(row) = rows.next()? {
        let ms = |column: usize| millis(row, column);
        let (queue, handoff, generation, encoding) = (ms(1)?, ms(2)?, ms(3)?, ms(4)?);
        for (histogram, time) in [
            (&mut times.queue, queue),
            (&mut times.handoff, handoff),
            (&mut times.generation, generation),
            (&mut times.encoding, encoding),
            (&mut times.scoring, ms(5)?),
        ] {
            if let Some(time) = time {
                histogram.record(time);
            }
        }
        makings.push(Making {
            row: row.get(0)?,
            queue: queue.unwrap_or(0),
            handoff: handoff.unwrap_or(0),
            generation: generation.unwrap_or(0),
            done: time(row.get(6)?).as_millis().saturating_sub(encoding.unwrap_or(0)),
        });
    }
    let mut submitted = None;
    let mut statement = connection.prepare_cached(SUBMISSIONS)?;
    let mut rows = statement.query([task])?;
    while let Some(row) = rows.next()? {
        submitted = row.get(0)?;
        for (histogram, time) in
            [(&mut times.upload, millis(row, 1)?), (&mut times.validator, millis(row, 2)?)]
        {
            if let Some(time) = time {
                histogram.record(time);
            }
        }
    }
    let mut failures = Vec::new();
    let mut statement = connection.prepare_cached(FAILURES)?;
    let mut rows = statement.query([task])?;
    while let Some(row) = rows.next()? {
        let ms = |column: usize| Ok::<_, StoreError>(from_sql(row.get(column)?));
        let (queue, handoff, generation) = (ms(0)?, ms(1)?, ms(2)?);
        times.queue.record(queue);
        times.handoff.record(handoff);
        times.generation.record(generation);
        let took = queue + handoff + generation;
        failures.push(time(row.get(3)?).as_millis().saturating_sub(took));
    }
    tally.generations += (makings.len() + failures.len()) as u64;
    count_slow(&makings, &failures, submitted, tally);
    Ok(())
}

/// `failures`: when attempts began that made nothing, ms.
fn count_slow(makings: &[Making], failures: &[u64], submitted: Option<i64>, tally: &mut Tally) {
    let chosen = makings.iter().find(|making| Some(making.row) == submitted).or(makings.last());
    let Some(chosen) = chosen else { return };
    tally.made += 1;
    let begun = makings.iter().map(Making::started).chain(failures.iter().copied()).min().unwrap_or(0);
    if chosen.done.saturating_sub(begun) <= SLOW_MS {
        return;
    }
    let slow = &mut tally.slow;
    let mut parts = [
        (chosen.generation, &mut slow.generator),
        (chosen.handoff, &mut slow.handoff),
        (chosen.queue, &mut slow.queue),
        (chosen.started().saturating_sub(begun), &mut slow.retries),
    ];
    // Of equals the first.
    parts.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
    *parts[0].1 += 1;
}

fn millis(row: &Row<'_>, column: usize) -> Result<Option<u64>, StoreError> {
    Ok(row.get::<_, Option<i64>>(column)?.map(from_sql))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::rngs::StdRng;
    use rand::seq::IndexedRandom;
    use rand::{RngExt, SeedableRng};
    use tempfile::TempDir;

    use super::*;
    use crate::store::tests::{accept, lane, making, new_task, score, settled, spz};
    use crate::store::{
        Answer, Delivery, Durable, FeedbackRecord, LaneRecord, Making as Made, NewTask, Settled, Slow, Stats,
        Store, Verdict,
    };

    const OUTCOMES: [Outcome; 6] = [
        Outcome::Accepted,
        Outcome::Low,
        Outcome::ScorerFailed,
        Outcome::Empty,
        Outcome::Settled,
        Outcome::Lost,
    ];

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Books a task at `at` that took these makings, one after the other.
    async fn book(store: &Store, number: u128, at: UnixTime, outcome: Outcome, makings: &[Made]) {
        let lane = lane(number as u8 % 3);
        let new = NewTask { pulled_at: at - ms(60_000), ..new_task(lane, &format!("t{number}"), number) };
        let task = accept(store, new).await;
        let mut local = None;
        for making in makings {
            store.begin_attempt(task.id).await.unwrap();
            let kept = store.keep(task.id, making.clone(), spz(making.attempt)).await.unwrap();
            local = Some(score(f64::from(making.seed.get() % 100) / 100.0));
            let verdict = Verdict::Scored(local.unwrap());
            let kept = store.judge(task.id, &kept, verdict, Some(ms(number as u64))).await.unwrap();
            let submission = store.intend(task.id, &Answer::Result(kept), at).await.unwrap();
            let delivery = Delivery { sent_bytes: 1, upload: Some(ms(30)), reply: Some(ms(4_000)) };
            store.delivered(submission, delivery).await.unwrap();
        }
        let feedback = FeedbackRecord {
            uid: None,
            received_at: at,
            validation_failed: false,
            score: score(0.7),
            local_score: local,
            average_score: score(0.5),
            window_count: number as u64,
            duel_rating: 1500.0,
            reward: 1.5,
            cooldown_until: None,
        };
        let known = !matches!(outcome, Outcome::Settled | Outcome::Lost);
        let settled = Settled { at, feedback: known.then_some(feedback), ..settled(task.id, outcome) };
        store.finish(settled, lane, LaneRecord::default()).await.unwrap();
    }

    async fn store() -> (TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        (dir, store)
    }

    /// A task a minute or so, over months.
    async fn months(store: &Store, seed: u64) -> Vec<(UnixTime, Outcome)> {
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut at = UnixTime::from_secs(1_763_600_000);
        let mut booked = Vec::new();
        for number in 0..120 {
            at = at + ms(*[1, 60_000, 3_600_000, 86_400_000, 864_000_000].choose(&mut rng).unwrap());
            let outcome = *OUTCOMES.choose(&mut rng).unwrap();
            let made: Vec<Made> = (1..=rng.random_range(0..3))
                .map(|attempt| Made { generation: ms(rng.random_range(0..60_000)), at, ..making(attempt) })
                .collect();
            book(store, number, at, outcome, &made).await;
            booked.push((at, outcome));
        }
        booked
    }

    async fn dump(store: &Store) -> Vec<String> {
        let all = |connection: &Connection| {
            let mut statement =
                connection.prepare("SELECT * FROM tallies ORDER BY span, start, source, hotkey")?;
            let columns = statement.column_count();
            let rows = statement.query_map([], |row| {
                let values: Result<Vec<rusqlite::types::Value>, _> =
                    (0..columns).map(|i| row.get(i)).collect();
                Ok(format!("{:?}", values?))
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        };
        store.transaction(Durable::Process, move |tx| all(tx)).await.unwrap()
    }

    #[tokio::test]
    async fn what_is_counted_as_tasks_end_is_what_counting_anew_finds() {
        let (_dir, store) = store().await;
        months(&store, 7).await;
        let counted = dump(&store).await;
        assert!(counted.len() > 100, "{}", counted.len());
        store.recount().await.unwrap();
        assert_eq!(dump(&store).await, counted);
    }

    #[tokio::test]
    async fn any_period_holds_exactly_what_ended_in_it() {
        let (dir, store) = store().await;
        let booked = months(&store, 8).await;
        let (first, last) = (booked[0].0, booked[booked.len() - 1].0);
        let now = last + ms(1);
        let boundaries = [3_600, 86_400, 30 * 86_400]
            .map(|span| UnixTime::from_secs((last.as_secs() - 5 * 86_400).next_multiple_of(span)));
        for since in
            booked.iter().map(|(at, _)| *at).step_by(3).chain(boundaries).flat_map(|at| [at, at + ms(1)])
        {
            let stats = Stats::read(dir.path(), Some(since), now).await.unwrap();
            let total =
                |outcome| booked.iter().filter(|(at, o)| *at >= since && *o == outcome).count() as u64;
            let mut tally = Tally::default();
            stats.lanes.iter().for_each(|(_, lane)| tally.add(lane));
            let found =
                [tally.accepted, tally.low, tally.scorer_failed, tally.empty, tally.settled, tally.lost];
            assert_eq!(found, OUTCOMES.map(total), "since {since}");
            assert_eq!((stats.from, stats.until), (since, now));
        }
        let all = Stats::read(dir.path(), None, now).await.unwrap();
        assert_eq!(all.lanes.iter().map(|(_, tally)| tally.tasks()).sum::<u64>(), 120);
        assert_eq!(all.from, first - ms(60_000));
        let early = Stats::read(dir.path(), Some(UnixTime::from_secs(5)), now).await.unwrap();
        assert_eq!(early, all);
    }

    /// A task must be closed and a memory opened, whatever the sums look like.
    #[tokio::test]
    async fn what_cannot_be_read_is_left_out_of_the_sums() {
        let (dir, store) = store().await;
        let at = UnixTime::from_secs(1_763_600_000);
        book(&store, 1, at, Outcome::Accepted, &[making(1)]).await;
        let damage =
            |sql: &'static str| store.transaction(Durable::Process, move |tx| Ok(tx.execute(sql, [])?));
        damage("UPDATE tallies SET histograms = x'ffff'").await.unwrap();
        book(&store, 4, at + ms(1), Outcome::Low, &[making(1)]).await;
        let read = || Stats::read(dir.path(), None, at + ms(2));
        let tally = read().await.unwrap().lanes[0].1.clone();
        assert_eq!((tally.accepted, tally.low, tally.made), (0, 1, 1));

        damage("UPDATE tasks SET outcome = 'unheard-of' WHERE outcome = 'low'").await.unwrap();
        store.recount().await.unwrap();
        let tally = read().await.unwrap().lanes[0].1.clone();
        assert_eq!((tally.accepted, tally.low, tally.made), (1, 0, 1));
    }

    #[tokio::test]
    async fn a_slow_making_is_blamed_on_its_longest_part() {
        let at = UnixTime::from_secs(1_763_600_000);
        let part = |queue, handoff, generation| Made {
            queue: ms(queue),
            handoff: ms(handoff),
            generation: ms(generation),
            encoding: ms(500),
            at,
            ..making(1)
        };
        let later = |made: Made, by| Made { at: made.at + ms(by), attempt: 2, ..made };
        for (makings, slow) in [
            (vec![], Slow::default()),
            (vec![part(10_000, 5_000, 15_000)], Slow::default()),
            (vec![part(10_000, 5_000, 15_001)], Slow { generator: 1, ..Slow::default() }),
            (vec![part(25_000, 5_000, 15_000)], Slow { queue: 1, ..Slow::default() }),
            (vec![part(5_000, 16_000, 15_000)], Slow { handoff: 1, ..Slow::default() }),
            // One after the other.
            (
                vec![part(0, 0, 16_000), later(part(0, 0, 14_000), 14_500)],
                Slow { retries: 1, ..Slow::default() },
            ),
            (
                vec![part(0, 0, 14_000), later(part(0, 0, 20_000), 20_500)],
                Slow { generator: 1, ..Slow::default() },
            ),
            // At the same time, on two cards.
            (vec![part(0, 0, 20_000), later(part(0, 0, 20_000), 0)], Slow::default()),
        ] {
            let (dir, store) = store().await;
            book(&store, 1, at + ms(90_000), Outcome::Accepted, &makings).await;
            let stats = Stats::read(dir.path(), None, at).await.unwrap();
            let tally = &stats.lanes[0].1;
            assert_eq!((tally.slow, tally.made), (slow, u64::from(!makings.is_empty())), "{makings:?}");
            assert_eq!(tally.generations, makings.len() as u64);
            assert_eq!(tally.times.queue.max(), makings.iter().map(|m| m.queue.as_millis() as u64).max());
            assert_eq!(tally.times.validator.count(), makings.len() as u64);
        }
    }

    #[tokio::test]
    async fn a_task_that_was_replaced_counts_as_lost() {
        let (dir, store) = store().await;
        accept(&store, new_task(lane(1), "t", 1)).await;
        accept(&store, new_task(lane(1), "u", 2)).await;
        let stats = Stats::read(dir.path(), None, UnixTime::from_secs(1_763_700_000)).await.unwrap();
        assert_eq!((stats.lanes[0].1.lost, stats.lanes[0].1.tasks()), (1, 1));
    }
}
