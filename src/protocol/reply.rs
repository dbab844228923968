//! Reading what a validator answers, all of it hostile until read.

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::lenient;
use super::synapse::{WireFeedback, WireTask};
use crate::primitives::{Prompt, PromptKind, QuantityError, Score, TaskId, TaskIdError, UnixTime};

/// A reply of status 200 cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    #[error("the reply is no synapse: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the task cannot be answered: {0}")]
    TaskId(#[from] TaskIdError),
    #[error("the feedback cannot be used: {0}")]
    Score(#[from] QuantityError),
}

/// A task as assigned.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    pub id: TaskId,
    pub prompt: Prompt,
}

impl TryFrom<WireTask> for Task {
    type Error = TaskIdError;
    fn try_from(task: WireTask) -> Result<Self, TaskIdError> {
        let kind = match task.kind.as_str() {
            "text" => PromptKind::Text,
            "image" => PromptKind::Image,
            _ => PromptKind::Other,
        };
        Ok(Self { id: TaskId::new(&task.id)?, prompt: Prompt::new(kind, &task.prompt) })
    }
}

/// What matters in the answer to a pull.
#[derive(Debug, Clone, PartialEq)]
pub struct PullReply {
    pub task: Option<Task>,
    /// Lowest score this validator accepts.
    pub threshold: Score,
    /// Seconds that a generation may take for free (rules.md R2).
    pub throttle_s: u64,
    /// By the validator's clock; `None` when the reply gives none.
    pub cooldown_until: Option<UnixTime>,
    pub violations: u64,
}

/// What a validator says of a submission.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Feedback {
    /// The validator's own scorer failed: no blame, no observation.
    pub validation_failed: bool,
    /// 0 for everything that was not accepted, whatever its real score (rules.md R4).
    pub score: Score,
    pub average_score: Score,
    /// Accepted results in the last four hours.
    pub window_count: u64,
    pub duel_rating: f64,
    pub reward: f64,
}

/// What matters in the answer to a submission.
#[derive(Debug, Clone, PartialEq)]
pub struct SubmitReply {
    /// Missing when the handler answered without judging.
    pub feedback: Option<Feedback>,
    /// By the validator's clock; `None` when the reply gives none.
    pub cooldown_until: Option<UnixTime>,
}

#[derive(Deserialize)]
struct RawPull<'a> {
    /// Taken apart on its own: a mistyped value is quoted whole by the error about it, and a text in
    /// the place of a task may be as long as the reply.
    #[serde(default, borrow)]
    task: Option<&'a RawValue>,
    #[serde(default = "default_threshold", deserialize_with = "lenient::number")]
    validation_threshold: f64,
    #[serde(default, deserialize_with = "lenient::whole")]
    throttle_period: u64,
    #[serde(default, deserialize_with = "lenient::whole_up")]
    cooldown_until: u64,
    #[serde(default, deserialize_with = "lenient::whole")]
    cooldown_violations: u64,
}

fn default_threshold() -> f64 {
    0.6
}

#[derive(Deserialize)]
struct RawSubmit {
    #[serde(default)]
    feedback: Option<WireFeedback>,
    #[serde(default, deserialize_with = "lenient::whole_up")]
    cooldown_until: u64,
}

/// Largest score that is told from any other: the formula of workers.md 2.4 stays below 1.4.
const MAX_SCORE: f64 = 2.0;

/// A day: no generation is for free for longer.
const MAX_THROTTLE_S: u64 = 86_400;

/// Ratings are held between 0 and 3000 by the validators (rules.md R7).
const MAX_RATING: f64 = 1e6;

/// The accepted results of four hours, times the rating.
const MAX_REWARD: f64 = 1e12;

/// A number held within 0 and `max`: nobody means more by it, and a line of log does not grow by it.
fn held(value: f64, max: f64) -> Result<Score, QuantityError> {
    Score::new(Score::new(value)?.get().clamp(0.0, max))
}

fn cooldown(seconds: u64) -> Option<UnixTime> {
    (seconds > 0).then(|| UnixTime::from_secs(seconds))
}

