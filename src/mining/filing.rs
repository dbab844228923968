//! What the loop does with a job's report. Nothing here awaits.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError};

use super::cards::{CardNo, CardState};
use super::cooldowns::cooldown_from_reply;
use super::decide::{Decision, Terms, passes, skips_scoring};
use super::economy::Pair;
use super::guard::{Consequence, Sign};
use super::jobs::{self, Done, Found, Made, Pulled, Replied};
use super::lane::{Errand, Lane, LaneNo, OpenWork};
use super::meaning::ReplyMeaning;
use super::miner::{Job, Miner, MinerError};
use super::state::{Event, TaskState, advance, replied};
use crate::primitives::{Score, UnixTime};
use crate::store::{Answer, Decided, DecisionRecord, KeptResult, Outcome, TaskRecord, Verdict};

/// What a lane waits for after one of its jobs broke.
const BROKEN: Duration = Duration::from_secs(10);

/// So many times in a row may an answer change nothing before the validator is asked what it wants.
const ASK_AGAIN: u32 = 3;

impl Miner {
    /// Takes in the end of a job.
    pub(super) fn take(&mut self, done: Result<(Id, Done), JoinError>) -> Result<(), MinerError> {
        let (id, done) = match done {
            Ok((id, done)) => (id, Ok(done)),
            Err(error) => (error.id(), Err(error)),
        };
        let running = self.running.remove(&id);
        let since = running.as_ref().map(|running| running.since);
        let took = since.map_or(Duration::ZERO, |since| since.elapsed());
        match running.as_ref().map(|running| running.job) {
            Some(Job::Pull(_)) => self.pulling = self.pulling.saturating_sub(1),
            Some(Job::Answer(_)) => self.answering = self.answering.saturating_sub(1),
            Some(Job::Card(..) | Job::Open | Job::Look(_) | Job::Prune) | None => {}
        }
        let done = match done {
            Ok(done) => done,
            Err(error) => {
                self.take_broken(&error, running.map(|running| running.job));
                return Ok(());
            }
        };
        if let Done::Made(no, card, _) | Done::Judged(no, card, _) = &done
            && !self.lanes.contains_key(no)
        {
            // Another card of its crew broke and the lane was read anew: it knows nothing of this.
            self.release(*card);
            return Ok(());
        }
        match done {
            Done::Pulled(no, pulled) => self.take_pulled(no, *pulled?),
            Done::Made(no, card, made) => self.take_made(no, card, made?, took),
            Done::Judged(no, card, result) => {
                self.release(card);
                self.take_judged(no, result?, took);
            }
            Done::Answered(no, replied) => self.take_replied(no, *replied?),
            Done::Opened(lane) => {
                self.opening = self.opening.saturating_sub(1);
                self.add_lane(*lane?);
            }
            Done::Looked(card, Ok(())) => self.regain_card(card),
            Done::Looked(card, Err(why)) => self.lose_card(card, why),
            Done::Pruned(Ok(0)) => {}
            Done::Pruned(Ok(removed)) => tracing::debug!(removed, "Old results removed"),
            Done::Pruned(Err(error)) => tracing::warn!(%error, "Old results could not be removed"),
        }
        Ok(())
    }

    /// A job that was cut off, or that broke: its lane is read again from the store, after a while, for
    /// what broke at once may break at once again.
    fn take_broken(&mut self, error: &JoinError, job: Option<Job>) {
        if error.is_panic() {
            tracing::error!(%error, "A job broke; its task is taken up again from the store");
        }
        let no = match job {
            Some(Job::Card(no, card, _)) => {
                self.release(card);
                no
            }
            Some(Job::Pull(no) | Job::Answer(no)) => no,
            Some(Job::Open) => {
                self.opening = self.opening.saturating_sub(1);
                return;
            }
            Some(Job::Look(card)) => {
                if let CardState::Gone { why, .. } = &self.cards[card.0].state {
                    let why = why.clone();
                    self.lose_card(card, why);
                }
                return;
            }
            Some(Job::Prune) | None => return,
        };
        if self.stopping.is_some() {
            return;
        }
        if let Some(lane) = self.lanes.remove(&no) {
            self.relist(no);
            self.opening += 1;
            let tools = Arc::clone(&self.tools);
            let Lane { member, key, source, leaving, .. } = lane;
            self.spawn(Job::Open, async move {
                tools.clock.sleep(BROKEN).await;
                let opened = jobs::open(tools, member, key, source).await;
                Done::Opened(opened.map(|lane| Box::new(Lane { leaving, ..*lane })))
            });
        }
    }

