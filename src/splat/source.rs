//! Where an encoder takes Gaussians from: a file read in place, or a cloud in memory.

use super::cloud::{ShDegree, Splat};

/// One number of every Gaussian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Axis 0 to 2.
    Position(usize),
    LogScale(usize),
    /// 0 is w, then x, y, z.
    Rotation(usize),
    LogitOpacity,
    /// Channel r, g, b of the constant colour term.
    FDc(usize),
    /// Coefficient below `ShDegree::coefficients()`, channel r, g, b.
    Sh {
        coefficient: usize,
        channel: usize,
    },
}

/// Gaussians readable column by column in short runs, so that each plane of a payload is quantised by a
/// plain loop over floats without a copy of the whole cloud.
pub trait GaussianSource {
    fn points(&self) -> usize;

    fn degree(&self) -> ShDegree;

    /// Fills `out` with `column` of the Gaussians `first..first + out.len()`.
    ///
    /// # Panics
    /// When the range or the column lies outside the cloud.
    fn read(&self, column: Column, first: usize, out: &mut [f32]);
}

impl GaussianSource for Splat {
    fn points(&self) -> usize {
        self.len()
    }

    fn degree(&self) -> ShDegree {
        Splat::degree(self)
    }

    fn read(&self, column: Column, first: usize, out: &mut [f32]) {
        let gaussians = &self.gaussians()[first..first + out.len()];
        let pairs = out.iter_mut().zip(gaussians);
        match column {
            Column::Position(axis) => pairs.for_each(|(value, g)| *value = g.position[axis]),
            Column::LogScale(axis) => pairs.for_each(|(value, g)| *value = g.log_scale[axis]),
            Column::Rotation(part) => pairs.for_each(|(value, g)| *value = g.rotation[part]),
            Column::LogitOpacity => pairs.for_each(|(value, g)| *value = g.logit_opacity),
            Column::FDc(channel) => pairs.for_each(|(value, g)| *value = g.f_dc[channel]),
            Column::Sh { coefficient, channel } => {
                let values = Splat::degree(self).values();
                let at = coefficient * 3 + channel;
                let rows = self.sh()[first * values..].chunks_exact(values);
                out.iter_mut().zip(rows).for_each(|(value, row)| *value = row[at]);
            }
        }
    }
}
