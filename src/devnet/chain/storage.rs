//! The storage entries: their place in the metadata, their keys, and what stands behind them.

use std::sync::LazyLock;

use frame_metadata::v14::{StorageEntryMetadata, StorageEntryModifier, StorageEntryType, StorageHasher};
use parity_scale_codec::Encode;
use scale_info::{MetaType, meta_type};
use sp_core::H256;
use sp_core::crypto::AccountId32;
use sp_crypto_hashing::{blake2_128, twox_64, twox_128};

use super::blocks::Block;
use super::records::AxonInfo;
use crate::primitives::{Hotkey, Uid};

/// How a part of a key is hashed. Each keeps the part itself, so that it can be read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hasher {
    Identity,
    Twox64Concat,
    Blake2_128Concat,
}

impl Hasher {
    fn in_metadata(self) -> StorageHasher {
        match self {
            Self::Identity => StorageHasher::Identity,
            Self::Twox64Concat => StorageHasher::Twox64Concat,
            Self::Blake2_128Concat => StorageHasher::Blake2_128Concat,
        }
    }

    /// Takes the hash of `width` bytes and them off the front of `key`, if the hash is theirs.
    fn take(self, width: usize, key: &mut &[u8]) -> Option<Vec<u8>> {
        let hash_length = match self {
            Self::Identity => 0,
            Self::Twox64Concat => 8,
            Self::Blake2_128Concat => 16,
        };
        let (hash, rest) = key.split_at_checked(hash_length)?;
        let (part, rest) = rest.split_at_checked(width)?;
        let right = match self {
            Self::Identity => true,
            Self::Twox64Concat => hash == twox_64(part),
            Self::Blake2_128Concat => hash == blake2_128(part),
        };
        *key = rest;
        right.then(|| part.to_vec())
    }
}

struct Entry {
    pallet: &'static str,
    name: &'static str,
    /// Hasher and width of each part of the key.
    keys: &'static [(Hasher, usize)],
    key: MetaType,
    value: MetaType,
    /// What an absent key means; `None`: that there is no value.
    default: Option<Vec<u8>>,
    read: Read,
}

/// Finds the value in a block's state, by the parts of its key.
type Read = fn(&Block, &[Vec<u8>]) -> Option<Vec<u8>>;

const NETUID: (Hasher, usize) = (Hasher::Identity, 2);
const ACCOUNT: (Hasher, usize) = (Hasher::Blake2_128Concat, 32);

