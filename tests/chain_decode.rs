//! Decoding what the main network answered, against another decoder's reading of the same bytes.
//!
//! The recordings are of subnet 1 at block 6852690 under runtime 343; the metadata of that runtime and
//! of a later one must both read them.

mod support;

use std::fs;
use std::net::SocketAddr;

use serde_json::Value;
use sn17_miner::chain::{
    Answers, AxonInfo, ChainError, Metagraph, Place, Reading, decode_answer, read_metagraph,
};
use sn17_miner::primitives::{Coldkey, Hotkey, Netuid, Rao, Uid, UnixTime};
use subxt::Metadata;
use subxt::ext::scale_decode::DecodeAsType;
use subxt::ext::scale_value::{self, Composite, ValueDef, Variant};

const METADATA: [&str; 2] = ["finney_metadata_v15.scale", "finney_metadata_newer.scale"];
const BLOCK: u64 = 6_852_690;

fn here() -> Place {
    // The block of the answer wins over the one given here, where the answer names one.
    Place { netuid: Netuid(1), block: BLOCK, at: UnixTime::from_secs(1_762_787_544) }
}

fn metadata(file: &str) -> Option<Metadata> {
    let path = support::shared(&format!("chain/{file}"))?;
    Some(Metadata::decode_from(&fs::read(path).unwrap()).unwrap())
}

fn json(path: &str) -> Option<Value> {
    let path = support::shared(&format!("chain/{path}"))?;
    Some(serde_json::from_slice(&fs::read(path).unwrap()).unwrap())
}

fn recorded(method: &str) -> Option<Vec<u8>> {
    Some(from_hex(json(&format!("recorded/{method}.json"))?["result"].as_str().unwrap()))
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.strip_prefix("0x").unwrap();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// The expected table by column name, and how many values of it were compared.
struct Expected {
    file: Value,
    columns: Vec<String>,
    compared: usize,
}

impl Expected {
    fn read(name: &str) -> Option<Self> {
        let file = json(&format!("expected/netuid1_{name}.json"))?;
        let columns = file["columns"].as_array().unwrap();
        let columns = columns.iter().map(|column| column.as_str().unwrap().to_owned()).collect();
        Some(Self { file, columns, compared: 0 })
    }

    fn rows(&self) -> usize {
        self.file["rows"].as_array().unwrap().len()
    }

    fn check(&mut self, row: usize, column: &str, found: impl Into<Value>) {
        let at = self.columns.iter().position(|name| name == column).unwrap();
        assert_eq!(self.file["rows"][row][at], found.into(), "uid {row}, {column}");
        self.compared += 1;
    }

    fn check_header(&mut self, name: &str, found: impl Into<Value>) {
        assert_eq!(self.file[name], found.into(), "{name}");
        self.compared += 1;
    }
}

#[derive(Debug, DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct WireAxon {
    block: u64,
    version: u32,
    ip: u128,
    port: u16,
    ip_type: u8,
    protocol: u8,
}

impl WireAxon {
    fn text(&self) -> String {
        let axon = AxonInfo {
            block: self.block,
            version: self.version,
            ip: self.ip,
            port: self.port,
            ip_type: self.ip_type,
            protocol: self.protocol,
        };
        format!("{}:{}", axon.ip(), axon.port)
    }
}

fn ss58(account: &[u8; 32]) -> String {
    Hotkey::from_bytes(*account).to_ss58()
}

#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct WideMetagraph {
    netuid: u16,
    name: Option<Vec<u8>>,
    symbol: Option<Vec<u8>>,
    owner_hotkey: Option<[u8; 32]>,
    owner_coldkey: Option<[u8; 32]>,
    block: Option<u64>,
    tempo: Option<u16>,
    last_step: Option<u64>,
    moving_price: Option<Bits>,
    num_uids: Option<u16>,
    max_uids: Option<u16>,
    hotkeys: Option<Vec<[u8; 32]>>,
    coldkeys: Option<Vec<[u8; 32]>>,
    axons: Option<Vec<WireAxon>>,
    active: Option<Vec<bool>>,
    validator_permit: Option<Vec<bool>>,
    last_update: Option<Vec<u64>>,
    emission: Option<Vec<u64>>,
    dividends: Option<Vec<u16>>,
    incentives: Option<Vec<u16>>,
    block_at_registration: Option<Vec<u64>>,
    alpha_stake: Option<Vec<u64>>,
    tao_stake: Option<Vec<u64>>,
    total_stake: Option<Vec<u64>>,
    validators: Option<Vec<u16>>,
}

