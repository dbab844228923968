//! `DevChain` answers as subtensor does: against the recordings, against mainnet's metadata, and by
//! the rules of chain/README.md.

mod devchain_setup;
mod support;

use std::time::Duration;

use devchain_setup::{
    FIRST_BLOCK, bytes, chain, clock, coldkey, header, hex, hotkey, miner, runtime_call, subnet,
};
use frame_metadata::v14::StorageEntryModifier;
use frame_metadata::{RuntimeMetadata, RuntimeMetadataPrefixed, v14, v15};
use parity_scale_codec::{Compact, Decode, DecodeAll, Encode};
use scale_info::form::PortableForm;
use scale_info::{PortableRegistry, TypeDef};
use serde_json::{Value, json};
use sn17_miner::devnet::chain::records::{
    AxonInfo, Metagraph, NeuronInfoLite, SelectiveMetagraph, SubnetState,
};
use sn17_miner::devnet::chain::{
    BLOCK_TIME, BlockHash, DevChain, DevChainSettings, HISTORY, Layout, Neuron, Subnet,
};
use sn17_miner::primitives::{Hotkey, Netuid, Rao, Uid, UnixTime};

fn shared_json(path: &str) -> Option<Value> {
    Some(serde_json::from_slice(&std::fs::read(support::shared(path)?).unwrap()).unwrap())
}

#[test]
fn the_recorded_header_has_the_recorded_hash() {
    let Some(recorded) = shared_json("chain/recorded/block_and_version.json") else { return };
    let header = header(&recorded["header"]);
    assert_eq!(json!(header.hash().to_string()), recorded["head"]);
    assert_eq!(header.to_json(), recorded["header"]);
}

#[tokio::test(start_paused = true)]
async fn every_block_is_known_by_the_hash_of_its_header() {
    let chain = chain();
    tokio::time::advance(BLOCK_TIME * 5).await;
    let head = chain.head();
    assert_eq!(head.number, u64::from(FIRST_BLOCK) + 5);
    assert_eq!(chain.finalized().number, head.number - 2);

    let mut hash = head.hash.to_string();
    for number in (head.number + 1 - HISTORY as u64..=head.number).rev() {
        let json = chain.call("chain_getHeader", &json!([hash])).unwrap();
        let header = header(&json);
        assert_eq!((u64::from(header.number), header.hash().to_string()), (number, hash.clone()));
        assert_eq!(chain.call("chain_getBlockHash", &json!([number])).unwrap(), json!(hash));
        hash = header.parent.to_string();
    }
    assert_eq!(chain.call("chain_getHeader", &json!([hash])).unwrap(), Value::Null, "forgotten");
    let state = chain.call("state_getRuntimeVersion", &json!([hash])).unwrap_err();
    let wording =
        format!("Client error: Api called for an unknown Block: State already discarded for {hash}");
    assert_eq!((state.code, state.message), (4003, wording));

    let genesis = chain.call("chain_getBlockHash", &json!([0])).unwrap();
    assert_eq!(genesis, json!(chain.genesis().hash.to_string()));
    assert_eq!(header(&chain.call("chain_getHeader", &json!([genesis])).unwrap()).number, 0);
}

#[tokio::test(start_paused = true)]
async fn a_young_chain_is_linked_back_to_its_genesis() {
    let chain =
        DevChain::new(DevChainSettings { first_block: 3, ..DevChainSettings::new(subnet()) }, clock());
    let mut hash = chain.head().hash;
    for number in (0..=3).rev() {
        let header = header(&chain.call("chain_getHeader", &json!([hash.to_string()])).unwrap());
        assert_eq!((header.number, header.hash()), (number, hash));
        hash = header.parent;
    }
    assert_eq!(hash.0, [0; 32]);
}

