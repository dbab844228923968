//! The content of the frame: a header and planes of bytes.

use std::fmt;

use super::quantise::{
    read_colour, read_half, read_harmonic, read_logit_opacity, read_position, read_rotation, read_scale,
};
use super::{SpzError, frame};
use crate::splat::MAX_POINTS;
use crate::splat::check::SplatCheck;
use crate::splat::cloud::{Gaussian, ShDegree, Splat};

pub(super) const MAGIC: &[u8; 4] = b"NGSP";
pub(super) const HEADER_BYTES: usize = 16;
/// Of positions: 2 before the point's sign, 12 for the 4096th part.
pub(super) const FRACTIONAL_BITS: u8 = 12;
/// Alpha, colour, scale and rotation of a point.
const BYTES_BESIDES_POSITION: usize = 1 + 3 + 3 + 3;

/// How positions are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Positions {
    /// Version 1.
    Half,
    /// Version 2: 24 bits with sign, so many of them behind the point.
    Fixed { fractional_bits: u8 },
}

impl Positions {
    const fn bytes(self) -> usize {
        match self {
            Self::Half => 6,
            Self::Fixed { .. } => 9,
        }
    }
}

/// The first 16 bytes of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadHeader {
    points: u32,
    degree: ShDegree,
    positions: Positions,
    antialiased: bool,
}

impl PayloadHeader {
    /// The header the encoder writes. `points` has been compared with [`MAX_POINTS`].
    pub(super) const fn new(points: u32, degree: ShDegree) -> Self {
        let positions = Positions::Fixed { fractional_bits: FRACTIONAL_BITS };
        Self { points, degree, positions, antialiased: false }
    }

    /// Checks what the reference decoder checks; it ignores the reserved byte and unknown flags, and
    /// takes any number of fractional bits.
    fn parse(payload: &[u8]) -> Result<Self, SpzError> {
        let Some((header, planes)) = payload.split_first_chunk::<HEADER_BYTES>() else {
            return Err(SpzError::NoHeader { size: payload.len() });
        };
        let &[m0, m1, m2, m3, v0, v1, v2, v3, n0, n1, n2, n3, degree, fractional_bits, flags, _] = header;
        if [m0, m1, m2, m3] != *MAGIC {
            return Err(SpzError::Magic);
        }
        let positions = match u32::from_le_bytes([v0, v1, v2, v3]) {
            1 => Positions::Half,
            2 => Positions::Fixed { fractional_bits },
            version => return Err(SpzError::Version { version }),
        };
        let points = u32::from_le_bytes([n0, n1, n2, n3]);
        if points == 0 || points > MAX_POINTS {
            return Err(SpzError::PointCount { points: points.into() });
        }
        let degree = ShDegree::from_number(degree).ok_or(SpzError::Degree { degree })?;
        let header = Self { points, degree, positions, antialiased: flags & 1 == 1 };
        let needed = header.payload_bytes() - HEADER_BYTES;
        if planes.len() < needed {
            return Err(SpzError::PlanesCut { needed, found: planes.len() });
        }
        Ok(header)
    }

    pub(super) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let (version, fractional_bits) = match self.positions {
            Positions::Half => (1_u32, 0),
            Positions::Fixed { fractional_bits } => (2, fractional_bits),
        };
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.points.to_le_bytes());
        bytes[12..].copy_from_slice(&[self.degree.number(), fractional_bits, self.antialiased.into(), 0]);
        bytes
    }

    /// Number of Gaussians, 1 to [`MAX_POINTS`].
    pub fn points(&self) -> u32 {
        self.points
    }

    pub fn degree(&self) -> ShDegree {
        self.degree
    }

    /// 1: positions as half floats; 2: as fixed point.
    pub fn version(&self) -> u32 {
        match self.positions {
            Positions::Half => 1,
            Positions::Fixed { .. } => 2,
        }
    }

    /// Whether the cloud was made for an antialiased renderer; the validators ignore it.
    pub fn antialiased(&self) -> bool {
        self.antialiased
    }

    /// Bytes of the header and all planes.
    pub fn payload_bytes(&self) -> usize {
        let per_point = self.positions.bytes() + BYTES_BESIDES_POSITION + self.degree.values();
        HEADER_BYTES + self.points as usize * per_point
    }
}

/// Corners of the box around all centres.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    pub min: [f32; 3],
    pub max: [f32; 3],
}

/// A decompressed SPZ: its header is valid and all planes are there.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload {
    header: PayloadHeader,
    bytes: Vec<u8>,
}

/// Without the bytes: there are millions.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload").field("header", &self.header).field("bytes", &self.bytes.len()).finish()
    }
}

/// The planes of a payload, each for all points.
struct Planes<'a> {
    positions: &'a [u8],
    alphas: &'a [u8],
    colours: &'a [[u8; 3]],
    scales: &'a [[u8; 3]],
    rotations: &'a [[u8; 3]],
    sh: &'a [u8],
}

