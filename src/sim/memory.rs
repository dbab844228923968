//! What the workers of the reference case hold on a card: 19.6 GiB at the generator's peak, 4.7 GiB of
//! the scorer, on 24 GiB.
//!
//! A ledger that answers out-of-memory as a real server does: to whoever wants more than is free.

use std::time::Duration;

use crate::gpu::{ProcessMemory, Reading, WorkerId};
use crate::primitives::MiB;

/// Names of the workers on a simulated card.
pub(super) const GENERATOR: &str = "generator";
pub(super) const SCORER: &str = "scorer";

/// What a process keeps without its models; the generator between two works.
pub(super) const CONTEXT: MiB = MiB(400);

/// The scorer with its models.
pub(super) const SCORER_HOLDS: MiB = MiB(4_813);

/// Part of a generation: its share of the time, and the most it holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) name: &'static str,
    share: f64,
    pub(super) peak: MiB,
}

/// Of 30 s: an image 6.3, its shape 22, the splat 0.9, and the rest.
pub(super) const PARTS: [Part; 4] = [
    Part { name: "image", share: 0.21, peak: MiB(11_000) },
    Part { name: "shape", share: 22.0 / 30.0, peak: PEAK },
    Part { name: "splat", share: 0.03, peak: MiB(6_000) },
    Part { name: "rest", share: 0.8 / 30.0, peak: MiB(2_000) },
];

/// 19.6 GiB.
pub(super) const PEAK: MiB = MiB(20_070);

impl Part {
    pub(super) fn time(&self, generation: Duration) -> Duration {
        generation.mul_f64(self.share)
    }
}

/// Kept free by the agent unless it is told otherwise.
const MARGIN: MiB = MiB(512);

/// Whether generator and scorer work beside each other on a card of that size.
pub(super) fn all_fit(card: MiB) -> bool {
    PEAK.saturating_add(SCORER_HOLDS).saturating_add(MARGIN) <= card
}

/// Somebody wanted more than was free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfMemory;

/// Who holds what.
#[derive(Debug)]
pub(super) struct Ledger {
    card: MiB,
    generator: MiB,
    scorer: MiB,
}

impl Ledger {
    pub(super) fn of(card: MiB) -> Self {
        Self { card, generator: CONTEXT, scorer: SCORER_HOLDS }
    }

    pub(super) fn generator_holds(&mut self, amount: MiB) -> Result<(), OutOfMemory> {
        if amount.saturating_add(self.scorer) > self.card {
            return Err(OutOfMemory);
        }
        self.generator = amount;
        Ok(())
    }

    pub(super) fn generator_rests(&mut self) {
        self.generator = CONTEXT;
    }

    pub(super) fn scorer_leaves(&mut self) {
        self.scorer = CONTEXT;
    }

    pub(super) fn scorer_holds(&mut self, amount: MiB) -> Result<(), OutOfMemory> {
        if amount.saturating_add(self.generator) > self.card {
            return Err(OutOfMemory);
        }
        self.scorer = amount;
        Ok(())
    }

    /// What a driver says of the card; `None` if it is too small to hold even these.
    pub(super) fn reading(&self, active: bool) -> Option<Reading> {
        let used = self.generator.saturating_add(self.scorer);
        let process = |(pid, name, used): (u32, &str, MiB)| ProcessMemory {
            pid,
            used,
            worker: Some(WorkerId::new(name)),
        };
        let processes = [(1, GENERATOR, self.generator), (2, SCORER, self.scorer)].map(process);
        let reading = Reading::new(self.card, self.card.saturating_sub(used)).ok()?;
        Some(reading.with_processes(processes.into()).with_activity(active))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_the_whole_and_a_full_card_says_no() {
        let thirty = Duration::from_secs(30);
        let sum: Duration = PARTS.iter().map(|part| part.time(thirty)).sum();
        assert!((sum.as_secs_f64() - 30.0).abs() < 1e-6, "{sum:?}");
        assert!(!all_fit(MiB(24_576)) && all_fit(MiB(32_768)));
        let mut ledger = Ledger::of(MiB(24_576));
        assert_eq!(ledger.generator_holds(PEAK), Err(OutOfMemory));
        ledger.scorer_leaves();
        assert_eq!(ledger.generator_holds(PEAK), Ok(()));
        assert_eq!(ledger.scorer_holds(SCORER_HOLDS), Err(OutOfMemory));
        let reading = ledger.reading(true).unwrap();
        assert_eq!((reading.free(), reading.held_by(&SCORER.into())), (MiB(4_106), Some(CONTEXT)));
    }
}
