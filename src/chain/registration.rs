//! Whether a hotkey has its place on the subnet.

use serde::Serialize;

use crate::primitives::{Hotkey, Uid};

use super::Metagraph;

/// What the chain says of a hotkey at one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Registration {
    Registered { uid: Uid, block: u64 },
    NotRegistered { block: u64 },
}

impl Registration {
    pub const fn uid(&self) -> Option<Uid> {
        match self {
            Self::Registered { uid, .. } => Some(*uid),
            Self::NotRegistered { .. } => None,
        }
    }

    /// Block the chain was asked at.
    pub const fn block(&self) -> u64 {
        match self {
            Self::Registered { block, .. } | Self::NotRegistered { block } => *block,
        }
    }
}

/// How a hotkey's registration moved between two looks at the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum RegistrationChange {
    Unchanged,
    Registered {
        uid: Uid,
    },
    /// It is gone. `holder` has the uid now, if the metagraph shows somebody there: uids are recycled.
    Deregistered {
        uid: Uid,
        holder: Option<Hotkey>,
    },
    /// Registered both times with another uid: it was pushed out and came back in between.
    Moved {
        from: Uid,
        to: Uid,
    },
}

impl RegistrationChange {
    /// Compares two looks; `before` is nothing at the first one. `now` shows who holds a lost uid.
    pub fn between(before: Option<&Registration>, after: &Registration, now: Option<&Metagraph>) -> Self {
        match (before.and_then(Registration::uid), after.uid()) {
            (None, None) => Self::Unchanged,
            (None, Some(uid)) => Self::Registered { uid },
            (Some(uid), None) => {
                Self::Deregistered { uid, holder: now.and_then(|m| m.by_uid(uid)).map(|n| n.hotkey) }
            }
            (Some(from), Some(to)) if from == to => Self::Unchanged,
            (Some(from), Some(to)) => Self::Moved { from, to },
        }
    }
}
