//! The subnet at one block.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;

use super::AxonInfo;
use crate::primitives::{Coldkey, Hotkey, Netuid, Rao, Uid, UnixTime};

/// One neuron. What the chain's answer did not hold for it has its default here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Neuron {
    pub uid: Uid,
    pub hotkey: Hotkey,
    pub coldkey: Option<Coldkey>,
    /// Nothing if it never announced one.
    pub axon: Option<AxonInfo>,
    /// Set weights within the subnet's activity cutoff; false for nearly every miner.
    pub active: bool,
    pub validator_permit: bool,
    /// `total_stake`: its alpha plus the weighted TAO, what consensus counts
    /// (chain/README.md, "metagraph.S").
    pub stake: Rao,
    /// Share of the miners' emission, of 65,535.
    pub incentive: u16,
    /// Alpha of the subnet's last epoch.
    pub emission: Rao,
    /// Block.
    pub last_update: u64,
    /// Block; nothing if the answer did not say.
    pub block_at_registration: Option<u64>,
}

impl Neuron {
    /// Share of the miners' emission, 0 to 1.
    pub fn incentive_share(&self) -> f64 {
        f64::from(self.incentive) / f64::from(u16::MAX)
    }
}

/// Neurons that make no subnet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetagraphError {
    #[error("{0} neurons, and a subnet numbers at most 65536")]
    TooManyNeurons(usize),
    #[error("two neurons with uid {0}")]
    RepeatedUid(Uid),
}

/// What a [`Metagraph`] is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    pub netuid: Netuid,
    /// Block the chain was asked at.
    pub block: u64,
    /// When it was asked, by our clock.
    pub synced_at: UnixTime,
    pub owner_hotkey: Option<Hotkey>,
    /// Blocks after its registration during which a neuron cannot be replaced.
    pub immunity_period: Option<u64>,
    pub neurons: Vec<Neuron>,
}

/// The subnet at one block; never changes. Shared as `Arc<Metagraph>` and replaced whole.
#[derive(Debug, Clone, Serialize)]
pub struct Metagraph {
    netuid: Netuid,
    block: u64,
    synced_at: UnixTime,
    owner_hotkey: Option<Hotkey>,
    immunity_period: Option<u64>,
    /// By ascending uid.
    neurons: Vec<Neuron>,
    #[serde(skip)]
    by_hotkey: HashMap<Hotkey, usize>,
}

impl PartialEq for Metagraph {
    fn eq(&self, other: &Self) -> bool {
        // The index follows from the neurons.
        self.netuid == other.netuid
            && self.block == other.block
            && self.synced_at == other.synced_at
            && self.owner_hotkey == other.owner_hotkey
            && self.immunity_period == other.immunity_period
            && self.neurons == other.neurons
    }
}

impl Metagraph {
    /// # Errors
    /// When there are more neurons than uids, or two with one uid. Two neurons with one *hotkey*,
    /// which the chain's rules exclude, are kept: the lower uid answers to the hotkey.
    pub fn new(parts: Parts) -> Result<Self, MetagraphError> {
        let Parts { netuid, block, synced_at, owner_hotkey, immunity_period, mut neurons } = parts;
        if neurons.len() > usize::from(u16::MAX) + 1 {
            return Err(MetagraphError::TooManyNeurons(neurons.len()));
        }
        neurons.sort_by_key(|neuron| neuron.uid);
        if let Some(pair) = neurons.windows(2).find(|pair| pair[0].uid == pair[1].uid) {
            return Err(MetagraphError::RepeatedUid(pair[0].uid));
        }
        let mut by_hotkey = HashMap::with_capacity(neurons.len());
        for (position, neuron) in neurons.iter().enumerate() {
            by_hotkey.entry(neuron.hotkey).or_insert(position);
        }
        Ok(Self { netuid, block, synced_at, owner_hotkey, immunity_period, neurons, by_hotkey })
    }

    pub const fn netuid(&self) -> Netuid {
        self.netuid
    }

    /// Block the chain was asked at.
    pub const fn block(&self) -> u64 {
        self.block
    }

