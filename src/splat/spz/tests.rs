use super::{MAX_PAYLOAD_BYTES, Payload, Spz, SpzEncoder, SpzError, frame};
use crate::splat::{Defect, Gaussian, ShDegree, Splat};

const LIMIT: usize = MAX_PAYLOAD_BYTES;

fn gaussian(seed: usize) -> Gaussian {
    let value = |salt: usize| ((seed * 37 + salt * 11) % 97) as f32 / 97.0 - 0.5;
    Gaussian {
        position: [value(1), value(2), value(3)],
        log_scale: [value(4) - 4.0, value(5) - 4.0, value(6) - 4.0],
        rotation: [value(7) + 0.6, value(8), value(9), value(10)],
        logit_opacity: value(11) * 8.0,
        f_dc: [value(12), value(13), value(14)],
    }
}

fn cloud(points: usize, degree: ShDegree) -> Splat {
    let mut splat = Splat::new(degree);
    for seed in 0..points {
        let sh: Vec<f32> = (0..degree.values()).map(|at| ((seed + at) % 31) as f32 / 31.0 - 0.5).collect();
        splat.push_with_sh(gaussian(seed), &sh);
    }
    splat
}

#[test]
fn a_decoded_cloud_encodes_to_the_same_positions_and_looks() {
    for degree in [ShDegree::Zero, ShDegree::One, ShDegree::Two, ShDegree::Three] {
        let splat = cloud(300, degree);
        let spz = SpzEncoder::default().encode(&splat).unwrap();
        assert_eq!((spz.points(), spz.degree()), (300, degree));
        let decoded = spz.to_splat().unwrap();
        assert_eq!((decoded.len(), decoded.degree()), (300, degree));
        for (was, is) in splat.gaussians().iter().zip(decoded.gaussians()) {
            for axis in 0..3 {
                assert!((was.position[axis] - is.position[axis]).abs() <= 0.5 / 4096.0);
                assert!((was.log_scale[axis] - is.log_scale[axis]).abs() <= 0.5 / 16.0);
                assert!((was.f_dc[axis] - is.f_dc[axis]).abs() <= 0.5 / 255.0 / 0.15 + 1e-6);
            }
        }
        for (at, (was, is)) in splat.sh().iter().zip(decoded.sh()).enumerate() {
            let half_bucket = if at % degree.values() < 9 { 4.0 } else { 8.0 };
            assert!((was - is).abs() <= (half_bucket + 0.5) / 128.0);
        }
        let again = SpzEncoder::default().encode(&decoded).unwrap().payload().unwrap();
        assert_eq!(again.header(), spz.header());
        let positions = 16..16 + 300 * 16;
        assert_eq!(again.as_bytes()[positions.clone()], spz.payload().unwrap().as_bytes()[positions]);
    }
}

#[test]
fn the_level_changes_the_frame_only() {
    let splat = cloud(5000, ShDegree::One);
    let spz = |level| SpzEncoder::new(level).encode(&splat).unwrap();
    let payload = spz(1).payload().unwrap();
    assert_eq!(spz(-7), spz(1));
    assert_eq!(spz(0), spz(1));
    assert_eq!(spz(99), spz(22));
    assert_ne!(spz(22), spz(1));
    assert_eq!(spz(22).payload().unwrap(), payload);
}

#[test]
fn an_empty_cloud_is_not_encoded() {
    let error = SpzEncoder::default().encode(&Splat::default()).unwrap_err();
    assert_eq!(error.to_string(), "0 Gaussians: a cloud has 1 to 10000000 of them");
}

#[test]
fn values_without_meaning_are_counted_per_gaussian() {
    let spoil: [fn(&mut Gaussian); 7] = [
        |g| g.position[1] = f32::NAN,
        |g| g.position = [f32::INFINITY; 3],
        |g| g.log_scale[2] = f32::NEG_INFINITY,
        |g| g.rotation[3] = f32::NAN,
        |g| g.logit_opacity = f32::NAN,
        |g| g.f_dc[0] = f32::INFINITY,
        |g| g.logit_opacity = f32::INFINITY,
    ];
    let mut splat = Splat::new(ShDegree::Zero);
    for seed in 0..7000 {
        let mut gaussian = gaussian(seed);
        if let Some(spoil) = spoil.get(seed.wrapping_sub(3000)) {
            spoil(&mut gaussian);
        }
        splat.push(gaussian);
    }
    let spz = SpzEncoder::default().encode(&splat).unwrap();
    assert_eq!(spz.data().non_finite(), 6);
    assert_eq!(spz.clone().check(), Err(Defect::NonFinite { count: 6 }));
    // Nothing of it is left in the bytes.
    assert!(Spz::parse(spz.into_bytes(), LIMIT).unwrap().check().is_ok());
}

