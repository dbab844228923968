//! What a second of a lane and of a card is worth, in accepted results (rules.md R9: the lambdas of
//! "Gate" and "Retry or empty", K* of "Capacity").
//!
//! A pulled task can be handled in several ways: gated, with so many retries, or submitted unscored.
//! Each yields accepted results and takes seconds of its lane and of a card, of which there are only so
//! many. The best mix is a small linear programme, and its dual prices say what a second more of either
//! would yield: the lane's is nothing while the cards are the limit, the card's while the lanes are.
//!
//! Limits: the programme knows averages only. In truth the lanes meet at the card and some wait, so
//! near K* it promises up to 8 % too much, and both resources are scarce there although only one has a
//! price. [`Prices::is_worth_another`] and [`Unscored`] therefore look at the queue as well.

use std::time::Duration;

use super::crowding;

/// Retries that are told apart; a task that needs more is rare.
const MOST_RETRIES: u32 = 16;

/// More lanes or cards than anybody has.
const MOST: f64 = 1e6;

/// What an empty answer costs in duels, in accepted results. A duel that would be won every other time is
/// lost, and ten points less of all duels won are 6 % less reward (rules.md R7): 0.3 of a result if all
/// tasks ended accepted, half of that because they do not.
const DUEL: f64 = 0.15;

/// No task holds its lane for less, in seconds.
const LEAST_PERIOD: f64 = 1e-3;

/// What results are made from: the agent's own measurements and the validators' rules.
#[derive(Debug, Clone, PartialEq)]
pub struct Economy {
    /// Pairs of hotkey and validator that give tasks.
    pub lanes: f64,
    pub cards: f64,
    /// C.
    pub cooldown: Duration,
    /// T.
    pub throttle: Duration,
    /// P.
    pub penalty: Duration,
    /// g: card time of one generation.
    pub generating: Duration,
    /// v + h: card time that scoring one candidate adds, hand-offs included.
    pub scoring: Duration,
    /// The rest of e: network and the validator's own scoring, but not waiting for the card, which is
    /// what the card's price stands for.
    pub answering: Duration,
    /// The probability that a candidate passes the gate after 0, 1, 2 ... of its task have failed; the
    /// last one stands for all further ones.
    pub pass: Vec<f64>,
    /// The probability that a result which passed is accepted.
    pub accepted: f64,
    pub max_retries: u32,
}

/// Whether a result is worth more submitted at once than scored first (`decide.unscored = "auto"`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unscored {
    Never,
    /// While at least so many tasks and due lanes wait for a card.
    Crowded {
        waiting: u32,
    },
    Always,
}

/// What a second is worth, and what all seconds yield together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prices {
    /// Accepted results per second of a lane.
    pub lane: f64,
    /// Accepted results per second of a card.
    pub card: f64,
    /// The best mix yields this, if nothing ever waits for the card.
    pub accepted_per_hour: f64,
    /// K*: lanes that keep the cards busy when every result is scored once and none is retried.
    /// Infinite if tasks need no card.
    pub saturation: f64,
    pub unscored: Unscored,
    cards: f64,
    /// What a result that passes is worth, less the penalty for those that are refused.
    worth: f64,
    /// A lane's price if cards were plenty, and a card's if lanes were.
    lane_alone: f64,
    card_alone: f64,
}

/// One way to handle a task: what it yields and takes on average. Times are seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Way {
    pub accepted: f64,
    pub lane: f64,
    pub card: f64,
}

impl Economy {
    /// Scored, with up to 0, 1, 2 ... retries.
    pub(super) fn gated(&self) -> Vec<Way> {
        let each = seconds(self.generating) + seconds(self.scoring);
        let (mut reached, mut passed) = (1.0, 0.0);
        // Of the candidates so far: card time, and lane time of the tasks that ended with one of them.
        let (mut card, mut ended) = (0.0, 0.0);
        (0..=self.max_retries.min(MOST_RETRIES))
            .map(|failed| {
                let pass = self.pass(failed);
                let period = self.period(f64::from(failed + 1) * each);
                card += reached * each;
                ended += reached * pass * period;
                passed += reached * pass;
                reached *= 1.0 - pass;
                let refused = passed * (1.0 - self.accepted());
                Way {
                    accepted: passed * self.accepted(),
                    // The last failure is answered empty.
                    lane: ended + reached * period + refused * seconds(self.penalty),
                    card,
                }
            })
            .collect()
    }

    pub(super) fn unscored(&self) -> Way {
        let card = seconds(self.generating);
        let accepted = self.pass(0) * self.accepted();
        Way { accepted, lane: self.period(card) + (1.0 - accepted) * seconds(self.penalty), card }
    }

    pub(super) fn lanes(&self) -> f64 {
        amount(self.lanes)
    }

    pub(super) fn cards(&self) -> f64 {
        amount(self.cards)
    }

    fn pass(&self, failed: u32) -> f64 {
        let index = usize::try_from(failed).unwrap_or(usize::MAX);
        share(self.pass.get(index).or(self.pass.last()).copied().unwrap_or(0.0))
    }

    fn accepted(&self) -> f64 {
        share(self.accepted)
    }

    /// From pull to pull, in seconds, with so much card time spent on the task (rules.md R2).
    fn period(&self, card: f64) -> f64 {
        let (cooldown, e) = (seconds(self.cooldown), seconds(self.answering) + card);
        cooldown.max(e + cooldown - seconds(self.throttle)).max(LEAST_PERIOD)
    }
}

