//! `simulate --card`: what the agent makes of a card, beside the strict sequence.

use std::io::{self, Write};

use anyhow::Context;
use serde_json::json;

use super::{ExitStatus, foot, tell, time, workload};
use crate::sim::{Options, Party, Policy, Report, Scenario, simulate};

const PARTIES: [Party; 2] = [Party::Agent, Party::Reference(Policy::STRICT_ASYNC)];

pub(super) fn play(cells: &[Scenario], options: &Options, json: bool) -> anyhow::Result<ExitStatus> {
    let mut out = io::stdout().lock();
    let mut all = Vec::new();
    let mut clean = true;
    for (number, scenario) in cells.iter().enumerate() {
        if !json && number == 0 {
            head(&mut out, scenario)?;
        }
        let mut reports = Vec::new();
        for party in PARTIES.into_iter().take_while(|_| !options.stop.is_cancelled()) {
            let told = |progress| tell(scenario, party, progress);
            let report = simulate(scenario, party, options, told).with_context(|| party.name().to_owned())?;
            if !json {
                row(&mut out, scenario, &report)?;
                out.flush()?;
            }
            clean &= report.is_clean();
            reports.push(report);
        }
        all.push((scenario, reports));
    }
    if json {
        let cell = |(scenario, reports): &(&Scenario, Vec<Report>)| {
            let figures = |report: &Report| {
                json!({
                    "policy": report.policy,
                    "swaps_per_task": report.swaps_per_task(),
                    "delayed_share": report.delayed_share(),
                    "batch": report.batch(),
                    "busy": report.mean_busy(),
                })
            };
            json!({
                "scenario": scenario,
                "formula_per_h": scenario.capacity(),
                "figures": reports.iter().map(figures).collect::<Vec<_>>(),
                "reports": reports,
            })
        };
        serde_json::to_writer_pretty(&mut out, &all.iter().map(cell).collect::<Vec<_>>())?;
        writeln!(out)?;
    } else if let Some(agent) = all.last().and_then(|(_, reports)| reports.first()) {
        foot(&mut out, agent)?;
    }
    Ok(if clean { ExitStatus::Done } else { ExitStatus::Failure })
}

fn head(out: &mut impl Write, scenario: &Scenario) -> io::Result<()> {
    workload(out, scenario)?;
    writeln!(
        out,
        "{} counted after {}, seed {}\n",
        time(scenario.time),
        time(scenario.warm_up),
        scenario.seed
    )?;
    writeln!(
        out,
        "{:>3}  {:<15} {:>8} {:>8} {:>6} {:>11} {:>8} {:>6} {:>6} {:>7}",
        "K", "policy", "tasks/h", "formula", "batch", "swaps/task", "delayed", "busy", "faults", "wall"
    )
}

fn row(out: &mut impl Write, scenario: &Scenario, report: &Report) -> io::Result<()> {
    let batch = if report.cards.swaps == 0 { "-".to_owned() } else { format!("{:.1}", report.batch()) };
    writeln!(
        out,
        "{:>3}  {:<15} {:>8.1} {:>8.1} {:>6} {:>11.2} {:>6.1} % {:>4.0} % {:>6} {:>5.1} s",
        scenario.validators,
        report.policy,
        report.accepted_per_h,
        scenario.capacity(),
        batch,
        report.swaps_per_task(),
        100.0 * report.delayed_share(),
        100.0 * report.mean_busy(),
        report.faults.total(),
        report.wall_s
    )
}
