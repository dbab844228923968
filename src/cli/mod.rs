//! The command line: one file per command, each a function from parsed arguments to an exit status.
//!
//! Data goes to stdout, everything else to stderr (the log of `run` is its data).

mod config;
mod devnet;
mod doctor;
mod feedback;
mod layers;
mod run;
mod simulate;
mod splat;
mod stats;
mod status;
mod stop;
mod task;
mod wallet;
mod workers;
mod workplace;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::app::AppError;
use crate::config::ConfigErrors;
use crate::store::LockError;

/// How a command ended, as scripts see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// 0: done.
    Done,
    /// 1: it failed.
    Failure,
    /// 2: the arguments are wrong.
    Usage,
    /// 64: the configuration is wrong.
    BadConfig,
    /// 69: something it needs is not available.
    Unavailable,
    /// 75: nothing is wrong, try again later.
    TryAgain,
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(match status {
            ExitStatus::Done => 0,
            ExitStatus::Failure => 1,
            ExitStatus::Usage => 2,
            ExitStatus::BadConfig => 64,
            ExitStatus::Unavailable => 69,
            ExitStatus::TryAgain => 75,
        })
    }
}

/// Mining agent for Bittensor subnet 17 (404-GEN)
///
/// Without a command it tries one prompt (`--task`, `--image`), or mines as `run` does when flags of
/// the official miner are given.
#[derive(Debug, Parser)]
#[command(
    version,
    arg_required_else_help = true,
    after_help = "Exit status: 0 done, 1 failure, 2 usage, 64 bad configuration, 69 something it needs is \
                  unavailable, 75 try again later."
)]
struct Cli {
    #[command(flatten)]
    layers: layers::LayerArgs,
    #[command(flatten)]
    task: task::TaskArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Mine: pull tasks, have them made, submit them
    Run(run::RunArgs),
    /// Simulate mining: the real agent, the real rules, modelled workers, days in seconds; exit status 1 if a
    /// rule is broken or a task left open
    Simulate(Box<simulate::SimulateArgs>),
    /// Serve the development network alone, for other programs to mine on
    Devnet(devnet::DevnetArgs),
    /// Show how the agent stands; exit status 0 if it runs, 1 if only its memory is left, 69 without that
    Status(status::StatusArgs),
    /// Check everything that mining needs; exit status 1 if anything fails
    Doctor(doctor::DoctorArgs),
    /// Show what validators said of submissions, one line per reply
    Feedback(feedback::FeedbackArgs),
    /// Show what came of a stretch of time: results, scores, rewards, and how long each stage took
    Stats(stats::StatsArgs),
    /// Look at the workers on each card, and have something done to them
    #[command(subcommand)]
    Workers(workers::WorkersCommand),
    /// Look at the wallet
    #[command(subcommand)]
    Wallet(wallet::WalletCommand),
    /// Encode, decode and inspect splats
    #[command(subcommand)]
    Splat(splat::SplatCommand),
    /// Look at the configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Parses the arguments, runs the command, prints a failure once with its whole chain of causes.
pub fn main() -> ExitStatus {
    let Cli { layers, task, command } = Cli::parse();
    let result = match command {
        Some(Command::Run(args)) => run::run(&layers, &args),
        Some(Command::Simulate(args)) => simulate::run(&layers, &args),
        Some(Command::Devnet(args)) => devnet::run(&layers, &args),
        Some(Command::Status(args)) => status::run(&layers, &args),
        Some(Command::Doctor(args)) => doctor::run(&layers, &args),
        Some(Command::Feedback(args)) => feedback::run(&layers, &args),
        Some(Command::Stats(args)) => stats::run(&layers, &args),
        Some(Command::Workers(command)) => workers::run(&layers, command),
        Some(Command::Wallet(command)) => wallet::run(&layers, command),
        Some(Command::Splat(command)) => splat::run(command),
        Some(Command::Config(command)) => config::run(&layers, &command),
        Some(Command::Completions { shell }) => {
            clap_complete::generate(shell, &mut Cli::command(), "sn17-miner", &mut std::io::stdout());
            Ok(ExitStatus::Done)
        }
        None if task.is_wanted() => task::run(&layers, &task),
        None => run::run(&layers, &run::RunArgs::default()),
    };
    result.unwrap_or_else(|error| {
        if is_closed_pipe(&error) {
            return ExitStatus::Done;
        }
        eprintln!("error: {error:#}");
        status_of(&error)
    })
}

/// The reader of our output has gone: nothing is wrong.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

fn status_of(error: &anyhow::Error) -> ExitStatus {
    for cause in error.chain() {
        if cause.is::<ConfigErrors>() {
            return ExitStatus::BadConfig;
        }
        let lock = match cause.downcast_ref::<AppError>() {
            Some(AppError::Config(_)) => return ExitStatus::BadConfig,
            // Transparent, so the lock's error is no cause of its own.
            Some(AppError::Lock(lock)) => Some(lock),
            _ => cause.downcast_ref::<LockError>(),
        };
        if let Some(lock) = lock {
            return match lock {
                LockError::Held { .. } => ExitStatus::TryAgain,
                LockError::Io { .. } => ExitStatus::Unavailable,
            };
        }
        if cause.is::<crate::wallet::WalletError>() || cause.is::<feedback::NothingToRead>() {
            return ExitStatus::Unavailable;
        }
    }
    ExitStatus::Failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_help_and_every_value_a_name() {
        fn check(command: &clap::Command) {
            for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                assert!(arg.get_help().is_some(), "{} of {}", arg.get_id(), command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
