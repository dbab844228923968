//! A worker's server as a process of ours.
//!
//! It runs in a group of its own, with next to nothing of our environment, no descriptor of ours and
//! an empty standard input; what it writes goes to a bounded file without secrets. It is written down
//! before it runs: a shell waits for our word and then becomes the server, and ends if the word never
//! comes. So an agent that is killed at any moment leaves either nothing, or what the next agent finds
//! and ends. Its output ends with its agent, which is why an orphan is ended and not taken over.
//!
//! An end that nobody asked for takes the rest of the tree with it and counts as a failure; so does a
//! start that does not come to be ready. Failures are followed by longer and longer waits, and after so
//! many in an hour the worker is left alone for a while.

mod environment;
mod output;
mod record;
mod tree;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use tree::{Listener, ProcessStamp, ProcessTree, listener};

use self::environment::{Values, environment};
use self::output::{Destination, LastLines, Scrubber, drain};
use self::record::RecordFile;
use super::memory::{MemoryControl, MemoryDialect, VerbError};
use crate::clock::Clock;
use crate::net::Backoff;
use crate::primitives::{ByteSize, MiB};

/// How a worker's server is run (`[workers.process]`).
#[derive(Clone, PartialEq)]
pub struct ProcessSettings {
    /// Program and arguments; not used if there are variants.
    pub command: Vec<String>,
    /// `None`: our own.
    pub cwd: Option<PathBuf>,
    /// Besides what every worker gets.
    pub env: BTreeMap<String, String>,
    pub start_timeout: Duration,
    pub stop_timeout: Duration,
    pub restarts_per_hour: u32,
    /// Share of the card that it is told to keep to.
    pub memory_fraction: Option<f64>,
    /// Of its log file; one older one is kept.
    pub log_limit: ByteSize,
    /// The best first; the first that fits is used.
    pub variants: Vec<Variant>,
}

/// One of several ways to run a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    pub command: Vec<String>,
    /// `None`: as the worker's own entry says.
    pub resident: Option<MiB>,
    pub peak: Option<MiB>,
}

impl std::fmt::Debug for ProcessSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values of variables may be secrets.
        f.debug_struct("ProcessSettings")
            .field("command", &self.command)
            .field("cwd", &self.cwd)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("variants", &self.variants)
            .finish_non_exhaustive()
    }
}

/// Where a worker's process lives.
#[derive(Debug, Clone)]
pub struct Premises {
    /// Folder of its log and its record.
    pub folder: PathBuf,
    /// That its server listens at.
    pub port: u16,
    /// The driver's id of its card, if it is known.
    pub card: Option<String>,
    /// By which its server says that it is ready.
    pub control: MemoryControl,
}

/// Why a worker's process does not run.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("it cannot be started: {0}")]
    Spawn(String),
    #[error("it ended ({status}) before it was ready{}", said(last))]
    Ended { status: String, last: Option<String> },
    #[error("it was not ready within {within:?}: {why}{}", said(last))]
    NotReady { within: Duration, why: String, last: Option<String> },
    /// Its server runs, and computes on the CPU.
    #[error("it is of no use: {0}")]
    Useless(String),
    #[error("it failed {failures} times within an hour and is left alone for {}s", left.as_secs())]
    OutOfBudget { failures: usize, left: Duration },
    #[error("none of its variants fits: the least needs {least}, {room} are free")]
    NoVariantFits { least: MiB, room: MiB },
    #[error("{0} of its processes cannot be killed")]
    Unkillable(usize),
    /// Somebody else's server has its port.
    #[error("port {0} is taken by another program")]
    PortTaken(u16),
    #[error("the agent is about to end")]
    Retired,
}

fn said(last: &Option<String>) -> String {
    last.as_ref().map(|line| format!("; its last words: {line}")).unwrap_or_default()
}

/// Waits after failures.
const PATIENCE: Backoff = match Backoff::try_new(Duration::from_secs(1), Duration::from_secs(60)) {
    Ok(backoff) => backoff,
    // Reached only while compiling the constants above.
    Err(_) => panic!("the constants make a backoff"),
};

