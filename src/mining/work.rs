//! The turns of one task: making, judging, answering, each written down before it counts.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::lane::OpenWork;
use super::make::{MakeError, judge, make};
use super::meaning::ReplyMeaning;
use super::miner::{GENERATOR_RETRY, Miner, MinerError};
use super::report;
use super::state::{Event, Step, TaskState, advance};
use crate::dendrite::{CallError, Submission};
use crate::primitives::{Score, Untrusted};
use crate::store::{Answer, FeedbackRecord, Making, Outcome, Settled, TaskRecord, Verdict};
use crate::workers::GenerateError;

/// A generator that is gone this long will not be back soon (rules.md R9, "Empty at once").
const GENERATOR_PATIENCE: Duration = Duration::from_secs(100);

/// Whether a task is done for now.
pub(super) enum Progress {
    Ended,
    /// It goes on when its answer may be sent again.
    Later,
    Stopped,
}

impl Miner {
    /// Goes on with the open task of a lane until it ends, must wait, or the agent stops.
    pub(super) async fn work(
        &mut self,
        position: usize,
        stop: &CancellationToken,
    ) -> Result<Option<Progress>, MinerError> {
        let Some(mut work) = self.lanes[position].open.take() else { return Ok(None) };
        let progress = loop {
            let now = self.clock.now();
            let event = match work.state.step() {
                Step::Make => tokio::select! {
                    () = stop.cancelled() => break Progress::Stopped,
                    event = self.attempt(&work.task) => event?,
                },
                Step::Judge => tokio::select! {
                    () = stop.cancelled() => break Progress::Stopped,
                    event = self.judge(&work) => event?,
                },
                Step::Answer { not_before } if not_before > now => break Progress::Later,
                Step::Answer { .. } => self.answer(position, &work).await?,
                Step::Nothing => break Progress::Ended,
            };
            let threshold = work.task.threshold;
            work.state = advance(work.state, event, threshold, &self.settings);
        };
        if !matches!(progress, Progress::Ended) {
            self.lanes[position].open = Some(work);
        }
        Ok(Some(progress))
    }

    /// Makes one candidate and keeps it.
    async fn attempt(&self, task: &TaskRecord) -> Result<Event, MinerError> {
        let attempt = self.store.begin_attempt(task.id).await?;
        let seed = self.seeds.seed();
        let gone_since = self.clock.instant();
        let candidate = loop {
            match make(&self.bench, &task.id, &task.prompt, seed, false).await {
                Err(MakeError::Generate(GenerateError::Unreachable(_)))
                    if gone_since.elapsed() < GENERATOR_PATIENCE =>
                {
                    self.clock.sleep(GENERATOR_RETRY).await;
                }
                made => break made,
            }
        };
        let candidate = match candidate {
            Ok(candidate) => candidate,
            Err(error) => {
                let gone = matches!(error, MakeError::Generate(GenerateError::Unreachable(_)));
                tracing::warn!(
                    task = %task.id.short(), worker = self.bench.generator.name(), %seed, error = %chain(&error),
                    "No usable splat came of a generation"
                );
                return Ok(Event::Failed {
                    reason: Untrusted::error(&error.to_string()).to_string(),
                    retryable: error.is_retryable() && !gone,
                });
            }
        };
        let making = Making {
            attempt,
            seed,
            worker: self.bench.generator.name().to_owned(),
            generation: candidate.generation,
            at: self.clock.now(),
        };
        Ok(Event::Kept(self.store.keep(task.id, making, candidate.spz).await?))
    }

    async fn judge(&self, work: &OpenWork) -> Result<Event, MinerError> {
        let TaskState::Made { result, .. } = &work.state else {
            return Ok(Event::Failed { reason: "nothing to judge".into(), retryable: true });
        };
        // The disk is given its time while the scorer works.
        let (verdict, synced) = tokio::join!(
            judge(&self.bench, Some(&self.store), &work.task.id, &work.task.prompt, &result.spz),
            self.store.sync(work.task.id, result.attempt),
        );
        synced?;
        let verdict = verdict?;
        let result = self.store.judge(work.task.id, result, verdict).await?;
        Ok(Event::Judged { result, verdict })
    }

