//! Seeded random hostile replies from fake axons and workers against the real binary over loopback:
//! no crash, no hang beyond the limits, memory bounded, and honest work goes on in between.
//!
//! What the n-th hostile reply is follows from the seed and n; which request it answers depends on
//! time. `SN17_SEED` sets the seed, `SN17_HOSTILE` the size of the campaign.

#[path = "support/hostile_lies.rs"]
mod lies;
#[path = "support/hostile_peer.rs"]
mod peer;
#[path = "support/hostile_world.rs"]
mod world;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use lies::{Site, lie};
use peer::{Act, Heard, Peer, Spoken, honest};
use sn17_miner::clock::Clock;
use sn17_miner::devnet::axon::{DevAxon, DevAxonSettings};
use sn17_miner::devnet::axon_judge::AxonJudge;
use sn17_miner::devnet::generator::{DevGenerator, DevGeneratorSettings};
use sn17_miner::devnet::rules::ValidatorRules;
use sn17_miner::devnet::scorer::{DevScorer, DevScorerSettings};
use sn17_miner::devnet::tasks::TaskMaker;
use sn17_miner::primitives::Uid;
use sn17_miner::wallet::HotkeyPair;

/// Resident memory the agent may ever have, in KiB.
const MOST_MEMORY: u64 = 200 << 10;

/// Longest time without a call from the agent: its longest limit is 2 s, and of so many validators
/// one is always due soon.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);

/// Validators. Those that a lie has sent into a long backoff or cooldown leave the rest to ask.
const VALIDATORS: u16 = 48;

/// Hostile replies to one process; a new one with an empty memory takes the next.
const PER_PROCESS: usize = 250;

/// Share of hostile replies.
const HOSTILE: f64 = 0.4;

/// What the fakes share.
struct Campaign {
    seed: u64,
    /// Hostile replies that may still be given in this round.
    left: AtomicUsize,
    given: AtomicUsize,
    calls: AtomicU64,
}

impl Campaign {
    /// The reply to one request: honest, or the next lie.
    async fn reply(&self, site: Site, router: &axum::Router, heard: Heard) -> Vec<Act> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let spoken = honest(router, heard).await;
        let hostile = lies::chance(self.seed ^ call, HOSTILE);
        let taken = |left: usize| left.checked_sub(1);
        if !hostile || self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, taken).is_err() {
            return vec![Act::Send(spoken.bytes())];
        }
        let number = self.given.fetch_add(1, Ordering::AcqRel);
        lie(self.seed, number as u64, site, &spoken)
    }
}

async fn fake(campaign: &Arc<Campaign>, site: Site, router: axum::Router) -> Peer {
    let campaign = Arc::clone(campaign);
    Peer::start(Arc::new(move |heard: Heard| {
        let (campaign, router) = (Arc::clone(&campaign), router.clone());
        let site = match (site, heard.path.as_str()) {
            (Site::Generator, "/health") => Site::Health,
            (Site::Pull, "/SubmitResults") => Site::Submit,
            (site, _) => site,
        };
        Box::pin(async move { campaign.reply(site, &router, heard).await })
    }))
    .await
}

/// What a campaign measured.
#[derive(Debug, Default)]
struct Measured {
    given: usize,
    calls: u64,
    booked: u64,
    peak_kib: u64,
}

