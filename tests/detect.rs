//! What answers at an address is told from its answers, and nothing is asked that could do harm.

#[path = "support/fake_workers.rs"]
mod fake_workers;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fake_workers::{Fake, Faults, GIB, card, error, reply, sockets, text};
use serde_json::json;
use sn17_miner::clock::Clock;
use sn17_miner::devnet::generator::{DevGenerator, DevGeneratorSettings};
use sn17_miner::devnet::scorer::{DevScorer, DevScorerSettings};
use sn17_miner::net::{Endpoint, Transport};
use sn17_miner::primitives::UnixTime;
use sn17_miner::workers::{
    Detected, Detection, Dialect, Origin, Server, WorkerRole, detect, find_mistakes, places,
};
use sn17_miner::workers::{Expected, Placed};

fn clock() -> Clock {
    Clock::starting_at(UnixTime::from_secs(1_763_600_000))
}

fn anywhere() -> Endpoint {
    "http://127.0.0.1:8094".parse().unwrap()
}

async fn detected(fake: &Fake) -> Detected {
    let detection = detect(&anywhere(), &fake.in_process(), &clock()).await;
    for line in fake.seen() {
        let harmless = line.starts_with("GET ") || line.starts_with("OPTIONS ");
        let harmful = ["/status/", "/debug", "/job", "/unload", "/reload", "/clear"];
        let harmful = harmful.iter().any(|path| line.split(' ').nth(1).unwrap().starts_with(path));
        assert!(harmless && !harmful, "{line}");
    }
    match detection {
        Detection::Answers(detected) => *detected,
        other => panic!("{other:?}"),
    }
}

fn verbs(detected: &Detected) -> String {
    detected.memory.as_ref().map_or_else(String::new, ToString::to_string)
}

#[tokio::test(start_paused = true)]
async fn validation_services() {
    let official = detected(&fake_workers::official_validation()).await;
    assert_eq!((official.server, official.scorer, official.generator), (Server::Validation, true, None));
    assert_eq!((official.version.as_deref(), verbs(&official).as_str()), (Some("2.4.0"), ""));
    let card = card(24 * GIB);
    let handoff = detected(&fake_workers::validation(&card, Faults::default())).await;
    assert_eq!((handoff.server, handoff.scorer), (Server::HandoffValidation, true));
    assert_eq!((verbs(&handoff).as_str(), handoff.health.gpu_enabled), ("three-gen", Some(true)));
}

#[tokio::test(start_paused = true)]
async fn generators() {
    let official = detected(&Fake::default().takes("/generate/").takes("/generate_video/")).await;
    assert_eq!((official.server, official.generator), (Server::FormGenerator, Some(Dialect::Form)));
    let base = Fake::default()
        .says("/version", json!("0.0.0"))
        .says("/health", json!({"status": "healthy"}))
        .takes("/generate");
    let base = detected(&base).await;
    assert_eq!((base.server, base.generator), (Server::BaseMiner, Some(Dialect::Image)));
    assert_eq!((base.version.as_deref(), verbs(&base).as_str()), (Some("0.0.0"), "process"));

    let hunyuan = detected(&fake_workers::self_coordinating(false)).await;
    assert_eq!((hunyuan.server, hunyuan.generator), (Server::Hunyuan, Some(Dialect::Form)));
    assert_eq!(verbs(&hunyuan), "clear-cache");
    // It unloads the validation service itself, at an address that may hold a password.
    assert_eq!(hunyuan.drives.as_deref(), Some("http://127.0.0.1:10006"));
    let submit = detected(&fake_workers::self_coordinating(true)).await;
    assert_eq!((submit.server, verbs(&submit).as_str()), (Server::TrellisSubmit, "clear-cache:free"));

    let parts = json!({"flux": true, "trellis_service": "http://localhost:10008", "clip_validator": true});
    let competitive = Fake::default()
        .says("/health", json!({"status": "healthy", "models_loaded": parts, "config": {}}))
        .says("/stats", json!({}))
        .takes("/generate/");
    let competitive = detected(&competitive).await;
    assert_eq!(competitive.server, Server::Competitive);
    assert_eq!(competitive.generator, Some(Dialect::FormImage));

    let links = json!({"status": "healthy", "gpu_available": false, "gpu_memory_allocated": "N/A"});
    let links = detected(&Fake::default().says("/health", links).takes("/generate")).await;
    assert_eq!((links.server, links.generator), (Server::TrellisLinks, None));
    assert!(!links.health.is_available(), "it fell back to the CPU");
    let service = json!({"status": "loading", "pipeline_loaded": false, "service": "x", "version": "1"});
    let service = detected(&Fake::default().says("/health", service).takes("/generate")).await;
    assert_eq!((service.server, service.health.status.as_deref()), (Server::TrellisService, Some("loading")));
}

