//! PLY files of Gaussians: read in place where the rows allow it, written in the reference's order.

mod header;
mod rows;
#[cfg(test)]
mod tests;
mod view;
mod write;

pub use view::PlyView;
pub use write::write_ply;

/// Longest header that is read, in bytes. A cloud of degree 3 with normals needs about 1,600.
pub const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Which files a [`PlyReader`] takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlyDialect {
    /// Every PLY 1.0 whose vertices have the properties of a Gaussian: ascii and binary of both byte
    /// orders, all scalar types, comments, further elements and properties, lists, CRLF.
    #[default]
    Lenient,
    /// What the reference module takes (`vectors/spz` README, PLY reader), less what it turns into a
    /// payload that nothing can decode.
    Reference,
}

/// Why a file is no cloud of Gaussians.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlyError {
    #[error("not a PLY file: the first line is not `ply`")]
    NotPly,
    #[error("the PLY header has no `end_header` line")]
    HeaderUnended,
    #[error("the PLY header is longer than {MAX_HEADER_BYTES} bytes")]
    HeaderTooLong,
    #[error("line {line} of the PLY header, {text:?}: {reason}")]
    HeaderLine { line: usize, text: String, reason: &'static str },
    #[error("the PLY header names no format")]
    NoFormat,
    #[error("the PLY file has no vertices")]
    NoVertices,
    #[error("{text:?} is no number of vertices")]
    VertexCount { text: String },
    #[error("{count} vertices: a cloud has 1 to {} of them", super::MAX_POINTS)]
    PointCount { count: i64 },
    #[error("{name:?} is declared twice")]
    Duplicate { name: String },
    /// A generator whose conversion to splats failed sends the mesh instead (workers.md 1.4).
    #[error("a mesh with {faces} faces, not a cloud of Gaussians: {} missing", names.join(", "))]
    Mesh { faces: u64, names: Vec<&'static str> },
    #[error("the vertices lack {}", names.join(", "))]
    Missing { names: Vec<&'static str> },
    #[error("property {name} is a list, not a number")]
    List { name: String },
    #[error("{count} f_rest properties: 0, 9, 24 or 45 are a full degree")]
    RestCount { count: usize },
    #[error("element {name:?} before the vertices is cut short")]
    ElementCut { name: String },
    #[error("too little data: {claimed} vertices claimed, {complete} complete")]
    TooLittleData { claimed: u64, complete: u64 },
    #[error("vertex {row}: {text:?} is no number")]
    Number { row: u64, text: String },
}

/// Reads PLY files. Never allocates for vertices that are only claimed.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlyReader {
    dialect: PlyDialect,
}

impl PlyReader {
    pub const fn new(dialect: PlyDialect) -> Self {
        Self { dialect }
    }

    /// Reads a header and finds the rows; binary rows of a fixed length stay where they are.
    ///
    /// Bytes after the last vertex are ignored, as the reference does.
    pub fn read<'a>(&self, bytes: &'a [u8]) -> Result<PlyView<'a>, PlyError> {
        let header = match header::parse(bytes, self.dialect) {
            Ok(header) => header,
            // A mesh has lines the reference does not know; the caller wants to hear that it is a mesh.
            Err(strict) if self.dialect == PlyDialect::Reference => {
                let mesh = header::parse(bytes, PlyDialect::Lenient).and_then(|header| view::layout(&header));
                return Err(match mesh {
                    Err(mesh @ PlyError::Mesh { .. }) => mesh,
                    _ => strict,
                });
            }
            Err(error) => return Err(error),
        };
        let layout = view::layout(&header)?;
        rows::locate(bytes, &header, layout)
    }
}

/// `text` for a message: cut, and with whatever is not UTF-8 replaced.
fn quoted(text: &[u8]) -> String {
    const LONGEST: usize = 80;
    let mut quoted = String::from_utf8_lossy(&text[..text.len().min(LONGEST)]).into_owned();
    if text.len() > LONGEST {
        quoted.push('…');
    }
    quoted
}
