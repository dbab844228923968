//! Who takes the orders: the agent that runs, or this process itself.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;

use crate::api::{self, Errand, OrderStatus, Orders, WorkersStatus, ask_order, ask_workers, give_order};
use crate::app::{Surroundings, Transports, Workshop, lock_cards};
use crate::cli::run::{kept_data, peers, start_devnet};
use crate::clock::Clock;
use crate::config::{Settings, WorkerSettings, WorkerUrl};
use crate::devnet::network::Served;
use crate::gpu::{NoLog, Order};
use crate::mining::SeedSource;
use crate::net::{Connections, Endpoint, Transport};
use crate::store::ProcessLock;
use crate::wallet::HotkeyPair;

/// See the [module](self).
pub enum Desk {
    Agent { data: PathBuf, clock: Clock },
    Here(Box<Here>),
}

/// The cards, held by this process.
pub struct Here {
    orders: Orders,
    workshop: Workshop,
    devnet: Option<Served>,
    _folder: tempfile::TempDir,
    _locks: Vec<ProcessLock>,
}

impl Desk {
    /// `to_act`: a card that this process takes is brought to a known state first; else it is only looked
    /// at.
    ///
    /// # Errors
    /// When an agent runs and cannot be asked, or another process has the card.
    pub async fn find(settings: &Settings, clock: Clock, to_act: bool) -> anyhow::Result<Self> {
        if let Some(data) = kept_data(settings)? {
            let asked = ask_workers(&data, &clock).await;
            if asked.with_context(|| format!("ask the agent of {}", data.display()))?.is_some() {
                return Ok(Self::Agent { data, clock });
            }
        }
        let embedded = settings.generator.url == WorkerUrl::Devnet;
        let locks = if embedded { Vec::new() } else { lock_cards(settings)? };
        let workers_only = Settings {
            devnet: crate::config::DevnetSettings { base_port: 0, ..settings.devnet.clone() },
            ..settings.clone()
        };
        let devnet = start_devnet(&workers_only, vec![*HotkeyPair::dev("miner").hotkey()], clock).await?;
        let peers = peers(&workers_only, devnet.as_ref())?;
        let transports = Transports::over_sockets(settings)?;
        let temporary = tempfile::tempdir().context("make a temporary directory")?;
        let kept = kept_data(settings)?;
        let around = Surroundings {
            settings,
            transports: &transports,
            clock,
            store: None,
            journal: Arc::new(NoLog),
            folder: kept.as_deref().unwrap_or(temporary.path()),
        };
        let mut workshop = Workshop::open(peers.cards, &around).await?;
        let benches = std::mem::take(&mut workshop.benches);
        for arbiter in workshop.arbiters() {
            if !to_act {
                arbiter.order(Order::Look).await.context("look at the card")?;
                continue;
            }
            let recovery = arbiter.recover(Vec::new()).await.context("look at the card")?;
            for (worker, why) in recovery.missing {
                eprintln!("warning: {worker} is not where it belongs: {why}");
            }
        }
        let orders = Orders::new(benches, clock, SeedSource::from_os(), None);
        Ok(Self::Here(Box::new(Here { orders, workshop, devnet, _folder: temporary, _locks: locks })))
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
    pub async fn leave(&self) {
        let Self::Here(here) = self else { return };
        here.workshop.close().await;
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        // Its servers end with it.
        self.devnet.take();
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
