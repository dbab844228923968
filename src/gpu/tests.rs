mod ahead;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::fake::{CARD, FakeCard, FakeLog, Fault, Forbidden, GENERATOR, SCORER, Sees, reference, worker};
use super::*;
use crate::clock::Clock;
use crate::primitives::{CardId, MiB, UnixTime};

const S: fn(u64) -> Duration = Duration::from_secs;
const MS: fn(u64) -> Duration = Duration::from_millis;
const PEAK: u64 = 20_070;

fn card() -> CardId {
    CardId { host: "here".into(), uuid: "GPU-0".into() }
}

struct Rig {
    card: FakeCard,
    log: FakeLog,
    arbiter: Arbiter,
}

impl Rig {
    fn of(workers: Vec<WorkerSpec>, sees: Sees, settings: Settings) -> Self {
        Self::noting(FakeLog::default(), workers, sees, settings)
    }

    fn noting(log: FakeLog, workers: Vec<WorkerSpec>, sees: Sees, settings: Settings) -> Self {
        let clock = Clock::starting_at(UnixTime::from_secs(1_763_600_000));
        let fake = FakeCard::new(&workers, sees);
        let household =
            Household { settings, workers, effects: Arc::new(fake.clone()), log: Arc::new(log.clone()) };
        Self { arbiter: Arbiter::of(card(), clock, household), card: fake, log }
    }

    fn new(sees: Sees) -> Self {
        Self::of(reference(), sees, Settings { limit: Some(CARD), ..Settings::default() })
    }

    async fn lease(&self, tenant: Tenant) -> Lease {
        self.arbiter.lease(tenant).await.unwrap()
    }

    /// One generation of the reference case; how long the hand-off took.
    async fn generate(&self) -> Duration {
        let lease = self.lease(Tenant::Generator).await;
        assert!(self.card.work(GENERATOR, PEAK, S(30)).await);
        let handoff = lease.handoff;
        lease.end(Ending::Done);
        handoff
    }

    async fn score(&self) -> Duration {
        let lease = self.lease(Tenant::Scorer).await;
        assert!(self.card.work(SCORER, 4_813, S(5)).await);
        let handoff = lease.handoff;
        lease.end(Ending::Done);
        handoff
    }

    fn state(&self, worker: &str) -> WorkerState {
        let view = self.arbiter.watch().borrow().clone();
        view.workers.iter().find(|view| view.worker.as_str() == worker).unwrap().state
    }

    /// Lets the card do what it does by itself.
    async fn settle(&self) {
        sleep(S(30)).await;
    }
}

/// How long it takes, in milliseconds.
async fn ms(work: impl Future<Output = Duration>) -> u128 {
    work.await.as_millis()
}