#[tokio::test(start_paused = true)]
async fn blocks_come_with_the_clock_unless_frozen() {
    let chain = chain();
    let first = chain.head();
    assert_eq!(first.time, UnixTime::from_secs(1_763_600_000));
    tokio::time::advance(BLOCK_TIME - Duration::from_millis(1)).await;
    assert_eq!(chain.head(), first);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(chain.head().number, first.number + 1);

    chain.freeze(true);
    tokio::time::advance(BLOCK_TIME * 1_000).await;
    assert_eq!(chain.head().number, first.number + 1);
    assert_eq!(chain.produce_block().number, first.number + 2);
    chain.freeze(false);
    tokio::time::advance(BLOCK_TIME).await;
    assert_eq!(chain.head().number, first.number + 3);

    // A leap of the clock is made up for, up to a limit.
    tokio::time::advance(BLOCK_TIME * 50_000).await;
    assert_eq!(chain.head().number, first.number + 50_003);
    tokio::time::advance(Duration::from_secs(10 * 365 * 86_400)).await;
    assert_eq!(chain.head().number, first.number + 150_003);
}

#[tokio::test(start_paused = true)]
async fn a_chain_with_a_clock_far_away_says_so_in_slot_and_timestamp() {
    let chain = chain();
    chain.set_clock_ahead(3_600_000_000_000);
    let head = chain.produce_block();
    let time = UnixTime::from_secs(1_763_600_000 + 3_600);
    assert_eq!(head.time, time);
    // Timestamp.Now, in milliseconds.
    let key = "0xf0c365c3cf59d671eb72da0e7a4113c49f1f0515f462cdcf84e0f1d6045dfcbb";
    let now = bytes(&chain.call("state_getStorage", &json!([key])).unwrap());
    assert_eq!(now, time.as_millis().encode());
    let header = header(&chain.call("chain_getHeader", &json!([])).unwrap());
    assert_eq!(header.digest, [[b"\x06aura\x20".as_slice(), &(time.as_secs() / 12).to_le_bytes()].concat()]);
}

const SUBTENSOR: &str = "0x658faa385070e074c85bf6b568cf0555";
const UIDS: &str = "aab1b4e78e1ea8305462ee53b3686dc8";

fn account(hotkey: &Hotkey) -> String {
    let key = hotkey.as_bytes();
    hex(&[sp_crypto_hashing::blake2_128(key).as_slice(), key].concat())[2..].to_owned()
}

#[tokio::test(start_paused = true)]
async fn storage_is_read_by_the_keys_of_the_real_chain() {
    let chain = chain();
    let read = |rest: String| chain.call("state_getStorage", &json!([format!("{SUBTENSOR}{rest}")])).unwrap();
    let (validator, miner, stranger) =
        (account(&hotkey("validator")), account(&hotkey("miner")), account(&hotkey("stranger")));

    assert_eq!(read(format!("{UIDS}1100{miner}")), json!("0x0100"));
    assert_eq!(read(format!("{UIDS}1100{stranger}")), Value::Null);
    assert_eq!(read(format!("{UIDS}1200{miner}")), Value::Null, "another subnet");
    let member = "ea6aa4e81a33d2c120ef55203e0eb560";
    assert_eq!(read(format!("{member}{miner}1100")), json!("0x01"));
    assert_eq!(read(format!("{member}{stranger}1100")), Value::Null);
    assert_eq!(read("a1048e9d244171852dfe8db314dc68ca1100".into()), json!("0x0200"));
    let keys = "9f99a2ce711f3a31b2fc05604c93f179";
    assert_eq!(read(format!("{keys}11000100")), json!(hex(hotkey("miner").as_bytes())));
    assert_eq!(read(format!("{keys}11000200")), Value::Null);
    let axons = "b4e0c7b1d5f74994fcd58c28ab601fec";
    let axon = AxonInfo::decode_all(&mut &bytes(&read(format!("{axons}1100{validator}")))[..]).unwrap();
    assert_eq!((axon.ip, axon.port, axon.ip_type, axon.protocol), (0x7f00_0001, 17_002, 4, 4));
    assert_eq!(read(format!("{axons}1100{miner}")), Value::Null, "it never served");
    assert_eq!(read("0e30450fc4d507a846032a7fa65d9a431100".into()), json!("0x01"));
    assert_eq!(read("0e30450fc4d507a846032a7fa65d9a431200".into()), Value::Null);
    assert_eq!(read("1fbba053865c94fcc1b417b41cc9e63a1100".into()), json!(hex(&50u64.encode())));
    let mechanisms = hex(&sp_crypto_hashing::twox_64(&17u16.encode()))[2..].to_owned();
    assert_eq!(read(format!("604fb97037feb8522bf37d42d54fa6e9{mechanisms}1100")), Value::Null);

    // A wrong hash inside, a key cut short, one too long, somebody else's.
    let mut wrong = format!("{UIDS}1100{miner}");
    wrong.replace_range(36..38, if &wrong[36..38] == "00" { "01" } else { "00" });
    for rest in [wrong, format!("{UIDS}1100"), format!("{UIDS}1100{miner}00"), "00".repeat(16)] {
        assert_eq!(read(rest), Value::Null);
    }
}

