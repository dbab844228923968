//! The devnet's worker servers, driven in process, in the dialects of workers.md.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use sn17_miner::clock::Clock;
use sn17_miner::devnet::generator::{DevGenerator, DevGeneratorSettings};
use sn17_miner::devnet::scorer::{DevScorer, DevScorerSettings};
use sn17_miner::devnet::{pictures, shapes};
use sn17_miner::primitives::UnixTime;
use sn17_miner::splat::{PlyReader, SpzEncoder};
use tower::ServiceExt;

const START: UnixTime = UnixTime::from_secs(1_763_600_000);
const URLENCODED: &str = "application/x-www-form-urlencoded";
const MULTIPART: &str = "multipart/form-data; boundary=XX";

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn send(router: Router, request: Request<Body>) -> Reply {
    let (parts, body) = router.oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    Reply { status: parts.status, headers: parts.headers, body }
}

async fn post(router: Router, path: &str, kind: &str, body: impl Into<Body>) -> Reply {
    let request = Request::post(path).header("content-type", kind).body(body.into()).unwrap();
    send(router, request).await
}

async fn get(router: Router, path: &str) -> Reply {
    send(router, Request::get(path).body(Body::empty()).unwrap()).await
}

/// Fields, and files where a file name is given.
fn multipart(parts: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, file, data) in parts {
        let file = file.map_or(String::new(), |file| format!("; filename=\"{file}\""));
        body.extend(format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").bytes());
        body.extend_from_slice(data);
        body.extend(b"\r\n");
    }
    body.extend(b"--XX--\r\n");
    body
}

fn generator() -> DevGenerator {
    DevGenerator::new(DevGeneratorSettings::default(), Clock::starting_at(START))
}

fn scorer() -> DevScorer {
    DevScorer::new(DevScorerSettings::default(), Clock::starting_at(START))
}

fn points(ply: &[u8]) -> usize {
    PlyReader::default().read(ply).unwrap().len()
}

async fn form(generator: &DevGenerator, fields: &[(&str, &str)]) -> Reply {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    post(generator.router(), "/generate/", URLENCODED, body).await
}

