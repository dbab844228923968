//! `[[gpus]]` and `[[workers]]`: the cards, the servers on them, and what must agree between the two.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use toml::{Table, Value};

use super::reader::{Origin, Reader};
use crate::gpu::{
    self, Abilities, AtStart, Batch, Mode, Residency, Row, Stage, Tenant, WorkerId, WorkerSpec,
};
use crate::net::{Endpoint, EndpointError, Limits};
use crate::primitives::{ByteSize, MiB, PromptKind};
use crate::workers::{
    Dialect, Expected, MemoryDialect, Placed, ProcessSettings, Variant, WorkerRole, find_mistakes,
};

const MS: fn(u64) -> Duration = Duration::from_millis;
const S: fn(u64) -> Duration = Duration::from_secs;
const DAY: u64 = 86_400;

/// The card that is meant where only one is there.
pub const ONLY_CARD: &str = "auto";

/// Where a worker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkerUrl {
    /// Embedded in this process.
    Devnet,
    At(Endpoint),
}

/// What tells how much of a card is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProbeChoice {
    /// The best there is.
    #[default]
    Auto,
    Nvml,
    Dialect,
    /// Nothing: what is declared, and what workers say.
    Ledger,
}

/// One card (`[[gpus]]`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuSettings {
    /// The driver's id of it, or [`ONLY_CARD`].
    pub uuid: String,
    pub probe: ProbeChoice,
    pub sharing: gpu::Settings,
}

/// A stage of a worker's work, as declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageSettings {
    pub name: String,
    pub peak: MiB,
}

/// One worker server.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerSettings {
    pub name: String,
    pub role: Tenant,
    pub url: WorkerUrl,
    pub dialect: Dialect,
    pub kinds: BTreeSet<PromptKind>,
    pub connect_timeout: Duration,
    pub limits: Limits,
    /// Its verbs for memory; `None`: it is asked at the start.
    pub memory: Option<MemoryDialect>,
    /// The card that it is on, or [`ONLY_CARD`].
    pub gpu: String,
    pub residency: Residency,
    /// Zero: not known, to be measured. The same goes for the peak.
    pub resident: MiB,
    pub peak: MiB,
    /// In the order of its work.
    pub stages: Vec<StageSettings>,
    /// It moves others out of its way by itself.
    pub self_coordinating: bool,
    /// `None`: somebody else runs it.
    pub process: Option<ProcessSettings>,
}

impl WorkerSettings {
    /// Where it is, unless it is embedded.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        match &self.url {
            WorkerUrl::Devnet => None,
            WorkerUrl::At(endpoint) => Some(endpoint),
        }
    }

    /// Whether anything can be done about its memory, as far as the configuration says.
    pub fn may_move(&self) -> bool {
        self.process.is_some() || self.memory != Some(MemoryDialect::Nothing)
    }

    /// What it holds, with one of its variants if it has several.
    pub fn rows(&self, variant: Option<&Variant>) -> Vec<Row> {
        let resident = variant.and_then(|variant| variant.resident).unwrap_or(self.resident);
        let peak = variant.and_then(|variant| variant.peak).unwrap_or(self.peak);
        let row = |stage, peak| Row { worker: WorkerId::new(&self.name), stage, resident, peak };
        // Stages are declared of the command itself, not of its variants.
        if self.stages.is_empty() || variant.is_some() {
            if resident == MiB::ZERO && peak == MiB::ZERO {
                return Vec::new();
            }
            return vec![row(Stage::default(), peak)];
        }
        self.stages.iter().map(|stage| row(Stage::new(&stage.name), stage.peak)).collect()
    }

    /// As an arbiter is told of it.
    pub fn spec(&self, variant: Option<&Variant>, abilities: Abilities, at_start: AtStart) -> WorkerSpec {
        WorkerSpec {
            id: WorkerId::new(&self.name),
            tenant: self.role,
            residency: self.residency,
            rows: self.rows(variant),
            abilities,
            at_start,
            self_coordinating: self.self_coordinating,
        }
    }

    /// The variant that takes least; nothing if there are none.
    fn smallest(&self) -> Option<&Variant> {
        let variants = self.process.as_ref().map(|process| &process.variants[..]).unwrap_or_default();
        variants.iter().min_by_key(|variant| variant.peak.unwrap_or(self.peak))
    }

    /// The best variant whose peak fits; the smallest if none does, and nothing if there are none.
    pub fn variant_for(&self, room: MiB) -> Option<&Variant> {
        let variants = self.process.as_ref().map(|process| &process.variants[..]).unwrap_or_default();
        let fits = |variant: &&Variant| variant.peak.unwrap_or(self.peak) <= room;
        variants.iter().find(fits).or_else(|| self.smallest())
    }

    /// Where its server listens, if that is on this machine.
    pub fn local_port(&self) -> Option<u16> {
        let endpoint = self.endpoint().filter(|endpoint| is_here(endpoint))?;
        endpoint.at("").port_or_known_default()
    }

    const fn as_role(&self) -> WorkerRole {
        match self.role {
            Tenant::Generator => WorkerRole::Generator,
            Tenant::Scorer => WorkerRole::Scorer,
            Tenant::Enhancer => WorkerRole::Enhancer,
        }
    }

    /// What should answer at its address.
    pub fn expected(&self) -> Expected {
        let dialect = (self.role == Tenant::Generator).then_some(self.dialect);
        Expected { role: self.as_role(), dialect, memory: self.memory.clone() }
    }
}

