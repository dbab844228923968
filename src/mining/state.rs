//! The stages of one task, and which follows which.

use std::time::Duration;

use super::decide::{Terms, decide, retry_or_decline};
use super::{Decision, ReplyMeaning, Settings};
use crate::net::Backoff;
use crate::primitives::{Prompt, UnixTime};
use crate::store::{Answer, KeptResult, OpenTask, Outcome, Stage, TaskRecord, Verdict};

/// Where a task stands, with what that stage has earned.
///
/// ```text
/// Open --kept--> Made --judged--> (decide) --submit--> Answering --settled--> Ended
///  ^  \                              |  \                 |   ^
///  |   `--failed for good---------------------empty------>'   | not settled
///  `---- failed, too low, or good and more wanted -----'  `---'
/// ```
#[derive(Debug, Clone)]
pub enum TaskState {
    /// A candidate is to be made.
    Open(Tries),
    /// A result is kept and not judged.
    Made {
        tries: Tries,
        result: KeptResult,
    },
    /// An answer is to be sent, not before `not_before` (our clock). `tries` have left so far, and one
    /// of them may have been booked if it is `in_doubt`.
    Answering {
        answer: Answer,
        tries: u32,
        in_doubt: bool,
        not_before: UnixTime,
    },
    Ended {
        outcome: Outcome,
        reason: Option<String>,
    },
}

/// What this process has tried for a task.
#[derive(Debug, Clone, Default)]
pub struct Tries {
    /// Candidates that came to nothing.
    pub failed: u32,
    /// Candidates that passed, and the best of them.
    pub passed: u32,
    pub best: Option<KeptResult>,
}

impl Tries {
    /// With one more good result; of equals the earlier stays.
    fn with(self, result: KeptResult) -> Self {
        let better = self.best.as_ref().is_none_or(|best| result.score() > best.score());
        let best = if better { Some(result) } else { self.best };
        Self { passed: self.passed + 1, best, ..self }
    }
}

/// What happened to a task.
#[derive(Debug, Clone)]
pub enum Event {
    Kept(KeptResult),
    /// No candidate came of an attempt. `retryable`: another seed has a chance.
    Failed {
        reason: String,
        retryable: bool,
    },
    /// A kept result was judged; its verdict is in it.
    Judged(KeptResult),
}

/// What a state asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Make,
    Judge,
    Answer { not_before: UnixTime },
    Nothing,
}

impl TaskState {
    /// The state of a task newly pulled: some can only be declined.
    pub fn new(task: &TaskRecord, can_make: impl Fn(&Prompt) -> bool, settings: &Settings) -> Self {
        match reason_to_decline(task, can_make, settings) {
            Some(reason) => Self::answering(Answer::Empty(reason)),
            None => Self::Open(Tries::default()),
        }
    }

    /// The state of a task found on record, by what its journal holds (see the store's table).
    ///
    /// A verdict is judged anew by the plain gate: what was learned since the start of this process
    /// is too little to do better.
    pub fn resumed(open: OpenTask, can_make: impl Fn(&Prompt) -> bool, settings: &Settings) -> Self {
        match (open.stage, open.result, open.answer) {
            (Stage::Intended | Stage::Sent, _, Some((answer, intended_at))) => {
                let not_before = after_lock(intended_at, settings);
                Self::Answering { answer, tries: 1, in_doubt: true, not_before }
            }
            (Stage::Kept | Stage::Scored | Stage::Generating, Some(result), _) => match result.verdict {
                Some(Verdict::Scored(score)) => {
                    if score.get() >= open.task.threshold.get() + settings.gate_margin {
                        Self::answering(Answer::Result(result))
                    } else {
                        Self::Open(Tries { failed: 1, ..Tries::default() })
                    }
                }
                Some(Verdict::NoVerdict | Verdict::Unscored) | None => {
                    Self::Made { tries: Tries::default(), result }
                }
            },
            _ => Self::new(&open.task, can_make, settings),
        }
    }

    fn answering(answer: Answer) -> Self {
        Self::Answering { answer, tries: 0, in_doubt: false, not_before: UnixTime::EPOCH }
    }

