//! `stats`: what came of a stretch of time, from the agent's memory.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::ExitStatus;
use super::feedback::NothingToRead;
use super::layers::LayerArgs;
use super::run::{kept_data, runtime};
use crate::clock::Clock;
use crate::primitives::{Hotkey, SourceId, Uid, UnixTime};
use crate::store::{Histogram, LaneKey, Latest, Stats, Tally};

#[derive(Debug, Args)]
pub struct StatsArgs {
    /// From when on: a last stretch of time such as 24h or 7d, a moment such as 2026-11-20T00:00:00Z, or all
    #[arg(long, value_name = "TIME", default_value = "24h")]
    since: Since,
    /// What the table has a row for
    #[arg(long, value_enum, default_value_t = By::Validator)]
    by: By,
    /// Print JSON: the whole, and each validator and hotkey by itself
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    Validator,
    Hotkey,
}

/// Where a period begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    All,
    Last(Duration),
    Moment(UnixTime),
}

impl FromStr for Since {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        if let Ok(stretch) = humantime::parse_duration(text) {
            return Ok(Self::Last(stretch));
        }
        match humantime::parse_rfc3339_weak(text) {
            Ok(moment) => Ok(Self::Moment(UnixTime::from_system(moment))),
            Err(_) => Err("neither a stretch such as 24h or 7d, nor a moment such as \
                 2026-11-20T00:00:00Z, nor all"
                .into()),
        }
    }
}

pub fn run(layers: &LayerArgs, args: &StatsArgs) -> anyhow::Result<ExitStatus> {
    let settings = layers.load()?.settings;
    let data = kept_data(&settings)?.ok_or(NothingToRead::Temporary)?;
    let now = Clock::system().now();
    let since = match args.since {
        Since::All => None,
        Since::Last(stretch) => Some(now - stretch),
        Since::Moment(moment) => Some(moment),
    };
    let stats = runtime()?.block_on(Stats::read(&data, since, now)).map_err(NothingToRead::from)?;
    let report = Report::of(&stats);
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        show(&mut out, &report, args.by)?;
    }
    Ok(ExitStatus::Done)
}

/// What `--json` prints. Shares are 0 to 1; what cannot be told is null.
#[derive(Debug, Serialize)]
struct Report {
    from: UnixTime,
    until: UnixTime,
    hours: f64,
    total: Group,
    validators: Vec<Group>,
    hotkeys: Vec<Group>,
}

/// Some lanes together.
#[derive(Debug, Serialize)]
struct Group {
    /// Its hotkey; null where several are added up.
    validator: Option<Hotkey>,
    /// By the newest feedback.
    validator_uid: Option<Uid>,
    /// Ours; null where several are added up.
    hotkey: Option<Hotkey>,
    tasks: Tasks,
    accepted_per_hour: f64,
    /// Low and empty.
    failed_per_hour: f64,
    /// Of accepted and low.
    acceptance_rate: Option<f64>,
    scores: Scores,
    latest: Option<Newest>,
    generations: u64,
    making: Making,
    stages: Stages,
}

/// How tasks ended.
#[derive(Debug, Serialize)]
struct Tasks {
    accepted: u64,
    low: u64,
    scorer_failed: u64,
    empty: u64,
    settled: u64,
    lost: u64,
}

#[derive(Debug, Serialize)]
struct Scores {
    /// Of all accepted results, by the validators.
    accepted_mean: Option<f64>,
    /// Accepted results that have a local score too; the next four are over these.
    compared: u64,
    local_mean: Option<f64>,
    remote_mean: Option<f64>,
    /// Remote less local.
    difference_mean: Option<f64>,
    difference_deviation: Option<f64>,
    /// Accepted and low results that reached the threshold here.
    passed_here: u64,
    /// Of those, the low ones: good here, rejected there.
    rejected_there: u64,
    rejected_there_share: Option<f64>,
}

