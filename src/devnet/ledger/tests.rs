use super::*;

const START: u64 = 1_763_600_000;

fn at(secs: f64) -> UnixTime {
    UnixTime::from_nanos(START * 1_000_000_000 + (secs * 1e9).round() as u64)
}

fn hotkey(n: u8) -> Hotkey {
    Hotkey::from_bytes([n; 32])
}

fn task(name: &str) -> DevTask {
    DevTask { id: TaskId::new(name).unwrap(), prompt: Prompt::Text("a red cube".into()) }
}

/// One validator and one registered miner.
struct Situation {
    ledger: ValidatorLedger,
    miner: Hotkey,
}

impl Situation {
    fn new() -> Self {
        Self::under(ValidatorRules::default())
    }

    fn under(rules: ValidatorRules) -> Self {
        let mut ledger = ValidatorLedger::new(rules);
        ledger.register(Uid(3), hotkey(1));
        Self { ledger, miner: hotkey(1) }
    }

    fn pull(&mut self, when: f64, name: &str) -> PullAnswer {
        self.ledger.pull(&self.miner, at(when), || task(name))
    }

    fn assigned(mut self, when: f64, name: &str) -> Self {
        assert!(matches!(self.pull(when, name), PullAnswer::Task { repeated: false, .. }));
        self
    }

    fn send(&mut self, when: f64, name: &str, empty: bool, check: SignatureCheck) -> SubmissionStart {
        self.ledger.begin_submission(&self.miner, at(when), name, empty, |_| check)
    }

    fn result(&mut self, when: f64, name: &str) -> Scoring {
        match self.send(when, name, false, SignatureCheck::Valid) {
            SubmissionStart::Scoring(scoring) => scoring,
            other => panic!("not scored: {other:?}"),
        }
    }

    fn settled(&mut self, when: f64, name: &str, empty: bool, check: SignatureCheck) -> SubmitAnswer {
        match self.send(when, name, empty, check) {
            SubmissionStart::Answered(answer) => answer,
            other => panic!("not settled: {other:?}"),
        }
    }

    fn scored(&mut self, sent: f64, done: f64, name: &str, verdict: Verdict) -> SubmitAnswer {
        let scoring = self.result(sent, name);
        self.ledger.finish_submission(scoring, at(done), verdict)
    }

    fn count(&self, name: &str) -> u64 {
        self.ledger.chronicle().count(name)
    }

    fn is_open(&self) -> bool {
        self.ledger.open_task(&self.miner).is_some()
    }
}

/// Seconds from the start to the end of the cooldown.
fn until(answer: &SubmitAnswer) -> i64 {
    assert_eq!(answer.cooldown_until.as_nanos() % 1_000_000_000, 0, "whole seconds");
    answer.cooldown_until.as_secs() as i64 - START as i64
}

#[test]
fn the_cooldown_follows_the_table_of_r2() {
    // e, end of the cooldown after an accepted or empty answer, after a low score or bad signature.
    let table = [
        (0.0, 300, 900),
        (1.0, 300, 900),
        (30.0, 300, 900),
        (31.0, 301, 901),
        (40.0, 310, 910),
        (44.0, 314, 914),
        (44.75, 314, 914),
        (60.0, 330, 930),
        (120.0, 390, 990),
        (3_600.0, 3_870, 4_470),
    ];
    for (e, good, bad) in table {
        let sent = f64::max(0.0, e - 4.0);
        let accepted = Situation::new().assigned(0.0, "t").scored(sent, e, "t", Verdict::Scored(0.8));
        assert_eq!(until(&accepted), good, "accepted, e = {e}");
        let low = Situation::new().assigned(0.0, "t").scored(sent, e, "t", Verdict::Scored(0.59));
        assert_eq!(until(&low), bad, "low, e = {e}");
        let failed = Situation::new().assigned(0.0, "t").scored(sent, e, "t", Verdict::Failed);
        assert_eq!(until(&failed), good, "scorer failed, e = {e}");
        let empty = Situation::new().assigned(0.0, "t").settled(e, "t", true, SignatureCheck::Valid);
        assert_eq!(until(&empty), good, "empty, e = {e}");
        let unsigned = Situation::new().assigned(0.0, "t").settled(e, "t", false, SignatureCheck::Wrong);
        assert_eq!(until(&unsigned), bad, "bad signature, e = {e}");
    }
}

