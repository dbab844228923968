//! Random hostile replies: what becomes of a valid one, by seed.

use std::io::Write as _;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use serde_json::{Value, json};
use sn17_miner::splat::{Gaussian, ShDegree, Splat, SpzEncoder, write_ply};

use crate::peer::{Act, Spoken};

/// Whose reply it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    Pull,
    Submit,
    Generator,
    Health,
    Scorer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    BodyFlips,
    HeadFlips,
    Truncated,
    WrongLength,
    Value,
    Late,
    Drip,
    CloseEarly,
    OtherContent,
    OtherStatus,
    LargeHeader,
    TooLarge,
    NoHttp,
    Empty,
    BadChunks,
    Bomb,
    Splat,
}

const ALWAYS: [Kind; 15] = [
    Kind::BodyFlips,
    Kind::HeadFlips,
    Kind::Truncated,
    Kind::WrongLength,
    Kind::Late,
    Kind::Drip,
    Kind::CloseEarly,
    Kind::OtherContent,
    Kind::OtherStatus,
    Kind::LargeHeader,
    Kind::TooLarge,
    Kind::NoHttp,
    Kind::Empty,
    Kind::BadChunks,
    Kind::Value,
];

fn menu(site: Site) -> Vec<Kind> {
    let mut menu = ALWAYS.to_vec();
    match site {
        // Cheap for both sides and closest to what is read: told three times as often.
        Site::Pull | Site::Submit | Site::Scorer => menu.extend([Kind::Value, Kind::Value, Kind::BodyFlips]),
        Site::Generator => menu.extend([Kind::Bomb, Kind::Splat, Kind::Splat]),
        Site::Health => {}
    }
    menu
}

/// How many kinds of lies there are at a site.
pub fn kinds(site: Site) -> usize {
    menu(site).into_iter().collect::<std::collections::BTreeSet<_>>().len()
}

pub fn chance(seed: u64, probability: f64) -> bool {
    StdRng::seed_from_u64(seed).random_bool(probability)
}

fn rng(seed: u64, number: u64) -> StdRng {
    StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(number))
}

/// The kind of the n-th lie.
pub fn kind(seed: u64, number: u64, site: Site) -> Kind {
    *menu(site).choose(&mut rng(seed, number)).unwrap()
}

