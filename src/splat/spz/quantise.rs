//! The arithmetic between floats and the bytes of a payload: float32, in the order the README of
//! `vectors/spz` writes it. Shared by nothing else, so that every rounding is in one place.

use crate::splat::ShDegree;

/// Least magnitude that, added, makes truncation round half away from zero: adding 0.5 itself would lift
/// 0.49999997 to 1.
const NEARLY_HALF: f32 = 0.499_999_97;

/// First float above the range of an `i32`.
const I32_END: f32 = 2_147_483_648.0;

/// Steps of a colour byte per unit of `f_dc`.
const COLOUR_STEPS: f32 = 0.15 * 255.0;

/// Rounds half away from zero and clamps; NaN gives 0.
pub(super) fn to_u8(value: f32) -> u8 {
    (value + NEARLY_HALF) as u8
}

/// Rounds half away from zero. Out of range and NaN give `i32::MIN`, as x86-64 converts; Rust's `as`
/// would saturate.
fn to_i32(value: f32) -> i32 {
    let nudged = value + NEARLY_HALF.copysign(value);
    if (-I32_END..I32_END).contains(&nudged) { nudged as i32 } else { i32::MIN }
}

/// The low 24 bits of a fixed-point coordinate, least significant byte first. Wraps beyond +-2048.
pub(super) fn position(value: f32) -> [u8; 3] {
    let [low, middle, high, _] = to_i32(value * 4096.0).to_le_bytes();
    [low, middle, high]
}

pub(super) fn alpha(logit: f32) -> u8 {
    to_u8(1.0 / (1.0 + (-logit).exp()) * 255.0)
}

pub(super) fn colour(f_dc: f32) -> u8 {
    to_u8(f_dc * COLOUR_STEPS + 127.5)
}

pub(super) fn scale(log: f32) -> u8 {
    to_u8((log + 10.0) * 16.0)
}

/// The vector part of the quaternion w, x, y, z, made unit and its w not negative. A length of zero or
/// infinity needs no case of its own: the reference divides by it too.
pub(super) fn rotation([w, x, y, z]: [f32; 4]) -> [u8; 3] {
    let length = (x * x + y * y + z * z + w * w).sqrt();
    let steps = if w / length < 0.0 { -127.5 } else { 127.5 };
    [x, y, z].map(|part| to_u8(part / length * steps + 127.5))
}

/// A harmonics value in steps of 1/128, to the nearest multiple of `1 << bucket_bits`.
pub(super) fn harmonic(value: f32, bucket_bits: u32) -> u8 {
    let scaled = value * 128.0;
    let nudged = scaled + NEARLY_HALF.copysign(scaled);
    // Beyond the range of an i32 the reference's conversion gives its minimum, on the positive side too.
    if nudged + 128.0 >= I32_END || nudged.is_nan() {
        return 0;
    }
    let steps = (nudged as i32).clamp(-1024, 1024) + 128;
    let half = 1 << (bucket_bits - 1);
    // Negative ones end as 0 whichever way the division rounds.
    let bucketed = (steps + half).max(0) >> bucket_bits << bucket_bits;
    bucketed.min(255) as u8
}

/// Width of the buckets of a degree's values, as a power of two: 8 for degree 1, 16 beyond.
pub(super) const fn bucket_bits(value: usize) -> u32 {
    if value < ShDegree::One.values() { 3 } else { 4 }
}

pub(super) fn read_position([low, middle, high]: [u8; 3], step: f32) -> f32 {
    // Shifted to the top and back, which extends the sign.
    (i32::from_le_bytes([0, low, middle, high]) >> 8) as f32 * step
}

pub(super) fn read_logit_opacity(alpha: u8) -> f32 {
    let alpha = f32::from(alpha) / 255.0;
    (alpha / (1.0 - alpha)).ln()
}

pub(super) fn read_colour(colour: u8) -> f32 {
    (f32::from(colour) / 255.0 - 0.5) / 0.15
}