#[tokio::test(start_paused = true)]
async fn recorded_storage_keys_find_their_neuron() {
    let Some(recorded) = shared_json("chain/recorded/storage_reads.json") else { return };
    let reads: Vec<_> =
        recorded.as_array().unwrap().iter().filter(|read| read["entry"] == "SubtensorModule.Uids").collect();
    assert_eq!(reads.len(), 3);
    for read in reads {
        let uid = read["decoded"].as_u64().unwrap();
        let mut subnet = Subnet::new(Netuid(0), hotkey("owner"), coldkey("owner"));
        subnet.netuid = Netuid(u16::try_from(read["netuid"].as_u64().unwrap()).unwrap());
        subnet.neurons = (0..uid).map(|uid| miner(&format!("{uid}"))).collect();
        let registered: Hotkey = read["ss58"].as_str().unwrap().parse().unwrap();
        subnet.neurons.push(Neuron { hotkey: registered, ..miner("it") });
        let chain = DevChain::new(DevChainSettings::new(subnet), clock());
        for method in ["state_getStorage", "state_getStorageAt"] {
            assert_eq!(chain.call(method, &json!([read["key"], null])).unwrap(), read["result"]);
        }
    }
}

#[test]
fn recorded_answers_decode_into_our_types_and_encode_back() {
    fn round_trip<T: Encode + Decode>(method: &str) -> Option<T> {
        let recorded = shared_json(&format!("chain/recorded/{method}.json"))?;
        let scale = bytes(&recorded["result"]);
        let value = T::decode_all(&mut scale.as_slice()).unwrap();
        assert!(value.encode() == scale, "{method}: not the same bytes");
        Some(value)
    }
    let Some(neurons) = round_trip::<Vec<NeuronInfoLite>>("get_neurons_lite") else { return };
    let Some(Some(state)) = round_trip::<Option<SubnetState>>("get_subnet_state") else { panic!() };
    let Some(Some(all)) = round_trip::<Option<SelectiveMetagraph>>("get_selective_mechagraph") else {
        panic!()
    };
    assert_eq!((neurons.len(), state.hotkeys.len(), all.hotkeys.unwrap().len()), (1024, 1024, 1024));
    assert_eq!(all.total_stake, Some(state.total_stake));
}

fn metadata(chain: &DevChain) -> (v14::RuntimeMetadataV14, v15::RuntimeMetadataV15) {
    let v14 = bytes(&chain.call("state_getMetadata", &json!([])).unwrap());
    let v15 = runtime_call(chain, "Metadata_metadata_at_version", &15u32.encode());
    let v15 = Option::<Vec<u8>>::decode_all(&mut v15.as_slice()).unwrap().unwrap();
    let decode = |mut file: &[u8]| RuntimeMetadataPrefixed::decode_all(&mut file).unwrap().1;
    match (decode(&v14), decode(&v15)) {
        (RuntimeMetadata::V14(v14), RuntimeMetadata::V15(v15)) => (v14, v15),
        _ => panic!("other versions"),
    }
}