    fn take_pulled(&mut self, no: LaneNo, pulled: Pulled) {
        let Pulled { cooldowns, took, found, doubt } = pulled;
        if !matches!(found, Found::NoGenerator(..) | Found::Lost) {
            self.measures.pulled(took);
        }
        let now = self.tools.clock.now();
        let Some(lane) = self.lanes.get_mut(&no) else { return };
        let (member, source) = (lane.member, lane.key.source);
        lane.cooldowns = cooldowns;
        lane.errand = Errand::Resting;
        lane.assigned = match found {
            Found::Lost => true,
            Found::NoGenerator(..) => lane.assigned,
            Found::Task { .. } | Found::Foreign | Found::Nothing => false,
        };
        match found {
            Found::Task { work, throttle } => {
                lane.last_task = Some(now);
                lane.decision = None;
                lane.errand = Errand::Open(work);
                self.measures.told_throttle(throttle);
            }
            Found::Foreign => self.notice(member, Sign::ForeignCooldown, source, now),
            Found::Nothing | Found::Lost => {}
            Found::NoGenerator(card, why) => {
                if self.cards[card.0].is_idle() {
                    self.lose_card(card, why);
                }
            }
        }
        self.relist(no);
        if doubt && let Some(subnet) = &self.ours[member].subnet {
            subnet.doubt();
        }
    }

    fn take_made(&mut self, no: LaneNo, card: CardNo, made: Made, took: Duration) {
        self.release(card);
        let event = match made {
            Made::Kept { result, handoff } => {
                self.measures.made(took, handoff);
                match self.take_kept(no, card, result) {
                    Some(event) => event,
                    None => return,
                }
            }
            Made::Failed { reason, retryable } => Event::Failed { reason, retryable },
            Made::Unreachable { reason, why } => {
                self.lose_card(card, why);
                let Some(Errand::Making(crew)) = self.lanes.get_mut(&no).map(|lane| &mut lane.errand) else {
                    return;
                };
                if crew.size == 1 {
                    // Another card may make it, or this one when it is back.
                    self.put_back(no);
                    return;
                }
                Event::Failed { reason, retryable: true }
            }
        };
        self.take_outcome(no, event, Some(card));
    }

    /// A kept result goes to the scorer of its card, at once or with others, or out as it is.
    fn take_kept(&mut self, no: LaneNo, card: CardNo, result: KeptResult) -> Option<Event> {
        let scored = self.tools.benches[card.0].scorer.is_some();
        let Some(Errand::Making(crew)) = self.lanes.get(&no).map(|lane| &lane.errand) else { return None };
        let task = Arc::clone(&crew.work.task);
        let this_pass = self.measures.passing.after(crew.work.state.failed());
        let terms = Terms { this_pass, ..self.terms(&task) };
        let why = (crew.size == 1 && scored).then(|| skips_scoring(&terms)).flatten();
        if let Some(why) = why {
            self.note(no, Decided::Unscored, &why, this_pass);
            return Some(Event::Judged(KeptResult { verdict: Some(Verdict::Unscored), ..result }));
        }
        if self.grace_left().is_some_and(|left| self.measures.judging() > left) {
            return None;
        }
        let alone = self
            .lanes
            .get(&no)
            .is_some_and(|lane| matches!(&lane.errand, Errand::Making(crew) if crew.size == 1));
        if scored && alone && self.gathers(card) {
            return Some(Event::Kept(result));
        }
        self.cards[card.0].scores = true;
        self.start_judging(no, card, result);
        None
    }

    fn put_back(&mut self, no: LaneNo) {
        let Some(lane) = self.lanes.get_mut(&no) else { return };
        if let Errand::Making(crew) = std::mem::replace(&mut lane.errand, Errand::Resting) {
            lane.errand = Errand::Open(crew.work);
        }
        self.relist(no);
    }

