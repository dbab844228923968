//! The hand-off verbs of VAL-HO (workers.md section 3): 200 whatever comes of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::response::Response;
use serde_json::{Value, json};

use super::verbs::{Outcome, gib};
use super::{Shop, broken, said};
use crate::devnet::card::CardState;

/// The whole device, in GiB whatever the names say.
pub(super) fn status(card: &CardState, on_gpu: bool) -> Value {
    if !on_gpu {
        return json!({"gpu_available": false});
    }
    json!({
        "gpu_available": true,
        "memory_total_gb": gib(card.total),
        "memory_free_gb": gib(card.free()),
        "memory_used_gb": gib(card.used()),
        "memory_used_percent": card.used().0 as f64 / card.total.0.max(1) as f64 * 100.0,
    })
}

pub(super) async fn verb(shop: &Arc<Shop>, path: &str) -> Response {
    let Ok(before) = shop.models.card() else { return broken() };
    let started = shop.clock.instant();
    let names = shop.models.names();
    // Without a backup the new engine is built beside the old one.
    let anew = path == "/reload_models/" && !shop.backup.swap(false, Ordering::SeqCst);
    let outcome = match path {
        "/unload_models/" => shop.give_up(names).await,
        "/reload_models/" => shop.take_back(names, anew && shop.models.are_ready()).await,
        _ => Outcome::Done,
    };
    let Ok(after) = shop.models.card() else { return broken() };
    let took = started.elapsed().as_secs_f64();
    let done = match path {
        "/unload_models/" => "models_unloaded",
        "/reload_models/" => "models_reloaded",
        _ => "cleaned",
    };
    if let Outcome::Failed(why) = outcome {
        return said(200, &json!({"status": "error", "error": why, done: false}));
    }
    let mut answer = status(&after, !shop.models.is_on_cpu());
    match path {
        "/unload_models/" => {
            answer = json!({
                "status": "success",
                "memory_before_gb": gib(before.used()),
                "memory_after_gb": gib(after.used()),
                // Negative when somebody else took some meanwhile.
                "memory_freed_gb": gib(before.used()) - gib(after.used()),
                "total_memory_gb": gib(after.total),
                "free_memory_gb": gib(after.free()),
                "unload_time": took,
                "models_unloaded": true,
                "aggressive_unload": true,
            });
        }
        "/reload_models/" => {
            answer["reload_time"] = json!(took);
            answer["models_reloaded"] = json!(true);
            answer[if anew { "reinitialized" } else { "restored_from_backup" }] = json!(true);
        }
        _ => answer["cleanup_time"] = json!(took),
    }
    said(200, &answer)
}
