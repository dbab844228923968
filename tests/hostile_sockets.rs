//! What only a socket can do to the agent: floods, drips, oversized and broken heads, over loopback
//! under the real clock with short limits. The first of two validators misbehaves at every call; the
//! second one's task is made and accepted meanwhile.

#[path = "support/hostile_peer.rs"]
mod peer;
#[path = "support/hostile_world.rs"]
mod world;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use peer::{Act, Peer, Spoken};
use sn17_miner::clock::Clock;
use sn17_miner::devnet::generator::{DevGenerator, DevGeneratorSettings};
use sn17_miner::devnet::scorer::{DevScorer, DevScorerSettings};
use sn17_miner::primitives::ByteSize;
use world::Theatre;

/// Longest wait for a reply in these tests.
const LIMIT: Duration = Duration::from_secs(1);

/// Beyond the limits: generating, scoring and submitting an honest task on a busy machine.
const WORK: Duration = Duration::from_secs(60);

fn theatre() -> Theatre {
    let mut theatre = Theatre::with(2, Clock::system());
    let settings = &mut theatre.settings;
    settings.dendrite.pull_timeout = LIMIT;
    settings.dendrite.pull_reply_limit = ByteSize::mib(1);
    theatre
}

/// One honest task beside a validator whose every pull gets this script: one warning, saying so.
async fn pull(script: Vec<Act>, said: &str) -> Peer {
    let theatre = theatre();
    let hostile = Peer::always(script).await;
    let honest = Peer::honest(theatre.axons[1].router()).await;
    let generator =
        Peer::honest(DevGenerator::new(DevGeneratorSettings::default(), theatre.clock).router()).await;
    let scorer = Peer::honest(DevScorer::new(DevScorerSettings::default(), theatre.clock).router()).await;
    let took = theatre
        .run_over_sockets(1, &[hostile.address, honest.address], [generator.address, scorer.address])
        .await;
    assert!(took < LIMIT + WORK, "{took:?}");
    let warnings = theatre.log.warnings();
    assert!(warnings[0].contains(said), "{said:?} in {warnings:#?}");
    // A busy machine may be slow enough for the backoff to end before the honest task does.
    let asked = hostile.requests.load(Ordering::Relaxed).max(1);
    assert!(warnings.len() <= asked && warnings.iter().all(|line| line.contains("pull")), "{warnings:#?}");
    let accepted = theatre.axons[1].ledger(|ledger| ledger.chronicle().count("accepted"));
    assert_eq!(accepted, 1, "{:#?}", theatre.log.all());
    hostile
}

fn json(body: &str) -> Spoken {
    Spoken::new(200, "application/json", body)
}

#[tokio::test]
async fn ten_gigabytes_over_a_socket() {
    let head = json("").head(10_u64 << 30);
    let flood = vec![Act::Send(head), Act::Flood(vec![b' '; 1 << 16], 163_840)];
    let hostile = pull(flood, "the reply is larger than 1MiB").await;
    // What the limit lets through, and what the two socket buffers hold.
    let sent = hostile.sent.load(Ordering::Relaxed);
    assert!(sent < 64 << 20, "{sent} bytes were taken");
}

#[tokio::test]
async fn ten_gigabytes_claimed_and_not_sent() {
    let script = vec![Act::Send(json("").head(10_u64 << 30)), Act::Hang];
    pull(script, "the reply was not complete within 1s").await;
}

#[tokio::test]
async fn a_reply_that_never_ends() {
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let chunk = b"1\r\n \r\n".to_vec();
    let endless = vec![Act::Send(head), Act::Drip(chunk.repeat(1_000_000), Duration::from_millis(5))];
    pull(endless, "the reply was not complete within 1s").await;
}

#[tokio::test]
async fn one_byte_a_second() {
    let drip = vec![Act::Drip(json("{}").bytes(), Duration::from_secs(1))];
    pull(drip, "no reply within 1s").await;
}

#[tokio::test]
async fn a_head_that_never_ends() {
    let start = b"HTTP/1.1 200 OK\r\n".to_vec();
    let endless = vec![Act::Send(start), Act::Flood(b"x-filler: 0123456789abcdef\r\n".repeat(100), 1 << 20)];
    let hostile = pull(endless, "the connection broke").await;
    assert!(hostile.sent.load(Ordering::Relaxed) < 64 << 20);
    // And one that takes its time, with interim answers in between.
    let interim = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".to_vec();
    pull(vec![Act::Drip(interim.repeat(100_000), Duration::from_millis(2))], "no reply within 1s").await;
}

#[tokio::test]
async fn a_header_of_1_mb() {
    let large = json("{}").header("x-large", &"A".repeat(1 << 20));
    pull(vec![Act::Send(large.bytes())], "the connection broke").await;
}

