//! The chain as a WebSocket server: JSON-RPC 2.0, single requests and batches.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::faults::{Fault, fault_of_connecting};
use super::rpc::{RpcError, Stream};
use super::{DevChain, Heads, Reply};

/// Requests that one connection may have open; further ones wait in the socket.
const OPEN_REQUESTS: usize = 256;

/// Largest message taken. A metagraph reader's are all below a hundredth of it.
const MESSAGE_LIMIT: usize = 1 << 20;

impl DevChain {
    /// A WebSocket at `/`.
    pub fn router(&self) -> Router {
        Router::new().route("/", any(connect)).with_state(self.clone())
    }

    /// Serves the chain until the server is stopped or dropped.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn serve(&self, listener: TcpListener) -> io::Result<ChainServer> {
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let (router, stopped) = (self.router(), stop.clone().cancelled_owned());
        let mut task = JoinSet::new();
        task.spawn(async move {
            if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
                tracing::warn!(%error, "The server of the development chain ended");
            }
        });
        Ok(ChainServer { chain: self.clone(), address, stop, task })
    }
}

/// A chain on its socket.
#[derive(Debug)]
pub struct ChainServer {
    chain: DevChain,
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinSet<()>,
}

impl ChainServer {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `ws://` and the address.
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Cuts every connection to the chain and stops listening; the port is free afterwards.
    pub async fn stop(mut self) {
        self.stop.cancel();
        self.chain.drop_connections();
        while self.task.join_next().await.is_some() {}
    }
}

