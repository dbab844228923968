//! Worker servers as workers.md describes them, for a card that is a [ledger](super::card): each is a
//! process of its own, holds what it says, answers out-of-memory as the real one does, and has that
//! one's habits: 200 on failure, deafness while it works, a reload that is not safe to repeat.
//!
//! What is made and scored comes from [`DevGenerator`] and [`DevScorer`]; times are those of the
//! settings. Besides what always goes wrong with a kind of server, [faults](Fault) strike by chance.
//!
//! Limits: at most one job at a time is worked at, whatever the dialect; the texts of the engines are
//! no texts.

mod dialect;
mod engines;
mod fault;
mod models;
mod three_gen;
mod verbs;

use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{Method, StatusCode, header, request};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

pub use dialect::{InvalidDialect, WorkerDialect};
pub use fault::{Chance, Fault, InvalidFault};
pub use models::Sizes;

use dialect::{Route, Trade};
use fault::Luck;
use models::Models;

use super::card::{CardLedger, HoldError, What};
use super::generator::{DevGenerator, DevGeneratorSettings};
use super::mix;
use super::scorer::{DevScorer, DevScorerSettings};
use crate::clock::Clock;
use crate::net::{Call, Connections, Endpoint, Limits, NetError, Transport};
use crate::primitives::ByteSize;

/// Largest request, in bytes.
const BODY_LIMIT: usize = 640 << 20;

/// A worker server.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// In the ledger.
    pub name: String,
    pub dialect: WorkerDialect,
    pub sizes: Sizes,
    pub load_time: Duration,
    pub unload_time: Duration,
    /// On top of what the work takes here.
    pub work_time: Duration,
    /// How late memory is given back by [`Fault::Late`].
    pub late_time: Duration,
    pub faults: Vec<Chance>,
    /// Of faults and of what is made. With each process on the card the faults are others: one that is
    /// restarted does not meet its end in the same place again.
    pub seed: u64,
    /// Of a scene; `None`: as many as usual.
    pub gaussians: Option<usize>,
    /// The validation service that it unloads before its work and reloads after (GEN-HUN).
    pub drives: Option<Endpoint>,
}

/// How a worker's process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Runs,
    /// It ends, after the answers that are under way.
    Ends,
    /// It is gone, in the midst of whatever it did.
    Crashed,
}

/// See the [module](self). Clones share everything.
#[derive(Debug, Clone)]
pub struct DevWorker(Arc<Shop>);

#[derive(Debug)]
struct Shop {
    settings: WorkerSettings,
    models: Models,
    clock: Clock,
    luck: Mutex<Luck>,
    /// Had by whoever is served, for as long as the others get no answer.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Had by whoever works.
    bench: tokio::sync::Mutex<()>,
    /// Scores nothing but zeros.
    spoilt: AtomicBool,
    /// Something was unloaded that can be restored.
    backup: AtomicBool,
    stubborn: bool,
    fate: watch::Sender<Fate>,
    jobs: TaskTracker,
    /// The server of whatever it makes.
    inner: Router,
    transport: Transport,
}

impl DevWorker {
    /// A worker that is ready: its models are loaded, if it does that by itself.
    ///
    /// # Errors
    /// When there is no room for it on the card, or the ledger cannot be written.
    pub async fn start(
        settings: WorkerSettings,
        ledger: CardLedger,
        clock: Clock,
    ) -> Result<Self, HoldError> {
        let starts = ledger.read()?.starts;
        let mut luck = Luck::new(settings.faults.clone(), mix(settings.seed, &starts.to_le_bytes()));
        let names = settings.dialect.models();
        let models = Models::new(ledger, settings.name.clone(), settings.sizes, names);
        if luck.strikes(Fault::Cpu) {
            models.note(&What::Fault(Fault::Cpu.to_string()));
            models.fall_back_to_cpu();
        }
        models.begin()?;
        if settings.dialect.loads_at_start() {
            models.load(names, false)?;
            clock.sleep(settings.load_time).await;
            models.loaded(names)?;
        }
        let inner = match settings.dialect.trade() {
            Trade::Splats => {
                let usual = DevGeneratorSettings::default();
                let gaussians = settings.gaussians.unwrap_or(usual.gaussians);
                let made = DevGeneratorSettings { gaussians, delay: settings.work_time, seed: settings.seed };
                DevGenerator::new(made, clock).router()
            }
            Trade::Scores => DevScorer::new(DevScorerSettings { delay: settings.work_time }, clock).router(),
            Trade::Texts => Router::new(),
        };
        let transport = Transport::http(Duration::from_secs(3), Connections::Fresh)
            .map_err(|error| std::io::Error::other(error.to_string()))?;
        let stubborn = luck.strikes(Fault::Stubborn);
        Ok(Self(Arc::new(Shop {
            settings,
            models,
            clock,
            luck: Mutex::new(luck),
            turn: Arc::default(),
            bench: tokio::sync::Mutex::default(),
            spoilt: AtomicBool::new(false),
            backup: AtomicBool::new(false),
            stubborn,
            fate: watch::Sender::new(Fate::Runs),
            jobs: TaskTracker::new(),
            inner,
            transport,
        })))
    }