#[tokio::test(start_paused = true)]
async fn a_card_has_one_tenant_at_a_time() {
    let clock = Clock::starting_at(UnixTime::from_secs(1));
    let arbiter = Arbiter::new(card(), clock);
    let first = arbiter.lease(Tenant::Generator).await.unwrap();
    assert_eq!(first.waited, Duration::ZERO);
    let second = async { arbiter.lease(Tenant::Scorer).await.unwrap().waited };
    let release = async {
        clock.sleep(S(7)).await;
        drop(first);
    };
    let (waited, ()) = tokio::join!(second, release);
    assert!(waited >= S(7) && waited < S(8), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn the_scorer_leaves_before_a_generation_and_comes_back_to_score() {
    for sees in [Sees::Processes, Sees::Card, Sees::Nothing] {
        let rig = Rig::new(sees);
        assert_eq!(ms(rig.score()).await, 0);
        assert_eq!(ms(rig.generate()).await, 2_500);
        assert_eq!(ms(rig.generate()).await, 0);
        // The canary takes 200 ms.
        assert_eq!(ms(rig.score()).await, 2_700);
        assert_eq!(ms(rig.score()).await, 0);
        assert_eq!(rig.card.forbidden(), Forbidden::default());
        assert_eq!(rig.card.calls(), ["unload scorer", "load scorer", "canary scorer"]);
        assert_eq!(
            rig.log.lines(),
            [
                "begin generator for generator without [\"scorer\"]",
                "unload scorer: done",
                "commit",
                "begin scorer for scorer without []",
                "load scorer: done",
                "canary scorer: done",
                "commit",
            ]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_moved_where_everything_fits() {
    let workers = vec![worker(GENERATOR, Tenant::Generator, 6_000, 18_000), reference().remove(1)];
    let rig = Rig::of(workers, Sees::Processes, Settings::default());
    for _ in 0..3 {
        let lease = rig.lease(Tenant::Generator).await;
        assert!(rig.card.work(GENERATOR, 18_000, S(30)).await);
        assert_eq!(lease.handoff, Duration::ZERO);
        lease.end(Ending::Done);
        assert_eq!(ms(rig.score()).await, 0);
    }
    rig.settle().await;
    assert!(rig.card.calls().is_empty() && rig.log.lines().is_empty());
    let view = rig.arbiter.watch().borrow().clone();
    assert!(view.last_plan.unwrap().starts_with("nothing to move: scorer needs 4813 MiB; 24576 MiB"));
    assert_eq!(view.memory.unwrap().pressure, Pressure::Low);
    assert_eq!(rig.arbiter.wants_batch(), 1);
}

#[tokio::test(start_paused = true)]
async fn waiting_is_fair_and_leaving_the_queue_changes_nothing() {
    let rig = Rig::new(Sees::Processes);
    let first = rig.lease(Tenant::Scorer).await;
    let began = Instant::now();
    let wait = async |number: u64, patience: Duration| {
        sleep(MS(number)).await;
        let lease = timeout(patience, rig.arbiter.lease(Tenant::Scorer)).await.ok()?.unwrap();
        let at = began.elapsed();
        sleep(S(1)).await;
        lease.end(Ending::Done);
        Some((number, at.as_secs()))
    };
    let release = async {
        sleep(S(10)).await;
        first.end(Ending::Done);
    };
    let far = S(1_000);
    let (served, ()) =
        tokio::join!(join_all([wait(1, far), wait(2, S(5)), wait(3, far), wait(4, far)]), release);
    assert_eq!(served, [Some((1, 10)), None, Some((3, 11)), Some((4, 12))]);
}

#[tokio::test(start_paused = true)]
async fn a_hand_off_goes_on_when_whoever_asked_has_gone() {
    let rig = Rig::new(Sees::Processes);
    assert!(timeout(S(1), rig.arbiter.lease(Tenant::Generator)).await.is_err());
    sleep(S(2)).await;
    assert!(!rig.card.is_loaded(SCORER));
    // Nobody has the card, so it comes back.
    rig.settle().await;
    assert!(rig.card.is_loaded(SCORER));
    assert_eq!(rig.card.calls(), ["unload scorer", "load scorer", "canary scorer"]);
}

#[tokio::test(start_paused = true)]
async fn a_lie_is_seen_and_another_way_taken() {
    for sees in [Sees::Processes, Sees::Card] {
        let rig = Rig::new(sees);
        rig.card.will("unload", SCORER, &[Fault::Lies]);
        rig.generate().await;
        assert_eq!(rig.card.calls(), ["unload scorer", "cleanup scorer", "unload scorer"]);
        rig.score().await;
        rig.card.calls();
        // Its verb is no use at all: its process goes, and comes back.
        rig.card.will("unload", SCORER, &[Fault::Lies, Fault::Refuses]);
        rig.generate().await;
        assert_eq!(rig.card.calls(), ["unload scorer", "cleanup scorer", "unload scorer", "stop scorer"]);
        rig.score().await;
        assert_eq!(rig.card.calls(), ["start scorer", "canary scorer"]);
        assert_eq!(rig.card.forbidden(), Forbidden::default());
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_done_counts_whatever_is_said() {
    for (fault, atmost) in [(Fault::DoesAndRefuses, 3), (Fault::DoesAndHangs, 31), (Fault::Dies, 3)] {
        let rig = Rig::new(Sees::Processes);
        rig.card.will("unload", SCORER, &[fault]);
        let handoff = rig.generate().await;
        assert!(handoff < S(atmost), "{fault:?}: {handoff:?}");
        assert_eq!(rig.card.calls(), ["unload scorer"], "{fault:?}");
        rig.score().await;
        assert_eq!(rig.card.forbidden(), Forbidden::default());
    }
}

#[tokio::test(start_paused = true)]
async fn memory_that_is_freed_late_is_waited_for() {
    let rig = Rig::new(Sees::Card);
    rig.card.will("unload", SCORER, &[Fault::Late(MS(1_700))]);
    let handoff = rig.generate().await;
    assert!(handoff >= MS(4_200) && handoff < MS(4_260), "{handoff:?}");
    assert_eq!(rig.card.calls(), ["unload scorer"]);
    assert_eq!(rig.card.forbidden(), Forbidden::default());
}

#[tokio::test(start_paused = true)]
async fn a_scorer_that_only_scores_zeros_is_loaded_again_then_restarted() {
    let rig = Rig::new(Sees::Processes);
    rig.generate().await;
    rig.card.calls();
    rig.card.will("load", SCORER, &[Fault::Deaf, Fault::Deaf]);
    rig.score().await;
    assert_eq!(
        rig.card.calls(),
        [
            "load scorer",
            "canary scorer",
            "unload scorer",
            "cleanup scorer",
            "load scorer",
            "canary scorer",
            "stop scorer",
            "start scorer",
            "canary scorer"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_comes_by_no_way_is_out_of_order_and_tried_again() {
    let rig = Rig::new(Sees::Processes);
    rig.generate().await;
    rig.card.will("load", SCORER, &[Fault::Refuses, Fault::Refuses]);
    rig.card.will("start", SCORER, &[Fault::Refuses]);
    let error = rig.arbiter.lease(Tenant::Scorer).await.unwrap_err();
    assert!(
        error.to_string().contains("load scorer: it refused: 500")
            && error.to_string().contains("start scorer"),
        "{error}"
    );
    assert!(matches!(rig.state(SCORER), WorkerState::Failed { .. }));
    assert!(!rig.arbiter.is_usable(Tenant::Scorer) && rig.arbiter.is_usable(Tenant::Generator));
    // Said at once, and the generator works.
    let again = rig.arbiter.lease(Tenant::Scorer).await.unwrap_err();
    assert!(matches!(again, LeaseError::OutOfOrder { .. }), "{again}");
    rig.generate().await;
    rig.settle().await;
    assert_eq!(rig.state(SCORER), WorkerState::Resident);
    assert!(rig.card.is_loaded(SCORER));
    rig.score().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_lease_brings_back_who_left_for_it() {
    let mut workers = reference();
    workers[0] = worker(GENERATOR, Tenant::Generator, 6_000, PEAK);
    let rig = Rig::of(workers, Sees::Processes, Settings::default());
    rig.arbiter.order(Order::Unload(GENERATOR.into())).await.unwrap();
    rig.card.will("load", GENERATOR, &[Fault::Refuses, Fault::Refuses]);
    rig.card.will("start", GENERATOR, &[Fault::Refuses]);
    let refused = rig.arbiter.lease(Tenant::Generator).await;
    assert!(matches!(refused, Err(LeaseError::Handoff(HandoffError::OutOfOrder { .. }))), "{refused:?}");
    assert!(rig.card.is_loaded(SCORER));
    assert_eq!(ms(rig.score()).await, 0);
}

#[tokio::test(start_paused = true)]
async fn pinned_workers_refuse_a_lease_with_the_sum() {
    let mut workers = reference();
    workers[1].residency = Residency::Pinned;
    let rig = Rig::of(workers, Sees::Processes, Settings::default());
    let refused = rig.arbiter.lease(Tenant::Generator).await.unwrap_err().to_string();
    assert!(refused.ends_with("24576 MiB - 512 MiB margin - 4813 MiB scorer = 19251 MiB"), "{refused}");
    assert!(rig.card.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_keeps_the_card_until_the_worker_rests() {
    for sees in [Sees::Processes, Sees::Card] {
        let rig = Rig::new(sees);
        let lease = rig.lease(Tenant::Generator).await;
        let began = Instant::now();
        let work = rig.card.work(GENERATOR, PEAK, S(30));
        let cut = async {
            sleep(S(3)).await;
            drop(lease);
            rig.lease(Tenant::Scorer).await
        };
        let (_, next) = tokio::join!(work, cut);
        assert!(began.elapsed() >= S(32), "{:?}", began.elapsed());
        next.end(Ending::Done);
        assert_eq!(rig.card.forbidden(), Forbidden::default());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_does_not_end_costs_the_worker_its_process() {
    let rig = Rig::new(Sees::Processes);
    let request = Request { deadline: Some(S(60)), ..Tenant::Generator.into() };
    let hung = rig.arbiter.lease(request).await.unwrap();
    let began = Instant::now();
    let work = rig.card.work(GENERATOR, PEAK, S(10_000));
    let next = async {
        let lease = rig.lease(Tenant::Scorer).await;
        assert!(rig.card.calls().contains(&"stop generator".to_owned()));
        assert!(began.elapsed() > S(60) && began.elapsed() < S(75), "{:?}", began.elapsed());
        lease.end(Ending::Done);
        // The void lease changes nothing.
        let lease = rig.lease(Tenant::Scorer).await;
        hung.end(Ending::Done);
        assert!(timeout(S(50), rig.arbiter.lease(Tenant::Scorer)).await.is_err());
        lease.end(Ending::Done);
        let lease = rig.lease(Tenant::Generator).await;
        assert!(rig.card.calls().contains(&"start generator".to_owned()));
        lease.end(Ending::Done);
    };
    tokio::select! {
        () = next => {}
        _ = work => panic!("it never ends"),
    }
    assert!(rig.log.lines().contains(&"begin overdue for generator without [\"generator\"]".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_cannot_be_stopped_keeps_the_card_and_waiters_are_told() {
    let mut workers = reference();
    workers[0].abilities = Abilities::default();
    let rig = Rig::of(workers, Sees::Processes, Settings::default());
    let request = Request { deadline: Some(S(60)), ..Tenant::Generator.into() };
    let hung = rig.arbiter.lease(request).await.unwrap();
    let work = rig.card.work(GENERATOR, PEAK, S(300));
    let began = Instant::now();
    let next = async {
        let refused = rig.arbiter.lease(Tenant::Scorer).await.unwrap_err();
        assert_eq!(refused, LeaseError::Overdue(GENERATOR.into()));
        assert!(!rig.arbiter.is_usable(Tenant::Generator));
        // Nor is it of use to those whose own workers are well.
        assert_eq!(rig.arbiter.obstacle(Tenant::Scorer), Some(LeaseError::Overdue(GENERATOR.into())));
        loop {
            if let Ok(lease) = rig.arbiter.lease(Tenant::Scorer).await {
                break lease.end(Ending::Done);
            }
        }
        assert!(began.elapsed() >= S(302), "{:?}", began.elapsed());
        assert!(rig.arbiter.is_usable(Tenant::Generator));
    };
    tokio::join!(work, next);
    drop(hung);
}

#[tokio::test(start_paused = true)]
async fn a_suspect_is_looked_at_before_it_is_used_again() {
    let rig = Rig::new(Sees::Processes);
    rig.lease(Tenant::Scorer).await.end(Ending::Suspect);
    rig.score().await;
    assert_eq!(rig.card.calls(), ["canary scorer"]);
    rig.card.set_loaded(SCORER, false);
    rig.lease(Tenant::Scorer).await.end(Ending::Suspect);
    rig.score().await;
    assert_eq!(rig.card.calls(), ["load scorer", "canary scorer", "canary scorer"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_rests_and_never_answered_is_looked_at_before_it_is_used_again() {
    let rig = Rig::new(Sees::Processes);
    rig.lease(Tenant::Scorer).await.end(Ending::Unsure);
    rig.score().await;
    assert_eq!(rig.card.calls(), ["canary scorer"]);
}

#[tokio::test(start_paused = true)]
async fn a_recovery_brings_the_card_to_a_known_state() {
    let mut workers = reference();
    for worker in &mut workers {
        worker.at_start = AtStart::Unknown;
    }
    let open = OpenHandoff { id: HandoffId(3), wanted: GENERATOR.into(), evicted: vec![SCORER.into()] };
    for (sees, loaded) in [(Sees::Processes, true), (Sees::Processes, false), (Sees::Card, false)] {
        let rig = Rig::of(workers.clone(), sees, Settings::default());
        rig.card.set_loaded(SCORER, loaded);
        let recovery = rig.arbiter.recover(vec![open.clone()]).await.unwrap();
        assert!(recovery.missing.is_empty() && recovery.resident.contains(&SCORER.into()), "{recovery:?}");
        assert!(rig.card.is_loaded(SCORER));
        let calls = rig.card.calls();
        assert_eq!(calls.contains(&"load scorer".to_owned()), !loaded, "{calls:?}");
        assert!(rig.log.lines().last().unwrap().starts_with("fail: interrupted"));
        rig.generate().await;
        rig.score().await;
        assert_eq!(rig.card.forbidden(), Forbidden::default());
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_believed_of_workers_that_others_started() {
    let mut workers = reference();
    workers[1].at_start = AtStart::Unknown;
    // Nobody calls for a recovery: the first lease finds out.
    let rig = Rig::of(workers, Sees::Card, Settings::default());
    rig.card.set_loaded(SCORER, false);
    rig.score().await;
    assert_eq!(
        rig.card.calls(),
        ["canary scorer", "unload scorer", "cleanup scorer", "load scorer", "canary scorer"]
    );
    let rig = Rig::of(reference_unknown(), Sees::Card, Settings::default());
    rig.score().await;
    assert_eq!(rig.card.calls(), ["canary scorer"]);
}

fn reference_unknown() -> Vec<WorkerSpec> {
    let mut workers = reference();
    workers[1].at_start = AtStart::Unknown;
    workers
}

#[tokio::test(start_paused = true)]
async fn a_card_that_cannot_be_seen_moves_nothing() {
    let rig = Rig::new(Sees::Processes);
    rig.card.probes_fail(1_000);
    let refused = rig.arbiter.lease(Tenant::Generator).await;
    assert!(matches!(refused, Err(LeaseError::Handoff(HandoffError::Blind(_)))), "{refused:?}");
    // What needs nothing moved goes on.
    rig.score().await;
    assert!(rig.card.calls().is_empty());
    rig.card.probes_fail(0);
    rig.generate().await;
}

#[tokio::test(start_paused = true)]
async fn amounts_that_were_declared_wrongly_are_corrected() {
    for sees in [Sees::Processes, Sees::Card] {
        let workers = vec![reference().remove(0), worker(SCORER, Tenant::Scorer, 8_000, 8_000)];
        let rig = Rig::of(workers, sees, Settings::default());
        rig.card.really_holds(SCORER, 4_500);
        for _ in 0..8 {
            rig.generate().await;
            rig.score().await;
            sleep(S(3)).await;
            rig.lease(Tenant::Scorer).await.end(Ending::Done);
        }
        rig.card.calls();
        let handoff = rig.generate().await;
        assert!(handoff < S(3), "{sees:?} {handoff:?}");
        assert_eq!(rig.card.calls(), ["unload scorer"], "{sees:?}");
        assert_eq!(rig.card.forbidden(), Forbidden::default());
        let view = rig.arbiter.watch().borrow().clone();
        let scorer = view.workers.iter().find(|view| view.worker.as_str() == SCORER).unwrap();
        assert!(scorer.resident < MiB(5_500), "{sees:?} {}", scorer.resident);
    }
}

#[tokio::test(start_paused = true)]
async fn memory_of_others_is_not_given_away() {
    let rig = Rig::new(Sees::Processes);
    // Even without the scorer it does not fit.
    rig.card.set_foreign(4_000);
    let refused = rig.arbiter.lease(Tenant::Generator).await.unwrap_err().to_string();
    assert!(refused.contains("4000 MiB of others"), "{refused}");
    assert!(rig.card.is_loaded(SCORER));
    rig.card.set_foreign(3_000);
    rig.generate().await;
    assert_eq!(rig.card.forbidden(), Forbidden::default());
}

#[tokio::test(start_paused = true)]
async fn one_that_moves_others_by_itself_is_left_alone_and_they_are_looked_at() {
    let mut workers = reference();
    workers[0].self_coordinating = true;
    let rig = Rig::of(workers, Sees::Processes, Settings::default());
    let lease = rig.lease(Tenant::Generator).await;
    assert!(rig.card.calls().is_empty());
    // It unloads the scorer, and forgets to bring it back.
    rig.card.set_loaded(SCORER, false);
    assert!(rig.card.work(GENERATOR, PEAK, S(30)).await);
    lease.end(Ending::Done);
    rig.score().await;
    assert_eq!(rig.card.calls(), ["load scorer", "canary scorer"]);
}

#[tokio::test(start_paused = true)]
async fn document_003_three_workers_take_turns() {
    // 10, 15 and 30 GiB on 48: scaled to this card.
    let mut workers = vec![
        worker("sdxl", Tenant::Generator, 5_000, 5_200),
        worker("chat", Tenant::Enhancer, 7_500, 7_500),
        worker("wan", Tenant::Generator, 15_000, 15_500),
    ];
    workers[0].residency = Residency::Preferred;
    workers[2].at_start = AtStart::Stopped;
    let rig = Rig::of(workers, Sees::Processes, Settings::default());
    rig.arbiter.order(Order::Stop("wan".into())).await.unwrap();
    let wan = Request { worker: Some("wan".into()), ..Tenant::Generator.into() };
    rig.arbiter.lease(wan.clone()).await.unwrap().end(Ending::Done);
    assert!(rig.card.is_loaded("wan") && rig.card.is_loaded("sdxl") && !rig.card.is_loaded("chat"));
    // It needs the enhancer before each turn.
    rig.arbiter.lease(Tenant::Enhancer).await.unwrap().end(Ending::Done);
    assert!(rig.card.is_loaded("chat") && !rig.card.is_loaded("wan") && rig.card.is_loaded("sdxl"));
    rig.arbiter.lease(wan).await.unwrap().end(Ending::Done);
    assert!(rig.card.is_loaded("wan"));
    let unknown = Request { worker: Some("flux".into()), ..Tenant::Generator.into() };
    assert_eq!(rig.arbiter.lease(unknown).await.unwrap_err(), LeaseError::NoSuchWorker("flux".into()));
}

#[tokio::test(start_paused = true)]
async fn giving_the_card_up_brings_back_who_left() {
    let rig = Rig::new(Sees::Processes);
    rig.generate().await;
    rig.arbiter.close().await;
    assert!(rig.card.is_loaded(SCORER));
    assert_eq!(rig.arbiter.lease(Tenant::Scorer).await.unwrap_err(), LeaseError::Closed);
}

#[tokio::test(start_paused = true)]
async fn orders_are_carried_out_between_leases() {
    let rig = Rig::new(Sees::Processes);
    let lease = rig.lease(Tenant::Scorer).await;
    let unload = rig.arbiter.order(Order::Unload(SCORER.into()));
    let release = async {
        sleep(S(4)).await;
        assert!(rig.card.is_loaded(SCORER));
        lease.end(Ending::Done);
    };
    let (done, ()) = tokio::join!(unload, release);
    done.unwrap();
    // As it was ordered, it stays away until it is wanted.
    rig.settle().await;
    assert!(!rig.card.is_loaded(SCORER));
    rig.arbiter.order(Order::Load(SCORER.into())).await.unwrap();
    assert!(rig.card.is_loaded(SCORER));
    rig.arbiter.order(Order::Restart(SCORER.into())).await.unwrap();
    assert!(rig.card.is_loaded(SCORER));
    let unknown = rig.arbiter.order(Order::Stop("flux".into())).await;
    assert_eq!(unknown.unwrap_err(), LeaseError::NoSuchWorker("flux".into()));
}

#[tokio::test(start_paused = true)]
async fn whether_a_card_is_seen_again_is_asked_without_moving_anybody() {
    let rig = Rig::new(Sees::Card);
    assert_eq!(rig.arbiter.check(Tenant::Generator).await, Ok(()));
    rig.card.probes_fail(1_000);
    let refused = rig.arbiter.lease(Tenant::Generator).await.unwrap_err();
    let blind = rig.arbiter.check(Tenant::Generator).await.unwrap_err();
    assert_eq!(blind, refused);
    assert!(matches!(blind, LeaseError::Handoff(HandoffError::Blind(_))), "{blind}");
    rig.card.probes_fail(0);
    assert_eq!(rig.arbiter.check(Tenant::Generator).await, Ok(()));
    assert!(rig.card.calls().is_empty());
}
