//! The tables of rules.md R9 that simulations are held against.

#![allow(dead_code, reason = "each test file uses its own part")]

/// Tasks per hour of one hotkey with g 30 s, v 5 s, h 5 s, all results passing.
pub struct Capacity {
    pub validators: u16,
    /// "async submit, pull at expiry".
    pub tasks: f64,
    /// "blocking + 10 s polling".
    pub blocking: f64,
}

pub fn capacity(validators: u16) -> Capacity {
    let (tasks, blocking) = match validators {
        1 => (11.5, 11.4),
        2 => (22.9, 22.5),
        3 => (34.4, 34.3),
        4 => (45.9, 45.0),
        5 => (57.3, 57.1),
        6 => (68.8, 67.5),
        7 => (80.2, 80.0),
        _ => (88.9, 80.0),
    };
    Capacity { validators, tasks, blocking }
}

/// Accepted results per hour of the same card when one passes with probability `pass`.
pub struct Cell {
    pub pass: f64,
    pub validators: u16,
    pub submit_all: f64,
    pub gate_or_empty: f64,
    pub one_retry: f64,
    pub three_retries: f64,
}

impl Cell {
    pub fn best_gated(&self) -> f64 {
        self.gate_or_empty.max(self.one_retry).max(self.three_retries)
    }

    pub fn best(&self) -> f64 {
        self.best_gated().max(self.submit_all)
    }
}

const fn cell(pass: f64, validators: u16, columns: [f64; 4]) -> Cell {
    let [submit_all, gate_or_empty, one_retry, three_retries] = columns;
    Cell { pass, validators, submit_all, gate_or_empty, one_retry, three_retries }
}

pub const CELLS: [Cell; 15] = [
    cell(0.55, 2, [6.8, 12.6, 17.2, 19.8]),
    cell(0.55, 4, [13.8, 25.4, 33.9, 37.1]),
    cell(0.55, 7, [24.3, 44.3, 48.9, 49.0]),
    cell(0.55, 10, [34.6, 49.1, 49.2, 49.3]),
    cell(0.55, 14, [47.4, 49.1, 49.2, 49.3]),
    cell(0.55, 20, [62.4, 49.1, 49.2, 49.3]),
    cell(0.80, 2, [13.6, 18.4, 21.4, 22.0]),
    cell(0.80, 4, [27.2, 36.7, 42.4, 43.4]),
    cell(0.80, 7, [47.6, 64.3, 68.5, 68.6]),
    cell(0.80, 10, [67.9, 71.2, 71.3, 71.3]),
    cell(0.80, 14, [88.0, 71.2, 71.3, 71.3]),
    cell(0.95, 2, [20.3, 21.7, 22.7, 22.7]),
    cell(0.95, 4, [41.0, 43.6, 45.3, 45.4]),
    cell(0.95, 7, [71.7, 76.3, 77.7, 77.7]),
    cell(0.95, 10, [102.3, 84.5, 84.6, 84.6]),
];
