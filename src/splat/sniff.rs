//! What a body is, told from its first bytes.

/// Kind of a generator's answer (workers.md 1.4, 1.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Magic {
    /// `ply` and a line end.
    Ply,
    /// `28 b5 2f fd`: a zstd frame, as the subnet's own SPZ codec writes it.
    ZstdSpz,
    /// `1f 8b`: gzip, as upstream SPZ writes it; the subnet cannot read it.
    GzipSpz,
    /// A web page, usually an error of a proxy.
    Html,
    /// A JSON object or array, usually an error of the server.
    Json,
    /// No bytes: the generator declined.
    Empty,
    Unknown,
}

/// Tells what `bytes` begin with. Looks at a few bytes only and promises nothing about the rest.
pub fn sniff(bytes: &[u8]) -> Magic {
    if bytes.is_empty() {
        return Magic::Empty;
    }
    if bytes.starts_with(b"ply\n") || bytes.starts_with(b"ply\r\n") {
        return Magic::Ply;
    }
    if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Magic::ZstdSpz;
    }
    if bytes.starts_with(&[0x1f, 0x8b]) {
        return Magic::GzipSpz;
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = &text[..text.len().min(1024)];
    match text.trim_ascii_start() {
        [b'{' | b'[', ..] => Magic::Json,
        page if [&b"<!doctype html"[..], b"<html"].iter().any(|tag| starts_with_caseless(page, tag)) => {
            Magic::Html
        }
        _ => Magic::Unknown,
    }
}

fn starts_with_caseless(text: &[u8], prefix: &[u8]) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_decide() {
        for (bytes, magic) in [
            (&b""[..], Magic::Empty),
            (b"ply\nformat", Magic::Ply),
            (b"ply\r\nformat", Magic::Ply),
            (b"plywood", Magic::Unknown),
            (b"PLY\n", Magic::Unknown),
            (b"\x28\xb5\x2f\xfd\x20", Magic::ZstdSpz),
            (b"\x1f\x8b\x08", Magic::GzipSpz),
            (b"NGSP\x02\0\0\0", Magic::Unknown),
            (b"\n  <!DOCTYPE html><html>", Magic::Html),
            (b"<HTML>", Magic::Html),
            (b"<htm", Magic::Unknown),
            (b" {\"detail\":\"Generation failed\"}", Magic::Json),
            (b"\xef\xbb\xbf[]", Magic::Json),
            (b"Internal Server Error", Magic::Unknown),
            (b"   ", Magic::Unknown),
        ] {
            assert_eq!(sniff(bytes), magic, "{bytes:?}");
        }
    }
}
