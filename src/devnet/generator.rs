//! A generator that needs no GPU: splats from the words of a prompt, reliefs from a picture.
//!
//! It speaks three dialects at once, told apart by their paths and fields (workers.md 1.1, 1.2, 1.6):
//!
//! | dialect | path | fields |
//! |---|---|---|
//! | `form` | POST `/generate/` | `prompt`, `seed` optional |
//! | `form-image` | POST `/generate/` | the same, with base64 of a picture as `prompt` |
//! | `image` | POST `/generate` | file `prompt_image_file`, `seed` optional |
//!
//! The answer is a binary PLY with `X-Generation-Time` in seconds.

mod fields;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Serialize;

use self::fields::Fields;
use super::http::{Bench, Refused};
use super::relief::{self, PictureError};
use super::{codec, mix, shapes};
use crate::clock::Clock;

/// Largest request, in bytes.
const BODY_LIMIT: usize = 32 << 20;

/// Settings of the devnet's generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DevGeneratorSettings {
    /// Gaussians of a scene.
    pub gaussians: usize,
    /// What a generation takes on top of the work.
    pub delay: Duration,
    /// Where the seeds of requests without one come from.
    pub seed: u64,
}

impl Default for DevGeneratorSettings {
    fn default() -> Self {
        Self { gaussians: shapes::GAUSSIANS, delay: Duration::ZERO, seed: 0 }
    }
}

/// What a generator has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct GeneratorCounts {
    /// Requests to generate, good or bad.
    pub requests: u64,
    /// Generations done, also those nobody waited for.
    pub done: u64,
}

/// See the [module](self). Clones share everything.
#[derive(Debug, Clone)]
pub struct DevGenerator(Arc<Shop>);

#[derive(Debug)]
struct Shop {
    settings: DevGeneratorSettings,
    bench: Arc<Bench>,
    requests: AtomicU64,
}

/// What to make.
enum Order {
    Words(String),
    Picture(Vec<u8>),
}

impl DevGenerator {
    pub fn new(settings: DevGeneratorSettings, clock: Clock) -> Self {
        let bench = Arc::new(Bench::new(clock, settings.delay));
        Self(Arc::new(Shop { settings, bench, requests: AtomicU64::new(0) }))
    }

    pub fn router(&self) -> Router {
        Router::new()
            .route("/generate/", post(from_form))
            .route("/generate", post(from_file))
            .route("/health", get(async || Json(serde_json::json!({"status": "healthy"}))))
            .layer(DefaultBodyLimit::max(BODY_LIMIT))
            .with_state(self.clone())
    }

    pub fn counts(&self) -> GeneratorCounts {
        let requests = self.0.requests.load(Ordering::Relaxed);
        GeneratorCounts { requests, done: self.0.bench.done() }
    }

    /// The seed asked for, or the next one of our own where none or a negative one was given.
    fn seed(&self, asked: Option<i64>, number: u64) -> u32 {
        match asked.map(u32::try_from) {
            Some(Ok(seed)) => seed,
            _ => (mix(self.0.settings.seed, &number.to_le_bytes()) & 0x7fff_ffff) as u32,
        }
    }

    fn count_request(&self) -> u64 {
        self.0.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// The PLY and the seconds it took; nothing if the worker broke.
    async fn make(&self, order: Order, seed: u32) -> Option<(Result<Vec<u8>, PictureError>, f64)> {
        let gaussians = self.0.settings.gaussians;
        let work = move || {
            let splat = match order {
                Order::Words(text) => shapes::generate(&text, seed, gaussians),
                Order::Picture(bytes) => relief::generate(&bytes, seed, gaussians)?,
            };
            Ok(codec::ply(&splat))
        };
        self.0.bench.run(work).await
    }
}

async fn from_form(State(generator): State<DevGenerator>, request: Request) -> Response {
    let number = generator.count_request();
    let fields = match Fields::read(request).await {
        Ok(fields) => fields,
        Err(refusal) => return refusal.into_response(),
    };
    // An empty form field counts as a missing one.
    let Some(prompt) = fields.prompt.filter(|prompt| !prompt.is_empty()) else {
        return Refused::missing("prompt").into_response();
    };
    let order = match read_prompt(prompt) {
        Ok(order) => order,
        Err(reason) => return bad_picture(reason),
    };
    let seed = generator.seed(fields.seed, number);
    match generator.make(order, seed).await {
        Some((Ok(ply), seconds)) => made(ply, seconds),
        Some((Err(error), _)) => bad_picture(&error.to_string()),
        None => Refused::Broken.into_response(),
    }
}

async fn from_file(State(generator): State<DevGenerator>, request: Request) -> Response {
    let number = generator.count_request();
    let fields = match Fields::read(request).await {
        Ok(fields) => fields,
        Err(refusal) => return refusal.into_response(),
    };
    let Some(picture) = fields.picture else {
        return Refused::missing("prompt_image_file").into_response();
    };
    let seed = generator.seed(fields.seed, number);
    match generator.make(Order::Picture(picture.to_vec()), seed).await {
        Some((Ok(ply), seconds)) => made(ply, seconds),
        Some((Err(_), _)) | None => Refused::Broken.into_response(),
    }
}

/// Text or picture, by the rule of workers.md 1.6: a picture is longer than 500 characters, begins
/// like one, or ends in padding. Text that only looks like one by its length or its end, and is no
/// base64, is text all the same: prompts may have 1,024 characters.
fn read_prompt(prompt: String) -> Result<Order, &'static str> {
    let begins_as_picture = ["iVBOR", "/9j/", "data:image"].iter().any(|start| prompt.starts_with(start));
    let ends_in_padding = prompt.chars().rev().take(10).collect::<String>().contains("==");
    if !begins_as_picture && !ends_in_padding && prompt.chars().count() <= 500 {
        return Ok(Order::Words(prompt));
    }
    let data = match prompt.strip_prefix("data:image") {
        Some(rest) => rest.split_once(',').map_or("", |(_, data)| data),
        None => &prompt,
    };
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    match GeneralPurpose::new(&alphabet::STANDARD, config).decode(data) {
        Ok(bytes) => Ok(Order::Picture(bytes)),
        Err(_) if begins_as_picture => Err("the prompt is no base64"),
        Err(_) => Ok(Order::Words(prompt)),
    }
}

fn made(ply: Vec<u8>, seconds: f64) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if let Ok(seconds) = HeaderValue::try_from(format!("{seconds:.2}")) {
        headers.insert(HeaderName::from_static("x-generation-time"), seconds);
    }
    (headers, ply).into_response()
}

/// 400 with an empty body, the reason in a header (workers.md 1.6).
fn bad_picture(reason: &str) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_static("x-validation-failed"), HeaderValue::from_static("true"));
    // The decoders' messages may have line breaks, which no header can carry.
    let reason: String = reason.chars().map(|c| if c.is_ascii_graphic() { c } else { ' ' }).collect();
    if let Ok(reason) = HeaderValue::try_from(reason) {
        headers.insert(HeaderName::from_static("x-error"), reason);
    }
    (StatusCode::BAD_REQUEST, headers).into_response()
}
