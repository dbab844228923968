//! Gaussians to a payload to a frame.

use super::payload::{HEADER_BYTES, Payload, PayloadHeader};
use super::{DEFAULT_LEVEL, Spz, frame, quantise};
use crate::splat::MAX_POINTS;
use crate::splat::source::{Column, GaussianSource};

/// Gaussians quantised at a time: their columns, of degree 3 too, stay in the first-level cache.
const BLOCK: usize = 128;

/// Why a cloud could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    #[error("{points} Gaussians: a cloud has 1 to {MAX_POINTS} of them")]
    PointCount { points: usize },
    #[error("compress with zstd")]
    Zstd(#[source] std::io::Error),
}

/// Writes SPZ as the reference encoder does: version 2, 12 fractional bits, one zstd frame with content
/// size. The payload is equal to the reference's byte for byte (`vectors/spz` README).
#[derive(Debug, Clone, Copy)]
pub struct SpzEncoder {
    level: i32,
}

impl Default for SpzEncoder {
    fn default() -> Self {
        Self::new(DEFAULT_LEVEL)
    }
}

impl SpzEncoder {
    /// `level` is that of zstd; below 1 it counts as 1, above the highest (22) as the highest.
    pub const fn new(level: i32) -> Self {
        Self { level }
    }

    /// Encodes a cloud and, in the same pass, counts what [`Spz::check`] needs to know of it.
    pub fn encode(&self, cloud: &impl GaussianSource) -> Result<Spz, EncodeError> {
        let (payload, lost) = quantise(cloud)?;
        self.frame(&payload, lost).map_err(EncodeError::Zstd)
    }

    pub(super) fn frame(&self, payload: &Payload, lost: u32) -> std::io::Result<Spz> {
        let bytes = frame::compress(payload.as_bytes(), self.level)?;
        Ok(Spz { bytes, header: *payload.header(), data: payload.check(lost) })
    }
}

/// The payload of a cloud, and how many of its Gaussians have a value without meaning.
fn quantise(cloud: &impl GaussianSource) -> Result<(Payload, u32), EncodeError> {
    let points = cloud.points();
    let degree = cloud.degree();
    let header = match u32::try_from(points) {
        Ok(count @ 1..=MAX_POINTS) => PayloadHeader::new(count, degree),
        _ => return Err(EncodeError::PointCount { points }),
    };
    let mut bytes = vec![0; header.payload_bytes()];
    let (head, rest) = bytes.split_at_mut(HEADER_BYTES);
    head.copy_from_slice(&header.to_bytes());
    let (positions, rest) = rest.split_at_mut(points * 9);
    let (alphas, rest) = rest.split_at_mut(points);
    let (colours, rest) = rest.split_at_mut(points * 3);
    let (scales, rest) = rest.split_at_mut(points * 3);
    let (rotations, sh) = rest.split_at_mut(points * 3);

    let values = degree.values();
    let mut lost = 0;
    let mut column = [0.0; BLOCK];
    let mut quaternion = [[0.0; BLOCK]; 4];
    for first in (0..points).step_by(BLOCK) {
        let count = BLOCK.min(points - first);
        let column = &mut column[..count];
        let mut meaningless = [false; BLOCK];

        for axis in 0..3 {
            cloud.read(Column::Position(axis), first, column);
            mark(&mut meaningless, column, |value| !value.is_finite());
            let out = positions[first * 9..].as_chunks_mut::<9>().0;
            for (out, &value) in out.iter_mut().zip(&*column) {
                out[axis * 3..axis * 3 + 3].copy_from_slice(&quantise::position(value));
            }
        }
        cloud.read(Column::LogitOpacity, first, column);
        mark(&mut meaningless, column, f32::is_nan);
        for (out, &value) in alphas[first..].iter_mut().zip(&*column) {
            *out = quantise::alpha(value);
        }
        for channel in 0..3 {
            cloud.read(Column::FDc(channel), first, column);
            mark(&mut meaningless, column, |value| !value.is_finite());
            let out = colours[first * 3..].as_chunks_mut::<3>().0;
            for (out, &value) in out.iter_mut().zip(&*column) {
                out[channel] = quantise::colour(value);
            }
        }
        for axis in 0..3 {
            cloud.read(Column::LogScale(axis), first, column);
            mark(&mut meaningless, column, |value| !value.is_finite());
            let out = scales[first * 3..].as_chunks_mut::<3>().0;
            for (out, &value) in out.iter_mut().zip(&*column) {
                out[axis] = quantise::scale(value);
            }
        }
        for (part, values) in quaternion.iter_mut().enumerate() {
            cloud.read(Column::Rotation(part), first, &mut values[..count]);
            mark(&mut meaningless, &values[..count], |value| !value.is_finite());
        }
        let out = &mut rotations[first * 3..].as_chunks_mut::<3>().0[..count];
        for (index, out) in out.iter_mut().enumerate() {
            *out = quantise::rotation(quaternion.each_ref().map(|part| part[index]));
        }
        for value in 0..values {
            cloud.read(Column::Sh { coefficient: value / 3, channel: value % 3 }, first, column);
            let bits = quantise::bucket_bits(value);
            let out = sh[first * values..].chunks_exact_mut(values);
            for (out, &number) in out.zip(&*column) {
                out[value] = quantise::harmonic(number, bits);
            }
        }
        lost += meaningless.iter().map(|&meaningless| u32::from(meaningless)).sum::<u32>();
    }
    Ok((Payload::encoded(header, bytes), lost))
}

fn mark(meaningless: &mut [bool; BLOCK], column: &[f32], is_meaningless: impl Fn(f32) -> bool) {
    for (mark, &value) in meaningless.iter_mut().zip(column) {
        *mark |= is_meaningless(value);
    }
}
