//! What the loop has done for it: pulls, generations, scorings, submissions. A job owns copies of
//! what it needs, writes down what must survive, and reports once; it touches no state of the loop.

use std::sync::Arc;
use std::time::Duration;

use super::Settings;
use super::cards::CardNo;
use super::cooldowns::Cooldowns;
use super::lane::{Lane, LaneNo, OpenWork, WINDOW};
use super::make::{Away, Bench, MakeError, SeedSource, Unmade, judge, make};
use super::meaning::{PullMeaning, ReplyMeaning};
use super::report;
use super::room::Room;
use super::source::TaskSource;
use super::state::TaskState;
use crate::clock::Clock;
use crate::dendrite::{Answered, CallError, Submission};
use crate::net::Backoff;
use crate::primitives::{LocalId, Prompt, Score, UnixTime, Untrusted};
use crate::store::{
    Accepted, Answer, DecisionRecord, Delivery, FailedMaking, FeedbackRecord, KeptResult, LaneKey,
    LaneRecord, Making, NewTask, Outcome, Settled, Spent, Store, StoreError, TaskRecord, Verdict,
};
use crate::workers::GenerateError;

/// What jobs work with.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) benches: Vec<Bench>,
    pub(super) store: Store,
    pub(super) room: Room,
    pub(super) clock: Clock,
    pub(super) seeds: SeedSource,
    pub(super) settings: Settings,
}

impl Tools {
    /// Writes decisions down; a task goes on without.
    async fn note(&self, task: LocalId, decisions: Vec<DecisionRecord>) {
        for decision in decisions {
            if let Err(error) = self.store.decide(task, decision).await {
                tracing::debug!(%error, "A decision was not written down");
            }
        }
    }

    /// Whether any generator makes a kind of prompt.
    pub(super) fn makes(&self, prompt: &Prompt) -> bool {
        self.benches.iter().any(|bench| bench.generator.makes(prompt.kind()))
    }
}

/// A job's report.
#[derive(Debug)]
pub(super) enum Done {
    Pulled(LaneNo, Result<Box<Pulled>, StoreError>),
    Made(LaneNo, CardNo, Result<Made, StoreError>),
    Judged(LaneNo, CardNo, Result<KeptResult, StoreError>),
    Answered(LaneNo, Result<Box<Replied>, StoreError>),
    /// A lane that a source has opened, or that is read again after its job broke.
    Opened(Result<Box<Lane>, StoreError>),
    /// Whether a card that was lost can be used again.
    Looked(CardNo, Result<(), Away>),
    Pruned(Result<usize, StoreError>),
}

/// What a pull came to.
#[derive(Debug)]
pub(super) struct Pulled {
    pub(super) cooldowns: Cooldowns,
    pub(super) took: Duration,
    pub(super) found: Found,
    /// The validator does not seem to know our hotkey.
    pub(super) doubt: bool,
}

#[derive(Debug)]
pub(super) enum Found {
    Task {
        work: OpenWork,
        /// T, as the reply says.
        throttle: Duration,
    },
    /// None before a later time than the one that the validator had named.
    Foreign,
    Nothing,
    /// The reply was lost: a task may be assigned.
    Lost,
    /// Not asked: nothing can be made on this card.
    NoGenerator(CardNo, Away),
}

/// What a generation came to.
#[derive(Debug)]
pub(super) enum Made {
    Kept {
        result: KeptResult,
        handoff: Duration,
    },
    Failed {
        reason: String,
        retryable: bool,
    },
    /// Nothing can be made there for now.
    Unreachable {
        reason: String,
        why: Away,
    },
}

/// What a submission came to.
#[derive(Debug)]
pub(super) struct Replied {
    pub(super) cooldowns: Cooldowns,
    pub(super) took: Duration,
    pub(super) meaning: ReplyMeaning,
    /// How the task ended, if it did.
    pub(super) outcome: Option<Outcome>,
    pub(super) at: UnixTime,
    pub(super) local: Option<Score>,
    /// The validator's cooldown end, by its own clock, and its clock's lead over ours.
    pub(super) cooldown_until: Option<UnixTime>,
}

/// Waits between pulls that brought nothing (rules.md R8).
const NOTHING: Backoff = backoff(10, 300);

