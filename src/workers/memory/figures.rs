//! What workers say about memory, converted to MiB where it comes in.
//!
//! Their units differ and their labels lie: "gb" is 2^30 bytes in the hand-off verbs and in
//! `/memory/*`, 10^9 in the cache verb, and engines count bytes (workers.md section 8). A figure that
//! no card can have, and figures that contradict each other, go no further than this file.

use serde_json::{Map, Value};

use crate::primitives::{MiB, Untrusted};

/// No card has more, and a figure in a smaller unit than was taken for it soon does.
const MOST: MiB = MiB(1 << 20);

/// No card has less, and a figure in a larger unit than was taken for it soon does.
const LEAST_TOTAL: MiB = MiB(512);

/// How a worker counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// 2^30 bytes.
    GiB,
    /// 10^9 bytes.
    GB,
    /// 2^20 bytes.
    MiB,
    Bytes,
}

impl Unit {
    const fn bytes(self) -> f64 {
        match self {
            Self::GiB => (1_u64 << 30) as f64,
            Self::GB => 1e9,
            Self::MiB => (1_u64 << 20) as f64,
            Self::Bytes => 1.0,
        }
    }

    /// Converts a number of such units, to the nearest MiB.
    ///
    /// # Errors
    /// Why no card can have so much.
    pub fn to_mib(self, number: f64) -> Result<MiB, &'static str> {
        if !number.is_finite() {
            return Err("not a finite number");
        }
        if number < 0.0 {
            return Err("negative");
        }
        let mib = (number * self.bytes() / (1_u64 << 20) as f64).round();
        if mib > MOST.0 as f64 {
            return Err("more than 1 TiB, which no card has");
        }
        Ok(MiB(mib as u64))
    }
}

/// A worker said something about memory that cannot be true.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is said to be {said}: {why}")]
pub struct Implausible {
    /// Name of the figure in the worker's answer.
    pub what: &'static str,
    /// The worker's own words, cut and escaped.
    pub said: String,
    pub why: &'static str,
}

impl Implausible {
    pub(super) fn new(what: &'static str, said: &str, why: &'static str) -> Self {
        Self { what, said: Untrusted::new(said).to_string(), why }
    }
}

/// Why an answer is not a JSON object.
#[derive(Debug)]
pub(in crate::workers) enum ReadError {
    Unreadable(String),
    /// Python writes what is no number as `NaN` and `Infinity`.
    Implausible(Implausible),
}

/// A JSON object that a worker answered.
#[derive(Debug)]
pub(in crate::workers) struct Answer(Map<String, Value>);

impl Answer {
    pub fn read(body: &[u8]) -> Result<Self, ReadError> {
        match serde_json::from_slice::<Value>(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(other) => Err(ReadError::Unreadable(format!("{} where an object belongs", kind(&other)))),
            Err(error) => {
                let (text, error) = (String::from_utf8_lossy(body), error.to_string());
                let no_number = text.contains("NaN") || text.contains("Infinity");
                if text.trim_start().starts_with('{') && (no_number || error.contains("out of range")) {
                    let said = Implausible::new("a figure", &text, "not a finite number");
                    return Err(ReadError::Implausible(said));
                }
                Err(ReadError::Unreadable(Untrusted::new(&error).to_string()))
            }
        }
    }

    /// The objects of an answer that is a list.
    pub fn list(body: &[u8]) -> Option<Vec<Self>> {
        let list: Vec<Map<String, Value>> = serde_json::from_slice(body).ok()?;
        Some(list.into_iter().map(Self).collect())
    }

    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    pub fn flag(&self, key: &str) -> Option<bool> {
        self.0.get(key)?.as_bool()
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.as_str()
    }

    pub fn object(&self, key: &str) -> Option<&Map<String, Value>> {
        self.0.get(key)?.as_object()
    }

    pub fn is_number(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(Value::is_number)
    }

    /// The objects in a list.
    pub fn objects(&self, key: &str) -> Option<Vec<Self>> {
        let list = self.0.get(key)?.as_array()?;
        list.iter().map(|entry| entry.as_object().cloned().map(Self)).collect()
    }