/// A type as text, by what it looks like on the wire and by the names in it.
fn shape(types: &PortableRegistry, id: u32) -> String {
    let ty = types.resolve(id).unwrap();
    let inner = |id: u32| shape(types, id);
    match &ty.type_def {
        TypeDef::Primitive(primitive) => format!("{primitive:?}").to_lowercase(),
        TypeDef::Compact(compact) => format!("Compact<{}>", inner(compact.type_param.id)),
        TypeDef::Sequence(sequence) => format!("Vec<{}>", inner(sequence.type_param.id)),
        TypeDef::Array(array) => format!("[{}; {}]", inner(array.type_param.id), array.len),
        TypeDef::Tuple(tuple) => {
            format!("({})", tuple.fields.iter().map(|field| inner(field.id)).collect::<Vec<_>>().join(", "))
        }
        TypeDef::Composite(composite) => {
            let fields: Vec<_> = composite
                .fields
                .iter()
                .map(|field| format!("{}: {}", field.name.as_deref().unwrap_or("_"), inner(field.ty.id)))
                .collect();
            // Mainnet's version wraps its texts in `Cow`, which is nothing on the wire.
            match fields.as_slice() {
                [only] if ty.path.segments == ["Cow"] => only.strip_prefix("_: ").unwrap().to_owned(),
                fields => format!("{} {{ {} }}", ty.path.segments.join("::"), fields.join(", ")),
            }
        }
        TypeDef::Variant(variant) => {
            let variants: Vec<_> = variant
                .variants
                .iter()
                .map(|variant| {
                    let fields: Vec<_> = variant.fields.iter().map(|field| inner(field.ty.id)).collect();
                    format!("{}={}({})", variant.index, variant.name, fields.join(", "))
                })
                .collect();
            format!("{} {{ {} }}", ty.path.segments.join("::"), variants.join(", "))
        }
        TypeDef::BitSequence(_) => unreachable!("none in these types"),
    }
}

fn entry_shape(types: &PortableRegistry, entry: &v14::StorageEntryMetadata<PortableForm>) -> String {
    let ty = match &entry.ty {
        v14::StorageEntryType::Plain(ty) => shape(types, ty.id),
        v14::StorageEntryType::Map { hashers, key, value } => {
            format!("{hashers:?} {} -> {}", shape(types, key.id), shape(types, value.id))
        }
    };
    format!("{:?} {ty} {:?}", entry.modifier, entry.default)
}

#[tokio::test(start_paused = true)]
async fn metadata_made_from_our_types_equals_mainnets() {
    let Some(file) = support::shared("chain/finney_metadata_v15.scale") else { return };
    let file = std::fs::read(file).unwrap();
    let RuntimeMetadata::V15(real) = RuntimeMetadataPrefixed::decode_all(&mut file.as_slice()).unwrap().1
    else {
        panic!("not V15")
    };
    let (v14, v15) = metadata(&chain());

    let (mut entries, mut methods) = (0, 0);
    for (pallet, old) in v15.pallets.iter().zip(&v14.pallets) {
        assert_eq!(
            (&pallet.name, &pallet.storage, &pallet.constants),
            (&old.name, &old.storage, &old.constants)
        );
        let theirs = real.pallets.iter().find(|theirs| theirs.name == pallet.name).unwrap();
        assert_eq!(pallet.index, theirs.index);
        let (storage, theirs_storage) = (pallet.storage.as_ref().unwrap(), theirs.storage.as_ref().unwrap());
        assert_eq!(storage.prefix, theirs_storage.prefix);
        for entry in &storage.entries {
            let theirs = theirs_storage.entries.iter().find(|theirs| theirs.name == entry.name).unwrap();
            assert_eq!(entry_shape(&v15.types, entry), entry_shape(&real.types, theirs), "{}", entry.name);
            entries += 1;
        }
        for constant in &pallet.constants {
            let theirs = theirs.constants.iter().find(|theirs| theirs.name == constant.name).unwrap();
            assert_eq!(
                shape(&v15.types, constant.ty.id),
                shape(&real.types, theirs.ty.id),
                "{}",
                constant.name
            );
        }
    }
    for api in &v15.apis {
        let theirs = real.apis.iter().find(|theirs| theirs.name == api.name).unwrap();
        for method in &api.methods {
            let theirs = theirs.methods.iter().find(|theirs| theirs.name == method.name).unwrap();
            assert_eq!(
                shape(&v15.types, method.output.id),
                shape(&real.types, theirs.output.id),
                "{}",
                method.name
            );
            let inputs = |types: &PortableRegistry, method: &v15::RuntimeApiMethodMetadata<PortableForm>| {
                let inputs = method.inputs.iter();
                inputs.map(|input| (input.name.clone(), shape(types, input.ty.id))).collect::<Vec<_>>()
            };
            assert_eq!(inputs(&v15.types, method), inputs(&real.types, theirs), "{}", method.name);
            methods += 1;
        }
    }
    assert_eq!((entries, methods), (11, 10));

    // What the Python SDK takes for granted.
    assert_eq!(v14.types, v15.types);
    assert_eq!(v15.types.resolve(0).unwrap().path.to_string(), "sp_core::crypto::AccountId32");
    let uids = v15.pallets[2].storage.as_ref().unwrap().entries.iter().find(|e| e.name == "Uids").unwrap();
    assert_eq!(uids.modifier, StorageEntryModifier::Optional);
}

