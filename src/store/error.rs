//! Why the store failed.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{ErrorCode, ffi};

/// The store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("database: {0}")]
    Database(#[source] rusqlite::Error),
    /// SQLite finds its own structures broken, or none of them.
    #[error("the database is damaged ({0}): the next start of the agent moves it aside and begins anew")]
    Malformed(rusqlite::Error),
    #[error("{path}: {source}")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A row holds what this program never writes.
    #[error("the database holds a {what} that cannot be read: {detail}")]
    Corrupt { what: &'static str, detail: String },
    #[error(
        "the database was written by a newer version (schema {found}, this one knows {known}): update sn17-miner"
    )]
    Newer { found: i64, known: i64 },
    #[error("the stored result {file} is not the one that was kept: {detail}")]
    DamagedResult { file: String, detail: String },
    #[error("there is no open task {0}")]
    NoSuchTask(String),
    #[error("interrupted: {0}")]
    Interrupted(String),
}

impl StoreError {
    pub(super) fn file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }

    pub(super) fn corrupt(what: &'static str, detail: impl ToString) -> Self {
        Self::Corrupt { what, detail: detail.to_string() }
    }

    /// Whether the database no longer holds what was written. Nothing repairs it while the agent runs;
    /// [`Store::open`](super::Store::open) moves it aside.
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Self::Malformed(_) | Self::Corrupt { .. })
    }

    /// Whether the disk takes no more for now: full, over a quota or a limit, or gone read-only. What
    /// was asked has left no trace and succeeds later, once there is room.
    pub fn is_full(&self) -> bool {
        use io::ErrorKind as Kind;
        match self {
            Self::Database(rusqlite::Error::SqliteFailure(error, _)) => match error.code {
                ErrorCode::DiskFull => true,
                ErrorCode::ReadOnly => error.extended_code != ffi::SQLITE_READONLY_DBMOVED,
                // A limit on the size of files is no full disk to SQLite, but an error of writing.
                ErrorCode::SystemIoFailure => matches!(
                    error.extended_code,
                    ffi::SQLITE_IOERR_WRITE
                        | ffi::SQLITE_IOERR_FSYNC
                        | ffi::SQLITE_IOERR_DIR_FSYNC
                        | ffi::SQLITE_IOERR_TRUNCATE
                        | ffi::SQLITE_IOERR_SHMOPEN
                        | ffi::SQLITE_IOERR_SHMSIZE
                ),
                _ => false,
            },
            Self::File { source, .. } => matches!(
                source.kind(),
                Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge | Kind::ReadOnlyFilesystem
            ),
            _ => false,
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Malformed(error),
            _ => Self::Database(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sqlite(extended: i32) -> StoreError {
        rusqlite::Error::SqliteFailure(ffi::Error::new(extended), None).into()
    }

    #[test]
    fn a_full_disk_and_a_damaged_database_are_told_from_the_rest() {
        for full in
            [ffi::SQLITE_FULL, ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_READONLY, ffi::SQLITE_IOERR_SHMSIZE]
        {
            assert!(sqlite(full).is_full() && !sqlite(full).is_corrupt(), "{full}");
        }
        for corrupt in [ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB, ffi::SQLITE_CORRUPT_INDEX] {
            assert!(sqlite(corrupt).is_corrupt() && !sqlite(corrupt).is_full(), "{corrupt}");
        }
        for other in [ffi::SQLITE_BUSY, ffi::SQLITE_IOERR_READ, ffi::SQLITE_CANTOPEN, ffi::SQLITE_CONSTRAINT]
        {
            assert!(!sqlite(other).is_full() && !sqlite(other).is_corrupt(), "{other}");
        }
    }

    #[test]
    fn errors_of_files_are_read_by_their_kind() {
        let file = |kind: io::ErrorKind| StoreError::file(Path::new("x"), kind.into());
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge] {
            assert!(file(kind).is_full());
        }
        assert!(!file(io::ErrorKind::NotFound).is_full());
        assert!(StoreError::corrupt("score", "NaN").is_corrupt());
    }
}
