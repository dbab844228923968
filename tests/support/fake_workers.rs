//! Worker servers as workers.md describes them, with their lies: what a test needs of each, behind
//! routes that are refused and redirected as their framework does it.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use http::{Method, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use sn17_miner::net::{Connections, Endpoint, Transport};
use tokio::task::JoinSet;
use tower::ServiceExt;

pub const GIB: u64 = 1 << 30;

/// One request as a route sees it.
pub struct Asked {
    /// `name=value&...`
    pub query: String,
    pub body: Value,
}

type Handler = Arc<dyn Fn(Asked) -> BoxFuture<'static, Response> + Send + Sync>;

/// A server of some routes.
#[derive(Clone, Default)]
pub struct Fake {
    routes: BTreeMap<&'static str, BTreeMap<&'static str, Handler>>,
    /// Held by whoever is served, if the server does one thing at a time.
    turn: Option<Arc<tokio::sync::Mutex<()>>>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    /// A route whose answer takes no time.
    pub fn on(
        self,
        method: &'static str,
        path: &'static str,
        answer: impl Fn(Asked) -> Response + Send + Sync + 'static,
    ) -> Self {
        self.during(method, path, move |asked| {
            let answer = answer(asked);
            Box::pin(async { answer })
        })
    }

    /// A route that takes its time.
    pub fn during(
        mut self,
        method: &'static str,
        path: &'static str,
        answer: impl Fn(Asked) -> BoxFuture<'static, Response> + Send + Sync + 'static,
    ) -> Self {
        self.routes.entry(path).or_default().insert(method, Arc::new(answer));
        self
    }

    /// A GET route that always answers the same.
    pub fn says(self, path: &'static str, json: Value) -> Self {
        self.on("GET", path, move |_| ok(&json))
    }

    /// A POST route that nobody should call.
    pub fn takes(self, path: &'static str) -> Self {
        self.on("POST", path, |_| error(500))
    }

    /// An `async` handler that works keeps every other request waiting.
    pub fn deaf_while_busy(self) -> Self {
        Self { turn: Some(Arc::default()), ..self }
    }

    /// What was asked so far, as `METHOD /path?query body`.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// This server without sockets.
    pub fn in_process(&self) -> Transport {
        let router = self.router();
        Transport::InProcess(Arc::new(move |request| {
            let router = router.clone();
            Box::pin(async move {
                let reply = router.oneshot(request.map(Body::from)).await.unwrap();
                Ok(reply.map(|body| body.map_err(Into::into).boxed_unsync()))
            })
        }))
    }

    /// This server on a port of its own.
    pub async fn serve(&self) -> Served {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = self.router();
        let mut running = JoinSet::new();
        running.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Served { address, _running: running }
    }

    fn router(&self) -> Router {
        let fake = self.clone();
        Router::new().fallback(move |request: Request| {
            let fake = fake.clone();
            async move { fake.answer(request).await }
        })
    }

    async fn answer(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        let mut line = format!("{} {}", parts.method, parts.uri.path_and_query().unwrap());
        if !body.is_empty() {
            line += &format!(" {}", String::from_utf8_lossy(&body));
        }
        self.seen.lock().unwrap().push(line);
        let _turn = match &self.turn {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        let path = parts.uri.path();
        let Some(methods) = self.routes.get(path) else { return self.refused(path) };
        let Some(handler) = methods.get(parts.method.as_str()) else {
            let allowed: Vec<_> = methods.keys().copied().collect();
            let status = if parts.method == Method::OPTIONS { 200 } else { 405 };
            return with_header(status, header::ALLOW, &allowed.join(", "));
        };
        let query = parts.uri.query().unwrap_or_default().to_owned();
        handler(Asked { query, body: serde_json::from_slice(&body).unwrap_or(Value::Null) }).await
    }

    /// A slash too many or too few is redirected, body and all.
    fn refused(&self, path: &str) -> Response {
        let other = path.strip_suffix('/').map_or_else(|| format!("{path}/"), str::to_owned);
        if self.routes.contains_key(&*other) {
            return with_header(307, header::LOCATION, &other);
        }
        reply(404, &json!({"detail": "Not Found"}))
    }
}

/// A server on a port; it ends when this is dropped.
pub struct Served {
    pub address: SocketAddr,
    _running: JoinSet<()>,
}

impl Served {
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::of(self.address)
    }
}

