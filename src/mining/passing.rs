//! How likely a candidate passes the gate, learned from those made so far.
//!
//! A candidate made after others of its task failed passes less often: the prompt is harder than the
//! average. That is what a retry is weighed by (rules.md R9, "Retry or empty"), so the rate is kept by
//! the number of failures before it. Few candidates get that far; their rate leans on that of the
//! candidates with one failure less until it has counts of its own. Old candidates are forgotten, which
//! also reopens retries that a streak of failures had closed.
//!
//! Limits: one rate for all prompts; keep one [`Passing`] per kind of task.

/// The rate before anything was seen.
const START: f64 = 0.8;

/// Candidates that the start rate counts for.
const START_WEIGHT: f64 = 5.0;

/// Candidates that the rate of one failure less counts for.
const SHRINK_WEIGHT: f64 = 8.0;

/// About how many candidates are remembered.
const WINDOW: f64 = 200.0;

/// Failures told apart: the last stands for all further ones.
const LEVELS: usize = 8;

/// Shares of candidates that passed, by the number of candidates of the same task that failed before.
#[derive(Debug, Clone, Default)]
pub struct Passing {
    levels: [Level; LEVELS],
    seen: u64,
}

/// Counts fade with age.
#[derive(Debug, Clone, Copy, Default)]
struct Level {
    passed: f64,
    made: f64,
}

impl Passing {
    pub fn new() -> Self {
        Self::default()
    }

    /// Learns that a candidate passed the gate, or did not.
    pub fn observe(&mut self, failed_before: u32, passed: bool) {
        for level in &mut self.levels {
            level.passed *= 1.0 - 1.0 / WINDOW;
            level.made *= 1.0 - 1.0 / WINDOW;
        }
        let level = &mut self.levels[index(failed_before)];
        level.passed += f64::from(u8::from(passed));
        level.made += 1.0;
        self.seen = self.seen.saturating_add(1);
    }

    /// The probability that a candidate passes after so many of its task have failed.
    pub fn after(&self, failed: u32) -> f64 {
        let (first, rest) = (&self.levels[0], &self.levels[1..=index(failed)]);
        let start = first.leaning_on(START, START_WEIGHT);
        rest.iter().fold(start, |rate, level| level.leaning_on(rate, SHRINK_WEIGHT))
    }

    /// The probabilities after 0, 1, 2 ... failures; the last one stands for all further ones.
    pub fn vector(&self, max_retries: u32) -> Vec<f64> {
        (0..=max_retries).take(LEVELS).map(|failed| self.after(failed)).collect()
    }

    /// How many candidates were observed, the forgotten ones among them.
    pub fn count(&self) -> u64 {
        self.seen
    }
}

impl Level {
    fn leaning_on(&self, rate: f64, weight: f64) -> f64 {
        (self.passed + rate * weight) / (self.made + weight)
    }
}

fn index(failed: u32) -> usize {
    usize::try_from(failed).unwrap_or(usize::MAX).min(LEVELS - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::prices::tests::cases;
    use super::*;

    fn observed(candidates: impl IntoIterator<Item = (u32, bool)>) -> Passing {
        let mut passing = Passing::new();
        for (failed, passed) in candidates {
            passing.observe(failed, passed);
        }
        passing
    }

    /// Passes in a fixed pattern of that rate.
    fn steady(failed: u32, percent: u32, count: u32) -> impl Iterator<Item = (u32, bool)> {
        (0..count).map(move |number| (failed, (number * percent) % 100 + percent >= 100))
    }

    #[test]
    fn it_starts_at_four_of_five() {
        assert_eq!(Passing::new().vector(3), [0.8; 4]);
        assert_eq!(Passing::new().count(), 0);
    }

    #[test]
    fn each_number_of_failures_has_a_rate_of_its_own() {
        let passing = observed(steady(0, 80, 100).chain(steady(1, 40, 80)));
        assert_eq!(passing.count(), 180);
        assert!((passing.after(0) - 0.8).abs() < 0.03, "{}", passing.after(0));
        assert!((passing.after(1) - 0.4).abs() < 0.06, "{}", passing.after(1));
    }

    #[test]
    fn few_counts_lean_on_those_with_a_failure_less() {
        let passing = observed(steady(0, 60, 150));
        assert_eq!(passing.after(1), passing.after(0));
        let one_more = observed(steady(0, 60, 150).chain([(1, false)]));
        assert!(one_more.after(1) > 0.5, "{}", one_more.after(1));
        assert_eq!(one_more.after(3), one_more.after(1));
    }

    #[test]
    fn a_change_is_followed_within_some_windows() {
        let passing = observed(steady(0, 90, 1_000).chain(steady(0, 30, 400)));
        assert!(passing.after(0) < 0.4, "{}", passing.after(0));
    }

    #[test]
    fn a_closed_retry_opens_again() {
        let closed = observed(steady(0, 60, 100).chain(steady(1, 0, 60)));
        assert!(closed.after(1) < 0.11, "{}", closed.after(1));
        let later = observed(steady(0, 60, 100).chain(steady(1, 0, 60)).chain(steady(0, 60, 400)));
        assert!(later.after(1) > 0.25, "{}", later.after(1));
    }

    #[test]
    fn any_number_of_failures_has_a_rate() {
        let passing = observed([(u32::MAX, false), (7, false)]);
        assert_eq!(passing.after(u32::MAX), passing.after(7));
        assert!(passing.after(7) < passing.after(6), "only the last stands for all further ones");
        assert_eq!(passing.vector(u32::MAX).len(), LEVELS);
        assert_eq!(passing.vector(0).len(), 1);
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn rates_are_probabilities_and_move_with_what_is_seen(
            seen in proptest::collection::vec((0..12_u32, any::<bool>()), 0..300),
            failed in 0..12_u32,
        ) {
            let passing = observed(seen);
            for rate in passing.vector(20) {
                prop_assert!(rate > 0.0 && rate < 1.0, "{}", rate);
            }
            let before = passing.after(failed);
            let (mut better, mut worse) = (passing.clone(), passing);
            better.observe(failed, true);
            worse.observe(failed, false);
            prop_assert!(better.after(failed) > worse.after(failed));
            prop_assert!((better.after(failed) - before).abs() < 0.2);
        }
    }
}
