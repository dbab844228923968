//! The way to the validators and back takes time.
//!
//! A pull spends half of the delay on either way: both are small. A submission carries the result
//! and spends all of it on the way there. With that e, from the assignment to the end of the
//! validator's scoring, is b plus one and a half delays plus the scoring: the 44.75 s of rules.md R9.

use std::sync::Arc;
use std::time::Duration;

use crate::net::{InProcess, Transport};

/// A transport to servers in this process whose requests and replies are under way for a while.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delay {
    pub(super) there: Duration,
    pub(super) back: Duration,
}

impl Delay {
    pub(super) fn of_pulls(network: Duration) -> Self {
        Self { there: network / 2, back: network - network / 2 }
    }

    pub(super) fn of_submissions(network: Duration) -> Self {
        Self { there: network, back: Duration::ZERO }
    }

    pub(super) fn on(self, transport: &Transport) -> Transport {
        let Transport::InProcess(server) = transport else { return transport.clone() };
        let server = Arc::clone(server);
        let delayed: InProcess = Arc::new(move |request| {
            let server = Arc::clone(&server);
            Box::pin(async move {
                pass(self.there).await;
                let reply = server(request).await;
                pass(self.back).await;
                reply
            })
        });
        Transport::InProcess(delayed)
    }
}

/// Waits; for nothing not even a turn.
pub(super) async fn pass(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}
