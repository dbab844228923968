//! Our binary mines for a stranger: the real bittensor 9.9.0 axon, which checks everything itself.
//!
//! The second half shows that its approval means something: a single character changed on the way,
//! in whatever it has to check, and the same run ends red.

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::agent::Agent;
use support::peers::{PATIENCE, Peers, announce, report};
use support::wire::{Message, RawServer, swap_character};

/// A whole run of the agent.
const RUN: Duration = Duration::from_secs(120);

/// The times of tests: a booked task of axon.py cools for one second unless the task says otherwise.
const RULES: &str = "[rules]\ncooldown = \"1s\"\nlock = \"1s\"";

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn hamburger() -> Option<PathBuf> {
    support::shared("vectors/splats/hamburger.ply")
}

#[test]
fn a_bittensor_axon_is_served() {
    let (Some(peers), Some(ply)) = (Peers::find(), hamburger()) else { return };
    let Some(picture) = support::shared("vectors/image_prompt.b64") else { return };
    let long = "猫".repeat(1_024);
    // An answer without data counts as booked only with an end of cooldown that is clearly ahead.
    let tasks = json!([
        {"prompt": "a red cube"},
        {"prompt": "一只戴着草帽的猫 🦊 \"quoted\" \\ \u{2028} <Bytes>é e\u{301}</Bytes>\t."},
        {"type": "image", "prompt_file": picture},
        {"prompt": format!("{long}!"), "expect": "empty", "cooldown": 3},
        {"prompt": long},
        {"type": "video", "prompt": "a red cube, turning", "expect": "empty", "cooldown": 3},
        {"prompt": " 0x12 the last one \n"},
    ]);
    let generator = peers.generator(&ply);
    let axon = peers.axon(&tasks, &ply, &["--timeout", "100"]);
    let agent = Agent::new("peer_axon");
    agent.configure((&axon.hotkey, local(axon.port)), local(generator.port), RULES);
    let run = agent.run(&["--tasks", "7"]);

    let (content, seen) = report(axon.program, RUN);
    let ended = run.finish(RUN);
    generator.program.terminate();
    let (_, generated) = report(generator.program, PATIENCE);

    announce(&format!(
        "bittensor axon: {} tasks, {} pulls, {} accepted, {} declined, {} violations, {} refused, {} s",
        seen["tasks"],
        seen["pulls"],
        seen["accepted"],
        seen["declined"],
        seen["violations"],
        seen["refused"].as_array().map_or(0, Vec::len),
        seen["seconds"],
    ));
    assert!(content, "{seen:#}");
    assert_eq!(ended.status.code(), Some(0), "{:#?}", ended.lines);
    let counts = ["tasks", "pulls", "accepted", "declined", "violations", "misplaced"]
        .map(|name| seen[name].as_u64().unwrap());
    assert_eq!(counts, [7, 7, 5, 2, 0, 0], "{seen:#}");
    assert_eq!((&seen["ok"], &seen["refused"], &seen["errors"]), (&json!(true), &json!([]), &json!([])));
    assert_eq!(seen["miner"], agent.hotkey().to_ss58());

    let outcomes =
        ["accepted", "accepted", "accepted", "empty", "accepted", "empty", "accepted"].map(Value::from);
    for (task, outcome) in seen["per_task"].as_array().unwrap().iter().zip(&outcomes) {
        assert_eq!(&task["outcome"], outcome, "{task:#}");
        assert_eq!(task["signature_valid"], true, "{task:#}");
        if outcome == "accepted" {
            assert_eq!((&task["points"], &task["position_error"]), (&json!(52_709), &json!(0.0)), "{task:#}");
            assert_eq!(task["wrong_bytes"], json!({}), "{task:#}");
            assert_eq!(task["off_by_one"], 0, "{task:#}");
        }
    }

    let mut image = std::fs::read_to_string(picture).unwrap();
    image.truncate(image.trim_end().len());
    let asked: Vec<&str> =
        generated["log"].as_array().unwrap().iter().map(|entry| entry["prompt"].as_str().unwrap()).collect();
    let wanted: Vec<&str> = [0, 1, 2, 4, 6]
        .map(|task: usize| if task == 2 { image.as_str() } else { tasks[task]["prompt"].as_str().unwrap() })
        .into();
    assert_eq!(asked, wanted, "each prompt reached the generator once and unchanged");
    assert_eq!(generated["most_at_once"], 1);

    let count = |text: &str| ended.lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!(count("Feedback from [12] Score: 0.8000."), 5, "{:#?}", ended.lines);
    assert_eq!(count("Feedback from [12] Score: empty."), 2, "{:#?}", ended.lines);
    assert_eq!(count("Acquired generation lock"), 5);
    assert_eq!(count("Total time:"), 5);
    assert_eq!(count("ERROR"), 0, "{:#?}", ended.lines);
}

/// What the axon made of one task that came through a proxy.
struct Trial {
    content: bool,
    seen: Value,
}

