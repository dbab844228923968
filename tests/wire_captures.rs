//! Our two calls as bytes on a socket, against what the real dendrite sent and a real axon answered
//! (vectors/synapse), by the rule of answers.md, "Compare wire captures by".

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde_json::Value;
use sn17_miner::clock::Clock;
use sn17_miner::dendrite::{AxonAddress, CallError, Dendrite, Settings, Submission};
use sn17_miner::net::{Connections, NetError, Transport};
use sn17_miner::primitives::{ByteSize, Hotkey, Prompt, PromptKind, TaskId, UnixTime};
use sn17_miner::wallet::HotkeyPair;
use support::wire::{Message, RawServer, Seen};

const IDLE: Connections = Connections::IdleUnder(Duration::from_secs(4));

fn dendrite(pulls: Connections) -> Dendrite {
    let settings = Settings {
        pull_timeout: Duration::from_secs(12),
        submit_timeout: Duration::from_secs(300),
        pull_reply_limit: ByteSize::mib(32),
        submit_reply_limit: ByteSize::mib(1),
        version: 9_009_000,
    };
    let transport = |connections| Transport::http(Duration::from_secs(3), connections).unwrap();
    let key = Arc::new(HotkeyPair::dev("miner"));
    Dendrite::new(key, Clock::system(), settings, transport(pulls), transport(Connections::Fresh))
}

fn axon(number: u8, address: SocketAddr) -> AxonAddress {
    AxonAddress { hotkey: *HotkeyPair::dev(&format!("validator-{number}")).hotkey(), address }
}

/// The captures' task.
struct Work {
    task_id: TaskId,
    prompt: Prompt,
}

impl Work {
    fn captured() -> Self {
        let task_id = TaskId::new("11111111-2222-4333-8444-555555555555").unwrap();
        Self { task_id, prompt: Prompt::new(PromptKind::Text, "a red cube") }
    }

    fn answer<'a>(&'a self, spz: Option<&'a [u8]>) -> Submission<'a> {
        let submit_time = Clock::system().now();
        Submission { task_id: &self.task_id, prompt: &self.prompt, spz, submit_time }
    }
}

fn capture(name: &str) -> Option<Message> {
    let path = support::shared(&format!("vectors/synapse/{name}.http"))?;
    Some(Message::parse(&std::fs::read(path).unwrap()))
}

/// The replies to a pull and to a submission, as captured.
fn captured_axon() -> Option<RawServer> {
    let pulled = capture("01-pull-200.response")?.bytes();
    let submitted = capture("02-submit-200.response")?.bytes();
    Some(RawServer::start(move |request| match request.path() {
        "/PullTask" => pulled.clone(),
        _ => submitted.clone(),
    }))
}

/// Every value's place in a JSON text and what it is, numbers by whether they are whole.
fn shape(value: &Value, place: &str, into: &mut BTreeSet<(String, &'static str)>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(items) => {
            items.iter().for_each(|item| shape(item, &format!("{place}[]"), into));
            "array"
        }
        Value::Object(fields) => {
            fields.iter().for_each(|(name, field)| shape(field, &format!("{place}.{name}"), into));
            "object"
        }
    };
    into.insert((place.to_owned(), kind));
}

fn shape_of(value: &Value) -> BTreeSet<(String, &'static str)> {
    let mut into = BTreeSet::new();
    shape(value, "", &mut into);
    into
}

fn assert_as_captured(ours: &Message, captured: &Message) {
    assert_eq!(ours.start_line(), captured.start_line());
    let names = |message: &Message| message.headers().map(|(name, _)| name).collect::<Vec<_>>();
    let (sent, wanted) = (names(ours), names(captured));
    let set = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(set(&sent), set(&wanted));
    assert_eq!(sent.len(), set(&sent).len(), "no header comes twice: {sent:?}");
    let mut fixed =
        vec!["computed_body_hash", "timeout", "name", "content-type", "bt_header_dendrite_version"];
    fixed.extend(wanted.iter().map(String::as_str).filter(|name| name.starts_with("bt_header_input_obj_")));
    for name in fixed {
        assert_eq!(ours.header(name), captured.header(name), "{name}");
    }

    let (sent, wanted) = (ours.json(), captured.json());
    assert_eq!(shape_of(&sent), shape_of(&wanted));
    assert!(sent["name"].is_string());
    for name in ["name", "timeout", "computed_body_hash", "compression", "data_format", "data_ver"] {
        assert_eq!(sent[name], wanted[name], "{name}");
    }
    for name in ["task_id", "results", "feedback", "cooldown_until"] {
        assert_eq!(sent[name], wanted[name], "{name}");
    }
    assert_eq!(sent["dendrite"]["version"], 9_009_000);
    for name in ["nonce", "uuid", "hotkey", "signature", "ip"] {
        let header = ours.header(&format!("bt_header_dendrite_{name}")).unwrap();
        let body = &sent["dendrite"][name];
        assert_eq!(body.as_str().map_or_else(|| body.to_string(), str::to_owned), header, "{name}");
    }
    assert_eq!(sent["dendrite"]["ip"], "0.0.0.0");
    assert_eq!(sent["axon"]["hotkey"], ours.header("bt_header_axon_hotkey").unwrap());
}

