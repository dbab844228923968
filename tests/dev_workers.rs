//! The development workers, each a process of its own, as the agent's own clients see them.

#[path = "support/dev_workers.rs"]
mod dev_workers;
#[allow(dead_code, reason = "each test file uses its own part")]
#[path = "support/program.rs"]
mod program;
#[path = "support/nvml.rs"]
mod stand_in;

use std::time::Duration;

use dev_workers::{CARD, DevCard, PATIENCE, UUID, sockets};
use sn17_miner::clock::Clock;
use sn17_miner::devnet::card::What;
use sn17_miner::devnet::pictures;
use sn17_miner::gpu::probe::{NvmlLibrary, ProcessMemory, VramProbe};
use sn17_miner::net::Call;
use sn17_miner::primitives::{MiB, Prompt, Seed};
use sn17_miner::splat::{PlyReader, Spz, SpzEncoder};
use sn17_miner::workers::{
    Claim, Dialect, GenerateError, Generator, Judgement, Scorer, Server, VerbError, detect,
};
use stand_in::StandIn;

/// For verbs that are not answered: long enough for a busy machine to answer those that are.
const SHORT: Duration = Duration::from_millis(500);

fn prompt() -> Prompt {
    Prompt::Text("a red cube".into())
}

fn picture() -> Prompt {
    Prompt::Image(pictures::prompt_image("a red cube", 7).into())
}

async fn splat(generator: &Generator) -> Spz {
    let made = generator.generate(&prompt(), Seed::new(7)).await.unwrap();
    let cloud = PlyReader::default().read(&made.body).unwrap();
    SpzEncoder::default().encode(&cloud).unwrap()
}

async fn scores(scorer: &Scorer, splat: &Spz) -> bool {
    matches!(scorer.score(&prompt(), splat).await.unwrap().0, Judgement::Scored(scores) if scores.score.get() > 0.6)
}

/// The reference pair: together they are more than the card has.
#[tokio::test]
async fn the_scorer_makes_room_for_the_generator_and_comes_back() {
    let card = DevCard::new();
    let judge = card.worker("three-gen", &["--name", "judge"]);
    let main = card.worker("form", &["--name", "main", "--resident", "400", "--peak", "20070"]);
    assert_eq!(card.state().used(), MiB(4_813 + 400));
    let (generator, scorer, memory) =
        (main.generator(Dialect::Form), judge.scorer(), judge.memory("three-gen"));
    let refused = generator.generate(&prompt(), Seed::new(1)).await.unwrap_err();
    assert!(matches!(refused, GenerateError::Failed { status, .. } if status.as_u16() == 500));
    assert_eq!((card.state().refused, card.state().used()), (1, MiB(5_213)));

    let reply = memory.unload().await.unwrap();
    assert_eq!((reply.claim, card.state().held_by("judge")), (Claim::Done, Some(MiB(400))));
    let splat = splat(&generator).await;
    assert_eq!(scorer.score(&prompt(), &splat).await.unwrap().0, Judgement::NoVerdict, "it has no models");
    let reply = memory.load().await.unwrap();
    assert_eq!(reply.note, Some("restored from its backup"));
    assert_eq!(reply.memory.unwrap().device_free, Some(MiB(CARD.0 - 5_213)));
    assert!(scores(&scorer, &splat).await);

    let state = card.state();
    assert_eq!((state.refused, state.most, state.starts), (1, MiB(20_470), 2));
    let events = card.events();
    assert!(events.iter().any(|e| e.name == "judge" && e.what == What::Asked("POST /unload_models/".into())));

    // Asked to end it gives its memory back; killed it is found dead.
    main.program.terminate();
    assert_eq!(main.program.finish(PATIENCE).status.code(), Some(0));
    assert_eq!(card.state().used(), MiB(4_813));
    drop(judge);
    assert_eq!((card.state().used(), card.state().holders.len()), (MiB::ZERO, 0));
}

