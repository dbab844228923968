//! Scorers: a local copy of the validators' validation service (workers.md section 2).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::net::{Call, Endpoint, Limits, NetError, Timing, Transport};
use crate::primitives::{Prompt, PromptKind, Score};
use crate::splat::Spz;

/// One scorer (`[[workers]]` with `role = "scorer"`).
#[derive(Debug, Clone, PartialEq)]
pub struct ScorerSettings {
    pub name: String,
    pub endpoint: Endpoint,
    pub limits: Limits,
}

/// The scores of one splat, as the service computes them (workers.md 2.4).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scores {
    pub score: Score,
    pub iqa: f64,
    pub alignment: f64,
    pub ssim: f64,
    pub lpips: f64,
}

/// What a scorer's answer means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Judgement {
    Scored(Scores),
    /// All zeros: rejected data **or** a failed scorer (out of memory, models absent). Never a
    /// verdict by itself.
    NoVerdict,
}

/// Why a scorer said nothing usable.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    #[error("{0} tasks cannot be scored")]
    Unsupported(PromptKind),
    #[error("the scorer gave no answer: {0}")]
    Net(#[from] NetError),
    #[error("the scorer answered {0}")]
    Refused(StatusCode),
    #[error("the scorer's answer cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("the scorer answered a score of {0:e}, which no splat can have")]
    Implausible(f64),
}

/// Largest score the formula of workers.md 2.4 can give: alignment is divided by 0.35 and not
/// clipped, so 0.75 + 0.2/0.35 + 0.05, rounded up.
const MAX_SCORE: f64 = 1.4;

/// A client of one scorer.
#[derive(Debug, Clone)]
pub struct Scorer {
    settings: ScorerSettings,
    transport: Transport,
    clock: Clock,
}

#[derive(Serialize)]
struct Request<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_image: Option<&'a str>,
    data: String,
    compression: u8,
}

#[derive(Deserialize)]
struct Answer {
    score: Number,
    #[serde(default)]
    iqa: Number,
    #[serde(default)]
    alignment_score: Number,
    #[serde(default)]
    ssim: Number,
    #[serde(default)]
    lpips: Number,
}

/// A number, and nothing that is quoted at length when it is none.
#[derive(Default)]
struct Number(f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Numbers;
        impl Visitor<'_> for Numbers {
            type Value = Number;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number")
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Number, E> {
                Ok(Number(v as f64))
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Number, E> {
                Ok(Number(v as f64))
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Number, E> {
                Ok(Number(v))
            }
            fn visit_str<E: de::Error>(self, _: &str) -> Result<Number, E> {
                Err(E::custom("a text where a number belongs"))
            }
        }
        deserializer.deserialize_any(Numbers)
    }
}

impl Scorer {
    pub fn new(settings: ScorerSettings, transport: Transport, clock: Clock) -> Self {
        Self { settings, transport, clock }
    }

    pub fn name(&self) -> &str {
        &self.settings.name
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.settings.endpoint
    }

    /// Scores exactly the bytes that will be submitted.
    ///
    /// # Errors
    /// See [`ScoreError`]; none of them says anything about the splat.
    pub async fn score(&self, prompt: &Prompt, spz: &Spz) -> Result<(Judgement, Timing), ScoreError> {
        let (path, text, image) = match prompt {
            Prompt::Text(text) => ("/validate_txt_to_3d_ply/", Some(&**text), None),
            Prompt::Image(image) => ("/validate_img_to_3d_ply/", None, Some(&**image)),
            Prompt::Other(_) => return Err(ScoreError::Unsupported(PromptKind::Other)),
        };
        let request = Request {
            prompt: text,
            prompt_image: image,
            data: STANDARD.encode(spz.as_bytes()),
            compression: Spz::COMPRESSION,
        };
        let body = serde_json::to_vec(&request)?;
        drop(request);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let url = self.settings.endpoint.at(path);
        let call = Call { method: Method::POST, url, headers, body: Bytes::from(body) };
        let reply = self.transport.call(&self.clock, call, &self.settings.limits).await?;
        if reply.status != StatusCode::OK {
            return Err(ScoreError::Refused(reply.status));
        }
        Ok((read(&reply.body)?, reply.timing))
    }
}

fn read(body: &[u8]) -> Result<Judgement, ScoreError> {
    // A derived reader would also take a list of five numbers.
    if body.trim_ascii_start().first() != Some(&b'{') {
        let error: serde_json::Error = de::Error::custom("not a JSON object");
        return Err(error.into());
    }
    let answer: Answer = serde_json::from_slice(body)?;
    let score = answer.score.0;
    let parts = [answer.iqa.0, answer.alignment_score.0, answer.ssim.0, answer.lpips.0];
    if score == 0.0 && parts.iter().all(|p| *p == 0.0) {
        return Ok(Judgement::NoVerdict);
    }
    let score = Score::new(score)
        .ok()
        .filter(|s| (0.0..=MAX_SCORE).contains(&s.get()))
        .ok_or(ScoreError::Implausible(score))?;
    let [iqa, alignment, ssim, lpips] = parts;
    Ok(Judgement::Scored(Scores { score, iqa, alignment, ssim, lpips }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_zeros_is_no_verdict() {
        let zeros = br#"{"score":0.0,"iqa":0.0,"alignment_score":0.0,"ssim":0.0,"lpips":0.0,"preview":null}"#;
        assert_eq!(read(zeros).unwrap(), Judgement::NoVerdict);
        assert_eq!(read(br#"{"score":0}"#).unwrap(), Judgement::NoVerdict);
    }

    #[test]
    fn a_zero_with_metrics_is_a_verdict() {
        let low = br#"{"score":0.0,"iqa":0.6,"alignment_score":0.2,"ssim":0.9,"lpips":0.8}"#;
        let Judgement::Scored(scores) = read(low).unwrap() else { panic!("a verdict") };
        assert_eq!((scores.score, scores.alignment), (Score::ZERO, 0.2));
    }

    #[test]
    fn what_no_scorer_says_is_an_error() {
        for bad in ["<html>", "", "[]", "{}", r#"{"score":"high"}"#, r#"{"score":null}"#, r#"{"score":NaN}"#]
        {
            assert!(matches!(read(bad.as_bytes()), Err(ScoreError::Unreadable(_))), "{bad}");
        }
        assert!(matches!(read(b"[0.9,0.9,0.9,0.9,0.9]"), Err(ScoreError::Unreadable(_))));
        let long = format!(r#"{{"score":"{}"}}"#, "\u{7f}".repeat(1 << 20));
        assert!(read(long.as_bytes()).unwrap_err().to_string().len() < 200);
        assert!(matches!(read(br#"{"score":7.0,"iqa":0.1}"#), Err(ScoreError::Implausible(_))));
        assert!(matches!(read(br#"{"score":-0.5,"iqa":0.1}"#), Err(ScoreError::Implausible(_))));
    }
}