#[test]
fn the_end_of_the_cooldown_is_cut_to_whole_seconds_once() {
    let answer = Situation::new().assigned(0.9, "t").scored(40.0, 45.95, "t", Verdict::Scored(0.8));
    assert_eq!(until(&answer), 315);
    let answer = Situation::new().assigned(0.9, "t").scored(1.0, 2.0, "t", Verdict::Scored(0.8));
    assert_eq!(until(&answer), 300);
}

#[test]
fn the_short_rules_scale_the_same_formula() {
    let mut fast = Situation::under(ValidatorRules::fast()).assigned(0.0, "t");
    assert_eq!(until(&fast.scored(1.0, 2.0, "t", Verdict::Scored(0.8))), 15);
    let mut fast = Situation::under(ValidatorRules::fast()).assigned(0.0, "t");
    assert_eq!(until(&fast.scored(9.0, 10.0, "t", Verdict::Scored(0.1))), 52);
}

#[test]
fn an_accepted_result_is_credited_and_the_task_closed() {
    let mut s = Situation::new().assigned(0.0, "t");
    let answer = s.scored(40.0, 44.0, "t", Verdict::Scored(0.8));
    let feedback = answer.feedback;
    assert_eq!(feedback.task_fidelity_score, 0.8);
    assert!((feedback.average_fidelity_score - 0.99).abs() < 1e-12);
    assert_eq!(feedback.generations_within_the_window, 1);
    assert_eq!(feedback.current_duel_rating, 1_500.0);
    assert_eq!(feedback.current_miner_reward, 1_500.0);
    assert!(!feedback.validation_failed && !s.is_open());
    assert_eq!((s.count("accepted"), s.ledger.chronicle().forbidden()), (1, 0));
}

#[test]
fn a_score_above_one_is_credited_as_one() {
    let mut s = Situation::new().assigned(0.0, "t");
    let feedback = s.scored(40.0, 44.0, "t", Verdict::Scored(1.03)).feedback;
    assert_eq!((feedback.task_fidelity_score, feedback.average_fidelity_score), (1.0, 1.0));
}

#[test]
fn exactly_the_threshold_passes() {
    let mut s = Situation::new().assigned(0.0, "t");
    assert_eq!(s.scored(40.0, 44.0, "t", Verdict::Scored(0.6)).feedback.task_fidelity_score, 0.6);
}

#[test]
fn a_low_score_is_reported_as_zero_and_moves_no_average() {
    for score in [0.599, 0.0, -1.0, f64::NAN] {
        let mut s = Situation::new().assigned(0.0, "t");
        let answer = s.scored(40.0, 44.0, "t", Verdict::Scored(score));
        assert_eq!(answer.feedback.task_fidelity_score, 0.0);
        assert_eq!(answer.feedback.average_fidelity_score, 1.0);
        assert_eq!(answer.feedback.generations_within_the_window, 0);
        assert_eq!(until(&answer), 914);
        assert!(!s.is_open());
        assert_eq!(s.count("low"), 1);
    }
}

#[test]
fn a_failed_scorer_costs_no_penalty_and_credits_nothing() {
    let mut s = Situation::new().assigned(0.0, "t");
    let answer = s.scored(40.0, 44.0, "t", Verdict::Failed);
    assert!(answer.feedback.validation_failed);
    assert_eq!((until(&answer), answer.feedback.generations_within_the_window), (314, 0));
    assert!(!s.is_open());
}