pub fn sockets() -> Transport {
    Transport::http(Duration::from_secs(10), Connections::Fresh).unwrap()
}

pub fn reply(status: u16, json: &Value) -> Response {
    (StatusCode::from_u16(status).unwrap(), axum::Json(json)).into_response()
}

pub fn ok(json: &Value) -> Response {
    reply(200, json)
}

/// An exception in a handler, a `KeyError` say, as the framework words it.
pub fn error(status: u16) -> Response {
    (StatusCode::from_u16(status).unwrap(), "Internal Server Error").into_response()
}

pub fn text(body: impl Into<String>) -> Response {
    body.into().into_response()
}

pub fn with_header(status: u16, name: header::HeaderName, value: &str) -> Response {
    Response::builder().status(status).header(name, value).body(Body::empty()).unwrap()
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / GIB as f64
}

/// The memory of one card, as all of its workers see it. Bytes.
#[derive(Debug)]
pub struct Card {
    pub total: u64,
    pub held: BTreeMap<&'static str, u64>,
    /// The most that was ever held.
    pub peak: u64,
}

pub type SharedCard = Arc<Mutex<Card>>;

pub fn card(total: u64) -> SharedCard {
    Arc::new(Mutex::new(Card { total, held: BTreeMap::new(), peak: 0 }))
}

impl Card {
    pub fn hold(&mut self, who: &'static str, bytes: u64) {
        self.held.insert(who, bytes);
        self.peak = self.peak.max(self.held.values().sum());
    }

    pub fn free(&self) -> u64 {
        self.total - self.held.values().sum::<u64>()
    }

    fn status(&self) -> Value {
        let free = self.free();
        json!({
            "gpu_available": true,
            "memory_total_gb": gib(self.total),
            "memory_free_gb": gib(free),
            "memory_used_gb": gib(self.total - free),
            "memory_used_percent": (self.total - free) as f64 / self.total as f64 * 100.0,
        })
    }
}

/// What VAL-HO may do wrong.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Unloading and reloading fail, with a 200.
    pub fails: bool,
    /// Memory comes back so long after the answer.
    pub late: Duration,
    /// Time of a reload.
    pub reload: Duration,
}

const CONTEXT: u64 = 300 << 20;
const MODELS: u64 = 4_700 << 20;

/// VAL-HO (workers.md section 3), with its models on the card.
pub fn validation(card: &SharedCard, faults: Faults) -> Fake {
    card.lock().unwrap().hold("judge", CONTEXT + MODELS);
    // Whether there is something to restore.
    let backup = Arc::new(Mutex::new(false));
    let failed = |what: &str| ok(&json!({"status": "error", "error": "CUDA error\u{1b}[2J", what: false}));
    let (status, cleanup, unload, reload) = (card.clone(), card.clone(), card.clone(), card.clone());
    let unloaded = backup.clone();
    let late = Arc::new(Mutex::new(JoinSet::new()));
    Fake::default()
        .on("GET", "/gpu_status/", move |_| ok(&status.lock().unwrap().status()))
        .on("POST", "/cleanup_gpu/", move |_| {
            let mut status = cleanup.lock().unwrap().status();
            status["cleanup_time"] = json!(0.1);
            ok(&status)
        })
        .on("POST", "/unload_models/", move |_| {
            if faults.fails {
                return failed("models_unloaded");
            }
            *unloaded.lock().unwrap() = true;
            let before = gib(unload.lock().unwrap().held["judge"]);
            if faults.late.is_zero() {
                unload.lock().unwrap().hold("judge", CONTEXT);
            } else {
                let unload = unload.clone();
                late.lock().unwrap().spawn(async move {
                    tokio::time::sleep(faults.late).await;
                    unload.lock().unwrap().hold("judge", CONTEXT);
                });
            }
            let card = unload.lock().unwrap();
            let (after, free) = (gib(card.total - card.free()), gib(card.free()));
            ok(&json!({
                "status": "success", "memory_before_gb": before, "memory_after_gb": after,
                "memory_freed_gb": before - after, "total_memory_gb": gib(card.total),
                "free_memory_gb": free, "unload_time": 0.3, "models_unloaded": true,
                "aggressive_unload": true,
            }))
        })
        .during("POST", "/reload_models/", move |_| {
            let (card, backup) = (reload.clone(), backup.clone());
            Box::pin(async move {
                tokio::time::sleep(faults.reload).await;
                if faults.fails {
                    return failed("models_reloaded");
                }
                let restored = std::mem::take(&mut *backup.lock().unwrap());
                let mut card = card.lock().unwrap();
                if !restored {
                    // The new engine stands beside the old one for a while.
                    card.hold("judge", CONTEXT + 2 * MODELS);
                }
                card.hold("judge", CONTEXT + MODELS);
                let mut status = card.status();
                status["reload_time"] = json!(4.2);
                status["models_reloaded"] = json!(true);
                status[if restored { "restored_from_backup" } else { "reinitialized" }] = json!(true);
                ok(&status)
            })
        })
        .says("/version/", json!("2.2.0"))
        .takes("/validate_txt_to_3d_ply/")
        .takes("/validate_img_to_3d_ply/")
}

