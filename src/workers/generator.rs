//! Generators: a prompt in, a splat out.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::memory::{Answer, health_figures};
use super::multipart::Form;
use crate::clock::Clock;
use crate::net::{Call, Endpoint, Limits, NetError, Reply, Timing, Transport};
use crate::primitives::{ByteSize, Prompt, PromptKind, Seed, Untrusted};
use crate::splat::{Magic, sniff};

/// How a generator wants its prompt (workers.md section 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// POST `/generate/`, urlencoded `prompt` and `seed` (GEN-OFF, GEN-HUN, GEN-SUB).
    Form,
    /// POST `/generate`, multipart file `prompt_image_file` and field `seed` (GEN-BASE).
    Image,
    /// As `Form`, and an image goes as base64 into the same field (GEN-CMP).
    FormImage,
}

impl Dialect {
    /// Kinds of prompt a generator of this dialect can be given.
    pub fn kinds(self) -> &'static [PromptKind] {
        match self {
            Self::Form => &[PromptKind::Text],
            Self::Image => &[PromptKind::Image],
            Self::FormImage => &[PromptKind::Text, PromptKind::Image],
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::Form | Self::FormImage => "/generate/",
            Self::Image => "/generate",
        }
    }
}

/// One generator (`[[workers]]` with `role = "generator"`).
#[derive(Debug, Clone, PartialEq)]
pub struct GeneratorSettings {
    pub name: String,
    pub endpoint: Endpoint,
    pub dialect: Dialect,
    pub kinds: BTreeSet<PromptKind>,
    pub limits: Limits,
}

/// Whether a generator can be had, as far as that can be told without having it work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It answers, or stays silent as those do that work.
    There,
    /// It says that it runs without its card: as good as away, however healthy it calls itself.
    OnCpu,
    /// Nobody takes connections.
    Away,
}

/// What a generator's answer claims to be, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplatFormat {
    Ply,
    Spz,
}

/// An answer that looks like a splat. Its content is unchecked.
#[derive(Debug)]
pub struct Generation {
    pub format: SplatFormat,
    pub body: Vec<u8>,
    pub timing: Timing,
}

/// Why a generator gave no splat.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    #[error("the generator does not make splats of {0} prompts")]
    Unsupported(PromptKind),
    #[error("the prompt's image is not base64")]
    UndecodableImage,
    /// The generator is healthy and gives nothing for this prompt.
    #[error("the generator declined: {0}")]
    Declined(String),
    #[error("the generator answered {status}: {detail}")]
    Failed { status: StatusCode, detail: String },
    #[error("the generator answered {0} where a splat belongs")]
    NotASplat(&'static str),
    #[error("the generator is not reachable: {0}")]
    Unreachable(NetError),
    #[error("the generator's answer did not arrive: {0}")]
    Net(NetError),
}

impl GenerateError {
    /// Whether another attempt with another seed has a chance.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::Unsupported(_) | Self::UndecodableImage)
    }
}

impl From<NetError> for GenerateError {
    fn from(error: NetError) -> Self {
        if error.may_have_arrived() { Self::Net(error) } else { Self::Unreachable(error) }
    }
}

/// A client of one generator.
#[derive(Debug, Clone)]
pub struct Generator {
    settings: GeneratorSettings,
    transport: Transport,
    clock: Clock,
}

impl Generator {
    pub fn new(settings: GeneratorSettings, transport: Transport, clock: Clock) -> Self {
        Self { settings, transport, clock }
    }

    pub fn name(&self) -> &str {
        &self.settings.name
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.settings.endpoint
    }

    /// Most bytes taken of an answer.
    pub fn body_limit(&self) -> ByteSize {
        self.settings.limits.body
    }

    pub fn makes(&self, kind: PromptKind) -> bool {
        self.settings.kinds.contains(&kind)
    }

