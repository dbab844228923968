//! What goes wrong, as data: which fault, on which requests, how often.

use std::time::Duration;

use serde_json::{Value, json};

use super::hex;

/// One way to go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends in place of an answer.
    Drop,
    /// HTTP 429 to a new connection. To a request on an open one the JSON-RPC error -32005, which is
    /// what public providers have for it; nodes themselves set no limit.
    RateLimited,
    /// No answer, ever; the connection stays open.
    Silence,
    /// The right answer, late.
    Slow(Duration),
    /// A message that is no JSON.
    Garbage,
    /// A result in which every byte is wrong, at the right length.
    Scrambled,
    /// A result cut in half.
    Truncated,
    /// A result of this many zero bytes. They are made in memory, twice as many as digits.
    Oversized(usize),
    /// A result that is an array where a text or an object belongs.
    WrongType,
    /// Runtime calls answer for the next subnet than the one asked about.
    OtherSubnet,
    /// The error of a node that cannot answer.
    Broken,
}

impl Fault {
    /// Spoils a result, where that is what the fault does.
    pub(super) fn spoil(self, result: Value) -> Value {
        match (self, result) {
            (Self::Scrambled, Value::String(text)) => match hex::decode(&text) {
                Some(bytes) => {
                    Value::String(hex::encode(&bytes.iter().map(|b| b ^ 0xa5).collect::<Vec<_>>()))
                }
                None => Value::Null,
            },
            (Self::Truncated, Value::String(mut text)) => {
                // Whole bytes after `0x`.
                text.truncate(text.floor_char_boundary((text.len() / 2).next_multiple_of(2)));
                Value::String(text)
            }
            (Self::Scrambled | Self::Truncated, _) => Value::Null,
            (Self::Oversized(bytes), _) => Value::String(format!("0x{}", "00".repeat(bytes))),
            (Self::WrongType, _) => json!([17]),
            (_, result) => result,
        }
    }
}

/// The requests that a fault is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Everything,
    /// Opening a WebSocket. Only [`Fault::RateLimited`], [`Fault::Silence`] and [`Fault::Slow`] can be
    /// told apart there; the others refuse with 503.
    Connecting,
    /// An RPC method (`chain_getHeader`), or a runtime call by its name (`Core_version`).
    Method(String),
}

/// A fault, and when it strikes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultRule {
    pub fault: Fault,
    pub on: Target,
    /// Requests that pass before it strikes.
    pub after: u32,
    /// Requests that it strikes; `None`: all that follow.
    pub times: Option<u32>,
}

impl FaultRule {
    /// The fault at every request there is.
    pub fn always(fault: Fault, on: Target) -> Self {
        Self { fault, on, after: 0, times: None }
    }

    /// The fault at the next such request only.
    pub fn once(fault: Fault, on: Target) -> Self {
        Self { times: Some(1), ..Self::always(fault, on) }
    }

    fn strikes(&mut self) -> bool {
        if self.after > 0 {
            self.after -= 1;
            return false;
        }
        match &mut self.times {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }
}

/// The fault that a request meets: of the first rule that strikes.
pub(super) fn fault_of(rules: &mut [FaultRule], method: &str, runtime_call: Option<&str>) -> Option<Fault> {
    let concerns = |rule: &FaultRule| match &rule.on {
        Target::Everything => true,
        Target::Connecting => false,
        Target::Method(name) => name == method || Some(name.as_str()) == runtime_call,
    };
    rules.iter_mut().find_map(|rule| (concerns(rule) && rule.strikes()).then_some(rule.fault))
}

/// The fault that a new connection meets.
pub(super) fn fault_of_connecting(rules: &mut [FaultRule]) -> Option<Fault> {
    let mut connecting = rules.iter_mut().filter(|rule| rule.on == Target::Connecting);
    connecting.find_map(|rule| rule.strikes().then_some(rule.fault))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_strikes_after_some_and_so_often() {
        let on = Target::Method("Core_version".into());
        let mut rules = [FaultRule { fault: Fault::Drop, on, after: 1, times: Some(2) }];
        let mut call = || fault_of(&mut rules, "state_call", Some("Core_version"));
        assert_eq!([call(), call(), call(), call()], [None, Some(Fault::Drop), Some(Fault::Drop), None]);
        assert_eq!(fault_of(&mut rules, "state_call", None), None);
    }

    #[test]
    fn spoiled_results_stay_hexadecimal() {
        assert_eq!(Fault::Truncated.spoil(json!("0x00112233")), json!("0x0011"));
        assert_eq!(Fault::Truncated.spoil(json!("0x")), json!("0x"));
        assert_eq!(Fault::Scrambled.spoil(json!("0x00ff")), json!("0xa55a"));
        assert_eq!(Fault::Oversized(2).spoil(json!("0x00")), json!("0x0000"));
        assert_eq!(Fault::Truncated.spoil(json!({"number": "0x1"})), Value::Null);
    }
}
