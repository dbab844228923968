//! What the loop is doing, for whoever asks: a copy published at each turn, never read back.

use serde::Serialize;

use super::subnet::Standing;
use crate::primitives::{Hotkey, PromptKind, Uid, UnixTime};

/// The loop at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Snapshot {
    pub at: UnixTime,
    pub hotkey: Hotkey,
    pub standing: Standing,
    /// Tasks that have ended since the start.
    pub ended: u64,
    /// False while the generator refuses connections and nothing is pulled.
    pub generator_reachable: bool,
    pub lanes: Vec<LaneSnapshot>,
}

/// One lane of the loop.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LaneSnapshot {
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
