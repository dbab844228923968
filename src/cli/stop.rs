//! Ctrl-C and SIGTERM.

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Listens for the signals that end the process, for as long as it lives.
#[derive(Debug)]
pub struct StopSignals {
    /// Cancelled by the first signal.
    pub stop: CancellationToken,
    /// Cancelled by the second: leave at once, everything is stored.
    pub now: CancellationToken,
    _listener: JoinSet<()>,
}

impl StopSignals {
    /// # Errors
    /// When the operating system refuses the handlers.
    pub fn listen() -> std::io::Result<Self> {
        let (stop, now) = (CancellationToken::new(), CancellationToken::new());
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (first, second) = (stop.clone(), now.clone());
        let mut listener = JoinSet::new();
        listener.spawn(async move {
            for token in [first, second] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                token.cancel();
            }
        });
        Ok(Self { stop, now, _listener: listener })
    }
}
