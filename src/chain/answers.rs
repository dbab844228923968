//! From the bytes of a runtime call to a metagraph.
//!
//! Every answer is decoded through the metadata of its own block into structs that name few fields:
//! a field that is added or moved elsewhere in the runtime changes nothing here. A *named* field that
//! is gone is an error even for an `Option`, so each answer has a second, smaller struct with what
//! mining cannot do without, and each call has the next one behind it.

use subxt::Metadata;
use subxt::ext::frame_decode::runtime_apis::decode_runtime_api_response;
use subxt::ext::scale_decode::DecodeAsType;

use super::{AxonInfo, ChainError, Metagraph, Neuron, Parts};
use crate::primitives::{Coldkey, Hotkey, Netuid, Rao, Uid, UnixTime, Untrusted};

/// The fields asked for by index (chain/README.md, "The metagraph"): netuid, owner hotkey, block,
/// number of uids, immunity period, hotkeys, coldkeys, axons, active, validator permit, last update,
/// emission, incentives, block at registration, total stake.
const FIELDS: [u16; 15] = [0, 5, 7, 30, 36, 52, 53, 55, 56, 57, 59, 60, 62, 66, 69];

const SUBNET_API: &str = "SubnetInfoRuntimeApi";
const NEURON_API: &str = "NeuronInfoRuntimeApi";

/// One way to read a whole subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// `get_selective_metagraph`: the fields we name, in one answer.
    Selective,
    /// `get_selective_mechagraph` of mechanism 0: the same answer.
    Mechagraph,
    /// `get_metagraph`: every field, in one answer.
    Whole,
    /// `get_neurons_lite` and `get_subnet_state`: axons from one, stakes from the other.
    LiteAndState,
}

impl Reading {
    /// In order of preference.
    pub const ALL: [Self; 4] = [Self::Selective, Self::Mechagraph, Self::Whole, Self::LiteAndState];

    /// The runtime calls it takes: trait and method.
    pub const fn calls(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Selective => &[(SUBNET_API, "get_selective_metagraph")],
            Self::Mechagraph => &[(SUBNET_API, "get_selective_mechagraph")],
            Self::Whole => &[(SUBNET_API, "get_metagraph")],
            Self::LiteAndState => &[(NEURON_API, "get_neurons_lite"), (SUBNET_API, "get_subnet_state")],
        }
    }

    /// Whether a runtime has its calls.
    pub fn is_offered(self, metadata: &Metadata) -> bool {
        self.calls().iter().all(|(api, method)| {
            metadata.runtime_api_trait_by_name(api).is_some_and(|api| api.method_by_name(method).is_some())
        })
    }

    /// SCALE of the arguments, the same for each of its calls.
    pub fn arguments(self, netuid: Netuid) -> Vec<u8> {
        use subxt::ext::codec::Encode;
        match self {
            Self::Selective => (netuid.0, FIELDS.as_slice()).encode(),
            Self::Mechagraph => (netuid.0, 0_u8, FIELDS.as_slice()).encode(),
            Self::Whole | Self::LiteAndState => netuid.0.encode(),
        }
    }
}

