//! The cards and their workers, for a command that uses them by itself.

use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::run::{kept_data, peers, start_devnet, stop_devnet};
use super::stop::StopSignals;
use crate::app::{Purpose, Surroundings, Transports, Workshop, lock_cards};
use crate::clock::Clock;
use crate::config::{DevnetSettings, Settings, WorkerUrl};
use crate::devnet::network::Served;
use crate::gpu::NoLog;
use crate::store::ProcessLock;
use crate::wallet::HotkeyPair;

/// What is said to the first signal.
pub const INTERRUPTED: &str = "interrupted; what is under way is finished, and whoever left the card is brought back (again: leaves at once)";

/// What one process at a time may have.
pub struct Workplace {
    pub workshop: Workshop,
    devnet: Option<Served>,
    _folder: tempfile::TempDir,
    _locks: Vec<ProcessLock>,
}

impl Workplace {
    /// Takes the cards, and starts the embedded workers if they are meant. Nothing is moved yet; hand-offs
    /// are not journalled, and no canary is known: both belong to the agent.
    ///
    /// # Errors
    /// When another process has a card, or the workers cannot be as they are configured.
    pub async fn take(settings: &Settings, clock: Clock, purpose: Purpose) -> anyhow::Result<Self> {
        let embedded = settings.generator.url == WorkerUrl::Devnet;
        // A running agent on the same card would be driven out of memory.
        let locks = if embedded { Vec::new() } else { lock_cards(settings)? };
        let workers_only = Settings {
            devnet: DevnetSettings { base_port: 0, ..settings.devnet.clone() },
            ..settings.clone()
        };
        let devnet = start_devnet(&workers_only, vec![*HotkeyPair::dev("miner").hotkey()], clock).await?;
        let peers = peers(&workers_only, devnet.as_ref())?;
        let transports = Transports::over_sockets(settings)?;
        let kept = kept_data(settings)?;
        let folder = tempfile::tempdir().context("make a temporary directory")?;
        let around = Surroundings {
            settings,
            transports: &transports,
            clock,
            store: None,
            journal: Arc::new(NoLog),
            folder: kept.as_deref().unwrap_or(folder.path()),
            purpose,
        };
        let workshop = Workshop::open(peers.cards, &around).await?;
        Ok(Self { workshop, devnet, _folder: folder, _locks: locks })
    }

    /// Gives the cards up: whoever left for another is brought back first, what was started is ended. The
    /// first signal that comes meanwhile is answered by saying so, the second cuts it short.
    pub async fn leave(&mut self, signals: &StopSignals) {
        let said = signals.stop.is_cancelled();
        let first_signal = async {
            signals.stop.cancelled().await;
            if !said {
                eprintln!("{INTERRUPTED}");
            }
            std::future::pending().await
        };
        tokio::select! {
            () = self.workshop.close() => {}
            () = first_signal => {}
            () = signals.now.cancelled() => return,
        }
        if let Some(devnet) = self.devnet.take() {
            stop_devnet(devnet, &CancellationToken::new()).await;
        }
    }
}