#[test]
fn an_empty_answer_closes_the_task_without_scoring() {
    let mut s = Situation::new().assigned(0.0, "t");
    let answer = s.settled(44.0, "t", true, SignatureCheck::Valid);
    assert_eq!((until(&answer), answer.feedback.task_fidelity_score), (314, 0.0));
    assert!(!answer.feedback.validation_failed && !s.is_open());
    assert_eq!((s.count("empty"), s.count("scoring_begun")), (1, 0));
}

#[test]
fn an_empty_answer_is_not_held_up_by_the_lock() {
    let mut s = Situation::new().assigned(0.0, "t");
    let _scoring = s.result(10.0, "t");
    s.settled(11.0, "t", true, SignatureCheck::Valid);
    assert!(!s.is_open());
}

#[test]
fn a_wrong_signature_is_punished_like_a_low_score() {
    let mut s = Situation::new().assigned(0.0, "t");
    let answer = s.settled(44.0, "t", false, SignatureCheck::Wrong);
    assert_eq!((until(&answer), answer.feedback.task_fidelity_score), (914, 0.0));
    assert!(!s.is_open());
    assert_eq!((s.count("bad_signature"), s.ledger.chronicle().forbidden()), (1, 1));
}

#[test]
fn a_malformed_signature_breaks_the_handler_and_changes_nothing() {
    let mut s = Situation::new().assigned(0.0, "t");
    assert!(matches!(s.send(44.0, "t", false, SignatureCheck::Malformed), SubmissionStart::Broken));
    assert!(s.is_open());
    assert!(matches!(s.pull(45.0, "u"), PullAnswer::Task { repeated: true, .. }));
    assert_eq!(until(&s.scored(46.0, 50.0, "t", Verdict::Scored(0.8))), 320);
}

#[test]
fn another_task_id_is_answered_with_feedback_and_changes_nothing() {
    let mut s = Situation::new().assigned(0.0, "t");
    let answer = match s.ledger.begin_submission(&hotkey(1), at(44.0), "other", false, |_| {
        panic!("the signature of another task is not checked")
    }) {
        SubmissionStart::Answered(answer) => answer,
        other => panic!("{other:?}"),
    };
    assert_eq!((answer.cooldown_until, answer.feedback.task_fidelity_score), (UnixTime::EPOCH, 0.0));
    assert!(s.is_open());
    assert_eq!(s.count("wrong_task"), 1);
}

#[test]
fn a_second_result_within_the_lock_changes_nothing() {
    let mut s = Situation::new().assigned(0.0, "t");
    let first = s.result(40.5, "t");
    let answer = s.settled(69.9, "t", false, SignatureCheck::Valid);
    assert_eq!(answer.cooldown_until, UnixTime::EPOCH);
    assert!(s.is_open());
    assert_eq!(s.count("locked"), 1);
    // The lock counts from the whole second of the first arrival.
    let second = s.result(70.0, "t");
    s.ledger.finish_submission(first, at(75.0), Verdict::Scored(0.8));
    s.ledger.finish_submission(second, at(80.0), Verdict::Scored(0.8));
}

#[test]
fn the_double_guard_credits_a_result_once() {
    let mut s = Situation::new().assigned(0.0, "t");
    let first = s.result(40.0, "t");
    let second = s.result(71.0, "t");
    let credited = s.ledger.finish_submission(first, at(72.0), Verdict::Scored(0.8));
    let guarded = s.ledger.finish_submission(second, at(80.0), Verdict::Scored(0.8));
    assert_eq!(guarded.feedback.generations_within_the_window, 1);
    assert_eq!(guarded.feedback.task_fidelity_score, 0.0);
    assert_eq!(guarded.cooldown_until, credited.cooldown_until, "no counter moves");
    assert_eq!((s.count("double_guard"), s.count("booked_again")), (1, 0));
}

