//! Every byte on the subnet's wire: Synapse requests and replies as bittensor 9.9.0 writes and
//! reads them (vectors/synapse). Pure: nothing here opens a connection or asks the time.
//!
//! The same types serve our client and the development network's axon, so a mistake could hide in
//! both; golden captures and the Python SDK as peer are the outside guards.

mod headers;
mod lenient;
mod reply;
mod synapse;

pub use headers::{
    CallHead, Nonce, NonceBook, RefusedHeaders, SignedHead, VerifiedHead, sign_headers, verify_headers,
};
pub use reply::{Feedback, PullReply, ReplyError, SubmitReply, Task, error_message};
pub use synapse::{PullTask, SubmitResults, SynapseName, TerminalInfo, WireFeedback, WireTask};

/// SHA3-256 of nothing. Neither synapse has hashed fields, and an axon refuses any other value
/// (vectors/synapse README, "Request").
pub const BODY_HASH: &str = "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a";
