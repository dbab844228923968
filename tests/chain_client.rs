//! Reading the chain through nodes that fail, under the paused clock.

mod chain_node;
mod support;

use std::sync::Arc;
use std::time::Duration;

use chain_node::{Fault, GENESIS, NETUID, Node, network};
use serde_json::{Value, json};
use sn17_miner::chain::{
    ChainClient, ChainError, ChainHandle, DialError, Follower, Link, Metagraph, Network, Registration,
    RegistrationChange, Settings, View,
};
use sn17_miner::clock::Clock;
use sn17_miner::primitives::{ByteSize, Hotkey, Netuid, Uid, UnixTime};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const SELECTIVE: &str = "SubnetInfoRuntimeApi_get_selective_metagraph";
const MECHAGRAPH: &str = "SubnetInfoRuntimeApi_get_selective_mechagraph";

fn us() -> Hotkey {
    Hotkey::from_bytes([7; 32])
}

fn clock() -> Clock {
    Clock::starting_at(UnixTime::from_secs(1_763_600_000))
}

fn client(nodes: &[&Node]) -> ChainClient {
    client_with(nodes, |_| {})
}

fn client_with(nodes: &[&Node], change: impl FnOnce(&mut Settings)) -> ChainClient {
    let (urls, dial) = network(nodes);
    let mut settings = Settings::for_nodes(urls, NETUID);
    change(&mut settings);
    ChainClient::new(settings, Arc::new(dial), clock())
}

