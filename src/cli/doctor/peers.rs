//! What answers on the other side: chain nodes, validators, worker servers.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;

use super::Check;
use super::timekeeping::{self, Ahead};
use crate::app::Peers;
use crate::chain::{ChainClient, ChainError, Metagraph, NodeUrl, Probe, Registration, Synced};
use crate::cli::run::chain_settings;
use crate::clock::Clock;
use crate::config::{Settings, WorkerSettings};
use crate::devnet::network::Served;
use crate::gpu::Tenant;
use crate::net::{Call, Connections, Endpoint, Limits, NetError, Reply, Transport};
use crate::primitives::{ByteSize, Hotkey, Uid, Untrusted};
use crate::store::Remembered;
use crate::workers::Dialect;

/// Of one chain call, and of the connection before it.
const CHAIN_CALL: Duration = Duration::from_secs(4);

/// Of all that is asked of the chain, node after node.
const CHAIN: Duration = Duration::from_secs(8);

/// Of one HTTP question. Whoever takes longer is of no use for pulls either.
const QUESTION: Duration = Duration::from_secs(3);

const LIMITS: Limits = Limits { first_byte: QUESTION, total: QUESTION, body: ByteSize(256 << 10) };

/// A validator to look at.
struct Peer {
    hotkey: Hotkey,
    uid: Option<Uid>,
    endpoint: Endpoint,
}

/// Chain nodes, our registration, the validators and our clock, in this order.
pub(super) async fn network(
    settings: &Settings,
    devnet: Option<&Served>,
    hotkey: Option<&Hotkey>,
    data: Option<&Path>,
    clock: Clock,
) -> Vec<Check> {
    let (mut checks, metagraph, mut clocks) = chain(settings, devnet, hotkey, data, clock).await;
    let validators = match metagraph {
        None => named(settings),
        Some(metagraph) => admitted(settings, &metagraph, hotkey, clock),
    };
    let (reached, more) = reach(&validators, !settings.validators.is_empty(), clock).await;
    clocks.extend(more);
    checks.extend(reached);
    checks.push(timekeeping::clock(&clocks));
    checks
}

fn named(settings: &Settings) -> Vec<Peer> {
    let named = settings.validators.iter();
    named.map(|v| Peer { hotkey: v.hotkey, uid: v.uid, endpoint: Endpoint::of(v.address) }).collect()
}

fn admitted(settings: &Settings, metagraph: &Metagraph, own: Option<&Hotkey>, clock: Clock) -> Vec<Peer> {
    let mut admission = settings.admission.clone();
    // Everything embedded is on loopback.
    admission.allow_private |= settings.embeds_validators();
    let own: Vec<Hotkey> = own.copied().into_iter().collect();
    let admitted = admission.admitted(metagraph, &own, clock.now()).into_iter();
    admitted
        .map(|(axon, uid)| Peer { hotkey: axon.hotkey, uid: Some(uid), endpoint: Endpoint::of(axon.address) })
        .collect()
}

