//! Encoding and decoding a large cloud, beside what nobody can do without: copying its bytes, and zstd
//! at the same level on the same payload. `cargo bench --bench codec`.
//!
//! The runs of all contenders take turns, so that whatever else the machine does slows each of them.

mod support;

use std::hint::black_box;
use std::time::Duration;

use sn17_miner::clock::Clock;
use sn17_miner::splat::{MAX_PAYLOAD_BYTES, Payload, PlyReader, ShDegree, SpzEncoder};
use support::{POINTS, Times, random_ply, ratio};

const RUNS: usize = 15;

fn main() {
    for degree in [ShDegree::Zero, ShDegree::Three] {
        measure(degree);
    }
    standin();
}

struct Contender<'a> {
    name: &'static str,
    work: Box<dyn FnMut() + 'a>,
    times: Vec<Duration>,
}

impl<'a> Contender<'a> {
    fn new(name: &'static str, work: impl FnMut() + 'a) -> Self {
        Self { name, work: Box::new(work), times: Vec::new() }
    }
}

fn measure(degree: ShDegree) {
    let clock = Clock::system();
    let ply = random_ply(degree);
    let encoder = SpzEncoder::new(1);
    let encode =
        || encoder.encode(&PlyReader::default().read(&ply).expect("our own PLY")).expect("a sound cloud");
    let spz = encode();
    let payload = spz.payload().expect("our own SPZ");
    let payload = payload.as_bytes();

    let mut copied = vec![1; ply.len()];
    let mut copied_payload = vec![1; payload.len()];
    let mut contenders = [
        Contender::new("memcpy of the PLY", || black_box(&mut copied).copy_from_slice(black_box(&ply))),
        Contender::new("memcpy of the payload", || {
            black_box(&mut copied_payload).copy_from_slice(black_box(payload));
        }),
        Contender::new("zstd level 1 of the payload alone", || {
            drop(black_box(zstd::bulk::compress(black_box(payload), 1)));
        }),
        Contender::new("encode: PLY to SPZ", || drop(black_box(encode()))),
        Contender::new("zstd decompression alone", || {
            drop(black_box(zstd::bulk::decompress(black_box(spz.as_bytes()), payload.len())));
        }),
        Contender::new("decode: SPZ to a cloud", || {
            let payload =
                Payload::decompress(black_box(spz.as_bytes()), MAX_PAYLOAD_BYTES).expect("our own SPZ");
            drop(black_box(payload.to_splat()));
        }),
    ];
    for run in 0..=RUNS {
        for contender in &mut contenders {
            let started = clock.instant();
            (contender.work)();
            // The first turn warms up caches and the allocator.
            if run > 0 {
                contender.times.push(started.elapsed());
            }
        }
    }
    let results = contenders.map(|contender| (contender.name, Times::of(contender.times)));
    println!(
        "codec, {POINTS} random Gaussians of degree {}: PLY {} bytes, payload {}, SPZ {}",
        degree.number(),
        ply.len(),
        payload.len(),
        spz.as_bytes().len()
    );
    for (name, times) in &results {
        println!("  {name:<34}{times}");
    }
    let [copy, copy_payload, zstd, encode, unzstd, decode] =
        [0, 1, 2, 3, 4, 5].map(|index: usize| &results[index].1);
    println!("  encode / memcpy of the PLY       {:>7.2}", ratio(encode, copy));
    println!("  encode / zstd alone              {:>7.2}", ratio(encode, zstd));
    println!("  decode / memcpy of the payload   {:>7.2}", ratio(decode, copy_payload));
    println!("  decode / zstd alone              {:>7.2}", ratio(decode, unzstd));
}

/// The reference's own codec (pyspz) is not published, so numpy and zstandard stand in for it: columns
/// quantised by whole-array operations, one call to the same zstd.
fn standin() {
    let Some(python) = std::env::var_os("SN17_PYTHON").filter(|path| !path.is_empty()) else {
        println!("codec, numpy and zstandard as a stand-in for pyspz: not run (set SN17_PYTHON)");
        return;
    };
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), random_ply(ShDegree::Zero)).expect("write the PLY");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/python/codec.py");
    let status =
        std::process::Command::new(python).arg(script).arg(file.path()).arg(RUNS.to_string()).status();
    if !status.is_ok_and(|status| status.success()) {
        println!("codec, numpy and zstandard: failed");
    }
}
