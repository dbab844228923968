//! The networks by name, and where a node is.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::{Host, Url};

/// A text is not the address of a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeUrlError {
    #[error("not a URL ({0}): write a node as wss://HOST:PORT")]
    Malformed(String),
    #[error("`{0}://` is not how a node is spoken to: write wss://HOST:PORT, or ws://HOST:PORT")]
    Scheme(String),
    #[error("the URL has no host: write a node as wss://HOST:PORT")]
    NoHost,
}

/// WebSocket address of a chain node. `Debug` and `Display` show neither user, password, path nor
/// query: hosted nodes carry the customer's key there. Cheap to clone: every error names its node.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct NodeUrl(Arc<Url>);

impl NodeUrl {
    /// The whole URL, secrets included: for connecting only.
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }

    /// On this machine.
    pub fn is_loopback(&self) -> bool {
        match self.0.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => IpAddr::from(ip).to_canonical().is_loopback(),
            None => false,
        }
    }

    /// Spoken to without TLS, so that whoever carries the bytes can change what the chain says.
    pub fn is_plain(&self) -> bool {
        self.0.scheme() == "ws"
    }
}

impl FromStr for NodeUrl {
    type Err = NodeUrlError;
    fn from_str(text: &str) -> Result<Self, NodeUrlError> {
        let url = Url::parse(text).map_err(|e| NodeUrlError::Malformed(e.to_string()))?;
        if !matches!(url.scheme(), "ws" | "wss") {
            return Err(NodeUrlError::Scheme(url.scheme().to_owned()));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(NodeUrlError::NoHost);
        }
        Ok(Self(Arc::new(url)))
    }
}

impl fmt::Display for NodeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.0.scheme(), self.0.host_str().unwrap_or_default())?;
        match self.0.port() {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for NodeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Without the parts that may be secret, so what is serialised is for reading only.
impl Serialize for NodeUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A network with nodes known by name (chain/README.md, "Networks").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Network {
    /// The main network.
    Finney,
    Test,
    /// The main network through nodes that keep every block's state.
    Archive,
    /// A node on this machine.
    Local,
}

/// Block 0 of the main network (chain/README.md, "Networks").
const MAINNET_GENESIS: [u8; 32] = [
    0x2f, 0x05, 0x55, 0xcc, 0x76, 0xfc, 0x28, 0x40, 0xa2, 0x5a, 0x6e, 0xa3, 0xb9, 0x63, 0x71, 0x46, 0x80,
    0x6f, 0x1f, 0x44, 0xb0, 0x90, 0xc1, 0x75, 0xff, 0xde, 0x2a, 0x7e, 0x5a, 0xb3, 0x6c, 0x03,
];

impl Network {
    pub const ALL: [Self; 4] = [Self::Finney, Self::Test, Self::Archive, Self::Local];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Finney => "finney",
            Self::Test => "test",
            Self::Archive => "archive",
            Self::Local => "local",
        }
    }

    /// The network called `name`.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|network| network.name() == name)
    }

    /// Its nodes, in order of preference. The main network's second node is run by someone else than
    /// the first; the genesis hash holds both to the same chain.
    pub fn nodes(self) -> Vec<NodeUrl> {
        let urls: &[&str] = match self {
            Self::Finney => &["wss://entrypoint-finney.opentensor.ai:443", "wss://lite.sub.latent.to:443"],
            Self::Test => &["wss://test.finney.opentensor.ai:443"],
            Self::Archive => &["wss://archive.chain.opentensor.ai:443"],
            Self::Local => &["ws://127.0.0.1:9944"],
        };
        // Constants, read by the test below.
        urls.iter().map(|url| url.parse().expect("the table holds URLs")).collect()
    }

    /// Hash of its block 0, where it is known: a node of another chain is refused.
    pub const fn genesis(self) -> Option<[u8; 32]> {
        match self {
            Self::Finney | Self::Archive => Some(MAINNET_GENESIS),
            Self::Test | Self::Local => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_network_has_nodes_and_its_own_name() {
        for network in Network::ALL {
            assert!(!network.nodes().is_empty());
            assert_eq!(Network::by_name(network.name()), Some(network));
            assert_eq!(network == Network::Local, network.nodes().iter().all(NodeUrl::is_loopback));
        }
        assert_eq!(Network::by_name("mainnet"), None);
    }

    #[test]
    fn a_customers_key_is_not_shown() {
        let node: NodeUrl = "wss://user:hunter2@node.example:8443/key-abc?token=x".parse().unwrap();
        assert_eq!(format!("{node} {node:?}"), "wss://node.example:8443 wss://node.example:8443");
        assert!(node.expose().contains("key-abc"));
    }

    #[test]
    fn what_is_no_node_is_refused() {
        for bad in ["", "127.0.0.1:9944", "https://x", "http://x", "file:///etc/passwd", "wss://"] {
            assert!(bad.parse::<NodeUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn loopback_and_plain_are_told_apart() {
        for (url, loopback, plain) in [
            ("ws://127.0.0.1:9944", true, true),
            ("ws://localhost:9944", true, true),
            ("wss://[::1]:9944", true, false),
            ("ws://[::ffff:127.0.0.1]:1", true, true),
            ("ws://192.168.1.5:9944", false, true),
            ("wss://localhost.example", false, false),
        ] {
            let node: NodeUrl = url.parse().unwrap();
            assert_eq!((node.is_loopback(), node.is_plain()), (loopback, plain), "{url}");
        }
    }
}
