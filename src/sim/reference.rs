//! Policies to compare with, as straight loops: what miners do today, and the fixed gates of the
//! table of rules.md R9. They meet the same validators, cards and network as the agent.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::card::Card;
use super::splats::{Quality, Splats};
use super::stage::Stage;
use crate::clock::Clock;
use crate::dendrite::{self, AxonAddress, Dendrite, Submission};
use crate::primitives::{Prompt, UnixTime};
use crate::protocol::Task;

/// What a loop does with its tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Policy {
    pub name: &'static str,
    /// What the local scorer fails is not submitted.
    pub gated: bool,
    /// Further candidates after one that fails, before the task is declined.
    pub retries: u32,
    /// Nothing else is done until the validator has answered a submission.
    pub blocking: bool,
    /// Cooldowns are looked at only so often; `None`: at their ends.
    pub polling: Option<Duration>,
    /// The scorer is moved out and in around each generation, whether it must or not.
    pub strict: bool,
}

impl Policy {
    /// The official miner's loop, with a gate.
    pub const OFFICIAL: Self = Self {
        name: "blocking, polling",
        gated: true,
        retries: 1,
        blocking: true,
        polling: Some(Duration::from_secs(10)),
        strict: false,
    };
    pub const BLOCKING: Self = Self { name: "blocking", polling: None, ..Self::OFFICIAL };
    /// Unload, generate, reload, one after the other.
    pub const STRICT: Self = Self { name: "strict hand-off", strict: true, ..Self::BLOCKING };
    /// The same without waiting for the validator's answer: nothing but the card holds it up.
    pub const STRICT_ASYNC: Self = Self { name: "strict, async", blocking: false, ..Self::STRICT };
    pub const SUBMIT_ALL: Self = Self { name: "submit all", gated: false, retries: 0, ..Self::GATE_OR_EMPTY };
    pub const GATE_OR_EMPTY: Self =
        Self { name: "gate or empty", retries: 0, blocking: false, ..Self::BLOCKING };
    pub const ONE_RETRY: Self = Self { name: "one retry", retries: 1, ..Self::GATE_OR_EMPTY };
    pub const THREE_RETRIES: Self = Self { name: "three retries", retries: 3, ..Self::GATE_OR_EMPTY };

    /// All of them, the miners of today first.
    pub const ALL: [Self; 8] = [
        Self::OFFICIAL,
        Self::BLOCKING,
        Self::STRICT,
        Self::STRICT_ASYNC,
        Self::SUBMIT_ALL,
        Self::GATE_OR_EMPTY,
        Self::ONE_RETRY,
        Self::THREE_RETRIES,
    ];
}

/// A hotkey at a validator.
struct Lane {
    dendrite: Arc<Dendrite>,
    axon: AxonAddress,
    /// By the validator's clock, which these policies take for their own.
    due: UnixTime,
    answering: bool,
}

/// Wait at a validator that said nothing usable.
const NOTHING: Duration = Duration::from_secs(60);

/// Mines until told to end and answers what is open; one loop per card, the lanes dealt out among
/// them.
pub(super) async fn mine(
    policy: Policy,
    stage: &Stage,
    dendrite: dendrite::Settings,
    end: &CancellationToken,
) {
    let mut hands: Vec<Vec<Lane>> = stage.cards.iter().map(|_| Vec::new()).collect();
    let count = hands.len().max(1);
    for hotkey in &stage.hotkeys {
        let pulls = stage.transports.pulls.clone();
        let submissions = stage.transports.submissions.clone();
        let caller = Dendrite::new(Arc::clone(hotkey), stage.clock, dendrite, pulls, submissions);
        let caller = Arc::new(caller);
        for (number, axon) in stage.validators.iter().enumerate() {
            let lane =
                Lane { dendrite: Arc::clone(&caller), axon: *axon, due: UnixTime::EPOCH, answering: false };
            if let Some(hand) = hands.get_mut(number % count) {
                hand.push(lane);
            }
        }
    }
    let loops = stage.cards.iter().zip(hands).map(|(card, lanes)| {
        let miner = Loop {
            policy,
            clock: stage.clock,
            card,
            splats: &stage.splats,
            shared: card.is_shared(),
            made: 0,
        };
        miner.run(lanes, end)
    });
    join_all(loops).await;
}

