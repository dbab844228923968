//! `DevChain` over a real WebSocket: requests, batches, subscriptions, and connections that break.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sn17_miner::clock::Clock;
use sn17_miner::devnet::chain::{
    ChainServer, DevChain, DevChainSettings, Fault, FaultRule, Neuron, Subnet, Target,
};
use sn17_miner::primitives::{Coldkey, Hotkey, Netuid};
use sn17_miner::wallet::HotkeyPair;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// Bounds every wait; nothing takes a thousandth of it.
const PATIENCE: Duration = Duration::from_secs(30);

fn hotkey(name: &str) -> Hotkey {
    *HotkeyPair::dev(name).hotkey()
}

async fn served() -> (DevChain, ChainServer) {
    let coldkey = Coldkey::from_bytes(*hotkey("owner").as_bytes());
    let mut subnet = Subnet::new(Netuid(17), hotkey("owner"), coldkey);
    subnet.neurons = vec![Neuron::miner(hotkey("miner"), coldkey, 1)];
    let settings = DevChainSettings { frozen: true, ..DevChainSettings::new(subnet) };
    let chain = DevChain::new(settings, Clock::system());
    let server = chain.serve(TcpListener::bind("127.0.0.1:0").await.unwrap()).unwrap();
    (chain, server)
}

struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    async fn connect(server: &ChainServer) -> Self {
        Self(connect_async(server.url()).await.unwrap().0)
    }

    async fn send(&mut self, message: impl ToString) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    /// The next message's text; `None` when the connection has ended.
    async fn text(&mut self) -> Option<String> {
        match timeout(PATIENCE, self.0.next()).await.expect("a message in time") {
            Some(Ok(Message::Text(text))) => Some(text.to_string()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => None,
            Some(Ok(other)) => panic!("{other:?}"),
        }
    }

    async fn next(&mut self) -> Value {
        serde_json::from_str(&self.text().await.expect("a connection")).unwrap()
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.send(json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})).await;
        let reply = self.next().await;
        assert_eq!((&reply["jsonrpc"], &reply["id"]), (&json!("2.0"), &json!(7)));
        reply
    }
}

#[tokio::test]
async fn requests_and_batches_are_answered() {
    let (chain, server) = served().await;
    let mut client = Client::connect(&server).await;
    let head = json!(chain.head().hash.to_string());
    assert_eq!(client.call("chain_getHead", json!([])).await["result"], head);
    assert_eq!(client.call("chainHead_v1_follow", json!([true])).await["error"]["code"], -32_601);

    // Ids of every kind; a notification has none and gets nothing; a request without method.
    client
        .send(json!([
            {"jsonrpc": "2.0", "id": "a", "method": "chain_getHead"},
            {"jsonrpc": "2.0", "method": "chain_getHead"},
            {"jsonrpc": "2.0", "id": null, "method": "chain_getBlockHash", "params": [null]},
            {"jsonrpc": "2.0", "id": 5},
        ]))
        .await;
    let replies = client.next().await;
    assert_eq!(replies.as_array().unwrap().len(), 3);
    assert_eq!((&replies[0]["id"], &replies[0]["result"]), (&json!("a"), &head));
    assert_eq!((&replies[1]["id"], &replies[1]["result"]), (&Value::Null, &head));
    assert_eq!((&replies[2]["id"], &replies[2]["error"]["code"]), (&json!(5), &json!(-32_600)));

    for (message, code) in [("{", -32_700), ("[]", -32_600), ("17", -32_600)] {
        client.send(message).await;
        let reply = client.next().await;
        assert_eq!((&reply["id"], &reply["error"]["code"]), (&Value::Null, &json!(code)), "{message}");
    }
    server.stop().await;
}