#[tokio::test]
async fn our_calls_are_the_captured_ones() {
    let Some(server) = captured_axon() else { return };
    let captured = ["01-pull-200", "02-submit-200", "03-submit-empty-200"]
        .map(|name| capture(&format!("{name}.request")).unwrap());
    let spz = STANDARD.decode(captured[1].json()["results"].as_str().unwrap()).unwrap();
    let (dendrite, axon, work) = (dendrite(IDLE), axon(0, server.address()), Work::captured());
    dendrite.pull(&axon).await.unwrap();
    dendrite.submit(&axon, work.answer(Some(&spz))).await.unwrap();
    dendrite.submit(&axon, work.answer(None)).await.unwrap();

    let seen = server.seen();
    assert_eq!(seen.len(), captured.len());
    for (seen, captured) in seen.iter().zip(&captured) {
        assert_as_captured(&seen.request, captured);
    }
}

#[tokio::test]
async fn the_captured_replies_are_read() {
    let Some(pulled) = capture("01-pull-200.response") else { return };
    let dendrite = dendrite(IDLE);
    let work = Work::captured();
    let date = Some(UnixTime::from_secs(1_795_145_287));

    let reply = pulled.bytes();
    let server = RawServer::start(move |_| reply.clone());
    let answered = dendrite.pull(&axon(0, server.address())).await.unwrap();
    assert_eq!(answered.date, date);
    let pull = answered.reply;
    let task = pull.task.unwrap();
    assert_eq!((task.id, task.prompt), (work.task_id.clone(), work.prompt.clone()));
    assert_eq!((pull.threshold.get(), pull.throttle_s, pull.violations), (0.6, 20, 0));
    assert_eq!(pull.cooldown_until, Some(UnixTime::from_secs(1_234)));

    for name in ["02-submit-200", "03-submit-empty-200"] {
        let reply = capture(&format!("{name}.response")).unwrap().bytes();
        let server = RawServer::start(move |_| reply.clone());
        let answered = dendrite.submit(&axon(0, server.address()), work.answer(None)).await.unwrap();
        assert_eq!(answered.date, date.map(|date| date + Duration::from_secs(1)));
        assert_eq!(answered.reply.cooldown_until, Some(UnixTime::from_secs(1_234_567_890)));
        let feedback = answered.reply.feedback.unwrap();
        assert_eq!((feedback.validation_failed, feedback.score.get()), (false, 0.8));
        assert_eq!((feedback.average_score.get(), feedback.window_count), (0.0, 0));
        assert_eq!((feedback.duel_rating, feedback.reward), (1_500.5, 0.0));
    }
}

#[tokio::test]
async fn the_captured_refusals_are_read() {
    let dendrite = dendrite(IDLE);
    let work = Work::captured();
    // Name, status, start of the message, worth another try, may have been acted on.
    let refusals = [
        ("04-blacklisted-403", 403, "Forbidden. Key is blacklisted: Unrecognized hotkey.", true, false),
        ("05-handler-error-500", 500, "Internal Server Error #0b053ab7-", true, true),
        ("06-unknown-synapse-404", 404, "Synapse name 'Nope' not found. Available ", false, false),
        ("07-priority-timeout-408", 408, "Response timeout after: 12.0s", true, true),
        ("08-priority-refused-503", 503, "busy", true, true),
        ("09-bad-signature-401", 401, "Not Verified with error: Signature mismatch with 17951", false, false),
    ];
    for (name, wanted, start, retryable, arrived) in refusals {
        let Some(captured) = capture(&format!("{name}.response")) else { return };
        let text = captured.json()["message"].as_str().unwrap().to_owned();
        assert!(text.starts_with(start), "{text}");
        let reply = captured.bytes();
        let server = RawServer::start(move |_| reply.clone());
        let axon = axon(0, server.address());
        let errors = [
            dendrite.pull(&axon).await.unwrap_err(),
            dendrite.submit(&axon, work.answer(None)).await.unwrap_err(),
        ];
        for error in errors {
            let CallError::Refused { status, message } = &error else { panic!("{name}: {error:?}") };
            assert_eq!(*status, StatusCode::from_u16(wanted).unwrap(), "{name}");
            assert_eq!(message.as_ref(), Some(&text), "{name}");
            assert_eq!((error.is_retryable(), error.may_have_arrived()), (retryable, arrived), "{name}");
        }
    }
}

