//! Submit, try again, or decline.

use super::Settings;
use crate::primitives::Score;
use crate::store::Verdict;

/// What to do with a result when the scorer gives no verdict (`decide.scorer_down`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScorerDown {
    /// Decline: costs the task, never a penalty.
    Empty,
    /// Submit unscored: a bad result costs the penalty.
    Submit,
}

/// What happens to a judged result.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    Submit,
    /// Make another candidate with a new seed.
    TryAgain(String),
    Empty(String),
}

/// Decides on a result.
///
/// The gate is the validator's threshold plus `gate_margin`: below it a submission costs the
/// penalty for certain, at it the same scorer passes it (rules.md R9, "Gate"). `failed` counts the
/// candidates of this task that failed before this one.
pub fn decide(verdict: Verdict, threshold: Score, failed: u32, settings: &Settings) -> Decision {
    match verdict {
        Verdict::Unscored => Decision::Submit,
        Verdict::Scored(score) => {
            let gate = threshold.get() + settings.gate_margin;
            if score.get() >= gate {
                return Decision::Submit;
            }
            let reason = format!("scored {score}, below {gate:.4}");
            if failed < settings.max_retries { Decision::TryAgain(reason) } else { Decision::Empty(reason) }
        }
        Verdict::NoVerdict => match settings.scorer_down {
            ScorerDown::Submit => Decision::Submit,
            ScorerDown::Empty => Decision::Empty("the scorer gave no verdict".into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mining::state::tests::settings;

    fn score(value: f64) -> Score {
        Score::new(value).unwrap()
    }

    #[test]
    fn the_gate_is_the_threshold_and_the_margin() {
        let threshold = score(0.6);
        let outcome =
            |value: f64, failed| decide(Verdict::Scored(score(value)), threshold, failed, &settings());
        assert_eq!(outcome(0.61, 0), Decision::Submit);
        assert!(matches!(outcome(0.6099, 0), Decision::TryAgain(_)));
        assert!(matches!(outcome(0.6099, 1), Decision::Empty(_)));
        assert!(matches!(outcome(0.0, 0), Decision::TryAgain(_)));
    }

    #[test]
    fn a_silent_scorer_follows_the_setting_and_a_missing_one_submits() {
        let submit = Settings { scorer_down: ScorerDown::Submit, ..settings() };
        assert!(matches!(decide(Verdict::NoVerdict, score(0.6), 0, &settings()), Decision::Empty(_)));
        assert_eq!(decide(Verdict::NoVerdict, score(0.6), 0, &submit), Decision::Submit);
        assert_eq!(decide(Verdict::Unscored, score(0.6), 0, &settings()), Decision::Submit);
    }
}
