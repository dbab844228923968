//! Validators that answer badly, against the agent's own loop under a paused clock: one clear line
//! of log each, a bounded wait, and the next task is made and accepted.

#[path = "support/hostile_world.rs"]
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use serde_json::{Value, json};
use sn17_miner::clock::Clock;
use sn17_miner::primitives::{Prompt, UnixTime};
use world::{Lie, Theatre, broken, pieces, reply, with_header};

const LOST: &str = "The reply to a pull was lost";
const UNSETTLED: &str = "A submission is not settled";

/// The first pulls bring these; then the validator is honest. Each costs one warning and a backoff
/// of at most five minutes, and the task that follows is accepted.
async fn pulls(lies: Vec<fn() -> Lie>) -> (Theatre, Duration) {
    let count = lies.len();
    let theatre = Theatre::new()
        .validator(move |path, nth| lies.get(nth).filter(|_| path == "/PullTask").map(|lie| lie()));
    let took = theatre.run(1).await;
    theatre.log.expect(count, LOST);
    assert_eq!(theatre.log.warnings().len(), count, "{:#?}", theatre.log.warnings());
    assert_eq!((theatre.booked("assigned"), theatre.booked("accepted")), (1, 1));
    assert!(took <= Duration::from_secs(330 * count as u64), "{took:?}");
    (theatre, took)
}

/// As [`pulls`], for the replies to the first submissions: the same bytes are sent again until they
/// are booked, and the task after this one is accepted as usual.
async fn submissions(lies: Vec<fn() -> Lie>) -> Theatre {
    let count = lies.len();
    let theatre = Theatre::new()
        .validator(move |path, nth| lies.get(nth).filter(|_| path == "/SubmitResults").map(|lie| lie()));
    theatre.run(2).await;
    theatre.log.expect(count, UNSETTLED);
    assert_eq!(theatre.log.warnings().len(), count, "{:#?}", theatre.log.warnings());
    assert_eq!(theatre.booked("accepted"), 2, "{:#?}", theatre.log.all());
    theatre
}

fn task(fields: Value) -> Lie {
    reply(200, json!({ "task": fields }).to_string())
}

