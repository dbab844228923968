//! Following the chain: syncs at intervals and on request, and notices a dead connection in between.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{ChainClient, ChainError, Jitter, Metagraph, NodeUrl, Registration, Synced};
use crate::primitives::{Hotkey, UnixTime};

/// The last known state of the subnet.
#[derive(Debug, Clone)]
pub struct View {
    /// The newest metagraph; the kept one of an earlier run until the first sync.
    pub metagraph: Option<Arc<Metagraph>>,
    /// Of our hotkeys, in their order; empty until the first sync.
    pub registrations: Arc<[(Hotkey, Registration)]>,
    pub link: Link,
}

impl View {
    /// What the chain last said of a hotkey; nothing until the first sync.
    pub fn registration(&self, hotkey: &Hotkey) -> Option<Registration> {
        self.registrations.iter().find(|(known, _)| known == hotkey).map(|(_, registration)| *registration)
    }
}

/// How we stand with the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "link", rename_all = "snake_case")]
pub enum Link {
    /// No sync has ended yet.
    Connecting,
    /// The last sync went well.
    Up { node: NodeUrl, block: u64, spec_version: u32, since: UnixTime },
    /// The last sync failed in this way; `failures` in a row, the next one at `retry_at`.
    Down { reason: String, retryable: bool, failures: u32, retry_at: UnixTime },
}

/// What the rest of the agent holds of the [`Follower`].
#[derive(Clone)]
pub struct ChainHandle {
    view: watch::Receiver<View>,
    wake: Arc<Notify>,
}

impl fmt::Debug for ChainHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChainHandle").field("link", &self.view.borrow().link).finish()
    }
}

impl ChainHandle {
    /// The state now.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// Waits for the next end of a sync; `false` when the follower has ended. Cancel-safe.
    pub async fn changed(&mut self) -> bool {
        self.view.changed().await.is_ok()
    }

    /// Asks for a sync before its time: a validator says "not registered" while the chain says
    /// registered. Held to `Settings::sync_floor`, so that no validator can make us flood the chain.
    pub fn sync_now(&self) {
        self.wake.notify_one();
    }
}

/// Keeps a [`View`] up to date until told to stop.
pub struct Follower {
    client: ChainClient,
    hotkeys: Vec<Hotkey>,
    jitter: Jitter,
    view: watch::Sender<View>,
    wake: Arc<Notify>,
    failures: u32,
    due: Instant,
    last_sync: Option<Instant>,
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("client", &self.client).finish_non_exhaustive()
    }
}

enum Event {
    Stop,
    Wake,
    Due,
    Head(Result<u64, ChainError>),
}

/// A node that limits our requests is left alone for this long at least.
const RATE_LIMIT_WAIT: Duration = Duration::from_secs(60);

/// The longest time between two looks while one of our hotkeys is not registered: nothing is earned
/// until its registration is seen.
const UNREGISTERED_WAIT: Duration = Duration::from_secs(600);

impl Follower {
    /// `last_known` is shown until the first sync.
    pub fn new(
        client: ChainClient,
        hotkeys: Vec<Hotkey>,
        jitter: Jitter,
        last_known: Option<Arc<Metagraph>>,
    ) -> (Self, ChainHandle) {
        let first = View { metagraph: last_known, registrations: Arc::from([]), link: Link::Connecting };
        let (sender, receiver) = watch::channel(first);
        let wake = Arc::new(Notify::new());
        let handle = ChainHandle { view: receiver, wake: Arc::clone(&wake) };
        let due = Instant::now();
        (Self { client, hotkeys, jitter, view: sender, wake, failures: 0, due, last_sync: None }, handle)
    }

    /// Syncs at once, then until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => Event::Stop,
                () = sleep_until(self.due) => Event::Due,
                () = self.wake.notified() => Event::Wake,
                head = self.client.next_block() => Event::Head(head),
            };
            match event {
                Event::Stop => return,
                Event::Head(Ok(block)) => tracing::trace!(block, "New block"),
                Event::Head(Err(error)) => {
                    tracing::warn!(%error, "Lost the chain node; connecting anew");
                    // The view is as good as it was: only the connection has to come back.
                    self.hurry();
                }
                Event::Wake => self.hurry(),
                Event::Due => {
                    self.last_sync = Some(Instant::now());
                    let outcome = tokio::select! {
                        () = stop.cancelled() => return,
                        outcome = self.client.sync(&self.hotkeys) => outcome,
                    };
                    self.apply(outcome);
                }
            }
        }
    }

    /// Brings the next sync forward, but not into the wait after a failure, nor closer to the last
    /// sync than the floor.
    fn hurry(&mut self) {
        if self.failures > 0 {
            return;
        }
        let floor = self.last_sync.map(|last| last + self.client.settings().sync_floor);
        let soonest = floor.unwrap_or(self.due).max(Instant::now());
        self.due = self.due.min(soonest);
    }

    fn apply(&mut self, outcome: Result<Synced, ChainError>) {
        let (wait, link) = match &outcome {
            Ok(synced) => {
                let since = self.client.clock().now();
                let block = synced.metagraph.block();
                let recovered = !matches!(self.view.borrow().link, Link::Up { .. });
                if recovered {
                    tracing::info!(
                        node = %synced.node, block, spec_version = synced.spec_version,
                        neurons = synced.metagraph.len(), "Synced with the chain"
                    );
                }
                if synced.metagraph.repeated_hotkeys() > 0 {
                    tracing::warn!(
                        repeated = synced.metagraph.repeated_hotkeys(),
                        "The chain shows neurons that share a hotkey; the lowest uid of each counts"
                    );
                }
                self.failures = 0;
                let link =
                    Link::Up { node: synced.node.clone(), block, spec_version: synced.spec_version, since };
                let interval = self.client.settings().sync_interval;
                let all_registered = synced.registrations.iter().all(|(_, r)| r.uid().is_some());
                (if all_registered { interval } else { interval.min(UNREGISTERED_WAIT) }, link)
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                let wait = self.wait_after(error);
                tracing::warn!(%error, failures = self.failures, retry_in = ?wait, "Cannot read the chain");
                let retry_at = self.client.clock().now() + wait;
                let link = Link::Down {
                    reason: error.to_string(),
                    retryable: error.is_retryable(),
                    failures: self.failures,
                    retry_at,
                };
                (wait, link)
            }
        };
        self.due = Instant::now() + wait;
        self.view.send_modify(|view| {
            view.link = link;
            if let Ok(synced) = outcome {
                view.metagraph = Some(synced.metagraph);
                view.registrations = synced.registrations.into();
            }
        });
    }

    /// Up to half as long again as the backoff says, so that agents that lost a node together do not
    /// come back together.
    fn wait_after(&mut self, error: &ChainError) -> Duration {
        let settings = self.client.settings();
        let base = match error {
            ChainError::RateLimited { .. } => settings.backoff.after(self.failures).max(RATE_LIMIT_WAIT),
            error if error.is_retryable() => settings.backoff.after(self.failures),
            // Somebody has to change something first; keep looking whether they did.
            _ => settings.sync_interval,
        };
        base.mul_f64(1.0 + (self.jitter)().clamp(0.0, 1.0) / 2.0)
    }
}