    /// When it was asked, by our clock.
    pub const fn synced_at(&self) -> UnixTime {
        self.synced_at
    }

    /// How old it is.
    pub const fn age(&self, now: UnixTime) -> Duration {
        now.saturating_since(self.synced_at)
    }

    pub const fn owner_hotkey(&self) -> Option<Hotkey> {
        self.owner_hotkey
    }

    /// In blocks.
    pub const fn immunity_period(&self) -> Option<u64> {
        self.immunity_period
    }

    /// By ascending uid.
    pub fn neurons(&self) -> &[Neuron] {
        &self.neurons
    }

    pub fn len(&self) -> usize {
        self.neurons.len()
    }

    pub fn is_empty(&self) -> bool {
        self.neurons.is_empty()
    }

    /// Neurons beyond the first that share a hotkey: 0 on a sound chain.
    pub fn repeated_hotkeys(&self) -> usize {
        self.neurons.len() - self.by_hotkey.len()
    }

    /// The neuron with this hotkey; of several the one with the lowest uid.
    pub fn by_hotkey(&self, hotkey: &Hotkey) -> Option<&Neuron> {
        self.by_hotkey.get(hotkey).and_then(|&position| self.neurons.get(position))
    }

    pub fn by_uid(&self, uid: Uid) -> Option<&Neuron> {
        let position = self.neurons.binary_search_by_key(&uid, |neuron| neuron.uid).ok()?;
        self.neurons.get(position)
    }

