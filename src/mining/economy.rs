//! What things take and bring, as measured by this process: the figures behind every decision.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::calibration::{Calibration, ScorePair};
use super::demotion::Acceptance;
use super::passing::Passing;
use super::prices::{Economy, Prices};
use super::{Settings, UnscoredPolicy};
use crate::primitives::{Score, SourceId, UnixTime};
use crate::store::{CalibrationPair, RecentMaking, Store, StoreError};

/// A running mean that forgets: the last dozen observations make most of it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Mean {
    seconds: f64,
    count: u32,
}

impl Mean {
    const WEIGHT: f64 = 0.1;

    pub(super) fn observe(&mut self, time: Duration) {
        self.count = self.count.saturating_add(1);
        let weight = Self::WEIGHT.max(1.0 / f64::from(self.count));
        self.seconds += weight * (time.as_secs_f64() - self.seconds);
    }

    pub(super) fn get(&self) -> Option<Duration> {
        (self.count > 0).then(|| Duration::from_secs_f64(self.seconds.clamp(0.0, 1e9)))
    }
}

/// Stands in for what was not measured yet: the reference case of rules.md R9.
const USUAL_MAKING: Duration = Duration::from_secs(30);
const USUAL_JUDGING: Duration = Duration::from_secs(5);
const USUAL_ANSWERING: Duration = Duration::from_secs(5);
const USUAL_PULL: Duration = Duration::from_millis(500);

/// Pairs of local score and outcome that calibrate the gate: enough for a day of one card.
const PAIRS: usize = 400;
const PAIRS_AGE: Duration = Duration::from_secs(24 * 3_600);

/// What is read back at the start.
const RECALLED: u32 = 2_000;
const RECALLED_TIMES: u32 = 30;

/// Replies by which a validator is judged.
const ACCEPTANCE: usize = 100;

/// Tasks whose T is remembered.
const THROTTLES: usize = 15;

/// A throttle of nothing, or of hours, is no rule of the subnet's.
pub(super) fn is_throttle(throttle: Duration) -> bool {
    (Duration::from_secs(1)..=Duration::from_secs(3_600)).contains(&throttle)
}

/// A result that was judged here and there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pair {
    pub(super) local: Score,
    pub(super) threshold: Score,
    pub(super) accepted: bool,
    pub(super) at: UnixTime,
}

impl From<CalibrationPair> for Pair {
    fn from(pair: CalibrationPair) -> Self {
        let CalibrationPair { source: _, local, threshold, accepted, at } = pair;
        Self { local, threshold, accepted, at }
    }
}

/// Everything that was measured.
#[derive(Debug)]
pub(super) struct Measures {
    /// Card seconds of a generation, without hand-off.
    making: Mean,
    /// Card seconds of a scoring, with bringing the scorer in.
    judging: Mean,
    /// Moving the scorer out, once per scoring.
    unloading: Mean,
    pulling: Mean,
    /// From sending an answer to its reply.
    answering: Mean,
    pub(super) passing: Passing,
    /// Newest first.
    pairs: VecDeque<Pair>,
    calibration: Calibration,
    gate_margin: f64,
    /// How each validator answered results that were good here, newest first.
    acceptance: HashMap<SourceId, VecDeque<Pair>>,
    /// Those that refuse what should pass, beyond chance: asked for at every turn, so found once per
    /// answer.
    demoted: HashSet<SourceId>,
    /// C and T as replies showed them.
    pub(super) cooldown: Mean,
    throttles: VecDeque<Duration>,
}

impl Measures {
    pub(super) fn new(gate_margin: f64) -> Self {
        Self {
            making: Mean::default(),
            judging: Mean::default(),
            unloading: Mean::default(),
            pulling: Mean::default(),
            answering: Mean::default(),
            passing: Passing::default(),
            pairs: VecDeque::new(),
            calibration: Calibration::new([], gate_margin),
            gate_margin,
            acceptance: HashMap::new(),
            demoted: HashSet::new(),
            cooldown: Mean::default(),
            throttles: VecDeque::new(),
        }
    }

