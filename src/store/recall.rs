//! What a scheduler starts from, so that its estimates and counts need not be learned anew.
//!
//! Each question is answered from an index in time that does not grow with the age of the memory.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rusqlite::params;

use super::rollup::{HOUR, cover};
use super::tally::ByLocal;
use super::tasks::{from_sql, score_of, time, to_sql};
use super::{Durable, LaneKey, Outcome, Store, StoreError};
use crate::primitives::{Score, SourceId, UnixTime};

/// What the local scorer said of a result, and what its source said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CalibrationPair {
    pub source: SourceId,
    pub local: Score,
    /// The source's, at the time.
    pub threshold: Score,
    pub accepted: bool,
    /// When the source answered, by our clock.
    pub at: UnixTime,
}

/// How a source judged results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Acceptance {
    pub accepted: u64,
    /// Accepted and rejected.
    pub total: u64,
}

/// How long things took lately, newest first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RecentDurations {
    /// By the generator's name.
    pub makings: BTreeMap<String, Vec<RecentMaking>>,
    /// By the source that was answered.
    pub answers: BTreeMap<SourceId, Vec<RecentAnswer>>,
}

/// How long one result took. Unknown parts are those of results made by an older version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecentMaking {
    pub queue: Option<Duration>,
    pub handoff: Option<Duration>,
    pub first_byte: Option<Duration>,
    pub generation: Duration,
    pub encoding: Option<Duration>,
    /// Nothing where it was not scored.
    pub scoring: Option<Duration>,
}

/// How long one answer took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecentAnswer {
    /// Whether it was a result, and not empty.
    pub result: bool,
    pub sent_bytes: u64,
    pub upload: Duration,
    /// The validator: from the last byte sent to the first byte of its reply.
    pub reply: Duration,
}

pub(super) const ACCEPTED_SINCE: &str =
    "SELECT source, hotkey, received_at FROM feedback INDEXED BY feedback_by_time
    WHERE received_at >= ?1 AND outcome = 'accepted' ORDER BY received_at";

pub(super) const ACCEPTED_OF_LANE: &str = "SELECT received_at FROM feedback INDEXED BY feedback_by_lane
    WHERE received_at >= ?1 AND outcome = 'accepted' AND source = ?2 AND hotkey = ?3 ORDER BY received_at";

pub(super) const LAST_OF_LANE: &str = "SELECT max(received_at) FROM feedback INDEXED BY feedback_by_lane
    WHERE source = ?1 AND hotkey = ?2";

pub(super) const CALIBRATION: &str = "SELECT f.local_score, f.outcome, f.received_at, f.source, t.threshold
    FROM feedback f INDEXED BY feedback_by_time JOIN tasks t ON t.id = f.task
    WHERE f.received_at >= ?1 AND f.outcome IN ('accepted', 'low') AND f.local_score IS NOT NULL
    ORDER BY f.received_at DESC LIMIT ?2";

pub(super) const JUDGED: &str =
    "SELECT source, histograms FROM tallies WHERE span = ?1 AND start >= ?2 AND start < ?3";

pub(super) const MAKINGS: &str =
    "SELECT worker, queue_ms, handoff_ms, first_byte_ms, generation_ms, encode_ms, scoring_ms
    FROM results ORDER BY id DESC LIMIT ?1";

pub(super) const ANSWERS: &str =
    "SELECT t.source, s.result IS NOT NULL, s.sent_bytes, s.upload_ms, s.reply_ms
    FROM (SELECT * FROM submissions ORDER BY id DESC LIMIT ?1) s JOIN tasks t ON t.id = s.task
    WHERE s.upload_ms IS NOT NULL AND s.reply_ms IS NOT NULL ORDER BY s.id DESC";

