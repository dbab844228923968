//! Generators and scorers that fail or lie, against the agent's own loop under a paused clock: the
//! task ends booked, empty if need be, with one warning, and the next one is accepted.

#[path = "support/hostile_world.rs"]
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use sn17_miner::mining::ScorerDown;
use sn17_miner::primitives::{ByteSize, Prompt};
use sn17_miner::splat::{Gaussian, ShDegree, Splat, SpzEncoder, write_ply};
use world::{Lie, Theatre, broken, pieces, reply, with_header};

const NO_SPLAT: &str = "No usable splat came of a generation";
const NO_VERDICT: &str = "The scorer gave no verdict";

/// The first generation ends so. The task is declined with this reason, the next one accepted.
async fn generation(lie: impl Fn() -> Lie + Send + Sync + 'static, reason: &str) -> Duration {
    generation_in(Theatre::new(), lie, reason).await
}

async fn generation_in(
    theatre: Theatre,
    lie: impl Fn() -> Lie + Send + Sync + 'static,
    reason: &str,
) -> Duration {
    let theatre = theatre.generator(move |path, nth| (path == "/generate/" && nth == 0).then(&lie));
    theatre.assign("1", Prompt::Text("a red cube".into()));
    let took = theatre.run(1).await;
    theatre.log.expect(1, NO_SPLAT);
    assert_eq!(theatre.log.warnings().len(), 1, "{:#?}", theatre.log.warnings());
    assert!(theatre.log.warnings()[0].contains(reason), "{reason} in {:#?}", theatre.log.warnings());
    theatre.log.expect(1, "Declining a task");
    theatre.log.expect(1, "Score: empty");
    assert_eq!(theatre.booked("empty"), 1);
    theatre.run(1).await;
    assert_eq!(theatre.booked("accepted"), 1, "{:#?}", theatre.log.all());
    took
}

fn cloud(points: usize) -> Splat {
    let mut splat = Splat::new(ShDegree::Zero);
    for index in 0..points {
        splat.push(Gaussian {
            position: [index as f32 * 1e-4, 0.1, -0.2],
            log_scale: [-4.0; 3],
            rotation: [0.9, 0.1, 0.0, 0.0],
            logit_opacity: 2.0,
            f_dc: [1.0, 0.0, 0.0],
        });
    }
    splat
}

fn ply(points: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_ply(&cloud(points), true, &mut bytes).unwrap();
    bytes
}

#[tokio::test(start_paused = true)]
async fn a_generator_that_answers_html() {
    generation(|| reply(200, "<!DOCTYPE html><html>\u{1b}[2J</html>"), "answered HTML where a splat belongs")
        .await;
    generation(|| reply(200, "{\"detail\":\"x\"}"), "answered JSON where a splat belongs").await;
    generation(|| reply(200, "\u{1b}[2J"), "bytes of no known format").await;
}

#[tokio::test(start_paused = true)]
async fn a_truncated_ply() {
    let whole = ply(8_000);
    let cut = whole.len() - 100;
    generation(
        move || reply(200, whole[..cut].to_vec()),
        "too little data: 8000 vertices claimed, 7998 complete",
    )
    .await;
    generation(|| reply(200, "ply\nformat binary_little_endian 1.0\n"), "no `end_header` line").await;
}

#[tokio::test(start_paused = true)]
async fn a_ply_whose_header_is_a_weapon() {
    let name = "\u{1b}[2J\u{202e}x".repeat(50);
    let body = format!(
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty float {name}\nproperty float {name}\nend_header\n1 1\n"
    );
    generation(move || reply(200, body.clone()), "is declared twice").await;
    let huge =
        "ply\nformat binary_little_endian 1.0\nelement vertex 4000000000\nproperty float x\nend_header\n";
    generation(move || reply(200, huge), "4000000000 vertices").await;
    let names = "x y z f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3";
    let properties: String = names.split(' ').map(|name| format!("property float {name}\n")).collect();
    let text = format!(
        "ply\nformat ascii 1.0\nelement vertex 1\n{properties}end_header\n{}\n",
        "\u{9b}\u{202e}".repeat(500_000)
    );
    generation(move || reply(200, text.clone()), "is no number").await;
}

#[tokio::test(start_paused = true)]
async fn a_mesh_ply() {
    let mesh = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n\
                element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n";
    generation(move || reply(200, mesh), "a mesh with 1 faces").await;
}