/// Reads `[[gpus]]`.
pub(super) fn gpus(r: &mut Reader, defaults: &Table) -> Vec<GpuSettings> {
    let shipped = defaults.get("gpus").and_then(Value::as_array).and_then(|list| list.first());
    let shipped = shipped.and_then(Value::as_table).cloned().unwrap_or_default();
    r.entries("gpus", |_| shipped.clone(), gpu)
}

fn gpu(r: &mut Reader) -> Option<GpuSettings> {
    let uuid = r.read("uuid", |value| match value.as_str() {
        Some(text) if !text.is_empty() && text.len() <= 96 && !text.contains(char::is_whitespace) => {
            Ok(text.to_owned())
        }
        _ => Err("expected the card's UUID as nvidia-smi -L shows it, or \"auto\"".to_owned()),
    });
    let limit = r.memory("limit");
    let margin = r.size("margin", ByteSize(0), ByteSize::mib(64 << 10));
    let probe = r.choice(
        "probe",
        &[
            ("auto", ProbeChoice::Auto),
            ("nvml", ProbeChoice::Nvml),
            ("dialect", ProbeChoice::Dialect),
            ("ledger", ProbeChoice::Ledger),
        ],
    );
    let mode = r.choice("handoff", &[("auto", Mode::Auto), ("per-task", Mode::PerTask), ("off", Mode::Off)]);
    let batch = r.read("batch", |value| match (value.as_str(), value.as_integer()) {
        (Some("auto"), _) => Ok(Batch::default()),
        (None, Some(number @ 1..=16)) => Ok(Batch::Fixed(number as u32)),
        _ => Err("expected \"auto\" or a whole number from 1 to 16".to_owned()),
    });
    let deadline = r.duration("deadline", S(10), S(DAY));
    let limit = limit?;
    if probe? == ProbeChoice::Ledger && limit.is_none() {
        let origin = r.origin("limit");
        r.fail("limit", origin, "nothing measures the card: say how much of it there is to use".into());
    }
    Some(GpuSettings {
        uuid: uuid?,
        probe: probe?,
        sharing: gpu::Settings {
            restores: true,
            limit,
            margin: mib(margin?),
            mode: mode?,
            batch: batch?,
            deadline: deadline?,
        },
    })
}

/// Whole MiB, upwards.
const fn mib(size: ByteSize) -> MiB {
    MiB(size.0.div_ceil(1 << 20))
}

/// What differs for an enhancer: it has no entry in the shipped file, which would name one.
const ENHANCER: &str =
    "connect_timeout = \"1s\"\nfirst_byte_timeout = \"3s\"\ntotal_timeout = \"3s\"\nbody_limit = \"64KiB\"\n";

/// What an entry of `[[workers]]` may leave out: the shipped worker of its role has it, or else the
/// first of them, where all keys stand.
pub(super) fn shipped_worker(defaults: &Table, entry: &Table) -> Table {
    let shipped = defaults.get("workers").and_then(Value::as_array);
    let same_role = |worker: &&Value| worker.get("role") == entry.get("role");
    let of_all = shipped.and_then(|list| list.first()).and_then(Value::as_table);
    let of_role = shipped.and_then(|list| list.iter().find(same_role)).and_then(Value::as_table).cloned();
    let of_role = match entry.get("role").and_then(Value::as_str) {
        Some("enhancer") => ENHANCER.parse().ok(),
        _ => of_role,
    };
    let mut table = of_all.cloned().unwrap_or_default();
    table.extend(of_role.into_iter().flatten());
    for own in ["name", "role", "url"] {
        table.remove(own);
    }
    // Whoever says what a worker holds wants it looked after.
    let says_what_it_holds = ["resident", "peak", "stages"].iter().any(|key| entry.contains_key(*key));
    if says_what_it_holds && entry.get("url").and_then(Value::as_str) != Some("devnet") {
        table.insert("memory".into(), Value::String("auto".into()));
    }
    table
}

