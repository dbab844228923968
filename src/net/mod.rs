//! Bytes to an address and back, within limits.
//!
//! Everything that answers is treated as hostile: each call has a time to connect, to the first
//! byte and in total, a bound on the body, and no redirects. The limits hold for the in-process
//! transport of paused tests exactly as for sockets.

mod backoff;
mod endpoint;
mod transport;

pub use backoff::{Backoff, InvalidBackoff};
pub use endpoint::{Endpoint, EndpointError};
pub use transport::{
    BoxError, Call, Connections, InProcess, Limits, NetError, Reply, ReplyBody, Timing, Transport,
};
