//! One process per key, per card and per data directory: locks of the operating system, which end
//! with the process however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Somebody else holds it, or it cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{what} is in use by process {holder}: stop that one first, or use another")]
    Held { what: String, holder: String },
    #[error("cannot lock {path}: {source}")]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// A held lock; ends when dropped or when the process ends.
#[derive(Debug)]
pub struct ProcessLock {
    _file: File,
}

impl ProcessLock {
    /// Takes the lock file `NAME.lock` in `dir`. `what` says in an error what is locked.
    ///
    /// # Errors
    /// At once when another process holds it.
    pub fn take(dir: &Path, name: &str, what: &str) -> Result<Self, LockError> {
        let path = dir.join(format!("{name}.lock"));
        let io = |source| LockError::Io { path: path.clone(), source };
        std::fs::create_dir_all(dir).map_err(io)?;
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held { what: what.to_owned(), holder: holder_in(file) });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        // The number is only for the message above.
        file.set_len(0).and_then(|()| file.rewind()).map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self { _file: file })
    }

    /// Who holds the lock file `NAME.lock` in `dir`; nothing if nobody does.
    ///
    /// Asks for a shared lock and gives it back at once: a process that takes the lock in that very
    /// moment is refused.
    ///
    /// # Errors
    /// When the file cannot be opened or asked about.
    pub fn holder(dir: &Path, name: &str) -> Result<Option<String>, LockError> {
        let path = dir.join(format!("{name}.lock"));
        let io = |source| LockError::Io { path: path.clone(), source };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => Ok(Some(holder_in(file))),
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }
}

/// The number that the holder wrote into the file.
fn holder_in(file: File) -> String {
    let mut holder = String::new();
    let _ignored_for_the_message = file.take(20).read_to_string(&mut holder);
    match holder.trim() {
        "" => "unknown".into(),
        holder => holder.to_owned(),
    }
}

/// Directory for locks of this user: `$XDG_RUNTIME_DIR/sn17-miner`, else one of the user's own in
/// the temporary directory.
pub fn runtime_dir() -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    if let Some(dir) = std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty()) {
        return PathBuf::from(dir).join("sn17-miner");
    }
    // The owner of our own process entry is us.
    let uid = std::fs::metadata("/proc/self").map_or(0, |m| m.uid());
    std::env::temp_dir().join(format!("sn17-miner-{uid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_taker_is_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let held = ProcessLock::take(dir.path(), "hotkey-5X", "hotkey 5X").unwrap();
        let error = ProcessLock::take(dir.path(), "hotkey-5X", "hotkey 5X").unwrap_err().to_string();
        assert!(error.contains("hotkey 5X") && error.contains(&std::process::id().to_string()), "{error}");
        let own = std::process::id().to_string();
        assert_eq!(ProcessLock::holder(dir.path(), "hotkey-5X").unwrap(), Some(own));
        assert_eq!(ProcessLock::holder(dir.path(), "hotkey-5Y").unwrap(), None);
        drop(held);
        assert_eq!(ProcessLock::holder(dir.path(), "hotkey-5X").unwrap(), None);
        ProcessLock::take(dir.path(), "hotkey-5X", "hotkey 5X").unwrap();
    }
}
