//! What can be looked at without asking anybody else's machine.

use std::collections::BTreeMap;
use std::path::Path;

use super::Check;
use crate::api::{AskError, ask};
use crate::app::{card_lock_name, cards_to_lock};
use crate::clock::Clock;
use crate::config::{Loaded, Origin, Settings, WorkerUrl};
use crate::primitives::{CardId, Hotkey};
use crate::splat::{Gaussian, ShDegree, Splat, Spz, SpzEncoder};
use crate::store::{LockError, ProcessLock, runtime_dir};
use crate::wallet::{
    self, HotkeyPair, PasswordSources, Signable, Signature, Verdict, inspect, verify, verify_message,
};

/// Where the settings come from.
pub(super) fn config(loaded: &Loaded) -> Check {
    let mut origins: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for line in &loaded.resolved {
        if line.origin != Origin::Default {
            origins.entry(line.origin.to_string()).or_default().push(&line.key);
        }
    }
    let file = match &loaded.file {
        Some(file) => format!("{} is fine", file.display()),
        None => "no file, the defaults apply".to_owned(),
    };
    let changed: Vec<String> =
        origins.iter().map(|(origin, keys)| format!("{} by {origin}", keys.join(", "))).collect();
    let changed = if changed.is_empty() { String::new() } else { format!("; set: {}", changed.join("; ")) };
    Check::pass("config", format!("{file}{changed}"))
}

/// What was found of the wallet.
#[derive(Debug)]
pub(super) struct WalletFindings {
    pub checks: Vec<Check>,
    /// As far as it could be made out.
    pub hotkey: Option<Hotkey>,
}

/// Blocking: opens the key file.
pub(super) fn wallet(settings: &Settings) -> WalletFindings {
    if settings.embeds_validators() && settings.uses_example_wallet() && !settings.wallet.path.exists() {
        let hotkey = *HotkeyPair::dev("miner").hotkey();
        let message = format!("the example key {hotkey}, which comes with the program");
        return WalletFindings { checks: vec![Check::pass("wallet", message)], hotkey: Some(hotkey) };
    }
    let findings = inspect(&settings.wallet, &PasswordSources::of_process());
    let address = |wanted: wallet::Check| {
        let found =
            findings.iter().find(|finding| finding.check == wanted && finding.verdict == Verdict::Pass);
        found.and_then(|finding| finding.message.parse::<Hotkey>().ok())
    };
    let hotkey = address(wallet::Check::Key).or_else(|| address(wallet::Check::PublicFile));
    let checks = findings.into_iter().map(|finding| {
        let throwaway = finding.check == wallet::Check::Throwaway;
        let check = match finding.verdict {
            // The development network is what it is for.
            Verdict::Warn if throwaway && !settings.is_public() => Check::pass("wallet", finding.message),
            Verdict::Warn if throwaway => Check::fail(
                "wallet",
                finding.message,
                "name your own: wallet.path, wallet.name, wallet.hotkeys",
            ),
            verdict => Check::new("wallet", verdict, finding.message),
        };
        check.of(finding.check)
    });
    WalletFindings { checks: checks.collect(), hotkey }
}

/// A cloud through the encoder and the reference rules back again.
pub(super) fn spz() -> Check {
    const POINTS: u16 = 512;
    let mut cloud = Splat::new(ShDegree::default());
    for n in 0..POINTS {
        let at = f32::from(n) / f32::from(POINTS);
        cloud.push(Gaussian {
            position: [at, -at, 0.5],
            log_scale: [-4.0; 3],
            rotation: [1.0, 0.0, 0.0, 0.0],
            logit_opacity: 2.0,
            f_dc: [at, 0.0, -at],
        });
    }
    let back = SpzEncoder::default()
        .encode(&cloud)
        .map_err(|error| error.to_string())
        .and_then(|spz| Spz::parse(spz.into_bytes(), 1 << 20).map_err(|error| error.to_string()))
        .and_then(|spz| spz.to_splat().map_err(|error| error.to_string()));
    let advice = "this build is broken: build or download it again";
    match back {
        Err(error) => Check::fail("spz", format!("a test cloud did not survive: {error}"), advice),
        Ok(back) => {
            // Positions have 12 fractional bits.
            let near = |a: &Gaussian, b: &Gaussian| {
                a.position.iter().zip(&b.position).all(|(a, b)| (a - b).abs() <= 1.0 / 4096.0)
            };
            let same = back.len() == cloud.len()
                && back.gaussians().iter().zip(cloud.gaussians()).all(|(a, b)| near(a, b));
            if same {
                Check::pass("spz", format!("{POINTS} Gaussians encoded and decoded again"))
            } else {
                Check::fail("spz", "a test cloud came back changed", advice)
            }
        }
    }
}

/// A signature by the reference software (vectors/signatures.json, case "ascii_prompt").
const GOLDEN: (&[u8], &str, &str) = (
    b"a red cube on a wooden table",
    "5EtaiguVmKZ9Vewv7HkS86hWTS8Lf4twTSADg29PH5rM5Wng",
    "0x261223e4fd3c7b35cfed35dd2e9a7dee020a965ac58a38f527537a0c2008a05a94ad06d29f95bb5bb7ee2f05398b29bac738a9f6a2facb02ba2b0e5a20404a8e",
);

