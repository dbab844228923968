use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::clock::Hands;
use crate::net::Timing;

const T: UnixTime = UnixTime::from_secs(1_800_000_000);
const HOUR: i64 = 3_600_000_000_000;
const MARGIN: Duration = Duration::from_millis(100);

/// Our clock, which may be set, and a source with a clock that goes right and is `ahead` of what ours
/// showed at first.
struct World {
    clock: Clock,
    hands: Hands,
    right: Clock,
    ahead: i128,
}

fn world(fraction_ms: u64, ahead_ms: i64) -> World {
    let start = T + Duration::from_millis(fraction_ms);
    let (clock, hands) = Clock::adjustable(start);
    World { clock, hands, right: Clock::starting_at(start), ahead: i128::from(ahead_ms) * 1_000_000 }
}

async fn pass(time: Duration) {
    tokio::time::advance(time).await;
}

impl World {
    fn lane(&self) -> Cooldowns {
        Cooldowns::new(LaneRecord::default(), MARGIN, self.clock)
    }

    fn theirs(&self) -> UnixTime {
        self.right.now().shifted(self.ahead)
    }

    /// A call that takes `trip`; half of it when the source looks at its clock.
    async fn reply(&self, trip: Duration) -> Answered<()> {
        let sent = self.clock.moment();
        pass(trip / 2).await;
        let date = UnixTime::from_secs(self.theirs().as_secs());
        pass(trip / 2).await;
        let timing = Timing {
            sent: sent.wall,
            begun: sent.instant,
            answered: self.clock.now(),
            sent_bytes: 0,
            uploaded: None,
            first_byte: trip,
            total: trip,
        };
        Answered { reply: (), timing, date: Some(date) }
    }

    /// The same without waiting, for what does not turn on when.
    fn dated(&self, date: Option<UnixTime>) -> Answered<()> {
        let sent = self.clock.moment();
        let timing = Timing {
            sent: sent.wall,
            begun: sent.instant,
            answered: sent.wall,
            sent_bytes: 0,
            uploaded: None,
            first_byte: Duration::ZERO,
            total: Duration::ZERO,
        };
        Answered { reply: (), timing, date }
    }

    /// The end of a cooldown of `time` from now, as the source writes it.
    fn until(&self, time: Duration) -> UnixTime {
        UnixTime::from_secs((self.theirs() + time).as_secs())
    }

    /// Waits until the lane may be asked; how late that is by the source's clock. Fails if it is early.
    #[track_caller]
    fn lateness_at(&self, lane: &Cooldowns, until: UnixTime) -> Duration {
        let wait = lane.due_at().saturating_duration_since(self.clock.instant());
        let theirs = self.theirs() + wait;
        assert!(theirs >= until, "early by {} ns", until.nanos_after(theirs));
        theirs.saturating_since(until)
    }
}