    /// For display.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Open(_) => "open",
            Self::Made { .. } => "made",
            Self::Answering { .. } => "answering",
            Self::Ended { .. } => "ended",
        }
    }

    pub fn step(&self) -> Step {
        match self {
            Self::Open(_) => Step::Make,
            Self::Made { .. } => Step::Judge,
            Self::Answering { not_before, .. } => Step::Answer { not_before: *not_before },
            Self::Ended { .. } => Step::Nothing,
        }
    }

    /// Candidates that came to nothing, while more are made.
    pub const fn failed(&self) -> u32 {
        match self {
            Self::Open(tries) | Self::Made { tries, .. } => tries.failed,
            Self::Answering { .. } | Self::Ended { .. } => 0,
        }
    }

    /// Candidates that passed, while more are made.
    pub const fn passed(&self) -> u32 {
        match self {
            Self::Open(tries) | Self::Made { tries, .. } => tries.passed,
            Self::Answering { .. } | Self::Ended { .. } => 0,
        }
    }

    /// How often the answer has left.
    pub const fn tries(&self) -> u32 {
        match self {
            Self::Answering { tries, .. } => *tries,
            Self::Open(_) | Self::Made { .. } | Self::Ended { .. } => 0,
        }
    }

    /// Counts further candidates that passed beside a better one.
    #[must_use]
    pub fn with_passed(self, more: u32) -> Self {
        match self {
            Self::Open(tries) => Self::Open(Tries { passed: tries.passed + more, ..tries }),
            state => state,
        }
    }

    /// A task whose candidates nobody can make is declined.
    #[must_use]
    pub fn given_up(self, reason: String) -> Self {
        match self {
            Self::Open(Tries { best: Some(best), .. }) => Self::answering(Answer::Result(best)),
            Self::Open(_) | Self::Made { .. } => Self::answering(Answer::Empty(reason)),
            state => state,
        }
    }
}

/// No score is higher: 0.75 of quality, 0.2 of alignment, which is at most 1 / 0.35, and 0.05 of the rest
/// (rules.md R7).
const HIGHEST_SCORE: f64 = 0.75 + 0.2 / 0.35 + 0.05;

/// What cannot be answered with a result is declined before any GPU time is spent on it.
fn reason_to_decline(
    task: &TaskRecord,
    can_make: impl Fn(&Prompt) -> bool,
    settings: &Settings,
) -> Option<String> {
    let prompt = &task.prompt;
    if task.threshold.get() > HIGHEST_SCORE {
        return Some(format!("no result reaches a threshold of {}", task.threshold));
    }
    if let Prompt::Text(text) = prompt {
        let chars = text.chars().count();
        if chars > settings.max_prompt_chars {
            return Some(format!("a prompt of {chars} characters cannot be scored"));
        }
    }
    (!can_make(prompt)).then(|| format!("no generator for {} tasks", prompt.kind()))
}

/// A second submission inside the validator's lock is ignored there (rules.md R4).
fn after_lock(sent: UnixTime, settings: &Settings) -> UnixTime {
    sent + settings.lock + Duration::from_secs(1)
}

/// The state after a decision.
fn decided(tries: Tries, result: Option<KeptResult>, decision: &Decision) -> TaskState {
    match (decision, result) {
        (Decision::Submit(_), Some(result)) => {
            // The best of all candidates, which need not be the last.
            let passes = tries.with(result);
            match passes.best {
                Some(best) => TaskState::answering(Answer::Result(best)),
                None => TaskState::answering(Answer::Empty("no result".into())),
            }
        }
        (Decision::Another(_), Some(result)) => TaskState::Open(tries.with(result)),
        (Decision::TryAgain(_), _) => TaskState::Open(Tries { failed: tries.failed + 1, ..tries }),
        (Decision::Empty(reason), _) => match tries.best {
            Some(best) => TaskState::answering(Answer::Result(best)),
            None => TaskState::answering(Answer::Empty(reason.clone())),
        },
        (Decision::Submit(why) | Decision::Another(why), None) => {
            TaskState::answering(Answer::Empty(why.clone()))
        }
    }
}

