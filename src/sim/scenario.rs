//! What is simulated.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::memory::all_fit;
use crate::devnet::rules::ValidatorRules;
use crate::primitives::MiB;

/// Whether generator and scorer take turns in a card's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Handoff {
    /// Both fit: nothing is moved.
    Off,
    /// The scorer leaves before each generation and comes back after it.
    PerTask,
    /// As the agent sees fit, on a card that holds so much and shows what it holds.
    #[serde(untagged)]
    Card(#[serde(serialize_with = "mib")] MiB),
}

fn mib<S: Serializer>(amount: &MiB, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(amount.0)
}

/// `decide.unscored` of the simulated agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unscored {
    Never,
    Auto,
    Always,
}

impl Unscored {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Auto => "auto",
            Self::Always => "always",
        }
    }
}

/// `decide.candidates` of the simulated agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Candidates {
    Auto,
    Count(u32),
}

/// As in the configuration: a number, or "auto".
impl Serialize for Candidates {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Count(count) => serializer.serialize_u32(*count),
        }
    }
}

/// A stretch of mining. The default is the reference case of rules.md R9 at the point where its
/// validators and its card are both nearly busy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scenario {
    /// g: from a generator's request to its last byte.
    #[serde(rename = "generation_s", serialize_with = "seconds")]
    pub generation: Duration,
    /// v: one call of the scorer.
    #[serde(rename = "scoring_s", serialize_with = "seconds")]
    pub scoring: Duration,
    /// The parts of h: the scorer leaves the card, and comes back.
    #[serde(rename = "unload_s", serialize_with = "seconds")]
    pub unload: Duration,
    #[serde(rename = "reload_s", serialize_with = "seconds")]
    pub reload: Duration,
    pub handoff: Handoff,
    /// q: a candidate passes, here and at the validator alike.
    pub pass: f64,
    /// K.
    pub validators: u16,
    pub hotkeys: u16,
    pub cards: u16,
    /// C, T, P and the lock are those that are looked at.
    #[serde(flatten, serialize_with = "times")]
    pub rules: ValidatorRules,
    /// What the network adds to each call.
    #[serde(rename = "network_s", serialize_with = "seconds")]
    pub network: Duration,
    /// What a validator takes to score a result; it scores any number at once.
    #[serde(rename = "remote_scoring_s", serialize_with = "seconds")]
    pub remote_scoring: Duration,
    /// How far the validators' clocks are ahead of ours, in nanoseconds; repeated for further ones.
    #[serde(rename = "clocks_ahead_ns")]
    pub clocks_ahead: Vec<i64>,
    /// Not counted.
    #[serde(rename = "warm_up_s", serialize_with = "seconds")]
    pub warm_up: Duration,
    /// Counted.
    #[serde(rename = "time_s", serialize_with = "seconds")]
    pub time: Duration,
    pub seed: u64,
    /// `None`: the agent's own default.
    pub max_retries: Option<u32>,
    pub candidates: Candidates,
    pub unscored: Unscored,
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

fn times<S: Serializer>(rules: &ValidatorRules, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeMap;

    let mut map = serializer.serialize_map(Some(4))?;
    for (name, time) in [
        ("cooldown_s", rules.cooldown),
        ("throttle_s", rules.throttle),
        ("penalty_s", rules.penalty),
        ("lock_s", rules.lock),
    ] {
        map.serialize_entry(name, &time.as_secs_f64())?;
    }
    map.end()
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            generation: Duration::from_secs(30),
            scoring: Duration::from_secs(5),
            unload: Duration::from_millis(2_500),
            reload: Duration::from_millis(2_500),
            handoff: Handoff::PerTask,
            pass: 1.0,
            validators: 7,
            hotkeys: 1,
            cards: 1,
            rules: ValidatorRules::default(),
            network: Duration::from_millis(500),
            remote_scoring: Duration::from_secs(4),
            clocks_ahead: Vec::new(),
            warm_up: Duration::from_secs(4 * 3_600),
            time: Duration::from_secs(36 * 3_600),
            seed: 1,
            max_retries: None,
            candidates: Candidates::Count(1),
            unscored: Unscored::Never,
        }
    }
}

impl Scenario {
    /// b: seconds of a card for one candidate that is scored.
    pub fn card_time(&self) -> Duration {
        let moving = match self.handoff {
            Handoff::Off => Duration::ZERO,
            Handoff::Card(card) if all_fit(card) => Duration::ZERO,
            // If the scorer moved for each of them.
            Handoff::PerTask | Handoff::Card(_) => self.unload + self.reload,
        };
        self.generation + self.scoring + moving
    }

    /// Tasks per hour by the formula of rules.md R9, "Capacity", if every result passes.
    pub fn capacity(&self) -> f64 {
        let rules = &self.rules;
        let b = self.card_time().as_secs_f64();
        // Half of a pull's delay, the whole of a submission's: see `wire`.
        let e = b + 1.5 * self.network.as_secs_f64() + self.remote_scoring.as_secs_f64();
        let cooldown = rules.cooldown.as_secs_f64();
        let period = cooldown.max(e + cooldown - rules.throttle.as_secs_f64());
        let lanes = f64::from(self.validators) * f64::from(self.hotkeys);
        (lanes * 3_600.0 / period).min(f64::from(self.cards) * 3_600.0 / b)
    }

    pub fn clock_ahead(&self, validator: u16) -> i64 {
        match self.clocks_ahead.len() {
            0 => 0,
            count => self.clocks_ahead[usize::from(validator) % count],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formula_of_the_capacity_table() {
        for (validators, tasks) in [(1, 11.4), (4, 45.8), (7, 80.1), (8, 90.0), (20, 90.0)] {
            let scenario = Scenario { validators, ..Scenario::default() };
            assert!((scenario.capacity() - tasks).abs() < 0.06, "{validators}: {}", scenario.capacity());
        }
    }
}
