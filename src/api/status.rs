//! How an agent stands: one type for who answers, who asks, and `status --json`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::chain::{ChainHandle, Link, Metagraph, Neuron};
use crate::clock::Clock;
use crate::config::Settings;
use crate::mining::{CardSnapshot, Cooldowns, EconomySnapshot, Snapshot, Standing};
use crate::primitives::{Hotkey, Netuid, PromptKind, Rao, SourceId, Uid, UnixTime, Untrusted};
use crate::store::{FeedbackFilter, FeedbackReader, FeedbackRow, Outcome, ReadError, Remembered, Stage};

/// Longest wait for the loop to show itself.
const FRESH: Duration = Duration::from_millis(500);

/// Replies shown.
const FEEDBACK: u32 = 5;

/// An agent at one moment, or what it left behind. All times are of our clock unless they say
/// otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// When this was put together.
    pub at: UnixTime,
    /// Of the program that put it together.
    pub version: String,
    /// Nothing if no agent runs: the rest is what the last one remembered.
    pub process: Option<Process>,
    /// None if no agent runs and none has had a task.
    pub hotkeys: Vec<HotkeyStatus>,
    pub network: String,
    pub netuid: Netuid,
    pub chain: ChainStatus,
    /// None if no agent runs.
    pub cards: Vec<CardSnapshot>,
    /// What decisions go by; nothing if no agent runs.
    pub economy: Option<EconomySnapshot>,
    pub lanes: Vec<LaneStatus>,
    /// Tasks that have ended since the start; nothing if no agent runs.
    pub ended: Option<u64>,
    /// The last replies of validators, oldest first.
    pub feedback: Vec<FeedbackLine>,
}

/// One of our hotkeys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HotkeyStatus {
    pub hotkey: Hotkey,
    pub registration: RegistrationStatus,
    /// Nothing is pulled with it until then: another process seems to use it.
    pub paused_until: Option<UnixTime>,
}

/// The process that mines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    pub started_at: UnixTime,
}

/// Our own registration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum RegistrationStatus {
    /// The chain has not answered yet, or is not asked.
    Unknown,
    Registered {
        uid: Uid,
        /// By the metagraph; nothing if that does not show us yet.
        place: Option<Place>,
    },
    NotRegistered {
        /// What the operator types.
        how_to_register: String,
    },
}

/// Our neuron in the metagraph.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Position by incentive, from 1; equals share one.
    pub rank: usize,
    /// Neurons of the subnet.
    pub neurons: usize,
    /// Share of the miners' emission, 0 to 1.
    pub incentive: f64,
    /// Alpha of the last epoch.
    pub emission_rao: Rao,
    /// Blocks during which it cannot be replaced; nothing if the chain did not say.
    pub immunity_blocks_left: Option<u64>,
}

/// What is known of the chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChainStatus {
    /// Nothing if the chain is not asked: no agent runs, or its validators are named in the
    /// configuration.
    pub link: Option<Link>,
    pub metagraph: Option<MetagraphStatus>,
}

/// The newest metagraph there is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetagraphStatus {
    pub block: u64,
    pub synced_at: UnixTime,
    pub age_s: u64,
    pub neurons: usize,
    /// Share of the stake of all neurons with a validator permit that the validators we mine for
    /// hold, 0 to 1.
    pub stake_coverage: f64,
}

/// One of our hotkeys at one validator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaneStatus {
    pub hotkey: Hotkey,
    /// The validator's hotkey.
    pub validator: String,
    pub uid: Option<Uid>,
    pub address: Option<String>,
    /// When it may be asked next.
    pub due: UnixTime,
    /// Accepted results in the last four hours, by its newest feedback.
    pub window_count: Option<u64>,
    /// Least number of milliseconds by which its clock is ahead of ours, if known.
    pub clock_ahead_ms: Option<i64>,
    pub task: Option<TaskStatus>,
    /// What was last decided here, and why.
    pub decision: Option<String>,
    /// It refuses good results and is asked once in four hours.
    pub demoted: bool,
    /// The chain no longer names it; only its open task is seen to.
    pub leaving: bool,
}

