//! Every lenient form of a file encodes to the payload of its little-endian float twin.

use super::{MAX_HEADER_BYTES, PlyDialect, PlyError, PlyReader, write_ply};
use crate::splat::{Gaussian, ShDegree, Splat, SpzEncoder};

const NAMES: [&str; 14] = [
    "x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2", "rot_0",
    "rot_1", "rot_2", "rot_3",
];

/// Whole numbers between 1 and 12, so that every scalar type holds them.
fn values(row: usize) -> [f64; 14] {
    std::array::from_fn(|index| ((row * 5 + index * 3) % 12 + 1) as f64)
}

fn twin(points: usize) -> Splat {
    let mut splat = Splat::new(ShDegree::Zero);
    for row in 0..points {
        let v = values(row).map(|value| value as f32);
        splat.push(Gaussian {
            position: [v[0], v[1], v[2]],
            f_dc: [v[3], v[4], v[5]],
            logit_opacity: v[6],
            log_scale: [v[7], v[8], v[9]],
            rotation: [v[10], v[11], v[12], v[13]],
        });
    }
    splat
}

fn properties(scalar: &str) -> String {
    NAMES.iter().map(|name| format!("property {scalar} {name}\n")).collect()
}

fn read(bytes: &[u8]) -> Result<Splat, PlyError> {
    PlyReader::default().read(bytes).map(|view| view.to_splat())
}

#[track_caller]
fn assert_is_twin(bytes: &[u8], points: usize) {
    let view = PlyReader::default().read(bytes).unwrap();
    let encoder = SpzEncoder::default();
    assert_eq!(encoder.encode(&view).unwrap(), encoder.encode(&twin(points)).unwrap());
    assert_eq!(view.to_splat(), twin(points));
    assert!(PlyReader::new(PlyDialect::Reference).read(bytes).is_err());
}

fn file(header: &str, body: &[u8]) -> Vec<u8> {
    [header.as_bytes(), body].concat()
}

fn binary(format: &str, scalar: &str, number: impl Fn(f64) -> Vec<u8>) -> Vec<u8> {
    let header = format!("ply\nformat {format} 1.0\nelement vertex 5\n{}end_header\n", properties(scalar));
    file(&header, &(0..5).flat_map(values).flat_map(number).collect::<Vec<u8>>())
}

#[test]
fn every_scalar_type_in_both_byte_orders() {
    macro_rules! check {
        ($($type:ty: $($name:literal)+);+) => {$($(
            if $name != "float" {
                let little = binary("binary_little_endian", $name, |v| (v as $type).to_le_bytes().to_vec());
                assert_is_twin(&little, 5);
            }
            assert_is_twin(&binary("binary_big_endian", $name, |v| (v as $type).to_be_bytes().to_vec()), 5);
            assert_is_twin(&binary("ascii", $name, |v| format!("{v} ").into_bytes()), 5);
        )+)+};
    }
    check!(
        i8: "char" "int8"; u8: "uchar" "uint8"; i16: "short" "int16"; u16: "ushort" "uint16";
        i32: "int" "int32"; u32: "uint" "uint32"; f32: "float" "float32"; f64: "double" "float64"
    );
}

#[test]
fn little_endian_floats_are_read_in_place_by_both() {
    let mut bytes = Vec::new();
    write_ply(&twin(5), true, &mut bytes).unwrap();
    for dialect in [PlyDialect::Lenient, PlyDialect::Reference] {
        let view = PlyReader::new(dialect).read(&bytes).unwrap();
        assert!(view.is_borrowed());
        assert_eq!(view.to_splat(), twin(5));
        assert_eq!(view.gaussian(4), twin(5).gaussians().last().copied());
        assert_eq!(view.gaussian(5), None);
    }
}

#[test]
fn carriage_returns_comments_blanks_and_a_lenient_count() {
    let mut header = String::from("ply\r\ncomment made by\tsomebody\r\nformat  ascii   1.0\r\n\r\n");
    header += "obj_info anything at all\r\nelement vertex   +2abc\r\n";
    for name in NAMES {
        header += &format!("  property\tfloat  {name} \r\ncomment end_header\r\n");
    }
    header += "end_header\r\n";
    let row = |row| values(row).map(|value| format!("{value:e}")).join("\t");
    assert_is_twin(&file(&header, format!("{}\r\n\r\n {} \r\n9 9", row(0), row(1)).as_bytes()), 2);
}

