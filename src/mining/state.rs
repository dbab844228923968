//! The stages of one task, and which follows which.

use std::time::Duration;

use super::{Decision, ReplyMeaning, Settings, decide};
use crate::net::Backoff;
use crate::primitives::{Prompt, Score, UnixTime};
use crate::store::{Answer, KeptResult, OpenTask, Outcome, Stage, TaskRecord, Verdict};

/// Where a task stands, with what that stage has earned.
///
/// ```text
/// Open --kept--> Made --judged--> (decide) --submit--> Answering --settled--> Ended
///  ^  \                              |  \                 |   ^
///  |   `--failed for good---------------------empty------>'   | not settled
///  `---- failed, or judged too low --'                    `---'
/// ```
#[derive(Debug, Clone)]
pub enum TaskState {
    /// A candidate is to be made. `failed` have failed since this process took the task up.
    Open {
        failed: u32,
    },
    /// A result is kept and not judged.
    Made {
        failed: u32,
        result: KeptResult,
    },
    /// An answer is to be sent, not before `not_before` (our clock). `tries` have left so far.
    Answering {
        answer: Answer,
        tries: u32,
        not_before: UnixTime,
    },
    Ended {
        outcome: Outcome,
        reason: Option<String>,
    },
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
    Judged {
        result: KeptResult,
        verdict: Verdict,
    },
    /// The source answered a submission, or did not, at a time of our clock.
    Replied {
        meaning: ReplyMeaning,
        at: UnixTime,
    },
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
        match reason_to_decline(&task.prompt, can_make, settings) {
            Some(reason) => Self::answering(Answer::Empty(reason)),
            None => Self::Open { failed: 0 },
        }
    }

    /// The state of a task found on record, by what its journal holds (see the store's table).
    pub fn resumed(open: OpenTask, can_make: impl Fn(&Prompt) -> bool, settings: &Settings) -> Self {
        match (open.stage, open.result, open.answer) {
            (Stage::Intended | Stage::Sent, _, Some((answer, intended_at))) => {
                Self::Answering { answer, tries: 1, not_before: after_lock(intended_at, settings) }
            }
            (Stage::Scored, Some(result), _) => match result.verdict {
                Some(verdict) => judged(result, verdict, 0, open.task.threshold, settings),
                None => Self::Made { failed: 0, result },
            },
            (Stage::Kept, Some(result), _) => Self::Made { failed: 0, result },
            _ => Self::new(&open.task, can_make, settings),
        }
    }

    fn answering(answer: Answer) -> Self {
        Self::Answering { answer, tries: 0, not_before: UnixTime::EPOCH }
    }

    /// For display.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Open { .. } => "open",
            Self::Made { .. } => "made",
            Self::Answering { .. } => "answering",
            Self::Ended { .. } => "ended",
        }
    }

    pub fn step(&self) -> Step {
        match self {
            Self::Open { .. } => Step::Make,
            Self::Made { .. } => Step::Judge,
            Self::Answering { not_before, .. } => Step::Answer { not_before: *not_before },
            Self::Ended { .. } => Step::Nothing,
        }
    }
}

/// What cannot be answered with a result is declined before any GPU time is spent on it.
fn reason_to_decline(
    prompt: &Prompt,
    can_make: impl Fn(&Prompt) -> bool,
    settings: &Settings,
) -> Option<String> {
    if let Prompt::Text(text) = prompt {
        let chars = text.chars().count();
        if chars > settings.max_prompt_chars {
            return Some(format!("a prompt of {chars} characters cannot be scored"));
        }
    }
    (!can_make(prompt)).then(|| format!("no generator for {} tasks", prompt.kind()))
}

fn judged(
    result: KeptResult,
    verdict: Verdict,
    failed: u32,
    threshold: Score,
    settings: &Settings,
) -> TaskState {
    match decide(verdict, threshold, failed, settings) {
        Decision::Submit => TaskState::answering(Answer::Result(result)),
        Decision::TryAgain(_) => TaskState::Open { failed: failed + 1 },
        Decision::Empty(reason) => TaskState::answering(Answer::Empty(reason)),
    }
}

