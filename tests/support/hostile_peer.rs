//! A server that speaks as badly as it is told: scripts of raw bytes on a socket.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tower::ServiceExt;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Heard {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// One thing done with the connection; after the last one it is closed.
#[derive(Debug, Clone)]
pub enum Act {
    Send(Vec<u8>),
    /// This piece so many times, as fast as it is taken.
    Flood(Vec<u8>, u64),
    /// One byte at a time.
    Drip(Vec<u8>, Duration),
    Pause(Duration),
    /// Nothing more, until the other side goes.
    Hang,
}

pub type Respond = Arc<dyn Fn(Heard) -> BoxFuture<'static, Vec<Act>> + Send + Sync>;

/// A listening peer; dropping it ends it.
pub struct Peer {
    pub address: SocketAddr,
    /// Bytes that were taken from us.
    pub sent: Arc<AtomicU64>,
    pub requests: Arc<AtomicUsize>,
    _server: JoinSet<()>,
}

impl Peer {
    pub async fn start(respond: Respond) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sent, requests) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut server = JoinSet::new();
        let counters = (Arc::clone(&sent), Arc::clone(&requests));
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (respond, (sent, requests)) = (Arc::clone(&respond), counters.clone());
                connections.spawn(async move {
                    // The other side may go at any moment; that is what is being tested.
                    converse(stream, &respond, &sent, &requests).await.ok();
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, sent, requests, _server: server }
    }

    /// Always the same script.
    pub async fn always(script: Vec<Act>) -> Self {
        Self::start(Arc::new(move |_| {
            let script = script.clone();
            Box::pin(async move { script })
        }))
        .await
    }

    /// An honest server.
    pub async fn honest(router: Router) -> Self {
        Self::start(Arc::new(move |heard| {
            let router = router.clone();
            Box::pin(async move { vec![Act::Send(honest(&router, heard).await.bytes())] })
        }))
        .await
    }
}

/// The parts of a reply, to be taken apart further.
#[derive(Debug, Clone)]
pub struct Spoken {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Spoken {
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: vec![("content-type".into(), content_type.into())], body: body.into() }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The head, claiming a body of this length.
    pub fn head(&self, length: impl std::fmt::Display) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} X\r\nconnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {length}\r\n\r\n"));
        head.into_bytes()
    }

    pub fn bytes(&self) -> Vec<u8> {
        [self.head(self.body.len()), self.body.clone()].concat()
    }
}

/// What an honest server says.
pub async fn honest(router: &Router, heard: Heard) -> Spoken {
    let mut request = http::Request::builder().method(heard.method.as_str()).uri(&heard.path);
    for (name, value) in &heard.headers {
        request = request.header(name, value);
    }
    let request = request.body(Body::from(heard.body)).unwrap();
    let response = router.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
    let (parts, body) = response.into_parts();
    let plain = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
    let framing = ["content-length", "transfer-encoding", "connection"];
    let headers = parts.headers.iter().filter(|(name, _)| !framing.contains(&name.as_str()));
    Spoken {
        status: parts.status.as_u16(),
        headers: headers.map(|(name, value)| (name.as_str().to_owned(), plain(value))).collect(),
        body: body.collect().await.unwrap().to_bytes().to_vec(),
    }
}

async fn converse(
    mut stream: TcpStream,
    respond: &Respond,
    sent: &AtomicU64,
    requests: &AtomicUsize,
) -> std::io::Result<()> {
    let heard = hear(&mut stream).await?;
    requests.fetch_add(1, Ordering::Relaxed);
    for act in respond(heard).await {
        match act {
            Act::Send(bytes) => send(&mut stream, &bytes, sent).await?,
            Act::Flood(piece, times) => {
                for _ in 0..times {
                    send(&mut stream, &piece, sent).await?;
                }
            }
            Act::Drip(bytes, pause) => {
                for byte in bytes {
                    send(&mut stream, &[byte], sent).await?;
                    tokio::time::sleep(pause).await;
                }
            }
            Act::Pause(time) => tokio::time::sleep(time).await,
            Act::Hang => {
                let gone = async { while stream.read(&mut [0; 1024]).await.is_ok_and(|n| n > 0) {} };
                tokio::time::timeout(Duration::from_secs(60), gone).await.ok();
            }
        }
    }
    stream.shutdown().await
}

async fn send(stream: &mut TcpStream, bytes: &[u8], sent: &AtomicU64) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    Ok(())
}

async fn hear(stream: &mut TcpStream) -> std::io::Result<Heard> {
    let end = std::io::ErrorKind::UnexpectedEof;
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(end.into());
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, path) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    let mut body = bytes.split_off(head_end);
    while body.len() < length {
        if stream.read_buf(&mut body).await? == 0 {
            return Err(end.into());
        }
    }
    Ok(Heard { method: method.into(), path: path.into(), headers, body })
}