/// The state after something happened to the candidates of a task, and the decision taken on the
/// way, if one was. Pure; an event that cannot happen in a state leaves it as it is.
pub fn advance(state: TaskState, event: Event, terms: &Terms<'_>) -> (TaskState, Option<Decision>) {
    match (state, event) {
        (TaskState::Open(tries), Event::Kept(result)) => (TaskState::Made { tries, result }, None),
        (TaskState::Open(tries), Event::Failed { reason, retryable }) => {
            let decision = if tries.best.is_some() {
                Decision::Empty(reason)
            } else if retryable {
                retry_or_decline(&reason, tries.failed, terms)
            } else {
                Decision::Empty(reason)
            };
            (decided(tries, None, &decision), Some(decision))
        }
        (TaskState::Made { tries, .. } | TaskState::Open(tries), Event::Judged(result)) => {
            let verdict = result.verdict.unwrap_or(Verdict::NoVerdict);
            let decision = decide(verdict, tries.failed, tries.passed, terms);
            (decided(tries, Some(result), &decision), Some(decision))
        }
        (state, _) => (state, None),
    }
}

/// The state after the answer to a submission.
pub fn replied(state: TaskState, meaning: &ReplyMeaning, at: UnixTime, settings: &Settings) -> TaskState {
    let TaskState::Answering { answer, tries, in_doubt, .. } = state else { return state };
    let tries = tries + 1;
    match meaning.outcome(&answer, in_doubt) {
        Some(outcome) => {
            let reason = match &answer {
                Answer::Empty(reason) => Some(reason.clone()),
                Answer::Result(_) => None,
            };
            TaskState::Ended { outcome, reason }
        }
        None => {
            let wait = retry_wait(meaning, tries);
            let not_before = after_lock(at, settings).max(at + wait);
            let in_doubt = in_doubt || meaning.leaves_doubt();
            TaskState::Answering { answer, tries, in_doubt, not_before }
        }
    }
}