#[test]
fn the_double_guard_leaves_a_low_second_score_unpunished() {
    let mut s = Situation::new().assigned(0.0, "t");
    let first = s.result(40.0, "t");
    let second = s.result(71.0, "t");
    let credited = s.ledger.finish_submission(first, at(72.0), Verdict::Scored(0.8));
    let guarded = s.ledger.finish_submission(second, at(80.0), Verdict::Scored(0.1));
    assert_eq!(guarded.cooldown_until, credited.cooldown_until);
}

#[test]
fn the_double_guard_ends_with_the_shortest_honest_period() {
    let mut s = Situation::new().assigned(0.0, "t");
    s.scored(40.0, 44.7, "t", Verdict::Scored(0.8));
    let mut s = s.assigned(314.0, "u");
    assert_eq!(s.scored(314.0, 314.0, "u", Verdict::Scored(0.8)).feedback.generations_within_the_window, 2);
    assert_eq!(s.count("double_guard"), 0);
}

#[test]
fn the_task_stays_open_behind_the_double_guard() {
    // Only a cooldown that was shortened lets a second task come this early.
    let rules = ValidatorRules { cooldown: Duration::from_secs(10), ..ValidatorRules::fast() };
    let mut s = Situation::under(rules).assigned(0.0, "t");
    s.scored(1.0, 9.9, "t", Verdict::Scored(0.8));
    let mut s = s.assigned(16.0, "u");
    assert_eq!(s.scored(16.0, 16.5, "u", Verdict::Scored(0.8)).feedback.generations_within_the_window, 2);
    s.ledger.lose_task(&hotkey(1));
    s.ledger.rules.cooldown = Duration::from_secs(100);
    s.ledger.miners.get_mut(&Uid(3)).unwrap().cooldown_until = UnixTime::EPOCH;
    let mut s = s.assigned(20.0, "v");
    let guarded = s.scored(20.0, 21.0, "v", Verdict::Scored(0.8));
    assert_eq!(guarded.feedback.generations_within_the_window, 2);
    assert!(s.is_open());
}

#[test]
fn a_second_scoring_of_a_bad_result_resets_the_cooldown_again() {
    let mut s = Situation::new().assigned(0.0, "t");
    let first = s.result(40.0, "t");
    let second = s.result(71.0, "t");
    assert_eq!(until(&s.ledger.finish_submission(first, at(72.0), Verdict::Scored(0.1))), 942);
    // No assignment time is known any more: now + C + P.
    assert_eq!(until(&s.ledger.finish_submission(second, at(80.9), Verdict::Scored(0.1))), 980);
    assert_eq!(s.count("booked_again"), 1);
}

#[test]
fn a_result_that_was_declined_while_it_was_scored_is_booked_twice() {
    let mut s = Situation::new().assigned(0.0, "t");
    let scoring = s.result(40.0, "t");
    s.settled(41.0, "t", true, SignatureCheck::Valid);
    let answer = s.ledger.finish_submission(scoring, at(44.0), Verdict::Scored(0.8));
    assert_eq!((until(&answer), answer.feedback.generations_within_the_window), (344, 1));
    assert_eq!(s.count("booked_again"), 1);
}

#[test]
fn a_submission_without_a_task_is_refused_before_the_handler() {
    let mut s = Situation::new();
    let start = s.send(1.0, "t", false, SignatureCheck::Valid);
    let SubmissionStart::Refused(refusal) = start else { panic!("{start:?}") };
    assert_eq!(refusal, Refusal::NoTaskAssigned { uid: Uid(3) });
    assert!(refusal.to_string().contains("no task assigned"));
    assert_eq!(s.ledger.admit_submission(&hotkey(1), at(2.0)), Err(refusal));
    assert_eq!(s.count("submission_refused"), 2);
}

#[test]
fn a_booked_task_cannot_be_submitted_again() {
    let mut s = Situation::new().assigned(0.0, "t");
    s.scored(40.0, 44.0, "t", Verdict::Scored(0.8));
    let start = s.send(75.0, "t", false, SignatureCheck::Valid);
    assert!(matches!(start, SubmissionStart::Refused(Refusal::NoTaskAssigned { .. })));
}

