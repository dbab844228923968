//! The known mistakes of existing miners, continued: those that show over hours and with several
//! validators. The table is in `known_mistakes.rs`.

#[path = "support/chain_life.rs"]
mod chain_life;
#[path = "support/graded.rs"]
mod graded;
#[path = "support/hostile_world.rs"]
mod hostile_world;
#[path = "support/scene.rs"]
mod scene;

use std::pin::pin;
use std::sync::mpsc;
use std::time::Duration;

use chain_life::{Net, us};
use scene::{GENERATE, Lie, PULL, Plan, S, SUBMIT, Scene, Site};
use sn17_miner::app::{World, bench};
use sn17_miner::devnet::chain::{Fault, FaultRule, Target};
use sn17_miner::devnet::ledger::LedgerEventKind;
use sn17_miner::devnet::shapes;
use sn17_miner::mining::{Budget, Finish, SeedSource, make};
use sn17_miner::primitives::{Prompt, Seed};
use sn17_miner::splat::write_ply;
use tokio_util::sync::CancellationToken;

/// What was begun is finished when a test stops the agent.
const FINISHES: &str = "[shutdown]\ngrace = \"10m\"\n";

/// One rejects everything, under the same uid as one that does not.
#[tokio::test(start_paused = true)]
async fn m13_only_proof_demotes_a_validator_and_only_that_one() {
    let plan = Plan { unfair: &[0], one_uid: true, lines: FINISHES, ..Plan::validators(2) };
    let scene = Scene::set(plan);
    scene.mine_for(S(45_000)).await;
    scene.assert_settled();
    let events = scene.events(0, scene.hotkey(0));
    let asked = events.iter().filter(|event| matches!(event.kind, LedgerEventKind::Assigned { .. }));
    let asked: Vec<_> = asked.map(|event| event.at).collect();
    // 0 of 2 and even 0 of 19 change nothing; from the twentieth on one probe in four hours is left.
    let waits: Vec<Duration> = asked.windows(2).map(|pair| pair[1].saturating_since(pair[0])).collect();
    assert!(waits.len() > 19, "{waits:?}");
    let (full, probes) = waits.split_at(19);
    assert!(full.iter().all(|wait| (S(895)..S(960)).contains(wait)), "{waits:?}");
    assert!(
        !probes.is_empty() && probes.iter().all(|wait| (S(14_400)..S(14_500)).contains(wait)),
        "{waits:?}"
    );
    assert!(scene.count_at(1, "accepted") >= 45_000 / 306, "{}", scene.count_at(1, "accepted"));
}

/// One never answers pulls, one never answers submissions, one takes five minutes to score: the others
/// are asked as soon as they may be. The chain is no different.
#[tokio::test(start_paused = true)]
async fn m14_a_slow_call_holds_nobody_else_up() {
    let scene = Scene::of(5);
    let began = scene.clock.now();
    scene.bend(Site::Validator(0), |asked| (asked.path == PULL).then_some(Lie::Hang));
    scene.bend(Site::Validator(1), |asked| (asked.path == SUBMIT).then_some(Lie::Hang));
    scene.bend(Site::Validator(2), |asked| (asked.path == SUBMIT).then_some(Lie::Late(S(290))));
    scene.mine_for(S(4 * 3_600)).await;
    scene.assert_lawful();
    for validator in [3, 4] {
        let accepted = scene.count_at(validator, "accepted");
        assert!(accepted >= 4 * 3_600 / 312, "{accepted} at {validator}");
        // Not even for the 12 s after which a pull counts as lost.
        let (us, now) = (scene.hotkey(0), scene.clock.now());
        let idle = scene.axons[validator].ledger(|ledger| ledger.longest_idle(&us, began, now)).unwrap();
        assert!(idle < S(3), "{idle:?} at {validator}");
    }

    let net = Net::new(2, "[network]\nsync_interval = \"60s\"\n");
    let mining = net.mine(20, async {
        net.until("the first tasks", || net.count("accepted") >= 2).await;
        net.chain.inject(FaultRule::always(Fault::Silence, Target::Everything));
    });
    let mined = tokio::time::timeout(S(10 * 312), mining).await;
    assert!(mined.is_ok(), "{} tasks beside a silent chain", net.count("accepted"));
    net.assert_settled();
}

/// The thread of the loop does no compression: it goes on while no other thread has time for that.
#[test]
fn m14_compression_holds_nobody_up_either() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let scene = Scene::of(1);
        let mut ply = Vec::new();
        write_ply(&shapes::generate("a red cube", 1, shapes::GAUSSIANS), true, &mut ply).unwrap();
        scene.bend(Site::Generator(0), move |_| Some(Lie::Say(200, ply.clone())));
        let World { peers, transports, .. } = scene.world(scene.data(), 0..1);
        let bench = bench(&scene.settings, scene.clock, &peers.cards[0], &transports);

        let (busy, until) = mpsc::channel::<()>();
        let other_thread = tokio::task::spawn_blocking(move || until.recv().is_err());
        let id = SeedSource::fixed(1).local_id(scene.clock.now());
        let prompt = Prompt::Text("a red cube".into());
        let mut making = pin!(make(&bench, &id, &prompt, Seed::new(1), Duration::ZERO, false));
        // Turns enough for everything but the compression.
        let turns = async {
            for _ in 0..1_000 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ = &mut making => panic!("compressed on the thread of the loop"),
            () = turns => scene.log.expect(1, "Total time:"),
        }
        drop(busy);
        assert!(other_thread.await.unwrap());
        assert!(making.await.is_ok());
    });
}

