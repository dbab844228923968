use super::ExitStatus;
use super::layers::LayerArgs;
use clap::Args;
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}
pub fn run(_: &LayerArgs, _: &DoctorArgs) -> anyhow::Result<ExitStatus> {
    anyhow::bail!("x")
}
