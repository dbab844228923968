//! `status`: how the agent stands, by the agent itself or by its memory.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::ExitStatus;
use super::feedback::NothingToRead;
use super::layers::LayerArgs;
use super::run::{kept_data, runtime};
use crate::api::{FeedbackLine, HotkeyStatus, LaneStatus, RegistrationStatus, Status, ask};
use crate::chain::Link;
use crate::clock::Clock;
use crate::config::Settings;
use crate::mining::CardActivity;
use crate::primitives::{Hotkey, UnixTime};
use crate::store::Outcome;
use crate::wallet::WalletSettings;

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(layers: &LayerArgs, args: &StatusArgs) -> anyhow::Result<ExitStatus> {
    let settings = layers.load()?.settings;
    let data = kept_data(&settings)?.ok_or(NothingToRead::Temporary)?;
    let status = runtime()?.block_on(look(&settings, &data, Clock::system()))?;
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &status)?;
        writeln!(out)?;
    } else {
        show(&mut out, &status, &data)?;
    }
    Ok(if status.process.is_some() { ExitStatus::Done } else { ExitStatus::Failure })
}

async fn look(settings: &Settings, data: &Path, clock: Clock) -> anyhow::Result<Status> {
    let asked = ask(data, &clock).await;
    match asked.with_context(|| format!("ask the agent of {}", data.display())) {
        Ok(Some(status)) => return Ok(status),
        Ok(None) => {}
        // Its memory tells nearly as much.
        Err(error) => eprintln!("warning: an agent runs and gives no status: {error:#}"),
    }
    let remembered = Status::remembered(data, settings, public_hotkeys(settings), clock.now()).await;
    Ok(remembered.map_err(NothingToRead::from)?)
}

/// The wallet's hotkeys by their public files, if all have one: a status needs no password.
fn public_hotkeys(settings: &Settings) -> Vec<Hotkey> {
    let public = |wallet: WalletSettings| wallet.paths().ok()?.read_hotkey_public().ok()?;
    settings.wallets().map(public).collect::<Option<_>>().unwrap_or_default()
}

fn show(out: &mut impl Write, status: &Status, data: &Path) -> io::Result<()> {
    let Status { at, version, process, hotkeys, network, netuid, chain, .. } = status;
    match process {
        Some(process) => writeln!(
            out,
            "agent         running as process {} for {} (version {version})",
            process.pid,
            span(at.saturating_since(process.started_at))
        )?,
        None => writeln!(out, "agent         not running; by its memory in {}", data.display())?,
    }
    writeln!(out, "network       {network}, subnet {netuid}")?;
    if hotkeys.is_empty() {
        writeln!(out, "hotkey        unknown")?;
    }
    for HotkeyStatus { hotkey, registration, paused_until } in hotkeys {
        writeln!(out, "hotkey        {hotkey}")?;
        show_registration(out, registration)?;
        if let Some(until_then) = paused_until {
            writeln!(
                out,
                "              PAUSED, {} more: another process seems to use this hotkey",
                span(until_then.saturating_since(*at))
            )?;
        }
    }
    match &chain.link {
        None => {}
        Some(Link::Connecting) => writeln!(out, "chain         connecting")?,
        Some(Link::Up { node, block, .. }) => writeln!(out, "chain         {node} at block {block}")?,
        Some(Link::Down { reason, failures, retry_at, .. }) => writeln!(
            out,
            "chain         unreadable, {failures} in a row, again {}: {reason}",
            until(*retry_at, *at)
        )?,
    }
    if let Some(metagraph) = &chain.metagraph {
        writeln!(
            out,
            "metagraph     block {}, {} old, {} neurons; {:.1} % of the validators' stake is asked",
            metagraph.block,
            span(Duration::from_secs(metagraph.age_s)),
            metagraph.neurons,
            100.0 * metagraph.stake_coverage
        )?;
    }
    for card in &status.cards {
        let state = match card.state {
            CardActivity::Idle => "idle",
            CardActivity::Generating => "generating",
            CardActivity::Scoring => "scoring",
            CardActivity::Gone => "GONE: it refuses connections and nothing is pulled for it",
        };
        writeln!(out, "generator     {} on card {}: {state}", card.generator, card.card)?;
    }
    if let Some(economy) = &status.economy {
        writeln!(
            out,
            "worth         lane {:.1}/h, card {:.1}/h; {} lanes, {:.1} keep the cards busy; submit from {:.0} % on",
            economy.lane_price_per_hour,
            economy.card_price_per_hour,
            economy.lanes,
            economy.saturation,
            100.0 * economy.gate
        )?;
    }
    if let Some(ended) = status.ended {
        writeln!(out, "tasks         {ended} ended since the start")?;
    }
    if !status.lanes.is_empty() {
        writeln!(
            out,
            "\n  uid  validator         address                due         accepted in 4h  clock      task"
        )?;
    }
    for lane in &status.lanes {
        show_lane(out, lane, *at)?;
    }
    if !status.feedback.is_empty() {
        writeln!(out, "\nlast replies")?;
    }
    for line in &status.feedback {
        show_feedback(out, line)?;
    }
    Ok(())
}

