//! The validators' data rules, applied to what an SPZ decodes to.
//!
//! The rules are those the validation service really applies (workers.md 2.3), quirks included; its D1 and
//! D6 never reject anything and have no counterpart. Only the decoded SPZ counts: an all-identity cloud
//! breaks D5 as a PLY and no longer does after the 8-bit rotations of SPZ.

use super::spz::Spz;

/// D2: fewer Gaussians than this are refused.
pub const MIN_POINTS: u32 = 7000;

/// D4: below this activated opacity a Gaussian counts as transparent.
const TRANSPARENT: f32 = 0.001;

/// Which data rule a cloud breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    #[error("D2: {points} Gaussians, fewer than {MIN_POINTS}")]
    TooFew { points: u32 },
    #[error("D3: Gaussian {index} lies at (1, 1, 1)")]
    CentreAtOne { index: usize },
    #[error("D4: {transparent} of {points} Gaussians are transparent, more than 80 %")]
    Transparent { transparent: u32, points: u32 },
    #[error("D5: all {points} rotations are the default one")]
    DefaultRotations { points: u32 },
    /// No rule of the validators, who never see it: SPZ turns such values into arbitrary finite ones.
    #[error("{count} Gaussians have a value that is no finite number")]
    NonFinite { count: u32 },
}

/// What the data rules look at, taken from a cloud in one pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplatCheck {
    points: u32,
    at_one: Option<usize>,
    transparent: u32,
    default_rotations: bool,
    non_finite: u32,
}

impl SplatCheck {
    pub(super) fn of(
        points: u32,
        positions: impl Iterator<Item = [f32; 3]>,
        logit_opacities: impl Iterator<Item = f32>,
        mut rotations: impl Iterator<Item = [f32; 4]>,
        non_finite: u32,
    ) -> Self {
        // sigmoid is monotonic, so that comparing logits spares an exp per Gaussian.
        let limit = (TRANSPARENT / (1.0 - TRANSPARENT)).ln();
        Self {
            points,
            at_one: positions.take(3).position(|p| p.iter().all(|value| (value - 1.0).abs() <= 1e-5)),
            transparent: logit_opacities.map(|logit| u32::from(logit < limit)).sum(),
            default_rotations: rotations.all(is_default_rotation),
            non_finite,
        }
    }

    /// Number of Gaussians.
    pub fn points(&self) -> u32 {
        self.points
    }

    /// Gaussians with an opacity below 0.001.
    pub fn transparent(&self) -> u32 {
        self.transparent
    }

    /// Share of Gaussians with an opacity of at least 0.001, 0 to 1.
    pub fn visible_share(&self) -> f64 {
        1.0 - f64::from(self.transparent) / f64::from(self.points.max(1))
    }

    /// Gaussians with a NaN, or an infinity anywhere but in the opacity, before encoding.
    pub fn non_finite(&self) -> u32 {
        self.non_finite
    }

    /// The first rule that is broken, in the validators' order.
    pub fn verdict(&self) -> Result<(), Defect> {
        let &Self { points, at_one, transparent, default_rotations, non_finite } = self;
        if points < MIN_POINTS {
            return Err(Defect::TooFew { points });
        }
        if let Some(index) = at_one {
            return Err(Defect::CentreAtOne { index });
        }
        if u64::from(transparent) * 5 > u64::from(points) * 4 {
            return Err(Defect::Transparent { transparent, points });
        }
        if default_rotations {
            return Err(Defect::DefaultRotations { points });
        }
        match non_finite {
            0 => Ok(()),
            count => Err(Defect::NonFinite { count }),
        }
    }
}

/// Within 1e-8 absolute and 1e-5 relative of (1, 0, 0, 0), after normalising.
fn is_default_rotation(rotation: [f32; 4]) -> bool {
    let length = rotation.iter().map(|part| part * part).sum::<f32>().sqrt();
    let [w, x, y, z] = rotation.map(|part| part / length);
    (w - 1.0).abs() <= 1e-8 + 1e-5 && [x, y, z].iter().all(|part| part.abs() <= 1e-8)
}