/// Asks every node, and the first good one for the subnet. The kept metagraph of an earlier run stands
/// in for one that cannot be read.
async fn chain(
    settings: &Settings,
    devnet: Option<&Served>,
    hotkey: Option<&Hotkey>,
    data: Option<&Path>,
    clock: Clock,
) -> (Vec<Check>, Option<Metagraph>, Vec<Ahead>) {
    let mut reading = match chain_settings(settings, devnet) {
        Ok(Some((reading, _))) => reading,
        Ok(None) => {
            let message = "the chain is not asked: the validators are named in the configuration";
            return (vec![Check::pass("registration", message)], None, Vec::new());
        }
        Err(error) => {
            let check = Check::fail("endpoint", format!("{error:#}"), "look at network.endpoints");
            return (vec![check], None, Vec::new());
        }
    };
    reading.connect_timeout = CHAIN_CALL;
    reading.call_deadline = CHAIN_CALL;
    let nodes = reading.nodes.clone();
    let prober = ChainClient::over_websocket(reading.clone(), clock);
    let mut client = ChainClient::over_websocket(reading, clock);
    let hotkeys: Vec<Hotkey> = hotkey.into_iter().copied().collect();
    let (probes, synced) = tokio::join!(
        join_all(nodes.iter().map(|node| tokio::time::timeout(CHAIN, prober.probe(node)))),
        tokio::time::timeout(CHAIN, client.sync(&hotkeys)),
    );
    let any = probes.iter().any(|probe| matches!(probe, Ok(Ok(_))));
    let mut clocks = Vec::new();
    let mut checks = Vec::new();
    for (node, probe) in nodes.iter().zip(probes) {
        let probe = probe.map_err(|_| silent()).and_then(|probe| probe.map_err(|error| error.to_string()));
        if let Ok(Probe { connect, latency, block_time: Some(made), asked_at, .. }) = &probe {
            clocks.push(Ahead::by_block(*made, *asked_at, *asked_at + *connect + *latency));
        }
        checks.push(endpoint(node, probe, any));
    }
    let synced =
        synced.map_err(|_| silent()).and_then(|synced| synced.map_err(|e: ChainError| e.to_string()));
    match synced {
        Ok(synced) => {
            checks.push(registration(settings, hotkey, &synced));
            let metagraph = synced.metagraph.as_ref().clone();
            (checks, Some(metagraph), clocks)
        }
        Err(error) => {
            let kept = match data {
                Some(data) => Remembered::read(data, settings.network.as_str(), settings.netuid).await.ok(),
                None => None,
            };
            let kept = kept.and_then(|kept| kept.metagraph.ok().flatten());
            let advice = match &kept {
                Some(_) => "the agent mines by the metagraph of its last run; look at network.endpoints",
                None => "look at network.endpoints and at this machine's connection",
            };
            checks.push(Check::fail("registration", format!("not known: {error}"), advice));
            (checks, kept, clocks)
        }
    }
}

fn silent() -> String {
    format!("no answer within {} s", CHAIN.as_secs())
}

fn endpoint(node: &NodeUrl, probe: Result<Probe, String>, another: bool) -> Check {
    match probe {
        Ok(probe) => {
            let message = format!("block {}, runtime {}", probe.block, probe.spec_version);
            Check::pass("endpoint", message).taking(probe.connect + probe.latency)
        }
        Err(error) if another => {
            Check::warn("endpoint", error, "the agent goes to the next one; take it out if it stays away")
        }
        Err(error) => Check::fail(
            "endpoint",
            error,
            "look at network.endpoints and at this machine's connection; name further nodes",
        ),
    }
    .of(node)
}

fn registration(settings: &Settings, hotkey: Option<&Hotkey>, synced: &Synced) -> Check {
    let Some(hotkey) = hotkey else {
        return Check::fail(
            "registration",
            "the wallet names no hotkey to ask about",
            "see the wallet above",
        );
    };
    let check = match synced.registrations.first() {
        Some((_, Registration::Registered { uid, block })) => {
            Check::pass("registration", format!("uid {uid} on subnet {} at block {block}", settings.netuid))
        }
        Some((_, Registration::NotRegistered { .. })) | None => Check::fail(
            "registration",
            format!("not registered on subnet {}", settings.netuid),
            settings.how_to_register(),
        ),
    };
    check.of(hotkey)
}