/// Waits after pulls whose reply was lost: a repeated pull of an assigned task is free (rules.md R8).
const LOST_REPLY: Backoff = backoff(3, 300);

const fn backoff(min_s: u64, max_s: u64) -> Backoff {
    match Backoff::try_new(Duration::from_secs(min_s), Duration::from_secs(max_s)) {
        Ok(backoff) => backoff,
        // Reached only while compiling the constants above.
        Err(_) => panic!("the constants make a backoff"),
    }
}

/// Wait at a validator that does not know us although the chain does (rules.md R8).
const UNREGISTERED_THERE: Duration = Duration::from_secs(600);

/// What a pull needs.
#[derive(Debug)]
pub(super) struct PullOrder {
    pub(super) key: LaneKey,
    pub(super) source: TaskSource,
    pub(super) cooldowns: Cooldowns,
    /// The card that will have the task, if its generator must be looked at first: one that works
    /// answers nothing, and is there.
    pub(super) look_at: Option<CardNo>,
    /// The chain says that we are registered.
    pub(super) registered: bool,
}

/// Asks a lane for a task and files what it says.
pub(super) async fn pull(tools: Arc<Tools>, order: PullOrder) -> Result<Box<Pulled>, StoreError> {
    let PullOrder { key, source, mut cooldowns, look_at, registered } = order;
    let mut doubt = false;
    if let Some(card) = look_at
        && let Err(why) = tools.benches[card.0].is_ready().await
    {
        let found = Found::NoGenerator(card, why);
        return Ok(Box::new(Pulled { cooldowns, took: Duration::ZERO, found, doubt }));
    }
    let told = cooldowns.told();
    let asked = tools.clock.instant();
    let result = source.pull().await;
    let took = asked.elapsed();
    let now = tools.clock.now();
    let validator = key.source.name();
    let found = match PullMeaning::read(result) {
        PullMeaning::Assigned { task, reply } => {
            cooldowns.observe(&reply);
            cooldowns.answered();
            let throttle = Duration::from_secs(reply.reply.throttle_s);
            let new = NewTask {
                id: tools.seeds.local_id(now),
                lane: key,
                task_id: task.id,
                prompt: task.prompt,
                threshold: reply.reply.threshold,
                throttle_s: reply.reply.throttle_s,
                pulled_at: now,
            };
            let makes = |prompt: &Prompt| tools.makes(prompt);
            let accepted = tools.room.insist(tools.clock, || tools.store.accept(new.clone()));
            let (work, again) = match accepted.await? {
                Accepted::New(task) => {
                    let state = TaskState::new(&task, makes, &tools.settings);
                    (OpenWork::new(task, state), "")
                }
                Accepted::Known(open) => {
                    let task = open.task.clone();
                    (OpenWork::new(task, TaskState::resumed(open, makes, &tools.settings)), " again")
                }
            };
            tracing::info!(
                validator = %validator, task = %work.task.id.short(), kind = %work.task.prompt.kind(),
                "Pulled a task{again} ({})", Untrusted::prompt(&work.task.prompt)
            );
            Found::Task { work, throttle }
        }
        PullMeaning::Cooling { until, reply } => {
            cooldowns.observe(&reply);
            // A cooldown that is over and no task: as good as no answer, and no reason to ask at once.
            let wait = if cooldowns.cool_until(until) {
                cooldowns.due().saturating_since(now)
            } else {
                cooldowns.fail(NOTHING)
            };
            let mut found = Found::Nothing;
            // About an hour is what an unregistered hotkey is told (rules.md R4).
            if wait > tools.settings.cooldown + Duration::from_secs(2_400) {
                if registered {
                    // Its copy of the chain is older than ours; it looks again within ten minutes.
                    cooldowns.look_again(UNREGISTERED_THERE);
                    doubt = true;
                }
                let wait = cooldowns.due().saturating_since(now);
                tracing::warn!(%validator, wait_s = wait.as_secs(), "The validator gives no task for long, as to a hotkey that is not registered");
            } else {
                tracing::debug!(%validator, wait_s = wait.as_secs(), "Cooling down");
                if told.is_some_and(|told| until > told + Duration::from_secs(2)) {
                    found = Found::Foreign;
                }
            }
            let record = cooldowns.record();
            tools.room.insist(tools.clock, || tools.store.set_lane(key, record)).await?;
            found
        }
        PullMeaning::Nothing => {
            let wait = cooldowns.fail(NOTHING);
            tracing::debug!(%validator, wait_s = wait.as_secs(), "No task and no time given");
            Found::Nothing
        }
        PullMeaning::MaybeAssigned(error) => {
            let wait = cooldowns.fail(LOST_REPLY);
            tracing::warn!(%validator, wait_s = wait.as_secs(), error = %chain(&error), "The reply to a pull was lost, asking again");
            Found::Lost
        }
        PullMeaning::Failed(error) => {
            // As its blacklist answers a hotkey it does not know.
            doubt =
                matches!(&error, CallError::Refused { status, .. } if *status == http::StatusCode::FORBIDDEN);
            let wait = cooldowns.fail(NOTHING);
            tracing::warn!(%validator, wait_s = wait.as_secs(), error = %chain(&error), "The validator could not be asked");
            Found::Nothing
        }
    };
    Ok(Box::new(Pulled { cooldowns, took, found, doubt }))
}

