//! Two agents with one hotkey, which know nothing of each other: what each notices, and what it does.

#[path = "support/graded.rs"]
mod graded;
#[path = "support/hostile_world.rs"]
mod hostile_world;
#[path = "support/scene.rs"]
mod scene;

use std::path::Path;
use std::time::Duration;

use scene::{Plan, S, Scene, Site, scratch};
use sn17_miner::mining::Budget;
use tokio_util::sync::CancellationToken;

const ALARM: &str = "alarm=doppelganger";
const PAUSE: &str = "Nothing is pulled with this hotkey for an hour";

/// Four validators, and a card for either agent.
fn scene(paces: [Duration; 2], lines: &'static str) -> Scene {
    Scene::set(Plan { cards: paces.to_vec(), lines, ..Plan::validators(4) })
}

/// How long the two were pausing, seen each minute.
struct Course {
    minutes: u64,
    paused: [Vec<u64>; 2],
}

impl Course {
    fn pauses(&self) -> usize {
        let begins = |minutes: &[u64]| {
            minutes.iter().enumerate().filter(|(n, at)| *n == 0 || minutes[n - 1] + 1 != **at).count()
        };
        self.paused.iter().map(|minutes| begins(minutes)).sum()
    }
}

/// Both mine for a time, the second from `later` on.
async fn together(scene: &Scene, first: &Path, second: &Path, later: Duration, time: Duration) -> Course {
    let stop = CancellationToken::new();
    let apps = [scene.agent_in(first, 0..1).await, scene.agent_in(second, 1..2).await];
    let shown = apps.each_ref().map(|app| app.watch().0);
    let [a, b] = apps;
    let mut course = Course { minutes: 0, paused: [Vec::new(), Vec::new()] };
    let watch = async {
        while S(60 * course.minutes) < time {
            tokio::time::sleep(S(60)).await;
            course.minutes += 1;
            for (shown, paused) in shown.iter().zip(&mut course.paused) {
                let snapshot = shown.borrow().clone();
                if snapshot.is_some_and(|snapshot| snapshot.members[0].paused_until.is_some()) {
                    paused.push(course.minutes);
                }
            }
        }
        stop.cancel();
    };
    let b = async {
        tokio::time::sleep(later).await;
        b.run(Budget::Endless, stop.clone()).await
    };
    let (a, b, ()) = tokio::join!(a.run(Budget::Endless, stop.clone()), b, watch);
    a.unwrap();
    b.unwrap();
    course
}

#[tokio::test(start_paused = true)]
async fn a_second_agent_is_noticed_and_one_of_the_two_pauses() {
    // As fast as each other, and one twice as fast: the slower one finds its tasks answered, the
    // faster one its cooldowns longer than it was told.
    for (paces, later) in [([S(25), S(25)], S(0)), ([S(25), S(25)], S(90)), ([S(12), S(40)], S(30))] {
        let scene = scene(paces, "");
        let (first, second) = (scratch(), scratch());
        let course = together(&scene, first.path(), second.path(), later, S(3 * 3_600)).await;
        let alarms = scene.log.with(ALARM);
        assert!(alarms.len() >= 3, "{paces:?} {later:?}: {alarms:#?}");
        assert!(alarms[0].contains("Another process seems to use this hotkey"), "{alarms:#?}");
        // Within the first hour, and again after each pause as long as the other goes on.
        let pauses = scene.log.with(PAUSE).len();
        assert!((1..=4).contains(&pauses), "{pauses} pauses with {paces:?} {later:?}: {alarms:#?}");
        assert!(alarms.iter().take(16).any(|line| line.contains(PAUSE)), "{alarms:#?}");
        let paused = course.paused.iter().map(Vec::len).max().unwrap();
        assert!(paused >= 58, "{paused} minutes of {}", course.minutes);
        assert!(course.pauses() >= 1);
        // Between them the validators are served all the same.
        assert!(scene.count("accepted") >= 3 * 3 * 11, "{}", scene.count("accepted"));
    }
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_after_the_hour_when_the_other_is_gone() {
    let scene = scene([S(25), S(25)], "");
    let (first, second) = (scratch(), scratch());
    let stop = CancellationToken::new();
    let other = async {
        let app = scene.agent_in(first.path(), 0..1).await;
        app.run(Budget::Endless, stop.clone()).await.unwrap();
    };
    let ours = async {
        let app = scene.agent_in(second.path(), 1..2).await;
        let (shown, _) = app.watch();
        let end = CancellationToken::new();
        let watch = async {
            let paused = || shown.borrow().as_ref().is_some_and(|s| s.members[0].paused_until.is_some());
            while !paused() {
                tokio::time::sleep(S(1)).await;
            }
            let began = scene.clock.instant();
            stop.cancel();
            tokio::time::sleep(S(60)).await;
            let accepted = scene.count("accepted");
            while paused() {
                assert!(scene.count("accepted") <= accepted + 1, "it pauses");
                tokio::time::sleep(S(1)).await;
            }
            let pause = began.elapsed();
            assert!((S(3_595)..=S(3_635)).contains(&pause), "{pause:?}");
            tokio::time::sleep(S(1_800)).await;
            // Half an hour at four validators.
            assert!(scene.count("accepted") >= accepted + 4 * 5, "{}", scene.count("accepted") - accepted);
            end.cancel();
        };
        let (finish, ()) = tokio::join!(app.run(Budget::Endless, end.clone()), watch);
        finish.unwrap();
    };
    // The other is there first and stays a little ahead.
    tokio::join!(other, async {
        tokio::time::sleep(S(20)).await;
        ours.await;
    });
    scene.log.expect(1, PAUSE);
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_zero_tells_and_never_pauses() {
    let scene = scene([S(25), S(25)], "[mining]\ndoppelganger_limit = 0\n");
    let (first, second) = (scratch(), scratch());
    let course = together(&scene, first.path(), second.path(), S(10), S(2 * 3_600)).await;
    assert!(scene.log.with(ALARM).len() >= 6, "{:#?}", scene.log.with(ALARM));
    scene.log.expect(0, PAUSE);
    assert_eq!(course.paused, [Vec::<u64>::new(), Vec::new()]);
}

#[tokio::test(start_paused = true)]
async fn a_validator_that_loses_its_state_alarms_at_most() {
    // Again and again, and at any moment of the agent's work there.
    let scene = Scene::of(3);
    let app = scene.agent().await;
    let stop = CancellationToken::new();
    let (finish, ()) = tokio::join!(app.run(Budget::Endless, stop.clone()), async {
        for round in 0..30 {
            tokio::time::sleep(S(611 + 7 * round)).await;
            scene.forget(0);
        }
        stop.cancel();
    });
    finish.unwrap();
    let alarms = scene.log.with(ALARM);
    assert!(!alarms.is_empty(), "some task was forgotten");
    scene.log.expect(0, PAUSE);
    // The two that forget nothing are served throughout.
    let elapsed = scene.clock.now().saturating_since(scene::START);
    for validator in [1, 2] {
        let accepted = scene.count_at(validator, "accepted");
        assert!(u128::from(accepted) >= elapsed.as_secs() as u128 / 312, "{accepted} in {elapsed:?}");
    }
    assert_eq!(scene.crowd(Site::Validator(0)), 1);
}