/// Asks each validator for a page that no axon has. Any answer will do, and none of them is a pull.
async fn reach(validators: &[Peer], by_configuration: bool, clock: Clock) -> (Vec<Check>, Vec<Ahead>) {
    if validators.is_empty() {
        let advice = "look at network.min_stake, allow and deny, and at the chain above";
        return (vec![Check::fail("validator", "there is none to mine for", advice)], Vec::new());
    }
    let transport = match Transport::http(QUESTION, Connections::Fresh) {
        Ok(transport) => transport,
        Err(error) => return (vec![Check::fail("validator", error.to_string(), "restart")], Vec::new()),
    };
    let answers = join_all(validators.iter().map(|peer| get(&transport, &clock, &peer.endpoint, "/"))).await;
    let any = answers.iter().any(is_alive);
    let mut clocks = Vec::new();
    let mut checks = Vec::new();
    for (peer, answer) in validators.iter().zip(answers) {
        let uid = peer.uid.map(|uid| format!("uid {uid} ")).unwrap_or_default();
        let alive = is_alive(&answer);
        let check = match answer {
            Ok(reply) => {
                let date = reply.headers.get(http::header::DATE).and_then(|date| date.to_str().ok());
                let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
                if let Some(date) = date.map(crate::primitives::UnixTime::from_system) {
                    clocks.push(Ahead::by_date(date, reply.timing.sent, reply.timing.answered));
                }
                Check::pass("validator", "answers").taking(reply.timing.first_byte)
            }
            Err(_) if alive => Check::pass("validator", "answers"),
            // Of many validators a few are always away, and nobody can help it.
            Err(error) if any && !by_configuration => {
                Check::warn("validator", error.to_string(), "nothing to do: the others are mined for")
            }
            Err(error) => Check::fail(
                "validator",
                error.to_string(),
                "look at this machine's connection and firewall, and at [[validators]] if it is named there",
            ),
        };
        checks.push(check.of(format!("{uid}{} at {}", peer.hotkey, peer.endpoint)));
    }
    (checks, clocks)
}

/// An answer that we refuse is one.
fn is_alive(answer: &Result<Reply, NetError>) -> bool {
    matches!(answer, Ok(_) | Err(NetError::Redirected(_) | NetError::TooLarge(_)))
}

async fn get(
    transport: &Transport,
    clock: &Clock,
    endpoint: &Endpoint,
    path: &str,
) -> Result<Reply, NetError> {
    let call =
        Call { method: Method::GET, url: endpoint.at(path), headers: HeaderMap::new(), body: Bytes::new() };
    transport.call(clock, call, &LIMITS).await
}

/// Routes that change nothing on any known worker. `/status/` is not among them (workers.md 1.4).
const ROUTES: [&str; 5] = ["/version/", "/version", "/health", "/health/", "/gpu_status/"];

/// What a worker says to each of [`ROUTES`].
struct Worker {
    answers: Vec<Result<Reply, NetError>>,
}

impl Worker {
    async fn ask(endpoint: &Endpoint, clock: Clock) -> Result<Self, NetError> {
        let transport = Transport::http(QUESTION, Connections::Fresh)?;
        let answers = join_all(ROUTES.iter().map(|path| get(&transport, &clock, endpoint, path))).await;
        Ok(Self { answers })
    }

    /// The JSON of a route that answered 200.
    fn says(&self, route: &str) -> Option<Value> {
        let position = ROUTES.iter().position(|known| *known == route)?;
        let reply = self.answers.get(position)?.as_ref().ok()?;
        (reply.status == StatusCode::OK).then(|| serde_json::from_slice(&reply.body).ok())?
    }

    /// Why nobody can be there, if nobody can.
    fn refusal(&self) -> Option<&NetError> {
        let refused = |answer: &Result<Reply, NetError>| matches!(answer, Err(NetError::Connect(_)));
        if !self.answers.iter().all(refused) {
            return None;
        }
        self.answers.iter().find_map(|answer| answer.as_ref().err())
    }

    fn is_silent(&self) -> bool {
        !self.answers.iter().any(is_alive)
    }

    /// The routes that answered 200, for the reader.
    fn routes(&self) -> String {
        let answered = |answer: &Result<Reply, NetError>| {
            answer.as_ref().is_ok_and(|reply| reply.status == StatusCode::OK)
        };
        let routes: Vec<&str> = ROUTES
            .iter()
            .zip(&self.answers)
            .filter_map(|(route, answer)| answered(answer).then_some(*route))
            .collect();
        if routes.is_empty() { "none of the known routes".to_owned() } else { routes.join(", ") }
    }

