//! Where tasks come from.

use std::sync::Arc;

use crate::dendrite::{Answered, AxonAddress, CallError, Dendrite, Submission};
use crate::primitives::{SourceId, Uid};
use crate::protocol::{PullReply, SubmitReply};

/// A source of tasks: something to pull from and to answer.
#[derive(Debug, Clone)]
pub enum TaskSource {
    Validator(ValidatorSource),
}

/// A validator of the subnet.
#[derive(Debug, Clone)]
pub struct ValidatorSource {
    pub dendrite: Arc<Dendrite>,
    pub axon: AxonAddress,
    /// For display: uids are recycled.
    pub uid: Option<Uid>,
}

impl TaskSource {
    pub fn id(&self) -> SourceId {
        match self {
            Self::Validator(validator) => SourceId::Validator(validator.axon.hotkey),
        }
    }

    pub fn uid(&self) -> Option<Uid> {
        match self {
            Self::Validator(validator) => validator.uid,
        }
    }

    /// Where it is, for display.
    pub fn address(&self) -> String {
        match self {
            Self::Validator(validator) => validator.axon.address.to_string(),
        }
    }

    /// Asks for a task.
    ///
    /// # Errors
    /// See [`Dendrite::pull`].
    pub async fn pull(&self) -> Result<Answered<PullReply>, CallError> {
        match self {
            Self::Validator(validator) => validator.dendrite.pull(&validator.axon).await,
        }
    }

    /// Signs an answer and sends it.
    ///
    /// # Errors
    /// See [`Dendrite::submit`].
    pub async fn submit(&self, submission: Submission<'_>) -> Result<Answered<SubmitReply>, CallError> {
        match self {
            Self::Validator(validator) => validator.dendrite.submit(&validator.axon, submission).await,
        }
    }
}