struct Following {
    handle: ChainHandle,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Following {
    fn start(client: ChainClient, last_known: Option<Arc<Metagraph>>) -> Self {
        let (follower, handle) = Follower::new(client, vec![us()], Box::new(|| 0.0), last_known);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(follower.run(stop.clone()));
        Self { handle, stop, tasks }
    }

    async fn next(&mut self) -> View {
        assert!(self.handle.changed().await);
        self.handle.view()
    }

    async fn end(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

fn node_of(view: &View) -> String {
    match &view.link {
        Link::Up { node, .. } => node.to_string(),
        other => panic!("{other:?}"),
    }
}

/// The error of a sync with one node whose `method` has the fault.
async fn error_of(method: &str, fault: Fault) -> Option<ChainError> {
    let node = Node::new()?;
    node.fault(method, fault);
    Some(client(&[&node]).sync(&[us()]).await.unwrap_err())
}

#[tokio::test(start_paused = true)]
async fn a_sync_reads_registration_and_metagraph_at_one_block() {
    let Some(node) = Node::new() else { return };
    node.register(&us(), 512);
    let stranger = Hotkey::from_bytes([8; 32]);
    let mut client = client_with(&[&node], |settings| settings.genesis = Some(GENESIS));
    let synced = client.sync(&[us(), stranger]).await.unwrap();
    let block = 6_852_690;
    assert_eq!(
        synced.registrations,
        [
            (us(), Registration::Registered { uid: Uid(512), block }),
            (stranger, Registration::NotRegistered { block }),
        ]
    );
    assert_eq!((synced.metagraph.len(), synced.metagraph.block(), synced.spec_version), (1_024, block, 343));
    assert_eq!(synced.metagraph.age(clock().now() + Duration::from_secs(5)).as_secs(), 5);
    // One call for the whole subnet.
    assert_eq!(node.calls(SELECTIVE), 1);
    assert_eq!(node.calls(MECHAGRAPH), 0);
}

#[tokio::test(start_paused = true)]
async fn the_storage_key_is_the_recorded_one() {
    let Some(node) = Node::new() else { return };
    let reads = support::shared("chain/recorded/storage_reads.json").unwrap();
    let reads: Value = serde_json::from_slice(&std::fs::read(reads).unwrap()).unwrap();
    let read = &reads[0];
    assert_eq!((&read["netuid"], &read["decoded"]), (&json!(14), &json!(29)));
    let hotkey: Hotkey = read["ss58"].as_str().unwrap().parse().unwrap();
    node.register(&hotkey, 29);
    node.state().netuid = Netuid(14);
    let mut client = client_with(&[&node], |settings| settings.netuid = Netuid(14));
    // The recording is of another subnet than the one asked for.
    let error = client.sync(&[hotkey]).await.unwrap_err();
    assert_eq!(error, ChainError::ForeignSubnet { asked: Netuid(14), found: Netuid(1) });
    assert_eq!(node.state().keys, [read["key"].as_str().unwrap()]);
}

#[tokio::test(start_paused = true)]
async fn the_next_call_is_taken_where_one_fails() {
    for failing in [vec![SELECTIVE], vec![SELECTIVE, MECHAGRAPH]] {
        for fault in [
            Fault::Refuse(4_003, "execution failed"),
            Fault::Answer(json!("0x01")),
            Fault::Answer(json!("0x010400")),
        ] {
            let Some(node) = Node::new() else { return };
            for method in &failing {
                node.fault(method, fault.clone());
            }
            let synced = client(&[&node]).sync(&[]).await.unwrap();
            assert_eq!(synced.metagraph.neurons().iter().filter(|n| n.axon.is_some()).count(), 827);
            assert_eq!(node.calls("NeuronInfoRuntimeApi_get_neurons_lite"), failing.len() - 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_the_metadata_lacks_is_not_made() {
    use subxt::ext::codec::{Decode, Encode};
    use subxt::ext::frame_metadata::{RuntimeMetadata, RuntimeMetadataPrefixed};
    let Some(node) = Node::new() else { return };
    let without = |gone: &[&str]| {
        let bytes = node.state().metadata.clone();
        let mut metadata = RuntimeMetadataPrefixed::decode(&mut bytes.as_slice()).unwrap();
        let RuntimeMetadata::V15(v15) = &mut metadata.1 else { panic!("version 15") };
        for api in &mut v15.apis {
            api.methods.retain(|method| !gone.contains(&method.name.as_str()));
        }
        metadata.encode()
    };
    let shorter = without(&["get_selective_metagraph", "get_selective_mechagraph", "get_metagraph"]);
    let none = without(&[
        "get_selective_metagraph",
        "get_selective_mechagraph",
        "get_metagraph",
        "get_subnet_state",
    ]);

    node.state().metadata = shorter;
    let synced = client(&[&node]).sync(&[]).await.unwrap();
    assert_eq!(synced.metagraph.len(), 1_024);
    assert_eq!((node.calls(SELECTIVE), node.calls(MECHAGRAPH)), (0, 0));

    node.state().metadata = none;
    let error = client(&[&node]).sync(&[]).await.unwrap_err();
    assert_eq!(error, ChainError::NoCall);
    assert!(!error.is_retryable());
}

#[tokio::test(start_paused = true)]
async fn each_bad_answer_has_its_error() {
    let malformed = |error: &ChainError| matches!(error, ChainError::Malformed { .. });
    for (method, answer) in [
        ("chain_getBlockHash", json!("garbage")),
        ("chain_getBlockHash", json!(null)),
        ("chain_getFinalizedHead", json!({"a": [1]})),
        ("chain_getHeader", json!(null)),
        ("chain_getHeader", json!({"number": "many"})),
        ("Core_version", json!("0x04")),
        ("Core_version", json!("no hex")),
        ("Metadata_metadata_at_version", json!("0x00")),
        ("Metadata_metadata_at_version", json!("0x01106d657461")),
        ("state_getStorage", json!("0x")),
        ("state_getStorage", json!("0x010203")),
        ("state_getStorage", json!(17)),
    ] {
        let Some(node) = Node::new() else { return };
        node.register(&us(), 1);
        node.fault(method, Fault::Answer(answer.clone()));
        let error = client(&[&node]).sync(&[us()]).await.unwrap_err();
        assert!(malformed(&error), "{method} {answer}: {error:?}");
        assert!(error.is_retryable());
    }
    let Some(refused) = error_of("Core_version", Fault::Refuse(-32_000, "state discarded\u{1b}[2J")).await
    else {
        return;
    };
    assert!(
        matches!(&refused, ChainError::Refused { method, code: -32_000, .. } if method == "Core_version")
    );
    assert!(!refused.to_string().contains('\u{1b}'), "{refused}");
    // subxt keeps only the text of this one's cause.
    let limited = error_of("Metadata_metadata_at_version", Fault::Refuse(429, "slow down")).await.unwrap();
    assert!(matches!(limited, ChainError::RateLimited { .. }), "{limited:?}");
    let absent = error_of(SELECTIVE, Fault::Answer(json!("0x00"))).await.unwrap();
    assert_eq!(absent, ChainError::NoSubnet { netuid: NETUID });
}

#[tokio::test(start_paused = true)]
async fn an_answer_beyond_the_limit_is_refused() {
    let Some(node) = Node::new() else { return };
    let mut client = client_with(&[&node], |settings| settings.reply_limit = ByteSize(700_000));
    // The metadata makes it, a metagraph of this size does not.
    node.fault(SELECTIVE, Fault::Answer(json!(format!("0x{}", "00".repeat(400_000)))));
    let error = client.sync(&[]).await.unwrap_err();
    let ChainError::TooLong { bytes, limit, .. } = error else { panic!("{error:?}") };
    assert_eq!((bytes, limit), (800_004, ByteSize(700_000)));
}

#[tokio::test(start_paused = true)]
async fn every_call_has_its_deadline() {
    for method in [
        "chain_getBlockHash",
        "chain_getFinalizedHead",
        "chain_getHeader",
        "Core_version",
        "Metadata_metadata_at_version",
        "state_getStorage",
        SELECTIVE,
    ] {
        let start = Instant::now();
        let Some(error) = error_of(method, Fault::Hang).await else { return };
        assert!(matches!(&error, ChainError::Deadline { method: late, .. } if late == method), "{error:?}");
        assert_eq!(start.elapsed().as_secs(), 30, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_of_another_chain_is_left_for_the_next() {
    let (Some(foreign), Some(right)) = (Node::new(), Node::new()) else { return };
    foreign.state().genesis = [0x22; 32];
    let genesis = |settings: &mut Settings| settings.genesis = Some(GENESIS);
    let synced = client_with(&[&foreign, &right], genesis).sync(&[]).await.unwrap();
    assert_eq!(synced.node.to_string(), "wss://node-1.test");
    let error = client_with(&[&foreign], genesis).sync(&[]).await.unwrap_err();
    assert!(matches!(&error, ChainError::ForeignChain { found, .. } if found.contains("2222")), "{error}");
    assert!(!error.is_retryable());
    assert_eq!(Network::Finney.genesis().unwrap()[..2], [0x2f, 0x05]);
}

#[tokio::test(start_paused = true)]
async fn a_node_far_behind_is_used_only_when_there_is_no_other() {
    let (Some(ahead), Some(behind)) = (Node::new(), Node::new()) else { return };
    behind.state().base -= 1_000;
    let mut client = client(&[&ahead, &behind]);
    client.sync(&[]).await.unwrap();
    ahead.state().broken = true;
    let error = client.sync(&[]).await.unwrap_err();
    assert!(matches!(error, ChainError::Behind { .. }), "{error:?}");
    // A whole round has shown nothing better.
    let synced = client.sync(&[]).await.unwrap();
    assert_eq!(synced.node.to_string(), "wss://node-1.test");
}

#[tokio::test(start_paused = true)]
async fn the_first_node_that_answers_is_used_and_kept() {
    let (Some(a), Some(b), Some(c)) = (Node::new(), Node::new(), Node::new()) else { return };
    a.state().dial_error = Some(DialError::Unreachable("refused".into()));
    b.state().dial_error = Some(DialError::RateLimited("429".into()));
    let mut client = client(&[&a, &b, &c]);
    assert_eq!(client.sync(&[]).await.unwrap().node.to_string(), "wss://node-2.test");
    a.heal();
    b.heal();
    assert_eq!(client.sync(&[]).await.unwrap().node.to_string(), "wss://node-2.test");
    assert_eq!((a.state().dials, b.state().dials, c.state().dials), (1, 1, 1));
    // When it fails, the preferred one comes first again.
    c.state().broken = true;
    assert_eq!(client.sync(&[]).await.unwrap().node.to_string(), "wss://node-0.test");
    assert_eq!(c.state().subscriptions, 0);
}

#[tokio::test(start_paused = true)]
async fn without_nodes_it_says_so() {
    let Some(_) = Node::new() else { return };
    let error = client(&[]).sync(&[]).await.unwrap_err();
    assert_eq!(error, ChainError::NoNodes);
    assert!(error.to_string().contains("network.endpoints"));
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_left_after_two_minutes() {
    let (Some(a), Some(b)) = (Node::new(), Node::new()) else { return };
    let mut following = Following::start(client(&[&a, &b]), None);
    assert_eq!(node_of(&following.next().await), "wss://node-0.test");
    // Blocks come for a while, then no more.
    tokio::time::sleep(Duration::from_secs(100)).await;
    a.state().silent = true;
    let last_block = Instant::now() - Duration::from_secs(100 % 12);
    assert_eq!(node_of(&following.next().await), "wss://node-1.test");
    let waited = last_block.elapsed();
    assert!((120..122).contains(&waited.as_secs()), "{waited:?}");
    assert_eq!((a.state().subscriptions, b.state().subscriptions), (0, 1));
    following.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_connection_is_dialled_anew_but_not_in_a_storm() {
    let Some(node) = Node::new() else { return };
    let mut following = Following::start(client(&[&node]), None);
    following.next().await;
    node.state().broken = true;
    // The subscription ends with the next block; the sync comes when the floor allows it.
    let start = Instant::now();
    let view = following.next().await;
    assert!(matches!(view.link, Link::Down { failures: 1, retryable: true, .. }), "{:?}", view.link);
    assert_eq!(start.elapsed().as_secs(), 30);
    // What is known stays known.
    assert_eq!(view.metagraph.unwrap().len(), 1_024);
    let mut waits = Vec::new();
    for _ in 0..9 {
        let start = Instant::now();
        following.next().await;
        waits.push(start.elapsed().as_secs());
    }
    assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300]);
    node.heal();
    assert_eq!(node_of(&following.next().await), "wss://node-0.test");
    following.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_limits_requests_is_left_alone_for_a_minute() {
    let Some(node) = Node::new() else { return };
    node.fault("chain_getFinalizedHead", Fault::Refuse(-32_000, "Rate limit exceeded"));
    let mut following = Following::start(client(&[&node]), None);
    following.next().await;
    let start = Instant::now();
    // Asking does not shorten the wait.
    following.handle.sync_now();
    let view = following.next().await;
    assert!(matches!(&view.link, Link::Down { reason, .. } if reason.contains("limits our requests")));
    assert_eq!(start.elapsed().as_secs(), 60);
    following.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_sync_can_be_asked_for_within_its_floor() {
    let Some(node) = Node::new() else { return };
    let mut following = Following::start(client(&[&node]), None);
    let first = following.next().await;
    assert_eq!(first.registration(&us()).unwrap().uid(), None);
    node.register(&us(), 9);
    let start = Instant::now();
    for _ in 0..100 {
        following.handle.sync_now();
    }
    let second = following.next().await;
    assert_eq!(start.elapsed().as_secs(), 30);
    assert_eq!(second.registration(&us()).unwrap().uid(), Some(Uid(9)));
    tokio::time::sleep(Duration::from_secs(100)).await;
    following.handle.sync_now();
    let start = Instant::now();
    following.next().await;
    assert_eq!(start.elapsed().as_secs(), 0);
    following.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_runtime_upgrade_brings_new_metadata() {
    let Some(node) = Node::new() else { return };
    let mut client = client(&[&node]);
    let before = client.sync(&[us()]).await.unwrap();
    node.upgrade(393, "finney_metadata_newer.scale");
    let after = client.sync(&[us()]).await.unwrap();
    assert_eq!((before.spec_version, after.spec_version), (343, 393));
    assert_eq!(before.metagraph.neurons(), after.metagraph.neurons());
    assert_eq!(node.calls("Metadata_metadata_at_version"), 2);
    client.sync(&[us()]).await.unwrap();
    assert_eq!(node.calls("Metadata_metadata_at_version"), 2);
    // Only the latest is kept.
    node.upgrade(343, "finney_metadata_v15.scale");
    client.sync(&[us()]).await.unwrap();
    assert_eq!(node.calls("Metadata_metadata_at_version"), 3);
    assert_eq!(node.state().dials, 1);
}

#[tokio::test(start_paused = true)]
async fn losing_and_regaining_the_registration_is_seen() {
    let Some(node) = Node::new() else { return };
    node.register(&us(), 5);
    let mut following = Following::start(client(&[&node]), None);
    let mut looks = Vec::new();
    for change in [None, Some(None), Some(Some(8)), Some(Some(8))] {
        match change {
            None => {}
            Some(None) => node.state().uids.clear(),
            Some(Some(uid)) => node.register(&us(), uid),
        }
        let view = following.next().await;
        looks.push((view.registration(&us()).unwrap(), view.metagraph.unwrap()));
    }
    let holder = looks[1].1.by_uid(Uid(5)).unwrap().hotkey;
    let change = |at: usize| {
        let before = at.checked_sub(1).map(|before| &looks[before].0);
        RegistrationChange::between(before, &looks[at].0, Some(&looks[at].1))
    };
    assert_eq!(change(0), RegistrationChange::Registered { uid: Uid(5) });
    assert_eq!(change(1), RegistrationChange::Deregistered { uid: Uid(5), holder: Some(holder) });
    assert_eq!(change(2), RegistrationChange::Registered { uid: Uid(8) });
    assert_eq!(change(3), RegistrationChange::Unchanged);
    assert_eq!(
        RegistrationChange::between(Some(&looks[0].0), &looks[3].0, None),
        RegistrationChange::Moved { from: Uid(5), to: Uid(8) }
    );
    following.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_chain_the_kept_metagraph_is_shown() {
    let Some(node) = Node::new() else { return };
    let kept = client(&[&node]).sync(&[]).await.unwrap().metagraph.to_bytes();
    node.state().dial_error = Some(DialError::Unreachable("refused".into()));
    let last_known = Arc::new(Metagraph::from_bytes(&kept).unwrap());
    let mut following = Following::start(client(&[&node]), Some(last_known));
    assert!(matches!(following.handle.view().link, Link::Connecting));
    let view = following.next().await;
    assert!(matches!(view.link, Link::Down { .. }));
    assert_eq!(view.registration(&us()), None);
    assert_eq!(view.metagraph.unwrap().age(clock().now()), Duration::ZERO);
    following.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_tells_block_and_time() {
    let Some(node) = Node::new() else { return };
    let client = client(&[&node]);
    let probe = client.probe(&client.settings().nodes[0]).await.unwrap();
    assert_eq!((probe.block, probe.spec_version), (6_852_690, 343));
    assert_eq!(probe.block_time, Some(UnixTime::from_millis(1_762_787_544_000)));
    assert_eq!(node.state().subscriptions, 0);
}
