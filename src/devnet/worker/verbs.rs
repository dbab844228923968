//! Memory given up and taken back, with all that goes wrong; and the servers that have little to say.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::dialect::{Trade, WorkerDialect};
use super::fault::Fault;
use super::{Fate, Shop, broken, engines, said, three_gen};
use crate::devnet::card::{CardState, HoldError};
use crate::primitives::MiB;

/// What a verb came to, as far as the server knows or says.
pub(super) enum Outcome {
    Done,
    Failed(String),
}

impl Shop {
    pub(super) async fn give_up(self: &Arc<Self>, names: &[&'static str]) -> Outcome {
        if self.strikes(Fault::Refuses) {
            return Outcome::Failed("CUDA error: device-side assert triggered".into());
        }
        self.clock.sleep(self.settings.unload_time).await;
        if self.strikes(Fault::Lies) {
            return Outcome::Done;
        }
        let late = self.strikes(Fault::Late);
        if let Err(error) = self.models.unload(names, late) {
            return Outcome::Failed(error.to_string());
        }
        self.backup.store(true, Ordering::SeqCst);
        if late {
            let shop = Arc::clone(self);
            self.jobs.spawn(async move {
                shop.clock.sleep(shop.settings.late_time).await;
                if let Err(error) = shop.models.settle() {
                    tracing::warn!(%error, "Memory is not given back");
                }
            });
        }
        if self.strikes(Fault::Dies) {
            self.fate.send_replace(Fate::Ends);
        }
        Outcome::Done
    }

    /// `anew`: they are built beside those that are there.
    pub(super) async fn take_back(&self, names: &[&'static str], anew: bool) -> Outcome {
        if self.strikes(Fault::Refuses) {
            return Outcome::Failed("CUDA error: device-side assert triggered".into());
        }
        if self.strikes(Fault::Lies) {
            self.clock.sleep(self.settings.load_time).await;
            return Outcome::Done;
        }
        let doubled = anew || self.strikes(Fault::Double);
        match self.bring_in(names, doubled).await {
            Ok(()) => {
                let spoilt = self.settings.dialect.trade() == Trade::Scores && self.strikes(Fault::Zeros);
                self.spoilt.store(spoilt, Ordering::SeqCst);
                Outcome::Done
            }
            Err(error) => {
                if matches!(error, HoldError::OutOfMemory { .. }) && self.strikes(Fault::Crashes) {
                    self.fate.send_replace(Fate::Crashed);
                }
                Outcome::Failed(format!("CUDA {error}"))
            }
        }
    }

    pub(super) fn question(&self, path: &str) -> Response {
        let card = match self.models.card() {
            Ok(card) => card,
            Err(error) => {
                tracing::warn!(%error, "The card cannot be seen");
                return broken();
            }
        };
        let now = self.clock.now().as_secs_f64();
        let on_gpu = !self.models.is_on_cpu();
        let json = match (self.settings.dialect, path) {
            (WorkerDialect::Validation, "/version/") => json!("2.4.0"),
            (WorkerDialect::ThreeGen, "/version/") => json!("2.2.0"),
            (WorkerDialect::ThreeGen, _) => three_gen::status(&card, on_gpu),
            (WorkerDialect::Image, "/version") => json!("0.0.0"),
            (WorkerDialect::Image, _) => json!({"status": "healthy"}),
            (WorkerDialect::FormImage, _) => json!({
                "status": "healthy",
                "models_loaded": {"flux": true, "background_remover": true,
                                  "trellis_service": "http://localhost:10008", "clip_validator": true},
                "config": {"flux_steps": 4, "validation_enabled": false, "validation_threshold": 0.6},
            }),
            (WorkerDialect::Hunyuan, "/health/") => json!({"status": "healthy", "timestamp": now}),
            (WorkerDialect::Hunyuan, _) => {
                let driven = self.settings.drives.as_ref();
                json!({"device": "cuda",
                       "validation_server_url": driven.map(|to| to.at("/").to_string()).unwrap_or_default()})
            }
            (WorkerDialect::Enhancer, "/health") => {
                json!({"gpu_enabled": on_gpu, "model_loaded": self.models.are_ready(), "status": "healthy"})
            }
            (_, "/memory/status") => return self.memory_status(&card),
            (WorkerDialect::MemoryWan, "/health") => json!({
                "status": "healthy", "qwen_loaded": self.models.is_on_card("qwen"), "timestamp": now,
                "worker_ready": true, "thread_safe_timeouts": true,
            }),
            (dialect @ (WorkerDialect::MemorySdxl | WorkerDialect::MemoryChat), "/health") => json!({
                "status": "healthy", "worker": dialect.to_string(), "model_loaded": self.models.are_ready(),
                "timestamp": now,
            }),
            _ => return engines::question(self, path, &card),
        };
        said(200, &json)
    }

    pub(super) async fn verb(self: &Arc<Self>, path: &str, query: &str, body: &Value) -> Response {
        match path {
            "/unload_models/" | "/reload_models/" | "/cleanup_gpu/" => three_gen::verb(self, path).await,
            "/memory/load" | "/memory/unload" => self.memory_verb(path, query).await,
            "/clear_cache/" | "/status/" => {
                let free = self.models.card().map(|card| card.total.saturating_sub(self.models.tensors()));
                match free {
                    Ok(free) => said(
                        200,
                        &json!({"status": "cache_cleared",
                                "available_memory_gb": (free.0 << 20) as f64 / 1e9}),
                    ),
                    Err(_) => broken(),
                }
            }
            _ => engines::verb(self, path, query, body).await,
        }
    }

    /// Its own tensors, and what the device has besides: no other process is seen.
    fn memory_status(&self, card: &CardState) -> Response {
        if self.models.is_on_cpu() {
            return said(500, &json!({"error": "CUDA not available"}));
        }
        let own = self.models.tensors();
        let mut status = json!({
            "total_vram": gib(card.total),
            "allocated_vram": gib(own),
            "available_vram": gib(card.total.saturating_sub(own)),
        });
        let there = |name: &str| json!(self.models.is_on_card(name));
        match self.settings.dialect {
            // No common name here.
            WorkerDialect::MemoryWan => {
                status["qwen_model_loaded"] = there("qwen");
                status["wan_model_loaded"] = there("wan");
                status["memory_fraction"] = json!(0.63);
                status["worker_type"] = json!("wan");
            }
            WorkerDialect::MemoryChat => {
                status["model_loaded"] = json!(self.models.are_ready());
                status["instruct_loaded"] = there("instruct");
                status["base_loaded"] = there("base");
            }
            _ => {
                status["model_loaded"] = json!(self.models.are_ready());
                status["pipeline_loaded"] = json!(self.models.are_ready());
                status["i2i_pipeline_loaded"] = json!(false);
                status["memory_fraction"] = json!(0.21);
                status["worker_type"] = json!("sdxl");
            }
        }
        said(200, &status)
    }

    async fn memory_verb(self: &Arc<Self>, path: &str, query: &str) -> Response {
        let loads = path == "/memory/load";
        let asked = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "which");
        let all = self.models.names();
        let names: Vec<_> = match asked {
            None => all.to_vec(),
            Some((_, which)) if which == "all" && !loads => all.to_vec(),
            Some((_, which)) => match all.iter().find(|name| **name == which) {
                Some(name) => vec![*name],
                None => return said(400, &json!({"success": false, "message": "unknown model"})),
            },
        };
        let outcome = if loads { self.take_back(&names, false).await } else { self.give_up(&names).await };
        match outcome {
            Outcome::Done => said(200, &json!({"success": true, "message": "done"})),
            // The chat worker says yes to every unload, and no with a 200 to a load.
            Outcome::Failed(why) => match (self.settings.dialect, loads) {
                (WorkerDialect::MemoryChat, false) => said(200, &json!({"success": true})),
                (WorkerDialect::MemoryChat, true) => said(200, &json!({"success": false, "message": why})),
                _ => said(500, &json!({"success": false, "message": why})),
            },
        }
    }
}

pub(super) fn gib(amount: MiB) -> f64 {
    amount.0 as f64 / 1_024.0
}

/// An empty 200.
pub(super) fn nothing() -> Response {
    "".into_response()
}
