//! The scorer's opinion of a cloud of Gaussians. It is no model and says so: it sees whether the
//! data rules hold, how the cloud is spread, how much of it is opaque, and whether its colours are
//! those the prompt names. A chair and a boat of one colour score alike.

use super::shapes::SH_C0;
use super::words::{self, Rgb};
use crate::splat::{Gaussian, Splat};

/// The data rule a cloud breaks (workers.md 2.3). D1 and D6 never reject and are not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BrokenRule {
    #[error("D2: fewer than 7000 splats")]
    TooFew,
    #[error("D3: one of the first three centroids is (1, 1, 1)")]
    CentroidsAtOne,
    #[error("D4: more than 80 % of the splats are transparent")]
    Transparent,
    #[error("D5: every rotation is the identity")]
    DefaultRotations,
    #[error("a value is not finite")]
    NotFinite,
}

/// The metrics of a reply, named as on the wire except that `quality` is `iqa` there.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Judgement {
    pub score: f64,
    pub quality: f64,
    pub alignment: f64,
    pub ssim: f64,
    pub lpips: f64,
}

/// Agreement of a prompt without colour words, about which nothing can be said.
const NEUTRAL: f64 = 0.72;

/// Rules D2 to D5, and the finite values every scorer needs.
///
/// # Errors
/// Names the first rule broken, in the order the validators ask.
pub fn data_rules(splat: &Splat) -> Result<(), BrokenRule> {
    let gaussians = splat.gaussians();
    if gaussians.len() < 7_000 {
        return Err(BrokenRule::TooFew);
    }
    let close =
        |value: f32, target: f32, absolute: f32| (value - target).abs() <= absolute + 1e-5 * target.abs();
    if gaussians.iter().take(3).any(|g| g.position.iter().all(|v| close(*v, 1.0, 1e-8))) {
        return Err(BrokenRule::CentroidsAtOne);
    }
    let transparent = gaussians.iter().filter(|g| sigmoid(g.logit_opacity) < 0.001).count();
    if transparent * 10 > gaussians.len() * 8 {
        return Err(BrokenRule::Transparent);
    }
    let is_identity = |g: &Gaussian| {
        let length = g.rotation.iter().map(|v| v * v).sum::<f32>().sqrt();
        let [w, rest @ ..] = g.rotation.map(|v| v / length);
        close(w, 1.0, 1e-8) && rest.iter().all(|v| close(*v, 0.0, 1e-8))
    };
    if gaussians.iter().all(is_identity) {
        return Err(BrokenRule::DefaultRotations);
    }
    let is_finite = |g: &Gaussian| {
        g.position.iter().chain(&g.log_scale).chain(&g.f_dc).chain([&g.logit_opacity]).all(|v| v.is_finite())
    };
    if gaussians.iter().all(is_finite) { Ok(()) } else { Err(BrokenRule::NotFinite) }
}

/// Judges a cloud against the words of a text prompt, or against nothing.
///
/// # Errors
/// When a data rule is broken: the score is then a hard zero.
pub fn judge(prompt: Option<&str>, splat: &Splat) -> Result<Judgement, BrokenRule> {
    data_rules(splat)?;
    let points = splat.gaussians();
    let visible =
        points.iter().filter(|g| sigmoid(g.logit_opacity) > 0.1).count() as f64 / points.len() as f64;
    let spread = spread(points);
    let (evenness, smoothness) = (evenness(points), smoothness(points));
    let quality = 0.35 * visible + 0.30 * spread + 0.20 * evenness + 0.15 * smoothness;
    let named = prompt.map(words::colours_named).unwrap_or_default();
    let alignment = if named.is_empty() { NEUTRAL } else { agreement(points, &named) };
    Ok(Judgement {
        // Form alone stays under the usual threshold of 0.6: the colour decides.
        score: 0.57 * quality + 0.37 * alignment,
        quality,
        alignment,
        ssim: evenness,
        lpips: smoothness,
    })
}

fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

