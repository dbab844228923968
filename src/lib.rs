#![forbid(unsafe_code)]

pub mod primitives;

pub mod clock;

pub mod splat;
pub mod wallet;

pub mod devnet;

pub mod cli;
