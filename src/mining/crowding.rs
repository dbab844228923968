//! When results go out unscored because too many lanes wait for the card (rules.md R9, the column
//! "submit all", and `decide.unscored = "auto"`).
//!
//! Scoring spends card time to save lane time: without it a bad result costs the penalty. Which of the
//! two is scarce changes from minute to minute near K*, so the best rule looks at the queue: score
//! while few wait, skip it while many do. How many is found with a small model: lanes come to the
//! cards, wait, are served, and stay away for their cooldown. In its Markov chain the state is how many
//! are at the cards, and every threshold is tried.
//!
//! Limits: times are exponential in the model, which overrates the waiting. Its numbers are too low by
//! up to 13 %, but the thresholds it chooses lose little: in every cell of the table by q and K of
//! rules.md R9 the best column is reached or passed. Refused results also lose duels (R5), which
//! nothing here knows.

use super::prices::{Economy, Unscored, Way};

/// Thresholds tried, in waiting lanes per card.
const MOST_WAITING: u32 = 8;

/// Lanes in the model. More are taken to share so many in the same proportion to the cards.
const MOST_LANES: f64 = 512.0;

/// What a threshold must gain before anything goes out unscored.
const LEAST_GAIN: f64 = 1.001;

/// No time in the model is shorter, in seconds.
const LEAST_TIME: f64 = 1e-3;

/// The best rule for an economy.
pub(super) fn unscored(economy: &Economy) -> Unscored {
    let scale = (MOST_LANES / economy.lanes()).min(1.0);
    let lanes = (economy.lanes() * scale).round() as u32;
    let cards = (economy.cards() * scale).round().max(1.0) as u32;
    if lanes == 0 || economy.cards() == 0.0 {
        return Unscored::Never;
    }
    let skipped = economy.unscored();
    let mut best = (Unscored::Never, 0.0);
    for scored in economy.gated() {
        let shop = Shop { lanes, cards, scored, skipped };
        let never = shop.yields(None);
        if never > best.1 {
            best = (Unscored::Never, never);
        }
    }
    for scored in economy.gated() {
        let shop = Shop { lanes, cards, scored, skipped };
        for waiting in (0..=MOST_WAITING).rev() {
            let yields = shop.yields(Some(waiting));
            if yields > best.1 * LEAST_GAIN {
                let rule = if waiting == 0 { Unscored::Always } else { Unscored::Crowded { waiting } };
                best = (rule, yields);
            }
        }
    }
    best.0
}

/// Lanes that come to cards to be served one by one.
#[derive(Debug, Clone, Copy)]
struct Shop {
    lanes: u32,
    cards: u32,
    scored: Way,
    skipped: Way,
}

impl Shop {
    /// Accepted results per second if scoring is skipped while at least so many wait per card.
    fn yields(&self, waiting: Option<u32>) -> f64 {
        let least = waiting.map(|waiting| waiting.saturating_mul(self.cards));
        let (scored, skipped) = (Stay::of(self.scored), Stay::of(self.skipped));
        // How long lanes stay away depends on how often scoring is skipped, and the other way round.
        let mut away = scored.away;
        let mut yields = 0.0;
        for _ in 0..100 {
            // Tasks per second, scored and not, while the chain is scaled to any sum.
            let (mut sum, mut rates) = (1.0, (0.0, 0.0));
            let mut weight = 1.0_f64;
            for present in 1..=self.lanes {
                let busy = present.min(self.cards);
                let skips = least.is_some_and(|least| present - busy >= least);
                let served = f64::from(busy) / if skips { skipped.served } else { scored.served };
                weight *= f64::from(self.lanes - present + 1) / away / served;
                sum += weight;
                let rate = if skips { &mut rates.1 } else { &mut rates.0 };
                *rate += weight * served;
                if sum > 1e200 {
                    weight /= sum;
                    rates = (rates.0 / sum, rates.1 / sum);
                    sum = 1.0;
                }
            }
            yields = (rates.0 * self.scored.accepted + rates.1 * self.skipped.accepted) / sum;
            let next = (rates.0 * scored.away + rates.1 * skipped.away) / (rates.0 + rates.1);
            if (next - away).abs() <= 1e-6 * away {
                break;
            }
            away = (away + next) / 2.0;
        }
        yields
    }
}

/// How long a task is at a card, and its lane away from it.
#[derive(Debug, Clone, Copy)]
struct Stay {
    served: f64,
    away: f64,
}

impl Stay {
    fn of(way: Way) -> Self {
        let served = way.card.max(LEAST_TIME);
        Self { served, away: (way.lane - served).max(LEAST_TIME) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::prices::tests::{TABLE, economy};
    use super::*;

    fn rule(pass: f64, lanes: u32) -> Unscored {
        unscored(&economy(pass, lanes))
    }

    #[test]
    fn scoring_is_skipped_where_the_table_says() {
        for row in TABLE {
            let skips = rule(row.pass, row.lanes) != Unscored::Never;
            if row.unscored > row.gated * 1.01 {
                assert!(skips, "{row:?}");
            }
            if row.lanes <= 4 || (row.lanes == 7 && row.pass < 0.9) {
                assert!(!skips, "{row:?}");
            }
        }
    }

    #[test]
    fn more_lanes_wait_for_less() {
        assert_eq!(rule(0.55, 7), Unscored::Never);
        let waiting = [10, 14, 20].map(|lanes| match rule(0.55, lanes) {
            Unscored::Crowded { waiting } => waiting,
            other => panic!("{other:?} with {lanes} lanes"),
        });
        assert!(waiting.is_sorted_by(|fewer, more| fewer > more), "{waiting:?}");
    }

    #[test]
    fn a_result_that_never_fails_needs_no_score() {
        assert_eq!(rule(1.0, 4), Unscored::Always);
        assert_eq!(rule(0.0, 20), Unscored::Never);
    }

    #[test]
    fn the_model_without_waiting_is_the_plain_sum() {
        // One lane meets nobody: exact whatever the distribution.
        let economy = economy(0.8, 1);
        let scored = economy.gated()[1];
        let shop = Shop { lanes: 1, cards: 1, scored, skipped: economy.unscored() };
        let skipped = economy.unscored();
        for (waiting, way) in [(None, scored), (Some(0), skipped)] {
            assert!((shop.yields(waiting) * way.lane / way.accepted - 1.0).abs() < 1e-5, "{waiting:?}");
        }
    }

    #[test]
    fn large_shops_are_scaled_and_stay_finite() {
        let many = Economy { lanes: 1_280.0, cards: 8.0, ..economy(0.8, 1) };
        let fewer = Economy { lanes: 320.0, cards: 2.0, ..economy(0.8, 1) };
        assert_eq!(unscored(&many), unscored(&fewer));
        let shop = Shop { lanes: 512, cards: 1, scored: fewer.gated()[0], skipped: fewer.unscored() };
        assert!(shop.yields(Some(3)).is_finite());
    }
}
