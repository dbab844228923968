//! What can go wrong between us and the chain.

use std::time::Duration;

use super::{MetagraphError, NodeUrl};
use crate::primitives::{ByteSize, Netuid};

/// A chain read failed. The messages name the node and say what to do where the reader can do
/// something; the others pass by themselves or with the next node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    #[error("no chain node is configured: name one under network.endpoints")]
    NoNodes,
    #[error("chain node {node} cannot be reached: {reason}")]
    Unreachable { node: NodeUrl, reason: String },
    #[error("chain node {node} did not answer {method} within {} s", deadline.as_secs_f32())]
    Deadline { node: NodeUrl, method: String, deadline: Duration },
    #[error(
        "chain node {node} limits our requests ({reason}): the agent asks again later; a node of your own, \
         or further ones under network.endpoints, would help"
    )]
    RateLimited { node: NodeUrl, reason: String },
    #[error("chain node {node} refused {method}: {message} ({code})")]
    Refused { node: NodeUrl, method: String, code: i32, message: String },
    #[error("chain node {node} answered {method} with {bytes} bytes, more than the {limit} allowed")]
    TooLong { node: NodeUrl, method: String, bytes: usize, limit: ByteSize },
    #[error("the connection to chain node {node} broke: {reason}")]
    Closed { node: NodeUrl, reason: String },
    #[error("chain node {node} has shown no new block for {} s", silence.as_secs())]
    Silent { node: NodeUrl, silence: Duration },
    #[error(
        "chain node {node} belongs to another chain: its genesis hash is {found}, {expected} was expected; \
         check network.name and network.endpoints"
    )]
    ForeignChain { node: NodeUrl, found: String, expected: String },
    #[error("chain node {node} is behind: it is at block {block}, block {known} has been seen")]
    Behind { node: NodeUrl, block: u64, known: u64 },
    /// The answer does not fit its type in the node's own metadata.
    #[error("cannot decode {what}: {reason}")]
    Malformed { what: String, reason: String },
    #[error("the answer to {what} has {bytes} bytes too many")]
    Leftover { what: String, bytes: usize },
    #[error("asked for subnet {asked}, the answer is about subnet {found}")]
    ForeignSubnet { asked: Netuid, found: Netuid },
    #[error("subnet {netuid} does not exist on this chain: check network.netuid and network.name")]
    NoSubnet { netuid: Netuid },
    #[error(
        "the chain's runtime offers none of the calls that read a subnet: a newer version of this program \
         may know the new ones"
    )]
    NoCall,
    #[error("the answer to {what} makes no metagraph: {reason}")]
    NoMetagraph { what: String, reason: MetagraphError },
}

impl ChainError {
    /// Whether asking again, the same node or the next, can help without somebody changing something.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::NoNodes | Self::ForeignChain { .. } | Self::NoSubnet { .. } | Self::NoCall => false,
            Self::Unreachable { .. }
            | Self::Deadline { .. }
            | Self::RateLimited { .. }
            | Self::Refused { .. }
            | Self::TooLong { .. }
            | Self::Closed { .. }
            | Self::Silent { .. }
            | Self::Behind { .. }
            | Self::Malformed { .. }
            | Self::Leftover { .. }
            | Self::ForeignSubnet { .. }
            | Self::NoMetagraph { .. } => true,
        }
    }

    /// Whether the next node may do better: not when the chain itself, rather than this node, has
    /// answered.
    pub(super) const fn is_nodes_fault(&self) -> bool {
        !matches!(self, Self::NoNodes | Self::NoSubnet { .. } | Self::NoCall)
    }

    /// Whether this way of reading the subnet failed while the connection is sound, so that another
    /// call may still work.
    pub(super) const fn is_calls_fault(&self) -> bool {
        matches!(
            self,
            Self::Refused { .. }
                | Self::Malformed { .. }
                | Self::Leftover { .. }
                | Self::ForeignSubnet { .. }
                | Self::NoMetagraph { .. }
        )
    }
}
