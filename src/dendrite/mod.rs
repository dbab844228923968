//! Signed calls to axons.
//!
//! One uuid and one strictly increasing nonce per validator ("lane"): parallel calls under one uuid
//! can overtake each other and be refused (vectors/synapse README, "Nonce"), so a lane carries one
//! call at a time. Nonces follow the axon's clock where that is seconds ahead of ours, because it
//! refuses a first nonce that is too old by its own; a lane whose nonces have run ahead, as after our
//! clock was set back, takes another uuid and begins anew. Pulls may reuse a connection that was idle for less than the axon's own limit;
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
    /// The axon's clock is ahead of ours by this, as far as it matters to nonces.
    ahead: Duration,
}

/// A last nonce that is further ahead than this was made by a clock that has since been set back.
const NONCE_LEAD: Duration = Duration::from_secs(1);

/// What a `Date` may be off by: whole seconds, refreshed once a second.
const DATE_SLACK: Duration = Duration::from_secs(2);

/// A `Date` further away is no clock's.
const NO_CLOCK: Duration = Duration::from_secs(86_400);

impl Lane {
    fn new() -> Self {
        Self { uuid: fresh_uuid(), last: None, ahead: Duration::ZERO }
    }

    /// The number of the next call, `now` being our clock.
    fn next(&mut self, now: UnixTime) -> Nonce {
        let now = now + self.ahead;
        if self.last.is_some_and(|last| last.0 > (now + NONCE_LEAD).as_nanos()) {
            (self.uuid, self.last) = (fresh_uuid(), None);
        }
        let nonce = Nonce::next(self.last, now);
        self.last = Some(nonce);
        nonce
    }

    /// Learns from a reply, whatever its status. Whether nonces are made otherwise from now on.
    fn learn(&mut self, reply: &Reply) -> bool {
        let Some(date) = date(reply) else { return false };
        let answered = reply.timing.answered;
        let ahead = date.saturating_since(answered);
        let off = ahead.abs_diff(self.ahead);
        if off <= DATE_SLACK || ahead > NO_CLOCK {
            return false;
        }
        self.ahead = ahead;
        true
    }
}

fn fresh_uuid() -> String {
    uuid::Uuid::new_v4().to_string()
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
        let limits = Limits { first_byte: timeout, total: timeout, body: self.settings.pull_reply_limit };
        let write = |head: &SignedHead| {
            let (dendrite, axon) = (head.dendrite.clone(), head.axon.clone());
            serde_json::to_vec(&PullTask::request(timeout.as_secs_f64(), dendrite, axon))
        };
        let reply = self.call(&self.pulls, SynapseName::PullTask, axon, limits, write).await?;
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
        let limits = Limits { first_byte: timeout, total: timeout, body: self.settings.submit_reply_limit };
        let miner = *self.hotkey.hotkey();
        let submit_time = submission.submit_time.as_nanos();
        let signature = self.hotkey.sign(&Signable::Submission {
            submit_time,
            prompt: submission.prompt.as_wire(),
            validator: &axon.hotkey,
            miner: &miner,
        });
        let write = |head: &SignedHead| {
            let results = submission.spz.map_or_else(String::new, |spz| STANDARD.encode(spz));
            serde_json::to_vec(&SubmitResults::request(
                timeout.as_secs_f64(),
                head.dendrite.clone(),
                head.axon.clone(),
                submission.task_id.as_str(),
                Cow::Owned(results),
                submit_time,
                signature.to_base64(),
            ))
        };
        let reply = self.call(&self.submissions, SynapseName::SubmitResults, axon, limits, write).await?;
        Ok(Answered { reply: SubmitReply::read(&reply.body)?, timing: reply.timing, date: date(&reply) })
    }

    fn lane(&self, axon: Hotkey) -> Arc<tokio::sync::Mutex<Lane>> {
        let mut lanes = self.lanes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Arc::clone(lanes.entry(axon).or_insert_with(|| Arc::new(tokio::sync::Mutex::new(Lane::new()))))
    }

    /// Makes a call in the lane of its axon, with a body that `write` makes for its head.
    ///
    /// An axon that refuses our number, having another idea of the time, has not seen the call to its
    /// handler: it is made once more, by its own clock.
    async fn call(
        &self,
        transport: &Transport,
        name: SynapseName,
        axon: &AxonAddress,
        limits: Limits,
        write: impl Fn(&SignedHead) -> serde_json::Result<Vec<u8>>,
    ) -> Result<Reply, CallError> {
        let lane = self.lane(axon.hotkey);
        let mut lane = lane.lock().await;
        let mut first = true;
        loop {
            let nonce = lane.next(self.clock.now());
            let head = CallHead {
                name,
                axon_hotkey: axon.hotkey,
                axon_address: axon.address,
                uuid: &lane.uuid,
                nonce,
                timeout: limits.total,
                version: self.settings.version,
            };
            let head = sign_headers(&self.hotkey, &head);
            let body = write(&head).map_err(ReplyError::Json)?;
            let url = Endpoint::of(axon.address).at(name.path());
            let call = Call { method: Method::POST, url, headers: head.headers, body: Bytes::from(body) };
            let reply = transport.call(&self.clock, call, &limits).await?;
            let learned = lane.learn(&reply);
            if reply.status == StatusCode::OK {
                return Ok(reply);
            }
            if !(learned && first && reply.status == StatusCode::UNAUTHORIZED) {
                return Err(CallError::Refused { status: reply.status, message: error_message(&reply.body) });
            }
            first = false;
        }
    }
}

fn date(reply: &Reply) -> Option<UnixTime> {
    let text = reply.headers.get(http::header::DATE)?.to_str().ok()?;
    httpdate::parse_http_date(text).ok().map(UnixTime::from_system)
}