#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct Bits {
    bits: i128,
}

#[test]
fn the_selective_answer_decodes_in_every_field() {
    for file in METADATA {
        let (Some(metadata), Some(bytes), Some(mut expected)) =
            (metadata(file), recorded("get_selective_mechagraph"), Expected::read("selective_mechagraph"))
        else {
            return;
        };
        let call = Reading::Mechagraph.calls()[0];
        let answer = decode_answer::<Option<WideMetagraph>>(&metadata, call, &bytes).unwrap().unwrap();
        expected.check_header("netuid", answer.netuid);
        expected.check_header("block", answer.block.unwrap());
        expected.check_header("num_uids", answer.num_uids.unwrap());
        expected.check_header("max_uids", answer.max_uids.unwrap());
        expected.check_header("tempo", answer.tempo.unwrap());
        expected.check_header("last_step", answer.last_step.unwrap());
        expected.check_header("name", String::from_utf8(answer.name.unwrap()).unwrap());
        expected.check_header("symbol", String::from_utf8(answer.symbol.unwrap()).unwrap());
        expected.check_header("owner_hotkey", ss58(&answer.owner_hotkey.unwrap()));
        expected.check_header("owner_coldkey", ss58(&answer.owner_coldkey.unwrap()));
        expected.check_header("validators", answer.validators.unwrap());
        expected.check_header(
            "moving_price_bits_I96F32",
            i64::try_from(answer.moving_price.unwrap().bits).unwrap(),
        );
        assert_eq!(expected.compared, 12);
        expected.compared = 0;

        let axons = answer.axons.unwrap();
        for (uid, axon) in axons.iter().enumerate() {
            expected.check(uid, "hotkey", ss58(&answer.hotkeys.as_ref().unwrap()[uid]));
            expected.check(uid, "coldkey", ss58(&answer.coldkeys.as_ref().unwrap()[uid]));
            expected.check(uid, "axon", axon.text());
            expected.check(uid, "ip_type", axon.ip_type);
            expected.check(uid, "protocol", axon.protocol);
            expected.check(uid, "axon_block", axon.block);
            expected.check(uid, "axon_version", axon.version);
            expected.check(uid, "active", answer.active.as_ref().unwrap()[uid]);
            expected.check(uid, "validator_permit", answer.validator_permit.as_ref().unwrap()[uid]);
            expected.check(uid, "last_update", answer.last_update.as_ref().unwrap()[uid]);
            expected.check(uid, "incentive", answer.incentives.as_ref().unwrap()[uid]);
            expected.check(uid, "dividends", answer.dividends.as_ref().unwrap()[uid]);
            expected.check(uid, "emission", answer.emission.as_ref().unwrap()[uid]);
            expected.check(uid, "block_at_registration", answer.block_at_registration.as_ref().unwrap()[uid]);
            expected.check(uid, "alpha_stake", answer.alpha_stake.as_ref().unwrap()[uid]);
            expected.check(uid, "tao_stake", answer.tao_stake.as_ref().unwrap()[uid]);
            expected.check(uid, "total_stake", answer.total_stake.as_ref().unwrap()[uid]);
        }
        assert_eq!((expected.rows(), expected.compared), (1_024, 17_408), "{file}");
    }
}

#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct WideLite {
    hotkey: [u8; 32],
    uid: u16,
    netuid: u16,
    active: bool,
    axon_info: WireAxon,
    stake: Vec<([u8; 32], u64)>,
    emission: u64,
    incentive: u16,
    last_update: u64,
    validator_permit: bool,
}