    /// Records an answer, sends it, and files the reply.
    async fn answer(&mut self, position: usize, work: &OpenWork) -> Result<Event, MinerError> {
        let TaskState::Answering { answer, tries, .. } = &work.state else {
            return Ok(Event::Failed { reason: "nothing to answer".into(), retryable: true });
        };
        let task = &work.task;
        let submit_time = self.clock.now();
        if let Answer::Empty(reason) = answer
            && *tries == 0
        {
            tracing::info!(task = %task.id.short(), %reason, "Declining a task");
        }
        let submission = self.store.intend(task.id, answer, submit_time).await?;
        let spz = match answer {
            Answer::Result(result) => Some(result.spz.as_bytes()),
            Answer::Empty(_) => None,
        };
        let lane = &mut self.lanes[position];
        let result = lane
            .source
            .submit(Submission { task_id: &task.task_id, prompt: &task.prompt, spz, submit_time })
            .await;
        let at = self.clock.now();
        let meaning = ReplyMeaning::read(&result, answer);
        if let Ok(answered) = &result {
            lane.cooldowns.observe(answered);
        }
        let Some(outcome) = meaning.outcome(answer, tries + 1) else {
            let error = unsettled(&meaning, &result);
            if matches!(meaning, ReplyMeaning::Unregistered)
                && let Some(subnet) = &self.subnet
            {
                subnet.doubt();
            }
            self.store.sent(task.id, submission, error.clone()).await?;
            tracing::warn!(task = %task.id.short(), validator = %lane.key.source.name(), error, "A submission is not settled, sending it again");
            return Ok(Event::Replied { meaning, at });
        };

        let cooldown = result.as_ref().ok().and_then(|answered| answered.reply.cooldown_until);
        match cooldown {
            Some(until) => {
                lane.cooldowns.answered();
                lane.cooldowns.cool_until(until);
            }
            // "No task assigned": the lane waits C from our last send (rules.md R8). C is a length of
            // time, so it is taken by our own clock.
            None => lane.cooldowns.rest(self.settings.cooldown),
        }
        let local_score = match answer {
            Answer::Result(result) => match result.verdict {
                Some(Verdict::Scored(score)) => Some(score),
                _ => None,
            },
            Answer::Empty(_) => None,
        };
        let feedback = meaning.feedback().map(|f| {
            lane.cooldowns.set_window_count(f.window_count);
            FeedbackRecord {
                uid: lane.source.uid(),
                received_at: at,
                validation_failed: f.validation_failed,
                score: f.score,
                local_score,
                average_score: f.average_score,
                window_count: f.window_count,
                duel_rating: f.duel_rating,
                reward: f.reward,
                cooldown_until: cooldown,
            }
        });
        let reason = match answer {
            Answer::Empty(reason) => Some(reason.clone()),
            Answer::Result(_) => None,
        };
        let settled = Settled { task: task.id, outcome, reason, at, feedback };
        self.store.finish(settled, lane.key, lane.cooldowns.record()).await?;
        match meaning.feedback() {
            Some(f) => {
                let next = lane.cooldowns.due().saturating_since(at);
                report::feedback(lane.source.uid(), outcome, f, local_score, next, &task.id, &task.prompt);
            }
            None => {
                tracing::info!(task = %task.id.short(), validator = %lane.key.source.name(), %outcome, "The task is closed without feedback")
            }
        }
        warn_of_contradiction(outcome, local_score, task);
        Ok(Event::Replied { meaning, at })
    }
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

fn unsettled<T>(meaning: &ReplyMeaning, result: &Result<T, CallError>) -> String {
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

/// Good here, rejected there: the local scorer or our signature is wrong (rules.md R8).
fn warn_of_contradiction(outcome: Outcome, local: Option<Score>, task: &TaskRecord) {
    if outcome == Outcome::Low
        && let Some(local) = local
        && local >= task.threshold
    {
        tracing::warn!(
            task = %task.id.short(), %local, threshold = %task.threshold,
            "The validator rejected a result that passes here: check the scorer's version, and the signature with `sn17-miner wallet check`"
        );
    }
}
