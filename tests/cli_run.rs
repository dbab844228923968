//! The binary as a new user runs it: embedded network, no wallet, no GPU.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// The agent in a directory of its own, with nothing of this user's around it.
fn agent(dir: &Path, args: &[&str]) -> Output {
    // A run that would not end by itself fails with status 124.
    Command::new("/usr/bin/timeout")
        .arg("60")
        .arg(env!("CARGO_BIN_EXE_sn17-miner"))
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("HOME", dir)
        .env("XDG_RUNTIME_DIR", dir)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn three_tasks_are_mined_on_the_embedded_network() {
    let dir = tempfile::tempdir().unwrap();
    let output = agent(dir.path(), &["run", "--tasks", "3"]);
    let log = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{log}{}", text(&output.stderr));
    let lines = |needle: &str| log.lines().filter(|line| line.contains(needle)).count();
    // The three greps of operators, literally.
    assert_eq!(lines("Feedback from"), 3, "{log}");
    assert_eq!(lines("Total time:"), 3, "{log}");
    assert_eq!(lines("Acquired generation lock"), 3, "{log}");
    for line in log.lines().filter(|line| line.contains("Feedback from")) {
        let score: f64 =
            line.split("Score: ").nth(1).unwrap().split(". Local").next().unwrap().parse().unwrap();
        assert!(score >= 0.6, "{line}");
        assert!(line.contains("outcome=accepted"), "{line}");
    }
    assert_eq!(lines("DEVELOPMENT NETWORK"), 1);
    assert!(
        log.contains("network.name") && log.contains("wallet.path") && log.contains("url of the generator")
    );
    assert!(output.stderr.is_empty(), "the log is the data: {}", text(&output.stderr));
}

#[test]
fn once_takes_one_task_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let output = agent(dir.path(), &["run", "--once"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout).matches("Feedback from").count(), 1);
}

#[test]
fn one_prompt_is_made_checked_and_scored() {
    let dir = tempfile::tempdir().unwrap();
    let first = agent(dir.path(), &["--task", "a red cube", "--json", "--seed", "7"]);
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    let summary: Value = serde_json::from_slice(&first.stdout).unwrap();
    assert_eq!(summary["seed"], 7);
    assert!(summary["points"].as_u64().unwrap() >= 20_000);
    assert!(summary["score"].as_f64().unwrap() > 0.6);

    let file = |key: &str| dir.path().join(summary[key]["file"].as_str().unwrap());
    let before: Vec<_> = ["spz", "ply"].iter().map(|key| std::fs::read(file(key)).unwrap()).collect();
    let second = agent(dir.path(), &["--task", "three blue spheres", "--json", "--seed", "7"]);
    let other: Value = serde_json::from_slice(&second.stdout).unwrap();
    assert_ne!(summary["spz"]["sha256"], other["spz"]["sha256"]);
    let after: Vec<_> = ["spz", "ply"].iter().map(|key| std::fs::read(file(key)).unwrap()).collect();
    assert_eq!(before, after, "the first prompt's files were touched");
    assert_eq!(std::fs::read_dir(dir.path().join("out")).unwrap().count(), 6);

    let spz = file("spz");
    let decoded = dir.path().join("decoded.ply");
    let again = dir.path().join("again.spz");
    let decode = agent(dir.path(), &["splat", "decode", spz.to_str().unwrap(), decoded.to_str().unwrap()]);
    assert_eq!(decode.status.code(), Some(0), "{}", text(&decode.stderr));
    let encode =
        agent(dir.path(), &["splat", "encode", file("ply").to_str().unwrap(), again.to_str().unwrap()]);
    assert_eq!(encode.status.code(), Some(0));
    assert_eq!(std::fs::read(again).unwrap(), before[0], "the PLY beside the SPZ is its source");
}