/// The n-th lie, in place of a valid reply.
pub fn lie(seed: u64, number: u64, site: Site, valid: &Spoken) -> Vec<Act> {
    let mut rng = rng(seed, number);
    let kind = *menu(site).choose(&mut rng).unwrap();
    let mut spoken = valid.clone();
    match kind {
        Kind::BodyFlips => {
            flip(&mut rng, &mut spoken.body);
            vec![Act::Send(spoken.bytes())]
        }
        Kind::HeadFlips => {
            let mut head = spoken.head(spoken.body.len());
            flip(&mut rng, &mut head);
            vec![Act::Send(head), Act::Send(spoken.body)]
        }
        Kind::Truncated => {
            let length = rng.random_range(0..=spoken.body.len());
            spoken.body.truncate(length);
            vec![Act::Send(spoken.bytes())]
        }
        Kind::WrongLength => {
            let length = spoken.body.len() as u64;
            let claims = [0, length / 2, length + 1, length + 5_000, 10 << 30, u64::MAX];
            let mut acts =
                vec![Act::Send(spoken.head(claims.choose(&mut rng).unwrap())), Act::Send(spoken.body)];
            if rng.random_bool(0.3) {
                acts.push(Act::Hang);
            }
            acts
        }
        Kind::Value => {
            spoken.body = match serde_json::from_slice::<Value>(&spoken.body) {
                Ok(mut document) => {
                    for _ in 0..rng.random_range(1..4) {
                        replace(&mut rng, &mut document);
                    }
                    // NaN and numbers beyond any range are not JSON, and are sent all the same.
                    let text = document.to_string();
                    let raw = ["NaN", "Infinity", "-1e999", "1e308", "-0.0", "9999999999999999999999"];
                    text.replace("\"RAW\"", raw.choose(&mut rng).unwrap()).into_bytes()
                }
                Err(_) => value(&mut rng, 0).to_string().into_bytes(),
            };
            vec![Act::Send(spoken.bytes())]
        }
        Kind::Late => {
            let wait = Duration::from_millis(rng.random_range(50..2_500));
            vec![Act::Pause(wait), Act::Send(spoken.bytes())]
        }
        Kind::Drip => {
            let head = spoken.head(spoken.body.len());
            let pause = Duration::from_millis(rng.random_range(1..1_000));
            if rng.random() {
                vec![Act::Drip(head, pause)]
            } else {
                vec![Act::Send(head), Act::Drip(spoken.body, pause)]
            }
        }
        Kind::CloseEarly => {
            let mut bytes = spoken.bytes();
            let length = rng.random_range(0..bytes.len());
            bytes.truncate(length);
            vec![Act::Send(bytes)]
        }
        Kind::OtherContent => {
            let bodies: [&[u8]; 6] = [
                b"<!DOCTYPE html><html><body>\x1b[2J502 Bad Gateway</body></html>",
                b"{\"detail\":\"\\u001b[2J\\u202e\"}",
                b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
                b"\xff\xfe\x00\x80",
                b"\x1f\x8b\x08\x00",
                b"Internal Server Error",
            ];
            let types = ["text/html", "application/octet-stream", "image/png", "multipart/form-data", "x"];
            let other = Spoken::new(
                spoken.status,
                types.choose(&mut rng).unwrap(),
                *bodies.choose(&mut rng).unwrap(),
            );
            vec![Act::Send(other.bytes())]
        }
        Kind::OtherStatus => {
            let statuses = [
                100, 103, 199, 201, 204, 206, 301, 304, 307, 400, 401, 403, 404, 418, 422, 429, 500, 502,
                503, 599, 999,
            ];
            spoken.status = *statuses.choose(&mut rng).unwrap();
            vec![Act::Send(spoken.header("location", "http://127.0.0.1:1/").bytes())]
        }
        Kind::LargeHeader => {
            let length = [1_000, 100_000, 1 << 20].choose(&mut rng).copied().unwrap();
            vec![Act::Send(spoken.header("x-large", &"A".repeat(length)).bytes())]
        }
        Kind::TooLarge => {
            let head = if rng.random() {
                spoken.head(1_u64 << 33)
            } else {
                b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec()
            };
            let piece =
                [&b" "[..], b"[", b"{\"a\":", b"\x7f", b"\"\\u202e"].choose(&mut rng).unwrap().repeat(8_192);
            vec![Act::Send(head), Act::Send(spoken.body), Act::Flood(piece, 4_000)]
        }
        Kind::NoHttp => {
            let mut noise = vec![0; rng.random_range(1..5_000)];
            rng.fill_bytes(&mut noise);
            vec![Act::Send(noise)]
        }
        Kind::Empty => {
            spoken.body.clear();
            vec![Act::Send(spoken.bytes())]
        }
        Kind::BadChunks => {
            let head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
            let sizes = ["", "zz", "-1", "ffffffffffffffff", "fffffffffffffffff", "5;x=\"", "0"];
            let size = sizes.choose(&mut rng).unwrap();
            vec![Act::Send(head), Act::Send(format!("{size}\r\n").into_bytes()), Act::Send(spoken.body)]
        }
        Kind::Bomb => {
            let megabytes = [1, 16, 600].choose(&mut rng).copied().unwrap();
            let sized = rng.random();
            vec![Act::Send(Spoken::new(200, "application/octet-stream", bomb(megabytes, sized)).bytes())]
        }
        Kind::Splat => {
            let mut body = splat(&mut rng);
            if rng.random() {
                flip(&mut rng, &mut body);
            }
            if rng.random_bool(0.3) {
                let length = rng.random_range(0..=body.len());
                body.truncate(length);
            }
            vec![Act::Send(Spoken::new(200, "application/octet-stream", body).bytes())]
        }
    }
}

