//! A card by bookkeeping, where nobody can be asked.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;

use super::{Basis, ProbeError, Reading, VramProbe};
use crate::primitives::MiB;

/// The configured size of a card, and what each worker is believed to hold of it.
#[derive(Debug)]
pub struct ByLedger {
    total: MiB,
    rows: Mutex<BTreeMap<String, MiB>>,
}

impl ByLedger {
    pub fn new(total: MiB) -> Self {
        Self { total, rows: Mutex::default() }
    }

    /// Writes down what a worker holds from now on; 0 takes it off the ledger.
    pub fn hold(&self, worker: &str, memory: MiB) {
        let mut rows = self.rows();
        if memory == MiB(0) {
            rows.remove(worker);
        } else {
            rows.insert(worker.to_owned(), memory);
        }
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<String, MiB>> {
        // Rows are replaced whole, so a panic elsewhere leaves none half written.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VramProbe for ByLedger {
    fn read(&self) -> BoxFuture<'_, Result<Reading, ProbeError>> {
        let held = self.rows().values().fold(0_u64, |sum, row| sum.saturating_add(row.0));
        let reading = Reading::new(self.total, MiB(self.total.0.saturating_sub(held)));
        Box::pin(async { Ok(reading) })
    }

    fn basis(&self) -> Basis {
        Basis::Ledger
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_held_is_not_free() {
        let ledger = ByLedger::new(MiB(24_576));
        ledger.hold("judge", MiB(4_813));
        ledger.hold("main", MiB(20_070));
        assert_eq!(ledger.read().await.unwrap(), Reading::new(MiB(24_576), MiB(0)));
        ledger.hold("judge", MiB(400));
        assert_eq!(ledger.read().await.unwrap().free, MiB(24_576 - 20_070 - 400));
        ledger.hold("main", MiB(0));
        assert_eq!(ledger.read().await.unwrap().used, MiB(400));
    }
}
