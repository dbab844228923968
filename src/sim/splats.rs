//! The two results there are: one that passes everywhere and one that passes nowhere.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::splat::{EncodeError, Gaussian, ShDegree, Splat, SpzEncoder};

/// Just above what the data rules ask for.
const GAUSSIANS: usize = 7_200;

/// Distinct Gaussians of a cloud; so few that a result takes a few hundred bytes.
const DISTINCT: usize = 24;

/// What scorer and validators say of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quality {
    Good,
    Bad,
}

impl Quality {
    /// Well above and well below the usual threshold of 0.6.
    pub(super) const fn score(self) -> f64 {
        match self {
            Self::Good => 0.80,
            Self::Bad => 0.30,
        }
    }
}

/// Both results, as SPZ.
#[derive(Debug)]
pub(super) struct Splats {
    good: Bytes,
    bad: Bytes,
    good_base64: String,
}

impl Splats {
    /// # Errors
    /// When zstd fails.
    pub(super) fn make() -> Result<Self, EncodeError> {
        let encode = |colour| -> Result<Bytes, EncodeError> {
            Ok(SpzEncoder::new(1).encode(&cloud(colour))?.into_bytes().into())
        };
        let (good, bad) = (encode([1.2, -0.8, -0.8])?, encode([-0.8, -0.8, 1.2])?);
        let good_base64 = STANDARD.encode(&good);
        Ok(Self { good, bad, good_base64 })
    }

    pub(super) fn bytes(&self, quality: Quality) -> Bytes {
        match quality {
            Quality::Good => self.good.clone(),
            Quality::Bad => self.bad.clone(),
        }
    }

    /// The quality of a result as base64; what is not the good one is bad.
    pub(super) fn quality(&self, base64: &str) -> Quality {
        if base64 == self.good_base64 { Quality::Good } else { Quality::Bad }
    }
}

fn cloud(f_dc: [f32; 3]) -> Splat {
    let mut splat = Splat::with_capacity(ShDegree::Zero, GAUSSIANS);
    for index in 0..GAUSSIANS {
        let place = (index % DISTINCT) as f32 / DISTINCT as f32;
        splat.push(Gaussian {
            position: [place - 0.5, 0.4 * place, 0.3 - 0.6 * place],
            log_scale: [-4.0, -4.0, -6.0],
            rotation: [0.9, 0.3, 0.2, 0.1],
            logit_opacity: 3.0,
            f_dc,
        });
    }
    splat
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splat::Spz;

    #[test]
    fn the_agent_passes_both_results_on_byte_for_byte() {
        let splats = Splats::make().unwrap();
        for quality in [Quality::Good, Quality::Bad] {
            let bytes = splats.bytes(quality);
            assert!(bytes.len() < 4_096, "{} bytes", bytes.len());
            let adopted = Spz::adopt(bytes.to_vec(), 1 << 20, &SpzEncoder::new(1)).unwrap();
            assert_eq!(adopted.as_bytes(), &bytes[..]);
            assert!(adopted.check().is_ok());
            assert_eq!(splats.quality(&STANDARD.encode(&bytes)), quality);
        }
        assert_eq!(splats.quality("?"), Quality::Bad);
    }
}
