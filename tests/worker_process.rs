//! Worker servers as processes of ours: real small children, real signals, real `/proc`.
//!
//! Children are shell scripts; whether one is "ready" is said by an HTTP server in this process, which
//! looks for a file that the script makes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use sn17_miner::clock::Clock;
use sn17_miner::net::Transport;
use sn17_miner::primitives::{ByteSize, MiB};
use sn17_miner::workers::{
    MemoryControl, MemoryDialect, MemorySettings, MemoryTimeouts, Premises, ProcessError, ProcessSettings,
    ProcessStamp, Variant, WorkerProcess,
};

const S: fn(u64) -> Duration = Duration::from_secs;

/// Longer than anything here takes; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder, and a worker in it.
struct Place {
    dir: tempfile::TempDir,
    settings: ProcessSettings,
    port: u16,
}

/// Does what the script says once it has set up what ends it.
fn sh(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

/// Stays until it is told to end. The blanks of a shell that waits are not in its way.
const STAY: &str = "touch ready; while :; do sleep 1000 & wait $!; done";

impl Place {
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let settings = ProcessSettings {
            command: sh(script),
            cwd: Some(dir.path().to_owned()),
            env: [("HF_TOKEN".to_owned(), "hf_very_secret_value".to_owned())].into(),
            start_timeout: PATIENCE,
            stop_timeout: PATIENCE,
            restarts_per_hour: 5,
            memory_fraction: Some(0.63),
            log_limit: ByteSize(64 << 10),
            variants: Vec::new(),
        };
        Self { dir, settings, port: free.local_addr().unwrap().port() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn worker(&self) -> WorkerProcess {
        let ready = self.path("ready");
        let transport = Transport::InProcess(Arc::new(move |_| {
            let ready = ready.exists();
            Box::pin(async move {
                if !ready {
                    return Err("connection refused".into());
                }
                let body = Full::new(Bytes::from_static(b"{}")).map_err(|never| match never {});
                Ok(http::Response::new(body.boxed_unsync()))
            })
        }));
        let clock = Clock::system();
        let settings = MemorySettings {
            name: "w".into(),
            endpoint: format!("http://127.0.0.1:{}", self.port).parse().unwrap(),
            dialect: MemoryDialect::Process,
            timeouts: MemoryTimeouts::default(),
        };
        let premises = Premises {
            folder: self.path("workers"),
            port: self.port,
            card: Some("GPU-1234".into()),
            control: MemoryControl::new(settings, transport, clock),
        };
        WorkerProcess::new("w", self.settings.clone(), premises, clock)
    }

    /// The number that a script wrote into a file.
    fn pid(&self, name: &str) -> ProcessStamp {
        let text = fs::read_to_string(self.path(name)).unwrap();
        ProcessStamp::of(text.trim().parse().unwrap()).unwrap()
    }
}

/// Waits for something that comes without our doing.
async fn until(what: &str, met: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !met() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn a_graceful_stop_lets_the_worker_end_by_itself() {
    let place = Place::new(&format!("trap 'echo bye > ended; exit 0' TERM; {STAY}"));
    let worker = place.worker();
    worker.start(None).await.unwrap();
    let tree = worker.tree().unwrap();
    assert_eq!(tree.group, Some(tree.roots[0].pid), "a group of its own");
    worker.stop().await.unwrap();
    assert_eq!(fs::read_to_string(place.path("ended")).unwrap(), "bye\n");
    assert!(tree.members().is_empty() && worker.tree().is_none());
    assert!(!place.path("workers/w.process").exists());
    // And again, as in every hand-off: no restart is counted.
    for _ in 0..7 {
        fs::remove_file(place.path("ready")).unwrap();
        worker.start(None).await.unwrap();
        worker.stop().await.unwrap();
    }
}

#[tokio::test]
async fn one_that_ignores_the_request_is_killed_with_its_whole_tree() {
    // One child leaves the group, one leaves its parent too.
    let mut place = Place::new(&format!(
        "trap '' TERM; echo $$ > root; \
         setsid sh -c \"trap '' TERM; echo \\$\\$ > actor; while :; do sleep 1000; done\" & \
         (setsid sh -c \"trap '' TERM; echo \\$\\$ > daemon; while :; do sleep 1000; done\" &) ; \
         while [ ! -s actor ] || [ ! -s daemon ]; do sleep 0.01; done; {STAY}"
    ));
    place.settings.stop_timeout = Duration::from_millis(300);
    let worker = place.worker();
    worker.start(None).await.unwrap();
    let all = [place.pid("root"), place.pid("actor"), place.pid("daemon")];
    let tree = worker.tree().unwrap();
    for process in all {
        assert!(process.is_alive() && tree.holds(process.pid) && tree.members().contains(&process));
    }
    worker.stop().await.unwrap();
    for process in all {
        assert!(!process.is_alive(), "{process:?}");
    }
}

#[tokio::test]
async fn what_an_agent_leaves_behind_is_found_by_the_next() {
    let place = Place::new(&format!("setsid sh -c 'echo $$ > actor; sleep 1000' & echo $$ > root; {STAY}"));
    let first = place.worker();
    first.start(None).await.unwrap();
    until("the actor", || fs::metadata(place.path("actor")).is_ok_and(|file| file.len() > 1)).await;
    let (root, actor) = (place.pid("root"), place.pid("actor"));
    // As after `kill -9`: nobody ends them, and the record stays.
    std::mem::forget(first);
    assert!(root.is_alive() && actor.is_alive());

    fs::remove_file(place.path("ready")).unwrap();
    let next = place.worker();
    next.start(None).await.unwrap();
    assert!(!root.is_alive() && !actor.is_alive());
    let new = next.tree().unwrap();
    assert!(new.roots[0] != root && new.roots[0].is_alive());
    next.stop().await.unwrap();
    assert!(!next.end_orphan().await.unwrap());
}

#[tokio::test]
async fn a_process_of_somebody_else_with_an_old_number_is_left_alone() {
    let place = Place::new(STAY);
    let mut stranger = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    let stamp = ProcessStamp::of(stranger.id()).unwrap();
    fs::create_dir_all(place.path("workers")).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let record = |started: u64, boot: &str| {
        format!(
            r#"{{"boot":"{}","roots":[{{"pid":{},"started":{started}}}],"group":{},"mark":"none"}}"#,
            boot.trim(),
            stamp.pid,
            stamp.pid
        )
    };
    for record in
        [record(stamp.started + 1, &boot), record(stamp.started, "another boot"), "nonsense".to_owned()]
    {
        fs::write(place.path("workers/w.process"), record).unwrap();
        assert!(!place.worker().end_orphan().await.unwrap());
        assert!(stamp.is_alive());
    }
    fs::write(place.path("workers/w.process"), record(stamp.started, &boot)).unwrap();
    assert!(place.worker().end_orphan().await.unwrap(), "it is ours by number and start");
    stranger.wait().unwrap();
}

#[tokio::test]
async fn a_childs_environment_holds_no_secret_of_ours() {
    // Set where the test binary runs itself again with secrets, as an agent has them.
    if std::env::var_os("CREW_TEST_INSIDE").is_none() {
        let inside = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_childs_environment_holds_no_secret_of_ours", "--nocapture"])
            .env("CREW_TEST_INSIDE", "1")
            .env("BT_PW__HOME_ROOT__BITTENSOR", "hunter2")
            .env("SN17_ALERTS__WEBHOOK", "https://discord.com/api/webhooks/1/hunter2")
            .env("AWS_SECRET_ACCESS_KEY", "hunter2")
            .env("LC_CREW", "harmless")
            .output()
            .unwrap();
        assert!(inside.status.success(), "{}", String::from_utf8_lossy(&inside.stdout));
        return;
    }
    // A file that whoever started us left open for children.
    let left_open = tempfile::tempfile().unwrap();
    rustix::io::fcntl_setfd(&left_open, rustix::io::FdFlags::empty()).unwrap();

    let place = Place::new(
        "env > environment; ls -l /proc/self/fd > descriptors; readlink /proc/self/fd/0 > input; touch ready; exec sleep 1000",
    );
    let worker = place.worker();
    worker.start(None).await.unwrap();
    let environment = fs::read_to_string(place.path("environment")).unwrap();
    worker.stop().await.unwrap();
    assert!(!environment.contains("hunter2"), "{environment}");
    for line in [
        "CUDA_VISIBLE_DEVICES=GPU-1234",
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
        "SN17_MEMORY_FRACTION=0.63",
        "HF_TOKEN=hf_very_secret_value",
        "LC_CREW=harmless",
    ] {
        assert!(environment.lines().any(|l| l == line), "{line} in {environment}");
    }
    assert!(!environment.contains("AWS_SECRET") && !environment.contains("BT_PW"));
    let descriptors = fs::read_to_string(place.path("descriptors")).unwrap();
    // Standard ones, and that of the listing itself.
    assert_eq!(descriptors.lines().filter(|line| line.contains(" -> ")).count(), 4, "{descriptors}");
    assert_eq!(fs::read_to_string(place.path("input")).unwrap(), "/dev/null\n");
}

#[tokio::test]
async fn its_output_goes_to_a_bounded_file_without_secrets() {
    let place = Place::new(
        "echo token is $HF_TOKEN; echo 'password=hunter2' >&2; \
         i=0; while [ $i -lt 9000 ]; do echo line $i of what a worker says; i=$((i+1)); done; \
         printf 'red \\033[31m\\n'; touch ready; exec sleep 1000",
    );
    let worker = place.worker();
    worker.start(None).await.unwrap();
    worker.stop().await.unwrap();
    let (log, older) = (place.path("workers/w.log"), place.path("workers/w.log.1"));
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("line 8999 of what") && text.contains("red \\u{1b}[31m"), "{text}");
    for file in [&log, &older] {
        assert!(fs::metadata(file).unwrap().len() <= 64 << 10);
        let text = fs::read_to_string(file).unwrap();
        assert!(!text.contains("hf_very") && !text.contains("hunter2"));
    }
    assert_eq!(files(&place.path("workers")), ["w.log", "w.log.1"]);

    let quiet =
        Place::new("echo token is $HF_TOKEN; echo 'password=hunter2' >&2; touch ready; exec sleep 1000");
    let worker = quiet.worker();
    worker.start(None).await.unwrap();
    worker.stop().await.unwrap();
    let text = fs::read_to_string(quiet.path("workers/w.log")).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["password=***", "token is ***"]);
}

fn files(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn one_that_is_never_ready_is_ended_after_its_time() {
    let mut place = Place::new("echo $$ > root; echo loading models; exec sleep 1000");
    place.settings.start_timeout = Duration::from_secs(3);
    let worker = place.worker();
    let error = worker.start(None).await.unwrap_err();
    assert!(
        matches!(&error, ProcessError::NotReady { within, .. } if *within == Duration::from_secs(3)),
        "{error}"
    );
    assert!(error.to_string().ends_with("its last words: loading models"), "{error}");
    let root = fs::read_to_string(place.path("root")).unwrap();
    assert!(ProcessStamp::of(root.trim().parse().unwrap()).is_none_or(|root| !root.is_alive()));
    assert!(worker.tree().is_none() && !place.path("workers/w.process").exists());
}

#[tokio::test]
async fn one_that_ends_at_once_says_why() {
    let place = Place::new("echo 'CUDA error: out of memory' >&2; exit 3");
    let error = place.worker().start(None).await.unwrap_err();
    assert!(matches!(&error, ProcessError::Ended { status, .. } if status.contains('3')), "{error}");
    assert!(error.to_string().contains("CUDA error: out of memory"), "{error}");
    let mut place = Place::new("");
    place.settings.command = vec!["/no/such/program".into()];
    let error = place.worker().start(None).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/program"), "{error}");
}

#[tokio::test]
async fn one_that_fails_too_often_is_left_alone() {
    let mut place = Place::new("echo . >> starts; exit 1");
    place.settings.restarts_per_hour = 0;
    let worker = place.worker();
    assert!(matches!(worker.start(None).await, Err(ProcessError::Ended { .. })));
    let refused = worker.start(None).await.unwrap_err();
    assert!(
        matches!(&refused, ProcessError::OutOfBudget { failures: 1, left } if *left > S(3_500)),
        "{refused}"
    );
    assert_eq!(fs::read_to_string(place.path("starts")).unwrap(), ".\n");
}

#[tokio::test]
async fn an_end_that_nobody_asked_for_is_noticed_and_leaves_nothing_behind() {
    let place = Place::new(&format!("setsid sh -c 'echo $$ > actor; sleep 1000' & echo $$ > root; {STAY}"));
    let worker = place.worker();
    worker.start(None).await.unwrap();
    until("the actor", || fs::metadata(place.path("actor")).is_ok_and(|file| file.len() > 1)).await;
    let actor = place.pid("actor");
    let mut deaths = worker.deaths();
    let pid = place.pid("root").pid.to_string();
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    tokio::time::timeout(PATIENCE, deaths.changed()).await.unwrap().unwrap();
    assert!(!actor.is_alive() && worker.tree().is_none());
    // And it can be started again, after a wait.
    worker.start(None).await.unwrap();
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn the_first_variant_that_fits_is_run() {
    let mut place = Place::new("");
    let variant = |name: &str, peak: u64| Variant {
        command: sh(&format!("echo {name} > variant; {STAY}")),
        resident: None,
        peak: Some(MiB(peak)),
    };
    place.settings.variants = vec![variant("full", 20_070), variant("half", 12_000), variant("tiny", 6_000)];
    for (room, name) in
        [(None, "full"), (Some(20_070), "full"), (Some(20_069), "half"), (Some(6_000), "tiny")]
    {
        let worker = place.worker();
        // That of the one before would speak for this one.
        fs::remove_file(place.path("ready")).ok();
        worker.start(room.map(MiB)).await.unwrap();
        assert_eq!(fs::read_to_string(place.path("variant")).unwrap().trim(), name);
        worker.stop().await.unwrap();
    }
    let refused = place.worker().start(Some(MiB(5_999))).await.unwrap_err();
    assert_eq!(refused.to_string(), "none of its variants fits: the least needs 6000 MiB, 5999 MiB are free");
}

#[tokio::test]
async fn a_port_that_somebody_else_has_is_not_fought_for() {
    let place = Place::new(STAY);
    let _stranger = std::net::TcpListener::bind(("127.0.0.1", place.port)).unwrap();
    let refused = place.worker().start(None).await.unwrap_err();
    assert!(matches!(refused, ProcessError::PortTaken(port) if port == place.port), "{refused}");
}

#[tokio::test]
async fn a_start_that_is_given_up_goes_on_and_a_retired_worker_is_not_started() {
    let place = Place::new("while [ ! -e go ]; do sleep 0.01; done; touch ready; exec sleep 1000");
    let worker = place.worker();
    let given_up = tokio::time::timeout(Duration::from_secs(2), worker.start(None)).await;
    assert!(given_up.is_err());
    let tree = worker.tree().unwrap();
    fs::write(place.path("go"), "").unwrap();
    worker.start(None).await.unwrap();
    assert_eq!(worker.tree().unwrap(), tree, "the same process");
    worker.retire();
    worker.stop().await.unwrap();
    assert!(matches!(worker.start(None).await, Err(ProcessError::Retired)));
    assert_eq!(fs::metadata(place.path("workers")).unwrap().permissions().mode() & 0o077, 0, "ours alone");
}
