//! How a devnet validator scores a result. It shares nothing with [`judge`](super::judge): another
//! reading of the prompt, other features, its own noise. So the local scorer's number and the
//! validator's differ as they do on the real network, and a mistake in one is not hidden by the other.

use std::collections::HashSet;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};

use crate::primitives::{Prompt, TaskId};
use crate::splat::{Gaussian, Splat};

/// Cells along each side of the grid that measures coverage.
const CELLS: f32 = 24.0;

/// A validator's way of scoring.
#[derive(Debug, Clone, Copy)]
pub struct AxonJudge {
    /// Makes two validators differ.
    pub seed: u64,
    /// Largest random difference, either way.
    pub noise: f64,
}

impl Default for AxonJudge {
    fn default() -> Self {
        Self { seed: 0, noise: 0.03 }
    }
}

impl AxonJudge {
    /// Scores `splat`, which was decoded from `bytes`. The same task, bytes and seed always give the
    /// same score; 0.0 is a rejection.
    pub fn score(&self, task: &TaskId, prompt: &Prompt, bytes: &[u8], splat: &Splat) -> f64 {
        let points = splat.gaussians();
        if !is_acceptable(points) {
            return 0.0;
        }
        let colour = match prompt {
            Prompt::Text(text) => colour_match(text, points),
            Prompt::Image(_) | Prompt::Other(_) => 0.8,
        };
        let plain = 0.20 + 0.18 * coverage(points) + 0.16 * solidity(points) + 0.36 * colour;
        (plain + self.noise_of(task, bytes)).clamp(0.0, 1.0)
    }

    fn noise_of(&self, task: &TaskId, bytes: &[u8]) -> f64 {
        let digest = Sha256::new()
            .chain_update(self.seed.to_be_bytes())
            .chain_update(task.as_str().as_bytes())
            .chain_update([0])
            .chain_update(bytes)
            .finalize();
        StdRng::from_seed(digest.into()).random_range(-1.0..=1.0) * self.noise
    }
}

fn opacity(point: &Gaussian) -> f64 {
    f64::from(1.0 / (1.0 + (-point.logit_opacity).exp()))
}

fn is_acceptable(points: &[Gaussian]) -> bool {
    let all_finite = points.iter().all(|p| {
        p.position.iter().chain(&p.f_dc).chain(&p.log_scale).chain(&p.rotation).all(|v| v.is_finite())
            && !p.logit_opacity.is_nan()
    });
    let seen = points.iter().filter(|p| opacity(p) >= 0.001).count();
    let at_one = points.iter().take(3).any(|p| p.position.iter().all(|v| (v - 1.0).abs() < 1e-5));
    // Equal up to rounding: the length of the quaternion is free, its imaginary part decides.
    let turned = points.iter().any(|p| p.rotation[0] <= 0.0 || p.rotation[1..].iter().any(|v| *v != 0.0));
    points.len() >= 7_000 && all_finite && !at_one && turned && seen * 5 >= points.len()
}

/// 1 when the points reach many places of their own bounding cube.
fn coverage(points: &[Gaussian]) -> f64 {
    let low: [f32; 3] =
        std::array::from_fn(|i| points.iter().map(|p| p.position[i]).fold(f32::MAX, f32::min));
    let high: [f32; 3] =
        std::array::from_fn(|i| points.iter().map(|p| p.position[i]).fold(f32::MIN, f32::max));
    let side = (0..3).map(|i| high[i] - low[i]).fold(1e-6, f32::max);
    let cells: HashSet<[u8; 3]> = points
        .iter()
        .map(|p| std::array::from_fn(|i| ((p.position[i] - low[i]) / side * (CELLS - 1.0)) as u8))
        .collect();
    (cells.len() as f64 / 350.0).min(1.0)
}

