//! The known mistakes of existing miners (rules.md, the list at its end), each shown not to be ours: the
//! real agent before development validators with their real books, in process and under a paused
//! clock. Every test fails on the behaviour that its mistake describes.
//!
//! | number | mistake | test |
//! | --- | --- | --- |
//! | 1 | wrong text signed | `m01_what_is_signed_is_what_the_validator_rebuilds` |
//! | 2 | a task never answered | `m02_every_pulled_task_is_answered` |
//! | 3 | the cooldown not taken from the reply | `m03_the_reply_to_a_submission_says_when_to_come_back` |
//! | 4 | a result lost on a timeout | `m04_a_result_survives_a_submit_timeout` |
//! | 5 | 300 s wait after a lost reply | `m05_a_lost_pull_reply_is_asked_for_again_within_seconds` |
//! | 6 | a dead scorer means silence | `m06_a_dead_scorer_is_told_with_every_task` |
//! | 7 | gates that only resemble the score | `m07_what_looks_like_a_result_is_scored_all_the_same` |
//! | 8 | a gate below the threshold | `m08_the_gate_is_never_below_the_validators_threshold` |
//! | 9 | raw PLY | `m09_results_go_out_as_spz` |
//! | 10 | the wrong addressee | `m10_an_answer_goes_to_the_one_who_assigned_the_task` |
//! | 11 | a fixed seed | `m11_each_candidate_has_a_seed_of_its_own` |
//! | 12 | bytes handled as text | `m12_bytes_stay_what_they_were` |
//! | 13 | a block list by uid, on noise | `m13_only_proof_demotes_a_validator_and_only_that_one` |
//! | 14 | one slow call stops everything | `m14_a_slow_call_holds_nobody_else_up` |
//! | 15 | two workers on one card | `m15_a_card_does_one_thing_at_a_time` |
//! | 16 | two pulls at one validator | `m16_a_validator_is_asked_once_at_a_time` |
//! | 17 | invented tasks and successes | `m17_nothing_is_told_that_did_not_happen` |
//! | 18 | registration looked at once | `m18_registration_is_watched_all_the_time` |
//! | 19 | a first validator that starves the others | `m19_the_order_of_the_validators_favours_none` |
//! | 20 | storms of violations | `m20_a_day_of_restarts_and_wrong_clocks_without_one_early_pull` |
//!
//! From 13 on they are in `known_mistakes_at_large.rs`.

#[path = "support/graded.rs"]
mod graded;
#[path = "support/hostile_world.rs"]
mod hostile_world;
#[path = "support/scene.rs"]
mod scene;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use graded::{Grade, Grades};
use scene::{GENERATE, Lie, Makers, PULL, Plan, S, SCORE, SUBMIT, Scene, Site};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sn17_miner::devnet::rules::ValidatorRules;
use sn17_miner::devnet::{from_spz, shapes};
use sn17_miner::primitives::Prompt;
use sn17_miner::splat::write_ply;

const VALIDATOR: Site = Site::Validator(0);
const GENERATOR: Site = Site::Generator(0);

/// As the validators have it: validator.py, `_check_miner_signature`.
const CONSENT: &str = "I, as a miner on SN17, have obtained all licenses, rights and consents required \
    to use, reproduce, modify, display, distribute and make available my submitted results to this \
    subnet and its end users";

fn text(prompt: &str) -> Prompt {
    Prompt::Text(prompt.into())
}

/// The bodies of the submissions that come to a validator from now on.
fn submissions(scene: &Scene, validator: Site) -> Arc<Mutex<Vec<Value>>> {
    let sent: Arc<Mutex<Vec<Value>>> = Arc::default();
    let seen = Arc::clone(&sent);
    scene.bend(validator, move |asked| {
        if asked.path == SUBMIT {
            seen.lock().unwrap().push(serde_json::from_slice(asked.body).unwrap());
        }
        None
    });
    sent
}

#[test]
fn every_mistake_of_the_table_has_its_test() {
    let here = include_str!("known_mistakes.rs");
    let sources = [here, include_str!("known_mistakes_at_large.rs")].concat();
    let rows = here.lines().filter_map(|line| line.strip_prefix("//! | ")?.rsplit_once(" | `"));
    let tests: Vec<&str> = rows.map(|(_, test)| test.trim_end_matches("` |")).collect();
    assert_eq!(tests.len(), 20);
    for (number, test) in (1..).zip(tests) {
        assert!(test.starts_with(&format!("m{number:02}_")), "{test}");
        assert!(sources.contains(&format!("async fn {test}()")), "{test} is missing");
    }
}