/// An open task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// Our own id.
    pub id: String,
    pub kind: PromptKind,
    pub pulled_at: UnixTime,
    /// "open", "made", "answering" or "ended".
    pub state: String,
}

/// One reply to a submission; `feedback --json` shows more of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeedbackLine {
    pub received_at: UnixTime,
    pub validator: String,
    pub uid: Option<Uid>,
    pub outcome: Outcome,
    pub validation_failed: bool,
    pub score: f64,
    pub local_score: Option<f64>,
    pub average_score: f64,
    pub window_count: u64,
    pub duel_rating: f64,
    pub reward: f64,
    /// Our own id of the task.
    pub task: String,
    pub prompt_kind: PromptKind,
    /// Fit for a terminal and cut; nothing for an image.
    pub prompt: Option<String>,
}

/// What does not change while an agent runs.
#[derive(Debug, Clone)]
pub struct Identity {
    pub process: Process,
    pub hotkeys: Vec<Hotkey>,
    pub network: &'static str,
    pub netuid: Netuid,
    /// What the operator types, for each hotkey.
    pub how_to_register: Vec<String>,
}

/// Where the status of a running agent comes from.
#[derive(Debug, Clone)]
pub struct StatusSource {
    pub identity: Identity,
    pub clock: Clock,
    /// What the loop shows of itself.
    pub snapshot: watch::Receiver<Option<Snapshot>>,
    pub chain: Option<ChainHandle>,
    /// The data directory.
    pub data: PathBuf,
}

impl StatusSource {
    /// How the agent stands now.
    pub async fn status(&self) -> Status {
        let now = self.clock.now();
        let Identity { process, hotkeys, network, netuid, how_to_register } = &self.identity;
        // The loop shows itself four times a second; what was shown before we were asked may be old.
        let mut shown = self.snapshot.clone();
        shown.mark_unchanged();
        // Late, or ended: the last one has to do.
        let _ = tokio::time::timeout(FRESH, shown.changed()).await;
        let snapshot = shown.borrow().clone();
        let view = self.chain.as_ref().map(ChainHandle::view);
        let metagraph = view.as_ref().and_then(|view| view.metagraph.as_deref());
        let hotkeys = hotkeys.iter().zip(how_to_register).map(|(hotkey, how_to_register)| {
            let member = snapshot
                .as_ref()
                .and_then(|snapshot| snapshot.members.iter().find(|member| member.hotkey == *hotkey));
            let standing = member.map_or(Standing::Unknown, |member| member.standing);
            HotkeyStatus {
                hotkey: *hotkey,
                registration: registration(standing, metagraph, hotkey, how_to_register),
                paused_until: member.and_then(|member| member.paused_until),
            }
        });
        let mut lanes: Vec<LaneStatus> =
            snapshot.iter().flat_map(|snapshot| &snapshot.lanes).map(LaneStatus::from).collect();
        lanes.sort_by_key(|lane| (lane.hotkey, lane.uid.is_none(), lane.uid));
        let asked = |neuron: &Neuron| {
            let hotkey = neuron.hotkey.to_ss58();
            lanes.iter().any(|lane| !lane.leaving && lane.validator == hotkey)
        };
        let metagraph_status = metagraph.map(|metagraph| MetagraphStatus::new(metagraph, now, asked));
        let feedback = match last_feedback(&self.data).await {
            Ok(feedback) => feedback,
            Err(error) => {
                tracing::warn!(%error, "The status leaves out the last replies");
                Vec::new()
            }
        };
        Status {
            at: now,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: Some(process.clone()),
            hotkeys: hotkeys.collect(),
            network: (*network).to_owned(),
            netuid: *netuid,
            chain: ChainStatus {
                link: view.as_ref().map(|view| view.link.clone()),
                metagraph: metagraph_status,
            },
            cards: snapshot.as_ref().map_or_else(Vec::new, |snapshot| snapshot.cards.clone()),
            economy: snapshot.as_ref().map(|snapshot| snapshot.economy.clone()),
            ended: Some(snapshot.as_ref().map_or(0, |snapshot| snapshot.ended)),
            lanes,
            feedback,
        }
    }
}