/// Makes one candidate and keeps it. `queued`: what the task has waited for a card.
pub(super) async fn attempt(
    tools: Arc<Tools>,
    card: CardNo,
    task: Arc<TaskRecord>,
    queued: Duration,
    decisions: Vec<DecisionRecord>,
) -> Result<Made, StoreError> {
    tools.note(task.id, decisions).await;
    let bench = &tools.benches[card.0];
    let mut attempt = tools.room.tried(tools.store.begin_attempt(task.id).await)?;
    let seed = tools.seeds.seed();
    let candidate = match make(bench, &task.id, &task.prompt, seed, queued, false).await {
        Ok(candidate) => candidate,
        Err(Unmade { error, spent }) => {
            if let (Some(attempt), Some(spent)) = (attempt, spent) {
                let failed = FailedMaking { attempt, spent, at: tools.clock.now() };
                tools.room.tried(tools.store.failed(task.id, failed).await)?;
            }
            tracing::warn!(
                task = %task.id.short(), worker = bench.generator.name(), %seed, error = %chain(&error),
                "No usable splat came of a generation"
            );
            let reason = Untrusted::error(&error.to_string()).to_string();
            return Ok(match error {
                MakeError::Generate(GenerateError::Unreachable(_)) => {
                    Made::Unreachable { reason, why: Away::Refuses }
                }
                MakeError::Card(error) if error.is_retryable() => {
                    Made::Unreachable { reason, why: Away::NoCard(error) }
                }
                error => Made::Failed { reason, retryable: error.is_retryable() },
            });
        }
    };
    let Spent { waited, handoff, generation } = candidate.spent;
    let spz = Arc::clone(&candidate.spz);
    if attempt.is_none() {
        // There may be room by now; a number of our own might be another result's.
        attempt = tools.room.tried(tools.store.begin_attempt(task.id).await)?;
    }
    let mut kept = None;
    if let Some(attempt) = attempt {
        let making = Making {
            attempt,
            seed,
            worker: bench.generator.name().to_owned(),
            queue: waited,
            handoff,
            first_byte: candidate.first_byte,
            generation,
            encoding: candidate.encoding,
            at: tools.clock.now(),
        };
        kept = tools.room.tried(tools.store.keep(task.id, making, candidate.spz).await)?;
    }
    let in_memory =
        || KeptResult { row: None, attempt: attempt.unwrap_or_default(), seed, spz, verdict: None };
    let result = kept.unwrap_or_else(in_memory);
    Ok(Made::Kept { result, handoff })
}

/// Judges a kept result.
pub(super) async fn score(
    tools: Arc<Tools>,
    card: CardNo,
    task: Arc<TaskRecord>,
    result: KeptResult,
) -> Result<KeptResult, StoreError> {
    let bench = &tools.benches[card.0];
    let judging = async {
        let started = tools.clock.instant();
        let verdict = judge(bench, Some(&tools.store), &task.id, &task.prompt, &result.spz).await;
        (verdict, bench.scorer.is_some().then(|| started.elapsed()))
    };
    if result.row.is_none() {
        let verdict = Some(judging.await.0?);
        return Ok(KeptResult { verdict, ..result });
    }
    // The disk is given its time while the scorer works.
    let ((verdict, took), synced) = tokio::join!(judging, tools.store.sync(task.id, result.attempt));
    let verdict = verdict?;
    tools.room.tried(synced)?;
    let judged = tools.room.tried(tools.store.judge(task.id, &result, verdict, took).await)?;
    Ok(judged.unwrap_or(KeptResult { verdict: Some(verdict), ..result }))
}

