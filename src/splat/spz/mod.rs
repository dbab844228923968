//! SPZ as the subnet uses it: planes of quantised numbers in a zstd frame (`vectors/spz` README).

mod encode;
mod frame;
mod payload;
mod quantise;
#[cfg(test)]
mod tests;

pub use encode::{EncodeError, SpzEncoder};
pub use payload::{Bounds, Payload, PayloadHeader};

use std::fmt;

use super::check::{CheckedSplat, Defect, SplatCheck};
use super::cloud::{ShDegree, Splat};
use super::{MAX_POINTS, check};

/// zstd level of an encoder that is told none.
pub const DEFAULT_LEVEL: i32 = 1;

/// Longest payload anybody may decompress: 10,000,000 points of degree 3.
pub const MAX_PAYLOAD_BYTES: usize = 16 + MAX_POINTS as usize * (19 + ShDegree::Three.values());

/// Why bytes are no SPZ that the validators could decode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpzError {
    #[error("no bytes at all")]
    Empty,
    #[error("SPZ in gzip, as upstream writes it; the subnet reads only SPZ in zstd: ask for PLY instead")]
    Gzip,
    #[error("an SPZ payload without its zstd frame")]
    Raw,
    #[error("no zstd frame at the start")]
    NotZstd,
    #[error("the zstd frame is cut short")]
    Cut,
    #[error("{size} bytes of payload, more than the limit of {limit}")]
    TooLarge { size: u64, limit: usize },
    #[error("the frame declares {declared} bytes of content, its blocks hold at most {capacity}")]
    Overstated { declared: u64, capacity: u64 },
    #[error("the frame declares no content size and holds more than 6 times its own size")]
    UnknownSize,
    #[error("more content than the first frame declares")]
    Overflows,
    #[error("no memory for a payload of {size} bytes")]
    Memory { size: usize },
    #[error("zstd: {reason}")]
    Zstd { reason: &'static str },
    #[error("a payload of {size} bytes has no header")]
    NoHeader { size: usize },
    #[error("the payload does not begin with NGSP")]
    Magic,
    #[error("version {version}: only 1 and 2 exist")]
    Version { version: u32 },
    #[error("{points} Gaussians: a cloud has 1 to {MAX_POINTS} of them")]
    PointCount { points: u64 },
    #[error("spherical harmonics of degree {degree}: 3 is the highest")]
    Degree { degree: u8 },
    #[error("too little data: the planes take {needed} bytes, {found} are there")]
    PlanesCut { needed: usize, found: usize },
    #[error("frame the payload anew: {reason}")]
    Reframe { reason: String },
}

/// A compressed cloud that the reference decoder reads: made by encoding or by a successful decode.
#[derive(Clone, PartialEq, Eq)]
pub struct Spz {
    bytes: Vec<u8>,
    header: PayloadHeader,
    data: SplatCheck,
}

/// Without the bytes: there are millions.
impl fmt::Debug for Spz {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spz")
            .field("bytes", &self.bytes.len())
            .field("header", &self.header)
            .field("data", &self.data)
            .finish()
    }
}

impl Spz {
    /// What a submission and a validation service call this format (`compression`, workers.md 2.2).
    pub const COMPRESSION: u8 = 2;

    /// Takes bytes that the reference decoder would decode, within `limit` bytes of payload.
    pub fn parse(bytes: Vec<u8>, limit: usize) -> Result<Self, SpzError> {
        let payload = Payload::decompress(&bytes, limit)?;
        Ok(Self { bytes, header: *payload.header(), data: payload.check(0) })
    }

    /// Takes the SPZ of a generator: byte for byte if it is exactly one frame with content size, else the
    /// same payload in a new frame of `encoder`'s level.
    pub fn adopt(bytes: Vec<u8>, limit: usize, encoder: &SpzEncoder) -> Result<Self, SpzError> {
        let first = frame::Frame::survey(&bytes)?;
        if first.length == bytes.len() && first.content_size.is_some() {
            return Self::parse(bytes, limit);
        }
        let payload = Payload::parse(frame::decompress_any(&bytes, limit)?)?;
        encoder.frame(&payload, 0).map_err(|error| SpzError::Reframe { reason: error.to_string() })
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub fn header(&self) -> &PayloadHeader {
        &self.header
    }

    /// Number of Gaussians, 1 to [`MAX_POINTS`].
    pub fn points(&self) -> u32 {
        self.header.points()
    }

    pub fn degree(&self) -> ShDegree {
        self.header.degree()
    }

    /// What the data rules look at.
    pub fn data(&self) -> &SplatCheck {
        &self.data
    }

    /// Applies the data rules.
    pub fn check(self) -> Result<CheckedSplat, Defect> {
        check::CheckedSplat::new(self)
    }

    /// Decompresses again: the planes are not kept.
    pub fn payload(&self) -> Result<Payload, SpzError> {
        Payload::decompress(&self.bytes, MAX_PAYLOAD_BYTES)
    }

    /// The cloud as a validator sees it.
    pub fn to_splat(&self) -> Result<Splat, SpzError> {
        Ok(self.payload()?.to_splat())
    }
}
