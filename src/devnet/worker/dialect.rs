//! Which server a worker is (workers.md).

use std::fmt;
use std::str::FromStr;

/// A kind of worker server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerDialect {
    /// GEN-OFF.
    Form,
    /// GEN-BASE.
    Image,
    /// GEN-CMP.
    FormImage,
    /// GEN-HUN: loads its models for each request, and may drive a validation service.
    Hunyuan,
    /// VAL-OFF: no verbs.
    Validation,
    /// VAL-HO.
    ThreeGen,
    /// MEM, the workers of three kinds.
    MemorySdxl,
    MemoryWan,
    MemoryChat,
    /// vLLM in its development mode.
    Vllm,
    /// ComfyUI.
    Comfy,
    /// Ollama with one model, `llama:latest`.
    Ollama,
    /// Rewrites prompts at POST `/enhance`; the health of HLT and the verbs of MEM.
    Enhancer,
}

const ALL: [(WorkerDialect, &str); 13] = [
    (WorkerDialect::Form, "form"),
    (WorkerDialect::Image, "image"),
    (WorkerDialect::FormImage, "form-image"),
    (WorkerDialect::Hunyuan, "hunyuan"),
    (WorkerDialect::Validation, "validation"),
    (WorkerDialect::ThreeGen, "three-gen"),
    (WorkerDialect::MemorySdxl, "memory-sdxl"),
    (WorkerDialect::MemoryWan, "memory-wan"),
    (WorkerDialect::MemoryChat, "memory-chat"),
    (WorkerDialect::Vllm, "vllm"),
    (WorkerDialect::Comfy, "comfy"),
    (WorkerDialect::Ollama, "ollama"),
    (WorkerDialect::Enhancer, "enhancer"),
];

/// What a worker makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trade {
    Splats,
    Scores,
    Texts,
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// Takes the card.
    Work,
    /// Moves memory.
    Verb,
    Question,
}

type Routes = &'static [(&'static str, &'static str, Route)];

impl WorkerDialect {
    pub(super) fn trade(self) -> Trade {
        match self {
            Self::Form | Self::Image | Self::FormImage | Self::Hunyuan => Trade::Splats,
            Self::Validation | Self::ThreeGen => Trade::Scores,
            _ => Trade::Texts,
        }
    }

    /// Its models.
    pub(super) fn models(self) -> &'static [&'static str] {
        match self {
            Self::MemoryWan => &["qwen", "wan"],
            Self::MemoryChat => &["instruct", "base"],
            Self::Vllm => &["weights", "kv_cache"],
            Self::Ollama => &["llama:latest"],
            _ => &["models"],
        }
    }

    /// Whether it loads its models when it starts, and answers nobody before.
    pub(super) fn loads_at_start(self) -> bool {
        !matches!(self, Self::Hunyuan | Self::Comfy | Self::Ollama)
    }

    /// Whether every route waits while it works, for `async` handlers that block.
    pub(super) fn is_deaf_at_work(self) -> bool {
        matches!(self, Self::Form | Self::FormImage | Self::Hunyuan)
    }

    /// The same of its verbs.
    pub(super) fn is_deaf_in_verbs(self) -> bool {
        matches!(self, Self::ThreeGen | Self::Hunyuan)
    }

    pub(super) fn routes(self) -> Routes {
        use Route::{Question, Verb, Work};
        const SCORES: [(&str, &str, Route); 3] = [
            ("POST", "/validate_txt_to_3d_ply/", Work),
            ("POST", "/validate_img_to_3d_ply/", Work),
            ("GET", "/version/", Question),
        ];
        const THREE_GEN: [(&str, &str, Route); 7] = {
            let [text, image, version] = SCORES;
            [
                text,
                image,
                version,
                ("GET", "/gpu_status/", Question),
                ("POST", "/cleanup_gpu/", Verb),
                ("POST", "/unload_models/", Verb),
                ("POST", "/reload_models/", Verb),
            ]
        };
        match self {
            Self::Form => &[("POST", "/generate/", Work)],
            Self::Image => {
                &[("POST", "/generate", Work), ("GET", "/version", Question), ("GET", "/health", Question)]
            }
            Self::FormImage => &[("POST", "/generate/", Work), ("GET", "/health", Question)],
            Self::Hunyuan => &[
                ("POST", "/generate/", Work),
                ("GET", "/health/", Question),
                ("GET", "/config/", Question),
                ("GET", "/status/", Verb),
                ("POST", "/clear_cache/", Verb),
            ],
            Self::Validation => &SCORES,
            Self::ThreeGen => &THREE_GEN,
            Self::MemorySdxl | Self::MemoryWan | Self::MemoryChat | Self::Enhancer => &[
                ("POST", "/enhance", Work),
                ("GET", "/health", Question),
                ("GET", "/memory/status", Question),
                ("POST", "/memory/load", Verb),
                ("POST", "/memory/unload", Verb),
            ],
            Self::Vllm => &[
                ("POST", "/v1/completions", Work),
                ("GET", "/version", Question),
                ("GET", "/health", Question),
                ("GET", "/is_sleeping", Question),
                ("POST", "/sleep", Verb),
                ("POST", "/wake_up", Verb),
                ("POST", "/collective_rpc", Verb),
                ("POST", "/reset_prefix_cache", Verb),
            ],
            Self::Comfy => {
                &[("POST", "/prompt", Work), ("GET", "/system_stats", Question), ("POST", "/free", Verb)]
            }
            Self::Ollama => &[("POST", "/api/generate", Verb), ("GET", "/api/ps", Question)],
        }
    }
}

impl fmt::Display for WorkerDialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ALL.iter().find(|(dialect, _)| dialect == self).map_or("", |(_, name)| name))
    }
}

/// A text names no dialect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no kind of worker: {names}", names = ALL.map(|(_, name)| name).join(", "))]
pub struct InvalidDialect(String);

impl FromStr for WorkerDialect {
    type Err = InvalidDialect;
    fn from_str(text: &str) -> Result<Self, InvalidDialect> {
        let found = ALL.iter().find(|(_, name)| *name == text).map(|(dialect, _)| *dialect);
        found.ok_or_else(|| InvalidDialect(text.escape_debug().to_string()))
    }
}
