//! One lane of the loop: a hotkey at a source, its cooldown, its open task.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::cards::CardNo;
use super::cooldowns::Cooldowns;
use super::economy::Mean;
use super::roster::Prospect;
use super::snapshot::{LaneSnapshot, TaskSnapshot};
use super::source::TaskSource;
use super::state::{Event, TaskState};
use crate::clock::Moment;
use crate::primitives::{Score, UnixTime};
use crate::store::{DecisionRecord, LaneKey, TaskRecord};

/// A lane's place in the loop; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LaneNo(pub u32);

/// An accepted result counts for this long at its validator (rules.md R5).
pub(super) const WINDOW: Duration = Duration::from_secs(4 * 3_600);

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) key: LaneKey,
    /// Which of our hotkeys, by its position in the setup.
    pub(super) member: usize,
    pub(super) source: TaskSource,
    pub(super) cooldowns: Cooldowns,
    /// When this process began to follow it: nothing before counts as waiting.
    pub(super) opened: Instant,
    /// When it gave a task last, by our wall clock.
    pub(super) last_task: Option<UnixTime>,
    /// Results accepted within the window, oldest first.
    pub(super) accepted: VecDeque<UnixTime>,
    /// Seconds from sending an answer to its reply.
    pub(super) answering: Mean,
    pub(super) errand: Errand,
    /// The source holds a task for us that is not in our hands: one of an earlier run, or of a pull
    /// whose reply was lost.
    pub(super) assigned: bool,
    /// What was last decided on its task.
    pub(super) decision: Option<String>,
    /// Decisions that its next job writes down.
    pub(super) unwritten: Vec<DecisionRecord>,
    /// The chain no longer names the source: its open task is seen to, nothing more is pulled.
    pub(super) leaving: bool,
}

/// What a lane is busy with.
#[derive(Debug)]
pub(super) enum Errand {
    /// Nothing: it waits for its cooldown and its turn.
    Resting,
    Pulling,
    /// A task waits for a card, or until its answer may be sent.
    Open(OpenWork),
    Making(Crew),
    Answering(OpenWork),
}

#[derive(Debug)]
pub(super) struct OpenWork {
    pub(super) task: Arc<TaskRecord>,
    pub(super) state: TaskState,
    /// Since when no card could work on it, if that is so.
    pub(super) stranded: Option<UnixTime>,
    /// The card that made its last candidate, which scores it.
    pub(super) made_on: Option<CardNo>,
}

/// The cards that make candidates of one task at the same time.
#[derive(Debug)]
pub(super) struct Crew {
    pub(super) work: OpenWork,
    pub(super) size: u32,
    pub(super) pending: u32,
    /// What came of those that are done.
    pub(super) outcomes: Vec<Event>,
}

impl Crew {
    /// What the whole crew comes to: the best result, or the last failure; and the scores of the other
    /// results.
    pub(super) fn outcome(&mut self) -> Option<(Event, Vec<Score>)> {
        let score = |event: &Event| match event {
            Event::Judged(result) => (2, result.score()),
            Event::Kept(_) => (1, None),
            Event::Failed { retryable, .. } => (0, (*retryable).then_some(Score::ZERO)),
        };
        let best = (0..self.outcomes.len()).max_by(|a, b| {
            let (a, b) = (score(&self.outcomes[*a]), score(&self.outcomes[*b]));
            a.partial_cmp(&b).unwrap_or(std::cmp::Ordering::Equal)
        })?;
        let best = self.outcomes.swap_remove(best);
        let others = self.outcomes.iter().filter_map(|event| match event {
            Event::Judged(result) => result.score(),
            _ => None,
        });
        Some((best, others.collect()))
    }
}

impl OpenWork {
    pub(super) fn new(task: TaskRecord, state: TaskState) -> Self {
        Self { task: Arc::new(task), state, stranded: None, made_on: None }
    }
}

impl Lane {
    pub(super) fn new(
        key: LaneKey,
        member: usize,
        source: TaskSource,
        cooldowns: Cooldowns,
        opened: Instant,
        accepted: VecDeque<UnixTime>,
        work: Option<OpenWork>,
    ) -> Self {
        Self {
            key,
            member,
            source,
            cooldowns,
            opened,
            last_task: accepted.back().copied(),
            accepted,
            answering: Mean::default(),
            errand: work.map_or(Errand::Resting, Errand::Open),
            assigned: false,
            decision: None,
            unwritten: Vec::new(),
            leaving: false,
        }
    }

    /// The task in its hands, whatever is being done with it.
    pub(super) fn work(&self) -> Option<&OpenWork> {
        match &self.errand {
            Errand::Resting | Errand::Pulling => None,
            Errand::Open(work) | Errand::Answering(work) => Some(work),
            Errand::Making(crew) => Some(&crew.work),
        }
    }

    /// How often the answer to its task has left without settling it.
    pub(super) fn tries(&self) -> u32 {
        self.work().map_or(0, |work| work.state.tries())
    }

    /// Since when it might be asked.
    pub(super) fn due(&self) -> Instant {
        self.cooldowns.due_at().max(self.opened)
    }

    /// What speaks for asking it now; its next turn after this one is `turn` away.
    pub(super) fn prospect(&self, moment: Moment, turn: Duration, stake: f64, owner: bool) -> Prospect {
        let now = moment.wall;
        let kept = |at: &&UnixTime| **at + WINDOW > now + turn;
        Prospect {
            open: self.assigned,
            overdue: moment.instant.saturating_duration_since(self.due()),
            unserved: self.last_task.map(|at| now.saturating_since(at)),
            covered: self.accepted.iter().rev().find(kept).is_some(),
            stake,
            scoring: self.answering.get().unwrap_or_default(),
            owner,
        }
    }

    pub(super) fn note_accepted(&mut self, at: UnixTime) {
        while self.accepted.front().is_some_and(|first| *first + WINDOW <= at) {
            self.accepted.pop_front();
        }
        self.accepted.push_back(at);
    }

    pub(super) fn snapshot(&self, demoted: bool) -> LaneSnapshot {
        let work = self.work();
        LaneSnapshot {
            hotkey: self.key.hotkey,
            validator: self.key.source.name(),
            uid: self.source.uid(),
            address: self.source.address(),
            due: match work.map(|work| &work.state) {
                Some(TaskState::Answering { not_before, .. }) => *not_before,
                Some(_) => UnixTime::EPOCH,
                None => self.cooldowns.due(),
            },
            window_count: self.cooldowns.record().window_count,
            clock_ahead_ms: self.cooldowns.record().clock_offset.map(|nanos| nanos / 1_000_000),
            task: work.map(|work| TaskSnapshot {
                id: work.task.id.to_string(),
                kind: work.task.prompt.kind(),
                pulled_at: work.task.pulled_at,
                state: work.state.name(),
            }),
            decision: self.decision.clone(),
            demoted,
            leaving: self.leaving,
        }
    }
}
