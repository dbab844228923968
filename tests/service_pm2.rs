//! The shipped service files: under npm's real pm2, and as systemd reads its unit.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sn17_miner::clock::Clock;
use sn17_miner::devnet::axon::{DevAxon, DevAxonSettings};
use sn17_miner::devnet::generator::{DevGenerator, DevGeneratorSettings};
use sn17_miner::devnet::ledger::LedgerEventKind;
use sn17_miner::devnet::rules::ValidatorRules;
use sn17_miner::devnet::tasks::TaskMaker;
use sn17_miner::primitives::{TaskId, Uid};
use sn17_miner::wallet::HotkeyPair;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// For anything pm2 or the agent is waited for; a cold Node.js on a busy machine takes seconds.
const PATIENCE: Duration = Duration::from_secs(90);

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// pm2's command: `SN17_PM2` as scripts/test.sh sets it, else what scripts/pm2.sh has installed.
fn pm2_command() -> Option<PathBuf> {
    let installed = repository().join(".tools/pm2/node_modules/.bin/pm2");
    let found = std::env::var_os("SN17_PM2").map(PathBuf::from).unwrap_or(installed);
    let node = Command::new("node").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.exists() && node.is_ok_and(|status| status.success()) {
        return Some(found);
    }
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "pm2 is missing, and CI=true allows no skipping: run scripts/pm2.sh"
    );
    eprintln!("skipped: pm2 is missing (run scripts/pm2.sh, which needs npm)");
    None
}

/// A pm2 of its own, with its daemon, ended with the value.
struct Pm2 {
    command: PathBuf,
    home: tempfile::TempDir,
    config: PathBuf,
}

impl Pm2 {
    fn new(command: PathBuf, config: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("config.toml");
        fs::write(&file, config).unwrap();
        Self { command, config: file, home }
    }

    fn pm2_home(&self) -> PathBuf {
        self.home.path().join("pm2")
    }

    /// What the operator greps.
    fn log(&self) -> PathBuf {
        self.pm2_home().join("logs/sn17-miner-out.log")
    }

