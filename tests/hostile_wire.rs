//! The wire types: what we write is read back, and whatever a stranger writes ends in a value or a
//! typed error.

use std::borrow::Cow;
use std::sync::LazyLock;
use std::time::Duration;

use http::HeaderValue;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};
use sn17_miner::primitives::{Hotkey, Prompt, UnixTime, Untrusted};
use sn17_miner::protocol::{
    CallHead, Nonce, NonceBook, PullReply, PullTask, ReplyError, SubmitReply, SubmitResults, SynapseName,
    TerminalInfo, WireFeedback, WireTask, error_message, sign_headers, verify_headers,
};
use sn17_miner::wallet::HotkeyPair;

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 500,
        rng_seed: RngSeed::Fixed(17),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

/// Any text: every character, among them the worst ones often.
fn text() -> impl Strategy<Value = String> {
    let worst = "\u{0}\u{1b}\u{7f}\u{9b}\n\r\t\"\\/\u{200b}\u{200f}\u{202a}\u{202e}\u{2028}\u{2066}\u{2069}\u{feff}\u{e0041}é立";
    let worst: Vec<char> = worst.chars().collect();
    let one =
        prop_oneof![1 => any::<char>(), 1 => prop::sample::select(worst), 1 => prop::char::range(' ', '~')];
    vec(one, 0..160).prop_map(|chars| chars.into_iter().collect())
}

/// Numbers of three decimals, which JSON readers agree on to the last bit.
fn number() -> impl Strategy<Value = f64> {
    (-(1_i64 << 40)..1 << 40).prop_map(|n| n as f64 / 8.0)
}

fn finite() -> impl Strategy<Value = f64> {
    any::<f64>().prop_filter("JSON has no others", |n| n.is_finite())
}

prop_compose! {
    fn terminal()(
        status_code: Option<u16>, port: Option<u16>, version: Option<i64>, nonce: Option<u64>,
        process_time in prop::option::of(number()),
        texts in vec(prop::option::of(text()), 5),
    ) -> TerminalInfo {
        let [status_message, ip, uuid, hotkey, signature]: [Option<String>; 5] = texts.try_into().unwrap();
        TerminalInfo { status_code, status_message, process_time, ip, port, version, nonce, uuid, hotkey, signature }
    }
}

prop_compose! {
    fn task()(kind in text(), id in text(), prompt in text()) -> WireTask {
        WireTask { kind, id, prompt }
    }
}

/// Whole numbers that pass through a float unharmed, as times and counts do on this wire.
fn whole() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..=(1_u64 << 53)]
}

prop_compose! {
    fn pull()(
        name in text(), timeout in number(), total_size: u32, header_size: u32, computed_body_hash in text(),
        dendrite in prop::option::of(terminal()), axon in prop::option::of(terminal()),
        task in prop::option::of(task()), validation_threshold in number(),
        throttle_period in whole(), cooldown_until in whole(), cooldown_violations in whole(),
    ) -> PullTask {
        PullTask {
            name, timeout, total_size, header_size, dendrite, axon, computed_body_hash, task,
            validation_threshold, throttle_period, cooldown_until, cooldown_violations,
        }
    }
}

prop_compose! {
    fn feedback()(
        validation_failed: bool, numbers in vec(number(), 4), generations_within_the_window in whole(),
    ) -> WireFeedback {
        WireFeedback {
            validation_failed,
            task_fidelity_score: numbers[0],
            average_fidelity_score: numbers[1],
            generations_within_the_window,
            current_duel_rating: numbers[2],
            current_miner_reward: numbers[3],
        }
    }
}

prop_compose! {
    fn submission()(
        texts in vec(text(), 6), timeout in number(), total_size: u32, header_size: u32,
        dendrite in prop::option::of(terminal()), axon in prop::option::of(terminal()),
        task in prop::option::of(task()), data_ver: u32, compression: u8, submit_time: u64,
        feedback in prop::option::of(feedback()), cooldown_until in whole(),
    ) -> SubmitResults<'static> {
        let [name, computed_body_hash, task_id, results, data_format, signature]: [String; 6] =
            texts.try_into().unwrap();
        SubmitResults {
            name, timeout, total_size, header_size, dendrite, axon, computed_body_hash, task, task_id,
            results: Cow::Owned(results), data_format: Cow::Owned(data_format), data_ver, compression,
            submit_time, signature, feedback, cooldown_until,
        }
    }
}

