//! From answers to what gave them.

use http::StatusCode;

use super::{Answers, CONFIGURATION, Detected, Detection, Health, Server};
use crate::net::Endpoint;
use crate::primitives::Untrusted;
use crate::workers::generator::Dialect;
use crate::workers::memory::{Answer, CacheFigure, MemoryDialect, SleepLevel, health_figures};

impl Answers {
    /// A 2xx that is a JSON object.
    fn object(&self, path: &str) -> Option<Answer> {
        let (status, body) = self.replies.get(path)?;
        Answer::read(body).ok().filter(|_| status.is_success())
    }

    /// A 2xx that is a JSON text.
    fn text(&self, path: &str) -> Option<String> {
        let (status, body) = self.replies.get(path)?;
        serde_json::from_slice::<String>(body).ok().filter(|_| status.is_success())
    }

    fn takes_post(&self, path: &str) -> bool {
        self.posts.contains(path)
    }

    fn health(&self) -> Health {
        let answer = self.object("/health").or_else(|| self.object("/health/"));
        let said = answer.as_ref().map(health_figures).and_then(Result::ok).unwrap_or_default();
        let by_verbs = self.object("/gpu_status/").and_then(|answer| answer.flag("gpu_available"));
        Health {
            status: answer.and_then(|answer| answer.text("status").map(shown)),
            gpu_enabled: said.gpu_enabled.or(by_verbs),
            model_loaded: said.models_loaded,
        }
    }
}

fn shown(text: &str) -> String {
    Untrusted::new(text).to_string()
}

/// Whether the answers are those of a server that drives a validation service by itself: GEN-HUN and
/// GEN-SUB say the time on `/health/`.
pub(super) fn is_self_coordinating(answers: &Answers) -> bool {
    answers.takes_post("/generate/")
        && answers.object("/health/").is_some_and(|health| health.is_number("timestamp"))
}

/// The first kind whose marks are there. Those with the clearest marks come first; a generator that
/// only takes a form, and a bare health route, come last.
pub(super) fn decide(answers: &Answers) -> Detection {
    let found = validation(answers)
        .or_else(|| generator(answers))
        .or_else(|| memory_worker(answers))
        .or_else(|| engine(answers))
        .or_else(|| last(answers));
    match found {
        Some(detected) => Detection::Answers(Box::new(detected)),
        None => Detection::SomethingElse(something_else(answers)),
    }
}

fn known(answers: &Answers, server: Server) -> Detected {
    let version = answers.text("/version/").or_else(|| answers.text("/version"));
    let version = version.or_else(|| answers.object("/version")?.text("version").map(str::to_owned));
    Detected {
        server,
        generator: None,
        scorer: false,
        memory: None,
        version: version.as_deref().map(shown),
        health: answers.health(),
        drives: None,
    }
}

fn has_verbs(answers: &Answers) -> bool {
    answers.object("/gpu_status/").is_some_and(|status| status.flag("gpu_available").is_some())
}

fn validation(answers: &Answers) -> Option<Detected> {
    if !answers.takes_post("/validate_txt_to_3d_ply/") {
        return None;
    }
    let verbs = has_verbs(answers);
    let server = if verbs { Server::HandoffValidation } else { Server::Validation };
    let memory = verbs.then_some(MemoryDialect::ThreeGen);
    Some(Detected { scorer: true, memory, ..known(answers, server) })
}

