//! What `workers` prints.

use std::io::{self, Write};

use serde::Serialize;

use super::desk::Place;
use super::is_available;
use crate::api::{CardStatus, Errand, OrderState, OrderStatus, Round, WorkersStatus};
use crate::config::Settings;
use crate::primitives::{MiB, UnixTime};
use crate::workers::{Detection, Placed, find_mistakes};

/// Who is where.
pub fn ps(out: &mut dyn Write, status: &WorkersStatus) -> io::Result<()> {
    for card in &status.cards {
        head(out, card)?;
        writeln!(
            out,
            "  {:<16} {:<10} {:<10} {:>11}  {:<12} {:<10}",
            "worker", "role", "state", "held", "since", "residency"
        )?;
        for worker in &card.workers {
            let since = worker.since.map_or_else(|| "?".into(), |since| ago(since, status.at));
            let owed = if worker.owed { "  to come back" } else { "" };
            let line = format!(
                "  {:<16} {:<10} {:<10} {:>11}  {:<12} {:<10}{owed}",
                worker.worker,
                worker.role,
                worker.state,
                amount(worker.held_mib),
                since,
                worker.residency
            );
            writeln!(out, "{}", line.trim_end())?;
        }
        if let Some(holder) = &card.holder {
            let worker = holder.worker.as_deref().unwrap_or("?");
            writeln!(
                out,
                "  at work        {worker} as {}, since {}",
                holder.role,
                ago(holder.since, status.at)
            )?;
        }
        if card.waiting > 0 {
            writeln!(out, "  waiting        {}", card.waiting)?;
        }
        if let Some(plan) = &card.last_plan {
            writeln!(out, "  last hand-off  {plan}; {} so far", card.swaps)?;
        }
        if let Some(next) = &card.next {
            let wait = next.at.saturating_since(status.at).as_secs_f64();
            writeln!(out, "  next           {} in {wait:.1}s", next.what)?;
        }
    }
    Ok(())
}

/// Where the memory is.
pub fn report(out: &mut dyn Write, status: &WorkersStatus) -> io::Result<()> {
    for card in &status.cards {
        head(out, card)?;
        writeln!(out, "  {:<16} {:>11} {:>11} {:>11}", "worker", "held", "resident", "peak")?;
        let figures = |held: MiB, resident: MiB, peak: MiB| [held, resident, peak].map(amount);
        for worker in &card.workers {
            let [held, resident, peak] = figures(worker.held_mib, worker.resident_mib, worker.peak_mib);
            writeln!(out, "  {:<16} {held:>11} {resident:>11} {peak:>11}", worker.worker)?;
        }
        let sum = |of: fn(&crate::api::WorkerStatus) -> MiB| card.workers.iter().map(of).sum::<MiB>();
        let [held, resident, peak] =
            figures(sum(|w| w.held_mib), sum(|w| w.resident_mib), sum(|w| w.peak_mib));
        writeln!(out, "  {:<16} {held:>11} {resident:>11} {peak:>11}", "all")?;
        let Some(memory) = &card.memory else { continue };
        writeln!(out, "  {:<16} {:>11}", "others", amount(memory.foreign_mib))?;
        writeln!(out, "  {:<16} {:>11}", "free", amount(memory.free_mib))?;
        let peaks = sum(|worker| worker.peak_mib);
        if peaks > MiB::ZERO {
            let verdict = if peaks.saturating_add(memory.foreign_mib) <= memory.total_mib {
                "all fit at once"
            } else {
                "they do not fit at once and take turns"
            };
            writeln!(out, "  peaks {} of {}: {verdict}", amount(peaks), amount(memory.total_mib))?;
        }
    }
    Ok(())
}

fn head(out: &mut dyn Write, card: &CardStatus) -> io::Result<()> {
    let lost = if card.lost { "  LOST: the driver no longer knows it" } else { "" };
    match &card.memory {
        Some(memory) => writeln!(
            out,
            "card {}: {} free of {}, pressure {}{lost}",
            card.card,
            amount(memory.free_mib),
            amount(memory.total_mib),
            memory.pressure
        ),
        None => writeln!(out, "card {}: nothing measures its memory{lost}", card.card),
    }
}

