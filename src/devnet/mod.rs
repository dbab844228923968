//! The embedded development network: validators that keep the subnet's rules, a generator and a
//! scorer that run on the CPU.
//!
//! Built from the agent's own types and used by none of them. It speaks the dialects of the real
//! programs (workers.md) and keeps their rules (rules.md), but nothing here is a model: shapes come
//! from the words of a prompt, and the judges see size, opacity and colour only.

pub mod ledger;
pub mod rules;
