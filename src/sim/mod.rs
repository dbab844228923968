//! The real agent on the development network under a paused clock: days of mining in seconds.
//!
//! Agent, validators and cards run in this process and on one thread; validators keep their real
//! books and check every signature, the agent keeps its real SQLite file. What is modelled is what
//! takes time or luck: generator and scorer answer after a fixed time with one of two tiny results,
//! validators score by a table, the network delays. The same scenario gives the same course, but for
//! what happens at the very same moment.
//!
//! Limits: no duels, no faults, no images; a card does one thing at a time, unless its memory is
//! modelled ([`Handoff::Card`]): then models are moved beside the work of another; a validator scores
//! any number of results at once.

mod agent;
mod card;
mod memory;
mod reference;
mod report;
mod scenario;
mod splats;
mod stage;
mod wire;

use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;

pub use card::{CardFaults, CardTally};
pub use reference::Policy;
pub use report::{AgentTally, Counts, Report, WindowCounts};
pub use scenario::{Candidates, Handoff, Scenario, Unscored};

use self::report::{Mark, peak_rss_mib};
use self::stage::Stage;
use crate::app::AppError;
use crate::clock::Clock;
use crate::config::ConfigErrors;
use crate::splat::EncodeError;
use crate::telemetry::{self, Format, Sink};

/// A simulation cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    #[error("start the simulation's runtime: {source}")]
    Runtime { source: std::io::Error },
    #[error("make a temporary directory: {source}")]
    Scratch { source: std::io::Error },
    #[error("make the results: {0}")]
    Splats(#[from] EncodeError),
    #[error("no hotkey to mine with")]
    NoHotkey,
    #[error("the agent cannot be set up like this")]
    Config(#[from] ConfigErrors),
    #[error("the agent gave up")]
    App(#[from] AppError),
    #[error("it ended on its own after {after:?}")]
    Ended { after: Duration },
}

/// Who mines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    Agent,
    Reference(Policy),
}

impl Party {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Reference(policy) => policy.name,
        }
    }
}

/// How far a simulation is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Simulated hours, warm-up included.
    pub hours: u64,
    pub counts: Counts,
}

/// Everything begun is answered within this, or never.
const DRAIN: Duration = Duration::from_secs(2 * 3_600);

const HOUR: Duration = Duration::from_secs(3_600);

/// What does not change the course of a simulation.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Ends it early, with what is known so far.
    pub stop: CancellationToken,
    /// The agent's log, to stderr and in simulated time.
    pub log: Option<LevelFilter>,
    /// Where the temporary directory is made; `None`: in memory where the system offers that, else
    /// with the temporary files.
    pub scratch: Option<PathBuf>,
}

/// The agent waits for the disk at each submission, some ten milliseconds: most of a simulation.
const MEMORY: &str = "/dev/shm";

fn scratch(options: &Options) -> Result<TempDir, SimError> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("sn17-simulate-");
    let made = match &options.scratch {
        Some(place) => builder.tempdir_in(place),
        None => builder.tempdir_in(MEMORY).or_else(|_| builder.tempdir()),
    };
    made.map_err(|source| SimError::Scratch { source })
}

/// Simulates a scenario on this thread and tells what came of it; `progress` is told of each
/// simulated hour.
///
/// # Errors
/// When the simulation cannot be made or the agent gives up.
pub fn simulate(
    scenario: &Scenario,
    party: Party,
    options: &Options,
    mut progress: impl FnMut(Progress),
) -> Result<Report, SimError> {
    // One blocking thread: what the store does happens in one order, and the same again.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .max_blocking_threads(1)
        .build()
        .map_err(|source| SimError::Runtime { source })?;
    let scratch = scratch(options)?;
    let wall = Clock::system();
    let began = wall.now();
    let mut report = runtime.block_on(async {
        let stage = Stage::set(scenario)?;
        if let Some(level) = options.log {
            telemetry::start(level, Format::Text, Sink::Stderr, stage.clock);
        }
        let settings = agent::settings(scenario, scratch.path())?;
        let end = CancellationToken::new();
        let play = async {
            match party {
                Party::Agent => agent::agent(&stage, &settings, scratch.path(), &end).await,
                Party::Reference(policy) => {
                    reference::mine(policy, &stage, settings.dendrite, &end).await;
                    Ok(None)
                }
            }
        };
        watch(&stage, party, play, &end, &options.stop, &mut progress).await
    })?;
    report.wall_s = wall.now().saturating_since(began).as_secs_f64();
    report.peak_rss_mib = peak_rss_mib();
    Ok(report)
}

/// Lets the party play, counts from the warm-up's end to the end, and waits for what is left.
async fn watch(
    stage: &Stage,
    party: Party,
    play: impl Future<Output = Result<Option<AgentTally>, SimError>>,
    end: &CancellationToken,
    stop: &CancellationToken,
    progress: &mut impl FnMut(Progress),
) -> Result<Report, SimError> {
    let Scenario { warm_up, time, .. } = stage.scenario;
    let began = Instant::now();
    let mark = || Mark {
        at: began.elapsed(),
        counts: stage.counts(),
        busy: stage.cards.iter().map(card::Card::busy).collect(),
        cards: stage.tally(),
    };
    let mut from = mark();
    let mut play = pin!(play);
    let mut hours = 0;
    let mut interrupted = false;
    loop {
        let at = began.elapsed();
        if at >= warm_up + time {
            break;
        }
        if from.at < warm_up && at >= warm_up {
            from = mark();
        }
        let next = if at < warm_up { warm_up } else { warm_up + time };
        let hour = HOUR * (hours + 1);
        tokio::select! {
            played = &mut play => {
                played?;
                return Err(SimError::Ended { after: began.elapsed() });
            }
            () = stop.cancelled() => {
                interrupted = true;
                break;
            }
            () = tokio::time::sleep_until(began + next.min(hour)) => {}
        }
        if began.elapsed() >= hour {
            hours += 1;
            progress(Progress { hours: hours.into(), counts: stage.counts() });
        }
    }
    let to = mark();
    let window = WindowCounts::of(&stage.window_counts());
    let longest_idle_s = stage.longest_idle();
    end.cancel();
    let agent = match tokio::time::timeout(DRAIN, play).await {
        Ok(played) => played?,
        // What it left open is counted below.
        Err(_) => None,
    };

    let counted_h = to.hours_since(&from);
    let rate = |count: fn(&Counts) -> u64| {
        (count(&to.counts).saturating_sub(count(&from.counts))) as f64 / counted_h.max(f64::MIN_POSITIVE)
    };
    let share = |(to, from): (&Duration, &Duration)| {
        to.saturating_sub(*from).as_secs_f64() / (counted_h * 3_600.0).max(f64::MIN_POSITIVE)
    };
    Ok(Report {
        policy: party.name().to_owned(),
        counted_h,
        interrupted,
        accepted_per_h: rate(|counts| counts.accepted),
        failed_per_h: rate(|counts| counts.booked() - counts.accepted),
        empty_per_h: rate(|counts| counts.empty),
        busy: to.busy.iter().zip(&from.busy).map(share).collect(),
        cards: to.cards.since(&from.cards),
        window,
        longest_idle_s,
        events: stage.counts(),
        faults: stage.faults(),
        agent,
        wall_s: 0.0,
        peak_rss_mib: None,
    })
}

#[cfg(test)]
mod tests;
