//! When a validator's refusals prove that it is not worth its turn (rules.md R9, "Which validator",
//! rule 6).
//!
//! What counts are answers to results that were good by our own score; a refused bad one says nothing
//! about the validator. Two refusals of two are no proof (known mistake 13), and every validator that
//! is not served any more costs stake (R6): so it takes twenty results
//! and 95 % certainty.
//!
//! Limits: by hotkey, because uids are recycled; which results still count is the caller's business.

use std::time::Duration;

use super::posterior::certainty_below;

/// A result is good if its local score is this far above the validator's threshold: 0.65 at 0.6.
const GOOD: f64 = 0.05;

/// Answers of one validator to results that were good by our own score.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Acceptance {
    pub good: u32,
    /// Of the good ones.
    pub accepted: u32,
}

impl Acceptance {
    /// Fewer good results prove nothing.
    pub const LEAST_RESULTS: u32 = 20;

    /// A validator that accepts a smaller share of good results than this is demoted.
    pub const LEAST_SHARE: f64 = 0.3;

    /// How certain that must be.
    pub const CERTAINTY: f64 = 0.95;

    /// A demoted validator is still asked this often: one accepted result in its window earns the
    /// floor (R5), and it may have changed.
    pub const PROBE_EVERY: Duration = Duration::from_secs(4 * 3_600);

    /// Counts an answer, unless the result was not good.
    pub fn observe(&mut self, local: f64, threshold: f64, accepted: bool) {
        if local >= threshold + GOOD {
            self.good = self.good.saturating_add(1);
            self.accepted = self.accepted.saturating_add(u32::from(accepted));
        }
    }

    /// How certain it is that the validator accepts less than [`LEAST_SHARE`](Self::LEAST_SHARE).
    pub fn certainty(&self) -> f64 {
        certainty_below(Self::LEAST_SHARE, self.accepted, self.good)
    }

    /// Whether the validator is to be demoted.
    pub fn demotes(&self) -> bool {
        self.good >= Self::LEAST_RESULTS && self.certainty() >= Self::CERTAINTY
    }
}

#[cfg(test)]
mod tests {
    use super::super::posterior::chance_of_at_most;
    use super::*;

    fn demoted(accepted: u32, good: u32) -> bool {
        Acceptance { good, accepted }.demotes()
    }

    /// Known mistake 13: the evidence that validators were blocked on.
    #[test]
    fn noise_demotes_nobody() {
        assert!((chance_of_at_most(0, 2, 0.43) - 0.33).abs() < 0.006, "every third validator");
        assert!((chance_of_at_most(1, 4, 0.43) - 0.42).abs() < 0.006);
        assert!(!demoted(0, 2));
        assert!(!demoted(1, 4));
        for good in 0..Acceptance::LEAST_RESULTS {
            assert!(!demoted(0, good), "0 of {good}");
        }
    }

    #[test]
    fn it_takes_twenty_results_and_certainty() {
        assert!(!demoted(0, 19));
        assert!(demoted(0, 20));
        assert!(demoted(2, 20), "97 %");
        assert!(!demoted(3, 20), "91 %");
        assert!(!demoted(43, 100), "the rate that was mistaken for a bad one");
        assert!(demoted(20, 100));
        assert!(!demoted(30, 100));
        assert!(!demoted(25, 20));
    }

    #[test]
    fn a_validator_at_the_limit_is_rarely_demoted() {
        // Accepts 30 %: at 20 results the test is wrong in less than 5 % of all cases.
        let most = (0..=20).filter(|&accepted| demoted(accepted, 20)).max().unwrap();
        assert!(chance_of_at_most(most, 20, 0.3) < 0.05);
        assert!(chance_of_at_most(most, 20, 0.43) < 0.01);
    }

    #[test]
    fn only_good_results_count() {
        let mut acceptance = Acceptance::default();
        for (local, threshold, accepted) in [
            (0.65, 0.6, true),
            (0.9, 0.6, false),
            (0.649, 0.6, false),
            (0.65, 0.7, true),
            (f64::NAN, 0.6, true),
        ] {
            acceptance.observe(local, threshold, accepted);
        }
        assert_eq!(acceptance, Acceptance { good: 2, accepted: 1 });
    }
}
