//! A scorer in the dialect of the official validation service 2.4.0 (workers.md 2.1, 2.2), with
//! [`judge`] in the place of its models. Each answer says so in `note`, a key the real
//! service does not send.
//!
//! As there, every failure beyond the schema is a 200 with all scores 0. It renders nothing: the
//! previews are always null.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::http::{Bench, Refused};
use super::judge::{Judgement, judge};
use super::{codec, relief};
use crate::clock::Clock;
use crate::primitives::PromptKind;

/// Characters of a prompt.
const MAX_PROMPT: usize = 1_024;
/// Characters of the data.
const MAX_DATA: usize = 524_288_000;
/// Bytes of a request: the data and a picture beside it.
const BODY_LIMIT: usize = MAX_DATA + (32 << 20);

/// Settings of the devnet's scorer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DevScorerSettings {
    /// What a validation takes on top of the work.
    pub delay: Duration,
}

/// What a scorer has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ScorerCounts {
    /// Requests to score, good or bad.
    pub requests: u64,
    /// Validations done, also those nobody waited for.
    pub done: u64,
    /// Of those, with all scores 0.
    pub zeros: u64,
}

/// See the [module](self). Clones share everything.
#[derive(Debug, Clone)]
pub struct DevScorer(Arc<Court>);

#[derive(Debug)]
struct Court {
    bench: Arc<Bench>,
    requests: AtomicU64,
    zeros: AtomicU64,
}

#[derive(Debug, Deserialize)]
struct ScoreRequest {
    #[serde(default)]
    prompt: Option<String>,
    #[serde(default)]
    prompt_image: Option<String>,
    data: String,
    #[serde(default)]
    compression: i64,
    // Read so that a wrong type is refused; nothing is rendered.
    #[serde(default, alias = "generate_preview", rename = "generate_single_preview")]
    _single_preview: bool,
    #[serde(default, rename = "generate_grid_preview")]
    _grid_preview: bool,
    #[serde(default, rename = "preview_score_threshold")]
    _preview_threshold: f64,
}

#[derive(Debug, Serialize)]
struct ScoreReply {
    score: f64,
    iqa: f64,
    alignment_score: f64,
    ssim: f64,
    lpips: f64,
    preview: Option<String>,
    grid_preview: Option<String>,
    note: String,
}

impl DevScorer {
    pub fn new(settings: DevScorerSettings, clock: Clock) -> Self {
        let bench = Arc::new(Bench::new(clock, settings.delay));
        Self(Arc::new(Court { bench, requests: AtomicU64::new(0), zeros: AtomicU64::new(0) }))
    }

    pub fn router(&self) -> Router {
        Router::new()
            .route("/validate_txt_to_3d_ply/", post(validate_text))
            .route("/validate_img_to_3d_ply/", post(validate_image))
            .route("/version/", get(async || Json("2.4.0")))
            .layer(DefaultBodyLimit::max(BODY_LIMIT))
            .with_state(self.clone())
    }

    pub fn counts(&self) -> ScorerCounts {
        ScorerCounts {
            requests: self.0.requests.load(Ordering::Relaxed),
            done: self.0.bench.done(),
            zeros: self.0.zeros.load(Ordering::Relaxed),
        }
    }

    async fn validate(&self, headers: &HeaderMap, body: &[u8], kind: PromptKind) -> Response {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        let request = match read(headers, body) {
            Ok(request) => request,
            Err(refusal) => return refusal.into_response(),
        };
        let Some((verdict, _)) = self.0.bench.run(move || score(&request, kind)).await else {
            return Refused::Broken.into_response();
        };
        if verdict.is_err() {
            self.0.zeros.fetch_add(1, Ordering::Relaxed);
        }
        const NOTE: &str = "devnet scorer: no model";
        let (judgement, note) = match verdict {
            Ok(judgement) => (judgement, NOTE.to_owned()),
            Err(reason) => (Judgement::default(), format!("{NOTE}; {reason}")),
        };
        Json(ScoreReply {
            score: judgement.score,
            iqa: judgement.quality,
            alignment_score: judgement.alignment,
            ssim: judgement.ssim,
            lpips: judgement.lpips,
            preview: None,
            grid_preview: None,
            note,
        })
        .into_response()
    }
}

async fn validate_text(State(scorer): State<DevScorer>, headers: HeaderMap, body: Bytes) -> Response {
    scorer.validate(&headers, &body, PromptKind::Text).await
}

async fn validate_image(State(scorer): State<DevScorer>, headers: HeaderMap, body: Bytes) -> Response {
    scorer.validate(&headers, &body, PromptKind::Image).await
}

fn read(headers: &HeaderMap, body: &[u8]) -> Result<ScoreRequest, Refused> {
    let refused =
        |kind, field, message: &str| Refused::Unprocessable { kind, field, message: message.into() };
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !kind.to_ascii_lowercase().starts_with("application/json") {
        return Err(refused("model_attributes_type", "", "Input should be a valid dictionary"));
    }
    let request: ScoreRequest =
        serde_json::from_slice(body).map_err(|error| refused("value_error", "", &error.to_string()))?;
    if request.prompt.as_ref().is_some_and(|prompt| prompt.chars().count() > MAX_PROMPT) {
        return Err(refused("string_too_long", "prompt", "String should have at most 1024 characters"));
    }
    if request.data.len() > MAX_DATA {
        return Err(refused("string_too_long", "data", "String should have at most 524288000 characters"));
    }
    Ok(request)
}

/// The judgement, or why everything is zero.
fn score(request: &ScoreRequest, kind: PromptKind) -> Result<Judgement, String> {
    let prompt = match kind {
        PromptKind::Text => Some(request.prompt.as_deref().ok_or("the request has no prompt")?),
        PromptKind::Image => {
            let picture = request.prompt_image.as_deref().ok_or("the request has no prompt_image")?;
            let picture =
                STANDARD.decode(picture.trim()).map_err(|error| format!("prompt_image: {error}"))?;
            relief::check(&picture).map_err(|error| format!("prompt_image: {error}"))?;
            None
        }
        PromptKind::Other => return Err("no route scores this kind of task".into()),
    };
    let data = STANDARD.decode(&request.data).map_err(|error| format!("data: {error}"))?;
    let splat = match request.compression {
        0 => codec::from_ply(&data).map_err(|error| error.to_string())?,
        2 => codec::from_spz(&data).map_err(|error| error.to_string())?,
        other => return Err(format!("compression {other} is not supported")),
    };
    judge(prompt, &splat).map_err(|broken| broken.to_string())
}
