//! Who is on which card: one type for who answers, who asks, and `workers ps --json`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::gpu::{CardView, Residency, WorkerState};
use crate::mining::Bench;
use crate::primitives::{MiB, UnixTime};

/// The cards of an agent and the workers on them. All times are of our clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkersStatus {
    pub at: UnixTime,
    pub cards: Vec<CardStatus>,
}

/// One card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CardStatus {
    pub card: String,
    /// None if nothing measures it.
    pub memory: Option<MemoryStatus>,
    /// The driver no longer knows it.
    pub lost: bool,
    /// Who has the card now, and since when.
    pub holder: Option<HolderStatus>,
    /// Requests that wait for it.
    pub waiting: usize,
    /// What the last hand-off moved, or why nothing had to be moved.
    pub last_plan: Option<String>,
    /// What is done next if nobody asks, and when.
    pub next: Option<NextStatus>,
    /// Hand-offs that moved somebody.
    pub swaps: u64,
    pub workers: Vec<WorkerStatus>,
}

/// The memory of a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStatus {
    pub total_mib: MiB,
    pub free_mib: MiB,
    /// Held by no worker of ours.
    pub foreign_mib: MiB,
    /// "low", "medium", "high" or "critical".
    pub pressure: String,
}

/// A lease of a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderStatus {
    /// "generator", "scorer" or "enhancer".
    pub role: String,
    pub worker: Option<String>,
    pub since: UnixTime,
    /// It is looked after when it lasts longer.
    pub deadline_s: u64,
}

/// What a card's arbiter means to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextStatus {
    pub at: UnixTime,
    pub what: String,
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    pub worker: String,
    /// "generator", "scorer" or "enhancer".
    pub role: String,
    /// "resident", "unloaded", "stopped", "unknown", "failed", "overdue", or "unmanaged": nothing moves
    /// it.
    pub state: String,
    /// In that state; nothing if it is unmanaged.
    pub since: Option<UnixTime>,
    /// "pinned", "preferred" or "on-demand".
    pub residency: String,
    /// By the probe, or as is believed.
    pub held_mib: MiB,
    /// Declared, or measured since.
    pub resident_mib: MiB,
    pub peak_mib: MiB,
    /// It left for another and is to come back.
    pub owed: bool,
}

impl WorkersStatus {
    /// As the cards last showed themselves.
    pub fn of<'a>(benches: impl IntoIterator<Item = &'a Bench>, now: UnixTime) -> Self {
        Self { at: now, cards: benches.into_iter().map(CardStatus::of).collect() }
    }

    /// A worker by its name, with its card.
    pub fn find(&self, name: &str) -> Option<(&CardStatus, &WorkerStatus)> {
        self.cards.iter().find_map(|card| {
            card.workers.iter().find(|worker| worker.worker == name).map(|worker| (card, worker))
        })
    }
}

impl CardStatus {
    fn of(bench: &Bench) -> Self {
        let view = bench.arbiter.watch().borrow().clone();
        let mut status = Self::from(&view);
        let generator = (bench.generator.name(), "generator");
        let scorer = bench.scorer.as_ref().map(|scorer| (scorer.name(), "scorer"));
        for (name, role) in std::iter::once(generator).chain(scorer) {
            if status.workers.iter().all(|worker| worker.worker != name) {
                status.workers.push(WorkerStatus::unmanaged(name, role));
            }
        }
        status
    }
}

impl WorkerStatus {
    fn unmanaged(name: &str, role: &str) -> Self {
        Self {
            worker: name.to_owned(),
            role: role.to_owned(),
            state: "unmanaged".into(),
            since: None,
            residency: residency(Residency::OnDemand).into(),
            held_mib: MiB::ZERO,
            resident_mib: MiB::ZERO,
            peak_mib: MiB::ZERO,
            owed: false,
        }
    }
}

impl From<&CardView> for CardStatus {
    fn from(view: &CardView) -> Self {
        let ours: MiB = view.workers.iter().map(|worker| worker.held).sum();
        Self {
            card: view.card.to_string(),
            memory: view.memory.map(|memory| MemoryStatus {
                total_mib: memory.total,
                free_mib: memory.free,
                foreign_mib: memory.total.saturating_sub(memory.free).saturating_sub(ours),
                pressure: memory.pressure.to_string(),
            }),
            lost: view.is_lost,
            holder: view.lease.as_ref().map(|lease| HolderStatus {
                role: lease.tenant.to_string(),
                worker: lease.worker.as_ref().map(ToString::to_string),
                since: lease.since,
                deadline_s: whole_seconds(lease.deadline),
            }),
            waiting: view.waiting,
            last_plan: view.last_plan.clone(),
            next: view.next.as_ref().map(|next| NextStatus { at: next.at, what: next.what.clone() }),
            swaps: view.swaps,
            workers: view
                .workers
                .iter()
                .map(|worker| WorkerStatus {
                    worker: worker.worker.to_string(),
                    role: worker.tenant.to_string(),
                    state: state(worker.state).to_owned(),
                    since: Some(worker.since),
                    residency: residency(worker.residency).to_owned(),
                    held_mib: worker.held,
                    resident_mib: worker.resident,
                    peak_mib: worker.peak,
                    owed: worker.is_owed,
                })
                .collect(),
        }
    }
}

fn state(state: WorkerState) -> &'static str {
    match state {
        WorkerState::Resident => "resident",
        WorkerState::Unloaded => "unloaded",
        WorkerState::Stopped => "stopped",
        WorkerState::Unknown => "unknown",
        WorkerState::Failed { .. } => "failed",
        WorkerState::Overdue { .. } => "overdue",
    }
}

fn residency(residency: Residency) -> &'static str {
    match residency {
        Residency::Pinned => "pinned",
        Residency::Preferred => "preferred",
        Residency::OnDemand => "on-demand",
    }
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs()
}
