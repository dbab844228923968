//! An enhancer makes a prompt richer for the generator, and for nobody else; when it fails, is slow or
//! says nonsense, the prompt goes as it came.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use sn17_miner::clock::Clock;
use sn17_miner::devnet::generator::{DevGenerator, DevGeneratorSettings};
use sn17_miner::devnet::network::in_process;
use sn17_miner::devnet::scorer::{DevScorer, DevScorerSettings};
use sn17_miner::gpu::Arbiter;
use sn17_miner::mining::{Bench, Muse, SeedSource, judge, make};
use sn17_miner::net::{Endpoint, Limits, Transport};
use sn17_miner::primitives::{ByteSize, CardId, LocalId, Prompt, PromptKind, Seed, UnixTime};
use sn17_miner::splat::SpzEncoder;
use sn17_miner::store::Verdict;
use sn17_miner::workers::{
    Dialect, Enhancer, EnhancerSettings, Generator, GeneratorSettings, Scorer, ScorerSettings,
};

const START: UnixTime = UnixTime::from_millis(1_767_225_600_730);
const S: fn(u64) -> Duration = Duration::from_secs;

/// What an enhancer answers.
#[derive(Debug, Clone, Copy)]
enum Manner {
    Richer,
    Nonsense,
    Refuses,
    Hangs,
}

type Heard = Arc<Mutex<Vec<(SocketAddr, String)>>>;

fn place(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 8_000))
}

/// Writes down what a server is asked before it answers.
fn overheard(at: SocketAddr, server: Router, heard: &Heard) -> Router {
    let heard = Arc::clone(heard);
    Router::new().fallback(move |request: Request| {
        let (server, heard) = (server.clone(), Arc::clone(&heard));
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            heard.lock().unwrap().push((at, String::from_utf8_lossy(&body).into_owned()));
            let request = Request::from_parts(head, axum::body::Body::from(body));
            tower::ServiceExt::oneshot(server, request).await.unwrap_or_else(|never| match never {})
        }
    })
}

fn enhancer(manner: Manner) -> Router {
    Router::new().fallback(move |body: Bytes| async move {
        let asked: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let prompt = asked["prompt"].as_str().unwrap();
        let answer: Response = match manner {
            Manner::Richer => serde_json::json!({"enhanced_prompt": format!("{prompt}, studio light")})
                .to_string()
                .into_response(),
            Manner::Nonsense => "<html>".into_response(),
            Manner::Refuses => http::StatusCode::SERVICE_UNAVAILABLE.into_response(),
            Manner::Hangs => std::future::pending().await,
        };
        answer
    })
}

struct Scene {
    bench: Bench,
    clock: Clock,
    heard: Heard,
}

impl Scene {
    fn of(manner: Manner) -> Self {
        let clock = Clock::starting_at(START);
        let heard = Heard::default();
        let [main, judge, muse] = [1, 2, 3].map(place);
        let generator = DevGenerator::new(DevGeneratorSettings::default(), clock).router();
        let scorer = DevScorer::new(DevScorerSettings::default(), clock).router();
        let servers = [(main, generator), (judge, scorer), (muse, enhancer(manner))];
        let servers: HashMap<_, _> =
            servers.map(|(at, server)| (at, overheard(at, server, &heard))).into_iter().collect();
        let transport: Transport = in_process(servers);
        let limits = |time| Limits { first_byte: time, total: time, body: ByteSize::mib(64) };
        let arbiter = Arbiter::new(CardId { host: "here".into(), uuid: "GPU-0".into() }, clock);
        let bench = Bench {
            generator: Generator::new(
                GeneratorSettings {
                    name: "main".into(),
                    endpoint: Endpoint::of(main),
                    dialect: Dialect::Form,
                    kinds: [PromptKind::Text].into_iter().collect(),
                    limits: limits(S(600)),
                },
                transport.clone(),
                clock,
            ),
            scorer: Some(Scorer::new(
                ScorerSettings {
                    name: "judge".into(),
                    endpoint: Endpoint::of(judge),
                    limits: limits(S(120)),
                },
                transport.clone(),
                clock,
            )),
            enhancer: Some(Muse {
                enhancer: Enhancer::new(
                    EnhancerSettings {
                        name: "muse".into(),
                        endpoint: Endpoint::of(muse),
                        limits: limits(S(3)),
                    },
                    transport,
                    clock,
                ),
                arbiter: None,
            }),
            judging: arbiter.clone(),
            arbiter,
            encoder: SpzEncoder::default(),
        };
        Self { bench, clock, heard }
    }

    /// Makes and judges a candidate.
    async fn candidate(&self, prompt: &str, seed: u32) {
        let prompt = Prompt::Text(prompt.into());
        let id: LocalId = SeedSource::fixed(u64::from(seed)).local_id(self.clock.now());
        let candidate =
            make(&self.bench, &id, &prompt, Seed::new(seed), Duration::ZERO, false).await.unwrap();
        let verdict = judge(&self.bench, None, &id, &prompt, &candidate.spz).await.unwrap();
        assert!(matches!(verdict, Verdict::Scored(score) if score.get() > 0.6), "{verdict:?}");
    }

    fn heard_by(&self, number: u8) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|(at, _)| *at == place(number)).map(|(_, body)| body.clone()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_generator_gets_the_richer_prompt() {
    let scene = Scene::of(Manner::Richer);
    scene.candidate("a red cube", 1).await;
    scene.candidate("a red cube", 2).await;
    let [made, judged, asked] = [1, 2, 3].map(|number| scene.heard_by(number));
    assert!(
        made.len() == 2 && made.iter().all(|body| body.contains("a+red+cube%2C+studio+light")),
        "{made:?}"
    );
    assert!(judged.iter().all(|body| body.contains("a red cube") && !body.contains("studio")));
    assert_eq!(asked, [r#"{"prompt":"a red cube"}"#], "candidates of one task share one text");
}

#[tokio::test(start_paused = true)]
async fn an_enhancer_that_is_of_no_use_costs_three_seconds_at_most_and_then_rests() {
    for manner in [Manner::Nonsense, Manner::Refuses, Manner::Hangs] {
        let scene = Scene::of(manner);
        let began = scene.clock.instant();
        scene.candidate("a red cube", 1).await;
        assert!(began.elapsed() <= S(4), "{manner:?}: {:?}", began.elapsed());
        scene.candidate("a blue sphere", 2).await;
        assert_eq!(scene.heard_by(3).len(), 1, "{manner:?}: it rests after a failure");
        assert!(scene.heard_by(1)[0].contains("a+red+cube"), "the prompt as it came");
        assert!(!scene.heard_by(1)[0].contains("studio"));
        scene.clock.sleep(S(31)).await;
        scene.candidate("a green cone", 3).await;
        assert_eq!(scene.heard_by(3).len(), 2, "{manner:?}: it is asked again after a while");
    }
}
