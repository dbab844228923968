//! What a worker holds of the card.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::devnet::card::{CardLedger, CardState, HoldError, What};
use crate::primitives::MiB;

/// What a worker holds, all included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Without models: what the process keeps for as long as it lives.
    pub context: MiB,
    /// At rest with all its models.
    pub resident: MiB,
    /// At work.
    pub peak: MiB,
}

/// A worker's models, by name, and their row in the ledger.
#[derive(Debug)]
pub(super) struct Models {
    ledger: CardLedger,
    worker: String,
    sizes: Sizes,
    /// Of equal size.
    names: &'static [&'static str],
    held: Mutex<Held>,
}

#[derive(Debug, Clone, Default)]
struct Held {
    on_card: BTreeSet<&'static str>,
    /// On the card and not usable yet.
    coming: BTreeSet<&'static str>,
    /// A second copy beside the first.
    doubled: bool,
    /// Unloaded, and not given back yet.
    late: MiB,
    at_work: bool,
    on_cpu: bool,
}

impl Models {
    pub fn new(ledger: CardLedger, worker: String, sizes: Sizes, names: &'static [&'static str]) -> Self {
        Self { ledger, worker, sizes, names, held: Mutex::default() }
    }

    pub fn names(&self) -> &'static [&'static str] {
        self.names
    }

    /// Nothing of the card is used from now on.
    pub fn fall_back_to_cpu(&self) {
        self.held().on_cpu = true;
    }

    pub fn is_on_cpu(&self) -> bool {
        self.held().on_cpu
    }

    pub fn is_on_card(&self, name: &str) -> bool {
        self.held().on_card.contains(name)
    }

    /// Whether all of them can be used.
    pub fn are_ready(&self) -> bool {
        let held = self.held();
        self.names.iter().all(|name| held.on_card.contains(name) && !held.coming.contains(name))
    }

    /// What this process has in its tensors: all but the context.
    pub fn tensors(&self) -> MiB {
        let held = self.held();
        self.amount(&held).saturating_sub(self.sizes.context)
    }

    /// Only what the process keeps anyway.
    ///
    /// # Errors
    /// As [`CardLedger::hold`], as for all that follow.
    pub fn begin(&self) -> Result<(), HoldError> {
        self.change(|_| {})
    }

    pub fn load(&self, names: &[&'static str], doubled: bool) -> Result<(), HoldError> {
        self.change(|held| {
            held.on_card.extend(names);
            held.coming.extend(names);
            held.doubled = doubled;
        })
    }

    /// What was loaded can be used.
    pub fn loaded(&self, names: &[&'static str]) -> Result<(), HoldError> {
        self.change(|held| {
            held.coming.retain(|name| !names.contains(name));
            held.doubled = false;
        })
    }

    /// `late`: the memory stays away until [`settle`](Self::settle).
    pub fn unload(&self, names: &[&'static str], late: bool) -> Result<(), HoldError> {
        self.change(|held| {
            let before = self.models(held);
            held.on_card.retain(|name| !names.contains(name));
            if late {
                held.late = before.saturating_sub(self.models(held));
            }
        })
    }

    pub fn settle(&self) -> Result<(), HoldError> {
        self.change(|held| held.late = MiB::ZERO)
    }

    pub fn work(&self, at_work: bool) -> Result<(), HoldError> {
        self.change(|held| held.at_work = at_work)
    }

    /// The whole card, as any process on it sees it.
    pub fn card(&self) -> std::io::Result<CardState> {
        self.ledger.read()
    }

    pub fn note(&self, what: &What) {
        // What happens is not held up by a log.
        if let Err(error) = self.ledger.note(&self.worker, what) {
            tracing::warn!(%error, "The log of the card cannot be written");
        }
    }

    pub fn leave(&self) -> std::io::Result<()> {
        self.ledger.leave(&self.worker)
    }

    fn change(&self, change: impl FnOnce(&mut Held)) -> Result<(), HoldError> {
        let mut held = self.held();
        let mut new = held.clone();
        change(&mut new);
        self.ledger.hold(&self.worker, self.amount(&new))?;
        *held = new;
        Ok(())
    }

    fn amount(&self, held: &Held) -> MiB {
        if held.on_cpu {
            return MiB::ZERO;
        }
        let at_rest = self.sizes.context.saturating_add(self.models(held));
        let in_use = if held.at_work { at_rest.max(self.sizes.peak) } else { at_rest };
        let twice = if held.doubled { self.all() } else { MiB::ZERO };
        in_use.saturating_add(twice).saturating_add(held.late)
    }

    fn models(&self, held: &Held) -> MiB {
        let (some, all) = (held.on_card.len() as u64, self.names.len().max(1) as u64);
        MiB(self.all().0 * some / all)
    }

    fn all(&self) -> MiB {
        self.sizes.resident.saturating_sub(self.sizes.context)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Replaced whole, so a panic elsewhere leaves nothing half changed.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
