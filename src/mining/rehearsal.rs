//! One round of a card's work with nobody to submit to: the self-test of a hand-off.
//!
//! It takes the same way as a task, by the same leases, so that it can be run beside a mining agent and
//! waits for its turn. Unlike a task its scoring must come to a score: a scorer that answers all zeros
//! after it was brought back is what the test is there to find (workers.md section 3).

use std::time::Duration;

use super::make::{Bench, Unmade, judge, make};
use crate::primitives::{LocalId, Prompt, Score, Seed};
use crate::store::{Store, StoreError, Verdict};

/// What a round took.
#[derive(Debug, Clone, PartialEq)]
pub struct Rehearsal {
    /// In the queue for the card.
    pub waited: Duration,
    /// Others out of the generator's way, proof included.
    pub unloading: Duration,
    /// From the grant of the card to the last byte.
    pub generation: Duration,
    /// The scorer's turn: in the queue, back on the card with proof and canary, scored.
    pub scoring: Duration,
    /// `None`: there is no scorer.
    pub score: Option<Score>,
    /// Size of what would be submitted.
    pub spz_bytes: usize,
}

/// Why a round failed.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    #[error(transparent)]
    Make(#[from] Unmade),
    #[error("the scorer gave no verdict")]
    NoVerdict,
    #[error("the scorer gave 0 to a splat that keeps the data rules")]
    Zero,
    #[error("the store: {0}")]
    Store(#[from] StoreError),
}

/// Generates and scores once.
///
/// # Errors
/// See [`RehearsalError`]. The card is given back in any case.
pub async fn rehearse(
    bench: &Bench,
    store: Option<&Store>,
    round: &LocalId,
    prompt: &Prompt,
    seed: Seed,
) -> Result<Rehearsal, RehearsalError> {
    let candidate = make(bench, round, prompt, seed, Duration::ZERO, false).await?;
    let began = tokio::time::Instant::now();
    let score = match judge(bench, store, round, prompt, &candidate.spz).await? {
        Verdict::Scored(Score::ZERO) => return Err(RehearsalError::Zero),
        Verdict::Scored(score) => Some(score),
        Verdict::Unscored => None,
        Verdict::NoVerdict => return Err(RehearsalError::NoVerdict),
    };
    Ok(Rehearsal {
        waited: candidate.spent.waited,
        unloading: candidate.spent.handoff,
        generation: candidate.spent.generation,
        scoring: began.elapsed(),
        score,
        spz_bytes: candidate.spz.as_bytes().len(),
    })
}
