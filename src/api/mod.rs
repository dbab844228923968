//! What others may ask of a running agent: HTTP over a Unix socket in its data directory.
//!
//! The socket is the agent's own user's (0600, in a directory of mode 0700), and whoever may open it
//! may see everything it shows. So far there is one question, `GET /v1/status`; it changes nothing.
//! Answering never waits for the loop: what is shown is the copy it last published, and the memory is
//! read through a connection of its own.

mod client;
mod server;
mod status;

use std::path::{Path, PathBuf};

pub use client::{AskError, ask};
pub use server::{ListenError, LocalApi, SocketFile};
pub use status::{
    ChainStatus, FeedbackLine, HotkeyStatus, Identity, LaneStatus, MetagraphStatus, Place, Process,
    RegistrationStatus, Status, StatusSource, TaskStatus,
};

/// Name of the socket in the data directory.
pub const SOCKET: &str = "agent.sock";

/// Path of the newest form of the status.
const STATUS_PATH: &str = "/v1/status";

/// Where the agent of a data directory listens.
pub fn socket_path(dir: &Path) -> PathBuf {
    dir.join(SOCKET)
}
