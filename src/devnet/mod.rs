//! The embedded development network: validators that keep the subnet's rules, a generator and a
//! scorer that run on the CPU.
//!
//! Built from the agent's own types and used by none of them. It speaks the dialects of the real
//! programs (workers.md) and keeps their rules (rules.md), but nothing here is a model: shapes come
//! from the words of a prompt, and the judges see size, opacity and colour only.

pub mod axon;
pub mod axon_judge;
pub mod card;
pub mod chain;
mod codec;
pub mod generator;
mod http;
pub mod judge;
pub mod ledger;
pub mod network;
pub mod pictures;
pub mod relief;
pub mod report;
pub mod rules;
pub mod scorer;
pub mod shapes;
pub mod tasks;
pub mod words;
pub mod worker;

pub use codec::from_spz;

use sha2::{Digest, Sha256};

/// One number from a seed and some bytes, the same on every machine.
fn mix(seed: u64, bytes: &[u8]) -> u64 {
    let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(bytes).finalize();
    digest.iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte))
}