    /// A figure that is a number; `None` where it is absent or null.
    pub fn figure(&self, key: &'static str, unit: Unit) -> Result<Option<MiB>, Implausible> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Number(number)) => {
                let wrong = |why| Implausible::new(key, &number.to_string(), why);
                let number = number.as_f64().ok_or_else(|| wrong("not a number"))?;
                unit.to_mib(number).map(Some).map_err(wrong)
            }
            Some(other) => Err(Implausible::new(key, &other.to_string(), "not a number")),
        }
    }

    /// A figure that is a text such as `6.12GB`; `None` where it is absent, null or `N/A`.
    pub fn text_figure(&self, key: &'static str) -> Result<Option<MiB>, Implausible> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text == "N/A" => Ok(None),
            Some(Value::String(text)) => {
                text_to_mib(text).map(Some).map_err(|why| Implausible::new(key, text, why))
            }
            Some(other) => Err(Implausible::new(key, &other.to_string(), "not a text with a unit")),
        }
    }
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Reads `6.12GB`. GEN-TRJ, which writes such, divides by 2^30, and so does everybody who copied it.
fn text_to_mib(text: &str) -> Result<MiB, &'static str> {
    let text = text.trim();
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '-')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = match unit.trim_start() {
        "GB" | "GiB" => Unit::GiB,
        "MB" | "MiB" => Unit::MiB,
        "" => return Err("a size without its unit"),
        _ => return Err("not a size"),
    };
    unit.to_mib(number.parse().map_err(|_| "not a size")?)
}

/// Figures of one device as a worker gives them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Device {
    pub total: Option<MiB>,
    pub free: Option<MiB>,
    pub used: Option<MiB>,
}

