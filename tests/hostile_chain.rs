//! The whole agent beside a chain whose answers are bad: it goes on by what it knew, and says what is
//! wrong in one line a try.

#[path = "support/chain_life.rs"]
mod chain_life;
#[path = "support/hostile_world.rs"]
mod hostile_world;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chain_life::{Net, TOKEN, address, coldkey, us};
use futures_util::StreamExt;
use sn17_miner::chain::{ChainClient, ChainError, Settings as ChainSettings};
use sn17_miner::clock::Clock;
use sn17_miner::devnet::chain::{AxonEntry, Fault, FaultRule, Neuron, Target};
use sn17_miner::mining::Standing;
use sn17_miner::primitives::{ByteSize, Hotkey, Netuid, Rao, Uid};
use sn17_miner::wallet::HotkeyPair;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Every way there is to read the subnet.
const READINGS: [&str; 5] = [
    "SubnetInfoRuntimeApi_get_selective_metagraph",
    "SubnetInfoRuntimeApi_get_selective_mechagraph",
    "SubnetInfoRuntimeApi_get_metagraph",
    "SubnetInfoRuntimeApi_get_subnet_state",
    "NeuronInfoRuntimeApi_get_neurons_lite",
];

const EVERY_MINUTE: &str = "[network]\nsync_interval = \"60s\"\n";

fn hotkey(name: &str) -> Hotkey {
    *HotkeyPair::dev(name).hotkey()
}

/// Mines while the chain answers badly, and after it answers well again. `message` is in the warning.
async fn outlives(fault: Fault, on: &[&str], message: &str) {
    let net = Net::new(2, EVERY_MINUTE);
    net.mine(8, async {
        net.until("the first tasks", || net.count("accepted") >= 2).await;
        for name in on {
            net.chain.inject(FaultRule::always(fault, Target::Method((*name).to_owned())));
        }
        net.until("the warning", || !net.log.with("Cannot read the chain").is_empty()).await;
        let before = net.count("accepted");
        net.until("mining on", || net.count("accepted") >= before + 2).await;
        net.chain.clear_faults();
        net.until("the next sync", || net.log.with("Synced with the chain").len() == 2).await;
    })
    .await;
    let told = net.log.with("Cannot read the chain");
    assert!(told.iter().all(|line| line.contains(message)), "{told:#?}");
    net.log.expect(0, "alarm=");
    net.log.assert_clean();
    net.assert_settled();
}

#[tokio::test(start_paused = true)]
async fn truncated_metagraphs() {
    outlives(Fault::Truncated, &READINGS, "cannot decode").await;
}

#[tokio::test(start_paused = true)]
async fn a_truncated_registration() {
    outlives(Fault::Truncated, &["state_getStorage"], "cannot decode").await;
}

#[tokio::test(start_paused = true)]
async fn metagraphs_in_which_every_byte_is_wrong() {
    outlives(Fault::Scrambled, &READINGS, "cannot decode").await;
}