#[test]
fn every_capture_is_used() {
    let Some(folder) = support::shared("vectors/synapse") else { return };
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let captures = files.filter(|name| name.to_string_lossy().ends_with(".http")).count();
    assert_eq!(captures, 18, "nine exchanges, which the tests of this file name");
}

const PULLED: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{\"task\":null}";

/// Lets the HTTP client's own task put a connection back, which it does after the reply is read.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn pulls_share_a_connection_while_it_is_young_enough() {
    for (idle, wanted) in [(Duration::from_secs(4), 1), (Duration::from_nanos(1), 5)] {
        let server = RawServer::start(|_| PULLED.to_vec());
        let dendrite = dendrite(Connections::IdleUnder(idle));
        for _ in 0..5 {
            dendrite.pull(&axon(0, server.address())).await.unwrap();
            settle().await;
        }
        let used: BTreeSet<_> = server.seen().iter().map(|seen| seen.connection).collect();
        assert_eq!((server.seen().len(), used.len()), (5, wanted), "idle under {idle:?}");
    }
}

#[tokio::test]
async fn each_submission_opens_its_own_connection() {
    let server = RawServer::start(|_| PULLED.to_vec());
    let (dendrite, work) = (dendrite(IDLE), Work::captured());
    let axon = axon(0, server.address());
    for _ in 0..5 {
        dendrite.submit(&axon, work.answer(None)).await.unwrap();
        settle().await;
        dendrite.pull(&axon).await.unwrap();
        settle().await;
    }
    let seen = server.seen();
    let of =
        |path| seen.iter().filter(|s| s.request.path() == path).map(|s| s.connection).collect::<Vec<_>>();
    let (submissions, pulls) = (of("/SubmitResults"), of("/PullTask"));
    let all: BTreeSet<_> = submissions.iter().chain(&pulls).collect();
    assert_eq!((submissions.len(), pulls.len()), (5, 5));
    assert_eq!(submissions.iter().collect::<BTreeSet<_>>().len(), 5, "{submissions:?}");
    assert_eq!((all.len(), server.connections()), (6, 6), "{submissions:?} {pulls:?}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let reply = format!(
            "HTTP/1.1 {status} Moved\r\nlocation: http://127.0.0.1:1/PullTask\r\ncontent-length: 0\r\n\r\n"
        );
        let server = RawServer::start(move |request| match request.path() {
            "/elsewhere" => PULLED.to_vec(),
            _ => reply.replace("http://127.0.0.1:1/PullTask", "/elsewhere").into_bytes(),
        });
        let axon = axon(0, server.address());
        let (dendrite, work) = (dendrite(IDLE), Work::captured());
        let errors = [
            dendrite.pull(&axon).await.unwrap_err(),
            dendrite.submit(&axon, work.answer(None)).await.unwrap_err(),
        ];
        for error in errors {
            assert!(
                matches!(&error, CallError::Net(NetError::Redirected(code)) if code.as_u16() == status),
                "{error:?}"
            );
        }
        let paths: Vec<_> = server.seen().iter().map(|seen| seen.request.path().to_owned()).collect();
        assert_eq!(paths, ["/PullTask", "/SubmitResults"], "nothing went elsewhere");
    }
}

/// Nonce and uuid of the calls to one validator, in the order they arrived.
fn lane(seen: &[Seen], hotkey: &Hotkey) -> (Vec<u64>, BTreeSet<String>) {
    let hotkey = hotkey.to_ss58();
    let calls = seen.iter().filter(|s| s.request.header("bt_header_axon_hotkey") == Some(&hotkey));
    calls
        .map(|s| {
            let header = |name: &str| s.request.header(&format!("bt_header_dendrite_{name}")).unwrap();
            (header("nonce").parse::<u64>().unwrap(), header("uuid").to_owned())
        })
        .unzip()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_has_one_uuid_and_rising_nonces() {
    let server = RawServer::start(|_| PULLED.to_vec());
    let (dendrite, work) = (dendrite(IDLE), Work::captured());
    let axons = [0, 1].map(|number| axon(number, server.address()));
    // All at once: what arrives must still be in order, lane by lane.
    let calls = (0..40).map(|number| {
        let (dendrite, axon, work) = (&dendrite, &axons[number % 2], &work);
        async move {
            if number % 4 < 2 {
                dendrite.pull(axon).await.map(drop)
            } else {
                dendrite.submit(axon, work.answer(None)).await.map(drop)
            }
        }
    });
    for result in futures_util::future::join_all(calls).await {
        result.unwrap();
    }
    let seen = server.seen();
    let lanes = axons.map(|axon| lane(&seen, &axon.hotkey));
    for (nonces, uuids) in &lanes {
        assert_eq!((nonces.len(), uuids.len()), (20, 1));
        assert!(nonces.windows(2).all(|pair| pair[0] < pair[1]), "{nonces:?}");
    }
    assert_ne!(lanes[0].1, lanes[1].1, "two lanes, two uuids");
}
