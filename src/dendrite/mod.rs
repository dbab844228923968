//! Signed calls to axons.
//!
//! One uuid and one strictly increasing nonce per validator ("lane"): parallel calls under one uuid
//! can overtake each other and be refused (vectors/synapse README, "Nonce"), so a lane carries one
//! call at a time. Pulls may reuse a connection that was idle for less than the axon's own limit;
//! a submission always opens a fresh one.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, StatusCode};

use crate::clock::Clock;
use crate::net::{Call, Endpoint, Limits, NetError, Reply, Timing, Transport};
use crate::primitives::{ByteSize, Hotkey, Prompt, TaskId, UnixTime};
use crate::protocol::{
    CallHead, Nonce, PullReply, PullTask, ReplyError, SignedHead, SubmitReply, SubmitResults, SynapseName,
    error_message, sign_headers,
};
use crate::wallet::{HotkeyPair, Signable};

/// Limits and constants of the calls (`[dendrite]` in the configuration).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    pub pull_timeout: Duration,
    pub submit_timeout: Duration,
    pub pull_reply_limit: ByteSize,
    pub submit_reply_limit: ByteSize,
    /// `bt_header_dendrite_version`.
    pub version: i64,
}

/// A validator's axon: who it is and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AxonAddress {
    pub hotkey: Hotkey,
    pub address: SocketAddr,
}

/// What a submission carries.
#[derive(Debug, Clone, Copy)]
pub struct Submission<'a> {
    pub task_id: &'a TaskId,
    /// Exactly as it was pulled: the signature is over it.
    pub prompt: &'a Prompt,
    /// The SPZ file, or `None` to decline.
    pub spz: Option<&'a [u8]>,
    /// By our clock; signed.
    pub submit_time: UnixTime,
}

/// Why a call brought no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error(transparent)]
    Net(#[from] NetError),
    /// The axon answered with an error status. `message` is its own text, as sent.
    #[error("the axon answered {status}")]
    Refused { status: StatusCode, message: Option<String> },
    #[error(transparent)]
    Unreadable(#[from] ReplyError),
}

impl CallError {
    /// Whether the same call may succeed later without anything being changed on our side.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Net(_) | Self::Unreadable(_) => true,
            Self::Refused { status, .. } => {
                status.is_server_error()
                    || *status == StatusCode::REQUEST_TIMEOUT
                    || *status == StatusCode::FORBIDDEN
            }
        }
    }

    /// Whether the axon may have acted on the call although no usable answer came back.
    pub fn may_have_arrived(&self) -> bool {
        match self {
            Self::Net(error) => error.may_have_arrived(),
            Self::Refused { status, .. } => {
                status.is_server_error() || *status == StatusCode::REQUEST_TIMEOUT
            }
            Self::Unreadable(_) => true,
        }
    }
}

/// An answer, with what it tells about the axon's clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered<T> {
    pub reply: T,
    pub timing: Timing,
    /// The `Date` header: the axon's clock, whole seconds rounded down, possibly lagging.
    pub date: Option<UnixTime>,
}

/// Calls axons on behalf of one hotkey.
#[derive(Debug)]
pub struct Dendrite {
    hotkey: Arc<HotkeyPair>,
    clock: Clock,
    settings: Settings,
    pulls: Transport,
    submissions: Transport,
    lanes: Mutex<HashMap<Hotkey, Arc<tokio::sync::Mutex<Lane>>>>,
}

#[derive(Debug)]
struct Lane {
    uuid: String,
    last: Option<Nonce>,
}

impl Dendrite {
    /// `pulls` carries pulls, `submissions` submissions; see the module's docs for how they differ.
    pub fn new(
        hotkey: Arc<HotkeyPair>,
        clock: Clock,
        settings: Settings,
        pulls: Transport,
        submissions: Transport,
    ) -> Self {
        Self { hotkey, clock, settings, pulls, submissions, lanes: Mutex::default() }
    }

    pub fn hotkey(&self) -> Hotkey {
        *self.hotkey.hotkey()
    }

