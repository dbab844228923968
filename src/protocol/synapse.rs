//! The two synapses as JSON.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::lenient;
use crate::splat::Spz;

/// Name of a synapse: the path and the `name` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SynapseName {
    PullTask,
    SubmitResults,
}

impl SynapseName {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PullTask => "PullTask",
            Self::SubmitResults => "SubmitResults",
        }
    }

    pub const fn path(self) -> &'static str {
        match self {
            Self::PullTask => "/PullTask",
            Self::SubmitResults => "/SubmitResults",
        }
    }

    /// The reference writes the size of its Python objects here, which nothing checks and nothing
    /// else can reproduce; ours are the constants of the golden captures.
    pub(super) const fn total_size(self) -> u32 {
        match self {
            Self::PullTask => 3424,
            Self::SubmitResults => 4109,
        }
    }
}

/// Either end of a call, as the body describes it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TerminalInfo {
    pub status_code: Option<u16>,
    pub status_message: Option<String>,
    /// Seconds.
    pub process_time: Option<f64>,
    pub ip: Option<String>,
    pub port: Option<u16>,
    pub version: Option<i64>,
    /// Nanoseconds since 1970.
    pub nonce: Option<u64>,
    pub uuid: Option<String>,
    pub hotkey: Option<String>,
    pub signature: Option<String>,
}

/// A task on the wire.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WireTask {
    #[serde(rename = "type", default)]
    pub kind: String,
    pub id: String,
    pub prompt: String,
}

/// What a validator says of a submission, on the wire. All numbers as sent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WireFeedback {
    pub validation_failed: bool,
    #[serde(deserialize_with = "lenient::number")]
    pub task_fidelity_score: f64,
    #[serde(deserialize_with = "lenient::number")]
    pub average_fidelity_score: f64,
    #[serde(deserialize_with = "lenient::whole")]
    pub generations_within_the_window: u64,
    #[serde(deserialize_with = "lenient::number")]
    pub current_duel_rating: f64,
    #[serde(deserialize_with = "lenient::number")]
    pub current_miner_reward: f64,
}

/// Asks for a task, and answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PullTask {
    #[serde(default)]
    pub name: String,
    /// Seconds.
    #[serde(default)]
    pub timeout: f64,
    #[serde(default)]
    pub total_size: u32,
    #[serde(default)]
    pub header_size: u32,
    #[serde(default)]
    pub dendrite: Option<TerminalInfo>,
    #[serde(default)]
    pub axon: Option<TerminalInfo>,
    #[serde(default)]
    pub computed_body_hash: String,
    #[serde(default)]
    pub task: Option<WireTask>,
    #[serde(default = "default_threshold", deserialize_with = "lenient::number")]
    pub validation_threshold: f64,
    /// Seconds.
    #[serde(default, deserialize_with = "lenient::whole")]
    pub throttle_period: u64,
    /// The validator's unix seconds; 0 means "not given".
    #[serde(default, deserialize_with = "lenient::whole")]
    pub cooldown_until: u64,
    #[serde(default, deserialize_with = "lenient::whole")]
    pub cooldown_violations: u64,
}

fn default_threshold() -> f64 {
    0.6
}

/// Returns a result, and answers with feedback.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubmitResults<'a> {
    #[serde(default)]
    pub name: String,
    /// Seconds.
    #[serde(default)]
    pub timeout: f64,
    #[serde(default)]
    pub total_size: u32,
    #[serde(default)]
    pub header_size: u32,
    #[serde(default)]
    pub dendrite: Option<TerminalInfo>,
    #[serde(default)]
    pub axon: Option<TerminalInfo>,
    #[serde(default)]
    pub computed_body_hash: String,
    /// Stays null in a submission.
    #[serde(default)]
    pub task: Option<WireTask>,
    #[serde(default)]
    pub task_id: String,
    /// Base64 of the SPZ file, or nothing to decline without penalty.
    pub results: Cow<'a, str>,
    #[serde(default)]
    pub data_format: Cow<'a, str>,
    #[serde(default)]
    pub data_ver: u32,
    #[serde(default)]
    pub compression: u8,
    /// Nanoseconds since 1970, by the miner's clock; signed.
    #[serde(deserialize_with = "lenient::nanoseconds")]
    pub submit_time: u64,
    /// Base64.
    pub signature: String,
    #[serde(default)]
    pub feedback: Option<WireFeedback>,
    /// The validator's unix seconds; 0 means "not given".
    #[serde(default, deserialize_with = "lenient::whole")]
    pub cooldown_until: u64,
}

impl PullTask {
    /// A request, with both ends described as the headers describe them.
    pub fn request(timeout_s: f64, dendrite: TerminalInfo, axon: TerminalInfo) -> Self {
        let name = SynapseName::PullTask;
        Self {
            name: name.as_str().into(),
            timeout: timeout_s,
            total_size: name.total_size(),
            header_size: 0,
            dendrite: Some(dendrite),
            axon: Some(axon),
            computed_body_hash: String::new(),
            task: None,
            validation_threshold: default_threshold(),
            throttle_period: 0,
            cooldown_until: 0,
            cooldown_violations: 0,
        }
    }
}

impl<'a> SubmitResults<'a> {
    /// A request. `results` is base64 of the SPZ file or empty, `signature` base64 over the signed
    /// text of a submission.
    pub fn request(
        timeout_s: f64,
        dendrite: TerminalInfo,
        axon: TerminalInfo,
        task_id: &str,
        results: Cow<'a, str>,
        submit_time: u64,
        signature: String,
    ) -> Self {
        let name = SynapseName::SubmitResults;
        Self {
            name: name.as_str().into(),
            timeout: timeout_s,
            total_size: name.total_size(),
            header_size: 0,
            dendrite: Some(dendrite),
            axon: Some(axon),
            computed_body_hash: String::new(),
            task: None,
            task_id: task_id.into(),
            results,
            data_format: "ply".into(),
            data_ver: 0,
            compression: Spz::COMPRESSION,
            submit_time,
            signature,
            feedback: None,
            cooldown_until: 0,
        }
    }
}
