//! A cloud as the reference decoder writes it.

use std::io::{self, Write};

use crate::splat::cloud::Splat;

/// Writes `splat` as binary little-endian floats in the order of the reference decoder: position,
/// normals of zero if asked for, `f_dc`, `f_rest`, opacity, scale, rotation.
///
/// Makes many small writes: hand it a buffer.
pub fn write_ply(splat: &Splat, normals: bool, mut out: impl Write) -> io::Result<()> {
    write!(out, "ply\nformat binary_little_endian 1.0\nelement vertex {}\n", splat.len())?;
    let rest = splat.degree().values();
    let names = ["x", "y", "z"].map(str::to_owned).into_iter();
    let names = names
        .chain(normals.then_some(["nx", "ny", "nz"]).into_iter().flatten().map(str::to_owned))
        .chain((0..3).map(|channel| format!("f_dc_{channel}")))
        .chain((0..rest).map(|index| format!("f_rest_{index}")))
        .chain(std::iter::once("opacity".to_owned()))
        .chain((0..3).map(|axis| format!("scale_{axis}")))
        .chain((0..4).map(|part| format!("rot_{part}")));
    for name in names {
        writeln!(out, "property float {name}")?;
    }
    out.write_all(b"end_header\n")?;

    let coefficients = splat.degree().coefficients();
    let mut row = Vec::new();
    for (index, gaussian) in splat.gaussians().iter().enumerate() {
        let sh = &splat.sh()[index * rest..][..rest];
        row.clear();
        row.extend_from_slice(&gaussian.position);
        if normals {
            row.extend_from_slice(&[0.0; 3]);
        }
        row.extend_from_slice(&gaussian.f_dc);
        row.extend((0..rest).map(|at| sh[at % coefficients * 3 + at / coefficients]));
        row.push(gaussian.logit_opacity);
        row.extend_from_slice(&gaussian.log_scale);
        row.extend_from_slice(&gaussian.rotation);
        for value in &row {
            out.write_all(&value.to_le_bytes())?;
        }
    }
    Ok(())
}
