//! What the two worker servers have in common: the refusals of the framework the real ones are
//! written in (workers.md section 6), and one job at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;

/// Why a request is not served.
#[derive(Debug)]
pub(super) enum Refused {
    /// 422: the body does not have the expected fields.
    Unprocessable { kind: &'static str, field: &'static str, message: String },
    /// 400: the body cannot be taken apart.
    Unparsable,
    /// 500, as the framework words it when a handler raises.
    Broken,
}

impl Refused {
    pub fn missing(field: &'static str) -> Self {
        Self::Unprocessable { kind: "missing", field, message: "Field required".into() }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Unprocessable { kind, field, message } => {
                let detail = json!({"detail": [{"type": kind, "loc": ["body", field], "msg": message}]});
                (StatusCode::UNPROCESSABLE_ENTITY, Json(detail)).into_response()
            }
            Self::Unparsable => {
                let detail = json!({"detail": "There was an error parsing the body"});
                (StatusCode::BAD_REQUEST, Json(detail)).into_response()
            }
            Self::Broken => (StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error").into_response(),
        }
    }
}

/// Does one job after the other. A job goes on when the client that asked for it has gone, as on a
/// real worker: closing the connection does not free the card.
#[derive(Debug)]
pub(super) struct Bench {
    clock: Clock,
    delay: Duration,
    turn: Semaphore,
    jobs: TaskTracker,
    done: AtomicU64,
}

impl Bench {
    /// Every job takes `delay` on top of its work.
    pub fn new(clock: Clock, delay: Duration) -> Self {
        let (turn, jobs) = (Semaphore::new(1), TaskTracker::new());
        Self { clock, delay, turn, jobs, done: AtomicU64::new(0) }
    }

    /// The result of `work` and the seconds it took from its turn on; nothing if it panicked.
    pub async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<(T, f64)> {
        let bench = self.clone();
        let job = self.jobs.spawn(async move {
            let _turn = bench.turn.acquire().await.ok()?;
            let started = bench.clock.instant();
            bench.clock.sleep(bench.delay).await;
            let result = tokio::task::spawn_blocking(work).await.ok()?;
            bench.done.fetch_add(1, Ordering::Relaxed);
            Some((result, started.elapsed().as_secs_f64()))
        });
        job.await.ok().flatten()
    }

    /// Jobs done.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}
