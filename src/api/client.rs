//! Asking the agent of a data directory.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use tokio::net::UnixStream;

use super::{STATUS_PATH, Status, socket_path};
use crate::clock::Clock;
use crate::net::{Call, Endpoint, Limits, NetError, Transport};
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
    let path = socket_path(dir);
    // Which way a connection fails tells an agent that is gone from one that may not be asked.
    match UnixStream::connect(&path).await {
        Ok(stream) => drop(stream),
        Err(error) if is_nobody(&error) => return Ok(None),
        Err(error) => return Err(AskError::Closed(error)),
    }
    // Only the path of it is used.
    let host = Endpoint::of(([127, 0, 0, 1], 80).into());
    let call = Call {
        method: Method::GET,
        url: host.at(STATUS_PATH),
        headers: HeaderMap::new(),
        body: Bytes::new(),
    };
    let reply = Transport::unix_socket(&path)?.call(clock, call, &LIMITS).await?;
    if reply.status != StatusCode::OK {
        return Err(AskError::Refused(reply.status));
    }
    Ok(Some(serde_json::from_slice(&reply.body)?))
}

/// There is no socket, or one that its agent left behind. A path too long for a socket has none.
pub(super) fn is_nobody(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::InvalidInput)
}
