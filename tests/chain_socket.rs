//! Reading the chain over real WebSockets.

mod chain_node;
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use chain_node::{NETUID, Node};
use serde_json::{Value, json};
use sn17_miner::chain::{ChainClient, ChainError, NodeUrl, Settings};
use sn17_miner::clock::Clock;
use sn17_miner::primitives::{ByteSize, Hotkey, Uid};
use soketto::handshake::{Server, server::Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::compat::TokioAsyncReadCompatExt;

/// What the server does with a connection.
#[derive(Clone, Copy)]
enum Manner {
    Serve,
    /// Answers the handshake with this status.
    Status(&'static str),
    /// Answers every message with this text.
    Say(&'static str),
    /// Answers every message with this many bytes.
    Flood(usize),
    /// Accepts and says nothing.
    Mute,
    /// Serves this many messages, then hangs up.
    HangUpAfter(usize),
}

struct Listening {
    address: SocketAddr,
    /// Ends the server when dropped.
    _tasks: JoinSet<()>,
}

/// A server that meets its connections in these manners, the last one for all further ones.
async fn listen(node: Node, manners: Vec<Manner>) -> Listening {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        for accepted in 0_usize.. {
            let (socket, _) = listener.accept().await.unwrap();
            let manner = manners[accepted.min(manners.len() - 1)];
            connections.spawn(meet(socket, node.clone(), manner));
        }
    });
    Listening { address, _tasks: tasks }
}

async fn meet(mut socket: TcpStream, node: Node, manner: Manner) {
    match manner {
        Manner::Mute => {
            let mut sink = Vec::new();
            drop(socket.read_to_end(&mut sink).await);
        }
        Manner::Status(status) => {
            let mut request = [0; 4_096];
            drop(socket.read(&mut request).await);
            let reply = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            drop(socket.write_all(reply.as_bytes()).await);
        }
        other => drop(serve(socket, node, other).await),
    }
}

async fn serve(socket: TcpStream, node: Node, manner: Manner) -> Result<(), Box<dyn std::error::Error>> {
    let mut server = Server::new(socket.compat());
    let key = server.receive_request().await?.key();
    server.send_response(&Response::Accept { key, protocol: None }).await?;
    let (mut sender, mut receiver) = server.into_builder().finish();
    let mut served = 0;
    loop {
        let mut message = Vec::new();
        receiver.receive_data(&mut message).await?;
        let call: Value = serde_json::from_slice(&message)?;
        let mut replies = Vec::new();
        match manner {
            Manner::Say(text) => replies.push(text.to_owned()),
            Manner::Flood(bytes) => replies.push("x".repeat(bytes)),
            Manner::HangUpAfter(most) if served == most => return Ok(()),
            _ if call["method"] == "chain_subscribeNewHeads" => {
                replies.push(json!({"jsonrpc": "2.0", "id": call["id"], "result": "s1"}).to_string());
                let head = json!({"subscription": "s1", "result": node.header(node.block())});
                replies
                    .push(json!({"jsonrpc": "2.0", "method": "chain_newHead", "params": head}).to_string());
            }
            _ => {
                let answer = node.answer(call["method"].as_str().unwrap(), &call["params"]).unwrap();
                let reply = match answer {
                    Ok(result) => json!({"jsonrpc": "2.0", "id": call["id"], "result": result}),
                    Err((code, message)) => {
                        json!({"jsonrpc": "2.0", "id": call["id"], "error": {"code": code, "message": message}})
                    }
                };
                replies.push(reply.to_string());
            }
        }
        served += 1;
        for reply in replies {
            sender.send_text(reply).await?;
        }
        sender.flush().await?;
    }
}

fn client(listening: &[&Listening], change: impl FnOnce(&mut Settings)) -> ChainClient {
    let nodes: Vec<NodeUrl> =
        listening.iter().map(|server| format!("ws://{}", server.address).parse().unwrap()).collect();
    let mut settings = Settings::for_nodes(nodes, NETUID);
    change(&mut settings);
    ChainClient::over_websocket(settings, Clock::system())
}

/// Bounds a test that waits for a peer.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("done within a minute")
}

