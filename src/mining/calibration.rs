//! How likely a validator accepts a result, learned from (local score, accepted) pairs (rules.md R9,
//! "Gate").
//!
//! With the validator's version of the scorer that jumps from 0 to 1 at its threshold; with another one
//! it rises more slowly, or later. The estimate rises with the score by construction: an accepted
//! result speaks for every better one, a refused result against every worse one, and both for their
//! close neighbours. Without pairs it is the jump, a margin above the threshold.
//!
//! Below the threshold nothing is submitted, whatever the pairs say: a refusal is certain there as far
//! as anybody knows. And nothing raises the gate by more than [`CLEAR`]: a validator that refuses
//! clearly good results has another scorer or does not like our signature, which is an alarm
//! ([`Finding`]) and no reason to make better results.
//!
//! Limits: one curve for all validators, by the distance from each one's threshold; pairs do not age
//! here, the caller passes the newest.

use super::posterior::certainty_below;

/// This far above the threshold a result is clearly good.
pub const CLEAR: f64 = 0.1;

/// Pairs looked at, the newest.
const MOST_PAIRS: usize = 400;

/// Pairs less than [`CLEAR`] from the threshold that make a curve of our own worth more than the margin.
const CALIBRATED: usize = 20;

/// Neighbours are about this far away: the width of the kernel.
const WIDTH: f64 = 0.02;

/// What is thought of a result before any pair: at the margin or above, and just below the threshold.
const GOOD: f64 = 0.98;
const BAD: f64 = 0.02;

/// Pairs that this first thought counts for.
const PRIOR_WEIGHT: f64 = 4.0;

/// Clearly good results looked at for a finding, the newest, and how many it takes.
const RECENT: usize = 20;
const LEAST_RECENT: u32 = 5;

/// What our scorer said of a submitted result, and what the validator did with it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScorePair {
    pub local: f64,
    /// The validator's, at the time.
    pub threshold: f64,
    pub accepted: bool,
}

/// What the pairs say about something else than the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Of the `good` newest results that were clearly good here, so many were refused: more than half
    /// of such results are, with 95 % certainty. The signature or the scorer's version is wrong.
    GoodHereRejectedThere { good: u32, rejected: u32 },
}

/// The probability of being accepted, by local score.
#[derive(Debug, Clone)]
pub struct Calibration {
    /// Scores above the threshold, with whether they were accepted. Refused ones that were clearly good
    /// are left out.
    pairs: Vec<(f64, bool)>,
    margin: f64,
    is_calibrated: bool,
    finding: Option<Finding>,
}

impl Calibration {
    /// From pairs, newest first, and the margin that is kept until there are enough
    /// (`decide.gate_margin`).
    pub fn new(pairs: impl IntoIterator<Item = ScorePair>, margin: f64) -> Self {
        let newest: Vec<(f64, bool)> = pairs
            .into_iter()
            .map(|pair| (pair.local - pair.threshold, pair.accepted))
            .filter(|(above, _)| above.is_finite())
            .take(MOST_PAIRS)
            .collect();
        let clear = newest.iter().filter(|(above, _)| *above >= CLEAR).map(|&(_, accepted)| accepted);
        Self {
            margin: if margin.is_finite() { margin.max(0.0) } else { 0.0 },
            is_calibrated: newest.iter().filter(|(above, _)| above.abs() < CLEAR).count() >= CALIBRATED,
            finding: finding(clear.take(RECENT)),
            pairs: newest.into_iter().filter(|&(above, accepted)| accepted || above < CLEAR).collect(),
        }
    }

    /// Whether there are enough pairs to do without the margin.
    pub fn is_calibrated(&self) -> bool {
        self.is_calibrated
    }

    /// The probability that a validator of that threshold accepts a result of that local score; nothing
    /// below the threshold.
    pub fn probability(&self, local: f64, threshold: f64) -> f64 {
        self.above(local - threshold)
    }

    /// The lowest local score that is submitted, if it takes more than the probability `least` (p*) to
    /// be worth it.
    pub fn gate(&self, threshold: f64, least: f64) -> f64 {
        let (mut low, mut high) = (0.0, CLEAR.max(self.margin));
        if !self.is_calibrated {
            low = self.margin;
        }
        if self.above(low) > least {
            return threshold + low;
        }
        for _ in 0..24 {
            let middle = (low + high) / 2.0;
            if self.above(middle) > least {
                high = middle;
            } else {
                low = middle;
            }
        }
        threshold + high
    }

    pub fn finding(&self) -> Option<Finding> {
        self.finding
    }

