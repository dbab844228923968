//! The development workers, each a process of its own, as the agent's own clients see them.

#[path = "support/dev_workers.rs"]
mod dev_workers;
#[path = "support/program.rs"]
mod program;

use std::time::Duration;

use dev_workers::{CARD, DevCard, PATIENCE};
use sn17_miner::devnet::card::What;
use sn17_miner::primitives::{MiB, Prompt, Seed};
use sn17_miner::splat::{Spz, SpzEncoder};
use sn17_miner::workers::{Claim, Dialect, Generator, Judgement};

const PROMPT: fn() -> Prompt = || Prompt::Text("a red cube".into());

async fn splat(generator: &Generator) -> Spz {
    let made = generator.generate(&PROMPT(), Seed::new(7)).await.unwrap();
    let cloud = sn17_miner::splat::PlyReader::default().read(&made.body).unwrap();
    SpzEncoder::default().encode(&cloud).unwrap()
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
    let refused = generator.generate(&PROMPT(), Seed::new(1)).await.unwrap_err();
    assert!(refused.to_string().contains("500"), "{refused}");
    assert_eq!((card.state().refused, card.state().used()), (1, MiB(5_213)));

    let reply = memory.unload().await.unwrap();
    assert_eq!((reply.claim, card.state().held_by("judge")), (Claim::Done, Some(MiB(400))));
    let splat = splat(&generator).await;
    assert_eq!(scorer.score(&PROMPT(), &splat).await.unwrap().0, Judgement::NoVerdict, "it has no models");
    let reply = memory.load().await.unwrap();
    assert_eq!(reply.note, Some("restored from its backup"));
    assert_eq!(reply.memory.unwrap().device_free, Some(MiB(CARD.0 - 5_213)));
    let (judgement, _) = scorer.score(&PROMPT(), &splat).await.unwrap();
    assert!(matches!(judgement, Judgement::Scored(scores) if scores.score.get() > 0.6), "{judgement:?}");

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
    let _ = Duration::ZERO;
}
