//! Engines with verbs of their own (workers.md section 7), and what those that write texts write.

use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::Request;
use axum::response::Response;
use serde_json::{Value, json};

use super::dialect::WorkerDialect;
use super::verbs::{Outcome, nothing};
use super::{Shop, broken, said};
use crate::devnet::card::CardState;

/// Largest text, in bytes.
const TEXT_LIMIT: usize = 1 << 20;

/// A text for a text. No model is asked: an enhanced prompt is the prompt with a few words more.
pub(super) async fn text(dialect: WorkerDialect, request: Request) -> Response {
    let Ok(body) = to_bytes(request.into_body(), TEXT_LIMIT).await else { return broken() };
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let Some(prompt) = body["prompt"].as_str() else {
        let missing = json!([{"type": "missing", "loc": ["body", "prompt"], "msg": "Field required"}]);
        return said(422, &json!({"detail": missing}));
    };
    let written = format!("{prompt}, one object, plain background");
    let answer = match dialect {
        WorkerDialect::Vllm => {
            json!({"object": "text_completion", "choices": [{"index": 0, "text": written}]})
        }
        WorkerDialect::Comfy => json!({"prompt_id": "0", "number": 1, "node_errors": {}}),
        _ => json!({"prompt": written}),
    };
    said(200, &answer)
}

pub(super) fn question(shop: &Shop, path: &str, card: &CardState) -> Response {
    match path {
        "/version" => said(200, &json!({"version": "0.11.0"})),
        "/is_sleeping" => said(200, &json!({"is_sleeping": !shop.models.is_on_card("weights")})),
        "/system_stats" => {
            let own = shop.models.tensors().0 << 20;
            let device = match shop.models.is_on_cpu() {
                true => json!({"name": "cpu", "type": "cpu", "index": null, "vram_total": 0, "vram_free": 0,
                               "torch_vram_total": 0, "torch_vram_free": 0}),
                false => json!({"name": "cuda:0 Development card", "type": "cuda", "index": 0,
                                "vram_total": card.total.0 << 20, "vram_free": card.free().0 << 20,
                                "torch_vram_total": own, "torch_vram_free": 0}),
            };
            said(200, &json!({"system": {"os": "posix", "comfyui_version": "0.3.60"}, "devices": [device]}))
        }
        "/api/ps" => {
            let loaded = shop.models.names().iter().filter(|name| shop.models.is_on_card(name));
            let models: Vec<_> = loaded
                .map(|name| {
                    json!({"name": name, "model": name, "size": shop.models.tensors().0 << 20,
                           "size_vram": if shop.models.is_on_cpu() { 0 } else { shop.models.tensors().0 << 20 },
                           "expires_at": "2318-09-01T00:00:00Z"})
                })
                .collect();
            said(200, &json!({"models": models}))
        }
        _ => nothing(),
    }
}

pub(super) async fn verb(shop: &Arc<Shop>, path: &str, query: &str, body: &Value) -> Response {
    let all = shop.models.names();
    let outcome = match path {
        "/sleep" => shop.give_up(&tagged(all, query)).await,
        "/wake_up" => shop.take_back(&tagged(all, query), false).await,
        "/free" => {
            // The 200 only sets a flag: the thread that runs prompts acts between two of them.
            let shop = Arc::clone(shop);
            shop.jobs.clone().spawn(async move {
                let _bench = shop.bench.lock().await;
                shop.give_up(shop.models.names()).await;
            });
            Outcome::Done
        }
        "/api/generate" => return ollama(shop, body).await,
        // Weights are read again, the cache is emptied.
        _ => Outcome::Done,
    };
    match outcome {
        Outcome::Done if path == "/collective_rpc" => said(200, &json!({"results": []})),
        Outcome::Done => nothing(),
        Outcome::Failed(_) => broken(),
    }
}

/// Those named by `tags`; all of them without any.
fn tagged(all: &[&'static str], query: &str) -> Vec<&'static str> {
    let tags: Vec<_> = form_urlencoded::parse(query.as_bytes())
        .filter(|(key, _)| key == "tags")
        .map(|(_, tag)| tag)
        .collect();
    all.iter().copied().filter(|name| tags.is_empty() || tags.iter().any(|tag| tag == name)).collect()
}

/// Unloads and loads by a request without a prompt; one with a prompt loads by itself.
async fn ollama(shop: &Arc<Shop>, body: &Value) -> Response {
    let asked = body["model"].as_str().unwrap_or_default();
    let full = if asked.contains(':') { asked.to_owned() } else { format!("{asked}:latest") };
    let Some(name) = shop.models.names().iter().find(|name| **name == full).copied() else {
        return said(404, &json!({"error": format!("model '{asked}' not found")}));
    };
    let unloads = body["keep_alive"].as_i64() == Some(0);
    let prompt = body["prompt"].as_str().filter(|prompt| !prompt.is_empty());
    let outcome = match prompt {
        None if unloads => shop.give_up(&[name]).await,
        _ => shop.take_back(&[name], false).await,
    };
    if let Outcome::Failed(why) = outcome {
        return said(500, &json!({"error": why}));
    }
    let Some(prompt) = prompt else {
        let reason = if unloads { "unload" } else { "load" };
        return said(200, &json!({"model": asked, "response": "", "done": true, "done_reason": reason}));
    };
    let _bench = shop.bench.lock().await;
    if shop.models.work(true).is_err() {
        return said(500, &json!({"error": "out of memory"}));
    }
    shop.clock.sleep(shop.settings.work_time).await;
    if shop.models.work(false).is_err() {
        return broken();
    }
    let written = format!("{prompt}, one object, plain background");
    said(200, &json!({"model": asked, "response": written, "done": true, "done_reason": "stop"}))
}
