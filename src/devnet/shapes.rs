//! Scenes as clouds of Gaussians: flat discs spread evenly over the surfaces of simple bodies.
//!
//! Deterministic for one prompt and seed. Up is +Y and the whole scene lies within 0.5 of the
//! origin on every axis (workers.md 2.2, "The validator's camera").

mod body;
mod furniture;
mod layout;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use self::body::{Part, Surface};
use super::words::{self, Scene};
use crate::splat::{Gaussian, ShDegree, Splat};

/// Constant term of the spherical harmonics: colour = 0.5 + this x `f_dc`.
pub(super) const SH_C0: f32 = 0.282_095;

/// Gaussians of a scene unless told otherwise.
pub const GAUSSIANS: usize = 24_000;

/// Fewest Gaussians a scene is made of, well above what rule D2 asks for.
pub const MIN_GAUSSIANS: usize = 20_000;

/// Makes the scene a prompt describes. `gaussians` below [`MIN_GAUSSIANS`] counts as that many.
pub fn generate(prompt: &str, seed: u32, gaussians: usize) -> Splat {
    let scene = words::scene(prompt);
    let mut rng = StdRng::seed_from_u64(super::mix(seed.into(), prompt.as_bytes()));
    sample(&layout::arrange(&scene), overall_size(&scene), gaussians.max(MIN_GAUSSIANS), &mut rng)
}

/// Share of the unit cube that a scene fills: the size word counts if there is nothing to compare with.
fn overall_size(scene: &Scene) -> f32 {
    match &scene.objects[..] {
        [only] => (0.75 * only.size).clamp(0.4, 0.97),
        _ => 0.93,
    }
}

/// What differs between two seeds besides the places of the points.
struct Variation {
    yaw: f32,
    stretch: [f32; 3],
    shade: [f32; 3],
    opacity: f32,
    relief: f32,
}

impl Variation {
    fn draw(rng: &mut StdRng) -> Self {
        Self {
            yaw: rng.random_range(-0.35..0.35),
            stretch: std::array::from_fn(|_| rng.random_range(0.95..1.05)),
            shade: std::array::from_fn(|_| rng.random_range(-0.03..0.03)),
            opacity: rng.random_range(3.0..4.5),
            relief: rng.random_range(0.0..0.004),
        }
    }
}

fn sample(parts: &[Part], extent: f32, gaussians: usize, rng: &mut StdRng) -> Splat {
    let variation = Variation::draw(rng);
    let surfaces: Vec<Surface> = parts.iter().map(Part::surface).collect();
    let total: f32 = surfaces.iter().map(|surface| surface.area).sum();
    // Spacing of a square grid with as many points on the same area.
    let spacing = (total / gaussians as f32).sqrt();
    let (sin, cos) = variation.yaw.sin_cos();
    let place = |[x, y, z]: [f32; 3]| {
        let [sx, sy, sz] = variation.stretch;
        [sx * (cos * x + sin * z), sy * y, sz * (cos * z - sin * x)]
    };

    let mut cloud = Vec::with_capacity(gaussians);
    let mut rest = total;
    for (index, surface) in surfaces.iter().enumerate() {
        let left = gaussians - cloud.len();
        let is_last = index + 1 == surfaces.len();
        let count = if is_last { left } else { (left as f32 * surface.area / rest) as usize };
        rest -= surface.area;
        for _ in 0..count.min(left) {
            let (point, normal) = surface.sample(rng);
            let bump = rng.random_range(-1.0..1.0) * variation.relief;
            let raised = std::array::from_fn(|axis| point[axis] + bump * normal[axis]);
            let normal = place(normal);
            // Light from above and in front, as if under an open sky.
            let light = 0.86 + 0.10 * normal[1] + 0.04 * normal[2] + rng.random_range(-0.025..0.025);
            let colour: [f32; 3] = std::array::from_fn(|c| {
                ((surface.part.colour[c] + variation.shade[c]) * light).clamp(0.0, 1.0)
            });
            let width = spacing * rng.random_range(0.55..0.85);
            cloud.push(Gaussian {
                position: place(raised),
                log_scale: [width, width * rng.random_range(0.8..1.25), spacing * 0.12],
                rotation: facing(normal, rng.random_range(0.0..std::f32::consts::TAU)),
                logit_opacity: variation.opacity + rng.random_range(-0.6..0.6),
                f_dc: colour.map(|value| (value - 0.5) / SH_C0),
            });
        }
    }
    fit(cloud, extent)
}

/// Moves and scales a cloud whose `log_scale` still holds plain lengths so that its longest side is
/// `extent`, centred on the origin, and takes the logarithm.
pub(super) fn fit(mut cloud: Vec<Gaussian>, extent: f32) -> Splat {
    let mut low = [f32::INFINITY; 3];
    let mut high = [f32::NEG_INFINITY; 3];
    for gaussian in &cloud {
        for axis in 0..3 {
            low[axis] = low[axis].min(gaussian.position[axis]);
            high[axis] = high[axis].max(gaussian.position[axis]);
        }
    }
    let longest = (0..3).map(|axis| high[axis] - low[axis]).fold(f32::MIN_POSITIVE, f32::max);
    let scale = extent / longest;
    let mut splat = Splat::new(ShDegree::Zero);
    for gaussian in &mut cloud {
        for axis in 0..3 {
            let centre = f32::midpoint(low[axis], high[axis]);
            gaussian.position[axis] = (gaussian.position[axis] - centre) * scale;
            gaussian.log_scale[axis] = (gaussian.log_scale[axis] * scale).max(1e-5).ln();
        }
        splat.push(*gaussian);
    }
    splat
}

