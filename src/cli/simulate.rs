//! `simulate`: days of mining in seconds, on validators with the real rules and modelled workers.

use std::io::{self, IsTerminal, Write};
use std::num::ParseIntError;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::json;
use tracing::level_filters::LevelFilter;

mod card;

use super::ExitStatus;
use super::layers::LayerArgs;
use super::run::runtime;
use super::stop::StopSignals;
use crate::devnet::rules::ValidatorRules;
use crate::primitives::MiB;
use crate::sim::{
    Candidates, Handoff, Options, Party, Policy, Progress, Report, Scenario, Unscored, simulate,
};

#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// g: from a generator's request to its last byte
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    generation: Duration,
    /// v: one call of the scorer
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    scoring: Duration,
    /// h: the scorer leaves the card and comes back, both together
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    handoff_time: Duration,
    /// The part of --handoff-time for leaving (default: half of it)
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    unload_time: Option<Duration>,
    /// Whether the scorer must leave the card for each generation
    #[arg(long, value_name = "MODE", default_value = "per-task")]
    handoff: HandoffArg,
    /// A card that holds so many MiB, measured, with 19.6 GiB of generator and 4.7 GiB of scorer on it that
    /// the agent moves as it sees fit, against the strict sequence at 4, 8 and 12 validators
    #[arg(long, value_name = "MIB", conflicts_with_all = ["handoff", "reference"], value_parser = clap::value_parser!(u64).range(21_000..=4_000_000))]
    card: Option<u64>,
    /// q: share of candidates that pass, here and at the validator alike
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = share)]
    pass: f64,
    /// K: number of validators (default: 7, or 4, 8 and 12 with --card)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    validators: Option<u16>,
    /// Number of hotkeys
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    hotkeys: u16,
    /// Number of cards, each with a generator and a scorer
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    cards: u16,
    /// C: from one task to the next
    #[arg(long, value_name = "TIME", default_value = "300s", value_parser = humantime::parse_duration)]
    cooldown: Duration,
    /// T: an answer faster than this shortens nothing
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    throttle: Duration,
    /// P: added to the cooldown after a low score
    #[arg(long, value_name = "TIME", default_value = "600s", value_parser = humantime::parse_duration)]
    penalty: Duration,
    /// For how long a submission locks its task
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    lock: Duration,
    /// What the network adds to each call
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = humantime::parse_duration)]
    network_delay: Duration,
    /// What a validator takes to score a result
    #[arg(long, value_name = "TIME", default_value = "4s", value_parser = humantime::parse_duration)]
    remote_scoring: Duration,
    /// Seconds by which the validators' clocks are ahead, such as -3.7,0.7,60; repeated for further ones
    #[arg(long, value_name = "LIST", value_delimiter = ',', allow_hyphen_values = true, value_parser = ahead)]
    clock_ahead: Vec<f64>,
    /// Hours that are counted
    #[arg(long, value_name = "N", default_value_t = 36.0, value_parser = hours)]
    hours: f64,
    /// Time before the counting begins
    #[arg(long, value_name = "TIME", default_value = "4h", value_parser = humantime::parse_duration)]
    warm_up: Duration,
    /// Seed of tasks and luck
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Most further candidates after one that fails (default: the agent's own)
    #[arg(long, value_name = "N")]
    max_retries: Option<u32>,
    /// Candidates of each task: a number or auto
    #[arg(long, value_name = "N", default_value = "1", value_parser = candidates)]
    candidates: Candidates,
    /// Whether results may go out unscored
    #[arg(long, value_name = "MODE", default_value = "never")]
    unscored: UnscoredArg,
    /// Also the policies to compare with, on the same validators, cards and luck
    #[arg(long)]
    reference: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show the simulated agent's log from this level on: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    log: Option<LevelFilter>,
    /// Where the agent's memory is kept meanwhile (default: /dev/shm, else the temporary directory)
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum HandoffArg {
    Off,
    PerTask,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum UnscoredArg {
    Never,
    Auto,
    Always,
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("expected 0 to 1".into()) }
}

fn ahead(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if seconds.abs() <= 86_400.0 { Ok(seconds) } else { Err("expected a day at most".into()) }
}

fn hours(text: &str) -> Result<f64, String> {
    let hours: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if hours > 0.0 && hours <= 10_000.0 {
        Ok(hours)
    } else {
        Err("expected more than 0, at most 10000".into())
    }
}

fn candidates(text: &str) -> Result<Candidates, ParseIntError> {
    if text == "auto" { Ok(Candidates::Auto) } else { text.parse().map(Candidates::Count) }
}

impl SimulateArgs {
    fn scenario(&self) -> Scenario {
        let unload = self.unload_time.unwrap_or(self.handoff_time / 2).min(self.handoff_time);
        Scenario {
            generation: self.generation,
            scoring: self.scoring,
            unload,
            reload: self.handoff_time - unload,
            handoff: match (self.card, self.handoff) {
                (Some(card), _) => Handoff::Card(MiB(card)),
                (None, HandoffArg::Off) => Handoff::Off,
                (None, HandoffArg::PerTask) => Handoff::PerTask,
            },
            pass: self.pass,
            validators: self.validators.unwrap_or(7),
            hotkeys: self.hotkeys,
            cards: self.cards,
            rules: ValidatorRules {
                cooldown: self.cooldown,
                throttle: self.throttle,
                penalty: self.penalty,
                lock: self.lock,
                ..ValidatorRules::default()
            },
            network: self.network_delay,
            remote_scoring: self.remote_scoring,
            clocks_ahead: self.clock_ahead.iter().map(|seconds| (seconds * 1e9) as i64).collect(),
            warm_up: self.warm_up,
            time: Duration::from_secs_f64(self.hours * 3_600.0),
            seed: self.seed,
            max_retries: self.max_retries,
            candidates: self.candidates,
            unscored: match self.unscored {
                UnscoredArg::Never => Unscored::Never,
                UnscoredArg::Auto => Unscored::Auto,
                UnscoredArg::Always => Unscored::Always,
            },
        }
    }
}

pub fn run(layers: &LayerArgs, args: &SimulateArgs) -> anyhow::Result<ExitStatus> {
    if layers.has_settings() {
        eprintln!("error: a simulation takes no settings: it has flags of its own, see `simulate --help`");
        return Ok(ExitStatus::Usage);
    }
    let scenario = args.scenario();
    let cells: Vec<Scenario> = match (args.card, args.validators) {
        (Some(_), None) => [4, 8, 12].map(|validators| Scenario { validators, ..scenario.clone() }).into(),
        _ => vec![scenario.clone()],
    };
    let on_card = args.card.is_some();
    let mut parties = vec![Party::Agent];
    if args.reference {
        parties.extend(Policy::ALL.map(Party::Reference));
    }
    let (json, log, scratch) = (args.json, args.log, args.scratch.clone());
    // A simulation keeps its thread busy, and stops at a signal that another one hears.
    runtime()?.block_on(async move {
        let signals = StopSignals::listen().context("listen for signals")?;
        let options = Options { stop: signals.stop.clone(), log, scratch };
        let play = move || match on_card {
            true => card::play(&cells, &options, json),
            false => play(&scenario, &parties, &options, json),
        };
        tokio::task::spawn_blocking(play).await?
    })
}

fn play(scenario: &Scenario, parties: &[Party], options: &Options, json: bool) -> anyhow::Result<ExitStatus> {
    let mut out = io::stdout().lock();
    if !json {
        head(&mut out, scenario)?;
    }
    let mut reports = Vec::with_capacity(parties.len());
    for party in parties {
        let told = |progress| tell(scenario, *party, progress);
        let report = simulate(scenario, *party, options, told).with_context(|| party.name().to_owned())?;
        if !json {
            row(&mut out, &report)?;
            out.flush()?;
        }
        reports.push(report);
        if options.stop.is_cancelled() {
            break;
        }
    }
    let agent = reports.first().context("nobody mined")?;
    if json {
        let all = json!({"scenario": scenario, "formula_per_h": scenario.capacity(), "reports": reports});
        serde_json::to_writer_pretty(&mut out, &all)?;
        writeln!(out)?;
    } else {
        foot(&mut out, agent)?;
    }
    Ok(if agent.is_clean() { ExitStatus::Done } else { ExitStatus::Failure })
}

/// A line per simulated hour, for somebody who waits.
fn tell(scenario: &Scenario, party: Party, progress: Progress) {
    if io::stderr().is_terminal() {
        let hours = (scenario.warm_up + scenario.time).as_secs_f64() / 3_600.0;
        let accepted = progress.counts.accepted;
        eprintln!("{}: hour {} of {hours:.0}, {accepted} accepted", party.name(), progress.hours);
    }
}

fn time(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(time)
}

/// What the cards do.
fn workload(out: &mut impl Write, scenario: &Scenario) -> io::Result<()> {
    let handoff = match scenario.handoff {
        Handoff::Off => "no hand-off".to_owned(),
        Handoff::Card(card) => {
            format!("hand-off {} + {} on {card}", time(scenario.unload), time(scenario.reload))
        }
        Handoff::PerTask => {
            format!("hand-off {} + {} per task", time(scenario.unload), time(scenario.reload))
        }
    };
    writeln!(
        out,
        "generation {}, scoring {}, {handoff}; {:.0} % of candidates pass",
        time(scenario.generation),
        time(scenario.scoring),
        100.0 * scenario.pass
    )
}

fn head(out: &mut impl Write, scenario: &Scenario) -> io::Result<()> {
    writeln!(
        out,
        "validators {}, hotkeys {}, cards {}; by the formula {:.1} tasks per hour; seed {}",
        scenario.validators,
        scenario.hotkeys,
        scenario.cards,
        scenario.capacity(),
        scenario.seed
    )?;
    writeln!(out, "{} counted after {}\n", time(scenario.time), time(scenario.warm_up))?;
    writeln!(
        out,
        "{:<18} {:>10} {:>8} {:>7} {:>5}  {:^17}  {:>12}  {:>10} {:>5} {:>7}",
        "policy",
        "accepted/h",
        "failed/h",
        "empty/h",
        "busy",
        "window (4 h)",
        "longest wait",
        "violations",
        "open",
        "wall"
    )
}

fn row(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let window = &report.window;
    writeln!(
        out,
        "{:<18} {:>10.1} {:>8.1} {:>7.1} {:>3.0} %  {:^17}  {:>10.1} s  {:>10} {:>5} {:>5.1} s",
        report.policy,
        report.accepted_per_h,
        report.failed_per_h,
        report.empty_per_h,
        100.0 * report.mean_busy(),
        format!("{} / {:.1} / {}", window.least, window.mean, window.most),
        report.longest_idle_s,
        report.events.violations,
        report.events.open,
        report.wall_s
    )
}

/// What only the agent tells, and what is wrong.
fn foot(out: &mut impl Write, report: &Report) -> io::Result<()> {
    writeln!(out)?;
    if let Some(tally) = &report.agent {
        writeln!(
            out,
            "agent: {} pulls, lateness p50 {:.3} s, p99 {:.3} s, most {:.3} s",
            tally.pulls, tally.lateness_p50_s, tally.lateness_p99_s, tally.lateness_max_s
        )?;
    }
    let events = &report.events;
    writeln!(out, "tasks: {} pulled, {} booked, {} open", events.pulled, events.booked(), events.open)?;
    if let Some(peak) = report.peak_rss_mib {
        writeln!(out, "peak memory: {peak:.0} MiB")?;
    }
    if report.interrupted {
        writeln!(out, "interrupted after {:.1} counted hours", report.counted_h)?;
    }
    if !report.is_clean() {
        writeln!(
            out,
            "NOT CLEAN: {} forbidden events at validators, {} of them violations; {} tasks open; on the \
             cards {} crowded generations, {} beside the scorer, {} scorings without it, {} out of memory",
            events.forbidden,
            events.violations,
            events.open,
            report.faults.crowded,
            report.faults.scorer_in_the_way,
            report.faults.scorer_away,
            report.faults.out_of_memory
        )?;
    }
    Ok(())
}