/// VAL-OFF (workers.md section 2).
pub fn official_validation() -> Fake {
    Fake::default()
        .says("/version/", json!("2.4.0"))
        .takes("/validate_txt_to_3d_ply/")
        .takes("/validate_img_to_3d_ply/")
        .takes("/render_duel_view/")
}

/// A worker of `/memory/*` (workers.md section 4) whose status is fixed.
pub fn memory_worker(status: Value) -> Fake {
    Fake::default()
        .says("/memory/status", status)
        .says("/health", json!({"status": "healthy", "worker": "x", "model_loaded": true, "timestamp": 1.0}))
        .on("POST", "/memory/unload", |asked| match &*asked.query {
            "" | "which=qwen" | "which=all" => ok(&json!({"success": true, "message": "unloaded"})),
            // Without the worker it is told to act on.
            "which=wan" => reply(500, &json!({"success": false, "message": "Unload failed: \u{1b}[2J"})),
            _ => reply(400, &json!({"success": false, "message": "unknown model"})),
        })
        .on("POST", "/memory/load", |_| ok(&json!({"success": false, "message": "load attempted"})))
}

/// vLLM in its development mode. `reloads`: whether weights can be read again.
pub fn vllm(sleeping: &Arc<Mutex<bool>>, reloads: bool) -> Fake {
    let (asleep, awake, status) = (sleeping.clone(), sleeping.clone(), sleeping.clone());
    Fake::default()
        .says("/version", json!({"version": "0.11.0"}))
        .on("GET", "/health", |_| text(""))
        .on("GET", "/is_sleeping", move |_| ok(&json!({"is_sleeping": *status.lock().unwrap()})))
        .on("POST", "/sleep", move |_| {
            *asleep.lock().unwrap() = true;
            text("")
        })
        .on("POST", "/wake_up", move |_| {
            *awake.lock().unwrap() = false;
            text("")
        })
        .on(
            "POST",
            "/collective_rpc",
            move |_| if reloads { ok(&json!({"results": []})) } else { error(500) },
        )
        .on("POST", "/reset_prefix_cache", |_| text(""))
}

/// ComfyUI: its 200 sets a flag, and the next look of its prompt thread does the work.
pub fn comfy(card: &SharedCard) -> Fake {
    card.lock().unwrap().hold("comfy", 8 * GIB);
    let flag = Arc::new(Mutex::new(0_u32));
    let (card, order) = (card.clone(), flag.clone());
    Fake::default()
        .on("POST", "/free", move |asked| {
            assert_eq!(asked.body, json!({"unload_models": true, "free_memory": true}));
            *order.lock().unwrap() = 2;
            text("")
        })
        .on("GET", "/system_stats", move |_| {
            let mut flag = flag.lock().unwrap();
            let mut card = card.lock().unwrap();
            if *flag == 1 {
                card.hold("comfy", GIB / 2);
            }
            *flag = flag.saturating_sub(1);
            let own = card.held["comfy"];
            // A quarter of what its allocator has is not in use, and counts as free for itself.
            let kept = own / 4;
            ok(&json!({
                "system": {"os": "posix", "comfyui_version": "0.3.60"},
                "devices": [{
                    "name": "cuda:0 NVIDIA", "type": "cuda", "index": 0, "vram_total": card.total,
                    "vram_free": card.free() + kept, "torch_vram_total": own, "torch_vram_free": kept,
                }],
            }))
        })
}