#[tokio::test(start_paused = true)]
async fn answers_of_the_wrong_type() {
    outlives(Fault::WrongType, &READINGS, "cannot decode").await;
    outlives(Fault::WrongType, &["chain_getHeader"], "cannot decode").await;
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_no_json() {
    outlives(Fault::Garbage, &READINGS, "").await;
}

/// 80 MiB of digits. Over a socket not even those are taken: see below.
#[tokio::test(start_paused = true)]
async fn a_metagraph_beyond_the_limit() {
    outlives(Fault::Oversized(40 << 20), &READINGS, "more than the 64MiB allowed").await;
}

#[tokio::test(start_paused = true)]
async fn a_metagraph_of_another_subnet() {
    outlives(Fault::OtherSubnet, &READINGS, "asked for subnet 17, the answer is about subnet 18").await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_limits_requests() {
    outlives(Fault::RateLimited, &READINGS, "limits our requests").await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_says_nothing() {
    outlives(Fault::Silence, &READINGS, "did not answer").await;
}

#[tokio::test(start_paused = true)]
async fn a_subnet_without_neurons() {
    let net = Net::new(2, EVERY_MINUTE);
    net.mine(6, async {
        net.until("the first tasks", || net.count("accepted") >= 2 && net.open() == 0).await;
        let neurons = net.chain.change(|subnet| std::mem::take(&mut subnet.neurons));
        net.until("the alarm", || !net.log.with("alarm=deregistered").is_empty()).await;
        net.log.expect(1, "No validator of the subnet may be asked");
        net.pass(1_200).await;
        assert_eq!(net.open(), 0);
        net.chain.change(|subnet| subnet.neurons = neurons);
    })
    .await;
    net.log.assert_clean();
    net.assert_settled();
}

#[tokio::test(start_paused = true)]
async fn a_subnet_of_ourselves_alone() {
    let net = Net::without_miner(1, EVERY_MINUTE);
    let validator = net.chain.change(|subnet| {
        let validator = subnet.neurons.remove(0);
        // With an axon and a stake of its own: we never ask ourselves.
        subnet.neurons.push(Neuron::validator(us(), coldkey(), address(0), Rao(90_000 * TOKEN), 1));
        validator
    });
    net.register_with_validators(Uid(0));
    net.pass(60).await;
    net.mine(2, async {
        net.pass(1_200).await;
        assert_eq!(net.asked(address(0)), 0);
        assert!(!net.log.with("No validator of the subnet may be asked").is_empty());
        net.chain.register(validator);
    })
    .await;
    net.assert_settled();
}

#[tokio::test(start_paused = true)]
async fn a_subnet_of_4096_neurons() {
    let net = Net::new(2, EVERY_MINUTE);
    net.chain.change(|subnet| {
        for number in subnet.neurons.len()..4_096 {
            let key = Hotkey::from_bytes(
                [[1, 2], (number as u16).to_be_bytes()].concat().repeat(8).try_into().unwrap(),
            );
            subnet.neurons.push(Neuron::miner(key, coldkey(), 1));
        }
    });
    net.pass(60).await;
    net.mine(6, async {}).await;
    assert!(net.log.with("neurons=4096").len() == 1, "{:#?}", net.log.with("Synced"));
    net.assert_settled();
}

/// Ours a second time, and a validator's with an axon elsewhere: the lowest uid of each counts.
#[tokio::test(start_paused = true)]
async fn neurons_that_share_a_hotkey() {
    let net = Net::new(2, EVERY_MINUTE);
    let elsewhere = address(7);
    net.serve(elsewhere, net.axons[0].router());
    net.chain.register(Neuron::miner(us(), coldkey(), 1));
    let twin = Neuron::validator(net.axons[0].hotkey(), coldkey(), elsewhere, Rao(u64::MAX), 1);
    net.chain.register(twin);
    net.pass(60).await;
    let app = net.agent().await;
    let (shown, _) = app.watch();
    let stop = tokio_util::sync::CancellationToken::new();
    let budget = sn17_miner::mining::Budget::Tasks(6);
    app.run(budget, stop).await.unwrap();
    assert_eq!(shown.borrow().as_ref().unwrap().members[0].standing, Standing::Registered { uid: Uid(2) });
    assert_eq!(net.asked(elsewhere), 0);
    assert!(!net.log.with("share a hotkey").is_empty());
    net.assert_settled();
}

/// Mines with one sound validator beside one that announced `axon`; whether that one is called.
async fn beside_an_axon_of(axon: AxonEntry, at: SocketAddr) -> bool {
    let net = Net::new(2, EVERY_MINUTE);
    net.serve(at, net.axons[0].router());
    net.chain.change(|subnet| subnet.neurons[0].axon = Some(axon));
    net.pass(60).await;
    net.mine(6, async {}).await;
    assert_eq!(net.count_at(0, "accepted") > 0, net.asked(at) > 0);
    net.log.assert_clean();
    net.assert_settled();
    net.asked(at) > 0
}

#[tokio::test(start_paused = true)]
async fn an_axon_at_ip_0() {
    let at: SocketAddr = "0.0.0.0:8091".parse().unwrap();
    assert!(!beside_an_axon_of(AxonEntry::serving(at, 1), at).await);
    let at: SocketAddr = "[::]:8091".parse().unwrap();
    assert!(!beside_an_axon_of(AxonEntry::serving(at, 1), at).await);
}

#[tokio::test(start_paused = true)]
async fn an_axon_at_port_0() {
    let at: SocketAddr = "91.0.0.50:0".parse().unwrap();
    assert!(!beside_an_axon_of(AxonEntry::serving(at, 1), at).await);
}

#[tokio::test(start_paused = true)]
async fn an_axon_at_an_ipv6_address() {
    let at: SocketAddr = "[2a01:4f8::1]:8091".parse().unwrap();
    assert!(beside_an_axon_of(AxonEntry::serving(at, 1), at).await);
}

/// An address of the user's own network, in each of the ways an axon can write it.
#[tokio::test(start_paused = true)]
async fn an_axon_inside_the_users_network() {
    for at in
        ["127.0.0.1:8091", "10.1.2.3:22", "169.254.169.254:80", "[::1]:80", "[fe80::1]:80", "[fd00::1]:80"]
    {
        let at: SocketAddr = at.parse().unwrap();
        assert!(!beside_an_axon_of(AxonEntry::serving(at, 1), at).await, "{at}");
    }
    let at: SocketAddr = "[::ffff:192.168.1.1]:80".parse().unwrap();
    assert!(!beside_an_axon_of(AxonEntry::serving(at, 1), at).await, "{at}");
}

#[tokio::test(start_paused = true)]
async fn stakes_whose_sum_overflows() {
    let net = Net::new(3, EVERY_MINUTE);
    net.chain.change(|subnet| {
        for neuron in &mut subnet.neurons {
            (neuron.alpha_stake, neuron.tao_stake, neuron.total_stake) =
                (Rao(u64::MAX), Rao(u64::MAX), Rao(u64::MAX));
        }
    });
    net.pass(60).await;
    net.mine(6, async {}).await;
    net.assert_settled();
}

#[tokio::test(start_paused = true)]
async fn a_chain_with_its_clock_far_away() {
    const YEAR: i64 = 365 * 24 * 3_600 * 1_000_000_000;
    for ahead in [YEAR, -YEAR] {
        let net = Net::new(2, EVERY_MINUTE);
        net.chain.set_clock_ahead(ahead);
        net.pass(60).await;
        net.mine(4, async {}).await;
        // Ages are by our own clock.
        net.chain.set_reachable(false);
        net.pass(600).await;
        net.mine(2, async {}).await;
        let told = net.log.with("Mining by the metagraph of an earlier run");
        assert!(told.len() == 1 && told[0].contains("age_s=6"), "{told:#?}");
        net.assert_settled();
    }
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_that_took_our_uid_is_named() {
    let net = Net::new(1, EVERY_MINUTE);
    net.mine(2, async {
        net.until("the first task", || net.count("accepted") >= 1 && net.open() == 0).await;
        let thief = hotkey("thief");
        net.chain.change(|subnet| subnet.neurons[1] = Neuron::miner(thief, coldkey(), 2));
        net.until("the alarm", || !net.log.with("alarm=deregistered").is_empty()).await;
        let alarm = net.log.with("alarm=deregistered").remove(0);
        assert!(alarm.contains(&format!("holder={thief}")), "{alarm}");
        net.register();
    })
    .await;
    net.assert_settled();
}

/// A node whose every answer is one WebSocket message that begins with `head` and goes on with `more`
/// for ever; counts the bytes of it that were taken.
async fn flooding(head: Vec<u8>, more: Vec<u8>) -> (SocketAddr, Arc<AtomicU64>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let taken = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&taken);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let mut node = tokio_tungstenite::accept_async(socket).await.unwrap();
            let _request = node.next().await;
            let raw = node.get_mut();
            let mut next = head.as_slice();
            while let Ok(sent) = raw.write(next).await {
                counter.fetch_add(sent as u64, Ordering::Relaxed);
                next = if sent == next.len() { &more } else { &next[sent..] };
            }
        }
    });
    (address, taken, tasks)
}