/// Reads bytes with every reader; what comes out keeps its promises.
fn feed(bytes: &[u8]) {
    if let Ok(reply) = PullReply::read(bytes) {
        assert!((0.0..=2.0).contains(&reply.threshold.get()));
        assert!(reply.cooldown_until != Some(UnixTime::EPOCH));
        if let Some(task) = reply.task {
            assert!(!task.id.as_str().is_empty() && task.id.as_str().len() <= 256);
        }
    }
    match SubmitReply::read(bytes) {
        Ok(SubmitReply { feedback: Some(feedback), .. }) => {
            assert!((0.0..=2.0).contains(&feedback.score.get()));
            assert!((0.0..=2.0).contains(&feedback.average_score.get()));
            assert!((0.0..=1e6).contains(&feedback.duel_rating) && (0.0..=1e12).contains(&feedback.reward));
        }
        Ok(_) | Err(ReplyError::Json(_) | ReplyError::TaskId(_) | ReplyError::Score(_)) => {}
    }
    error_message(bytes);
}

static SEEDS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let end = TerminalInfo { status_code: Some(200), ..TerminalInfo::default() };
    let mut pull = PullTask::request(12.0, end.clone(), end.clone());
    pull.task = Some(WireTask { kind: "text".into(), id: "1".into(), prompt: "a red cube".into() });
    let mut submit = SubmitResults::request(300.0, end.clone(), end, "1", "".into(), 7, String::new());
    submit.feedback = Some(WireFeedback { task_fidelity_score: 0.8, ..WireFeedback::default() });
    vec![json!(pull), json!(submit), json!({"message": "Forbidden. Key is blacklisted: x."})]
});

/// Values of every type, the extremes among them.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        finite().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(text(), inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