#[tokio::test]
async fn a_thousand_headers() {
    let mut many = json("{}");
    for number in 0..1_000 {
        many = many.header(&format!("x-{number}"), "1");
    }
    pull(vec![Act::Send(many.bytes())], "the connection broke").await;
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let target = Peer::always(vec![Act::Send(json("{}").bytes())]).await;
    for status in [301, 302, 303, 307, 308] {
        let there = format!("http://{}/PullTask", target.address);
        let redirect = Spoken::new(status, "text/plain", "").header("location", &there);
        pull(vec![Act::Send(redirect.bytes())], "redirects are refused").await;
    }
    assert_eq!(target.requests.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_connection_that_closes_early() {
    pull(vec![], "the connection broke").await;
    pull(vec![Act::Send(b"HTTP/1.1 200".to_vec())], "the connection broke").await;
    let cut = [json("").head(100), b"{\"task\":".to_vec()].concat();
    pull(vec![Act::Send(cut)], "the connection broke").await;
}

#[tokio::test]
async fn bytes_that_are_no_http() {
    pull(vec![Act::Send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(50))], "the connection broke")
        .await;
    pull(vec![Act::Send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec())], "the connection broke").await;
    pull(
        vec![Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n{}".to_vec())],
        "the connection broke",
    )
    .await;
    let double = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}x".to_vec();
    pull(vec![Act::Send(double)], "the connection broke").await;
    let chunks = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n".to_vec();
    pull(vec![Act::Send(chunks)], "the connection broke").await;
}

#[tokio::test]
async fn a_compressed_reply_is_not_expanded() {
    // gzip of a kilobyte of spaces; we never ask for compression.
    let gzip = Spoken::new(200, "application/json", &b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"[..]);
    pull(vec![Act::Send(gzip.header("content-encoding", "gzip").bytes())], "not a JSON object").await;
}

#[tokio::test]
async fn a_second_reply_that_nobody_asked_for() {
    let twice = [json("[]").bytes(), json("{\"task\":{}}").bytes()].concat();
    let keep = String::from_utf8(twice).unwrap().replace("connection: close\r\n", "");
    pull(vec![Act::Send(keep.into_bytes()), Act::Hang], "not a JSON object").await;
}

#[tokio::test]
async fn a_peer_that_accepts_and_says_nothing() {
    pull(vec![Act::Hang], "no reply within 1s").await;
}

#[tokio::test]
async fn a_port_where_nobody_listens() {
    let theatre = theatre();
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let honest = Peer::honest(theatre.axons[1].router()).await;
    let generator =
        Peer::honest(DevGenerator::new(DevGeneratorSettings::default(), theatre.clock).router()).await;
    let scorer = Peer::honest(DevScorer::new(DevScorerSettings::default(), theatre.clock).router()).await;
    theatre.run_over_sockets(1, &[closed, honest.address], [generator.address, scorer.address]).await;
    let warnings = theatre.log.warnings();
    assert!(warnings[0].contains("The validator could not be asked"), "{warnings:#?}");
    assert!(warnings[0].contains("could not connect"), "{warnings:#?}");
}

#[tokio::test]
async fn a_generator_that_drips_and_closes_over_a_socket() {
    let mut theatre = theatre();
    theatre.settings.generator.limits.first_byte = LIMIT;
    theatre.settings.generator.limits.total = LIMIT;
    theatre.settings.dendrite.pull_timeout = Duration::from_secs(10);
    let bad: [(Vec<Act>, &str); 3] = [
        (vec![Act::Drip(b"HTTP/1.1 200 OK\r\n".to_vec(), Duration::from_secs(1))], "no reply within 1s"),
        (
            vec![
                Act::Send(Spoken::new(200, "x/y", "").head(1 << 30)),
                Act::Drip(vec![b'p'; 99], Duration::from_secs(1)),
            ],
            "not complete within 1s",
        ),
        (
            vec![Act::Send(Spoken::new(200, "x/y", "").head(500)), Act::Send(b"ply\n".to_vec())],
            "the connection broke",
        ),
    ];
    let calls = std::sync::atomic::AtomicUsize::new(0);
    let scripts: Vec<Vec<Act>> = bad.iter().map(|(script, _)| script.clone()).collect();
    let generator = Peer::start(Arc::new(move |heard| {
        let script = if heard.path == "/generate/" {
            scripts[calls.fetch_add(1, Ordering::Relaxed).min(2)].clone()
        } else {
            vec![Act::Send(Spoken::new(404, "text/plain", "").bytes())]
        };
        Box::pin(async move { script })
    }))
    .await;
    let scorer = Peer::honest(DevScorer::new(DevScorerSettings::default(), theatre.clock).router()).await;
    let [first, second] = [&theatre.axons[0], &theatre.axons[1]].map(|axon| Peer::honest(axon.router()));
    let (first, second) = (first.await, second.await);
    theatre.run_over_sockets(3, &[first.address, second.address], [generator.address, scorer.address]).await;
    let warnings = theatre.log.warnings();
    assert_eq!(warnings.len(), 3, "{warnings:#?}");
    for (line, (_, said)) in warnings.iter().zip(&bad) {
        assert!(line.contains(said), "{said} in {line}");
    }
    let empties: u64 = theatre.axons.iter().map(|axon| axon.ledger(|l| l.chronicle().count("empty"))).sum();
    assert_eq!(empties, 3);
}
