//! The runtime: its version, and its metadata in the two forms that clients ask for.
//!
//! V14 (`state_getMetadata`, all that the Python SDK's older decoder reads) and V15 (runtime calls)
//! share one registry of types, because the SDK looks types up in one by the numbers of the other.

use std::collections::BTreeSet;

use frame_metadata::{RuntimeMetadataPrefixed, v14, v15};
use parity_scale_codec::{Compact, Encode};
use scale_info::build::Fields;
use scale_info::form::PortableForm;
use scale_info::{
    Field, IntoPortable, MetaType, Path, PortableRegistry, Registry, Type, TypeDef, TypeInfo, TypeParameter,
    meta_type,
};
use serde_json::{Value, json};
use sp_core::crypto::AccountId32;
use sp_crypto_hashing::blake2_64;

use super::hex;
use super::records::{Metagraph, NeuronInfoLite, Record, SelectiveMetagraph, SubnetState};
use super::storage;

/// The runtime that the recordings were made with.
pub const SPEC_VERSION: u32 = 343;

const NAME: &str = "node-subtensor";

/// How the answers' fields are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// As on mainnet at spec version 343.
    Recorded,
    /// As a hard upgrade might leave it: a field is new, the others come in the opposite order, and
    /// rank, trust and pruning score are empty.
    Upgraded,
}

impl Layout {
    /// A record's encoding.
    pub(super) fn encode(self, record: &impl Record) -> Vec<u8> {
        let fields = record.fields().into_iter().map(|(_, bytes)| bytes);
        match self {
            Self::Recorded => fields.flatten().collect(),
            Self::Upgraded => NEW_FIELD.1.encode().into_iter().chain(fields.rev().flatten()).collect(),
        }
    }

    fn rearrange(self, fields: &mut Vec<Field<PortableForm>>, new_field: &Field<PortableForm>) {
        match self {
            Self::Recorded => {}
            Self::Upgraded => {
                fields.reverse();
                fields.insert(0, new_field.clone());
            }
        }
    }
}

/// The field that the upgrade adds, and its value.
const NEW_FIELD: (&str, u32) = ("devnet_era", 1);

/// The records that an upgrade rearranges.
const REARRANGED: [&str; 4] = ["Metagraph", "SelectiveMetagraph", "SubnetState", "NeuronInfoLite"];

/// Where mainnet's metadata has the types that are ours here; strangers know some by their path.
const PATHS: [(&str, &[&str]); 17] = [
    ("FixedI128", &["substrate_fixed", "FixedI128"]),
    ("AxonInfo", &["pallet_subtensor", "pallet", "AxonInfo"]),
    ("PrometheusInfo", &["pallet_subtensor", "pallet", "PrometheusInfo"]),
    ("ChainIdentityV2", &["pallet_subtensor", "pallet", "ChainIdentityV2"]),
    ("SubnetIdentityV3", &["pallet_subtensor", "pallet", "SubnetIdentityV3"]),
    ("Metagraph", &["pallet_subtensor", "rpc_info", "metagraph", "Metagraph"]),
    ("SelectiveMetagraph", &["pallet_subtensor", "rpc_info", "metagraph", "SelectiveMetagraph"]),
    ("SubnetState", &["pallet_subtensor", "rpc_info", "show_subnet", "SubnetState"]),
    ("NeuronInfoLite", &["pallet_subtensor", "rpc_info", "neuron_info", "NeuronInfoLite"]),
    ("RuntimeVersion", &["sp_version", "RuntimeVersion"]),
    ("OpaqueMetadata", &["sp_core", "OpaqueMetadata"]),
    ("MultiAddress", &["sp_runtime", "multiaddress", "MultiAddress"]),
    ("MultiSignature", &["sp_runtime", "MultiSignature"]),
    ("RuntimeCall", &["node_subtensor_runtime", "RuntimeCall"]),
    ("RuntimeEvent", &["node_subtensor_runtime", "RuntimeEvent"]),
    ("RuntimeError", &["node_subtensor_runtime", "RuntimeError"]),
    ("NodeRuntime", &["node_subtensor_runtime", "Runtime"]),
];

#[derive(Debug, Encode, TypeInfo)]
struct RuntimeVersion {
    spec_name: &'static str,
    impl_name: &'static str,
    authoring_version: u32,
    spec_version: u32,
    impl_version: u32,
    apis: Vec<([u8; 8], u32)>,
    transaction_version: u32,
    system_version: u8,
}

#[derive(TypeInfo)]
#[allow(dead_code, reason = "only its shape is told")]
struct OpaqueMetadata(Vec<u8>);

#[derive(TypeInfo)]
#[allow(dead_code, reason = "only its shape is told; nothing is signed for this chain")]
enum MultiAddress {
    Id(AccountId32),
    Index(Compact<()>),
    Raw(Vec<u8>),
    Address32([u8; 32]),
    Address20([u8; 20]),
}

#[derive(TypeInfo)]
#[allow(dead_code, reason = "only its shape is told; nothing is signed for this chain")]
enum MultiSignature {
    Ed25519([u8; 64]),
    Sr25519([u8; 64]),
    Ecdsa([u8; 65]),
}

