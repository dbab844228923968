//! Luck: which candidates pass.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::splats::Quality;

/// Whether candidates pass, in the order in which they are made: two policies under one seed meet
/// the same luck, so that comparing them is fair after few hours already.
#[derive(Debug)]
pub(super) struct Luck {
    pass: f64,
    drawn: Mutex<Drawn>,
}

#[derive(Debug)]
struct Drawn {
    rng: StdRng,
    /// A generator makes the same of the same prompt and seed again.
    known: HashMap<(String, i64), Quality>,
    order: VecDeque<(String, i64)>,
}

impl Luck {
    /// Candidates remembered: more than are ever between a candidate and its repetition.
    const KNOWN: usize = 1_024;

    pub(super) fn new(seed: u64, pass: f64) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self { pass, drawn: Mutex::new(Drawn { rng, known: HashMap::new(), order: VecDeque::new() }) }
    }

    pub(super) fn draw(&self, prompt: &str, seed: i64) -> Quality {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (prompt.to_owned(), seed);
        if let Some(quality) = drawn.known.get(&key) {
            return *quality;
        }
        let quality = if drawn.rng.random::<f64>() < self.pass { Quality::Good } else { Quality::Bad };
        if drawn.order.len() == Self::KNOWN
            && let Some(oldest) = drawn.order.pop_front()
        {
            drawn.known.remove(&oldest);
        }
        drawn.known.insert(key.clone(), quality);
        drawn.order.push_back(key);
        quality
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn luck_is_a_share_and_the_same_again() {
        let luck = Luck::new(7, 0.3);
        let good = (0..4_000).filter(|seed| luck.draw("a", *seed) == Quality::Good).count();
        assert!((1_110..=1_290).contains(&good), "{good} of 4000");
        let (last, other) = (luck.draw("a", 3_999), Luck::new(7, 0.3));
        assert!((0..50).all(|_| luck.draw("a", 3_999) == last), "a seed used again");
        let order = |luck: &Luck| (10_000..10_050).map(|seed| luck.draw("b", seed)).collect::<Vec<_>>();
        assert_eq!(order(&other), order(&Luck::new(7, 0.3)));
        assert_ne!(order(&other), order(&Luck::new(8, 0.3)));
        for (pass, quality) in [(0.0, Quality::Bad), (1.0, Quality::Good)] {
            let luck = Luck::new(1, pass);
            assert!((0..100).all(|seed| luck.draw("a", seed) == quality));
        }
    }
}
