//! Several generations for one move of the scorer, and what the cards are told of what is to come.
//!
//! While the cards are the limit and the scorer must be moved for each generation, results are
//! gathered and then scored one after the other (rules.md R9, "Hand-off"). How many is the card's to
//! say ([`wants_batch`](crate::gpu::Arbiter::wants_batch)); where it says one a result is scored as
//! soon as it is made. What was gathered is in the store, and is scored on the card that made it.

use std::time::Duration;

use tokio::time::Instant;

use super::cards::{CardNo, CardState, Turn};
use super::lane::{Errand, Lane, LaneNo};
use super::miner::{Job, Miner};
use super::state::TaskState;
use crate::gpu::{Forecast, Tenant};

/// What a card was last told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Outlook {
    /// When the next task is expected to want the generator.
    due: Option<Instant>,
    forecast: Forecast,
}

impl Miner {
    /// The card on which a lane's result waits to be scored with others.
    pub(super) fn gathered_on(&self, no: LaneNo) -> Option<CardNo> {
        match &self.lanes.get(&no)?.errand {
            Errand::Open(work) if matches!(work.state, TaskState::Made { .. }) => {
                work.made_on.filter(|card| !self.cards[card.0].is_gone())
            }
            _ => None,
        }
    }

    /// Results that wait for the scorer of a card.
    pub(super) fn gathered(&self, card: CardNo) -> u32 {
        let count = self.waiting.iter().filter(|(_, no)| self.gathered_on(*no) == Some(card)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// How many results to gather on a card.
    fn batch(&self, card: CardNo) -> u32 {
        if self.stopping.is_some() { 1 } else { self.tools.benches[card.0].arbiter.wants_batch() }
    }

    /// Tasks at hand that a card could make next.
    fn makeable(&self, card: CardNo) -> u32 {
        let generator = &self.tools.benches[card.0].generator;
        let makes = |(_, no): &&(_, LaneNo)| {
            self.lanes.get(no).and_then(Lane::work).is_some_and(|work| {
                matches!(work.state, TaskState::Open(_)) && generator.makes(work.task.prompt.kind())
            })
        };
        u32::try_from(self.waiting.iter().filter(makes).count()).unwrap_or(u32::MAX)
    }

    /// Whether a card has another task to make, or will have it any moment.
    fn has_next(&self, card: CardNo) -> bool {
        self.makeable(card) > 0 || self.coming(self.tools.clock.instant()) > 0
    }

    /// Whether a result that was just made waits for others.
    pub(super) fn gathers(&self, card: CardNo) -> bool {
        self.gathered(card) + 1 < self.batch(card) && self.has_next(card)
    }

    /// Whether a card that is free scores what was gathered before it makes anything.
    pub(super) fn scores_next(&self, card: CardNo) -> bool {
        let gathered = self.gathered(card);
        gathered > 0 && (self.cards[card.0].scores || gathered >= self.batch(card) || !self.has_next(card))
    }

    /// When a card that is busy is expected to be free for another task.
    pub(super) fn free_at(&self, card: CardNo) -> Option<Instant> {
        let CardState::Busy { turn, since } = self.cards[card.0].state else { return None };
        let (making, judging) = self.turns();
        let gathered = self.gathered(card);
        Some(match turn {
            // The scorer has left already.
            Turn::Making if gathered + 1 < self.batch(card) && gathered > 0 => {
                since + self.measures.generating()
            }
            Turn::Making if gathered + 1 < self.batch(card) => since + making,
            Turn::Making if gathered > 0 => {
                since + self.measures.generating() + judging.saturating_mul(gathered + 1)
            }
            Turn::Making => since + making + judging,
            Turn::Judging => since + judging.saturating_mul(gathered + 1),
        })
    }

    /// Tells the cards what is to come, where that has changed.
    pub(super) fn tell_cards(&mut self) {
        if !self.tools.benches.iter().any(|bench| bench.arbiter.plans_ahead()) {
            return;
        }
        let dues = self.next_dues();
        // Those that are free get the next tasks.
        let mut order: Vec<CardNo> = (0..self.cards.len()).map(CardNo).collect();
        order.sort_by_key(|card| !self.cards[card.0].is_idle());
        for (rank, card) in order.into_iter().enumerate() {
            let outlook = self.outlook(card, dues.get(rank).or(dues.last()).copied());
            if self.cards[card.0].told == Some(outlook) {
                continue;
            }
            self.cards[card.0].told = Some(outlook);
            let now = self.tools.clock.instant();
            let next_generation_in = outlook.due.map(|due| due.saturating_duration_since(now));
            let forecast = Forecast { next_generation_in, ..outlook.forecast };
            self.tools.benches[card.0].arbiter.hint(forecast);
        }
    }

    fn outlook(&self, card: CardNo, due: Option<Instant>) -> Outlook {
        let (makeable, gathered) = (self.makeable(card), self.gathered(card));
        let scored = self.tools.benches[card.0].scorer.is_some();
        let now = self.tools.clock.instant();
        let (mut due, mut in_hand) = (due, None);
        let (queued_generations, queued_scorings) = match self.cards[card.0].state {
            CardState::Busy { turn: Turn::Making, since } => {
                in_hand = Some((Tenant::Generator, since));
                if gathered + 1 < self.batch(card) && self.has_next(card) {
                    (makeable.max(1), 0)
                } else {
                    (0, if scored { gathered + 1 } else { 0 })
                }
            }
            CardState::Busy { turn: Turn::Judging, since } => {
                in_hand = Some((Tenant::Scorer, since));
                if gathered > 0 { (0, gathered) } else { (makeable, 0) }
            }
            CardState::Idle { .. } | CardState::Gone { .. } => {
                // A lane that is due and was not asked is not asked for a reason.
                due = due.filter(|due| *due > now);
                if self.scores_next(card) { (0, gathered) } else { (makeable, 0) }
            }
        };
        let prices = self.prices();
        let cards = self.cards.iter().filter(|card| !card.is_gone()).count().max(1) as f64;
        let (lanes, period) = self.supply(card);
        let forecast = Forecast {
            next_generation_in: None,
            queued_generations,
            queued_scorings,
            in_hand,
            card_price: prices.card,
            lane_price: prices.lane,
            lanes: lanes / cards,
            period,
        };
        Outlook { due, forecast }
    }

    /// When the next tasks are expected, at most one per card.
    fn next_dues(&self) -> Vec<Instant> {
        if self.stopping.is_some() || self.tools.room.is_full() {
            return Vec::new();
        }
        let (now, pulling) = (self.tools.clock.moment(), self.measures.pulling());
        let pulls = self.running.values().filter(|running| matches!(running.job, Job::Pull(_)));
        let mut dues: Vec<Instant> = pulls.map(|running| running.since + pulling).collect();
        dues.sort_unstable();
        let most = self.cards.len();
        let asked = |(at, no): &(Instant, LaneNo)| {
            let lane = self.lanes.get(no)?;
            let fair = !self.measures.is_demoted(&lane.key.source) || *at > now.instant;
            (fair && self.may_ask_at_all(lane, now.wall)).then_some(*at + pulling)
        };
        dues.extend(self.resting.iter().filter_map(asked).take(most));
        dues.truncate(most);
        dues
    }

    /// Lanes that give tasks, and how long each takes for a candidate if none waits for others.
    fn supply(&self, card: CardNo) -> (f64, Duration) {
        let settings = &self.tools.settings;
        let times = self.tools.benches[card.0].arbiter.times();
        let now = self.tools.clock.now();
        let lanes = self.lanes.values().filter(|lane| self.may_ask_at_all(lane, now)).count();
        let candidates = self.measures.candidates(settings);
        let one = times.generation + times.scoring + times.swap;
        let elapsed = one.mul_f64(candidates) + self.measures.answering() + self.measures.pulling();
        (
            lanes as f64,
            self.measures.period(elapsed, self.measures.throttle(settings), settings).div_f64(candidates),
        )
    }
}
