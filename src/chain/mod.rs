//! Reading subtensor: is a hotkey registered, and who else is on its subnet.
//!
//! Everything is read through the metadata the node itself offers, so a runtime upgrade needs no new
//! build: a sync asks for the runtime version at its block, fetches new metadata when that changed,
//! and chooses the calls the metadata lists. A node is treated as hostile: each call has a deadline
//! and a bound on its answer, answers are decoded to the last byte, and an endpoint of another chain
//! or far behind is left for the next one.
//!
//! What it cannot do: a node of the right chain that lies about its state is believed. No proof is
//! asked for, so with a public node the operator trusts its host.

mod answers;
mod axon;
mod client;
mod connection;
mod error;
mod follower;
mod loose;
mod metagraph;
mod network;
mod registration;
mod rpc;
mod snapshot;

pub use answers::{Answers, Place, Reading, decode_answer, read_metagraph};
pub use axon::{AxonInfo, is_public};
pub use client::{ChainClient, Jitter, Probe, Settings, Synced};
pub use error::ChainError;
pub use follower::{ChainHandle, Follower, Link, View};
pub use metagraph::{Metagraph, MetagraphError, Neuron, Parts};
pub use network::{Network, NodeUrl, NodeUrlError};
pub use registration::{Registration, RegistrationChange};
pub use rpc::{Dial, DialError, WebSocket};
pub use snapshot::SnapshotError;