async fn connect(State(chain): State<DevChain>, upgrade: WebSocketUpgrade) -> Response {
    let (fault, connections) = {
        let mut state = chain.state();
        if !state.reachable {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        (fault_of_connecting(&mut state.faults), state.connections.clone())
    };
    match fault {
        None => {}
        Some(Fault::Slow(time)) => chain.0.clock.sleep(time).await,
        Some(Fault::Silence) => connections.cancelled().await,
        Some(Fault::RateLimited) => return StatusCode::TOO_MANY_REQUESTS.into_response(),
        Some(_) => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
    upgrade.max_message_size(MESSAGE_LIMIT).on_upgrade(move |socket| async move {
        // A cut connection ends without a farewell, as when a machine goes down.
        connections.run_until_cancelled(Connection::new(chain).run(socket)).await;
    })
}

/// One client.
struct Connection {
    chain: DevChain,
    subscriptions: HashMap<String, AbortHandle>,
    /// Owns the subscriptions' tasks.
    tasks: JoinSet<()>,
    notices: mpsc::Sender<Value>,
    noticed: mpsc::Receiver<Value>,
    opened: u64,
}

/// What goes out for one request.
enum Answer {
    Message(Value),
    Garbage(String),
    /// A notification by the client: nothing.
    Nothing,
    /// A new subscription, to be confirmed under the request's id.
    Subscribed(Value, Heads),
    Unsubscribe(Value, String),
    Close,
}

fn result(id: &Value, result: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

fn error(id: &Value, error: &RpcError) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": error.to_json()})
}

async fn answer(chain: DevChain, request: Value) -> Answer {
    let id = request.get("id").cloned().unwrap_or(Value::Null);
    let Some(method) = request.get("method").and_then(Value::as_str) else {
        return Answer::Message(error(&id, &RpcError::new(-32_600, "Invalid request")));
    };
    let params = request.get("params").unwrap_or(&Value::Null);
    match chain.answer(method, params).await {
        Reply::Closed => Answer::Close,
        _ if request.get("id").is_none() => Answer::Nothing,
        Reply::Garbage(text) => Answer::Garbage(text),
        Reply::Error(reason) => Answer::Message(error(&id, &reason)),
        Reply::Subscribed(heads) => Answer::Subscribed(id, heads),
        Reply::Result(_) if Stream::unsubscribed_by(method).is_some() => {
            let subscription = params.get(0).and_then(Value::as_str).unwrap_or_default();
            Answer::Unsubscribe(id, subscription.to_owned())
        }
        Reply::Result(value) => Answer::Message(result(&id, value)),
    }
}

impl Connection {
    fn new(chain: DevChain) -> Self {
        // A subscriber that does not read holds up only its own subscription.
        let (notices, noticed) = mpsc::channel(64);
        Self { chain, subscriptions: HashMap::new(), tasks: JoinSet::new(), notices, noticed, opened: 0 }
    }

    async fn run(mut self, mut socket: WebSocket) {
        let mut open: FuturesUnordered<BoxFuture<'static, (bool, Vec<Answer>)>> = FuturesUnordered::new();
        loop {
            let sent = tokio::select! {
                message = socket.recv(), if open.len() < OPEN_REQUESTS => {
                    let text = match message {
                        Some(Ok(Message::Text(text))) => text.as_bytes().to_vec(),
                        Some(Ok(Message::Binary(bytes))) => bytes.to_vec(),
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                        Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                    };
                    open.push(self.receive(&text));
                    Ok(())
                }
                Some((batch, answers)) = open.next(), if !open.is_empty() => {
                    let Some(message) = self.reply(batch, answers) else { return };
                    match message {
                        Some(message) => socket.send(message).await,
                        None => Ok(()),
                    }
                }
                Some(notice) = self.noticed.recv() => {
                    socket.send(Message::Text(notice.to_string().into())).await
                }
            };
            if sent.is_err() {
                return;
            }
            // Subscriptions that ended are not kept.
            while self.tasks.try_join_next().is_some() {}
        }
    }

    fn receive(&self, text: &[u8]) -> BoxFuture<'static, (bool, Vec<Answer>)> {
        let chain = self.chain.clone();
        let request: Value = match serde_json::from_slice(text) {
            Ok(request) => request,
            Err(_) => {
                let refusal = error(&Value::Null, &RpcError::new(-32_700, "Parse error"));
                return Box::pin(async move { (false, vec![Answer::Message(refusal)]) });
            }
        };
        match request {
            Value::Array(requests) if !requests.is_empty() => Box::pin(async move {
                (true, join_all(requests.into_iter().map(|request| answer(chain.clone(), request))).await)
            }),
            request => Box::pin(async move { (false, vec![answer(chain, request).await]) }),
        }
    }

    /// The message for one request or batch, if it has one; `None` ends the connection.
    fn reply(&mut self, batch: bool, answers: Vec<Answer>) -> Option<Option<Message>> {
        let mut messages = Vec::with_capacity(answers.len());
        for answer in answers {
            match answer {
                Answer::Close => return None,
                Answer::Garbage(text) => return Some(Some(Message::Text(text.into()))),
                Answer::Nothing => {}
                Answer::Message(message) => messages.push(message),
                Answer::Subscribed(id, heads) => messages.push(result(&id, json!(self.open(heads)))),
                Answer::Unsubscribe(id, subscription) => {
                    let known = self.subscriptions.remove(&subscription);
                    if let Some(task) = &known {
                        task.abort();
                    }
                    messages.push(result(&id, json!(known.is_some())));
                }
            }
        }
        let message = if batch { Value::Array(messages) } else { messages.pop().unwrap_or_default() };
        let empty = message.is_null() || message.as_array().is_some_and(Vec::is_empty);
        Some((!empty).then(|| Message::Text(message.to_string().into())))
    }

    /// Starts a subscription and names it.
    fn open(&mut self, mut heads: Heads) -> String {
        self.opened += 1;
        let name = format!("devnet-{}", self.opened);
        let (notices, subscription) = (self.notices.clone(), name.clone());
        let task = self.tasks.spawn(async move {
            while let Some(header) = heads.next().await {
                let params = json!({"subscription": subscription, "result": header});
                let notice = json!({"jsonrpc": "2.0", "method": heads.notification(), "params": params});
                if notices.send(notice).await.is_err() {
                    return;
                }
            }
        });
        self.subscriptions.insert(name.clone(), task);
        name
    }
}