struct Loop<'a> {
    policy: Policy,
    clock: Clock,
    card: &'a Card,
    splats: &'a Splats,
    shared: bool,
    made: i64,
}

impl Loop<'_> {
    async fn run(mut self, mut lanes: Vec<Lane>, end: &CancellationToken) {
        let mut answers: JoinSet<(usize, UnixTime)> = JoinSet::new();
        let mut turn = 0;
        while !end.is_cancelled() {
            while let Some(Ok((position, due))) = answers.try_join_next() {
                lanes[position].due = due;
                lanes[position].answering = false;
            }
            let now = self.clock.now();
            let is_ready = |lane: &Lane| !lane.answering && lane.due <= now;
            let in_turn = (0..lanes.len()).map(|step| (turn + step) % lanes.len());
            let Some(position) = in_turn.into_iter().find(|position| is_ready(&lanes[*position])) else {
                let ended = tokio::select! {
                    () = end.cancelled() => None,
                    ended = self.idle(&lanes, &mut answers) => ended,
                };
                if let Some((position, due)) = ended {
                    lanes[position].due = due;
                    lanes[position].answering = false;
                }
                continue;
            };
            turn = position + 1;
            let lane = &mut lanes[position];
            lane.due = now + NOTHING;
            let Ok(pulled) = lane.dendrite.pull(&lane.axon).await else { continue };
            let Some(task) = pulled.reply.task else {
                lane.due = pulled.reply.cooldown_until.unwrap_or(lane.due);
                continue;
            };
            let result = self.make(&task.prompt).await;
            let answer = answer(Arc::clone(&lane.dendrite), lane.axon, task, result, self.clock);
            if self.policy.blocking {
                lane.due = answer.await;
            } else {
                lane.answering = true;
                answers.spawn(async move { (position, answer.await) });
            }
        }
        while answers.join_next().await.is_some() {}
    }

    /// Waits until it may be worth looking at the lanes again, or until a validator answers.
    async fn idle(
        &self,
        lanes: &[Lane],
        answers: &mut JoinSet<(usize, UnixTime)>,
    ) -> Option<(usize, UnixTime)> {
        let due = lanes.iter().filter(|lane| !lane.answering).map(|lane| lane.due).min();
        let time = async {
            match (self.policy.polling, due) {
                (Some(every), _) => self.clock.sleep(every).await,
                (None, Some(due)) => self.clock.sleep_until(due).await,
                (None, None) => std::future::pending().await,
            }
        };
        tokio::select! {
            () = time => None,
            Some(answered) = answers.join_next() => answered.ok(),
        }
    }

    /// The result to submit, or `None` to decline.
    async fn make(&mut self, prompt: &Prompt) -> Option<Bytes> {
        for _ in 0..=self.policy.retries {
            let quality = self.candidate(prompt.as_wire()).await;
            if !self.policy.gated || quality == Quality::Good {
                return Some(self.splats.bytes(quality));
            }
        }
        None
    }

    async fn candidate(&mut self, prompt: &str) -> Quality {
        if self.shared || self.policy.strict {
            self.card.unload_scorer().await;
        }
        self.made += 1;
        // It made room before.
        let quality = self.card.generate(prompt, self.made).await.unwrap_or(Quality::Bad);
        if self.policy.gated {
            self.card.reload_scorer().await;
        }
        if self.policy.gated {
            self.card.score().await;
        }
        quality
    }
}

/// Submits, and says until when the validator wants to be left alone.
async fn answer(
    dendrite: Arc<Dendrite>,
    axon: AxonAddress,
    task: Task,
    result: Option<Bytes>,
    clock: Clock,
) -> UnixTime {
    let submission = Submission {
        task_id: &task.id,
        prompt: &task.prompt,
        spz: result.as_deref(),
        submit_time: clock.now(),
    };
    let answered = dendrite.submit(&axon, submission).await;
    let until = answered.ok().and_then(|answered| answered.reply.cooldown_until);
    until.unwrap_or_else(|| clock.now() + NOTHING)
}
