//! The journal of hand-offs, in the store.

use futures_util::future::BoxFuture;

use crate::gpu::{HandoffId, HandoffLog, Intent, LogError, StepTaken};
use crate::primitives::UnixTime;
use crate::store::{HandoffRecord, HandoffStep, Store, StoreError};

/// See the [module](self).
#[derive(Debug)]
pub struct Journal(pub Store);

impl HandoffLog for Journal {
    fn begin(&self, intent: Intent) -> BoxFuture<'_, Result<HandoffId, LogError>> {
        let Intent { card, at, cause, wanted, evicted } = intent;
        let evicted = evicted.iter().map(ToString::to_string).collect();
        let (cause, wanted) = (cause.to_string(), wanted.to_string());
        let record = HandoffRecord { card, at, cause, wanted, evicted };
        Box::pin(async { self.0.begin_handoff(record).await.map(HandoffId).map_err(log_error) })
    }

    fn step(&self, id: HandoffId, taken: StepTaken) -> BoxFuture<'_, Result<(), LogError>> {
        let StepTaken { step, at, took, failure } = taken;
        let worker = step.worker().map(ToString::to_string);
        let step = HandoffStep { verb: step.verb().to_owned(), worker, at, took, failure };
        Box::pin(async move { self.0.handoff_step(id.0, step).await.map_err(log_error) })
    }

    fn commit(&self, id: HandoffId, at: UnixTime) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move { self.0.end_handoff(id.0, at, None).await.map_err(log_error) })
    }

    fn fail(&self, id: HandoffId, at: UnixTime, why: String) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move { self.0.end_handoff(id.0, at, Some(why)).await.map_err(log_error) })
    }
}

fn log_error(error: StoreError) -> LogError {
    LogError(error.to_string())
}
