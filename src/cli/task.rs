//! `--task` and `--image`: one prompt, tried and not submitted.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::ExitStatus;
use super::layers::LayerArgs;
use super::run::{runtime, start_log};
use super::stop::StopSignals;
use super::workplace::{INTERRUPTED, Workplace};
use crate::app::{Purpose, Workshop};
use crate::clock::Clock;
use crate::config::{Settings, WorkerUrl};
use crate::mining::{Bench, Candidate, SeedSource, judge, make};
use crate::primitives::{LocalId, Prompt, Seed};
use crate::splat::write_ply;
use crate::store::Verdict;
use crate::telemetry::Sink;

/// Largest image taken as a prompt.
const MAX_IMAGE: u64 = 32 << 20;

#[derive(Debug, Args)]
#[command(next_help_heading = "One prompt")]
pub struct TaskArgs {
    /// Make a splat of this text, check and score it; nothing is submitted
    #[arg(long, value_name = "TEXT", conflicts_with = "image")]
    task: Option<String>,
    /// The same with an image
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Seed of the generation (default: random)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=0x7fff_ffff))]
    seed: Option<u32>,
    /// Where the files go (default: paths.out of the configuration)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

impl TaskArgs {
    pub fn is_wanted(&self) -> bool {
        self.task.is_some() || self.image.is_some()
    }

    fn prompt(&self) -> anyhow::Result<Prompt> {
        match (&self.task, &self.image) {
            (Some(text), _) if text.trim().is_empty() => bail!("the prompt is empty"),
            (Some(text), _) => Ok(Prompt::Text(text.as_str().into())),
            (None, Some(path)) => {
                let size = fs::metadata(path).with_context(|| format!("read {}", path.display()))?.len();
                if size > MAX_IMAGE {
                    bail!("{} has {size} bytes, more than {MAX_IMAGE}", path.display());
                }
                let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
                image::guess_format(&bytes)
                    .with_context(|| format!("{} is no image of a known kind", path.display()))?;
                Ok(Prompt::Image(STANDARD.encode(bytes).into()))
            }
            (None, None) => bail!("name a prompt"),
        }
    }
}

#[derive(Serialize)]
struct Summary {
    id: String,
    kind: String,
    prompt: Option<String>,
    image: Option<PathBuf>,
    seed: Seed,
    worker: String,
    points: u32,
    sh_degree: usize,
    spz: Written,
    ply: Option<Written>,
    summary: PathBuf,
    /// Null without a verdict.
    score: Option<f64>,
    /// "scored", "no-verdict" or "unscored".
    verdict: &'static str,
    scorer: Option<String>,
    seconds: Seconds,
    /// What to know about the figures above.
    note: Option<&'static str>,
}

#[derive(Serialize)]
struct Written {
    file: PathBuf,
    bytes: usize,
    sha256: String,
}

#[derive(Serialize)]
struct Seconds {
    queue: f64,
    generation: f64,
    first_byte: f64,
    encoding: f64,
    scoring: f64,
}

pub fn run(layers: &LayerArgs, args: &TaskArgs) -> anyhow::Result<ExitStatus> {
    let settings = layers.load()?.settings;
    let prompt = args.prompt()?;
    let clock = Clock::system();
    start_log(&settings, Sink::Stderr, clock);
    layers.warn_of_idle_flags();
    runtime()?.block_on(async {
        let signals = StopSignals::listen().context("listen for signals")?;
        one_shot(&settings, args, prompt, clock, &signals).await
    })
}

async fn one_shot(
    settings: &Settings,
    args: &TaskArgs,
    prompt: Prompt,
    clock: Clock,
    signals: &StopSignals,
) -> anyhow::Result<ExitStatus> {
    let mut place = Workplace::take(settings, clock, Purpose::Errand).await?;
    let tried = {
        let tried = try_out(&place.workshop, settings, args, &prompt, clock);
        tokio::pin!(tried);
        tokio::select! {
            tried = &mut tried => tried,
            () = signals.stop.cancelled() => {
                eprintln!("{INTERRUPTED}");
                // The generator's own answer is the best sign that its work has ended.
                tokio::select! {
                    () = place.workshop.close() => {}
                    () = signals.now.cancelled() => {}
                    () = async { drop(tried.await); std::future::pending().await } => {}
                }
                Err(anyhow!("interrupted, nothing was written"))
            }
        }
    };
    // Nobody else brings back who has left.
    place.leave(signals).await;
    drop(place);
    let tried = tried?;

    let files = Files {
        out: args.out.clone().unwrap_or_else(|| settings.paths.out.clone()),
        keep_ply: settings.keep_ply,
        image: args.image.clone(),
        embedded: settings.generator.url == WorkerUrl::Devnet,
    };
    let summary = tokio::task::spawn_blocking(move || files.write(&prompt, tried));
    let summary = summary.await.context("write the results")??;
    print(&summary, args.json)?;
    Ok(ExitStatus::Done)
}

/// What became of one prompt.
struct Tried {
    id: LocalId,
    seed: Seed,
    candidate: Candidate,
    verdict: Verdict,
    scoring: Duration,
    worker: String,
    scorer: Option<String>,
}

