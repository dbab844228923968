//! The runtime's answers as Rust types: the metadata is generated from them and the answers are
//! encoded from them, so that the two cannot disagree.
//!
//! Names, order and types are those of mainnet's metadata at spec version 343 (chain/README.md); a
//! reader goes by the names and the wire by the order.

use parity_scale_codec::{Compact, Decode, Encode};
use scale_info::TypeInfo;
use sp_core::crypto::AccountId32;

use super::subnet::{AxonEntry, Neuron, Subnet};

/// A structure whose fields a runtime upgrade may rearrange.
pub(super) trait Record {
    /// Name and encoding of each field, in the order of the declaration.
    fn fields(&self) -> Vec<(&'static str, Vec<u8>)>;
}

macro_rules! record {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Encode, Decode, TypeInfo)]
        pub struct $name {
            $(pub $field: $type,)*
        }

        impl Record for $name {
            fn fields(&self) -> Vec<(&'static str, Vec<u8>)> {
                vec![$((stringify!($field), self.$field.encode()),)*]
            }
        }
    };
}

/// `Metagraph`, and the form of it in which every field but the first is there on demand.
macro_rules! metagraphs {
    ($($field:ident: $type:ty,)* / $($extra:ident: $extra_type:ty,)*) => {
        record! {
            /// What `get_metagraph` returns.
            Metagraph {
                netuid: Compact<u16>,
                $($field: $type,)*
            }
        }

        record! {
            /// What `get_selective_metagraph` returns.
            SelectiveMetagraph {
                netuid: Compact<u16>,
                $($field: Option<$type>,)*
                $($extra: Option<$extra_type>,)*
            }
        }

        impl SelectiveMetagraph {
            /// The fields whose position is among `wanted`, besides the netuid.
            pub fn select(all: Metagraph, $($extra: $extra_type,)* wanted: &[u16]) -> Self {
                let mut positions = 1..;
                let mut asked = || positions.next().is_some_and(|position| wanted.contains(&position));
                Self {
                    netuid: all.netuid,
                    $($field: asked().then_some(all.$field),)*
                    $($extra: asked().then_some($extra),)*
                }
            }
        }
    };
}

/// A fixed-point number with 32 bits behind the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, TypeInfo)]
pub struct FixedI128 {
    pub bits: i128,
}

/// An axon, all zero if it never served. 34 bytes, nothing compact.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode, TypeInfo)]
pub struct AxonInfo {
    pub block: u64,
    pub version: u32,
    pub ip: u128,
    pub port: u16,
    pub ip_type: u8,
    pub protocol: u8,
    pub placeholder1: u8,
    pub placeholder2: u8,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode, TypeInfo)]
pub struct PrometheusInfo {
    pub block: u64,
    pub version: u32,
    pub ip: u128,
    pub port: u16,
    pub ip_type: u8,
}

/// What an owner says about itself. Nobody does here.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, TypeInfo)]
pub struct ChainIdentityV2 {
    pub name: Vec<u8>,
    pub url: Vec<u8>,
    pub github_repo: Vec<u8>,
    pub image: Vec<u8>,
    pub discord: Vec<u8>,
    pub description: Vec<u8>,
    pub additional: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, TypeInfo)]
pub struct SubnetIdentityV3 {
    pub subnet_name: Vec<u8>,
    pub github_repo: Vec<u8>,
    pub subnet_contact: Vec<u8>,
    pub subnet_url: Vec<u8>,
    pub discord: Vec<u8>,
    pub description: Vec<u8>,
    pub logo_url: Vec<u8>,
    pub additional: Vec<u8>,
}

