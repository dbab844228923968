//! What counts of successes prove about a rate.
//!
//! Two of two rejected proves nothing: at a rate of 43 % it happens to every third validator
//! (rules.md, known mistake 13). So verdicts on others wait for a share of certainty, taken from the
//! exact binomial tail.
//!
//! Limits: the trials are taken to be independent and of one rate; which trials count is the caller's
//! business.

/// More trials than this are scaled down: they prove no more than this many would.
const MOST_TRIALS: u32 = 100_000;

/// The chance of at most `hits` successes in `trials`, each succeeding at `rate`.
pub fn chance_of_at_most(hits: u32, trials: u32, rate: f64) -> f64 {
    if hits >= trials || rate <= 0.0 {
        return 1.0;
    }
    if rate >= 1.0 || rate.is_nan() {
        return 0.0;
    }
    // In logarithms: the first terms of long series are smaller than any float.
    let step = rate.ln() - (-rate).ln_1p();
    let mut term = f64::from(trials) * (-rate).ln_1p();
    let mut sum = term.exp();
    for hit in 0..hits {
        term += step + f64::from(trials - hit).ln() - f64::from(hit + 1).ln();
        sum += term.exp();
    }
    sum.min(1.0)
}

/// How certain it is that a rate is below `limit`, after `hits` successes in `trials` and knowing
/// nothing before (uniform prior).
pub fn certainty_below(limit: f64, hits: u32, trials: u32) -> f64 {
    let hits = hits.min(trials);
    let (hits, trials) = if trials > MOST_TRIALS {
        let share = f64::from(hits) / f64::from(trials);
        // At most MOST_TRIALS, and rounded up in favour of the rate.
        ((share * f64::from(MOST_TRIALS)).ceil() as u32, MOST_TRIALS)
    } else {
        (hits, trials)
    };
    (1.0 - chance_of_at_most(hits, trials + 1, limit)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_binomial_one() {
        // (rate, hits, trials, chance), the sums written out.
        for (rate, hits, trials, chance) in [
            (0.5, 0, 1, 0.5),
            (0.5, 1, 3, 0.5),
            (0.3, 2, 5, 0.836_92),
            (0.43, 0, 2, 0.324_9),
            (0.43, 1, 4, 0.424_091_97),
            (0.7, 7, 7, 1.0),
            (0.0, 0, 9, 1.0),
            (1.0, 8, 9, 0.0),
        ] {
            let found = chance_of_at_most(hits, trials, rate);
            assert!((found - chance).abs() < 1e-8, "{hits} of {trials} at {rate}: {found}");
        }
    }

    #[test]
    fn certainty_grows_with_trials_and_falls_with_hits() {
        assert!((certainty_below(0.3, 0, 0) - 0.3).abs() < 1e-12, "nothing seen: the prior");
        for trials in 1..60 {
            assert!(certainty_below(0.3, 0, trials) > certainty_below(0.3, 0, trials - 1));
            // Beyond half of them it is certain to the last digit.
            for hits in 0..=trials / 2 {
                assert!(certainty_below(0.3, hits, trials) > certainty_below(0.3, hits + 1, trials));
            }
        }
    }

    #[test]
    fn long_series_are_neither_slow_nor_wrong() {
        assert!(certainty_below(0.3, 290_000, 1_000_000) > 0.999);
        assert!(certainty_below(0.3, 310_000, 1_000_000) < 0.001);
        assert!(certainty_below(0.3, u32::MAX, u32::MAX) < 1e-9);
        assert!(certainty_below(0.3, 5, 2) < 0.03, "more hits than trials are all of them");
        assert!((chance_of_at_most(3_000, 10_000, 0.3) - 0.5).abs() < 0.01);
    }
}
