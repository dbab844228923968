//! What a source's reply means (the two tables of rules.md R8).

use crate::dendrite::{Answered, CallError};
use crate::primitives::{UnixTime, Untrusted};
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
    /// least C - T. That may be nothing, but never ends before C after the pull, as the one before the
    /// pull had; `pulled`: when that was by the source's clock at the latest, where that is known.
    pub fn read(
        result: &Result<Answered<SubmitReply>, CallError>,
        answer: &Answer,
        pulled: Option<UnixTime>,
    ) -> Self {
        let answered = match result {
            Ok(answered) => answered,
            Err(error) => return Self::of_error(error),
        };
        let Some(feedback) = answered.reply.feedback else {
            return Self::Unknown("the reply has no feedback".into());
        };
        // The source's clock as far as it is known; its `Date` is rounded down and may lag.
        let now = answered.date.unwrap_or(answered.timing.answered) + std::time::Duration::from_secs(2);
        let is_new = |until: UnixTime| until > now || pulled.is_some_and(|pulled| until > pulled);
        let booked = answered.reply.cooldown_until.is_some_and(is_new);
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
        Self::Unknown(Untrusted::error(&error.to_string()).to_string())
    }

    /// Whether the submission may have been booked, or the task taken from us for want of
    /// registration, although nothing is settled.
    pub const fn leaves_doubt(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::Unregistered)
    }

    /// How the task ended, if this reply ends it. `in_doubt`: an earlier try may have been booked.
    pub fn outcome(&self, answer: &Answer, in_doubt: bool) -> Option<Outcome> {
        match self {
            Self::Accepted(_) => Some(Outcome::Accepted),
            Self::Low(_) => Some(Outcome::Low),
            Self::ScorerFailed(_) => Some(Outcome::ScorerFailed),
            Self::EmptyBooked(_) => Some(Outcome::Empty),
            // That one was booked; otherwise the source forgot the task, or somebody else answered it.
            Self::NoTask if in_doubt => Some(match answer {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;

    use super::*;
    use crate::mining::state::tests::kept;
    use crate::net::{NetError, Timing};
    use crate::primitives::Score;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn read(score: f64, failed: bool, cooldown_s: Option<i64>, empty: bool) -> ReplyMeaning {
        let zero = Score::ZERO;
        let feedback = Feedback {
            validation_failed: failed,
            score: Score::new(score).unwrap(),
            average_score: zero,
            window_count: 0,
            duel_rating: 0.0,
            reward: 0.0,
        };
        let cooldown_until = cooldown_s.map(|s| NOW.shifted(i128::from(s) * 1_000_000_000));
        let timing = Timing {
            sent: NOW,
            begun: tokio::time::Instant::now(),
            answered: NOW,
            sent_bytes: 0,
            uploaded: None,
            first_byte: Duration::ZERO,
            total: Duration::ZERO,
        };
        let reply = SubmitReply { feedback: Some(feedback), cooldown_until };
        let answer = if empty { Answer::Empty("x".into()) } else { Answer::Result(kept(None)) };
        // Pulled a minute ago.
        let pulled = Some(NOW - Duration::from_secs(60));
        ReplyMeaning::read(&Ok(Answered { reply, timing, date: Some(NOW) }), &answer, pulled)
    }

    #[test]
    fn each_row_of_the_table_is_told_apart() {
        use ReplyMeaning as M;
        assert!(matches!(read(0.8, false, Some(270), false), M::Accepted(_)));
        assert!(matches!(read(0.0, false, Some(870), false), M::Low(_)));
        assert!(matches!(read(0.0, true, Some(270), false), M::ScorerFailed(_)));
        assert!(matches!(read(0.0, false, Some(270), true), M::EmptyBooked(_)));
        // C - T may be nothing: then the cooldown is over at once, and still a new one.
        assert!(matches!(read(0.0, false, Some(1), false), M::Low(_)));
        assert!(matches!(read(0.0, false, Some(-2), true), M::EmptyBooked(_)));
        // Lock, wrong id, double guard: the cooldown is the old one, or none.
        assert!(matches!(read(0.0, false, Some(-60), false), M::StillOpen(_)));
        assert!(matches!(read(0.0, false, None, false), M::StillOpen(_)));
        assert!(matches!(read(0.0, false, None, true), M::StillOpen(_)));
    }

    fn refused(status: u16, message: Option<&str>) -> ReplyMeaning {
        let status = StatusCode::from_u16(status).unwrap();
        let error = CallError::Refused { status, message: message.map(str::to_owned) };
        ReplyMeaning::read(&Err(error), &Answer::Empty("x".into()), None)
    }

    #[test]
    fn refusals_are_told_apart_by_their_message() {
        let forbidden = "Forbidden. Key is blacklisted: ";
        let no_task =
            format!("{forbidden}[3] submitted results while having no task assigned. It could happen.");
        assert!(matches!(refused(403, Some(&no_task)), ReplyMeaning::NoTask));
        assert!(matches!(
            refused(403, Some(&format!("{forbidden}Unrecognized hotkey 5X."))),
            ReplyMeaning::Unregistered
        ));
        assert!(matches!(refused(403, None), ReplyMeaning::Unregistered));
        assert!(matches!(refused(500, Some("Internal Server Error")), ReplyMeaning::Unknown(_)));
        assert!(matches!(refused(401, None), ReplyMeaning::Unknown(_)));
    }

    #[test]
    fn a_lost_reply_and_an_unreachable_validator_are_not_the_same() {
        let lost = CallError::Net(NetError::TotalTimeout(Duration::from_secs(12)));
        assert!(matches!(PullMeaning::read(Err(lost)), PullMeaning::MaybeAssigned(_)));
        let down = CallError::Net(NetError::Connect("refused".into()));
        assert!(matches!(PullMeaning::read(Err(down)), PullMeaning::Failed(_)));
    }
}
