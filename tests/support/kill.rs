//! A real agent that is killed and started again, and what it remembers in between.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use sn17_miner::primitives::Hotkey;
use sn17_miner::wallet::HotkeyPair;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Longest wait for anything that must happen: far beyond what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// `SN17_SEED`, else a random one. Printed, so that a failure can be replayed.
pub fn seed() -> u64 {
    let seed = match std::env::var("SN17_SEED") {
        Ok(text) => text.parse().expect("SN17_SEED is a number"),
        Err(_) => u64::from(rand::random::<u32>()),
    };
    println!("SN17_SEED={seed}");
    seed
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where an agent lives: its configuration, its memory, and what all its lives have logged.
pub struct Home {
    dir: tempfile::TempDir,
    log: Arc<Mutex<Vec<String>>>,
}

/// Who an agent deals with.
pub struct Peers {
    pub validators: Vec<(Hotkey, SocketAddr)>,
    pub generator: SocketAddr,
    pub scorer: SocketAddr,
}

impl Home {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        Self { dir, log: Arc::default() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a plain key for each name into a wallet of this home; their addresses.
    pub fn make_keys(&self, names: &[&str]) -> Vec<Hotkey> {
        let folder = self.path().join("wallets/kills/hotkeys");
        std::fs::create_dir_all(&folder).unwrap();
        let keys = names.iter().map(|name| {
            let seed: [u8; 32] = Sha256::digest(format!("sn17-test/{name}")).into();
            let hotkey = *HotkeyPair::from_seed(seed).hotkey();
            let key = serde_json::json!({
                "accountId": format!("0x{}", hex(hotkey.as_bytes())),
                "publicKey": format!("0x{}", hex(hotkey.as_bytes())),
                "secretSeed": format!("0x{}", hex(&seed)),
                "ss58Address": hotkey.to_ss58(),
            });
            std::fs::write(folder.join(name), key.to_string()).unwrap();
            std::fs::set_permissions(folder.join(name), PermissionsExt::from_mode(0o600)).unwrap();
            hotkey
        });
        keys.collect()
    }

    /// Writes a configuration for these peers, whose cooldown and lock are `cooldown_s` and `lock_s`.
    pub fn configure(&self, peers: &Peers, cooldown_s: u64, lock_s: u64) {
        let wallet = format!("[wallet]\npath = \"{}/wallets.example\"\n", env!("CARGO_MANIFEST_DIR"));
        self.configure_for(&wallet, peers, cooldown_s, lock_s);
    }

    /// The same for the keys of [`Self::make_keys`].
    pub fn configure_keys(&self, names: &[&str], peers: &Peers, cooldown_s: u64, lock_s: u64) {
        let path = self.path().join("wallets");
        let wallet =
            format!("[wallet]\npath = \"{}\"\nname = \"kills\"\nhotkeys = {names:?}\n", path.display());
        self.configure_for(&wallet, peers, cooldown_s, lock_s);
    }

    fn configure_for(&self, wallet: &str, peers: &Peers, cooldown_s: u64, lock_s: u64) {
        // The newest result of a task is the one that counts as finished.
        let mut text = format!(
            "{wallet}[paths]\ndata = \"{}\"\n[decide]\ncandidates = 1\n\
             [rules]\ncooldown = \"{cooldown_s}s\"\nlock = \"{lock_s}s\"\n\
             [[workers]]\nname = \"main\"\nrole = \"generator\"\nurl = \"http://{}\"\n\
             dialect = \"form-image\"\nkinds = [\"text\", \"image\"]\n\
             [[workers]]\nname = \"judge\"\nrole = \"scorer\"\nurl = \"http://{}\"\n",
            self.data().display(),
            peers.generator,
            peers.scorer,
        );
        for (hotkey, address) in &peers.validators {
            text.push_str(&format!("[[validators]]\nhotkey = \"{hotkey}\"\naddress = \"{address}\"\n"));
        }
        std::fs::write(self.path().join("config.toml"), text).unwrap();
    }

    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// The program, in this home and with nothing of the caller's.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sn17-miner"));
        command
            .args(args)
            .current_dir(self.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path())
            .env("XDG_RUNTIME_DIR", self.path().join("run"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub fn start(&self, args: &[&str]) -> Agent {
        self.spawn(&mut self.command(args))
    }

    /// As [`Self::start`], with a file that grows too large being an error to it and not its end.
    pub fn start_limitable(&self, args: &[&str]) -> Agent {
        let command = self.command(args);
        let command = command.as_std();
        let mut shell = Command::new("sh");
        shell
            .args(["-c", r#"trap "" XFSZ; exec "$0" "$@""#])
            .arg(command.get_program())
            .args(command.get_args());
        shell.current_dir(self.path()).env_clear().stdin(Stdio::null()).stdout(Stdio::piped());
        shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        self.spawn(shell.stderr(Stdio::piped()).kill_on_drop(true))
    }

    pub fn spawn(&self, command: &mut Command) -> Agent {
        self.note(&format!("== {:?}", command.as_std()));
        let mut child = command.spawn().unwrap();
        let (sender, lines) = mpsc::unbounded_channel();
        let mut readers = JoinSet::new();
        readers.spawn(follow(child.stdout.take().unwrap(), Arc::clone(&self.log), Some(sender)));
        readers.spawn(follow(child.stderr.take().unwrap(), Arc::clone(&self.log), None));
        Agent { child, lines, readers }
    }

    pub fn note(&self, line: &str) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push(line.to_owned());
    }

    /// Checksums of the result files, by name.
    pub fn results(&self) -> BTreeMap<String, String> {
        let Ok(entries) = std::fs::read_dir(self.data().join("results")) else { return BTreeMap::new() };
        let files =
            entries.map(|entry| entry.unwrap()).filter(|e| e.path().extension() == Some("spz".as_ref()));
        files
            .map(|file| {
                let bytes = std::fs::read(file.path()).unwrap();
                (file.file_name().into_string().unwrap(), hex(&Sha256::digest(&bytes)))
            })
            .collect()
    }

    /// All tasks the agent knows, oldest first. Read from a copy: it is the next start that has to
    /// recover the database, not this look at it.
    pub fn tasks(&self) -> Vec<TaskRow> {
        let copy = tempfile::tempdir().unwrap();
        for name in ["agent.sqlite", "agent.sqlite-wal"] {
            let file = self.data().join(name);
            if file.exists() {
                std::fs::copy(file, copy.path().join(name)).unwrap();
            }
        }
        let database = rusqlite::Connection::open(copy.path().join("agent.sqlite")).unwrap();
        // Killed before the tables were made: nothing is known.
        let Ok(mut tasks) = database
            .prepare("SELECT id, task_id, stage, attempts, outcome, reason FROM tasks ORDER BY rowid")
        else {
            return Vec::new();
        };
        let rows = tasks.query_map([], |row| {
            let id: String = row.get(0)?;
            let mut kept = database.prepare("SELECT sha256 FROM results WHERE task = ?1 ORDER BY attempt")?;
            let kept = kept.query_map([&id], |row| Ok(hex(&row.get::<_, Vec<u8>>(0)?)))?;
            Ok(TaskRow {
                id,
                task_id: row.get(1)?,
                stage: row.get(2)?,
                attempts: row.get(3)?,
                outcome: row.get(4)?,
                reason: row.get(5)?,
                kept: kept.collect::<Result<_, _>>()?,
            })
        });
        rows.unwrap().map(Result::unwrap).collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
            for line in log.iter().skip(log.len().saturating_sub(150)) {
                println!("{line}");
            }
        }
    }
}

async fn follow(
    pipe: impl AsyncRead + Unpin,
    log: Arc<Mutex<Vec<String>>>,
    lines: Option<mpsc::UnboundedSender<String>>,
) {
    let mut pipe = BufReader::new(pipe).lines();
    while let Ok(Some(line)) = pipe.next_line().await {
        log.lock().unwrap_or_else(PoisonError::into_inner).push(line.clone());
        if let Some(lines) = &lines {
            let _nobody_waits_for_more = lines.send(line);
        }
    }
}

/// A task in the agent's memory.
#[derive(Debug, Clone)]
pub struct TaskRow {
    pub id: String,
    /// The validator's.
    pub task_id: String,
    pub stage: String,
    pub attempts: u32,
    /// `None`: open.
    pub outcome: Option<String>,
    pub reason: Option<String>,
    /// Checksums of its results, by attempt.
    pub kept: Vec<String>,
}

impl TaskRow {
    pub fn is_open(&self) -> bool {
        self.outcome.is_none()
    }

    /// The result that has to be the one that is booked, if one is finished.
    pub fn finished(&self) -> Option<&String> {
        let finished = matches!(self.stage.as_str(), "kept" | "scored" | "intended" | "sent" | "booked");
        self.kept.last().filter(|_| finished)
    }
}

/// A running program.
pub struct Agent {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    readers: JoinSet<()>,
}

impl Agent {
    /// Waits for a line of stdout with one of these words; `None` when there is none in time, or the
    /// program ended.
    pub async fn line(&mut self, words: &[&str], patience: Duration) -> Option<String> {
        let wanted = async {
            loop {
                let line = self.lines.recv().await?;
                if words.iter().any(|words| line.contains(words)) {
                    return Some(line);
                }
            }
        };
        tokio::time::timeout(patience, wanted).await.ok().flatten()
    }

    /// Sets how large the program may make a file: bytes, or `unlimited`.
    pub async fn allow_files_of(&self, size: &str) {
        let pid = self.child.id().expect("the program still runs").to_string();
        let status =
            Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={size}:")]).status().await;
        assert!(status.unwrap().success());
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// `kill -9`. Returns when the process is gone and with it its locks.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
        while self.readers.join_next().await.is_some() {}
    }

    /// SIGTERM.
    pub async fn terminate(self) -> ExitStatus {
        let pid = self.child.id().expect("the program still runs").to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
        self.ended(PATIENCE).await
    }

    /// Waits for the program to end by itself.
    pub async fn ended(mut self, patience: Duration) -> ExitStatus {
        let status = tokio::time::timeout(patience, self.child.wait()).await;
        let status = status.expect("the program ends in time").unwrap();
        while self.readers.join_next().await.is_some() {}
        status
    }
}