#[test]
fn an_image_is_a_prompt_too() {
    let dir = tempfile::tempdir().unwrap();
    let picture = dir.path().join("picture.png");
    std::fs::write(&picture, sn17_miner::devnet::pictures::png("a red cube", 1)).unwrap();
    let output = agent(dir.path(), &["--image", picture.to_str().unwrap(), "--json"]);
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["kind"], "image");
    assert!(summary["points"].as_u64().unwrap() >= 20_000);

    std::fs::write(&picture, "no picture").unwrap();
    let output = agent(dir.path(), &["--image", picture.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no image of a known kind"));
}

#[test]
fn the_official_miners_flags_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let flags: &[&[&str]] = &[
        &["--wallet.name", "w"],
        &["--wallet.hotkey", "h"],
        &["--wallet.path", "/p"],
        &["--subtensor.network", "finney"],
        &["--subtensor.chain_endpoint", "ws://x"],
        &["--subtensor._mock"],
        &["--axon.port", "1"],
        &["--axon.ip", "1.2.3.4"],
        &["--axon.external_port", "1"],
        &["--axon.external_ip", "1.2.3.4"],
        &["--axon.max_workers", "1"],
        &["--logging.debug"],
        &["--logging.trace"],
        &["--logging.info"],
        &["--logging.record_log"],
        &["--logging.logging_dir", "/l"],
        &["--logging.enable_third_party_loggers"],
        &["--neuron.name", "miner"],
        &["--neuron.sync_interval", "1800"],
        &["--neuron.log_info_interval", "30"],
        &["--neuron.min_stake_to_set_weights", "1000"],
        &["--netuid", "17"],
        &["--generation.endpoint", "http://127.0.0.1:8093"],
        &["--generation.endpoints", "http://127.0.0.1:8093"],
        &["--no_prompting"],
        &["--no_version_checking"],
    ];
    for flag in flags {
        for dashed in [false, true] {
            let mut args: Vec<String> = flag.iter().map(ToString::to_string).collect();
            if dashed {
                args[0] = format!("--{}", args[0][2..].replace(['.', '_'], "-"));
            }
            // Parsed before the command runs, which may then find fault with the values.
            args.extend(["config".into(), "check".into()]);
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let status = agent(dir.path(), &args).status.code();
            assert_ne!(status, Some(2), "{args:?} does not parse");
        }
    }
}

#[test]
fn an_old_process_file_needs_no_command_and_hears_what_has_no_effect() {
    let dir = tempfile::tempdir().unwrap();
    let output =
        agent(dir.path(), &["--wallet.name", "nobody", "--axon.port", "8091", "--neuron.name", "miner"]);
    let log = text(&output.stdout);
    assert_eq!(output.status.code(), Some(69), "{log}");
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("no effect here")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains("axon.port") && warnings[0].contains("neuron.name"));
    assert!(text(&output.stderr).contains("nobody"), "{}", text(&output.stderr));
}

#[test]
fn mistakes_in_the_configuration_end_with_64_and_are_all_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.toml"), "[log]\nlevel = 3\n[wallet]\nnmae = \"x\"\n").unwrap();
    for args in [&["config", "check"][..], &["run"], &["--task", "x"]] {
        let output = agent(dir.path(), args);
        assert_eq!(output.status.code(), Some(64), "{args:?}");
        let error = text(&output.stderr);
        assert!(error.contains("log.level") && error.contains("wallet.nmae"), "{error}");
    }
}

#[test]
fn an_example_key_is_refused_on_a_public_network() {
    let dir = tempfile::tempdir().unwrap();
    let wallets = Path::new(env!("CARGO_MANIFEST_DIR")).join("wallets.example");
    let output = agent(
        dir.path(),
        &[
            "run",
            "--wallet.path",
            wallets.to_str().unwrap(),
            "--generation.endpoint",
            "http://127.0.0.1:8093",
            "--config",
            "live.toml",
        ],
    );
    assert_eq!(output.status.code(), Some(64), "no such file");
    let validator = sn17_miner::wallet::HotkeyPair::dev("validator-0").hotkey().to_ss58();
    let live = format!("[[validators]]\nhotkey = \"{validator}\"\naddress = \"1.2.3.4:8091\"\n");
    std::fs::write(dir.path().join("live.toml"), live).unwrap();
    let output = agent(
        dir.path(),
        &[
            "run",
            "--wallet.path",
            wallets.to_str().unwrap(),
            "--generation.endpoint",
            "http://127.0.0.1:8093",
            "--config",
            "live.toml",
        ],
    );
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("example key"), "{}", text(&output.stderr));
}

#[test]
fn the_shipped_files_load() {
    let dir = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["config.toml", "wallets.example"] {
        let status = Command::new("cp").arg("-r").arg(root.join(name)).arg(dir.path()).status().unwrap();
        assert!(status.success());
    }
    let check = agent(dir.path(), &["config", "check"]);
    assert_eq!(text(&check.stdout), "config.toml is fine\n");
    let show: Value =
        serde_json::from_slice(&agent(dir.path(), &["wallet", "show", "--json"]).stdout).unwrap();
    let miner = sn17_miner::wallet::HotkeyPair::dev("miner").hotkey().to_ss58();
    assert_eq!(show["hotkey"], miner.as_str());
}

#[test]
fn the_configuration_says_where_each_value_comes_from() {
    let dir = tempfile::tempdir().unwrap();
    let output = agent(
        dir.path(),
        &["config", "show", "--json", "--log-level", "debug", "--set", "splat.zstd_level=4"],
    );
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    let origin = |key: &str| {
        let line = shown.as_array().unwrap().iter().find(|line| line["key"] == key).unwrap();
        (line["value"].as_str().unwrap().to_owned(), line["origin"].as_str().unwrap().to_owned())
    };
    assert_eq!(origin("log.level"), ("\"debug\"".into(), "--log-level".into()));
    assert_eq!(origin("splat.zstd_level"), ("4".into(), "--set".into()));
    assert_eq!(origin("network.netuid"), ("17".into(), "default".into()));
}
