//! `simulate` of the real binary.

mod support;

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use support::program::Program;

const PATIENCE: Duration = Duration::from_secs(60);

fn simulate(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sn17-miner"));
    // No configuration of the place counts.
    command.arg("simulate").args(args).env("SN17_DECIDE__MAX_RETRIES", "nonsense");
    command
}

fn output(args: &[&str]) -> Output {
    simulate(args).output().unwrap()
}

#[test]
fn the_agent_and_the_policies_stand_in_one_table() {
    let args = ["--validators", "2", "--hours", "2", "--warm-up", "30m", "--pass", "0.8", "--reference"];
    let printed = output(&args);
    let text = String::from_utf8(printed.stdout).unwrap();
    let complaints = String::from_utf8(printed.stderr).unwrap();
    assert_eq!((printed.status.code(), &*complaints), (Some(0), ""), "{text}");
    let policies = ["agent", "blocking, polling", "strict hand-off", "submit all", "three retries"];
    for policy in policies {
        let row = text.lines().find(|line| line.starts_with(policy)).unwrap_or_else(|| panic!("{text}"));
        assert!(row.contains(" %") && row.ends_with(" s"), "{row}");
    }
    assert!(text.contains("by the formula 22.9 tasks per hour; seed 1"), "{text}");
    assert!(text.contains("lateness p50") && text.contains(" booked, 0 open"), "{text}");
    assert!(!text.contains("NOT CLEAN"), "{text}");
}

#[test]
fn json_says_what_was_simulated_and_what_came_of_it() {
    let args = ["--json", "--validators", "1", "--hours", "1", "--warm-up", "0s", "--clock-ahead=-3.7,0.7"];
    let printed = output(&args);
    assert_eq!(printed.status.code(), Some(0));
    let all: Value = serde_json::from_slice(&printed.stdout).unwrap();
    let scenario = &all["scenario"];
    assert_eq!(scenario["clocks_ahead_ns"][0], -3_700_000_000_i64);
    assert_eq!((&scenario["cooldown_s"], &scenario["candidates"]), (&Value::from(300.0), &Value::from(1)));
    let [report] = all["reports"].as_array().unwrap().as_slice() else { panic!("{all}") };
    let mut keys: Vec<_> = report.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "accepted_per_h",
            "agent",
            "busy",
            "cards",
            "counted_h",
            "empty_per_h",
            "events",
            "failed_per_h",
            "faults",
            "interrupted",
            "longest_idle_s",
            "peak_rss_mib",
            "policy",
            "wall_s",
            "window"
        ]
    );
    assert_eq!(report["events"]["accepted"], report["window"]["most"]);
}

#[test]
fn a_card_of_some_size_is_shown_beside_the_strict_sequence() {
    let args = ["--card", "24576", "--validators", "12", "--hours", "1", "--warm-up", "30m"];
    let printed = output(&args);
    let text = String::from_utf8(printed.stdout).unwrap();
    let complaints = String::from_utf8(printed.stderr).unwrap();
    assert_eq!((printed.status.code(), &*complaints), (Some(0), ""), "{text}");
    assert!(text.contains("hand-off 2s 500ms + 2s 500ms on 24576 MiB"), "{text}");
    let swaps = |policy: &str| -> f64 {
        let row = text.lines().find(|line| line.contains(policy)).unwrap_or_else(|| panic!("{text}"));
        let words: Vec<_> = row.trim_start_matches([' ', '1', '2']).split_whitespace().collect();
        let [.., swaps, _, _, _, _, _, _, _] = words[..] else { panic!("{row}") };
        swaps.parse().unwrap_or_else(|_| panic!("{row}"))
    };
    assert!(swaps("agent") <= 0.5 && swaps("strict, async") > 0.9, "{text}");
}

#[test]
fn ctrl_c_ends_with_what_is_known_so_far() {
    let folder = tempfile::tempdir().unwrap();
    let mut program =
        Program::start("simulate", &mut simulate(&["--validators", "2", "--hours", "9999"]), folder.path());
    assert!(program.line(PATIENCE, |line| line.starts_with("policy")).is_some());
    program.terminate();
    let ended = program.finish(PATIENCE);
    assert!(ended.lines.iter().any(|line| line.starts_with("interrupted after")), "{:?}", ended.lines);
    assert_eq!(ended.status.code(), Some(0), "{:?}", ended.lines);
}

#[test]
fn nonsense_is_refused_before_anything_starts() {
    for args in [
        ["--pass", "1.5"],
        ["--pass", "nan"],
        ["--hours", "0"],
        ["--hours", "inf"],
        ["--validators", "0"],
        ["--candidates", "many"],
        ["--handoff", "sometimes"],
        ["--card", "8192"],
        ["--card", "24GiB"],
        ["--generation", "30"],
    ] {
        assert_eq!(output(&args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn what_the_agent_refuses_is_a_bad_configuration() {
    // The configuration takes cooldowns of a second and more.
    assert_eq!(output(&["--cooldown", "1ms"]).status.code(), Some(64));
    let unwritable = output(&["--scratch", "/nonexistent"]);
    assert_eq!(unwritable.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unwritable.stderr).contains("temporary directory"));
}

#[test]
fn what_it_would_not_heed_is_refused() {
    for args in [
        &["--set", "decide.max_retries=0"][..],
        &["--config", "/nonexistent.toml"],
        &["--clock-ahead", "NaN"],
        &["--clock-ahead", "1e300"],
    ] {
        assert_eq!(output(args).status.code(), Some(2), "{args:?}");
    }
}