const HOUR: Duration = Duration::from_secs(3_600);

/// One that has run for so long has worked: the next wait is a short one again.
const PROVEN: Duration = Duration::from_secs(600);

/// Between questions whether it is ready, or gone.
const READY_EVERY: Duration = Duration::from_millis(200);
const GONE_EVERY: Duration = Duration::from_millis(20);

const LAST_WORDS: Duration = Duration::from_millis(500);

/// Waits for a line, and becomes the program; ends if its agent does first.
const GATE: &str = "read -r go || exit 125; exec \"$@\" </dev/null";

/// See the [module](self). Clones are the same process; when the last one goes it is killed.
#[derive(Clone)]
pub struct WorkerProcess(Arc<Inner>);

struct Inner {
    name: String,
    settings: ProcessSettings,
    premises: Premises,
    clock: Clock,
    record: RecordFile,
    /// Held while it is started or stopped: one at a time.
    running: tokio::sync::Mutex<Option<Running>>,
    shared: Arc<Shared>,
    is_retired: AtomicBool,
}

/// What is looked at while it is started or stopped.
#[derive(Debug)]
struct Shared {
    tree: Mutex<Option<ProcessTree>>,
    failures: Mutex<Failures>,
    deaths: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Failures {
    /// Of the last hour.
    at: VecDeque<Instant>,
    in_a_row: u32,
}

struct Running {
    tree: ProcessTree,
    exit: watch::Receiver<Option<ExitStatus>>,
    /// Its end was asked for.
    expected: Arc<AtomicBool>,
    ready: Arc<AtomicBool>,
    last: LastLines,
    /// One copies its output, one waits for its end.
    tasks: JoinSet<()>,
}

impl std::fmt::Debug for WorkerProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("WorkerProcess").field(&self.0.name).finish()
    }
}

impl Shared {
    fn tree(&self) -> MutexGuard<'_, Option<ProcessTree>> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, now: Instant, ran: Duration) {
        let mut failures = self.failures();
        failures.at.push_back(now);
        failures.in_a_row = if ran >= PROVEN { 1 } else { failures.in_a_row.saturating_add(1) };
    }
}

impl WorkerProcess {
    pub fn new(name: &str, settings: ProcessSettings, premises: Premises, clock: Clock) -> Self {
        let record = RecordFile::new(&premises.folder, name);
        let (running, deaths) = (tokio::sync::Mutex::new(None), watch::Sender::new(0));
        let shared = Arc::new(Shared { tree: Mutex::default(), failures: Mutex::default(), deaths });
        let (name, is_retired) = (name.to_owned(), AtomicBool::new(false));
        Self(Arc::new(Inner { name, settings, premises, clock, record, running, shared, is_retired }))
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    pub fn settings(&self) -> &ProcessSettings {
        &self.0.settings
    }

    /// Its processes, if it runs.
    pub fn tree(&self) -> Option<ProcessTree> {
        self.0.shared.tree().clone()
    }

    /// Has it refuse to be started from now on: its agent is about to end.
    pub fn retire(&self) {
        self.0.is_retired.store(true, Ordering::SeqCst);
    }

    /// Counts the ends that nobody asked for, of those that were ready.
    pub fn deaths(&self) -> watch::Receiver<u64> {
        self.0.shared.deaths.subscribe()
    }

    /// Ends what an earlier agent left running. Says whether there was anything.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn end_orphan(&self) -> Result<bool, ProcessError> {
        let running = self.0.running.lock().await;
        if running.is_some() { Ok(false) } else { self.0.end_orphan().await }
    }