impl PullReply {
    /// Reads the body of a 200 reply.
    ///
    /// # Errors
    /// When it is no JSON object of the right shape, or holds a task that cannot be answered.
    pub fn read(body: &[u8]) -> Result<Self, ReplyError> {
        let raw: RawPull<'_> = object(body)?;
        let task = raw.task.map(|task| object::<WireTask>(task.get().as_bytes())).transpose()?;
        Ok(Self {
            task: task.map(Task::try_from).transpose()?,
            threshold: held(raw.validation_threshold, MAX_SCORE)?,
            throttle_s: raw.throttle_period.min(MAX_THROTTLE_S),
            cooldown_until: cooldown(raw.cooldown_until),
            violations: raw.cooldown_violations,
        })
    }
}

impl SubmitReply {
    /// Reads the body of a 200 reply.
    ///
    /// # Errors
    /// When it is no JSON object of the right shape, or its scores are no numbers.
    pub fn read(body: &[u8]) -> Result<Self, ReplyError> {
        let raw: RawSubmit = object(body)?;
        let feedback = raw
            .feedback
            .map(|f| {
                Ok::<_, QuantityError>(Feedback {
                    validation_failed: f.validation_failed,
                    score: held(f.task_fidelity_score, MAX_SCORE)?,
                    average_score: held(f.average_fidelity_score, MAX_SCORE)?,
                    window_count: f.generations_within_the_window,
                    duel_rating: held(f.current_duel_rating, MAX_RATING)?.get(),
                    reward: held(f.current_miner_reward, MAX_REWARD)?.get(),
                })
            })
            .transpose()?;
        Ok(Self { feedback, cooldown_until: cooldown(raw.cooldown_until) })
    }
}

/// A derived reader would also take an array; a synapse is an object.
fn object<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, serde_json::Error> {
    if body.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Err(serde::de::Error::custom("not a JSON object"));
    }
    serde_json::from_slice(body)
}

