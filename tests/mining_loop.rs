//! What the loop must survive: jobs that break, cards and validators that are never heard of again,
//! answers that nobody settles, budgets in the midst of it. The real agent, in process and under a
//! paused clock; each of these once cost a lane, a card or the whole loop.

#[path = "support/graded.rs"]
mod graded;
#[path = "support/hostile_world.rs"]
mod hostile_world;
#[path = "support/scene.rs"]
mod scene;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use graded::{Grade, Grades};
use scene::{GENERATE, Lie, Makers, PULL, Plan, S, SCORE, SUBMIT, Scene, Site};
use serde_json::json;
use sn17_miner::app::bench;
use sn17_miner::config::{Inputs, load};
use sn17_miner::dendrite::Dendrite;
use sn17_miner::devnet::ledger::LedgerEventKind;
use sn17_miner::mining::{Budget, Finish, Member, Miner, Setup, TaskSource, ValidatorSource};
use sn17_miner::primitives::Prompt;
use sn17_miner::store::{Stats, Store, Tally};
use tokio_util::sync::CancellationToken;

const FINISHES: &str = "[shutdown]\ngrace = \"10m\"\n";

const BROKE: &str = "A job broke";

fn text(prompt: &str) -> Prompt {
    Prompt::Text(prompt.into())
}

async fn once(scene: &Scene) -> Finish {
    let run = scene.agent().await;
    let run = run.run(Budget::Once, CancellationToken::new());
    let Ok(finish) = tokio::time::timeout(S(3_600), run).await else {
        panic!("it waits for ever: {:#?}", scene.last_lines())
    };
    finish.unwrap()
}

fn never_settles(scene: &Scene, validator: usize) {
    scene.bend(Site::Validator(validator), |asked| (asked.path == SUBMIT).then(|| Lie::Say(500, Vec::new())));
}

#[tokio::test(start_paused = true)]
async fn a_budget_is_spent_to_the_task() {
    for (tasks, hotkeys, cards) in [(1, 3, 4), (5, 3, 4), (7, 1, 1), (12, 3, 1), (13, 3, 2)] {
        let lines = "[decide]\ncandidates = 1\n";
        let plan = Plan { hotkeys, cards: vec![S(25); cards], lines, ..Plan::validators(4) };
        let scene = Scene::set(plan);
        scene.mine(tasks).await;
        scene.assert_settled();
        assert_eq!(scene.count("assigned"), tasks);
    }
}

#[tokio::test(start_paused = true)]
async fn a_budget_does_not_wait_for_a_validator_that_never_settles() {
    let scene = Scene::of(2);
    never_settles(&scene, 0);
    scene.mine(6).await;
    assert_eq!((scene.count_at(1, "accepted"), scene.count_at(0, "assigned")), (6, 1));
    // Not even when that is all there is.
    let scene = Scene::of(1);
    never_settles(&scene, 0);
    assert_eq!(once(&scene).await, Finish::NothingDue);
    let scene = Scene::of(2);
    never_settles(&scene, 0);
    assert_eq!(once(&scene).await, Finish::Done);
    assert_eq!(scene.count_at(1, "accepted"), 1);
    // What was left open is seen to first, once the validator settles again.
    scene.straighten(Site::Validator(0));
    assert_eq!(once(&scene).await, Finish::Done);
    assert_eq!((scene.count_at(0, "accepted"), scene.open()), (1, 0));
}

/// A pull that breaks at once, each time, takes neither the loop nor its time.
#[tokio::test(start_paused = true)]
async fn a_pull_that_breaks_every_time_is_asked_now_and_then() {
    let scene = Scene::of(2);
    scene.bend(Site::Validator(0), |_| Some(Lie::Panic));
    scene.mine_for(S(3_600)).await;
    let broke = scene.log.with(BROKE).len();
    assert!((50..=360).contains(&broke), "{broke} times in an hour");
    assert!(scene.count_at(1, "accepted") >= 11, "{}", scene.count_at(1, "accepted"));
    scene.straighten(Site::Validator(0));
    scene.mine_for(S(600)).await;
    assert!(scene.count_at(0, "accepted") >= 1);
    scene.assert_lawful();
}

