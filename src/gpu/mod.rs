//! Who holds a card.
//!
//! An [`Arbiter`] grants its card to one tenant at a time, first come first served; the [`Lease`] is
//! the grant. Two generations on one card queue inside the worker and take longer than one after
//! the other (the 59.73 s of source document 002), so the queue is here, where it is seen.
//!
//! Limits: nothing is moved in or out of the card's memory. Generator and scorer must fit together,
//! or be on different cards.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::primitives::CardId;

/// What a card is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tenant {
    Generator,
    Scorer,
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Generator => "generator",
            Self::Scorer => "scorer",
        })
    }
}

/// Grants one card.
#[derive(Debug, Clone)]
pub struct Arbiter {
    card: CardId,
    clock: Clock,
    queue: Arc<Mutex<()>>,
}

/// A grant of a card; ends when dropped.
#[derive(Debug)]
pub struct Lease {
    /// Time from asking to the grant.
    pub waited: Duration,
    pub tenant: Tenant,
    granted: Instant,
    _grant: OwnedMutexGuard<()>,
}

impl Lease {
    /// Time since the grant.
    pub fn held(&self) -> Duration {
        self.granted.elapsed()
    }
}

impl Arbiter {
    pub fn new(card: CardId, clock: Clock) -> Self {
        Self { card, clock, queue: Arc::default() }
    }

    pub fn card(&self) -> &CardId {
        &self.card
    }

    /// Waits for the card. Cancelling the wait leaves the queue and nothing else.
    pub async fn lease(&self, tenant: Tenant) -> Lease {
        let asked = self.clock.instant();
        let grant = Arc::clone(&self.queue).lock_owned().await;
        let granted = self.clock.instant();
        Lease { waited: granted - asked, tenant, granted, _grant: grant }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::UnixTime;

    #[tokio::test(start_paused = true)]
    async fn a_card_has_one_tenant_at_a_time() {
        let clock = Clock::starting_at(UnixTime::from_secs(1));
        let arbiter = Arbiter::new(CardId { host: "here".into(), uuid: "GPU-0".into() }, clock);
        let first = arbiter.lease(Tenant::Generator).await;
        assert_eq!(first.waited, Duration::ZERO);
        let second = async {
            let lease = arbiter.lease(Tenant::Scorer).await;
            lease.waited
        };
        let release = async {
            clock.sleep(Duration::from_secs(7)).await;
            drop(first);
        };
        let (waited, ()) = tokio::join!(second, release);
        assert!(waited >= Duration::from_secs(7) && waited < Duration::from_secs(8), "{waited:?}");
    }
}
