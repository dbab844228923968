//! What becomes of a candidate: score it or not, then submit, try again, or decline.

use std::time::Duration;

use super::Settings;
use super::best_of::BestOf;
use super::calibration::Calibration;
use super::prices::Prices;
use crate::primitives::Score;
use crate::store::{Decided, Verdict};

/// What to do with a result when the scorer gives no verdict (`decide.scorer_down`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScorerDown {
    /// Decline: costs the task, never a penalty.
    Empty,
    /// Submit unscored: a bad result costs the penalty.
    Submit,
    /// Submit when candidates pass often enough to be worth the penalty.
    Auto,
}

/// Whether results are submitted without being scored although there is a scorer
/// (`decide.unscored`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnscoredPolicy {
    Never,
    /// When validators are so many that their penalty costs less than the card's time.
    Auto,
    Always,
}

/// How many candidates of one task are made (`decide.candidates`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Candidates {
    /// As many as raise the rating by more than their time costs.
    Auto,
    Fixed(u32),
}

/// What a decision is taken on: the task's own figures and the present worth of time.
#[derive(Debug, Clone)]
pub struct Terms<'a> {
    pub settings: &'a Settings,
    pub prices: Prices,
    pub calibration: &'a Calibration,
    /// Probability that the candidate at hand passes, before its score is known.
    pub this_pass: f64,
    /// Probability that one more candidate of this task passes if that one does not.
    pub pass: f64,
    /// Candidates seen so far, over all tasks: below a score the probabilities are guesses.
    pub known: u64,
    pub threshold: Score,
    /// From the pull to the end of the validator's scoring if the task were answered now.
    pub elapsed: Duration,
    /// Seconds of a card that one more candidate takes, scored.
    pub candidate: Duration,
    /// From one task of the lane to the next.
    pub period: Duration,
    pub throttle: Duration,
    /// Tasks and due lanes that wait for a card.
    pub waiting: u32,
    /// Nothing else wants the card before a further candidate is done.
    pub card_is_free: bool,
}

impl Terms<'_> {
    /// Whether enough candidates were judged for probabilities to mean something.
    pub const fn is_known(&self) -> bool {
        self.known >= KNOWN
    }
}

/// Candidates that must have been judged before probabilities are trusted.
const KNOWN: u64 = 20;

/// What happens to a judged result.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    Submit(String),
    /// It passes; another one may be better.
    Another(String),
    /// Make another candidate with a new seed.
    TryAgain(String),
    Empty(String),
}

impl Decision {
    /// For the record.
    pub const fn what(&self) -> Decided {
        match self {
            Self::Submit(_) => Decided::Submit,
            Self::Another(_) => Decided::Candidate,
            Self::TryAgain(_) => Decided::Retry,
            Self::Empty(_) => Decided::Empty,
        }
    }

    pub fn reason(&self) -> &str {
        match self {
            Self::Submit(why) | Self::Another(why) | Self::TryAgain(why) | Self::Empty(why) => why,
        }
    }
}

/// Whether a fresh result goes out unscored, and why.
///
/// Scoring costs the card's time; not scoring costs the penalty whenever a bad result is sent. Where
/// the best mix does both, those that wait for the card decide, so that the mix comes about by itself.
pub fn skips_scoring(terms: &Terms<'_>) -> Option<String> {
    match terms.settings.unscored {
        UnscoredPolicy::Never => None,
        UnscoredPolicy::Always => Some("decide.unscored is \"always\"".into()),
        UnscoredPolicy::Auto if !terms.is_known() => None,
        UnscoredPolicy::Auto => terms.prices.skips_scoring(terms.waiting).then(|| {
            format!(
                "candidates pass at {:.0} % and {} wait for the card",
                100.0 * terms.this_pass,
                terms.waiting
            )
        }),
    }
}

/// Decides on a result.
///
/// The gate is the validator's threshold plus `gate_margin`: below it a submission costs the
/// penalty for certain, at it the same scorer passes it (rules.md R9, "Gate"). With enough pairs of
/// local score and outcome it is where the probability of acceptance is worth the penalty. `failed`
/// counts the candidates of this task that failed before this one, `passed` those that did not.
pub fn decide(verdict: Verdict, failed: u32, passed: u32, terms: &Terms<'_>) -> Decision {
    let score = match verdict {
        Verdict::Unscored => return Decision::Submit("not scored".into()),
        Verdict::NoVerdict => return without_verdict(terms),
        Verdict::Scored(score) => score,
    };
    match fails_gate(score, terms) {
        None => match wants_another(passed + 1, terms) {
            Some(why) => Decision::Another(format!("scored {score}; {why}")),
            None => Decision::Submit(format!("scored {score}")),
        },
        Some(why) if passed > 0 => Decision::Submit(format!("an earlier candidate passed; this one {why}")),
        Some(why) => retry_or_decline(&why, failed, terms),
    }
}

