//! What is kept, as the rest of the program sees it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::net::Timing;
use crate::primitives::{Hotkey, LocalId, Prompt, Score, Seed, SourceId, TaskId, Uid, UnixTime};
use crate::splat::Spz;

/// One hotkey at one source: what has a cooldown and at most one open task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneKey {
    pub source: SourceId,
    pub hotkey: Hotkey,
}

/// A task as it was assigned.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// Used if the task is new.
    pub id: LocalId,
    pub lane: LaneKey,
    pub task_id: TaskId,
    pub prompt: Prompt,
    /// Lowest score the source accepts.
    pub threshold: Score,
    /// Seconds that a generation may take for free.
    pub throttle_s: u64,
    /// By our clock.
    pub pulled_at: UnixTime,
}

/// A task on record.
#[derive(Debug, Clone)]
pub struct TaskRecord {
    pub id: LocalId,
    pub lane: LaneKey,
    pub task_id: TaskId,
    pub prompt: Prompt,
    pub threshold: Score,
    pub throttle_s: u64,
    pub pulled_at: UnixTime,
    /// Generations begun so far, finished or not.
    pub attempts: u32,
}

/// How far a task has come in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    Accepted,
    Generating,
    Kept,
    Scored,
    Intended,
    Sent,
    Booked,
    Declined,
}

impl Stage {
    /// Whether there is a result or an answer to go on with.
    pub const fn is_past_making(self) -> bool {
        !matches!(self, Self::Accepted | Self::Generating)
    }
}

/// What local judging said of a result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    Scored(Score),
    /// There is a scorer, and it gave no usable answer.
    NoVerdict,
    /// There is no scorer.
    Unscored,
}

impl Verdict {
    pub const fn score(self) -> Option<Score> {
        match self {
            Self::Scored(score) => Some(score),
            Self::NoVerdict | Self::Unscored => None,
        }
    }
}

/// A finished result that survives a restart.
#[derive(Debug, Clone)]
pub struct KeptResult {
    /// Nothing if the disk took no more: it is in memory alone.
    pub(crate) row: Option<i64>,
    pub attempt: u32,
    pub seed: Seed,
    pub spz: Arc<Spz>,
    pub verdict: Option<Verdict>,
}

impl KeptResult {
    pub fn score(&self) -> Option<Score> {
        self.verdict.and_then(Verdict::score)
    }
}

/// What goes back to the source.
#[derive(Debug, Clone)]
pub enum Answer {
    Result(KeptResult),
    /// Nothing, and why.
    Empty(String),
}

/// An open task with everything needed to go on with it.
#[derive(Debug, Clone)]
pub struct OpenTask {
    pub task: TaskRecord,
    pub stage: Stage,
    /// The best result that passes, else the newest, if one was kept.
    pub result: Option<KeptResult>,
    /// The answer that may have left already, and when it was last intended (our clock).
    pub answer: Option<(Answer, UnixTime)>,
}

/// What accepting a task found.
#[derive(Debug)]
pub enum Accepted {
    New(TaskRecord),
    /// The source gave its open task again.
    Known(OpenTask),
}

/// How a task ended at its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Accepted,
    /// Scored too low, or the signature was refused: the reply does not tell which.
    Low,
    /// The source's own scorer failed.
    ScorerFailed,
    /// Declined by us.
    Empty,
    /// Closed at the source, by which of our answers is not known.
    Settled,
    /// The source no longer knows it.
    Lost,
}

/// A source's feedback on one submission.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FeedbackRecord {
    pub uid: Option<Uid>,
    pub received_at: UnixTime,
    pub validation_failed: bool,
    pub score: Score,
    pub local_score: Option<Score>,
    pub average_score: Score,
    pub window_count: u64,
    pub duel_rating: f64,
    pub reward: f64,
    /// By the source's clock.
    pub cooldown_until: Option<UnixTime>,
}

/// The end of a task.
#[derive(Debug, Clone)]
pub struct Settled {
    pub task: LocalId,
    pub outcome: Outcome,
    /// Of our own, for an empty answer or a loss.
    pub reason: Option<String>,
    pub at: UnixTime,
    pub feedback: Option<FeedbackRecord>,
}

