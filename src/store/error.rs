//! Why the store failed.

use std::path::{Path, PathBuf};

/// The store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("database: {0}")]
    Database(#[from] rusqlite::Error),
    #[error("{path}: {source}")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
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
    pub(super) fn file(path: &Path, source: std::io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }

    pub(super) fn corrupt(what: &'static str, detail: impl ToString) -> Self {
        Self::Corrupt { what, detail: detail.to_string() }
    }
}
