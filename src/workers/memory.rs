//! The verbs by which a worker gives up the card's memory and takes it again.
//!
//! Each dialect has its own (workers.md sections 3 to 7), and most of them lie: five answer 200 on
//! failure, ComfyUI's 200 only sets a flag, vLLM's may come before the work is done, and in some the
//! memory comes back later than the answer. What comes of a verb is therefore a *claim*; whether it
//! is true is seen on the device. Nothing is retried here: some verbs are not safe to repeat, and
//! one without an answer may be carried out all the same.

mod dialect;
mod engines;
mod figures;
mod plain;
mod three_gen;

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::Value;
use tokio::time::Instant;
use url::Url;

pub use dialect::{CacheFigure, InvalidDialect, Means, MemoryDialect, Sight, SleepLevel, Verb, WorkerWord};
pub(super) use figures::{Answer, ReadError};
pub use figures::{Implausible, Unit};
pub(super) use plain::health_figures;

use crate::clock::Clock;
use crate::net::{Call, Endpoint, Limits, NetError, Reply, Transport};
use crate::primitives::{ByteSize, MiB, Untrusted};

/// Longest waits for the whole answer to a call. A verb of several calls has them all within one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryTimeouts {
    pub status: Duration,
    pub cleanup: Duration,
    pub unload: Duration,
    pub load: Duration,
}

impl Default for MemoryTimeouts {
    /// Those of source documents 001 and 003.
    fn default() -> Self {
        Self {
            status: Duration::from_secs(5),
            cleanup: Duration::from_secs(30),
            unload: Duration::from_secs(30),
            load: Duration::from_secs(60),
        }
    }
}

/// One worker's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemorySettings {
    /// The worker's name.
    pub name: String,
    pub endpoint: Endpoint,
    pub dialect: MemoryDialect,
    pub timeouts: MemoryTimeouts,
}

/// What a worker says of memory. Every figure is one that a card can have, and none is proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WorkerMemory {
    /// Memory of the whole device.
    pub device_total: Option<MiB>,
    /// Of it, what no process has.
    pub device_free: Option<MiB>,
    /// What the worker itself has. In MEM only its tensors: neither cached blocks nor the context.
    pub own: Option<MiB>,
    pub models_loaded: Option<bool>,
    /// `false`: it fell back to the CPU and counts as unavailable, however healthy it says it is.
    pub gpu_enabled: Option<bool>,
}

/// What a worker claims to have done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    Done,
    /// It took the order and acts later.
    Accepted,
    /// Nothing was asked of it: it loads by itself when it is next used.
    OnDemand,
    /// It says that it failed, often with a 200.
    Failed(String),
}

/// The answer to a verb.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerbReply {
    pub claim: Claim,
    /// How it says it did it.
    pub note: Option<&'static str>,
    /// Figures that came with the answer.
    pub memory: Option<WorkerMemory>,
    /// Figures that came and cannot be true. The verb may be done all the same.
    pub implausible: Option<Implausible>,
    /// From the first call to the last byte of the last answer.
    pub took: Duration,
}