/// How long an unsettled answer waits beyond the lock.
fn retry_wait(meaning: &ReplyMeaning, tries: u32) -> Duration {
    const OPEN: (u64, u64) = (1, 300);
    // A validator that does not know us yet looks at the chain every ten minutes (rules.md R1).
    const UNREGISTERED: (u64, u64) = (60, 600);
    let (min, max) = if matches!(meaning, ReplyMeaning::Unregistered) { UNREGISTERED } else { OPEN };
    Backoff::try_new(Duration::from_secs(min), Duration::from_secs(max))
        .map_or(Duration::from_secs(max), |backoff| backoff.after(tries))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mining::calibration::Calibration;
    use crate::mining::decide::tests::{score, terms};
    use crate::mining::{Candidates, ScorerDown, UnscoredPolicy};
    use crate::primitives::{LocalId, PromptKind, Seed, SourceId, TaskId};
    use crate::protocol::Feedback;
    use crate::splat::{Gaussian, ShDegree, Splat, SpzEncoder};
    use crate::store::LaneKey;
    use crate::wallet::HotkeyPair;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    pub(in crate::mining) fn settings() -> Settings {
        Settings {
            cooldown: Duration::from_secs(300),
            lock: Duration::from_secs(30),
            margin: Duration::from_millis(100),
            max_prompt_chars: 1_024,
            gate_margin: 0.01,
            max_retries: 3,
            candidates: Candidates::Fixed(1),
            scorer_down: ScorerDown::Empty,
            unscored: UnscoredPolicy::Never,
            stock: 1,
            max_submissions: 8,
            owner_hotkey: None,
            doppelganger_limit: 3,
            throttle: Duration::from_secs(30),
            penalty: Duration::from_secs(600),
            grace: Duration::ZERO,
            keep_results: Duration::from_secs(60),
        }
    }

    pub(in crate::mining) fn kept(verdict: Option<Verdict>) -> KeptResult {
        let mut splat = Splat::new(ShDegree::Zero);
        splat.push(Gaussian {
            position: [0.0; 3],
            log_scale: [-4.0; 3],
            rotation: [1.0, 0.0, 0.0, 0.0],
            logit_opacity: 0.0,
            f_dc: [0.0; 3],
        });
        let spz = Arc::new(SpzEncoder::default().encode(&splat).unwrap());
        KeptResult { row: Some(1), attempt: 1, seed: Seed::new(1), spz, verdict }
    }

    fn task(prompt: Prompt) -> TaskRecord {
        let hotkey = *HotkeyPair::dev("miner").hotkey();
        TaskRecord {
            id: LocalId::new(NOW, 1),
            lane: LaneKey { source: SourceId::Validator(hotkey), hotkey },
            task_id: TaskId::new("t").unwrap(),
            prompt,
            threshold: score(0.6),
            throttle_s: 30,
            pulled_at: NOW,
            attempts: 0,
        }
    }

    fn step(state: TaskState, event: Event) -> TaskState {
        let (settings, calibration) = (settings(), Calibration::new([], 0.01));
        advance(state, event, &terms(&settings, &calibration)).0
    }

    fn failed(failed: u32) -> Tries {
        Tries { failed, ..Tries::default() }
    }

    fn judged_at(value: f64, before: u32) -> TaskState {
        let result = kept(Some(Verdict::Scored(score(value))));
        let state = TaskState::Made { tries: failed(before), result: kept(None) };
        step(state, Event::Judged(result))
    }

    fn replied(answer: Answer, tries: u32, meaning: ReplyMeaning) -> TaskState {
        let state = TaskState::Answering { answer, tries, in_doubt: tries > 0, not_before: UnixTime::EPOCH };
        super::replied(state, &meaning, NOW, &settings())
    }

    fn feedback() -> Feedback {
        Feedback {
            validation_failed: false,
            score: score(0.0),
            average_score: score(0.0),
            window_count: 0,
            duel_rating: 1_500.0,
            reward: 0.0,
        }
    }

    #[test]
    fn a_good_result_is_submitted_and_a_bad_one_tried_again() {
        assert!(matches!(
            judged_at(0.7, 0),
            TaskState::Answering { answer: Answer::Result(_), tries: 0, .. }
        ));
        assert!(matches!(judged_at(0.5, 0), TaskState::Open(Tries { failed: 1, .. })));
        assert!(matches!(judged_at(0.5, 3), TaskState::Answering { answer: Answer::Empty(_), .. }));
    }

    #[test]
    fn the_best_of_several_candidates_is_submitted() {
        let settings = Settings { candidates: Candidates::Fixed(3), ..settings() };
        let calibration = Calibration::new([], 0.01);
        let terms = terms(&settings, &calibration);
        let mut state = TaskState::Open(Tries::default());
        for (number, value) in [0.7, 0.9, 0.8].into_iter().enumerate() {
            let mut result = kept(Some(Verdict::Scored(score(value))));
            result.row = Some(number as i64);
            state = advance(state, Event::Kept(kept(None)), &terms).0;
            state = advance(state, Event::Judged(result), &terms).0;
        }
        let TaskState::Answering { answer: Answer::Result(best), .. } = state else { panic!("{state:?}") };
        assert_eq!(best.row, Some(1));
        // A candidate that comes to nothing does not lose the good one before it.
        let one = Tries { passed: 1, best: Some(best), ..Tries::default() };
        let state =
            advance(TaskState::Open(one), Event::Failed { reason: "x".into(), retryable: true }, &terms).0;
        assert!(matches!(state, TaskState::Answering { answer: Answer::Result(_), .. }));
    }

    #[test]
    fn a_task_that_cannot_be_made_is_declined_at_once() {
        let text_only = |prompt: &Prompt| prompt.kind() == PromptKind::Text;
        let declined = |prompt: Prompt| {
            matches!(
                TaskState::new(&task(prompt), text_only, &settings()),
                TaskState::Answering { answer: Answer::Empty(_), .. }
            )
        };
        assert!(declined(Prompt::Image("iVBO".into())));
        assert!(declined(Prompt::Other("x".into())));
        assert!(declined(Prompt::Text("é".repeat(1_025).into())));
        assert!(!declined(Prompt::Text("é".repeat(1_024).into())));
        let unreachable = TaskRecord { threshold: score(1.5), ..task(Prompt::Text("x".into())) };
        assert!(matches!(
            TaskState::new(&unreachable, text_only, &settings()),
            TaskState::Answering { answer: Answer::Empty(_), .. }
        ));
    }

    #[test]
    fn failures_end_in_an_empty_answer_never_in_silence() {
        let event = |retryable| Event::Failed { reason: "x".into(), retryable };
        let mut state = TaskState::Open(Tries::default());
        for before in 1..=3 {
            state = step(state, event(true));
            assert!(matches!(&state, TaskState::Open(tries) if tries.failed == before));
        }
        assert!(matches!(step(state, event(true)), TaskState::Answering { answer: Answer::Empty(_), .. }));
        let hopeless = step(TaskState::Open(Tries::default()), event(false));
        assert!(matches!(hopeless, TaskState::Answering { answer: Answer::Empty(_), .. }));
    }

    #[test]
    fn an_unsettled_answer_keeps_its_bytes_and_waits_out_the_lock() {
        let answer = Answer::Result(kept(None));
        for meaning in [ReplyMeaning::StillOpen(feedback()), ReplyMeaning::Unknown("timeout".into())] {
            let TaskState::Answering { answer: Answer::Result(_), tries: 1, not_before, .. } =
                replied(answer.clone(), 0, meaning)
            else {
                panic!("the bytes are kept")
            };
            assert_eq!(not_before, NOW + Duration::from_secs(31));
        }
        let TaskState::Answering { not_before, .. } = replied(answer, 9, ReplyMeaning::Unregistered) else {
            panic!("the bytes are kept")
        };
        assert_eq!(not_before, NOW + Duration::from_secs(600));
    }

    #[test]
    fn no_task_assigned_after_a_doubtful_try_settles_and_at_once_is_a_loss() {
        let ended = |answer, tries| match replied(answer, tries, ReplyMeaning::NoTask) {
            TaskState::Ended { outcome, .. } => outcome,
            state => panic!("{state:?}"),
        };
        assert_eq!(ended(Answer::Result(kept(None)), 1), Outcome::Settled);
        assert_eq!(ended(Answer::Result(kept(None)), 0), Outcome::Lost);
        assert_eq!(ended(Answer::Empty("x".into()), 1), Outcome::Empty);
    }

    #[test]
    fn an_answer_that_met_a_lock_was_not_booked() {
        let answer = || Answer::Result(kept(None));
        let then = |first: ReplyMeaning| {
            let state = super::replied(replied(answer(), 0, first), &ReplyMeaning::NoTask, NOW, &settings());
            let TaskState::Ended { outcome, .. } = state else { panic!("{state:?}") };
            outcome
        };
        assert_eq!(then(ReplyMeaning::StillOpen(feedback())), Outcome::Lost);
        assert_eq!(then(ReplyMeaning::Unknown("timeout".into())), Outcome::Settled);
        // Registered anew, the hotkey has no task; nobody else took it.
        assert_eq!(then(ReplyMeaning::Unregistered), Outcome::Settled);
        // What was in doubt once stays so.
        let state = replied(answer(), 0, ReplyMeaning::Unknown("timeout".into()));
        let state = super::replied(state, &ReplyMeaning::StillOpen(feedback()), NOW, &settings());
        let TaskState::Answering { in_doubt: true, .. } = state else { panic!("{state:?}") };
    }

    #[test]
    fn a_restart_goes_on_where_the_journal_stopped() {
        let makes = |_: &Prompt| true;
        let resume = |stage, result: Option<KeptResult>, answer| {
            let open = OpenTask { task: task(Prompt::Text("x".into())), stage, result, answer };
            TaskState::resumed(open, makes, &settings())
        };
        assert!(matches!(resume(Stage::Generating, None, None), TaskState::Open(Tries { failed: 0, .. })));
        let low = kept(Some(Verdict::Scored(score(0.3))));
        assert!(matches!(resume(Stage::Scored, Some(low), None), TaskState::Open(Tries { failed: 1, .. })));
        assert!(matches!(resume(Stage::Kept, Some(kept(None)), None), TaskState::Made { .. }));
        let scored = kept(Some(Verdict::Scored(score(0.9))));
        let TaskState::Answering { tries: 0, .. } = resume(Stage::Scored, Some(scored.clone()), None) else {
            panic!("it is submitted")
        };
        let intended = Some((Answer::Result(scored.clone()), NOW));
        let TaskState::Answering { tries: 1, not_before, .. } =
            resume(Stage::Intended, Some(scored), intended)
        else {
            panic!("it is submitted again")
        };
        assert_eq!(not_before, NOW + Duration::from_secs(31));
    }
}