/// There is nothing to call.
#[derive(TypeInfo)]
enum RuntimeCall {}

#[derive(TypeInfo)]
enum RuntimeEvent {}

#[derive(TypeInfo)]
enum RuntimeError {}

#[derive(TypeInfo)]
struct NodeRuntime;

struct UncheckedExtrinsic;

impl TypeInfo for UncheckedExtrinsic {
    type Identity = Self;

    fn type_info() -> Type {
        let path = ["sp_runtime", "generic", "unchecked_extrinsic", "UncheckedExtrinsic"];
        Type::builder()
            .path(Path::from_segments_unchecked(path))
            .type_params([
                TypeParameter::new("Address", Some(meta_type::<MultiAddress>())),
                TypeParameter::new("Call", Some(meta_type::<RuntimeCall>())),
                TypeParameter::new("Signature", Some(meta_type::<MultiSignature>())),
                TypeParameter::new("Extra", Some(meta_type::<()>())),
            ])
            .composite(Fields::unnamed().field(|field| field.ty::<Vec<u8>>()))
    }
}

/// A trait of runtime calls.
struct Api {
    name: &'static str,
    version: u32,
    methods: Vec<Method>,
}

/// A runtime call: its name, its parameters, what it returns.
type Method = (&'static str, Vec<(&'static str, MetaType)>, MetaType);

fn apis() -> Vec<Api> {
    let netuid = || ("netuid", meta_type::<u16>());
    let indexes = || ("metagraph_indexes", meta_type::<Vec<u16>>());
    let api = |name, version, methods| Api { name, version, methods };
    vec![
        api("Core", 5, vec![("version", vec![], meta_type::<RuntimeVersion>())]),
        api(
            "Metadata",
            2,
            vec![
                ("metadata", vec![], meta_type::<OpaqueMetadata>()),
                (
                    "metadata_at_version",
                    vec![("version", meta_type::<u32>())],
                    meta_type::<Option<OpaqueMetadata>>(),
                ),
                ("metadata_versions", vec![], meta_type::<Vec<u32>>()),
            ],
        ),
        api(
            "AccountNonceApi",
            1,
            vec![("account_nonce", vec![("account", meta_type::<AccountId32>())], meta_type::<u32>())],
        ),
        api(
            "NeuronInfoRuntimeApi",
            1,
            vec![("get_neurons_lite", vec![netuid()], meta_type::<Vec<NeuronInfoLite>>())],
        ),
        api(
            "SubnetInfoRuntimeApi",
            1,
            vec![
                ("get_metagraph", vec![netuid()], meta_type::<Option<Metagraph>>()),
                ("get_subnet_state", vec![netuid()], meta_type::<Option<SubnetState>>()),
                (
                    "get_selective_metagraph",
                    vec![netuid(), indexes()],
                    meta_type::<Option<SelectiveMetagraph>>(),
                ),
                (
                    "get_selective_mechagraph",
                    vec![netuid(), ("subid", meta_type::<u8>()), indexes()],
                    meta_type::<Option<SelectiveMetagraph>>(),
                ),
            ],
        ),
    ]
}

/// One version of the runtime.
#[derive(Debug)]
pub(super) struct Runtime {
    pub layout: Layout,
    absent: BTreeSet<String>,
    version: RuntimeVersion,
    v14: Vec<u8>,
    v15: Vec<u8>,
}

impl Runtime {
    /// A runtime that lacks the calls named in `absent` (`get_selective_metagraph`).
    pub fn new(spec_version: u32, layout: Layout, absent: &BTreeSet<String>) -> Self {
        let mut apis = apis();
        for api in &mut apis {
            api.methods.retain(|(name, ..)| !absent.contains(*name));
        }
        let version = RuntimeVersion {
            spec_name: NAME,
            impl_name: NAME,
            authoring_version: 1,
            spec_version,
            impl_version: 1,
            apis: apis.iter().map(|api| (blake2_64(api.name.as_bytes()), api.version)).collect(),
            transaction_version: 1,
            system_version: 1,
        };
        let (v14, v15) = metadata(&version, apis, layout);
        Self { layout, absent: absent.clone(), version, v14, v15 }
    }

    pub fn spec_version(&self) -> u32 {
        self.version.spec_version
    }

    /// Whether there is a runtime call of this name, `Trait_method`.
    pub fn offers(&self, call: &str) -> bool {
        call.split_once('_').is_some_and(|(_, method)| !self.absent.contains(method))
    }

    /// As `state_getRuntimeVersion` answers.
    pub fn version_json(&self) -> Value {
        let version = &self.version;
        let apis: Vec<Value> =
            version.apis.iter().map(|(id, version)| json!([hex::encode(id), version])).collect();
        json!({
            "specName": version.spec_name,
            "implName": version.impl_name,
            "authoringVersion": version.authoring_version,
            "specVersion": version.spec_version,
            "implVersion": version.impl_version,
            "apis": apis,
            "transactionVersion": version.transaction_version,
            "systemVersion": version.system_version,
            "stateVersion": version.system_version,
        })
    }

