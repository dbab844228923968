//! What came of tasks, added up: the sums behind `stats`.

use rusqlite::types::ToSql;
use rusqlite::{Row, Statement};

use super::histogram::{Counts, Histogram};
use super::tasks::{from_sql, time, to_sql};
use super::{Acceptance, Outcome, StoreError};
use crate::primitives::{Score, Uid, UnixTime};

/// Milliseconds after which the making of a task counts as slow: validators give 30 s for free
/// (rules.md R2).
pub const SLOW_MS: u64 = 30_000;

/// Settled tasks, added up.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tally {
    pub accepted: u64,
    pub low: u64,
    pub scorer_failed: u64,
    pub empty: u64,
    /// Closed by which answer is not known.
    pub settled: u64,
    pub lost: u64,
    /// Results made, of which a task may have several.
    pub generations: u64,
    /// Tasks with a result.
    pub made: u64,
    /// Of those, the slow ones by what took most of the time.
    pub slow: Slow,
    /// Judged results whose local score reached the source's threshold.
    pub passed_here: u64,
    /// Of those, the rejected ones.
    pub rejected_there: u64,
    /// Of all accepted results, as the source scored them.
    pub score_sum: f64,
    /// Accepted results with a local score; the sums below are over these.
    pub compared: u64,
    pub local_sum: f64,
    pub remote_sum: f64,
    /// Of (remote - local) squared.
    pub difference_squares: f64,
    pub latest: Option<Latest>,
    pub times: Times,
    pub(super) by_local: ByLocal,
}

/// Tasks whose making took longer than [`SLOW_MS`]: from the first wait for a card to the last byte
/// of the result that was submitted. Named is the longest of the parts that follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Slow {
    /// Waiting for the card.
    pub queue: u64,
    pub handoff: u64,
    pub generator: u64,
    /// All that came before the result that was submitted.
    pub retries: u64,
}

impl Slow {
    pub const fn sum(self) -> u64 {
        self.queue + self.handoff + self.generator + self.retries
    }
}

/// What the newest feedback said of a lane.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latest {
    /// By our clock.
    pub at: UnixTime,
    pub uid: Option<Uid>,
    /// Accepted results in the last four hours.
    pub window_count: u64,
    pub duel_rating: f64,
    pub reward: f64,
}

/// How long the stages took, in milliseconds: of every result, and of every submission of one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Times {
    pub queue: Histogram,
    pub handoff: Histogram,
    pub generation: Histogram,
    pub scoring: Histogram,
    pub encoding: Histogram,
    pub upload: Histogram,
    pub validator: Histogram,
}

impl Times {
    /// In the order in which a task passes them, except that encoding comes before scoring.
    fn each(&self) -> [&Histogram; 7] {
        let Self { queue, handoff, generation, scoring, encoding, upload, validator } = self;
        [queue, handoff, generation, scoring, encoding, upload, validator]
    }

    fn each_mut(&mut self) -> [&mut Histogram; 7] {
        let Self { queue, handoff, generation, scoring, encoding, upload, validator } = self;
        [queue, handoff, generation, scoring, encoding, upload, validator]
    }
}

/// Judged results by hundredths of their local score.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ByLocal {
    accepted: Counts,
    rejected: Counts,
}

/// Hundredths told apart; scores above are counted with the highest.
const HUNDREDTHS: usize = 128;

impl ByLocal {
    fn count(&mut self, local: Score, accepted: bool) {
        let counts = if accepted { &mut self.accepted } else { &mut self.rejected };
        counts.add(hundredth(local), 1);
    }

    /// Those of at least `local`, rounded down to a hundredth.
    pub(super) fn at_least(&self, local: Score) -> Acceptance {
        let accepted = self.accepted.at_least(hundredth(local));
        let rejected = self.rejected.at_least(hundredth(local));
        Acceptance { accepted, total: accepted.saturating_add(rejected) }
    }

    fn encode(&self, into: &mut Vec<u8>) {
        self.accepted.encode(into);
        self.rejected.encode(into);
    }

    /// Adds those at the front of a row's `histograms`.
    pub(super) fn merge_encoded(&mut self, from: &mut &[u8]) -> Result<(), StoreError> {
        self.accepted.merge_encoded(from, HUNDREDTHS)?;
        self.rejected.merge_encoded(from, HUNDREDTHS)
    }
}

fn hundredth(score: Score) -> usize {
    // 0.29 is 28.999... hundredths in floating point.
    ((score.get() * 100.0 + 1e-6).max(0.0) as usize).min(HUNDREDTHS - 1)
}

/// Columns of the table `tallies` besides its key, as [`Tally::add_row`] reads and [`Tally::write`]
/// writes them.
pub(super) const COLUMNS: &str = "accepted, low, scorer_failed, empty, settled, lost, generations, made, slow_queue, \
    slow_handoff, slow_generator, slow_retries, passed_here, rejected_there, compared, score_sum, local_sum, \
    remote_sum, difference_squares, last_at, last_uid, last_window_count, last_duel_rating, last_reward, \
    histograms";

const COUNTS: usize = 15;
const SUMS: usize = 4;

impl Tally {
    /// Number of tasks.
    pub const fn tasks(&self) -> u64 {
        self.accepted + self.low + self.scorer_failed + self.empty + self.settled + self.lost
    }

    pub(super) fn count(&mut self, outcome: Outcome) {
        let count = match outcome {
            Outcome::Accepted => &mut self.accepted,
            Outcome::Low => &mut self.low,
            Outcome::ScorerFailed => &mut self.scorer_failed,
            Outcome::Empty => &mut self.empty,
            Outcome::Settled => &mut self.settled,
            Outcome::Lost => &mut self.lost,
        };
        *count += 1;
    }