/// The `message` of an axon's error reply, if it has one.
pub fn error_message(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Message {
        #[serde(default, deserialize_with = "text_or_nothing")]
        message: Option<String>,
    }
    fn text_or_nothing<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Any {
            Text(String),
            Other(IgnoredAny),
        }
        Ok(match Any::deserialize(deserializer)? {
            Any::Text(text) => Some(text),
            Any::Other(_) => None,
        })
    }
    object::<Message>(body).ok()?.message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_read() {
        let body = br#"{"name":"PullTask","task":{"type":"text","id":"11","prompt":"a red cube"},
            "validation_threshold":0.6,"throttle_period":20,"cooldown_until":1234,"cooldown_violations":0}"#;
        let reply = PullReply::read(body).unwrap();
        let task = reply.task.unwrap();
        assert_eq!((task.id.as_str(), task.prompt.as_wire()), ("11", "a red cube"));
        assert_eq!(reply.cooldown_until, Some(UnixTime::from_secs(1234)));
        assert_eq!(reply.throttle_s, 20);
    }

    #[test]
    fn a_task_of_an_unknown_kind_can_still_be_declined() {
        for kind in [r#""type":"video","#, ""] {
            let body = format!(r#"{{"task":{{{kind}"id":"1","prompt":"p"}}}}"#);
            let task = PullReply::read(body.as_bytes()).unwrap().task.unwrap();
            assert_eq!(task.prompt, Prompt::Other("p".into()));
        }
    }

    #[test]
    fn no_task_and_no_cooldown_are_both_absent() {
        let reply = PullReply::read(br#"{"task":null,"cooldown_until":0}"#).unwrap();
        assert!(reply.task.is_none() && reply.cooldown_until.is_none());
        let reply = PullReply::read(br#"{"cooldown_until":-3}"#).unwrap();
        assert!(reply.cooldown_until.is_none());
    }

    #[test]
    fn unusable_replies_are_errors() {
        let deep = format!("{{\"task\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let long_id = format!(r#"{{"task":{{"type":"text","id":"{}","prompt":"p"}}}}"#, "x".repeat(300));
        for bad in [
            "",
            "[]",
            "null",
            "\"text\"",
            "<html>",
            "{",
            &deep,
            &long_id,
            r#"{"task":{"type":"text","prompt":"p"}}"#,
            r#"{"task":{"type":"text","id":"","prompt":"p"}}"#,
            r#"{"task":{"type":"text","id":7,"prompt":"p"}}"#,
            r#"{"task":"yes"}"#,
            r#"{"validation_threshold":"high"}"#,
        ] {
            assert!(PullReply::read(bad.as_bytes()).is_err(), "{}", &bad[..bad.len().min(60)]);
        }
        assert!(PullReply::read(b"{\"task\":{\"type\":\"text\",\"id\":\"\xff\",\"prompt\":\"p\"}}").is_err());
    }

    #[test]
    fn feedback_is_read_and_bounded() {
        let body = br#"{"feedback":{"validation_failed":false,"task_fidelity_score":0.8,"average_fidelity_score":0.5,
            "generations_within_the_window":3,"current_duel_rating":1500.5,"current_miner_reward":12},"cooldown_until":99}"#;
        let reply = SubmitReply::read(body).unwrap();
        let feedback = reply.feedback.unwrap();
        assert_eq!((feedback.score.get(), feedback.window_count, feedback.reward), (0.8, 3, 12.0));
        for bad in ["NaN", "1e999", "null", "[]", "\"good\""] {
            let body = format!(r#"{{"feedback":{{"task_fidelity_score":{bad}}}}}"#);
            assert!(SubmitReply::read(body.as_bytes()).is_err(), "{bad}");
        }
        assert!(SubmitReply::read(br#"{"feedback":null}"#).unwrap().feedback.is_none());
    }

    #[test]
    fn numbers_out_of_range_are_held_at_its_ends() {
        let pulled = |threshold: &str| {
            let body = format!(r#"{{"validation_threshold":{threshold}}}"#);
            PullReply::read(body.as_bytes()).unwrap().threshold.get()
        };
        assert_eq!((pulled("-5"), pulled("1e308"), pulled("0.61")), (0.0, 2.0, 0.61));
        let throttle = |seconds: &str| {
            let body = format!(r#"{{"throttle_period":{seconds}}}"#);
            PullReply::read(body.as_bytes()).unwrap().throttle_s
        };
        assert_eq!((throttle("-5"), throttle("0"), throttle("1e308"), throttle("30.5")), (0, 0, 86_400, 30));
        let body = br#"{"feedback":{"task_fidelity_score":7e200,"average_fidelity_score":-1,
            "current_duel_rating":1e300,"current_miner_reward":1e300}}"#;
        let feedback = SubmitReply::read(body).unwrap().feedback.unwrap();
        assert_eq!((feedback.score.get(), feedback.average_score.get()), (2.0, 0.0));
        assert_eq!((feedback.duel_rating, feedback.reward), (1e6, 1e12));
    }

    #[test]
    fn a_cooldown_that_ends_within_a_second_ends_with_it() {
        let until = PullReply::read(br#"{"cooldown_until":1234.2}"#).unwrap().cooldown_until;
        assert_eq!(until, Some(UnixTime::from_secs(1235)));
    }

    #[test]
    fn a_text_in_the_place_of_a_task_is_not_quoted() {
        let body = format!(r#"{{"task":"{}"}}"#, "\u{7f}".repeat(1 << 20));
        let error = PullReply::read(body.as_bytes()).unwrap_err().to_string();
        assert!(error.len() < 200, "{} bytes", error.len());
    }

    #[test]
    fn the_message_of_an_error_is_found() {
        assert_eq!(
            error_message(br#"{"message":"Forbidden. Key is blacklisted: x."}"#).unwrap(),
            "Forbidden. Key is blacklisted: x."
        );
        for none in ["", "{}", "[]", r#"{"message":5}"#, "<html>"] {
            assert_eq!(error_message(none.as_bytes()), None, "{none}");
        }
    }
}