metagraphs! {
    name: Vec<Compact<u8>>,
    symbol: Vec<Compact<u8>>,
    identity: Option<SubnetIdentityV3>,
    network_registered_at: Compact<u64>,
    owner_hotkey: AccountId32,
    owner_coldkey: AccountId32,
    block: Compact<u64>,
    tempo: Compact<u16>,
    last_step: Compact<u64>,
    blocks_since_last_step: Compact<u64>,
    subnet_emission: Compact<u64>,
    alpha_in: Compact<u64>,
    alpha_out: Compact<u64>,
    tao_in: Compact<u64>,
    alpha_out_emission: Compact<u64>,
    alpha_in_emission: Compact<u64>,
    tao_in_emission: Compact<u64>,
    pending_alpha_emission: Compact<u64>,
    pending_root_emission: Compact<u64>,
    subnet_volume: Compact<u128>,
    moving_price: FixedI128,
    rho: Compact<u16>,
    kappa: Compact<u16>,
    min_allowed_weights: Compact<u16>,
    max_weights_limit: Compact<u16>,
    weights_version: Compact<u64>,
    weights_rate_limit: Compact<u64>,
    activity_cutoff: Compact<u16>,
    max_validators: Compact<u16>,
    num_uids: Compact<u16>,
    max_uids: Compact<u16>,
    burn: Compact<u64>,
    difficulty: Compact<u64>,
    registration_allowed: bool,
    pow_registration_allowed: bool,
    immunity_period: Compact<u16>,
    min_difficulty: Compact<u64>,
    max_difficulty: Compact<u64>,
    min_burn: Compact<u64>,
    max_burn: Compact<u64>,
    adjustment_alpha: Compact<u64>,
    adjustment_interval: Compact<u16>,
    target_regs_per_interval: Compact<u16>,
    max_regs_per_block: Compact<u16>,
    serving_rate_limit: Compact<u64>,
    commit_reveal_weights_enabled: bool,
    commit_reveal_period: Compact<u64>,
    liquid_alpha_enabled: bool,
    alpha_high: Compact<u16>,
    alpha_low: Compact<u16>,
    bonds_moving_avg: Compact<u64>,
    hotkeys: Vec<AccountId32>,
    coldkeys: Vec<AccountId32>,
    identities: Vec<Option<ChainIdentityV2>>,
    axons: Vec<AxonInfo>,
    active: Vec<bool>,
    validator_permit: Vec<bool>,
    pruning_score: Vec<Compact<u16>>,
    last_update: Vec<Compact<u64>>,
    emission: Vec<Compact<u64>>,
    dividends: Vec<Compact<u16>>,
    incentives: Vec<Compact<u16>>,
    consensus: Vec<Compact<u16>>,
    trust: Vec<Compact<u16>>,
    rank: Vec<Compact<u16>>,
    block_at_registration: Vec<Compact<u64>>,
    alpha_stake: Vec<Compact<u64>>,
    tao_stake: Vec<Compact<u64>>,
    total_stake: Vec<Compact<u64>>,
    tao_dividends_per_hotkey: Vec<(AccountId32, Compact<u64>)>,
    alpha_dividends_per_hotkey: Vec<(AccountId32, Compact<u64>)>,
    /
    validators: Vec<Compact<u16>>,
    commitments: Vec<(AccountId32, Vec<Compact<u8>>)>,
}

record! {
    /// What `get_subnet_state` returns.
    SubnetState {
        netuid: Compact<u16>,
        hotkeys: Vec<AccountId32>,
        coldkeys: Vec<AccountId32>,
        active: Vec<bool>,
        validator_permit: Vec<bool>,
        pruning_score: Vec<Compact<u16>>,
        last_update: Vec<Compact<u64>>,
        emission: Vec<Compact<u64>>,
        dividends: Vec<Compact<u16>>,
        incentives: Vec<Compact<u16>>,
        consensus: Vec<Compact<u16>>,
        trust: Vec<Compact<u16>>,
        rank: Vec<Compact<u16>>,
        block_at_registration: Vec<Compact<u64>>,
        alpha_stake: Vec<Compact<u64>>,
        tao_stake: Vec<Compact<u64>>,
        total_stake: Vec<Compact<u64>>,
        emission_history: Vec<Vec<Compact<u64>>>,
    }
}

