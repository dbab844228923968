//! What a source's reply means (the two tables of rules.md R8).

use crate::dendrite::{Answered, CallError};
use crate::primitives::UnixTime;
use crate::protocol::{Feedback, PullReply, SubmitReply, Task};
use crate::store::{Answer, Outcome};

/// What the answer to a pull means.
#[derive(Debug)]
pub enum PullMeaning {
    /// A task is ours.
    Assigned { task: Task, reply: Answered<PullReply> },
    /// None before `until` (the source's clock). Also what an unregistered hotkey gets: about an hour.
    Cooling { until: UnixTime, reply: Answered<PullReply> },
    /// No task and no time given.
    Nothing,
    /// The reply was lost or unreadable: a task may be assigned. Asking again soon is free.
    MaybeAssigned(CallError),
    /// Nothing was asked: no connection, or refused before the handler.
    Failed(CallError),
}

impl PullMeaning {
    pub fn read(result: Result<Answered<PullReply>, CallError>) -> Self {
        match result {
            Ok(reply) => match (&reply.reply.task, reply.reply.cooldown_until) {
                (Some(task), _) => Self::Assigned { task: task.clone(), reply },
                (None, Some(until)) => Self::Cooling { until, reply },
                (None, None) => Self::Nothing,
            },
            Err(error) if error.may_have_arrived() => Self::MaybeAssigned(error),
            Err(error) => Self::Failed(error),
        }
    }
}

/// What the answer to a submission means.
#[derive(Debug, Clone)]
pub enum ReplyMeaning {
    Accepted(Feedback),
    /// Scored too low or the signature was refused: the reply does not tell which.
    Low(Feedback),
    /// The source's own scorer failed: no blame.
    ScorerFailed(Feedback),
    /// An empty answer was booked.
    EmptyBooked(Feedback),
    /// Lock, wrong id or double guard: nothing changed, the task is still open.
    StillOpen(Feedback),
    /// No task is assigned: already booked, or the source lost its state.
    NoTask,
    /// The source does not know our hotkey.
    Unregistered,
    /// Nobody knows whether it was booked.
    Unknown(String),
}

impl ReplyMeaning {
    /// Reads the reply to a submission of `answer`.
    ///
    /// A reply whose cooldown does not lie ahead booked nothing: every booking sets a new one of at
    /// least C - T.
    pub fn read(result: &Result<Answered<SubmitReply>, CallError>, answer: &Answer) -> Self {
        let answered = match result {
            Ok(answered) => answered,
            Err(error) => return Self::of_error(error),
        };
        let Some(feedback) = answered.reply.feedback else {
            return Self::Unknown("the reply has no feedback".into());
        };
        // The source's clock as far as it is known; its `Date` is rounded down and may lag.
        let now = answered.date.unwrap_or(answered.timing.answered) + std::time::Duration::from_secs(2);
        let booked = answered.reply.cooldown_until.is_some_and(|until| until > now);
        if feedback.score.get() > 0.0 && matches!(answer, Answer::Result(_)) {
            Self::Accepted(feedback)
        } else if !booked {
            Self::StillOpen(feedback)
        } else if matches!(answer, Answer::Empty(_)) {
            Self::EmptyBooked(feedback)
        } else if feedback.validation_failed {
            Self::ScorerFailed(feedback)
        } else {
            Self::Low(feedback)
        }
    }

    fn of_error(error: &CallError) -> Self {
        if let CallError::Refused { status, message } = error
            && status.as_u16() == 403
        {
            let message = message.as_deref().unwrap_or_default().to_ascii_lowercase();
            if message.contains("no task assigned") || message.contains("not assigned") {
                return Self::NoTask;
            }
            return Self::Unregistered;
        }
        Self::Unknown(error.to_string())
    }

    /// How the task ended, if this reply ends it. `tries` counts this one.
    pub fn outcome(&self, answer: &Answer, tries: u32) -> Option<Outcome> {
        match self {
            Self::Accepted(_) => Some(Outcome::Accepted),
            Self::Low(_) => Some(Outcome::Low),
            Self::ScorerFailed(_) => Some(Outcome::ScorerFailed),
            Self::EmptyBooked(_) => Some(Outcome::Empty),
            // With an earlier try in doubt that one was booked; otherwise the source forgot the task.
            Self::NoTask if tries > 1 => Some(match answer {
                Answer::Result(_) => Outcome::Settled,
                Answer::Empty(_) => Outcome::Empty,
            }),
            Self::NoTask => Some(Outcome::Lost),
            Self::StillOpen(_) | Self::Unregistered | Self::Unknown(_) => None,
        }
    }

    pub fn feedback(&self) -> Option<&Feedback> {
        match self {
            Self::Accepted(f)
            | Self::Low(f)
            | Self::ScorerFailed(f)
            | Self::EmptyBooked(f)
            | Self::StillOpen(f) => Some(f),
            Self::NoTask | Self::Unregistered | Self::Unknown(_) => None,
        }
    }
}
