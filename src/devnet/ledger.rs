//! A validator's book of its miners: who works on what, who must wait, what has been credited.
//!
//! Pure: every call is told the time, nothing waits and nothing is read from outside, so a test can
//! walk through hours of rules.md R2 to R5 and R8 in microseconds. Scoring takes time, so a
//! submission has two halves, [`ValidatorLedger::begin_submission`] and
//! [`ValidatorLedger::finish_submission`], and the book may change in between; what the real
//! validator does then, this one does too, mistakes included.
//!
//! Not here: duels, organic traffic, weights.

mod chronicle;
mod miner;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

pub use chronicle::{Chronicle, LedgerEvent, LedgerEventKind};

use self::miner::MinerRecord;
use super::rules::ValidatorRules;
use crate::primitives::{Hotkey, Prompt, TaskId, Uid, UnixTime};

/// A task as the validator keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevTask {
    pub id: TaskId,
    pub prompt: Prompt,
}

/// Answer to a pull. Fields a variant does not have stay as the request brought them.
#[derive(Debug, Clone, PartialEq)]
pub enum PullAnswer {
    Task {
        task: DevTask,
        /// The task was assigned by an earlier pull.
        repeated: bool,
        validation_threshold: f64,
        throttle_period: Duration,
    },
    Cooling {
        /// Whole seconds.
        cooldown_until: UnixTime,
        cooldown_violations: u32,
    },
    Unregistered {
        /// Whole seconds.
        cooldown_until: UnixTime,
    },
}

/// Why the axon turns a submission away before its handler sees it: the answer is a 403.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("Unrecognized hotkey {hotkey}")]
    UnknownHotkey { hotkey: Hotkey },
    #[error(
        "[{uid}] submitted results while having no task assigned. \
         It could happen if validator restarts or miner faults"
    )]
    NoTaskAssigned { uid: Uid },
}

/// What the caller found out about the signature of a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureCheck {
    Valid,
    /// Well formed, of another text or key.
    Wrong,
    /// Not base64, or not 64 bytes: the validator's handler raises.
    Malformed,
}

/// How far a submission got at once.
#[derive(Debug)]
pub enum SubmissionStart {
    /// 403.
    Refused(Refusal),
    /// 500, nothing has changed and the task stays open (rules.md R4).
    Broken,
    /// Settled without scoring.
    Answered(SubmitAnswer),
    /// To be scored, and then given to [`ValidatorLedger::finish_submission`].
    Scoring(Scoring),
}

/// A result that is being scored. Dropping it leaves the task open.
#[derive(Debug)]
#[must_use = "the task stays open until the verdict is booked"]
pub struct Scoring {
    hotkey: Hotkey,
    uid: Uid,
    task: DevTask,
}

impl Scoring {
    pub fn hotkey(&self) -> Hotkey {
        self.hotkey
    }

    pub fn task(&self) -> &DevTask {
        &self.task
    }
}

/// What the scorer said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    Scored(f64),
    /// The scorer itself failed: no blame.
    Failed,
}

/// The feedback of a reply, named as on the wire.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FeedbackFields {
    pub validation_failed: bool,
    /// 0.0 for everything that was not accepted (rules.md R4).
    pub task_fidelity_score: f64,
    pub average_fidelity_score: f64,
    pub generations_within_the_window: u64,
    pub current_duel_rating: f64,
    pub current_miner_reward: f64,
}

/// Answer to a submission that reached the handler.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SubmitAnswer {
    pub feedback: FeedbackFields,
    /// Whole seconds; [`UnixTime::EPOCH`] (0 on the wire) before the first task is booked.
    pub cooldown_until: UnixTime,
}

/// See the [module](self).
#[derive(Debug)]
pub struct ValidatorLedger {
    rules: ValidatorRules,
    uids: BTreeMap<Hotkey, Uid>,
    miners: BTreeMap<Uid, MinerRecord>,
    chronicle: Chronicle,
}

impl ValidatorLedger {
    pub fn new(rules: ValidatorRules) -> Self {
        Self::remembering(rules, Chronicle::KEPT)
    }

    /// A book whose [`Chronicle`] keeps this many events.
    pub fn remembering(rules: ValidatorRules, events: usize) -> Self {
        let chronicle = Chronicle::keeping(events);
        Self { rules, uids: BTreeMap::new(), miners: BTreeMap::new(), chronicle }
    }

    pub fn rules(&self) -> &ValidatorRules {
        &self.rules
    }

    /// What has happened so far.
    pub fn chronicle(&self) -> &Chronicle {
        &self.chronicle
    }

    /// Gives `uid` to `hotkey`. A new owner starts afresh, except that it inherits the open task of
    /// the previous one (rules.md R4).
    pub fn register(&mut self, uid: Uid, hotkey: Hotkey) {
        if self.uids.get(&hotkey) == Some(&uid) {
            return;
        }
        self.uids.retain(|_, held| *held != uid);
        self.uids.insert(hotkey, uid);
        let previous = self.miners.remove(&uid);
        self.miners.insert(uid, MinerRecord::succeeding(previous, self.rules.rating));
    }

