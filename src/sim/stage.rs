//! The world of one simulation: validators with their real books, cards, and the way to them.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::SimError;
use super::card::{Card, CardFaults, CardTally, Luck, transport};
use super::report::Counts;
use super::scenario::Scenario;
use super::splats::{Quality, Splats};
use super::wire::Delay;
use crate::app::Transports;
use crate::clock::Clock;
use crate::dendrite::AxonAddress;
use crate::devnet::axon::{DevAxon, DevAxonSettings, Judge};
use crate::devnet::network::in_process;
use crate::devnet::tasks::TaskMaker;
use crate::primitives::{Hotkey, Uid, UnixTime};
use crate::wallet::HotkeyPair;

/// When every simulation begins: not on a whole second, `Date` headers are cut.
const START: UnixTime = UnixTime::from_millis(1_767_225_600_730);

const FIRST_VALIDATOR: u16 = 20_000;
const FIRST_WORKER: u16 = 10_000;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) scenario: Scenario,
    pub(super) clock: Clock,
    pub(super) hotkeys: Vec<Arc<HotkeyPair>>,
    pub(super) validators: Vec<AxonAddress>,
    pub(super) cards: Vec<Card>,
    pub(super) splats: Arc<Splats>,
    pub(super) transports: Transports,
    axons: Vec<DevAxon>,
}

impl Stage {
    /// Sets everything up at the current moment of tokio's clock.
    pub(super) fn set(scenario: &Scenario) -> Result<Self, SimError> {
        let clock = Clock::starting_at(START);
        let splats = Arc::new(Splats::make()?);
        let known = [Quality::Good, Quality::Bad].map(|quality| (splats.bytes(quality), quality.score()));
        let judge = Judge::Listed(Arc::new(known));
        let hotkeys: Vec<_> = (0..scenario.hotkeys)
            .map(|number| Arc::new(HotkeyPair::dev(&format!("simulated-{number}"))))
            .collect();
        let axons: Vec<_> = (0..scenario.validators)
            .map(|number| {
                let settings = DevAxonSettings {
                    rules: scenario.rules,
                    judge: judge.clone(),
                    scoring: scenario.remote_scoring,
                    clock_ahead: scenario.clock_ahead(number),
                    remembered: 0,
                };
                let tasks =
                    TaskMaker::new(scenario.seed.wrapping_mul(1_000).wrapping_add(number.into()), 0.0);
                let axon =
                    DevAxon::new(HotkeyPair::dev(&format!("validator-{number}")), clock, settings, tasks);
                for (uid, hotkey) in (scenario.validators..).zip(&hotkeys) {
                    axon.register(Uid(uid), *hotkey.hotkey());
                }
                axon
            })
            .collect();
        let validators: Vec<_> = (FIRST_VALIDATOR..)
            .zip(&axons)
            .map(|(port, axon)| AxonAddress { hotkey: axon.hotkey(), address: local(port) })
            .collect();
        let routers = axons.iter().zip(&validators).map(|(axon, at)| (at.address, axon.router()));
        let axon_calls = in_process(routers.collect());

        let luck = Arc::new(Luck::new(scenario.seed, scenario.pass));
        let cards: Vec<_> = (0..scenario.cards)
            .map(|_| Card::new(scenario, Arc::clone(&luck), Arc::clone(&splats)))
            .collect();
        let workers: HashMap<_, _> = (FIRST_WORKER..).zip(cards.iter().cloned()).collect();
        let worker_calls = transport(workers);
        let transports = Transports {
            pulls: Delay::of_pulls(scenario.network).on(&axon_calls),
            submissions: Delay::of_submissions(scenario.network).on(&axon_calls),
            generator: worker_calls.clone(),
            scorer: worker_calls,
        };
        let scenario = scenario.clone();
        Ok(Self { scenario, clock, hotkeys, validators, cards, splats, transports, axons })
    }

    /// Where the workers of a card listen, both at one address.
    pub(super) fn workers_of(card: u16) -> SocketAddr {
        local(FIRST_WORKER + card)
    }

    /// What the books of all validators count.
    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for axon in &self.axons {
            axon.ledger(|ledger| {
                let chronicle = ledger.chronicle();
                counts.pulled += chronicle.count("assigned");
                counts.accepted += chronicle.count("accepted");
                counts.low += chronicle.count("low");
                counts.empty += chronicle.count("empty");
                counts.scorer_failed += chronicle.count("scorer_failed");
                counts.bad_signature += chronicle.count("bad_signature");
                counts.violations += chronicle.count("violation");
                counts.forbidden += chronicle.forbidden();
                counts.open += ledger.open_tasks().count() as u64;
            });
        }
        counts
    }

    /// A value of each lane: of each hotkey at each validator.
    fn lanes<T>(&self, value: impl Fn(&DevAxon, Hotkey, UnixTime) -> T) -> Vec<T> {
        let each = self.axons.iter().zip(0..).flat_map(|(axon, number)| {
            let theirs = self.clock.now().shifted(i128::from(self.scenario.clock_ahead(number)));
            self.hotkeys.iter().map(move |hotkey| (axon, *hotkey.hotkey(), theirs))
        });
        each.map(|(axon, hotkey, theirs)| value(axon, hotkey, theirs)).collect()
    }

    /// Accepted results of the last hours that count, per lane.
    pub(super) fn window_counts(&self) -> Vec<u64> {
        self.lanes(|axon, hotkey, theirs| {
            axon.ledger(|ledger| ledger.window_count(&hotkey, theirs)).unwrap_or_default()
        })
    }

    /// Longest time for which any lane was due and not asked, in seconds, by the validators' books.
    pub(super) fn longest_idle(&self) -> f64 {
        let idle = self.lanes(|axon, hotkey, theirs| {
            let since = START.shifted(theirs.nanos_after(self.clock.now()));
            axon.ledger(|ledger| ledger.longest_idle(&hotkey, since, theirs)).unwrap_or_default()
        });
        idle.into_iter().max().unwrap_or_default().as_secs_f64()
    }

    pub(super) fn faults(&self) -> CardFaults {
        let each = self.cards.iter().map(Card::faults);
        each.fold(CardFaults::default(), |sum, faults| CardFaults {
            crowded: sum.crowded + faults.crowded,
            scorer_in_the_way: sum.scorer_in_the_way + faults.scorer_in_the_way,
            scorer_away: sum.scorer_away + faults.scorer_away,
            out_of_memory: sum.out_of_memory + faults.out_of_memory,
        })
    }

    /// What all cards did so far.
    pub(super) fn tally(&self) -> CardTally {
        self.cards.iter().map(Card::tally).fold(CardTally::default(), |sum, card| sum.and(&card))
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