/// What came of an order.
pub fn outcome(out: &mut dyn Write, order: &OrderStatus) -> io::Result<()> {
    if let Errand::HandoffTest { rounds } = &order.errand {
        test(out, order, *rounds)?;
    }
    match &order.state {
        OrderState::Done | OrderState::UnderWay => writeln!(out, "done"),
        OrderState::Failed { why } => writeln!(out, "FAILED: {why}"),
    }
}

fn test(out: &mut dyn Write, order: &OrderStatus, wanted: u32) -> io::Result<()> {
    if !order.rounds.is_empty() {
        writeln!(out, "round  card          out      generation  back, score  score   least free")?;
    }
    for round in &order.rounds {
        let Round { card, number, unload_s, generate_s, score_s, score, least_free_mib, swapped, .. } = round;
        let score = score.map_or_else(|| "none".into(), |score| format!("{score:.4}"));
        let free = least_free_mib.map_or_else(|| "?".into(), amount);
        let moved = if *swapped { "" } else { "  nothing had to be moved" };
        writeln!(
            out,
            "{number:>5}  {card:<12}  {unload_s:>6.2}s  {generate_s:>9.2}s  {score_s:>10.2}s  {score:<6}  {free:>10}{moved}"
        )?;
    }
    let swaps = order.rounds.iter().filter(|round| round.swapped).count();
    let verdict = if order.state == OrderState::Done { "passed" } else { "failed" };
    writeln!(out, "{verdict}: {} rounds of {wanted} a card, {swaps} with a hand-off", order.rounds.len())
}

/// What a worker answers.
#[derive(Debug, Serialize)]
pub struct HealthLine {
    worker: String,
    role: String,
    url: Option<String>,
    /// What answers there.
    server: Option<String>,
    pub available: bool,
    busy: bool,
    /// `false`: it fell back to the CPU.
    gpu_enabled: Option<bool>,
    model_loaded: Option<bool>,
    status: Option<String>,
    /// Another server is there than the worker.
    mistake: Option<String>,
}

/// A worker with what was found at its address, to be compared with the others.
pub fn placed(settings: &Settings, place: &Place, detection: Option<Detection>) -> Option<Placed> {
    let worker = settings.workers().find(|worker| worker.name == place.name)?;
    let (name, endpoint) = (place.name.clone(), place.endpoint.clone()?);
    Some(Placed { name, endpoint, expected: worker.expected(), detection })
}

/// Takes those for unavailable in whose place another server answers, however well it is.
pub fn mark_mistakes(lines: &mut [HealthLine], placed: &[Placed]) {
    for mistake in find_mistakes(placed) {
        if let Some(line) = lines.iter_mut().find(|line| line.worker == mistake.worker()) {
            (line.available, line.mistake) = (false, Some(mistake.to_string()));
        }
    }
}

impl HealthLine {
    pub fn new(place: &Place, detection: Option<&Detection>) -> Self {
        let health = detection.and_then(Detection::detected).map(|detected| detected.health.clone());
        let health = health.unwrap_or_default();
        Self {
            worker: place.name.clone(),
            role: place.role.clone(),
            url: place.endpoint.as_ref().map(ToString::to_string),
            server: detection.map(ToString::to_string),
            // The embedded one is part of the agent.
            available: detection.is_none_or(is_available),
            busy: matches!(detection, Some(Detection::Busy)),
            gpu_enabled: health.gpu_enabled,
            model_loaded: health.model_loaded,
            status: health.status,
            mistake: None,
        }
    }

    pub fn show(&self, out: &mut dyn Write) -> io::Result<()> {
        let verdict = match (self.available, self.busy) {
            _ if self.mistake.is_some() => "MISPLACED",
            (_, true) => "busy",
            (true, false) => "ok",
            (false, false) => "UNAVAILABLE",
        };
        if let Some(mistake) = &self.mistake {
            return writeln!(out, "{:<16} {:<10} {verdict:<12} {mistake}", self.worker, self.role);
        }
        let server = self.server.as_deref().unwrap_or("the embedded development worker");
        let fallback = if self.gpu_enabled == Some(false) { "; it fell back to the CPU" } else { "" };
        let model = match self.model_loaded {
            Some(true) => "; its models are loaded",
            Some(false) => "; its models are not loaded",
            None => "",
        };
        let url = self.url.as_deref().unwrap_or("embedded");
        writeln!(out, "{:<16} {:<10} {verdict:<12} {url}: {server}{fallback}{model}", self.worker, self.role)
    }
}

