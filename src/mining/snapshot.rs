//! What the loop is doing, for whoever asks: a copy published now and then, never read back.

use serde::{Deserialize, Serialize};

use super::subnet::Standing;
use crate::primitives::{Hotkey, PromptKind, Uid, UnixTime};

/// The loop at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Snapshot {
    pub at: UnixTime,
    pub members: Vec<MemberSnapshot>,
    /// Tasks that have ended since the start.
    pub ended: u64,
    pub cards: Vec<CardSnapshot>,
    pub economy: EconomySnapshot,
    pub lanes: Vec<LaneSnapshot>,
}

/// One of our hotkeys.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MemberSnapshot {
    pub hotkey: Hotkey,
    pub standing: Standing,
    /// Nothing is pulled with it until then: another process seems to use it.
    pub paused_until: Option<UnixTime>,
}

/// A card and the workers on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CardSnapshot {
    pub card: String,
    pub generator: String,
    /// False while the generator refuses connections and nothing is pulled for it.
    pub reachable: bool,
    pub state: CardActivity,
}

/// What a card does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CardActivity {
    Idle,
    Generating,
    Scoring,
    /// Its generator refuses connections.
    Gone,
}

/// What decisions go by (rules.md R9).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EconomySnapshot {
    /// Accepted results that an hour of a lane is worth.
    pub lane_price_per_hour: f64,
    /// Accepted results that an hour of a card is worth.
    pub card_price_per_hour: f64,
    /// p*: probability of acceptance from which a result is worth submitting.
    pub gate: f64,
    /// K*: lanes that keep the cards busy.
    pub saturation: f64,
    /// Lanes that may be asked.
    pub lanes: usize,
    /// Probability that a candidate passes here.
    pub pass: f64,
    /// Accepted results per hour that this should come to.
    pub accepted_per_hour: f64,
    /// Whether the gate goes by pairs of local score and outcome.
    pub calibrated: bool,
}

/// One lane of the loop.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LaneSnapshot {
    /// Ours.
    pub hotkey: Hotkey,
    /// The validator's hotkey.
    pub validator: String,
    pub uid: Option<Uid>,
    pub address: String,
    /// When it may be asked next, by our clock.
    pub due: UnixTime,
    /// Accepted results in the last four hours, by its newest feedback.
    pub window_count: Option<u64>,
    /// Least number of milliseconds by which its clock is ahead of ours, if known.
    pub clock_ahead_ms: Option<i64>,
    /// Its open task, if there is one.
    pub task: Option<TaskSnapshot>,
    /// What was last decided here, and why.
    pub decision: Option<String>,
    /// It refuses good results and is asked once in four hours.
    pub demoted: bool,
    /// The chain no longer names it; only its open task is seen to.
    pub leaving: bool,
}

/// An open task.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskSnapshot {
    pub id: String,
    pub kind: PromptKind,
    pub pulled_at: UnixTime,
    /// "open", "made", "answering" or "ended".
    pub state: &'static str,
}