/// Texts, pictures and an empty answer: the validator rebuilds the signed text of each. Where it has
/// another idea of the prompt, we are told that it may be the signature.
#[tokio::test(start_paused = true)]
async fn m01_what_is_signed_is_what_the_validator_rebuilds() {
    let scene = Scene::set(Plan { image_share: 0.5, ..Plan::validators(2) });
    let prompts = ["é\"\n".repeat(500), "iVBORw0KGgo=".into()];
    scene.assign(0, "1", text(&prompts[0]));
    scene.assign(1, "2", Prompt::Image(prompts[1].as_str().into()));
    let sent = [0, 1].map(|validator| submissions(&scene, Site::Validator(validator)));
    scene.mine(9).await;
    scene.assert_settled();
    assert_eq!((scene.count("empty"), scene.count("accepted")), (1, 8));
    scene.log.expect(0, "alarm=");
    // The validators here rebuild the text with our own code, so once it is written out.
    let miner = scene.hotkey(0);
    let key = schnorrkel::PublicKey::from_bytes(miner.as_bytes()).unwrap();
    for ((axon, sent), prompt) in scene.axons.iter().zip(&sent).zip(&prompts) {
        let sent = sent.lock().unwrap();
        let message = format!("{CONSENT}{}{prompt}{}{miner}", sent[0]["submit_time"], axon.hotkey());
        let signature = STANDARD.decode(sent[0]["signature"].as_str().unwrap()).unwrap();
        let signature = schnorrkel::Signature::from_bytes(&signature).unwrap();
        let verified = key.verify_simple(b"substrate", message.as_bytes(), &signature);
        assert!(verified.is_ok(), "task {}", sent[0]["task_id"]);
    }

    let scene = Scene::of(1);
    scene.assign(0, "1", text("a red cube"));
    scene.bend(VALIDATOR, |asked| {
        let other = json!({"task": {"type": "text", "id": "1", "prompt": "a blue cube"}});
        (asked.path == PULL).then(|| Lie::Say(200, other.to_string().into()))
    });
    scene.mine(1).await;
    assert_eq!(scene.count("bad_signature"), 1);
    scene.log.expect(1, "alarm=rejected");
}

/// Too long, of a kind that nobody makes, unknown, hopeless, unmakeable, the same again: each ends
/// booked, and so does the one after it.
#[tokio::test(start_paused = true)]
async fn m02_every_pulled_task_is_answered() {
    let lines = "[[workers]]\nname = \"g\"\nrole = \"generator\"\nurl = \"devnet\"\nkinds = [\"text\"]\n\
                 [[workers]]\nname = \"s\"\nrole = \"scorer\"\nurl = \"devnet\"\n";
    let grades = Grades::by(|_, prompt| if prompt == "hopeless" { Grade::Bad } else { Grade::Good });
    let scene = Scene::set(Plan { lines, makers: Makers::Graded(grades), ..Plan::default() });
    scene.bend(GENERATOR, |asked| {
        let breaks = asked.body.starts_with(b"prompt=breaks");
        (asked.path == GENERATE && breaks).then(|| Lie::Say(500, Vec::new()))
    });
    let tasks = [
        (text(&"x".repeat(1_025)), "empty"),
        (Prompt::Image("iVBORw0KGgo=".into()), "empty"),
        (Prompt::Other("a film of a red cube".into()), "empty"),
        (text("hopeless"), "empty"),
        (text("breaks"), "empty"),
        (text("a red cube"), "accepted"),
        (text("a red cube"), "accepted"),
    ];
    for (number, (prompt, outcome)) in tasks.into_iter().enumerate() {
        let before = scene.count(outcome);
        scene.assign(0, &number.to_string(), prompt);
        scene.mine(1).await;
        assert_eq!(scene.count(outcome), before + 1, "task {number}");
        scene.assert_settled();
        scene.clock.sleep(S(330)).await;
    }
}