    fn output(&self, args: &[&str]) -> Output {
        let mut command = Command::new(&self.command);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("SN17_") || name.starts_with("PM2_") || name.starts_with("BT_") {
                command.env_remove(name);
            }
        }
        command
            .args(args)
            .current_dir(repository())
            .env("PM2_HOME", self.pm2_home())
            .env("PM2_DISABLE_VERSION_CHECK", "true")
            .env("PM2_DISCRETE_MODE", "true")
            .env("HOME", self.home.path())
            .env("XDG_RUNTIME_DIR", self.home.path())
            .env("SN17_BINARY", env!("CARGO_BIN_EXE_sn17-miner"))
            .env("SN17_CONFIG", &self.config)
            .stdin(Stdio::null());
        command.output().unwrap()
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> String {
        let output = self.output(args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "pm2 {args:?}\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// What pm2 says of its one process.
    #[track_caller]
    fn described(&self) -> Value {
        let text = self.run(&["jlist"]);
        let list = text
            .lines()
            .rev()
            .find(|line| line.starts_with('['))
            .unwrap_or_else(|| panic!("no list in {text}"));
        let list: Vec<Value> = serde_json::from_str(list).unwrap();
        assert_eq!(list.len(), 1, "{text}");
        list.into_iter().next().unwrap()
    }

    fn logged(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// The lines of `grep "TEXT" sn17-miner-out.log`, by the operators' own tool.
    fn grep(&self, text: &str) -> Vec<String> {
        let output = Command::new("grep").arg(text).arg(self.log()).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    /// Every process that lives in this pm2's home, the daemon included.
    fn processes(&self) -> Vec<u32> {
        let mark = format!("PM2_HOME={}", self.pm2_home().display());
        let of_ours = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(of_ours).collect()
    }

    /// Waits until `happened` gives something; fails with the agent's log when it does not.
    #[track_caller]
    fn wait<T>(&self, what: &str, happened: impl Fn() -> Option<T>) -> T {
        let clock = Clock::system();
        let deadline = clock.now() + PATIENCE;
        loop {
            if let Some(found) = happened() {
                return found;
            }
            assert!(
                clock.now() < deadline,
                "{what} did not happen within {PATIENCE:?}; the log:\n{}",
                self.logged()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Pm2 {
    fn drop(&mut self) {
        if !self.processes().is_empty() {
            drop(self.output(&["kill"]));
        }
    }
}

/// A validator and a generator in this process: they outlive every restart of the agent.
struct Outside {
    axon: DevAxon,
    generator: DevGenerator,
    config: String,
    _runtime: tokio::runtime::Runtime,
    _servers: JoinSet<()>,
}

impl Outside {
    /// Generating and scoring take `pace` each, so that a restart can be made to fall into either.
    fn start(pace: Duration) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let clock = Clock::system();
        let second = Duration::from_secs(1);
        let rules = ValidatorRules {
            cooldown: 2 * second,
            throttle: Duration::ZERO,
            penalty: second,
            lock: second,
            ..ValidatorRules::default()
        };
        let settings = DevAxonSettings { rules, scoring: pace, ..DevAxonSettings::default() };
        let axon = DevAxon::new(HotkeyPair::dev("validator-0"), clock, settings, TaskMaker::new(17, 0.0));
        axon.register(Uid(3), *HotkeyPair::dev("miner").hotkey());
        let generator =
            DevGenerator::new(DevGeneratorSettings { delay: pace, ..DevGeneratorSettings::default() }, clock);

        let mut servers = JoinSet::new();
        let mut serve = |router: axum::Router| {
            let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
            let address = listener.local_addr().unwrap();
            servers.spawn_on(async move { axum::serve(listener, router).await.unwrap() }, runtime.handle());
            address
        };
        let (validator, worker) = (serve(axon.router()), serve(generator.router()));
        let mut config = String::new();
        write!(
            config,
            r#"
[wallet]
path = "{wallets}"
[rules]
cooldown = "2s"
lock = "1s"
[[gpus]]
uuid = "GPU-under-pm2"
[[workers]]
name = "main"
role = "generator"
url = "http://{worker}"
[[validators]]
hotkey = "{hotkey}"
address = "{validator}"
uid = 12
"#,
            wallets = repository().join("wallets.example").display(),
            hotkey = axon.hotkey(),
        )
        .unwrap();
        Self { axon, generator, config, _runtime: runtime, _servers: servers }
    }

    fn open_task(&self) -> Option<TaskId> {
        self.axon
            .ledger(|ledger| ledger.open_task(HotkeyPair::dev("miner").hotkey()).map(|task| task.id.clone()))
    }

    fn count(&self, name: &str) -> u64 {
        self.axon.ledger(|ledger| ledger.chronicle().count(name))
    }

    /// How often a result for the task was accepted.
    fn accepted(&self, wanted: &TaskId) -> usize {
        self.axon.ledger(|ledger| {
            let events = ledger.chronicle().latest();
            events
                .filter(
                    |event| matches!(&event.kind, LedgerEventKind::Accepted { task, .. } if task == wanted),
                )
                .count()
        })
    }
}

#[test]
fn pm2_starts_restarts_and_stops_it_and_nothing_is_lost() {
    let Some(command) = pm2_command() else { return };
    let outside = Arc::new(Outside::start(Duration::from_secs(3)));
    let config = format!("{}\n[paths]\ndata = \"data\"\n", outside.config);
    let pm2 = Pm2::new(command, &config);

    pm2.run(&["start", repository().join("scripts/ecosystem.config.cjs").to_str().unwrap()]);
    let described = pm2.described();
    assert_eq!(described["pm2_env"]["kill_timeout"], 80_000);
    assert_eq!(described["pm2_env"]["SN17_SHUTDOWN__GRACE"], "75s");
    assert_eq!(described["pm2_env"]["pm_out_log_path"], pm2.log().to_str().unwrap());

    // A whole task, and the operators' three greps.
    pm2.wait("the first feedback", || (!pm2.grep("Feedback from").is_empty()).then_some(()));
    assert!(!pm2.grep("Acquired generation lock").is_empty());
    assert!(!pm2.grep("Total time:").is_empty());

    // In the middle of a generation.
    let begun = outside.generator.counts().requests;
    pm2.wait("another generation", || (outside.generator.counts().requests > begun).then_some(()));
    let task = outside.open_task().expect("a task is being made");
    assert_eq!(outside.accepted(&task), 0);
    pm2.run(&["restart", "sn17-miner"]);
    // There is time to finish it, and to send it.
    assert_eq!(outside.accepted(&task), 1, "the generation was finished and its result submitted");
    assert_eq!(pm2.grep("Pulled a task again").len(), 0);

    // In the middle of a submission: the agent waits for the answer before it ends.
    let scoring = outside.count("scoring_begun");
    pm2.wait("another submission", || (outside.count("scoring_begun") > scoring).then_some(()));
    let task = outside.open_task().expect("a task is being scored");
    let answered = pm2.grep("Feedback from").len();
    pm2.run(&["restart", "sn17-miner"]);
    assert_eq!(outside.accepted(&task), 1, "the submission was finished");
    pm2.wait("its feedback", || (pm2.grep("Feedback from").len() > answered).then_some(()));
    assert_eq!(outside.count("scoring_begun"), scoring + 1, "and not sent again");

    // And it goes on.
    let answered = pm2.grep("Feedback from").len();
    pm2.wait("the next feedback", || (pm2.grep("Feedback from").len() > answered).then_some(()));

    let pid = pm2.described()["pid"].as_u64().unwrap();
    pm2.run(&["stop", "sn17-miner"]);
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "the agent has ended");
    let described = pm2.described();
    assert_eq!(described["pm2_env"]["status"], "stopped");
    assert_eq!(described["pm2_env"]["exit_code"], 0, "{}", pm2.logged());
    assert_eq!(described["pm2_env"]["unstable_restarts"], 0);
    assert_eq!(pm2.grep(" INFO Stopped").len(), 3, "two restarts and a stop, each in its own time");

    let forbidden = outside.axon.ledger(|ledger| ledger.chronicle().forbidden());
    let counts: Vec<_> = outside.axon.ledger(|ledger| ledger.chronicle().counts().collect());
    assert_eq!(forbidden, 0, "{counts:?}");
    assert_eq!(outside.count("accepted") as usize, pm2.grep("Feedback from").len(), "{counts:?}");
    let errors = fs::read_to_string(pm2.pm2_home().join("logs/sn17-miner-error.log")).unwrap_or_default();
    assert_eq!(errors, "");

    pm2.run(&["kill"]);
    pm2.wait("the end of every process", || pm2.processes().is_empty().then_some(()));
    eprintln!("under pm2: {counts:?}");
}

#[test]
fn a_wrong_configuration_is_not_started_again_and_again() {
    let Some(command) = pm2_command() else { return };
    let pm2 = Pm2::new(command, "[network]\nnmae = \"finney\"\n");
    pm2.run(&["start", repository().join("scripts/ecosystem.config.cjs").to_str().unwrap()]);
    let said = || fs::read_to_string(pm2.pm2_home().join("pm2.log")).unwrap_or_default();
    pm2.wait("its end", || said().contains("exited with code [64]").then_some(()));
    // Three times the delay after which pm2 starts a crashed one again.
    std::thread::sleep(Duration::from_millis(1_500));
    let described = pm2.described();
    assert_eq!(
        (&described["pm2_env"]["exit_code"], &described["pm2_env"]["restart_time"]),
        (&64.into(), &0.into())
    );
    assert_eq!(said().matches("starting in -fork mode-").count(), 1, "{}", said());
    let errors = fs::read_to_string(pm2.pm2_home().join("logs/sn17-miner-error.log")).unwrap();
    assert!(errors.contains("network.nmae"), "{errors}");
}

/// The unit's settings, comments and sections left out.
fn unit_settings(text: &str) -> Vec<(&str, &str)> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with(['#', '[']))
        .map(|line| line.split_once('=').unwrap_or_else(|| panic!("`{line}` is no setting")))
        .collect()
}

#[test]
fn the_systemd_unit_is_valid_and_waits_longer_than_the_agent() {
    let text = fs::read_to_string(repository().join("scripts/sn17-miner.service")).unwrap();
    let settings = unit_settings(&text);
    let values = |name: &str| {
        settings.iter().filter(|(key, _)| *key == name).map(|(_, value)| *value).collect::<Vec<_>>()
    };
    let grace = values("Environment")
        .into_iter()
        .find_map(|value| value.strip_prefix("SN17_SHUTDOWN__GRACE="))
        .unwrap();
    let grace = humantime::parse_duration(grace).unwrap();
    assert!(
        Duration::from_secs(values("TimeoutStopSec")[0].parse().unwrap()) >= grace + Duration::from_secs(10)
    );
    assert!(values("ExecStart")[0].contains(" run "));
    // The agent's own names: a wrong one would keep it from starting.
    let checked = Command::new(env!("CARGO_BIN_EXE_sn17-miner"))
        .args(["config", "check"])
        .current_dir(tempfile::tempdir().unwrap().path())
        .envs(values("Environment").into_iter().filter_map(|value| value.split_once('=')))
        .output()
        .unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("skipped: systemd-analyze is missing, the unit was only parsed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("sn17-miner.service");
    fs::write(&unit, text.replace("/usr/local/bin/sn17-miner", env!("CARGO_BIN_EXE_sn17-miner"))).unwrap();
    let verified = Command::new("systemd-analyze").arg("verify").arg(&unit).output().unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    // It looks at the units of the machine as well.
    assert!(verified.status.success() && !said.contains("sn17-miner"), "{said}");
}
