use std::sync::Mutex as StdMutex;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};

use super::super::probe::Basis;
use super::*;
use crate::net::Transport;
use crate::primitives::{Prompt, Score, UnixTime};
use crate::splat::{Gaussian, ShDegree, Splat, Spz, SpzEncoder};
use crate::store::Canary;
use crate::workers::{MemoryDialect, MemorySettings, MemoryTimeouts, ScorerSettings};

/// Says what it is told to.
#[derive(Debug)]
struct Says(fn() -> Result<probe::Reading, ProbeError>);

impl VramProbe for Says {
    fn read(&self) -> BoxFuture<'_, Result<probe::Reading, ProbeError>> {
        Box::pin(async { (self.0)() })
    }
    fn basis(&self) -> Basis {
        Basis::Driver
    }
}

type Paths = Arc<StdMutex<Vec<String>>>;

/// A server that gives the same answer on every path.
fn server(status: u16, body: &'static str) -> (Transport, Paths) {
    let asked = Paths::default();
    let record = Arc::clone(&asked);
    let transport = Transport::InProcess(Arc::new(move |request| {
        record.lock().unwrap().push(request.uri().path().to_owned());
        let body = Full::new(Bytes::from_static(body.as_bytes())).map_err(|never| match never {});
        let reply = http::Response::builder().status(status).body(body.boxed_unsync()).unwrap();
        Box::pin(async move { Ok(reply) })
    }));
    (transport, asked)
}

fn clock() -> Clock {
    Clock::starting_at(UnixTime::from_secs(1))
}

fn hand(dialect: MemoryDialect, transport: &Transport) -> Hand {
    let settings = MemorySettings {
        name: "w".into(),
        endpoint: "http://127.0.0.1:9".parse().unwrap(),
        dialect,
        timeouts: MemoryTimeouts::default(),
    };
    let control = MemoryControl::new(settings, transport.clone(), clock());
    Hand { control, process: None, canary: None, port: None }
}

fn crew(probe: Option<fn() -> Result<probe::Reading, ProbeError>>, hand: Hand) -> Crew {
    let probe = probe.map(|says| Arc::new(Says(says)) as Arc<dyn VramProbe>);
    Crew::new(probe, Share::default(), BTreeMap::from([("w".into(), hand)]), clock())
}

fn three_gen(status: u16, body: &'static str) -> (Crew, Paths) {
    let (transport, asked) = server(status, body);
    (crew(None, hand(MemoryDialect::ThreeGen, &transport)), asked)
}

const W: fn() -> WorkerId = || WorkerId::new("w");

