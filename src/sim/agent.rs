//! The real agent on the stage.

use std::fmt::Write as _;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::SimError;
use super::report::AgentTally;
use super::scenario::Scenario;
use super::stage::Stage;
use crate::app::{App, Locks, Peers, World};
use crate::config::{Inputs, Settings, load};
use crate::mining::{Budget, SeedSource};
use crate::net::Endpoint;
use crate::primitives::Uid;

/// The settings of a simulated agent: the shipped ones but for what the scenario says.
///
/// # Errors
/// When the scenario asks for what the configuration does not take.
pub(super) fn settings(scenario: &Scenario, scratch: &Path) -> Result<Settings, SimError> {
    let file = scratch.join("config.toml");
    std::fs::write(&file, lines(scenario)).map_err(|source| SimError::Scratch { source })?;
    Ok(load(&Inputs { file: Some(file), ..Inputs::default() })?.settings)
}

fn lines(scenario: &Scenario) -> String {
    let rules = &scenario.rules;
    let mut text = String::new();
    // Results are tiny and many; what is settled is not looked at again.
    let _ = writeln!(text, "[store]\nkeep_results = \"0s\"");
    let _ = writeln!(text, "[shutdown]\ngrace = \"10m\"");
    let _ = writeln!(
        text,
        "[rules]\ncooldown = \"{}ms\"\nlock = \"{}ms\"",
        rules.cooldown.as_millis(),
        rules.lock.as_millis()
    );
    if let Some(retries) = scenario.max_retries {
        let _ = writeln!(text, "[decide]\nmax_retries = {retries}");
    }
    let workers = Stage::workers_of(0);
    for role in ["generator", "scorer"] {
        let _ = writeln!(
            text,
            "[[workers]]\nname = \"{role}\"\nrole = \"{role}\"\nurl = \"http://{workers}\"\n\
             first_byte_timeout = \"1d\"\ntotal_timeout = \"1d\""
        );
        if role == "generator" {
            let _ = writeln!(text, "dialect = \"form\"\nkinds = [\"text\"]");
        }
    }
    text
}

/// Builds the agent on the stage and runs it until told to end; it then finishes what it began.
///
/// # Errors
/// When the agent cannot start, or gives up.
pub(super) async fn agent(
    stage: &Stage,
    settings: &Settings,
    data: &Path,
    end: &CancellationToken,
) -> Result<Option<AgentTally>, SimError> {
    let validators = stage.validators.iter().zip(0..).map(|(axon, uid)| (*axon, Some(Uid(uid)))).collect();
    let workers = Endpoint::of(Stage::workers_of(0));
    let hotkey = stage.hotkeys.first().ok_or(SimError::NoHotkey)?;
    let world = World {
        clock: stage.clock,
        seeds: SeedSource::fixed(stage.scenario.seed),
        hotkey: hotkey.clone(),
        peers: Peers { validators, generator: workers.clone(), scorer: Some(workers) },
        transports: stage.transports.clone(),
        chain: None,
        data: data.to_owned(),
        locks: Locks { hotkey: false, card: false },
    };
    let app = App::build(settings, world).await?;
    app.run(Budget::Endless, end.clone()).await?;
    Ok(None)
}
