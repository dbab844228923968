//! The real agent among peers that lie: an honest development network, in which chosen replies are
//! replaced, and the agent's log.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use futures_util::stream::{self, Stream};
use sn17_miner::app::{App, Locks, Peers, Transports, World};
use sn17_miner::clock::Clock;
use sn17_miner::config::{Inputs, Settings, load};
use sn17_miner::dendrite::AxonAddress;
use sn17_miner::devnet::axon::{DevAxon, DevAxonSettings};
use sn17_miner::devnet::axon_judge::AxonJudge;
use sn17_miner::devnet::generator::{DevGenerator, DevGeneratorSettings};
use sn17_miner::devnet::ledger::DevTask;
use sn17_miner::devnet::network::in_process;
use sn17_miner::devnet::scorer::{DevScorer, DevScorerSettings};
use sn17_miner::devnet::tasks::TaskMaker;
use sn17_miner::mining::{Budget, Finish, SeedSource};
use sn17_miner::net::Endpoint;
use sn17_miner::primitives::{CardId, Prompt, TaskId, Uid, UnixTime};
use sn17_miner::wallet::HotkeyPair;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::Level;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// What the agent logs at INFO and above, unformatted: nobody but the agent has escaped anything.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Mutex<Vec<(Level, String)>>>);

impl<S: tracing::Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        if level > Level::INFO || !event.metadata().target().starts_with("sn17_miner") {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        self.0.lock().unwrap().push((level, format!("{}{}", line.message, line.fields)));
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        write!(self.fields, " {}={value}", field.name()).unwrap();
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            write!(self.message, "{value:?}").unwrap();
        } else {
            write!(self.fields, " {}={value:?}", field.name()).unwrap();
        }
    }
}

impl Log {
    pub fn listen(&self) -> tracing::subscriber::DefaultGuard {
        tracing::subscriber::set_default(tracing_subscriber::registry().with(self.clone()))
    }

    /// Lines of WARN and above.
    pub fn warnings(&self) -> Vec<String> {
        let lines = self.0.lock().unwrap();
        lines.iter().filter(|(level, _)| *level <= Level::WARN).map(|(_, text)| text.clone()).collect()
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|(_, text)| text.clone()).collect()
    }

    pub fn with(&self, part: &str) -> Vec<String> {
        self.all().into_iter().filter(|line| line.contains(part)).collect()
    }

    /// Fails unless `part` is in exactly `count` lines.
    #[track_caller]
    pub fn expect(&self, count: usize, part: &str) {
        assert_eq!(self.with(part).len(), count, "{part:?} in {:#?}", self.all());
    }

    #[track_caller]
    pub fn assert_clean(&self) {
        for line in self.all() {
            assert_harmless(&line);
        }
    }
}

/// A line of log is one line, of bounded length, without power over the terminal, without secrets.
#[track_caller]
pub fn assert_harmless(line: &str) {
    assert!(line.len() < 4_000, "{} bytes: {}", line.len(), &line[..200]);
    let bad = |c: &char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert_eq!(line.chars().find(bad), None, "{line:?}");
    let lower = line.to_lowercase();
    for secret in secrets() {
        assert!(!lower.contains(&secret), "a secret in {line}");
    }
}

/// What the agent's key file holds beside public keys.
fn secrets() -> Vec<String> {
    static SECRETS: std::sync::LazyLock<Vec<String>> = std::sync::LazyLock::new(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("wallets.example/default/hotkeys/default");
        let file: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let texts = ["secretPhrase", "secretSeed", "privateKey"].map(|key| file[key].as_str());
        let found: Vec<_> = texts.into_iter().flatten().filter(|text| !text.is_empty()).collect();
        assert!(!found.is_empty(), "the example key has a secret");
        found.iter().map(|text| text.trim_start_matches("0x").to_lowercase()).collect()
    });
    SECRETS.clone()
}

/// What a peer does in place of its honest reply.
pub enum Lie {
    Say(Response),
    /// Nothing ever comes.
    Hang,
}

/// Told the path and how often it was asked before; `None` for the honest reply.
pub type Liar = Arc<dyn Fn(&str, usize) -> Option<Lie> + Send + Sync>;

/// How often each path was asked.
type Asked = Arc<Mutex<HashMap<String, usize>>>;