    /// Forgets that `hotkey` is registered; what it did is kept under its uid.
    pub fn deregister(&mut self, hotkey: &Hotkey) {
        self.uids.remove(hotkey);
    }

    /// The uid a registered hotkey holds.
    pub fn uid(&self, hotkey: &Hotkey) -> Option<Uid> {
        self.uids.get(hotkey).copied()
    }

    /// Sets a duel rating. Unknown hotkeys are ignored.
    pub fn set_rating(&mut self, hotkey: &Hotkey, rating: f64) {
        if let Some((_, miner)) = self.miner_mut(hotkey) {
            miner.rating = rating;
        }
    }

    /// Drops the assignment of a miner, as a validator does that crashed and lost its last minutes.
    pub fn lose_task(&mut self, hotkey: &Hotkey) {
        if let Some((_, miner)) = self.miner_mut(hotkey) {
            miner.assigned = None;
        }
    }

    /// The task a miner works on.
    pub fn open_task(&self, hotkey: &Hotkey) -> Option<&DevTask> {
        let uid = self.uids.get(hotkey)?;
        self.miners.get(uid)?.assigned.as_ref().map(|assignment| &assignment.task)
    }

    /// The tasks of all miners that nothing has been booked on yet.
    pub fn open_tasks(&self) -> impl Iterator<Item = &DevTask> {
        self.miners.values().filter_map(|miner| miner.assigned.as_ref()).map(|assignment| &assignment.task)
    }

    /// How long a miner let an ended cooldown pass before it asked for the next task, at most. One
    /// that is still unused counts up to `now`; a miner that never asked has waited since `since`.
    pub fn longest_idle(&self, hotkey: &Hotkey, since: UnixTime, now: UnixTime) -> Option<Duration> {
        let miner = self.miners.get(self.uids.get(hotkey)?)?;
        Some(miner.longest_idle.max(miner.idle(since, now)))
    }

    /// Accepted results of a miner that count at `now`.
    pub fn window_count(&self, hotkey: &Hotkey, now: UnixTime) -> Option<u64> {
        Some(self.miners.get(self.uids.get(hotkey)?)?.window_count(&self.rules, now))
    }

    /// A miner asks for work (rules.md R4, "Order at pull"). `next_task` is called only if it gets a
    /// new task.
    pub fn pull(
        &mut self,
        hotkey: &Hotkey,
        now: UnixTime,
        next_task: impl FnOnce() -> DevTask,
    ) -> PullAnswer {
        let rules = self.rules;
        let Some((_, miner)) = self.miner_mut(hotkey) else {
            self.record(now, hotkey, LedgerEventKind::PullRefused);
            return PullAnswer::Unregistered { cooldown_until: whole_seconds(now) + rules.unregistered_wait };
        };
        let (answer, kind) = if now < miner.cooldown_until {
            let early_by = miner.cooldown_until.saturating_since(now);
            miner.violations = miner.violations.saturating_add(1);
            if miner.violations > rules.violation_limit {
                miner.cooldown_until = miner.cooldown_until + rules.violation_penalty;
            }
            let answer = PullAnswer::Cooling {
                cooldown_until: miner.cooldown_until,
                cooldown_violations: miner.violations,
            };
            (answer, LedgerEventKind::Violation { early_by })
        } else {
            let repeated = miner.assigned.is_some();
            let task = miner.assigned_or(now, next_task).clone();
            let kind = if repeated {
                LedgerEventKind::Repeated { task: task.id.clone() }
            } else {
                LedgerEventKind::Assigned { task: task.id.clone() }
            };
            let answer = PullAnswer::Task {
                task,
                repeated,
                validation_threshold: rules.threshold,
                throttle_period: rules.throttle,
            };
            (answer, kind)
        };
        self.record(now, hotkey, kind);
        answer
    }

    /// The check an axon makes on the hotkey of the request's header, before it verifies the
    /// request's own signature.
    ///
    /// # Errors
    /// When the submission is to be answered with 403.
    pub fn admit_submission(&mut self, hotkey: &Hotkey, now: UnixTime) -> Result<(), Refusal> {
        match self.admitted(hotkey) {
            Ok(_) => Ok(()),
            Err(refusal) => {
                self.record(now, hotkey, LedgerEventKind::SubmissionRefused);
                Err(refusal)
            }
        }
    }

