//! Where a peer is.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

/// A text is not the address of a peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("not a URL ({0}): write it as http://HOST:PORT")]
    Malformed(String),
    #[error("`{0}://` is not supported: write http://HOST:PORT")]
    Scheme(String),
    #[error("the URL has no host: write it as http://HOST:PORT")]
    NoHost,
}

/// Base URL of a peer. `Debug` and `Display` show neither user, password, path nor query: any of
/// them may be a secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Endpoint(Url);

impl Endpoint {
    /// The server at a socket address.
    pub fn of(address: SocketAddr) -> Self {
        let text = format!("http://{address}/");
        // A socket address prints as a valid authority in both families.
        Self(Url::parse(&text).expect("a socket address makes a URL"))
    }

    /// The URL of a path below this base. The path is taken as it is: servers of the workers differ
    /// in trailing slashes and redirects are refused (workers.md section 6).
    pub fn at(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}{path}"));
        url
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;
    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let url = Url::parse(text).map_err(|e| EndpointError::Malformed(e.to_string()))?;
        if url.scheme() != "http" {
            return Err(EndpointError::Scheme(url.scheme().to_owned()));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(EndpointError::NoHost);
        }
        Ok(Self(url))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.0.scheme(), self.0.host_str().unwrap_or_default())?;
        match self.0.port() {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_a_url_are_not_shown() {
        let endpoint: Endpoint = "http://user:hunter2@gpu.local:8095/token-abc?key=x".parse().unwrap();
        assert_eq!(format!("{endpoint} {endpoint:?}"), "http://gpu.local:8095 http://gpu.local:8095");
    }

    #[test]
    fn paths_are_joined_exactly() {
        let base: Endpoint = "http://127.0.0.1:8095".parse().unwrap();
        assert_eq!(base.at("/generate/").as_str(), "http://127.0.0.1:8095/generate/");
        assert_eq!(base.at("/generate").as_str(), "http://127.0.0.1:8095/generate");
        let below: Endpoint = "http://127.0.0.1:8095/worker/".parse().unwrap();
        assert_eq!(below.at("/health").path(), "/worker/health");
        assert_eq!(Endpoint::of("[::1]:80".parse().unwrap()).at("/x").as_str(), "http://[::1]/x");
    }

    #[test]
    fn what_is_no_peer_is_refused() {
        for bad in ["", "127.0.0.1:80", "https://x", "file:///etc/passwd", "http://"] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }
}
