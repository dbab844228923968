//! Single JSON-RPC calls, within limits.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use subxt::ext::jsonrpsee::client_transport::ws::WsHandshakeError;
use subxt::ext::jsonrpsee::core::client::Error as JsonrpseeError;
use subxt::ext::jsonrpsee::ws_client::WsClientBuilder;
use subxt::rpcs::client::{RawRpcFuture, RawRpcSubscription, RawValue};
use subxt::rpcs::{Error as RpcError, RpcClient, RpcClientT};
use tokio::sync::oneshot;

use super::{ChainError, NodeUrl};
use crate::primitives::{ByteSize, Untrusted};

/// A node cannot be connected to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    #[error("{0}")]
    Unreachable(String),
    /// The node is there and turns us away for asking too often.
    #[error("{0}")]
    RateLimited(String),
}

/// Opens connections to nodes: sockets in production, a server in this process in paused tests.
/// A client it returns must not reconnect by itself; a broken connection is left and dialled anew.
pub trait Dial: Send + Sync + 'static {
    fn dial<'a>(&'a self, node: &'a NodeUrl) -> BoxFuture<'a, Result<RpcClient, DialError>>;
}

impl<F> Dial for F
where
    F: Fn(&NodeUrl) -> Result<RpcClient, DialError> + Send + Sync + 'static,
{
    fn dial<'a>(&'a self, node: &'a NodeUrl) -> BoxFuture<'a, Result<RpcClient, DialError>> {
        Box::pin(std::future::ready(self(node)))
    }
}

/// JSON-RPC over a WebSocket; `wss` is verified against the system's certificates.
#[derive(Debug, Clone)]
pub struct WebSocket {
    reply_limit: ByteSize,
    deadline: Duration,
    call_deadline: Duration,
}

impl WebSocket {
    /// A message longer than `reply_limit` closes the connection before it is read whole. `deadline`
    /// is that of connecting.
    pub const fn new(reply_limit: ByteSize, deadline: Duration, call_deadline: Duration) -> Self {
        Self { reply_limit, deadline, call_deadline }
    }
}

impl Dial for WebSocket {
    fn dial<'a>(&'a self, node: &'a NodeUrl) -> BoxFuture<'a, Result<RpcClient, DialError>> {
        Box::pin(async move {
            let limit = u32::try_from(self.reply_limit.0).unwrap_or(u32::MAX);
            let builder = WsClientBuilder::new()
                .max_response_size(limit)
                .max_frame_size(limit)
                .connection_timeout(self.deadline)
                // The guard around every call has the deadline; this one only keeps the client from
                // remembering for ever what the guard gave up.
                .request_timeout(self.call_deadline.saturating_mul(2))
                // Attempts, the first included: nobody is followed elsewhere.
                .max_redirections(1);
            let url = node.expose().to_owned();
            let runtime = tokio::runtime::Handle::current();
            // jsonrpsee asks the system's resolver on the spot, which can take half a minute. A thread
            // of its own, since the runtime's blocking pool would hold up our exit for as long.
            let (sender, receiver) = oneshot::channel();
            std::thread::Builder::new()
                .name("chain-dial".into())
                .spawn(move || drop(sender.send(runtime.block_on(builder.build(url)))))
                .map_err(|e| DialError::Unreachable(e.to_string()))?;
            let dialled = receiver.await.map_err(|e| DialError::Unreachable(e.to_string()))?;
            let client = dialled.map_err(dial_error)?;
            Ok(RpcClient::new(client))
        })
    }
}

fn dial_error(error: JsonrpseeError) -> DialError {
    let reason = shown(&error);
    if let JsonrpseeError::Transport(cause) = &error
        && let Some(WsHandshakeError::Rejected { status_code: 429 }) = cause.downcast_ref()
    {
        return DialError::RateLimited(reason);
    }
    DialError::Unreachable(reason)
}

/// A foreign error on one line.
pub(super) fn shown(error: &dyn fmt::Display) -> String {
    Untrusted::new(&error.to_string()).to_string()
}

/// Why a call failed, before subxt wraps it: some of its own errors keep only a text.
#[derive(Debug, Clone)]
pub(super) enum CallFailure {
    Deadline { method: String, deadline: Duration },
    TooLong { method: String, bytes: usize, limit: ByteSize },
    RateLimited { reason: String },
    Refused { method: String, code: i32, message: String },
    Closed { reason: String },
}

impl fmt::Display for CallFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadline { method, .. } => write!(f, "{method}: no answer in time"),
            Self::TooLong { method, bytes, .. } => write!(f, "{method}: {bytes} bytes"),
            Self::RateLimited { reason } | Self::Closed { reason } => f.write_str(reason),
            Self::Refused { method, code, message } => write!(f, "{method}: {message} ({code})"),
        }
    }
}

