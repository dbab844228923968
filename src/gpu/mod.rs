//! Who holds a card.
//!
//! An [`Arbiter`] grants its card to one tenant at a time, first come first served; the [`Lease`] is
//! the grant. Two generations on one card queue inside the worker and take longer than one after
//! the other (the 59.73 s of source document 002), so the queue is here, where it is seen.
//!
//! Where generator and scorer do not fit together the arbiter moves the scorer out before a
//! generation and back before it scores, through [`Effects`].
//!
//! Limits: what is moved is taken to have moved; nothing measures the card.

mod ledger;
mod plan;
mod reading;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::primitives::CardId;

pub use ledger::{Amounts, Ledger};
pub use plan::{Budget, Plan, Reach, Standing, Step, Sums, Tried, Unplaceable, Urgency, Wanted, plan};
pub use reading::{Implausible, Pressure, ProcessMemory, Reading};
pub use worker::{Abilities, AtStart, Residency, Row, Stage, Tenant, WorkerId, WorkerSpec, WorkerState};

/// What can be done to the tenants of a card.
pub trait Effects: fmt::Debug + Send + Sync {
    /// Takes a tenant's models out of the card's memory.
    fn unload(&self, tenant: Tenant) -> BoxFuture<'_, ()>;
    /// Brings them back.
    fn load(&self, tenant: Tenant) -> BoxFuture<'_, ()>;
}

/// Grants one card.
#[derive(Debug, Clone)]
pub struct Arbiter {
    card: CardId,
    clock: Clock,
    /// `None`: everything fits, nothing is moved.
    effects: Option<Arc<dyn Effects>>,
    residents: Arc<Mutex<Residents>>,
}

/// Who is in the card's memory.
#[derive(Debug)]
struct Residents {
    scorer: bool,
}

/// A grant of a card; ends when dropped.
#[derive(Debug)]
pub struct Lease {
    /// Time from asking to the grant.
    pub waited: Duration,
    /// Time spent moving others out or the tenant in, after the wait.
    pub handoff: Duration,
    pub tenant: Tenant,
    granted: Instant,
    _grant: OwnedMutexGuard<Residents>,
}

impl Lease {
    /// Time since the grant.
    pub fn held(&self) -> Duration {
        self.granted.elapsed()
    }
}

impl Arbiter {
    /// A card on which everything fits.
    pub fn new(card: CardId, clock: Clock) -> Self {
        Self { card, clock, effects: None, residents: Arc::new(Mutex::new(Residents { scorer: true })) }
    }

    /// A card that does not hold generator and scorer together.
    #[must_use]
    pub fn with_effects(self, effects: Option<Arc<dyn Effects>>) -> Self {
        Self { effects, ..self }
    }

    pub fn card(&self) -> &CardId {
        &self.card
    }

    /// Waits for the card. Cancelling the wait leaves the queue and nothing else; cancelling while a
    /// tenant is moved counts it as not there, so that it is brought in before it is needed.
    pub async fn lease(&self, tenant: Tenant) -> Lease {
        let asked = self.clock.instant();
        let mut residents = Arc::clone(&self.residents).lock_owned().await;
        let waited = asked.elapsed();
        let moving = self.clock.instant();
        if let Some(effects) = &self.effects {
            match tenant {
                Tenant::Generator if residents.scorer => {
                    residents.scorer = false;
                    effects.unload(Tenant::Scorer).await;
                }
                Tenant::Scorer if !residents.scorer => {
                    effects.load(Tenant::Scorer).await;
                    residents.scorer = true;
                }
                _ => {}
            }
        }
        let granted = self.clock.instant();
        Lease { waited, handoff: granted - moving, tenant, granted, _grant: residents }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::UnixTime;

    fn arbiter(clock: Clock) -> Arbiter {
        Arbiter::new(CardId { host: "here".into(), uuid: "GPU-0".into() }, clock)
    }

    #[tokio::test(start_paused = true)]
    async fn a_card_has_one_tenant_at_a_time() {
        let clock = Clock::starting_at(UnixTime::from_secs(1));
        let arbiter = arbiter(clock);
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

    #[derive(Debug)]
    struct Slow(Clock);

    impl Effects for Slow {
        fn unload(&self, _: Tenant) -> BoxFuture<'_, ()> {
            Box::pin(self.0.sleep(Duration::from_secs(2)))
        }
        fn load(&self, _: Tenant) -> BoxFuture<'_, ()> {
            Box::pin(self.0.sleep(Duration::from_secs(3)))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_scorer_leaves_before_a_generation_and_comes_back_to_score() {
        let clock = Clock::starting_at(UnixTime::from_secs(1));
        let arbiter = arbiter(clock).with_effects(Some(Arc::new(Slow(clock))));
        let moved = async |tenant| arbiter.lease(tenant).await.handoff.as_secs();
        assert_eq!(moved(Tenant::Scorer).await, 0);
        assert_eq!(moved(Tenant::Generator).await, 2);
        assert_eq!(moved(Tenant::Generator).await, 0);
        assert_eq!(moved(Tenant::Scorer).await, 3);
        assert_eq!(moved(Tenant::Scorer).await, 0);
        // A load that was interrupted is made up for.
        drop(arbiter.lease(Tenant::Generator).await);
        let cut = tokio::time::timeout(Duration::from_secs(1), arbiter.lease(Tenant::Scorer)).await;
        assert!(cut.is_err());
        assert_eq!(moved(Tenant::Scorer).await, 3);
    }
}
