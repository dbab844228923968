//! `config`: what applies, and where it comes from.

use std::io::{self, Write};

use clap::Args;

use super::ExitStatus;
use super::layers::LayerArgs;

#[derive(Debug, clap::Subcommand)]
pub enum ConfigCommand {
    /// Print every setting with its value and its origin
    Show(ShowArgs),
    /// Look for mistakes; exit status 64 when there are any
    Check,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(layers: &LayerArgs, command: &ConfigCommand) -> anyhow::Result<ExitStatus> {
    let loaded = layers.load()?;
    let mut out = io::stdout().lock();
    match command {
        ConfigCommand::Show(args) if args.json => {
            serde_json::to_writer_pretty(&mut out, &loaded.resolved)?;
            writeln!(out)?;
        }
        ConfigCommand::Show(_) => {
            let width = loaded.resolved.iter().map(|line| line.key.len()).max().unwrap_or(0);
            for line in &loaded.resolved {
                writeln!(out, "{:width$}  {}  ({})", line.key, line.value, line.origin)?;
            }
        }
        ConfigCommand::Check => match &loaded.file {
            Some(file) => writeln!(out, "{} is fine", file.display())?,
            None => writeln!(out, "no file, the defaults apply")?,
        },
    }
    Ok(ExitStatus::Done)
}
