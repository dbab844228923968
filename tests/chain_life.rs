//! The whole agent through the life of a chain: outages, upgrades, lost and regained registrations,
//! validators that come, move and go. In process and under the paused clock; every story ends with
//! the validators' books in order.

#[path = "support/chain_life.rs"]
mod chain_life;
#[path = "support/hostile_world.rs"]
mod hostile_world;

use std::time::Duration;

use axum::Router;
use chain_life::{BTCLI, Net, SELECTIVE, TOKEN, address, coldkey, us};
use http::StatusCode;
use sn17_miner::chain::Link;
use sn17_miner::devnet::chain::{AxonEntry, Fault, FaultRule, Layout, Neuron, Target};
use sn17_miner::mining::{Budget, Finish, Standing};
use sn17_miner::primitives::{Rao, Uid};
use tokio_util::sync::CancellationToken;

#[tokio::test(start_paused = true)]
async fn an_hour_without_the_chain_changes_nothing() {
    let net = Net::new(3, "");
    net.mine(60, async {
        net.until("the first tasks", || net.count("accepted") >= 3).await;
        net.chain.set_reachable(false);
        let before = net.count("assigned");
        net.pass(3_600).await;
        // Three validators, a task of each every 300 s and a little.
        assert!(net.count("assigned") >= before + 30, "{} then {}", before, net.count("assigned"));
        net.chain.set_reachable(true);
        let synced = net.chain.requests(SELECTIVE);
        net.until("a sync", || net.chain.requests(SELECTIVE) > synced).await;
    })
    .await;
    net.log.expect(1, "Lost the chain node");
    net.log.expect(2, "Synced with the chain");
    net.log.expect(0, "alarm=");
    net.assert_settled();
}