    fn take_judged(&mut self, no: LaneNo, result: KeptResult, took: Duration) {
        if matches!(result.verdict, Some(Verdict::Scored(_))) {
            self.measures.judged(took);
        }
        self.take_outcome(no, Event::Judged(result), None);
    }

    /// One card of a task's crew is done; with the last one the task goes on.
    fn take_outcome(&mut self, no: LaneNo, event: Event, made_on: Option<CardNo>) {
        let Some(lane) = self.lanes.get_mut(&no) else { return };
        let Errand::Making(crew) = &mut lane.errand else { return };
        crew.pending = crew.pending.saturating_sub(1);
        let failed = crew.work.state.failed();
        let gate = crew.work.task.threshold.get() + self.tools.settings.gate_margin;
        let score = match &event {
            Event::Judged(result) => result.score(),
            _ => None,
        };
        if let Some(score) = score {
            self.measures.passing.observe(failed, score.get() >= gate);
        }
        crew.outcomes.push(event);
        if crew.pending > 0 {
            return;
        }
        let Some((event, others)) = crew.outcome() else { return };
        let Errand::Making(crew) = std::mem::replace(&mut lane.errand, Errand::Resting) else { return };
        let OpenWork { task, state, stranded, .. } = crew.work;
        let mut terms = self.terms(&task);
        terms.this_pass = self.measures.passing.after(failed);
        terms.pass = self.measures.passing.after(failed + 1);
        // Where the best does not pass, none of the others did.
        let also = others.into_iter().filter(|score| passes(*score, &terms)).count();
        let (state, decision) = advance(state.with_passed(also as u32), event, &terms);
        let p = match decision {
            Some(Decision::Submit(_)) | None => terms.this_pass,
            Some(Decision::Another(_) | Decision::TryAgain(_) | Decision::Empty(_)) => terms.pass,
        };
        if let Some(lane) = self.lanes.get_mut(&no) {
            lane.errand = Errand::Open(OpenWork { task, state, stranded, made_on });
        }
        if let Some(decision) = decision {
            self.note(no, decision.what(), decision.reason(), p);
        }
        self.relist(no);
    }

    /// Writes a decision down. `p`: the probability of passing that it went by.
    fn note(&mut self, no: LaneNo, what: Decided, why: &str, p: f64) {
        self.count(|tally| *tally.decisions.entry(what.as_str()).or_default() += 1);
        let prices = self.prices();
        let record = DecisionRecord {
            at: self.tools.clock.now(),
            what,
            why: why.to_owned(),
            p: Some(p),
            gate: Some(prices.gate(self.tools.settings.penalty)),
            lane_price: Some(prices.lane),
            card_price: Some(prices.card),
        };
        let Some(lane) = self.lanes.get_mut(&no) else { return };
        lane.decision = Some(format!("{what}: {why}"));
        lane.unwritten.push(record);
        if let Some(work) = lane.work() {
            tracing::debug!(task = %work.task.id.short(), %what, why, "Decided");
        }
    }

    fn take_replied(&mut self, no: LaneNo, answered: Replied) {
        let Replied { cooldowns, took, meaning, outcome, at, local, cooldown_until } = answered;
        let Some(lane) = self.lanes.get_mut(&no) else { return };
        let (member, source) = (lane.member, lane.key.source);
        lane.cooldowns = cooldowns;
        let Errand::Answering(work) = std::mem::replace(&mut lane.errand, Errand::Resting) else { return };
        let OpenWork { task, state, stranded, made_on } = work;
        let (was_empty, unscored) = match &state {
            TaskState::Answering { answer, .. } => (
                matches!(answer, Answer::Empty(_)),
                matches!(answer, Answer::Result(KeptResult { verdict: Some(Verdict::Unscored), .. })),
            ),
            _ => (true, false),
        };
        let state = replied(state, &meaning, at, &self.tools.settings);
        if outcome.is_none() {
            lane.errand = Errand::Open(OpenWork { task, state, stranded, made_on });
            if matches!(meaning, ReplyMeaning::StillOpen(_)) {
                self.ask_again(no);
            }
            self.relist(no);
            if matches!(meaning, ReplyMeaning::Unregistered)
                && let Some(subnet) = &self.ours[member].subnet
            {
                subnet.doubt();
            }
            return;
        }
        if meaning.feedback().is_some() && !was_empty {
            lane.answering.observe(took);
            self.measures.answered(took);
        }
        if outcome == Some(Outcome::Accepted) {
            lane.note_accepted(at);
        }
        self.ended += 1;
        self.count(|tally| tally.ended += 1);
        self.relist(no);
        let verdict = match outcome {
            Some(Outcome::Accepted) => Some(true),
            Some(Outcome::Low) => Some(false),
            _ => None,
        };
        if let Some(accepted) = verdict {
            match local {
                Some(local) => {
                    self.measures.settled(source, Pair { local, threshold: task.threshold, accepted, at })
                }
                // Nobody scored it here; the validator did.
                None if unscored => self.measures.passing.observe(0, accepted),
                None => {}
            }
        }
        self.learn_rules(no, &task, outcome, cooldown_until, at);
        if matches!(meaning, ReplyMeaning::NoTask) && outcome == Some(Outcome::Lost) {
            self.notice(member, Sign::AnsweredByOthers, source, at);
        }
        self.warn_of_contradiction(outcome, local, &task);
    }