#[tokio::test(start_paused = true)]
async fn m15_a_card_does_one_thing_at_a_time() {
    for cards in [1, 2] {
        let scene = Scene::set(Plan { cards: vec![S(25); cards], ..Plan::validators(20) });
        scene.mine(80).await;
        scene.assert_lawful();
        for card in 0..cards {
            assert!(scene.asked(Site::Generator(card), GENERATE) >= 80 / cards - 2);
            assert_eq!(scene.crowd(Site::Generator(card)), 1);
        }
    }
}

/// Cards to spare, and nothing to do for them but to ask.
#[tokio::test(start_paused = true)]
async fn m16_a_validator_is_asked_once_at_a_time() {
    let lines = "[decide]\ncandidates = 1\n";
    let scene = Scene::set(Plan { cards: vec![S(25); 4], lines, ..Plan::validators(2) });
    for validator in 0..2 {
        scene.bend(Site::Validator(validator), |asked| (asked.path == PULL).then_some(Lie::Late(S(5))));
    }
    scene.mine(20).await;
    scene.assert_settled();
    assert_eq!((scene.count("assigned"), scene.count("repeated")), (20, 0));
    assert!((0..2).all(|validator| scene.crowd(Site::Validator(validator)) == 1));
    let made: usize = (0..4).map(|card| scene.asked(Site::Generator(card), GENERATE)).sum();
    assert_eq!(made, 20, "no task is made twice");
}

#[tokio::test(start_paused = true)]
async fn m17_nothing_is_told_that_did_not_happen() {
    let scene = Scene::of(2);
    scene.bend(Site::Validator(0), |_| Some(Lie::Say(503, Vec::new())));
    scene.close(Site::Validator(1));
    scene.mine_for(S(3_600)).await;
    assert_eq!(scene.asked(Site::Generator(0), GENERATE), 0);
    for words in ["Pulled a task", "Feedback from", "Total time:"] {
        scene.log.expect(0, words);
    }
    assert!(scene.log.warnings().len() >= 20, "and what happens is told");
    scene.straighten(Site::Validator(0));
    scene.reopen(Site::Validator(1));
    // One of these is answered, and the answer to it lost: no feedback is made up.
    scene.bend(Site::Validator(0), |asked| (asked.path == SUBMIT && asked.nth == 0).then_some(Lie::Lose));
    scene.mine(6).await;
    scene.assert_settled();
    scene.log.expect(6, "Pulled a task");
    scene.log.expect(5, "Feedback from");
    scene.log.expect(1, "closed without feedback");
    assert_eq!(scene.count("accepted"), 6);
}

/// Lost while it runs and regained: nobody is asked in between, who would answer "in an hour".
#[tokio::test(start_paused = true)]
async fn m18_registration_is_watched_all_the_time() {
    let net = Net::new(2, "[network]\nsync_interval = \"60s\"\n");
    let app = net.agent().await;
    let (finish, ()) = tokio::join!(app.run(Budget::Tasks(8), CancellationToken::new()), async {
        net.until("the first tasks", || net.count("accepted") >= 2 && net.open() == 0).await;
        net.chain.deregister(&us()).unwrap();
        net.until("the alarm", || !net.log.with("alarm=deregistered").is_empty()).await;
        net.until("the end of what was begun", || net.open() == 0).await;
        net.deregister_with_validators();
        let assigned = net.count("assigned");
        net.pass(7_200).await;
        assert_eq!((net.count("pull_refused"), net.count("assigned")), (0, assigned));
        net.register();
        net.until("mining again", || net.count("assigned") > assigned).await;
    });
    assert_eq!(finish.unwrap(), Finish::Done);
    net.assert_settled();
}

/// Twice as many validators as the card can serve: all of them wait, and none for long. A start is no new
/// beginning: nobody is forgotten where no process lives long enough to ask them all.
#[tokio::test(start_paused = true)]
async fn m19_the_order_of_the_validators_favours_none() {
    let scene = Scene::set(Plan { lines: FINISHES, ..Plan::validators(20) });
    let app = scene.agent().await;
    let tally = app.tally();
    Scene::run_for(app, S(6 * 3_600)).await;
    scene.assert_settled();
    let served: Vec<_> = (0..20).map(|validator| scene.count_at(validator, "accepted")).collect();
    let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
    assert!(*least >= 30 && *most <= *least + 8, "{served:?}");
    let longest = tally.lock().unwrap().longest_wait;
    assert!(longest <= S(2 * 20 * 28), "{longest:?}");

    let scene = Scene::set(Plan { lines: FINISHES, ..Plan::validators(20) });
    for _ in 0..54 {
        scene.mine_for(S(400)).await;
    }
    scene.assert_settled();
    let served: Vec<_> = (0..20).map(|validator| scene.count_at(validator, "accepted")).collect();
    let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
    assert!(*least >= 30 && *most <= *least + 8, "{served:?}");
}

#[tokio::test(start_paused = true)]
async fn m20_a_day_of_restarts_and_wrong_clocks_without_one_early_pull() {
    let clocks_ahead_ms = vec![-3_700, 700, 60_000, 0];
    let scene = Scene::set(Plan { clocks_ahead_ms, lines: FINISHES, ..Plan::validators(4) });
    for round in 0..32 {
        scene.mine_for(Duration::from_millis(2_700_000 + 1_313 * round)).await;
    }
    scene.assert_settled();
    assert_eq!(scene.count("violation"), 0);
    // Nor are there pauses that nobody ordered.
    let most = 24 * 12 * 4;
    assert!(scene.count("accepted") >= most * 9 / 10, "{} of {most}", scene.count("accepted"));
}
