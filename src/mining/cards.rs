//! What each card is doing, as far as the loop must know to give it the next task.

use tokio::time::Instant;

use super::batches::Outlook;
use super::make::Away;

/// Position of a card in the setup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct CardNo(pub usize);

/// What a card works at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Making,
    Judging,
}

#[derive(Debug)]
pub(super) struct Card {
    pub(super) state: CardState,
    /// It scores what was gathered before it makes anything.
    pub(super) scores: bool,
    /// What its arbiter was last told.
    pub(super) told: Option<Outlook>,
}

#[derive(Debug)]
pub(super) enum CardState {
    Idle {
        since: Instant,
    },
    Busy {
        turn: Turn,
        since: Instant,
    },
    /// Nothing can be made on it, so nothing is pulled for it.
    Gone {
        why: Away,
        since: Instant,
        /// When it is looked at again; nothing while that goes on.
        look_at: Option<Instant>,
    },
}

impl Card {
    pub(super) fn new(now: Instant) -> Self {
        Self { state: CardState::Idle { since: now }, scores: false, told: None }
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, CardState::Idle { .. })
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(self.state, CardState::Gone { .. })
    }
}