/// What a submission needs.
#[derive(Debug)]
pub(super) struct AnswerOrder {
    pub(super) key: LaneKey,
    pub(super) source: TaskSource,
    pub(super) cooldowns: Cooldowns,
    pub(super) task: Arc<TaskRecord>,
    pub(super) answer: Answer,
    /// How many have left before.
    pub(super) tries: u32,
    /// One of them may have been booked.
    pub(super) in_doubt: bool,
    /// C.
    pub(super) cooldown: Duration,
    pub(super) decisions: Vec<DecisionRecord>,
}

/// Records an answer, sends it, and files the reply.
pub(super) async fn answer(tools: Arc<Tools>, order: AnswerOrder) -> Result<Box<Replied>, StoreError> {
    let AnswerOrder { key, source, mut cooldowns, task, answer, tries, in_doubt, cooldown, decisions } =
        order;
    tools.note(task.id, decisions).await;
    let submit_time = tools.clock.now();
    if let Answer::Empty(reason) = &answer
        && tries == 0
    {
        tracing::info!(task = %task.id.short(), %reason, "Declining a task");
    }
    let submission = tools.room.tried(tools.store.intend(task.id, &answer, submit_time).await)?;
    let spz = match &answer {
        Answer::Result(result) => Some(result.spz.as_bytes()),
        Answer::Empty(_) => None,
    };
    let sent = tools.clock.instant();
    let result =
        source.submit(Submission { task_id: &task.task_id, prompt: &task.prompt, spz, submit_time }).await;
    let took = sent.elapsed();
    let at = tools.clock.now();
    if let Ok(answered) = &result {
        cooldowns.observe(answered);
    }
    let meaning = ReplyMeaning::read(&result, &answer, cooldowns.theirs_at_most(task.pulled_at));
    if let (Ok(answered), Some(submission)) = (&result, submission) {
        let delivery = Delivery::from(&answered.timing);
        tools.room.tried(tools.store.delivered(submission, delivery).await)?;
    }
    let local = local_score(&answer);
    let cooldown_until = result.as_ref().ok().and_then(|answered| answered.reply.cooldown_until);
    let outcome = meaning.outcome(&answer, in_doubt);
    let Some(outcome) = outcome else {
        let error = unsettled(&meaning, &result);
        if let Some(submission) = submission {
            tools.room.tried(tools.store.sent(task.id, submission, error.clone()).await)?;
        }
        tracing::warn!(task = %task.id.short(), validator = %key.source.name(), error, "A submission is not settled, sending it again");
        return Ok(Box::new(Replied { cooldowns, took, meaning, outcome, at, local, cooldown_until: None }));
    };
    match cooldown_until {
        Some(until) => {
            cooldowns.answered();
            cooldowns.cool_until(until);
        }
        // "No task assigned": the lane waits C from our last send (rules.md R8), and the penalty too
        // if what was booked may have been bad. C is a length of time, taken by our own clock.
        None => {
            let doubtful = matches!(&answer, Answer::Result(result) if !passed_here(result, task.threshold));
            let penalty = if doubtful { tools.settings.penalty } else { Duration::ZERO };
            cooldowns.rest(cooldown + penalty);
        }
    }
    file(&tools, &source, key, &task, &answer, &meaning, outcome, at, cooldown_until, &mut cooldowns).await?;
    Ok(Box::new(Replied { cooldowns, took, meaning, outcome: Some(outcome), at, local, cooldown_until }))
}

