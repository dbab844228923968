//! When results go out unscored because too many lanes wait for the card (rules.md R9, the column
//! "submit all", and `decide.unscored = "auto"`).
//!
//! Scoring spends card time to save lane time: without it a bad result costs the penalty. Which of the
//! two is scarce changes from minute to minute near K*, so the best rule looks at the queue: score
//! while few wait, skip it while many do. How many is found with a small model: lanes come to the
//! cards, wait, are served, and stay away for their cooldown. In its Markov chain the state is how many
//! are at the cards, and every threshold is tried.
//!
//! Limits: times are exponential in the model, which overrates the waiting: its yields are up to 13 %
//! too low and its thresholds about one waiting lane per card too high, which is taken off again. What
//! comes out loses at most 2 % to the best threshold (measured with 1, 2 and 4 cards, 7 to 20 lanes per
//! card, q of 0.55, 0.8 and 0.95). Refused results also lose duels (R5), which nothing here knows.

use super::prices::{Economy, Unscored, Way};

/// Thresholds are tried up to so many waiting lanes per card.
const MOST_WAITING: u32 = 8;

/// And this many of them per waiting lane and card, or every one.
const STEPS: u32 = 4;

/// More lanes than this are modelled with fewer cards, in the same proportion.
const MOST_LANES: f64 = 128.0;

/// The most that share one card in the model: all but a few of them wait whatever is done.
const MOST_PER_CARD: f64 = 512.0;

/// What a threshold must gain before anything goes out unscored.
const LEAST_GAIN: f64 = 1.001;

/// No time in the model is shorter, in seconds.
const LEAST_TIME: f64 = 1e-3;

/// The best rule for an economy.
pub(super) fn unscored(economy: &Economy) -> Unscored {
    if economy.cards() == 0.0 {
        return Unscored::Never;
    }
    let cards = (economy.cards() * (MOST_LANES / economy.lanes()).min(1.0)).floor().max(1.0);
    let scale = cards / economy.cards();
    let lanes = (economy.lanes() * scale).round().min(MOST_PER_CARD * cards) as u32;
    let cards = cards as u32;
    let shops: Vec<Shop> = economy
        .gated()
        .into_iter()
        .map(|scored| Shop { lanes, cards, scored, skipped: economy.unscored() })
        .collect();
    let yields = |threshold| shops.iter().map(|shop| shop.yields(threshold)).fold(0.0, f64::max);
    let (mut best, mut most) = (None, yields(None));
    for waiting in (0..=MOST_WAITING * cards).rev().step_by(cards.div_ceil(STEPS) as usize) {
        let yielded = yields(Some(waiting));
        if yielded > most * LEAST_GAIN {
            (best, most) = (Some(waiting), yielded);
        }
    }
    match best {
        None => Unscored::Never,
        Some(0) => Unscored::Always,
        Some(waiting) => {
            let corrected = (waiting.saturating_sub(cards)).max(waiting.min(cards));
            Unscored::Crowded { waiting: (f64::from(corrected) / scale).round() as u32 }
        }
    }
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
    /// Accepted results per second if scoring is skipped while at least so many wait.
    fn yields(&self, least: Option<u32>) -> f64 {
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

    fn rule_of(pass: f64, lanes: f64, cards: f64) -> Unscored {
        unscored(&Economy { lanes, cards, ..economy(pass, 1) })
    }

    fn rule(pass: f64, lanes: u32) -> Unscored {
        rule_of(pass, f64::from(lanes), 1.0)
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
    fn large_shops_are_scaled() {
        let rule = |cards: f64| match rule_of(0.8, 10.0 * cards, cards) {
            Unscored::Crowded { waiting } => f64::from(waiting) / cards,
            other => panic!("{other:?} with {cards} cards"),
        };
        for cards in [20.0, 100.0, 1_000.0] {
            assert!((rule(cards) - rule(12.0)).abs() < 0.1, "{} {}", rule(cards), rule(12.0));
        }
        assert_ne!(rule_of(0.8, 1e6, 1.0), Unscored::Never);
        // Half a card for seven lanes is a card for fourteen.
        assert_eq!(rule_of(0.55, 14.0, 1.0), Unscored::Crowded { waiting: 2 });
        assert_eq!(rule_of(0.55, 7.0, 0.5), Unscored::Crowded { waiting: 1 });
    }

    #[test]
    fn long_queues_stay_finite() {
        let economy = economy(0.8, 1);
        let shop = Shop { lanes: 512, cards: 1, scored: economy.gated()[0], skipped: economy.unscored() };
        assert!((shop.yields(Some(3)) - 0.8 / 30.0).abs() < 1e-6);
    }

    /// All within 1 % of the best threshold in a simulation.
    #[test]
    fn several_cards_wait_for_more_lanes() {
        for (cards, each, waiting) in [(1, 14, 2), (2, 14, 2), (4, 14, 4), (2, 9, 4), (4, 8, 5)] {
            let rule = rule_of(0.55, f64::from(each * cards), f64::from(cards));
            assert_eq!(rule, Unscored::Crowded { waiting }, "{cards} cards, {each} lanes each");
        }
    }
}
