//! The constants of one validator.

use std::time::Duration;

/// What a validator may set for itself (rules.md R1). The defaults are those of the real ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ValidatorRules {
    /// C: time between two tasks of one miner.
    pub cooldown: Duration,
    /// T: an answer faster than this does not shorten the cooldown.
    pub throttle: Duration,
    /// P: added to the cooldown after a low score or a wrong signature.
    pub penalty: Duration,
    /// A second result within this time of the first one's arrival is not scored.
    pub lock: Duration,
    /// Lowest accepted score.
    pub threshold: f64,
    /// Early pulls that cost nothing (rules.md R3).
    pub violation_limit: u32,
    /// Added to the cooldown by each early pull beyond the limit.
    pub violation_penalty: Duration,
    /// Weight of a new score in the moving average.
    pub fidelity_alpha: f64,
    /// How long an accepted result counts.
    pub window: Duration,
    /// Wait told to a miner that is not registered.
    pub unregistered_wait: Duration,
    /// Duel rating of a miner whose rating nobody has set. The devnet fights no duels.
    pub rating: f64,
}

impl Default for ValidatorRules {
    fn default() -> Self {
        Self {
            cooldown: Duration::from_secs(300),
            throttle: Duration::from_secs(30),
            penalty: Duration::from_secs(600),
            lock: Duration::from_secs(30),
            threshold: 0.6,
            violation_limit: 100,
            violation_penalty: Duration::from_secs(10),
            fidelity_alpha: 0.05,
            window: Duration::from_secs(4 * 60 * 60),
            unregistered_wait: Duration::from_secs(3_600),
            rating: 1_500.0,
        }
    }
}

impl ValidatorRules {
    /// The short constants of the network that `run` starts by itself (answers.md, "Interfaces").
    pub fn fast() -> Self {
        Self {
            cooldown: Duration::from_secs(15),
            throttle: Duration::from_secs(3),
            penalty: Duration::from_secs(30),
            lock: Duration::from_secs(3),
            ..Self::default()
        }
    }
}