    /// Counts the feedback on one result.
    pub(super) fn judged(&mut self, outcome: Outcome, threshold: Score, remote: Score, local: Option<Score>) {
        let accepted = match outcome {
            Outcome::Accepted => true,
            Outcome::Low => false,
            _ => return,
        };
        if accepted {
            self.score_sum += remote.get();
        }
        let Some(local) = local else { return };
        self.by_local.count(local, accepted);
        self.passed_here += u64::from(local >= threshold);
        self.rejected_there += u64::from(local >= threshold && !accepted);
        if accepted {
            self.compared += 1;
            self.local_sum += local.get();
            self.remote_sum += remote.get();
            self.difference_squares += (remote.get() - local.get()).powi(2);
        }
    }

    /// Adds everything of `other`; of what is not a sum the newer stays.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts_mut().into_iter().zip(other.counts()) {
            *count = count.saturating_add(more);
        }
        for (sum, more) in self.sums_mut().into_iter().zip(other.sums()) {
            *sum += more;
        }
        self.keep_newer(other.latest);
        for (times, more) in self.times.each_mut().into_iter().zip(other.times.each()) {
            times.merge(more);
        }
        self.by_local.accepted.merge(&other.by_local.accepted);
        self.by_local.rejected.merge(&other.by_local.rejected);
    }

    fn counts(&self) -> [u64; COUNTS] {
        // Every field, so that a new one cannot be forgotten.
        let Self {
            accepted,
            low,
            scorer_failed,
            empty,
            settled,
            lost,
            generations,
            made,
            slow,
            passed_here,
            rejected_there,
            compared,
            score_sum: _,
            local_sum: _,
            remote_sum: _,
            difference_squares: _,
            latest: _,
            times: _,
            by_local: _,
        } = self;
        let Slow { queue, handoff, generator, retries } = slow;
        [
            accepted,
            low,
            scorer_failed,
            empty,
            settled,
            lost,
            generations,
            made,
            queue,
            handoff,
            generator,
            retries,
            passed_here,
            rejected_there,
            compared,
        ]
        .map(|count| *count)
    }

    /// In the order of [`counts`](Self::counts).
    fn counts_mut(&mut self) -> [&mut u64; COUNTS] {
        [
            &mut self.accepted,
            &mut self.low,
            &mut self.scorer_failed,
            &mut self.empty,
            &mut self.settled,
            &mut self.lost,
            &mut self.generations,
            &mut self.made,
            &mut self.slow.queue,
            &mut self.slow.handoff,
            &mut self.slow.generator,
            &mut self.slow.retries,
            &mut self.passed_here,
            &mut self.rejected_there,
            &mut self.compared,
        ]
    }

    fn sums(&self) -> [f64; SUMS] {
        [self.score_sum, self.local_sum, self.remote_sum, self.difference_squares]
    }

    fn sums_mut(&mut self) -> [&mut f64; SUMS] {
        [&mut self.score_sum, &mut self.local_sum, &mut self.remote_sum, &mut self.difference_squares]
    }

    pub(super) fn keep_newer(&mut self, latest: Option<Latest>) {
        if latest.map(|l| l.at) >= self.latest.map(|l| l.at) {
            self.latest = latest;
        }
    }

    /// Adds the columns [`COLUMNS`] of `row`, the first of them at position `from`.
    pub(super) fn add_row(&mut self, row: &Row<'_>, from: usize) -> Result<(), StoreError> {
        for (column, count) in (from..).zip(self.counts_mut()) {
            *count = count.saturating_add(from_sql(row.get(column)?));
        }
        for (column, sum) in (from + COUNTS..).zip(self.sums_mut()) {
            *sum += row.get::<_, f64>(column)?;
        }
        let last = from + COUNTS + SUMS;
        if let Some(at) = row.get(last)? {
            self.keep_newer(Some(Latest {
                at: time(at),
                uid: row.get::<_, Option<u16>>(last + 1)?.map(Uid),
                window_count: from_sql(row.get(last + 2)?),
                duel_rating: row.get(last + 3)?,
                reward: row.get(last + 4)?,
            }));
        }
        let mut bytes = row.get_ref(last + 5)?.as_blob().map_err(|e| StoreError::corrupt("tally", e))?;
        self.by_local.merge_encoded(&mut bytes)?;
        for times in self.times.each_mut() {
            times.merge_encoded(&mut bytes)?;
        }
        Ok(())
    }

    /// Runs `statement`, whose first parameters are `key` and the others [`COLUMNS`].
    pub(super) fn write(&self, statement: &mut Statement<'_>, key: &[&dyn ToSql]) -> Result<(), StoreError> {
        let mut histograms = Vec::new();
        self.by_local.encode(&mut histograms);
        for times in self.times.each() {
            times.encode(&mut histograms);
        }
        let counts = self.counts().map(to_sql);
        let sums = self.sums();
        let latest = self.latest;
        let last_at = latest.map(|l| to_sql(l.at.as_nanos()));
        let last_uid = latest.and_then(|l| l.uid).map(|uid| uid.0);
        let last_window_count = latest.map(|l| to_sql(l.window_count));
        let (last_duel_rating, last_reward) = (latest.map(|l| l.duel_rating), latest.map(|l| l.reward));

        let mut values: Vec<&dyn ToSql> = key.to_vec();
        values.extend(counts.iter().map(|count| count as &dyn ToSql));
        values.extend(sums.iter().map(|sum| sum as &dyn ToSql));
        let last: [&dyn ToSql; 6] =
            [&last_at, &last_uid, &last_window_count, &last_duel_rating, &last_reward, &histograms];
        values.extend(last);
        statement.execute(&*values)?;
        Ok(())
    }
}