#[test]
fn the_lite_answer_decodes_in_every_field() {
    for file in METADATA {
        let (Some(metadata), Some(bytes), Some(mut expected)) =
            (metadata(file), recorded("get_neurons_lite"), Expected::read("neurons_lite"))
        else {
            return;
        };
        let answer: Vec<WideLite> =
            decode_answer(&metadata, Reading::LiteAndState.calls()[0], &bytes).unwrap();
        for (uid, neuron) in answer.iter().enumerate() {
            assert_eq!(neuron.netuid, 1);
            expected.check(uid, "uid", neuron.uid);
            expected.check(uid, "hotkey", ss58(&neuron.hotkey));
            expected.check(uid, "axon", neuron.axon_info.text());
            expected.check(uid, "ip_type", neuron.axon_info.ip_type);
            expected.check(uid, "protocol", neuron.axon_info.protocol);
            expected.check(uid, "axon_block", neuron.axon_info.block);
            expected.check(uid, "axon_version", neuron.axon_info.version);
            expected.check(uid, "active", neuron.active);
            expected.check(uid, "validator_permit", neuron.validator_permit);
            expected.check(uid, "last_update", neuron.last_update);
            expected.check(uid, "incentive", neuron.incentive);
            expected.check(uid, "emission", neuron.emission);
            expected.check(uid, "stake", neuron.stake.iter().map(|(_, rao)| rao).sum::<u64>());
        }
        assert_eq!((answer.len(), expected.rows(), expected.compared), (1_024, 1_024, 13 * 1_024), "{file}");
    }
}

#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct WideState {
    netuid: u16,
    hotkeys: Vec<[u8; 32]>,
    dividends: Vec<u16>,
    alpha_stake: Vec<u64>,
    tao_stake: Vec<u64>,
    total_stake: Vec<u64>,
    emission_history: Vec<Vec<u64>>,
}

#[test]
fn the_state_answer_decodes_in_every_field() {
    for file in METADATA {
        let (Some(metadata), Some(bytes), Some(mut expected)) =
            (metadata(file), recorded("get_subnet_state"), Expected::read("subnet_state"))
        else {
            return;
        };
        let call = Reading::LiteAndState.calls()[1];
        let answer = decode_answer::<Option<WideState>>(&metadata, call, &bytes).unwrap().unwrap();
        expected.check_header("netuid", answer.netuid);
        expected.check_header("num_uids", answer.hotkeys.len());
        expected.check_header("emission_history_outer", answer.emission_history.len());
        for history in &answer.emission_history {
            expected.check_header("emission_history_inner", history.len());
        }
        expected.compared = 0;
        for uid in 0..expected.rows() {
            expected.check(uid, "hotkey", ss58(&answer.hotkeys[uid]));
            expected.check(uid, "alpha_stake", answer.alpha_stake[uid]);
            expected.check(uid, "tao_stake", answer.tao_stake[uid]);
            expected.check(uid, "total_stake", answer.total_stake[uid]);
            expected.check(uid, "dividends", answer.dividends[uid]);
        }
        assert_eq!((answer.hotkeys.len(), expected.compared), (1_024, 5_120), "{file}");
    }
}

/// Every field a [`Metagraph`] keeps, against the table of the selective answer.
fn assert_is_the_recording(metagraph: &Metagraph, with_header: bool) {
    let mut expected = Expected::read("selective_mechagraph").unwrap();
    assert_eq!((metagraph.netuid(), metagraph.block(), metagraph.len()), (Netuid(1), BLOCK, 1_024));
    if with_header {
        expected.check_header("owner_hotkey", metagraph.owner_hotkey().unwrap().to_ss58());
        assert!(metagraph.immunity_period().is_some());
        expected.compared = 0;
    }
    for (row, neuron) in metagraph.neurons().iter().enumerate() {
        expected.check(row, "uid", neuron.uid.0);
        expected.check(row, "hotkey", neuron.hotkey.to_ss58());
        expected.check(row, "coldkey", neuron.coldkey.map(|key: Coldkey| key.to_ss58()));
        expected.check(
            row,
            "axon",
            neuron.axon.map_or("0.0.0.0:0".into(), |a| format!("{}:{}", a.ip(), a.port)),
        );
        expected.check(row, "ip_type", neuron.axon.map_or(0, |axon| axon.ip_type));
        expected.check(row, "protocol", neuron.axon.map_or(0, |axon| axon.protocol));
        expected.check(row, "axon_block", neuron.axon.map_or(0, |axon| axon.block));
        expected.check(row, "axon_version", neuron.axon.map_or(0, |axon| axon.version));
        expected.check(row, "active", neuron.active);
        expected.check(row, "validator_permit", neuron.validator_permit);
        expected.check(row, "last_update", neuron.last_update);
        expected.check(row, "incentive", neuron.incentive);
        expected.check(row, "emission", neuron.emission.0);
        expected.check(row, "block_at_registration", neuron.block_at_registration);
        expected.check(row, "total_stake", neuron.stake.0);
    }
    assert_eq!(expected.compared, 15 * 1_024);
}