fn generator(answers: &Answers) -> Option<Detected> {
    let (form, plain) = (answers.takes_post("/generate/"), answers.takes_post("/generate"));
    if plain && answers.text("/version").is_some() {
        // It frees its cache by itself and its models only with its process.
        let memory = Some(MemoryDialect::Process);
        return Some(Detected {
            generator: Some(Dialect::Image),
            memory,
            ..known(answers, Server::BaseMiner)
        });
    }
    if is_self_coordinating(answers) {
        let configuration = answers.object(CONFIGURATION);
        let has = |key| configuration.as_ref().is_some_and(|configuration| configuration.has(key));
        let submits = has("auto_validate_generations") || has("slat_sampling_steps");
        let (server, figure) = if submits {
            (Server::TrellisSubmit, CacheFigure::Free)
        } else {
            (Server::Hunyuan, CacheFigure::WithoutOwn)
        };
        let drives = configuration.as_ref().and_then(|answer| answer.text("validation_server_url"));
        // Parsed, so that what may be a secret in it is not shown.
        let drives = drives.map(|url| match url.parse::<Endpoint>() {
            Ok(endpoint) => endpoint.to_string(),
            Err(_) => "an address that cannot be read".to_owned(),
        });
        let memory = Some(MemoryDialect::ClearCache(figure));
        return Some(Detected { generator: Some(Dialect::Form), memory, drives, ..known(answers, server) });
    }
    let health = answers.object("/health")?;
    let parts = health.object("models_loaded");
    if form && parts.is_some_and(|parts| parts.contains_key("trellis_service")) {
        return Some(Detected { generator: Some(Dialect::FormImage), ..known(answers, Server::Competitive) });
    }
    if plain && health.flag("pipeline_loaded").is_some() {
        return Some(known(answers, Server::TrellisService));
    }
    None
}

fn memory_worker(answers: &Answers) -> Option<Detected> {
    let (status, body) = answers.replies.get("/memory/status")?;
    let answer = Answer::read(body).ok()?;
    // Others have a route of this name for memories of another kind.
    let on_card = status.is_success() && answer.has("total_vram") && answer.has("allocated_vram");
    let without =
        *status == StatusCode::INTERNAL_SERVER_ERROR && answer.text("error") == Some("CUDA not available");
    if !on_card && !without {
        return None;
    }
    let mut detected = known(answers, Server::MemoryWorker);
    if without {
        detected.health.gpu_enabled = Some(false);
    }
    Some(Detected { memory: Some(MemoryDialect::Memory(None)), ..detected })
}

fn engine(answers: &Answers) -> Option<Detected> {
    let has =
        |path: &str, key: &str| answers.object(path).is_some_and(|answer| answer.objects(key).is_some());
    let with = |server, memory| Some(Detected { memory, ..known(answers, server) });
    if answers.object("/is_sleeping").is_some_and(|answer| answer.flag("is_sleeping").is_some()) {
        let memory = MemoryDialect::Vllm { level: SleepLevel::Keep, tags: Vec::new() };
        return with(Server::Vllm, Some(memory));
    }
    if has("/running", "running") {
        return with(Server::LlamaSwap, Some(MemoryDialect::LlamaSwap(None)));
    }
    if has("/api/ps", "models") {
        return with(Server::Ollama, Some(MemoryDialect::Ollama(None)));
    }
    if has("/system_stats", "devices") {
        return with(Server::Comfy, Some(MemoryDialect::Comfy));
    }
    if answers.object("/v2").is_some_and(|answer| answer.text("name") == Some("triton")) {
        // Which of its models is meant has to be said.
        return with(Server::Triton, None);
    }
    // Without its development mode it has no sleep verbs.
    let empty =
        answers.replies.get("/health").is_some_and(|(status, body)| status.is_success() && body.is_empty());
    if empty && answers.object("/version").is_some_and(|answer| answer.text("version").is_some()) {
        return with(Server::Vllm, Some(MemoryDialect::Process));
    }
    None
}

fn last(answers: &Answers) -> Option<Detected> {
    let (form, plain) = (answers.takes_post("/generate/"), answers.takes_post("/generate"));
    let memory = has_verbs(answers).then_some(MemoryDialect::ThreeGen);
    if form {
        // With the other route beside it, it takes images as well.
        let dialect = if plain { Dialect::FormImage } else { Dialect::Form };
        return Some(Detected { generator: Some(dialect), memory, ..known(answers, Server::FormGenerator) });
    }
    let health = answers.object("/health");
    if plain && health.as_ref().is_some_and(|health| health.text("status") == Some("healthy")) {
        return Some(known(answers, Server::TrellisLinks));
    }
    if memory.is_some() {
        return Some(Detected { memory, ..known(answers, Server::HandoffShim) });
    }
    health
        .filter(|health| health.flag("gpu_enabled").is_some())
        .map(|_| known(answers, Server::HealthService))
}