    /// Starts it unless it runs, and waits until it is ready. `room`: memory that its peak may take;
    /// `None`: not known.
    ///
    /// Dropping the future leaves it running; the next call goes on waiting.
    ///
    /// # Errors
    /// See [`ProcessError`]. Nothing of it runs then.
    pub async fn start(&self, room: Option<MiB>) -> Result<(), ProcessError> {
        let inner = &self.0;
        if inner.is_retired.load(Ordering::SeqCst) {
            return Err(ProcessError::Retired);
        }
        let mut running = inner.running.lock().await;
        if running.as_ref().is_some_and(|running| running.exit.borrow().is_some()) {
            *running = None;
        }
        let began = inner.clock.instant();
        let now = match &mut *running {
            Some(now) => now,
            empty => {
                inner.has_patience().await?;
                inner.end_orphan().await?;
                let command = inner.command(room)?.to_vec();
                if inner.is_port_taken().await {
                    return Err(ProcessError::PortTaken(inner.premises.port));
                }
                empty.insert(inner.spawn(&command).await?)
            }
        };
        let Err(error) = inner.wait_until_ready(now).await else {
            now.ready.store(true, Ordering::SeqCst);
            return Ok(());
        };
        now.expected.store(true, Ordering::SeqCst);
        // An end is counted by whoever noticed it.
        if !matches!(error, ProcessError::Ended { .. }) {
            inner.shared.failed(inner.clock.instant(), began.elapsed());
        }
        let killed = now.tree.kill(&inner.clock).await;
        inner.forget(&mut running).await;
        killed.map_err(|left| ProcessError::Unkillable(left.len()))?;
        Err(error)
    }

    /// Asks it to end, waits as long as it may take, and kills what is left of its tree.
    ///
    /// Dropping the future leaves it where it is; the next call goes on.
    ///
    /// # Errors
    /// When some of it cannot be killed.
    pub async fn stop(&self) -> Result<(), ProcessError> {
        let inner = &self.0;
        let mut running = inner.running.lock().await;
        let Some(now) = &mut *running else {
            return inner.end_orphan().await.map(drop);
        };
        now.expected.store(true, Ordering::SeqCst);
        let began = inner.clock.instant();
        let mut asked = BTreeSet::new();
        while began.elapsed() < inner.settings.stop_timeout {
            let (tree, before) = (now.tree.clone(), asked);
            // Reads all of /proc.
            let members = tokio::task::spawn_blocking(move || tree.terminate(&before)).await;
            asked = members.unwrap_or_default();
            if asked.is_empty() {
                break;
            }
            inner.clock.sleep(GONE_EVERY).await;
        }
        if let Err(left) = now.tree.kill(&inner.clock).await {
            return Err(ProcessError::Unkillable(left.len()));
        }
        inner.forget(&mut running).await;
        Ok(())
    }
}

impl Inner {
    async fn forget(&self, running: &mut Option<Running>) {
        if let Some(Running { mut tasks, .. }) = running.take() {
            // Its last words are on their way; a stranger that holds its output is not waited for.
            let all = async { while tasks.join_next().await.is_some() {} };
            drop(tokio::time::timeout(LAST_WORDS, all).await);
        }
        *self.shared.tree() = None;
        self.record.remove();
    }

    async fn end_orphan(&self) -> Result<bool, ProcessError> {
        let record = self.record.clone();
        let orphan = tokio::task::spawn_blocking(move || record.orphan()).await.ok().flatten();
        let found = orphan.is_some();
        if let Some(tree) = orphan {
            tracing::warn!(worker = self.name, "A process of an earlier run is still there and is ended");
            tree.kill(&self.clock).await.map_err(|left| ProcessError::Unkillable(left.len()))?;
        }
        self.record.remove();
        Ok(found)
    }

    /// Waits after failures; refuses after too many.
    async fn has_patience(&self) -> Result<(), ProcessError> {
        let now = self.clock.instant();
        let wait = {
            let mut failures = self.shared.failures();
            while failures.at.front().is_some_and(|at| now.saturating_duration_since(*at) >= HOUR) {
                failures.at.pop_front();
            }
            let count = failures.at.len();
            if let Some(oldest) = failures.at.front()
                && count > self.settings.restarts_per_hour as usize
            {
                let left = (*oldest + HOUR).saturating_duration_since(now);
                return Err(ProcessError::OutOfBudget { failures: count, left });
            }
            let due = failures.at.back().map(|last| *last + PATIENCE.after(failures.in_a_row));
            due.map(|due| due.saturating_duration_since(now)).unwrap_or_default()
        };
        self.clock.sleep(wait).await;
        Ok(())
    }

