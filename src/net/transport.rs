//! One HTTP call within limits, over a socket or in process.

use std::convert::Infallible;
use std::fmt;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::time::Instant;
use url::Url;

use crate::clock::Clock;
use crate::primitives::{ByteSize, UnixTime};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Body of an in-process reply.
pub type ReplyBody = UnsyncBoxBody<Bytes, BoxError>;

/// A server in this process, for tests under a paused clock (loopback sockets give false timeouts
/// there, house-style.md).
pub type InProcess = Arc<
    dyn Fn(http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<ReplyBody>, BoxError>>
        + Send
        + Sync,
>;

/// Which connections a transport may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// A new one for every call.
    Fresh,
    /// Kept ones, if idle for less than this.
    IdleUnder(Duration),
}

/// Carries calls.
#[derive(Clone)]
pub enum Transport {
    Http(reqwest::Client),
    InProcess(InProcess),
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http(_) => "Http",
            Self::InProcess(_) => "InProcess",
        })
    }
}

/// Bounds of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the start of the call to the head of the reply, sending included.
    pub first_byte: Duration,
    /// From the start of the call to the last byte.
    pub total: Duration,
    /// Bytes of the reply's body.
    pub body: ByteSize,
}

/// A request.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A whole reply.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub timing: Timing,
}

/// When a call happened, by our wall clock, and how long its parts took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub sent: UnixTime,
    /// The moment of `sent` by a clock that nobody sets. The other times are from here.
    pub begun: Instant,
    /// The head of the reply was in.
    pub answered: UnixTime,
    /// Bytes of the request's body.
    pub sent_bytes: u64,
    /// Until the connection had taken the last byte of the request's body; nothing if the body was
    /// empty, or if the head of the reply was in before. What lies in the buffers between here and the
    /// wire counts as sent.
    pub uploaded: Option<Duration>,
    pub first_byte: Duration,
    pub total: Duration,
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("could not connect: {0}")]
    Connect(String),
    #[error("no reply within {0:?}")]
    FirstByteTimeout(Duration),
    #[error("the reply was not complete within {0:?}")]
    TotalTimeout(Duration),
    #[error("the reply is larger than {0}")]
    TooLarge(ByteSize),
    #[error("redirected (status {0}), and redirects are refused")]
    Redirected(StatusCode),
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("the HTTP client could not be set up: {0}")]
    Setup(String),
}

impl NetError {
    /// Whether the peer's machine said that nobody listens there. A full queue of connections, or a
    /// machine that cannot be reached, says nothing of who runs.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Connect(why) if why.to_ascii_lowercase().contains("connection refused"))
    }

    /// Whether the peer may have received the request and acted on it.
    pub fn may_have_arrived(&self) -> bool {
        !matches!(self, Self::Connect(_) | Self::Setup(_))
    }

    fn from_reqwest(error: &reqwest::Error) -> Self {
        // The innermost cause says what happened; the outer layers repeat the URL.
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        if error.is_connect() { Self::Connect(cause.to_string()) } else { Self::Broken(cause.to_string()) }
    }
}

impl Transport {
    /// A transport over TCP.
    ///
    /// `connect` bounds the time to open a connection. Environment proxies are ignored and nothing
    /// is followed.
    ///
    /// # Errors
    /// When the HTTP client cannot be built.
    pub fn http(connect: Duration, connections: Connections) -> Result<Self, NetError> {
        let builder = reqwest::Client::builder()
            .connect_timeout(connect)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .tcp_nodelay(true)
            .http1_only();
        let builder = match connections {
            Connections::Fresh => builder.pool_max_idle_per_host(0),
            Connections::IdleUnder(idle) => builder.pool_idle_timeout(idle),
        };
        builder.build().map(Self::Http).map_err(|e| NetError::Setup(e.to_string()))
    }

    /// A transport to the one server behind a Unix socket, whatever the URL's host.
    ///
    /// # Errors
    /// When the HTTP client cannot be built.
    pub fn unix_socket(path: &Path) -> Result<Self, NetError> {
        let builder = reqwest::Client::builder()
            .unix_socket(path)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .http1_only()
            .pool_max_idle_per_host(0);
        builder.build().map(Self::Http).map_err(|e| NetError::Setup(e.to_string()))
    }