#[tokio::test(start_paused = true)]
async fn other_workers() {
    let chat = json!({
        "total_vram": 48.0, "allocated_vram": 15.0, "available_vram": 33.0, "model_loaded": true,
        "instruct_loaded": true, "base_loaded": false,
    });
    let chat = detected(&fake_workers::memory_worker(chat).takes("/generate").takes("/enhance")).await;
    assert_eq!((chat.server, verbs(&chat).as_str()), (Server::MemoryWorker, "memory"));
    let without =
        Fake::default().on("GET", "/memory/status", |_| reply(500, &json!({"error": "CUDA not available"})));
    let without = detected(&without).await;
    assert_eq!((without.server, without.health.is_available()), (Server::MemoryWorker, false));

    let caption = json!({"gpu_enabled": false, "model_loaded": true, "status": "healthy"});
    let caption = detected(&Fake::default().says("/health", caption)).await;
    assert_eq!((caption.server, caption.health.is_available()), (Server::HealthService, false));
    assert_eq!(caption.health.model_loaded, Some(true));

    let awake = Arc::new(Mutex::new(false));
    let vllm = detected(&fake_workers::vllm(&awake, true)).await;
    assert_eq!((vllm.server, vllm.version.as_deref()), (Server::Vllm, Some("0.11.0")));
    assert_eq!(verbs(&vllm), "vllm:1");
    let plain =
        Fake::default().says("/version", json!({"version": "0.11.0"})).on("GET", "/health", |_| text(""));
    let plain = detected(&plain).await;
    assert_eq!((plain.server, verbs(&plain).as_str()), (Server::Vllm, "process"));
    let comfy = detected(&fake_workers::comfy(&card(24 * GIB))).await;
    assert_eq!((comfy.server, verbs(&comfy).as_str()), (Server::Comfy, "comfy"));
    let ollama = detected(&fake_workers::ollama(&Arc::new(Mutex::new(BTreeMap::new())))).await;
    assert_eq!((ollama.server, verbs(&ollama).as_str()), (Server::Ollama, "ollama"));
    let swap = detected(&fake_workers::llama_swap(&Arc::new(Mutex::new(BTreeMap::new())))).await;
    assert_eq!((swap.server, verbs(&swap).as_str()), (Server::LlamaSwap, "llama-swap"));
    let triton = detected(&fake_workers::triton(true)).await;
    assert_eq!((triton.server, verbs(&triton).as_str()), (Server::Triton, ""));
}

#[tokio::test(start_paused = true)]
async fn the_embedded_workers() {
    let router = |router: axum::Router| {
        Transport::InProcess(Arc::new(move |request| {
            use http_body_util::BodyExt;
            use tower::ServiceExt;
            let router = router.clone();
            Box::pin(async move {
                let reply = router.oneshot(request.map(axum::body::Body::from)).await.unwrap();
                Ok(reply.map(|body| body.map_err(Into::into).boxed_unsync()))
            })
        }))
    };
    let generator = DevGenerator::new(DevGeneratorSettings::default(), clock()).router();
    let found = detect(&anywhere(), &router(generator), &clock()).await;
    let found = found.detected().unwrap();
    assert_eq!((found.server, found.generator), (Server::FormGenerator, Some(Dialect::FormImage)));
    let scorer = DevScorer::new(DevScorerSettings::default(), clock()).router();
    let found = detect(&anywhere(), &router(scorer), &clock()).await;
    assert_eq!(found.to_string(), "the official validation service 2.4.0");
}

