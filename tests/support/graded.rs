//! A generator and a scorer whose results have a known worth, for validators that know it too.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sn17_miner::devnet::axon::Judge;
use sn17_miner::splat::{Gaussian, ShDegree, Splat, SpzEncoder};

/// A result by its worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    Good,
    /// Above the usual threshold of 0.6 and below one of 0.7.
    Fair,
    /// Above the 0.3 that some miners stop at.
    Poor,
    Bad,
}

impl Grade {
    const ALL: [Self; 4] = [Self::Good, Self::Fair, Self::Poor, Self::Bad];

    pub const fn score(self) -> f64 {
        match self {
            Self::Good => 0.80,
            Self::Fair => 0.65,
            Self::Poor => 0.45,
            Self::Bad => 0.20,
        }
    }
}

/// Few distinct points, so that a result takes some hundred bytes.
fn cloud(grade: Grade) -> Splat {
    let mut splat = Splat::new(ShDegree::Zero);
    for index in 0..7_200 {
        let at = (index % 24) as f32 / 24.0;
        splat.push(Gaussian {
            position: [at - 0.5, 0.4 * at, 0.3 - 0.6 * at],
            log_scale: [-4.0, -4.0, -6.0],
            rotation: [0.9, 0.3, 0.2, 0.1],
            logit_opacity: 3.0,
            f_dc: [grade.score() as f32, -0.8, 1.2],
        });
    }
    splat
}

static RESULTS: LazyLock<[(Bytes, f64); 4]> = LazyLock::new(|| {
    Grade::ALL.map(|grade| {
        let spz = SpzEncoder::new(1).encode(&cloud(grade)).unwrap();
        (Bytes::copy_from_slice(spz.as_bytes()), grade.score())
    })
});

type Script = Arc<dyn Fn(usize, &str) -> Grade + Send + Sync>;

/// Which result comes of which generation.
#[derive(Clone)]
pub struct Grades(Script);

impl Grades {
    pub fn all_good() -> Self {
        Self::by(|_, _| Grade::Good)
    }

    /// `grade` is told how many generations a card has made before, and the prompt.
    pub fn by(grade: impl Fn(usize, &str) -> Grade + Send + Sync + 'static) -> Self {
        Self(Arc::new(grade))
    }

    /// A validator that knows the results by their bytes.
    pub fn judge(&self) -> Judge {
        Judge::Listed(Arc::new(RESULTS.clone()))
    }

    pub fn generator(&self, takes: Duration) -> Router {
        let (script, made) = (Arc::clone(&self.0), Arc::new(AtomicUsize::new(0)));
        let generate = move |body: Bytes| {
            let (script, nth) = (Arc::clone(&script), made.fetch_add(1, Ordering::Relaxed));
            async move {
                tokio::time::sleep(takes).await;
                let prompt = form_urlencoded::parse(&body).find(|(key, _)| key == "prompt");
                let grade = script(nth, &prompt.map(|(_, text)| text.into_owned()).unwrap_or_default());
                RESULTS[Grade::ALL.iter().position(|known| *known == grade).unwrap()].0.clone()
            }
        };
        Router::new().route("/generate/", post(generate)).route("/health", get(async || "{}"))
    }

    pub fn scorer(&self, takes: Duration) -> Router {
        let score = move |body: Bytes| async move {
            tokio::time::sleep(takes).await;
            let asked: Value = serde_json::from_slice(&body).map_err(|_| StatusCode::UNPROCESSABLE_ENTITY)?;
            let data = asked["data"].as_str().and_then(|data| STANDARD.decode(data).ok()).unwrap_or_default();
            let known = RESULTS.iter().find(|(bytes, _)| *bytes == data);
            let score = known.map_or(0.0, |(_, score)| *score);
            let scores = json!({
                "score": score, "iqa": score, "alignment_score": score, "ssim": score, "lpips": score,
            });
            Ok::<_, StatusCode>(scores.to_string())
        };
        Router::new()
            .route("/validate_txt_to_3d_ply/", post(score))
            .route("/validate_img_to_3d_ply/", post(score))
    }
}
