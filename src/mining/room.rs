//! A disk that takes no more.
//!
//! Work goes on from memory: a result that cannot be kept is still judged and sent. What must not be
//! forgotten (that a task was pulled, how it ended, when a lane may be asked again) is written again
//! and again until there is room, and meanwhile nothing is pulled.
//!
//! Limits: killed in that state, the agent forgets what it could not write: a result is made again, and
//! a cooldown that was just told may be broken once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clock::Clock;
use crate::store::StoreError;

/// Between two attempts to write.
const RETRY: Duration = Duration::from_secs(2);

/// Whether the disk took what was written last.
#[derive(Debug, Default)]
pub(super) struct Room {
    full: AtomicBool,
}

impl Room {
    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    fn lost(&self, error: &StoreError) {
        if !self.full.swap(true, Ordering::Relaxed) {
            tracing::error!(
                alarm = "disk-full", %error,
                "Nothing more can be written; results are kept in memory and no task is pulled until there is room"
            );
        }
    }

    fn found(&self) {
        if self.full.swap(false, Ordering::Relaxed) {
            tracing::info!("There is room on the disk again");
        }
    }

    /// What was written, or nothing if the disk takes no more. Whatever it takes shows that there is
    /// room: a lane whose answer nobody settles might never write anything that is insisted on.
    ///
    /// # Errors
    /// When writing failed for another reason.
    pub(super) fn tried<T>(&self, written: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match written {
            Ok(value) => {
                self.found();
                Ok(Some(value))
            }
            Err(error) if error.is_full() => {
                self.lost(&error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes until there is room for it.
    ///
    /// # Errors
    /// When writing failed for another reason.
    pub(super) async fn insist<T, W>(
        &self,
        clock: Clock,
        mut write: impl FnMut() -> W,
    ) -> Result<T, StoreError>
    where
        W: Future<Output = Result<T, StoreError>>,
    {
        loop {
            if let Some(value) = self.tried(write().await)? {
                return Ok(value);
            }
            clock.sleep(RETRY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn whatever_is_written_shows_that_there_is_room() {
        let room = Room::default();
        let source = io::Error::from(io::ErrorKind::StorageFull);
        let full = StoreError::File { path: "results".into(), source };
        assert!(room.tried::<()>(Err(full)).unwrap().is_none());
        assert!(room.is_full());
        assert!(room.tried::<()>(Err(StoreError::NoSuchTask("another".into()))).is_err());
        assert!(room.is_full());
        room.tried(Ok(())).unwrap();
        assert!(!room.is_full());
    }
}