/// A second submission inside the validator's lock is ignored there (rules.md R4).
fn after_lock(sent: UnixTime, settings: &Settings) -> UnixTime {
    sent + settings.lock + Duration::from_secs(1)
}

/// The state after an event. Pure; an event that cannot happen in a state leaves it as it is.
pub fn advance(state: TaskState, event: Event, threshold: Score, settings: &Settings) -> TaskState {
    match (state, event) {
        (TaskState::Open { failed }, Event::Kept(result)) => TaskState::Made { failed, result },
        (TaskState::Open { failed }, Event::Failed { reason, retryable }) => {
            if retryable && failed < settings.max_retries {
                TaskState::Open { failed: failed + 1 }
            } else {
                TaskState::answering(Answer::Empty(reason))
            }
        }
        (TaskState::Made { failed, .. }, Event::Judged { result, verdict }) => {
            judged(result, verdict, failed, threshold, settings)
        }
        (TaskState::Answering { answer, tries, .. }, Event::Replied { meaning, at }) => {
            let tries = tries + 1;
            match meaning.outcome(&answer, tries) {
                Some(outcome) => {
                    let reason = match &answer {
                        Answer::Empty(reason) => Some(reason.clone()),
                        Answer::Result(_) => None,
                    };
                    TaskState::Ended { outcome, reason }
                }
                None => {
                    let wait = retry_wait(&meaning, tries);
                    TaskState::Answering {
                        answer,
                        tries,
                        not_before: after_lock(at, settings).max(at + wait),
                    }
                }
            }
        }
        (state, _) => state,
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
    use crate::mining::ScorerDown;
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
            max_retries: 1,
            scorer_down: ScorerDown::Empty,
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
        KeptResult { row: 1, attempt: 1, seed: Seed::new(1), spz, verdict }
    }

    fn score(value: f64) -> Score {
        Score::new(value).unwrap()
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
        advance(state, event, score(0.6), &settings())
    }

    fn judged_at(value: f64, failed: u32) -> TaskState {
        let result = kept(None);
        let state = TaskState::Made { failed, result: result.clone() };
        step(state, Event::Judged { result, verdict: Verdict::Scored(score(value)) })
    }

    fn replied(answer: Answer, tries: u32, meaning: ReplyMeaning) -> TaskState {
        let state = TaskState::Answering { answer, tries, not_before: UnixTime::EPOCH };
        step(state, Event::Replied { meaning, at: NOW })
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
    fn a_good_result_is_submitted_and_a_bad_one_tried_again_once() {
        assert!(matches!(
            judged_at(0.7, 0),
            TaskState::Answering { answer: Answer::Result(_), tries: 0, .. }
        ));
        assert!(matches!(judged_at(0.5, 0), TaskState::Open { failed: 1 }));
        assert!(matches!(judged_at(0.5, 1), TaskState::Answering { answer: Answer::Empty(_), .. }));
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
    }

    #[test]
    fn failures_end_in_an_empty_answer_never_in_silence() {
        let failed = |retryable| Event::Failed { reason: "x".into(), retryable };
        let once = step(TaskState::Open { failed: 0 }, failed(true));
        assert!(matches!(once, TaskState::Open { failed: 1 }));
        assert!(matches!(step(once, failed(true)), TaskState::Answering { answer: Answer::Empty(_), .. }));
        let hopeless = step(TaskState::Open { failed: 0 }, failed(false));
        assert!(matches!(hopeless, TaskState::Answering { answer: Answer::Empty(_), .. }));
    }

    #[test]
    fn an_unsettled_answer_keeps_its_bytes_and_waits_out_the_lock() {
        let answer = Answer::Result(kept(None));
        for meaning in [ReplyMeaning::StillOpen(feedback()), ReplyMeaning::Unknown("timeout".into())] {
            let TaskState::Answering { answer: Answer::Result(_), tries: 1, not_before } =
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
    fn a_restart_goes_on_where_the_journal_stopped() {
        let makes = |_: &Prompt| true;
        let resume = |stage, result: Option<KeptResult>, answer| {
            let open = OpenTask { task: task(Prompt::Text("x".into())), stage, result, answer };
            TaskState::resumed(open, makes, &settings())
        };
        assert!(matches!(resume(Stage::Generating, None, None), TaskState::Open { failed: 0 }));
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