/// After a candidate that came to nothing.
pub fn retry_or_decline(why: &str, failed: u32, terms: &Terms<'_>) -> Decision {
    let max = terms.settings.max_retries;
    if failed >= max {
        return Decision::Empty(format!("{why}; {} candidates failed", failed + 1));
    }
    if !terms.is_known() || terms.prices.is_worth_another(terms.pass, terms.candidate, terms.waiting) {
        return Decision::TryAgain(format!("{why}; another passes at {:.0} %", 100.0 * terms.pass));
    }
    Decision::Empty(format!(
        "{why}; another passes at {:.0} % and its time is worth more elsewhere",
        100.0 * terms.pass
    ))
}

/// Whether a score is worth a submission.
pub fn passes(score: Score, terms: &Terms<'_>) -> bool {
    fails_gate(score, terms).is_none()
}

/// Why a score is not worth a submission.
fn fails_gate(score: Score, terms: &Terms<'_>) -> Option<String> {
    let gate = terms.calibration.gate(terms.threshold.get(), terms.prices.gate(terms.settings.penalty));
    (score.get() < gate).then(|| format!("scored {score}, below {gate:.4}"))
}

fn without_verdict(terms: &Terms<'_>) -> Decision {
    let submits = match terms.settings.scorer_down {
        ScorerDown::Submit => true,
        ScorerDown::Empty => false,
        ScorerDown::Auto => terms.is_known() && terms.this_pass > terms.prices.gate(terms.settings.penalty),
    };
    if submits {
        Decision::Submit("the scorer gave no verdict".into())
    } else {
        Decision::Empty("the scorer gave no verdict".into())
    }
}

