//! The loop: pull tasks, have them made, judge them, answer them, remember what came back.
//!
//! What happens next is decided by pure functions ([`advance`], [`decide`], [`Roster::next`]); the
//! [`Miner`] owns all state and does the waiting, jobs do the work and report back. Every task that
//! was pulled ends answered at its source, empty if need be: an unanswered one blocks that source
//! for ever (rules.md R4).
//!
//! A *lane* is one hotkey at one source: it has a cooldown of its own and at most one open task. Lanes
//! go on side by side; the cards are what they share.

mod batches;
mod best_of;
mod calibration;
mod cards;
mod cooldowns;
mod crowding;
mod decide;
mod demotion;
mod dispatch;
mod economy;
mod filing;
mod guard;
mod jobs;
mod lane;
mod lead;
mod make;
mod meaning;
mod miner;
mod passing;
mod posterior;
mod prices;
mod rehearsal;
mod report;
mod room;
mod roster;
mod snapshot;
mod source;
mod state;
mod subnet;
mod tally;

use std::time::Duration;

pub use best_of::BestOf;
pub use calibration::{Calibration, Finding, ScorePair};
pub use cooldowns::{Cooldowns, cooldown_from_reply};
pub use decide::{Candidates, Decision, ScorerDown, UnscoredPolicy, decide};
pub use demotion::Acceptance;
pub use make::{Bench, Candidate, MakeError, Muse, SeedSource, Unmade, judge, make};
pub use meaning::{PullMeaning, ReplyMeaning};
pub use miner::{Budget, Finish, Member, Miner, MinerError, Setup};
pub use passing::Passing;
pub use prices::{Economy, Prices, Unscored};
pub use rehearsal::{Rehearsal, RehearsalError, rehearse};
pub use roster::{Prospect, Roster};
pub use snapshot::{
    CardActivity, CardSnapshot, EconomySnapshot, LaneSnapshot, MemberSnapshot, Snapshot, TaskSnapshot,
};
pub use source::{TaskSource, ValidatorSource};
pub use state::{Event, Step, TaskState, Tries, advance};
pub use subnet::{Admission, HotkeyRule, RuleError, Standing, Subnet};
pub use tally::Tally;

use crate::primitives::Hotkey;

/// The validators' rules as far as no reply shows them (`[rules]`), and our own choices (`[mining]`,
/// `[decide]`, `[shutdown]`).
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// C: from one task to the next, until a reply shows it.
    pub cooldown: Duration,
    /// T: what a task may take for free, until a reply shows it.
    pub throttle: Duration,
    /// P: added to C after a low result or a bad signature.
    pub penalty: Duration,
    /// How long a submission locks a task at the validator.
    pub lock: Duration,
    /// Added to the safe end of a cooldown before pulling.
    pub margin: Duration,
    /// Tasks pulled ahead of a free card when cards are the limit.
    pub stock: u32,
    /// Submissions under way at a time.
    pub max_submissions: usize,
    /// Longest text prompt that validators can score, in characters.
    pub max_prompt_chars: usize,
    /// `None`: as the chain says.
    pub owner_hotkey: Option<Hotkey>,
    /// Signs of another process with our key within an hour before we pause; 0: never.
    pub doppelganger_limit: u32,
    /// Added to the validator's threshold.
    pub gate_margin: f64,
    /// Further candidates after one that fails.
    pub max_retries: u32,
    pub candidates: Candidates,
    pub scorer_down: ScorerDown,
    pub unscored: UnscoredPolicy,
    /// Time to finish after the order to stop.
    pub grace: Duration,
    /// How long stored results of settled tasks are kept.
    pub keep_results: Duration,
}
