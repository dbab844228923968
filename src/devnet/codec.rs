//! The one place where the devnet turns clouds into bytes and back.

use crate::splat::{Payload, PlyError, PlyReader, Splat, SpzError, write_ply};

/// Largest payload of an SPZ a devnet server decodes, in bytes: over a million Gaussians of any degree.
const PAYLOAD_LIMIT: usize = 64 << 20;

/// A PLY as the workers send it, without normals.
pub(super) fn ply(splat: &Splat) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_ply(splat, false, &mut bytes).expect("writing into memory does not fail");
    bytes
}

pub(super) fn from_ply(bytes: &[u8]) -> Result<Splat, PlyError> {
    Ok(PlyReader::default().read(bytes)?.to_splat())
}

/// What a validator decodes from the SPZ it was sent.
///
/// # Errors
/// When the reference decoder would not decode it, or it is over 64 MiB.
pub fn from_spz(bytes: &[u8]) -> Result<Splat, SpzError> {
    Ok(Payload::decompress(bytes, PAYLOAD_LIMIT)?.to_splat())
}
