//! `workers`: who is on which card, and having something done to them.
//!
//! A running agent holds its cards, so it is asked, and does it in its turn. Without one this process
//! takes the cards for as long as it needs them.

mod desk;
mod show;

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};

use self::desk::Desk;
use super::ExitStatus;
use super::layers::LayerArgs;
use super::run::{runtime, start_log};
use super::stop::StopSignals;
use super::workplace::INTERRUPTED;
use crate::api::{Errand, MOST_ROUNDS, OrderState, OrderStatus};
use crate::app::Purpose;
use crate::clock::Clock;
use crate::config::Settings;
use crate::telemetry::Sink;
use crate::workers::{Detection, detect};

#[derive(Debug, Subcommand)]
pub enum WorkersCommand {
    /// Show who is on which card: state, memory, since when, and what is planned next
    Ps(Shown),
    /// Start a worker's process, and bring the worker in once there is room
    ///
    /// Without a running agent it stays in the foreground until it is interrupted, then stops the worker.
    Start(Named),
    /// Stop a worker's process and all that belong to it
    Stop(Named),
    /// Stop a worker's process and start it again
    Restart(Named),
    /// Have a worker load its models, others making room if need be
    Load(Named),
    /// Have a worker give its models' memory up
    Unload(Named),
    /// Ask workers how they are, without touching their memory; exit status 1 if one is not available
    Health(Health),
    /// Account for the memory of each card: who holds what, what is declared, what is left
    Report(Shown),
    /// Have workers give cached memory back; models stay
    Cleanup {
        /// Only this worker
        #[arg(value_name = "NAME")]
        worker: Option<String>,
    },
    /// Test the hand-off: others out, proof, generation, scorer back, canary, score; exit status 1 if it fails
    HandoffTest(HandoffTest),
}

#[derive(Debug, Args)]
pub struct Shown {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct Named {
    /// The worker, as in the configuration
    #[arg(value_name = "NAME")]
    worker: String,
}

#[derive(Debug, Args)]
pub struct Health {
    /// Only this worker
    #[arg(value_name = "NAME")]
    worker: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct HandoffTest {
    /// Rounds on each card
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_ROUNDS)))]
    rounds: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Between looks at an order.
const LOOK: Duration = Duration::from_millis(100);

pub fn run(layers: &LayerArgs, command: WorkersCommand) -> anyhow::Result<ExitStatus> {
    let settings = layers.load()?.settings;
    let clock = Clock::system();
    start_log(&settings, Sink::Stderr, clock);
    let runtime = runtime()?;
    let named = |named: Named, errand: fn(String) -> Errand| (errand(named.worker), false, false);
    let (errand, json, stays) = match command {
        WorkersCommand::Ps(shown) => return runtime.block_on(look(&settings, clock, show::ps, shown.json)),
        WorkersCommand::Report(shown) => {
            return runtime.block_on(look(&settings, clock, show::report, shown.json));
        }
        WorkersCommand::Health(health) => return runtime.block_on(ask_health(&settings, clock, &health)),
        WorkersCommand::Start(worker) => (Errand::Start { worker: worker.worker }, false, true),
        WorkersCommand::Stop(worker) => named(worker, |worker| Errand::Stop { worker }),
        WorkersCommand::Restart(worker) => (Errand::Restart { worker: worker.worker }, false, true),
        WorkersCommand::Load(worker) => named(worker, |worker| Errand::Load { worker }),
        WorkersCommand::Unload(worker) => named(worker, |worker| Errand::Unload { worker }),
        WorkersCommand::Cleanup { worker } => (Errand::Cleanup { worker }, false, false),
        WorkersCommand::HandoffTest(test) => (Errand::HandoffTest { rounds: test.rounds }, test.json, false),
    };
    runtime.block_on(give(&settings, clock, errand, json, stays))
}

type Show = fn(&mut dyn Write, &crate::api::WorkersStatus) -> io::Result<()>;

async fn look(settings: &Settings, clock: Clock, show: Show, json: bool) -> anyhow::Result<ExitStatus> {
    let signals = StopSignals::listen().context("listen for signals")?;
    let mut desk = Desk::find(settings, clock, Purpose::Looking).await?;
    let status = async {
        desk.open().await?;
        desk.workers().await
    };
    let status = tokio::select! {
        status = status => status,
        () = signals.stop.cancelled() => Err(anyhow!("interrupted")),
    };
    desk.leave(&signals).await;
    let status = status?;
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &status)?;
        writeln!(out)?;
    } else {
        show(&mut out, &status)?;
    }
    Ok(ExitStatus::Done)
}