#[tokio::test(start_paused = true)]
async fn the_form_dialect_makes_a_ply_of_words() {
    let generator = generator();
    let reply = form(&generator, &[("prompt", "a red cube"), ("seed", "5")]).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.header("content-type"), "application/octet-stream");
    assert!(reply.header("x-generation-time").parse::<f64>().is_ok());
    assert_eq!(points(&reply.body), shapes::GAUSSIANS);
    let parts = multipart(&[("prompt", None, b"a red cube"), ("seed", None, b"5"), ("cfg", None, b"7")]);
    let same = post(generator.router(), "/generate/", MULTIPART, parts).await;
    assert!(same.body == reply.body, "both kinds of form give the same splat");
    let other = form(&generator, &[("prompt", "a red cube"), ("seed", "6")]).await;
    assert!(other.body != reply.body, "another seed, another splat");
    let counts = generator.counts();
    assert_eq!((counts.requests, counts.done), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn without_a_seed_each_request_gets_its_own() {
    let generator = generator();
    let first = form(&generator, &[("prompt", "a red cube")]).await;
    let second = form(&generator, &[("prompt", "a red cube"), ("seed", "-1")]).await;
    assert!(first.body != second.body);
}

#[tokio::test(start_paused = true)]
async fn the_form_image_dialect_makes_a_relief_of_base64() {
    let generator = generator();
    let picture = pictures::prompt_image("a blue sphere", 1);
    for prompt in [picture.clone(), format!("data:image/png;base64,{picture}")] {
        let reply = form(&generator, &[("prompt", &prompt), ("seed", "1")]).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert!(points(&reply.body) >= 20_000);
        assert!(points(&reply.body) != shapes::GAUSSIANS, "a relief has the grid's size");
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_prompt_is_still_words() {
    let generator = generator();
    let long = format!("a red cube {}", "and a cone ".repeat(80));
    assert!(long.len() > 500);
    let reply = form(&generator, &[("prompt", &long)]).await;
    assert_eq!((reply.status, points(&reply.body)), (StatusCode::OK, shapes::GAUSSIANS));
}

#[tokio::test(start_paused = true)]
async fn a_bad_picture_in_the_form_is_a_400_without_a_body() {
    let generator = generator();
    for prompt in ["iVBOR not base64", "iVBORw0KGgo=", "data:image/png;base64,", "/9j/AAAA"] {
        let reply = form(&generator, &[("prompt", prompt)]).await;
        assert_eq!((reply.status, reply.body.len()), (StatusCode::BAD_REQUEST, 0), "{prompt}");
        assert_eq!(reply.header("x-validation-failed"), "true");
        assert!(!reply.header("x-error").is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn the_image_dialect_takes_a_file() {
    let generator = generator();
    let picture = pictures::png("a green cone", 1);
    let parts = multipart(&[("prompt_image_file", Some("p.png"), &picture), ("seed", None, b"-1")]);
    let reply = post(generator.router(), "/generate", MULTIPART, parts).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert!(points(&reply.body) >= 20_000);

    let broken = multipart(&[("prompt_image_file", Some("p.png"), b"no picture")]);
    let reply = post(generator.router(), "/generate", MULTIPART, broken).await;
    assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(reply.body, b"Internal Server Error");
}

#[tokio::test(start_paused = true)]
async fn fields_that_are_missing_or_wrong_are_a_422() {
    let generator = generator();
    for fields in [&[("seed", "1")][..], &[("prompt", "")], &[("prompt", "x"), ("seed", "1.5")]] {
        let reply = form(&generator, fields).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{fields:?}");
        assert!(reply.json()["detail"].is_array());
    }
    let as_text = multipart(&[("prompt_image_file", None, b"text")]);
    let cases = [("/generate", as_text), ("/generate", multipart(&[])), ("/generate/", multipart(&[]))];
    for (path, body) in cases {
        let reply = post(generator.router(), path, MULTIPART, body).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{path}");
    }
    let reply = post(generator.router(), "/generate/", "application/json", "{\"prompt\":\"x\"}").await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
    let reply = post(generator.router(), "/generate/", MULTIPART, "--XX\r\ncut short").await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert_eq!(generator.counts().done, 0);
}

#[tokio::test(start_paused = true)]
async fn the_health_of_the_generator_is_the_official_one() {
    let reply = get(generator().router(), "/health").await;
    assert_eq!(reply.json(), json!({"status": "healthy"}));
}

#[tokio::test(start_paused = true)]
async fn two_generations_take_twice_the_time_of_one() {
    let clock = Clock::starting_at(START);
    let settings = DevGeneratorSettings { delay: Duration::from_secs(13), ..DevGeneratorSettings::default() };
    let generator = DevGenerator::new(settings, clock);
    let (first, second) = tokio::join!(
        form(&generator, &[("prompt", "a red cube")]),
        form(&generator, &[("prompt", "a blue cube")])
    );
    let passed = clock.now().saturating_since(START);
    assert!((Duration::from_secs(26)..Duration::from_secs(27)).contains(&passed), "{passed:?}");
    for reply in [first, second] {
        let seconds: f64 = reply.header("x-generation-time").parse().unwrap();
        assert!((13.0..13.5).contains(&seconds), "queueing is not generation: {seconds}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_does_not_free_the_generator() {
    let clock = Clock::starting_at(START);
    let settings = DevGeneratorSettings { delay: Duration::from_secs(10), ..DevGeneratorSettings::default() };
    let generator = DevGenerator::new(settings, clock);
    let gone =
        tokio::time::timeout(Duration::from_secs(1), form(&generator, &[("prompt", "a red cube")])).await;
    assert!(gone.is_err());
    form(&generator, &[("prompt", "a blue cube")]).await;
    assert!(clock.now() >= START + Duration::from_secs(20), "{}", clock.now());
    assert_eq!(generator.counts().done, 2);
}

async fn score(scorer: &DevScorer, path: &str, request: &Value) -> Reply {
    post(scorer.router(), path, "application/json", request.to_string()).await
}

const TEXT: &str = "/validate_txt_to_3d_ply/";
const IMAGE: &str = "/validate_img_to_3d_ply/";

async fn ply(prompt: &str) -> Vec<u8> {
    form(&generator(), &[("prompt", prompt), ("seed", "1")]).await.body
}

fn spz(ply: &[u8]) -> String {
    let splat = PlyReader::default().read(ply).unwrap();
    STANDARD.encode(SpzEncoder::default().encode(&splat).unwrap().as_bytes())
}

#[tokio::test(start_paused = true)]
async fn a_result_is_scored_as_spz_and_as_ply() {
    let scorer = scorer();
    let ply = ply("a red cube").await;
    for (compression, data) in [(2, spz(&ply)), (0, STANDARD.encode(&ply))] {
        let reply =
            score(&scorer, TEXT, &json!({"prompt": "a red cube", "data": data, "compression": compression}))
                .await;
        assert_eq!(reply.status, StatusCode::OK);
        let scores = reply.json();
        let names: Vec<_> = scores.as_object().unwrap().keys().cloned().collect();
        let expected =
            ["alignment_score", "grid_preview", "iqa", "lpips", "note", "preview", "score", "ssim"];
        assert_eq!(
            names.iter().collect::<std::collections::BTreeSet<_>>(),
            expected.map(String::from).iter().collect()
        );
        assert!((0.65..=0.95).contains(&scores["score"].as_f64().unwrap()), "{scores}");
        assert_eq!(scores["note"], "devnet scorer: no model");
        assert!(scores["preview"].is_null() && scores["grid_preview"].is_null());
    }
    let counts = scorer.counts();
    assert_eq!((counts.requests, counts.done, counts.zeros), (2, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_colour_is_under_the_threshold() {
    let data = spz(&ply("a blue cube").await);
    let reply =
        score(&scorer(), TEXT, &json!({"prompt": "a red cube", "data": data, "compression": 2})).await;
    let scores = reply.json();
    let value = scores["score"].as_f64().unwrap();
    assert!(value > 0.0 && value < 0.6, "{scores}");
    assert!(scores["iqa"].as_f64().unwrap() > 0.0, "a genuine verdict, not a failure");
}

#[tokio::test(start_paused = true)]
async fn an_image_task_is_scored_without_its_colours() {
    let picture = pictures::png("a green cone", 1);
    let parts = multipart(&[("prompt_image_file", Some("p.png"), &picture)]);
    let ply = post(generator().router(), "/generate", MULTIPART, parts).await.body;
    let request = json!({"prompt_image": STANDARD.encode(&picture), "data": spz(&ply), "compression": 2});
    let scores = score(&scorer(), IMAGE, &request).await.json();
    assert!((0.65..=0.95).contains(&scores["score"].as_f64().unwrap()), "{scores}");
}

#[tokio::test(start_paused = true)]
async fn every_failure_beyond_the_schema_is_a_200_of_zeros() {
    let scorer = scorer();
    let good = spz(&ply("a red cube").await);
    let few = STANDARD.encode({
        let mut splat = sn17_miner::splat::Splat::new(sn17_miner::splat::ShDegree::Zero);
        let ply = ply("a red cube").await;
        let view = PlyReader::default().read(&ply).unwrap();
        (0..6_999).for_each(|index| splat.push(view.gaussian(index).unwrap()));
        SpzEncoder::default().encode(&splat).unwrap().into_bytes()
    });
    let newline = format!("{}\n{}", &good[..100], &good[100..]);
    let picture = pictures::prompt_image("a cup", 1);
    let cases = [
        (TEXT, json!({"data": good, "compression": 2})),
        (TEXT, json!({"prompt": null, "data": good, "compression": 2})),
        (TEXT, json!({"prompt": "a red cube", "data": good})),
        (TEXT, json!({"prompt": "a red cube", "data": good, "compression": 1})),
        (TEXT, json!({"prompt": "a red cube", "data": newline, "compression": 2})),
        (TEXT, json!({"prompt": "a red cube", "data": "", "compression": 2})),
        (TEXT, json!({"prompt": "a red cube", "data": few, "compression": 2})),
        (IMAGE, json!({"prompt": "a red cube", "data": good, "compression": 2})),
        (IMAGE, json!({"prompt_image": "AAAA", "data": good, "compression": 2})),
        (IMAGE, json!({"prompt_image": picture, "data": "AAAA", "compression": 2})),
    ];
    let count = cases.len() as u64;
    for (path, request) in cases {
        let reply = score(&scorer, path, &request).await;
        assert_eq!(reply.status, StatusCode::OK);
        let scores = reply.json();
        for key in ["score", "iqa", "alignment_score", "ssim", "lpips"] {
            assert_eq!(scores[key], 0.0, "{key} of {scores}");
        }
        assert!(scores["note"].as_str().unwrap().starts_with("devnet scorer: no model; "));
    }
    assert_eq!(scorer.counts().zeros, count);
}

#[tokio::test(start_paused = true)]
async fn the_schema_is_enforced_with_422() {
    let scorer = scorer();
    for request in [
        json!({"prompt": "a red cube"}),
        json!({"prompt": "x".repeat(1_025), "data": ""}),
        json!({"prompt": 5, "data": ""}),
        json!({"data": null}),
        json!({"data": "", "compression": "two"}),
        json!({"data": "", "generate_preview": 7}),
        json!([]),
    ] {
        let reply = score(&scorer, TEXT, &request).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{request}");
        assert!(reply.json()["detail"].is_array());
    }
    for (kind, body) in [("application/json", "{"), ("text/plain", "{\"data\":\"\"}")] {
        let reply = post(scorer.router(), TEXT, kind, body).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{kind} {body}");
    }
    // 1,024 characters of several bytes each still fit.
    let reply =
        score(&scorer, TEXT, &json!({"prompt": "ü".repeat(1_024), "data": "", "generate_preview": true}))
            .await;
    assert_eq!(reply.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn the_version_answers_while_a_validation_runs() {
    let clock = Clock::starting_at(START);
    let scorer = DevScorer::new(DevScorerSettings { delay: Duration::from_secs(4) }, clock);
    let request = json!({"prompt": "a red cube", "data": spz(&ply("a red cube").await), "compression": 2});
    let version = async {
        clock.sleep(Duration::from_secs(1)).await;
        let reply = get(scorer.router(), "/version/").await;
        (reply, clock.now())
    };
    let (scored, (version, at)) = tokio::join!(score(&scorer, TEXT, &request), version);
    assert_eq!(version.body, b"\"2.4.0\"");
    assert!(at < clock.now());
    assert_eq!(scored.status, StatusCode::OK);
}
