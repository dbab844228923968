//! From the bytes of a runtime call to a metagraph.
//!
//! Every answer is decoded through the metadata of its own block and by the names of its fields: a
//! field that is added or moved elsewhere in the runtime changes nothing here, and one that is gone
//! leaves a default unless mining cannot do without it. Then the next call may serve.

use subxt::Metadata;
use subxt::ext::frame_decode::runtime_apis::decode_runtime_api_response;
use subxt::ext::scale_decode::DecodeAsType;

use super::loose::{Absent, Account, Accounts, Loose, by_name};
use super::{AxonInfo, ChainError, Metagraph, MetagraphError, Neuron, Parts};
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
    let (call, subnet) = match answers {
        Answers::Selective(bytes) => read_one(Reading::Selective, bytes, metadata, place.netuid)?,
        Answers::Mechagraph(bytes) => read_one(Reading::Mechagraph, bytes, metadata, place.netuid)?,
        Answers::Whole(bytes) => read_one(Reading::Whole, bytes, metadata, place.netuid)?,
        Answers::LiteAndState { lite, state } => {
            let call = Reading::LiteAndState.calls()[1];
            let mut subnet = subnet(call, state, metadata, place.netuid)?;
            subnet.axons = Loose(Some(axons_of_lite(lite, metadata, &subnet)?));
            (call, subnet)
        }
    };
    let (_, what) = call;
    Metagraph::new(Parts {
        netuid: place.netuid,
        block: subnet.block.0.unwrap_or(place.block),
        synced_at: place.at,
        owner_hotkey: subnet.owner_hotkey.0.map(Hotkey::from_bytes),
        immunity_period: subnet.immunity_period.0,
        neurons: neurons(what, subnet)?,
    })
    .map_err(|reason| ChainError::NoMetagraph { what: what.to_owned(), reason })
}

type RuntimeCall = (&'static str, &'static str);

fn read_one(
    reading: Reading,
    bytes: &[u8],
    metadata: &Metadata,
    netuid: Netuid,
) -> Result<(RuntimeCall, Subnet), ChainError> {
    let call = reading.calls()[0];
    Ok((call, subnet(call, bytes, metadata, netuid)?))
}

by_name! {
    #[derive(Debug, Clone, Copy, Default)]
    struct Axon {
        block: u64,
        version: u32,
        ip: u128,
        port: u16,
        ip_type: u8,
        protocol: u8,
    }
}

impl Absent for Axon {}

by_name! {
    /// Of the selective answer, the whole one and the state's: they share their names, and differ in
    /// which fields there are and in whether those are optional.
    #[derive(Debug)]
    struct Subnet {
        netuid: u16,
        block: Loose<u64>,
        owner_hotkey: Loose<Account>,
        immunity_period: Loose<u64>,
        hotkeys: Loose<Accounts>,
        coldkeys: Loose<Accounts>,
        axons: Loose<Vec<Axon>>,
        active: Loose<Vec<bool>>,
        validator_permit: Loose<Vec<bool>>,
        last_update: Loose<Vec<u64>>,
        emission: Loose<Vec<u64>>,
        incentives: Loose<Vec<u16>>,
        block_at_registration: Loose<Vec<u64>>,
        total_stake: Loose<Vec<u64>>,
    }
}

by_name! {
    #[derive(Debug)]
    struct LiteNeuron {
        hotkey: Account,
        uid: u16,
        netuid: u16,
        axon_info: Axon,
    }
}

fn subnet(
    call: (&str, &str),
    bytes: &[u8],
    metadata: &Metadata,
    netuid: Netuid,
) -> Result<Subnet, ChainError> {
    let subnet: Subnet =
        decode_answer::<Option<Subnet>>(metadata, call, bytes)?.ok_or(ChainError::NoSubnet { netuid })?;
    if subnet.netuid != netuid.0 {
        return Err(ChainError::ForeignSubnet { asked: netuid, found: Netuid(subnet.netuid) });
    }
    Ok(subnet)
}

/// The axons by uid, each given only to the hotkey it belongs to: should the two answers disagree
/// about a uid, nobody is called at somebody else's address.
fn axons_of_lite(lite: &[u8], metadata: &Metadata, subnet: &Subnet) -> Result<Vec<Axon>, ChainError> {
    let hotkeys = subnet.hotkeys.0.as_ref().map(|accounts| accounts.0.as_slice()).unwrap_or_default();
    let mut axons = vec![Axon::default(); hotkeys.len()];
    let neurons: Vec<LiteNeuron> = decode_answer(metadata, Reading::LiteAndState.calls()[0], lite)?;
    for neuron in neurons {
        if neuron.netuid != subnet.netuid {
            return Err(ChainError::ForeignSubnet {
                asked: Netuid(subnet.netuid),
                found: Netuid(neuron.netuid),
            });
        }
        let row = usize::from(neuron.uid);
        if hotkeys.get(row) == Some(&neuron.hotkey)
            && let Some(axon) = axons.get_mut(row)
        {
            *axon = neuron.axon_info;
        }
    }
    Ok(axons)
}

/// What of a subnet cannot have a default: without it, or with its index meaning something else by
/// now, an empty column would pass for a subnet without validators.
fn essential<T>(what: &str, field: &str, value: Loose<T>) -> Result<T, ChainError> {
    value.0.ok_or_else(|| ChainError::Malformed {
        what: what.to_owned(),
        reason: format!("it lacks the {field} that were asked for"),
    })
}

fn neurons(what: &str, subnet: Subnet) -> Result<Vec<Neuron>, ChainError> {
    let hotkeys = essential(what, "hotkeys", subnet.hotkeys)?.0;
    let axons = essential(what, "axons", subnet.axons)?;
    let stakes = essential(what, "stakes", subnet.total_stake)?;
    let coldkeys = subnet.coldkeys.0.unwrap_or_default().0;
    let active = subnet.active.0.unwrap_or_default();
    let permits = subnet.validator_permit.0.unwrap_or_default();
    let updates = subnet.last_update.0.unwrap_or_default();
    let emissions = subnet.emission.0.unwrap_or_default();
    let incentives = subnet.incentives.0.unwrap_or_default();
    let births = subnet.block_at_registration.0.unwrap_or_default();
    let neuron = |(row, hotkey): (usize, &Account)| {
        let uid = u16::try_from(row).map_err(|_| ChainError::NoMetagraph {
            what: what.to_owned(),
            reason: MetagraphError::TooManyNeurons(hotkeys.len()),
        })?;
        Ok(Neuron {
            uid: Uid(uid),
            hotkey: Hotkey::from_bytes(*hotkey),
            coldkey: coldkeys.get(row).copied().map(Coldkey::from_bytes),
            axon: axons.get(row).filter(|axon| axon.ip != 0).map(|axon| AxonInfo {
                block: axon.block,
                version: axon.version,
                ip: axon.ip,
                port: axon.port,
                ip_type: axon.ip_type,
                protocol: axon.protocol,
            }),
            active: active.get(row).copied().unwrap_or_default(),
            validator_permit: permits.get(row).copied().unwrap_or_default(),
            stake: Rao(stakes.get(row).copied().unwrap_or_default()),
            incentive: incentives.get(row).copied().unwrap_or_default(),
            emission: Rao(emissions.get(row).copied().unwrap_or_default()),
            last_update: updates.get(row).copied().unwrap_or_default(),
            block_at_registration: births.get(row).copied(),
        })
    };
    hotkeys.iter().enumerate().map(neuron).collect()
}