/// What the node answered.
#[derive(Debug, Clone, Copy)]
pub enum Answers<'a> {
    Selective(&'a [u8]),
    Mechagraph(&'a [u8]),
    Whole(&'a [u8]),
    LiteAndState { lite: &'a [u8], state: &'a [u8] },
}

/// What was asked, where and when.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub netuid: Netuid,
    /// The block the calls were made at.
    pub block: u64,
    /// By our clock.
    pub at: UnixTime,
}

/// Decodes one runtime call's answer through the metadata of its block, to the last byte.
///
/// # Errors
/// [`ChainError::Malformed`] when the bytes do not fit the type or the type lacks a field that `T`
/// names, [`ChainError::Leftover`] when bytes remain.
pub fn decode_answer<T: DecodeAsType>(
    metadata: &Metadata,
    (api, method): (&str, &str),
    bytes: &[u8],
) -> Result<T, ChainError> {
    let mut rest = bytes;
    let value =
        decode_runtime_api_response(api, method, &mut rest, metadata, metadata.types(), T::into_visitor())
            .map_err(|e| ChainError::Malformed {
                what: method.to_owned(),
                // The reason quotes the answer.
                reason: Untrusted::new(&e.to_string()).to_string(),
            })?;
    if !rest.is_empty() {
        return Err(ChainError::Leftover { what: method.to_owned(), bytes: rest.len() });
    }
    Ok(value)
}

/// Makes the metagraph of a subnet from what the node answered. Vectors shorter than the hotkeys
/// leave the defaults of [`Neuron`] in place; the rest of longer ones is ignored.
///
/// # Errors
/// When an answer does not decode, is about another subnet, lacks the hotkeys, axons or stakes, or
/// says that the subnet does not exist.
pub fn read_metagraph(
    answers: Answers<'_>,
    metadata: &Metadata,
    place: Place,
) -> Result<Metagraph, ChainError> {
    let (what, columns) = match answers {
        Answers::Selective(bytes) => selective(Reading::Selective, bytes, metadata, place.netuid)?,
        Answers::Mechagraph(bytes) => selective(Reading::Mechagraph, bytes, metadata, place.netuid)?,
        Answers::Whole(bytes) => whole(bytes, metadata, place.netuid)?,
        Answers::LiteAndState { lite, state } => lite_and_state(lite, state, metadata, place.netuid)?,
    };
    if columns.netuid != place.netuid.0 {
        return Err(ChainError::ForeignSubnet { asked: place.netuid, found: Netuid(columns.netuid) });
    }
    Metagraph::new(Parts {
        netuid: place.netuid,
        block: columns.block.unwrap_or(place.block),
        synced_at: place.at,
        owner_hotkey: columns.owner_hotkey.map(Hotkey::from_bytes),
        immunity_period: columns.immunity_period,
        neurons: columns.neurons(what)?,
    })
    .map_err(|reason| ChainError::NoMetagraph { what: what.to_owned(), reason })
}

type Account = [u8; 32];

#[derive(Debug, Clone, Copy, DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct Axon {
    block: u64,
    version: u32,
    ip: u128,
    port: u16,
    ip_type: u8,
    protocol: u8,
}

/// The per-uid vectors of any of the answers, and what goes with them.
#[derive(Debug, Default)]
struct Columns {
    netuid: u16,
    block: Option<u64>,
    owner_hotkey: Option<Account>,
    immunity_period: Option<u64>,
    hotkeys: Vec<Account>,
    axons: Vec<Axon>,
    total_stake: Vec<u64>,
    coldkeys: Vec<Account>,
    active: Vec<bool>,
    validator_permit: Vec<bool>,
    last_update: Vec<u64>,
    emission: Vec<u64>,
    incentives: Vec<u16>,
    block_at_registration: Vec<u64>,
}

impl Columns {
    fn neurons(self, what: &str) -> Result<Vec<Neuron>, ChainError> {
        self.hotkeys
            .iter()
            .enumerate()
            .map(|(row, hotkey)| {
                let uid = u16::try_from(row).map_err(|_| ChainError::NoMetagraph {
                    what: what.to_owned(),
                    reason: super::MetagraphError::TooManyNeurons(self.hotkeys.len()),
                })?;
                Ok(Neuron {
                    uid: Uid(uid),
                    hotkey: Hotkey::from_bytes(*hotkey),
                    coldkey: self.coldkeys.get(row).copied().map(Coldkey::from_bytes),
                    axon: self.axons.get(row).filter(|axon| axon.ip != 0).map(|axon| AxonInfo {
                        block: axon.block,
                        version: axon.version,
                        ip: axon.ip,
                        port: axon.port,
                        ip_type: axon.ip_type,
                        protocol: axon.protocol,
                    }),
                    active: self.active.get(row).copied().unwrap_or_default(),
                    validator_permit: self.validator_permit.get(row).copied().unwrap_or_default(),
                    stake: Rao(self.total_stake.get(row).copied().unwrap_or_default()),
                    incentive: self.incentives.get(row).copied().unwrap_or_default(),
                    emission: Rao(self.emission.get(row).copied().unwrap_or_default()),
                    last_update: self.last_update.get(row).copied().unwrap_or_default(),
                    block_at_registration: self.block_at_registration.get(row).copied(),
                })
            })
            .collect()
    }
}

