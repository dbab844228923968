//! Strangers written with the real bittensor 9.9.0: `tests/peers`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::program::Program;

/// Starting Python and importing bittensor takes seconds, on a busy machine many.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// What the peers need besides the interpreter (`scripts/requirements.txt`).
const MODULES: &str = "'bittensor', 'bittensor_wallet', 'numpy', 'zstandard'";

/// The interpreter, and a folder that is the peers' home.
pub struct Peers {
    python: PathBuf,
    folder: TempDir,
}

/// A peer that said it is ready.
pub struct Ready {
    pub program: Program,
    pub port: u16,
    /// An axon's.
    pub hotkey: String,
}

impl Peers {
    /// Looks for an interpreter with the modules: `SN17_PYTHON`, else `.venv/bin/python`.
    ///
    /// `None` when there is none: the test then says so and skips. Under `CI=true` it fails.
    pub fn find() -> Option<Self> {
        let python = std::env::var_os("SN17_PYTHON")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python"), PathBuf::from);
        let look =
            format!("import sys, importlib.util as u; sys.exit(not all(map(u.find_spec, ({MODULES}))))");
        let found = Command::new(&python).args(["-c", &look]).output();
        if found.is_ok_and(|output| output.status.success()) {
            return Some(Self { python, folder: tempfile::tempdir().unwrap() });
        }
        let missing = format!("{} is no Python with {MODULES}: run scripts/python.sh", python.display());
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}, and CI=true allows no skipping");
        announce(&format!("skipped: {missing}"));
        None
    }

    /// Writes a file for a peer to read.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Runs a script of `tests/peers`. The environment is the bare minimum, and home is empty.
    pub fn run(&self, script: &str, arguments: &[&str]) -> Program {
        let mut command = Command::new(&self.python);
        command
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(script))
            .args(arguments)
            .env_clear()
            .env("HOME", self.folder.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("PYTHONDONTWRITEBYTECODE", "1");
        Program::start(script, &mut command, self.folder.path())
    }

    /// Runs a script that listens, and waits for it to say where.
    pub fn serve(&self, script: &str, arguments: &[&str]) -> Ready {
        let mut program = self.run(script, arguments);
        let line = program.line(PATIENCE, |_| true).unwrap_or_else(|| panic!("{script} did not start"));
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(said["ready"], true, "{line}");
        Ready {
            program,
            port: u16::try_from(said["port"].as_u64().unwrap()).unwrap(),
            hotkey: said["hotkey"].as_str().unwrap_or_default().to_owned(),
        }
    }

    /// The generation server, answering everything with `ply`.
    pub fn generator(&self, ply: &Path) -> Ready {
        self.serve("generator.py", &["--ply", ply.to_str().unwrap()])
    }

    /// The validator with a list of tasks, checking each result against `ply`.
    pub fn axon(&self, tasks: &Value, ply: &Path, arguments: &[&str]) -> Ready {
        let tasks = self.file("tasks.json", serde_json::to_vec(tasks).unwrap());
        let given = ["--tasks", tasks.to_str().unwrap(), "--ply", ply.to_str().unwrap()];
        self.serve("axon.py", &[&given, arguments].concat())
    }
}

/// Writes a line that is shown even when the test passes: the harness keeps only what the macros print.
pub fn announce(line: &str) {
    writeln!(std::io::stderr().lock(), "{line}").unwrap();
}

/// Waits for a peer to end; gives whether it was content, and its report.
pub fn report(program: Program, patience: Duration) -> (bool, Value) {
    let ended = program.finish(patience);
    let last = ended.lines.last().expect("a report");
    let report: Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {last}"));
    (ended.status.success(), report)
}
