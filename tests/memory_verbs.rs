//! The memory verbs of every dialect, against servers that behave and lie as workers.md says.

#[path = "support/fake_workers.rs"]
mod fake_workers;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fake_workers::{Fake, Faults, GIB, card, ok, reply, sockets, text};
use serde_json::json;
use sn17_miner::clock::Clock;
use sn17_miner::gpu::probe::{Basis, ByDialect, ProbeError, VramProbe};
use sn17_miner::net::Endpoint;
use sn17_miner::primitives::{MiB, UnixTime};
use sn17_miner::workers::{
    Claim, Means, MemoryControl, MemorySettings, MemoryTimeouts, Verb, VerbError, WorkerMemory,
};

fn clock() -> Clock {
    Clock::starting_at(UnixTime::from_secs(1_763_600_000))
}

fn settings(endpoint: Endpoint, dialect: &str) -> MemorySettings {
    MemorySettings {
        name: "judge".into(),
        endpoint,
        dialect: dialect.parse().unwrap(),
        timeouts: MemoryTimeouts::default(),
    }
}

/// Without sockets.
fn control(fake: &Fake, dialect: &str) -> MemoryControl {
    let endpoint = "http://127.0.0.1:10006".parse().unwrap();
    MemoryControl::new(settings(endpoint, dialect), fake.in_process(), clock())
}

const NOTHING: WorkerMemory =
    WorkerMemory { device_total: None, device_free: None, own: None, models_loaded: None, gpu_enabled: None };

#[tokio::test]
async fn three_gen_over_a_socket() {
    let card = card(24 * GIB);
    card.lock().unwrap().hold("main", 10 * GIB);
    let server = fake_workers::validation(&card, Faults::default()).serve().await;
    let judge = MemoryControl::new(settings(server.endpoint(), "three-gen"), sockets(), Clock::system());
    let free = 24_576 - 10_240 - 300;
    let seen = |free| WorkerMemory {
        device_total: Some(MiB(24_576)),
        device_free: Some(MiB(free)),
        gpu_enabled: Some(true),
        ..NOTHING
    };
    assert_eq!(judge.status().await.unwrap(), seen(free - 4_700));

    let unloaded = judge.unload().await.unwrap();
    assert_eq!((&unloaded.claim, unloaded.note), (&Claim::Done, None));
    // The answer to this verb does not say that there is a card.
    assert_eq!(unloaded.memory, Some(WorkerMemory { gpu_enabled: None, ..seen(free) }));
    assert_eq!(judge.unload().await.unwrap().claim, Claim::Done, "it is safe to repeat");
    assert_eq!(judge.status().await.unwrap(), seen(free));
    assert_eq!(judge.cleanup().await.unwrap().memory, Some(seen(free)));

    let loaded = judge.load().await.unwrap();
    assert_eq!((loaded.claim, loaded.note), (Claim::Done, Some("restored from its backup")));
    assert_eq!(loaded.memory, Some(seen(free - 4_700)));
    // Repeated, it builds a second engine beside the first.
    assert!(!judge.is_idempotent(Verb::Load) && judge.is_idempotent(Verb::Unload));
    let peak = card.lock().unwrap().peak;
    let again = judge.load().await.unwrap();
    assert_eq!(again.note, Some("built anew without having been unloaded"));
    assert_eq!(card.lock().unwrap().peak - peak, 4_700 << 20);
}

#[tokio::test(start_paused = true)]
async fn three_gen_that_fails_says_so_with_a_200() {
    let card = card(24 * GIB);
    let fake = fake_workers::validation(&card, Faults { fails: true, ..Faults::default() });
    let judge = control(&fake, "three-gen");
    let failed = Claim::Failed("CUDA error\\u{1b}[2J".into());
    assert_eq!(judge.unload().await.unwrap().claim, failed);
    assert_eq!(judge.load().await.unwrap().claim, failed);
    let fake = Fake::default().on("POST", "/unload_models/", |_| ok(&json!({"models_unloaded": false})));
    let claim = control(&fake, "three-gen").unload().await.unwrap().claim;
    assert_eq!(claim, Claim::Failed("models_unloaded is false".into()));
}

