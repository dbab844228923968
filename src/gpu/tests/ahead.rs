//! What is done ahead of time, how often, and what it costs.

use super::*;

#[tokio::test(start_paused = true)]
async fn way_is_made_ahead_of_a_generation_that_is_expected() {
    let rig = Rig::new(Sees::Processes);
    // So that the times are known.
    rig.generate().await;
    rig.score().await;
    rig.arbiter.hint(Forecast { next_generation_in: Some(S(60)), ..Forecast::default() });
    sleep(S(57)).await;
    assert!(rig.card.is_loaded(SCORER));
    sleep(MS(3_100)).await;
    assert!(!rig.card.is_loaded(SCORER));
    assert_eq!(ms(rig.generate()).await, 0);
    rig.score().await;
    // It does not come: the scorer is back soon.
    rig.arbiter.hint(Forecast { next_generation_in: Some(S(60)), ..Forecast::default() });
    sleep(S(60)).await;
    assert!(!rig.card.is_loaded(SCORER));
    sleep(S(10)).await;
    assert!(rig.card.is_loaded(SCORER));
    assert_eq!(rig.card.forbidden(), Forbidden::default());
}

#[tokio::test(start_paused = true)]
async fn nobody_is_brought_back_ahead_of_a_generation_that_is_about_to_begin() {
    let rig = Rig::new(Sees::Processes);
    rig.generate().await;
    // A task is at hand; once it is made it is to be scored.
    let in_hand = Some((Tenant::Generator, Instant::now()));
    rig.arbiter.hint(Forecast { in_hand, queued_scorings: 1, ..Forecast::default() });
    sleep(S(1)).await;
    assert_eq!(ms(rig.generate()).await, 0);
    sleep(MS(2_750)).await;
    assert!(rig.card.is_loaded(SCORER));
}

#[tokio::test(start_paused = true)]
async fn no_way_is_made_ahead_of_a_scoring_that_is_about_to_begin() {
    let rig = Rig::new(Sees::Processes);
    rig.generate().await;
    rig.score().await;
    let in_hand = Some((Tenant::Scorer, Instant::now()));
    rig.arbiter.hint(Forecast { in_hand, queued_generations: 1, ..Forecast::default() });
    sleep(S(3)).await;
    assert_eq!(ms(rig.score()).await, 0);
    sleep(S(3)).await;
    assert!(!rig.card.is_loaded(SCORER));
}

#[tokio::test(start_paused = true)]
async fn batches_are_wanted_when_cards_are_the_limit_and_results_can_wait() {
    let rig = Rig::new(Sees::Processes);
    let scarce = Forecast { card_price: 1.0, ..Forecast::default() };
    rig.arbiter.hint(scarce);
    assert_eq!(rig.arbiter.wants_batch(), 1);
    rig.generate().await;
    rig.score().await;
    sleep(MS(1)).await;
    assert_eq!(rig.arbiter.wants_batch(), 4);
    let times = rig.arbiter.times();
    assert_eq!((times.generation, times.scoring), (S(30), S(5)));
    assert!(times.swap >= S(5) && times.swap < MS(5_100), "{times:?}");
    rig.arbiter.hint(Forecast { lane_price: 1.0, ..scarce });
    assert_eq!(rig.arbiter.wants_batch(), 1);
}

#[tokio::test(start_paused = true)]
async fn generations_that_wait_go_before_a_swap_but_not_for_ever() {
    let rig = Rig::new(Sees::Processes);
    rig.generate().await;
    rig.score().await;
    rig.arbiter.hint(Forecast { card_price: 1.0, queued_generations: 9, ..Forecast::default() });
    let first = rig.lease(Tenant::Generator).await;
    let order = std::sync::Mutex::new(Vec::new());
    let ask = async |number: u64, tenant| {
        sleep(MS(number)).await;
        let lease = rig.lease(tenant).await;
        order.lock().unwrap().push(number);
        sleep(S(1)).await;
        lease.end(Ending::Done);
    };
    let release = async {
        sleep(S(1)).await;
        first.end(Ending::Done);
    };
    let generations = join_all((2..=6).map(|number| ask(number, Tenant::Generator)));
    tokio::join!(ask(1, Tenant::Scorer), generations, release);
    // Three more make a batch of four.
    assert_eq!(*order.lock().unwrap(), [2, 3, 4, 1, 5, 6]);
}

