//! Bytes as JSON-RPC writes them.

/// Lower case, with `0x`.
pub(super) fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(2 + bytes.len() * 2);
    text.push_str("0x");
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from(DIGITS[usize::from(nibble)]));
        }
    }
    text
}

/// Either case, with `0x` or, as the Python SDK sends the parameters of a runtime call, without.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let (pairs, odd) = text.strip_prefix("0x").unwrap_or(text).as_bytes().as_chunks::<2>();
    if !odd.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?)).collect()
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_may_be_missing_and_nothing_else() {
        assert_eq!(decode("0x00fF"), Some(vec![0, 255]));
        assert_eq!(decode("1100"), Some(vec![17, 0]));
        assert_eq!(decode(""), Some(vec![]));
        assert_eq!(encode(&[0, 255]), "0x00ff");
        for bad in ["0x0", "0xzz", "0X00", "é", " 00 "] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