#[tokio::test]
async fn subscriptions_run_side_by_side_until_unsubscribed() {
    let (chain, server) = served().await;
    let mut client = Client::connect(&server).await;
    let best = client.call("chain_subscribeNewHeads", json!([])).await["result"].clone();
    let first = client.next().await;
    assert_eq!((&first["method"], &first["params"]["subscription"]), (&json!("chain_newHead"), &best));
    let head = chain.head();
    assert_eq!(first["params"]["result"]["number"], format!("{:#x}", head.number));

    let finalized = client.call("chain_subscribeFinalizedHeads", json!([])).await["result"].clone();
    assert_ne!(finalized, best);
    let notice = client.next().await;
    assert_eq!(notice["method"], "chain_finalizedHead");
    assert_eq!(notice["params"]["result"]["number"], format!("{:#x}", head.number - 2));

    let produced = chain.produce_block();
    let mut methods = Vec::new();
    for _ in 0..2 {
        let notice = client.next().await;
        let result = &notice["params"]["result"];
        if notice["method"] == "chain_newHead" {
            assert_eq!(result["parentHash"], head.hash.to_string());
            assert_eq!(result["number"], format!("{:#x}", produced.number));
        }
        methods.push(notice["method"].clone());
    }
    methods.sort_by_key(Value::to_string);
    assert_eq!(methods, ["chain_finalizedHead", "chain_newHead"]);

    assert_eq!(client.call("chain_unsubscribeNewHeads", json!([best])).await["result"], true);
    assert_eq!(client.call("chain_unsubscribeNewHeads", json!([best])).await["result"], false);
    chain.produce_block();
    assert_eq!(client.next().await["method"], "chain_finalizedHead");
    server.stop().await;
}

#[tokio::test]
async fn silence_on_one_request_holds_up_no_other() {
    let (chain, server) = served().await;
    let mut client = Client::connect(&server).await;
    chain.inject(FaultRule::once(Fault::Silence, Target::Method("chain_getHeader".into())));
    client.send(json!({"jsonrpc": "2.0", "id": 1, "method": "chain_getHeader"})).await;
    assert!(client.call("chain_getHead", json!([])).await["result"].is_string());
    server.stop().await;
}

#[tokio::test]
async fn garbage_and_oversized_answers_arrive_as_they_are() {
    let (chain, server) = served().await;
    let mut client = Client::connect(&server).await;
    chain.inject(FaultRule::once(Fault::Garbage, Target::Method("chain_getHead".into())));
    client.send(json!({"jsonrpc": "2.0", "id": 1, "method": "chain_getHead"})).await;
    let text = client.text().await.unwrap();
    assert!(serde_json::from_str::<Value>(&text).is_err(), "{text}");
    chain.inject(FaultRule::once(Fault::Oversized(5 << 20), Target::Method("chain_getHead".into())));
    let reply = client.call("chain_getHead", json!([])).await;
    assert_eq!(reply["result"].as_str().unwrap().len(), 2 + (10 << 20));
    server.stop().await;
}

#[tokio::test]
async fn a_dropped_connection_ends_and_a_new_one_works() {
    let (chain, server) = served().await;
    let mut client = Client::connect(&server).await;
    let mut idle = Client::connect(&server).await;
    idle.call("rpc_methods", json!([])).await;
    chain.inject(FaultRule::once(Fault::Drop, Target::Method("chain_getHead".into())));
    client.send(json!({"jsonrpc": "2.0", "id": 1, "method": "chain_getHead"})).await;
    assert_eq!(client.text().await, None);
    idle.call("rpc_methods", json!([])).await;
    chain.drop_connections();
    assert_eq!(idle.text().await, None);
    let mut client = Client::connect(&server).await;
    client.call("chain_getHead", json!([])).await;
    server.stop().await;
}

#[tokio::test]
async fn a_new_connection_can_be_refused() {
    let (chain, server) = served().await;
    let refused = async || match connect_async(server.url()).await.unwrap_err() {
        Error::Http(response) => response.status().as_u16(),
        other => panic!("{other}"),
    };
    chain.inject(FaultRule::once(Fault::RateLimited, Target::Connecting));
    assert_eq!(refused().await, 429);
    chain.set_reachable(false);
    assert_eq!(refused().await, 503);
    chain.set_reachable(true);
    Client::connect(&server).await.call("chain_getHead", json!([])).await;
    server.stop().await;
}

#[tokio::test]
async fn a_stopped_server_cuts_its_clients_and_frees_its_port() {
    let (chain, server) = served().await;
    let address = server.address();
    let mut client = Client::connect(&server).await;
    client.call("chain_subscribeNewHeads", json!([])).await;
    client.next().await;
    timeout(PATIENCE, server.stop()).await.expect("stopped in time");
    assert_eq!(client.text().await, None);
    let server = chain.serve(TcpListener::bind(address).await.unwrap()).unwrap();
    Client::connect(&server).await.call("chain_getHead", json!([])).await;
    server.stop().await;
}