/// An SPZ that breaks no data rule: what may be submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedSplat(Spz);

impl CheckedSplat {
    pub(super) fn new(spz: Spz) -> Result<Self, Defect> {
        spz.data().verdict()?;
        Ok(Self(spz))
    }

    pub fn spz(&self) -> &Spz {
        &self.0
    }

    pub fn into_spz(self) -> Spz {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURNED: [f32; 4] = [0.9, 0.1, 0.1, 0.1];

    fn check(points: u32, first: &[[f32; 3]], logits: &[f32], rotation: [f32; 4]) -> Result<(), Defect> {
        let positions = first.iter().copied().chain(std::iter::repeat([0.0; 3])).take(points as usize);
        let logits = logits.iter().copied().chain(std::iter::repeat(0.0)).take(points as usize);
        let rotations = std::iter::repeat_n(rotation, points as usize);
        SplatCheck::of(points, positions, logits, rotations, 0).verdict()
    }

    #[test]
    fn d2_exactly_7000_pass() {
        assert_eq!(check(7000, &[], &[], TURNED), Ok(()));
        assert_eq!(check(6999, &[], &[], TURNED), Err(Defect::TooFew { points: 6999 }));
    }

    #[test]
    fn d3_looks_at_the_first_three_only() {
        let one = [1.0, 1.0, 1.000_009];
        for index in 0..3 {
            let mut first = [[0.0; 3]; 4];
            first[index] = one;
            assert_eq!(check(7000, &first, &[], TURNED), Err(Defect::CentreAtOne { index }));
        }
        assert_eq!(check(7000, &[[0.0; 3], [0.0; 3], [0.0; 3], one], &[], TURNED), Ok(()));
        assert_eq!(check(7000, &[[1.0, 1.0, 1.000_02]], &[], TURNED), Ok(()));
    }

    #[test]
    fn d4_more_than_four_fifths() {
        let transparent = |count| vec![-6.908; count];
        assert_eq!(check(10_000, &[], &transparent(8000), TURNED), Ok(()));
        assert_eq!(
            check(10_000, &[], &transparent(8001), TURNED),
            Err(Defect::Transparent { transparent: 8001, points: 10_000 })
        );
        assert_eq!(check(10_000, &[], &[-6.906; 10_000], TURNED), Ok(()));
        assert!(check(10_000, &[], &[f32::NEG_INFINITY; 10_000], TURNED).is_err());
        assert_eq!(check(10_000, &[], &[f32::INFINITY; 10_000], TURNED), Ok(()));
    }

    #[test]
    fn d5_only_if_every_rotation_is_the_default() {
        for rotation in [[1.0, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0], [2.0, 1e-8, 0.0, 0.0]] {
            assert_eq!(check(7000, &[], &[], rotation), Err(Defect::DefaultRotations { points: 7000 }));
        }
        for rotation in [[-1.0, 0.0, 0.0, 0.0], [1.0, 1e-7, 0.0, 0.0], [0.0; 4]] {
            assert_eq!(check(7000, &[], &[], rotation), Ok(()));
        }
    }

    #[test]
    fn rules_are_reported_in_the_validators_order() {
        let all =
            SplatCheck { points: 5, at_one: Some(0), transparent: 5, default_rotations: true, non_finite: 1 };
        assert_eq!(all.verdict(), Err(Defect::TooFew { points: 5 }));
        let all = SplatCheck { points: 7000, transparent: 7000, ..all };
        assert_eq!(all.verdict(), Err(Defect::CentreAtOne { index: 0 }));
        let all = SplatCheck { at_one: None, ..all };
        assert!(matches!(all.verdict(), Err(Defect::Transparent { .. })));
        let all = SplatCheck { transparent: 0, ..all };
        assert!(matches!(all.verdict(), Err(Defect::DefaultRotations { .. })));
        let all = SplatCheck { default_rotations: false, ..all };
        assert_eq!(all.verdict(), Err(Defect::NonFinite { count: 1 }));
    }
}