#[tokio::test(start_paused = true)]
async fn the_scorer_comes_back_beside_the_last_stage() {
    let mut workers = reference();
    let id = WorkerId::new(GENERATOR);
    let row = |stage: &str, peak| Row {
        worker: id.clone(),
        stage: Stage::new(stage),
        resident: MiB(400),
        peak: MiB(peak),
    };
    workers[0].rows = vec![row("image", 10_000), row("shape", PEAK), row("splat", 6_000)];
    let rig = Rig::of(workers, Sees::Processes, Settings::default());
    let lease = rig.lease(Tenant::Generator).await;
    rig.card.work(GENERATOR, PEAK, S(20)).await;
    lease.entered(&Stage::new("shape"));
    sleep(S(1)).await;
    assert!(!rig.card.is_loaded(SCORER));
    let last = async {
        lease.entered(&Stage::new("splat"));
        rig.card.work(GENERATOR, 6_000, S(5)).await;
        lease.end(Ending::Done);
    };
    last.await;
    assert!(rig.card.is_loaded(SCORER));
    assert_eq!(ms(rig.score()).await, 0);
    assert_eq!(rig.card.forbidden(), Forbidden::default());
}

#[tokio::test(start_paused = true)]
async fn memory_that_has_risen_and_fallen_lets_the_scorer_back_in() {
    let mut workers = reference();
    let id = WorkerId::new(GENERATOR);
    let row = |stage: &str, peak| Row {
        worker: id.clone(),
        stage: Stage::new(stage),
        resident: MiB(400),
        peak: MiB(peak),
    };
    workers[0].rows = vec![row("image", 10_000), row("shape", PEAK), row("splat", 6_000)];
    let rig = Rig::of(workers, Sees::Processes, Settings::default());
    // Twice as long in the first stage as usual: there is room all the time, but not for long.
    for (image, shape, splat) in [(6, 20, 4), (40, 20, 4), (6, 20, 4)] {
        let lease = rig.lease(Tenant::Generator).await;
        for (time, peak) in [(image, 10_000), (shape, PEAK), (splat, 6_000)] {
            assert!(rig.card.work(GENERATOR, peak, S(time)).await);
        }
        lease.end(Ending::Done);
        rig.score().await;
        sleep(S(1)).await;
    }
    assert_eq!(rig.card.forbidden(), Forbidden::default());
    // The first time nothing was known of the usual time.
    let lease = rig.lease(Tenant::Generator).await;
    for (time, peak) in [(6, 10_000), (20, PEAK), (4, 6_000)] {
        assert!(rig.card.work(GENERATOR, peak, S(time)).await);
    }
    assert!(rig.card.is_loaded(SCORER));
    lease.end(Ending::Done);
    assert_eq!(ms(rig.score()).await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_lies_between_the_steps_is_measured() {
    let rig = Rig::noting(FakeLog::slow(MS(7)), reference(), Sees::Card, Settings::default());
    rig.generate().await;
    rig.score().await;
    sleep(MS(1)).await;
    // Out and the end of that; in, its canary, and the end of that.
    let lags = rig.arbiter.watch().borrow().lags;
    assert_eq!((lags.count, lags.p50, lags.most), (3, MS(7), MS(7)));
}

#[tokio::test(start_paused = true)]
async fn proofs_cost_milliseconds() {
    let rig = Rig::new(Sees::Processes);
    let before = rig.card.probes();
    let handoff = rig.generate().await;
    assert!(handoff <= MS(2_502), "{handoff:?}");
    assert!(rig.card.probes() - before <= 4, "{}", rig.card.probes() - before);
    rig.card.will("load", SCORER, &[Fault::Slow(MS(400))]);
    let handoff = rig.score().await;
    assert!(handoff <= MS(2_500 + 400 + 200 + 4), "{handoff:?}");
}

#[tokio::test(start_paused = true)]
async fn per_task_the_scorer_comes_back_once_no_generation_follows() {
    let settings = Settings { mode: Mode::PerTask, ..Settings::default() };
    let rig = Rig::of(reference(), Sees::Processes, settings);
    rig.generate().await;
    // What goes out unscored needs no scorer.
    assert_eq!(ms(rig.generate()).await, 0);
    sleep(MS(4_750)).await;
    assert!(rig.card.is_loaded(SCORER));
    assert_eq!(ms(rig.generate()).await, 2_500);
}

#[tokio::test(start_paused = true)]
async fn who_left_comes_back_when_the_card_is_idle() {
    let rig = Rig::new(Sees::Processes);
    rig.generate().await;
    assert!(!rig.card.is_loaded(SCORER));
    sleep(S(5)).await;
    assert!(rig.card.is_loaded(SCORER));
    assert_eq!(rig.state(SCORER), WorkerState::Resident);
    assert_eq!(ms(rig.score()).await, 0);
}