    /// What an earlier run left: its figures stand until this one has better ones.
    pub(super) async fn recalled(store: &Store, now: UnixTime, gate_margin: f64) -> Result<Self, StoreError> {
        let mut measures = Self::new(gate_margin);
        let pairs = store.calibration_pairs(RECALLED, now - PAIRS_AGE).await?;
        for pair in pairs.into_iter().rev() {
            measures.settled(pair.source, pair.into());
        }
        let recent = store.recent_durations(RECALLED_TIMES).await?;
        for making in recent.makings.into_values().flat_map(|newest| newest.into_iter().rev()) {
            let RecentMaking { handoff, generation, encoding, scoring, .. } = making;
            measures.making.observe(generation + encoding.unwrap_or_default());
            scoring.into_iter().for_each(|took| measures.judging.observe(took));
            handoff
                .filter(|took| !took.is_zero())
                .into_iter()
                .for_each(|took| measures.unloading.observe(took));
        }
        for answer in recent.answers.into_values().flat_map(|newest| newest.into_iter().rev()) {
            if answer.result {
                measures.answering.observe(answer.upload + answer.reply);
            }
        }
        Ok(measures)
    }

    /// A generation held the card for `took`, of which `handoff` went into moving the scorer out.
    pub(super) fn made(&mut self, took: Duration, handoff: Duration) {
        self.making.observe(took.saturating_sub(handoff));
        if !handoff.is_zero() {
            self.unloading.observe(handoff);
        }
    }

    pub(super) fn judged(&mut self, took: Duration) {
        self.judging.observe(took);
    }

    pub(super) fn pulled(&mut self, took: Duration) {
        self.pulling.observe(took);
    }

    pub(super) fn answered(&mut self, took: Duration) {
        self.answering.observe(took);
    }

    /// Card time of one generation as the loop sees it, with moving the scorer out.
    pub(super) fn making(&self) -> Duration {
        self.making.get().unwrap_or(USUAL_MAKING) + self.unloading.get().unwrap_or_default()
    }

    /// The same without moving anybody.
    pub(super) fn generating(&self) -> Duration {
        self.making.get().unwrap_or(USUAL_MAKING)
    }

    /// Candidates that a task takes on average.
    pub(super) fn candidates(&self, settings: &Settings) -> f64 {
        let mut reached = 1.0;
        let pass = self.passing.vector(settings.max_retries);
        let share = |pass: f64| {
            let share = reached;
            reached *= 1.0 - pass.clamp(0.0, 1.0);
            share
        };
        pass.into_iter().map(share).sum::<f64>().max(1.0)
    }

    pub(super) fn pulling(&self) -> Duration {
        self.pulling.get().unwrap_or(USUAL_PULL)
    }

    pub(super) fn has_made(&self) -> bool {
        self.making.get().is_some()
    }

    pub(super) fn judging(&self) -> Duration {
        self.judging.get().unwrap_or(USUAL_JUDGING)
    }

    /// Card time of one scored candidate.
    pub(super) fn candidate(&self) -> Duration {
        self.making() + self.judging()
    }

    /// What a pull takes: the lead with which the next task is fetched, at most a second.
    pub(super) fn lead(&self) -> Duration {
        (self.pulling() + Duration::from_millis(50)).min(Duration::from_secs(1))
    }

    /// The part of a task's time at its validator that is no card time.
    pub(super) fn answering(&self) -> Duration {
        self.answering.get().unwrap_or(USUAL_ANSWERING)
    }

    /// C.
    pub(super) fn cooldown(&self, settings: &Settings) -> Duration {
        self.cooldown.get().unwrap_or(settings.cooldown)
    }

    /// T: the median of what was told lately, so that one validator does not speak for all.
    pub(super) fn throttle(&self, settings: &Settings) -> Duration {
        let mut told: Vec<Duration> = self.throttles.iter().copied().collect();
        told.sort_unstable();
        told.get(told.len() / 2).copied().unwrap_or(settings.throttle)
    }

