//! The stages of one task, and which follows which.

use std::time::Duration;

use super::{Decision, ReplyMeaning, Settings, decide};
use crate::net::Backoff;
use crate::primitives::{Prompt, Score, UnixTime};
use crate::store::{Answer, KeptResult, OpenTask, Outcome, Stage, TaskRecord, Verdict};

/// Where a task stands, with what that stage has earned.
///
/// ```text
/// Open --kept--> Made --judged--> (decide) --submit--> Answering --settled--> Ended
///  ^  \                              |  \                 |   ^
///  |   `--failed for good---------------------empty------>'   | not settled
///  `---- failed, or judged too low --'                    `---'
/// ```
#[derive(Debug, Clone)]
pub enum TaskState {
    /// A candidate is to be made. `failed` have failed since this process took the task up.
    Open {
        failed: u32,
    },
    /// A result is kept and not judged.
    Made {
        failed: u32,
        result: KeptResult,
    },
    /// An answer is to be sent, not before `not_before` (our clock). `tries` have left so far.
    Answering {
        answer: Answer,
        tries: u32,
        not_before: UnixTime,
    },
    Ended {
        outcome: Outcome,
        reason: Option<String>,
    },
}

/// What happened to a task.
#[derive(Debug, Clone)]
pub enum Event {
    Kept(KeptResult),
    /// No candidate came of an attempt. `retryable`: another seed has a chance.
    Failed {
        reason: String,
        retryable: bool,
    },
    Judged {
        result: KeptResult,
        verdict: Verdict,
    },
    /// The source answered a submission, or did not, at a time of our clock.
    Replied {
        meaning: ReplyMeaning,
        at: UnixTime,
    },
}

/// What a state asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Make,
    Judge,
    Answer { not_before: UnixTime },
    Nothing,
}

impl TaskState {
    /// The state of a task newly pulled: some can only be declined.
    pub fn new(task: &TaskRecord, can_make: impl Fn(&Prompt) -> bool, settings: &Settings) -> Self {
        match reason_to_decline(&task.prompt, can_make, settings) {
            Some(reason) => Self::answering(Answer::Empty(reason)),
            None => Self::Open { failed: 0 },
        }
    }

    /// The state of a task found on record, by what its journal holds (see the store's table).
    pub fn resumed(open: OpenTask, can_make: impl Fn(&Prompt) -> bool, settings: &Settings) -> Self {
        match (open.stage, open.result, open.answer) {
            (Stage::Intended | Stage::Sent, _, Some((answer, intended_at))) => {
                Self::Answering { answer, tries: 1, not_before: after_lock(intended_at, settings) }
            }
            (Stage::Scored, Some(result), _) => match result.verdict {
                Some(verdict) => judged(result, verdict, 0, open.task.threshold, settings),
                None => Self::Made { failed: 0, result },
            },
            (Stage::Kept, Some(result), _) => Self::Made { failed: 0, result },
            _ => Self::new(&open.task, can_make, settings),
        }
    }

    fn answering(answer: Answer) -> Self {
        Self::Answering { answer, tries: 0, not_before: UnixTime::EPOCH }
    }

    pub fn step(&self) -> Step {
        match self {
            Self::Open { .. } => Step::Make,
            Self::Made { .. } => Step::Judge,
            Self::Answering { not_before, .. } => Step::Answer { not_before: *not_before },
            Self::Ended { .. } => Step::Nothing,
        }
    }
}

/// What cannot be answered with a result is declined before any GPU time is spent on it.
fn reason_to_decline(
    prompt: &Prompt,
    can_make: impl Fn(&Prompt) -> bool,
    settings: &Settings,
) -> Option<String> {
    if let Prompt::Text(text) = prompt {
        let chars = text.chars().count();
        if chars > settings.max_prompt_chars {
            return Some(format!("a prompt of {chars} characters cannot be scored"));
        }
    }
    (!can_make(prompt)).then(|| format!("no generator for {} tasks", prompt.kind()))
}

fn judged(
    result: KeptResult,
    verdict: Verdict,
    failed: u32,
    threshold: Score,
    settings: &Settings,
) -> TaskState {
    match decide(verdict, threshold, failed, settings) {
        Decision::Submit => TaskState::answering(Answer::Result(result)),
        Decision::TryAgain(_) => TaskState::Open { failed: failed + 1 },
        Decision::Empty(reason) => TaskState::answering(Answer::Empty(reason)),
    }
}

/// A second submission inside the validator's lock is ignored there (rules.md R4).
fn after_lock(sent: UnixTime, settings: &Settings) -> UnixTime {
    sent + settings.lock + Duration::from_secs(1)
}

/// The state after an event. Pure; an event that cannot happen in a state leaves it as it is.
pub fn advance(state: TaskState, event: Event, threshold: Score, settings: &Settings) -> TaskState {
    match (state, event) {
        (TaskState::Open { failed }, Event::Kept(result)) => TaskState::Made { failed, result },
        (TaskState::Open { failed }, Event::Failed { reason, retryable }) => {
            if retryable && failed < settings.max_retries {
                TaskState::Open { failed: failed + 1 }
            } else {
                TaskState::answering(Answer::Empty(reason))
            }
        }
        (TaskState::Made { failed, .. }, Event::Judged { result, verdict }) => {
            judged(result, verdict, failed, threshold, settings)
        }
        (TaskState::Answering { answer, tries, .. }, Event::Replied { meaning, at }) => {
            let tries = tries + 1;
            match meaning.outcome(&answer, tries) {
                Some(outcome) => {
                    let reason = match &answer {
                        Answer::Empty(reason) => Some(reason.clone()),
                        Answer::Result(_) => None,
                    };
                    TaskState::Ended { outcome, reason }
                }
                None => {
                    let wait = retry_wait(&meaning, tries);
                    TaskState::Answering {
                        answer,
                        tries,
                        not_before: after_lock(at, settings).max(at + wait),
                    }
                }
            }
        }
        (state, _) => state,
    }
}

/// How long an unsettled answer waits beyond the lock.
fn retry_wait(meaning: &ReplyMeaning, tries: u32) -> Duration {
    const OPEN: (u64, u64) = (1, 300);
    // A validator that does not know us yet looks at the chain every ten minutes (rules.md R1).
    const UNREGISTERED: (u64, u64) = (60, 600);
    let (min, max) = if matches!(meaning, ReplyMeaning::Unregistered) { UNREGISTERED } else { OPEN };
    Backoff::try_new(Duration::from_secs(min), Duration::from_secs(max))
        .map_or(Duration::from_secs(max), |backoff| backoff.after(tries))
}