    /// Makes one candidate.
    ///
    /// Dropping the future abandons the answer; the worker goes on working (workers.md section 6).
    ///
    /// # Errors
    /// See [`GenerateError`].
    pub async fn generate(&self, prompt: &Prompt, seed: Seed) -> Result<Generation, GenerateError> {
        if !self.makes(prompt.kind()) {
            return Err(GenerateError::Unsupported(prompt.kind()));
        }
        let (content_type, body) = self.request(prompt, seed)?;
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_str(&content_type).map_err(|_| GenerateError::UndecodableImage)?,
        );
        let url = self.settings.endpoint.at(self.settings.dialect.path());
        let call = Call { method: Method::POST, url, headers, body: Bytes::from(body) };
        let reply = self.transport.call(&self.clock, call, &self.settings.limits).await?;
        read(reply)
    }

    /// Whether anything of use listens at the endpoint. Generators have no common health route and most
    /// answer nothing while they work, so any reply and any silence counts as alive, unless the reply
    /// says `gpu_enabled: false` (workers.md sections 5 and 8); a refused connection does not.
    pub async fn presence(&self) -> Presence {
        let limits = Limits {
            first_byte: Duration::from_secs(3),
            total: Duration::from_secs(3),
            body: ByteSize(64 << 10),
        };
        let url = self.settings.endpoint.at("/health");
        let call = Call { method: Method::GET, url, headers: HeaderMap::new(), body: Bytes::new() };
        match self.transport.call(&self.clock, call, &limits).await {
            Err(NetError::Connect(_)) => Presence::Away,
            Ok(reply) if reply.status.is_success() && says_cpu(&reply.body) => Presence::OnCpu,
            Ok(_) | Err(_) => Presence::There,
        }
    }

    fn request(&self, prompt: &Prompt, seed: Seed) -> Result<(String, Vec<u8>), GenerateError> {
        let seed = seed.get().to_string();
        match self.settings.dialect {
            Dialect::Form | Dialect::FormImage => {
                let body = form_urlencoded::Serializer::new(String::new())
                    .append_pair("prompt", prompt.as_wire())
                    .append_pair("seed", &seed)
                    .finish();
                Ok(("application/x-www-form-urlencoded".into(), body.into_bytes()))
            }
            Dialect::Image => {
                let image = decode_image(prompt.as_wire()).ok_or(GenerateError::UndecodableImage)?;
                Ok(Form::new(uuid::Uuid::new_v4().simple().to_string())
                    .file("prompt_image_file", "prompt", "application/octet-stream", &image)
                    .text("seed", &seed)
                    .finish())
            }
        }
    }
}

/// Decodes as leniently as the validators' own scorer does: white space, a data-URL prefix and
/// missing padding are forgiven.
fn decode_image(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true),
    );
    let data = match text.split_once(";base64,") {
        Some((prefix, data)) if prefix.starts_with("data:") => data,
        _ => text,
    };
    let compact: Vec<u8> = data.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    LENIENT.decode(compact).ok().filter(|image| !image.is_empty())
}

/// Whether an answer about health tells of a fallback to the CPU.
fn says_cpu(body: &[u8]) -> bool {
    let figures = Answer::read(body).ok().and_then(|answer| health_figures(&answer).ok());
    figures.is_some_and(|figures| figures.gpu_enabled == Some(false))
}