    /// Takes in the T of a task.
    pub(super) fn told_throttle(&mut self, throttle: Duration) {
        if is_throttle(throttle) {
            self.throttles.push_front(throttle);
            self.throttles.truncate(THROTTLES);
        }
    }

    /// From one task of a lane to the next when it took `elapsed`, with its T (rules.md R2).
    pub(super) fn period(&self, elapsed: Duration, throttle: Duration, settings: &Settings) -> Duration {
        let cooldown = self.cooldown(settings);
        cooldown.max((elapsed + cooldown).saturating_sub(throttle))
    }

    /// Takes in how a submitted result fared.
    pub(super) fn settled(&mut self, source: SourceId, pair: Pair) {
        let answers = self.acceptance.entry(source).or_default();
        answers.push_front(pair);
        answers.truncate(ACCEPTANCE);
        let mut acceptance = Acceptance::default();
        for Pair { local, threshold, accepted, .. } in &*answers {
            acceptance.observe(local.get(), threshold.get(), *accepted);
        }
        if acceptance.demotes() {
            self.demoted.insert(source);
        } else {
            self.demoted.remove(&source);
        }
        // One validator that refuses everything says nothing about the scorer.
        if pair.accepted || !self.is_demoted(&source) {
            self.pairs.push_front(pair);
            self.pairs.truncate(PAIRS);
            self.calibrate(pair.at);
        }
    }

    /// Old pairs are of another scorer or another threshold.
    pub(super) fn calibrate(&mut self, now: UnixTime) {
        self.pairs.retain(|pair| pair.at + PAIRS_AGE > now);
        let pairs = self.pairs.iter().map(|Pair { local, threshold, accepted, .. }| ScorePair {
            local: local.get(),
            threshold: threshold.get(),
            accepted: *accepted,
        });
        self.calibration = Calibration::new(pairs, self.gate_margin);
    }

    pub(super) fn calibration(&self) -> &Calibration {
        &self.calibration
    }

    /// Whether a validator refuses what should pass, beyond chance.
    pub(super) fn is_demoted(&self, source: &SourceId) -> bool {
        self.demoted.contains(source)
    }

    pub(super) fn has_demoted(&self) -> bool {
        !self.demoted.is_empty()
    }

    pub(super) fn economy(&self, lanes: usize, cards: usize, settings: &Settings) -> Economy {
        let accepted = self.pairs.iter().filter(|pair| pair.accepted).count() as f64;
        Economy {
            lanes: lanes as f64,
            cards: cards as f64,
            cooldown: self.cooldown(settings),
            throttle: self.throttle(settings),
            penalty: settings.penalty,
            generating: self.making.get().unwrap_or(USUAL_MAKING),
            scoring: self.judging() + self.unloading.get().unwrap_or_default(),
            answering: self.answering() + self.pulling.get().unwrap_or(USUAL_PULL),
            pass: self.passing.vector(settings.max_retries),
            // As if ten had been accepted before the first.
            accepted: (accepted + 10.0) / (self.pairs.len() as f64 + 10.0),
            max_retries: settings.max_retries,
        }
    }

    pub(super) fn prices(&self, lanes: usize, cards: usize, settings: &Settings, scored: bool) -> Prices {
        let may_skip = scored && settings.unscored == UnscoredPolicy::Auto;
        Prices::of(&self.economy(lanes, cards, settings), may_skip)
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::tests::settings;
    use super::*;

    #[test]
    fn one_validator_does_not_speak_for_all() {
        const S: fn(u64) -> Duration = Duration::from_secs;
        let mut measures = Measures::new(0.01);
        assert_eq!(measures.throttle(&settings()), settings().throttle);
        for told in [20, 3_600, 20, 0, 20, 3_600, 86_400, 20, 3_600, 20] {
            measures.told_throttle(S(told));
        }
        assert_eq!(measures.throttle(&settings()), S(20));
        for _ in 0..THROTTLES {
            measures.told_throttle(S(60));
        }
        assert_eq!(measures.throttle(&settings()), S(60));
    }
}
