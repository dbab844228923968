//! Identifiers and quantities of the subnet, without any I/O.
//!
//! Everything here is plain data that cannot hold a wrong value: an address that does not check, a
//! score that is no number or a text longer than its bound never becomes one of these types.

mod identity;
mod quantity;
mod task;
mod text;
mod time;

pub use identity::{AddressError, CardId, Coldkey, Hotkey, Netuid, SourceId, Uid};
pub use quantity::{ByteSize, MiB, QuantityError, Rao, Score, Seed};
pub use task::{LocalId, Prompt, PromptKind, TaskId, TaskIdError};
pub use text::Untrusted;
pub use time::UnixTime;