impl Device {
    /// Refuses figures that contradict each other: one in GB among others in GiB is 7 % off.
    pub fn checked(self) -> Result<Self, Implausible> {
        let Some(total) = self.total else { return Ok(self) };
        let wrong = |what, said: String, why| Err(Implausible::new(what, &said, why));
        if total < LEAST_TOTAL {
            return wrong("the total", total.to_string(), "less than any card has");
        }
        for (what, part) in [("the free memory", self.free), ("the used memory", self.used)] {
            if let Some(part) = part.filter(|part| part.0 > total.0 + 1) {
                return wrong(what, format!("{part} of {total}"), "more than the total");
            }
        }
        if let (Some(free), Some(used)) = (self.free, self.used) {
            let sum = free.0 + used.0;
            // Some round to a tenth of a GiB.
            if sum.abs_diff(total.0) > (total.0 / 64).max(160) {
                let said = format!("{total} with {free} free and {used} used");
                return wrong("the total", said, "the parts do not add up, as when units are mixed");
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(json: &str) -> Answer {
        Answer::read(json.as_bytes()).unwrap()
    }

    fn refused(json: &str, unit: Unit) -> String {
        answer(json).figure("x", unit).unwrap_err().to_string()
    }

    #[test]
    fn each_unit_is_converted() {
        let one = answer(r#"{"x":24,"none":null}"#);
        assert_eq!(one.figure("x", Unit::GiB), Ok(Some(MiB(24_576))));
        assert_eq!(one.figure("x", Unit::GB), Ok(Some(MiB(22_888))));
        assert_eq!(one.figure("none", Unit::GB), Ok(None));
        assert_eq!(one.figure("absent", Unit::GB), Ok(None));
        assert_eq!(answer(r#"{"x":25769803776}"#).figure("x", Unit::Bytes), Ok(Some(MiB(24_576))));
        for (text, mib) in [("6.12GB", 6_267), ("6.12 GiB", 6_267), ("512MiB", 512), ("0.00GB", 0)] {
            let answer = answer(&format!(r#"{{"x":"{text}"}}"#));
            assert_eq!(answer.text_figure("x"), Ok(Some(MiB(mib))), "{text}");
        }
        assert_eq!(answer(r#"{"x":"N/A"}"#).text_figure("x"), Ok(None));
    }

    #[test]
    fn what_no_card_has_is_refused_with_the_words() {
        assert_eq!(refused(r#"{"x":-3.2}"#, Unit::GiB), "x is said to be -3.2: negative");
        assert!(refused(r#"{"x":24576}"#, Unit::GiB).ends_with("more than 1 TiB, which no card has"));
        assert!(refused(r#"{"x":18446744073709551615}"#, Unit::Bytes).contains("1 TiB"));
        assert!(refused(r#"{"x":1e308}"#, Unit::GiB).contains("1 TiB"), "the product overflows");
        assert!(refused(r#"{"x":"24"}"#, Unit::GiB).ends_with("not a number"));
        assert!(refused(r#"{"x":true}"#, Unit::GiB).ends_with("not a number"));
        let long = format!(r#"{{"x":"{}"}}"#, "\u{9b}\u{202e}".repeat(100_000));
        assert!(refused(&long, Unit::GiB).len() < 1_200);
        for text in ["6.12", "GB", "6,12GB", "infGB", "nanGB", "6.12TB", "-1GB", "1.2.3GB", "99999999GB"] {
            let answer = answer(&format!(r#"{{"x":"{text}"}}"#));
            assert!(answer.text_figure("x").is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_number_and_what_is_no_object() {
        for body in [r#"{"x":NaN}"#, r#"{"x":-Infinity}"#, r#"{"x":1e999}"#] {
            assert!(matches!(Answer::read(body.as_bytes()), Err(ReadError::Implausible(_))), "{body}");
        }
        for body in ["", "<html>", "[1]", "\"x\"", "null", "{", &"[".repeat(1 << 16)] {
            let Err(ReadError::Unreadable(why)) = Answer::read(body.as_bytes()) else { panic!("{body}") };
            assert!(why.len() < 200, "{why}");
        }
    }

    #[test]
    fn parts_must_add_up() {
        let device = |total, free, used| {
            Device { total: Some(MiB(total)), free: Some(MiB(free)), used: Some(MiB(used)) }.checked()
        };
        assert!(device(24_576, 20_000, 4_576).is_ok());
        assert!(device(24_576, 20_100, 4_576).is_ok(), "rounded to a tenth of a GiB");
        // 19.6 GiB free said in GB, with the rest in GiB.
        let mixed = device(24_576, 21_550, 4_505).unwrap_err();
        assert!(mixed.to_string().contains("as when units are mixed"), "{mixed}");
        assert!(device(24_576, 24_578, 0).is_err());
        assert!(device(24_576, 0, 30_000).is_err());
        assert!(device(24, 20, 4).is_err(), "GiB taken for MiB");
        assert!(Device { total: None, free: Some(MiB(1)), used: None }.checked().is_ok());
    }

    proptest! {
        #[test]
        fn a_figure_comes_out_within_half_a_mib_or_not_at_all(number: f64, unit in 0_usize..4) {
            let unit = [Unit::GiB, Unit::GB, Unit::MiB, Unit::Bytes][unit];
            match unit.to_mib(number) {
                Ok(mib) => {
                    prop_assert!(mib <= MOST);
                    let said = number * unit.bytes() / (1_u64 << 20) as f64;
                    prop_assert!((mib.0 as f64 - said).abs() <= 0.5, "{number} {unit:?} {mib}");
                }
                Err(_) => prop_assert!(
                    number.is_nan() || number < 0.0 || number * unit.bytes() > (MOST.0 << 20) as f64
                ),
            }
        }

        #[test]
        fn figures_of_a_card_are_taken_in_every_unit(mib in 0_u64..=1 << 20) {
            for (unit, json) in [
                (Unit::GiB, format!(r#"{{"x":{}}}"#, mib as f64 / 1024.0)),
                (Unit::GB, format!(r#"{{"x":{}}}"#, (mib << 20) as f64 / 1e9)),
                (Unit::Bytes, format!(r#"{{"x":{}}}"#, mib << 20)),
            ] {
                prop_assert_eq!(answer(&json).figure("x", unit), Ok(Some(MiB(mib))));
            }
        }

        #[test]
        fn no_text_is_taken_without_a_unit_or_beyond_a_card(text in "\\PC{0,40}") {
            if let Ok(mib) = text_to_mib(&text) {
                prop_assert!(mib <= MOST);
                prop_assert!(text.trim_end().ends_with('B'));
            }
        }

        #[test]
        fn no_answer_breaks_the_reader(body: Vec<u8>) {
            if let Ok(answer) = Answer::read(&body) {
                let _figure = answer.figure("x", Unit::GiB);
            }
        }
    }
}
