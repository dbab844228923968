//! Shared by the integration tests.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod agent;
pub mod peers;
pub mod program;
pub mod wire;

use std::path::PathBuf;

/// The folder of golden facts: `SN17_SHARED`, default `../shared` beside the checkout.
///
/// `None` when it is absent: the test then says so and skips. Under `CI=true` absence is a failure.
pub fn shared(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("SN17_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let found = root.join(path);
    if found.exists() {
        return Some(found);
    }
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{} is missing, and CI=true allows no skipping",
        found.display()
    );
    eprintln!("skipped: {} is missing (set SN17_SHARED)", found.display());
    None
}