fn something_else(answers: &Answers) -> String {
    if let Some(status) = answers.redirects.filter(|_| answers.replies.is_empty()) {
        return format!("something that redirects everything ({status}): the URL is not the worker's own");
    }
    let statuses: Vec<_> = answers.replies.values().map(|(status, _)| *status).collect();
    let all = |wanted: &[StatusCode]| !statuses.is_empty() && statuses.iter().all(|s| wanted.contains(s));
    if all(&[StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN]) {
        return "something that asks for credentials".into();
    }
    if answers.takes_post("/generate") {
        return "a server with a /generate route that we do not speak the dialect of".into();
    }
    let is_page = |(_, body): &(StatusCode, Vec<u8>)| body.trim_ascii_start().first() == Some(&b'<');
    if !all(&[StatusCode::NOT_FOUND]) && answers.replies.values().any(is_page) {
        return "a server of web pages".into();
    }
    let status = answers.object("/health").and_then(|health| health.text("status").map(shown));
    match status {
        Some(status) => format!("a server that calls itself {status} and has none of the routes we know"),
        None => "an HTTP server with none of the routes we know".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(replies: &[(&'static str, u16, &str)], posts: &[&'static str]) -> Answers {
        Answers {
            replies: replies
                .iter()
                .map(|(path, status, body)| {
                    (*path, (StatusCode::from_u16(*status).unwrap(), body.as_bytes().to_vec()))
                })
                .collect(),
            posts: posts.iter().copied().collect(),
            redirects: None,
        }
    }

    fn server(replies: &[(&'static str, u16, &str)], posts: &[&'static str]) -> Server {
        match decide(&answers(replies, posts)) {
            Detection::Answers(detected) => detected.server,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_only_resembles_a_worker_is_something_else() {
        for (replies, posts) in [
            (&[("/memory/status", 200, r#"{"ok":true,"cached":[]}"#)][..], &[][..]),
            (&[("/version", 200, r#""1.0""#)], &[]),
            (&[("/version", 200, r#"{"version":"1.0"}"#), ("/health", 200, "{}")], &[]),
            (&[("/running", 200, r#"{"running":true}"#)], &[]),
            (&[("/health", 200, r#"{"status":"healthy"}"#)], &[]),
            (&[("/health", 200, "<html>"), ("/version", 200, "<html>")], &[]),
            (&[("/gpu_status/", 404, r#"{"gpu_available":true}"#)], &[]),
            (&[], &["/generate"]),
            (&[], &[]),
        ] {
            let detection = decide(&answers(replies, posts));
            assert!(matches!(detection, Detection::SomethingElse(_)), "{replies:?}: {detection:?}");
        }
    }

    #[test]
    fn the_clearer_mark_wins() {
        // A chat worker has a route of the generators' name.
        let status = r#"{"total_vram":48.0,"allocated_vram":15.1,"available_vram":32.9,"model_loaded":true}"#;
        let health = r#"{"status":"healthy","model_loaded":true}"#;
        let replies = [("/memory/status", 200, status), ("/health", 200, health)];
        assert_eq!(server(&replies, &["/generate"]), Server::MemoryWorker);
        let replies = [("/version", 200, r#""0.0.0""#), ("/health", 200, r#"{"status":"healthy"}"#)];
        assert_eq!(server(&replies, &["/generate"]), Server::BaseMiner);
        assert_eq!(server(&replies[1..], &["/generate"]), Server::TrellisLinks);
        assert_eq!(server(&replies[1..], &["/generate", "/generate/"]), Server::FormGenerator);
    }

    #[test]
    fn foreign_words_are_shown_without_power() {
        let version = serde_json::to_string(&"\u{1b}[2J\u{202e}".repeat(1_000)).unwrap();
        let detection = decide(&answers(&[("/version/", 200, &version)], &["/validate_txt_to_3d_ply/"]));
        let text = detection.to_string();
        assert!(text.len() < 1_500 && !text.contains('\u{1b}'), "{text}");
    }
}
