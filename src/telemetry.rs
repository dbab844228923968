//! Log lines.
//!
//! Text by default: time, level, message, fields, one event a line, fit for `grep` and a terminal
//! alike. Everything a stranger wrote is escaped by who logs it, and again by the formatter.

use std::fmt;

use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::clock::Clock;

/// Where log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    /// The log is the command's data.
    Stdout,
    Stderr,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

/// Starts logging for the whole process; later calls change nothing.
pub fn start(level: LevelFilter, format: Format, sink: Sink, clock: Clock) {
    let writer = Output(sink);
    // Libraries speak up only about trouble.
    let filter = Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("sn17_miner", level);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match format {
        Format::Text => {
            let layer = tracing_subscriber::fmt::layer()
                .with_ansi(false)
                .with_writer(writer)
                .event_format(Line(clock));
            registry.with(layer).try_init()
        }
        Format::Json => {
            let layer = tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_target(false)
                .with_timer(Time(clock))
                .with_writer(writer);
            registry.with(layer).try_init()
        }
    };
    // Only a second call can fail, and the first one's log goes on.
    drop(started);
}

#[derive(Debug, Clone, Copy)]
struct Output(Sink);

impl<'a> MakeWriter<'a> for Output {
    type Writer = Box<dyn std::io::Write>;
    fn make_writer(&'a self) -> Self::Writer {
        match self.0 {
            Sink::Stdout => Box::new(std::io::stdout()),
            Sink::Stderr => Box::new(std::io::stderr()),
        }
    }
}

struct Time(Clock);

impl tracing_subscriber::fmt::time::FormatTime for Time {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{}", self.0.now())
    }
}

/// `TIME LEVEL message field=value ... span-field=value ...`
struct Line(Clock);

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut w: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(w, "{} {:>5} ", self.0.now(), event.metadata().level())?;
        ctx.field_format().format_fields(w.by_ref(), event)?;
        for span in ctx.event_scope().into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>()
                && !fields.is_empty()
            {
                write!(w, " {fields}")?;
            }
        }
        writeln!(w)
    }
}