/// A scorer that is out of memory says that everything is worth nothing.
#[tokio::test]
async fn a_scorer_without_room_answers_zeros() {
    let card = DevCard::new();
    let main = card.worker("form", &["--resident", "400", "--peak", "400"]);
    let splat = splat(&main.generator(Dialect::Form)).await;
    let judge = card.worker("validation", &["--resident", "4000", "--peak", "5000"]);
    assert!(scores(&judge.scorer(), &splat).await);
    // Somebody else takes what is left.
    card.ledger.hold("stranger", MiB(CARD.0 - 4_400)).unwrap();
    let (judgement, _) = judge.scorer().score(&prompt(), &splat).await.unwrap();
    assert_eq!((judgement, card.state().refused), (Judgement::NoVerdict, 1));
    // And one that has no room to start in does not start.
    let folder = card.folder();
    let late = program::Program::start("late", &mut dev_workers::command(&card, "validation", &[]), folder);
    assert_eq!(late.finish(PATIENCE).status.code(), Some(1));
}

#[tokio::test]
async fn every_generator_is_known_and_makes_splats() {
    for (dialect, spoken, server) in [
        ("form", Dialect::Form, Server::FormGenerator),
        ("image", Dialect::Image, Server::BaseMiner),
        ("form-image", Dialect::FormImage, Server::Competitive),
        ("hunyuan", Dialect::Form, Server::Hunyuan),
    ] {
        let card = DevCard::new();
        let worker = card.worker(dialect, &["--resident", "3000", "--peak", "9000"]);
        let found = detect(&worker.endpoint(), &sockets(), &Clock::system()).await;
        let found = found.detected().unwrap_or_else(|| panic!("{dialect}: {found:?}"));
        assert_eq!((found.server, found.generator), (server, Some(spoken)), "{dialect}");
        let at_rest = card.state().used();
        // This one loads its models for each request.
        assert_eq!(at_rest, if dialect == "hunyuan" { MiB(400) } else { MiB(3_000) }, "{dialect}");
        let prompt = if dialect == "image" { picture() } else { prompt() };
        let made = worker.generator(spoken).generate(&prompt, Seed::new(7)).await;
        assert!(made.is_ok_and(|made| PlyReader::default().read(&made.body).is_ok()), "{dialect}");
        let state = card.state();
        assert_eq!((state.used(), state.most), (at_rest, MiB(9_000)), "{dialect}");
    }
}

/// Unloads and loads by the agent's own verbs: what is left, and what its status says of it.
#[tokio::test]
async fn every_dialect_gives_its_memory_up_and_takes_it_again() {
    for (worker, dialect, left, server) in [
        ("three-gen", "three-gen", 400, Server::HandoffValidation),
        ("memory-sdxl", "memory", 400, Server::MemoryWorker),
        ("memory-wan", "memory:wan", 2_400, Server::MemoryWorker),
        ("memory-chat", "memory:instruct", 2_400, Server::MemoryWorker),
        ("enhancer", "memory", 400, Server::MemoryWorker),
        ("vllm", "vllm:1", 400, Server::Vllm),
        ("vllm", "vllm:2", 400, Server::Vllm),
        ("vllm", "vllm:1:weights", 2_400, Server::Vllm),
        ("ollama", "ollama:llama", 400, Server::Ollama),
        ("comfy", "comfy", 400, Server::Comfy),
    ] {
        let card = DevCard::new();
        let server_there = card.worker(worker, &["--name", "it", "--resident", "4400"]);
        let found = detect(&server_there.endpoint(), &sockets(), &Clock::system()).await;
        assert_eq!(found.detected().map(|found| found.server), Some(server), "{worker}: {found:?}");
        let memory = server_there.memory(dialect);
        let on_demand = matches!(worker, "ollama" | "comfy");
        if worker == "comfy" {
            work(&server_there, "/prompt").await;
        } else if on_demand {
            memory.load().await.unwrap();
        }
        assert_eq!(card.state().held_by("it"), Some(MiB(4_400)), "{worker}");
        memory.unload().await.unwrap();
        card.until(dialect, |state| state.held_by("it") == Some(MiB(left))).await;
        let status = memory.status().await.unwrap();
        assert_ne!(status.models_loaded, Some(true), "{worker} {dialect}");
        assert!(status.own.is_none_or(|own| own == MiB(left - 400)), "{worker}: {status:?}");
        assert!(status.device_free.is_none_or(|free| free == MiB(CARD.0 - left)), "{worker}: {status:?}");
        if worker == "comfy" {
            work(&server_there, "/prompt").await;
        } else {
            memory.load().await.unwrap();
        }
        assert_eq!(card.state().held_by("it"), Some(MiB(4_400)), "{worker}");
        assert_eq!(card.state().refused, 0);
    }
}