/// Wherever a job breaks, its task is taken up again and ends booked, once.
#[tokio::test(start_paused = true)]
async fn a_task_outlives_every_job_that_breaks() {
    for (site, path) in [
        (Site::Validator(0), PULL),
        (Site::Generator(0), "/health"),
        (Site::Generator(0), GENERATE),
        (Site::Scorer(0), SCORE),
        (Site::Validator(0), SUBMIT),
    ] {
        let scene = Scene::of(1);
        scene.bend(site, move |asked| (asked.path == path && asked.nth == 0).then_some(Lie::Panic));
        let took = scene.mine(2).await;
        scene.log.expect(1, BROKE);
        scene.assert_settled();
        assert_eq!((scene.count("assigned"), scene.count("accepted")), (2, 2), "{path}");
        assert!(took < S(420), "{took:?} after {path}");
    }
}

/// The look at a generator that is gone breaks, and the card is not forgotten.
#[tokio::test(start_paused = true)]
async fn a_card_comes_back_although_the_look_at_it_broke() {
    let scene = Scene::of(1);
    let generator = Site::Generator(0);
    scene.close(generator);
    scene.bend(generator, |asked| (asked.path == "/health" && asked.nth < 3).then_some(Lie::Panic));
    let (took, ()) = tokio::join!(scene.mine(1), async {
        tokio::time::sleep(S(60)).await;
        scene.reopen(generator);
    });
    scene.log.expect(3, BROKE);
    assert!(took < S(120), "{took:?}");
    scene.assert_settled();
}

/// One card of two breaks, the task is taken up anew and ends before the other card is done with it.
#[tokio::test(start_paused = true)]
async fn what_a_crew_makes_after_its_lane_began_anew_is_let_go() {
    let lines = "[decide]\ncandidates = 2\n";
    let scene = Scene::set(Plan { cards: vec![S(5), S(5)], lines, ..Plan::default() });
    scene.bend(Site::Generator(0), |asked| (asked.path == GENERATE && asked.nth == 0).then_some(Lie::Panic));
    scene.bend(Site::Generator(1), |asked| {
        (asked.path == GENERATE && asked.nth == 0).then_some(Lie::Late(S(200)))
    });
    scene.mine(3).await;
    scene.log.expect(1, BROKE);
    scene.assert_settled();
    assert_eq!(scene.count("accepted"), 3);
}

#[tokio::test(start_paused = true)]
async fn as_many_candidates_as_ordered_are_made_on_any_number_of_cards() {
    for cards in 1..=4 {
        let lines = "[decide]\ncandidates = 3\n";
        let scene = Scene::set(Plan { cards: vec![S(10); cards], lines, ..Plan::default() });
        scene.mine(4).await;
        scene.assert_settled();
        let made: usize = (0..cards).map(|card| scene.asked(Site::Generator(card), GENERATE)).sum();
        assert_eq!(made, 4 * 3, "{cards} cards");
    }
}

