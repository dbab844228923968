//! What must happen before a worker can work. Pure.
//!
//! If everything fits nothing is moved, and the sums say why. Otherwise caches are given back first,
//! then the least needed workers leave, and only those without which it does not fit. A worker that
//! does not go, or does not come, one way is tried another way at the next plan: the plan is made
//! anew after each failure, from what is known then.
//!
//! | way | out | in |
//! |---|---|---|
//! | 0 | unload | load, or start if it is stopped |
//! | 1 | cleanup, unload | unload, cleanup, load |
//! | 2 | stop | stop, start |

use std::cmp::Reverse;
use std::fmt;
use std::time::Duration;

use super::worker::{Abilities, Residency, WorkerId, WorkerState};
use crate::primitives::MiB;

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Look at the card.
    Probe,
    Cleanup(WorkerId),
    Unload(WorkerId),
    Load(WorkerId),
    Stop(WorkerId),
    Start(WorkerId),
    /// Have it score what is known to score.
    Canary(WorkerId),
}

impl Step {
    pub fn worker(&self) -> Option<&WorkerId> {
        match self {
            Self::Probe => None,
            Self::Cleanup(worker)
            | Self::Unload(worker)
            | Self::Load(worker)
            | Self::Stop(worker)
            | Self::Start(worker)
            | Self::Canary(worker) => Some(worker),
        }
    }

    /// Its name alone.
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Cleanup(_) => "cleanup",
            Self::Unload(_) => "unload",
            Self::Load(_) => "load",
            Self::Stop(_) => "stop",
            Self::Start(_) => "start",
            Self::Canary(_) => "canary",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb())?;
        self.worker().map_or(Ok(()), |worker| write!(f, " {worker}"))
    }
}

/// The first ways that are still open: those before have failed in this hand-off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tried {
    pub out: u8,
    pub into: u8,
}

/// A worker as a plan sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub worker: WorkerId,
    pub residency: Residency,
    pub state: WorkerState,
    pub abilities: Abilities,
    /// What it holds now, caches included.
    pub held: MiB,
    /// What it holds at rest with its models loaded.
    pub resident: MiB,
    /// What it keeps when unloaded.
    pub context: MiB,
    /// It is at work and stays as it is.
    pub in_use: bool,
    /// When it is needed again; the maximum if nobody knows.
    pub due_in: Duration,
    /// Since it was used.
    pub idle: Duration,
    pub tried: Tried,
}

impl Standing {
    fn is_unclear(&self) -> bool {
        matches!(self.state, WorkerState::Unknown | WorkerState::Overdue { .. })
    }

    /// The next way to make it leave, what it holds then, and the steps.
    fn way_out(&self, deep: bool) -> Option<Way> {
        let Abilities { unload, cleanup, process, .. } = self.abilities;
        let id = || self.worker.clone();
        let stop = || process.then(|| Way { number: 2, after: MiB::ZERO, steps: vec![Step::Stop(id())] });
        match self.state {
            WorkerState::Stopped => None,
            WorkerState::Unloaded => deep.then(stop).flatten(),
            _ if deep || !unload || self.tried.out > 1 => stop().filter(|way| way.number >= self.tried.out),
            _ => {
                let clean = (self.tried.out == 1 && cleanup).then(|| Step::Cleanup(id()));
                let steps = clean.into_iter().chain([Step::Unload(id())]).collect();
                Some(Way { number: self.tried.out, after: self.context.min(self.held), steps })
            }
        }
    }

    /// The next way to have it ready to work, and the steps.
    fn way_in(&self) -> Option<Way> {
        let Abilities { unload, load, cleanup, process, canary } = self.abilities;
        let id = || self.worker.clone();
        let way = |number, steps| Way { number, after: self.resident, steps };
        let steady = !unload && !load && !process;
        let first = match self.state {
            WorkerState::Resident => return Some(way(0, Vec::new())),
            WorkerState::Overdue { .. } => return None,
            WorkerState::Unloaded if load => Some(vec![Step::Load(id())]),
            // It loads by itself.
            WorkerState::Unloaded if unload => return Some(way(0, Vec::new())),
            WorkerState::Stopped if process => Some(vec![Step::Start(id())]),
            // Nothing can be done about it, so it is used as it is.
            WorkerState::Unknown | WorkerState::Failed { .. } if steady => Some(Vec::new()),
            _ => None,
        };
        let second = (self.state != WorkerState::Stopped && (load || unload)).then(|| {
            let unload = unload.then(|| Step::Unload(id()));
            let cleanup = cleanup.then(|| Step::Cleanup(id()));
            unload.into_iter().chain(cleanup).chain(load.then(|| Step::Load(id()))).collect()
        });
        let third = process.then(|| vec![Step::Stop(id()), Step::Start(id())]);
        let open = [first, second, third].into_iter().zip(0..).filter(|(_, n)| *n >= self.tried.into);
        let (mut steps, number) = open.into_iter().find_map(|(steps, number)| Some((steps?, number)))?;
        let comes = steps.iter().any(|step| matches!(step, Step::Load(_) | Step::Start(_)));
        if canary && (comes || steady) {
            steps.push(Step::Canary(id()));
        }
        Some(way(number, steps))
    }
}

