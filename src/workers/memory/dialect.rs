//! Which verbs a worker has for its memory, and what is known of them (workers.md).

use std::fmt;
use std::str::FromStr;

/// What can be asked of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Models out of the card's memory.
    Unload,
    /// Models back into it.
    Load,
    /// Caches out of it; models stay.
    Cleanup,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unload => "unload",
            Self::Load => "load",
            Self::Cleanup => "cleanup",
        })
    }
}

/// How a verb is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// A call to the worker.
    Call,
    /// Nothing to do: the worker does it by itself when it is next used.
    OnDemand,
    /// The worker's process has to be stopped or started.
    Process,
    /// It cannot be done.
    Nothing,
}

/// Whose memory a worker's status speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// The whole device, all processes counted.
    Device,
    /// What this worker holds itself; others are not seen.
    Own,
    /// No sizes.
    Nothing,
}

/// A text that can stand in a path or a query as it is: a model's name, a part, a tag.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerWord(String);

impl WorkerWord {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WorkerWord {
    type Err = InvalidDialect;
    fn from_str(text: &str) -> Result<Self, InvalidDialect> {
        // A segment of dots would climb out of the path it is put into.
        let climbs = text.split('/').any(|part| matches!(part, "" | "." | ".."));
        let plain =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '/' | '@' | '+');
        if climbs || text.len() > 256 || !text.chars().all(plain) {
            return Err(InvalidDialect(format!("`{}` is no name of a model", text.escape_debug())));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for WorkerWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What vLLM's sleep gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SleepLevel {
    /// Weights go to the host's memory.
    Keep,
    /// Weights are dropped and read from disk again.
    Drop,
}

/// What the figure in the answer to `/clear_cache/` counts. Both kinds of server call it
/// `available_memory_gb`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheFigure {
    /// The device's total without what this process has allocated (GEN-HUN): blind to all others.
    WithoutOwn,
    /// The device's free memory (GEN-SUB).
    Free,
}

/// The verbs a worker has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MemoryDialect {
    /// `/unload_models/`, `/reload_models/`, `/cleanup_gpu/`, `/gpu_status/` (VAL-HO).
    ThreeGen,
    /// `/clear_cache/` alone (GEN-HUN, GEN-SUB).
    ClearCache(CacheFigure),
    /// `/memory/*` (MEM), of one of the worker's models or of all.
    Memory(Option<WorkerWord>),
    /// vLLM's sleep mode; without tags all is put to sleep and woken.
    Vllm { level: SleepLevel, tags: Vec<WorkerWord> },
    /// ComfyUI.
    Comfy,
    /// Ollama: one model, or every model it has loaded.
    Ollama(Option<WorkerWord>),
    /// llama-swap: one model, or every model it runs.
    LlamaSwap(Option<WorkerWord>),
    /// Triton with `--model-control-mode=explicit`.
    Triton(WorkerWord),
    /// None: the process is stopped and started.
    Process,
    /// None: the worker stays as it is.
    Nothing,
}

impl MemoryDialect {
    /// How it is called in the configuration, without what follows the colon.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ThreeGen => "three-gen",
            Self::ClearCache(_) => "clear-cache",
            Self::Memory(_) => "memory",
            Self::Vllm { .. } => "vllm",
            Self::Comfy => "comfy",
            Self::Ollama(_) => "ollama",
            Self::LlamaSwap(_) => "llama-swap",
            Self::Triton(_) => "triton",
            Self::Process => "process",
            Self::Nothing => "none",
        }
    }

    pub const fn means(&self, verb: Verb) -> Means {
        match (self, verb) {
            (Self::ThreeGen, _)
            | (Self::ClearCache(_), Verb::Cleanup)
            | (
                Self::Memory(_)
                | Self::Vllm { .. }
                | Self::Ollama(_)
                | Self::LlamaSwap(_)
                | Self::Triton(_)
                | Self::Comfy,
                Verb::Unload,
            )
            | (
                Self::Memory(_)
                | Self::Vllm { .. }
                | Self::Ollama(Some(_))
                | Self::LlamaSwap(Some(_))
                | Self::Triton(_),
                Verb::Load,
            ) => Means::Call,
            (Self::Comfy | Self::Ollama(None) | Self::LlamaSwap(None), Verb::Load) => Means::OnDemand,
            // Weights stay with a cache verb. ComfyUI's `free_memory` takes the models along.
            (Self::ClearCache(_) | Self::Process, Verb::Unload | Verb::Load) => Means::Process,
            _ => Means::Nothing,
        }
    }

    /// Whether a verb may be repeated when its outcome is unknown. Loading what is loaded builds a
    /// second copy beside the first in VAL-HO, and in the chat worker of MEM, which asks for it with
    /// `force`.
    pub const fn is_idempotent(&self, verb: Verb) -> bool {
        !matches!((self, verb), (Self::ThreeGen | Self::Memory(_), Verb::Load))
    }

    /// Whether silence is what a busy worker of this dialect gives: `async` handlers that block, with
    /// every route behind them. The engines answer while they work.
    pub const fn is_deaf_while_busy(&self) -> bool {
        matches!(self, Self::ThreeGen | Self::ClearCache(_) | Self::Process | Self::Nothing)
    }

    pub const fn sight(&self) -> Sight {
        match self {
            Self::ThreeGen | Self::Comfy => Sight::Device,
            Self::Memory(_) | Self::Ollama(_) => Sight::Own,
            Self::ClearCache(_)
            | Self::Vllm { .. }
            | Self::LlamaSwap(_)
            | Self::Triton(_)
            | Self::Process
            | Self::Nothing => Sight::Nothing,
        }
    }
}

/// A text is not the name of a dialect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidDialect(String);