pub(super) fn worker(r: &mut Reader) -> Option<WorkerSettings> {
    let name = r.read("name", |value| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        match value.as_str() {
            // Its log file is called so.
            Some(text)
                if (1..=64).contains(&text.len()) && text.chars().all(plain) && !text.starts_with('.') =>
            {
                Ok(text.to_owned())
            }
            _ => Err("expected 1 to 64 letters, digits, `.`, `_` or `-`".to_owned()),
        }
    });
    let role = r.choice(
        "role",
        &[("generator", Tenant::Generator), ("scorer", Tenant::Scorer), ("enhancer", Tenant::Enhancer)],
    );
    let url = r.read("url", |value| match value.as_str() {
        Some("devnet") => Ok(WorkerUrl::Devnet),
        Some(text) => text.parse().map(WorkerUrl::At).map_err(|e: EndpointError| e.to_string()),
        None => Err("expected a URL or \"devnet\"".into()),
    });
    let connect_timeout = r.duration("connect_timeout", MS(100), S(60));
    let first_byte = r.duration("first_byte_timeout", S(1), S(DAY));
    let total = r.duration("total_timeout", S(1), S(DAY));
    let body = r.size("body_limit", ByteSize(64 << 10), ByteSize::mib(4_096));
    let memory = r.read("memory", |value| match value.as_str() {
        Some("auto") => Ok(None),
        Some(text) => text.parse::<MemoryDialect>().map(Some).map_err(|e| e.to_string()),
        None => Err("expected the name of a memory dialect, or \"auto\"".into()),
    });
    let gpu = r.text("gpu");
    let residency = r.choice(
        "residency",
        &[
            ("pinned", Residency::Pinned),
            ("preferred", Residency::Preferred),
            ("on-demand", Residency::OnDemand),
        ],
    );
    let resident = r.memory("resident");
    let peak = r.memory("peak");
    let stages = r.entries("stages", |_| Table::new(), stage);
    let self_coordinating = r.boolean("self_coordinating");
    let process = process(r);
    // How prompts are taken is read of all, so that the keys are known, and holds for generators.
    let (dialect, kinds) = match role {
        Some(Tenant::Scorer | Tenant::Enhancer) => {
            r.pass_over(&["dialect", "kinds"]);
            (Dialect::Form, BTreeSet::new())
        }
        Some(Tenant::Generator) | None => prompts(r)?,
    };
    Some(WorkerSettings {
        name: name?,
        role: role?,
        url: url?,
        dialect,
        kinds,
        connect_timeout: connect_timeout?,
        limits: Limits { first_byte: first_byte?, total: total?, body: body? },
        memory: memory?,
        gpu: gpu?,
        residency: residency?,
        resident: resident?.unwrap_or_default(),
        peak: peak?.unwrap_or_default(),
        stages,
        self_coordinating: self_coordinating?,
        process: process?,
    })
}

fn stage(r: &mut Reader) -> Option<StageSettings> {
    let name = r.text("name");
    let peak = r.memory("peak");
    Some(StageSettings { name: name?, peak: peak?.unwrap_or_default() })
}

/// Inside: nothing, if it is somebody else who runs the worker.
#[allow(clippy::option_option, reason = "the outer one is a mistake, as for every key")]
fn process(r: &mut Reader) -> Option<Option<ProcessSettings>> {
    let command = r.texts("process.command");
    let cwd = r.path("process.cwd");
    let env = r.hidden_texts("process.env");
    let start_timeout = r.duration("process.start_timeout", S(1), S(3_600));
    let stop_timeout = r.duration("process.stop_timeout", MS(100), S(600));
    let restarts_per_hour = r.whole("process.restarts_per_hour", 0, 1_000);
    let fraction = r.fraction("process.memory_fraction", 0.0, 1.0);
    let log_limit = r.size("process.log_limit", ByteSize(64 << 10), ByteSize::mib(1_024));
    let variants = r.entries("variants", |_| VARIANT.parse().unwrap_or_default(), variant);
    let (command, env) = (command?, env?);
    if command.first().is_some_and(String::is_empty) {
        let origin = r.origin("process.command");
        r.fail("process.command", origin, "the name of the program is empty".into());
    }
    if command.is_empty() && variants.is_empty() {
        return Some(None);
    }
    let fraction = fraction?;
    Some(Some(ProcessSettings {
        command,
        cwd: cwd.filter(|path| !path.as_os_str().is_empty()),
        env,
        start_timeout: start_timeout?,
        stop_timeout: stop_timeout?,
        restarts_per_hour: u32::try_from(restarts_per_hour?).ok()?,
        memory_fraction: (fraction > 0.0).then_some(fraction),
        log_limit: log_limit?,
        variants,
    }))
}