/// Closes a task in the store and tells of it.
#[allow(clippy::too_many_arguments, reason = "one call, and each is a different thing")]
async fn file(
    tools: &Tools,
    source: &TaskSource,
    key: LaneKey,
    task: &TaskRecord,
    answer: &Answer,
    meaning: &ReplyMeaning,
    outcome: Outcome,
    at: UnixTime,
    cooldown_until: Option<UnixTime>,
    cooldowns: &mut Cooldowns,
) -> Result<(), StoreError> {
    let local = local_score(answer);
    let feedback = meaning.feedback().map(|f| {
        cooldowns.set_window_count(f.window_count);
        FeedbackRecord {
            uid: source.uid(),
            received_at: at,
            validation_failed: f.validation_failed,
            score: f.score,
            local_score: local,
            average_score: f.average_score,
            window_count: f.window_count,
            duel_rating: f.duel_rating,
            reward: f.reward,
            cooldown_until,
        }
    });
    let reason = match answer {
        Answer::Empty(reason) => Some(reason.clone()),
        Answer::Result(_) => None,
    };
    let settled = Settled { task: task.id, outcome, reason, at, feedback };
    let record = cooldowns.record();
    tools.room.insist(tools.clock, || tools.store.finish(settled.clone(), key, record)).await?;
    match meaning.feedback() {
        Some(f) => {
            let next = cooldowns.due().saturating_since(at);
            report::feedback(source.uid(), outcome, f, local, next, &task.id, &task.prompt);
        }
        None => {
            tracing::info!(task = %task.id.short(), validator = %key.source.name(), %outcome, "The task is closed without feedback");
        }
    }
    Ok(())
}

/// Reads what the store remembers of a lane.
pub(super) async fn open(
    tools: Arc<Tools>,
    member: usize,
    key: LaneKey,
    source: TaskSource,
) -> Result<Box<Lane>, StoreError> {
    let record = tools.store.lane(key).await?;
    let mut cooldowns = Cooldowns::new(record, tools.settings.margin, tools.clock);
    // What the source last said may be lost with the old database, and that may have been a penalty.
    if tools.store.recovered().is_some() && record == LaneRecord::default() {
        cooldowns.rest(tools.settings.cooldown + tools.settings.penalty);
        // The next start does not know of the loss.
        tools.room.tried(tools.store.set_lane(key, cooldowns.record()).await)?;
    }
    // What has no result and no answer is pulled again: the source may have forgotten it, and if not,
    // gives the same task.
    let (stored, assigned) = match tools.store.open_task(key).await? {
        Some(open) if open.stage.is_past_making() => (Some(open), false),
        open => (None, open.is_some()),
    };
    let work = stored.map(|open| {
        let task = open.task.clone();
        let makes = |prompt: &Prompt| tools.makes(prompt);
        OpenWork::new(task, TaskState::resumed(open, makes, &tools.settings))
    });
    if let Some(work) = &work {
        tracing::info!(task = %work.task.id.short(), "Taking up an open task");
    }
    let now = tools.clock.now();
    let accepted =
        tools.store.accepted_since(Some(key), now - WINDOW).await?.remove(&key).unwrap_or_default();
    let last_task = tools.store.last_answered(key).await?;
    let opened = tools.clock.instant();
    let lane = Lane::new(key, member, source, cooldowns, opened, accepted.into(), work);
    Ok(Box::new(Lane { assigned, last_task, ..lane }))
}

/// Looks whether a card that is gone is back.
pub(super) async fn look(tools: Arc<Tools>, card: CardNo, was: Away) -> Result<(), Away> {
    tools.benches[card.0].is_back(&was).await
}

fn local_score(answer: &Answer) -> Option<Score> {
    match answer {
        Answer::Result(result) => result.score(),
        Answer::Empty(_) => None,
    }
}

fn passed_here(result: &KeptResult, threshold: Score) -> bool {
    matches!(result.verdict, Some(Verdict::Scored(score)) if score >= threshold)
}

/// An error with its causes, on one line of bounded length: what it quotes is a stranger's.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    Untrusted::error(&text).to_string()
}

fn unsettled<T>(meaning: &ReplyMeaning, result: &Result<Answered<T>, CallError>) -> String {
    match (meaning, result) {
        (ReplyMeaning::Unregistered, Err(CallError::Refused { message, .. })) => {
            let said = message.as_deref().unwrap_or("no reason given");
            format!("refused: {}", Untrusted::new(said))
        }
        (ReplyMeaning::StillOpen(_), _) => "the validator changed nothing: locked, or another task".into(),
        (ReplyMeaning::Unknown(error), _) => error.clone(),
        _ => "not settled".into(),
    }
}