    /// The first variant that fits, or the only command there is.
    fn command(&self, room: Option<MiB>) -> Result<&[String], ProcessError> {
        let variants = &self.settings.variants;
        let Some(least) = variants.iter().map(|variant| variant.peak.unwrap_or_default()).min() else {
            return Ok(&self.settings.command);
        };
        let fits = |variant: &&Variant| match (variant.peak, room) {
            (Some(peak), Some(room)) => peak <= room,
            _ => true,
        };
        let found = variants.iter().position(|variant| fits(&variant));
        let number = found.ok_or(ProcessError::NoVariantFits { least, room: room.unwrap_or_default() })?;
        tracing::info!(worker = self.name, variant = number, ?room, "A way to run it was chosen");
        Ok(&variants[number].command)
    }

    /// Whether somebody listens at its port already: the server would end, or the other one be taken
    /// for it.
    async fn is_port_taken(&self) -> bool {
        let port = self.premises.port;
        let listener = tokio::task::spawn_blocking(move || listener(port)).await;
        !matches!(listener, Ok(Listener::Nobody) | Err(_))
    }

    async fn spawn(&self, command: &[String]) -> Result<Running, ProcessError> {
        let failed = |error: std::io::Error| ProcessError::Spawn(error.to_string());
        // What workers say is nobody else's business.
        let made =
            tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.premises.folder).await;
        made.map_err(failed)?;
        let mark = uuid::Uuid::new_v4().simple().to_string();
        let mut child = self.gated(command, &mark).spawn().map_err(failed)?;
        let pid = child.id().and_then(ProcessStamp::of);
        let root = pid.ok_or_else(|| ProcessError::Spawn("it ended at once".into()))?;
        let tree = ProcessTree { roots: vec![root], group: Some(root.pid), mark: Some(mark) };
        let (record, written) = (self.record.clone(), tree.clone());
        let recorded = tokio::task::spawn_blocking(move || record.write(&written)).await;
        recorded.map_err(|error| ProcessError::Spawn(error.to_string()))?.map_err(failed)?;
        if let Some(mut gate) = child.stdin.take() {
            // If it has gone already, its end says so.
            drop(gate.write_all(b"go\n").await);
        }
        tracing::info!(worker = self.name, pid = root.pid, "A worker's process was started");
        *self.shared.tree() = Some(tree.clone());
        Ok(self.attend(child, tree))
    }

    fn gated(&self, command: &[String], mark: &str) -> Command {
        let Premises { port, card, .. } = &self.premises;
        let values =
            Values { port: *port, memory_fraction: self.settings.memory_fraction, card: card.clone() };
        let mut gated = Command::new("/bin/sh");
        gated.args(["-c", GATE, &self.name]);
        gated.args(command.iter().map(|word| values.put_into(word)));
        gated.env_clear().envs(environment(std::env::vars_os(), &self.settings.env, &values, mark));
        if let Some(cwd) = &self.settings.cwd {
            gated.current_dir(cwd);
        }
        gated.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        gated.process_group(0).kill_on_drop(true);
        // Our own files close by themselves; those that whoever started us left open do not.
        close_fds::set_fds_cloexec_threadsafe(3, &[]);
        gated
    }

    /// Copies its output and waits for its end.
    fn attend(&self, mut child: Child, tree: ProcessTree) -> Running {
        let last = LastLines::default();
        let (ended, exit) = watch::channel(None);
        let (expected, ready) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let mut tasks = JoinSet::new();
        if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
            let to = Destination {
                path: self.premises.folder.join(format!("{}.log", self.name)),
                limit: self.settings.log_limit,
                scrubber: Scrubber::new(&self.settings.env),
                last: last.clone(),
            };
            tasks.spawn(drain(out, err, to));
        }
        let (name, clock, shared) = (self.name.clone(), self.clock, Arc::clone(&self.shared));
        let (lines, record) = (last.clone(), self.record.clone());
        let (asked, was_ready, left) = (Arc::clone(&expected), Arc::clone(&ready), tree.clone());
        tasks.spawn(async move {
            let began = clock.instant();
            let status = child.wait().await.unwrap_or_else(|_| ExitStatus::from_raw(0));
            if !asked.load(Ordering::SeqCst) {
                let was_ready = was_ready.load(Ordering::SeqCst);
                if was_ready {
                    let last = lines.last().unwrap_or_default();
                    tracing::error!(
                        alarm = "worker_died", worker = name, status = %status, last,
                        "A worker's process has ended by itself"
                    );
                }
                // What it leaves behind holds memory and its port.
                if left.kill(&clock).await.is_ok() {
                    record.remove();
                }
                *shared.tree() = None;
                shared.failed(clock.instant(), began.elapsed());
                if was_ready {
                    shared.deaths.send_modify(|deaths| *deaths += 1);
                }
            }
            // Whoever wanted to know may have gone.
            ended.send_replace(Some(status));
        });
        Running { tree, exit, expected, ready, last, tasks }
    }

    async fn wait_until_ready(&self, now: &mut Running) -> Result<(), ProcessError> {
        let within = self.settings.start_timeout;
        let began = self.clock.instant();
        loop {
            let left = within.saturating_sub(began.elapsed());
            let question = async {
                let answer = tokio::time::timeout(left, self.readiness()).await;
                answer.unwrap_or(Readiness::NotYet("no answer".into()))
            };
            let ended = async {
                // The sender goes with its task, which sends first.
                match now.exit.wait_for(Option::is_some).await {
                    Ok(status) => status.map_or_else(|| "unknown".to_owned(), |status| status.to_string()),
                    Err(_) => "unknown".to_owned(),
                }
            };
            let readiness = tokio::select! {
                biased;
                status = ended => return Err(ProcessError::Ended { status, last: now.last.last() }),
                readiness = question => readiness,
            };
            match readiness {
                Readiness::Ready => return Ok(()),
                Readiness::Useless(why) => return Err(ProcessError::Useless(why)),
                Readiness::NotYet(why) if began.elapsed() >= within => {
                    return Err(ProcessError::NotReady { within, why, last: now.last.last() });
                }
                Readiness::NotYet(_) => self.clock.sleep(READY_EVERY).await,
            }
        }
    }

    /// What its server says, by its dialect.
    async fn readiness(&self) -> Readiness {
        let control = &self.premises.control;
        // These start with their models away, which then come by a verb or with the first request.
        let comes_empty = !matches!(
            control.dialect(),
            MemoryDialect::ThreeGen
                | MemoryDialect::ClearCache(_)
                | MemoryDialect::Process
                | MemoryDialect::Nothing
        );
        match control.status().await {
            Ok(memory) if memory.gpu_enabled == Some(false) => {
                Readiness::Useless("it says that it runs without the card".into())
            }
            Ok(memory) if memory.models_loaded == Some(false) && !comes_empty => {
                Readiness::NotYet("its models are not loaded".into())
            }
            Ok(_) => Readiness::Ready,
            Err(error @ (VerbError::Unreachable(_) | VerbError::Silent(_) | VerbError::Broken(_))) => {
                Readiness::NotYet(error.to_string())
            }
            Err(error) if error.is_busy() => Readiness::NotYet(error.to_string()),
            Err(VerbError::Implausible(implausible)) => Readiness::Useless(implausible.to_string()),
            // It answers, and has no such route.
            Err(_) => Readiness::Ready,
        }
    }
}

/// Whether a server can be used.
#[derive(Debug)]
enum Readiness {
    Ready,
    NotYet(String),
    Useless(String),
}