#[tokio::test(start_paused = true)]
async fn a_pull_reply_of_10_gb() {
    let taken = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&taken);
    const MIB: &[u8] = &[b' '; 1 << 20];
    let theatre = Theatre::new().validator(move |path, nth| {
        (path == "/PullTask" && nth == 0).then(|| {
            with_header(200, "content-length", "10737418240", pieces(MIB, 10_240, Duration::ZERO, &count))
        })
    });
    theatre.run(1).await;
    theatre.log.expect(1, "the reply is larger than 32MiB");
    assert_eq!(theatre.log.warnings().len(), 1);
    assert!(taken.load(Ordering::Relaxed) <= 34 << 20, "{taken:?}");
    assert_eq!(theatre.booked("accepted"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pull_reply_without_end() {
    let endless = || reply(200, pieces(b"          ", u64::MAX, Duration::from_millis(100), &Arc::default()));
    let (theatre, took) = pulls(vec![endless]).await;
    theatre.log.expect(1, "the reply was not complete within 12s");
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pull_reply_of_one_byte_a_second() {
    let drip = || reply(200, pieces(b"{", u64::MAX, Duration::from_secs(1), &Arc::default()));
    let (theatre, took) = pulls(vec![drip]).await;
    theatre.log.expect(1, "the reply was not complete within 12s");
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_is_never_answered() {
    let (theatre, took) = pulls(vec![|| Lie::Hang]).await;
    theatre.log.expect(1, "no reply within 12s");
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pull_reply_that_breaks_off() {
    let (theatre, _) = pulls(vec![|| reply(200, broken(b"{\"task\":"))]).await;
    theatre.log.expect(1, "the connection broke");
}

#[tokio::test(start_paused = true)]
async fn invalid_utf8() {
    pulls(vec![
        || reply(200, &b"{\"task\":{\"type\":\"text\",\"id\":\"\xff\xfe\",\"prompt\":\"p\"}}"[..]),
        || reply(200, &b"{\"task\":{\"type\":\"text\",\"id\":\"1\",\"prompt\":\"\xc3\x28\"}}"[..]),
        || reply(200, &b"\xff\xff\xff\xff"[..]),
        || reply(200, r#"{"task":{"type":"text","id":"1","prompt":"\ud800"}}"#),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn deep_json() {
    fn nested(start: &str, open: &str, close: &str) -> Lie {
        let deep = 1_000_000;
        reply(200, format!("{start}{}{}}}", open.repeat(deep), close.repeat(deep)))
    }
    pulls(vec![
        || nested("{\"task\":", "[", "]"),
        || nested("{\"task\":", "{\"task\":", "}"),
        || nested("{\"task\":{\"type\":\"text\",\"id\":\"1\",\"prompt\":", "[", "]}"),
        || nested("{\"cooldown_until\":", "[", "]"),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn wrong_types() {
    pulls(vec![
        || reply(200, "[]"),
        || reply(200, "null"),
        || reply(200, ""),
        || reply(200, "<html><body>502 Bad Gateway</body></html>"),
        || task(json!("\u{7f}\u{1b}[2J".repeat(100_000))),
        || task(json!(["text", "1", "p"])),
        || task(json!({"type": "text", "id": 7, "prompt": "p"})),
        || task(json!({"type": 1, "id": "7", "prompt": "p"})),
        || task(json!({"type": "text", "id": "7", "prompt": null})),
        || reply(200, json!({"task": null, "cooldown_until": "soon"}).to_string()),
        || reply(200, json!({"task": null, "cooldown_until": {"a": 1}}).to_string()),
        || reply(200, json!({"validation_threshold": true}).to_string()),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_task_without_id() {
    let (theatre, _) = pulls(vec![
        || task(json!({"type": "text", "prompt": "p"})),
        || task(json!({"type": "text", "id": null, "prompt": "p"})),
        || task(json!({"type": "text", "id": "", "prompt": "p"})),
        || task(json!({"type": "text", "id": "x".repeat(257), "prompt": "p"})),
        || task(json!({"type": "text", "id": "1"})),
    ])
    .await;
    theatre.log.expect(2, "missing field");
    theatre.log.expect(1, "the task id is empty");
    theatre.log.expect(1, "the task id has 257 bytes");
}

#[tokio::test(start_paused = true)]
async fn a_redirected_pull() {
    let (theatre, _) = pulls(vec![
        || with_header(301, "location", "http://10.0.0.1:8000/generate/", Body::empty()),
        || with_header(302, "location", "http://169.254.169.254/", Body::empty()),
        || with_header(307, "location", "/PullTask", Body::empty()),
        || with_header(308, "location", "//10.0.0.10:8000/PullTask", Body::empty()),
    ])
    .await;
    theatre.log.expect(4, "redirects are refused");
}

#[tokio::test(start_paused = true)]
async fn error_statuses_of_a_pull() {
    let theatre = Theatre::new().validator(|path, nth| {
        let status = [500, 503, 401, 403, 404, 422, 429].get(nth).filter(|_| path == "/PullTask")?;
        Some(reply(*status, "{\"message\":\"\\u001b[2J\\u202e\"}"))
    });
    theatre.run(1).await;
    assert_eq!(theatre.log.warnings().len(), 7);
    theatre.log.expect(7, "the axon answered");
    assert_eq!(theatre.booked("accepted"), 1);
}

/// An honest validator hands out this prompt. The task ends booked, with the same bytes under the
/// signature that were pulled (the validator checks it), and so does the next.
async fn prompt(id: &str, prompt: Prompt, outcome: &str) -> Theatre {
    let theatre = Theatre::new();
    theatre.assign(id, prompt);
    theatre.run(1).await;
    assert_eq!(theatre.booked(outcome), 1, "{:#?}", theatre.log.all());
    assert!(theatre.axons[0].ledger(|ledger| ledger.chronicle().forbidden()) == 0);
    theatre.log.expect(1, "Pulled a task");
    theatre.log.expect(1, "Feedback from");
    theatre.run(1).await;
    assert!(theatre.booked("accepted") >= 1, "{:#?}", theatre.log.all());
    theatre
}

#[tokio::test(start_paused = true)]
async fn a_prompt_with_path_separators() {
    let theatre =
        prompt("../../etc/passwd\0", Prompt::Text("a red cube/../../../etc/passwd".into()), "accepted").await;
    theatre.log.expect(2, "(a red cube/../../../etc/passwd)");
    prompt("C:\\x\r\n", Prompt::Text("..\\a red cube\0".into()), "accepted").await;
}

#[tokio::test(start_paused = true)]
async fn a_prompt_with_terminal_escapes() {
    let text = "a red cube\u{1b}[2J\u{1b}]0;owned\u{7}\r\nFeedback from [0] Score: 1.0\u{9b}31m";
    let theatre = Theatre::new();
    theatre.assign("\u{1b}[2J", Prompt::Text(text.into()));
    theatre.run(1).await;
    assert_eq!(theatre.booked("accepted") + theatre.booked("low") + theatre.booked("empty"), 1);
    theatre.log.expect(2, "a red cube\\u{1b}[2J\\u{1b}]0;owned\\u{7}\\r\\nFeedback from");
    theatre.run(1).await;
    assert!(theatre.booked("accepted") >= 1);
}

#[tokio::test(start_paused = true)]
async fn a_prompt_with_bidi_text() {
    let text = "a red \u{202e}ebuc\u{202c} \u{2066}cube\u{2069}\u{200f}";
    let theatre = prompt("\u{202e}1", Prompt::Text(text.into()), "accepted").await;
    theatre.log.expect(2, "(a red \\u{202e}ebuc\\u{202c} \\u{2066}cube\\u{2069}\\u{200f})");
}

#[tokio::test(start_paused = true)]
async fn a_prompt_of_5_mb() {
    let theatre = prompt("1", Prompt::Text("\u{1b}é".repeat(2_500_000).into()), "empty").await;
    theatre.log.expect(1, "a prompt of 5000000 characters cannot be scored");
    let image = Prompt::Image("A".repeat(5 << 20).into());
    let theatre = Theatre::new();
    theatre.assign("1", image);
    theatre.run(1).await;
    theatre.log.expect(2, "(image, 5242880 base64 characters)");
    assert_eq!(theatre.booked("empty"), 1, "no image is in it: {:#?}", theatre.log.all());
}

#[tokio::test(start_paused = true)]
async fn an_unknown_kind_of_task() {
    let theatre = prompt("1", Prompt::Other("a film of a red cube".into()), "empty").await;
    theatre.log.expect(1, "no generator for other tasks");
    theatre.log.expect(1, "Score: empty");
}

#[tokio::test(start_paused = true)]
async fn the_same_id_twice() {
    let theatre = Theatre::new();
    let cube = || Prompt::Text("a red cube".into());
    theatre.assign("same", cube());
    theatre.run(1).await;
    let until = theatre.clock.now() + Duration::from_secs(20);
    theatre.clock.sleep_until(until).await;
    theatre.assign("same", cube());
    theatre.run(1).await;
    assert_eq!(theatre.booked("accepted"), 2);
    theatre.log.expect(2, "Feedback from");
    assert_eq!(theatre.log.warnings().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_prompt_that_changes_for_the_same_id() {
    // The validator gives one text and has another in its book, so the signature is over the wrong one.
    let theatre = Theatre::new().validator(|path, nth| {
        let other = json!({"type": "text", "id": "same", "prompt": "a red cube"});
        (path == "/PullTask" && nth == 0).then(|| task(other))
    });
    theatre.assign("same", Prompt::Text("three blue spheres".into()));
    let miner = sn17_miner::wallet::HotkeyPair::dev("miner");
    let open = theatre.axons[0].ledger(|ledger| ledger.open_task(miner.hotkey()).cloned());
    assert!(open.is_some());
    // The blame is the validator's, so its book may call our signature wrong.
    let ended = tokio::time::timeout(Duration::from_secs(86_400), theatre.run_blamed(1)).await;
    assert!(ended.is_ok());
    assert_eq!(theatre.booked("bad_signature"), 1);
    theatre.log.expect(1, "The validator rejected a result that passes here");
    let later = theatre.clock.now() + Duration::from_secs(60);
    theatre.clock.sleep_until(later).await;
    theatre.assign("same", Prompt::Text("a red cube".into()));
    theatre.run_blamed(1).await;
    assert_eq!(theatre.booked("accepted"), 1, "{:#?}", theatre.log.all());
}

fn cooling(until: Value) -> Lie {
    reply(200, json!({"task": null, "cooldown_until": until}).to_string())
}

#[tokio::test(start_paused = true)]
async fn a_cooldown_far_in_the_future() {
    for far in [json!(u64::MAX), json!(1e300), json!("1e18"), json!(253_402_300_799_u64)] {
        let theatre = Theatre::new()
            .validator(move |path, nth| (path == "/PullTask" && nth == 0).then(|| cooling(far.clone())));
        let took = theatre.run(1).await;
        assert!(took <= Duration::from_secs(86_400 + 60), "{took:?}");
        theatre.log.expect(1, "as to a hotkey that is not registered");
        assert_eq!((theatre.log.warnings().len(), theatre.booked("accepted")), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_cooldown_that_is_negative_or_over() {
    for over in [json!(-5), json!(-1e300), json!(0), json!(1), json!("7"), json!(1_799_999_990)] {
        let theatre = Theatre::new()
            .validator(move |path, nth| (path == "/PullTask" && nth < 6).then(|| cooling(over.clone())));
        let took = theatre.run(1).await;
        // 10, 20, 40, 80, 160 and 300 s: the validator is not asked again at once.
        assert!((600..640).contains(&took.as_secs()), "{took:?}");
        assert_eq!((theatre.log.warnings().len(), theatre.booked("accepted")), (0, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_cooldown_with_a_fraction() {
    let theatre = Theatre::new()
        .validator(|path, nth| (path == "/PullTask" && nth == 0).then(|| cooling(json!(1_800_000_030.25))));
    let took = theatre.run(1).await;
    assert!((Duration::from_secs(31)..Duration::from_secs(40)).contains(&took), "{took:?}");
    assert_eq!((theatre.log.warnings().len(), theatre.booked("accepted")), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_date_of_another_age() {
    for date in ["Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "yesterday"] {
        let theatre = Theatre::new().validator(move |path, nth| {
            let body = json!({"task": null, "cooldown_until": 1_800_000_030}).to_string();
            (path == "/PullTask" && nth == 0).then(|| with_header(200, "date", date, body))
        });
        let took = theatre.run(1).await;
        assert!((30..40).contains(&took.as_secs()), "{took:?} after {date}");
        assert_eq!(theatre.booked("accepted"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn submissions_answered_with_500() {
    let theatre = Theatre::new().validator(|path, nth| {
        (path == "/SubmitResults" && nth < 5).then(|| reply(500, "Internal Server Error"))
    });
    let took = theatre.run(1).await;
    theatre.log.expect(5, UNSETTLED);
    assert_eq!((theatre.log.warnings().len(), theatre.booked("accepted")), (5, 1));
    assert_eq!(theatre.axons[0].received().len(), 1);
    assert!((20..60).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_validator_that_answers_every_submission_with_500() {
    let theatre = Theatre::with(2, Clock::starting_at(UnixTime::from_secs(1_800_000_000)))
        .validator(|path, _| (path == "/SubmitResults").then(|| reply(500, "")));
    theatre.run(4).await;
    assert_eq!(theatre.booked("assigned"), 1);
    let other = theatre.axons[1].ledger(|ledger| ledger.chronicle().count("accepted"));
    assert_eq!(other, 4);
    // It is asked again at growing distances, never in a hurry.
    let lines = theatre.log.warnings();
    assert!(lines.len() <= 8 && lines.iter().all(|line| line.contains(UNSETTLED)), "{lines:#?}");
}

#[tokio::test(start_paused = true)]
async fn submissions_that_find_the_task_locked() {
    let theatre = Theatre::new().validator(|path, nth| {
        let feedback = json!({"task_fidelity_score": 0.0});
        let locked = json!({"feedback": feedback, "cooldown_until": 0}).to_string();
        (path == "/SubmitResults" && nth < 3).then(|| reply(200, locked))
    });
    theatre.run(1).await;
    theatre.log.expect(3, "locked, or another task");
    assert_eq!((theatre.log.warnings().len(), theatre.booked("accepted")), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn submissions_answered_with_403() {
    let theatre = Theatre::new().validator(|path, nth| {
        let message = json!({"message": "\u{1b}[2JForbidden. Key is blacklisted: \u{202e}x."}).to_string();
        (path == "/SubmitResults" && nth < 3).then(|| reply(403, message))
    });
    let took = theatre.run(1).await;
    theatre.log.expect(3, "refused: \\u{1b}[2JForbidden. Key is blacklisted: \\u{202e}x.");
    assert_eq!((theatre.log.warnings().len(), theatre.booked("accepted")), (3, 1));
    assert!(took <= Duration::from_secs(500), "{took:?}");

    // "No task assigned" at once: the validator has forgotten the task, and it is closed.
    let theatre = Theatre::new().validator(|path, nth| {
        let message = json!({"message": "[3] submitted results while having no task assigned."}).to_string();
        (path == "/SubmitResults" && nth == 0).then(|| reply(403, message))
    });
    theatre.run(2).await;
    theatre.log.expect(1, "The task is closed without feedback");
    theatre.log.expect(1, "Another process seems to use this hotkey");
    assert_eq!((theatre.log.warnings().len(), theatre.booked("accepted")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn unreadable_replies_to_a_submission() {
    submissions(vec![|| reply(200, "<html>")]).await;
    let theatre = Theatre::new().validator(|path, nth| {
        let lies: [fn() -> Lie; 9] = [
            || reply(200, ""),
            || reply(200, "{\"feedback\":[1,2]}"),
            || reply(200, "{\"feedback\":\"\\u001b\\u202e\"}"),
            || reply(200, json!({"feedback": "\u{202e}x".repeat(100_000)}).to_string()),
            || reply(200, "{\"feedback\":null}"),
            || reply(200, format!("{{\"feedback\":{}1{}}}", "[".repeat(90_000), "]".repeat(90_000))),
            || reply(200, "x".repeat(2 << 20)),
            || reply(200, broken(b"{")),
            || with_header(302, "location", "/", ""),
        ];
        lies.get(nth).filter(|_| path == "/SubmitResults").map(|lie| lie())
    });
    theatre.run(1).await;
    theatre.log.expect(9, UNSETTLED);
    assert_eq!((theatre.log.warnings().len(), theatre.booked("accepted")), (9, 1));
}

#[tokio::test(start_paused = true)]
async fn feedback_that_is_no_number() {
    let theatre = Theatre::new().validator(|path, nth| {
        let bad = ["NaN", "Infinity", "1e999", "\"NaN\"", "null", "[]", "\"\\u001b\""].get(nth)?;
        let body =
            format!("{{\"feedback\":{{\"task_fidelity_score\":{bad}}},\"cooldown_until\":1800000300}}");
        (path == "/SubmitResults").then(|| reply(200, body))
    });
    theatre.run(1).await;
    theatre.log.expect(7, UNSETTLED);
    assert_eq!((theatre.log.warnings().len(), theatre.booked("accepted")), (7, 1));
}

#[tokio::test(start_paused = true)]
async fn feedback_out_of_range() {
    let theatre = Theatre::new().validator(|path, nth| {
        let feedback = json!({"task_fidelity_score": 1e308, "average_fidelity_score": -1e308,
            "generations_within_the_window": 1e308, "current_duel_rating": 1e308, "current_miner_reward": -7});
        let body = json!({"feedback": feedback, "cooldown_until": 1_800_000_060}).to_string();
        (path == "/SubmitResults" && nth == 0).then(|| reply(200, body))
    });
    // The honest book still has the task, and gives it again.
    theatre.run(2).await;
    let lines = theatre.log.with("Feedback from");
    assert!(lines[0].contains("Score: 2.0000") && lines[0].contains("rating: 1000000.0"), "{lines:#?}");
    assert!(lines[0].len() < 400 && lines.len() == 2, "{lines:#?}");
    assert_eq!((theatre.log.warnings().len(), theatre.booked("accepted")), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_threshold_out_of_range() {
    for (threshold, outcome) in
        [(json!(1e308), "empty"), (json!(-1e308), "accepted"), (json!("0.6"), "accepted")]
    {
        let theatre = Theatre::new().validator(move |path, nth| {
            let task = json!({"type": "text", "id": "t", "prompt": "a red cube"});
            let body = json!({"task": task, "validation_threshold": threshold}).to_string();
            (path == "/PullTask" && nth == 0).then(|| reply(200, body))
        });
        theatre.assign("t", Prompt::Text("a red cube".into()));
        theatre.run(1).await;
        assert_eq!(theatre.booked(outcome), 1, "{:#?}", theatre.log.all());
        assert!(theatre.log.all().iter().all(|line| line.len() < 400));
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttle_of_nothing_or_of_ages() {
    for throttle in [json!(0), json!(-30), json!(u64::MAX), json!(1e308), json!("1e18"), json!(29.5)] {
        let theatre = Theatre::new().validator(move |path, nth| {
            let task = json!({"type": "text", "id": "t", "prompt": "a red cube"});
            let body = json!({"task": task, "throttle_period": throttle}).to_string();
            (path == "/PullTask" && nth == 0).then(|| reply(200, body))
        });
        theatre.assign("t", Prompt::Text("a red cube".into()));
        let took = theatre.run(2).await;
        assert_eq!((theatre.log.warnings().len(), theatre.booked("accepted")), (0, 2));
        assert!(took < Duration::from_secs(40), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_id_from_two_validators() {
    let theatre = Theatre::with(2, Clock::starting_at(UnixTime::from_secs(1_800_000_000)));
    for (number, prompt) in ["a red cube", "a green cone"].iter().enumerate() {
        theatre.assign_at(number, "same", Prompt::Text((*prompt).into()));
    }
    theatre.run(2).await;
    for axon in &theatre.axons {
        let received = axon.received();
        assert!(received.len() == 1 && received[0].task.as_str() == "same", "{received:?}");
        assert_eq!(axon.ledger(|ledger| ledger.chronicle().count("accepted")), 1);
    }
    theatre.log.expect(2, "Feedback from");
    assert_eq!(theatre.log.warnings().len(), 0);
}