    /// Asks an axon for a task.
    ///
    /// # Errors
    /// See [`CallError`]. After one that [`CallError::may_have_arrived`] a task may be assigned:
    /// pulling again at once is free then (rules.md R8).
    pub async fn pull(&self, axon: &AxonAddress) -> Result<Answered<PullReply>, CallError> {
        let timeout = self.settings.pull_timeout;
        let lane = self.lane(axon.hotkey);
        let mut lane = lane.lock().await;
        let head = self.head(&mut lane, SynapseName::PullTask, axon, timeout);
        let body = PullTask::request(timeout.as_secs_f64(), head.dendrite, head.axon);
        let body = serde_json::to_vec(&body).map_err(ReplyError::Json)?;
        let limits = Limits { first_byte: timeout, total: timeout, body: self.settings.pull_reply_limit };
        let reply = self.call(&self.pulls, SynapseName::PullTask, axon, head.headers, body, limits).await?;
        Ok(Answered { reply: PullReply::read(&reply.body)?, timing: reply.timing, date: date(&reply) })
    }

    /// Signs a submission and sends it.
    ///
    /// # Errors
    /// See [`CallError`]. After one that [`CallError::may_have_arrived`] the outcome is unknown.
    pub async fn submit(
        &self,
        axon: &AxonAddress,
        submission: Submission<'_>,
    ) -> Result<Answered<SubmitReply>, CallError> {
        let timeout = self.settings.submit_timeout;
        let lane = self.lane(axon.hotkey);
        let mut lane = lane.lock().await;
        let miner = *self.hotkey.hotkey();
        let submit_time = submission.submit_time.as_nanos();
        let signature = self.hotkey.sign(&Signable::Submission {
            submit_time,
            prompt: submission.prompt.as_wire(),
            validator: &axon.hotkey,
            miner: &miner,
        });
        let head = self.head(&mut lane, SynapseName::SubmitResults, axon, timeout);
        let results = submission.spz.map_or_else(String::new, |spz| STANDARD.encode(spz));
        let body = SubmitResults::request(
            timeout.as_secs_f64(),
            head.dendrite,
            head.axon,
            submission.task_id.as_str(),
            Cow::Owned(results),
            submit_time,
            signature.to_base64(),
        );
        let encoded = serde_json::to_vec(&body).map_err(ReplyError::Json)?;
        drop(body);
        let limits = Limits { first_byte: timeout, total: timeout, body: self.settings.submit_reply_limit };
        let reply = self
            .call(&self.submissions, SynapseName::SubmitResults, axon, head.headers, encoded, limits)
            .await?;
        Ok(Answered { reply: SubmitReply::read(&reply.body)?, timing: reply.timing, date: date(&reply) })
    }

    fn lane(&self, axon: Hotkey) -> Arc<tokio::sync::Mutex<Lane>> {
        let mut lanes = self.lanes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let fresh =
            || Arc::new(tokio::sync::Mutex::new(Lane { uuid: uuid::Uuid::new_v4().to_string(), last: None }));
        Arc::clone(lanes.entry(axon).or_insert_with(fresh))
    }

    fn head(&self, lane: &mut Lane, name: SynapseName, axon: &AxonAddress, timeout: Duration) -> SignedHead {
        let nonce = Nonce::next(lane.last, self.clock.now());
        lane.last = Some(nonce);
        let call = CallHead {
            name,
            axon_hotkey: axon.hotkey,
            axon_address: axon.address,
            uuid: &lane.uuid,
            nonce,
            timeout,
            version: self.settings.version,
        };
        sign_headers(&self.hotkey, &call)
    }

    async fn call(
        &self,
        transport: &Transport,
        name: SynapseName,
        axon: &AxonAddress,
        headers: http::HeaderMap,
        body: Vec<u8>,
        limits: Limits,
    ) -> Result<Reply, CallError> {
        let url = Endpoint::of(axon.address).at(name.path());
        let call = Call { method: Method::POST, url, headers, body: Bytes::from(body) };
        let reply = transport.call(&self.clock, call, &limits).await?;
        if reply.status == StatusCode::OK {
            return Ok(reply);
        }
        Err(CallError::Refused { status: reply.status, message: error_message(&reply.body) })
    }
}

fn date(reply: &Reply) -> Option<UnixTime> {
    let text = reply.headers.get(http::header::DATE)?.to_str().ok()?;
    httpdate::parse_http_date(text).ok().map(UnixTime::from_system)
}
