//! Who takes the orders: the agent that runs, or this process itself.

use std::path::PathBuf;

use anyhow::Context;

use crate::api::{self, Errand, OrderStatus, Orders, WorkersStatus, ask_order, ask_workers, give_order};
use crate::app::Purpose;
use crate::cli::run::kept_data;
use crate::cli::stop::StopSignals;
use crate::cli::workplace::Workplace;
use crate::clock::Clock;
use crate::config::{Settings, WorkerSettings};
use crate::gpu::Order;
use crate::mining::SeedSource;
use crate::net::{Connections, Endpoint, Transport};

/// See the [module](self).
pub enum Desk {
    Agent { data: PathBuf, clock: Clock },
    Here(Box<Here>),
}

/// The cards, held by this process.
pub struct Here {
    orders: Orders,
    place: Workplace,
}

impl Desk {
    /// The agent, if one runs; else the cards are taken.
    ///
    /// # Errors
    /// When an agent runs and cannot be asked, or another process has a card.
    pub async fn find(settings: &Settings, clock: Clock, purpose: Purpose) -> anyhow::Result<Self> {
        if let Some(data) = kept_data(settings)? {
            let asked = ask_workers(&data, &clock).await;
            if asked.with_context(|| format!("ask the agent of {}", data.display()))?.is_some() {
                return Ok(Self::Agent { data, clock });
            }
        }
        let mut place = Workplace::take(settings, clock, purpose).await?;
        let benches = std::mem::take(&mut place.workshop.benches);
        let orders = Orders::new(benches, clock, SeedSource::from_os(), None);
        Ok(Self::Here(Box::new(Here { orders, place })))
    }

    /// Looks at the cards that this process holds.
    ///
    /// # Errors
    /// When a card is given up meanwhile.
    pub async fn open(&self) -> anyhow::Result<()> {
        let Self::Here(here) = self else { return Ok(()) };
        for arbiter in here.place.workshop.arbiters() {
            arbiter.order(Order::Look).await.context("look at the card")?;
        }
        Ok(())
    }

    /// Whether it is this process that holds the cards.
    pub fn is_here(&self) -> bool {
        matches!(self, Self::Here(_))
    }

    pub async fn workers(&self) -> anyhow::Result<WorkersStatus> {
        match self {
            Self::Agent { data, clock } => ask_workers(data, clock).await?.context("the agent has ended"),
            Self::Here(here) => Ok(here.orders.workers()),
        }
    }

    pub async fn give(&self, errand: &Errand) -> anyhow::Result<u64> {
        match self {
            Self::Agent { data, clock } => {
                give_order(data, clock, errand).await?.context("the agent has ended")
            }
            Self::Here(here) => Ok(here.orders.give(errand.clone())?),
        }
    }

    /// How far an order is; `None` if nobody knows it.
    pub async fn order(&self, id: u64) -> Result<Option<OrderStatus>, api::AskError> {
        match self {
            Self::Agent { data, clock } => ask_order(data, clock, id).await,
            Self::Here(here) => Ok(here.orders.look(id)),
        }
    }

    /// Gives the cards up: whoever left for another is brought back first.
    pub async fn leave(&mut self, signals: &StopSignals) {
        if let Self::Here(here) = self {
            here.place.leave(signals).await;
        }
    }
}

/// A worker and where it is; no address: it is embedded.
pub struct Place {
    pub name: String,
    pub role: String,
    pub endpoint: Option<Endpoint>,
}

/// The workers of the configuration.
pub fn endpoints(settings: &Settings) -> Vec<Place> {
    let place = |worker: &WorkerSettings| Place {
        name: worker.name.clone(),
        role: worker.role.to_string(),
        endpoint: worker.endpoint().cloned(),
    };
    settings.workers().map(place).collect()
}

/// How workers are asked.
///
/// # Errors
/// When the HTTP client cannot be built.
pub fn transport(settings: &Settings) -> anyhow::Result<Transport> {
    Ok(Transport::http(settings.generator.connect_timeout, Connections::Fresh)?)
}