    /// Neurons a miner can be served by: with an address, at least `min_stake`, none of `exclude`
    /// (our own keys), each hotkey once, by ascending uid.
    ///
    /// A permit is not asked for: [`Self::stake_coverage`] tells what those without one are worth.
    pub fn validators<'a>(
        &'a self,
        min_stake: Rao,
        exclude: &'a [Hotkey],
    ) -> impl Iterator<Item = &'a Neuron> + 'a {
        self.neurons.iter().enumerate().filter_map(move |(position, neuron)| {
            let serves = neuron.axon.is_some_and(|axon| axon.address().is_some());
            let first = self.by_hotkey.get(&neuron.hotkey) == Some(&position);
            (serves && first && neuron.stake >= min_stake && !exclude.contains(&neuron.hotkey))
                .then_some(neuron)
        })
    }

    /// Position by incentive, 1 for the highest; equals share a position.
    pub fn rank(&self, hotkey: &Hotkey) -> Option<usize> {
        let own = self.by_hotkey(hotkey)?.incentive;
        Some(1 + self.neurons.iter().filter(|neuron| neuron.incentive > own).count())
    }

    /// Share of the weight-setting stake, 0 to 1, held by the neurons `serves_us` picks. The whole is
    /// the stake of all neurons with a validator permit (answers.md); 0 if there is none.
    pub fn stake_coverage(&self, mut serves_us: impl FnMut(&Neuron) -> bool) -> f64 {
        // 65,536 times the largest u64 stays far below a u128.
        let (mut covered, mut whole) = (0_u128, 0_u128);
        for neuron in self.neurons.iter().filter(|neuron| neuron.validator_permit) {
            whole += u128::from(neuron.stake.0);
            if serves_us(neuron) {
                covered += u128::from(neuron.stake.0);
            }
        }
        if whole == 0 { 0.0 } else { covered as f64 / whole as f64 }
    }

    /// Blocks during which this neuron cannot be replaced yet; nothing if the chain did not say.
    pub fn immunity_left(&self, neuron: &Neuron) -> Option<u64> {
        let until = neuron.block_at_registration?.saturating_add(self.immunity_period?);
        Some(until.saturating_sub(self.block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: u8) -> Hotkey {
        Hotkey::from_bytes([name; 32])
    }

    fn neuron(uid: u16, name: u8) -> Neuron {
        Neuron {
            uid: Uid(uid),
            hotkey: key(name),
            coldkey: None,
            axon: Some(AxonInfo { block: 1, version: 1, ip: 0x0101_0101, port: 80, ip_type: 4, protocol: 4 }),
            active: false,
            validator_permit: true,
            stake: Rao(100),
            incentive: 0,
            emission: Rao(0),
            last_update: 0,
            block_at_registration: Some(900),
        }
    }

    fn metagraph(neurons: Vec<Neuron>) -> Metagraph {
        Metagraph::new(Parts {
            netuid: Netuid(17),
            block: 1_000,
            synced_at: UnixTime::from_secs(50),
            owner_hotkey: None,
            immunity_period: Some(250),
            neurons,
        })
        .unwrap()
    }

    #[test]
    fn an_empty_subnet_answers_every_question() {
        let empty = metagraph(vec![]);
        assert!(empty.is_empty());
        assert_eq!(empty.by_hotkey(&key(1)), None);
        assert_eq!(empty.rank(&key(1)), None);
        assert_eq!(empty.validators(Rao(0), &[]).count(), 0);
        assert_eq!(empty.stake_coverage(|_| true), 0.0);
    }

    #[test]
    fn of_two_neurons_with_one_hotkey_the_lower_uid_counts() {
        let twice = metagraph(vec![neuron(9, 1), neuron(3, 1), neuron(4, 2)]);
        assert_eq!(twice.repeated_hotkeys(), 1);
        assert_eq!(twice.by_hotkey(&key(1)).unwrap().uid, Uid(3));
        let uids: Vec<_> = twice.validators(Rao(0), &[]).map(|n| n.uid.0).collect();
        assert_eq!(uids, [3, 4]);
    }

    #[test]
    fn two_neurons_with_one_uid_are_refused() {
        let parts = Parts {
            netuid: Netuid(17),
            block: 1,
            synced_at: UnixTime::EPOCH,
            owner_hotkey: None,
            immunity_period: None,
            neurons: vec![neuron(5, 1), neuron(5, 2)],
        };
        assert_eq!(Metagraph::new(parts), Err(MetagraphError::RepeatedUid(Uid(5))));
    }

    #[test]
    fn validators_serve_have_the_stake_and_are_not_ourselves() {
        let mut silent = neuron(1, 1);
        silent.axon = None;
        let mut portless = neuron(2, 2);
        portless.axon.as_mut().unwrap().port = 0;
        let mut poor = neuron(3, 3);
        poor.stake = Rao(99);
        let (us, good) = (neuron(4, 4), neuron(5, 5));
        let all = metagraph(vec![silent, portless, poor, us, good]);
        let uids: Vec<_> = all.validators(Rao(100), &[key(4)]).map(|n| n.uid.0).collect();
        assert_eq!(uids, [5]);
    }

    #[test]
    fn stakes_beyond_64_bits_together_still_make_a_share() {
        let mut neurons: Vec<_> = (0..4_096).map(|uid| neuron(uid, (uid % 251) as u8)).collect();
        for neuron in &mut neurons {
            neuron.stake = Rao(u64::MAX);
        }
        let coverage = metagraph(neurons).stake_coverage(|neuron| neuron.uid.0 < 1_024);
        assert!((coverage - 0.25).abs() < 1e-12, "{coverage}");
    }

    #[test]
    fn rank_and_immunity() {
        let mut neurons = vec![neuron(0, 1), neuron(1, 2), neuron(2, 3), neuron(3, 4)];
        neurons[1].incentive = 7;
        neurons[2].incentive = 7;
        neurons[3].incentive = 6;
        neurons[3].block_at_registration = Some(100);
        let all = metagraph(neurons);
        assert_eq!(all.rank(&key(2)), Some(1));
        assert_eq!(all.rank(&key(3)), Some(1));
        assert_eq!(all.rank(&key(4)), Some(3));
        assert_eq!(all.rank(&key(1)), Some(4));
        assert_eq!(all.immunity_left(&all.neurons()[0]), Some(150));
        assert_eq!(all.immunity_left(&all.neurons()[3]), Some(0));
        assert_eq!(all.age(UnixTime::from_secs(110)), Duration::from_secs(60));
    }
}
