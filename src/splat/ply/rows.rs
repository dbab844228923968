//! Finds the vertices of a file behind its other elements, and packs those that have no fixed length.

use std::borrow::Cow;

use super::header::{Element, Encoding, Header, Kind, Scalar};
use super::view::{Field, Layout, PlyView};
use super::{PlyError, quoted};

pub(super) fn locate<'a>(
    bytes: &'a [u8],
    header: &Header<'_>,
    layout: Layout,
) -> Result<PlyView<'a>, PlyError> {
    let data = &bytes[header.length..];
    let big_endian = match header.encoding {
        Encoding::Ascii => return pack_text(data, header, &layout),
        Encoding::LittleEndian => false,
        Encoding::BigEndian => true,
    };
    let mut rows = Binary { data, big_endian };
    for element in &header.before {
        rows.skip(element).ok_or_else(|| PlyError::ElementCut { name: quoted(element.name) })?;
    }
    let vertex = &header.vertex;
    let Some(stride) = vertex.stride() else {
        return pack_binary(rows, vertex, &layout);
    };
    let complete = (rows.data.len() / stride) as u64;
    if complete < vertex.count {
        return Err(PlyError::TooLittleData { claimed: vertex.count, complete });
    }
    let mut offset = 0;
    let fields: Vec<Field> = vertex
        .properties
        .iter()
        .filter_map(|property| match property.kind {
            Kind::Scalar(scalar) => {
                let field = Field { offset, scalar };
                offset += scalar.size();
                Some(field)
            }
            Kind::List { .. } => None,
        })
        .collect();
    let fields = layout.properties.iter().map(|&index| fields[index]).collect();
    // At most as many rows as the data holds, so this fits a usize.
    let length = vertex.count as usize * stride;
    Ok(PlyView::new(layout.degree, Cow::Borrowed(&rows.data[..length]), stride, big_endian, fields))
}

/// Binary rows not yet read.
struct Binary<'a> {
    data: &'a [u8],
    big_endian: bool,
}

impl<'a> Binary<'a> {
    /// Passes over all rows of `element`; none if the data ends before.
    fn skip(&mut self, element: &Element<'_>) -> Option<()> {
        if let Some(stride) = element.stride() {
            let length = element.count.checked_mul(stride as u64)?;
            self.take(usize::try_from(length).ok()?)?;
            return Some(());
        }
        // Each row takes at least the byte of a list's length: a claimed count ends with the data.
        for _ in 0..element.count {
            for property in &element.properties {
                self.value(property.kind)?;
            }
        }
        Some(())
    }

    /// The bytes of a number; passes over a list and gives none of it.
    fn value(&mut self, kind: Kind) -> Option<&'a [u8]> {
        match kind {
            Kind::Scalar(scalar) => self.take(scalar.size()),
            Kind::List { length, item } => {
                let length = self.length(length)?;
                self.take(usize::try_from(length).ok()?.checked_mul(item.size())?)?;
                Some(&[])
            }
        }
    }

    fn length(&mut self, scalar: Scalar) -> Option<u64> {
        let bytes = self.take(scalar.size())?;
        let mut wide = [0; 8];
        if self.big_endian {
            wide.iter_mut().zip(bytes.iter().rev()).for_each(|(wide, &byte)| *wide = byte);
        } else {
            wide.iter_mut().zip(bytes).for_each(|(wide, &byte)| *wide = byte);
        }
        let length = u64::from_le_bytes(wide);
        let negative = match scalar {
            Scalar::I8 => length > i8::MAX as u64,
            Scalar::I16 => length > i16::MAX as u64,
            Scalar::I32 => length > i32::MAX as u64,
            _ => false,
        };
        (!negative).then_some(length)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.data.split_at_checked(length)?;
        self.data = rest;
        Some(taken)
    }
}

/// Copies the properties of the layout out of rows that contain lists.
fn pack_binary<'a>(
    mut rows: Binary<'_>,
    vertex: &Element<'_>,
    layout: &Layout,
) -> Result<PlyView<'a>, PlyError> {
    let mut packed = Packed::new(vertex, layout, rows.data.len());
    for complete in 0..vertex.count {
        for (property, slot) in vertex.properties.iter().zip(&packed.slots) {
            let cut = PlyError::TooLittleData { claimed: vertex.count, complete };
            let value = rows.value(property.kind).ok_or(cut)?;
            if let Some(slot) = *slot {
                packed.row[slot][..value.len()].copy_from_slice(value);
            }
        }
        packed.push();
    }
    Ok(packed.into_view(layout, rows.big_endian))
}

