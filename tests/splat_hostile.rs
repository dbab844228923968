//! Arbitrary and damaged bytes end in a typed error, never in a panic; what is accepted round-trips.

use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use sn17_miner::splat::{
    Gaussian, Payload, PlyDialect, PlyReader, ShDegree, Splat, Spz, SpzEncoder, sniff, write_ply,
};

/// Payload an attacker gets out of us at most.
const LIMIT: usize = 1 << 20;

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 1000,
        rng_seed: RngSeed::Fixed(17),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn feed(bytes: &[u8]) {
    sniff(bytes);
    for dialect in [PlyDialect::Lenient, PlyDialect::Reference] {
        if let Ok(view) = PlyReader::new(dialect).read(bytes) {
            let spz = SpzEncoder::default().encode(&view).unwrap();
            assert_eq!(spz.points() as usize, view.len());
            assert_eq!(spz, SpzEncoder::default().encode(&view.to_splat()).unwrap());
        }
    }
    if let Ok(payload) = Payload::decompress(bytes, LIMIT) {
        assert!(payload.as_bytes().len() <= LIMIT);
        assert_eq!(payload.to_splat().len(), payload.header().points() as usize);
        payload.bounds();
    }
    if let Ok(spz) = Spz::adopt(bytes.to_vec(), LIMIT, &SpzEncoder::default()) {
        assert_eq!(Spz::parse(spz.as_bytes().to_vec(), LIMIT).as_ref(), Ok(&spz));
    }
}

fn any_float() -> impl Strategy<Value = f32> {
    prop_oneof![4 => -4.0_f32..4.0, 1 => any::<u32>().prop_map(f32::from_bits)]
}

prop_compose! {
    fn any_splat()(number in 0..4_u8, points in 1..40_usize)(
        number in Just(number),
        rows in vec(vec(any_float(), 14 + ShDegree::from_number(number).unwrap().values()), points),
    ) -> Splat {
        let mut splat = Splat::new(ShDegree::from_number(number).unwrap());
        for row in rows {
            splat.push_with_sh(
                Gaussian {
                    position: [row[0], row[1], row[2]],
                    log_scale: [row[3], row[4], row[5]],
                    rotation: [row[6], row[7], row[8], row[9]],
                    logit_opacity: row[10],
                    f_dc: [row[11], row[12], row[13]],
                },
                &row[14..],
            );
        }
        splat
    }
}

/// Small files of every kind that the readers take.
static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut splat = Splat::new(ShDegree::One);
    for index in 0..6 {
        let value = index as f32 / 6.0;
        let gaussian = Gaussian {
            position: [value, -value, 0.5],
            log_scale: [-3.0; 3],
            rotation: [1.0, value, 0.0, 0.0],
            logit_opacity: value,
            f_dc: [value; 3],
        };
        splat.push_with_sh(gaussian, &[value; 9]);
    }
    let mut plain = Vec::new();
    write_ply(&splat, true, &mut plain).unwrap();
    let names = "x y z f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3";
    let properties: String = names.split(' ').map(|name| format!("property float {name}\n")).collect();
    let header = |format: &str| {
        format!(
            "ply\nformat {format} 1.0\ncomment c\nelement face 1\nproperty list uchar int i\nelement vertex 2\n\
             {properties}property list uchar short l\nend_header\n"
        )
    };
    let text = format!("{}3 1 2 3\n{}\n", header("ascii"), "1 2 3 4 5 6 7 8 9 1 2 3 4 5 2 7 7\n".repeat(2));
    let mut binary = header("binary_big_endian").into_bytes();
    binary.extend([1, 0, 0, 0, 9]);
    for _ in 0..2 {
        binary.extend(1.5_f32.to_be_bytes().repeat(14));
        binary.extend([1, 0, 9]);
    }
    let spz = SpzEncoder::default().encode(&splat).unwrap();
    let payload = spz.payload().unwrap().as_bytes().to_vec();
    vec![plain, text.into_bytes(), binary, spz.into_bytes(), zstd::bulk::compress(&payload, 19).unwrap()]
});

#[test]
fn the_seeds_are_taken() {
    for (index, seed) in SEEDS.iter().enumerate() {
        let taken = PlyReader::default().read(seed).is_ok() || Payload::decompress(seed, LIMIT).is_ok();
        assert!(taken, "seed {index}");
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn arbitrary_bytes(bytes in vec(any::<u8>(), 0..600)) {
        feed(&bytes);
    }

    #[test]
    fn arbitrary_bytes_behind_a_magic(start in 0..4_usize, bytes in vec(any::<u8>(), 0..600)) {
        let starts: [&[u8]; 4] = [
            b"ply\nformat binary_little_endian 1.0\nelement vertex 3\n",
            b"ply\nformat ascii 1.0\n",
            b"\x28\xb5\x2f\xfd",
            b"\x28\xb5\x2f\xfd\x20\x40",
        ];
        feed(&[starts[start], &bytes].concat());
    }

    #[test]
    fn damaged_files(
        seed in any::<prop::sample::Index>(),
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        doubled in prop::option::of((any::<prop::sample::Index>(), 1..40_usize)),
    ) {
        let mut bytes = seed.get(&SEEDS).clone();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some((at, length)) = doubled {
            let at = at.index(bytes.len());
            let piece = bytes[at..bytes.len().min(at + length)].to_vec();
            bytes.splice(at..at, piece);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        feed(&bytes);
    }

    #[test]
    fn damaged_payloads_in_sound_frames(
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut payload = zstd::bulk::decompress(&SEEDS[4], LIMIT).unwrap();
        for (at, value) in flips {
            // The header is where damage tells.
            let at = at.index(40);
            payload[at] = value;
        }
        if let Some(cut) = cut {
            payload.truncate(cut.index(payload.len()));
        }
        feed(&zstd::bulk::compress(&payload, 1).unwrap());
    }

    #[test]
    fn ply_holds_every_bit(splat in any_splat(), normals: bool) {
        let mut bytes = Vec::new();
        write_ply(&splat, normals, &mut bytes).unwrap();
        for dialect in [PlyDialect::Lenient, PlyDialect::Reference] {
            let read = PlyReader::new(dialect).read(&bytes).unwrap().to_splat();
            let mut again = Vec::new();
            write_ply(&read, normals, &mut again).unwrap();
            prop_assert_eq!(&again, &bytes);
        }
    }

    #[test]
    fn all_but_rotations_survive_a_second_round(splat in any_splat()) {
        let encoder = SpzEncoder::default();
        let first = encoder.encode(&splat).unwrap();
        let decoded = first.to_splat().unwrap();
        prop_assert_eq!(decoded.len(), splat.len());
        let (first, second) = (first.payload().unwrap(), encoder.encode(&decoded).unwrap().payload().unwrap());
        let upto = 16 + splat.len() * 16;
        prop_assert_eq!(&first.as_bytes()[..upto], &second.as_bytes()[..upto]);
        let sh = 16 + splat.len() * 19;
        // 255 is no bucket centre: it becomes one.
        for (a, b) in first.as_bytes()[sh..].iter().zip(&second.as_bytes()[sh..]) {
            prop_assert!(a == b || *a == 255, "{} {}", a, b);
        }
    }
}
