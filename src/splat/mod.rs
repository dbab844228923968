//! 3D Gaussian splats: PLY and SPZ, the validators' data rules. Pure: no I/O, no async.
//!
//! The way of a result: bytes of a generator -> [`sniff`] -> [`PlyReader`] and [`SpzEncoder`] (or
//! [`Spz::adopt`]) -> [`Spz::check`] -> [`CheckedSplat`], the only thing worth submitting.

mod check;
mod cloud;
mod ply;
mod sniff;
mod source;
mod spz;

pub use check::{CheckedSplat, Defect, MIN_POINTS, SplatCheck};
pub use cloud::{Gaussian, ShDegree, Splat};
pub use ply::{MAX_HEADER_BYTES, PlyDialect, PlyError, PlyReader, PlyView, write_ply};
pub use sniff::{Magic, sniff};
pub use source::{Column, GaussianSource};
pub use spz::{
    Bounds, DEFAULT_LEVEL, EncodeError, MAX_PAYLOAD_BYTES, Payload, PayloadHeader, Spz, SpzEncoder, SpzError,
};

/// Most Gaussians the reference decoder takes (`vectors/spz` README); its encoder takes a few more,
/// which nothing can decode afterwards.
pub const MAX_POINTS: u32 = 10_000_000;
