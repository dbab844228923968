//! Cards on which nothing can be made for a while: what is said of it, that nothing is pulled meanwhile,
//! and that mining goes on afterwards. The real agent, in process and under a paused clock.

#[path = "support/graded.rs"]
mod graded;
#[path = "support/hostile_world.rs"]
mod hostile_world;
#[path = "support/scene.rs"]
mod scene;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::{BoxFuture, ready};
use scene::{Lie, PULL, S, Scene, Site};
use sn17_miner::app::App;
use sn17_miner::gpu::{
    Abilities, AtStart, EffectError, Effects, Household, NoLog, Reading, Residency, Row, Settings, Song,
    Stage, Tenant, WorkerId, WorkerSpec,
};
use sn17_miner::primitives::MiB;

const CARD: MiB = MiB(24_576);

/// A card that can be seen or not; its scorer does what it is told.
#[derive(Debug)]
struct Card {
    seen: Arc<AtomicBool>,
    scorer_in: AtomicBool,
}

impl Card {
    fn moves(&self, to: bool) -> BoxFuture<'_, Result<(), EffectError>> {
        self.scorer_in.store(to, Ordering::SeqCst);
        Box::pin(ready(Ok(())))
    }
}

impl Effects for Card {
    fn probe(&self) -> BoxFuture<'_, Result<Option<Reading>, EffectError>> {
        let scorer = if self.scorer_in.load(Ordering::SeqCst) { 4_813 } else { 400 };
        let reading = Reading::new(CARD, MiB(CARD.0 - 3_000 - scorer)).unwrap();
        let blind = EffectError::Refused("worker judge: the worker is not reachable".into());
        Box::pin(ready(if self.seen.load(Ordering::SeqCst) { Ok(Some(reading)) } else { Err(blind) }))
    }
    fn unload<'a>(&'a self, _: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        self.moves(false)
    }
    fn load<'a>(&'a self, _: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        self.moves(true)
    }
    fn cleanup<'a>(&'a self, _: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(ready(Ok(())))
    }
    fn start<'a>(&'a self, _: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(ready(Err(EffectError::Unsupported)))
    }
    fn stop<'a>(&'a self, _: &'a WorkerId) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(ready(Err(EffectError::Unsupported)))
    }
    fn canary<'a>(&'a self, _: &'a WorkerId) -> BoxFuture<'a, Result<Song, EffectError>> {
        Box::pin(ready(Ok(Song::Sings)))
    }
}

fn worker(name: &str, tenant: Tenant, resident: u64, peak: u64, abilities: Abilities) -> WorkerSpec {
    let id = WorkerId::new(name);
    let (resident, peak) = (MiB(resident), MiB(peak));
    WorkerSpec {
        rows: vec![Row { worker: id.clone(), stage: Stage::default(), resident, peak }],
        id,
        tenant,
        residency: Residency::OnDemand,
        abilities,
        at_start: AtStart::Unknown,
        self_coordinating: false,
    }
}

fn household(seen: &Arc<AtomicBool>) -> Household {
    let moved = Abilities { unload: true, load: true, ..Abilities::default() };
    Household {
        settings: Settings { limit: Some(CARD), ..Settings::default() },
        workers: vec![
            worker("main", Tenant::Generator, 3_000, 20_070, Abilities::default()),
            worker("judge", Tenant::Scorer, 4_813, 4_813, moved),
        ],
        effects: Arc::new(Card { seen: Arc::clone(seen), scorer_in: AtomicBool::new(true) }),
        log: Arc::new(NoLog),
    }
}

#[tokio::test(start_paused = true)]
async fn a_card_that_cannot_be_seen_is_told_of_once_and_not_pulled_for() {
    let scene = Scene::of(1);
    let seen = Arc::new(AtomicBool::new(false));
    let mut world = scene.world(scene.data(), 0..1);
    world.peers.cards[0].household = Some(household(&seen));
    let app = App::build(&scene.settings, world).await.unwrap();
    let pulls = || scene.asked(Site::Validator(0), PULL);
    let meanwhile = async {
        tokio::time::sleep(S(900)).await;
        // The one that was pulled before that was known is given back; its generator is well.
        assert_eq!((pulls(), scene.count("empty")), (1, 1), "{:#?}", scene.last_lines());
        scene.log.expect(1, "reason=no card can be had");
        scene.log.expect(1, "alarm=card_unusable");
        scene.log.expect(1, "The card cannot be had, no task is pulled until it can");
        assert!(scene.log.with("card_unusable")[0].contains("worker judge"), "{:#?}", scene.last_lines());
        for never in ["generator_down", "is back", "again"] {
            scene.log.expect(0, never);
        }
        seen.store(true, Ordering::SeqCst);
    };
    tokio::join!(Scene::run_for(app, S(1_800)), meanwhile);
    scene.log.expect(1, "The card can be had again");
    scene.log.expect(1, "alarm=card_unusable");
    assert!(scene.count("accepted") >= 2, "{:#?}", scene.last_lines());
    scene.assert_lawful();
}

#[tokio::test(start_paused = true)]
async fn a_generator_that_fell_back_to_the_cpu_counts_as_gone() {
    let scene = Scene::of(1);
    let health = br#"{"gpu_enabled":false,"model_loaded":true,"status":"healthy"}"#;
    let fallen = |asked: &scene::Asked<'_>| (asked.path == "/health").then(|| Lie::Say(200, health.to_vec()));
    scene.bend(Site::Generator(0), fallen);
    let meanwhile = async {
        tokio::time::sleep(S(600)).await;
        assert_eq!(scene.asked(Site::Validator(0), PULL), 0, "{:#?}", scene.last_lines());
        scene.log.expect(1, "alarm=generator_down");
        scene.log.expect(1, "The generator runs without its card (gpu_enabled: false)");
        // It is looked at now and then.
        assert!(scene.asked(Site::Generator(0), "/health") > 60);
        scene.straighten(Site::Generator(0));
    };
    tokio::join!(scene.mine_for(S(1_500)), meanwhile);
    scene.log.expect(1, "The generator is back");
    assert!(scene.count("accepted") >= 2, "{:#?}", scene.last_lines());
    scene.assert_lawful();
}