/// The only card that makes pictures is gone, the one that makes words is there.
#[tokio::test(start_paused = true)]
async fn a_task_that_no_card_left_can_make_is_declined() {
    let scene = Scene::set(Plan { cards: vec![S(25); 2], ..Plan::validators(2) });
    let world = scene.world(scene.data(), 0..2);
    let kinds = |kinds: &str| {
        let file = scene.data().join("kinds.toml");
        let worker = "[[workers]]\nname = \"g\"\nrole = \"generator\"\nurl = \"devnet\"\n";
        let scorer = "[[workers]]\nname = \"s\"\nrole = \"scorer\"\nurl = \"devnet\"\n";
        std::fs::write(&file, format!("{worker}kinds = [\"{kinds}\"]\n{scorer}")).unwrap();
        load(&Inputs { file: Some(file), ..Inputs::default() }).unwrap().settings
    };
    let benches = ["text", "image"].iter().zip(&world.peers.cards);
    let benches =
        benches.map(|(kind, card)| bench(&kinds(kind), scene.clock, card, &world.transports)).collect();
    let pair = Arc::clone(&world.hotkeys[0]);
    let hotkey = *pair.hotkey();
    let (pulls, submissions) = (world.transports.pulls.clone(), world.transports.submissions.clone());
    let dendrite = Arc::new(Dendrite::new(pair, scene.clock, scene.settings.dendrite, pulls, submissions));
    let source = |(axon, uid): &(_, _)| {
        TaskSource::Validator(ValidatorSource { dendrite: Arc::clone(&dendrite), axon: *axon, uid: *uid })
    };
    let sources = world.peers.validators.iter().map(source).collect();
    let setup = Setup {
        members: vec![Member { hotkey, sources, subnet: None }],
        benches,
        store: Store::open(scene.data()).await.unwrap(),
        clock: scene.clock,
        seeds: world.seeds.clone(),
        settings: scene.settings.mining.clone(),
    };
    scene.close(Site::Generator(1));
    scene.assign(0, "1", Prompt::Image("iVBORw0KGgo=".into()));
    let mut miner = Miner::resume(setup).await.unwrap();
    let never = CancellationToken::new();
    let finish = miner.run(Budget::Tasks(4), &never);
    let finish = tokio::time::timeout(S(7_200), finish).await.expect("it goes on").unwrap();
    assert_eq!(finish, Finish::Done);
    scene.assert_settled();
    scene.log.expect(1, "reason=no generator is reachable");
    assert_eq!((scene.count("empty"), scene.count("accepted")), (1, 3));
}