#[test]
fn every_way_of_reading_gives_the_same_metagraph() {
    for file in METADATA {
        let (Some(metadata), Some(mechagraph), Some(lite), Some(state)) = (
            metadata(file),
            recorded("get_selective_mechagraph"),
            recorded("get_neurons_lite"),
            recorded("get_subnet_state"),
        ) else {
            return;
        };
        assert!(Reading::ALL.into_iter().all(|reading| reading.is_offered(&metadata)));
        let whole = whole_from_selective(&metadata, &mechagraph);
        for (answers, with_header) in [
            (Answers::Selective(&mechagraph), true),
            (Answers::Mechagraph(&mechagraph), true),
            (Answers::Whole(&whole), true),
            (Answers::LiteAndState { lite: &lite, state: &state }, false),
        ] {
            let metagraph = read_metagraph(answers, &metadata, here()).unwrap();
            assert_is_the_recording(&metagraph, with_header);
        }
    }
}

/// `get_metagraph` was not recorded. Its answer is the selective one's fields without the outer
/// `Option` and without the two last fields, encoded by the metadata.
fn whole_from_selective(metadata: &Metadata, selective: &[u8]) -> Vec<u8> {
    let output = |(api, method): (&str, &str)| {
        metadata.runtime_api_trait_by_name(api).unwrap().method_by_name(method).unwrap().output_ty()
    };
    let mut rest = selective;
    let answer = scale_value::scale::decode_as_type(
        &mut rest,
        output(Reading::Mechagraph.calls()[0]),
        metadata.types(),
    )
    .unwrap()
    .remove_context();
    let unwrapped = |value: scale_value::Value| match value.value {
        ValueDef::Variant(Variant { name, values }) if name == "Some" => values.into_values().next().unwrap(),
        _ => panic!("every field of the recording is there"),
    };
    let ValueDef::Composite(Composite::Named(fields)) = unwrapped(answer).value else { panic!("a struct") };
    let fields =
        fields.into_iter().filter(|(name, _)| !matches!(name.as_str(), "validators" | "commitments"));
    let fields: Vec<_> = fields
        .map(|(name, value)| if name == "netuid" { (name, value) } else { (name, unwrapped(value)) })
        .collect();
    let whole = scale_value::Value::unnamed_variant("Some", [scale_value::Value::named_composite(fields)]);
    let mut bytes = Vec::new();
    scale_value::scale::encode_as_type(
        &whole,
        output(Reading::Whole.calls()[0]),
        metadata.types(),
        &mut bytes,
    )
    .unwrap();
    bytes
}

#[test]
fn what_the_recording_says_of_its_subnet() {
    let (Some(metadata), Some(bytes)) = (metadata(METADATA[0]), recorded("get_selective_mechagraph")) else {
        return;
    };
    let metagraph = read_metagraph(Answers::Mechagraph(&bytes), &metadata, here()).unwrap();
    // chain/README.md: 827 axons, 10 active, 12 permits of which 5 without an axon.
    let count = |wanted: fn(&sn17_miner::chain::Neuron) -> bool| {
        metagraph.neurons().iter().filter(|neuron| wanted(neuron)).count()
    };
    assert_eq!(count(|neuron| neuron.axon.is_some()), 827);
    assert_eq!(count(|neuron| neuron.active), 10);
    assert_eq!(count(|neuron| neuron.validator_permit), 12);
    assert_eq!(count(|neuron| neuron.validator_permit && neuron.axon.is_none()), 5);
    assert_eq!(metagraph.repeated_hotkeys(), 0);
    let rich = metagraph.by_uid(Uid(24)).unwrap();
    assert_eq!(rich.stake, Rao(58_036_807_815_746));
    assert_eq!(metagraph.by_hotkey(&rich.hotkey), Some(rich));
    let coverage = metagraph.stake_coverage(|neuron| neuron.axon.is_some());
    assert!(coverage > 0.0 && coverage < 1.0, "{coverage}");
    let thousand = Rao(1_000_000_000_000);
    for validator in metagraph.validators(thousand, &[]) {
        let address: SocketAddr = validator.axon.unwrap().address().unwrap();
        assert!(validator.stake >= thousand && address.port() != 0);
    }
    let all = metagraph.validators(thousand, &[]).count();
    let one = metagraph.validators(thousand, &[]).next().unwrap().hotkey;
    assert_eq!(metagraph.validators(thousand, &[one]).count(), all - 1);
}