/// Why a worker said nothing usable.
#[derive(Debug, thiserror::Error)]
pub enum VerbError {
    #[error("a worker of dialect {dialect} cannot be asked to {verb}")]
    Unsupported { verb: Verb, dialect: &'static str, instead: Means },
    #[error("the worker is not reachable: {0}")]
    Unreachable(NetError),
    /// Busy or dead: many answer nothing while they work. What was asked may be under way.
    #[error("the worker said nothing within {0:?}")]
    Silent(Duration),
    #[error("the worker's answer did not arrive: {0}")]
    Broken(NetError),
    #[error("the worker redirects {path} ({status}): another dialect, or not the worker's own URL")]
    Redirected { path: &'static str, status: StatusCode },
    #[error("the worker has no {path}{hint}")]
    Absent { path: &'static str, hint: &'static str },
    #[error("the worker answered {status}: {detail}")]
    Refused { status: StatusCode, detail: String },
    #[error("the worker's answer to {path} cannot be read: {why}")]
    Unreadable { path: &'static str, why: String },
    #[error("the worker's figures cannot be: {0}")]
    Implausible(#[from] Implausible),
}

impl VerbError {
    /// Whether the worker may have done, or be doing, what it was asked.
    pub const fn may_have_happened(&self) -> bool {
        match self {
            Self::Unsupported { .. }
            | Self::Unreachable(_)
            | Self::Redirected { .. }
            | Self::Absent { .. } => false,
            Self::Silent(_)
            | Self::Broken(_)
            | Self::Refused { .. }
            | Self::Unreadable { .. }
            | Self::Implausible(_) => true,
        }
    }

    /// Whether it is the answer, or the silence, of a worker that works.
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Silent(_) => true,
            Self::Refused { status, .. } => {
                matches!(*status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
            }
            _ => false,
        }
    }

    /// Whether another server than the configured one seems to answer there.
    pub const fn is_foreign(&self) -> bool {
        matches!(self, Self::Redirected { .. } | Self::Absent { .. } | Self::Unreadable { .. })
    }
}

/// What a dialect's verb came to; the time is added by [`MemoryControl`].
struct Outcome {
    claim: Claim,
    note: Option<&'static str>,
    memory: Option<WorkerMemory>,
    implausible: Option<Implausible>,
}

impl From<Claim> for Outcome {
    fn from(claim: Claim) -> Self {
        Self { claim, note: None, memory: None, implausible: None }
    }
}

impl Outcome {
    fn with_figures(self, figures: Result<WorkerMemory, Implausible>) -> Self {
        match figures {
            Ok(memory) => Self { memory: Some(memory).filter(|m| *m != WorkerMemory::default()), ..self },
            Err(implausible) => Self { implausible: Some(implausible), ..self },
        }
    }
}

/// A client of the memory verbs of one worker.
#[derive(Debug, Clone)]
pub struct MemoryControl {
    settings: MemorySettings,
    transport: Transport,
    clock: Clock,
}

/// Bytes of an answer: figures and a few names.
const REPLY_LIMIT: ByteSize = ByteSize::mib(1);

impl MemoryControl {
    pub fn new(settings: MemorySettings, transport: Transport, clock: Clock) -> Self {
        Self { settings, transport, clock }
    }

    pub fn name(&self) -> &str {
        &self.settings.name
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.settings.endpoint
    }

    pub fn dialect(&self) -> &MemoryDialect {
        &self.settings.dialect
    }

    pub const fn is_idempotent(&self, verb: Verb) -> bool {
        self.settings.dialect.is_idempotent(verb)
    }

    pub const fn is_deaf_while_busy(&self) -> bool {
        self.settings.dialect.is_deaf_while_busy()
    }

    /// Asks for the models to leave the card's memory.
    ///
    /// Dropping the future abandons the answer; the worker goes on working (workers.md section 6).
    ///
    /// # Errors
    /// See [`VerbError`].
    pub async fn unload(&self) -> Result<VerbReply, VerbError> {
        self.verb(Verb::Unload).await
    }

    /// Asks for the models to come back.
    ///
    /// # Errors
    /// See [`VerbError`].
    pub async fn load(&self) -> Result<VerbReply, VerbError> {
        self.verb(Verb::Load).await
    }

    /// Asks for caches to be given back; models stay where they are.
    ///
    /// # Errors
    /// See [`VerbError`].
    pub async fn cleanup(&self) -> Result<VerbReply, VerbError> {
        self.verb(Verb::Cleanup).await
    }

    async fn verb(&self, verb: Verb) -> Result<VerbReply, VerbError> {
        let time = match verb {
            Verb::Unload => self.settings.timeouts.unload,
            Verb::Load => self.settings.timeouts.load,
            Verb::Cleanup => self.settings.timeouts.cleanup,
        };
        let asked = self.asked(time);
        let dialect = &self.settings.dialect;
        let outcome = match dialect.means(verb) {
            Means::Call => match dialect {
                MemoryDialect::ThreeGen => three_gen::verb(&asked, verb).await?,
                MemoryDialect::ClearCache(figure) => plain::clear_cache(&asked, *figure).await?,
                MemoryDialect::Memory(part) => plain::memory(&asked, verb, part.as_ref()).await?,
                engine => engines::verb(&asked, verb, engine).await?,
            },
            Means::OnDemand => Claim::OnDemand.into(),
            instead @ (Means::Process | Means::Nothing) => {
                return Err(VerbError::Unsupported { verb, dialect: dialect.name(), instead });
            }
        };
        let Outcome { claim, note, memory, implausible } = outcome;
        Ok(VerbReply { claim, note, memory, implausible, took: asked.begun.elapsed() })
    }

    /// What the worker says of the card and of itself.
    ///
    /// # Errors
    /// See [`VerbError`]; figures that no card can have are [`VerbError::Implausible`].
    pub async fn status(&self) -> Result<WorkerMemory, VerbError> {
        let asked = self.asked(self.settings.timeouts.status);
        match &self.settings.dialect {
            MemoryDialect::ThreeGen => three_gen::status(&asked).await,
            MemoryDialect::Memory(part) => plain::memory_status(&asked, part.as_ref()).await,
            // Those with a cache verb answer on `/health/`, with the slash.
            MemoryDialect::ClearCache(_) => plain::health(&asked, "/health/").await,
            MemoryDialect::Process | MemoryDialect::Nothing => plain::health(&asked, "/health").await,
            engine => engines::status(&asked, engine).await,
        }
    }

    fn asked(&self, time: Duration) -> Asked<'_> {
        Asked { control: self, begun: self.clock.instant(), time }
    }
}

/// The calls of one verb, with one time for all of them.
struct Asked<'a> {
    control: &'a MemoryControl,
    begun: Instant,
    time: Duration,
}

impl Asked<'_> {
    fn url(&self, path: &str) -> Url {
        self.control.settings.endpoint.at(path)
    }

