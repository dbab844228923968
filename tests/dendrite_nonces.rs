//! Nonces when clocks disagree or are set, against an axon that keeps the real rules of age and order.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use http::{HeaderMap, HeaderValue};
use sn17_miner::clock::{Clock, Hands};
use sn17_miner::dendrite::{Answered, AxonAddress, CallError, Dendrite, Settings, Submission};
use sn17_miner::devnet::axon::{DevAxon, DevAxonSettings};
use sn17_miner::devnet::network::in_process;
use sn17_miner::devnet::tasks::TaskMaker;
use sn17_miner::primitives::{ByteSize, Uid, UnixTime};
use sn17_miner::protocol::PullReply;
use sn17_miner::wallet::HotkeyPair;

const START: UnixTime = UnixTime::from_millis(1_767_225_600_730);
const HOUR: i64 = 3_600_000_000_000;

/// What the axon saw of one call, and how it answered.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    uuid: String,
    nonce: u64,
    status: u16,
}

/// One axon whose clock goes right, and callers whose clock may be set.
struct World {
    axon: DevAxon,
    address: AxonAddress,
    dendrite: Dendrite,
    clock: Clock,
    hands: Hands,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl World {
    /// The axon's clock is ahead of ours by `ahead`; it says `date`, if not the truth.
    fn new(ahead: i64, date: Option<&'static str>) -> Self {
        let (clock, hands) = Clock::adjustable(START);
        let settings = DevAxonSettings { clock_ahead: ahead, ..DevAxonSettings::default() };
        let right = Clock::starting_at(START);
        let axon = DevAxon::new(HotkeyPair::dev("validator-0"), right, settings, TaskMaker::new(1, 0.0));
        let miner = HotkeyPair::dev("miner");
        axon.register(Uid(100), *miner.hotkey());
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let book = Arc::clone(&seen);
        let router = axon.router().layer(from_fn(move |request: Request, next: Next| {
            let book = Arc::clone(&book);
            async move {
                let text = |headers: &HeaderMap, name| headers[name].to_str().unwrap().to_owned();
                let uuid = text(request.headers(), "bt_header_dendrite_uuid");
                let nonce = text(request.headers(), "bt_header_dendrite_nonce").parse().unwrap();
                let mut reply: Response = next.run(request).await;
                book.lock().unwrap().push(Seen { uuid, nonce, status: reply.status().as_u16() });
                if let Some(date) = date {
                    reply.headers_mut().insert("date", HeaderValue::from_static(date));
                }
                reply
            }
        }));
        let place = SocketAddr::from(([127, 0, 0, 1], 9_000));
        let transport = in_process(HashMap::from([(place, router)]));
        let settings = Settings {
            pull_timeout: Duration::from_secs(12),
            submit_timeout: Duration::from_secs(300),
            pull_reply_limit: ByteSize(1 << 20),
            submit_reply_limit: ByteSize(1 << 20),
            version: 9_009_000,
        };
        let dendrite = Dendrite::new(Arc::new(miner), clock, settings, transport.clone(), transport);
        let address = AxonAddress { hotkey: axon.hotkey(), address: place };
        Self { axon, address, dendrite, clock, hands, seen }
    }

    async fn pull(&self) -> Result<Answered<PullReply>, CallError> {
        tokio::time::advance(Duration::from_secs(30)).await;
        self.dendrite.pull(&self.address).await
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn statuses(&self) -> Vec<u16> {
        self.seen().iter().map(|seen| seen.status).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn an_axon_whose_clock_is_ahead_is_called_by_its_own() {
    for ahead in [17_000_000_000, 60_000_000_000, HOUR] {
        let world = World::new(ahead, None);
        let task = world.pull().await.unwrap().reply.task.unwrap();
        assert_eq!(world.statuses(), [401, 200], "{ahead} ns");
        let submission =
            Submission { task_id: &task.id, prompt: &task.prompt, spz: None, submit_time: world.clock.now() };
        world.dendrite.submit(&world.address, submission).await.unwrap();
        assert_eq!(world.axon.ledger(|ledger| ledger.chronicle().count("empty")), 1);
        for _ in 0..50 {
            world.pull().await.unwrap();
        }
        let seen = world.seen();
        assert!(seen.iter().skip(1).all(|call| call.status == 200), "{seen:?}");
        assert!(seen.iter().all(|call| call.uuid == seen[0].uuid), "nothing was set");
    }
    // Little enough to be young enough, and behind.
    for ahead in [10_000_000_000, 500_000_000, -HOUR] {
        let world = World::new(ahead, None);
        world.pull().await.unwrap();
        assert_eq!(world.statuses(), [200], "{ahead} ns");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_costs_no_call() {
    for steps in [[-HOUR, HOUR], [HOUR, -HOUR], [5_000_000_000, -5_000_000_000], [-20_000_000_000, HOUR]] {
        let world = World::new(0, None);
        world.pull().await.unwrap();
        for step in steps {
            world.hands.turn(step);
            for _ in 0..3 {
                world.pull().await.unwrap();
            }
        }
        // At most one more try after each setting, and never one that reached the handler.
        let refused = world.statuses().iter().filter(|status| **status == 401).count();
        assert!(refused <= 2, "{:?} after {steps:?}", world.seen());
        assert_eq!(world.axon.ledger(|ledger| ledger.chronicle().count("assigned")), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_whose_nonces_ran_ahead_takes_another_uuid() {
    let world = World::new(0, None);
    world.pull().await.unwrap();
    world.hands.turn(HOUR);
    world.pull().await.unwrap();
    world.hands.turn(-HOUR);
    world.pull().await.unwrap();
    world.pull().await.unwrap();
    let seen = world.seen();
    assert_eq!(world.statuses(), [200; 4]);
    assert_eq!(seen[0].uuid, seen[1].uuid);
    assert_ne!(seen[1].uuid, seen[2].uuid);
    assert_eq!(seen[2].uuid, seen[3].uuid);
    assert_eq!(seen[3].nonce, world.clock.now().as_nanos(), "by the clock again");
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_back_by_less_than_a_second_keeps_the_uuid() {
    let world = World::new(0, None);
    world.dendrite.pull(&world.address).await.unwrap();
    world.hands.turn(-500_000_000);
    world.dendrite.pull(&world.address).await.unwrap();
    let seen = world.seen();
    assert_eq!(world.statuses(), [200; 2]);
    assert_eq!((&seen[0].uuid, seen[0].nonce + 1), (&seen[1].uuid, seen[1].nonce));
}

#[tokio::test(start_paused = true)]
async fn a_date_of_another_age_moves_no_nonce() {
    for date in ["Fri, 31 Dec 9999 23:59:59 GMT", "Thu, 01 Jan 1970 00:00:00 GMT", "yesterday"] {
        let world = World::new(0, Some(date));
        world.pull().await.unwrap();
        world.pull().await.unwrap();
        assert_eq!(world.seen()[1].nonce, world.clock.now().as_nanos(), "{date}");
        // Such an axon cannot be followed, and is not asked again and again.
        let world = World::new(HOUR, Some(date));
        assert!(matches!(world.pull().await, Err(CallError::Refused { .. })));
        assert_eq!(world.statuses(), [401]);
    }
}