#[test]
fn a_snapshot_survives_being_kept() {
    let (Some(metadata), Some(bytes)) = (metadata(METADATA[0]), recorded("get_selective_mechagraph")) else {
        return;
    };
    let metagraph = read_metagraph(Answers::Mechagraph(&bytes), &metadata, here()).unwrap();
    let kept = metagraph.to_bytes();
    assert!(kept.len() < 150 * 1_024, "{} bytes", kept.len());
    assert_eq!(Metagraph::from_bytes(&kept).unwrap(), metagraph);
    for cut in (0..kept.len()).step_by(997) {
        assert!(Metagraph::from_bytes(&kept[..cut]).is_err(), "{cut}");
    }
    let mut longer = kept.clone();
    longer.push(0);
    assert!(Metagraph::from_bytes(&longer).is_err());
    let mut newer = kept;
    newer[0] = 200;
    let error = Metagraph::from_bytes(&newer).unwrap_err();
    assert_eq!(error, sn17_miner::chain::SnapshotError::Version(200));
}

#[test]
fn bad_answers_are_errors_with_a_type() {
    let (Some(metadata), Some(good)) = (metadata(METADATA[0]), recorded("get_selective_mechagraph")) else {
        return;
    };
    let read = |bytes: &[u8], netuid| {
        read_metagraph(Answers::Selective(bytes), &metadata, Place { netuid: Netuid(netuid), ..here() })
    };
    for cut in (0..good.len()).step_by(4_999) {
        let error = read(&good[..cut], 1).unwrap_err();
        assert!(matches!(error, ChainError::Malformed { .. }), "{cut}: {error}");
    }
    let mut longer = good.clone();
    longer.extend([0; 3]);
    let error = read(&longer, 1).unwrap_err();
    assert!(matches!(&error, ChainError::Leftover { bytes: 3, .. }), "{error}");

    let error = read(&good, 17).unwrap_err();
    assert_eq!(error, ChainError::ForeignSubnet { asked: Netuid(17), found: Netuid(1) });
    assert!(error.is_retryable());

    // The state's answer where the metagraph's is expected: another type.
    let error = read(&recorded("get_subnet_state").unwrap(), 1).unwrap_err();
    assert!(matches!(error, ChainError::Malformed { .. } | ChainError::Leftover { .. }), "{error}");

    let error = read(&[0], 1).unwrap_err();
    assert_eq!(error, ChainError::NoSubnet { netuid: Netuid(1) });
    assert!(!error.is_retryable() && error.to_string().contains("network.netuid"));

    // Some, then a netuid, then "not asked for" throughout: the indexes mean something else.
    let mut empty = vec![0; 75];
    empty[0] = 1;
    empty[1] = 4;
    let error = read(&empty, 1).unwrap_err();
    assert!(error.to_string().contains("lacks the hotkeys"), "{error}");
}

/// A selective answer with these vectors and nothing else.
fn selective_answer(hotkeys: Vec<[u8; 32]>, axons: Vec<(u128, u16, u8)>, stakes: Vec<u64>) -> Vec<u8> {
    use subxt::ext::codec::{Compact, Encode};
    let mut bytes = vec![1];
    Compact(1_u16).encode_to(&mut bytes);
    for index in 1_u16..74 {
        match index {
            52 => Some(&hotkeys).encode_to(&mut bytes),
            55 => {
                bytes.push(1);
                Compact(axons.len() as u32).encode_to(&mut bytes);
                for (ip, port, ip_type) in &axons {
                    (7_u64, 1_u32, *ip, *port, *ip_type, 4_u8, 0_u8, 0_u8).encode_to(&mut bytes);
                }
            }
            69 => Some(stakes.iter().copied().map(Compact).collect::<Vec<_>>()).encode_to(&mut bytes),
            _ => bytes.push(0),
        }
    }
    bytes
}