#[tokio::test(start_paused = true)]
async fn a_splat_that_validators_refuse() {
    let few = ply(6_999);
    generation(move || reply(200, few.clone()), "D2: 6999 Gaussians").await;
    let mut nan = cloud(8_000);
    nan.push(Gaussian {
        position: [f32::NAN; 3],
        log_scale: [-4.0; 3],
        rotation: [1.0, 0.0, 0.0, 0.0],
        logit_opacity: 2.0,
        f_dc: [0.0; 3],
    });
    let mut bytes = Vec::new();
    write_ply(&nan, true, &mut bytes).unwrap();
    generation(move || reply(200, bytes.clone()), "no finite number").await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_200() {
    generation(|| reply(200, ""), "the generator declined: an empty answer").await;
    generation(|| with_header(200, "X-Skip-Reason", &"y".repeat(300), ""), "declined: yyy").await;
}

#[tokio::test(start_paused = true)]
async fn a_generator_that_hangs() {
    let took = generation(|| Lie::Hang, "no reply within 600s").await;
    assert!((600..620).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_generator_of_one_byte_a_second() {
    let drip = || reply(200, pieces(b"p", u64::MAX, Duration::from_secs(1), &Arc::default()));
    let took = generation(drip, "not complete within 900s").await;
    assert!((900..920).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_generator_that_closes_early() {
    generation(|| reply(200, broken(b"ply\nformat binary_little_endian 1.0\n")), "the connection broke")
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_generator_that_streams_10_gb() {
    const MIB: &[u8] = &[0; 1 << 20];
    let mut theatre = Theatre::new();
    theatre.settings.generator.limits.body = ByteSize::mib(16);
    let taken = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&taken);
    let flood = move || reply(200, pieces(MIB, 10_240, Duration::ZERO, &count));
    generation_in(theatre, flood, "larger than 16MiB").await;
    assert!(taken.load(Ordering::Relaxed) <= 18 << 20, "{taken:?}");
}

#[tokio::test(start_paused = true)]
async fn a_zstd_bomb() {
    // As many zeros as would be a cloud, in a few kilobytes.
    let zeros = zstd::bulk::compress(&vec![0; 256 << 20], 3).unwrap();
    assert!(zeros.len() < 32 << 10);
    let mut theatre = Theatre::new();
    theatre.settings.generator.limits.body = ByteSize::mib(16);
    let bomb = zeros.clone();
    generation_in(theatre, move || reply(200, bomb.clone()), "more than the limit of 16777216").await;
    // The same without a declared size.
    let mut theatre = Theatre::new();
    theatre.settings.generator.limits.body = ByteSize::mib(16);
    let streamed = zstd::stream::encode_all(&vec![0; 64 << 20][..], 3).unwrap();
    generation_in(theatre, move || reply(200, streamed.clone()), "more than").await;
    // A frame that claims more than its blocks can hold.
    let liar = [&[0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0x00, 0x00, 0x00, 0x20][..], &[1, 0, 0]].concat();
    generation(move || reply(200, liar.clone()), "its blocks hold at most 0").await;
}

#[tokio::test(start_paused = true)]
async fn a_gzip_spz() {
    generation(|| reply(200, &b"\x1f\x8b\x08\x00\x00\x00\x00\x00"[..]), "SPZ in gzip").await;
}

#[tokio::test(start_paused = true)]
async fn an_spz_is_taken_and_a_cut_one_is_not() {
    let spz = SpzEncoder::default().encode(&cloud(8_000)).unwrap().into_bytes();
    let cut = spz[..spz.len() - 9].to_vec();
    generation(move || reply(200, cut.clone()), "the zstd frame is cut short").await;
    let theatre = Theatre::new()
        .generator(move |path, nth| (path == "/generate/" && nth == 0).then(|| reply(200, spz.clone())));
    theatre.run(1).await;
    assert_eq!(theatre.log.warnings().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_generator_that_fails() {
    generation(
        || reply(500, "\u{1b}[2J\u{202e}Internal\nServer Error"),
        "answered 500 Internal Server Error: \\u{1b}[2J\\u{202e}Internal\\nServer",
    )
    .await;
    generation(|| with_header(307, "location", "http://169.254.169.254/", ""), "redirects are refused").await;
    generation(|| with_header(503, "X-TRELLIS-Error", "CUDA out of memory", ""), "CUDA out of memory").await;
}

/// The scorer never says anything usable: one warning, and the task is declined without a penalty.
async fn down(lie: impl Fn() -> Lie + Send + Sync + 'static, said: &str) -> Duration {
    let theatre =
        Theatre::new().scorer(move |path, nth| (path == "/validate_txt_to_3d_ply/" && nth < 2).then(&lie));
    theatre.assign("1", Prompt::Text("a red cube".into()));
    let took = theatre.run(1).await;
    theatre.log.expect(1, NO_VERDICT);
    assert_eq!(theatre.log.warnings().len(), 1, "{:#?}", theatre.log.warnings());
    assert!(theatre.log.warnings()[0].contains(said), "{said} in {:#?}", theatre.log.warnings());
    theatre.log.expect(1, "reason=the scorer gave no verdict");
    assert_eq!(theatre.booked("empty"), 1);
    theatre.run(1).await;
    assert_eq!(theatre.booked("accepted"), 1, "{:#?}", theatre.log.all());
    took
}

#[tokio::test(start_paused = true)]
async fn a_scorer_that_answers_all_zeros() {
    let zeros = || {
        reply(200, json!({"score":0.0,"iqa":0.0,"alignment_score":0.0,"ssim":0.0,"lpips":0.0}).to_string())
    };
    down(zeros, "all scores are zero").await;

    // It may take the risk, if so configured.
    let mut theatre = Theatre::new().scorer(move |path, _| (path == "/validate_txt_to_3d_ply/").then(zeros));
    theatre.settings.mining.scorer_down = ScorerDown::Submit;
    theatre.assign("1", Prompt::Text("a red cube".into()));
    theatre.run(1).await;
    assert_eq!(theatre.booked("accepted"), 1);
}

#[tokio::test(start_paused = true)]
async fn all_zeros_while_the_canary_scores_are_a_verdict() {
    // Asked for the second task (1), for the canary (2), and for the second task again (3).
    let zeros = || reply(200, json!({"score":0.0,"iqa":0.0,"alignment_score":0.0}).to_string());
    let theatre = Theatre::new()
        .scorer(move |path, nth| (path == "/validate_txt_to_3d_ply/" && matches!(nth, 1 | 3)).then(zeros));
    theatre.assign("1", Prompt::Text("a red cube".into()));
    theatre.run(2).await;
    theatre.log.expect(1, NO_VERDICT);
    theatre.log.expect(1, "reason=scored 0.0000, below 0.6100");
    assert_eq!((theatre.booked("accepted"), theatre.booked("empty")), (1, 1));
    theatre.run(1).await;
    assert_eq!(theatre.log.warnings().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_scorer_that_fails() {
    down(|| reply(500, "\u{1b}[2J"), "the scorer answered 500").await;
    down(|| with_header(302, "location", "/", ""), "redirects are refused").await;
    down(|| reply(200, broken(b"{\"score\":")), "the connection broke").await;
}

#[tokio::test(start_paused = true)]
async fn a_scorer_that_answers_html() {
    down(|| reply(200, "<html>\u{1b}[2J</html>"), "cannot be read").await;
    down(|| reply(200, ""), "cannot be read").await;
    down(|| reply(200, "[0.9,0.9,0.9,0.9,0.9]"), "cannot be read").await;
    down(|| reply(200, format!("{{\"score\":\"{}\"}}", "\u{7f}\u{202e}".repeat(1 << 20))), "cannot be read")
        .await;
    down(|| reply(200, "[".repeat(1 << 20)), "cannot be read").await;
}

#[tokio::test(start_paused = true)]
async fn a_score_of_7() {
    down(|| reply(200, "{\"score\":7,\"iqa\":0.5}"), "a score of 7e0, which no splat can have").await;
    down(|| reply(200, "{\"score\":-0.1,\"iqa\":0.5}"), "which no splat can have").await;
    down(|| reply(200, "{\"score\":1e308,\"iqa\":0.5}"), "a score of 1e308").await;
    down(|| reply(200, "{\"score\":NaN}"), "cannot be read").await;
    down(|| reply(200, "{\"score\":1e999}"), "cannot be read").await;
}

#[tokio::test(start_paused = true)]
async fn a_scorer_that_hangs() {
    let took = down(|| Lie::Hang, "no reply within 120s").await;
    assert!((240..260).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_scorer_that_streams_10_gb() {
    const MIB: &[u8] = &[b' '; 1 << 20];
    down(|| reply(200, pieces(MIB, 10_240, Duration::ZERO, &Arc::default())), "larger than 32MiB").await;
}

#[tokio::test(start_paused = true)]
async fn a_health_check_that_never_ends() {
    const MIB: &[u8] = &[b' '; 1 << 20];
    let theatre = Theatre::new().generator(|path, nth| match (path, nth) {
        ("/health", 0) => Some(Lie::Hang),
        ("/health", 1) => Some(reply(200, pieces(MIB, 10_240, Duration::ZERO, &Arc::default()))),
        _ => None,
    });
    let took = theatre.run(2).await;
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert_eq!((theatre.log.warnings().len(), theatre.booked("accepted")), (0, 2));
}