#[tokio::test(start_paused = true)]
async fn memory_that_comes_back_after_the_answer() {
    let card = card(24 * GIB);
    let late = Faults { late: Duration::from_millis(700), ..Faults::default() };
    let judge = control(&fake_workers::validation(&card, late), "three-gen");
    let before = judge.status().await.unwrap().device_free.unwrap();
    assert_eq!(judge.unload().await.unwrap().claim, Claim::Done);
    assert_eq!(judge.status().await.unwrap().device_free, Some(before), "claimed, and not so yet");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(judge.status().await.unwrap().device_free, Some(MiB(before.0 + 4_700)));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_deaf_while_it_reloads() {
    let card = card(24 * GIB);
    let slow = Faults { reload: Duration::from_secs(40), ..Faults::default() };
    let fake = fake_workers::validation(&card, slow).deaf_while_busy();
    let judge = control(&fake, "three-gen");
    judge.unload().await.unwrap();
    let looking = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let error = judge.status().await.unwrap_err();
        assert!(matches!(error, VerbError::Silent(after) if after == Duration::from_secs(5)), "{error}");
        assert!(error.is_busy() && error.may_have_happened() && judge.is_deaf_while_busy());
    };
    let (loaded, ()) = tokio::join!(judge.load(), looking);
    let loaded = loaded.unwrap();
    assert!(loaded.took >= Duration::from_secs(40) && loaded.claim == Claim::Done);
    assert!(judge.status().await.is_ok());

    // Given up on, it goes on all the same.
    let card = self::card(24 * GIB);
    let slower = Faults { reload: Duration::from_secs(70), ..Faults::default() };
    let judge = control(&fake_workers::validation(&card, slower).deaf_while_busy(), "three-gen");
    judge.unload().await.unwrap();
    assert!(judge.load().await.unwrap_err().is_busy());
}

