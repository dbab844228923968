//! Enhancers: a text in, a richer text out (source document 003).
//!
//! What they say goes to the generator alone. They are optional in every respect: one that fails rests
//! for a while, and the prompt is used as it came.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::net::{Backoff, Call, Endpoint, Limits, NetError, Transport};
use crate::primitives::Untrusted;

/// As long as validators take a prompt to be, which is what generators are made for.
const LONGEST: usize = 1_024;

/// Rests after failures.
const REST: Backoff = match Backoff::try_new(Duration::from_secs(30), Duration::from_secs(600)) {
    Ok(backoff) => backoff,
    // Reached only while compiling the constants above.
    Err(_) => panic!("the constants make a backoff"),
};

/// One enhancer (`[[workers]]` with `role = "enhancer"`).
#[derive(Debug, Clone, PartialEq)]
pub struct EnhancerSettings {
    pub name: String,
    pub endpoint: Endpoint,
    pub limits: Limits,
}

/// Why a prompt was not enhanced.
#[derive(Debug, thiserror::Error)]
pub enum EnhanceError {
    #[error("it rests after a failure")]
    Resting,
    #[error("no answer: {0}")]
    Net(#[from] NetError),
    #[error("it answered {0}")]
    Refused(StatusCode),
    #[error("its answer cannot be used: {0}")]
    Unusable(&'static str),
}

#[derive(Debug, Default)]
struct Health {
    failures: u32,
    rests_until: Option<Instant>,
    /// The last text and what came of it: candidates of one task have the same prompt.
    last: Option<(Arc<str>, Arc<str>)>,
}

/// A client of one enhancer. Clones share what is known of its health.
#[derive(Debug, Clone)]
pub struct Enhancer {
    settings: Arc<EnhancerSettings>,
    transport: Transport,
    clock: Clock,
    health: Arc<Mutex<Health>>,
}

impl Enhancer {
    pub fn new(settings: EnhancerSettings, transport: Transport, clock: Clock) -> Self {
        Self { settings: Arc::new(settings), transport, clock, health: Arc::default() }
    }

    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// POST `/enhance` with `{"prompt": ...}`.
    ///
    /// # Errors
    /// See [`EnhanceError`]; the prompt is then used as it is.
    pub async fn enhance(&self, prompt: &str) -> Result<Arc<str>, EnhanceError> {
        {
            let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, enhanced)) = health.last.as_ref().filter(|(text, _)| &**text == prompt) {
                return Ok(Arc::clone(enhanced));
            }
            if health.rests_until.is_some_and(|until| self.clock.instant() < until) {
                return Err(EnhanceError::Resting);
            }
        }
        let answer = self.ask(prompt).await;
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        match &answer {
            Ok(enhanced) => {
                *health = Health { last: Some((prompt.into(), Arc::clone(enhanced))), ..Health::default() };
            }
            Err(error) => {
                health.failures = health.failures.saturating_add(1);
                let rest = REST.after(health.failures);
                health.rests_until = Some(self.clock.instant() + rest);
                tracing::warn!(
                    worker = self.name(), rest_s = rest.as_secs(), error = %Untrusted::error(&error.to_string()),
                    "Prompts are used as they come while the enhancer rests"
                );
            }
        }
        answer
    }

    async fn ask(&self, prompt: &str) -> Result<Arc<str>, EnhanceError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = Bytes::from(json!({ "prompt": prompt }).to_string());
        let call = Call { method: Method::POST, url: self.settings.endpoint.at("/enhance"), headers, body };
        let reply = self.transport.call(&self.clock, call, &self.settings.limits).await?;
        if reply.status != StatusCode::OK {
            return Err(EnhanceError::Refused(reply.status));
        }
        read(&reply.body).map_err(EnhanceError::Unusable)
    }
}

/// The text in an answer, on one line.
fn read(body: &[u8]) -> Result<Arc<str>, &'static str> {
    let answer: Value = serde_json::from_slice(body).map_err(|_| "no JSON")?;
    if answer.get("success").and_then(Value::as_bool) == Some(false) {
        return Err("it says that it failed");
    }
    let found = ["enhanced_prompt", "prompt", "text"].into_iter().find_map(|key| answer.get(key)?.as_str());
    let text = found.ok_or("no text in it")?;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.chars().count() {
        0 => Err("an empty text"),
        1..=LONGEST if line.chars().any(char::is_control) => Err("control characters in it"),
        1..=LONGEST => Ok(line.into()),
        _ => Err("a text longer than any prompt"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_found_and_bounded() {
        for (body, text) in [
            (
                r#"{"enhanced_prompt":"a red  cube,\n studio light","prompt":"a red cube"}"#,
                "a red cube, studio light",
            ),
            (r#"{"prompt":"x","success":true}"#, "x"),
            (r#"{"text":"x"}"#, "x"),
        ] {
            assert_eq!(&*read(body.as_bytes()).unwrap(), text);
        }
        let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(1_025));
        for body in [
            "",
            "x",
            "[]",
            "{}",
            r#"{"text":" "}"#,
            r#"{"text":7}"#,
            r#"{"text":"a\u001b[2J"}"#,
            &long,
            r#"{"success":false,"prompt":"x"}"#,
        ] {
            assert!(read(body.as_bytes()).is_err(), "{body}");
        }
    }
}