fn amount(amount: MiB) -> String {
    amount.to_string()
}

fn ago(since: UnixTime, now: UnixTime) -> String {
    let seconds = now.saturating_since(since).as_secs();
    format!("{} ago", humantime::format_duration(std::time::Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(show: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        show(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn status() -> WorkersStatus {
        serde_json::from_value(serde_json::json!({
            "at": "2026-01-01T00:01:00Z",
            "cards": [{
                "card": "GPU-8f3c",
                "memory": {"total_mib": 24576, "free_mib": 4000, "foreign_mib": 100, "pressure": "high"},
                "lost": false,
                "holder": {"role": "generator", "worker": "main", "since": "2026-01-01T00:00:48Z", "deadline_s": 3600},
                "waiting": 2,
                "last_plan": "unload scorer",
                "next": {"at": "2026-01-01T00:01:04Z", "what": "load scorer"},
                "swaps": 7,
                "workers": [
                    {"worker": "main", "role": "generator", "state": "resident", "since": "2026-01-01T00:00:00Z",
                     "residency": "on-demand", "held_mib": 20070, "resident_mib": 9000, "peak_mib": 20070, "owed": false},
                    {"worker": "judge", "role": "scorer", "state": "unloaded", "since": "2026-01-01T00:00:50Z",
                     "residency": "preferred", "held_mib": 406, "resident_mib": 4813, "peak_mib": 4813, "owed": true}
                ]
            }]
        }))
        .unwrap()
    }

    #[test]
    fn ps_shows_who_is_where_and_what_is_next() {
        let text = text(|out| ps(out, &status()));
        for said in [
            "card GPU-8f3c: 4000 MiB free of 24576 MiB, pressure high",
            "main             generator  resident     20070 MiB  1m ago",
            "judge            scorer     unloaded       406 MiB  10s ago      preferred   to come back",
            "at work        main as generator, since 12s ago",
            "waiting        2",
            "last hand-off  unload scorer; 7 so far",
            "next           load scorer in 4.0s",
        ] {
            assert!(text.contains(said), "{said}\n{text}");
        }
    }

    #[test]
    fn the_report_adds_up() {
        let text = text(|out| report(out, &status()));
        for said in [
            "all                20476 MiB   13813 MiB   24883 MiB",
            "others               100 MiB",
            "free                4000 MiB",
            "peaks 24883 MiB of 24576 MiB: they do not fit at once and take turns",
        ] {
            assert!(text.contains(said), "{said}\n{text}");
        }
    }

    #[test]
    fn a_test_tells_each_round_and_its_verdict() {
        let order: OrderStatus = serde_json::from_value(serde_json::json!({
            "id": 1, "errand": {"what": "handoff-test", "rounds": 2}, "given_at": "2026-01-01T00:00:00Z",
            "state": {"state": "failed", "why": "round 2 on card GPU-8f3c: the scorer gave no verdict"},
            "lines": [],
            "rounds": [{"card": "GPU-8f3c", "number": 1, "waited_s": 0.0, "unload_s": 1.5, "generate_s": 30.0,
                        "score_s": 8.5, "score": 0.81, "least_free_mib": 4000, "swapped": true}]
        }))
        .unwrap();
        let text = text(|out| outcome(out, &order));
        assert!(
            text.contains("    1  GPU-8f3c        1.50s      30.00s        8.50s  0.8100    4000 MiB"),
            "{text}"
        );
        assert!(text.contains("failed: 1 rounds of 2 a card, 1 with a hand-off"), "{text}");
        assert!(text.contains("FAILED: round 2 on card GPU-8f3c"), "{text}");
    }
}