#[tokio::test(start_paused = true)]
async fn the_official_validation_service_has_no_verbs() {
    let fake = fake_workers::official_validation();
    let judge = control(&fake, "three-gen");
    for error in [judge.unload().await.unwrap_err(), judge.status().await.unwrap_err()] {
        assert!(error.is_foreign() && !error.may_have_happened());
        assert!(
            error.to_string().ends_with("the official validation service has no hand-off verbs"),
            "{error}"
        );
    }
    let judge = control(&fake, "process");
    let error = judge.unload().await.unwrap_err();
    assert!(matches!(error, VerbError::Unsupported { instead: Means::Process, .. }), "{error}");
    assert_eq!(judge.status().await.unwrap(), NOTHING, "no health route is no failure");
    let error = control(&fake, "none").cleanup().await.unwrap_err();
    assert!(matches!(error, VerbError::Unsupported { instead: Means::Nothing, .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_cache_verb_counts_in_gb() {
    let hunyuan = control(&fake_workers::self_coordinating(false), "clear-cache");
    let cleaned = hunyuan.cleanup().await.unwrap();
    // What it calls available leaves out its own alone.
    assert_eq!((cleaned.claim, cleaned.memory), (Claim::Done, None));
    assert!(matches!(hunyuan.unload().await, Err(VerbError::Unsupported { .. })));
    assert_eq!(hunyuan.status().await.unwrap(), NOTHING);
    let submit = control(&fake_workers::self_coordinating(true), "clear-cache:free");
    let free = submit.cleanup().await.unwrap().memory.unwrap().device_free;
    assert_eq!(free, Some(MiB(20_480)), "21.47 GB are 20 GiB");
}

#[tokio::test(start_paused = true)]
async fn the_memory_routes_of_three_workers() {
    let status = async |json: serde_json::Value, dialect| {
        control(&fake_workers::memory_worker(json), dialect).status().await.unwrap()
    };
    let image = json!({
        "total_vram": 48.0, "allocated_vram": 10.0, "available_vram": 38.0, "model_loaded": true,
        "pipeline_loaded": true, "i2i_pipeline_loaded": false, "memory_fraction": 0.21, "worker_type": "sdxl",
    });
    let seen = WorkerMemory {
        device_total: Some(MiB(49_152)),
        // What it calls available leaves out all other processes.
        device_free: None,
        own: Some(MiB(10_240)),
        models_loaded: Some(true),
        gpu_enabled: Some(true),
    };
    assert_eq!(status(image, "memory").await, seen);
    let video = |qwen: serde_json::Value| {
        json!({
            "total_vram": 48, "allocated_vram": 30, "available_vram": 18, "qwen_model_loaded": qwen,
            "wan_model_loaded": null, "memory_fraction": 0.63, "worker_type": "wan",
        })
    };
    assert_eq!(status(video(json!(true)), "memory").await.models_loaded, Some(true));
    assert_eq!(status(video(json!(false)), "memory").await.models_loaded, None, "null is not known");
    assert_eq!(status(video(json!(false)), "memory:qwen").await.models_loaded, Some(false));
    assert_eq!(status(video(json!(true)), "memory:wan").await.models_loaded, None);
    let chat = |own: f64, device: &str| {
        json!({
            "total_vram": 48, "allocated_vram": own, "available_vram": 48.0 - own, "model_loaded": true,
            "instruct_loaded": true, "base_loaded": false, "instruct_device": device,
        })
    };
    assert_eq!(status(chat(15.2, "cuda:0"), "memory:instruct").await.gpu_enabled, Some(true));
    assert_eq!(status(chat(15.2, "cpu"), "memory").await.gpu_enabled, Some(false), "it fell back");
    assert_eq!(status(chat(15.2, "cpu"), "memory:base").await.gpu_enabled, Some(true));
    assert_eq!(status(chat(0.0, ""), "memory").await.gpu_enabled, Some(false), "loaded, and not there");

    let fake = fake_workers::memory_worker(json!({}));
    let worker = |dialect| control(&fake, dialect);
    assert!(worker("memory").status().await.unwrap_err().is_foreign());
    assert_eq!(worker("memory").unload().await.unwrap().claim, Claim::Done);
    assert_eq!(worker("memory:qwen").unload().await.unwrap().claim, Claim::Done);
    let failed = worker("memory:qwen").load().await.unwrap().claim;
    assert_eq!(failed, Claim::Failed("load attempted".into()), "with a 200");
    let error = worker("memory:wan").unload().await.unwrap_err().to_string();
    assert_eq!(error, "the worker answered 500 Internal Server Error: Unload failed: \\u{1b}[2J");
    assert!(matches!(worker("memory:nobody").unload().await, Err(VerbError::Refused { .. })));
    assert!(!worker("memory").is_idempotent(Verb::Load), "a second copy beside the first");
    let verbs: Vec<_> = fake.seen().into_iter().filter(|line| line.starts_with("POST")).collect();
    assert_eq!(
        verbs[..3],
        ["POST /memory/unload", "POST /memory/unload?which=qwen", "POST /memory/load?which=qwen"]
    );
    let without =
        Fake::default().on("GET", "/memory/status", |_| reply(500, &json!({"error": "CUDA not available"})));
    let seen = control(&without, "memory").status().await.unwrap();
    assert_eq!(seen, WorkerMemory { gpu_enabled: Some(false), ..NOTHING });
}

#[tokio::test(start_paused = true)]
async fn vllm_sleeps_and_wakes() {
    let sleeping = Arc::new(Mutex::new(false));
    let fake = fake_workers::vllm(&sleeping, true);
    let engine = control(&fake, "vllm:2");
    assert_eq!(engine.status().await.unwrap().models_loaded, Some(true));
    // It may answer before it sleeps.
    assert_eq!(engine.unload().await.unwrap().claim, Claim::Accepted);
    assert_eq!(engine.status().await.unwrap().models_loaded, Some(false));
    assert_eq!(engine.load().await.unwrap().claim, Claim::Accepted);
    assert!(control(&fake, "vllm:1:weights,kv_cache").unload().await.is_ok());
    assert!(control(&fake, "vllm:1:weights").load().await.is_ok());
    let verbs: Vec<_> = fake.seen().into_iter().filter(|line| line.starts_with("POST")).collect();
    assert_eq!(
        verbs,
        [
            "POST /sleep?level=2",
            "POST /wake_up",
            "POST /collective_rpc {\"method\":\"reload_weights\"}",
            "POST /reset_prefix_cache",
            "POST /sleep?level=1&tags=weights&tags=kv_cache",
            "POST /wake_up?tags=weights",
        ]
    );
    // Awake without weights it answers nonsense: that is no success.
    let broken = control(&fake_workers::vllm(&sleeping, false), "vllm:2").load().await.unwrap();
    let Claim::Failed(why) = broken.claim else { panic!("{broken:?}") };
    assert!(why.starts_with("awake without its weights: the worker answered 500"), "{why}");
    let plain = Fake::default().says("/version", json!({"version": "0.11.0"}));
    let error = control(&plain, "vllm").unload().await.unwrap_err().to_string();
    assert!(error.contains("VLLM_SERVER_DEV_MODE=1"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn comfy_sets_a_flag_and_acts_later() {
    let card = card(24 * GIB);
    let engine = control(&fake_workers::comfy(&card), "comfy");
    let seen = |free, own| WorkerMemory {
        device_total: Some(MiB(24_576)),
        device_free: Some(MiB(free)),
        own: Some(MiB(own)),
        models_loaded: None,
        gpu_enabled: Some(true),
    };
    // What its allocator holds and does not use is free for nobody else.
    assert_eq!(engine.status().await.unwrap(), seen(16_384, 8_192));
    assert_eq!(engine.unload().await.unwrap().claim, Claim::Accepted);
    assert_eq!(engine.status().await.unwrap(), seen(16_384, 8_192));
    assert_eq!(engine.status().await.unwrap(), seen(24_064, 512));
    assert_eq!(engine.load().await.unwrap().claim, Claim::OnDemand);
    let devices = |devices: serde_json::Value| {
        control(&Fake::default().says("/system_stats", json!({"devices": devices})), "comfy")
    };
    let cpu = devices(json!([{"name": "cpu", "type": "cpu", "vram_total": 1}])).status().await.unwrap();
    assert_eq!(cpu, WorkerMemory { gpu_enabled: Some(false), ..NOTHING });
    let two = json!({"type": "cuda", "vram_total": 24 * GIB, "vram_free": GIB});
    let error = devices(json!([two, two])).status().await.unwrap_err();
    assert!(error.to_string().contains("2 devices"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn ollama_keeps_a_model_for_ever_or_for_no_time() {
    let loaded = Arc::new(Mutex::new(BTreeMap::new()));
    let fake = fake_workers::ollama(&loaded);
    let engine = control(&fake, "ollama:qwen2.5");
    assert_eq!(
        engine.status().await.unwrap(),
        WorkerMemory { own: Some(MiB(0)), models_loaded: Some(false), ..NOTHING }
    );
    assert_eq!(engine.load().await.unwrap().claim, Claim::Done);
    loaded.lock().unwrap().insert("gemma:2b".into(), 2 * GIB);
    let seen = engine.status().await.unwrap();
    assert_eq!((seen.own, seen.models_loaded), (Some(MiB(7 * 1_024)), Some(true)));
    assert_eq!(engine.unload().await.unwrap().claim, Claim::Done);
    assert_eq!(engine.status().await.unwrap().models_loaded, Some(false));
    // In the host's memory alone: it answers, at a crawl.
    loaded.lock().unwrap().insert("qwen2.5:latest".into(), 0);
    assert_eq!(engine.status().await.unwrap().gpu_enabled, Some(false));
    assert_eq!(control(&fake, "ollama").unload().await.unwrap().claim, Claim::Done);
    assert!(loaded.lock().unwrap().is_empty(), "all of them");
    let unknown = control(&fake, "ollama:unknown").load().await.unwrap().claim;
    assert_eq!(unknown, Claim::Failed("model 'unknown' not found".into()));
    let lies = Fake::default()
        .on("POST", "/api/generate", |_| ok(&json!({"done": true, "done_reason": "load", "response": ""})));
    assert_eq!(control(&lies, "ollama:m").unload().await.unwrap().claim, Claim::Failed("load".into()));
    let full = Fake::default().on("POST", "/api/generate", |_| reply(503, &json!({"error": "queue full"})));
    assert!(control(&full, "ollama:m").unload().await.unwrap_err().is_busy());
}

#[tokio::test(start_paused = true)]
async fn llama_swap_stops_and_starts_processes() {
    let states = Arc::new(Mutex::new(BTreeMap::from([("other".to_owned(), "ready")])));
    let fake = fake_workers::llama_swap(&states);
    let engine = control(&fake, "llama-swap:qwen/3-8b");
    assert_eq!(engine.status().await.unwrap().models_loaded, Some(false));
    assert_eq!(engine.load().await.unwrap().claim, Claim::Done);
    assert_eq!(engine.status().await.unwrap().models_loaded, Some(true));
    states.lock().unwrap().insert("qwen/3-8b".into(), "stopping");
    assert_eq!(engine.status().await.unwrap().models_loaded, None);
    assert_eq!(engine.unload().await.unwrap().claim, Claim::Done);
    assert_eq!(engine.status().await.unwrap().models_loaded, Some(false));
    assert!(control(&fake, "llama-swap:nobody").unload().await.unwrap_err().is_foreign());
    let all = control(&fake, "llama-swap");
    assert_eq!(all.status().await.unwrap().models_loaded, Some(true));
    assert_eq!(all.unload().await.unwrap().claim, Claim::Done);
    assert_eq!(all.status().await.unwrap().models_loaded, Some(false));
    assert_eq!(all.load().await.unwrap().claim, Claim::OnDemand);
}

#[tokio::test(start_paused = true)]
async fn triton_loads_models_by_name() {
    let engine = control(&fake_workers::triton(true), "triton:m");
    assert_eq!(engine.status().await.unwrap().models_loaded, Some(true));
    assert_eq!(engine.unload().await.unwrap().claim, Claim::Accepted);
    assert_eq!(engine.status().await.unwrap().models_loaded, Some(false));
    assert_eq!(engine.load().await.unwrap().claim, Claim::Accepted);
    assert_eq!(engine.status().await.unwrap().models_loaded, Some(true));
    let error = control(&fake_workers::triton(false), "triton:m").unload().await.unwrap_err().to_string();
    assert!(error.contains("400 Bad Request: explicit model load"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_health_route_says_what_it_says() {
    let status = async |json| control(&Fake::default().says("/health", json), "none").status().await;
    let caption = json!({"gpu_enabled": true, "model_loaded": true, "status": "healthy"});
    let seen = WorkerMemory { models_loaded: Some(true), gpu_enabled: Some(true), ..NOTHING };
    assert_eq!(status(caption).await.unwrap(), seen);
    let trellis = json!({"status": "healthy", "gpu_available": true, "gpu_memory_allocated": "6.12GB"});
    let seen = status(trellis).await.unwrap();
    assert_eq!((seen.own, seen.gpu_enabled), (Some(MiB(6_267)), Some(true)));
    let without = json!({"status": "healthy", "gpu_available": false, "gpu_memory_allocated": "N/A"});
    let seen = status(without).await.unwrap();
    assert_eq!((seen.own, seen.gpu_enabled), (None, Some(false)));
    let loading =
        Fake::default().on("GET", "/health", |_| reply(503, &json!({"detail": "Pipeline not ready"})));
    assert!(control(&loading, "none").status().await.unwrap_err().is_busy());
    let swap = Fake::default().on("GET", "/health", |_| text("OK"));
    assert_eq!(control(&swap, "process").status().await.unwrap(), NOTHING);
}

#[tokio::test]
async fn nobody_listens() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = Endpoint::of(listener.local_addr().unwrap());
    drop(listener);
    let judge = MemoryControl::new(settings(endpoint, "three-gen"), sockets(), Clock::system());
    let error = judge.load().await.unwrap_err();
    assert!(matches!(error, VerbError::Unreachable(_)) && !error.may_have_happened(), "{error}");
    assert!(!error.is_busy());
}

#[tokio::test(start_paused = true)]
async fn a_card_as_its_workers_see_it() {
    let card = card(24 * GIB);
    card.lock().unwrap().hold("main", 10 * GIB);
    let judge = control(&fake_workers::validation(&card, Faults::default()), "three-gen");
    let loaded = Arc::new(Mutex::new(BTreeMap::from([("m:latest".to_owned(), 5 * GIB)])));
    let enhancer = control(&fake_workers::ollama(&loaded), "ollama");
    let process = control(&Fake::default(), "process");

    // One that sees the whole device is asked about it, and nobody else.
    let both = ByDialect::new(vec![process.clone(), enhancer.clone(), judge.clone()], Some(MiB(24_576)));
    let reading = both.read().await.unwrap();
    assert_eq!((reading.total, reading.free), (MiB(24_576), MiB(24_576 - 10_240 - 5_000)));
    assert_eq!((both.basis(), reading.processes), (Basis::Worker, None));
    // Else what they hold is added up, with a context for each.
    let sum = ByDialect::new(vec![enhancer.clone()], Some(MiB(24_576)));
    assert_eq!(sum.read().await.unwrap().free, MiB(24_576 - 5 * 1_024 - 500));
    assert_eq!(sum.basis(), Basis::Sum);
    let sizeless = ByDialect::new(vec![enhancer], None);
    assert!(matches!(sizeless.read().await, Err(ProbeError::NoFigures(_))));
    assert!(ByDialect::new(vec![process], None).is_empty());
    // A worker that counts in another unit, or looks at another card.
    let other = ByDialect::new(vec![judge], Some(MiB(22_888)));
    assert!(matches!(other.read().await, Err(ProbeError::Implausible(_))));
}
