//! The command line: one file per command, each a function from parsed arguments to an exit status.
//!
//! Data goes to stdout, everything else to stderr (the log of `run` is its data).

mod splat;
mod wallet;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// How a command ended, as scripts see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// 0: done.
    Done,
    /// 1: it failed.
    Failure,
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
            ExitStatus::BadConfig => 64,
            ExitStatus::Unavailable => 69,
            ExitStatus::TryAgain => 75,
        })
    }
}

/// Mining agent for Bittensor subnet 17 (404-GEN).
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Encode and decode splats
    #[command(subcommand)]
    Splat(splat::SplatCommand),
    /// Look at the wallet
    #[command(subcommand)]
    Wallet(wallet::WalletCommand),
}

/// Parses the arguments, runs the command, prints a failure once with its whole chain of causes.
pub fn main() -> ExitStatus {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Splat(command) => splat::run(command),
        Command::Wallet(command) => wallet::run(command),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitStatus::Failure
    })
}