#[tokio::test(start_paused = true)]
async fn no_pull_is_early_for_any_offset() {
    for ahead_ms in [-60_000, -3_700, -1, 0, 700, 999, 60_000] {
        for fraction in [0, 1, 250, 999] {
            for trip in [1, 40, 2_500] {
                let world = world(fraction, ahead_ms);
                let mut lane = world.lane();
                let trip = Duration::from_millis(trip);
                lane.observe(&world.reply(trip).await);
                let until = world.until(Duration::from_secs(300));
                assert!(lane.cool_until(until));
                let late = world.lateness_at(&lane, until);
                assert!(
                    late <= Duration::from_millis(1_200) + trip,
                    "{late:?} at {ahead_ms} {fraction} {trip:?}"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn replies_make_pulls_less_late() {
    let world = world(730, 700);
    let mut lane = world.lane();
    let mut late = Duration::MAX;
    for _ in 0..12 {
        lane.observe(&world.reply(Duration::from_millis(40)).await);
        let until = world.until(Duration::from_secs(300));
        lane.cool_until(until);
        late = world.lateness_at(&lane, until);
        pass(lane.due_at() - world.clock.instant() + Duration::from_millis(4_177)).await;
    }
    assert!(late < Duration::from_millis(400), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_is_set_at_any_moment_makes_no_pull_early() {
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let world =
            world(rng.random_range(0..1_000), *[-60_000, -3_700, 0, 700, 60_000].choose(&mut rng).unwrap());
        let mut lane = world.lane();
        let steps = [HOUR, -HOUR, HOUR / 7_200, -HOUR / 7_200, 0, 0];
        for round in 0..6 {
            let trip = Duration::from_millis(rng.random_range(1..800));
            let step = *steps.choose(&mut rng).unwrap();
            let answered = if rng.random_bool(0.3) {
                let (answered, ()) = tokio::join!(world.reply(trip), async { world.hands.turn(step) });
                answered
            } else {
                world.hands.turn(step);
                world.reply(trip).await
            };
            lane.observe(&answered);
            let until = world.until(Duration::from_secs(rng.random_range(2..900)));
            lane.cool_until(until);
            let wait = lane.due_at() - world.clock.instant();
            pass(wait.mul_f64(rng.random_range(0.0..1.0))).await;
            world.hands.turn(*steps.choose(&mut rng).unwrap());
            let late = world.lateness_at(&lane, until);
            assert!(late <= Duration::from_millis(1_250) + trip, "{late:?} in round {round} of seed {seed}");
            // By the wall clock it is the same moment.
            let wait = lane.due().saturating_since(world.clock.now());
            assert_eq!(wait, lane.due_at().saturating_duration_since(world.clock.instant()), "seed {seed}");
            pass(wait).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_sets_its_clock_back_is_asked_early_once() {
    let mut world = world(10, 0);
    let mut lane = world.lane();
    for _ in 0..5 {
        lane.observe(&world.reply(Duration::from_millis(2)).await);
        pass(Duration::from_millis(5_130)).await;
    }
    lane.observe(&world.reply(Duration::from_millis(2)).await);
    let until = world.until(Duration::from_secs(300));
    lane.cool_until(until);
    world.ahead -= 700_000_000;
    pass(lane.due_at() - world.clock.instant()).await;
    assert!(world.theirs() < until, "this pull is early, and its answer says so");
    lane.observe(&world.reply(Duration::from_millis(2)).await);
    assert_eq!(lane.told(), Some(until));
    assert!(lane.cool_until(until));
    assert_eq!(lane.told(), None);
    let late = world.lateness_at(&lane, until);
    assert!(late < Duration::from_millis(1_200), "{late:?}");
    pass(lane.due_at() - world.clock.instant()).await;
    let until = world.until(Duration::from_secs(300));
    lane.cool_until(until);
    world.lateness_at(&lane, until);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_moves_its_clock_far_is_learned_anew() {
    for moved in [HOUR, -HOUR, 5_000_000_000, -5_000_000_000] {
        let mut world = world(500, 0);
        let mut lane = world.lane();
        lane.observe(&world.reply(Duration::from_millis(20)).await);
        world.ahead += i128::from(moved);
        lane.observe(&world.reply(Duration::from_millis(20)).await);
        let until = world.until(Duration::from_secs(300));
        lane.cool_until(until);
        let late = world.lateness_at(&lane, until);
        assert!(late < Duration::from_millis(1_250), "{late:?} after {moved} ns");
    }
}

/// What a lane wrote down at the start of a cooldown that ends at the returned time, and a new one
/// made of that a minute later, when our clock was set by `step` ms.
async fn restarted(ahead_ms: i64, step_ms: i64) -> (World, Cooldowns, UnixTime) {
    let world = world(370, ahead_ms);
    let mut lane = world.lane();
    for _ in 0..4 {
        lane.observe(&world.reply(Duration::from_millis(40)).await);
        pass(Duration::from_millis(7_390)).await;
    }
    let until = world.until(Duration::from_secs(300));
    lane.cool_until(until);
    let record = lane.record();
    assert_eq!(record.cooldown_until, Some(until), "as the source wrote it");
    pass(Duration::from_secs(60)).await;
    world.hands.turn(step_ms * 1_000_000);
    let lane = Cooldowns::new(record, MARGIN, world.clock);
    (world, lane, until)
}

#[tokio::test(start_paused = true)]
async fn a_restart_adds_two_seconds_at_most() {
    for ahead_ms in [-60_000, -3_700, -400, 0, 300] {
        let (world, lane, until) = restarted(ahead_ms, 0).await;
        let late = world.lateness_at(&lane, until);
        assert!(late < Duration::from_millis(3_000), "{late:?} at {ahead_ms}");
    }
    // A lead is not counted on: it may have been our clock that was behind.
    let (world, lane, until) = restarted(60_000, 0).await;
    assert!(world.lateness_at(&lane, until) < Duration::from_secs(63));
}

#[tokio::test(start_paused = true)]
async fn a_restart_after_the_clock_was_set_is_not_early() {
    // Set back, set right after it was behind, or ahead by a little.
    let set = [
        (0, -HOUR / 1_000_000),
        (HOUR / 1_000_000, HOUR / 1_000_000),
        (60_000, 60_000),
        (0, 500),
        (-3_700, 1_900),
    ];
    for (ahead_ms, step_ms) in set {
        let (world, lane, until) = restarted(ahead_ms, step_ms).await;
        world.lateness_at(&lane, until);
    }
}

#[tokio::test(start_paused = true)]
async fn the_record_is_by_the_clock_as_it_is_set() {
    let world = world(0, 0);
    let mut lane = world.lane();
    lane.observe(&world.reply(Duration::from_millis(2)).await);
    let offset = |lane: &Cooldowns| lane.record().clock_offset.unwrap();
    let before = offset(&lane);
    world.hands.turn(HOUR);
    assert_eq!(offset(&lane), before - HOUR);
    // The same for what only an earlier process knew.
    let record = LaneRecord { clock_offset: Some(7), ..LaneRecord::default() };
    let remembered = Cooldowns::new(record, MARGIN, world.clock);
    assert_eq!(remembered.record(), record);
    world.hands.turn(-HOUR);
    assert_eq!(offset(&remembered), 7 + HOUR);
}

#[tokio::test(start_paused = true)]
async fn a_rest_outlives_a_restart_and_shortens_no_cooldown() {
    for ahead_ms in [-60_000, 0, 60_000] {
        let world = world(0, ahead_ms);
        let mut lane = world.lane();
        lane.observe(&world.reply(Duration::from_millis(10)).await);
        let now = world.clock.now();
        lane.rest(Duration::from_secs(300));
        assert_eq!(lane.due(), now + Duration::from_secs(300));
        let again = Cooldowns::new(lane.record(), MARGIN, world.clock);
        assert!(again.due() >= lane.due(), "at {ahead_ms}");
    }
    let world = world(0, 0);
    let mut lane = world.lane();
    lane.cool_until(T + Duration::from_secs(900));
    let due = lane.due();
    lane.rest(Duration::from_secs(300));
    assert_eq!((lane.due(), lane.record().cooldown_until), (due, Some(T + Duration::from_secs(900))));
}

#[tokio::test(start_paused = true)]
async fn only_an_end_the_source_named_and_we_waited_for_is_told() {
    let world = world(0, 0);
    let mut lane = world.lane();
    let pause = Duration::from_secs(300);
    assert_eq!(lane.told(), None);
    lane.observe(&world.reply(Duration::from_millis(10)).await);
    let until = world.until(pause);
    lane.cool_until(until);
    assert_eq!(lane.told(), None, "it is not over");
    lane.hold(Duration::from_secs(400));
    pass(lane.due_at() - world.clock.instant()).await;
    assert_eq!(lane.told(), Some(until), "our own hold on top of it takes nothing away");
    assert_eq!(Cooldowns::new(lane.record(), MARGIN, world.clock).told(), None);

    // What the source did not name, or what we did not wait for.
    let imposed: [fn(&mut Cooldowns); 3] = [
        |lane| lane.rest(Duration::from_secs(300)),
        |lane| lane.look_again(Duration::from_secs(30)),
        |lane| assert!(lane.cool_until(UnixTime::from_secs(u64::MAX))),
    ];
    for impose in imposed {
        lane.cool_until(world.until(pause));
        impose(&mut lane);
        pass(lane.due_at() - world.clock.instant()).await;
        assert_eq!(lane.told(), None);
    }
    // One that was over when it was named was not waited for.
    assert!(!lane.cool_until(world.until(Duration::ZERO) - Duration::from_secs(60)));
    assert_eq!(lane.told(), None);
}

#[tokio::test(start_paused = true)]
async fn a_cooldown_is_shortened_only_to_look_again_sooner() {
    let world = world(0, 0);
    let mut lane = world.lane();
    let minutes = |n: u64| Duration::from_secs(60 * n);
    lane.cool_until(T + minutes(60));
    lane.look_again(minutes(10));
    assert_eq!(lane.due(), T + minutes(10));
    lane.look_again(minutes(20));
    assert_eq!(lane.due(), T + minutes(10));
}

#[tokio::test(start_paused = true)]
async fn no_cooldown_lasts_longer_than_a_day() {
    for offset in [None, Some(0), Some(-HOUR), Some(7)] {
        let world = world(0, 0);
        let record = LaneRecord { clock_offset: offset, ..LaneRecord::default() };
        let mut lane = Cooldowns::new(record, Duration::ZERO, world.clock);
        assert!(lane.cool_until(UnixTime::from_secs(u64::MAX)));
        assert_eq!(lane.due(), T + LONGEST, "at {offset:?}");
    }
    // Nor one that is read back.
    let world = world(0, 0);
    let record = LaneRecord { cooldown_until: Some(T + LONGEST * 900), ..LaneRecord::default() };
    assert_eq!(Cooldowns::new(record, Duration::ZERO, world.clock).due(), T + LONGEST);
    for offset in [i64::MIN, i64::MAX] {
        let record = LaneRecord { clock_offset: Some(offset), cooldown_until: Some(T), ..record };
        let lane = Cooldowns::new(record, Duration::ZERO, world.clock);
        assert!(lane.due() <= T + LONGEST, "at {offset}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cooldown_in_the_past_changes_no_backoff() {
    let backoff = Backoff::try_new(Duration::from_secs(10), Duration::from_secs(300)).unwrap();
    let world = world(0, 0);
    let mut lane = world.lane();
    for wait in [10, 20, 40] {
        assert!(!lane.cool_until(UnixTime::from_secs(1)));
        assert_eq!(lane.fail(backoff).as_secs(), wait);
        assert_eq!(lane.due(), T + Duration::from_secs(wait));
    }
}

#[tokio::test(start_paused = true)]
async fn a_date_of_another_age_is_no_clock() {
    let world = world(0, 0);
    let mut lane = world.lane();
    for date in [UnixTime::EPOCH, UnixTime::from_secs(u64::MAX)] {
        lane.observe(&world.dated(Some(date)));
        assert_eq!(lane.record().clock_offset, None);
    }
    lane.observe(&world.dated(Some(T + Duration::from_secs(5))));
    let learned = lane.record().clock_offset;
    assert!(learned.is_some());
    lane.observe(&world.dated(Some(UnixTime::EPOCH)));
    assert_eq!(lane.record().clock_offset, learned);
}

#[tokio::test(start_paused = true)]
async fn without_any_date_a_clock_that_is_set_costs_time_and_no_violation() {
    for (step, most) in [(0, 3), (HOUR, 3), (-HOUR, 3_603)] {
        let world = world(0, 0);
        let mut lane = world.lane();
        world.hands.turn(step);
        lane.observe(&world.dated(None));
        let until = world.until(Duration::from_secs(300));
        assert!(lane.cool_until(until));
        let late = world.lateness_at(&lane, until);
        assert!(late >= BLIND_SLACK && late < Duration::from_secs(most), "{late:?} after {step} ns");
    }
}

#[tokio::test(start_paused = true)]
async fn failures_hold_a_lane_longer_and_longer() {
    let backoff = Backoff::try_new(Duration::from_secs(10), Duration::from_secs(300)).unwrap();
    let world = world(0, 0);
    let mut lane = world.lane();
    assert_eq!(lane.due(), UnixTime::EPOCH);
    assert_eq!(lane.fail(backoff).as_secs(), 10);
    assert_eq!(lane.fail(backoff).as_secs(), 20);
    assert_eq!(lane.due(), T + Duration::from_secs(20));
    world.hands.turn(-HOUR);
    assert_eq!(lane.due(), T + Duration::from_secs(20) - Duration::from_secs(3_600));
    lane.answered();
    assert!(lane.due() <= world.clock.now());
}

/// rules.md R2, as a validator reckons.
fn told_after(assigned: UnixTime, booked: UnixTime, c: u64, t: u64) -> UnixTime {
    let (c, t) = (Duration::from_secs(c), Duration::from_secs(t));
    UnixTime::from_secs((booked + c - t).max(assigned + c).as_secs())
}

#[test]
fn the_cooldown_follows_from_a_reply() {
    let mut rng = StdRng::seed_from_u64(2);
    for c in [15, 60, 300, 3_600] {
        for t in [0, 3, 30, 60] {
            for _ in 0..200 {
                let assigned = T + Duration::from_millis(rng.random_range(0..100_000));
                let booked = assigned + Duration::from_millis(rng.random_range(0..200_000));
                let until = told_after(assigned, booked, c, t);
                let throttle = Duration::from_secs(t);
                let found = cooldown_from_reply(until, assigned, booked, throttle);
                let short = Duration::from_secs(c).checked_sub(found).expect("never longer than it is");
                assert!(short < Duration::from_secs(1), "{found:?} for {c}, {t}");
                // Reckoned a little late, it is short by as much.
                let late = Duration::from_millis(700);
                let found = cooldown_from_reply(until, assigned + late, booked + late, throttle);
                assert!(
                    found < Duration::from_secs(c)
                        && found + late + Duration::from_secs(1) > Duration::from_secs(c)
                );
            }
        }
    }
    // Whatever a stranger writes.
    assert_eq!(cooldown_from_reply(UnixTime::EPOCH, T, T, Duration::MAX), Duration::ZERO);
    cooldown_from_reply(UnixTime::from_secs(u64::MAX), UnixTime::EPOCH, T, Duration::MAX);
}