/// What is known of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LaneRecord {
    /// By the source's clock.
    pub cooldown_until: Option<UnixTime>,
    /// Least number of nanoseconds by which the source's clock is ahead of ours.
    pub clock_offset: Option<i64>,
    /// Accepted results in the last four hours, by the newest feedback.
    pub window_count: Option<u64>,
}

/// A splat with a known score, to ask a scorer whether it still judges.
#[derive(Debug, Clone)]
pub struct Canary {
    pub prompt: Prompt,
    pub spz: Arc<Spz>,
    pub score: Score,
}

/// Details of a result to keep, besides its bytes. Its parts follow one another: queue, hand-off,
/// generation, encoding.
#[derive(Debug, Clone)]
pub struct Making {
    pub attempt: u32,
    pub seed: Seed,
    /// The generator's name.
    pub worker: String,
    /// Waiting for the card, without the hand-off.
    pub queue: Duration,
    /// Making room on the card.
    pub handoff: Duration,
    /// From the request to the first byte of the answer; part of the generation.
    pub first_byte: Duration,
    /// From the grant of the card to the last byte.
    pub generation: Duration,
    /// Reading, encoding and checking.
    pub encoding: Duration,
    /// When it was ready.
    pub at: UnixTime,
}

/// Time that an attempt took, its parts one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// Waiting for the card, without the hand-off.
    pub waited: Duration,
    /// Moving others out of the card's memory.
    pub handoff: Duration,
    /// From the grant of the card to the last byte.
    pub generation: Duration,
}

/// An attempt that made nothing.
#[derive(Debug, Clone, Copy)]
pub struct FailedMaking {
    pub attempt: u32,
    pub spent: Spent,
    /// When it had failed.
    pub at: UnixTime,
}

/// How a submission travelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delivery {
    /// Bytes of the request's body.
    pub sent_bytes: u64,
    /// From the start of the call until the connection had taken the last byte, connecting included.
    pub upload: Option<Duration>,
    /// The validator: from then to the first byte of its reply.
    pub reply: Option<Duration>,
}

impl From<&Timing> for Delivery {
    fn from(timing: &Timing) -> Self {
        Self {
            sent_bytes: timing.sent_bytes,
            upload: timing.uploaded,
            reply: timing.uploaded.map(|uploaded| timing.first_byte.saturating_sub(uploaded)),
        }
    }
}

/// What was decided about a task at one point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decided {
    /// Have the result scored first.
    Score,
    /// Submit it by its score.
    Submit,
    /// Submit it without one.
    Unscored,
    /// Make another, with a new seed.
    Retry,
    /// Answer empty.
    Empty,
    /// Make a further candidate to choose from.
    Candidate,
}

/// A decision, with its reason and the numbers behind it, where there are any.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// By our clock.
    pub at: UnixTime,
    pub what: Decided,
    /// For people; kept to its first [`DecisionRecord::WHY_CHARS`] characters.
    pub why: String,
    /// Chance of being accepted, 0 to 1.
    pub p: Option<f64>,
    /// What it was compared with, 0 to 1.
    pub gate: Option<f64>,
    /// Accepted results per second of this lane's time.
    pub lane_price: Option<f64>,
    /// Accepted results per second of the card's time.
    pub card_price: Option<f64>,
}

impl DecisionRecord {
    /// Most characters kept of a reason.
    pub const WHY_CHARS: usize = 500;
}

macro_rules! named {
    ($type:ident, $what:literal, $($variant:ident = $name:literal),+ $(,)?) => {
        impl $type {
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        impl FromStr for $type {
            type Err = StoreError;
            fn from_str(text: &str) -> Result<Self, StoreError> {
                match text {
                    $($name => Ok(Self::$variant),)+
                    other => Err(StoreError::corrupt($what, other)),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

named!(
    Stage,
    "stage",
    Accepted = "accepted",
    Generating = "generating",
    Kept = "kept",
    Scored = "scored",
    Intended = "intended",
    Sent = "sent",
    Booked = "booked",
    Declined = "declined",
);

named!(
    Outcome,
    "outcome",
    Accepted = "accepted",
    Low = "low",
    ScorerFailed = "scorer-failed",
    Empty = "empty",
    Settled = "settled",
    Lost = "lost",
);

named!(
    Decided,
    "decision",
    Score = "score",
    Submit = "submit",
    Unscored = "unscored",
    Retry = "retry",
    Empty = "empty",
    Candidate = "candidate",
);
