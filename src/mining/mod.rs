//! The loop: pull a task, have it made, judge it, answer it, remember what came back.
//!
//! What happens next is decided by pure functions ([`advance`], [`decide`], [`Roster::next`]); the
//! [`Miner`] does the waiting. Every task that was pulled ends answered at its source, empty if need
//! be: an unanswered one blocks that source for ever (rules.md R4).
//!
//! Limits: one hotkey, one card, one task at a time.

mod cooldowns;
mod decide;
mod lane;
mod lead;
mod make;
mod meaning;
mod miner;
mod report;
mod roster;
mod snapshot;
mod source;
mod state;
mod subnet;
mod work;

use std::time::Duration;

pub use cooldowns::{Cooldowns, cooldown_from_reply};
pub use decide::{Decision, ScorerDown, decide};
pub use make::{Bench, Candidate, MakeError, SeedSource, judge, make};
pub use meaning::{PullMeaning, ReplyMeaning};
pub use miner::{Budget, Finish, Miner, MinerError, Setup};
pub use roster::{Due, Roster};
pub use snapshot::{LaneSnapshot, Snapshot, TaskSnapshot};
pub use source::{TaskSource, ValidatorSource};
pub use state::{Event, Step, TaskState, advance};
pub use subnet::{Admission, HotkeyRule, RuleError, Standing, Subnet};

/// The validators' rules as far as no reply shows them (`[rules]`), and our own choices (`[mining]`,
/// `[decide]`).
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// C: from one task to the next.
    pub cooldown: Duration,
    /// How long a submission locks a task at the validator.
    pub lock: Duration,
    /// Added to the safe end of a cooldown before pulling.
    pub margin: Duration,
    /// Longest text prompt that validators can score, in characters.
    pub max_prompt_chars: usize,
    /// Added to the validator's threshold.
    pub gate_margin: f64,
    /// Further candidates after one that fails.
    pub max_retries: u32,
    pub scorer_down: ScorerDown,
    /// How long stored results of settled tasks are kept.
    pub keep_results: Duration,
}
