//! The zstd container: what a frame claims, what its blocks can hold, and its decompression within
//! bounds.

use zstd::zstd_safe;

use super::{MAX_PAYLOAD_BYTES, SpzError};
use crate::splat::{Magic, sniff};

/// Most bytes a block holds.
const BLOCK_BYTES: u64 = 128 * 1024;

/// How many times its size the reference decoder allows a frame without content size to grow.
const UNKNOWN_SIZE_FACTOR: usize = 6;

/// The structure of the first frame of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    /// As the header declares it.
    pub(super) content_size: Option<u64>,
    /// Bytes of the frame from its magic number to its end.
    pub(super) length: usize,
    /// What the blocks present can hold at most, whatever the header says.
    pub(super) capacity: u64,
}

impl Frame {
    /// Walks headers and block headers; decompresses nothing.
    pub(super) fn survey(bytes: &[u8]) -> Result<Self, SpzError> {
        if let Some(named) = name_foreign(bytes) {
            return Err(named);
        }
        Self::walk(bytes).ok_or(SpzError::Cut)
    }

    fn walk(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.get(4..)?;
        let [descriptor] = take(&mut rest)?;
        let single_segment = descriptor & 0x20 != 0;
        if !single_segment {
            take::<1>(&mut rest)?;
        }
        match descriptor & 3 {
            0 => {}
            1 => drop(take::<1>(&mut rest)?),
            2 => drop(take::<2>(&mut rest)?),
            _ => drop(take::<4>(&mut rest)?),
        }
        let content_size = match descriptor >> 6 {
            0 if single_segment => Some(take::<1>(&mut rest)?[0].into()),
            0 => None,
            1 => Some(u64::from(u16::from_le_bytes(take(&mut rest)?)) + 256),
            2 => Some(u32::from_le_bytes(take(&mut rest)?).into()),
            _ => Some(u64::from_le_bytes(take(&mut rest)?)),
        };
        let mut capacity = 0_u64;
        loop {
            let [low, middle, high] = take(&mut rest)?;
            let block = u32::from_le_bytes([low, middle, high, 0]);
            let size = block >> 3;
            let (present, holds) = match block >> 1 & 3 {
                0 => (size, size.into()),
                1 => (1, size.into()),
                // A reserved type is left for zstd to refuse.
                _ => (size, BLOCK_BYTES),
            };
            capacity = capacity.saturating_add(holds);
            rest = rest.get(usize::try_from(present).ok()?..)?;
            if block & 1 == 1 {
                break;
            }
        }
        if descriptor & 4 != 0 {
            take::<4>(&mut rest)?;
        }
        Some(Self { content_size, length: bytes.len() - rest.len(), capacity })
    }
}

fn take<const LENGTH: usize>(rest: &mut &[u8]) -> Option<[u8; LENGTH]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}

/// An error that says what the bytes are, if they are something one meets in practice.
fn name_foreign(bytes: &[u8]) -> Option<SpzError> {
    match sniff(bytes) {
        Magic::ZstdSpz => None,
        Magic::Empty => Some(SpzError::Empty),
        Magic::GzipSpz => Some(SpzError::Gzip),
        _ if bytes.starts_with(super::payload::MAGIC) => Some(SpzError::Raw),
        _ => Some(SpzError::NotZstd),
    }
}

/// Decompresses as the reference decoder does: the declared size of the first frame, or six times the
/// compressed size, bounds the content of all frames together.
pub(super) fn decompress(bytes: &[u8], limit: usize) -> Result<Vec<u8>, SpzError> {
    let frame = Frame::survey(bytes)?;
    let limit = limit.min(MAX_PAYLOAD_BYTES);
    let Some(declared) = frame.content_size else {
        let grown = bytes.len().saturating_mul(UNKNOWN_SIZE_FACTOR);
        let bound = grown.min(limit);
        return into_buffer(bytes, bound).map_err(|error| match error {
            SpzError::Overflows if grown <= limit => SpzError::UnknownSize,
            SpzError::Overflows => SpzError::TooLarge { size: grown as u64, limit },
            other => other,
        });
    };
    if declared > limit as u64 {
        return Err(SpzError::TooLarge { size: declared, limit });
    }
    if declared > frame.capacity {
        return Err(SpzError::Overstated { declared, capacity: frame.capacity });
    }
    into_buffer(bytes, declared as usize)
}

