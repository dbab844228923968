//! A stand-in for the driver's library (`nvml.c` beside this), so that the NVML path runs without a
//! card. What it says stands in a text file that a test, or a worker of a test, writes.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

/// One copy of the library, with figures of its own. Loaded by path, so copies do not share anything.
#[derive(Debug)]
pub struct StandIn(TempDir);

impl StandIn {
    /// `None` without a C compiler: the test then says so and skips. Under `CI=true` that is a failure.
    pub fn new(cards: &str) -> Option<Self> {
        static BUILT: OnceLock<Option<Vec<u8>>> = OnceLock::new();
        let built = BUILT.get_or_init(build).as_ref()?;
        let stand_in = Self(TempDir::new().unwrap());
        std::fs::write(stand_in.library(), built).unwrap();
        stand_in.write(cards);
        Some(stand_in)
    }

    pub fn library(&self) -> PathBuf {
        self.folder().join("libnvidia-ml.so.1")
    }

    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    /// Replaces the figures at once: nobody reads half of them.
    pub fn write(&self, cards: &str) {
        let new = self.folder().join("cards.new");
        std::fs::write(&new, cards).unwrap();
        std::fs::rename(new, self.folder().join("cards")).unwrap();
    }

    /// From now on the figures are those of another file, such as a ledger of worker processes.
    pub fn follow(&self, file: &Path) {
        let link = self.folder().join("cards.new");
        std::os::unix::fs::symlink(file, &link).unwrap();
        std::fs::rename(link, self.folder().join("cards")).unwrap();
    }
}

fn build() -> Option<Vec<u8>> {
    let folder = TempDir::new().unwrap();
    let library = folder.path().join("nvml.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/nvml.c");
    let mut compiler = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    compiler
        .args(["-std=c11", "-O1", "-Wall", "-Wextra", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source);
    match compiler.arg("-ldl").output() {
        Ok(ended) => {
            assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
            Some(std::fs::read(library).unwrap())
        }
        Err(error) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "CI=true and no C compiler: {error}");
            eprintln!("skipped: no C compiler ({error})");
            None
        }
    }
}
