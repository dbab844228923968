//! A metagraph as bytes, so that the last known one survives a restart without the chain.

use subxt::ext::codec::{self, Decode, DecodeAll, Encode};

use super::{AxonInfo, Metagraph, MetagraphError, Neuron, Parts};
use crate::primitives::{Coldkey, Hotkey, Netuid, Rao, Uid, UnixTime};

/// Kept bytes are no metagraph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("a kept metagraph of version {0}, which another version of this program wrote")]
    Version(u8),
    #[error("the kept metagraph is damaged: {0}")]
    Damaged(String),
    #[error("the kept metagraph is damaged: {0}")]
    Impossible(#[from] MetagraphError),
}

/// First byte of the form below. A change of the form takes the next number; a kept metagraph is
/// replaced by the next sync, so old forms need no reader.
const VERSION: u8 = 1;

#[derive(Encode, Decode)]
#[codec(crate = subxt::ext::codec)]
struct Kept {
    netuid: u16,
    block: u64,
    synced_at: u64,
    owner_hotkey: Option<[u8; 32]>,
    immunity_period: Option<u64>,
    neurons: Vec<KeptNeuron>,
}

#[derive(Encode, Decode)]
#[codec(crate = subxt::ext::codec)]
struct KeptNeuron {
    #[codec(compact)]
    uid: u16,
    hotkey: [u8; 32],
    coldkey: Option<[u8; 32]>,
    axon: Option<KeptAxon>,
    active: bool,
    validator_permit: bool,
    #[codec(compact)]
    stake: u64,
    #[codec(compact)]
    incentive: u16,
    #[codec(compact)]
    emission: u64,
    #[codec(compact)]
    last_update: u64,
    block_at_registration: Option<u64>,
}

#[derive(Encode, Decode)]
#[codec(crate = subxt::ext::codec)]
struct KeptAxon {
    #[codec(compact)]
    block: u64,
    #[codec(compact)]
    version: u32,
    ip: u128,
    port: u16,
    ip_type: u8,
    protocol: u8,
}

impl Metagraph {
    /// For keeping; [`Metagraph::from_bytes`] reads it. About 110 bytes a neuron.
    pub fn to_bytes(&self) -> Vec<u8> {
        let kept = Kept {
            netuid: self.netuid().0,
            block: self.block(),
            synced_at: self.synced_at().as_nanos(),
            owner_hotkey: self.owner_hotkey().map(|key| *key.as_bytes()),
            immunity_period: self.immunity_period(),
            neurons: self.neurons().iter().map(KeptNeuron::from).collect(),
        };
        let mut bytes = vec![VERSION];
        kept.encode_to(&mut bytes);
        bytes
    }

    /// # Errors
    /// When another version of the program wrote the bytes, or they are damaged. Either way the next
    /// sync replaces them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let Some((&version, mut rest)) = bytes.split_first() else {
            return Err(SnapshotError::Damaged("it is empty".into()));
        };
        if version != VERSION {
            return Err(SnapshotError::Version(version));
        }
        let kept =
            Kept::decode_all(&mut rest).map_err(|e: codec::Error| SnapshotError::Damaged(e.to_string()))?;
        Ok(Self::new(Parts {
            netuid: Netuid(kept.netuid),
            block: kept.block,
            synced_at: UnixTime::from_nanos(kept.synced_at),
            owner_hotkey: kept.owner_hotkey.map(Hotkey::from_bytes),
            immunity_period: kept.immunity_period,
            neurons: kept.neurons.into_iter().map(Neuron::from).collect(),
        })?)
    }
}

impl From<&Neuron> for KeptNeuron {
    fn from(neuron: &Neuron) -> Self {
        Self {
            uid: neuron.uid.0,
            hotkey: *neuron.hotkey.as_bytes(),
            coldkey: neuron.coldkey.map(|key| *key.as_bytes()),
            axon: neuron.axon.map(|axon| KeptAxon {
                block: axon.block,
                version: axon.version,
                ip: axon.ip,
                port: axon.port,
                ip_type: axon.ip_type,
                protocol: axon.protocol,
            }),
            active: neuron.active,
            validator_permit: neuron.validator_permit,
            stake: neuron.stake.0,
            incentive: neuron.incentive,
            emission: neuron.emission.0,
            last_update: neuron.last_update,
            block_at_registration: neuron.block_at_registration,
        }
    }
}

impl From<KeptNeuron> for Neuron {
    fn from(kept: KeptNeuron) -> Self {
        Self {
            uid: Uid(kept.uid),
            hotkey: Hotkey::from_bytes(kept.hotkey),
            coldkey: kept.coldkey.map(Coldkey::from_bytes),
            axon: kept.axon.map(|axon| AxonInfo {
                block: axon.block,
                version: axon.version,
                ip: axon.ip,
                port: axon.port,
                ip_type: axon.ip_type,
                protocol: axon.protocol,
            }),
            active: kept.active,
            validator_permit: kept.validator_permit,
            stake: Rao(kept.stake),
            incentive: kept.incentive,
            emission: Rao(kept.emission),
            last_update: kept.last_update,
            block_at_registration: kept.block_at_registration,
        }
    }
}