    /// SCALE of the version, as `Core_version` answers and as the metadata's constant has it.
    pub fn version_scale(&self) -> Vec<u8> {
        self.version.encode()
    }

    /// Metadata with its magic number and version byte.
    pub fn metadata(&self, version: u32) -> Option<&[u8]> {
        match version {
            14 => Some(&self.v14),
            15 => Some(&self.v15),
            _ => None,
        }
    }
}

fn metadata(version: &RuntimeVersion, apis: Vec<Api>, layout: Layout) -> (Vec<u8>, Vec<u8>) {
    let mut registry = Registry::new();
    // The Python SDK takes type 0 for an account, whatever it is.
    registry.register_type(&meta_type::<AccountId32>());

    let pallets = registry.map_into_portable(pallets(version));
    let extrinsic = v14::ExtrinsicMetadata {
        ty: registry.register_type(&meta_type::<UncheckedExtrinsic>()),
        version: 4,
        signed_extensions: vec![],
    };
    let extrinsic_parts = v15::ExtrinsicMetadata {
        version: 4,
        address_ty: meta_type::<MultiAddress>(),
        call_ty: meta_type::<RuntimeCall>(),
        signature_ty: meta_type::<MultiSignature>(),
        extra_ty: meta_type::<()>(),
        signed_extensions: vec![],
    }
    .into_portable(&mut registry);
    let ty = registry.register_type(&meta_type::<NodeRuntime>());
    let apis = registry.map_into_portable(apis.into_iter().map(describe));
    let outer_enums = v15::OuterEnums {
        call_enum_ty: meta_type::<RuntimeCall>(),
        event_enum_ty: meta_type::<RuntimeEvent>(),
        error_enum_ty: meta_type::<RuntimeError>(),
    }
    .into_portable(&mut registry);
    let new_field = Field {
        name: Some(NEW_FIELD.0.into()),
        ty: registry.register_type(&meta_type::<u32>()),
        type_name: Some("u32".into()),
        docs: vec![],
    };
    let types = as_on_mainnet(registry.into(), layout, &new_field);

    let v15 = v15::RuntimeMetadataV15 {
        types: types.clone(),
        pallets: pallets.iter().cloned().map(with_docs).collect(),
        extrinsic: extrinsic_parts,
        ty,
        apis,
        outer_enums,
        custom: v15::CustomMetadata { map: Default::default() },
    };
    let v14 = v14::RuntimeMetadataV14 { types, pallets, extrinsic, ty };
    (RuntimeMetadataPrefixed::from(v14).encode(), RuntimeMetadataPrefixed::from(v15).encode())
}

/// Gives our types mainnet's paths, and the records the layout of the day.
fn as_on_mainnet(
    mut types: PortableRegistry,
    layout: Layout,
    new_field: &Field<PortableForm>,
) -> PortableRegistry {
    for ty in types.types.iter_mut().map(|entry| &mut entry.ty) {
        if ty.path.segments.first().is_none_or(|root| root != env!("CARGO_CRATE_NAME")) {
            continue;
        }
        let Some(ident) = ty.path.segments.last().cloned() else { continue };
        if let TypeDef::Composite(record) = &mut ty.type_def
            && REARRANGED.contains(&ident.as_str())
        {
            layout.rearrange(&mut record.fields, new_field);
        }
        if let Some((_, path)) = PATHS.iter().find(|(ours, _)| *ours == ident) {
            ty.path.segments = path.iter().map(|&segment| segment.to_owned()).collect();
        }
    }
    types
}

fn pallets(version: &RuntimeVersion) -> Vec<v14::PalletMetadata> {
    let constant = |name, ty, value| v14::PalletConstantMetadata { name, ty, value, docs: vec![] };
    let constants = vec![
        constant("Version", meta_type::<RuntimeVersion>(), version.encode()),
        constant("SS58Prefix", meta_type::<u16>(), 42u16.encode()),
    ];
    let pallet = |name, index, constants| v14::PalletMetadata {
        name,
        storage: Some(v14::PalletStorageMetadata { prefix: name, entries: storage::metadata(name) }),
        calls: None,
        event: None,
        constants,
        error: None,
        index,
    };
    vec![pallet("System", 0, constants), pallet("Timestamp", 2, vec![]), pallet("SubtensorModule", 7, vec![])]
}

fn with_docs(pallet: v14::PalletMetadata<PortableForm>) -> v15::PalletMetadata<PortableForm> {
    let v14::PalletMetadata { name, storage, calls, event, constants, error, index } = pallet;
    v15::PalletMetadata { name, storage, calls, event, constants, error, index, docs: vec![] }
}

fn describe(api: Api) -> v15::RuntimeApiMetadata {
    let methods = api.methods.into_iter().map(|(name, inputs, output)| v15::RuntimeApiMethodMetadata {
        name,
        inputs: inputs
            .into_iter()
            .map(|(name, ty)| v15::RuntimeApiMethodParamMetadata { name, ty })
            .collect(),
        output,
        docs: vec![],
    });
    v15::RuntimeApiMetadata { name: api.name, methods: methods.collect(), docs: vec![] }
}
