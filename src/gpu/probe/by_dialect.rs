//! A card as its workers see it, where the driver cannot be asked.

use futures_util::future::{BoxFuture, join_all};

use super::{Basis, ProbeError, Reading, VramProbe};
use crate::primitives::MiB;
use crate::workers::{Implausible, MemoryControl, Sight, WorkerMemory};

/// What a worker's process has of a card besides what it counts: its CUDA context. Nominal; 300 to
/// 500 MiB are usual.
const CONTEXT: MiB = MiB(500);

/// The workers of one card.
///
/// One that sees the whole device is believed for the whole device. Without such a one, what all of
/// them hold is added up: strangers on the card are not seen, so the free memory is an upper bound.
#[derive(Debug, Clone)]
pub struct ByDialect {
    workers: Vec<MemoryControl>,
    /// The card's size, if it is known from elsewhere: a worker that disagrees counts in another unit
    /// or looks at another card.
    total: Option<MiB>,
}

impl ByDialect {
    pub fn new(workers: Vec<MemoryControl>, total: Option<MiB>) -> Self {
        let mut workers = workers;
        workers.retain(|worker| worker.dialect().sight() != Sight::Nothing);
        Self { workers, total }
    }

    /// Whether any of the workers says anything of memory.
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    async fn look(&self) -> Result<Reading, ProbeError> {
        let mut silent: Option<ProbeError> = None;
        for worker in self.workers.iter().filter(|worker| worker.dialect().sight() == Sight::Device) {
            match self.ask(worker).await {
                Ok((total, memory)) => match memory.device_free {
                    Some(free) => return Ok(Reading::new(total, free)),
                    None => silent = Some(ProbeError::NoFigures(worker.name().to_owned())),
                },
                // Of those that were asked in vain one that runs may answer soon.
                Err(error) => silent = Some(silent.filter(|other| !other.is_nobody()).unwrap_or(error)),
            }
        }
        match silent {
            Some(error) => Err(error),
            None => self.sum().await,
        }
    }

    async fn sum(&self) -> Result<Reading, ProbeError> {
        let asked = join_all(self.workers.iter().map(|worker| self.ask_own(worker))).await;
        let mut total = self.total;
        let mut held = 0_u64;
        for answer in asked {
            let (own, device_total) = answer?;
            held += own.0 + CONTEXT.0;
            total = total.or(device_total);
        }
        let total = total.ok_or_else(|| {
            let names: Vec<_> = self.workers.iter().map(MemoryControl::name).collect();
            ProbeError::NoFigures(names.join(", "))
        })?;
        Ok(Reading::new(total, MiB(total.0.saturating_sub(held))))
    }

    async fn ask_own(&self, worker: &MemoryControl) -> Result<(MiB, Option<MiB>), ProbeError> {
        let memory = status(worker).await?;
        self.agrees(memory.device_total)?;
        let own = memory.own.ok_or_else(|| ProbeError::NoFigures(worker.name().to_owned()))?;
        Ok((own, memory.device_total))
    }

    async fn ask(&self, worker: &MemoryControl) -> Result<(MiB, WorkerMemory), ProbeError> {
        let memory = status(worker).await?;
        self.agrees(memory.device_total)?;
        let total = memory.device_total.or(self.total);
        let total = total.ok_or_else(|| ProbeError::NoFigures(worker.name().to_owned()))?;
        Ok((total, memory))
    }

    /// 2 % are let pass: drivers keep a little for themselves, and some of them say so.
    fn agrees(&self, said: Option<MiB>) -> Result<(), Implausible> {
        let (Some(known), Some(said)) = (self.total, said) else { return Ok(()) };
        if known.0.abs_diff(said.0) <= known.0 / 50 {
            return Ok(());
        }
        Err(Implausible {
            what: "the total",
            said: format!("{said} on a card of {known}"),
            why: "another unit, or another card",
        })
    }
}

async fn status(worker: &MemoryControl) -> Result<WorkerMemory, ProbeError> {
    worker.status().await.map_err(|error| ProbeError::Worker { worker: worker.name().to_owned(), error })
}

impl VramProbe for ByDialect {
    fn read(&self) -> BoxFuture<'_, Result<Reading, ProbeError>> {
        Box::pin(self.look())
    }

    fn basis(&self) -> Basis {
        if self.workers.iter().any(|worker| worker.dialect().sight() == Sight::Device) {
            Basis::Worker
        } else {
            Basis::Sum
        }
    }
}