#[tokio::test]
async fn a_whole_sync_goes_over_a_socket() {
    let Some(node) = Node::new() else { return };
    let us = Hotkey::from_bytes([7; 32]);
    node.register(&us, 3);
    let server = listen(node, vec![Manner::Serve]).await;
    let mut client = client(&[&server], |_| {});
    let synced = soon(client.sync(&[us])).await.unwrap();
    assert_eq!(synced.registrations[0].1.uid(), Some(Uid(3)));
    assert_eq!(synced.metagraph.len(), 1_024);
    assert!(soon(client.next_block()).await.unwrap() >= 6_852_690);
}

#[tokio::test]
async fn a_connection_that_breaks_is_noticed_and_replaced() {
    let Some(node) = Node::new() else { return };
    // The first connection carries one whole sync of eight messages, the second breaks within one.
    let server = listen(node, vec![Manner::HangUpAfter(8), Manner::HangUpAfter(4), Manner::Serve]).await;
    let mut client = client(&[&server], |_| {});
    soon(client.sync(&[])).await.unwrap();
    soon(client.next_block()).await.unwrap();
    for _ in 0..2 {
        let error = soon(client.sync(&[])).await.unwrap_err();
        assert!(matches!(error, ChainError::Closed { .. }), "{error:?}");
    }
    soon(client.sync(&[])).await.unwrap();
}

#[tokio::test]
async fn the_next_server_is_taken_when_the_first_turns_us_away() {
    let Some(node) = Node::new() else { return };
    let busy = listen(node.clone(), vec![Manner::Status("429 Too Many Requests")]).await;
    let good = listen(node, vec![Manner::Serve]).await;
    let synced = soon(client(&[&busy, &good], |_| {}).sync(&[])).await.unwrap();
    assert_eq!(synced.node.to_string(), format!("ws://{}", good.address));
    let error = soon(client(&[&busy], |_| {}).sync(&[])).await.unwrap_err();
    assert!(matches!(error, ChainError::RateLimited { .. }), "{error:?}");
}

#[tokio::test]
async fn bad_servers_are_errors_within_the_deadline() {
    let Some(node) = Node::new() else { return };
    let quick = |settings: &mut Settings| {
        settings.connect_timeout = Duration::from_secs(2);
        settings.call_deadline = Duration::from_secs(2);
        settings.reply_limit = ByteSize::mib(2);
    };
    for (manner, what) in [
        (Manner::Mute, "mute"),
        (Manner::Status("500 Internal Server Error"), "500"),
        (Manner::Status("302 Found\r\nLocation: ws://127.0.0.1:1/"), "redirect"),
        (Manner::Say("<html>no node here</html>"), "html"),
        (Manner::Say("{}"), "empty object"),
        (Manner::Say(r#"{"jsonrpc":"2.0","id":9999,"result":1}"#), "foreign id"),
        (Manner::Flood(3 << 20), "flood"),
        (Manner::HangUpAfter(0), "hangs up"),
    ] {
        let server = listen(node.clone(), vec![manner]).await;
        let error = soon(client(&[&server], quick).sync(&[])).await.unwrap_err();
        assert!(error.is_retryable(), "{what}: {error:?}");
        let expected = matches!(
            error,
            ChainError::Unreachable { .. } | ChainError::Closed { .. } | ChainError::Deadline { .. }
        );
        assert!(expected, "{what}: {error:?}");
    }
    // A server without TLS where TLS is asked for.
    let server = listen(node, vec![Manner::Status("400 Bad Request")]).await;
    let mut settings =
        Settings::for_nodes(vec![format!("wss://{}", server.address).parse().unwrap()], NETUID);
    quick(&mut settings);
    let mut tls = ChainClient::over_websocket(settings, Clock::system());
    let error = soon(tls.sync(&[])).await.unwrap_err();
    assert!(matches!(error, ChainError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("InvalidContentType"), "{error}");
    // Nobody listens.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nobody = Listening { address: free, _tasks: JoinSet::new() };
    let error = soon(client(&[&nobody], quick).sync(&[])).await.unwrap_err();
    assert!(matches!(error, ChainError::Unreachable { .. }), "{error:?}");
}