/// Elements on both sides and a list between the properties.
fn crowded(format: &str) -> String {
    let (first, rest) = NAMES.split_at(5);
    let lines = |names: &[&str]| names.iter().map(|n| format!("property float {n}\n")).collect::<String>();
    format!(
        "ply\nformat {format} 1.0\nelement nothing 1000000000000\nelement camera 1\nproperty short focus\n\
         element face 2\nproperty list uchar short vertex_indices\nproperty uchar red\nelement vertex 2\n\
         property uchar kind\n{}property list ushort double weights\n{}element edge 7\nproperty int a\n\
         end_header\n",
        lines(first),
        lines(rest)
    )
}

fn crowded_body(short: fn(u16) -> [u8; 2], float: fn(f32) -> [u8; 4]) -> Vec<u8> {
    let mut body = short(300).to_vec();
    for indices in [&[1, 2, 3][..], &[]] {
        body.push(indices.len() as u8);
        body.extend(indices.iter().flat_map(|&index| short(index)));
        body.push(255);
    }
    for row in 0..2 {
        let v = values(row).map(|value| float(value as f32));
        body.push(7);
        body.extend(v[..5].iter().flatten());
        body.extend(short(row as u16));
        body.extend(std::iter::repeat_n(0xee, row * 8));
        body.extend(v[5..].iter().flatten());
    }
    body
}

#[test]
fn further_elements_and_lists() {
    let little = file(&crowded("binary_little_endian"), &crowded_body(u16::to_le_bytes, f32::to_le_bytes));
    assert_is_twin(&little, 2);
    assert_is_twin(
        &file(&crowded("binary_big_endian"), &crowded_body(u16::to_be_bytes, f32::to_be_bytes)),
        2,
    );
    let row = |row: usize| {
        let v = values(row).map(|value| value.to_string());
        format!("7 {} {row} {} {}", v[..5].join(" "), "1.5 ".repeat(row), v[5..].join(" "))
    };
    let text = format!("300\n3 1 2 3 255\n0 255\n{}\n{}\n", row(0), row(1));
    assert_is_twin(&file(&crowded("ascii"), text.as_bytes()), 2);

    for cut in crowded("binary_little_endian").len()..little.len() {
        let error = read(&little[..cut]).unwrap_err();
        assert!(
            matches!(error, PlyError::TooLittleData { claimed: 2, .. } | PlyError::ElementCut { .. }),
            "{error}"
        );
    }
}

#[test]
fn harmonics_lie_by_channel_in_a_file_and_by_coefficient_in_memory() {
    for degree in [ShDegree::One, ShDegree::Two, ShDegree::Three] {
        let mut splat = Splat::new(degree);
        for (row, gaussian) in twin(4).gaussians().iter().enumerate() {
            let sh: Vec<f32> = (0..degree.values()).map(|at| (at + row) as f32 / 64.0 - 0.5).collect();
            splat.push_with_sh(*gaussian, &sh);
        }
        let mut bytes = Vec::new();
        write_ply(&splat, false, &mut bytes).unwrap();
        assert_eq!(read(&bytes), Ok(splat));
    }
}

#[track_caller]
fn refused(header: &str, expected: &PlyError) {
    for dialect in [PlyDialect::Lenient, PlyDialect::Reference] {
        let bytes = file(header, &[0; 4000]);
        assert_eq!(PlyReader::new(dialect).read(&bytes).unwrap_err(), *expected, "{dialect:?}");
    }
}

fn float_header(count: &str, properties: &str) -> String {
    format!("ply\nformat binary_little_endian 1.0\nelement vertex {count}\n{properties}end_header\n")
}

#[test]
fn both_dialects_refuse_alike() {
    let all = properties("float");
    let without = |names: &[&str]| {
        let mut all = all.clone();
        for name in names {
            all = all.replace(&format!("property float {name}\n"), "");
        }
        all
    };
    refused(
        &float_header("8", &without(&["opacity", "y"])),
        &PlyError::Missing { names: vec!["y", "opacity"] },
    );
    refused(
        &float_header("8", &format!("{all}property float x\n")),
        &PlyError::Duplicate { name: "x".into() },
    );
    refused(
        &float_header("8", &format!("{all}property float u\nproperty float u\n")),
        &PlyError::Duplicate { name: "u".into() },
    );
    for count in [0, -1, 10_000_001, 10_485_760] {
        refused(&float_header(&count.to_string(), &all), &PlyError::PointCount { count });
    }
    refused(&float_header("99999999999999999999", &all), &PlyError::PointCount { count: i64::MAX });
    refused(&float_header("abc", &all), &PlyError::VertexCount { text: "abc".into() });
    refused(&float_header("10000000", &all), &PlyError::TooLittleData { claimed: 10_000_000, complete: 71 });
    for count in [1, 3, 7, 12, 44] {
        let rest: String = (0..count).map(|index| format!("property float f_rest_{index}\n")).collect();
        refused(&float_header("2", &format!("{all}{rest}")), &PlyError::RestCount { count });
    }
    let mesh = "ply\nformat binary_little_endian 1.0\nelement vertex 3\nproperty float x\nproperty float y\n\
                property float z\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n";
    let PlyError::Mesh { faces: 1, names } = read(mesh.as_bytes()).unwrap_err() else {
        panic!("not called a mesh");
    };
    assert_eq!(names.len(), 11);
    refused(mesh, &PlyError::Mesh { faces: 1, names });
    refused("ply\nformat binary_little_endian 1.0\nelement vertex 3\n", &PlyError::HeaderUnended);
    refused("plywood\n", &PlyError::NotPly);
    refused("", &PlyError::NotPly);
    let long = float_header("3", &"property float n\n".repeat(MAX_HEADER_BYTES / 17 + 1));
    refused(&long, &PlyError::HeaderTooLong);
}

