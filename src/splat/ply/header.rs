//! The text part of a PLY file.

use std::collections::HashSet;

use super::{MAX_HEADER_BYTES, PlyDialect, PlyError, quoted};

/// A scalar type of the format, under any of its two names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    F32,
    F64,
}

impl Scalar {
    fn parse(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"char" | b"int8" => Self::I8,
            b"uchar" | b"uint8" => Self::U8,
            b"short" | b"int16" => Self::I16,
            b"ushort" | b"uint16" => Self::U16,
            b"int" | b"int32" => Self::I32,
            b"uint" | b"uint32" => Self::U32,
            b"float" | b"float32" => Self::F32,
            b"double" | b"float64" => Self::F64,
            _ => return None,
        })
    }

    pub(super) const fn size(self) -> usize {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::I16 | Self::U16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Scalar(Scalar),
    List { length: Scalar, item: Scalar },
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Property<'a> {
    pub(super) name: &'a [u8],
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) struct Element<'a> {
    pub(super) name: &'a [u8],
    pub(super) count: u64,
    pub(super) properties: Vec<Property<'a>>,
}

impl Element<'_> {
    /// Bytes of a binary row, unless a list makes them vary.
    pub(super) fn stride(&self) -> Option<usize> {
        self.properties.iter().try_fold(0, |sum, property| match property.kind {
            Kind::Scalar(scalar) => Some(sum + scalar.size()),
            Kind::List { .. } => None,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Ascii,
    LittleEndian,
    BigEndian,
}

#[derive(Debug)]
pub(super) struct Header<'a> {
    pub(super) encoding: Encoding,
    /// Elements whose rows lie before those of `vertex`.
    pub(super) before: Vec<Element<'a>>,
    /// Its `count` is 1 to `MAX_POINTS`; no two of its properties share a name.
    pub(super) vertex: Element<'a>,
    /// Rows of the elements a mesh has and a cloud of Gaussians has not.
    pub(super) faces: u64,
    /// Where the rows begin.
    pub(super) length: usize,
}

pub(super) fn parse(bytes: &[u8], dialect: PlyDialect) -> Result<Header<'_>, PlyError> {
    let mut lines = Lines { bytes, at: 0, number: 0 };
    match dialect {
        PlyDialect::Lenient => lenient(&mut lines),
        PlyDialect::Reference => reference(&mut lines),
    }
}

struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
    number: usize,
}

impl<'a> Lines<'a> {
    /// The next line without its `\n`, which every header line has, the last one too.
    fn next(&mut self) -> Result<&'a [u8], PlyError> {
        let bounded = &self.bytes[..self.bytes.len().min(MAX_HEADER_BYTES)];
        let rest = &bounded[self.at..];
        let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
            return Err(if self.bytes.len() > MAX_HEADER_BYTES {
                PlyError::HeaderTooLong
            } else {
                PlyError::HeaderUnended
            });
        };
        self.at += length + 1;
        self.number += 1;
        Ok(&rest[..length])
    }

    fn refuse(&self, line: &[u8], reason: &'static str) -> PlyError {
        PlyError::HeaderLine { line: self.number, text: quoted(line), reason }
    }
}

/// What the reference module reads, line by line and byte by byte (`vectors/spz` README, PLY reader).
fn reference<'a>(lines: &mut Lines<'a>) -> Result<Header<'a>, PlyError> {
    if !lines.bytes.starts_with(b"ply") || lines.next()? != b"ply" {
        return Err(PlyError::NotPly);
    }
    let line = lines.next()?;
    if line != b"format binary_little_endian 1.0" {
        return Err(lines.refuse(line, "the reference reads `format binary_little_endian 1.0` only"));
    }
    let line = lines.next()?;
    let count = line
        .strip_prefix(b"element vertex ")
        .ok_or_else(|| lines.refuse(line, "the reference wants `element vertex N` as the third line"))?;
    let mut vertex = Element { name: b"vertex", count: vertex_count(count)?, properties: Vec::new() };
    loop {
        let line = lines.next()?;
        if line == b"end_header" {
            break;
        }
        let name = line.strip_prefix(b"property float ").ok_or_else(|| {
            lines.refuse(line, "the reference reads only `property float NAME` before `end_header`")
        })?;
        vertex.properties.push(Property { name, kind: Kind::Scalar(Scalar::F32) });
    }
    refuse_duplicates(&vertex)?;
    Ok(Header { encoding: Encoding::LittleEndian, before: Vec::new(), vertex, faces: 0, length: lines.at })
}

