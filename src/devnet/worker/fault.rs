//! What goes wrong with worker servers, by name.

use std::fmt;
use std::str::FromStr;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Something that real workers do (workers.md), or that happens to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A verb does nothing and says so, with a 200 where the dialect does that.
    Refuses,
    /// A verb does nothing and is answered as if it had.
    Lies,
    /// Memory is given back some time after the answer.
    Late,
    /// A reload builds the new models beside the old ones.
    Double,
    /// The process ends once it has unloaded its models.
    Dies,
    /// After a reload every score is zero.
    Zeros,
    /// The process ends when it is out of memory.
    Crashes,
    /// From a request on nothing is answered any more; what was asked is not done.
    Hangs,
    /// A verb is carried out and never answered.
    Mute,
    /// Nothing is answered while it works, whatever the dialect.
    Deaf,
    /// SIGTERM and SIGINT are ignored.
    Stubborn,
    /// It has fallen back to the CPU.
    Cpu,
}

const ALL: [(Fault, &str); 12] = [
    (Fault::Refuses, "refuses"),
    (Fault::Lies, "lies"),
    (Fault::Late, "late"),
    (Fault::Double, "double"),
    (Fault::Dies, "dies"),
    (Fault::Zeros, "zeros"),
    (Fault::Crashes, "crashes"),
    (Fault::Hangs, "hangs"),
    (Fault::Mute, "mute"),
    (Fault::Deaf, "deaf"),
    (Fault::Stubborn, "stubborn"),
    (Fault::Cpu, "cpu"),
];

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ALL.iter().find(|(fault, _)| fault == self).map_or("", |(_, name)| name))
    }
}

/// A fault and how often it strikes, 0 to 1: `lies`, `late:0.2`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chance {
    pub fault: Fault,
    pub share: f64,
}

/// A text names no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no fault: NAME or NAME:SHARE with a share of 0 to 1 and a name of {names}", names = names())]
pub struct InvalidFault(String);

fn names() -> String {
    ALL.map(|(_, name)| name).join(", ")
}

impl FromStr for Chance {
    type Err = InvalidFault;
    fn from_str(text: &str) -> Result<Self, InvalidFault> {
        let invalid = || InvalidFault(text.escape_debug().to_string());
        let (name, share) = text.split_once(':').unwrap_or((text, "1"));
        let (fault, _) = ALL.iter().find(|(_, known)| *known == name).ok_or_else(invalid)?;
        let share = share.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(invalid)?;
        Ok(Self { fault: *fault, share })
    }
}

/// Decides whether a fault strikes; the same seed decides the same.
#[derive(Debug)]
pub(super) struct Luck {
    chances: Vec<Chance>,
    rng: StdRng,
}

impl Luck {
    pub fn new(chances: Vec<Chance>, seed: u64) -> Self {
        Self { chances, rng: StdRng::seed_from_u64(seed) }
    }

    /// Other chances from now on.
    pub fn change(&mut self, chances: Vec<Chance>) {
        self.chances = chances;
    }

    /// Whether this one strikes now.
    pub fn strikes(&mut self, fault: Fault) -> bool {
        let shares = self.chances.iter().filter(|chance| chance.fault == fault).map(|chance| chance.share);
        let share = shares.fold(0.0, f64::max);
        share > 0.0 && self.rng.random_bool(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_as_they_are_called() {
        for (fault, name) in ALL {
            assert_eq!(name.parse::<Chance>().unwrap(), Chance { fault, share: 1.0 });
            assert_eq!(fault.to_string(), name);
        }
        assert_eq!("late:0.25".parse::<Chance>().unwrap().share, 0.25);
        for bad in ["", "lie", "late:", "late:1.5", "late:-1", "late:NaN", "late:0.1:2"] {
            assert!(bad.parse::<Chance>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_seed_decides_the_same_again() {
        let story = |seed| {
            let mut luck = Luck::new(vec!["lies:0.3".parse().unwrap()], seed);
            (0..100).map(|_| luck.strikes(Fault::Lies)).collect::<Vec<_>>()
        };
        assert_eq!(story(7), story(7));
        assert_ne!(story(7), story(8));
        let struck = story(7).iter().filter(|struck| **struck).count();
        assert!((15..45).contains(&struck), "{struck}");
        assert!(!Luck::new(Vec::new(), 7).strikes(Fault::Lies));
    }
}
