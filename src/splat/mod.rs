//! 3D Gaussian splats: PLY and SPZ, the validators' data rules. Pure: no I/O, no async.

mod cloud;

pub use cloud::{Gaussian, ShDegree, Splat};
