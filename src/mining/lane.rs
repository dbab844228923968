//! One lane of the loop: a source, its cooldown, its open task.

use super::cooldowns::Cooldowns;
use super::roster::Due;
use super::snapshot::{LaneSnapshot, TaskSnapshot};
use super::source::TaskSource;
use super::state::{Step, TaskState};
use crate::primitives::UnixTime;
use crate::store::{LaneKey, TaskRecord};

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) key: LaneKey,
    pub(super) source: TaskSource,
    pub(super) cooldowns: Cooldowns,
    pub(super) last_asked: UnixTime,
    /// The open task, while it waits for its turn.
    pub(super) open: Option<OpenWork>,
    /// The chain no longer names the source: its open task is seen to, nothing more is pulled.
    pub(super) leaving: bool,
}

#[derive(Debug)]
pub(super) struct OpenWork {
    pub(super) task: TaskRecord,
    pub(super) state: TaskState,
}

impl Lane {
    pub(super) fn due(&self) -> Due {
        let at = match self.open.as_ref().map(|open| open.state.step()) {
            Some(Step::Answer { not_before }) => not_before,
            Some(_) => UnixTime::EPOCH,
            None => self.cooldowns.due(),
        };
        Due { at, last_asked: self.last_asked }
    }

    pub(super) fn snapshot(&self) -> LaneSnapshot {
        LaneSnapshot {
            validator: self.key.source.name(),
            uid: self.source.uid(),
            address: self.source.address(),
            due: self.due().at,
            window_count: self.cooldowns.record().window_count,
            clock_ahead_ms: self.cooldowns.record().clock_offset.map(|nanos| nanos / 1_000_000),
            task: self.open.as_ref().map(|open| TaskSnapshot {
                id: open.task.id.to_string(),
                kind: open.task.prompt.kind(),
                pulled_at: open.task.pulled_at,
                state: open.state.name(),
            }),
            leaving: self.leaving,
        }
    }
}