    fn above(&self, above: f64) -> f64 {
        if above.is_nan() || above < 0.0 {
            return 0.0;
        }
        let thought = if above >= self.margin { GOOD } else { BAD + (GOOD - BAD) * above / self.margin };
        let (mut weight, mut accepted_weight) = (PRIOR_WEIGHT, PRIOR_WEIGHT * thought);
        for &(at, accepted) in &self.pairs {
            // How much worse than an accepted one, or better than a refused one.
            let beyond = if accepted { at - above } else { above - at }.max(0.0) / WIDTH;
            let counts = (-beyond * beyond / 2.0).exp();
            weight += counts;
            if accepted {
                accepted_weight += counts;
            }
        }
        let learned = accepted_weight / weight;
        if above >= CLEAR.max(self.margin) { learned.max(GOOD) } else { learned }
    }
}

/// The shortest stretch of the newest clearly good results that proves it.
fn finding(newest: impl Iterator<Item = bool>) -> Option<Finding> {
    let (mut good, mut rejected) = (0, 0);
    for accepted in newest {
        good += 1;
        rejected += u32::from(!accepted);
        if good >= LEAST_RECENT && certainty_below(0.5, good - rejected, good) >= 0.95 {
            return Some(Finding::GoodHereRejectedThere { good, rejected });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::prices::tests::cases;
    use super::*;

    const MARGIN: f64 = 0.01;

    fn calibration(pairs: impl IntoIterator<Item = (f64, bool)>) -> Calibration {
        let pair = |(local, accepted)| ScorePair { local, threshold: 0.6, accepted };
        Calibration::new(pairs.into_iter().map(pair), MARGIN)
    }

    /// Scores evenly over a range, accepted by a rule.
    fn spread(count: u32, from: f64, to: f64, accepted: impl Fn(f64) -> bool) -> Vec<(f64, bool)> {
        let score = |number: u32| from + (to - from) * f64::from(number) / f64::from(count);
        (0..count).map(|number| (score(number), accepted(score(number)))).collect()
    }

    #[test]
    fn without_pairs_the_gate_is_the_margin() {
        let fresh = calibration([]);
        assert!(!fresh.is_calibrated());
        assert_eq!(fresh.probability(0.61, 0.6), 0.98);
        assert_eq!(fresh.probability(0.5999, 0.6), 0.0);
        assert!(fresh.probability(0.6, 0.6) < 0.03);
        for least in [0.0, 0.44, 0.66, 0.9] {
            assert_eq!(fresh.gate(0.6, least), 0.6 + MARGIN);
        }
        assert_eq!(
            Calibration::new([], 0.3).gate(0.6, 0.66),
            0.6 + 0.3,
            "a margin that was asked for is kept"
        );
    }

    #[test]
    fn the_same_scorer_brings_the_gate_down_to_the_threshold() {
        let same = calibration(spread(60, 0.6, 0.8, |_| true));
        assert!(same.is_calibrated());
        assert!(same.gate(0.6, 0.66) < 0.604, "{}", same.gate(0.6, 0.66));
        assert!(same.gate(0.6, 0.66) >= 0.6);
    }

    #[test]
    fn a_stricter_scorer_raises_it_to_where_results_pass() {
        let stricter = calibration(spread(100, 0.6, 0.8, |score| score >= 0.64));
        let gate = stricter.gate(0.6, 0.66);
        assert!((0.62..0.66).contains(&gate), "{gate}");
        assert!(stricter.gate(0.6, 0.44) < gate, "doubtful results are worth more where lanes are plenty");
        assert_eq!(stricter.finding(), None);
    }

    #[test]
    fn other_thresholds_are_compared_by_the_distance() {
        let pair =
            |above: f64, threshold| ScorePair { local: threshold + above, threshold, accepted: above > 0.03 };
        let mixed = Calibration::new(
            (0..100).map(|n| pair(f64::from(n) / 1_000.0, [0.5, 0.7][n as usize % 2])),
            MARGIN,
        );
        let gate = mixed.gate(0.6, 0.66);
        assert!((0.61..0.65).contains(&gate), "{gate}");
    }

    #[test]
    fn below_the_threshold_nothing_is_submitted() {
        let lenient = calibration(spread(400, 0.3, 0.9, |_| true));
        assert_eq!(lenient.probability(0.5999, 0.6), 0.0);
        assert_eq!(lenient.gate(0.6, 0.0), 0.6);
    }

    #[test]
    fn refusals_of_clearly_good_results_are_an_alarm_and_no_gate() {
        let refused = calibration(spread(30, 0.75, 0.95, |_| false));
        assert!(!refused.is_calibrated(), "they say nothing about the threshold");
        assert_eq!(refused.gate(0.6, 0.66), 0.6 + MARGIN);
        assert!(refused.probability(0.72, 0.6) >= 0.98);
        assert_eq!(refused.finding(), Some(Finding::GoodHereRejectedThere { good: 5, rejected: 5 }));
        // Unless a wider margin was asked for.
        let refused = ScorePair { local: 0.65, threshold: 0.6, accepted: false };
        let gate = Calibration::new([refused; 50], 0.2).gate(0.6, 0.66);
        assert!((0.72..0.8).contains(&gate), "{gate}");
        // Refusals everywhere raise the gate, but not beyond what is clearly good.
        let everywhere = calibration(spread(400, 0.6, 0.95, |_| false));
        assert!((everywhere.gate(0.6, 0.66) - 0.7).abs() < 1e-6, "{}", everywhere.gate(0.6, 0.66));
        assert!((everywhere.gate(0.6, 0.999) - 0.7).abs() < 1e-6);
    }

    #[test]
    fn a_finding_needs_certainty_and_looks_at_the_newest() {
        let found = |newest: &str| calibration(newest.chars().map(|c| (0.8, c == '+'))).finding();
        let found_of = |good, rejected| Some(Finding::GoodHereRejectedThere { good, rejected });
        assert_eq!(found("----"), None);
        assert_eq!(found("-----"), found_of(5, 5));
        assert_eq!(found("+----"), None, "89 %");
        assert_eq!(found("+-----"), None, "94 %");
        assert_eq!(found("+------"), found_of(7, 6));
        assert_eq!(found(&format!("-----{}", "+".repeat(300))), found_of(5, 5), "broken just now");
        assert_eq!(found(&format!("{}{}", "+".repeat(10), "-".repeat(300))), None, "repaired");
        let doubtful = calibration((0..50).map(|_| (0.65, false)));
        assert_eq!(doubtful.finding(), None);
    }

    #[test]
    fn old_pairs_are_left_out() {
        let newest = spread(MOST_PAIRS as u32, 0.6, 0.8, |_| true);
        let older = spread(300, 0.6, 0.7, |_| false);
        let all = calibration(newest.iter().chain(&older).copied());
        assert_eq!(all.probability(0.62, 0.6), calibration(newest).probability(0.62, 0.6));
    }

    #[test]
    fn nonsense_is_left_out() {
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
        let odd = odd.iter().flat_map(|&score| [(score, false), (score, true)]);
        let calibrated = calibration(odd.cycle().take(90));
        assert!(!calibrated.is_calibrated());
        assert_eq!(calibrated.probability(0.6, 0.6), calibration([]).probability(0.6, 0.6));
        assert_eq!(calibrated.gate(0.6, 0.66), 0.61);
        assert_eq!(calibrated.probability(f64::NAN, 0.6), 0.0);
        assert_eq!(calibrated.probability(0.7, f64::NAN), 0.0);
        for margin in [f64::NAN, -0.05, f64::INFINITY] {
            assert_eq!(Calibration::new([], margin).gate(0.6, 0.66), 0.6);
        }
        assert_eq!(Calibration::new([], 0.0).probability(0.6, 0.6), 0.98);
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn better_scores_are_never_less_likely(
            pairs in proptest::collection::vec((0.4..1.0_f64, any::<bool>()), 0..80),
            scores in (0.4..1.0_f64, 0.0..0.3_f64),
            least in 0.0..0.95_f64,
        ) {
            let calibration = calibration(pairs);
            let (worse, better) = (scores.0, scores.0 + scores.1);
            let (low, high) = (calibration.probability(worse, 0.6), calibration.probability(better, 0.6));
            prop_assert!(high >= low - 1e-12, "{} at {}, {} at {}", low, worse, high, better);
            prop_assert!((0.0..=1.0).contains(&low));
            // The gate parts what is likely enough from what is not.
            let gate = calibration.gate(0.6, least);
            prop_assert!((0.6..=0.7 + 1e-9).contains(&gate));
            prop_assert!(calibration.probability(gate + 1e-6, 0.6) > least);
        }

        #[test]
        fn no_pairs_keep_a_clearly_good_result_back(
            pairs in proptest::collection::vec((0.6..1.0_f64, any::<bool>()), 0..400),
            score in 0.701..1.0_f64,
            least in 0.0..0.9_f64,
        ) {
            let calibration = calibration(pairs);
            prop_assert!(calibration.probability(score, 0.6) > least);
            prop_assert!(score >= calibration.gate(0.6, least));
        }
    }
}
