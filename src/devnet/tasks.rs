//! Tasks the devnet's validators give out.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::ledger::DevTask;
use super::pictures;
use crate::primitives::{Prompt, TaskId};

/// Prompts within the vocabulary of [`words`](super::words).
pub const PROMPTS: [&str; 40] = [
    "a red cube",
    "three blue spheres",
    "a green torus on a wooden table",
    "a yellow cone next to a purple cylinder",
    "a white snowman",
    "a small brown house",
    "two green pine trees",
    "a golden star",
    "a blue car beside a black bus",
    "a wooden boat",
    "a silver sword",
    "an orange pyramid",
    "a pink mug on a white table",
    "a black box under a yellow ball",
    "a stone tower",
    "a red mushroom near a green bush",
    "a teal vase on a wooden stool",
    "five purple rings",
    "a cyan lamp on a brown desk",
    "a big white rocket",
    "a tiny blue throne",
    "a marble column",
    "four orange candles",
    "a green tent beside a brown tree",
    "a metal barrel",
    "a crimson armchair",
    "a red apple on a blue plate",
    "two yellow lanterns",
    "a grey castle",
    "a purple wizard hat",
    "a wooden chest",
    "six silver coins",
    "a violet crystal",
    "an emerald ring",
    "a brown teddy bear next to a red ball",
    "a golden trophy on a black pedestal",
    "a turquoise teapot",
    "a scarlet lighthouse",
    "a blue dragon egg",
    "a pair of white dice",
];

/// A seeded stream of tasks.
#[derive(Debug)]
pub struct TaskMaker {
    rng: StdRng,
    image_share: f64,
}

impl TaskMaker {
    /// `image_share` is held between 0 and 1; the network's own is 0.2 (rules.md R1).
    pub fn new(seed: u64, image_share: f64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), image_share: image_share.clamp(0.0, 1.0) }
    }

    /// The next task, under an id of the form the validators use.
    pub fn next_task(&mut self) -> DevTask {
        let id = uuid::Builder::from_random_bytes(self.rng.random()).into_uuid().to_string();
        let text = PROMPTS.choose(&mut self.rng).copied().unwrap_or("a red cube");
        let prompt = if self.rng.random_bool(self.image_share) {
            Prompt::Image(Arc::from(pictures::prompt_image(text, self.rng.random())))
        } else {
            Prompt::Text(Arc::from(text))
        };
        let id = TaskId::new(&id).expect("a UUID of 36 characters is within the bound of a task id");
        DevTask { id, prompt }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::PromptKind;

    #[test]
    fn a_fifth_of_the_tasks_are_images_and_no_id_comes_twice() {
        let mut maker = TaskMaker::new(1, 0.2);
        let tasks: Vec<_> = (0..200).map(|_| maker.next_task()).collect();
        let images = tasks.iter().filter(|t| t.prompt.kind() == PromptKind::Image).count();
        assert!((25..=55).contains(&images), "{images} of 200");
        let ids: std::collections::HashSet<_> = tasks.iter().map(|t| t.id.clone()).collect();
        assert_eq!(ids.len(), 200);
        assert!(ids.iter().all(|id| id.as_str().len() == 36 && id.as_str().as_bytes()[14] == b'4'));
    }

    #[test]
    fn a_seed_is_repeatable() {
        let stream = |seed| {
            let mut maker = TaskMaker::new(seed, 0.5);
            (0..6).map(|_| maker.next_task()).collect::<Vec<_>>()
        };
        assert_eq!(stream(7), stream(7));
        assert_ne!(stream(7), stream(8));
    }

    #[test]
    fn the_share_has_ends() {
        let kinds =
            |share| (0..5).map(|_| TaskMaker::new(1, share).next_task().prompt.kind()).collect::<Vec<_>>();
        assert_eq!(kinds(0.0), [PromptKind::Text; 5]);
        assert_eq!(kinds(9.0), [PromptKind::Image; 5]);
    }

    #[test]
    fn every_prompt_can_be_scored() {
        assert!(PROMPTS.iter().all(|prompt| prompt.len() <= 1_024));
    }
}
