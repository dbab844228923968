//! The lines operators look for (answers.md, "The three log lines"): their words are an interface.

use std::time::Duration;

use crate::primitives::{CardId, LocalId, Prompt, Score, Uid, Untrusted};
use crate::protocol::Feedback;
use crate::store::Outcome;

/// A generation may begin.
pub fn acquired(waited: Duration, worker: &str, card: &CardId, task: &LocalId) {
    let card: String = card.uuid.chars().take(8).collect();
    tracing::info!(
        "Acquired generation lock after {:.2}s. worker={worker} card={card} task={}",
        waited.as_secs_f64(),
        task.short()
    );
}

/// A generation is complete. `held`: from the grant of the card to the last byte.
pub fn total_time(
    held: Duration,
    waited: Duration,
    handoff: Duration,
    first_byte: Duration,
    worker: &str,
    task: &LocalId,
) {
    tracing::info!(
        "Total time: {:.2}s. queue {:.2}s, hand-off {:.2}s, first byte {:.2}s. worker={worker} task={}",
        held.as_secs_f64(),
        waited.as_secs_f64(),
        handoff.as_secs_f64(),
        first_byte.as_secs_f64(),
        task.short()
    );
}

/// A validator answered a submission.
pub fn feedback(
    uid: Option<Uid>,
    outcome: Outcome,
    feedback: &Feedback,
    local: Option<Score>,
    next_pull: Duration,
    task: &LocalId,
    prompt: &Prompt,
) {
    let uid = uid.map_or_else(|| "?".into(), |u| u.to_string());
    let score = match outcome {
        Outcome::Empty => "empty".into(),
        _ if feedback.validation_failed => "failed".into(),
        _ => feedback.score.to_string(),
    };
    let local = local.map_or_else(|| "none".into(), |s| s.to_string());
    tracing::info!(
        "Feedback from [{uid}] Score: {score}. Local: {local}. Average score: {}. Current duel rating: {:.1}. \
         Accepted results (last 4h): {}. Reward: {:.1}. Next pull in {:.0}s. outcome={outcome} task={} ({})",
        feedback.average_score,
        feedback.duel_rating,
        feedback.window_count,
        feedback.reward,
        next_pull.as_secs_f64(),
        task.short(),
        Untrusted::prompt(prompt)
    );
}