const VARIANT: &str = "resident = \"auto\"\npeak = \"auto\"\n";

fn variant(r: &mut Reader) -> Option<Variant> {
    let command = r.texts("command");
    let resident = r.memory("resident");
    let peak = r.memory("peak");
    let command = command?;
    if command.first().is_none_or(String::is_empty) {
        let origin = r.origin("command");
        r.fail("command", origin, "name the program and its arguments".into());
    }
    Some(Variant { command, resident: resident?, peak: peak? })
}

/// How a generator takes prompts, and which.
fn prompts(r: &mut Reader) -> Option<(Dialect, BTreeSet<PromptKind>)> {
    let dialect = r.choice(
        "dialect",
        &[("form", Dialect::Form), ("image", Dialect::Image), ("form-image", Dialect::FormImage)],
    );
    let kinds = r.texts("kinds");
    let dialect = dialect?;
    let mut wanted = BTreeSet::new();
    for kind in kinds? {
        let kind = match kind.as_str() {
            "text" => PromptKind::Text,
            "image" => PromptKind::Image,
            other => {
                let origin = r.origin("kinds");
                r.fail("kinds", origin, format!("`{other}` is neither \"text\" nor \"image\""));
                continue;
            }
        };
        // The default names both kinds; what the dialect cannot carry is left out of it.
        if dialect.kinds().contains(&kind) {
            wanted.insert(kind);
        }
    }
    if wanted.is_empty() {
        let origin = r.origin("kinds");
        r.fail("kinds", origin, "this dialect can carry none of these kinds of prompt".into());
        return None;
    }
    Some((dialect, wanted))
}

/// The workers as they are used.
#[derive(Debug, Default)]
pub(super) struct Crew {
    pub generators: Vec<WorkerSettings>,
    pub scorers: Vec<WorkerSettings>,
    pub enhancers: Vec<WorkerSettings>,
    /// A scorer is named and left out, because it is the embedded one beside a real generator.
    pub scorer_left_out: bool,
}

/// Sorts the workers by role. The embedded scorer judges only the embedded generator.
pub(super) fn crew(workers: Vec<WorkerSettings>) -> Crew {
    let mut crew = Crew::default();
    for worker in workers {
        match worker.role {
            Tenant::Generator => crew.generators.push(worker),
            Tenant::Scorer => crew.scorers.push(worker),
            Tenant::Enhancer => crew.enhancers.push(worker),
        }
    }
    if crew.generators.iter().any(|generator| generator.url != WorkerUrl::Devnet) {
        let named = crew.scorers.len();
        crew.scorers.retain(|scorer| scorer.url != WorkerUrl::Devnet);
        crew.scorer_left_out = crew.scorers.len() < named;
    }
    crew
}