/// Reads a flooding node with a limit of 4 MiB; the bytes it took, and how it failed.
async fn read_flooded(head: Vec<u8>, more: Vec<u8>) -> (u64, ChainError) {
    let (address, taken, _server) = flooding(head, more).await;
    let node = format!("ws://{address}").parse().unwrap();
    let settings = ChainSettings {
        reply_limit: ByteSize::mib(4),
        call_deadline: Duration::from_secs(10),
        ..ChainSettings::for_nodes(vec![node], Netuid(17))
    };
    let mut client = ChainClient::over_websocket(settings, Clock::system());
    let error = tokio::time::timeout(Duration::from_secs(60), client.sync(&[])).await.unwrap().unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    drop(client);
    (taken.load(Ordering::Relaxed), error)
}

/// What the system's buffers of a loopback connection may hold beside what the agent read.
const BUFFERS: u64 = 12 << 20;

#[tokio::test]
async fn an_answer_of_10_gb_over_a_socket() {
    // A text frame, the last of its message, of ten billion bytes.
    let head = [[0x81, 127].as_slice(), &10_000_000_000_u64.to_be_bytes()].concat();
    let (taken, error) = read_flooded(head, vec![b'0'; 1 << 16]).await;
    assert!(taken < BUFFERS, "{taken} bytes");
    assert!(matches!(error, ChainError::Closed { .. }), "{error:?}");
}

#[tokio::test]
async fn an_answer_without_end_over_a_socket() {
    let frame =
        |opcode: u8| [[opcode, 127].as_slice(), &(1_u64 << 16).to_be_bytes(), &[b'0'; 1 << 16]].concat();
    // A text frame and continuations, none of them the last.
    let (taken, error) = read_flooded(frame(0x01), frame(0x00)).await;
    assert!(taken < (4 << 20) + BUFFERS, "{taken} bytes");
    assert!(matches!(error, ChainError::Closed { .. }), "{error:?}");
}
