//! Gaussians of a PLY file, read where they lie.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use super::PlyError;
use super::header::{Header, Kind, Scalar};
use crate::splat::cloud::{Gaussian, ShDegree, Splat};
use crate::splat::source::{Column, GaussianSource};

const POSITION: usize = 0;
const LOG_SCALE: usize = 3;
const ROTATION: usize = 6;
const OPACITY: usize = 10;
const F_DC: usize = 11;
const REST: usize = 14;

/// Properties every Gaussian has, at the indices above.
const NEEDED: [&str; REST] = [
    "x", "y", "z", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3", "opacity", "f_dc_0",
    "f_dc_1", "f_dc_2",
];

/// Most `f_rest` properties that count; further ones are unknown properties.
const MAX_REST: usize = ShDegree::Three.values();

/// The vertex properties that make up a Gaussian.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) degree: ShDegree,
    /// Index among the vertex properties: the needed ones, then `f_rest_0` and so on.
    pub(super) properties: Vec<usize>,
}

/// Finds the properties by name. A file without them is refused, as a mesh if it has faces.
pub(super) fn layout(header: &Header<'_>) -> Result<Layout, PlyError> {
    let vertex = &header.vertex;
    let by_name: HashMap<&[u8], usize> =
        vertex.properties.iter().enumerate().map(|(index, property)| (property.name, index)).collect();
    let missing: Vec<_> = NEEDED.into_iter().filter(|name| !by_name.contains_key(name.as_bytes())).collect();
    if !missing.is_empty() {
        return Err(match header.faces {
            0 => PlyError::Missing { names: missing },
            faces => PlyError::Mesh { faces, names: missing },
        });
    }
    let needed = NEEDED.iter().filter_map(|name| by_name.get(name.as_bytes()));
    let rest = (0..MAX_REST).map_while(|index| by_name.get(format!("f_rest_{index}").as_bytes()));
    let properties: Vec<usize> = needed.chain(rest).copied().collect();
    let count = properties.len() - REST;
    let degree = ShDegree::from_values(count).ok_or(PlyError::RestCount { count })?;
    match properties
        .iter()
        .map(|&index| &vertex.properties[index])
        .find(|p| matches!(p.kind, Kind::List { .. }))
    {
        Some(list) => Err(PlyError::List { name: super::quoted(list.name) }),
        None => Ok(Layout { degree, properties }),
    }
}

/// Where a number lies in a row, and as what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) offset: usize,
    pub(super) scalar: Scalar,
}

/// The Gaussians of a PLY file: borrowed from it, unless its rows were text or of varying length.
pub struct PlyView<'a> {
    degree: ShDegree,
    /// Exactly `points` rows of `stride` bytes.
    rows: Cow<'a, [u8]>,
    stride: usize,
    big_endian: bool,
    /// One per property of the layout, each within `stride`.
    fields: Vec<Field>,
}

/// Without the rows: there are millions of bytes.
impl fmt::Debug for PlyView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlyView")
            .field("points", &self.len())
            .field("degree", &self.degree)
            .field("stride", &self.stride)
            .finish_non_exhaustive()
    }
}

impl<'a> PlyView<'a> {
    /// `rows` holds whole rows of `stride` bytes, at least one; all `fields` lie within a row.
    pub(super) fn new(
        degree: ShDegree,
        rows: Cow<'a, [u8]>,
        stride: usize,
        big_endian: bool,
        fields: Vec<Field>,
    ) -> Self {
        debug_assert!(rows.len().is_multiple_of(stride) && fields.len() == REST + degree.values());
        debug_assert!(fields.iter().all(|field| field.offset + field.scalar.size() <= stride));
        Self { degree, rows, stride, big_endian, fields }
    }

    /// Number of Gaussians, 1 to [`crate::splat::MAX_POINTS`].
    pub fn len(&self) -> usize {
        self.rows.len() / self.stride
    }

