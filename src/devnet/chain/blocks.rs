//! Headers and the stretch of history that a node keeps.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parity_scale_codec::{Compact, Encode};
use serde_json::{Value, json};
use sp_crypto_hashing::blake2_256;

use super::hex;
use super::metadata::Runtime;
use super::subnet::Subnet;
use crate::primitives::UnixTime;

/// Time from one block to the next.
pub const BLOCK_TIME: Duration = Duration::from_secs(12);

/// How many blocks besides the first stay known, as on a node that keeps no archive.
pub const HISTORY: usize = 300;

/// A chain that nobody looked at makes up for this many blocks (two weeks); it stood still for the
/// rest of the time. Keeps a clock that leaps by years from hashing for minutes.
const CATCH_UP: u64 = 100_000;

/// Root of a trie without entries: what a block without transactions has.
const NO_EXTRINSICS: [u8; 32] = [
    0x03, 0x17, 0x0a, 0x2e, 0x75, 0x97, 0xb7, 0xb7, 0xe3, 0xd8, 0x4c, 0x05, 0x39, 0x1d, 0x13, 0x9a, 0x62,
    0xb1, 0x57, 0xe7, 0x87, 0x86, 0xd8, 0xc0, 0x82, 0xf2, 0x9d, 0xcf, 0x4c, 0x11, 0x13, 0x14,
];

/// A block's hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockHash(pub [u8; 32]);

impl std::fmt::Display for BlockHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl std::fmt::Debug for BlockHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// A block's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub parent: BlockHash,
    pub number: u32,
    pub state_root: [u8; 32],
    pub extrinsics_root: [u8; 32],
    /// SCALE of each digest item.
    pub digest: Vec<Vec<u8>>,
}

impl Header {
    /// Blake2b-256 of the SCALE encoding, as everybody computes it.
    pub fn hash(&self) -> BlockHash {
        let mut scale = self.parent.0.encode();
        Compact(self.number).encode_to(&mut scale);
        self.state_root.encode_to(&mut scale);
        self.extrinsics_root.encode_to(&mut scale);
        Compact(u32::try_from(self.digest.len()).unwrap_or(u32::MAX)).encode_to(&mut scale);
        scale.extend(self.digest.iter().flatten());
        BlockHash(blake2_256(&scale))
    }

    /// As `chain_getHeader` answers.
    pub fn to_json(&self) -> Value {
        let logs: Vec<String> = self.digest.iter().map(|item| hex::encode(item)).collect();
        json!({
            "parentHash": self.parent.to_string(),
            "number": format!("{:#x}", self.number),
            "stateRoot": hex::encode(&self.state_root),
            "extrinsicsRoot": hex::encode(&self.extrinsics_root),
            "digest": { "logs": logs },
        })
    }
}

/// A block, and the state behind it.
#[derive(Debug)]
pub(super) struct Block {
    pub hash: BlockHash,
    pub header: Header,
    /// As the chain tells it.
    pub time: UnixTime,
    pub subnet: Arc<Subnet>,
    pub runtime: Arc<Runtime>,
}

impl Block {
    fn after(
        parent: BlockHash,
        number: u32,
        time: UnixTime,
        subnet: Arc<Subnet>,
        runtime: Arc<Runtime>,
    ) -> Arc<Self> {
        // Item 6: told by the author before the block is made. The slot is the block's time.
        let mut slot = vec![6];
        slot.extend_from_slice(b"aura");
        (time.as_secs() / BLOCK_TIME.as_secs()).encode().encode_to(&mut slot);
        let header = Header {
            parent,
            number,
            // There is no trie that anything could be proved from.
            state_root: blake2_256(&(b"sn17-devnet/state", parent.0, number).encode()),
            extrinsics_root: NO_EXTRINSICS,
            digest: vec![slot],
        };
        Arc::new(Self { hash: header.hash(), header, time, subnet, runtime })
    }

    pub fn number(&self) -> u64 {
        self.header.number.into()
    }
}

/// The blocks a node knows, and what goes into the next one.
#[derive(Debug)]
pub(super) struct History {
    genesis: Arc<Block>,
    /// Consecutive, the head last; never empty.
    recent: VecDeque<Arc<Block>>,
    by_hash: HashMap<BlockHash, Arc<Block>>,
    finality_lag: usize,
    /// State of the next block.
    pub subnet: Arc<Subnet>,
    pub runtime: Arc<Runtime>,
    /// When the next block is due; `None`: never.
    due: Option<UnixTime>,
    /// How far the chain's own time is ahead of ours, in nanoseconds.
    pub clock_ahead: i64,
}