/// One way to move a worker.
#[derive(Debug, Clone)]
struct Way {
    number: u8,
    after: MiB,
    steps: Vec<Step>,
}

/// Whose place may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Work is waiting.
    AllButPinned,
    /// Only that of workers held less dearly.
    Below(Residency),
}

/// Who is to come, and how much it will hold at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub worker: WorkerId,
    pub need: MiB,
    pub reach: Reach,
}

/// What there is to give out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The card, or as much of it as may be used.
    pub limit: MiB,
    pub margin: MiB,
    /// Held by nobody we know.
    pub foreign: MiB,
    /// Whether the card was just looked at. If not, nothing is moved before that.
    pub looked: bool,
}

/// How far to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// As much as the sums demand.
    Usual,
    /// The sums are wrong: everything that may go goes.
    Emergency,
}

/// Why something fits, or does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sums {
    pub wanted: WorkerId,
    pub need: MiB,
    pub limit: MiB,
    pub margin: MiB,
    pub foreign: MiB,
    /// The other workers that hold anything.
    pub others: Vec<(WorkerId, MiB)>,
}

impl Sums {
    /// What is left for the wanted one.
    pub fn room(&self) -> MiB {
        let others: MiB = self.others.iter().map(|(_, held)| *held).sum();
        self.limit.saturating_sub(self.margin).saturating_sub(self.foreign).saturating_sub(others)
    }

    pub fn fits(&self) -> bool {
        self.need <= self.room()
    }
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} needs {}; {} - {} margin", self.wanted, self.need, self.limit, self.margin)?;
        if self.foreign > MiB::ZERO {
            write!(f, " - {} of others", self.foreign)?;
        }
        for (worker, held) in &self.others {
            write!(f, " - {held} {worker}")?;
        }
        write!(f, " = {}", self.room())
    }
}

/// What to do, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// Who leaves: to be brought back.
    pub evicted: Vec<WorkerId>,
    /// The ways taken, by worker.
    pub(super) ways: Vec<(WorkerId, u8)>,
    /// As it stands.
    pub before: Sums,
    /// As it will be.
    pub after: Sums,
}

impl Plan {
    /// Nothing need be moved.
    pub fn is_nothing(&self) -> bool {
        self.steps.is_empty()
    }
}

/// The wanted one cannot be given its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unplaceable {
    /// Not even if everyone leaves who may.
    #[error("there is no room: {0}")]
    NoRoom(Sums),
    #[error("there is no way left to bring {0} in")]
    NoWay(WorkerId),
    #[error("no worker {0} on this card")]
    NoSuchWorker(WorkerId),
}