async fn try_out(
    workshop: &Workshop,
    settings: &Settings,
    args: &TaskArgs,
    prompt: &Prompt,
    clock: Clock,
) -> anyhow::Result<Tried> {
    let takes = |bench: &&Bench| bench.generator.makes(prompt.kind());
    let bench = workshop.benches.iter().find(takes).or(workshop.benches.first());
    let bench = bench.context("no card is configured")?;
    let seeds = SeedSource::from_os();
    let id = seeds.local_id(clock.now());
    let seed = args.seed.map_or_else(|| seeds.seed(), Seed::new);
    let candidate = make(bench, &id, prompt, seed, Duration::ZERO, settings.keep_ply).await?;
    let started = clock.instant();
    let verdict = judge(bench, None, &id, prompt, &candidate.spz).await?;
    Ok(Tried {
        id,
        seed,
        candidate,
        verdict,
        scoring: started.elapsed(),
        worker: bench.generator.name().to_owned(),
        scorer: bench.scorer.as_ref().map(|scorer| scorer.name().to_owned()),
    })
}

/// What is written, and where.
struct Files {
    out: PathBuf,
    keep_ply: bool,
    image: Option<PathBuf>,
    embedded: bool,
}

impl Files {
    fn write(self, prompt: &Prompt, tried: Tried) -> anyhow::Result<Summary> {
        let Self { out, keep_ply, image, embedded } = self;
        let Tried { id, seed, candidate, verdict, scoring, worker, scorer } = tried;
        let (verdict, score) = match verdict {
            Verdict::Scored(score) => ("scored", Some(score.get())),
            Verdict::NoVerdict => ("no-verdict", None),
            Verdict::Unscored => ("unscored", None),
        };
        let (spz, ply) = write_files(&out, &id, &candidate, keep_ply)?;
        let summary = Summary {
            id: id.to_string(),
            kind: prompt.kind().to_string(),
            prompt: match prompt {
                Prompt::Text(text) => Some(text.to_string()),
                _ => None,
            },
            image,
            seed,
            worker,
            points: candidate.spz.points(),
            sh_degree: candidate.spz.degree() as usize,
            spz,
            ply,
            summary: out.join(format!("{id}.json")),
            score,
            verdict,
            scorer,
            seconds: seconds(&candidate, scoring),
            note: embedded.then_some("made by the embedded development workers: no model was involved"),
        };
        write_whole(&summary.summary, &serde_json::to_vec_pretty(&summary)?)?;
        Ok(summary)
    }
}

fn seconds(candidate: &Candidate, scoring: Duration) -> Seconds {
    Seconds {
        queue: candidate.spent.waited.as_secs_f64(),
        generation: candidate.spent.generation.as_secs_f64(),
        first_byte: candidate.first_byte.as_secs_f64(),
        encoding: candidate.encoding.as_secs_f64(),
        scoring: scoring.as_secs_f64(),
    }
}

fn write_files(
    out: &Path,
    id: &LocalId,
    candidate: &Candidate,
    keep_ply: bool,
) -> anyhow::Result<(Written, Option<Written>)> {
    fs::create_dir_all(out).with_context(|| format!("make {}", out.display()))?;
    let spz = written(out.join(format!("{id}.spz")), candidate.spz.as_bytes())?;
    let ply = match (&candidate.ply, keep_ply) {
        (_, false) => None,
        (Some(ply), true) => Some(written(out.join(format!("{id}.ply")), ply)?),
        // The generator sent SPZ: its content as PLY.
        (None, true) => {
            let mut ply = Vec::new();
            write_ply(&candidate.spz.to_splat()?, false, &mut ply)?;
            Some(written(out.join(format!("{id}.ply")), &ply)?)
        }
    };
    Ok((spz, ply))
}

fn written(file: PathBuf, bytes: &[u8]) -> anyhow::Result<Written> {
    write_whole(&file, bytes)?;
    let sha256 = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Written { file, bytes: bytes.len(), sha256 })
}

/// The file appears whole or not at all.
fn write_whole(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let temporary = file.with_extension("part");
    fs::write(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, file))
        .with_context(|| format!("write {}", file.display()))
}

fn print(summary: &Summary, json: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, summary)?;
        writeln!(out)?;
        return Ok(());
    }
    let score = match (summary.score, summary.verdict) {
        (Some(score), _) => format!("{score:.4}"),
        (None, "unscored") => "none (no scorer)".into(),
        (None, _) => "none (the scorer gave no verdict)".into(),
    };
    let seconds = &summary.seconds;
    let mut row = |name: &str, value: String| writeln!(out, "{name:<12}{value}");
    row("score", score)?;
    row("gaussians", format!("{}, SH degree {}", summary.points, summary.sh_degree))?;
    row("seed", summary.seed.to_string())?;
    row("spz", format!("{} ({} bytes)", summary.spz.file.display(), summary.spz.bytes))?;
    if let Some(ply) = &summary.ply {
        row("ply", format!("{} ({} bytes)", ply.file.display(), ply.bytes))?;
    }
    row("summary", summary.summary.display().to_string())?;
    row(
        "seconds",
        format!(
            "generation {:.2}, encoding {:.3}, scoring {:.2}",
            seconds.generation, seconds.encoding, seconds.scoring
        ),
    )?;
    if let Some(note) = summary.note {
        row("note", note.into())?;
    }
    Ok(())
}