fn lying(honest: Router, liar: &Liar, asked: &Asked) -> Router {
    let (liar, asked) = (Arc::clone(liar), Arc::clone(asked));
    Router::new().fallback(move |request: Request| {
        let path = request.uri().path().to_owned();
        let nth = {
            let mut asked = asked.lock().unwrap();
            let count = asked.entry(path.clone()).or_default();
            *count += 1;
            *count - 1
        };
        let (lie, honest) = (liar(&path, nth), honest.clone());
        async move {
            match lie {
                Some(Lie::Say(reply)) => reply,
                Some(Lie::Hang) => std::future::pending().await,
                None => honest.oneshot(request).await.unwrap_or_else(|never| match never {}),
            }
        }
    })
}

pub fn reply(status: u16, body: impl Into<Body>) -> Lie {
    Lie::Say(Response::builder().status(status).body(body.into()).unwrap())
}

pub fn with_header(status: u16, name: &str, value: &str, body: impl Into<Body>) -> Lie {
    Lie::Say(Response::builder().status(status).header(name, value).body(body.into()).unwrap())
}

/// `count` pieces of `bytes`, each after `pause`; counts what was taken.
pub fn pieces(bytes: &'static [u8], count: u64, pause: Duration, taken: &Arc<AtomicU64>) -> Body {
    Body::from_stream(endless(bytes, count, pause, Arc::clone(taken)))
}

fn endless(
    bytes: &'static [u8],
    count: u64,
    pause: Duration,
    taken: Arc<AtomicU64>,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    stream::unfold(0, move |sent| {
        let taken = Arc::clone(&taken);
        async move {
            if sent == count {
                return None;
            }
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            taken.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            Some((Ok(Bytes::from_static(bytes)), sent + 1))
        }
    })
}

/// A body that breaks off after some bytes.
pub fn broken(bytes: &'static [u8]) -> Body {
    let frames = [Ok(Bytes::from_static(bytes)), Err(std::io::Error::other("connection reset"))];
    Body::from_stream(stream::iter(frames))
}

/// The agent and its peers.
pub struct Theatre {
    pub settings: Settings,
    pub clock: Clock,
    /// Honest validators; the first one's replies go through its liar.
    pub axons: Vec<DevAxon>,
    pub log: Log,
    validator: Liar,
    generator: Liar,
    scorer: Liar,
    asked: Asked,
    data: tempfile::TempDir,
    _listening: tracing::subscriber::DefaultGuard,
}

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

impl Theatre {
    /// One validator, in this process, under the test's (paused) clock. One candidate per task.
    pub fn new() -> Self {
        Self::with(1, Clock::starting_at(NOW))
    }

    pub fn with(validators: u16, clock: Clock) -> Self {
        let log = Log::default();
        let listening = log.listen();
        let flag = |key: &str, value: &str| (key.to_owned(), value.to_owned(), "test".to_owned());
        let flags =
            vec![flag("rules.cooldown", "15s"), flag("rules.lock", "3s"), flag("decide.max_retries", "0")];
        let settings = load(&Inputs { flags, ..Inputs::default() }).unwrap().settings;
        let axons = (0..validators).map(|number| {
            let seed = 3 + u64::from(number);
            let judge = AxonJudge { seed, noise: 0.0 }.into();
            let key = HotkeyPair::dev(&format!("validator-{number}"));
            let axon = DevAxon::new(
                key,
                clock,
                DevAxonSettings { judge, ..DevAxonSettings::default() },
                TaskMaker::new(seed, 0.0),
            );
            axon.register(Uid(100), *HotkeyPair::dev("miner").hotkey());
            axon
        });
        let honest = || -> Liar { Arc::new(|_, _| None) };
        Self {
            settings,
            clock,
            axons: axons.collect(),
            log,
            validator: honest(),
            generator: honest(),
            scorer: honest(),
            asked: Asked::default(),
            data: tempfile::tempdir().unwrap(),
            _listening: listening,
        }
    }

    pub fn validator(mut self, liar: impl Fn(&str, usize) -> Option<Lie> + Send + Sync + 'static) -> Self {
        self.validator = Arc::new(liar);
        self
    }

    pub fn generator(mut self, liar: impl Fn(&str, usize) -> Option<Lie> + Send + Sync + 'static) -> Self {
        self.generator = Arc::new(liar);
        self
    }

    pub fn scorer(mut self, liar: impl Fn(&str, usize) -> Option<Lie> + Send + Sync + 'static) -> Self {
        self.scorer = Arc::new(liar);
        self
    }

    /// Gives the agent a task before it asks: the first validator hands out this one.
    pub fn assign(&self, id: &str, prompt: Prompt) {
        let miner = HotkeyPair::dev("miner");
        let task = DevTask { id: TaskId::new(id).unwrap(), prompt };
        self.axons[0].ledger(|ledger| ledger.pull(miner.hotkey(), self.clock.now(), || task));
    }