impl Store {
    /// When results were accepted since `since` by our clock, oldest first: of one lane, or of every
    /// lane that has any.
    ///
    /// # Errors
    /// When the database fails or holds what this program never writes.
    pub async fn accepted_since(
        &self,
        lane: Option<LaneKey>,
        since: UnixTime,
    ) -> Result<HashMap<LaneKey, Vec<UnixTime>>, StoreError> {
        self.transaction(Durable::Process, move |tx| {
            let since = to_sql(since.as_nanos());
            let mut found: HashMap<LaneKey, Vec<UnixTime>> = HashMap::new();
            if let Some(lane) = lane {
                let mut statement = tx.prepare(ACCEPTED_OF_LANE)?;
                let key = params![since, lane.source.to_string(), lane.hotkey.to_string()];
                let times = statement.query_map(key, |row| row.get(0).map(time))?;
                let times: Vec<UnixTime> = times.collect::<Result<_, _>>()?;
                if !times.is_empty() {
                    found.insert(lane, times);
                }
                return Ok(found);
            }
            // An address costs more to read than a row, so each is read once.
            let mut by_name: HashMap<(String, String), Vec<UnixTime>> = HashMap::new();
            let mut statement = tx.prepare(ACCEPTED_SINCE)?;
            let mut rows = statement.query([since])?;
            while let Some(row) = rows.next()? {
                by_name.entry((row.get(0)?, row.get(1)?)).or_default().push(time(row.get(2)?));
            }
            for ((source, hotkey), times) in by_name {
                found.insert(lane_of(&source, &hotkey)?, times);
            }
            Ok(found)
        })
        .await
    }

    /// When a lane's source said something of a result last.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn last_answered(&self, lane: LaneKey) -> Result<Option<UnixTime>, StoreError> {
        self.transaction(Durable::Process, move |tx| {
            let key = params![lane.source.to_string(), lane.hotkey.to_string()];
            let newest: Option<i64> = tx.query_row(LAST_OF_LANE, key, |row| row.get(0))?;
            Ok(newest.map(time))
        })
        .await
    }

    /// The newest `limit` results since `since` that were scored here and then accepted or rejected,
    /// newest first.
    ///
    /// # Errors
    /// When the database fails or holds what this program never writes.
    pub async fn calibration_pairs(
        &self,
        limit: u32,
        since: UnixTime,
    ) -> Result<Vec<CalibrationPair>, StoreError> {
        self.transaction(Durable::Process, move |tx| {
            let mut statement = tx.prepare(CALIBRATION)?;
            let mut rows = statement.query(params![to_sql(since.as_nanos()), limit])?;
            let mut pairs = Vec::new();
            while let Some(row) = rows.next()? {
                pairs.push(CalibrationPair {
                    local: score_of(row.get(0)?)?,
                    accepted: row.get::<_, String>(1)? == Outcome::Accepted.as_str(),
                    at: time(row.get(2)?),
                    source: source_of(&row.get::<_, String>(3)?)?,
                    threshold: score_of(row.get(4)?)?,
                });
            }
            Ok(pairs)
        })
        .await
    }

    /// How each source judged the results since `since`, to the full hour before, whose local score
    /// was at least `local_at_least`, to the hundredth below.
    ///
    /// # Errors
    /// When the database fails or holds what this program never writes.
    pub async fn acceptance_by_validator(
        &self,
        since: UnixTime,
        local_at_least: Score,
    ) -> Result<BTreeMap<SourceId, Acceptance>, StoreError> {
        self.transaction(Durable::Process, move |tx| {
            let hour = UnixTime::from_secs(since.as_secs() / HOUR * HOUR);
            let mut by_name: HashMap<String, ByLocal> = HashMap::new();
            let mut statement = tx.prepare(JUDGED)?;
            for period in cover(hour) {
                let mut rows = statement.query(period)?;
                while let Some(row) = rows.next()? {
                    let mut bytes = row.get_ref(1)?.as_blob().map_err(|e| StoreError::corrupt("tally", e))?;
                    by_name.entry(row.get(0)?).or_default().merge_encoded(&mut bytes)?;
                }
            }
            let mut found = BTreeMap::new();
            for (source, judged) in by_name {
                let acceptance = judged.at_least(local_at_least);
                if acceptance.total > 0 {
                    found.insert(source_of(&source)?, acceptance);
                }
            }
            Ok(found)
        })
        .await
    }

    /// How long the newest `limit` results and the newest `limit` answers took.
    ///
    /// # Errors
    /// When the database fails or holds what this program never writes.
    pub async fn recent_durations(&self, limit: u32) -> Result<RecentDurations, StoreError> {
        self.transaction(Durable::Process, move |tx| {
            let millis = |ms: i64| Duration::from_millis(from_sql(ms));
            let mut recent = RecentDurations::default();
            let mut statement = tx.prepare(MAKINGS)?;
            let mut rows = statement.query([limit])?;
            while let Some(row) = rows.next()? {
                let part = |index: usize| row.get::<_, Option<i64>>(index).map(|ms| ms.map(millis));
                recent.makings.entry(row.get(0)?).or_default().push(RecentMaking {
                    queue: part(1)?,
                    handoff: part(2)?,
                    first_byte: part(3)?,
                    generation: millis(row.get(4)?),
                    encoding: part(5)?,
                    scoring: part(6)?,
                });
            }
            let mut by_name: HashMap<String, Vec<RecentAnswer>> = HashMap::new();
            let mut statement = tx.prepare(ANSWERS)?;
            let mut rows = statement.query([limit])?;
            while let Some(row) = rows.next()? {
                by_name.entry(row.get(0)?).or_default().push(RecentAnswer {
                    result: row.get(1)?,
                    sent_bytes: from_sql(row.get::<_, Option<i64>>(2)?.unwrap_or(0)),
                    upload: millis(row.get(3)?),
                    reply: millis(row.get(4)?),
                });
            }
            for (source, answers) in by_name {
                recent.answers.insert(source_of(&source)?, answers);
            }
            Ok(recent)
        })
        .await
    }
}

