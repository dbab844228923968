//! Workers that are not where the configuration says.

use std::fmt;

use super::{Detected, Detection, Server, WorkerRole};
use crate::net::Endpoint;
use crate::workers::generator::Dialect;
use crate::workers::memory::MemoryDialect;

/// What a worker's entry in the configuration wants to find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    pub role: WorkerRole,
    /// `None`: whatever the generator speaks.
    pub dialect: Option<Dialect>,
    /// `None`: whatever verbs it has.
    pub memory: Option<MemoryDialect>,
}

impl Expected {
    pub const fn role(role: WorkerRole) -> Self {
        Self { role, dialect: None, memory: None }
    }
}

impl Detected {
    /// Whether this server is what is wanted.
    ///
    /// # Errors
    /// What is missing, to follow "it answers as ..., ".
    pub fn fits(&self, expected: &Expected) -> Result<(), String> {
        match expected.role {
            WorkerRole::Generator => self.fits_generator(expected.dialect)?,
            WorkerRole::Scorer if !self.scorer => return Err("not as a scorer".into()),
            // It rewrites prompts; any server of language models may.
            WorkerRole::Enhancer if self.scorer || self.generator.is_some() => {
                return Err("not as a prompt enhancer".into());
            }
            WorkerRole::Scorer | WorkerRole::Enhancer | WorkerRole::Tenant => {}
        }
        match (&expected.memory, &self.memory) {
            // Nothing is asked of the server itself.
            (None | Some(MemoryDialect::Process | MemoryDialect::Nothing), _) => Ok(()),
            (Some(wanted), Some(has)) if wanted.name() == has.name() => Ok(()),
            (Some(wanted), _) => Err(match self.server {
                Server::Validation => "which has no verbs for memory: only its process can be stopped".into(),
                _ => format!("which has no `{}` verbs", wanted.name()),
            }),
        }
    }

    fn fits_generator(&self, wanted: Option<Dialect>) -> Result<(), String> {
        let Some(has) = self.generator else {
            let unspoken = matches!(self.server, Server::TrellisLinks | Server::TrellisService);
            return Err(if unspoken { "a dialect we do not speak" } else { "not as a generator" }.into());
        };
        // A form with images looks from outside like one without, and where both routes are, both fit.
        let image = |dialect| dialect == Dialect::Image;
        match wanted {
            Some(wanted) if image(wanted) != image(has) && self.server != Server::FormGenerator => {
                let says = if image(has) { "an image as a file" } else { "a form" };
                Err(format!("which takes {says}"))
            }
            _ => Ok(()),
        }
    }
}

/// A worker's entry, and what was found at its address.
#[derive(Debug, Clone)]
pub struct Placed {
    pub name: String,
    pub endpoint: Endpoint,
    pub expected: Expected,
    /// `None`: nobody looked.
    pub detection: Option<Detection>,
}

impl Placed {
    /// What is wrong with what was found. Silence and an empty port say nothing of who belongs there.
    fn misfit(&self) -> Option<String> {
        match self.detection.as_ref()? {
            Detection::Answers(detected) => detected.fits(&self.expected).err(),
            Detection::SomethingElse(_) => Some(format!("not as a {}", self.expected.role)),
            Detection::Busy | Detection::Refused(_) => None,
        }
    }

    fn fits(&self, expected: &Expected) -> bool {
        let detected = self.detection.as_ref().and_then(Detection::detected);
        detected.is_some_and(|detected| detected.fits(expected).is_ok())
    }
}

/// A mistake in where workers are said to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mistake {
    /// Two entries name one port. Only one server can have it.
    SharedPort {
        first: String,
        second: String,
        endpoint: Endpoint,
        /// What answers there, and which of the two it cannot be.
        answers: Option<(String, Vec<String>)>,
    },
    /// Another server than the wanted one answers.
    WrongPort {
        worker: String,
        endpoint: Endpoint,
        answers: String,
        misfit: String,
        /// A worker at whose address the wanted one answers, out of place there as well.
        swapped_with: Option<String>,
    },
}

