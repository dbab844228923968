//! `devnet worker`: one worker server on a card in a file.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::ExitStatus;
use crate::cli::run::runtime;
use crate::clock::Clock;
use crate::devnet::card::CardLedger;
use crate::devnet::worker::{Chance, DevWorker, Fate, Sizes, WorkerDialect, WorkerSettings};
use crate::net::Endpoint;
use crate::primitives::MiB;

#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// Which server it is: form, image, form-image, hunyuan, validation, three-gen, memory-sdxl, memory-wan,
    /// memory-chat, vllm, comfy, ollama or enhancer
    #[arg(long, value_name = "NAME")]
    dialect: WorkerDialect,
    /// Where it listens; port 0: any that is free
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The card: a file that all of its workers share, made if it is not there; what happens is added to FILE.log
    #[arg(long, value_name = "FILE")]
    ledger: PathBuf,
    /// UUID of a card that is made
    #[arg(long, value_name = "UUID", default_value = "GPU-00000000-0000-0000-0000-000000000017")]
    card: String,
    /// Size of a card that is made
    #[arg(long, value_name = "MIB", default_value_t = 24_576)]
    total: u64,
    /// Its name on the card; the dialect's by default
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// What it holds at rest, with its models
    #[arg(long, value_name = "MIB", default_value_t = 4_813)]
    resident: u64,
    /// What it holds at work
    #[arg(long, value_name = "MIB", default_value_t = 4_813)]
    peak: u64,
    /// What it holds without its models
    #[arg(long, value_name = "MIB", default_value_t = 400)]
    context: u64,
    /// What loading its models takes
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    load_time: Duration,
    /// What unloading them takes
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    unload_time: Duration,
    /// What its work takes, besides what it takes here
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    work_time: Duration,
    /// How late memory is given back by the fault `late`
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    late_time: Duration,
    /// What goes wrong, and how often: NAME or NAME:SHARE, separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    fault: Vec<Chance>,
    /// Of its faults and of what it makes
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Gaussians of a splat
    #[arg(long, value_name = "N")]
    gaussians: Option<usize>,
    /// Unload this validation service before each generation, reload it after
    #[arg(long, value_name = "URL")]
    drives: Option<Endpoint>,
}

pub fn run(args: &WorkerArgs, clock: Clock) -> anyhow::Result<ExitStatus> {
    let runtime = runtime()?;
    let ended = runtime.block_on(serve(args, clock));
    // A file that is being written, or a job that nobody waits for, holds nobody up.
    runtime.shutdown_background();
    ended
}

async fn serve(args: &WorkerArgs, clock: Clock) -> anyhow::Result<ExitStatus> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for signals")?;
    let ledger = CardLedger::open(&args.ledger, &args.card, MiB(args.total), clock)
        .with_context(|| format!("open {}", args.ledger.display()))?;
    let settings = WorkerSettings {
        name: args.name.clone().unwrap_or_else(|| args.dialect.to_string()),
        dialect: args.dialect,
        sizes: Sizes {
            context: MiB(args.context),
            resident: MiB(args.resident.max(args.context)),
            peak: MiB(args.peak),
        },
        load_time: args.load_time,
        unload_time: args.unload_time,
        work_time: args.work_time,
        late_time: args.late_time,
        faults: args.fault.clone(),
        seed: args.seed,
        gaussians: args.gaussians,
        drives: args.drives.clone(),
    };
    let worker = DevWorker::start(settings, ledger, clock).await.context("load the models")?;
    // As with the real ones the port is shut until the models are loaded.
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("listen at {}", args.listen))?;
    let address = listener.local_addr()?;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{}",
        json!({"address": address, "url": format!("http://{address}"), "pid": std::process::id()})
    )?;
    out.flush()?;
    drop(out);

    let ends = CancellationToken::new();
    let server =
        axum::serve(listener, worker.router()).with_graceful_shutdown(ends.clone().cancelled_owned());
    let mut server = std::pin::pin!(server.into_future());
    loop {
        tokio::select! {
            served = &mut server => {
                served?;
                worker.leave()?;
                return Ok(ExitStatus::Failure);
            }
            fate = worker.fate(), if !ends.is_cancelled() => match fate {
                // What it held goes with the process.
                Fate::Crashed => return Ok(ExitStatus::Failure),
                Fate::Ends | Fate::Runs => ends.cancel(),
            },
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        // A signal, or its end by itself: then the answers that are under way are still given.
        if !ends.is_cancelled() && !worker.is_stubborn() {
            worker.leave()?;
            return Ok(ExitStatus::Done);
        }
    }
}