#[test]
fn a_validator_that_lost_its_state_says_no_task_assigned() {
    let mut s = Situation::new().assigned(0.0, "t");
    s.ledger.lose_task(&hotkey(1));
    let start = s.send(40.0, "t", false, SignatureCheck::Valid);
    assert!(matches!(start, SubmissionStart::Refused(Refusal::NoTaskAssigned { .. })));
}

#[test]
fn an_unregistered_hotkey_waits_an_hour_and_is_not_stored() {
    let mut s = Situation::new();
    s.miner = hotkey(9);
    let answer = s.pull(10.7, "t");
    assert_eq!(answer, PullAnswer::Unregistered { cooldown_until: at(3_610.0) });
    assert_eq!(s.pull(11.2, "t"), PullAnswer::Unregistered { cooldown_until: at(3_611.0) });
    let start = s.send(12.0, "t", false, SignatureCheck::Valid);
    let SubmissionStart::Refused(refusal) = start else { panic!("{start:?}") };
    assert_eq!(refusal, Refusal::UnknownHotkey { hotkey: hotkey(9) });
    assert!(refusal.to_string().starts_with("Unrecognized hotkey 5"));
    // Registering clears the hour.
    s.ledger.register(Uid(4), hotkey(9));
    assert!(matches!(s.pull(13.0, "t"), PullAnswer::Task { .. }));
}

#[test]
fn a_deregistered_hotkey_is_unknown_from_then_on() {
    let mut s = Situation::new().assigned(0.0, "t");
    s.ledger.deregister(&hotkey(1));
    assert!(matches!(s.pull(1.0, "u"), PullAnswer::Unregistered { .. }));
    let start = s.send(2.0, "t", false, SignatureCheck::Valid);
    assert!(matches!(start, SubmissionStart::Refused(Refusal::UnknownHotkey { .. })));
}

#[test]
fn a_new_owner_of_a_uid_inherits_the_open_task_and_nothing_else() {
    let mut s = Situation::new().assigned(0.0, "t");
    s.scored(40.0, 44.0, "t", Verdict::Scored(0.8));
    let mut s = s.assigned(314.0, "u");
    s.ledger.register(Uid(3), hotkey(2));
    assert!(matches!(s.pull(315.0, "v"), PullAnswer::Unregistered { .. }));
    s.miner = hotkey(2);
    let PullAnswer::Task { task: open, repeated: true, .. } = s.pull(316.0, "v") else { panic!() };
    assert_eq!(open.id.as_str(), "u");
    assert_eq!(s.scored(320.0, 324.0, "u", Verdict::Scored(0.8)).feedback.generations_within_the_window, 1);
}

#[test]
fn a_pull_gives_the_threshold_and_the_throttle() {
    let mut s = Situation::new();
    let PullAnswer::Task { task: given, repeated, validation_threshold, throttle_period } = s.pull(0.0, "t")
    else {
        panic!()
    };
    assert_eq!((given, repeated), (task("t"), false));
    assert_eq!((validation_threshold, throttle_period), (0.6, Duration::from_secs(30)));
}

#[test]
fn an_assigned_task_comes_again_without_a_violation_and_without_a_new_clock() {
    let mut s = Situation::new().assigned(0.0, "t");
    for when in [1.0, 2.0, 35.0] {
        let PullAnswer::Task { task: given, repeated: true, .. } = s.pull(when, "u") else { panic!() };
        assert_eq!(given.id.as_str(), "t");
    }
    assert_eq!((s.count("violation"), s.count("repeated"), s.count("assigned")), (0, 3, 1));
    assert_eq!(until(&s.scored(40.0, 44.0, "t", Verdict::Scored(0.8))), 314);
}