fn read(reply: Reply) -> Result<Generation, GenerateError> {
    let header = |name: &str| reply.headers.get(name).and_then(|v| v.to_str().ok());
    // GEN-CMP says with headers why there is nothing (workers.md 1.6).
    let reason = || {
        for name in ["X-Skip-Reason", "X-TRELLIS-Error", "X-Generation-Error", "X-Error"] {
            if let Some(text) = header(name) {
                return Some(Untrusted::new(text).to_string());
            }
        }
        (header("X-Validation-Failed") == Some("true")).then(|| {
            let score = header("X-CLIP-Score").unwrap_or("unknown");
            format!("its own validation failed, CLIP score {}", Untrusted::new(score))
        })
    };

    if reply.status != StatusCode::OK {
        let detail = reason().unwrap_or_else(|| {
            let text = String::from_utf8_lossy(&reply.body[..reply.body.len().min(400)]).into_owned();
            Untrusted::new(&text).to_string()
        });
        return Err(GenerateError::Failed { status: reply.status, detail });
    }
    let format = match sniff(&reply.body) {
        Magic::Ply => SplatFormat::Ply,
        Magic::ZstdSpz | Magic::GzipSpz => SplatFormat::Spz,
        Magic::Empty => {
            return Err(GenerateError::Declined(reason().unwrap_or_else(|| "an empty answer".into())));
        }
        Magic::Html => return Err(GenerateError::NotASplat("HTML")),
        Magic::Json => return Err(GenerateError::NotASplat("JSON")),
        Magic::Unknown => return Err(GenerateError::NotASplat("bytes of no known format")),
    };
    Ok(Generation { format, body: reply.body, timing: reply.timing })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http_body_util::{BodyExt, Full};

    use super::*;
    use crate::primitives::UnixTime;

    type Seen = Arc<Mutex<Vec<http::Request<Bytes>>>>;

    fn generator(dialect: Dialect, reply: http::Response<&'static [u8]>) -> (Generator, Seen) {
        let seen = Seen::default();
        let record = Arc::clone(&seen);
        let transport = Transport::InProcess(Arc::new(move |request| {
            record.lock().unwrap().push(request);
            let reply = reply.clone().map(|body| {
                Full::new(Bytes::from_static(body)).map_err(|never| match never {}).boxed_unsync()
            });
            Box::pin(async move { Ok(reply) })
        }));
        let settings = GeneratorSettings {
            name: "main".into(),
            endpoint: "http://127.0.0.1:8095".parse().unwrap(),
            dialect,
            kinds: dialect.kinds().iter().copied().collect(),
            limits: Limits {
                first_byte: Duration::from_secs(5),
                total: Duration::from_secs(5),
                body: ByteSize::mib(1),
            },
        };
        (Generator::new(settings, transport, Clock::starting_at(UnixTime::from_secs(1))), seen)
    }

    fn ok(body: &'static [u8]) -> http::Response<&'static [u8]> {
        http::Response::new(body)
    }

    #[tokio::test]
    async fn a_form_is_urlencoded_and_goes_to_the_exact_path() {
        let (generator, seen) = generator(Dialect::Form, ok(b"ply\nformat"));
        let made =
            generator.generate(&Prompt::Text("a red & blue cube".into()), Seed::new(42)).await.unwrap();
        assert_eq!(made.format, SplatFormat::Ply);
        let request = seen.lock().unwrap().remove(0);
        assert_eq!(request.uri().path(), "/generate/");
        assert_eq!(&request.body()[..], b"prompt=a+red+%26+blue+cube&seed=42");
        let unsupported = generator.generate(&Prompt::Image("iVBORw0KGgo=".into()), Seed::new(1)).await;
        assert!(matches!(unsupported, Err(GenerateError::Unsupported(PromptKind::Image))));
    }

    #[tokio::test]
    async fn an_image_goes_as_a_file_or_as_base64_by_dialect() {
        let (image, seen) = generator(Dialect::Image, ok(b"ply\nformat"));
        image
            .generate(&Prompt::Image("data:image/png;base64,iVBO\nRw0KGgo".into()), Seed::new(7))
            .await
            .unwrap();
        let request = seen.lock().unwrap().remove(0);
        assert_eq!(request.uri().path(), "/generate");
        let body = String::from_utf8_lossy(request.body()).into_owned();
        assert!(body.contains("name=\"prompt_image_file\"; filename=\"prompt\"") && body.contains("PNG\r\n"));
        assert!(body.contains("name=\"seed\"\r\n\r\n7\r\n"));
        let bad = image.generate(&Prompt::Image("not base64!".into()), Seed::new(7)).await;
        assert!(matches!(bad, Err(GenerateError::UndecodableImage)));

        let (form, seen) = generator(Dialect::FormImage, ok(b"ply\nformat"));
        form.generate(&Prompt::Image("iVBORw0KGgo=".into()), Seed::new(7)).await.unwrap();
        let request = seen.lock().unwrap().remove(0);
        assert_eq!(&request.body()[..], b"prompt=iVBORw0KGgo%3D&seed=7");
    }

    #[tokio::test]
    async fn answers_that_are_no_splat_say_what_they_are() {
        async fn failure(reply: http::Response<&'static [u8]>) -> GenerateError {
            let (generator, _) = generator(Dialect::Form, reply);
            generator.generate(&Prompt::Text("x".into()), Seed::new(1)).await.unwrap_err()
        }
        assert!(matches!(failure(ok(b"")).await, GenerateError::Declined(_)));
        assert!(matches!(failure(ok(b"<!DOCTYPE html><html>")).await, GenerateError::NotASplat("HTML")));
        assert!(matches!(failure(ok(b"{\"detail\":1}")).await, GenerateError::NotASplat("JSON")));
        let skip = http::Response::builder()
            .header("X-Validation-Failed", "true")
            .header("X-CLIP-Score", "0.17")
            .body(&b""[..])
            .unwrap();
        assert_eq!(
            failure(skip).await.to_string(),
            "the generator declined: its own validation failed, CLIP score 0.17"
        );
        let down = http::Response::builder()
            .status(503)
            .header("X-TRELLIS-Error", "backend \u{1b}[2J down")
            .body(&b""[..]);
        assert!(down.is_err(), "an escape cannot even be put into a header");
        let failed = http::Response::builder().status(500).body(&b"Internal Server Error"[..]).unwrap();
        let error = failure(failed).await;
        assert!(matches!(&error, GenerateError::Failed { status, .. } if status.as_u16() == 500), "{error}");
    }
}
