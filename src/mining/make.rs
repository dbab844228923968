//! Making and judging one candidate: shared by the loop and by `--task`.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::report;
use crate::gpu::{Arbiter, Ending, LeaseError, Request, Tenant, WorkerId};
use crate::primitives::{LocalId, Prompt, Seed, Untrusted};
use crate::splat::{Defect, EncodeError, MAX_PAYLOAD_BYTES, PlyError, PlyReader, Spz, SpzEncoder, SpzError};
use crate::store::{Canary, Spent, Store, StoreError, Verdict};
use crate::workers::{
    EnhanceError, Enhancer, GenerateError, Generator, Judgement, Presence, ScoreError, Scorer, SplatFormat,
};

/// Fresh seeds and random bits, from the operating system or from a fixed seed.
#[derive(Clone)]
pub struct SeedSource(Arc<Mutex<StdRng>>);

impl fmt::Debug for SeedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SeedSource")
    }
}

impl SeedSource {
    pub fn from_os() -> Self {
        Self::fixed(rand::random())
    }

    pub fn fixed(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    fn bits(&self) -> u128 {
        let mut rng = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (u128::from(rng.next_u64()) << 64) | u128::from(rng.next_u64())
    }

    pub fn seed(&self) -> Seed {
        // The upper bits of the word; `Seed` keeps 31 of them.
        Seed::new((self.bits() >> 96) as u32)
    }

    pub fn local_id(&self, at: crate::primitives::UnixTime) -> LocalId {
        LocalId::new(at, self.bits())
    }
}

/// What candidates are made with.
#[derive(Debug, Clone)]
pub struct Bench {
    pub generator: Generator,
    /// `None`: results go out unscored, after the data check.
    pub scorer: Option<Scorer>,
    /// Rewrites what the generator gets.
    pub enhancer: Option<Muse>,
    pub arbiter: Arbiter,
    /// Of the card that the scorer is on.
    pub judging: Arbiter,
    pub encoder: SpzEncoder,
}

/// An enhancer, and the card it is on.
#[derive(Debug, Clone)]
pub struct Muse {
    pub enhancer: Enhancer,
    /// `None`: nothing is moved for it or because of it.
    pub arbiter: Option<Arbiter>,
}

/// How long the card is waited for to enhance a prompt. How long that may take is the worker's setting.
const ENHANCING: Duration = Duration::from_secs(3);

impl Muse {
    /// The enhanced text; nothing if it is not at hand: it is never worth a move.
    async fn enhance(&self, text: &str) -> Option<Arc<str>> {
        let worker = WorkerId::new(self.enhancer.name());
        let Some(arbiter) = &self.arbiter else { return self.enhancer.enhance(text).await.ok() };
        if !arbiter.has_resident(&worker) {
            return None;
        }
        let request = Request { worker: Some(worker), ..Request::from(Tenant::Enhancer) };
        let lease = tokio::time::timeout(ENHANCING, arbiter.lease(request)).await.ok()?.ok()?;
        let enhanced = self.enhancer.enhance(text).await;
        lease.end(match &enhanced {
            Err(EnhanceError::Net(error)) if error.may_have_arrived() => Ending::Unsure,
            Err(EnhanceError::Net(_)) => Ending::Suspect,
            Ok(_) | Err(_) => Ending::Done,
        });
        enhanced.ok()
    }
}

impl Bench {
    /// Whether a task that is pulled can be made: the card can be had, and somebody listens there and
    /// works on it, or will when he is wanted.
    pub(super) async fn is_ready(&self) -> Result<(), Away> {
        if let Some(obstacle) = self.arbiter.obstacle(Tenant::Generator) {
            return Err(Away::NoCard(obstacle));
        }
        match self.generator.presence().await {
            Presence::OnCpu => Err(Away::OnCpu),
            Presence::Away if !self.arbiter.brings(Tenant::Generator) => Err(Away::Refuses),
            Presence::Away | Presence::There => Ok(()),
        }
    }

    /// Whether it can be had again. A card that could not is looked at first: its generator's word says
    /// nothing of that.
    pub(super) async fn is_back(&self, was: &Away) -> Result<(), Away> {
        if let Away::NoCard(_) = was {
            self.arbiter.check(Tenant::Generator).await.map_err(Away::NoCard)?;
        }
        self.is_ready().await
    }

