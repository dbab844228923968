//! `splat`: encode and decode splats.

use super::ExitStatus;

#[derive(Debug, clap::Subcommand)]
pub enum SplatCommand {}

pub fn run(command: SplatCommand) -> anyhow::Result<ExitStatus> {
    match command {}
}
