//! Validators whose clocks are wrong and whose `Date` is whole seconds: none is ever asked early, and
//! none much later than it could be.

#[path = "support/clocks.rs"]
mod clocks;

use std::time::Duration;

use clocks::{Network, Pace};

const HOURS: u64 = 6;

#[tokio::test(start_paused = true)]
async fn clocks_off_by_seconds_and_by_a_minute_cost_no_violation_and_little_time() {
    let network = Network::new(&[-3_700, 700, 60_000], Pace::INSTANT);
    let data = tempfile::tempdir().unwrap();
    network.mine(data.path(), Duration::from_secs(HOURS * 3_600)).await;
    network.assert_clean();
    for validator in &network.validators {
        let late = validator.lateness();
        let (accepted, most) = (validator.count("accepted"), late.iter().max().unwrap());
        let mean = late.iter().sum::<Duration>() / late.len() as u32;
        assert!(accepted >= HOURS * 12 - 1, "{accepted} accepted");
        assert_eq!(accepted, validator.count("assigned"));
        assert!(*most <= Duration::from_millis(1_500), "{late:?}");
        // The bounds of its clock close in on the truth from reply to reply.
        assert!(mean <= Duration::from_millis(500), "{mean:?}");
        println!("{accepted} accepted, late by {mean:?} on average, {most:?} at most");
    }
}

#[tokio::test(start_paused = true)]
async fn restarts_among_wrong_clocks_are_not_early() {
    let network = Network::new(&[-3_700, 700, 60_000], Pace::INSTANT);
    let data = tempfile::tempdir().unwrap();
    for round in 0..40 {
        network.mine(data.path(), Duration::from_millis(61_000 + 977 * round)).await;
    }
    network.assert_clean();
    for validator in &network.validators {
        assert!(validator.count("accepted") >= 6, "{} accepted", validator.count("accepted"));
        let most = *validator.lateness().iter().max().unwrap();
        assert!(most <= Duration::from_secs(64), "{most:?}");
    }
}