#[test]
fn an_early_pull_is_a_violation_and_the_first_second_after_is_none() {
    let mut s = Situation::new().assigned(0.0, "t");
    s.scored(40.0, 44.0, "t", Verdict::Scored(0.8));
    let early = s.pull(313.999, "u");
    assert_eq!(early, PullAnswer::Cooling { cooldown_until: at(314.0), cooldown_violations: 1 });
    assert!(matches!(s.pull(314.0, "u"), PullAnswer::Task { repeated: false, .. }));
    let event = s.ledger.chronicle().latest().find(|e| e.kind.is_forbidden()).unwrap();
    assert_eq!(event.kind, LedgerEventKind::Violation { early_by: Duration::from_millis(1) });
}

#[test]
fn the_hundred_and_first_violation_costs_ten_seconds_and_so_does_each_later_one() {
    let mut s = Situation::new().assigned(0.0, "t");
    s.scored(40.0, 44.0, "t", Verdict::Scored(0.8));
    for n in 1..=100 {
        let answer = s.pull(45.0, "u");
        assert_eq!(answer, PullAnswer::Cooling { cooldown_until: at(314.0), cooldown_violations: n });
    }
    for n in 101..=103_u32 {
        let cooldown_until = at(314.0 + 10.0 * f64::from(n - 100));
        assert_eq!(s.pull(45.0, "u"), PullAnswer::Cooling { cooldown_until, cooldown_violations: n });
    }
    assert_eq!(s.count("violation"), 103);
}

#[test]
fn each_signed_submission_of_the_right_task_forgives_one_violation() {
    let mut s = Situation::new().assigned(0.0, "t");
    s.scored(40.0, 44.0, "t", Verdict::Scored(0.8));
    for _ in 0..5 {
        s.pull(45.0, "u");
    }
    let mut s = s.assigned(314.0, "u");
    let left = |s: &Situation| s.ledger.miners[&Uid(3)].violations;
    s.settled(315.0, "other", false, SignatureCheck::Valid);
    assert_eq!(left(&s), 5, "another task");
    s.send(316.0, "u", false, SignatureCheck::Malformed);
    assert_eq!(left(&s), 5, "malformed");
    let scoring = s.result(317.0, "u");
    assert_eq!(left(&s), 4, "scored");
    s.settled(318.0, "u", false, SignatureCheck::Valid);
    assert_eq!(left(&s), 3, "locked");
    s.settled(319.0, "u", true, SignatureCheck::Valid);
    assert_eq!(left(&s), 2, "empty");
    s.ledger.finish_submission(scoring, at(320.0), Verdict::Scored(0.8));
    assert_eq!(left(&s), 2, "the verdict itself forgives nothing");
}

#[test]
fn violations_never_fall_below_zero_and_a_wrong_signature_forgives_none() {
    let mut s = Situation::new().assigned(0.0, "t");
    s.settled(1.0, "t", true, SignatureCheck::Valid);
    assert_eq!(s.ledger.miners[&Uid(3)].violations, 0);
    s.pull(2.0, "u");
    let mut s = s.assigned(300.0, "u");
    s.settled(301.0, "u", false, SignatureCheck::Wrong);
    assert_eq!(s.ledger.miners[&Uid(3)].violations, 1);
}

#[test]
fn an_observation_counts_for_four_hours() {
    let mut s = Situation::new().assigned(0.0, "t");
    s.scored(40.0, 44.0, "t", Verdict::Scored(0.8));
    let mut s = s.assigned(14_000.0, "u");
    let just_inside = s.settled(14_444.9, "other", false, SignatureCheck::Valid);
    assert_eq!(just_inside.feedback.generations_within_the_window, 1);
    let outside = s.settled(14_445.0, "other", false, SignatureCheck::Valid);
    assert_eq!(outside.feedback.generations_within_the_window, 0);
    assert_eq!(outside.feedback.current_miner_reward, 0.0);
}

