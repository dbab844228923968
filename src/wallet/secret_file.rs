//! Reads a small file that holds a secret: bounded, regular files only, wiped when dropped.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use zeroize::Zeroizing;

/// A key file has well under 4 KiB.
const SIZE_LIMIT: u64 = 1 << 20;

pub(super) struct SecretFile {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// Permission bits.
    pub(super) mode: u32,
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadFault {
    #[error("there is no such file")]
    Missing,
    #[error("it has no read permission at all; run `chmod 600` on it")]
    Unreadable,
    #[error("it is {0}, not a file")]
    NotAFile(&'static str),
    #[error("it is larger than 1 MiB")]
    TooLarge,
    #[error("it changed while it was being read; try again")]
    Changed,
    #[error("{0}; check its owner and permissions")]
    Io(#[from] io::Error),
}

pub(super) fn read(path: &Path) -> Result<SecretFile, ReadFault> {
    let missing_or = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ReadFault::Missing,
        _ => ReadFault::Io(error),
    };
    // Looked at before it is opened, because opening a pipe waits for a writer.
    let metadata = std::fs::metadata(path).map_err(missing_or)?;
    if !metadata.is_file() {
        return Err(ReadFault::NotAFile(if metadata.is_dir() { "a folder" } else { "a device or pipe" }));
    }
    // The library tests the bits themselves, so root is refused as well (vectors/wallets README).
    if metadata.mode() & 0o444 == 0 {
        return Err(ReadFault::Unreadable);
    }
    let file = File::open(path).map_err(missing_or)?;
    let metadata = file.metadata()?;
    if metadata.len() > SIZE_LIMIT {
        return Err(ReadFault::TooLarge);
    }
    // With room to spare, so that reading never moves the bytes and leaves a copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(metadata.len() as usize + 64));
    file.take(metadata.len() + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != metadata.len() {
        return Err(ReadFault::Changed);
    }
    Ok(SecretFile { bytes, mode: metadata.permissions().mode() & 0o7777 })
}

/// Permission bits of a file; `None` when there is nothing to ask about.
pub(super) fn mode(path: &Path) -> Option<u32> {
    Some(std::fs::metadata(path).ok()?.mode() & 0o7777)
}