#[tokio::test(start_paused = true)]
async fn connections_that_drop_again_and_again_change_nothing() {
    let net = Net::new(3, "");
    net.mine(45, async {
        for _ in 0..60 {
            net.pass(47).await;
            net.chain.drop_connections();
        }
    })
    .await;
    // Each drop is noticed and costs one sync, none sooner than the floor of 30 s after the last.
    assert!(net.chain.requests(SELECTIVE) <= 1 + 60 + 8, "{}", net.chain.requests(SELECTIVE));
    assert!(net.log.with("Lost the chain node").len() >= 50);
    net.assert_settled();
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_talks_nonsense_for_an_hour_changes_nothing() {
    let net = Net::new(2, "[network]\nsync_interval = \"60s\"\n");
    net.mine(40, async {
        net.until("the first tasks", || net.count("accepted") >= 2).await;
        for fault in [
            Fault::Garbage,
            Fault::Truncated,
            Fault::Scrambled,
            Fault::WrongType,
            Fault::OtherSubnet,
            Fault::RateLimited,
            Fault::Silence,
            Fault::Broken,
        ] {
            net.chain.inject(FaultRule::always(fault, Target::Everything));
            net.pass(450).await;
            net.chain.clear_faults();
        }
    })
    .await;
    net.log.expect(0, "alarm=");
    net.assert_settled();
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_of_the_metadata_is_followed() {
    let net = Net::new(2, "[network]\nsync_interval = \"60s\"\n");
    let app = net.agent().await;
    let (_, handle) = app.watch();
    let handle = handle.unwrap();
    let spec = || match handle.view().link {
        Link::Up { spec_version, .. } => Some(spec_version),
        _ => None,
    };
    let stop = CancellationToken::new();
    let (finish, ()) = tokio::join!(app.run(Budget::Tasks(12), stop), async {
        net.until("the first tasks", || net.count("accepted") >= 2).await;
        let before = spec().unwrap();
        for (number, layout) in [Layout::Upgraded, Layout::Recorded, Layout::Upgraded].into_iter().enumerate()
        {
            net.chain.upgrade(layout);
            let wanted = before + number as u32 + 1;
            net.until("a sync with the new runtime", || spec() == Some(wanted)).await;
            net.pass(200).await;
        }
        // Who we are and whom to mine for is still read rightly.
        let view = handle.view();
        let registration = view.registration(&us()).unwrap();
        assert_eq!(registration.uid(), Some(Uid(2)));
        let metagraph = view.metagraph.unwrap();
        assert_eq!(metagraph.validators(Rao(1_000 * TOKEN), &[]).count(), 2);
    });
    assert_eq!(finish.unwrap(), Finish::Done);
    net.log.expect(0, "Cannot read the chain");
    net.assert_settled();
}

#[tokio::test(start_paused = true)]
async fn deregistration_stops_pulling_and_registration_resumes_it() {
    let net = Net::new(3, "[network]\nsync_interval = \"60s\"\n");
    let app = net.agent().await;
    let (shown, _) = app.watch();
    let standing = || shown.borrow().as_ref().map(|snapshot| snapshot.members[0].standing);
    let stop = CancellationToken::new();
    let (finish, ()) = tokio::join!(app.run(Budget::Tasks(12), stop), async {
        net.until("a task in flight", || net.count("accepted") >= 3 && net.open() == 1).await;
        let assigned = net.count("assigned");
        assert_eq!(net.chain.deregister(&us()), Some(Uid(3)));
        // The validators learn of it later, as they do: what is in flight is taken.
        net.until("the alarm", || !net.log.with("alarm=deregistered").is_empty()).await;
        net.until("the end of the task", || net.open() == 0).await;
        net.deregister_with_validators();
        // The interval, the lag of finality, and the task that was being worked on.
        assert!(net.count("assigned") <= assigned + 3, "{assigned} then {}", net.count("assigned"));
        let stopped = net.count("assigned");
        net.pass(3_000).await;
        assert_eq!(net.count("assigned"), stopped);
        assert_eq!(net.count("pull_refused"), 0);
        assert_eq!(standing(), Some(Standing::NotRegistered));

        let uid = net.register();
        assert_eq!(uid, Uid(4));
        net.until("mining again", || net.count("assigned") > stopped).await;
        assert_eq!(standing(), Some(Standing::Registered { uid }));
    });
    assert_eq!(finish.unwrap(), Finish::Done);
    let alarms = net.log.with("alarm=deregistered");
    assert_eq!(alarms.len(), 1, "{alarms:#?}");
    assert!(alarms[0].contains("uid=3") && alarms[0].ends_with_line(BTCLI), "{}", alarms[0]);
    net.log.expect(2, "This hotkey is registered on the subnet");
    net.assert_settled();
}

trait EndsWithLine {
    fn ends_with_line(&self, line: &str) -> bool;
}

impl EndsWithLine for String {
    /// The message ends in `line`; the fields come after it.
    fn ends_with_line(&self, line: &str) -> bool {
        self.split(" alarm=").next().is_some_and(|message| message.ends_with(&format!(": {line}")))
    }
}

#[tokio::test(start_paused = true)]
async fn a_uid_lost_and_regained_between_two_looks_is_told() {
    let net = Net::new(2, "");
    net.mine(8, async {
        net.until("the first tasks", || net.count("accepted") >= 2 && net.open() == 0).await;
        net.chain.deregister(&us()).unwrap();
        net.register();
    })
    .await;
    net.log.expect(1, "lost its uid and was registered again from=2 to=3");
    net.log.expect(0, "alarm=");
    net.assert_settled();
}

/// The validators see the deregistration before we do: the task in flight is refused, and given up
/// only when a validator says that it is no longer assigned.
#[tokio::test(start_paused = true)]
async fn a_task_refused_for_want_of_registration_is_closed_after_the_next() {
    let net = Net::new(1, "");
    net.mine(4, async {
        net.until("a task in flight", || net.count("accepted") == 1 && net.open() == 1).await;
        net.chain.deregister(&us()).unwrap();
        net.deregister_with_validators();
        net.until("the alarm", || !net.log.with("alarm=deregistered").is_empty()).await;
        // A refused submission is a doubt, which brings the sync forward to its floor.
        assert!(net.chain.requests(SELECTIVE) <= 3);
        net.pass(3_600).await;
        net.register();
        net.until("mining again", || net.count("assigned") > 2).await;
    })
    .await;
    for name in ["violation", "wrong_task", "bad_signature", "malformed", "booked_again"] {
        assert_eq!(net.count(name), 0, "{name}");
    }
    // One was taken over by whoever holds the old uid; it is closed here all the same.
    net.log.expect(1, "The task is closed without feedback");
    assert_eq!((net.count("assigned"), net.count("accepted"), net.open()), (4, 3, 1));
}

#[tokio::test(start_paused = true)]
async fn a_start_without_chain_mines_by_the_kept_metagraph() {
    let net = Net::new(2, "");
    net.mine(2, async {}).await;
    net.chain.set_reachable(false);
    net.pass(7_200).await;
    net.mine(6, async {}).await;
    assert_eq!(net.count("accepted"), 8);
    let told = net.log.with("Mining by the metagraph of an earlier run");
    assert_eq!(told.len(), 1, "{told:#?}");
    let age: u64 = told[0].split("age_s=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((7_200..8_000).contains(&age), "{age}");
    net.assert_settled();
}

#[tokio::test(start_paused = true)]
async fn a_restart_beside_a_chain_that_answers_tells_no_old_age() {
    let net = Net::new(1, "");
    net.mine(1, async {}).await;
    net.pass(7_200).await;
    net.mine(1, async {}).await;
    net.log.expect(0, "Mining by the metagraph of an earlier run");
    net.assert_settled();
}

#[tokio::test(start_paused = true)]
async fn a_start_without_anything_waits_for_the_chain() {
    let net = Net::new(2, "");
    net.chain.set_reachable(false);
    net.mine(4, async {
        net.pass(3_000).await;
        assert_eq!(net.count("assigned") + net.count("pull_refused"), 0);
        assert!(!net.log.with("Cannot read the chain").is_empty());
        net.chain.set_reachable(true);
        let since = net.clock.now();
        net.until("a task", || net.count("assigned") > 0).await;
        // The longest wait between two tries.
        assert!(net.clock.now().saturating_since(since) < Duration::from_secs(305));
    })
    .await;
    net.assert_settled();
}

#[tokio::test(start_paused = true)]
async fn once_without_a_chain_says_that_there_is_nobody_to_ask() {
    let net = Net::new(1, "");
    net.chain.set_reachable(false);
    let finish = net.agent().await.run(Budget::Once, CancellationToken::new()).await.unwrap();
    assert_eq!(finish, Finish::NoSubnet);
    net.chain.set_reachable(true);
    let finish = net.agent().await.run(Budget::Once, CancellationToken::new()).await.unwrap();
    assert_eq!(finish, Finish::Done);
    net.assert_settled();
}

#[tokio::test(start_paused = true)]
async fn without_registration_it_waits_and_says_how() {
    // Somebody who looks at the chain once a day waits for his registration in shorter steps.
    let net = Net::without_miner(2, "[network]\nsync_interval = \"1d\"\n");
    net.mine(4, async {
        net.pass(3_000).await;
        assert_eq!(net.count("assigned") + net.count("pull_refused"), 0);
        let told = net.log.with("This hotkey is not registered on the subnet");
        assert_eq!(told.len(), 1, "{told:#?}");
        assert!(told[0].contains(&format!("To register: {BTCLI}")), "{}", told[0]);
        net.register();
        let since = net.clock.now();
        net.until("a task", || net.count("assigned") > 0).await;
        assert!(net.clock.now().saturating_since(since) < Duration::from_secs(640));
    })
    .await;
    net.log.expect(0, "alarm=");
    net.assert_settled();
}

#[tokio::test(start_paused = true)]
async fn a_validator_that_moves_its_axon_is_followed() {
    let net = Net::new(2, "[network]\nsync_interval = \"60s\"\n");
    let (old, new) = (address(0), address(9));
    net.mine(16, async {
        net.until("the first tasks", || net.count("accepted") >= 2 && net.open() == 0).await;
        // For a while it serves at both.
        net.serve(new, net.axons[0].router());
        net.chain.change(|subnet| {
            let block = subnet.neurons[0].block_at_registration;
            subnet.neurons[0].axon = Some(AxonEntry::serving(new, block));
        });
        net.until("a call at the new address", || net.asked(new) > 0).await;
        let asked = net.asked(old);
        net.pass(1_000).await;
        assert_eq!(net.asked(old), asked);
        assert!(net.asked(new) >= 6);
    })
    .await;
    net.assert_settled();
}

#[tokio::test(start_paused = true)]
async fn a_validator_under_a_new_uid_keeps_its_cooldown() {
    let net = Net::new(2, "[network]\nsync_interval = \"60s\"\n");
    let app = net.agent().await;
    let (shown, _) = app.watch();
    let uids = || -> Vec<_> {
        shown.borrow().as_ref().map_or(Vec::new(), |s| s.lanes.iter().map(|lane| lane.uid).collect())
    };
    let stop = CancellationToken::new();
    let (finish, ()) = tokio::join!(app.run(Budget::Tasks(10), stop), async {
        net.until("the first tasks", || net.count("accepted") >= 2 && net.open() == 0).await;
        net.chain.change(|subnet| {
            let moved = subnet.neurons[0].clone();
            let newcomer = *sn17_miner::wallet::HotkeyPair::dev("newcomer").hotkey();
            subnet.neurons[0] = Neuron::miner(newcomer, coldkey(), 1);
            subnet.neurons.push(moved);
        });
        net.until("the new uid", || uids().contains(&Some(Uid(3)))).await;
    });
    assert_eq!(finish.unwrap(), Finish::Done);
    assert!(net.count_at(0, "accepted") >= 4);
    net.assert_settled();
}

#[tokio::test(start_paused = true)]
async fn a_validator_that_leaves_is_not_pulled_but_its_task_is_settled() {
    let net = Net::new(2, "[network]\nsync_interval = \"60s\"\n");
    net.mine(10, async {
        net.until("a task of the first", || {
            net.count("accepted") >= 2 && net.axons[0].ledger(|ledger| ledger.open_tasks().count() == 1)
        })
        .await;
        net.chain.change(|subnet| subnet.neurons[0].axon = None);
        net.until("its end", || net.open() == 0).await;
        net.pass(120).await;
        let assigned = net.count_at(0, "assigned");
        let asked = net.asked(address(0));
        net.pass(1_200).await;
        assert_eq!((net.count_at(0, "assigned"), net.asked(address(0))), (assigned, asked));
    })
    .await;
    net.assert_settled();
}

/// It goes while its answer waits to be sent again: the task is settled once it can be reached.
#[tokio::test(start_paused = true)]
async fn an_unsettled_answer_outlives_the_validators_place() {
    let net = Net::new(2, "[network]\nsync_interval = \"60s\"\n");
    net.mine(12, async {
        net.until("a task of the first", || {
            net.count("accepted") >= 2 && net.axons[0].ledger(|ledger| ledger.open_tasks().count() == 1)
        })
        .await;
        net.close(address(0));
        net.chain.change(|subnet| subnet.neurons[0].axon = None);
        net.pass(900).await;
        let assigned = net.count_at(0, "assigned");
        assert_eq!(net.open(), 1);
        net.serve(address(0), net.axons[0].router());
        net.until("its end", || net.axons[0].ledger(|ledger| ledger.open_tasks().count() == 0)).await;
        net.pass(900).await;
        assert_eq!(net.count_at(0, "assigned"), assigned);
    })
    .await;
    net.assert_settled();
}

#[tokio::test(start_paused = true)]
async fn a_validator_below_the_least_stake_is_not_asked() {
    let net = Net::new(2, "[network]\nsync_interval = \"60s\"\n");
    let stake = |tokens: u64| net.chain.change(|subnet| subnet.neurons[0].total_stake = Rao(tokens));
    stake(1_000 * TOKEN - 1);
    net.pass(60).await;
    net.mine(8, async {
        net.until("tasks of the other", || net.count_at(1, "accepted") >= 2).await;
        assert_eq!(net.asked(address(0)), 0);
        stake(1_000 * TOKEN);
        net.until("a task of the first", || net.count_at(0, "accepted") >= 1).await;
    })
    .await;
    net.assert_settled();
}

#[tokio::test(start_paused = true)]
async fn a_private_address_is_not_called_on_a_public_network() {
    let mut net = Net::new(2, "[network]\nsync_interval = \"60s\"\n");
    let home = "192.168.1.10:8091".parse().unwrap();
    net.serve(home, net.axons[0].router());
    net.chain.change(|subnet| subnet.neurons[0].axon = Some(AxonEntry::serving(home, 1)));
    net.pass(60).await;
    net.mine(3, async {}).await;
    assert_eq!((net.asked(home), net.count_at(0, "assigned")), (0, 0));

    net.public = false;
    net.mine(3, async {}).await;
    assert!(net.asked(home) > 0);
    net.assert_settled();
}

#[tokio::test(start_paused = true)]
async fn allowing_and_denying_by_hotkey_ends_at_its_time() {
    let hotkey = |number: u32| *sn17_miner::wallet::HotkeyPair::dev(&format!("validator-{number}")).hotkey();
    // The clock starts at midnight.
    let lines = format!(
        "[network]\nsync_interval = \"60s\"\nallow = [\"{}\", \"{} until 2026-01-01T01:00:00Z\"]\n\
         deny = [\"{} until 2026-01-01T00:30:00Z\"]\n",
        hotkey(0),
        hotkey(1),
        hotkey(0)
    );
    let net = Net::new(3, &lines);
    net.mine(24, async {
        net.pass(1_700).await;
        assert_eq!(net.asked(address(0)), 0);
        assert!(net.count_at(1, "accepted") >= 4);
        net.pass(1_800 + 200).await;
        assert!(net.count_at(0, "accepted") >= 4);
        let asked = net.asked(address(1));
        net.pass(1_000).await;
        assert_eq!(net.asked(address(1)), asked);
        assert_eq!(net.asked(address(2)), 0);
    })
    .await;
    net.assert_settled();
}

#[tokio::test(start_paused = true)]
async fn validators_that_do_not_know_us_cost_one_sync_per_floor() {
    let net = Net::new(6, "");
    let app = net.agent().await;
    let stop = CancellationToken::new();
    let (finish, ()) = tokio::join!(app.run(Budget::Endless, stop.clone()), async {
        net.until("the first tasks", || net.count("accepted") >= 6 && net.open() == 1).await;
        let before = net.chain.requests(SELECTIVE);
        let since = net.clock.now();
        net.deregister_with_validators();
        net.until("refusals", || net.count("pull_refused") >= 5 && net.count("submission_refused") >= 1)
            .await;
        net.pass(3_600).await;
        let elapsed = net.clock.now().saturating_since(since).as_secs();
        let extra = net.chain.requests(SELECTIVE) - before;
        assert!(extra <= elapsed / 30 + 1 && extra >= 6, "{extra} syncs in {elapsed} s");
        net.register_with_validators(Uid(6));
        net.until("mining again", || net.count("assigned") >= 18).await;
        net.until("a quiet moment", || net.open() == 0).await;
        stop.cancel();
    });
    assert_eq!(finish.unwrap(), Finish::Stopped);
    net.log.expect(0, "alarm=");
    net.assert_settled();
}

#[tokio::test(start_paused = true)]
async fn a_validator_whose_blacklist_refuses_pulls_makes_us_look_at_the_chain() {
    let net = Net::new(2, "[network]\nsync_interval = \"1d\"\n");
    let refuse = || async { (StatusCode::FORBIDDEN, "{\"message\": \"Unrecognized hotkey\"}") };
    net.serve(address(0), Router::new().fallback(refuse));
    net.mine(12, async {
        let since = net.clock.now();
        net.until("a refusal", || net.asked(address(0)) > 0).await;
        net.until("a second sync", || net.chain.requests(SELECTIVE) == 2).await;
        assert!(net.clock.now().saturating_since(since) <= Duration::from_secs(31));
        net.pass(1_800).await;
        assert!(net.chain.requests(SELECTIVE) <= 1 + net.asked(address(0)));
        assert!(net.asked(address(0)) < 20);
    })
    .await;
    assert_eq!(net.count_at(1, "accepted"), 12);
    net.log.expect(0, "alarm=");
    net.assert_settled();
}

#[tokio::test(start_paused = true)]
async fn a_registration_lost_while_the_generator_is_away_is_not_pulled_for() {
    let net = Net::new(1, "[network]\nsync_interval = \"60s\"\n");
    let generator = "127.0.0.1:8000".parse().unwrap();
    net.mine(3, async {
        net.until("a task", || net.count("accepted") == 1).await;
        net.close(generator);
        net.until("the pause", || !net.log.with("The generator is not reachable").is_empty()).await;
        net.chain.deregister(&us()).unwrap();
        net.deregister_with_validators();
        net.pass(200).await;
        net.reopen_generator();
        net.pass(600).await;
        assert_eq!(net.count("pull_refused"), 0);
        net.register();
    })
    .await;
    net.assert_settled();
}
