//! How much memory of a card is free, by the best source there is.
//!
//! What workers say of themselves is a claim (workers.md section 8); whether memory has moved is seen
//! on the device. The driver's own library is the truth; without it a worker's view of the whole
//! device serves, then the sum of what workers say they hold, then bookkeeping.
//!
//! Limits: process ids are those of the driver's namespace, so from inside a container they may name
//! nobody; a context's few hundred MiB count as used and are freed only when its process ends.

mod by_dialect;
mod by_ledger;
mod nvml;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

pub use by_dialect::ByDialect;
pub use by_ledger::ByLedger;
pub use nvml::{Card, Cards, Nvml, NvmlLibrary};

use crate::primitives::MiB;
use crate::workers::{Implausible, VerbError};

/// Memory of one card at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    pub total: MiB,
    pub free: MiB,
    /// What is not free, the driver's own share included.
    pub used: MiB,
    /// Who has how much; `None` where the source does not tell.
    pub processes: Option<Vec<ProcessMemory>>,
    /// Share of the last moments (up to a second) in which anything was computed, in percent; `None`
    /// where the source does not tell. A worker that answers nobody and computes is busy, not dead.
    pub activity: Option<u8>,
}

impl Reading {
    /// Of the card's memory alone. More free than there is counts as all of it.
    pub fn new(total: MiB, free: MiB) -> Self {
        let free = free.min(total);
        Self { total, free, used: MiB(total.0 - free.0), processes: None, activity: None }
    }
}

/// One process on a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessMemory {
    pub pid: u32,
    /// `None` where the driver does not know.
    pub used: Option<MiB>,
}

/// What a reading rests on, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Basis {
    /// The driver, for all processes.
    Driver,
    /// A worker's own look at the whole device.
    Worker,
    /// The sum of what workers say they hold; others are not seen.
    Sum,
    /// What is configured, and what we believe is loaded.
    Ledger,
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Driver => "driver",
            Self::Worker => "worker",
            Self::Sum => "sum of the workers",
            Self::Ledger => "ledger",
        })
    }
}

/// Why there is no reading.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No driver, or none that can be asked. Another source may serve.
    #[error("the driver's library cannot be used: {0}")]
    Absent(String),
    /// The card was there and is not, or never was.
    #[error("card {0} is not there")]
    Gone(String),
    #[error("the card's figures cannot be: {0}")]
    Implausible(String),
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error("the driver answered: {0}")]
    Failed(String),
    #[error("worker {worker}: {error}")]
    Worker { worker: String, error: VerbError },
    #[error("worker {0} says nothing of the card's memory")]
    NoFigures(String),
}

impl ProbeError {
    /// Whether it is because the worker that was asked does not run.
    pub fn is_nobody(&self) -> bool {
        matches!(self, Self::Worker { error: VerbError::Unreachable(error), .. } if error.is_refused())
    }

    /// Whether the card itself is lost, rather than the view of it.
    pub const fn is_gone(&self) -> bool {
        matches!(self, Self::Gone(_))
    }
}

impl From<Implausible> for ProbeError {
    fn from(implausible: Implausible) -> Self {
        Self::Implausible(implausible.to_string())
    }
}

/// Looks at one card's memory.
pub trait VramProbe: fmt::Debug + Send + Sync {
    /// One look. Takes as long as the source takes, and never for ever.
    fn read(&self) -> BoxFuture<'_, Result<Reading, ProbeError>>;

    fn basis(&self) -> Basis;
}

/// Sources in the order in which they are believed.
#[derive(Debug, Clone)]
pub struct FirstOf(pub Vec<Arc<dyn VramProbe>>);

impl VramProbe for FirstOf {
    /// The first that answers. A card that is gone is gone: no other source is asked about it.
    fn read(&self) -> BoxFuture<'_, Result<Reading, ProbeError>> {
        Box::pin(async {
            let mut last = ProbeError::Absent("no source is configured".into());
            for probe in &self.0 {
                match probe.read().await {
                    Err(error) if !error.is_gone() => last = error,
                    settled => return settled,
                }
            }
            Err(last)
        })
    }

    /// That of the best source; the others may have answered.
    fn basis(&self) -> Basis {
        self.0.iter().map(|probe| probe.basis()).min().unwrap_or(Basis::Ledger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Says(fn() -> Result<Reading, ProbeError>);

    impl VramProbe for Says {
        fn read(&self) -> BoxFuture<'_, Result<Reading, ProbeError>> {
            Box::pin(async { (self.0)() })
        }
        fn basis(&self) -> Basis {
            Basis::Worker
        }
    }

    fn first_of(answers: &[fn() -> Result<Reading, ProbeError>]) -> FirstOf {
        FirstOf(answers.iter().map(|answer| Arc::new(Says(*answer)) as Arc<dyn VramProbe>).collect())
    }

    fn absent() -> Result<Reading, ProbeError> {
        Err(ProbeError::Absent("no driver".into()))
    }
    fn silent() -> Result<Reading, ProbeError> {
        Err(ProbeError::Silent(Duration::from_secs(1)))
    }
    fn gone() -> Result<Reading, ProbeError> {
        Err(ProbeError::Gone("GPU-0".into()))
    }
    fn some() -> Result<Reading, ProbeError> {
        Ok(Reading::new(MiB(24_576), MiB(20_000)))
    }

    #[tokio::test]
    async fn the_next_source_is_asked_unless_the_card_is_gone() {
        assert_eq!(first_of(&[absent, silent, some]).read().await.unwrap().used, MiB(4_576));
        assert!(first_of(&[absent, gone, some]).read().await.unwrap_err().is_gone());
        assert!(matches!(first_of(&[absent, silent]).read().await, Err(ProbeError::Silent(_))));
        assert!(matches!(first_of(&[]).read().await, Err(ProbeError::Absent(_))));
    }

    #[test]
    fn no_more_is_free_than_there_is() {
        assert_eq!(Reading::new(MiB(100), MiB(200)).used, MiB(0));
    }
}
