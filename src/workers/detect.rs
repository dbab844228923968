//! What answers at an address, found by asking harmless questions.
//!
//! Ports say nothing: the official validation service and the official base miner both listen at 8094
//! by default, three others at 10006 (workers.md). So a server is known by what it answers, cheapest
//! questions first. Only GET and OPTIONS are sent: OPTIONS tells whether a route takes POST without
//! running it. `/status/` is never asked for (it empties caches on two servers), nor any debug route
//! (one prints its secrets).
//!
//! Limits: most workers answer nothing while they work, and then nothing can be told but that the
//! port is open.

mod decide;
mod mistakes;
mod places;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::ALLOW;
use http::{HeaderMap, Method, StatusCode};

pub use mistakes::{Expected, Mistake, Placed, find_mistakes};
pub use places::{Found, Origin, Place, Places, WorkerRole, places};

use super::generator::Dialect;
use super::memory::MemoryDialect;
use crate::clock::Clock;
use crate::net::{Call, Endpoint, Limits, NetError, Reply, Transport};
use crate::primitives::{ByteSize, Untrusted};

/// A server that can be told from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Server {
    /// VAL-OFF.
    Validation,
    /// VAL-HO: with the hand-off verbs.
    HandoffValidation,
    /// GEN-BASE.
    BaseMiner,
    /// GEN-OFF, and whatever else takes a prompt as a form and says nothing more.
    FormGenerator,
    /// GEN-HUN.
    Hunyuan,
    /// GEN-SUB.
    TrellisSubmit,
    /// GEN-CMP.
    Competitive,
    /// GEN-TRJ.
    TrellisLinks,
    /// TRL-MS.
    TrellisService,
    /// MEM.
    MemoryWorker,
    /// HLT.
    HealthService,
    /// Hand-off verbs without a validation service beside them.
    HandoffShim,
    Vllm,
    Comfy,
    Ollama,
    LlamaSwap,
    Triton,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Validation => "the official validation service",
            Self::HandoffValidation => "the validation service with hand-off verbs",
            Self::BaseMiner => "the official base miner",
            Self::FormGenerator => "a generator that takes prompts as a form",
            Self::Hunyuan => "the FLUX and Hunyuan3D generator",
            Self::TrellisSubmit => "the FLUX and TRELLIS generator",
            Self::Competitive => "the competitive generator",
            Self::TrellisLinks => "a TRELLIS server that takes JSON and answers with links",
            Self::TrellisService => "the TRELLIS micro-service",
            Self::MemoryWorker => "a worker with /memory/ routes",
            Self::HealthService => "a service with a health route",
            Self::HandoffShim => "a server with hand-off verbs",
            Self::Vllm => "vLLM",
            Self::Comfy => "ComfyUI",
            Self::Ollama => "Ollama",
            Self::LlamaSwap => "llama-swap",
            Self::Triton => "Triton",
        })
    }
}

/// What a server says of its health: three facts that do not follow from each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// Its own word for it, cut and escaped.
    pub status: Option<String>,
    /// `false`: it fell back to the CPU, however healthy it says it is.
    pub gpu_enabled: Option<bool>,
    pub model_loaded: Option<bool>,
}

impl Health {
    /// Whether it can be of use. A silent fallback to the CPU counts as unavailable.
    pub fn is_available(&self) -> bool {
        self.gpu_enabled != Some(false)
    }
}

/// A server that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    pub server: Server,
    /// How it takes prompts, if it makes splats and we speak its dialect.
    pub generator: Option<Dialect>,
    pub scorer: bool,
    /// Its verbs for memory. `None`: it has none, or they cannot be used as it was started.
    pub memory: Option<MemoryDialect>,
    /// Cut and escaped.
    pub version: Option<String>,
    pub health: Health,
    /// The validation service that this server itself unloads and reloads. A coordinator that does so
    /// as well fights it.
    pub drives: Option<String>,
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detection {
    Answers(Box<Detected>),
    /// The port is open and nothing is said: it works, or it loads its models.
    Busy,
    /// Nobody listens.
    Refused(String),
    /// Somebody listens, and it is none of the servers we know.
    SomethingElse(String),
}

impl Detection {
    pub fn detected(&self) -> Option<&Detected> {
        match self {
            Self::Answers(detected) => Some(detected),
            _ => None,
        }
    }
}

impl fmt::Display for Detection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answers(detected) => {
                detected.server.fmt(f)?;
                match &detected.version {
                    Some(version) => write!(f, " {version}"),
                    None => Ok(()),
                }
            }
            Self::Busy => f.write_str("something that is busy"),
            Self::Refused(why) => write!(f, "nobody ({why})"),
            Self::SomethingElse(what) => f.write_str(what),
        }
    }
}

