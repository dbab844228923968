//! The real agent on the stage.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::PoisonError;

use tokio_util::sync::CancellationToken;

use super::SimError;
use super::report::AgentTally;
use super::scenario::{Candidates, Scenario};
use super::stage::Stage;
use crate::app::{App, CardPeers, Locks, Peers, World};
use crate::config::{Inputs, Settings, load};
use crate::mining::{Budget, SeedSource};
use crate::net::Endpoint;
use crate::primitives::{CardId, Uid};

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
    // The network is a chain's: the embedded one would bring rules of its own.
    let _ = writeln!(text, "[network]\nname = \"local\"");
    let _ = writeln!(text, "[rules]");
    for (name, time) in [
        ("cooldown", rules.cooldown),
        ("throttle", rules.throttle),
        ("penalty", rules.penalty),
        ("lock", rules.lock),
    ] {
        let _ = writeln!(text, "{name} = \"{}ms\"", time.as_millis());
    }
    let _ = writeln!(text, "[decide]\nunscored = \"{}\"", scenario.unscored.as_str());
    let _ = match scenario.candidates {
        Candidates::Auto => writeln!(text, "candidates = \"auto\""),
        Candidates::Count(count) => writeln!(text, "candidates = {count}"),
    };
    if let Some(retries) = scenario.max_retries {
        let _ = writeln!(text, "max_retries = {retries}");
    }
    let workers = Stage::workers_of(0);
    for role in ["generator", "scorer"] {
        let _ = writeln!(
            text,
            "[[workers]]\nname = \"{role}\"\nrole = \"{role}\"\nurl = \"http://{workers}/{role}\"\n\
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
    let cards = stage.cards.iter().zip(0..).map(|(card, number)| {
        let workers = Endpoint::of(Stage::workers_of(number));
        CardPeers {
            card: CardId { host: "simulated".into(), uuid: format!("card-{number}") },
            generator: workers.clone(),
            scorer: Some(workers),
            household: card.household(),
        }
    });
    let world = World {
        clock: stage.clock,
        seeds: SeedSource::fixed(stage.scenario.seed),
        hotkeys: stage.hotkeys.clone(),
        peers: Peers { validators, cards: cards.collect() },
        transports: stage.transports.clone(),
        chain: None,
        data: data.to_owned(),
        locks: Locks { hotkey: false, card: false },
    };
    let app = App::build(settings, world).await?;
    let tally = app.tally();
    app.run(Budget::Endless, end.clone()).await?;
    let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Some(AgentTally {
        pulls: tally.pulls,
        lateness_p50_s: tally.lateness.quantile(0.5).as_secs_f64(),
        lateness_p99_s: tally.lateness.quantile(0.99).as_secs_f64(),
        lateness_max_s: tally.lateness.max().as_secs_f64(),
    }))
}