/// As in the configuration: `three-gen`, `clear-cache[:free]`, `memory[:WHICH]`,
/// `vllm[:LEVEL[:TAG,TAG]]`, `comfy`, `ollama[:MODEL]`, `llama-swap[:MODEL]`, `triton:MODEL`,
/// `process`, `none`.
impl FromStr for MemoryDialect {
    type Err = InvalidDialect;
    fn from_str(text: &str) -> Result<Self, InvalidDialect> {
        let (name, rest) = match text.split_once(':') {
            Some((name, rest)) => (name, Some(rest)),
            None => (text, None),
        };
        let word = || rest.map(WorkerWord::from_str).transpose();
        let dialect = match name {
            "three-gen" => Self::ThreeGen,
            "clear-cache" => Self::ClearCache(match rest {
                None => CacheFigure::WithoutOwn,
                Some("free") => CacheFigure::Free,
                Some(_) => return Err(InvalidDialect("write `clear-cache` or `clear-cache:free`".into())),
            }),
            "memory" => Self::Memory(word()?),
            "vllm" => vllm(rest)?,
            "comfy" => Self::Comfy,
            "ollama" => Self::Ollama(word()?),
            "llama-swap" => Self::LlamaSwap(word()?),
            "triton" => {
                Self::Triton(word()?.ok_or_else(|| InvalidDialect("name the model: `triton:MODEL`".into()))?)
            }
            "process" => Self::Process,
            "none" => Self::Nothing,
            _ => {
                return Err(InvalidDialect(format!(
                    "`{}` is no memory dialect: three-gen, clear-cache, memory, vllm, comfy, ollama, \
                     llama-swap, triton, process or none",
                    text.escape_debug()
                )));
            }
        };
        let bare = matches!(dialect, Self::ThreeGen | Self::Comfy | Self::Process | Self::Nothing);
        if bare && rest.is_some() {
            return Err(InvalidDialect(format!("nothing follows `{name}`")));
        }
        Ok(dialect)
    }
}

fn vllm(rest: Option<&str>) -> Result<MemoryDialect, InvalidDialect> {
    let (level, tags) = rest.map_or(("1", ""), |rest| rest.split_once(':').unwrap_or((rest, "")));
    let level = match level {
        "1" => SleepLevel::Keep,
        "2" => SleepLevel::Drop,
        _ => return Err(InvalidDialect("vLLM sleeps at level 1 or 2: `vllm:1` or `vllm:2`".into())),
    };
    let tags = tags.split(',').filter(|tag| !tag.is_empty()).map(WorkerWord::from_str);
    Ok(MemoryDialect::Vllm { level, tags: tags.collect::<Result<_, _>>()? })
}

impl fmt::Display for MemoryDialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::ClearCache(CacheFigure::Free) => f.write_str(":free"),
            Self::Memory(Some(word))
            | Self::Ollama(Some(word))
            | Self::LlamaSwap(Some(word))
            | Self::Triton(word) => write!(f, ":{word}"),
            Self::Vllm { level, tags } => {
                f.write_str(match level {
                    SleepLevel::Keep => ":1",
                    SleepLevel::Drop => ":2",
                })?;
                let tags: Vec<_> = tags.iter().map(WorkerWord::as_str).collect();
                if tags.is_empty() { Ok(()) } else { write!(f, ":{}", tags.join(",")) }
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dialect_is_read_as_it_is_written() {
        for text in [
            "three-gen",
            "clear-cache",
            "clear-cache:free",
            "memory",
            "memory:qwen",
            "vllm:1",
            "vllm:2:weights,kv_cache",
            "comfy",
            "ollama",
            "ollama:qwen2.5:7b",
            "llama-swap",
            "llama-swap:Qwen/Qwen3-8B",
            "triton:trellis",
            "process",
            "none",
        ] {
            assert_eq!(text.parse::<MemoryDialect>().unwrap().to_string(), text);
        }
        assert_eq!("vllm".parse(), Ok(MemoryDialect::Vllm { level: SleepLevel::Keep, tags: Vec::new() }));
    }

    #[test]
    fn what_is_no_dialect_is_refused() {
        for text in [
            "",
            "auto",
            "threegen",
            "three-gen:x",
            "vllm:3",
            "triton",
            "memory:",
            "memory:a b",
            "llama-swap:../../admin",
            "llama-swap:a//b",
            "ollama:m?x=1",
            "ollama:\u{202e}",
            "process:now",
        ] {
            assert!(text.parse::<MemoryDialect>().is_err(), "{text}");
        }
        assert!(format!("memory:{}", "x".repeat(300)).parse::<MemoryDialect>().is_err());
    }

    #[test]
    fn what_is_known_of_the_dialects() {
        let of = |text: &str| text.parse::<MemoryDialect>().unwrap();
        assert!(!of("three-gen").is_idempotent(Verb::Load) && of("three-gen").is_idempotent(Verb::Unload));
        assert!(!of("memory").is_idempotent(Verb::Load) && of("vllm").is_idempotent(Verb::Load));
        assert!(of("three-gen").is_deaf_while_busy() && !of("vllm").is_deaf_while_busy());
        assert_eq!(of("process").means(Verb::Unload), Means::Process);
        assert_eq!(of("clear-cache").means(Verb::Unload), Means::Process);
        assert_eq!(of("clear-cache").means(Verb::Cleanup), Means::Call);
        assert_eq!(of("comfy").means(Verb::Load), Means::OnDemand);
        assert_eq!(of("comfy").means(Verb::Cleanup), Means::Nothing);
        assert_eq!(of("none").means(Verb::Unload), Means::Nothing);
        assert_eq!(of("ollama").means(Verb::Load), Means::OnDemand);
        assert_eq!(of("ollama:m").means(Verb::Load), Means::Call);
    }
}