impl Prices {
    /// Without `may_skip_scoring` every result is scored; [`unscored`](Self::unscored) still says what
    /// would be best. Takes under a millisecond, so not for every decision but when the rates or the
    /// number of lanes have changed.
    pub fn of(economy: &Economy, may_skip_scoring: bool) -> Self {
        let (lanes, cards) = (economy.lanes(), economy.cards());
        let gated = economy.gated();
        let ways: Vec<Way> = gated.iter().copied().chain([economy.unscored()]).collect();
        let scoring_all = Dual::of(&gated, lanes, cards);
        let skipping_some = Dual::of(&ways, lanes, cards);
        let unscored = if skipping_some.value > scoring_all.value * (1.0 + 1e-6) {
            crowding::unscored(economy)
        } else {
            Unscored::Never
        };
        let (dual, allowed) = if may_skip_scoring { (skipping_some, &ways) } else { (scoring_all, &gated) };
        let once = gated[0];
        Self {
            lane: dual.lane,
            card: dual.card,
            accepted_per_hour: dual.value * 3_600.0,
            saturation: if cards == 0.0 { 0.0 } else { cards * once.lane / once.card },
            unscored,
            cards,
            worth: economy.accepted() - (1.0 - economy.accepted()) * seconds(economy.penalty) * dual.lane,
            lane_alone: best(allowed, |way| way.lane),
            card_alone: best(allowed, |way| way.card),
        }
    }

    /// p*: a doubtful result is worth submitting if it is accepted with more than this probability. A
    /// refused one costs the penalty.
    pub fn gate(&self, penalty: Duration) -> f64 {
        let cost = seconds(penalty) * self.lane;
        cost / (1.0 + cost)
    }

    /// Whether another candidate, which passes with the probability `pass` and takes `card_time`, is
    /// worth it while `waiting` tasks and lanes that are due wait for a card.
    ///
    /// The rule is p' > b'·(λ_v + λ_g), with two amendments for what the programme does not know
    /// (measured against the capacity model of rules.md R9, with equal and with falling rates):
    /// - A tie counts as worth it. If every candidate passes alike, all numbers of retries are equally
    ///   good by the card's price, but none at all leaves the card idle just below K*: up to 27 % lost.
    /// - A task that ends empty loses its duel, if it is one, and with it reward for all that is accepted
    ///   ([`DUEL`]).
    /// - While lanes wait, a second delays each of them, and about as many again that come due before
    ///   the queue is gone; but no second is worth more than a card that never rests makes of it. It
    ///   saves up to 10 % just below K* when retries pass rarely.
    pub fn is_worth_another(&self, pass: f64, card_time: Duration, waiting: u32) -> bool {
        const TIE: f64 = 0.95;
        pass * (self.worth + DUEL) > TIE * seconds(card_time) * self.second(waiting)
    }

    /// Whether a finished candidate goes out unscored while so many tasks and due lanes wait for a card.
    pub fn skips_scoring(&self, waiting: u32) -> bool {
        match self.unscored {
            Unscored::Never => false,
            Unscored::Crowded { waiting: least } => waiting >= least,
            Unscored::Always => true,
        }
    }

    /// What a second is worth that a task holds its lane and a card.
    fn second(&self, waiting: u32) -> f64 {
        let delayed = 1.0 + 2.0 * f64::from(waiting) / self.cards.max(1.0);
        let price = self.lane + self.card;
        price.max(self.lane_alone * delayed).min(self.card_alone.max(price))
    }
}

/// The optimum of the dual: the least total price at which no way yields more than it takes.
#[derive(Debug, Clone, Copy)]
struct Dual {
    lane: f64,
    card: f64,
    /// Accepted results per second.
    value: f64,
}

impl Dual {
    /// The optimum is a vertex, so all of them are tried: one price alone, or both such that two ways
    /// just pay.
    fn of(ways: &[Way], lanes: f64, cards: f64) -> Self {
        let at = |lane: f64, card: f64| Self { lane, card, value: lanes * lane + cards * card };
        // Lane time is never zero, so a price of lanes alone always covers everything.
        let mut least = at(best(ways, |way| way.lane), 0.0);
        let alone = best(ways, |way| way.card);
        let mut consider = |dual: Self| {
            if dual.value < least.value {
                least = dual;
            }
        };
        if alone.is_finite() {
            consider(at(0.0, alone));
        }
        for (index, a) in ways.iter().enumerate() {
            for b in &ways[..index] {
                let determinant = a.lane * b.card - b.lane * a.card;
                let lane = (a.accepted * b.card - b.accepted * a.card) / determinant;
                let card = (a.lane * b.accepted - b.lane * a.accepted) / determinant;
                let covers = |way: &Way| way.lane * lane + way.card * card >= way.accepted * (1.0 - 1e-9);
                // Parallel ways have no vertex: then the prices are no numbers, and cover nothing.
                if lane >= 0.0 && card >= 0.0 && ways.iter().all(covers) {
                    // Not minus nothing.
                    consider(at(lane + 0.0, card + 0.0));
                }
            }
        }
        least
    }
}

/// The most that a second of one resource yields.
fn best(ways: &[Way], taken: impl Fn(&Way) -> f64) -> f64 {
    // Nothing from nothing is no number, which `max` passes over.
    ways.iter().map(|way| way.accepted / taken(way)).fold(0.0, f64::max)
}

/// At most thirty years: longer ones lose the rest of a sum.
fn seconds(time: Duration) -> f64 {
    time.as_secs_f64().min(1e9)
}

fn share(value: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) }
}

fn amount(value: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value.clamp(0.0, MOST) }
}

#[cfg(test)]
pub(super) mod tests;