async fn work(worker: &dev_workers::DevProcess, path: &str) -> serde_json::Value {
    let mut headers = http::HeaderMap::new();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    let body = r#"{"prompt": "a red cube"}"#.into();
    let call = Call { method: http::Method::POST, url: worker.endpoint().at(path), headers, body };
    let reply = sockets().call(&Clock::system(), call, &dev_workers::limits(PATIENCE)).await.unwrap();
    assert_eq!(reply.status, http::StatusCode::OK);
    serde_json::from_slice(&reply.body).unwrap()
}

#[tokio::test]
async fn an_enhancer_gives_text_for_text() {
    let card = DevCard::new();
    let enhancer = card.worker("enhancer", &["--peak", "6000"]);
    let answer = work(&enhancer, "/enhance").await;
    assert_eq!(answer["prompt"], "a red cube, one object, plain background");
    assert_eq!(card.state().most, MiB(6_000));
}

/// A wrong slash is redirected, a wrong method refused, as the framework does it.
#[tokio::test]
async fn what_is_no_route_is_answered_as_by_the_framework() {
    let card = DevCard::new();
    let judge = card.worker("three-gen", &[]);
    let status = async |method: http::Method, path: &str| {
        let call = Call {
            method,
            url: judge.endpoint().at(path),
            headers: http::HeaderMap::new(),
            body: Default::default(),
        };
        let reply = sockets().call(&Clock::system(), call, &dev_workers::limits(PATIENCE)).await;
        match reply {
            Ok(reply) => reply.status.as_u16(),
            Err(sn17_miner::net::NetError::Redirected(status)) => status.as_u16(),
            Err(error) => panic!("{path}: {error}"),
        }
    };
    assert_eq!(status(http::Method::GET, "/health/").await, 404);
    assert_eq!(status(http::Method::GET, "/gpu_status").await, 307);
    assert_eq!(status(http::Method::GET, "/unload_models/").await, 405);
    assert_eq!(status(http::Method::OPTIONS, "/unload_models/").await, 200);
}

/// Asked for what it has already, it builds a second engine beside the first.
#[tokio::test]
async fn a_reload_is_not_safe_to_repeat() {
    let card = DevCard::new();
    let judge = card.worker("three-gen", &[]);
    let reply = judge.memory("three-gen").load().await.unwrap();
    assert_eq!(reply.note, Some("built anew without having been unloaded"));
    assert_eq!((card.state().most, card.state().used()), (MiB(400 + 2 * 4_413), MiB(4_813)));
}

#[tokio::test]
async fn verbs_that_lie_refuse_or_are_late() {
    let card = DevCard::new();
    let judge = card.worker("three-gen", &["--name", "judge", "--fault", "lies", "--late-time", "100ms"]);
    let memory = judge.memory("three-gen");
    let held = || card.state().held_by("judge");
    assert_eq!((memory.unload().await.unwrap().claim, held()), (Claim::Done, Some(MiB(4_813))));
    judge.change_faults("refuses").await;
    let claim = memory.unload().await.unwrap().claim;
    assert!(matches!(&claim, Claim::Failed(why) if why.contains("CUDA error")), "{claim:?}");
    assert_eq!(held(), Some(MiB(4_813)));
    judge.change_faults("late").await;
    assert_eq!(memory.unload().await.unwrap().claim, Claim::Done);
    card.until("late", |state| state.held_by("judge") == Some(MiB(400))).await;
    let holds: Vec<_> =
        card.events().into_iter().filter(|event| matches!(event.what, What::Holds(_))).collect();
    let [.., before, after] = &holds[..] else { panic!("{holds:?}") };
    assert_eq!((&before.what, &after.what), (&What::Holds(MiB(4_813)), &What::Holds(MiB(400))));
    assert!(after.at.saturating_since(before.at) >= Duration::from_millis(100));
    judge.change_faults("double").await;
    memory.load().await.unwrap();
    assert_eq!((card.state().most, held()), (MiB(400 + 2 * 4_413), Some(MiB(4_813))));
    assert_eq!(["lies", "refuses", "late", "double"].map(|fault| card.struck(fault)), [1, 1, 1, 1]);
}

