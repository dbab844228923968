//! Who holds a card.
//!
//! An [`Arbiter`] grants its card to one tenant at a time; the [`Lease`] is the grant. Two generations
//! on one card queue inside the worker and take longer than one after the other (the 59.73 s of source
//! document 002), so the queue is here, where it is seen.
//!
//! Where the workers of a card do not fit together some are moved out for others and back again, as
//! [`plan`] says, through [`Effects`], each hand-off a transaction of intent, act, proof and commit.
//! Whoever left comes back: for the next that wants it, or once the card is idle; if not by its verb,
//! then after a cleanup, then by a restart of its process; and if not even so it is out of order, which
//! is an alarm, and tried again.
//!
//! The card is looked after by a task that the arbiter owns: a hand-off must be brought to its end
//! when whoever asked for it has gone, and some begin when nobody asks. The task ends with the last
//! handle; [`Arbiter::close`] lets it bring back who left before.
//!
//! Limits: one lease at a time, also where two workers would fit beside each other. Where nothing
//! measures the card, what the workers say is believed.

mod arbiter;
mod book;
mod crew;
mod effects;
mod handoff;
mod household;
mod keeper;
mod ledger;
mod pace;
mod plan;
mod policy;
pub mod probe;
mod reading;
mod steps;
mod view;
mod vigil;
mod worker;

pub use arbiter::{Arbiter, Ending, Lease, LeaseError, Order, Recovery, Request};
pub use crew::{Crew, Hand, Share};
pub use effects::{
    Cause, EffectError, Effects, HandoffId, HandoffLog, Intent, LogError, NoLog, OpenHandoff, Song, StepTaken,
};
pub use handoff::HandoffError;
pub use household::{Household, HouseholdError, Settings, check};
pub use ledger::{Amounts, Ledger};
pub use plan::{Budget, Plan, Reach, Standing, Step, Sums, Tried, Unplaceable, Urgency, Wanted, plan};
pub use policy::{Batch, Forecast, Mode, Times, batch};
pub use reading::{Implausible, Pressure, ProcessMemory, Reading};
pub use view::{CardView, LagView, LeaseView, MemoryView, WorkerView};
pub use worker::{Abilities, AtStart, Residency, Row, Stage, Tenant, WorkerId, WorkerSpec, WorkerState};

#[cfg(test)]
mod campaign;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