/// What the newest feedback of each lane says.
#[derive(Debug, Serialize)]
struct Newest {
    at: UnixTime,
    lanes: usize,
    /// Summed over the lanes.
    reward: f64,
    /// Mean of the lanes.
    duel_rating: f64,
    /// Accepted results in the last four hours, summed over the lanes.
    window_count: u64,
}

/// From the first wait for a card to the last byte of the result that was submitted.
#[derive(Debug, Serialize)]
struct Making {
    /// Tasks with a result.
    tasks: u64,
    over_30s: u64,
    over_30s_share: Option<f64>,
    /// Those over 30 s by what took longest.
    over_30s_by_cause: Causes,
}

#[derive(Debug, Serialize)]
struct Causes {
    queue: u64,
    handoff: u64,
    generation: u64,
    retries: u64,
}

#[derive(Debug, Serialize)]
struct Stages {
    queue: Times,
    handoff: Times,
    generation: Times,
    encoding: Times,
    scoring: Times,
    upload: Times,
    validator: Times,
}

impl Stages {
    const fn named(&self) -> [(&'static str, &Times); 7] {
        [
            ("queue", &self.queue),
            ("hand-off", &self.handoff),
            ("generation", &self.generation),
            ("encoding", &self.encoding),
            ("scoring", &self.scoring),
            ("upload", &self.upload),
            ("validator", &self.validator),
        ]
    }
}

/// The percentiles are within 3.2 %, the maximum is exact.
#[derive(Debug, Serialize)]
struct Times {
    count: u64,
    p50_ms: Option<u64>,
    p95_ms: Option<u64>,
    max_ms: Option<u64>,
}

impl Report {
    fn of(stats: &Stats) -> Self {
        let hours = stats.hours();
        let mut validators: BTreeMap<Hotkey, Vec<&Lane>> = BTreeMap::new();
        let mut hotkeys: BTreeMap<Hotkey, Vec<&Lane>> = BTreeMap::new();
        for lane in &stats.lanes {
            let SourceId::Validator(validator) = lane.0.source;
            validators.entry(validator).or_default().push(lane);
            hotkeys.entry(lane.0.hotkey).or_default().push(lane);
        }
        let validator = |(validator, lanes): (Hotkey, Vec<&Lane>)| {
            let newest = lanes.iter().filter_map(|(_, tally)| tally.latest).max_by_key(|latest| latest.at);
            Group {
                validator: Some(validator),
                validator_uid: newest.and_then(|latest| latest.uid),
                ..Group::of(&lanes, hours)
            }
        };
        let hotkey = |(hotkey, lanes): (Hotkey, Vec<&Lane>)| Group {
            hotkey: Some(hotkey),
            ..Group::of(&lanes, hours)
        };
        Self {
            from: stats.from,
            until: stats.until,
            hours,
            total: Group::of(&stats.lanes.iter().collect::<Vec<_>>(), hours),
            validators: validators.into_iter().map(validator).collect(),
            hotkeys: hotkeys.into_iter().map(hotkey).collect(),
        }
    }
}

type Lane = (LaneKey, Tally);

impl Group {
    /// Without saying whose lanes these are.
    fn of(lanes: &[&Lane], hours: f64) -> Self {
        let mut sum = Tally::default();
        lanes.iter().for_each(|(_, tally)| sum.add(tally));
        let per_hour = |count: u64| if hours > 0.0 { count as f64 / hours } else { 0.0 };
        let latest: Vec<Latest> = lanes.iter().filter_map(|(_, tally)| tally.latest).collect();
        Self {
            validator: None,
            validator_uid: None,
            hotkey: None,
            tasks: Tasks {
                accepted: sum.accepted,
                low: sum.low,
                scorer_failed: sum.scorer_failed,
                empty: sum.empty,
                settled: sum.settled,
                lost: sum.lost,
            },
            accepted_per_hour: per_hour(sum.accepted),
            failed_per_hour: per_hour(sum.low + sum.empty),
            acceptance_rate: mean(sum.accepted as f64, sum.accepted + sum.low),
            scores: Scores::of(&sum),
            latest: Newest::of(&latest),
            generations: sum.generations,
            making: Making {
                tasks: sum.made,
                over_30s: sum.slow.sum(),
                over_30s_share: mean(sum.slow.sum() as f64, sum.made),
                over_30s_by_cause: Causes {
                    queue: sum.slow.queue,
                    handoff: sum.slow.handoff,
                    generation: sum.slow.generator,
                    retries: sum.slow.retries,
                },
            },
            stages: Stages {
                queue: Times::of(&sum.times.queue),
                handoff: Times::of(&sum.times.handoff),
                generation: Times::of(&sum.times.generation),
                encoding: Times::of(&sum.times.encoding),
                scoring: Times::of(&sum.times.scoring),
                upload: Times::of(&sum.times.upload),
                validator: Times::of(&sum.times.validator),
            },
        }
    }
}

impl Scores {
    fn of(sum: &Tally) -> Self {
        let difference = mean(sum.remote_sum - sum.local_sum, sum.compared);
        let squares = mean(sum.difference_squares, sum.compared);
        Self {
            accepted_mean: mean(sum.score_sum, sum.accepted),
            compared: sum.compared,
            local_mean: mean(sum.local_sum, sum.compared),
            remote_mean: mean(sum.remote_sum, sum.compared),
            difference_mean: difference,
            // Rounding can bring it below zero.
            difference_deviation: squares.zip(difference).map(|(s, d)| (s - d * d).max(0.0).sqrt()),
            passed_here: sum.passed_here,
            rejected_there: sum.rejected_there,
            rejected_there_share: mean(sum.rejected_there as f64, sum.passed_here),
        }
    }
}

impl Newest {
    fn of(lanes: &[Latest]) -> Option<Self> {
        Some(Self {
            at: lanes.iter().map(|latest| latest.at).max()?,
            lanes: lanes.len(),
            reward: lanes.iter().map(|latest| latest.reward).sum(),
            duel_rating: lanes.iter().map(|latest| latest.duel_rating).sum::<f64>() / lanes.len() as f64,
            window_count: lanes.iter().map(|latest| latest.window_count).sum(),
        })
    }
}

impl Times {
    fn of(histogram: &Histogram) -> Self {
        Self {
            count: histogram.count(),
            p50_ms: histogram.percentile(0.50),
            p95_ms: histogram.percentile(0.95),
            max_ms: histogram.max(),
        }
    }
}

fn mean(sum: f64, count: u64) -> Option<f64> {
    (count > 0).then(|| sum / count as f64)
}

fn show(out: &mut impl Write, report: &Report, by: By) -> io::Result<()> {
    let Report { from, until, hours, total, .. } = report;
    writeln!(out, "period        {from} to {until}, {hours:.1} hours")?;
    if report.validators.is_empty() {
        return writeln!(out, "tasks         none ended in it");
    }
    let Tasks { accepted, low, scorer_failed, empty, settled, lost } = total.tasks;
    writeln!(
        out,
        "accepted      {accepted}, {:.2}/h; {} of {} judged",
        total.accepted_per_hour,
        percent(total.acceptance_rate),
        accepted + low
    )?;
    writeln!(out, "failed        {}, {:.2}/h: {low} low, {empty} empty", low + empty, total.failed_per_hour)?;
    if scorer_failed + settled + lost > 0 {
        writeln!(
            out,
            "besides       {scorer_failed} where the validator's scorer failed, {settled} closed unseen, {lost} lost"
        )?;
    }
    let scores = &total.scores;
    if let (Some(local), Some(remote), Some(difference), Some(deviation)) =
        (scores.local_mean, scores.remote_mean, scores.difference_mean, scores.difference_deviation)
    {
        writeln!(
            out,
            "scores        {local:.4} here, {remote:.4} there, difference {difference:+.4} (deviation {deviation:.4}), of {} accepted",
            scores.compared
        )?;
    } else if let Some(mean) = scores.accepted_mean {
        writeln!(out, "scores        {mean:.4} there; none was scored here")?;
    }
    if scores.passed_here > 0 {
        writeln!(
            out,
            "contradicted  {} of {} that passed here were rejected there ({})",
            scores.rejected_there,
            scores.passed_here,
            percent(scores.rejected_there_share)
        )?;
    }
    let Making { tasks, over_30s, over_30s_share, over_30s_by_cause: causes } = &total.making;
    let Causes { queue, handoff, generation, retries } = causes;
    writeln!(
        out,
        "over 30 s     {over_30s} of {tasks} made ({}), by their longest part: queue {queue}, hand-off {handoff}, \
         generation {generation}, retries {retries}",
        percent(*over_30s_share)
    )?;

    writeln!(out, "\n  stage         count       p50       p95       max")?;
    for (name, times) in total.stages.named() {
        let Times { count, p50_ms, p95_ms, max_ms } = times;
        let [p50, p95, max] = [p50_ms, p95_ms, max_ms].map(|ms| seconds(*ms));
        writeln!(out, "  {name:<10}  {count:>7}  {p50:>8}  {p95:>8}  {max:>8}")?;
    }

    let (groups, whose) = match by {
        By::Validator => (&report.validators, "  uid  validator       "),
        By::Hotkey => (&report.hotkeys, "  hotkey          "),
    };
    writeln!(
        out,
        "\n{whose}  accepted/h  failed/h   empty  accepted    here   there     reward  rating  in 4h  over 30 s"
    )?;
    groups.iter().try_for_each(|group| show_group(out, group))
}

fn show_group(out: &mut impl Write, group: &Group) -> io::Result<()> {
    let short = |key: &Hotkey| key.to_ss58().chars().take(15).collect::<String>();
    let uid = group.validator_uid.map_or_else(|| "?".into(), |uid| uid.to_string());
    let whose = match (&group.validator, &group.hotkey) {
        (Some(validator), _) => format!("{uid:>5}  {}…", short(validator)),
        (None, hotkey) => format!("  {}…", hotkey.as_ref().map(short).unwrap_or_default()),
    };
    let score = |mean: Option<f64>| mean.map_or_else(|| "-".into(), |mean| format!("{mean:.4}"));
    let there = group.scores.remote_mean.or(group.scores.accepted_mean);
    let [reward, rating, window] = match &group.latest {
        None => ["-".into(), "-".into(), "-".into()],
        Some(latest) => [
            format!("{:.1}", latest.reward),
            format!("{:.1}", latest.duel_rating),
            latest.window_count.to_string(),
        ],
    };
    writeln!(
        out,
        "{whose}  {:>10.2}  {:>8.2}  {:>6}  {:>8}  {:>6}  {:>6}  {reward:>9}  {rating:>6}  {window:>5}  {:>9}",
        group.accepted_per_hour,
        group.failed_per_hour,
        group.tasks.empty,
        percent(group.acceptance_rate),
        score(group.scores.local_mean),
        score(there),
        percent(group.making.over_30s_share)
    )
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".into(), |share| format!("{:.1} %", 100.0 * share))
}

fn seconds(ms: Option<u64>) -> String {
    ms.map_or_else(|| "-".into(), |ms| format!("{:.2}s", ms as f64 / 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_a_stretch_a_moment_or_all() {
        assert_eq!("24h".parse(), Ok(Since::Last(Duration::from_secs(86_400))));
        assert_eq!("7d".parse(), Ok(Since::Last(Duration::from_secs(7 * 86_400))));
        assert_eq!("all".parse(), Ok(Since::All));
        let moment = Since::Moment(UnixTime::from_secs(1_763_596_800));
        assert_eq!("2025-11-20T00:00:00Z".parse(), Ok(moment));
        assert_eq!("2025-11-20 00:00:00".parse(), Ok(moment));
        for wrong in ["", "24", "yesterday", "-1h", "2025-13-01T00:00:00Z"] {
            assert!(wrong.parse::<Since>().is_err(), "{wrong}");
        }
    }
}