fn source_of(text: &str) -> Result<SourceId, StoreError> {
    text.parse().map_err(|e| StoreError::corrupt("source", e))
}

pub(super) fn lane_of(source: &str, hotkey: &str) -> Result<LaneKey, StoreError> {
    Ok(LaneKey {
        source: source_of(source)?,
        hotkey: hotkey.parse().map_err(|e| StoreError::corrupt("hotkey", e))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::{Hotkey, Uid};
    use crate::store::tests::{NOW, accept, kept, lane, making, new_task, score, settled, spz};
    use crate::store::{
        Answer, Decided, DecisionRecord, Delivery, FeedbackRecord, LaneRecord, Making, Remembered, Settled,
        Verdict,
    };

    fn at(seconds: u64) -> UnixTime {
        NOW + Duration::from_secs(seconds)
    }

    /// Books a task of `lane` at `at` with this local score.
    async fn book(store: &Store, lane: LaneKey, seconds: u64, outcome: Outcome, local: Option<f64>) {
        let number = u128::from(seconds) << 8 | u128::from(lane.hotkey.as_bytes()[0]);
        let task = accept(store, new_task(lane, &format!("t{number}"), number)).await;
        let feedback = FeedbackRecord {
            uid: Some(Uid(1)),
            received_at: at(seconds),
            validation_failed: outcome == Outcome::ScorerFailed,
            score: score(0.7),
            local_score: local.map(score),
            average_score: score(0.5),
            window_count: 3,
            duel_rating: 1500.0,
            reward: 4500.0,
            cooldown_until: None,
        };
        let settled = Settled { at: at(seconds), feedback: Some(feedback), ..settled(task.id, outcome) };
        store.finish(settled, lane, LaneRecord::default()).await.unwrap();
    }

    fn of_hotkey(number: u8, hotkey: u8) -> LaneKey {
        LaneKey { hotkey: Hotkey::from_bytes([hotkey; 32]), ..lane(number) }
    }

    #[tokio::test]
    async fn accepted_results_are_found_by_lane_and_time() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let (first, second, third) = (of_hotkey(1, 8), of_hotkey(1, 9), of_hotkey(2, 8));
        for seconds in [1, 5, 9] {
            book(&store, first, seconds, Outcome::Accepted, Some(0.8)).await;
        }
        book(&store, first, 10, Outcome::Low, Some(0.8)).await;
        book(&store, second, 6, Outcome::Accepted, None).await;
        book(&store, third, 2, Outcome::Accepted, Some(0.8)).await;

        let all = store.accepted_since(None, at(5)).await.unwrap();
        assert_eq!(all, HashMap::from([(first, vec![at(5), at(9)]), (second, vec![at(6)])]));
        let one = store.accepted_since(Some(first), at(6)).await.unwrap();
        assert_eq!(one, HashMap::from([(first, vec![at(9)])]));
        assert!(store.accepted_since(Some(third), at(3)).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn calibration_takes_judged_results_with_a_local_score_newest_first() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        for (seconds, outcome, local) in [
            (1, Outcome::Accepted, Some(0.9)),
            (2, Outcome::Low, Some(0.55)),
            (3, Outcome::Accepted, None),
            (4, Outcome::Empty, Some(0.4)),
            (5, Outcome::ScorerFailed, Some(0.7)),
            (6, Outcome::Accepted, Some(0.65)),
        ] {
            book(&store, lane(1), seconds, outcome, local).await;
        }
        let pair = |local, accepted, seconds| CalibrationPair {
            source: lane(1).source,
            local: score(local),
            threshold: score(0.6),
            accepted,
            at: at(seconds),
        };
        let all = store.calibration_pairs(10, NOW).await.unwrap();
        assert_eq!(all, [pair(0.65, true, 6), pair(0.55, false, 2), pair(0.9, true, 1)]);
        assert_eq!(store.calibration_pairs(10, at(2)).await.unwrap(), all[..2]);
        assert_eq!(store.calibration_pairs(1, NOW).await.unwrap(), all[..1]);
    }

    #[tokio::test]
    async fn acceptance_is_counted_by_source_hour_and_hundredth() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let hour = UnixTime::from_secs(NOW.as_secs().next_multiple_of(3_600)).saturating_since(NOW).as_secs();
        const DAY: u64 = 86_400;
        for (lane, seconds, outcome, local) in [
            (of_hotkey(1, 8), hour - 1, Outcome::Accepted, Some(0.9)),
            (of_hotkey(1, 8), hour, Outcome::Accepted, Some(0.65)),
            (of_hotkey(1, 9), hour + 7, Outcome::Low, Some(0.70)),
            (of_hotkey(1, 9), hour + 8, Outcome::Low, Some(0.6499)),
            (of_hotkey(1, 9), hour + 9, Outcome::Low, None),
            (of_hotkey(1, 9), hour + 10, Outcome::Empty, Some(0.9)),
            (of_hotkey(1, 8), hour + DAY, Outcome::Accepted, Some(1.4)),
            (of_hotkey(2, 8), hour + 40 * DAY, Outcome::Low, Some(0.66)),
            (of_hotkey(3, 8), hour + 40 * DAY + 1, Outcome::Low, Some(0.5)),
        ] {
            book(&store, lane, seconds, outcome, local).await;
        }
        let ask = |since, local| store.acceptance_by_validator(at(since), score(local));
        let (first, second) = (lane(1).source, lane(2).source);
        let judged = |accepted, total| Acceptance { accepted, total };
        assert_eq!(
            ask(hour + 3_599, 0.65).await.unwrap(),
            BTreeMap::from([(first, judged(2, 3)), (second, judged(0, 1))])
        );
        assert_eq!(ask(hour - 1, 0.65).await.unwrap()[&first], judged(3, 4));
        assert_eq!(ask(hour + 3_600, 0.7).await.unwrap(), BTreeMap::from([(first, judged(1, 1))]));
        assert_eq!(ask(hour, 0.649).await.unwrap()[&first], judged(2, 4));
        assert!(ask(hour + 41 * DAY, 0.0).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn recent_durations_are_told_apart_by_worker_and_source() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        assert_eq!(store.recent_durations(10).await.unwrap(), RecentDurations::default());
        let ms = Duration::from_millis;
        let task = accept(&store, new_task(lane(1), "t", 1)).await;
        let result = kept(&store, task.id).await;
        store.judge(task.id, &result, Verdict::Scored(score(0.4)), Some(ms(1_234))).await.unwrap();
        let attempt = store.begin_attempt(task.id).await.unwrap();
        let other = Making { worker: "other".into(), generation: ms(2_000), ..making(attempt) };
        let result = store.keep(task.id, other, spz(2)).await.unwrap();
        let submission = store.intend(task.id, &Answer::Result(result), NOW).await.unwrap();
        let delivery = Delivery { sent_bytes: 77, upload: Some(ms(40)), reply: Some(ms(4_000)) };
        store.delivered(submission, delivery).await.unwrap();
        // Nothing is known of one that brought no reply.
        store.intend(task.id, &Answer::Empty("x".into()), NOW).await.unwrap();

        let recent = store.recent_durations(10).await.unwrap();
        let first = RecentMaking {
            queue: Some(ms(20)),
            handoff: Some(ms(30)),
            first_byte: Some(ms(900)),
            generation: ms(1_000),
            encoding: Some(ms(50)),
            scoring: Some(ms(1_234)),
        };
        let second = RecentMaking { generation: ms(2_000), scoring: None, ..first };
        assert_eq!(
            recent.makings,
            BTreeMap::from([("main".into(), vec![first]), ("other".into(), vec![second])])
        );
        let answer = RecentAnswer { result: true, sent_bytes: 77, upload: ms(40), reply: ms(4_000) };
        assert_eq!(recent.answers, BTreeMap::from([(lane(1).source, vec![answer])]));
        assert_eq!(
            store.recent_durations(1).await.unwrap().makings,
            BTreeMap::from([("other".into(), vec![second])])
        );
    }

    #[tokio::test]
    async fn the_last_decision_explains_an_open_task_and_goes_with_old_ones() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let task = accept(&store, new_task(lane(1), "t", 1)).await;
        assert_eq!(store.last_decision(task.id).await.unwrap(), None);
        let decision = |what, why: &str| DecisionRecord {
            at: NOW,
            what,
            why: why.into(),
            p: Some(0.25),
            gate: None,
            lane_price: Some(0.003),
            card_price: Some(f64::NAN),
        };
        store.decide(task.id, decision(Decided::Score, "a scorer is there")).await.unwrap();
        store.decide(task.id, decision(Decided::Retry, &"ü".repeat(600))).await.unwrap();
        let expected = DecisionRecord { card_price: None, ..decision(Decided::Retry, &"ü".repeat(500)) };
        assert_eq!(store.last_decision(task.id).await.unwrap().as_ref(), Some(&expected));

        let read = || Remembered::read(dir.path(), "devnet", crate::primitives::Netuid(17));
        let remembered = read().await.unwrap();
        assert_eq!(remembered.lanes[0].task.as_ref().unwrap().decision.as_ref(), Some(&expected));

        store.prune(at(100)).await.unwrap();
        assert!(store.last_decision(task.id).await.unwrap().is_some(), "the task is open");
        let ended = Settled { at: at(10), ..settled(task.id, Outcome::Empty) };
        store.finish(ended, lane(1), LaneRecord::default()).await.unwrap();
        store.prune(at(10)).await.unwrap();
        assert!(store.last_decision(task.id).await.unwrap().is_some(), "it ended at that moment");
        store.prune(at(11)).await.unwrap();
        assert_eq!(store.last_decision(task.id).await.unwrap(), None);
        let stranger = crate::primitives::LocalId::new(NOW, 99);
        assert!(store.decide(stranger, decision(Decided::Empty, "")).await.is_err());
    }

    /// The plans of the questions above, so that none of them reads the whole memory.
    #[tokio::test]
    async fn every_question_is_answered_from_an_index() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        for (sql, parameters) in [
            (ACCEPTED_SINCE, 1),
            (ACCEPTED_OF_LANE, 3),
            (CALIBRATION, 2),
            (JUDGED, 3),
            (ANSWERS, 1),
            (super::super::decisions::LAST, 1),
        ] {
            let plan = store
                .transaction(Durable::Process, move |tx| {
                    let mut statement = tx.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
                    let nothing = rusqlite::params_from_iter(std::iter::repeat_n(1, parameters));
                    let steps = statement.query_map(nothing, |row| row.get::<_, String>(3))?;
                    Ok(steps.collect::<Result<Vec<_>, _>>()?)
                })
                .await
                .unwrap();
            for step in plan {
                assert!(!step.contains("TEMP B-TREE"), "{sql}: {step}");
                // Only the newest few are taken: LIMIT ends the scan.
                let bounded = ["SCAN submissions", "SCAN s"].contains(&step.as_str());
                assert!(!step.contains("SCAN") || bounded, "{sql}: {step}");
            }
        }
    }
}