    fn latency(&self) -> Option<Duration> {
        self.answers.iter().flatten().map(|reply| reply.timing.first_byte).min()
    }

    /// Version of the validators' validation service, if it is one (VAL-OFF, VAL-HO).
    fn validation_version(&self) -> Option<String> {
        match self.says("/version/")? {
            Value::String(version) => Some(Untrusted::new(&version).to_string()),
            _ => None,
        }
    }

    /// Whether it says that it runs without its card.
    fn is_on_cpu(&self) -> bool {
        let says_so =
            |route, key| self.says(route).is_some_and(|health| health.get(key) == Some(&false.into()));
        ["/health", "/health/"].iter().any(|route| says_so(route, "gpu_enabled"))
            || says_so("/gpu_status/", "gpu_available")
    }

    /// Which known generator it looks like, and the dialects that one takes.
    fn generator(&self) -> Option<(&'static str, &'static [Dialect])> {
        let health = self.says("/health");
        let has = |key: &str| health.as_ref().is_some_and(|health| health.get(key).is_some());
        if self.says("/version").is_some_and(|version| version.is_string()) && health.is_some() {
            return Some(("the base miner's generator (GEN-BASE)", &[Dialect::Image]));
        }
        if has("models_loaded") {
            return Some(("a FLUX and TRELLIS generator (GEN-CMP)", &[Dialect::FormImage, Dialect::Form]));
        }
        if has("pipeline_loaded") {
            return Some(("a bare TRELLIS service (TRL-MS), which speaks none of our dialects", &[]));
        }
        if self.says("/health/").is_some_and(|health| health.get("timestamp").is_some()) {
            return Some(("a Hunyuan generator (GEN-HUN)", &[Dialect::Form]));
        }
        None
    }
}

/// How the configuration names a dialect.
const fn dialect_name(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Form => "form",
        Dialect::Image => "image",
        Dialect::FormImage => "form-image",
    }
}

pub(super) async fn generators(settings: &Settings, places: &Peers, clock: Clock) -> Vec<Check> {
    let configured = settings.workers_as(Tenant::Generator);
    join_all(configured.zip(&places.cards).map(async |(configured, place)| {
        let check = match Worker::ask(&place.generator, clock).await {
            Err(error) => Check::fail("generator", error.to_string(), "restart"),
            Ok(worker) => judge_generator(configured, &worker),
        };
        check.of(format!("{} at {}", configured.name, place.generator))
    }))
    .await
}

fn judge_generator(configured: &WorkerSettings, worker: &Worker) -> Check {
    let dialect = dialect_name(configured.dialect);
    if worker.refusal().is_some() && configured.process.is_some() {
        return Check::pass("generator", "does not run; the agent starts it");
    }
    if let Some(error) = worker.refusal() {
        return Check::fail("generator", error.to_string(), "start it, or correct its url under [[workers]]");
    }
    if worker.is_silent() {
        return Check::warn(
            "generator",
            format!("takes connections and answered nothing within {} s", QUESTION.as_secs()),
            "most generators are deaf while they work; if none is going on, restart it",
        );
    }
    let routes = worker.routes();
    let check = if worker.is_on_cpu() {
        Check::fail(
            "generator",
            format!("runs without its card (gpu_enabled: false), which counts as gone; {routes} answered"),
            "a silent fallback to the CPU is as good as away: look at its log and its CUDA",
        )
    } else if let Some(version) = worker.validation_version() {
        Check::fail(
            "generator",
            format!("is a validation service, version {version}"),
            "name it as the scorer, and a generator beside it",
        )
    } else {
        match worker.generator() {
            Some((what, dialects)) if dialects.contains(&configured.dialect) => {
                Check::pass("generator", format!("{what}, dialect {dialect}; {routes} answered"))
            }
            Some((what, dialects)) => {
                let wanted = dialects.first().map_or("another generator", |dialect| dialect_name(*dialect));
                Check::warn(
                    "generator",
                    format!("looks like {what}, and dialect {dialect} is configured; {routes} answered"),
                    format!("set its dialect to {wanted} under [[workers]]"),
                )
            }
            // The official generator has no route but the one that generates.
            None => Check::pass(
                "generator",
                format!("answers; nothing contradicts the configured dialect {dialect}; {routes} answered"),
            ),
        }
    };
    match worker.latency() {
        Some(latency) => check.taking(latency),
        None => check,
    }
}

