//! Where a worker may be: as configured, as the environment says, or at the ports such servers use.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use futures_util::future::join_all;

use super::{Detection, detect};
use crate::clock::Clock;
use crate::net::{Endpoint, Transport};
use crate::primitives::Untrusted;

/// What a worker is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WorkerRole {
    Generator,
    Scorer,
    /// Rewrites prompts.
    Enhancer,
    /// Works for somebody else, and holds memory of the card.
    Tenant,
}

impl fmt::Display for WorkerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Generator => "generator",
            Self::Scorer => "scorer",
            Self::Enhancer => "prompt enhancer",
            Self::Tenant => "tenant",
        })
    }
}

impl WorkerRole {
    /// Variables that name its URL, and its port on this machine (source documents 000 and 001).
    const fn variables(self) -> (Option<&'static str>, Option<&'static str>) {
        match self {
            Self::Generator => (Some("GENERATION_SERVER_URL"), Some("GENERATION_PORT")),
            Self::Scorer => (Some("VALIDATION_SERVER_URL"), Some("VALIDATION_PORT")),
            Self::Enhancer | Self::Tenant => (None, None),
        }
    }

    /// Default ports of such servers (workers.md), the likelier first.
    const fn ports(self) -> &'static [u16] {
        match self {
            Self::Generator => &[8093, 8095, 8096, 8094, 10010, 10006, 8000],
            Self::Scorer => &[10006, 8094],
            Self::Enhancer => &[7861],
            Self::Tenant => &[7859, 7860, 7861, 8188, 11434, 8080, 8000, 8001, 8002, 8003],
        }
    }

    /// Ports under which a host gives its workers public names (source document 003).
    const fn public_ports(self) -> &'static [u16] {
        match self {
            Self::Enhancer => &[7861],
            Self::Tenant => &[7859, 7860],
            Self::Generator | Self::Scorer => &[],
        }
    }
}

/// How we came to look at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Configured,
    /// By this variable.
    Environment(&'static str),
    /// By the name that a host gives its workers, found by this.
    HostName(&'static str),
    /// A default port of such servers, on this machine.
    WellKnown,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configured => f.write_str("configured"),
            Self::Environment(name) => write!(f, "from {name}"),
            Self::HostName(by) => write!(f, "from the host's name by {by}"),
            Self::WellKnown => f.write_str("a usual port"),
        }
    }
}

/// Where a worker may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub endpoint: Endpoint,
    pub origin: Origin,
}

/// Where to look for a worker, the likelier first and no place twice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Places {
    pub usable: Vec<Place>,
    /// What names a place that cannot be looked at, and why.
    pub unusable: Vec<(Origin, String)>,
}

/// A place, and what answered there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub place: Place,
    pub detection: Detection,
}

/// Everywhere a worker of a role may be.
///
/// `environment` gives the value of a variable; `host` is this machine's name.
pub fn places(
    role: WorkerRole,
    configured: Option<&Endpoint>,
    environment: impl Fn(&str) -> Option<String>,
    host: Option<&str>,
) -> Places {
    let mut places = Places::default();
    if let Some(endpoint) = configured {
        places.add(endpoint.clone(), Origin::Configured);
    }
    let (url, port) = role.variables();
    let read = |name: Option<&'static str>| {
        let name = name?;
        environment(name).filter(|value| !value.trim().is_empty()).map(|value| (name, value))
    };
    if let Some((name, value)) = read(url) {
        match value.trim().parse::<Endpoint>() {
            Ok(endpoint) => places.add(endpoint, Origin::Environment(name)),
            // Not the value: an URL may hold a password.
            Err(error) => places.unusable.push((Origin::Environment(name), error.to_string())),
        }
    }
    if let Some((name, value)) = read(port) {
        match value.trim().parse::<u16>() {
            Ok(port) if port != 0 => places.add(here(port), Origin::Environment(name)),
            _ => {
                let why = format!("`{}` is no port", Untrusted::new(&value));
                places.unusable.push((Origin::Environment(name), why));
            }
        }
    }
    if let Some((pod, by)) = pod(&environment, host) {
        for port in role.public_ports() {
            // Such names are reached by TLS only, which is for others than the machine itself.
            let name = format!("https://{pod}-{port}.proxy.runpod.net");
            let why = format!("{name} is not spoken to; on the pod itself it is http://127.0.0.1:{port}");
            places.unusable.push((Origin::HostName(by), why));
        }
    }
    for port in role.ports() {
        places.add(here(*port), Origin::WellKnown);
    }
    places
}

impl Places {
    fn add(&mut self, endpoint: Endpoint, origin: Origin) {
        if !self.usable.iter().any(|place| place.endpoint == endpoint) {
            self.usable.push(Place { endpoint, origin });
        }
    }