static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let system = |name, value, default: Vec<u8>, read| Entry {
        pallet: "System",
        name,
        keys: &[],
        key: meta_type::<()>(),
        value,
        default: Some(default),
        read,
    };
    let subtensor = |name, keys, key, value, default, read| Entry {
        pallet: "SubtensorModule",
        name,
        keys,
        key,
        value,
        default,
        read,
    };
    let (u16_type, pair) = (meta_type::<u16>(), meta_type::<(u16, AccountId32)>());
    vec![
        system("Number", meta_type::<u32>(), 0u32.encode(), |block, _| Some(block.header.number.encode())),
        system("ParentHash", meta_type::<H256>(), [0u8; 32].encode(), |block, _| {
            Some(block.header.parent.0.encode())
        }),
        Entry {
            pallet: "Timestamp",
            ..system("Now", meta_type::<u64>(), 0u64.encode(), |block, _| {
                Some(block.time.as_millis().encode())
            })
        },
        subtensor("Uids", &[NETUID, ACCOUNT], pair, u16_type, None, |block, key| {
            uid(block, &key[0], &key[1]).map(|uid| uid.0.encode())
        }),
        subtensor(
            "IsNetworkMember",
            &[ACCOUNT, NETUID],
            meta_type::<(AccountId32, u16)>(),
            meta_type::<bool>(),
            Some(false.encode()),
            |block, key| uid(block, &key[1], &key[0]).map(|_| true.encode()),
        ),
        subtensor("SubnetworkN", &[NETUID], u16_type, u16_type, Some(0u16.encode()), |block, key| {
            ours(block, &key[0])?;
            Some(u16::try_from(block.subnet.neurons.len()).unwrap_or(u16::MAX).encode())
        }),
        subtensor(
            "Keys",
            &[NETUID, (Hasher::Identity, 2)],
            meta_type::<(u16, u16)>(),
            meta_type::<AccountId32>(),
            Some(vec![0; 32]),
            |block, key| {
                ours(block, &key[0])?;
                let neuron = block.subnet.neurons.get(usize::from(number(&key[1])?))?;
                Some(neuron.hotkey.as_bytes().encode())
            },
        ),
        subtensor("Axons", &[NETUID, ACCOUNT], pair, meta_type::<AxonInfo>(), None, |block, key| {
            let uid = uid(block, &key[0], &key[1])?;
            let axon = block.subnet.neurons.get(usize::from(uid.0))?.axon.as_ref()?;
            Some(AxonInfo::from(axon).encode())
        }),
        subtensor(
            "NetworksAdded",
            &[NETUID],
            u16_type,
            meta_type::<bool>(),
            Some(false.encode()),
            |block, key| ours(block, &key[0]).map(|()| true.encode()),
        ),
        subtensor(
            "ServingRateLimit",
            &[NETUID],
            u16_type,
            meta_type::<u64>(),
            Some(50u64.encode()),
            |block, key| ours(block, &key[0]).map(|()| block.subnet.serving_rate_limit.encode()),
        ),
        subtensor(
            "MechanismCountCurrent",
            &[(Hasher::Twox64Concat, 2)],
            u16_type,
            meta_type::<u8>(),
            Some(1u8.encode()),
            |_, _| None,
        ),
    ]
});

fn number(bytes: &[u8]) -> Option<u16> {
    bytes.try_into().ok().map(u16::from_le_bytes)
}

fn ours(block: &Block, netuid: &[u8]) -> Option<()> {
    (number(netuid)? == block.subnet.netuid.0).then_some(())
}

fn uid(block: &Block, netuid: &[u8], hotkey: &[u8]) -> Option<Uid> {
    ours(block, netuid)?;
    block.subnet.uid_of(&Hotkey::from_bytes(hotkey.try_into().ok()?))
}

/// The value behind a key; `None` when there is none, as with every key that is nobody's.
pub(super) fn read(block: &Block, key: &[u8]) -> Option<Vec<u8>> {
    let (pallet, rest) = key.split_first_chunk::<16>()?;
    let (name, mut rest) = rest.split_first_chunk::<16>()?;
    let entry = ENTRIES.iter().find(|entry| {
        twox_128(entry.name.as_bytes()) == *name && twox_128(entry.pallet.as_bytes()) == *pallet
    })?;
    let parts: Option<Vec<Vec<u8>>> =
        entry.keys.iter().map(|(hasher, width)| hasher.take(*width, &mut rest)).collect();
    (entry.read)(block, &parts.filter(|_| rest.is_empty())?)
}

/// A pallet's entries as its metadata lists them.
pub(super) fn metadata(pallet: &str) -> Vec<StorageEntryMetadata> {
    let entries = ENTRIES.iter().filter(|entry| entry.pallet == pallet);
    entries
        .map(|entry| StorageEntryMetadata {
            name: entry.name,
            modifier: match entry.default {
                Some(_) => StorageEntryModifier::Default,
                None => StorageEntryModifier::Optional,
            },
            ty: if entry.keys.is_empty() {
                StorageEntryType::Plain(entry.value)
            } else {
                StorageEntryType::Map {
                    hashers: entry.keys.iter().map(|(hasher, _)| hasher.in_metadata()).collect(),
                    key: entry.key,
                    value: entry.value,
                }
            },
            default: entry.default.clone().unwrap_or_else(|| vec![0]),
            docs: vec![],
        })
        .collect()
}