impl Payload {
    /// Decompresses exactly what the reference decoder decompresses and checks the header, within
    /// `limit` bytes of payload (never more than [`super::MAX_PAYLOAD_BYTES`]).
    pub fn decompress(spz: &[u8], limit: usize) -> Result<Self, SpzError> {
        Self::parse(frame::decompress(spz, limit)?)
    }

    pub(super) fn parse(bytes: Vec<u8>) -> Result<Self, SpzError> {
        Ok(Self { header: PayloadHeader::parse(&bytes)?, bytes })
    }

    /// `bytes` were laid out by the encoder for `header`.
    pub(super) fn encoded(header: PayloadHeader, bytes: Vec<u8>) -> Self {
        debug_assert_eq!(bytes.len(), header.payload_bytes());
        Self { header, bytes }
    }

    pub fn header(&self) -> &PayloadHeader {
        &self.header
    }

    /// Header and planes, with any bytes that follow the last plane.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn planes(&self) -> Planes<'_> {
        let points = self.header.points as usize;
        let rest = &self.bytes[HEADER_BYTES..];
        let (positions, rest) = rest.split_at(points * self.header.positions.bytes());
        let (alphas, rest) = rest.split_at(points);
        let (colours, rest) = rest.split_at(points * 3);
        let (scales, rest) = rest.split_at(points * 3);
        let (rotations, rest) = rest.split_at(points * 3);
        Planes {
            positions,
            alphas,
            colours: colours.as_chunks().0,
            scales: scales.as_chunks().0,
            rotations: rotations.as_chunks().0,
            sh: &rest[..points * self.header.degree.values()],
        }
    }

    fn positions(&self) -> impl Iterator<Item = [f32; 3]> + '_ {
        let plane = self.planes().positions;
        // One of the two is empty.
        let (half, fixed, step) = match self.header.positions {
            Positions::Half => (plane, &plane[..0], 1.0),
            Positions::Fixed { fractional_bits } => {
                (&plane[..0], plane, 2.0_f32.powi(-i32::from(fractional_bits)))
            }
        };
        let half =
            half.as_chunks::<6>().0.iter().map(|&[a, b, c, d, e, f]| [[a, b], [c, d], [e, f]].map(read_half));
        let fixed = fixed.as_chunks::<9>().0.iter().map(move |&[a, b, c, d, e, f, g, h, i]| {
            [[a, b, c], [d, e, f], [g, h, i]].map(|bytes| read_position(bytes, step))
        });
        half.chain(fixed)
    }

    /// The cloud as the reference decoder gives it.
    pub fn to_splat(&self) -> Splat {
        let planes = self.planes();
        let mut splat = Splat::with_capacity(self.header.degree, self.header.points as usize);
        let values = self.header.degree.values();
        let mut sh = vec![0.0; values];
        let shapes = planes.scales.iter().zip(planes.rotations);
        let looks = planes.alphas.iter().zip(planes.colours);
        for (index, ((position, (scale, &rotation)), (&alpha, colour))) in
            self.positions().zip(shapes).zip(looks).enumerate()
        {
            for (value, &byte) in sh.iter_mut().zip(&planes.sh[index * values..]) {
                *value = read_harmonic(byte);
            }
            let gaussian = Gaussian {
                position,
                log_scale: scale.map(read_scale),
                rotation: read_rotation(rotation),
                logit_opacity: read_logit_opacity(alpha),
                f_dc: colour.map(read_colour),
            };
            splat.push_with_sh(gaussian, &sh);
        }
        splat
    }

    /// What the data rules look at. `lost` is the number of Gaussians that had no finite value where
    /// they need one before they were encoded.
    pub(super) fn check(&self, lost: u32) -> SplatCheck {
        let planes = self.planes();
        let infinite = match self.header.positions {
            Positions::Fixed { .. } => 0,
            Positions::Half => self.positions().filter(|p| !p.iter().all(|value| value.is_finite())).count(),
        };
        let rotations = planes.rotations.iter().map(|&bytes| read_rotation(bytes));
        let opacities = planes.alphas.iter().map(|&alpha| read_logit_opacity(alpha));
        SplatCheck::of(
            self.header.points,
            self.positions(),
            opacities,
            rotations,
            lost.saturating_add(infinite as u32),
        )
    }

    /// The box around all finite centres; none if there are none.
    pub fn bounds(&self) -> Option<Bounds> {
        self.positions().filter(|p| p.iter().all(|value| value.is_finite())).fold(None, |bounds, p| {
            let Bounds { min, max } = bounds.unwrap_or(Bounds { min: p, max: p });
            Some(Bounds {
                min: std::array::from_fn(|axis| p[axis].min(min[axis])),
                max: std::array::from_fn(|axis| p[axis].max(max[axis])),
            })
        })
    }
}