    async fn get(&self, path: &'static str) -> Result<Reply, VerbError> {
        self.reply(Method::GET, path, self.url(path), None).await
    }

    async fn post(&self, path: &'static str, json: Option<&Value>) -> Result<Reply, VerbError> {
        self.reply(Method::POST, path, self.url(path), json).await
    }

    /// The answer of whatever status but a redirect. `path` is what errors name.
    async fn reply(
        &self,
        method: Method,
        path: &'static str,
        url: Url,
        json: Option<&Value>,
    ) -> Result<Reply, VerbError> {
        let left = self.time.saturating_sub(self.begun.elapsed());
        let mut headers = HeaderMap::new();
        let body = json.map_or_else(Bytes::new, |json| {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Bytes::from(json.to_string())
        });
        let limits = Limits { first_byte: left, total: left, body: REPLY_LIMIT };
        let call = Call { method, url, headers, body };
        self.control.transport.call(&self.control.clock, call, &limits).await.map_err(|error| match error {
            NetError::FirstByteTimeout(_) | NetError::TotalTimeout(_) => VerbError::Silent(self.time),
            NetError::Redirected(status) => VerbError::Redirected { path, status },
            error if error.may_have_arrived() => VerbError::Broken(error),
            error => VerbError::Unreachable(error),
        })
    }
}

/// The answer if it is a 2xx.
fn granted(reply: Reply, path: &'static str, hint: &'static str) -> Result<Reply, VerbError> {
    match reply.status {
        status if status.is_success() => Ok(reply),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Err(VerbError::Absent { path, hint }),
        status => Err(VerbError::Refused { status, detail: detail(&reply.body) }),
    }
}

/// The answer as a JSON object.
fn object(reply: &Reply, path: &'static str) -> Result<Answer, VerbError> {
    Answer::read(&reply.body).map_err(|error| match error {
        ReadError::Unreadable(why) => VerbError::Unreadable { path, why },
        ReadError::Implausible(implausible) => implausible.into(),
    })
}

/// What an error's body says, cut and escaped.
fn detail(body: &[u8]) -> String {
    let named = Answer::read(body).ok().and_then(|answer| {
        let text = ["detail", "error", "message"].into_iter().find_map(|key| answer.text(key));
        text.map(|text| Untrusted::new(text).to_string())
    });
    named.unwrap_or_else(|| {
        let text = String::from_utf8_lossy(&body[..body.len().min(400)]);
        Untrusted::new(&text).to_string()
    })
}

/// A foreign text as it may stand in a claim.
fn quoted(text: Option<&str>) -> String {
    Untrusted::new(text.unwrap_or("no reason given")).to_string()
}