/// What is wrong with cards and workers together: keys and problems.
pub(super) fn mistakes(gpus: &[GpuSettings], workers: &[&WorkerSettings]) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let mut fail = |key, problem: String| found.push((key, problem));
    if gpus.is_empty() {
        fail("gpus", "name at least one card".into());
    }
    let mut cards = BTreeSet::new();
    for gpu in gpus {
        if !cards.insert(&gpu.uuid) {
            fail("gpus", format!("{} is named twice", gpu.uuid));
        }
    }
    if gpus.len() > 1 && cards.contains(&ONLY_CARD.to_owned()) {
        fail("gpus", "\"auto\" is for a machine with one card: name each by its UUID".into());
    }
    let mut names = BTreeSet::new();
    for worker in workers {
        let name = &worker.name;
        if !names.insert(name) {
            fail("workers", format!("two workers are called {name}"));
        }
        for problem in mistakes_of(worker) {
            fail("workers", format!("{name}: {problem}"));
        }
        if worker.gpu == ONLY_CARD && gpus.len() > 1 {
            fail("workers", format!("{name}: there are several cards, say which it is on (gpu)"));
        } else if worker.gpu != ONLY_CARD && !cards.contains(&worker.gpu) {
            fail("workers", format!("{name}: {} is not among the cards under [[gpus]]", worker.gpu));
        }
    }
    let placed = workers.iter().filter_map(|worker| {
        let endpoint = worker.endpoint()?.clone();
        Some(Placed { name: worker.name.clone(), endpoint, expected: worker.expected(), detection: None })
    });
    for mistake in find_mistakes(&placed.collect::<Vec<_>>()) {
        fail("workers", mistake.to_string());
    }
    for gpu in gpus {
        let here: Vec<&WorkerSettings> = workers.iter().copied().filter(|w| is_on(w, gpu, gpus)).collect();
        for role in [Tenant::Scorer, Tenant::Enhancer] {
            let alike: Vec<&str> = here.iter().filter(|w| w.role == role).map(|w| &*w.name).collect();
            if alike.len() > 1 {
                let names = alike.join(", ");
                fail("workers", format!("{names}: one {role} a card, the others would never be asked"));
            }
        }
        let Some(limit) = gpu.sharing.limit else { continue };
        for problem in does_not_fit(limit, gpu, &here) {
            fail("gpus", problem);
        }
    }
    found
}

/// Whether a worker is on a card.
pub(super) fn is_on(worker: &WorkerSettings, gpu: &GpuSettings, gpus: &[GpuSettings]) -> bool {
    worker.gpu == gpu.uuid || (worker.gpu == ONLY_CARD && gpus.len() == 1)
}

/// What of a card's workers can never work beside the others, with the sums.
pub(super) fn does_not_fit(limit: MiB, gpu: &GpuSettings, here: &[&WorkerSettings]) -> Vec<String> {
    let specs: Vec<WorkerSpec> = here
        .iter()
        .map(|worker| worker.spec(worker.smallest(), Abilities::default(), AtStart::Unknown))
        .collect();
    let errors = gpu::check(limit, gpu.sharing.margin, &specs).err().unwrap_or_default();
    let mut problems: Vec<String> = errors.iter().map(|error| format!("{}: {error}", gpu.uuid)).collect();
    for worker in here {
        let Some(fraction) = worker.process.as_ref().and_then(|process| process.memory_fraction) else {
            continue;
        };
        let share = MiB((limit.0 as f64 * fraction) as u64);
        let most = worker.rows(worker.smallest()).iter().map(|row| row.peak.max(row.resident)).max();
        if let Some(most) = most.filter(|most| *most > share) {
            problems.push(format!(
                "{}: {} needs {most} and is held to {fraction} of {limit} = {share}",
                gpu.uuid, worker.name
            ));
        }
    }
    problems
}

/// What is wrong with one worker's own keys together.
fn mistakes_of(worker: &WorkerSettings) -> Vec<String> {
    let mut problems = Vec::new();
    let embedded = worker.url == WorkerUrl::Devnet;
    if embedded && worker.role == Tenant::Enhancer {
        problems.push("there is no embedded enhancer: name its url".to_owned());
    }
    if embedded && worker.may_move() {
        problems.push("the embedded workers hold no memory of a card: leave memory and process away".into());
    }
    if worker.memory == Some(MemoryDialect::Process) && worker.process.is_none() {
        problems.push("memory = \"process\" needs its command under [workers.process]".into());
    }
    if worker.process.is_some() && worker.endpoint().is_some_and(|endpoint| !is_here(endpoint)) {
        problems.push("its process would run here, and its url is on another machine".into());
    }
    let mut stages = BTreeMap::new();
    for stage in &worker.stages {
        *stages.entry(&stage.name).or_insert(0_u32) += 1;
    }
    for (stage, _) in stages.into_iter().filter(|(_, times)| *times > 1) {
        problems.push(format!("two stages are called {stage}"));
    }
    if !worker.stages.is_empty() && worker.peak > MiB::ZERO {
        problems.push("declare either peak or stages: the greatest stage is the peak".into());
    }
    problems
}

/// Whether an address is on this machine.
fn is_here(endpoint: &Endpoint) -> bool {
    let url = endpoint.at("");
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback() || ip.is_unspecified(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback() || ip.is_unspecified(),
        None => false,
    }
}

/// The origin of mistakes that concern several entries.
pub(super) const TOGETHER: Origin = Origin::Default;

#[cfg(test)]
mod tests;
