//! What the chain knows about its one subnet: plain data, to be changed at will.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::primitives::{Coldkey, Hotkey, Netuid, Rao, Uid};

/// `version` of an axon: bittensor 9.9.0 as major * 1,000,000 + minor * 1,000 + patch.
const SDK_VERSION: u32 = 9_009_000;

/// The subnet.
#[derive(Debug, Clone, PartialEq)]
pub struct Subnet {
    pub netuid: Netuid,
    pub name: String,
    pub symbol: String,
    pub owner_hotkey: Hotkey,
    pub owner_coldkey: Coldkey,
    /// In blocks.
    pub tempo: u16,
    /// Blocks after its registration in which a neuron cannot be replaced.
    pub immunity_period: u16,
    pub max_uids: u16,
    /// Blocks between two changes of an axon.
    pub serving_rate_limit: u64,
    pub registered_at: u64,
    /// Position is uid. Nothing keeps two neurons from having one hotkey here: what a client makes of
    /// that is worth a test.
    pub neurons: Vec<Neuron>,
}

/// A registered hotkey.
#[derive(Debug, Clone, PartialEq)]
pub struct Neuron {
    pub hotkey: Hotkey,
    pub coldkey: Coldkey,
    /// `None`: it never served.
    pub axon: Option<AxonEntry>,
    /// Of the subnet's alpha, parents and children counted.
    pub alpha_stake: Rao,
    /// On the root, unweighted.
    pub tao_stake: Rao,
    /// What the chain says the two are worth together. The real one weighs TAO with about 0.18
    /// (chain/README.md, "metagraph.S"); here it is whatever was put in.
    pub total_stake: Rao,
    pub validator_permit: bool,
    pub active: bool,
    /// Parts of 65,535, as are dividends.
    pub incentive: u16,
    pub dividends: u16,
    /// Of alpha, in the last epoch.
    pub emission: Rao,
    pub last_update: u64,
    pub block_at_registration: u64,
}

/// An axon as somebody announced it. Everything can be announced, nonsense too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AxonEntry {
    pub block: u64,
    pub version: u32,
    /// IPv4 in the low 32 bits, first octet highest; IPv6 is the whole number.
    pub ip: u128,
    pub port: u16,
    /// 4 or 6.
    pub ip_type: u8,
    pub protocol: u8,
}

impl AxonEntry {
    /// An axon that serves at `address` since `block`.
    pub fn serving(address: SocketAddr, block: u64) -> Self {
        let (ip, ip_type) = match address.ip() {
            IpAddr::V4(ip) => (u128::from(u32::from(ip)), 4),
            IpAddr::V6(ip) => (u128::from(ip), 6),
        };
        Self { block, version: SDK_VERSION, ip, port: address.port(), ip_type, protocol: 4 }
    }

    /// Where it serves; an IPv4 address when the number is one, whatever `ip_type` says.
    pub fn address(&self) -> SocketAddr {
        let ip = match u32::try_from(self.ip) {
            Ok(ip) => IpAddr::V4(Ipv4Addr::from(ip)),
            Err(_) => IpAddr::V6(self.ip.into()),
        };
        SocketAddr::new(ip, self.port)
    }
}

impl Neuron {
    /// A miner without axon, stake or income, registered at `block`.
    pub fn miner(hotkey: Hotkey, coldkey: Coldkey, block: u64) -> Self {
        Self {
            hotkey,
            coldkey,
            axon: None,
            alpha_stake: Rao(0),
            tao_stake: Rao(0),
            total_stake: Rao(0),
            validator_permit: false,
            active: false,
            incentive: 0,
            dividends: 0,
            emission: Rao(0),
            last_update: block,
            block_at_registration: block,
        }
    }

    /// An active validator that serves at `axon`, with `stake` of alpha and none of TAO.
    pub fn validator(hotkey: Hotkey, coldkey: Coldkey, axon: SocketAddr, stake: Rao, block: u64) -> Self {
        Self {
            axon: Some(AxonEntry::serving(axon, block)),
            alpha_stake: stake,
            total_stake: stake,
            validator_permit: true,
            active: true,
            dividends: u16::MAX / 4,
            ..Self::miner(hotkey, coldkey, block)
        }
    }
}

impl Subnet {
    /// A subnet without neurons. Its figures are those of mainnet's where they matter to a miner.
    pub fn new(netuid: Netuid, owner_hotkey: Hotkey, owner_coldkey: Coldkey) -> Self {
        Self {
            netuid,
            name: "devnet".into(),
            symbol: "ρ".into(),
            owner_hotkey,
            owner_coldkey,
            tempo: 360,
            immunity_period: 5_000,
            max_uids: 256,
            serving_rate_limit: 50,
            registered_at: 1,
            neurons: Vec::new(),
        }
    }

    /// The first uid with this hotkey.
    pub fn uid_of(&self, hotkey: &Hotkey) -> Option<Uid> {
        (0..).zip(&self.neurons).find(|(_, neuron)| neuron.hotkey == *hotkey).map(|(uid, _)| Uid(uid))
    }

    /// The neuron with this hotkey.
    pub fn neuron_mut(&mut self, hotkey: &Hotkey) -> Option<&mut Neuron> {
        self.neurons.iter_mut().find(|neuron| neuron.hotkey == *hotkey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_number_of_the_recording() {
        let axon = AxonEntry::serving("192.222.59.109:8091".parse().unwrap(), 1);
        assert_eq!((axon.ip, axon.ip_type), (3_235_789_677, 4));
        assert_eq!(axon.address().to_string(), "192.222.59.109:8091");
        let axon = AxonEntry::serving("[2001:db8::1]:80".parse().unwrap(), 1);
        assert_eq!((axon.ip >> 112, axon.ip_type), (0x2001, 6));
        assert_eq!(axon.address().to_string(), "[2001:db8::1]:80");
    }
}
