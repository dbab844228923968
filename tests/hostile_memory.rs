//! Workers whose memory verbs and figures are nonsense, and workers that are not where they should be.

#[path = "support/fake_workers.rs"]
mod fake_workers;

use std::time::Duration;

use fake_workers::{Fake, Faults, GIB, card, error, ok, sockets, text, with_header};
use http::header::LOCATION;
use serde_json::{Value, json};
use sn17_miner::clock::Clock;
use sn17_miner::gpu::probe::{ByDialect, ProbeError, VramProbe};
use sn17_miner::primitives::{MiB, UnixTime};
use sn17_miner::workers::{Claim, MemoryControl, MemorySettings, MemoryTimeouts, VerbError, WorkerMemory};

fn control(fake: &Fake, dialect: &str) -> MemoryControl {
    let settings = MemorySettings {
        name: "judge".into(),
        endpoint: "http://127.0.0.1:10006".parse().unwrap(),
        dialect: dialect.parse().unwrap(),
        timeouts: MemoryTimeouts::default(),
    };
    MemoryControl::new(settings, fake.in_process(), Clock::starting_at(UnixTime::from_secs(1)))
}

async fn status(
    path: &'static str,
    dialect: &str,
    body: impl Into<String>,
) -> Result<WorkerMemory, VerbError> {
    let body = body.into();
    control(&Fake::default().on("GET", path, move |_| text(body.clone())), dialect).status().await
}

/// What is said of figures that cannot be.
async fn implausible(path: &'static str, dialect: &str, body: &str) -> String {
    match status(path, dialect, body).await {
        Err(VerbError::Implausible(implausible)) => {
            let text = implausible.to_string();
            assert!(text.len() < 1_300 && !text.contains(char::is_control), "{text}");
            text
        }
        other => panic!("{body}: {other:?}"),
    }
}

fn gpu_status(total: &str, free: &str, used: &str) -> String {
    format!(
        r#"{{"gpu_available":true,"memory_total_gb":{total},"memory_free_gb":{free},"memory_used_gb":{used}}}"#
    )
}