#[test]
fn odd_subnets_are_read_as_they_are() {
    let Some(metadata) = metadata(METADATA[0]) else { return };
    let read = |bytes: &[u8]| read_metagraph(Answers::Selective(bytes), &metadata, here()).unwrap();

    for size in [0_u16, 1, 4_096] {
        let hotkeys = (0..size).map(|uid| [(uid % 251) as u8; 32]).collect();
        let metagraph = read(&selective_answer(hotkeys, vec![], vec![]));
        assert_eq!(metagraph.len(), usize::from(size));
        assert_eq!(metagraph.validators(Rao(0), &[]).count(), 0);
        // The block of the call, since the answer does not name one.
        assert_eq!(metagraph.block(), BLOCK);
        assert_eq!(metagraph.repeated_hotkeys(), usize::from(size.saturating_sub(251)));
    }

    // Vectors of other lengths than the hotkeys; ip 0, port 0, IPv6; the largest stake.
    let v6 = "2a01:4f8::1".parse::<std::net::Ipv6Addr>().unwrap().to_bits();
    let metagraph = read(&selective_answer(
        vec![[1; 32], [2; 32], [3; 32], [4; 32]],
        vec![(0, 80, 4), (0x0101_0101, 0, 4), (v6, 443, 6)],
        vec![u64::MAX, u64::MAX, u64::MAX, 5, 6, 7],
    ));
    let uids: Vec<_> = metagraph.validators(Rao(0), &[]).map(|neuron| neuron.uid).collect();
    assert_eq!(uids, [Uid(2)]);
    assert_eq!(metagraph.neurons()[2].axon.unwrap().address(), Some("[2a01:4f8::1]:443".parse().unwrap()));
    assert_eq!(metagraph.neurons()[3].axon, None);
    assert_eq!(metagraph.neurons()[3].coldkey, None);
    assert_eq!(metagraph.neurons()[0].stake, Rao(u64::MAX));
}

#[test]
fn a_stake_beyond_64_bits_is_an_error() {
    let Some(metadata) = metadata(METADATA[0]) else { return };
    let mut bytes = selective_answer(vec![[1; 32]], vec![], vec![u64::MAX]);
    // Compact of eight bytes becomes one of nine.
    let at = bytes.iter().rposition(|&byte| byte == 0x13).unwrap();
    bytes[at] = 0x17;
    bytes.insert(at + 9, 0xff);
    let error = read_metagraph(Answers::Selective(&bytes), &metadata, here()).unwrap_err();
    assert!(matches!(error, ChainError::Malformed { .. }), "{error}");
}

/// The metadata with a name replaced by another of the same length, wherever it stands.
fn renamed(file: &str, from: &str, to: &str) -> Option<Metadata> {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(support::shared(&format!("chain/{file}"))?).unwrap();
    let places: Vec<_> =
        (0..bytes.len() - from.len()).filter(|&at| bytes[at..].starts_with(from.as_bytes())).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    Some(Metadata::decode_from(&bytes).unwrap())
}

#[test]
fn a_runtime_that_lost_a_field_is_read_without_it() {
    let Some(bytes) = recorded("get_selective_mechagraph") else { return };
    let answers = Answers::Selective(&bytes);
    for file in METADATA {
        let sound = read_metagraph(answers, &metadata(file).unwrap(), here()).unwrap();
        let metadata = renamed(file, "incentives", "inzentives").unwrap();
        let without = read_metagraph(answers, &metadata, here()).unwrap();
        assert!(sound.neurons().iter().any(|neuron| neuron.incentive > 0));
        for (before, after) in sound.neurons().iter().zip(without.neurons()) {
            assert_eq!(*after, sn17_miner::chain::Neuron { incentive: 0, ..before.clone() });
        }
        for (field, other) in [("hotkeys", "hotkeyz"), ("axons", "axonz"), ("total_stake", "total_stakz")] {
            let error = read_metagraph(answers, &renamed(file, field, other).unwrap(), here()).unwrap_err();
            assert!(error.to_string().contains("lacks the"), "{field}: {error}");
            assert!(matches!(error, ChainError::Malformed { .. }));
        }
        let error = read_metagraph(answers, &renamed(file, "netuid", "netuit").unwrap(), here()).unwrap_err();
        assert!(matches!(error, ChainError::Malformed { .. }), "{error}");
    }
}