/// 1 when the typical point is opaque.
fn solidity(points: &[Gaussian]) -> f64 {
    let mut values: Vec<f64> = points.iter().map(opacity).collect();
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// A range of hues in degrees, or of greys.
enum Tone {
    Hue { from: f64, to: f64, value: (f64, f64) },
    Grey { from: f64, to: f64 },
}

fn tone(word: &str) -> Option<Tone> {
    let hue = |from, to| Tone::Hue { from, to, value: (0.0, 1.0) };
    Some(match word {
        "red" | "crimson" | "scarlet" => Tone::Hue { from: 340.0, to: 374.0, value: (0.3, 1.0) },
        "orange" => Tone::Hue { from: 12.0, to: 42.0, value: (0.66, 1.0) },
        "brown" | "wooden" | "wood" => Tone::Hue { from: 10.0, to: 45.0, value: (0.1, 0.68) },
        "yellow" | "gold" | "golden" => hue(38.0, 68.0),
        "green" | "emerald" => hue(85.0, 160.0),
        "cyan" | "turquoise" | "teal" => hue(165.0, 200.0),
        "blue" | "azure" => hue(205.0, 255.0),
        "purple" | "violet" => hue(258.0, 305.0),
        "pink" => Tone::Hue { from: 308.0, to: 352.0, value: (0.6, 1.0) },
        "white" | "marble" | "porcelain" => Tone::Grey { from: 0.68, to: 1.01 },
        "grey" | "gray" | "stone" | "concrete" => Tone::Grey { from: 0.3, to: 0.66 },
        "silver" | "metal" | "metallic" | "steel" => Tone::Grey { from: 0.45, to: 0.9 },
        "black" => Tone::Grey { from: -0.01, to: 0.25 },
        _ => return None,
    })
}

impl Tone {
    fn contains(&self, [r, g, b]: [f64; 3]) -> bool {
        let (most, least) = (r.max(g).max(b), r.min(g).min(b));
        let chroma = most - least;
        match *self {
            Self::Grey { from, to } => chroma < 0.12 && (from..to).contains(&most),
            Self::Hue { from, to, value } => {
                if chroma < 0.1 || !(value.0..=value.1).contains(&most) {
                    return false;
                }
                let sixth = if most == r {
                    (g - b) / chroma
                } else if most == g {
                    (b - r) / chroma + 2.0
                } else {
                    (r - g) / chroma + 4.0
                };
                let degrees = (sixth * 60.0).rem_euclid(360.0);
                (from..to).contains(&degrees) || (from..to).contains(&(degrees + 360.0))
            }
        }
    }
}

/// Mean over the prompt's colour words of how much of the cloud has that tone; 0.75 without any.
fn colour_match(prompt: &str, points: &[Gaussian]) -> f64 {
    let prompt = prompt.to_ascii_lowercase();
    let tones: Vec<Tone> =
        prompt.split(|c: char| !c.is_ascii_alphabetic()).filter_map(tone).take(8).collect();
    if tones.is_empty() {
        return 0.75;
    }
    let total: f64 = points.iter().map(opacity).sum();
    let share = |tone: &Tone| {
        let matching = points
            .iter()
            .filter(|p| tone.contains(p.f_dc.map(|v| f64::from(v.mul_add(0.282_095, 0.5)).clamp(0.0, 1.0))));
        matching.map(opacity).sum::<f64>() / total
    };
    let wanted = 0.2 / tones.len() as f64;
    tones.iter().map(|tone| (share(tone) / wanted).min(1.0)).sum::<f64>() / tones.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devnet::shapes::{GAUSSIANS, generate};
    use crate::splat::ShDegree;

    fn id(name: &str) -> TaskId {
        TaskId::new(name).unwrap()
    }

    fn score(prompt: &str, made_for: &str) -> f64 {
        let splat = generate(made_for, 3, GAUSSIANS);
        AxonJudge::default().score(&id("t"), &Prompt::Text(prompt.into()), made_for.as_bytes(), &splat)
    }

    #[test]
    fn what_the_generator_makes_scores_between_065_and_095() {
        for prompt in crate::devnet::tasks::PROMPTS {
            let score = score(prompt, prompt);
            assert!((0.65..=0.95).contains(&score), "{prompt}: {score}");
        }
    }

    #[test]
    fn a_relief_of_a_picture_scores_between_065_and_095() {
        for (number, text) in crate::devnet::tasks::PROMPTS.iter().enumerate() {
            let picture = crate::devnet::pictures::png(text, number as u32);
            let splat = crate::devnet::relief::generate(&picture, 1, GAUSSIANS).unwrap();
            let prompt = Prompt::Image("unread".into());
            let score = AxonJudge::default().score(&id("t"), &prompt, &picture, &splat);
            assert!((0.65..=0.95).contains(&score), "{text}: {score}");
        }
    }

    #[test]
    fn a_wrong_colour_fails() {
        for asked in ["red", "green", "blue", "yellow", "white", "black", "purple"] {
            for made in ["red", "green", "blue", "yellow", "white", "black", "purple"] {
                let score = score(&format!("a {asked} cone"), &format!("a {made} cone"));
                assert_eq!(score > 0.6, asked == made, "asked {asked}, made {made}: {score}");
            }
        }
    }

    #[test]
    fn task_bytes_and_seed_decide_and_nothing_else() {
        let splat = generate("a red cube", 3, GAUSSIANS);
        let prompt = Prompt::Text("a red cube".into());
        let judge = AxonJudge { seed: 1, ..AxonJudge::default() };
        let first = judge.score(&id("t"), &prompt, b"bytes", &splat);
        assert_eq!(first, judge.score(&id("t"), &prompt, b"bytes", &splat));
        assert_ne!(first, judge.score(&id("u"), &prompt, b"bytes", &splat));
        assert_ne!(first, judge.score(&id("t"), &prompt, b"other", &splat));
        assert_ne!(first, AxonJudge { seed: 2, ..judge }.score(&id("t"), &prompt, b"bytes", &splat));
    }

    #[test]
    fn what_breaks_a_data_rule_scores_nothing() {
        let whole = generate("a red cube", 3, GAUSSIANS);
        let with = |count: usize, change: fn(&mut Gaussian)| {
            let mut splat = Splat::new(ShDegree::Zero);
            for g in &whole.gaussians()[..count] {
                let mut g = *g;
                change(&mut g);
                splat.push(g);
            }
            AxonJudge::default().score(&id("t"), &Prompt::Text("a red cube".into()), b"", &splat)
        };
        assert!(with(7_000, |_| ()) > 0.6);
        assert_eq!(with(6_999, |_| ()), 0.0);
        assert_eq!(with(0, |_| ()), 0.0);
        assert_eq!(with(7_000, |g| g.position = [1.0; 3]), 0.0);
        assert_eq!(with(7_000, |g| g.logit_opacity = -7.0), 0.0);
        assert_eq!(with(7_000, |g| g.rotation = [1.0, 0.0, 0.0, 0.0]), 0.0);
        assert_eq!(with(7_000, |g| g.f_dc[0] = f32::NAN), 0.0);
    }
}