    /// A submission arrives. `empty` says that it carries no data; `verify` checks its signature
    /// over the prompt of the assigned task and is called only when the task is the right one.
    pub fn begin_submission(
        &mut self,
        hotkey: &Hotkey,
        now: UnixTime,
        task_id: &str,
        empty: bool,
        verify: impl FnOnce(&Prompt) -> SignatureCheck,
    ) -> SubmissionStart {
        let rules = self.rules;
        let (uid, miner, task) = match self.admitted(hotkey) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                self.record(now, hotkey, LedgerEventKind::SubmissionRefused);
                return SubmissionStart::Refused(refusal);
            }
        };
        if task.id.as_str() != task_id {
            let answer = miner.answer(&rules, now, 0.0, false);
            self.record(now, hotkey, LedgerEventKind::WrongTask { open: task.id });
            return SubmissionStart::Answered(answer);
        }
        match verify(&task.prompt) {
            SignatureCheck::Valid => miner.violations = miner.violations.saturating_sub(1),
            SignatureCheck::Wrong => {
                miner.close(now, rules.cooldown + rules.penalty, rules.throttle);
                let answer = miner.answer(&rules, now, 0.0, false);
                self.record(now, hotkey, LedgerEventKind::BadSignature { task: task.id });
                return SubmissionStart::Answered(answer);
            }
            SignatureCheck::Malformed => {
                self.record(now, hotkey, LedgerEventKind::Malformed { task: task.id });
                return SubmissionStart::Broken;
            }
        }
        if empty {
            miner.close(now, rules.cooldown, rules.throttle);
            let answer = miner.answer(&rules, now, 0.0, false);
            self.record(now, hotkey, LedgerEventKind::Empty { task: task.id });
            return SubmissionStart::Answered(answer);
        }
        if miner.locked_until > now {
            let answer = miner.answer(&rules, now, 0.0, false);
            self.record(now, hotkey, LedgerEventKind::Locked { task: task.id });
            return SubmissionStart::Answered(answer);
        }
        miner.locked_until = whole_seconds(now) + rules.lock;
        self.record(now, hotkey, LedgerEventKind::ScoringBegun { task: task.id.clone() });
        SubmissionStart::Scoring(Scoring { hotkey: *hotkey, uid, task })
    }

    /// Books the verdict on a result. `now` is when the scorer was done.
    pub fn finish_submission(&mut self, scoring: Scoring, now: UnixTime, verdict: Verdict) -> SubmitAnswer {
        let Scoring { hotkey, uid, task } = scoring;
        let rules = self.rules;
        let miner = self.miners.entry(uid).or_insert_with(|| MinerRecord::succeeding(None, rules.rating));
        let again = miner.assigned.as_ref().is_none_or(|assignment| assignment.task.id != task.id);
        let (score, failed, kind) = match verdict {
            Verdict::Failed => {
                miner.close(now, rules.cooldown, rules.throttle);
                (0.0, true, LedgerEventKind::ScorerFailed { task: task.id.clone() })
            }
            // Asked before the score is: a second result soon after an accepted one changes nothing.
            Verdict::Scored(_) if miner.is_guarded(now, &rules) => {
                (0.0, false, LedgerEventKind::DoubleGuard { task: task.id.clone() })
            }
            // Written so that NaN is low.
            Verdict::Scored(score) if score >= rules.threshold => {
                let credited = score.min(1.0);
                miner.close(now, rules.cooldown, rules.throttle);
                miner.credit(now, credited, rules.fidelity_alpha);
                (credited, false, LedgerEventKind::Accepted { task: task.id.clone(), score })
            }
            Verdict::Scored(score) => {
                miner.close(now, rules.cooldown + rules.penalty, rules.throttle);
                (0.0, false, LedgerEventKind::Low { task: task.id.clone(), score })
            }
        };
        let answer = miner.answer(&rules, now, score, failed);
        let guarded = matches!(kind, LedgerEventKind::DoubleGuard { .. });
        self.record(now, &hotkey, kind);
        if again && !guarded {
            self.record(now, &hotkey, LedgerEventKind::BookedAgain { task: task.id });
        }
        answer
    }

    fn admitted(&mut self, hotkey: &Hotkey) -> Result<(Uid, &mut MinerRecord, DevTask), Refusal> {
        let (uid, miner) = self.miner_mut(hotkey).ok_or(Refusal::UnknownHotkey { hotkey: *hotkey })?;
        let task = miner.assigned.as_ref().map(|assignment| assignment.task.clone());
        Ok((uid, miner, task.ok_or(Refusal::NoTaskAssigned { uid })?))
    }

    fn miner_mut(&mut self, hotkey: &Hotkey) -> Option<(Uid, &mut MinerRecord)> {
        let uid = *self.uids.get(hotkey)?;
        Some((uid, self.miners.get_mut(&uid)?))
    }

    fn record(&mut self, at: UnixTime, hotkey: &Hotkey, kind: LedgerEventKind) {
        self.chronicle.add(LedgerEvent { at, hotkey: *hotkey, kind });
    }
}

/// `int(time)` of the validator's code.
fn whole_seconds(time: UnixTime) -> UnixTime {
    UnixTime::from_secs(time.as_secs())
}