/// The validator gave us a task, went back to an earlier state of its own, and now waits for another
/// one: our answer changes nothing there, ever.
#[tokio::test(start_paused = true)]
async fn a_validator_that_waits_for_another_task_is_asked_which() {
    let scene = Scene::of(1);
    scene.assign(0, "earlier", text("three blue spheres"));
    scene.bend(Site::Validator(0), |asked| {
        let task = json!({"task": {"type": "text", "id": "later", "prompt": "a red cube"}});
        (asked.path == PULL && asked.nth == 0).then(|| Lie::Say(200, task.to_string().into()))
    });
    let took = scene.mine(2).await;
    assert!(took < S(300 + 240), "{took:?}");
    assert_eq!((scene.count("accepted"), scene.open(), scene.count("violation")), (2, 0, 0));
    assert!(scene.count("wrong_task") <= 3, "{}", scene.count("wrong_task"));
    scene.log.expect(0, "alarm=");
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_is_never_answered_gives_its_slot_away() {
    let scene = Scene::of(3);
    scene.bend(Site::Validator(0), |asked| (asked.path == PULL).then_some(Lie::Hang));
    scene.bend(Site::Validator(1), |asked| (asked.path == PULL).then_some(Lie::Hang));
    scene.mine_for(S(60)).await;
    let first = scene.events(2, scene.hotkey(0))[0].at;
    let waited = first.saturating_since(scene::START);
    assert!(waited < S(7), "{waited:?}");
}

/// More validators than there are permits swallow what is submitted to them.
#[tokio::test(start_paused = true)]
async fn answers_that_hang_leave_room_for_others() {
    let scene = Scene::of(12);
    for validator in 0..10 {
        scene.bend(Site::Validator(validator), |asked| (asked.path == SUBMIT).then_some(Lie::Hang));
    }
    scene.mine_for(S(4 * 3_600)).await;
    scene.assert_lawful();
    for validator in [10, 11] {
        let accepted = scene.count_at(validator, "accepted");
        // The first round costs five minutes, twice if it comes to the worst.
        assert!(accepted >= (4 * 3_600 - 900) / 320, "{accepted} at {validator}");
    }
}

/// A task of an earlier run that has no result yet is the first to be asked for again.
#[tokio::test(start_paused = true)]
async fn an_open_task_is_asked_for_before_anything_new() {
    let scene = Scene::of(6);
    for validator in 0..5 {
        scene.bend(Site::Validator(validator), |asked| {
            (asked.path == PULL && asked.nth == 0).then(|| Lie::Say(503, Vec::new()))
        });
    }
    scene.mine_for(S(2)).await;
    assert_eq!((scene.count_at(5, "assigned"), scene.count("assigned")), (1, 1));
    let order: Arc<Mutex<Vec<usize>>> = Arc::default();
    for validator in 0..6 {
        let order = Arc::clone(&order);
        scene.bend(Site::Validator(validator), move |asked| {
            if asked.path == PULL {
                order.lock().unwrap().push(validator);
            }
            None
        });
    }
    scene.mine(6).await;
    assert_eq!(order.lock().unwrap()[0], 5, "{order:?}");
    scene.assert_settled();
    assert_eq!(scene.count_at(5, "repeated"), 1);
}

/// Told to stop with every kind of work in hand: all of it is finished in the time there is, or left
/// so that the next start finishes it.
#[tokio::test(start_paused = true)]
async fn a_stop_at_any_moment_leaves_nothing_undone() {
    for lines in [FINISHES, ""] {
        let plan = Plan { hotkeys: 2, cards: vec![S(25); 2], lines, ..Plan::validators(3) };
        let scene = Scene::set(plan);
        for round in 0..25 {
            scene.mine_for(Duration::from_millis(1_000 + 3_917 * round)).await;
            if lines == FINISHES {
                scene.assert_settled();
            } else {
                scene.assert_lawful();
            }
        }
        let app = scene.agent().await;
        let tally = app.tally();
        let stop = CancellationToken::new();
        let (finish, ()) = tokio::join!(app.run(Budget::Endless, stop.clone()), async {
            while tally.lock().unwrap().ended < 12 || scene.open() > 0 {
                tokio::time::sleep(S(1)).await;
            }
            stop.cancel();
        });
        finish.unwrap();
        scene.assert_settled();
        assert_eq!(scene.count("locked") + scene.count("double_guard"), 0);
    }
}

/// What the validators said of cooldowns is lost, and the loss itself is forgotten by the second start.
#[tokio::test(start_paused = true)]
async fn no_cooldown_is_broken_after_the_database_was_lost() {
    // One of them has just booked a low score, whose cooldown is the longest.
    let grades = Grades::by(|nth, _| if nth == 2 { Grade::Bad } else { Grade::Good });
    let lines = "[decide]\nunscored = \"always\"\ncandidates = 1\n[shutdown]\ngrace = \"10m\"\n";
    let scene = Scene::set(Plan { makers: Makers::Graded(grades), lines, ..Plan::validators(3) });
    scene.mine(3).await;
    assert_eq!((scene.count("accepted"), scene.count("low")), (2, 1));
    for file in ["agent.sqlite", "agent.sqlite-wal", "agent.sqlite-shm"] {
        let path = scene.data().join(file);
        if path.exists() {
            std::fs::write(path, "somebody's notes ".repeat(1_000)).unwrap();
        }
    }
    for time in [1, 1, 4_000] {
        scene.mine_for(S(time)).await;
    }
    let is_aside = |name: &str| name.starts_with("agent.sqlite.");
    let names = std::fs::read_dir(scene.data()).unwrap().map(|file| file.unwrap().file_name());
    assert!(names.into_iter().any(|name| is_aside(&name.to_string_lossy())), "it was moved aside");
    scene.assert_settled();
    assert!(scene.count("accepted") >= 10, "{}", scene.count("accepted"));
}

/// A demoted validator's task is ours all the same once it is assigned.
#[tokio::test(start_paused = true)]
async fn a_probe_whose_reply_is_lost_is_asked_for_again() {
    let scene = Scene::set(Plan { unfair: &[0], lines: FINISHES, ..Plan::validators(2) });
    scene.mine_for(S(20_000)).await;
    let before = scene.asked(Site::Validator(0), PULL);
    scene.bend(Site::Validator(0), move |asked| {
        (asked.path == PULL && asked.nth == before).then_some(Lie::Lose)
    });
    // Neither is the time of the last probe forgotten by a restart.
    for _ in 0..4 {
        scene.mine_for(S(4_000)).await;
    }
    scene.assert_settled();
    let events = scene.events(0, scene.hotkey(0));
    let at = |wanted: fn(&LedgerEventKind) -> bool| {
        let times = events.iter().filter(|event| wanted(&event.kind)).map(|event| event.at);
        times.collect::<Vec<_>>()
    };
    let assigned = at(|kind| matches!(kind, LedgerEventKind::Assigned { .. }));
    let booked = at(|kind| matches!(kind, LedgerEventKind::Low { .. }));
    let (last_assigned, last_booked) = (assigned[assigned.len() - 1], booked[booked.len() - 1]);
    assert!(scene.asked(Site::Validator(0), PULL) > before + 1);
    assert!(last_booked.saturating_since(last_assigned) < S(120), "{assigned:?} {booked:?}");
    let probes = assigned.windows(2).skip(19).map(|pair| pair[1].saturating_since(pair[0]));
    assert!(probes.clone().all(|wait| wait >= S(14_000)), "{:?}", probes.collect::<Vec<_>>());
}

/// Those who may not be asked wait for no card: nothing is given up for their sake.
#[tokio::test(start_paused = true)]
async fn demoted_validators_crowd_nobody_out() {
    let fair = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&fair);
    // From then on a third is good, in no order.
    let is_bad = |nth: usize| (nth as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40 & 0xFF > 85;
    let grades = Grades::by(move |nth, _| match seen.load(Ordering::Relaxed) && is_bad(nth) {
        true => Grade::Bad,
        false => Grade::Good,
    });
    let plan = Plan {
        unfair: &[0, 1, 2, 3, 4, 5],
        makers: Makers::Graded(grades),
        lines: FINISHES,
        ..Plan::validators(8)
    };
    let scene = Scene::set(plan);
    scene.mine_for(S(25_000)).await;
    let made = scene.asked(Site::Generator(0), GENERATE);
    fair.store(true, Ordering::Relaxed);
    scene.mine_for(S(7_200)).await;
    scene.assert_settled();
    let tasks: u64 = [6, 7].iter().map(|validator| scene.count_at(*validator, "assigned")).sum();
    let empty: u64 = [6, 7].iter().map(|validator| scene.count_at(*validator, "empty")).sum();
    assert!(made > 0 && empty > 0, "{tasks} tasks, {empty} empty");
    let given_up = scene.log.with("its time is worth more elsewhere").len();
    assert_eq!(given_up, 0, "the card was free: {:#?}", scene.last_lines());
}

#[tokio::test(start_paused = true)]
async fn statistics_know_every_wait_and_every_generation() {
    let scene = Scene::set(Plan { lines: FINISHES, ..Plan::validators(20) });
    scene.bend(Site::Generator(0), |asked| {
        (asked.path == GENERATE && asked.nth == 3).then(|| Lie::Say(500, Vec::new()))
    });
    scene.mine_for(S(3_000)).await;
    let generations = scene.asked(Site::Generator(0), GENERATE) as u64;
    let stats = Stats::read(scene.data(), None, scene.clock.now()).await.unwrap();
    let mut all = Tally::default();
    stats.lanes.iter().for_each(|(_, tally)| all.add(tally));
    assert_eq!(all.generations, generations);
    // One task is in stock while another has the card.
    let queued = all.times.queue.max().unwrap();
    assert!((20_000..40_000).contains(&queued), "{queued} ms");
    assert!(all.slow.queue + all.slow.generator > 0, "{:?}", all.slow);
}

/// A validator that never replies is given many results at once by many hotkeys.
#[tokio::test(start_paused = true)]
async fn one_validator_does_not_hold_every_submission() {
    let plan = Plan { hotkeys: 40, cards: vec![S(1); 2], scoring: S(1), ..Plan::validators(3) };
    let scene = Scene::set(plan);
    scene.bend(Site::Validator(0), |asked| (asked.path == SUBMIT).then_some(Lie::Hang));
    scene.mine_for(S(7_200)).await;
    scene.assert_lawful();
    for validator in [1, 2] {
        let accepted = scene.count_at(validator, "accepted");
        assert!(accepted >= 40 * 7_200 / 320, "{accepted} at {validator}");
    }
}
