//! Numbers as strangers write them.
//!
//! The reference is a Python model that takes `12` for `12.0` and integers as strings; a hostile
//! peer takes more liberties. What cannot be read as a number at all is an error, what is out of
//! range is held at its end.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};

/// A number that may come as integer, float, or text of either.
struct Number;

impl Visitor<'_> for Number {
    type Value = f64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<f64, E> {
        Ok(v as f64)
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<f64, E> {
        Ok(v as f64)
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<f64, E> {
        Ok(v)
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<f64, E> {
        v.trim().parse().ok().filter(|n: &f64| n.is_finite()).ok_or_else(|| E::custom("not a number"))
    }
}

/// A finite number.
pub fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    deserializer.deserialize_any(Number)
}

/// A count or a time in whole seconds: fractions are dropped, negative becomes 0.
pub fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    // A float converts by saturation, which is what is wanted here.
    number(deserializer).map(|n| n as u64)
}

/// The end of a time in whole seconds: as [`whole`], but a part of a second counts as one, so that
/// what waits for it is never early.
pub fn whole_up<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    number(deserializer).map(|n| n.ceil() as u64)
}

/// Nanoseconds, which a float cannot hold: an integer, or text of one.
pub fn nanoseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Nanos;
    impl Visitor<'_> for Nanos {
        type Value = u64;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number of nanoseconds")
        }
        fn visit_u64<E: de::Error>(self, v: u64) -> Result<u64, E> {
            Ok(v)
        }
        fn visit_str<E: de::Error>(self, v: &str) -> Result<u64, E> {
            v.trim().parse().map_err(|_| E::custom("not a whole number"))
        }
    }
    deserializer.deserialize_any(Nanos)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Sample {
        #[serde(deserialize_with = "super::whole")]
        seconds: u64,
    }

    #[derive(Deserialize)]
    struct End {
        #[serde(deserialize_with = "super::whole_up")]
        seconds: u64,
    }

    #[test]
    fn an_end_in_the_middle_of_a_second_is_its_end() {
        for (text, want) in
            [("1234", 1234), ("1234.1", 1235), ("\"1234.9\"", 1235), ("-0.5", 0), ("1e300", u64::MAX)]
        {
            let end: End = serde_json::from_str(&format!("{{\"seconds\":{text}}}")).unwrap();
            assert_eq!(end.seconds, want, "{text}");
        }
    }

    #[test]
    fn seconds_are_read_as_any_kind_of_number() {
        for (text, want) in [
            ("1234", 1234),
            ("1234.9", 1234),
            ("\"1234\"", 1234),
            ("-5", 0),
            ("1e300", u64::MAX),
            ("18446744073709551615", u64::MAX),
        ] {
            let sample: Sample = serde_json::from_str(&format!("{{\"seconds\":{text}}}")).unwrap();
            assert_eq!(sample.seconds, want, "{text}");
        }
        for bad in ["null", "[]", "\"soon\"", "\"NaN\"", "NaN", "true"] {
            assert!(serde_json::from_str::<Sample>(&format!("{{\"seconds\":{bad}}}")).is_err(), "{bad}");
        }
    }
}
