//! What others may ask of a running agent: HTTP over a Unix socket in its data directory.
//!
//! The socket is the agent's own user's (0600, in a directory of mode 0700), and whoever may open it
//! may see everything it shows and order what a person may order. `GET /v1/status` and `GET
//! /v1/workers` change nothing; answering them never waits for the loop: what is shown is the copy it
//! last published, and the memory is read through a connection of its own. `POST /v1/orders` gives an
//! order to a card (an [`Errand`] as JSON) and answers with its number; `GET /v1/orders/N` tells how far
//! it is.

mod client;
mod orders;
mod server;
mod status;
mod workers;

use std::path::{Path, PathBuf};

pub use client::{AskError, ask, ask_order, ask_workers, give_order};
pub use orders::{Errand, MOST_ROUNDS, OrderError, OrderState, OrderStatus, Orders, Round};
pub use server::{ListenError, LocalApi, SocketFile};
pub use status::{
    ChainStatus, FeedbackLine, HotkeyStatus, Identity, LaneStatus, MetagraphStatus, Place, Process,
    RegistrationStatus, Status, StatusSource, TaskStatus,
};
pub use workers::{CardStatus, HolderStatus, MemoryStatus, NextStatus, WorkerStatus, WorkersStatus};

/// Name of the socket in the data directory.
pub const SOCKET: &str = "agent.sock";

/// Path of the newest form of the status.
const STATUS_PATH: &str = "/v1/status";

/// Path of the newest form of the cards and workers.
const WORKERS_PATH: &str = "/v1/workers";

/// Path of the orders.
const ORDERS_PATH: &str = "/v1/orders";

/// Where the agent of a data directory listens.
pub fn socket_path(dir: &Path) -> PathBuf {
    dir.join(SOCKET)
}