#[tokio::test(start_paused = true)]
async fn the_version_is_the_same_wherever_it_is_asked_for() {
    let chain = chain();
    let scale = runtime_call(&chain, "Core_version", &[]);
    let (_, v15) = metadata(&chain);
    let constant = v15.pallets[0].constants.iter().find(|constant| constant.name == "Version").unwrap();
    assert_eq!(constant.value, scale);
    let json = chain.call("state_getRuntimeVersion", &json!([chain.head().hash.to_string()])).unwrap();
    assert_eq!((&json["specName"], &json["specVersion"]), (&json!("node-subtensor"), &json!(343)));
    // Ids of the runtime APIs are hashes of their names; the recording has the same pairs.
    let Some(recorded) = shared_json("chain/recorded/block_and_version.json") else { return };
    let apis = recorded["runtime_version_at_parent"]["apis"].as_array().unwrap();
    for known in json["apis"].as_array().unwrap().iter().take(3) {
        assert!(apis.contains(known), "{known}");
    }
    assert_eq!(runtime_call(&chain, "Metadata_metadata_versions", &[]), vec![14u32, 15].encode());
    assert_eq!(runtime_call(&chain, "Metadata_metadata_at_version", &16u32.encode()), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_selective_metagraph_has_what_was_asked_for() {
    let chain = chain();
    let wanted: Vec<u16> = vec![0, 5, 7, 30, 36, 52, 55, 57, 66, 69, 72, 500];
    let input = (17u16, &wanted).encode();
    let scale = runtime_call(&chain, "SubnetInfoRuntimeApi_get_selective_metagraph", &input);
    let asked = Option::<SelectiveMetagraph>::decode_all(&mut scale.as_slice()).unwrap().unwrap();
    let all = runtime_call(&chain, "SubnetInfoRuntimeApi_get_metagraph", &17u16.encode());
    let all = Option::<Metagraph>::decode_all(&mut all.as_slice()).unwrap().unwrap();

    assert_eq!(asked.block, Some(Compact(chain.head().number)));
    assert_eq!(asked.num_uids, Some(Compact(2)));
    assert_eq!(asked.immunity_period, Some(Compact(5_000)));
    assert_eq!(asked.owner_hotkey, Some(all.owner_hotkey.clone()));
    assert_eq!(asked.hotkeys, Some(all.hotkeys.clone()));
    assert_eq!(asked.axons, Some(all.axons.clone()));
    assert_eq!(asked.validator_permit, Some(vec![true, false]));
    assert_eq!(asked.block_at_registration, Some(vec![Compact(900_000); 2]));
    assert_eq!(asked.total_stake, Some(vec![Compact(2_000_000_000_000), Compact(0)]));
    assert_eq!(asked.validators, Some(vec![Compact(0)]));
    assert_eq!((asked.name, asked.tempo, asked.coldkeys, asked.commitments), (None, None, None, None));

    // The other form, its mechanism included; and everything at once.
    let mechagraph = |mechanism: u8, wanted: &Vec<u16>| {
        runtime_call(
            &chain,
            "SubnetInfoRuntimeApi_get_selective_mechagraph",
            &(17u16, mechanism, wanted).encode(),
        )
    };
    assert_eq!(mechagraph(0, &wanted), scale);
    assert_eq!(mechagraph(1, &wanted), [0]);
    let whole = mechagraph(0, &(0..74).collect());
    let whole = Option::<SelectiveMetagraph>::decode_all(&mut whole.as_slice()).unwrap().unwrap();
    assert_eq!(whole.alpha_dividends_per_hotkey, Some(vec![]));
    assert_eq!(whole.commitments, Some(vec![]));
    assert_eq!(whole.name, Some(all.name));
}

#[tokio::test(start_paused = true)]
async fn another_subnet_has_nobody_on_it() {
    let chain = chain();
    assert_eq!(runtime_call(&chain, "NeuronInfoRuntimeApi_get_neurons_lite", &18u16.encode()), [0]);
    assert_eq!(runtime_call(&chain, "SubnetInfoRuntimeApi_get_subnet_state", &18u16.encode()), [0]);
    assert_eq!(runtime_call(&chain, "SubnetInfoRuntimeApi_get_metagraph", &18u16.encode()), [0]);
}

#[tokio::test(start_paused = true)]
async fn parameters_come_in_both_clients_forms() {
    let chain = chain();
    let head = chain.head().hash.to_string();
    let call = "NeuronInfoRuntimeApi_get_neurons_lite";
    let plain = chain.call("state_call", &json!([call, "0x1100"])).unwrap();
    for params in [json!([call, "1100", head]), json!([call, "0x1100", null]), json!([call, "1100"])] {
        assert_eq!(chain.call("state_call", &params).unwrap(), plain, "{params}");
    }
    assert_eq!(chain.call("chain_getBlockHash", &Value::Null).unwrap(), json!(head));
    assert_eq!(chain.call("chain_getBlockHash", &json!([null])).unwrap(), json!(head));
    assert_eq!(chain.call("chain_getHead", &json!([])).unwrap(), json!(head));
    let number = format!("{FIRST_BLOCK:#x}");
    assert_eq!(chain.call("chain_getBlockHash", &json!([number])).unwrap(), json!(head));
    assert_eq!(chain.call("chain_getBlockHash", &json!([9_999_999])).unwrap(), Value::Null);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_answered_is_an_error_with_the_right_code() {
    let chain = chain();
    let code = |method: &str, params: Value| chain.call(method, &params).unwrap_err().code;
    for method in ["chainHead_v1_follow", "author_submitExtrinsic", "system_health", "", "state_getKeysPaged"]
    {
        assert_eq!(code(method, json!([])), -32_601, "{method}");
    }
    let calls: [(&str, Value); 8] = [
        ("state_call", json!([])),
        ("state_call", json!(["Core_version", 5])),
        ("state_call", json!(["Core_version", "0x0"])),
        ("state_call", json!(["Core_version", "0x", "0x1234"])),
        ("state_getStorage", json!({"key": "0x"})),
        ("chain_getBlockHash", json!([-1])),
        ("chain_getBlockHash", json!(["many"])),
        ("chain_getHeader", json!([17])),
    ];
    for (method, params) in calls {
        assert_eq!(code(method, params), -32_602, "{method}");
    }
    let refused = |params: Value| chain.call("state_call", &params).unwrap_err();
    assert_eq!(refused(json!(["SubnetInfoRuntimeApi_get_metagraph", "0x11"])).code, 4003);
    assert_eq!(refused(json!(["SubnetInfoRuntimeApi_get_metagraph", "0x110000"])).code, 4003);
    let gone = refused(json!(["SubnetInfoRuntimeApi_get_all_metagraphs", "0x"]));
    assert!(gone.message.contains("Exported method SubnetInfoRuntimeApi_get_all_metagraphs is not found"));
    let names = chain.call("rpc_methods", &json!([])).unwrap();
    let names: Vec<&str> = names["methods"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
    assert_eq!(names.len(), 14);
    assert!(!names.iter().any(|name| name.starts_with("chainHead_") || name.starts_with("archive_")));
}

#[tokio::test(start_paused = true)]
async fn a_change_is_in_the_next_block_and_in_no_earlier_one() {
    let chain = chain();
    let before = chain.head();
    let miner = hotkey("miner");
    let uid_at = |hash: BlockHash| {
        let key = format!("{SUBTENSOR}{UIDS}1100{}", account(&miner));
        chain.call("state_getStorage", &json!([key, hash.to_string()])).unwrap()
    };
    assert_eq!(chain.deregister(&miner), Some(Uid(1)));
    assert_eq!(chain.deregister(&miner), None);
    assert_eq!(uid_at(chain.head().hash), json!("0x0100"));
    tokio::time::advance(BLOCK_TIME).await;
    let gone = chain.head();
    assert_eq!(uid_at(gone.hash), Value::Null);
    assert_eq!(chain.subnet().neurons.len(), 2, "a newcomer has the uid");

    assert_eq!(chain.register(Neuron::miner(miner, coldkey("miner"), gone.number + 1)), Uid(2));
    let back = chain.produce_block();
    assert_eq!(uid_at(back.hash), json!("0x0200"));
    assert_eq!((uid_at(gone.hash), uid_at(before.hash)), (Value::Null, json!("0x0100")));
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_adds_a_field_and_turns_the_order_round() {
    let chain = chain();
    let (_, old) = metadata(&chain);
    let before = runtime_call(&chain, "SubnetInfoRuntimeApi_get_subnet_state", &17u16.encode());
    chain.upgrade(Layout::Upgraded);
    assert_eq!(chain.head().spec_version, 343);
    chain.produce_block();
    assert_eq!((chain.head().spec_version, chain.finalized().spec_version), (344, 343));
    let (v14, new) = metadata(&chain);
    assert_eq!(v14.types, new.types);

    for name in ["Metagraph", "SelectiveMetagraph", "SubnetState", "NeuronInfoLite"] {
        let fields = |types: &PortableRegistry| -> Vec<String> {
            let found =
                types.types.iter().find(|entry| entry.ty.path.ident().as_deref() == Some(name)).unwrap();
            let TypeDef::Composite(composite) = &found.ty.type_def else { panic!() };
            composite.fields.iter().map(|field| field.name.clone().unwrap()).collect()
        };
        let mut expected = fields(&old.types);
        expected.reverse();
        expected.insert(0, "devnet_era".into());
        assert_eq!(fields(&new.types), expected);
    }
    // Some, the new field, one list in the history of emission, and the netuid at the very end.
    let after = runtime_call(&chain, "SubnetInfoRuntimeApi_get_subnet_state", &17u16.encode());
    assert_eq!(after[..6], [1, 1, 0, 0, 0, 4]);
    assert_eq!(after.last(), Some(&(17 << 2)));
    // Rank, trust and pruning score lost two one-byte values each.
    assert_eq!(after.len(), before.len() + 4 - 6);
}

#[tokio::test(start_paused = true)]
async fn calls_can_be_missing_from_the_runtime() {
    let absent = ["get_selective_metagraph".to_owned()].into();
    let chain =
        DevChain::new(DevChainSettings { absent_calls: absent, ..DevChainSettings::new(subnet()) }, clock());
    let error = chain
        .call("state_call", &json!(["SubnetInfoRuntimeApi_get_selective_metagraph", "0x110000"]))
        .unwrap_err();
    assert!(error.message.contains("is not found"), "{error}");
    let (_, v15) = metadata(&chain);
    let api = v15.apis.iter().find(|api| api.name == "SubnetInfoRuntimeApi").unwrap();
    assert!(api.methods.iter().all(|method| method.name != "get_selective_metagraph"));
    assert_eq!(api.methods.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn metagraphs_of_no_and_of_4096_neurons() {
    for count in [0u64, 1, 4096] {
        let mut subnet = subnet();
        subnet.neurons = (0..count)
            .map(|uid| Neuron { total_stake: Rao(u64::MAX), ..miner(&format!("{}", uid / 2)) })
            .collect();
        let chain = DevChain::new(DevChainSettings::new(subnet), clock());
        let input = (17u16, vec![52u16, 69]).encode();
        let scale = runtime_call(&chain, "SubnetInfoRuntimeApi_get_selective_metagraph", &input);
        let seen = Option::<SelectiveMetagraph>::decode_all(&mut scale.as_slice()).unwrap().unwrap();
        assert_eq!(seen.hotkeys.map(|hotkeys| hotkeys.len() as u64), Some(count));
        assert_eq!(seen.total_stake, Some(vec![Compact(u64::MAX); count as usize]));
    }
}