/// Quaternion (w, x, y, z) that turns the third axis, the thin one, to `normal` after a roll about it.
pub(super) fn facing(normal: [f32; 3], roll: f32) -> [f32; 4] {
    let length = normal.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-9);
    let [x, y, z] = normal.map(|v| v / length);
    // Shortest turn from +Z; straight down it is half a turn about X.
    let turn = if z < -0.9999 {
        [0.0, 1.0, 0.0, 0.0]
    } else {
        let w = 1.0 + z;
        let norm = (w * w + x * x + y * y).sqrt();
        [w / norm, -y / norm, x / norm, 0.0]
    };
    let (sin, cos) = (roll / 2.0).sin_cos();
    let [w, qx, qy, _] = turn;
    [w * cos, qx * cos + qy * sin, qy * cos - qx * sin, w * sin]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devnet::judge::data_rules;
    use crate::devnet::words::Shape;

    fn mean_colour(splat: &Splat) -> [f32; 3] {
        std::array::from_fn(|c| {
            splat.gaussians().iter().map(|g| 0.5 + SH_C0 * g.f_dc[c]).sum::<f32>() / splat.len() as f32
        })
    }

    fn extents(splat: &Splat) -> [f32; 3] {
        std::array::from_fn(|axis| {
            let values = || splat.gaussians().iter().map(|g| g.position[axis]);
            values().fold(f32::MIN, f32::max) - values().fold(f32::MAX, f32::min)
        })
    }

    #[test]
    fn the_three_named_prompts_differ_visibly() {
        let cube = generate("a red cube", 1, GAUSSIANS);
        let spheres = generate("three blue spheres", 1, GAUSSIANS);
        let torus = generate("a green torus on a wooden table", 1, GAUSSIANS);
        let [r, g, b] = mean_colour(&cube);
        assert!(r > g + 0.3 && r > b + 0.3, "red: {r} {g} {b}");
        let [r, g, b] = mean_colour(&spheres);
        assert!(b > r + 0.3 && b > g + 0.3, "blue: {r} {g} {b}");
        let [r, g, b] = mean_colour(&torus);
        assert!(g > b && r < 0.6 && (r - g).abs() < 0.3, "green and brown: {r} {g} {b}");
        let green = torus.gaussians().iter().filter(|p| p.f_dc[1] > p.f_dc[0] + 0.5);
        let brown = torus.gaussians().iter().filter(|p| p.f_dc[0] > p.f_dc[1] + 0.2);
        let height =
            |points: Vec<&Gaussian>| points.iter().map(|p| p.position[1]).sum::<f32>() / points.len() as f32;
        assert!(height(green.collect()) > height(brown.collect()) + 0.1, "the torus lies on the table");
        let [x, y, z] = extents(&cube);
        assert!(x / y < 1.6 && y / x < 1.2 && z / x < 1.3, "a cube: {x} {y} {z}");
        let [x, y, _] = extents(&spheres);
        assert!(x > 2.0 * y, "a row: {x} {y}");
    }

    #[test]
    fn every_shape_keeps_the_data_rules_and_the_unit_cube() {
        for shape in Shape::ALL {
            let prompt = format!("a {shape:?}").to_lowercase();
            let splat = generate(&prompt, 7, GAUSSIANS);
            assert_eq!(splat.len(), GAUSSIANS, "{prompt}");
            data_rules(&splat).unwrap_or_else(|rule| panic!("{prompt}: {rule}"));
            for g in splat.gaussians() {
                assert!(g.position.iter().all(|v| v.abs() <= 0.5), "{prompt}: {:?}", g.position);
                assert!(g.log_scale.iter().all(|v| (-12.0..-2.0).contains(v)), "{prompt}: {:?}", g.log_scale);
                assert!(g.f_dc.iter().all(|v| v.is_finite()) && g.logit_opacity.is_finite());
            }
        }
    }

    #[test]
    fn a_seed_is_repeatable_and_another_one_differs() {
        let first = generate("a red cube", 1, GAUSSIANS);
        assert_eq!(first, generate("a red cube", 1, GAUSSIANS));
        assert_ne!(first, generate("a red cube", 2, GAUSSIANS));
        assert_ne!(first, generate("a red cubes", 1, GAUSSIANS));
    }

    #[test]
    fn any_text_gives_a_valid_cloud() {
        for prompt in ["", "red", "nine huge frobnicators under many gizmos", "立方体", "a \u{0} b"] {
            data_rules(&generate(prompt, 0, 0)).unwrap_or_else(|rule| panic!("{prompt:?}: {rule}"));
        }
    }

    #[test]
    fn the_thin_axis_faces_outwards() {
        let normals =
            [[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.3, -0.8, -0.52], [0.0, -1.0, 0.0]];
        for normal in normals {
            for roll in [0.0, 1.0, 3.0] {
                let [w, x, y, z] = facing(normal, roll);
                assert!((w * w + x * x + y * y + z * z - 1.0).abs() < 1e-5);
                let third = [2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y)];
                let dot: f32 = third.iter().zip(normal).map(|(a, b)| a * b).sum();
                assert!(dot > 0.99, "{normal:?} {roll}: {third:?}");
            }
        }
    }
}