fn pack_text<'a>(data: &[u8], header: &Header<'_>, layout: &Layout) -> Result<PlyView<'a>, PlyError> {
    let mut words = Words { data };
    for element in &header.before {
        words.skip(element).ok_or_else(|| PlyError::ElementCut { name: quoted(element.name) })?;
    }
    let vertex = &header.vertex;
    let mut packed = Packed::new(vertex, layout, words.data.len());
    packed.scalars.iter_mut().for_each(|scalar| *scalar = Scalar::F32);
    for row in 0..vertex.count {
        for (property, slot) in vertex.properties.iter().zip(&packed.slots) {
            let cut = PlyError::TooLittleData { claimed: vertex.count, complete: row };
            match (property.kind, *slot) {
                (Kind::Scalar(scalar), Some(slot)) => {
                    let word = words.next().ok_or(cut)?;
                    let value = parse_number(word, scalar)
                        .ok_or_else(|| PlyError::Number { row, text: quoted(word) })?;
                    packed.row[slot][..4].copy_from_slice(&value.to_le_bytes());
                }
                (kind, _) => words.skip_value(kind).ok_or(cut)?,
            }
        }
        packed.push();
    }
    Ok(packed.into_view(layout, false))
}

fn parse_number(word: &[u8], scalar: Scalar) -> Option<f32> {
    let word = std::str::from_utf8(word).ok()?;
    match scalar {
        Scalar::F32 => word.parse().ok(),
        // Any whole number of 32 bits is exact as f64, so the value is rounded once.
        _ => word.parse::<f64>().ok().map(|value| value as f32),
    }
}

/// Words of a text body, whatever the line breaks are.
struct Words<'a> {
    data: &'a [u8],
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let start = self.data.iter().position(|byte| !byte.is_ascii_whitespace())?;
        let word = &self.data[start..];
        let end = word.iter().position(u8::is_ascii_whitespace).unwrap_or(word.len());
        self.data = &word[end..];
        Some(&word[..end])
    }

    fn skip(&mut self, element: &Element<'_>) -> Option<()> {
        if element.properties.is_empty() {
            return Some(());
        }
        for _ in 0..element.count {
            for property in &element.properties {
                self.skip_value(property.kind)?;
            }
        }
        Some(())
    }

    fn skip_value(&mut self, kind: Kind) -> Option<()> {
        let word = self.next()?;
        if let Kind::List { .. } = kind {
            let length: u64 = std::str::from_utf8(word).ok()?.parse().ok()?;
            for _ in 0..length {
                self.next()?;
            }
        }
        Some(())
    }
}

/// Rows of nothing but the properties of a layout, in its order; grows with the data.
struct Packed {
    /// For each vertex property its place in `row`.
    slots: Vec<Option<usize>>,
    /// Types of the values in `row`.
    scalars: Vec<Scalar>,
    /// Bytes of one value each, as many as its type has.
    row: Vec<[u8; 8]>,
    rows: Vec<u8>,
}

impl Packed {
    fn new(vertex: &Element<'_>, layout: &Layout, available: usize) -> Self {
        let mut slots = vec![None; vertex.properties.len()];
        for (slot, &property) in layout.properties.iter().enumerate() {
            slots[property] = Some(slot);
        }
        let scalars: Vec<_> = layout
            .properties
            .iter()
            .map(|&property| match vertex.properties[property].kind {
                Kind::Scalar(scalar) | Kind::List { item: scalar, .. } => scalar,
            })
            .collect();
        // A packed row is hardly longer than what it was read from, whatever the header claims.
        let likely = (vertex.count as usize).saturating_mul(scalars.len() * 4).min(available);
        Self { slots, row: vec![[0; 8]; scalars.len()], scalars, rows: Vec::with_capacity(likely) }
    }

    fn push(&mut self) {
        for (value, scalar) in self.row.iter().zip(&self.scalars) {
            self.rows.extend_from_slice(&value[..scalar.size()]);
        }
    }

    fn into_view<'a>(self, layout: &Layout, big_endian: bool) -> PlyView<'a> {
        let mut stride = 0;
        let fields = self
            .scalars
            .iter()
            .map(|&scalar| {
                let field = Field { offset: stride, scalar };
                stride += scalar.size();
                field
            })
            .collect();
        PlyView::new(layout.degree, Cow::Owned(self.rows), stride, big_endian, fields)
    }
}