impl Status {
    /// What the last agent of the data directory `dir` left behind. `hotkeys` are those of the wallet,
    /// as far as they are known; without any, all that have mined count.
    ///
    /// # Errors
    /// When nothing is remembered there, or it cannot be read.
    pub async fn remembered(
        dir: &Path,
        settings: &Settings,
        mut hotkeys: Vec<Hotkey>,
        now: UnixTime,
    ) -> Result<Self, ReadError> {
        let network = settings.network.as_str();
        let Remembered { lanes, metagraph } = Remembered::read(dir, network, settings.netuid).await?;
        // An unreadable one is replaced by the next sync; until then there is none.
        let metagraph = metagraph.ok().flatten();
        let replies = last_rows(dir).await?;
        if hotkeys.is_empty() {
            hotkeys.extend(lanes.iter().map(|lane| lane.lane.hotkey));
            hotkeys.sort_unstable();
            hotkeys.dedup();
        }
        let neuron = |source: &SourceId| {
            let SourceId::Validator(validator) = source;
            metagraph.as_ref().and_then(|metagraph| metagraph.by_hotkey(validator))
        };
        let named = |source: &SourceId| {
            let SourceId::Validator(validator) = source;
            settings.validators.iter().find(|named| named.hotkey == *validator)
        };
        let mut lanes: Vec<LaneStatus> = lanes
            .iter()
            .filter(|lane| hotkeys.contains(&lane.lane.hotkey))
            .map(|lane| {
                let source = &lane.lane.source;
                let address = neuron(source).and_then(|neuron| neuron.axon?.address());
                LaneStatus {
                    hotkey: lane.lane.hotkey,
                    validator: source.name(),
                    uid: neuron(source).map(|neuron| neuron.uid).or_else(|| named(source)?.uid),
                    address: address.or_else(|| Some(named(source)?.address)).map(|at| at.to_string()),
                    due: Cooldowns::new(lane.record, settings.mining.margin, Clock::starting_at(now)).due(),
                    window_count: lane.record.window_count,
                    clock_ahead_ms: lane.record.clock_offset.map(|nanos| nanos / 1_000_000),
                    task: lane.task.as_ref().map(|task| TaskStatus {
                        id: task.id.to_string(),
                        kind: task.kind,
                        pulled_at: task.pulled_at,
                        state: state_of(task.stage).to_owned(),
                    }),
                    decision: None,
                    demoted: false,
                    leaving: false,
                }
            })
            .collect();
        lanes.sort_by_key(|lane| (lane.hotkey, lane.uid.is_none(), lane.uid));
        // Their names are in the order of the configuration if the wallet told their keys.
        let mut names = settings.hotkeys.iter();
        let hotkey_status = hotkeys.iter().map(|hotkey| {
            let name = names.next().unwrap_or(&settings.wallet.hotkey);
            let registration = match &metagraph {
                None => RegistrationStatus::Unknown,
                Some(metagraph) => {
                    let uid = metagraph.by_hotkey(hotkey).map(|neuron| neuron.uid);
                    let standing = uid.map_or(Standing::NotRegistered, |uid| Standing::Registered { uid });
                    registration(standing, Some(metagraph), hotkey, &settings.how_to_register_as(name))
                }
            };
            HotkeyStatus { hotkey: *hotkey, registration, paused_until: None }
        });
        let hotkey_status = hotkey_status.collect();
        let mut admission = settings.admission.clone();
        // Everything embedded is on loopback.
        admission.allow_private |= settings.embeds_validators();
        let status = metagraph.as_ref().map(|metagraph| {
            let admitted = admission.admitted(metagraph, &hotkeys, now);
            MetagraphStatus::new(metagraph, now, |neuron| {
                admitted.iter().any(|(axon, _)| axon.hotkey == neuron.hotkey)
            })
        });
        Ok(Self {
            at: now,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: None,
            hotkeys: hotkey_status,
            network: network.to_owned(),
            netuid: settings.netuid,
            chain: ChainStatus { link: None, metagraph: status },
            cards: Vec::new(),
            economy: None,
            lanes,
            ended: None,
            feedback: replies.iter().map(FeedbackLine::from).collect(),
        })
    }
}