    /// Makes one call and takes in the whole reply.
    ///
    /// Dropping the future abandons the call; the peer may go on working on it.
    ///
    /// # Errors
    /// When there is no whole reply within the limits. A reply of any status is a reply, except
    /// that a redirect is an error.
    pub async fn call(&self, clock: &Clock, call: Call, limits: &Limits) -> Result<Reply, NetError> {
        let start = clock.instant();
        let sent = clock.now();
        let deadline = start + limits.total;
        let head_limit = limits.first_byte.min(limits.total);
        let sent_bytes = call.body.len() as u64;
        let taken = Taken::default();

        let head = tokio::time::timeout(head_limit, self.send(call, &taken));
        let (parts, mut body) = head.await.map_err(|_| NetError::FirstByteTimeout(head_limit))??;
        let answered = clock.now();
        let uploaded = taken.get().map(|at| *at - start);
        let first_byte = start.elapsed();
        if parts.status.is_redirection() {
            return Err(NetError::Redirected(parts.status));
        }

        let body = tokio::time::timeout_at(deadline, collect(&mut body, limits.body))
            .await
            .map_err(|_| NetError::TotalTimeout(limits.total))??;
        let total = Instant::now() - start;
        let timing = Timing { sent, begun: start, answered, sent_bytes, uploaded, first_byte, total };
        Ok(Reply { status: parts.status, headers: parts.headers, body, timing })
    }

    async fn send(&self, call: Call, taken: &Taken) -> Result<(http::response::Parts, ReplyBody), NetError> {
        match self {
            Self::Http(client) => {
                let request = client.request(call.method, call.url).headers(call.headers);
                let request = if call.body.is_empty() {
                    request
                } else {
                    request.body(reqwest::Body::wrap(Upload { left: call.body, taken: Arc::clone(taken) }))
                };
                let response = request.send().await.map_err(|e| NetError::from_reqwest(&e))?;
                let (parts, body) = http::Response::<reqwest::Body>::from(response).into_parts();
                Ok((parts, body.map_err(Into::into).boxed_unsync()))
            }
            Self::InProcess(server) => {
                let mut request = http::Request::new(call.body);
                *request.method_mut() = call.method;
                *request.uri_mut() =
                    call.url.as_str().parse().map_err(|_| NetError::Connect("no such address".into()))?;
                *request.headers_mut() = call.headers;
                if !request.body().is_empty() {
                    taken.get_or_init(Instant::now);
                }
                let response = server(request).await.map_err(|e| NetError::Connect(e.to_string()))?;
                Ok(response.into_parts())
            }
        }
    }
}

/// When the last byte of a body was taken.
type Taken = Arc<OnceLock<Instant>>;

/// A request's body, given out in pieces: the connection asks for the next when it has room for it,
/// so the last is asked for when nearly all is on the wire.
struct Upload {
    left: Bytes,
    taken: Taken,
}

/// Bytes of a piece. The connection holds a few hundred KiB before it stops asking.
const PIECE: usize = 64 << 10;

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let piece = self.left.len().min(PIECE);
        let piece = self.left.split_to(piece);
        if self.left.is_empty() {
            self.taken.get_or_init(Instant::now);
        }
        Poll::Ready(Some(Ok(http_body::Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    /// Exact, so that the request says its length beforehand, as the SDK's does.
    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.left.len() as u64)
    }
}