impl Mistake {
    /// The entry to correct.
    pub fn worker(&self) -> &str {
        match self {
            Self::SharedPort { second, .. } => second,
            Self::WrongPort { worker, .. } => worker,
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SharedPort { first, second, endpoint, answers } => {
                write!(f, "`{first}` and `{second}` are both said to be at {endpoint}")?;
                match answers {
                    Some((answers, misplaced)) if misplaced.len() == 1 => {
                        write!(f, ", which answers as {answers}: `{}` is elsewhere", misplaced[0])
                    }
                    Some((answers, _)) => write!(f, ", which answers as {answers}"),
                    None => Ok(()),
                }
            }
            Self::WrongPort { worker, endpoint, answers, misfit, swapped_with } => {
                write!(f, "`{worker}` is said to be at {endpoint}: port {}", port(endpoint))?;
                write!(f, " answers as {answers}, {misfit}")?;
                match swapped_with {
                    Some(other) => write!(f, "; it answers where `{other}` is said to be"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Entries that share a port, and entries at whose port another server answers.
pub fn find_mistakes(workers: &[Placed]) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut sharing = vec![false; workers.len()];
    for (at, first) in workers.iter().enumerate() {
        for (beside, second) in workers.iter().enumerate().skip(at + 1) {
            if same_place(&first.endpoint, &second.endpoint) {
                (sharing[at], sharing[beside]) = (true, true);
                found.push(shared(first, second));
            }
        }
    }
    for (worker, _) in workers.iter().zip(&sharing).filter(|(_, sharing)| !**sharing) {
        let Some((misfit, detection)) = worker.misfit().zip(worker.detection.as_ref()) else { continue };
        let swapped_with = workers
            .iter()
            .find(|other| other.misfit().is_some() && other.fits(&worker.expected))
            .map(|other| other.name.clone());
        found.push(Mistake::WrongPort {
            worker: worker.name.clone(),
            endpoint: worker.endpoint.clone(),
            answers: detection.to_string(),
            misfit,
            swapped_with,
        });
    }
    found
}

fn shared(first: &Placed, second: &Placed) -> Mistake {
    let detection = first.detection.as_ref().or(second.detection.as_ref());
    let answers = detection.and_then(Detection::detected).map(|detected| {
        let misplaced = [first, second].into_iter().filter(|w| detected.fits(&w.expected).is_err());
        let misplaced = misplaced.map(|worker| worker.name.clone()).collect();
        (Detection::Answers(Box::new(detected.clone())).to_string(), misplaced)
    });
    Mistake::SharedPort {
        first: first.name.clone(),
        second: second.name.clone(),
        endpoint: first.endpoint.clone(),
        answers,
    }
}

fn port(endpoint: &Endpoint) -> u16 {
    // Endpoints are http.
    endpoint.at("").port_or_known_default().unwrap_or(80)
}

/// One server, by whatever name of this machine. Different paths may be different servers behind one.
fn same_place(a: &Endpoint, b: &Endpoint) -> bool {
    let host = |endpoint: &Endpoint| match endpoint.at("").host_str().unwrap_or_default() {
        "localhost" | "127.0.0.1" | "[::1]" | "0.0.0.0" | "[::]" => "here".to_owned(),
        other => other.to_owned(),
    };
    let path = |endpoint: &Endpoint| endpoint.at("").path().trim_end_matches('/').to_owned();
    port(a) == port(b) && host(a) == host(b) && path(a) == path(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workers::detect::Health;

    fn detected(server: Server) -> Detection {
        let validation = matches!(server, Server::Validation | Server::HandoffValidation);
        let generator = match server {
            Server::BaseMiner => Some(Dialect::Image),
            Server::FormGenerator | Server::Hunyuan => Some(Dialect::Form),
            _ => None,
        };
        Detection::Answers(Box::new(Detected {
            server,
            generator,
            scorer: validation,
            memory: (server == Server::HandoffValidation).then_some(MemoryDialect::ThreeGen),
            version: validation.then(|| "2.4.0".to_owned()),
            health: Health::default(),
            drives: None,
        }))
    }

    fn placed(name: &str, url: &str, role: WorkerRole, detection: Option<Detection>) -> Placed {
        let expected = Expected::role(role);
        Placed { name: name.into(), endpoint: url.parse().unwrap(), expected, detection }
    }

    fn texts(workers: &[Placed]) -> Vec<String> {
        find_mistakes(workers).iter().map(Mistake::to_string).collect()
    }

    #[test]
    fn a_worker_on_the_wrong_port_is_told_what_answers_there() {
        let validation = Some(detected(Server::Validation));
        let workers = [placed("main", "http://127.0.0.1:8094", WorkerRole::Generator, validation)];
        assert_eq!(
            texts(&workers),
            ["`main` is said to be at http://127.0.0.1:8094: port 8094 answers as the official validation \
              service 2.4.0, not as a generator"]
        );
        let page = Some(Detection::SomethingElse("a server of web pages".into()));
        let workers = [placed("judge", "http://127.0.0.1", WorkerRole::Scorer, page)];
        assert_eq!(
            texts(&workers),
            [
                "`judge` is said to be at http://127.0.0.1: port 80 answers as a server of web pages, not as a \
              scorer"
            ]
        );
    }

    #[test]
    fn two_that_are_swapped_are_told_so() {
        let workers = [
            placed("main", "http://127.0.0.1:1", WorkerRole::Generator, Some(detected(Server::Validation))),
            placed("judge", "http://127.0.0.1:2", WorkerRole::Scorer, Some(detected(Server::BaseMiner))),
        ];
        let texts = texts(&workers);
        assert!(
            texts[0].ends_with("not as a generator; it answers where `judge` is said to be"),
            "{texts:?}"
        );
        assert!(texts[1].ends_with("not as a scorer; it answers where `main` is said to be"), "{texts:?}");
    }

    #[test]
    fn two_entries_of_one_port_are_one_mistake() {
        let validation = detected(Server::Validation);
        let workers = [
            placed("main", "http://localhost:8094", WorkerRole::Generator, Some(validation.clone())),
            placed("judge", "http://127.0.0.1:8094/", WorkerRole::Scorer, Some(validation)),
        ];
        assert_eq!(
            texts(&workers),
            [
                "`main` and `judge` are both said to be at http://localhost:8094, which answers as the official \
              validation service 2.4.0: `main` is elsewhere"
            ]
        );
        let nobody = [
            placed("a", "http://[::1]:8094", WorkerRole::Generator, None),
            placed("b", "http://127.0.0.1:8094", WorkerRole::Generator, None),
        ];
        assert_eq!(texts(&nobody), ["`a` and `b` are both said to be at http://[::1]:8094"]);
    }

    #[test]
    fn what_fits_or_cannot_be_told_is_no_mistake() {
        let workers = [
            placed("a", "http://127.0.0.1:1", WorkerRole::Generator, Some(detected(Server::BaseMiner))),
            placed("b", "http://127.0.0.1:2", WorkerRole::Scorer, Some(detected(Server::HandoffValidation))),
            placed("c", "http://127.0.0.1:3", WorkerRole::Generator, Some(Detection::Busy)),
            placed("d", "http://127.0.0.1:4", WorkerRole::Scorer, Some(Detection::Refused("x".into()))),
            placed("e", "http://127.0.0.1:5", WorkerRole::Tenant, Some(detected(Server::Vllm))),
            placed("f", "http://10.0.0.1:1", WorkerRole::Generator, None),
            placed("g", "http://127.0.0.1:1/below", WorkerRole::Generator, None),
        ];
        assert_eq!(find_mistakes(&workers), []);
    }

    #[test]
    fn dialects_and_verbs_must_fit_as_well() {
        let fits = |server, expected: &Expected| {
            let detection = detected(server);
            detection.detected().unwrap().fits(expected)
        };
        let form = Expected { dialect: Some(Dialect::Form), ..Expected::role(WorkerRole::Generator) };
        assert_eq!(fits(Server::BaseMiner, &form), Err("which takes an image as a file".into()));
        assert_eq!(fits(Server::Hunyuan, &form), Ok(()));
        let both = Expected { dialect: Some(Dialect::FormImage), ..form.clone() };
        assert_eq!(fits(Server::FormGenerator, &both), Ok(()));
        let verbs = Some(MemoryDialect::ThreeGen);
        let scorer = Expected { memory: verbs, ..Expected::role(WorkerRole::Scorer) };
        assert_eq!(fits(Server::HandoffValidation, &scorer), Ok(()));
        assert!(fits(Server::Validation, &scorer).unwrap_err().contains("only its process"));
        let process = Expected { memory: Some(MemoryDialect::Process), ..scorer };
        assert_eq!(fits(Server::Validation, &process), Ok(()));
        assert_eq!(
            fits(Server::TrellisLinks, &Expected::role(WorkerRole::Generator)),
            Err("a dialect we do not speak".into())
        );
        assert!(fits(Server::Validation, &Expected::role(WorkerRole::Enhancer)).is_err());
    }
}
