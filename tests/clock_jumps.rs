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

/// Mines for six hours, in which the clock is set `jumps` times; returns how many were accepted.
async fn mined(network: &Network, seed: u64, jumps: u32) -> u64 {
    let time = Duration::from_secs(6 * 3_600);
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
    let undisturbed = mined(&Network::new(&ahead, WORK), 0, 0).await;
    for seed in 1..=4 {
        let accepted = mined(&Network::new(&ahead, WORK), seed, 60).await;
        assert!(accepted + 9 >= undisturbed, "{accepted} instead of {undisturbed} with seed {seed}");
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
    // Back; right again after it was behind; ahead by what a restart reckons with.
    let jumps =
        [(0, -3_600 * SECOND), (3_600_000, 3_600 * SECOND), (60_000, 60 * SECOND), (-3_700, 3 * SECOND / 2)];
    for (ahead_ms, jump) in jumps {
        let network = Network::new(&[ahead_ms], WORK);
        let data = tempfile::tempdir().unwrap();
        for (minutes, jump) in [(3, jump), (3, -jump), (4, jump), (90, 0)] {
            network.mine(data.path(), Duration::from_secs(minutes * 60)).await;
            // What sets the clock back to wrong sets it ahead of the source: beyond the promise.
            if jump <= 2 * SECOND || ahead_ms > 0 && jump > 0 {
                network.hands.turn(jump);
            }
        }
        network.assert_clean();
        let accepted = network.validators[0].count("accepted");
        assert!(accepted >= 3, "{accepted} accepted after {jump} ns");
    }
}