/// Takes the body in as it arrives: what the peer claims in `Content-Length` reserves nothing.
async fn collect(body: &mut ReplyBody, limit: ByteSize) -> Result<Vec<u8>, NetError> {
    let mut collected = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| NetError::Broken(e.to_string()))?;
        let Ok(chunk) = frame.into_data() else { continue };
        if collected.len() + chunk.len() > limit.as_usize() {
            return Err(NetError::TooLarge(limit));
        }
        collected.extend_from_slice(&chunk);
    }
    Ok(collected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{Full, StreamBody};

    fn server<F>(reply: F) -> Transport
    where
        F: Fn() -> BoxFuture<'static, ReplyBody> + Send + Sync + 'static,
    {
        Transport::InProcess(Arc::new(move |_| {
            let body = reply();
            Box::pin(async move { Ok(http::Response::new(body.await)) })
        }))
    }

    fn full(bytes: &'static [u8]) -> ReplyBody {
        Full::new(Bytes::from_static(bytes)).map_err(|never| match never {}).boxed_unsync()
    }

    fn get() -> Call {
        Call {
            method: Method::GET,
            url: Url::parse("http://127.0.0.1:1/").unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    const LIMITS: Limits =
        Limits { first_byte: Duration::from_secs(2), total: Duration::from_secs(5), body: ByteSize(8) };

    #[tokio::test(start_paused = true)]
    async fn a_reply_within_the_limits_arrives() {
        let clock = Clock::starting_at(UnixTime::from_secs(1));
        let reply =
            server(|| Box::pin(async { full(b"12345678") })).call(&clock, get(), &LIMITS).await.unwrap();
        assert_eq!(reply.body, b"12345678");
    }

    #[tokio::test(start_paused = true)]
    async fn one_byte_too_many_is_refused() {
        let clock = Clock::starting_at(UnixTime::from_secs(1));
        let error = server(|| Box::pin(async { full(b"123456789") })).call(&clock, get(), &LIMITS).await;
        assert!(matches!(error, Err(NetError::TooLarge(ByteSize(8)))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_costs_the_first_byte_limit() {
        let clock = Clock::starting_at(UnixTime::from_secs(1));
        let start = clock.now();
        let error =
            server(|| Box::pin(std::future::pending())).call(&clock, get(), &LIMITS).await.unwrap_err();
        assert!(matches!(error, NetError::FirstByteTimeout(_)) && error.may_have_arrived());
        assert!(clock.now().saturating_since(start) < Duration::from_millis(2_100));
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_a_second_costs_the_total_limit() {
        let clock = Clock::starting_at(UnixTime::from_secs(1));
        let drip = || -> BoxFuture<'static, ReplyBody> {
            let frames = futures_util::stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Some((Ok::<_, BoxError>(http_body::Frame::data(Bytes::from_static(b"x"))), ()))
            });
            Box::pin(async { StreamBody::new(frames).boxed_unsync() })
        };
        let error = server(drip).call(&clock, get(), &LIMITS).await.unwrap_err();
        assert!(matches!(error, NetError::TotalTimeout(_)), "{error}");
    }

    /// Far more than the buffers on the way hold: the sender's grows to 4 MiB, the receiver's is set.
    const LARGE: usize = 32 << 20;

    #[tokio::test]
    async fn the_upload_ends_when_the_last_piece_is_taken_and_its_length_is_said_beforehand() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(1 << 16).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let server = async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let (mut head, mut seen, mut buffer) = (Vec::new(), 0, vec![0; 1 << 16]);
            let mut quarter = None;
            while seen < LARGE {
                let read = socket.read(&mut buffer).await.unwrap();
                assert_ne!(read, 0);
                if seen == 0 {
                    head.extend_from_slice(&buffer[..read]);
                    let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
                    seen = head.len() - end - 4;
                } else {
                    seen += read;
                }
                if seen >= LARGE / 4 {
                    quarter.get_or_insert_with(Instant::now);
                }
            }
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            (String::from_utf8_lossy(&head).to_lowercase(), quarter.unwrap())
        };
        let limits = Limits { first_byte: Duration::from_secs(60), total: Duration::from_secs(60), ..LIMITS };
        let transport = Transport::http(Duration::from_secs(10), Connections::Fresh).unwrap();
        let clock = Clock::system();
        let call = Call { method: Method::POST, url, body: Bytes::from(vec![7; LARGE]), ..get() };
        let start = clock.instant();
        let (reply, (head, quarter)) = tokio::join!(transport.call(&clock, call, &limits), server);
        let timing = reply.unwrap().timing;
        assert!(head.contains(&format!("content-length: {LARGE}\r\n")), "{head}");
        assert!(!head.contains("transfer-encoding"), "{head}");
        let uploaded = timing.uploaded.unwrap();
        assert!(start + uploaded >= quarter && uploaded <= timing.first_byte, "{timing:?}");
        assert_eq!(timing.sent_bytes, LARGE as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_in_process_has_the_body_at_once() {
        let clock = Clock::starting_at(UnixTime::from_secs(1));
        let slow = || {
            server(|| {
                Box::pin(async {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    full(b"ok")
                })
            })
        };
        let call = Call { body: Bytes::from_static(b"body"), ..get() };
        let timing = slow().call(&clock, call, &LIMITS).await.unwrap().timing;
        assert_eq!((timing.sent_bytes, timing.uploaded), (4, Some(Duration::ZERO)));
        assert!(timing.first_byte >= Duration::from_secs(1));
        let timing = slow().call(&clock, get(), &LIMITS).await.unwrap().timing;
        assert_eq!((timing.sent_bytes, timing.uploaded), (0, None));
    }
}