/// Any PLY header of version 1.0.
fn lenient<'a>(lines: &mut Lines<'a>) -> Result<Header<'a>, PlyError> {
    if !lines.bytes.starts_with(b"ply") || lines.next()?.trim_ascii_end() != b"ply" {
        return Err(PlyError::NotPly);
    }
    let mut encoding = None;
    let mut elements: Vec<Element<'a>> = Vec::new();
    loop {
        let line = lines.next()?;
        let (keyword, rest) = split_word(line);
        match keyword {
            b"" | b"comment" | b"obj_info" => {}
            b"format" => {
                if encoding.is_some() {
                    return Err(lines.refuse(line, "the format is given twice"));
                }
                encoding = Some(parse_format(rest).ok_or_else(|| {
                    lines.refuse(
                        line,
                        "not one of the formats ascii, binary_little_endian, binary_big_endian 1.0",
                    )
                })?);
            }
            b"element" => {
                let (name, count) = split_word(rest);
                let count = if name == b"vertex" {
                    if elements.iter().any(|element| element.name == name) {
                        return Err(PlyError::Duplicate { name: "element vertex".into() });
                    }
                    vertex_count(count)?
                } else {
                    parse_integer(count)
                        .and_then(|count| u64::try_from(count).ok())
                        .ok_or_else(|| lines.refuse(line, "no count of rows"))?
                };
                elements.push(Element { name, count, properties: Vec::new() });
            }
            b"property" => {
                let Some(element) = elements.last_mut() else {
                    return Err(lines.refuse(line, "a property before any element"));
                };
                let property = parse_property(rest)
                    .ok_or_else(|| lines.refuse(line, "no type and name of a property"))?;
                element.properties.push(property);
            }
            b"end_header" if rest.is_empty() => break,
            _ => return Err(lines.refuse(line, "no line of a PLY header")),
        }
    }
    let encoding = encoding.ok_or(PlyError::NoFormat)?;
    let faces = elements
        .iter()
        .filter(|element| matches!(element.name, b"face" | b"tristrips" | b"tri_strips"))
        .fold(0_u64, |sum, element| sum.saturating_add(element.count));
    let at = elements.iter().position(|element| element.name == b"vertex").ok_or(PlyError::NoVertices)?;
    elements.truncate(at + 1);
    let vertex = elements.pop().ok_or(PlyError::NoVertices)?;
    refuse_duplicates(&vertex)?;
    Ok(Header { encoding, before: elements, vertex, faces, length: lines.at })
}

/// Splits off the first word; the rest comes without blanks at either end.
fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    let text = text.trim_ascii();
    let end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
    (&text[..end], text[end..].trim_ascii_start())
}

fn parse_format(text: &[u8]) -> Option<Encoding> {
    let (name, version) = split_word(text);
    if version != b"1.0" {
        return None;
    }
    match name {
        b"ascii" => Some(Encoding::Ascii),
        b"binary_little_endian" => Some(Encoding::LittleEndian),
        b"binary_big_endian" => Some(Encoding::BigEndian),
        _ => None,
    }
}

fn parse_property(text: &[u8]) -> Option<Property<'_>> {
    let (first, rest) = split_word(text);
    let (kind, name) = if first == b"list" {
        let (length, rest) = split_word(rest);
        let (item, name) = split_word(rest);
        let length = Scalar::parse(length)?;
        if matches!(length, Scalar::F32 | Scalar::F64) {
            return None;
        }
        (Kind::List { length, item: Scalar::parse(item)? }, name)
    } else {
        (Kind::Scalar(Scalar::parse(first)?), rest)
    };
    // A blank inside a name stays part of it, as the reference has it.
    (!name.is_empty()).then_some(Property { name, kind })
}

/// The number at the start of `text`; blanks and a sign before it and anything after it are allowed, as
/// the reference reads the number of vertices. Saturates.
fn parse_integer(text: &[u8]) -> Option<i64> {
    // C's isspace, which counts the vertical tab.
    let blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let start = text.iter().position(|byte| !blank(byte))?;
    let (negative, digits) = match &text[start..] {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    if !digits.first()?.is_ascii_digit() {
        return None;
    }
    let value = digits
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0_i64, |value, byte| value.saturating_mul(10).saturating_add(i64::from(byte - b'0')));
    Some(if negative { -value } else { value })
}

fn vertex_count(text: &[u8]) -> Result<u64, PlyError> {
    let count = parse_integer(text).ok_or_else(|| PlyError::VertexCount { text: quoted(text) })?;
    match u64::try_from(count) {
        Ok(points) if (1..=u64::from(crate::splat::MAX_POINTS)).contains(&points) => Ok(points),
        _ => Err(PlyError::PointCount { count }),
    }
}

/// The reference miscounts the row of such a file and reads past its end, so nobody may accept it.
fn refuse_duplicates(vertex: &Element<'_>) -> Result<(), PlyError> {
    let mut seen = HashSet::with_capacity(vertex.properties.len());
    match vertex.properties.iter().find(|property| !seen.insert(property.name)) {
        Some(property) => Err(PlyError::Duplicate { name: quoted(property.name) }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_as_c_reads_them() {
        for (text, value) in [
            (&b"3"[..], Some(3)),
            (b"  +3abc", Some(3)),
            (b"\t\x0b 12 34", Some(12)),
            (b"-1", Some(-1)),
            (b"-0", Some(0)),
            (b"0x10", Some(0)),
            (b"99999999999999999999", Some(i64::MAX)),
            (b"", None),
            (b" ", None),
            (b"+", None),
            (b"+-3", None),
            (b"abc", None),
        ] {
            assert_eq!(parse_integer(text), value, "{}", String::from_utf8_lossy(text));
        }
    }
}
