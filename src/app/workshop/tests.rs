use std::sync::Mutex;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};

use super::*;
use crate::config::{Inputs, load};
use crate::gpu::NoLog;
use crate::primitives::UnixTime;

type Calls = Arc<Mutex<Vec<String>>>;

/// The hand-off verbs at port 10006 (VAL-HO), unless nobody listens there; elsewhere a health route.
fn transport(calls: &Calls, dead: bool) -> Transport {
    let calls = Arc::clone(calls);
    Transport::InProcess(Arc::new(move |request| {
        if dead && request.uri().port_u16() == Some(10_006) {
            return Box::pin(async { Err("Connection refused (os error 111)".into()) });
        }
        let (port, path) = (request.uri().port_u16(), request.uri().path().to_owned());
        let answer = match (port, path.as_str()) {
            (Some(10_006), "/unload_models/") => Some(r#"{"status":"success","models_unloaded":true}"#),
            (Some(10_006), "/reload_models/") => Some(r#"{"status":"success","models_reloaded":true}"#),
            (Some(8_095), "/health") => Some("{}"),
            _ => None,
        };
        if request.method() == http::Method::POST {
            calls.lock().unwrap().push(path);
        }
        let status = if answer.is_some() { 200 } else { 404 };
        let body = Full::new(Bytes::from_static(answer.unwrap_or_default().as_bytes()));
        let body = body.map_err(|never| match never {}).boxed_unsync();
        Box::pin(async move { Ok(http::Response::builder().status(status).body(body).unwrap()) })
    }))
}

async fn opened(config: &str) -> (Result<Workshop, AppError>, Calls) {
    opened_with(config, false).await
}

async fn opened_with(config: &str, dead: bool) -> (Result<Workshop, AppError>, Calls) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    std::fs::write(&file, config).unwrap();
    let settings = load(&Inputs { file: Some(file), ..Inputs::default() }).unwrap().settings;
    let calls = Calls::default();
    let transport = transport(&calls, dead);
    let transports = Transports {
        pulls: transport.clone(),
        submissions: transport.clone(),
        generator: transport.clone(),
        scorer: transport,
    };
    let cards = settings.workers_as(Tenant::Generator).map(|generator| {
        let gpu = settings.gpu_of(generator).unwrap();
        CardPeers {
            card: card_id(gpu),
            generator: generator.endpoint().cloned().unwrap_or("http://127.0.0.1:1".parse().unwrap()),
            scorer: settings.scorer_for(gpu).and_then(WorkerSettings::endpoint).cloned(),
            household: None,
        }
    });
    let around = Surroundings {
        settings: &settings,
        transports: &transports,
        clock: Clock::starting_at(UnixTime::from_secs(1_000)),
        store: None,
        journal: Arc::new(NoLog),
        folder: dir.path(),
        purpose: Purpose::Mining,
    };
    (Workshop::open(cards.collect(), &around).await, calls)
}

const GENERATOR: &str = "[[workers]]\nname = \"gen\"\nrole = \"generator\"\nurl = \"http://127.0.0.1:8095\"\n\
                         resident = \"400MiB\"\npeak = \"20070MiB\"\n";
const SCORER: &str = "[[workers]]\nname = \"judge\"\nrole = \"scorer\"\nurl = \"http://127.0.0.1:10006\"\n\
                      resident = \"4813MiB\"\npeak = \"4813MiB\"\n";

#[tokio::test(start_paused = true)]
async fn without_verbs_nothing_is_in_anybodys_hands() {
    for config in ["", &format!("{GENERATOR}{SCORER}")] {
        let (workshop, calls) = opened(config).await;
        let workshop = workshop.unwrap();
        assert_eq!((workshop.benches.len(), workshop.arbiters.len()), (1, 0));
        assert!(workshop.benches[0].arbiter.lease(Tenant::Generator).await.is_ok());
        assert!(calls.lock().unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn the_scorer_leaves_for_a_generation_and_comes_back() {
    let config = format!(
        "[[gpus]]\nlimit = \"24576MiB\"\nprobe = \"ledger\"\n{GENERATOR}{SCORER}memory = \"three-gen\"\n"
    );
    let (workshop, calls) = opened(&config).await;
    let workshop = workshop.unwrap();
    let bench = &workshop.benches[0];
    let arbiter = workshop.arbiters().next().unwrap();
    arbiter.recover(Vec::new()).await.unwrap();
    // Where it was nobody knew.
    calls.lock().unwrap().clear();
    let lease = bench.arbiter.lease(bench.arbiter.request(Tenant::Generator, "gen")).await.unwrap();
    assert_eq!(lease.worker, Some("gen".into()));
    assert_eq!(*calls.lock().unwrap(), ["/unload_models/"]);
    lease.end(crate::gpu::Ending::Done);
    let lease = bench.judging.lease(Tenant::Scorer).await.unwrap();
    assert_eq!(*calls.lock().unwrap(), ["/unload_models/", "/reload_models/"]);
    lease.end(crate::gpu::Ending::Done);
    workshop.close().await;
}

#[tokio::test(start_paused = true)]
async fn cards_share_a_scorer_where_it_is() {
    let config = format!(
        "[[gpus]]\nuuid = \"GPU-1\"\nlimit = \"24576MiB\"\nprobe = \"ledger\"\n\
         [[gpus]]\nuuid = \"GPU-2\"\nlimit = \"24576MiB\"\nprobe = \"ledger\"\n\
         {GENERATOR}gpu = \"GPU-1\"\n{}gpu = \"GPU-2\"\n{SCORER}gpu = \"GPU-2\"\nmemory = \"three-gen\"\n",
        GENERATOR.replace("\"gen\"", "\"gen-2\"").replace("8095", "8096")
    );
    let workshop = opened(&config).await.0.unwrap();
    let names: Vec<&str> = workshop.benches.iter().map(|bench| bench.generator.name()).collect();
    assert_eq!(names, ["gen", "gen-2"]);
    let cards: Vec<(&str, &str)> = workshop
        .benches
        .iter()
        .map(|bench| (&*bench.arbiter.card().uuid, &*bench.judging.card().uuid))
        .collect();
    assert_eq!(cards, [("GPU-1", "GPU-2"), ("GPU-2", "GPU-2")]);
    // Nothing on the first card can be moved.
    assert_eq!(workshop.arbiters().count(), 1);
}

/// The only one that tells of the card is gone: what is declared stands in after a while, unless the
/// configuration insists on the workers' word.
#[tokio::test(start_paused = true)]
async fn a_dead_scorer_that_alone_sees_the_card_ends_nothing_for_ever() {
    for probe in ["auto", "dialect"] {
        if probe == "auto" && NvmlLibrary::new(None, DRIVER).list_cards().await.is_ok() {
            eprintln!("skipped: here the driver sees the card");
            continue;
        }
        let config = format!(
            "[[gpus]]\nlimit = \"24576MiB\"\nprobe = \"{probe}\"\n{GENERATOR}{SCORER}memory = \"three-gen\"\n"
        );
        let workshop = opened_with(&config, true).await.0.unwrap();
        let bench = &workshop.benches[0];
        workshop.arbiters().next().unwrap().recover(Vec::new()).await.unwrap();
        let generator = || bench.arbiter.lease(bench.arbiter.request(Tenant::Generator, "gen"));
        let refused = generator().await.unwrap_err();
        assert!(refused.is_retryable() && refused.to_string().contains("worker judge"), "{refused}");
        // One that was only restarted would be back by then.
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(bench.arbiter.check(Tenant::Generator).await, Err(refused.clone()));
        tokio::time::sleep(Duration::from_secs(20)).await;
        if probe == "dialect" {
            assert_eq!(bench.arbiter.check(Tenant::Generator).await, Err(refused.clone()));
            assert_eq!(generator().await.unwrap_err(), refused);
            continue;
        }
        for _ in 0..2 {
            assert_eq!(bench.arbiter.check(Tenant::Generator).await, Ok(()));
            generator().await.unwrap().end(crate::gpu::Ending::Done);
            // Nobody who does not run is taken for one who scores.
            assert!(bench.judging.lease(Tenant::Scorer).await.is_err());
        }
    }
}
