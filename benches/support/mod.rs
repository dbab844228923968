//! Shared by the benchmarks: clouds, statistics, tables, and the agent as a process.

#![allow(dead_code, reason = "each benchmark uses its own part")]

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sn17_miner::splat::{Gaussian, ShDegree, Splat, write_ply};

/// Gaussians of the benchmark's cloud: what a common generator makes at most.
pub const POINTS: usize = 497_664;

/// Random values leave zstd next to nothing to find: the worst case for size, memory and time.
pub fn random_ply(degree: ShDegree) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(17);
    let mut splat = Splat::with_capacity(degree, POINTS);
    let mut sh = vec![0.0; degree.values()];
    for _ in 0..POINTS {
        let gaussian = Gaussian {
            position: std::array::from_fn(|_| rng.random_range(-0.5..0.5)),
            log_scale: std::array::from_fn(|_| rng.random_range(-8.0..-3.0)),
            rotation: std::array::from_fn(|_| rng.random_range(-1.0..1.0)),
            logit_opacity: rng.random_range(0.0..6.0),
            f_dc: std::array::from_fn(|_| rng.random_range(-1.7..1.7)),
        };
        sh.fill_with(|| rng.random_range(-0.5..0.5));
        splat.push_with_sh(gaussian, &sh);
    }
    let mut ply = Vec::new();
    write_ply(&splat, true, &mut ply).expect("memory can be written to");
    ply
}

/// Measured times, sorted.
pub struct Times(Vec<Duration>);

impl Times {
    pub fn of(mut times: Vec<Duration>) -> Self {
        assert!(!times.is_empty(), "nothing was measured");
        times.sort_unstable();
        Self(times)
    }

    pub fn median(&self) -> Duration {
        self.0[self.0.len() / 2]
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let (first, last) = (self.0[0], self.0[self.0.len() - 1]);
        write!(f, "{:>9.2} ms (of {}: {:.2} to {:.2})", ms(self.median()), self.0.len(), ms(first), ms(last))
    }
}

/// How many times as long the first median is.
pub fn ratio(of: &Times, to: &Times) -> f64 {
    of.median().as_secs_f64() / to.median().as_secs_f64()
}

/// The agent as it is shipped (or another one, named by `SN17_BINARY`), in a directory of its own and with nobody's configuration but `config`.
pub fn agent(dir: &Path, config: &str) -> Command {
    let file = dir.join("config.toml");
    fs::write(&file, config).expect("write the configuration");
    let built = || env!("CARGO_BIN_EXE_sn17-miner").into();
    let mut command = Command::new(std::env::var_os("SN17_BINARY").unwrap_or_else(built));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SN17_") {
            command.env_remove(name);
        }
    }
    command
        .args(["run", "--config"])
        .arg(file)
        .current_dir(dir)
        .env("HOME", dir)
        .env("XDG_RUNTIME_DIR", dir)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    command
}

/// A child that does not outlive its measurement.
pub struct Running(pub Child);

impl Running {
    /// A line of `/proc/PID/status`, in KiB.
    pub fn status_kib(&self, name: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.and_then(|v| v.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
