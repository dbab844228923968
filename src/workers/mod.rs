//! HTTP to the worker servers: other people's programs that make and judge splats.
//!
//! Their dialects, timings and lies are described in workers.md. Nothing a worker answers is
//! trusted: bodies are bounded and judged by their first bytes, an empty 200 is a decline, an
//! all-zero score is no verdict, and a status says little.

mod detect;
mod enhancer;
mod generator;
mod memory;
mod multipart;
mod process;
mod scorer;

pub use detect::{
    Detected, Detection, Expected, Found, Health, Mistake, Origin, Place, Placed, Places, Server, WorkerRole,
    detect, find_mistakes, places,
};
pub use enhancer::{EnhanceError, Enhancer, EnhancerSettings};
pub use generator::{
    Dialect, GenerateError, Generation, Generator, GeneratorSettings, Presence, SplatFormat,
};
pub use memory::{
    CacheFigure, Claim, Implausible, InvalidDialect, Means, MemoryControl, MemoryDialect, MemorySettings,
    MemoryTimeouts, Sight, SleepLevel, Unit, Verb, VerbError, VerbReply, WorkerMemory, WorkerWord,
};
pub use process::{
    Listener, Premises, ProcessError, ProcessSettings, ProcessStamp, ProcessTree, Variant, WorkerProcess,
    listener,
};
pub use scorer::{Judgement, ScoreError, Scorer, ScorerSettings, Scores};