/// The highest resident memory of a process so far, in KiB; nothing when it is gone.
fn peak_memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn configuration(data: &Path, generator: &Peer, scorer: &Peer, validators: &[(DevAxon, Peer)]) -> String {
    let mut text = format!(
        "[paths]\ndata = \"{}\"\n\
         [dendrite]\nconnect_timeout = \"1s\"\npull_timeout = \"1s\"\nsubmit_timeout = \"2s\"\n\
         pull_reply_limit = \"1MiB\"\nsubmit_reply_limit = \"64KiB\"\n\
         [rules]\ncooldown = \"1s\"\nlock = \"0s\"\n\
         [decide]\nmax_retries = 1\n",
        data.display()
    );
    for (role, peer) in [("generator", generator), ("scorer", scorer)] {
        text.push_str(&format!(
            "[[workers]]\nname = \"{role}\"\nrole = \"{role}\"\nurl = \"http://{}\"\nconnect_timeout = \"1s\"\n\
             first_byte_timeout = \"2s\"\ntotal_timeout = \"2s\"\nbody_limit = \"8MiB\"\n",
            peer.address
        ));
    }
    for (uid, (axon, peer)) in validators.iter().enumerate() {
        text.push_str(&format!(
            "[[validators]]\nhotkey = \"{}\"\naddress = \"{}\"\nuid = {uid}\n",
            axon.hotkey(),
            peer.address
        ));
    }
    text
}

/// One process of the agent among `count` hostile replies.
async fn round(campaign: &Arc<Campaign>, count: usize) -> Measured {
    let clock = Clock::system();
    let before = campaign.given.load(Ordering::Acquire);
    let calls_before = campaign.calls.load(Ordering::Relaxed);
    let rules = ValidatorRules {
        cooldown: Duration::from_secs(1),
        throttle: Duration::ZERO,
        penalty: Duration::ZERO,
        lock: Duration::ZERO,
        ..ValidatorRules::fast()
    };
    let mut validators = Vec::new();
    for number in 0..VALIDATORS {
        let seed = campaign.seed.wrapping_add(u64::from(number));
        let settings = DevAxonSettings {
            rules,
            judge: AxonJudge { seed, noise: 0.0 }.into(),
            ..DevAxonSettings::default()
        };
        let key = HotkeyPair::dev(&format!("validator-{number}"));
        let axon = DevAxon::new(key, clock, settings, TaskMaker::new(seed, 0.2));
        axon.register(Uid(100), *HotkeyPair::dev("miner").hotkey());
        let peer = fake(campaign, Site::Pull, axon.router()).await;
        validators.push((axon, peer));
    }
    let generator = DevGeneratorSettings { gaussians: 20_000, ..DevGeneratorSettings::default() };
    let generator = fake(campaign, Site::Generator, DevGenerator::new(generator, clock).router()).await;
    let scorer = DevScorer::new(DevScorerSettings::default(), clock);
    let scorer = fake(campaign, Site::Scorer, scorer.router()).await;
    campaign.left.store(count, Ordering::Release);

    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("config.toml");
    let text = configuration(&home.path().join("data"), &generator, &scorer, &validators);
    std::fs::write(&config, text).unwrap();
    let log = home.path().join("log");
    let output = std::fs::File::create(&log).unwrap();
    let mut agent = Command::new(env!("CARGO_BIN_EXE_sn17-miner"))
        .args(["run", "--config"])
        .arg(&config)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .env("HOME", home.path())
        .env("XDG_RUNTIME_DIR", home.path())
        .stdin(Stdio::null())
        .stderr(output.try_clone().unwrap())
        .stdout(output)
        .spawn()
        .unwrap();

    let booked = |validators: &[(DevAxon, Peer)]| -> u64 {
        let of = |axon: &DevAxon| {
            axon.ledger(|ledger| {
                ["accepted", "low", "empty"].map(|name| ledger.chronicle().count(name)).iter().sum::<u64>()
            })
        };
        validators.iter().map(|(axon, _)| of(axon)).sum()
    };
    let tail = || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    };
    let mut measured = Measured::default();
    let mut last = (campaign.calls.load(Ordering::Relaxed), clock.instant());
    let mut booked_at_the_end = None;
    let goes_on = loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if let Some(status) = agent.try_wait().unwrap() {
            panic!("seed {}: the agent ended with {status}:\n{}", campaign.seed, tail());
        }
        measured.peak_kib = measured.peak_kib.max(peak_memory(agent.id()).unwrap_or(0));
        if campaign.left.load(Ordering::Acquire) == 0 {
            // After the last lie honest work goes on.
            let now = booked(&validators);
            if now > *booked_at_the_end.get_or_insert(now) {
                break true;
            }
        }
        let calls = campaign.calls.load(Ordering::Relaxed);
        if calls != last.0 {
            last = (calls, clock.instant());
        } else if last.1.elapsed() > LONGEST_SILENCE {
            break false;
        }
    };
    let stopped = Command::new("kill").args(["-INT", &agent.id().to_string()]).status().unwrap();
    assert!(stopped.success());
    let ended = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            if let Some(status) = agent.try_wait().unwrap() {
                break status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let Ok(status) = ended.await else {
        agent.kill().ok();
        panic!("seed {}: the agent does not stop:\n{}", campaign.seed, tail());
    };
    assert!(goes_on, "seed {}: the agent is silent:\n{}", campaign.seed, tail());
    assert!(status.success(), "seed {}: {status}\n{}", campaign.seed, tail());
    let text = std::fs::read(&log).unwrap();
    for line in std::str::from_utf8(&text).expect("the log is UTF-8").lines() {
        world::assert_harmless(line);
        // An alarm tells that a worker is of no use, which is true.
        let is_error = line.contains("ERROR") && !line.contains("alarm=");
        assert!(!line.contains("panicked") && !is_error, "seed {}: {line}", campaign.seed);
    }
    measured.booked = booked(&validators);
    measured.given = campaign.given.load(Ordering::Acquire) - before;
    measured.calls = campaign.calls.load(Ordering::Relaxed) - calls_before;
    measured
}

