//! Our wall clock is set while the agent mines, as NTP, an operator or a virtual machine does: no pull
//! is early, and mining goes on as if nothing had happened.

#[path = "support/clocks.rs"]
mod clocks;

use std::time::Duration;

use clocks::{Network, Pace};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

const SECOND: i64 = 1_000_000_000;
const JUMPS: [i64; 6] = [-3_600 * SECOND, 3_600 * SECOND, SECOND / 2, -SECOND / 2, 61 * SECOND, -7 * SECOND];

/// A generation, and the validator's scoring, long enough to be hit by a jump.
const WORK: Pace = Pace { generation: Duration::from_secs(12), validation: Duration::from_secs(4) };

const HOURS: u64 = 3;

/// Mines for some hours, in which the clock is set `jumps` times; returns how many were accepted.
async fn mined(network: &Network, seed: u64, jumps: u32) -> u64 {
    let time = Duration::from_secs(HOURS * 3_600);
    let data = tempfile::tempdir().unwrap();
    let jumping = async {
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..jumps {
            tokio::time::sleep(time / (jumps + 1)).await;
            // Not in step with anything else.
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..40_000))).await;
            network.hands.turn(*JUMPS.choose(&mut rng).unwrap());
        }
    };
    tokio::join!(network.mine(data.path(), time), jumping);
    network.assert_clean();
    network.validators.iter().map(|validator| validator.count("accepted")).sum()
}

#[tokio::test(start_paused = true)]
async fn no_jump_makes_a_pull_early_or_stops_the_mining() {
    let ahead = [-3_700, 0, 60_000];
    for seed in [1, 2] {
        let accepted = mined(&Network::new(&ahead, WORK), seed, 60).await;
        // 300 s from task to task, and now and then 16 s for the others'.
        let undisturbed = ahead.len() as u64 * HOURS * 3_600 / 305;
        assert!(accepted >= undisturbed - 6, "{accepted} instead of {undisturbed} with seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_jump_at_any_moment_costs_no_time() {
    for jump in JUMPS {
        for moment in [3, 14, 60, 290, 300, 310] {
            let network = Network::new(&[0], Pace { generation: Duration::from_secs(2), ..Pace::INSTANT });
            let data = tempfile::tempdir().unwrap();
            tokio::join!(network.mine(data.path(), Duration::from_secs(1_000)), async {
                tokio::time::sleep(Duration::from_secs(moment)).await;
                network.hands.turn(jump);
            });
            network.assert_clean();
            let late = network.validators[0].lateness();
            assert_eq!(late.len(), 3, "{late:?} after {jump} ns at {moment} s");
            assert!(
                late.iter().all(|late| *late < Duration::from_millis(1_500)),
                "{late:?} after {jump} ns at {moment} s"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_between_two_processes_makes_no_pull_early() {
    // Right again after it was behind; ahead by what a restart reckons with; back, which costs as much.
    let jumps = [(3_600_000, 3_600), (60_000, 60), (0, 1), (-3_700, 1), (0, -3_600), (3_600_000, -60)];
    for (ahead_ms, seconds) in jumps {
        let network = Network::new(&[ahead_ms], WORK);
        let data = tempfile::tempdir().unwrap();
        network.mine(data.path(), Duration::from_secs(180)).await;
        network.hands.turn(seconds * SECOND);
        network.mine(data.path(), Duration::from_secs(3 * 3_600)).await;
        network.assert_clean();
        let accepted = network.validators[0].count("accepted");
        assert!(accepted >= 2 * 3_600 / 305, "{accepted} accepted after {seconds} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_validator_that_sets_its_clock_is_asked_early_once_at_most() {
    for seconds in [-3_600, -30, -1, 1, 30, 3_600] {
        let network = Network::new(&[0, 0], WORK);
        let data = tempfile::tempdir().unwrap();
        let set = async {
            for moment in [410, 3_333, 1_000] {
                tokio::time::sleep(Duration::from_secs(moment)).await;
                network.validators[0].hands.turn(seconds * SECOND);
            }
        };
        tokio::join!(network.mine(data.path(), Duration::from_secs(6 * 3_600)), set);
        // What it booked before it says is longer ago, or not so long, by its own clock.
        let [set, other] = &network.validators[..] else { panic!("there are two") };
        let early = set.count("violation");
        assert!(early <= if seconds < 0 { 3 } else { 0 }, "{early} early pulls by {seconds} s");
        assert!(set.count("accepted") >= 2 * 3_600 / 305, "{} accepted", set.count("accepted"));
        assert_eq!(other.count("violation"), 0);
        assert!(other.count("accepted") >= 6 * 3_600 / 305 - 2, "{} accepted", other.count("accepted"));
    }
}
