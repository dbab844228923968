//! What each card is doing, as far as the loop must know to give it the next task.

use std::time::Duration;

use tokio::time::Instant;

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
    /// Its generator refuses connections: nothing is pulled for it.
    Gone {
        since: Instant,
        /// When it is looked at again; nothing while that goes on.
        look_at: Option<Instant>,
    },
}

impl Card {
    pub(super) fn new(now: Instant) -> Self {
        Self { state: CardState::Idle { since: now } }
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, CardState::Idle { .. })
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(self.state, CardState::Gone { .. })
    }

    /// When the task in its hands is expected to leave it: `making` and `judging` are what the turns
    /// usually take.
    pub(super) fn expected_end(&self, making: Duration, judging: Duration) -> Option<Instant> {
        match self.state {
            CardState::Busy { turn: Turn::Making, since, .. } => Some(since + making + judging),
            CardState::Busy { turn: Turn::Judging, since, .. } => Some(since + judging),
            CardState::Idle { .. } | CardState::Gone { .. } => None,
        }
    }
}