/// The validator's C is longer than ours, and only its replies show it.
#[tokio::test(start_paused = true)]
async fn m03_the_reply_to_a_submission_says_when_to_come_back() {
    let rules = ValidatorRules { cooldown: S(420), ..ValidatorRules::default() };
    let mut scene = Scene::set(Plan { validators: vec![rules], ..Plan::default() });
    scene.settings.mining.cooldown = S(300);
    let took = scene.mine(8).await;
    scene.assert_settled();
    assert_eq!(scene.count("violation"), 0);
    assert!(took >= S(7 * 420) && took < S(7 * 425 + 40), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn m04_a_result_survives_a_submit_timeout() {
    // The first is booked and its reply lost; the second never arrives.
    let scene = Scene::of(1);
    scene.bend(VALIDATOR, |asked| match (asked.path, asked.nth) {
        (SUBMIT, 0) => Some(Lie::Lose),
        (SUBMIT, 2) => Some(Lie::Hang),
        _ => None,
    });
    scene.mine(2).await;
    scene.assert_settled();
    assert_eq!((scene.count("accepted"), scene.asked(VALIDATOR, SUBMIT)), (2, 4));
    assert_eq!(scene.asked(GENERATOR, GENERATE), 2, "no generation is paid for twice");
    assert_eq!(scene.count("repeated"), 0, "nothing is pulled to find out");
    scene.log.expect(2, "A submission is not settled, sending it again");
}

#[tokio::test(start_paused = true)]
async fn m05_a_lost_pull_reply_is_asked_for_again_within_seconds() {
    let scene = Scene::of(1);
    scene.bend(VALIDATOR, |asked| (asked.path == PULL && asked.nth == 0).then_some(Lie::Lose));
    let took = scene.mine(1).await;
    scene.assert_settled();
    assert_eq!((scene.count("assigned"), scene.count("repeated")), (1, 1));
    // 12 s until the reply counts as lost, 3 s, and the work of 32 s.
    assert!(took < S(50), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn m06_a_dead_scorer_is_told_with_every_task() {
    let scene = Scene::of(1);
    scene.bend(Site::Scorer(0), |_| Some(Lie::Say(500, Vec::new())));
    scene.mine(3).await;
    assert_eq!((scene.count("empty"), scene.count("low")), (3, 0));
    let warnings = scene.log.warnings();
    assert!(warnings.len() >= 3, "{warnings:#?}");
    assert!(warnings.iter().all(|line| line.contains("The scorer gave no verdict")), "{warnings:#?}");
    scene.log.expect(3, "alarm=scorer_down");
    scene.log.expect(3, "reason=the scorer gave no verdict");
    scene.straighten(Site::Scorer(0));
    scene.mine(1).await;
    scene.assert_settled();
    assert_eq!(scene.count("accepted"), 1);
}

/// Enough points, enough bytes, a clean cloud, and of the wrong colour.
#[tokio::test(start_paused = true)]
async fn m07_what_looks_like_a_result_is_scored_all_the_same() {
    let scene = Scene::set(Plan { makers: Makers::Real, ..Plan::default() });
    let mut green = Vec::new();
    write_ply(&shapes::generate("a green cube", 1, shapes::GAUSSIANS), true, &mut green).unwrap();
    scene.assign(0, "1", text("a red cube"));
    scene.bend(GENERATOR, move |asked| {
        (asked.path == GENERATE && asked.nth == 0).then(|| Lie::Say(200, green.clone()))
    });
    scene.mine(1).await;
    scene.assert_settled();
    assert_eq!((scene.count("accepted"), scene.count("low")), (1, 0));
    assert_eq!(scene.axons[0].received().len(), 1, "the green one stays here");
    assert_eq!((scene.asked(GENERATOR, GENERATE), scene.asked(Site::Scorer(0), SCORE)), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn m08_the_gate_is_never_below_the_validators_threshold() {
    let strict = ValidatorRules { threshold: 0.7, ..ValidatorRules::default() };
    let grades = Grades::by(|_, prompt| if prompt == "poor" { Grade::Poor } else { Grade::Fair });
    let validators = vec![ValidatorRules::default(), strict];
    let scene = Scene::set(Plan { validators, makers: Makers::Graded(grades), ..Plan::default() });
    scene.assign(0, "1", text("poor"));
    scene.mine(6).await;
    scene.assert_settled();
    assert_eq!(scene.count("low"), 0);
    // 0.45 is above the 0.3 of some miners, 0.65 above the 0.6 of most validators.
    assert_eq!(scene.count_at(0, "empty"), 1);
    assert!(scene.count_at(0, "accepted") >= 1);
    assert!(scene.count_at(1, "empty") >= 1);
    assert_eq!(scene.count_at(1, "accepted"), 0);
}

#[tokio::test(start_paused = true)]
async fn m09_results_go_out_as_spz() {
    let scene = Scene::set(Plan { makers: Makers::Real, ..Plan::default() });
    let sent = submissions(&scene, VALIDATOR);
    scene.mine(3).await;
    scene.assert_settled();
    assert_eq!(scene.count("accepted"), 3);
    let sent = sent.lock().unwrap();
    assert_eq!(sent.len(), 3);
    for body in sent.iter() {
        assert_eq!(body["compression"], 2);
        let bytes = STANDARD.decode(body["results"].as_str().unwrap()).unwrap();
        assert!(!bytes.starts_with(b"ply") && from_spz(&bytes).is_ok());
    }
}

/// Two of the validators gave out the same id for different prompts, and look at what comes.
#[tokio::test(start_paused = true)]
async fn m10_an_answer_goes_to_the_one_who_assigned_the_task() {
    let scene = Scene::set(Plan { makers: Makers::Real, ..Plan::validators(4) });
    scene.assign(1, "same", text("a red cube"));
    scene.assign(3, "same", text("three blue spheres"));
    scene.mine(16).await;
    scene.assert_settled();
    assert_eq!(scene.count("submission_refused"), 0);
    for validator in 0..4 {
        let site = Site::Validator(validator);
        assert_eq!(scene.asked(site, SUBMIT) as u64, scene.count_at(validator, "assigned"));
        assert_eq!(scene.count_at(validator, "accepted"), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn m11_each_candidate_has_a_seed_of_its_own() {
    let makers = Makers::Graded(Grades::by(|_, _| Grade::Bad));
    let scene = Scene::set(Plan { makers, ..Plan::default() });
    let seeds: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&seeds);
    scene.bend(GENERATOR, move |asked| {
        let mut form = form_urlencoded::parse(asked.body);
        seen.lock().unwrap().extend(form.find(|(key, _)| key == "seed").map(|(_, seed)| seed.into_owned()));
        None
    });
    scene.mine(3).await;
    scene.assert_settled();
    let seeds = seeds.lock().unwrap();
    assert_eq!(seeds.len(), 3 * 4, "three retries each");
    assert_eq!(seeds.iter().collect::<BTreeSet<_>>().len(), seeds.len(), "{seeds:?}");
}

/// What the generator made is what is kept, scored and sent, to the byte.
#[tokio::test(start_paused = true)]
async fn m12_bytes_stay_what_they_were() {
    let scene = Scene::set(Plan { makers: Makers::Real, ..Plan::default() });
    let scored: Arc<Mutex<BTreeSet<Vec<u8>>>> = Arc::default();
    let seen = Arc::clone(&scored);
    scene.bend(Site::Scorer(0), move |asked| {
        let asked: Value = serde_json::from_slice(asked.body).unwrap();
        seen.lock().unwrap().insert(STANDARD.decode(asked["data"].as_str().unwrap()).unwrap());
        None
    });
    scene.assign(0, "1", text("```json\n{a red cube}\n```"));
    scene.mine(4).await;
    scene.assert_settled();
    let sha = |bytes: &[u8]| -> [u8; 32] { Sha256::digest(bytes).into() };
    let kept = std::fs::read_dir(scene.data().join("results")).unwrap();
    let kept: BTreeSet<[u8; 32]> =
        kept.map(|file| sha(&std::fs::read(file.unwrap().path()).unwrap())).collect();
    let scored: BTreeSet<[u8; 32]> = scored.lock().unwrap().iter().map(|bytes| sha(bytes)).collect();
    let received = scene.axons[0].received();
    assert_eq!(received.len(), 4);
    assert!(received.iter().all(|result| kept.contains(&result.sha256)), "other bytes than the kept ones");
    assert!(
        received.iter().all(|result| scored.contains(&result.sha256)),
        "other bytes than the scored ones"
    );
}