    /// What the generator gets. Scorers and signatures get the prompt itself.
    async fn enhanced(&self, prompt: &Prompt) -> Option<Prompt> {
        let (Some(muse), Prompt::Text(text)) = (&self.enhancer, prompt) else { return None };
        Some(Prompt::Text(muse.enhance(text).await?.as_ref().into()))
    }
}

/// Why nothing can be made with a bench for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Away {
    /// The generator refuses connections.
    Refuses,
    /// It has fallen back to the CPU, which takes longer than any task lasts.
    OnCpu,
    /// Its card cannot be had.
    NoCard(LeaseError),
}

impl Away {
    /// The same trouble, though it may tell of itself in other words.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Why a task is given up after a long wait.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::Refuses => "no generator is reachable",
            Self::OnCpu => "no generator runs on its card",
            Self::NoCard(_) => "no card can be had",
        }
    }
}

/// A splat that passed the validators' data rules.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub spz: Arc<Spz>,
    /// The generator's own PLY, if it sent one and it was asked for.
    pub ply: Option<Vec<u8>>,
    pub seed: Seed,
    pub spent: Spent,
    pub first_byte: Duration,
    /// Reading, encoding and checking.
    pub encoding: Duration,
}

/// Why an attempt made no candidate.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    #[error(transparent)]
    Generate(#[from] GenerateError),
    #[error("no card: {0}")]
    Card(LeaseError),
    #[error("the generator's PLY cannot be used: {0}")]
    Ply(#[from] PlyError),
    #[error("the generator's SPZ cannot be used: {0}")]
    Spz(#[from] SpzError),
    #[error("encoding failed: {0}")]
    Encode(#[from] EncodeError),
    #[error("validators would refuse the splat: {0}")]
    Defect(#[from] Defect),
    #[error("encoding was interrupted: {0}")]
    Interrupted(String),
}

impl From<LeaseError> for MakeError {
    fn from(error: LeaseError) -> Self {
        Self::Card(error)
    }
}

/// An attempt that made no candidate.
#[derive(Debug)]
pub struct Unmade {
    pub error: MakeError,
    /// Nothing if the card was not granted.
    pub spent: Option<Spent>,
}

impl fmt::Display for Unmade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Unmade {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl MakeError {
    /// Whether another seed has a chance.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Generate(error) => error.is_retryable(),
            Self::Card(error) => error.is_retryable(),
            Self::Spz(SpzError::Gzip) | Self::Ply(PlyError::Mesh { .. }) => false,
            _ => true,
        }
    }
}

/// Generates under a lease of the card, then encodes and checks off the async threads.
///
/// `queued`: what the task has waited for a card before. `keep_ply` hands the generator's PLY on. Logs the
/// two lines that operators look for.
///
/// # Errors
/// See [`MakeError`].
pub async fn make(
    bench: &Bench,
    task: &LocalId,
    prompt: &Prompt,
    seed: Seed,
    queued: Duration,
    keep_ply: bool,
) -> Result<Candidate, Unmade> {
    let worker = bench.generator.name();
    let enhanced = bench.enhanced(prompt).await;
    let prompt = enhanced.as_ref().unwrap_or(prompt);
    let lease = bench.arbiter.lease(bench.arbiter.request(Tenant::Generator, worker)).await;
    let lease = lease.map_err(|error| Unmade { error: error.into(), spent: None })?;
    let (waited, handoff) = (queued + lease.waited, lease.handoff);
    report::acquired(waited + handoff, worker, bench.arbiter.card(), task);
    let generation = bench.generator.generate(prompt, seed).await;
    let held = lease.held();
    let spent = Spent { waited, handoff, generation: held };
    let unmade = |error: MakeError| Unmade { error, spent: Some(spent) };
    lease.end(match &generation {
        // It may still be at it.
        Err(GenerateError::Net(_)) => Ending::Unsure,
        Err(GenerateError::Unreachable(_)) => Ending::Suspect,
        Ok(_) | Err(_) => Ending::Done,
    });
    let generation = generation.map_err(|error| unmade(error.into()))?;
    report::total_time(held, waited, handoff, generation.timing.first_byte, worker, task);

    let first_byte = generation.timing.first_byte;
    let encoder = bench.encoder;
    // What may not come plain may not come compressed: an SPZ holds less than half of its PLY.
    let spz_limit = bench.generator.body_limit().as_usize().min(MAX_PAYLOAD_BYTES);
    let started = tokio::time::Instant::now();
    let work = move || -> Result<(Spz, Option<Vec<u8>>), MakeError> {
        let (spz, ply) = match generation.format {
            SplatFormat::Ply => {
                let spz = encoder.encode(&PlyReader::default().read(&generation.body)?)?;
                (spz, keep_ply.then_some(generation.body))
            }
            SplatFormat::Spz => (Spz::adopt(generation.body, spz_limit, &encoder)?, None),
        };
        Ok((spz.check()?.into_spz(), ply))
    };
    let encoded = tokio::task::spawn_blocking(work).await;
    let encoded = encoded.unwrap_or_else(|error| Err(MakeError::Interrupted(error.to_string())));
    let (spz, ply) = encoded.map_err(unmade)?;
    Ok(Candidate { spz: Arc::new(spz), ply, seed, spent, first_byte, encoding: started.elapsed() })
}

/// Judges exactly the bytes that would be submitted.
///
/// An all-zero answer or a failure is no verdict: the scorer is then asked about its canary (the
/// last splat it gave a score) and about the splat once more. If the canary scores and the splat
/// again does not, the splat scores 0; otherwise the scorer is taken to be down.
///
/// # Errors
/// When the store fails.
pub async fn judge(
    bench: &Bench,
    store: Option<&Store>,
    task: &LocalId,
    prompt: &Prompt,
    spz: &Arc<Spz>,
) -> Result<Verdict, StoreError> {
    use crate::primitives::Score;

    let Some(scorer) = &bench.scorer else { return Ok(Verdict::Unscored) };
    let lease = match bench.judging.lease(bench.judging.request(Tenant::Scorer, scorer.name())).await {
        Ok(lease) => lease,
        // Whoever gave it up knows.
        Err(LeaseError::Closed) => return Ok(Verdict::NoVerdict),
        Err(error) => {
            tracing::error!(
                alarm = "scorer_down", worker = scorer.name(), task = %task.short(), %error, "The scorer cannot be used"
            );
            return Ok(Verdict::NoVerdict);
        }
    };
    let first = scorer.score(prompt, spz).await;
    let verdict = match usable(&first) {
        Some(score) => score,
        None => {
            let (worker, task, answer) = (scorer.name(), task.short(), said(&first));
            let canary = match store {
                Some(store) => store.canary(scorer.name()).await?,
                None => None,
            };
            let alive = match &canary {
                Some(canary) => usable(&scorer.score(&canary.prompt, &canary.spz).await).is_some(),
                None => false,
            };
            let second = scorer.score(prompt, spz).await;
            match usable(&second) {
                Some(score) => {
                    tracing::warn!(worker, %task, answer, "The scorer gave no verdict");
                    score
                }
                None if alive => {
                    tracing::warn!(worker, %task, answer, "The scorer gave no verdict");
                    lease.end(Ending::Done);
                    return Ok(Verdict::Scored(Score::ZERO));
                }
                None => {
                    tracing::error!(alarm = "scorer_down", worker, %task, answer, "The scorer gave no verdict");
                    lease.end(ending(&second));
                    return Ok(Verdict::NoVerdict);
                }
            }
        }
    };
    lease.end(Ending::Done);
    if verdict > Score::ZERO
        && let Some(store) = store
    {
        let canary = Canary { prompt: prompt.clone(), spz: Arc::clone(spz), score: verdict };
        match store.set_canary(scorer.name(), canary).await {
            // The one before does as well.
            Err(error) if error.is_full() => {}
            set => set?,
        }
    }
    Ok(Verdict::Scored(verdict))
}

type Answer = Result<(Judgement, crate::net::Timing), ScoreError>;

fn usable(answer: &Answer) -> Option<crate::primitives::Score> {
    match answer {
        Ok((Judgement::Scored(scores), _)) => Some(scores.score),
        Ok((Judgement::NoVerdict, _)) | Err(_) => None,
    }
}

/// What a scorer that gave no verdict leaves behind.
fn ending(answer: &Answer) -> Ending {
    match answer {
        Err(ScoreError::Net(error)) if error.may_have_arrived() => Ending::Unsure,
        _ => Ending::Suspect,
    }
}

fn said(answer: &Answer) -> String {
    match answer {
        Ok(_) => "all scores are zero".into(),
        Err(error) => Untrusted::error(&error.to_string()).to_string(),
    }
}