impl Trial {
    /// One task for our binary, every request on its way to the axon given to `alter`.
    fn run(name: &str, alter: impl Fn(&mut Message) + Send + Sync + 'static) -> Option<Self> {
        let (peers, ply) = (Peers::find()?, hamburger()?);
        let generator = peers.generator(&ply);
        let tasks = json!([{"prompt": "a red cube"}]);
        let axon = peers.axon(&tasks, &ply, &["--timeout", "60", "--linger", "0.1"]);
        let proxy = RawServer::proxy(local(axon.port), alter);
        let agent = Agent::new(name);
        agent.configure((&axon.hotkey, proxy.address()), local(generator.port), RULES);
        // Ends when dropped: what it does after a refusal is none of this test's business.
        let _run = agent.run(&["--tasks", "1"]);
        let (content, seen) = report(axon.program, RUN);
        Some(Self { content, seen })
    }

    /// The axon refused a call to `path` with 401, and nothing was booked.
    fn was_unauthorised(self, path: &str, reason: &str) {
        let Self { content, seen } = self;
        assert!(!content && seen["ok"] == false, "{seen:#}");
        let refused = &seen["refused"][0];
        assert_eq!((&refused["path"], &refused["status"]), (&json!(path), &json!(401)), "{seen:#}");
        assert!(refused["reason"].as_str().unwrap().contains(reason), "{seen:#}");
        assert_eq!((&seen["accepted"], &seen["declined"]), (&json!(0), &json!(0)), "{seen:#}");
    }

    /// The axon took the call, and found this fault in what it carried.
    fn had_fault(self, outcome: &str, fault: &str) {
        let Self { content, seen } = self;
        assert!(!content && seen["ok"] == false, "{seen:#}");
        assert_eq!(seen["per_task"][0]["outcome"], outcome, "{seen:#}");
        assert!(seen["errors"][0].as_str().is_some_and(|text| text.contains(fault)), "{seen:#}");
        assert_eq!((&seen["accepted"], &seen["declined"]), (&json!(0), &json!(0)), "{seen:#}");
    }
}

fn on(path: &'static str, alter: impl Fn(&mut Message)) -> impl Fn(&mut Message) {
    move |request| {
        if request.path() == path {
            alter(request);
        }
    }
}

const PULL: &str = "/PullTask";
const SUBMIT: &str = "/SubmitResults";
const SIGNATURE: &str = "bt_header_dendrite_signature";
const NONCE: &str = "bt_header_dendrite_nonce";

fn last_digit_plus_one(number: &str) -> String {
    (number.parse::<u64>().unwrap() + 1).to_string()
}

#[test]
fn unaltered_through_the_proxy_it_is_content() {
    let Some(trial) = Trial::run("unaltered", |_| {}) else { return };
    assert!(trial.content, "{:#}", trial.seen);
    assert_eq!(trial.seen["accepted"], 1);
}

#[test]
fn one_digit_of_a_pulls_signature_turns_it_red() {
    // One in each half of the signature.
    for at in [42, 102] {
        let alter = on(PULL, move |request| request.alter_header(SIGNATURE, |hex| swap_character(hex, at)));
        let Some(trial) = Trial::run("pull_signature", alter) else { return };
        trial.was_unauthorised(PULL, "Signature mismatch");
    }
}

#[test]
fn one_digit_of_a_submissions_header_signature_turns_it_red() {
    let alter = on(SUBMIT, |request| request.alter_header(SIGNATURE, |hex| swap_character(hex, 77)));
    let Some(trial) = Trial::run("submit_header", alter) else { return };
    trial.was_unauthorised(SUBMIT, "Signature mismatch");
}

#[test]
fn another_nonce_turns_it_red() {
    for path in [PULL, SUBMIT] {
        let alter = on(path, |request| request.alter_header(NONCE, last_digit_plus_one));
        let Some(trial) = Trial::run("nonce", alter) else { return };
        trial.was_unauthorised(path, "Signature mismatch");
    }
}

#[test]
fn another_uuid_turns_it_red() {
    let alter = on(PULL, |request| {
        request.alter_header("bt_header_dendrite_uuid", |uuid| swap_character(uuid, 0));
    });
    let Some(trial) = Trial::run("uuid", alter) else { return };
    trial.was_unauthorised(PULL, "Signature mismatch");
}

#[test]
fn one_character_of_the_submission_signature_turns_it_red() {
    let alter = on(SUBMIT, |request| request.alter_field("signature", |base64| swap_character(base64, 50)));
    let Some(trial) = Trial::run("submission_signature", alter) else { return };
    trial.had_fault("bad signature", "the submission signature does not verify");
}

#[test]
fn one_character_of_the_results_turns_it_red() {
    let alter = on(SUBMIT, |request| {
        request.alter_field("results", |base64| swap_character(base64, base64.len() / 2));
    });
    let Some(trial) = Trial::run("results", alter) else { return };
    trial.had_fault("bad result", "the result of task");
}

#[test]
fn one_byte_of_a_position_turns_it_red() {
    let alter = on(SUBMIT, |request| {
        request.alter_field("results", |base64| {
            let spz = STANDARD.decode(base64).unwrap();
            let mut payload = zstd::decode_all(spz.as_slice()).unwrap();
            // The middle byte of the first position, after 16 bytes of header.
            payload[17] ^= 0x01;
            STANDARD.encode(zstd::bulk::compress(&payload, 1).unwrap())
        });
    });
    let Some(trial) = Trial::run("payload", alter) else { return };
    trial.had_fault("bad result", "a coordinate is off by 0.0625");
}