    /// Asks at every place at once who is there.
    pub async fn search(self, transport: &Transport, clock: &Clock) -> Vec<Found> {
        join_all(self.usable.into_iter().map(async |place| {
            let detection = detect(&place.endpoint, transport, clock).await;
            Found { place, detection }
        }))
        .await
    }
}

fn here(port: u16) -> Endpoint {
    Endpoint::of(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

/// The pod that this machine is, as the workers of source document 003 find it out.
fn pod(environment: &impl Fn(&str) -> Option<String>, host: Option<&str>) -> Option<(String, &'static str)> {
    let plain = |id: &str| !id.is_empty() && id.len() <= 64 && id.chars().all(|c| c.is_ascii_alphanumeric());
    if let Some(id) = environment("RUNPOD_POD_ID").filter(|id| plain(id)) {
        return Some((id, "RUNPOD_POD_ID"));
    }
    // Many a machine has a dash in its name.
    environment("RUNPOD_GPU_COUNT").or_else(|| environment("RUNPOD_DC_ID"))?;
    let (id, _) = host?.split_once('-')?;
    plain(id).then(|| (id.to_owned(), "the host name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(role: WorkerRole, configured: Option<&str>, environment: &[(&str, &str)]) -> Places {
        let configured = configured.map(|url| url.parse().unwrap());
        let get = |name: &str| environment.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        places(role, configured.as_ref(), get, Some("abc123-64410d"))
    }

    fn first(places: &Places) -> Vec<(String, Origin)> {
        places.usable.iter().take(3).map(|place| (place.endpoint.to_string(), place.origin)).collect()
    }

    #[test]
    fn what_is_said_comes_before_what_is_usual() {
        let environment = [("VALIDATION_SERVER_URL", "http://gpu.local:10007"), ("VALIDATION_PORT", "10006")];
        let found = of(WorkerRole::Scorer, Some("http://127.0.0.1:9000"), &environment);
        assert_eq!(
            first(&found),
            [
                ("http://127.0.0.1:9000".to_owned(), Origin::Configured),
                ("http://gpu.local:10007".to_owned(), Origin::Environment("VALIDATION_SERVER_URL")),
                ("http://127.0.0.1:10006".to_owned(), Origin::Environment("VALIDATION_PORT")),
            ]
        );
        // 10006 is not there twice.
        assert_eq!(found.usable.len(), 4);
        let found = of(WorkerRole::Generator, None, &[("GENERATION_PORT", " 8095 ")]);
        assert_eq!(first(&found)[0].1, Origin::Environment("GENERATION_PORT"));
        assert_eq!(first(&found)[1], ("http://127.0.0.1:8093".to_owned(), Origin::WellKnown));
    }

    #[test]
    fn what_cannot_be_used_is_said_without_its_secrets() {
        let environment = [
            ("VALIDATION_SERVER_URL", "https://user:hunter2@gpu.local/token"),
            ("VALIDATION_PORT", "10006\u{1b}[2J"),
        ];
        let found = of(WorkerRole::Scorer, None, &environment);
        assert_eq!(found.usable.len(), 2);
        let said: Vec<_> = found.unusable.iter().map(|(origin, why)| format!("{origin}: {why}")).collect();
        assert_eq!(
            said,
            [
                "from VALIDATION_SERVER_URL: `https://` is not supported: write http://HOST:PORT",
                "from VALIDATION_PORT: `10006\\u{1b}[2J` is no port",
            ]
        );
        for port in ["0", "-1", "65536", "http://x"] {
            assert_eq!(
                of(WorkerRole::Scorer, None, &[("VALIDATION_PORT", port)]).unusable.len(),
                1,
                "{port}"
            );
        }
        assert_eq!(of(WorkerRole::Scorer, None, &[("VALIDATION_PORT", "")]).unusable, []);
    }

    #[test]
    fn a_pod_is_known_by_its_variable_or_its_name() {
        let by_variable = of(WorkerRole::Enhancer, None, &[("RUNPOD_POD_ID", "xyz9")]);
        let (origin, why) = &by_variable.unusable[0];
        assert_eq!(*origin, Origin::HostName("RUNPOD_POD_ID"));
        assert!(why.contains("https://xyz9-7861.proxy.runpod.net") && why.ends_with("http://127.0.0.1:7861"));
        let by_name = of(WorkerRole::Tenant, None, &[("RUNPOD_GPU_COUNT", "1")]);
        assert!(by_name.unusable[0].1.contains("https://abc123-7859.proxy"), "{by_name:?}");
        assert_eq!(by_name.unusable.len(), 2);
        assert_eq!(of(WorkerRole::Tenant, None, &[]).unusable, []);
        assert_eq!(of(WorkerRole::Enhancer, None, &[("RUNPOD_POD_ID", "a/../b")]).unusable, []);
    }
}