#[tokio::test]
async fn all_scores_are_zero_after_a_reload() {
    let card = DevCard::new();
    let main = card.worker("form", &["--resident", "400", "--peak", "400"]);
    let judge = card.worker("three-gen", &["--fault", "zeros"]);
    let (splat, memory) = (splat(&main.generator(Dialect::Form)).await, judge.memory("three-gen"));
    assert!(scores(&judge.scorer(), &splat).await, "it was never reloaded");
    memory.unload().await.unwrap();
    memory.load().await.unwrap();
    assert_eq!(judge.scorer().score(&prompt(), &splat).await.unwrap().0, Judgement::NoVerdict);
    judge.change_faults("").await;
    memory.unload().await.unwrap();
    memory.load().await.unwrap();
    assert!(scores(&judge.scorer(), &splat).await);
}

#[tokio::test]
async fn it_is_dead_after_unloading() {
    let card = DevCard::new();
    let judge = card.worker("three-gen", &["--fault", "dies"]);
    assert_eq!(judge.memory("three-gen").unload().await.unwrap().claim, Claim::Done);
    assert_eq!(judge.program.finish(PATIENCE).status.code(), Some(1));
    assert_eq!(card.state().used(), MiB::ZERO);
}

#[tokio::test]
async fn it_crashes_when_it_is_out_of_memory() {
    let card = DevCard::new();
    card.ledger.hold("stranger", MiB(20_000)).unwrap();
    let main = card.worker("form", &["--resident", "400", "--peak", "20070", "--fault", "crashes"]);
    let broken = main.generator(Dialect::Form).generate(&prompt(), Seed::new(1)).await.unwrap_err();
    assert!(matches!(broken, GenerateError::Net(_) | GenerateError::Failed { .. }), "{broken}");
    assert_eq!(main.program.finish(PATIENCE).status.code(), Some(1));
    assert_eq!((card.state().used(), card.state().refused), (MiB(20_000), 1));
}

#[tokio::test]
async fn what_hangs_answers_nobody_and_ends_all_the_same() {
    let card = DevCard::new();
    let judge = card.worker("three-gen", &["--name", "judge", "--fault", "mute"]);
    let memory = judge.memory_within("three-gen", SHORT);
    assert!(matches!(memory.unload().await, Err(VerbError::Silent(_))));
    assert_eq!(card.state().held_by("judge"), Some(MiB(400)), "done, and never answered");
    memory.status().await.unwrap();
    judge.change_faults("hangs").await;
    assert!(matches!(memory.load().await, Err(VerbError::Silent(_))));
    assert!(matches!(memory.status().await, Err(VerbError::Silent(_))));
    assert_eq!(card.state().held_by("judge"), Some(MiB(400)));
    judge.program.terminate();
    assert_eq!(judge.program.finish(PATIENCE).status.code(), Some(0));
}

#[tokio::test]
async fn one_that_ignores_its_end_has_to_be_killed() {
    let card = DevCard::new();
    let judge = card.worker("three-gen", &["--fault", "stubborn"]);
    let memory = judge.memory("three-gen");
    judge.program.terminate();
    memory.unload().await.unwrap();
    memory.load().await.unwrap();
    assert_eq!(card.state().used(), MiB(4_813));
    drop(judge);
    assert_eq!(card.state().used(), MiB::ZERO);
}

/// Its other routes answer only once the work is done.
#[tokio::test]
async fn some_are_deaf_while_they_work() {
    let listens = async |dialect: &str, fault: &[&str]| {
        let card = DevCard::new();
        let arguments = ["--name", "it", "--resident", "400", "--peak", "5000", "--work-time", "1s"];
        let worker = card.worker(dialect, &[&arguments[..], fault].concat());
        let spoken = if dialect == "image" { Dialect::Image } else { Dialect::FormImage };
        let generator = worker.generator(spoken);
        let picture = picture();
        let working = generator.generate(&picture, Seed::new(1));
        let asked = async {
            card.until("at work", |state| state.held_by("it") == Some(MiB(5_000))).await;
            let status = worker.memory("none").status().await;
            assert!(status.is_ok(), "{status:?}");
            card.state().held_by("it") == Some(MiB(5_000))
        };
        let (made, while_at_work) = tokio::join!(working, asked);
        made.unwrap();
        while_at_work
    };
    assert!(listens("image", &[]).await);
    assert!(!listens("form-image", &[]).await);
    assert!(!listens("image", &["--fault", "deaf"]).await);
}