#[tokio::test(start_paused = true)]
async fn a_busy_worker_is_neither_dead_nor_somebody_else() {
    let hangs = Fake::default().during("GET", "/version/", |_| Box::pin(std::future::pending()));
    let begun = tokio::time::Instant::now();
    let detection = detect(&anywhere(), &hangs.in_process(), &clock()).await;
    assert_eq!(detection, Detection::Busy);
    assert!(begun.elapsed() < Duration::from_secs(3) && hangs.seen().len() == 1, "it is left in peace");

    // A little slower with every question: six seconds are enough for anybody.
    let slow = |fake: Fake, path| {
        fake.during("GET", path, |_| {
            Box::pin(async {
                tokio::time::sleep(Duration::from_millis(1_900)).await;
                error(404)
            })
        })
    };
    let paths = ["/version/", "/version", "/health", "/health/", "/gpu_status/"];
    let slow = paths.into_iter().fold(Fake::default(), slow);
    let begun = tokio::time::Instant::now();
    assert_eq!(detect(&anywhere(), &slow.in_process(), &clock()).await, Detection::Busy);
    assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn nobody_and_somebody_else() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = Endpoint::of(listener.local_addr().unwrap());
    drop(listener);
    let nobody = detect(&endpoint, &sockets(), &Clock::system()).await;
    assert!(matches!(nobody, Detection::Refused(_)), "{nobody}");

    let what = async |fake: &Fake| {
        let detection = detect(&anywhere(), &fake.in_process(), &clock()).await;
        assert!(matches!(detection, Detection::SomethingElse(_)), "{detection:?}");
        detection.to_string()
    };
    assert_eq!(what(&Fake::default()).await, "an HTTP server with none of the routes we know");
    let page = Fake::default().on("GET", "/health", |_| text("<!DOCTYPE html>\u{1b}[2J"));
    assert_eq!(what(&page).await, "a server of web pages");
    let stranger = Fake::default().says("/health", json!({"status": "\u{1b}[2Jfine"}));
    assert_eq!(
        what(&stranger).await,
        "a server that calls itself \\u{1b}[2Jfine and has none of the routes we know"
    );
    let notes = Fake::default().says("/memory/status", json!({"ok": true, "cached": []}));
    assert!(what(&notes).await.starts_with("an HTTP server"));
    let huge = Fake::default().on("GET", "/version/", |_| text("x".repeat(1 << 20)));
    assert!(what(&huge).await.starts_with("an HTTP server"));
}

#[tokio::test]
async fn a_worker_is_found_where_the_environment_says() {
    let server = fake_workers::official_validation().serve().await;
    let port = server.address.port().to_string();
    let environment = |name: &str| (name == "VALIDATION_PORT").then(|| port.clone());
    let mut places = places(WorkerRole::Scorer, None, environment, None);
    // The usual ports may be somebody's on the machine of the test.
    places.usable.retain(|place| place.origin != Origin::WellKnown);
    let found = places.search(&sockets(), &Clock::system()).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].place.origin.to_string(), "from VALIDATION_PORT");
    assert_eq!(found[0].detection.detected().unwrap().server, Server::Validation);

    // Said to be a generator, it is told what it is.
    let placed = Placed {
        name: "main".into(),
        endpoint: server.endpoint(),
        expected: Expected::role(WorkerRole::Generator),
        detection: Some(found[0].detection.clone()),
    };
    let mistakes = find_mistakes(&[placed]);
    let said = mistakes[0].to_string();
    assert!(said.ends_with("answers as the official validation service 2.4.0, not as a generator"), "{said}");
}

#[tokio::test]
async fn a_port_that_speaks_no_http() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::of(listener.local_addr().unwrap());
    let greet = async {
        use tokio::io::AsyncWriteExt;
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(b"SSH-2.0-OpenSSH_9.6\r\n").await.unwrap();
        socket
    };
    let (transport, clock) = (sockets(), Clock::system());
    let (detection, _socket) = tokio::join!(detect(&endpoint, &transport, &clock), greet);
    assert!(detection.to_string().starts_with("something that does not speak HTTP"), "{detection}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_redirects_everything() {
    let transport = Transport::InProcess(Arc::new(|_| {
        use http_body_util::BodyExt;
        Box::pin(async {
            let body = http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
            Ok(http::Response::builder().status(308).header("location", "https://x/").body(body).unwrap())
        })
    }));
    let detection = detect(&anywhere(), &transport, &clock()).await;
    assert!(detection.to_string().contains("redirects everything (308 Permanent Redirect)"), "{detection}");
}

#[tokio::test(start_paused = true)]
async fn questions_are_asked_in_their_order() {
    let fake = Fake::default();
    let _nothing: Detection = detect(&anywhere(), &fake.in_process(), &clock()).await;
    let asked = fake.seen();
    let order = [
        "/version/",
        "/version",
        "/health",
        "/health/",
        "/gpu_status/",
        "/memory/status",
        "/is_sleeping",
        "/running",
        "/api/ps",
    ];
    assert_eq!(asked[..9], order.map(|path| format!("GET {path}")));
}