#[test]
fn lenient_refusals_name_the_line() {
    let body = properties("float");
    for (header, line) in [
        (format!("ply\nformat binary_little_endian 1.1\nelement vertex 1\n{body}end_header\n"), 2),
        (format!("ply\nformat ascii 1.0\nformat ascii 1.0\nelement vertex 1\n{body}end_header\n"), 3),
        (format!("ply\nformat ascii 1.0\nproperty float x\nelement vertex 1\n{body}end_header\n"), 3),
        (format!("ply\nformat ascii 1.0\nelement vertex 1\n{body}property half h\nend_header\n"), 18),
        (
            format!("ply\nformat ascii 1.0\nelement vertex 1\n{body}property list float int h\nend_header\n"),
            18,
        ),
        (format!("ply\nformat ascii 1.0\nelement face many\nelement vertex 1\n{body}end_header\n"), 3),
        (format!("ply\nformat ascii 1.0\nvertices 3\nelement vertex 1\n{body}end_header\n"), 3),
    ] {
        let error = read(header.as_bytes()).unwrap_err();
        assert!(matches!(error, PlyError::HeaderLine { line: found, .. } if found == line), "{error}");
    }
    let header = format!("ply\nelement vertex 1\n{body}end_header\n");
    assert_eq!(read(header.as_bytes()), Err(PlyError::NoFormat));
    assert_eq!(read(b"ply\nformat ascii 1.0\nend_header\n"), Err(PlyError::NoVertices));
    let list = body.replace("float rot_2", "list uchar float rot_2");
    let header = format!("ply\nformat ascii 1.0\nelement vertex 1\n{list}end_header\n");
    assert_eq!(read(header.as_bytes()), Err(PlyError::List { name: "rot_2".into() }));
}

#[test]
fn text_that_is_no_number() {
    let header = format!("ply\nformat ascii 1.0\nelement vertex 2\n{}end_header\n", properties("float"));
    let good = ["1"; 14].join(" ");
    let bad = format!("{good}\n1 2 three 4");
    assert_eq!(read(&file(&header, bad.as_bytes())), Err(PlyError::Number { row: 1, text: "three".into() }));
    assert_eq!(
        read(&file(&header, good.as_bytes())),
        Err(PlyError::TooLittleData { claimed: 2, complete: 1 })
    );
    let odd = format!("{good}\n-inf NaN 1e99 {}", ["1"; 11].join(" "));
    let splat = read(&file(&header, odd.as_bytes())).unwrap();
    let [x, y, z] = splat.gaussians()[1].position;
    assert!(x == f32::NEG_INFINITY && y.is_nan() && z == f32::INFINITY);
}

#[test]
fn claimed_lists_and_elements_allocate_nothing() {
    let header = format!(
        "ply\nformat binary_little_endian 1.0\nelement face 18446744073709551615\nproperty double a\n\
         element vertex 3\n{}end_header\n",
        properties("float")
    );
    assert_eq!(read(&file(&header, &[0; 999])), Err(PlyError::ElementCut { name: "face".into() }));
    let header = format!(
        "ply\nformat binary_little_endian 1.0\nelement face 9\nproperty list int double a\n\
         element vertex 3\n{}end_header\n",
        properties("float")
    );
    for length in [i32::MAX, -1] {
        let mut bytes = file(&header, &length.to_le_bytes());
        bytes.resize(bytes.len() + 4000, 0);
        assert_eq!(read(&bytes), Err(PlyError::ElementCut { name: "face".into() }));
    }
}