/// GEN-HUN: whoever else moves that scorer fights it.
#[tokio::test]
async fn it_drives_the_other_worker_itself() {
    let card = DevCard::new();
    let judge = card.worker("three-gen", &["--name", "judge"]);
    let url = judge.endpoint().to_string();
    let main = card.worker("hunyuan", &["--name", "main", "--peak", "20070", "--drives", &url]);
    let found = detect(&main.endpoint(), &sockets(), &Clock::system()).await;
    assert_eq!(found.detected().unwrap().drives.as_deref(), Some(&*url));
    let made = main.generator(Dialect::Form).generate(&prompt(), Seed::new(1)).await;
    assert!(made.is_ok(), "{:?}", made.err());
    let state = card.state();
    assert_eq!((state.held_by("judge"), state.held_by("main")), (Some(MiB(4_813)), Some(MiB(400))));
    assert_eq!((state.most, state.refused), (MiB(20_470), 0));
    let verbs: Vec<_> = card
        .events()
        .into_iter()
        .filter_map(|event| match event.what {
            What::Asked(what) if event.name == "judge" => Some(what),
            _ => None,
        })
        .collect();
    assert_eq!(verbs, ["POST /unload_models/", "POST /reload_models/"]);
}

#[tokio::test]
async fn one_on_the_cpu_takes_nothing_and_says_so() {
    for (worker, dialect) in
        [("enhancer", "none"), ("three-gen", "three-gen"), ("memory-sdxl", "memory"), ("comfy", "comfy")]
    {
        let card = DevCard::new();
        let there = card.worker(worker, &["--fault", "cpu"]);
        let status = there.memory(dialect).status().await.unwrap();
        assert_eq!((status.gpu_enabled, card.state().used()), (Some(false), MiB::ZERO), "{worker}");
    }
}

/// Work goes on when its client has gone.
#[tokio::test]
async fn a_client_that_leaves_stops_nothing() {
    let card = DevCard::new();
    let arguments = ["--name", "it", "--resident", "400", "--peak", "5000", "--work-time", "300ms"];
    let worker = card.worker("form", &arguments);
    let generator = worker.generator(Dialect::Form);
    let prompt = prompt();
    tokio::select! {
        made = generator.generate(&prompt, Seed::new(1)) => panic!("{made:?}"),
        _ = card.until("at work", |state| state.held_by("it") == Some(MiB(5_000))) => {}
    }
    assert_eq!(card.state().held_by("it"), Some(MiB(5_000)));
    card.until("done", |state| state.held_by("it") == Some(MiB(400))).await;
}

/// The driver's library shows what the ledger does, processes and all.
#[tokio::test]
async fn the_drivers_figures_are_those_of_the_ledger() {
    let Some(library) = StandIn::new("") else { return };
    let card = DevCard::new();
    library.follow(&card.file());
    let judge = card.worker("three-gen", &["--name", "judge"]);
    let main = card.worker("form", &["--name", "main", "--resident", "3000", "--peak", "20070"]);
    let nvml = NvmlLibrary::new(Some(library.library()), PATIENCE);
    let cards = nvml.list_cards().await.unwrap();
    assert_eq!(cards.named("auto").unwrap().uuid, UUID);
    let probe = nvml.card(UUID);
    let reading = probe.read().await.unwrap();
    assert_eq!((reading.total, reading.used), (CARD, MiB(7_813)));
    let of = |pid, mib| ProcessMemory { pid, used: Some(MiB(mib)) };
    let mut expected = [of(judge.pid, 4_813), of(main.pid, 3_000)];
    expected.sort_by_key(|process| process.pid);
    assert_eq!(reading.processes.unwrap(), expected);
    judge.memory("three-gen").unload().await.unwrap();
    assert_eq!(probe.read().await.unwrap().used, MiB(3_400));
    // Killed, not ended: its row is still in the file.
    drop(main);
    let reading = probe.read().await.unwrap();
    assert_eq!((reading.used, reading.processes.unwrap()), (MiB(400), vec![of(judge.pid, 400)]));
}