impl History {
    /// A chain whose head is `first_block` at `now`, with its history behind it.
    pub fn new(
        first_block: u32,
        finality_lag: usize,
        now: UnixTime,
        subnet: Subnet,
        runtime: Runtime,
    ) -> Self {
        let (subnet, runtime) = (Arc::new(subnet), Arc::new(runtime));
        let make = |parent, number: u32| {
            let time = now - BLOCK_TIME * first_block.saturating_sub(number);
            Block::after(parent, number, time, subnet.clone(), runtime.clone())
        };
        let genesis = make(BlockHash([0; 32]), 0);
        let kept = u32::try_from(HISTORY).unwrap_or(u32::MAX);
        let oldest = first_block.saturating_sub(kept - 1).max(1);
        // The blocks in between are forgotten, and with them the true parent of the oldest.
        let parent = if oldest == 1 { genesis.hash } else { BlockHash(blake2_256(b"sn17-devnet/forgotten")) };
        let mut recent = VecDeque::from([make(parent, oldest)]);
        for number in oldest + 1..=first_block {
            let parent = recent.back().map_or(genesis.hash, |block| block.hash);
            recent.push_back(make(parent, number));
        }
        Self {
            by_hash: recent.iter().chain([&genesis]).map(|block| (block.hash, block.clone())).collect(),
            recent,
            genesis,
            finality_lag,
            subnet,
            runtime,
            due: Some(now + BLOCK_TIME),
            clock_ahead: 0,
        }
    }

    fn append(&mut self, number: u32, time: UnixTime) {
        let parent = self.head().hash;
        let time = time.shifted(self.clock_ahead.into());
        let block = Block::after(parent, number, time, self.subnet.clone(), self.runtime.clone());
        self.by_hash.insert(block.hash, block.clone());
        self.recent.push_back(block);
        while self.recent.len() > HISTORY {
            if let Some(old) = self.recent.pop_front() {
                self.by_hash.remove(&old.hash);
            }
        }
    }

    /// Makes the blocks that are due. Says whether there are any.
    pub fn advance(&mut self, now: UnixTime) -> bool {
        let Some(due) = self.due.filter(|due| *due <= now) else { return false };
        let behind = now.saturating_since(due).as_secs() / BLOCK_TIME.as_secs() + 1;
        let blocks = behind.min(CATCH_UP);
        let mut time = due + BLOCK_TIME * u32::try_from(behind - blocks).unwrap_or(u32::MAX);
        for _ in 0..blocks {
            self.append(self.head().header.number.saturating_add(1), time);
            time = time + BLOCK_TIME;
        }
        self.due = Some(time);
        true
    }

    /// Makes one block now, due or not; the next one follows after the usual time.
    pub fn produce(&mut self, now: UnixTime) {
        self.append(self.head().header.number.saturating_add(1), now);
        if self.due.is_some() {
            self.due = Some(now + BLOCK_TIME);
        }
    }

    /// Stops making blocks by itself, or goes on with it.
    pub fn freeze(&mut self, frozen: bool, now: UnixTime) {
        self.due = match self.due {
            _ if frozen => None,
            Some(due) => Some(due),
            None => Some(now + BLOCK_TIME),
        };
    }

    pub fn due(&self) -> Option<UnixTime> {
        self.due
    }

    pub fn genesis(&self) -> &Arc<Block> {
        &self.genesis
    }

    pub fn head(&self) -> &Arc<Block> {
        self.recent.back().unwrap_or(&self.genesis)
    }

    pub fn finalized(&self) -> &Arc<Block> {
        self.recent.iter().rev().nth(self.finality_lag).unwrap_or(&self.genesis)
    }

    pub fn by_hash(&self, hash: &BlockHash) -> Option<&Arc<Block>> {
        self.by_hash.get(hash)
    }

    pub fn by_number(&self, number: u64) -> Option<&Arc<Block>> {
        if number == 0 {
            return Some(&self.genesis);
        }
        let first = self.recent.front()?.number();
        self.recent.get(usize::try_from(number.checked_sub(first)?).ok()?).filter(|b| b.number() == number)
    }
}
