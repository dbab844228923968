//! A day and more of following the chain, under the paused clock.
//!
//! In a file of its own: it measures the memory of its process.

mod chain_node;
mod support;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use chain_node::{NETUID, Node, network};
use sn17_miner::chain::{ChainClient, Follower, Link, Registration, Settings};
use sn17_miner::clock::Clock;
use sn17_miner::primitives::{Hotkey, Uid, UnixTime};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

fn resident_bytes() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4_096
}

#[tokio::test(start_paused = true)]
async fn two_hundred_syncs_in_a_hundred_and_twenty_thousand_seconds() {
    let Some(node) = Node::new() else { return };
    let us = Hotkey::from_bytes([7; 32]);
    node.register(&us, 3);
    let (nodes, dial) = network(&[&node]);
    let clock = Clock::starting_at(UnixTime::from_secs(1_763_600_000));
    let client = ChainClient::new(Settings::for_nodes(nodes, NETUID), Arc::new(dial), clock);
    let (follower, mut handle) = Follower::new(client, vec![us], Box::new(|| 0.0), None);
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(follower.run(stop.clone()));

    let start = Instant::now();
    let mut early = 0;
    for sync in 0..=200_u64 {
        assert!(handle.changed().await);
        let view = handle.view();
        let Link::Up { block, .. } = view.link else { panic!("sync {sync}: {:?}", view.link) };
        // Timers fire up to a millisecond late each.
        let late = start.elapsed() - Duration::from_secs(600 * sync);
        assert!(late < Duration::from_secs(1), "sync {sync} came {late:?} late");
        assert_eq!(view.registration(&us).unwrap().uid(), Some(Uid(3)));
        assert!(matches!(view.registration(&us), Some(Registration::Registered { .. })));
        assert_eq!(view.metagraph.unwrap().len(), 1_024);
        assert_eq!(block, 6_852_690);
        if sync == 20 {
            early = resident_bytes();
        }
    }
    assert!(start.elapsed() >= Duration::from_secs(120_000));
    let grown = resident_bytes().saturating_sub(early);
    // One metagraph kept by mistake per sync would be 40 MiB by now, one answer more than 60.
    assert!(grown < 16 << 20, "grown by {grown} bytes in 180 syncs");

    assert_eq!(node.state().dials, 1);
    assert_eq!(node.state().subscriptions, 1);
    assert_eq!(node.calls("Metadata_metadata_at_version"), 1);
    assert_eq!(node.calls("SubnetInfoRuntimeApi_get_selective_metagraph"), 201);
    assert_eq!(node.calls("state_getStorage"), 201);

    stop.cancel();
    while tasks.join_next().await.is_some() {}
    assert_eq!(node.state().subscriptions, 0);
}