#[test]
fn data_rules_look_at_what_the_bytes_decode_to() {
    let spz = |change: fn(usize, &mut Gaussian)| {
        let mut splat = Splat::new(ShDegree::Zero);
        for seed in 0..10_000 {
            let mut gaussian = gaussian(seed);
            change(seed, &mut gaussian);
            splat.push(gaussian);
        }
        SpzEncoder::default().encode(&splat).unwrap()
    };
    assert!(spz(|_, _| {}).check().is_ok());
    assert!(spz(|_, g| g.rotation = [1.0, 0.0, 0.0, 0.0]).check().is_ok());
    let near_one = |seed, g: &mut Gaussian| {
        if seed == 2 {
            g.position = [1.0001, 0.9999, 1.0];
        }
    };
    assert_eq!(spz(near_one).check(), Err(Defect::CentreAtOne { index: 2 }));
    // Opacities up to half a step, 0.002, become 0.
    let faint = spz(|seed, g| {
        if seed < 8001 {
            g.logit_opacity = -6.3
        }
    });
    assert_eq!(faint.check(), Err(Defect::Transparent { transparent: 8001, points: 10_000 }));
    let visible = spz(|_, g| g.logit_opacity = -6.2);
    assert_eq!(visible.data().visible_share(), 1.0);
}

#[test]
fn half_floats_may_be_infinite() {
    let mut bytes = vec![0; 16 + 16];
    bytes[..16].copy_from_slice(b"NGSP\x01\0\0\0\x01\0\0\0\0\x0c\0\0");
    bytes[16..18].copy_from_slice(&0x7c00_u16.to_le_bytes());
    let payload = Payload::parse(bytes).unwrap();
    assert_eq!(payload.header().version(), 1);
    assert_eq!(payload.check(0).non_finite(), 1);
    assert_eq!(payload.bounds(), None);
}

#[test]
fn adopting_keeps_one_frame_with_content_size() {
    let encoder = SpzEncoder::default();
    let spz = SpzEncoder::new(19).encode(&cloud(500, ShDegree::Two)).unwrap();
    let payload = spz.payload().unwrap();
    let adopt = |bytes: &[u8]| Spz::adopt(bytes.to_vec(), LIMIT, &encoder);
    assert_eq!(adopt(spz.as_bytes()), Ok(spz.clone()));

    let halves = payload.as_bytes().split_at(2000);
    let split = [frame::compress(halves.0, 1).unwrap(), frame::compress(halves.1, 1).unwrap()].concat();
    assert_eq!(Spz::parse(split.clone(), LIMIT), Err(SpzError::Overflows));
    let mut unsized_frame = zstd::bulk::Compressor::new(3).unwrap();
    unsized_frame.set_parameter(zstd::zstd_safe::CParameter::ContentSizeFlag(false)).unwrap();
    let unsized_frame = unsized_frame.compress(payload.as_bytes()).unwrap();
    let skippable = [spz.as_bytes(), b"\x50\x2a\x4d\x18\x02\0\0\0ok"].concat();
    for odd in [split, unsized_frame, skippable] {
        let adopted = adopt(&odd).unwrap();
        assert_ne!(adopted.as_bytes(), odd);
        assert_eq!(adopted.payload().unwrap(), payload);
        assert_eq!(adopt(adopted.as_bytes()), Ok(adopted));
        assert!(matches!(Spz::adopt(odd, 100, &encoder), Err(SpzError::TooLarge { limit: 100, .. })));
    }
    assert!(adopt(&[spz.as_bytes(), b"garbage"].concat()).is_err());
}

#[test]
fn foreign_bytes_are_named() {
    let encoder = SpzEncoder::default();
    for (bytes, error) in [
        (&b""[..], SpzError::Empty),
        (b"\x1f\x8b\x08\0", SpzError::Gzip),
        (b"NGSP\x02\0\0\0", SpzError::Raw),
        (b"ply\nformat", SpzError::NotZstd),
        (b"\x28\xb5\x2f\xfd", SpzError::Cut),
    ] {
        assert_eq!(Spz::parse(bytes.to_vec(), LIMIT), Err(error.clone()));
        assert_eq!(Spz::adopt(bytes.to_vec(), LIMIT, &encoder), Err(error));
    }
}