/// Every place in a document, outermost first.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    if let Value::Object(map) = value {
        for (key, below) in map {
            let place = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
            places(below, &place, found);
            found.push(place);
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn pulls_are_read_as_written(pull in pull()) {
        let text = serde_json::to_string(&pull).unwrap();
        prop_assert_eq!(serde_json::from_str::<PullTask>(&text).unwrap(), pull);
    }

    #[test]
    fn submissions_are_read_as_written(submission in submission()) {
        let text = serde_json::to_string(&submission).unwrap();
        prop_assert_eq!(serde_json::from_str::<SubmitResults<'_>>(&text).unwrap(), submission);
    }

    #[test]
    fn what_a_validator_writes_is_what_we_read(pull in pull(), submission in submission()) {
        let read = PullReply::read(&serde_json::to_vec(&pull).unwrap());
        match (read, &pull.task) {
            (Ok(reply), task) => {
                // Nothing lasts longer than a day.
                prop_assert_eq!(reply.throttle_s, pull.throttle_period.min(86_400));
                prop_assert_eq!(reply.cooldown_until.map_or(0, UnixTime::as_secs), pull.cooldown_until.min(u64::MAX / 1_000_000_000));
                prop_assert_eq!(reply.violations, pull.cooldown_violations);
                prop_assert_eq!(reply.task.as_ref().map(|t| t.prompt.as_wire()), task.as_ref().map(|t| t.prompt.as_str()));
                prop_assert_eq!(reply.task.as_ref().map(|t| t.id.as_str()), task.as_ref().map(|t| t.id.as_str()));
            }
            (Err(ReplyError::TaskId(_)), Some(task)) => prop_assert!(task.id.is_empty() || task.id.len() > 256),
            (Err(error), _) => prop_assert!(false, "{}", error),
        }
        let reply = SubmitReply::read(&serde_json::to_vec(&submission).unwrap()).unwrap();
        prop_assert_eq!(reply.feedback.is_some(), submission.feedback.is_some());
        if let (Some(read), Some(written)) = (reply.feedback, submission.feedback) {
            prop_assert_eq!(read.validation_failed, written.validation_failed);
            prop_assert_eq!(read.score.get(), written.task_fidelity_score.clamp(0.0, 2.0));
            prop_assert_eq!(read.window_count, written.generations_within_the_window);
        }
    }

    #[test]
    fn arbitrary_replies_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        feed(&bytes);
        feed(&[b"{", &bytes[..]].concat());
        feed(&[b"{\"task\":", &bytes[..], b"}"].concat());
    }

    #[test]
    fn replies_with_altered_bytes_never_panic(
        seed in any::<Index>(),
        flips in vec((any::<Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<Index>()),
    ) {
        let mut bytes = serde_json::to_vec(seed.get(&SEEDS)).unwrap();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        feed(&bytes);
    }

    #[test]
    fn replies_with_values_of_other_types_never_panic(
        seed in any::<Index>(),
        changes in vec((any::<Index>(), any_value()), 1..4),
    ) {
        let mut document = seed.get(&SEEDS).clone();
        for (at, value) in changes {
            let mut found = Vec::new();
            places(&document, "", &mut found);
            let place: &String = at.get(&found);
            *document.pointer_mut(place).unwrap() = value;
        }
        feed(&serde_json::to_vec(&document).unwrap());
    }

    #[test]
    fn shown_text_has_no_power(text in text(), long in 1..5_usize) {
        let bad = |c: char| {
            c.is_control()
                || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                    | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
        };
        let text = text.repeat(long);
        let prompt = Prompt::Text(text.as_str().into());
        for (shown, most) in [
            (Untrusted::new(&text).to_string(), 100),
            (Untrusted::error(&text).to_string(), 400),
            (Untrusted::prompt(&prompt).to_string(), 100),
            (format!("{prompt:?}"), 110),
        ] {
            prop_assert_eq!(shown.chars().find(|c| bad(*c)), None, "{:?}", shown);
            // Each character becomes ten at most, and three dots end a cut text.
            prop_assert!(shown.chars().count() <= most * 10 + 3);
        }
        if text.chars().count() <= 100 && !text.chars().any(|c| bad(c) || !(' '..='~').contains(&c)) {
            prop_assert_eq!(Untrusted::new(&text).to_string(), text);
        }
    }
}

/// The headers that the signature covers: itself, and what the signed text is made of.
const SIGNED: [&str; 5] = [
    "bt_header_dendrite_nonce",
    "bt_header_dendrite_hotkey",
    "bt_header_dendrite_uuid",
    "bt_header_dendrite_signature",
    "computed_body_hash",
];

prop_compose! {
    fn call()(
        submit: bool, ip: [u8; 4], port: u16, uuid: u128, ahead in 0..10_000_000_000_u64,
        timeout in 1..600_u64, version in 7_002_000..99_999_999_i64,
    ) -> (SynapseName, Hotkey, std::net::SocketAddr, String, Nonce, Duration, i64) {
        let name = if submit { SynapseName::SubmitResults } else { SynapseName::PullTask };
        let axon = *HotkeyPair::dev(&format!("axon-{port}")).hotkey();
        let uuid = uuid::Uuid::from_u128(uuid).to_string();
        (name, axon, (ip, port).into(), uuid, Nonce(NOW.as_nanos() + ahead), Duration::from_secs(timeout), version)
    }
}

proptest! {
    // Signing and verifying cost most of a millisecond each.
    #![proptest_config(ProptestConfig { cases: 60, ..config() })]

    #[test]
    fn signed_heads_verify_and_altered_ones_do_not(
        call in call(), at in any::<Index>(), byte in 0x20..0x7f_u8, which in 0..SIGNED.len(),
    ) {
        let (name, axon_hotkey, axon_address, uuid, nonce, timeout, version) = call;
        let miner = HotkeyPair::dev("miner");
        let call = CallHead { name, axon_hotkey, axon_address, uuid: &uuid, nonce, timeout, version };
        let head = sign_headers(&miner, &call);
        let verified = verify_headers(&head.headers, name, &axon_hotkey, NOW, &mut NonceBook::default());
        let verified = verified.unwrap();
        prop_assert_eq!((verified.hotkey, verified.nonce, verified.uuid), (*miner.hotkey(), nonce, uuid.clone()));
        prop_assert_eq!(head.dendrite.nonce, Some(nonce.0));

        // Another receiver, and each signed header in turn with one byte changed or taken away.
        let stranger = *HotkeyPair::dev("stranger").hotkey();
        prop_assert!(verify_headers(&head.headers, name, &stranger, NOW, &mut NonceBook::default()).is_err());
        for (number, header) in SIGNED.iter().enumerate() {
            let mut bytes = head.headers[*header].as_bytes().to_vec();
            let at = at.index(bytes.len());
            let hex_case = *header == "bt_header_dendrite_signature" && bytes[at].eq_ignore_ascii_case(&byte);
            if number == which && bytes[at] != byte && !hex_case {
                bytes[at] = byte;
            } else {
                bytes.remove(at);
            }
            let mut altered = head.headers.clone();
            altered.insert(*header, HeaderValue::from_bytes(&bytes).unwrap());
            let refused = verify_headers(&altered, name, &axon_hotkey, NOW, &mut NonceBook::default());
            prop_assert!(refused.is_err(), "{} {:?}", header, String::from_utf8_lossy(&bytes));
            altered.remove(*header);
            prop_assert!(verify_headers(&altered, name, &axon_hotkey, NOW, &mut NonceBook::default()).is_err());
        }
    }
}
