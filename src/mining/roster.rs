//! Which lane is asked next (rules.md R9, "Which validator").

use std::cmp::Ordering;
use std::time::Duration;

/// Duels need a task within 20 minutes (rules.md R7); five are left for the task itself.
const DUEL_ELIGIBLE: Duration = Duration::from_secs(15 * 60);

/// What speaks for asking a lane that is due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prospect {
    /// A task of ours is open there and not in our hands, as far as we know: its time runs, and a pull
    /// brings it back.
    pub open: bool,
    /// Since when it might have been asked.
    pub overdue: Duration,
    /// Since its last task; `None` if this agent never had one there.
    pub unserved: Option<Duration>,
    /// Whether a result accepted there stays in the four-hour window until its next turn: the first
    /// one in a window earns about 40 % of the top weight (rules.md R5).
    pub covered: bool,
    /// Share of the stake of all lanes, 0 to 1.
    pub stake: f64,
    /// What its scoring usually takes.
    pub scoring: Duration,
    /// The subnet owner's validator, where organic traffic enters.
    pub owner: bool,
}

/// Why a lane comes first, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    Open,
    Uncovered,
    Unserved,
    Ordinary,
}

impl Prospect {
    fn claim(&self) -> Claim {
        if self.open {
            Claim::Open
        } else if !self.covered {
            Claim::Uncovered
        } else if self.unserved.is_none_or(|time| time >= DUEL_ELIGIBLE) {
            Claim::Unserved
        } else {
            Claim::Ordinary
        }
    }

    /// Within a claim, more is better. A lane that waits comes to its turn whatever its stake: the
    /// second claim goes by time alone.
    fn weight(&self) -> f64 {
        let stake = self.stake.max(1e-6);
        let overdue = self.overdue.as_secs_f64();
        match self.claim() {
            Claim::Open => overdue,
            Claim::Uncovered => stake * (overdue + 60.0),
            Claim::Unserved => self.unserved.map_or(f64::INFINITY, |time| time.as_secs_f64()),
            Claim::Ordinary => stake * (overdue + 60.0 - self.scoring.as_secs_f64().min(30.0)),
        }
    }

    fn compare(&self, other: &Self) -> Ordering {
        let waited = |lane: &Self| lane.unserved.unwrap_or(Duration::MAX);
        self.claim()
            .cmp(&other.claim())
            .then(other.weight().total_cmp(&self.weight()))
            .then(other.owner.cmp(&self.owner))
            // After a start all are due alike, and the first in the list is no better than the last.
            .then(waited(other).cmp(&waited(self)))
    }
}

/// Chooses among lanes that are due.
#[derive(Debug)]
pub struct Roster;

impl Roster {
    /// The lane to ask next: one with an open task first, then a validator without a result in the
    /// window, then one whose duels are at stake, then by stake and time; the earlier of equals.
    pub fn next<T>(prospects: impl IntoIterator<Item = (T, Prospect)>) -> Option<T> {
        prospects.into_iter().min_by(|(_, a), (_, b)| a.compare(b)).map(|(lane, _)| lane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn usual() -> Prospect {
        Prospect {
            open: false,
            overdue: S(10),
            unserved: Some(S(310)),
            covered: true,
            stake: 0.1,
            scoring: S(4),
            owner: false,
        }
    }

    fn first(prospects: &[Prospect]) -> usize {
        Roster::next(prospects.iter().copied().enumerate()).unwrap()
    }

    #[test]
    fn open_tasks_come_before_empty_windows_these_before_duels_and_duels_before_stake() {
        let rich = Prospect { stake: 0.8, ..usual() };
        let unserved = Prospect { unserved: Some(S(901)), stake: 0.01, ..usual() };
        let uncovered = Prospect { covered: false, stake: 0.001, ..usual() };
        let open = Prospect { open: true, stake: 0.0, overdue: S(0), ..usual() };
        assert_eq!(first(&[rich, unserved, uncovered, open]), 3);
        assert_eq!(first(&[rich, unserved, uncovered]), 2);
        assert_eq!(first(&[rich, unserved]), 1);
        assert_eq!(first(&[usual(), rich]), 1);
    }

    #[test]
    fn empty_windows_are_filled_by_stake() {
        let small = Prospect { covered: false, unserved: None, ..usual() };
        let large = Prospect { stake: 0.2, ..small };
        assert_eq!(first(&[small, large]), 1);
    }

    #[test]
    fn time_outweighs_stake_in_the_end() {
        let rich = Prospect { stake: 0.2, overdue: S(0), ..usual() };
        let waiting = Prospect { overdue: S(500), ..usual() };
        assert_eq!(first(&[rich, waiting]), 1);
        // However small its stake, a lane that is not served becomes the first.
        let poor = Prospect { stake: 0.0, unserved: Some(S(1_000)), ..usual() };
        assert_eq!(first(&[rich, poor, Prospect { unserved: Some(S(950)), ..rich }]), 1);
    }

    #[test]
    fn the_owner_decides_between_equals() {
        assert_eq!(first(&[usual(), Prospect { owner: true, ..usual() }]), 1);
        assert_eq!(first(&[usual(), usual()]), 0);
        assert_eq!(Roster::next(std::iter::empty::<(u8, Prospect)>()), None);
    }
}