    pub fn router(&self) -> Router {
        let shop = Arc::clone(&self.0);
        Router::new().fallback(move |request: Request| answer(Arc::clone(&shop), request))
    }

    /// Waits for the end of the process: what it comes to.
    pub async fn fate(&self) -> Fate {
        let mut fate = self.0.fate.subscribe();
        let ended = fate.wait_for(|fate| *fate != Fate::Runs).await;
        ended.map_or(Fate::Crashed, |fate| *fate)
    }

    /// Whether it ignores being asked to end.
    pub fn is_stubborn(&self) -> bool {
        self.0.stubborn
    }

    /// Gives its memory back, as the end of a process does.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub fn leave(&self) -> std::io::Result<()> {
        self.0.models.leave()
    }
}

async fn answer(shop: Arc<Shop>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_LIMIT).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    // Not a route of any real server: a test changes what goes wrong.
    if parts.uri.path() == "/devnet/faults" {
        return shop.change_faults(&body);
    }
    shop.models.note(&What::Asked(format!("{} {}", parts.method, parts.uri.path())));
    // It goes on when the client has gone (workers.md section 6).
    let jobs = shop.jobs.clone();
    jobs.spawn(shop.serve(parts, body)).await.unwrap_or_else(|_| broken())
}

impl Shop {
    async fn serve(self: Arc<Self>, parts: request::Parts, body: Bytes) -> Response {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let path = parts.uri.path().to_owned();
        let routes = self.settings.dialect.routes();
        let here = |path: &str| routes.iter().filter(|(_, known, _)| *known == path).collect::<Vec<_>>();
        let Some((_, _, route)) = here(&path).into_iter().find(|(method, ..)| *method == parts.method) else {
            let methods: Vec<_> = here(&path).iter().map(|(method, ..)| *method).collect();
            if !methods.is_empty() {
                let status = if parts.method == Method::OPTIONS { 200 } else { 405 };
                return with_header(status, header::ALLOW, &methods.join(", "));
            }
            // A slash too many or too few is redirected, body and all.
            let other = path.strip_suffix('/').map_or_else(|| format!("{path}/"), str::to_owned);
            if !here(&other).is_empty() {
                return with_header(307, header::LOCATION, &other);
            }
            return said(404, &json!({"detail": "Not Found"}));
        };
        if *route != Route::Question && self.strikes(Fault::Hangs) {
            // With its turn: nobody else is answered either.
            return pending().await;
        }
        let always = self.strikes(Fault::Deaf);
        match route {
            Route::Question => self.question(&path),
            Route::Verb => {
                let turn = (always || self.settings.dialect.is_deaf_in_verbs()).then_some(turn);
                let query = parts.uri.query().unwrap_or_default();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let response = self.verb(&path, query, &body).await;
                drop(turn);
                if self.strikes(Fault::Mute) {
                    return pending().await;
                }
                response
            }
            Route::Work => {
                let _turn = (always || self.settings.dialect.is_deaf_at_work()).then_some(turn);
                self.work(Request::from_parts(parts, Body::from(body))).await
            }
        }
    }

