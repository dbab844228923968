//! The chain for a client in this process: no socket, so it works under a paused clock.

use futures_util::stream;
use serde_json::Value;
use serde_json::value::RawValue;
use subxt::rpcs::client::{RawRpcFuture, RawRpcSubscription};
use subxt::rpcs::{Error, RpcClient, RpcClientT, UserError};
use tokio_util::sync::CancellationToken;

use super::{DevChain, Fault, Reply};
use crate::chain::{DialError, NodeUrl};

impl DevChain {
    /// Answers for every node that is dialled: a [`Dial`](crate::chain::Dial) by itself.
    pub fn dialler(&self) -> impl Fn(&NodeUrl) -> Result<RpcClient, DialError> + Send + Sync + use<> {
        let chain = self.clone();
        move |_| chain.dial()
    }

    fn dial(&self) -> Result<RpcClient, DialError> {
        let mut state = self.state();
        if !state.reachable {
            return Err(DialError::Unreachable("connection refused".into()));
        }
        match super::faults::fault_of_connecting(&mut state.faults) {
            Some(Fault::RateLimited) => Err(DialError::RateLimited("429 Too Many Requests".into())),
            Some(_) => Err(DialError::Unreachable("503 Service Unavailable".into())),
            None => {
                let connection = state.connections.child_token();
                Ok(RpcClient::new(InProcess { chain: self.clone(), connection }))
            }
        }
    }
}

/// One connection.
struct InProcess {
    chain: DevChain,
    connection: CancellationToken,
}

fn closed() -> Error {
    Error::Client("the connection is gone".into())
}

fn raw(value: &Value) -> Result<Box<RawValue>, Error> {
    serde_json::value::to_raw_value(value).map_err(Error::Deserialization)
}

impl InProcess {
    async fn answer(&self, method: &str, params: Option<Box<RawValue>>) -> Result<Reply, Error> {
        if self.connection.is_cancelled() {
            return Err(closed());
        }
        let params = match params {
            Some(params) => serde_json::from_str(params.get()).map_err(Error::Deserialization)?,
            None => Value::Null,
        };
        match self.chain.answer(method, &params).await {
            Reply::Closed => {
                self.connection.cancel();
                Err(closed())
            }
            Reply::Error(error) => {
                Err(Error::User(UserError { code: error.code, message: error.message, data: None }))
            }
            Reply::Garbage(text) => {
                Err(serde_json::from_str::<Value>(&text).map_or_else(Error::Deserialization, |_| closed()))
            }
            reply @ (Reply::Result(_) | Reply::Subscribed(_)) => Ok(reply),
        }
    }
}

impl RpcClientT for InProcess {
    fn request_raw<'a>(
        &'a self,
        method: &'a str,
        params: Option<Box<RawValue>>,
    ) -> RawRpcFuture<'a, Box<RawValue>> {
        Box::pin(async move {
            match self.answer(method, params).await? {
                Reply::Result(value) => raw(&value),
                _ => Err(closed()),
            }
        })
    }

    fn subscribe_raw<'a>(
        &'a self,
        subscribe: &'a str,
        params: Option<Box<RawValue>>,
        _unsubscribe: &'a str,
    ) -> RawRpcFuture<'a, RawRpcSubscription> {
        Box::pin(async move {
            let Reply::Subscribed(heads) = self.answer(subscribe, params).await? else {
                return Err(closed());
            };
            let open = (heads, self.connection.clone());
            let stream = stream::unfold(open, |(mut heads, connection)| async move {
                let header = connection.run_until_cancelled(heads.next()).await??;
                Some((raw(&header), (heads, connection)))
            });
            Ok(RawRpcSubscription { stream: Box::pin(stream), id: None })
        })
    }
}