record! {
    /// One element of what `get_neurons_lite` returns.
    NeuronInfoLite {
        hotkey: AccountId32,
        coldkey: AccountId32,
        uid: Compact<u16>,
        netuid: Compact<u16>,
        active: bool,
        axon_info: AxonInfo,
        prometheus_info: PrometheusInfo,
        stake: Vec<(AccountId32, Compact<u64>)>,
        rank: Compact<u16>,
        emission: Compact<u64>,
        incentive: Compact<u16>,
        consensus: Compact<u16>,
        trust: Compact<u16>,
        validator_trust: Compact<u16>,
        dividends: Compact<u16>,
        last_update: Compact<u64>,
        validator_permit: bool,
        pruning_score: Compact<u16>,
    }
}

impl From<&AxonEntry> for AxonInfo {
    fn from(entry: &AxonEntry) -> Self {
        let AxonEntry { block, version, ip, port, ip_type, protocol } = *entry;
        Self { block, version, ip, port, ip_type, protocol, placeholder1: 0, placeholder2: 0 }
    }
}

impl From<&Neuron> for AxonInfo {
    fn from(neuron: &Neuron) -> Self {
        neuron.axon.as_ref().map(Self::from).unwrap_or_default()
    }
}

/// The subnet as one block's runtime shows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub subnet: &'a Subnet,
    pub block: u64,
    /// Whether rank, trust and pruning score still have a value each (chain/README.md, "Runtime
    /// upgrades").
    pub old_columns: bool,
}