/// Signing and verifying, against ourselves and against the reference software.
pub(super) fn signature() -> Check {
    let pair = HotkeyPair::dev("doctor");
    let message = Signable::Synapse {
        nonce: 1,
        dendrite: pair.hotkey(),
        axon: pair.hotkey(),
        uuid: "doctor",
        body_hash: "",
    };
    let own = pair.sign(&message);
    let flipped = |signature: &Signature| {
        let mut bytes = signature.0;
        bytes[0] ^= 1;
        Signature(bytes)
    };
    let (text, signer, golden) = GOLDEN;
    let golden = signer.parse::<Hotkey>().ok().zip(Signature::from_hex_0x(golden).ok());
    let sound = verify(&message, &own, pair.hotkey())
        && !verify(&message, &flipped(&own), pair.hotkey())
        && golden.is_some_and(|(signer, golden)| {
            verify_message(text, &golden, &signer) && !verify_message(text, &flipped(&golden), &signer)
        });
    if sound {
        Check::pass("signature", "ours and one of the reference software verify, changed ones do not")
    } else {
        Check::fail(
            "signature",
            "signatures are not made or verified as the subnet does",
            "this build is broken: build or download it again",
        )
    }
}

/// Results are kept for a week and have a few MiB each.
const DISK_WARN: u64 = 2 << 30;
const DISK_FAIL: u64 = 256 << 20;

/// Space where the agent remembers.
pub(super) fn disk(data: Option<&Path>) -> Check {
    let temporary = std::env::temp_dir();
    let dir = data.unwrap_or(&temporary);
    // It is made by the first run.
    let Some(there) = dir.ancestors().find(|dir| dir.exists()) else {
        return Check::fail("disk", "no part of the path exists", "set paths.data").of(dir.display());
    };
    let check = match rustix::fs::statvfs(there) {
        Err(error) => Check::fail("disk", format!("cannot be asked: {error}"), "set paths.data"),
        Ok(space) => {
            let free = space.f_bavail.saturating_mul(space.f_frsize);
            let message = format!("{:.1} GiB free", free as f64 / f64::from(1 << 30));
            let advice = "make room, shorten store.keep_results, or set paths.data to another disk";
            if free < DISK_FAIL {
                Check::fail("disk", message, advice)
            } else if free < DISK_WARN {
                Check::warn("disk", message, advice)
            } else {
                Check::pass("disk", message)
            }
        }
    };
    check.of(dir.display())
}

/// The cards that an agent locks. Blocking: asks the driver.
pub(super) fn cards(settings: &Settings) -> Vec<CardId> {
    if settings.generator.url == WorkerUrl::Devnet { Vec::new() } else { cards_to_lock(settings) }
}

/// Whether an agent runs, and whether its locks are held by somebody else.
pub(super) async fn agent(
    settings: &Settings,
    data: Option<&Path>,
    hotkey: Option<&Hotkey>,
    cards: &[CardId],
    clock: &Clock,
) -> Vec<Check> {
    let running = match data {
        None => Ok(None),
        Some(data) => ask(data, clock).await,
    };
    let pid = running.as_ref().ok().and_then(|status| Some(status.as_ref()?.process.as_ref()?.pid));
    let mut checks = vec![match (&running, pid) {
        (_, Some(pid)) => Check::pass("agent", format!("running as process {pid}")),
        (Ok(_), None) if data.is_none() => {
            Check::pass("agent", "not looked for: on the embedded network nobody else finds it")
        }
        (Ok(_), None) => Check::pass("agent", "not running"),
        (Err(AskError::Closed(error)), _) => Check::warn(
            "agent",
            format!("its socket cannot be opened: {error}"),
            "run this as the agent's user",
        ),
        (Err(error), _) => {
            Check::warn("agent", format!("it gives no status: {error}"), "look at its log, or restart it")
        }
    }];
    let runtime = runtime_dir();
    let mut locks: Vec<(&Path, String, &'static str)> = Vec::new();
    if let Some(data) = data {
        locks.push((data, "agent".to_owned(), "data directory"));
    }
    if let Some(hotkey) = hotkey.filter(|_| !settings.embeds_validators()) {
        locks.push((runtime.as_path(), format!("hotkey-{hotkey}"), "hotkey"));
    }
    locks.extend(cards.iter().map(|card| (runtime.as_path(), card_lock_name(card), "card")));
    for (dir, name, what) in locks {
        checks.push(lock(ProcessLock::holder(dir, &name), what, pid));
    }
    checks
}

fn lock(holder: Result<Option<String>, LockError>, what: &'static str, agent: Option<u32>) -> Check {
    match holder {
        Ok(None) => Check::pass("lock", "free"),
        Ok(Some(holder)) if agent.is_some_and(|agent| agent.to_string() == holder) => {
            Check::pass("lock", "held by the running agent")
        }
        Ok(Some(holder)) => Check::warn(
            "lock",
            format!("held by process {holder}"),
            "a second agent cannot start with it: stop that process, or use another",
        ),
        Err(error) => Check::warn("lock", error.to_string(), "look at the rights of that file"),
    }
    .of(what)
}
