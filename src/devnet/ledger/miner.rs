//! What a validator knows of one uid.

use std::collections::VecDeque;
use std::time::Duration;

use super::{DevTask, FeedbackFields, SubmitAnswer, ValidatorRules, whole_seconds};
use crate::primitives::UnixTime;

#[derive(Debug, Clone)]
pub(super) struct Assignment {
    pub task: DevTask,
    at: UnixTime,
}

#[derive(Debug)]
pub(super) struct MinerRecord {
    pub assigned: Option<Assignment>,
    /// Whole seconds, [`UnixTime::EPOCH`] at first.
    pub cooldown_until: UnixTime,
    pub violations: u32,
    /// Whole seconds.
    pub locked_until: UnixTime,
    pub rating: f64,
    /// Longest time between the end of a cooldown and the pull that brought the next task.
    pub longest_idle: Duration,
    /// Whole seconds of the last accepted result.
    last_accepted: Option<UnixTime>,
    /// Whole seconds of the accepted results that still count, oldest first.
    observations: VecDeque<UnixTime>,
    average: f64,
}

impl MinerRecord {
    /// A new owner of a uid: everything fresh but the previous one's open task.
    pub fn succeeding(previous: Option<Self>, rating: f64) -> Self {
        Self {
            assigned: previous.and_then(|miner| miner.assigned),
            cooldown_until: UnixTime::EPOCH,
            violations: 0,
            locked_until: UnixTime::EPOCH,
            rating,
            longest_idle: Duration::ZERO,
            last_accepted: None,
            observations: VecDeque::new(),
            average: 1.0,
        }
    }

    pub fn assigned_or(&mut self, now: UnixTime, next: impl FnOnce() -> DevTask) -> &DevTask {
        if self.cooldown_until > UnixTime::EPOCH {
            self.longest_idle = self.longest_idle.max(self.idle(self.cooldown_until, now));
        }
        &self.assigned.get_or_insert_with(|| Assignment { task: next(), at: now }).task
    }

    /// For how long an ended cooldown is unused; with none so far, the time since `since`.
    pub fn idle(&self, since: UnixTime, now: UnixTime) -> Duration {
        match self.assigned {
            Some(_) => Duration::ZERO,
            None => now.saturating_since(self.cooldown_until.max(since)),
        }
    }

    pub fn window_count(&self, rules: &ValidatorRules, now: UnixTime) -> u64 {
        let oldest = whole_seconds(now) - rules.window;
        self.observations.iter().filter(|at| **at >= oldest).count() as u64
    }

    /// Takes the task away and sets the cooldown (rules.md R2).
    pub fn close(&mut self, now: UnixTime, cooldown: Duration, throttle: Duration) {
        self.cooldown_until = whole_seconds(match self.assigned.take() {
            Some(assignment) => (now + cooldown - throttle).max(assignment.at + cooldown),
            None => whole_seconds(now) + cooldown,
        });
    }

    /// Whether an accepted result is so recent that another one is not believed (rules.md R4).
    pub fn is_guarded(&self, now: UnixTime, rules: &ValidatorRules) -> bool {
        self.last_accepted.is_some_and(|at| at + rules.cooldown - rules.throttle > now)
    }

    pub fn credit(&mut self, now: UnixTime, score: f64, alpha: f64) {
        self.observations.push_back(whole_seconds(now));
        self.average = self.average * (1.0 - alpha) + score * alpha;
        self.last_accepted = Some(whole_seconds(now));
    }

    pub fn answer(
        &mut self,
        rules: &ValidatorRules,
        now: UnixTime,
        score: f64,
        validation_failed: bool,
    ) -> SubmitAnswer {
        let oldest = whole_seconds(now) - rules.window;
        while self.observations.front().is_some_and(|at| *at < oldest) {
            self.observations.pop_front();
        }
        let count = self.observations.len();
        SubmitAnswer {
            feedback: FeedbackFields {
                validation_failed,
                task_fidelity_score: score,
                average_fidelity_score: self.average,
                generations_within_the_window: count as u64,
                current_duel_rating: self.rating,
                current_miner_reward: count as f64 * self.rating,
            },
            cooldown_until: self.cooldown_until,
        }
    }
}
