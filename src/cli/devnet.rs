//! `devnet`: the development network for other programs.

mod worker;

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;

use super::ExitStatus;
use super::layers::LayerArgs;
use super::run::{runtime, start_log, stop_devnet};
use super::stop::StopSignals;
use crate::clock::Clock;
use crate::config::Settings;
use crate::devnet::network::{Devnet, NetworkSettings};
use crate::devnet::rules::ValidatorRules;
use crate::primitives::Hotkey;
use crate::telemetry::Sink;
use crate::wallet::HotkeyPair;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DevnetArgs {
    #[command(subcommand)]
    part: Option<DevnetPart>,
    /// The short times of the [devnet] settings in place of the real validators' (300 s cooldown)
    #[arg(long)]
    fast: bool,
    /// First of the ports: generator, scorer, chain, validators; 0 for any that are free
    #[arg(long, value_name = "PORT", default_value_t = 17_000)]
    base_port: u16,
    /// The chain makes no new blocks, so that what it says stays the same
    #[arg(long)]
    freeze_blocks: bool,
    /// Register another hotkey, besides the development miner's
    #[arg(long, value_name = "ADDRESS")]
    register: Vec<Hotkey>,
    /// At the end write what happened to FILE, as JSON: events, bookings and open tasks of each validator
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// A part of the development network by itself.
#[derive(Debug, Subcommand)]
enum DevnetPart {
    /// Serve one worker on a card that is a ledger in a file: a generator, a scorer or an engine, with its verbs for
    /// memory and whatever goes wrong with it
    Worker(Box<worker::WorkerArgs>),
}

pub fn run(layers: &LayerArgs, args: &DevnetArgs) -> anyhow::Result<ExitStatus> {
    let settings = layers.load()?.settings;
    let clock = Clock::system();
    start_log(&settings, Sink::Stderr, clock);
    match &args.part {
        Some(DevnetPart::Worker(args)) => worker::run(args, clock),
        None => runtime()?.block_on(serve(&settings, args, clock)),
    }
}

async fn serve(settings: &Settings, args: &DevnetArgs, clock: Clock) -> anyhow::Result<ExitStatus> {
    let signals = StopSignals::listen().context("listen for signals")?;
    let constants = &settings.devnet;
    let rules = if args.fast {
        ValidatorRules {
            cooldown: constants.cooldown,
            throttle: constants.throttle,
            penalty: constants.penalty,
            lock: constants.lock,
            ..ValidatorRules::default()
        }
    } else {
        ValidatorRules::default()
    };
    let mut miners = vec![*HotkeyPair::dev("miner").hotkey()];
    for hotkey in &args.register {
        if !miners.contains(hotkey) {
            miners.push(*hotkey);
        }
    }
    let network = NetworkSettings {
        validators: constants.validators,
        rules,
        scoring: constants.scoring,
        image_share: constants.image_share,
        seed: if constants.seed == 0 { u64::from(rand::random::<u32>()) + 1 } else { constants.seed },
        base_port: args.base_port,
        miners: miners.clone(),
        freeze_blocks: args.freeze_blocks,
    };
    let devnet = Devnet::new(&network, clock);
    let served = devnet.serve().await?;
    let validators: Vec<_> = served
        .validators
        .iter()
        .map(|(hotkey, address, uid)| json!({"uid": uid, "hotkey": hotkey, "address": address}))
        .collect();
    let registered: Vec<_> = (constants.validators..)
        .zip(&miners)
        .map(|(uid, hotkey)| json!({"uid": uid, "hotkey": hotkey}))
        .collect();
    let description = json!({
        "netuid": settings.netuid,
        "seed": network.seed,
        "cooldown_s": rules.cooldown.as_secs_f64(),
        "throttle_s": rules.throttle.as_secs_f64(),
        "penalty_s": rules.penalty.as_secs_f64(),
        "lock_s": rules.lock.as_secs_f64(),
        "chain": served.node_url(),
        "validators": validators,
        "miners": registered,
        "generator": format!("http://{}", served.generator),
        "scorer": format!("http://{}", served.scorer),
    });
    let mut out = io::stdout().lock();
    writeln!(out, "{description}")?;
    out.flush()?;
    drop(out);
    tracing::info!("The development network is up; Ctrl-C ends it");
    signals.stop.cancelled().await;
    stop_devnet(served, &signals.now).await;
    if let Some(path) = &args.report {
        let report = serde_json::to_vec_pretty(&devnet.report())?;
        std::fs::write(path, report).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(ExitStatus::Done)
}
