use super::*;
use crate::dendrite::Dendrite;

fn short() -> Scenario {
    Scenario { warm_up: HOUR, time: HOUR * 5, ..Scenario::default() }
}

fn run(scenario: &Scenario, party: Party) -> Report {
    simulate(scenario, party, &Options::default(), |_| ()).unwrap()
}

/// A scenario's stage with somebody else on it, under a paused clock.
async fn watched<F>(scenario: &Scenario, play: impl FnOnce(&Stage, CancellationToken) -> F) -> Report
where
    F: Future<Output = Result<Option<AgentTally>, SimError>>,
{
    let stage = Stage::set(scenario).unwrap();
    let end = CancellationToken::new();
    let play = play(&stage, end.clone());
    let stop = CancellationToken::new();
    watch(&stage, Party::Agent, play, &end, &stop, &mut |_| ()).await.unwrap()
}

#[test]
fn e_and_the_period_are_those_of_the_rules() {
    // R9: b 40 s, e 44.75 s, so 314 to 315 s from pull to pull: int() of the end of the cooldown.
    let scenario = Scenario { validators: 1, time: HOUR * 35, ..short() };
    let report = run(&scenario, Party::Reference(Policy::BLOCKING));
    let period = 3_600.0 / report.accepted_per_h;
    assert!((313.5..=315.5).contains(&period), "{period}");
    assert!(report.is_clean(), "{report:?}");
}

#[test]
fn the_references_are_limited_as_the_rules_say() {
    let scenario = Scenario { validators: 12, ..short() };
    for (policy, tasks) in [
        (Policy::OFFICIAL, 80.0),
        (Policy::BLOCKING, 80.0),
        (Policy::STRICT, 80.0),
        (Policy::GATE_OR_EMPTY, 88.9),
        (Policy::THREE_RETRIES, 88.9),
        (Policy::SUBMIT_ALL, 118.0),
    ] {
        let report = run(&scenario, Party::Reference(policy));
        let off = report.accepted_per_h / tasks - 1.0;
        assert!(off.abs() < 0.01, "{}: {} for {tasks}", policy.name, report.accepted_per_h);
        assert!(report.is_clean(), "{report:?}");
    }
    // Where both fit, only the strict one moves anything.
    let fitting = Scenario { handoff: Handoff::Off, ..scenario };
    let rate = |policy| run(&fitting, Party::Reference(policy)).accepted_per_h;
    assert!((rate(Policy::STRICT) - 80.0).abs() < 0.5);
    assert!((rate(Policy::BLOCKING) - 90.0).abs() < 0.5);
}

#[test]
fn the_same_seed_gives_the_same_course() {
    let scenario = Scenario { pass: 0.7, validators: 3, time: HOUR, ..short() };
    for party in [Party::Agent, Party::Reference(Policy::ONE_RETRY)] {
        let [first, again] = [(); 2].map(|()| {
            let report = run(&scenario, party);
            Report { wall_s: 0.0, peak_rss_mib: None, ..report }
        });
        assert_eq!(first, again);
        let other = run(&Scenario { seed: 2, ..scenario.clone() }, party);
        assert_ne!(first.events, other.events);
    }
}

#[test]
fn a_pull_before_its_time_is_seen() {
    // This policy takes the validator's clock for its own, which is ten seconds ahead of it.
    let scenario = Scenario { clocks_ahead: vec![-10_000_000_000], validators: 2, ..short() };
    let report = run(&scenario, Party::Reference(Policy::BLOCKING));
    assert!(report.events.violations > 0 && !report.is_clean(), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_nobody_answers_is_seen() {
    let scenario = Scenario { validators: 1, ..short() };
    let report = watched(&scenario, |stage, end| {
        let stage = (stage.hotkeys[0].clone(), stage.clock, stage.transports.clone(), stage.validators[0]);
        async move {
            let (hotkey, clock, transports, axon) = stage;
            let settings = agent::settings(&short(), tempfile::tempdir().unwrap().path())?.dendrite;
            let dendrite = Dendrite::new(hotkey, clock, settings, transports.pulls, transports.submissions);
            assert!(dendrite.pull(&axon).await.unwrap().reply.task.is_some());
            end.cancelled().await;
            Ok(None)
        }
    })
    .await;
    assert_eq!((report.events.pulled, report.events.open), (1, 1));
    assert!(!report.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_party_that_hangs_or_leaves_does_not_hold_the_simulation() {
    let report = watched(&short(), |_, _| std::future::pending()).await;
    assert_eq!((report.counted_h, report.longest_idle_s), (5.0, 6.0 * 3_600.0));

    let stage = Stage::set(&short()).unwrap();
    let (end, stop) = (CancellationToken::new(), CancellationToken::new());
    let gone = async { Ok(None) };
    let error = watch(&stage, Party::Agent, gone, &end, &stop, &mut |_| ()).await.unwrap_err();
    assert!(matches!(error, SimError::Ended { .. }), "{error}");
}

#[test]
fn an_interruption_reports_what_is_known() {
    let options = Options::default();
    let scenario = Scenario { validators: 2, time: HOUR * 10_000, ..short() };
    let mut hours = Vec::new();
    let party = Party::Reference(Policy::BLOCKING);
    let report = simulate(&scenario, party, &options, |progress| {
        hours.push(progress.hours);
        if progress.hours == 3 {
            options.stop.cancel();
        }
    });
    let report = report.unwrap();
    assert_eq!(hours, [1, 2, 3]);
    assert!(report.interrupted && report.is_clean(), "{report:?}");
    assert!((report.counted_h - 2.0).abs() < 0.01 && report.accepted_per_h > 20.0);
}

#[test]
fn the_temporary_directory_is_removed() {
    let place = tempfile::tempdir().unwrap();
    let options = Options { scratch: Some(place.path().to_owned()), ..Options::default() };
    let scenario = Scenario { validators: 1, time: HOUR, ..short() };
    simulate(&scenario, Party::Agent, &options, |_| {
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
    })
    .unwrap();
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
}