#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct SelectiveAnswer {
    netuid: u16,
    block: Option<u64>,
    owner_hotkey: Option<Account>,
    immunity_period: Option<u64>,
    hotkeys: Option<Vec<Account>>,
    coldkeys: Option<Vec<Account>>,
    axons: Option<Vec<Axon>>,
    active: Option<Vec<bool>>,
    validator_permit: Option<Vec<bool>>,
    last_update: Option<Vec<u64>>,
    emission: Option<Vec<u64>>,
    incentives: Option<Vec<u16>>,
    block_at_registration: Option<Vec<u64>>,
    total_stake: Option<Vec<u64>>,
}

#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct SelectiveEssentials {
    netuid: u16,
    hotkeys: Option<Vec<Account>>,
    axons: Option<Vec<Axon>>,
    total_stake: Option<Vec<u64>>,
}

/// `get_metagraph`: the same names without the outer `Option`.
#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct WholeAnswer {
    netuid: u16,
    block: u64,
    owner_hotkey: Account,
    immunity_period: u64,
    hotkeys: Vec<Account>,
    coldkeys: Vec<Account>,
    axons: Vec<Axon>,
    active: Vec<bool>,
    validator_permit: Vec<bool>,
    last_update: Vec<u64>,
    emission: Vec<u64>,
    incentives: Vec<u16>,
    block_at_registration: Vec<u64>,
    total_stake: Vec<u64>,
}

#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct WholeEssentials {
    netuid: u16,
    hotkeys: Vec<Account>,
    axons: Vec<Axon>,
    total_stake: Vec<u64>,
}

#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct LiteNeuron {
    hotkey: Account,
    uid: u16,
    netuid: u16,
    axon_info: Axon,
}

#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct StateAnswer {
    netuid: u16,
    hotkeys: Vec<Account>,
    coldkeys: Vec<Account>,
    active: Vec<bool>,
    validator_permit: Vec<bool>,
    last_update: Vec<u64>,
    emission: Vec<u64>,
    incentives: Vec<u16>,
    block_at_registration: Vec<u64>,
    total_stake: Vec<u64>,
}

#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct StateEssentials {
    netuid: u16,
    hotkeys: Vec<Account>,
    total_stake: Vec<u64>,
}

/// Decodes into the full struct, or into the smaller one where the runtime lost a field of the full
/// one. Of two failures the first is the one to tell.
fn decode_either<F, E>(
    metadata: &Metadata,
    call: (&str, &str),
    bytes: &[u8],
    netuid: Netuid,
) -> Result<Columns, ChainError>
where
    F: DecodeAsType + Into<Columns>,
    E: DecodeAsType + Into<Columns>,
{
    let columns = match decode_answer::<Option<F>>(metadata, call, bytes) {
        Ok(answer) => answer.map(Into::into),
        Err(error) => match decode_answer::<Option<E>>(metadata, call, bytes) {
            Ok(answer) => answer.map(Into::into),
            Err(_) => return Err(error),
        },
    };
    columns.ok_or(ChainError::NoSubnet { netuid })
}

fn selective(
    reading: Reading,
    bytes: &[u8],
    metadata: &Metadata,
    netuid: Netuid,
) -> Result<(&'static str, Columns), ChainError> {
    let call = reading.calls()[0];
    let absent = |field: &str| ChainError::Malformed {
        what: call.1.to_owned(),
        reason: format!("it lacks the {field} that were asked for"),
    };
    // An `Option` that stayed empty although its index was asked for: the index means something else
    // by now, and an empty column would pass for a subnet without validators.
    let (columns, answered) = match decode_answer::<Option<SelectiveAnswer>>(metadata, call, bytes) {
        Ok(answer) => answer.map(SelectiveAnswer::split),
        Err(error) => match decode_answer::<Option<SelectiveEssentials>>(metadata, call, bytes) {
            Ok(answer) => answer.map(SelectiveEssentials::split),
            Err(_) => return Err(error),
        },
    }
    .ok_or(ChainError::NoSubnet { netuid })?;
    let Essentials { hotkeys, axons, total_stake } = answered;
    Ok((
        call.1,
        Columns {
            hotkeys: hotkeys.ok_or_else(|| absent("hotkeys"))?,
            axons: axons.ok_or_else(|| absent("axons"))?,
            total_stake: total_stake.ok_or_else(|| absent("stakes"))?,
            ..columns
        },
    ))
}

struct Essentials {
    hotkeys: Option<Vec<Account>>,
    axons: Option<Vec<Axon>>,
    total_stake: Option<Vec<u64>>,
}

