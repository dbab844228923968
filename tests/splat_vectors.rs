//! The golden vectors of `vectors/spz`, every one of them.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use sn17_miner::splat::{
    EncodeError, MAX_PAYLOAD_BYTES, Payload, PlyDialect, PlyError, PlyReader, Splat, Spz, SpzEncoder,
    SpzError, write_ply,
};

const DIALECTS: [PlyDialect; 2] = [PlyDialect::Lenient, PlyDialect::Reference];

struct Vectors {
    root: PathBuf,
    expected: Value,
}

impl Vectors {
    fn open() -> Option<Self> {
        let root = support::shared("vectors/spz")?;
        let expected = serde_json::from_slice(&read(&root.join("expected.json"))).unwrap();
        Some(Self { root, expected })
    }

    /// Entries of a group; there are `count` of them.
    fn group(&self, name: &str, count: usize) -> &Map<String, Value> {
        let group = self.expected[name].as_object().unwrap();
        assert_eq!(group.len(), count, "{name}");
        group
    }

    fn file(&self, path: &str) -> Vec<u8> {
        read(&self.root.join(path))
    }
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn encode(dialect: PlyDialect, bytes: &[u8]) -> Spz {
    let view = PlyReader::new(dialect).read(bytes).unwrap();
    SpzEncoder::default().encode(&view).unwrap()
}

/// Compares as the README says: 1e-3 for rot_0, 1e-6 for everything else; infinities and NaN are equal to
/// themselves.
fn assert_close(name: &str, found: &Splat, reference: &Splat) {
    assert_eq!((found.len(), found.degree()), (reference.len(), reference.degree()), "{name}");
    let close = |what: &str, index: usize, a: f32, b: f32, tolerance: f32| {
        let same = a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= tolerance;
        assert!(same, "{name}: {what} of Gaussian {index}: {a} instead of {b}");
    };
    for (index, (a, b)) in found.gaussians().iter().zip(reference.gaussians()).enumerate() {
        for axis in 0..3 {
            close("position", index, a.position[axis], b.position[axis], 1e-6);
            close("scale", index, a.log_scale[axis], b.log_scale[axis], 1e-6);
            close("f_dc", index, a.f_dc[axis], b.f_dc[axis], 1e-6);
            close("rotation", index, a.rotation[axis + 1], b.rotation[axis + 1], 1e-6);
        }
        close("rot_0", index, a.rotation[0], b.rotation[0], 1e-3);
        close("opacity", index, a.logit_opacity, b.logit_opacity, 1e-6);
    }
    for (index, (&a, &b)) in found.sh().iter().zip(reference.sh()).enumerate() {
        close("f_rest", index / reference.degree().values(), a, b, 1e-6);
    }
}

fn header_of(ply: &[u8]) -> &[u8] {
    let end = ply.windows(11).position(|window| window == b"end_header\n").unwrap();
    &ply[..end + 11]
}

#[test]
fn valid_files_encode_to_the_reference_payload_and_decode_to_its_values() {
    let Some(vectors) = Vectors::open() else { return };
    for (name, case) in vectors.group("valid", 27) {
        let ply = vectors.file(&format!("valid/{name}.ply"));
        assert_eq!(sha256(&ply), case["ply_sha256"], "{name}");
        let reference = vectors.file(&format!("valid/{name}.payload"));
        for dialect in DIALECTS {
            let spz = encode(dialect, &ply);
            assert_eq!(u64::from(spz.points()), case["num_points"], "{name}");
            assert_eq!(u64::from(spz.degree().number()), case["sh_degree"], "{name}");
            let payload = spz.payload().unwrap();
            assert!(payload.as_bytes() == reference, "{name}: payload differs");
            assert_eq!(sha256(payload.as_bytes()), case["payload_sha256"], "{name}");
            assert_eq!(payload.as_bytes().len() as u64, case["payload_bytes"], "{name}");
        }
        let in_memory = PlyReader::default().read(&ply).unwrap().to_splat();
        assert_eq!(
            SpzEncoder::default().encode(&in_memory).unwrap(),
            encode(PlyDialect::Lenient, &ply),
            "{name}"
        );

        let spz = vectors.file(&format!("valid/{name}.spz"));
        let payload = Payload::decompress(&spz, MAX_PAYLOAD_BYTES).unwrap();
        assert!(payload.as_bytes() == reference, "{name}: payload of the reference's own frame differs");
        let decoded = payload.to_splat();
        let expected = vectors.file(&format!("valid/{name}.decompressed.ply"));
        let view = PlyReader::new(PlyDialect::Reference).read(&expected).unwrap();
        assert_close(name, &decoded, &view.to_splat());
        let mut written = Vec::new();
        write_ply(&decoded, false, &mut written).unwrap();
        assert_eq!(header_of(&written), header_of(&expected), "{name}");
        assert_eq!(written.len(), expected.len(), "{name}");
    }
}

#[test]
fn the_reference_frame_is_matched_at_its_level() {
    let Some(vectors) = Vectors::open() else { return };
    for (name, case) in vectors.group("valid", 27) {
        let spz = vectors.file(&format!("valid/{name}.spz"));
        assert_eq!(spz.len() as u64, case["spz_bytes_reference"], "{name}");
        let parsed = Spz::parse(spz.clone(), MAX_PAYLOAD_BYTES).unwrap();
        let adopted = Spz::adopt(spz.clone(), MAX_PAYLOAD_BYTES, &SpzEncoder::default()).unwrap();
        assert_eq!(adopted.as_bytes(), spz, "{name}");
        assert_eq!(adopted, parsed, "{name}");
    }
}

#[test]
fn odd_files_are_refused_rather_than_turned_into_nothing() {
    let Some(vectors) = Vectors::open() else { return };
    for (name, case) in vectors.group("odd", 6) {
        assert_eq!(case["compress"], "ok", "{name}");
        let ply = vectors.file(&format!("odd/{name}.ply"));
        let count: usize = name.strip_prefix("f_rest_").unwrap().parse().unwrap();
        for dialect in DIALECTS {
            let error = PlyReader::new(dialect).read(&ply).unwrap_err();
            assert_eq!(error, PlyError::RestCount { count }, "{name}");
        }
    }
}

/// Files the reference refuses although they are PLY of Gaussians; a generator may send such. All hold the
/// same bytes; those of `big_endian` are other numbers by their label.
const LENIENT: [&str; 12] = [
    "big_endian",
    "blank_line",
    "comment_after_format",
    "comment_in_properties",
    "crlf_first_line_only",
    "crlf_header",
    "element_face_after",
    "element_face_before",
    "float32_alias",
    "obj_info",
    "trailing_space_in_name",
    "two_spaces_property",
];

#[test]
fn invalid_files_are_refused() {
    let Some(vectors) = Vectors::open() else { return };
    let mut taken = Vec::new();
    for (name, case) in vectors.group("invalid", 40) {
        let ply = vectors.file(&format!("invalid/{name}.ply"));
        assert_eq!(sha256(&ply), case["ply_sha256"], "{name}");
        assert!(PlyReader::new(PlyDialect::Reference).read(&ply).is_err(), "{name} was read");
        if PlyReader::default().read(&ply).is_ok() {
            taken.push(name.as_str());
        }
    }
    taken.sort_unstable();
    assert_eq!(taken, LENIENT);
    let plain = encode(PlyDialect::Lenient, &vectors.file("invalid/element_face_after.ply"));
    for name in LENIENT.into_iter().filter(|&name| name != "big_endian") {
        let ply = vectors.file(&format!("invalid/{name}.ply"));
        assert_eq!(encode(PlyDialect::Lenient, &ply), plain, "{name}");
    }
}

#[test]
fn invalid_files_are_refused_for_their_own_reason() {
    let Some(vectors) = Vectors::open() else { return };
    let refuse = |name: &str| {
        PlyReader::new(PlyDialect::Reference).read(&vectors.file(&format!("invalid/{name}.ply"))).unwrap_err()
    };
    let missing = |name| PlyError::Missing { names: vec![name] };
    for (name, error) in [
        ("missing_x", missing("x")),
        ("missing_opacity", missing("opacity")),
        ("missing_scale_2", missing("scale_2")),
        ("missing_rot_0", missing("rot_0")),
        ("missing_f_dc_1", missing("f_dc_1")),
        ("trailing_space_in_name", missing("x")),
        ("truncated_one_byte", PlyError::TooLittleData { claimed: 8, complete: 7 }),
        ("truncated_half", PlyError::TooLittleData { claimed: 8, complete: 4 }),
        ("no_data", PlyError::TooLittleData { claimed: 8, complete: 0 }),
        ("count_9", PlyError::TooLittleData { claimed: 9, complete: 8 }),
        ("end_header_without_newline_eof", PlyError::HeaderUnended),
        ("empty", PlyError::NotPly),
        ("only_ply", PlyError::HeaderUnended),
        ("leading_space", PlyError::NotPly),
        ("utf8_bom", PlyError::NotPly),
        ("upper_case_magic", PlyError::NotPly),
        ("crlf_first_line_only", PlyError::NotPly),
        ("count_0", PlyError::PointCount { count: 0 }),
        ("count_minus1", PlyError::PointCount { count: -1 }),
        ("count_10485761", PlyError::PointCount { count: 10_485_761 }),
        ("count_99999999999", PlyError::PointCount { count: 99_999_999_999 }),
        ("count_abc", PlyError::VertexCount { text: "abc".into() }),
        ("count_missing", PlyError::VertexCount { text: String::new() }),
        ("f_rest_7", PlyError::RestCount { count: 7 }),
    ] {
        assert_eq!(refuse(name), error, "{name}");
    }
    for (name, line) in
        [("ascii_format", 2), ("blank_line", 4), ("comment_after_format", 3), ("list_property", 18)]
    {
        assert!(matches!(refuse(name), PlyError::HeaderLine { line: found, .. } if found == line), "{name}");
    }
}

/// Which error each refused frame ends in.
fn expected_frame_error(name: &str) -> SpzError {
    let needed = 200 * (19 + 9);
    match name {
        "content_size_unknown_compressible" => SpzError::UnknownSize,
        "two_frames_split_payload" | "two_frames_second_real" => SpzError::Overflows,
        "skippable_before" => SpzError::NotZstd,
        "trailing_garbage" | "trailing_one_zero" => SpzError::Zstd { reason: "Src size is incorrect" },
        "truncated" => SpzError::Cut,
        "empty" => SpzError::Empty,
        "gzip_upstream" => SpzError::Gzip,
        "raw_payload" => SpzError::Raw,
        "empty_frame" => SpzError::NoHeader { size: 0 },
        "payload_short" => SpzError::PlanesCut { needed, found: needed - 1 },
        "payload_header_only" => SpzError::PlanesCut { needed, found: 0 },
        "payload_15_bytes" => SpzError::NoHeader { size: 15 },
        "magic_wrong" => SpzError::Magic,
        "version_0" => SpzError::Version { version: 0 },
        "version_3" => SpzError::Version { version: 3 },
        "sh_degree_4" => SpzError::Degree { degree: 4 },
        "zero_points" | "zero_points_sh0" => SpzError::PointCount { points: 0 },
        "too_many_points" => SpzError::PointCount { points: 10_000_001 },
        other => panic!("no error is expected of {other}"),
    }
}

#[test]
fn frames_decode_or_fail_as_the_reference_does() {
    let Some(vectors) = Vectors::open() else { return };
    let reference = vectors.file("frames/reference.decompressed.ply");
    assert_eq!(sha256(&reference), vectors.expected["frames_reference_output_sha256"]);
    let reference = PlyReader::default().read(&reference).unwrap().to_splat();
    let mut decoded = 0;
    for (name, case) in vectors.group("frames", 35) {
        let bytes = vectors.file(&format!("frames/{name}.bin"));
        assert_eq!(bytes.len() as u64, case["bytes"], "{name}");
        let result = Payload::decompress(&bytes, MAX_PAYLOAD_BYTES);
        assert_eq!(Spz::parse(bytes, MAX_PAYLOAD_BYTES).is_ok(), result.is_ok(), "{name}");
        if case["result"] == "error" {
            assert_eq!(result.unwrap_err(), expected_frame_error(name), "{name}");
            continue;
        }
        assert_eq!(case["result"], "ok", "{name}");
        decoded += 1;
        let splat = result.unwrap_or_else(|error| panic!("{name}: {error}")).to_splat();
        let mut written = Vec::new();
        write_ply(&splat, false, &mut written).unwrap();
        assert_eq!(written.len() as u64, case["decompressed_ply_bytes"], "{name}");
        if case["same_as_reference"] == true {
            assert_close(name, &splat, &reference);
        }
    }
    assert_eq!(decoded, 14);
}

/// Three frames hold the reference's planes under other position formats. Floats other than positions may
/// differ between builds in the last bits, so those of the reference are put in before hashing.
#[test]
fn other_position_formats() {
    let Some(vectors) = Vectors::open() else { return };
    let reference = vectors.file("frames/reference.decompressed.ply");
    let rows = header_of(&reference).len();
    for name in ["fractional_bits_0", "fractional_bits_16", "version_1_half_floats"] {
        let bytes = vectors.file(&format!("frames/{name}.bin"));
        let splat = Payload::decompress(&bytes, MAX_PAYLOAD_BYTES).unwrap().to_splat();
        let mut patched = reference.clone();
        let stride = (patched.len() - rows) / splat.len();
        for (row, gaussian) in patched[rows..].chunks_exact_mut(stride).zip(splat.gaussians()) {
            for (bytes, value) in row.chunks_exact_mut(4).zip(gaussian.position) {
                bytes.copy_from_slice(&value.to_le_bytes());
            }
        }
        assert_eq!(sha256(&patched), vectors.expected["frames"][name]["decompressed_ply_sha256"], "{name}");
    }
    let antialiased = vectors.file("frames/flag_antialiased.bin");
    assert!(Payload::decompress(&antialiased, MAX_PAYLOAD_BYTES).unwrap().header().antialiased());
}

#[test]
fn a_generators_frames_are_adopted_or_refused_by_name() {
    let Some(vectors) = Vectors::open() else { return };
    let adopt = |name: &str| {
        let bytes = vectors.file(&format!("frames/{name}.bin"));
        (bytes.clone(), Spz::adopt(bytes, MAX_PAYLOAD_BYTES, &SpzEncoder::default()))
    };
    for name in
        ["content_size_known", "level19", "with_checksum", "payload_trailing_bytes", "version_1_half_floats"]
    {
        let (bytes, adopted) = adopt(name);
        assert_eq!(adopted.unwrap().as_bytes(), bytes, "{name}");
    }
    for name in [
        "content_size_unknown",
        "content_size_unknown_compressible",
        "two_frames_split_payload",
        "two_frames_second_empty",
        "skippable_after",
    ] {
        let (bytes, adopted) = adopt(name);
        let adopted = adopted.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_ne!(adopted.as_bytes(), bytes, "{name}");
        assert!(Spz::parse(adopted.into_bytes(), MAX_PAYLOAD_BYTES).is_ok(), "{name}");
    }
    assert_eq!(adopt("gzip_upstream").1.unwrap_err(), SpzError::Gzip);
    assert!(adopt("trailing_one_zero").1.is_err());
}

#[test]
fn a_real_result_has_the_payload_of_all_reference_builds_and_breaks_no_rule() {
    let Some(vectors) = Vectors::open() else { return };
    let real = vectors.group("real", 1);
    let case = &real["../splats/hamburger.ply"];
    let ply = vectors.file("../splats/hamburger.ply");
    assert_eq!(sha256(&ply), case["ply_sha256"]);
    let spz = encode(PlyDialect::Reference, &ply);
    let payload = spz.payload().unwrap();
    assert_eq!(payload.as_bytes().len() as u64, case["payload_bytes"]);
    assert_eq!(sha256(payload.as_bytes()), case["payload_sha256"]);
    assert_eq!(u64::from(spz.points()), case["num_points"]);
    assert!(spz.check().is_ok());
}

#[test]
fn an_empty_cloud_has_no_payload() {
    let refused = SpzEncoder::default().encode(&Splat::default());
    assert!(matches!(refused, Err(EncodeError::PointCount { points: 0 })));
}