/// Ollama with its loaded models and the bytes that each has on the card.
pub fn ollama(loaded: &Arc<Mutex<BTreeMap<String, u64>>>) -> Fake {
    let (ps, generate) = (loaded.clone(), loaded.clone());
    Fake::default()
        .on("GET", "/api/ps", move |_| {
            let models: Vec<_> = ps.lock().unwrap().iter().map(|(name, vram)| {
                json!({"name": name, "model": name, "size": 5 * GIB, "size_vram": vram, "expires_at": "2318-09-01T00:00:00Z"})
            }).collect();
            ok(&json!({"models": models}))
        })
        .on("POST", "/api/generate", move |asked| {
            let model = asked.body["model"].as_str().unwrap().to_owned();
            let name = if model.contains(':') { model.clone() } else { format!("{model}:latest") };
            if model.starts_with("unknown") {
                return reply(404, &json!({"error": format!("model '{model}' not found")}));
            }
            assert_eq!((asked.body.get("prompt"), &asked.body["stream"]), (None, &json!(false)));
            let reason = match asked.body["keep_alive"].as_i64() {
                Some(0) => {
                    generate.lock().unwrap().remove(&name);
                    "unload"
                }
                Some(-1) => {
                    generate.lock().unwrap().insert(name, 5 * GIB);
                    "load"
                }
                other => panic!("kept for {other:?}"),
            };
            ok(&json!({"model": model, "response": "", "done": true, "done_reason": reason}))
        })
}

/// llama-swap with the states of its models.
pub fn llama_swap(states: &Arc<Mutex<BTreeMap<String, &'static str>>>) -> Fake {
    let (running, one, all, upstream) = (states.clone(), states.clone(), states.clone(), states.clone());
    Fake::default()
        .on("GET", "/health", |_| text("OK"))
        .on("GET", "/running", move |_| {
            let models: Vec<_> = running.lock().unwrap().iter().map(|(model, state)| {
                json!({"model": model, "state": state, "cmd": "llama-server", "proxy": "", "ttl": 0})
            }).collect();
            ok(&json!({"running": models}))
        })
        .on("POST", "/api/models/unload", move |_| {
            all.lock().unwrap().clear();
            ok(&json!({"msg": "ok"}))
        })
        .on("POST", "/api/models/unload/qwen/3-8b", move |_| {
            one.lock().unwrap().remove("qwen/3-8b");
            text("OK")
        })
        .on("GET", "/upstream/qwen/3-8b/health", move |_| {
            upstream.lock().unwrap().insert("qwen/3-8b".into(), "ready");
            ok(&json!({"status": "ok"}))
        })
}

/// Triton with one model, `m`.
pub fn triton(explicit: bool) -> Fake {
    let ready = Arc::new(Mutex::new(true));
    let (load, unload) = (ready.clone(), ready.clone());
    let refused = || {
        let why = "explicit model load / unload is not allowed if polling is enabled";
        reply(400, &json!({"error": why}))
    };
    Fake::default()
        .says("/v2", json!({"name": "triton", "version": "2.51.0", "extensions": []}))
        .on("POST", "/v2/repository/index", move |_| {
            let state = if *ready.lock().unwrap() { "READY" } else { "UNAVAILABLE" };
            ok(&json!([{"name": "other", "version": "1", "state": "READY"}, {"name": "m", "state": state}]))
        })
        .on("POST", "/v2/repository/models/m/load", move |_| {
            if !explicit {
                return refused();
            }
            *load.lock().unwrap() = true;
            text("")
        })
        .on("POST", "/v2/repository/models/m/unload", move |_| {
            if !explicit {
                return refused();
            }
            *unload.lock().unwrap() = false;
            text("")
        })
}

/// GEN-HUN, or GEN-SUB with the more fields in its configuration (workers.md 1.4 and 1.5).
pub fn self_coordinating(submits: bool) -> Fake {
    let mut configuration = json!({
        "device": "cuda", "validation_server_url": "http://user:hunter2@127.0.0.1:10006/x",
    });
    if submits {
        configuration["auto_validate_generations"] = json!(true);
    }
    Fake::default()
        .says("/health/", json!({"status": "healthy", "timestamp": 1_763_600_000.5}))
        .says("/config/", configuration)
        .on("POST", "/clear_cache/", |_| {
            ok(&json!({"status": "cache_cleared", "available_memory_gb": 21.474_836_48}))
        })
        .on("GET", "/status/", |_| panic!("it empties caches"))
        .takes("/generate/")
}