async fn campaign(count: usize) {
    let seed = std::env::var("SN17_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(17);
    let clock = Clock::system();
    let started = clock.instant();
    let campaign = Arc::new(Campaign {
        seed,
        left: AtomicUsize::new(0),
        given: AtomicUsize::new(0),
        calls: AtomicU64::new(0),
    });
    let mut total = Measured::default();
    while total.given < count {
        let measured = round(&campaign, (count - total.given).min(PER_PROCESS)).await;
        total.given += measured.given;
        total.calls += measured.calls;
        total.booked += measured.booked;
        total.peak_kib = total.peak_kib.max(measured.peak_kib);
    }
    println!("SN17_SEED={seed}");
    assert_eq!(total.given, count);
    assert!(total.peak_kib <= MOST_MEMORY, "seed {seed}: {} KiB resident", total.peak_kib);
    println!(
        "RESULT {} hostile replies among {} calls, {} tasks booked, no crash, no hang, peak resident {} MiB, {:.0} s",
        total.given,
        total.calls,
        total.booked,
        total.peak_kib.div_ceil(1024),
        started.elapsed().as_secs_f64(),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_random_hostile_replies() {
    campaign(60).await;
}

/// `SN17_HOSTILE=1000 cargo test --release --test hostile_campaign -- --ignored --exact hostile_campaign --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the full size, by scripts/campaign.sh hostile"]
async fn hostile_campaign() {
    let size = std::env::var("SN17_HOSTILE").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000);
    campaign(size).await;
}

#[test]
fn every_kind_of_lie_is_told() {
    let valid = Spoken::new(200, "application/json", r#"{"task":{"id":"1"},"cooldown_until":0}"#);
    for site in [Site::Pull, Site::Submit, Site::Generator, Site::Scorer, Site::Health] {
        let kinds: std::collections::BTreeSet<_> =
            (0..600).map(|number| lies::kind(17, number, site)).collect();
        assert_eq!(kinds.len(), lies::kinds(site), "{site:?}");
        for number in 0..200 {
            let (once, again) = (lie(17, number, site, &valid), lie(17, number, site, &valid));
            assert_eq!(format!("{once:?}"), format!("{again:?}"), "the seed decides");
        }
    }
}