impl View<'_> {
    fn column<T>(&self, of: impl Fn(&Neuron) -> T) -> Vec<T> {
        self.subnet.neurons.iter().map(of).collect()
    }

    fn old_column(&self, of: impl Fn(&Neuron) -> u16) -> Vec<Compact<u16>> {
        if self.old_columns { self.column(|neuron| Compact(of(neuron))) } else { Vec::new() }
    }

    fn uids(&self) -> u16 {
        u16::try_from(self.subnet.neurons.len()).unwrap_or(u16::MAX)
    }

    pub fn metagraph(&self) -> Metagraph {
        let subnet = self.subnet;
        // An epoch ends where block + netuid + 1 is a multiple of tempo + 1.
        let step = u64::from(subnet.tempo) + 1;
        let since_step = (self.block + u64::from(subnet.netuid.0) + 1) % step;
        let characters = |text: &str| text.bytes().map(Compact).collect();
        Metagraph {
            netuid: Compact(subnet.netuid.0),
            name: characters(&subnet.name),
            symbol: characters(&subnet.symbol),
            identity: None,
            network_registered_at: Compact(subnet.registered_at),
            owner_hotkey: (*subnet.owner_hotkey.as_bytes()).into(),
            owner_coldkey: (*subnet.owner_coldkey.as_bytes()).into(),
            block: Compact(self.block),
            tempo: Compact(subnet.tempo),
            last_step: Compact(self.block.saturating_sub(since_step)),
            blocks_since_last_step: Compact(since_step),
            subnet_emission: Compact(0),
            alpha_in: Compact(0),
            alpha_out: Compact(0),
            tao_in: Compact(0),
            alpha_out_emission: Compact(0),
            alpha_in_emission: Compact(0),
            tao_in_emission: Compact(0),
            pending_alpha_emission: Compact(0),
            pending_root_emission: Compact(0),
            subnet_volume: Compact(0),
            moving_price: FixedI128 { bits: 1 << 32 },
            rho: Compact(10),
            kappa: Compact(32_767),
            min_allowed_weights: Compact(1),
            max_weights_limit: Compact(u16::MAX),
            weights_version: Compact(0),
            weights_rate_limit: Compact(100),
            activity_cutoff: Compact(5_000),
            max_validators: Compact(64),
            num_uids: Compact(self.uids()),
            max_uids: Compact(subnet.max_uids),
            burn: Compact(500_000),
            difficulty: Compact(10_000_000),
            registration_allowed: true,
            pow_registration_allowed: false,
            immunity_period: Compact(subnet.immunity_period),
            min_difficulty: Compact(10_000_000),
            max_difficulty: Compact(u64::MAX / 4),
            min_burn: Compact(500_000),
            max_burn: Compact(100_000_000_000),
            adjustment_alpha: Compact(0),
            adjustment_interval: Compact(360),
            target_regs_per_interval: Compact(1),
            max_regs_per_block: Compact(1),
            serving_rate_limit: Compact(subnet.serving_rate_limit),
            commit_reveal_weights_enabled: false,
            commit_reveal_period: Compact(1),
            liquid_alpha_enabled: false,
            alpha_high: Compact(58_982),
            alpha_low: Compact(45_875),
            bonds_moving_avg: Compact(900_000),
            hotkeys: self.column(|neuron| (*neuron.hotkey.as_bytes()).into()),
            coldkeys: self.column(|neuron| (*neuron.coldkey.as_bytes()).into()),
            identities: self.column(|_| None),
            axons: self.column(|neuron| neuron.into()),
            active: self.column(|neuron| neuron.active),
            validator_permit: self.column(|neuron| neuron.validator_permit),
            pruning_score: self.old_column(|neuron| neuron.incentive),
            last_update: self.column(|neuron| Compact(neuron.last_update)),
            emission: self.column(|neuron| Compact(neuron.emission.0)),
            dividends: self.column(|neuron| Compact(neuron.dividends)),
            incentives: self.column(|neuron| Compact(neuron.incentive)),
            consensus: self.column(|neuron| Compact(neuron.incentive)),
            trust: self.old_column(|_| 0),
            rank: self.old_column(|neuron| neuron.incentive),
            block_at_registration: self.column(|neuron| Compact(neuron.block_at_registration)),
            alpha_stake: self.column(|neuron| Compact(neuron.alpha_stake.0)),
            tao_stake: self.column(|neuron| Compact(neuron.tao_stake.0)),
            total_stake: self.column(|neuron| Compact(neuron.total_stake.0)),
            tao_dividends_per_hotkey: Vec::new(),
            alpha_dividends_per_hotkey: Vec::new(),
        }
    }

    pub fn selective_metagraph(&self, wanted: &[u16]) -> SelectiveMetagraph {
        let permitted = (0..).zip(&self.subnet.neurons).filter(|(_, neuron)| neuron.validator_permit);
        let validators = permitted.map(|(uid, _)| Compact(uid)).collect();
        SelectiveMetagraph::select(self.metagraph(), validators, Vec::new(), wanted)
    }

    pub fn subnet_state(&self) -> SubnetState {
        let all = self.metagraph();
        SubnetState {
            netuid: all.netuid,
            hotkeys: all.hotkeys,
            coldkeys: all.coldkeys,
            active: all.active,
            validator_permit: all.validator_permit,
            pruning_score: all.pruning_score,
            last_update: all.last_update,
            emission: all.emission,
            dividends: all.dividends,
            incentives: all.incentives,
            consensus: all.consensus,
            trust: all.trust,
            rank: all.rank,
            block_at_registration: all.block_at_registration,
            alpha_stake: all.alpha_stake,
            tao_stake: all.tao_stake,
            total_stake: all.total_stake,
            emission_history: vec![self.column(|neuron| Compact(neuron.emission.0))],
        }
    }

    pub fn neurons_lite(&self) -> Vec<NeuronInfoLite> {
        let neurons = (0..).zip(&self.subnet.neurons);
        neurons
            .map(|(uid, neuron)| {
                let coldkey = AccountId32::new(*neuron.coldkey.as_bytes());
                let old = |value| Compact(if self.old_columns { value } else { 0 });
                NeuronInfoLite {
                    hotkey: (*neuron.hotkey.as_bytes()).into(),
                    coldkey: coldkey.clone(),
                    uid: Compact(uid),
                    netuid: Compact(self.subnet.netuid.0),
                    active: neuron.active,
                    axon_info: neuron.into(),
                    prometheus_info: PrometheusInfo::default(),
                    stake: vec![(coldkey, Compact(neuron.alpha_stake.0))],
                    rank: old(neuron.incentive),
                    emission: Compact(neuron.emission.0),
                    incentive: Compact(neuron.incentive),
                    consensus: Compact(neuron.incentive),
                    trust: old(0),
                    validator_trust: Compact(0),
                    dividends: Compact(neuron.dividends),
                    last_update: Compact(neuron.last_update),
                    validator_permit: neuron.validator_permit,
                    pruning_score: old(neuron.incentive),
                }
            })
            .collect()
    }
}