#[tokio::test(start_paused = true)]
async fn negative_or_absurd_memory_figures() {
    for (total, free, used, why) in [
        ("24", "-1", "25", "negative"),
        ("-24", "1", "1", "negative"),
        ("1025", "1", "1024", "more than 1 TiB"),
        ("24", "25", "0", "more than the total"),
        ("24", "0", "30", "more than the total"),
        ("0", "0", "0", "less than any card has"),
        ("24", "NaN", "0", "not a finite number"),
        ("24", "-Infinity", "0", "not a finite number"),
        ("1e999", "1", "0", "not a finite number"),
        ("1e308", "1", "0", "more than 1 TiB"),
        ("18446744073709551615", "1", "0", "more than 1 TiB"),
        ("\"24 \\u001b[2J\\u202e\"", "1", "0", "not a number"),
        ("[24]", "1", "0", "not a number"),
    ] {
        let said = implausible("/gpu_status/", "three-gen", &gpu_status(total, free, used)).await;
        assert!(said.contains(why), "{total} {free} {used}: {said}");
    }
    let long = format!(r#"{{"gpu_available":true,"memory_total_gb":"{}"}}"#, "\u{202e}".repeat(100_000));
    implausible("/gpu_status/", "three-gen", &long).await;
    let ps = r#"{"models":[{"name":"m","size_vram":-1}]}"#;
    assert!(implausible("/api/ps", "ollama", ps).await.contains("negative"));
    let many = json!({"models": vec![json!({"name": "m", "size_vram": 900 * GIB}); 3]}).to_string();
    assert!(implausible("/api/ps", "ollama", &many).await.contains("1 TiB"));
    let health = r#"{"status":"healthy","gpu_memory_allocated":"-6.12GB"}"#;
    assert!(implausible("/health", "none", health).await.contains("negative"));
}

#[tokio::test(start_paused = true)]
async fn units_mixed() {
    // The free memory in 10^9 bytes among figures in 2^30.
    let said = implausible("/gpu_status/", "three-gen", &gpu_status("24", "21.0", "4.4")).await;
    assert!(said.contains("as when units are mixed"), "{said}");
    let memory = r#"{"total_vram":48,"allocated_vram":15.2,"available_vram":35.2}"#;
    assert!(implausible("/memory/status", "memory", memory).await.contains("units are mixed"));
    // MiB where GiB belong, GiB where bytes belong, a size without its unit.
    assert!(implausible("/gpu_status/", "three-gen", &gpu_status("24576", "1", "1")).await.contains("1 TiB"));
    let comfy = r#"{"devices":[{"type":"cuda","vram_total":24,"vram_free":20}]}"#;
    assert!(implausible("/system_stats", "comfy", comfy).await.contains("less than any card"));
    let bare = r#"{"status":"healthy","gpu_memory_allocated":"6.12"}"#;
    assert!(implausible("/health", "none", bare).await.contains("without its unit"));
    // All in 10^9: consistent, and 7 % more than the card has.
    let fake = Fake::default().on("GET", "/gpu_status/", |_| text(gpu_status("25.77", "21.48", "4.29")));
    let probe = ByDialect::new(vec![control(&fake, "three-gen")], Some(MiB(24_576)));
    let error = probe.read().await.unwrap_err();
    assert!(matches!(&error, ProbeError::Implausible(why) if why.contains("another unit")), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_verb_with_nonsense_in_its_answer_is_done_all_the_same() {
    let unloaded = |figures: Value| {
        Fake::default().on("POST", "/unload_models/", move |_| {
            let mut answer = json!({"status": "success", "models_unloaded": true});
            answer.as_object_mut().unwrap().extend(figures.as_object().unwrap().clone());
            ok(&answer)
        })
    };
    let negative = unloaded(json!({"total_memory_gb": 24, "free_memory_gb": -3, "memory_freed_gb": -2.5}));
    let reply = control(&negative, "three-gen").unload().await.unwrap();
    assert_eq!((reply.claim, reply.memory), (Claim::Done, None));
    assert!(reply.implausible.unwrap().to_string().contains("negative"));
    // This one may be negative, and is not used.
    let freed = unloaded(json!({"memory_freed_gb": -2.5}));
    assert_eq!(control(&freed, "three-gen").unload().await.unwrap().implausible, None);
    let nan = Fake::default().on("POST", "/reload_models/", |_| text(r#"{"models_reloaded":true,"x":NaN}"#));
    let reply = control(&nan, "three-gen").load().await.unwrap();
    assert!(reply.claim == Claim::Accepted && reply.implausible.is_some());
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_no_answers() {
    for body in ["", "<html>\u{1b}[2J</html>", "[]", "null", "\"ok\"", "{}", r#"{"gpu_available":"yes"}"#] {
        let error = status("/gpu_status/", "three-gen", body).await.unwrap_err();
        assert!(matches!(error, VerbError::Unreadable { .. }), "{body}: {error}");
        assert!(!error.to_string().contains(char::is_control), "{error}");
    }
    let deep = "[".repeat(1 << 19);
    assert!(matches!(status("/api/ps", "ollama", deep).await, Err(VerbError::Unreadable { .. })));
    let broken = Fake::default().on("POST", "/unload_models/", |_| error(500));
    let error = control(&broken, "three-gen").unload().await.unwrap_err();
    assert_eq!(error.to_string(), "the worker answered 500 Internal Server Error: Internal Server Error");
    assert!(error.may_have_happened());
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_end() {
    let error = status("/gpu_status/", "three-gen", " ".repeat(2 << 20)).await.unwrap_err();
    assert!(error.to_string().contains("larger than 1MiB"), "{error}");
    let hangs = Fake::default().during("POST", "/unload_models/", |_| Box::pin(std::future::pending()));
    let begun = tokio::time::Instant::now();
    let error = control(&hangs, "three-gen").unload().await.unwrap_err();
    assert!(error.is_busy() && error.may_have_happened());
    assert!(begun.elapsed() < Duration::from_secs(31), "{:?}", begun.elapsed());
    // Both calls of a verb are within its one time.
    let slow = Fake::default()
        .during("POST", "/wake_up", |_| {
            Box::pin(async {
                tokio::time::sleep(Duration::from_secs(50)).await;
                text("")
            })
        })
        .during("POST", "/collective_rpc", |_| Box::pin(std::future::pending()));
    let begun = tokio::time::Instant::now();
    let reply = control(&slow, "vllm:2").load().await.unwrap();
    assert!(matches!(reply.claim, Claim::Failed(_)), "{reply:?}");
    assert!(begun.elapsed() < Duration::from_secs(61), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_worker_url_that_redirects() {
    let elsewhere = Fake::default().says("/gpu_status/", json!({"gpu_available": true}));
    let other = elsewhere.serve().await;
    let to = format!("http://{}/gpu_status/", other.address);
    let moved = Fake::default().on("GET", "/gpu_status/", move |_| with_header(308, LOCATION, &to));
    let server = moved.serve().await;
    let settings = MemorySettings {
        name: "judge".into(),
        endpoint: server.endpoint(),
        dialect: "three-gen".parse().unwrap(),
        timeouts: MemoryTimeouts::default(),
    };
    let judge = MemoryControl::new(settings, sockets(), Clock::system());
    let error = judge.status().await.unwrap_err();
    assert!(matches!(error, VerbError::Redirected { path: "/gpu_status/", .. }), "{error}");
    assert!(error.is_foreign() && !error.may_have_happened());
    assert_eq!(elsewhere.seen(), [""; 0], "nobody is asked in its place");
    // A slash too few: the framework would have the verb sent again.
    let slashless = Fake::default().takes("/unload_models").says("/gpu_status", json!({}));
    let error = control(&slashless, "three-gen").unload().await.unwrap_err();
    assert!(matches!(error, VerbError::Redirected { .. }), "{error}");
    assert_eq!(slashless.seen(), ["POST /unload_models/"]);
}

#[tokio::test(start_paused = true)]
async fn another_dialect_on_the_port() {
    let card = card(24 * GIB);
    let validation = fake_workers::validation(&card, Faults::default());
    for dialect in ["memory", "vllm", "comfy", "ollama:m", "llama-swap", "triton:m"] {
        let error = control(&validation, dialect).status().await.unwrap_err();
        assert!(error.is_foreign(), "{dialect}: {error}");
        let error = control(&validation, dialect).unload().await.unwrap_err();
        assert!(error.is_foreign() && !error.may_have_happened(), "{dialect}: {error}");
    }
    // Memories of another kind, under the same name.
    let notes = r#"{"ok":true,"cached":[{"key":"x","updated_at":"now"}]}"#;
    assert!(status("/memory/status", "memory", notes).await.unwrap_err().is_foreign());
}

#[tokio::test(start_paused = true)]
async fn a_silent_fallback_to_the_cpu() {
    let health = r#"{"gpu_enabled":false,"model_loaded":true,"status":"healthy"}"#;
    assert_eq!(status("/health", "none", health).await.unwrap().gpu_enabled, Some(false));
    let verbs = r#"{"gpu_available":false}"#;
    let seen = status("/gpu_status/", "three-gen", verbs).await.unwrap();
    assert_eq!(seen, WorkerMemory { gpu_enabled: Some(false), ..WorkerMemory::default() });
    let fake = Fake::default().on("GET", "/gpu_status/", move |_| text(verbs));
    let probe = ByDialect::new(vec![control(&fake, "three-gen")], Some(MiB(24_576)));
    assert!(matches!(probe.read().await, Err(ProbeError::NoFigures(_))));
}
