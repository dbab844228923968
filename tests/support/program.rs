//! Programs a test starts: read line by line, waited for within a limit, gone when the test ends.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use tokio::time::Instant;

/// The binary with nothing of this user's around it; its data directory is `dir/data`.
#[allow(dead_code, reason = "not every test file asks the agent by its commands")]
pub fn miner(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sn17-miner"));
    command
        .args(args)
        .arg("--set")
        .arg(format!("paths.data={}", dir.join("data").display()))
        .current_dir(dir)
        .env_clear()
        .env("HOME", dir)
        .env("XDG_RUNTIME_DIR", dir);
    command
}

/// A running program. Dropping it kills it and, in a failing test, shows what it said.
pub struct Program {
    name: String,
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    stderr: PathBuf,
}

/// A program that ended by itself.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    /// All of its stdout.
    pub lines: Vec<String>,
}

impl Program {
    /// Starts `command`; its stderr goes to a file in `folder`.
    pub fn start(name: &str, command: &mut Command, folder: &Path) -> Self {
        let (file, stderr) = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .suffix(".stderr")
            .tempfile_in(folder)
            .unwrap()
            .keep()
            .unwrap();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        // Ends with the pipe, and that with the program.
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { name: name.to_owned(), child, lines, seen: Vec::new(), stderr }
    }

    /// The next line of stdout that `wanted` accepts; `None` if the program ends without one.
    ///
    /// Panics when `patience` runs out.
    pub fn line(&mut self, patience: Duration, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let deadline = Instant::now() + patience;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if wanted(&line) {
                        return Some(line);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => panic!("{}: nothing within {patience:?}", self.name),
            }
        }
    }

    /// Waits until it ends by itself; panics when `patience` runs out.
    pub fn finish(mut self, patience: Duration) -> Ended {
        assert_eq!(self.line(patience, |_| false), None);
        // Its stdout is closed, so it is ending.
        let status = self.child.wait().unwrap();
        Ended { status, lines: std::mem::take(&mut self.seen) }
    }

    /// Asks it to end, as an operator's SIGTERM does.
    pub fn terminate(&self) {
        let pid = self.child.id();
        let sent = Command::new("sh").args(["-c", &format!("kill -TERM {pid}")]).status().unwrap();
        assert!(sent.success(), "{}: SIGTERM could not be sent", self.name);
    }

    /// What it wrote to stderr so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            self.seen.extend(self.lines.try_iter());
            eprintln!(
                "-- {} wrote:\n{}\n-- and to stderr:\n{}",
                self.name,
                self.seen.join("\n"),
                self.stderr()
            );
        }
    }
}