    /// An answer that changes nothing again and again may be to a task that is not the open one any
    /// more, as after a validator went back to an earlier state. Only a pull tells; it is free while a
    /// task is assigned, and the reply said that no cooldown runs. If it is the same task, the answer
    /// on record goes out again.
    fn ask_again(&mut self, no: LaneNo) {
        let now = self.tools.clock.moment();
        let Some(lane) = self.lanes.get(&no).filter(|lane| self.may_ask(lane, now)) else { return };
        let Some(TaskState::Answering { answer, tries, .. }) = lane.work().map(|work| &work.state) else {
            return;
        };
        let on_record = !matches!(answer, Answer::Result(KeptResult { row: None, .. }));
        if *tries < ASK_AGAIN || !on_record {
            return;
        }
        if let Some(lane) = self.lanes.get_mut(&no) {
            lane.cooldowns.hold(self.tools.settings.lock + Duration::from_secs(1));
            lane.assigned = true;
            lane.errand = Errand::Resting;
        }
    }

    /// C, as the reply to an answer without penalty shows it.
    fn learn_rules(
        &mut self,
        no: LaneNo,
        task: &TaskRecord,
        outcome: Option<Outcome>,
        until: Option<UnixTime>,
        at: UnixTime,
    ) {
        let (Some(Outcome::Accepted | Outcome::Empty), Some(until)) = (outcome, until) else { return };
        let Some(lane) = self.lanes.get(&no) else { return };
        let (assigned, booked) = (lane.cooldowns.theirs_at(task.pulled_at), lane.cooldowns.theirs_at(at));
        let throttle = Duration::from_secs(task.throttle_s);
        let cooldown = cooldown_from_reply(until, assigned, booked, throttle);
        // What lies far off is a validator of other rules, or a broken one.
        if (Duration::from_secs(1)..=Duration::from_secs(3_600)).contains(&cooldown) {
            self.measures.cooldown.observe(cooldown);
        }
    }

    fn notice(&mut self, member: usize, sign: Sign, source: crate::primitives::SourceId, now: UnixTime) {
        let hotkey = self.ours[member].hotkey;
        let consequence = self.ours[member].guard.notice(sign, source, now);
        tracing::warn!(
            alarm = "doppelganger", %hotkey, validator = %source.name(),
            "Another process seems to use this hotkey: {}", sign.text()
        );
        if let Consequence::Pause(until) = consequence {
            tracing::error!(
                alarm = "doppelganger", %hotkey, %until,
                "Nothing is pulled with this hotkey for an hour: stop the other process that uses it"
            );
        }
    }

    /// Good here, rejected there: the local scorer or our signature is wrong (rules.md R8).
    fn warn_of_contradiction(&self, outcome: Option<Outcome>, local: Option<Score>, task: &TaskRecord) {
        if outcome == Some(Outcome::Low)
            && let Some(local) = local
            && local >= task.threshold
        {
            tracing::warn!(
                alarm = "rejected", task = %task.id.short(), %local, threshold = %task.threshold,
                "The validator rejected a result that passes here: check the scorer's version, and the signature with `sn17-miner wallet check`"
            );
        }
    }
}
