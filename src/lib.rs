//! A mining agent for Bittensor subnet 17 (404-GEN).
//!
//! The agent signs in with a registered hotkey, pulls a task from a validator, lets a worker server
//! make a 3D Gaussian splat of it, checks and scores the result locally, and returns it signed and
//! SPZ-compressed. Modules are listed from the lowest layer to the highest; each uses only those
//! above it in this list (`tests/layering.rs` holds them to it).

#![forbid(unsafe_code)]

pub mod primitives;

pub mod clock;

pub mod telemetry;

pub mod net;
pub mod splat;
pub mod wallet;

pub mod chain;
pub mod protocol;
pub mod workers;

pub mod dendrite;
pub mod store;

pub mod gpu;

pub mod mining;

pub mod config;

pub mod api;

pub mod app;
pub mod devnet;

pub mod sim;

pub mod cli;