fn show_registration(out: &mut impl Write, registration: &RegistrationStatus) -> io::Result<()> {
    match registration {
        RegistrationStatus::Unknown => writeln!(out, "registration  unknown"),
        RegistrationStatus::NotRegistered { how_to_register } => {
            writeln!(out, "registration  NOT REGISTERED; to register: {how_to_register}")
        }
        RegistrationStatus::Registered { uid, place: None } => writeln!(out, "registration  uid {uid}"),
        RegistrationStatus::Registered { uid, place: Some(place) } => {
            let immunity = match place.immunity_blocks_left {
                None => String::new(),
                Some(0) => "; no longer immune".to_owned(),
                Some(blocks) => format!("; immune for {blocks} blocks"),
            };
            writeln!(
                out,
                "registration  uid {uid}, rank {} of {}, incentive {:.5}, emission {:.4} alpha{immunity}",
                place.rank,
                place.neurons,
                place.incentive,
                place.emission_rao.0 as f64 / 1e9
            )
        }
    }
}

fn show_lane(out: &mut impl Write, lane: &LaneStatus, now: UnixTime) -> io::Result<()> {
    let uid = lane.uid.map_or_else(|| "?".into(), |uid| uid.to_string());
    let validator: String = lane.validator.chars().take(15).collect();
    let address = lane.address.as_deref().unwrap_or("unknown");
    let window = lane.window_count.map_or_else(|| "?".into(), |count| count.to_string());
    let clock = lane.clock_ahead_ms.map_or_else(|| "?".into(), |ms| format!("{:+.1}s", ms as f64 / 1e3));
    let task = match &lane.task {
        None => String::new(),
        Some(task) => {
            let short: String = task.id.chars().take(10).collect();
            format!(
                "{} {short} ({}, for {})",
                task.state,
                task.kind,
                span(now.saturating_since(task.pulled_at))
            )
        }
    };
    let leaving = if lane.leaving { "leaving " } else { "" };
    let demoted = if lane.demoted { "demoted " } else { "" };
    let line = format!(
        "{uid:>5}  {validator:<15}…  {address:<21}  {:<10}  {window:>14}  {clock:<9}  {leaving}{demoted}{task}",
        until(lane.due, now)
    );
    writeln!(out, "{}", line.trim_end())?;
    match &lane.decision {
        Some(decision) => writeln!(out, "{:26}{decision}", ""),
        None => Ok(()),
    }
}

fn show_feedback(out: &mut impl Write, line: &FeedbackLine) -> io::Result<()> {
    let uid = line.uid.map_or_else(|| "?".into(), |uid| uid.to_string());
    let score = match line.outcome {
        Outcome::Empty => "empty".into(),
        _ if line.validation_failed => "failed".into(),
        _ => format!("{:.4}", line.score),
    };
    let prompt = line.prompt.as_deref().unwrap_or("image");
    writeln!(
        out,
        "{} {:>5} score {score:<6} average {:.4} outcome={} ({prompt})",
        line.received_at,
        format!("[{uid}]"),
        line.average_score,
        line.outcome
    )
}

/// Whole seconds; a day or more without them.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let coarse = if seconds >= 86_400 { seconds - seconds % 60 } else { seconds };
    humantime::format_duration(Duration::from_secs(coarse)).to_string()
}

fn until(due: UnixTime, now: UnixTime) -> String {
    if due <= now {
        "now".to_owned()
    } else {
        format!("in {}", span(due.saturating_since(now) + Duration::from_millis(999)))
    }
}
