//! What a task is called and what it asks for.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::UnixTime;

/// A task id no validator would give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskIdError {
    #[error("the task id is empty")]
    Empty,
    #[error("the task id has {0} bytes, more than 256")]
    TooLong(usize),
}

/// The validator's own id of a task: opaque text, echoed back as it came. It is never a file name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct TaskId(Arc<str>);

impl TaskId {
    /// Longest id accepted, in bytes. Validators send UUIDs of 36.
    pub const MAX_BYTES: usize = 256;

    /// # Errors
    /// When the text is empty or longer than [`Self::MAX_BYTES`].
    pub fn new(text: &str) -> Result<Self, TaskIdError> {
        match text.len() {
            0 => Err(TaskIdError::Empty),
            n if n > Self::MAX_BYTES => Err(TaskIdError::TooLong(n)),
            _ => Ok(Self(text.into())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Our own id of a task: names its row and its files. Sorts by the time it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalId(Ulid);

impl LocalId {
    /// From the time of creation and 80 random bits (the upper bits of `random` are dropped).
    pub fn new(at: UnixTime, random: u128) -> Self {
        Self(Ulid::from_parts(at.as_millis(), random & ((1 << 80) - 1)))
    }

    /// The first ten characters (the time of creation), as log lines show it.
    pub fn short(&self) -> String {
        self.to_string().chars().take(10).collect()
    }
}

impl fmt::Display for LocalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for LocalId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Ulid::from_string(text).map(Self).map_err(|e| format!("not an id of ours: {e}"))
    }
}

/// What a task wants made. Text or image data exactly as the validator sent it, because the
/// submission is signed over it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Prompt {
    Text(Arc<str>),
    /// Base64 of an image file, unchecked.
    Image(Arc<str>),
    /// A kind of task this agent does not know. It can only be declined, and the decline is signed
    /// over this text.
    Other(Arc<str>),
}

/// The kind of a prompt alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PromptKind {
    Text,
    Image,
    Other,
}

impl fmt::Display for PromptKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Image => "image",
            Self::Other => "other",
        })
    }
}

impl Prompt {
    pub fn new(kind: PromptKind, data: &str) -> Self {
        match kind {
            PromptKind::Text => Self::Text(data.into()),
            PromptKind::Image => Self::Image(data.into()),
            PromptKind::Other => Self::Other(data.into()),
        }
    }

    pub fn kind(&self) -> PromptKind {
        match self {
            Self::Text(_) => PromptKind::Text,
            Self::Image(_) => PromptKind::Image,
            Self::Other(_) => PromptKind::Other,
        }
    }

    /// The text as it stands on the wire and under the signature.
    pub fn as_wire(&self) -> &str {
        match self {
            Self::Text(text) | Self::Image(text) | Self::Other(text) => text,
        }
    }
}

impl fmt::Debug for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.kind(), super::Untrusted::prompt(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_id_is_bounded() {
        assert_eq!(TaskId::new(""), Err(TaskIdError::Empty));
        assert_eq!(TaskId::new(&"x".repeat(257)), Err(TaskIdError::TooLong(257)));
        assert_eq!(TaskId::new("../../etc/passwd").unwrap().as_str(), "../../etc/passwd");
    }

    #[test]
    fn local_ids_sort_by_time_and_survive_the_round_trip() {
        let a = LocalId::new(UnixTime::from_millis(1_000), u128::MAX);
        let b = LocalId::new(UnixTime::from_millis(1_001), 0);
        assert!(a < b && a.to_string() < b.to_string());
        assert_eq!(a.to_string().parse::<LocalId>().unwrap(), a);
        assert_eq!(a.short().len(), 10);
        assert!("../../x".parse::<LocalId>().is_err());
    }
}
