//! A validator's axon: the HTTP around the [ledger](super::ledger).
//!
//! Checks what the axon of bittensor 9.9.0 checks, in its order: hotkey (403), header signature and
//! nonce (401), body (422, 500), handler. Calls without a signature are refused, which the
//! reference lets pass.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio_util::task::TaskTracker;

use super::axon_judge::AxonJudge;
use super::ledger::{
    Chronicle, DevTask, FeedbackFields, PullAnswer, Refusal, Scoring, SignatureCheck, SubmissionStart,
    SubmitAnswer, ValidatorLedger, Verdict,
};
use super::rules::ValidatorRules;
use super::tasks::TaskMaker;
use crate::clock::Clock;
use crate::primitives::{Hotkey, TaskId, Uid, UnixTime};
use crate::protocol::{
    NonceBook, PullTask, RefusedHeaders, SubmitResults, SynapseName, TerminalInfo, WireFeedback, WireTask,
    verify_headers,
};
use crate::wallet::{HotkeyPair, Signable, Signature, verify};

/// Largest submission taken.
const BODY_LIMIT: usize = 256 << 20;

/// How an axon comes to the score of a result.
#[derive(Debug, Clone)]
pub enum Judge {
    /// Decodes it and looks at it.
    Looking(AxonJudge),
    /// Knows results by their bytes; any other scores 0.
    Listed(Arc<[(Bytes, f64)]>),
}

impl From<AxonJudge> for Judge {
    fn from(judge: AxonJudge) -> Self {
        Self::Looking(judge)
    }
}

/// What sets one validator apart.
#[derive(Debug)]
pub struct DevAxonSettings {
    pub rules: ValidatorRules,
    pub judge: Judge,
    /// What scoring takes on top of the work.
    pub scoring: Duration,
    /// How far the validator's clock is ahead of ours, in nanoseconds.
    pub clock_ahead: i64,
    /// How many events and how many received results are remembered one by one; all are counted.
    pub remembered: usize,
}

impl Default for DevAxonSettings {
    fn default() -> Self {
        Self {
            rules: ValidatorRules::fast(),
            judge: AxonJudge::default().into(),
            scoring: Duration::ZERO,
            clock_ahead: 0,
            remembered: Chronicle::KEPT,
        }
    }
}

/// A result that was taken for scoring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub task: TaskId,
    /// Of the SPZ bytes.
    pub sha256: [u8; 32],
}

/// A validator of the development network.
#[derive(Debug, Clone)]
pub struct DevAxon(Arc<Validator>);

#[derive(Debug)]
struct Validator {
    key: HotkeyPair,
    clock: Clock,
    settings: DevAxonSettings,
    ledger: Mutex<ValidatorLedger>,
    nonces: Mutex<NonceBook>,
    tasks: Mutex<TaskMaker>,
    received: Mutex<VecDeque<Received>>,
    /// A handler goes on when its client has gone, as the reference's does.
    handlers: TaskTracker,
}

impl DevAxon {
    pub fn new(key: HotkeyPair, clock: Clock, settings: DevAxonSettings, tasks: TaskMaker) -> Self {
        Self(Arc::new(Validator {
            key,
            clock,
            ledger: Mutex::new(ValidatorLedger::remembering(settings.rules, settings.remembered)),
            settings,
            nonces: Mutex::default(),
            tasks: Mutex::new(tasks),
            received: Mutex::default(),
            handlers: TaskTracker::new(),
        }))
    }

    pub fn hotkey(&self) -> Hotkey {
        *self.0.key.hotkey()
    }

    pub fn register(&self, uid: Uid, hotkey: Hotkey) {
        self.ledger(|ledger| ledger.register(uid, hotkey));
    }

