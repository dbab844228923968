//! `doctor`: everything that mining needs, looked at one by one.
//!
//! Nothing here costs anything at a validator: none is asked for a task, and of workers only routes
//! without effects are asked (workers.md section 8). What depends on others has a time limit, and all
//! of it together stays under 15 s; only a password typed at the terminal may take longer.

mod cards;
mod local;
mod peers;
mod timekeeping;

use std::io::{self, Write};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::ExitStatus;
use super::layers::LayerArgs;
use super::run::{kept_data, peers, runtime, start_devnet, stop_devnet};
use crate::clock::Clock;
use crate::config::{DevnetSettings, Loaded, Settings};
use crate::wallet::Verdict;

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `doctor --json` prints.
#[derive(Debug, Serialize)]
struct Report {
    /// The worst of all.
    verdict: Verdict,
    network: &'static str,
    /// The validators asked are those of an embedded network, started for this.
    embedded: bool,
    /// In a fixed order.
    checks: Vec<Check>,
}

/// One thing looked at.
#[derive(Debug, Clone, Serialize)]
struct Check {
    /// What kind of thing, such as "endpoint".
    check: &'static str,
    /// Which one of its kind: an address, a file, a finding of the wallet's.
    subject: Option<String>,
    verdict: Verdict,
    message: String,
    /// What to do about it.
    advice: Option<String>,
    /// From the question to the answer.
    latency_ms: Option<u64>,
    /// How far its clock is ahead of ours: at least and at most.
    ahead_ms: Option<(i64, i64)>,
}

impl Check {
    fn new(check: &'static str, verdict: Verdict, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { check, subject: None, verdict, message, advice: None, latency_ms: None, ahead_ms: None }
    }

    fn pass(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Verdict::Pass, message)
    }

    fn warn(check: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..Self::new(check, Verdict::Warn, message) }
    }

    fn fail(check: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..Self::new(check, Verdict::Fail, message) }
    }

    fn of(self, subject: impl ToString) -> Self {
        Self { subject: Some(subject.to_string()), ..self }
    }

    fn taking(self, time: Duration) -> Self {
        Self { latency_ms: Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)), ..self }
    }
}

pub fn run(layers: &LayerArgs, args: &DoctorArgs) -> anyhow::Result<ExitStatus> {
    let loaded = layers.load()?;
    let report = runtime()?.block_on(examine(&loaded, Clock::system()))?;
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        show(&mut out, &report)?;
    }
    Ok(if report.verdict == Verdict::Fail { ExitStatus::Failure } else { ExitStatus::Done })
}

async fn examine(loaded: &Loaded, clock: Clock) -> anyhow::Result<Report> {
    // Beside a running embedded network this one takes ports of its own.
    let settings = Settings {
        devnet: DevnetSettings { base_port: 0, ..loaded.settings.devnet.clone() },
        ..loaded.settings.clone()
    };
    let data = kept_data(&settings)?;

    let (wallet, cards) = {
        let settings = settings.clone();
        // argon2 takes seconds of one core, and a driver that hangs as long.
        let look = move || (local::wallet(&settings), local::cards(&settings));
        tokio::task::spawn_blocking(look).await.context("look at the wallet")?
    };
    let devnet = match wallet.hotkey {
        Some(hotkey) => start_devnet(&settings, vec![hotkey], clock).await?,
        // It needs a miner to register, and any will do to look at the rest.
        None => {
            start_devnet(&settings, vec![*crate::wallet::HotkeyPair::dev("miner").hotkey()], clock).await?
        }
    };
    let places = peers(&settings, devnet.as_ref())?;

    let codec = tokio::task::spawn_blocking(|| vec![local::spz(), local::signature()]);
    let (network, generators, scorers, workers, agent, codec) = tokio::join!(
        peers::network(&settings, devnet.as_ref(), wallet.hotkey.as_ref(), data.as_deref(), clock),
        peers::generators(&settings, &places, clock),
        peers::scorers(&settings, &places, clock),
        cards::cards_and_workers(&settings, clock),
        local::agent(&settings, data.as_deref(), wallet.hotkey.as_ref(), &cards, &clock),
        codec,
    );

    let mut checks = vec![local::config(loaded)];
    checks.extend(wallet.checks);
    checks.extend(codec.context("try the codec")?);
    checks.push(local::disk(data.as_deref()));
    checks.extend(agent);
    checks.extend(network);
    checks.extend(generators);
    checks.extend(scorers);
    checks.extend(workers);
    if let Some(devnet) = devnet {
        stop_devnet(devnet, &tokio_util::sync::CancellationToken::new()).await;
    }
    let worst = |verdict| checks.iter().any(|check| check.verdict == verdict);
    let verdict = match (worst(Verdict::Fail), worst(Verdict::Warn)) {
        (true, _) => Verdict::Fail,
        (false, true) => Verdict::Warn,
        (false, false) => Verdict::Pass,
    };
    let network = settings.network.as_str();
    Ok(Report { verdict, network, embedded: settings.embeds_validators(), checks })
}

fn show(out: &mut impl Write, report: &Report) -> io::Result<()> {
    if report.embedded {
        writeln!(out, "Checked against an embedded development network, started for this and ended again.")?;
    }
    for check in &report.checks {
        let verdict = match check.verdict {
            Verdict::Pass => "pass",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        };
        let subject = check.subject.as_deref().map(|subject| format!("{subject}: ")).unwrap_or_default();
        let latency = check.latency_ms.map(|ms| format!(" ({ms} ms)")).unwrap_or_default();
        writeln!(out, "{verdict}  {:<12} {subject}{}{latency}", check.check, check.message)?;
        if let Some(advice) = &check.advice {
            writeln!(out, "      {:<12} -> {advice}", "")?;
        }
    }
    let count = |verdict| report.checks.iter().filter(|check| check.verdict == verdict).count();
    writeln!(
        out,
        "{} passed, {} warned, {} failed",
        count(Verdict::Pass),
        count(Verdict::Warn),
        count(Verdict::Fail)
    )
}