    /// How often something is in the first validator's book.
    pub fn booked(&self, event: &str) -> u64 {
        self.axons[0].ledger(|ledger| ledger.chronicle().count(event))
    }

    /// Runs the agent until `tasks` more have ended; says how long it took by the agent's clock.
    /// Nothing forbidden may have happened at a validator, and the log must be harmless.
    pub async fn run(&self, tasks: u64) -> Duration {
        let took = self.run_blamed(tasks).await;
        self.assert_lawful();
        took
    }

    /// Fails if a validator saw what a miner that keeps the rules never does.
    #[track_caller]
    fn assert_lawful(&self) {
        for axon in &self.axons {
            let counts: Vec<_> = axon.ledger(|ledger| ledger.chronicle().counts().collect());
            let forbidden = axon.ledger(|ledger| ledger.chronicle().forbidden());
            assert_eq!(forbidden, 0, "{counts:?} {:#?}", self.log.all());
        }
    }

    /// As [`Self::run`], where the lie makes an honest agent look guilty.
    pub async fn run_blamed(&self, tasks: u64) -> Duration {
        let mut servers = HashMap::new();
        let place = |last: usize| SocketAddr::from(([10, 0, 0, last as u8], 8000));
        for (number, axon) in self.axons.iter().enumerate() {
            let router = axon.router();
            let router = if number == 0 { lying(router, &self.validator, &self.asked) } else { router };
            servers.insert(place(10 + number), router);
        }
        let generator = DevGenerator::new(DevGeneratorSettings::default(), self.clock);
        servers.insert(place(1), lying(generator.router(), &self.generator, &self.asked));
        let scorer = DevScorer::new(DevScorerSettings::default(), self.clock);
        servers.insert(place(2), lying(scorer.router(), &self.scorer, &self.asked));
        let transport = in_process(servers);
        let transports = Transports {
            pulls: transport.clone(),
            submissions: transport.clone(),
            generator: transport.clone(),
            scorer: transport,
        };
        let validators = (0..).map(|number| place(10 + number)).collect_from(&self.axons);
        self.mine(tasks, transports, validators, [Endpoint::of(place(1)), Endpoint::of(place(2))]).await
    }

    /// As [`Self::run`], over sockets: the validators' addresses, generator and scorer.
    pub async fn run_over_sockets(
        &self,
        tasks: u64,
        validators: &[SocketAddr],
        workers: [SocketAddr; 2],
    ) -> Duration {
        let transports = Transports::over_sockets(&self.settings).unwrap();
        let validators = validators.iter().copied().collect_from(&self.axons);
        let took = self.mine(tasks, transports, validators, workers.map(Endpoint::of)).await;
        self.assert_lawful();
        took
    }

    async fn mine(
        &self,
        tasks: u64,
        transports: Transports,
        validators: Vec<(AxonAddress, Option<Uid>)>,
        [generator, scorer]: [Endpoint; 2],
    ) -> Duration {
        let world = World {
            clock: self.clock,
            seeds: SeedSource::fixed(17),
            hotkeys: vec![Arc::new(HotkeyPair::dev("miner"))],
            peers: Peers::on_one_card(
                validators,
                CardId { host: "here".into(), uuid: "0".into() },
                generator,
                Some(scorer),
            ),
            chain: None,
            transports,
            data: self.data.path().to_owned(),
            locks: Locks { hotkey: false, card: false },
        };
        let started = self.clock.instant();
        let app = App::build(&self.settings, world).await.unwrap();
        let run = app.run(Budget::Tasks(tasks), CancellationToken::new());
        let Ok(finish) = tokio::time::timeout(Duration::from_secs(10 * 86_400), run).await else {
            panic!("the loop does not go on: {:#?}", self.log.all());
        };
        assert_eq!(finish.unwrap(), Finish::Done);
        self.log.assert_clean();
        started.elapsed()
    }
}

/// Pairs addresses with the validators that answer there.
trait CollectFrom {
    fn collect_from(self, axons: &[DevAxon]) -> Vec<(AxonAddress, Option<Uid>)>;
}

impl<I: Iterator<Item = SocketAddr>> CollectFrom for I {
    fn collect_from(self, axons: &[DevAxon]) -> Vec<(AxonAddress, Option<Uid>)> {
        let pair = |(uid, (axon, address)): (u16, (&DevAxon, SocketAddr))| {
            (AxonAddress { hotkey: axon.hotkey(), address }, Some(Uid(uid)))
        };
        (0..).zip(axons.iter().zip(self)).map(pair).collect()
    }
}
