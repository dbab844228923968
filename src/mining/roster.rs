//! Which lane is asked next.

use crate::primitives::UnixTime;

/// When a lane may be asked, and when it was asked last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    pub at: UnixTime,
    pub last_asked: UnixTime,
}

/// Chooses among lanes.
#[derive(Debug)]
pub struct Roster;

impl Roster {
    /// The lane to ask next, by its position: of those due at `now` the one that waited longest, else
    /// the one due first. Nothing if there are none.
    pub fn next(lanes: &[Due], now: UnixTime) -> Option<usize> {
        let key = |due: &Due| {
            if due.at <= now { (UnixTime::EPOCH, due.last_asked) } else { (due.at, due.last_asked) }
        };
        lanes.iter().enumerate().min_by_key(|(_, due)| key(due)).map(|(position, _)| position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(at: u64, last_asked: u64) -> Due {
        Due { at: UnixTime::from_secs(at), last_asked: UnixTime::from_secs(last_asked) }
    }

    #[test]
    fn the_longest_waiting_of_the_due_lanes_comes_first() {
        let now = UnixTime::from_secs(100);
        assert_eq!(Roster::next(&[due(90, 50), due(100, 20), due(101, 1)], now), Some(1));
        assert_eq!(Roster::next(&[due(150, 5), due(120, 9)], now), Some(1));
        assert_eq!(Roster::next(&[], now), None);
    }
}
