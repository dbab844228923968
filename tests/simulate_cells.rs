//! Four cells of the tables of rules.md R9, simulated for some hours. `scripts/campaign.sh simulate`
//! does all of them, for 36 hours and with several seeds.

#[path = "support/tables.rs"]
mod tables;

use std::time::Duration;

use sn17_miner::sim::{Options, Party, Policy, Report, Scenario, simulate};
use tables::{CELLS, Cell, capacity};

const HOUR: Duration = Duration::from_secs(3_600);

fn run(scenario: &Scenario, party: Party) -> Report {
    let report = simulate(scenario, party, &Options::default(), |_| ()).unwrap();
    assert!(report.is_clean(), "{scenario:?}\n{report:#?}");
    report
}

/// All candidates pass: the capacity table within 3 %, and blocking is left behind from K = 8 on.
#[track_caller]
fn holds_capacity(validators: u16) {
    let expected = capacity(validators);
    let scenario = Scenario { validators, warm_up: HOUR, time: HOUR * 12, ..Scenario::default() };
    let agent = run(&scenario, Party::Agent);
    let off = agent.accepted_per_h / expected.tasks - 1.0;
    assert!(off.abs() < 0.03, "{} per hour for {}", agent.accepted_per_h, expected.tasks);
    assert_eq!(agent.failed_per_h, 0.0);
    let blocking = run(&scenario, Party::Reference(Policy::OFFICIAL));
    let off = blocking.accepted_per_h / expected.blocking - 1.0;
    assert!(off.abs() < 0.03, "{} per hour for {}", blocking.accepted_per_h, expected.blocking);
    if validators >= 8 {
        assert!(agent.accepted_per_h > 1.09 * blocking.accepted_per_h, "{}", agent.accepted_per_h);
    }
}

/// Some candidates fail: as good as every fixed gate under the same luck, within 1 % for what the
/// few hours decide.
#[track_caller]
fn keeps_up_with_the_gates(pass: f64, validators: u16) {
    let is_cell = |cell: &&Cell| cell.pass == pass && cell.validators == validators;
    let cell = CELLS.iter().find(is_cell).expect("the table has this cell");
    let scenario = Scenario { pass, validators, warm_up: HOUR, time: HOUR * 12, ..Scenario::default() };
    let agent = run(&scenario, Party::Agent).accepted_per_h;
    let mut best: f64 = 0.0;
    for policy in [Policy::GATE_OR_EMPTY, Policy::ONE_RETRY, Policy::THREE_RETRIES] {
        best = best.max(run(&scenario, Party::Reference(policy)).accepted_per_h);
    }
    assert!((best / cell.best_gated() - 1.0).abs() < 0.06, "the best gate {best} for {}", cell.best_gated());
    assert!(agent > 0.99 * best, "{agent} per hour, the best gate {best}");
}

#[test]
fn four_validators_leave_the_card_idle_half_of_the_time() {
    holds_capacity(4);
}

#[test]
fn ten_validators_keep_the_card_busy() {
    holds_capacity(10);
}

#[test]
fn poor_luck_and_few_validators() {
    keeps_up_with_the_gates(0.55, 2);
}

#[test]
fn fair_luck_and_many_validators() {
    keeps_up_with_the_gates(0.80, 10);
}