    /// Never: a file without vertices is refused.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn degree(&self) -> ShDegree {
        self.degree
    }

    /// Whether the rows are read in place.
    pub fn is_borrowed(&self) -> bool {
        matches!(self.rows, Cow::Borrowed(_))
    }

    /// Gaussian number `index`, without its harmonics; none past the end.
    pub fn gaussian(&self, index: usize) -> Option<Gaussian> {
        let row = self.rows.chunks_exact(self.stride).nth(index)?;
        let value = |field: usize| self.value(row, field);
        let three = |field: usize| [value(field), value(field + 1), value(field + 2)];
        Some(Gaussian {
            position: three(POSITION),
            log_scale: three(LOG_SCALE),
            rotation: std::array::from_fn(|part| value(ROTATION + part)),
            logit_opacity: value(OPACITY),
            f_dc: three(F_DC),
        })
    }

    /// The whole cloud in memory.
    pub fn to_splat(&self) -> Splat {
        let coefficients = self.degree.coefficients();
        let mut splat = Splat::with_capacity(self.degree, self.len());
        let mut sh = vec![0.0; self.degree.values()];
        for (row, gaussian) in
            self.rows.chunks_exact(self.stride).zip((0..self.len()).filter_map(|index| self.gaussian(index)))
        {
            for (at, value) in sh.iter_mut().enumerate() {
                *value = self.value(row, REST + (at % 3) * coefficients + at / 3);
            }
            splat.push_with_sh(gaussian, &sh);
        }
        splat
    }

    fn value(&self, row: &[u8], field: usize) -> f32 {
        let mut value = [0.0];
        read_field(row, row.len(), self.fields[field], self.big_endian, &mut value);
        value[0]
    }
}

impl GaussianSource for PlyView<'_> {
    fn points(&self) -> usize {
        self.len()
    }

    fn degree(&self) -> ShDegree {
        self.degree
    }

    fn read(&self, column: Column, first: usize, out: &mut [f32]) {
        let field = self.fields[match column {
            Column::Position(axis) => POSITION + axis,
            Column::LogScale(axis) => LOG_SCALE + axis,
            Column::Rotation(part) => ROTATION + part,
            Column::LogitOpacity => OPACITY,
            Column::FDc(channel) => F_DC + channel,
            // A file holds all of red, then all of green, then all of blue.
            Column::Sh { coefficient, channel } => REST + channel * self.degree.coefficients() + coefficient,
        }];
        let rows = &self.rows[first * self.stride..(first + out.len()) * self.stride];
        read_field(rows, self.stride, field, self.big_endian, out);
    }
}

fn read_field(rows: &[u8], stride: usize, field: Field, big_endian: bool, out: &mut [f32]) {
    let rows = rows.chunks_exact(stride).map(|row| &row[field.offset..]);
    match field.scalar {
        Scalar::F32 => gather(rows, big_endian, out, f32::from_le_bytes),
        Scalar::F64 => gather(rows, big_endian, out, |bytes| f64::from_le_bytes(bytes) as f32),
        Scalar::I8 => gather(rows, big_endian, out, |bytes| f32::from(i8::from_le_bytes(bytes))),
        Scalar::U8 => gather(rows, big_endian, out, |bytes| f32::from(u8::from_le_bytes(bytes))),
        Scalar::I16 => gather(rows, big_endian, out, |bytes| f32::from(i16::from_le_bytes(bytes))),
        Scalar::U16 => gather(rows, big_endian, out, |bytes| f32::from(u16::from_le_bytes(bytes))),
        Scalar::I32 => gather(rows, big_endian, out, |bytes| i32::from_le_bytes(bytes) as f32),
        Scalar::U32 => gather(rows, big_endian, out, |bytes| u32::from_le_bytes(bytes) as f32),
    }
}

fn gather<'a, const SIZE: usize>(
    rows: impl Iterator<Item = &'a [u8]>,
    big_endian: bool,
    out: &mut [f32],
    convert: impl Fn([u8; SIZE]) -> f32,
) {
    for (value, row) in out.iter_mut().zip(rows) {
        let mut bytes = [0; SIZE];
        bytes.copy_from_slice(&row[..SIZE]);
        if big_endian {
            bytes.reverse();
        }
        *value = convert(bytes);
    }
}
