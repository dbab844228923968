//! Amounts with their units in the type.

use std::fmt;
use std::iter::Sum;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text is not a quantity of the wanted kind.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum QuantityError {
    #[error("`{0}` is no size: write a whole number and a unit, such as \"32MiB\"")]
    Size(String),
    #[error("a size needs its unit: write \"{0}MiB\", \"{0}KiB\" or \"{0}B\"")]
    SizeWithoutUnit(String),
    #[error("{0} is no score: a score is a finite number")]
    Score(f64),
}

/// Smallest unit of the chain's tokens, 1e-9 of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rao(pub u64);

/// Device memory in MiB (2^20 bytes), the unit of the card ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MiB(pub u64);

impl MiB {
    pub const ZERO: Self = Self(0);

    /// Held at the end of the range.
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Held at nothing.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Sum for MiB {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Self::saturating_add)
    }
}

impl fmt::Display for MiB {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0)
    }
}

/// A number of bytes, written in configuration with a unit: `512B`, `64KiB`, `32MiB`, `2GiB`.
///
/// Decimal units are refused: the documents this project serves mix GB and GiB, so a size says
/// which it means or it is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// As a length of memory on this machine.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl FromStr for ByteSize {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let text = text.trim();
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let shift = match unit.trim() {
            "" if digits > 0 => return Err(QuantityError::SizeWithoutUnit(number.into())),
            "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return Err(QuantityError::Size(text.into())),
        };
        number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(1 << shift))
            .map(Self)
            .ok_or_else(|| QuantityError::Size(text.into()))
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A fidelity score. Finite; normally 0 to 1, and slightly above where alignment exceeds 1
/// (workers.md 2.4).
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Score(f64);

impl Score {
    pub const ZERO: Self = Self(0.0);

    /// # Errors
    /// When the number is NaN or infinite.
    pub fn new(value: f64) -> Result<Self, QuantityError> {
        if value.is_finite() { Ok(Self(value)) } else { Err(QuantityError::Score(value)) }
    }

    pub const fn get(self) -> f64 {
        self.0
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4}", self.0)
    }
}

/// Seed of one generation. 31 bits, so that every worker dialect takes it as a positive integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seed(u32);

impl Seed {
    pub const fn new(value: u32) -> Self {
        Self(value & 0x7fff_ffff)
    }

    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_needs_a_clear_unit() {
        assert_eq!("32MiB".parse(), Ok(ByteSize(32 << 20)));
        assert_eq!("1 GiB".parse(), Ok(ByteSize(1 << 30)));
        assert_eq!("7B".parse(), Ok(ByteSize(7)));
        assert_eq!("512".parse::<ByteSize>(), Err(QuantityError::SizeWithoutUnit("512".into())));
        for bad in ["", "MiB", "32MB", "1.5GiB", "-1B", "99999999999999GiB", "32 mib"] {
            assert!(matches!(bad.parse::<ByteSize>(), Err(QuantityError::Size(_))), "{bad}");
        }
    }

    #[test]
    fn a_size_prints_as_it_is_read() {
        for text in ["0B", "7B", "64KiB", "640MiB", "2GiB"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_score_is_a_finite_number() {
        assert!(Score::new(f64::NAN).is_err());
        assert!(Score::new(f64::NEG_INFINITY).is_err());
        assert_eq!(Score::new(0.81234).unwrap().to_string(), "0.8123");
    }
}