impl SelectiveAnswer {
    fn split(self) -> (Columns, Essentials) {
        let columns = Columns {
            netuid: self.netuid,
            block: self.block,
            owner_hotkey: self.owner_hotkey,
            immunity_period: self.immunity_period,
            coldkeys: self.coldkeys.unwrap_or_default(),
            active: self.active.unwrap_or_default(),
            validator_permit: self.validator_permit.unwrap_or_default(),
            last_update: self.last_update.unwrap_or_default(),
            emission: self.emission.unwrap_or_default(),
            incentives: self.incentives.unwrap_or_default(),
            block_at_registration: self.block_at_registration.unwrap_or_default(),
            ..Columns::default()
        };
        (columns, Essentials { hotkeys: self.hotkeys, axons: self.axons, total_stake: self.total_stake })
    }
}

impl SelectiveEssentials {
    fn split(self) -> (Columns, Essentials) {
        let columns = Columns { netuid: self.netuid, ..Columns::default() };
        (columns, Essentials { hotkeys: self.hotkeys, axons: self.axons, total_stake: self.total_stake })
    }
}

fn whole(bytes: &[u8], metadata: &Metadata, netuid: Netuid) -> Result<(&'static str, Columns), ChainError> {
    let call = Reading::Whole.calls()[0];
    Ok((call.1, decode_either::<WholeAnswer, WholeEssentials>(metadata, call, bytes, netuid)?))
}

impl From<WholeAnswer> for Columns {
    fn from(answer: WholeAnswer) -> Self {
        Self {
            netuid: answer.netuid,
            block: Some(answer.block),
            owner_hotkey: Some(answer.owner_hotkey),
            immunity_period: Some(answer.immunity_period),
            hotkeys: answer.hotkeys,
            axons: answer.axons,
            total_stake: answer.total_stake,
            coldkeys: answer.coldkeys,
            active: answer.active,
            validator_permit: answer.validator_permit,
            last_update: answer.last_update,
            emission: answer.emission,
            incentives: answer.incentives,
            block_at_registration: answer.block_at_registration,
        }
    }
}

impl From<WholeEssentials> for Columns {
    fn from(answer: WholeEssentials) -> Self {
        Self {
            netuid: answer.netuid,
            hotkeys: answer.hotkeys,
            axons: answer.axons,
            total_stake: answer.total_stake,
            ..Self::default()
        }
    }
}

fn lite_and_state(
    lite: &[u8],
    state: &[u8],
    metadata: &Metadata,
    netuid: Netuid,
) -> Result<(&'static str, Columns), ChainError> {
    let [lite_call, state_call] = [Reading::LiteAndState.calls()[0], Reading::LiteAndState.calls()[1]];
    let mut columns = decode_either::<StateAnswer, StateEssentials>(metadata, state_call, state, netuid)?;
    let neurons: Vec<LiteNeuron> = decode_answer(metadata, lite_call, lite)?;
    columns.axons =
        vec![Axon { block: 0, version: 0, ip: 0, port: 0, ip_type: 0, protocol: 0 }; columns.hotkeys.len()];
    for neuron in neurons {
        if neuron.netuid != netuid.0 {
            return Err(ChainError::ForeignSubnet { asked: netuid, found: Netuid(neuron.netuid) });
        }
        // An axon goes to its hotkey only: should the two answers disagree about a uid, nobody is
        // called at somebody else's address.
        let row = usize::from(neuron.uid);
        if columns.hotkeys.get(row) == Some(&neuron.hotkey)
            && let Some(axon) = columns.axons.get_mut(row)
        {
            *axon = neuron.axon_info;
        }
    }
    Ok((state_call.1, columns))
}

impl From<StateAnswer> for Columns {
    fn from(answer: StateAnswer) -> Self {
        Self {
            netuid: answer.netuid,
            hotkeys: answer.hotkeys,
            total_stake: answer.total_stake,
            coldkeys: answer.coldkeys,
            active: answer.active,
            validator_permit: answer.validator_permit,
            last_update: answer.last_update,
            emission: answer.emission,
            incentives: answer.incentives,
            block_at_registration: answer.block_at_registration,
            ..Self::default()
        }
    }
}

impl From<StateEssentials> for Columns {
    fn from(answer: StateEssentials) -> Self {
        Self {
            netuid: answer.netuid,
            hotkeys: answer.hotkeys,
            total_stake: answer.total_stake,
            ..Self::default()
        }
    }
}