impl std::error::Error for CallFailure {}

impl CallFailure {
    pub(super) fn at(self, node: &NodeUrl) -> ChainError {
        let node = node.clone();
        match self {
            Self::Deadline { method, deadline } => ChainError::Deadline { node, method, deadline },
            Self::TooLong { method, bytes, limit } => ChainError::TooLong { node, method, bytes, limit },
            Self::RateLimited { reason } => ChainError::RateLimited { node, reason },
            Self::Refused { method, code, message } => ChainError::Refused { node, method, code, message },
            Self::Closed { reason } => ChainError::Closed { node, reason },
        }
    }

    fn of(method: &str, error: &RpcError) -> Self {
        match error {
            RpcError::User(refusal) if is_rate_limit(refusal.code, &refusal.message) => {
                Self::RateLimited { reason: shown(&refusal) }
            }
            RpcError::User(refusal) => Self::Refused {
                method: method.to_owned(),
                code: refusal.code,
                message: Untrusted::new(&refusal.message).to_string(),
            },
            other => Self::Closed { reason: shown(other) },
        }
    }
}

/// Nodes and the proxies before them say it in these ways: the HTTP status as code, the codes of
/// jsonrpsee's server and of the hosted node services, or a phrase.
fn is_rate_limit(code: i32, message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    matches!(code, 429 | -32005 | -32029 | -32999)
        || message.contains("rate limit")
        || message.contains("too many requests")
}

/// The failure of the latest call on a connection; empty while the latest one went well.
#[derive(Debug, Clone, Default)]
pub(super) struct LastFailure(Arc<Mutex<Option<CallFailure>>>);

impl LastFailure {
    fn set(&self, failure: Option<CallFailure>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    pub(super) fn take(&self) -> Option<CallFailure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Holds every call to a deadline and every answer to a size, whichever layer of subxt makes it.
pub(super) struct Guard {
    pub(super) inner: RpcClient,
    pub(super) deadline: Duration,
    pub(super) limit: ByteSize,
    pub(super) last: LastFailure,
}

impl Guard {
    /// The error subxt gets to see. A refusal stays one; nothing else does, above all not the variant
    /// for "reconnects by itself", which makes subxt repeat a call at once and without end.
    fn fail(&self, failure: CallFailure, original: Option<RpcError>) -> RpcError {
        self.last.set(Some(failure.clone()));
        match original {
            Some(refusal @ RpcError::User(_)) => refusal,
            _ => RpcError::Client(Box::new(failure)),
        }
    }
}

impl RpcClientT for Guard {
    fn request_raw<'a>(
        &'a self,
        method: &'a str,
        params: Option<Box<RawValue>>,
    ) -> RawRpcFuture<'a, Box<RawValue>> {
        Box::pin(async move {
            let name = name_of(method, params.as_deref());
            match tokio::time::timeout(self.deadline, self.inner.request_raw(method, params)).await {
                Err(_) => {
                    Err(self.fail(CallFailure::Deadline { method: name, deadline: self.deadline }, None))
                }
                Ok(Err(error)) => Err(self.fail(CallFailure::of(&name, &error), Some(error))),
                Ok(Ok(reply)) if reply.get().len() > self.limit.as_usize() => {
                    let bytes = reply.get().len();
                    Err(self.fail(CallFailure::TooLong { method: name, bytes, limit: self.limit }, None))
                }
                Ok(Ok(reply)) => {
                    self.last.set(None);
                    Ok(reply)
                }
            }
        })
    }

    fn subscribe_raw<'a>(
        &'a self,
        sub: &'a str,
        params: Option<Box<RawValue>>,
        unsub: &'a str,
    ) -> RawRpcFuture<'a, RawRpcSubscription> {
        Box::pin(async move {
            match tokio::time::timeout(self.deadline, self.inner.subscribe_raw(sub, params, unsub)).await {
                Err(_) => Err(self
                    .fail(CallFailure::Deadline { method: sub.to_owned(), deadline: self.deadline }, None)),
                Ok(Err(error)) => Err(self.fail(CallFailure::of(sub, &error), Some(error))),
                Ok(Ok(subscription)) => {
                    self.last.set(None);
                    Ok(subscription)
                }
            }
        })
    }
}

/// A runtime call goes by the function it calls, any other by its method.
fn name_of(method: &str, params: Option<&RawValue>) -> String {
    let function = params
        .filter(|_| method == "state_call")
        .and_then(|params| params.get().split('"').nth(1))
        .filter(|function| function.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
    function.unwrap_or(method).to_owned()
}
