//! What a probe says of a card's memory.

use std::fmt;

use super::worker::WorkerId;
use crate::primitives::MiB;

/// No card holds more: 4 TiB.
const LARGEST_CARD: MiB = MiB(4 << 20);

/// What one process holds on the card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessMemory {
    pub pid: u32,
    pub used: MiB,
    /// The worker it belongs to, children included; `None`: somebody else's.
    pub worker: Option<WorkerId>,
}

/// One look at a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    total: MiB,
    free: MiB,
    /// `None`: the driver does not say who holds what.
    processes: Option<Vec<ProcessMemory>>,
    active: Option<bool>,
}

/// A reading that no card can give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the probe says {free} free of {total}")]
pub struct Implausible {
    total: MiB,
    free: MiB,
}

impl Reading {
    /// Of the whole card.
    ///
    /// # Errors
    /// When the figures make no sense.
    pub fn new(total: MiB, free: MiB) -> Result<Self, Implausible> {
        if total == MiB::ZERO || total > LARGEST_CARD || free > total {
            return Err(Implausible { total, free });
        }
        Ok(Self { total, free, processes: None, active: None })
    }

    /// With what each process holds. A driver that cannot tell says 2^64-1 of one: then the list is
    /// worth nothing.
    #[must_use]
    pub fn with_processes(self, processes: Vec<ProcessMemory>) -> Self {
        let held: MiB = processes.iter().map(|process| process.used).sum();
        // What a driver reserves for itself is in no list, and lists are read a moment apart.
        let plausible = held <= self.total;
        Self { processes: plausible.then_some(processes), ..self }
    }

    /// With whether anything was computed of late.
    #[must_use]
    pub fn with_activity(self, active: bool) -> Self {
        Self { active: Some(active), ..self }
    }

    pub fn total(&self) -> MiB {
        self.total
    }

    pub fn free(&self) -> MiB {
        self.free
    }

    pub fn used(&self) -> MiB {
        self.total.saturating_sub(self.free)
    }

    /// Whether the card computed of late, if the probe can tell.
    pub fn is_active(&self) -> Option<bool> {
        self.active
    }

    pub fn processes(&self) -> Option<&[ProcessMemory]> {
        self.processes.as_deref()
    }

    /// What a worker holds, if the probe can tell.
    pub fn held_by(&self, worker: &WorkerId) -> Option<MiB> {
        let processes = self.processes.as_ref()?;
        Some(processes.iter().filter(|p| p.worker.as_ref() == Some(worker)).map(|p| p.used).sum())
    }
}

/// How tight a card is, by what is really free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Everything configured fits.
    Low,
    /// What is wanted next fits.
    Medium,
    /// What is wanted next needs an eviction.
    High,
    /// Less is free than the margin.
    Critical,
}

impl Pressure {
    pub fn of(free: MiB, margin: MiB, everything_fits: bool, next_fits: bool) -> Self {
        match () {
            () if free < margin => Self::Critical,
            () if everything_fits => Self::Low,
            () if next_fits => Self::Medium,
            () => Self::High,
        }
    }
}

impl fmt::Display for Pressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_that_make_no_sense_are_refused() {
        for (total, free) in
            [(0, 0), (24_576, 24_577), (u64::MAX, 0), (u64::MAX, u64::MAX), (24_576, u64::MAX)]
        {
            assert!(Reading::new(MiB(total), MiB(free)).is_err(), "{total} {free}");
        }
        let reading = Reading::new(MiB(24_576), MiB(20_000)).unwrap();
        assert_eq!((reading.used(), reading.processes(), reading.is_active()), (MiB(4_576), None, None));
    }

    #[test]
    fn a_worker_is_the_sum_of_its_processes() {
        let process = |pid, used, worker: Option<&str>| ProcessMemory {
            pid,
            used: MiB(used),
            worker: worker.map(Into::into),
        };
        let reading = Reading::new(MiB(24_576), MiB(10_000)).unwrap();
        let list = vec![process(1, 4_000, Some("a")), process(2, 500, Some("a")), process(3, 700, None)];
        let known = reading.clone().with_processes(list);
        assert_eq!(known.held_by(&"a".into()), Some(MiB(4_500)));
        assert_eq!(known.held_by(&"b".into()), Some(MiB::ZERO));
        // Nobody knows.
        let lying = reading.with_processes(vec![process(1, u64::MAX >> 20, Some("a"))]);
        assert_eq!(lying.held_by(&"a".into()), None);
    }

    #[test]
    fn pressure_is_by_what_is_free() {
        let of = |free, all, next| Pressure::of(MiB(free), MiB(512), all, next);
        assert_eq!(of(511, true, true), Pressure::Critical);
        assert_eq!(of(512, true, true), Pressure::Low);
        assert_eq!(of(9_000, false, true), Pressure::Medium);
        assert_eq!(of(9_000, false, false), Pressure::High);
    }
}