    /// Looks into the validator's book, or changes it.
    pub fn ledger<T>(&self, look: impl FnOnce(&mut ValidatorLedger) -> T) -> T {
        look(&mut self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The latest results that were taken for scoring, in order: all of them, up to
    /// [`DevAxonSettings::remembered`].
    pub fn received(&self) -> Vec<Received> {
        self.0.received.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    pub fn router(&self) -> Router {
        Router::new()
            .route("/PullTask", post(pull))
            .route("/SubmitResults", post(submit))
            .fallback(unknown_synapse)
            .layer(DefaultBodyLimit::max(BODY_LIMIT))
            .with_state(self.clone())
    }
}

impl Validator {
    fn now(&self) -> UnixTime {
        self.clock.now().shifted(i128::from(self.settings.clock_ahead))
    }

    fn verified(&self, headers: &HeaderMap, name: SynapseName) -> Result<(), RefusedHeaders> {
        let mut nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
        verify_headers(headers, name, self.key.hotkey(), self.now(), &mut nonces).map(drop)
    }
}

async fn unknown_synapse(State(axon): State<DevAxon>, uri: Uri) -> Response {
    let name: String = uri.path().chars().skip(1).take(64).filter(|c| c.is_ascii_graphic()).collect();
    let message = format!(
        "Synapse name '{name}' not found. Available synapses ['Synapse', 'PullTask', 'SubmitResults']"
    );
    axon.error(StatusCode::NOT_FOUND, "Synapse", &HeaderMap::new(), &message)
}

async fn pull(State(axon): State<DevAxon>, headers: HeaderMap, body: Bytes) -> Response {
    let name = SynapseName::PullTask;
    if let Err(refused) = axon.0.verified(&headers, name) {
        return axon.error(refused.status, name.as_str(), &headers, &refused.message);
    }
    let mut synapse: PullTask = match parse(&body) {
        Ok(synapse) => synapse,
        Err(fault) => return fault.respond(&axon, name, &headers),
    };
    // The handler goes by the body, as the reference does.
    let Some(miner) = caller(synapse.dendrite.as_ref()) else {
        return axon.error(
            StatusCode::INTERNAL_SERVER_ERROR,
            name.as_str(),
            &headers,
            "Internal Server Error",
        );
    };
    let now = axon.0.now();
    let answer = axon.ledger(|ledger| {
        ledger.pull(&miner, now, || axon.0.tasks.lock().unwrap_or_else(PoisonError::into_inner).next_task())
    });
    match answer {
        PullAnswer::Task { task, validation_threshold, throttle_period, .. } => {
            synapse.task = Some(WireTask {
                kind: task.prompt.kind().to_string(),
                id: task.id.as_str().to_owned(),
                prompt: task.prompt.as_wire().to_owned(),
            });
            synapse.validation_threshold = validation_threshold;
            synapse.throttle_period = throttle_period.as_secs();
            synapse.cooldown_until = 0;
        }
        PullAnswer::Cooling { cooldown_until, cooldown_violations } => {
            synapse.task = None;
            synapse.cooldown_until = cooldown_until.as_secs();
            synapse.cooldown_violations = cooldown_violations.into();
        }
        PullAnswer::Unregistered { cooldown_until } => {
            synapse.task = None;
            synapse.cooldown_until = cooldown_until.as_secs();
        }
    }
    succeed(&mut synapse.axon);
    axon.reply(name, &headers, &synapse)
}

async fn submit(State(axon): State<DevAxon>, headers: HeaderMap, body: Bytes) -> Response {
    let handlers = axon.0.handlers.clone();
    let handled = handlers.spawn(async move { handle_submission(&axon, &headers, &body).await });
    handled
        .await
        .unwrap_or_else(|_| (StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error").into_response())
}

async fn handle_submission(axon: &DevAxon, headers: &HeaderMap, body: &[u8]) -> Response {
    let name = SynapseName::SubmitResults;
    let claimed = headers.get("bt_header_dendrite_hotkey").and_then(|v| v.to_str().ok());
    if let Some(hotkey) = claimed.and_then(|text| text.parse().ok()) {
        let now = axon.0.now();
        if let Err(refusal) = axon.ledger(|ledger| ledger.admit_submission(&hotkey, now)) {
            return axon.forbid(name, headers, &refusal);
        }
    }
    if let Err(refused) = axon.0.verified(headers, name) {
        return axon.error(refused.status, name.as_str(), headers, &refused.message);
    }
    let synapse: SubmitResults<'_> = match parse(body) {
        Ok(synapse) => synapse,
        Err(fault) => return fault.respond(axon, name, headers),
    };
    let broken =
        || axon.error(StatusCode::INTERNAL_SERVER_ERROR, name.as_str(), headers, "Internal Server Error");
    let Some(miner) = caller(synapse.dendrite.as_ref()) else { return broken() };
    let Some(validator) = caller(synapse.axon.as_ref()) else { return broken() };

    let started = axon.ledger(|ledger| {
        ledger.begin_submission(
            &miner,
            axon.0.now(),
            &synapse.task_id,
            synapse.results.is_empty(),
            |prompt| {
                let Ok(signature) = Signature::from_base64(&synapse.signature) else {
                    return SignatureCheck::Malformed;
                };
                let signed = Signable::Submission {
                    submit_time: synapse.submit_time,
                    prompt: prompt.as_wire(),
                    validator: &validator,
                    miner: &miner,
                };
                if verify(&signed, &signature, &miner) {
                    SignatureCheck::Valid
                } else {
                    SignatureCheck::Wrong
                }
            },
        )
    });
    let answer = match started {
        SubmissionStart::Refused(refusal) => return axon.forbid(name, headers, &refusal),
        SubmissionStart::Broken => return broken(),
        SubmissionStart::Answered(answer) => answer,
        SubmissionStart::Scoring(scoring) => axon.score(scoring, &synapse.results).await,
    };
    let SubmitAnswer { feedback, cooldown_until } = answer;
    let mut synapse = synapse;
    synapse.results = "".into();
    synapse.signature = String::new();
    synapse.feedback = Some(on_the_wire(feedback));
    synapse.cooldown_until = cooldown_until.as_secs();
    succeed(&mut synapse.axon);
    axon.reply(name, headers, &synapse)
}

fn on_the_wire(feedback: FeedbackFields) -> WireFeedback {
    let FeedbackFields {
        validation_failed,
        task_fidelity_score,
        average_fidelity_score,
        generations_within_the_window,
        current_duel_rating,
        current_miner_reward,
    } = feedback;
    WireFeedback {
        validation_failed,
        task_fidelity_score,
        average_fidelity_score,
        generations_within_the_window,
        current_duel_rating,
        current_miner_reward,
    }
}

/// The hotkey that one end of a call names in the body.
fn caller(terminal: Option<&TerminalInfo>) -> Option<Hotkey> {
    terminal?.hotkey.as_deref()?.parse().ok()
}

fn succeed(axon: &mut Option<TerminalInfo>) {
    let axon = axon.get_or_insert_default();
    axon.status_code = Some(200);
    axon.status_message = Some("Success".into());
    axon.process_time = Some(0.0);
}

enum BodyFault {
    Syntax(String),
    Types,
}

impl BodyFault {
    fn respond(&self, axon: &DevAxon, name: SynapseName, headers: &HeaderMap) -> Response {
        match self {
            Self::Syntax(message) => {
                let detail = json!({"detail": [{"type": "json_invalid", "msg": message}]});
                (StatusCode::UNPROCESSABLE_ENTITY, axum::Json(detail)).into_response()
            }
            Self::Types => {
                axon.error(StatusCode::INTERNAL_SERVER_ERROR, name.as_str(), headers, "Internal Server Error")
            }
        }
    }
}

fn parse<'a, T: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<T, BodyFault> {
    serde_json::from_slice(body).map_err(|error| match error.classify() {
        serde_json::error::Category::Syntax if !body.is_empty() => BodyFault::Syntax(error.to_string()),
        serde_json::error::Category::Eof if !body.is_empty() => BodyFault::Syntax(error.to_string()),
        _ => BodyFault::Types,
    })
}

impl DevAxon {
    async fn score(&self, scoring: Scoring, results: &str) -> SubmitAnswer {
        let task = scoring.task().clone();
        let spz = STANDARD.decode(results).unwrap_or_default();
        self.remember(&task, &spz);
        self.0.clock.sleep(self.0.settings.scoring).await;
        let verdict = match self.0.settings.judge.clone() {
            Judge::Looking(judge) => {
                let judged = tokio::task::spawn_blocking(move || match super::from_spz(&spz) {
                    Ok(splat) => Verdict::Scored(judge.score(&task.id, &task.prompt, &spz, &splat)),
                    // What does not decode scores nothing, and that is the miner's fault.
                    Err(_) => Verdict::Scored(0.0),
                });
                judged.await.unwrap_or(Verdict::Failed)
            }
            Judge::Listed(known) => {
                let found = known.iter().find(|(bytes, _)| *bytes == spz);
                Verdict::Scored(found.map_or(0.0, |(_, score)| *score))
            }
        };
        self.ledger(|ledger| ledger.finish_submission(scoring, self.0.now(), verdict))
    }

    fn remember(&self, task: &DevTask, spz: &[u8]) {
        let remembered = self.0.settings.remembered;
        if remembered == 0 {
            return;
        }
        let mut received = self.0.received.lock().unwrap_or_else(PoisonError::into_inner);
        if received.len() == remembered {
            received.pop_front();
        }
        received.push_back(Received { task: task.id.clone(), sha256: Sha256::digest(spz).into() });
    }

    fn forbid(&self, name: SynapseName, headers: &HeaderMap, refusal: &Refusal) -> Response {
        let message = format!("Forbidden. Key is blacklisted: {refusal}.");
        self.error(StatusCode::FORBIDDEN, name.as_str(), headers, &message)
    }

    fn error(&self, status: StatusCode, name: &str, asked: &HeaderMap, message: &str) -> Response {
        let mut response = (status, axum::Json(json!({ "message": message }))).into_response();
        self.describe(response.headers_mut(), name, asked, status, message);
        response
    }

    fn reply(&self, name: SynapseName, asked: &HeaderMap, synapse: &impl serde::Serialize) -> Response {
        let mut response = axum::Json(synapse).into_response();
        self.describe(response.headers_mut(), name.as_str(), asked, StatusCode::OK, "Success");
        response
    }

    /// The headers every reply carries: what was asked, and how it ended.
    fn describe(
        &self,
        headers: &mut HeaderMap,
        name: &str,
        asked: &HeaderMap,
        status: StatusCode,
        message: &str,
    ) {
        for (key, value) in asked {
            let key_text = key.as_str();
            let repeated = key_text.starts_with("bt_header_")
                || matches!(key_text, "timeout" | "header_size" | "total_size" | "computed_body_hash");
            if repeated {
                headers.insert(key.clone(), value.clone());
            }
        }
        let mut put = |key: &'static str, text: &str| {
            if let Ok(value) = HeaderValue::from_str(text) {
                headers.insert(HeaderName::from_static(key), value);
            }
        };
        put("name", name);
        put("bt_header_axon_status_code", status.as_str());
        put("bt_header_axon_status_message", message);
        put("bt_header_axon_process_time", "0.001");
        put("bt_header_axon_hotkey", &self.hotkey().to_ss58());
        put("date", &httpdate::fmt_http_date(self.0.now().to_system()));
    }
}
