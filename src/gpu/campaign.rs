//! Hand-offs with faults by chance, under the paused clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{sleep, timeout};
use tracing::field::{Field, Visit};
use tracing::span;

use super::fake::{CARD, FakeCard, FakeLog, GENERATOR, SCORER, Sees, reference, worker};
use super::*;
use crate::clock::Clock;
use crate::primitives::{CardId, UnixTime};

const S: fn(u64) -> Duration = Duration::from_secs;

/// Hears alarms.
#[derive(Clone, Default)]
struct Alarms(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Alarms {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Heard<'a>(&'a mut Vec<String>);
        impl Visit for Heard<'_> {
            fn record_str(&mut self, field: &Field, value: &str) {
                if field.name() == "alarm" {
                    self.0.push(value.to_owned());
                }
            }
            fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
        }
        event.record(&mut Heard(&mut self.0.lock().unwrap()));
    }
}

#[derive(Debug, Default)]
struct Tally {
    granted: u64,
    refused: u64,
    worked: u64,
}

/// `count` leases of three clients, with so many calls going wrong.
async fn campaign(seed: u64, count: u64, share: f64, sees: Sees, alarms: &Alarms) -> Tally {
    let clock = Clock::starting_at(UnixTime::from_secs(1_763_600_000));
    let mut workers = reference();
    // It holds something that can be seen.
    workers[0] = worker(GENERATOR, Tenant::Generator, 3_000, 20_070);
    let (fake, log) = (FakeCard::new(&workers, sees), FakeLog::default());
    fake.luck(seed, share);
    let effects = Arc::new(fake.clone());
    let settings = Settings { limit: Some(CARD), ..Settings::default() };
    let household = Household { settings, workers, effects, log: Arc::new(log.clone()) };
    let card = CardId { host: "here".into(), uuid: "GPU-0".into() };
    let arbiter = Arbiter::of(card, clock, household);

    let left = AtomicU64::new(count);
    let tally = Mutex::new(Tally::default());
    let client = async |number: u64| {
        let mut rng = StdRng::seed_from_u64(seed ^ (number << 32));
        while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            let generates = rng.random_bool(0.5);
            let (tenant, name, peak, time) = match generates {
                true => (Tenant::Generator, GENERATOR, 20_070, S(30)),
                false => (Tenant::Scorer, SCORER, 4_813, S(5)),
            };
            let deadline = rng.random_bool(0.02).then_some(S(7));
            let request = Request { deadline, ..tenant.into() };
            // Some do not wait long.
            let patience = if rng.random_bool(0.05) {
                Duration::from_millis(rng.random_range(1..9_000))
            } else {
                S(36_000)
            };
            let asked = timeout(patience, arbiter.lease(request));
            let lease = match asked.await {
                Err(_) => {
                    assert!(patience < S(36_000), "seed {seed}: a lease was neither granted nor refused");
                    continue;
                }
                Ok(Err(_)) => {
                    tally.lock().unwrap().refused += 1;
                    sleep(S(rng.random_range(1..20))).await;
                    continue;
                }
                Ok(Ok(lease)) => lease,
            };
            tally.lock().unwrap().granted += 1;
            if rng.random_bool(0.03) {
                // Its client breaks off; the work goes on.
                let job = fake.begin(name, peak);
                sleep(S(1)).await;
                drop(lease);
                sleep(time - S(1)).await;
                if let Some(job) = job {
                    fake.end(name, job);
                }
                continue;
            }
            let done = fake.work(name, peak, time).await;
            tally.lock().unwrap().worked += u64::from(done);
            lease.end(if done { Ending::Done } else { Ending::Suspect });
            if rng.random_bool(0.3) {
                sleep(S(rng.random_range(0..15))).await;
            }
        }
    };
    tokio::join!(client(1), client(2), client(3));

    // Whoever left is back once nothing goes wrong any more, or is out of order and known to be.
    let view = arbiter.watch().borrow().clone();
    let failed = alarms.0.lock().unwrap().iter().filter(|alarm| *alarm == "worker_failed").count();
    if view.workers.iter().any(|worker| matches!(worker.state, WorkerState::Failed { .. })) {
        assert!(failed > 0, "seed {seed}");
    }
    fake.luck(seed, 0.0);
    sleep(S(3_600)).await;
    for name in [GENERATOR, SCORER] {
        assert!(fake.is_loaded(name), "seed {seed} {sees:?}: {name} {view:?} {:?}", fake.calls());
    }
    let view = arbiter.watch().borrow().clone();
    assert!(view.workers.iter().all(|worker| worker.state == WorkerState::Resident), "seed {seed}: {view:?}");

    let forbidden = fake.forbidden();
    assert_eq!((forbidden.overfull, forbidden.crowded), (0, 0), "seed {seed} {sees:?}");
    assert_eq!(forbidden.out_of_memory, 0, "seed {seed} {sees:?}: {:?}", fake.calls());
    assert!(fake.most() <= CARD);
    // Every hand-off was closed in the journal.
    let lines = log.lines();
    let begun = lines.iter().filter(|line| line.starts_with("begin ")).count();
    let closed = lines.iter().filter(|line| *line == "commit" || line.starts_with("fail: ")).count();
    assert_eq!(begun, closed, "seed {seed}");
    tally.into_inner().unwrap()
}

/// Five hundred leases, each seed another story; a failing one is named and told again by it.
#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_nobody_stays_away_and_nothing_overflows() {
    let alarms = Alarms::default();
    let _heard = tracing::subscriber::set_default(alarms.clone());
    let (mut granted, mut refused, mut worked) = (0, 0, 0);
    for seed in 1..=10 {
        for (share, sees) in
            [(0.1, Sees::Processes), (0.4, Sees::Processes), (0.1, Sees::Card), (0.4, Sees::Card)]
        {
            let tally = campaign(seed, 500, share, sees, &alarms).await;
            (granted, refused, worked) =
                (granted + tally.granted, refused + tally.refused, worked + tally.worked);
        }
    }
    // The faults were felt, and most leases granted all the same.
    assert!(granted > 15_000 && refused > 100 && worked > 14_000, "{granted} {refused} {worked}");
    assert!(alarms.0.lock().unwrap().iter().any(|alarm| alarm == "worker_failed"));
}

/// Where nothing goes wrong nobody is refused.
#[tokio::test(start_paused = true)]
async fn without_faults_every_lease_is_granted() {
    let alarms = Alarms::default();
    let _heard = tracing::subscriber::set_default(alarms.clone());
    for sees in [Sees::Processes, Sees::Card, Sees::Nothing] {
        let tally = campaign(7, 300, 0.0, sees, &alarms).await;
        assert_eq!(tally.refused, 0);
    }
}
