//! What a network that other programs used has seen, for those who cannot look into its books.

use std::collections::BTreeMap;

use serde::Serialize;

use super::axon::DevAxon;
use super::generator::GeneratorCounts;
use super::network::Devnet;
use super::scorer::ScorerCounts;
use crate::primitives::{Hotkey, TaskId};

/// What has happened on the network so far.
#[derive(Debug, Clone, Serialize)]
pub struct NetworkReport {
    pub validators: Vec<ValidatorReport>,
    pub generator: GeneratorCounts,
    pub scorer: ScorerCounts,
}

/// What has happened at one validator so far.
#[derive(Debug, Clone, Serialize)]
pub struct ValidatorReport {
    pub hotkey: Hotkey,
    /// How often each kind of event happened, by its name.
    pub events: BTreeMap<&'static str, u64>,
    /// Events that a miner which keeps the rules never causes.
    pub forbidden: u64,
    /// Tasks given out that nothing has been booked on.
    pub open: Vec<TaskId>,
    /// In order; of the latest events only ([`Chronicle::KEPT`](super::ledger::Chronicle::KEPT)).
    pub booked: Vec<Booking>,
    /// The results that were taken for scoring, in order; the latest only, as many as of the events.
    pub received: Vec<ReceivedResult>,
}

/// A task was closed.
#[derive(Debug, Clone, Serialize)]
pub struct Booking {
    pub task: TaskId,
    /// Name of the event that closed it.
    pub event: &'static str,
}

/// A result came in.
#[derive(Debug, Clone, Serialize)]
pub struct ReceivedResult {
    pub task: TaskId,
    /// Of the SPZ bytes, in hex.
    pub sha256: String,
}

impl Devnet {
    pub fn report(&self) -> NetworkReport {
        NetworkReport {
            validators: self.axons.iter().map(DevAxon::report).collect(),
            generator: self.generator.counts(),
            scorer: self.scorer.counts(),
        }
    }
}

impl DevAxon {
    pub fn report(&self) -> ValidatorReport {
        let received = self.received().into_iter().map(|result| ReceivedResult {
            task: result.task,
            sha256: result.sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
        });
        let received = received.collect();
        self.ledger(|ledger| {
            let chronicle = ledger.chronicle();
            let bookings = chronicle.latest().filter_map(|event| {
                Some(Booking { task: event.kind.booked()?.clone(), event: event.kind.name() })
            });
            ValidatorReport {
                hotkey: self.hotkey(),
                events: chronicle.counts().collect(),
                forbidden: chronicle.forbidden(),
                open: ledger.open_tasks().map(|task| task.id.clone()).collect(),
                booked: bookings.collect(),
                received,
            }
        })
    }
}