#[tokio::test]
async fn a_verb_is_a_call_and_its_answer_a_claim() {
    let (done, asked) =
        three_gen(200, r#"{"status":"success","models_unloaded":true,"models_reloaded":true}"#);
    done.unload(&W()).await.unwrap();
    done.load(&W()).await.unwrap();
    assert_eq!(*asked.lock().unwrap(), ["/unload_models/", "/reload_models/"]);
    let (failed, _) = three_gen(200, r#"{"status":"error","error":"busy","models_unloaded":false}"#);
    assert_eq!(failed.unload(&W()).await, Err(EffectError::Refused("busy".into())));
    let (absent, _) = three_gen(404, "");
    assert!(matches!(absent.unload(&W()).await, Err(EffectError::Refused(_))));
    assert_eq!(absent.start(&W()).await, Err(EffectError::Unsupported), "nobody's process of ours");
    assert_eq!(absent.stop(&W()).await, Err(EffectError::Unsupported));
    assert_eq!(absent.unload(&"stranger".into()).await, Err(EffectError::Unsupported));
    let refuses = Transport::InProcess(Arc::new(|_| Box::pin(async { Err("refused".into()) })));
    let gone = crew(None, hand(MemoryDialect::Comfy, &refuses));
    assert!(gone.unload(&W()).await.is_err());
    assert_eq!(gone.cleanup(&W()).await, Err(EffectError::Unsupported), "it would take the models along");
}

#[tokio::test]
async fn what_can_be_told_to_a_worker_follows_its_dialect() {
    let (transport, _) = server(200, "");
    let abilities = |dialect| hand(dialect, &transport).abilities();
    let all = Abilities { unload: true, load: true, cleanup: true, ..Abilities::default() };
    assert_eq!(abilities(MemoryDialect::ThreeGen), all);
    assert_eq!(abilities(MemoryDialect::Comfy), Abilities { unload: true, ..Abilities::default() });
    assert_eq!(abilities(MemoryDialect::Process), Abilities::default());
}

#[tokio::test]
async fn a_look_says_no_more_than_is_known() {
    let (transport, _) = server(200, "");
    let seen = |says| {
        let hand = hand(MemoryDialect::Nothing, &transport);
        async move { crew(says, hand).probe().await }
    };
    assert_eq!(seen(None).await, Ok(None), "nothing measures the card");
    let whole: fn() -> _ = || Ok(probe::Reading::new(MiB(24_576), MiB(20_000)));
    let reading = seen(Some(whole)).await.unwrap().unwrap();
    assert_eq!((reading.used(), reading.processes(), reading.is_active()), (MiB(4_576), None, None));
    let lost = seen(Some(|| Err(ProbeError::Gone("GPU-1".into())))).await;
    assert_eq!(lost, Err(EffectError::CardLost("GPU-1".into())));
    let absurd = seen(Some(|| Ok(probe::Reading::new(MiB(u64::MAX), MiB(0))))).await;
    assert!(matches!(absurd, Err(EffectError::Refused(_))));
    let idle = || Ok(probe::Reading { activity: Some(4), ..probe::Reading::new(MiB(24_576), MiB(0)) });
    assert_eq!(seen(Some(idle)).await.unwrap().unwrap().is_active(), Some(false));
}

fn with(processes: Vec<(u32, Option<u64>)>) -> Result<probe::Reading, ProbeError> {
    let process = |(pid, used): (u32, Option<u64>)| probe::ProcessMemory { pid, used: used.map(MiB) };
    let processes = Some(processes.into_iter().map(process).collect());
    Ok(probe::Reading { processes, ..probe::Reading::new(MiB(24_576), MiB(10_000)) })
}

#[tokio::test]
async fn who_holds_what_is_told_only_where_all_are_known() {
    let (transport, _) = server(200, "");
    // Our own process listens for the worker, so that its tree is ours.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = Some(listener.local_addr().unwrap().port());
    let look = |port, says: fn() -> _| {
        let hand = Hand { port, ..hand(MemoryDialect::Nothing, &transport) };
        async move { crew(Some(says), hand).probe().await.unwrap().unwrap() }
    };
    let ours_and_init = || with(vec![(std::process::id(), Some(4_813)), (1, Some(300))]);
    let reading = look(port, ours_and_init).await;
    assert_eq!(reading.held_by(&W()), Some(MiB(4_813)));
    assert_eq!(reading.processes().unwrap()[1].worker, None, "a stranger");
    // On another machine, or in another container.
    assert_eq!(look(None, ours_and_init).await.processes(), None);
    let nobodys_number = || with(vec![(std::process::id(), Some(4_813)), (u32::MAX, Some(300))]);
    assert_eq!(look(port, nobodys_number).await.processes(), None);
    let not_told = || with(vec![(std::process::id(), None)]);
    assert_eq!(look(port, not_told).await.processes(), None);
    drop(listener);
    assert_eq!(
        look(port, || with(vec![(1, Some(300))])).await.held_by(&W()),
        Some(MiB(0)),
        "it is not there"
    );
}

fn spz() -> Arc<Spz> {
    let mut cloud = Splat::new(ShDegree::default());
    cloud.push(Gaussian {
        position: [0.1, 0.2, 0.3],
        log_scale: [-4.0; 3],
        rotation: [1.0, 0.0, 0.0, 0.0],
        logit_opacity: 2.0,
        f_dc: [0.0; 3],
    });
    Arc::new(SpzEncoder::default().encode(&cloud).unwrap())
}

async fn song(store: &Store, body: &'static str) -> Result<Song, EffectError> {
    let (transport, _) = server(200, body);
    let settings = ScorerSettings {
        name: "w".into(),
        endpoint: "http://127.0.0.1:9".parse().unwrap(),
        limits: crate::net::Limits {
            first_byte: Duration::from_secs(5),
            total: Duration::from_secs(5),
            body: crate::primitives::ByteSize::mib(1),
        },
    };
    let canary = Some((Scorer::new(settings, transport.clone(), clock()), store.clone()));
    crew(None, Hand { canary, ..hand(MemoryDialect::ThreeGen, &transport) }).canary(&W()).await
}

const GOOD: &str = r#"{"score":0.81,"iqa":0.8,"alignment_score":0.9,"ssim":0.9,"lpips":0.9}"#;

#[tokio::test]
async fn a_canary_sings_as_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    assert_eq!(song(&store, GOOD).await, Ok(Song::NoneKept));
    let prompt = Prompt::Text("a red cube".into());
    let canary = Canary { prompt, spz: spz(), score: Score::new(0.8).unwrap() };
    store.set_canary("w", canary).await.unwrap();
    assert_eq!(song(&store, GOOD).await, Ok(Song::Sings));
    let zeros = r#"{"score":0.0,"iqa":0.0,"alignment_score":0.0,"ssim":0.0,"lpips":0.0}"#;
    assert_eq!(song(&store, zeros).await, Ok(Song::Silent));
    let off = r#"{"score":0.65,"iqa":0.6,"alignment_score":0.9,"ssim":0.9,"lpips":0.9}"#;
    assert_eq!(song(&store, off).await, Ok(Song::Silent));
    assert!(matches!(song(&store, "<html>").await, Err(EffectError::Refused(_))));
}