    /// One job, from the memory that it takes to the memory that it gives back.
    async fn work(self: &Arc<Self>, request: Request) -> Response {
        let _bench = self.bench.lock().await;
        let driven = self.settings.drives.as_ref();
        if let Some(driven) = driven {
            // It goes on whatever comes of it.
            let _ = self.order(driven, "/unload_models/", Duration::from_secs(30)).await;
        }
        let response = self.job(request).await;
        if let Some(driven) = driven {
            let _ = self.order(driven, "/reload_models/", Duration::from_secs(60)).await;
        }
        response
    }

    async fn job(self: &Arc<Self>, request: Request) -> Response {
        let dialect = self.settings.dialect;
        if dialect.loads_at_start() {
            if !self.models.are_ready() {
                return self.failure();
            }
        } else if let Err(error) = self.bring_in(self.models.names(), false).await {
            return self.out_of_memory(&error);
        }
        if let Err(error) = self.models.work(true) {
            return self.out_of_memory(&error);
        }
        let response = match dialect.trade() {
            Trade::Texts => {
                self.clock.sleep(self.settings.work_time).await;
                engines::text(dialect, request).await
            }
            Trade::Splats | Trade::Scores => match self.inner.clone().oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
        };
        // Whoever unloads in the midst of it races it.
        let undisturbed = !dialect.loads_at_start() || self.models.are_ready();
        if dialect == WorkerDialect::Hunyuan
            && let Err(error) = self.models.unload(self.models.names(), false)
        {
            tracing::warn!(%error, "Memory is not given back");
        }
        if let Err(error) = self.models.work(false) {
            tracing::warn!(%error, "Memory is not given back");
        }
        if !undisturbed || self.spoilt.load(Ordering::SeqCst) {
            return self.failure();
        }
        response
    }

    /// Models onto the card, with the time that takes.
    async fn bring_in(&self, names: &[&'static str], doubled: bool) -> Result<(), HoldError> {
        if !doubled && names.iter().all(|name| self.models.is_on_card(name)) {
            return Ok(());
        }
        self.models.load(names, doubled)?;
        self.clock.sleep(self.settings.load_time).await;
        self.models.loaded(names)
    }

    /// Work that cannot be done, as the framework or the service words it.
    fn failure(&self) -> Response {
        match self.settings.dialect.trade() {
            // Every failure looks like a bad result (workers.md 2.2).
            Trade::Scores => said(
                200,
                &json!({"score": 0.0, "iqa": 0.0, "alignment_score": 0.0, "ssim": 0.0, "lpips": 0.0,
                        "preview": null, "grid_preview": null}),
            ),
            Trade::Splats | Trade::Texts => broken(),
        }
    }

    fn out_of_memory(&self, error: &HoldError) -> Response {
        tracing::warn!(%error, "Work is not done");
        if self.strikes(Fault::Crashes) {
            self.fate.send_replace(Fate::Crashed);
        }
        self.failure()
    }

    /// A verb of another server, whose answer is not looked at.
    async fn order(&self, to: &Endpoint, path: &str, patience: Duration) -> Result<(), NetError> {
        let limits = Limits { first_byte: patience, total: patience, body: ByteSize::mib(1) };
        let call =
            Call { method: Method::POST, url: to.at(path), headers: Default::default(), body: Bytes::new() };
        self.transport.call(&self.clock, call, &limits).await.map(drop)
    }

    fn strikes(&self, fault: Fault) -> bool {
        let struck = self.luck.lock().unwrap_or_else(PoisonError::into_inner).strikes(fault);
        if struck {
            self.models.note(&What::Fault(fault.to_string()));
        }
        struck
    }

    /// Faults as on the command line, separated by commas; none: nothing goes wrong any more.
    fn change_faults(&self, body: &[u8]) -> Response {
        let text = String::from_utf8_lossy(body);
        let chances = text.split(',').filter(|part| !part.is_empty()).map(str::parse);
        match chances.collect::<Result<Vec<Chance>, _>>() {
            Ok(chances) => {
                self.luck.lock().unwrap_or_else(PoisonError::into_inner).change(chances);
                StatusCode::NO_CONTENT.into_response()
            }
            Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
        }
    }
}

/// As the framework words an exception.
fn broken() -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error").into_response()
}

fn said(status: u16, json: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, axum::Json(json)).into_response()
}

fn with_header(status: u16, name: header::HeaderName, value: &str) -> Response {
    let built = Response::builder().status(status).header(name, value).body(Body::empty());
    built.unwrap_or_else(|_| broken())
}