/// Whether one more candidate is worth making after `passed` good ones.
fn wants_another(passed: u32, terms: &Terms<'_>) -> Option<String> {
    match terms.settings.candidates {
        Candidates::Fixed(wanted) => (passed < wanted).then(|| format!("candidate {passed} of {wanted}")),
        Candidates::Auto => {
            let worth = terms.card_is_free
                && terms.is_known()
                && BestOf::is_worth_another(
                    passed,
                    terms.elapsed,
                    terms.candidate,
                    terms.throttle,
                    terms.period,
                );
            worth.then(|| "a better one would win more duels than its time costs".to_owned())
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::mining::prices::Economy;
    use crate::mining::state::tests::settings;

    const S: fn(u64) -> Duration = Duration::from_secs;

    pub(in crate::mining) fn score(value: f64) -> Score {
        Score::new(value).unwrap()
    }

    /// The reference case of rules.md R9 with so many lanes on one card.
    pub(in crate::mining) fn economy(lanes: f64, pass: f64) -> Economy {
        Economy {
            lanes,
            cards: 1.0,
            cooldown: S(300),
            throttle: S(30),
            penalty: S(600),
            generating: S(30),
            scoring: S(10),
            answering: Duration::from_millis(4_750),
            pass: vec![pass],
            accepted: 1.0,
            max_retries: 3,
        }
    }

    pub(in crate::mining) fn terms<'a>(settings: &'a Settings, calibration: &'a Calibration) -> Terms<'a> {
        Terms {
            settings,
            prices: Prices::of(&economy(4.0, 0.8), false),
            calibration,
            this_pass: 0.8,
            pass: 0.8,
            known: 100,
            threshold: score(0.6),
            elapsed: S(45),
            candidate: S(40),
            period: S(315),
            throttle: S(30),
            waiting: 0,
            card_is_free: true,
        }
    }

    #[test]
    fn the_gate_is_the_threshold_and_the_margin_until_calibrated() {
        let (settings, calibration) = (settings(), Calibration::new([], 0.01));
        let terms = terms(&settings, &calibration);
        let outcome = |value: f64, failed| decide(Verdict::Scored(score(value)), failed, 0, &terms);
        assert!(matches!(outcome(0.61, 0), Decision::Submit(_)));
        assert!(matches!(outcome(0.6099, 0), Decision::TryAgain(_)));
        assert!(matches!(outcome(0.6099, settings.max_retries), Decision::Empty(_)));
        assert!(matches!(outcome(0.0, 0), Decision::TryAgain(_)));
    }

    #[test]
    fn a_silent_scorer_follows_the_setting_and_a_missing_one_submits() {
        let calibration = Calibration::new([], 0.01);
        let says = |scorer_down, verdict, known, pass| {
            let settings = Settings { scorer_down, ..settings() };
            let terms = Terms { known, this_pass: pass, pass: 0.1, ..terms(&settings, &calibration) };
            matches!(decide(verdict, 0, 0, &terms), Decision::Submit(_))
        };
        assert!(!says(ScorerDown::Empty, Verdict::NoVerdict, 100, 0.9));
        assert!(says(ScorerDown::Submit, Verdict::NoVerdict, 0, 0.1));
        assert!(says(ScorerDown::Auto, Verdict::NoVerdict, 100, 0.9));
        assert!(!says(ScorerDown::Auto, Verdict::NoVerdict, 100, 0.3));
        assert!(!says(ScorerDown::Auto, Verdict::NoVerdict, 3, 0.9));
        assert!(says(ScorerDown::Empty, Verdict::Unscored, 0, 0.1));
    }

    #[test]
    fn after_a_failure_the_card_goes_where_its_time_is_worth_more() {
        let (settings, calibration) = (settings(), Calibration::new([], 0.01));
        let says = |lanes, pass, waiting| {
            let prices = Prices::of(&economy(lanes, 0.8), false);
            let terms = Terms { prices, pass, waiting, ..terms(&settings, &calibration) };
            retry_or_decline("failed", 0, &terms)
        };
        // With card time to spare almost everything is tried again.
        assert!(matches!(says(3.0, 0.2, 0), Decision::TryAgain(_)));
        assert!(matches!(says(3.0, 0.05, 0), Decision::Empty(_)));
        // With lanes waiting, a prompt that looks harder than average is not.
        assert!(matches!(says(20.0, 0.6, 10), Decision::Empty(_)));
        assert!(matches!(says(20.0, 0.9, 10), Decision::TryAgain(_)));
    }

    #[test]
    fn results_go_out_unscored_only_where_it_pays() {
        let calibration = Calibration::new([], 0.01);
        let skips = |unscored, lanes, pass, waiting, known| {
            let settings = Settings { unscored, ..settings() };
            let prices = Prices::of(&economy(lanes, pass), true);
            skips_scoring(&Terms {
                prices,
                this_pass: pass,
                waiting,
                known,
                ..terms(&settings, &calibration)
            })
            .is_some()
        };
        assert!(!skips(UnscoredPolicy::Never, 20.0, 0.95, 9, 100));
        assert!(skips(UnscoredPolicy::Always, 2.0, 0.2, 0, 0));
        assert!(skips(UnscoredPolicy::Auto, 40.0, 0.95, 30, 100));
        assert!(!skips(UnscoredPolicy::Auto, 4.0, 0.95, 0, 100));
        assert!(!skips(UnscoredPolicy::Auto, 40.0, 0.95, 30, 3));
        // Where both are mixed, those that wait decide.
        assert!(skips(UnscoredPolicy::Auto, 10.0, 0.55, 9, 100));
        assert!(!skips(UnscoredPolicy::Auto, 10.0, 0.55, 0, 100));
    }

    #[test]
    fn further_candidates_are_made_as_told_or_as_they_pay() {
        let calibration = Calibration::new([], 0.01);
        let another = |candidates, passed, elapsed, card_is_free| {
            let settings = Settings { candidates, ..settings() };
            let terms = Terms {
                elapsed: S(elapsed),
                candidate: S(20),
                card_is_free,
                ..terms(&settings, &calibration)
            };
            matches!(decide(Verdict::Scored(score(0.9)), 0, passed, &terms), Decision::Another(_))
        };
        assert!(another(Candidates::Fixed(3), 1, 45, false));
        assert!(!another(Candidates::Fixed(3), 2, 45, true));
        assert!(another(Candidates::Auto, 0, 10, true));
        assert!(!another(Candidates::Auto, 0, 10, false));
        assert!(!another(Candidates::Auto, 0, 60, true));
    }

    #[test]
    fn what_passed_before_is_submitted_whatever_comes_later() {
        let (settings, calibration) = (settings(), Calibration::new([], 0.01));
        let terms = terms(&settings, &calibration);
        assert!(matches!(decide(Verdict::Scored(score(0.1)), 0, 1, &terms), Decision::Submit(_)));
    }
}