impl MetagraphStatus {
    fn new(metagraph: &Metagraph, now: UnixTime, serves_us: impl FnMut(&Neuron) -> bool) -> Self {
        Self {
            block: metagraph.block(),
            synced_at: metagraph.synced_at(),
            age_s: metagraph.age(now).as_secs(),
            neurons: metagraph.len(),
            stake_coverage: metagraph.stake_coverage(serves_us),
        }
    }
}

fn registration(
    standing: Standing,
    metagraph: Option<&Metagraph>,
    hotkey: &Hotkey,
    how_to_register: &str,
) -> RegistrationStatus {
    match standing {
        Standing::Unknown => RegistrationStatus::Unknown,
        Standing::NotRegistered => {
            RegistrationStatus::NotRegistered { how_to_register: how_to_register.to_owned() }
        }
        Standing::Registered { uid } => {
            let place = metagraph.and_then(|metagraph| {
                let neuron = metagraph.by_hotkey(hotkey)?;
                Some(Place {
                    rank: metagraph.rank(hotkey)?,
                    neurons: metagraph.len(),
                    incentive: neuron.incentive_share(),
                    emission_rao: neuron.emission,
                    immunity_blocks_left: metagraph.immunity_left(neuron),
                })
            });
            RegistrationStatus::Registered { uid, place }
        }
    }
}

/// The loop's name for where a task of this stage goes on.
const fn state_of(stage: Stage) -> &'static str {
    match stage {
        Stage::Accepted | Stage::Generating => "open",
        Stage::Kept | Stage::Scored => "made",
        Stage::Intended | Stage::Sent => "answering",
        Stage::Booked | Stage::Declined => "ended",
    }
}

async fn last_rows(data: &Path) -> Result<Vec<FeedbackRow>, ReadError> {
    let reader = FeedbackReader::open(data, FeedbackFilter::default()).await?;
    Ok(reader.last(FEEDBACK).await?)
}

async fn last_feedback(data: &Path) -> Result<Vec<FeedbackLine>, ReadError> {
    Ok(last_rows(data).await?.iter().map(FeedbackLine::from).collect())
}

impl From<&crate::mining::LaneSnapshot> for LaneStatus {
    fn from(lane: &crate::mining::LaneSnapshot) -> Self {
        Self {
            hotkey: lane.hotkey,
            validator: lane.validator.clone(),
            uid: lane.uid,
            address: Some(lane.address.clone()),
            due: lane.due,
            window_count: lane.window_count,
            clock_ahead_ms: lane.clock_ahead_ms,
            task: lane.task.as_ref().map(|task| TaskStatus {
                id: task.id.clone(),
                kind: task.kind,
                pulled_at: task.pulled_at,
                state: task.state.to_owned(),
            }),
            decision: lane.decision.clone(),
            demoted: lane.demoted,
            leaving: lane.leaving,
        }
    }
}

impl From<&FeedbackRow> for FeedbackLine {
    fn from(row: &FeedbackRow) -> Self {
        Self {
            received_at: row.received_at,
            validator: row.source.name(),
            uid: row.uid,
            outcome: row.outcome,
            validation_failed: row.validation_failed,
            score: row.score.get(),
            local_score: row.local_score.map(|score| score.get()),
            average_score: row.average_score.get(),
            window_count: row.window_count,
            duel_rating: row.duel_rating,
            reward: row.reward,
            task: row.task.to_string(),
            prompt_kind: row.prompt_kind,
            prompt: row.prompt.as_deref().map(|prompt| Untrusted::new(prompt).to_string()),
        }
    }
}