pub(super) async fn scorers(settings: &Settings, places: &Peers, clock: Clock) -> Vec<Check> {
    let mut scorers: Vec<(&WorkerSettings, &Endpoint)> = Vec::new();
    for (generator, place) in settings.workers_as(Tenant::Generator).zip(&places.cards) {
        let configured = settings.gpu_of(generator).and_then(|gpu| settings.scorer_for(gpu));
        // Cards may share one.
        if let Some(scorer) = configured.zip(place.scorer.as_ref())
            && !scorers.iter().any(|(_, endpoint)| *endpoint == scorer.1)
        {
            scorers.push(scorer);
        }
    }
    if scorers.is_empty() {
        let message = "there is none: results are submitted unscored, and a low one costs the penalty";
        return vec![Check::warn("scorer", message, "name one under [[workers]]")];
    }
    join_all(scorers.into_iter().map(async |(configured, endpoint)| {
        let check = match Worker::ask(endpoint, clock).await {
            Err(error) => Check::fail("scorer", error.to_string(), "restart"),
            Ok(worker) => judge_scorer(configured, &worker),
        };
        check.of(format!("{} at {endpoint}", configured.name))
    }))
    .await
}

fn judge_scorer(configured: &WorkerSettings, worker: &Worker) -> Check {
    if worker.refusal().is_some() && configured.process.is_some() {
        return Check::pass("scorer", "does not run; the agent starts it");
    }
    if let Some(error) = worker.refusal() {
        return Check::fail(
            "scorer",
            error.to_string(),
            "start it, wait until its models are loaded, or correct its url under [[workers]]",
        );
    }
    if worker.is_silent() {
        return Check::warn(
            "scorer",
            format!("takes connections and answered nothing within {} s", QUESTION.as_secs()),
            "it may be reloading its models; if that does not end, restart it",
        );
    }
    let routes = worker.routes();
    let check = match worker.validation_version() {
        Some(version) => {
            let hand_off = if worker.says("/gpu_status/").is_some() { " with hand-off routes" } else { "" };
            Check::pass("scorer", format!("validation service {version}{hand_off}; {routes} answered"))
        }
        None => Check::fail(
            "scorer",
            format!("is no validation service: /version/ gives no version; {routes} answered"),
            "correct its url under [[workers]]",
        ),
    };
    match worker.latency() {
        Some(latency) => check.taking(latency),
        None => check,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Timing;
    use crate::primitives::UnixTime;
    use crate::wallet::Verdict;

    /// A worker that answers these routes so, and the rest with 404.
    fn worker(routes: &[(&str, &str)]) -> Worker {
        let timing = Timing {
            sent: UnixTime::EPOCH,
            begun: tokio::time::Instant::now(),
            answered: UnixTime::EPOCH,
            sent_bytes: 0,
            uploaded: None,
            first_byte: Duration::from_millis(3),
            total: Duration::from_millis(3),
        };
        let answer = |route: &&str| {
            let body = routes.iter().find(|(known, _)| known == route);
            let status = if body.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
            let body = body.map(|(_, body)| body.as_bytes().to_vec()).unwrap_or_default();
            Ok(Reply { status, headers: HeaderMap::new(), body, timing })
        };
        Worker { answers: ROUTES.iter().map(answer).collect() }
    }

    fn configured(dialect: Dialect) -> WorkerSettings {
        let settings = crate::config::load(&crate::config::Inputs::default()).unwrap().settings;
        WorkerSettings { dialect, ..settings.generator }
    }

    #[test]
    fn generators_are_told_by_their_routes() {
        let healthy = r#"{"status":"healthy"}"#;
        let base = worker(&[("/version", "\"0.0.0\""), ("/health", healthy)]);
        let cmp = worker(&[("/health", r#"{"status":"healthy","models_loaded":{"flux":true}}"#)]);
        let hun = worker(&[("/health/", r#"{"status":"healthy","timestamp":1.5}"#)]);
        let official = worker(&[]);
        let cases = [
            (&base, Dialect::Image, Verdict::Pass),
            (&base, Dialect::Form, Verdict::Warn),
            (&cmp, Dialect::FormImage, Verdict::Pass),
            (&cmp, Dialect::Form, Verdict::Pass),
            (&cmp, Dialect::Image, Verdict::Warn),
            (&hun, Dialect::Form, Verdict::Pass),
            (&hun, Dialect::Image, Verdict::Warn),
            (&official, Dialect::Form, Verdict::Pass),
        ];
        for (worker, dialect, verdict) in cases {
            let check = judge_generator(&configured(dialect), worker);
            assert_eq!(check.verdict, verdict, "{dialect:?}: {check:?}");
        }
    }

    #[test]
    fn a_scorer_in_the_place_of_the_generator_is_noticed_and_the_other_way_round() {
        let scorer = worker(&[("/version/", "\"2.4.0\"")]);
        assert_eq!(judge_generator(&configured(Dialect::Form), &scorer).verdict, Verdict::Fail);
        assert_eq!(judge_scorer(&configured(Dialect::Form), &scorer).verdict, Verdict::Pass);
        assert_eq!(
            judge_scorer(&configured(Dialect::Form), &worker(&[("/health", "{}")])).verdict,
            Verdict::Fail
        );
        let with_hand_off = worker(&[("/version/", "\"2.2.0\""), ("/gpu_status/", "{}")]);
        assert!(judge_scorer(&configured(Dialect::Form), &with_hand_off).message.contains("hand-off"));
    }

    #[test]
    fn a_generator_without_its_card_is_as_good_as_gone() {
        let fallen = [
            ("/health", r#"{"status":"healthy","gpu_enabled":false,"model_loaded":true}"#),
            ("/gpu_status/", r#"{"gpu_available":false}"#),
        ];
        for route in fallen {
            let check = judge_generator(&configured(Dialect::Form), &worker(&[route]));
            assert_eq!(check.verdict, Verdict::Fail);
            assert!(check.message.contains("gpu_enabled: false"), "{check:?}");
        }
        let well = worker(&[("/health", r#"{"status":"healthy","gpu_enabled":true}"#)]);
        assert_eq!(judge_generator(&configured(Dialect::Form), &well).verdict, Verdict::Pass);
    }

    #[test]
    fn silence_is_no_death_and_refusal_is() {
        let all = |error: fn() -> NetError| Worker { answers: ROUTES.iter().map(|_| Err(error())).collect() };
        let deaf = all(|| NetError::FirstByteTimeout(QUESTION));
        assert_eq!(judge_generator(&configured(Dialect::Form), &deaf).verdict, Verdict::Warn);
        assert_eq!(judge_scorer(&configured(Dialect::Form), &deaf).verdict, Verdict::Warn);
        let dead = all(|| NetError::Connect("refused".into()));
        assert_eq!(judge_generator(&configured(Dialect::Form), &dead).verdict, Verdict::Fail);
        assert_eq!(judge_scorer(&configured(Dialect::Form), &dead).verdict, Verdict::Fail);
    }
}