/// 1 for a body, less for a sheet or a needle: the extents of the middle 96 % on each axis.
fn spread(points: &[Gaussian]) -> f64 {
    let mut extents: [f32; 3] = std::array::from_fn(|axis| {
        let mut values: Vec<f32> = points.iter().map(|g| g.position[axis]).collect();
        values.sort_unstable_by(f32::total_cmp);
        let at = |share: f64| values[((values.len() - 1) as f64 * share) as usize];
        at(0.98) - at(0.02)
    });
    extents.sort_unstable_by(f32::total_cmp);
    let [least, middle, most] = extents.map(f64::from);
    if most <= 1e-6 {
        return 0.0;
    }
    (0.75 * (middle / most / 0.3).min(1.0)) + 0.25 * (least / most / 0.1).min(1.0)
}

/// How alike the sizes of the points are: one huge splat over a thousand specks is a blur.
fn evenness(points: &[Gaussian]) -> f64 {
    let sizes: Vec<f64> =
        points.iter().map(|g| f64::from(g.log_scale.iter().copied().fold(f32::MIN, f32::max))).collect();
    1.0 / (1.0 + deviation(&sizes) / 2.0)
}

/// How alike the brightness of neighbours in file order is.
fn smoothness(points: &[Gaussian]) -> f64 {
    let light: Vec<f64> =
        points.iter().map(|g| g.f_dc.iter().map(|v| f64::from(*v)).sum::<f64>() / 3.0).collect();
    let steps: Vec<f64> = light.windows(2).map(|pair| pair[1] - pair[0]).collect();
    1.0 / (1.0 + deviation(&steps))
}

fn deviation(values: &[f64]) -> f64 {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt()
}

/// Lightness and two opponent colours: red against green, yellow against blue.
fn opponent([r, g, b]: [f64; 3]) -> [f64; 3] {
    [(r + g + b) / 3.0, r - g, f64::midpoint(r, g) - b]
}

/// Distance of two colours; hue counts more than shade, because each channel enters it twice.
fn distance(a: [f64; 3], b: [f64; 3]) -> f64 {
    let [light, red, yellow] = std::array::from_fn(|i| opponent(a)[i] - opponent(b)[i]);
    (light * light + red * red + yellow * yellow).sqrt()
}

/// 1 for the same colour, 0 for one nobody would call by that word.
fn closeness(distance: f64) -> f64 {
    ((0.27 - distance) / 0.13).clamp(0.0, 1.0)
}

