//! `feedback`: what validators said, from the agent's memory.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::io::Interest;
use tokio::net::unix::pipe;

use super::ExitStatus;
use super::layers::LayerArgs;
use super::run::{kept_data, runtime};
use super::stop::StopSignals;
use crate::clock::Clock;
use crate::primitives::{Hotkey, PromptKind, SourceId, Untrusted};
use crate::store::{FeedbackFilter, FeedbackReader, FeedbackRow, Outcome, ReadError};

/// Between two looks at the database with `--follow`.
const POLL: Duration = Duration::from_millis(500);

/// Replies read at once, so that a long memory is never held as a whole.
const PAGE: u32 = 500;

/// Replies shown before the live ones, if nothing else is asked for.
const BEFORE_FOLLOWING: u32 = 10;

#[derive(Debug, Args)]
pub struct FeedbackArgs {
    /// Go on with new replies as they arrive, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// One JSON object per line, with every field
    #[arg(long)]
    json: bool,
    /// Only the last N replies (default: all; with --follow 10)
    #[arg(long, value_name = "N", conflicts_with = "since")]
    last: Option<u32>,
    /// Only replies of this last stretch of time, such as 4h or 2days
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// Only replies of this validator
    #[arg(long, visible_alias = "source", value_name = "HOTKEY")]
    validator: Option<Hotkey>,
}

/// There is nothing to show, and why.
#[derive(Debug, thiserror::Error)]
pub enum NothingToRead {
    #[error(
        "the embedded development network forgets everything when it ends: start it with \
         `run --set paths.data=DIR` and give the same --set here"
    )]
    Temporary,
    #[error(transparent)]
    Read(#[from] ReadError),
}

pub fn run(layers: &LayerArgs, args: &FeedbackArgs) -> anyhow::Result<ExitStatus> {
    let settings = layers.load()?.settings;
    let data = kept_data(&settings)?.ok_or(NothingToRead::Temporary)?;
    runtime()?.block_on(show(data, args, Clock::system()))
}

async fn show(data: PathBuf, args: &FeedbackArgs, clock: Clock) -> anyhow::Result<ExitStatus> {
    let signals = StopSignals::listen()?;
    let filter = FeedbackFilter {
        source: args.validator.map(SourceId::Validator),
        since: args.since.map(|stretch| clock.now() - stretch),
    };
    let reader = FeedbackReader::open(&data, filter).await.map_err(NothingToRead::from)?;
    let last = args.last.or((args.follow && args.since.is_none()).then_some(BEFORE_FOLLOWING));
    let mut seen = match last {
        Some(count) => reader.before_last(count).await?,
        None => 0,
    };
    let gone = reader_gone();
    tokio::pin!(gone);
    loop {
        let rows = reader.after(seen, PAGE).await?;
        let mut out = io::stdout().lock();
        for row in &rows {
            seen = row.row;
            print(&mut out, row, args.json)?;
        }
        out.flush()?;
        drop(out);
        if signals.stop.is_cancelled() {
            return Ok(ExitStatus::Done);
        }
        if rows.len() == PAGE as usize {
            continue;
        }
        if !args.follow {
            return Ok(ExitStatus::Done);
        }
        tokio::select! {
            () = signals.stop.cancelled() => return Ok(ExitStatus::Done),
            () = &mut gone => return Ok(ExitStatus::Done),
            () = clock.sleep(POLL) => {}
        }
    }
}

/// Ends when the other end of the pipe on stdout is closed; never if stdout is no pipe.
///
/// Without it `feedback --follow | head -1` would stay until the next reply.
async fn reader_gone() {
    use std::os::fd::AsFd;

    let watch = io::stdout().as_fd().try_clone_to_owned().and_then(pipe::Sender::from_owned_fd_unchecked);
    if let Ok(pipe) = watch {
        while let Ok(ready) = pipe.ready(Interest::ERROR).await {
            if ready.is_error() || ready.is_write_closed() {
                return;
            }
        }
    }
    std::future::pending().await
}

fn print(out: &mut impl Write, row: &FeedbackRow, json: bool) -> io::Result<()> {
    if json {
        serde_json::to_writer(&mut *out, row)?;
        return writeln!(out);
    }
    let uid = row.uid.map_or_else(|| "?".into(), |uid| uid.to_string());
    let score = match row.outcome {
        Outcome::Empty => "empty".into(),
        _ if row.validation_failed => "failed".into(),
        _ => row.score.to_string(),
    };
    let local = row.local_score.map_or_else(|| "none".into(), |score| score.to_string());
    let prompt = match (row.prompt_kind, &row.prompt) {
        (PromptKind::Image, _) | (_, None) => format!("image, {} base64 characters", row.prompt_chars),
        (_, Some(text)) => Untrusted::new(text).to_string(),
    };
    writeln!(
        out,
        "{} {:>5} score {score:<6} local {local:<6} average {} rating {:.1} window {:>3} reward {:.1} \
         outcome={} task={} ({prompt})",
        row.received_at,
        format!("[{uid}]"),
        row.average_score,
        row.duel_rating,
        row.window_count,
        row.reward,
        row.outcome,
        row.task.short(),
    )
}