pub(super) fn read_scale(scale: u8) -> f32 {
    f32::from(scale) / 16.0 - 10.0
}

/// w, x, y, z. Not exactly unit: w is what is left of 1, or 0.
pub(super) fn read_rotation(bytes: [u8; 3]) -> [f32; 4] {
    let [x, y, z] = bytes.map(|byte| f32::from(byte) * (1.0 / 127.5) - 1.0);
    [(1.0 - (x * x + y * y + z * z)).max(0.0).sqrt(), x, y, z]
}

pub(super) fn read_harmonic(byte: u8) -> f32 {
    (f32::from(byte) - 128.0) / 128.0
}

/// IEEE half precision, as version 1 stores positions. Exact.
pub(super) fn read_half(bytes: [u8; 2]) -> f32 {
    let bits = u16::from_le_bytes(bytes);
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from(bits >> 10 & 0x1f);
    let fraction = f32::from(bits & 0x3ff);
    sign * match exponent {
        0 => fraction * 2.0_f32.powi(-24),
        0x1f if fraction == 0.0 => f32::INFINITY,
        0x1f => f32::NAN,
        _ => (1024.0 + fraction) * 2.0_f32.powi(exponent - 25),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `to_u8` and `to_i32` abbreviate.
    fn slow_u8(value: f32) -> u8 {
        let rounded = value.round();
        if rounded.is_nan() { 0 } else { rounded.clamp(0.0, 255.0) as u8 }
    }

    fn slow_harmonic(value: f32, bucket: i32) -> u8 {
        let scaled = (value * 128.0).round() + 128.0;
        let steps = if (-I32_END..I32_END).contains(&scaled) { scaled as i32 } else { i32::MIN };
        ((steps + bucket / 2) / bucket * bucket).clamp(0, 255) as u8
    }

    /// Every 4099th float of all, besides the edges.
    fn floats() -> impl Iterator<Item = f32> {
        let edges =
            [0.5, 0.499_999_97, 1.5, 254.5, 255.5, 8_388_607.5, 4_194_303.5, 2_147_483_500.0, I32_END];
        let edges = edges.into_iter().flat_map(|edge: f32| [edge, -edge, edge.next_up(), edge.next_down()]);
        edges.chain((0..=u32::MAX / 4099).map(|step| f32::from_bits(step * 4099)))
    }

    #[test]
    fn rounding_equals_the_written_form() {
        for value in floats() {
            assert_eq!(to_u8(value), slow_u8(value), "{value:e}");
            let rounded = value.round();
            let slow = if (-I32_END..I32_END).contains(&rounded) { rounded as i32 } else { i32::MIN };
            assert_eq!(to_i32(value), slow, "{value:e}");
            assert_eq!(harmonic(value, 3), slow_harmonic(value, 8), "{value:e}");
            assert_eq!(harmonic(value, 4), slow_harmonic(value, 16), "{value:e}");
        }
    }

    #[test]
    fn half_floats() {
        for (bits, value) in [
            (0x0000, 0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 5.960_464_5e-8),
            (0x0400, 6.103_515_6e-5),
            (0x3555, 0.333_251_95),
            (0xfc00, f32::NEG_INFINITY),
        ] {
            assert_eq!(read_half(u16::to_le_bytes(bits)), value, "{bits:04x}");
        }
        assert!(read_half(u16::to_le_bytes(0x7e00)).is_nan());
    }

    #[test]
    fn decoded_values_encode_to_themselves() {
        for byte in 0..=u8::MAX {
            assert_eq!(alpha(read_logit_opacity(byte)), byte);
            assert_eq!(colour(read_colour(byte)), byte);
            assert_eq!(scale(read_scale(byte)), byte);
        }
        for bytes in [[0, 0, 0x80], [0xff, 0xff, 0x7f], [1, 2, 3], [0xff, 0xff, 0xff]] {
            assert_eq!(position(read_position(bytes, 1.0 / 4096.0)), bytes);
        }
    }
}