/// How well the colours of the points are those the prompt names. With one colour word the mean
/// colour counts or, if that is better, how much of the scene has the colour (a red cube on a table
/// is mostly table). With several words each must be found.
fn agreement(points: &[Gaussian], named: &[Rgb]) -> f64 {
    let colours: Vec<([f64; 3], f64)> = points
        .iter()
        .map(|g| {
            let colour = g.f_dc.map(|v| f64::from((0.5 + SH_C0 * v).clamp(0.0, 1.0)));
            (colour, f64::from(sigmoid(g.logit_opacity)))
        })
        .collect();
    let total: f64 = colours.iter().map(|(_, weight)| weight).sum();
    let mean: [f64; 3] = std::array::from_fn(|c| {
        colours.iter().map(|(colour, weight)| colour[c] * weight).sum::<f64>() / total
    });
    let enough = 0.25 / named.len() as f64;
    let each = named.iter().map(|word| {
        let word = word.map(f64::from);
        let found: f64 =
            colours.iter().map(|(colour, weight)| closeness(distance(*colour, word)) * weight).sum();
        let share = (found / total / enough).min(1.0);
        if named.len() == 1 { share.max(closeness(distance(mean, word))) } else { share }
    });
    each.sum::<f64>() / named.len() as f64 * 0.97
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devnet::shapes::{GAUSSIANS, generate};
    use crate::splat::ShDegree;

    fn score(prompt: &str, made_for: &str, seed: u32) -> f64 {
        judge(Some(prompt), &generate(made_for, seed, GAUSSIANS)).unwrap().score
    }

    const COLOURS: [&str; 9] =
        ["red", "green", "blue", "yellow", "purple", "white", "black", "brown", "cyan"];

    #[test]
    fn the_right_colour_passes_and_a_wrong_one_does_not() {
        for asked in COLOURS {
            for made in COLOURS {
                let score = score(&format!("a {asked} cube"), &format!("a {made} cube"), 3);
                if asked == made {
                    assert!((0.65..=0.95).contains(&score), "{asked}: {score}");
                } else {
                    assert!(score < 0.6, "asked {asked}, made {made}: {score}");
                }
            }
        }
    }

    #[test]
    fn what_the_generator_makes_scores_between_065_and_095() {
        for prompt in crate::devnet::tasks::PROMPTS {
            for seed in [0, 1] {
                let score = score(prompt, prompt, seed);
                assert!((0.65..=0.95).contains(&score), "{prompt}: {score}");
            }
        }
    }

    #[test]
    fn each_of_several_colours_must_be_found() {
        let prompt = "a green torus on a wooden table";
        assert!(score(prompt, prompt, 1) > 0.65);
        assert!(score(prompt, "a blue torus on a red table", 1) < 0.6);
        let half = score(prompt, "a blue torus on a wooden table", 1);
        assert!(half < score(prompt, prompt, 1) - 0.1, "half right: {half}");
    }

    #[test]
    fn without_colour_words_the_form_decides() {
        assert!(score("a sword", "a cup", 1) > 0.65);
        let splat = generate("a cup", 1, GAUSSIANS);
        assert!(judge(None, &splat).unwrap().score > 0.65);
        let mut faint = Splat::new(ShDegree::Zero);
        for (i, g) in splat.gaussians().iter().enumerate() {
            let logit_opacity = if i % 3 == 0 { 3.0 } else { -6.0 };
            faint.push(Gaussian { logit_opacity, ..*g });
        }
        assert!(judge(None, &faint).unwrap().score < judge(None, &splat).unwrap().score - 0.1);
    }

    fn changed(count: usize, change: impl Fn(usize, &mut Gaussian)) -> Splat {
        let mut splat = Splat::new(ShDegree::Zero);
        for (i, g) in generate("a red cube", 1, GAUSSIANS).gaussians()[..count].iter().enumerate() {
            let mut g = *g;
            change(i, &mut g);
            splat.push(g);
        }
        splat
    }

    #[test]
    fn the_data_rules_have_the_edges_the_validator_has() {
        let rule = |splat: &Splat| data_rules(splat).err();
        assert_eq!(rule(&changed(7_000, |_, _| ())), None);
        assert_eq!(rule(&changed(6_999, |_, _| ())), Some(BrokenRule::TooFew));
        for (index, broken) in [(0, true), (2, true), (3, false)] {
            let splat = changed(7_000, |i, g| {
                if i == index {
                    g.position = [1.0, 1.000_005, 1.0];
                }
            });
            assert_eq!(rule(&splat).is_some(), broken, "point {index}");
        }
        for (transparent, broken) in [(5_600, false), (5_601, true)] {
            let splat = changed(7_000, |i, g| {
                if i < transparent {
                    g.logit_opacity = -6.91;
                }
            });
            assert_eq!(rule(&splat), broken.then_some(BrokenRule::Transparent));
        }
        let identity = changed(7_000, |_, g| g.rotation = [3.0, 0.0, 0.0, 0.0]);
        assert_eq!(rule(&identity), Some(BrokenRule::DefaultRotations));
        let quantised = changed(7_000, |_, g| g.rotation = [1.0, 0.0039, 0.0039, 0.0039]);
        assert_eq!(rule(&quantised), None);
        for value in [f32::NAN, f32::INFINITY] {
            let splat = changed(7_000, |i, g| {
                if i == 6_999 {
                    g.position[1] = value;
                }
            });
            assert_eq!(rule(&splat), Some(BrokenRule::NotFinite));
        }
    }

    #[test]
    fn a_cloud_in_one_point_is_judged_without_a_panic() {
        let splat = changed(7_000, |_, g| g.position = [0.1; 3]);
        assert!(judge(Some("a red cube"), &splat).unwrap().score.is_finite());
    }
}