fn flip(rng: &mut StdRng, bytes: &mut [u8]) {
    if bytes.is_empty() {
        return;
    }
    // Most of the meaning is at the start.
    let reach = if rng.random() { bytes.len() } else { bytes.len().min(600) };
    for _ in 0..rng.random_range(1..9) {
        bytes[rng.random_range(0..reach)] = rng.random();
    }
}

/// Puts another value somewhere into a document, for the task and the numbers rather than the rest.
fn replace(rng: &mut StdRng, document: &mut Value) {
    let wanted = [
        "/task",
        "/task/id",
        "/task/prompt",
        "/task/type",
        "/validation_threshold",
        "/throttle_period",
        "/cooldown_until",
        "/cooldown_violations",
        "/feedback",
        "/feedback/validation_failed",
        "/feedback/task_fidelity_score",
        "/feedback/average_fidelity_score",
        "/feedback/generations_within_the_window",
        "/feedback/current_duel_rating",
        "/feedback/current_miner_reward",
        "/score",
        "/iqa",
        "/alignment_score",
        "/ssim",
        "/lpips",
        "/message",
    ];
    let there: Vec<_> = wanted.iter().filter(|place| document.pointer(place).is_some()).collect();
    let new = value(rng, 0);
    match there.choose(rng) {
        Some(place) => *document.pointer_mut(place).unwrap() = new,
        None => *document = new,
    }
}

fn value(rng: &mut StdRng, depth: usize) -> Value {
    match rng.random_range(0..14) {
        0 => Value::Null,
        1 => json!(rng.random::<bool>()),
        2 => json!(rng.random::<u64>()),
        3 => json!(rng.random::<i64>()),
        4 => json!(rng.random_range(-10.0..10.0)),
        5 => json!(1e300),
        6 => json!("RAW"),
        7 => json!("../../../etc/passwd\u{0}"),
        8 => json!("\u{1b}[2J\u{1b}]0;x\u{7}\u{202e}\u{2066}\r\n".repeat(rng.random_range(1..200))),
        9 => json!("é".repeat(rng.random_range(0..100_000))),
        10 => json!(""),
        11 if depth < 3 => Value::from_iter((0..rng.random_range(0..5)).map(|_| value(rng, depth + 1))),
        12 if depth < 3 => {
            let keys = ["id", "prompt", "type", "score", "\u{1b}"];
            keys.iter().map(|key| ((*key).to_owned(), value(rng, depth + 1))).collect()
        }
        _ => (0..rng.random_range(1..400)).fold(Value::Null, |inner, _| json!([inner])),
    }
}

/// Zeros under a header that makes a cloud of them, in zstd.
fn bomb(megabytes: usize, sized: bool) -> Vec<u8> {
    let length = megabytes << 20;
    let points = (length / 64) as u32;
    let mut payload = b"NGSP".to_vec();
    payload.extend_from_slice(&2_u32.to_le_bytes());
    payload.extend_from_slice(&points.to_le_bytes());
    payload.extend_from_slice(&[3, 12, 0, 0]);
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    if sized {
        encoder.set_pledged_src_size(Some((16 + length) as u64)).unwrap();
        encoder.include_contentsize(true).unwrap();
    }
    encoder.write_all(&payload).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..megabytes {
        encoder.write_all(&zeros).unwrap();
    }
    encoder.finish().unwrap()
}

/// A small cloud as PLY or SPZ, with numbers of every kind now and then.
fn splat(rng: &mut StdRng) -> Vec<u8> {
    let wild = rng.random_bool(0.3);
    let mut cloud = Splat::new(ShDegree::Zero);
    for _ in 0..rng.random_range(6_900..7_300) {
        let mut number = || if wild { f32::from_bits(rng.random()) } else { rng.random_range(-1.0..1.0) };
        cloud.push(Gaussian {
            position: [number(), number(), number()],
            log_scale: [number(), number(), number()],
            rotation: [number(), number(), number(), number()],
            logit_opacity: number(),
            f_dc: [number(), number(), number()],
        });
    }
    if rng.random() {
        return SpzEncoder::default().encode(&cloud).unwrap().into_bytes();
    }
    let mut bytes = Vec::new();
    write_ply(&cloud, rng.random(), &mut bytes).unwrap();
    bytes
}