#[test]
fn the_reward_is_count_times_rating() {
    let mut s = Situation::new();
    s.ledger.set_rating(&hotkey(1), 1_600.5);
    for turn in 0..3 {
        let now = f64::from(turn) * 400.0;
        let name = format!("t{turn}");
        s = s.assigned(now, &name);
        let feedback = s.scored(now + 40.0, now + 44.0, &name, Verdict::Scored(0.7)).feedback;
        assert_eq!(feedback.current_duel_rating, 1_600.5);
        assert_eq!(feedback.current_miner_reward, f64::from(turn + 1) * 1_600.5);
    }
}

#[test]
fn the_average_moves_by_a_twentieth() {
    let mut s = Situation::new();
    let mut expected = 1.0;
    for turn in 0..10 {
        let now = f64::from(turn) * 400.0;
        let name = format!("t{turn}");
        s = s.assigned(now, &name);
        expected = expected * 0.95 + 0.7 * 0.05;
        let feedback = s.scored(now + 1.0, now + 2.0, &name, Verdict::Scored(0.7)).feedback;
        assert!((feedback.average_fidelity_score - expected).abs() < 1e-12);
    }
}

#[test]
fn the_signature_is_checked_over_the_prompt_of_the_open_task() {
    let mut s = Situation::new().assigned(0.0, "t");
    let mut seen = None;
    s.ledger.begin_submission(&hotkey(1), at(1.0), "t", true, |prompt| {
        seen = Some(prompt.clone());
        SignatureCheck::Valid
    });
    assert_eq!(seen, Some(Prompt::Text("a red cube".into())));
}

#[test]
fn two_miners_do_not_share_anything() {
    let mut s = Situation::new().assigned(0.0, "t");
    s.ledger.register(Uid(4), hotkey(2));
    s.settled(1.0, "t", true, SignatureCheck::Valid);
    s.miner = hotkey(2);
    assert!(matches!(s.pull(2.0, "u"), PullAnswer::Task { repeated: false, .. }));
}

#[test]
fn the_longest_unused_time_after_a_cooldown_is_known() {
    let s = Situation::new();
    let idle =
        |s: &Situation, now: f64| s.ledger.longest_idle(&hotkey(1), at(0.0), at(now)).unwrap().as_secs_f64();
    assert_eq!(idle(&s, 7.0), 7.0, "never asked");
    let mut s = s.assigned(50.0, "t");
    assert_eq!(idle(&s, 90.0), 0.0, "working, and before the first task nobody waited for an end");
    assert_eq!(until(&s.scored(90.0, 94.0, "t", Verdict::Scored(0.8))), 364);
    assert_eq!(idle(&s, 364.5), 0.5);
    let mut s = s.assigned(376.0, "u");
    s.settled(377.0, "u", true, SignatureCheck::Valid);
    assert_eq!(idle(&s, 680.0), 12.0);
    assert_eq!(idle(&s, 700.0), 24.0);
    assert_eq!(s.ledger.window_count(&hotkey(1), at(700.0)), Some(1));
    assert_eq!(s.ledger.window_count(&hotkey(1), at(20_000.0)), Some(0));
}

#[test]
fn a_chronicle_may_keep_nothing_and_count_all_the_same() {
    let mut ledger = ValidatorLedger::remembering(ValidatorRules::default(), 0);
    ledger.register(Uid(3), hotkey(1));
    ledger.pull(&hotkey(1), at(0.0), || task("t"));
    assert_eq!((ledger.chronicle().count("assigned"), ledger.chronicle().latest().count()), (1, 0));
}

#[test]
fn the_chronicle_counts_what_it_no_longer_keeps() {
    let mut s = Situation::new().assigned(0.0, "t");
    let pulls = Chronicle::KEPT as u64 + 10;
    for _ in 0..pulls {
        s.pull(1.0, "u");
    }
    assert_eq!(s.count("repeated"), pulls);
    assert_eq!(s.ledger.chronicle().latest().count(), Chronicle::KEPT);
    assert_eq!(s.ledger.chronicle().counts().map(|(_, n)| n).sum::<u64>(), pulls + 1);
}
