//! The agent's side of the socket.

use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Path as UrlPath, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::client::is_nobody;
use super::orders::{Errand, Orders};
use super::status::{Status, StatusSource};
use super::workers::WorkersStatus;
use super::{ORDERS_PATH, STATUS_PATH, WORKERS_PATH, socket_path};

/// The agent cannot be asked. It mines all the same.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("{} is longer than the {MAX_PATH} bytes that a socket's path may have: choose a shorter paths.data", path.display())]
    TooLong { path: PathBuf },
    #[error("another process answers at {}", path.display())]
    InUse { path: PathBuf },
    #[error("{} is no socket, and is left alone", path.display())]
    Foreign { path: PathBuf },
    #[error("cannot listen at {}: {source}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// `sun_path` has 108 bytes, the last of them zero.
const MAX_PATH: usize = 107;

/// A connection lasts no longer, whatever its client does.
const LONGEST: Duration = Duration::from_secs(10);

/// Until the head of a request is in.
const HEAD: Duration = Duration::from_secs(2);

/// Connections at once; further ones wait in the socket's queue.
const CONNECTIONS: usize = 16;

/// Bytes of an order.
const ERRAND: usize = 4 << 10;

/// After a failed accept, such as one without a free descriptor.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// The agent's socket, not yet answered at. Dropping what [`into_server`](Self::into_server) gives
/// second removes it.
#[derive(Debug)]
pub struct LocalApi {
    listener: UnixListener,
    file: SocketFile,
}

/// The socket's name in the file system, for as long as this lives.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // If it stays, the next start replaces it.
        let _nobody_to_tell = std::fs::remove_file(&self.0);
    }
}

impl LocalApi {
    /// Listens in the data directory `dir`. The caller holds the lock of that directory, so what lies
    /// there is of an agent that has ended, unless somebody answers.
    ///
    /// # Errors
    /// When there is no room for a socket, or somebody else's.
    pub async fn listen(dir: &Path) -> Result<Self, ListenError> {
        let path = socket_path(dir);
        // Made under another name, so that it is never there with more than its owner's rights.
        let fresh = dir.join(format!("{}~", super::SOCKET));
        if fresh.as_os_str().as_bytes().len() > MAX_PATH {
            return Err(ListenError::TooLong { path });
        }
        let io = |source| ListenError::Io { path: path.clone(), source };
        match UnixStream::connect(&path).await {
            Ok(_) => return Err(ListenError::InUse { path }),
            Err(error) if is_nobody(&error) => {}
            Err(error) => return Err(io(error)),
        }
        for old in [&path, &fresh] {
            match std::fs::symlink_metadata(old) {
                Ok(found) if found.file_type().is_socket() => {}
                Ok(_) => return Err(ListenError::Foreign { path: old.clone() }),
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(io(error)),
            }
            std::fs::remove_file(old).map_err(io)?;
        }
        let listener = UnixListener::bind(&fresh).map_err(io)?;
        let made = std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))
            .and_then(|()| std::fs::rename(&fresh, &path));
        if let Err(error) = made {
            drop(SocketFile(fresh));
            return Err(io(error));
        }
        Ok(Self { listener, file: SocketFile(path) })
    }

    /// The server, which answers for as long as it is polled, and the socket's file, to be dropped when
    /// the agent gives its data directory up: the server's task may end later than that.
    pub fn into_server(
        self,
        source: StatusSource,
        orders: Orders,
    ) -> (impl Future<Output = ()> + Send + 'static, SocketFile) {
        (serve(self.listener, source, orders), self.file)
    }
}

async fn serve(listener: UnixListener, source: StatusSource, orders: Orders) {
    let given = Router::new()
        .route(WORKERS_PATH, get(workers))
        .route(ORDERS_PATH, post(give))
        .route(&format!("{ORDERS_PATH}/{{id}}"), get(order))
        .layer(DefaultBodyLimit::max(ERRAND))
        .with_state(orders);
    let router = Router::new().route(STATUS_PATH, get(status)).with_state(source).merge(given);
    // Dropped with this future, and its connections with it.
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept(), if connections.len() < CONNECTIONS => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(answer(stream, router.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "The local socket took no connection");
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
}

/// One request, one answer.
async fn answer(stream: UnixStream, router: Router) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).keep_alive(false).max_buf_size(16 << 10);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(LONGEST, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "A connection of the local socket broke"),
        Err(_) => tracing::debug!("A connection of the local socket lasted too long"),
    }
}

async fn status(State(source): State<StatusSource>) -> Json<Status> {
    Json(source.status().await)
}

async fn workers(State(orders): State<Orders>) -> Json<WorkersStatus> {
    Json(orders.workers())
}

async fn give(State(orders): State<Orders>, Json(errand): Json<Errand>) -> Response {
    match orders.give(errand) {
        Ok(id) => (StatusCode::ACCEPTED, Json(id)).into_response(),
        Err(error) => (StatusCode::CONFLICT, error.to_string()).into_response(),
    }
}

async fn order(State(orders): State<Orders>, UrlPath(id): UrlPath<u64>) -> Response {
    match orders.look(id) {
        Some(order) => Json(order).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
