//! `wallet`: look at the wallet.

use super::ExitStatus;

#[derive(Debug, clap::Subcommand)]
pub enum WalletCommand {}

pub fn run(command: WalletCommand) -> anyhow::Result<ExitStatus> {
    match command {}
}
