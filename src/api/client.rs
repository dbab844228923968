//! Asking the agent of a data directory.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::{
    Errand, ORDERS_PATH, OrderStatus, STATUS_PATH, Status, WORKERS_PATH, WorkersStatus, socket_path,
};
use crate::clock::Clock;
use crate::net::{Call, Endpoint, Limits, NetError, Reply, Transport};
use crate::primitives::ByteSize;

/// Somebody listens and gives no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("its socket cannot be opened: {0}")]
    Closed(std::io::Error),
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("it answered {0}")]
    Refused(StatusCode),
    #[error("{0}")]
    Declined(String),
    #[error("its answer cannot be read, it may be of another version: {0}")]
    Unreadable(#[from] serde_json::Error),
}

/// Of the whole exchange. The reply is a few KiB with 64 lanes.
const LIMITS: Limits =
    Limits { first_byte: Duration::from_secs(2), total: Duration::from_secs(2), body: ByteSize::mib(4) };

/// The status of the agent that runs in `dir`; `None` when nobody listens there.
///
/// # Errors
/// When somebody listens and no status comes back within 2 s and 4 MiB.
pub async fn ask(dir: &Path, clock: &Clock) -> Result<Option<Status>, AskError> {
    read(call(dir, clock, Method::GET, STATUS_PATH, Bytes::new()).await?)
}

/// The cards of the agent that runs in `dir`; `None` when nobody listens there.
///
/// # Errors
/// As [`ask`].
pub async fn ask_workers(dir: &Path, clock: &Clock) -> Result<Option<WorkersStatus>, AskError> {
    read(call(dir, clock, Method::GET, WORKERS_PATH, Bytes::new()).await?)
}

/// Gives an order to the agent that runs in `dir`; its number, or `None` when nobody listens there.
///
/// # Errors
/// [`AskError::Declined`] when the order cannot be taken; else as [`ask`].
pub async fn give_order(dir: &Path, clock: &Clock, errand: &Errand) -> Result<Option<u64>, AskError> {
    let body = serde_json::to_vec(errand)?;
    read(call(dir, clock, Method::POST, ORDERS_PATH, body.into()).await?)
}

/// How far an order is; `None` when nobody listens there any more.
///
/// # Errors
/// As [`ask`].
pub async fn ask_order(dir: &Path, clock: &Clock, id: u64) -> Result<Option<OrderStatus>, AskError> {
    read(call(dir, clock, Method::GET, &format!("{ORDERS_PATH}/{id}"), Bytes::new()).await?)
}

async fn call(
    dir: &Path,
    clock: &Clock,
    method: Method,
    at: &str,
    body: Bytes,
) -> Result<Option<Reply>, AskError> {
    let path = socket_path(dir);
    // Which way a connection fails tells an agent that is gone from one that may not be asked.
    match UnixStream::connect(&path).await {
        Ok(stream) => drop(stream),
        Err(error) if is_nobody(&error) => return Ok(None),
        Err(error) => return Err(AskError::Closed(error)),
    }
    // Only the path of it is used.
    let host = Endpoint::of(([127, 0, 0, 1], 80).into());
    let mut headers = HeaderMap::new();
    if !body.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let call = Call { method, url: host.at(at), headers, body };
    let reply = Transport::unix_socket(&path)?.call(clock, call, &LIMITS).await?;
    match reply.status {
        StatusCode::OK | StatusCode::ACCEPTED => Ok(Some(reply)),
        // It says why, in words meant for a person.
        StatusCode::CONFLICT => Err(AskError::Declined(String::from_utf8_lossy(&reply.body).into_owned())),
        status => Err(AskError::Refused(status)),
    }
}

fn read<T: DeserializeOwned>(reply: Option<Reply>) -> Result<Option<T>, AskError> {
    Ok(reply.map(|reply| serde_json::from_slice(&reply.body)).transpose()?)
}

/// There is no socket, or one that its agent left behind. A path too long for a socket has none.
pub(super) fn is_nobody(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::InvalidInput)
}