/// Asked by GET, in the order of workers.md section 8, then what else tells engines apart.
const QUESTIONS: &[&str] = &[
    "/version/",
    "/version",
    "/health",
    "/health/",
    "/gpu_status/",
    "/memory/status",
    "/is_sleeping",
    "/running",
    "/api/ps",
    "/system_stats",
    "/v2",
];

/// Asked by OPTIONS: whether they take POST.
const ROUTES: &[&str] = &["/generate/", "/generate", "/validate_txt_to_3d_ply/"];

/// Tells of one generator whose validation service it drives. Asked only of that one.
const CONFIGURATION: &str = "/config/";

/// Longest wait for one answer, and for all of them.
const ONE: Duration = Duration::from_secs(2);
const ALL: Duration = Duration::from_secs(6);

const REPLY_LIMIT: ByteSize = ByteSize(256 << 10);

/// What was answered.
#[derive(Debug, Default)]
struct Answers {
    /// By path; a redirect is no answer.
    replies: BTreeMap<&'static str, (StatusCode, Vec<u8>)>,
    /// Routes that take POST.
    posts: BTreeSet<&'static str>,
    redirects: Option<StatusCode>,
}

/// Why there is no use in asking on.
enum End {
    Silent,
    Refused(String),
    NoHttp(String),
}

/// Finds out what answers at an address. Takes six seconds at most.
pub async fn detect(endpoint: &Endpoint, transport: &Transport, clock: &Clock) -> Detection {
    let mut prober = Prober { endpoint, transport, clock, answers: Answers::default() };
    let asked = tokio::time::timeout(ALL, prober.ask_all()).await;
    match asked.unwrap_or(Err(End::Silent)) {
        Ok(()) => decide::decide(&prober.answers),
        Err(End::Silent) => Detection::Busy,
        Err(End::Refused(why)) => Detection::Refused(why),
        Err(End::NoHttp(why)) => {
            Detection::SomethingElse(format!("something that does not speak HTTP: {why}"))
        }
    }
}

struct Prober<'a> {
    endpoint: &'a Endpoint,
    transport: &'a Transport,
    clock: &'a Clock,
    answers: Answers,
}

impl Prober<'_> {
    async fn ask_all(&mut self) -> Result<(), End> {
        for path in QUESTIONS {
            self.question(path).await?;
        }
        for path in ROUTES {
            let reply = self.ask(Method::OPTIONS, path).await?;
            if reply.is_some_and(|reply| takes_post(&reply)) {
                self.answers.posts.insert(path);
            }
        }
        if decide::is_self_coordinating(&self.answers) {
            self.question(CONFIGURATION).await?;
        }
        Ok(())
    }

    async fn question(&mut self, path: &'static str) -> Result<(), End> {
        if let Some(reply) = self.ask(Method::GET, path).await? {
            self.answers.replies.insert(path, (reply.status, reply.body));
        }
        Ok(())
    }

    async fn ask(&mut self, method: Method, path: &'static str) -> Result<Option<Reply>, End> {
        let limits = Limits { first_byte: ONE, total: ONE, body: REPLY_LIMIT };
        let (url, headers) = (self.endpoint.at(path), HeaderMap::new());
        let call = Call { method, url, headers, body: Bytes::new() };
        match self.transport.call(self.clock, call, &limits).await {
            Ok(reply) => Ok(Some(reply)),
            Err(NetError::Redirected(status)) => {
                self.answers.redirects = Some(status);
                Ok(None)
            }
            // It answers, at a length that none of these servers has.
            Err(NetError::TooLarge(_)) => Ok(None),
            Err(NetError::FirstByteTimeout(_) | NetError::TotalTimeout(_)) => Err(End::Silent),
            Err(NetError::Connect(why) | NetError::Setup(why)) => {
                Err(End::Refused(Untrusted::new(&why).to_string()))
            }
            Err(NetError::Broken(why)) => Err(End::NoHttp(Untrusted::new(&why).to_string())),
        }
    }
}

/// Frameworks answer 405 with the methods there are, or 200 with the same.
fn takes_post(reply: &Reply) -> bool {
    let allowed = reply.headers.get_all(ALLOW).iter().filter_map(|value| value.to_str().ok());
    let mut methods = allowed.flat_map(|list| list.split(','));
    reply.status != StatusCode::NOT_FOUND && methods.any(|method| method.trim() == "POST")
}