/// Decompresses all frames, however the sizes are declared: for content that is framed anew.
pub(super) fn decompress_any(bytes: &[u8], limit: usize) -> Result<Vec<u8>, SpzError> {
    let limit = limit.min(MAX_PAYLOAD_BYTES);
    let mut bound = 0_u64;
    let mut rest = bytes;
    // Ends at the first skippable frame: content behind one does not count, and then does not fit.
    while let Ok(frame) = Frame::survey(rest) {
        bound = bound.saturating_add(frame.capacity.min(frame.content_size.unwrap_or(u64::MAX)));
        rest = &rest[frame.length..];
    }
    if bytes.len() == rest.len() {
        Frame::survey(bytes)?;
    }
    into_buffer(bytes, bound.min(limit as u64) as usize).map_err(|error| match error {
        SpzError::Overflows if bound > limit as u64 => SpzError::TooLarge { size: bound, limit },
        other => other,
    })
}

/// `bound` has been compared with a limit and with the blocks that are there. The memory is reserved,
/// not touched: it becomes resident as zstd fills it.
fn into_buffer(bytes: &[u8], bound: usize) -> Result<Vec<u8>, SpzError> {
    let mut content = Vec::new();
    content.try_reserve_exact(bound).map_err(|_| SpzError::Memory { size: bound })?;
    match zstd_safe::decompress(&mut content, bytes) {
        // The allocator may have given more room than was asked for.
        Ok(length) if length > bound => Err(SpzError::Overflows),
        Ok(_) => Ok(content),
        Err(code) if code == TOO_SMALL => Err(SpzError::Overflows),
        Err(code) => Err(SpzError::Zstd { reason: zstd_safe::get_error_name(code) }),
    }
}

/// zstd's error codes are negative numbers in an unsigned type.
const TOO_SMALL: usize =
    (zstd_safe::zstd_sys::ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize).wrapping_neg();

/// One frame with content size, no checksum, no dictionary. Levels below 1 count as 1, those above the
/// highest as the highest.
pub(super) fn compress(content: &[u8], level: i32) -> std::io::Result<Vec<u8>> {
    let mut bytes = zstd::bulk::compress(content, level.max(1))?;
    bytes.shrink_to_fit();
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survey_agrees_with_zstd() {
        let text: Vec<u8> = (0..400_000_u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        for length in [0, 1, 255, 256, 70_000, 400_000] {
            for level in [1, 3, 19] {
                let bytes = compress(&text[..length], level).unwrap();
                let mut trailed = bytes.clone();
                trailed.extend_from_slice(b"more");
                let frame = Frame::survey(&trailed).unwrap();
                assert_eq!(frame.length, bytes.len());
                assert_eq!(frame.content_size, Some(length as u64));
                assert!(frame.capacity >= length as u64);
                for cut in 0..bytes.len().min(20) {
                    assert!(Frame::survey(&bytes[..cut]).is_err());
                }
                assert_eq!(Frame::survey(&bytes[..bytes.len() - 1]), Err(SpzError::Cut));
            }
        }
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_decompressed() {
        let bomb = compress(&vec![0; 64 << 20], 3).unwrap();
        assert!(bomb.len() < 10_000);
        assert_eq!(decompress(&bomb, 1 << 20), Err(SpzError::TooLarge { size: 64 << 20, limit: 1 << 20 }));
        assert!(matches!(decompress_any(&bomb, 1 << 20), Err(SpzError::TooLarge { .. })));
    }

    #[test]
    fn a_size_the_blocks_cannot_hold_is_refused() {
        // Single segment, four bytes of size, one empty raw block.
        let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
        bytes.extend_from_slice(&600_000_000_u32.to_le_bytes());
        bytes.extend_from_slice(&[1, 0, 0]);
        let refused = Err(SpzError::Overstated { declared: 600_000_000, capacity: 0 });
        assert_eq!(decompress(&bytes, usize::MAX), refused);
        assert!(decompress_any(&bytes, usize::MAX).is_err());
    }
}
