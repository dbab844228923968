//! Our own chain client reads `DevChain`: in process under a paused clock, and over a WebSocket.

use std::sync::Arc;
use std::time::Duration;

use sn17_miner::chain::{ChainClient, NodeUrl, Registration, Settings};
use sn17_miner::clock::Clock;
use sn17_miner::devnet::chain::{
    AxonEntry, BLOCK_TIME, DevChain, DevChainSettings, Fault, FaultRule, Layout, Neuron, Subnet, Target,
};
use sn17_miner::primitives::{Coldkey, Hotkey, Netuid, Rao, UnixTime};
use sn17_miner::wallet::HotkeyPair;
use tokio::net::TcpListener;

const METAGRAPH_CALLS: [&str; 5] = [
    "SubnetInfoRuntimeApi_get_selective_metagraph",
    "SubnetInfoRuntimeApi_get_selective_mechagraph",
    "SubnetInfoRuntimeApi_get_metagraph",
    "SubnetInfoRuntimeApi_get_subnet_state",
    "NeuronInfoRuntimeApi_get_neurons_lite",
];

fn hotkey(name: &str) -> Hotkey {
    *HotkeyPair::dev(name).hotkey()
}

fn coldkey(name: &str) -> Coldkey {
    Coldkey::from_bytes(*hotkey(name).as_bytes())
}

fn subnet() -> Subnet {
    let mut subnet = Subnet::new(Netuid(17), hotkey("owner"), coldkey("owner"));
    let validator = |name: &str, address: &str| {
        Neuron::validator(
            hotkey(name),
            coldkey(name),
            address.parse().unwrap(),
            Rao(2_000_000_000_000),
            900_000,
        )
    };
    subnet.neurons = vec![
        validator("v0", "127.0.0.1:17002"),
        validator("v1", "[2001:db8::17]:65535"),
        Neuron { incentive: 4_660, ..Neuron::miner(hotkey("miner"), coldkey("miner"), 999_000) },
    ];
    subnet
}

fn settings(url: &str) -> Settings {
    Settings::for_nodes(vec![url.parse::<NodeUrl>().unwrap()], Netuid(17))
}

fn in_process(settings_of_chain: DevChainSettings) -> (DevChain, ChainClient) {
    let clock = Clock::starting_at(UnixTime::from_secs(1_763_600_000));
    let chain = DevChain::new(settings_of_chain, clock);
    let client = ChainClient::new(settings("ws://127.0.0.1:9944"), Arc::new(chain.dialler()), clock);
    (chain, client)
}

async fn assert_synced(chain: &DevChain, client: &mut ChainClient) {
    let miner = hotkey("miner");
    let synced = client.sync(&[miner, hotkey("stranger")]).await.unwrap();
    let block = chain.finalized();
    assert_eq!(synced.spec_version, block.spec_version);
    let subnet = chain.subnet();
    let neurons = synced.metagraph.neurons();
    assert_eq!(neurons.len(), subnet.neurons.len());
    for (ours, held) in neurons.iter().zip(&subnet.neurons) {
        assert_eq!(ours.hotkey, held.hotkey);
        assert_eq!(ours.stake, held.total_stake);
        let address = ours.axon.as_ref().and_then(|axon| axon.address());
        assert_eq!(address, held.axon.as_ref().map(AxonEntry::address));
    }
    let [(_, Registration::Registered { uid, .. }), (_, Registration::NotRegistered { .. })] =
        synced.registrations.as_slice()
    else {
        panic!("{:?}", synced.registrations)
    };
    assert_eq!(Some(*uid), subnet.uid_of(&miner));
}

#[tokio::test(start_paused = true)]
async fn the_client_reads_the_chain_in_process() {
    let (chain, mut client) = in_process(DevChainSettings::new(subnet()));
    assert_synced(&chain, &mut client).await;
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_synced(&chain, &mut client).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_client_follows_an_upgrade() {
    let (chain, mut client) = in_process(DevChainSettings::new(subnet()));
    assert_synced(&chain, &mut client).await;
    chain.upgrade(Layout::Upgraded);
    tokio::time::sleep(BLOCK_TIME * 4).await;
    assert_synced(&chain, &mut client).await;
    assert_eq!(chain.finalized().spec_version, 344);
}

#[tokio::test(start_paused = true)]
async fn the_client_falls_back_to_the_calls_there_are() {
    let calls = ["get_selective_metagraph", "get_selective_mechagraph", "get_metagraph"];
    for missing in 1..=3 {
        let absent_calls = calls[..missing].iter().map(|&name| name.to_owned()).collect();
        let (chain, mut client) =
            in_process(DevChainSettings { absent_calls, ..DevChainSettings::new(subnet()) });
        assert_synced(&chain, &mut client).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_client_refuses_what_is_spoiled() {
    let (chain, mut client) = in_process(DevChainSettings::new(subnet()));
    for fault in [
        Fault::Drop,
        Fault::RateLimited,
        Fault::Silence,
        Fault::Garbage,
        Fault::Scrambled,
        Fault::Truncated,
        Fault::Oversized(70 << 20),
        Fault::WrongType,
        Fault::OtherSubnet,
        Fault::Broken,
    ] {
        for call in METAGRAPH_CALLS {
            chain.inject(FaultRule::always(fault, Target::Method(call.into())));
        }
        let error = client.sync(&[hotkey("miner")]).await.unwrap_err();
        println!("{fault:?}: {error}");
        chain.clear_faults();
        assert_synced(&chain, &mut client).await;
    }
}

#[tokio::test]
async fn the_client_reads_the_chain_over_a_websocket() {
    let clock = Clock::system();
    let chain = DevChain::new(DevChainSettings { frozen: true, ..DevChainSettings::new(subnet()) }, clock);
    let server = chain.serve(TcpListener::bind("127.0.0.1:0").await.unwrap()).unwrap();
    let mut client = ChainClient::over_websocket(settings(&server.url()), clock);
    assert_synced(&chain, &mut client).await;
    chain.drop_connections();
    let _cut = client.sync(&[]).await;
    assert_synced(&chain, &mut client).await;
    server.stop().await;
}
