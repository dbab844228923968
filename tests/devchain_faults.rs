//! What goes wrong with `DevChain` on purpose, and its streams of headers, in process.

mod devchain_setup;

use std::time::Duration;

use devchain_setup::{FIRST_BLOCK, bytes, chain, header};
use parity_scale_codec::{Compact, DecodeAll};
use serde_json::{Value, json};
use sn17_miner::devnet::chain::records::NeuronInfoLite;
use sn17_miner::devnet::chain::{BLOCK_TIME, Fault, FaultRule, Reply, Target};

#[tokio::test(start_paused = true)]
async fn heads_are_streamed_as_they_come() {
    let chain = chain();
    let subscribe = async |method: &str| match chain.answer(method, &json!([])).await {
        Reply::Subscribed(heads) => heads,
        other => panic!("{other:?}"),
    };
    let mut best = subscribe("chain_subscribeNewHeads").await;
    let mut finalized = subscribe("chain_subscribeFinalizedHeads").await;
    assert_eq!((best.notification(), finalized.notification()), ("chain_newHead", "chain_finalizedHead"));
    let first = u64::from(FIRST_BLOCK);
    for number in first..first + 20 {
        let seen = header(&best.next().await.unwrap());
        assert_eq!(u64::from(seen.number), number);
        assert_eq!(seen.hash(), chain.head().hash);
        assert_eq!(u64::from(header(&finalized.next().await.unwrap()).number), number - 2);
    }
    chain.freeze(true);
    let hour = Duration::from_secs(3_600);
    assert!(tokio::time::timeout(hour, best.next()).await.is_err(), "frozen");
    let produced = chain.produce_block();
    assert_eq!(header(&best.next().await.unwrap()).hash(), produced.hash);
    chain.drop_connections();
    assert_eq!(best.next().await, None);
    assert_eq!(finalized.next().await, None, "the cut ends what was still to come, too");
    assert!(matches!(chain.answer("chain_unsubscribeNewHeads", &json!(["x"])).await, Reply::Result(_)));
}

#[tokio::test(start_paused = true)]
async fn each_fault_does_what_it_says() {
    let chain = chain();
    let method = "NeuronInfoRuntimeApi_get_neurons_lite";
    let params = json!([method, "0x1100"]);
    let right = chain.call("state_call", &params).unwrap();
    let meet = async |fault: Fault| {
        chain.inject(FaultRule::once(fault, Target::Method(method.into())));
        chain.answer("state_call", &params).await
    };
    let result = |reply: Reply| match reply {
        Reply::Result(value) => value,
        other => panic!("{other:?}"),
    };

    assert!(matches!(meet(Fault::Drop).await, Reply::Closed));
    assert!(matches!(meet(Fault::RateLimited).await, Reply::Error(error) if error.code == -32_005));
    assert!(matches!(meet(Fault::Broken).await, Reply::Error(error) if error.code == -32_603));
    assert!(matches!(meet(Fault::Garbage).await, Reply::Garbage(text)
        if serde_json::from_str::<Value>(&text).is_err()));
    let scrambled = result(meet(Fault::Scrambled).await);
    assert_eq!(scrambled.as_str().unwrap().len(), right.as_str().unwrap().len());
    assert_ne!(scrambled, right);
    let truncated = bytes(&result(meet(Fault::Truncated).await));
    assert_eq!(truncated, bytes(&right)[..truncated.len()]);
    assert!(Vec::<NeuronInfoLite>::decode_all(&mut truncated.as_slice()).is_err());
    assert_eq!(bytes(&result(meet(Fault::Oversized(1 << 20)).await)).len(), 1 << 20);
    assert!(result(meet(Fault::WrongType).await).is_array());
    let other = bytes(&result(meet(Fault::OtherSubnet).await));
    let other = Vec::<NeuronInfoLite>::decode_all(&mut other.as_slice()).unwrap();
    assert_eq!(other[0].netuid, Compact(18));
    let started = tokio::time::Instant::now();
    assert_eq!(result(meet(Fault::Slow(Duration::from_secs(90))).await), right);
    assert!(started.elapsed() >= Duration::from_secs(90));
    let day = Duration::from_secs(86_400);
    assert!(tokio::time::timeout(day, meet(Fault::Silence)).await.is_err());

    assert_eq!(result(chain.answer("state_call", &params).await), right, "each struck once");
    assert_eq!((chain.requests(method), chain.requests("state_call")), (12, 12));
    chain.inject(FaultRule::always(Fault::Drop, Target::Everything));
    assert!(matches!(chain.answer("chain_getHead", &json!([])).await, Reply::Closed));
    chain.clear_faults();
    result(chain.answer("chain_getHead", &json!([])).await);
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_chain_cuts_what_is_open_and_goes_on() {
    let chain = chain();
    chain.inject(FaultRule::always(Fault::Silence, Target::Method("chain_getHead".into())));
    let params = json!([]);
    let waiting = chain.answer("chain_getHead", &params);
    let cut = async {
        tokio::task::yield_now().await;
        chain.set_reachable(false);
    };
    let (reply, ()) = tokio::join!(waiting, cut);
    assert!(matches!(reply, Reply::Closed));
    assert!(matches!(chain.answer("rpc_methods", &json!([])).await, Reply::Closed));
    tokio::time::advance(BLOCK_TIME * 3).await;
    chain.set_reachable(true);
    assert!(matches!(chain.answer("rpc_methods", &json!([])).await, Reply::Result(_)));
    assert_eq!(chain.head().number, u64::from(FIRST_BLOCK) + 3);
}