async fn give(
    settings: &Settings,
    clock: Clock,
    errand: Errand,
    json: bool,
    stays: bool,
) -> anyhow::Result<ExitStatus> {
    let signals = StopSignals::listen().context("listen for signals")?;
    let mut desk = Desk::find(settings, clock, Purpose::Errand).await?;
    let outcome = tokio::select! {
        outcome = carry_out(&desk, clock, &errand, json) => outcome,
        () = signals.stop.cancelled() => {
            eprintln!("{}", match desk.is_here() {
                true => INTERRUPTED,
                false => "the agent goes on with it; `workers ps` shows how it stands",
            });
            Ok(false)
        }
    };
    if matches!(outcome, Ok(true)) && stays && desk.is_here() {
        eprintln!("it runs until this is interrupted (Ctrl-C)");
        signals.stop.cancelled().await;
    }
    // However it ended: nobody else brings back who has left.
    desk.leave(&signals).await;
    Ok(if outcome? { ExitStatus::Done } else { ExitStatus::Failure })
}

/// Whether it was done.
async fn carry_out(desk: &Desk, clock: Clock, errand: &Errand, json: bool) -> anyhow::Result<bool> {
    desk.open().await?;
    let id = desk.give(errand).await?;
    let order = follow(desk, id, clock).await?;
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &order)?;
        writeln!(out)?;
    } else {
        show::outcome(&mut out, &order)?;
    }
    Ok(order.state == OrderState::Done)
}

/// Prints what happens until the order has ended.
async fn follow(desk: &Desk, id: u64, clock: Clock) -> anyhow::Result<OrderStatus> {
    let (mut lines, mut rounds) = (0, 0);
    loop {
        let Some(order) = desk.order(id).await? else {
            bail!("the agent has ended, or no longer knows the order; its log tells more");
        };
        let mut err = io::stderr().lock();
        for line in order.lines.iter().skip(lines) {
            writeln!(err, "{line}")?;
        }
        lines = order.lines.len();
        if err.is_terminal() && order.rounds.len() > rounds {
            writeln!(err, "{} rounds done", order.rounds.len())?;
        }
        rounds = order.rounds.len();
        drop(err);
        if order.state != OrderState::UnderWay {
            return Ok(order);
        }
        clock.sleep(LOOK).await;
    }
}

async fn ask_health(settings: &Settings, clock: Clock, args: &Health) -> anyhow::Result<ExitStatus> {
    let workers = desk::endpoints(settings);
    let known: Vec<&str> = workers.iter().map(|worker| worker.name.as_str()).collect();
    if let Some(name) = &args.worker
        && !known.contains(&name.as_str())
    {
        bail!("no worker {name} in the configuration; there are: {}", known.join(", "));
    }
    let wanted = |name: &str| args.worker.as_deref().is_none_or(|one| one == name);
    let (mut found, mut placed) = (Vec::new(), Vec::new());
    for worker in workers.iter().filter(|worker| wanted(&worker.name)) {
        let detection = match &worker.endpoint {
            Some(endpoint) => Some(detect(endpoint, &desk::transport(settings)?, &clock).await),
            None => None,
        };
        found.push(show::HealthLine::new(worker, detection.as_ref()));
        placed.extend(show::placed(settings, worker, detection));
    }
    show::mark_mistakes(&mut found, &placed);
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &found)?;
        writeln!(out)?;
    } else {
        for line in &found {
            line.show(&mut out)?;
        }
    }
    let well = found.iter().all(|line| line.available);
    Ok(if well { ExitStatus::Done } else { ExitStatus::Failure })
}

/// Whether a worker can be of use, by what it answers.
fn is_available(detection: &Detection) -> bool {
    match detection {
        Detection::Answers(detected) => detected.health.is_available(),
        // Most answer nothing while they work (workers.md section 8).
        Detection::Busy => true,
        Detection::Refused(_) | Detection::SomethingElse(_) => false,
    }
}
