//! How many candidates of one task are worth making, to submit the best (rules.md R9, "Best of N").
//!
//! Reward is accepted results times duel rating (R5), so a better pick is worth its gain in the
//! logarithm of the rating, and each second beyond the throttle costs its share of the period. Card
//! time must be left over: while anything waits for the card, or a second of it has a price, one
//! candidate is all a task gets.
//!
//! Limits: candidates are taken to be alike and independent, and only as many are weighed as a rating
//! is known for.

use std::time::Duration;

/// Mean duel rating with the best of 1, 2, 3, 4 candidates and a picker that only approximates the
/// judge: the weak picker of the table in rules.md R9.
const RATINGS: [f64; 4] = [1500.0, 1587.0, 1633.0, 1663.0];

/// What candidates of one task cost, and where they can be made.
#[derive(Debug, Clone, Copy)]
pub struct BestOf {
    /// Cards with nothing else to do; each makes a candidate at the same time.
    pub cards: u32,
    /// A second of a card has a price ([`Prices::card`](super::Prices::card)), or something waits for
    /// one.
    pub is_wanted: bool,
    /// e with one candidate.
    pub first: Duration,
    /// What a further candidate on the same card adds to e.
    pub each: Duration,
    /// T.
    pub throttle: Duration,
    /// C.
    pub cooldown: Duration,
}

impl BestOf {
    /// How many candidates to make, at least one.
    pub fn candidates(&self) -> u32 {
        let cards = self.cards.max(1);
        let (mut made, mut elapsed) = (1, self.first);
        if self.is_wanted {
            return made;
        }
        loop {
            // A round is full when every card has made one.
            let added = if made % cards == 0 { self.each } else { Duration::ZERO };
            let period = self.cooldown.saturating_add(elapsed.saturating_sub(self.throttle));
            if !Self::is_worth_another(made, elapsed, added, self.throttle, period) {
                return made;
            }
            elapsed = elapsed.saturating_add(added);
            made += 1;
        }
    }

    /// Whether one more candidate is worth its time, `made` being there already.
    ///
    /// `elapsed` is e if the task were answered now, `added` by how much the candidate lengthens it:
    /// nothing if it is made on another card at the same time. `period` is the time from pull to pull
    /// as things stand. Only for card time that nothing else wants.
    pub fn is_worth_another(
        made: u32,
        elapsed: Duration,
        added: Duration,
        throttle: Duration,
        period: Duration,
    ) -> bool {
        let Some(next) = usize::try_from(made).ok().filter(|&made| made > 0 && made < RATINGS.len()) else {
            // There is no best of none.
            return made == 0;
        };
        let gain = (RATINGS[next] / RATINGS[next - 1]).ln();
        let beyond = |e: Duration| e.saturating_sub(throttle);
        let lost = beyond(elapsed.saturating_add(added)).saturating_sub(beyond(elapsed));
        gain * period.as_secs_f64() > lost.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn room(first: f64, each: f64) -> BestOf {
        BestOf {
            cards: 1,
            is_wanted: false,
            first: seconds(first),
            each: seconds(each),
            throttle: seconds(30.0),
            cooldown: seconds(300.0),
        }
    }

    /// The three settings of the table in rules.md R9, and its weak picker's best N.
    const TABLE: [(&str, f64, f64, u32); 3] =
        [("g30 v5 h5", 44.5, 35.0, 1), ("g13 v1 h3", 21.5, 14.0, 2), ("g10 v1 h0", 15.5, 11.0, 3)];

    #[test]
    fn the_table_of_the_rules() {
        for (name, first, each, best) in TABLE {
            assert_eq!(room(first, each).candidates(), best, "{name}");
        }
    }

    /// Rules.md R9: reward against N=1 with the weak picker.
    #[test]
    fn a_better_pick_gains_what_the_table_says() {
        // g10 v1 h0: observations per hour 3600 / period.
        for (made, period, reward) in [(2, 300.0, 1.058), (3, 307.5, 1.062), (4, 318.5, 1.044)] {
            let found: f64 = RATINGS[made - 1] / RATINGS[0] * 300.0 / period;
            assert!((found - reward).abs() < 0.001, "{found} with {made}");
        }
    }

    #[test]
    fn one_candidate_while_the_card_is_wanted() {
        for (name, first, each, _) in TABLE {
            assert_eq!(BestOf { is_wanted: true, cards: 8, ..room(first, each) }.candidates(), 1, "{name}");
        }
    }

    #[test]
    fn spare_cards_make_theirs_at_the_same_time() {
        for (cards, made) in [(0, 1), (1, 1), (2, 2), (3, 3), (4, 4), (8, 4)] {
            assert_eq!(BestOf { cards, ..room(44.75, 35.0) }.candidates(), made, "{cards} cards");
        }
        // Fast ones go for another round.
        assert_eq!(BestOf { cards: 2, ..room(15.5, 11.0) }.candidates(), 4);
    }

    #[test]
    fn time_within_the_throttle_is_free() {
        let worth = |made, elapsed, added| {
            BestOf::is_worth_another(made, seconds(elapsed), seconds(added), seconds(30.0), seconds(300.0))
        };
        assert!(worth(3, 10.0, 20.0));
        assert!(!worth(3, 10.0, 26.0), "6 s of 300 for 1.8 %");
        assert!(worth(1, 30.0, 16.0));
        assert!(!worth(1, 30.0, 17.0), "17 s of 300 for 5.6 %");
    }

    #[test]
    fn nonsense_ends() {
        let worth = |made| {
            BestOf::is_worth_another(made, Duration::MAX, Duration::MAX, Duration::ZERO, Duration::MAX)
        };
        assert!(worth(0));
        assert!(!worth(4));
        assert!(!worth(u32::MAX));
        let free = BestOf { cards: u32::MAX, ..room(0.0, 0.0) };
        assert_eq!(free.candidates(), 4);
        let never =
            BestOf { first: Duration::MAX, each: Duration::MAX, cooldown: Duration::ZERO, ..room(0.0, 0.0) };
        assert!(never.candidates() <= 4);
        assert!(!BestOf::is_worth_another(
            1,
            Duration::ZERO,
            Duration::from_secs(1),
            Duration::ZERO,
            Duration::ZERO
        ));
    }
}