/// Says what must happen, in order, before the wanted one can work.
///
/// # Errors
/// When nothing that may be done makes room for it, or it cannot be brought in.
pub fn plan(
    residents: &[Standing],
    wanted: &Wanted,
    budget: &Budget,
    urgency: Urgency,
) -> Result<Plan, Unplaceable> {
    let own = residents
        .iter()
        .find(|standing| standing.worker == wanted.worker)
        .ok_or_else(|| Unplaceable::NoSuchWorker(wanted.worker.clone()))?;
    let mut others: Vec<Other<'_>> =
        residents.iter().filter(|standing| standing.worker != wanted.worker).map(Other::of).collect();
    // The least needed first.
    others.sort_by_key(|other| {
        let Standing { worker, residency, due_in, idle, held, .. } = other.standing;
        (*residency, Reverse(*due_in), Reverse(*idle), Reverse(*held), worker)
    });
    let sums = |others: &[Other<'_>]| Sums {
        wanted: wanted.worker.clone(),
        need: wanted.need,
        limit: budget.limit,
        margin: budget.margin,
        foreign: budget.foreign,
        others: others
            .iter()
            .map(|other| (other.standing.worker.clone(), other.held()))
            .filter(|(_, held)| *held > MiB::ZERO)
            .collect(),
    };
    let before = sums(&others);
    let as_it_is = |steps| Plan {
        steps,
        evicted: Vec::new(),
        ways: Vec::new(),
        before: before.clone(),
        after: before.clone(),
    };
    if !budget.looked && residents.iter().any(Standing::is_unclear) {
        return Ok(as_it_is(vec![Step::Probe]));
    }
    let way_in = own.way_in().ok_or_else(|| Unplaceable::NoWay(wanted.worker.clone()))?;
    let moves = urgency == Urgency::Emergency || !before.fits() || !way_in.steps.is_empty();
    if moves && !budget.looked {
        return Ok(as_it_is(vec![Step::Probe]));
    }
    let fits = |others: &[Other<'_>]| sums(others).fits();
    make_room(&mut others, wanted, urgency, fits);
    let after = sums(&others);
    let moved: Vec<&Other<'_>> = others.iter().filter(|other| other.way.is_some()).collect();
    if !after.fits() && (urgency == Urgency::Usual || moved.is_empty()) {
        return Err(Unplaceable::NoRoom(after));
    }
    let way_of = |other: &Other<'_>| {
        let way = other.way.as_ref()?;
        (!other.stays).then(|| (other.standing.worker.clone(), way.number))
    };
    let mut ways: Vec<(WorkerId, u8)> = moved.iter().filter_map(|other| way_of(other)).collect();
    let evicted = ways.iter().map(|(worker, _)| worker.clone()).collect();
    ways.push((wanted.worker.clone(), way_in.number));
    let out = moved.into_iter().filter_map(|other| other.way.as_ref()).flat_map(|way| way.steps.clone());
    let mut steps: Vec<Step> = out.collect();
    if after.fits() {
        steps.extend(way_in.steps);
    } else {
        // Nothing comes before it is seen what came of that.
        steps.push(Step::Probe);
    }
    Ok(Plan { steps, evicted, ways, before, after })
}

/// Another worker, and what is done about it.
struct Other<'a> {
    standing: &'a Standing,
    way: Option<Way>,
    /// It only gives its caches back.
    stays: bool,
}

impl<'a> Other<'a> {
    fn of(standing: &'a Standing) -> Self {
        Self { standing, way: None, stays: true }
    }

    fn held(&self) -> MiB {
        self.way.as_ref().map_or(self.standing.held, |way| way.after)
    }

    fn has_caches(&self) -> bool {
        let Standing { state, in_use, abilities, held, resident, .. } = self.standing;
        abilities.cleanup && !in_use && *state == WorkerState::Resident && held > resident
    }

    fn may_leave(&self, reach: Reach) -> bool {
        let Standing { residency, state, in_use, .. } = self.standing;
        let within = match reach {
            Reach::AllButPinned => true,
            // One that does not work is in everybody's way.
            Reach::Below(class) => *residency < class || matches!(state, WorkerState::Failed { .. }),
        };
        within && *residency != Residency::Pinned && !in_use
    }

    fn evict(&mut self, deep: bool) {
        if let Some(way) = self.standing.way_out(deep)
            && way.after <= self.held()
        {
            self.stays = false;
            self.way = Some(way);
        }
    }
}

/// Decides who leaves; `others` are in the order in which they go.
fn make_room(
    others: &mut [Other<'_>],
    wanted: &Wanted,
    urgency: Urgency,
    fits: impl Fn(&[Other<'_>]) -> bool,
) {
    let everything = urgency == Urgency::Emergency;
    for number in 0..others.len() {
        if !fits(others) && others[number].has_caches() {
            let Standing { worker, resident, .. } = others[number].standing;
            let steps = vec![Step::Cleanup(worker.clone())];
            others[number].way = Some(Way { number: 0, after: *resident, steps });
        }
    }
    for deep in [false, true] {
        if deep && everything && others.iter().any(|other| !other.stays) {
            // It is seen first what came of that.
            return;
        }
        for number in 0..others.len() {
            let due = !fits(others) || (everything && !deep);
            if due && others[number].may_leave(wanted.reach) {
                others[number].evict(deep);
            }
        }
    }
    if everything {
        return;
    }
    // The most needed first: who left for nothing stays.
    for number in (0..others.len()).rev() {
        let stays = std::mem::replace(&mut others[number].stays, true);
        if let Some(way) = others[number].way.take()
            && !fits(others)
        {
            others[number].stays = stays;
            others[number].way = Some(way);
        }
    }
}

#[cfg(test)]
mod tests;
